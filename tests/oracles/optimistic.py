"""Oracles of gradient descent with something added: the step before, noise, Polyak's step size."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import jax
import numpy as np

from .adam import adam_direction
from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, norm, zeros


def oracle_optimistic_gradient(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Trajectory:
    """Optimistic gradient descent.

    Source: Mokhtari, Ozdaglar & Pattathil 2020, A Unified Analysis of Extra-gradient and Optimistic Gradient Methods
    for Saddle Point Problems: Proximal Point Approach, generalized OGDA. arXiv:1901.08511.
    Symbols: z parameters, F gradient; the paper's α and β are lr α and lr β here.

        z_{k+1} = z_k - (α + β) F(z_k) + β F(z_{k-1}),   z_{-1} = z_0
    """
    z, before = copies(params), copies(grads[0])
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in z:
            for i in elements(z[name]):
                z[name][i] = z[name][i] - eta * ((alpha + beta) * g[name][i] - beta * before[name][i])
        before = g
        trajectory.append(copies(z))
    return trajectory


def oracle_optimistic_adam(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> Trajectory:
    """Optimistic Adam.

    Source: Daskalakis, Ilyas, Syrgkanis & Zeng 2018, Training GANs with Optimism, Algorithm 1. arXiv:1711.00141.
    Symbols: θ parameters, η learning rate, m̂ v̂ as in ``oracle_adam``.

        θ_t = θ_{t-1} - 2η m̂_t / (√v̂_t + ε) + η m̂_{t-1} / (√v̂_{t-1} + ε)

    Deviations: α + β stands for 2 and β for the 1 of the last term, as in generalized OGDA. At the first step the
    direction before is that step's own, as z_{-1} = z_0 in ``oracle_optimistic_gradient``, where the paper has 0: twice
    the step. eps_root, 0 by default, is not in the paper. A learning rate that changes multiplies both terms.
    """
    theta, m, v = copies(params), zeros(params), zeros(params)
    before: dict = {}
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in theta:
            d = adam_direction(g[name], m[name], v[name], t, beta1=beta1, beta2=beta2, eps=eps, eps_root=eps_root)
            last = before.get(name, d)
            for i in elements(theta[name]):
                theta[name][i] = theta[name][i] - eta * ((alpha + beta) * d[i] - beta * last[i])
            before[name] = d
        trajectory.append(copies(theta))
    return trajectory


def standard_normals(params: Params, steps: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Return the noise that the rule documents: a new key each step, and from it one by each parameter's name."""
    key, noise = jax.random.PRNGKey(seed), []
    for _ in range(steps):
        key, own = jax.random.split(key)
        draws = {name: jax.random.normal(jax.random.fold_in(own, zlib.crc32(name.encode())), np.shape(p), np.float32)
                 for name, p in params.items()}  # fmt: skip
        noise.append({name: np.float64(x) for name, x in draws.items()})
    return noise


def oracle_noisy_sgd(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    eta: float = 0.01,
    gamma: float = 0.55,
    seed: int = 0,
    noise: Sequence[Params] | None = None,
) -> Trajectory:
    """Gradient descent with annealed Gaussian noise on the gradient.

    Source: Neelakantan et al. 2015, Adding Gradient Noise Improves Learning for Very Deep Networks, Section 3.
    arXiv:1511.06807. Symbols: g gradient, η = eta, γ = gamma, t the training step, from 0; ``noise`` gives the N(0, 1).

        σ_t² = η / (1 + t)^γ
        g_t ← g_t + N(0, σ_t²)
    """
    theta = copies(params)
    noise = standard_normals(params, len(grads), seed) if noise is None else noise
    trajectory = []
    for t, grad in enumerate(grads):
        g, rate, sigma = copies(grad), lr_at(lr, t + 1), math.sqrt(eta / (1 + t) ** gamma)
        for name in theta:
            for i in elements(theta[name]):
                theta[name][i] = theta[name][i] - rate * (g[name][i] + sigma * noise[t][name][i])
        trajectory.append(copies(theta))
    return trajectory


def oracle_polyak_sgd(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    max_step: float = 1.0,
    scaling: float = 1.0,
    f_min: float = 0.0,
    eps: float = 0.0,
    variant: str = "sps",
    value: float | Sequence[float] = 1.0,
) -> Trajectory:
    """Gradient descent with Polyak's step size.

    Source: Loizou, Vaswani, Laradji & Lacoste-Julien 2021, Stochastic Polyak Step-size for SGD, eq. 4 (SPS_max, c = 1),
    arXiv:2002.10542; for "sps+" Garrigos, Gower & Schaipp 2023, Function Value Learning, arXiv:2307.14528.
    Symbols: x parameters, f = value, f* = f_min, γ_b = max_step.

        γ_t = min((f(x_t) - f*) / ‖∇f(x_t)‖², γ_b)           sps;  the positive part of f - f* for sps+
        x_{t+1} = x_t - γ_t ∇f(x_t)

    Deviations: the step is lr · scaling · γ_t, and 0 for a zero gradient; eps is added to ‖∇f‖². The norm is over all
    parameters.
    """
    x = copies(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, rate = copies(grad), lr_at(lr, t)
        gap = (value if isinstance(value, int | float) else value[t - 1]) - f_min
        square = norm(*g.values()) ** 2
        gamma = 0.0
        if square > 0:
            gamma = min((max(gap, 0.0) if variant == "sps+" else gap) / (square + eps), max_step)
        for name in x:
            for i in elements(x[name]):
                x[name][i] = x[name][i] - rate * scaling * gamma * g[name][i]
        trajectory.append(copies(x))
    return trajectory
