"""Checks that nothing ever becomes NaN or infinite: on zero, tiny and huge gradients, in every dtype.

Each stream goes on with ordinary gradients, for a state may be spoiled long before a parameter shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyperparameters
from optimkit.rules import lookup
from optimkit.rules.base import Rule, Tree
from optimkit.testing import runner, streams
from optimkit.testing.check import check, tunable, where
from optimkit.testing.compare import require_finite
from optimkit.testing.domains import across, lower_end
from optimkit.testing.runner import run

SMALL_LR = 1e-3  # so that huge gradients do not push a float16 parameter itself out of range


@check
def check_finite_on_zero_gradients(rule: Rule, *, params: Tree = None) -> None:
    """Gradients of zero, from the first step on, leave parameters and state finite; so do steps after them."""
    here = where(check_finite_on_zero_gradients, rule)
    params = streams.parameters(params)
    _require_finite_in_all_dtypes(here, rule, params, [0.0, 0.0])


@check
def check_finite_on_tiny_gradients(rule: Rule, *, params: Tree = None) -> None:
    """Gradients down to the smallest number of the dtype leave parameters and state finite."""
    here = where(check_finite_on_tiny_gradients, rule)
    params = streams.parameters(params)
    _require_finite_in_all_dtypes(here, rule, params, ["smallest_subnormal", "tiny", 1e-30])


@check
def check_finite_on_huge_gradients(rule: Rule, *, params: Tree = None, huge: float = 1e10) -> None:
    """Gradients of 1e4 to 1e10, or an eighth of the dtype's range, leave parameters and state finite.

    Args:
        rule: the rule.
        params: parameters to start from.
        huge: how large gradients get, where the dtype allows.
    """
    here = where(check_finite_on_huge_gradients, rule)
    params = streams.parameters(params)
    _require_finite_in_all_dtypes(here, rule, params, [1e4, huge, 1e4])


@check(only=tunable)
def check_finite_at_the_ends_of_domains(rule: Rule, *, params: Tree = None) -> None:
    """With every hyperparameter at the lower end of its domain, where that is allowed, the same holds."""
    here = where(check_finite_at_the_ends_of_domains, rule)
    params = streams.parameters(params)
    corner = rule
    for path, part in lookup.walk(rule):
        for name, field in hyperparameters(part).items():
            end = lower_end(field.metadata["domain"])
            corner = corner if end is None else lookup.with_value(corner, path, name, end)
    _require_finite(f"{here} at {corner!r}", corner, params, [0.0, "tiny", 1.0, 1e10], jnp.dtype("float32"))


@check(only=tunable)
def check_finite_at_other_hyperparameters(rule: Rule, *, params: Tree = None) -> None:
    """With each hyperparameter alone at values from all over its domain, steps are finite.

    On zero and tiny gradients, and on ordinary ones after them.
    The values are the ends that belong to the domain, and some inside: 1 and 10 more than the first for an integer,
    such as an offset or a period, which is then beyond the first step.
    """
    here = where(check_finite_at_other_hyperparameters, rule)
    params = streams.parameters(params)
    for path, part in lookup.walk(rule):
        for name, field in hyperparameters(part).items():
            for value in across(field.metadata["domain"]):
                other = lookup.with_value(rule, path, name, value)
                if other != rule and not name.endswith("dtype"):  # those have a check of their own
                    at = f"{here} with {type(part).__name__}.{name} = {value!r}"
                    _require_finite(at, other, params, [0.0, "tiny"], jnp.dtype("float32"))


def _require_finite_in_all_dtypes(here: str, rule: Rule, params: Tree, scales: Sequence[Any]) -> None:
    for dtype in streams.DTYPES:
        with jax.enable_x64(dtype == "float64"):
            _require_finite(here, rule, params, scales, jnp.dtype(dtype))
    _require_finite(here, rule, params, scales, jnp.dtype("float32"), runner.compiled)


def _require_finite(
    here: str, rule: Rule, params: Tree, scales: Sequence[Any], dtype: Any, update: runner.Update = runner.eager
) -> None:
    info = jnp.finfo(dtype)
    sizes = [float(getattr(info, s)) if isinstance(s, str) else min(s, float(info.max) / 8) for s in scales]
    sizes += [1.0, 1.0]
    stream = [streams.gradients(params, 1, size, i)[0] for i, size in enumerate(sizes)]
    result = run(rule, params, stream, lr=SMALL_LR, dtype=dtype, update=update)
    for t, size in enumerate(sizes):
        at = f"at step {t + 1}, {dtype}, gradients of size {size:.0e}"
        for values, what in ((result.deltas[t], "displacements"), (result.params[t], "parameters"),
                             (result.states[t], "state")):  # fmt: skip
            require_finite(here, values, f"{what} {at}")
