"""Where new arrays are put: on the devices of the arrays that they will be used with."""

from __future__ import annotations

from collections.abc import Iterable

import jax
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding


def beside(x: jax.Array, others: Iterable[jax.Array]) -> jax.Array:
    """Return ``x`` on the devices that somebody chose for one of the other arrays, a full copy on each.

    A counter that starts on the default device, beside parameters that were put on others, is moved by the first
    step: the second step finds it elsewhere, and compiles anew. An ``x`` that has its place already stays there.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.zeros(())
        >>> beside(x, [jnp.ones(3)]) is x
        True
    """
    if isinstance(x, jax.core.Tracer) or x.committed:
        return x
    for y in others:
        if not isinstance(y, jax.core.Tracer) and y.committed:
            if isinstance(y.sharding, NamedSharding):
                return jax.device_put(x, NamedSharding(y.sharding.mesh, PartitionSpec()))
            if isinstance(y.sharding, SingleDeviceSharding):
                return jax.device_put(x, y.sharding)
    return x
