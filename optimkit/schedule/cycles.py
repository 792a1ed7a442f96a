"""Schedules of cycles: up and down once for a whole run, or down again and again."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import numpy as np

from optimkit.errors import HyperparameterError, message
from optimkit.hyper import hyper
from optimkit.schedule.arithmetic import between, half_wave, passed_boundaries, power
from optimkit.schedule.base import COMPULSORY, COUNT, LAST_STEP, REAL, Schedule, documented
from optimkit.schedule.piecewise import interpolate

PART, DIVISOR = "(0, 1)", "[1, 1e30]"


@documented
@dataclasses.dataclass(frozen=True)
class OneCycle(Schedule):
    """One rise to a large ``peak`` and one fall far below the value at step 0, for short runs at large rates.

    With n = ``steps``, r = round(rise n) and a = peak / start_divisor, the value goes through

    s(0) = a,  s(r) = peak,  s(n) = a / final_divisor

    in half cosine waves or lines, and then holds. With ``fall`` it is first back at the value of step 0:

    s(0) = a,  s(r) = peak,  s(round((rise + fall) n)) = a,  s(n) = a / final_divisor

    Smith & Topin 2018 (arXiv:1708.07120) have three phases in lines, as long up as down, such as
    ``OneCycle(peak, n, rise=0.45, fall=0.45, shape="linear")``. The default is fastai's and PyTorch's form of two
    phases, with PyTorch's numbers. Where the momentum is to fall while the rate rises, as in their runs, let it follow
    ``Interpolated([0.95, 0.85, 0.95], [r, n], shape="cosine")``.

    Monotone in each phase: lines to the last bit, half waves to rounding.

    Deviations: PyTorch's ``OneCycleLR`` reaches ``peak`` and the end one step earlier. optax rounds r down; else the
    default is its ``cosine_onecycle_schedule``, and ``fall=0.55, shape="linear"`` its ``linear_onecycle_schedule``.

    Raises:
        HyperparameterError: also if ``rise`` and ``fall`` leave no part for the end, or a phase has no step.

    Example:
        >>> schedule = OneCycle(1.0, steps=10, start_divisor=4.0, final_divisor=10.0)
        >>> [round(schedule(t), 4) for t in (0, 1, 3, 10, 100)]
        [0.25, 0.4375, 1.0, 0.025, 0.025]
    """

    peak: float = hyper(COMPULSORY, REAL, "the value at the end of the rise")
    steps: int = hyper(COMPULSORY, COUNT, "the number of steps of the whole cycle")
    rise: float = hyper(0.3, PART, "the part of 'steps' in which the value rises to 'peak'")
    fall: float | None = hyper(None, PART, "the part in which it falls back to the value at step 0; None: no such part")
    shape: str = hyper("cosine", ("linear", "cosine"), "the way from one value to the next")
    start_divisor: float = hyper(25.0, DIVISOR, "'peak' divided by the value at step 0")
    final_divisor: float = hyper(1e4, DIVISOR, "the value at step 0 divided by the value from step 'steps' on")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fall is not None and self.rise + self.fall >= 1:
            problem = "'rise' and 'fall' leave no part of the cycle for the end."
            raise HyperparameterError(message("OneCycle", problem, "rise + fall < 1", f"{self.rise} + {self.fall}"))
        turns = self._turns()
        if any(end <= begin for begin, end in zip((0, *turns), turns, strict=False)):
            problem = "'steps' is too small: a phase of the cycle has no step."
            expected, got = f"{len(turns)} phases of a step or more", f"steps={self.steps} with ends at {list(turns)}"
            raise HyperparameterError(message("OneCycle", problem, expected, got))

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        start = self.peak / self.start_divisor
        back = [] if self.fall is None else [start]
        return interpolate(xp, step, [start, self.peak, *back, start / self.final_divisor], self._turns(), self.shape)

    def _turns(self) -> tuple[int, ...]:
        """Return the steps at which the phases end."""
        top = round(self.rise * self.steps)
        if self.fall is None:
            return top, self.steps
        return top, round((self.rise + self.fall) * self.steps), self.steps


@documented
@dataclasses.dataclass(frozen=True)
class SGDR(Schedule):
    """Half a cosine wave from ``peak`` toward ``final``, which starts again, with longer or lower cycles if wanted.

    s(t) = final + (peak_k - final) (1 + cos(pi x)) / 2,  x = (t - t_k) / T_k,  for  t_k <= t < t_k + T_k
    T_0 = period,  T_k = period_factor T_{k-1};  t_0 = 0,  t_k = t_{k-1} + T_{k-1}
    peak_k = final + (peak - final) peak_factor^k

    At step t_k the value is peak_k again, so it comes close to ``final`` and does not reach it; the last step of a
    cycle is the one to take a snapshot after. Within a cycle it falls, to rounding. Warm up with
    ``Warmup(SGDR(...), n)``.

    Loshchilov & Hutter 2017, eq. 5 (arXiv:1608.03983): T_0 is ``period`` and T_mult is ``period_factor``, 1 or 2 in
    their runs. ``peak_factor`` is for their remark that the peak may be lower after each restart.

    Example:
        >>> schedule = SGDR(1.0, period=2, period_factor=2, peak_factor=0.5)
        >>> [round(schedule(t), 4) for t in (0, 1, 2, 4, 6, 10, 14)]
        [1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    """

    peak: float = hyper(COMPULSORY, REAL, "the value at step 0")
    period: int = hyper(COMPULSORY, COUNT, "the number of steps of the first cycle")
    period_factor: int = hyper(1, COUNT, "the factor of the number of steps from one cycle to the next")
    final: float = hyper(0.0, REAL, "the value toward which each cycle goes, not a fraction of 'peak'")
    peak_factor: float = hyper(1.0, "[1e-30, 1]", "the factor of 'peak - final' from one cycle to the next")

    def value_at(self, step: Any, xp: ModuleType) -> Any:
        k, passed, remaining, length = self._cycle(step, xp)
        decayed = power(xp, self.peak_factor, k) if self.peak_factor < 1 else 1.0
        peak = between(xp, self.peak, self.final, 1 - decayed, decayed)
        return between(xp, peak, self.final, *half_wave(xp, passed / length, remaining / length))

    def _cycle(self, step: Any, xp: ModuleType) -> tuple[Any, Any, Any, Any]:
        """Return the number of the cycle, the steps of it that have passed and that remain, and its length."""
        if self.period_factor == 1:
            passed = step % self.period
            return step // self.period, passed, self.period - passed, self.period
        begins, lengths = [0], [self.period]
        while begins[-1] + lengths[-1] <= LAST_STEP:
            begins.append(begins[-1] + lengths[-1])
            lengths.append(lengths[-1] * self.period_factor)
        k = passed_boundaries(xp, step, begins[1:])
        passed = step - xp.asarray(begins, np.int32)[k]
        # The last cycle may be too long for int32: what is above is added after the whole steps are subtracted.
        low = [min(length, LAST_STEP) for length in lengths]
        high = [float(length - part) for length, part in zip(lengths, low, strict=True)]
        remaining = (xp.asarray(low, np.int32)[k] - passed) + xp.asarray(high)[k]
        return k, passed, remaining, xp.asarray([float(length) for length in lengths])[k]
