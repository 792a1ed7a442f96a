"""Hyperparameters that follow functions of the step: which of them can, and whether the values can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from optimkit.errors import HyperparameterError, message
from optimkit.schedule import LAST_STEP, Schedule

Function = Callable[[Any], Any]


def check_real(where: str, name: str, domain: Any, value: Any, how: str) -> None:
    """Raise unless a hyperparameter is a real number: a whole one or a choice is part of what a program is.

    Raises:
        HyperparameterError: it is not; ``how`` is what it cannot do.
    """
    if value is None or not isinstance(domain, str) or domain.startswith("int "):
        raise HyperparameterError(message(
            where, f"hyperparameter {name!r} {how}.", "one that is a real number", f"{value!r}",
            "It is a constant of compiled programs. Give it a fixed value."))  # fmt: skip


def check_values(where: str, name: str, schedule: Function, check: Callable[[Any], Any]) -> None:
    """Raise where a schedule leaves the range of its hyperparameter, as far as looking at some steps can tell.

    Args:
        where: for messages.
        name: that of the hyperparameter.
        schedule: the function of the step.
        check: raises HyperparameterError where a value is out of range.
    """
    for t in sampled_steps(schedule):
        value = scalar(where, name, schedule(t))
        try:
            check(value)
        except HyperparameterError as error:
            raise HyperparameterError(f"{error}\nIt is the value at step {t} of {schedule!r}.") from None


def sampled_steps(schedule: Function) -> list[int]:
    """Return steps to look at a schedule at: the first, and powers of 2 up to the last, for those that are ours."""
    return [0, *(2**i for i in range(31)), LAST_STEP] if isinstance(schedule, Schedule) else [0]


def scalar(where: str, name: str, value: Any) -> Any:
    """Return what a schedule gave, or raise where it is no real scalar.

    Example:
        >>> scalar("pure(Adam)", "beta1", "0.9")
        Traceback (most recent call last):
        ...
        optimkit.errors.HyperparameterError: pure(Adam): the schedule of 'beta1' gives no real number.
          expected a scalar
          got      '0.9'
    """
    if not isinstance(value, jax.Array) and hasattr(value, "__jax_array__"):  # a variable
        value = value.__jax_array__()
    number = isinstance(value, int | float) or getattr(value, "dtype", np.dtype(bool)).kind in "fiuV"
    if isinstance(value, bool) or np.shape(value) != () or not number:
        raise HyperparameterError(message(where, f"the schedule of {name!r} gives no real number.", "a scalar",
                                          repr(value)))  # fmt: skip
    return value
