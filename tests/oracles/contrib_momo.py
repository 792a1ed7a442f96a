"""Oracles of rules that decide how much of a learning rate to use: MoMo, MoMo-Adam, and Mechanic around momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .adam_variants import quotient
from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, norm, zeros


def product(a: Params, b: Params) -> float:
    """Return the inner product over all elements of all arrays."""
    return sum(float(a[name][i]) * float(b[name][i]) for name in a for i in elements(np.asarray(a[name])))


def modelled(
    x: dict[str, np.ndarray],
    d: dict[str, np.ndarray],
    big_d: dict[str, np.ndarray],
    f: float,
    gamma: float,
    lr: float,
    rho: float,
    decay: float,
    f_star: float,
    adapt: float | None,
) -> float:
    """Move x by MoMo's update, and return the lower bound after it. ``adapt`` is the least lower bound, or None."""
    one = 1 + lr * decay
    length = sum(quotient(d[n][i] ** 2, big_d[n][i]) for n in d for i in elements(d[n]))
    slope = product(d, x)
    if adapt is not None:
        cap = one * f + slope - one * gamma
        if cap < one * rho * f_star:
            f_star = max(cap / (2 * one * rho), adapt)
    tau = min(lr / rho, quotient(max(one * (f - rho * f_star - gamma) + slope, 0.0), length))
    if adapt is not None:
        f_star = max((f + slope - gamma - 0.5 * tau * length) / rho, adapt)
    for n in x:
        for i in elements(x[n]):
            x[n][i] = (x[n][i] - tau * quotient(d[n][i], big_d[n][i])) / one
    return f_star


def oracle_momo(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta: float = 0.9,
    lower_bound: float = 0.0,
    weight_decay: float = 0.0,
    bias_correction: bool = False,
    adapt_lower_bound: bool = False,
    values: Sequence[float] | None = None,
) -> Trajectory:
    """MoMo, on losses ``values``, 1 where none are given.

    Source: Schaipp et al. 2024, MoMo: Momentum Models for Adaptive Learning Rates, MoMo and MoMo* (lower bound).
    arXiv:2305.07583. Symbols: x parameters, g gradient, f loss, α = lr, λ decay, f̄ γ d means.

        f̄_k = (1 - β) f_k + β f̄_{k-1},  γ_k = (1 - β) <g_k, x_k> + β γ_{k-1},  d_k = (1 - β) g_k + β d_{k-1}
        h_k = (1 + λα) (f̄_k - f_* - γ_k) + <d_k, x_k>
        x_{k+1} = (x_k - min(α, (h_k)_+ / ‖d_k‖²) d_k) / (1 + λα)

    Averages start at the first value. With bias_correction they start at 0; then ρ_k = 1 - β^k multiplies f_*, and
    divides α. With adapt_lower_bound f_* is first halved, where h would be negative, and then raised after the step to
    (f̄_k + <d_k, x_k> - γ_k - τ ‖d_k‖²/2) / ρ_k, never below lower_bound.
    """
    x, d = copies(params), zeros(params)
    f, gamma, f_star = 0.0, 0.0, lower_bound
    trajectory = []
    for k, grad in enumerate(grads, start=1):
        g, value = copies(grad), 1.0 if values is None else values[k - 1]
        start = k == 1 and not bias_correction
        f = value if start else (1 - beta) * value + beta * f
        gamma = product(g, x) if start else (1 - beta) * product(g, x) + beta * gamma
        for name in x:
            for i in elements(x[name]):
                d[name][i] = g[name][i] if start else (1 - beta) * g[name][i] + beta * d[name][i]
        rho = 1 - beta**k if bias_correction else 1.0
        ones = {name: np.ones_like(d[name]) for name in d}
        adapt = lower_bound if adapt_lower_bound else None
        f_star = modelled(x, d, ones, f, gamma, lr_at(lr, k), rho, weight_decay, f_star, adapt)
        trajectory.append(copies(x))
    return trajectory


