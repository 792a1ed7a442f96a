"""The rules that groups are made of: Variants, ScaledSteps, Opened; and Following, the base of two wrappers."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from optimkit import rules
from optimkit.errors import HyperparameterError, StructureError
from optimkit.rules import Step
from optimkit.rules.variants import Members, Opened, ScaledSteps, Variants, distribute
from optimkit.rules.wrappers import Following

MEMBERS = Members((("w", 0), ("b", 1)))
PARAMS = {"w": jnp.array([1.0]), "b": jnp.array([2.0])}


def moved(rule, grads, lr=1.0):
    """Return the displacements of one step from PARAMS, as numbers by name."""
    delta, _ = rule.update(Step(grads, PARAMS, jnp.float32(lr)), rule.init(PARAMS))
    return {name: d.tolist() for name, d in delta.items()}


def test_variants_take_each_parameter_by_its_own_rule_and_rate():
    rule = distribute("test", [rules.WeightDecay(0.5), rules.WeightDecay(0.0)], [1.0, 0.25], MEMBERS)
    assert isinstance(rule, Variants)
    assert moved(rule, {"w": jnp.array([1.0]), "b": jnp.array([1.0])}) == {"w": [-1.5], "b": [-0.25]}


def test_variants_refuse_a_parameter_that_is_in_no_group():
    rule = Variants((rules.SGD(), rules.SGD()), (1.0, 2.0), MEMBERS)
    with pytest.raises(StructureError, match="the parameter 'c' is in no group"):
        rule.init({"c": jnp.zeros(1)})


def test_scaled_steps_leave_the_norm_over_all_parameters_as_it_is():
    rule = distribute("test", [rules.ClipByGlobalNorm(1.0)] * 2, [1.0, 0.5], MEMBERS)
    assert isinstance(rule, ScaledSteps)
    got = moved(rule, {"w": jnp.array([3.0]), "b": jnp.array([4.0])})
    assert got == {"w": pytest.approx([-0.6]), "b": pytest.approx([-0.4])}


def test_an_opened_composition_has_the_state_of_the_closed_one_in_a_chain():
    variants = [rules.AdamW(weight_decay=0.1), rules.AdamW(weight_decay=0.0)]
    opened = distribute("test", variants, [1.0, 1.0], MEMBERS)
    assert isinstance(opened, Opened)
    states = [rules.Chain(rules.ClipByGlobalNorm(), x).init(PARAMS) for x in (opened, variants[0])]
    assert list(states[0]) == list(states[1]) == ["ClipByGlobalNorm", "AdamW"]
    assert states[0]["AdamW"].keys() == states[1]["AdamW"].keys()


@pytest.mark.parametrize("make, number", [(rules.Scaled, -1.0), (rules.Accumulated, 0)])
def test_a_following_wrapper_takes_a_function_and_still_checks_a_number(make, number):
    assert issubclass(make, Following)
    assert "t" in make(rules.SGD(), lambda t: 1).init(PARAMS)
    assert "t" not in make(rules.SGD(), 1).init(PARAMS)
    with pytest.raises(HyperparameterError, match=make._own):
        make(rules.SGD(), number)
