"""Rules made of rules: chains, partitions, named compositions, wrappers."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, TrainVar, VarCollection, pure, rules
from optimkit.errors import CompositionError, HyperparameterError, MissingInputError, StructureError
from optimkit.hyper import hyper
from optimkit.optimizer import Optimizer
from optimkit.rules import Chain, Frozen, LeafRule, Partition, Rule, Step, Wrapper
from optimkit.testing import streams
from optimkit.testing.compare import require_close, require_identical, rounding
from optimkit.testing.runner import compiled, eager, flat, run

PARAMS = streams.parameters()
GRADS = streams.gradients(PARAMS, 5)


class Needy(LeafRule):
    """Steps along the gradient, and asks for more than it uses."""

    needs = ("value", "grad_fn")

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * g, slot


class SecondLook(Rule):
    """Takes its step by the gradient at twice the parameters, so that a wrong ``grad_fn`` shows."""

    needs = ("grad_fn",)

    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        there = step.grad_fn(jax.tree.map(lambda p: 2 * p, step.params))
        return jax.tree.map(lambda g: -step.lr * g, there), state


class Averaging(LeafRule):
    """SGD that is evaluated elsewhere than where it steps."""

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * g, slot

    def eval_params(self, state: Any, params: Any) -> Any:
        return jax.tree.map(lambda p: p + 1, params)


class Doubled(Wrapper):
    """A wrapper that doubles the steps of the rule inside."""

    factor: float = hyper(2.0, "(0, inf)", "what displacements are multiplied by")

    def update(self, step: Step, state: Any) -> Any:
        delta, state = self.inner.update(step, state)
        return jax.tree.map(lambda d: self.factor * d, delta), state


# --- chains -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", [eager, compiled], ids=["eager", "jit"])
def test_adamw_is_adam_then_decay_to_the_last_bit(update):
    chain = Chain(rules.Adam(0.8, 0.95, 1e-6, 1e-9), rules.WeightDecay(0.3))
    one = run(rules.AdamW(0.8, 0.95, 1e-6, 1e-9, 0.3), PARAMS, GRADS, update=update)
    other = run(chain, PARAMS, GRADS, update=update)
    require_identical("AdamW", one.params[-1], other.params[-1], "parameters")
    require_identical("AdamW", one.states[-1], other.states[-1], "state")


def test_order_in_a_chain_matters():
    """At the first step Adam moves by lr times a sign; decay before it changes the sign at most."""
    params, grads = {"w": np.float32([1.0, -3.0])}, [{"w": np.array([0.1, 0.1])}]
    before = run(Chain(rules.WeightDecay(0.5), rules.Adam(eps=0.0)), params, grads, lr=0.1)
    after = run(Chain(rules.Adam(eps=0.0), rules.WeightDecay(0.5)), params, grads, lr=0.1)
    np.testing.assert_allclose(before.params[0]["w"], [0.9, -2.9], rtol=1e-6)
    np.testing.assert_allclose(after.params[0]["w"], [1 - 0.1 - 0.05, -3 - 0.1 + 0.15], rtol=1e-6)


def test_state_of_a_chain_is_named_by_class_and_outlives_another_stage():
    short = rules.Chain(rules.Adam()).init(streams.arrays(PARAMS))
    long = rules.Chain(rules.ClipByGlobalNorm(), rules.Adam(), rules.Momentum(), rules.Adam())
    state = long.init(streams.arrays(PARAMS))
    assert list(state) == ["ClipByGlobalNorm", "Adam", "Momentum", "Adam_2"]
    assert jax.tree.structure(state["Adam"]) == jax.tree.structure(short["Adam"])


def test_only_the_last_rule_of_a_chain_may_be_unchainable_and_the_error_tells_the_fix():
    says = r"LARS at place 2 of 3(.|\n)*Put it last: Chain\(\.\.\., LARS\(\.\.\.\)\)"
    with pytest.raises(CompositionError, match=says):
        Chain(rules.SGD(), rules.LARS(), rules.WeightDecay())
    with pytest.raises(CompositionError, match="Chain at place 1 of 2"):
        Chain(Chain(rules.SGD(), rules.LARS()), rules.SGD())
    with pytest.raises(CompositionError, match="Partition at place 1 of 2"):
        Chain(Partition((".", rules.LARS())), rules.SGD())
    assert not Chain(rules.SGD(), rules.LARS()).chainable
    assert Chain(rules.SGD(), rules.Adam()).chainable


@pytest.mark.parametrize("make, says", [
    (lambda: Chain(), "there is no rule"),
    (lambda: Chain(rules.Adam), r"the class Adam(.|\n)*Call it: Adam\(\)"),
    (lambda: Chain(rules.Adam(), 0.1), "float 0.1"),
    (lambda: Partition((".", rules.SGD)), "the class SGD"),
    (lambda: Partition(rules.SGD()), r"not a route(.|\n)*SGD\(\)"),
    (lambda: Partition((3, rules.SGD())), "not a route"),
    (lambda: Doubled(rules.SGD), "the class SGD"),
])  # fmt: skip
def test_what_is_not_a_rule_cannot_be_composed(make, says):
    with pytest.raises(CompositionError, match=says):
        make()


# --- partitions -------------------------------------------------------------------------------------------------------


def test_the_first_route_that_matches_wins():
    rule = Partition(("w", rules.SGD()), (re.compile("^B", re.I), Frozen()), (lambda name, x: x.ndim == 0, rules.SGD()))
    params = {"weight": 1.0, "bias": 1.0, "scale": 1.0, "bow": 1.0}
    moved = run(rule, params, [dict.fromkeys(params, 1.0)], lr=0.5).params[0]
    assert moved == {"weight": 0.5, "bias": 1.0, "scale": 0.5, "bow": 0.5}


def test_routes_may_look_at_shapes_and_dtypes():
    rule = Partition((lambda name, x: x.ndim > 1, rules.SGD()), (lambda name, x: x.dtype == jnp.float16, Frozen()),
                     (".", rules.WeightDecay(1.0)))  # fmt: skip
    params = {"a": jnp.ones((1, 1)), "b": jnp.ones(1, jnp.float16), "c": jnp.ones(1)}
    moved = run(rule, params, [dict.fromkeys(params, np.zeros(1)) | {"a": np.ones((1, 1))}], lr=0.5).params[0]
    assert {name: x.item() for name, x in moved.items()} == {"a": 0.5, "b": 1.0, "c": 0.5}


@pytest.mark.parametrize("routes, says", [
    ([("weight", rules.SGD())], r"no route matches the parameter 'bias'(.|\n)*\(\".\", rule\)"),
    ([(".", rules.SGD()), ("bias", Frozen())], r"route 1 \('bias' -> Frozen\) gets no parameter(.|\n)*The first match"),
    ([("wieght", rules.SGD()), (".", rules.SGD())], r"route 0 \('wieght' -> SGD\) gets no parameter"),
])  # fmt: skip
def test_every_parameter_needs_a_route_and_every_route_a_parameter(routes, says):
    with pytest.raises(StructureError, match=says):
        Partition(*routes).init(streams.arrays(PARAMS))


def test_two_parameters_of_one_name_are_refused():
    with pytest.raises(StructureError, match=r"two parameters are called 'a\.b'"):
        Partition((".", rules.SGD())).init({"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}})


def test_a_partition_of_a_nested_tree_returns_that_tree():
    params = {"layers": [{"w": jnp.ones(2), "b": jnp.ones(1)}, {"w": jnp.ones(3)}], "head": (jnp.ones(()),)}
    init, apply = pure(Partition((r"\.b$", Frozen()), (r"layers\.1", rules.Adam()), (".", rules.SGD())), 0.5)
    state, moved = apply(params, init(params), params)
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    assert float(moved["layers"][0]["b"][0]) == 1.0
    assert float(moved["head"][0]) == 0.5
    assert sorted(state["route1"]["slots"]) == ["layers.1.w"]


def test_each_group_of_a_partition_is_stepped_as_if_alone():
    """Clipping by the norm of the group, not of all parameters."""
    rule = Partition(("bias|scale", rules.ClipByGlobalNorm(0.1)), (".", rules.Adam()))
    whole = run(rule, PARAMS, GRADS)
    for names, alone in ((["bias", "scale"], rules.ClipByGlobalNorm(0.1)), (["weight"], rules.Adam())):
        part = run(alone, {n: PARAMS[n] for n in names}, [{n: g[n] for n in names} for g in GRADS])
        got = [{n: x[n] for n in names} for x in whole.params]
        require_close(f"Partition, {names}", got, part.params, part.start, rounding(len(GRADS)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("lr", [0.1, 0.0])
def test_frozen_parameters_keep_every_bit_and_have_no_state(dtype, lr):
    values = np.array([-0.0, 0.0, np.inf, -np.inf, 1e-7, 1 / 3], np.float32)
    params = {"w": jnp.asarray(values, dtype), "other": jnp.ones(1)}
    rule = Partition(("w", Frozen()), (".", rules.Adam()))
    grads = {"w": np.array([1.0, np.nan, 1.0, 1.0, np.inf, 1.0]), "other": np.ones(1)}
    for update in (eager, compiled):
        result = run(rule, params, [grads], lr=lr, update=update)
        require_identical("Frozen", {"w": result.params[0]["w"]}, {"w": np.asarray(params["w"])}, "frozen parameters")
        assert all("w" not in name.split(".") for name in flat(result.state))
        assert result.state["route0"] == {}


def test_frozen_parameters_keep_every_bit_in_the_stateful_face():
    w, other = TrainVar(jnp.array([-0.0, 0.5])), TrainVar(jnp.ones(1))
    vc = VarCollection({"w": w, "other": other})
    opt = Optimizer(vc, Partition(("w", Frozen()), (".", rules.Momentum())))
    Jit(lambda g: opt(0.1, g), vc + opt.vars())([jnp.ones(2), jnp.ones(1)])
    assert np.asarray(w.value).tobytes() == np.float32([-0.0, 0.5]).tobytes()
    assert float(other.value[0]) == np.float32(0.9)
    assert [name for name in opt.vars().keys() if "[w]" in name and "train_vars" not in name] == []  # noqa: SIM118


def test_a_route_gets_a_gradient_function_of_its_own_parameters():
    """The others stay where they are: gradients 2 * 2p of the group, p of the rest."""
    rule = Partition(("bias|weight", SecondLook()), (".", rules.SGD()))
    params = streams.arrays(PARAMS)
    step = Step(params, params, jnp.float32(1.0), grad_fn=lambda q: {**q, "weight": q["weight"] * q["scale"]})
    delta, _ = rule.update(step, rule.init(params))
    np.testing.assert_array_equal(delta["weight"], -2 * PARAMS["weight"] * PARAMS["scale"])
    np.testing.assert_array_equal(delta["scale"], -PARAMS["scale"])


# --- what compositions pass on ----------------------------------------------------------------------------------------


class NamedNeedy(rules.Composed):
    """A composition with a name, of a rule with needs and one that must stand last."""

    tc: float = hyper(0.5, "(0, inf)", "trust coefficient")

    def compose(self) -> Rule:
        return Chain(Needy(), rules.LARS(tc=self.tc))


@pytest.mark.parametrize("rule, needs, chainable", [
    (rules.Chain(rules.Adam(), rules.SGD()), (), True),
    (Chain(Needy(), SecondLook(), rules.SGD()), ("value", "grad_fn"), True),
    (Partition(("a", SecondLook()), ("b", Needy()), ("c", rules.LARS())), ("grad_fn", "value"), False),
    (Doubled(Needy()), ("value", "grad_fn"), True),
    (Doubled(rules.LARS()), (), False),
    (NamedNeedy(), ("value", "grad_fn"), False),
    (rules.AdamW(), (), True),
], ids=repr)  # fmt: skip
def test_compositions_need_what_their_parts_need_and_are_chainable_if_those_are(rule, needs, chainable):
    assert rule.needs == needs
    assert rule.chainable is chainable


def test_a_missing_input_of_a_part_is_named():
    init, apply = pure(Chain(rules.SGD(), Needy()), 0.1)
    params = streams.arrays(PARAMS)
    with pytest.raises(MissingInputError, match="needs 'grad_fn'"):
        apply(params, init(params), params, value=1.0)


@pytest.mark.parametrize("rule", [
    Chain(rules.Adam(), Averaging()),
    Chain(Averaging(), rules.WeightDecay()),
    Partition((".", Averaging())),
    Doubled(Averaging()),
    Chain(rules.SGD(), Partition(("bias", Averaging()), (".", Doubled(Averaging())))),
], ids=repr)  # fmt: skip
def test_compositions_evaluate_where_their_parts_do(rule):
    params = streams.arrays(PARAMS)
    there = rule.eval_params(rule.init(params), params)
    require_identical("eval_params", flat(there), {n: x + 1 for n, x in flat(params).items()}, "parameters")


def test_a_composition_without_compose_says_so():
    class Nothing(rules.Composed):
        pass

    with pytest.raises(NotImplementedError, match="Nothing does not define compose"):
        Nothing().init(streams.arrays(PARAMS))


def test_a_wrapper_changes_what_comes_out():
    doubled, plain = run(Doubled(rules.SGD()), PARAMS, GRADS[:1]), run(rules.SGD(), PARAMS, GRADS[:1])
    for name, d in doubled.deltas[0].items():
        np.testing.assert_array_equal(d, 2 * plain.deltas[0][name])


def test_the_repr_of_a_composition_evaluates_to_it():
    rule = Chain(rules.ClipByGlobalNorm(2.0), Partition(("b", Frozen()), (".", rules.AdamW(weight_decay=0.5))))
    assert eval(repr(rule), vars(rules)) == rule


def test_an_override_out_of_range_inside_a_composition_is_named():
    with pytest.raises(HyperparameterError, match="Momentum: hyperparameter 'momentum' is out of range"):
        Chain(rules.SGD(), rules.Momentum()).rules[1].replace(momentum=1.0)
