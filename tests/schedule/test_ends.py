"""The ends of schedules are exact, their joints continuous, and nothing between leaves the range or turns back."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    Warmup,
    WarmupCosine,
    WarmupStableDecay,
)

from .cases import EPS, LAST, evaluated

EPS64 = float(np.finfo(np.float64).eps)


@pytest.mark.parametrize(
    ("schedule", "ends"),
    [
        (Linear(0.1, 0.3, 7), {0: 0.1, 7: 0.3}),
        (Linear(0.3, 0.1, 7, begin=5), {5: 0.3, 12: 0.1}),
        (Linear(0.0, 0.1, LAST), {LAST: 0.1}),
        (Linear(0.1, 0.0, 1, begin=LAST), {LAST: 0.1}),
        (Polynomial(0.1, 0.3, 7, power=3.0), {0: 0.1, 7: 0.3}),
        (Cosine(0.7, 9, final=0.1), {0: 0.7, 9: 0.1}),
        (Cosine(0.7, 9), {9: 0.0}),
        (Exponential(0.7, 0.1, 9), {0: 0.7}),
        (Exponential(1.0, 0.1, 9), {9: 0.1}),
        (Exponential(1.0, 0.1, 9, staircase=True), {17: 0.1}),
        (Exponential(0.7, 0.1, 9, floor=0.03), {900: 0.03}),
        (InverseSqrt(0.7, 9), {0: 0.0, 9: 0.7}),
        (WarmupCosine(0.7, 3, 9, final=0.1), {0: 0.0, 3: 0.7, 9: 0.1}),
        (WarmupStableDecay(0.7, 3, 20, 9, final=0.1, start=0.2), {0: 0.2, 3: 0.7, 10: 0.7, 11: 0.7, 20: 0.1, 21: 0.1}),
        (WarmupStableDecay(0.7, 3, 20, 9, "cosine", 0.1), {0: 0.0, 3: 0.7, 11: 0.7, 20: 0.1}),
        (WarmupStableDecay(0.7, 3, 20, 9, "1-sqrt", 0.1), {0: 0.0, 3: 0.7, 11: 0.7, 20: 0.1}),
        (WarmupStableDecay(0.7, 3, 12, 9), {3: 0.7, 12: 0.0}),
        (Warmup(Constant(0.7), 3), {0: 0.0, 3: 0.7}),
        (Warmup(Constant(0.7), 0, start=0.1), {0: 0.7}),
        (Piecewise([0.1, 0.7], [3]), {2: 0.1, 3: 0.7}),
        (Interpolated([0.1, 0.7, -0.3, 0.9], [3, 4, 11]), {0: 0.1, 3: 0.7, 4: -0.3, 11: 0.9, LAST: 0.9}),
        (Interpolated([0.1, 0.7, -0.3, 0.9], [3, 4, 11], "cosine"), {0: 0.1, 3: 0.7, 4: -0.3, 11: 0.9, LAST: 0.9}),
        (Interpolated([0.1, 0.7], [LAST]), {LAST: 0.7}),
        (OneCycle(0.7, 10), {0: 0.7 / 25, 3: 0.7, 10: 0.7 / 25 / 1e4, LAST: 0.7 / 25 / 1e4}),
        (OneCycle(0.7, 10, 0.4, 0.4, "linear", 7.0, 3.0), {0: 0.7 / 7, 4: 0.7, 8: 0.7 / 7, 10: 0.7 / 7 / 3}),
        (SGDR(0.7, 3, final=0.1), {0: 0.7, 3: 0.7, 6: 0.7, 3 * 10**8: 0.7}),
        (SGDR(0.7, 3, 2), {0: 0.7, 3: 0.7, 9: 0.7, 21: 0.7, 3 * (2**29 - 1): 0.7}),
        (SGDR(0.5, 3, 2, peak_factor=0.5), {0: 0.5, 3: 0.25, 9: 0.125}),
    ],
)
def test_ends_are_exact(schedule, ends):
    assert {t: schedule(t) for t in ends} == ends
    traced = jax.jit(schedule)(jnp.asarray(list(ends), jnp.int32))
    assert traced.tolist() == np.float32(list(ends.values())).tolist()


@pytest.mark.parametrize(
    ("schedule", "boundary", "slope"),
    [
        (Warmup(Cosine(0.3, 70), 20), 20, 0.3 / 20),
        (WarmupCosine(0.3, 20, 90, start=0.1), 20, 0.2 / 20),
        (WarmupStableDecay(0.3, 20, 90, 40, start=0.1), 20, 0.2 / 20),
        (InverseSqrt(0.3, 25), 25, 0.3 / 25),
        (Interpolated([0.1, 0.3, 0.2], [10, 50]), 10, 0.2 / 10),
        (OneCycle(0.3, 40, rise=0.25, shape="linear", start_divisor=3.0), 10, 0.2 / 10),
        (Join([Linear(0.0, 0.3, 10), Linear(0.3, 0.1, 20)], [10]), 10, 0.3 / 10),
    ],
)
def test_joint_is_continuous(schedule, boundary, slope):
    before, at, after = (schedule(boundary + k) for k in (-1, 0, 1))
    assert at == 0.3
    assert at - before == pytest.approx(slope)
    assert abs(after - at) <= slope


# XLA flushes subnormals to zero; from 1e-20 on, no difference, part or quotient below is one
REALS = st.floats(-1e3, 1e3, width=32).map(lambda x: x if abs(x) >= 1e-20 else 0.0)
COUNTS = st.one_of(st.integers(1, 100), st.integers(1, LAST))
SHORT = st.one_of(st.integers(1, 100), st.integers(1, 2**30))
SMOOTH = st.sampled_from(["linear", "cosine"])
SEEDS = st.integers(0, 99)


@st.composite
def interpolated(draw, shapes=SMOOTH):
    """Draw a curve through one to four values."""
    boundaries = sorted(draw(st.sets(COUNTS, max_size=3)))
    values = draw(st.lists(REALS, min_size=len(boundaries) + 1, max_size=len(boundaries) + 1))
    return Interpolated(values, boundaries, draw(shapes))


@st.composite
def stable_decays(draw):
    """Draw a warmup, a stable part (perhaps none) and a decay."""
    warmup, decay = draw(st.integers(0, 2**29)), draw(SHORT)
    steps = warmup + decay + draw(st.integers(0, 2**29))
    shape = draw(st.sampled_from(["linear", "cosine", "1-sqrt"]))
    return WarmupStableDecay(draw(REALS), warmup, steps, decay, shape, draw(REALS), draw(REALS))


@st.composite
def one_cycles(draw):
    """Draw a cycle of two or three phases, long enough for each to have a step."""
    rise = draw(st.floats(0.1, 0.5))
    fall = draw(st.none() | st.floats(0.1, 0.4))
    steps = draw(st.integers(10, 100) | st.integers(10, LAST))
    return OneCycle(draw(REALS), steps, rise, fall, draw(SMOOTH), draw(st.floats(1, 100)), draw(st.floats(1, 1e5)))


# a class: (how to draw one, the values that it stays between, the steps where something happens)
DRAWN = {
    Linear: (st.builds(Linear, REALS, REALS, COUNTS), lambda s: (s.start, s.end), lambda s: [s.steps]),
    Polynomial: (
        st.builds(Polynomial, REALS, REALS, COUNTS, st.floats(0.1, 8.0)),
        lambda s: (s.start, s.end),
        lambda s: [s.steps],
    ),
    Cosine: (st.builds(Cosine, REALS, COUNTS, REALS), lambda s: (s.peak, s.final), lambda s: [s.steps]),
    Interpolated: (interpolated(), lambda s: s.values, lambda s: list(s.boundaries)),
    WarmupStableDecay: (
        stable_decays(),
        lambda s: (s.start, s.peak, s.final),
        lambda s: [s.warmup_steps, s.steps - s.decay_steps, s.steps],
    ),
    OneCycle: (
        one_cycles(),
        lambda s: (s.peak, s.peak / s.start_divisor, s.peak / s.start_divisor / s.final_divisor),
        lambda s: list(s._turns()),
    ),
    SGDR: (
        st.builds(SGDR, REALS, SHORT, st.integers(1, 4) | COUNTS, REALS, st.floats(0.1, 1.0)),
        lambda s: (s.peak, s.final),
        lambda s: [s.period, s.period * (1 + s.period_factor)],
    ),
}


def steps_around(marks: list[int], seed: int) -> np.ndarray:
    """Return 160 sorted steps: below and at 0, on both sides of up to three marks, and anywhere."""
    rng = np.random.default_rng(seed)
    marks = (marks + [0, 0, 0])[:3]
    near = np.concatenate([mark + np.arange(-12, 12) for mark in (*marks, 12, LAST - 11)])
    between = np.linspace(0, max(marks), 20).astype(np.int64)
    drawn = np.concatenate([near, between, rng.integers(0, 2 * max(marks) + 1, 20)])
    return np.sort(np.clip(drawn, -(2**31), LAST)).astype(np.int32)


@pytest.mark.parametrize("cls", DRAWN)
@given(data=st.data(), seed=SEEDS)
def test_value_is_a_number_within_the_range_of_its_ends(cls, data, seed):
    draw, ends, marks = DRAWN[cls]
    schedule = data.draw(draw)
    low, high = min(ends(schedule)), max(ends(schedule))
    for values in evaluated(schedule, steps_around(marks(schedule), seed)):
        kind = values.dtype.type
        assert np.all((kind(low) <= values) & (values <= kind(high)))  # false for NaN too


@pytest.mark.parametrize("cls", DRAWN)
@given(data=st.data(), seed=SEEDS)
def test_float32_is_float64_to_rounding(cls, data, seed):
    draw, ends, marks = DRAWN[cls]
    schedule = data.draw(draw)
    exact, rounded = evaluated(schedule, steps_around(marks(schedule), seed))
    # A part of the way is off by 1.5 eps (three roundings), which a power or a half wave multiplies by the power or by
    # pi / 2, and its shape by 2.6 eps. That acts on twice the largest end; the sum adds 2. SGDR's peak is a way, too.
    weight = 1.5 * max(getattr(schedule, "power", 1.0), np.pi / 2) + 2.6
    ways = 2 if cls is SGDR else 1
    allowed = ways * (2 * weight + 2) * EPS * max(map(abs, ends(schedule)))
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=allowed)


@given(schedule=DRAWN[Linear][0] | interpolated(st.just("linear")), seed=SEEDS)
def test_lines_are_monotone_to_the_last_bit(schedule, seed):
    _, ends, marks = DRAWN[type(schedule)]
    t, lines = steps_around(marks(schedule), seed), list(itertools.pairwise(ends(schedule)))
    for values in evaluated(schedule, t):
        for (begin, end), (start, stop) in zip(pieces(marks(schedule)), lines, strict=True):
            piece = values[(begin <= t) & (t <= end)]
            assert np.all(np.diff(piece) * (1 if stop >= start else -1) >= 0)


def pieces(marks: list[int]) -> list[tuple[int, int]]:
    """Return the first and the last step of each piece between marks."""
    return list(itertools.pairwise([0, *marks]))


@pytest.mark.parametrize("cls", [Polynomial, Cosine, WarmupStableDecay, OneCycle, SGDR, Exponential])
@given(data=st.data(), seed=SEEDS)
def test_pieces_are_monotone_to_rounding(cls, data, seed):
    exponentials = st.builds(Exponential, REALS, st.floats(0.1, 1.0), COUNTS, st.booleans())
    draw, ends, marks = DRAWN.get(cls) or (exponentials, lambda s: (s.start,), lambda s: [LAST])
    schedule = data.draw(draw)
    t = steps_around(marks(schedule), seed)
    for values, eps in zip(evaluated(schedule, t), (EPS64, EPS), strict=True):
        # roundings keep an order; what may break it is a power or a sine, by 1 eps each on twice the largest end, twice
        allowed = 4 * eps * max(map(abs, ends(schedule)))
        for begin, end in pieces([*marks(schedule), LAST] if cls is not SGDR else marks(schedule)):
            change = np.diff(values[(begin <= t) & (t < end)])  # a restart of SGDR is a jump at the end
            assert np.all(change <= allowed) or np.all(change >= -allowed)


# What only the compiler could break, by another order of operations: awkward numbers, each compiled once.
@pytest.mark.parametrize(
    "schedule",
    [
        Linear(-0.05, 0.1, LAST),  # -0.05 + (0.1 - -0.05) is above 0.1 in float32 and in float64
        Cosine(-0.05, LAST, final=0.1),  # and one step before the end the wave is flat
        Polynomial(0.1, -0.05, LAST, power=0.3),
        Interpolated([0.1, -0.05], [LAST - 20]),
        Interpolated([0.1, -0.05], [LAST - 20], "cosine"),
        WarmupStableDecay(-0.05, 0, LAST, LAST, "1-sqrt", final=0.1),
        SGDR(0.1, LAST, final=-0.05),
    ],
)
def test_compiled_value_is_monotone_and_does_not_pass_its_end(schedule):
    t = np.concatenate([np.arange(40), LAST // 2 + np.arange(40), LAST - 1 - np.arange(40)[::-1]]).astype(np.int32)
    for values, eps in [(schedule(t), EPS64), (np.asarray(jax.jit(schedule)(t)), EPS)]:
        kind = values.dtype.type
        assert np.all((kind(-0.05) <= values) & (values <= kind(0.1)))
        forward = np.diff(values) * (1 if values[-1] > values[0] else -1)
        assert np.all(forward >= (0 if isinstance(schedule, Linear) else -eps * 0.2))
