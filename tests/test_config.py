"""Configs: what goes into JSON comes out equal, names come from a list, and what cannot be written says where it is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import math
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimkit import (
    Jit,
    StateVar,
    TrainVar,
    VarCollection,
    contrib,
    federated,
    optimizer,
    projections,
    pure,
    rules,
    schedule,
)
from optimkit.config import from_config, get_config, register, registered, registry
from optimkit.errors import CompositionError, ConfigError, HyperparameterError, OptimkitError, UnknownNameError
from optimkit.optimizer import Group, Optimizer, crossed, layerwise_lr_decay, no_decay
from optimkit.testing import strategies

from .rule_rows.contrib_private import OneExample
from .rule_table import RULES
from .schedule.cases import FORMULAS
from .shell import bits

CASES = {name: case.rule.inner if isinstance(case.rule, OneExample) else case.rule for name, case in RULES.items()}
SCHEDULES = {
    **{name: x for name, (x, _) in FORMULAS.items()},
    "StepDecay": optimizer.scheduler.StepDecay([10, 15.5], gamma=0.5),
    "LinearAnnealing": optimizer.scheduler.LinearAnnealing(10, base_lr=0.5, is_cycle=False),
}
PROJECTIONS = [
    projections.Box(), projections.Box(-1, 0.5), projections.NonNegative(), projections.LInfBall(2.0),
    projections.Simplex(2.0, axis=(0, -1)), projections.L1Ball(0.5, axis=1), projections.L2Ball(3.0),
    projections.Hyperplane(1.0, 3.0), projections.HalfSpace([[1.0, -0.1], [0.0, 1e-300]], 0.25),
]  # fmt: skip


def through_json(config: Any) -> Any:
    """Return a config as it comes out of a file that any reader of JSON can read."""
    return json.loads(json.dumps(config, allow_nan=False))


def again(x: Any) -> Any:
    """Return an object as it comes back from its config, which must be the same once more."""
    config = get_config(x)
    back = from_config(through_json(config))
    assert get_config(back) == config
    return back


@dataclasses.dataclass(frozen=True)
class Holder:
    """Something that has a value of any kind."""

    value: Any = None
    other: Any = None


register(Holder, name="tests.Holder")


@register(name="tests.is_wide")
def is_wide(name: str, x: Any) -> bool:
    """Match parameters with more than two columns."""
    return x.ndim > 1 and x.shape[-1] > 2


def unregistered(name: str, x: Any) -> bool:
    """Match nothing."""
    return False


# --- everything comes back equal --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_rule_comes_back_equal(name):
    assert again(CASES[name]) == CASES[name]


@given(st.data())
def test_a_rule_comes_back_equal_whatever_its_hyperparameters(data):
    rule = data.draw(strategies.rules_like(CASES[data.draw(st.sampled_from(sorted(CASES)))]))
    assert again(rule) == rule


@pytest.mark.parametrize("x", [*SCHEDULES.values(), *PROJECTIONS], ids=lambda x: type(x).__name__)
def test_a_schedule_or_projection_comes_back_equal(x):
    assert again(x) == x
    if isinstance(x, schedule.Schedule):
        assert [again(x)(t) for t in range(0, 100, 7)] == [x(t) for t in range(0, 100, 7)]


GROUPS = [
    *no_decay(),
    *layerwise_lr_decay(["embed", re.compile("block", re.IGNORECASE)], 0.3),
    *crossed(layerwise_lr_decay(["embed", "block"], 0.3), no_decay()),
    Group("rest", frozen=True),
    Group("head", (TrainVar, is_wide), rule=rules.Momentum(0.7), lr_scale=schedule.Cosine(1.0, 9), optional=True),
    Group("rare", "x", beta1=schedule.Linear(0.9, 0.8, 5), eps=1e-5, slot_dtype="bfloat16", fallback=True),
]


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.name)
def test_a_group_comes_back_equal(group):
    assert again(group) == group


def test_groups_are_equal_only_if_everything_is():
    base: dict[str, Any] = {"match": "x", "lr_scale": 0.5, "beta1": 0.8}
    others = [{"match": "y"}, {"lr_scale": 0.4}, {"beta1": 0.7}, {"beta2": 0.8}, {"fallback": True}, {"optional": True},
              {"slot_dtype": "float16"}]  # fmt: skip
    assert Group("a", **base) == Group("a", **base) != Group("b", **base)
    assert hash(Group("a", **base)) == hash(Group("a", **base))
    assert [o for o in others if Group("a", **base) == Group("a", **{**base, **o})] == []
    assert Group("a") != "a"


NESTED = rules.Accumulated(
    rules.Partition(
        (re.compile("BIAS", re.I), rules.SGD()),
        (is_wide, rules.Chain(rules.Masked(rules.WeightDecay(0.1), "w"), rules.AddNoise(seed=3), rules.Adam())),
        (".", rules.Scaled(rules.AdamW(slot_dtype="bfloat16"), schedule.Warmup(schedule.Constant(0.5), 3))),
        labels=("biases", "wide", "rest"),
    ),
    every=2,
)


SHORT = schedule.Piecewise([0.5, 0.25], [2])


def test_a_rule_of_rules_comes_back_and_takes_the_same_steps():
    assert again(NESTED) == NESTED
    small = rules.Chain(rules.Masked(rules.WeightDecay(0.1), is_wide), rules.Scaled(rules.Momentum(), SHORT))
    params = {"w": jnp.ones((2, 3)), "v": jnp.full(4, 2.0)}
    trajectories = []
    for rule in (small, again(small)):
        init, apply = pure(rule, lr=0.1)
        p, state = params, init(params)
        for t in range(3):
            grads = {name: jnp.sin(x + t) for name, x in p.items()}
            state, p = apply(grads, state, p)
        trajectories.append([np.asarray(x).tobytes() for x in jax.tree.leaves((state, p))])
    assert trajectories[0] == trajectories[1]


FEDERATED = [x() for x in vars(federated).values() if inspect.isclass(x) and issubclass(x, rules.Rule)]
OBJECTS = [x for x in registered().values() if isinstance(x, type) and issubclass(
    x, rules.Rule | rules.LineSearch | schedule.Schedule | projections.Projection)]  # fmt: skip


@pytest.mark.parametrize("cls", OBJECTS, ids=lambda cls: cls.__name__)
def test_a_config_has_every_argument_of_the_constructor(cls):
    """So that a default may change without changing what old configs mean."""
    ours = (*CASES.values(), *SCHEDULES.values(), *PROJECTIONS, *FEDERATED)
    known = [x for x in (*ours, rules.Zoom(), rules.Backtracking()) if type(x) is cls]
    assert known, f"{cls.__name__} stands in no table of tests"
    assert again(known[0]) == known[0]
    arguments = {"Chain": ["rules"], "Partition": ["routes", "labels"]}
    wanted = arguments.get(cls.__name__) or list(inspect.signature(cls).parameters)
    assert list(get_config(known[0])) == ["name", *wanted]


def test_a_config_is_new_each_time():
    rule = rules.Chain(rules.Adam())
    get_config(rule)["rules"][0]["beta1"] = "changed"
    assert get_config(rule)["rules"][0]["beta1"] == 0.9


def test_reading_changes_no_config():
    config = get_config(NESTED)
    before = json.dumps(config)
    from_config(config)
    assert json.dumps(config) == before


def test_what_a_config_looks_like():
    rule = rules.Chain(rules.ClipByGlobalNorm(2.0), rules.Scaled(rules.Momentum(), schedule.Constant(0.5)))
    assert get_config(rule) == {
        "name": "Chain",
        "rules": [
            {"name": "ClipByGlobalNorm", "max_norm": 2.0},
            {
                "name": "Scaled",
                "inner": {"name": "Momentum", "momentum": 0.9, "nesterov": False, "slot_dtype": None},
                "factor": {"name": "schedule.Constant", "value": 0.5},
            },
        ],
    }


def test_a_missing_key_is_the_default():
    assert from_config({"name": "Adam", "eps": 1e-3}) == rules.Adam(eps=1e-3)
    assert from_config({"name": "Partition", "routes": [[".", {"name": "SGD"}]]}) == rules.Partition((".", rules.SGD()))


# --- values -----------------------------------------------------------------------------------------------------------

EXACT = [
    None, True, False, 0, -7, 2**70, 0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, math.inf, -math.inf, math.nan,
    complex(0.1, -math.inf), "", "conv.w", "µ→\U0001f600", "\ud800", (), (1, (2.0, "x")), [1, [2]], {}, {"a": (1, [2])},
    {"name": "Adam"}, {1: "a", (2, "b"): None},
    np.float32(0.1), np.float64(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.complex64(1 - 2j),
    jnp.bfloat16(0.1), np.float16(math.nan),
    np.arange(6.0).reshape(2, 3) / 7, np.zeros((0, 3), np.int16), np.array(["nan"]).view("u1")[:0],
    jnp.array([0.1, -0.0, math.nan, math.inf]), jnp.array(0.1, jnp.bfloat16), jnp.arange(3), jnp.array([True, False]),
    jnp.array([[1 + 2j]]), jnp.array([0.5, -448.0], jnp.float8_e4m3fn), jnp.array([-8, 7], jnp.int4),
    np.dtype("float32"), np.dtype(jnp.bfloat16), np.dtype(bool),
    re.compile("bias$"), re.compile("(?i)bias"), re.compile("a.b", re.IGNORECASE | re.DOTALL | re.ASCII),
    TrainVar, rules.Adam, is_wide, rules.Adam(0.5), (schedule.Constant(1.0), projections.Box(0, 1)),
]  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Tell whether two values are of one type and the same to the last bit."""
    if isinstance(a, np.ndarray | np.generic | jax.Array):
        kinds = (np.ndarray, np.generic, jax.Array)
        same_kind = [isinstance(a, k) for k in kinds] == [isinstance(b, k) for k in kinds]
        return same_kind and (a.dtype, a.shape, np.asarray(a).tobytes()) == (b.dtype, b.shape, np.asarray(b).tobytes())
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return type(b) is dict and same(list(a.items()), list(b.items()))
    return type(a) is type(b) and (a is b or a == b) and repr(a) == repr(b) if a == a else repr(a) == repr(b)


