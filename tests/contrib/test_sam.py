"""Sharpness-aware minimization: its two modes, its relatives, and what goes wrong elsewhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import GradValues, Jit, TrainVar, VarCollection, contrib, optimizer, pure, rules
from optimkit.contrib.rules import ASAM, SAM, AdaptiveNormalize, LookSAM, Normalize
from optimkit.errors import CompositionError, MissingInputError
from optimkit.optimizer import Group, Optimizer
from optimkit.rules.base import displace
from optimkit.testing import streams
from optimkit.testing.compare import require_close, rounding
from tests.oracles import contrib_sam
from tests.shell import Net, X, Y, close, loss_of
from tests.wrapping import BOTH, GRADS, PARAMS, same_bits

from .golden import assert_follows

either_way = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
TARGET = jax.tree.map(lambda p: np.cos(np.arange(p.size)).reshape(p.shape), PARAMS)


def gradient(p):
    """Return the gradient of a loss that bends in different ways."""
    return jax.tree.map(lambda x, t: jnp.tanh(x - t) + 0.1 * (x - t) ** 3, p, TARGET)


def train(rule, steps, *, calls=1, lr=0.1, params=PARAMS):
    """Return the parameters after each step, which is some calls; and the last state."""
    init, apply = pure(rule, lr)
    params = streams.arrays(params)
    state, way = init(params), []
    inputs = {"grad_fn": gradient} if "grad_fn" in rule.needs else {}
    step = jax.jit(lambda state, params: apply(gradient(params), state, params, **inputs))
    for _ in range(steps):
        for _ in range(calls):
            state, params = step(state, params)
        way.append({name: np.asarray(x) for name, x in params.items()})
    return way, state


# --- traces and oracles -----------------------------------------------------------------------------------------------


def test_sam_follows_the_trace():
    assert_follows("SAM", SAM(rules.Momentum(), 0.5))


def test_asam_follows_the_trace():
    assert_follows("ASAM", ASAM(rules.Momentum(), 0.5, AdaptiveNormalize(0.0)))


def test_looksam_follows_the_trace_where_there_is_one_parameter():
    """Its maker takes each parameter by itself, which with one is the paper's algorithm."""
    assert_follows("LookSAM", LookSAM(rules.Momentum(), 5, 2.0, 0.7, AdaptiveNormalize(0.0)))


def test_looksam_follows_its_oracle():
    def elsewhere(g, q):
        return {name: g[name] + np.tanh(q[name]) for name in g}

    rule = LookSAM(rules.Momentum(0.5), period=3, rho=0.5, alpha=0.5)
    init, apply = pure(rule, 0.05)
    step = jax.jit(lambda g, state, params: apply(
        g, state, params, grad_fn=lambda q: jax.tree.map(lambda a, b: a + jnp.tanh(b), g, q)))  # fmt: skip
    params = streams.arrays(PARAMS)
    state, got, grads = init(params), [], streams.gradients(PARAMS, 20)
    for g in grads:
        state, params = step(streams.arrays(g, jnp.float32), state, params)
        got.append({name: np.asarray(x) for name, x in params.items()})
    wide = [{name: np.float64(np.float32(x)) for name, x in g.items()} for g in grads]
    expected = contrib_sam.oracle_looksam(
        PARAMS, wide, 0.05, period=3, rho=0.5, alpha=0.5, momentum=0.5, gradient=elsewhere
    )
    require_close("LookSAM", got, expected, PARAMS, 5e-6)


