"""Schedules against their formulas, at their ends, across Python and JAX, and out of their range."""

from __future__ import annotations

import dataclasses
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimkit import schedule as schedules
from optimkit.errors import CompositionError, DTypeError, HyperparameterError
from optimkit.schedule import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Join,
    Linear,
    Piecewise,
    Polynomial,
    Schedule,
    Warmup,
    WarmupCosine,
)

EPS = float(np.finfo(np.float32).eps)
LAST = 2**31 - 1

# In float32 the fraction, its shape, their product and the sum are each rounded once or twice: 8 eps. Where a shape is
# 1 - x, its rounding is absolute: eps times the largest value, and twice that with the sum's.
RTOL, ATOL = 8 * EPS, 2 * EPS * 0.3


def clamp(x):
    return min(max(x, 0.0), 1.0)


def half_wave(x):
    return (1 + math.cos(math.pi * clamp(x))) / 2


# name: (schedule, its formula in plain Python for a step t >= 0)
FORMULAS = {
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
    "warmup": (
        Warmup(Exponential(0.3, 0.5, 20), 15, start=0.1),
        lambda t: 0.1 + 0.2 * t / 15 if t < 15 else 0.3 * 0.5 ** ((t - 15) / 20),
    ),
    "piecewise": (Piecewise([0.3, 0.1, 0.2], [10, 60]), lambda t: [0.3, 0.1, 0.2][(t >= 10) + (t >= 60)]),
    "piecewise_one": (Piecewise([0.3], []), lambda t: 0.3),
    "join": (
        Join([Linear(0.0, 0.3, 10), Constant(0.3), Cosine(0.3, 40)], [10, 50]),
        lambda t: 0.3 * t / 10 if t < 10 else 0.3 if t < 50 else 0.3 * half_wave((t - 50) / 40),
    ),
}
ALL = [pytest.param(schedule, id=name) for name, (schedule, _) in FORMULAS.items()]
JITTED = {name: jax.jit(schedule) for name, (schedule, _) in FORMULAS.items()}

# Small steps, where these schedules change, and any other.
STEPS = st.one_of(st.integers(0, 120), st.integers(0, LAST), st.integers(LAST - 3, LAST))


