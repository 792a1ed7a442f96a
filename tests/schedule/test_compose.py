"""Join and Warmup: what their parts see, and what they equal."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import schedule as schedules
from optimkit.schedule import (
    SGDR,
    Constant,
    Cosine,
    Interpolated,
    Join,
    Linear,
    Warmup,
    WarmupCosine,
    WarmupStableDecay,
)

from .cases import EPS, FORMULAS


def test_join_counts_each_schedule_from_its_own_boundary():
    seen = Linear(0.0, 1000.0, 1000)  # returns the step that it sees
    joined = Join([seen, seen, seen], [3, 5])
    expected = [0, 1, 2, 0, 1, 0, 1]
    assert [joined(t) for t in range(7)] == expected
    assert jax.jit(joined)(jnp.arange(7)).tolist() == expected


def test_join_is_also_a_function():
    assert schedules.join([Constant(1.0), Constant(2.0)], [3]) == Join([Constant(1.0), Constant(2.0)], [3])


def test_warmup_before_cosine_is_warmup_cosine():
    t = np.arange(150)
    np.testing.assert_array_equal(Warmup(Cosine(0.3, 70, 0.1), 20)(t), WarmupCosine(0.3, 20, 90, 0.1)(t))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_warmup_stable_decay_is_its_three_parts_joined(shape):
    t = np.arange(150)
    parts = Warmup(Join([Constant(0.3), Interpolated([0.3, 0.1], [30], shape)], [50]), 20)
    np.testing.assert_array_equal(WarmupStableDecay(0.3, 20, 100, 30, shape, final=0.1)(t), parts(t))


@pytest.mark.parametrize("name", [name for name in FORMULAS if not name.startswith("join")])
def test_every_schedule_warms_up(name):
    schedule, _ = FORMULAS[name]
    warm, t = Warmup(schedule, 16, start=-0.125), np.arange(100)
    assert warm(0) == -0.125 and warm(8) == pytest.approx((schedule(0) - 0.125) / 2)
    np.testing.assert_array_equal(warm(t + 16), schedule(t))


def test_restarts_with_a_warmup_each_are_warmup_cosines_joined():
    joined = Join([WarmupCosine(0.4, 5, 25), WarmupCosine(0.2, 5, 45)], [25])
    assert [joined(t) for t in (0, 5, 25, 30, 70)] == [0.0, 0.4, 0.0, 0.2, 0.0]
    unwarmed = Join([WarmupCosine(0.4, 0, 20), WarmupCosine(0.2, 0, 40)], [20])
    t = np.arange(60)
    np.testing.assert_allclose(unwarmed(t), SGDR(0.4, 20, 2, peak_factor=0.5)(t), rtol=1e-15)


@pytest.mark.parametrize("schedule", [Join, Warmup])
def test_any_function_of_the_step_is_a_part(schedule):
    parts = {Join: lambda f: Join([f, f], [3]), Warmup: lambda f: Warmup(f, 3)}
    joined = parts[schedule](lambda step: 2.0 + 0.5 * step)
    expected = {Join: [2.0, 2.5, 3.0, 2.0, 2.5], Warmup: [0.0, 2 / 3, 4 / 3, 2.0, 2.5]}[schedule]
    assert [joined(t) for t in range(5)] == pytest.approx(expected)
    np.testing.assert_allclose(jax.jit(joined)(jnp.arange(5)), expected, rtol=4 * EPS)


@pytest.mark.parametrize("make", [Join, Warmup])
def test_part_never_sees_a_negative_step(make):
    parts = {Join: lambda f: Join([Constant(1.0), f], [3]), Warmup: lambda f: Warmup(f, 3)}
    assert parts[make](math.sqrt)(7) == 2.0  # math.sqrt raises below 0
    assert parts[make](math.sqrt)(0) in (0.0, 1.0)
