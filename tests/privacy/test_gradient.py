"""PrivateGradValues: what it computes, in all its ways of doing so; noise; bad examples; batches that vary; errors."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimkit
from optimkit import Jit, StateVar, TrainVar, VarCollection, nn, optimizer
from optimkit.contrib.rules import DPAggregate
from optimkit.errors import (
    DTypeError,
    HyperparameterError,
    MissingInputError,
    OptimkitError,
    StructureError,
    VariableError,
)
from optimkit.privacy import PoissonBatches, PrivateGradValues
from optimkit.random import Generator
from optimkit.rules.base import Step
from tests.oracles.contrib_private import aggregate

MODES = [{}, {"chunk": 1}, {"chunk": 2}, {"use_norm_accumulation": True}, {"use_norm_accumulation": True, "chunk": 2}]
each_mode = pytest.mark.parametrize("mode", [
    MODES[0], MODES[2], MODES[3], *(pytest.param(mode, marks=pytest.mark.slow) for mode in (MODES[1], MODES[4]))
], ids=str)  # fmt: skip
RNG = np.random.default_rng(0)
X, Y = np.float32(RNG.normal(size=(8, 3))), np.float32(RNG.normal(size=8) * 10.0 ** np.arange(-4, 4))
MASK = np.ones(8, bool)
W, B = np.float32(RNG.normal(size=3)), np.float32(0.3)


def regression(w=W, b=B):
    """Return a loss of squared errors, its variables, and one compiled or eager call on a batch."""
    vc = VarCollection({"w": TrainVar(jnp.asarray(w)), "b": TrainVar(jnp.asarray(b))})
    return lambda x, y: jnp.mean((x @ vc["w"].value + vc["b"].value - y) ** 2) / 2, vc


@functools.lru_cache
def compiled(clip=1.0, noise=0.0, microbatch=1, dtype="float32", **options):
    """Return one compiled program for each set of options: f(x, y, mask) -> gradients by name, values."""
    f, vc = regression(jnp.asarray(W, dtype), jnp.asarray(B, dtype))
    gv = PrivateGradValues(f, vc, noise, clip, microbatch, (0, 0), Generator(1), **options)

    def call(x, y, mask):
        grads, values = gv(x, y, mask=mask)
        return dict(zip(("w", "b"), grads, strict=True)), values

    return Jit(call, gv.vars())


def private(x=X, y=Y, mask=None, **options):
    """Return gradients by name, and values."""
    return compiled(**options)(x, y, mask)


def in_float64(x, y, microbatch):
    """Return gradients and losses of microbatches."""
    x, y = np.float64(x), np.float64(y)
    error = (x @ np.float64(W) + np.float64(B) - y).reshape(-1, microbatch)
    grads = {"w": np.mean(error[..., None] * x.reshape(-1, microbatch, 3), axis=1), "b": np.mean(error, axis=1)}
    return grads, np.mean(error**2, axis=1) / 2


def in_numpy(x, y, *, clip=1.0, microbatch=1, size=None):
    grads = in_float64(x, y, microbatch)[0]
    none = {"w": np.zeros(3), "b": np.zeros(())}
    return aggregate(grads, none, max_norm=clip, noise_multiplier=0.0, size=size)


def close(got, expected, rtol=2e-6):
    for name, g in expected.items():
        np.testing.assert_allclose(np.asarray(got[name]), g, rtol=rtol, atol=rtol * np.abs(g).max())


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("microbatch", "mode"), [(1, MODES[0]), (2, MODES[4]), (4, MODES[1])])
def test_gradients_are_the_clipped_mean(microbatch, mode):
    """Errors from 1e-4 to 1e3: some gradients are clipped and some are not."""
    got, values = private(microbatch=microbatch, **mode)
    close(got, in_numpy(X, Y, microbatch=microbatch))
    losses = in_float64(X, Y, microbatch)[1]
    assert len(values) == 1
    np.testing.assert_allclose(values[0], losses.mean(), rtol=2e-6)


def test_both_modes_clip_some_and_not_others_here():
    grads = in_float64(X, Y, 1)[0]
    norms = np.sqrt(np.sum(grads["w"] ** 2, axis=1) + grads["b"] ** 2)
    assert 2 <= np.sum(norms > 1) <= 6


@pytest.mark.parametrize("mode", MODES[2:4], ids=str)
def test_with_an_endless_clip_and_no_noise_they_are_those_of_GradValues(mode):
    f, vc = regression()
    expected, values = optimkit.GradValues(f, vc)(jnp.asarray(X), jnp.asarray(Y))
    got, private_values = private(clip=1e10, microbatch=2, **mode)
    close(got, dict(zip(("w", "b"), expected, strict=True)))
    np.testing.assert_allclose(private_values[0], values[0], rtol=1e-6)


def test_they_are_those_of_DPAggregate():
    params = {"w": jnp.asarray(W), "b": jnp.asarray(B)}
    loss = lambda p, x, y: (x @ p["w"] + p["b"] - y) ** 2 / 2  # noqa: E731
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(params, X, Y)
    rule = DPAggregate(1.0, 0.0, seed=0)
    direction = jax.jit(lambda each: rule.direction(Step(each, params, 1.0), rule.init(params))[0])(each)
    for name, g in private()[0].items():
        np.testing.assert_allclose(g, direction[name], rtol=1e-6)


@each_mode
def test_no_example_moves_the_sum_by_more_than_the_clip(mode):
    whole = private(mask=MASK, expected_batch_size=8, **mode)[0]
    for i in range(8):
        part = private(mask=np.arange(8) != i, expected_batch_size=8, **mode)[0]
        assert 8 * np.sqrt(sum(np.sum((whole[n] - part[n]) ** 2) for n in whole)) <= 1 + 1e-5


@pytest.mark.parametrize("mode", MODES[::3], ids=str)
@pytest.mark.parametrize(("clip", "scales"), [(1e-32, [1.0, 1e-30]), (1e-6, [1e30, 1.0, 1e-30])])
def test_huge_and_tiny_gradients_are_clipped_without_overflow(mode, clip, scales):
    """Their squares are not float32 numbers."""
    w = TrainVar(jnp.zeros(2))
    gv = PrivateGradValues(lambda x: jnp.sum(x @ w.value), VarCollection({"w": w}), 0.0, clip, 1, **mode)
    call = Jit(gv, gv.vars())
    for scale in scales:
        grads, _ = call(np.float32([[3.0, 4.0], [0.0, 0.0]]) * np.float32(scale))
        np.testing.assert_allclose(grads[0] / min(5 * scale, clip), [0.3, 0.4], rtol=1e-6)


def test_trees_of_arrays_are_arguments_and_keywords_are_passed_whole():
    w = TrainVar(jnp.ones(3))
    f = lambda batch, scale: scale * jnp.mean(batch["x"] @ w.value)  # noqa: E731
    gv = PrivateGradValues(f, VarCollection({"w": w}), 0.0, 1e9, 2, keygen=Generator(0))
    grads, values = Jit(gv, gv.vars())({"x": X}, scale=2.0)
    np.testing.assert_allclose(grads[0], 2 * X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(values[0], 2 * X.sum() / 8, rtol=1e-5)


def test_values_are_averaged_whatever_f_returns_after_the_loss():
    w = TrainVar(jnp.ones(()))
    f = lambda x: (jnp.mean(x) * w.value, {"right": x > 1, "each": x})  # noqa: E731
    gv = PrivateGradValues(f, VarCollection({"w": w}), 0.0, 1.0, 2, chunk=1)
    values = Jit(gv, gv.vars())(jnp.arange(4.0))[1]
    assert float(values[0]) == 1.5
    assert values[1]["right"].tolist() == [0.5, 0.5]
    assert values[1]["each"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("mode", MODES[2:4], ids=str)
def test_gradients_of_half_precision_are_float32(mode):
    """Noise on top of them would be lost in bfloat16."""
    got, _ = private(dtype="bfloat16", **mode)
    assert {str(g.dtype) for g in got.values()} == {"float32"}
    close(got, in_numpy(X, Y), rtol=0.02)


# --- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("microbatch", "options", "divisor"), [
    (1, {}, 8), (4, {"use_norm_accumulation": True}, 2), (2, {"expected_batch_size": 5}, 2.5),
])  # fmt: skip
def test_noise_is_normal_and_of_deviation_noise_multiplier_times_clip_over_the_number_of_microbatches(
    microbatch, options, divisor
):
    """20000 numbers: mean, deviation, skewness and kurtosis to 5 deviations of theirs."""
    w = TrainVar(jnp.zeros((100, 200)))
    f = lambda x: 0.0 * jnp.sum(w.value) * jnp.sum(x)  # noqa: E731
    gv = PrivateGradValues(f, VarCollection({"w": w}), 1.5, 2.0, microbatch, keygen=Generator(3), **options)
    z = np.asarray(Jit(gv, gv.vars())(jnp.ones(8))[0][0], np.float64).ravel() * divisor / 3.0
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.std() - 1) < 5 / np.sqrt(2 * z.size)
    assert abs(np.mean(z**3)) < 5 * np.sqrt(15 / z.size)
    assert abs(np.mean(z**4) - 3) < 5 * np.sqrt(96 / z.size)


def test_each_call_and_each_variable_has_noise_of_its_own():
    v, w = TrainVar(jnp.zeros(4)), TrainVar(jnp.zeros(4))
    gv = PrivateGradValues(lambda x: 0.0 * jnp.sum(v.value + w.value), VarCollection({"v": v, "w": w}), 1.0, 1.0, 1,
                           keygen=Generator(0))  # fmt: skip
    call = Jit(gv, gv.vars())
    assert len({tuple(g.tolist()) for _ in range(3) for g in call(jnp.ones(2))[0]}) == 6


def test_the_key_of_the_noise_is_state_and_resumes():
    keygen = Generator(9)
    f, vc = regression()
    gv = PrivateGradValues(f, vc, 1.0, 1.0, 1, (0, 0), keygen)
    assert list(gv.vars().keys()) == ["w", "b", "(PrivateGradValues).keygen(Generator)._key"]
    call = Jit(lambda: gv(jnp.asarray(X), jnp.asarray(Y))[0], gv.vars())
    call()
    saved = [np.asarray(x) for x in gv.vars().tensors()]
    straight = [call(), call()]
    gv.vars().assign([jnp.asarray(x) for x in saved])
    for expected in straight:
        assert all(map(np.array_equal, call(), expected))
    assert not np.array_equal(straight[0][0], straight[1][0])


def test_the_generator_of_the_noise_may_be_that_of_the_model():
    """Dropout in the model and the noise share DEFAULT_GENERATOR in objax's scripts: they must not share numbers."""
    keygen, w = Generator(4), TrainVar(jnp.zeros(6))
    f = lambda x: jnp.sum(w.value * optimkit.random.normal((6,), generator=keygen))  # noqa: E731
    found = []
    for noise_multiplier in (0.0, 1.0):
        keygen.seed(4)
        gv = PrivateGradValues(f, VarCollection({"w": w}) + keygen.vars(), noise_multiplier, 9.0, 1, keygen=keygen)
        found.append(Jit(gv, gv.vars())(jnp.ones(1))[0][0])
    noise = (found[1] - found[0]) / 9
    assert np.all(np.abs(noise) > 1e-4)
    assert not np.isclose(noise, found[0], rtol=1e-3).any()