@pytest.mark.parametrize("value", EXACT, ids=lambda x: f"{type(x).__name__}"[:40])
def test_a_value_comes_back_to_the_last_bit_and_of_its_type(value):
    assert same(again(Holder(value)).value, value)


@given(st.floats() | st.integers() | st.text() | st.tuples(st.floats(width=32), st.booleans()))
def test_any_number_and_any_text_comes_back(value):
    assert same(again(Holder(value)).value, value)


def test_classes_of_scalars_come_back_as_their_dtype():
    assert again(Holder((jnp.float32, np.int8))).value == (np.dtype("float32"), np.dtype("int8"))
    rule = rules.Adam(slot_dtype=np.dtype("float16"))
    assert again(rule) == rule


def test_an_array_as_a_hyperparameter_is_data_again():
    rule = again(rules.Adam(beta1=jnp.float32(0.7), eps=jnp.array([1e-3, 1e-4])))
    assert rule == rules.Adam(beta1=jnp.float32(0.7), eps=jnp.array([1e-3, 1e-4]))
    assert [x.dtype for x in jax.tree.leaves(rule)] == [jnp.float32] * 2


def test_a_float64_array_is_refused_where_jax_would_make_it_float32():
    config = {"name": "tests.Holder", "value": {"name": "array", "dtype": "float64", "shape": [], "data": [0.1]}}
    with pytest.raises(ConfigError, match="value is of float64, which needs 64-bit mode"):
        from_config(config)


