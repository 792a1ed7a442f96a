"""Layers against float64 NumPy loops: linear, convolution, embedding, dropout, averages; and what they refuse."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import GradValues, Jit, TrainVar, VarCollection, Vectorize, nn
from optimkit.constants import ConvPadding
from optimkit.core import Generator
from optimkit.core.random import DEFAULT_GENERATOR
from optimkit.errors import (
    ConstantVariableWarning,
    DTypeError,
    HyperparameterError,
    StructureError,
    TraceMutationError,
)

EPS = float(np.finfo(np.float32).eps)
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def without_warnings(f, *args):
    """Call a function past the warning that a variable is read but not listed, as a script does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantVariableWarning)
        return f(*args)


def from_numpy(w):
    """Return an initializer that gives this array, whatever the shape."""
    return lambda shape: jnp.asarray(w)


# --- linear -------------------------------------------------------------------------------------------------------


def test_linear_is_a_matrix_product_over_the_last_axis():
    w, b, x = normal(5, 3), normal(3), normal(2, 4, 5)
    layer = nn.Linear(5, 3, w_init=from_numpy(w))
    layer.b.assign(b)
    expected, size = np.zeros((2, 4, 3)), np.zeros((2, 4, 3))
    for i, j, o in np.ndindex(2, 4, 3):
        terms = [float(x[i, j, k]) * float(w[k, o]) for k in range(5)] + [float(b[o])]
        expected[i, j, o], size[i, j, o] = sum(terms), sum(map(abs, terms))
    assert np.all(np.abs(layer(x) - expected) <= 7 * EPS * size)  # 5 products and 6 sums, in any order
    assert np.all(np.abs(layer(x[0, 0]) - expected[0, 0]) <= 7 * EPS * size[0, 0])
    assert nn.Linear(5, 3, use_bias=False).b is None


def test_gradients_of_linear_are_those_by_hand():
    layer, x, g = nn.Linear(4, 2), normal(3, 4), normal(3, 2)
    grads, _ = GradValues(lambda: (layer(x) * g).sum(), layer.vars())()
    np.testing.assert_allclose(grads[0], g.sum(0), 4 * EPS, 4 * EPS)  # b
    np.testing.assert_allclose(grads[1], x.T.astype(np.float64) @ g, 8 * EPS, 16 * EPS)  # w


def test_a_bias_has_the_dtype_of_its_weights():
    for layer in (
        nn.Linear(4, 2, w_init=lambda s: jnp.ones(s, jnp.bfloat16)),
        nn.Conv2D(4, 2, 1, w_init=lambda s: jnp.ones(s, jnp.bfloat16)),
    ):
        assert layer.b.dtype == layer.w.dtype == jnp.bfloat16
    x = jnp.ones((1, 4, 2, 2), jnp.bfloat16)
    assert layer(x).dtype == jnp.bfloat16
    assert layer(x.astype(jnp.float32)).dtype == jnp.float32
    assert layer(x.astype(jnp.uint8)).dtype == jnp.bfloat16


def test_layers_made_from_one_array_do_not_share_it():
    w = jnp.ones((2, 2))
    first, second = (nn.Linear(2, 2, w_init=from_numpy(w)) for _ in range(2))
    pointers = {a.unsafe_buffer_pointer() for a in (w, first.w.value, second.w.value)}
    assert len(pointers) == 3


# --- convolution --------------------------------------------------------------------------------------------------

CONVOLUTIONS = [
    {"k": 3},
    {"k": 3, "padding": "VALID"},
    {"k": (3, 2), "strides": (2, 1)},
    {"k": (2, 3), "strides": 2, "padding": ConvPadding.VALID},
    {"k": 2, "dilations": (2, 1), "padding": "valid"},
    {"k": (2, 3), "dilations": (1, 2)},
    {"k": 3, "groups": 2},
    {"k": 3, "groups": 4, "nout": 8, "use_bias": False},
    {"k": 1, "strides": 3},
    {"k": 3, "padding": 1},
    {"k": 3, "padding": (0, 2), "strides": 2},
    {"k": 3, "padding": ((2, 0), (1, 3))},
]


