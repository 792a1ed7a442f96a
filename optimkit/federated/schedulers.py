"""Learning rates and weight decays that change, with steps or with rounds, by the names that declearn gives them.

A scheduler is a value. What it counts, steps and rounds, is a dict of integers that the optimizer remembers; so a rate
is a pure function of what has happened, and is computed when it is used. Steps and rounds count from 0. A step that
is taken outside of any round begins one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.errors import HyperparameterError, message
from optimkit.federated.registered import Registered, check_instance
from optimkit.hyper import check_hyperparameter, hyper
from optimkit.schedule import COUNT, LAST_STEP, RATE, SGDR, Cosine, Exponential, Linear, Polynomial, Schedule

Counts = dict[str, Any]  # from names to integers, Python's or JAX's, or to further such dicts
RATES = "[0, 1e30]"


def list_rate_schedulers() -> dict[str, type[Scheduler]]:
    """Return the schedulers by name.

    Example:
        >>> list_rate_schedulers()["linear-decay"](base=1.0, rate=0.25).values(5)
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return dict(Scheduler._known)


class Scheduler(Registered, register=False):
    """Base of schedulers: a subclass has a ``name``, fields, and ``at(index)``, the rate at a step or round.

    ``at`` gets a number of NumPy, or an array or tracer of JAX; arithmetic and :mod:`optimkit.schedule` serve both.
    A field ``step_level`` that is False counts rounds in place of steps. A subclass is registered under its name, so
    that ``PluginOptimizer(lrate=(name, config))`` finds it; ``register=False`` leaves it out.

    Example:
        >>> class Halving(Scheduler):
        ...     name = "halving"
        ...     base: float = hyper(1.0, "[0, inf)", "rate at the start")
        ...     def at(self, index): return self.base * 0.5**index
        >>> Halving().values(3)
        [1.0, 0.5, 0.25]
    """

    kind = "scheduler"
    _known: ClassVar[dict[str, type[Any]]] = {}

    def at(self, index: Any) -> Any:
        """Return the rate at a step or round, from 0."""
        raise NotImplementedError(f"{type(self).__name__} does not define at(index).")

    def start(self) -> Counts:
        """Return the counts before the first step: ``steps`` taken, and ``rounds`` begun."""
        return {"steps": 0, "rounds": 0}

    def value(self, counts: Counts) -> Any:
        """Return the rate of the next step."""
        return self.at(counts["steps"] if getattr(self, "step_level", True) else round_of(counts))

    def stepped(self, counts: Counts) -> Counts:
        """Return the counts after a step."""
        return {"steps": up(counts["steps"]), "rounds": where(counts["rounds"] > 0, counts["rounds"], 1)}

    def round_started(self, counts: Counts) -> Counts:
        """Return the counts after the start of a round."""
        return {"steps": counts["steps"], "rounds": up(counts["rounds"])}

    def values(self, steps: int, steps_per_round: int | None = None) -> list[float]:
        """Return the rates of so many steps, each so many of a round, to look at or to plot."""
        counts, found = self.start(), []
        for t in range(steps):
            if steps_per_round is not None and t % steps_per_round == 0:
                counts = self.round_started(counts)
            found.append(float(self.value(counts)))
            counts = self.stepped(counts)
        return found


class Scheduled(Scheduler):
    """Any schedule of :mod:`optimkit.schedule`, over steps or over rounds.

    Args:
        schedule: the schedule.
        step_level: whether it is over steps, and not over rounds.

    Example:
        >>> Scheduled(Linear(1.0, 0.0, steps=4), step_level=False).values(6, steps_per_round=2)
        [1.0, 1.0, 0.75, 0.75, 0.5, 0.5]
    """

    name = "schedule"
    schedule: Any
    step_level: bool = hyper(True, bool, "whether it counts steps, and not rounds")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_instance("Scheduled", "schedule", self.schedule, Schedule, "a schedule of optimkit.schedule")

    def at(self, index: Any) -> Any:
        return self.schedule(index)


def _base(doc: str = "the rate at the start") -> Any:
    return hyper(dataclasses.MISSING, RATES, doc)


def _needed(domain: str, doc: str) -> Any:
    return hyper(dataclasses.MISSING, domain, doc)


def _step_level() -> Any:
    return hyper(True, bool, "whether it counts steps, and not rounds")


# --- decay ------------------------------------------------------------------------------------------------------------


