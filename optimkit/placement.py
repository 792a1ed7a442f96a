"""Where new arrays are put: on the devices of the arrays that they will be used with.

A counter that starts on the default device, beside parameters that were put on others, is moved by the first step: the
second step finds it elsewhere, and compiles anew.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding


def place_beside(arrays: Iterable[jax.Array]) -> Sharding | None:
    """Return a full copy on each device that somebody chose for one of the arrays; None where nobody did.

    Example:
        >>> import jax.numpy as jnp
        >>> place_beside([jnp.ones(3)]) is None
        True
    """
    for x in arrays:
        if not isinstance(x, jax.core.Tracer) and x.committed:
            if isinstance(x.sharding, NamedSharding):
                return NamedSharding(x.sharding.mesh, PartitionSpec())
            if isinstance(x.sharding, SingleDeviceSharding):
                return x.sharding
    return None


def put(x: jax.Array, place: Sharding | None) -> jax.Array:
    """Return ``x`` at a place; where it is, if that is None or somebody chose its place already."""
    if place is None or isinstance(x, jax.core.Tracer) or x.committed:
        return x
    return jax.device_put(x, place)
