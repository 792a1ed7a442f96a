"""What wrappers claim beyond their oracles: what they act on, and what becomes of a step."""

from __future__ import annotations

import re

import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, TrainVar, VarCollection, rules, schedule
from optimkit.errors import CompositionError, HyperparameterError, StructureError
from optimkit.optimizer import Optimizer
from optimkit.rules import Rule
from optimkit.testing import check_oracle, streams
from optimkit.testing.compare import require_identical
from optimkit.testing.runner import compiled, eager, run

from .oracles import wrappers
from .wrapping import BOTH, GRADS, PARAMS, same_bits, scalar


def names(rule):
    """Return the names that state variables have in the stateful face, for a matrix and a vector."""
    vc = VarCollection({"l.w": TrainVar(jnp.ones((2, 2))), "l.b": TrainVar(jnp.ones(2))})
    found = Optimizer(vc, rule).vars().keys()
    return sorted(name.removeprefix("(Optimizer)") for name in found if "train_vars" not in name)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (rules.Scaled(rules.Momentum(), 0.5), [".t", "[l.b].m", "[l.w].m"]),
        (rules.Scaled(rules.SGD(), schedule.Constant(0.5)), [".t"]),
        (rules.Masked(rules.Momentum(), "w$"), [".t", "[l.w].m"]),
        (
            rules.Accumulated(rules.Momentum(), 2),
            [".inner.t", ".inner[l.b].m", ".inner[l.w].m", ".k", ".total[l.b]", ".total[l.w]"],
        ),
        (
            rules.SkipNonFinite(rules.Momentum()),
            [
                *(".consecutive", ".inner.t", ".inner[l.b].m", ".inner[l.w].m"),
                *(".non_finite[l.b]", ".non_finite[l.w]", ".skipped"),
            ],
        ),
        (rules.Averaged(rules.SGD()), [".average[l.b]", ".average[l.w]", ".t"]),
        (rules.Lookahead(rules.SGD()), [".k", ".slow[l.b]", ".slow[l.w]"]),
        (
            rules.WeightNorm(rules.Momentum()),
            [".inner.t", ".inner[l.b].m", ".inner[l.w].direction.m", ".inner[l.w].scale.m", ".norm[l.w]"],
        ),
        (rules.Cautious(rules.Momentum()), [".t", "[l.b].m", "[l.w].m"]),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Rule) else "",
)
def test_state_is_named_after_the_parameters(rule, expected):
    assert names(rule) == expected


# --- Scaled -----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_factor_of_one_is_no_wrapper(update):
    same_bits(rules.Scaled(rules.Adam(), 1.0), rules.Adam(), update)


@pytest.mark.parametrize("factor", [lambda t: 0.5**t, schedule.Cosine(0.5, 50)], ids=["function", "schedule"])
def test_a_factor_follows_a_function_of_the_step(factor):
    check_oracle(rules.Scaled(rules.Momentum(), factor), wrappers.oracle_scaled, scales=[1.0])


def test_a_factor_that_follows_a_schedule_compiles_once_and_is_saved():
    vc = VarCollection({"w": TrainVar(jnp.zeros(1))})
    opt = Optimizer(vc, rules.Scaled(rules.SGD(), schedule.Linear(1.0, 0.0, 2)))
    step = Jit(lambda g: opt(1.0, [g]), vc + opt.vars())
    way = []
    for _ in range(3):
        step(jnp.ones(1))
        way.append(float(vc["w"].value[0]))
    assert way == [-1.0, -1.5, -1.5]
    assert int(opt.vars()["(Optimizer).t"].value) == 3


@pytest.mark.parametrize("factor", [-0.5, "half", rules.SGD, float("nan")])
def test_a_factor_is_a_number_or_a_function(factor):
    with pytest.raises(HyperparameterError, match="'factor' is out of range"):
        rules.Scaled(rules.SGD(), factor)


