"""The oracles against values computed by hand, and against optax in float64 where it is installed.

Two gradients suffice by hand. For Adam they are 2 and 5 with beta1 = 1/2, beta2 = 3/4, for then both roots are whole:
    m = 1, 3      m_hat = 1 / (1/2) = 2, 3 / (3/4) = 4
    v = 1, 7      v_hat = 1 / (1/4) = 4, 7 / (7/16) = 16
so that with eps = 1 the directions are 2 / (2 + 1) = 2/3 and 4 / (4 + 1) = 4/5.
"""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from . import (
    clipped,
    oracle_adam,
    oracle_adamw,
    oracle_clip_by_global_norm,
    oracle_ema,
    oracle_l2_adam,
    oracle_l2_momentum,
    oracle_lamb,
    oracle_lars,
    oracle_momentum,
    oracle_sgd,
    oracle_sgdw,
    oracle_trust_ratio,
    oracle_weight_decay,
)
from .form import takes_every_shape_and_keeps_its_inputs

HALVES = {"beta1": 0.5, "beta2": 0.75, "eps": 1.0}
ORACLES = [
    oracle_adam,
    oracle_adamw,
    oracle_clip_by_global_norm,
    oracle_l2_adam,
    oracle_l2_momentum,
    oracle_lamb,
    oracle_lars,
    oracle_momentum,
    oracle_sgd,
    oracle_sgdw,
    oracle_trust_ratio,
    oracle_weight_decay,
]


def steps(*values):
    """One dict {"w": array} for each value."""
    return [{"w": np.array(value, dtype=np.float64)} for value in values]


def assert_steps(trajectory, *expected):
    """Each step equals the value computed by hand, to float64 rounding."""
    assert len(trajectory) == len(expected)
    for got, want in zip(trajectory, expected, strict=True):
        np.testing.assert_allclose(got["w"], np.array(want), rtol=1e-14, atol=1e-15)


def test_sgd_by_hand():
    # 1 - 0.1 * 0.5 = 0.95;  0.95 + 0.1 * 0.25 = 0.975, and at the second rate 0.2: 0.95 + 0.05 = 1
    assert_steps(oracle_sgd(steps(1.0)[0], steps(0.5, -0.25), 0.1), 0.95, 0.975)
    assert_steps(oracle_sgd(steps(1.0)[0], steps(0.5, -0.25), [0.1, 0.2]), 0.95, 1.0)


