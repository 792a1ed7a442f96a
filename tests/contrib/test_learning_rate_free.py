"""What rules that find their learning rate are held to, besides the kit: any scale, any dtype, any start."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import TrainVar, VarCollection, contrib
from optimkit import rules as core
from optimkit.contrib import rules
from optimkit.contrib.rules.anchored import Anchored
from optimkit.errors import CompositionError, MissingInputError
from optimkit.rules.base import Step, displace
from optimkit.testing import streams
from optimkit.testing.compare import require_close
from optimkit.testing.oracle import rounded
from optimkit.testing.runner import eager, flat, run
from tests.oracles.contrib_momo import oracle_momo, oracle_momo_adam

# At lr = 1, with nothing that is relative to the scale of the loss.
FREE = {
    "Prodigy": rules.Prodigy(eps=0.0),
    "DAdaptAdamW": rules.DAdaptAdamW(eps=0.0),
    "DoG": rules.DoG(eps=0.0),
    "LDoG": rules.LDoG(eps=0.0),
    "DoWG": rules.DoWG(eps=0.0),
    "COCOB": rules.COCOB(eps=0.0),
    "Mechanic": rules.Mechanic(core.Adam(eps=0.0), eps=0.0),
}
OTHERS = {
    "MADGRAD": rules.MADGRAD(),
    "MoMo": rules.MoMo(),
    "MoMoAdam": rules.MoMoAdam(),
    "ACProp": rules.ACProp(),
    "ADOPT": rules.ADOPT(),
    "AdEMAMix": rules.AdEMAMix(),
    "SimplifiedAdEMAMix": rules.SimplifiedAdEMAMix(),
}
TARGET = jnp.array([3.0, -2.0, 0.5])


@jax.jit
def descended(rule, params, scale):
    """Return parameters after each of 500 steps on a quadratic loss, and the last state."""

    def body(carry, _):
        params, state = carry
        error = params["w"].astype(jnp.float32) - TARGET
        step = Step({"w": (scale * error).astype(params["w"].dtype)}, params, jnp.float32(1.0))
        delta, state = rule.update(step, state)
        params = displace(params, delta)
        return (params, state), params["w"]

    (_, state), history = jax.lax.scan(body, (params, rule.init(params)), length=500)
    return history, state


def way(rule, dtype=jnp.float32, scale=1.0, start=1.0):
    """Return the parameters after each step, as float64, and the last state."""
    history, state = descended(rule, {"w": jnp.full(3, start, dtype)}, jnp.float32(scale))
    return np.asarray(history, np.float64), state


@pytest.mark.parametrize("name", FREE)
def test_the_scale_of_the_loss_does_not_matter(name):
    """By powers of 2, which round nothing: the same steps, to rounding in the sums that are compared with squares."""
    usual, _ = way(FREE[name])
    for scale in (2.0**-20, 2.0**20):
        np.testing.assert_allclose(way(FREE[name], scale=scale)[0][:40], usual[:40], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FREE)
def test_a_rate_is_found_from_a_far_start(name):
    """At lr = 1 each comes at least nine tenths of the way to a solution that is 1000 away, in 500 steps."""
    history, _ = way(FREE[name], start=1000.0)
    assert np.abs(history[-1] - TARGET).max() < 100


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", FREE)
def test_low_precision_makes_the_progress_of_float32(name, dtype):
    """Parameters of 1 do not see the first steps, of a millionth: what is remembered of them has to.

    After 500 steps the error is no more than 32 units of rounding larger than that of float32: a parameter stands
    where the steps left are below half a unit.
    """
    wide, _ = way(FREE[name])
    narrow, state = way(FREE[name], dtype)
    allowed = np.abs(wide[-1] - TARGET).max() + 32 * float(jnp.finfo(dtype).eps) * 3
    assert np.abs(narrow[-1] - TARGET).max() <= allowed
    assert {x.dtype for x in jax.tree.leaves(state)} == {np.dtype("float32"), np.dtype("int32")}


@pytest.mark.parametrize("name", [*FREE, *OTHERS])
def test_zero_gradients_at_first_move_nothing_and_spoil_nothing(name):
    """Steps of zeros leave parameters as they are to the last bit, and what follows finite."""
    rule = {**FREE, **OTHERS}[name]
    params = streams.parameters()
    zeros = [jax.tree.map(np.zeros_like, params)] * 3
    got = run(rule, params, [*zeros, *streams.gradients(params, 5)], lr=1.0, update=eager)
    for step in got.params[:3]:
        assert all(np.array_equal(step[n], np.asarray(p)) for n, p in flat(params).items())
    assert all(np.isfinite(x).all() for values in (*got.params, *got.states) for x in values.values())
    assert not np.array_equal(got.params[-1]["weight"], params["weight"])


def test_without_a_gradient_d_stays_as_it_is():
    for rule in (rules.Prodigy(), rules.DAdaptAdamW()):
        params = {"w": jnp.ones(2)}
        _, state = rule.update(Step({"w": jnp.zeros(2)}, params, 1.0), rule.init(params))
        assert state["d"] == np.float32(1e-6)


def test_the_first_growth_of_prodigys_d_is_free_and_later_ones_are_bounded():
    params = {"w": np.zeros(2, np.float32)}
    rule = rules.Prodigy(growth_rate=1.5, d_coef=1e3)
    d = [float(state["d"]) for state in run(rule, params, [{"w": np.ones(2)}] * 6, lr=1.0, update=eager).states]
    assert d[0] == np.float32(1e-6) and d[1] > 100 * d[0]
    np.testing.assert_allclose(np.divide(d[2:], d[1:-1]), 1.5, rtol=1e-6)


@pytest.mark.parametrize("name", [*FREE, *OTHERS])
def test_weights_loaded_after_construction_are_where_training_starts(name):
    """An optimizer that was made before weights were loaded does as one that was made after, to the last bit."""
    rule = {**FREE, **OTHERS}[name]
    loaded = jnp.array([100.0, -50.0, 0.25])

    def trained(early):
        w = TrainVar(jnp.ones(3) if early else loaded)
        opt = getattr(contrib, name)(VarCollection({"w": w}), **rule._fields())
        w.assign(loaded)
        for t in range(4):
            opt(1.0, [0.1 * (t + 1) * w.value], **({"value": 1.0} if rule.needs else {}))
        return np.asarray(w.value)

    np.testing.assert_array_equal(trained(early=True), trained(early=False))


def test_anchors_are_not_rounded_to_the_dtype_of_slots():
    """A narrow x0 would pull parameters to its rounding, without any gradient."""
    params = {"w": jnp.array([1.001, -3.003])}
    for rule in (rules.COCOB(slot_dtype="bfloat16"), rules.MADGRAD(slot_dtype="bfloat16")):
        assert rule.init(params)["slots"]["w"]["x0"].dtype == jnp.float32
        got = run(rule, params, [{"w": np.zeros(2)}] * 3)
        np.testing.assert_array_equal(got.params[-1]["w"], np.asarray(params["w"]))


def test_the_way_is_the_distance_from_the_start():
    for rule in (rules.Prodigy(), rules.DoG(), rules.DoWG(), rules.LDoG()):
        params = streams.parameters()
        got = run(rule, params, streams.gradients(params, 20), lr=1.0, update=eager)
        for n, p in flat(params).items():
            size = np.abs(p).max() + np.abs(got.params[-1][n]).max()
            np.testing.assert_allclose(got.state["slots"][n]["way"], got.params[-1][n] - p, atol=20 * 6e-8 * size)


def test_ldog_of_one_parameter_is_dog():
    params = {"w": np.array([1.0, -2.0], np.float32)}
    grads = streams.gradients(params, 20)
    one, other = (run(rule, params, grads, lr=1.0) for rule in (rules.DoG(), rules.LDoG()))
    np.testing.assert_array_equal(one.params[-1]["w"], other.params[-1]["w"])


@pytest.mark.parametrize("rule", [rules.DoG(), rules.Prodigy(), rules.Mechanic(core.SGD()), rules.MoMo()])
def test_what_depends_on_the_steps_taken_can_only_be_last(rule):
    with pytest.raises(CompositionError, match="must know the step that is taken"):
        core.Chain(rule, core.WeightDecay(0.1))
    assert core.Chain(core.WeightDecay(0.1), rule)


# --- MoMo -------------------------------------------------------------------------------------------------------------

MOMO = [
    (rules.MoMo(0.8, 0.25, weight_decay=0.1), oracle_momo),
    (rules.MoMo(0.8, bias_correction=True), oracle_momo),
    (rules.MoMo(0.8, -1.0, adapt_lower_bound=True, weight_decay=0.1), oracle_momo),
    (rules.MoMo(0.8, -1.0, adapt_lower_bound=True, bias_correction=True), oracle_momo),
    (rules.MoMoAdam(0.8, 0.99, lower_bound=0.25, weight_decay=0.1), oracle_momo_adam),
    (rules.MoMoAdam(0.8, 0.99, lower_bound=-1.0, adapt_lower_bound=True, weight_decay=0.1), oracle_momo_adam),
]


@pytest.mark.parametrize(("rule", "oracle"), MOMO, ids=lambda x: repr(x) if isinstance(x, core.Rule) else "")
def test_momo_follows_its_oracle_on_losses_that_vary(rule, oracle):
    """The kit's loss is 1 at all times. Here it falls, with noise, below where the lower bound has been."""
    start = flat(streams.parameters())
    rng = np.random.default_rng(5)
    values = [float(np.float32(x)) for x in np.geomspace(8.0, 0.5, 40) * rng.uniform(0.5, 1.5, 40)]
    grads = [rounded(g) for g in streams.gradients(start, 40)]
    params, state, got = streams.arrays(start), rule.init(streams.arrays(start)), []
    with jax.disable_jit():
        for g, value in zip(grads, values, strict=True):
            step = Step(streams.arrays(g, jnp.float32), params, jnp.float32(2.0), value=value)
            delta, state = rule.update(step, state)
            params = displace(params, delta)
            got.append(flat(params))
    wide = {n: np.asarray(p, np.float64) for n, p in start.items()}
    expected = oracle(wide, grads, 2.0, values=values, **rule._fields())
    require_close(repr(rule), got, expected, start, 5e-6)


