"""The oracles of stages against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from .clipping import oracle_adaptive_clip, oracle_clip_by_block_rms, oracle_clip_by_value, units
from .form import takes_every_shape_and_keeps_its_inputs
from .gradients import oracle_centralize, oracle_ema_of_gradients, oracle_grokfast, oracle_zero_nans
from .stages import oracle_independent_weight_decay
from .test_oracles import assert_steps, steps

ORACLES = [
    oracle_adaptive_clip,
    oracle_centralize,
    oracle_clip_by_block_rms,
    oracle_clip_by_value,
    oracle_ema_of_gradients,
    oracle_grokfast,
    oracle_independent_weight_decay,
    oracle_zero_nans,
]


def test_independent_weight_decay_by_hand():
    # 1 - 0.5 * 1 - 0.25 * 1 = 0.25;  0.25 + 0.1 * 2 - 0.25 * 0.25 = 0.3875: the second rate leaves the decay alone
    got = oracle_independent_weight_decay(steps(1.0)[0], steps(1.0, -2.0), [0.5, 0.1], rate=0.25)
    assert_steps(got, 0.25, 0.3875)


def test_clip_by_value_by_hand():
    got = oracle_clip_by_value(steps([0.0, 0.0, 0.0])[0], steps([3.0, -5.0, 0.5], [2.0, -2.0, 0.0]), 0.5, max_value=2.0)
    assert_steps(got, [-1.0, 1.0, -0.25], [-2.0, 2.0, -0.25])


def test_clip_by_block_rms_by_hand():
    # of 1 and 7 the RMS is sqrt(25) = 5: halved by the threshold of 2.5;  of 1 and 1 it is 1
    got = oracle_clip_by_block_rms(steps([0.0, 0.0])[0], steps([1.0, 7.0], [1.0, 1.0]), 1.0, threshold=2.5)
    assert_steps(got, [-0.5, -3.5], [-1.5, -4.5])
    two = {"a": np.zeros(2), "b": np.zeros(1)}  # each parameter by itself
    got = oracle_clip_by_block_rms(two, [{"a": np.array([1.0, 7.0]), "b": np.array([5.0])}], 1.0, threshold=5.0)
    assert [x.tolist() for x in got[0].values()] == [[-1.0, -7.0], [-5.0]]


def test_adaptive_clip_by_hand():
    # columns (3, 4) and (1, 0) may have gradients of 0.5 and 0.1: 8 is cut to 0.5, 0.1 stays
    w, g = [[3.0, 1.0], [4.0, 0.0]], [[0.0, 0.0], [8.0, 0.1]]
    assert_steps(oracle_adaptive_clip(steps(w)[0], steps(g), 1.0, clipping=0.1), [[3.0, 1.0], [3.5, -0.1]])
    # a vector is one unit, of norm 5: (0, 8) becomes (0, 0.5)
    assert_steps(oracle_adaptive_clip(steps([3.0, 4.0])[0], steps([0.0, 8.0]), 1.0, clipping=0.1), [3.0, 3.5])
    # at 0 it is eps that counts: 0.1 * 0.5; and with eps = 0 nothing moves
    assert_steps(oracle_adaptive_clip(steps(0.0)[0], steps(8.0), 1.0, clipping=0.1, eps=0.5), -0.05)
    assert_steps(oracle_adaptive_clip(steps(0.0)[0], steps(8.0, 0.0), 1.0, clipping=0.1, eps=0.0), 0.0, 0.0)


@pytest.mark.parametrize(
    ("shape", "heads", "number", "size"),
    [
        ((), True, 1, 1),
        ((6,), True, 1, 6),
        ((1, 1, 1, 6), True, 1, 6),
        ((3, 4), True, 4, 3),
        ((5, 2, 3), True, 6, 5),
        ((5, 2, 3), False, 3, 10),
        ((3, 2, 4, 5), True, 5, 24),
        ((2, 3, 2, 4, 5), False, 5, 48),
        ((1, 3, 1, 2), True, 2, 3),
        ((0, 3), True, 0, None),
    ],
)
def test_units_are_those_of_the_authors_code(shape, heads, number, size):
    found = units(shape, heads)
    assert [len(unit) for unit in found] == [size] * number
    assert sorted(i for unit in found for i in unit) == list(np.ndindex(shape))


def test_centralize_by_hand():
    # columns of means 2 and 5; a vector passes
    got = oracle_centralize(steps(np.zeros((2, 2)))[0], steps([[1.0, 5.0], [3.0, 5.0]]), 1.0)
    assert_steps(got, [[1.0, 0.0], [-1.0, 0.0]])
    assert_steps(oracle_centralize(steps([0.0, 0.0])[0], steps([1.0, 3.0]), 1.0), [-1.0, -3.0])
    # a kernel (1, 2, 1, 2): outputs 1, 3 and 2, 8
    got = oracle_centralize(steps(np.zeros((1, 2, 1, 2)))[0], steps([[[[1.0, 2.0]], [[3.0, 8.0]]]]), 1.0)
    assert_steps(got, [[[[1.0, 3.0]], [[-1.0, -3.0]]]])


def test_zero_nans_by_hand():
    got = oracle_zero_nans(steps([1.0, 1.0])[0], steps([np.nan, 2.0], [1.0, np.nan]), 0.5)
    assert_steps(got, [1.0, 0.0], [0.5, 0.0])


@pytest.mark.parametrize(("debias", "first", "second"), [(True, 1.0, 3.0), (False, 0.5, 2.25)])
def test_ema_of_gradients_by_hand(debias, first, second):
    # m = 0.5, 0.25 + 2;  1 - 0.5 and 1 - 0.25
    got = oracle_ema_of_gradients(steps(0.0)[0], steps(1.0, 4.0), 1.0, decay=0.5, debias=debias)
    assert_steps(got, -first, -first - second)


def test_grokfast_by_hand():
    # μ = 1, 2.5;  1 + 2 = 3, 4 + 2 * 2.5 = 9
    assert_steps(oracle_grokfast(steps(0.0)[0], steps(1.0, 4.0), 1.0, decay=0.5, lamb=2.0), -3.0, -12.0)


@pytest.mark.parametrize("oracle", ORACLES)
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    takes_every_shape_and_keeps_its_inputs(oracle)
