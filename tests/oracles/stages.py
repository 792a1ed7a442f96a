"""Oracles of stages: what is done to a gradient before, or to a direction after, another algorithm."""

from __future__ import annotations

from collections.abc import Sequence

from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, norm, zeros
from .sgd import oracle_sgd


def clipped(grad: Params, max_norm: float) -> dict:
    """Return the gradient, scaled down to the global norm ``max_norm`` where its norm is larger.

    Source: Pascanu, Mikolov & Bengio 2013, Algorithm 1. arXiv:1211.5063.

        if ‖ĝ‖ ≥ threshold then ĝ ← (threshold / ‖ĝ‖) ĝ
    """
    g = copies(grad)
    total = norm(*g.values())
    if total >= max_norm and total > 0:
        for name in g:
            for i in elements(g[name]):
                g[name][i] = (max_norm / total) * g[name][i]
    return g


def oracle_clip_by_global_norm(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    max_norm: float = 1.0,
) -> Trajectory:
    """Gradient descent with the norm of the gradient over all arrays together clipped to ``max_norm``.

    Source: Pascanu, Mikolov & Bengio 2013, Algorithm 1. arXiv:1211.5063. Symbols: see ``clipped``.
    To clip before another algorithm: ``oracle_adam(params, [clipped(g, max_norm) for g in grads], lr)``.
    """
    return oracle_sgd(params, [clipped(g, max_norm) for g in grads], lr)


def oracle_weight_decay(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    rate: float = 1e-2,
) -> Trajectory:
    """Gradient descent with weight decay; without momentum the L2 and the decoupled form are one.

    Source: Loshchilov & Hutter 2019, eq. 1 and Proposition 1, in the common form where lr multiplies the decay.
    Symbols: θ parameters, g gradient, α learning rate, λ = rate (the stage's name for it).

        θ_t = θ_{t-1} - α_t (g_t + λ θ_{t-1})
    """
    return oracle_l2_momentum(params, grads, lr, momentum=0.0, weight_decay=rate)


def oracle_independent_weight_decay(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    rate: float = 1e-4,
) -> Trajectory:
    """Gradient descent with weight decay that the learning rate does not multiply.

    Source: Loshchilov & Hutter 2019, Algorithm 1, line 9, at β_1 = 0. arXiv:1711.05101.
    Symbols: θ parameters, g gradient, α learning rate, λ = rate.

        θ_t = θ_{t-1} - η_t α g_t - η_t λ θ_{t-1}

    Deviation: the paper's η_t α is lr here, and its η_t λ is rate.
    """
    theta = copies(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                theta[name][i] = theta[name][i] - alpha * g[name][i] - rate * theta[name][i]
        trajectory.append(copies(theta))
    return trajectory


def oracle_l2_momentum(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-2,
) -> Trajectory:
    """Momentum with L2 regularization: the decay stands before the momentum, and so accumulates in the velocity.

    Source: Loshchilov & Hutter 2019, Algorithm 1 with the line marked for L2. arXiv:1711.05101.
    Symbols: θ parameters, g gradient, α learning rate, μ = momentum, λ = weight_decay, m velocity.

        m_t = μ m_{t-1} + g_t + λ θ_{t-1}
        θ_t = θ_{t-1} - α_t m_t

    Deviation: α is outside the velocity, as in ``oracle_momentum``.
    """
    theta, m = copies(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                m[name][i] = momentum * m[name][i] + g[name][i] + weight_decay * theta[name][i]
                theta[name][i] = theta[name][i] - alpha * m[name][i]
        trajectory.append(copies(theta))
    return trajectory


def oracle_sgdw(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-2,
) -> Trajectory:
    """Momentum with decoupled weight decay: the decay stands after the momentum, outside the velocity.

    Source: Loshchilov & Hutter 2019, Algorithm 1, line 9. arXiv:1711.05101. Symbols: as in ``oracle_l2_momentum``.

        m_t = μ m_{t-1} + g_t
        θ_t = θ_{t-1} - α_t (m_t + λ θ_{t-1})

    Deviation: one α_t for the paper's η_t α, outside the velocity, and it multiplies the decay (see ``oracle_adamw``).
    """
    theta, m = copies(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                m[name][i] = momentum * m[name][i] + g[name][i]
                theta[name][i] = theta[name][i] - alpha * (m[name][i] + weight_decay * theta[name][i])
        trajectory.append(copies(theta))
    return trajectory
