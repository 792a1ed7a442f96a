"""What wrappers claim beyond their oracles."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, TrainVar, VarCollection, pure, rules, schedule
from optimkit.errors import CompositionError, HyperparameterError, StructureError
from optimkit.optimizer import Optimizer
from optimkit.rules import Rule
from optimkit.testing import check_oracle, streams
from optimkit.testing.compare import require_close, require_identical, rounding
from optimkit.testing.hyperparameters import TOLERANCE
from optimkit.testing.oracle import rounded
from optimkit.testing.runner import compiled, eager, flat, run

from .against_optax import distance_to_optax
from .oracles import wrappers

PARAMS = streams.parameters()
GRADS = streams.gradients(PARAMS, 6)
NAN = jax.tree.map(lambda g: np.full_like(g, np.nan), GRADS[0])
BOTH = pytest.mark.parametrize("update", [eager, compiled], ids=["eager", "compiled"])


def same_bits(rule, other, update=eager, grads=GRADS):
    """Raise unless two rules do the same, to the last bit."""
    got, expected = run(rule, PARAMS, grads, update=update), run(other, PARAMS, grads, update=update)
    for t in range(len(grads)):
        require_identical(repr(rule), got.params[t], expected.params[t], f"parameters at step {t + 1}")


def scalar(rule, grads, start=0.0, lr=1.0, dtype=jnp.float32, **inputs):
    """Return a scalar parameter after each step of the functional face, and the states."""
    init, apply = pure(rule, lr)
    params = {"w": jnp.asarray(start, dtype)}
    state, way, states = init(params), [], []
    for t, g in enumerate(grads):
        extra = {name: x[t] for name, x in inputs.items()}
        state, params = apply({"w": jnp.asarray(g, jnp.float32)}, state, params, **extra)
        way.append(float(params["w"]))
        states.append(state)
    return way, states


def names(rule):
    """Return the names that state variables have in the stateful face, for a matrix and a vector."""
    vc = VarCollection({"l.w": TrainVar(jnp.ones((2, 2))), "l.b": TrainVar(jnp.ones(2))})
    found = Optimizer(vc, rule).vars().keys()
    return sorted(name.removeprefix("(Optimizer)") for name in found if "train_vars" not in name)


class SecondLook(Rule):
    """Takes its step by the gradient at twice the parameters."""

    needs = ("grad_fn",)

    def init(self, params):
        return {}

    def update(self, step, state):
        there = step.grad_fn(jax.tree.map(lambda p: 2 * p, step.params))
        return jax.tree.map(lambda g: -step.lr * g, there), state


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (rules.Scaled(rules.Momentum(), 0.5), [".t", "[l.b].m", "[l.w].m"]),
        (rules.Scaled(rules.SGD(), schedule.Constant(0.5)), [".t"]),
        (rules.Masked(rules.Momentum(), "w$"), [".t", "[l.w].m"]),
        (
            rules.Accumulated(rules.Momentum(), 2),
            [".inner.t", ".inner[l.b].m", ".inner[l.w].m", ".k", ".total[l.b]", ".total[l.w]"],
        ),
        (
            rules.SkipNonFinite(rules.Momentum()),
            [".consecutive", ".inner.t", ".inner[l.b].m", ".inner[l.w].m", ".skipped"],
        ),
        (rules.Averaged(rules.SGD()), [".average[l.b]", ".average[l.w]", ".t"]),
        (rules.Lookahead(rules.SGD()), [".k", ".slow[l.b]", ".slow[l.w]"]),
        (
            rules.WeightNorm(rules.Momentum()),
            [".inner.t", ".inner[l.b].m", ".inner[l.w].direction.m", ".inner[l.w].scale.m", ".norm[l.w]"],
        ),
        (rules.Cautious(rules.Momentum()), [".t", "[l.b].m", "[l.w].m"]),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Rule) else "",
)
def test_state_is_named_after_the_parameters(rule, expected):
    assert names(rule) == expected


# --- Scaled -----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_factor_of_one_is_no_wrapper(update):
    same_bits(rules.Scaled(rules.Adam(), 1.0), rules.Adam(), update)


@pytest.mark.parametrize("factor", [lambda t: 0.5**t, schedule.Cosine(0.5, 50)], ids=["function", "schedule"])
def test_a_factor_follows_a_function_of_the_step(factor):
    check_oracle(rules.Scaled(rules.Momentum(), factor), wrappers.oracle_scaled, scales=[1.0])


def test_a_factor_that_follows_a_schedule_compiles_once_and_is_saved():
    vc = VarCollection({"w": TrainVar(jnp.zeros(1))})
    opt = Optimizer(vc, rules.Scaled(rules.SGD(), schedule.Linear(1.0, 0.0, 2)))
    step = Jit(lambda g: opt(1.0, [g]), vc + opt.vars())
    way = []
    for _ in range(3):
        step(jnp.ones(1))
        way.append(float(vc["w"].value[0]))
    assert way == [-1.0, -1.5, -1.5]
    assert int(opt.vars()["(Optimizer).t"].value) == 3


@pytest.mark.parametrize("factor", [-0.5, "half", rules.SGD, float("nan")])
def test_a_factor_is_a_number_or_a_function(factor):
    with pytest.raises(HyperparameterError, match="'factor' is out of range"):
        rules.Scaled(rules.SGD(), factor)


@pytest.mark.parametrize("wrapper", [rules.Scaled, rules.Accumulated])
def test_what_is_wrapped_is_a_rule_also_where_a_function_is_followed(wrapper):
    with pytest.raises(CompositionError, match="not a rule"):
        wrapper(rules.SGD, lambda t: 1)


# --- Masked -----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_masked_stage_leaves_the_others_as_they_are_in_a_chain(update):
    rule = rules.Chain(rules.Masked(rules.WeightDecay(0.3), r"weight$"), rules.Adam())
    got = run(rule, PARAMS, GRADS, update=update).params
    decayed = run(rules.Chain(rules.WeightDecay(0.3), rules.Adam()), PARAMS, GRADS, update=update).params
    plain = run(rules.Adam(), PARAMS, GRADS, update=update).params
    for t, values in enumerate(got):
        expected = plain[t] | {"weight": decayed[t]["weight"]}
        require_identical("Masked", values, expected, f"parameters at step {t + 1}")


def test_a_match_may_look_at_arrays_under_jit():
    rule = rules.Masked(rules.WeightDecay(0.3), lambda name, x: x.ndim > 1 and x.dtype == jnp.float32)
    same_bits(rule, rules.Masked(rules.WeightDecay(0.3), "weight"), compiled)


def test_a_match_of_all_is_no_wrapper():
    same_bits(rules.Masked(rules.Adam(), "."), rules.Adam())


def test_a_match_of_nothing_is_named():
    with pytest.raises(StructureError, match=re.escape("Masked: no parameter matches 'kernel$'.")) as error:
        rules.Masked(rules.SGD(), r"kernel$").init(streams.arrays(PARAMS))
    assert "one of 'bias', 'scale', 'weight'" in str(error.value)


@pytest.mark.parametrize("match", ["(", 3, rules.SGD, None])
def test_what_cannot_match_is_refused_at_once(match):
    with pytest.raises(CompositionError, match="Masked: "):
        rules.Masked(rules.SGD(), match)


def test_a_masked_rule_is_a_value():
    rule = rules.Masked(rules.SGD(), r"w$")
    assert rule == rules.Masked(rules.SGD(), re.compile(r"w$")) != rules.Masked(rules.SGD(), r"b$")
    assert eval(repr(rule), vars(rules)) == rule


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


# --- Averaged ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("options", [{}, {"decay": 0.9}, {"decay": 0.0}, {"start": 3}, {"decay": 0.9, "start": 2}])
def test_evaluation_is_at_the_average(options, update):
    rule = rules.Averaged(rules.Momentum(), **options)
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


def test_slow_weights_of_low_precision_keep_what_parameters_round_away():
    """Eight half steps of a 32nd of bfloat16's unit at 1: the parameter stands still until they are a whole one."""
    rule = rules.Lookahead(rules.SGD(), period=1, slow_step=0.5)
    way, states = scalar(rule, [-(2.0**-11)] * 8, start=1.0, dtype=jnp.bfloat16)
    assert way == [1.0] * 8
    assert float(states[-1]["slow"]["w"]) > 1.0


