"""What stages claim beyond their oracles: edges, compositions, what clips keep, and optax."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimkit import rules
from optimkit.errors import CompositionError
from optimkit.numerics import INT32_MAX
from optimkit.rules import Chain, Step, clipping, gradients, stages
from optimkit.rules.naming import name_state
from optimkit.testing import check_hyperparameters_matter, check_oracle, strategies, streams
from optimkit.testing.compare import require_close, require_identical, rounding
from optimkit.testing.runner import compiled, eager, run

from .against_optax import distance_to_optax
from .oracles import clipping as clipping_oracles
from .oracles import gradients as gradients_oracles

PARAMS = streams.parameters()
GRADS = streams.gradients(PARAMS, 6)
INF, NAN = np.inf, np.nan


def direction(rule, g, p):
    """Return the direction of a first step in one parameter."""
    params = {"w": jnp.asarray(p, jnp.float32)}
    return rule.direction(Step({"w": jnp.asarray(g, jnp.float32)}, params, None), rule.init(params))[0]["w"]


def same_bits(rule, other, **options):
    """Raise unless two rules do the same over GRADS, operation by operation, to the last bit."""
    options = {"lr": 0.07, "update": eager} | options
    got, expected = run(rule, PARAMS, GRADS, **options), run(other, PARAMS, GRADS, **options)
    for t in range(len(GRADS)):
        require_identical(repr(rule), got.params[t], expected.params[t], f"parameters at step {t + 1}")


# --- zero, infinite and NaN gradients ---------------------------------------------------------------------------------

P = [[2.0], [2.0], [2.0]]
# the directions at gradients (0, 0, 0), (inf, -1, 3) and (NaN, -1, 3), and parameters (2, 2, 2)
EDGES = {
    rules.WeightDecay(0.5): ([1, 1, 1], [INF, 0, 4], [NAN, 0, 4]),
    rules.IndependentWeightDecay(0.5): ([-1, -1, -1], [INF, -2, 2], [NAN, -2, 2]),
    rules.TrustRatio(): ([0, 0, 0], [NAN, 0, 0], [NAN, NAN, NAN]),
    rules.ClipByValue(2.0): ([0, 0, 0], [2, -1, 2], [NAN, -1, 2]),
    rules.ClipByBlockRMS(0.1): ([0, 0, 0], [0, 0, 0], [NAN, -1, 3]),
    rules.ClipByGlobalNorm(0.1): ([0, 0, 0], [0, 0, 0], [NAN, -1, 3]),
    rules.AdaptiveClip(0.1): ([0, 0, 0], [0, 0, 0], [NAN, -1, 3]),
    rules.Centralize(): ([0, 0, 0], [NAN, -INF, -INF], [NAN, NAN, NAN]),
    rules.AddNoise(eta=0.0): ([0, 0, 0], [INF, -1, 3], [NAN, -1, 3]),
    rules.ZeroNaNs(): ([0, 0, 0], [INF, -1, 3], [0, -1, 3]),
    rules.EmaOfGradients(0.5): ([0, 0, 0], [INF, -1, 3], [NAN, -1, 3]),
    rules.GrokFast(0.5, lamb=2.0): ([0, 0, 0], [INF, -3, 9], [NAN, -3, 9]),
}


@pytest.mark.parametrize("rule", EDGES, ids=lambda rule: type(rule).__name__)
def test_zero_infinite_and_nan_gradients_do_what_the_docstring_says(rule):
    for first, expected in zip((0.0, INF, NAN), EDGES[rule], strict=True):
        g = [[0.0], [0.0], [0.0]] if first == 0 else [[first], [-1.0], [3.0]]
        np.testing.assert_array_equal(direction(rule, g, P)[:, 0], expected)


def test_the_edges_of_every_stage_are_stated():
    found = {x for module in (stages, clipping, gradients) for x in vars(module).values() if inspect.isclass(x)}
    public = {x for x in found if issubclass(x, rules.Rule) and x not in (rules.Rule, rules.LeafRule)}
    assert public == {type(rule) for rule in EDGES}


def test_an_infinity_clips_everything_by_the_global_norm_and_one_unit_adaptively():
    g = {"a": jnp.array([[INF, 1.0], [1.0, 0.01]]), "b": jnp.ones(2)}
    params = jax.tree.map(jnp.ones_like, g)
    for rule, a, b in (
        (rules.ClipByGlobalNorm(10.0), [[0, 0], [0, 0]], [0, 0]),
        (rules.ClipByBlockRMS(10.0), [[0, 0], [0, 0]], [1, 1]),
        (rules.AdaptiveClip(10.0), [[0, 1], [0, 0.01]], [1, 1]),
    ):
        out, _ = rule.direction(Step(g, params, None), rule.init(params))
        np.testing.assert_array_equal(out["a"], np.float32(a))
        np.testing.assert_array_equal(out["b"], np.float32(b))


@pytest.mark.parametrize("rule", [rules.EmaOfGradients(0.5), rules.GrokFast(0.5)], ids=repr)
@pytest.mark.parametrize("bad", [INF, NAN])
def test_what_is_not_finite_stays_in_a_mean_and_the_stages_before_keep_it_out(rule, bad):
    grads = [{"w": np.array([bad, 1.0])}, *[{"w": np.ones(2)}] * 3]
    spoilt = run(rule, {"w": np.zeros(2, np.float32)}, grads).states[-1]
    assert [bool(np.isfinite(x)) for x in spoilt["slots.w.mu"]] == [False, True]
    kept = run(Chain(rules.ZeroNaNs(), rules.ClipByValue(), rule), {"w": np.zeros(2, np.float32)}, grads)
    assert all(np.isfinite(x).all() for x in (*kept.states[-1].values(), kept.params[-1]["w"]))


def test_zeroed_nans_are_counted_by_step_and_parameter():
    rule, clean = rules.ZeroNaNs(), np.ones(2)
    grads = [{"a": np.array([NAN, NAN]), "b": clean}, {"a": clean, "b": clean}, {"a": np.array([NAN, 1.0]), "b": clean}]
    result = run(rule, {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}, grads)
    assert [(int(s["slots.a.nans"]), int(s["slots.b.nans"])) for s in result.states] == [(1, 0), (1, 0), (2, 0)]
    assert [str(name) for name in name_state(["a", "b"], result.state)[0]] == ["[a].nans", "[b].nans", ".t"]
    full = {"t": jnp.int32(5), "slots": {"w": {"nans": jnp.int32(INT32_MAX)}}}
    _, state = rule.update(Step({"w": jnp.array([NAN])}, {"w": jnp.ones(1)}, 0.1), full)
    assert int(state["slots"]["w"]["nans"]) == INT32_MAX


# --- compositions, to the last bit ------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(rule=strategies.rules_of(rules.Adam), rate=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_decay_before_adam_is_adam_on_the_penalised_gradient_to_the_last_bit(rule, rate, seed):
    """L2-Adam: each gradient plus ``rate`` times the parameters where it was taken, in float32."""
    grads, params, state = streams.gradients(PARAMS, 3, seed=seed), PARAMS, None
    chain = run(Chain(rules.WeightDecay(rate), rule), PARAMS, grads, update=eager)
    for t, g in enumerate(grads):
        penalised = jax.tree.map(lambda g, p: jnp.float32(g) + rate * jnp.float32(p), g, params)
        one = run(rule, params, [penalised], update=eager, state=state)
        params, state = one.last, one.state
        require_identical(repr(rule), chain.params[t], one.params[0], f"parameters at step {t + 1}")


@pytest.mark.parametrize(("rule", "other"), [
    (Chain(rules.AddNoise(seed=3), rules.SGD()), rules.NoisySGD(seed=3)),
    (Chain(rules.EmaOfGradients(0.8, debias=False), rules.SignSGD()), rules.Signum(0.8)),
    (rules.EmaOfGradients(0.0), rules.SGD()),
    (rules.GrokFast(0.8, lamb=0.0), rules.SGD()),
    (rules.WeightDecay(0.0), rules.SGD()),
    (rules.IndependentWeightDecay(0.0), rules.SGD()),
    (rules.ClipByGlobalNorm(1e9), rules.SGD()),
    (rules.ClipByBlockRMS(1e9), rules.SGD()),
    (rules.AdaptiveClip(1e9), rules.SGD()),
    (rules.ClipByValue(1e9), rules.SGD()),
    (rules.ZeroNaNs(), rules.SGD()),
    (
        Chain(rules.Adafactor(min_dim_size_to_factor=2), rules.IndependentWeightDecay(0.1)),
        rules.Adafactor(min_dim_size_to_factor=2, weight_decay=0.1, independent_decay=True),
    ),
    (
        Chain(rules.Adafactor(min_dim_size_to_factor=2, multiply_by_parameter_scale=False, clipping_threshold=np.inf),
              rules.ClipByBlockRMS(0.5)),
        rules.Adafactor(min_dim_size_to_factor=2, multiply_by_parameter_scale=False, clipping_threshold=0.5),
    ),
], ids=lambda rule: repr(rule)[:40])  # fmt: skip
def test_equal_to_the_last_bit(rule, other):
    same_bits(rule, other)


def test_independent_decay_is_adamw_at_a_constant_rate_and_the_same_at_any():
    lr, rate = 0.05, 0.01
    chain = Chain(rules.Adam(), rules.IndependentWeightDecay(rate))
    got = run(chain, PARAMS, GRADS, lr=lr)
    expected = run(rules.AdamW(weight_decay=rate / lr), PARAMS, GRADS, lr=lr)
    require_close("AdamW", got.params, expected.params, expected.start, rounding(len(GRADS)))
    still = run(chain, PARAMS, GRADS[:1], lr=0.0).params[0]
    for name, p in PARAMS.items():
        np.testing.assert_allclose(still[name], 0.99 * p, rtol=1e-7)


def test_independent_decay_must_stand_last():
    with pytest.raises(CompositionError, match=r"Put it last: Chain\(\.\.\., IndependentWeightDecay\(\.\.\.\)\)"):
        Chain(rules.IndependentWeightDecay(), rules.Adam())


# --- what clips keep and centring does --------------------------------------------------------------------------------

SHAPES = {
    "vector": (4,),
    "row": (1, 4),
    "matrix": (3, 2),
    "heads": (3, 2, 2),
    "kernel": (2, 2, 3, 2),
    "rank5": (2, 1, 2, 2, 3),
}


def columns(rule, tree):
    """Return arrays with a column for each thing that a clip measures: all gradients, a parameter, or a unit."""
    wide = {name: np.float64(tree[name]) for name in sorted(tree)}
    if isinstance(rule, rules.ClipByGlobalNorm):
        return [np.concatenate([x.ravel() for x in wide.values()])[:, None]]
    inner = (lambda x: rule.fan_in_axes(x.shape)) if isinstance(rule, rules.AdaptiveClip) else np.ndim
    return [x.reshape(int(np.prod(x.shape[: inner(x)])), -1) for x in wide.values()]


@pytest.mark.parametrize("make", [rules.ClipByGlobalNorm, rules.ClipByBlockRMS, rules.AdaptiveClip])
@settings(max_examples=20)
@given(exponents=st.tuples(st.floats(-30, 30), st.floats(-30, 30)), seed=st.integers(0, 99))
def test_a_clip_shortens_to_its_limit_and_turns_nothing(make, exponents, seed):
    """Where squares of gradients, and their ratio to the limit, are far outside float32, too."""
    rng, limit = np.random.default_rng(seed), np.float32(10.0 ** exponents[1])
    g = {name: np.float32(10.0 ** exponents[0] * rng.normal(size=shape)) for name, shape in SHAPES.items()}
    params = {name: np.float32(rng.normal(size=shape)) for name, shape in SHAPES.items()}
    rule = make(jnp.asarray(limit))  # data: one program for all examples
    out, _ = compiled(rule, g, rule.init(params), params, jnp.float32(-1.0))
    for x, y, p in zip(columns(rule, g), columns(rule, out), columns(rule, params), strict=True):
        of = {
            rules.ClipByGlobalNorm: 1.0,
            rules.ClipByBlockRMS: np.sqrt(len(x)),
            rules.AdaptiveClip: np.maximum(np.linalg.norm(p, axis=0), 1e-3),
        }[make]
        expected = x * np.minimum(1.0, np.float64(limit) * of / np.linalg.norm(x, axis=0))
        np.testing.assert_allclose(y, expected, rtol=2e-6, atol=1e-37)  # subnormal numbers may count as 0


def test_clips_have_clean_derivatives_at_zero_and_without_a_limit():
    for g in (jnp.zeros((2, 2)), jnp.ones((2, 2))):
        for limit in (0.1, INF):
            of = lambda g, limit=limit: jnp.sum(clipping.clipped(g, limit) ** 2 + clipping.clipped(g, limit))  # noqa: E731
            assert np.isfinite(jax.grad(of)(g)).all()
        rule = rules.AdaptiveClip(0.1, eps=0.0)
        slope = jax.grad(lambda g, p, rule=rule: jnp.sum(direction(rule, g, p)), (0, 1))(g, jnp.zeros((2, 2)))
        assert all(np.isfinite(x).all() for x in slope)


RANKS = {name: np.float32(np.random.default_rng(5).normal(size=shape)) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("heads", [True, False])
def test_adaptive_clip_and_centring_follow_their_oracles_at_every_rank(heads):
    options = {"params": RANKS, "steps": 8}
    check_oracle(rules.AdaptiveClip(0.1, heads=heads), clipping_oracles.oracle_adaptive_clip, **options)
    if heads:
        check_oracle(rules.Centralize(), gradients_oracles.oracle_centralize, **options)


def test_every_hyperparameter_of_adaptive_clip_matters():
    check_hyperparameters_matter(rules.AdaptiveClip(0.1), params={"w": np.zeros((2, 3, 2), np.float32)})


def test_centring_keeps_the_sum_of_the_weights_of_each_output():
    rule = Chain(rules.Adam(), rules.Centralize())
    result = run(rule, RANKS, streams.gradients(RANKS, 5), lr=1.0)
    for name, shape in SHAPES.items():
        axes = tuple(range(len(shape) - 1))
        before, after = (np.sum(np.float64(x[name]), axis=axes) for x in (RANKS, result.params[-1]))
        if len(shape) > 1:
            np.testing.assert_allclose(after, before, atol=1e-5)
        else:
            assert np.abs(after - before).max() > 0.1, "vectors are left alone"


# --- against optax ----------------------------------------------------------------------------------------------------


def outputs_first(optax):
    """Return optax's centralize for kernels with their outputs on the last axis: it takes the first."""
    tx = optax.centralize()

    def update(grads, state, params=None):
        turned, state = tx.update(jax.tree.map(lambda g: jnp.moveaxis(g, -1, 0) if g.ndim else g, grads), state)
        return jax.tree.map(lambda g: jnp.moveaxis(g, 0, -1) if g.ndim else g, turned), state

    return optax.GradientTransformation(tx.init, update)


def test_centring_is_optaxs_with_the_outputs_on_the_last_axis():
    """The stages that are optax's as they stand are compared in tests/optax_table.py."""
    optax = pytest.importorskip("optax", reason="optax is only in the bench extra; the oracles stand alone")

    def make(lr):
        return optax.chain(outputs_first(optax), optax.scale_by_learning_rate(lr))

    assert distance_to_optax(rules.Centralize(), make, RANKS) < 1e-10


def test_nan_is_zeroed_where_optax_zeroes_it():
    optax = pytest.importorskip("optax", reason="optax is only in the bench extra; the oracles stand alone")
    g = {"a": jnp.array([NAN, INF, -INF, 1.0]), "b": jnp.array(NAN)}
    ours, state = rules.ZeroNaNs().direction(Step(g, g, None), rules.ZeroNaNs().init(g))
    theirs, found = optax.zero_nans().update(g, optax.zero_nans().init(g))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert {name: bool(slot["nans"]) for name, slot in state["slots"].items()} == jax.tree.map(bool, found.found_nan)
