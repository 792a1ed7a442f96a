"""The base of all schedules: what a step and a field may be, and the choice between Python and JAX numbers."""

from __future__ import annotations

import dataclasses
import itertools
from types import ModuleType
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.errors import DTypeError, HyperparameterError, describe, message
from optimkit.hyper import Domain, contains, hyperparameters, with_section

LAST_STEP = 2**31 - 1
# Values stay far inside float32, so that no difference or product of them overflows, and no NaN follows.
REAL, RATE = "[-1e30, 1e30]", "[1e-30, 1e30]"
COUNT, COUNT_OR_ZERO = f"int [1, {LAST_STEP}]", f"int [0, {LAST_STEP}]"
COMPULSORY = dataclasses.MISSING

Class = TypeVar("Class", bound=type)


class Schedule:
    """Base of all schedules: checks the fields that ``hyper`` declares, and chooses between Python and JAX numbers.

    A subclass is a frozen dataclass with one method, ``value_at(step, xp)``. The step that it gets is a number or an
    array in [0, 2**31 - 1], and ``xp`` is ``numpy`` or ``jax.numpy`` to match; with ``xp.where`` in place of ``if``,
    one formula serves both.

    Raises:
        HyperparameterError: a field is out of its range, or a step that is known when called is NaN.
        DTypeError: a step is not a real number.

    Example:
        >>> from optimkit.hyper import hyper
        >>> @dataclasses.dataclass(frozen=True)
        ... class Sawtooth(Schedule):
        ...     period: int = hyper(10, "int [1, inf)", "the number of steps from one jump to the next")
        ...     def value_at(self, step, xp):
        ...         return xp.remainder(step, self.period) / self.period
        >>> Sawtooth(4)(7), Sawtooth(4)(jnp.int32(7))
        (0.75, Array(0.75, dtype=float32))
    """

    def __post_init__(self) -> None:
        for name, field in hyperparameters(self).items():
            value, domain, doc = getattr(self, name), field.metadata["domain"], field.metadata["doc"]
            if value is not None or field.default is not None:
                object.__setattr__(self, name, check_field(type(self).__name__, name, value, domain, doc))

    @overload
    def __call__(self, step: float) -> float: ...
    @overload
    def __call__(self, step: jax.Array) -> jax.Array: ...
    @overload
    def __call__(self, step: np.ndarray) -> np.ndarray: ...
    def __call__(self, step: Any) -> Any:
        """Return the value at a step: a float for a number, a float32 array for a JAX array or tracer."""
        step = _in_range(step, type(self).__name__)
        if isinstance(step, jax.Array):
            return jnp.broadcast_to(jnp.asarray(self.value_at(step, jnp), jnp.float32), step.shape)
        value = np.array(np.broadcast_to(self.value_at(step, np), step.shape), np.float64)
        return value if value.ndim else float(value)

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        """Return the value at a step in [0, 2**31 - 1] with the functions of ``xp``, ``numpy`` or ``jax.numpy``."""
        raise NotImplementedError(f"{type(self).__name__} is a Schedule without the method value_at(step, xp).")


def _in_range(step: Any, where: str) -> Any:
    """Return the step between 0 and LAST_STEP: NumPy's float64 if it is Python's or NumPy's, else a JAX array."""
    expected = "a step number, which counts from 0"
    if isinstance(step, int | float) and not isinstance(step, bool):
        step = np.float64(min(step, LAST_STEP))
    try:
        array = step if isinstance(step, np.ndarray | np.generic) else jnp.asarray(step)
    except (TypeError, ValueError):
        array = np.asarray(None)
    integer = jnp.issubdtype(array.dtype, jnp.integer)
    if not integer and not jnp.issubdtype(array.dtype, jnp.floating):
        raise DTypeError(message(where, "the step is not a real number.", expected, describe(step)))
    if isinstance(array, jax.Array):
        # Every integer dtype fits int32 once it is clipped. Not jnp.clip: a NaN, which cannot raise here, becomes 0.
        array = array if integer else array.astype(jnp.promote_types(array.dtype, jnp.float32))
        top = min(LAST_STEP, jnp.iinfo(array.dtype).max) if integer else LAST_STEP
        array = jnp.where(array > 0, jnp.minimum(array, top), 0)
        return array.astype(jnp.int32) if integer else array
    array = np.asarray(array, np.float64)
    if np.isnan(array).any():
        raise HyperparameterError(message(where, "the step is NaN.", expected, "nan"))
    return np.clip(array, 0, LAST_STEP)


def check_field(where: str, name: str, value: Any, domain: Domain, doc: str) -> Any:
    """Return a field as a Python bool, str, int or float, or a tuple of them ("each ..." in its domain), or raise."""
    fix = f"{name!r} is {doc}."
    expected, interval = in_words(domain), domain if isinstance(domain, str) else ""
    each = interval.removeprefix("each ")
    if each != interval and isinstance(value, list | tuple | np.ndarray):
        return tuple(check_field(where, f"{name}[{i}]", x, each, doc) for i, x in enumerate(value))
    if isinstance(value, jax.core.Tracer):
        fix = f"Scale the value instead: {name} * schedule(step)."
        raise HyperparameterError(message(where, f"{name!r} is traced.", "a Python number", describe(value), fix))
    if isinstance(value, bool) if domain is bool else isinstance(domain, tuple) and value in list(domain):
        return value
    whole = interval.startswith("int ")
    if interval and each == interval and np.ndim(value) == 0 and contains(interval, value):
        return int(value) if whole else float(value)
    if whole and isinstance(value, float) and value.is_integer() and contains(interval, int(value)):
        fix += f" Give {name}={int(value)}."
    raise HyperparameterError(message(where, f"{name!r} is out of range.", expected, repr(value), fix))


def check_boundaries(where: str, kind: str, pieces: int, boundaries: tuple[int, ...]) -> None:
    """Raise unless the boundaries increase and are one fewer than the pieces that they part."""
    if any(b <= a for a, b in itertools.pairwise(boundaries)):
        problem = "'boundaries' do not increase."
        raise HyperparameterError(message(where, problem, "each above the one before", f"{boundaries}"))
    if pieces != len(boundaries) + 1:
        problem = f"the number of 'boundaries' does not fit the number of {kind!r}."
        raise HyperparameterError(message(where, problem, f"{pieces - 1} for {pieces} {kind}", f"{len(boundaries)}"))


def documented(cls: Class) -> Class:
    """Append to the docstring of a schedule what ``hyper`` says of its fields, so that it is said once."""
    lines = (f"{f.name}: {f.metadata['doc']}; {_shown(f)}" for f in hyperparameters(cls).values())
    cls.__doc__ = with_section(cls.__doc__, "Args", lines)
    return cls


def _shown(field: dataclasses.Field[Any]) -> str:
    """Return the range and the default of a field, in words."""
    shown = in_words(field.metadata["domain"])
    return shown if field.default is COMPULSORY else f"{shown}, {field.default!r} by default"


def in_words(domain: Domain) -> str:
    """Return a domain as a person reads it.

    Example:
        >>> in_words("[0, 1)"), in_words(bool), in_words(("linear", "cosine"))
        ('[0, 1)', 'True or False', "'linear' or 'cosine'")
    """
    if isinstance(domain, tuple):
        return " or ".join(map(repr, domain))
    return "True or False" if domain is bool else str(domain)
