"""Scan: K steps of a stateful function in one program are the loop of K steps."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import GradValues, Jit, Module, RandomState, Scan, StateVar, TrainRef, TrainVar, VarCollection, Vectorize
from optimkit.errors import DTypeError, StructureError, TraceMutationError
from tests.shell import Counted, unchanged


class Trainer(Module):
    """A step of stochastic gradient descent with dropout and a step counter, written by hand."""

    def __init__(self):
        self.w, self.steps, self.key = TrainVar(jnp.array([1.0, -2.0])), StateVar(0), RandomState(0)
        self.ref = TrainRef(self.w)

    def loss(self, x, y):
        kept = jax.random.bernoulli(self.key.split(1)[0], 0.5, (2,))
        return (jnp.sum(self.w * x * kept) - y) ** 2

    def __call__(self, x, y, *, lr=0.1):
        self.steps.value += 1
        (grad,), values = GradValues(self.loss, self.vars())(x, y)
        self.ref.value = self.ref - lr * grad
        return {"loss": values[0], "step": self.steps.value}


def batches(k):
    rng = np.random.default_rng(k)
    return rng.normal(size=(k, 2)).astype(np.float32), rng.normal(size=k).astype(np.float32)


@pytest.mark.parametrize(("k", "unroll", "donate", "inside_jit"), [
    (1, 1, False, False), (4, 1, False, True), (4, 3, True, False), (3, 5, True, True),
])  # fmt: skip
def test_a_scan_of_training_steps_is_their_loop(k, unroll, donate, inside_jit):
    x, y = batches(k)
    looped, scanned = Trainer(), Trainer()
    step = Jit(looped)
    outputs = [step(a, b) for a, b in zip(x, y, strict=True)]
    scan = Scan(scanned, unroll=unroll, donate=donate)
    got = (Jit(scan) if inside_jit else scan)(x, y)
    np.testing.assert_allclose(got["loss"], [out["loss"] for out in outputs], rtol=1e-4, atol=1e-6)
    assert got["step"].tolist() == list(range(1, k + 1))
    np.testing.assert_allclose(scanned.w.value, looped.w.value, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(scanned.key.value, looped.key.value)
    assert int(scanned.steps) == k


def test_keyword_arguments_are_the_same_in_each_step():
    x, y = batches(3)
    looped, scanned = Trainer(), Trainer()
    step = Jit(looped)
    for a, b in zip(x, y, strict=True):
        step(a, b, lr=0.01)
    Scan(scanned)(x, y, lr=0.01)
    np.testing.assert_allclose(scanned.w.value, looped.w.value, rtol=1e-5)


def test_steps_without_batches_are_counted_by_length():
    s = StateVar(1.0)

    def double():
        s.value *= 2
        return s.value

    vc = VarCollection({"s": s})
    assert Scan(double, vc, length=4)().tolist() == [2.0, 4.0, 8.0, 16.0]
    assert Scan(double, vc, length=0)().shape == (0,)
    assert float(s) == 16.0


def test_batches_may_be_trees_and_numpy():
    s = StateVar(0.0)
    f = Scan(lambda t: s.assign(s + t["a"] * t["b"][0]), VarCollection({"s": s}))
    f({"a": np.arange(3.0, dtype=np.float32), "b": [np.ones(3, np.float32)]})
    assert float(s) == 3.0


def test_a_python_number_and_a_variable_read_only_fit_the_loop():
    w, s = TrainVar(jnp.float32(2.0)), StateVar(jnp.ones((), jnp.bfloat16))

    def f(x):
        s.value = 1.0 if x is None else s * 2
        return w * x

    vc = VarCollection({"w": w, "s": s})
    assert Scan(f, vc)(jnp.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
    assert (s.dtype, float(s), s.value.weak_type) == (jnp.bfloat16, 8.0, False)


def test_one_length_compiles_once():
    s = StateVar(0.0)
    counted = Counted(lambda x: s.assign(s + x))
    scan = Scan(counted, VarCollection({"s": s}))
    scan(jnp.ones(3))
    first = counted.traces
    scan(jnp.ones(3))
    s.value = 7
    scan(jnp.ones(3))
    assert counted.traces == first
    assert float(s) == 10.0


def test_scans_nest():
    s = StateVar(0.0)
    vc = VarCollection({"s": s})
    inner = Scan(lambda x: (s.assign(s * 0.5 + x), s.value)[1], vc)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    got = Scan(inner, vc)(x)
    value, wanted = 0.0, []
    for a in x.ravel():
        value = value * 0.5 + a
        wanted.append(value)
    assert got.ravel().tolist() == wanted
    assert float(s) == value


@pytest.mark.parametrize(("args", "match"), [
    ((np.ones(3), np.ones(4)), r"not stacked alike.*one length.*'3', '4'"),
    ((np.ones(3), 1.0), "not stacked alike.*by keyword"),
    (({"a": np.ones((2, 3)), "b": np.ones((3, 2))},), "not stacked alike"),
])  # fmt: skip
def test_batches_that_are_not_stacked_alike_are_refused(args, match):
    with pytest.raises(StructureError, match="(?s)" + match):
        Scan(lambda *args: None, VarCollection())(*args)


def test_a_length_that_contradicts_the_batches_and_none_at_all_are_errors():
    with pytest.raises(ValueError, match="length"):
        Scan(lambda x: x, VarCollection(), length=2)(jnp.ones(3))
    with pytest.raises(ValueError, match="length"):
        Scan(lambda: None, VarCollection())()


def test_a_step_that_changes_a_dtype_is_refused_by_name():
    s = StateVar(jnp.ones((), jnp.bfloat16))
    vc = VarCollection({"ema.m": s})
    with unchanged(vc), pytest.raises(DTypeError, match=r"(?s)'ema.m'.*bfloat16\[\].*float32\[\]"):
        Scan(lambda x: s.assign(s * x), vc)(jnp.ones(3))


def test_a_variable_that_is_not_listed_cannot_be_written():
    s, other = StateVar(0.0), StateVar(0.0)
    vc = VarCollection({"s": s, "other": other})
    with unchanged(vc), pytest.raises(TraceMutationError, match="'other' is written"):
        Scan(lambda x: other.assign(x), VarCollection({"s": s}))(jnp.ones(3))


def test_what_is_only_read_is_not_written():
    w, s = TrainVar(jnp.float32(0.1)), StateVar(7)
    vc = VarCollection({"w": w, "s": s})
    scan = Scan(lambda x: w * x * s, vc)
    (main,) = (line for line in Jit(scan).lower(jnp.ones(3)).as_text().splitlines() if "public @main" in line)
    assert main.split("->")[1].count("tensor<") == 1
    with unchanged(vc):
        scan(jnp.ones(3))
        Vectorize(scan)(jnp.ones((3, 2)))  # would take the mean of three copies of 0.1, and of an integer


def test_donation_updates_in_place():
    s = StateVar(jnp.zeros(3))
    old = s.value
    Scan(lambda x: s.assign(s + x), VarCollection({"s": s}), donate=True)(jnp.ones(2))
    assert (old.is_deleted(), s.value.tolist()) == (True, [2.0, 2.0, 2.0])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deep", "pickle"])
def test_a_copy_steps_its_own_variables(duplicate):
    trainer = Trainer()
    scan = Scan(trainer)
    scan(*batches(2))
    twin = duplicate(scan)
    with unchanged(trainer.vars()):
        twin(*batches(3))
    assert int(twin.__wrapped__.steps) == 5
    scan(*batches(3))
    np.testing.assert_array_equal(twin.__wrapped__.w.value, trainer.w.value)
