"""BatchNorm, LayerNorm and GroupNorm against float64 loops: values, statistics, gradients, precision, refusals."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import GradValues, Jit, Parallel, Scan, StateVar, TrainVar, Vectorize, nn
from optimkit.errors import DTypeError, HyperparameterError, StructureError

EPS = float(np.finfo(np.float32).eps)
RNG = np.random.default_rng(0)
DTYPES = [jnp.float32, jnp.float16, jnp.bfloat16]
BATCHES = {nn.BatchNorm0D: (12, 3), nn.BatchNorm1D: (4, 3, 5), nn.BatchNorm2D: (2, 3, 4, 3)}


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def randomize(layer):
    """Give a layer's parameters and statistics values that matter."""
    for name, v in layer.vars().items():
        v.assign((np.abs if name.endswith("var") else np.asarray)(normal(*v.shape)))
    return layer


def standardize(x, groups, eps):
    """Return x with mean 0 and variance 1 over each set of indices, and the means and variances."""
    y, means, variances = np.zeros(x.shape), [], []
    for indices in groups:
        values = [float(x[i]) for i in indices]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        means.append(mean)
        variances.append(variance)
        for i, v in zip(indices, values, strict=True):
            y[i] = (v - mean) / math.sqrt(variance + eps)
    return y, np.array(means), np.array(variances)


def channels(shape):
    """Return for each channel the indices of its elements."""
    return [[i for i in np.ndindex(*shape) if i[1] == c] for c in range(shape[1])]