@pytest.mark.parametrize("name", FORMULAS)
@given(step=STEPS)
def test_schedule_is_its_formula(name, step):
    schedule, formula = FORMULAS[name]
    assert schedule(step) == pytest.approx(formula(step), rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("name", FORMULAS)
@given(step=STEPS)
def test_jitted_equals_python_to_float32_rounding(name, step):
    schedule, _ = FORMULAS[name]
    assert float(JITTED[name](step)) == pytest.approx(schedule(step), rel=RTOL, abs=ATOL)


@pytest.mark.parametrize("steps", [1_000, 1_000_000, LAST])
@pytest.mark.parametrize("make", [Linear, lambda a, b, n: Cosine(a, n, b)], ids=["linear", "cosine"])
def test_small_values_near_an_end_at_zero_keep_their_relative_accuracy(make, steps):
    for schedule, step in [(make(0.0, 1.0, steps), 1), (make(1.0, 0.0, steps), steps - 1)]:
        assert 0 < schedule(step) <= 1 / steps * (1 + 1e-9)
        assert float(jax.jit(schedule)(step)) == pytest.approx(schedule(step), rel=RTOL)


@pytest.mark.parametrize(
    ("schedule", "step", "value"),
    [
        (Linear(0.1, 0.3, 7), 0, 0.1),
        (Linear(0.1, 0.3, 7), 7, 0.3),
        (Linear(0.3, 0.1, 7), 7, 0.1),
        (Linear(0.3, 0.1, 7, begin=5), 5, 0.3),
        (Linear(0.3, 0.1, 7, begin=5), 12, 0.1),
        (Linear(0.0, 0.1, LAST), LAST, 0.1),
        (Linear(0.1, 0.0, 1, begin=LAST), LAST, 0.1),
        (Polynomial(0.1, 0.3, 7, power=3.0), 0, 0.1),
        (Polynomial(0.1, 0.3, 7, power=3.0), 7, 0.3),
        (Cosine(0.7, 9, final=0.1), 0, 0.7),
        (Cosine(0.7, 9, final=0.1), 9, 0.1),
        (Cosine(0.7, 9), 9, 0.0),
        (Exponential(0.7, 0.1, 9), 0, 0.7),
        (Exponential(1.0, 0.1, 9), 9, 0.1),
        (Exponential(1.0, 0.1, 9, staircase=True), 17, 0.1),
        (Exponential(0.7, 0.1, 9, floor=0.03), 900, 0.03),
        (InverseSqrt(0.7, 9), 0, 0.0),
        (InverseSqrt(0.7, 9), 9, 0.7),
        (WarmupCosine(0.7, 3, 9, final=0.1), 0, 0.0),
        (WarmupCosine(0.7, 3, 9, final=0.1), 3, 0.7),
        (WarmupCosine(0.7, 3, 9, final=0.1), 9, 0.1),
        (Warmup(Constant(0.7), 3), 0, 0.0),
        (Warmup(Constant(0.7), 3), 3, 0.7),
        (Warmup(Constant(0.7), 0, start=0.1), 0, 0.7),
        (Piecewise([0.1, 0.7], [3]), 2, 0.1),
        (Piecewise([0.1, 0.7], [3]), 3, 0.7),
    ],
)
def test_ends_are_exact(schedule, step, value):
    assert schedule(step) == value
    assert float(jax.jit(schedule)(step)) == float(np.float32(value))


def test_staircase_is_exact_on_both_sides_of_a_stair():
    schedule = Exponential(1.0, 0.1, 3, staircase=True)
    assert [schedule(t) for t in (0, 2, 3, 5, 6)] == [1.0, 1.0, 0.1, 0.1, pytest.approx(0.01, rel=1e-15)]
    traced = jax.jit(schedule)(jnp.arange(LAST - 5, LAST + 1 - 3, dtype=jnp.int32))
    assert traced.tolist() == [0.0, 0.0, 0.0]
    stairs = jax.jit(Exponential(1.0, 0.999999, 3, staircase=True))(jnp.arange(3 * 7919, 3 * 7920, dtype=jnp.int32))
    assert len(set(stairs.tolist())) == 1, "three steps on one stair"


@pytest.mark.parametrize(
    ("schedule", "boundary", "slope"),
    [
        (Warmup(Cosine(0.3, 70), 20), 20, 0.3 / 20),
        (WarmupCosine(0.3, 20, 90, start=0.1), 20, 0.2 / 20),
        (InverseSqrt(0.3, 25), 25, 0.3 / 25),
        (Join([Linear(0.0, 0.3, 10), Linear(0.3, 0.1, 20)], [10]), 10, 0.3 / 10),
    ],
)
def test_joint_is_continuous(schedule, boundary, slope):
    before, at, after = (schedule(boundary + k) for k in (-1, 0, 1))
    assert at == 0.3
    assert at - before == pytest.approx(slope)
    assert abs(after - at) <= slope


def test_join_counts_each_schedule_from_its_own_boundary():
    seen = Linear(0.0, 1000.0, 1000)  # returns the step that it sees
    joined = Join([seen, seen, seen], [3, 5])
    expected = [0, 1, 2, 0, 1, 0, 1]
    assert [joined(t) for t in range(7)] == expected
    assert jax.jit(joined)(jnp.arange(7)).tolist() == expected


def test_warmup_before_cosine_is_warmup_cosine():
    t = np.arange(150)
    np.testing.assert_array_equal(Warmup(Cosine(0.3, 70, 0.1), 20)(t), WarmupCosine(0.3, 20, 90, 0.1)(t))


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


REALS = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)  # XLA flushes subnormals to zero
COUNTS = st.one_of(st.integers(1, 100), st.integers(1, LAST))


def drawn_steps(schedule_steps, seed):
    """Sorted int32 steps: around 0, around the ends of the schedule, and anywhere."""
    rng = np.random.default_rng(seed)
    near = np.concatenate([np.arange(-2, 40), schedule_steps + np.arange(-20, 20), [-(2**31), LAST]])
    drawn = np.concatenate([near, rng.integers(0, 2 * schedule_steps, 30), rng.integers(0, LAST, 10)])
    return np.sort(np.clip(drawn, -(2**31), LAST)).astype(np.int32)


@given(start=REALS, end=REALS, steps=COUNTS, power=st.floats(0.1, 8.0), seed=st.integers(0, 99))
def test_value_never_leaves_the_range_of_its_ends(start, end, steps, power, seed):
    low, high = min(start, end), max(start, end)
    t = drawn_steps(steps, seed)
    for schedule in (Linear(start, end, steps), Polynomial(start, end, steps, power), Cosine(start, steps, end)):
        for values in (schedule(t), np.asarray(jax.jit(schedule)(jnp.asarray(t)))):
            assert np.all((low <= values) & (values <= high)), schedule  # false for NaN too


