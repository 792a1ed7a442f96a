"""Layers together: the names of their variables, Sequential, transforms, copies, and a network of all of them."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import functional, nn, optimizer
from optimkit.core import ForceArgs, Generator, GradValues, Jit, Module, ModuleList, Scan, TrainVar, Vectorize

EPS = float(np.finfo(np.float32).eps)
GOLDEN = Path(__file__).parent / "golden" / "nn_vars.txt"

# One of each layer, with an input that fits.
LAYERS = {
    "Linear(3, 4)": (lambda: nn.Linear(3, 4), (5, 3)),
    "Linear(3, 4, use_bias=False)": (lambda: nn.Linear(3, 4, use_bias=False), (5, 3)),
    "Conv2D(2, 4, (3, 5), groups=2)": (lambda: nn.Conv2D(2, 4, (3, 5), groups=2), (5, 2, 6, 6)),
    "BatchNorm((1, 3), (0,))": (lambda: nn.BatchNorm((1, 3), (0,)), (5, 3)),
    "BatchNorm0D(3)": (lambda: nn.BatchNorm0D(3), (5, 3)),
    "BatchNorm1D(3)": (lambda: nn.BatchNorm1D(3), (5, 3, 2)),
    "BatchNorm2D(3)": (lambda: nn.BatchNorm2D(3), (5, 3, 2, 2)),
    "SyncedBatchNorm2D(3)": (lambda: nn.SyncedBatchNorm2D(3), (5, 3, 2, 2)),
    "LayerNorm((3, 2))": (lambda: nn.LayerNorm((3, 2)), (5, 3, 2)),
    "GroupNorm(4, 3, groups=2)": (lambda: nn.GroupNorm(4, 3, groups=2), (5, 4, 2)),
    "GroupNorm0D(4, groups=2)": (lambda: nn.GroupNorm0D(4, groups=2), (5, 4)),
    "GroupNorm1D(4, groups=2)": (lambda: nn.GroupNorm1D(4, groups=2), (5, 4, 2)),
    "GroupNorm2D(4, groups=2)": (lambda: nn.GroupNorm2D(4, groups=2), (5, 4, 2, 2)),
    "Embedding(10, 4)": (lambda: nn.Embedding(10, 4), None),
    "Dropout(0.5)": (lambda: nn.Dropout(0.5, Generator(1)), (5, 3)),
    "MovingAverage((3,), 4)": (lambda: nn.MovingAverage((3,), 4), (3,)),
    "ExponentialMovingAverage((3,))": (lambda: nn.ExponentialMovingAverage((3,)), (3,)),
    "Sequential([Linear(3, 4), relu, Dropout(0.5), BatchNorm0D(4)])": (
        lambda: nn.Sequential([nn.Linear(3, 4), functional.relu, nn.Dropout(0.5, Generator(1)), nn.BatchNorm0D(4)]),
        (5, 3),
    ),
}
# Those that run without devices; and of those one for each way to compute, for tests that compile.
ALONE = [name for name in LAYERS if not name.startswith("Synced")]
TWINS = ("use_bias", "BatchNorm((1", "BatchNorm0D(3)", "BatchNorm1D", "GroupNorm(", "GroupNorm0D", "GroupNorm1D")
KINDS = [name for name in ALONE if not any(twin in name for twin in TWINS)]


def input_for(shape):
    rng = np.random.default_rng(0)
    return rng.integers(0, 10, size=(5,)) if shape is None else rng.normal(size=shape).astype(np.float32)


def call(layer, x):
    """Call a layer in training, where it knows of that."""
    return nn.Sequential([layer])(x, training=True)


def test_names_dtypes_and_shapes_of_variables_are_as_they_were():
    lines = []
    for name, (make, _) in LAYERS.items():
        lines.append(name)
        lines += [f"    {key}  {type(v).__name__}  {v.dtype}{list(v.shape)}" for key, v in make().vars().items()]
    # Names are what checkpoints are read by: change the file only on purpose, and write how to rename.
    assert lines == GOLDEN.read_text().splitlines()


@pytest.mark.parametrize("name", KINDS)
def test_layers_do_in_jit_and_scan_what_they_do_alone(name):
    make, shape = LAYERS[name]
    x, alone = input_for(shape), make()
    compiled, scanned = copy.deepcopy(alone), copy.deepcopy(alone)
    expected = [call(alone, x) for _ in range(3)]
    step = Jit(lambda x: call(compiled, x), compiled.vars())
    # Compiled code may sum in another order: the terms are few and below 100.
    for y in expected:
        np.testing.assert_allclose(step(x), y, 32 * EPS, 32 * EPS)
    ys = Scan(lambda x: call(scanned, x), scanned.vars())(np.stack([x] * 3))
    np.testing.assert_allclose(ys, expected, 32 * EPS, 32 * EPS)
    for v, c, s in zip(alone.vars(), compiled.vars(), scanned.vars(), strict=True):
        np.testing.assert_allclose(c.value, v.value, 32 * EPS, 32 * EPS)
        np.testing.assert_allclose(s.value, v.value, 32 * EPS, 32 * EPS)


@pytest.mark.parametrize("name", [n for n in KINDS if any(isinstance(v, TrainVar) for v in LAYERS[n][0]().vars())])
def test_gradients_by_every_parameter_are_finite_and_not_all_zero(name):
    make, shape = LAYERS[name]
    layer, x = make(), input_for(shape)
    w = np.random.default_rng(1).normal(size=call(copy.deepcopy(layer), x).shape).astype(np.float32)
    grads, _ = GradValues(lambda: (call(layer, x) * w).sum(), layer.vars())()
    trained = layer.vars().subset(TrainVar)
    assert [g.shape for g in grads] == [v.shape for v in trained]
    assert all(bool(jnp.isfinite(g).all()) and bool((g != 0).any()) for g in grads)


@pytest.mark.parametrize("name", KINDS)
def test_layers_vectorize(name):
    make, shape = LAYERS[name]
    x, layer = input_for(shape), make()
    if "Dropout" in name:
        layer = ForceArgs(layer, training=False)
    one = copy.deepcopy(layer)
    ys = Vectorize(lambda x: call(layer, x), layer.vars())(np.stack([x, x]))
    y = call(one, x)
    np.testing.assert_allclose(ys, [y, y], 32 * EPS, 32 * EPS)
    for v, w in zip(layer.vars(), one.vars(), strict=True):
        if v.name != "(Generator)._key":
            np.testing.assert_allclose(v.value, w.value, 32 * EPS, 32 * EPS)


def pickled(layer):
    return pickle.loads(pickle.dumps(layer))


@pytest.mark.parametrize("how", [copy.deepcopy, pickled])
@pytest.mark.parametrize("name", ALONE)
def test_copies_compute_the_same_and_share_nothing(name, how):
    make, shape = LAYERS[name]
    layer, x = make(), input_for(shape)
    layer.vars()  # creates the key of a generator
    other = how(layer)
    assert repr(other) == repr(layer) or "function" in repr(layer)
    assert list(other.vars().keys()) == list(layer.vars().keys())
    assert not {id(v) for v in other.vars()} & {id(v) for v in layer.vars()}
    np.testing.assert_array_equal(call(other, x), call(layer, x))


@pytest.mark.parametrize("name", LAYERS)
def test_a_repr_makes_the_layer_again(name):
    layer = LAYERS[name][0]()
    if not isinstance(layer, nn.Sequential):
        again = eval(repr(layer), vars(nn))
        assert repr(again) == repr(layer)
        assert [v.shape for v in again.vars()] == [v.shape for v in layer.vars()]


# --- sequential ---------------------------------------------------------------------------------------------------


def test_sequential_passes_keyword_arguments_to_the_layers_that_take_them():
    seen = []

    class Takes(Module):
        def __call__(self, x, training):
            seen.append(("takes", training))
            return x

    def anything(x, **kwargs):
        seen.append(("anything", kwargs))
        return x

    model = nn.Sequential([jnp.tanh, Takes(), np.negative, functools.partial(anything, other=1), lambda x: x + 1])
    y = model(np.float32(0.5), training=True, unknown=2)
    assert float(y) == pytest.approx(1 - np.tanh(0.5), abs=2 * EPS)
    assert seen == [("takes", True), ("anything", {"other": 1, "training": True, "unknown": 2})]


def test_sequential_spreads_tuples_and_returns_its_input_when_empty():
    model = nn.Sequential([lambda x, y: (x + y, x - y), lambda x, y: x * y])
    assert model(5, 3) == 16
    assert model[:1](5, 3) == (8, 2) and model[1:](5, 3) == 15
    empty = nn.Sequential([])
    assert empty(1) == 1 and empty(1, 2) == (1, 2)


def test_an_error_in_a_sequential_names_the_layer():
    model = nn.Sequential([nn.Linear(3, 4), nn.Sequential([functional.relu, nn.BatchNorm0D(4)])])
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'training'") as error:
        model(jnp.ones((2, 3)))
    assert error.value.__notes__ == [
        "in layer [1] of Sequential: BatchNorm0D(nin=4, momentum=0.999, eps=1e-06)",
        f"in layer [1] of Sequential: {model[1]!r}",
    ]


def test_slices_of_a_subclass_with_a_constructor_of_its_own_are_sequentials():
    class Net(nn.Sequential):
        def __init__(self, nin, nout):
            super().__init__([nn.Linear(nin, 8), functional.relu, nn.Linear(8, nout)])

    net, x = Net(3, 2), np.ones((1, 3), np.float32)
    assert type(net[:2]) is nn.Sequential and isinstance(net, ModuleList)
    np.testing.assert_array_equal(net[2:](net[:2](x)), net(x))
    assert list(net.vars().keys()) == [f"(Net)[{i}](Linear).{v}" for i in (0, 2) for v in "bw"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(copy.copy(net[:1])))(x), net[0](x))


def test_forced_arguments_reach_the_layers_of_a_sequential():
    model = nn.Sequential([nn.BatchNorm0D(3), nn.Sequential([nn.Dropout(0.5, Generator(0))])])
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    evaluated = model(x, training=False)
    forced = ForceArgs(model, training=False)
    np.testing.assert_array_equal(forced(x, training=True), evaluated)
    np.testing.assert_array_equal(forced(x), evaluated)
    assert model.vars()["(Sequential)[0](BatchNorm0D).running_mean"].value.tolist() == [[0.0] * 3]


# --- a network ----------------------------------------------------------------------------------------------------


class Network(Module):
    """A small network of nearly all layers, in the way that scripts for objax are written."""

    def __init__(self, dtype):
        conv = lambda *args, **kwargs: nn.Conv2D(  # noqa: E731
            *args, **kwargs, w_init=lambda s: nn.init.kaiming_normal(s).astype(dtype)
        )
        self.blocks = ModuleList([conv(1, 4, 3), conv(4, 8, 3, strides=2)])
        self.norms = ModuleList([nn.BatchNorm2D(4), nn.GroupNorm2D(8, groups=2)])
        self.head = nn.Sequential([functional.flatten, nn.LayerNorm(8), nn.Dropout(0.9, Generator(0)), nn.Linear(8, 3)])
        self.loss_average = nn.ExponentialMovingAverage(())

    def __call__(self, x, training):
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = functional.max_pool_2d(functional.leaky_relu(norm(block(x), training)))
        return self.head(x, training=training)


@pytest.mark.slow
def test_a_compiled_training_step_of_a_whole_network_keeps_all_dtypes_and_compiles_once():
    model = Network(jnp.bfloat16)
    opt = optimizer.Momentum(model.vars())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 1, 8, 8)), jnp.bfloat16)
    labels, traces = jnp.array([0, 1, 2, 0, 1, 2]), []

    def loss(x, y):
        value = functional.loss.cross_entropy_logits_sparse(model(x, training=True), y).mean()
        return value, model.loss_average(value)

    grad_values = GradValues(loss, model.vars())

    def step(x, y, lr):
        traces.append(1)
        grads, values = grad_values(x, y)
        opt(lr, grads)
        return values

    before = {name: (v.shape, v.dtype) for name, v in model.vars().items()}
    weights = {name: np.asarray(v.value, np.float32) for name, v in model.vars().items()}
    train = Jit(step, model.vars() + opt.vars())
    values = [train(x, labels, lr) for lr in (0.1, 0.05, 0.025)]
    assert len(traces) == 1
    assert {name: (v.shape, v.dtype) for name, v in model.vars().items()} == before
    assert all(np.isfinite(v[0]) and v[0].dtype == jnp.float32 for v in values)
    moved = {name for name, v in model.vars().items() if (np.asarray(v.value, np.float32) != weights[name]).any()}
    assert moved == set(weights)


def test_every_layer_is_documented_with_an_example_or_a_reference_to_one():
    classes = [c for c in vars(nn).values() if inspect.isclass(c)]
    assert len(classes) == 20
    for c in classes:
        assert "Example:" in c.__doc__ or "arguments as of" in c.__doc__, c
        for method in (f for f in vars(c).values() if inspect.isfunction(f)):
            assert all(p.annotation is not p.empty for p in list(inspect.signature(method).parameters.values())[1:]), c


def test_layers_are_found_in_the_package_under_their_objax_names():
    names = """BatchNorm BatchNorm0D BatchNorm1D BatchNorm2D Conv2D Dropout ExponentialMovingAverage GroupNorm
        GroupNorm0D GroupNorm1D GroupNorm2D Linear MovingAverage Sequential SyncedBatchNorm SyncedBatchNorm0D
        SyncedBatchNorm1D SyncedBatchNorm2D""".split()
    assert all(issubclass(getattr(nn, name), Module) for name in names)
