"""``state_dict`` and ``load_state_dict``: by parameter, to the last bit, all or nothing, and never shared."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, RandomState, StateVar, TrainRef, TrainVar, VarCollection, contrib, optimizer, rules, schedule
from optimkit.errors import DTypeError, StructureError, VariableError
from optimkit.optimizer import Group, Optimizer
from optimkit.optimizer.state_dict import places, remembering

from .rule_table import RULES
from .shell import bits, unchanged

START = {"conv.weight": np.ones((2, 3)), "bias": np.full(2, 0.5), "scale": np.array(2.0)}


def variables(dtype: Any = jnp.float32) -> VarCollection:
    """Return a matrix, a vector and a scalar."""
    return VarCollection((name, TrainVar(jnp.array(x, dtype))) for name, x in START.items())


def own(opt: Any) -> VarCollection:
    """Return what an optimizer remembers."""
    return opt.vars().subset(is_not=TrainRef)


def filled(opt: Any, seed: int = 0) -> Any:
    """Put numbers that are all different into what an optimizer remembers."""
    rng = np.random.default_rng(seed)
    for v in own(opt):
        whole = jnp.issubdtype(v.dtype, jnp.integer)
        x = rng.integers(0, 1000, v.shape) if whole else rng.normal(size=v.shape)
        v.assign(np.asarray(x).astype(v.dtype))
    return opt


def of(rule: rules.Rule, vc: Any = None, **options: Any) -> Optimizer:
    """Return an optimizer of a rule."""
    return Optimizer(variables() if vc is None else vc, rule, **options)


def arrays(x: Any) -> list[Any]:
    """Return all arrays in a state dict."""
    if isinstance(x, dict):
        return [a for inner in x.values() for a in arrays(inner)]
    return [x] if isinstance(x, np.ndarray) else []


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_state_is_keyed_by_parameter_and_slot():
    opt = filled(of(rules.Adam(), lr=0.5, dynamic=("eps",), schedules={"beta1": schedule.Constant(0.5)}))
    state = opt.state_dict()
    assert list(state) == ["state", "shared", "hyper", "clock", "variables", "rules", "config"]
    assert [(name, *slots) for name, slots in state["state"].items()] == [(name, "mu", "nu") for name in sorted(START)]
    for name in START:
        for slot in ("mu", "nu"):
            assert np.array_equal(state["state"][name][slot], getattr(opt.state[name], slot).value)
    assert (list(state["shared"]), list(state["hyper"])) == (["t"], ["eps", "lr"])
    assert (state["clock"], state["variables"], state["rules"]) == (opt.clock.value, {}, ["Adam"])
    assert json.loads(json.dumps(state["config"])) == opt.get_config()


def test_all_are_arrays_of_numpy_in_their_own_dtypes():
    opt = filled(of(rules.Adam(slot_dtype="bfloat16"), variables(jnp.float16), lr=0.1))
    state = opt.state_dict()
    assert {type(x) for x in arrays(state)} == {np.ndarray}
    assert state["state"]["bias"]["mu"].dtype == jnp.bfloat16
    assert (state["shared"]["t"].dtype, state["hyper"]["lr"].dtype) == (np.int32, np.float32)
    assert len(arrays(state)) == len(own(opt))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_all_it_remembers_in_its_state_dict_and_back(name):
    opt = filled(of(RULES[name].rule), 1)
    before, state = bits(own(opt)), opt.state_dict()
    assert len(arrays(state)) == len(own(opt)) == len(places(opt))
    filled(opt, 2).load_state_dict(state)
    assert bits(own(opt)) == before


def test_slots_of_one_name_have_the_names_of_their_rules():
    opt = filled(of(rules.Chain(rules.EmaOfGradients(), rules.Adam(), rules.Lookahead(rules.Momentum()))))
    state = opt.state_dict()
    slots = list(state["state"]["bias"])
    assert slots == ["Adam.mu", "nu", "EmaOfGradients.mu", "m", "slow"]
    assert sorted(state["shared"]) == ["Adam.t", "EmaOfGradients.t", "Lookahead.inner.t", "k"]
    again = of(opt._rule)
    again.load_state_dict(state)
    assert bits(own(again)) == bits(own(opt))


class Dotted(rules.Rule):
    """Remembers under names that are the same once they are joined by dots."""

    def init(self, params: Any) -> Any:
        """Return two of a kind."""
        zeros = jax.tree.map(jnp.zeros_like, params)
        return {"x.a": {n: {"b": z} for n, z in zeros.items()}, "x": {"a": {"b": zeros}}}


class Bare(rules.Rule):
    """Remembers an array for each parameter, and nothing else."""

    def init(self, params: Any) -> Any:
        """Return zeros."""
        return jax.tree.map(jnp.zeros_like, params)


@pytest.mark.parametrize("rule", [Dotted(), Bare()], ids=repr)
def test_no_two_arrays_have_one_place(rule):
    first, second = filled(of(rule), 1), filled(of(rule), 2)
    assert len(places(first)) == len(own(first))
    second.load_state_dict(first.state_dict())
    assert bits(own(second)) == bits(own(first))


def test_groups_with_rules_of_their_own_and_frozen_ones():
    groups = [Group("own", "bias", rule=rules.Adam()), Group("still", "scale", frozen=True)]
    opt = filled(of(rules.Momentum(), groups=groups))
    state = opt.state_dict()
    assert {name: list(slots) for name, slots in state["state"].items()} == {"bias": ["mu", "nu"], "conv.weight": ["m"]}
    assert (sorted(state["shared"]), state["rules"]) == (["own.t", "t"], ["Momentum", "own.Adam"])
    with pytest.raises(StructureError, match=r"unexpected  state\['bias'\]\['mu'\]"):
        of(rules.Momentum(), groups=groups[1:]).load_state_dict(state)


class Counting(optimizer.SGD):
    """Keeps variables of its own."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.calls, self.noise = StateVar(jnp.int32(0)), RandomState(3)
        self.key = StateVar(jax.random.key(5, impl="rbg"), reduce=None)


