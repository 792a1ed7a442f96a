"""Sets that a plane is, or bounds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import numerics
from optimkit.errors import HyperparameterError, StructureError, describe, message
from optimkit.hyper import hyper
from optimkit.projections.base import Projection


@dataclasses.dataclass(frozen=True, eq=False)
class _Plane(Projection):
    """A set that a plane bounds, or is."""

    normal: Any
    offset: float = hyper(0.0, "(-inf, inf)", "the value of the inner product")

    def __post_init__(self) -> None:
        super().__post_init__()
        normal = np.asarray(self.normal, np.float64)
        if not np.isfinite(normal).all() or not normal.any():
            raise HyperparameterError(message(type(self).__name__, "the normal has no direction.",
                                              "finite numbers, not all of them 0", repr(self.normal)))  # fmt: skip
        normal.flags.writeable = False
        object.__setattr__(self, "normal", normal)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return np.array_equal(self.normal, other.normal) and self.offset == other.offset

    def __hash__(self) -> int:
        return hash((type(self), self.normal.tobytes(), self.offset))

    def project(self, x: jax.Array) -> jax.Array:
        """Return the nearest point."""
        if self.normal.ndim and self.normal.shape != x.shape:
            raise StructureError(message(
                type(self).__name__, "the normal does not fit the array.",
                f"shape {list(x.shape)}, or one number for all", describe(self.normal)))  # fmt: skip
        if not x.size:
            return x
        normal = np.broadcast_to(self.normal, x.shape)
        largest = np.abs(normal).max()
        length = largest * math.sqrt(((normal / largest) ** 2).sum())
        unit, offset = jnp.asarray(normal / length, x.dtype), self.offset / length
        # The second time takes off what rounding has left of the first.
        for _ in range(2):
            x = x - self.too_far(jnp.sum(unit * x) - offset) * unit
        return x

    def too_far(self, distance: jax.Array) -> jax.Array:
        """Return how far to go, for a point at a distance from the plane along its normal."""
        return distance


@dataclasses.dataclass(frozen=True, eq=False)
class Hyperplane(_Plane):
    """Arrays that have a given inner product with a normal.

    ::

        S = {x : ⟨normal, x⟩ = offset},  P(x) = x − (⟨normal, x⟩ − offset) / ‖normal‖² · normal

    Args:
        normal: an array of the parameter's shape; one number stands for an array of it, so that ``Hyperplane(1.0)``
            is the set of arrays with sum 0.
        offset: the inner product.

    Raises:
        HyperparameterError: the normal is 0 or not finite, or the offset is not.
        StructureError: the array has another shape than the normal (when called).

    Example:
        >>> [round(float(x), 6) for x in Hyperplane(1.0, 3.0)(jnp.array([1.0, 0.0]))]
        [2.0, 1.0]
    """


@dataclasses.dataclass(frozen=True, eq=False)
class HalfSpace(_Plane):
    """Arrays whose inner product with a normal is at most a number.

    ::

        S = {x : ⟨normal, x⟩ ≤ offset},  P(x) = x − max(⟨normal, x⟩ − offset, 0) / ‖normal‖² · normal

    Args:
        normal: an array of the parameter's shape; one number stands for an array of it.
        offset: the largest inner product.

    It holds to a few roundings of float32. In lower precision each number is rounded to the side that is inside.

    Raises:
        HyperparameterError: the normal is 0 or not finite, or the offset is not.
        StructureError: the array has another shape than the normal (when called).

    Example:
        >>> [[round(float(x), 6) for x in HalfSpace(1.0, 3.0)(jnp.array(p))] for p in ([2.0, 3.0], [1.0, 0.0])]
        [[1.0, 2.0], [1.0, 0.0]]
    """

    def too_far(self, distance: jax.Array) -> jax.Array:
        """Return the distance of points that are beyond the plane."""
        return jnp.maximum(distance, 0.0)

    def rounded(self, x: jax.Array, dtype: np.dtype) -> jax.Array:
        """Return the numbers in a dtype, each rounded against the normal."""
        nearest = numerics.cast(x, dtype)
        inward = jnp.asarray(-np.sign(np.broadcast_to(self.normal, x.shape)), x.dtype)
        outside, largest = (nearest.astype(x.dtype) - x) * inward < 0, float(jnp.finfo(dtype).max)
        return jnp.where(outside, jax.lax.nextafter(nearest, (inward * largest).astype(dtype)), nearest)
