"""The oracles of Schedule-Free learning against values computed by hand."""

from __future__ import annotations

import pytest

from .contrib_schedule_free import (
    oracle_schedule_free,
    oracle_schedule_free_adamw,
    oracle_schedule_free_radam,
    oracle_schedule_free_sgd,
    sequences,
)
from .form import takes_every_shape_and_keeps_its_inputs
from .test_oracles import assert_steps, steps


def test_schedule_free_by_hand():
    # m = -1, -4: z = 2, 10; c = 1, 1/2: x = 2, 6; y halfway
    got = oracle_schedule_free(steps(0.0)[0], steps(-1.0, -5.5), 2.0, beta=0.5, decay=0.5)
    assert_steps(got, 2.0, 8.0)
    # not corrected, m = -0.5, -3: z = 1, 7, x = 1, 4
    got = oracle_schedule_free(steps(0.0)[0], steps(-1.0, -5.5), 2.0, beta=0.5, decay=0.5, debias=False)
    assert_steps(got, 1.0, 5.5)


def test_schedule_free_weights_by_hand():
    hyper = {"beta": 1.0, "weight_lr_power": 2.0, "r": 0.0}
    start, grads, plain = steps(0.0)[0], steps(-1.0, -1.0, -1.0), lambda n, i, g, y, t: g
    # γ = 1, 2, 1: z = 1, 3, 4; weights 1, 4, 4: x = 1, 13/5, 29/9
    y, x = sequences(start, grads, [1.0, 2.0, 1.0], plain, **hyper)
    assert_steps(x, 1.0, 13 / 5, 29 / 9)
    assert_steps(y, 1.0, 13 / 5, 29 / 9)
    # without the power of γ, and with that of t: weights 1, 2, 3
    y, x = sequences(start, grads, [1.0, 2.0, 1.0], plain, beta=0.0, weight_lr_power=0.0, r=1.0)
    assert_steps(x, 1.0, 7 / 3, 19 / 6)
    assert_steps(y, 1.0, 3.0, 4.0)
    # nothing has a weight until γ is not 0
    assert_steps(sequences(start, grads, [0.0, 1.0, 1.0], plain, **hyper)[1], 0.0, 1.0, 1.5)


def test_schedule_free_sgd_by_hand():
    # z = 2 - 0.5 (1 + 2) = 0.5 = x = y; z = 0.5 - 0.5 (1 + 0.5) = -0.25, x = 0.125
    got = oracle_schedule_free_sgd(steps(2.0)[0], steps(1.0, 1.0), 0.5, beta=0.5, weight_decay=1.0)
    assert_steps(got, 0.5, -0.0625)


def test_schedule_free_adamw_by_hand():
    # v̂ = 4, direction 2/4 + 2; z = 0.75; v = 3, 9/4 + 9: v̂ = 11.25 / (15/16) = 12, no gradient: z = 0.75 - 0.5 · 0.75
    hyper = {"beta1": 0.5, "beta2": 0.25, "eps": 2.0, "weight_decay": 1.0}
    got = oracle_schedule_free_adamw(steps(2.0)[0], steps(2.0, 0.0), 0.5, **hyper)
    assert_steps(got, 0.75, 0.75 - 0.5 * 0.75 * 0.75)


def test_schedule_free_radam_waits_by_hand():
    # at β2 = 0.75, ρ∞ = 7 and ρ = 1, 1.86, 2.65, 3.34, 3.93, 4.40: the sixth step is the first
    got = oracle_schedule_free_radam(steps(1.0)[0], steps(*[1.0] * 6), 0.5, beta2=0.75, eps=0.0)
    rho = 14821 / 3367
    r = ((rho - 4) * (rho - 2) * 7 / (3 * 5 * rho)) ** 0.5
    assert_steps(got, 1.0, 1.0, 1.0, 1.0, 1.0, 1 - 0.5 * r)


@pytest.mark.parametrize("oracle", [oracle_schedule_free, oracle_schedule_free_sgd, oracle_schedule_free_adamw])
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    takes_every_shape_and_keeps_its_inputs(oracle)