class ExponentialDecay(Scheduler):
    """``base · rateᵗ``.

    Example:
        >>> ExponentialDecay(1.0, 0.5, step_level=False).values(6, steps_per_round=2)
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    name = "exponential-decay"
    base: float = _base()
    rate: float = _needed(RATE, "the factor from one to the next")
    step_level: bool = _step_level()

    def at(self, index: Any) -> Any:
        return Exponential(self.base, self.rate, steps=1)(index)


class InverseScaling(Scheduler):
    """``base / (t + 1)^rate``.

    Example:
        >>> InverseScaling(1.0, 1.0).values(4)[::3]
        [1.0, 0.25]
    """

    name = "inverse-scaling"
    base: float = _base()
    rate: float = _needed("[0, 1e30]", "the exponent")
    step_level: bool = _step_level()

    def at(self, index: Any) -> Any:
        return self.base / (index + 1.0) ** self.rate


class LinearDecay(Scheduler):
    """``base · max(1 − rate · t, 0)``.

    Example:
        >>> LinearDecay(1.0, 0.5).values(4)
        [1.0, 0.5, 0.0, 0.0]
    """

    name = "linear-decay"
    base: float = _base()
    rate: float = _needed("[0, 1e30]", "the part of 'base' that is taken off from one to the next")
    step_level: bool = _step_level()

    def at(self, index: Any) -> Any:
        return Linear(self.base, 0.0, steps=1)(1.0 * self.rate * index)


class PolynomialDecay(Scheduler):
    """``base · (1 − min(t / limit, 1))^power``.

    Example:
        >>> PolynomialDecay(1.0, power=2, limit=2).values(4)
        [1.0, 0.25, 0.0, 0.0]
    """

    name = "polynomial-decay"
    base: float = _base()
    power: float = _needed("(0, 1e30]", "the exponent of what remains")
    limit: int = _needed(COUNT, "the number of steps or rounds until it is 0")
    step_level: bool = _step_level()

    def at(self, index: Any) -> Any:
        return Polynomial(self.base, 0.0, steps=self.limit, power=self.power)(index)


class PiecewiseDecay(Scheduler):
    """``base · rate^⌊t / step_size⌋``.

    Example:
        >>> PiecewiseDecay(1.0, 0.5, step_size=2).values(5)
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    name = "piecewise-decay"
    base: float = _base()
    rate: float = _needed(RATE, "the factor of a drop")
    step_size: int = _needed(COUNT, "the number of steps or rounds from one drop to the next")
    step_level: bool = _step_level()

    def at(self, index: Any) -> Any:
        return Exponential(self.base, self.rate, steps=self.step_size, staircase=True)(index)


# --- waves ------------------------------------------------------------------------------------------------------------


class CosineAnnealing(Scheduler):
    """Half a cosine wave from ``max_lr`` down to ``base``, which then holds.

    Example:
        >>> [round(x, 4) for x in CosineAnnealing(0.0, 1.0, duration=2).values(4)]
        [1.0, 0.5, 0.0, 0.0]
    """

    name = "cosine-annealing"
    base: float = _base("the rate at the end")
    max_lr: float = _needed(RATES, "the rate at the start")
    duration: int = _needed(COUNT, "the number of steps or rounds of the wave")
    step_level: bool = _step_level()

    def at(self, index: Any) -> Any:
        return Cosine(self.max_lr, self.duration, final=self.base)(index)


