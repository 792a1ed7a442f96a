"""Private gradients: batches, examples that are not finite, noise, and errors. The shell is not part of this."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import rules
from optimkit.contrib.rules import DPSGD, DPAggregate
from optimkit.errors import StructureError
from optimkit.rules.base import Step
from optimkit.testing.compare import require_close
from tests.oracles import contrib_private
from tests.wrapping import PARAMS

ZERO = {"w": jnp.zeros(3), "b": jnp.zeros(())}


def private(grads, rule, params=ZERO):
    """Return the direction and the next state."""
    return rule.direction(Step(grads, params, 1.0), rule.init(params))


def examples(seed, count, params=PARAMS):
    """Return gradients of some examples, of different sizes."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** np.arange(-2, count - 2)
    return {n: np.float32(rng.normal(size=(count, *np.shape(p))) * sizes.reshape(-1, *[1] * np.ndim(p)))
            for n, p in params.items()}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "batch_size": 7}])
def test_dpsgd_follows_its_oracle_on_batches(options):
    rule = DPSGD(1.0, 0.3, seed=5, **options)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state, got, batches = rule.init(params), [], [examples(seed, 4) for seed in range(20)]
    for batch in batches:
        delta, state = rule.update(Step(batch, params, jnp.float32(0.1)), state)
        params = jax.tree.map(jnp.add, params, delta)
        got.append(params)
    expected = contrib_private.oracle_dpsgd(PARAMS, batches, 0.1, max_norm=1.0, noise_multiplier=0.3, seed=5, **options)
    require_close("DPSGD", got, expected, PARAMS, 5e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_an_example_that_is_not_finite_counts_as_zero(bad, compiled):
    """optax makes all parameters NaN. 3e38 is finite; the norm of three is not, in float32."""
    good = {"w": jnp.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]), "b": jnp.array([0.0, 0.5])}
    spoilt = {"w": good["w"].at[1].set(bad), "b": good["b"].at[1].set(jnp.nan)}
    rule = DPAggregate(1.0, 0.0, seed=0)
    f = jax.jit(lambda g: private(g, rule)[0]) if compiled else lambda g: private(g, rule)[0]
    assert np.asarray(f(spoilt)["w"]).tolist() == pytest.approx([0.3, 0.4, 0.0])
    assert float(f(spoilt)["b"]) == 0.0
    assert float(f(good)["b"]) == 0.25


def test_no_example_moves_the_sum_by_more_than_the_norm():
    rule, batch = DPAggregate(0.5, 0.0, seed=0, batch_size=1), examples(0, 6)
    full = private(batch, rule, PARAMS)[0]
    for i in range(6):
        without = private({n: np.delete(g, i, axis=0) for n, g in batch.items()}, rule, PARAMS)[0]
        moved = np.sqrt(sum(np.sum(np.square(full[n] - without[n])) for n in full))
        assert moved <= 0.5 * (1 + 1e-5)


def test_noise_has_its_size_whatever_the_examples_are():
    """σ C / B, of 20000 numbers: their deviation is right to 4 / √(2 · 20000) with odds of 4 deviations."""
    params = {"w": jnp.zeros((100, 200))}
    rule = DPAggregate(2.0, 1.5, seed=3)
    for count in (1, 5):
        noise = private({"w": jnp.zeros((count, 100, 200))}, rule, params)[0]["w"]
        assert abs(float(jnp.std(noise)) / (3.0 / count) - 1) < 0.02
        assert abs(float(jnp.mean(noise))) < 4 * 3.0 / count / np.sqrt(20000)


def test_each_step_and_each_parameter_has_noise_of_its_own():
    rule, params = DPAggregate(1.0, 1.0, seed=0), {"a": jnp.zeros(4), "b": jnp.zeros(4)}
    state, seen = rule.init(params), []
    for _ in range(3):
        delta, state = rule.update(Step({n: jnp.zeros((2, 4)) for n in params}, params, 1.0), state)
        seen += [tuple(delta[n].tolist()) for n in params]
    assert len(set(seen)) == 6


def test_a_batch_without_examples_is_noise_alone():
    """Poisson sampling gives one now and then, and it must not be told from others."""
    empty = {"w": jnp.zeros((0, 3)), "b": jnp.zeros((0,))}
    for size in (None, 8):
        direction, _ = private(empty, DPAggregate(1.0, 1.0, 0, batch_size=size))
        assert all(np.isfinite(x).all() and np.any(x) for x in jax.tree.leaves(direction))


def test_half_precision_gradients_are_added_up_in_float32():
    params = {"w": jnp.zeros(1, jnp.bfloat16)}
    grads = {"w": jnp.full((1000, 1), 0.01, jnp.bfloat16)}
    direction, state = private(grads, DPAggregate(1.0, 0.0, 0), params)
    assert direction["w"].dtype == jnp.float32
    assert float(direction["w"][0]) == pytest.approx(float(jnp.bfloat16(0.01)), rel=1e-5)
    assert {x.dtype for x in jax.tree.leaves(state)} == {np.dtype("uint32"), np.dtype("int32")}


def test_gradients_without_the_axis_of_examples_are_refused_by_name():
    rule = rules.Chain(DPAggregate(1.0, 1.0, 0), rules.Adam())
    for wrong in ({"w": jnp.zeros(3), "b": jnp.zeros(())}, {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)},
                  {"w": jnp.zeros((2, 4)), "b": jnp.zeros(2)}):  # fmt: skip
        with pytest.raises(StructureError, match=r"gradients of '(w|b)' are not one for each example"):
            private(wrong, rule)


def test_it_is_declared_that_gradients_are_those_of_examples():
    assert DPAggregate.per_example and DPSGD.per_example
