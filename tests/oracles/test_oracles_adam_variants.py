"""The oracles of Adam's variants against values computed by hand.

Most use test_oracles.py's gradients 2 and 5 with beta1 = 1/2, beta2 = 3/4, for which m_hat = 2, 4 and v_hat = 4, 16.
"""

from __future__ import annotations

import math

import pytest

from .adam_variants import (
    oracle_adam_atan2,
    oracle_adamax,
    oracle_amsgrad,
    oracle_laprop,
    oracle_nadam,
    oracle_radam,
    oracle_stable_adamw,
)
from .form import takes_every_shape_and_keeps_its_inputs
from .test_oracles import HALVES, assert_steps, steps

ORACLES = [
    oracle_adam_atan2,
    oracle_adamax,
    oracle_amsgrad,
    oracle_laprop,
    oracle_nadam,
    oracle_radam,
    oracle_stable_adamw,
]


def test_nadam_at_constant_momentum_by_hand():
    # t = 1: 1/2 * 2 / (1/2) + 1/2 * 1 / (3/4) = 8/3, over 2 + 1;  t = 2: 1/2 * 5 / (3/4) + 1/2 * 3 / (7/8) = 106/21
    got = oracle_nadam(steps(1.0)[0], steps(2.0, 5.0), 0.9, warmup=0.0, **HALVES)
    assert_steps(got, 1 - 0.9 * 8 / 9, 1 - 0.9 * 8 / 9 - 0.9 * 106 / 105)


def test_nadam_with_its_schedule_by_hand():
    # 0.96^(t d) = 2^-t, so that the momenta are 1/4, 3/8, 7/16 and one minus their products 3/4, 29/32, 491/512
    halving = math.log(0.5) / math.log(0.96)
    got = oracle_nadam(steps(1.0)[0], steps(2.0, 5.0), 0.9, warmup=1.0, momentum_decay=halving, **HALVES)
    # m = 3/4 * 2 = 3/2;  3/4 * 2 / (3/4) + 3/8 * 3/2 / (29/32) = 2 + 18/29 = 76/29, over 3
    # m = 3/8 * 3/2 + 5/8 * 5 = 59/16;  5/8 * 5 / (29/32) + 7/16 * 59/16 / (491/512), over 5
    first, second = 76 / 29 / 3, (100 / 29 + 7 * 59 * 2 / 491) / 5
    assert_steps(got, 1 - 0.9 * first, 1 - 0.9 * first - 0.9 * second)


def test_nadamw_by_hand():
    # 1 - 0.9 * (8/9 + 0.5) = -0.25
    got = oracle_nadam(steps(1.0)[0], steps(2.0), 0.9, warmup=0.0, weight_decay=0.5, **HALVES)
    assert_steps(got, -0.25)


@pytest.mark.parametrize(
    ("debias", "first", "second"),
    [
        ("after", 2 / 3, 2 / 3 / (math.sqrt(16 / 7) + 1)),  # m_hat = 2, 1/2 / (3/4);  the maximum stays 1, over 7/16
        ("before", 2 / 3, 2 / 9),  # the corrected v are 4 and 3/4 / (7/16) = 12/7: the maximum stays 4
        ("never", 1 / 2, 1 / 4),  # m = 1, 1/2;  v = 1, 3/4: the maximum stays 1
    ],
)
def test_amsgrad_by_hand(debias, first, second):
    got = oracle_amsgrad(steps(1.0)[0], steps(2.0, 0.0), 0.3, debias=debias, **HALVES)
    assert_steps(got, 1 - 0.3 * first, 1 - 0.3 * first - 0.3 * second)


def test_adamax_by_hand():
    hyper = {"beta1": 0.5, "beta2": 0.5, "eps": 1.0}
    # m_hat = 2, 1.  Inside: u = 2 + 1, max(1.5, 0.5 + 1);  2 / 3 and 1 / 1.5
    assert_steps(oracle_adamax(steps(1.0)[0], steps(2.0, 0.5), 0.3, **hyper), 0.8, 0.6)
    # outside: u = 2, max(1, 0.5);  2 / (2 + 1) and 1 / (1 + 1)
    assert_steps(oracle_adamax(steps(1.0)[0], steps(2.0, 0.5), 0.3, eps_inside=False, **hyper), 0.8, 0.65)
    # decay by 0.3 * 0.5 of the weight as well
    assert_steps(oracle_adamax(steps(1.0)[0], steps(2.0), 0.3, weight_decay=0.5, **hyper), 0.65)


