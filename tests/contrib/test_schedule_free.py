"""Schedule-Free learning: the authors' traces, where it is evaluated, and low precision."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, TrainVar, VarCollection, contrib, pure, rules, schedule
from optimkit.contrib.rules import ScheduleFree, ScheduleFreeAdamW, ScheduleFreeRAdam, ScheduleFreeSGD
from optimkit.errors import CompositionError
from optimkit.rules.base import Step
from optimkit.testing.compare import distances, require_close
from optimkit.testing.runner import compiled
from tests.oracles import contrib_schedule_free as oracles
from tests.shell import close
from tests.wrapping import GRADS, PARAMS, scalar

from .golden import TOLERANCE, TRACES, assert_follows, inputs

BY_TRACE = {
    "ScheduleFree": ScheduleFree(rules.Momentum(0.5)),
    "ScheduleFreeSGD": ScheduleFreeSGD(weight_decay=0.1),
    "ScheduleFreeAdamW": ScheduleFreeAdamW(weight_decay=0.1, r=0.5),
    "ScheduleFreeRAdam": ScheduleFreeRAdam(weight_decay=0.1),
}


@pytest.mark.parametrize("name", BY_TRACE)
def test_parameters_follow_the_authors_code(name):
    assert_follows(name, BY_TRACE[name])


@pytest.mark.parametrize("name", BY_TRACE)
def test_evaluated_parameters_follow_the_authors_code(name):
    """Each tenth step, what ``optimizer.eval()`` puts in the parameters."""
    rule = BY_TRACE[name]
    with np.load(TRACES / f"{name}_x.npz") as trace:
        meta = json.loads(str(trace["meta"]))
        wanted = {key: trace[key] for key in trace.files if key != "meta"}
    start, grads = inputs(meta["seed"], meta["shapes"])
    params = jax.tree.map(jnp.asarray, start)
    state, got, expected = rule.init(params), [], []
    for t, g in enumerate(grads, start=1):
        lr = meta["lr"][t - 1] if isinstance(meta["lr"], list) else meta["lr"]
        delta, state = compiled(rule, g, state, params, jnp.float32(lr))
        params = jax.tree.map(jnp.add, params, delta)
        if t % 10 == 0:
            got.append(rule.eval_params(state, params))
            expected.append({n: wanted[f"{t}/{n}"] for n in params})
    for step in distances(got, expected, start):
        assert all(x.max() <= TOLERANCE for x in step.values())


def test_evaluated_parameters_follow_the_oracle_where_learning_rates_rise_and_fall():
    lr = [0.0, 0.01, 0.1, 0.05, 0.2, 0.0]
    for power, r in ((2.0, 0.0), (0.0, 1.0), (1.5, 0.5)):
        rule = ScheduleFree(rules.SGD(), 0.8, power, r)
        params = jax.tree.map(jnp.asarray, PARAMS)
        state, ys, xs = rule.init(params), [], []
        for g, rate in zip(GRADS, lr, strict=True):
            g = jax.tree.map(jnp.float32, g)
            delta, state = compiled(rule, g, state, params, jnp.float32(rate))
            params = jax.tree.map(jnp.add, params, delta)
            ys.append(params)
            xs.append(rule.eval_params(state, params))
        wide = [jax.tree.map(lambda x: np.float64(np.float32(x)), g) for g in GRADS]
        y, x = oracles.sequences(
            PARAMS, wide, lr, lambda n, i, g, y, t: g, beta=0.8, weight_lr_power=power, r=r
        )  # fmt: skip
        require_close("y", ys, y, PARAMS, 5e-6)
        require_close("x", xs, x, PARAMS, 5e-6)


def test_the_model_is_evaluated_at_the_average_and_trained_on():
    vc = VarCollection({"w": TrainVar(jnp.zeros(1))})
    opt = contrib.ScheduleFreeSGD(vc, beta=0.5, lr=1.0)
    with opt.evaluating():  # before the first step
        assert vc["w"].value.tolist() == [0.0]
    for g in (-1.0, -2.0):
        opt.step([jnp.array([g])])
    with opt.evaluating():
        assert vc["w"].value.tolist() == [2.0]
    assert vc["w"].value.tolist() == [2.5]


def test_it_begins_at_weights_that_are_loaded_after_construction():
    vc = VarCollection({"w": TrainVar(jnp.zeros(1))})
    opt = contrib.ScheduleFree(vc, rules.SGD(), lr=1.0)
    vc["w"].assign(jnp.array([100.0]))
    with opt.evaluating():
        assert vc["w"].value.tolist() == [100.0]
    opt.step([jnp.array([-1.0])])
    close(vc["w"].value, [101.0])


def test_a_schedule_warms_it_up():
    """Steps of a small learning rate weigh little: c = 0.1² + 0.2² + ..., the last over all."""
    vc = VarCollection({"w": TrainVar(jnp.zeros(1))})
    opt = contrib.ScheduleFreeSGD(vc, beta=1.0, lr=schedule.Linear(0.5, 1.0, 1))
    step = Jit(lambda: opt.step([jnp.array([-1.0])]), vc + opt.vars())
    step()
    step()
    # z = 0.5, 1.5; weights 1/4 and 1: x = 0.5 + 0.8
    close(vc["w"].value, [1.3])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_averages_do_not_stall_in_low_precision(dtype):
    """After 1000 steps up by 1/256, z is 1 + 1000/256 and x the mean. In bfloat16 a mean would stop at 1/256 of it."""
    rule = ScheduleFreeSGD(beta=0.5)
    params = {"w": jnp.ones(1, dtype)}
    state = rule.init(params)
    assert {x.dtype for x in jax.tree.leaves(state)} == {np.dtype("float32"), np.dtype("int32")}

    def body(carry, _):
        params, state = carry
        delta, state = rule.update(Step({"w": -jnp.ones(1, dtype)}, params, jnp.float32(1 / 256)), state)
        return ({"w": (params["w"] + delta["w"]).astype(dtype)}, state), None

    (params, state), _ = jax.lax.scan(body, (params, state), None, length=1000)
    x = float(rule.eval_params(state, params)["w"][0])
    assert abs(x - (1 + 1001 / 2 / 256)) < 2 * float(jnp.finfo(dtype).eps)
    y = 1 + (1000 / 256 + 1001 / 2 / 256) / 2
    assert abs(float(params["w"][0]) - y) < 4 * float(jnp.finfo(dtype).eps)


def test_learning_rates_whose_squares_underflow_are_averaged_all_the_same():
    """The authors' code adds up lr**2, which for 1e-25 is 0 in float32."""
    rule, params = ScheduleFree(rules.SGD(), 1.0), {"w": jnp.zeros(1)}
    state = rule.init(params)
    for _ in range(2):
        delta, state = rule.update(Step({"w": -jnp.ones(1)}, params, jnp.float32(1e-25)), state)
        params = jax.tree.map(jnp.add, params, delta)
    close(params["w"], [1.5e-25])


def test_zero_gradients_and_zero_learning_rates_move_nothing():
    for rule in BY_TRACE.values():
        rule = rule.replace(weight_decay=0.0) if hasattr(rule, "weight_decay") else rule
        assert scalar(rule, [0.0] * 6, start=1.5)[0] == [1.5] * 6
        way, states = scalar(rule, [1.0] * 6, start=1.5, lr=0.0)
        assert way == [1.5] * 6
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(states))


def test_inside_a_chain_it_can_only_be_last():
    with pytest.raises(CompositionError, match="ScheduleFreeSGD"):
        rules.Chain(ScheduleFreeSGD(), rules.Momentum())
    init, _ = pure(rules.Chain(rules.ClipByGlobalNorm(), ScheduleFreeSGD()), 0.1)
    assert "ScheduleFreeSGD" in init({"w": jnp.zeros(1)})
