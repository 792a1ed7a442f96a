"""The oracles of Shampoo and SOAP against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from .contrib_shampoo import merged_shape, oracle_shampoo, oracle_soap
from .form import takes_every_shape_and_keeps_its_inputs
from .test_oracles import assert_steps, steps

PLAIN = {"beta2": 1.0, "graft": "none", "frequency": 1, "eps": 0.0, "momentum": 0.0, "nesterov": False}


def test_shampoo_by_hand():
    # H = 16 on both axes for diag: 4 / (16^(1/4))² = 1; then H = 16 + 9: 3 / √25
    got = oracle_shampoo(steps(np.zeros((2, 2)))[0], steps(np.diag([4.0, 1.0]), np.diag([3.0, 0.0])), 1.0, **PLAIN)
    assert_steps(got, -np.eye(2), -np.diag([1.6, 1.0]))
    # a vector: H = g gᵀ, (g gᵀ)^(-1/2) g = g / |g|;  a scalar: g / |g|
    assert_steps(oracle_shampoo(steps([0.0, 0.0])[0], steps([3.0, 4.0]), 1.0, **PLAIN), [-0.6, -0.8])
    assert_steps(oracle_shampoo(steps(0.0)[0], steps(3.0, 4.0), 1.0, **PLAIN), -1.0, -1.8)
    # eps: λ = 9, 9 + 9/9 = 10
    assert_steps(oracle_shampoo(steps(0.0)[0], steps(3.0), 1.0, **{**PLAIN, "eps": 1 / 9}), -3 / math.sqrt(10))


def test_grafting_momentum_and_decay_by_hand():
    # the direction is 1; sgd has length 3, 4: momentum 3, 5.5; with nesterov 4.5, 6.75
    hyper = {**PLAIN, "graft": "sgd", "momentum": 0.5}
    assert_steps(oracle_shampoo(steps(0.0)[0], steps(3.0, 4.0), 1.0, **hyper), -3.0, -8.5)
    assert_steps(oracle_shampoo(steps(0.0)[0], steps(3.0, 4.0), 1.0, **{**hyper, "nesterov": True}), -4.5, -11.25)
    # adagrad: 3/3, 4/5; rmsprop's mean at β2 = 1: 9, 12.5
    hyper = {**PLAIN, "graft_eps": 0.0}
    assert_steps(oracle_shampoo(steps(0.0)[0], steps(3.0, 4.0), 1.0, **{**hyper, "graft": "adagrad"}), -1.0, -1.8)
    got = oracle_shampoo(steps(0.0)[0], steps(3.0, 4.0), 1.0, **{**hyper, "graft": "rmsprop"})
    assert_steps(got, -1.0, -1.0 - 4 / math.sqrt(12.5))
    got = oracle_shampoo(steps(1.0)[0], steps(3.0), 0.1, **{**PLAIN, "weight_decay": 0.5})
    assert_steps(got, 1.0 - 0.1 - 0.05)


def test_the_start_and_the_frequency_of_roots_by_hand():
    # before step 2 the step is the gradient; at 2 H = 25: 4/5; at 3 the root is the old one: 5/5
    got = oracle_shampoo(steps(0.0)[0], steps(3.0, 4.0, 5.0), 1.0, **{**PLAIN, "start": 2, "frequency": 4})
    assert_steps(got, -3.0, -3.8, -4.8)
    # no matrix: the gradient
    assert_steps(oracle_shampoo(steps([0.0, 0.0])[0], steps([3.0, 4.0]), 1.0, **{**PLAIN, "max_dim": 1}), [-3.0, -4.0])


def test_soap_by_hand():
    # g = U diag(3√2, √2) I with U = (1, 1; 1, -1)/√2 by columns: in its basis each coordinate moves by 1
    g, r = [[3.0, 1.0], [3.0, -1.0]], 1 / math.sqrt(2.0)
    hyper = {"beta1": 0.0, "beta2": 0.5, "eps": 0.0, "weight_decay": 0.0}
    got = oracle_soap(steps(np.zeros((2, 2)))[0], steps(g, g), 1.0, **hyper)
    assert_steps(got, np.zeros((2, 2)), [[-r, -r], [-r, r]])
    # a vector is Adam's, from the second gradient on: ν = 2, then 9, corrected by 1/2 and 3/4
    got = oracle_soap(steps(1.0)[0], steps(9.0, 2.0, 4.0), 0.1, **{**hyper, "weight_decay": 0.5})
    second = 1.0 - 0.1 * 1.5
    third = second - 0.1 * (4.0 / math.sqrt((0.5 * 2.0 + 8.0) / 0.75) + second / 2)
    assert_steps(got, 1.0, second, third)


def test_normalised_steps_and_merged_axes_of_soap_by_hand():
    # of one number N is a sign, times √(1 - β2^t) / (1 - β1^t): 0.5 / 0.5, √0.4375 / 0.75
    hyper = {"beta1": 0.5, "beta2": 0.75, "eps": 0.0, "weight_decay": 0.0, "normalize_grads": True}
    got = oracle_soap(steps(0.0)[0], steps(3.0, 3.0, 3.0), 1.0, **hyper)
    assert_steps(got, 0.0, -1.0, -1.0 - math.sqrt(0.4375) / 0.75)
    assert merged_shape((3, 3, 4, 50), 40) == (36, 50)
    assert merged_shape((50, 2, 3), 40) == (50, 6)
    assert merged_shape((), 40) == merged_shape((1, 1), 40) == (1,)
    # as one axis the gradient (3, 4) has the basis (3, 4) / 5: it moves by 5 / (5 + 1) there, and by 0 across
    got = oracle_soap(steps([[0.0], [0.0]])[0], steps([[3.0], [4.0]], [[3.0], [4.0]]), 1.0, beta1=0.0, eps=1.0,
                      weight_decay=0.0, merge_dims=True)  # fmt: skip
    assert_steps(got, [[0.0], [0.0]], [[-0.5], [-2 / 3]])


def test_soap_turns_its_bases_by_hand():
    # bases from diag(1, 2): (e2, e1). The second gradient's H = diag(4, 1) of another order: at frequency 1 they swap,
    # and ν = (1, 4) with them, so that the third step divides each element by the root of its own moments.
    hyper = {"beta1": 0.0, "beta2": 0.5, "shampoo_beta": 0.0, "eps": 0.0, "weight_decay": 0.0, "frequency": 1}
    grads = steps(np.diag([1.0, 2.0]), np.diag([2.0, 1.0]), np.diag([4.0, 4.0]))
    got = oracle_soap(steps(np.zeros((2, 2)))[0], grads, 1.0, **hyper)
    last = np.diag([4 / math.sqrt((1 + 8) / 0.75), 4 / math.sqrt((0.25 + 8) / 0.75)])
    assert_steps(got, np.zeros((2, 2)), -np.eye(2), -np.eye(2) - last)


@pytest.mark.parametrize("oracle", [oracle_shampoo, oracle_soap])
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    if oracle is oracle_soap:  # its first step stays where it is
        params, grads = {"x": np.ones((1, 2, 1, 2, 1), np.float32)}, [{"x": np.full((1, 2, 1, 2, 1), 0.5)}] * 2
        got = oracle(params, grads, 0.1)
        assert got[0]["x"].dtype == np.float64 and np.all(got[0]["x"] == 1) and np.all(got[1]["x"] < 1)
        assert oracle({"x": np.zeros((0, 3))}, [{"x": np.zeros((0, 3))}], 0.1)[0]["x"].shape == (0, 3)
    else:
        takes_every_shape_and_keeps_its_inputs(oracle)
