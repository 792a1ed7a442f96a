"""Complex parameters as pairs of real ones, by the rule itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import rules
from optimkit.contrib.rules import SAM, SplitComplex
from optimkit.contrib.rules.complex_parts import parts_of, whole_of
from optimkit.rules.base import Step
from tests.oracles import contrib_wrappers
from tests.shell import close

START = {"real": np.array([1.0, -2.0], np.float32), "z": np.array([[3 + 4j, -1j]], np.complex64)}
TARGET = {"real": np.array([0.5, 0.5]), "z": np.array([[1 - 1j, 2 + 0j]])}


def loss(p):
    """Return a real loss whose parts bend differently."""
    away = p["z"] - TARGET["z"]
    return jnp.sum((p["real"] - TARGET["real"]) ** 2) + jnp.sum(jnp.real(away) ** 2 + 3 * jnp.imag(away) ** 2)


def train(rule, steps, lr=0.1):
    """Return the way of the parameters, by the rule alone."""
    gradient = jax.grad(loss)
    params = jax.tree.map(jnp.asarray, START)
    state, way = rule.init(params), []
    for _ in range(steps):
        delta, state = rule.update(Step(gradient(params), params, jnp.float32(lr), loss(params), gradient,
                                        lambda p: (loss(p), gradient(p))), state)  # fmt: skip
        params = jax.tree.map(jnp.add, params, delta)
        way.append(params)
    return way, state


def test_it_does_what_two_real_parameters_would():
    for inner in (rules.Momentum(), rules.Adam(), rules.Chain(rules.ClipByGlobalNorm(1.0), rules.AdamW())):
        way, _ = train(SplitComplex(inner), 20)
        split = parts_of(jax.tree.map(jnp.asarray, START), START)
        state = inner.init(split)
        for got in way:
            grads = jax.grad(lambda parts: loss(whole_of(parts, START)))(split)
            delta, state = inner.update(Step(grads, split, jnp.float32(0.1)), state)
            split = jax.tree.map(jnp.add, split, delta)
            for name, x in whole_of(split, START).items():
                close(got[name].real, x.real, ulps=8)
                close(jnp.imag(got[name]), jnp.imag(x), ulps=8)


def test_it_follows_the_oracle():
    rng = np.random.default_rng(0)
    noise = lambda n, p: rng.normal(size=p.shape) + (1j * rng.normal(size=p.shape) if n == "z" else 0)  # noqa: E731
    grads = [{n: noise(n, p) for n, p in START.items()} for _ in range(20)]
    for conjugate in (True, False):
        stream = iter(grads)
        as_given = lambda p: jax.tree.map(lambda g, x: jnp.asarray(g, x.dtype), next(stream), p)  # noqa: B023, E731
        rule, params = SplitComplex(rules.Momentum(), conjugate), jax.tree.map(jnp.asarray, START)
        state = rule.init(params)
        for step in contrib_wrappers.oracle_split_complex(START, grads, 0.1, conjugate=conjugate):
            delta, state = rule.update(Step(as_given(params), params, jnp.float32(0.1)), state)
            params = jax.tree.map(jnp.add, params, delta)
            for name, x in step.items():
                np.testing.assert_allclose(params[name], x, rtol=0, atol=5e-6 * np.abs(x).max())


def test_it_goes_downhill_with_the_gradients_of_jax():
    """Those are conjugates: without conjugation the imaginary part would run away."""
    way, _ = train(SplitComplex(rules.SGD()), 100)
    np.testing.assert_allclose(way[-1]["z"], TARGET["z"], atol=1e-5)
    away, _ = train(SplitComplex(rules.SGD(), conjugate=False), 10)
    assert np.abs(np.imag(away[-1]["z"] - TARGET["z"])).max() > 10


@pytest.mark.parametrize("inner", [rules.PolyakSGD(max_step=10.0), rules.LBFGS(), SAM(rules.SGD(), 0.01)],
                         ids=lambda r: type(r).__name__)  # fmt: skip
def test_inputs_that_rules_need_are_forwarded(inner):
    """optax's wrapper drops them. Functions of the parameters get complex ones, and return gradients in parts."""
    rule = SplitComplex(inner)
    assert rule.needs == inner.needs
    way, _ = train(rule, 20)
    assert loss(way[-1]) < 0.2 * loss(START)


def test_averages_are_put_together():
    rule = SplitComplex(rules.Averaged(rules.SGD()))
    way, state = train(rule, 2)
    average = rule.eval_params(state, way[-1])
    for name in START:
        assert average[name].dtype == START[name].dtype
        np.testing.assert_allclose(average[name], (way[0][name] + way[1][name]) / 2, rtol=1e-6)


@pytest.mark.parametrize("wide", [False, True], ids=["complex64", "complex128"])
def test_forms_are_kept_and_zeros_stay(wide):
    with jax.enable_x64(wide):
        dtype = jnp.complex128 if wide else jnp.complex64
        params = {"z": jnp.array([1 - 2j], dtype)}
        rule = SplitComplex(rules.Adam())
        state = rule.init(params)
        assert {x.dtype for x in jax.tree.leaves(state["slots"])} == {params["z"].real.dtype}
        for _ in range(3):
            delta, state = rule.update(Step({"z": jnp.zeros(1, dtype)}, params, 0.1), state)
            assert delta["z"].dtype == dtype
            assert delta["z"].tolist() == [0j]


def test_parts_are_called_real_and_imag():
    rule = SplitComplex(rules.Partition((r"z\.real$", rules.Frozen()), (".", rules.SGD())))
    way, _ = train(rule, 5)
    assert np.real(way[-1]["z"]).tolist() == np.real(START["z"]).tolist()
    assert np.imag(way[-1]["z"]).tolist() != np.imag(START["z"]).tolist()