@pytest.mark.parametrize(
    ("nesterov", "expected"),
    [
        (False, (0.9, 0.65)),  # m = 1, 0.5 + 2 = 2.5;  1 - 0.1 = 0.9;  0.9 - 0.25 = 0.65
        (True, (0.85, 0.525)),  # 1 - 0.1 * (1 + 0.5) = 0.85;  0.85 - 0.1 * (2 + 0.5 * 2.5) = 0.525
    ],
)
def test_momentum_by_hand(nesterov, expected):
    got = oracle_momentum(steps(1.0)[0], steps(1.0, 2.0), 0.1, momentum=0.5, nesterov=nesterov)
    assert_steps(got, *expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_the_papers_at_a_constant_rate(nesterov):
    # Sutskever's v holds the rate, and its Nesterov gradient is taken at theta + mu v: f(x) = x² / 2, so g(x) = x.
    mu, rate, theta, v = 0.5, 0.1, 1.0, 0.0
    grads, expected = [], []
    for _ in range(5):
        at = theta + mu * v if nesterov else theta
        grads.append({"w": np.array(at)})
        v = mu * v - rate * at
        theta = theta + v
        expected.append(theta + mu * v if nesterov else theta)  # Bengio's variable is the shifted one
    assert_steps(oracle_momentum(steps(1.0)[0], grads, rate, momentum=mu, nesterov=nesterov), *expected)


def test_adam_by_hand():
    # 1 - 0.3 * 2/3 = 0.8;  0.8 - 0.3 * 4/5 = 0.56
    assert_steps(oracle_adam(steps(1.0)[0], steps(2.0, 5.0), 0.3, **HALVES), 0.8, 0.56)
    # with eps_root = 5: 2 / (sqrt(4 + 5) + 1) = 1/2, 1 - 0.15 = 0.85;  then 4 / (sqrt(16 + 5) + 1)
    expected = (0.85, 0.85 - 0.3 * 4 / (math.sqrt(21) + 1))
    assert_steps(oracle_adam(steps(1.0)[0], steps(2.0, 5.0), 0.3, eps_root=5.0, **HALVES), *expected)


def test_adamw_by_hand():
    # 1 - 0.3 * (2/3 + 0.5 * 1) = 0.65;  0.65 - 0.3 * (4/5 + 0.5 * 0.65) = 0.3125
    got = oracle_adamw(steps(1.0)[0], steps(2.0, 5.0), 0.3, weight_decay=0.5, **HALVES)
    assert_steps(got, 0.65, 0.3125)


def test_l2_adam_by_hand():
    # the decay makes 2 of 1.5 + 0.5 * 1, and 5 of 4.6 + 0.5 * 0.8: the numbers of test_adam_by_hand
    got = oracle_l2_adam(steps(1.0)[0], steps(1.5, 4.6), 0.3, weight_decay=0.5, **HALVES)
    assert_steps(got, 0.8, 0.56)


def test_weight_decay_by_hand():
    # 1 - 0.1 * (1 + 0.5) = 0.85;  0.85 - 0.1 * (0 + 0.425) = 0.8075
    assert_steps(oracle_weight_decay(steps(1.0)[0], steps(1.0, 0.0), 0.1, rate=0.5), 0.85, 0.8075)


def test_position_of_weight_decay_matters_with_momentum():
    # before: m = 1.5, 0.75 + 0.425 = 1.175;  0.85 - 0.1175 = 0.7325
    # after:  m = 1, 0.5;  1 - 0.1 * (1 + 0.5) = 0.85;  0.85 - 0.1 * (0.5 + 0.425) = 0.7575
    hyper = {"momentum": 0.5, "weight_decay": 0.5}
    assert_steps(oracle_l2_momentum(steps(1.0)[0], steps(1.0, 0.0), 0.1, **hyper), 0.85, 0.7325)
    assert_steps(oracle_sgdw(steps(1.0)[0], steps(1.0, 0.0), 0.1, **hyper), 0.85, 0.7575)


def test_clip_by_global_norm_by_hand():
    params = {"a": np.zeros(1), "b": np.zeros(())}
    grads = [{"a": np.array([3.0]), "b": np.array(4.0)}, {"a": np.array([0.3]), "b": np.array(-0.4)}]
    got = oracle_clip_by_global_norm(params, grads, 1.0, max_norm=1.0)
    # the norms are 5, scaled to 1, and 0.5, left alone
    np.testing.assert_allclose([got[0]["a"][0], got[0]["b"]], [-0.6, -0.8], rtol=1e-14)
    np.testing.assert_allclose([got[1]["a"][0], got[1]["b"]], [-0.9, -0.4], rtol=1e-14)


def test_clipping_a_zero_gradient_leaves_it_at_zero():
    assert clipped(steps([0.0, 0.0])[0], 1.0)["w"].tolist() == [0.0, 0.0]
    assert clipped(steps([0.0, 0.0])[0], 0.0)["w"].tolist() == [0.0, 0.0]


def test_trust_ratio_by_hand():
    # 10 / 5 = 2: (6, 8) - 0.5 * 2 * (3, 4) = (3, 4);  5 / 2.5 = 2: (3, 4) - 0.5 * 2 * (0, 2.5) = (3, 1.5)
    got = oracle_trust_ratio(steps([6.0, 8.0])[0], steps([3.0, 4.0], [0.0, 2.5]), 0.5)
    assert_steps(got, [3.0, 4.0], [3.0, 1.5])
    # 0.5 * 10 / (5 + 5) = 1/2: (6, 8) - 1 * 1/2 * (3, 4)
    assert_steps(oracle_trust_ratio(steps([6.0, 8.0])[0], steps([3.0, 4.0]), 1.0, coefficient=0.5, eps=5.0), [4.5, 6.0])


def test_trust_ratio_is_one_where_a_norm_is_zero():
    assert_steps(oracle_trust_ratio(steps([0.0, 0.0])[0], steps([3.0, 4.0]), 0.1), [-0.3, -0.4])
    assert_steps(oracle_trust_ratio(steps([3.0, 4.0])[0], steps([0.0, 0.0]), 0.1), [3.0, 4.0])


def test_lars_by_hand():
    # ratio 1 * 10 / (5 + 0.5 * 10 + 10) = 1/2;  v = 1/2 * ((3, 4) + 0.5 * (6, 8)) = (3, 4);  w = (3, 4)
    # ratio 1 * 5 / (2.5 + 0.5 * 5 + 10) = 1/3;   v = 0.5 * (3, 4) + 1/3 * ((0, 2.5) + (1.5, 2)) = (2, 3.5)
    hyper = {"momentum": 0.5, "weight_decay": 0.5, "tc": 1.0, "eps": 10.0}
    got = oracle_lars(steps([6.0, 8.0])[0], steps([3.0, 4.0], [0.0, 2.5]), 1.0, **hyper)
    assert_steps(got, [3.0, 4.0], [1.0, 0.5])


def test_lars_holds_the_learning_rate_in_its_velocity():
    # at rate 0 the second step adds nothing to v = (3, 4) and goes on by 0.5 * v
    hyper = {"momentum": 0.5, "weight_decay": 0.5, "tc": 1.0, "eps": 10.0}
    got = oracle_lars(steps([6.0, 8.0])[0], steps([3.0, 4.0], [7.0, 7.0]), [1.0, 0.0], **hyper)
    assert_steps(got, [3.0, 4.0], [1.5, 2.0])


def test_lars_at_zero_norms():
    # a layer at zero: ratio 1
    assert_steps(oracle_lars(steps([0.0, 0.0])[0], steps([3.0, 4.0]), 0.1), [-0.3, -0.4])
    # a zero gradient: 0.5 * 5 / (0.25 * 5 + 0.75) = 1.25;  w - 0.1 * 1.25 * 0.25 * w = 0.96875 w
    hyper = {"weight_decay": 0.25, "eps": 0.75}
    assert_steps(oracle_lars(steps([3.0, 4.0])[0], steps([0.0, 0.0]), 0.1, tc=0.5, **hyper), [2.90625, 3.875])
    # the same at tc = 0.1: 0.25, where objax has 1;  w - 0.1 * 0.25 * 0.25 * w = 0.99375 w
    assert_steps(oracle_lars(steps([3.0, 4.0])[0], steps([0.0, 0.0]), 0.1, tc=0.1, **hyper), [2.98125, 3.975])
    # nothing to divide by
    assert_steps(oracle_lars(steps([3.0])[0], steps([0.0]), 0.1, weight_decay=0.0, eps=0.0), [3.0])


def test_lamb_by_hand():
    # r = (2/3, 0), u = r + 0.5 * (14/3, 8) = (3, 4), ‖u‖ = 5
    x1 = np.array([14 / 3, 8.0]) - 0.1 * math.hypot(14 / 3, 8.0) / 5 * np.array([3.0, 4.0])
    # r = (4/5, 0), u = r + 0.5 * x1
    u = np.array([0.8 + 0.5 * x1[0], 0.5 * x1[1]])
    x2 = x1 - 0.1 * math.hypot(*x1) / math.hypot(*u) * u
    got = oracle_lamb(steps([14 / 3, 8.0])[0], steps([2.0, 0.0], [5.0, 0.0]), 0.1, weight_decay=0.5, **HALVES)
    assert_steps(got, x1, x2)


@pytest.mark.parametrize(
    ("hyper", "expected"),
    [
        ({"momentum": 0.5}, (1.0, 2.5)),  # 0.5 * 2;  0.5 * 1 + 0.5 * 4
        ({"momentum": 0.5, "debias": True, "eps": 0.0}, (2.0, 10 / 3)),  # 1 / 0.5;  2.5 / 0.75
        ({"momentum": 0.5, "debias": True, "eps": 0.5}, (4 / 3, 20 / 7)),  # 1 / (1 - 0.25);  2.5 / (1 - 0.125)
        # momenta 2/11 and 3/12: 9/11 * 2 = 18/11;  1/4 * 18/11 + 3/4 * 4 = 75/22
        ({"momentum": 0.9, "warmup": True}, (18 / 11, 75 / 22)),
        # gathered weights 9/11 and 1 - 2/11 * 1/4 = 21/22
        ({"momentum": 0.9, "warmup": True, "debias": True, "eps": 0.0}, (2.0, 25 / 7)),
        # 2/11 is below 0.2, 3/12 is above: 18/11;  0.2 * 18/11 + 0.8 * 4 = 38.8/11
        ({"momentum": 0.2, "warmup": True}, (18 / 11, 38.8 / 11)),
    ],
)
def test_ema_by_hand(hyper, expected):
    assert_steps(oracle_ema(steps(2.0, 4.0), **hyper), *expected)


@pytest.mark.parametrize("warmup", [False, True])
def test_debiased_ema_of_constant_weights_is_the_weights(warmup):
    weights = steps(*[[3.0, -7.0]] * 20)
    assert_steps(oracle_ema(weights, momentum=0.99, debias=True, eps=0.0, warmup=warmup), *[[3.0, -7.0]] * 20)


@pytest.mark.parametrize("oracle", ORACLES)
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    takes_every_shape_and_keeps_its_inputs(oracle)


@pytest.mark.parametrize("oracle", ORACLES)
def test_constant_rate_equals_its_sequence(oracle):
    params, grads = steps([1.0, -2.0])[0], steps([0.5, 1.0], [-1.0, 0.25])
    for constant, sequence in zip(oracle(params, grads, 0.1), oracle(params, grads, [0.1, 0.1]), strict=True):
        np.testing.assert_array_equal(constant["w"], sequence["w"])


def optax_cases(optax):
    """(the same algorithm in optax for a schedule of the rate, the oracle, its hyperparameters) by name."""
    adam = {"beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "eps_root": 1e-4}
    b = {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-4}
    decay = {"weight_decay": 0.1}
    lars = {"momentum": 0.7, "weight_decay": 0.0, "tc": 0.05, "eps": 0.01}
    decayed, chain = optax.add_decayed_weights(0.1), optax.chain
    return {
        "sgd": (optax.sgd, oracle_sgd, {}),
        "momentum": (lambda lr: optax.sgd(lr, 0.8), oracle_momentum, {"momentum": 0.8}),
        "nesterov": (lambda lr: optax.sgd(lr, 0.8, True), oracle_momentum, {"momentum": 0.8, "nesterov": True}),
        "adam": (lambda lr: optax.adam(lr, **b), oracle_adam, adam),
        "adamw": (lambda lr: optax.adamw(lr, **b, **decay), oracle_adamw, adam | decay),
        "l2_adam": (lambda lr: chain(decayed, optax.adam(lr, **b)), oracle_l2_adam, adam | decay),
        "lamb": (lambda lr: optax.lamb(lr, **b, **decay), oracle_lamb, adam | decay),
        # optax divides by the norm of g + wd w, the paper by the sum of the norms: equal only without decay
        "lars": (lambda lr: optax.lars(lr, trust_coefficient=0.05, eps=0.01, momentum=0.7), oracle_lars, lars),
        "trust_ratio": (
            lambda lr: chain(optax.scale_by_trust_ratio(trust_coefficient=0.5, eps=0.1), optax.sgd(lr)),
            oracle_trust_ratio,
            {"coefficient": 0.5, "eps": 0.1},
        ),
        "clip": (
            lambda lr: chain(optax.clip_by_global_norm(0.7), optax.sgd(lr)),
            oracle_clip_by_global_norm,
            {"max_norm": 0.7},
        ),
        "weight_decay": (lambda lr: chain(decayed, optax.sgd(lr)), oracle_weight_decay, {"rate": 0.1}),
        "l2_momentum": (
            lambda lr: chain(decayed, optax.sgd(lr, 0.8)),
            oracle_l2_momentum,
            {"momentum": 0.8} | decay,
        ),
        "sgdw": (
            lambda lr: chain(optax.trace(0.8), decayed, optax.scale_by_learning_rate(lr)),
            oracle_sgdw,
            {"momentum": 0.8} | decay,
        ),
    }


@pytest.mark.parametrize(
    "case",
    ["sgd", "momentum", "nesterov", "adam", "adamw", "l2_adam", "lamb", "lars", "trust_ratio", "clip"]
    + ["weight_decay", "l2_momentum", "sgdw"],
)
def test_oracle_agrees_with_optax_in_float64(case):
    optax = pytest.importorskip("optax", reason="optax is only in the bench extra; the hand-computed tests stand alone")
    make, oracle, hyper = optax_cases(optax)[case]
    rng = np.random.default_rng(0)
    shapes = {"w": (2, 3), "b": ()}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    grads = [{name: rng.normal(size=shape) * 10.0 ** (k - 2) for name, shape in shapes.items()} for k in range(4)]
    rates = [0.1, 0.2, 0.05, 0.0]
    with jax.enable_x64(True):
        tx = make(lambda count: jax.numpy.asarray(rates)[count])
        ours = oracle(params, grads, rates, **hyper)
        theirs = {name: jax.numpy.asarray(p) for name, p in params.items()}
        state = tx.init(theirs)
        for grad, step in zip(grads, ours, strict=True):
            updates, state = tx.update({name: jax.numpy.asarray(g) for name, g in grad.items()}, state, theirs)
            theirs = optax.apply_updates(theirs, updates)
            for name in params:
                assert theirs[name].dtype == np.float64
                np.testing.assert_allclose(step[name], theirs[name], rtol=1e-12, atol=1e-14)