# --- what cannot be written -------------------------------------------------------------------------------------------

REFUSED = {
    "a lambda": (lambda t: 0.1, "is a lambda", "a regular expression or a schedule"),
    "a function": (unregistered, "is the function unregistered", r"register\(unregistered\)"),
    "a builtin": (len, "is the function len", "register"),
    "a partial": (functools.partial(is_wide, "w"), "class partial", "register"),
    "a method": (StateVar.assign, "is the function BaseVar.assign", "register"),
    "a class": (dataclasses.Field, "class Field", "register"),
    "an object": (object(), "class object", "register"),
    "a variable": (StateVar(0.0), "only the class can be written", "a value"),
    "a large array": (np.zeros((257, 256)), "too large", "StateVar"),
    "a random key": (jax.random.key(0), "dtype that configs do not have", "Keep a seed"),
    "an array of objects": (np.array([None]), "dtype that configs do not have", "float32"),
    "a pattern of bytes": (re.compile(b"x"), "regular expression that configs do not have", "of text"),
    "a set": ({1}, "class set", "register"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_named_by_its_path_with_the_way_out(name):
    value, what, fix = REFUSED[name]
    with pytest.raises(ConfigError, match=what) as caught:
        get_config(Holder(other={"a": (1, value)}))
    text = str(caught.value)
    assert text.startswith("get_config(Holder): other.a[1] is ")
    assert re.search(fix, text)


def test_a_pattern_that_prints_is_refused(capsys):
    with pytest.raises(ConfigError, match="regular expression that configs do not have"):
        get_config(Holder(re.compile("x", re.DEBUG)))
    assert capsys.readouterr().out  # so that the test has tested it


def test_a_rule_that_is_not_registered_is_named_with_its_place():
    class Mine(rules.SGD):
        pass

    with pytest.raises(ConfigError, match=r"rules\[1\]\.inner is of the class .*Mine, which is not registered"):
        get_config(rules.Chain(rules.SGD(), rules.Averaged(Mine())))
    with pytest.raises(ConfigError, match=r"get_config\(Mine\): this is of the class"):
        get_config(Mine())


def test_a_tracer_is_refused_by_its_path():
    def f(beta):
        get_config(rules.Chain(rules.Momentum(beta)))
        return beta

    with pytest.raises(ConfigError, match=r"rules\[0\]\.momentum is traced"):
        jax.jit(f)(0.5)


def test_what_holds_itself_is_nested_too_deeply():
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="nested too deeply"):
        get_config(Holder(loop))


@pytest.mark.parametrize("x", [0.5, (rules.Adam(),), {"a": 1}, "Adam", None])
def test_a_plain_value_has_no_config_of_its_own(x):
    with pytest.raises(ConfigError, match="no config of its own"):
        get_config(x)


def test_opaque_configs_describe_what_cannot_be_written_the_same_in_each_process():
    class Mine(rules.SGD):
        rate: float = rules.hyper(0.1, "[0, 1]", "a rate")

    config = get_config(rules.Chain(Mine(), rules.Masked(rules.SGD(), lambda name, x: True)), opaque=True)
    assert config["rules"][0] == {"name": "Mine", "rate": 0.1, "slot_dtype": None}
    assert config["rules"][1]["match"]["name"] == "repr"
    assert "0x" not in json.dumps(config)
    assert get_config(NESTED, opaque=True) == get_config(NESTED)
    assert get_config(Holder(object()), opaque=True)["value"] == {"name": "repr", "repr": "<object object>"}
    with pytest.raises(ConfigError, match="value is only described"):
        from_config(get_config(Holder(object()), opaque=True))


# --- what cannot be read ----------------------------------------------------------------------------------------------


def wrong(**changes: Any) -> dict[str, Any]:
    """Return the config of a chain, with changes to its second rule."""
    return {"name": "Chain", "rules": [{"name": "SGD"}, {"name": "Momentum", **changes}]}


def array(**changes: Any) -> dict[str, Any]:
    """Return the config of an array in a Holder, with changes."""
    value = {"name": "numpy.array", "dtype": "int8", "shape": [2], "data": [1, 2], **changes}
    return {"name": "tests.Holder", "value": value}


def deep(levels: int) -> Any:
    """Return lists in lists."""
    return functools.reduce(lambda x, _: [x], range(levels), 1)


MALFORMED: dict[str, tuple[Any, str]] = {
    "no dict": ([], "this is no config"),
    "no name": ({"rules": []}, "this is no config"),
    "a name that is no string": ({"name": ["Adam"]}, "this is no config"),
    "an inner name that is none": (wrong(momentum={"name": 3}), r"rules\[1\].momentum has a name that is no string"),
    "an unknown key": (wrong(momentun=0.5), r"rules\[1\]: Momentum has no argument 'momentun'(.|\n)*mean 'momentum'"),
    "a key that is private": (wrong(__class__="x"), "has no argument '__class__'"),
    "a missing key": ({"name": "Scaled", "inner": {"name": "SGD"}}, "Scaled lacks the key 'factor'"),
    "an argument of a function": ({"name": "tests.is_wide", "x": 1}, "has no argument 'x'"),
    "keys that are no strings": ({"name": "tests.Holder", "value": {1: 2}}, "value is no value of JSON"),
    "an object of Python": ({"name": "tests.Holder", "value": np.ones(2)}, "value is no value of JSON"),
    "a class as an object": ({"name": "variable.TrainVar"}, "of which only the class can be read"),
    "an object as a class": ({"name": "tests.Holder", "value": {"name": "type", "type": "tests.is_wide"}}, "no class"),
    "no list of rules": ({"name": "Chain", "rules": 3}, "Chain does not take these arguments"),
    "no dict of pairs": ({"name": "tests.Holder", "value": {"name": "dict", "items": [[1]]}}, "is no dict"),
    "a dict with lists as keys": (
        {"name": "tests.Holder", "value": {"name": "dict", "items": [[{"name": "list", "items": []}, 1]]}}, "is no dict"
    ),
    "a float of no name": ({"name": "tests.Holder", "value": {"name": "float", "value": "1e3"}}, "no such float"),
    "too many levels": ({"name": "tests.Holder", "value": deep(500)}, "nested too deeply"),
    "an array of too few": (array(data=[1]), "is no array"),
    "a negative length": (array(shape=[-1, -2]), "is no array"),
    "a huge shape": (array(shape=[2**62, 2**62]), "is no array"),
    "a number too large": (array(data=[1, 300]), "has elements that int8 does not have"),
    "a number much too large": (array(data=[1, 2**70]), "no number of int8"),
    "a float for an int": (array(data=[1, 2.5]), "no number of int8"),
    "a bool for an int": (array(data=[1, True]), "no number of int8"),
    "a number not of float16": (array(dtype="float16", data=[1, 0.1]), "elements that float16 does not have"),
    "no dtype": (array(dtype="object"), "is no dtype"),
    "no pattern": ({"name": "tests.Holder", "value": {"name": "pattern", "pattern": "("}}, "no regular expression"),
    "a flag that prints": (
        {"name": "tests.Holder", "value": {"name": "pattern", "pattern": "x", "flags": ["DEBUG"]}}, "flags among"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_a_config_error_that_says_what_and_where(name):
    config, problem = MALFORMED[name]
    with pytest.raises(ConfigError, match=problem) as caught:
        from_config(config)
    assert isinstance(caught.value, TypeError)
    assert str(caught.value).startswith("from_config: ")


@pytest.mark.parametrize(("name", "meant"), [
    ("adam", "Adam"), ("AdamW_", "AdamW"), ("Cosine", "schedule.Cosine"), ("schedule.cosine", "schedule.Cosine"),
    ("optimizer.Adm", "optimizer.Adam"), ("simplex", "projections.Simplex"),
])  # fmt: skip
def test_an_unknown_name_is_a_key_error_that_lists_the_known_ones_and_guesses(name, meant):
    with pytest.raises(KeyError, match=re.escape(f"Did you mean '{meant}'?")) as caught:
        from_config(wrong(momentum={"name": name}))
    error = caught.value
    assert isinstance(error, UnknownNameError)
    family = name.rpartition(".")[0]
    alike = [n for n in registered() if n.rpartition(".")[0] == family]
    assert str(error).startswith(
        f"from_config: rules[1].momentum: nothing is called {name!r}.\n  expected one of {', '.join(alike)}\n"
    )


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "optimkit.rules.Adam", "Rule", "LeafRule", "__import__",
                                  "optimkit.rules.base.Step", ""])  # fmt: skip
def test_names_are_those_of_the_list_and_no_paths_to_import(name):
    with pytest.raises(UnknownNameError, match="nothing is called"):
        from_config({"name": name})


def test_a_value_out_of_range_is_the_error_of_the_constructor_with_a_note_of_the_place():
    with pytest.raises(HyperparameterError, match=r"Momentum: hyperparameter 'momentum' is out of range") as caught:
        from_config(wrong(momentum=1.5))
    assert caught.value.__notes__ == ["This is rules[1] of a config."]


NAMES = st.sampled_from(sorted({*registered(), *registry.TAGS}))
KEYS = ["rules", "inner", "match", "value", "dtype", "shape", "data", "items", "routes", "type", "pattern", "flags",
        "schedule", "schedules", "boundaries", "normal", "axis", "steps", "factor", "group", "rule", "lr"]  # fmt: skip
PIECES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | NAMES,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", *KEYS, "x"]), inner, max_size=4)
    | st.fixed_dictionaries({"name": NAMES}, optional=dict.fromkeys(KEYS, inner)),
    max_leaves=8,
)  # fmt: skip


