"""Schedules from a list of values and the steps that part them: constant between the steps, or interpolated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from optimkit.hyper import hyper
from optimkit.schedule.arithmetic import after, passed_boundaries, travel
from optimkit.schedule.base import COMPULSORY, COUNT, REAL, Schedule, check_boundaries, documented


@documented
@dataclasses.dataclass(frozen=True)
class Piecewise(Schedule):
    """A constant value on each interval between boundaries.

    s(t) = values[k]  for  boundaries[k - 1] <= t < boundaries[k]

    Raises:
        HyperparameterError: a number is out of its range, or the boundaries do not increase or do not fit the values.

    Example:
        >>> schedule = Piecewise([1.0, 0.1, 0.01], [30, 60])
        >>> [schedule(t) for t in (0, 29, 30, 60, 1000)]
        [1.0, 1.0, 0.1, 0.01, 0.01]
    """

    values: tuple[float, ...] = hyper(COMPULSORY, f"each {REAL}", "the value on one interval")
    boundaries: tuple[int, ...] = hyper(COMPULSORY, f"each {COUNT}", "a step at which the next value begins to hold")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_boundaries("Piecewise", "values", len(self.values), self.boundaries)

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        return xp.asarray(self.values)[passed_boundaries(xp, step, self.boundaries)]


@documented
@dataclasses.dataclass(frozen=True)
class Interpolated(Schedule):
    """The curve through given values at given steps, straight or in half cosine waves; the last value then holds.

    s(0) = values[0],  s(boundaries[k]) = values[k + 1],  and from one of these to the next, with x from 0 to 1,
    s(t) = a + (b - a) x  or  a + (b - a) (1 - cos(pi x)) / 2

    Where :class:`Piecewise` jumps to the next value, this one arrives at it; both take the same arguments. Straight
    pieces are monotone to the last bit, half waves to rounding; between two equal values it holds.

    Raises:
        HyperparameterError: a number is out of its range, or the boundaries do not increase or do not fit the values.

    Example:
        >>> schedule = Interpolated([0.0, 1.0, 0.5], [4, 8])
        >>> [schedule(t) for t in (0, 1, 4, 6, 8, 100)]
        [0.0, 0.25, 1.0, 0.75, 0.5, 0.5]
    """

    values: tuple[float, ...] = hyper(COMPULSORY, f"each {REAL}", "the value at step 0 or at one of 'boundaries'")
    boundaries: tuple[int, ...] = hyper(COMPULSORY, f"each {COUNT}", "a step at which the next value is reached")
    shape: str = hyper("linear", ("linear", "cosine"), "the way from one value to the next")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_boundaries("Interpolated", "values", len(self.values), self.boundaries)

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        return interpolate(xp, step, self.values, self.boundaries, self.shape)


def interpolate(
    xp: ModuleType, step: Any, values: Sequence[float], boundaries: Sequence[int], shape: str = "linear"
) -> Any:
    """Return the value of :class:`Interpolated` at a step; the values are one more than the boundaries."""
    begins, ends = [0, *boundaries], [*boundaries, boundaries[-1] + 1 if boundaries else 1]
    k = passed_boundaries(xp, step, boundaries)
    start, end = xp.asarray(values)[k], xp.asarray([*values[1:], values[-1]])[k]
    steps = xp.asarray(np.subtract(ends, begins), np.int32)[k]
    return travel(xp, after(xp, step, xp.asarray(begins, np.int32)[k]), start, end, steps, shape)
