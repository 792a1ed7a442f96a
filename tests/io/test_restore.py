"""A restore is strict and transactional: all that does not fit is said at once, and nothing is assigned."""

from __future__ import annotations

import functools
import io as std_io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, Renamer, StateVar, TrainRef, TrainVar, VarCollection, io, optimizer, rules, schedule
from optimkit.core import collection
from optimkit.errors import CheckpointError, CorruptCheckpointError, IncompatibleCheckpointError
from tests.io.states import bits, state, unchanged


def variables(**arrays):
    return VarCollection((name, StateVar(x)) for name, x in arrays.items())


def saved(vc):
    file = std_io.BytesIO()
    io.save_var_collection(file, vc)
    file.seek(0)
    return file


def refused(file, vc, error=IncompatibleCheckpointError, **options):
    """Return the error of a restore; nothing is assigned."""
    file.seek(0)
    with unchanged(vc), pytest.raises(error) as caught:
        io.load_var_collection(file, vc, **options)
    return caught.value


# --- the difference ---------------------------------------------------------------------------------------------------


def test_one_error_shows_all_differences():
    old = variables(same=np.float32(1), gone=np.float32(2), shape=np.zeros(3, np.float32), dtype=np.float32(4))
    new = variables(same=np.float32(0), came=np.float32(0), shape=np.ones(4, np.float32), dtype=np.int32(4))
    error = refused(saved(old), new)
    d = error.difference
    assert (d.missing, d.unexpected) == (("came",), ("gone",))
    assert d.shapes == {"shape": ("float32[4]", "float32[3]")} and d.dtypes == {"dtype": ("int32[]", "float32[]")}
    for part in ("'came'", "'gone'", "float32[4] here, float32[3] in the file", "int32[] here, float32[] in the file"):
        assert part in str(error)
    assert "partial=True" in str(error) and "cast=True" not in str(error)  # no cast makes integers of fractions


def test_a_shape_and_a_dtype_that_differ_stay_errors_in_a_partial_restore():
    old = variables(a=np.zeros(3, np.float32), b=np.float32(1))
    assert refused(saved(old), variables(a=np.zeros(4, np.float32), b=np.float32(0)), partial=True).difference.shapes
    assert refused(saved(old), variables(a=np.zeros(3, np.int32), b=np.float32(0)), partial=True).difference.dtypes


def test_a_long_difference_is_cut_in_the_message_and_whole_in_the_data():
    error = refused(saved(variables(x=np.float32(0))), variables(**{f"v{i}": np.float32(i) for i in range(100)}))
    assert len(error.difference.missing) == 100 and "... and 60 more" in str(error) and len(str(error)) < 2000


def test_a_name_that_is_nearly_the_same_is_suggested():
    error = refused(saved(variables(**{"(Net).conv.w": np.float32(1)})), variables(**{"(Net).conv1.w": np.float32(1)}))
    assert "rename={'(Net).conv.w': '(Net).conv1.w'}" in str(error)


def test_variables_shared_here_and_apart_in_the_file_are_refused():
    file, w = saved(variables(a=np.float32(1), b=np.float32(2))), StateVar(np.float32(0))
    vc = VarCollection({"a": w, "b": w})
    assert "['a', 'b'] are one variable here, and 2 in the file" in str(refused(file, vc))


def test_variables_apart_here_and_shared_in_the_file_both_take_the_array_and_the_report_says_so():
    w = TrainVar(jnp.ones(3))
    file, new = saved(VarCollection({"a": w, "b": w})), variables(a=np.zeros(3, np.float32), b=np.zeros(3, np.float32))
    report = io.load_var_collection(file, new)
    assert report.untied == {"b": "a"} and "'b', as 'a'" in str(report)
    Jit(lambda: new["a"].assign(new["a"] + new["b"]), new, donate=True)()  # of which neither is the other's memory
    assert new["a"].value[0] == 2 and new["b"].value[0] == 1


