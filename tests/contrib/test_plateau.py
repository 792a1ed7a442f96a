"""The learning rate that falls on plateaus, against its oracle on values of any kind, and against optax."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimkit import Jit, TrainVar, VarCollection, contrib, rules
from optimkit.contrib.rules import ReduceOnPlateau
from optimkit.errors import MissingInputError
from optimkit.rules.base import Step
from tests.oracles.contrib_wrappers import scales
from tests.shell import close
from tests.wrapping import scalar

OPTIONS = st.fixed_dictionaries({
    "factor": st.sampled_from([0.25, 0.5]),
    "patience": st.integers(1, 4),
    "rtol": st.sampled_from([0.0, 0.125, 1.0]),
    "atol": st.sampled_from([0.0, 0.25, 1.0]),
    "cooldown": st.integers(0, 3),
    "accumulation_size": st.sampled_from([1, 2, 4]),
    "min_scale": st.sampled_from([0.0, 0.125]),
})  # fmt: skip
# Multiples of 1/8, whose means and thresholds are exact: a tie is a tie in float32, too.
VALUES = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=24)


def with_arrays(options):
    """Return a rule whose hyperparameters are data, so that all examples are one compilation."""
    return ReduceOnPlateau(rules.SGD(), **{name: jnp.asarray(x) for name, x in options.items()})


@jax.jit
def scales_of(rule, values):
    """Return the scale after each value."""
    params = {"w": jnp.zeros(())}

    def body(state, value):
        delta, state = rule.update(Step({"w": jnp.ones(())}, params, jnp.float32(1.0), value), state)
        return state, (-delta["w"], state["scale"])

    return jax.lax.scan(body, rule.init(params), values)[1]


def padded(values, size=24):
    return jnp.asarray([*values, *[0.0] * (size - len(values))], jnp.float32)


@settings(max_examples=25)
@given(OPTIONS, VALUES)
def test_scales_are_the_oracles(options, values):
    steps, got = scales_of(with_arrays(options), padded(values))
    assert got[: len(values)].tolist() == scales(values, **options)
    assert steps.tolist() == got.tolist()  # the new scale holds for the step of the value itself


def test_what_is_no_progress_while_it_rests_is_not_counted_afterwards():
    options = {"factor": 0.5, "patience": 2, "cooldown": 3}
    got = scales_of(ReduceOnPlateau(rules.SGD(), **options), jnp.ones(12))[1].tolist()
    assert got == scales([1.0] * 12, **options) == [1.0] * 2 + [0.5] * 5 + [0.25] * 5


@settings(max_examples=5)
@given(OPTIONS.filter(lambda o: o["rtol"] < 1 and o["rtol"] + o["atol"] > 0), VALUES)
def test_scales_of_positive_losses_are_optaxs(options, values):
    """Where rtol is 1, optax's first threshold is 0 times infinity, and nothing is progress."""
    optax = pytest.importorskip("optax", reason="optax is only in the bench extra; the oracle stands alone")
    values = [abs(x) for x in values]
    tx = optax.contrib.reduce_on_plateau(**options)
    params = {"w": jnp.zeros(())}

    def body(state, value):
        _, state = tx.update(params, state, value=value)
        return state, state.scale

    theirs = jax.jit(lambda x: jax.lax.scan(body, tx.init(params), x)[1])(padded(values))
    assert scales_of(with_arrays(options), padded(values))[1].tolist() == theirs.tolist()


def test_values_that_are_not_finite_are_no_progress_and_are_forgotten():
    rule = ReduceOnPlateau(rules.SGD(), 0.5, patience=2, accumulation_size=2)
    values = [3.0, 1.0, math.nan, 1.0, math.inf, 1.0, 1.0, 1.0, 1.0, 1.0]
    got = scales_of(rule, jnp.array(values))[1].tolist()
    assert got == scales(values, factor=0.5, patience=2, accumulation_size=2)
    assert got[-1] == 0.5  # the mean of the fourth pair, 1, is progress after 2


def test_minimize_hands_it_the_loss():
    vc = VarCollection({"w": TrainVar(jnp.array([8.0]))})
    opt = contrib.ReduceOnPlateau(vc, rules.SGD(), factor=0.5, patience=1, lr=2.0)
    step = Jit(lambda: opt.minimize(lambda: 0.5 * jnp.sum(vc["w"] ** 2)), vc + opt.vars())
    way = []
    for _ in range(4):
        step()
        way.append(float(vc["w"].value[0]))
    # at 2 it swings between 8 and -8, where the loss is the same; at 1 it is there
    assert way == [-8.0, 0.0, 0.0, 0.0]


def test_without_a_value_it_says_so():
    vc = VarCollection({"w": TrainVar(jnp.ones(2))})
    opt = contrib.ReduceOnPlateau(vc, rules.SGD(), lr=1.0)
    with pytest.raises(MissingInputError, match="needs 'value'"):
        opt.step([jnp.ones(2)])


def test_it_scales_rules_that_are_not_linear_in_the_learning_rate():
    """The inner rule gets the learning rate: Fromage's step at half of it is not half of its step."""
    rule = ReduceOnPlateau(rules.Fromage(), 0.5, patience=1)
    values = [jnp.float32(1.0)] * 2
    got, _ = scalar(rule, [1.0, 1.0], start=2.0, lr=0.5, value=values)
    first, _ = scalar(rules.Fromage(), [1.0], start=2.0, lr=0.5)
    second, _ = scalar(rules.Fromage(), [1.0], start=first[0], lr=0.25)
    close(got, [first[0], second[0]])
    assert np.isfinite(got).all()


def test_inner_rules_that_need_the_loss_get_it_too():
    rule = ReduceOnPlateau(rules.PolyakSGD(max_step=10.0))
    assert rule.needs == ("value",)
    way, _ = scalar(rule, [2.0], start=2.0, value=[jnp.float32(2.0)])
    close(way, [1.0])
