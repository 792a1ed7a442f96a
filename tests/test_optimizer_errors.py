"""Bad input to an optimizer, as data: what is wrong, the error, and what its message must say.

Each fault is tried eagerly and inside a Jit. It must raise its error, change no variable by a single bit, and leave an
optimizer that goes on as if nothing had happened.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, StateVar, TrainRef, TrainVar, VarCollection, optimizer, rules, schedule
from optimkit.errors import (
    CompositionError,
    DTypeError,
    HyperparameterError,
    MissingInputError,
    OptimkitError,
    StructureError,
)
from optimkit.optimizer import Optimizer

from .shell import Net, bits, two_grads, two_params, unchanged

W, B = (np.asarray(g) for g in two_grads())
NAN, INF = float("nan"), float("inf")
CALL = r"optimizer\.Adam\(lr, grads\): "


def grads(w=W, b=B, lr=0.1):
    """Take a step with these gradients."""
    return lambda opt: opt(lr, [w, b])


def whole(g):
    """Take a step with this in place of the gradients."""
    return lambda opt: opt(0.1, g)


def rate(lr):
    """Take a step with this learning rate."""
    return lambda opt: opt(lr, [W, B])


def override(*args, **kwargs):
    """Take a step with these hyperparameters."""
    return lambda opt: opt(0.1, [W, B], *args, **kwargs)


def assign(name, value):
    """Assign an attribute."""
    return lambda opt: setattr(opt, name, value)


# what is wrong: (what to do, the error, what its message says)
FAULTS = {
    # --- number, names and kind of the gradients
    "no gradients": (whole([]), StructureError, [CALL, "2 gradients, for 'w', 'b'", "got      0"]),
    "too few": (whole([W]), StructureError, ["2 gradients, for 'w', 'b'", "got      1", "Take gradients with respect"]),
    "too many": (whole([W, B, B]), StructureError, ["2 gradients, for 'w', 'b'", "got      3"]),
    "a name too few": (whole({"w": W}), StructureError, [CALL, r"Missing: \['b'\]", r"Unknown: \[\]"]),
    "a name too many": (whole({"w": W, "b": B, "c": B}), StructureError, [r"Missing: \[\]", r"Unknown: \['c'\]"]),
    "other names": (whole({"w": W, "bias": B}), StructureError, [r"Missing: \['b'\]", r"Unknown: \['bias'\]"]),
    "names that are numbers": (whole({0: W, 1: B}), StructureError, [r"Missing: \['w', 'b'\]", r"Unknown: \[0, 1\]"]),
    "variables of other names": (
        whole(VarCollection({"v": StateVar(W), "b": StateVar(B)})), StructureError, [r"Unknown: \['v'\]"]),
    "None for all": (whole(None), StructureError, ["neither a list nor a mapping", "a list of 2 arrays", "NoneType"]),
    "one array": (whole(np.ones((2, 3))), StructureError, ["neither a list nor a mapping", "ndarray"]),
    "a string": (whole("wb"), StructureError, ["neither a list nor a mapping", "str"]),
    "an iterator": (whole(iter([W, B])), StructureError, ["neither a list nor a mapping"]),
    # --- the shape of one gradient
    "not reduced over the batch": (
        grads(w=np.ones((4, 3), np.float32)), StructureError,
        [CALL + "the gradient of 'w'", r"expected float32\[3\]", r"got      float32\[4, 3\]", r"jnp\.mean\(loss\)"]),
    "a batch of one": (grads(w=np.ones((1, 3), np.float32)), StructureError, ["'w'", r"float32\[1, 3\]", "mean"]),
    "a scalar for a vector": (grads(w=np.float32(1)), StructureError, ["'w'", r"float32\[\]", "nothing is broadcast"]),
    "a Python number for a vector": (grads(w=1.0), StructureError, ["'w'", "nothing is broadcast"]),
    "a vector for a scalar": (grads(b=W), StructureError, ["'b'", r"expected float32\[\]", "mean"]),
    "one element for a scalar": (grads(b=np.ones(1, np.float32)), StructureError, ["'b'", r"float32\[1\]"]),
    "a column that would broadcast": (
        grads(w=np.ones((3, 1), np.float32)), StructureError, ["'w'", r"float32\[3, 1\]"]),
    "an element too many": (grads(w=np.ones(4, np.float32)), StructureError, ["'w'", r"float32\[4\]"]),
    "nothing": (grads(w=np.ones(0, np.float32)), StructureError, ["'w'", r"float32\[0\]"]),
    "a wrong shape by name": (whole({"b": W, "w": W}), StructureError, ["the gradient of 'b'"]),
    # --- the dtype of one gradient
    "None": (grads(b=None), StructureError, ["the gradient of 'b' is None", "leave the variable out"]),
    "integers": (grads(w=np.ones(3, np.int32)), DTypeError, [CALL + "the gradient of 'w'", r"got      int32\[3\]"]),
    "a Python integer": (grads(b=1), DTypeError, ["'b' is not of floating point", "int32"]),
    "booleans": (grads(w=np.ones(3, bool)), DTypeError, ["'w'", r"bool\[3\]"]),
    "complex numbers": (grads(w=np.ones(3, np.complex64)), DTypeError, ["'w'", r"complex64\[3\]"]),
    "a list of numbers": (
        grads(w=[1.0, 2.0, 3.0]), DTypeError, [CALL + "the gradient of 'w' is not an array", r"float32\[3\]"]),
    "a mapping for one": (grads(w={"w": W}), DTypeError, ["the gradient of 'w' is not an array"]),
    "text for one": (grads(b="b"), DTypeError, ["the gradient of 'b' is not an array", "str 'b'"]),
    "objects": (grads(w=np.array([None, None, None])), DTypeError, ["'w' is not an array", r"object\[3\]"]),
    # --- the learning rate
    "negative lr": (rate(-0.1), HyperparameterError, [CALL + "the learning rate is out of range", ">= 0", "-0.1"]),
    "NaN lr": (rate(NAN), HyperparameterError, ["out of range", "nan"]),
    "infinite lr": (rate(INF), HyperparameterError, ["finite", "inf"]),
    "negative NumPy lr": (rate(np.float32(-1)), HyperparameterError, ["out of range"]),
    "NaN JAX lr": (rate(jnp.float32(NAN)), HyperparameterError, ["out of range"]),
    "lr is a string": (rate("0.1"), HyperparameterError, ["not a number", "str '0.1'"]),
    "lr is a bool": (rate(True), HyperparameterError, ["not a number", "bool True"]),
    "lr is an array of bool": (rate(np.array(True)), HyperparameterError, ["not a real number", "bool"]),
    "lr is None": (rate(None), HyperparameterError, ["not a number", "None"]),
    "lr is a list": (rate([0.1, 0.1]), HyperparameterError, ["not a number", "list"]),
    "lr of shape (1,)": (rate(np.array([0.1])), HyperparameterError, ["not a scalar", r"\[1\]", "groups"]),
    "lr per variable": (rate(jnp.array([0.1, 0.2])), HyperparameterError, ["not a scalar", r"\[2\]", "groups"]),
    "complex lr": (rate(0.1j), HyperparameterError, ["not a number"]),
    "complex JAX lr": (rate(jnp.complex64(1)), HyperparameterError, ["not a real number", "complex64"]),
    "lr is a schedule": (rate(schedule.Constant(0.1)), HyperparameterError, ["not a number"]),
    # --- hyperparameters for one call
    "beta1 out of range": (override(1.0), HyperparameterError, ["'beta1' is out of range", r"\[0, 1\)", "1.0"]),
    "beta2 out of range": (override(beta2=-0.1), HyperparameterError, ["'beta2' is out of range"]),
    "eps is NaN": (override(eps=NAN), HyperparameterError, ["'eps' is out of range", "nan"]),
    "beta1 is an array out of range": (override(jnp.float32(1.5)), HyperparameterError, ["'beta1' is out of range"]),
    "beta1 is a string": (override(beta1="0.9"), HyperparameterError, ["'beta1' is out of range", "'0.9'"]),
    "an unknown name": (
        override(beta3=0.9), HyperparameterError, [CALL + "there is no hyperparameter 'beta3'", "'beta1', 'beta2'"]),
    "too many by position": (
        override(0.9, 0.99, 1e-8, 0.0, 1.0), HyperparameterError, ["too many", "beta1, beta2, eps"]),
    "twice": (override(0.9, beta1=0.8), HyperparameterError, ["'beta1' is given twice"]),
    # --- attributes and other ways to step
    "beta1 assigned out of range": (assign("beta1", 1.0), HyperparameterError, ["'beta1' is out", r"\[0, 1\)"]),
    "dynamic beta2 assigned out of range": (assign("beta2", NAN), HyperparameterError, ["'beta2' is out of range"]),
    "dynamic beta2 assigned an array": (
        assign("beta2", np.array([0.9, 0.9])), StructureError, [r"\(Adam\)\.beta2", r"float32\[2\]"]),
    "lr assigned": (assign("lr", 0.1), HyperparameterError, ["was not given to the constructor", "lr=<number>"]),
    "lr assigned out of range": (assign("lr", -0.1), HyperparameterError, [r"optimizer\.Adam\.lr", "out of range"]),
    "step without lr": (
        lambda opt: opt.step([W, B]), MissingInputError,
        ["there is no learning rate", r"lr=0\.1\)", r"opt\(lr, grads\)"]),
    "minimize without lr": (
        lambda opt: opt.minimize(lambda: opt.train_vars["b"] * 2.0), MissingInputError, ["there is no learning rate"]),
    "minimize a vector": (
        lambda opt: opt.minimize(lambda: 2.0 * opt.train_vars["w"].value, lr=0.1), StructureError,
        ["not a real scalar", r"float32\[3\]", "mean"]),
    "minimize with a wrong name": (
        lambda opt: opt.minimize(lambda: opt.train_vars["b"] * 2.0, lr=0.1, beta3=0.9), HyperparameterError,
        ["'beta3'"]),
}  # fmt: skip


def make():
    """Return the parameters and an optimizer that has taken a step."""
    vc = two_params()
    opt = optimizer.Adam(vc, dynamic=("beta2",))
    opt(0.1, two_grads())
    return vc, opt


def next_step():
    """Return the bits after an undisturbed second step."""
    vc, opt = make()
    opt(0.1, two_grads())
    return bits(vc, opt.vars())


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_raises_its_error_and_changes_nothing(fault, compiled):
    act, error, says = FAULTS[fault]
    vc, opt = make()
    rule = opt.rule
    act_there = Jit(lambda: act(opt), vc + opt.vars()) if compiled else lambda: act(opt)
    with unchanged(vc, opt.vars()), pytest.raises(error) as caught:
        act_there()
    text = str(caught.value)
    for pattern in says:
        assert re.search(pattern, text), f"{pattern!r} is not in\n{text}"
    assert isinstance(caught.value, OptimkitError)
    assert isinstance(caught.value, ValueError | TypeError)
    assert opt.rule == rule
    opt.beta1 = 0.9  # a program that failed to compile has no constants
    opt(0.1, two_grads())
    assert bits(vc, opt.vars()) == next_step()


@pytest.mark.parametrize("fault", FAULTS)
def test_messages_have_the_one_shape(fault):
    act, error, _ = FAULTS[fault]
    _, opt = make()
    with pytest.raises(error) as caught:
        act(opt)
    lines = str(caught.value).split("\n")
    assert re.match(r"[\w.<>()\[\], ]+: \S", lines[0])
    expected = [i for i, line in enumerate(lines) if line.startswith("  expected ")]
    got = [i for i, line in enumerate(lines) if line.startswith("  got      ")]
    assert got == [i + 1 for i in expected]


# --- construction -----------------------------------------------------------------------------------------------------


def variables(**tensors):
    return VarCollection((name, TrainVar(x)) for name, x in tensors.items())


def adam(**kwargs):
    return lambda: optimizer.Adam(two_params(), **kwargs)


CONSTRUCTION = {
    "integers": (
        lambda: optimizer.Adam(variables(good=jnp.ones(2), steps=jnp.ones(2, jnp.int32))), DTypeError,
        [r"optimizer\.Adam: the parameter 'steps'", r"int32\[2\]", "StateVar"]),
    "booleans": (lambda: optimizer.Adam(variables(mask=jnp.ones(2, bool))), DTypeError, ["'mask'", r"bool\[2\]"]),
    "complex": (lambda: optimizer.Adam(variables(z=jnp.ones(2, complex))), DTypeError, ["'z'", "real and imaginary"]),
    "a random key": (lambda: optimizer.Adam(variables(k=jax.random.PRNGKey(0))), DTypeError, ["'k'", "uint32"]),
    "no variables": (lambda: optimizer.Adam(VarCollection()), StructureError, ["nothing to optimize"]),
    "no parameters": (
        lambda: optimizer.Adam(VarCollection({"n": StateVar(1.0)})), StructureError, ["nothing to optimize"]),
    "references only": (
        lambda: optimizer.Adam(VarCollection({"r": TrainRef(TrainVar(jnp.ones(1)))})), StructureError, ["nothing"]),
    "a module": (lambda: optimizer.Adam(Net()), StructureError, ["VarCollection", "Net", r"Adam\(model\.vars\(\)"]),
    "a dict": (lambda: optimizer.SGD({"w": TrainVar(jnp.ones(1))}), StructureError, ["VarCollection", "dict"]),
    "a class for a rule": (
        lambda: Optimizer(two_params(), rules.Adam), CompositionError, ["the class Adam", r"Adam\(\)"]),
    "no rule": (lambda: Optimizer(two_params()), CompositionError, ["not a rule"]),
    "an optimizer for a rule": (
        lambda: Optimizer(two_params(), optimizer.SGD(two_params())), CompositionError, ["not a rule"]),
    "beta1 out of range": (adam(beta1=1.0), HyperparameterError, ["Adam: hyperparameter 'beta1'", r"\[0, 1\)"]),
    "beta1 is NaN": (adam(beta1=NAN), HyperparameterError, ["'beta1'", "nan"]),
    "beta1 is a bool": (adam(beta1=True), HyperparameterError, ["'beta1'", "True"]),
    "eps negative": (adam(eps=-1e-8), HyperparameterError, ["'eps'"]),
    "unknown name": (adam(beta3=0.9), HyperparameterError, ["'beta3'", "'beta1', 'beta2', 'eps'"]),
    "unknown name beside a rule": (
        lambda: Optimizer(two_params(), rules.Adam(), beta1=0.8), HyperparameterError,
        ["'beta1'", r"rules\.Adam\(beta1="]),
    "nesterov is a number": (
        lambda: optimizer.Momentum(two_params(), 0.9, 1), HyperparameterError, ["'nesterov'", "True or False"]),
    "lr negative": (adam(lr=-0.1), HyperparameterError, [r"optimizer\.Adam: the learning rate is out of range"]),
    "lr NaN": (adam(lr=NAN), HyperparameterError, ["learning rate", "nan"]),
    "lr of shape (1,)": (adam(lr=np.ones(1)), HyperparameterError, ["not a scalar"]),
    "dynamic unknown": (adam(dynamic=("beta3",)), HyperparameterError, ["'beta3'", "'beta1'"]),
    "dynamic without a value": (adam(dynamic="slot_dtype"), HyperparameterError, ["'slot_dtype' cannot be dynamic"]),
    "dynamic but no number": (
        lambda: optimizer.Momentum(two_params(), dynamic=("nesterov",)), HyperparameterError,
        ["'nesterov' cannot be dynamic", "False"]),
    "dynamic but not unique": (
        lambda: Optimizer(two_params(), rules.Chain(rules.Momentum(), rules.Momentum()), dynamic="momentum"),
        HyperparameterError, ["'momentum' is not unique"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", CONSTRUCTION)
def test_a_faulty_construction_raises_its_error(fault):
    act, error, says = CONSTRUCTION[fault]
    with pytest.raises(error) as caught:
        act()
    for pattern in says:
        assert re.search(pattern, str(caught.value)), f"{pattern!r} is not in\n{caught.value}"


@pytest.mark.parametrize(
    ("value", "says"),
    [(-1.0, "out of"), (NAN, "out of"), (np.ones(1), "not a scalar"), ("0.1", "not a number"), (None, "None")],
)
def test_a_schedule_that_gives_no_learning_rate_is_refused_when_it_does(value, says):
    vc = two_params()
    opt = optimizer.Adam(vc, lr=lambda t: value)
    with unchanged(vc, opt.vars()), pytest.raises(HyperparameterError, match=says):
        opt.step(two_grads())


def test_values_that_are_known_only_at_run_time_pass_and_are_not_checked():
    """A tracer has no value yet: with a negative learning rate the step climbs, as arithmetic says."""
    vc = two_params()
    opt = optimizer.SGD(vc)
    Jit(lambda lr, grads: opt(lr, grads), vc + opt.vars())(-1.0, two_grads())
    assert vc["b"].value == 1.0
