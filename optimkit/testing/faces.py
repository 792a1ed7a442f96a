"""Checks of the stateful face: it does what the functional one does, and a failed step changes nothing."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.core import Jit, TrainVar, VarCollection
from optimkit.errors import ConformanceError, OptimkitError, message
from optimkit.hyper import hyperparameters
from optimkit.optimizer import Optimizer
from optimkit.pure import pure
from optimkit.rules import lookup
from optimkit.rules.base import Rule, Tree
from optimkit.rules.naming import name_state
from optimkit.testing import domains, runner, streams
from optimkit.testing.check import check, ours, where
from optimkit.testing.compare import Flat, require_close, require_identical, rounding
from optimkit.testing.runner import LR, as_numpy, flat, restored, run

STEPS = 4


def bound(rule: Rule, params: Flat) -> tuple[VarCollection, Optimizer]:
    """Return variables made from parameters, in the opposite order, and an optimizer of them."""
    model = VarCollection((name, TrainVar(jnp.array(params[name]))) for name in reversed(params))
    return model, Optimizer(model, rule)


def step(opt: Optimizer, rule: Rule, lr: Any, grads: Tree, t: Any = 1) -> None:
    """Let an optimizer take a step, with the inputs that its rule needs."""
    params = {name: ref.value for name, ref in opt.train_vars.items()}
    opt(lr, grads, **runner.inputs(rule, grads, params, t))


def bits(model: VarCollection, opt: Optimizer) -> Flat:
    """Return the values of all variables by name."""
    return {name: np.asarray(v.value) for name, v in (model + opt.vars()).unique().items()}


@check(only=ours)
def check_stateful_equals_functional(rule: Rule, *, params: Tree = None) -> None:
    """The stateful face, its variables listed in the opposite order, gives the same bits as the functional one."""
    here = where(check_stateful_equals_functional, rule)
    values = flat(streams.parameters(params))
    stream = [streams.arrays(g, jnp.float32) for g in streams.gradients(values, STEPS)]
    now = streams.arrays(values)
    state = pure(rule, LR).init(now)
    model, opt = bound(rule, values)
    stateful = Jit(lambda lr, grads, t: step(opt, rule, lr, grads, t), model + opt.vars())
    for t, grads in enumerate(stream, start=1):
        # The learning rate is data on both sides: a constant would be folded into other constants, and round otherwise.
        state, now = runner.applied(rule, grads, state, now, jnp.float32(LR), t)
        stateful(LR, grads, t)
        got = {name: np.asarray(model[name].value) for name in values}
        require_identical(here, got, {name: flat(now)[name] for name in values}, f"parameters at step {t}")
        own_names, leaves, _ = name_state(list(values), state)
        names = list(map(str, own_names))
        own = {name: np.asarray(opt.vars()[f"({type(opt).__name__}){name}"].value) for name in names}
        require_identical(here, own, dict(zip(names, map(np.asarray, leaves), strict=True)), f"state at step {t}")


@check
def check_names_and_order_do_not_matter(rule: Rule, *, params: Tree = None) -> None:
    """Parameters under other names, which sort in the opposite order, are stepped as before, but for rounding.

    New names end as the old ones do, for the sake of rules that look for words in them.
    """
    here = where(check_names_and_order_do_not_matter, rule)
    values = flat(streams.parameters(params))
    other = {name: f"{chr(ord('z') - i % 26)}.{name}" for i, name in enumerate(sorted(values))}
    grads = streams.gradients(values, STEPS)
    renamed = [{other[name]: g for name, g in tree.items()} for tree in grads]
    first = run(rule, values, grads, update=runner.eager)
    second = run(rule, {other[name]: p for name, p in values.items()}, renamed, update=runner.eager)
    back = [{name: x[other[name]] for name in values} for x in second.params]
    require_close(here, back, first.params, first.start, rounding(STEPS), "parameters under other names")


@check(only=ours)
def check_failed_steps_change_nothing(rule: Rule, *, params: Tree = None) -> None:
    """A step that is refused raises an OptimkitError and leaves every variable as it was, to the last bit."""
    here = where(check_failed_steps_change_nothing, rule)
    values = flat(streams.parameters(params))
    good = streams.arrays(streams.gradients(values, 1)[0], jnp.float32)
    model, opt = bound(rule, values)
    step(opt, rule, LR, good)
    before = bits(model, opt)
    for what, wrong in _wrong_steps(rule, opt, good).items():
        try:
            wrong()
        except OptimkitError:
            pass
        else:
            raise ConformanceError(message(here, f"a step with {what} is accepted.", "an OptimkitError", "no error"))
        require_identical(here, bits(model, opt), before, f"variables after a step with {what}")


def _wrong_steps(rule: Rule, opt: Optimizer, good: dict[str, Any]) -> dict[str, Callable[[], None]]:
    """Return calls that must fail, by what is wrong with them. The last parameter's gradient is the wrong one."""
    names = list(opt.train_vars.keys())
    ordered, last = [good[name] for name in names], names[-1]
    extra = runner.inputs(rule, good, good)

    def call(lr: Any = LR, grads: Any = good, **overrides: Any) -> Callable[[], None]:
        return lambda: opt(lr, grads, **extra, **overrides)

    def but(g: Any) -> Callable[[], None]:
        return call(grads=good | {last: g})

    wrong = {
        "one gradient missing": call(grads=ordered[:-1]),
        "one gradient too many": call(grads=[*ordered, ordered[0]]),
        "an unknown name": call(grads=good | {"no such parameter": ordered[0]}),
        "no gradients at all": call(grads=None),
        "a gradient that is None": but(None),
        "a gradient of another shape": but(jnp.zeros((*jnp.shape(good[last]), 2))),
        "integer gradients": but(jnp.zeros(jnp.shape(good[last]), jnp.int32)),
        "lr = NaN": call(lr=math.nan),
        "lr = -1": call(lr=-1.0),
        "lr an array": call(lr=jnp.ones(2)),
        "an unknown hyperparameter": call(no_such_hyperparameter=0.5),
    }
    if any(jnp.ndim(g) for g in ordered):
        name = next(n for n in reversed(names) if jnp.ndim(good[n]))
        wrong["a scalar gradient"] = call(grads=good | {name: jnp.float32(1.0)})
    for name, (path, field) in {n: lookup.find("", rule, n) for n in lookup.names_of(rule) if n.isidentifier()}.items():
        declared = hyperparameters(lookup.at(rule, path))[field]
        bad = [x for x in domains.outside(declared.metadata["domain"]) if x is not None][-1]
        wrong[f"{name} = {bad!r}"] = call(**{name: bad})
    for need in rule.needs:
        wrong[f"no {need}"] = lambda need=need: opt(LR, good, **{k: v for k, v in extra.items() if k != need})  # type: ignore[misc]
    return wrong


