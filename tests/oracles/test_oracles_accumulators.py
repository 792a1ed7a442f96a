"""The oracles of accumulators, factored moments, signs and optimism against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from .adagrad import oracle_adadelta, oracle_adagrad, oracle_rmsprop, oracle_sm3
from .factored import matrix_axes, oracle_adafactor, oracle_came
from .form import takes_every_shape_and_keeps_its_inputs
from .layerwise import oracle_fromage
from .optimistic import oracle_noisy_sgd, oracle_optimistic_adam, oracle_optimistic_gradient, oracle_polyak_sgd
from .sign import oracle_lion, oracle_rprop, oracle_sign_sgd, oracle_signum
from .test_oracles import HALVES, assert_steps, steps

ORACLES = [
    oracle_adadelta,
    oracle_adafactor,
    oracle_adagrad,
    oracle_came,
    oracle_fromage,
    oracle_lion,
    oracle_noisy_sgd,
    oracle_optimistic_adam,
    oracle_optimistic_gradient,
    oracle_polyak_sgd,
    oracle_rmsprop,
    oracle_rprop,
    oracle_sign_sgd,
    oracle_signum,
    oracle_sm3,
]


def test_adagrad_by_hand():
    # s = 3, 5;  1 - 0.1 * 3/3 = 0.9;  0.9 - 0.1 * 4/5 = 0.82
    assert_steps(oracle_adagrad(steps(1.0)[0], steps(3.0, 4.0), 0.1, eps=0.0), 0.9, 0.82)
    # 7 + 9 = 16, sqrt(16 + 9) + 1 = 6;  1 - 0.1 * 3/6 = 0.95
    hyper = {"initial_accumulator": 7.0, "eps_root": 9.0, "eps": 1.0}
    assert_steps(oracle_adagrad(steps(1.0)[0], steps(3.0), 0.1, **hyper), 0.95)
    # 0/0
    assert_steps(oracle_adagrad(steps(1.0)[0], steps(0.0), 0.1, eps=0.0), 1.0)


def test_adadelta_by_hand():
    # E[g²] = 3: sqrt(1) / sqrt(3 + 1) * sqrt(12) = sqrt(3);  E[Δx²] = 3/4
    # E[g²] = 9/4 + 1 = 13/4: sqrt(3/4 + 1) / sqrt(13/4 + 1) * 2
    first, second = math.sqrt(3), 2 * math.sqrt(1.75 / 4.25)
    got = oracle_adadelta(steps(1.0)[0], steps(math.sqrt(12), 2.0), [1.0, 0.5], decay=0.75, eps=1.0)
    assert_steps(got, 1 - first, 1 - first - 0.5 * second)


@pytest.mark.parametrize(
    ("hyper", "first", "second"),
    [
        ({}, 2.0, math.sqrt(13) / 2),  # n = 1, 3/4 + 13/4 = 4
        ({"eps": 1.0}, 1.0, math.sqrt(13) / 3),  # outside: 2 / (1 + 1), sqrt(13) / (2 + 1)
        ({"eps_root": 3.0}, 1.0, math.sqrt(13 / 7)),  # inside: 2 / sqrt(1 + 3), sqrt(13) / sqrt(4 + 3)
        ({"initial_scale": 4.0}, 1.0, math.sqrt(13 / 6.25)),  # n = 3 + 1 = 4, 3 + 13/4
        ({"bias_correction": True}, 1.0, math.sqrt(13 * (1 - 9 / 16)) / 2),  # n = 1 / (1/4), 4 / (7/16)
        ({"momentum": 0.5}, 2.0, 1 + math.sqrt(13) / 2),
        ({"momentum": 0.5, "nesterov": True}, 3.0, 0.5 + 0.75 * math.sqrt(13)),  # s + v/2, of v = 2, 1 + s
        # m = 1/2, 3/8 + sqrt(13)/4
        ({"centered": True}, 2 / math.sqrt(3 / 4), math.sqrt(13 / (4 - (3 / 8 + math.sqrt(13) / 4) ** 2))),
        ({"centered": True, "bias_correction": True}, 2 / math.sqrt(3), None),  # (1 - 1/4) / (1/4)
    ],
)
def test_rmsprop_by_hand(hyper, first, second):
    got = oracle_rmsprop(steps(1.0)[0], steps(2.0, math.sqrt(13)), 0.1, **{"decay": 0.75, "eps": 0.0} | hyper)
    assert_steps(got[:1], 1 - 0.1 * first)
    if second is not None:
        assert_steps(got, 1 - 0.1 * first, 1 - 0.1 * first - 0.1 * second)


def test_sm3_by_hand():
    # ν = g²: each direction is 1. Rows gather 4 and 16, columns 9 and 16
    # the least of them are (4, 4), (9, 16);  ν = (4 + 4, 4), (9, 16 + 9): directions 2 / sqrt(8), 0, 0, 3 / 5
    w = np.zeros((2, 2))
    got = oracle_sm3({"w": w}, steps([[1.0, 2.0], [3.0, 4.0]], [[2.0, 0.0], [0.0, 3.0]]), 0.1)
    second = np.array([[2 / math.sqrt(8), 0.0], [0.0, 0.6]])
    assert_steps(got, w - 0.1, w - 0.1 - 0.1 * second)
    # with momentum the directions 1 and 4/5 become 1/2 and 1/4 + 2/5;  eps_root = 9 makes 3 / sqrt(9 + 9)
    assert_steps(oracle_sm3(steps(1.0)[0], steps(3.0, 4.0), 0.1, momentum=0.5), 0.95, 0.885)
    expected = 1 - 0.1 * 3 / math.sqrt(18)
    assert_steps(oracle_sm3(steps(1.0)[0], steps(3.0), 0.1, eps_root=9.0), expected)
    assert_steps(oracle_sm3(steps(1.0)[0], steps(0.0), 0.1), 1.0)


def test_sm3_is_adagrad_on_vectors_and_above_it_on_matrices():
    rng = np.random.default_rng(0)
    vectors, matrices = steps(*rng.normal(size=(5, 3))), steps(*rng.normal(size=(5, 2, 3)))
    vector = {"w": np.zeros(3)}
    expected = oracle_adagrad(vector, vectors, 0.1, eps=0.0)
    assert_steps(oracle_sm3(vector, vectors, 0.1), *(step["w"] for step in expected))
    start = {"w": np.zeros((2, 3))}
    sm3, adagrad = oracle_sm3(start, matrices, 0.1), oracle_adagrad(start, matrices, 0.1, eps=0.0)
    for t in range(1, 5):
        ours, theirs = (np.abs(x[t]["w"] - x[t - 1]["w"]) for x in (sm3, adagrad))
        assert (ours <= theirs * (1 + 1e-12)).all() and (ours < 0.99 * theirs).any()


@pytest.mark.parametrize(
    ("shape", "smallest", "axes"),
    [((3, 2), 1, (1, 0)), ((4, 3, 5), 1, (0, 2)), ((3, 3, 64, 128), 64, (2, 3)), ((3, 3, 64, 128), 65, None)]
    + [((4, 4, 4), 4, (1, 2)), ((5,), 1, None), ((), 1, None), ((0, 3), 1, None), ((1, 8), 1, (0, 1))],
)
def test_matrices_lie_along_the_two_largest_axes(shape, smallest, axes):
    assert matrix_axes(shape, smallest) == axes


PLAIN = {"eps1": 0.0, "multiply_by_parameter_scale": False}


def test_adafactor_of_a_vector_by_hand():
    # β̂2 = 0, 1 - 1/2: v = (9, 16), (9/2 + 23/2, 16);  u = (1, -1), (sqrt(23)/4, -1), of RMS 1 and sqrt(39/32)
    grads = steps([3.0, -4.0], [math.sqrt(23), -4.0])
    u = np.array([math.sqrt(23) / 4, -1.0])
    first = np.array([0.9, 1.1])
    hyper = {"decay_rate": 1.0} | PLAIN
    got = oracle_adafactor(steps([1.0, 1.0])[0], grads, 0.1, clipping_threshold=math.inf, **hyper)
    assert_steps(got, first, first - 0.1 * u)
    got = oracle_adafactor(steps([1.0, 1.0])[0], grads, 0.1, **hyper)
    assert_steps(got, first, first - 0.1 * u / math.sqrt(39 / 32))
    # counted from step 1, the first two have β̂2 = 0
    got = oracle_adafactor(steps([1.0, 1.0])[0], grads, 0.1, step_offset=1, **hyper)
    assert_steps(got, first, [0.8, 1.2])
    # ε1 = 16: u = 3 / 5
    assert_steps(oracle_adafactor(steps(1.0)[0], steps(3.0), 0.1, **hyper | {"eps1": 16.0}), 0.94)


def test_adafactor_of_a_matrix_by_hand():
    # g² = (1, 4), (9, 16): rows 5 and 25, columns 10 and 20 of 30;  RMS(u) = sqrt(0.96) < 1
    u = np.array([[1 / math.sqrt(5 / 3), 2 / math.sqrt(10 / 3)], [3 / math.sqrt(25 / 3), 4 / math.sqrt(50 / 3)]])
    grad = np.array([[1.0, 2.0], [3.0, 4.0]])
    hyper = {"min_dim_size_to_factor": 2} | PLAIN
    assert_steps(oracle_adafactor(steps(np.ones((2, 2)))[0], steps(grad), 0.1, **hyper), 1 - 0.1 * u)
    # whole, each u is 1
    for whole in ({"factored": False}, {"min_dim_size_to_factor": 3}):
        got = oracle_adafactor(steps(np.ones((2, 2)))[0], steps(grad), 0.1, **hyper | whole)
        assert_steps(got, np.full((2, 2), 0.9))
    # two matrices with an axis of size 1 between: each by itself, and the clipping over both
    both = np.stack([grad, 3 * grad])[:, None]
    got = oracle_adafactor(steps(np.ones((2, 1, 2, 2)))[0], steps(both), 0.1, **hyper)
    assert_steps(got, np.stack([1 - 0.1 * u, 1 - 0.1 * u])[:, None])
    # rows and columns average in time: at decay_rate 1, half of (5, 25) and half of those of (4, 9), (1, 16)
    second = np.array([[2.0, 3.0], [1.0, 4.0]])
    rows, columns = np.array([9.0, 21.0]), np.array([7.5, 22.5])
    expected = second / np.sqrt(np.outer(rows, columns) / 30)
    expected /= max(1, math.sqrt(np.mean(expected**2)))
    got = oracle_adafactor(steps(np.ones((2, 2)))[0], steps(grad, second), 0.1, decay_rate=1.0, **hyper)
    assert_steps(got, 1 - 0.1 * u, 1 - 0.1 * u - 0.1 * expected)


def test_adafactor_scales_its_steps_by_hand():
    p, grads = steps([3.0, -4.0])[0], steps([1.0, 1.0])
    rms = math.sqrt(12.5)
    assert_steps(oracle_adafactor(p, grads, 0.1), np.array([3.0, -4.0]) - 0.1 * rms)
    assert_steps(oracle_adafactor(p, grads, 0.1, eps2=5.0), [2.5, -4.5])
    # ρ = 0.1 * min(0.01, 1)
    assert_steps(oracle_adafactor(p, grads, 0.1, relative_step=True, eps2=5.0), [2.995, -4.005])
    # the decay: 0.1 * 0.5 of the parameter, or half of it
    assert_steps(oracle_adafactor(p, grads, 0.1, eps2=5.0, weight_decay=0.5), [2.35, -4.3])
    got = oracle_adafactor(p, grads, 0.1, eps2=5.0, weight_decay=0.5, independent_decay=True)
    assert_steps(got, [1.0, -2.5])


def test_adafactor_holds_the_learning_rate_in_its_momentum():
    # m = 1/2 * 0.1, 1/4 * 0.1 * ... : 0.05, then 0.025 + 0, at rate 0
    got = oracle_adafactor(steps(1.0)[0], steps(2.0, 2.0), [0.1, 0.0], momentum=0.5, **PLAIN)
    assert_steps(got, 0.95, 0.925)
    # kept in float16, 0.05 is 0.04998779296875
    got = oracle_adafactor(steps(1.0)[0], steps(2.0, 2.0), [0.1, 0.0], momentum=0.5, momentum_dtype="float16", **PLAIN)
    assert_steps(got, 0.95, 0.95 - 0.04998779296875 / 2)


def test_came_by_hand():
    # v = 25/4, u = 2, clipped to 1;  m = 1/2, 3/4: a vector has no S
    hyper = {"beta1": 0.5, "beta2": 0.75, "beta3": 0.75, "eps1": 0.0, "eps2": 0.0}
    assert_steps(oracle_came(steps([1.0, 1.0])[0], steps([5.0, -5.0]), 0.1, **hyper), [0.95, 1.05])
    # a matrix: m = 1/2, S = (1/2)² / 4 = 1/16, 1/2 / (1/4) = 2;  m = 3/4, S = 3/64 + 1/64 = 1/16, 3/4 / (1/4) = 3
    ones = np.ones((2, 2))
    assert_steps(oracle_came({"w": ones}, steps(ones, ones), 0.1, **hyper), 0.8 * ones, 0.5 * ones)
    # with ε2 = 2: S = 9/4 / 4, 1/2 / (3/4) = 2/3;  the decay: 0.1 * 0.5
    got = oracle_came({"w": ones}, steps(ones), 0.1, **hyper | {"eps2": 2.0, "weight_decay": 0.5})
    assert_steps(got, (1 - 0.2 / 3 - 0.05) * ones)
    # unclipped, u = 2: m = 1, S = 1 / 4, 1 / (1/2);  below min_dim_size_to_factor m itself
    got = oracle_came({"w": ones}, steps(ones), 0.1, clipping_threshold=2.0, **hyper)
    assert_steps(got, 0.8 * ones)
    got = oracle_came({"w": ones}, steps(ones), 0.1, clipping_threshold=2.0, min_dim_size_to_factor=3, **hyper)
    assert_steps(got, 0.9 * ones)


def test_sign_rules_by_hand():
    assert_steps(oracle_sign_sgd(steps([1.0, 1.0, 1.0])[0], steps([1e-9, -5.0, 0.0]), 0.1), [0.9, 1.1, 1.0])
    # m = 0.2, 0.08, -0.028
    got = oracle_signum(steps(1.0)[0], steps(2.0, -1.0, -1.0), 0.1)
    assert_steps(got, 0.9, 0.8, 0.9)


def test_lion_by_hand():
    # c = 1/2: 1 - 0.1 * (1 + 0.5 * 1) = 0.85, m = 1/4;  c = 1/8 - 1/2: 0.85 - 0.1 * (-1 + 0.425) = 0.9075
    # m = 3/16 - 1/4 = -1/16;  c = -1/32 + 1/40 < 0: 0.9075 + 0.1 - 0.05 * 0.9075
    got = oracle_lion(steps(1.0)[0], steps(1.0, -1.0, 0.05), 0.1, beta1=0.5, beta2=0.75, weight_decay=0.5)
    assert_steps(got, 0.85, 0.9075, 1.0075 - 0.045375)


@pytest.mark.parametrize(
    ("hyper", "expected"),
    [
        # 0.1; 0.12; taken back, 0.06; not adapted; 0.072; at 0 no step
        ({}, (-0.1, -0.22, -0.1, -0.04, 0.032, 0.032)),
        ({"variant": "rprop-"}, (-0.1, -0.22, -0.16, -0.088, -0.0016, -0.0016)),  # 0.06; 0.072; 0.0864
        ({"variant": "irprop-"}, (-0.1, -0.22, -0.22, -0.16, -0.088, -0.088)),  # 0; 0.06; 0.072
        ({"max_step": 0.11, "min_step": 0.08}, (-0.1, -0.21, -0.1, -0.02, 0.076, 0.076)),  # 0.11; 0.08; 0.096
        ({"initial_step": 1.0, "eta_plus": 2.0, "eta_minus": 0.25}, (-1.0, -3.0, -1.0, -0.5, 0.5, 0.5)),
    ],
)
def test_rprop_by_hand(hyper, expected):
    got = oracle_rprop(steps(0.0)[0], steps(7.0, 0.3, -2.0, -2.0, -0.1, 0.0), 1.0, **hyper)
    assert_steps(got, *expected)


def test_optimistic_gradient_by_hand():
    # 2 * 1 - 1 = 1;  2 * 2 - 1 = 3
    assert_steps(oracle_optimistic_gradient(steps(1.0)[0], steps(1.0, 2.0), 0.1), 0.9, 0.6)
    # 2.5 * 1 - 2 * 1 = 0.5;  2.5 * 2 - 2 * 1 = 3
    assert_steps(oracle_optimistic_gradient(steps(1.0)[0], steps(1.0, 2.0), 0.1, alpha=0.5, beta=2.0), 0.95, 0.65)


def test_optimistic_adam_by_hand():
    # Adam's directions are 2/3 and 4/5: 1 - 0.3 * 2/3 = 0.8;  0.8 - 0.3 * (8/5 - 2/3) = 0.52
    assert_steps(oracle_optimistic_adam(steps(1.0)[0], steps(2.0, 5.0), 0.3, **HALVES), 0.8, 0.52)
    # 2.5 * 2/3 - 2 * 2/3 = 1/3;  2.5 * 4/5 - 2 * 2/3 = 2/3
    got = oracle_optimistic_adam(steps(1.0)[0], steps(2.0, 5.0), 0.3, alpha=0.5, beta=2.0, **HALVES)
    assert_steps(got, 0.9, 0.7)


def test_noisy_sgd_by_hand():
    # σ = sqrt(4 / 1), sqrt(4 / 2): 1 - 0.1 * (1 + 2 * 1) = 0.7;  0.7 - 0.1 * (1 - sqrt(2))
    got = oracle_noisy_sgd(steps(1.0)[0], steps(1.0, 1.0), 0.1, eta=4.0, gamma=1.0, noise=steps(1.0, -1.0))
    assert_steps(got, 0.7, 0.6 + 0.1 * math.sqrt(2))


def test_noisy_sgd_draws_anew_at_each_step_for_each_name_and_seed():
    params = {name: np.zeros(3) for name in "ab"}
    got = [oracle_noisy_sgd(params, [params] * 2, 1.0, eta=1.0, gamma=0.0, seed=seed) for seed in (0, 1)]
    draws = [x[0][name] for x in got for name in "ab"] + [x[1][name] - x[0][name] for x in got for name in "ab"]
    assert len({x for draw in draws for x in draw.tolist()}) == 24


@pytest.mark.parametrize(
    ("hyper", "first", "second"),
    [
        ({}, 0.2, -0.04),  # 5/25, -1/25
        ({"variant": "sps+"}, 0.2, 0.0),
        ({"max_step": 0.1}, 0.1, -0.04),
        ({"eps": 25.0}, 0.1, -0.02),
        ({"f_min": 2.5}, 0.1, -0.14),
        ({"scaling": 0.5}, 0.1, -0.02),
        ({"scaling": 0.5, "max_step": 0.1}, 0.05, -0.02),  # scaled after the minimum
    ],
)
def test_polyak_by_hand(hyper, first, second):
    params, grads = {"a": np.zeros(1), "b": np.zeros(())}, [{"a": np.array([3.0]), "b": np.array(4.0)}] * 2
    got = oracle_polyak_sgd(params, grads, [1.0, 2.0], value=[5.0, -1.0], **hyper)
    for step, size in zip(got, (first, first + 2 * second), strict=True):
        np.testing.assert_allclose([step["a"][0], step["b"]], [-3 * size, -4 * size], rtol=1e-13)
    assert oracle_polyak_sgd(params, [params], 1.0, **hyper)[0]["b"] == 0.0, "a zero gradient"


def test_fromage_by_hand():
    # ((0, 4) - 0.75 * (4, 0)) / 1.25 = (-2.4, 3.2), of norm 4 again;  ((-2.4, 3.2) - (0, 3)) / 1.25
    got = oracle_fromage(steps([0.0, 4.0])[0], steps([9.0, 0.0], [0.0, 5.0]), 0.75)
    assert_steps(got, [-2.4, 3.2], [-1.92, 0.16])
    # where a norm is 0: 0 - 0.75 * 5, 4 - 0, both over 1.25
    assert_steps(oracle_fromage(steps(0.0)[0], steps(5.0), 0.75), -3.0)
    assert_steps(oracle_fromage(steps(4.0)[0], steps(0.0), 0.75), 3.2)


@pytest.mark.parametrize("oracle", ORACLES)
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    takes_every_shape_and_keeps_its_inputs(oracle)