class CosineAnnealingWarmRestarts(Scheduler):
    """Half a cosine wave from ``max_lr · t_multᵏ`` toward ``base``, again and again; k waves are over.

    Deviation from declearn: with ``step_level=False`` it has a wave every ``period`` rounds, not one of its own for
    each number of steps.

    Example:
        >>> [round(x, 4) for x in CosineAnnealingWarmRestarts(0.0, 1.0, period=2, t_mult=0.5).values(5)]
        [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    name = "cosine-annealing-warm-restarts"
    base: float = _base("the rate that each wave goes toward")
    max_lr: float = _needed(RATES, "the rate at the start")
    period: int = _needed(COUNT, "the number of steps or rounds of a wave")
    t_mult: float = hyper(1.0, RATE, "the factor of 'max_lr' from one wave to the next")
    step_level: bool = _step_level()

    def at(self, index: Any) -> Any:
        top = Exponential(self.max_lr, self.t_mult, steps=self.period, staircase=True)(index)
        return self.base + (top - self.base) * SGDR(1.0, self.period)(index)


class CyclicTriangular(Scheduler):
    """Up from ``base`` to ``max_lr`` in a line and down again, over and over, by half as far each time with ``decay``.

    Smith 2017, Cyclical Learning Rates for Training Neural Networks, "triangular" and "triangular2". arXiv:1506.01186.

    Example:
        >>> CyclicTriangular(0.0, 1.0, stepsize=2, decay=True).values(8)
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]
    """

    name = "cyclic-triangular"
    base: float = _base("the lowest rate")
    max_lr: float = _needed(RATES, "the highest rate")
    stepsize: int = _needed(COUNT, "the number of steps or rounds of half a cycle")
    decay: bool = hyper(False, bool, "whether the height is halved from one cycle to the next")
    step_level: bool = _step_level()

    def at(self, index: Any) -> Any:
        height = Exponential(1.0, 0.5, steps=2 * self.stepsize, staircase=True)(index) if self.decay else 1.0
        return self.base + triangle(index, self.stepsize) * height * (self.max_lr - self.base)


class CyclicExpRange(Scheduler):
    """A triangle wave between ``base`` and ``max_lr``, times ``decayᵗ``.

    Smith 2017, Cyclical Learning Rates for Training Neural Networks, "exp_range", in which both bounds decline.
    arXiv:1506.01186. PyTorch's has a ``base`` that stays.

    Example:
        >>> CyclicExpRange(1.0, 2.0, stepsize=1, decay=0.5).values(4)
        [1.0, 1.0, 0.25, 0.25]
    """

    name = "cyclic-exp-range"
    base: float = _base("the lowest rate")
    max_lr: float = _needed(RATES, "the highest rate")
    stepsize: int = _needed(COUNT, "the number of steps or rounds of half a cycle")
    decay: float = _needed(RATE, "the factor of the whole from one to the next")
    step_level: bool = _step_level()

    def at(self, index: Any) -> Any:
        rate = self.base + triangle(index, self.stepsize) * (self.max_lr - self.base)
        return rate * Exponential(1.0, self.decay, steps=1)(index)


def triangle(index: Any, half: int) -> Any:
    """Return 0, rising to 1 in so many steps, and falling back.

    Example:
        >>> [float(triangle(t, 2)) for t in range(6)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """
    return 1.0 - abs((index % (2 * half)) / half - 1.0)


# --- warmup -----------------------------------------------------------------------------------------------------------


class Warmup(Scheduler):
    """``base · (t + 1) / warmup`` for the first steps, then ``base``, or a scheduler that starts there, from 0.

    The scheduler's own rounds start there, too: the round in which the warmup ends, or that begins after it, is its
    round 0. (In declearn it starts with round 1 where a warmup ends with a round.)

    Args:
        base: the rate to reach, or a scheduler, or its (name, config); then the rate to reach is the scheduler's base.
        warmup: the number of steps of the warmup.

    Example:
        >>> Warmup(("linear-decay", {"base": 1.0, "rate": 0.25}), warmup=2).values(5)
        [0.5, 1.0, 1.0, 0.75, 0.5]
    """

    name = "warmup"
    by_rounds: ClassVar[bool] = False
    base: Any
    warmup: int = _needed(COUNT, "the number of steps of the warmup")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.base, str | tuple | list | Scheduler | Schedule):
            object.__setattr__(self, "base", scheduler_of(self.base))
            if not hasattr(self.base, "base"):
                raise HyperparameterError(message(type(self).__name__, "the scheduler has no 'base' to warm up to.",
                                                  "one with a base", repr(self.base)))  # fmt: skip
        else:
            check_hyperparameter(type(self).__name__, "base", self.base, RATES)

    def start(self) -> Counts:
        """Return the counts before the first step; ``inner`` are those of the scheduler inside."""
        inner = {"inner": self.base.start()} if isinstance(self.base, Scheduler) else {}
        return {**super().start(), **inner}

    def _warm(self, counts: Counts) -> Any:
        """Return how many steps, or rounds, there are before the next step."""
        return round_of(counts) if self.by_rounds else counts["steps"]

    def value(self, counts: Counts) -> Any:
        warm, inner = self._warm(counts), isinstance(self.base, Scheduler)
        top = self.base
        while isinstance(top, Scheduler):
            top = top.base  # type: ignore[attr-defined]
        after = self.base.value(counts["inner"]) if inner else top
        return where(warm < self.warmup, top * (warm + 1.0) / self.warmup, after)

    def stepped(self, counts: Counts) -> Counts:
        return self._told("stepped", self._warm(counts), counts, super().stepped(counts))

    def round_started(self, counts: Counts) -> Counts:
        new = super().round_started(counts)
        return self._told("round_started", self._warm(new), counts, new)

    def _told(self, what: str, warm: Any, counts: Counts, new: Counts) -> Counts:
        """Return the new counts, and in them those of the scheduler inside, which it knows of once it is warm."""
        if "inner" not in counts:
            return new
        told = getattr(self.base, what)(counts["inner"])
        return {**new, "inner": jax.tree.map(lambda a, b: where(warm >= self.warmup, a, b), told, counts["inner"])}


class WarmupRounds(Warmup):
    """``base · (r + 1) / warmup`` in the first rounds, then ``base``, or a scheduler that starts there, from 0.

    Args:
        base: the rate to reach, or a scheduler, or its (name, config); then the rate to reach is the scheduler's base.
        warmup: the number of rounds of the warmup.

    Example:
        >>> WarmupRounds(1.0, warmup=2).values(6, steps_per_round=2)
        [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]
    """

    name = "warmup-rounds"
    by_rounds: ClassVar[bool] = True


# --- what they share --------------------------------------------------------------------------------------------------


def scheduler_of(spec: Any) -> Scheduler:
    """Return the scheduler that a specification means; a schedule of :mod:`optimkit.schedule` is one over steps."""
    return Scheduled(spec) if isinstance(spec, Schedule) else Scheduler.made_of(spec)


def round_of(counts: Counts) -> Any:
    """Return the number of the present round, from 0."""
    return where(counts["rounds"] > 0, counts["rounds"] - 1, 0)


def up(n: Any) -> Any:
    """Return ``n + 1`` for a counter that stops where 32 bits end."""
    return where(n < LAST_STEP, n + 1, n)


def where(condition: Any, a: Any, b: Any) -> Any:
    """Return one of two numbers: a tracer's choice where the condition is one."""
    if isinstance(condition, jax.Array):
        return jnp.where(condition, a, b)
    return a if np.all(condition) else b
