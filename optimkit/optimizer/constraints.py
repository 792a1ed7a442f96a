"""What parameters are made to satisfy after each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from optimkit.core import BaseVar
from optimkit.errors import StructureError, describe, message
from optimkit.numerics import cast, compute_dtype
from optimkit.optimizer.groups import checked_match, matches
from optimkit.projections import Projection
from optimkit.rules.base import Tree, displace

Constraint = Projection | Callable[[jax.Array], jax.Array]


def bound_constraints(where: str, given: Any, variables: Mapping[str, BaseVar]) -> dict[str, Constraint]:
    """Return the constraint of each variable that has one.

    Raises:
        StructureError: something is no projection, gets no variable, or two match one variable.
    """
    if given is None:
        return {}
    found: dict[str, Constraint] = {}
    for match, constraint in (given if isinstance(given, Mapping) else {None: given}).items():
        if not callable(constraint) or isinstance(constraint, type):
            raise StructureError(message(where, "this is no constraint.", "a projection, such as NonNegative()",
                                         describe(constraint)))  # fmt: skip
        checked = checked_match(f"{where}: constraints", match)
        taken = [name for name, var in variables.items() if checked is None or matches(checked, name, var)]
        if not taken:
            raise StructureError(message(
                where, f"the constraint {constraint!r} gets no variable.",
                "one of " + ", ".join(map(repr, variables)), repr(match)))  # fmt: skip
        twice = [name for name in taken if name in found]
        if twice:
            raise StructureError(message(
                where, f"two constraints match {twice[0]!r}.", "one for each variable",
                f"{found[twice[0]]!r}, {constraint!r}", "Write one projection onto what both allow."))  # fmt: skip
        found |= dict.fromkeys(taken, constraint)
    return found


def constrained(constraints: Mapping[str, Constraint], params: Tree, delta: Tree, moved: Tree) -> Tree:
    """Return the new parameters, those with a constraint projected in the dtype of the arithmetic and cast once."""
    result = dict(moved)
    for name, project in constraints.items():
        p = params[name]
        wide = displace(cast(p, compute_dtype(p.dtype)), delta[name])
        if isinstance(project, Projection):
            result[name] = project(wide, dtype=p.dtype)
        else:
            result[name] = cast(project(wide), p.dtype)
    return result if constraints else moved