def test_value_that_rounds_to_an_end_does_not_pass_it():
    # -0.05 + (0.1 - -0.05) is above 0.1 in float32 and in float64, and one step before the end the wave is flat
    schedule = Cosine(-0.05, LAST, final=0.1)
    assert schedule(LAST - 1) <= 0.1
    assert float(jax.jit(schedule)(LAST - 1)) <= float(np.float32(0.1))


@given(start=REALS, end=REALS, steps=COUNTS, seed=st.integers(0, 99))
def test_linear_is_monotone_to_the_last_bit(start, end, steps, seed):
    t, schedule = drawn_steps(steps, seed), Linear(start, end, steps)
    for values in (schedule(t), np.asarray(jax.jit(schedule)(jnp.asarray(t)))):
        assert np.all(np.diff(values) * (1 if end >= start else -1) >= 0)


@given(
    peak=st.floats(0.0, 1e3, width=32, allow_subnormal=False),
    steps=COUNTS,
    power=st.floats(0.1, 8.0),
    seed=st.integers(0, 99),
)
def test_decays_are_monotone_to_rounding(peak, steps, power, seed):
    t = drawn_steps(steps, seed)
    decays = (Polynomial(peak, 0.0, steps, power), Cosine(peak, steps), Exponential(peak, 0.5, steps))
    for schedule in (*decays, Exponential(peak, 0.5, steps, staircase=True)):
        assert np.all(np.diff(schedule(t)) <= 4 * np.finfo(np.float64).eps * peak), schedule
        assert np.all(np.diff(jax.jit(schedule)(jnp.asarray(t))) <= 4 * EPS * peak), schedule


@pytest.mark.parametrize("rate", [1e-30, 0.5, 1.0, 1.0 + 1e-9, 10.0, 1e30])
@pytest.mark.parametrize("start", [0.0, 1e-30, -3.0, 1e30])
def test_exponential_is_finite_at_every_step(rate, start):
    schedule = Exponential(start, rate, 1)
    for step in (0, 1, 40, 1000, LAST):
        assert math.isfinite(schedule(step))
        assert math.isfinite(float(jax.jit(schedule)(step)))


def test_growing_exponential_serves_a_search_for_the_largest_rate():
    schedule = Exponential(1e-6, 10.0, 100)
    assert schedule(600) == pytest.approx(1.0, rel=1e-13)
    assert float(jax.jit(schedule)(600)) == pytest.approx(1.0, rel=RTOL)


def test_many_small_factors_do_not_add_up_the_rounding_of_the_rate():
    schedule = Exponential(1.0, 0.9999, 1)  # its float32 is off by 2e-8 relative, 4e-4 after 20,000 steps
    assert float(jax.jit(schedule)(20_000)) == pytest.approx(schedule(20_000), rel=RTOL)


@pytest.mark.parametrize("schedule", ALL)
def test_negative_step_counts_as_zero(schedule):
    assert schedule(-5) == schedule(0)
    assert jax.jit(schedule)(jnp.int32(-5)) == jax.jit(schedule)(jnp.int32(0))
    assert schedule(np.array([-5, 0])).tolist() == [schedule(0)] * 2


@pytest.mark.parametrize("schedule", ALL)
def test_step_above_the_last_counts_as_the_last(schedule):
    assert schedule(10**400) == schedule(math.inf) == schedule(LAST)
    assert jax.jit(schedule)(jnp.uint32(2**32 - 1)) == jax.jit(schedule)(jnp.int32(LAST))


@pytest.mark.parametrize("schedule", ALL)
def test_unknown_nan_step_counts_as_zero(schedule):
    assert jax.jit(schedule)(jnp.float32(jnp.nan)) == jax.jit(schedule)(0)


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize(
    "step", [7, 7.0, np.int64(7), np.float32(7), np.uint8(7), np.array(7), np.array(7, np.float16)]
)
def test_python_and_numpy_numbers_give_a_python_float_of_float64(schedule, step):
    assert type(schedule(step)) is float
    assert schedule(step) == schedule(7)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "float16", "bfloat16", "float32"])
def test_jax_steps_of_every_dtype_give_float32_and_the_same_value(dtype):
    for schedule in (Linear(0.3, 0.1, 1000, begin=30), WarmupCosine(0.3, 20, 300), FORMULAS["join"][0]):
        for step in (3, 100):
            got = schedule(jnp.asarray(step, dtype))
            assert isinstance(got, jax.Array) and got.shape == () and got.dtype == jnp.float32
            assert float(got) == pytest.approx(schedule(step), rel=RTOL, abs=ATOL)


