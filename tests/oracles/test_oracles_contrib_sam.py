"""The oracles of sharpness-aware minimization against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from .contrib_sam import adaptively_normalized, normalized, oracle_asam, oracle_looksam, oracle_sam
from .form import takes_every_shape_and_keeps_its_inputs
from .test_oracles import assert_steps, steps


def test_sam_by_hand():
    # g = (3, 4), ρ = 0.5: the gradient there is (3.3, 4.4); then g = 0, where there is no uphill: m = 0.5 (3.3, 4.4)
    got = oracle_sam(steps([0.0, 0.0])[0], steps([3.0, 4.0], [0.0, 0.0]), 0.1, rho=0.5, momentum=0.5)
    assert_steps(got, [-0.33, -0.44], [-0.495, -0.66])
    # the loss |w|²/2: at 2 the gradient uphill is 2.5, at 1.75 it is 2.25
    got = oracle_sam(steps(2.0)[0], steps(0.0, 0.0), 0.1, rho=0.5, momentum=0.0, gradient=lambda q: q)
    assert_steps(got, 1.75, 1.525)


def test_several_ascents_by_hand():
    # directions 1, and 0.5 · 1 + 0.5 · 1 of the second: ε̂ = 0.5, then 0.75, in all 1.25
    hyper = {"rho": 1.0, "sync_period": 3, "decay": 0.5, "momentum": 0.0}
    got = oracle_sam(steps(0.0)[0], steps(1.0, 1.0), 0.1, **hyper)
    assert_steps(got, -0.225, -0.45)
    # kept, the average goes on to 0.875 and 0.9375
    got = oracle_sam(steps(0.0)[0], steps(1.0, 1.0), 0.1, reset_state=False, **hyper)
    assert_steps(got, -0.225, -0.225 - 0.1 * (1 + 0.875 + 0.9375))
    # corrected, each is 1
    got = oracle_sam(steps(0.0)[0], steps(1.0), 0.1, debias=True, **hyper)
    assert_steps(got, -0.3)


def test_transparent_sam_by_hand():
    # up by 0.5, and back by the second gradient; m = 2, then 0.5 · 2 + 4
    hyper = {"rho": 0.5, "opaque_mode": False, "momentum": 0.5}
    got = oracle_sam(steps(0.0)[0], steps(1.0, 2.0, -3.0, 4.0), 0.1, **hyper)
    assert_steps(got, 0.5, -0.2, -0.7, -0.7)
    assert_steps(oracle_sam(steps(0.0)[0], steps(1.0, 2.0), 0.1, sync_period=1, **hyper), -0.1, -0.35)


def test_directions_by_hand():
    g = steps([3.0, 4.0])[0]
    assert_steps([normalized(g, g)], [0.6, 0.8])
    # T = (1, 2), T g = (3, 8), of length sqrt(73)
    assert_steps([adaptively_normalized(0.5)(steps([-0.5, 1.5])[0], g)], [3 / math.sqrt(73), 16 / math.sqrt(73)])
    assert_steps([adaptively_normalized(0.0)(steps([0.0, 0.0])[0], g)], [0.0, 0.0])


def test_asam_by_hand():
    # T = (3, 2), T g = (3, 4): q - w = 0.5 (9/5, 8/5); the gradient there is (1.9, 2.8)
    got = oracle_asam(steps([3.0, 2.0])[0], steps([1.0, 2.0]), 0.1, eta=0.0, momentum=0.0)
    assert_steps(got, [2.81, 1.72])


def test_looksam_by_hand():
    # g_s = (1, 2), g_v = (1, 0); then (0, 3) + 0.5 · 3 (1, 0); m doubles up
    hyper = {"period": 2, "rho": 1.0, "alpha": 0.5, "momentum": 0.5}
    got = oracle_looksam(
        steps([0.0, 0.0])[0], steps([0.0, 2.0], [0.0, 3.0]), 0.1, gradient=lambda g, q: steps([1.0, 2.0])[0], **hyper
    )
    assert_steps(got, [-0.1, -0.2], [-0.3, -0.6])
    # parallel gradients have nothing to use again
    got = oracle_looksam(steps([0.0, 0.0])[0], steps([0.0, 2.0], [0.0, 3.0]), 0.1, **hyper)
    assert_steps(got, [0.0, -0.3], [0.0, -0.75])


@pytest.mark.parametrize("oracle", [oracle_sam, oracle_asam, oracle_looksam])
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    takes_every_shape_and_keeps_its_inputs(oracle)
    assert np.isfinite(oracle(steps(0.0)[0], steps(0.0), 0.1)[0]["w"])
