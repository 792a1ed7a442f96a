"""Hyperparameters that change between steps: schedules on one clock, and all of them replaced for one call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, Scan, StateVar, TrainRef, TrainVar, VarCollection, optimizer, rules, schedule
from optimkit.errors import CompositionError, HyperparameterError
from optimkit.optimizer import Optimizer

from .shell import Counted, bits, close, two_grads, two_params, unchanged

BETA1, DECAY = schedule.Linear(0.5, 0.9, 8), schedule.Cosine(0.1, steps=8)


def values(opt, vc):
    return bits(vc, opt.vars())


def test_a_hyperparameter_is_the_schedules_value_at_each_step():
    vc, twin = two_params(), two_params()
    opt, other = optimizer.AdamW(vc, BETA1, weight_decay=DECAY, lr=0.1), optimizer.AdamW(twin, lr=0.1)
    for t in range(10):
        assert opt.beta1 == np.float32(BETA1(jnp.int32(t)))
        assert opt.rule.beta1 == opt.beta1
        close(opt.weight_decay, DECAY(t))
        opt.step(two_grads(1 + t))
        other.step(two_grads(1 + t), beta1=BETA1(jnp.int32(t)), weight_decay=DECAY(jnp.int32(t)))
        assert bits(vc) == bits(twin)
    assert int(opt.clock) == 10


def test_a_hundred_steps_with_a_schedule_compile_once():
    vc, seen = two_params(), []
    opt = optimizer.Adam(vc, beta1=schedule.Linear(0.0, 0.9, 90), lr=schedule.Constant(0.1))
    counted = Counted(lambda grads: (opt.step(grads), opt.rule.beta1)[1])
    step = Jit(counted, vc + opt.vars(), donate=True)
    for t in range(100):
        wanted = schedule.Linear(0.0, 0.9, 90)(t)
        close(opt.beta1, wanted)
        seen.append(float(step(two_grads())))
        close(seen[-1], schedule.Linear(0.0, 0.9, 90)(t + 1))  # the step has been taken
    assert counted.traces == 1
    assert int(opt.clock) == 100


def test_schedules_by_name_are_those_in_the_rules_place():
    def run(make):
        vc = two_params()
        opt = make(vc)
        for t in range(4):
            opt(0.1, two_grads(1 + t))
        return bits(vc)

    by_name = run(lambda vc: optimizer.AdamW(vc, schedules={"beta1": BETA1, "weight_decay": DECAY}))
    assert by_name == run(lambda vc: optimizer.AdamW(vc, weight_decay=DECAY, beta1=BETA1))
    chain = rules.Chain(rules.AdamW(), rules.SGD())
    assert by_name == run(lambda vc: Optimizer(vc, chain, schedules={"AdamW.beta1": BETA1, "weight_decay": DECAY}))


def test_all_schedules_share_one_clock_that_is_saved_under_its_name():
    vc = two_params()
    opt = optimizer.AdamW(vc, beta1=BETA1, weight_decay=DECAY, lr=schedule.Linear(0.1, 0.0, 8), dynamic=("beta2",))
    others = {name for name in opt.vars().subset(is_not=TrainRef).keys() if "[" not in name}  # noqa: SIM118
    assert others == {"(AdamW).clock", "(AdamW).beta2", "(AdamW).Adam.t"}
    assert opt.vars()["(AdamW).clock"].dtype == jnp.int32


def test_a_restored_clock_continues_the_schedules():
    def make():
        vc = two_params()
        return vc, optimizer.AdamW(vc, beta1=BETA1, weight_decay=DECAY, lr=0.1)

    vc, opt = make()
    for t in range(3):
        opt.step(two_grads(1 + t))
    saved = {name: np.asarray(v) for name, v in opt.vars().items()}
    restored, other = make()
    other.vars().assign(saved)
    for t in range(3, 6):
        opt.step(two_grads(1 + t))
        other.step(two_grads(1 + t))
        assert other.beta1 == opt.beta1
    assert values(other, restored) == values(opt, vc)


def test_a_call_beats_a_schedule_for_that_call():
    vc = two_params()
    opt = optimizer.Momentum(vc, schedule.Constant(0.5))
    opt(0.1, two_grads())
    opt(0.1, two_grads(), momentum=0.0)
    close(opt.state["b"].m.value, 0.75)
    opt(0.1, two_grads())
    close(opt.state["b"].m.value, 0.75 * 1.5)
    assert int(opt.clock) == 3


def test_a_schedule_may_be_any_function_of_the_step():
    vc = two_params()
    opt = optimizer.Momentum(vc, lambda t: 0.25 * (t % 2))
    assert [float(opt.momentum), (opt(0.1, two_grads()), float(opt.momentum))[1]] == [0.0, 0.25]


def test_scan_advances_the_schedules():
    def run(scanned):
        vc = two_params()
        opt = optimizer.Adam(vc, beta1=BETA1)
        step = lambda w, b: opt(0.1, [w, b])  # noqa: E731
        ws, bs = (jnp.stack([g] * 4) for g in two_grads())
        if scanned:
            Scan(step, vc + opt.vars())(ws, bs)
        else:
            for w, b in zip(ws, bs, strict=True):
                step(w, b)
        return vc["w"].value, opt.beta1

    for scanned, looped in zip(run(True), run(False), strict=True):
        close(scanned, looped, ulps=8)


def test_schedules_of_float64_parameters_are_in_float64():
    with jax.enable_x64(True):
        vc = VarCollection({"w": TrainVar(jnp.ones(1, jnp.float64))})
        opt = optimizer.Momentum(vc, momentum=lambda t: jnp.float64(0.1) * (t + 1))
        assert opt.momentum.dtype == jnp.float64
        assert opt.momentum == 0.1


def chain(**options):
    return Optimizer(two_params(), rules.Chain(rules.Momentum(), rules.Momentum()), **options)


FAULTS = {
    "a choice": (lambda: optimizer.Momentum(two_params(), nesterov=BETA1), ["'nesterov' cannot follow a schedule"]),
    "an integer": (
        lambda: Optimizer(two_params(), rules.NoisySGD(), schedules={"seed": BETA1}),
        ["'seed' cannot follow a schedule", "constant of compiled programs"]),
    "what is not there": (
        lambda: optimizer.RMSProp(two_params(), schedules={"momentum": BETA1}), ["'momentum' cannot follow", "None"]),
    "unknown": (lambda: optimizer.Adam(two_params(), schedules={"beta3": BETA1}), ["no hyperparameter 'beta3'"]),
    "not unique": (lambda: chain(schedules={"momentum": BETA1}), ["'momentum' is not unique"]),
    "twice": (
        lambda: optimizer.Adam(two_params(), beta1=BETA1, dynamic="beta1"), ["'beta1' changes in two ways"]),
    "twice by two names": (
        lambda: Optimizer(two_params(), rules.Chain(rules.Adam()), schedules={"beta1": BETA1, "Adam.beta1": BETA1}),
        ["changes in two ways", "'Adam.beta1'"]),
    "out of range at once": (
        lambda: optimizer.Adam(two_params(), beta1=schedule.Constant(1.5)), ["'beta1' is out of range", "1.5"]),
    "out of range later": (
        lambda: optimizer.Adam(two_params(), beta1=schedule.Linear(0.9, 1.0, 100)),
        ["'beta1' is out of range", r"value at step 128 of Linear"]),
    "no number": (lambda: optimizer.Adam(two_params(), beta1=lambda t: "0.9"), ["gives no real number", "'0.9'"]),
    "no scalar": (lambda: optimizer.Adam(two_params(), beta1=lambda t: jnp.ones(2)), ["gives no real number"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_schedule_that_cannot_be_followed_is_refused_at_construction(fault):
    act, says = FAULTS[fault]
    with pytest.raises(HyperparameterError) as caught:
        act()
    for pattern in says:
        assert pattern in str(caught.value), f"{pattern!r} is not in\n{caught.value}"


def test_a_value_out_of_range_is_refused_at_its_step_where_it_is_known():
    vc = two_params()
    opt = optimizer.Adam(vc, beta1=lambda t: 0.5 + 0.5 * t)
    opt(0.1, two_grads())
    with unchanged(vc, opt.vars()), pytest.raises(HyperparameterError, match="'beta1' is out of range"):
        opt(0.1, two_grads())


def test_what_follows_a_schedule_is_not_assigned():
    opt = optimizer.Adam(two_params(), beta1=BETA1)
    with pytest.raises(HyperparameterError, match=r"'beta1' follows a schedule.*\n.*dynamic=\('beta1',\)"):
        opt.beta1 = 0.5
    opt.beta2 = 0.5
    assert opt.beta2 == 0.5


def test_a_dynamic_hyperparameter_is_the_same_under_both_its_names():
    opt = Optimizer(two_params(), rules.Chain(rules.ClipByGlobalNorm(), rules.Adam()), dynamic=("Adam.beta1",))
    opt.beta1 = 0.5
    assert opt.beta1 == opt.vars()["(Optimizer).Adam.beta1"].value == opt.rule.rules[1].beta1 == 0.5


# --- all at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hyper_params",
    [
        rules.AdamW(0.5, 0.75, 1e-3, weight_decay=0.5),
        {"beta1": 0.5, "beta2": 0.75, "eps": 1e-3, "weight_decay": 0.5},
        {"beta1": StateVar(0.5), "beta2": 0.75, "eps": 1e-3, "eps_root": None, "weight_decay": jnp.float32(0.5)},
    ],
    ids=["rule", "mapping", "mapping of variables"],
)
def test_all_hyperparameters_are_replaced_for_one_call(hyper_params):
    vc, twin = two_params(), two_params()
    opt, other = optimizer.AdamW(vc, beta1=BETA1, dynamic=("weight_decay",)), optimizer.AdamW(
        twin, 0.5, 0.75, 1e-3, weight_decay=0.5)  # fmt: skip
    opt(0.1, two_grads(), hyper_params=hyper_params)
    other(0.1, two_grads())
    for name in ("w", "b"):
        close(vc[name].value, twin[name].value)
    assert (opt.beta2, opt.weight_decay) == (0.999, np.float32(0.01))


@pytest.mark.parametrize("hyper_params", [rules.Momentum(0.5, nesterov=True), {"momentum": 0.5, "nesterov": True}])
def test_overrides_are_applied_after_hyper_params_as_in_flax(hyper_params):
    vc, twin = two_params(), two_params()
    opt, other = optimizer.Momentum(vc), optimizer.Momentum(twin, 0.25, nesterov=True)
    for _ in range(2):
        opt(0.1, two_grads(), hyper_params=hyper_params, momentum=0.25)
        other(0.1, two_grads())
    assert bits(vc) == bits(twin)


def test_minimize_and_step_pass_hyper_params_on():
    vc = two_params()
    opt = optimizer.Momentum(vc, lr=0.1)
    opt.step(two_grads())
    opt.step(two_grads(), hyper_params={"momentum": 0.0})
    close(opt.state["b"].m.value, 0.75)
    opt.minimize(lambda: 2.0 * vc["b"].value, hyper_params=rules.Momentum(0.0))
    close(opt.state["b"].m.value, 2.0)


@pytest.mark.parametrize(
    ("hyper_params", "error", "says"),
    [
        (rules.SGD(), CompositionError, "rule of another make"),
        (rules.Chain(rules.Adam()), CompositionError, "rule of another make"),
        (0.5, HyperparameterError, "neither a rule nor a mapping"),
        ({"beta3": 0.5}, HyperparameterError, "no hyperparameter 'beta3'"),
        ({"beta1": 1.5}, HyperparameterError, "'beta1' is out of range"),
    ],
)
def test_other_hyper_params_are_refused_and_change_nothing(hyper_params, error, says):
    vc = two_params()
    opt = optimizer.Adam(vc)
    with unchanged(vc, opt.vars()), pytest.raises(error, match=says):
        opt(0.1, two_grads(), hyper_params=hyper_params)