# --- examples that are not finite -------------------------------------------------------------------------------------


@each_mode
def test_an_example_that_is_not_finite_counts_as_zero(mode):
    """1e30 is finite; its gradient is not, in float32. Where all examples are bad, gradients are zeros."""
    keep = np.arange(8) != 5
    expected = in_numpy(X[keep], Y[keep], size=8)
    for bad in (np.nan, np.inf, -np.inf, 1e30):
        x = X.copy()
        x[5] = bad
        close(private(x, mask=MASK, expected_batch_size=8, **mode)[0], expected)
    got, _ = private(np.full_like(X, np.nan), mask=MASK, expected_batch_size=8, **mode)
    assert all(not np.any(g) for g in got.values())


# --- batches of varying size ------------------------------------------------------------------------------------------


@each_mode
def test_what_is_masked_counts_for_nothing_not_even_NaN(mode):
    x, mask = X.copy(), np.array([1, 0, 1, 1, 0, 1, 0, 0], bool)
    x[~mask] = np.nan
    got, values = private(x, mask=mask, expected_batch_size=8, **mode)
    close(got, in_numpy(X[mask], Y[mask], size=8))
    np.testing.assert_allclose(values[0], in_float64(X, Y, 1)[1][mask].mean(), rtol=1e-5)


def test_a_mask_is_of_microbatches():
    mask = np.array([True, False, True, False])
    got, _ = private(mask=mask, microbatch=2, expected_batch_size=6)
    rows = np.repeat(mask, 2)
    close(got, in_numpy(X[rows], Y[rows], microbatch=2, size=3))