def test_a_second_name_is_enough():
    w = TrainVar(jnp.ones(3))
    new = variables(ref=np.zeros(3, np.float32))
    io.load_var_collection(saved(VarCollection({"w": w, "ref": TrainRef(w)})), new)
    assert (new["ref"].value == 1).all()


# --- rename, partial, cast --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rename", [
    {"a": "b"}, lambda name: name.replace("a", "b"), Renamer({"a": "b"}), [("^a$", "b")]
])  # fmt: skip
def test_rename_leads_from_the_file_to_the_collection(rename):
    file, new = saved(variables(a=np.float32(1))), variables(b=np.float32(0))
    assert io.load_var_collection(file, new, rename=rename).names == ("b",)
    assert new["b"].value == 1
    file.seek(0)
    new["b"].value = 0.0
    io.load_var_collection(file, new, rename)  # objax's renamer, by position
    assert new["b"].value == 1


def test_two_variables_may_swap_their_names():
    new = variables(a=np.float32(0), b=np.float32(0))
    io.load_var_collection(saved(variables(a=np.float32(1), b=np.float32(2))), new, rename={"a": "b", "b": "a"})
    assert (new["a"].value, new["b"].value) == (2, 1)


def test_a_rename_that_cannot_be_meant_is_refused():
    file, new = saved(variables(a=np.float32(1), b=np.float32(2))), variables(a=np.float32(0), b=np.float32(0))
    assert "'c', which is not in the file" in str(refused(file, new, CheckpointError, rename={"c": "a"}))
    assert "the name 'b' to two" in str(refused(file, new, CheckpointError, rename={"a": "b"}))
    assert "both given" in str(refused(file, new, CheckpointError, rename={"a": "b"}, renamer={"a": "b"}))


def test_a_partial_restore_says_what_it_left_and_passed_over():
    old, new = variables(a=np.float32(1), gone=np.float32(2)), variables(a=np.float32(0), came=np.float32(5))
    report = io.load_var_collection(saved(old), new, partial=True)
    assert (report.names, report.left, report.unexpected) == (("a",), ("came",), ("gone",))
    assert (new["a"].value, new["came"].value) == (1, 5)
    assert str(report) == repr(report) == (
        "1 variable restored.\n  left as they were:\n    'came'\n  in the file, and not restored:\n    'gone'")


def test_a_partial_restore_of_nothing_is_refused():
    assert refused(saved(variables(a=np.float32(1))), variables(b=np.float32(0)), partial=True).difference.missing


@pytest.mark.parametrize("old, new", [
    ("float32", "bfloat16"), ("bfloat16", "float32"), ("float64", "float32"), ("int64", "int32"), ("uint8", "int32"),
    ("complex64", "complex128"), ("float32", "float8_e5m2"), ("int8", "int4"),
])  # fmt: skip
def test_another_precision_needs_cast(old, new):
    with jax.enable_x64(True):
        source, target = (variables(x=jnp.asarray(np.arange(3), dtype)) for dtype in (old, new))
        target["x"].value = target["x"].value * 0
    file = saved(source)
    error = refused(file, target)
    assert error.difference.dtypes == {"x": (f"{new}[3]", f"{old}[3]")} and "cast=True" in str(error)
    file.seek(0)
    report = io.load_var_collection(file, target, cast=True)
    assert target["x"].dtype.name == new and list(np.asarray(target["x"].value).astype(complex)) == [0, 1, 2]
    assert report.cast == {"x": (f"{new}[3]", f"{old}[3]")} and "cast" in str(report)


@pytest.mark.parametrize("old, new", [("float32", "int32"), ("int32", "float32"), ("bool", "int32"),
                                      ("complex64", "float32"), ("uint32", "key")])  # fmt: skip
def test_another_kind_of_number_is_never_cast(old, new):
    key = new == "key"
    target = StateVar(jax.random.key(0)) if key else StateVar(jnp.zeros(2, new))
    file = saved(variables(x=jnp.zeros(() if key else 2, old)))
    assert "cast=True" not in str(refused(file, VarCollection({"x": target}), cast=True))