def test_variables_of_a_subclass_are_in_it_too():
    first, second = Counting(variables()), Counting(variables())
    first.calls.value, first.key.value = 7, jax.random.key(9, impl="rbg")
    first.noise.split(1)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    assert sorted(state["variables"]) == ["calls", "key", "noise"]
    assert state["variables"]["key"]["impl"] == "rbg"
    second.load_state_dict(state)
    assert jnp.array_equal(jax.random.key_data(second.key.value), jax.random.key_data(first.key.value))
    assert (int(second.calls), second.noise.value.tolist()) == (7, first.noise.value.tolist())


def test_a_key_of_another_kind_is_refused():
    state = Counting(variables()).state_dict()
    state["variables"]["key"] = {"impl": "unsafe_rbg", "data": state["variables"]["key"]["data"]}
    with pytest.raises(DTypeError, match=r"variables\['key'\]: expected key<rbg>\[\], got key<urbg>\[\]"):
        Counting(variables()).load_state_dict(state)
    state["variables"]["key"] = {"impl": "nonsense", "data": np.zeros(4, np.uint32)}
    with pytest.raises(StructureError, match=r"variables\['key'\]: expected key<rbg>\[\], got dict"):
        Counting(variables()).load_state_dict(state)


# --- continuing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda vc: optimizer.AdamW(vc, lr=schedule.Linear(0.1, 0.0, 5), dynamic=("beta2",), schedules={
        "beta1": schedule.Linear(0.9, 0.5, 4)}),
    lambda vc: Optimizer(vc, rules.Averaged(rules.Accumulated(rules.Momentum(), 2), 0.9), lr=0.1),
], ids=["schedules", "wrappers"])  # fmt: skip
def test_training_goes_on_as_if_it_had_not_stopped(make):
    straight, stopped = variables(), variables()
    one, two = make(straight), make(stopped)

    def step(opt, vc, t):
        if t == 1 and "beta2" in opt.state_dict()["hyper"]:
            opt.beta2 = 0.75
        opt.step([jnp.sin(x + t) for x in vc.tensors()])

    for t in range(4):
        step(one, straight, t)
        if t == 2:
            state = two.state_dict()
            two = make(stopped)
            two.load_state_dict(state)
        step(two, stopped, t)
    assert bits(straight, own(one)) == bits(stopped, own(two))


def test_the_learning_rate_and_dynamic_hyperparameters_come_back_and_constants_do_not():
    first = optimizer.Adam(variables(), 0.5, lr=0.1, dynamic=("beta2",))
    first.lr, first.beta2 = 0.025, 0.5
    second = optimizer.Adam(variables(), 0.75, lr=1.0, dynamic=("beta2",))
    second.load_state_dict(first.state_dict())
    assert (float(second.lr), float(second.beta2), second.beta1) == (np.float32(0.025), 0.5, 0.75)


# --- nothing is shared ------------------------------------------------------------------------------------------------


def test_the_dict_and_the_optimizer_share_no_memory():
    first, second = filled(of(rules.Adam())), of(rules.Adam())
    before = bits(own(first))
    state = first.state_dict()
    second.load_state_dict(state)
    for x in arrays(state):
        x[...] = 77
    assert bits(own(first)) == bits(own(second)) == before


