"""Checks of stateful optimizers that take their steps themselves: a class with ``__call__(lr, grads)`` and variables.

The other checks see such a class through its variables only. These see the object: what it remembers elsewhere, in
attributes of Python, is a constant of compiled programs and absent from checkpoints.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from optimkit.core import Jit, VarCollection
from optimkit.errors import ConformanceError, message
from optimkit.rules.base import Rule, Tree
from optimkit.testing import runner, streams
from optimkit.testing.check import check, where
from optimkit.testing.compare import Flat, require_close, require_identical, rounding
from optimkit.testing.runner import LR, flat, run
from optimkit.testing.subjects import Imperative

STEPS = 4


def _imperative(rule: Rule) -> str:
    return "" if isinstance(rule, Imperative) else "it is not a class that takes its steps itself"


def _listed(grads: Tree) -> list[jnp.ndarray]:
    """Return gradients as such classes take them: float32 arrays, in the order of their names."""
    return [jnp.asarray(g, jnp.float32) for g in flat(grads).values()]


def _values(variables: VarCollection) -> Flat:
    return {name: np.asarray(v.value) for name, v in variables.items()}


@check(only=_imperative)
def check_memory_is_in_variables(rule: Imperative, *, params: Tree = None) -> None:
    """Steps of one object equal those of new objects that are given its variables: there is no other memory."""
    here = where(check_memory_is_in_variables, rule)
    params = streams.parameters(params)
    grads = streams.gradients(params, STEPS)
    functional = run(rule, params, grads, update=runner.eager)
    model, opt, _ = rule.made(params)
    got: list[Flat] = []
    for g in grads:
        opt(jnp.float32(LR), _listed(g))
        got.append(_values(model))
    require_close(here, got, functional.params, functional.start, rounding(STEPS),
                  "parameters of an object that is kept and of objects with its variables")  # fmt: skip


@check(only=_imperative)
def check_it_compiles_once(rule: Imperative, *, params: Tree = None) -> None:
    """Under ``optimkit.Jit`` the object does what it does eagerly, and is traced once for all learning rates."""
    here = where(check_it_compiles_once, rule)
    params = streams.parameters(params)
    model, opt, _ = rule.made(params)
    eager_model, eager, _ = rule.made(params)
    traces = 0

    def step(lr: object, grads: list[object]) -> None:
        nonlocal traces
        traces += 1
        opt(lr, grads)

    jit = Jit(step, model + opt.vars())
    start, got, expected = _values(model), [], []
    for t, g in enumerate(streams.gradients(params, STEPS), start=1):
        arrays = _listed(g)
        jit(LR / t, arrays)
        eager(LR / t, arrays)
        got.append(_values(model))
        expected.append(_values(eager_model))
    require_close(here, got, expected, start, rounding(STEPS), "parameters under Jit")
    if traces != 1:
        raise ConformanceError(message(here, f"the step is traced {traces} times in {STEPS} steps.", 1, traces,
                                       "Nothing may depend on the value of lr in Python."))  # fmt: skip


@check(only=_imperative)
def check_refused_steps_change_nothing(rule: Imperative, *, params: Tree = None) -> None:
    """A step that raises leaves every variable as it was, to the last bit: those before the culprit, too."""
    here = where(check_refused_steps_change_nothing, rule)
    params = streams.parameters(params)
    model, opt, own = rule.made(params)
    good = _listed(streams.gradients(params, 1)[0])
    opt(LR, good)
    variables = model + own
    before = _values(variables)
    for what, wrong in {"a gradient that is None": [*good[:-1], None], "one gradient missing": good[:-1],
                        "a gradient of another shape": [*good[:-1], jnp.ones((*good[-1].shape, 2))],
                        }.items():  # fmt: skip
        try:
            opt(LR, wrong)
        except Exception:  # noqa: BLE001  which one is for the optimizer to choose
            pass
        else:
            raise ConformanceError(message(here, f"a step with {what} is accepted.", "an error", "no error",
                                           "Compare all gradients with their parameters before writing one."
                                           ))  # fmt: skip
        now = _values(variables)
        require_identical(here, now, before, f"variables after a step with {what}")
