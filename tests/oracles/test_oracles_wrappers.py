"""The oracles of wrappers against values computed by hand."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from .form import takes_every_shape_and_keeps_its_inputs
from .test_oracles import HALVES, assert_steps, steps
from .wrappers import (
    averages,
    oracle_accumulated,
    oracle_averaged,
    oracle_cautious,
    oracle_lookahead,
    oracle_masked,
    oracle_scaled,
    oracle_skip_non_finite,
    oracle_weight_norm,
)

ORACLES = [
    oracle_averaged,
    oracle_cautious,
    oracle_lookahead,
    oracle_masked,
    oracle_skip_non_finite,
    oracle_weight_norm,
    functools.partial(oracle_accumulated, every=1),
    functools.partial(oracle_scaled, factor=0.5),
]


def test_scaled_by_hand():
    # m = 1, 1.5: 0 - 0.2 * 1;  -0.2 - 0.2 * 1.5
    assert_steps(oracle_scaled(steps(0.0)[0], steps(1.0, 1.0), 0.1, factor=2.0, momentum=0.5), -0.2, -0.5)
    got = oracle_scaled(steps(0.0)[0], steps(1.0, 1.0), 0.1, factor=lambda t: t, momentum=0.5)
    assert_steps(got, 0.0, -0.15)


def test_masked_by_hand():
    grads = [{"weight": np.array(1.0), "bias": np.array(1.0)}] * 2
    got = oracle_masked({"weight": np.zeros(()), "bias": np.zeros(())}, grads, 0.1, momentum=0.5)
    assert_steps([{"w": x["weight"]} for x in got], -0.1, -0.25)
    assert_steps([{"w": x["bias"]} for x in got], -0.1, -0.2)


def test_accumulated_by_hand():
    # the means are 2 and 5, of which Adam makes 2/3 and 4/5; rates are those of the second and of the fourth call
    got = oracle_accumulated(steps(1.0)[0], steps(1.0, 3.0, 4.0, 6.0, 9.0), [9, 0.3, 9, 0.5, 9], every=2, **HALVES)
    assert_steps(got, 1.0, 0.8, 0.8, 0.4, 0.4)
    # 1 gradient for the first step, 2 for the second
    got = oracle_accumulated(steps(1.0)[0], steps(2.0, 4.0, 6.0), 0.3, every=lambda n: n + 1, **HALVES)
    assert_steps(got, 0.8, 0.8, 0.56)


def test_skip_non_finite_by_hand():
    grads = steps([1.0, 1.0], [math.nan, 1.0], [1.0, math.inf], [1.0, 1.0], [1.0, 1.0])
    got = oracle_skip_non_finite(steps([0.0, 0.0])[0], grads, 0.1, momentum=0.5)
    assert_steps(got, *([-x, -x] for x in (0.1, 0.1, 0.1, 0.25, 0.425)))
    got = oracle_skip_non_finite(steps([0.0, 0.0])[0], grads[:3], 0.1, max_consecutive=1, momentum=0.0)
    assert_steps(got[:2], [-0.1, -0.1], [-0.1, -0.1])
    assert got[2]["w"].tolist() == [-0.2, -math.inf]


def test_averages_by_hand():
    trajectory = steps(4.0, 2.0, 6.0)
    assert_steps(averages(trajectory), 4.0, 3.0, 4.0)
    assert_steps(averages(trajectory, start=1), 4.0, 2.0, 4.0)
    # 2 / 0.5;  (1 + 1) / 0.75;  (1 + 3) / 0.875
    assert_steps(averages(trajectory, decay=0.5), 4.0, 8 / 3, 32 / 7)
    assert_steps(oracle_averaged(steps(0.0)[0], steps(1.0, 1.0), 0.1, momentum=0.5), -0.1, -0.25)


def test_lookahead_by_hand():
    # θ = -1, -2.5, φ = -0.625;  m goes on: 1.75, 1.875: θ = -2.375, -4.25, φ = -0.625 - 0.25 * 3.625
    got = oracle_lookahead(steps(0.0)[0], steps(1.0, 1.0, 1.0, 1.0), 1.0, period=2, slow_step=0.25, momentum=0.5)
    assert_steps(got, -1.0, -0.625, -2.375, -1.53125)
    # m begins anew: 1, 1.5: θ = -1.625, -3.125, φ = -0.625 - 0.25 * 2.5
    hyper = {"period": 2, "slow_step": 0.25, "momentum": 0.5, "reset": True}
    assert_steps(oracle_lookahead(steps(0.0)[0], steps(1.0, 1.0, 1.0, 1.0), 1.0, **hyper), -1.0, -0.625, -1.625, -1.25)


def test_weight_norm_by_hand():
    # w = 5 (0.6, 0.8), ∇w = (5, 0): ∇g = 3, ∇v = 5 ((5, 0) - 3 (0.6, 0.8)) = (16, -12)
    # v = (0.6, 0.8) - 0.05 (16, -12) = (-0.2, 1.4), of length sqrt(2); g = 5 - 0.15
    got = oracle_weight_norm(steps([[3.0], [4.0]])[0], steps([[5.0], [0.0]]), 0.05, momentum=0.0)
    length = math.sqrt(2.0)
    assert_steps(got, [[-0.2 * 4.85 / length], [1.4 * 4.85 / length]])
    # g passes 0: the direction stays, w turns around
    got = oracle_weight_norm(steps([[3.0], [4.0]])[0], steps([[6.0], [8.0]]), 1.0, momentum=0.0)
    assert_steps(got, [[-3.0], [-4.0]])
    # zeros go down the steepest way; with one row there is nothing to split
    assert_steps(oracle_weight_norm(steps([[0.0], [0.0]])[0], steps([[3.0], [4.0]]), 0.1), [[-0.3], [-0.4]])
    assert_steps(oracle_weight_norm(steps([[3.0, 4.0]])[0], steps([[5.0, 0.0]]), 0.1), [[2.5, 4.0]])


def test_cautious_by_hand():
    # m = (1, 1), (1.5, -0.5) with g = (1, -1), then (1, 1): the second of three steps keeps both, the third one
    params, grads = steps([0.0, 0.0])[0], steps([1.0, 1.0], [1.0, -1.0], [1.0, 0.125])
    # 2/3 each: 1, 1;  1.5, -0.5;  1.75, and -0.125 against 0.125: 2/2
    got = oracle_cautious(params, grads, 0.3, momentum=0.5)
    assert_steps(got, [-0.2, -0.2], [-0.5, -0.1], [-1.025, -0.1])
    # 1 each; then 2
    got = oracle_cautious(params, grads, 0.3, momentum=0.5, variant="code")
    assert_steps(got, [-0.3, -0.3], [-0.75, -0.15], [-1.8, -0.15])
    assert_steps(oracle_cautious(params, steps([0.0, 0.0]), 0.3, xi=0.0), [0.0, 0.0])


@pytest.mark.parametrize("oracle", ORACLES)
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    takes_every_shape_and_keeps_its_inputs(oracle)
