"""Whatever breaks in a step, and wherever: every variable is as it was before, and the next step works."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import GradValues, Jit, Scan, StateVar, TrainVar, VarCollection, Vectorize, optimizer, rules
from optimkit.core.variable import Buffer
from optimkit.errors import (
    ConstantVariableWarning,
    DTypeError,
    OptimkitError,
    StructureError,
    TraceMutationError,
    VariableError,
)
from optimkit.optimizer import ExponentialMovingAverageModule, Optimizer

from .shell import Net, X, Y, bits, close, loss_of, two_grads, two_params, unchanged


class DeliberateError(Exception):
    """What the faults below raise; nothing in optimkit catches it."""


def boom(*args, **kwargs):
    raise DeliberateError


# --- a rule that breaks -----------------------------------------------------------------------------------------------


class Breaking(rules.LeafRule):
    """Momentum that raises at one of its parameters."""

    where: str = rules.hyper("", ("", "b", "w", "init w"), "the parameter at which it breaks")

    def init_leaf(self, p):
        if self.where == "init w" and p.ndim == 1:
            raise DeliberateError
        return {"m": jnp.zeros_like(p)}

    def update_leaf(self, g, slot, p, *, lr, t):
        if self.where and self.where[-1] == ("b" if p.ndim == 0 else "w"):
            raise DeliberateError
        m = 0.9 * slot["m"] + g
        return -lr * m, {"m": m}


SPOILED = {
    # what update returns, from what it should return; the error; what the message says
    "no pair": (lambda delta, state: delta, StructureError, "returned a displacement"),
    "no displacement": (lambda delta, state: (None, state), StructureError, "returned a displacement"),
    "a displacement too few": (lambda delta, state: ({"w": delta["w"]}, state), StructureError, "displacement"),
    "a displacement too many": (lambda delta, state: ({**delta, "c": 0.0}, state), StructureError, "displacement"),
    "displacements as a list": (lambda delta, state: (list(delta.values()), state), StructureError, "displacement"),
    "None for one": (lambda delta, state: ({**delta, "b": None}, state), StructureError, "displacement"),
    "a displacement that would broadcast": (
        lambda delta, state: ({**delta, "w": jnp.ones((3, 1))}, state), StructureError, "a displacement does not fit"),
    "a scalar displacement": (
        lambda delta, state: ({**delta, "w": jnp.float32(1)}, state), StructureError, "a displacement does not fit"),
    "no state": (lambda delta, state: (delta, None), StructureError, "returned a state"),
    "a state with a key too few": (lambda delta, state: (delta, {"m": state["m"]}), StructureError, "returned a state"),
    "a state with a key too many": (lambda delta, state: (delta, {**state, "u": 0}), StructureError, "a state"),
    "None in the state": (lambda delta, state: (delta, {**state, "t": None}), StructureError, "returned a state"),
    "a deeper state": (lambda delta, state: (delta, {**state, "t": {"t": 0}}), StructureError, "returned a state"),
    "a state of another shape": (
        lambda delta, state: (delta, {**state, "t": jnp.zeros(2, jnp.int32)}), StructureError, r"\(Optimizer\)\.t"),
    "a state of another dtype": (
        lambda delta, state: (delta, {**state, "t": jnp.float32(1)}), DTypeError, r"\(Optimizer\)\.t"),
    "a slot of another shape": (
        lambda delta, state: (delta, {**state, "m": {**state["m"], "w": jnp.zeros((3, 1))}}), StructureError,
        r"\(Optimizer\)\.m\[w\]"),
    "a slot of another dtype": (
        lambda delta, state: (delta, {**state, "m": {**state["m"], "w": jnp.zeros(3, jnp.bfloat16)}}), DTypeError,
        r"\(Optimizer\)\.m\[w\]"),
}  # fmt: skip


class Spoiled(rules.Rule):
    """A rule with a memory that returns something wrong."""

    def __init__(self, spoil):
        object.__setattr__(self, "spoil", spoil)

    def init(self, params):
        return {"t": jnp.zeros((), jnp.int32), "m": jax.tree.map(jnp.zeros_like, params)}

    def update(self, step, state):
        delta = jax.tree.map(lambda g: -step.lr * g, step.grads)
        return self.spoil(delta, {"t": state["t"] + 1, "m": step.grads})


def ways(opt, vc):
    """Return the ways to take a step with two_grads(), by name."""
    everything = vc + opt.vars()
    grads = two_grads()
    loss = lambda: jnp.dot(grads[0], vc["w"].value) + grads[1] * vc["b"]  # noqa: E731
    step = lambda: opt(0.1, grads)  # noqa: E731
    return {
        "eager": step,
        "jit": Jit(step, everything),
        "donated jit": Jit(step, everything, donate=True),
        "scan": Scan(step, everything, length=2),
        "minimize": lambda: opt.minimize(loss, lr=0.1),
        "minimize in jit": Jit(lambda: opt.minimize(loss, lr=0.1), everything),
        "vectorize": lambda: Vectorize(lambda g: opt(0.1, [g, grads[1]]), everything)(jnp.ones((2, 3))),
        "inside a gradient": lambda: GradValues(lambda: (step(), jnp.sum(vc["w"].value))[1], everything)(),
    }


WAYS = list(ways(optimizer.SGD(two_params()), two_params()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", ["b", "w"])
def test_a_rule_that_raises_at_its_first_or_last_parameter_changes_nothing(where, way):
    vc = two_params()
    opt = Optimizer(vc, Breaking())
    opt(0.1, two_grads())
    opt.where = where
    step = ways(opt, vc)[way]
    with unchanged(vc, opt.vars()):
        for _ in range(2):
            with pytest.raises(DeliberateError):
                step()
    opt.where = ""
    opt(0.1, two_grads())
    close(opt.state["b"].m.value, 0.75 * 1.9)


def test_a_rule_that_raises_at_construction_leaves_the_parameters():
    vc = two_params()
    with unchanged(vc), pytest.raises(DeliberateError):
        Optimizer(vc, Breaking("init w"))


@pytest.mark.parametrize("way", ["eager", "jit", "scan", "minimize"])
@pytest.mark.parametrize("kind", SPOILED)
def test_a_rule_that_returns_the_wrong_thing_raises_and_changes_nothing(kind, way):
    spoil, error, says = SPOILED[kind]
    vc = two_params()
    opt = Optimizer(vc, Spoiled(spoil))
    step = ways(opt, vc)[way]
    with unchanged(vc, opt.vars()), pytest.raises(error, match=says) as caught:
        step()
    assert isinstance(caught.value, OptimkitError)


def test_the_spoiled_rule_works_when_it_is_not_spoiled():
    vc = two_params()
    opt = Optimizer(vc, Spoiled(lambda delta, state: (delta, state)))
    for step in ways(opt, vc).values():
        step()
    assert opt.vars()["(Optimizer).t"].value == 9


# --- a loss that breaks -----------------------------------------------------------------------------------------------


class Fragile(Net):
    """A net that breaks at a chosen place of its call, after or before it wrote its variables."""

    broken = ""

    def __call__(self, x, training=False):
        if self.broken == "first":
            raise DeliberateError
        output = super().__call__(x, training)
        if self.broken == "last":
            raise DeliberateError
        if self.broken == "write shape":
            self.mean.value = jnp.zeros(4)
        if self.broken == "write dtype":
            self.count.value = jnp.float32(1)
        if self.broken == "write reference":
            self.w.value = jnp.zeros(3)
        return output[0] if self.broken == "output" else output


FRAGILE = {
    "first": DeliberateError,
    "last": DeliberateError,
    "write shape": StructureError,
    "write dtype": DTypeError,
    "write reference": ValueError,
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("face", ["minimize", "grad_values"])
@pytest.mark.parametrize("broken", FRAGILE)
def test_a_loss_that_raises_changes_nothing(broken, face, compiled):
    net = Fragile()
    opt = optimizer.Adam(net.vars(), lr=0.1)
    averaged = ExponentialMovingAverageModule(net, 0.5)
    loss = loss_of(net)
    grad_values = GradValues(loss, net.vars())

    def step(x, y):
        if compiled:  # eagerly this would be a call of its own, which succeeds
            averaged.update_ema()
        if face == "minimize":
            opt.minimize(loss, x, y)
        else:
            opt.step(grad_values(x, y)[0])

    everything = net.vars() + opt.vars() + averaged.vars()
    step = Jit(step, everything, donate=True) if compiled else step
    net.broken = broken
    with unchanged(everything), pytest.raises(FRAGILE[broken]):
        step(X, Y)
    net.broken = ""
    step(X, Y)
    assert net.count.value == 1
    assert opt.vars()["(Adam).t"].value == 1


class Uphill(rules.Rule):
    """Evaluates the gradient elsewhere, and then breaks or not."""

    needs = ("grad_fn",)
    breaks: bool = rules.hyper(False, bool, "whether it raises after the second gradient")

    def init(self, params):
        return {}

    def update(self, step, state):
        grads = step.grad_fn(jax.tree.map(lambda p, g: p + 0.1 * g, step.params, step.grads))
        if self.breaks:
            raise DeliberateError
        return jax.tree.map(lambda g: -step.lr * g, grads), state


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("place", ["rule", "second evaluation"])
def test_a_rule_that_evaluates_the_loss_again_and_breaks_changes_nothing(place, compiled):
    net, evaluations = Net(), []
    opt = Optimizer(net.vars(), Uphill(breaks=place == "rule"), lr=0.1)

    def loss(x, y):
        value = loss_of(net)(x, y)
        evaluations.append(1)
        if place == "second evaluation" and len(evaluations) == 2:
            raise DeliberateError
        return value

    step = lambda x, y: opt.minimize(loss, x, y)  # noqa: E731
    step = Jit(step, net.vars() + opt.vars()) if compiled else step
    with unchanged(net.vars(), opt.vars()), pytest.raises(DeliberateError):
        step(X, Y)
    assert len(evaluations) == 2


def test_two_optimizers_in_one_jit_are_both_undone_when_the_second_raises():
    vc, other = two_params(), VarCollection({"v": TrainVar(jnp.ones(2))})
    first, second = optimizer.Adam(vc), optimizer.Adam(other)

    def step(grads, g):
        first(0.1, grads)
        second(0.1, [g])

    everything = vc + first.vars() + VarCollection((f"second{n}", v) for n, v in (other + second.vars()).items())
    step = Jit(step, everything, donate=True)
    with unchanged(everything), pytest.raises(StructureError, match="the gradient of 'v'"):
        step(two_grads(), jnp.ones((4, 2)))
    step(two_grads(), jnp.ones(2))
    assert first.vars()["(Adam).t"].value == second.vars()["(Adam).t"].value == 1


def test_a_step_that_compiled_before_and_breaks_while_it_compiles_anew_changes_nothing():
    vc = two_params()
    opt = optimizer.Adam(vc)
    step = Jit(lambda g: opt(0.1, [g, 1.0]), vc + opt.vars(), donate=True)
    step(jnp.ones(3))
    with unchanged(vc, opt.vars()), pytest.raises(StructureError):
        step(jnp.ones((4, 3)))
    step(jnp.ones(3))
    assert opt.vars()["(Adam).t"].value == 2


# --- interrupts -------------------------------------------------------------------------------------------------------


class Interrupted(Buffer):
    """A buffer at which Control-C is pressed, once."""

    __slots__ = ("_value", "pressed")

    @property
    def value(self):
        return self._value

    @value.setter
    def value(self, x):
        if hasattr(self, "pressed") and not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        self._value = x


def interrupt_at(var):
    old = var._buffer
    new = Interrupted(old.value)
    new.name, new.open, new.pressed = old.name, old.open, False
    var._buffer = new


@pytest.mark.parametrize("at", ["(Adam)[b].mu", "(Adam)[w].nu", "(Adam).t"])
@pytest.mark.parametrize("way", ["eager", "jit", "minimize"])
def test_an_interrupt_while_results_are_stored_leaves_the_old_state_or_the_new_but_no_mixture(way, at):
    def after(interrupted, steps):
        vc = two_params()
        opt = optimizer.Adam(vc)
        if interrupted:
            interrupt_at(opt.vars()[at])
        step = ways(opt, vc)[way]
        for _ in range(steps):
            if interrupted:
                with pytest.raises(KeyboardInterrupt):
                    step()
            else:
                step()
        return bits(vc, opt.vars())

    assert after(True, 1) in (after(False, 0), after(False, 1))


# --- transformations that know nothing of variables -------------------------------------------------------------------


def foreign(opt):
    """Return calls of JAX's own transformations on a step, by name."""
    w, b = two_grads()
    step = lambda g: (opt(0.1, [g, b]), jnp.sum(g))[1]  # noqa: E731
    return {
        "jax.jit": lambda: jax.jit(step)(w),
        "jax.grad": lambda: jax.grad(step)(w),
        "jax.vmap": lambda: jax.vmap(step)(jnp.stack([w, w])),
        "jax.lax.scan": lambda: jax.lax.scan(lambda c, g: (c, step(g)), 0, jnp.stack([w, w])),
        "jax.lax.fori_loop": lambda: jax.lax.fori_loop(0, 2, lambda i, c: c + step(w), 0.0),
        "jax.lax.cond": lambda: jax.lax.cond(jnp.array(True), step, jnp.sum, w),
        "jax.eval_shape": lambda: jax.eval_shape(step, w),
        "jax.checkpoint": lambda: jax.grad(jax.checkpoint(step))(w),
    }


