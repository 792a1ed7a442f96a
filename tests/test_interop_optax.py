"""Gradient transformations of optax's form become init and apply: with objects of our own, and with optax's."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import pure, rules
from optimkit.errors import CompositionError, DTypeError, StructureError
from optimkit.interop import create_optimizer_from_optax
from optimkit.testing import streams

PARAMS = streams.parameters()
GRADS = streams.gradients(PARAMS, 5)


class Count(NamedTuple):
    """A state of two arrays."""

    count: jax.Array
    trace: dict


def momentum(update=None, trace=None):
    """Return heavy-ball momentum as an object with ``init`` and ``update``; either can be another."""

    def init(params):
        return Count(jnp.zeros((), jnp.int32), (trace or (lambda p: jax.tree.map(jnp.zeros_like, p)))(params))

    def heavy_ball(grads, state, params=None):
        m = jax.tree.map(lambda t, g: 0.5 * t + g, state.trace, grads)
        return jax.tree.map(lambda x: -0.25 * x, m), Count(state.count + 1, m)

    return SimpleNamespace(init=init, update=update or heavy_ball)


def walk(optimizer, params, grads=GRADS, apply=None, **inputs):
    """Return state and parameters after all gradients."""
    state = optimizer.init(params)
    for g in grads:
        state, params = (apply or optimizer.apply)(streams.arrays(g, jnp.float32), state, params, **inputs)
    return state, params


def recorded(takes):
    """Return an update of the given signature and the list of what it was given."""
    seen = []

    def record(given):
        grads, state = given.pop("grads"), given.pop("state")
        seen.append(given)
        return jax.tree.map(jnp.zeros_like, grads), state

    scope = {"record": record}
    exec(f"def update({takes}):\n    return record(dict(locals()))", scope)
    return seen, scope["update"]


# --- what it does -----------------------------------------------------------------------------------------------------


def test_it_is_the_rule_that_the_transformation_is():
    params = streams.arrays(PARAMS)
    state, got = walk(create_optimizer_from_optax(momentum()), params)
    expected = walk(pure(rules.Momentum(0.5), 0.25), params)[1]
    for name in params:
        np.testing.assert_array_equal(got[name], expected[name])
    assert int(state.count) == len(GRADS)


def test_jit_scan_and_vmap_take_it():
    optimizer, params = create_optimizer_from_optax(momentum()), streams.arrays(PARAMS)
    _, eager = walk(optimizer, params)
    _, jitted = walk(optimizer, params, apply=jax.jit(optimizer.apply))
    stacked = {name: jnp.asarray(np.stack([g[name] for g in GRADS]), jnp.float32) for name in params}
    scan = jax.jit(lambda carry, xs: jax.lax.scan(lambda c, g: (optimizer.apply(g, *c), None), carry, xs)[0])
    _, scanned = scan((optimizer.init(params), params), stacked)
    twice = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    state, g = jax.vmap(optimizer.init)(twice), streams.arrays(GRADS[0], jnp.float32)
    _, mapped = jax.vmap(optimizer.apply, in_axes=(None, 0, 0))(g, state, twice)
    alone = optimizer.apply(g, optimizer.init(params), params)[1]
    for name in params:  # 3 roundings a step, which programs may take at other places
        for other in (jitted, scanned):
            np.testing.assert_allclose(other[name], eager[name], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(mapped[name][1], alone[name], rtol=1e-6)


def test_a_step_comes_apart_into_state_and_parameters():
    optimizer, params = create_optimizer_from_optax(momentum()), streams.arrays(PARAMS)
    g, state = streams.arrays(GRADS[0], jnp.float32), optimizer.init(params)
    after, moved = optimizer.apply(g, state, params)
    kept, alike = optimizer.apply(g, state, params, advance=False)
    advanced = optimizer.advance_only(g, state, params)
    assert kept is state
    jax.tree.map(np.testing.assert_array_equal, (advanced, alike), (after, moved))


def test_an_update_of_none_leaves_its_parameter_as_it_is():
    def update(grads, state, params):
        return {"a": None, "b": -grads["b"]}, state

    optimizer = create_optimizer_from_optax(SimpleNamespace(init=lambda p: (), update=update))
    params = {"a": jnp.array(-0.0), "b": jnp.ones(2)}
    _, new = optimizer.apply({"a": jnp.ones(()), "b": jnp.ones(2)}, (), params)
    assert np.signbit(new["a"]) and not new["b"].any()


# --- dtypes and buffers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grads_dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_parameters_and_state_keep_their_dtypes(dtype, grads_dtype):
    """As optax has it, the state would take the dtype of wider gradients at the first step, and scan would refuse."""
    optimizer, params = create_optimizer_from_optax(momentum()), {"w": jnp.ones(3, dtype)}
    state = optimizer.init(params)
    new, moved = optimizer.apply({"w": jnp.ones(3, grads_dtype)}, state, params)
    kinds = lambda tree: [(x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]  # noqa: E731
    assert kinds((new, moved)) == kinds((state, params))


def test_state_and_parameters_share_no_buffer_and_can_be_donated():
    params, zeros = {"w": jnp.ones(3)}, jnp.zeros(3)
    shared = create_optimizer_from_optax(momentum(trace=lambda p: {"a": p["w"], "b": p["w"], "c": zeros, "d": zeros}))
    arrays = [params["w"], *shared.init(params).trace.values()]
    assert len({x.unsafe_buffer_pointer() for x in arrays}) == 5

    def update(grads, state, params):
        return grads, Count(state.count, {"a": params["w"], "b": state.trace["a"]})

    optimizer = create_optimizer_from_optax(momentum(update, lambda p: {"a": p["w"], "b": p["w"]}))
    state = optimizer.init(params)
    step = jax.jit(optimizer.apply, donate_argnums=(1, 2))
    state, params = step({"w": jnp.ones(3)}, state, params)
    state, params = step({"w": jnp.ones(3)}, state, params)
    np.testing.assert_array_equal(params["w"], 3.0)


# --- further inputs ---------------------------------------------------------------------------------------------------

GIVEN = {"value": 1.0, "grad": 2.0, "value_fn": 3.0, "grad_fn": 4.0, "key": 5.0}


@pytest.mark.parametrize(
    ("takes", "expected"),
    [
        ("grads, state, params=None", set()),
        ("grads, state, params=None, *, value", {"value"}),
        ("grads, state, params=None, value=None, key=None", {"value", "key"}),
        ("grads, state, params=None, **extra", {"extra"}),
    ],
)
def test_update_gets_the_inputs_that_it_accepts(takes, expected):
    seen, update = recorded(takes)
    optimizer = create_optimizer_from_optax(SimpleNamespace(init=lambda p: (), update=update))
    params = {"w": jnp.ones(2)}
    optimizer.apply(params, (), params, **GIVEN)
    (inputs,) = seen
    assert inputs.keys() - {"params"} == expected
    known = expected & GIVEN.keys()
    assert {name: inputs[name] for name in known} == {name: GIVEN[name] for name in known}
    assert inputs.get("extra", GIVEN) == GIVEN


def test_the_third_argument_is_the_parameters_whatever_its_name():
    seen, update = recorded("grads, state, value, key")
    optimizer = create_optimizer_from_optax(SimpleNamespace(init=lambda p: (), update=update))
    params = {"w": jnp.ones(2)}
    optimizer.apply(params, (), params, value=1.0, key=2.0)
    assert seen == [{"value": params, "key": 2.0}]


def test_the_gradients_are_the_gradient_of_the_function_that_is_given():
    seen, update = recorded("grads, state, params=None, *, value_fn=None, grad=None")
    optimizer = create_optimizer_from_optax(SimpleNamespace(init=lambda p: (), update=update))
    params, grads = {"w": jnp.ones(2)}, {"w": jnp.full(2, 7.0)}
    optimizer.apply(grads, (), params, value_fn=sum)
    optimizer.apply(grads, (), params, value_fn=sum, grad="mine")
    optimizer.apply(grads, (), params)
    assert float(seen[0]["grad"]["w"][0]) == 7.0
    assert (seen[1]["grad"], seen[2]["grad"]) == ("mine", None)


def test_an_unknown_input_is_not_swallowed():
    optimizer, params = create_optimizer_from_optax(momentum()), {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match="vlaue"):
        optimizer.apply(params, optimizer.init(params), params, vlaue=1.0)


# --- errors -----------------------------------------------------------------------------------------------------------


def transformation(learning_rate):
    """Stand for optax.adam: a function that makes a transformation."""
    return momentum()


@pytest.mark.parametrize(
    ("tx", "says"),
    [
        (rules.Adam(), r"pure\(Adam\(\.\.\.\), lr\)"),
        (rules.Adam, r"Call it: Adam\(\.\.\.\)"),
        (transformation, r"Call it: transformation\(\.\.\.\)"),
        (1e-3, "got      float 0.001"),
        (SimpleNamespace(init=lambda p: ()), "init.params. and update"),
        (None, "NoneType None"),
    ],
)
def test_what_is_no_transformation_is_refused_with_the_fix(tx, says):
    with pytest.raises(CompositionError, match=says):
        create_optimizer_from_optax(tx)


@pytest.mark.parametrize(
    ("grads", "error", "says"),
    [
        ({"w": np.ones((4, 2), np.float32), "b": np.ones(1, np.float32)}, StructureError, "'w'.*\n.*\n.*\n.*reduce"),
        ({"w": np.ones(2, np.int32), "b": np.ones(1, np.float32)}, DTypeError, "'w'"),
        ({"w": np.ones(2, np.float32)}, StructureError, "another structure"),
        ({"w": np.ones(2, np.float32), "b": None}, StructureError, "'b' is None"),
    ],
)
def test_gradients_that_do_not_fit_are_refused_by_name(grads, error, says):
    optimizer, params = create_optimizer_from_optax(momentum()), {"w": jnp.ones(2), "b": jnp.ones(1)}
    with pytest.raises(error, match=says):
        optimizer.apply(grads, optimizer.init(params), params)


def test_integer_parameters_are_refused_by_name():
    """fedjax's own example steps integers by a tenth, which leaves them where they are."""
    optimizer, params = create_optimizer_from_optax(momentum()), {"w": jnp.array([1, 1, 1])}
    with pytest.raises(DTypeError, match="'w'"):
        optimizer.init(params)
    with pytest.raises(DTypeError, match="'w'"):
        optimizer.apply({"w": jnp.ones(3)}, (), params)


