"""objax's schedulers: its signatures and values, its default cycle, and what was undefined there."""

from __future__ import annotations

import inspect
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimkit.errors import HyperparameterError
from optimkit.optimizer import scheduler
from optimkit.optimizer.scheduler import LinearAnnealing, Scheduler, StepDecay

EPS = float(np.finfo(np.float32).eps)
LAST = 2**31 - 1

# name: (scheduler, objax's formula in plain Python for a step t >= 0)
FORMULAS = {
    "cycle": (LinearAnnealing(40, 0.3), lambda t: 0.3 * (1 - t % 40 / 40)),
    "cycle_min": (LinearAnnealing(40, 0.3, True, 0.1), lambda t: 0.3 * (1 - t % 40 / 40 * (1 - 0.1 / 0.3))),
    "once": (LinearAnnealing(40, 0.3, is_cycle=False), lambda t: 0.3 * (1 - min(t, 40) / 40)),
    "once_min": (LinearAnnealing(40, 0.3, False, 0.1), lambda t: 0.3 * (1 - min(t, 40) / 40 * (1 - 0.1 / 0.3))),
    "step": (StepDecay(25, 0.3), lambda t: 0.3 * 0.1 ** (t // 25)),
    "step_gamma": (StepDecay(25, 0.3, 0.5), lambda t: 0.3 * 0.5 ** (t // 25)),
    "list": (StepDecay([10, 30, 60], 0.3), lambda t: 0.3 * 0.1 ** ((t >= 10) + (t >= 30) + (t >= 60))),
    "list_unsorted_twice": (StepDecay((60, 10, 10), 0.3), lambda t: 0.3 * 0.1 ** (2 * (t >= 10) + (t >= 60))),
    "list_empty": (StepDecay([], 0.3), lambda t: 0.3),
}
JITTED = {name: jax.jit(schedule) for name, (schedule, _) in FORMULAS.items()}
STEPS = st.one_of(st.integers(0, 130), st.integers(0, LAST))


@pytest.mark.parametrize("name", FORMULAS)
@given(step=STEPS)
def test_value_is_objaxs_formula_eager_and_jitted(name, step):
    schedule, formula = FORMULAS[name]
    assert type(schedule(step)) is float
    assert schedule(step) == pytest.approx(formula(step), rel=1e-13, abs=1e-15)
    traced = JITTED[name](step)
    assert traced.dtype == jnp.float32 and traced.shape == ()
    # 1 - x is rounded once at the size of 1, the rest relatively
    assert float(traced) == pytest.approx(schedule(step), rel=8 * EPS, abs=0.3 * EPS)


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Scheduler, {"base_lr": 1.0}),
        (LinearAnnealing, {"max_step": inspect.Parameter.empty, "base_lr": 1.0, "is_cycle": True, "min_lr": 0.0}),
        (StepDecay, {"step_size": inspect.Parameter.empty, "base_lr": 1.0, "gamma": 0.1}),
    ],
)
def test_signature_is_objaxs(cls, expected):
    assert {name: p.default for name, p in inspect.signature(cls).parameters.items()} == expected


def test_linear_annealing_is_back_at_base_lr_after_max_step_by_default():
    assert LinearAnnealing(10, 0.5, min_lr=0.1)(10) == 0.5
    assert float(jax.jit(LinearAnnealing(10, 0.5, min_lr=0.1))(10)) == 0.5
    assert "starts again" in LinearAnnealing.__doc__ and "Warning" in LinearAnnealing.__doc__


@pytest.mark.parametrize("base_lr", [1.0, 0.3, 1e-3])
def test_linear_annealing_without_cycle_ends_at_min_lr_and_stays(base_lr):
    schedule = LinearAnnealing(10, base_lr, is_cycle=False, min_lr=base_lr / 4)
    for step in (10, 11, LAST):
        assert schedule(step) == base_lr / 4
        assert float(jax.jit(schedule)(step)) == pytest.approx(base_lr / 4, rel=EPS)
    assert LinearAnnealing(10, base_lr, is_cycle=False)(10) == 0.0


def test_cycle_and_drops_are_exact_for_traced_steps_beyond_float32():
    steps = jnp.arange(LAST - 12, LAST, dtype=jnp.int32)  # float32 holds every 128th of them
    for schedule in (LinearAnnealing(10, 1.0), LinearAnnealing(7.0, 1.0), StepDecay(2**31 - 8)):
        expected = [schedule(t) for t in steps.tolist()]
        assert len(set(expected)) > 1
        np.testing.assert_allclose(jax.jit(schedule)(steps), expected, rtol=8 * EPS, atol=EPS)


def test_length_need_not_be_whole():
    assert LinearAnnealing(2.5, is_cycle=False)(2) == pytest.approx(0.2)
    assert [LinearAnnealing(2.5)(t) for t in range(6)] == pytest.approx([1.0, 0.6, 0.2, 0.8, 0.4, 1.0])
    assert [StepDecay(2.5)(t) for t in range(6)] == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.1, 0.01])
    np.testing.assert_allclose(jax.jit(StepDecay(2.5))(jnp.arange(6)), [1, 1, 1, 0.1, 0.1, 0.01], rtol=4 * EPS)