def tolerance(dtype, x, n, scale):
    """Bound the error of a normalization.

    The mean of n numbers is off by n eps max|x|, and this is divided by the standard deviation, which is about 1 here;
    the few roundings after it are relative; the last one is that of the output's dtype.
    """
    return scale * ((n + 4) * EPS * (1 + float(np.abs(np.asarray(x, np.float64)).max())) + float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", BATCHES)
def test_batch_norm_normalizes_each_channel_in_training(kind, dtype):
    layer, x = randomize(kind(3)), jnp.asarray(normal(*BATCHES[kind]) + 2, dtype)
    y = layer(x, training=True)
    unit, _, _ = standardize(x, channels(x.shape), layer.eps)
    gamma, beta = (np.asarray(v.value, np.float64) for v in (layer.gamma, layer.beta))
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(jnp.float32), gamma * unit + beta, 0, tolerance(dtype, x, 12 * 2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", BATCHES)
def test_running_statistics_are_float32_averages_of_the_batches(kind, dtype):
    layer, mean, variance = kind(3, momentum=0.9), np.zeros(3), np.ones(3)
    for _ in range(3):
        x = jnp.asarray(normal(*BATCHES[kind]) * 2 + 3, dtype)
        layer(x, training=True)
        _, m, v = standardize(x, channels(x.shape), layer.eps)
        mean, variance = 0.9 * mean + (1 - 0.9) * m, 0.9 * variance + (1 - 0.9) * v
    assert layer.running_mean.dtype == layer.running_var.dtype == jnp.float32
    # Statistics of 24 numbers, of size up to 10 and 100, in three steps: half precision would be off by 1e-3.
    np.testing.assert_allclose(layer.running_mean.value.ravel(), mean, 0, 28 * EPS * 3)
    np.testing.assert_allclose(layer.running_var.value.ravel(), variance, 0, 28 * EPS * 30)


@pytest.mark.parametrize("kind", BATCHES)
def test_batch_norm_uses_the_running_statistics_in_evaluation_and_leaves_them(kind):
    layer, x = randomize(kind(3)), normal(*BATCHES[kind])
    before = {name: np.asarray(v.value) for name, v in layer.vars().items()}
    b = {name.split(".")[-1]: v.astype(np.float64) for name, v in before.items()}
    expected = (x - b["running_mean"]) / np.sqrt(b["running_var"] + layer.eps) * b["gamma"] + b["beta"]
    np.testing.assert_allclose(layer(x, training=False), expected, 8 * EPS, 64 * EPS)
    np.testing.assert_array_equal(layer(x[:1], training=False), layer(x, training=False)[:1])
    for name, v in layer.vars().items():
        np.testing.assert_array_equal(v.value, before[name])


def test_batch_norm_can_leave_its_statistics_in_training():
    layer, x = nn.BatchNorm0D(3), normal(5, 3)
    y = layer(x, training=True, batch_norm_update=False)
    assert layer.running_mean.value.tolist() == [[0.0] * 3] and layer.running_var.value.tolist() == [[1.0] * 3]
    np.testing.assert_array_equal(layer(x, training=True), y)
    assert layer.running_mean.value.tolist() != [[0.0] * 3]


@pytest.mark.parametrize("make", [lambda: nn.BatchNorm0D(1), lambda: nn.LayerNorm(64), lambda: nn.GroupNorm0D(64, 1)])
def test_a_large_mean_does_not_spoil_the_variance(make):
    # E[x²] - E[x]² in float32 is off by 1e8 · 6e-8 = 6 here, and may be negative; the variance is 1.
    x = np.float32(1e4) + normal(64)
    layer = make()
    x = x[:, None] if isinstance(layer, nn.BatchNorm) else x[None]
    wide = x.astype(np.float64)
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + layer.eps)
    # Elements of 1e4 are summed in blocks, so the mean is off by a few of their roundings: 16 eps · 1e4.
    np.testing.assert_allclose(layer(x, training=True), expected, 0, 16 * EPS * 1e4)


def test_gradients_of_batch_norm_are_those_of_the_paper():
    layer, x, g = randomize(nn.BatchNorm0D(3)), normal(12, 3), normal(12, 3)
    loss = lambda x: (layer(x, training=True) * g).sum()  # noqa: E731
    grads, _ = GradValues(loss, layer.vars(), input_argnums=(0,))(jnp.asarray(x))
    unit, _, variance = standardize(x, channels(x.shape), layer.eps)
    gamma = np.asarray(layer.gamma.value, np.float64)
    through = g - g.mean(0) - unit * (g * unit).mean(0)
    for got, expected in zip(
        grads, [gamma / np.sqrt(variance + layer.eps) * through, g.sum(0)[None], (g * unit).sum(0)[None]], strict=True
    ):
        np.testing.assert_allclose(got, expected, 0, 32 * EPS * 10)


LAYERS = [
    (nn.LayerNorm(6), (4, 6)),
    (nn.LayerNorm((3, 2), eps=1e-3), (4, 3, 2)),
    (nn.GroupNorm0D(6, groups=2), (4, 6)),
    (nn.GroupNorm1D(6, groups=3), (2, 6, 5)),
    (nn.GroupNorm2D(4, groups=1), (2, 4, 3, 2)),
    (nn.GroupNorm2D(4), (2, 4, 3, 2)),
    (nn.GroupNorm(4, rank=5, groups=2, eps=1e-2), (2, 4, 1, 2, 2)),
]


def groups_of(layer, shape):
    """Return the sets of indices that a layer gives mean 0 and variance 1."""
    if isinstance(layer, nn.LayerNorm):
        key = lambda i: i[: len(shape) - layer.gamma.ndim]  # noqa: E731
    else:
        key = lambda i: (i[0], i[1] // (shape[1] // layer.groups))  # noqa: E731
    keys = dict.fromkeys(map(key, np.ndindex(*shape)))
    return [[i for i in np.ndindex(*shape) if key(i) == k] for k in keys]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_layer_and_group_norm_normalize_their_groups(layer, shape, dtype):
    layer, x = randomize(layer), jnp.asarray(normal(*shape) + 2, dtype)
    unit, _, _ = standardize(x, groups_of(layer, shape), layer.eps)
    expected = unit * np.asarray(layer.gamma.value, np.float64) + np.asarray(layer.beta.value)
    for y in (layer(x), layer(x, training=True), layer(x, training=False)):
        assert y.dtype == dtype and y.shape == shape
        # Groups of few numbers may have a small standard deviation; 0.1 is below all of them here.
        np.testing.assert_allclose(y.astype(jnp.float32), expected, 0, tolerance(dtype, x, 12, 4) * 10)


def test_group_norm_has_at_most_as_many_groups_as_channels():
    assert nn.GroupNorm2D(8).groups == 8 and nn.GroupNorm2D(64).groups == 32


@pytest.mark.parametrize("make", [lambda: nn.BatchNorm0D(2), lambda: nn.LayerNorm(2), lambda: nn.GroupNorm0D(2, 1)])
@pytest.mark.parametrize("value", [0.0, 1e4, -1e-20])
def test_constant_inputs_give_beta_and_finite_gradients(make, value):
    layer, x = make(), jnp.full((4, 2), value)
    options = {"batch_norm_update": False} if isinstance(layer, nn.BatchNorm) else {}
    y, grad = jax.value_and_grad(lambda x: layer(x, training=True, **options).sum())(x)
    assert float(y) == 0.0 and bool(jnp.isfinite(grad).all())


def test_integer_inputs_become_float32():
    x = jnp.arange(12).reshape(4, 3)
    for layer in (nn.BatchNorm0D(3), nn.LayerNorm(3), nn.GroupNorm0D(3, 1)):
        np.testing.assert_array_equal(layer(x, training=True), layer(x.astype(jnp.float32), training=True))


# --- inside transforms --------------------------------------------------------------------------------------------


def test_vectorize_reduces_the_statistics_of_the_copies_by_their_mean():
    xs, layer, loop = normal(4, 6, 3), nn.BatchNorm0D(3, momentum=0.5), []
    ys = Vectorize(lambda x: layer(x, training=True), layer.vars())(xs)
    for x in xs:
        one = nn.BatchNorm0D(3, momentum=0.5)
        np.testing.assert_allclose(ys[len(loop)], one(x, training=True), 0, 32 * EPS)
        loop.append(one)
    for name in ("running_mean", "running_var"):
        expected = np.mean([getattr(one, name).value for one in loop], axis=0)
        np.testing.assert_allclose(getattr(layer, name).value, expected, 8 * EPS, 8 * EPS)


def test_scan_updates_the_statistics_as_a_loop_of_compiled_calls():
    xs = normal(5, 6, 3)
    scanned, looped = nn.BatchNorm0D(3, momentum=0.9), nn.BatchNorm0D(3, momentum=0.9)
    ys = Scan(lambda x: scanned(x, training=True), scanned.vars())(xs)
    step = Jit(lambda x: looped(x, training=True), looped.vars())
    np.testing.assert_allclose(ys, [step(x) for x in xs], 0, 16 * EPS)
    np.testing.assert_allclose(scanned.running_mean.value, looped.running_mean.value, 0, 16 * EPS)
    np.testing.assert_allclose(scanned.running_var.value, looped.running_var.value, 0, 16 * EPS)


def test_synced_batch_norm_on_devices_is_batch_norm_of_the_whole_batch():
    n = jax.local_device_count()
    for kind, single, shape in (
        (nn.SyncedBatchNorm0D, nn.BatchNorm0D, (n, 3)),
        (nn.SyncedBatchNorm2D, nn.BatchNorm2D, (2 * n, 3, 2, 1)),
    ):
        x, whole, synced = normal(*shape), single(3), kind(3)
        y = Parallel(lambda x, layer=synced: layer(x, True), synced.vars())(x)
        np.testing.assert_allclose(y, whole(x, training=True), 0, 64 * EPS)
        for v, w in zip(synced.vars(), whole.vars(), strict=True):
            np.testing.assert_allclose(v.value, w.value, 0, 16 * EPS)
        np.testing.assert_allclose(synced(x, training=False), whole(x, training=False), 0, 16 * EPS)
    with pytest.raises(StructureError, match="nothing is mapped over an axis called 'device'"):
        nn.SyncedBatchNorm0D(3)(x[:, :, 0, 0], training=True)


# --- what they refuse ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "problem"),
    [
        (nn.BatchNorm0D(3), (4, 2), r"BatchNorm0D\(nin=3, momentum=0.999, eps=1e-06\)\(x, training\): the shape"),
        (nn.BatchNorm2D(3), (4, 3), r"expected \[\*, 3, \*, \*\]\n  got      \[4, 3\]"),
        (nn.BatchNorm2D(3), (4, 8, 8, 3), r"got      \[4, 8, 8, 3\]"),
        (nn.BatchNorm((1, 3), (0,)), (4, 2), r"BatchNorm\(dims=\(1, 3\), redux=\(0,\)"),
        (nn.BatchNorm0D(3), (1, 3), "too few numbers share a mean and a variance"),
        (nn.BatchNorm2D(3), (0, 3, 4, 4), r"at least 2\n  got      0"),
        (nn.LayerNorm(3), (4, 2), r"LayerNorm\(dims=\(3,\), eps=1e-05\)\(x\): the last axes"),
        (nn.LayerNorm((3, 2)), (2,), r"expected \[..., 3, 2\]"),
        (nn.GroupNorm2D(4), (4, 3, 2, 2), r"expected \[\*, 4, \*, \*\]"),
        (nn.GroupNorm1D(4, groups=2), (4, 4), r"GroupNorm1D\(nin=4, groups=2, eps=1e-05\)\(x\)"),
        (nn.GroupNorm0D(8), (4, 8), "too few numbers share a mean and a variance"),
    ],
)
def test_inputs_that_do_not_fit_raise(layer, shape, problem):
    with pytest.raises(StructureError, match=problem):
        layer(jnp.zeros(shape), training=True)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: nn.BatchNorm0D(0), "nin"),
        (lambda: nn.BatchNorm1D(3, momentum=1.0), "momentum"),
        (lambda: nn.BatchNorm2D(3, momentum=-0.1), "momentum"),
        (lambda: nn.BatchNorm2D(3, eps=0.0), "eps"),
        (lambda: nn.BatchNorm((1, 0), (0,)), "dims"),
        (lambda: nn.LayerNorm(3, eps=-1.0), "eps"),
        (lambda: nn.GroupNorm2D(0), "nin"),
        (lambda: nn.GroupNorm(4, rank=1), "rank"),
        (lambda: nn.GroupNorm2D(4, groups=0), "groups"),
        (lambda: nn.GroupNorm2D(6, groups=4), "groups"),
        (lambda: nn.GroupNorm2D(33), "groups"),
    ],
)
def test_numbers_out_of_range_raise_with_their_name(make, name):
    with pytest.raises(HyperparameterError, match=f"'{name}'"):
        make()