@pytest.mark.parametrize("mode", MODES[::3], ids=str)
def test_batches_of_all_sizes_run_one_program_and_an_empty_one_is_noise_alone(mode):
    f, vc = regression()
    traces = []

    def counted(x, y):
        traces.append(1)
        return f(x, y)

    batches = PoissonBatches(8, 0.3, 8, seed=2, steps=20)
    gv = PrivateGradValues(counted, vc, 1e-4, 1.0, 1, (0, 0), Generator(0), **mode,
                           expected_batch_size=batches.expected_batch_size)  # fmt: skip
    step = Jit(lambda x, y, mask: gv(x, y, mask=mask), gv.vars())
    sizes, first = [], None
    for index, mask in batches:
        grads, values = step(X[index], Y[index], mask)
        first = first or len(traces)
        for got, expected in zip(grads, in_numpy(X[index[mask]], Y[index[mask]], size=2.4).values(), strict=True):
            np.testing.assert_allclose(got, expected, atol=3e-4)
            assert np.any(got)
        assert np.isfinite(values[0])
        sizes.append(int(mask.sum()))
    assert min(sizes) == 0 and len(set(sizes)) > 3
    assert len(traces) == first


@pytest.mark.parametrize("mode", MODES[::3], ids=str)
def test_arrays_without_examples_are_noise_alone(mode):
    got, values = private(X[:0], Y[:0], noise=1.0, **mode)
    assert all(np.isfinite(g).all() and np.any(g) for g in got.values())
    assert float(values[0]) == 0


