"""What the strategies of the kit draw is what their names say, and all of it is drawn."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from optimkit import rules, schedule
from optimkit.testing import strategies, streams


def largest(tree):
    return max(float(np.abs(x).max()) for x in jax.tree.leaves(tree) if x.size)


def is_finite(stream):
    return all(np.isfinite(x).all() for tree in stream for x in jax.tree.leaves(tree))


PARAMS = streams.parameters()


@given(strategies.gradient_streams(PARAMS))
def test_streams_are_finite_and_fit_unless_one_asks_for_more(stream):
    assert is_finite(stream)
    for tree in stream:
        assert {n: np.shape(g) for n, g in tree.items()} == {n: np.shape(p) for n, p in PARAMS.items()}


def test_streams_of_each_kind_are_drawn():
    finite, all_kinds = strategies.gradient_streams(PARAMS), strategies.gradient_streams(PARAMS, finite=False)
    find(finite, lambda s: largest(s[0]) == 0.0)
    find(finite, lambda s: 0.0 < largest(s[2]) < 1e-40)
    find(finite, lambda s: largest(s[1]) > 1e9)
    find(finite, lambda s: all(np.array_equal(s[0][n], -s[1][n]) and s[0][n].any() for n in s[0]))
    find(all_kinds, lambda s: np.isnan(s[0]["weight"]).all())
    find(all_kinds, lambda s: is_finite(s[:1]) and np.isinf(s[1]["weight"]).all())


@given(strategies.schedules(largest=0.1, steps=30), st.integers(0, 60))
def test_schedules_stay_between_zero_and_the_largest(follow, step):
    assert 0.0 <= float(follow(step)) <= 0.1 * (1 + 1e-6)


@pytest.mark.slow
def test_schedules_of_each_kind_are_drawn():
    drawn = (schedule.Constant, schedule.Linear, schedule.Cosine, schedule.Exponential, schedule.Piecewise,
             schedule.Warmup, schedule.WarmupCosine, schedule.WarmupStableDecay, schedule.OneCycle,
             schedule.InverseSqrt)  # fmt: skip
    for kind in drawn:
        find(strategies.schedules(), lambda x, kind=kind: isinstance(x, kind))


@given(strategies.rules_like(rules.Chain(rules.WeightDecay(0.1), rules.Adam())))
def test_rules_like_one_have_its_shape_and_values_within_their_domains(rule):
    decay, adam = rule.rules
    assert decay.rate >= 0.0
    assert 0.0 <= adam.beta1 < 1.0
    assert isinstance(adam, rules.Adam)


def test_whole_numbers_stay_whole_at_the_ends_of_their_domains():
    find(strategies.rules_like(rules.Lookahead(rules.SGD(), period=3)),
         lambda rule: rule.period == 1 and isinstance(rule.period, int))  # fmt: skip


@given(strategies.parameters_and_gradients(PARAMS))
def test_gradients_fit_whatever_shapes_parameters_are_drawn_with(drawn):
    params, stream = drawn
    assert list(params) == list(PARAMS)
    assert all(np.shape(g[name]) == np.shape(p) for g in stream for name, p in params.items())
