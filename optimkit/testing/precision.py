"""The check of low precision: a step with float16 or bfloat16 parameters is that with the same numbers in float32.

What overflows, underflows or is rounded away in half precision is often neither NaN nor infinite, but a step of 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.errors import ConformanceError, message
from optimkit.numerics import cast
from optimkit.rules.base import Rule, Tree, displace
from optimkit.testing import runner, streams
from optimkit.testing.check import NotApplicable, check, where
from optimkit.testing.compare import ROUNDINGS, Flat, element
from optimkit.testing.runner import flat
from optimkit.testing.subjects import Foreign, Made

LOW = ("float16", "bfloat16")
# Squares of 300 overflow in float16, and so do norms that are taken in it; 300 itself is far from the end of its range.
SIZES = (300.0, 300.0, 1.0, 1.0)

Result = tuple[Flat, Flat]  # displacements and state


@check
def check_low_precision_follows_float32(rule: Rule, *, params: Tree = None) -> None:
    """A step with float16 or bfloat16 parameters is that with the same numbers in float32, but for rounding.

    Gradients have sizes of 300 and 1. Each step is compared by itself: both start from the same parameters and state,
    those that steps in low precision have led to. How far displacement and state may be apart is 16 roundings, of the
    largest element that an array has had, in the lowest precision that a displacement or a state is given in: a rule
    that returns both in float32 must have computed them in it. It is the precision of the parameters for an optimizer
    that returns new parameters, whose displacement is known to the rounding of a parameter. About a rule that evaluates
    gradients or losses elsewhere the check has nothing to say: such points, and what is found there, are rounded.
    """
    if any(need.endswith("grad_fn") for need in rule.needs):
        raise NotApplicable("it evaluates gradients at points that are rounded to the dtype of the parameters")
    for dtype in LOW:
        here = f"{where(check_low_precision_follows_float32, rule)}, {dtype}"
        # The largest element of each array so far, of displacements and of the state.
        sizes = [_sizes(streams.parameters(params)) if _moves_by_itself(rule) else {}, dict[str, float]()]
        for t, (low, wide, tolerance) in enumerate(_pairs(rule, streams.parameters(params), jnp.dtype(dtype)), start=1):
            for kind, what in enumerate(("displacement of", "state")):
                at = f"{here}, step {t}, gradients of size {SIZES[t - 1]:.0f}: the {what}"
                _require_follows(at, low[kind], wide[kind], sizes[kind], tolerance)


def _pairs(rule: Rule, params: Tree, dtype: Any) -> Iterator[tuple[Result, Result, float]]:
    """Yield what each step gives in low precision and in float32, and how far they may be apart."""
    now = streams.arrays(params, dtype)
    state = rule.init(now)
    wide_state = rule.init(_as(now, jnp.float32))
    for t, size in enumerate(SIZES, start=1):
        grads = streams.arrays(streams.gradients(params, 1, size, t)[0], dtype)
        # The state that low precision has led to, in the dtypes that float32 gives it.
        same = jax.tree.map(lambda x, y: x if x.dtype == y.dtype else cast(x, y.dtype), state, wide_state)
        wide = runner.eager(rule, _as(grads, jnp.float32), same, _as(now, jnp.float32), jnp.float32(runner.LR), t)
        delta, state = runner.eager(rule, grads, state, now, jnp.float32(runner.LR), t)
        low = (flat(delta), flat(state))
        coarsest = dtype if _moves_by_itself(rule) else _lowest(*low)
        yield low, (flat(wide[0]), flat(wide[1])), ROUNDINGS * float(jnp.finfo(coarsest).eps)
        now = displace(now, delta)


def _moves_by_itself(rule: Rule) -> bool:
    """Tell whether an optimizer returns new parameters, so that its displacement is their difference to the old."""
    rule = rule.made() if isinstance(rule, Made) else rule
    return isinstance(rule, Foreign) and type(rule).update is Foreign.update


def _sizes(tree: Tree) -> dict[str, float]:
    return {name: float(np.abs(x).max(initial=0.0)) for name, x in flat(tree).items()}


def _as(tree: Tree, dtype: Any) -> Tree:
    return jax.tree.map(lambda x: cast(x, dtype), tree)


def _lowest(*trees: Flat) -> Any:
    """Return the dtype of the lowest precision, at most that of float32."""
    found = [x.dtype for tree in trees for x in tree.values() if jnp.issubdtype(x.dtype, jnp.floating)]
    return max([jnp.dtype("float32"), *found], key=lambda dtype: float(jnp.finfo(dtype).eps))


def _require_follows(at: str, low: Flat, wide: Flat, sizes: dict[str, float], tolerance: float) -> None:
    """Raise ConformanceError where values are further apart than a part of the largest that there have been."""
    for name, x in wide.items():
        if not x.size or not jnp.issubdtype(x.dtype, jnp.number):
            continue
        right, got = np.asarray(x, np.float64), np.asarray(low[name], np.float64)
        size = sizes[name] = max(sizes.get(name, 0.0), float(np.abs(right).max()))
        error = np.where(got == right, 0.0, np.abs(got - right))
        wrong = ~(error <= tolerance * size)
        if wrong.any():
            i = np.unravel_index(int(np.argmax(wrong)), x.shape)
            raise ConformanceError(message(
                f"{at} {element(name, i)}", "it is not that of the same numbers in float32.",
                f"{float(right[i])!r}, to {tolerance:.1e} of {size:.2e}", repr(float(got[i])),
                "Cast gradients and parameters to float32 first: numerics.cast(g, numerics.compute_dtype(p.dtype))."
            ))  # fmt: skip
