"""The oracle of PSGD with Kronecker factors."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from .adagrad import quotient
from .common import (
    LearningRate,
    Params,
    Trajectory,
    copies,
    elements,
    lr_at,
    norm,
    zeros,
)
from .contrib_shampoo import add_products, times

DAMPING = math.sqrt(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)

Noise = Callable[[int, str, tuple[int, ...]], np.ndarray]


def drawn_noise(seed: int) -> Noise:
    """Return the v that the rule draws at an update, by number from 1: the one thing that an oracle shares with it."""
    keys = [jax.random.PRNGKey(seed)]
    own = []

    def noise(n: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        while len(own) < n:
            key, mine = jax.random.split(keys[-1])
            keys.append(key)
            own.append(mine)
        key = jax.random.fold_in(own[n - 1], zlib.crc32(name.encode()))
        return np.asarray(jax.random.normal(key, shape, np.float32), np.float64)

    return noise


def lower_bound(a: np.ndarray) -> float:
    """The lower bound of ‖A‖ of the authors' code, for a symmetric A: ‖A x / ‖x‖‖, x = A times its longest column."""
    longest = max(range(len(a)), key=lambda j: (norm(a[:, j]), -j))
    x = [sum(a[i, k] * a[k, longest] for k in range(len(a))) for i in range(len(a))]
    length = norm(np.array(x))
    return norm(np.array([sum(a[i, k] * quotient(x[k], length) for k in range(len(a))) for i in range(len(a))]))


def oracle_psgd_kron(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    preconditioner_lr: float = 0.1,
    preconditioner_scale: float = 1.0,
    max_dim: int = 8192,
    min_ndim: int = 2,
    diagonal: str = "none",
    momentum_into_update: bool = True,
    min_probability: float = 0.03,
    decay: float = 0.001,
    flat_start: int = 500,
    seed: int = 0,
    weight_decay: float = 0.0,
    noise: Noise | None = None,
) -> Trajectory:
    """PSGD-Kron with whitening of gradients.

    Source: Pooladzandi & Li 2024, arXiv:2402.04553, section 4 and appendix (Kron), in the form of
    evanatyourservice/psgd_jax, whose names and constants are used: the damping √ε, the RMS limit 1.1.
    Symbols: Q_i factor of axis i, G gradient or mean, V normal noise, ℓ = preconditioner_lr, A_(i) with axis i as rows.

        A = G ×_1 Q_1 ... ×_k Q_k,   B = V ×_1 Q_1^-T ... ×_k Q_k^-T
        Q_i ← Q_i - ℓ triu(A_(i) A_(i)ᵀ - B_(i) B_(i)ᵀ) / ‖A_(i) A_(i)ᵀ + B_(i) B_(i)ᵀ‖ Q_i
        θ ← θ - η (clip(G ×_i Q_iᵀ Q_i) + λ θ)

    A diagonal Q_i has the diagonal in place of triu, and the largest element for the norm. Deviations: balancing, which
    changes no product, comes after each 100 updates. A zero gradient changes no factor.
    """
    noise = drawn_noise(seed) if noise is None else noise
    theta, m = copies(params), zeros(params)
    factors: dict[str, list[tuple[np.ndarray, bool]]] = {}
    for n, p in theta.items():
        shape = p.shape or (1,)
        last = max(range(len(shape)), key=lambda i: (shape[i], i))
        factors[n] = []
        for i, size in enumerate(shape):
            full = 1 < size <= max_dim and p.ndim >= min_ndim and diagonal != "all"
            full = full and not (diagonal == "longest" and i == last)
            factors[n].append((preconditioner_scale ** (1 / len(shape)) * np.eye(size), full))
    since = updates = 0
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        since += 1
        due = since >= 1 / min(max(math.exp(-decay * (t - flat_start)), min_probability), 1.0)
        if due:
            since, updates = 0, updates + 1
        for name in theta:
            for i in elements(g[name]):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
            mean = np.atleast_1d(m[name] / (1 - beta1**t))
            if due and g[name].any():
                v = noise(updates, name, mean.shape)
                target = mean if momentum_into_update else np.atleast_1d(g[name])
                size = sum(abs(target[i]) for i in elements(target)) / target.size
                a, b = target + DAMPING * size * v, v
                for axis, (q, _) in enumerate(factors[name]):
                    a, b = times(a, q, axis), times(b, np.linalg.inv(q).T, axis)
                moved = []
                for axis, (q, full) in enumerate(factors[name]):
                    fit, rest = np.zeros_like(q), np.zeros_like(q)
                    only = [x if i == axis else None for i, x in enumerate([fit] * a.ndim)]
                    add_products(only, a, 0.0, 1.0)
                    only = [x if i == axis else None for i, x in enumerate([rest] * a.ndim)]
                    add_products(only, b, 0.0, 1.0)
                    if full:
                        change = np.triu(fit - rest) / (lower_bound(fit + rest) + TINY)
                    else:
                        change = np.diag(np.diag(fit - rest)) / (max(np.diag(fit + rest)) + TINY)
                    moved.append((q - preconditioner_lr * (change @ q), full))
                factors[name] = moved
            steep = mean
            for axis, (q, _) in enumerate(factors[name]):
                steep = times(times(steep, q, axis), q.T, axis)
            limit = max(1.0, norm(steep) / math.sqrt(max(1, steep.size)) / 1.1)
            steep = (steep / limit).reshape(theta[name].shape)
            for i in elements(theta[name]):
                theta[name][i] = theta[name][i] - eta * (steep[i] + weight_decay * theta[name][i])
        trajectory.append(copies(theta))
    return trajectory
