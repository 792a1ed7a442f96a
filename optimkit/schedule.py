"""Schedules: values that change with the step, such as a learning rate that warms up and decays.

A schedule is an immutable value that is called with a step number: ``schedule(step) -> value``. One schedule serves
a Python loop and a traced step alike:

- a Python or NumPy number gives a Python float, computed in float64; a NumPy array, as for a plot, a float64 array;
- a JAX array or tracer gives a float32 array of its shape, and a new step never compiles anew.

Steps count from 0: the first step of an optimizer sees ``schedule(0)``. A negative step counts as 0, and a step above
2**31 - 1 as 2**31 - 1, where optimkit's counters stop. No step gives NaN, and the ends of a schedule are exact.

To write a schedule, subclass :class:`Schedule`; to put schedules together, see :class:`Join` and :class:`Warmup`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.errors import CompositionError, DTypeError, HyperparameterError, describe, message
from optimkit.hyper import Domain, contains, hyper, hyperparameters

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseSqrt",
    "Join",
    "Linear",
    "Piecewise",
    "Polynomial",
    "Schedule",
    "Warmup",
    "WarmupCosine",
]

LAST_STEP = 2**31 - 1
# Values stay far inside float32, so that no difference or product of them overflows, and no NaN follows.
REAL, RATE = "[-1e30, 1e30]", "[1e-30, 1e30]"
COUNT, COUNT_OR_ZERO = f"int [1, {LAST_STEP}]", f"int [0, {LAST_STEP}]"
COMPULSORY = dataclasses.MISSING
LARGEST = float(np.finfo(np.float32).max)

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
        top = min(LAST_STEP, jnp.iinfo(array.dtype).max) if integer else LAST_STEP  # type: ignore[no-untyped-call]
        array = jnp.where(array > 0, jnp.minimum(array, top), 0)
        return array.astype(jnp.int32) if integer else array
    array = np.asarray(array, np.float64)
    if np.isnan(array).any():
        raise HyperparameterError(message(where, "the step is NaN.", expected, "nan"))
    return np.clip(array, 0, LAST_STEP)


def check_field(where: str, name: str, value: Any, domain: Domain, doc: str) -> Any:
    """Return a field as a Python bool, int or float, or a tuple of them ("each ..." in its domain), or raise."""
    domain, fix = "True or False" if domain is bool else str(domain), f"{name!r} is {doc}."
    kind = domain.split()[0]
    if kind == "each" and isinstance(value, list | tuple | np.ndarray):
        return tuple(
            check_field(where, f"{name}[{i}]", x, domain.removeprefix("each "), doc) for i, x in enumerate(value)
        )
    if isinstance(value, jax.core.Tracer):
        fix = f"Scale the value instead: {name} * schedule(step)."
        raise HyperparameterError(message(where, f"{name!r} is traced.", "a Python number", describe(value), fix))
    if kind == "True" and isinstance(value, bool):
        return value
    if kind not in ("each", "True") and np.ndim(value) == 0 and contains(domain, value):
        return int(value) if kind == "int" else float(value)
    if kind == "int" and isinstance(value, float) and value.is_integer() and contains(domain, int(value)):
        fix += f" Give {name}={int(value)}."
    raise HyperparameterError(message(where, f"{name!r} is out of range.", domain, repr(value), fix))


def _check_boundaries(where: str, kind: str, pieces: int, boundaries: tuple[int, ...]) -> None:
    """Raise unless the boundaries increase and are one fewer than the pieces that they part."""
    if any(b <= a for a, b in itertools.pairwise(boundaries)):
        problem = "'boundaries' do not increase."
        raise HyperparameterError(message(where, problem, "each above the one before", f"{boundaries}"))
    if pieces != len(boundaries) + 1:
        problem = f"the number of 'boundaries' does not fit the number of {kind!r}."
        raise HyperparameterError(message(where, problem, f"{pieces - 1} for {pieces} {kind}", f"{len(boundaries)}"))


def documented(cls: Class) -> Class:
    """Append to the docstring of a schedule what ``hyper`` says of its fields, so that it is said once."""
    lines = [f"        {f.name}: {f.metadata['doc']}; {_shown(f)}" for f in hyperparameters(cls).values()]
    cls.__doc__ = f"{cls.__doc__}\n    Args:\n" + "\n".join(lines) + "\n    "
    return cls


def _shown(field: dataclasses.Field[Any]) -> str:
    """Return the range and the default of a field, in words."""
    domain = field.metadata["domain"]
    shown = "True or False" if domain is bool else str(domain)
    return shown if field.default is COMPULSORY else f"{shown}, {field.default} by default"


def _between(xp: ModuleType, start: Any, end: Any, to_end: Any, to_start: Any) -> Any:
    """Return ``start * to_start + end * to_end`` for weights that sum to 1: exact at both ends, and never outside.

    The sum is taken from the end that is smaller in magnitude, for which it is accurate where the value is small:
    the first steps of a warmup and the last ones of a decay. Where the weights are monotone, so is the value, to the
    last bit.
    """
    small_start = abs(start) <= abs(end)
    value = xp.where(small_start, start + (end - start) * to_end, end + (start - end) * to_start)
    value = xp.clip(value, xp.minimum(start, end), xp.maximum(start, end))
    return xp.where(to_start <= 0, end, xp.where(to_end <= 0, start, value))


def _weights(xp: ModuleType, step: Any, steps: int) -> tuple[Any, Any]:
    """Return the part of ``steps`` that has passed and the part that remains, both within [0, 1].

    The remainder is counted in whole steps, not as ``1 - passed``, which in float32 would lose the last steps.
    """
    passed = xp.minimum(step, steps)
    return passed / steps, (steps - passed) / steps


def _line(xp: ModuleType, step: Any, start: Any, end: Any, steps: int) -> Any:
    """Return the value at ``step`` of the line from ``start`` to ``end`` in ``steps`` steps, 0 steps being a jump."""
    return _between(xp, start, end, *_weights(xp, step, steps)) if steps else end


def _after(xp: ModuleType, step: Any, begin: int) -> Any:
    """Return the steps since ``begin``, 0 before it."""
    return xp.maximum(step - begin, 0)


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

    Monotone. ``Linear(0.0, peak, n)`` is a warmup; its first step has the value 0, which moves nothing.

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
        return _line(xp, _after(xp, step, self.begin), self.start, self.end, self.steps)


@documented
@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
    """A power of a line from ``start`` to ``end``, which then holds.

    s(t) = end + (start - end) (1 - x)^power,  x = min(max(t - begin, 0) / steps, 1)

    Monotone. A power above 1 changes fast at first and slowly at the end; power 1 is :class:`Linear`.

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
        remaining = _weights(xp, _after(xp, step, self.begin), self.steps)[1] ** self.power
        return _between(xp, self.start, self.end, 1 - remaining, remaining)


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
        passed, remaining = _weights(xp, step, self.steps)
        # (1 + cos(pi x)) / 2 = sin(pi (1 - x) / 2)**2, which does not cancel where it is small
        to_final, to_peak = xp.sin(math.pi / 2 * passed) ** 2, xp.sin(math.pi / 2 * remaining) ** 2
        return _between(xp, self.peak, self.final, to_final, to_peak)


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
        value = xp.clip(self.start * _power(xp, self.rate, exponent), -LARGEST, LARGEST)
        return value if self.floor is None else xp.maximum(value, self.floor)


