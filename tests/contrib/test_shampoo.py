"""Shampoo and SOAP: other people's traces, bases, grafting, and matrices that are not of full rank."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit.contrib import rules
from optimkit.rules import AdamW
from optimkit.rules.base import Step
from optimkit.testing import check_hyperparameters_matter
from optimkit.testing.runner import run
from tests.contrib.golden import assert_follows, inputs


def test_soap_follows_the_authors_code():
    assert_follows("SOAP", rules.SOAP(0.95, 0.9, shampoo_beta=0.8, weight_decay=0.0))


@pytest.mark.slow
def test_soap_with_merged_axes_and_normalised_steps_follows_the_authors_code():
    rule = rules.SOAP(0.95, 0.9, frequency=7, max_dim=8, merge_dims=True, normalize_grads=True, weight_decay=0.0)
    assert_follows("SOAP_options", rule)


@pytest.mark.slow
def test_each_hyperparameter_of_soap_matters_where_axes_can_be_merged():
    """The kit's own parameters have no two axes whose product is short enough."""
    params = {"bias": np.zeros(2), "scale": np.float32(1.5), "kernel": np.ones((2, 2, 5))}
    check_hyperparameters_matter(rules.SOAP(frequency=3, max_dim=4, precondition_1d=True), params=params)


def test_merged_axes_have_one_matrix():
    """Up to max_dim; the axes of vectors are merged with none, and have none unless told."""
    params = {"kernel": jnp.ones((3, 3, 4, 50)), "w": jnp.ones((2, 3)), "b": jnp.ones(5), "scale": jnp.ones(())}
    state = rules.SOAP(max_dim=40, merge_dims=True).init(params)["slots"]
    shapes = {n: {k: x.shape for k, x in slot.items() if k[0] == "h"} for n, slot in state.items()}
    assert shapes == {"kernel": {"h0": (36, 36)}, "w": {"h0": (6, 6)}, "b": {}, "scale": {}}
    assert all(slot["nu"].shape == params[n].shape for n, slot in state.items())


def test_shampoo_follows_the_papers_algorithm_by_another_hand():
    plain = rules.Shampoo(1.0, "none", frequency=1, momentum=0.0, nesterov=False, eps=1e-7)
    assert_follows("Shampoo", plain)


def test_grafted_shampoo_follows_the_authors_code():
    assert_follows("Shampoo_grafted", rules.Shampoo(0.95, "adagrad", frequency=1, eps=1e-7))


def after(rule, grads, shape=(3, 4)):
    params = {"w": jnp.ones(shape)}
    state = rule.init(params)
    deltas = []
    for g in grads:
        delta, state = rule.update(Step({"w": jnp.asarray(g, jnp.float32)}, params, 0.1), state)
        deltas.append(delta["w"])
    return deltas, state


HARD = {
    "zeros first": [np.zeros((3, 4)), np.ones((3, 4)), np.zeros((3, 4)), np.eye(3, 4)],
    "rank one": [np.ones((3, 4))] * 4,
    "one element": [np.eye(3, 4)[::-1] * np.arange(3)[:, None] ** 40.0] * 4,
    "zeros": [np.zeros((3, 4))] * 4,
}