def test_momo_takes_the_whole_learning_rate_where_the_loss_allows_it_and_less_elsewhere():
    params, grads = {"w": jnp.array([1.0])}, {"w": jnp.array([2.0])}
    for value, moved in ((100.0, 0.5 * 2.0), (0.4, 0.4 / 2.0), (-1.0, 0.0)):
        delta, _ = rules.MoMo().update(Step(grads, params, 0.5, value=value), rules.MoMo().init(params))
        np.testing.assert_allclose(delta["w"], [-moved], rtol=1e-6)


def test_momo_says_that_it_needs_the_loss():
    w = TrainVar(jnp.ones(2))
    with pytest.raises(MissingInputError, match="value"):
        contrib.MoMo(VarCollection({"w": w}))(1.0, [jnp.ones(2)])


# --- Mechanic ---------------------------------------------------------------------------------------------------------


def test_mechanic_scales_what_the_inner_rule_did():
    """Parameters are x0 + sum(s) Δ, with Δ the sum of the inner rule's own displacements."""
    params = streams.parameters()
    grads = streams.gradients(params, 20)
    got = run(rules.Mechanic(core.Momentum(0.9), s_init=0.1), params, grads)
    inner = run(core.Momentum(0.9), params, grads)
    for n, p in flat(params).items():
        np.testing.assert_allclose(got.state["offset"][n], inner.params[-1][n] - p, rtol=1e-5, atol=1e-6)
        expected = p + got.state["s"].sum() * got.state["offset"][n]
        np.testing.assert_allclose(got.params[-1][n], expected, rtol=1e-6, atol=1e-6)


