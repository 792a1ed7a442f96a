"""Sets of vectors: the simplex and balls, of a whole array or of each part of it along some axes."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import numerics
from optimkit.errors import StructureError, describe, message
from optimkit.hyper import hyper
from optimkit.projections.base import Projection, toward_zero

Axis = int | tuple[int, ...] | None

_SLACK = 4  # eps by which balls are made smaller, so that no later rounding leads out of them


@dataclasses.dataclass(frozen=True)
class _Rowwise(Projection):
    """A set of vectors, in which the whole array lies, or each part of it along some axes."""

    axis: Axis = dataclasses.field(default=None, kw_only=True)

    def project(self, x: jax.Array) -> jax.Array:
        """Return the nearest point, row by row."""
        axes = self._axes(x)
        if not x.size:
            return x
        kept = [i for i in range(x.ndim) if i not in axes]
        moved = jnp.transpose(x, (*kept, *axes))
        rows = self.project_rows(moved.reshape(-1, math.prod(x.shape[i] for i in axes)))
        return jnp.transpose(rows.reshape(moved.shape), np.argsort((*kept, *axes)).tolist())

    def _axes(self, x: jax.Array) -> tuple[int, ...]:
        if self.axis is None:
            return tuple(range(x.ndim))
        axes = (self.axis,) if isinstance(self.axis, int) else tuple(self.axis)
        if not all(-x.ndim <= i < x.ndim for i in axes) or len({i % x.ndim for i in axes}) < len(axes):
            raise StructureError(message(type(self).__name__, f"the array has no axes {self.axis!r}.",
                                         f"different numbers from {-x.ndim} to {x.ndim - 1}", describe(x)))  # fmt: skip
        return tuple(i % x.ndim for i in axes)

    def project_rows(self, x: jax.Array) -> jax.Array:
        """Return the nearest point to each row of a matrix."""
        raise NotImplementedError(f"{type(self).__name__} does not define project_rows.")


@dataclasses.dataclass(frozen=True)
class Simplex(_Rowwise):
    """Vectors of numbers that are not negative and have a given sum: probabilities, mixture weights.

    ::

        S = {x : xᵢ ≥ 0, Σxᵢ = total}
        P(x)ᵢ = max(xᵢ − θ, 0),  θ = (Σ_{j ≤ ρ} uⱼ − total) / ρ
        u = x in descending order,  ρ = max{j : uⱼ − (Σ_{r ≤ j} uᵣ − total) / j > 0}

    Args:
        total: the sum.
        axis: the axes along which a vector lies; the whole array is one where None.

    In O(n log n). The largest number is subtracted first, which changes nothing and keeps the sums short.

    Raises:
        HyperparameterError: the total is not positive.
        StructureError: the array lacks an axis (when called).

    Reference: Duchi, Shalev-Shwartz, Singer & Chandra 2008, Efficient Projections onto the ℓ1-Ball, Figure 1.

    Example:
        >>> Simplex()(jnp.array([0.5, 0.75, -1.0]))
        Array([0.375, 0.625, 0.   ], dtype=float32)
    """

    total: float = hyper(1.0, "(0, inf)", "the sum")

    def project_rows(self, x: jax.Array) -> jax.Array:
        """Return the nearest point to each row."""
        total = jnp.sum(x, -1, keepdims=True)
        near = jnp.abs(total - self.total) <= 8 * jnp.finfo(x.dtype).eps * self.total
        inside = near & jnp.all(x >= 0, -1, keepdims=True)
        return jnp.where(inside, x, _on_simplex(x, self.total))


def _on_simplex(x: jax.Array, total: float) -> jax.Array:
    """Return the nearest point to each row with numbers that are not negative and sum to ``total``."""
    # Numbers more than `total` below the largest are 0 in the end; sums need not carry them.
    v = jnp.maximum(x - jnp.max(x, -1, keepdims=True), -2 * total)
    u = -jnp.sort(-v, axis=-1)
    excess, count = jnp.cumsum(u, -1) - total, jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    rho = jnp.sum(u * count > excess, -1, keepdims=True)
    theta = jnp.take_along_axis(excess, jnp.maximum(rho, 1) - 1, -1) / jnp.maximum(rho, 1)
    w = jnp.maximum(v - theta, 0.0)
    return w * numerics.safe_divide(total, jnp.sum(w, -1, keepdims=True))  # the rounding of θ adds up over a row


@dataclasses.dataclass(frozen=True)
class L1Ball(_Rowwise):
    """Vectors whose absolute values sum to at most a radius: sparse ones.

    ::

        S = {x : Σ|xᵢ| ≤ radius}
        P(x) = x inside,  sign(x) · P_simplex(|x|) with total = radius outside

    Args:
        radius: the largest sum of absolute values.
        axis: the axes along which a vector lies; the whole array is one where None.

    Raises:
        HyperparameterError: the radius is negative or NaN.
        StructureError: the array lacks an axis (when called).

    Reference: Duchi, Shalev-Shwartz, Singer & Chandra 2008, Efficient Projections onto the ℓ1-Ball, section 4.

    Example:
        >>> [round(float(x), 6) for x in L1Ball(1.0)(jnp.array([0.75, -1.0, 0.125]))]
        [0.375, -0.625, 0.0]
    """

    radius: float = hyper(1.0, "[0, inf)", "the largest sum of absolute values")

    def project_rows(self, x: jax.Array) -> jax.Array:
        """Return the nearest point to each row."""
        outside = jnp.sum(jnp.abs(x), -1, keepdims=True) > self.radius
        return jnp.where(outside, jnp.sign(x) * _on_simplex(jnp.abs(x), _smaller(self.radius, x)), x)

    def rounded(self, x: jax.Array, dtype: np.dtype) -> jax.Array:
        """Return the numbers rounded toward 0, which leads out of no ball."""
        return toward_zero(x, dtype)


@dataclasses.dataclass(frozen=True)
class L2Ball(_Rowwise):
    """Vectors whose Euclidean length is at most a radius: a max-norm constraint.

    ::

        S = {x : ‖x‖ ≤ radius},  P(x) = x · min(1, radius / ‖x‖)

    Args:
        radius: the largest length.
        axis: the axes along which a vector lies; the whole array is one where None. ``axis=0`` constrains the weights
            into each unit of a matrix ``[in, out]``.

    Raises:
        HyperparameterError: the radius is negative or NaN.
        StructureError: the array lacks an axis (when called).

    Example:
        >>> [round(float(x), 6) for x in L2Ball(1.0)(jnp.array([3.0, 4.0]))]
        [0.6, 0.8]
    """

    radius: float = hyper(1.0, "[0, inf)", "the largest length")

    def project_rows(self, x: jax.Array) -> jax.Array:
        """Return the nearest point to each row."""
        # Lengths relative to the largest number of a row, so that no square over- or underflows.
        largest = jnp.max(jnp.abs(x), -1, keepdims=True)
        unit = numerics.safe_divide(x, largest)
        length = jnp.sqrt(jnp.sum(unit**2, -1, keepdims=True))
        outside = length > self.radius / jnp.where(largest == 0, 1.0, largest)
        return jnp.where(outside, unit * numerics.safe_divide(_smaller(self.radius, x), length), x)

    def rounded(self, x: jax.Array, dtype: np.dtype) -> jax.Array:
        """Return the numbers rounded toward 0, which leads out of no ball."""
        return toward_zero(x, dtype)


def _smaller(radius: float, x: jax.Array) -> float:
    """Return a radius by so much smaller that a point on it is inside, however its norm is rounded."""
    return radius * (1 - _SLACK * float(jnp.finfo(x.dtype).eps))
