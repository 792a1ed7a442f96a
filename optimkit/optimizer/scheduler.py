"""objax's schedulers, under their names and with their signatures: functions from the step to the learning rate.

They are schedules like those of :mod:`optimkit.schedule`, which new code should prefer, and are built from them.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

from optimkit.errors import HyperparameterError, message
from optimkit.hyper import check_lr, hyper
from optimkit.schedule import COMPULSORY, LAST_STEP, RATE, Exponential, Linear, Schedule, check_field, documented

__all__ = ["LinearAnnealing", "Scheduler", "StepDecay"]

STEP, LENGTH, LR = f"[0, {LAST_STEP}]", f"(0, {LAST_STEP}]", "(0, 1e30]"


class Scheduler(Schedule):
    """Base of objax's schedulers: ``scheduler(step) = base_lr * scheduler.multiplier(step)``.

    A subclass gives ``multiplier(step)``. The step counts from 0; it is a number, or an array of NumPy or JAX.

    Args:
        base_lr: the learning rate at multiplier 1, at least 0.

    Raises:
        HyperparameterError: the learning rate is not a finite number >= 0, or a step that is known when called is NaN.
        DTypeError: a step is not a real number.

    Example:
        >>> class Halving(Scheduler):
        ...     def multiplier(self, step):
        ...         return 0.5**step
        >>> Halving(base_lr=0.8)(2)
        0.2
    """

    base_lr: float

    def __init__(self, base_lr: float = 1.0):
        check_lr(type(self).__name__, base_lr)
        self.base_lr = base_lr

    def multiplier(self, step: Any) -> Any:
        """Return the factor of ``base_lr`` at a step >= 0."""
        raise NotImplementedError(f"{type(self).__name__} is a Scheduler without the method multiplier(step).")

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        """Return ``base_lr * multiplier(step)``."""
        return self.base_lr * self.multiplier(step)


@documented
@dataclasses.dataclass(frozen=True)
class LinearAnnealing(Scheduler):
    """A straight line from ``base_lr`` to ``min_lr`` in ``max_step`` steps, which **starts again** unless told not to.

    s(t) = base_lr + (min_lr - base_lr) x,  x = (t mod max_step) / max_step,  or without a cycle min(t / max_step, 1)

    Warning: ``is_cycle`` is True by default, as in objax. Then ``max_step`` is a period: at step ``max_step`` the
    learning rate is back at ``base_lr``, and it never quite reaches ``min_lr``. A run of more than ``max_step`` steps
    goes on at the full rate. For a single decay give ``is_cycle=False``, or ``schedule.Linear(base_lr, min_lr, n)``.

    Deviations from objax: a Python step gives a Python float, and a step below 0 counts as 0.

    Raises:
        HyperparameterError: a field is out of its range, or ``min_lr`` is above ``base_lr``.

    Example:
        >>> cycle, once = LinearAnnealing(10, base_lr=0.5), LinearAnnealing(10, base_lr=0.5, is_cycle=False)
        >>> [cycle(t) for t in (0, 5, 10, 15)], [once(t) for t in (0, 5, 10, 15)]
        ([0.5, 0.25, 0.5, 0.25], [0.5, 0.25, 0.0, 0.0])
    """

    max_step: float = hyper(COMPULSORY, LENGTH, "the number of steps from 'base_lr' to 'min_lr', whole or not")
    base_lr: float = hyper(1.0, LR, "the learning rate at step 0")
    is_cycle: bool = hyper(True, bool, "whether the line starts again every 'max_step' steps")
    min_lr: float = hyper(0.0, "[0, 1e30]", "the learning rate at the end of the line, at most 'base_lr'")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "max_step", _whole(self.max_step))
        if self.min_lr > self.base_lr:
            problem = "'min_lr' is above 'base_lr'."
            raise HyperparameterError(message("LinearAnnealing", problem, f"at most {self.base_lr}", f"{self.min_lr}"))

    def multiplier(self, step: Any) -> Any:
        """Return the factor of ``base_lr`` at a step >= 0: 1 at step 0, falling to ``min_lr / base_lr``."""
        if self.is_cycle:
            step = step % self.max_step
        # a line of length 1, at the part of max_step that has passed: max_step need not be whole
        return Linear(1.0, self.min_lr / self.base_lr, steps=1)(step / self.max_step)


@documented
@dataclasses.dataclass(frozen=True)
class StepDecay(Scheduler):
    """A learning rate that drops by the factor ``gamma`` at regular, or at given, steps.

    s(t) = base_lr gamma^k,  k = t // step_size,  or the number of entries of ``step_size`` that are <= t

    ``step_size`` is the number of steps from one drop to the next, or a list of the steps at which it drops.
    Deviations from objax: a Python step gives a Python float, and a step below 0 counts as 0.

    Raises:
        HyperparameterError: a field is out of its range.

    Example:
        >>> [StepDecay(10, gamma=0.5)(t) for t in (0, 9, 10, 30)]
        [1.0, 1.0, 0.5, 0.125]
        >>> [StepDecay([10, 15], gamma=0.5)(t) for t in (0, 10, 15, 100)]
        [1.0, 0.5, 0.25, 0.25]
    """

    step_size: float | tuple[float, ...]
    base_lr: float = hyper(1.0, LR, "the learning rate before the first drop")
    gamma: float = hyper(0.1, RATE, "the factor of a drop")

    def __post_init__(self) -> None:
        super().__post_init__()
        several = isinstance(self.step_size, list | tuple)
        domain, doc = (f"each {STEP}", "a step at which it drops") if several else (LENGTH, "the steps between drops")
        size = check_field("StepDecay", "step_size", self.step_size, domain, doc)
        object.__setattr__(self, "step_size", tuple(map(_whole, size)) if several else _whole(size))

    def multiplier(self, step: Any) -> Any:
        """Return the factor of ``base_lr`` at a step >= 0: a power of ``gamma``."""
        if isinstance(self.step_size, tuple):
            drops = sum(step >= boundary for boundary in self.step_size)
        else:
            drops = step // self.step_size
        return Exponential(1.0, self.gamma, steps=1, staircase=True)(drops)


def _whole(number: float) -> float:
    """Return the number as an int where it is whole, so that remainders of int32 steps are exact."""
    return int(number) if number.is_integer() else number