@pytest.mark.parametrize("opaque", [True, False], ids=["opaque", "transparent"])
def test_sam_follows_its_oracle_on_a_loss(opaque):
    rule = SAM(rules.Momentum(0.5), 0.2, sync_period=3, opaque_mode=opaque)
    got, _ = train(rule, 30)

    def wide(q):
        return {name: np.tanh(q[name] - t) + 0.1 * (q[name] - t) ** 3 for name, t in TARGET.items()}

    expected = contrib_sam.oracle_sam(PARAMS, [PARAMS] * 30, 0.1, rho=0.2, sync_period=3, opaque_mode=opaque,
                                      momentum=0.5, gradient=wide)  # fmt: skip
    # The gradient is computed from the parameters, so that errors feed back: 5e-6 on a stream, twice that here.
    require_close("SAM", got, expected, PARAMS, 1e-5)


# --- two modes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inner", "period"), [(rules.Momentum(), 4), (rules.AdamW(), 2)], ids=["4", "2"])
def test_the_two_modes_give_the_same_parameters(inner, period):
    adversary = rules.Chain(Normalize(), rules.EmaOfGradients(0.5, debias=False))
    for options in ({"adversary": adversary}, {"adversary": adversary, "reset_state": False}):
        rule = SAM(inner, 0.1, sync_period=period, **options)
        opaque, _ = train(rule, 6)
        transparent, state = train(rule.replace(opaque_mode=False), 6, calls=period)
        assert int(state["k"]) == 0
        require_close(repr(rule), transparent, opaque, PARAMS, rounding(6 * period))


@either_way
def test_the_two_modes_agree_in_the_stateful_face(compiled):
    """A model without side effects, and one batch for both gradients of a step."""

    def run(opaque):
        w = TrainVar(jnp.array([1.0, -2.0, 0.5]))
        vc = VarCollection({"w": w})
        opt = contrib.SAM(vc, rules.Momentum(), rho=0.2, opaque_mode=opaque, lr=0.1)
        loss = lambda x, y: jnp.mean((x @ w.value - y) ** 2)  # noqa: E731
        step = lambda x, y: opt.minimize(loss, x, y)  # noqa: E731
        step = Jit(step, vc + opt.vars()) if compiled else step
        for i in range(5 if opaque else 10):
            batch = i if opaque else i // 2
            step(X + batch, Y)
        return np.asarray(w.value)

    close(run(True), run(False), ulps=64)


@BOTH
@pytest.mark.parametrize("opaque", [True, False], ids=["opaque", "transparent"])
@pytest.mark.parametrize("inner", [rules.SGD(), rules.Adam()], ids=lambda r: type(r).__name__)
def test_without_ascents_it_is_the_inner_rule_to_the_last_bit(inner, opaque, update):
    """optax's transparent mode does not converge at a period of 1."""
    same_bits(SAM(inner, 0.5, sync_period=1, opaque_mode=opaque), inner, update)


def test_without_ascents_minus_zero_stays_what_it_is():
    init, apply = pure(SAM(rules.SGD(), sync_period=1, opaque_mode=False), 0.1)
    params = {"w": jnp.array([-0.0, 0.0])}
    moved = apply({"w": jnp.zeros(2)}, init(params), params)[1]["w"]
    assert np.signbit(moved).tolist() == [True, False]


def test_transparent_mode_shows_the_parameters_that_are_not_uphill():
    vc = VarCollection({"w": TrainVar(jnp.array([1.0, -2.0]))})
    opt = contrib.SAM(vc, rules.SGD(), rho=0.5, opaque_mode=False, lr=0.1)
    grads = [jnp.array([3.0, 4.0])]
    opt.step(grads)
    close(vc["w"].value, [1.3, -1.6])
    with opt.evaluating():
        assert vc["w"].value.tolist() == [1.0, -2.0]
    opt.step(grads)
    close(vc["w"].value, [0.7, -2.4])
    with opt.evaluating():
        close(vc["w"].value, [0.7, -2.4])


def test_transparent_mode_steps_from_weights_that_are_loaded_after_construction():
    vc = VarCollection({"w": TrainVar(jnp.zeros(2))})
    opt = contrib.SAM(vc, rules.SGD(), rho=0.5, opaque_mode=False, lr=0.1)
    vc["w"].assign(jnp.array([1.0, -2.0]))
    for _ in range(2):
        opt.step([jnp.array([3.0, 4.0])])
    close(vc["w"].value, [0.7, -2.4])