# --- other states -----------------------------------------------------------------------------------------------------


def test_each_microbatch_draws_its_own_numbers_the_same_in_both_passes():
    """Dropout: gradients are 0 or 2 for each example, not for the batch."""
    w, keygen = TrainVar(jnp.ones(16)), Generator(0)
    drop = nn.Dropout(0.5, generator=keygen)
    f = lambda x: jnp.sum(drop(w.value, training=True)) * jnp.mean(x)  # noqa: E731
    vc, found = VarCollection({"w": w}) + keygen.vars(), []
    for mode in MODES[2:4]:
        keygen.seed(0)
        gv = PrivateGradValues(f, vc, 0.0, 1.0, 1, keygen=Generator(1), **mode)
        found.append(Jit(gv, gv.vars())(jnp.ones(4))[0][0])
        assert len(set(np.round(found[-1], 4).tolist())) > 2
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


@pytest.mark.parametrize("mode", MODES[::3], ids=str)
def test_a_function_that_writes_what_would_not_be_private_is_refused_and_nothing_changes(mode):
    w, seen, keygen = TrainVar(jnp.ones(3)), StateVar(jnp.zeros(3)), Generator(0)

    def f(x):
        seen.value = x[0]
        return jnp.mean(x @ (w.value * optimkit.random.bernoulli((3,), generator=keygen)))

    vc = VarCollection({"w": w, "seen": seen}) + keygen.vars()
    key = np.asarray(keygen.key.value)
    gv = PrivateGradValues(f, vc, 0.0, 1.0, 1, keygen=keygen, **mode)
    with pytest.raises(VariableError, match="writes to 'seen', which would not be private"):
        gv(jnp.asarray(X))
    assert not np.any(seen.value)
    assert np.array_equal(keygen.key.value, key)