FOREIGN = list(foreign(None))


@pytest.mark.parametrize("rule", [rules.SGD(), rules.Adam()])
@pytest.mark.parametrize("transformation", FOREIGN)
def test_a_step_under_a_foreign_transformation_raises_with_a_name_and_stores_nothing(transformation, rule):
    vc = two_params()
    opt = Optimizer(vc, rule)
    says = r"assign: '(w|b)' is written under a JAX transformation(.|\n)*Jit\(f, model\.vars\(\) \+ opt\.vars\(\)\)"
    with unchanged(vc, opt.vars()), pytest.raises(TraceMutationError, match=says):
        foreign(opt)[transformation]()
    opt(0.1, two_grads())


@pytest.mark.parametrize("transformation", ["jax.jit", "jax.lax.scan", "jax.lax.cond", "jax.vmap", "jax.grad"])
def test_a_foreign_transformation_nested_in_a_jit_raises_and_stores_nothing(transformation):
    vc = two_params()
    opt = optimizer.Adam(vc)
    step = Jit(lambda: foreign(opt)[transformation](), vc + opt.vars())
    refused = pytest.raises(TraceMutationError, match="'w' is written under a JAX transformation")
    with unchanged(vc, opt.vars()), refused:
        step()
    opt(0.1, two_grads())


