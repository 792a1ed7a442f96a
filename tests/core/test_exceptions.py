"""An exception anywhere in a step, eager or traced, leaves every variable as it was, and the step works afterwards."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import (
    GradValues,
    Hessian,
    Jacobian,
    Jit,
    Module,
    RandomState,
    Scan,
    StateVar,
    TrainRef,
    TrainVar,
    Vectorize,
)
from optimkit.core import collection
from optimkit.errors import StructureError, TraceMutationError, VariableError
from tests.shell import bits, unchanged

X = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
STAGES = ["start", "read", "draw", "write", "write_ref", "gradients", "scan", "vectorize", "jit", "end"]


class StopError(Exception):
    """What the step raises."""


class Step(Module):
    """A step with every kind of variable and of inner transform, which can stop at each stage."""

    def __init__(self):
        self.w, self.mean, self.key = TrainVar(jnp.array([1.0, 2.0])), StateVar(jnp.zeros(2)), RandomState(0)
        self.ref = TrainRef(self.w)
        self.stop: tuple = (None, None)

    def at(self, stage):
        if self.stop[0] == stage:
            raise self.stop[1]

    def inner(self, stage):
        def f(x):
            self.mean.value = self.mean + x
            self.at(stage)
            return jnp.sum(self.w * x)

        return f

    def __call__(self, x):
        vc = self.vars()
        self.at("start")
        y = self.w * x
        self.at("read")
        y = y * jax.random.uniform(self.key.split(1)[0], (2,))
        self.at("draw")
        self.mean.value = 0.5 * self.mean + 0.5 * y
        self.at("write")
        self.ref.value = self.ref - 0.1 * y
        self.at("write_ref")
        grads, values = GradValues(self.inner("gradients"), vc)(y)
        Scan(self.inner("scan"), vc)(y[None])
        Vectorize(self.inner("vectorize"), vc)(y[None])
        Jit(self.inner("jit"), vc)(y)
        self.ref.value = self.ref - 0.1 * grads[0]
        self.at("end")
        return values[0]


TRANSFORMS = {
    "jit": (Jit, X[0]),
    "donated_jit": (lambda f: Jit(f, donate=True), X[0]),
    "gradients": (lambda f: GradValues(f, f.vars()), X[0]),
    "jacobian": (lambda f: Jacobian(f, f.vars()), X[0]),
    "hessian": (lambda f: Hessian(f, f.vars()), X[0]),
    "scan": (Scan, X),
    "donated_scan": (lambda f: Scan(f, donate=True), X),
    "vectorize": (Vectorize, X),
    "jit_of_gradients": (lambda f: Jit(GradValues(f, f.vars())), X[0]),
    "jit_of_jit": (lambda f: Jit(Jit(f)), X[0]),
    "scan_of_gradients": (lambda f: Scan(GradValues(f, f.vars())), X),
    "jit_of_vectorize": (lambda f: Jit(Vectorize(f)), X),
}


@pytest.mark.parametrize("name", TRANSFORMS.keys())
def test_a_step_that_stops_at_any_stage_changes_nothing(name):
    make, x = TRANSFORMS[name]
    step = Step()
    transform = make(step)
    for stage in STAGES:
        error = KeyboardInterrupt if stage in ("write", "jit") else StopError
        step.stop = (stage, error())
        with unchanged(step.vars()), pytest.raises(error):
            transform(x)


@pytest.mark.parametrize("name", ["jit", "donated_jit", "jit_of_gradients", "scan", "vectorize"])
def test_after_a_step_that_stopped_the_next_one_is_as_if_nothing_had_been(name):
    make, x = TRANSFORMS[name]
    tried, fresh = Step(), Step()
    transform = make(tried)
    for stage in ("read", "end"):
        tried.stop = (stage, StopError())
        with pytest.raises(StopError):
            transform(x)
    tried.stop = (None, None)
    transform(x)
    make(fresh)(x)
    assert bits(tried.vars()) == bits(fresh.vars())


@pytest.mark.parametrize("name", ["jit", "gradients", "scan", "vectorize"])
def test_an_error_of_a_write_changes_nothing_though_others_came_before(name):
    make, x = TRANSFORMS[name]
    step = Step()
    step.at = lambda stage: step.mean.assign(jnp.zeros(3)) if stage == "end" else None
    with unchanged(step.vars()), pytest.raises(StructureError, match=r"'\(Step\).mean' has another shape"):
        make(step)(x)


@pytest.mark.parametrize("name", ["jit", "gradients", "hessian", "scan", "vectorize"])
def test_a_write_to_a_variable_that_is_not_listed_changes_nothing_though_others_came_before(name):
    make, x = TRANSFORMS[name]
    step, other = Step(), StateVar(jnp.zeros(2))
    step.at = lambda stage: other.assign(jnp.zeros(2) + step.w) if stage == "end" else None
    with unchanged(step.vars()), pytest.raises(TraceMutationError, match="'StateVar' is written"):
        make(step)(x)
    assert other.value.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("donate", [False, True])
def test_a_program_that_fails_while_it_runs_changes_nothing_unless_it_was_given_the_memory(donate):
    step = Step()
    jit = Jit(step, donate=donate)

    def fail(tensors, *args):
        # What XLA does with a program that was given its arguments' memory and fails.
        for x in tensors if donate else []:
            x.delete()
        raise RuntimeError("out of memory")

    jit._call = fail
    if donate:
        with pytest.raises(VariableError, match=r"(?s)'\(Step\).w' has been deleted.*a program that failed"):
            jit(X[0])
        step.w.assign(jnp.zeros(2))
        assert step.w.value.tolist() == [0.0, 0.0]
    else:
        with unchanged(step.vars()), pytest.raises(RuntimeError, match="out of memory"):
            jit(X[0])


@pytest.mark.parametrize("name", ["jit", "donated_jit", "gradients", "scan"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_interrupt_while_the_results_are_stored_leaves_the_whole_new_state(monkeypatch, name, at):
    make, x = TRANSFORMS[name]
    interrupted, whole = Step(), Step()
    transform = make(interrupted)

    class Interrupting:
        """A buffer like the variable's own, whose next write is interrupted."""

        def __init__(self, buffer):
            object.__setattr__(self, "buffer", buffer)
            object.__setattr__(self, "armed", True)

        def __getattr__(self, name):
            return getattr(self.buffer, name)

        def __setattr__(self, name, value):
            if self.armed:
                object.__setattr__(self, "armed", False)
                raise KeyboardInterrupt
            setattr(self.buffer, name, value)

    def store(buffers, values, original=collection.store):
        buffers = list(buffers)
        if not any(isinstance(v, jax.core.Tracer) for v in values):
            buffers[at] = Interrupting(buffers[at])
        original(buffers, values)

    monkeypatch.setattr("optimkit.core.transform.store", store)
    with pytest.raises(KeyboardInterrupt):
        transform(x)
    monkeypatch.undo()
    make(whole)(x)
    assert bits(interrupted.vars()) == bits(whole.vars())