@pytest.mark.parametrize(
    ("updates", "says"),
    [({"w": jnp.ones(())}, "update of 'w' does not fit"), ({}, "updates have another structure")],
)
def test_updates_that_do_not_fit_are_refused(updates, says):
    """A scalar would broadcast."""
    tx = SimpleNamespace(init=lambda p: (), update=lambda g, s, p: (updates, s))
    params = {"w": jnp.ones(2)}
    with pytest.raises(StructureError, match=says):
        create_optimizer_from_optax(tx).apply(params, (), params)


def test_optax_is_not_imported():
    code = "import sys, optimkit.interop; sys.exit('optax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- optax ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def optax():
    """optax, where it is installed."""
    return pytest.importorskip("optax", reason="optax is only in the bench extra; objects of its form stand for it")


def test_fedjaxs_own_values(optax):
    """The example of fedjax.optimizers, with parameters of floating point."""
    optimizer = create_optimizer_from_optax(optax.sgd(learning_rate=0.1))
    params, grads = {"w": jnp.array([1.0, 1.0, 1.0])}, {"w": jnp.array([2.0, 3.0, 4.0])}
    _, params = optimizer.apply(grads, optimizer.init(params), params)
    np.testing.assert_allclose(params["w"], [0.8, 0.7, 0.6], rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "yogi", "polyak_sgd", "prodigy", "masked"])
