"""MARS, Sophia and PSGD-Kron; and the traces of GrokFast and of a cautious rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import TrainVar, VarCollection, contrib
from optimkit import rules as core
from optimkit.contrib import rules
from optimkit.errors import MissingInputError
from optimkit.rules.base import Step
from tests.contrib.golden import assert_follows


def moved(rule, grads, start, curvature=0.0, lr=0.1):
    """Return the displacements of a parameter that stays where it is; its loss has a diagonal Hessian."""
    params = {"w": jnp.asarray(start, jnp.float32)}
    state, deltas = rule.init(params), []
    for g in grads:
        now = {"w": jnp.asarray(g, jnp.float32)}

        def grad_fn(q, now=now):
            return {"w": now["w"] + curvature * (q["w"] - params["w"])}

        delta, state = rule.update(Step(now, params, lr, grad_fn=grad_fn), state)
        deltas.append(np.asarray(delta["w"]))
    return deltas, state


# --- stages that are older than contrib -----------------------------------------------------------------------------


def test_grokfast_follows_the_authors_filter():
    assert_follows("GrokFast", core.Chain(core.GrokFast(0.98, lamb=2.0), core.AdamW(0.9, 0.98)))


def test_cautious_lion_follows_the_authors_line():
    lion = core.Cautious(core.Lion(0.9, 0.98, weight_decay=0.0))
    assert_follows("Cautious_Lion", core.Chain(lion, core.WeightDecay(0.1)))


# --- MARS -------------------------------------------------------------------------------------------------------------


def test_mars_follows_the_authors_code():
    assert_follows("MARS", rules.MARS(weight_decay=0.1))


def test_mars_with_lion_follows_the_authors_code():
    assert_follows("MARSLion", rules.MARSLion(0.9, gamma=0.1, weight_decay=0.1))


def test_mars_with_newton_schulz_steps_follows_the_authors_code():
    others = core.AdamW(0.9, 0.95, weight_decay=0.2)
    rule = rules.MARSShampoo(gamma=0.05, layout="out_in", weight_decay=0.1, other=others, other_lr_scale=1 / 3)
    assert_follows("MARSShampoo", rule)


@pytest.mark.slow
def test_mars_with_newton_schulz_steps_and_without_correction_is_muon():
    grads = [0.1 * np.random.default_rng(i).normal(size=(2, 3)) for i in range(4)]
    mars = moved(rules.MARSShampoo(gamma=0.0, weight_decay=0.1, scale="moonshot"), grads, np.ones((2, 3)))[0]
    muon = moved(rules.Muon(nesterov=False, weight_decay=0.1, scale="moonshot"), grads, np.ones((2, 3)))[0]
    np.testing.assert_allclose(mars, muon, rtol=1e-5)


@pytest.mark.slow
def test_stacked_layers_are_corrected_as_single_ones():
    """Each by its own norm: of one it is above 1, of the other it is not."""
    rng = np.random.default_rng(0)
    stack = rng.normal(size=(2, 2, 3)) * np.array([3.0, 0.01])[:, None, None]
    together = moved(rules.MARSShampoo(stacked="w"), [stack, -2 * stack], np.ones((2, 2, 3)))[0]
    for i in range(2):
        alone = moved(rules.MARSShampoo(), [stack[i], -2 * stack[i]], np.ones((2, 3)))[0]
        np.testing.assert_allclose([d[i] for d in together], alone, atol=1e-6)


def test_only_matrices_are_corrected_before_newton_schulz_steps():
    state = rules.MARSShampoo().init({"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    assert list(state["muon"]["VarianceReduced"]["previous"]) == ["w"]
    assert "VarianceReduced" not in str(state["other"].keys())


def test_mars_without_correction_is_adamw():
    grads = [0.1 * np.random.default_rng(i).normal(size=4) for i in range(4)]
    mars = moved(rules.MARS(0.9, 0.99, gamma=0.0), grads, np.ones(4))[0]
    np.testing.assert_allclose(mars, moved(core.AdamW(0.9, 0.99), grads, np.ones(4))[0], rtol=1e-6)


def test_exact_mars_corrects_by_the_gradient_of_this_batch_where_parameters_were():
    """At parameters that do not change there is nothing to correct, however the batches differ."""
    grads = [0.1 * np.random.default_rng(i).normal(size=4) for i in range(4)]
    exact = moved(rules.MARS(0.9, 0.99, exact=True), grads, np.ones(4), curvature=3.0)[0]
    np.testing.assert_allclose(exact, moved(core.AdamW(0.9, 0.99), grads, np.ones(4))[0], rtol=1e-6)


def test_exact_mars_takes_weights_that_are_loaded_after_construction_for_its_first():
    rule = rules.MARS(exact=True)
    state = rule.init({"w": jnp.zeros(2)})
    loaded, grads = {"w": jnp.full(2, 100.0)}, {"w": jnp.full(2, 0.1)}
    step = Step(grads, loaded, 0.1, grad_fn=lambda q: {"w": 0.1 + q["w"] - 100.0})
    delta, state = rule.update(step, state)
    wanted = core.AdamW(0.95, 0.99).update(Step(grads, loaded, 0.1), core.AdamW().init(loaded))[0]
    np.testing.assert_allclose(delta["w"], wanted["w"], rtol=1e-6)
    np.testing.assert_array_equal(state["VarianceReduced"]["previous"]["w"], 100.0)


@pytest.mark.parametrize("name", [
    "MARS", pytest.param("MARSLion", marks=pytest.mark.slow), pytest.param("MARSShampoo", marks=pytest.mark.slow),
])  # fmt: skip
def test_exact_mars_is_served_by_minimize(name):
    w = TrainVar(jnp.array([[3.0, -2.0], [1.0, 2.5]]))
    opt = getattr(contrib, name)(VarCollection({"w": w}), exact=True, weight_decay=0.0)
    with pytest.raises(MissingInputError, match="grad_fn"):
        opt(0.1, [w.value])
    for _ in range(3):
        opt.minimize(lambda: 0.5 * jnp.sum(w.value**2), lr=0.1)
    assert float(jnp.abs(w.value).max()) < 3.0


# --- Sophia -----------------------------------------------------------------------------------------------------------


@jax.jit
def diagonal(rule, grads, state, params, lr, t=1):
    """Take a step on a loss whose Hessian is diagonal: 1, 2, 3, ... by the order of elements."""
    rise = {n: (jnp.arange(p.size) + 1.0).reshape(p.shape) for n, p in params.items()}

    def grad_fn(q):
        return {n: grads[n] + rise[n] * (q[n] - params[n]) for n in params}

    return rule.update(Step(grads, params, lr, grad_fn=grad_fn), state)


def test_sophia_follows_the_code_with_an_exact_estimate():
    """Of a diagonal Hessian, random signs give the diagonal itself."""
    rule = rules.Sophia(0.96, 0.9, gamma=0.05, eps=5e-12, noise="rademacher", weight_decay=0.1)
    assert_follows("Sophia", rule, update=diagonal)


def test_sophia_estimates_the_diagonal_of_the_hessian():
    hessian = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 4.0]], np.float32)
    params = {"w": jnp.zeros(3)}
    for noise in ("gaussian", "rademacher"):
        rule = rules.Sophia(beta2=0.998, frequency=1, noise=noise)
        state = rule.init(params)
        step = Step(params, params, 0.1, grad_fn=lambda q: {"w": hessian @ q["w"]})
        state = jax.lax.fori_loop(0, 3000, lambda _, s, rule=rule, step=step: rule.update(step, s)[1], state)
        mean = state["ClippedNewton"]["h"]["w"] / (1 - 0.998**3000)
        # The mean over some 1000 draws; u² has variance 2, so 3 · h · √(2/1000)
        np.testing.assert_allclose(mean, np.diag(hessian), atol=0.6)


def test_sophia_makes_an_estimate_every_frequency_steps_and_another_each_time():
    rule = rules.Sophia(beta2=0.0, frequency=3)
    states = [moved(rule, [np.ones(2)] * n, np.ones(2), 5.0)[1] for n in range(1, 8)]
    found = [np.asarray(state["ClippedNewton"]["h"]["w"]) for state in states]
    assert [n + 1 for n in range(1, 7) if (found[n] != found[n - 1]).any()] == [4, 7]


def test_sophia_takes_the_sign_where_the_hessian_is_negative_or_nothing():
    for curvature in (-5.0, 0.0):
        delta = moved(rules.Sophia(weight_decay=0.0, eps=0.0), [np.array([1e-20, -3.0, 0.0])], np.ones(3), curvature)[0]
        np.testing.assert_allclose(delta[0], [-0.1, 0.1, 0.0], rtol=1e-6)


def test_sophia_is_served_by_minimize_in_bfloat16_too():
    for dtype in ("float32", "bfloat16"):
        w = TrainVar(jnp.array([3.0, -2.0], dtype))
        opt = contrib.Sophia(VarCollection({"w": w}), gamma=1.0)
        with pytest.raises(MissingInputError, match="grad_fn"):
            opt(0.1, [w.value])
        for _ in range(5):
            opt.minimize(lambda w=w: jnp.sum(w.value.astype(jnp.float32) ** 4), lr=0.1)
        assert w.value.dtype == dtype and opt.state["w"].h.dtype == jnp.float32
        assert float(jnp.abs(w.value).max()) < 3.0 and float(opt.state["w"].h.value.min()) > 0


# --- PSGD-Kron --------------------------------------------------------------------------------------------------------


def fixed(key, shape=(), dtype=float):
    """Return the numbers that the code of the trace got for normal noise; it has a scalar where the rule has (1,)."""
    n = 0 if shape == (1,) else len(shape)
    return jnp.asarray(np.random.default_rng(n).normal(size=() if n == 0 else shape), dtype).reshape(shape)


def test_psgd_kron_follows_the_code_that_it_comes_from(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", fixed)
    assert_follows("PSGDKron", rules.PSGDKron(flat_start=10**6))


def test_psgd_kron_whitens():
    """Of gradients a thousand times as large in one element as in another it makes directions of like sizes.

    Not equal ones: where the RMS of a direction is cut, the small elements are cut with the large ones.
    """
    scales = np.array([[10.0], [0.1]]) * np.array([[1.0, 0.3, 3.0]])
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.normal(size=(600, 2, 3)) * scales, jnp.float32)
    params, rule = {"w": jnp.zeros((2, 3))}, rules.PSGDKron(beta1=0.0, preconditioner_lr=0.05)

    def body(state, g):
        delta, state = rule.update(Step({"w": g}, params, -1.0), state)
        return state, delta["w"]

    directions = jax.lax.scan(body, rule.init(params), grads)[1][300:]
    sizes = np.sqrt(np.mean(np.asarray(directions) ** 2, axis=0))
    assert scales.max() / scales.min() == pytest.approx(1000)
    assert sizes.max() / sizes.min() < 3


@pytest.mark.slow
def test_psgd_kron_leaves_its_factors_alone_at_zero_gradients():
    rule = rules.PSGDKron()
    g = np.random.default_rng(0).normal(size=(2, 3))
    before = moved(rule, [g] * 3, np.ones((2, 3)))[1]["KroneckerDirection"]["slots"]["w"]
    deltas, state = moved(rule, [g, g, g, *[0.0 * g] * 20], np.ones((2, 3)))
    after = state["KroneckerDirection"]["slots"]["w"]
    np.testing.assert_array_equal(after["q0"], before["q0"])
    np.testing.assert_array_equal(after["q1"], before["q1"])
    assert all(np.isfinite(x).all() for x in deltas)


def test_psgd_kron_updates_its_factors_ever_less_often():
    rule = rules.PSGDKron(flat_start=3, decay=10.0, min_probability=0.25)
    g = np.random.default_rng(0).normal(size=(2, 3))
    done = [int(moved(rule, [g] * n, np.ones((2, 3)))[1]["KroneckerDirection"]["updates"]) for n in range(1, 9)]
    assert done == [1, 2, 3, 3, 3, 3, 4, 4]


@pytest.mark.parametrize(("options", "shapes"), [
    ({}, [(2, 2), (3, 3)]), ({"diagonal": "longest"}, [(2, 2), (3,)]), ({"diagonal": "all"}, [(2,), (3,)]),
    ({"max_dim": 2}, [(2, 2), (3,)]), ({"min_ndim": 3}, [(2,), (3,)]),
])  # fmt: skip
def test_psgd_kron_has_a_triangle_or_a_diagonal_for_each_axis(options, shapes):
    slot = rules.PSGDKron(**options).init({"w": jnp.zeros((2, 3))})["KroneckerDirection"]["slots"]["w"]
    assert [slot["q0"].shape, slot["q1"].shape] == shapes