def test_radam_by_hand():
    # rho_inf = 7; rho grows 1, 1.86, 2.6, 3.3, 3.89, then 7 - 12 * (729/4096) / (3367/4096) = 14821/3367 = 4.40
    rho = 14821 / 3367
    r = math.sqrt((rho - 4) * (rho - 2) * 7 / (3 * 5 * rho))
    got = oracle_radam(steps(1.0)[0], steps(*[2.0] * 6), 0.1, **HALVES)
    assert_steps(got, 0.8, 0.6, 0.4, 0.2, 0.0, -0.1 * r * 2 / 3)
    # not rectified until rho exceeds the threshold, nor ever where rho_inf = 3
    got = oracle_radam(steps(1.0)[0], steps(*[2.0] * 6), 0.1, threshold=5.0, **HALVES)
    assert_steps(got, 0.8, 0.6, 0.4, 0.2, 0.0, -0.2)
    got = oracle_radam(steps(1.0)[0], steps(*[2.0] * 6), 0.1, beta1=0.5, beta2=0.5)
    assert_steps(got, 0.8, 0.6, 0.4, 0.2, 0.0, -0.2)


def test_laprop_by_hand():
    # 2 / (2 + 1) and 5 / (4 + 1): m = 1/3, 1/6 + 1/2 = 2/3;  m_hat = 2/3, 8/9
    got = oracle_laprop(steps(1.0)[0], steps(2.0, 5.0), 0.9, **HALVES)
    assert_steps(got, 0.4, -0.4)


def test_adam_atan2_by_hand():
    hyper = {"beta1": 0.5, "beta2": 0.75}
    # atan2(2, 2) = atan2(4, 4) = pi / 4
    assert_steps(oracle_adam_atan2(steps(1.0)[0], steps(2.0, 5.0), 0.3, **hyper), 0.7, 0.4)
    # 3 atan(2 / 8) and 3 atan(4 / 16)
    step = 0.3 * 3 * math.atan(0.25)
    assert_steps(oracle_adam_atan2(steps(1.0)[0], steps(2.0, 5.0), 0.3, a=3.0, b=4.0, **hyper), 1 - step, 1 - 2 * step)
    assert_steps(oracle_adam_atan2(steps(1.0)[0], steps(0.0), 0.3, **hyper), 1.0)


def test_stable_adamw_by_hand():
    # RMS = sqrt(4/4) = 1;  1 - 0.3 * (0.5 + 2/3) = 0.65.  RMS = sqrt(25/16) = 1.25;  0.65 - 0.24 * (0.325 + 4/5) = 0.38
    got = oracle_stable_adamw(steps(1.0)[0], steps(2.0, 5.0), 0.3, weight_decay=0.5, **HALVES)
    assert_steps(got, 0.65, 0.38)
    # above a threshold of 2 it never is: 0.65 - 0.3 * (0.325 + 4/5)
    got = oracle_stable_adamw(steps(1.0)[0], steps(2.0, 5.0), 0.3, weight_decay=0.5, threshold=2.0, **HALVES)
    assert_steps(got, 0.65, 0.3125)


def test_stable_adamw_clips_by_the_mean_over_a_tensor():
    # the second RMS is sqrt((25/16 + 0) / 2) < 1: no clipping
    got = oracle_stable_adamw(steps([1.0, 0.0])[0], steps([2.0, 0.0], [5.0, 0.0]), 0.3, weight_decay=0.5, **HALVES)
    assert_steps(got, [0.65, 0.0], [0.3125, 0.0])


@pytest.mark.parametrize("oracle", ORACLES)
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    takes_every_shape_and_keeps_its_inputs(oracle)
