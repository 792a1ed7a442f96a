"""Oracles of the rules with moments other than Adam's: of surprise, additive, of differences, of a whole layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .adam_variants import quotient
from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, norm, zeros


def oracle_adabelief(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-16,
    eps_root: float = 1e-16,
    eps_in_mean: bool = True,
) -> Trajectory:
    """AdaBelief.

    Source: Zhuang et al. 2020, AdaBelief Optimizer, Algorithm 2 (arXiv:2010.07468v5); the authors' PyTorch code.
    Symbols: θ parameters, g gradient, α learning rate, m s moments. The paper's one ε is eps and eps_root here.

        m_t = β1 m_{t-1} + (1 - β1) g_t
        s_t = β2 s_{t-1} + (1 - β2) (g_t - m_t)² + ε
        m̂_t = m_t / (1 - β1^t),  ŝ_t = s_t / (1 - β2^t)
        θ_t = θ_{t-1} - α m̂_t / (√ŝ_t + ε)

    Deviations: none with eps = eps_root. Where eps_in_mean is False, as in the paper's appendix, s_t goes without ε,
    and the last line has √(ŝ_t + ε).
    """
    theta, m, s = copies(params), zeros(params), zeros(params)
    stored, read = (eps_root, 0.0) if eps_in_mean else (0.0, eps_root)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                s[name][i] = beta2 * s[name][i] + (1 - beta2) * (g[name][i] - m[name][i]) ** 2 + stored
                m_hat, s_hat = m[name][i] / (1 - beta1**t), s[name][i] / (1 - beta2**t)
                theta[name][i] = theta[name][i] - alpha * quotient(m_hat, math.sqrt(s_hat + read) + eps)
        trajectory.append(copies(theta))
    return trajectory


def oracle_yogi(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-3,
    eps_root: float = 0.0,
    initial_mu: float = 0.0,
    initial_nu: float = 1e-6,
    debias: bool = False,
) -> Trajectory:
    """Yogi.

    Source: Zaheer, Reddi, Sachan, Kale & Kumar 2018, Adaptive Methods for Nonconvex Optimization, Algorithm 2.
    Symbols: x parameters, g gradient, η learning rate, m v moments.

        m_t = β1 m_{t-1} + (1 - β1) g_t
        v_t = v_{t-1} - (1 - β2) sign(v_{t-1} - g_t²) g_t²
        x_{t+1} = x_t - η_t m_t / (√v_t + ε)

    Deviations: v_0 is initial_nu, m_0 is initial_mu. debias divides both moments by 1 - β^t (TensorFlow
    Addons, optax). eps_root is not in the paper.
    """
    x, m, v = copies(params), zeros(params), zeros(params)
    for name in x:
        m[name][...], v[name][...] = initial_mu, initial_nu
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in x:
            for i in elements(x[name]):
                square = g[name][i] ** 2
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                sign = (v[name][i] > square) - 1.0 * (v[name][i] < square)
                v[name][i] = v[name][i] - (1 - beta2) * sign * square
                m_hat = m[name][i] / (1 - beta1**t) if debias else m[name][i]
                v_hat = v[name][i] / (1 - beta2**t) if debias else v[name][i]
                x[name][i] = x[name][i] - eta * quotient(m_hat, math.sqrt(v_hat + eps_root) + eps)
        trajectory.append(copies(x))
    return trajectory


def oracle_adan(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.98,
    beta2: float = 0.92,
    beta3: float = 0.99,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    debias: bool = True,
) -> Trajectory:
    """Adan.

    Source: Xie et al. 2022, Adan: Adaptive Nesterov Momentum Algorithm, Algorithm 1 (arXiv:2208.06677), and the
    authors' code, sail-sg/Adan. Symbols: θ parameters, g gradient, η learning rate, λ decay. The paper's β are 1 - beta
    here.

        m_k = (1 - β1) m_{k-1} + β1 g_k
        v_k = (1 - β2) v_{k-1} + β2 (g_k - g_{k-1})
        n_k = (1 - β3) n_{k-1} + β3 (g_k + (1 - β2)(g_k - g_{k-1}))²
        η_k = η / (√n_k + ε)
        θ_{k+1} = (θ_k - η_k (m_k + (1 - β2) v_k)) / (1 + λ η)

    The first difference is 0. With debias, the authors' code, moments start at 0 and m, v and n are divided by
    1 - (1 - β)^k; without, the first are m = g, v = 0, n = g², as after a restart in the paper. decoupled is the code's
    no_prox: θ_{k+1} = θ_k - η λ θ_k - η_k (...).

    Deviation: eps_root is not in the paper.
    """
    theta, m, v, n = copies(params), zeros(params), zeros(params), zeros(params)
    b1, b2, b3 = 1 - beta1, 1 - beta2, 1 - beta3
    before = copies(grads[0])
    trajectory = []
    for k, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, k)
        for name in theta:
            for i in elements(theta[name]):
                difference = g[name][i] - before[name][i]
                square = (g[name][i] + (1 - b2) * difference) ** 2
                if k == 1 and not debias:
                    m[name][i], n[name][i] = g[name][i], square
                else:
                    m[name][i] = (1 - b1) * m[name][i] + b1 * g[name][i]
                    n[name][i] = (1 - b3) * n[name][i] + b3 * square
                v[name][i] = (1 - b2) * v[name][i] + b2 * difference
                c1, c2, c3 = (1 - beta**k if debias else 1.0 for beta in (beta1, beta2, beta3))
                ahead = m[name][i] / c1 + (1 - b2) * v[name][i] / c2
                step = eta * quotient(ahead, math.sqrt(n[name][i] / c3 + eps_root) + eps)
                if decoupled:
                    theta[name][i] = theta[name][i] - eta * weight_decay * theta[name][i] - step
                else:
                    theta[name][i] = (theta[name][i] - step) / (1 + weight_decay * eta)
        before = g
        trajectory.append(copies(theta))
    return trajectory


def oracle_novograd(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.95,
    beta2: float = 0.98,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 0.0,
    averaging: bool = False,
) -> Trajectory:
    """NovoGrad.

    Source: Ginsburg et al. 2019, Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep
    Networks, Algorithm 1. arXiv:1905.11286. Symbols: w weights of layer l, g gradient, λ learning rate, d decay.

        v_1 = ‖g_1‖²,  v_t = β2 v_{t-1} + (1 - β2) ‖g_t‖²
        m_1 = g_1 / √v_1 + d w_1,  m_t = β1 m_{t-1} + (g_t / (√v_t + ε) + d w_t)
        w_{t+1} = w_t - λ_t m_t

    Deviations: ε is added at the first step, too. averaging multiplies the second term of m_t by 1 - β1 (the authors'
    grad_averaging). eps_root is not in the paper.
    """
    w, m = copies(params), zeros(params)
    v = dict.fromkeys(w, 0.0)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, lam = copies(grad), lr_at(lr, t)
        for name in w:
            square = norm(g[name]) ** 2
            v[name] = square if t == 1 else beta2 * v[name] + (1 - beta2) * square
            for i in elements(w[name]):
                term = quotient(g[name][i], math.sqrt(v[name] + eps_root) + eps) + weight_decay * w[name][i]
                m[name][i] = beta1 * m[name][i] + ((1 - beta1) * term if averaging else term)
                w[name][i] = w[name][i] - lam * m[name][i]
        trajectory.append(copies(w))
    return trajectory
