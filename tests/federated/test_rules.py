"""The rules of federated pass the checks of the public kit; rounds on the functional face."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import pytest

from optimkit import federated, pure, rules
from optimkit.errors import ConformanceError
from optimkit.federated import ClipByNorm, L1Penalty, Noise, Proximal, ScaffoldClient, ScaffoldServer, start_round
from optimkit.rules import Chain
from optimkit.testing import CHECKS, NotApplicable

RULES = {x.__name__: x() for x in vars(federated).values() if inspect.isclass(x) and issubclass(x, rules.Rule)}
BY_MESSAGES = "control variates change by collect and receive, not by steps"
EXPECTED_FAILURES = {
    ("Noise", "check_names_and_order_do_not_matter"): "the noise of a parameter is drawn by its name",
    ("Proximal", "check_slot_dtype_is_obeyed"): "the pull is the difference to the anchor, which rounding would move",
    ("ScaffoldClient", "check_state_is_alive"): BY_MESSAGES,
    ("ScaffoldServer", "check_state_is_alive"): BY_MESSAGES,
}
OWN = {"Proximal", "ScaffoldClient", "ScaffoldServer"}  # whose lines have most of their own
QUICK = {"check_form_is_kept", "check_slots_are_wide", "check_state_has_memory_of_its_own"}


@pytest.mark.parametrize("name, check", [
    pytest.param(name, check, id=f"{name}-{check}", marks=[] if check in QUICK and name in OWN else [pytest.mark.slow])
    for name, rule in RULES.items() for check, f in CHECKS.items()
    if not check.startswith("check_oracle") and not f.only(rule)
])  # fmt: skip
def test_a_rule_passes_the_kit(name, check):
    if (name, check) in EXPECTED_FAILURES:
        with pytest.raises(ConformanceError):
            CHECKS[check](RULES[name])
        return
    try:
        CHECKS[check](RULES[name])
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_the_rules_are_all_there():
    assert RULES.keys() == {"AMSYogi", "ClipByNorm", "L1Penalty", "Noise", "Proximal", "ScaffoldClient",
                            "ScaffoldServer", "YogiMean"}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_rule_names_its_source_and_says_what_it_keeps_and_where_it_departs(name):
    doc = inspect.cleandoc(RULES[name].__doc__).split("\n")
    assert all(any(line.startswith(s) for line in doc) for s in ("State:", "Deviations:", "Reference:", "Example:"))
    assert any(character.isdigit() for character in RULES[name].reference)


def test_a_round_begins_in_chains_of_chains_and_under_vmap():
    rule = Chain(ClipByNorm(10.0), Chain(Proximal(0.5), rules.Momentum(0.0)), L1Penalty(0.0))
    init, apply = pure(rule, lr=1.0)
    zero = {"w": jnp.zeros(1)}

    def displaced(state, at):
        state, new = apply(zero, state, {"w": jnp.full(1, at)})
        return state, new["w"][0] - at

    def client(first):
        state, _ = displaced(init(zero), first)
        second = displaced(state, 4.0)[1]
        return second, displaced(start_round(rule, state), 4.0)[1]

    pulled, anew = jax.vmap(client)(jnp.array([2.0, 6.0]))
    assert pulled.tolist() == [-1.0, 1.0]
    assert anew.tolist() == [0.0, 0.0]


def test_rules_without_rounds_are_left_as_they_are():
    for rule in (rules.Adam(), Noise(), ScaffoldServer(), ScaffoldClient()):
        state = rule.init({"w": jnp.ones(2)})
        assert start_round(rule, state) is state
