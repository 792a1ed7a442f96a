"""Schedules of one shape: a value that holds, or that goes from one value to another along a curve."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

from optimkit.errors import HyperparameterError, message
from optimkit.hyper import hyper
from optimkit.schedule.arithmetic import LARGEST, after, between, parts, power, travel
from optimkit.schedule.base import COMPULSORY, COUNT, COUNT_OR_ZERO, RATE, REAL, Schedule, documented


@documented
@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step: s(t) = value.

    Example:
        >>> Constant(0.1)(1000)
        0.1
    """

    value: float = hyper(COMPULSORY, REAL, "the value at every step")

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        return self.value


@documented
@dataclasses.dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from ``start`` to ``end``, which then holds.

    s(t) = start + (end - start) x,  x = min(max(t - begin, 0) / steps, 1)

    Monotone to the last bit. ``Linear(0.0, peak, n)`` is a warmup, whose first step has the value 0 and moves nothing.

    Example:
        >>> schedule = Linear(1.0, 0.0, steps=4, begin=2)
        >>> [schedule(t) for t in (0, 2, 3, 6, 100)]
        [1.0, 1.0, 0.75, 0.0, 0.0]
    """

    start: float = hyper(COMPULSORY, REAL, "the value up to step 'begin'")
    end: float = hyper(COMPULSORY, REAL, "the value from step 'begin + steps' on")
    steps: int = hyper(COMPULSORY, COUNT, "the number of steps from 'start' to 'end'")
    begin: int = hyper(0, COUNT_OR_ZERO, "the step at which the change begins")

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        return travel(xp, after(xp, step, self.begin), self.start, self.end, self.steps)


@documented
@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
    """A power of a line from ``start`` to ``end``, which then holds.

    s(t) = end + (start - end) (1 - x)^power,  x = min(max(t - begin, 0) / steps, 1)

    Monotone to rounding. A power above 1 changes fast at first and slowly at the end; power 1 is :class:`Linear`.

    Example:
        >>> schedule = Polynomial(1.0, 0.0, steps=4, power=2.0)
        >>> [schedule(t) for t in (0, 1, 2, 4, 100)]
        [1.0, 0.5625, 0.25, 0.0, 0.0]
    """

    start: float = hyper(COMPULSORY, REAL, "the value up to step 'begin'")
    end: float = hyper(COMPULSORY, REAL, "the value from step 'begin + steps' on")
    steps: int = hyper(COMPULSORY, COUNT, "the number of steps from 'start' to 'end'")
    power: float = hyper(1.0, "(0, 1e30]", "the exponent of what remains of the way")
    begin: int = hyper(0, COUNT_OR_ZERO, "the step at which the change begins")

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        remaining = parts(xp, after(xp, step, self.begin), self.steps)[1] ** self.power
        return between(xp, self.start, self.end, 1 - remaining, remaining)


@documented
@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine wave from ``peak`` to ``final``, which then holds.

    s(t) = final + (peak - final) (1 + cos(pi x)) / 2,  x = min(t / steps, 1)

    ``final`` is a value in the units of ``peak``, not a fraction of it. Monotone to rounding. Loshchilov & Hutter
    2017, eq. 5, without restarts.

    Example:
        >>> schedule = Cosine(1.0, steps=4, final=0.5)
        >>> [round(schedule(t), 4) for t in (0, 1, 2, 4, 100)]
        [1.0, 0.9268, 0.75, 0.5, 0.5]
    """

    peak: float = hyper(COMPULSORY, REAL, "the value at step 0")
    steps: int = hyper(COMPULSORY, COUNT, "the number of steps from 'peak' to 'final'")
    final: float = hyper(0.0, REAL, "the value from step 'steps' on, not a fraction of 'peak'")

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        return travel(xp, step, self.peak, self.final, self.steps, "cosine")


@documented
@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """A value that is multiplied by ``rate`` every ``steps`` steps, smoothly or in stairs.

    s(t) = max(start rate^x, floor),  x = t / steps,  or with ``staircase`` the whole part of it

    It goes on for ever, toward 0 or ``floor`` for a rate below 1. A rate above 1, as in a search for the largest
    learning rate, grows up to the largest float32.

    Raises:
        HyperparameterError: also if ``floor`` is above ``start``.

    Example:
        >>> schedule = Exponential(1.0, rate=0.5, steps=10, staircase=True, floor=0.1)
        >>> [schedule(t) for t in (0, 9, 10, 20, 1000)]
        [1.0, 1.0, 0.5, 0.25, 0.1]
    """

    start: float = hyper(COMPULSORY, REAL, "the value at step 0")
    rate: float = hyper(COMPULSORY, RATE, "the factor for every 'steps' steps")
    steps: int = hyper(COMPULSORY, COUNT, "the number of steps for one factor of 'rate'")
    staircase: bool = hyper(False, bool, "whether the value changes only every 'steps' steps")
    floor: float | None = hyper(None, REAL, "the smallest value")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor is not None and self.floor > self.start:
            problem = "'floor' is above 'start'."
            raise HyperparameterError(message("Exponential", problem, f"at most {self.start}", f"{self.floor}"))

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        exponent = step // self.steps if self.staircase else step / self.steps
        value = xp.clip(self.start * power(xp, self.rate, exponent), -LARGEST, LARGEST)
        return value if self.floor is None else xp.maximum(value, self.floor)
