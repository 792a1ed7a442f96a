"""Losses and divergences against float64 formulas, at extreme logits, in half precision, and with wrong shapes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimkit import GradValues, TrainVar, VarCollection
from optimkit.errors import DTypeError, HyperparameterError, StructureError
from optimkit.functional import divergence, loss, one_hot

EPS = float(np.finfo(np.float32).eps)
INF = math.inf

# Rows of logits: ordinary, nearly equal but large, extreme both ways, with classes that cannot be, and all equal.
LOGITS = np.array(
    [
        [0.3, -1.2, 2.5, 0.0],
        [9999.0, 10000.0, 9998.5, 9999.5],
        [1e4, -1e4, 0.0, 1e4],
        [-1e4, -10001.0, -10002.0, -1e4],
        [-INF, 1.0, -INF, 2.0],
        [5.0, 5.0, 5.0, 5.0],
    ]
)
DTYPES = [jnp.float32, jnp.float16, jnp.bfloat16]

# In float32 a logit minus the largest is rounded once, relative to itself; the sum of 4 exponentials and its logarithm
# are off by a few eps. So is the loss: relatively where it is large, absolutely where it is below 1.
RTOL, ATOL = 4 * EPS, 12 * EPS


def log_softmax(row):
    """Return log softmax of a row, in float64, element by element."""
    largest = max(row)
    total = sum(math.exp(x - largest) for x in row)
    return [x - largest - math.log(total) for x in row]


def cross_entropy(logits, labels):
    """Return the cross entropies of rows; a class of label 0 counts nothing, whatever its logit."""
    rows = zip(np.asarray(logits, np.float64), np.asarray(labels, np.float64), strict=True)
    return np.array([-sum(y * p for y, p in zip(ys, log_softmax(xs), strict=True) if y != 0) for xs, ys in rows])


def labels_for(logits):
    """Return probabilities that are 0 where the logit is -inf."""
    weights = np.where(np.isneginf(logits), 0.0, [[1.0, 2.0, 0.0, 5.0]])
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_is_right_at_extreme_logits_in_every_precision(dtype):
    logits = jnp.asarray(LOGITS, dtype)
    labels = labels_for(LOGITS)
    got = loss.cross_entropy_logits(logits, labels)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, cross_entropy(logits, labels), RTOL, ATOL)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_cross_entropy_is_that_of_one_hot_labels(dtype):
    logits, classes = jnp.asarray(LOGITS, dtype), jnp.array([0, 2, 1, 3, 1, 0], jnp.uint8)
    got = loss.cross_entropy_logits_sparse(logits, classes)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, loss.cross_entropy_logits(logits, one_hot(classes, 4)))
    np.testing.assert_allclose(got, cross_entropy(logits, np.eye(4)[np.asarray(classes)]), RTOL, ATOL)


def test_small_losses_at_large_logits_keep_their_digits():
    # The loss is log(1 + exp(-9)) = 1.2e-4. log Σ exp(x) - x is 0 here: the numbers near 10000 are 1e-3 apart.
    got = loss.cross_entropy_logits_sparse(jnp.array([10000.0, 9991.0]), 0)
    assert float(got) == pytest.approx(math.log1p(math.exp(-9)), abs=EPS)


def test_cross_entropies_take_any_number_of_axes():
    x = np.random.default_rng(0).normal(size=(2, 1, 3, 4)).astype(np.float32)
    classes = np.array([[[0, 1, 2]], [[3, 0, 1]]])
    expected = cross_entropy(x.reshape(6, 4), np.eye(4)[classes.ravel()]).reshape(2, 1, 3)
    for got in (loss.cross_entropy_logits(x, np.eye(4)[classes]), loss.cross_entropy_logits_sparse(x, classes)):
        np.testing.assert_allclose(got, expected, RTOL, ATOL)


@pytest.mark.parametrize("integer", [2, np.int64(2)])
def test_one_integer_labels_all_places(integer):
    x = jnp.asarray(LOGITS[:3], jnp.float32)
    expected = loss.cross_entropy_logits_sparse(x, jnp.full(3, 2))
    np.testing.assert_array_equal(loss.cross_entropy_logits_sparse(x, integer), expected)


def test_the_gradient_of_cross_entropy_is_softmax_minus_labels_and_finite_everywhere():
    logits, labels = jnp.asarray(LOGITS, jnp.float32), labels_for(LOGITS)
    softmax = np.array([[math.exp(p) for p in log_softmax(row)] for row in LOGITS])
    got = jax.grad(lambda x: loss.cross_entropy_logits(x, labels).sum())(logits)
    np.testing.assert_allclose(got, softmax - labels, 0, 8 * EPS)
    classes = labels.argmax(-1)
    got = jax.grad(lambda x: loss.cross_entropy_logits_sparse(x, classes).sum())(logits)
    np.testing.assert_allclose(got, softmax - np.eye(4)[classes], 0, 8 * EPS)


def test_the_derivative_by_a_label_of_zero_is_its_negative_log_probability():
    logits = jnp.array([0.5, -2.0, 1.0])
    got = jax.grad(loss.cross_entropy_logits, argnums=1)(logits, jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(got, [-p for p in log_softmax(np.asarray(logits, np.float64))], RTOL, ATOL)


@pytest.mark.parametrize("label", [4, -1, 2**20])
def test_a_label_out_of_range_never_gives_the_loss_of_another_class(label):
    x = jnp.zeros((2, 4))
    got = loss.cross_entropy_logits_sparse(x, jnp.array([label, 1]))
    assert np.isnan(got[0]) and np.isfinite(got[1])
    with pytest.raises(StructureError, match=rf"'labels' is out of range.\n  expected an int in \[0, 4\)\n.*{label}"):
        loss.cross_entropy_logits_sparse(x, label)


def test_labels_of_small_integers_reach_all_of_many_classes():
    x = jnp.zeros((2, 1000)).at[:, 200].set(5.0)
    got = loss.cross_entropy_logits_sparse(x, jnp.array([200, 255], jnp.uint8))
    assert float(got[1] - got[0]) == pytest.approx(5.0, rel=4 * EPS)


def test_float_labels_for_sparse_cross_entropy_raise():
    with pytest.raises(DTypeError, match="'labels' must be integers"):
        loss.cross_entropy_logits_sparse(jnp.zeros((2, 4)), jnp.array([0.0, 1.0]))


@pytest.mark.parametrize(
    ("function", "first", "second"),
    [
        (loss.cross_entropy_logits, (4, 3), (1, 3)),
        (loss.cross_entropy_logits, (4, 3), (4, 1)),
        (loss.cross_entropy_logits, (4, 3), (3,)),
        (loss.sigmoid_cross_entropy_logits, (4,), (4, 1)),
        (loss.sigmoid_cross_entropy_logits, (4, 1), (4,)),
        (loss.sigmoid_cross_entropy_logits, (4, 1), ()),
        (loss.mean_absolute_error, (4,), (4, 1)),
        (loss.mean_squared_error, (4, 1), (4,)),
        (loss.mean_squared_error, (4, 1), ()),
        (loss.mean_squared_log_error, (4, 3), (3,)),
        (divergence.kl, (2, 3), (3,)),
    ],
)
def test_shapes_that_numpy_would_broadcast_raise(function, first, second):
    with pytest.raises(StructureError, match=r"Nothing is broadcast here") as error:
        function(jnp.ones(first), jnp.ones(second))
    assert f"expected {list(first)}\n  got      {list(second)}" in str(error.value)
    assert str(error.value).startswith(function.__name__)


@pytest.mark.parametrize("shape", [(4, 1), (1,), (4, 3), ()])
def test_sparse_labels_of_another_shape_raise(shape):
    with pytest.raises(StructureError, match="the shape of 'labels' does not fit the logits"):
        loss.cross_entropy_logits_sparse(jnp.zeros((4, 3)), jnp.zeros(shape, jnp.int32))


@pytest.mark.parametrize("function", [loss.cross_entropy_logits, loss.cross_entropy_logits_sparse])
def test_logits_without_classes_raise(function):
    with pytest.raises(StructureError, match="no axis of classes"):
        function(jnp.float32(1), 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_cross_entropy_is_right_at_extreme_logits_in_every_precision(dtype):
    x = jnp.asarray([-1e4, -80.0, -9.0, -1e-3, 0.0, 0.5, 20.0, 80.0, 1e4], dtype)
    for y in (0.0, 1.0, 0.25, 0.9):
        got = loss.sigmoid_cross_entropy_logits(x, jnp.full(x.shape, y, jnp.float32))
        assert got.dtype == jnp.float32
        wide, y32 = np.asarray(x, np.float64), float(np.float32(y))
        expected = y32 * np.logaddexp(0, -wide) + (1 - y32) * np.logaddexp(0, wide)
        # No term is negative, so nothing cancels: two softplus, two products, a sum, each within 2 eps.
        np.testing.assert_allclose(got, expected, 10 * EPS)
        np.testing.assert_array_equal(got, loss.sigmoid_cross_entropy_logits(x, y))


def test_the_gradient_of_sigmoid_cross_entropy_is_sigmoid_minus_label():
    x, y = jnp.array([-1e4, -3.0, 0.0, 2.0, 1e4]), jnp.array([1.0, 0.0, 0.5, 1.0, 0.0])
    got = jax.grad(lambda x: loss.sigmoid_cross_entropy_logits(x, y).sum())(x)
    expected = np.exp(-np.logaddexp(0, -np.asarray(x, np.float64))) - y
    np.testing.assert_allclose(got, expected, 0, 4 * EPS)


@given(st.lists(st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=5))
def test_sigmoid_cross_entropy_is_never_negative_and_symmetric(pairs):
    x, y = (jnp.asarray(v, jnp.float32) for v in zip(*pairs, strict=True))
    got = loss.sigmoid_cross_entropy_logits(x, y)
    assert bool((got >= 0).all())
    # 1 - (1 - y) is not exactly y: the bound is eps times the logit.
    np.testing.assert_allclose(loss.sigmoid_cross_entropy_logits(-x, 1 - y), got, 10 * EPS, EPS * 1e4)


X = np.random.default_rng(1).normal(size=(3, 2, 4)).astype(np.float32)
Y = np.random.default_rng(2).normal(size=(3, 2, 4)).astype(np.float32)
ERRORS = {
    loss.mean_absolute_error: lambda x, y: np.abs(x - y),
    loss.mean_squared_error: lambda x, y: (x - y) ** 2,
    loss.mean_squared_log_error: lambda x, y: (np.log1p(x) - np.log1p(y)) ** 2,
}


@pytest.mark.parametrize("function", ERRORS)
@pytest.mark.parametrize(
    ("keep", "axes"),
    [((0,), (1, 2)), (0, (1, 2)), ([1], (0, 2)), ((0, 2), 1), ((-1,), (0, 1)), (None, None), ([], None)],
)
def test_mean_errors_keep_the_axes_they_are_told_to(function, keep, axes):
    x, y = np.abs(X), np.abs(Y)
    elements = ERRORS[function](x.astype(np.float64), y.astype(np.float64))
    # A difference of logarithms of size up to 1.5 is off by 3 eps, so its square by 2 · 3 · 3 eps; a sum of 24 adds 24.
    np.testing.assert_allclose(function(x, y, keep_axis=keep), elements.mean(axis=axes), 24 * EPS, 20 * EPS)


def test_mean_errors_keep_the_batch_by_default():
    for function in ERRORS:
        np.testing.assert_array_equal(function(abs(X), abs(Y)), function(abs(X), abs(Y), (0,)))


@pytest.mark.parametrize("keep", [(3,), (-4,), 5])
def test_keeping_an_axis_that_is_not_there_raises(keep):
    with pytest.raises(StructureError, match="keep_axis names an axis that is not there"):
        loss.mean_squared_error(X, Y, keep)


def test_mean_errors_of_scalars_are_scalars():
    assert float(loss.mean_squared_error(3.0, 1.0)) == 4.0
    assert float(loss.mean_absolute_error(jnp.float32(3), jnp.float32(1))) == 2.0


def test_differences_of_unsigned_integers_do_not_wrap():
    x, y = jnp.array([[1, 250]], jnp.uint8), jnp.array([[3, 0]], jnp.uint8)
    assert loss.mean_absolute_error(x, y).tolist() == [126.0]
    assert loss.mean_squared_error(x, y).tolist() == [(4 + 62500) / 2]


def test_half_precision_losses_do_not_overflow():
    x, y = jnp.full((1, 2000), 60.0, jnp.float16), jnp.full((1, 2000), -200.0, jnp.float16)
    assert loss.mean_squared_error(x, y).tolist() == [67600.0]  # 260², above float16's largest, 65504
    assert float(loss.l2(y)) == 0.5 * 2000 * 40000
    assert loss.l2(y).dtype == jnp.float32


def test_l2_is_half_the_sum_of_squares_with_derivative_x():
    got, grad = jax.value_and_grad(loss.l2)(jnp.asarray(X))
    assert float(got) == pytest.approx(0.5 * (X.astype(np.float64) ** 2).sum(), rel=24 * EPS)
    np.testing.assert_array_equal(grad, X)


def test_derivatives_where_prediction_and_target_meet_are_zero():
    x = jnp.array([[0.0, 1.5]])
    for function in ERRORS:
        np.testing.assert_array_equal(jax.grad(lambda y, f=function: f(x, y).sum())(x), [[0.0, 0.0]])


def test_kl_is_the_sum_over_the_last_axis():
    p = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], np.float32)
    q = np.array([[0.2, 0.3, 0.5], [0.0, 0.5, 0.5]], np.float32)
    eps, wide_p, wide_q = 2**-17, p.astype(np.float64), q.astype(np.float64)
    expected = (wide_p * (np.log(wide_p + eps) - np.log(wide_q + eps))).sum(-1)
    # Logarithms of up to 12 in size are off by 12 eps each.
    np.testing.assert_allclose(divergence.kl(p, q), expected, 0, 3 * 24 * EPS)
    np.testing.assert_array_equal(divergence.kl(p[1], q[1]), divergence.kl(p, q)[1])
    assert divergence.kl(p, p).tolist() == [0.0, 0.0]


def test_kl_of_a_negative_eps_raises():
    with pytest.raises(HyperparameterError, match="'eps' is out of range"):
        divergence.kl(jnp.ones(2), jnp.ones(2), eps=-1.0)


@pytest.mark.parametrize("function", [loss.cross_entropy_logits, loss.mean_squared_error, divergence.kl])
def test_complex_inputs_raise(function):
    with pytest.raises(DTypeError, match="complex numbers are not supported"):
        function(jnp.ones(2, complex), jnp.ones(2, complex))


def test_losses_take_variables_and_differentiate_through_them():
    logits, labels = TrainVar(jnp.asarray(LOGITS[:2], jnp.float32)), TrainVar(jnp.asarray(labels_for(LOGITS[:2])))
    vc = VarCollection({"logits": logits})
    grads, values = GradValues(lambda: loss.cross_entropy_logits(logits, labels).mean(), vc)()
    direct = jax.value_and_grad(lambda x: loss.cross_entropy_logits(x, labels.value).mean())(logits.value)
    assert float(values[0]) == float(direct[0])
    np.testing.assert_array_equal(grads[0], direct[1])


def test_float64_inputs_are_computed_in_float64():
    with jax.enable_x64(True):
        x = jnp.asarray(LOGITS[:4], jnp.float64)
        got = loss.cross_entropy_logits(x, labels_for(LOGITS[:4]))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, cross_entropy(x, labels_for(LOGITS[:4])), 1e-14)
