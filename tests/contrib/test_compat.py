"""optax.contrib's names: its arguments are taken, rules made, and its trajectories followed where they are right."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import TrainVar, VarCollection, pure, rules
from optimkit.contrib import compat
from optimkit.contrib import rules as contrib
from optimkit.errors import CompositionError, HyperparameterError
from optimkit.optimizer import Optimizer
from optimkit.rules import Chain, Rule, Scaled
from optimkit.rules.base import Step
from optimkit.testing import streams
from optimkit.testing.compare import require_close

pytestmark = pytest.mark.slow  # each compares trajectories with optax, and compiles both

PARAMS = streams.parameters()
STEPS = 30

RULES = {
    "acprop": compat.acprop(0.1),
    "ademamix": compat.ademamix(0.1, weight_decay=0.1),
    "adopt": compat.adopt(0.1),
    "cocob": compat.cocob(weight_decay=0.1),
    "dadapt_adamw": compat.dadapt_adamw(0.5, weight_decay=0.1),
    "differentially_private_aggregate": compat.differentially_private_aggregate(1.0, 0.5, seed=0),
    "dog": compat.dog(weight_decay=0.1),
    "dowg": compat.dowg(0.5),
    "dpsgd": compat.dpsgd(0.1, 1.0, 0.5, 0, momentum=0.9),
    "galore": compat.galore(0.1, 2, scale=0.5),
    "madgrad": compat.madgrad(0.1, weight_decay=0.1),
    "mechanize": compat.mechanize(rules.Adam()),
    "momo": compat.momo(weight_decay=0.1),
    "momo_adam": compat.momo_adam(0.1),
    "muon": compat.muon(0.1, adam_learning_rate=0.01, adam_weight_decay=0.1),
    "normalize": compat.normalize(),
    "prodigy": compat.prodigy(weight_decay=0.1),
    "reduce_on_plateau": compat.reduce_on_plateau(0.5),
    "sam": compat.sam(rules.SGD(), Chain(compat.normalize(), Scaled(rules.SGD(), 0.1))),
    "schedule_free": compat.schedule_free(rules.RMSProp(), 0.1),
    "schedule_free_adamw": compat.schedule_free_adamw(0.1, 5),
    "schedule_free_sgd": compat.schedule_free_sgd(0.1, 5, weight_decay=0.1),
    "simplified_ademamix": compat.simplified_ademamix(0.1),
    "sophia": compat.sophia(0.1),
    "split_real_and_imaginary": compat.split_real_and_imaginary(rules.Adam()),
}  # fmt: skip


def sgd_rate(optax, rate):
    return optax.chain(optax.contrib.normalize(), optax.sgd(rate))


# Ours beside optax's. Those of RULES that are not here depart from it, as their Deviations say.
SAME = {
    "ademamix": (RULES["ademamix"], lambda o: o.contrib.ademamix(0.1, weight_decay=0.1)),
    "adopt": (RULES["adopt"], lambda o: o.contrib.adopt(0.1)),
    "cocob": (RULES["cocob"], lambda o: o.contrib.cocob(weight_decay=0.1)),
    "cocob at a rate": (compat.cocob(0.5), lambda o: o.contrib.cocob(0.5)),
    "dadapt_adamw": (RULES["dadapt_adamw"], lambda o: o.contrib.dadapt_adamw(0.5, weight_decay=0.1)),
    "dog": (RULES["dog"], lambda o: o.contrib.dog(weight_decay=0.1)),
    "dowg": (RULES["dowg"], lambda o: o.contrib.dowg(0.5)),
    "madgrad": (compat.madgrad(0.1, weight_decay=0.1, eps=0.0),
                lambda o: o.contrib.madgrad(0.1, weight_decay=0.1, eps=0.0)),
    "muon": (compat.muon(0.1, nesterov=False, weight_decay=0.1, adam_learning_rate=0.02, adam_weight_decay=0.2),
             lambda o: o.contrib.muon(0.1, nesterov=False, weight_decay=0.1, adam_learning_rate=0.02,
                                      adam_weight_decay=0.2)),
    "muon of dion": (compat.muon(0.1, ns_coeffs="dion", nesterov=False),
                     lambda o: o.contrib.muon(0.1, ns_coeffs="dion", nesterov=False)),
    "muon with its steps written out": (
        compat.muon(0.1, ns_coeffs=[(3.4445, -4.775, 2.0315)] * 3 + [(2, -1.5, 0.5)] * 2, nesterov=False),
        lambda o: o.contrib.muon(0.1, ns_coeffs=[(3.4445, -4.775, 2.0315)] * 3 + [(2, -1.5, 0.5)] * 2, nesterov=False)),
    "prodigy": (RULES["prodigy"], lambda o: o.contrib.prodigy(weight_decay=0.1)),
    "normalize": (Scaled(RULES["normalize"], 0.1), lambda o: sgd_rate(o, 0.1)),
    "sam": (compat.sam(Scaled(rules.Momentum(), 0.1), Chain(compat.normalize(), Scaled(rules.Momentum(), 0.1)), 3),
            lambda o: o.contrib.sam(o.sgd(0.1, 0.9), o.chain(o.contrib.normalize(), o.sgd(0.1, 0.9)), 3)),
    "sam without reset": (
        compat.sam(Scaled(rules.SGD(), 0.1), Chain(compat.normalize(), Scaled(rules.Momentum(), 0.1)), 3, False),
        lambda o: o.contrib.sam(o.sgd(0.1), o.chain(o.contrib.normalize(), o.sgd(0.1, 0.9)), 3, False)),
    "schedule_free": (compat.schedule_free(rules.SGD(), 0.1), lambda o: o.contrib.schedule_free(o.sgd(0.1), 0.1)),
    "schedule_free_sgd": (compat.schedule_free_sgd(0.1, weight_decay=0.1),
                          lambda o: o.contrib.schedule_free_sgd(0.1, weight_decay=0.1)),
    "schedule_free_adamw": (compat.schedule_free_adamw(0.1, weight_decay=0.1),
                            lambda o: o.contrib.schedule_free_adamw(0.1, weight_decay=0.1)),
    "simplified_ademamix": (RULES["simplified_ademamix"], lambda o: o.contrib.simplified_ademamix(0.1)),
    "a rate that is a schedule": (compat.adopt(lambda t: 0.1 / (t + 1)),
                                  lambda o: o.contrib.adopt(lambda t: 0.1 / (t + 1))),
}  # fmt: skip


@pytest.fixture
def optax():
    """optax, where it is installed, in 64-bit mode."""
    with jax.enable_x64(True):
        yield pytest.importorskip("optax", reason="optax is only in the bench extra; the oracles stand alone")


def ours(rule, grads, **inputs):
    """Return the way of a rule at lr = 1, in one program."""
    init, apply = pure(rule, 1.0)
    params = streams.arrays(PARAMS, jnp.float64)

    def body(carry, g):
        state, params = apply(g, *carry, **inputs)
        return (state, params), params

    return jax.jit(lambda g: jax.lax.scan(body, (init(params), params), g)[1])(stacked(grads))


def theirs(tx, grads, optax, **inputs):
    """Return the way of a transformation."""
    params = streams.arrays(PARAMS, jnp.float64)

    def body(carry, g):
        state, params = carry
        updates, state = tx.update(g, state, params, **inputs)
        params = optax.apply_updates(params, updates)
        return (state, params), params

    return jax.jit(lambda g: jax.lax.scan(body, (tx.init(params), params), g)[1])(stacked(grads))


def stacked(grads):
    return jax.tree.map(lambda *xs: jnp.asarray(np.stack(xs), jnp.float64), *grads)


def require_same(name, a, b, tolerance=5e-6):
    """Compare two ways of 30 steps in float64, where some scalars are float32 all the same."""
    steps = [[{n: np.asarray(x)[t] for n, x in way.items()} for t in range(STEPS)] for way in (a, b)]
    require_close(name, *steps, PARAMS, tolerance)


@pytest.mark.parametrize("name", SAME)
def test_it_goes_where_optax_goes(optax, name):
    rule, make = SAME[name]
    grads = streams.gradients(PARAMS, STEPS)
    require_same(name, ours(rule, grads), theirs(make(optax), grads, optax))


def test_opaque_sam_goes_where_optax_goes(optax):
    def grad_fn(p, i):
        return jax.tree.map(lambda x: jnp.tanh(x) * (1 + 0.1 * i), p)

    adversary = Chain(compat.normalize(), Scaled(rules.SGD(), 0.1))
    rule = compat.sam(Scaled(rules.Momentum(), 0.1), adversary, 3, opaque_mode=True)
    tx = optax.contrib.sam(optax.sgd(0.1, 0.9), sgd_rate(optax, 0.1), 3, opaque_mode=True)
    grads = streams.gradients(PARAMS, STEPS)
    require_same("sam", ours(rule, grads, grad_fn=grad_fn), theirs(tx, grads, optax, grad_fn=grad_fn))


@pytest.mark.parametrize("name", ["momo", "momo_adam"])
def test_rules_that_need_the_loss_go_where_optax_goes(optax, name):
    tx = optax.contrib.momo() if name == "momo" else optax.contrib.momo_adam(0.1)
    grads = streams.gradients(PARAMS, STEPS)
    value = jnp.float32(3.0)
    rule = compat.momo() if name == "momo" else RULES[name]  # the authors divide momo's step, too, by 1 + lr · decay
    require_same(name, ours(rule, grads, value=value), theirs(tx, grads, optax, value=value))


def test_a_plateau_at_the_end_of_a_chain_scales_what_comes_in(optax):
    rule = Chain(rules.Adam(), compat.reduce_on_plateau(0.5, 2))
    tx = optax.chain(optax.adam(1.0), optax.contrib.reduce_on_plateau(0.5, 2))
    grads, value = streams.gradients(PARAMS, STEPS), jnp.float32(1.0)
    require_same("plateau", ours(rule, grads, value=value), theirs(tx, grads, optax, value=value))


def test_evaluated_parameters_are_optaxs(optax):
    params, g = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([0.5, 1.0])}
    rule, tx = compat.schedule_free_sgd(0.1), optax.contrib.schedule_free_sgd(0.1)
    init, apply = pure(rule, 1.0)
    state, theirs_state = init(params), tx.init(params)
    assert compat.schedule_free_eval_params(state, params)["w"].tolist() == params["w"].tolist()
    mine = other = params
    for _ in range(3):
        state, mine = apply(g, state, mine)
        updates, theirs_state = tx.update(g, theirs_state, other)
        other = optax.apply_updates(other, updates)
    np.testing.assert_allclose(
        compat.schedule_free_eval_params(state, mine)["w"],
        optax.contrib.schedule_free_eval_params(theirs_state, other)["w"], rtol=1e-5,
    )  # fmt: skip
    with pytest.raises(CompositionError, match="no state of schedule_free"):
        compat.schedule_free_eval_params({"t": 0}, params)


def test_private_gradients_without_noise_are_optaxs(optax):
    rng = np.random.default_rng(0)
    params = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    grads = {"w": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), "b": jnp.asarray(rng.normal(size=4), jnp.float32)}
    tx = optax.contrib.differentially_private_aggregate(0.5, 0.0, jax.random.key(0))
    wanted, _ = tx.update(grads, tx.init(params), params)
    rule = compat.differentially_private_aggregate(0.5, 0.0, seed=0)
    got, _ = rule.direction(Step(grads, params, 1.0), rule.init(params))
    for name in params:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5)


def test_complex_parameters_go_where_optax_goes(optax):
    """With gradients that the caller has conjugated."""
    params, g = {"z": jnp.array([1 + 2j])}, {"z": jnp.array([0.5 - 1j])}
    tx, rule = optax.contrib.split_real_and_imaginary(optax.sgd(0.1, 0.9)), compat.split_real_and_imaginary(
        rules.Momentum())  # fmt: skip
    state, wanted = rule.init(params), tx.init(params)
    for _ in range(2):
        delta, state = rule.update(Step(g, params, 0.1), state)
        updates, wanted = tx.update(g, wanted, params)
        np.testing.assert_allclose(delta["z"], updates["z"], rtol=1e-6)


# --- without optax ----------------------------------------------------------------------------------------------------


def test_every_name_makes_a_rule_that_says_what_it_is():
    assert all(isinstance(rule, Rule) for rule in RULES.values())
    public = {n for n, f in vars(compat).items() if inspect.isfunction(f) and f.__module__ == compat.__name__}
    helpers = {"is_no_matrix"}
    assert public - helpers - {"schedule_free_eval_params"} == set(RULES)
    for name in public - helpers:
        assert "Return" in getattr(compat, name).__doc__


def test_arguments_are_those_of_optax(optax):
    """By name and by position, with optax's defaults; optax may have further ones in a newer version."""
    for name in (*RULES, "schedule_free_eval_params"):
        mine = inspect.signature(getattr(compat, name)).parameters
        other = inspect.signature(getattr(optax.contrib, name)).parameters if hasattr(optax.contrib, name) else mine
        for argument, p in other.items():
            assert argument in mine, f"{name}({argument}=...)"
            plain = type(p.default) in (int, float, str, tuple, bool, type(None))
            assert not plain or mine[argument].default == p.default, f"{name}({argument}={p.default})"
            if argument != "seed":
                assert mine[argument].kind == p.kind, f"{name}({argument})"