def test_rules_whose_memory_depends_on_the_step_stand_last():
    for rule in (rules.Lookahead(rules.SGD()), rules.WeightNorm(rules.SGD()), rules.Scaled(rules.LARS(), 0.5)):
        with pytest.raises(CompositionError, match="Put it last"):
            rules.Chain(rule, rules.WeightDecay())
    for wrapper in (rules.Cautious, rules.Averaged, rules.SkipNonFinite):
        assert wrapper(rules.Adam()).chainable
        assert not wrapper(rules.LARS()).chainable


# --- WeightNorm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weight_normalization_follows_its_oracle(momentum, scale):
    """Within 5e-6 over 100 steps, relative to the size of a column and the way that it went.

    Long steps turn a column around, and leave single elements small beside the others, whose roundings they share.
    """
    rates = np.float32(np.geomspace(0.1, 0.01, 100)).tolist()
    start = {"weight": PARAMS["weight"], "rank5": np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 2, 1, 3, 2)}
    grads = [rounded(g) for g in streams.gradients(start, 100, scale, seed=5)]
    got = run(rules.WeightNorm(rules.Momentum(momentum)), start, grads, lr=rates)
    wide = {name: np.float64(p) for name, p in start.items()}
    expected = wrappers.oracle_weight_norm(wide, grads, rates, momentum=momentum)

    def columns(x):
        return np.linalg.norm(np.reshape(x, (-1, np.shape(x)[-1])), axis=0)

    for name, position in wide.items():
        size, way = columns(position), 0.0
        for t in range(100):
            way = way + columns(expected[t][name] - position)
            position = expected[t][name]
            size = np.maximum(size, columns(position))
            error = columns(np.float64(got.params[t][name]) - position) / (size + way)
            assert error.max() <= TOLERANCE, f"{name} at step {t + 1}"


