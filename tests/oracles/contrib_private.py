"""Oracles of differentially private descent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .common import LearningRate, Params, Trajectory, elements, norm
from .optimistic import standard_normals
from .sgd import oracle_momentum


def aggregate(grads: Params, noise: Params, *, max_norm: float, noise_multiplier: float, size: int | None) -> Params:
    """Return the private gradient of a batch.

    Source: Abadi et al. 2016, Algorithm 1. arXiv:1607.00133. Symbols: g(x_i) gradient of an example, C = max_norm, σ =
    noise_multiplier, L lot size; ``noise`` gives the N(0, 1).

        ḡ(x_i) = g(x_i) / max(1, ‖g(x_i)‖ / C)
        g̃ = (Σ ḡ(x_i) + N(0, σ² C²)) / L

    Deviation: an example whose gradient is not finite counts as 0.
    """
    count = len(next(iter(grads.values())))
    total = {name: np.zeros(np.shape(g)[1:]) for name, g in grads.items()}
    for i in range(count):
        g = {name: np.asarray(x[i], np.float64) for name, x in grads.items()}
        length = norm(*g.values())
        if math.isfinite(length):
            for name in total:
                for j in elements(total[name]):
                    total[name][j] = total[name][j] + g[name][j] / max(1.0, length / max_norm)
    lot = max(count, 1) if size is None else size
    for name in total:
        for j in elements(total[name]):
            total[name][j] = (total[name][j] + noise_multiplier * max_norm * noise[name][j]) / lot
    return total


def oracle_dpsgd(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    max_norm: float,
    noise_multiplier: float,
    seed: int,
    batch_size: int | None = None,
    momentum: float | None = None,
    nesterov: bool = False,
    noise: Sequence[Params] | None = None,
) -> Trajectory:
    """DP-SGD, with momentum on the private gradients."""
    noise = standard_normals(params, len(grads), seed) if noise is None else noise
    private = [
        aggregate(g, n, max_norm=max_norm, noise_multiplier=noise_multiplier, size=batch_size)
        for g, n in zip(grads, noise, strict=True)
    ]
    return oracle_momentum(params, private, lr, momentum=momentum or 0.0, nesterov=nesterov)


def oracle_of_one(params: Params, grads: Sequence[Params], lr: LearningRate, **hyper: float) -> Trajectory:
    """The same on batches of one example, whose gradients are without an axis for it."""
    return oracle_dpsgd(params, [{n: np.asarray(x)[None] for n, x in g.items()} for g in grads], lr, **hyper)
