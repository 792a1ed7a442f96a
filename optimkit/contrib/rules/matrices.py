"""What rules that look at a parameter as a matrix share: products in full precision, and arrays that are sharded.

A product of a sharded matrix with itself has no one right sharding, and JAX refuses it where shardings are explicit.
These rules therefore work on whole matrices, on each device, and give the result the sharding of the parameter.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

HIGHEST = jax.lax.Precision.HIGHEST  # processors with matrix units would round float32 to less before a product


def whole(x: jax.Array) -> jax.Array:
    """Return an array whose explicit sharding, if it has one, is a full copy on each device."""
    sharding = jax.typeof(x).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*[None] * x.ndim)))


def placed_as(x: jax.Array, like: jax.Array) -> jax.Array:
    """Return an array with the explicit sharding, if it has one, of another of the same shape."""
    sharding = jax.typeof(like).sharding
    return x if all(axis is None for axis in sharding.spec) else jax.sharding.reshard(x, sharding)


def zeros_along(x: jax.Array, axis: int) -> jax.Array:
    """Return a zero for each index of an axis, on the devices where what is summed over the other axes will be.

    Example:
        >>> zeros_along(jnp.ones((2, 3)), 1)
        Array([0., 0., 0.], dtype=float32)
    """
    return jnp.sum(jnp.zeros_like(x), axis=[i for i in range(x.ndim) if i != axis])


def product(*matrices: jax.Array) -> jax.Array:
    """Return the product of matrices, from the left, float32 in full precision.

    Example:
        >>> product(jnp.ones((2, 3)), jnp.ones((3, 1)), jnp.ones((1, 1))).tolist()
        [[3.0], [3.0]]
    """
    result = matrices[0]
    for matrix in matrices[1:]:
        result = jnp.matmul(result, matrix, precision=HIGHEST)
    return result


def each(f: Callable[[jax.Array], jax.Array], stacked: bool) -> Callable[[jax.Array], jax.Array]:
    """Return a function of a matrix, or of a stack of them along the first axis."""
    return jax.vmap(f) if stacked else f