def test_first_drop_has_the_float32_of_gamma():
    for schedule in (StepDecay(3), StepDecay([3])):
        assert jax.jit(schedule)(jnp.arange(4)).tolist() == [1.0, 1.0, 1.0, float(np.float32(0.1))]


@pytest.mark.parametrize("name", FORMULAS)
def test_multiplier_is_the_value_without_base_lr(name):
    schedule, _ = FORMULAS[name]
    for step in (0, 5, 61):
        assert schedule.base_lr * schedule.multiplier(step) == schedule(step)
    np.testing.assert_allclose(0.3 * schedule.multiplier(jnp.arange(70)), schedule(np.arange(70)), rtol=1e-5, atol=EPS)


@pytest.mark.parametrize("name", FORMULAS)
def test_negative_step_counts_as_zero(name):
    schedule, _ = FORMULAS[name]
    assert schedule(-3) == schedule(0) == 0.3
    assert jax.jit(schedule)(-3) == jax.jit(schedule)(0)


@pytest.mark.parametrize("name", FORMULAS)
def test_one_trace_serves_all_steps_and_vmap_agrees(name):
    schedule, traces = FORMULAS[name][0], []

    @jax.jit
    def value(step):
        traces.append(step)
        return schedule(step)

    loop = [float(value(step)) for step in range(70)]
    assert len(traces) == 1
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(70)), loop, rtol=4 * EPS, atol=EPS)


@pytest.mark.parametrize("name", FORMULAS)
def test_scheduler_is_a_value(name):
    schedule, _ = FORMULAS[name]
    assert eval(repr(schedule), vars(scheduler)) == schedule
    assert hash(pickle.loads(pickle.dumps(schedule))) == hash(schedule)


def test_objax_style_subclass_works():
    class Halving(Scheduler):
        def __init__(self, every, base_lr=1.0):
            super().__init__(base_lr=base_lr)
            self.every = every

        def multiplier(self, step):
            return 0.5 ** jnp.floor(step / self.every)

    schedule = Halving(10, base_lr=0.8)
    assert schedule(25) == pytest.approx(0.2)
    assert float(jax.jit(schedule)(25)) == pytest.approx(0.2)
    with pytest.raises(NotImplementedError, match=r"Scheduler without the method multiplier\(step\)"):
        Scheduler()(0)


@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (lambda: LinearAnnealing(0), ["LinearAnnealing: 'max_step'", "(0, 2147483647]", "got      0"]),
        (lambda: LinearAnnealing(math.nan), ["'max_step'", "nan"]),
        (lambda: LinearAnnealing(10, base_lr=0.0), ["'base_lr'", "0.0"]),
        (lambda: LinearAnnealing(10, is_cycle=1), ["'is_cycle'", "True or False"]),
        (lambda: LinearAnnealing(10, 0.1, min_lr=0.2), ["'min_lr' is above 'base_lr'", "at most 0.1", "0.2"]),
        (lambda: StepDecay(-5), ["StepDecay: 'step_size'", "-5"]),
        (lambda: StepDecay("5"), ["'step_size'", "'5'"]),
        (lambda: StepDecay([5, -1]), ["'step_size[1]'", "-1"]),
        (lambda: StepDecay(5, gamma=0.0), ["'gamma'", "0.0"]),
        (lambda: Scheduler(-1.0), ["Scheduler", "-1.0"]),
        (lambda: StepDecay(5)(math.nan), ["StepDecay: the step is NaN"]),
    ],
)
def test_error_names_the_field_and_the_value(make, texts):
    with pytest.raises(HyperparameterError) as caught:
        make()
    for text in texts:
        assert text in str(caught.value)
