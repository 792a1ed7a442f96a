"""Modules: every variable is found or its hiding place is an error, and copies are whole."""

from __future__ import annotations

import collections
import copy
import dataclasses
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimkit import Jit, Module, ModuleDict, ModuleList, StateVar, TrainRef, TrainVar, VarCollection
from optimkit.errors import OptimkitError, StructureError, VariableError
from tests.shell import unchanged

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


class Dense(Module):
    def __init__(self):
        self.w, self.b = TrainVar(jnp.ones((2, 2))), TrainVar(jnp.ones(2))

    def __call__(self, x):
        return x @ self.w.value + self.b


class Tied(Module):
    """One layer under two names, a ref to one of its parameters, and a list."""

    def __init__(self):
        self.encoder = Dense()
        self.decoder = self.encoder
        self.refs = ModuleList([TrainRef(self.encoder.w)])
        self.rate, self.name, self.sizes = 0.5, "tied", [1, 2]

    def __call__(self, x):
        return self.decoder(self.encoder(x))


class Holder(Module):
    def __init__(self, x):
        self.part = x


def hiding_places(x):
    """Return containers that ``vars()`` does not look into, by name."""
    return {
        "list": [x], "tuple": (x,), "dict": {"k": x}, "set": {x}, "frozenset": frozenset([x]),
        "deque": collections.deque([x]), "named_tuple": collections.namedtuple("Pair", "a b")(0, x),
        "default_dict": collections.defaultdict(list, k=x), "list_in_list": [0, [1, [x]]],
        "dict_in_tuple": ({"k": (None, x)},), "module_list_in_list": [ModuleList([x])],
    }  # fmt: skip


@pytest.mark.parametrize("place", hiding_places(None).keys())
@pytest.mark.parametrize("kind", [TrainVar, StateVar])
def test_a_variable_hidden_in_a_plain_container_raises_and_names_the_attribute(kind, place):
    module = Holder(Holder(hiding_places(kind(1.0))[place]))
    found = "the ModuleList" if place == "module_list_in_list" else f"the {kind.__name__}"
    with pytest.raises(StructureError, match=rf"(?s)^Holder.part: {found} in a plain .*ModuleList\(\[...\]\)"):
        module.vars()


@pytest.mark.parametrize("place", ["list", "tuple", "dict", "list_in_list"])
def test_a_module_hidden_in_a_plain_container_raises_and_names_the_attribute(place):
    with pytest.raises(StructureError, match=r"^Holder.part: the Dense in a plain"):
        Holder(hiding_places(Dense())[place]).vars()
    with pytest.raises(StructureError, match=r"^ModuleList\[1\]: the Dense in a plain"):
        ModuleList([0, hiding_places(Dense())[place]]).vars()
    with pytest.raises(StructureError, match=r"^ModuleDict\['k'\]: the Dense in a plain"):
        ModuleDict(k=hiding_places(Dense())[place]).vars()


@pytest.mark.parametrize("harmless", [None, 3, "abc", [1, "a", [2.0]], {"k": jnp.ones(2)}, [[[]]], Dense().vars()],
                         ids=repr)  # fmt: skip
def test_other_attributes_are_no_concern_of_vars(harmless):
    assert len(Holder(harmless).vars()) == 0


def test_shared_modules_have_all_their_names_and_one_buffer_each():
    net = Tied()
    assert list(net.vars().keys()) == [
        "(Tied).encoder(Dense).w", "(Tied).encoder(Dense).b", "(Tied).decoder(Dense).w", "(Tied).decoder(Dense).b",
        "(Tied).refs(ModuleList)[0]",
    ]  # fmt: skip
    assert len(net.vars().tensors()) == 2


@pytest.mark.parametrize("array", [jnp.ones(2), np.ones(2)], ids=["jax", "numpy"])
def test_an_array_does_not_take_the_place_of_a_variable(array):
    net = Dense()
    with pytest.raises(VariableError, match=r"(?s)^Dense.b: an array would take the place.*b.assign\(x\)"):
        net.b = array
    with pytest.raises(VariableError, match=r"v \+= x would put an array"):
        net.b += 1
    assert len(net.vars()) == 2
    net.b = None
    net.b = array
    net.b = TrainVar(array)
    assert len(net.vars()) == 2


class Slotted(Module):
    __slots__ = ("later", "w")

    def __init__(self):
        self.w = TrainVar(jnp.ones(1))


class SlottedMore(Slotted):
    __slots__ = "b"

    def __init__(self):
        super().__init__()
        self.b = TrainVar(jnp.ones(1))


@dataclasses.dataclass(eq=False)
class Data(Module):
    w: TrainVar
    rate: float = 0.1


def test_slots_and_dataclasses_are_looked_into():
    assert sorted(SlottedMore().vars().keys()) == ["(SlottedMore).b", "(SlottedMore).w"]
    assert list(Data(TrainVar(1.0)).vars().keys()) == ["(Data).w"]


def cycles():
    """Return modules that hold themselves, by name."""
    direct, through_list, through_dict, outer = Holder(None), ModuleList(), ModuleDict(), Holder(None)
    direct.part = direct
    through_list.append(Holder(through_list))
    through_dict["k"] = through_dict
    outer.part = Holder(Holder(outer))
    return {"direct": direct, "list": through_list, "dict": through_dict, "indirect": outer}


@pytest.mark.parametrize("name", cycles().keys())
def test_a_module_that_holds_itself_raises_and_names_a_place_on_the_way(name):
    place = r"^(Holder.part|ModuleList\[0\]|ModuleDict\['k'\])"
    with pytest.raises(StructureError, match=f"{place}: the module holds itself"):
        cycles()[name].vars()


