"""Checks of a rule as a value and as an element of chains: equality, repr, linearity in lr, and the monoid laws."""

from __future__ import annotations

import ast
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optimkit.rules
from optimkit.errors import ConformanceError, message
from optimkit.rules import SGD, Chain, Momentum, WeightDecay, lookup
from optimkit.rules.base import Rule, Tree, displace
from optimkit.testing import runner, streams
from optimkit.testing.check import check, ours, where
from optimkit.testing.compare import ROUNDINGS, Flat, require_close, require_identical, rounding
from optimkit.testing.runner import Trajectory, flat, run

STEPS = 3


@check(only=ours)
def check_chainable_is_true(rule: Rule, *, params: Tree = None) -> None:
    """``chainable`` is True exactly where displacements are linear in lr and the next state does not depend on lr."""
    here = where(check_chainable_is_true, rule)
    params = streams.arrays(streams.parameters(params))
    found, state = None, rule.init(params)
    for t, g in enumerate(streams.gradients(params, STEPS), start=1):
        grads = streams.arrays(g, jnp.float32)
        results = {lr: runner.eager(rule, grads, state, params, jnp.float32(lr), t) for lr in (-1.0, 0.5, 2.0)}
        found = found or _dependence_on_lr({lr: (flat(d), flat(s)) for lr, (d, s) in results.items()}, flat(params), t)
        delta, state = results[0.5]
        params = displace(params, delta)
    if rule.chainable and found:
        what, expected, got = found
        raise ConformanceError(message(here, f"the rule says that it is chainable, but {what}.", expected, got,
                                       "Set chainable = False in the class."))  # fmt: skip
    if not rule.chainable and not found:
        raise ConformanceError(message(
            here, "the rule says that it is not chainable, but its displacements are linear in lr and its state does "
            "not depend on it.", None, None, "Remove chainable = False from the class."))  # fmt: skip


def _dependence_on_lr(
    results: dict[float, tuple[Flat, Flat]], params: Flat, t: int
) -> tuple[str, str | None, str | None] | None:
    """Return how results at several learning rates are not those of a chainable rule; None where they are.

    In words, and what an element should have been, and is.
    """
    direction, state = results[-1.0]
    for lr, (delta, other) in results.items():
        for name, d in direction.items():
            scale = np.abs(d) + np.abs(params[name])  # what the rule adds up may cancel in d
            close = np.abs(delta[name] + lr * d) <= abs(lr) * ROUNDINGS * np.finfo(np.float32).eps * scale
            if not close.all():
                what = f"at step {t} the displacement of {name!r} at lr = {lr} is not {-lr} times that at lr = -1"
                return what, *_first(~close, -lr * d, delta[name])
        for name, x in state.items():
            if x.tobytes() != other[name].tobytes():
                what = f"at step {t} {_part_of_state(name)} at lr = {lr} is not that at lr = -1"
                return what, *_first(x != other[name], x, other[name])
    return None


def _first(wrong: np.ndarray, expected: np.ndarray, got: np.ndarray) -> tuple[str | None, str | None]:
    """Return the first element that is wrong, as it should be and as it is; nothing where they differ by sign of 0."""
    if not wrong.any():
        return None, None
    i = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    return f"{expected[i]}, the element at {list(map(int, i))}", f"{got[i]}"


def _part_of_state(name: str) -> str:
    """Return a leaf of the state in words; one in a tuple or a list has a number for a name."""
    place, _, rest = name.partition(".")
    if not place.isdigit():
        return f"the next state {name!r}" if name else "the next state"
    return f"part {place} of the next state" + (f", {rest!r}," if rest else "")


