"""The oracle of GaLore around Adam. Singular vectors are NumPy's; all else is written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .adam import adam_direction
from .common import LearningRate, Params, Trajectory, copies, elements, lr_at


def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the matrix product, element by element."""
    z = np.zeros((x.shape[0], y.shape[1]))
    for i, j in elements(z):
        z[i, j] = sum(x[i, k] * y[k, j] for k in range(y.shape[0]))
    return z


def oracle_galore(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    rank: int = 128,
    frequency: int = 200,
    scale: float = 0.25,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> Trajectory:
    """GaLore with Adam, for matrices with both sides longer than ``rank``; Adam for the rest.

    Source: Zhao et al. 2024, GaLore, Algorithm 2, arXiv:2403.03507; the authors' code for matrices with more rows than
    columns, and for t mod T, counted from 0.
    Symbols: W m x n, G gradient, r = rank, T = frequency, α = scale, P projector, R projected gradient.

        if t mod T == 0:  U, S, V = SVD(G_t),  P_t = U[:, :r]        m <= n
        R_t = P_tᵀ G_t
        N_t = Adam's direction for R_t
        W_t = W_{t-1} - η α P_t N_t

    Deviations: the columns of P have the signs in which their products with the old ones are not negative; the first
    ones are compared with the identity. A decomposition waits for a gradient that is not 0.
    """
    w = copies(params)
    hyper = {"beta1": beta1, "beta2": beta2, "eps": eps, "eps_root": eps_root}
    inside = {n for n, x in w.items() if x.ndim == 2 and min(x.shape) > rank}
    p = {n: np.eye(min(w[n].shape), rank) for n in inside}
    wait = dict.fromkeys(inside, 0)
    small = {n: (rank, max(x.shape)) if n in inside else x.shape for n, x in w.items()}
    m, v = ({n: np.zeros(shape) for n, shape in small.items()} for _ in range(2))
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in w:
            flat = g[name]
            if name in inside:
                tall = flat.shape[0] > flat.shape[1]
                flat = flat.T if tall else flat
                if wait[name] == 0 and flat.any():
                    u = np.linalg.svd(flat, full_matrices=False)[0][:, :rank]
                    for k in range(rank):
                        agrees = sum(u[i, k] * p[name][i, k] for i in range(len(u)))
                        u[:, k] = -u[:, k] if agrees < 0 else u[:, k]
                    p[name], wait[name] = u, frequency
                wait[name] = max(wait[name] - 1, 0)
                flat = product(p[name].T, flat)
            step = adam_direction(flat, m[name], v[name], t, **hyper)
            if name in inside:
                step = scale * product(p[name], step)
                step = step.T if tall else step
            for i in elements(w[name]):
                w[name][i] = w[name][i] - eta * step[i]
        trajectory.append(copies(w))
    return trajectory
