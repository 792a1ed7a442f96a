"""Wrappers that decide whether there is a step: accumulation, and steps that are left out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, TrainVar, VarCollection, pure, rules, schedule
from optimkit.errors import CompositionError, HyperparameterError
from optimkit.optimizer import Optimizer
from optimkit.testing import check_oracle, streams
from optimkit.testing.compare import require_close, require_identical, rounding
from optimkit.testing.runner import eager, run

from .against_optax import distance_to_optax
from .oracles import wrappers
from .wrapping import BOTH, GRADS, PARAMS, SecondLook, same_bits, scalar

NAN = jax.tree.map(lambda g: np.full_like(g, np.nan), GRADS[0])
CLOSE = 1e-12  # to optax in float64, over 100 steps


# --- Accumulated ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inner", [rules.AdamW(), rules.LARS(), rules.Chain(rules.ClipByGlobalNorm(), rules.Momentum()), rules.PolyakSGD()],
    ids=lambda rule: type(rule).__name__,
)  # fmt: skip
def test_accumulating_one_gradient_is_no_wrapper(inner):
    """To the last bit where nothing is fused; compiled, the branches are compiled by themselves."""
    same_bits(rules.Accumulated(inner, 1), inner)
    got, expected = (run(rule, PARAMS, GRADS) for rule in (rules.Accumulated(inner, 1), inner))
    require_close("compiled", got.params, expected.params, expected.start, rounding(len(GRADS)))


@BOTH
def test_a_gradient_of_minus_zero_keeps_its_sign(update):
    """-0.0 - 1 · 0.0 is -0.0, and -0.0 - 1 · -0.0 is 0.0."""
    for g in (0.0, -0.0):
        grads, start = [{"w": np.float64(g)}], {"w": np.float32(-0.0)}
        got, expected = (
            run(rule, start, grads, update=update) for rule in (rules.Accumulated(rules.SGD(), 1), rules.SGD())
        )
        require_identical("Accumulated", got.params[0], expected.params[0], "parameters")


@BOTH
@pytest.mark.parametrize("k", [2, 3, 8])
def test_micro_batches_are_one_big_batch(k, update):
    """A model that is linear in its parameters, on integers: the gradient is the mean of the rows of a batch.

    Sums are exact, so that nothing but the division by k rounds (XLA multiplies by 1 / k), and that not where k is a
    power of 2: then eager steps are the same to the last bit.
    """
    rows = np.random.default_rng(0).integers(-8, 9, (4, k, 4, 3))  # steps, parts, rows of a part
    big = [{"w": r.reshape(-1, 3).mean(0)} for r in rows]
    small = [{"w": part.mean(0)} for r in rows for part in r]
    start = {"w": np.ones(3, np.float32)}
    one = run(rules.Adam(), start, big, update=update)
    many = run(rules.Accumulated(rules.Adam(), k), start, small, update=update)
    ends = many.params[k - 1 :: k]
    require_close("Accumulated", ends, one.params, one.start, rounding(len(big)))
    for t, (got, expected) in enumerate(zip(ends, one.params, strict=True)):
        if k != 3 and update is eager:
            require_identical("Accumulated", got, expected, f"parameters after big step {t + 1}")
    inner = {name.removeprefix("inner."): x for name, x in many.states[-1].items() if name.startswith("inner.")}
    assert inner.keys() == one.states[-1].keys()
    assert inner["t"] == one.states[-1]["t"] == len(big)


def test_only_the_last_of_k_calls_moves_anything():
    params = {"w": np.float32([-0.0, 1.0]), "b": jnp.bfloat16(0.3)}
    result = run(rules.Accumulated(rules.Adam(), 3), params, [{"w": np.ones(2), "b": np.ones(())}] * 6)
    for t, values in enumerate(result.params):
        before = result.params[t - 1] if t else result.start
        for name, x in values.items():
            assert (x.tobytes() == before[name].tobytes()) == ((t + 1) % 3 > 0), f"{name} at call {t + 1}"
    assert [int(s["inner.t"]) for s in result.states] == [0, 0, 1, 1, 1, 2]


def test_the_inner_rule_runs_at_the_kth_call_only():
    calls = []

    class Watched(rules.SGD):
        def update(self, step, state):
            jax.debug.callback(lambda g: calls.append(float(g)), step.grads["w"])
            return super().update(step, state)

    init, apply = pure(rules.Accumulated(Watched(), 3), 0.1)
    params, step = {"w": jnp.float32(0.0)}, jax.jit(apply)
    state = init(params)
    for g in range(7):
        state, params = step({"w": jnp.float32(g)}, state, params)
    jax.effects_barrier()
    assert calls == [1.0, 4.0], "the means of 0, 1, 2 and of 3, 4, 5"


@BOTH
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_bad_gradient_reaches_the_inner_rule_and_ends_with_its_step(bad, update):
    """optax's multiplies by 0 what it forgets, and inf · 0 stays in its sum for ever."""
    rule = rules.Accumulated(rules.SkipNonFinite(rules.SGD()), 2)
    grads = [{"w": np.float64(g)} for g in (1, bad, 1, 3, 2, 2)]
    result = run(rule, {"w": np.float32(0.0)}, grads, update=update, lr=1.0)
    assert [float(p["w"]) for p in result.params] == [0, 0, 0, -2, -2, -4]
    assert int(result.states[-1]["inner.skipped"]) == 1
    bare = run(rules.Accumulated(rules.SGD(), 2), {"w": np.float32(0.0)}, grads[:2], update=update)
    assert not np.isfinite(bare.params[1]["w"])
    assert all(np.isfinite(x) for x in bare.states[1].values())