@check(only=ours)
def check_chains_are_a_monoid(rule: Rule, *, params: Tree = None) -> None:
    """``SGD()`` before and after the rule changes nothing, and grouping in chains does not matter.

    Eagerly, where nothing is fused, to the last bit: a direction is the displacement at lr = -1, and multiplying by -1
    does not round. Only a rule before ``SGD()`` may round otherwise than by itself, for it need not multiply by lr
    last, as ``SGD()`` does: ``-lr * a * b`` is not ``-lr * (a * b)``.
    """
    here = where(check_chains_are_a_monoid, rule)
    params = streams.parameters(params)
    decay, momentum = WeightDecay(0.1), Momentum(0.5)
    same: list[tuple[Rule, Rule]] = [
        (Chain(rule), rule),
        (Chain(SGD(), rule), rule),
        (Chain(Chain(decay, momentum), rule), Chain(decay, Chain(momentum, rule))),
    ]
    rounded = Chain(rule, SGD()) if rule.chainable else None
    if rounded is not None:
        same += [
            (rounded, rule),
            (Chain(Chain(decay, rule), momentum), Chain(decay, Chain(rule, momentum))),
            (Chain(Chain(rule, decay), momentum), Chain(rule, decay, momentum)),
        ]
    grads = streams.gradients(params, STEPS)
    done: dict[Rule, Trajectory] = {}
    for left, right in same:
        for chain in (left, right):
            if chain not in done:
                done[chain] = run(chain, params, grads, update=runner.eager)
        got, expected = done[left], done[right]
        if left is rounded:
            what = f"parameters of {left!r} and of {right!r}"
            require_close(here, got.params, expected.params, expected.start, rounding(STEPS), what)
            continue
        for t in range(STEPS):
            require_identical(here, got.params[t], expected.params[t],
                              f"step {t + 1} of {left!r} is not that of {right!r}")  # fmt: skip


@check(only=ours)
def check_rule_is_a_value(rule: Rule, *, params: Tree = None) -> None:
    """A rule equals its replacement by itself, has one hash with it, is frozen, and survives a pytree round trip.

    Where its arguments are literals, its repr evaluates to it.
    """
    here = where(check_rule_is_a_value, rule)
    leaves, structure = jax.tree.flatten(rule)
    same = {"replace()": _replaced(rule), "a pytree round trip": jax.tree.unflatten(structure, leaves)}
    if _is_literal(repr(rule)) and not leaves:
        same["evaluating its repr"] = eval(repr(rule), {**vars(optimkit.rules), **_classes(rule)})
    for what, other in same.items():
        if other != rule or type(other) is not type(rule):
            alike = type(other) is type(rule) and repr(other) == repr(rule)
            raise ConformanceError(message(
                here, f"the rule is another one after {what}{', though it looks the same' if alike else ''}.", rule,
                other, "Do not compare by identity: Rule's own __eq__ and __hash__ compare type and fields, so that "
                "equal rules share one compiled program." if alike else ""))  # fmt: skip
        if not leaves and hash(other) != hash(rule):
            raise ConformanceError(message(here, f"the hash is another one after {what}.", hash(rule), hash(other)))
    for name in rule._fields():
        try:
            setattr(rule, name, getattr(rule, name))
        except AttributeError:
            continue
        raise ConformanceError(message(here, f"the field {name!r} can be assigned.", "an AttributeError", "no error",
                                       "A rule is immutable; use rule.replace(...)."))  # fmt: skip


def _replaced(rule: Rule) -> Rule:
    fields = rule._fields()
    return rule.replace(**({"rules": fields["rules"]} if "rules" in fields else fields))


def _classes(rule: Rule) -> dict[str, Any]:
    return {type(part).__name__: type(part) for _, part in lookup.walk(rule)}


def _is_literal(text: str) -> bool:
    """Tell whether an expression is made of calls, keywords, tuples and literals only."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    allowed = (ast.Expression, ast.Call, ast.keyword, ast.Tuple, ast.Constant, ast.UnaryOp, ast.USub, ast.Load)
    return all(isinstance(node, allowed) or id(node) in calls for node in ast.walk(tree))
