"""Oracles of Adam's variants: another momentum, another norm, another quotient; the moments are Adam's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, norm, zeros


def quotient(above: float, below: float) -> float:
    """Return ``above / below``, and 0 where ``below`` is 0: the rules' guard, which no paper has."""
    return above / below if below != 0 else 0.0


def oracle_nadam(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    warmup: float = 0.5,
    momentum_decay: float = 0.004,
    weight_decay: float = 0.0,
) -> Trajectory:
    """NAdam; with a weight decay other than 0, NAdamW.

    Source: Dozat 2016, Incorporating Nesterov Momentum into Adam, the technical report, Algorithm 8; its schedule of
    the momentum is the experiments': μ_t = μ (1 - 0.5 · 0.96^{t/250}).
    Symbols: θ parameters, g gradient, η learning rate, μ = beta1, ν = beta2, m n moments.

        ĝ_t = g_t / (1 - Π_{i≤t} μ_i)
        m_t = μ_t m_{t-1} + (1 - μ_t) g_t
        m̂_t = m_t / (1 - Π_{i≤t+1} μ_i)
        n_t = ν n_{t-1} + (1 - ν) g_t²
        n̂_t = n_t / (1 - ν^t)
        m̄_t = (1 - μ_t) ĝ_t + μ_{t+1} m̂_t
        θ_t = θ_{t-1} - η m̄_t / (√n̂_t + ε)

    Deviations: eps_root is not in the paper. warmup stands for 0.5, momentum_decay for 1/250. The workshop paper's
    Algorithm 2 has n̂_t = ν n_t / (1 - ν^t), without a reason.
    """
    theta, m, n = copies(params), zeros(params), zeros(params)

    def mu(t: int) -> float:
        return beta1 * (1 - warmup * 0.96 ** (t * momentum_decay))

    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        product = math.prod(mu(i) for i in range(1, t + 1))
        for name in theta:
            for i in elements(theta[name]):
                g_hat = g[name][i] / (1 - product)
                m[name][i] = mu(t) * m[name][i] + (1 - mu(t)) * g[name][i]
                m_hat = m[name][i] / (1 - product * mu(t + 1))
                n[name][i] = beta2 * n[name][i] + (1 - beta2) * g[name][i] ** 2
                n_hat = n[name][i] / (1 - beta2**t)
                m_bar = (1 - mu(t)) * g_hat + mu(t + 1) * m_hat
                direction = quotient(m_bar, math.sqrt(n_hat + eps_root) + eps)
                theta[name][i] = theta[name][i] - eta * (direction + weight_decay * theta[name][i])
        trajectory.append(copies(theta))
    return trajectory