def test_a_module_without_call_says_so():
    with pytest.raises(NotImplementedError, match="Holder does not define __call__"):
        Holder(1)(2)


def test_repr_shows_the_tree():
    assert repr(Holder(1)) == "Holder(\n  part=1\n)"
    assert repr(ModuleList()) == "ModuleList()"
    text = repr(Tied())
    assert "encoder=Dense(\n    w=TrainVar(" in text
    assert "refs=ModuleList(\n    [0] TrainRef(" in text
    assert repr(ModuleDict(k=1)) == "ModuleDict(\n  [k] 1\n)"


# --- ModuleList and ModuleDict ----------------------------------------------------------------------------------------

LISTS = {
    "slice": lambda x: x[:], "reversed": lambda x: x[::-1], "add": lambda x: x + [], "radd": lambda x: [] + x,
    "add_list": lambda x: x[:1] + list(x[1:]), "mul": lambda x: x * 1, "rmul": lambda x: 1 * x,
    "copy": lambda x: x.copy(), "copy_copy": copy.copy, "iadd": lambda x: x.__iadd__([]), "construct": ModuleList,
}  # fmt: skip


@pytest.mark.parametrize("derive", LISTS.values(), ids=LISTS.keys())
def test_what_is_made_of_a_module_list_is_one_and_keeps_its_variables(derive):
    items = ModuleList([Dense(), StateVar(0.0), abs])
    made = derive(items)
    assert type(made) is ModuleList
    assert {id(v) for v in made.vars()} == {id(v) for v in items.vars()}


def test_repeating_a_list_repeats_names_not_variables():
    made = ModuleList([Dense()]) * 3
    assert len(made.vars()) == 6
    assert len(made.vars().tensors()) == 2


@given(st.lists(st.integers(0, 4), max_size=5), st.slices(5))
def test_a_slice_is_the_slice_of_the_list(which, cut):
    pool = [StateVar(float(i)) for i in range(5)]
    items = [pool[i] for i in which]
    made = ModuleList(items)[cut]
    assert type(made) is ModuleList
    assert [a is b for a, b in zip(made, items[cut], strict=True)] == [True] * len(items[cut])


DICTS = {
    "copy": lambda x: x.copy(), "or": lambda x: x | {}, "ror": lambda x: {} | x, "copy_copy": copy.copy,
    "ior": lambda x: x.__ior__({}), "construct": ModuleDict,
}  # fmt: skip


@pytest.mark.parametrize("derive", DICTS.values(), ids=DICTS.keys())
def test_what_is_made_of_a_module_dict_is_one_and_keeps_its_variables(derive):
    items = ModuleDict(a=Dense(), s=StateVar(0.0), f=abs)
    made = derive(items)
    assert type(made) is ModuleDict
    assert made.vars() == items.vars()


def test_a_union_of_module_dicts_takes_the_right_ones():
    a, b = StateVar(0.0), StateVar(1.0)
    assert (ModuleDict(k=a) | {"k": b})["k"] is b
    assert ({"k": a} | ModuleDict(k=b))["k"] is b


class Stack(ModuleList):
    def __init__(self, items):
        super().__init__(items)
        self.scale = TrainVar(1.0)


class Table(ModuleDict):
    def __init__(self, **items):
        super().__init__(**items)
        self.hidden = [StateVar(1.0)]


def test_attributes_of_a_subclass_of_a_container_are_looked_into():
    assert list(Stack([StateVar(0.0)]).vars("x").keys()) == ["x(Stack).scale", "x(Stack)[0]"]
    with pytest.raises(StructureError, match=r"Table\.hidden: the StateVar"):
        Table().vars()


def test_keys_that_look_alike_are_a_conflict():
    with pytest.raises(StructureError, match=r"two different variables are called '\(ModuleDict\)\[1\]'"):
        ModuleDict({1: StateVar(0.0), "1": StateVar(1.0)}).vars()


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("make", [
    Tied, SlottedMore, lambda: Data(TrainVar(1.0)), lambda: Stack([Dense()]), lambda: ModuleDict(a=Dense()),
], ids=["tied", "slots", "data", "list", "dict"])  # fmt: skip
def test_a_copy_of_a_module_has_variables_of_its_own(make, duplicate):
    net = make()
    twin = duplicate(net)
    assert type(twin) is type(net)
    assert list(twin.vars().keys()) == list(net.vars().keys())
    assert len(twin.vars().buffers()) == len(net.vars().buffers())
    with unchanged(net.vars()):
        twin.vars().assign([x * 0 for x in twin.vars().tensors()])


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
def test_what_is_shared_in_a_module_is_shared_in_its_copy(duplicate):
    twin = duplicate(Tied())
    assert twin.encoder is twin.decoder
    twin.refs[0].value = jnp.zeros((2, 2))
    assert twin.encoder.w.value.sum() == 0.0
    assert twin(jnp.ones(2)).tolist() == [1.0, 1.0]


def test_a_shallow_copy_of_a_module_shares_its_variables():
    net = Tied()
    assert copy.copy(net).vars() == net.vars()


def test_structure_errors_are_value_errors_and_optimkit_errors():
    with pytest.raises(ValueError, match="would not be found"):
        Holder([StateVar(1.0)]).vars()
    with pytest.raises(OptimkitError, match="would not be found"):
        Holder([StateVar(1.0)]).vars()


def test_a_transform_kept_as_an_attribute_counts_its_variables_once():
    net = Tied()
    net.fast = Jit(lambda x: net.encoder(x), net.vars())
    assert len(net.vars().tensors()) == 2
    assert isinstance(net.vars(), VarCollection)