def test_bad_micro_batches_can_be_left_out_singly():
    rule = rules.SkipNonFinite(rules.Accumulated(rules.SGD(), 2))
    way, states = scalar(rule, [1.0, np.inf, 3.0, 5.0])
    assert way == [0.0, 0.0, -2.0, -2.0]
    assert int(states[-1]["skipped"]) == 1


def test_low_precision_gradients_are_added_up_in_float32():
    """256 gradients of 1/256 and one of 1, in bfloat16: there, 1 + 1/256 is 1."""
    rule = rules.Accumulated(rules.SGD(), 257)
    init, apply = pure(rule, 1.0)
    params = {"w": jnp.zeros((), jnp.bfloat16)}
    state, step = init(params), jax.jit(apply)
    for g in [1.0] + [2.0**-8] * 256:
        state, params = step({"w": jnp.bfloat16(g)}, state, params)
    assert params["w"] == jnp.bfloat16(-2 / 257)


def test_the_number_of_calls_follows_a_function_of_the_steps():
    rule = rules.Accumulated(rules.SGD(), schedule.Piecewise([1, 2, 3], [1, 2]))
    way, states = scalar(rule, [1.0, 2.0, 4.0, 1.0, 2.0, 6.0])
    assert way == [-1.0, -1.0, -4.0, -4.0, -4.0, -7.0]
    assert [int(s["t"]) for s in states] == [1, 1, 2, 2, 2, 3]


def test_a_function_of_the_steps_follows_the_oracle():
    rule = rules.Accumulated(rules.Adam(), lambda n: n % 3 + 1)
    check_oracle(rule, wrappers.oracle_accumulated, scales=[1.0], steps=40)


def test_the_number_of_calls_may_shrink_on_the_way():
    """A sum that is longer than the new number ends with the next call, as the mean of what is in it."""
    vc = VarCollection({"w": TrainVar(jnp.zeros(()))})
    opt = Optimizer(vc, rules.Accumulated(rules.SGD(), 5))
    for g in (1.0, 2.0, 3.0):
        opt(1.0, [jnp.float32(g)])
    opt(1.0, [jnp.float32(6.0)], every=2)
    assert float(vc["w"].value) == -3.0


@BOTH
def test_losses_are_averaged_as_gradients_are(update):
    init, apply = pure(rules.Accumulated(rules.PolyakSGD(max_step=100.0), 2), 1.0)
    params = {"w": jnp.float32(3.0)}
    state = init(params)
    step = apply if update is eager else jax.jit(apply)
    for g, value in ((1.0, 6.0), (3.0, 2.0)):
        state, params = step({"w": jnp.float32(g)}, state, params, value=value)
    assert float(params["w"]) == 1.0, "(6 + 2) / 2, over a slope of 2"


@pytest.mark.parametrize("inner", [SecondLook(), rules.LBFGS()])
def test_rules_that_look_elsewhere_cannot_be_accumulated(inner):
    with pytest.raises(CompositionError, match="needs gradients elsewhere"):
        rules.Accumulated(inner, 2)


def test_accumulation_in_the_stateful_face_compiles_once():
    vc = VarCollection({"w": TrainVar(jnp.ones(3)), "b": TrainVar(jnp.ones(()))})
    opt, traces = Optimizer(vc, rules.Accumulated(rules.Adam(), every=4)), 0

    def step(lr, x):
        nonlocal traces
        traces += 1
        opt(lr, [x * jnp.ones(3), x])

    train = Jit(step, vc + opt.vars())
    for t in range(9):
        train(0.1, jnp.float32(t))
    assert traces == 1
    assert (int(opt.vars()["(Optimizer).inner.t"].value), int(opt.vars()["(Optimizer).k"].value)) == (2, 1)
    np.testing.assert_allclose(opt.state["w"].mu.value, 0.9 * 0.15 + 0.1 * 5.5, rtol=1e-6)
    assert opt.state["b"].total.value == 8.0


