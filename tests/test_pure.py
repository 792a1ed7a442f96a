"""The functional face: init and apply under jit, vmap, scan and grad, its clock, and its errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import pure, rules, schedule
from optimkit.errors import (
    CompositionError,
    DTypeError,
    HyperparameterError,
    MissingInputError,
    StructureError,
)
from optimkit.numerics import INT32_MAX
from optimkit.rules import LeafRule
from optimkit.testing import streams
from optimkit.testing.compare import require_close, require_identical, rounding
from optimkit.testing.runner import flat, run

PARAMS = streams.parameters()
GRADS = streams.gradients(PARAMS, 5)


class Valued(LeafRule):
    """Scales the gradient by the loss, as rules of Polyak's kind do."""

    needs = ("value",)

    def update_leaf(self, g, slot, p, *, lr, t):
        return -lr * g, slot


def steps(apply, state, params, grads=GRADS):
    """Return state and parameters after all gradients."""
    for g in grads:
        state, params = apply(streams.arrays(g, jnp.float32), state, params)
    return state, params


# --- transformations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [False, True], ids=["number", "schedule"])
def test_jit_scan_and_loop_agree(schedule):
    init, apply = pure(rules.AdamW(), (lambda t: 0.1 / (1 + t)) if schedule else 0.05)
    params = streams.arrays(PARAMS)
    _, eager = steps(apply, init(params), params)
    _, jitted = steps(jax.jit(apply), init(params), params)
    stacked = {name: jnp.asarray(np.stack([g[name] for g in GRADS]), jnp.float32) for name in PARAMS}

    def body(carry, g):
        return apply(g, *carry), None

    (_, scanned), _ = jax.jit(lambda *a: jax.lax.scan(body, *a))((init(params), params), stacked)
    for got in (jitted, scanned):
        require_close("pure", [flat(got)], [flat(eager)], PARAMS, rounding(len(GRADS)))


def test_one_pair_serves_many_states_under_vmap():
    init, apply = pure(rules.Adam(), 0.1)
    clients = [jax.tree.map(lambda p, k=k: k * np.asarray(p), PARAMS) for k in (1, 2, 3)]
    stack = lambda trees: jax.tree.map(lambda *xs: jnp.asarray(np.stack(xs), jnp.float32), *trees)  # noqa: E731
    state, moved = jax.vmap(init)(stack(clients)), stack(clients)
    for g in GRADS:
        state, moved = jax.vmap(apply, in_axes=(None, 0, 0))(streams.arrays(g, jnp.float32), state, moved)
    for i, client in enumerate(clients):
        alone = run(rules.Adam(), client, GRADS, lr=0.1)
        got = {name: np.asarray(x)[i] for name, x in moved.items()}
        require_close("vmap", [got], [alone.params[-1]], alone.start, rounding(len(GRADS)))


def test_the_gradient_with_respect_to_initial_parameters_passes_through_steps():
    """With SGD on a quadratic each step multiplies by 1 - lr, so the gradient is that factor's power, exactly known."""
    init, apply = pure(rules.SGD(), 0.25)

    def final(start):
        state, p = init(start), start
        for _ in range(3):
            state, p = apply(p, state, p)
        return p["w"].sum()

    np.testing.assert_array_equal(jax.grad(final)({"w": jnp.ones(2)})["w"], [0.75**3, 0.75**3])


def test_the_gradient_with_respect_to_the_learning_rate_is_exact():
    init, apply = pure(rules.Momentum(0.5), 1.0)
    params = {"w": jnp.float32(2.0)}

    def final(lr):
        state, p = init(params), params
        for g in (1.0, 3.0):
            state, p = apply({"w": jnp.float32(g)}, state, p, lr=lr)
        return p["w"]

    assert float(jax.grad(final)(0.1)) == -(1.0 + 3.5)


@pytest.mark.parametrize("tree", [
    np.float32(1.0), [np.ones(2, np.float32), np.ones((), np.float32)], {"a": {"b": (np.ones(3, np.float32),)}}
], ids=["leaf", "list", "nested"])  # fmt: skip
def test_parameters_may_be_any_tree(tree):
    init, apply = pure(rules.Adam(eps=0.0), 0.5)
    params = streams.arrays(tree)
    _, moved = apply(params, init(params), params)
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    for x in jax.tree.leaves(moved):
        np.testing.assert_allclose(x, 0.5 * np.ones(x.shape), rtol=rounding(1))


# --- learning rate and clock ------------------------------------------------------------------------------------------


def test_a_schedule_is_called_with_the_step_from_zero_and_its_clock_is_part_of_the_state():
    rates = jnp.array([1.0, 0.5, 0.25])
    init, apply = pure(rules.SGD(), lambda t: rates[t])
    params = {"w": jnp.float32(0.0)}
    state, seen = init(params), []
    for _ in range(3):
        state, params = apply({"w": jnp.float32(1.0)}, state, params)
        seen.append(float(params["w"]))
    assert seen == [-1.0, -1.5, -1.75]
    assert int(state["clock"]) == 3
    assert state["clock"].dtype == jnp.int32


