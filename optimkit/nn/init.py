"""Initializers: functions from a shape to an array, float32.

Shapes end in the number of outputs: ``[inputs, outputs]`` for a linear layer, ``[height, width, inputs, outputs]``
(HWIO) for a convolution, where ``inputs`` are those of one group. From that follow ::

    receptive = product of all axes but the last two        (1 for a linear layer)
    fan_in    = receptive · inputs                          the terms in the sum of one output
    fan_out   = receptive · outputs                         the terms in the gradient of one input (at stride 1)

``gain`` multiplies the result. An initializer draws from a generator, ``optimkit.random.DEFAULT_GENERATOR`` if none is
given: ``functools.partial(kaiming_normal, generator=Generator(1))`` is a ``w_init`` of its own. For weights in another
dtype, cast: ``w_init=lambda shape: kaiming_normal(shape).astype(jnp.bfloat16)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from optimkit.core import random
from optimkit.core.random import DEFAULT_GENERATOR, Generator
from optimkit.errors import HyperparameterError, StructureError, message
from optimkit.hyper import check_hyperparameter

Shape = Sequence[int]


def gain_leaky_relu(relu_slope: float = 0.1) -> float:
    """Gain that keeps the variance through a leaky relu of this slope: ``√(2 / (1 + slope²))``; √2 for a relu.

    Reference: He et al. 2015, Delving Deep into Rectifiers, eq. 15. arXiv:1502.01852

    Example:
        >>> round(gain_leaky_relu(0.0), 4), gain_leaky_relu(1.0)
        (1.4142, 1.0)
    """
    check_hyperparameter("gain_leaky_relu", "relu_slope", relu_slope, "(-inf, inf)")
    return math.sqrt(2 / (1 + relu_slope**2))


def kaiming_normal_gain(shape: Shape) -> float:
    """Standard deviation that keeps the variance forward: ``√(1 / fan_in)``.

    He's factor of 2 for the relu is in the gain, ``gain_leaky_relu(0)``.

    Raises:
        StructureError: the shape has fewer than two axes, or an axis that is not positive.

    Example:
        >>> kaiming_normal_gain((2, 2, 4, 8))
        0.25
    """
    fan_in, _ = _fans("kaiming_normal_gain", shape)
    return math.sqrt(1 / fan_in)


def xavier_normal_gain(shape: Shape) -> float:
    """Standard deviation between what keeps the variance forward and backward: ``√(2 / (fan_in + fan_out))``.

    Raises:
        StructureError: the shape has fewer than two axes, or an axis that is not positive.

    Deviations: objax leaves the receptive field out of fan_out, which makes a convolution's backward variance too large
    by it; for linear layers there is no difference.

    Example:
        >>> xavier_normal_gain((2, 6)), xavier_normal_gain((2, 2, 2, 6))
        (0.5, 0.25)
    """
    return math.sqrt(2 / sum(_fans("xavier_normal_gain", shape)))


def kaiming_normal(shape: Shape, gain: float = 1, *, generator: Generator = DEFAULT_GENERATOR) -> jax.Array:
    """Normal with mean 0 and standard deviation ``gain · √(1 / fan_in)``.

    Args:
        shape: the shape, outputs last.
        gain: a factor; see :func:`gain_leaky_relu`.
        generator: what to draw from.

    Raises:
        StructureError: the shape has fewer than two axes, or an axis that is not positive.

    Reference: He et al. 2015, Delving Deep into Rectifiers. arXiv:1502.01852

    Example:
        >>> kaiming_normal((3, 3, 8, 16)).shape
        (3, 3, 8, 16)
    """
    return random.normal(shape, stddev=gain * kaiming_normal_gain(shape), generator=generator)


def kaiming_truncated_normal(
    shape: Shape, lower: float = -2, upper: float = 2, gain: float = 1, *, generator: Generator = DEFAULT_GENERATOR
) -> jax.Array:
    """Truncated normal with standard deviation ``gain · √(1 / fan_in)``, after the truncation.

    Args:
        shape: the shape, outputs last.
        lower: where the normal is cut off, in units of its standard deviation before the truncation.
        upper: likewise, above.
        gain: a factor; see :func:`gain_leaky_relu`.
        generator: what to draw from.

    Raises:
        StructureError: the shape has fewer than two axes, or an axis that is not positive.
        HyperparameterError: ``lower`` is not below ``upper``.

    Example:
        >>> kaiming_truncated_normal((8, 16)).shape
        (8, 16)
    """
    return truncated_normal(shape, lower, upper, gain * kaiming_normal_gain(shape), generator=generator)


def xavier_normal(shape: Shape, gain: float = 1, *, generator: Generator = DEFAULT_GENERATOR) -> jax.Array:
    """Normal with mean 0 and standard deviation ``gain · √(2 / (fan_in + fan_out))``.

    Args:
        shape: the shape, outputs last.
        gain: a factor.
        generator: what to draw from.

    Raises:
        StructureError: the shape has fewer than two axes, or an axis that is not positive.

    Reference: Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks, eq. 12

    Example:
        >>> xavier_normal((8, 16)).shape
        (8, 16)
    """
    return random.normal(shape, stddev=gain * xavier_normal_gain(shape), generator=generator)


def xavier_truncated_normal(
    shape: Shape, lower: float = -2, upper: float = 2, gain: float = 1, *, generator: Generator = DEFAULT_GENERATOR
) -> jax.Array:
    """Truncated normal with standard deviation ``gain · √(2 / (fan_in + fan_out))``, after the truncation.

    Arguments and errors are those of :func:`kaiming_truncated_normal`.

    Example:
        >>> xavier_truncated_normal((8, 16)).shape
        (8, 16)
    """
    return truncated_normal(shape, lower, upper, gain * xavier_normal_gain(shape), generator=generator)


def truncated_normal(
    shape: Shape, lower: float = -2, upper: float = 2, stddev: float = 1, *, generator: Generator = DEFAULT_GENERATOR
) -> jax.Array:
    """Truncated normal that is scaled to have this standard deviation after the truncation.

    Args:
        shape: the shape.
        lower: where the normal is cut off, in units of its standard deviation before the truncation.
        upper: likewise, above.
        stddev: the standard deviation of the result about its own mean, which is 0 where ``lower = -upper``.
        generator: what to draw from.

    Returns:
        Numbers between ``stddev · lower / s`` and ``stddev · upper / s``, where s is the standard deviation of a
        standard normal cut off there: 0.8796 for (−2, 2).

    Raises:
        HyperparameterError: ``lower`` is not below ``upper``, or both are so far out that nothing is left.

    Example:
        >>> bool((abs(truncated_normal((100,), stddev=0.1)) < 0.1 * 2 / 0.879).all())
        True
    """
    scale = stddev / _truncated_stddev(lower, upper)
    return random.truncated_normal(shape, stddev=scale, lower=lower, upper=upper, generator=generator)


def identity(shape: Shape, gain: float = 1) -> jax.Array:
    """``gain`` on the diagonal and 0 elsewhere.

    Raises:
        StructureError: the shape does not have two axes.

    Reference: Le et al. 2015, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units. arXiv:1504.00941

    Example:
        >>> identity((2, 3))
        Array([[1., 0., 0.],
               [0., 1., 0.]], dtype=float32)
    """
    if len(shape) != 2:
        raise StructureError(message("identity", "the shape is not that of a matrix.", "two axes", f"{tuple(shape)}"))
    return gain * jnp.eye(shape[0], shape[1], dtype=jnp.float32)


def orthogonal(
    shape: Shape, gain: float = 1, axis: int = -1, *, generator: Generator = DEFAULT_GENERATOR
) -> jax.Array:
    """Orthogonal matrix, uniformly distributed, times ``gain``.

    The array is taken as a matrix with one row for each index along ``axis``, all other axes together being its
    columns. Its rows are orthonormal if it has as many columns as rows or more, else its columns are.

    Args:
        shape: the shape, of at least one axis.
        gain: a factor.
        axis: the axis that makes the rows; the default is that of the outputs.
        generator: what to draw from.

    Raises:
        StructureError: the shape has no such axis, or one that is not positive.

    Reference: Saxe et al. 2014, Exact solutions to the nonlinear dynamics of learning in deep linear neural networks.
    arXiv:1312.6120. Uniform by the sign of R's diagonal: Mezzadri 2007, arXiv:math-ph/0609050

    Example:
        >>> w = orthogonal((4, 3))
        >>> bool(jnp.allclose(w.T @ w, jnp.eye(3), atol=1e-5))
        True
    """
    shape = tuple(shape)
    if not -len(shape) <= axis < len(shape) or not all(n > 0 for n in shape):
        raise StructureError(message("orthogonal", f"the shape has no rows along axis {axis}.",
                                     "positive lengths, and such an axis", f"{shape}"))  # fmt: skip
    rows, columns = shape[axis], math.prod(shape) // shape[axis]
    q, r = jnp.linalg.qr(random.normal((max(rows, columns), min(rows, columns)), generator=generator))
    q = q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)
    rest = [n for i, n in enumerate(shape) if i != axis % len(shape)]
    return gain * jnp.moveaxis((q if rows > columns else q.T).reshape(rows, *rest), 0, axis)


def _fans(where: str, shape: Shape) -> tuple[int, int]:
    """Return fan_in and fan_out, as the module's docstring defines them."""
    if len(shape) < 2 or not all(n > 0 for n in shape):
        raise StructureError(message(
            where, "the shape has no inputs and outputs to count.", "[..., inputs, outputs], all > 0",
            f"{tuple(shape)}"))  # fmt: skip
    receptive = math.prod(shape[:-2])
    return receptive * shape[-2], receptive * shape[-1]


def _truncated_stddev(lower: float, upper: float) -> float:
    """Return the standard deviation of a standard normal that is cut off at ``lower`` and ``upper``."""
    for name, value in (("lower", lower), ("upper", upper)):
        check_hyperparameter("truncated_normal", name, value, "[-inf, inf]")
    density = lambda x: math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)  # noqa: E731
    moment = lambda x: 0.0 if math.isinf(x) else x * density(x)  # noqa: E731
    mass = 0.5 * (math.erf(upper / math.sqrt(2)) - math.erf(lower / math.sqrt(2)))
    # The generator inverts the distribution function in float32: with a smaller mass it would give a few numbers only.
    if not lower < upper or mass < 1e-4:
        raise HyperparameterError(message(
            "truncated_normal", "too little of the normal is left between 'lower' and 'upper'.",
            "lower < upper, with at least 1e-4 of the mass between them", f"lower={lower}, upper={upper}"
        ))  # fmt: skip
    mean = (density(lower) - density(upper)) / mass
    return math.sqrt(1 + (moment(lower) - moment(upper)) / mass - mean**2)