@BOTH
def test_the_rule_whose_turn_it_is_not_does_not_run(update):
    """optax runs both, and adds 0 times what the other returned: NaN, where that was infinite."""
    rule = SAM(rules.ClipByGlobalNorm(), opaque_mode=False)
    params = streams.arrays({"w": np.ones(2)}, jnp.float32)
    state = rule.init(params)
    delta, state = update(rule, {"w": jnp.ones(2)}, state, params, 0.1)
    # clipping turns an infinity into zeros; the adversary, which is not due, would make NaN of it
    params = displace(params, delta)
    delta, _ = update(rule, {"w": jnp.array([jnp.inf, 1.0])}, state, params, 0.1)
    assert np.isfinite(delta["w"]).all()


@pytest.mark.slow
@BOTH
def test_states_that_are_no_floats_keep_their_form(update):
    """optax's select multiplies, which makes int32 of a bool and fails for a key."""
    adversary = rules.Chain(Normalize(), rules.AddNoise(), rules.ZeroNaNs())
    rule = SAM(rules.SkipNonFinite(rules.Adam(), 5), adversary=adversary, sync_period=2, opaque_mode=False)
    params = streams.arrays(PARAMS)
    state = rule.init(params)
    form = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for g in GRADS:
        _, state = update(rule, streams.arrays(g, jnp.float32), state, params, 0.1)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == form
    assert int(state["inner"]["inner"]["t"]) == len(GRADS) // 2


# --- side effects -----------------------------------------------------------------------------------------------------


def trained(rule, compiled, steps=3):
    """Return a net with batch statistics and dropout after some steps."""
    net = Net()
    opt = Optimizer(net.vars(), rule, lr=0.1)
    step = lambda x, y: opt.minimize(loss_of(net), x, y)  # noqa: E731
    step = Jit(step, net.vars() + opt.vars()) if compiled else step
    for _ in range(steps):
        step(X, Y)
    return net


@either_way
@pytest.mark.parametrize(
    "rule", [SAM(rules.SGD(), 0.5, sync_period=3), ASAM(rules.SGD()), LookSAM(rules.SGD(), 2, 0.5)],
    ids=lambda r: type(r).__name__,
)  # fmt: skip
def test_batch_statistics_and_random_states_advance_once_a_step(rule, compiled):
    plain, sharp = trained(rules.SGD(), compiled), trained(rule, compiled)
    assert int(sharp.count.value) == 3
    for name in ("mean", "random"):
        assert getattr(plain, name).value.tolist() == getattr(sharp, name).value.tolist()
    assert plain.w.value.tolist() != sharp.w.value.tolist()


@either_way
def test_each_evaluation_of_a_step_drops_the_same_units(compiled):
    """The gradient uphill is taken with the key of the first: as if the step were one function of the parameters."""
    sharp = trained(SAM(rules.SGD(), 0.5), compiled, steps=1)

    net = Net()
    before = net.vars().tensors()
    grads, _ = GradValues(loss_of(net), net.vars())(X, Y)
    norm = float(jnp.sqrt(sum(jnp.sum(g**2) for g in grads)))
    net.vars().assign(before)
    start = [net.w.value, net.b.value]
    for v, p, g in zip((net.w, net.b), start, grads, strict=True):
        v.assign(p + 0.5 * g / norm)
    uphill, _ = GradValues(loss_of(net), net.vars())(X, Y)
    close(sharp.w.value, start[0] - 0.1 * uphill[0], ulps=16)
    close(sharp.b.value, start[1] - 0.1 * uphill[1], ulps=16)


