"""A rule is a value and a pytree; hyperparameters are found by name inside compositions."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import pure, rules
from optimkit.errors import DTypeError, HyperparameterError
from optimkit.hyper import hyper
from optimkit.rules import Chain, LeafRule, Partition, lookup
from optimkit.testing import domains, streams
from optimkit.testing.compare import require_close, rounding
from optimkit.testing.runner import compiled, run

PARAMS = streams.parameters()
GRADS = streams.gradients(PARAMS, 4)


# --- lookup -----------------------------------------------------------------------------------------------------------

NESTED = Chain(
    rules.ClipByGlobalNorm(),
    Partition(("bias", rules.Momentum(0.5)), (".", Chain(rules.AdamW(beta1=0.8), rules.Momentum(0.1)))),
)


@pytest.mark.parametrize("name, value", [
    ("max_norm", 1.0), ("beta1", 0.8), ("AdamW.beta1", 0.8), ("weight_decay", 0.01), ("ClipByGlobalNorm.max_norm", 1.0)
])  # fmt: skip
def test_hyperparameters_are_read_and_replaced_anywhere(name, value):
    assert lookup.get("test", NESTED, name) == value
    changed = lookup.override("test", NESTED, {name: 0.25})
    assert lookup.get("test", changed, name) == 0.25
    assert lookup.get("test", NESTED, name) == value
    assert lookup.override("test", changed, {name: value}) == NESTED


def test_an_override_of_none_keeps_the_value():
    assert lookup.override("test", NESTED, {"beta1": None, "max_norm": None}) is NESTED


def test_an_override_inside_a_composition_acts_as_the_rule_made_with_it():
    changed = lookup.override("test", Chain(rules.SGD(), rules.AdamW()), {"weight_decay": 0.5, "beta2": 0.9})
    assert changed == Chain(rules.SGD(), rules.AdamW(weight_decay=0.5, beta2=0.9))


def test_names_that_stand_twice_are_given_with_their_class():
    rule = Chain(rules.Adam(), rules.TrustRatio(), rules.WeightDecay())
    names = lookup.names_of(rule)
    assert "Adam.eps" in names
    assert "TrustRatio.eps" in names
    assert "eps" not in names
    assert lookup.override("test", rule, {"TrustRatio.eps": 1.0}) == rule.replace(
        rules=(rules.Adam(), rules.TrustRatio(eps=1.0), rules.WeightDecay())
    )


def test_rules_of_one_class_are_told_apart_by_number():
    rule = Chain(rules.Momentum(0.1), rules.Adam(), rules.Momentum(0.2))
    names = [name for name in lookup.names_of(rule) if "momentum" in name]
    assert names == ["Momentum.momentum", "Momentum_2.momentum"]
    assert lookup.get("test", rule, "Momentum_2.momentum") == 0.2
    changed = lookup.override("test", rule, {"Momentum_2.momentum": 0.5, "Momentum.nesterov": True})
    assert changed == Chain(rules.Momentum(0.1, True), rules.Adam(), rules.Momentum(0.5))
    assert all(lookup.find("test", rule, name) for name in lookup.names_of(rule))


@pytest.mark.parametrize("name, says", [
    ("eps", r"test: hyperparameter 'eps' is not unique(.|\n)*one of Adam.eps, TrustRatio.eps"),
    ("beta3", r"test: there is no hyperparameter 'beta3'(.|\n)*'beta1'"),
    ("TrustRatio.beta1", "no hyperparameter 'TrustRatio.beta1'"),
])  # fmt: skip
def test_names_that_are_unknown_or_not_unique_are_refused(name, says):
    with pytest.raises(HyperparameterError, match=says):
        lookup.override("test", Chain(rules.Adam(), rules.TrustRatio()), {name: 0.5})


def test_an_override_is_validated():
    with pytest.raises(HyperparameterError, match="'beta1' is out of range"):
        lookup.override("test", NESTED, {"beta1": 1.0})


# --- values -----------------------------------------------------------------------------------------------------------


def test_rules_are_equal_by_class_and_hyperparameters():
    assert rules.Adam() == rules.Adam(0.9)
    assert hash(rules.Adam()) == hash(rules.Adam(0.9))
    assert rules.Adam() != rules.Adam(0.8)
    assert rules.Adam() != rules.AdamW()
    assert rules.SGD() != rules.Frozen()
    assert Chain(rules.SGD()) != Chain(rules.SGD(), rules.SGD())
    assert Partition(("a", rules.SGD())) != Partition(("b", rules.SGD()))
    assert rules.Adam(jnp.float32(0.5)) == rules.Adam(jnp.float32(0.5))
    assert rules.Adam(jnp.array([0.5, 0.6])) != rules.Adam(jnp.array([0.5, 0.7]))
    assert len({rules.Adam(), rules.Adam(), rules.SGD()}) == 2


@pytest.mark.parametrize("rule", [
    rules.Adam(0.5), NESTED, rules.AdamW(jnp.float32(0.5)), Partition((lambda n, x: True, rules.SGD()))
], ids=["numbers", "nested", "array", "function"])  # fmt: skip
def test_copies_of_a_rule_are_equal(rule):
    leaves, structure = jax.tree.flatten(rule)
    assert copy.deepcopy(rule) == rule
    assert copy.copy(rule) == rule
    assert jax.tree.unflatten(structure, leaves) == rule
    if not (isinstance(rule, Partition) and callable(rule.matches[0])):  # no pickle of a lambda
        assert pickle.loads(pickle.dumps(rule)) == rule


def test_a_rule_is_immutable():
    rule = rules.Adam()
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.beta1 = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        del rule.beta1
    assert rule.replace(beta1=0.5).beta2 == 0.999
    assert rule.beta1 == 0.9


def test_replace_validates_and_knows_its_names():
    with pytest.raises(HyperparameterError, match="Adam: hyperparameter 'beta2' is out of range"):
        rules.Adam().replace(beta2=1.0)
    with pytest.raises(HyperparameterError, match=r"no hyperparameter 'momentum'(.|\n)*'beta1', 'beta2'"):
        rules.Adam().replace(momentum=0.5)


def test_a_numpy_scalar_is_a_constant_and_an_array_is_data():
    assert jax.tree.leaves(rules.Adam(np.float64(0.5), np.array(0.9))) == []
    assert rules.Adam(np.float64(0.5)) == rules.Adam(0.5)
    assert len(jax.tree.leaves(rules.Adam(jnp.float32(0.5)))) == 1


@pytest.mark.parametrize("value", [1.5, [0.5, 1.0], [0.5, np.nan], np.nan], ids=repr)
@pytest.mark.parametrize("array", [np.array, jnp.array])
def test_an_array_out_of_range_is_refused(array, value):
    value = array(value)
    with pytest.raises(HyperparameterError, match="'beta1' is out of range"):
        rules.Adam(beta1=value)


def test_float64_slots_need_64_bit_mode():
    rule = rules.Momentum(slot_dtype="float64")
    with pytest.raises(DTypeError, match=r"Momentum: slot_dtype='float64' needs 64-bit mode(.|\n)*jax_enable_x64"):
        rule.init(streams.arrays(PARAMS))
    with jax.enable_x64(True):
        assert run(rule, PARAMS, GRADS[:1]).states[0]["slots.weight.m"].dtype == np.float64


def test_hyperparameters_are_in_the_docstring():
    assert "beta1: decay of the mean of gradients; in [0, 1), default 0.9." in rules.Adam.__doc__
    assert "nesterov: " in rules.Momentum.__doc__
    assert "True or False" in rules.Momentum.__doc__


# --- a pytree: vmap, grad and jit over hyperparameters ----------------------------------------------------------------


def test_vmap_over_a_hyperparameter_is_a_loop_over_it():
    betas = jnp.array([0.0, 0.5, 0.95])
    params, grads = streams.arrays(PARAMS), [streams.arrays(g, jnp.float32) for g in GRADS]

    def train(rule):
        init, apply = pure(rule, 0.1)
        state, p = init(params), params
        for g in grads:
            state, p = apply(g, state, p)
        return p

    together = jax.jit(jax.vmap(train))(rules.AdamW(beta1=betas))
    for i, beta in enumerate(betas.tolist()):
        alone = run(rules.AdamW(beta1=beta), PARAMS, GRADS, lr=0.1)
        got = {name: np.asarray(x)[i] for name, x in together.items()}
        # beta1 is data on one side, a constant on the other: 1 - beta1 differs by up to eps / (1 - beta1)
        tolerance = rounding(len(GRADS)) * (1 + 1 / (1 - beta))
        require_close("vmap", [got], [alone.params[-1]], alone.start, tolerance)


def test_the_gradient_through_a_hyperparameter_is_its_finite_difference():
    with jax.enable_x64(True):
        params, grads = streams.arrays(PARAMS, jnp.float64), [streams.arrays(g, jnp.float64) for g in GRADS]

        def loss(momentum, lr):
            init, apply = pure(rules.Momentum(momentum), 1.0)
            state, p = init(params), params
            for g in grads:
                state, p = apply(g, state, p, lr=lr)
            return sum(jnp.sum(x**2) for x in jax.tree.leaves(p))

        at, h = (jnp.float64(0.7), jnp.float64(0.1)), 1e-6
        exact = jax.grad(loss, argnums=(0, 1))(*at)
        for i, slope in enumerate(exact):
            step = [h if i == j else 0.0 for j in (0, 1)]
            up, down = (loss(*(x + sign * s for x, s in zip(at, step, strict=True))) for sign in (1, -1))
            # central difference: error h² times the third derivative, and rounding eps / h
            np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=1e-7)


def test_another_value_of_an_array_hyperparameter_does_not_trace_again():
    traces = 0

    @jax.jit
    def step(rule, g, s, p):
        nonlocal traces
        traces += 1
        return pure(rule, 0.1).apply(g, s, p)

    params = streams.arrays(PARAMS)
    for beta in (0.1, 0.5, 0.9):
        rule = rules.Adam(beta1=jnp.float32(beta))
        step(rule, params, rule.init(params), params)
    assert traces == 1


def test_equal_rules_share_a_compilation_and_others_do_not():
    run(rules.Adam(0.77), PARAMS, GRADS[:1])
    before = compiled._cache_size()
    run(rules.Adam(0.77), PARAMS, GRADS[:1])
    assert compiled._cache_size() == before
    run(rules.Adam(0.78), PARAMS, GRADS[:1])
    assert compiled._cache_size() == before + 1


def test_a_constant_is_used_in_float64():
    """``1 - beta2`` at 0.999: computed in float32, it would be off by 5e-5."""

    class Complement(LeafRule):
        beta: float = hyper(0.999, "[0, 1)", "a decay")

        def update_leaf(self, g, slot, p, *, lr, t):
            return (1 - self.beta) * g, slot

    delta = run(Complement(), {"w": np.float32(0.0)}, [{"w": 1.0}]).deltas[0]["w"]
    assert delta == np.float32(1 - 0.999)


# --- domains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain, outside, ends", [
    ("[0, 1)", [-5e-324, 1.0], [0.0, 1 - 2**-53]),
    ("(0, inf)", [0.0, np.inf], [5e-324]),
    ("int [1, inf)", [0, np.inf, 1.5], [1]),
    ("int [0, 5)", [-1, 5, 0.5], [0, 4]),
    ("(-inf, inf)", [-np.inf, np.inf], []),
    ("[0, inf]", [-5e-324], [0.0]),
    (bool, [1, None], [False, True]),
    (("a", "b"), ["no such choice", None], ["a", "b"]),
])  # fmt: skip
def test_the_kit_tries_both_sides_of_every_end(domain, outside, ends):
    tried = domains.outside(domain)
    assert all(any(x is y or (type(x) is type(y) and x == y) for y in tried) for x in outside)
    assert domains.ends(domain) == ends


@pytest.mark.parametrize("default, domain, values", [
    (0.9, "[0, 1)", [0.9 * 1.1, 0.45]),
    (0.999, "[0, 1)", [0.999 * 0.9, 0.4995]),
    (0.0, "[0, inf)", [1e-3]),
    (0.0, "[0, 1e-4]", [5e-5]),
    (3, "int [1, inf)", [4, 6]),
    (5, "int [1, 5]", [4]),
    (True, bool, [False]),
    ("b", ("a", "b", "c"), ["c", "a"]),
    (None, ("a", "b"), ["a", "b"]),
    (None, "(0, inf)", [1.0]),
    (1.0, "[1, 1]", []),
])  # fmt: skip
def test_a_nudge_stays_in_the_domain(default, domain, values):
    field = dataclasses.field(default=default, metadata={"domain": domain})
    assert domains.nudged(default, field) == values
