"""Vectorize: as in a loop over copies of the variables."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import GradValues, Jit, Module, RandomState, StateVar, TrainRef, TrainVar, VarCollection, Vectorize
from optimkit.core.variable import reduce_first
from optimkit.errors import DTypeError, StructureError, TraceMutationError
from tests.shell import unchanged

X = np.arange(6, dtype=np.float32).reshape(3, 2)
C = np.array([1.0, -1.0], np.float32)


class Noisy(Module):
    """Adds noise of its own generator and keeps a running mean."""

    def __init__(self):
        self.w, self.mean, self.key = TrainVar(C), StateVar(jnp.zeros(())), RandomState(3)

    def __call__(self, x):
        self.mean.value = self.mean + x.sum()
        return jax.random.normal(self.key.split(1)[0], ()) + jnp.dot(self.w.value, x)


# --- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis_x", "axis_y"), [(0, 0), (1, 0), (-1, 1), (-2, None), (None, 1), (None, None)])
@pytest.mark.parametrize("compiled", [False, True])
def test_outputs_are_those_of_the_loop_stacked(axis_x, axis_y, compiled):
    w = TrainVar(jnp.float32(2.0))

    def f(x, y):
        return {"out": w * jnp.sum(x) + jnp.cumsum(y)}

    x, y = jnp.arange(9.0).reshape(3, 3), jnp.arange(9.0).reshape(3, 3) ** 2
    vc = VarCollection({"w": w})
    if axis_x is axis_y is None:
        with pytest.raises(StructureError, match=r"(?s)no argument has a batch axis.*\(None, None\)"):
            Vectorize(f, vc, batch_axis=(None, None))
        return
    mapped = Vectorize(f, vc, batch_axis=(axis_x, axis_y))
    got = (Jit(mapped) if compiled else mapped)(x, y)
    one = lambda a, axis, i: a if axis is None else jnp.take(a, i, axis)  # noqa: E731
    wanted = [f(one(x, axis_x, i), one(y, axis_y, i))["out"] for i in range(3)]
    np.testing.assert_allclose(got["out"], wanted, rtol=1e-6)


def test_arguments_may_be_trees_and_keywords_are_passed_whole():
    f = Vectorize(lambda t, *, k: t["a"] * t["b"][0] + k.sum(), VarCollection())
    assert f({"a": jnp.arange(3.0), "b": [jnp.ones(3)]}, k=jnp.ones(2)).tolist() == [2.0, 3.0, 4.0]


def test_a_module_brings_its_own_variables_and_a_function_must_be_told():
    class Dot(Module):
        def __init__(self):
            self.w = TrainVar(C)

        def __call__(self, x):
            return self.w.value @ x

    assert Vectorize(Dot())(X).tolist() == (X @ C).tolist()
    with pytest.raises(StructureError, match="Vectorize: the variables used by '<lambda>' are not given"):
        Vectorize(lambda x: x)


# --- random numbers ---------------------------------------------------------------------------------------------------


def test_each_element_draws_with_its_own_key_and_the_state_advances_once():
    f, key = Noisy(), jax.random.PRNGKey(3)
    new, *keys = jax.random.split(key, 4)
    wanted = [jax.random.normal(jax.random.split(k)[1], ()) + C @ x for k, x in zip(keys, X, strict=True)]
    np.testing.assert_allclose(Vectorize(f)(X), wanted, rtol=1e-6)
    np.testing.assert_array_equal(f.key.value, new)


def test_two_random_states_are_both_split():
    a, b = RandomState(0), RandomState(1)

    def f(x):
        return a.split(1)[0], b.split(1)[0]

    drawn = Vectorize(f, VarCollection({"a": a, "b": b}))(jnp.ones(4))
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 8


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_written_is_reduced_by_each_variables_rule(compiled):
    mean, largest = StateVar(0.0), StateVar(jnp.zeros(2), reduce=lambda x: x.max(0))
    kept, count = StateVar(5.0, reduce=None), StateVar(0, reduce=reduce_first)
    vc = VarCollection({"mean": mean, "largest": largest, "kept": kept, "count": count})

    def f(x):
        mean.value, largest.value, kept.value = x.sum(), x, x[0]
        count.value += 1

    mapped = Vectorize(f, vc)
    (Jit(mapped) if compiled else mapped)(X)
    assert (float(mean), largest.value.tolist(), float(kept), int(count)) == (5.0, [4.0, 5.0], 5.0, 1)


def test_a_parameter_written_through_its_ref_is_reduced_where_the_parameter_is_listed():
    w = TrainVar(jnp.float32(0.0))
    ref = TrainRef(w)
    Vectorize(lambda x: ref.assign(w + x), VarCollection({"ref": ref, "w": w}))(jnp.array([1.0, 2.0, 6.0]))
    assert float(w) == 3.0


def test_a_constant_write_is_kept():
    s = StateVar(jnp.zeros(2))
    Vectorize(lambda x: s.assign(jnp.ones(2)), VarCollection({"s": s}))(X)
    assert s.value.tolist() == [1.0, 1.0]


def test_integers_do_not_become_means():
    f, count = Noisy(), StateVar(0)
    vc = f.vars() + {"count": count}

    def g(x):
        count.value += 1
        return f(x)

    with unchanged(vc), pytest.raises(DTypeError, match=r"(?s)'count' reduce to another dtype.*reduce_first"):
        Vectorize(g, vc)(X)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("args", "match"), [
    ((), r"does not fit batch_axis.*1, for batch_axis=\(0,\).*got      0"),
    ((X, X), r"does not fit batch_axis.*1, for batch_axis=\(0,\).*got      2"),
    ((jnp.float32(1.0),), r"argument 0 has no axis 0.*float32\[\]"),
    (([1.0, 2.0],), r"argument 0 has no axis 0.*float 1.0"),
    (({},), "no argument has an array"),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_and_nothing_is_drawn(args, match):
    f = Noisy()
    with unchanged(f.vars()), pytest.raises(StructureError, match="(?s)" + match):
        Vectorize(f)(*args)


def test_batches_of_different_sizes_are_refused_and_nothing_is_drawn():
    f = Noisy()
    with unchanged(f.vars()), pytest.raises(ValueError, match="inconsistent sizes"):
        Vectorize(lambda x, y: f(x), f.vars(), batch_axis=(0, 0))(X, X[:2])


def test_a_variable_that_is_not_listed_cannot_be_written():
    f = Noisy()
    vc = f.vars()
    listed = VarCollection({"w": f.w, "key": f.key})
    with unchanged(vc), pytest.raises(TraceMutationError, match=r"'\(Noisy\).mean' is written"):
        Vectorize(f, listed)(X)


# --- with others ------------------------------------------------------------------------------------------------------


def test_gradients_per_example():
    w = TrainVar(C)
    gradients = GradValues(lambda x: jnp.sum(w * x) ** 2, VarCollection({"w": w}))
    grads, values = Vectorize(gradients)(X)
    np.testing.assert_allclose(grads[0], 2 * (X @ C)[:, None] * X)
    np.testing.assert_allclose(values[0], (X @ C) ** 2)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deep", "pickle"])
def test_a_copy_has_its_own_variables_and_random_states(duplicate):
    f = Noisy()
    twin = duplicate(Vectorize(f))
    with unchanged(f.vars()):
        out = twin(X)
    np.testing.assert_array_equal(out, Vectorize(f)(X))
    np.testing.assert_array_equal(twin.__wrapped__.key.value, f.key.value)