def test_batch_normalization_is_refused_in_training_and_not_in_evaluation():
    layer = nn.BatchNorm0D(3)
    gv = PrivateGradValues(lambda x, training: jnp.mean(layer(x, training=training) ** 2), layer.vars(), 0.0, 1.0, 2)
    call = Jit(gv, gv.vars(), static_argnames="training")
    with pytest.raises(VariableError, match="GroupNorm or LayerNorm"):
        call(X, training=True)
    assert len(call(X, training=False)[0]) == 2


# --- in a training ----------------------------------------------------------------------------------------------------


def test_it_stands_where_GradValues_does_in_a_compiled_step():
    f, vc = regression()
    gv, opt = PrivateGradValues(f, vc, 0.5, 1.0, 1, (0, 0), Generator(0)), optimizer.Adam(vc)

    def train(x, y):
        grads, values = gv(x, y)
        opt(0.1, grads)
        return values[0]

    step = Jit(train, gv.vars() + opt.vars(), donate=True)
    losses = [float(step(X, np.float32(X @ W))) for _ in range(60)]
    assert np.isfinite(losses).all()
    assert gv.vars()["w"].value.shape == (3,)


@pytest.mark.slow
def test_norm_accumulation_and_chunks_keep_fewer_gradients_of_single_examples():
    """32 examples of a network of four matrices of 64 x 64 floats: 2.1 MB for their gradients together."""
    layers, needed = [nn.Linear(64, 64) for _ in range(4)], []
    model = nn.Sequential(list(itertools.chain.from_iterable((layer, jnp.tanh) for layer in layers)))
    for mode in ({}, {"use_norm_accumulation": True}, {"chunk": 4}):
        gv = PrivateGradValues(lambda x: jnp.mean(model(x) ** 2), model.vars(), 1.0, 1.0, 1, keygen=Generator(0),
                               **mode)  # fmt: skip
        program = Jit(gv, gv.vars()).lower(jnp.ones((32, 64))).compile()
        needed.append(program.memory_analysis().temp_size_in_bytes / (32 * 4 * 64 * 64 * 4))
    assert needed[0] > 1
    assert needed[1] < 0.7
    assert needed[2] < 0.4


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [
    ("noise_multiplier", -1.0), ("noise_multiplier", np.nan), ("noise_multiplier", np.inf), ("l2_norm_clip", 0.0),
    ("l2_norm_clip", np.inf), ("microbatch", 0), ("microbatch", 1.5), ("chunk", 0), ("expected_batch_size", 0.0),
    ("use_norm_accumulation", 1),
])  # fmt: skip
def test_options_out_of_range_are_refused_by_name(name, value):
    f, vc = regression()
    options = {"noise_multiplier": 1.0, "l2_norm_clip": 1.0, "microbatch": 1} | {name: value}
    with pytest.raises(HyperparameterError, match=f"'{name}' is out of range"):
        PrivateGradValues(f, vc, **options)


