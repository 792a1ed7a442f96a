"""Checks of hyperparameters: declared, held to their domains, of consequence each, and usable as data."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.errors import ConformanceError, HyperparameterError, message
from optimkit.hyper import hyperparameters, parse_interval
from optimkit.rules import lookup
from optimkit.rules.base import Rule, Tree
from optimkit.testing import domains, runner, streams
from optimkit.testing.check import check, ours, tunable, where
from optimkit.testing.compare import Flat, distances, furthest, require_close, require_finite, rounding
from optimkit.testing.runner import Trajectory, run

TOLERANCE = 5e-6  # how far a rule may be from its oracle, see check_oracle

Found = tuple[lookup.Path, Rule, str, dataclasses.Field[Any]]


def all_hyperparameters(rule: Rule) -> Iterator[Found]:
    """Yield path, holder, name and declaration of each hyperparameter of a rule and of the rules inside it."""
    for path, part in lookup.walk(rule):
        for name, field in hyperparameters(part).items():
            yield path, part, name, field


@check(only=ours)
def check_hyperparameters_are_declared(rule: Rule, *, params: Tree = None) -> None:
    """Each number, bool or string among the fields is declared by ``hyper``, with a default in its domain."""
    here = where(check_hyperparameters_are_declared, rule)
    for _, part in lookup.walk(rule):
        parts = {f.name for f in dataclasses.fields(part) if not _is_plain(f.default)}  # type: ignore[arg-type]
        for name, value in part._fields().items():
            absent = value is None and name in parts  # an optional part, such as a line search
            if _is_plain(value) and not absent and name not in hyperparameters(part):
                raise ConformanceError(message(
                    here, f"the field {type(part).__name__}.{name} is not declared.", "a default, a domain, a meaning",
                    f"{value!r}", f'{name}: float = hyper({value!r}, "[0, inf)", "what it does")'))  # fmt: skip
        defaults = {n: f.default for n, f in hyperparameters(part).items() if f.default is not dataclasses.MISSING}
        if defaults:
            part.replace(**defaults)  # raises, naming it, for a default that is out of its own domain


def _is_plain(value: Any) -> bool:
    missing = value is None or value is dataclasses.MISSING
    return missing or isinstance(value, numbers.Number | str | np.ndarray | jax.Array)


@check(only=tunable)
def check_hyperparameters_are_validated(rule: Rule, *, params: Tree = None) -> None:
    """Values just outside a domain, NaN, other types and unknown names raise an error with the name in it.

    The ends of the domain are accepted.
    """
    here = where(check_hyperparameters_are_validated, rule)
    # What LeafRule itself declares comes last: the rule's own are the telling ones.
    for _, part, name, field in sorted(all_hyperparameters(rule), key=lambda found: found[2] == "slot_dtype"):
        domain, optional = field.metadata["domain"], field.default is None
        for value in domains.outside(domain, optional):
            _require_rejected(here, part, name, value, f"outside {domain}")
        for value in domains.ends(domain):
            try:
                part.replace(**{name: value})
            except HyperparameterError as error:
                raise ConformanceError(message(here, f"{name} = {value!r} is rejected.", f"accepted, in {domain}",
                                               error)) from error  # fmt: skip
    for _, part in lookup.walk(rule):
        if hyperparameters(part):
            _require_rejected(here, part, "no_such_hyperparameter", 0.5, "unknown")


def _require_rejected(here: str, part: Rule, name: str, value: Any, why: str) -> None:
    shown = f"{type(part).__name__}({name}={value!r})"
    try:
        part.replace(**{name: value})
    except HyperparameterError as error:
        if repr(name) not in str(error):
            raise ConformanceError(message(here, f"the error of {shown} does not name the hyperparameter.",
                                           repr(name), error)) from error  # fmt: skip
    else:
        raise ConformanceError(message(here, f"{shown} is accepted.", f"a HyperparameterError: {why}", "no error",
                                       "Declare it by hyper(default, domain, meaning)."))  # fmt: skip


@check(only=ours)
def check_hyperparameters_may_be_arrays(rule: Rule, *, params: Tree = None) -> None:
    """Hyperparameters given as float32 arrays, which are data of the program, do what the same constants do.

    A constant is used in float64 (``1 - beta`` above all). An array is rounded to float32 first, which is a relative
    change of up to eps in the value and eps / (1 - value) in its complement: as much more is allowed.
    """
    params = streams.parameters(params)
    grads = streams.gradients(params, 4)
    allowed = rounding(4)
    for _, part, name, field in all_hyperparameters(rule):
        value = getattr(part, name)
        if isinstance(value, float):
            high = parse_interval(field.metadata["domain"])[1]
            allowed += rounding(4) / (1 - value) if high == 1 and value < 1 else rounding(4)
    constants, data = run(rule, params, grads, update=runner.eager), run(with_arrays(rule), params, grads)
    here = where(check_hyperparameters_may_be_arrays, rule)
    require_close(here, data.params, constants.params, constants.start, allowed, "parameters with arrays for numbers")


def with_arrays(rule: Rule) -> Rule:
    """Return a rule whose hyperparameters are arrays where they are floats: of other values it is the same program."""
    arrays = rule
    for path, part, name, _ in all_hyperparameters(rule):
        if isinstance(getattr(part, name), float):
            arrays = lookup.with_value(arrays, path, name, jnp.float32(getattr(part, name)))
    return arrays


@check(only=tunable)
def check_hyperparameters_matter(rule: Rule, *, params: Tree = None, tolerance: float = TOLERANCE) -> None:
    """Each hyperparameter, changed by 10 %, changes what the rule does by more than ten times the oracle's tolerance.

    A bool is flipped, a choice replaced by the next, 0 by 1e-3; a threshold that 10 % does not bring over a whole
    number is doubled or halved. What the rule does is the sum of its displacements, over a stream with gradients from
    1e-8 to 10, zeros among them. A value with which it is not finite fails. ``slot_dtype`` is left to
    check_slot_dtype_is_obeyed.

    Args:
        rule: the rule.
        params: parameters to start from.
        tolerance: how far the rule may be from its oracle.
    """
    params = streams.parameters(params)
    grads = streams.rich(params)
    usual = _finite_run(where(check_hyperparameters_matter, rule), rule, params, grads)
    for path, part, name, field in all_hyperparameters(rule):
        if name == "slot_dtype":
            continue
        here = f"{where(check_hyperparameters_matter, rule)}: {type(part).__name__}.{name}"
        value, moves = getattr(part, name), 0.0
        if callable(value):
            continue  # it follows a function of the step, which has no 10 %
        others = domains.nudged(value, field)
        for x in others:
            other = lookup.with_value(rule, path, name, x)
            if other == rule:
                raise ConformanceError(message(here, "the rule equals one with another value of it.",
                                               "two rules that differ", f"{rule!r} == {other!r}"))  # fmt: skip
            moves = max(moves, furthest(_apart(_finite_run(f"{here} = {x!r}", other, params, grads), usual)))
            if moves > 10 * tolerance:
                break
        else:
            raise ConformanceError(message(
                here, f"it makes no difference whether it is {' or '.join(map(repr, [value, *others]))}.",
                f"trajectories that differ by more than {10 * tolerance:.0e}, relative", f"{moves:.1e}",
                "Is it used, and used where it should be?"))  # fmt: skip


def _finite_run(here: str, rule: Rule, params: Tree, grads: list[Tree]) -> Trajectory:
    """Run a rule, or raise where it is not finite: NaN differs from all there is, and so would always matter."""
    result = run(with_arrays(rule), params, grads)
    for t, values in enumerate(result.deltas, start=1):
        require_finite(here, values, f"displacements at step {t}")
    return result


def _apart(got: Trajectory, expected: Trajectory) -> list[Flat]:
    """Return distances of the sums of displacements: as if parameters started at 0, and nothing is lost by rounding."""
    start: Flat = {name: np.zeros(x.shape) for name, x in expected.start.items()}

    def sums(trajectory: Trajectory) -> list[Flat]:
        total, history = start, []
        for delta in trajectory.deltas:
            total = {name: x + np.asarray(delta[name], np.float64) for name, x in total.items()}
            history.append(total)
        return history

    return distances(sums(got), sums(expected), start)
