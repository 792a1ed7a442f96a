"""The arithmetic of schedules: ways from one value to another that are exact at both ends and never pass them.

``xp`` is ``numpy`` or ``jax.numpy`` everywhere. Numbers may be Python's or arrays that broadcast against the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

LARGEST = float(np.finfo(np.float32).max)
# In float32, exp of the one is still finite, and exp of the other is 0.
LARGEST_LOG, SMALLEST_LOG = 88.0, -104.0


def between(xp: ModuleType, start: Any, end: Any, to_end: Any, to_start: Any) -> Any:
    """Return ``start * to_start + end * to_end`` for weights that sum to 1: exact at both ends, and never outside.

    The sum is taken from the end that is smaller in magnitude, for which it is accurate where the value is small:
    the first steps of a warmup and the last ones of a decay. Where the weights are monotone, so is the value, to the
    last bit.
    """
    small_start = abs(start) <= abs(end)
    value = xp.where(small_start, start + (end - start) * to_end, end + (start - end) * to_start)
    value = xp.clip(value, xp.minimum(start, end), xp.maximum(start, end))
    return xp.where(to_start <= 0, end, xp.where(to_end <= 0, start, value))


def straight(xp: ModuleType, passed: Any, remaining: Any) -> tuple[Any, Any]:
    """Return the weights x and 1 - x of a straight line, x being the part that has passed."""
    return passed, remaining


def half_wave(xp: ModuleType, passed: Any, remaining: Any) -> tuple[Any, Any]:
    """Return the weights (1 - cos(pi x)) / 2 and (1 + cos(pi x)) / 2 of half a cosine wave."""
    # (1 + cos(pi x)) / 2 = sin(pi (1 - x) / 2)**2, which does not cancel where it is small
    return xp.sin(math.pi / 2 * passed) ** 2, xp.sin(math.pi / 2 * remaining) ** 2


def one_minus_sqrt(xp: ModuleType, passed: Any, remaining: Any) -> tuple[Any, Any]:
    """Return the weights sqrt(x) and 1 - sqrt(x)."""
    # 1 - sqrt(x) = (1 - x) / (1 + sqrt(x)), which does not cancel where it is small
    root = xp.sqrt(passed)
    return root, remaining / (1 + root)


SHAPES: dict[str, Callable[[ModuleType, Any, Any], tuple[Any, Any]]] = {
    "linear": straight,
    "cosine": half_wave,
    "1-sqrt": one_minus_sqrt,
}


def parts(xp: ModuleType, step: Any, steps: Any) -> tuple[Any, Any]:
    """Return the part of ``steps`` that has passed and the part that remains, both within [0, 1].

    The remainder is counted in whole steps, not as ``1 - passed``, which in float32 would lose the last steps.
    """
    passed = xp.minimum(step, steps)
    return passed / steps, (steps - passed) / steps


def travel(xp: ModuleType, step: Any, start: Any, end: Any, steps: Any, shape: str = "linear") -> Any:
    """Return the value at ``step`` on the way from ``start`` to ``end`` in ``steps`` steps, at least 1."""
    return between(xp, start, end, *SHAPES[shape](xp, *parts(xp, step, steps)))


def warmed(xp: ModuleType, step: Any, start: Any, peak: Any, steps: int, value: Any) -> Any:
    """Return the line from ``start`` to ``peak`` during the first ``steps`` steps, and ``value`` after them."""
    return xp.where(step < steps, travel(xp, step, start, peak, steps), value) if steps else value


def after(xp: ModuleType, step: Any, begin: Any) -> Any:
    """Return the steps since ``begin``, 0 before it."""
    return xp.maximum(step - begin, 0)


def passed_boundaries(xp: ModuleType, step: Any, boundaries: Sequence[int]) -> Any:
    """Return how many of the boundaries are at or before the step, as an index into tables."""
    return (xp.expand_dims(step, -1) >= xp.asarray(boundaries, np.int32)).sum(-1)


def power(xp: ModuleType, base: float, exponent: Any) -> Any:
    """Return ``base**exponent`` for a base and an exponent above 0, which stops growing before it leaves float32."""
    log = math.log(base)
    if log > 0:
        exponent = xp.minimum(exponent, LARGEST_LOG / log)
    if xp is np:
        return base**exponent
    if log < 0:
        # From here on it is 0 in float32. A larger exponent would make the second factor below infinite, and 0 * inf.
        exponent = xp.minimum(exponent, SMALLEST_LOG / log)
    # A float32 of the base is off by up to eps / 2, its power by exponent times that: the second factor undoes it.
    undo = jnp.exp(exponent * (log - math.log(np.float32(base))))
    return xp.minimum(base**exponent * undo, LARGEST)
