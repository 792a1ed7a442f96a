"""Arithmetic that is right where the obvious form is not: near 0, near 1, at 0/0 and in low precision."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

INT32_MAX = np.int32(2**31 - 1)


def compute_dtype(dtype: Any) -> np.dtype:
    """Return the dtype that arithmetic on ``dtype`` is done in: float32, or float64 for float64.

    Example:
        >>> compute_dtype("bfloat16"), compute_dtype("float32"), compute_dtype("float64")
        (dtype('float32'), dtype('float32'), dtype('float64'))
    """
    return np.dtype(np.float64) if np.dtype(dtype) == np.float64 else np.dtype(np.float32)


def cast(x: Any, dtype: Any) -> jax.Array:
    """Return ``x`` as an array of exactly ``dtype``, never weakly typed; free when it already is one."""
    if isinstance(x, jax.Array) and x.dtype == dtype and not x.weak_type:
        return x
    return jax.lax.convert_element_type(jnp.asarray(x), dtype)


def count_up(t: jax.Array) -> jax.Array:
    """Return ``t + 1`` for an int32 counter that stops at 2**31 - 1 instead of turning negative."""
    return jnp.where(t < INT32_MAX, t + 1, INT32_MAX)


def one_minus_pow(beta: Any, t: Any) -> Any:
    """Return ``1 - beta**t`` without cancellation, for ``0 <= beta < 1`` and ``t >= 1``.

    The obvious form is wrong by 1e-5 in float32 at beta = 0.999 and t = 1, which Adam would pass on to every
    parameter. ``-expm1(t log beta)``, with the logarithm of a Python number taken in float64, is right to rounding.

    Example:
        >>> f"{one_minus_pow(0.999, 1.0):.6f}, not {1 - jnp.float32(0.999) ** 1.0:.8f}"
        '0.001000, not 0.00099999'
    """
    if isinstance(beta, jax.Array | np.ndarray):
        log: Any = jnp.log(beta)
    else:
        log = math.log(beta) if beta > 0 else -math.inf
    return -jnp.expm1(t * log)


def safe_divide(numerator: Any, denominator: Any, otherwise: Any = 0.0) -> jax.Array:
    """Return ``numerator / denominator``, and ``otherwise`` where the denominator is 0, with clean derivatives.

    The division in the branch that is not taken is guarded too, so that no NaN reaches a gradient.
    """
    zero = denominator == 0
    return jnp.where(zero, otherwise, numerator / jnp.where(zero, 1.0, denominator))


def norm(*arrays: jax.Array) -> jax.Array:
    """Return the Euclidean norm of all arrays together: float32, or float64 if one of them is.

    Squares are taken relative to the largest element, so that nothing overflows or underflows on the way, also in
    half precision. The norm of zeros, or of nothing, is 0 with derivative 0; NaN and infinity come through.

    Example:
        >>> f"{norm(jnp.array([3e30, 4e30])):.3e}", float(norm(jnp.zeros((0, 3))))
        ('5.000e+30', 0.0)
    """
    wide = [cast(x, compute_dtype(x.dtype)) for x in arrays if x.size]
    if not wide:
        return jnp.zeros((), jnp.float32)
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(jax.lax.stop_gradient(x))) for x in wide])
    # Processors may take subnormal numbers for 0 in a division and not in a comparison: those count as 0 here.
    unit = jnp.where((largest >= jnp.finfo(largest.dtype).tiny) & jnp.isfinite(largest), largest, 1.0)
    return unit * safe_sqrt(functools.reduce(jnp.add, [jnp.sum((x / unit) ** 2) for x in wide]))


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Return the square root, with derivative 0 instead of infinity at 0."""
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))