def oracle_amsgrad(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    debias: str = "after",
) -> Trajectory:
    """AMSGrad.

    Source: Reddi, Kale & Kumar 2018, On the Convergence of Adam and Beyond, Algorithm 2.
    Symbols: x parameters, g gradient, α learning rate, m v moments, v̂ the largest v so far.

        m_t = β1 m_{t-1} + (1 - β1) g_t
        v_t = β2 v_{t-1} + (1 - β2) g_t²
        v̂_t = max(v̂_{t-1}, v_t)
        x_{t+1} = x_t - α_t m_t / √v̂_t

    Deviations: ε is not in the paper, nor is eps_root. The paper leaves out debiasing for simplicity; that is
    debias="never". "after" has m̂_t = m_t / (1 - β1^t) and v̂_t / (1 - β2^t) in the last line (PyTorch), "before" takes
    the maximum of v_t / (1 - β2^t) (optax).
    """
    x, m, v, v_max = copies(params), zeros(params), zeros(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in x:
            for i in elements(x[name]):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                v[name][i] = beta2 * v[name][i] + (1 - beta2) * g[name][i] ** 2
                m_hat, candidate = m[name][i], v[name][i]
                if debias != "never":
                    m_hat = m_hat / (1 - beta1**t)
                if debias == "before":
                    candidate = candidate / (1 - beta2**t)
                v_max[name][i] = max(v_max[name][i], candidate)
                v_hat = v_max[name][i] / (1 - beta2**t) if debias == "after" else v_max[name][i]
                x[name][i] = x[name][i] - alpha * quotient(m_hat, math.sqrt(v_hat + eps_root) + eps)
        trajectory.append(copies(x))
    return trajectory


def oracle_adamax(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_inside: bool = True,
    weight_decay: float = 0.0,
) -> Trajectory:
    """AdaMax; with a weight decay other than 0, AdaMaxW.

    Source: Kingma & Ba 2015, Adam, Algorithm 2. arXiv:1412.6980; decay as in Loshchilov & Hutter 2019, Algorithm 2.
    Symbols: θ parameters, g gradient, α learning rate, m mean, u infinity norm.

        m_t = β1 m_{t-1} + (1 - β1) g_t
        u_t = max(β2 u_{t-1}, |g_t|)
        θ_t = θ_{t-1} - (α / (1 - β1^t)) m_t / u_t

    Deviations: ε is not in the paper. It is added to |g_t|, inside the maximum, or where eps_inside is False to u_t in
    the last line. The decay is times the learning rate (see ``oracle_adamw``).
    """
    theta, m, u = copies(params), zeros(params), zeros(params)
    inside, outside = (eps, 0.0) if eps_inside else (0.0, eps)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                u[name][i] = max(beta2 * u[name][i], abs(g[name][i]) + inside)
                direction = quotient(m[name][i], u[name][i] + outside) / (1 - beta1**t)
                theta[name][i] = theta[name][i] - alpha * (direction + weight_decay * theta[name][i])
        trajectory.append(copies(theta))
    return trajectory


def oracle_radam(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    threshold: float = 4.0,
) -> Trajectory:
    """RAdam.

    Source: Liu et al. 2020, On the Variance of the Adaptive Learning Rate and Beyond, Algorithm 2. arXiv:1908.03265.
    Symbols: θ parameters, α step size, m v moments, ρ length of the approximated simple moving average, r
    rectification.

        ρ_∞ = 2 / (1 - β2) - 1
        ρ_t = ρ_∞ - 2 t β2^t / (1 - β2^t)
        if ρ_t > 4:  l_t = √((1 - β2^t) / v_t),  r_t = √((ρ_t - 4)(ρ_t - 2) ρ_∞ / ((ρ_∞ - 4)(ρ_∞ - 2) ρ_t))
                     θ_t = θ_{t-1} - α_t r_t m̂_t l_t
        else:        θ_t = θ_{t-1} - α_t m̂_t

    Deviations: threshold stands for 4. 1 / l_t is √(v̂_t + eps_root) + ε, as in Adam; the paper has no ε.
    """
    theta, m, v = copies(params), zeros(params), zeros(params)
    rho_inf = 2 / (1 - beta2) - 1
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        for name in theta:
            for i in elements(theta[name]):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                v[name][i] = beta2 * v[name][i] + (1 - beta2) * g[name][i] ** 2
                step = m[name][i] / (1 - beta1**t)
                if rho > threshold:
                    r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
                    step = r * quotient(step, math.sqrt(v[name][i] / (1 - beta2**t) + eps_root) + eps)
                theta[name][i] = theta[name][i] - alpha * step
        trajectory.append(copies(theta))
    return trajectory


def oracle_laprop(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-15,
    eps_root: float = 0.0,
) -> Trajectory:
    """LaProp.

    Source: Ziyin, Wang & Ueda 2020, LaProp: Separating Momentum and Adaptivity in Adam, Algorithm 1. arXiv:2002.04839.
    Symbols: θ parameters, g gradient, λ learning rate, μ = beta1, ν = beta2, m n moments, c their corrections.

        n_t = ν n_{t-1} + (1 - ν) g_t²,                    c_n = 1 - ν^t
        m_t = μ m_{t-1} + (1 - μ) g_t / (√(n_t / c_n) + ε),  c_m = 1 - μ^t
        θ_t = θ_{t-1} - λ_t m_t / c_m

    Deviation: eps_root is not in the paper.
    """
    theta, m, n = copies(params), zeros(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, lam = copies(grad), lr_at(lr, t)
        c_n, c_m = 1 - beta2**t, 1 - beta1**t
        for name in theta:
            for i in elements(theta[name]):
                n[name][i] = beta2 * n[name][i] + (1 - beta2) * g[name][i] ** 2
                normalised = quotient(g[name][i], math.sqrt(n[name][i] / c_n + eps_root) + eps)
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * normalised
                theta[name][i] = theta[name][i] - lam * m[name][i] / c_m
        trajectory.append(copies(theta))
    return trajectory


def oracle_adam_atan2(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    a: float = 4 / math.pi,
    b: float = 1.0,
) -> Trajectory:
    """Adam-atan2.

    Source: Everett et al. 2024, Scaling Exponents Across Parameterizations and Optimizers. arXiv:2407.05872. The
    constants a and b are those of its widespread implementation, lucidrains/adam-atan2-pytorch.
    Symbols: as in ``oracle_adam``.

        θ_t = θ_{t-1} - α a atan2(m̂_t, b √v̂_t)
    """
    theta, m, v = copies(params), zeros(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                v[name][i] = beta2 * v[name][i] + (1 - beta2) * g[name][i] ** 2
                m_hat, v_hat = m[name][i] / (1 - beta1**t), v[name][i] / (1 - beta2**t)
                theta[name][i] = theta[name][i] - alpha * a * math.atan2(m_hat, b * math.sqrt(v_hat))
        trajectory.append(copies(theta))
    return trajectory


def oracle_stable_adamw(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-6,
    eps_root: float = 0.0,
    threshold: float = 1.0,
    weight_decay: float = 0.01,
) -> Trajectory:
    """StableAdamW.

    Source: Wortsman et al. 2023, Stable and low-precision training for large-scale vision-language models, Algorithm 2.
    arXiv:2304.13013. Symbols: θ one parameter tensor, g gradient, α learning rate, λ decay, v u moments, d = threshold.

        β̂1 = β1 (1 - β1^{t-1}) / (1 - β1^t),  β̂2 = β2 (1 - β2^{t-1}) / (1 - β2^t)
        v_t = β̂1 v_{t-1} + (1 - β̂1) g_t
        u_t = β̂2 u_{t-1} + (1 - β̂2) g_t²
        RMS_t = √mean(g_t² / max(u_t, ε²))
        η_t = α_t / max(1, RMS_t / d)
        θ_t = θ_{t-1} - η_t λ θ_{t-1} - η_t v_t / (√u_t + ε)

    Deviations: d is 1 in the paper, and a parameter in the authors' code. eps_root is not in the paper.
    """
    theta, v, u = copies(params), zeros(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        hat1 = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t)
        hat2 = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
        for name in theta:
            ratios = np.zeros_like(theta[name])
            for i in elements(theta[name]):
                v[name][i] = hat1 * v[name][i] + (1 - hat1) * g[name][i]
                u[name][i] = hat2 * u[name][i] + (1 - hat2) * g[name][i] ** 2
                ratios[i] = quotient(g[name][i], math.sqrt(max(u[name][i], eps**2)))
            rms = norm(ratios) / math.sqrt(max(1, theta[name].size))
            eta = alpha / max(1.0, rms / threshold)
            for i in elements(theta[name]):
                direction = quotient(v[name][i], math.sqrt(u[name][i] + eps_root) + eps)
                theta[name][i] = theta[name][i] - eta * weight_decay * theta[name][i] - eta * direction
        trajectory.append(copies(theta))
    return trajectory
