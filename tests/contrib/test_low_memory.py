"""GaLore and Adam-mini: other people's traces, what is remembered, and of what."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import TrainVar, VarCollection, contrib
from optimkit import rules as core
from optimkit.contrib import rules
from optimkit.errors import CompositionError, StructureError
from optimkit.rules.base import Step
from optimkit.testing import check_oracle
from tests.contrib.golden import assert_follows
from tests.oracles.contrib_adam_mini import oracle_adam_mini


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def moved(rule, grads, shape=(3, 4), name="w"):
    """Return the displacements of a parameter that stays at 1, and the last state."""
    params = {name: jnp.ones(shape)}
    state, deltas = rule.init(params), []
    for g in grads:
        delta, state = rule.update(Step({name: jnp.asarray(g, jnp.float32)}, params, 0.1), state)
        deltas.append(np.asarray(delta[name]))
    return deltas, state


# --- GaLore -----------------------------------------------------------------------------------------------------------


def test_galore_follows_the_authors_code():
    assert_follows("GaLore", rules.GaLore(core.Adam(0.9, 0.99), rank=1, scale=0.25))


@pytest.mark.slow
def test_galore_follows_the_authors_code_over_changes_of_the_projection():
    """With one departure in the code: singular vectors have the signs that are nearest to the old ones, as here."""
    class Some(rules.GaLore):  # the trace has a matrix for which the rank is 1
        def _new(self, x):
            slot = super()._new(x)
            return {**slot, "p": slot["p"][:, :1]} if x.shape == (2, 3) else slot

        def _projects(self, name, x):
            return super()._projects(name, x) or name == "weight"

    assert_follows("GaLore_turning", Some(core.Adam(0.9, 0.99), rank=2, frequency=10, scale=0.25))


def test_galores_projections_are_those_of_any_signs():
    """What a step is projected to, P Pᵀ, does not depend on signs; only moments that are kept do."""
    g = normal(3, 5)
    p = np.asarray(moved(rules.GaLore(rank=2, frequency=1), [normal(3, 5, seed=1), g], (3, 5))[1]["bases"]["w"]["p"])
    u = np.linalg.svd(np.asarray(g))[0][:, :2]
    np.testing.assert_allclose(p @ p.T, u @ u.T, atol=1e-5)


def test_galore_remembers_rank_rows_for_a_matrix():
    params = {"w": jnp.zeros((4, 9)), "tall": jnp.zeros((9, 4)), "embed": jnp.zeros((9, 9)), "thin": jnp.zeros((2, 9)),
              "b": jnp.zeros(9), "conv": jnp.zeros((3, 3, 4, 4))}  # fmt: skip
    state = rules.GaLore(rank=2).init(params)
    shapes = {n: slot["mu"].shape for n, slot in state["inner"]["slots"].items()}
    assert shapes == {n: x.shape for n, x in params.items()} | {"w": (2, 9), "tall": (9, 2)}
    assert {n: basis["p"].shape for n, basis in state["bases"].items()} == {"w": (4, 2), "tall": (4, 2)}
    routes = rules.GaLore(rank=2).routes(params)
    assert {n for n, route in routes.items() if route == "projected"} == {"w", "tall"}


def test_galore_of_full_rank_in_all_but_one_direction_moves_in_the_others_only():
    rule = rules.GaLore(core.SGD(), rank=2, scale=1.0)
    g = normal(3, 4)
    u, s, v = np.linalg.svd(np.asarray(g), full_matrices=False)
    np.testing.assert_allclose(moved(rule, [g])[0][0], -0.1 * (u[:, :2] * s[:2]) @ v[:2], atol=1e-6)
    np.testing.assert_allclose(moved(rule, [g.T], (4, 3))[0][0], -0.1 * ((u[:, :2] * s[:2]) @ v[:2]).T, atol=1e-6)


def test_galore_takes_a_new_basis_every_frequency_steps_and_only_from_a_gradient_that_is_not_zero():
    grads = [np.zeros((3, 4)), *(normal(3, 4, seed=i) for i in range(6))]
    bases = [np.asarray(moved(rules.GaLore(rank=1, frequency=3), grads[:n])[1]["bases"]["w"]["p"]) for n in range(1, 8)]
    changed = [n + 1 for n in range(1, 7) if (bases[n] != bases[n - 1]).any()]
    np.testing.assert_array_equal(bases[0], np.eye(3, 1))
    assert changed == [2, 5]


def test_galore_keeps_the_direction_of_its_bases():
    grads = [normal(3, 4) + 0.01 * normal(3, 4, seed=i) for i in range(5)]
    bases = [np.asarray(moved(rules.GaLore(rank=2, frequency=1), grads[:n])[1]["bases"]["w"]["p"]) for n in range(1, 6)]
    for a, b in itertools.pairwise(bases):
        assert (np.sum(a * b, axis=0) > 0.9).all()


@pytest.mark.parametrize("g", [np.zeros((3, 4)), np.ones((3, 4)), 1e-30 * np.eye(3, 4)], ids=["0", "rank one", "tiny"])
def test_galore_is_finite_on_gradients_of_any_rank(g):
    deltas, state = moved(rules.GaLore(core.Adam(eps=0.0), rank=2, frequency=1), [g, g, np.eye(3, 4), g])
    assert all(np.isfinite(x).all() for x in (*deltas, *map(np.asarray, jax.tree.leaves(state))))


def test_galore_refuses_rules_that_need_gradients_elsewhere():
    with pytest.raises(CompositionError, match="Sophia"):
        rules.GaLore(rules.Sophia())


def test_galore_by_its_name_takes_an_inner_rule_and_its_hyperparameters():
    vc = VarCollection({"w": TrainVar(jnp.zeros((3, 4)))})
    opt = contrib.GaLore(vc, core.Adam(beta1=0.5), rank=1)
    opt(0.1, [normal(3, 4)], beta1=0.25)
    assert opt.rank == 1 and opt.state["w"].mu.shape == (1, 4) and opt.state["w"].p.shape == (3, 1)


# --- Adam-mini --------------------------------------------------------------------------------------------------------


def test_adam_mini_follows_the_authors_code():
    assert_follows("AdamMini", rules.AdamMini(0.9, 0.99, heads=2, kv_heads=1, layout="out_in"))


def test_adam_mini_with_heads_follows_the_oracle():
    params = {n: np.ones(shape, np.float32) for n, shape in (("wq", (3, 4)), ("wk", (3, 4)), ("embed", (4, 2)))}
    kinds = {"wq": "heads", "wk": "kv_heads", "embed": "tokens"}

    def oracle(params, grads, lr, **hyper):
        return oracle_adam_mini(params, grads, lr, kinds=kinds, **hyper)

    check_oracle(rules.AdamMini(heads=4, kv_heads=2, weight_decay=0.1), oracle, params=params, steps=20)


@pytest.mark.parametrize(("layout", "sizes"), [("in_out", (6, 2, 3)), ("out_in", (4, 2, 3))])
def test_adam_mini_remembers_one_number_for_each_block(layout, sizes):
    params = {"up": jnp.zeros((4, 6)), "wq": jnp.zeros((6, 6)), "wk": jnp.zeros((6, 6)), "gain": jnp.zeros(6),
              "embed": jnp.zeros((9, 4)), "bias": jnp.zeros(6)}  # fmt: skip
    state = rules.AdamMini(heads=2, kv_heads=3, layout=layout).init(params)
    rules_of = {"neurons": "up", "heads": "wq", "kv_heads": "wk", "whole": "gain", "tokens": "embed"}
    found = {n: state[kind]["BlockAdam"]["slots"][n]["nu"].shape for kind, n in rules_of.items()}
    assert found == {"up": (sizes[0],), "wq": (sizes[1],), "wk": (sizes[2],), "gain": (1,), "embed": (9,)}
    assert state["each"]["Adam"]["slots"]["bias"]["nu"].shape == (6,)


def test_adam_mini_is_adam_where_blocks_are_single_elements():
    grads = [normal(3, 4, seed=i) for i in range(3)]
    mini = moved(rules.AdamMini(blocks=((".", "each"),)), grads)[0]
    adam = moved(core.Adam(), grads)[0]
    np.testing.assert_allclose(mini, adam, rtol=1e-6)


def test_adam_mini_moves_a_block_as_one():
    g = np.outer([1.0, 10.0], [1.0, 1.0, 1.0])  # rows are outputs
    rows, columns = (moved(rules.AdamMini(layout=x), [g], (2, 3))[0][0] for x in ("out_in", "in_out"))
    np.testing.assert_allclose(rows, -0.1, rtol=1e-5)
    np.testing.assert_allclose(columns[1] / columns[0], 10.0, rtol=1e-5)


def test_adam_mini_refuses_blocks_that_are_none():
    for wrong in ((("w", "rows"),), ("w",), ((3, "each"),), (("(", "each"),)):
        with pytest.raises(CompositionError, match="AdamMini"):
            rules.AdamMini(blocks=wrong)
    with pytest.raises(StructureError, match="4 does not divide into 3 heads"):
        rules.AdamMini(heads=3).init({"wq": jnp.zeros((4, 4))})
    with pytest.raises(CompositionError, match="'w'"):
        rules.AdamMini(blocks=(("b", "each"),)).init({"w": jnp.zeros((4, 4))})
