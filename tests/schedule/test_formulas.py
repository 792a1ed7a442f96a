"""Schedules against their formulas and against numbers worked out by hand, in float64 and compiled in float32."""

from __future__ import annotations

import dataclasses
import math

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
    Join,
    Linear,
    OneCycle,
    Polynomial,
    Warmup,
    WarmupStableDecay,
)

from .cases import ATOL, FORMULAS, LAST, RTOL, STEPS, compiled, half_wave, restarts


@pytest.mark.parametrize("name", FORMULAS)
def test_schedule_is_its_formula(name):
    schedule, formula = FORMULAS[name]
    steps = np.maximum(STEPS, 0)
    np.testing.assert_allclose(schedule(steps), [formula(t) for t in steps.tolist()], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", FORMULAS)
def test_compiled_float32_equals_python_to_rounding(name):
    schedule, _ = FORMULAS[name]
    assert compiled(schedule).dtype == np.float32
    np.testing.assert_allclose(compiled(schedule), schedule(STEPS), rtol=RTOL, atol=ATOL)


@given(name=st.sampled_from(list(FORMULAS)), step=st.integers(0, LAST))
def test_schedule_is_its_formula_at_any_step(name, step):
    schedule, formula = FORMULAS[name]
    assert schedule(step) == pytest.approx(formula(step), rel=1e-13, abs=1e-15)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        # a quarter of a half wave is (1 - cos(pi / 4)) / 2 = 0.1464466094 of the way, a half is 1/2
        (
            Interpolated([0.0, 8.0, 4.0], [4, 8], "cosine"),
            {0: 0, 1: 1.1715728753, 2: 4, 4: 8, 5: 7.4142135624, 6: 6, 8: 4},
        ),
        (
            Interpolated([1.0, 8.0, 8.0, -4.0], [7, 9, 13]),
            {0: 1, 3: 4, 7: 8, 8: 8, 9: 8, 10: 5, 12: -1, 13: -4, 14: -4},
        ),
        # peak / 25 = 0.04, / 1e4 = 4e-6; the rise takes 3 of 10 steps; halfway down (peak + end) / 2 = 0.500002
        (OneCycle(1.0, 11, rise=0.28), {0: 0.04, 3: 1.0, 7: 0.500002, 11: 4e-6, 12: 4e-6}),
        (
            OneCycle(1.0, 20, rise=0.4, fall=0.4, shape="linear", start_divisor=5.0, final_divisor=2.0),
            {0: 0.2, 4: 0.6, 8: 1.0, 12: 0.6, 16: 0.2, 18: 0.15, 20: 0.1},
        ),
        # cycles of 4, 12 and 36 steps with peaks 8, 5 and 3.5 above 2
        (SGDR(8.0, 4, 3, 2.0, 0.5), {0: 8, 2: 5, 4: 5, 10: 3.5, 16: 3.5, 34: 2.75, 52: 2.75}),
        (SGDR(8.0, 4), {0: 8, 1: 6.8284271247, 2: 4, 3: 1.1715728753, 4: 8, 4002: 4}),
        (WarmupStableDecay(2.0, 4, 30, 8, final=1.0), {0: 0, 1: 0.5, 4: 2, 22: 2, 24: 1.75, 26: 1.5, 30: 1, 31: 1}),
        (WarmupStableDecay(2.0, 4, 30, 8, "cosine"), {3: 1.5, 22: 2, 24: 1.7071067812, 26: 1, 30: 0}),
        # 1 - sqrt(1/4) = 1/2, 1 - sqrt(9/16) = 1/4
        (WarmupStableDecay(2.0, 4, 30, 16, "1-sqrt"), {3: 1.5, 14: 2, 15: 1.5, 18: 1, 23: 0.5, 30: 0}),
    ],
)
def test_value_is_what_comes_out_by_hand(schedule, values):
    assert [schedule(t) for t in values] == pytest.approx(list(values.values()), rel=1e-9, abs=1e-15)


