"""What the tests of schedules share: each schedule with its formula in plain Python, and its compiled values."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.schedule import (
    SGDR,
    Constant,
    Cosine,
    Exponential,
    Interpolated,
    InverseSqrt,
    Join,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    Schedule,
    Warmup,
    WarmupCosine,
    WarmupStableDecay,
)

EPS = float(np.finfo(np.float32).eps)
LAST = 2**31 - 1

# In float32 the fraction, its shape, their product and the sum are each rounded once or twice: 8 eps. Where a shape is
# 1 - x, its rounding is absolute: eps times the largest value, and twice that with the sum's.
RTOL, ATOL = 8 * EPS, 2 * EPS * 0.3

# Every step where these schedules change, two before 0, steps of each size, and the last ones.
STEPS = np.concatenate([[-(2**31), -5], np.arange(200), 2 ** np.arange(8, 31) - 1, LAST - np.arange(4)[::-1]])
STEPS = STEPS.astype(np.int32)


def clamp(x: float) -> float:
    return min(max(x, 0.0), 1.0)


def half_wave(x: float) -> float:
    return (1 + math.cos(math.pi * clamp(x))) / 2


def rising_wave(x: float) -> float:
    return 1 - half_wave(x)


def through(steps: list[int], values: list[float], shape: Callable[[float], float]) -> Callable[[float], float]:
    """Return the function that goes through the values at the steps, found by a search from the front."""

    def formula(t: float) -> float:
        for k in range(len(steps) - 1):
            if t < steps[k + 1]:
                x = (t - steps[k]) / (steps[k + 1] - steps[k])
                return values[k] + (values[k + 1] - values[k]) * shape(x)
        return values[-1]

    return formula


def restarts(peak: float, period: int, period_factor: int, final: float, peak_factor: float, t: float) -> float:
    """Return SGDR's value by walking from restart to restart, as the paper's T_cur and T_i do."""
    amplitude = peak - final
    while t >= period:
        t, period, amplitude = t - period, period * period_factor, amplitude * peak_factor
    return final + amplitude * half_wave(t / period)


def stable(decay: Callable[[float], float]) -> Callable[[float], float]:
    """Return the formula of a warmup of 20 from 0.01 to 0.3, stable up to step 60, and a decay to 0.05 at 90."""
    return lambda t: 0.01 + 0.29 * t / 20 if t < 20 else 0.05 + 0.25 * decay(clamp((t - 60) / 30))


# name: (schedule, its formula in plain Python for a step t >= 0)
FORMULAS: dict[str, tuple[Schedule, Callable[[float], float]]] = {
    "constant": (Constant(0.3), lambda t: 0.3),
    "linear_down": (Linear(0.3, 0.01, 90), lambda t: 0.3 + (0.01 - 0.3) * clamp(t / 90)),
    "linear_up_later": (Linear(-0.2, 0.7, 70, begin=30), lambda t: -0.2 + 0.9 * clamp((t - 30) / 70)),
    "polynomial": (
        Polynomial(0.3, 0.02, 90, power=2.5, begin=5),
        lambda t: 0.02 + 0.28 * clamp((95 - t) / 90) ** 2.5,
    ),
    "polynomial_root": (Polynomial(0.0, 0.3, 90, power=0.5), lambda t: 0.3 - 0.3 * math.sqrt(1 - clamp(t / 90))),
    "cosine": (Cosine(0.3, 90), lambda t: 0.3 * half_wave(t / 90)),
    "cosine_final": (Cosine(0.3, 90, final=0.1), lambda t: 0.1 + 0.2 * half_wave(t / 90)),
    "exponential": (Exponential(0.3, 0.5, 20), lambda t: 0.3 * 0.5 ** (t / 20)),
    "exponential_stairs": (
        Exponential(0.3, 0.5, 20, staircase=True, floor=0.01),
        lambda t: max(0.3 * 0.5 ** (t // 20), 0.01),
    ),
    "inverse_sqrt": (InverseSqrt(0.3, 25), lambda t: 0.3 * min(t / 25, math.sqrt(25 / max(t, 1)))),
    "warmup_cosine": (
        WarmupCosine(0.3, 20, 90, final=0.05, start=0.01),
        lambda t: 0.01 + 0.29 * t / 20 if t < 20 else 0.05 + 0.25 * half_wave((t - 20) / 70),
    ),
    "warmup_cosine_unwarmed": (WarmupCosine(0.3, 0, 90), lambda t: 0.3 * half_wave(t / 90)),
    "wsd_linear": (
        WarmupStableDecay(0.3, 20, 90, 30, final=0.05, start=0.01),
        stable(lambda x: 1 - x),
    ),
    "wsd_cosine": (WarmupStableDecay(0.3, 20, 90, 30, "cosine", 0.05, 0.01), stable(half_wave)),
    "wsd_sqrt": (WarmupStableDecay(0.3, 20, 90, 30, "1-sqrt", 0.05, 0.01), stable(lambda x: 1 - math.sqrt(x))),
    "wsd_only_decay": (WarmupStableDecay(0.3, 0, 90, 90), lambda t: 0.3 * (1 - clamp(t / 90))),
    "warmup": (
        Warmup(Exponential(0.3, 0.5, 20), 15, start=0.1),
        lambda t: 0.1 + 0.2 * t / 15 if t < 15 else 0.3 * 0.5 ** ((t - 15) / 20),
    ),
    "warmup_polynomial": (
        Warmup(Polynomial(0.3, 0.02, 70, power=2.0), 20),
        lambda t: 0.3 * t / 20 if t < 20 else 0.02 + 0.28 * clamp((90 - t) / 70) ** 2,
    ),
    "warmup_sgdr": (
        Warmup(SGDR(0.3, 16, final=0.05), 15),
        lambda t: 0.3 * t / 15 if t < 15 else 0.05 + 0.25 * half_wave((t - 15) % 16 / 16),
    ),
    "piecewise": (Piecewise([0.3, 0.1, 0.2], [10, 60]), lambda t: [0.3, 0.1, 0.2][(t >= 10) + (t >= 60)]),
    "piecewise_one": (Piecewise([0.3], []), lambda t: 0.3),
    "interpolated": (
        Interpolated([0.05, 0.3, 0.1, 0.1, -0.2], [20, 21, 60, 90]),
        through([0, 20, 21, 60, 90], [0.05, 0.3, 0.1, 0.1, -0.2], clamp),
    ),
    "interpolated_cosine": (
        Interpolated([0.05, 0.3, 0.1, 0.1, -0.2], [20, 21, 60, 90], "cosine"),
        through([0, 20, 21, 60, 90], [0.05, 0.3, 0.1, 0.1, -0.2], rising_wave),
    ),
    "interpolated_one": (Interpolated([0.3], []), lambda t: 0.3),
    "one_cycle": (OneCycle(0.3, 90), through([0, 27, 90], [0.3 / 25, 0.3, 0.3 / 25 / 1e4], rising_wave)),
    "one_cycle_of_three_lines": (
        OneCycle(0.3, 90, rise=0.4, fall=0.5, shape="linear", start_divisor=10.0, final_divisor=100.0),
        through([0, 36, 81, 90], [0.03, 0.3, 0.03, 0.0003], clamp),
    ),
    "sgdr": (SGDR(0.3, 20), lambda t: 0.3 * half_wave(t % 20 / 20)),
    "sgdr_lower": (
        SGDR(0.3, 20, final=0.01, peak_factor=0.7),
        lambda t: 0.01 + 0.29 * 0.7 ** (t // 20) * half_wave(t % 20 / 20),
    ),
    "sgdr_longer": (SGDR(0.3, 10, 2, 0.05, 0.5), lambda t: restarts(0.3, 10, 2, 0.05, 0.5, t)),
    "sgdr_much_longer": (SGDR(0.3, 7, LAST), lambda t: restarts(0.3, 7, LAST, 0.0, 1.0, t)),
    "join": (
        Join([Linear(0.0, 0.3, 10), Constant(0.3), Cosine(0.3, 40)], [10, 50]),
        lambda t: 0.3 * t / 10 if t < 10 else 0.3 if t < 50 else 0.3 * half_wave((t - 50) / 40),
    ),
}


@functools.cache
def compiled(schedule: Schedule) -> np.ndarray:
    """Return the values of a schedule at ``STEPS``, compiled: once for all tests that look at them."""
    return np.asarray(jax.jit(schedule)(jnp.asarray(STEPS)))


def evaluated(schedule: Schedule, steps: np.ndarray) -> list[np.ndarray]:
    """Return the values in float64 and in float32, the latter op by op: compiling each drawn schedule takes 100 ms."""
    return [schedule(steps), np.asarray(schedule(jnp.asarray(steps)))]
