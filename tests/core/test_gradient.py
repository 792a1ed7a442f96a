"""Derivatives with respect to variables and arguments, against formulas; and what the function writes is kept."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle

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
    RandomState,
    StateVar,
    TrainRef,
    TrainVar,
    VarCollection,
)
from optimkit.errors import DTypeError, StructureError, TraceMutationError
from tests.shell import unchanged

W, B = np.array([2.0, 3.0], np.float32), np.float32(1.0)
X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [-10.0, 9.0]], np.float32)
Y = np.array([1.0, 2.0, 3.0, 4.0], np.float32)


class Linear(Module):
    def __init__(self):
        self.w, self.b, self.calls = TrainVar(W), TrainVar(B), StateVar(0)

    def __call__(self, x):
        self.calls.value += 1
        return x @ self.w.value + self.b


def mean_square(net):
    return lambda x, y: 0.5 * jnp.mean((net(x) - y) ** 2)


def formulas():
    """Return the gradients of the mean square error: of x, y, w and b."""
    residual = (X @ W + B - Y).astype(np.float64)
    return {"x": residual[:, None] * W / 4, "y": -residual / 4, "w": X.T @ residual / 4, "b": residual.mean()}


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("input_argnums", "wanted"), [
    (None, "wb"), ((), "wb"), ((0,), "xwb"), ((1,), "ywb"), ((0, 1), "xywb"), ((1, 0), "yxwb"), ([1, 0], "yxwb"),
    ((-1,), "ywb"), ((-2, 1), "xywb"),
])  # fmt: skip
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_those_of_the_inputs_as_asked_then_of_the_parameters(input_argnums, wanted, compiled):
    net = Linear()
    f = GradValues(mean_square(net), net.vars(), input_argnums)
    grads, values = (Jit(f) if compiled else f)(X, Y)
    assert type(values) is list
    np.testing.assert_allclose(values[0], 0.5 * np.mean((X @ W + B - Y) ** 2), rtol=1e-6)
    for g, name in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(g, formulas()[name], rtol=1e-6)
    assert int(net.calls) == 1


def test_grad_is_the_gradients_alone_and_keeps_what_is_written():
    net = Linear()
    grads = Grad(mean_square(net), net.vars(), (1,))(X, Y)
    for g, name in zip(grads, "ywb", strict=True):
        np.testing.assert_allclose(g, formulas()[name], rtol=1e-6)
    assert int(net.calls) == 1


@pytest.mark.parametrize("order", list(itertools.permutations("abc")), ids="".join)
def test_gradients_come_in_the_collections_order(order):
    a, b, c = TrainVar(2.0), TrainVar(3.0), TrainVar(5.0)
    vc = VarCollection((name, {"a": a, "b": b, "c": c}[name]) for name in order)
    wanted = {"a": 3.0, "b": 2.0, "c": 10.0}
    assert Grad(lambda: a * b + c**2, vc)() == [wanted[name] for name in order]


def test_each_parameter_has_one_gradient_whatever_its_handles():
    w = TrainVar(W)
    ref = TrainRef(w)
    vc = VarCollection({"ref": ref, "w": w, "again": w})
    grads = Grad(lambda: jnp.sum(w * ref * w), vc)()
    assert [g.tolist() for g in grads] == [(3 * W**2).tolist()]
    assert Grad(lambda: jnp.sum(w * ref), VarCollection({"ref": ref}))() == []


def test_gradients_have_the_parameters_dtypes():
    vc = VarCollection({"h": TrainVar(jnp.ones(2, jnp.bfloat16)), "f": TrainVar(jnp.ones(2))})
    grads = Grad(lambda: jnp.sum(vc["h"] * vc["f"]), vc)()
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32]


@pytest.mark.parametrize("variables", [None, VarCollection(), VarCollection({"s": StateVar(2.0)})], ids=repr)
def test_without_parameters_there_are_only_gradients_of_inputs(variables):
    assert GradValues(lambda x: x**2, variables)(3.0)[0] == []
    assert Grad(lambda x: x**2, variables, (0,))(3.0) == [6.0]


def test_an_input_may_be_a_tree():
    (g,) = Grad(lambda p: p["a"] * p["b"][0], None, (0,))({"a": 2.0, "b": [3.0]})
    assert jax.tree.map(float, g) == {"a": 3.0, "b": [2.0]}


def test_keyword_arguments_are_passed_as_they_are():
    net = Linear()

    def loss(x, *, square):
        return jnp.mean(net(x) ** 2) if square else jnp.mean(net(x))

    np.testing.assert_allclose(Grad(loss, net.vars())(X, square=False)[0], X.mean(0), rtol=1e-6)


@pytest.mark.parametrize("outputs", [tuple, list])
def test_further_outputs_are_returned_and_not_differentiated(outputs):
    w = TrainVar(W)
    f = GradValues(lambda x: outputs((jnp.sum(w * x), {"square": w**2}, "tag")), VarCollection({"w": w}))
    grads, values = f(jnp.ones(2))
    assert type(values) is outputs
    assert (float(values[0]), values[1]["square"].tolist(), values[2]) == (5.0, [4.0, 9.0], "tag")
    assert [g.tolist() for g in grads] == [[1.0, 1.0]]


def test_the_loss_may_be_a_variable():
    w, loss = TrainVar(jnp.float32(3.0)), StateVar(0.0)

    def f():
        loss.value = w**2
        return loss

    grads, values = GradValues(f, VarCollection({"w": w, "loss": loss}))()
    assert (grads, float(values[0]), float(loss)) == ([6.0], 9.0, 9.0)


# --- what the function writes -----------------------------------------------------------------------------------------


def test_state_is_carried_out_also_where_it_depends_on_the_parameters():
    net, seen, key = Linear(), StateVar(0.0), RandomState(0)
    vc = net.vars() + {"seen": seen, "key": key}

    def loss(x):
        seen.value = jnp.sum(net(x) * jax.random.normal(key.split(1)[0], (4,)))
        return seen.value

    noise = jax.random.normal(jax.random.split(jax.random.PRNGKey(0))[1], (4,))
    grads, values = GradValues(loss, vc)(X)
    np.testing.assert_allclose(grads[0], noise @ X, rtol=1e-5)
    assert float(seen) == float(values[0])
    np.testing.assert_array_equal(key.value, jax.random.split(jax.random.PRNGKey(0))[0])


@pytest.mark.parametrize("compiled", [False, True])
def test_a_parameter_assigned_before_or_after_its_use_is_differentiated_at_its_first_value(compiled):
    w = TrainVar(jnp.float32(3.0))
    vc = VarCollection({"w": w})

    def before(x):
        w.assign(w * x)
        return w**2

    def after(x):
        loss = w**2
        w.assign(w + x)
        return loss

    f, g = GradValues(before, vc), GradValues(after, vc)
    if compiled:
        f, g = Jit(f), Jit(g)
    assert f(2.0) == ([2 * 6.0 * 2.0], [36.0])
    assert float(w) == 6.0
    assert g(1.0) == ([12.0], [36.0])
    assert float(w) == 7.0


def test_a_variable_that_is_not_listed_cannot_be_written():
    w, other = TrainVar(W), StateVar(0.0)
    VarCollection({"other": other})

    def loss():
        other.value = jnp.sum(w.value)
        return other.value

    vc = VarCollection({"w": w})
    for f in (GradValues(loss, vc), Grad(loss, vc), Jacobian(loss, vc), Hessian(loss, vc)):
        with unchanged(vc | {"other": other}), pytest.raises(TraceMutationError, match="'other' is written"):
            f()


@pytest.mark.parametrize("kind", [Jacobian, Hessian])
def test_jacobians_and_hessians_keep_what_is_written(kind):
    w, s = TrainVar(jnp.float32(2.0)), StateVar(jnp.zeros(2))

    def f(x):
        s.value = x * w
        w.assign(w + 1)
        return jnp.sum(s.value**2)

    kind(f, VarCollection({"w": w, "s": s}))(jnp.array([1.0, 2.0]))
    assert (float(w), s.value.tolist()) == (3.0, [2.0, 4.0])


# --- Jacobians and Hessians -------------------------------------------------------------------------------------------


def test_a_jacobian_has_the_outputs_axes_first():
    w = TrainVar(W)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    jx, jw = Jacobian(lambda x: jnp.sin(x @ w.value), VarCollection({"w": w}), (0,))(x)
    slope = np.cos(x @ W)
    np.testing.assert_allclose(jw, slope[:, None] * x, rtol=1e-5)
    np.testing.assert_allclose(jx, np.einsum("i,ij,k->ijk", slope, np.eye(3), W), rtol=1e-5)
    (j,) = Jacobian(lambda x: w * x, None, (0,))(3.0)
    assert j.tolist() == W.tolist()


def test_hessians_of_a_quadratic_form_are_its_matrices():
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=s).astype(np.float32) for s in ((2, 2), (2, 3), (3, 3)))
    u, v = TrainVar(W), TrainVar(np.ones(3, np.float32))
    vc = VarCollection({"u": u, "v": v})
    f = Hessian(lambda: u @ a @ u.value + u @ b @ v.value + v @ c @ v.value, vc)
    for got, wanted in zip(Jit(f)(), [[a + a.T, b], [b.T, c + c.T]], strict=True):
        for g, h in zip(got, wanted, strict=True):
            np.testing.assert_allclose(g, h, rtol=1e-5, atol=1e-6)


def test_a_hessian_is_with_respect_to_inputs_too_and_they_come_first():
    w = TrainVar(jnp.float32(2.0))
    hessian = Hessian(lambda x, y: x**2 * y * w**3, VarCollection({"w": w}), (1, 0))(3.0, 5.0)
    x, y, z = 3.0, 5.0, 2.0
    wanted = [
        [0, 2 * x * z**3, x**2 * 3 * z**2],
        [2 * x * z**3, 2 * y * z**3, 2 * x * y * 3 * z**2],
        [x**2 * 3 * z**2, 2 * x * y * 3 * z**2, x**2 * y * 6 * z],
    ]
    np.testing.assert_allclose(np.array(hessian), wanted, rtol=1e-6)


# --- errors -----------------------------------------------------------------------------------------------------------

LOSSES = {
    "vector": (lambda w: w * 1, r"float32\[2\].*jnp.mean\(loss\)"),
    "vector_first": (lambda w: (w * 1, jnp.sum(w.value)), r"float32\[2\].*jnp.mean\(loss\)"),
    "one_element": (lambda w: w[:1], r"float32\[1\].*jnp.mean\(loss\)"),
    "integer": (lambda w: jnp.int32(1), r"int32\[\]"),
    "complex": (lambda w: jnp.sum(w * 1j), r"complex64\[\]"),
    "none": (lambda w: None, r"None.*forget to return the loss"),
    "empty": (lambda w: (), r"tuple \(\)"),
    "dict": (lambda w: {"loss": 1.0}, r"dict \{'loss': 1.0\}"),
    "string": (lambda w: "loss", "str 'loss'"),
}


@pytest.mark.parametrize(("loss", "got"), LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("kind", [Grad, GradValues])
def test_a_loss_that_is_no_real_scalar_is_refused_with_the_fix(kind, loss, got):
    w = TrainVar(W)
    vc = VarCollection({"w": w})
    for f in (kind(lambda: loss(w), vc), Jit(kind(lambda: loss(w), vc))):
        match = rf"(?s){kind.__name__}\(<lambda>, 1 variables\): .*not a real scalar.*got      .*{got}"
        with unchanged(vc), pytest.raises(StructureError, match=match):
            f()


@pytest.mark.parametrize("wrong", [0, "0", 1.0, (0, 1.0), {0}], ids=repr)
def test_input_argnums_must_be_positions(wrong):
    with pytest.raises(StructureError, match=r"(?s)GradValues: input_argnums is not a tuple.*\(0, 2\)"):
        GradValues(lambda x: x, None, wrong)


@pytest.mark.parametrize("where", [1, 5, -2])
def test_an_input_that_was_not_passed_by_position_is_refused(where):
    f = Grad(lambda x, y=1.0: x * y, None, (where,))
    with pytest.raises(StructureError, match=rf"(?s)names argument {where}, which was not passed.*got      1"):
        f(2.0, y=3.0)


def test_one_input_cannot_be_asked_for_twice():
    for twice in ((0, 0), (1, -1)):
        with pytest.raises(StructureError, match="input_argnums names one argument twice"):
            Grad(lambda x, y: x * y, None, twice)(2.0, 3.0)


@pytest.mark.parametrize("kind", [Grad, GradValues, Jacobian, Hessian])
def test_a_parameter_of_integers_is_refused_by_name(kind):
    with pytest.raises(DTypeError, match=r"(?s)'table' has no gradient.*int32.*StateVar"):
        kind(lambda: 0.0, VarCollection({"table": TrainVar(jnp.arange(3))}))


# --- the object -------------------------------------------------------------------------------------------------------


def test_arguments_variables_and_repr_are_as_given():
    net = Linear()
    f = GradValues(net, net.vars())
    assert list(inspect.signature(f).parameters) == ["x"]
    assert f.vars("s.") == net.vars("s.")
    assert repr(f) == "GradValues(Linear, 3 variables)"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deep", "pickle"])
def test_a_copy_differentiates_its_own_variables(duplicate):
    net = Linear()
    f = GradValues(net, net.vars())
    twin = duplicate(f)
    twin.__wrapped__.w.assign(jnp.zeros(2))
    with unchanged(net.vars()):
        assert float(twin(X[0])[1][0]) == 1.0
    assert float(f(X[0])[1][0]) == 9.0
