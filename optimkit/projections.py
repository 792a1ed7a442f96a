"""Projections: the nearest point of a set, as a value that is a function of an array.

``Optimizer(..., constraints={"weights": projections.Simplex()})`` projects the parameters that match after each step,
before they are stored: projected gradient descent. A projection is of the Euclidean norm; it leaves a point of its set
where it is, and NaN comes through.

They are computed in float32 (float64 for float64) and rounded once. Rounding is part of it: what is stored in half
precision lies in the set, too, wherever the numbers of that precision allow it. Where a set is one of equality, a sum
of 1 for instance, it holds as nearly as they can.

Write another as a subclass that defines ``project``, or as a plain function from array to array.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import numerics
from optimkit.errors import DTypeError, HyperparameterError, StructureError, describe, message
from optimkit.hyper import check_hyperparameter, hyper, hyperparameters

Axis = int | tuple[int, ...] | None

_SLACK = 8  # roundings by which balls are made smaller, so that no later rounding leads out of them


class Projection:
    """Base of all projections: what is common to them is rounding, and the checks of their fields.

    A subclass is a frozen dataclass that defines ``project(x)``, for arrays of float32 or float64, and, where the
    nearest number of another precision may lie outside the set, ``rounded(x, dtype)``.

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass(frozen=True)
        ... class Even(Projection):
        ...     def project(self, x):
        ...         return (x + jnp.flip(x)) / 2
        >>> Even()(jnp.array([1.0, 3.0]))
        Array([2., 2.], dtype=float32)
    """

    def __post_init__(self) -> None:
        for name, field in hyperparameters(self).items():
            value = getattr(self, name)
            if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0:
                value = value.item()
            check_hyperparameter(type(self).__name__, name, value, field.metadata["domain"])
            object.__setattr__(self, name, value)

    def __call__(self, x: Any, dtype: Any = None) -> jax.Array:
        """Return the nearest point to ``x``.

        Args:
            x: an array of floating point.
            dtype: the dtype of the result; that of ``x`` where None.

        Raises:
            DTypeError: the array is not of floating point.
            StructureError: it is of a shape that the set has no points of.
        """
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise DTypeError(message(type(self).__name__, "only real numbers of floating point can be projected.",
                                     "an array of float32, for example", describe(x)))  # fmt: skip
        target = np.dtype(x.dtype if dtype is None else dtype)
        return self.rounded(self.project(numerics.cast(x, numerics.compute_dtype(x.dtype))), target)

    def project(self, x: jax.Array) -> jax.Array:
        """Return the nearest point, in the dtype of ``x``: float32 or float64."""
        raise NotImplementedError(f"{type(self).__name__} does not define project.")

    def rounded(self, x: jax.Array, dtype: np.dtype) -> jax.Array:
        """Return a point of the set in a dtype: each number rounded to the nearest, for most."""
        return numerics.cast(x, dtype)


def toward_zero(x: jax.Array, dtype: np.dtype) -> jax.Array:
    """Return ``x`` in a dtype, each number rounded toward 0.

    Example:
        >>> x = jnp.float32(0.1)
        >>> float(x.astype("bfloat16")), float(toward_zero(x, jnp.dtype("bfloat16")))
        (0.10009765625, 0.099609375)
    """
    nearest = numerics.cast(x, dtype)
    beyond = jnp.abs(nearest.astype(x.dtype)) > jnp.abs(x)
    return jnp.where(beyond, jax.lax.nextafter(nearest, jnp.zeros_like(nearest)), nearest)


@dataclasses.dataclass(frozen=True)
class Box(Projection):
    """Numbers between two bounds.

    ::

        S = {x : low ≤ xᵢ ≤ high},  P(x)ᵢ = min(max(xᵢ, low), high)

    Args:
        low: the lower bound; there is none where it is -inf.
        high: the upper bound, at least ``low``; there is none where it is inf.

    A bound that a dtype does not have becomes its next number inside, or the nearest where there is none inside.

    Raises:
        HyperparameterError: a bound is NaN, or ``low`` is above ``high``.

    Example:
        >>> Box(-1.0, 1.0)(jnp.array([-3.0, 0.5, 2.0]))
        Array([-1. ,  0.5,  1. ], dtype=float32)
    """

    low: float = hyper(-math.inf, "[-inf, inf]", "the lower bound")
    high: float = hyper(math.inf, "[-inf, inf]", "the upper bound")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise HyperparameterError(message(type(self).__name__, "'low' is above 'high'.", f"at most {self.high!r}",
                                              f"{self.low!r}"))  # fmt: skip

    def project(self, x: jax.Array) -> jax.Array:
        """Return ``min(max(x, low), high)``."""
        return self.rounded(x, x.dtype)

    def rounded(self, x: jax.Array, dtype: np.dtype) -> jax.Array:
        """Return the numbers in a dtype, between bounds that this dtype has."""
        low, high = _inside(self.low, dtype, 1), _inside(self.high, dtype, -1)
        if low > high:
            low = high = np.asarray((self.low + self.high) / 2, dtype)
        return jnp.clip(numerics.cast(x, dtype), low, high)


def _inside(bound: float, dtype: np.dtype, way: int) -> np.ndarray:
    """Return the first number of a dtype from a bound on, upward for ``way = 1`` and downward for -1."""
    with np.errstate(over="ignore"):
        nearest = np.asarray(bound, dtype)
    outside = (float(nearest) - bound) * way < 0
    return np.nextafter(nearest, np.asarray(way * math.inf, dtype)) if outside else nearest


@dataclasses.dataclass(frozen=True)
class NonNegative(Projection):
    """Numbers that are not negative.

    ::

        S = {x : xᵢ ≥ 0},  P(x)ᵢ = max(xᵢ, 0)

    Example:
        >>> NonNegative()(jnp.array([-3.0, 0.5]))
        Array([0. , 0.5], dtype=float32)
    """

    def project(self, x: jax.Array) -> jax.Array:
        """Return ``max(x, 0)``."""
        return jnp.maximum(x, 0.0)


@dataclasses.dataclass(frozen=True)
class LInfBall(Projection):
    """Numbers whose absolute value is at most a radius.

    ::

        S = {x : maxᵢ |xᵢ| ≤ radius},  P(x)ᵢ = min(max(xᵢ, −radius), radius)

    Args:
        radius: the largest absolute value.

    Raises:
        HyperparameterError: the radius is negative or NaN.

    Example:
        >>> LInfBall(2.0)(jnp.array([-3.0, 0.5]))
        Array([-2. ,  0.5], dtype=float32)
    """

    radius: float = hyper(1.0, "[0, inf)", "the largest absolute value")

    def project(self, x: jax.Array) -> jax.Array:
        """Return the numbers between ``-radius`` and ``radius``."""
        return Box(-self.radius, self.radius).project(x)

    def rounded(self, x: jax.Array, dtype: np.dtype) -> jax.Array:
        """Return the numbers in a dtype, between bounds that this dtype has."""
        return Box(-self.radius, self.radius).rounded(x, dtype)


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
        return jnp.transpose(rows.reshape(moved.shape), np.argsort((*kept, *axes)))

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
        near = jnp.abs(total - self.total) <= _SLACK * jnp.finfo(x.dtype).eps * self.total
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
        return np.array_equal(self.normal, other.normal) and self.offset == other.offset  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.normal.tobytes(), self.offset))

    def project(self, x: jax.Array) -> jax.Array:
        """Return the nearest point."""
        if self.normal.ndim and self.normal.shape != x.shape:
            raise StructureError(message(type(self).__name__, "the normal does not fit the array.",
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
        outside = (nearest.astype(x.dtype) - x) * inward < 0
        return jnp.where(outside, jax.lax.nextafter(nearest, (inward * jnp.inf).astype(dtype)), nearest)
