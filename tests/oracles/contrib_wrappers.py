"""Oracles of contrib's wrappers that have few lines: ReduceOnPlateau and SplitComplex, around momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .common import LearningRate, Params, Trajectory, lr_at
from .sgd import oracle_momentum


def scales(
    values: Sequence[float],
    *,
    factor: float = 0.1,
    patience: int = 10,
    rtol: float = 1e-4,
    atol: float = 0.0,
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: float = 0.0,
) -> list[float]:
    """Return what the learning rate is multiplied by at each step.

    Source: optax's documentation of ``contrib.reduce_on_plateau``; there is no paper. Deviation: rtol is relative to
    the size of the best value, which may be negative.
    """
    scale, best, bad, rest, seen, result = 1.0, math.inf, 0, 0, [], []
    for value in values:
        seen.append(value)
        if len(seen) == accumulation_size:
            mean, seen = sum(seen) / len(seen), []
            if mean < (best if best == math.inf else best - rtol * abs(best) - atol):
                best, bad = mean, 0
            else:
                bad += 1
            if rest > 0:
                rest, bad = rest - 1, 0
            elif bad == patience:
                scale, bad, rest = max(scale * factor, min_scale), 0, cooldown
        result.append(scale)
    return result


def oracle_reduce_on_plateau(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    values: Sequence[float] | None = None,
    **hyper: float,
) -> Trajectory:
    """Momentum at rates that fall on plateaus; of the kit's loss, which is 1 at all times, unless there are values."""
    times = scales([1.0] * len(grads) if values is None else values, **hyper)  # type: ignore[arg-type]
    rates = [lr_at(lr, t) * s for t, s in enumerate(times, start=1)]
    return oracle_momentum(params, grads, rates, momentum=momentum, nesterov=nesterov)


def oracle_split_complex(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    conjugate: bool = True,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Trajectory:
    """Momentum of complex numbers: m = μ m + ḡ, z = z - ε m; real arrays give momentum.

    Source: Kreutz-Delgado 2009, section 4: a real L rises fastest along 2 ∂L/∂z̄ = ∂L/∂x + i ∂L/∂y, the conjugate of
    what ``jax.grad`` returns. arXiv:0906.4835.
    """
    z = {name: np.array(p, np.result_type(p, np.float64)) for name, p in params.items()}
    m = {name: np.zeros_like(p) for name, p in z.items()}
    way = []
    for t, grad in enumerate(grads, start=1):
        for name in z:
            g = np.conj(grad[name]) if conjugate else np.asarray(grad[name])
            for i in np.ndindex(z[name].shape):
                m[name][i] = momentum * m[name][i] + g[i]
                z[name][i] = z[name][i] - lr_at(lr, t) * (g[i] + momentum * m[name][i] if nesterov else m[name][i])
        way.append({name: x.copy() for name, x in z.items()})
    return way