@given(
    peak=st.floats(-10, 10),
    period=st.integers(1, 50),
    period_factor=st.integers(1, 5),
    final=st.floats(-10, 10),
    peak_factor=st.floats(0.1, 1.0),
    step=st.integers(0, 20_000),
)
def test_sgdr_is_a_walk_from_restart_to_restart(peak, period, period_factor, final, peak_factor, step):
    expected = restarts(peak, period, period_factor, final, peak_factor, step)
    got = SGDR(peak, period, period_factor, final, peak_factor)(step)
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(
    knots=st.lists(st.tuples(st.integers(1, 1000), st.floats(-10, 10)), max_size=8, unique_by=lambda knot: knot[0]),
    first=st.floats(-10, 10),
    step=st.floats(0, 1100),
)
def test_linear_interpolated_is_numpys_interpolation(knots, first, step):
    knots = [(0, first), *sorted(knots)]
    boundaries, values = [list(column) for column in zip(*knots, strict=True)]
    expected = np.interp(step, boundaries, values)
    assert Interpolated(values, boundaries[1:])(step) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("fall", [None, 0.3])
def test_one_cycle_is_pytorchs_but_for_its_ends_a_step_earlier(fall):
    # torch.optim.lr_scheduler.OneCycleLR, total_steps=100, pct_start=0.3, with and without three_phase
    def torch_lr(t):
        start, final = 0.3 / 25, 0.3 / 25 / 1e4
        ends = [29.0, 99.0] if fall is None else [29.0, 58.0, 99.0]
        values = [start, 0.3, final] if fall is None else [start, 0.3, start, final]
        k = next(k for k, end in enumerate(ends) if t <= end)
        begin = 0.0 if k == 0 else ends[k - 1]
        return values[k + 1] + (values[k] - values[k + 1]) * half_wave((t - begin) / (ends[k] - begin))

    ours = OneCycle(0.3, 99, rise=29 / 99, fall=fall and 29 / 99)
    assert [ours(t) for t in range(100)] == pytest.approx([torch_lr(t) for t in range(100)], rel=1e-12)


def test_phases_of_one_cycle_end_at_the_nearest_step():
    assert OneCycle(1.0, 10, rise=0.26)(3) == 1.0
    assert OneCycle(1.0, 10, rise=0.24)(2) == 1.0
    assert OneCycle(1.0, 100, rise=0.29)(29) == 1.0  # 0.29 * 100 is 28.999999999999996
    back = OneCycle(1.0, 100, rise=0.3, fall=0.55)
    assert back(85) == back(0) == 1 / 25


def test_longer_run_of_warmup_stable_decay_begins_like_the_shorter_one():
    schedule = WarmupStableDecay(0.3, 10, 100, 20, "1-sqrt")
    longer = dataclasses.replace(schedule, steps=10_000)
    t = np.arange(81)
    np.testing.assert_array_equal(longer(t), schedule(t))
    assert longer(81) == 0.3 > schedule(81)


def test_exponential_decay_of_minicpm_is_the_composition_that_the_docstring_shows():
    schedule = Warmup(Join([Constant(0.3), Exponential(0.3, 0.5, 50)], [600]), 100)
    # eq. 1 of arXiv:2404.06395 with W = 100, T = 700 and f(s - T) = 0.5 ** ((s - T) / 50)
    paper = [s / 100 * 0.3 if s < 100 else 0.3 if s < 700 else 0.5 ** ((s - 700) / 50) * 0.3 for s in range(1000)]
    np.testing.assert_allclose(schedule(np.arange(1000)), paper, rtol=1e-13)


