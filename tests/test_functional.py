"""Activations, pooling, array operations and reductions over devices, against plain Python; and the util module."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import StateVar, TrainVar, VarCollection, functional, util
from optimkit.constants import ConvPadding
from optimkit.errors import StructureError, TraceMutationError
from optimkit.functional import parallel

EPS = float(np.finfo(np.float32).eps)
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def expm1(x):
    return math.expm1(x) if x < 700 else math.inf


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


ACTIVATIONS = {
    functional.relu: lambda x: max(x, 0),
    functional.leaky_relu: lambda x: x if x >= 0 else 0.01 * x,
    functools.partial(functional.leaky_relu, negative_slope=0.3): lambda x: x if x >= 0 else 0.3 * x,
    functional.elu: lambda x: x if x > 0 else expm1(x),
    functools.partial(functional.elu, alpha=0.5): lambda x: x if x > 0 else 0.5 * expm1(x),
    functools.partial(functional.celu, alpha=2.0): lambda x: x if x > 0 else 2 * expm1(x / 2),
    functional.selu: lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * expm1(x)),
    functional.gelu: lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    functools.partial(functional.gelu, approximate=False): lambda x: x / 2 * math.erfc(-x / math.sqrt(2)),
    functional.sigmoid: sigmoid,
    functional.log_sigmoid: lambda x: -softplus(-x),
    functional.softplus: softplus,
    functional.silu: lambda x: x * sigmoid(x),
    functional.swish: lambda x: x * sigmoid(x),
    functional.tanh: math.tanh,
}
POINTS = [-1e4, -50.0, -3.0, -1e-3, 0.0, 1e-3, 0.7, 3.0, 50.0, 1e4]


def name_of(f):
    return f.func.__name__ if isinstance(f, functools.partial) else f.__name__


@pytest.mark.parametrize("f", ACTIVATIONS, ids=name_of)
def test_activations_match_their_formulas_at_any_size(f):
    got = f(jnp.asarray(POINTS))
    expected = [ACTIVATIONS[f](float(np.float32(x))) for x in POINTS]
    # A handful of roundings of numbers no larger than the result or, where the formula cancels, than 1.
    np.testing.assert_allclose(got, expected, 16 * EPS, 4 * EPS)


@pytest.mark.parametrize("f", ACTIVATIONS, ids=name_of)
def test_activations_have_finite_derivatives_at_any_size(f):
    for x in POINTS:
        assert np.isfinite(jax.grad(f)(x)), x


ALL = [*ACTIVATIONS, functional.softmax, functional.log_softmax, functional.logsumexp]


@pytest.mark.parametrize("f", ALL, ids=name_of)
def test_activations_keep_the_dtype_and_take_variables(f):
    for dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
        x = jnp.asarray([-1.0, 0.5, 2.0], dtype)
        assert f(x).dtype == dtype
        np.testing.assert_array_equal(f(TrainVar(x)), f(x))


@pytest.mark.parametrize("f", ALL, ids=name_of)
def test_activations_can_be_pickled_and_copied(f):
    x = jnp.asarray([-1.0, 2.0])
    for other in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f)):
        np.testing.assert_array_equal(other(x), f(x))


def test_relu_has_derivative_zero_at_zero():
    assert float(jax.grad(functional.relu)(0.0)) == 0.0


def test_softmax_and_its_relatives_are_right_at_extreme_logits():
    x = np.array([[1e4, 1e4 - 1, 0.0], [-1e4, -1e4, -1e4], [3.0, -math.inf, 1.0]])
    largest = x.max(-1, keepdims=True)
    lse = largest + np.log(np.exp(x - largest).sum(-1, keepdims=True))
    np.testing.assert_allclose(functional.softmax(x), np.exp(x - lse), 0, 8 * EPS)
    np.testing.assert_allclose(functional.log_softmax(x), x - lse, 4 * EPS, 8 * EPS)
    np.testing.assert_allclose(functional.logsumexp(x, -1, keepdims=True), lse, 4 * EPS)
    np.testing.assert_allclose(functional.softmax(x.T, axis=0), np.exp(x - lse).T, 0, 8 * EPS)
    assert float(functional.logsumexp(jnp.array([-jnp.inf, -jnp.inf]))) == -math.inf


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_softmax_and_its_relatives_round_once_in_half_precision(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 200)), dtype)
    wide = np.asarray(x, np.float64)
    lse = np.log(np.exp(wide).sum(-1, keepdims=True))
    # Half a unit in the last place, and a little for the arithmetic in float32 before that.
    half_unit = float(jnp.finfo(dtype).eps) / 2 * (1 + 2**-6)
    np.testing.assert_allclose(functional.softmax(x).astype(jnp.float32), np.exp(wide - lse), half_unit)
    np.testing.assert_allclose(functional.log_softmax(x).astype(jnp.float32), wide - lse, half_unit)
    np.testing.assert_allclose(functional.logsumexp(x, -1, keepdims=True).astype(jnp.float32), lse, half_unit)


# --- pooling ------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(2, 3, 7, 6)).astype(np.float32)


def pool(x, f, size, strides, padding):
    """Pool by a loop over the windows; ``f`` gets the elements of a window that lie in the image."""
    h, w = x.shape[2:]
    pads, given_pads = [], (None, None) if isinstance(padding, str) else padding
    for n, k, s, given in zip((h, w), size, strides, given_pads, strict=True):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0) if padding == "SAME" else 0
        pads.append(given or (total // 2, total - total // 2))
    rows, columns = ((n + sum(p) - k) // s + 1 for n, p, k, s in zip((h, w), pads, size, strides, strict=True))
    out = np.zeros((*x.shape[:2], rows, columns))
    for n, c, i, j in np.ndindex(*out.shape):
        top, left = i * strides[0] - pads[0][0], j * strides[1] - pads[1][0]
        rows_in, columns_in = range(max(top, 0), min(top + size[0], h)), range(max(left, 0), min(left + size[1], w))
        out[n, c, i, j] = f([float(x[n, c, r, s]) for r, s in itertools.product(rows_in, columns_in)])
    return out


POOLS = [
    (2, None, "VALID"),
    (2, None, "SAME"),
    ((3, 2), None, "VALID"),
    ((3, 2), (2, 1), "VALID"),
    ((3, 2), (2, 3), "SAME"),
    (3, 1, 1),
    ((3, 2), 2, (1, 0)),
    ((3, 2), (1, 2), ((0, 2), (1, 0))),
]


@pytest.mark.parametrize(("size", "strides", "padding"), POOLS)
def test_pooling_is_the_loop_over_windows(size, strides, padding):
    sizes = util.to_tuple(size, 2)
    steps = sizes if strides is None else util.to_tuple(strides, 2)
    pads = util.to_padding(padding, 2)
    got = functional.max_pool_2d(X, size, strides, padding)
    np.testing.assert_array_equal(got, pool(X, max, sizes, steps, pads))
    got = functional.average_pool_2d(X, size, strides, padding)
    # Padding counts as zeros. A window has at most 9 elements: 9 additions and a division of numbers below max |x|.
    expected = pool(X, lambda window: sum(window) / math.prod(sizes), sizes, steps, pads)
    np.testing.assert_allclose(got, expected, 0, 10 * EPS * abs(X).max())


def test_padding_has_a_name_or_is_a_constant():
    for padding in ("SAME", "same", ConvPadding.SAME):
        np.testing.assert_array_equal(functional.max_pool_2d(X, 3, 2, padding), functional.max_pool_2d(X, 3, 2, "SAME"))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_pooling_keeps_the_dtype_and_rounds_once(dtype):
    x = jnp.asarray(X, dtype)
    got = functional.average_pool_2d(x, 3)
    wide = functional.average_pool_2d(x.astype(jnp.float32), 3)
    assert got.dtype == dtype and functional.max_pool_2d(x).dtype == dtype
    np.testing.assert_array_equal(got, wide.astype(dtype))


def test_pooling_takes_integers_and_booleans():
    x = jnp.arange(-8, 8).reshape(1, 1, 4, 4)
    assert functional.max_pool_2d(x, 2, padding="SAME")[0, 0].tolist() == [[-3, -1], [5, 7]]
    assert functional.max_pool_2d(x, 3, 1, 1).dtype == jnp.int32
    assert functional.average_pool_2d(x)[0, 0].tolist() == [[-5.5, -3.5], [2.5, 4.5]]
    assert functional.max_pool_2d(x > 5)[0, 0].tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_derivatives_of_pooling_go_where_the_output_came_from(dtype):
    x = jnp.asarray([[[[1.0, 3.0], [2.0, 0.0]]]], dtype)
    got = jax.grad(lambda x: functional.max_pool_2d(x).astype(jnp.float32).sum())(x)
    assert got.ravel().tolist() == [0, 1, 0, 0]
    got = jax.grad(lambda x: functional.average_pool_2d(x).astype(jnp.float32).sum())(x)
    assert got.ravel().tolist() == [0.25] * 4


@pytest.mark.parametrize("f", [functional.max_pool_2d, functional.average_pool_2d])
@pytest.mark.parametrize(
    ("shape", "arguments", "problem"),
    [
        ((3, 7, 6), {}, "not a batch of images"),
        ((2, 3, 7, 1), {}, r"the window is larger than the images.\n  expected at most \[7, 1\]"),
        ((2, 3, 7, 6), {"size": 9, "padding": ((0, 1), (2, 2))}, r"at most \[8, 10\]"),
        ((2, 3, 7, 6), {"size": 0}, "'size' does not fit"),
        ((2, 3, 7, 6), {"strides": (1, 2, 3)}, "'strides' does not fit"),
        ((2, 3, 7, 6), {"strides": 0}, "'strides' does not fit"),
        ((2, 3, 7, 6), {"padding": -1}, "the padding does not fit"),
        ((2, 3, 7, 6), {"padding": "FULL"}, "the padding does not fit"),
    ],
)
def test_pooling_of_what_does_not_fit_raises(f, shape, arguments, problem):
    with pytest.raises(StructureError, match=problem) as error:
        f(jnp.zeros(shape), **arguments)
    assert str(error.value).startswith(f"{f.__name__}: ")


def test_max_pooling_of_windows_that_are_padding_alone_raises():
    with pytest.raises(StructureError, match="padding alone"):
        functional.max_pool_2d(X, 2, padding=2)


# --- array operations ---------------------------------------------------------------------------------------------


def test_operations_of_jax_lax_take_variables():
    v = TrainVar(jnp.array([4.0, 1.0, 16.0]))
    np.testing.assert_array_equal(functional.rsqrt(v), [0.5, 1.0, 0.25])
    assert [x.tolist() for x in functional.top_k(v, 2)] == [[16.0, 4.0], [2, 0]]
    assert functional.dynamic_slice(v, (StateVar(jnp.int32(0)),), (2,)).tolist() == [4.0, 1.0]
    assert functional.pad(v, (1, 0), constant_values=7.0).tolist() == [7.0, 4.0, 1.0, 16.0]
    assert functional.one_hot(StateVar(jnp.array([2, 0])), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert functional.flatten(TrainVar(jnp.zeros((2, 3, 4)))).shape == (2, 12)
    carry, ys = functional.scan(lambda c, x: (c + x, c * x), StateVar(jnp.float32(1)), v)
    assert float(carry) == 22.0 and ys.tolist() == [4.0, 5.0, 96.0]


def test_stop_gradient_of_a_tree_with_variables_is_a_tree_of_arrays():
    v = TrainVar(jnp.array([1.0, 2.0]))
    got = functional.stop_gradient({"v": v, "x": [jnp.float32(3)]})
    assert isinstance(got["v"], jax.Array) and got["v"].tolist() == [1.0, 2.0]
    assert float(jax.grad(lambda x: x * functional.stop_gradient({"x": x})["x"])(3.0)) == 3.0


def test_flatten_takes_empty_batches_and_refuses_scalars():
    assert functional.flatten(jnp.zeros((0, 3, 4))).shape == (0, 12)
    assert functional.flatten(jnp.zeros(5)).shape == (5, 1)
    with pytest.raises(StructureError, match="no batch axis"):
        functional.flatten(jnp.float32(1))


def test_a_scan_that_writes_a_variable_raises():
    total = StateVar(jnp.float32(0))
    with pytest.raises(TraceMutationError):
        functional.scan(lambda c, x: (c, total.assign(total + x)), 0.0, jnp.ones(3))
    assert float(total) == 0.0


# --- reductions over devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "expected"), [(parallel.pmean, 3.0), (parallel.psum, 9.0), (parallel.pmax, 6.0), (parallel.pmin, 1.0)]
)
def test_reductions_take_lists_dicts_and_variables(f, expected):
    x = jnp.array([1.0, 2.0, 6.0])
    first, second = jax.vmap(lambda x: f([x, {"v": x}]), axis_name="device")(x)
    assert first.tolist() == second["v"].tolist() == [expected] * 3
    other = jax.vmap(lambda x: f(x, axis_name="batch"), axis_name="batch")(x)
    assert other.tolist() == [expected] * 3
    shared = TrainVar(jnp.float32(2.0))
    total = jax.vmap(lambda x: x + f(shared), axis_name="device")(x)
    assert total.tolist() == (x + (6.0 if f is parallel.psum else 2.0)).tolist()


def test_a_reduction_outside_of_its_axis_raises_and_says_how_to_map():
    with pytest.raises(StructureError, match="nothing is mapped over an axis called 'device'") as error:
        parallel.pmean(jnp.ones(2))
    assert str(error.value).startswith("parallel.pmean: ") and "jax.vmap(f, axis_name='device')" in str(error.value)


def test_partial_is_there_as_in_objax():
    assert parallel.partial(max, 3)(5) == 5


# --- util ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [1.5, None, (1, 2, 3), ((1, 2), (3,)), (-1, 0), "", [(0, 1)] * 3, ((0, -1), 1)])
def test_paddings_that_do_not_fit_raise(padding):
    with pytest.raises(StructureError, match="the padding does not fit"):
        util.to_padding(padding, 2)


@pytest.mark.parametrize("v", [0, -1, 1.5, (1,), (1, 2, 3), (1, 0), "ab", None])
def test_sizes_that_do_not_fit_raise(v):
    with pytest.raises(StructureError, match="'v' does not fit"):
        util.to_tuple(v, 2)


def test_sizes_may_be_numpy_integers():
    assert util.to_tuple(np.int64(3), 2) == (3, 3) and util.to_tuple(np.array([3, 5]), 2) == (3, 5)
    assert util.to_padding(np.int32(1), 2) == ((1, 1), (1, 1))


def test_easy_dict_is_a_dict_with_attributes_that_copies_pickles_and_compiles():
    d = util.EasyDict(a=1, b={"c": 2})
    d.e = 3
    assert d["e"] == 3 and d.a == 1 and "e" in d
    del d.e
    assert d == {"a": 1, "b": {"c": 2}}
    for other in (copy.copy(d), copy.deepcopy(d), pickle.loads(pickle.dumps(d)), jax.jit(lambda x: x)(d)):
        assert type(other) is util.EasyDict and other.a == 1 and other.b["c"] == 2
    for missing in (lambda: d.nothing, lambda: delattr(d, "nothing")):
        with pytest.raises(AttributeError, match="'EasyDict' object has no attribute 'nothing'"):
            missing()


def test_ilog2_is_exact_at_powers_of_two():
    assert [util.ilog2(n) for n in (1, 2, 3, 4, 2**80, 2**80 + 1)] == [0, 1, 2, 2, 80, 81]
    assert [util.ilog2(x) for x in (0.25, 0.3, 1.5, 2.0**60)] == [-2, -1, 1, 60]
    for bad in (0, -1.0, math.nan, math.inf):
        with pytest.raises(StructureError, match="there is no logarithm"):
            util.ilog2(bad)


def test_the_renamer_is_found_in_util():
    renamer = util.Renamer({"a": "b"})
    assert renamer("cat") == "cbt"
    assert list(VarCollection({"a": StateVar(1.0)}).rename(renamer).keys()) == ["b"]


def test_every_public_function_has_a_docstring_and_type_hints():
    modules = [functional, functional.loss, functional.divergence, functional.parallel, util]
    functions = [f for m in modules for name, f in vars(m).items() if inspect.isfunction(f) and name[0] != "_"]
    assert len(functions) > 35
    for f in functions:
        signature = inspect.signature(f)
        assert f.__doc__ and signature.return_annotation is not inspect.Signature.empty, f
        assert all(p.annotation is not p.empty for p in signature.parameters.values()), f
