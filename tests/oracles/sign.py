"""Oracles of the rules that use the sign of a gradient: SignSGD, Signum, Lion, RProp."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, zeros


def sign(x: float) -> float:
    """Return -1, 0 or 1."""
    return float(x > 0) - float(x < 0)


def oracle_sign_sgd(params: Params, grads: Sequence[Params], lr: LearningRate) -> Trajectory:
    """Descent by the sign of the gradient.

    Source: Bernstein, Wang, Azizzadenesheli & Anandkumar 2018, signSGD, Algorithm 1. arXiv:1802.04434.
    Symbols: x parameters, g gradient, δ learning rate.

        x_{k+1} = x_k - δ sign(g_k)
    """
    return oracle_signum(params, grads, lr, momentum=0.0)


def oracle_signum(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    momentum: float = 0.9,
) -> Trajectory:
    """Descent by the sign of momentum.

    Source: Bernstein, Wang, Azizzadenesheli & Anandkumar 2018, signSGD, Algorithm 2. arXiv:1802.04434.
    Symbols: x parameters, g gradient, δ learning rate, β = momentum.

        m_{k+1} = β m_k + (1 - β) g_k
        x_{k+1} = x_k - δ sign(m_{k+1})
    """
    x, m = copies(params), zeros(params)
    trajectory = []
    for k, grad in enumerate(grads, start=1):
        g, delta = copies(grad), lr_at(lr, k)
        for name in x:
            for i in elements(x[name]):
                m[name][i] = momentum * m[name][i] + (1 - momentum) * g[name][i]
                x[name][i] = x[name][i] - delta * sign(m[name][i])
        trajectory.append(copies(x))
    return trajectory


def oracle_lion(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
) -> Trajectory:
    """Lion, the evolved sign momentum.

    Source: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, Algorithm 2. arXiv:2302.06675.
    Symbols: θ parameters, g gradient, η learning rate, λ = weight_decay.

        c_t = β1 m_{t-1} + (1 - β1) g_t
        θ_t = θ_{t-1} - η_t (sign(c_t) + λ θ_{t-1})
        m_t = β2 m_{t-1} + (1 - β2) g_t
    """
    theta, m = copies(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                c = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                theta[name][i] = theta[name][i] - eta * (sign(c) + weight_decay * theta[name][i])
                m[name][i] = beta2 * m[name][i] + (1 - beta2) * g[name][i]
        trajectory.append(copies(theta))
    return trajectory


def oracle_rprop(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    initial_step: float = 0.1,
    eta_minus: float = 0.5,
    eta_plus: float = 1.2,
    min_step: float = 1e-6,
    max_step: float = 50.0,
    variant: str = "rprop+",
) -> Trajectory:
    """Resilient backpropagation.

    Source: Riedmiller & Braun 1993, The RPROP Algorithm, eqs. 4-7, for "rprop+"; Igel & Hüsken 2000, Improving the
    Rprop Learning Algorithm, for the names, "rprop-" and "irprop-".
    Symbols: w weight, d = ∂E/∂w, d' the kept derivative of the step before, Δ update-value, from Δ_0 = initial_step.

        d' d > 0:   Δ_t = min(Δ_{t-1} η+, Δ_max);   Δw_t = -sign(d) Δ_t;   d' = d
        d' d < 0:   Δ_t = max(Δ_{t-1} η-, Δ_min)
                    rprop+:    Δw_t = -Δw_{t-1};         d' = 0
                    rprop-:    Δw_t = -sign(d) Δ_t;      d' = d
                    irprop-:   Δw_t = 0;                 d' = 0
        else:       Δ_t = Δ_{t-1};                  Δw_t = -sign(d) Δ_t;   d' = d

    Deviation: w_{t+1} = w_t + lr Δw_t, with lr = 1 in the papers.
    """
    w, before, moved = copies(params), zeros(params), zeros(params)
    step = {name: np.full(p.shape, float(initial_step)) for name, p in w.items()}
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        d, rate = copies(grad), lr_at(lr, t)
        for name in w:
            for i in elements(w[name]):
                turn = sign(before[name][i]) * sign(d[name][i])
                if turn > 0:
                    step[name][i] = min(step[name][i] * eta_plus, max_step)
                elif turn < 0:
                    step[name][i] = max(step[name][i] * eta_minus, min_step)
                if turn < 0 and variant != "rprop-":
                    moved[name][i] = -moved[name][i] if variant == "rprop+" else 0.0
                    before[name][i] = 0.0
                else:
                    moved[name][i] = -sign(d[name][i]) * step[name][i]
                    before[name][i] = d[name][i]
                w[name][i] = w[name][i] + rate * moved[name][i]
        trajectory.append(copies(w))
    return trajectory
