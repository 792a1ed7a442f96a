"""Transforms inside transforms, ours and JAX's: the same numbers as flat, or an error; never a tracer left behind."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import (
    Grad,
    GradValues,
    Hessian,
    Jacobian,
    Jit,
    Module,
    Scan,
    StateVar,
    TrainRef,
    TrainVar,
    VarCollection,
    Vectorize,
)
from optimkit.errors import TraceMutationError
from tests.shell import bits, unchanged

X = np.array([[1.0, 2.0], [-0.5, 1.0], [2.0, 0.25]], np.float32)


class Net(Module):
    """Uses a parameter, a running mean and a counter, and writes two of them."""

    def __init__(self):
        self.w, self.mean, self.calls = TrainVar(jnp.array([1.0, -2.0])), StateVar(0.5), StateVar(0, lambda x: x[0])

    def __call__(self, x):
        self.calls.value += 1
        self.mean.value = 0.5 * self.mean + 0.5 * jnp.mean(x)
        return jnp.sum(self.w * x) ** 2 + self.mean.value


def flat(net, x=X[0]):
    """Return what a call, its gradients and its writes are, by hand: (output, gradient of w, gradient of x)."""
    w, mean, x = np.asarray(net.w.value), 0.5 * float(net.mean) + 0.5 * x.mean(), np.asarray(x)
    dot = w @ x
    return dot**2 + mean, 2 * dot * x, 2 * dot * w + 0.25


def close(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=1e-5)


def wrote_once(net):
    assert int(net.calls) == 1
    np.testing.assert_allclose(net.mean.value, 0.5 * 0.5 + 0.5 * X[0].mean(), rtol=1e-6)


# --- ours in ours -----------------------------------------------------------------------------------------------------


def wrappings(net, vc):
    """Return nestings of transforms of ours, each equal to ``GradValues(net, vc)``."""
    gradients = GradValues(net, vc)
    return {
        "flat": gradients,
        "jit": Jit(gradients),
        "jit_jit": Jit(Jit(gradients)),
        "jit_donate_in_jit": Jit(Jit(gradients, donate=True)),
        "gradients_of_jit": GradValues(Jit(net), vc),
        "gradients_of_donated_jit": GradValues(Jit(net, donate=True), vc),
        "jit_of_gradients_of_jit": Jit(GradValues(Jit(net), vc), donate=True),
        "jit_of_scan": lambda x: jax.tree.map(lambda a: a[0], Jit(Scan(gradients))(x[None])),
        "scan_of_jit": lambda x: jax.tree.map(lambda a: a[0], Scan(Jit(gradients))(x[None])),
        "vectorize": lambda x: jax.tree.map(lambda a: a[0], Vectorize(gradients)(x[None])),
        "jit_of_vectorize_of_jit": lambda x: jax.tree.map(lambda a: a[0], Jit(Vectorize(Jit(gradients)))(x[None])),
        "vectorize_of_scan": lambda x: jax.tree.map(lambda a: a[0, 0], Vectorize(Scan(gradients))(x[None, None])),
        "scan_of_vectorize": lambda x: jax.tree.map(lambda a: a[0, 0], Scan(Vectorize(gradients))(x[None, None])),
    }


@pytest.mark.parametrize("name", wrappings(Net(), Net().vars()).keys())
def test_any_nesting_of_ours_gives_the_flat_numbers(name):
    net = Net()
    output, grad, _ = flat(net)
    grads, values = wrappings(net, net.vars() + {"ref": TrainRef(net.w)})[name](X[0])
    close([grads, values], [[grad], [output]])
    wrote_once(net)


def test_second_derivatives_of_ours_nest_as_well():
    net = Net()
    vc = net.vars()
    wanted = 2 * np.outer(X[0], X[0])
    gradient = Grad(net, vc)
    close(Jacobian(lambda x: gradient(x)[0], vc)(X[0]), [wanted])
    close(Jit(Hessian(net, vc))(X[0]), [[wanted]])
    close(GradValues(lambda x: jnp.sum(gradient(x)[0] ** 2), vc)(X[0])[0], [2 * wanted @ flat(net)[1]])
    assert int(net.calls) == 3


@pytest.mark.filterwarnings("ignore::optimkit.errors.ConstantVariableWarning")
def test_an_outer_transform_must_list_what_an_inner_one_writes():
    net = Net()
    vc = net.vars()
    listed = VarCollection({"w": net.w})
    scan = Scan(net)
    for inner in (Jit(net), GradValues(net, vc), scan):
        with unchanged(vc), pytest.raises(TraceMutationError, match=r"\(Net\).(mean|calls)' is written"):
            Jit(lambda x: inner(x), listed)(X if inner is scan else X[0])  # noqa: B023


@pytest.mark.parametrize("inner", [GradValues, Grad, Jacobian, Hessian])
@pytest.mark.parametrize("outer", [Jit, GradValues, Scan])
def test_an_inner_derivative_must_list_what_it_writes_though_the_outer_does(inner, outer):
    net, listed = Net(), StateVar(0.0)
    derivative = inner(lambda x: (listed.assign(listed + x), x * x)[1], VarCollection(), (0,))
    vc = net.vars() + {"listed": listed}

    def f(x):
        derivative(jnp.sum(x))
        return jnp.sum(net.w * x)

    with unchanged(vc), pytest.raises(TraceMutationError):
        outer(f, vc)(X if outer is Scan else X[0])


@pytest.mark.parametrize("name", ["flat", "jit", "jit_donate_in_jit", "gradients_of_jit", "jit_of_scan", "vectorize"])
def test_no_tracer_is_kept_anywhere_as_jax_itself_finds(name):
    net = Net()
    output, grad, _ = flat(net)
    with jax.checking_leaks():
        close(wrappings(net, net.vars())[name](X[0]), ([grad], [output]))
    wrote_once(net)


@pytest.mark.parametrize("name", ["jit", "jit_donate_in_jit", "gradients_of_jit", "jit_of_scan", "scan_of_jit"])
def test_with_compilation_disabled_the_numbers_are_the_same(name):
    net = Net()
    output, grad, _ = flat(net)
    with jax.disable_jit():
        close(wrappings(net, net.vars())[name](X[0]), ([grad], [output]))
    wrote_once(net)


# --- JAX's around ours ------------------------------------------------------------------------------------------------


def pure(net):
    """Return a function of ours that writes nothing."""
    return Grad(lambda x: jnp.sum(net.w * x) ** 2, net.vars())


def test_transformations_of_jax_around_what_only_reads_give_the_flat_numbers():
    net = Net()
    f = lambda x: pure(net)(x)[0]  # noqa: E731
    wanted = np.array([f(x) for x in X])
    close(jax.jit(f)(X[0]), wanted[0])
    close(jax.vmap(f)(X), wanted)
    close(jax.jit(jax.vmap(f))(X), wanted)
    close(jax.lax.map(f, X), wanted)
    close(jax.lax.scan(lambda c, x: (c, f(x)), 0, X)[1], wanted)
    close(jax.lax.cond(True, f, lambda x: x, X[0]), wanted[0])
    close(jax.checkpoint(f)(X[0]), wanted[0])
    assert jax.eval_shape(f, X[0]).shape == (2,)
    w = np.asarray(net.w.value)
    close(jax.jacobian(f)(X[0]), 2 * (np.outer(X[0], w) + w @ X[0] * np.eye(2)))
    close(jax.grad(Jit(lambda x: jnp.sum(net.w * x), net.vars()))(X[0]), w)


AROUND = {
    "jit": lambda f: jax.jit(f)(X[0]),
    "grad": lambda f: jax.grad(lambda x: (f(x), jnp.sum(x))[1])(X[0]),
    "vmap": lambda f: jax.vmap(f)(X),
    "scan": lambda f: jax.lax.scan(lambda c, x: (c, (f(x), x)[1]), 0, X),
    "cond": lambda f: jax.lax.cond(True, lambda x: (f(x), x)[1], lambda x: x, X[0]),
    "checkpoint_in_jit": lambda f: jax.jit(jax.checkpoint(lambda x: (f(x), x)[1]))(X[0]),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND.keys())
@pytest.mark.parametrize("ours", ["jit", "gradients", "scan", "vectorize"])
def test_writes_of_ours_under_a_transformation_of_jax_raise_with_a_name(around, ours):
    net = Net()
    f = {"jit": Jit(net), "gradients": GradValues(net, net.vars())}.get(ours)
    if f is None:
        mapped = {"scan": Scan(net), "vectorize": Vectorize(net)}[ours]
        f = lambda x: mapped(x[None])  # noqa: E731
    with unchanged(net.vars()), pytest.raises(TraceMutationError, match=r"'\(Net\).(calls|mean)' is written"):
        around(lambda x: (f(x), x)[1])
    net(X[0])
    wrote_once(net)


def test_a_stateful_step_becomes_a_pure_function_that_jax_maps_compiles_and_differentiates():
    net = Net()
    vc = net.vars()
    gradients = GradValues(net, vc)

    def step(tensors, rate, x):
        with vc.swapped(tensors):
            grads, values = gradients(x)
            net.w.assign(net.w - rate * grads[0])
            return vc.tensors(), values[0]

    rates, before = np.array([0.0, 0.1, 0.5], np.float32), vc.tensors()
    with unchanged(vc):
        alone = [step(before, rate, x) for rate, x in zip(rates, X, strict=True)]
        stacked = jax.tree.map(lambda x: jnp.stack([x] * 3), before)
        mapped = jax.jit(jax.vmap(step))(stacked, rates, X)
        for i in range(3):
            close(jax.tree.map(lambda x: x[i], mapped), alone[i])  # noqa: B023
        slope = jax.grad(lambda rate: jnp.sum(step(before, rate, X[0])[0][0]))(0.1)
    close(slope, -np.sum(flat(net)[1]))


# --- JAX's inside ours ------------------------------------------------------------------------------------------------


def reading(net):
    """Return functions that use a transformation of JAX inside, all equal to the sum of w * x."""
    f = lambda x: jnp.sum(net.w * x)  # noqa: E731
    return {
        "jit": jax.jit(f),
        "vmap": lambda x: jnp.sum(jax.vmap(lambda a, i: a * net.w[i])(x, jnp.arange(2))),
        "scan": lambda x: jax.lax.scan(lambda c, i: (c + net.w[i] * x[i], None), 0.0, jnp.arange(2))[0],
        "while": lambda x: jax.lax.fori_loop(0, 2, lambda i, c: c + net.w[i] * x[i], 0.0),
        "cond": lambda x: jax.lax.cond(x[0] > -9.0, f, lambda x: 0.0, x),
        "checkpoint": jax.checkpoint(f),
        "grad": lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(net.w * x**2) / 2)(x)),
        "variable_as_argument": lambda x: jax.jit(lambda w, x: jnp.sum(w * x))(net.w, x),
    }


@pytest.mark.parametrize("name", reading(Net()).keys())
def test_transformations_of_jax_inside_ours_may_read_variables(name):
    net = Net()
    # Made anew for each: jax.jit and jax.checkpoint keep what a function read when it was first traced.
    f, vc, w = lambda: reading(net)[name], net.vars(), np.asarray(net.w.value)
    close(Jit(f(), vc)(X[0]), w @ X[0])
    close(Vectorize(f(), vc)(X), X @ w)
    close(Jit(GradValues(f(), vc))(X[0]), ([X[0]], [w @ X[0]]))
    close(Scan(f(), vc)(X), X @ w)


@pytest.mark.parametrize("keep", [jax.jit, jax.checkpoint])
def test_a_function_that_jax_keeps_from_another_trace_raises_and_one_that_takes_variables_does_not(keep):
    net = Net()
    kept = keep(lambda x: jnp.sum(net.w * x))
    Jit(lambda x: kept(x), net.vars())(X[0])
    with unchanged(net.vars()), pytest.raises(TraceMutationError, match=r"jax.jit or jax.checkpoint reused a function"):
        Jit(lambda x: kept(x), net.vars())(X[0])
    kept = keep(lambda w, x: jnp.sum(w * x))
    for k in (1, 2):
        net.w.assign(net.w * k)
        close(Jit(lambda x: kept(net.w, x), net.vars())(X[0]), np.asarray(net.w.value) @ X[0])
        close(kept(net.w, X[0]), np.asarray(net.w.value) @ X[0])


def writing(s):
    """Return functions that write a variable inside a transformation of JAX."""
    write = lambda x: (s.assign(s + x), x)[1]  # noqa: E731
    return {
        "vmap": lambda x: jax.vmap(write)(x),
        "scan": lambda x: jax.lax.scan(lambda c, a: (c, write(a)), 0, x)[1],
        "cond": lambda x: jax.lax.cond(x[0] > -9.0, lambda x: (write(x[0]), x)[1], lambda x: x, x),
        "while": lambda x: jax.lax.fori_loop(0, 2, lambda i, c: c + write(x[i]), 0.0),
        "grad": lambda x: jax.grad(lambda x: jnp.sum(write(x[0]) ** 2))(x),
        "jit": lambda x: jax.jit(lambda x: write(x[0]))(x),
    }


OURS = {
    "jit": Jit,
    "donated_jit": lambda f, vc: Jit(f, vc, donate=True),
    "gradients": lambda f, vc: GradValues(lambda x: (f(x), jnp.sum(x))[1], vc, (0,)),
    "jit_of_gradients": lambda f, vc: Jit(GradValues(lambda x: (f(x), jnp.sum(x))[1], vc, (0,))),
    "scan": lambda f, vc: (lambda x: Scan(f, vc)(x[None])),
    "vectorize": lambda f, vc: (lambda x: Vectorize(f, vc)(x[None])),
}


@pytest.mark.parametrize("inside", writing(StateVar(0.0)).keys())
@pytest.mark.parametrize("ours", OURS.keys())
@pytest.mark.parametrize("read_after", [False, True])
def test_writes_inside_a_transformation_of_jax_inside_ours_raise_and_leave_no_tracer(inside, ours, read_after):
    s = StateVar(1.0)
    vc = VarCollection({"seen": s})

    def f(x):
        out = writing(s)[inside](x)
        return (jnp.sum(out) + s if read_after else jnp.sum(out)).astype(jnp.float32)

    with unchanged(vc), pytest.raises(TraceMutationError, match="'seen' is written under a JAX transformation"):
        OURS[ours](f, vc)(X[0])
    s.value = 2.0
    assert bits(vc)["seen"][2] == np.float32(2.0).tobytes()


@pytest.mark.parametrize("inside", writing(StateVar(0.0)).keys())
def test_a_variable_made_in_a_trace_is_not_written_inside_another_either(inside):
    def f(x):
        s = StateVar(jnp.zeros(()))
        writing(s)[inside](x)
        return s.value

    for transform in (lambda f: Jit(f, VarCollection()), jax.jit):
        with pytest.raises(TraceMutationError, match="'StateVar' is written under a JAX transformation"):
            transform(f)(X[0])


@pytest.mark.parametrize("ours", OURS.keys())
def test_an_array_kept_from_a_trace_that_has_ended_does_not_get_into_a_variable(ours):
    s = StateVar(jnp.float32(1.0))
    vc = VarCollection({"seen": s})

    def f(x):
        kept = []
        jax.vmap(lambda a: kept.append(a) or a)(x)
        s.value = kept[0]
        return jnp.sum(x)

    with unchanged(vc), pytest.raises(TraceMutationError):
        OURS[ours](f, vc)(X[0])
