"""Oracles of Adam and of Adam with weight decay, decoupled or not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, zeros


def adam_direction(
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    t: int,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    eps_root: float,
) -> np.ndarray:
    """Advance the moments m and v of one array in place, and return what Adam multiplies by the step size.

    Lines 3 to 6 of the loop of Kingma & Ba 2015, Algorithm 1, and the quotient of its last line.
    """
    direction = np.zeros_like(g)
    for i in elements(g):
        m[i] = beta1 * m[i] + (1 - beta1) * g[i]
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] ** 2
        m_hat = m[i] / (1 - beta1**t)
        v_hat = v[i] / (1 - beta2**t)
        direction[i] = m_hat / (math.sqrt(v_hat + eps_root) + eps)
    return direction


def oracle_adam(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> Trajectory:
    """Adam.

    Source: Kingma & Ba 2015, Algorithm 1. arXiv:1412.6980.
    Symbols: θ parameters, g gradient, α step size, β1 β2 decays, ε = eps, m v moments, hats are bias-corrected.

        m_t = β1 m_{t-1} + (1 - β1) g_t
        v_t = β2 v_{t-1} + (1 - β2) g_t²
        m̂_t = m_t / (1 - β1^t)
        v̂_t = v_t / (1 - β2^t)
        θ_t = θ_{t-1} - α m̂_t / (√(v̂_t + eps_root) + ε)

    Deviation: eps_root, which the paper does not have, is 0 by default. It is added to the bias-corrected second
    moment, inside the root.
    """
    return oracle_l2_adam(params, grads, lr, beta1=beta1, beta2=beta2, eps=eps, eps_root=eps_root, weight_decay=0.0)


def oracle_l2_adam(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 1e-2,
) -> Trajectory:
    """Adam with L2 regularization: the decay is part of the gradient, and so of both moments.

    Source: Loshchilov & Hutter 2019, Algorithm 2 with the line 6 marked for L2. arXiv:1711.05101.
    Symbols: as in ``oracle_adam``; λ = weight_decay.

        g_t = ∇f_t(θ_{t-1}) + λ θ_{t-1},  then Adam
    """
    theta, m, v = copies(params), zeros(params), zeros(params)
    hyper = {"beta1": beta1, "beta2": beta2, "eps": eps, "eps_root": eps_root}
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                g[name][i] = g[name][i] + weight_decay * theta[name][i]
            direction = adam_direction(g[name], m[name], v[name], t, **hyper)
            for i in elements(theta[name]):
                theta[name][i] = theta[name][i] - alpha * direction[i]
        trajectory.append(copies(theta))
    return trajectory


def oracle_adamw(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 1e-2,
) -> Trajectory:
    """Adam with decoupled weight decay: the decay acts on the parameters, outside both moments.

    Source: Loshchilov & Hutter 2019, Algorithm 2, line 12. arXiv:1711.05101.
    Symbols: as in ``oracle_adam``; λ = weight_decay.

        θ_t = θ_{t-1} - α_t (m̂_t / (√(v̂_t + eps_root) + ε) + λ θ_{t-1})

    Deviation: the paper splits the rate into a constant α and a schedule multiplier η_t and writes
    θ_t = θ_{t-1} - η_t (α m̂_t / (√v̂_t + ε) + λ θ_{t-1}), so that its decay per step is η_t λ, free of α. Here one
    lr = η_t α is given, and the decay per step is lr λ. The paper's form is this one with λ / α for λ.
    """
    theta, m, v = copies(params), zeros(params), zeros(params)
    hyper = {"beta1": beta1, "beta2": beta2, "eps": eps, "eps_root": eps_root}
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in theta:
            direction = adam_direction(g[name], m[name], v[name], t, **hyper)
            for i in elements(theta[name]):
                theta[name][i] = theta[name][i] - alpha * (direction[i] + weight_decay * theta[name][i])
        trajectory.append(copies(theta))
    return trajectory
