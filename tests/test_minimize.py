"""Loss, gradients and update in one call: what it returns, what it writes, and rules that evaluate the loss again."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimkit
from optimkit import Function, GradValues, Jit, RandomState, Scan, TrainVar, VarCollection, optimizer, rules
from optimkit.errors import MissingInputError, TraceMutationError
from optimkit.optimizer import Optimizer

from .shell import Counted, Net, X, Y, bits, close, loss_of, two_grads, two_params, unchanged

either_way = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])


class Sharp(rules.Rule):
    """Sharpness-aware minimization in its simplest form: the gradient at a point uphill."""

    needs = ("grad_fn",)
    rho: float = rules.hyper(0.1, "[0, inf)", "distance uphill")

    def init(self, params):
        return {"evaluations": jnp.zeros((), jnp.int32)}

    def update(self, step, state):
        uphill = jax.tree.map(lambda p, g: p + self.rho * g, step.params, step.grads)
        grads = step.grad_fn(uphill)
        return jax.tree.map(lambda g: -step.lr * g, grads), {"evaluations": state["evaluations"] + 1}


class Polyak(rules.Rule):
    """Polyak's step: the loss over the squared norm of the gradient."""

    needs = ("value",)

    def init(self, params):
        return {}

    def update(self, step, state):
        squares = sum(jnp.sum(g**2) for g in jax.tree.leaves(step.grads))
        return jax.tree.map(lambda g: -step.lr * step.value / squares * g, step.grads), state


class Noisy(rules.Rule):
    """A gradient step and noise."""

    needs = ("key",)

    def init(self, params):
        return {}

    def update(self, step, state):
        return jax.tree.map(lambda g: -step.lr * (g + jax.random.normal(step.key, g.shape)), step.grads), state


class Twice(rules.Rule):
    """Records the difference between the gradient given and the one that grad_fn gives at the same parameters."""

    needs = ("grad_fn",)

    def init(self, params):
        return {"difference": jax.tree.map(jnp.zeros_like, params), "again": jax.tree.map(jnp.zeros_like, params)}

    def update(self, step, state):
        first, second = step.grad_fn(step.params), step.grad_fn(step.params)
        difference = jax.tree.map(lambda a, b: a - b, step.grads, first)
        again = jax.tree.map(lambda a, b: a - b, first, second)
        return jax.tree.map(lambda g: -step.lr * g, step.grads), {"difference": difference, "again": again}


def pair(vc):
    """Return a loss of two_params() whose gradient is two_grads(), a function of a scale."""
    w, b = two_grads()
    return lambda scale: scale * (jnp.dot(w, vc["w"].value) + b * vc["b"])


# --- what it returns and writes ---------------------------------------------------------------------------------------


@either_way
def test_minimize_is_gradients_and_a_step(compiled):
    def run(minimizes):
        net = Net()
        loss, opt = loss_of(net), optimizer.Adam(net.vars(), lr=0.1)
        grad_values = GradValues(loss, net.vars())

        def step(x, y):
            if minimizes:
                return opt.minimize(loss, x, y)
            grads, values = grad_values(x, y)
            opt.step(grads)
            return values[0]

        step = Jit(step, net.vars() + opt.vars()) if compiled else step
        losses = [float(step(X, Y)) for _ in range(3)]
        return losses, bits(net.vars(), opt.vars()), int(net.count)

    minimized = run(True)
    assert minimized == run(False)
    assert minimized[2] == 3


class Report(NamedTuple):
    loss: jax.Array
    logits: jax.Array


