"""The check against an oracle: the algorithm written a second time, from the paper, in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from optimkit.errors import HyperparameterError
from optimkit.rules import lookup
from optimkit.rules.base import Rule, Tree
from optimkit.testing import domains, streams
from optimkit.testing.check import NotApplicable, check, where
from optimkit.testing.compare import Flat, require_close
from optimkit.testing.hyperparameters import TOLERANCE, all_hyperparameters, with_arrays
from optimkit.testing.runner import flat, run

Oracle = Callable[..., Sequence[Flat]]

SCALES = (1e-6, 1e-3, 1.0, 10.0)
OTHER_SHAPES = {"row": np.array([[0.5, -2.0, 1.0]], np.float32), "rank5": np.ones((1, 2, 1, 2, 1), np.float32)}


@check
def check_oracle(
    rule: Rule,
    oracle: Oracle,
    *,
    params: Tree = None,
    tolerance: float = TOLERANCE,
    steps: int = 100,
    scales: Sequence[float] = SCALES,
) -> None:
    """A float32 run stays within a relative distance of a float64 oracle, at each step and for each gradient scale.

    The distance is that of ``optimkit.testing.compare``: relative to the size of a parameter and the way that it went.
    The learning rate falls from 0.1 to 0.01, so that it also matters where it is multiplied.

    Args:
        rule: the rule.
        oracle: ``oracle(params, grads, lr, **hyperparameters)``, which returns the parameters after each step.
            ``params`` is ``{name: float64 array}``, ``grads`` a list of those, ``lr`` a list of numbers; the
            hyperparameters are those of the rule, by the names that overrides have (``slot_dtype`` left out).
        params: parameters to start from.
        tolerance: the largest relative distance allowed.
        steps: how many steps.
        scales: sizes of gradients, a run for each.
    """
    _follow(where(check_oracle, rule), rule, rule, oracle, params, tolerance, steps, scales)


@check
def check_oracle_elsewhere(
    rule: Rule, *, oracle: Oracle | None = None, params: Tree = None, tolerance: float = TOLERANCE
) -> None:
    """On further shapes, and with all its numbers changed by 10 % (0 to 1e-3), a run stays as close to the oracle.

    At one set of hyperparameters, one that is hard-coded in one of two places is not told from one that is used.

    Args:
        rule: the rule, whose hyperparameters are changed all at once.
        oracle: as that of check_oracle.
        params: parameters to start from; the usual ones, a matrix of one row and one of rank 5 where None.
        tolerance: the largest relative distance allowed.
    """
    if oracle is None:
        raise NotApplicable("no oracle is given")
    other = _elsewhere(rule)
    here = where(check_oracle_elsewhere, other)
    params = {**streams.parameters(), **OTHER_SHAPES} if params is None else params
    _follow(here, other, with_arrays(other), oracle, params, tolerance, steps=30, scales=(1e-3, 1.0))


def _follow(
    here: str, rule: Rule, run_as: Rule, oracle: Oracle, params: Tree, tolerance: float, steps: int, scales: Any
) -> None:
    """Raise ConformanceError unless ``run_as``, which is the rule with arrays or without, stays with the oracle."""
    values = flat(streams.parameters(params))
    lr = np.float32(np.geomspace(0.1, 0.01, steps)).tolist()
    hyper = values_by_name(rule)
    for i, scale in enumerate(scales):
        grads = [rounded(g) for g in streams.gradients(values, steps, scale, seed=i)]
        got = run(run_as, values, grads, lr=lr)
        expected = oracle({name: p.astype(np.float64) for name, p in values.items()}, grads, lr, **hyper)
        at = f"{here}, gradients of size {scale:.0e}"
        require_close(at, got.params, list(expected), got.start, tolerance, "parameters and the oracle's")


def _elsewhere(rule: Rule) -> Rule:
    """Return a rule whose floats are others nearby, numbers that float32 has: they are data of the program."""
    other = rule
    for path, part, name, field in all_hyperparameters(rule):
        value = getattr(part, name)
        near = domains.nudged(value, field) if isinstance(value, float) else []
        if near:
            with contextlib.suppress(HyperparameterError):  # two hyperparameters may not go together
                other = lookup.with_value(other, path, name, float(np.float32(near[0])))
    return other


def values_by_name(rule: Rule) -> dict[str, Any]:
    """Return the hyperparameters of a rule and of the rules inside it, as an oracle takes them."""
    names = (name for name in lookup.names_of(rule) if not name.endswith("slot_dtype"))
    return {name: lookup.get("", rule, name) for name in names}


def rounded(grads: Flat) -> Flat:
    """Return gradients as the rule sees them: rounded to float32, so that the oracle gets the same numbers."""
    return {name: np.asarray(g, np.float32).astype(np.float64) for name, g in grads.items()}
