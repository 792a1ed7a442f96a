"""Checks that what cannot be right is refused: gradients that do not fit, that are missing, or parameters of integers.

JAX broadcasts without a word. A gradient of shape ``[]`` for a vector, or one with the batch axis still on, then moves
a parameter wrongly or makes it grow; training goes on, and nothing tells. An optimizer is the last to see both shapes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.errors import ConformanceError, OptimkitError, describe, message
from optimkit.rules.base import Rule, Tree
from optimkit.testing import runner, streams
from optimkit.testing.check import check, where
from optimkit.testing.runner import LR, flat
from optimkit.testing.subjects import Foreign
from optimkit.tree import names_and_leaves


@check
def check_misshaped_gradients_are_refused(rule: Rule, *, params: Tree = None) -> None:
    """A gradient of another shape than its parameter raises, even where it would broadcast; one parameter at a time."""
    here = where(check_misshaped_gradients_are_refused, rule)
    params = streams.arrays(streams.parameters(params))
    good = streams.arrays(streams.gradients(params, 1)[0], jnp.float32)
    names, leaves, structure = names_and_leaves(good)
    for i, (name, g) in enumerate(zip(names, leaves, strict=True)):
        for shape in _wrong_shapes(g.shape):
            wrong = structure.unflatten([*leaves[:i], jnp.ones(shape), *leaves[i + 1 :]])
            _require_refused(here, rule, wrong, params, f"a gradient of shape {list(shape)} for {name!r} "
                             f"{describe(g)} is accepted")  # fmt: skip


def _wrong_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return shapes that are not the given one: with a batch, a scalar, with an axis of one, transposed."""
    wrong = [(3, *shape), (), (1, *shape), tuple(1 for _ in shape), shape[::-1]]
    return [other for other in dict.fromkeys(wrong) if other != shape]


@check
def check_missing_gradients_are_refused(rule: Rule, *, params: Tree = None) -> None:
    """A gradient that is None, one that is absent and one too many raise; they are never taken for zeros."""
    here = where(check_missing_gradients_are_refused, rule)
    params = flat(streams.arrays(streams.parameters(params)))
    good = streams.arrays(streams.gradients(params, 1)[0], jnp.float32)
    last = next(reversed(good))
    for what, wrong in {
        f"a gradient of None for {last!r}": {**good, last: None},
        f"a tree without the gradient of {last!r}": {n: g for n, g in good.items() if n != last},
        "a gradient of a parameter that there is not": {**good, "no such parameter": good[last]},
    }.items():
        _require_refused(here, rule, wrong, streams.arrays(params), f"{what} is accepted")


@check
def check_integer_parameters_are_refused(rule: Rule, *, params: Tree = None) -> None:
    """Parameters of int32 raise, at ``init`` or at a step: a step that is rounded to an integer is lost or wrong."""
    here = where(check_integer_parameters_are_refused, rule)
    params = flat(streams.arrays(streams.parameters(params)))
    last = next(reversed(params))
    wrong = streams.arrays(params) | {last: jnp.full(params[last].shape, 7, jnp.int32)}
    grads = jax.tree.map(lambda p: jnp.full(p.shape, 0.5), wrong)
    _require_refused(here, rule, grads, wrong, f"the parameter {last!r} of int32 is accepted")


def _require_refused(here: str, rule: Rule, grads: Tree, params: Tree, what: str) -> None:
    """Raise ConformanceError unless a step raises: an error of ours from our rules, any from others."""
    kind: type[Exception] = Exception if isinstance(rule, Foreign) else OptimkitError
    before = _shapes(params)
    try:
        _, moved = runner.functional(rule, grads, runner.initial(rule, params), params, jnp.float32(LR))
    except kind:
        return
    after = _shapes(moved)
    changed = [f"{name!r} is {after.get(name)} afterwards" for name in before if after.get(name) != before[name]]
    raise ConformanceError(message(here, f"{what}.", "an error that names it", "; ".join(["no error", *changed]),
                                   "Compare shapes, dtypes and names before computing."))  # fmt: skip


def _shapes(tree: Tree) -> dict[str, str]:
    return {name: describe(np.asarray(x)) for name, x in flat(tree).items()}