@given(PIECES)
def test_no_json_does_anything_but_make_an_object_or_raise_an_error_of_ours(config):
    try:
        from_config(config)
    except OptimkitError:
        pass
    else:
        assert isinstance(config, dict)


JUNK = [None, True, -1, 2**80, 1e400, "x", [], [[1]], {}, {"name": "Adam"}, {"name": "optimizer.Group", "group": "g"},
        {"name": "type", "type": "Adam"}, {"name": "tests.is_wide"}, deep(3)]  # fmt: skip
WHOLE = [get_config(x) for x in (*CASES.values(), *SCHEDULES.values(), *PROJECTIONS, *GROUPS, rules.Zoom())]


def spots(x: Any) -> list[tuple[Any, Any]]:
    """Return the containers in a config, each once for each key or place in it."""
    keys = list(x) if isinstance(x, dict) else range(len(x)) if isinstance(x, list) else []
    return [spot for key in keys for spot in ((x, key), *spots(x[key]))]


@given(st.data())
def test_no_change_to_a_config_does_either(data):
    config = through_json(data.draw(st.sampled_from(WHOLE)))
    found = spots(config)
    inside, key = found[data.draw(st.integers(0, len(found) - 1))]
    inside[key] = data.draw(st.sampled_from(JUNK))
    with contextlib.suppress(OptimkitError):
        from_config(config)


