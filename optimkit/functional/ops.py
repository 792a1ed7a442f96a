"""Array operations under objax's names. Unlike those of ``jax.lax``, they take variables too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.core.variable import BaseVar, unwrap
from optimkit.errors import StructureError, message
from optimkit.functional.checks import as_array


def unwrap_tree(tree: Any) -> Any:
    """Return a tree with arrays in place of its variables."""
    return jax.tree.map(unwrap, tree, is_leaf=lambda x: isinstance(x, BaseVar))


def one_hot(x: Any, num_classes: int, *, dtype: Any = jnp.float32, axis: int = -1) -> jax.Array:
    """Return 1 at the index of the class and 0 elsewhere, on a new axis; zeros for an index out of range.

    Args:
        x: integers, of any shape.
        num_classes: the length of the new axis.
        dtype: the dtype of the result.
        axis: where the new axis goes.

    Example:
        >>> one_hot(jnp.array([1, 0]), 3)
        Array([[0., 1., 0.],
               [1., 0., 0.]], dtype=float32)
    """
    return jax.nn.one_hot(unwrap(x), num_classes, dtype=dtype, axis=axis)


def flatten(x: Any) -> jax.Array:
    """Return ``[N, ...]`` as ``[N, product of the rest]``.

    Raises:
        StructureError: ``x`` is a scalar.

    Example:
        >>> flatten(jnp.zeros((2, 3, 4))).shape
        (2, 12)
    """
    x = as_array(x)
    if not x.ndim:
        raise StructureError(message("flatten", "the input has no batch axis.", "[N, ...]", "[]"))
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def pad(x: Any, pad_width: Any, mode: str | Callable[..., Any] = "constant", **kwargs: Any) -> jax.Array:
    """Pad an array; as ``jax.numpy.pad``.

    Example:
        >>> pad(jnp.ones(2), (1, 0))
        Array([0., 1., 1.], dtype=float32)
    """
    return jnp.pad(as_array(x), pad_width, mode, **kwargs)


def rsqrt(x: Any) -> jax.Array:
    """Return ``1 / √x``; infinity at 0.

    Example:
        >>> rsqrt(jnp.array([4.0, 16.0]))
        Array([0.5 , 0.25], dtype=float32)
    """
    return jax.lax.rsqrt(unwrap(x))


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """Loop over the leading axis of ``xs`` with a carried value: ``carry, y = f(carry, x)``; as ``jax.lax.scan``.

    A function that *writes* variables needs ``optimkit.Scan``; here it raises TraceMutationError.

    Returns:
        The last carry, and the ``y`` stacked on axis 0.

    Example:
        >>> scan(lambda total, x: (total + x, total), jnp.float32(0), jnp.arange(4.0))
        (Array(6., dtype=float32), Array([0., 0., 1., 3.], dtype=float32))
    """
    return jax.lax.scan(f, unwrap_tree(init), unwrap_tree(xs), length, reverse, unroll)


def stop_gradient(x: Any) -> Any:
    """Return the value of an array, a variable or a tree of them, as a constant for derivatives.

    Example:
        >>> float(jax.grad(lambda x: x * stop_gradient(x))(3.0))
        3.0
    """
    return jax.lax.stop_gradient(unwrap_tree(x))


def top_k(x: Any, k: int) -> tuple[jax.Array, jax.Array]:
    """Return the ``k`` largest values along the last axis, in falling order, and their indices.

    Example:
        >>> top_k(jnp.array([1.0, 5.0, 3.0]), 2)
        (Array([5., 3.], dtype=float32), Array([1, 2], dtype=int32))
    """
    values, indices = jax.lax.top_k(as_array(x), k)
    return values, indices


def dynamic_slice(x: Any, start_indices: Any, slice_sizes: Sequence[int]) -> jax.Array:
    """Return the slice of a fixed size that begins at indices which may be traced; as ``jax.lax.dynamic_slice``.

    A slice that would leave the array is moved back into it.

    Example:
        >>> dynamic_slice(jnp.arange(5), (3,), (2,))
        Array([3, 4], dtype=int32)
    """
    return jax.lax.dynamic_slice(as_array(x), unwrap_tree(start_indices), slice_sizes)
