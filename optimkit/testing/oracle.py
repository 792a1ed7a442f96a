"""The check against an oracle: the algorithm written a second time, from the paper, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from optimkit.rules import lookup
from optimkit.rules.base import Rule, Tree
from optimkit.testing import streams
from optimkit.testing.check import check, where
from optimkit.testing.compare import Flat, require_close
from optimkit.testing.hyperparameters import TOLERANCE
from optimkit.testing.runner import flat, run

Oracle = Callable[..., Sequence[Flat]]

SCALES = (1e-6, 1e-3, 1.0, 10.0)


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
    values = flat(streams.parameters(params))
    lr = np.float32(np.geomspace(0.1, 0.01, steps)).tolist()
    hyper = values_by_name(rule)
    for i, scale in enumerate(scales):
        grads = [rounded(g) for g in streams.gradients(values, steps, scale, seed=i)]
        got = run(rule, values, grads, lr=lr)
        expected = oracle({name: p.astype(np.float64) for name, p in values.items()}, grads, lr, **hyper)
        here = f"{where(check_oracle, rule)}, gradients of size {scale:.0e}"
        require_close(here, got.params, list(expected), got.start, tolerance, "parameters and the oracle's")


def values_by_name(rule: Rule) -> dict[str, Any]:
    """Return the hyperparameters of a rule and of the rules inside it, as an oracle takes them."""
    names = (name for name in lookup.names_of(rule) if not name.endswith("slot_dtype"))
    return {name: lookup.get("", rule, name) for name in names}


def rounded(grads: Flat) -> Flat:
    """Return gradients as the rule sees them: rounded to float32, so that the oracle gets the same numbers."""
    return {name: np.asarray(g, np.float32).astype(np.float64) for name, g in grads.items()}
