"""Losses, computed so that they are right at any size of the logits, in float32 also for half-precision inputs.

They keep the batch axis; ``.mean()`` over it makes the scalar that ``GradValues`` wants. Shapes must be equal, for what
NumPy would broadcast (labels ``[N, 1]`` with predictions ``[N]``) is nearly always a mistake, and one that trains.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.errors import StructureError, message
from optimkit.functional.checks import as_array, as_indices, as_real, check_same_shape


def cross_entropy_logits(logits: Any, labels: Any) -> jax.Array:
    """Cross entropy of probabilities against softmax of logits, over the last axis.

    ::

        loss = −Σₖ labelsₖ · (logitsₖ − log Σⱼ exp(logitsⱼ))

    A class of logit −inf (probability 0) and label 0 contributes 0.

    Args:
        logits: ``[..., classes]``.
        labels: ``[..., classes]``, probabilities; those of one place sum to 1.

    Returns:
        ``[...]``: float32, or float64 for float64 inputs.

    Raises:
        StructureError: the shapes differ.
        DTypeError: an input is complex.

    Deviations: objax computes ``log Σ exp(logits) − Σ labels · logits``, which cancels where logits are large, is NaN
    at a logit of −inf, and is something else where labels do not sum to 1; it broadcasts labels with a warning.

    Example:
        >>> cross_entropy_logits(jnp.array([[1e4, 0.0], [0.0, 0.0]]), jnp.array([[0.0, 1.0], [0.5, 0.5]])).round(2)
        Array([1.0e+04, 6.9e-01], dtype=float32)
    """
    where = "cross_entropy_logits(logits, labels)"
    x, y = as_real(where, logits, labels)
    _check_classes(where, x)
    check_same_shape(where, "labels", y, "the logits", x.shape)
    log_p = jax.nn.log_softmax(x, axis=-1)
    # 0 · −inf is NaN. Only that case is masked: elsewhere the derivative by a label of 0 is −log_p, not 0.
    log_p = jnp.where((y == 0) & jnp.isneginf(log_p), 0.0, log_p)
    return -(y * log_p).sum(-1)


def cross_entropy_logits_sparse(logits: Any, labels: Any) -> jax.Array:
    """Cross entropy of classes, given as integers, against softmax of logits over the last axis.

    ::

        loss = log Σⱼ exp(logitsⱼ) − logits[label]

    Args:
        logits: ``[..., classes]``.
        labels: ``[...]``, integers in [0, classes), or one Python integer for all places. The loss at a label out of
            range is NaN, for which class was meant is unknown.

    Returns:
        ``[...]``: float32, or float64 for float64 inputs.

    Raises:
        StructureError: the shapes do not fit, or a Python integer is out of range.
        DTypeError: labels are not integers, or logits are complex.

    Deviations: objax takes a negative label for a class counted from the end.

    Example:
        >>> cross_entropy_logits_sparse(jnp.array([[1e4, 0.0], [0.0, 0.0]]), jnp.array([1, 0])).round(2)
        Array([1.0e+04, 6.9e-01], dtype=float32)
    """
    where = "cross_entropy_logits_sparse(logits, labels)"
    (x,) = as_real(where, logits)
    _check_classes(where, x)
    index, known = as_indices(where, "labels", labels, x.shape[-1])
    if isinstance(labels, numbers.Integral):
        index, known = (jnp.broadcast_to(a, x.shape[:-1]) for a in (index, known))
    check_same_shape(where, "labels", index, "the logits", x.shape[:-1])
    log_p = jnp.take_along_axis(jax.nn.log_softmax(x, axis=-1), index[..., None], axis=-1)[..., 0]
    return jnp.where(known, -log_p, jnp.nan)


def sigmoid_cross_entropy_logits(logits: Any, labels: Any) -> jax.Array:
    """Cross entropy of probabilities against the logistic function of logits, for each element.

    ::

        loss = labels · log(1 + exp(−logits)) + (1 − labels) · log(1 + exp(logits))

    Args:
        logits: ``[...]``, finite.
        labels: ``[...]``, probabilities in [0, 1], or one Python number for all places.

    Returns:
        ``[...]``: float32, or float64 for float64 inputs.

    Raises:
        StructureError: the shapes differ.
        DTypeError: an input is complex.

    Example:
        >>> sigmoid_cross_entropy_logits(jnp.array([1e4, -1e4, 0.0]), jnp.array([1.0, 1.0, 0.0])).round(2)
        Array([0.0e+00, 1.0e+04, 6.9e-01], dtype=float32)
    """
    where = "sigmoid_cross_entropy_logits(logits, labels)"
    x, y = as_real(where, logits, labels)
    if not isinstance(labels, numbers.Real):
        check_same_shape(where, "labels", y, "the logits", x.shape)
    return y * jax.nn.softplus(-x) + (1 - y) * jax.nn.softplus(x)


def l2(x: Any) -> jax.Array:
    """Half the sum of squares, ``½ Σ x²``: a scalar, float32, or float64 for float64 inputs.

    Raises:
        DTypeError: the input is complex.

    Example:
        >>> float(l2(jnp.array([3.0, 4.0])))
        12.5
    """
    (x,) = as_real("l2(x)", x)
    return 0.5 * jnp.sum(x**2)


def mean_absolute_error(x: Any, y: Any, keep_axis: int | Iterable[int] | None = (0,)) -> jax.Array:
    """Mean of ``|x − y|`` over all axes but those kept.

    Args:
        x: an array.
        y: an array of the same shape.
        keep_axis: the axes to keep, by default that of the batch; None for none, which gives a scalar.

    Returns:
        The shape of the axes kept: float32, or float64 for float64 inputs. The derivative where x = y is 0.

    Raises:
        StructureError: the shapes differ, or there is no such axis.
        DTypeError: an input is complex.

    Example:
        >>> mean_absolute_error(jnp.array([[1.0, 2.0], [3.0, 3.0]]), jnp.array([[0.0, 0.0], [3.0, 3.0]]))
        Array([1.5, 0. ], dtype=float32)
    """
    where = "mean_absolute_error(x, y)"
    x, y = _pair(where, x, y)
    # JAX's derivative of |d| at 0 is 1, which would push predictions that are right.
    difference = x - y
    return _mean(where, jnp.where(difference == 0, 0.0, jnp.abs(difference)), keep_axis)


def mean_squared_error(x: Any, y: Any, keep_axis: int | Iterable[int] | None = (0,)) -> jax.Array:
    """Mean of ``(x − y)²`` over all axes but those kept; arguments and errors as of :func:`mean_absolute_error`.

    Example:
        >>> mean_squared_error(jnp.array([[1.0, 2.0], [3.0, 3.0]]), jnp.array([[0.0, 0.0], [3.0, 3.0]]))
        Array([2.5, 0. ], dtype=float32)
    """
    where = "mean_squared_error(x, y)"
    x, y = _pair(where, x, y)
    return _mean(where, (x - y) ** 2, keep_axis)


def mean_squared_log_error(y_true: Any, y_pred: Any, keep_axis: int | Iterable[int] | None = (0,)) -> jax.Array:
    """Mean of ``(log(1 + y_true) − log(1 + y_pred))²`` over all axes but those kept.

    Both must be above −1; the result is NaN or infinite where they are not. Arguments and errors as of
    :func:`mean_absolute_error`.

    Example:
        >>> mean_squared_log_error(jnp.array([[0.0, 1.0]]), jnp.array([[0.0, 1.0]]))
        Array([0.], dtype=float32)
    """
    where = "mean_squared_log_error(y_true, y_pred)"
    x, y = _pair(where, y_true, y_pred)
    return _mean(where, (jnp.log1p(x) - jnp.log1p(y)) ** 2, keep_axis)


def _check_classes(where: str, x: jax.Array) -> None:
    if not x.ndim or not x.shape[-1]:
        raise StructureError(message(where, "the logits have no axis of classes.", "[..., classes]",
                                     f"{list(x.shape)}"))  # fmt: skip


def _pair(where: str, x: Any, y: Any) -> list[jax.Array]:
    check_same_shape(where, "the second argument", as_array(y), "the first", as_array(x).shape)
    return as_real(where, x, y)


def _mean(where: str, loss: jax.Array, keep_axis: int | Iterable[int] | None) -> jax.Array:
    """Return the mean over all axes but those kept; a scalar has none to keep."""
    axes = (keep_axis,) if isinstance(keep_axis, int) else tuple(keep_axis or ())
    if not all(-loss.ndim <= i < loss.ndim for i in axes) and loss.ndim:
        raise StructureError(message(where, "keep_axis names an axis that is not there.",
                                     f"axes of shape {list(loss.shape)}", f"{axes}"))  # fmt: skip
    kept = {i % loss.ndim for i in axes} if loss.ndim else set()
    return loss.mean([i for i in range(loss.ndim) if i not in kept])
