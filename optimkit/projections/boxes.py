"""Sets that bound each number by itself."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import numerics
from optimkit.errors import HyperparameterError, message
from optimkit.hyper import hyper
from optimkit.projections.base import Projection


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
        if low is not None and high is not None and low > high:
            low = high = np.asarray((self.low + self.high) / 2, dtype)
        return jnp.clip(numerics.cast(x, dtype), low, high)


def _inside(bound: float, dtype: np.dtype, way: int) -> np.ndarray | None:
    """Return the first number of a dtype from a bound on, upward for ``way = 1`` and downward for -1, if it is one."""
    if math.isinf(bound):
        return None
    largest = float(jnp.finfo(dtype).max)
    nearest = np.asarray(min(max(bound, -largest), largest), dtype)
    outside = (float(nearest) - bound) * way < 0
    return np.nextafter(nearest, np.asarray(way * largest, dtype)) if outside else nearest


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
