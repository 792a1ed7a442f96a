"""Schedules put together: one after the other, or after a warmup."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

from optimkit.errors import CompositionError, describe, message
from optimkit.hyper import hyper
from optimkit.schedule.arithmetic import after, warmed
from optimkit.schedule.base import COMPULSORY, COUNT, COUNT_OR_ZERO, REAL, Schedule, check_boundaries, documented


@documented
@dataclasses.dataclass(frozen=True)
class Join(Schedule):
    """Schedules one after the other, each with steps counted from its own beginning. ``join`` is another name of it.

    s(t) = schedules[k](t - boundaries[k - 1])  for  boundaries[k - 1] <= t < boundaries[k]

    ``schedules`` are one more than there are boundaries; any function of the step that works on traced steps is one.

    Raises:
        CompositionError: one of the schedules cannot be called.
        HyperparameterError: the boundaries do not increase, or their number does not fit.

    Example:
        >>> from optimkit.schedule import Constant, Linear
        >>> schedule = Join([Linear(0.0, 1.0, 10), Constant(1.0), Linear(1.0, 0.0, 10)], [10, 20])
        >>> [schedule(t) for t in (0, 5, 10, 19, 25, 30)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """

    schedules: tuple[Callable[[Any], Any], ...]
    boundaries: tuple[int, ...] = hyper(COMPULSORY, f"each {COUNT}", "a step at which the next schedule begins")

    def __post_init__(self) -> None:
        super().__post_init__()
        schedules = tuple(self.schedules) if isinstance(self.schedules, list | tuple) else (self.schedules,)
        for i, schedule in enumerate(schedules):
            _check_callable("Join", f"schedules[{i}]", schedule)
        object.__setattr__(self, "schedules", schedules)
        check_boundaries("Join", "schedules", len(schedules), self.boundaries)

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        value = _call(self.schedules[0], step, xp)
        for boundary, schedule in zip(self.boundaries, self.schedules[1:], strict=True):
            value = xp.where(step < boundary, value, _call(schedule, after(xp, step, boundary), xp))
        return value


join = Join


@documented
@dataclasses.dataclass(frozen=True)
class Warmup(Schedule):
    """A linear ramp up to where a schedule begins, and then that schedule, with steps counted from the ramp's end.

    s(t) = start + (schedule(0) - start) t / steps  for t < steps,  then  schedule(t - steps)

    ``schedule`` is a schedule, or any function of the step that works on traced steps. The whole is longer than it by
    ``steps``: ``Warmup(Cosine(peak, n - w), w)`` is ``WarmupCosine(peak, w, n)``. This is how every schedule warms up,
    ``Warmup(Constant(peak), w)`` and ``Warmup(Polynomial(peak, 0.0, n - w, power=2.0), w)`` for two.

    Raises:
        CompositionError: the schedule cannot be called.

    Example:
        >>> from optimkit.schedule import Exponential, Polynomial
        >>> exponential = Warmup(Exponential(1.0, rate=0.5, steps=10), steps=4)
        >>> polynomial = Warmup(Polynomial(1.0, 0.0, steps=10, power=2.0), steps=4)
        >>> [exponential(t) for t in (0, 1, 4, 14)], [polynomial(t) for t in (0, 1, 4, 9, 14)]
        ([0.0, 0.25, 1.0, 0.5], [0.0, 0.25, 1.0, 0.25, 0.0])
    """

    schedule: Callable[[Any], Any]
    steps: int = hyper(COMPULSORY, COUNT_OR_ZERO, "the number of steps of the ramp")
    start: float = hyper(0.0, REAL, "the value at step 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_callable("Warmup", "schedule", self.schedule)

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        value = _call(self.schedule, after(xp, step, self.steps), xp)
        return warmed(xp, step, self.start, _call(self.schedule, xp.zeros_like(step), xp), self.steps, value)


def _check_callable(where: str, name: str, value: Any) -> None:
    """Raise unless a part of a schedule can be called with a step."""
    if not callable(value):
        fix = f"Write Constant({value!r})." if isinstance(value, int | float) else ""
        problem = f"{name!r} is not a schedule."
        raise CompositionError(message(where, problem, "a function of the step", describe(value), fix))


def _call(schedule: Callable[[Any], Any], step: Any, xp: ModuleType) -> Any:
    """Return the value of a part of a schedule; parts that are no Schedule are called as they are."""
    return schedule.value_at(step, xp) if isinstance(schedule, Schedule) else schedule(step)