def test_options_that_a_rule_does_not_have_are_refused_by_name():
    refused = {
        "eps_root": lambda: compat.acprop(0.1, eps_root=1e-3),
        "mask": lambda: compat.ademamix(0.1, mask=lambda p: p),
        "weight_decay_mask": None,
        "mu_dtype": lambda: compat.adopt(0.1, mu_dtype=jnp.bfloat16),
        "nesterov": lambda: compat.adopt(0.1, nesterov=True),
        "clip_value_fn": lambda: compat.adopt(0.1, clip_value_fn=jnp.sqrt),
        "b3": lambda: compat.ademamix(0.1, b3=lambda t: 0.9),
        "init_step": lambda: compat.dog(init_step=("distance", 0.1)),
        "state_dtype": lambda: compat.schedule_free_sgd(state_dtype=jnp.bfloat16),
        "preconditioning": lambda: compat.muon(0.1, preconditioning="aol"),
        "consistent_rms": lambda: compat.muon(0.1, consistent_rms=0.3),
        "ns_coeffs": lambda: compat.muon(0.1, ns_coeffs=(3.0, -4.0, 2.0)),
        "clip_threshold": lambda: compat.sophia(0.1, clip_threshold=None),
        "weight_dimension_numbers": lambda: compat.galore(0.1, weight_dimension_numbers={}),
    }
    for name, make in refused.items():
        if make is not None:
            with pytest.raises(HyperparameterError, match=name):
                make()
    with pytest.raises(CompositionError, match="learning rate inside"):
        compat.schedule_free(Scaled(rules.SGD(), 0.1), 0.1)