def test_the_clock_saturates():
    init, apply = pure(rules.SGD(), lambda t: jnp.where(t == INT32_MAX, 1.0, 0.0))
    params = {"w": jnp.float32(0.0)}
    state = init(params) | {"clock": jnp.int32(INT32_MAX)}
    for _ in range(2):
        state, params = apply({"w": jnp.float32(1.0)}, state, params)
    assert float(params["w"]) == -2.0
    assert int(state["clock"]) == INT32_MAX


@pytest.mark.parametrize("schedule", [False, True], ids=["number", "schedule"])
def test_a_learning_rate_of_the_call_takes_the_place_of_the_one_given_and_the_clock_goes_on(schedule):
    init, apply = pure(rules.SGD(), (lambda t: 100.0) if schedule else 100.0)
    params = {"w": jnp.float32(0.0)}
    state, params = apply({"w": jnp.float32(1.0)}, init(params), params, lr=0.5)
    assert float(params["w"]) == -0.5
    if schedule:
        assert int(state["clock"]) == 1


def test_the_learning_rate_is_float64_for_float64_parameters():
    with jax.enable_x64(True):
        init, apply = pure(rules.SGD(), 0.1)
        params = {"w": jnp.float64(0.0)}
        _, params = apply({"w": jnp.float64(1.0)}, init(params), params)
    assert float(params["w"]) == -0.1


def test_the_inputs_are_left_alone():
    init, apply = pure(rules.Adam(), lambda t: 0.1)
    params = streams.arrays(PARAMS)
    state = init(params)
    before = flat(params), flat(state)
    apply(params, state, params)
    require_identical("pure", flat(params), before[0], "parameters")
    require_identical("pure", flat(state), before[1], "state")


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_displacement_is_rounded_once(dtype):
    """Steps are taken in float32 and rounded to the parameter's dtype at the end: the nearest number, exactly."""
    start = np.asarray(streams.gradients({"w": np.zeros(50)}, 1)[0]["w"], np.float32)
    g = np.asarray(streams.gradients({"w": np.zeros(50)}, 1, seed=7)[0]["w"], np.float32)
    params = {"w": jnp.asarray(start, dtype)}
    init, apply = pure(rules.SGD(), 0.01)
    _, moved = apply({"w": jnp.asarray(g)}, init(params), params)
    right = jnp.asarray(np.asarray(params["w"], np.float32) - np.float32(0.01) * g, dtype)
    np.testing.assert_array_equal(np.asarray(moved["w"], np.float32), np.asarray(right, np.float32))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr, says", [
    (-0.1, r"learning rate is out of range(.|\n)*-0.1"),
    (float("nan"), "out of range"),
    (float("inf"), "out of range"),
    ("0.1", "not a number"),
    (True, "not a number"),
    (None, "not a number"),
    (jnp.ones(3), "not a scalar"),
    (jnp.complex64(1j), "not a real number"),
])  # fmt: skip
def test_a_learning_rate_that_cannot_be_is_refused_at_once(lr, says):
    with pytest.raises(HyperparameterError, match=says):
        pure(rules.SGD(), lr)


@pytest.mark.parametrize("lr", [-0.1, float("nan"), "0.1"])
def test_a_learning_rate_of_the_call_or_of_a_schedule_is_checked_too(lr):
    params = streams.arrays(PARAMS)
    for given, call in ((0.1, {"lr": lr}), (lambda t: lr, {})):
        init, apply = pure(rules.SGD(), given)
        with pytest.raises(HyperparameterError, match=r"pure\(SGD\): the learning rate"):
            apply(params, init(params), params, **call)


@pytest.mark.parametrize("changes, error, says", [
    ({"weight": jnp.ones(())}, StructureError, "the gradient of 'weight' does not fit"),
    ({"weight": jnp.ones((5, 2, 3))}, StructureError, r"reduce over the batch, e.g. jnp.mean\(loss\)"),
    ({"weight": None}, StructureError, "the gradient of 'weight' is None"),
    ({"extra": jnp.ones(1)}, StructureError, "another structure"),
    ({"bias": jnp.ones(2, jnp.int32)}, DTypeError, "the gradient of 'bias' is not of floating point"),
    ({"bias": jnp.ones(2, jnp.complex64)}, DTypeError, "the gradient of 'bias' is not of floating point"),
])  # fmt: skip
def test_gradients_that_do_not_fit_are_refused_with_the_name(changes, error, says):
    params = streams.arrays(PARAMS)
    init, apply = pure(rules.Adam(), 0.1)
    for call in (apply, jax.jit(apply)):
        with pytest.raises(error, match=says):
            call({**params, **changes}, init(params), params)


