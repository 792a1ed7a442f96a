"""Divergences between probability distributions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.functional.checks import as_real, check_same_shape
from optimkit.hyper import check_hyperparameter


def kl(p: Any, q: Any, eps: float = 2**-17) -> jax.Array:
    """Kullback-Leibler divergence ``Σ p (log(p + eps) − log(q + eps))`` over the last axis.

    Args:
        p: ``[..., n]``, probabilities.
        q: ``[..., n]``, probabilities.
        eps: keeps the logarithms finite; with ``eps=0`` they are not where a probability is 0.

    Returns:
        ``[...]``: float32, or float64 for float64 inputs.

    Raises:
        StructureError: the shapes differ.
        DTypeError: an input is complex.
        HyperparameterError: ``eps`` is negative.

    Deviations: objax multiplies two-dimensional arrays as matrices; here each row is a distribution.

    Example:
        >>> kl(jnp.array([[0.5, 0.5], [1.0, 0.0]]), jnp.array([[0.5, 0.5], [0.5, 0.5]])).round(3)
        Array([0.   , 0.693], dtype=float32)
    """
    check_hyperparameter("kl", "eps", eps, "[0, inf)")
    p, q = as_real("kl(p, q)", p, q)
    check_same_shape("kl(p, q)", "q", q, "p", p.shape)
    return (p * (jnp.log(p + eps) - jnp.log(q + eps))).sum(-1)
