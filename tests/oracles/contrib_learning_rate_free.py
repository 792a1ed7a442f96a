"""Oracles of the rules that find their learning rate, and of dual averaging."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .adam_variants import quotient
from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, norm, zeros


def oracle_dadapt_adamw(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    d0: float = 1e-6,
    growth_rate: float = math.inf,
    bias_correction: bool = False,
    measure: str = "old",
) -> Trajectory:
    """D-Adapted Adam with decoupled weight decay.

    Source: Defazio & Mishchenko 2023, Learning-Rate-Free Learning by D-Adaptation, D-Adapted Adam. arXiv:2301.07733.
    Symbols: x parameters, g gradient, γ learning rate, d estimate, A = diag(√v + ε), s r sums.

        m_{k+1} = β1 m_k + (1 - β1) d_k γ_k g_k
        v_{k+1} = β2 v_k + (1 - β2) g_k²
        x_{k+1} = x_k - A_{k+1}^-1 m_{k+1}
        s_{k+1} = √β2 s_k + (1 - √β2) d_k γ_k g_k
        r_{k+1} = √β2 r_k + (1 - √β2) d_k γ_k <g_k, s_k>_{A_{k+1}^-1}
        d̂_{k+1} = r_{k+1} / ((1 - √β2) ‖s_{k+1}‖_1),  d_{k+1} = max(d_k, d̂_{k+1})

    Deviations, all of the authors' code (dadaptation 3.2): A_k in the fifth line, which with measure="new" is A_{k+1};
    the decay x_{k+1} -= γ_k d_k weight_decay x_k; d̂ no more than growth_rate d_k; γ_k times
    √(1 - β2^{k+1}) / (1 - β1^{k+1}) with bias_correction. d stays as it is where s is 0.
    """
    x, m, v, s = copies(params), zeros(params), zeros(params), zeros(params)
    d, r, root = d0, 0.0, math.sqrt(beta2)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, gamma = copies(grad), lr_at(lr, t)
        if bias_correction:
            gamma = gamma * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        product, size = 0.0, 0.0
        for name in x:
            for i in elements(x[name]):
                before = math.sqrt(v[name][i]) + eps
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * d * gamma * g[name][i]
                v[name][i] = beta2 * v[name][i] + (1 - beta2) * g[name][i] ** 2
                a = math.sqrt(v[name][i]) + eps
                decay = gamma * d * weight_decay * x[name][i]
                product += g[name][i] * quotient(s[name][i], before if measure == "old" else a)
                x[name][i] = x[name][i] - quotient(m[name][i], a) - decay
                s[name][i] = root * s[name][i] + (1 - root) * d * gamma * g[name][i]
                size += abs(s[name][i])
        r = root * r + (1 - root) * d * gamma * product
        if size > 0:
            d = max(d, min(r / ((1 - root) * size), growth_rate * d))
        trajectory.append(copies(x))
    return trajectory


def oracle_prodigy(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    d0: float = 1e-6,
    growth_rate: float = math.inf,
    bias_correction: bool = False,
    beta3: float | None = None,
    d_coef: float = 1.0,
    safeguard_warmup: bool = False,
) -> Trajectory:
    """Prodigy, the Adam version, with decoupled weight decay.

    Source: Mishchenko & Defazio 2024, Prodigy: An Expeditiously Adaptive Parameter-Free Learner. arXiv:2306.06101.
    Symbols: x parameters, g gradient, γ learning rate, d estimate, s r sums.

        m_{k+1} = β1 m_k + (1 - β1) d_k g_k
        v_{k+1} = β2 v_k + (1 - β2) d_k² g_k²
        r_{k+1} = √β2 r_k + (1 - √β2) γ_k d_k² <g_k, x_0 - x_k>
        s_{k+1} = √β2 s_k + (1 - √β2) γ_k d_k² g_k
        d̂_{k+1} = r_{k+1} / ‖s_{k+1}‖_1,  d_{k+1} = max(d_k, d̂_{k+1})
        x_{k+1} = x_k - γ_k d_k m_{k+1} / (√v_{k+1} + d_k ε)

    Deviations, all of the authors' code (prodigyopt 1.1.2): beta3 for √β2 in r and s; d_coef times d̂; the decay
    x_{k+1} -= γ_k d_k weight_decay x_k; γ_k times √(1 - β2^{k+1}) / (1 - β1^{k+1}) with bias_correction; no γ_k in s
    with safeguard_warmup; with growth_rate, d_{k+1} = min(largest d̂ so far, growth_rate d_k) once d has left d0. d
    stays as it is where s is 0.
    """
    x0, x = copies(params), copies(params)
    m, v, s = zeros(params), zeros(params), zeros(params)
    d, largest, r = d0, d0, 0.0
    decay = math.sqrt(beta2) if beta3 is None else beta3
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, gamma = copies(grad), lr_at(lr, t)
        if bias_correction:
            gamma = gamma * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        product, size = 0.0, 0.0
        for name in x:
            for i in elements(x[name]):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * d * g[name][i]
                v[name][i] = beta2 * v[name][i] + (1 - beta2) * d**2 * g[name][i] ** 2
                product += g[name][i] * (x0[name][i] - x[name][i])
                weight = (1 - decay) * d**2 * (1.0 if safeguard_warmup else gamma)
                s[name][i] = decay * s[name][i] + weight * g[name][i]
                size += abs(s[name][i])
                direction = quotient(m[name][i], math.sqrt(v[name][i]) + d * eps) + weight_decay * x[name][i]
                x[name][i] = x[name][i] - gamma * d * direction
        r = decay * r + (1 - decay) * gamma * d**2 * product
        if size > 0:
            largest = max(largest, d_coef * r / size)
            d = largest if d == d0 else min(largest, growth_rate * d)
        trajectory.append(copies(x))
    return trajectory


def oracle_dog(
    params: Params, grads: Sequence[Params], lr: LearningRate, *, reps_rel: float = 1e-6, eps: float = 1e-8
) -> Trajectory:
    """DoG.

    Source: Ivgi, Hinder & Carmon 2023, DoG is SGD's Best Friend, DoG. arXiv:2302.12022; r_ε and ε of
    the authors' code (dog-optimizer 1.0.3). Symbols: x parameters, g gradient, η step size, c = lr.

        r̄_t = max_{i ≤ t} ‖x_i - x_0‖ ∨ r_ε,  r_ε = reps_rel (1 + ‖x_0‖)
        G_t = Σ_{i ≤ t} ‖g_i‖² + ε
        x_{t+1} = x_t - c r̄_t / √G_t g_t
    """
    x0, x = copies(params), copies(params)
    r = reps_rel * (1 + norm(*x0.values()))
    total = eps
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, c = copies(grad), lr_at(lr, t)
        r = max(r, norm(*(x[name] - x0[name] for name in x)))
        total += norm(*g.values()) ** 2
        for name in x:
            for i in elements(x[name]):
                x[name][i] = x[name][i] - c * quotient(r, math.sqrt(total)) * g[name][i]
        trajectory.append(copies(x))
    return trajectory


def oracle_ldog(
    params: Params, grads: Sequence[Params], lr: LearningRate, *, reps_rel: float = 1e-6, eps: float = 1e-8
) -> Trajectory:
    """L-DoG: DoG for each parameter by itself. Source: Ivgi, Hinder & Carmon 2023, L-DoG."""
    each = [
        oracle_dog({name: params[name]}, [{name: g[name]} for g in grads], lr, reps_rel=reps_rel, eps=eps)
        for name in params
    ]
    return [{name: x for part in parts for name, x in part.items()} for parts in zip(*each, strict=True)]


def oracle_dowg(
    params: Params, grads: Sequence[Params], lr: LearningRate, *, r_eps: float = 1e-2, eps: float = 1e-4
) -> Trajectory:
    """DoWG.

    Source: Khaled, Mishchenko & Jin 2023, DoWG Unleashed, Algorithm 1. arXiv:2305.16284.
    Symbols: x parameters, g gradient, η step size.

        r̄_t = max(‖x_t - x_0‖, r̄_{t-1}),  r̄_{-1} = r_ε
        v_t = v_{t-1} + r̄_t² ‖g_t‖²
        x_{t+1} = x_t - r̄_t² / √v_t g_t

    Deviations: lr times the step, which is 1 in the paper, and √v_t + eps for √v_t, as in the authors' code.
    """
    x0, x = copies(params), copies(params)
    r, v = r_eps, 0.0
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, c = copies(grad), lr_at(lr, t)
        r = max(norm(*(x[name] - x0[name] for name in x)), r)
        v = v + r**2 * norm(*g.values()) ** 2
        for name in x:
            for i in elements(x[name]):
                x[name][i] = x[name][i] - c * quotient(r**2, math.sqrt(v) + eps) * g[name][i]
        trajectory.append(copies(x))
    return trajectory


def oracle_cocob(
    params: Params, grads: Sequence[Params], lr: LearningRate, *, alpha: float = 100.0, eps: float = 1e-8
) -> Trajectory:
    """COCOB-Backprop.

    Source: Orabona & Tommasi 2017, Training Deep Networks without Learning Rates Through Coin Betting, Algorithm 2.
    arXiv:1705.07795. Symbols, for each coordinate i: w parameter, g *negative* gradient, L scale, G sum of |g|, θ sum
    of g.

        L_{t,i} = max(L_{t-1,i}, |g_{t,i}|)
        G_{t,i} = G_{t-1,i} + |g_{t,i}|
        Reward_{t,i} = max(Reward_{t-1,i} + (w_{t,i} - w_{1,i}) g_{t,i}, 0)
        θ_{t,i} = θ_{t-1,i} + g_{t,i}
        w_{t+1,i} = w_{1,i} + θ_{t,i} / (L_{t,i} max(G_{t,i} + L_{t,i}, α L_{t,i})) (L_{t,i} + Reward_{t,i})

    Deviations: L_0 is eps, 0 in the paper. w moves by lr times the way to that place; lr is 1 in the paper.
    """
    w1, w = copies(params), copies(params)
    scale, total, reward, theta = zeros(params), zeros(params), zeros(params), zeros(params)
    for name in scale:
        scale[name][...] = eps
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        rate = lr_at(lr, t)
        for name in w:
            for i in elements(w[name]):
                g = -float(np.asarray(grad[name])[i])
                scale[name][i] = max(scale[name][i], abs(g))
                total[name][i] = total[name][i] + abs(g)
                reward[name][i] = max(reward[name][i] + (w[name][i] - w1[name][i]) * g, 0.0)
                theta[name][i] = theta[name][i] + g
                big = scale[name][i]
                below = big * max(total[name][i] + big, alpha * big)
                place = w1[name][i] + quotient(theta[name][i], below) * (big + reward[name][i])
                w[name][i] = w[name][i] + rate * (place - w[name][i])
        trajectory.append(copies(w))
    return trajectory


def oracle_madgrad(
    params: Params, grads: Sequence[Params], lr: LearningRate, *, momentum: float = 0.9, eps: float = 1e-6
) -> Trajectory:
    """MADGRAD.

    Source: Defazio & Jelassi 2021, Adaptivity without Compromise, Algorithm 1. arXiv:2101.11075.
    Symbols: x parameters, g gradient, γ learning rate, c = 1 - momentum, s ν sums, ε = eps.

        λ_k = γ_k √(k + 1)
        s_{k+1} = s_k + λ_k g_k
        ν_{k+1} = ν_k + λ_k g_k²
        z_{k+1} = x_0 - s_{k+1} / (∛ν_{k+1} + ε)
        x_{k+1} = (1 - c) x_k + c z_{k+1}
    """
    x0, x, s, nu = copies(params), copies(params), zeros(params), zeros(params)
    c = 1 - momentum
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, weight = copies(grad), lr_at(lr, t) * math.sqrt(t)
        for name in x:
            for i in elements(x[name]):
                s[name][i] = s[name][i] + weight * g[name][i]
                nu[name][i] = nu[name][i] + weight * g[name][i] ** 2
                z = x0[name][i] - quotient(s[name][i], math.cbrt(nu[name][i]) + eps)
                x[name][i] = (1 - c) * x[name][i] + c * z
        trajectory.append(copies(x))
    return trajectory