@check(only=ours)
def check_copies_continue(rule: Rule, *, params: Tree = None) -> None:
    """Copies of rule and optimizer, by deepcopy and by pickle, continue to the last bit, and are independent."""
    here = where(check_copies_continue, rule)
    values = flat(streams.parameters(params))
    stream = [streams.arrays(g, jnp.float32) for g in streams.gradients(values, 2)]
    ways: dict[str, Callable[[Any], Any]] = {
        "deepcopy": copy.deepcopy,
        "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    }
    original = model, opt = bound(rule, values)
    step(opt, rule, LR, stream[0])
    middle = bits(model, opt)
    copies = {}
    for name, way in ways.items():
        if way(rule) != rule:
            raise ConformanceError(message(here, f"the rule is another one after {name}.", rule, way(rule)))
        copies[name] = way(original)
        step(copies[name][1], rule, LR, stream[1])
        require_identical(here, bits(model, opt), middle, f"the original after a step of its copy by {name}")
    step(opt, rule, LR, stream[1])
    for name, pair in copies.items():
        require_identical(here, bits(*pair), bits(model, opt), f"variables of the copy by {name}")


@check
def check_saved_states_continue(rule: Rule, *, params: Tree = None) -> None:
    """A state that went through NumPy arrays, as it does when it is saved, continues to the last bit."""
    here = where(check_saved_states_continue, rule)
    params = flat(streams.parameters(params))
    grads = streams.gradients(params, 2 * STEPS)
    straight, half = (run(rule, params, stream, update=runner.eager) for stream in (grads, grads[:STEPS]))
    state = jax.tree.map(lambda x: restored(as_numpy(x), x), half.state)
    rest = run(rule, flat(half.last), grads[STEPS:], state=state, after=STEPS, update=runner.eager)
    require_identical(here, rest.params[-1], straight.params[-1], f"parameters {STEPS} steps after saving")
    require_identical(here, rest.states[-1], straight.states[-1], f"state {STEPS} steps after saving")