@pytest.mark.parametrize("schedule", ALL)
def test_value_is_float32_and_strongly_typed_in_64_bit_mode_too(schedule):
    strong = jax.ShapeDtypeStruct((), jnp.float32)
    assert jax.eval_shape(schedule, 3) == strong
    assert not jax.jit(schedule).trace(3).jaxpr.out_avals[0].weak_type
    with jax.enable_x64(True):
        assert jax.eval_shape(schedule, jnp.int64(3)) == strong
        assert float(schedule(jnp.int64(2**40))) == pytest.approx(schedule(LAST), rel=RTOL, abs=ATOL)


@pytest.mark.parametrize("schedule", ALL)
def test_vmap_array_and_loop_over_steps_agree(schedule):
    t = jnp.arange(-2, 130)
    loop = [schedule(step) for step in t.tolist()]
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(t), loop, rtol=RTOL, atol=ATOL)
    np.testing.assert_allclose(jax.jit(schedule)(t), loop, rtol=RTOL, atol=ATOL)
    np.testing.assert_allclose(schedule(np.asarray(t)), loop, rtol=1e-15 * 4, err_msg="a NumPy array, as for a plot")
    assert schedule(np.asarray(t).reshape(11, 12)).shape == (11, 12)


@pytest.mark.parametrize("schedule", ALL)
def test_one_trace_serves_all_steps(schedule):
    traces = []

    @jax.jit
    def value(step):
        traces.append(step)
        return schedule(step)

    for step in range(50):
        value(step)
    assert len(traces) == 1


@pytest.mark.parametrize("schedule", ALL)
def test_schedule_runs_inside_scan(schedule):
    def step(t, _):
        return t + 1, schedule(t)

    _, values = jax.lax.scan(step, jnp.int32(0), None, length=20)
    np.testing.assert_allclose(values, schedule(np.arange(20)), rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("schedule", ALL)
def test_schedule_is_an_immutable_value(schedule):
    again = eval(repr(schedule), vars(schedules))
    assert again == schedule and hash(again) == hash(schedule)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    field = dataclasses.fields(schedule)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, field, 1)
    assert dataclasses.replace(schedule) == schedule


def test_fields_become_python_numbers_and_tuples():
    schedule = Linear(np.float32(0.5), jnp.float32(0.25), np.int64(4))
    assert schedule == Linear(0.5, 0.25, 4)
    assert [type(x) for x in dataclasses.astuple(schedule)] == [float, float, int, int]
    assert Piecewise([1, 2], np.array([3])) == Piecewise((1.0, 2.0), (3,))
    assert Join([Constant(1)], []) == Join((Constant(1.0),), ())