def test_the_dict_outlives_a_step_that_gives_its_buffers_away():
    vc = variables()
    opt = filled(of(rules.Momentum(), vc))
    state = opt.state_dict()
    before = [x.tobytes() for x in arrays(state)]
    Jit(lambda: opt(0.1, vc.tensors()), vc + opt.vars(), donate=True)()
    assert [x.tobytes() for x in arrays(state)] == before


def test_loading_changes_nothing_in_the_dict():
    state = filled(of(rules.Adam(), lr=0.1)).state_dict()
    before = copy.deepcopy(state)
    of(rules.Adam(), lr=0.3).load_state_dict(state)
    assert jax.tree.structure(state) == jax.tree.structure(before)
    assert [x.tobytes() for x in arrays(state)] == [x.tobytes() for x in arrays(before)]


def test_arrays_of_jax_are_taken_too_and_copied():
    first, second = filled(of(rules.Adam())), of(rules.Adam())
    state = first.state_dict()
    state["state"] = jax.tree.map(jnp.asarray, state["state"])
    second.load_state_dict(state)
    assert bits(own(second)) == bits(own(first))
    assert not {id(x) for x in own(second).tensors()} & {id(x) for x in jax.tree.leaves(state["state"])}


def test_what_is_loaded_goes_where_the_variable_is():
    devices = jax.devices()
    mesh = jax.sharding.Mesh(np.array(devices[:2]), ("d",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    vc = VarCollection({"w": TrainVar(jax.device_put(jnp.arange(4.0), split))})
    opt = Optimizer(vc, rules.Momentum(), lr=0.1)
    where = {name: v.value.sharding for name, v in own(opt).items()}
    plain = Optimizer(VarCollection({"w": TrainVar(jnp.arange(4.0))}), rules.Momentum(), lr=0.1)
    state = opt.state_dict()
    plain.load_state_dict(state)
    assert not any(x.committed for x in own(plain).tensors())
    opt.load_state_dict(plain.state_dict())
    assert {name: v.value.sharding for name, v in own(opt).items()} == where
    assert where["(Optimizer)[w].m"] == split


# --- all or nothing ---------------------------------------------------------------------------------------------------


def changed(change: Any) -> dict[str, Any]:
    """Return the state of an Adam with a change to it."""
    state = filled(of(rules.Adam(), lr=0.1)).state_dict()
    change(state)
    return state


WRONG = {
    "a slot is missing": (lambda s: s["state"]["bias"].pop("nu"), r"missing     state\['bias'\]\['nu'\], float32\[2\]"),
    "a parameter is missing": (lambda s: s["state"].pop("scale"), r"missing     state\['scale'\]\['mu'\], float32\[\]"),
    "a section is missing": (lambda s: s.pop("shared"), r"missing     shared\['t'\], int32\[\]"),
    "lr is missing": (lambda s: s["hyper"].clear(), r"missing     hyper\['lr'\], float32\[\]"),
    "a slot too many": (lambda s: s["state"]["bias"].update(x=1), r"unexpected  state\['bias'\]\['x'\]"),
    "a parameter too many": (lambda s: s["state"].update(v={"mu": 1}), r"unexpected  state\['v'\]\['mu'\]"),
    "a section too many": (lambda s: s.update(more={"x": 1}), r"unexpected  more\['x'\]"),
    "a clock": (lambda s: s.update(clock=np.int32(3)), r"unexpected  clock"),
    "another shape": (lambda s: s["state"]["bias"].update(mu=np.zeros(3, np.float32)),
                      r"differs     state\['bias'\]\['mu'\]: expected float32\[2\], got float32\[3\]"),
    "no array": (lambda s: s["state"]["bias"].update(mu=[0.0, 0.0]), r"expected float32\[2\], got list \[0.0, 0.0\]"),
    "None": (lambda s: s["state"]["scale"].update(mu=None), r"expected float32\[\], got NoneType"),
    "no mapping": (lambda s: s["state"].update(bias=np.zeros(2)), r"state\['bias'\] is no mapping"),
    "another rule": (lambda s: s.update(rules=["Yogi"]), "written by  Yogi\n  for         Adam\n.*other_rule=True"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named_and_nothing_of_it_is_taken_over(name):
    change, problem = WRONG[name]
    opt = filled(of(rules.Adam(), lr=0.1), 5)
    with unchanged(own(opt)), pytest.raises(StructureError, match=problem):
        opt.load_state_dict(changed(change))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16, np.int32])
def test_another_dtype_is_refused_and_never_cast(dtype):
    opt = filled(of(rules.Adam(), lr=0.1), 5)
    state = changed(lambda s: s["state"]["bias"].update(mu=np.zeros(2, dtype)))
    with unchanged(own(opt)), pytest.raises(DTypeError, match=r"expected float32\[2\], got"):
        opt.load_state_dict(state)


def test_one_error_has_the_whole_difference():
    def change(s):
        s["state"]["bias"]["nus"] = s["state"]["bias"].pop("nu")
        s["state"]["scale"]["mu"], s["shared"]["t"] = np.zeros(2), np.int8(1)
        s["rules"] = ["Lion"]

    with pytest.raises(StructureError) as caught:
        of(rules.Adam(), lr=0.1).load_state_dict(changed(change))
    assert str(caught.value).split("\n") == [
        "optimizer.Optimizer.load_state_dict: the state does not fit, and nothing of it is taken over.",
        "  missing     state['bias']['nu'], float32[2]",
        "  unexpected  state['bias']['nus']",
        "  differs     state['scale']['mu']: expected float32[], got float64[2]",
        "  differs     shared['t']: expected int32[], got int8[]",
        "  written by  Lion",
        "  for         Adam",
        "  If one is meant to go on with the other's memory: load_state_dict(state, other_rule=True).",
    ]


@pytest.mark.parametrize("state", [None, [], 3, "state"])
def test_what_is_no_mapping_is_refused(state):
    with pytest.raises(StructureError, match="this is no state"):
        of(rules.SGD()).load_state_dict(state)


# --- whose memory it is -----------------------------------------------------------------------------------------------


def test_another_algorithm_with_slots_of_the_same_names_is_refused_unless_meant():
    yogi, adam = filled(of(rules.Yogi())), filled(of(rules.Adam()), 5)
    with unchanged(own(adam)), pytest.raises(StructureError, match="written by  Yogi"):
        adam.load_state_dict(yogi.state_dict())
    adam.load_state_dict(yogi.state_dict(), other_rule=True)
    assert [x.tolist() for x in own(adam).tensors()] == [x.tolist() for x in own(yogi).tensors()]


@pytest.mark.parametrize("rule", [
    rules.Adam(beta1=0.5), rules.AdamW(), rules.Chain(rules.ClipByGlobalNorm(), rules.Adam()),
    rules.Chain(rules.Masked(rules.WeightDecay(0.1), "weight"), rules.Adam()), rules.Scaled(rules.Adam(), 0.5),
    rules.Cautious(rules.Adam()),
], ids=repr)  # fmt: skip
def test_stages_and_wrappers_that_remember_nothing_may_come_and_go(rule):
    adam, other = filled(of(rules.Adam())), of(rule)
    other.load_state_dict(adam.state_dict())
    back = of(rules.Adam())
    back.load_state_dict(other.state_dict())
    assert bits(own(back)) == bits(own(adam))


@pytest.mark.parametrize(("rule", "names"), [
    (rules.SGD(), []),
    (rules.Momentum(), ["Momentum"]),
    (rules.Chain(rules.EmaOfGradients(), rules.TrustRatio(), rules.Lion()), ["EmaOfGradients", "Lion"]),
    (rules.Lookahead(rules.AdamW()), ["Lookahead", "Adam"]),
    (rules.Partition(("b", rules.SGD()), (".", rules.Accumulated(rules.RMSProp(), 2))), ["Accumulated", "RMSProp"]),
    (rules.Scaled(rules.SGD(), schedule.Constant(1.0)), ["Scaled"]),
    (contrib.rules.SAM(rules.Momentum()), ["Momentum"]),
    (rules.AddNoise(), ["AddNoise"]),
    (Bare(), ["Bare"]),
], ids=repr)  # fmt: skip
def test_what_remembers(rule, names):
    assert remembering(rule) == names


# --- when it cannot be read or written --------------------------------------------------------------------------------


def test_neither_works_inside_of_a_compiled_function():
    vc = variables()
    opt = filled(of(rules.Momentum(), vc))
    state = opt.state_dict()
    with unchanged(own(opt)):
        with pytest.raises(VariableError, match=r"state\['bias'\]\['m'\] is traced"):
            Jit(lambda: opt.state_dict(), vc + opt.vars())()
        with pytest.raises(VariableError, match="part of a function that is compiled"):
            Jit(lambda: opt.load_state_dict(state), vc + opt.vars())()


def test_memory_that_is_gone_is_named():
    opt = of(rules.Momentum())
    opt.state["bias"].m.value.delete()
    with pytest.raises(VariableError, match=r"state\['bias'\]\['m'\] was given away"):
        opt.state_dict()
