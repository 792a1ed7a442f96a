"""What jax.tree lacks: names for paths, and a norm over a whole tree."""

from __future__ import annotations

from typing import Any

import jax

from optimkit import numerics


def names_and_leaves(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Flatten a tree into the names of its leaves, the leaves, and the structure.

    A flat dict, which is what the stateful face passes, has its keys as names; deeper trees join keys by dots.

    Example:
        >>> names_and_leaves({"conv": {"w": 1.0}, "b": [2.0]})[:2]
        (['b.0', 'conv.w'], [2.0, 1.0])
    """
    paths, structure = jax.tree.flatten_with_path(tree)
    return [path_name(path) for path, _ in paths], [leaf for _, leaf in paths], structure


def path_name(path: Any) -> str:
    """Return the name of a leaf: its keys, joined by dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def global_norm(tree: Any) -> jax.Array:
    """Return the Euclidean norm over all leaves together, a scalar; see ``numerics.norm``."""
    return numerics.norm(*jax.tree.leaves(tree))
