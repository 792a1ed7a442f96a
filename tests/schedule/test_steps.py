"""What a step may be, and that a schedule acts alike in a loop, an array, jit, vmap, scan and 64-bit mode."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit.schedule import Linear, Schedule, Warmup, WarmupCosine

from .cases import ATOL, FORMULAS, LAST, RTOL, STEPS, compiled

ALL = [pytest.param(schedule, id=name) for name, (schedule, _) in FORMULAS.items()]


@pytest.mark.parametrize("schedule", ALL)
def test_negative_step_counts_as_zero(schedule):
    assert schedule(-5) == schedule(0)
    assert schedule(np.array([-5, 0])).tolist() == [schedule(0)] * 2
    assert len(set(compiled(schedule)[STEPS <= 0].tolist())) == 1


@pytest.mark.parametrize("schedule", ALL)
def test_step_above_the_last_counts_as_the_last(schedule):
    assert schedule(10**400) == schedule(math.inf) == schedule(LAST)


class Seen(Schedule):
    """Keeps the step that a schedule's formula gets to see."""

    def value_at(self, step, xp):
        object.__setattr__(self, "step", step.tolist())
        return 0.0


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(
    ("dtypes", "last"),
    [(["int8", "uint8", "int16", "int32", "uint32", "int64"], LAST), (["float16", "bfloat16", "float32"], 2.0**31)],
)
def test_formula_sees_no_step_out_of_range(dtypes, last, x64):
    # the float32 nearest to 2**31 - 1 is 2**31
    schedule = Seen()
    with jax.enable_x64(x64):
        for dtype in dtypes if x64 else [d for d in dtypes if d != "int64"]:
            info = (jnp.finfo if last != LAST else jnp.iinfo)(dtype)
            schedule(jnp.asarray([info.min, -1 if info.min else 0, info.max], dtype))
            assert schedule.step == [0, 0, min(float(info.max), last)], dtype


def test_unknown_step_that_is_no_finite_number_is_brought_into_range():
    schedule = Seen()
    schedule(jnp.asarray([jnp.nan, -jnp.inf, jnp.inf]))
    assert schedule.step == [0, 0, 2.0**31]


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize(
    "step", [7, 7.0, np.int64(7), np.float32(7), np.uint8(7), np.array(7), np.array(7, np.float16)]
)
def test_python_and_numpy_numbers_give_a_python_float_of_float64(schedule, step):
    assert type(schedule(step)) is float
    assert schedule(step) == schedule(7)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "float16", "bfloat16", "float32"])
def test_jax_steps_of_every_dtype_give_float32_and_the_same_value(dtype):
    several = [FORMULAS[name][0] for name in ("join", "interpolated_cosine", "sgdr_longer")]
    for schedule in (Linear(0.3, 0.1, 1000, begin=30), WarmupCosine(0.3, 20, 300), *several):
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
    loop = [schedule(step) for step in STEPS.tolist()]
    np.testing.assert_allclose(schedule(STEPS), loop, rtol=1e-15 * 4, err_msg="a NumPy array, as for a plot")
    np.testing.assert_allclose(compiled(schedule), loop, rtol=RTOL, atol=ATOL)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(STEPS), loop, rtol=RTOL, atol=ATOL)
    matrix = STEPS[:200].reshape(20, 10)
    np.testing.assert_allclose(schedule(matrix), np.reshape(loop[:200], (20, 10)), rtol=1e-15 * 4)
    assert jax.eval_shape(schedule, jnp.asarray(matrix)) == jax.ShapeDtypeStruct((20, 10), jnp.float32)


def test_one_trace_serves_all_steps():
    traces = []
    schedule = Warmup(lambda step: traces.append(step) or 0.1 * step, 3)
    traced = jax.jit(schedule)
    values = [float(traced(step)) for step in range(50)]
    assert len(traces) == 2, "once for the peak and once for the value"
    assert values == pytest.approx([schedule(step) for step in range(50)])


@pytest.mark.parametrize("name", ["join", "piecewise", "interpolated", "sgdr_longer", "warmup_sgdr"])
def test_schedule_runs_inside_scan(name):
    schedule, _ = FORMULAS[name]

    def step(t, _):
        return t + 1, schedule(t)

    _, values = jax.lax.scan(step, jnp.int32(0), None, length=70)
    np.testing.assert_allclose(values, schedule(np.arange(70)), rtol=RTOL, atol=ATOL)