def test_seeds_are_numbers_or_the_keys_made_from_them_and_never_missing():
    make = compat.differentially_private_aggregate
    for key in (7, jax.random.key(7), jax.random.PRNGKey(7)):
        assert make(1.0, 1.0, key) == make(1.0, 1.0, seed=7) == contrib.DPAggregate(1.0, 1.0, 7)
    for wrong in (None, jax.random.split(jax.random.key(0))[0]):
        with pytest.raises(HyperparameterError, match="no seed"):
            make(1.0, 1.0, wrong)


def test_warmups_rise_from_zero_and_stay():
    init, apply = pure(compat.schedule_free_sgd(0.5, warmup_steps=2, b1=0.0), 1.0)
    params = {"w": jnp.zeros(1)}
    state, way = init(params), [0.0]
    for _ in range(4):
        state, params = apply({"w": -jnp.ones(1)}, state, params)
        way.append(float(params["w"][0]))
    assert np.diff(way).tolist() == [0.0, 0.25, 0.5, 0.5]


def test_they_are_rules_for_the_stateful_face_too():
    w = TrainVar(jnp.array([1.0, -2.0]))
    opt = Optimizer(VarCollection({"w": w}), compat.prodigy(), lr=1.0)
    before = np.asarray(w.value)
    for _ in range(3):
        opt.minimize(lambda: jnp.sum(w.value**2))
    assert (np.abs(w.value) < np.abs(before)).all()