def test_mechanic_tunes_on_after_gradients_whose_fourth_power_overflows():
    params = {"w": np.array([1.0], np.float32)}
    huge, usual = [{"w": np.array([1e12])}] * 2, [{"w": np.array([1.0])}] * 2
    got = run(rules.Mechanic(core.SGD(), num_betas=1), params, [*huge, *usual], lr=1.0)
    assert all(0 < state["s"][0] < np.inf and np.isfinite(state["root_v"][0]) for state in got.states[1:])


def test_mechanic_evaluates_where_the_inner_rule_does():
    rule = rules.Mechanic(core.Averaged(core.SGD()), s_init=0.5)
    params = {"w": np.array([1.0], np.float32)}
    got = run(rule, params, streams.gradients(params, 6))
    mean = np.mean([step["w"] for step in got.params], axis=0)
    np.testing.assert_allclose(rule.eval_params(got.state, got.last)["w"], mean, rtol=1e-6)


# --- relatives of Adam ------------------------------------------------------------------------------------------------


def test_ademamix_without_its_slow_mean_is_adam():
    params = streams.parameters()
    grads = streams.gradients(params, 20)
    got, adam = run(rules.AdEMAMix(alpha=0.0), params, grads), run(core.Adam(), params, grads)
    require_close("AdEMAMix", got.params, adam.params, adam.start, 1e-6)


def test_simplified_ademamix_without_memory_is_adam_without_memory():
    params = streams.parameters()
    grads = streams.gradients(params, 20)
    got = run(rules.SimplifiedAdEMAMix(beta1=0.0, beta2=0.9), params, grads)
    adam = run(core.Adam(beta1=0.0, beta2=0.9), params, grads)
    require_close("SimplifiedAdEMAMix", got.params, adam.params, adam.start, 1e-6)


def test_adopt_and_acprop_do_not_leap_at_a_coordinate_that_begins_late():
    """A gradient after zeros is divided by what there was before: by next to nothing, unless that is seen to."""
    params = {"w": np.zeros(2, np.float32)}
    grads = [{"w": np.array([1.0, 0.0])}] * 3 + [{"w": np.array([1.0, 1.0])}] * 2
    for rule in (rules.ACProp(), rules.ADOPT()):
        late = [step["w"][1] for step in run(rule, params, grads, lr=0.1).params]
        assert abs(late[3]) <= 0.1 * 3**0.25


class Returning(Anchored):
    """Goes back to where training began."""

    def init_leaf(self, p):
        return {"m": jnp.zeros_like(p)}

    def update_leaf(self, g, slot, p, *, lr, t):
        x0 = self.anchor(slot, p, t)
        return x0 - p, {"m": g, "x0": x0}


def test_an_anchored_rule_begins_where_its_first_step_is_and_stays_there():
    """Not at ``init``: weights may be loaded after an optimizer is made. x0 keeps float32 in any dtype of slots."""
    rule = Returning(slot_dtype="bfloat16")
    state, grads = rule.init({"w": jnp.zeros(2)}), {"w": jnp.ones(2)}
    for at, delta in ((5.003, 0.0), (7.0, 5.003 - 7.0)):
        moved, state = rule.update(Step(grads, {"w": jnp.full(2, at)}, jnp.float32(1.0)), state)
        np.testing.assert_allclose(moved["w"], delta, atol=1e-6)
    assert state["slots"]["w"]["x0"].dtype == jnp.float32