@pytest.mark.parametrize("batch_axis", [(0, 1), (None,), (), (0, None)])
def test_a_batch_axis_that_is_not_all_zeros_is_refused(batch_axis):
    f, vc = regression()
    with pytest.raises(ValueError, match="batch_axis is not a tuple of zeros"):
        PrivateGradValues(f, vc, 1.0, 1.0, 1, batch_axis)


def test_what_may_not_change_after_a_compile_cannot_be_assigned():
    f, vc = regression()
    gv = PrivateGradValues(f, vc, 1.5, 2.0, 1)
    assert (gv.noise_multiplier, gv.l2_norm_clip) == (1.5, 2.0)
    for name in ("noise_multiplier", "l2_norm_clip"):
        with pytest.raises(AttributeError):
            setattr(gv, name, 0.0)


WRONG_CALLS = [
    ({"microbatch": 3}, {}, StructureError, "microbatches of 3 do not divide 8 examples(.|\n)*Drop 2 examples"),
    ({"chunk": 3}, {}, StructureError, "chunks of 3 do not divide 8 microbatches(.|\n)*Pad"),
    ({}, {"mask": MASK}, MissingInputError, r"mask needs expected_batch_size(.|\n)*sampling_rate \* n"),
    ({"expected_batch_size": 4}, {"mask": MASK[:4]}, StructureError, "mask does not have one entry"),
    ({"expected_batch_size": 4, "microbatch": 2}, {"mask": MASK}, StructureError, "mask does not have one entry"),
    ({"expected_batch_size": 4}, {"mask": np.ones(8)}, DTypeError, "mask is not of bools"),
]


@pytest.mark.parametrize(("options", "call", "error", "says"), WRONG_CALLS)
def test_a_call_that_does_not_fit_is_refused_with_the_fix_and_draws_nothing(options, call, error, says):
    keygen, (f, vc) = Generator(1), regression()
    key = np.asarray(keygen.key.value)
    gv = PrivateGradValues(f, vc, 1.0, 1.0, batch_axis=(0, 0), keygen=keygen, **{"microbatch": 1} | options)
    with pytest.raises(error, match=says) as raised:
        gv(X, Y, **call)
    assert isinstance(raised.value, OptimkitError)
    assert np.array_equal(keygen.key.value, key)


def test_arguments_that_differ_in_their_examples_are_refused():
    with pytest.raises(StructureError, match=r"argument 1 does not have as many examples(.|\n)*got      float32\[7\]"):
        private(X, Y[:7])
    f, vc = regression()
    gv = PrivateGradValues(f, vc, 1.0, 1.0, 1, (0, 0))
    for args in ((X,), (X, Y, Y)):
        with pytest.raises(StructureError, match="number of arguments does not fit batch_axis"):
            gv(*args)
    one = functools.partial(PrivateGradValues, f, vc, 1.0, 1.0, 1)
    with pytest.raises(StructureError, match="argument 0 does not have as many examples"):
        one()(3.0)
    with pytest.raises(StructureError, match="there are no examples"):
        one()()


def test_a_loss_that_is_no_scalar_and_complex_parameters_are_refused():
    f, vc = regression()
    with pytest.raises(StructureError, match="not a real scalar"):
        PrivateGradValues(lambda x: x * vc["b"].value, vc, 1.0, 1.0, 1, keygen=Generator(0))(jnp.ones(3))
    with pytest.raises(DTypeError, match="'z' is not real"):
        PrivateGradValues(f, VarCollection({"z": TrainVar(jnp.ones(2, jnp.complex64))}), 1.0, 1.0, 1)


def test_a_seed_is_no_generator():
    f, vc = regression()
    with pytest.raises(StructureError, match=r"keygen is not a generator(.|\n)*random.Generator\(seed\)"):
        PrivateGradValues(f, vc, 1.0, 1.0, 1, keygen=7)
