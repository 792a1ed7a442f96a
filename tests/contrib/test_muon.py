"""Muon: what goes where, what it does to a matrix, and other people's traces."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import TrainVar, VarCollection, contrib, optimizer
from optimkit import rules as core
from optimkit.contrib import rules
from optimkit.errors import CompositionError
from optimkit.rules.base import Step
from tests.contrib.golden import assert_follows
from tests.oracles.contrib_muon import oracle_muon


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def direction(rule, params, grads):
    return rule.update(Step(grads, params, -1.0), rule.init(params))[0]


def test_muon_follows_the_authors_code():
    other = core.AdamW(0.9, 0.95, eps=1e-10, weight_decay=0.01)
    assert_follows("Muon", rules.Muon(weight_decay=0.1, layout="out_in", other=other))


def test_muon_with_moonshots_scale_follows_pytorch():
    assert_follows("Muon_moonshot", rules.Muon(0.9, nesterov=False, scale="moonshot", weight_decay=0.1))


@pytest.mark.parametrize(("name", "steps", "apart"), [
    ("jordan", 5, 0.35), ("quintic", 12, 1e-3), ("cubic", 20, 1e-3), ("polar_express", 9, 1e-3), ("dion", 6, 0.2),
    ("deepseek", 10, 0.02),
])  # fmt: skip
def test_singular_values_come_as_near_to_one_as_the_coefficients_allow(name, steps, apart):
    """From values of 1 to 0.01, relative to a norm that is larger than the largest of them."""
    u, v = (np.linalg.qr(np.random.default_rng(i).normal(size=(6, 6)))[0] for i in range(2))
    g = jnp.asarray(u @ np.diag(np.geomspace(1.0, 1e-2, 6)) @ v, jnp.float32)
    rule = rules.Muon(coefficients=name, ns_steps=steps, scale="none")
    values = np.linalg.svd(np.asarray(direction(rule, {"w": g}, {"w": g})["w"]), compute_uv=False)
    assert np.abs(values - 1).max() < apart
    if apart > 0.1:
        assert np.abs(values - 1).max() > 0.01, "these do not converge"


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3, 9])
@pytest.mark.parametrize("name", ["polar_express", "dion", "deepseek"])
def test_each_step_has_its_coefficients(name, steps):
    start, g = np.asarray(normal(3, 4), np.float64), np.asarray(normal(3, 4, seed=1), np.float64)
    wanted = oracle_muon({"w": start}, [{"w": g}], 1.0, coefficients=name, ns_steps=steps)[0]["w"] - start
    rule = rules.Muon(coefficients=name, ns_steps=steps)
    got = -direction(rule, {"w": normal(3, 4)}, {"w": normal(3, 4, seed=1)})["w"]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_matrices_go_to_muon_and_all_else_to_the_other_rule():
    shapes = {
        "block.w": (4, 6), "conv": (3, 3, 4, 8), "conv1d": (3, 4, 8), "bias": (6,), "scale": (), "embed.table": (9, 4),
        "wte": (9, 4), "lm_head.w": (4, 9), "(Net).head(Linear).w": (4, 9), "heads.q": (4, 4), "multi_head.o": (4, 4),
        "MultiHeadAttention.o": (4, 4), "norm.gamma": (1, 8, 1, 1), "depth1": (1, 6), "unembedding": (4, 9),
    }  # fmt: skip
    matrices = {"block.w", "conv", "conv1d", "heads.q", "multi_head.o", "MultiHeadAttention.o"}
    found = rules.Muon().routes({name: jnp.zeros(shape) for name, shape in shapes.items()})
    assert {name for name, route in found.items() if route == "muon"} == matrices
    assert {name for name, route in found.items() if route == "other"} == shapes.keys() - matrices


def test_what_goes_elsewhere_is_up_to_the_caller():
    params = {"first": jnp.zeros((3, 3)), "tok": jnp.zeros((9, 3)), "head": jnp.zeros((3, 9))}
    assert rules.Muon(elsewhere="first|head").routes(params) == {"first": "other", "head": "other", "tok": "muon"}
    tall = rules.Muon(elsewhere=lambda name, x: x.shape[0] > 5)
    assert tall.routes(params) == {"first": "muon", "head": "muon", "tok": "other"}


@pytest.mark.parametrize("wrong", [3, "(", dict])
def test_a_match_that_is_none_is_refused_by_name(wrong):
    with pytest.raises(CompositionError, match="elsewhere"):
        rules.Muon(elsewhere=wrong)
    with pytest.raises(CompositionError, match="stacked"):
        rules.Muon(stacked=wrong)


def test_stacked_layers_are_stepped_as_single_ones():
    stack, g = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    rule = rules.Muon(stacked=r"^layers")
    assert rule.routes({"layers.w": stack, "layers.b": stack[0], "w": stack[0]}) == {
        "layers.b": "other", "layers.w": "stacked", "w": "muon",
    }  # fmt: skip
    together = direction(rule, {"layers.w": stack}, {"layers.w": g})["layers.w"]
    for i in range(3):
        alone = direction(rules.Muon(), {"w": stack[i]}, {"w": g[i]})["w"]
        np.testing.assert_allclose(together[i], alone, atol=1e-5)
    flat = direction(rules.Muon(), {"w": stack}, {"w": g})["w"]
    assert float(jnp.abs(flat - together).max()) > 0.1, "unless told, three axes are a kernel"


@pytest.mark.parametrize("layout", ["in_out", "out_in"])
def test_kernels_are_flattened_but_for_their_outputs(layout):
    kernel = normal(2, 3, 4, 5)
    flat = kernel.reshape(24, 5) if layout == "in_out" else kernel.reshape(2, 60)
    rule = rules.Muon(layout=layout)
    got, wanted = (direction(rule, {"w": x}, {"w": x})["w"] for x in (kernel, flat))
    np.testing.assert_allclose(got.reshape(flat.shape), wanted, atol=1e-5)


def test_singular_values_come_close_to_one():
    g = normal(8, 5)
    values = jnp.linalg.svd(direction(rules.Muon(scale="none"), {"w": g}, {"w": g})["w"], compute_uv=False)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3  # the article's 0.7 to 1.2, and a small one


@pytest.mark.parametrize(("scale", "shape", "factor"), [
    ("jordan", (4, 9), 1.5), ("jordan", (9, 4), 1.0), ("moonshot", (4, 9), 0.6), ("moonshot", (9, 4), 0.6),
])  # fmt: skip
def test_the_shape_scales_the_step(scale, shape, factor):
    g = normal(*shape)
    plain = direction(rules.Muon(scale="none"), {"w": g}, {"w": g})["w"]
    np.testing.assert_allclose(direction(rules.Muon(scale=scale), {"w": g}, {"w": g})["w"], factor * plain, rtol=1e-5)


def test_the_other_rules_learning_rate_is_0015_of_muons_and_with_moonshots_scale_the_same():
    params, grads = {"b": jnp.zeros(2)}, {"b": jnp.ones(2)}
    for rule, factor in ((rules.Muon(), 0.015), (rules.Muon(scale="moonshot"), 1.0),
                         (rules.Muon(other_lr_scale=0.5), 0.5)):  # fmt: skip
        np.testing.assert_allclose(direction(rule, params, grads)["b"], factor, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_zero_and_rank_one_gradients_leave_no_nan(dtype):
    w = jnp.ones((3, 4), dtype)
    rule = rules.Muon(ns_eps=0.0)
    state = rule.init({"w": w})
    for g in (jnp.zeros((3, 4)), jnp.outer(jnp.arange(3.0), jnp.ones(4)), jnp.zeros((3, 4))):
        delta, state = rule.update(Step({"w": g.astype(dtype)}, {"w": w}, 0.1), state)
        assert bool(jnp.isfinite(delta["w"]).all())
    assert jax.tree.leaves(state["muon"]["OrthogonalMomentum"]["slots"])[0].dtype == jnp.float32


def test_half_precision_steps_are_near_those_of_float32():
    g = normal(8, 8)
    full, half = (direction(rules.Muon(ns_dtype=d), {"w": g}, {"w": g})["w"] for d in ("float32", "bfloat16"))
    assert 1e-5 < float(jnp.abs(full - half).max()) < 0.2


def test_groups_vary_muon():
    vc = VarCollection({n: TrainVar(normal(3, 4, seed=i)) for i, n in enumerate(("a", "b", "embed"))})
    before = {n: v.value for n, v in vc.items()}
    opt = contrib.Muon(vc, groups=[optimizer.Group("slow", "^b$", lr_scale=0.0)])
    opt(0.1, dict.fromkeys(before, normal(3, 4)))
    moved = {n: bool(jnp.any(v.value != before[n])) for n, v in vc.items()}
    assert moved == {"a": True, "b": False, "embed": True}


def test_hyperparameters_of_the_other_rule_have_their_names():
    vc = VarCollection({"w": TrainVar(normal(3, 4)), "b": TrainVar(jnp.zeros(2))})
    opt = contrib.Muon(vc, momentum=0.9, other=core.Adam(beta1=0.5))
    assert (opt.momentum, opt.beta1, opt.weight_decay) == (0.9, 0.5, 0.0)
    opt(0.1, {"w": normal(3, 4), "b": jnp.ones(2)}, beta1=0.25, momentum=0.5)
    state = opt.state["b"]
    assert float(state.mu[0]) == 0.75
    assert float(jnp.abs(opt.state["w"].mu - 0.5 * normal(3, 4)).max()) < 1e-6


def test_state_is_named_after_its_parameter_and_route():
    vc = VarCollection({"w": TrainVar(normal(3, 4)), "b": TrainVar(jnp.zeros(2))})
    names = {re.sub(r"^\(Muon\)", "", n) for n, _ in contrib.Muon(vc).vars().items()}
    assert ".muon.OrthogonalMomentum[w].mu" in names and ".other[b].nu" in names


def test_oracle_stacks_by_name():
    stack, g = np.asarray(normal(2, 3, 4), np.float64), np.asarray(normal(2, 3, 4, seed=1), np.float64)
    got = oracle_muon({"w": stack}, [{"w": g}], 0.1, stacked=frozenset({"w"}))[0]["w"]
    rule = rules.Muon(stacked="w")
    delta = rule.update(Step({"w": jnp.asarray(g, jnp.float32)}, {"w": normal(2, 3, 4)}, 0.1),
                        rule.init({"w": normal(2, 3, 4)}))[0]  # fmt: skip
    np.testing.assert_allclose(stack + np.asarray(delta["w"]), got, atol=1e-5)