def oracle_momo_adam(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    lower_bound: float = 0.0,
    weight_decay: float = 0.0,
    adapt_lower_bound: bool = False,
    values: Sequence[float] | None = None,
) -> Trajectory:
    """MoMo-Adam, on losses ``values``, 1 where none are given.

    Source: Schaipp et al. 2024, MoMo-Adam. arXiv:2305.07583. Symbols: as in ``oracle_momo``; v second moment.

        v_k = (1 - β2) g_k² + β2 v_{k-1},  D_k = ε + √(v_k / (1 - β2^k))
        f̄_k, γ_k, d_k from 0, with β1
        h_k = (1 + λα) (f̄_k - (1 - β1^k) f_* - γ_k) + <d_k, x_k>
        x_{k+1} = (x_k - min(α / (1 - β1^k), (h_k)_+ / ‖d_k‖²_{D^-1}) D_k^-1 d_k) / (1 + λα)
    """
    x, d, v, big_d = copies(params), zeros(params), zeros(params), zeros(params)
    f, gamma, f_star = 0.0, 0.0, lower_bound
    trajectory = []
    for k, grad in enumerate(grads, start=1):
        g, value = copies(grad), 1.0 if values is None else values[k - 1]
        f = (1 - beta1) * value + beta1 * f
        gamma = (1 - beta1) * product(g, x) + beta1 * gamma
        for name in x:
            for i in elements(x[name]):
                d[name][i] = (1 - beta1) * g[name][i] + beta1 * d[name][i]
                v[name][i] = (1 - beta2) * g[name][i] ** 2 + beta2 * v[name][i]
                big_d[name][i] = eps + math.sqrt(v[name][i] / (1 - beta2**k))
        adapt = lower_bound if adapt_lower_bound else None
        f_star = modelled(x, d, big_d, f, gamma, lr_at(lr, k), 1 - beta1**k, weight_decay, f_star, adapt)
        trajectory.append(copies(x))
    return trajectory


def oracle_mechanic(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    s_init: float = 1e-8,
    s_decay: float = 0.01,
    num_betas: int = 6,
    eps: float = 1e-8,
    m_init: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Trajectory:
    """Mechanic around momentum.

    Source: Cutkosky, Defazio & Mehta 2023, Mechanic: A Learning Rate Tuner, Algorithm 1. arXiv:2306.00144.
    Symbols: x parameters, g gradient, u update of the base algorithm, λ = s_decay, β a vector of n numbers.

        Δ_{t+1} = Δ_t + u_t
        h_t = <Δ_t, g_t + λ (Σ_i s_{t,i}) ‖g_t‖ x_t / ‖x_t‖>
        m_t = max(β m_{t-1}, |h_t|)
        v_t = β² v_{t-1} + h_t²
        r_t = max(β r_{t-1} - s_t h_t, 0)
        W_t = (s_init / n) m_t + r_t
        s_{t+1} = W_t / (√v_t + ε)
        x_{t+1} = x_ref + (Σ_i s_{t+1,i}) Δ_{t+1}

    Deviation: ‖x_t‖ + ε for ‖x_t‖, as in the authors' code. u is a displacement, as there, so that rewards are -h.
    """
    ref, x, delta, velocity = copies(params), copies(params), zeros(params), zeros(params)
    beta = [1 - 0.1**i for i in range(1, num_betas + 1)]
    s, v, r = ([0.0] * num_betas for _ in range(3))
    m = [m_init] * num_betas
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, rate = copies(grad), lr_at(lr, t)
        factor = s_decay * sum(s) * norm(*g.values()) / (norm(*x.values()) + eps)
        h = product(delta, g) + factor * product(delta, x)
        for name in x:
            for i in elements(x[name]):
                velocity[name][i] = momentum * velocity[name][i] + g[name][i]
                u = g[name][i] + momentum * velocity[name][i] if nesterov else velocity[name][i]
                delta[name][i] = delta[name][i] - rate * u
        for i in range(num_betas):
            m[i] = max(beta[i] * m[i], abs(h))
            v[i] = beta[i] ** 2 * v[i] + h**2
            r[i] = max(beta[i] * r[i] - s[i] * h, 0.0)
            s[i] = quotient(s_init / num_betas * m[i] + r[i], math.sqrt(v[i]) + eps)
        for name in x:
            for i in elements(x[name]):
                x[name][i] = ref[name][i] + sum(s) * delta[name][i]
        trajectory.append(copies(x))
    return trajectory