@pytest.mark.parametrize("value, old, new", [(300.0, "float32", "float8_e5m2"), (1e39, "float64", "float32"),
                                             (2**40, "int64", "int32"), (-1, "int32", "uint8")])  # fmt: skip
def test_a_cast_never_changes_how_large_a_number_is(value, old, new):
    value *= 1000 if new.startswith("float8") else 1
    with jax.enable_x64(True):
        source, target = variables(x=jnp.full(2, value, old)), variables(x=jnp.zeros(2, new))
    assert "cannot hold" in str(refused(saved(source), target, cast=True))


def test_infinities_and_nans_are_cast_as_such():
    values = jnp.array([np.inf, -np.inf, np.nan, 1])
    target = variables(x=jnp.zeros(4, jnp.bfloat16))
    io.load_var_collection(saved(variables(x=values)), target, cast=True)
    assert np.array_equal(np.asarray(target["x"].value, np.float32), values, equal_nan=True)


# --- rules ------------------------------------------------------------------------------------------------------------


ALIVE = []  # a collection says who wrote it as long as that optimizer lives


def training(rule, lr=0.1, **options):
    """Return an optimizer after a step, and the variables of it and of the model."""
    w = TrainVar(jnp.ones(3))
    opt = optimizer.Optimizer(VarCollection({"w": w}), rule, lr=lr, **options)
    opt.step([jnp.ones(3)])
    ALIVE.append(opt)
    return opt, VarCollection({"w": w}) + opt.vars()


def test_the_memory_of_another_rule_is_refused():
    _, old = training(rules.Adam())
    _, new = training(rules.Yogi())
    assert old.keys() == new.keys()  # so that names say nothing
    error = refused(saved(old), new)
    assert list(error.difference.rules.values()) == [("Yogi", "Adam")] and "Yogi here, Adam in the file" in str(error)
    refused(saved(old), new, partial=True)
    report = io.load_var_collection(saved(old), VarCollection({"w": new["w"]}), partial=True)
    assert report.names == ("w",) and (new["w"].value == old["w"].value).all()


def test_another_composition_is_another_rule():
    _, old = training(rules.Chain(rules.ClipByGlobalNorm(), rules.Adam()))
    _, new = training(rules.Chain(rules.Adam(), rules.WeightDecay(0.1)))
    (names,) = refused(saved(old), new).difference.rules.values()
    assert names == ("Chain(Adam, WeightDecay)", "Chain(ClipByGlobalNorm, Adam)")


def test_an_unregistered_rule_is_known_by_its_name():
    class Mine(rules.SGD):
        """A rule."""

    class Yours(rules.SGD):
        """Another one."""

    _, old = training(rules.Chain(Mine(), rules.Adam()))
    _, new = training(rules.Chain(Yours(), rules.Adam()))
    (names,) = refused(saved(old), new).difference.rules.values()
    assert names == ("Chain(Yours, Adam)", "Chain(Mine, Adam)")


def test_other_hyperparameters_are_reported_and_stay():
    _, old = training(rules.Adam(beta1=0.8))
    second, new = training(rules.Adam())
    report = io.load_var_collection(saved(old), new)
    assert {path.split(".")[-1]: pair for path, pair in report.changed.items()} == {"beta1": (0.9, 0.8)}
    assert second.beta1 == 0.9 and "other hyperparameters" in str(report)
    assert bits(new) == bits(old)


def test_hyperparameters_that_are_variables_are_restored():
    first, old = training(rules.Adam(), lr=0.25, dynamic=("beta1",))
    first.beta1 = 0.5
    second, new = training(rules.Adam(), lr=0.1, dynamic=("beta1",))
    report = io.load_var_collection(saved(old), new)
    assert report.changed == {} and second.beta1 == 0.5 and second.lr == 0.25