@pytest.mark.parametrize("wrapper", [rules.Scaled, rules.Accumulated])
def test_what_is_wrapped_is_a_rule_also_where_a_function_is_followed(wrapper):
    with pytest.raises(CompositionError, match="not a rule"):
        wrapper(rules.SGD, lambda t: 1)


# --- Masked -----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_masked_stage_leaves_the_others_as_they_are_in_a_chain(update):
    rule = rules.Chain(rules.Masked(rules.WeightDecay(0.3), r"weight$"), rules.Adam())
    got = run(rule, PARAMS, GRADS, update=update).params
    decayed = run(rules.Chain(rules.WeightDecay(0.3), rules.Adam()), PARAMS, GRADS, update=update).params
    plain = run(rules.Adam(), PARAMS, GRADS, update=update).params
    for t, values in enumerate(got):
        expected = plain[t] | {"weight": decayed[t]["weight"]}
        require_identical("Masked", values, expected, f"parameters at step {t + 1}")


def test_a_match_may_look_at_arrays_under_jit():
    rule = rules.Masked(rules.WeightDecay(0.3), lambda name, x: x.ndim > 1 and x.dtype == jnp.float32)
    same_bits(rule, rules.Masked(rules.WeightDecay(0.3), "weight"), compiled)


def test_a_match_of_all_is_no_wrapper():
    same_bits(rules.Masked(rules.Adam(), "."), rules.Adam())


def test_a_match_of_nothing_is_named():
    with pytest.raises(StructureError, match=re.escape("Masked: no parameter matches 'kernel$'.")) as error:
        rules.Masked(rules.SGD(), r"kernel$").init(streams.arrays(PARAMS))
    assert "one of 'bias', 'scale', 'weight'" in str(error.value)


@pytest.mark.parametrize("match", ["(", 3, rules.SGD, None])
def test_what_cannot_match_is_refused_at_once(match):
    with pytest.raises(CompositionError, match="Masked: "):
        rules.Masked(rules.SGD(), match)


def test_a_masked_rule_is_a_value():
    rule = rules.Masked(rules.SGD(), r"w$")
    assert rule == rules.Masked(rules.SGD(), re.compile(r"w$")) != rules.Masked(rules.SGD(), r"b$")
    assert eval(repr(rule), vars(rules)) == rule


# --- Cautious ---------------------------------------------------------------------------------------------------------


def test_the_authors_later_code_is_a_variant():
    check_oracle(rules.Cautious(rules.Momentum(), variant="code"), wrappers.oracle_cautious, scales=[1.0])


@BOTH
@pytest.mark.parametrize("inner", [rules.Momentum(), rules.LARS()], ids=["chainable", "not chainable"])
def test_only_components_that_go_downhill_are_taken(inner, update):
    result = run(rules.Cautious(inner), PARAMS, GRADS, update=update)
    free = run(inner, PARAMS, GRADS[:1], update=update)
    left_out = 0
    for deltas, g in zip(result.deltas, GRADS, strict=True):
        for name, d in deltas.items():
            assert (d * g[name] <= 0).all()
            left_out += int((d == 0).sum())
    assert left_out > 0
    for name, d in free.deltas[0].items():
        np.testing.assert_allclose(result.deltas[0][name], d * d.size / (d.size + 1), rtol=1e-6)


def test_tiny_gradients_agree_by_sign():
    """The product of 1e-30 and 1e-30 is 0 in float32."""
    way, _ = scalar(rules.Cautious(rules.SGD(), xi=0.0), [1e-30], lr=1.0)
    assert way == [float(np.float32(-1e-30))]


def test_what_is_left_out_stays_to_the_last_bit():
    rule = rules.Cautious(rules.Frozen())
    result = run(rule, {"w": np.float32([-0.0, 1.0])}, [{"w": np.ones(2)}], update=eager)
    require_identical("Cautious", result.params[0], result.start, "parameters")
