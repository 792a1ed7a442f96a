"""Checks of what a step is given: keys, losses, learning rates and arrays of every kind, shared weights, more inputs.

And of what it is asked for besides steps, the parameters to evaluate at.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.core import TrainRef, VarCollection
from optimkit.errors import CompositionError, ConformanceError, describe, message
from optimkit.optimizer import Optimizer
from optimkit.rules import lookup
from optimkit.rules.base import Rule, Step, Tree
from optimkit.testing import faces, runner, streams
from optimkit.testing.check import check, ours, where
from optimkit.testing.compare import Flat, require_close, require_finite, require_identical, rounding
from optimkit.testing.form import left_alone
from optimkit.testing.runner import LR, flat, run
from optimkit.tree import names_and_leaves

STEPS = 3


def needing(name: str) -> Callable[[Rule], str]:
    """Return the condition of checks of an input: why one has nothing to say about a rule that does not take it."""
    return lambda rule: "" if name in rule.needs else f"it does not need {name!r}"


# --- keys and losses --------------------------------------------------------------------------------------------------


@check(only=needing("key"))
def check_keys_matter(rule: Rule, *, params: Tree = None) -> None:
    """With other keys a rule that needs one steps otherwise, and with the same keys as before, to the last bit."""
    here = where(check_keys_matter, rule)
    params = streams.parameters(params)
    grads = streams.gradients(params, STEPS)
    # Keys are made from the number of the step.
    first, again, other = (run(rule, params, grads, update=runner.eager, after=n) for n in (0, 0, 1000))
    for t in range(STEPS):
        require_identical(here, again.deltas[t], first.deltas[t], f"displacements at step {t + 1} with the same keys")
    if all(x.tobytes() == other.deltas[t][name].tobytes() for t in range(STEPS) for name, x in first.deltas[t].items()):
        raise ConformanceError(message(
            here, f"{STEPS} steps with other keys are the same.", "other displacements", "the same to the last bit",
            "Draw from step.key, not from a key of your own."))  # fmt: skip


@check(only=needing("value"))
def check_inputs_may_be_numbers(rule: Rule, *, params: Tree = None) -> None:
    """A loss given as a Python number, a NumPy scalar or a 0-d array gives the same step, to the last bit."""
    here = where(check_inputs_may_be_numbers, rule)
    params = streams.arrays(streams.parameters(params))
    grads = streams.arrays(streams.gradients(params, 1)[0], jnp.float32)
    given = runner.inputs(rule, grads, params)

    def step(value: Any) -> tuple[Any, Any]:
        with jax.disable_jit():
            delta, state = rule.update(
                Step(grads, params, jnp.float32(LR), **{**given, "value": value}), rule.init(params)
            )
        return flat(delta), flat(state)

    delta, state = step(given["value"])
    one = float(given["value"])
    for value in (one, np.float32(one), np.float64(one), np.asarray(one, np.float32), np.asarray(one)):
        shown = f"a loss of {value!r}, {type(value).__name__},"
        try:
            got = step(value)
        except Exception as error:
            raise ConformanceError(message(here, f"{shown} is not accepted.", "what an array gives",
                                           f"{type(error).__name__}: {error}",
                                           "Make it an array first: jnp.asarray(step.value).")) from error  # fmt: skip
        require_identical(here, got[0], delta, f"displacements for {shown} in place of an array")
        require_identical(here, got[1], state, f"state for {shown} in place of an array")


# --- learning rates and arrays of every kind --------------------------------------------------------------------------

RATE = 2  # a number that all kinds hold exactly, integers too


@check
def check_learning_rates_of_every_kind(rule: Rule, *, params: Tree = None) -> None:
    """The same learning rate as a Python, NumPy or JAX number of any dtype gives the same bits, in the same dtypes.

    By the functional face, for float32 and bfloat16 parameters.
    """
    here = where(check_learning_rates_of_every_kind, rule)
    kinds: dict[str, Any] = {
        "a Python float": float(RATE),
        "a Python int": RATE,
        "a NumPy float32": np.float32(RATE),
        "a NumPy float64": np.float64(RATE),
        "a 0-d NumPy array": np.asarray(RATE, np.float32),
        "a JAX float32": jnp.float32(RATE),
        "a JAX bfloat16": jnp.bfloat16(RATE),
    }
    for dtype in ("float32", "bfloat16"):
        now = streams.arrays(streams.parameters(params), dtype)
        grads = streams.arrays(streams.gradients(now, 1)[0], dtype)
        first: list[Any] = []
        for kind, lr in kinds.items():
            results = [flat(tree) for tree in _applied(rule, grads, runner.initial(rule, now), now, lr)]
            first = first or results
            for got, expected, what in zip(results, first, ("state", "parameters"), strict=True):
                require_identical(here, got, expected, f"{dtype} {what} after a step with lr = {RATE}, {kind}")


def _applied(rule: Rule, grads: Tree, state: Tree, params: Tree, lr: Any = LR, t: Any = 1) -> tuple[Tree, Tree]:
    """Do as ``runner.functional`` operation by operation, so that a rule meets what it is given, and no tracers."""
    with jax.disable_jit():
        return runner.functional(rule, grads, state, params, lr, t)


@check
def check_numpy_inputs(rule: Rule, *, params: Tree = None) -> None:
    """NumPy parameters and gradients of any layout give what JAX arrays give, and are neither written nor kept.

    Layouts are read-only, Fortran-ordered, and with gaps between elements. What is done to the arrays after a step
    changes nothing in state and parameters that it returned.
    """
    here = where(check_numpy_inputs, rule)
    params = streams.parameters(params)
    grads = streams.gradients(params, 2)
    expected = _two_steps(rule, params, grads, streams.arrays)
    for what, layout in LAYOUTS.items():
        results = _two_steps(rule, params, grads, functools.partial(jax.tree.map, layout), here, what)
        moved, start = [moved for _, moved in results], flat(params)
        require_close(here, moved, [p for _, p in expected], start, rounding(2), f"parameters from {what} NumPy arrays")
        for (got, _), (state, _) in zip(results, expected, strict=True):
            if (forms := {n: describe(x) for n, x in got.items()}) != {n: describe(x) for n, x in state.items()}:
                raise ConformanceError(message(here, f"{what} NumPy arrays give a state of another form.",
                                               {n: describe(x) for n, x in state.items()}, forms))  # fmt: skip


def _two_steps(rule: Rule, params: Tree, grads: list[Tree], layout: Any, here: str = "", what: str = "") -> Any:
    """Return state and parameters after each of two steps; the first is from arrays that are laid out otherwise."""
    given = {"parameters": layout(_floats(params)), "gradients": layout(_floats(grads[0]))}
    before = {name: {n: x.tobytes() for n, x in flat(tree).items()} for name, tree in given.items()}
    state, now = _applied(rule, given["gradients"], runner.initial(rule, given["parameters"]), given["parameters"])
    jax.block_until_ready((state, now))
    results = [tuple({n: x.copy() for n, x in flat(tree).items()} for tree in (state, now))]
    for name, tree in given.items():
        for n, x in flat(tree).items():
            if x.tobytes() != before[name][n]:
                raise ConformanceError(message(here, f"a step writes into the {name}, {what} NumPy arrays, at {n!r}.",
                                               "arrays as they were", x, "Return new arrays."))  # fmt: skip
    for leaf in jax.tree.leaves(given):
        if isinstance(leaf, np.ndarray) and leaf.flags.writeable:
            leaf[...] = -7.0
    for tree, copies, kind in zip((state, now), results[0], ("state", "parameters"), strict=True):
        for n, x in flat(tree).items():
            if x.tobytes() != copies[n].tobytes():
                raise ConformanceError(message(
                    here, f"the {kind} {n!r} changes when the caller's NumPy arrays do, {what} ones.", copies[n], x,
                    "Copy what is kept: jnp.array(p, copy=True)."))  # fmt: skip
    state, now = _applied(rule, streams.arrays(grads[1], jnp.float32), state, now, t=2)
    return [*results, (flat(state), flat(now))]


def _floats(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)


def _aligned(x: np.ndarray) -> np.ndarray:
    """Return a copy where JAX would use the memory itself for an array: at a multiple of 64 bytes."""
    memory = np.empty(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    result = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    result[...] = x
    return result


def _read_only(x: np.ndarray) -> np.ndarray:
    result = _aligned(x)
    result.flags.writeable = False
    return result


def _with_gaps(x: np.ndarray) -> np.ndarray:
    result = np.full((*x.shape, 2), np.nan, x.dtype)[..., 0]
    result[...] = x
    return result


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ordinary": _aligned,
    "read-only": _read_only,
    "Fortran-ordered": lambda x: np.array(x, order="F"),
    "non-contiguous": _with_gaps,
}


# --- further inputs, handed on ----------------------------------------------------------------------------------------

INPUTS = tuple(f.name for f in dataclasses.fields(Step))[3:]  # all but gradients, parameters and learning rate


class Seen:
    """The inputs that a probe was called with, of which there may be many."""

    def __init__(self) -> None:
        self.steps: list[Step] = []


class Probe(Rule):
    """Gradient descent that needs some inputs, and keeps the steps that it was given."""

    seen: Any
    needs: tuple[str, ...]  # type: ignore[misc]

    def init(self, params: Tree) -> Tree:
        return {}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        self.seen.steps.append(step)
        return jax.tree.map(lambda g: -step.lr * g, step.grads), state


def holding(rule: Rule) -> str:
    """Return why a check of containers and wrappers has nothing to say: the rule holds no other."""
    return ours(rule) or ("" if len(list(lookup.walk(rule))) > 1 else "it holds no other rule")


@check(only=holding)
def check_extra_inputs_are_forwarded(rule: Rule, *, params: Tree = None) -> None:
    """A rule that holds others needs what they need, and hands it on to each of them.

    Each rule inside is replaced in turn by a probe that needs an input, and looks whether it comes. Where the outer
    rule refuses a rule with such a need, by a CompositionError, nothing has to come.
    """
    here = where(check_extra_inputs_are_forwarded, rule)
    params = streams.arrays(streams.parameters(params))
    paths = [path for path, _ in lookup.walk(rule)]
    for path in paths[1:]:
        if any(len(other) > len(path) and other[: len(path)] == path for other in paths):
            continue  # what is inside it is looked at instead
        for name in INPUTS:
            _require_forwarded(here, rule, path, name, params)


def _require_forwarded(here: str, rule: Rule, path: lookup.Path, name: str, params: Tree) -> None:
    seen = Seen()
    place = ".".join(field if i is None else f"{field}[{i}]" for field, i in path)
    try:
        probed = _with_rule(rule, path, Probe(needs=(name,), seen=seen))
    except CompositionError:
        return
    if name not in probed.needs:
        raise ConformanceError(message(here, f"it does not need {name!r}, which the rule at {place} needs.",
                                       f"needs = {(name,)!r}", f"needs = {probed.needs!r}",
                                       "Return self.inner.needs, or the union of those of all rules, from needs."
                                       ))  # fmt: skip
    grads = jax.tree.map(jnp.ones_like, params)
    jax.eval_shape(lambda g, s, p: runner.stepped(probed, g, s, p, jnp.float32(LR)), grads, probed.init(params), params)
    missing = [step for step in seen.steps if getattr(step, name) is None]
    if missing or not seen.steps:
        got = f"{name}=None" if missing else "no call of it"
        raise ConformanceError(message(here, f"the rule at {place} is not given {name!r}.", f"{name}=...", got,
                                       "Hand the step on by step.replace(...), which keeps what it has."))  # fmt: skip


def _with_rule(rule: Rule, path: lookup.Path, part: Rule) -> Rule:
    """Return a rule with the rule at a path replaced."""
    *outer, (name, i) = path
    if i is None:
        return lookup.with_value(rule, tuple(outer), name, part)
    parts = getattr(lookup.at(rule, tuple(outer)), name)
    return lookup.with_value(rule, tuple(outer), name, (*parts[:i], part, *parts[i + 1 :]))


# --- shared weights ---------------------------------------------------------------------------------------------------


@check(only=ours)
def check_shared_weights(rule: Rule, *, params: Tree = None) -> None:
    """A variable under two names, or a variable and a reference to it, is updated once and remembered once."""
    here = where(check_shared_weights, rule)
    values = flat(streams.parameters(params))
    name = list(values)[-1]
    model, once = faces.bound(rule, values)
    expected = _steps_of(rule, once, model, values)
    again = f"again.{name}"
    ways: dict[str, Callable[[VarCollection], VarCollection]] = {
        f"{name!r} under two names": lambda model: model + {again: model[name]},
        f"a reference to {name!r}": lambda model: model + {again: TrainRef(model[name])},  # type: ignore[arg-type]
        f"a reference before {name!r}": lambda model: VarCollection({again: TrainRef(model[name])}) + model,  # type: ignore[arg-type]
    }
    for what, shared in ways.items():
        model = faces.bound(rule, values)[0]
        opt = Optimizer(shared(model), rule)
        if len(opt.vars().unique()) != len(once.vars().unique()):
            raise ConformanceError(message(here, f"with {what} there are other variables of the optimizer.",
                                           list(once.vars().keys()), list(opt.vars().keys())))  # fmt: skip
        for t, (got, right) in enumerate(zip(_steps_of(rule, opt, model, values), expected, strict=True), start=1):
            require_identical(here, {n: got[n] for n in right}, right, f"variables at step {t} with {what}")


def _steps_of(rule: Rule, opt: Optimizer, model: VarCollection, values: Flat) -> list[Flat]:
    """Return the values of all variables after each of two steps."""
    history = []
    for grads in streams.gradients(values, 2):
        faces.step(opt, rule, LR, streams.arrays(grads, jnp.float32))
        history.append(faces.bits(model, opt))
    return history


# --- parameters to evaluate at ----------------------------------------------------------------------------------------


@check
def check_eval_params(rule: Rule, *, params: Tree = None) -> None:
    """``eval_params`` gives finite parameters of the same form, under jit too, and leaves what it is given alone.

    Before the first step, and after some.
    """
    here = where(check_eval_params, rule)
    params = streams.arrays(streams.parameters(params))
    for t, state, now in _ways(rule, params):
        at = f"parameters to evaluate at after {t} steps"
        with left_alone(here, "eval_params", params=now, state=state), jax.disable_jit():
            evaluated = rule.eval_params(state, now)
        got, expected = flat(evaluated), flat(now)
        forms, right = ({n: describe(x) for n, x in tree.items()} for tree in (got, expected))
        if names_and_leaves(evaluated)[2] != names_and_leaves(now)[2] or forms != right:
            raise ConformanceError(message(here, f"{at} have another form.", right, forms))
        require_finite(here, got, at)
        compiled = flat(jax.jit(rule.eval_params)(state, now))
        require_close(here, [compiled], [got], expected, rounding(1), f"{at} under jit")


def _ways(rule: Rule, params: Tree) -> Iterator[tuple[int, Tree, Tree]]:
    """Yield state and parameters before the first step, and after some."""
    yield 0, rule.init(params), params
    result = run(rule, params, streams.gradients(params, STEPS), update=runner.eager)
    yield STEPS, result.state, result.last