# --- the list ---------------------------------------------------------------------------------------------------------

BASES = {rules.Rule, rules.LeafRule, rules.Wrapper, rules.Composed, rules.LineSearch, schedule.Schedule,
         projections.Projection, optimizer.scheduler.Scheduler}  # fmt: skip
HOMES = {
    rules: (rules.Rule, rules.LineSearch), contrib.rules: (rules.Rule,), schedule: (schedule.Schedule,),
    optimizer.scheduler: (schedule.Schedule,), projections: (projections.Projection,),
    optimizer: (optimizer.Optimizer, Group), contrib: (optimizer.Optimizer,), federated: (rules.Rule,),
}  # fmt: skip


def test_every_public_class_is_registered_and_no_base_is():
    public = {x for home, kinds in HOMES.items() for x in vars(home).values() if inspect.isclass(x)
              and issubclass(x, kinds)}  # fmt: skip
    assert len(public) > 170
    assert {x.__name__ for x in public - BASES - set(registered().values())} == set()
    assert BASES & set(registered().values()) == set()


def test_all_that_optimkit_registers_is_public():
    ours = {name: x for name, x in registered().items() if x.__module__.startswith("optimkit.")
            and getattr(sys.modules[x.__module__], x.__name__, None) is x}  # no class of an example  # fmt: skip
    public = {id(x) for home in HOMES for x in vars(home).values()}
    hidden = {name for name, x in ours.items() if id(x) not in public and not name.startswith("variable.")}
    assert hidden == {"optimizer.Together", "function.is_vector"}


