"""Oracles of gradient descent on clipped gradients. The clip by global norm is in ``stages``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, norm
from .sgd import oracle_sgd


def oracle_clip_by_value(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    max_value: float = 1.0,
) -> Trajectory:
    """Gradient descent with each element of the gradient truncated to a range.

    Source: Mikolov 2012, Statistical Language Models Based on Neural Networks, PhD thesis, section 3.2.2: gradients are
    limited to be in the range <-15; 15>. Symbols: 15 = max_value.

    Deviation: what is truncated is the gradient of the parameters.
    """

    def truncated(x: float) -> float:
        return max_value if x > max_value else -max_value if x < -max_value else x

    clipped = [copies(grad) for grad in grads]
    for g in clipped:
        for name in g:
            for i in elements(g[name]):
                g[name][i] = truncated(g[name][i])
    return oracle_sgd(params, clipped, lr)


def oracle_clip_by_block_rms(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    threshold: float = 1.0,
) -> Trajectory:
    """Gradient descent with the root mean square of each parameter's gradient clipped.

    Source: Shazeer & Stern 2018, section 6, for U_t = G_t. arXiv:1804.04235. Symbols: U unscaled step, d = threshold.

        RMS(U) = sqrt(mean of u²)
        Û = U / max(1, RMS(U) / d)
    """
    clipped = [copies(grad) for grad in grads]
    for u in clipped:
        for name in u:
            rms = norm(u[name]) / math.sqrt(u[name].size) if u[name].size else 0.0
            for i in elements(u[name]):
                u[name][i] = u[name][i] / max(1.0, rms / threshold)
    return oracle_sgd(params, clipped, lr)


def units(shape: tuple[int, ...], heads: bool) -> list[list[tuple[int, ...]]]:
    """Return the indices of the elements of each unit, as in the authors' code (``unitwise_norm``).

    Scalars and vectors, also those with further axes of length 1, are one unit. Two axes are (inputs, outputs), three
    (inputs, heads, outputs) with a unit for each head and output, four a kernel (height, width, inputs, outputs).

    Deviations: five axes and more are kernels, too; so are three unless ``heads``.
    """
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    axes = len(shape)
    if len([n for n in shape if n != 1]) <= 1:
        first = axes
    elif axes == 2 or (axes == 3 and heads):
        first = 1
    else:
        first = axes - 1
    for i in np.ndindex(shape):
        found.setdefault(i[first:], []).append(i)
    return list(found.values())


def oracle_adaptive_clip(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    clipping: float = 0.01,
    eps: float = 1e-3,
    heads: bool = True,
) -> Trajectory:
    """Gradient descent with adaptive gradient clipping.

    Source: Brock, De, Smith & Simonyan 2021, eq. 3, arXiv:2102.06171, and the authors' code for what a unit is.
    Symbols: W_i, G_i weights and gradient of unit i, λ = clipping, ε = eps.

        ‖W_i‖* = max(‖W_i‖, ε)
        G_i ← λ ‖W_i‖* / ‖G_i‖ G_i   if ‖G_i‖ / ‖W_i‖* > λ,  G_i otherwise

    Deviation: at ε = 0 the condition is ‖G_i‖ > λ ‖W_i‖*, for a unit may be at 0.
    """
    w = copies(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, alpha = copies(grad), lr_at(lr, t)
        for name in w:
            for unit in units(w[name].shape, heads):
                weight = max(math.sqrt(sum(float(w[name][i]) ** 2 for i in unit)), eps)
                length = math.sqrt(sum(float(g[name][i]) ** 2 for i in unit))
                for i in unit:
                    clipped = clipping * weight / length * g[name][i] if length > clipping * weight else g[name][i]
                    w[name][i] = w[name][i] - alpha * clipped
        trajectory.append(copies(w))
    return trajectory
