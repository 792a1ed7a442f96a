"""What Adam's relatives claim beyond their oracles: of each other, of scales and of the branch not taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import rules
from optimkit.errors import CompositionError
from optimkit.rules.adam_variants import sma_length
from optimkit.rules.base import Step
from optimkit.testing import streams
from optimkit.testing.compare import require_close, require_identical, rounding
from optimkit.testing.runner import compiled, eager, run

PARAMS = streams.parameters()
GRADS = streams.gradients(PARAMS, 6)


@pytest.mark.parametrize(
    ("named", "chain"),
    [
        (rules.NAdamW(0.8, weight_decay=0.3), rules.Chain(rules.NAdam(0.8), rules.WeightDecay(0.3))),
        (rules.AdaMaxW(0.8, weight_decay=0.3), rules.Chain(rules.AdaMax(0.8), rules.WeightDecay(0.3))),
    ],
    ids=["NAdamW", "AdaMaxW"],
)
@pytest.mark.parametrize("update", [eager, compiled], ids=["eager", "compiled"])
def test_decayed_rules_are_chains_to_the_last_bit(named, chain, update):
    got, expected = run(named, PARAMS, GRADS, update=update), run(chain, PARAMS, GRADS, update=update)
    for t in range(len(GRADS)):
        require_identical(repr(named), got.params[t], expected.params[t], f"parameters at step {t + 1}")


def test_stable_adamw_without_clipping_is_adamw():
    hyper = {"beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1}
    stable = run(rules.StableAdamW(threshold=1e6, **hyper), PARAMS, GRADS, update=eager)
    adamw = run(rules.AdamW(**hyper), PARAMS, GRADS, update=eager)
    require_close("StableAdamW", stable.params, adamw.params, adamw.start, rounding(len(GRADS)))


def test_stable_adamw_shortens_the_step_at_a_spike():
    """A gradient 1000 times the others moves a parameter by a tenth of what AdamW does: RMS is √(1 / (1 − beta2))."""
    grads = [{"w": np.ones(4)} for _ in range(200)] + [{"w": np.full(4, 1000.0)}]
    steps = {}
    for rule in (rules.StableAdamW(beta2=0.99, weight_decay=0.0), rules.Adam(beta2=0.99, eps=1e-6)):
        deltas = run(rule, {"w": np.zeros(4, np.float32)}, grads).deltas
        steps[type(rule)] = np.abs(deltas[-1]["w"]).max()
        np.testing.assert_allclose(np.abs(deltas[-2]["w"]), 0.05, rtol=1e-4)
    np.testing.assert_allclose(steps[rules.StableAdamW] / steps[rules.Adam], np.sqrt(1 - 0.99), rtol=0.1)


@pytest.mark.parametrize("rule", [rules.AdamAtan2(), rules.AdaMax(eps=0.0)], ids=["AdamAtan2", "AdaMax"])
@pytest.mark.parametrize("power", [-30, 30])
def test_scaling_all_gradients_changes_nothing(rule, power):
    scaled = [{name: g * 2.0**power for name, g in tree.items()} for tree in GRADS]
    usual, other = run(rule, PARAMS, GRADS), run(rule, PARAMS, scaled)
    for t in range(len(GRADS)):
        require_identical(repr(rule), other.params[t], usual.params[t], f"parameters at step {t + 1}")


def test_adabelief_stores_its_eps_once_or_not_at_all():
    """On gradients of zero the second moment is eps_root times the sum of powers of beta2, or stays 0."""
    zeros = [jax.tree.map(np.zeros_like, PARAMS)] * 5
    in_mean = run(rules.AdaBelief(beta2=0.5, eps_root=1e-3), PARAMS, zeros)
    expected = 1e-3 * np.cumsum(0.5 ** np.arange(5))
    np.testing.assert_allclose([s["slots.bias.nu"][0] for s in in_mean.states], expected, rtol=1e-6)
    read = run(rules.AdaBelief(beta2=0.5, eps_root=1e-3, eps_in_mean=False), PARAMS, zeros)
    assert all(not s["slots.bias.nu"].any() for s in read.states)


def test_novograd_keeps_one_second_moment_for_a_tensor():
    state = rules.NovoGrad().init(streams.arrays(PARAMS))
    assert {name: slot["nu"].shape for name, slot in state["slots"].items()} == dict.fromkeys(PARAMS, ())
    first = run(rules.NovoGrad(), PARAMS, GRADS).states[0]
    np.testing.assert_allclose(first["slots.weight.nu"], np.sum(GRADS[0]["weight"] ** 2), rtol=1e-6)


def test_amsgrad_does_not_forget_a_large_gradient():
    grads = [{"w": np.full(1, x)} for x in [100.0] + [1.0] * 50]
    start = {"w": np.zeros(1, np.float32)}
    hyper = {"beta1": 0.0, "beta2": 0.5}
    for debias in ("after", "before", "never"):
        last = run(rules.AMSGrad(debias=debias, **hyper), start, grads).deltas[-1]["w"]
        assert np.abs(last) < 0.05 * 2e-2
    np.testing.assert_allclose(run(rules.Adam(**hyper), start, grads).deltas[-1]["w"], -0.05, rtol=1e-4)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adan_is_chainable_unless_its_decay_is_proximal(decoupled, weight_decay):
    rule = rules.Adan(weight_decay=weight_decay, decoupled=decoupled)
    assert rule.chainable == (decoupled or weight_decay == 0)
    assert rules.Chain(rules.ClipByGlobalNorm(), rule).chainable == rule.chainable
    if not rule.chainable:
        with pytest.raises(CompositionError, match="Adan at place 1 of 2"):
            rules.Chain(rule, rules.WeightDecay())


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.75, 0.99, 0.999, 0.99999])
def test_sma_length_has_the_accuracy_of_float32(beta):
    """Against the definition in float64, whose cancellation costs it 1e-11 at most."""
    for t in (1, 2, 5, 6, 30, 1000, 100_000):
        expected = 2 / (1 - beta) - 1 - 2 * t * beta**t / (1 - beta**t)
        got = float(sma_length(beta, jnp.float32(t)))
        np.testing.assert_allclose(got, expected, rtol=16 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.6, 0.999])
def test_radam_can_be_differentiated_where_it_does_not_normalise(beta2):
    """The root of the branch that is not taken has no value there: unguarded, it would make each derivative NaN."""

    def delta(g, beta2):
        rule = rules.RAdam(beta2=beta2)
        p = {"w": jnp.ones(())}
        return rule.update(Step({"w": g}, p, 0.1), rule.init(p))[0]["w"]

    slope, by_beta2 = jax.grad(delta, (0, 1))(jnp.float32(2.0), jnp.float32(beta2))
    np.testing.assert_allclose(slope, -0.1, rtol=1e-6)
    assert np.isfinite(by_beta2) or beta2 == 0.0, "log 0 has no derivative"
