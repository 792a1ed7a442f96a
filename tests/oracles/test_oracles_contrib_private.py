"""The oracles of differentially private descent against values computed by hand."""

from __future__ import annotations

import functools
import math

import numpy as np

from .contrib_private import aggregate, oracle_dpsgd, oracle_of_one
from .form import takes_every_shape_and_keeps_its_inputs
from .test_oracles import assert_steps, steps


def test_aggregate_by_hand():
    grads = {"a": np.array([3.0, 0.5, 1.0]), "b": np.array([4.0, 0.0, math.inf])}
    noise = {"a": np.array(1.0), "b": np.array(-1.0)}
    # of norm 5, clipped to 2; of norm 0.5; and one that is not finite
    got = aggregate(grads, noise, max_norm=2.0, noise_multiplier=0.5, size=None)
    np.testing.assert_allclose([got["a"], got["b"]], [(1.2 + 0.5 + 1) / 3, (1.6 - 1) / 3])
    got = aggregate(grads, noise, max_norm=2.0, noise_multiplier=0.0, size=10)
    np.testing.assert_allclose([got["a"], got["b"]], [0.17, 0.16])


def test_dpsgd_by_hand():
    # private gradients 1 + 0.5, 0 - 0.5; m = 1.5, 0.25
    got = oracle_dpsgd(steps(0.0)[0], steps([4.0], [0.0]), 0.1, max_norm=1.0, noise_multiplier=0.5, seed=0,
                       momentum=0.5, noise=steps(1.0, -1.0))  # fmt: skip
    assert_steps(got, -0.15, -0.175)


def test_oracle_takes_every_shape_and_keeps_its_inputs():
    takes_every_shape_and_keeps_its_inputs(
        functools.partial(oracle_of_one, max_norm=100.0, noise_multiplier=1.0, seed=0)
    )