@pytest.mark.parametrize("params, error, says", [
    ({}, StructureError, "nothing to optimize"),
    ({"n": jnp.ones(2, jnp.int32)}, DTypeError, r"the parameter 'n' is not of floating point(.|\n)*StateVar"),
    ({"z": jnp.ones(2, jnp.complex64)}, DTypeError, "real and imaginary"),
    ({"b": jnp.ones(2, bool)}, DTypeError, "the parameter 'b'"),
])  # fmt: skip
def test_parameters_that_cannot_be_optimized_are_refused(params, error, says):
    with pytest.raises(error, match=says):
        pure(rules.SGD(), 0.1).init(params)


def test_what_is_not_a_rule_is_refused():
    with pytest.raises(CompositionError, match=r"Call it: Adam\(\)"):
        pure(rules.Adam, 0.1)


def test_an_input_that_the_rule_needs_is_asked_for():
    init, apply = pure(Valued(), 0.1)
    params = streams.arrays(PARAMS)
    with pytest.raises(MissingInputError, match="Valued needs 'value'"):
        apply(params, init(params), params)
    apply(params, init(params), params, value=1.0)


# --- a step in two ----------------------------------------------------------------------------------------------------


def test_a_step_that_does_not_advance_leaves_the_state_and_moves_as_the_whole_step_does():
    face, params = pure(rules.Adam(), lambda t: 0.1 / (t + 1)), streams.arrays(PARAMS)
    state, params = steps(face.apply, face.init(params), params)
    grads = streams.arrays(GRADS[0], jnp.float32)
    _, expected = face.apply(grads, state, params)
    unchanged, got = jax.jit(face.apply, static_argnames="advance")(grads, state, params, advance=False)
    require_identical("Adam", flat(unchanged), flat(state), "the state")
    require_close("Adam", [flat(got)], [flat(expected)], flat(params), rounding(1))


def test_advancing_only_gives_the_state_of_the_whole_step_and_its_clock():
    face, params = pure(rules.Adam(), lambda t: 0.1 / (t + 1)), streams.arrays(PARAMS)
    state, grads = face.init(params), streams.arrays(GRADS[0], jnp.float32)
    advanced, (whole, _) = face.advance_only(grads, state, params), face.apply(grads, state, params)
    require_identical("Adam", flat(advanced), flat(whole), "the state")
    assert advanced["clock"] == 1


def test_clients_of_mime_move_with_the_servers_momentum_which_advances_once():
    """Two clients take two steps each with a fixed momentum; by hand: d = 0.5 m + g, and m is the server's."""
    face, server = pure(rules.Momentum(0.5), 0.1), {"w": jnp.zeros(1)}
    state = face.advance_only({"w": jnp.array([2.0])}, face.init(server), server)
    ends = []
    for g in (1.0, 3.0):
        params = server
        for _ in range(2):
            _, params = face.apply({"w": jnp.array([g])}, state, params, advance=False)
        ends.append(float(params["w"][0]))
    np.testing.assert_allclose(ends, [-2 * 0.1 * (0.5 * 2 + 1), -2 * 0.1 * (0.5 * 2 + 3)], rtol=1e-6)
    state = face.advance_only({"w": jnp.array([2.0])}, state, server)
    assert state["slots"]["w"]["m"] == 0.5 * 2 + 2


# --- schedules --------------------------------------------------------------------------------------------------------


def test_a_hyperparameter_follows_its_schedule_from_step_0_in_one_compilation():
    traces = []

    def momentum(t):
        traces.append(t)
        return 0.5 / (1 + t)

    face, params = pure(rules.Momentum(), 0.1, schedules={"momentum": momentum}), streams.arrays(PARAMS)
    traces.clear()
    apply = jax.jit(face.apply)
    state, got = steps(apply, face.init(params), params)
    assert len(traces) == 1 and state["clock"] == len(GRADS)
    m = jax.tree.map(np.zeros_like, PARAMS)
    expected = {name: np.asarray(p, np.float64) for name, p in PARAMS.items()}
    for t, g in enumerate(GRADS):
        m = {name: 0.5 / (1 + t) * m[name] + np.float32(g[name]) for name in m}
        expected = {name: expected[name] - 0.1 * m[name] for name in m}
    require_close("Momentum", [flat(got)], [expected], PARAMS, rounding(len(GRADS)))


@pytest.mark.parametrize("schedules, says", [
    ({"beta3": lambda t: 0.5}, "no hyperparameter 'beta3'"),
    ({"beta1": 0.5}, "the schedule of 'beta1' is not a function"),
    ({"beta1": lambda t: 1.5}, "'beta1'"),
    ({"beta1": schedule.Linear(0.5, 1.5, 100)}, r"'beta1'(.|\n)*at step 64"),
    ({"beta1": lambda t: jnp.zeros(1)}, "gives no real number"),
    ({"nesterov": lambda t: True}, "'nesterov' cannot follow a schedule"),
])  # fmt: skip
def test_a_schedule_that_cannot_be_is_refused_at_once(schedules, says):
    rule = rules.Momentum() if "nesterov" in schedules else rules.Adam()
    with pytest.raises(HyperparameterError, match=says):
        pure(rule, 0.1, schedules=schedules)