@pytest.mark.slow
def test_names_of_contrib_are_known_before_it_is_imported():
    program = (
        "import sys, optimkit; assert 'optimkit.contrib' not in sys.modules; "
        "print(optimkit.config.from_config({'name': 'Muon', 'momentum': 0.5}))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.startswith("Muon(momentum=0.5"), run.stderr


@pytest.fixture
def clean():
    """Forget what a test registers."""
    saved = dict(registry._by_name), dict(registry._by_target)
    yield
    for table, before in zip((registry._by_name, registry._by_target), saved, strict=True):
        table.clear()
        table.update(before)


def make_rule(qualname: str = "Mine") -> type[rules.Rule]:
    """Return a class of rules, made anew."""
    made = type("Mine", (rules.SGD,), {"__module__": __name__, "__qualname__": qualname, "__doc__": "A rule."})
    return made


@pytest.mark.usefixtures("clean")
class TestRegister:
    def test_as_a_decorator_with_and_without_a_name(self):
        mine, other = make_rule(), make_rule("other")
        assert register(mine) is mine
        assert register(name="acme.Mine")(other) is other
        assert (get_config(mine()), get_config(other())) == (
            {"name": "Mine", "slot_dtype": None}, {"name": "acme.Mine", "slot_dtype": None})  # fmt: skip
        assert type(from_config({"name": "acme.Mine"})) is other

    def test_names_begin_with_the_family(self):
        @register
        class Steps(schedule.Schedule):
            def __init__(self, n: int):
                self.n = n

        @register
        class Even(projections.Projection):
            def __init__(self) -> None: ...

        class Special(TrainVar):
            pass

        register(Special)
        names = [registry.entry_of(x).name for x in (Steps, Even, Special, register(unregistered))]
        assert names == ["schedule.Steps", "projections.Even", "variable.Special", "function.unregistered"]
        assert get_config(Steps(3)) == {"name": "schedule.Steps", "n": 3}
        assert again(Holder((Special, unregistered))).value == (Special, unregistered)

    def test_two_classes_cannot_have_one_name(self):
        first, second = make_rule(), make_rule("elsewhere.Mine")
        register(first)
        for name in (None, "Mine", "Adam"):
            with pytest.raises(ConfigError, match=r"the name '(Mine|Adam)' is taken"):
                register(second, name=name)
        assert type(from_config({"name": "Mine"})) is first

    def test_one_class_cannot_have_two_names(self):
        with pytest.raises(ConfigError, match="has a name already"):
            register(rules.Adam, name="acme.Adam")
        assert register(rules.Adam) is rules.Adam

    def test_a_class_that_is_defined_anew_takes_the_place_of_the_old(self):
        first, second = register(make_rule()), register(make_rule())
        assert type(from_config({"name": "Mine"})) is second is not first
        with pytest.raises(ConfigError, match="not registered"):
            get_config(first())

    @pytest.mark.parametrize("name", ["", "a b", "1a", "a.", "float", "pattern", "a/b", "é", 3])
    def test_a_name_is_made_of_words_and_dots(self, name):
        with pytest.raises(ConfigError, match="this is no name"):
            register(make_rule(), name=name)

    def test_a_lambda_needs_a_name(self):
        with pytest.raises(ConfigError, match=r"this is no name: 'function.<lambda>'"):
            register(lambda t: 0.1)
        halved = register(lambda t: 0.5 * t, name="acme.halved")
        assert again(rules.Scaled(rules.SGD(), halved)).factor is halved

    @pytest.mark.parametrize("x", [3, "Adam", rules.Adam()])
    def test_only_classes_and_functions_are_registered(self, x):
        with pytest.raises(ConfigError, match="only classes and functions"):
            register(x)

    def test_a_class_must_say_how_its_objects_are_written(self):
        class Pair:
            def __init__(self, *items: Any):
                self.items = items

            def __eq__(self, other: Any) -> bool:
                return self.items == other.items

        with pytest.raises(ConfigError, match=r"Pair does not say how its objects are written(.|\n)*arguments=lambda"):
            register(Pair)
        register(Pair, arguments=lambda x: {"items": x.items}, make=lambda items: Pair(*items))
        assert again(Pair(1, (2.5, rules.Adam()))) == Pair(1, (2.5, rules.Adam()))

    def test_an_argument_called_name_would_be_taken_for_the_class(self):
        @dataclasses.dataclass
        class Named:
            name: str

        with pytest.raises(ConfigError, match="has an argument 'name'"):
            register(Named)
        register(Named, arguments=lambda x: {"label": x.name}, make=lambda label: Named(label))
        assert again(Named("Adam")) == Named("Adam")

    def test_a_class_that_keeps_no_argument_is_found_out_when_it_is_written(self):
        @register
        class Forgetful:
            def __init__(self, rate: float):
                self.half = rate / 2

        with pytest.raises(ConfigError, match=r"'rate'(.|\n)*Keep each argument"):
            get_config(Forgetful(1.0))


# --- optimizers -------------------------------------------------------------------------------------------------------

START = {"body.w": np.ones((2, 2)), "body.bias": np.full(2, 0.5), "head.w": np.array([3.0, -1.0])}


def variables(dtype: Any = jnp.float32) -> VarCollection:
    """Return three parameters."""
    return VarCollection((name, TrainVar(jnp.array(x, dtype))) for name, x in START.items())


OPTIMIZERS: dict[str, Any] = {
    "plain": lambda vc: optimizer.Adam(vc, 0.8, eps=1e-3),
    "of a rule": lambda vc: Optimizer(vc, rules.Chain(rules.ClipByGlobalNorm(), rules.Momentum()), lr=0.1),
    "wrapper": lambda vc: contrib.Mechanic(vc, rules.Momentum(), lr=1.0),
    "schedules": lambda vc: optimizer.AdamW(
        vc, beta1=schedule.Linear(0.9, 0.8, 3), lr=schedule.Warmup(schedule.Cosine(0.1, 9), 2),
        schedules={"weight_decay": schedule.Constant(0.1)}),
    "dynamic": lambda vc: optimizer.Adam(vc, dynamic=("beta1", "eps"), lr=0.3),
    "groups": lambda vc: optimizer.AdamW(
        vc, weight_decay=0.1, lr=0.1, dynamic=("small.lr_scale",), schedules={"beta2": schedule.Constant(0.99)},
        groups=[Group("small", "bias", weight_decay=0.0, lr_scale=0.5, beta1=schedule.Linear(0.9, 0.8, 5)),
                Group("head", "head", rule=rules.Momentum(0.7), lr_scale=schedule.Constant(0.5))]),
    "crossed": lambda vc: optimizer.AdamW(vc, groups=crossed(layerwise_lr_decay(["body", "head"], 0.3), no_decay())),
    "constraints": lambda vc: optimizer.SGD(
        vc, lr=1.0, constraints={("head", is_wide): projections.NonNegative(), "bias": projections.Box(-1, 1)}),
    "one constraint": lambda vc: optimizer.SGD(vc, lr=1.0, constraints=projections.L2Ball(1.0)),
    "line search": lambda vc: optimizer.LBFGS(vc, 3, rules.Backtracking(decrease=0.25), lr=1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_comes_back_with_all_that_its_constructor_was_given(name):
    opt, vc = OPTIMIZERS[name](variables()), variables()
    config = through_json(opt.get_config())
    back = Optimizer.from_config(vc, config)
    assert type(back) is type(opt)
    assert back.get_config() == opt.get_config() == config
    assert (repr(back), str(back.summary()), back.group_of) == (repr(opt), str(opt.summary()), opt.group_of)
    assert [*back.vars().keys()] == [*opt.vars().keys()]
    assert [v._buffer for v in back.train_vars] == [v._buffer for v in vc]


@pytest.mark.parametrize("name", ["groups", "constraints"])
def test_an_optimizer_that_comes_back_takes_the_same_steps(name):
    first, second = variables(), variables()
    opt = OPTIMIZERS[name](first)
    back = Optimizer.from_config(second, through_json(opt.get_config()))
    for _ in range(2):
        for optimized, vc in ((opt, first), (back, second)):
            optimized.step([jnp.cos(x) for x in vc.tensors()])
    assert bits(first) == bits(second) != bits(variables())


def test_an_optimizer_is_written_as_it_is_now():
    opt = OPTIMIZERS["groups"](variables())
    opt.lr, opt.weight_decay = 0.025, 0.3
    opt.group("small").lr_scale = 0.125
    opt.group("small").weight_decay = 0.0625
    opt.group("small").eps = 1e-3
    opt.group("head").momentum = 0.6
    back = Optimizer.from_config(variables(), through_json(opt.get_config()))
    small, head = back.group("small"), back.group("head")
    assert (back.get_config()["lr"], back.weight_decay, back.beta2) == (0.025, 0.3, np.float32(0.99))
    assert (small.lr_scale, small.weight_decay, small.eps, head.momentum) == (0.125, 0.0625, 1e-3, 0.6)
    assert back.eps == 1e-8
    assert back.get_config() == opt.get_config()


def test_what_groups_have_stands_there_alone():
    config = OPTIMIZERS["groups"](variables()).get_config()
    assert (list(config["schedules"]), config["dynamic"]) == (["beta2"], ["small.lr_scale"])


def test_what_is_dynamic_is_written_as_the_shortest_number_that_it_is():
    opt = optimizer.Adam(variables(), beta2=0.98765432101, dynamic=("beta1", "beta2"), lr=1 / 3)
    config = opt.get_config()
    assert (config["rule"]["beta2"], config["rule"]["beta1"], config["lr"]) == (0.98765432101, 0.9, 0.33333334)
    opt.beta1 = 0.7
    assert opt.get_config()["rule"]["beta1"] == 0.7
    wide = jax.tree.map(np.float32, Optimizer.from_config(variables(), opt.get_config()).lr)
    assert wide == np.float32(1 / 3)


def test_an_optimizer_needs_variables():
    config = optimizer.Adam(variables()).get_config()
    with pytest.raises(ConfigError, match=r"needs variables\.\noptimkit.optimizer.Optimizer.from_config"):
        from_config(config)


def test_a_class_reads_configs_of_its_own_kind_only():
    config = optimizer.Adam(variables()).get_config()
    assert repr(optimizer.Adam.from_config(variables(), config)).startswith("Adam(")
    with pytest.raises(ConfigError, match=r"SGD\.from_config(.|\n)*expected of SGD\n  got      optimizer\.Adam"):
        optimizer.SGD.from_config(variables(), config)
    with pytest.raises(ConfigError, match=r"Optimizer\(vc, optimkit.config.from_config\(config\)\)"):
        Optimizer.from_config(variables(), get_config(rules.Adam()))
    with pytest.raises(ConfigError, match=r"optimizer.Adam has another rule(.|\n)*expected Adam"):
        Optimizer.from_config(variables(), {**config, "rule": {"name": "SGD"}})
    with pytest.raises(CompositionError, match="this is not a rule"):
        Optimizer.from_config(variables(), {**config, "rule": 3})
    with pytest.raises(ConfigError, match=r"optimizer.Adam has no argument 'rate'"):
        Optimizer.from_config(variables(), {**config, "rate": 3})


def test_a_config_written_by_hand_is_short():
    opt = Optimizer.from_config(variables(), {"name": "optimizer.Adam", "rule": {"name": "Adam"}, "lr": 0.1})
    assert opt.get_config() == optimizer.Adam(variables(), lr=0.1).get_config()


def test_what_an_optimizer_cannot_write_is_named_by_its_path():
    vc = variables()
    for made, path in [
        (lambda: optimizer.Adam(vc, lr=lambda t: 0.1), "lr"),
        (lambda: optimizer.Adam(vc, beta1=lambda t: 0.1), "schedules.beta1"),
        (lambda: optimizer.Adam(vc, groups=[Group("a", lambda n, x: True)]), r"groups[0].match[0]"),
        (lambda: optimizer.Adam(vc, constraints={"w": lambda x: x}), "constraints.w"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(f"get_config(Adam): {path} is a lambda")):
            made().get_config()
        assert made().get_config(opaque=True)["rule"]["name"] == "Adam"


@pytest.mark.usefixtures("clean")
def test_a_class_of_optimizers_of_ones_own():
    class Mine(Optimizer):
        """Lion with steps of ones own."""

        rule_type = rules.Lion

    opt = Mine(variables(), 0.5)
    with pytest.raises(ConfigError, match="Mine, which is not registered"):
        opt.get_config()
    described = opt.get_config(opaque=True)
    assert (described["name"], described["rule"]["beta1"]) == ("optimizer.Mine", 0.5)
    register(Mine)
    assert opt.get_config() == described
    assert type(Optimizer.from_config(variables(), described)) is Mine


@pytest.mark.usefixtures("clean")
def test_a_class_with_a_constructor_of_its_own_reads_its_configs_itself():
    @register
    class Gentle(Optimizer):
        """Lion at a fixed learning rate."""

        rule_type = rules.Lion

        def __init__(self, vc: VarCollection, gentleness: float, **options: Any):
            super().__init__(vc, lr=1 / gentleness, **options)
            self.gentleness = gentleness

        def get_config(self, *, opaque: bool = False) -> dict[str, Any]:
            return {"name": "optimizer.Gentle", "gentleness": self.gentleness}

        @classmethod
        def from_config(cls, vc: VarCollection, config: dict[str, Any]) -> Any:
            return cls(vc, config["gentleness"])

    opt = Gentle(variables(), 4.0)
    for kind in (Gentle, Optimizer):
        assert kind.from_config(variables(), through_json(opt.get_config())).gentleness == 4.0
    assert opt.state_dict()["rules"] == ["Lion"]


def test_an_optimizer_has_no_config_while_it_is_compiled():
    opt = optimizer.Adam(vc := variables(), lr=0.1)
    with pytest.raises(ConfigError, match="'lr' is traced"):
        Jit(lambda: opt.get_config(), vc + opt.vars())()


def test_changing_the_mapping_of_constraints_later_changes_nothing():
    given = {"head": projections.NonNegative()}
    opt = optimizer.SGD(variables(), constraints=given)
    given.clear()
    assert list(opt.get_config()["constraints"]) == ["head"]
