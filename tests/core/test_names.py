"""Names: how modules name their variables, and how a Renamer changes names."""

from __future__ import annotations

import re

import jax.numpy as jnp
import pytest

from optimkit import Function, Jit, Module, ModuleDict, ModuleList, Renamer, StateVar, TrainRef, TrainVar, VarCollection
from optimkit.errors import StructureError, TraceMutationError


class Dense(Module):
    def __init__(self):
        self.w, self.b = TrainVar(jnp.ones((2, 2))), TrainVar(jnp.ones(2))

    def __call__(self, x):
        return x @ self.w.value + self.b


class Net(Module):
    def __init__(self):
        self.layers = ModuleList([Dense(), abs, StateVar(0.0)])
        self.heads = ModuleDict(a=Dense())
        self.steps = StateVar(0)


def test_names_are_paths_with_the_classes_in_parentheses():
    assert list(Net().vars().keys()) == [
        "(Net).layers(ModuleList)[0](Dense).w", "(Net).layers(ModuleList)[0](Dense).b", "(Net).layers(ModuleList)[2]",
        "(Net).heads(ModuleDict)[a](Dense).w", "(Net).heads(ModuleDict)[a](Dense).b", "(Net).steps",
    ]  # fmt: skip
    assert list(Dense().vars("scope.").keys()) == ["scope.(Dense).w", "scope.(Dense).b"]
    assert list(ModuleList([StateVar(0.0)]).vars("x").keys()) == ["x(ModuleList)[0]"]


def test_a_function_names_its_variables_after_itself_and_a_transform_as_given():
    def loss():
        pass

    net = Dense()
    vc = net.vars("net.")
    assert list(Function(loss, vc).vars("s.").keys()) == ["s.{loss}net.(Dense).w", "s.{loss}net.(Dense).b"]
    assert list(Jit(loss, vc).vars("s.").keys()) == ["s.net.(Dense).w", "s.net.(Dense).b"]
    assert list(Jit(net).vars().keys()) == ["(Dense).w", "(Dense).b"]


def test_a_variable_goes_by_its_first_name_in_messages_and_a_ref_gives_none():
    w = TrainVar(jnp.ones(2))
    assert w.name == "TrainVar"
    VarCollection({"opt.train_vars[0]": TrainRef(w)})
    assert w.name == "TrainVar"
    VarCollection({"net.w": w})
    VarCollection({"other": w})
    assert w.name == TrainRef(w).name == "net.w"
    with pytest.raises(StructureError, match=r"'net\.w'"):
        TrainRef(w).value = 0.0


def test_a_written_variable_that_is_not_listed_is_named_by_its_path():
    net = Net()
    net.vars()
    with pytest.raises(TraceMutationError, match=re.escape("'(Net).heads(ModuleDict)[a](Dense).b'")):
        Jit(lambda x: net.heads["a"].b.assign(x), VarCollection())(jnp.zeros(2))


@pytest.mark.parametrize(("rules", "wanted"), [
    ({"aa": "x", "bb": "y"}, ["bxb", "bxab", "bxxb", "aya"]),
    ({"a": "1", "aa": "2", "aaa": "3"}, ["b2b", "b3b", "b31b", "1bb1"]),
    ({}, ["baab", "baaab", "baaaab", "abba"]),
    ({"(": "[", ".": "|"}, ["baab", "baaab", "baaaab", "abba"]),
    ([("a{2}", "x"), (re.compile("xa"), "y")], ["bxb", "byb", "bxxb", "abba"]),
    ([("(b)(a)", r"\2\1")], ["abab", "abaab", "abaaab", "abab"]),
    (str.upper, ["BAAB", "BAAAB", "BAAAAB", "ABBA"]),
])  # fmt: skip
def test_a_renamer_replaces_longest_substrings_patterns_in_order_or_calls(rules, wanted):
    names = ["baab", "baaab", "baaaab", "abba"]
    assert list(map(Renamer(rules), names)) == wanted
    assert list(map(Renamer(rules, chain=lambda name: name + "!"), names)) == [name + "!" for name in wanted]


def test_a_collection_is_renamed_by_a_renamer():
    vc = Net().vars().rename(Renamer([(r"\([A-Z]\w*\)\.?", ""), (r"\[(\w+)\]", r".\1.")]))
    assert list(vc.keys()) == ["layers.0.w", "layers.0.b", "layers.2.", "heads.a.w", "heads.a.b", "steps"]