@pytest.mark.parametrize(("dims", "redux"), [((3,), (0,)), ((1, 3), (2,)), ((1, 3), (0, 1)), ((1, 3), ())])
def test_axes_that_do_not_fit_the_statistics_raise(dims, redux):
    with pytest.raises(StructureError, match="'redux' does not fit 'dims'"):
        nn.BatchNorm(dims, redux)


@pytest.mark.parametrize("dims", [1, (), (1, 1), 0, (3, -1)])
def test_layer_norm_of_less_than_two_numbers_raises(dims):
    with pytest.raises(StructureError, match="LayerNorm"):
        nn.LayerNorm(dims)


def test_negative_axes_count_from_the_end():
    x, first, second = normal(5, 3), nn.BatchNorm((1, 3), (0,)), nn.BatchNorm((1, 3), (-2,))
    np.testing.assert_array_equal(first(x, True), second(x, True))


@pytest.mark.parametrize("make", [lambda: nn.BatchNorm0D(3), lambda: nn.Dropout(0.5)])
def test_a_traced_training_flag_raises_and_says_how_to_make_it_static(make):
    layer, x = make(), normal(4, 3)
    with pytest.raises(DTypeError, match=r"'training' is traced.*\n.*\n.*\n.*static_argnames=\('training',\)"):
        Jit(layer)(x, training=True)
    static = Jit(layer, static_argnames=("training",))
    assert static(x, training=True).shape == static(x, training=False).shape == (4, 3)


def test_statistics_are_states_and_scales_are_parameters():
    kinds = {name.split(".")[-1]: type(v) for name, v in nn.BatchNorm2D(2).vars().items()}
    assert kinds == {"running_mean": StateVar, "running_var": StateVar, "beta": TrainVar, "gamma": TrainVar}
