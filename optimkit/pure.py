"""The functional face: a rule and a learning rate as a pair of pure functions on any tree of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.errors import DTypeError, HyperparameterError, MissingInputError, StructureError, describe, message
from optimkit.hyper import check_lr, hyperparameters
from optimkit.rules import lookup
from optimkit.rules.base import Rule, Step, Tree, check_rule_type, displace
from optimkit.rules.following import check_real, check_values, scalar
from optimkit.tree import names_and_leaves


class Pure(NamedTuple):
    """``init(params) -> state`` and ``apply(grads, state, params, **inputs) -> (state, params)``."""

    init: Callable[[Tree], Tree]
    apply: Callable[..., tuple[Tree, Tree]]

    def advance_only(self, grads: Tree, state: Tree, params: Tree, **inputs: Any) -> Tree:
        """Return the state after a step whose displacement is thrown away: the rule has seen these gradients.

        With ``apply(..., advance=False)``, it parts a step in two, as federated algorithms do: clients move with the
        state that the server sent, and the server advances it once, with everybody's gradients (Mime, Karimireddy et
        al. 2020, arXiv:2008.03606).

        Example:
            >>> from optimkit import rules
            >>> momentum, params = pure(rules.Momentum(0.5), lr=0.1), {"w": jnp.zeros(1)}
            >>> state = momentum.advance_only({"w": jnp.ones(1)}, momentum.init(params), params)
            >>> unchanged, params = momentum.apply({"w": jnp.ones(1)}, state, params, advance=False)
            >>> params["w"], unchanged is state
            (Array([-0.15], dtype=float32), True)
        """
        return self.apply(grads, state, params, **inputs)[0]


def pure(rule: Rule, lr: Any, *, schedules: Mapping[str, Callable[[Any], Any]] | None = None) -> Pure:
    """Return a rule as two pure functions, in fedjax's order of arguments.

    ``init(params)`` returns the state; ``apply(grads, state, params)`` returns the next state and the new parameters.
    ``params`` is any tree of arrays. Both work under ``jit``, ``vmap``, ``scan`` and ``grad``; one pair serves many
    independent states.

    Args:
        rule: the algorithm.
        lr: the learning rate: a number, or a function of the step (from 0) such as a schedule.
        schedules: functions of the step for other hyperparameters, by name.

    With ``advance=False``, ``apply`` returns the state as it was; see also :meth:`Pure.advance_only`. It
    also takes what the rule needs (``value=``, ``grad_fn=``, ``value_and_grad_fn=``, ``key=``) and ``lr=`` in
    place of the one given here.

    Raises:
        HyperparameterError: the learning rate is negative, NaN or not a scalar; no hyperparameter has a name.
        StructureError: gradients do not fit the parameters (by ``apply``).
        DTypeError: parameters that are not of floating point.

    Example:
        >>> from optimkit import rules
        >>> init, apply = pure(rules.Momentum(0.9), lr=0.1)
        >>> params = {"w": jnp.array([1.0])}
        >>> state = init(params)
        >>> state, params = apply({"w": jnp.array([2.0])}, state, params)
        >>> params
        {'w': Array([0.8], dtype=float32)}
    """
    check_rule_type("pure", rule)
    if not callable(lr):
        check_lr("pure", lr)
    where = f"pure({type(rule).__name__})"
    followed = scheduled(where, rule, schedules)
    timed = callable(lr) or bool(followed)

    def init(params: Tree) -> Tree:
        check_params(where, *names_and_leaves(params)[:2], rule)
        state = rule.init(params)
        return {"clock": jnp.zeros((), jnp.int32), "rule": state} if timed else state

    def apply(
        grads: Tree, state: Tree, params: Tree, *, lr: Any = None, advance: bool = True, **inputs: Any
    ) -> tuple[Tree, Tree]:
        clock = state["clock"] if timed else None
        if lr is None:
            lr = schedule(clock) if callable(schedule) else schedule
        check_lr(where, lr)
        grads = check_grads(where, grads, params, rule)
        check_needs(where, rule, inputs)
        values = {name: scalar(where, name, follow(clock)) for name, follow in followed.items()}
        now = lookup.override(where, rule, values)
        inner = state if clock is None else state["rule"]
        delta, inner = now.update(Step(grads, params, as_scalar(lr, params), **inputs), inner)
        if advance:
            state = inner if clock is None else {"clock": ticked(clock, now.took_step(inner)), "rule": inner}
        return state, displace(params, delta)

    schedule = lr
    return Pure(init, apply)


def scheduled(where: str, rule: Rule, schedules: Any) -> dict[str, Callable[[Any], Any]]:
    """Return schedules of hyperparameters by name, or raise where a name is unknown or a value cannot be."""
    for name, follow in dict(schedules or {}).items():
        if not callable(follow):
            raise HyperparameterError(message(where, f"the schedule of {name!r} is not a function of the step.", None,
                                              repr(follow), f"Give a number to the rule: {name}={follow!r}."
                                              ))  # fmt: skip
        path, field = lookup.find(where, rule, name)
        holder = lookup.at(rule, path)
        domain = hyperparameters(holder)[field].metadata["domain"]
        check_real(where, name, domain, getattr(holder, field), "cannot follow a schedule")
        check_values(where, name, follow, partial(lookup.with_value, rule, path, field))
    return dict(schedules or {})


def ticked(clock: jax.Array, took_step: Any) -> jax.Array:
    """Return the clock of schedules after a step; it stands still where the step was left out."""
    later = numerics.count_up(clock)
    return later if took_step is True else jnp.where(took_step, later, clock)


def as_scalar(lr: Any, params: Tree) -> jax.Array:
    """Return a learning rate as a strong scalar: float32, or float64 where a parameter is. Its kind never retraces."""
    wide = any(p.dtype in (jnp.float64, jnp.complex128) for p in jax.tree.leaves(params))
    return jnp.asarray(lr, jnp.float64 if wide else jnp.float32)


def check_params(where: str, names: list[str], params: list[Any], rule: Rule | None = None) -> None:
    """Raise unless there are parameters and all of them are of floating point: real, but for rules that say so."""
    if not params:
        raise StructureError(message(where, "there is nothing to optimize.", "at least one parameter", "none"))
    for name, p in zip(names, params, strict=True):
        dtype = jnp.result_type(p)
        allowed = jnp.inexact if rule is not None and rule.complex_params else jnp.floating
        if not jnp.issubdtype(dtype, allowed):
            parts = "Put contrib.SplitComplex around the rule, or hold real and imaginary parts apart."
            untrained = "Use a StateVar for what is not trained, or make it float32."
            fix = parts if jnp.issubdtype(dtype, jnp.complexfloating) else untrained
            raise DTypeError(message(where, f"the parameter {name!r} is not of floating point.", "a float dtype",
                                     describe(p), fix))  # fmt: skip


def check_grads(where: str, grads: Tree, params: Tree, rule: Rule | None = None) -> Tree:
    """Return gradients with the structure of the parameters, or raise where they do not fit one by one.

    Raises:
        StructureError: another tree, or a gradient that is missing or of another shape. Nothing broadcasts.
        DTypeError: a gradient that is not of floating point.
    """
    names, leaves, structure = names_and_leaves(params)
    given = jax.tree.structure(grads, is_leaf=lambda x: x is None)
    if given != structure:
        raise StructureError(message(where, "the gradients have another structure than the parameters.",
                                     structure, given))  # fmt: skip
    checked = structure.flatten_up_to(grads)
    for name, g, p in zip(names, checked, leaves, strict=True):
        check_grad(where, name, g, p, rule)
    return structure.unflatten([jnp.asarray(g) for g in checked])


def check_grad(where: str, name: str, g: Any, p: Any, rule: Rule | None = None) -> None:
    """Raise unless one gradient has the shape of its parameter, after the axis of examples if the rule has one.

    It must be of floating point, and complex where its parameter is.
    """
    if g is None:
        raise StructureError(message(
            where, f"the gradient of {name!r} is None.", describe(p), "None",
            "Give zeros, or leave the variable out of the optimizer's collection."))  # fmt: skip
    if rule is not None and rule.per_example:
        if jnp.ndim(g) == 0 or jnp.shape(g)[1:] != jnp.shape(p):
            wanted = f"{jnp.result_type(p)}[{', '.join(map(str, ('examples', *jnp.shape(p))))}]"
            raise StructureError(message(where, f"the gradients of {name!r} are not one for each example.", wanted,
                                         describe(jnp.asarray(g)), "jax.vmap(jax.grad(loss), in_axes=(None, 0))"
                                         ))  # fmt: skip
    elif jnp.shape(g) != jnp.shape(p):
        extra = jnp.ndim(g) - jnp.ndim(p)
        batched = extra > 0 and jnp.shape(g)[extra:] == jnp.shape(p)
        raise StructureError(message(
            where, f"the gradient of {name!r} does not fit its variable.", describe(p), describe(jnp.asarray(g)),
            "Did you forget to reduce over the batch, e.g. jnp.mean(loss)?" if batched else
            "Gradients must have exactly the shape of their variable; nothing is broadcast."))  # fmt: skip
    if not jnp.issubdtype(jnp.result_type(g), jnp.complexfloating if jnp.iscomplexobj(p) else jnp.floating):
        raise DTypeError(message(where, f"the gradient of {name!r} is not of floating point.", describe(p),
                                 describe(jnp.asarray(g))))  # fmt: skip


def check_needs(where: str, rule: Rule, inputs: dict[str, Any]) -> None:
    """Raise unless the inputs that the rule needs are there."""
    for need in rule.needs:
        if inputs.get(need) is None:
            raise MissingInputError(message(
                where, f"{type(rule).__name__} needs {need!r}.", f"{need}=...", "nothing",
                "Call minimize(loss_fn, ...), which computes it, or pass it."))  # fmt: skip