def test_directions_and_scales_have_the_gradients_of_autodiff():
    """The inner rule sees v and g, at which the weight is w, and the gradients of the loss in v and g."""
    seen = {}

    class Look(rules.SGD):
        def update(self, step, state):
            seen.update(params=step.params, grads=step.grads)
            return super().update(step, state)

    rng = np.random.default_rng(1)
    w, target = (jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32) for _ in range(2))

    def loss(w):
        return jnp.sum((w - target) ** 3)

    def joined(parts):
        v = parts["direction"]
        return parts["scale"] * v / jnp.sqrt(jnp.sum(v**2, (0, 1)))

    init, apply = pure(rules.WeightNorm(Look()), 0.01)
    state, params = init({"w": w}), {"w": w}
    for _ in range(3):  # at the third step v is longer than 1
        parts_of = jax.grad(lambda parts: loss(joined(parts)))
        state, new = apply(jax.grad(lambda p: loss(p["w"]))(params), state, params)
        np.testing.assert_allclose(joined(seen["params"]["w"]), params["w"], rtol=2e-6, atol=1e-6)
        for name, g in parts_of(seen["params"]["w"]).items():
            np.testing.assert_allclose(seen["grads"]["w"][name], g, rtol=1e-4, atol=1e-4)
        params = new
    assert (state["norm"]["w"] > 1).all(), "steps are orthogonal to v, so that it grows"