def _power(xp: ModuleType, base: float, exponent: Any) -> Any:
    """Return ``base**exponent``, which stops growing before it leaves float32."""
    log = math.log(base)
    if log > 0:
        exponent = xp.minimum(exponent, 88.0 / log)
    if xp is np:
        return base**exponent
    # A float32 of the base is off by up to eps / 2, its power by exponent times that: the second factor undoes it.
    return base**exponent * jnp.exp(exponent * (log - math.log(np.float32(base))))


@documented
@dataclasses.dataclass(frozen=True)
class InverseSqrt(Schedule):
    """A linear warmup to ``peak``, then a decay with the inverse square root of the step, for runs of open length.

    s(t) = start + (peak - start) t / warmup_steps  for t < warmup_steps,  then  peak sqrt(warmup_steps / t)

    Vaswani et al. 2017, eq. 3, with the peak itself for d_model^-0.5 warmup_steps^-0.5.

    Example:
        >>> schedule = InverseSqrt(1.0, warmup_steps=4)
        >>> [schedule(t) for t in (0, 1, 4, 16, 400)]
        [0.0, 0.25, 1.0, 0.5, 0.1]
    """

    peak: float = hyper(COMPULSORY, REAL, "the value at step 'warmup_steps'")
    warmup_steps: int = hyper(COMPULSORY, COUNT, "the number of steps to 'peak', and the time scale of the decay")
    start: float = hyper(0.0, REAL, "the value at step 0")

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        warmup = _line(xp, step, self.start, self.peak, self.warmup_steps)
        decay = self.peak * xp.sqrt(self.warmup_steps / xp.maximum(step, self.warmup_steps))
        return xp.where(step < self.warmup_steps, warmup, decay)


