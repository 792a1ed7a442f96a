"""Hyperparameters: name, default, range and meaning on one line.

``hyper(0.9, "[0, 1)", "decay of the mean of gradients")`` declares a field of a rule. What it declares serves four
readers: the constructor validates against it, the docstring lists it, ``optimkit.testing`` draws from it, and a
person reads it. A *domain* is an interval such as ``"[0, 1)"`` or ``"(0, inf)"``, the same with ``"int"`` in front,
``bool``, or a tuple of the values allowed; ``None`` is allowed where it is the default.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from optimkit.errors import HyperparameterError, message

Domain = str | type[bool] | tuple[Any, ...]


def hyper(default: Any, domain: Domain, doc: str, *, kw_only: bool = False) -> Any:
    """Declare a hyperparameter of a rule: its default, where its value must lie, and what it means.

    Args:
        default: the value when none is given. ``dataclasses.MISSING`` makes it compulsory.
        domain: an interval (``"[0, 1)"``, ``"int [1, inf)"``), ``bool``, or a tuple of allowed values.
        doc: its meaning, in a few words without a full stop.
        kw_only: whether it can be given by keyword only.
    """
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"domain": domain, "doc": doc})


def hyperparameters(rule: Any) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a rule (class or value) that ``hyper`` declared, by name."""
    return {f.name: f for f in dataclasses.fields(rule) if "domain" in f.metadata}


def check_hyperparameters(holder: Any, *, arrays: bool = False) -> None:
    """Raise unless each hyperparameter of a frozen dataclass lies in its domain; NumPy scalars become Python numbers.

    Args:
        holder: the value, under construction.
        arrays: whether scalars of JAX become Python numbers, too. Otherwise they stay, as data.

    Raises:
        HyperparameterError: a value is of the wrong type, NaN, or outside its domain.
    """
    for name, f in hyperparameters(holder).items():
        value = getattr(holder, name)
        scalar = isinstance(value, np.ndarray) or (arrays and isinstance(value, jax.Array))
        if isinstance(value, np.generic) or (scalar and value.ndim == 0):
            object.__setattr__(holder, name, value := value.item())
        optional = f.default is None
        check_hyperparameter(type(holder).__name__, name, value, f.metadata["domain"], optional=optional)


def check_hyperparameter(where: str, name: str, value: Any, domain: Domain, *, optional: bool = False) -> None:
    """Raise unless ``value`` lies in ``domain``; values that are not known yet (tracers) pass.

    Raises:
        HyperparameterError: the value is of the wrong type, NaN, or outside the domain.

    Example:
        >>> check_hyperparameter("Adam", "beta1", 1.5, "[0, 1)")
        Traceback (most recent call last):
        ...
        optimkit.errors.HyperparameterError: Adam: hyperparameter 'beta1' is out of range.
          expected [0, 1)
          got      1.5
    """
    if isinstance(value, jax.core.Tracer) or (value is None and optional):
        return
    if isinstance(domain, tuple):
        ok = any(_is_choice(value, choice) for choice in domain)
        expected = "one of " + ", ".join(map(repr, domain))
    elif domain is bool:
        ok, expected = isinstance(value, bool), "True or False"
    else:
        ok, expected = contains(domain, value), f"{domain}"
    if not ok:
        shown = expected + (" or None" if optional else "")
        raise HyperparameterError(message(where, f"hyperparameter {name!r} is out of range.", shown, f"{value!r}"))


def _is_choice(value: Any, choice: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray) or isinstance(value, bool) != isinstance(choice, bool):
        return False
    return value is choice or bool(value == choice)


def contains(interval: str, value: Any) -> bool:
    """Tell whether a number, or each number of an array, lies in an interval such as ``"[0, 1)"``.

    Example:
        >>> contains("[0, 1)", 1.0), contains("int [1, inf)", 2), contains("int [1, inf)", 2.5)
        (False, True, False)
    """
    low, high, kind = parse_interval(interval)
    if isinstance(value, jax.Array | np.ndarray):
        return all(contains(interval, x) for x in np.asarray(value).ravel().tolist())
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
        return False
    if kind is int and not isinstance(value, numbers.Integral):
        return False
    number = float(value)
    above = low < number or (low == number and "[" in interval)
    below = number < high or (high == number and "]" in interval)
    return above and below


def with_section(doc: str | None, title: str, lines: Iterable[str]) -> str:
    """Return a docstring with a section below it. Some Pythons store docstrings indented, and some do not."""
    return "\n".join([inspect.cleandoc(doc or ""), "", f"{title}:", *(f"    {line}" for line in lines), ""])


def parse_interval(interval: str) -> tuple[float, float, type]:
    """Split ``"int [1, inf)"`` into its ends and the kind of number: ``(1.0, inf, int)``."""
    kind = int if interval.startswith("int ") else float
    low, high = interval.removeprefix("int ")[1:-1].split(",")
    return float(low), float(high), kind


def check_lr(where: str, lr: Any) -> None:
    """Raise unless ``lr`` is a finite real scalar, not negative, as far as that is known when called.

    Raises:
        HyperparameterError: the learning rate is not a real scalar, negative, NaN or infinite.
    """
    shape, dtype = np.shape(lr), getattr(lr, "dtype", None)
    fix = ""
    if isinstance(lr, bool | str) or (dtype is None and not isinstance(lr, numbers.Real)):
        problem, got = "the learning rate is not a number.", f"{type(lr).__name__} {lr!r}"
    elif shape != ():
        problem, got = "the learning rate is not a scalar.", f"an array of shape {list(shape)}"
        fix = "For a learning rate per group of variables use groups=[Group(name, match, lr_scale=...)]."
    elif dtype is not None and not any(jax.numpy.issubdtype(dtype, kind) for kind in (np.floating, np.integer)):
        problem, got = "the learning rate is not a real number.", str(dtype)
    elif not isinstance(lr, jax.core.Tracer) and not 0 <= float(lr) < math.inf:
        problem, got = "the learning rate is out of range.", f"{float(lr)!r}"
    else:
        return
    raise HyperparameterError(message(where, problem, "a finite scalar >= 0", got, fix))
