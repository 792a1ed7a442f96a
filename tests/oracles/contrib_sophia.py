"""The oracle of Sophia with Hutchinson's estimate."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, zeros


def directions(params: Params, estimates: int, noise: str, seed: int) -> list[dict[str, np.ndarray]]:
    """Return the random directions that the rule draws: the one thing that an oracle has to share with it."""
    key, drawn = jax.random.PRNGKey(seed), []
    draw = jax.random.normal if noise == "gaussian" else jax.random.rademacher
    for _ in range(estimates):
        key, own = jax.random.split(key)
        drawn.append({
            n: np.asarray(draw(jax.random.fold_in(own, zlib.crc32(n.encode())), np.shape(p), np.float32), np.float64)
            for n, p in params.items()
        })  # fmt: skip
    return drawn


def oracle_sophia(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.96,
    beta2: float = 0.99,
    gamma: float = 0.01,
    eps: float = 1e-12,
    frequency: int = 10,
    noise: str = "gaussian",
    seed: int = 0,
    weight_decay: float = 0.1,
    hessian_times: Callable[[Params], Params] | None = None,
) -> Trajectory:
    """Sophia-H.

    Source: Liu et al. 2023, Sophia, Algorithms 1 (Hutchinson) and 3, arXiv:2305.14342.
    Symbols: θ parameters, g gradient, m its mean, h the mean of estimates, k = frequency, λ = weight_decay.

        m_t = β1 m_{t-1} + (1 - β1) g_t
        if t mod k == 1:  u ~ N(0, I),  ĥ_t = u ⊙ (∇²L(θ_t) u),  h_t = β2 h_{t-k} + (1 - β2) ĥ_t
        θ_t = θ_t - η_t λ θ_t
        θ_{t+1} = θ_t - η_t clip(m_t / max(γ h_t, ε), 1)

    ``hessian_times(u)`` is ∇²L u, by default u. Deviations: "rademacher" draws signs; decay and step are subtracted
    together, from θ_t; where max(γ h, ε) is 0, m / 0 is clipped to m's sign.
    """
    theta, m, h = copies(params), zeros(params), zeros(params)
    drawn = iter(directions(params, -(-len(grads) // frequency), noise, seed))
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        if (t - 1) % frequency == 0:
            u = next(drawn)
            image = u if hessian_times is None else hessian_times(u)
            for name in h:
                for i in elements(h[name]):
                    h[name][i] = beta2 * h[name][i] + (1 - beta2) * u[name][i] * image[name][i]
        for name in theta:
            for i in elements(theta[name]):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                size = max(gamma * h[name][i], eps)
                step = np.sign(m[name][i]) if abs(m[name][i]) >= size else m[name][i] / size
                theta[name][i] = theta[name][i] - eta * (step + weight_decay * theta[name][i])
        trajectory.append(copies(theta))
    return trajectory
