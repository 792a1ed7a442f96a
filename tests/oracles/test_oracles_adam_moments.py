"""The oracles of rules with moments other than Adam's, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from .adam_moments import oracle_adabelief, oracle_adan, oracle_novograd, oracle_yogi
from .test_oracles import HALVES, assert_steps, steps
from .test_oracles_adam_variants import test_oracle_takes_every_shape_and_keeps_its_inputs as takes_every_shape

THIRDS = {"beta1": 0.5, "beta2": 0.5, "beta3": 0.75, "eps": 1.0}


def test_adabelief_by_hand():
    # m = 1, 3: s = 1/4 * 1 + 3/4 = 1, s_hat = 4, 2 / (2 + 1);  s = 3/4 + 1/4 * 4 + 3/4 = 5/2, s_hat = 40/7
    second = 4 / (math.sqrt(40 / 7) + 1)
    got = oracle_adabelief(steps(1.0)[0], steps(2.0, 5.0), 0.3, eps_root=0.75, **HALVES)
    assert_steps(got, 0.8, 0.8 - 0.3 * second)
    # read, not stored: s = 1/4, s_hat = 1 and 1 + 3 = 4;  s = 3/16 + 1 = 19/16, s_hat = 19/7 and 19/7 + 3 = 40/7
    got = oracle_adabelief(steps(1.0)[0], steps(2.0, 5.0), 0.3, eps_root=3.0, eps_in_mean=False, **HALVES)
    assert_steps(got, 0.8, 0.8 - 0.3 * second)


def test_yogi_by_hand():
    # m = 1, 1;  v = 1 + 1/4 * 4 = 2, then 2 - 1/4 * 1 = 7/4
    hyper = {**HALVES, "initial_nu": 1.0}
    first, second = 1 / (math.sqrt(2) + 1), 1 / (math.sqrt(1.75) + 1)
    got = oracle_yogi(steps(1.0)[0], steps(2.0, 1.0), 0.3, **hyper)
    assert_steps(got, 1 - 0.3 * first, 1 - 0.3 * (first + second))
    # corrected: 1 / (1/2) and 1 / (3/4);  2 / (1/4) and 7/4 / (7/16) = 4
    first, second = 2 / (math.sqrt(8) + 1), 4 / 3 / 3
    got = oracle_yogi(steps(1.0)[0], steps(2.0, 1.0), 0.3, debias=True, **hyper)
    assert_steps(got, 1 - 0.3 * first, 1 - 0.3 * (first + second))


def test_yogi_starts_where_it_is_told():
    # m = 1/2 * 4 + 1/2 * 2 = 3;  v = 4 already is g²: 3 / (2 + 1)
    assert_steps(oracle_yogi(steps(1.0)[0], steps(2.0), 0.3, initial_mu=4.0, initial_nu=4.0, **HALVES), 0.7)


def test_adan_by_hand():
    # m = 1, n = 1/4 * 4: 2 / (2 + 1);  difference 3: m_hat = 4, v_hat = 3/2 / (3/4) = 2, n = 3/4 + 1/4 * 6.5² = 181/16
    second = (4 + 0.5 * 2) / (math.sqrt(181 / 7) + 1)
    assert_steps(oracle_adan(steps(1.0)[0], steps(2.0, 5.0), 0.3, **THIRDS), 0.8, 0.8 - 0.3 * second)
    # from the first gradient: m = 2, n = 4;  m = 3.5, v = 1.5, n = 3 + 1/4 * 6.5² = 13.5625
    second = (3.5 + 0.5 * 1.5) / (math.sqrt(13.5625) + 1)
    got = oracle_adan(steps(1.0)[0], steps(2.0, 5.0), 0.3, debias=False, **THIRDS)
    assert_steps(got, 0.8, 0.8 - 0.3 * second)


def test_adan_decays_proximally_or_decoupled():
    # (1 - 0.3 * 2/3) / (1 + 0.3 * 0.5) and 1 - 0.3 * 0.5 - 0.3 * 2/3
    hyper = {**THIRDS, "weight_decay": 0.5}
    assert_steps(oracle_adan(steps(1.0)[0], steps(2.0), 0.3, **hyper), 0.8 / 1.15)
    assert_steps(oracle_adan(steps(1.0)[0], steps(2.0), 0.3, decoupled=True, **hyper), 0.65)


def test_novograd_by_hand():
    # v = 25: (3, 4) / (5 + 5) + 0.5 * (1, 0) = (0.8, 0.4);  v = 12.5 + 0.5 * 175 = 100: (7, √126) / (10 + 5)
    hyper = {"beta1": 0.5, "beta2": 0.5, "eps": 5.0}
    grads = steps([3.0, 4.0], [7.0, math.sqrt(126.0)])
    x1 = np.array([1.0, 0.0]) - 0.1 * np.array([0.8, 0.4])
    m2 = 0.5 * np.array([0.8, 0.4]) + np.array([7.0, math.sqrt(126.0)]) / 15 + 0.5 * x1
    got = oracle_novograd(steps([1.0, 0.0])[0], grads, 0.1, weight_decay=0.5, **hyper)
    assert_steps(got, x1, x1 - 0.1 * m2)
    # averaged, without decay: half of each term, so half of each moment
    m1 = np.array([0.3, 0.4])
    m2 = 0.5 * m1 + grads[1]["w"] / 15
    got = oracle_novograd(steps([1.0, 0.0])[0], grads, 0.1, averaging=True, **hyper)
    assert_steps(got, np.array([1.0, 0.0]) - 0.05 * m1, np.array([1.0, 0.0]) - 0.05 * (m1 + m2))


@pytest.mark.parametrize("oracle", [oracle_adabelief, oracle_adan, oracle_novograd, oracle_yogi])
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    takes_every_shape(oracle)