@pytest.mark.slow
@either_way
def test_gradients_are_averaged_over_a_named_axis(compiled):
    """Two devices with a batch each do what one does with both batches; without the name each goes its own way."""
    batches = jnp.array([[1.0, 0.5], [-2.0, 4.0]])
    p = jnp.array([0.3, -0.7])

    def step(rule, batch, mean):
        grad_fn = lambda q: {"w": jnp.mean(jax.vmap(lambda b: (q["w"] - b) ** 3)(batch), 0)}  # noqa: E731
        params = {"w": p}
        inputs = {"grad_fn": grad_fn}
        init, apply = pure(rule, 0.1)
        moved = apply(mean(grad_fn(params)), init(params), params, **inputs)[1]
        return moved["w"]

    def on_devices(rule, mean=lambda g: g):
        f = jax.vmap(lambda b: step(rule, b[None], mean), axis_name="device")
        return (jax.jit(f) if compiled else f)(batches)

    for rule in (SAM, LookSAM):
        one = step(rule(rules.SGD()), batches, lambda g: g)
        named = rule(rules.SGD(), batch_axis_name="device")
        for mean in (lambda g: g, lambda g: jax.lax.pmean(g, "device")):
            close(on_devices(named, mean), jnp.stack([one, one]), ulps=16)
        apart = on_devices(rule(rules.SGD()))
        assert not np.allclose(apart[0], apart[1], rtol=1e-3)


# --- zero gradients, inputs, errors -----------------------------------------------------------------------------------

ZERO = {"w": jnp.zeros(3)}
KINDS = [
    SAM(rules.Adam()),
    SAM(rules.Adam(), opaque_mode=False),
    SAM(rules.SGD(), sync_period=3, reset_state=False),
    ASAM(rules.SGD(), adversary=AdaptiveNormalize(0.0)),
    LookSAM(rules.SGD(), period=2),
]


@pytest.mark.parametrize("rule", KINDS, ids=repr)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_zero_gradients_move_nothing_and_leave_no_nan(rule, dtype):
    params = {"w": jnp.array([1.0, 0.0, -2.0], dtype)}
    zeros = {"w": jnp.zeros(3, dtype)}
    init, apply = pure(rule, 0.1)
    state = init(params)
    inputs = {"grad_fn": lambda q: zeros} if "grad_fn" in rule.needs else {}
    for _ in range(4):
        state, moved = apply(zeros, state, params, **inputs)
        assert moved["w"].tolist() == params["w"].tolist()
        assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(state))


def test_grad_fn_gets_the_number_of_the_ascent_where_it_must():
    seen = []

    def numbered(q, i):
        seen.append(i)
        return gradient(q)

    def optional(q, scale=1.0):
        assert scale == 1.0
        return gradient(q)

    rule, params = SAM(rules.SGD(), sync_period=4), streams.arrays(PARAMS)
    init, apply = pure(rule, 0.1)
    moved = [apply(gradient(params), init(params), params, grad_fn=f)[1] for f in (numbered, optional, gradient)]
    assert seen == [0, 1, 2]
    for other in moved[1:]:
        assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), moved[0], other))


def test_the_number_of_the_ascent_reaches_the_function_through_a_partition_and_past_frozen_variables():
    seen = []

    def numbered(q, i):
        seen.append(i)
        return jax.tree.map(jnp.ones_like, q)

    rule, params = SAM(rules.SGD(), sync_period=3), {"a": jnp.ones(2), "b": jnp.ones(2)}
    init, apply = pure(rules.Partition(("a", rule), ("b", rules.SGD())), 0.1)
    apply(params, init(params), params, grad_fn=numbered)
    assert seen == [0, 1]
    vc = VarCollection({name: TrainVar(x) for name, x in params.items()})
    opt = Optimizer(vc, rule, groups=[Group("still", "b", frozen=True)])
    opt(0.1, [jnp.ones(2), jnp.ones(2)], grad_fn=numbered)
    assert seen == [0, 1, 0, 1]