def convolve(layer, x, strides, dilations, groups, padding):
    """Convolve by loops, in float64; return also the sum of the sizes of the terms of each output."""
    w = np.asarray(layer.w.value, np.float64)
    kh, kw, cin, nout = w.shape
    pads = []
    for n, k, s, d, pad in zip(x.shape[2:], (kh, kw), strides, dilations, padding, strict=True):
        reach = (k - 1) * d + 1
        total = max((math.ceil(n / s) - 1) * s + reach - n, 0)
        pads.append({"SAME": (total // 2, total - total // 2), "VALID": (0, 0)}.get(pad, pad))
    rows, columns = (
        (n + sum(p) - ((k - 1) * d + 1)) // s + 1
        for n, p, k, s, d in zip(x.shape[2:], pads, (kh, kw), strides, dilations, strict=True)
    )
    out, size = np.zeros((x.shape[0], nout, rows, columns)), np.zeros((x.shape[0], nout, rows, columns))
    for n, o, i, j in np.ndindex(*out.shape):
        first = o // (nout // groups) * cin
        for r, s, c in np.ndindex(kh, kw, cin):
            row = i * strides[0] + r * dilations[0] - pads[0][0]
            column = j * strides[1] + s * dilations[1] - pads[1][0]
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                term = w[r, s, c, o] * float(x[n, first + c, row, column])
                out[n, o, i, j] += term
                size[n, o, i, j] += abs(term)
        bias = 0.0 if layer.b is None else float(layer.b.value[o, 0, 0])
        out[n, o, i, j] += bias
        size[n, o, i, j] += abs(bias)
    return out, size


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolution_is_the_loop_over_its_definition(options):
    options = {"nout": 6, **options}
    layer, x = nn.Conv2D(4, **options, w_init=normal_init), normal(2, 4, 5, 6)
    if layer.b is not None:
        layer.b.assign(normal(*layer.b.shape))
    pairs = layer.padding if isinstance(layer.padding, tuple) else (layer.padding, layer.padding)
    expected, size = convolve(layer, x, layer.strides, layer.dilations, layer.groups, pairs)
    got = layer(x)
    assert got.shape == expected.shape
    terms = math.prod(layer.w.shape[:3]) + 1
    assert np.all(np.abs(got - expected) <= (terms + 2) * EPS * size)


def normal_init(shape):
    return jnp.asarray(normal(*shape))


def test_a_convolution_of_one_pixel_is_a_linear_layer():
    x, conv = normal(2, 3, 4, 5), nn.Conv2D(3, 7, 1)
    linear = nn.Linear(3, 7, w_init=from_numpy(conv.w.value[0, 0]))
    np.testing.assert_allclose(conv(x).transpose(0, 2, 3, 1), linear(x.transpose(0, 2, 3, 1)), 0, 16 * EPS)


# --- embedding ----------------------------------------------------------------------------------------------------


def test_embedding_looks_up_rows_and_sends_gradients_to_them():
    layer, indices = nn.Embedding(5, 3), np.array([[0, 4], [4, 2]], np.uint8)
    np.testing.assert_array_equal(layer(indices), np.asarray(layer.w.value)[indices])
    np.testing.assert_array_equal(layer(4), layer.w.value[4])
    (grad,), _ = GradValues(lambda: layer(indices).sum(), layer.vars())()
    np.testing.assert_array_equal(grad, np.array([1, 0, 1, 0, 2.0])[:, None] * np.ones(3))


def test_an_index_out_of_range_never_gives_another_row():
    layer = nn.Embedding(5, 3)
    got = layer(jnp.array([5, -1, 4]))
    assert np.isnan(got[:2]).all() and np.isfinite(got[2]).all()
    with pytest.raises(StructureError, match=r"Embedding\(nin=5, nout=3\)\(indices\): 'indices' is out of range"):
        layer(5)
    with pytest.raises(DTypeError, match="'indices' must be integers"):
        layer(jnp.array([1.0]))


def test_embedded_vectors_have_length_one_in_the_mean_square():
    w = np.asarray(nn.Embedding(1000, 50).w.value)
    # Squared lengths have mean 1 and variance 2 / 50, and 1000 of them are averaged.
    assert (w**2).sum(1).mean() == pytest.approx(1, abs=5 * math.sqrt(2 / 50 / 1000))


# --- dropout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1])
def test_dropout_keeps_its_share_and_divides_it_by_keep(dtype, keep):
    x = jnp.asarray(normal(50, 80), dtype) + 10
    y = nn.Dropout(keep, Generator(1))(x, training=True)
    assert y.dtype == dtype and y.shape == x.shape
    kept = np.asarray(y != 0)
    np.testing.assert_array_equal(y[kept], (x.astype(jnp.float32) / keep).astype(dtype)[kept])
    assert abs(kept.mean() - keep) <= 5 * math.sqrt(keep * (1 - keep) / x.size)


def test_dropout_does_nothing_in_evaluation_nor_when_it_keeps_all():
    x, generator = jnp.asarray(normal(3, 4)), Generator(1)
    before = generator.key.value
    np.testing.assert_array_equal(nn.Dropout(0.5, generator)(x, training=False), x)
    np.testing.assert_array_equal(nn.Dropout(1.0, generator)(x, training=True), x)
    np.testing.assert_array_equal(generator.key.value, before)


@pytest.mark.parametrize("zero", [0, 0.0, np.float32(0), jnp.float32(0)])
def test_dropout_that_keeps_nothing_gives_zeros_also_of_nan_and_infinity(zero):
    x = jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf])
    assert nn.Dropout(0.5, Generator(1))(x, training=True, dropout_keep=zero).tolist() == [0.0] * 4
    assert nn.Dropout(float(zero), Generator(1))(x, training=True).tolist() == [0.0] * 4
    grad = jax.grad(lambda x: nn.Dropout(0.5, Generator(1))(x, True, zero).sum())(jnp.ones(4))
    assert grad.tolist() == [0.0] * 4


def test_dropout_keep_takes_the_place_of_keep_and_may_be_traced():
    layer, x = nn.Dropout(0.5, Generator(1)), jnp.ones(2000)
    step = Jit(lambda keep: layer(x, True, dropout_keep=keep), layer.vars())
    for keep in (0.9, 0.2, 0.0, 1.0):
        y = step(keep)
        assert abs(float((y != 0).mean()) - keep) <= 5 * math.sqrt(keep * (1 - keep) / x.size)
        np.testing.assert_allclose(y[y != 0], 1 / keep if keep else 0, 2 * EPS)


def test_a_compiled_dropout_draws_a_new_mask_on_each_call():
    layer, x = nn.Dropout(0.5), jnp.ones(100)
    step = Jit(lambda: layer(x, training=True), layer.vars())
    masks = [tuple((step() != 0).tolist()) for _ in range(3)]
    assert len(set(masks)) == 3


def test_a_compiled_dropout_whose_generator_is_not_listed_raises():
    model = nn.Sequential([nn.Linear(4, 4), nn.Dropout(0.5)])
    before = np.asarray(DEFAULT_GENERATOR.key.value)
    step = Jit(lambda x: model(x, training=True), model.vars().subset(TrainVar))
    with pytest.raises(TraceMutationError, match=r"\(Generator\)._key"):
        without_warnings(step, jnp.ones((2, 4)))
    np.testing.assert_array_equal(DEFAULT_GENERATOR.key.value, before)
    evaluate = Jit(lambda x: model(x, training=False), model.vars().subset(TrainVar))
    np.testing.assert_allclose(evaluate(jnp.ones((2, 4))), model(jnp.ones((2, 4)), training=False), 0, 16 * EPS)


def test_elements_of_a_batch_get_masks_of_their_own():
    layer = nn.Dropout(0.5, Generator(0))
    y = Vectorize(lambda x: layer(x, training=True), layer.vars())(jnp.ones((2, 100)))
    assert not np.array_equal(y[0], y[1])


def test_a_copied_dropout_has_a_generator_of_its_own():
    layer, x = nn.Dropout(0.5, Generator(3)), jnp.ones(100)
    layer(x, training=True)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.keygen is not layer.keygen
        before = np.asarray(layer.keygen.key.value)
        other(x, training=True)
        np.testing.assert_array_equal(layer.keygen.key.value, before)


@pytest.mark.parametrize("keep", [-0.1, 1.1, math.nan, "0.5", True])
def test_a_keep_that_is_no_probability_raises(keep):
    with pytest.raises(HyperparameterError, match=r"Dropout: .*'keep' is out of range.\n  expected \[0, 1\]"):
        nn.Dropout(keep)
    with pytest.raises(HyperparameterError, match="'dropout_keep' is out of range"):
        nn.Dropout(0.5, Generator(0))(jnp.ones(2), training=True, dropout_keep=keep)


# --- averages -----------------------------------------------------------------------------------------------------


def test_moving_average_is_the_mean_of_the_last_inputs():
    layer, xs = nn.MovingAverage((2,), buffer_size=3, init_value=1), normal(7, 2)
    padded = np.concatenate([np.ones((3, 2)), xs.astype(np.float64)])
    for i, x in enumerate(xs):
        np.testing.assert_allclose(layer(x), padded[i + 1 : i + 4].mean(0), 4 * EPS, 4 * EPS)
    np.testing.assert_array_equal(layer.buffer.value, xs[-3:])


def test_exponential_moving_average_follows_its_formula():
    layer, xs, avg = nn.ExponentialMovingAverage((2,), momentum=0.9, init_value=0.5), normal(20, 2), np.full(2, 0.5)
    for i, x in enumerate(xs):
        avg = 0.9 * avg + (1 - 0.9) * x.astype(np.float64)
        np.testing.assert_allclose(layer(x), avg, 0, 4 * (i + 1) * EPS)


def test_averages_are_float32_of_inputs_in_any_precision():
    x = jnp.asarray([1.0, 3.0], jnp.bfloat16)
    assert nn.MovingAverage((2,), 4)(x).tolist() == [0.25, 0.75]
    average = nn.ExponentialMovingAverage((2,), momentum=0.999)
    for _ in range(10):
        y = average(x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, np.array([1.0, 3.0]) * (1 - 0.999**10), 40 * EPS)


@pytest.mark.parametrize("layer", [nn.MovingAverage((2,), 3), nn.ExponentialMovingAverage((2,))])
def test_an_input_that_would_broadcast_into_an_average_raises(layer):
    for x in (jnp.ones(()), jnp.ones(1), jnp.ones((3, 2))):
        with pytest.raises(StructureError, match="the shape of 'x' does not fit the layer"):
            layer(x)


# --- what layers refuse -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "problem"),
    [
        (nn.Linear(3, 2), (4, 5), r"Linear\(nin=3, nout=2, use_bias=True\)\(x\): the last axis"),
        (nn.Linear(3, 2), (), r"expected \[..., 3\]\n  got      \[\]"),
        (nn.Conv2D(3, 2, 3), (4, 5, 8, 8), r"Conv2D\(.*\)\(x\): .*\n.*\[N, 3, H, W\]\n  got      \[4, 5, 8, 8\]"),
        (nn.Conv2D(4, 2, 3, groups=2), (4, 2, 8, 8), r"expected \[N, 4, H, W\]"),
        (nn.Conv2D(3, 2, 3), (3, 8, 8), r"One image: x\[None\]"),
        (nn.Conv2D(3, 2, 3, padding="VALID"), (1, 3, 2, 8), "the window is larger than the images"),
        (nn.Conv2D(3, 2, 3, dilations=2, padding=1), (1, 3, 2, 8), r"at most \[4, 10\].*\n  got      \[5, 5\]"),
    ],
)
def test_inputs_that_do_not_fit_raise(layer, shape, problem):
    with pytest.raises(StructureError, match=problem):
        layer(jnp.zeros(shape))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: nn.Linear(0, 2), "nin"),
        (lambda: nn.Linear(2, 2.0), "nout"),
        (lambda: nn.Conv2D(-1, 2, 3), "nin"),
        (lambda: nn.Conv2D(1, 0, 3), "nout"),
        (lambda: nn.Conv2D(4, 4, 3, groups=3), "groups"),
        (lambda: nn.Conv2D(4, 6, 3, groups=4), "groups"),
        (lambda: nn.Embedding(0, 3), "nin"),
        (lambda: nn.Embedding(3, 0), "nout"),
        (lambda: nn.MovingAverage((2,), 0), "buffer_size"),
        (lambda: nn.MovingAverage((2,), 1, init_value=math.nan), "init_value"),
        (lambda: nn.ExponentialMovingAverage((2,), 1.0), "momentum"),
        (lambda: nn.ExponentialMovingAverage((2,), -0.1), "momentum"),
    ],
)
def test_numbers_out_of_range_raise_with_their_name(make, name):
    with pytest.raises(HyperparameterError, match=f"'{name}'"):
        make()


@pytest.mark.parametrize(
    ("options", "name"), [({"k": 0}, "'k'"), ({"k": (3, 3, 3)}, "'k'"), ({"k": 3, "strides": 0}, "'strides'"),
                          ({"k": 3, "dilations": (1,)}, "'dilations'"), ({"k": 3, "padding": "full"}, "padding")],
)  # fmt: skip
def test_sizes_of_a_convolution_that_do_not_fit_raise(options, name):
    with pytest.raises(StructureError, match=f"Conv2D: .*{name}"):
        nn.Conv2D(1, 1, **options)


@pytest.mark.parametrize("w", [np.ones((3, 2)), np.ones((2, 3), int), 1.0])
def test_an_initializer_that_gives_something_else_raises(w):
    with pytest.raises(StructureError, match=r"'w_init' returned does not fit.\n  expected floats of shape \[2, 3\]"):
        nn.Linear(2, 3, w_init=from_numpy(w))


def test_a_layer_made_inside_a_trace_raises_instead_of_keeping_tracers():
    with pytest.raises(TraceMutationError):
        without_warnings(Jit(lambda: nn.Linear(2, 2)(jnp.ones((1, 2))), VarCollection()))
