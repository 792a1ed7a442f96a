"""Schedules of a run with a warmup: up in a line, then down in the way of each."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

from optimkit.errors import HyperparameterError, message
from optimkit.hyper import hyper
from optimkit.schedule.arithmetic import SHAPES, after, travel, warmed
from optimkit.schedule.base import COMPULSORY, COUNT, COUNT_OR_ZERO, REAL, Schedule, documented


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
        decay = self.peak * xp.sqrt(self.warmup_steps / xp.maximum(step, self.warmup_steps))
        return warmed(xp, step, self.start, self.peak, self.warmup_steps, decay)


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
        decay_steps = self.steps - self.warmup_steps
        decay = travel(xp, after(xp, step, self.warmup_steps), self.peak, self.final, decay_steps, "cosine")
        return warmed(xp, step, self.start, self.peak, self.warmup_steps, decay)


@documented
@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """A linear warmup to ``peak``, which holds until the last ``decay_steps`` steps take it down to ``final``.

    Made for runs that may go on: up to the decay, a run of more steps has the same values. So one run without decay
    serves many lengths, each with a decay of its own from a checkpoint: ``dataclasses.replace(schedule, steps=n)``.

    With n = ``steps``, the length of the whole, **warmup and decay included**, and d = ``decay_steps``:

    s(t) = start + (peak - start) t / warmup_steps        for t < warmup_steps
    s(t) = peak                                           for warmup_steps <= t < n - d
    s(t) = final + (peak - final) f(x),  x = min((t - (n - d)) / d, 1)
    f(x) = 1 - x  or  (1 + cos(pi x)) / 2  or  1 - sqrt(x)

    Hu et al. 2024 (WSD, arXiv:2404.06395) for the three phases; Hägele et al. 2024 (arXiv:2405.18392) for the shapes,
    of which they find "1-sqrt" better than a line. The exponential decay of Hu et al., which has a half-life and no
    end, is ``Warmup(Join([Constant(peak), Exponential(peak, 0.5, half_life)], [stable_steps]), warmup_steps)``.

    Monotone to the last bit before the decay and in a linear one, else to rounding.

    Raises:
        HyperparameterError: also if warmup and decay together are longer than ``steps``.

    Example:
        >>> schedule = WarmupStableDecay(1.0, warmup_steps=2, steps=20, decay_steps=4, shape="1-sqrt")
        >>> [schedule(t) for t in (0, 1, 2, 16, 17, 20, 100)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """

    peak: float = hyper(COMPULSORY, REAL, "the value from step 'warmup_steps' to 'steps - decay_steps'")
    warmup_steps: int = hyper(COMPULSORY, COUNT_OR_ZERO, "the number of steps from 'start' to 'peak'")
    steps: int = hyper(COMPULSORY, COUNT, "the number of steps of the whole schedule, warmup and decay included")
    decay_steps: int = hyper(COMPULSORY, COUNT, "the number of steps from 'peak' to 'final'")
    shape: str = hyper("linear", tuple(SHAPES), "the way from 'peak' to 'final'")
    final: float = hyper(0.0, REAL, "the value from step 'steps' on, not a fraction of 'peak'")
    start: float = hyper(0.0, REAL, "the value at step 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps + self.decay_steps > self.steps:
            problem = "'warmup_steps' and 'decay_steps' together are more than 'steps'."
            got = f"{self.warmup_steps} + {self.decay_steps}"
            fix = f"'steps' includes both. Give steps={self.warmup_steps + self.decay_steps} + the steps in between."
            raise HyperparameterError(message("WarmupStableDecay", problem, f"at most {self.steps}", got, fix))

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        decayed = after(xp, step, self.steps - self.decay_steps)
        decay = travel(xp, decayed, self.peak, self.final, self.decay_steps, self.shape)
        return warmed(xp, step, self.start, self.peak, self.warmup_steps, decay)