@pytest.mark.parametrize("config", [{"name": "x", "y": float("nan")}, {"name": "x", "y": list(range(10**5))}, {}, None,
                                    functools.reduce(lambda inner, _: {"name": "x", "y": inner}, range(99), None)],
                         ids=["nan", "large", "no name", "none", "deep"])  # fmt: skip
def test_a_description_that_fails_does_not_make_a_save_fail(config, monkeypatch):
    opt, vc = training(rules.Adam())
    monkeypatch.setattr(type(opt), "get_config", lambda self, **_: config)
    (about,) = io.read_manifest(saved(vc)).about
    assert about == {"name": "Optimizer", "repr": repr(opt)}


def test_a_schedule_is_no_reason_to_refuse():
    _, old = training(rules.Adam(), lr=lambda step: 0.1)
    _, new = training(rules.Adam(), lr=schedule.Cosine(0.1, 10))
    assert any("lr" in path for path in io.load_var_collection(saved(old), new).changed)


# --- all or nothing ---------------------------------------------------------------------------------------------------


def test_an_array_that_is_damaged_leaves_all_variables():
    vc, target = state(1), state(2)
    good = saved(vc).getvalue()
    spot = good.index(np.asarray(vc["int8"].value).tobytes())
    bad = good[:spot] + bytes([good[spot] ^ 1]) + good[spot + 1 :]
    error = refused(std_io.BytesIO(bad), target, CorruptCheckpointError)
    assert "'int8'" in str(error)
    with pytest.raises(CorruptCheckpointError, match="'int8'"):
        io.verify(std_io.BytesIO(bad))


class Interrupting(collection.Buffer):
    """A buffer whose first write is interrupted."""

    __slots__ = ("left",)

    def __setattr__(self, name, x):
        collection.Buffer.__setattr__(self, name, x)
        if name == "value" and getattr(self, "left", 0):
            self.left -= 1
            raise KeyboardInterrupt


def test_an_interrupt_amid_the_assignments_leaves_no_mixture():
    vc, file = state(1), saved(state(2))
    buffer = Interrupting(vc["scalar"].value)
    vc["scalar"].__dict__["_buffer"] = buffer
    buffer.left = 1
    with pytest.raises(KeyboardInterrupt):
        io.load_var_collection(file, vc)
    assert buffer.left == 0 and bits(vc) == bits(state(2))


def test_an_interrupt_amid_the_reading_leaves_all_variables():
    class Interrupted(std_io.BytesIO):
        left = 12

        def readinto(self, view):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return super().readinto(view)

    refused(Interrupted(saved(state(1)).getvalue()), state(2), KeyboardInterrupt)


def test_restored_arrays_may_be_donated():
    vc = state(1)
    io.load_var_collection(saved(state(2)), vc)
    step = Jit(lambda: vc["w"].assign(vc["w"] * 2), vc, donate=True)
    step()
    assert np.array_equal(vc["w"].value, state(2)["w"].value * 2, equal_nan=True)


def test_a_restore_costs_no_new_compile():
    opt, vc = training(rules.Adam())
    compiled = []

    def step():
        compiled.append(1)
        opt.step([vc["w"].value])

    step = Jit(step, vc)
    step()
    io.load_var_collection(saved(training(rules.Adam())[1]), vc)
    step()
    assert len(compiled) == 1


def test_what_is_no_collection_is_refused():
    for vc in ({}, [], None, state(1)["w"]):
        with pytest.raises(CheckpointError, match="a VarCollection"):
            io.load_var_collection(std_io.BytesIO(), vc)
        with pytest.raises(CheckpointError, match=re.escape("model.vars() + opt.vars()")):
            io.save_var_collection(std_io.BytesIO(), vc)


def test_a_restore_inside_a_compiled_function_is_refused():
    vc, file = state(1), saved(state(2))
    with pytest.raises(CheckpointError, match="holds another value"):
        Jit(lambda: io.load_var_collection(file, vc) and None, vc)()
    assert bits(vc) == bits(state(1))