@pytest.mark.parametrize(
    ("make", "error", "texts"),
    [
        (lambda: Linear(1, 0, 1e5), HyperparameterError, ["Linear: 'steps'", "100000.0", "Give steps=100000."]),
        (lambda: Linear(1, 0, 0), HyperparameterError, ["'steps'", "int [1, ", "got      0", "number of steps from"]),
        (lambda: Linear(1, 0, 2.5), HyperparameterError, ["'steps'", "2.5"]),
        (lambda: Linear(1, 0, 2**31), HyperparameterError, ["'steps'", "2147483648"]),
        (lambda: Linear(1, 0, 5, begin=-1), HyperparameterError, ["'begin'", "-1"]),
        (lambda: Linear(math.nan, 0, 5), HyperparameterError, ["'start'", "nan"]),
        (lambda: Linear(0, math.inf, 5), HyperparameterError, ["'end'", "got      inf"]),
        (lambda: Linear(0, 1e31, 5), HyperparameterError, ["'end'", "1e+31"]),
        (lambda: Linear(True, 0, 5), HyperparameterError, ["'start'", "True"]),
        (lambda: Linear(None, 0, 5), HyperparameterError, ["'start'", "None"]),
        (lambda: Cosine("0.1", 5), HyperparameterError, ["Cosine: 'peak'", "'0.1'"]),
        (lambda: Constant(np.ones(3)), HyperparameterError, ["Constant: 'value'", "array([1., 1., 1.])"]),
        (lambda: Polynomial(1, 0, 5, power=0), HyperparameterError, ["'power'", "(0, 1e30]"]),
        (lambda: Exponential(1, 0, 5), HyperparameterError, ["'rate'", "[1e-30, 1e30]", "factor"]),
        (lambda: Exponential(1, 0.5, 5, staircase=1), HyperparameterError, ["'staircase'", "True or False", "1"]),
        (lambda: Exponential(1, 0.5, 5, floor=2), HyperparameterError, ["'floor'", "above 'start'", "2.0"]),
        (lambda: InverseSqrt(1, 0), HyperparameterError, ["'warmup_steps'", "0"]),
        (
            lambda: WarmupCosine(1, 9, 9),
            HyperparameterError,
            ["'warmup_steps'", "< 9", "includes", "steps=9 +"],
        ),
        (lambda: Warmup(Constant(1), -1), HyperparameterError, ["Warmup: 'steps'", "-1"]),
        (lambda: Warmup(0.1, 5), CompositionError, ["Warmup: 'schedule'", "Constant(0.1)"]),
        (lambda: Join([Constant(1), None], [3]), CompositionError, ["Join: 'schedules[1]'", "None"]),
        (
            lambda: Join([Constant(1)] * 3, [3]),
            HyperparameterError,
            ["2 for 3 schedules", "got      1"],
        ),
        (lambda: Join([Constant(1)] * 3, [5, 5]), HyperparameterError, ["do not increase", "(5, 5)"]),
        (lambda: Piecewise([1, 2], [0]), HyperparameterError, ["'boundaries[0]'", "got      0"]),
        (lambda: Piecewise([1, "2"], [3]), HyperparameterError, ["'values[1]'", "'2'"]),
        (lambda: Piecewise([1, 2], 3), HyperparameterError, ["'boundaries'", "each int [1, ", "got      3"]),
        (lambda: Piecewise([], []), HyperparameterError, ["'boundaries'", "values"]),
        (
            lambda: jax.jit(lambda x: Constant(x)(0))(1.0),
            HyperparameterError,
            ["traced", "value * schedule"],
        ),
        (lambda: Constant(1)("3"), DTypeError, ["Constant: the step is not a real number", "str '3'"]),
        (lambda: Constant(1)(None), DTypeError, ["NoneType None"]),
        (lambda: Constant(1)(True), DTypeError, ["bool True"]),
        (lambda: Constant(1)(np.array([True])), DTypeError, ["bool[1]"]),
        (lambda: Constant(1)(jnp.complex64(1)), DTypeError, ["complex64[]"]),
        (lambda: Constant(1)(math.nan), HyperparameterError, ["the step is NaN"]),
        (lambda: Constant(1)(np.array([1.0, math.nan])), HyperparameterError, ["the step is NaN"]),
    ],
)
def test_error_names_the_field_the_value_and_the_fix(make, error, texts):
    with pytest.raises(error) as caught:
        make()
    for text in texts:
        assert text in str(caught.value)


def test_subclass_without_a_formula_says_what_is_missing():
    class Unfinished(Schedule):
        pass

    with pytest.raises(NotImplementedError, match=r"Unfinished .* value_at\(step, xp\)"):
        Unfinished()(0)


def test_docstring_lists_each_field_with_its_range():
    assert "steps: the number of steps from 'peak' to 'final'; int [1, 2147483647]" in Cosine.__doc__
    assert "final: " in Cosine.__doc__ and "[-1e30, 1e30], 0.0 by default" in Cosine.__doc__


@pytest.mark.parametrize("name", ["linear", "polynomial", "cosine", "exponential", "warmup_cosine", "join"])
def test_schedule_agrees_with_optax(name):
    optax = pytest.importorskip("optax", reason="optax is only in the bench extra; the formulas above stand alone")
    peers = {
        "linear": (Linear(0.3, 0.01, 90, begin=5), optax.linear_schedule(0.3, 0.01, 90, 5)),
        "polynomial": (Polynomial(0.3, 0.01, 90, power=2.0), optax.polynomial_schedule(0.3, 0.01, 2.0, 90)),
        "cosine": (Cosine(0.3, 90, final=0.03), optax.cosine_decay_schedule(0.3, 90, alpha=0.1)),
        "exponential": (
            Exponential(0.3, 0.5, 20, staircase=True, floor=0.01),
            optax.exponential_decay(0.3, 20, 0.5, staircase=True, end_value=0.01),
        ),
        "warmup_cosine": (
            WarmupCosine(0.3, 20, 90, final=0.03),
            optax.warmup_cosine_decay_schedule(0.0, 0.3, 20, 90, end_value=0.03),
        ),
        "join": (
            Join([Constant(0.1), Linear(0.1, 0.3, 10)], [5]),
            optax.join_schedules([optax.constant_schedule(0.1), optax.linear_schedule(0.1, 0.3, 10)], [5]),
        ),
    }
    ours, theirs = peers[name]
    t = np.arange(120)
    np.testing.assert_allclose(ours(t), jax.jit(jax.vmap(theirs))(t), rtol=1e-5, atol=1e-7)