@either_way
@pytest.mark.parametrize(
    "outputs",
    [
        lambda loss: loss,
        lambda loss: (loss, {"twice": 2 * loss}),
        lambda loss: [loss, 2 * loss],
        lambda loss: [loss],
        lambda loss: (loss,),
        lambda loss: Report(loss, jnp.stack([loss, loss])),
    ],
)
def test_minimize_returns_what_the_loss_function_returned(outputs, compiled):
    vc = two_params()
    loss = pair(vc)
    opt = optimizer.SGD(vc, lr=0.1)
    wanted = outputs(loss(2.0))
    step = Jit(lambda scale: opt.minimize(lambda s: outputs(loss(s)), scale), vc + opt.vars()) if compiled else (
        lambda scale: opt.minimize(lambda s: outputs(loss(s)), scale))  # fmt: skip
    got = step(2.0)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    assert type(got) is type(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        close(a, b)


def test_the_learning_rate_and_hyperparameters_of_a_call_reach_the_step():
    vc, twin = two_params(), two_params()
    opt, other = optimizer.Momentum(vc, lr=0.5), optimizer.Momentum(twin)
    for lr, momentum in ((0.1, 0.5), (0.2, None)):
        opt.minimize(pair(vc), 1.0, lr=lr, momentum=momentum)
        other(lr, two_grads(), momentum=momentum)
    for name in ("w", "b"):
        close(vc[name].value, twin[name].value)


def test_a_model_is_its_own_loss_function():
    class Fitted(Net):
        def __call__(self, x, y):
            return jnp.mean((super().__call__(x, training=True) - y) ** 2)

    net, twin = Fitted(), Net()
    optimizer.SGD(net.vars()).minimize(net, X, Y, lr=0.1)
    optimizer.SGD(twin.vars()).minimize(loss_of(twin), X, Y, lr=0.1)
    assert list(bits(net.vars()).values()) == list(bits(twin.vars()).values())


def test_a_loss_function_with_variables_of_its_own_is_differentiated_in_the_optimizers_only():
    """The head is trained; the body is part of the loss, and its batch statistic moves."""
    head, body = TrainVar(jnp.float32(2.0)), Net()
    opt = optimizer.SGD(VarCollection({"head": head}), lr=0.5)
    loss = Function.with_vars(body.vars())(lambda x: jnp.sum(body(head.value * x, training=True)))
    with unchanged(VarCollection({"w": body.w, "b": body.b})):
        opt.minimize(loss, jnp.asarray(X))
    close(body.mean.value, X.mean(0), ulps=8)  # half of the mean of 2 x
    assert body.count.value == 1
    assert head.value != 2.0


def test_a_batch_statistic_that_the_optimizer_does_not_know_raises_with_its_name():
    head, body = TrainVar(jnp.float32(2.0)), Net()
    body.vars()
    opt = optimizer.SGD(VarCollection({"head": head}), lr=0.5)
    everything = (body.vars(), opt.vars(), VarCollection({"head": head}))
    with unchanged(*everything), pytest.raises(TraceMutationError, match=r"\(Net\)\.mean"):
        opt.minimize(lambda x: body(head.value * x, training=True).sum(), jnp.asarray(X))


def test_shared_weights_get_the_sum_of_their_gradients_once():
    w = TrainVar(jnp.float32(3.0))
    opt = optimizer.SGD(VarCollection({"encoder": w, "decoder": w}), lr=0.125)
    opt.minimize(lambda: w * w.value)
    assert w.value == 3.0 - 0.125 * 6.0


def test_it_compiles_once_and_works_in_scan_and_with_donation():
    net = Net()
    opt = optimizer.Adam(net.vars(), lr=optimkit.schedule.Linear(0.1, 0.0, 10))
    loss = loss_of(net)
    counted = Counted(lambda x, y: opt.minimize(loss, x, y))
    step = Jit(counted, net.vars() + opt.vars(), donate=True)
    losses = [float(step(X, Y)) for _ in range(3)]
    assert counted.traces == 1

    twin = Net()
    opt2 = optimizer.Adam(twin.vars(), lr=optimkit.schedule.Linear(0.1, 0.0, 10))
    scan = Scan(lambda x, y: opt2.minimize(loss_of(twin), x, y), twin.vars() + opt2.vars())
    close(scan(jnp.stack([X] * 3), jnp.stack([Y] * 3)), losses, ulps=16)
    close(twin.w.value, net.w.value, ulps=16)
    assert (int(twin.count), int(opt2.clock)) == (3, 3)


# --- rules that need more ---------------------------------------------------------------------------------------------


@either_way
def test_a_rule_that_needs_gradients_elsewhere_gets_them(compiled):
    vc = VarCollection({"w": TrainVar(jnp.array([1.0, 2.0]))})
    opt = Optimizer(vc, Sharp(0.5), lr=0.125)
    loss = lambda: 0.5 * jnp.sum(vc["w"] ** 2)  # noqa: E731
    step = Jit(lambda: opt.minimize(loss), vc + opt.vars()) if compiled else lambda: opt.minimize(loss)
    assert step() == 2.5  # the loss where the parameters were, not uphill
    close(vc["w"].value, np.array([1.0, 2.0]) * (1 - 0.125 * 1.5))
    assert opt.vars()["(Optimizer).evaluations"].value == 1


@either_way
def test_a_rule_that_needs_the_loss_gets_it(compiled):
    vc = VarCollection({"w": TrainVar(jnp.array([1.0, 2.0]))})
    opt = Optimizer(vc, Polyak(), lr=1.0)
    loss = lambda: (0.5 * jnp.sum(vc["w"] ** 2), jnp.float32(1e6))  # noqa: E731
    step = Jit(lambda: opt.minimize(loss), vc + opt.vars()) if compiled else lambda: opt.minimize(loss)
    step()
    close(vc["w"].value, np.array([0.5, 1.0]))


@either_way
def test_a_rule_that_needs_a_key_gets_it(compiled):
    vc, random = two_params(), RandomState(0)
    opt = Optimizer(vc, Noisy(), lr=1.0)
    step = lambda: opt.minimize(pair(vc), 0.0, key=random.split(1)[0])  # noqa: E731
    step = Jit(step, vc + opt.vars() + VarCollection({"random": random})) if compiled else step
    key = jax.random.split(random.value, 2)[1]
    step()
    close(vc["b"].value, 0.25 - float(jax.random.normal(key)))


@pytest.mark.parametrize(("rule", "need"), [(Sharp(), "grad_fn"), (Polyak(), "value"), (Noisy(), "key")])
@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: rules.Chain(rules.SGD(), r)], ids=["alone", "in a chain"])
def test_a_call_without_the_input_names_it_and_changes_nothing(rule, need, wrap):
    vc = two_params()
    opt = Optimizer(vc, wrap(rule), lr=0.1)
    for step in (lambda: opt(0.1, two_grads()), lambda: opt.step(two_grads())):
        with unchanged(vc, opt.vars()), pytest.raises(MissingInputError, match=f"needs '{need}'"):
            step()