@documented
@dataclasses.dataclass(frozen=True)
class WarmupCosine(Schedule):
    """A linear warmup from ``start`` to ``peak``, then half a cosine wave down to ``final``, which then holds.

    ``steps`` is the length of the whole, **warmup included**; the decay takes ``steps - warmup_steps`` of them:

    s(t) = start + (peak - start) t / warmup_steps                     for t < warmup_steps
    s(t) = final + (peak - final) (1 + cos(pi x)) / 2,  x = min((t - warmup_steps) / (steps - warmup_steps), 1)

    With ``start`` at 0 the first step has the value 0, which moves nothing; ``start=peak / warmup_steps`` avoids it.

    Raises:
        HyperparameterError: also if ``warmup_steps`` is not below ``steps``.

    Example:
        >>> schedule = WarmupCosine(1.0, warmup_steps=2, steps=10)
        >>> [round(schedule(t), 4) for t in (0, 1, 2, 6, 10, 100)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    peak: float = hyper(COMPULSORY, REAL, "the value at step 'warmup_steps'")
    warmup_steps: int = hyper(COMPULSORY, COUNT_OR_ZERO, "the number of steps from 'start' to 'peak'")
    steps: int = hyper(COMPULSORY, COUNT, "the number of steps of the whole schedule, warmup included")
    final: float = hyper(0.0, REAL, "the value from step 'steps' on, not a fraction of 'peak'")
    start: float = hyper(0.0, REAL, "the value at step 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps >= self.steps:
            fix = f"'steps' includes the warmup. Give steps={self.warmup_steps} + the number of steps of the decay."
            raise HyperparameterError(
                message("WarmupCosine", "'warmup_steps' is too large.", f"< {self.steps}", f"{self.warmup_steps}", fix)
            )

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        decay = Cosine(self.peak, self.steps - self.warmup_steps, self.final)
        return Warmup(decay, self.warmup_steps, self.start).value_at(step, xp)


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
        _check_boundaries("Piecewise", "values", len(self.values), self.boundaries)

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        passed = xp.expand_dims(step, -1) >= xp.asarray(self.boundaries, np.int32)
        return xp.asarray(self.values)[passed.sum(-1)]


@documented
@dataclasses.dataclass(frozen=True)
class Join(Schedule):
    """Schedules one after the other, each with steps counted from its own beginning.

    s(t) = schedules[k](t - boundaries[k - 1])  for  boundaries[k - 1] <= t < boundaries[k]

    ``schedules`` are one more than there are boundaries; any function of the step that works on traced steps is one.

    Raises:
        CompositionError: one of the schedules cannot be called.
        HyperparameterError: the boundaries do not increase, or their number does not fit.

    Example:
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
        _check_boundaries("Join", "schedules", len(schedules), self.boundaries)

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        value = _call(self.schedules[0], step, xp)
        for boundary, schedule in zip(self.boundaries, self.schedules[1:], strict=True):
            value = xp.where(step < boundary, value, _call(schedule, _after(xp, step, boundary), xp))
        return value


@documented
@dataclasses.dataclass(frozen=True)
class Warmup(Schedule):
    """A linear ramp up to where a schedule begins, and then that schedule, with steps counted from the ramp's end.

    s(t) = start + (schedule(0) - start) t / steps  for t < steps,  then  schedule(t - steps)

    ``schedule`` is a schedule, or any function of the step that works on traced steps. The whole is longer than it by
    ``steps``: ``Warmup(Cosine(peak, n - w), w)`` is ``WarmupCosine(peak, w, n)``.

    Raises:
        CompositionError: the schedule cannot be called.

    Example:
        >>> schedule = Warmup(Exponential(1.0, rate=0.5, steps=10), steps=4)
        >>> [schedule(t) for t in (0, 1, 4, 14)]
        [0.0, 0.25, 1.0, 0.5]
    """

    schedule: Callable[[Any], Any]
    steps: int = hyper(COMPULSORY, COUNT_OR_ZERO, "the number of steps of the ramp")
    start: float = hyper(0.0, REAL, "the value at step 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_callable("Warmup", "schedule", self.schedule)

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        peak = _call(self.schedule, xp.zeros_like(step), xp)
        ramp = _line(xp, step, self.start, peak, self.steps)
        return xp.where(step < self.steps, ramp, _call(self.schedule, _after(xp, step, self.steps), xp))


def _check_callable(where: str, name: str, value: Any) -> None:
    """Raise unless a part of a schedule can be called with a step."""
    if not callable(value):
        fix = f"Write Constant({value!r})." if isinstance(value, int | float) else ""
        problem = f"{name!r} is not a schedule."
        raise CompositionError(message(where, problem, "a function of the step", describe(value), fix))


def _call(schedule: Callable[[Any], Any], step: Any, xp: ModuleType) -> Any:
    """Return the value of a part of a schedule; parts that are no Schedule are called as they are."""
    return schedule.value_at(step, xp) if isinstance(schedule, Schedule) else schedule(step)