@pytest.mark.parametrize("rule", [
    rules.SOAP(frequency=1, eps=0.0),
    pytest.param(rules.SOAP(frequency=1, eps=0.0, merge_dims=True, normalize_grads=True), marks=pytest.mark.slow),
    rules.Shampoo(frequency=1, eps=0.0), rules.Shampoo(frequency=2),
    rules.Shampoo(1.0, "none", frequency=1), rules.Shampoo(graft="sgd", frequency=3, start=2),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("case", HARD)
def test_gradients_of_any_rank_leave_no_nan(rule, case):
    deltas, state = after(rule, HARD[case])
    for x in jax.tree.leaves((deltas, state)):
        assert bool(jnp.isfinite(x).all())


def test_bases_stay_orthogonal_where_matrices_are_not_of_full_rank():
    _, state = after(rules.SOAP(frequency=1), [*HARD["zeros first"], *HARD["rank one"]])
    for name in ("q0", "q1"):
        q = state["slots"]["w"][name]
        np.testing.assert_allclose(q.T @ q, np.eye(len(q)), atol=1e-5)


def test_after_zeros_first_soap_still_finds_the_bases():
    """The first gradient sets them; where it was 0 the next change does, by orthogonal iteration from the identity."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (3, 4))
    g = left @ np.diag([4.0, 2.0, 1.0]) @ right[:3]
    _, state = after(rules.SOAP(frequency=1), [np.zeros((3, 4)), *[g] * 30])
    np.testing.assert_allclose(np.abs(state["slots"]["w"]["q0"].T @ left), np.eye(3), atol=1e-3)


def test_soap_without_matrices_is_adamw_one_step_later():
    params, grads = inputs(0, {"bias": (3,), "scale": ()}, 6)
    soap = run(rules.SOAP(0.9, 0.99, weight_decay=0.1), params, grads).params
    adam = run(AdamW(0.9, 0.99, weight_decay=0.1), params, grads[1:]).params
    for n in params:
        np.testing.assert_array_equal(soap[0][n], params[n])
        np.testing.assert_allclose(soap[-1][n], adam[-1][n], rtol=1e-5)


def test_soap_turns_with_its_parameter():
    """In other coordinates, U W Vᵀ, it takes the same steps: what Adam does not."""
    rng = np.random.default_rng(1)
    grads = [rng.normal(size=(3, 3)) * [[3.0], [1.0], [0.3]] for _ in range(8)]
    u, v = (np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2))
    rule = rules.SOAP(frequency=2, weight_decay=0.0)
    plain, _ = after(rule, grads, (3, 3))
    turned, _ = after(rule, [u @ g @ v.T for g in grads], (3, 3))
    for a, b in zip(plain, turned, strict=True):
        np.testing.assert_allclose(u @ np.asarray(a) @ v.T, b, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("graft", ["sgd", "adagrad", "rmsprop"])
def test_a_grafted_step_has_the_other_rules_length_and_shampoos_direction(graft):
    grads = [np.random.default_rng(i).normal(size=(3, 4)) for i in range(4)]
    hyper = {"frequency": 1, "momentum": 0.0, "nesterov": False, "beta2": 0.9}
    got, plain = (after(rules.Shampoo(graft=x, **hyper), grads)[0][-1] for x in (graft, "none"))
    other = after(rules.Shampoo(graft=graft, start=100, **hyper), grads)[0][-1]
    assert float(jnp.linalg.norm(got)) == pytest.approx(float(jnp.linalg.norm(other)), rel=1e-5)
    cosine = jnp.vdot(got, plain) / jnp.linalg.norm(got) / jnp.linalg.norm(plain)
    assert float(cosine) == pytest.approx(1.0, abs=1e-5)


def test_roots_are_taken_at_start_and_every_frequency_steps():
    grads = [np.random.default_rng(i).normal(size=(3, 4)) for i in range(8)]
    states = [after(rules.Shampoo(frequency=3, start=2), grads[:n])[1] for n in range(1, 8)]
    roots = [np.asarray(state["Preconditioned"]["slots"]["w"]["root0"]) for state in states]
    changed = [n + 1 for n in range(1, 7) if (roots[n] != roots[n - 1]).any()]
    assert changed == [2, 3, 6]
    np.testing.assert_array_equal(roots[0], np.eye(3))


@pytest.mark.parametrize("rule", [rules.SOAP(max_dim=3), rules.Shampoo(max_dim=3)], ids=["SOAP", "Shampoo"])
def test_long_axes_have_no_matrix(rule):
    state = rule.init({"w": jnp.ones((3, 4))})
    shapes = {x.shape for x in jax.tree.leaves(state)} - {(), (3, 4)}
    assert shapes == {(3, 3)}
