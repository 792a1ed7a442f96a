"""Initializers: their moments on big draws, their range, orthogonality, and shapes that have no fans."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit
from optimkit.core import Generator
from optimkit.errors import HyperparameterError, StructureError
from optimkit.nn import init

EPS = float(np.finfo(np.float32).eps)


def check_moments(x, stddev, mean=0.0):
    """Compare sample mean and standard deviation with 5 times their own standard deviations, σ/√n and at most σ/√(2n).

    The second bound is that of the normal; what is cut off on both sides has lighter tails, so varies less.
    """
    x = np.asarray(x, np.float64).ravel()
    assert abs(x.mean() - mean) <= 5 * stddev / math.sqrt(x.size)
    assert abs(x.std() - stddev) <= 5 * stddev / math.sqrt(2 * x.size)


# shape: (fan_in, fan_out), by counting the terms of an output and of an input's gradient
FANS = {(200, 300): (200, 300), (3, 5, 40, 80): (600, 1200), (2, 2, 1, 4, 1000): (16, 4000), (2, 100, 60): (200, 120)}


@pytest.mark.parametrize("gain", [1, 2.5])
@pytest.mark.parametrize("shape", FANS)
def test_initializers_have_the_stddev_of_their_papers(shape, gain):
    fan_in, fan_out = FANS[shape]
    he, glorot = gain / math.sqrt(fan_in), gain * math.sqrt(2 / (fan_in + fan_out))
    assert init.kaiming_normal_gain(shape) * gain == pytest.approx(he, rel=1e-15)
    assert init.xavier_normal_gain(shape) * gain == pytest.approx(glorot, rel=1e-15)
    for f, stddev in (
        (init.kaiming_normal, he),
        (init.kaiming_truncated_normal, he),
        (init.xavier_normal, glorot),
        (init.xavier_truncated_normal, glorot),
    ):
        x = f(shape, gain=gain, generator=Generator(7))
        assert x.shape == shape and x.dtype == jnp.float32
        check_moments(x, stddev)


def test_xavier_agrees_with_jax_on_the_fans_of_a_convolution():
    shape = (3, 3, 16, 64)
    theirs = jax.nn.initializers.glorot_normal()(jax.random.key(0), shape)
    check_moments(theirs, init.xavier_normal_gain(shape))


@pytest.mark.parametrize(("lower", "upper"), [(-2, 2), (-100, 100), (-0.1, 0.1), (-1, math.inf), (-1, 3), (2, 3)])
def test_truncated_normals_have_their_stddev_after_the_cut(lower, upper):
    # Moments of the density exp(-x²/2) between the ends, by the midpoint rule on 400,000 points.
    low, high = max(lower, -10), min(upper, 10)
    points = low + (np.arange(400_000) + 0.5) * (high - low) / 400_000
    weights = np.exp(-(points**2) / 2)
    mean = np.average(points, weights=weights)
    stddev = math.sqrt(np.average((points - mean) ** 2, weights=weights))
    x = np.asarray(init.truncated_normal((300, 200), lower, upper, stddev=0.5, generator=Generator(3)), np.float64)
    check_moments(x, 0.5, mean=0.5 * mean / stddev)
    assert x.min() >= 0.5 * lower / stddev * (1 + 4 * EPS * np.sign(lower))
    assert x.max() <= 0.5 * upper / stddev * (1 + 4 * EPS)


@pytest.mark.parametrize(("lower", "upper"), [(2, -2), (1, 1), (6, 7), (math.nan, 1)])
def test_truncations_that_leave_nothing_raise(lower, upper):
    with pytest.raises(HyperparameterError, match="truncated_normal"):
        init.truncated_normal((2, 2), lower, upper)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (3, 3, 4, 8), (2, 2, 2, 32), (7,)])
@pytest.mark.parametrize("axis", [-1, 0])
def test_orthogonal_arrays_are_orthonormal_on_the_short_side(shape, axis):
    x = np.moveaxis(np.asarray(init.orthogonal(shape, gain=2, axis=axis, generator=Generator(1)), np.float64), axis, 0)
    rows = x.reshape(shape[axis], -1) / 2
    product = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    # Householder's Q is orthogonal to a small multiple of (columns · eps).
    np.testing.assert_allclose(product, np.eye(len(product)), 0, 4 * max(rows.shape) * EPS)


def test_orthogonal_matrices_are_uniform_also_in_sign():
    # Householder's Q alone has one sign, that of LAPACK's convention: 1 x 1 matrices would all be equal.
    generator = Generator(0)
    signs = [float(init.orthogonal((1, 1), generator=generator)[0, 0]) for _ in range(100)]
    assert set(signs) == {-1.0, 1.0}
    assert abs(sum(signs)) <= 5 * math.sqrt(100)


def test_identity_has_gain_on_the_diagonal():
    for shape in ((3, 3), (2, 4), (4, 2)):
        np.testing.assert_array_equal(init.identity(shape, gain=1.5), 1.5 * np.eye(*shape, dtype=np.float32))


@pytest.mark.parametrize(("slope", "gain"), [(0.0, math.sqrt(2)), (0.1, 1.4071950894605838), (1.0, 1.0)])
def test_gain_of_leaky_relu_is_that_of_he(slope, gain):
    assert init.gain_leaky_relu(slope) == pytest.approx(gain, rel=1e-15)
    assert init.gain_leaky_relu() == init.gain_leaky_relu(0.1)


def test_kaiming_with_the_gain_of_relu_keeps_the_second_moment():
    x = np.maximum(np.random.default_rng(0).normal(size=(400, 500)), 0)
    w = np.asarray(init.kaiming_normal((500, 600), init.gain_leaky_relu(0.0), generator=Generator(0)), np.float64)
    y = np.maximum(x @ w, 0)
    # 600 outputs are draws of one distribution, with a fourth moment below 10 times the squared second: √(10 / 600).
    assert np.mean(y**2) / np.mean(x**2) == pytest.approx(1, rel=3 * math.sqrt(10 / 600))


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (3, -1), (2, 0, 3)])
@pytest.mark.parametrize("f", [init.kaiming_normal, init.xavier_normal, init.kaiming_truncated_normal])
def test_shapes_without_fans_raise(f, shape):
    with pytest.raises(StructureError, match="no inputs and outputs to count"):
        f(shape)


def test_shapes_that_are_no_matrices_raise():
    for shape in ((3,), (2, 2, 2)):
        with pytest.raises(StructureError, match="not that of a matrix"):
            init.identity(shape)
    for shape, axis in (((), 0), ((2, 2), 2), ((2, 0), 0)):
        with pytest.raises(StructureError, match="orthogonal"):
            init.orthogonal(shape, axis=axis)


def test_initializers_draw_from_their_generator_and_work_in_jit():
    first, second, again = Generator(5), Generator(6), Generator(5)
    for f in (init.kaiming_normal, init.xavier_truncated_normal, init.orthogonal):
        x = f((4, 3), generator=first)
        assert not np.array_equal(x, f((4, 3), generator=second))
        compiled = Jit(lambda f=f: f((4, 3), generator=again), again.vars())
        np.testing.assert_allclose(compiled(), x, 0, 16 * EPS)
