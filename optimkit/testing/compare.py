"""How far apart two trajectories are, and the errors that say where.

The distance of two values of a parameter is relative to what floating point rounds on the way there::

    |got - expected| / (max over steps of |p|  +  sum over steps of |displacement|)

Each step rounds the position once, in units of |p|, and the displacement some ten times, in units of its own size. So
the distance of two right programs is at most a small multiple of eps for each step, whatever the scales of parameters
and gradients are; see :func:`rounding`. For a parameter that starts at 0 the distance is relative to the way it went.
A way shorter than 1e-31 counts as 1e-31: processors replace what is below 1.2e-38, the smallest normal number of
float32, by 0 in some programs and not in others, and there that is one rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from optimkit.errors import ConformanceError, describe, message

Flat = dict[str, np.ndarray]

# Adam, the longest of the rules, rounds about 12 times from a gradient to a parameter. Compiled, vectorized and eager
# programs may fuse a product into a sum or add in another order, which moves each of these roundings by at most one.
ROUNDINGS = 16

_FLUSHED = float(np.finfo(np.float32).tiny) / float(np.finfo(np.float32).eps)


def rounding(steps: int, dtype: Any = np.float32) -> float:
    """Return how far two right programs may be apart after some steps: ``16 · eps · steps``."""
    return ROUNDINGS * float(jnp.finfo(dtype).eps) * steps


def distances(got: Sequence[Flat], expected: Sequence[Flat], start: Flat) -> list[Flat]:
    """Return the distance of each element at each step; infinite where only one of the two is finite.

    Args:
        got: parameters by name, after each step.
        expected: what they should be.
        start: the parameters before the first step.
    """
    last = {name: _wide(x) for name, x in start.items()}
    scale = {name: np.abs(x) for name, x in last.items()}
    position = dict(scale)
    result = []
    with np.errstate(invalid="ignore"):  # NaN and infinity are told apart in _ratio
        for values, wanted in zip(got, expected, strict=True):
            step: Flat = {}
            for name, x in wanted.items():
                right, value = _wide(x), _wide(values[name])
                path = scale[name] - position[name] + np.abs(right - last[name])
                position[name] = np.maximum(position[name], np.abs(right))
                scale[name], last[name] = position[name] + path, right
                step[name] = _ratio(np.abs(value - right), np.maximum(scale[name], _FLUSHED))
            result.append(step)
    return result


def furthest(steps: Sequence[Flat]) -> float:
    """Return the largest of all distances."""
    return max((float(x.max()) for step in steps for x in step.values() if x.size), default=0.0)


def require_close(
    where: str, got: Sequence[Flat], expected: Sequence[Flat], start: Flat, tolerance: float, what: str = "parameters"
) -> None:
    """Raise ConformanceError at the first step and element that is further than ``tolerance``."""
    for t, step in enumerate(distances(got, expected, start), start=1):
        for name, x in step.items():
            if x.size and not x.max() <= tolerance:
                i = np.unravel_index(int(np.argmax(x)), x.shape)
                raise ConformanceError(message(
                    where, f"the {what} differ at step {t}, first in {element(name, i)}.",
                    f"{float(_wide(expected[t - 1][name])[i])!r}, relative tolerance {tolerance:.1e}",
                    f"{float(_wide(got[t - 1][name])[i])!r}, relative difference {x[i]:.1e}"))  # fmt: skip


def require_identical(where: str, got: Flat, expected: Flat, what: str) -> None:
    """Raise ConformanceError unless names, shapes, dtypes and all bits are the same."""
    if list(got) != list(expected):
        raise ConformanceError(message(where, f"{what}: other names.", list(expected), list(got)))
    for name, x in expected.items():
        y = got[name]
        if describe(y) != describe(x):
            raise ConformanceError(message(where, f"{what}: {name!r} has another form.", describe(x), describe(y)))
        if x.tobytes() != y.tobytes():
            differs = np.frombuffer(x.tobytes(), f"V{x.itemsize}") != np.frombuffer(y.tobytes(), f"V{y.itemsize}")
            i = np.unravel_index(int(np.argmax(differs)), x.shape)
            raise ConformanceError(message(
                where, f"{what}: {element(name, i)} differs.", f"{x[i]!r}, to the last bit", f"{y[i]!r}"
            ))  # fmt: skip


def require_finite(where: str, values: Flat, what: str) -> None:
    """Raise ConformanceError where a value is NaN or infinite."""
    for name, x in values.items():
        bad = ~np.isfinite(_wide(x))
        if bad.any():
            i = np.unravel_index(int(np.argmax(bad)), x.shape)
            raise ConformanceError(message(where, f"{what}: {element(name, i)} is not finite.", "a finite number",
                                           repr(float(_wide(x)[i])),
                                           "Guard divisions at 0/0 and squares against overflow."))  # fmt: skip


def element(name: str, i: tuple[Any, ...]) -> str:
    """Return how messages name an element of an array: ``'weight'[0, 2]``."""
    return repr(name) + (f"[{', '.join(map(str, i))}]" if i else "")


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x, dtype=np.float64)


def _ratio(difference: np.ndarray, scale: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(difference == 0, 0.0, difference / scale)
    return np.where(np.isnan(ratio), np.inf, ratio)
