"""Variables: they behave as their arrays, keep shape and dtype, and keep tracers of others out."""

from __future__ import annotations

import copy
import operator
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimkit import BaseState, BaseVar, Jit, RandomState, StateVar, TrainRef, TrainVar, VarCollection
from optimkit.core.variable import reduce_first
from optimkit.errors import DTypeError, StructureError, TraceMutationError, VariableError

A = jnp.array([1.5, -2.0, 0.5])
I = jnp.array([5, 2, 7])


def same(got, wanted):
    """Require arrays of one kind, dtype, weakness and value, or nests of such."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert type(x) is type(y)
        assert (x.dtype, x.weak_type) == (y.dtype, y.weak_type) if isinstance(x, jax.Array) else True
        np.testing.assert_array_equal(x, y)


# --- expressions ------------------------------------------------------------------------------------------------------

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
          divmod, operator.matmul, operator.lt, operator.le, operator.gt, operator.ge, operator.eq,
          operator.ne]  # fmt: skip
BITWISE = [operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift]
OTHERS = {
    "float": 2.0,
    "int": 3,
    "numpy": np.array([3.0, 1.0, 2.0], np.float32),
    "numpy_scalar": np.float32(2.0),
    "array": jnp.array([2.0, 3.0, 1.0]),
}


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.__name__)
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_a_binary_operator_is_the_arrays_on_either_side(op, other):
    if op is operator.matmul and np.ndim(other) == 0:
        other = jnp.arange(3.0)
    v = StateVar(A)
    same(op(v, other), op(A, other))
    same(op(other, v), op(other, A))
    same(op(v, TrainVar(jnp.asarray(other))), op(A, jnp.asarray(other)))


@pytest.mark.parametrize("op", BITWISE, ids=lambda op: op.__name__)
@pytest.mark.parametrize("other", [3, np.array([1, 2, 3], np.int32), jnp.array([3, 2, 1])], ids=type)
def test_a_bitwise_operator_is_the_arrays_on_either_side(op, other):
    same(op(StateVar(I), other), op(I, other))
    same(op(other, StateVar(I)), op(other, I))


@pytest.mark.parametrize("op", [operator.neg, operator.pos, abs, round, operator.invert], ids=lambda op: op.__name__)
def test_a_unary_operator_is_the_arrays(op):
    array = I if op is operator.invert else A
    same(op(StateVar(array)), op(array))


IN_PLACE = {
    "+": operator.iadd, "-": operator.isub, "*": operator.imul, "/": operator.itruediv, "//": operator.ifloordiv,
    "%": operator.imod, "**": operator.ipow, "@": operator.imatmul, "&": operator.iand, "|": operator.ior,
    "^": operator.ixor, "<<": operator.ilshift, ">>": operator.irshift,
}  # fmt: skip


@pytest.mark.parametrize(("sign", "op"), IN_PLACE.items())
@pytest.mark.parametrize("kind", [TrainVar, StateVar])
def test_an_operator_in_place_would_lose_the_variable_and_raises_with_the_fix(kind, sign, op):
    v = kind(I)
    VarCollection({"steps": v})
    with pytest.raises(VariableError, match=rf"(?s)'steps'.*{re.escape(f'v.value {sign}= x')}"):
        op(v, 2)
    same(v.value, I)


def test_a_variable_on_the_right_of_an_operator_in_place_is_its_array():
    y = A
    y += TrainVar(A)
    same(y, A + A)


def test_a_numpy_array_on_the_left_does_not_pull_a_traced_variable_out_of_its_trace():
    w = TrainVar(A)
    left = np.array([1.0, 2.0, 3.0], np.float32)
    same(Jit(lambda: left * w + left, VarCollection({"w": w}))(), left * A + left)


def test_equality_is_elementwise_and_hash_is_identity():
    v, twin = StateVar(A), StateVar(A)
    same(v == twin, jnp.array([True, True, True]))
    same(v != twin, jnp.array([False, False, False]))
    assert (v == None) is False  # noqa: E711 - what an array answers
    assert len({v, twin, v}) == 2
    before = hash(v)
    v.value = A + 1
    assert hash(v) == before


@pytest.mark.parametrize("convert", [float, int, bool, complex, operator.index], ids=lambda f: f.__name__)
def test_a_scalar_converts_to_a_python_number_as_its_array_does(convert):
    array = jnp.int32(3) if convert is operator.index else jnp.float32(3.5)
    assert convert(StateVar(array)) == convert(array)


def test_an_array_has_no_truth_value_in_a_variable_either():
    with pytest.raises(ValueError, match="truth value"):
        bool(StateVar(A))


def test_iteration_ends_and_gives_rows():
    v = StateVar(jnp.arange(6.0).reshape(3, 2))
    assert len(v) == 3
    same(list(v), list(v.value))
    first, *_ = v
    same(first, v.value[0])
    with pytest.raises(TypeError, match="0-d"):
        iter(StateVar(1.0))


@pytest.mark.parametrize("index", [0, slice(1, None), np.array([2, 0]), jnp.array([True, False, True]),
                                   StateVar(1), ...])  # fmt: skip
def test_indexing_gives_arrays(index):
    same(StateVar(A)[index], A[index.value if isinstance(index, StateVar) else index])


def test_methods_and_attributes_are_the_arrays():
    v = StateVar(jnp.arange(6.0).reshape(3, 2))
    same(v.mean(0), v.value.mean(0))
    same(v.at[0].set(9.0), v.value.at[0].set(9.0))
    same(v.T, v.value.T)
    same(v.astype(jnp.bfloat16), v.value.astype(jnp.bfloat16))
    assert (v.shape, v.ndim, v.size, v.dtype) == ((3, 2), 2, 6, jnp.float32)
    assert f"{StateVar(1.25):.1f}" == "1.2"
    with pytest.raises(AttributeError, match="no_such_thing"):
        v.no_such_thing  # noqa: B018


def test_numpy_reads_a_copy():
    v = StateVar(A)
    array = np.asarray(v, dtype=np.float64)
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, A)


SAME = [
    "abs", "all", "any", "arctan2", "argmax", "argsort", "array", "asarray", "atleast_2d", "broadcast_to", "clip",
    "concatenate", "cos", "cumsum", "diag", "dot", "einsum", "exp", "expand_dims", "full_like", "hypot", "inner",
    "isfinite", "linalg.norm", "log1p", "logaddexp", "max", "maximum", "mean", "median", "minimum", "moveaxis",
    "ones_like", "outer", "pad", "power", "prod", "ravel", "repeat", "reshape", "roll", "round", "sign", "sort",
    "sqrt", "square", "squeeze", "stack", "std", "sum", "take", "tanh", "tensordot", "tile", "transpose", "var",
    "vdot", "vstack", "where", "zeros_like",
]  # fmt: skip
ARGUMENTS = {
    **dict.fromkeys(["arctan2", "dot", "hypot", "inner", "logaddexp", "maximum", "minimum", "outer", "power", "vdot"],
                    lambda v: (v, v)),
    **dict.fromkeys(["concatenate", "stack", "vstack"], lambda v: ([v, v],)),
    "broadcast_to": lambda v: (v, (2, 3)), "clip": lambda v: (v, -1.0, v), "einsum": lambda v: ("i,i->", v, v),
    "expand_dims": lambda v: (v, 0), "full_like": lambda v: (v, 3.0), "moveaxis": lambda v: (v, 0, -1),
    "pad": lambda v: (v, 1), "repeat": lambda v: (v, 2), "reshape": lambda v: (v, (3, 1)), "roll": lambda v: (v, 1),
    "take": lambda v: (v, np.array([1, 1])), "tensordot": lambda v: (v, v, 1), "tile": lambda v: (v, 2),
    "where": lambda v: (v > 0, v, v),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_a_jnp_function_of_a_variable_is_that_of_its_array(name):
    f = operator.attrgetter(name)(jnp)
    arguments = ARGUMENTS.get(name, lambda v: (v,))
    same(f(*arguments(TrainVar(A))), f(*arguments(A)))


@pytest.mark.parametrize("f", [jax.nn.relu, jax.nn.softmax, jax.nn.gelu, jax.scipy.special.logsumexp],
                         ids=lambda f: f.__name__)  # fmt: skip
def test_functions_beside_jnp_take_variables_too(f):
    same(f(TrainVar(A)), f(A))


# --- as arguments of JAX ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TrainVar, StateVar, lambda x: TrainRef(TrainVar(x))], ids=["train", "state", "ref"])
def test_jax_transformations_take_variables_as_arguments(kind):
    v = kind(A)
    same(jax.jit(lambda x: jnp.sin(x) * 2)(v), jnp.sin(A) * 2)
    same(jax.vmap(lambda x: x**2)(v), A**2)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(x**2))(v).value, 2 * A)
    doubled = jax.tree.map(lambda x: 2 * x, [v, {"k": v}])
    assert type(doubled[0]) is type(v)
    same(doubled[1]["k"].value, 2 * A)
    same(jax.tree.leaves({"a": v}), [A])
    same(v.value, A)


def test_a_variable_in_a_collection_under_another_name_is_the_same_argument_to_jit():
    traces = []
    f = jax.jit(lambda v: traces.append(1) or v + 1)
    first, second = TrainVar(A), TrainVar(A)
    VarCollection({"one": first, "two": second})
    f(first)
    f(second)
    assert len(traces) == 1


def test_a_write_to_an_argument_inside_a_foreign_jit_raises_and_changes_nothing():
    v = StateVar(A)
    with pytest.raises(TraceMutationError, match="a copy that JAX made of an argument"):
        jax.jit(lambda x: x.assign(x * 2))(v)
    same(v.value, A)


def test_a_variable_that_tree_map_made_is_a_variable_like_any_other():
    v = jax.tree.map(lambda x: 3 * x, TrainVar(A))
    Jit(lambda: v.assign(v * 2), VarCollection({"v": v}))()
    same(v.value, 6 * A)
    v.assign(A)
    same(v.value, A)


def foreign_jit(f):
    jax.jit(lambda x: (f(x), x)[1])(1.0)


def foreign_grad(f):
    jax.grad(lambda x: (f(x), x)[1])(1.0)


def foreign_vmap(f):
    jax.vmap(lambda x: (f(x), x)[1])(jnp.ones(2))


def foreign_scan(f):
    jax.lax.scan(lambda c, x: ((f(c), c)[1], None), 1.0, None, length=2)


def foreign_cond(f):
    jax.lax.cond(jnp.bool_(True), lambda x: (f(x), x)[1], lambda x: x, 1.0)


def foreign_while(f):
    jax.lax.while_loop(lambda x: x < 2.0, lambda x: (f(x), x)[1] + 1, 1.0)


@pytest.mark.parametrize(
    "foreign", [foreign_jit, foreign_grad, foreign_vmap, foreign_scan, foreign_cond, foreign_while],
    ids=lambda f: f.__name__)  # fmt: skip
@pytest.mark.parametrize("kind", [TrainVar, StateVar])
def test_a_write_under_a_foreign_transformation_raises_with_the_name_and_stores_no_tracer(foreign, kind):
    v = kind(jnp.float32(1.0))
    VarCollection({"stat.mean": v})
    with pytest.raises(TraceMutationError, match=r"(?s)'stat.mean' is written under.*Jit\(f, model.vars"):
        foreign(lambda x: v.assign(v + x))
    same(v.value, jnp.float32(1.0))
    v.assign(2.0)
    assert float(v) == 2.0


def test_a_variable_may_be_made_and_written_inside_one_trace():
    def total(x):
        s = StateVar(jnp.zeros(()))
        s.value += x
        s.value += x
        return s.value

    assert float(jax.jit(total)(2.0)) == float(Jit(total, VarCollection())(2.0)) == 4.0


# --- writes -----------------------------------------------------------------------------------------------------------

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint8", "bool", "complex64"]


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 1), (1, 3), (2, 3), (0, 3)])
def test_a_value_of_another_shape_is_refused_even_where_it_would_broadcast(shape):
    v = StateVar(A)
    with pytest.raises(StructureError, match=r"(?s)assign: .*'StateVar'.*expected float32\[3\].*got      float32\["):
        v.value = jnp.zeros(shape)
    same(v.value, A)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own", DTYPES)
def test_a_value_of_another_dtype_is_refused_and_one_of_its_own_is_taken(own, dtype):
    v, new = StateVar(jnp.ones(2, own)), jnp.zeros(2, dtype)
    if own == dtype:
        v.value = new
        same(v.value, new)
        return
    with pytest.raises(DTypeError, match=rf"(?s)'StateVar'.*expected {own}.*got      {dtype}.*astype\('{own}'\)"):
        v.value = new
    same(v.value, jnp.ones(2, own))


@pytest.mark.parametrize(("number", "taken_by"), [
    (True, DTYPES), (3, set(DTYPES) - {"bool"}), (2.5, {"float32", "bfloat16", "float16", "complex64"}),
    (1j, {"complex64"})])  # fmt: skip
@pytest.mark.parametrize("own", DTYPES)
def test_a_python_number_takes_the_variables_dtype_if_that_keeps_its_kind(own, number, taken_by):
    v = StateVar(jnp.zeros((), own))
    if own in taken_by:
        v.value = number
        same(v.value, jnp.asarray(number, own))
        assert not v.value.weak_type
    else:
        with pytest.raises(DTypeError):
            v.value = number


@pytest.mark.parametrize("make", [StateVar, TrainVar])
@pytest.mark.parametrize("value", [1.0, jnp.asarray(1.0), jnp.float32(1.0) * 2.0, np.float32(1)],
                         ids=["python", "weak", "strong", "numpy"])  # fmt: skip
def test_no_variable_is_weakly_typed(make, value):
    v = make(value)
    assert not v.value.weak_type
    v.assign(3.0)
    assert not v.value.weak_type
    v.assign(jnp.asarray(3.0))
    assert not v.value.weak_type


def test_in_64_bits_a_variable_keeps_the_dtype_it_has():
    with jax.enable_x64(True):
        wide, narrow = StateVar(np.ones(2)), StateVar(jnp.ones(2, jnp.float32))
        assert (wide.dtype, narrow.dtype, StateVar(1.0).dtype) == (jnp.float64, jnp.float32, jnp.float64)
        narrow.value = narrow * 2.0
        wide.value = wide + narrow
        with pytest.raises(DTypeError, match=r"(?s)float32\[2\].*float64\[2\]"):
            narrow.value = narrow + wide
    assert narrow.value.tolist() == [2.0, 2.0]


def test_a_list_is_taken_as_an_array():
    v = StateVar(jnp.zeros(2, jnp.bfloat16))
    v.value = [1.0, 2.0]
    same(v.value, jnp.array([1.0, 2.0], jnp.bfloat16))


NUMPY = {
    "contiguous": lambda: np.ones((64, 64), np.float32),
    "transposed": lambda: np.arange(4096, dtype=np.float32).reshape(64, 64).T,
    "strided": lambda: np.arange(128 * 128, dtype=np.float32).reshape(128, 128)[::2, ::-2],
}


@pytest.mark.parametrize("how", ["construct", "assign"])
@pytest.mark.parametrize("array", NUMPY.values(), ids=NUMPY.keys())
def test_a_numpy_array_is_copied_in_and_never_written(array, how):
    array = array()
    wanted = array.copy()
    if how == "construct":
        v = StateVar(array)
    else:
        v = StateVar(jnp.zeros(array.shape))
        v.value = array
    array += 1  # what the caller does with it does not reach the variable ...
    np.testing.assert_array_equal(v.value, wanted)
    array.flags.writeable = False
    Jit(lambda: v.assign(v * 0), VarCollection({"v": v}), donate=True)()
    np.testing.assert_array_equal(array, wanted + 1)  # ... nor the other way round


def test_a_parameter_is_not_written_by_accident():
    w = TrainVar(A)
    with pytest.raises(VariableError, match=r"(?s)direct assignment to the parameter.*v.assign\(x\)"):
        w.value = A * 2
    same(w.value, A)


def test_a_ref_reads_and_writes_the_parameter():
    w = TrainVar(A)
    ref = TrainRef(w)
    ref.value = 2 * A
    same(w.value, 2 * A)
    w.assign(A)
    same(ref.value, A)
    with pytest.raises(StructureError):
        ref.value = jnp.zeros(4)


def test_only_a_trainvar_can_be_referred_to_and_no_variable_wraps_another():
    with pytest.raises(VariableError, match="TrainRef: only a TrainVar"):
        TrainRef(StateVar(A))
    with pytest.raises(VariableError, match=r"(?s)made from a variable.*TrainRef\(v\)"):
        StateVar(TrainVar(A))


def test_the_kinds_are_related_as_scripts_expect():
    w, s, r = TrainVar(A), StateVar(A), RandomState(0)
    ref = TrainRef(w)
    assert all(isinstance(v, BaseVar) for v in (w, s, r, ref))
    assert [isinstance(v, BaseState) for v in (w, s, r, ref)] == [False, True, True, True]
    assert [isinstance(v, TrainVar) for v in (w, s, r, ref)] == [True, False, False, False]
    assert [isinstance(v, StateVar) for v in (w, s, r, ref)] == [False, True, True, False]


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5))
def test_reduce_writes_the_mean_of_copies(values):
    v = StateVar(jnp.float32(0))
    v.reduce(jnp.array(values, jnp.float32))
    np.testing.assert_allclose(float(v), np.mean(np.float64(values)), rtol=0, atol=len(values) * 100 * 2.0**-23)


def test_reduce_follows_the_variables_own_rule_and_a_ref_has_none():
    v = StateVar(jnp.float32(0), reduce=lambda x: x.max(0))
    v.reduce(jnp.array([1.0, 5.0, 2.0]))
    assert float(v) == 5.0
    w = TrainVar(jnp.float32(1))
    TrainRef(w).reduce(jnp.array([3.0, 5.0]))
    assert float(w) == 1.0
    count = StateVar(jnp.int32(0), reduce=reduce_first)
    count.reduce(jnp.array([4, 4]))
    assert int(count) == 4


def test_a_counter_is_not_rounded_by_a_mean():
    v = StateVar(jnp.int32(0))
    VarCollection({"steps": v})
    with pytest.raises(DTypeError, match=r"(?s)reduce: .*'steps'.*reduce=variable.reduce_first"):
        v.reduce(jnp.array([1, 2]))
    assert int(v) == 0


# --- copies -----------------------------------------------------------------------------------------------------------

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("v", [TrainVar(A), StateVar(jnp.int32(3), reduce=None), StateVar(A.astype(jnp.bfloat16)),
                               RandomState(3)], ids=repr)  # fmt: skip
def test_a_copy_of_a_variable_is_an_independent_variable_of_its_kind(v, duplicate):
    twin = duplicate(v)
    assert type(twin) is type(v)
    assert twin._reduce is v._reduce
    same(twin.value, v.value)
    before = v.value
    twin.assign(twin.value * 0)
    same(v.value, before)


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
def test_a_ref_that_is_copied_with_its_parameter_refers_to_the_copy(duplicate):
    w = TrainVar(A)
    w2, ref2 = duplicate((w, TrainRef(w)))
    ref2.value = 2 * A
    same(w2.value, 2 * A)
    same(w.value, A)


# --- random state -----------------------------------------------------------------------------------------------------


def test_a_random_state_gives_fresh_keys_and_repeats_from_its_seed():
    r = RandomState(5)
    keys = [*r.split(3), *r.split(2), r.value]
    assert len({tuple(k.tolist()) for k in keys}) == 6
    assert r.split(2).shape == (2, 2)
    r.seed(5)
    same(r.value, jax.random.PRNGKey(5))
    same(r.split(3), jax.random.split(jax.random.PRNGKey(5), 4)[1:])
    same(r.value, jax.random.split(jax.random.PRNGKey(5), 4)[0])


def test_typed_keys_are_values_like_others():
    v = StateVar(jax.random.key(0))
    v.value = jax.random.split(v.value)[0]
    with pytest.raises(DTypeError):
        v.value = jnp.uint32(0)


# --- repr -------------------------------------------------------------------------------------------------------------


def test_repr_shows_kind_name_dtype_shape_and_small_values_also_when_traced():
    v = TrainVar(jnp.ones(2))
    assert repr(v) == "TrainVar(float32[2], [1., 1.])"
    VarCollection({"net.w": v})
    assert repr(v) == "TrainVar('net.w', float32[2], [1., 1.])"
    assert repr(StateVar(jnp.zeros((4, 5), jnp.bfloat16))) == "StateVar(bfloat16[4, 5])"
    seen = []
    Jit(lambda: seen.append(repr(v)), VarCollection({"net.w": v}))()
    assert seen == ["TrainVar('net.w', float32[2])"]
