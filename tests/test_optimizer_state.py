"""What an optimizer holds: the names of its state, hyperparameters as attributes, schedules, and copies."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, ModuleList, StateVar, TrainRef, TrainVar, VarCollection, Vectorize, optimizer, rules, schedule
from optimkit.errors import HyperparameterError, StructureError
from optimkit.optimizer import Optimizer

from .shell import Counted, Net, X, bits, close, two_grads, two_params, unchanged


def own(opt):
    """Return the variables of an optimizer without its references to the parameters."""
    return opt.vars().subset(is_not=TrainRef)


# --- names ------------------------------------------------------------------------------------------------------------


def test_state_is_named_after_the_parameters():
    opt = optimizer.Adam(Net().vars("model"), lr=schedule.Constant(0.1), dynamic=("beta1",))
    w, b = "model(Net).w", "model(Net).b"
    assert set(opt.vars("x.").keys()) == {
        f"x.(Adam)[{w}].mu",
        f"x.(Adam)[{w}].nu",
        f"x.(Adam)[{b}].mu",
        f"x.(Adam)[{b}].nu",
        "x.(Adam).t",
        "x.(Adam).clock",
        "x.(Adam).beta1",
        f"x.(Adam).train_vars[{w}]",
        f"x.(Adam).train_vars[{b}]",
    }


def test_names_do_not_depend_on_the_order_or_the_number_of_parameters():
    layers = {f"layer{i}": TrainVar(jnp.full(2, float(i))) for i in range(12)}
    forward, backward = VarCollection(layers), VarCollection(reversed(layers.items()))
    names = [set(optimizer.Momentum(vc).vars().keys()) for vc in (forward, backward)]
    assert names[0] == names[1]
    fewer = optimizer.Momentum(VarCollection(list(layers.items())[3:]))
    assert set(fewer.vars().keys()) < names[0]


def test_state_stays_with_its_parameter_when_the_collection_is_reordered():
    def run(order):
        vc = VarCollection((name, TrainVar(jnp.zeros(2))) for name in order)
        opt = optimizer.Momentum(vc)
        opt(0.1, {"a": jnp.ones(2), "b": jnp.full(2, 2.0), "c": jnp.full(2, 3.0)})
        return {name: v.value.tolist() for name, v in own(opt).items()}

    assert run("abc") == run("cab")
    assert run("bca")["(Momentum)[b].m"] == [2.0, 2.0]


def test_chains_and_partitions_name_state_by_rule_and_route():
    vc = two_params()
    opt = Optimizer(vc, rules.Partition(("b", rules.Momentum()), (".", rules.AdamW())))
    assert list(own(opt).keys()) == [
        "(Optimizer).route0[b].m",
        "(Optimizer).route0.t",
        "(Optimizer).route1.Adam[w].mu",
        "(Optimizer).route1.Adam[w].nu",
        "(Optimizer).route1.Adam.t",
    ]
    assert sorted(vars(opt.state["w"])) == ["mu", "nu"]
    assert sorted(vars(opt.state["b"])) == ["m"]


def test_state_reads_by_parameter_and_slot():
    vc = two_params()
    opt = optimizer.Adam(vc)
    opt(0.1, two_grads())
    assert isinstance(opt.state["w"].mu, StateVar)
    close(opt.state["w"].mu.value, 0.1 * np.asarray(two_grads()[0]))
    close(opt.state["b"].nu.value, 0.001 * 0.75**2)
    opt.state["b"].nu.value = 4.0
    assert opt.vars()["(Adam)[b].nu"].value == 4.0
    assert list(opt.state) == ["w", "b"]


def test_two_slots_of_one_name_are_both_read():
    opt = Optimizer(two_params(), rules.Chain(rules.Momentum(0.5), rules.Momentum(0.9)))
    opt(0.1, two_grads())
    opt(0.1, two_grads())
    b = opt.state["b"]
    close(b.m.value, 0.75 * 1.5)
    close(b.Momentum_2_m.value, 0.75 * (0.9 + 1.5))


def test_parameters_may_be_called_as_slots_are():
    vc = VarCollection((name, TrainVar(jnp.ones(2))) for name in ("mu", "nu", "t", "slots", "w"))
    opt = optimizer.Adam(vc)
    opt(0.1, [jnp.ones(2)] * 5)
    names = [f"(Adam)[{p}].{slot}" for p in sorted(vc.keys()) for slot in ("mu", "nu")]
    assert list(own(opt).keys()) == [*names, "(Adam).t"]
    close(opt.state["nu"].mu.value, np.full(2, 0.1))


def test_names_with_brackets_and_dots_are_kept():
    layers = ModuleList([TrainVar(jnp.ones(1)), TrainVar(jnp.ones(1))])
    opt = optimizer.Momentum(layers.vars("net."))
    assert list(own(opt).keys())[:2] == ["(Momentum)[net.(ModuleList)[0]].m", "(Momentum)[net.(ModuleList)[1]].m"]
    assert isinstance(opt.state["net.(ModuleList)[1]"].m, StateVar)


def test_a_state_that_shares_arrays_is_copied_so_that_it_can_be_donated():
    class Sharing(rules.Rule):
        def init(self, params):
            zero = jnp.zeros(())
            return {"start": params, "one": zero, "two": zero, "three": 0.0}

        def update(self, step, state):
            moved = jax.tree.map(lambda p, s: 0.5 * (s - p), step.params, state["start"])
            return moved, {**state, **{key: state[key] + 1 for key in ("one", "two", "three")}}

    vc = two_params()
    opt = Optimizer(vc, Sharing())
    vc["b"].assign(1.25)
    step = Jit(lambda grads: opt(0.1, grads), vc + opt.vars(), donate=True)
    for _ in range(3):
        step(two_grads())
    close(vc["b"].value, 0.25 + 1.0 / 8)
    assert [float(opt.vars()[f"(Optimizer).{key}"]) for key in ("one", "two", "three")] == [3.0, 3.0, 3.0]


# --- hyperparameters as attributes ------------------------------------------------------------------------------------


def test_hyperparameters_are_read_and_assigned_before_a_compile():
    vc = two_params()
    opt = optimizer.Adam(vc, beta1=0.8)
    assert (opt.beta1, opt.beta2, opt.eps_root) == (0.8, 0.999, 0.0)
    opt.beta1 = 0.5
    opt(0.1, two_grads())  # eagerly: nothing is compiled
    opt.beta1 = np.float32(0.25)
    assert opt.rule == rules.Adam(beta1=0.25)
    opt(0.1, two_grads())
    close(opt.state["b"].mu.value, (0.25 * 0.5 + 0.75) * 0.75)


def test_a_hyperparameter_is_refused_after_a_compile_with_the_fix():
    vc = two_params()
    opt = optimizer.Adam(vc)
    Jit(lambda grads: opt(0.1, grads), vc + opt.vars())(two_grads())
    with pytest.raises(HyperparameterError, match=r"compiled already.*\n.*dynamic=\('beta1',\)"):
        opt.beta1 = 0.5
    assert opt.beta1 == 0.9


def test_unknown_attributes_are_those_of_python():
    opt = optimizer.Adam(two_params())
    with pytest.raises(AttributeError, match="'Adam' object has no attribute 'betta'"):
        opt.betta  # noqa: B018
    assert not hasattr(opt, "betta")
    opt.remark = "mine"
    assert opt.remark == "mine"


def test_tools_that_look_at_every_attribute_can():
    members = dict(inspect.getmembers(optimizer.Adam(two_params())))
    assert members["lr"] is None
    assert "minimize" in members


def test_hyperparameters_of_parts_are_attributes_too():
    rule = rules.Chain(rules.Momentum(0.5), rules.Momentum(0.9), rules.WeightDecay(0.1))
    opt = Optimizer(two_params(), rules.Partition(("w", rules.Adam()), (".", rules.Chain(rule))))
    assert (opt.rate, opt.beta1) == (0.1, 0.9)
    opt.rate = 0.2
    assert opt.rule.rules[1].rules[0].rules[2] == rules.WeightDecay(0.2)
    assert not hasattr(opt, "momentum")  # which of the two?


def test_dynamic_hyperparameters_change_without_a_new_compile():
    vc, twin = two_params(), two_params()
    opt, other = optimizer.Momentum(vc, dynamic=("momentum",)), optimizer.Momentum(twin)
    counted = Counted(lambda grads: opt(0.1, grads))
    step = Jit(counted, vc + opt.vars())
    for momentum in (0.9, 0.5, np.float64(0.25), jnp.bfloat16(0.125), StateVar(0.0)):
        opt.momentum = momentum
        step(two_grads())
        other(0.1, two_grads(), momentum=float(momentum))
    assert counted.traces == 1
    assert opt.momentum == 0.0
    assert opt.vars()["(Momentum).momentum"].dtype == jnp.float32
    close(vc["w"].value, twin["w"].value, ulps=8)


def test_dynamic_hyperparameters_can_follow_a_schedule_inside_a_step():
    vc = two_params()
    opt = optimizer.Momentum(vc, dynamic=("momentum",))
    seen = []

    def step(t, grads):
        opt.momentum = schedule.Linear(0.0, 1.0, 4)(t)
        opt(0.1, grads)

    step = Jit(step, vc + opt.vars())
    for t in range(3):
        step(jnp.int32(t), two_grads())
        seen.append(float(opt.momentum))
    assert seen == [0.0, 0.25, 0.5]
    close(opt.state["b"].m.value, 0.75 * (1 + 0.5 * (1 + 0.25)))


def test_an_override_beats_a_dynamic_hyperparameter_for_one_call():
    vc = two_params()
    opt = optimizer.Momentum(vc, dynamic=("momentum",))
    opt(0.1, two_grads())
    opt(0.1, two_grads(), momentum=0.0)
    close(opt.state["b"].m.value, 0.75)
    assert opt.momentum == np.float32(0.9)


def test_a_population_of_hyperparameters_is_vectorized():
    vc = two_params()
    opt = optimizer.SGD(vc, lr=0.0)

    def loss_after(lr):
        opt.lr = lr
        opt.step(two_grads())
        return vc["b"].value

    close(Vectorize(loss_after, vc + opt.vars())(jnp.array([0.0, 1.0, 2.0])), 0.25 - 0.75 * np.arange(3))


# --- the learning rate of the constructor -----------------------------------------------------------------------------


def test_a_learning_rate_of_the_constructor_is_assigned_without_a_new_compile():
    vc = two_params()
    opt = optimizer.SGD(vc, lr=1)  # an integer: it does not make the variable one
    counted = Counted(lambda grads: opt.step(grads))
    step = Jit(counted, vc + opt.vars())
    for lr in (0.5, 0.25, np.float64(0.125), jnp.float32(1.0), 0, StateVar(2.0)):
        opt.lr = lr
        assert opt.lr == float(lr)
        step(two_grads())
    assert counted.traces == 1
    close(vc["b"].value, 0.25 - 0.75 * 3.875)
    assert opt.vars()["(SGD).lr"].value == 2.0


def test_a_learning_rate_is_assigned_from_a_variable_inside_a_step():
    vc, lr = two_params(), StateVar(0.25)
    opt = optimizer.SGD(vc, lr=1.0)

    def step(grads):
        opt.lr = lr
        opt.step(grads)

    Jit(step, vc + opt.vars() + VarCollection({"lr": lr}))(two_grads())
    close(vc["b"].value, 0.25 - 0.25 * 0.75)
    assert opt.lr == 0.25


def test_the_learning_rate_of_a_call_beats_that_of_the_constructor():
    vc = two_params()
    opt = optimizer.SGD(vc, lr=0.5)
    opt(0.0, two_grads())
    assert (vc["b"].value, opt.lr) == (0.25, 0.5)


@pytest.mark.parametrize("lr", [schedule.Linear(0.5, 0.0, 4), lambda t: 0.5 - 0.125 * t])
def test_a_schedule_counts_the_steps_from_zero_and_compiles_once(lr):
    vc = two_params()
    opt = optimizer.SGD(vc, lr=lr)
    counted = Counted(lambda grads: opt.step(grads))
    step = Jit(counted, vc + opt.vars())
    values = []
    for t in range(4):
        assert opt.lr == 0.5 - 0.125 * t
        before = float(vc["b"])
        step(two_grads())
        values.append((before - float(vc["b"])) / 0.75)
    close(values, [0.5, 0.375, 0.25, 0.125], ulps=8)
    assert (counted.traces, int(opt.clock)) == (1, 4)
    with pytest.raises(HyperparameterError, match=r"follows a schedule.*\n.*lr=<number>"):
        opt.lr = 0.1


def test_the_clock_stops_at_the_largest_integer():
    vc = two_params()
    opt = optimizer.Adam(vc, lr=schedule.Linear(0.5, 0.25, 4))
    for var in (opt.clock, opt.vars()["(Adam).t"]):
        var.value = 2**31 - 1
    opt.step(two_grads())
    assert int(opt.clock) == int(opt.vars()["(Adam).t"]) == 2**31 - 1
    assert np.isfinite(vc["w"]).all()
    assert opt.lr == 0.25


def test_a_positional_learning_rate_follows_the_rule():
    vc = two_params()
    Optimizer(vc, rules.SGD(), 1.0).step(two_grads())
    assert vc["b"].value == -0.5


# --- copies -----------------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    last: dict


class Repeating(rules.Rule):
    """A rule with a state that is no dict."""

    def init(self, params):
        return Memory(jax.tree.map(jnp.zeros_like, params))

    def update(self, step, state):
        return jax.tree.map(lambda g, last: -step.lr * (g + last), step.grads, state.last), Memory(step.grads)


MAKE = {
    "Adam": lambda vc: optimizer.Adam(vc, dynamic=("beta1",)),
    "lr": lambda vc: optimizer.AdamW(vc, lr=0.1),
    "schedule": lambda vc: optimizer.LARS(vc, lr=schedule.Cosine(0.1, 10)),
    "partition": lambda vc: Optimizer(vc, rules.Partition(("b", rules.Frozen()), (".", rules.Momentum()))),
    "named tuple": lambda vc: Optimizer(vc, Repeating()),
}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@pytest.mark.parametrize("kind", MAKE)
def test_copies_are_independent_and_go_on_alike(kind, duplicate):
    vc = two_params()
    opt = MAKE[kind](vc)
    opt(0.1, two_grads())
    vc2, opt2 = duplicate((vc, opt))
    assert bits(vc2, opt2.vars()) == bits(vc, opt.vars())
    with unchanged(vc, opt.vars()):
        Jit(lambda g: opt2(0.1, g), vc2 + opt2.vars())(two_grads(2.0))
    opt(0.1, two_grads(2.0))
    for name, v in (vc + opt.vars()).items():
        close((vc2 + opt2.vars())[name].value, v.value, ulps=8)
    assert repr(opt2) == repr(opt)


def test_a_copy_of_the_optimizer_alone_has_parameters_of_its_own():
    vc = two_params()
    opt = optimizer.Momentum(vc)
    alone = copy.deepcopy(opt)
    with unchanged(vc, opt.vars()):
        alone(0.1, two_grads())
    close(alone.train_vars["b"].value, 0.25 - 0.075)


def test_a_shallow_copy_shares_the_variables():
    vc = two_params()
    opt = optimizer.Momentum(vc)
    copy.copy(opt)(0.1, two_grads())
    close(vc["b"].value, 0.25 - 0.075)
    close(opt.state["b"].m.value, 0.75)


# --- evaluation at other parameters -----------------------------------------------------------------------------------


class Averaging(rules.Rule):
    """Evaluates at the mean of the start and the present parameters."""

    def init(self, params):
        return {"start": params}

    def update(self, step, state):
        return jax.tree.map(lambda g: -step.lr * g, step.grads), state

    def eval_params(self, state, params):
        return jax.tree.map(lambda a, b: (a + b) / 2, state["start"], params)


def test_evaluating_holds_the_parameters_that_the_rule_evaluates_at():
    net = Net()
    opt = Optimizer(net.vars(), Averaging())
    opt(1.0, [jnp.ones(3), jnp.float32(1.0)])
    raw = net(X)
    with unchanged(net.vars(), opt.vars()):
        with opt.evaluating():
            close(net.b.value, -0.25)
            close(net(X), raw + X @ np.full(3, 0.5) + 0.5)
        with pytest.raises(ZeroDivisionError), opt.evaluating():
            raise ZeroDivisionError


def test_evaluating_works_inside_jit():
    vc = two_params()
    opt = Optimizer(vc, rules.Chain(rules.SGD(), Averaging()))

    def mean():
        with opt.evaluating():
            return vc["b"].value

    evaluate = Jit(mean, vc + opt.vars())
    opt(1.0, two_grads())
    assert (evaluate(), vc["b"].value) == (-0.125, -0.5)


def test_rules_that_do_not_average_are_evaluated_at_their_parameters():
    vc = two_params()
    opt = optimizer.AdamW(vc)
    with unchanged(vc), opt.evaluating():
        assert vc["b"].value == 0.25


# --- text -------------------------------------------------------------------------------------------------------------


def test_repr_tells_the_rule_and_the_size():
    vc = two_params()
    assert repr(optimizer.Adam(vc, 0.8)) == (
        "Adam(beta1=0.8, beta2=0.999, eps=1e-08, eps_root=0.0; 2 variables, 4 parameters)"
    )
    assert repr(optimizer.SGD(vc)) == "SGD(2 variables, 4 parameters)"
    assert repr(Optimizer(vc, rules.SGD())) == "Optimizer(SGD(); 2 variables, 4 parameters)"


def test_help_of_a_named_optimizer_lists_the_hyperparameters_of_its_rule():
    text = optimizer.Adam.__doc__
    assert text.startswith("``Adam(vc, beta1=0.9, beta2=0.999, eps=1e-8)``")
    assert "beta2: decay of the mean of squared gradients; in [0, 1), default 0.999." in text
    assert "Example:" not in text  # the rule's example is of the functional face


def test_two_arrays_of_one_name_in_a_state_are_refused_not_lost():
    class Dotted(rules.Rule):
        def init(self, params):
            return {"a.c": jnp.zeros(()), "a": {"c": jnp.ones(())}}

    with pytest.raises(StructureError, match=r"2 arrays of the state of a rule are called '\.a\.c'"):
        Optimizer(two_params(), Dotted())
