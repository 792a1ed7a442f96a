"""The oracles of contrib's wrappers against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from .contrib_wrappers import oracle_reduce_on_plateau, oracle_split_complex, scales
from .form import takes_every_shape_and_keeps_its_inputs
from .test_oracles import assert_steps, steps


def test_scales_by_hand():
    assert scales([3, 2, 2, 2, 1, 1, 1], factor=0.5, patience=2) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    # progress must be more than a tenth, or than a half
    assert scales([10, 9.5, 8], factor=0.5, patience=1, rtol=0.1) == [1, 0.5, 0.5]
    assert scales([2, 1.6, 1], factor=0.5, patience=1, rtol=0.0, atol=0.5) == [1, 0.5, 0.5]
    # of negative values, too
    assert scales([-10, -10.5, -12], factor=0.5, patience=1, rtol=0.1) == [1, 0.5, 0.5]
    # two values are waited for, and one of them is progress
    assert scales([1] * 5, factor=0.5, patience=1, cooldown=2) == [1, 0.5, 0.5, 0.5, 0.25]
    # means 2, 2, 1.5
    assert scales([1, 3, 3, 1, 1, 2], factor=0.5, patience=1, accumulation_size=2) == [1, 1, 1, 0.5, 0.5, 0.5]
    assert scales([1] * 4, factor=0.5, patience=1, min_scale=0.3) == [1, 0.5, 0.3, 0.3]
    assert scales([1, math.nan, 1], factor=0.5, patience=1) == [1, 0.5, 0.25]


def test_reduce_on_plateau_by_hand():
    # m = 1, 1.5, 1.75, the third at a half of the rate
    got = oracle_reduce_on_plateau(
        steps(0.0)[0], steps(1.0, 1.0, 1.0), 0.5, factor=0.5, patience=2, momentum=0.5, values=[1.0, 1.0, 1.0]
    )
    assert_steps(got, -0.5, -1.25, -1.6875)


def test_split_complex_by_hand():
    # m = 1 + i, then 1.5 + 0.5 i
    params, grads = {"z": np.array([0j])}, [{"z": np.array([1 - 1j])}, {"z": np.array([1 + 0j])}]
    got = oracle_split_complex(params, grads, 1.0, momentum=0.5)
    assert [step["z"][0] for step in got] == [-1 - 1j, -2.5 - 1.5j]
    got = oracle_split_complex(params, grads, 1.0, momentum=0.0, conjugate=False)
    assert [step["z"][0] for step in got] == [-1 + 1j, -2 + 1j]


@pytest.mark.parametrize("oracle", [oracle_reduce_on_plateau, oracle_split_complex])
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    takes_every_shape_and_keeps_its_inputs(oracle)
