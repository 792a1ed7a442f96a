"""What rules that look at all parameters together share: their leaves in wide dtypes, and sums over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import numerics
from optimkit.rules.base import Tree


def scalar_dtype(params: Tree) -> np.dtype:
    """Return the dtype of scalars about all parameters: float32, or float64 where one of them is float64.

    Example:
        >>> scalar_dtype({"w": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros(1)})
        dtype('float32')
    """
    dtypes = {numerics.compute_dtype(p.dtype) for p in jax.tree.leaves(params)}
    return max(dtypes, key=lambda dtype: dtype.itemsize, default=np.dtype(np.float32))


def wide_leaves(values: Tree, params: Tree) -> list[jax.Array]:
    """Return the leaves of a tree as ``params``, in the dtypes of the arithmetic on each parameter."""
    structure: Any = jax.tree.structure(params)
    pairs = zip(structure.flatten_up_to(values), jax.tree.leaves(params), strict=True)
    return [numerics.cast(x, numerics.compute_dtype(p.dtype)) for x, p in pairs]


def total(terms: Sequence[jax.Array], dtype: Any) -> jax.Array:
    """Return the sum of all elements of all arrays, a scalar of ``dtype``; 0 where there are none."""
    return sum((jnp.sum(x, dtype=dtype) for x in terms), jnp.zeros((), dtype))


def dot(xs: Sequence[jax.Array], ys: Sequence[jax.Array], dtype: Any) -> jax.Array:
    """Return the inner product over all elements of all arrays, a scalar of ``dtype``.

    Example:
        >>> float(dot([jnp.ones(2), jnp.array(2.0)], [jnp.ones(2), jnp.array(3.0)], jnp.float32))
        8.0
    """
    return total([x * y for x, y in zip(xs, ys, strict=True)], dtype)