@pytest.mark.parametrize("steps", [1_000, 1_000_000, LAST])
@pytest.mark.parametrize(
    "make",
    [
        Linear,
        lambda a, b, n: Cosine(a, n, b),
        lambda a, b, n: Interpolated([a, b], [n], "cosine"),
        lambda a, b, n: WarmupStableDecay(a, 0, n, n, "1-sqrt", final=b),
    ],
    ids=["linear", "cosine", "interpolated", "1-sqrt"],
)
def test_small_values_near_an_end_at_zero_keep_their_relative_accuracy(make, steps):
    for schedule, step in [(make(0.0, 1.0, steps), 1), (make(1.0, 0.0, steps), steps - 1)]:
        assert 0 < schedule(step) <= 1 / math.sqrt(steps) * (1 + 1e-9)
        assert float(schedule(jnp.int32(step))) == pytest.approx(schedule(step), rel=RTOL, abs=0)


def test_last_step_of_a_cycle_keeps_its_relative_accuracy():
    # the second cycle has 2**31 - 9 steps, the third one more than int32 holds
    for schedule, step in [(SGDR(1.0, LAST), LAST - 1), (SGDR(1.0, 8, (LAST - 8) // 8), LAST - 8)]:
        assert 0 < schedule(step) < 1e-15
        assert float(schedule(jnp.int32(step))) == pytest.approx(schedule(step), rel=RTOL, abs=0)


def test_staircase_is_exact_on_both_sides_of_a_stair():
    schedule = Exponential(1.0, 0.1, 3, staircase=True)
    assert [schedule(t) for t in (0, 2, 3, 5, 6)] == [1.0, 1.0, 0.1, 0.1, pytest.approx(0.01, rel=1e-15)]
    traced = jax.jit(schedule)(jnp.arange(LAST - 5, LAST + 1 - 3, dtype=jnp.int32))
    assert traced.tolist() == [0.0, 0.0, 0.0]
    stairs = jax.jit(Exponential(1.0, 0.999999, 3, staircase=True))(jnp.arange(3 * 7919, 3 * 7920, dtype=jnp.int32))
    assert len(set(stairs.tolist())) == 1, "three steps on one stair"


@pytest.mark.parametrize("start", [0.0, 1e-30, -3.0, 1e30])
def test_exponential_is_finite_at_every_step(start):
    # The float32 of these rates but the first six is up to eps / 2 off, which 2**31 steps make a factor of e**128.
    near = [0.5 + 2.9e-8, 0.5 - 1.4e-8, 1 - 4e-8, 1 + 9e-8, 1 + 5e-8, 0.12500000725]
    steps = np.concatenate([[0, 1, 40, 1000, LAST], 2 ** np.arange(20, 31)]).astype(np.int32)
    for rate in [1e-30, 0.5, 1.0, 1.0 + 1e-9, 10.0, 1e30, *near]:
        schedule = Exponential(start, rate, 1)
        assert np.isfinite(schedule(steps)).all() and np.isfinite(schedule(jnp.asarray(steps))).all(), rate


def test_growing_exponential_serves_a_search_for_the_largest_rate():
    schedule = Exponential(1e-6, 10.0, 100)
    assert schedule(600) == pytest.approx(1.0, rel=1e-13)
    assert float(jax.jit(schedule)(600)) == pytest.approx(1.0, rel=RTOL)


@pytest.mark.parametrize("schedule", [Exponential(1.0, 0.9999, 1), SGDR(1.0, 1, peak_factor=0.9999)])
def test_many_small_factors_do_not_add_up_the_rounding_of_the_factor(schedule):
    # the float32 of the factor is off by 2e-8 relative, which is 4e-4 after 20,000 steps
    assert float(jax.jit(schedule)(20_000)) == pytest.approx(0.9999**20_000, rel=RTOL)


def test_power_of_a_decay_is_its_formula_in_float32_too():
    schedule = Polynomial(1.0, 0.0, LAST, power=3.0)
    for step in (0, 1, 2**30, LAST - 1, LAST):
        expected = ((LAST - step) / LAST) ** 3
        assert float(schedule(jnp.int32(step))) == pytest.approx(expected, rel=RTOL, abs=0)
