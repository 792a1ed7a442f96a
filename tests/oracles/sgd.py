"""Oracles of gradient descent and its two momentum forms."""

from __future__ import annotations

from collections.abc import Sequence

from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, zeros


def oracle_sgd(params: Params, grads: Sequence[Params], lr: LearningRate) -> Trajectory:
    """Stochastic gradient descent.

    Source: Robbins & Monro 1951, A stochastic approximation method, in the form of Sutskever et al. 2013 at mu = 0.
    Symbols: θ parameters, g gradient, ε learning rate.

        θ_t = θ_{t-1} - ε_t g_t
    """
    theta = copies(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, epsilon = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                theta[name][i] = theta[name][i] - epsilon * g[name][i]
        trajectory.append(copies(theta))
    return trajectory


def oracle_momentum(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Trajectory:
    """Classical momentum, or Nesterov's accelerated gradient at the point where the gradient was taken.

    Source: Sutskever, Martens, Dahl & Hinton 2013, eqs. 1-2 (classical) and 3-4 (Nesterov); Bengio,
    Boulanger-Lewandowski & Pascanu 2013, eq. 7 (Nesterov, rewritten in the shifted variable Θ = θ + μ v).
    Symbols: θ parameters, g gradient, ε learning rate, μ momentum, m = -v / ε the velocity without its learning rate.

        m_t = μ m_{t-1} + g_t
        θ_t = θ_{t-1} - ε_t m_t                    classical
        θ_t = θ_{t-1} - ε_t (g_t + μ m_t)          Nesterov

    Deviation: the papers hold ε inside the velocity, v_t = μ v_{t-1} - ε_t g_t and θ_t = θ_{t-1} + v_t. Both agree
    while ε is constant. Here a change of ε acts at once on the whole velocity, as in objax and most libraries.
    """
    mu = momentum
    theta, m = copies(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, epsilon = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                m[name][i] = mu * m[name][i] + g[name][i]
                direction = g[name][i] + mu * m[name][i] if nesterov else m[name][i]
                theta[name][i] = theta[name][i] - epsilon * direction
        trajectory.append(copies(theta))
    return trajectory