@pytest.mark.parametrize("missing", ["state", "parameters"])
def test_a_jit_that_lacks_the_variables_names_one_that_it_lacks(missing):
    vc = two_params()
    opt = optimizer.Adam(vc)
    listed = vc if missing == "state" else opt.vars().subset(is_a=StateVar)
    name = r"'\(Adam\)\[b\]\.mu'" if missing == "state" else "'w'"
    refused = pytest.raises(TraceMutationError, match=f"assign: {name} is written")
    with unchanged(vc, opt.vars()), pytest.warns(ConstantVariableWarning) as warned, refused:
        Jit(lambda grads: opt(0.1, grads), listed)(two_grads())
    assert any(re.search(f"variable {name} is read but not listed", str(w.message)) for w in warned)


# --- failures of the compiled program while it runs -------------------------------------------------------------------


def step_that_fails_at_run_time(opt, vc, donate):
    def step(grads):
        extra = jax.pure_callback(boom, jax.ShapeDtypeStruct((), jnp.float32), grads[1])
        opt(0.1, [grads[0], grads[1] + extra])

    return Jit(step, vc + opt.vars(), donate=donate)


def test_a_failure_at_run_time_changes_nothing_without_donation():
    vc = two_params()
    opt = optimizer.Adam(vc)
    with unchanged(vc, opt.vars()), pytest.raises(jax.errors.JaxRuntimeError, match="DeliberateError"):
        step_that_fails_at_run_time(opt, vc, donate=False)(two_grads())
    opt(0.1, two_grads())


def test_a_failure_at_run_time_with_donation_names_a_variable_that_is_gone_and_assigning_brings_it_back():
    vc = two_params()
    opt = optimizer.SGD(vc)
    step = step_that_fails_at_run_time(opt, vc, donate=True)
    for _ in range(2):
        with pytest.raises(VariableError, match=r"the array of 'w' has been deleted.\n.*donated"):
            step(two_grads())
    vc.assign([jnp.ones(3), jnp.float32(1)])
    opt(1.0, two_grads())
    close(vc["b"].value, 0.25)


def test_an_array_read_before_a_donating_step_is_gone_and_the_variable_is_not():
    vc = two_params()
    opt = optimizer.Momentum(vc)
    old = vc["w"].value
    Jit(lambda grads: opt(0.1, grads), vc + opt.vars(), donate=True)(two_grads())
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(old)
    assert np.isfinite(vc["w"]).all()