@either_way
def test_an_inner_rule_that_needs_the_loss_gets_that_uphill(compiled):
    """At w = 2 the loss is 2; uphill, at 2.5, it is 3.125 with gradient 2.5, and Polyak's step is 0.5 * 2.5."""
    vc = VarCollection({"w": TrainVar(jnp.array([2.0]))})
    opt = contrib.SAM(vc, rules.PolyakSGD(max_step=100.0), rho=0.5, lr=1.0)
    step = lambda: opt.minimize(lambda: 0.5 * jnp.sum(vc["w"] ** 2))  # noqa: E731
    step = Jit(step, vc + opt.vars()) if compiled else step
    assert step() == 2.0
    close(vc["w"].value, [2.0 - 1.25])


def test_looksam_evaluates_elsewhere_at_every_kth_step_only():
    calls = []
    rule, params = LookSAM(rules.SGD(), period=3), streams.arrays(PARAMS)
    init, apply = pure(rule, 0.1)
    state = init(params)
    for t in range(7):
        state, params = apply(gradient(params), state, params, grad_fn=lambda q, t=t: calls.append(t) or gradient(q))
    assert calls == [0, 3, 6]


def test_looksam_at_every_step_is_sam():
    require_close("LookSAM", train(LookSAM(rules.Momentum(), 1), 8)[0], train(SAM(rules.Momentum()), 8)[0], PARAMS,
                  rounding(8))  # fmt: skip


def test_rules_that_evaluate_gradients_themselves_are_refused():
    for make in (lambda r: SAM(r), lambda r: SAM(rules.SGD(), adversary=r), lambda r: LookSAM(r), lambda r: ASAM(r)):
        for wrong in (rules.LBFGS(), SAM(rules.SGD())):
            with pytest.raises(CompositionError, match="evaluates gradients itself"):
                make(wrong)
    with pytest.raises(CompositionError, match="not a rule"):
        SAM(rules.SGD(), adversary=Normalize)


def test_without_a_gradient_function_it_says_what_is_missing():
    vc = VarCollection({"w": TrainVar(jnp.ones(2))})
    opt = contrib.SAM(vc, rules.SGD(), lr=0.1)
    with pytest.raises(MissingInputError, match=r"needs 'grad_fn'(.|\n)*minimize"):
        opt.step([jnp.ones(2)])


def test_hyperparameters_of_the_parts_are_the_optimizers():
    vc = VarCollection({"w": TrainVar(jnp.ones(2))})
    opt = contrib.ASAM(vc, rules.Momentum(), lr=0.1, dynamic=("rho",))
    opt.rho, opt.eta, opt.momentum = 0.2, 0.5, 0.8
    assert (float(opt.rho), opt.eta, opt.momentum) == (pytest.approx(0.2), 0.5, 0.8)
    opt.minimize(lambda: jnp.sum(vc["w"] ** 2))


def test_groups_of_variables_each_have_their_own_adversary():
    vc = VarCollection({"a": TrainVar(jnp.array([1.0])), "b": TrainVar(jnp.array([2.0]))})
    opt = Optimizer(vc, rules.Partition(("a", SAM(rules.SGD(), 0.5)), (".", rules.SGD())), lr=0.1)
    opt.minimize(lambda: 0.5 * jnp.sum(vc["a"] ** 2) + 0.5 * jnp.sum(vc["b"] ** 2))
    close(vc["a"].value, [1 - 0.15])
    close(vc["b"].value, [2 - 0.2])


def test_a_step_compiles_once_and_donates():
    net = Net()
    opt = contrib.LookSAM(net.vars(), rules.AdamW(), period=2, lr=0.1)
    traces = []
    loss = loss_of(net)
    step = Jit(lambda x, y: traces.append(1) or opt.minimize(loss, x, y), net.vars() + opt.vars(), donate=True)
    for _ in range(4):
        step(X, Y)
    assert len(traces) == 1
    assert isinstance(opt, optimizer.Optimizer)
