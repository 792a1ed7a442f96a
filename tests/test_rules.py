"""Every rule of the table passes every check of the public kit."""

from __future__ import annotations

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimkit import rules, testing
from optimkit.testing import CHECKS, strategies
from optimkit.testing.compare import require_finite
from optimkit.testing.runner import eager, run
from optimkit.testing.suite import options_of

from .rule_table import RULES


@pytest.mark.parametrize("check", [c for c in CHECKS if c != "check_oracle"])
@pytest.mark.parametrize("name", RULES)
def test_rule_passes(name, check):
    case = RULES[name]
    if check in case.expected_failures:
        with pytest.raises(testing.ConformanceError):
            CHECKS[check](case.rule)
    else:
        CHECKS[check](case.rule, **options_of(check, None, None, testing.hyperparameters.TOLERANCE))


def test_the_table_has_every_rule():
    """A rule that is public and stands in no entry, itself or as a part, would go unchecked."""
    abstract = {rules.Rule, rules.LeafRule, rules.Wrapper, rules.Composed, rules.Chain, rules.Partition}
    public = {x for x in vars(rules).values() if inspect.isclass(x) and issubclass(x, rules.Rule)} - abstract
    assert {r.__name__ for r in public - {type(case.rule) for case in RULES.values()}} == set()


def test_the_suite_has_every_check():
    exported = {name for name in vars(testing) if name.startswith("check_")} - {"check_rule"}
    assert exported == set(CHECKS)


LEAF_RULES = [rules.Momentum, rules.Adam, rules.AdamW, rules.LARS, rules.WeightDecay, rules.TrustRatio,
              rules.ClipByGlobalNorm]  # fmt: skip


@pytest.mark.parametrize("rule_type", LEAF_RULES, ids=lambda t: t.__name__)
@settings(max_examples=settings().max_examples // 4)
@given(st.data())
def test_finite_for_all_hyperparameters_trees_and_gradients(rule_type, data):
    """Wherever in its declared domain a hyperparameter lies, steps and state are finite."""
    rule = data.draw(strategies.rules_of(rule_type))
    params = data.draw(strategies.parameter_trees())
    result = run(rule, params, data.draw(strategies.gradient_streams(params)), lr=1e-6, update=eager)
    for values in (*result.params, *result.states):
        require_finite(repr(rule), values, "parameters and state")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_adam_makes_the_progress_of_float32_in_low_precision(dtype):
    """On a quadratic, from the same start, the low-precision run stays within its rounding of the float32 one.

    Each step rounds a parameter by at most half an eps of its size, and the gradient p - target is taken where the
    parameter was rounded to. Adam does not amplify: a step is lr times a number of size about 1, and an error in p of
    eps moves it by lr eps / |g| at most; over the way from 1 to the target at 3 that adds up to less than one eps for
    each of the last units of rounding. 4 eps of the largest value is what all of it together may come to.
    """
    target = {"w": np.array([3.0, -2.0, 0.5], np.float32)}
    start = {"w": np.array([1.0, 1.0, 1.0], np.float32)}
    final = {}
    for kind in ("float32", dtype):
        params, state, rule = {"w": jnp.asarray(start["w"], kind)}, None, rules.Adam()
        for _ in range(200):
            grads = {"w": np.asarray(params["w"], np.float32) - target["w"]}
            result = run(rule, params, [grads], lr=0.05, state=state)
            params, state = result.last, result.state
        assert params["w"].dtype == kind
        assert {str(state["slots"]["w"][slot].dtype) for slot in ("mu", "nu")} == {"float32"}
        final[kind] = np.asarray(params["w"], np.float64)
    assert np.abs(final["float32"] - target["w"]).max() < 0.05
    assert np.abs(final[dtype] - final["float32"]).max() <= 4 * float(jnp.finfo(dtype).eps) * 3.0
