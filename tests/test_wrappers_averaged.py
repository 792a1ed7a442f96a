"""Wrappers that keep a second set of weights: averages, and slow weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, TrainVar, VarCollection, pure, rules
from optimkit.errors import CompositionError
from optimkit.optimizer import Optimizer
from optimkit.testing import check_oracle, streams
from optimkit.testing.compare import require_close, require_identical, rounding
from optimkit.testing.runner import compiled, flat, run

from .oracles import wrappers
from .wrapping import BOTH, GRADS, PARAMS, same_bits, scalar

CLOSE = 1e-12  # to optax in float64, over 100 steps


# --- Averaged ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("options", [{}, {"decay": 0.9}, {"decay": 0.0}, {"start": 3}, {"decay": 0.9, "start": 2},
                                     {"power": 8.0}, {"power": 0.5, "start": 2}, {"power": 0.0}])  # fmt: skip
def test_evaluation_is_at_the_average(options, update):
    rule = (rules.PolynomialAveraged if "power" in options else rules.Averaged)(rules.Momentum(), **options)
    result = run(rule, PARAMS, GRADS, update=update)
    states = [None] * len(GRADS)
    params, state = streams.arrays(PARAMS), rule.init(streams.arrays(PARAMS))
    for t, g in enumerate(GRADS):
        delta, state = update(rule, streams.arrays(g, jnp.float32), state, params, jnp.float32(0.05))
        params = rules.displace(params, delta)
        states[t] = flat(rule.eval_params(state, params))
    wide = [{name: np.float64(x) for name, x in values.items()} for values in result.params]
    expected = wrappers.averages(wide, **options)
    require_close("Averaged", states, expected, result.start, rounding(len(GRADS)), "averages")
    for t in range(options.get("start", 0)):
        require_identical("Averaged", states[t], result.params[t], f"parameters before the start, step {t + 1}")


@pytest.mark.parametrize(("power", "weights"), [(0.0, [1, 1, 1, 1]), (1.0, [1, 2, 3, 4]), (2.0, [2, 6, 12, 20])])
def test_a_power_weighs_by_that_of_the_step(power, weights):
    """The weight of the t-th parameters is t (t + 1) ... (t + power - 1), which grows as the power."""
    rule = rules.PolynomialAveraged(rules.SGD(), power)
    way, states = scalar(rule, [-1.0, -2.0, 4.0, -8.0], lr=1.0)
    got = rule.eval_params(states[-1], {"w": jnp.float32(way[-1])})["w"]
    np.testing.assert_allclose(got, np.average(np.ravel(way), weights=weights), rtol=1e-6)


@BOTH
def test_training_does_not_notice_the_average(update):
    same_bits(rules.Averaged(rules.Adam(), 0.9, 2), rules.Adam(), update)


@pytest.mark.parametrize("decay", [None, 0.99])
def test_parameters_that_stay_are_their_own_average(decay):
    rule, value = rules.Averaged(rules.SGD(), decay), float(np.float32(0.1))
    _, states = scalar(rule, [0.0] * 50, start=value)
    for state in states:
        assert float(rule.eval_params(state, {"w": jnp.float32(value)})["w"]) == value


def test_the_average_of_low_precision_is_finer_than_it():
    """Parameters of bfloat16 that go to and fro between two neighbours: the average lies between them."""
    rule = rules.Averaged(rules.SGD())
    way, states = scalar(rule, [-(2.0**-7), 2.0**-7, -(2.0**-7), 0.0], start=1.0, dtype=jnp.bfloat16)
    assert way == [1 + 2.0**-7, 1.0, 1 + 2.0**-7, 1 + 2.0**-7]
    assert states[-1]["average"]["w"].dtype == jnp.float32
    assert float(states[-1]["average"]["w"]) == pytest.approx(1 + 2.0**-7 * 2 / 3, abs=1e-7)
    assert rule.eval_params(states[-1], {"w": jnp.bfloat16(way[-1])})["w"].dtype == jnp.bfloat16


def test_what_else_happens_to_the_parameters_is_in_the_average():
    """A constraint after each step, p <= 1."""
    rule = rules.Averaged(rules.SGD())
    init, apply = pure(rule, 1.0)
    params = {"w": jnp.float32(0.0)}
    state = init(params)
    for g in (-0.5, -3.0, -3.0):
        state, params = apply({"w": jnp.float32(g)}, state, params)
        params = {"w": jnp.minimum(params["w"], 1.0)}
    assert float(rule.eval_params(state, params)["w"]) == pytest.approx(2.5 / 3)


def test_a_model_is_evaluated_at_its_average():
    vc = VarCollection({"w": TrainVar(jnp.zeros(2))})
    opt = Optimizer(vc, rules.Averaged(rules.Momentum(0.5)))

    def mean():
        with opt.evaluating():
            return vc["w"].value

    step = Jit(lambda g: opt(1.0, [g]), vc + opt.vars())
    evaluate = Jit(mean, vc + opt.vars())
    seen = []
    for t in range(4):
        step(jnp.array([1.0, -float(t)]))
        seen.append(np.asarray(vc["w"].value))
        np.testing.assert_allclose(evaluate(), np.mean(seen, 0), rtol=1e-6)
        assert vc["w"].value.tolist() == seen[-1].tolist(), "the parameters are back"


# --- Lookahead --------------------------------------------------------------------------------------------------------


def test_slow_weights_are_those_of_the_last_synchronisation():
    rule = rules.Lookahead(rules.Momentum(0.5), period=2, slow_step=0.25)
    way, states = scalar(rule, [1.0] * 5)
    assert way == [-1.0, -0.625, -2.375, -1.53125, -3.46875]
    slow = [float(rule.eval_params(s, {"w": jnp.float32(p)})["w"]) for s, p in zip(states, way, strict=True)]
    assert slow == [0.0, -0.625, -0.625, -1.53125, -1.53125]


def test_the_whole_way_of_one_step_is_no_wrapper():
    got = run(rules.Lookahead(rules.Adam(), period=1, slow_step=1.0), PARAMS, GRADS)
    expected = run(rules.Adam(), PARAMS, GRADS)
    require_close("Lookahead", got.params, expected.params, got.start, rounding(len(GRADS)))


def test_the_inner_rule_can_begin_anew_at_each_synchronisation():
    rule = rules.Lookahead(rules.Momentum(), period=7, slow_step=0.4, reset=True)
    check_oracle(rule, wrappers.oracle_lookahead, scales=[1.0])


def test_weights_that_are_loaded_after_construction_are_looked_ahead_from():
    rule = rules.Lookahead(rules.SGD(), period=2, slow_step=0.5)
    init, apply = pure(rule, 1.0)
    state, params = init({"w": jnp.float32(0.0)}), {"w": jnp.float32(8.0)}
    assert float(rule.eval_params(state, params)["w"]) == 8.0
    for _ in range(2):
        state, params = apply({"w": jnp.float32(1.0)}, state, params)
    assert float(params["w"]) == 7.0


def test_low_precision_goes_a_part_of_the_way_too():
    """From 1 up by a unit of bfloat16 at each step, four times, and half the way back."""
    rule = rules.Lookahead(rules.SGD(), period=4, slow_step=0.5)
    way, states = scalar(rule, [-(2.0**-7)] * 4, start=1.0, dtype=jnp.bfloat16)
    assert way == [1 + n * 2.0**-7 for n in (1, 2, 3, 2)]
    assert states[-1]["slow"]["w"].dtype == jnp.float32


def test_rules_whose_memory_depends_on_the_step_stand_last():
    for rule in (rules.Lookahead(rules.SGD()), rules.WeightNorm(rules.SGD()), rules.Scaled(rules.LARS(), 0.5)):
        with pytest.raises(CompositionError, match="Put it last"):
            rules.Chain(rule, rules.WeightDecay())
    for wrapper in (rules.Cautious, rules.Averaged, rules.SkipNonFinite):
        assert wrapper(rules.Adam()).chainable
        assert not wrapper(rules.LARS()).chainable


@pytest.mark.parametrize("reset", [False, True])
def test_lookahead_is_optaxs(reset):
    optax = pytest.importorskip("optax")
    with jax.enable_x64(True):
        start = streams.arrays(PARAMS, jnp.float64)
        grads = [streams.arrays(g, jnp.float64) for g in streams.gradients(PARAMS, 20)]
        tx = optax.lookahead(optax.adam(0.1), 6, 0.5, reset)
        params = optax.LookaheadParams.init_synced(start)
        rule, mine = rules.Lookahead(rules.Adam(), reset=reset), start
        state, own = tx.init(params), rule.init(start)
        update = jax.jit(tx.update)
        for g in grads:
            updates, state = update(g, state, params)
            params = optax.apply_updates(params, updates)
            delta, own = compiled(rule, g, own, mine, jnp.float64(0.1))
            mine = rules.displace(mine, delta)
            for name, p in mine.items():
                np.testing.assert_allclose(p, params.fast[name], rtol=0, atol=CLOSE)
                np.testing.assert_allclose(rule.eval_params(own, mine)[name], params.slow[name], rtol=0, atol=CLOSE)
