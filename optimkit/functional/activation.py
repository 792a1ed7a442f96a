"""Activation functions, and what belongs to softmax.

All of them take arrays and variables of any shape, act on each element unless they have an ``axis``, and keep the
dtype of floating-point inputs. They are plain functions, so that a ``Sequential`` of them can be pickled and copied.
Those that sum over an axis do so in float32 where the input is in half precision.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.core.variable import unwrap
from optimkit.functional.checks import as_array, as_real, float_dtype

Axis = int | tuple[int, ...] | None


def relu(x: Any) -> jax.Array:
    """Rectified linear unit: ``max(x, 0)``, with derivative 0 at 0.

    Example:
        >>> relu(jnp.array([-1.0, 0.0, 2.0]))
        Array([0., 0., 2.], dtype=float32)
    """
    return jax.nn.relu(unwrap(x))


def leaky_relu(x: Any, negative_slope: float = 0.01) -> jax.Array:
    """Leaky rectified linear unit: ``x`` where it is >= 0, else ``negative_slope * x``.

    Example:
        >>> leaky_relu(jnp.array([-1.0, 2.0]), 0.5)
        Array([-0.5,  2. ], dtype=float32)
    """
    return jax.nn.leaky_relu(unwrap(x), negative_slope)


def elu(x: Any, alpha: float = 1.0) -> jax.Array:
    """Exponential linear unit: ``x`` where it is > 0, else ``alpha (eˣ − 1)``.

    Reference: Clevert et al. 2016, Fast and Accurate Deep Network Learning by ELUs. arXiv:1511.07289

    Example:
        >>> elu(jnp.array([0.0, 2.0]))
        Array([0., 2.], dtype=float32)
    """
    return jax.nn.elu(unwrap(x), alpha)


def celu(x: Any, alpha: float = 1.0) -> jax.Array:
    """Continuously differentiable elu: ``max(x, 0) + alpha (exp(min(x, 0) / alpha) − 1)``.

    Reference: Barron 2017, Continuously Differentiable Exponential Linear Units. arXiv:1704.07483

    Example:
        >>> celu(jnp.array([0.0, 2.0]))
        Array([0., 2.], dtype=float32)
    """
    return jax.nn.celu(unwrap(x), alpha)


def selu(x: Any) -> jax.Array:
    """Scaled elu: ``1.0507 elu(x, 1.6733)``, which keeps mean 0 and variance 1.

    Reference: Klambauer et al. 2017, Self-Normalizing Neural Networks. arXiv:1706.02515

    Example:
        >>> selu(jnp.zeros(1))
        Array([0.], dtype=float32)
    """
    return jax.nn.selu(unwrap(x))


def gelu(x: Any, approximate: bool = True) -> jax.Array:
    """Gaussian error linear unit: ``x Φ(x)``, Φ the distribution function of the normal.

    Args:
        x: the input.
        approximate: use ``x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))``, which is within 5e-4 of it.

    Reference: Hendrycks & Gimpel 2016, Gaussian Error Linear Units. arXiv:1606.08415

    Example:
        >>> gelu(jnp.zeros(1))
        Array([0.], dtype=float32)
    """
    return jax.nn.gelu(unwrap(x), approximate)


def sigmoid(x: Any) -> jax.Array:
    """Logistic function: ``1 / (1 + e⁻ˣ)``.

    Example:
        >>> sigmoid(jnp.array([0.0, 1e4, -1e4]))
        Array([0.5, 1. , 0. ], dtype=float32)
    """
    return jax.nn.sigmoid(unwrap(x))


def log_sigmoid(x: Any) -> jax.Array:
    """Logarithm of the logistic function: ``−log(1 + e⁻ˣ)``, also where the logistic function is 0.

    Example:
        >>> log_sigmoid(jnp.array([1e4, -1e4]))
        Array([    -0., -10000.], dtype=float32)
    """
    return jax.nn.log_sigmoid(unwrap(x))


def softplus(x: Any) -> jax.Array:
    """Smooth relu: ``log(1 + eˣ)``, also where eˣ overflows.

    Example:
        >>> softplus(jnp.array([1e4, -1e4]))
        Array([10000.,     0.], dtype=float32)
    """
    return jax.nn.softplus(unwrap(x))


def silu(x: Any) -> jax.Array:
    """Sigmoid linear unit, or swish: ``x / (1 + e⁻ˣ)``.

    Reference: Ramachandran et al. 2017, Searching for Activation Functions. arXiv:1710.05941

    Example:
        >>> silu(jnp.array([0.0, 1e4]))
        Array([    0., 10000.], dtype=float32)
    """
    return jax.nn.silu(unwrap(x))


def swish(x: Any) -> jax.Array:
    """Another name of :func:`silu`.

    Example:
        >>> swish(jnp.zeros(1))
        Array([0.], dtype=float32)
    """
    return silu(x)


def tanh(x: Any) -> jax.Array:
    """Hyperbolic tangent.

    Example:
        >>> tanh(jnp.array([0.0, 1e4]))
        Array([0., 1.], dtype=float32)
    """
    return jnp.tanh(unwrap(x))


def logsumexp(x: Any, axis: Axis = None, *, keepdims: bool = False) -> jax.Array:
    """``log Σ eˣ`` over the axes (over all of them where ``axis`` is None), without overflow or underflow.

    The logarithm of no terms, or of terms that are all 0 (x = −inf), is −inf.

    Example:
        >>> logsumexp(jnp.array([[1e4, 1e4], [-1e4, -jnp.inf]]), axis=-1).round(1)
        Array([ 10000.7, -10000. ], dtype=float32)
    """
    (wide,) = as_real("logsumexp", x)
    return jax.nn.logsumexp(wide, axis=axis, keepdims=keepdims).astype(float_dtype(as_array(x)))


def softmax(x: Any, axis: Axis = -1) -> jax.Array:
    """Probabilities from logits: ``eˣ / Σ eˣ`` over the axis.

    Example:
        >>> softmax(jnp.array([1e4, 1e4, -jnp.inf]))
        Array([0.5, 0.5, 0. ], dtype=float32)
    """
    (wide,) = as_real("softmax", x)
    return jax.nn.softmax(wide, axis=axis).astype(float_dtype(as_array(x)))


def log_softmax(x: Any, axis: Axis = -1) -> jax.Array:
    """Logarithms of probabilities from logits: ``x − log Σ eˣ`` over the axis.

    Example:
        >>> log_softmax(jnp.array([1e4, 1e4])).round(3)
        Array([-0.693, -0.693], dtype=float32)
    """
    (wide,) = as_real("log_softmax", x)
    return jax.nn.log_softmax(wide, axis=axis).astype(float_dtype(as_array(x)))