def test_weights_are_split_where_a_column_has_more_than_one_number():
    shapes = {"matrix": (2, 3), "column": (3, 1), "row": (1, 3), "vector": (3,), "scalar": (), "empty": (0, 3)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    rule = rules.WeightNorm(rules.Momentum())
    norms = {name: None if n is None else n.shape for name, n in rule.init(params)["norm"].items()}
    assert norms == {"matrix": (3,), "column": (1,), "row": None, "vector": None, "scalar": None, "empty": None}
    rest = {name: np.asarray(params[name]) for name, n in norms.items() if n is None}
    grads = streams.gradients(rest, 3)
    got, expected = (run(r, rest, grads, update=eager).params[-1] for r in (rule, rules.Momentum()))
    require_identical("WeightNorm", got, expected, "parameters that are not split")


def test_weights_that_are_changed_from_outside_are_where_the_next_step_begins():
    """flax.optim kept a copy of its own and wrote it over them. Here it is another weight with the same ‖v‖."""
    vc = VarCollection({"w": TrainVar(jnp.array([[3.0], [4.0]]))})
    opt = Optimizer(vc, rules.WeightNorm(rules.SGD()))
    opt(0.1, [jnp.array([[1.0], [-2.0]])])
    norm = opt.state["w"].norm.value
    vc["w"].assign(jnp.array([[0.0], [2.0]]))
    opt(0.1, [jnp.array([[1.0], [3.0]])])
    # g = 2 - 0.1 · 3;  v = ‖v‖ (0, 1) - 0.1 (2 / ‖v‖) (1, 0)
    v = np.array([-0.2 / norm[0], norm[0]])
    np.testing.assert_allclose(vc["w"].value.ravel(), 1.7 * v / np.linalg.norm(v), rtol=1e-6)


def test_a_column_of_zeros_learns():
    params, grads = {"w": jnp.zeros((2, 3))}, {"w": jnp.array([[3.0, 0.0, 1.0], [4.0, 0.0, 0.0]])}
    init, apply = pure(rules.WeightNorm(rules.SGD()), 0.5)
    state, params = apply(grads, init(params), params)
    np.testing.assert_allclose(params["w"], -0.5 * grads["w"], rtol=1e-6)
    state, params = apply(grads, state, params)
    np.testing.assert_allclose(params["w"], -1.0 * grads["w"], rtol=1e-6)


def test_a_scale_may_pass_zero_and_its_direction_stays():
    rule = rules.WeightNorm(rules.Momentum(0.5))
    start = {"w": np.float32([[0.3], [0.4]])}
    grads = [{"w": np.array([[1.8], [2.4]]) + np.array([[0.12], [-0.09]]) * (-1) ** t} for t in range(40)]
    rates = [0.1] * 40
    got = run(rule, start, grads, lr=rates)
    expected = wrappers.oracle_weight_norm({"w": np.float64(start["w"])}, grads, rates, momentum=0.5)
    assert got.params[-1]["w"].max() < 0
    assert (got.states[-1]["norm.w"] < 0).all()
    require_close("WeightNorm", got.params, expected, got.start, rounding(40))


@BOTH
def test_what_the_inner_rule_does_not_move_stays(update):
    """To the last bit, though a weight taken apart and put together is another one."""
    rng = np.random.default_rng(0)
    start = {"w": np.float32(rng.normal(size=(7, 5))), "b": np.float32(rng.normal(size=5))}
    rule = rules.WeightNorm(rules.Accumulated(rules.SGD(), 3))
    result = run(rule, start, streams.gradients(start, 2), update=update)
    require_identical("WeightNorm", result.params[-1], result.start, "parameters before the third call")
    rebuilt = np.linalg.norm(start["w"], axis=0) * (start["w"] / np.linalg.norm(start["w"], axis=0))
    assert (rebuilt != start["w"]).any(), "this start would not show it"


def test_directions_alone_can_decay():
    rule = rules.WeightNorm(rules.Chain(rules.Masked(rules.WeightDecay(0.5), r"direction$"), rules.SGD()))
    init, apply = pure(rule, 0.1)
    params = {"w": jnp.array([[3.0], [4.0]])}
    state, new = apply(jax.tree.map(jnp.zeros_like, params), init(params), params)
    np.testing.assert_allclose(new["w"], params["w"], rtol=1e-6)
    np.testing.assert_allclose(state["norm"]["w"], [0.95], rtol=1e-6)


@pytest.mark.parametrize("need", ["grad_fn", "value_and_grad_fn"])
def test_gradients_elsewhere_are_those_in_directions_and_scales(need):
    """The loss is |w|² / 2 in a column, so that its gradient at (2 v, 2 g) is 0 in v and 2 g in g."""

    class There(SecondLook):
        needs = (need,)

        def update(self, step, state):
            f = step.grad_fn or (lambda p: step.value_and_grad_fn(p)[1])
            return super().update(step.replace(grad_fn=f), state)

    params = {"w": jnp.array([[3.0], [4.0]]), "b": jnp.array([1.0, 2.0])}
    inputs = {"grad_fn": lambda p: p, "value_and_grad_fn": lambda p: (jnp.float32(0.0), p)}
    init, apply = pure(rules.WeightNorm(There()), 0.1)
    _, new = apply(params, init(params), params, **{need: inputs[need]})
    np.testing.assert_allclose(new["w"], 0.8 * params["w"], rtol=1e-6)
    np.testing.assert_allclose(new["b"], 0.8 * params["b"], rtol=1e-6)


def test_evaluation_inside_weight_normalization_is_of_directions_and_scales():
    rule = rules.WeightNorm(rules.Averaged(rules.SGD()))
    init, apply = pure(rule, 1.0)
    params = {"w": jnp.array([[3.0], [4.0]])}
    state = init(params)
    assert rule.eval_params(state, params)["w"].tolist() == params["w"].tolist()
    for _ in range(2):  # g = 5, 4, 3
        state, params = apply({"w": jnp.array([[0.6], [0.8]])}, state, params)
    np.testing.assert_allclose(rule.eval_params(state, params)["w"].ravel(), [0.6 * 3.5, 0.8 * 3.5], rtol=1e-6)
    plain = rules.WeightNorm(rules.SGD())
    assert plain.eval_params(plain.init(params), params)["w"] is params["w"]


# --- Cautious ---------------------------------------------------------------------------------------------------------


def test_the_authors_later_code_is_a_variant():
    check_oracle(rules.Cautious(rules.Momentum(), variant="code"), wrappers.oracle_cautious, scales=[1.0])


@BOTH
@pytest.mark.parametrize("inner", [rules.Momentum(), rules.LARS()], ids=["chainable", "not chainable"])
def test_only_components_that_go_downhill_are_taken(inner, update):
    result = run(rules.Cautious(inner), PARAMS, GRADS, update=update)
    free = run(inner, PARAMS, GRADS[:1], update=update)
    left_out = 0
    for deltas, g in zip(result.deltas, GRADS, strict=True):
        for name, d in deltas.items():
            assert (d * g[name] <= 0).all()
            left_out += int((d == 0).sum())
    assert left_out > 0
    for name, d in free.deltas[0].items():
        np.testing.assert_allclose(result.deltas[0][name], d * d.size / (d.size + 1), rtol=1e-6)


def test_tiny_gradients_agree_by_sign():
    """The product of 1e-30 and 1e-30 is 0 in float32."""
    way, _ = scalar(rules.Cautious(rules.SGD(), xi=0.0), [1e-30], lr=1.0)
    assert way == [float(np.float32(-1e-30))]


def test_what_is_left_out_stays_to_the_last_bit():
    rule = rules.Cautious(rules.Frozen())
    result = run(rule, {"w": np.float32([-0.0, 1.0])}, [{"w": np.ones(2)}], update=eager)
    require_identical("Cautious", result.params[0], result.start, "parameters")


# --- against optax ----------------------------------------------------------------------------------------------------

CLOSE = 1e-12  # in float64, over 100 steps


def test_accumulation_is_optaxs():
    optax = pytest.importorskip("optax")

    def make(lr):
        multi = optax.MultiSteps(optax.sgd(lr, 0.9), 3, accumulator_dtype=jnp.float64)
        return multi.gradient_transformation()

    assert distance_to_optax(rules.Accumulated(rules.Momentum(), 3), make, PARAMS, 0.1) < CLOSE


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