def test_inputs_are_passed_by_hand_too():
    vc = VarCollection({"w": TrainVar(jnp.array([1.0, 2.0]))})
    opt = Optimizer(vc, rules.Chain(rules.ClipByGlobalNorm(100.0), Sharp(0.5)))
    opt(0.125, {"w": vc["w"].value}, grad_fn=lambda params: params)
    close(vc["w"].value, np.array([1.0, 2.0]) * (1 - 0.125 * 1.5))
    polyak = Optimizer(vc, Polyak())
    before = np.asarray(vc["w"])
    polyak(1.0, [vc["w"].value], value=jnp.float32(0.0))
    close(vc["w"].value, before)


def test_a_partition_passes_gradients_elsewhere_to_its_groups():
    vc = VarCollection({"a": TrainVar(jnp.float32(1.0)), "b": TrainVar(jnp.float32(2.0))})
    opt = Optimizer(vc, rules.Partition(("a", Sharp(0.5)), (".", rules.SGD())), lr=0.125)
    opt.minimize(lambda: 0.5 * (vc["a"] * vc["a"].value + vc["b"] * vc["b"].value))
    close(vc["a"].value, 1 - 0.125 * 1.5)
    close(vc["b"].value, 2 * (1 - 0.125))


@either_way
def test_evaluating_the_loss_again_leaves_no_trace_in_the_variables(compiled):
    def run(rule):
        net = Net()
        opt = Optimizer(net.vars(), rule, lr=0.1)
        step = lambda x, y: opt.minimize(loss_of(net), x, y)  # noqa: E731
        step = Jit(step, net.vars() + opt.vars()) if compiled else step
        step(X, Y)
        return net

    once, again = run(rules.SGD()), run(Sharp(0.1))
    assert again.count.value == 1
    for name in ("mean", "count", "random"):
        assert getattr(once, name).value.tolist() == getattr(again, name).value.tolist()
    assert once.w.value.tolist() != again.w.value.tolist()


@either_way
def test_every_evaluation_sees_the_same_random_numbers_and_statistics(compiled):
    """So a line search compares losses of one function, and SAM drops the same units uphill as downhill."""
    net = Net()
    opt = Optimizer(net.vars(), Twice(), lr=0.1)
    step = lambda x, y: opt.minimize(loss_of(net), x, y)  # noqa: E731
    step = Jit(step, net.vars() + opt.vars()) if compiled else step
    seen = []
    for _ in range(3):
        step(X, Y)
        seen.append(net.random.value.tolist())
        differences = [v for name, v in opt.vars().items() if "difference" in name or "again" in name]
        assert len(differences) == 4
        assert not any(v.value.any() for v in differences)
    assert len({tuple(key) for key in seen}) == 3  # but each step draws new numbers


def test_what_the_loss_writes_to_a_parameter_is_the_start_of_the_step():
    """The gradient is with respect to the parameter as it came in, through the assignment."""
    w = TrainVar(jnp.float32(5.0))
    opt = optimizer.SGD(VarCollection({"w": w}), lr=0.25)

    def loss():
        w.assign(w.value / 2)
        return w.value

    assert opt.minimize(loss) == 2.5
    close(w.value, 2.5 - 0.25 * 0.5)
