"""The base of all projections: checks of fields, precision, and rounding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import numerics
from optimkit.errors import DTypeError, describe, message
from optimkit.hyper import check_hyperparameters


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
        check_hyperparameters(self, arrays=True)

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