def test_it_does_as_optax_with_apply_updates(optax, name):
    makers = {
        "polyak_sgd": lambda: optax.polyak_sgd(0.1),
        "prodigy": lambda: optax.contrib.prodigy(1.0),
        "masked": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adam(0.1), {
            "bias": True, "scale": False, "weight": True})),
    }  # fmt: skip
    tx = makers.get(name, lambda: getattr(optax, name)(0.1))()
    inputs = {"value": 2.0} if name == "polyak_sgd" else {}
    params = expected = streams.arrays(PARAMS)
    _, got = walk(create_optimizer_from_optax(tx), params, value=2.0)
    state = tx.init(expected)
    for g in GRADS:
        updates, state = tx.update(streams.arrays(g, jnp.float32), state, expected, **inputs)
        expected = optax.apply_updates(expected, updates)
    for key in params:
        np.testing.assert_array_equal(got[key], expected[key])


def test_lbfgs_of_optax_finds_the_minimum_of_a_quadratic(optax):
    optimizer = create_optimizer_from_optax(optax.lbfgs())

    def loss(params):
        return jnp.sum(jnp.array([1.0, 10.0]) * (params["w"] - 3.0) ** 2)

    @jax.jit
    def step(state, params):
        value, grads = jax.value_and_grad(loss)(params)
        return optimizer.apply(grads, state, params, value=value, value_fn=loss)

    params = {"w": jnp.zeros(2)}
    state = optimizer.init(params)
    for _ in range(8):
        state, params = step(state, params)
    np.testing.assert_allclose(params["w"], 3.0, rtol=1e-5)


def test_prodigys_state_can_be_donated(optax):
    """As optax returns it, it holds the parameters themselves."""
    optimizer, params = create_optimizer_from_optax(optax.contrib.prodigy(1.0)), {"w": jnp.ones(3)}
    state = optimizer.init(params)
    step = jax.jit(optimizer.apply, donate_argnums=(1, 2))
    state, params = step({"w": jnp.ones(3)}, state, params)
    assert np.isfinite(params["w"]).all()
