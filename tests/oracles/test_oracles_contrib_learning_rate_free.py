"""The oracles of rules that find their learning rate, and of newer relatives of Adam, against values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from . import contrib_adam_variants as adam
from . import contrib_learning_rate_free as free
from . import contrib_momo as momo
from .form import takes_every_shape_and_keeps_its_inputs
from .test_oracles import HALVES, assert_steps, steps

MOVING = [
    free.oracle_dadapt_adamw, free.oracle_prodigy, free.oracle_dog, free.oracle_ldog, free.oracle_dowg,
    free.oracle_cocob, free.oracle_madgrad, momo.oracle_momo, momo.oracle_momo_adam, adam.oracle_ademamix,
    adam.oracle_simplified_ademamix,
]  # fmt: skip
QUARTER = {"beta1": 0.5, "beta2": 0.25, "eps": 1.0, "d0": 1.0}
ROOT3 = math.sqrt(3) + 1


@pytest.mark.parametrize("oracle", MOVING)
def test_oracles_take_every_shape_and_keep_their_inputs(oracle):
    takes_every_shape_and_keeps_its_inputs(oracle)


@pytest.mark.parametrize("oracle", [adam.oracle_acprop, adam.oracle_adopt, momo.oracle_mechanic])
def test_oracles_that_begin_by_standing_still_do_too(oracle):
    takes_every_shape_and_keeps_its_inputs(lambda params, grads, lr: oracle(params, grads * 2, 0.1)[1:4])


@pytest.mark.parametrize(("measure", "root"), [("old", ROOT3), ("new", math.sqrt(3.75) + 1)])
def test_dadapt_adamw_by_hand(measure, root):
    # γ = 4: m = 4, 6;  v = 3, 3.75;  s = 4, 6;  r = 1/2 * 4 * 2 * 4 / root, so that d = r / (1/2 * 6) = 16 / 3 / root
    d = 16 / 3 / root
    second = -4 / ROOT3 - 6 / (math.sqrt(3.75) + 1)
    got = free.oracle_dadapt_adamw(steps(0.0)[0], steps(2.0, 2.0, 2.0), 4.0, measure=measure, **QUARTER)
    assert_steps(got, -4 / ROOT3, second, second - (3 + 4 * d) / (math.sqrt(3.9375) + 1))


def test_dadapt_adamw_with_its_options_by_hand():
    # by 5/4 at most;  the decay of the third step is by γ d 0.5 x
    second = -4 / ROOT3 - 6 / (math.sqrt(3.75) + 1)
    got = free.oracle_dadapt_adamw(steps(0.0)[0], steps(2.0, 2.0, 2.0), 4.0, growth_rate=1.25, **QUARTER)
    assert_steps(got, -4 / ROOT3, second, second - (3 + 5) / (math.sqrt(3.9375) + 1))
    got = free.oracle_dadapt_adamw(steps(1.0)[0], steps(2.0), 4.0, weight_decay=0.5, **QUARTER)
    assert_steps(got, 1 - 4 / ROOT3 - 2)
    # √(3/4) / (1/2) = √3 times the rate
    got = free.oracle_dadapt_adamw(steps(0.0)[0], steps(2.0), 4.0, bias_correction=True, **QUARTER)
    assert_steps(got, -4 * math.sqrt(3) / ROOT3)


def test_prodigy_by_hand():
    # γ = 8: m = 1, 1.5;  v = 3, 3.75;  s = 8, 12;  r = 1/2 * 8 * 2 * 8 / (√3 + 1);  then d = r / 12
    d = 16 / 3 / ROOT3
    first, second = -8 / ROOT3, -8 / ROOT3 - 12 / (math.sqrt(3.75) + 1)
    third = second - 8 * d * (0.75 + d) / (math.sqrt(0.9375 + 3 * d**2) + d)
    assert_steps(free.oracle_prodigy(steps(0.0)[0], steps(2.0, 2.0, 2.0), 8.0, **QUARTER), first, second, third)


def test_prodigy_with_its_options_by_hand():
    def after_three(d, **options):
        first, second = -8 / ROOT3, -8 / ROOT3 - 12 / (math.sqrt(3.75) + 1)
        third = second - 8 * d * (0.75 + d) / (math.sqrt(0.9375 + 3 * d**2) + d)
        got = free.oracle_prodigy(steps(0.0)[0], steps(2.0, 2.0, 2.0), 8.0, **QUARTER, **options)
        assert_steps(got, first, second, third)

    after_three(32 / 3 / ROOT3, d_coef=2.0)
    after_three(16 / 3 / ROOT3, growth_rate=1.5)  # the first growth is free
    after_three(8 * 16 / 3 / ROOT3, safeguard_warmup=True)  # s = 1.5 instead of 12
    after_three(8 / ROOT3, beta3=0.0)  # r = 8 * 2 * 8 / (√3 + 1), s = 16
    got = free.oracle_prodigy(steps(1.0)[0], steps(2.0), 8.0, weight_decay=0.5, **QUARTER)
    assert_steps(got, 1 - 8 / ROOT3 - 4)
    got = free.oracle_prodigy(steps(0.0)[0], steps(2.0), 8.0, bias_correction=True, **QUARTER)
    assert_steps(got, -8 * math.sqrt(3) / ROOT3)


def test_prodigys_later_growth_is_bounded_by_hand():
    # d = 16 / 3 / (√3 + 1) after two steps; the third estimate is larger than 1.01 times that
    d = 16 / 3 / ROOT3
    free_growth, bounded = (
        free.oracle_prodigy(steps(0.0)[0], steps(2.0, 2.0, 2.0, 2.0), 8.0, growth_rate=rate, **QUARTER)
        for rate in (math.inf, 1.01)
    )
    assert free_growth[2]["w"] == bounded[2]["w"]
    m, v = (0.75 + d) / 2 + 1.01 * d, (0.9375 + 3 * d**2) / 4 + 3 * (1.01 * d) ** 2
    step = 8 * 1.01 * d * m / (math.sqrt(v) + 1.01 * d)
    np.testing.assert_allclose(bounded[3]["w"], bounded[2]["w"] - step, rtol=1e-14)
    assert free_growth[3]["w"] < bounded[3]["w"]


def test_dog_by_hand():
    # r = 0.5 (1 + 5) = 3, then |x - x0| = 6;  G = 100, then 26²
    got = free.oracle_dog(steps([3.0, 4.0])[0], steps([6.0, 8.0], [24.0, 0.0]), 2.0, reps_rel=0.5, eps=0.0)
    assert_steps(got, [-0.6, -0.8], [-0.6 - 2 * 6 / 26 * 24, -0.8])
    got = free.oracle_dog(steps([3.0, 4.0])[0], steps([6.0, 8.0]), 1.0, reps_rel=0.5, eps=44.0)
    assert_steps(got, [3 - 3 / 12 * 6, 4 - 3 / 12 * 8])


def test_ldog_takes_each_parameter_by_itself():
    params, grads = {"a": np.array(1.0), "b": np.array(0.0)}, [{"a": np.array(7.0), "b": np.array(-1e-6)}]
    got = free.oracle_ldog(params, grads, 1.0, reps_rel=0.5, eps=0.0)[0]
    np.testing.assert_allclose([got["a"], got["b"]], [0.0, 0.5], rtol=1e-14)


def test_dowg_by_hand():
    # r = 0.5 both times;  √v = 0.5 * 7, then 0.5 * 25
    got = free.oracle_dowg(steps(3.0)[0], steps(7.0, 24.0), 1.0, r_eps=0.5, eps=0.0)
    assert_steps(got, 2.5, 2.5 - 0.25 / 12.5 * 24)
    # r = 1 after a step of 1;  v = 0.25 * 49 + 1 * 36;  with eps = 1 in the first step
    got = free.oracle_dowg(steps(3.0)[0], steps(7.0, 6.0), [2.0, 1.0], r_eps=0.5, eps=0.0)
    assert_steps(got, 2.0, 2.0 - 6 / math.sqrt(48.25))
    assert_steps(free.oracle_dowg(steps(3.0)[0], steps(8.0), 1.0, r_eps=0.5, eps=1.0), 3 - 0.25 / 5 * 8)


def test_cocob_by_hand():
    # L = 2, 4, 4;  G = 2, 6, 10;  θ = -2, 2, 6;  reward = 0, 0 (lost), 1/8 * 4
    got = free.oracle_cocob(steps(1.0)[0], steps(2.0, -4.0, -4.0), 1.0, alpha=4.0, eps=0.0)
    assert_steps(got, 0.75, 1.125, 1 + 6 / 64 * 4.5)
    # half the way;  with L = 4 from the start:  -2 / (4 * 16) * 4
    assert_steps(free.oracle_cocob(steps(1.0)[0], steps(2.0), 0.5, alpha=4.0, eps=0.0), 0.875)
    assert_steps(free.oracle_cocob(steps(1.0)[0], steps(2.0), 1.0, alpha=4.0, eps=4.0), 0.875)


def test_madgrad_by_hand():
    # z = 1 - 8/4;  then λ = 2 √2 / √2: s = 8 + 2 * 4, ν = 64 + 2 * 16
    got = free.oracle_madgrad(steps(1.0)[0], steps(8.0, 4.0), [1.0, math.sqrt(2)], momentum=0.5, eps=0.0)
    assert_steps(got, 0.0, 0.5 * (1 - 16 / math.cbrt(96)))
    assert_steps(free.oracle_madgrad(steps(1.0)[0], steps(8.0), 1.0, momentum=0.0, eps=4.0), 0.0)


def test_momo_by_hand():
    # f = 25, 15.625;  γ = 50, 31.25;  d = [6, 8], [4.5, 6];  h = 25, 3.125
    params, grads = steps([3.0, 4.0])[0], steps([6.0, 8.0], [3.0, 4.0])
    got = momo.oracle_momo(params, grads, 10.0, beta=0.5, values=[25.0, 6.25])
    assert_steps(got, [1.5, 2.0], [1.25, 2 - 1 / 3])
    # 1.5 (25 - 50) + 50 = 12.5, over 100;  then all of it over 1.5
    got = momo.oracle_momo(params, grads[:1], 1.0, beta=0.0, weight_decay=0.5, values=[25.0])
    assert_steps(got, [1.5, 2.0])
    # halves of all: h = 12.5 - 0.5 * 5, over 25;  or lr / 0.5
    got = momo.oracle_momo(params, grads[:1], 1.0, beta=0.5, lower_bound=5.0, bias_correction=True, values=[25.0])
    assert_steps(got, [1.8, 2.4])
    got = momo.oracle_momo(params, grads[:1], 0.1, beta=0.5, bias_correction=True, values=[25.0])
    assert_steps(got, [2.4, 3.2])


def test_momos_lower_bound_by_hand():
    # 25 - 1/2 1/4 100 = 12.5, above the next loss, so that it is half of that;  then (6.25 - 3.125) / 25
    params, grads = steps([3.0, 4.0])[0], steps([6.0, 8.0], [3.0, 4.0])
    got = momo.oracle_momo(params, grads, 1.0, beta=0.0, adapt_lower_bound=True, values=[25.0, 6.25])
    assert_steps(got, [1.5, 2.0], [1.125, 1.5])


def test_momo_adam_by_hand():
    # d = 1.5, D = 1 + 3, f = γ = <d, x> = 4.5: h = 4.5, over 2.25 / 4;  lr / 0.5 is less at lr = 2
    params, grads = steps(3.0)[0], steps(3.0)
    assert_steps(momo.oracle_momo_adam(params, grads, 10.0, values=[9.0], **HALVES), 0.0)
    assert_steps(momo.oracle_momo_adam(params, grads, 2.0, values=[9.0], **HALVES), 1.5)
    # 3 (4.5 - 0.5 - 4.5) + 4.5 = 3, over 9/16, times 3/8, over 3
    got = momo.oracle_momo_adam(params, grads, 10.0, values=[9.0], weight_decay=0.2, lower_bound=1.0, **HALVES)
    assert_steps(got, (3 - 3 / (9 / 16) * 3 / 8) / 3)


def test_mechanic_by_hand():
    # Δ = -2, -5, -6;  h = 0, -6, -5;  m = 0, 6, 5.4;  v = 0, 36, 0.81 * 36 + 25;  r = 0, 0, 0.5 * 5;  s = 0, 0.5, ...
    options = {"s_init": 0.5, "num_betas": 1, "eps": 0.0, "momentum": 0.0}
    params, grads = steps(1.0)[0], steps(2.0, 3.0, 1.0)
    got = momo.oracle_mechanic(params, grads, 1.0, s_decay=0.0, **options)
    assert_steps(got, 1.0, -1.5, 1 - 6 * 5.2 / math.sqrt(54.16))
    # the decay is 0.5 * 1 / 1.5 * -1.5 = -0.5: h = -5 * 0.5
    got = momo.oracle_mechanic(params, grads, 1.0, s_decay=1.0, **options)
    assert_steps(got, 1.0, -1.5, 1 - 6 * (2.7 + 1.25) / math.sqrt(35.41))
    # m = 0.9 * 10 / 2 each at the first step, over eps alone
    got = momo.oracle_mechanic(params, grads[:1], 1.0, s_init=0.5, num_betas=1, eps=9.0, m_init=10.0, momentum=0.0)
    assert_steps(got, 1 - 2 * 0.5)


def test_acprop_by_hand():
    # m = 1, 2;  s = 1/4, 7/16, so that ŝ = 1 both times
    got = adam.oracle_acprop(steps(0.0)[0], steps(2.0, 3.0, 5.0), 0.1, beta1=0.5, beta2=0.75, eps=0.0)
    assert_steps(got, 0.0, -0.3, -0.8)
    got = adam.oracle_acprop(steps(0.0)[0], steps(2.0, 3.0), 0.1, beta1=0.5, beta2=0.75, eps=1.0)
    assert_steps(got, 0.0, -0.15)


def test_adopt_by_hand():
    # v = 16, 13;  2/4, then 26 / √13 = 7.2, clipped to 2^(1/4)
    params, grads = steps(0.0)[0], steps(4.0, 2.0, 26.0)
    got = adam.oracle_adopt(params, grads, 0.1, beta1=0.5, beta2=0.75)
    assert_steps(got, 0.0, -0.025, -0.025 - 0.1 * (0.125 + 0.5 * 2**0.25))
    got = adam.oracle_adopt(params, grads, 0.1, beta1=0.5, beta2=0.75, clipping=False, eps=8.0)
    assert_steps(got, 0.0, -0.0125, -0.0125 - 0.1 * (0.0625 + 0.5 * 26 / 8))


def test_ademamix_by_hand():
    # (2 + 4 * 1/2) / 3, (4 + 4 * 13/8) / 5
    params, grads = steps(1.0)[0], steps(2.0, 5.0)
    assert_steps(adam.oracle_ademamix(params, grads, 0.3, beta3=0.75, alpha=4.0, **HALVES), 0.6, -0.03)
    got = adam.oracle_ademamix(params, grads[:1], 0.3, beta3=0.75, alpha=4.0, weight_decay=0.5, **HALVES)
    assert_steps(got, 0.45)
    # half-lives of 1 and 4, and 2.5 between;  alpha = 2
    got = adam.oracle_ademamix(params, grads[:1], 0.3, beta3=0.5**0.25, alpha=4.0, warmup=2, **HALVES)
    assert_steps(got, 1 - 0.3 * (2 + 2 * 2 * (1 - 0.5**0.4)) / 3)


def test_simplified_ademamix_by_hand():
    # (2 + 2 * 2) / 3, (6 + 2 * 5) / 5
    params, grads = steps(1.0)[0], steps(2.0, 5.0)
    assert_steps(adam.oracle_simplified_ademamix(params, grads, 0.1, alpha=2.0, **HALVES), 0.8, 0.48)
    got = adam.oracle_simplified_ademamix(params, grads[:1], 0.1, weight_decay=0.5, **HALVES)
    assert_steps(got, 1 - 0.1 * (2 / 3 + 0.5))
    # β1 = 0.5^(1/1.5) at t = 1 has nothing to forget;  at t = 2 of 4 half-lives are (2 * 1/2 + 2 * 1) / 4 = 3/4
    got = adam.oracle_simplified_ademamix(params, grads, 0.1, warmup=4, min_beta1=0.25, **HALVES)
    assert_steps(got, 1 - 0.1 * 2 / 3, 1 - 0.1 * 2 / 3 - 0.1 * (2 * 0.5 ** (4 / 3) + 5) / 5)
