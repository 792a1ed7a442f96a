"""Oracles of the newer relatives of Adam."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .adam_variants import quotient
from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, zeros


def oracle_acprop(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> Trajectory:
    """ACProp.

    Source: Zhuang et al. 2021, Momentum Centering and Asynchronous Update for Adaptive Gradient Methods, ACProp.
    arXiv:2110.05454. Symbols: x parameters, g gradient, α learning rate, m s moments.

        m_t = β1 m_{t-1} + (1 - β1) g_t
        x_t = x_{t-1} - α g_t / (√s_{t-1} + ε)
        s_t = β2 s_{t-1} + (1 - β2) (g_t - m_t)²

    Deviations: ŝ_{t-1} = s_{t-1} / (1 - β2^{t-1}) for s_{t-1}, as in optax. Where s_{t-1} is 0, x stays.
    """
    x, m, s = copies(params), zeros(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in x:
            for i in elements(x[name]):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                if s[name][i] > 0:
                    s_hat = s[name][i] / (1 - beta2 ** (t - 1))
                    x[name][i] = x[name][i] - alpha * g[name][i] / (math.sqrt(s_hat) + eps)
                s[name][i] = beta2 * s[name][i] + (1 - beta2) * (g[name][i] - m[name][i]) ** 2
        trajectory.append(copies(x))
    return trajectory


def oracle_adopt(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.9999,
    eps: float = 1e-6,
    clipping: bool = True,
) -> Trajectory:
    """ADOPT, clipped; without clipping, Algorithm 1.

    Source: Taniguchi et al. 2024, ADOPT: Modified Adam Can Converge with Any β2 with the Optimal Rate, Algorithm 2.
    arXiv:2411.02853. Symbols: θ parameters, g gradient, α learning rate, m v moments, c_t = t^{1/4}.

        v_0 = g_0²
        for t = 1, 2, ...:
            m_t = β1 m_{t-1} + (1 - β1) Clip(g_t / max(√v_{t-1}, ε), c_t)
            θ_t = θ_{t-1} - α_t m_t
            v_t = β2 v_{t-1} + (1 - β2) g_t²

    The gradient of the first call is g_0.
    """
    theta, m, v = copies(params), zeros(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads):
        g, alpha, c = copies(grad), lr_at(lr, t + 1), t**0.25
        for name in theta:
            for i in elements(theta[name]):
                if t == 0:
                    v[name][i] = g[name][i] ** 2
                    continue
                normal = quotient(g[name][i], max(math.sqrt(v[name][i]), eps))
                normal = min(max(normal, -c), c) if clipping else normal
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * normal
                theta[name][i] = theta[name][i] - alpha * m[name][i]
                v[name][i] = beta2 * v[name][i] + (1 - beta2) * g[name][i] ** 2
        trajectory.append(copies(theta))
    return trajectory


def half_life(beta: float) -> float:
    """Return the number of steps after which a decay has become a half; 0 at 0."""
    return math.log(0.5) / math.log(beta) if beta > 0 else 0.0


def risen(start: float, end: float, part: float) -> float:
    """Return the decay whose half-life is a part of the way between those of two others."""
    life = (1 - part) * half_life(start) + part * half_life(end)
    return 0.5 ** (1 / life) if life > 0 else 0.0


def oracle_ademamix(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    beta3: float = 0.9999,
    alpha: float = 5.0,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    warmup: int | None = None,
) -> Trajectory:
    """AdEMAMix.

    Source: Pagliardini, Ablin & Grangier 2024, The AdEMAMix Optimizer, Algorithm 1. arXiv:2409.03137.
    Symbols: θ parameters, g gradient, η learning rate, m1 m2 ν moments, T = warmup, λ decay.

        α^(t) = min(t α / T, α)
        β3^(t) = min(exp(ln β1 ln β3 / ((1 - t/T) ln β3 + (t/T) ln β1)), β3)
        m1 = β1 m1 + (1 - β1) g,  m̂1 = m1 / (1 - β1^t)
        m2 = β3^(t) m2 + (1 - β3^(t)) g
        ν = β2 ν + (1 - β2) g²,  ν̂ = ν / (1 - β2^t)
        θ = θ - η ((m̂1 + α^(t) m2) / (√ν̂ + ε) + λ θ)

    β3^(t) is the decay whose half-life is a part t/T of the way, which this computes.
    """
    theta, m1, m2, nu = copies(params), zeros(params), zeros(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        part = 1.0 if warmup is None else min(t / warmup, 1.0)
        slow = beta3 if part == 1.0 else risen(beta1, beta3, part)
        for name in theta:
            for i in elements(theta[name]):
                m1[name][i] = beta1 * m1[name][i] + (1 - beta1) * g[name][i]
                m2[name][i] = slow * m2[name][i] + (1 - slow) * g[name][i]
                nu[name][i] = beta2 * nu[name][i] + (1 - beta2) * g[name][i] ** 2
                mixture = m1[name][i] / (1 - beta1**t) + part * alpha * m2[name][i]
                direction = quotient(mixture, math.sqrt(nu[name][i] / (1 - beta2**t)) + eps)
                theta[name][i] = theta[name][i] - eta * (direction + weight_decay * theta[name][i])
        trajectory.append(copies(theta))
    return trajectory


def oracle_simplified_ademamix(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.99,
    beta2: float = 0.95,
    alpha: float = 0.0,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    warmup: int | None = None,
    min_beta1: float = 0.9,
) -> Trajectory:
    """Simplified-AdEMAMix.

    Source: Morwani, Vyas, Zhang & Kakade 2025, Connections between Schedule-Free Optimizers, AdEMAMix, and Accelerated
    SGD Variants. arXiv:2502.02431; ε and the warmup of β1 are those of the authors' code.
    Symbols: θ parameters, g gradient, η learning rate, m ν moments, λ decay.

        m_t = β1 m_{t-1} + g_t
        ν_t = β2 ν_{t-1} + (1 - β2) g_t²,  ν̂_t = ν_t / (1 - β2^t)
        θ_t = θ_{t-1} - η ((m_t + α g_t) / (√ν̂_t + ε) + λ θ_{t-1})
    """
    theta, m, nu = copies(params), zeros(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        slow = beta1 if warmup is None or t >= warmup else risen(min_beta1, beta1, t / warmup)
        for name in theta:
            for i in elements(theta[name]):
                m[name][i] = slow * m[name][i] + g[name][i]
                nu[name][i] = beta2 * nu[name][i] + (1 - beta2) * g[name][i] ** 2
                above = m[name][i] + alpha * g[name][i]
                direction = quotient(above, math.sqrt(nu[name][i] / (1 - beta2**t)) + eps)
                theta[name][i] = theta[name][i] - eta * (direction + weight_decay * theta[name][i])
        trajectory.append(copies(theta))
    return trajectory
