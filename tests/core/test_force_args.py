"""ForceArgs: fixed arguments win over those given, in place where a part is replaced, and can be taken back."""

from __future__ import annotations

import inspect

import pytest

from optimkit import ForceArgs, Module, ModuleDict, ModuleList, StateVar
from optimkit.errors import StructureError


class Op(Module):
    def __init__(self):
        self.v = StateVar(1.0)

    def __call__(self, x, flag, /, scale=1, *rest, training=False, **extra):
        return (x, flag, scale, rest, training, extra)


class Block(Module):
    def __init__(self):
        self.parts = ModuleList([Op(), Op()])
        self.table = ModuleDict(k=Op())
        self.op = Op()

    def __call__(self, x, training):
        return [part(x, 0, training=training)[4] for part in (*self.parts, self.table["k"], self.op)]


@pytest.mark.parametrize(("forced", "args", "kwargs", "wanted"), [
    ({"training": True}, (1, 2), {}, (1, 2, 1, (), True, {})),
    ({"training": True}, (1, 2), {"training": False}, (1, 2, 1, (), True, {})),
    ({"scale": 5}, (1, 2, 3), {}, (1, 2, 5, (), False, {})),
    ({"scale": 5}, (1, 2), {"scale": 3}, (1, 2, 5, (), False, {})),
    ({"scale": 5}, (1, 2, 3, 4, 6), {}, (1, 2, 5, (4, 6), False, {})),
    ({"flag": 9}, (1, 2), {}, (1, 9, 1, (), False, {})),
    ({"flag": 9, "x": 8}, (), {}, (8, 9, 1, (), False, {})),
    ({"more": 7}, (1, 2), {"more": 3, "other": 4}, (1, 2, 1, (), False, {"more": 7, "other": 4})),
    ({}, (1, 2), {}, (1, 2, 1, (), False, {})),
])  # fmt: skip
def test_a_fixed_argument_replaces_what_is_passed_in_any_way(forced, args, kwargs, wanted):
    assert ForceArgs(Op(), **forced)(*args, **kwargs) == wanted


def test_signature_and_names_of_variables_are_the_modules():
    op = Op()
    assert inspect.signature(ForceArgs(op, training=True)) == inspect.signature(op)
    assert ForceArgs(op, training=True).vars("s.") == op.vars("s.")


def test_the_module_itself_is_not_changed():
    block = Block()
    evaluated = ForceArgs(block, training=False)
    assert evaluated(1, training=True) == [False] * 4
    assert block(1, training=True) == [True] * 4


def test_a_part_is_fixed_by_replacing_it():
    block = Block()
    block.op = ForceArgs(block.op, training=False)
    block.parts[0] = ForceArgs(block.parts[0], training=False)
    assert block(1, True) == [False, True, True, False]
    assert block.vars() == Block.vars(block)


def test_the_innermost_of_two_fixed_values_wins_as_it_is_called_last():
    assert ForceArgs(ForceArgs(Op(), training=1), training=2)(0, 0)[4] == 1


def fixed():
    """Return a block with fixed arguments in each kind of place."""
    block = Block()
    block.op = ForceArgs(ForceArgs(block.op, training=1), scale=5)
    block.parts[1] = ForceArgs(block.parts[1], training=2)
    block.table["k"] = ForceArgs(block.table["k"], training=1)
    return ForceArgs(block, training=3)


@pytest.mark.parametrize(("undone", "wanted", "wrapped"), [
    ({"training": ForceArgs.ANY}, [0, 0, 0, 0], 1),
    ({"training": 1}, [3, 2, 3, 3], 2),
    ({"training": 2}, [3, 3, 1, 1], 3),
    ({"training": 9}, [3, 2, 1, 1], 4),
    ({"scale": ForceArgs.ANY}, [3, 2, 1, 1], 3),
    ({}, [0, 0, 0, 0], 0),
])  # fmt: skip
def test_undo_takes_back_what_it_names_everywhere_and_leaves_no_empty_wrapper(undone, wanted, wrapped):
    model = fixed()
    ForceArgs.undo(model, **undone)
    assert model(1, training=0) == wanted
    block = model.__wrapped__

    def wrappers(part):
        return isinstance(part, ForceArgs) and 1 + wrappers(part.__wrapped__)

    assert sum(map(wrappers, [block.op, *block.parts, block.table["k"]])) == wrapped


def test_undo_on_a_module_without_fixed_arguments_changes_nothing():
    block = Block()
    parts = list(block.parts)
    ForceArgs.undo(block)
    assert [a is b for a, b in zip(block.parts, parts, strict=True)] == [True, True]
    assert block(1, training=True) == [True] * 4


class Strict(Module):
    def __call__(self, x, training):
        return x, training


def test_an_argument_that_does_not_exist_is_refused_by_name():
    with pytest.raises(StructureError, match=r"(?s)Strict has no argument 'trainig'.*'x', 'training'"):
        ForceArgs(Strict(), trainig=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        ForceArgs(Strict(), training=True)(1, y=2)
    with pytest.raises(TypeError, match="missing"):
        ForceArgs(Strict(), training=True)()


def test_only_modules_have_arguments_to_fix():
    with pytest.raises(StructureError, match=r"(?s)can only be used on modules.*builtin_function"):
        ForceArgs(abs, x=1)


def test_repr_shows_what_is_fixed():
    assert repr(ForceArgs(Strict(), training=False)) == "ForceArgs(Strict(), training=False)"