@pytest.mark.parametrize("every", [0, 1.5, -1, "2", True, rules.SGD])
def test_the_number_of_calls_is_whole(every):
    with pytest.raises(HyperparameterError, match="'every' is out of range"):
        rules.Accumulated(rules.SGD(), every)


def test_accumulation_is_optaxs():
    optax = pytest.importorskip("optax")

    def make(lr):
        multi = optax.MultiSteps(optax.sgd(lr, 0.9), 3, accumulator_dtype=jnp.float64)
        return multi.gradient_transformation()

    assert distance_to_optax(rules.Accumulated(rules.Momentum(), 3), make, PARAMS, 0.1) < CLOSE


# --- SkipNonFinite ----------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_steps_that_are_not_finite_leave_no_trace(bad, update):
    """One bad element of one parameter, at any of the steps: all goes on as if the step had not been called."""
    rule, start = rules.SkipNonFinite(rules.Adam()), PARAMS | {"bias": np.float32([-0.0, 1e-3])}
    wrong = GRADS[0] | {"weight": np.where(np.arange(6).reshape(2, 3) == 4, bad, GRADS[0]["weight"])}
    straight = run(rule, start, GRADS[:3], update=update)
    result = run(rule, start, [wrong, GRADS[0], wrong, wrong, *GRADS[1:3], wrong], update=update)
    for t, s in enumerate([None, 0, 0, 0, 1, 2, 2]):
        expected = straight.start if s is None else straight.params[s]
        require_identical("SkipNonFinite", result.params[t], expected, f"parameters at call {t + 1}")
    inner = [{n: x for n, x in states.items() if n.startswith("inner")} for states in (
        result.states[-1], straight.states[-1])]  # fmt: skip
    require_identical("SkipNonFinite", *inner, "the inner state")
    assert [int(s["skipped"]) for s in result.states] == [1, 1, 2, 3, 3, 3, 4]
    assert [int(s["consecutive"]) for s in result.states] == [1, 0, 1, 2, 0, 0, 1]


@BOTH
def test_one_step_too_many_comes_through(update):
    rule = rules.SkipNonFinite(rules.SGD(), max_consecutive=2)
    grads = [{"w": np.float64(g)} for g in (np.nan, np.nan, 1, np.nan, np.nan, np.nan)]
    result = run(rule, {"w": np.float32(0.0)}, grads, update=update, lr=1.0)
    assert [float(p["w"]) for p in result.params[:5]] == [0, 0, -1, -1, -1]
    assert np.isnan(result.params[5]["w"])
    assert int(result.states[5]["skipped"]) == 4
    assert int(result.states[5]["consecutive"]) == 3


def test_skipping_follows_its_oracle_through_bad_gradients():
    grads = [NAN if t in (0, 3, 4, 5) else g for t, g in enumerate(streams.gradients(PARAMS, 12))]
    rule = rules.SkipNonFinite(rules.Momentum(), 3)
    got = run(rule, PARAMS, grads, lr=np.geomspace(0.1, 0.01, 12).tolist())
    expected = wrappers.oracle_skip_non_finite(PARAMS, grads, np.geomspace(0.1, 0.01, 12).tolist(), max_consecutive=3)
    require_close("SkipNonFinite", got.params, expected, got.start, rounding(12))


def test_a_loss_that_is_not_finite_counts_where_the_rule_needs_it():
    way, states = scalar(rules.SkipNonFinite(rules.PolyakSGD()), [1.0, 1.0], value=[jnp.inf, 0.5])
    assert way == [0.0, -0.5]
    assert int(states[-1]["skipped"]) == 1
    assert scalar(rules.SkipNonFinite(rules.SGD()), [1.0], value=[jnp.inf])[0] == [-1.0]


def test_skipping_is_optaxs():
    optax = pytest.importorskip("optax")
    grads = [{"w": np.float64(g)} for g in (np.nan, 1, np.inf, np.nan, 2, 3)]
    tx = optax.apply_if_finite(optax.sgd(0.1, 0.9), 2)
    params = {"w": jnp.float32(1.0)}
    state, way = tx.init(params), []
    for g in grads:
        updates, state = tx.update({"w": jnp.float32(g["w"])}, state, params)
        params = optax.apply_updates(params, updates)
        way.append(float(params["w"]))
    got = run(rules.SkipNonFinite(rules.Momentum(), 2), {"w": np.float32(1.0)}, grads, lr=0.1, update=eager)
    np.testing.assert_allclose([p["w"] for p in got.params], way, rtol=1e-6)
    assert int(got.states[-1]["skipped"]) == int(state.total_notfinite) == 3
