"""Layers that return averages of what they were called with.

Not to be mistaken for the averages of a model's weights, ``optimkit.ema``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.core.module import Module
from optimkit.core.variable import StateVar
from optimkit.functional.checks import as_array, as_real, check_same_shape
from optimkit.hyper import check_hyperparameter
from optimkit.numerics import cast


class MovingAverage(Module):
    """Mean of the last ``buffer_size`` inputs; those before the first count as ``init_value``.

    Args:
        shape: the shape of the inputs.
        buffer_size: how many inputs are averaged.
        init_value: what the buffer is filled with at first.

    Variables: ``buffer``, ``[buffer_size, *shape]``, a float32 StateVar; the oldest input comes first.

    Raises:
        HyperparameterError: ``buffer_size`` is not a positive integer.

    Example:
        >>> average = MovingAverage((), buffer_size=2)
        >>> [float(average(x)) for x in (2.0, 4.0, 6.0)]
        [1.0, 3.0, 5.0]
    """

    def __init__(self, shape: Sequence[int], buffer_size: int, init_value: float = 0):
        check_hyperparameter("MovingAverage", "buffer_size", buffer_size, "int [1, inf)")
        self.init_value = init_value
        self.buffer = StateVar(_filled("MovingAverage", (buffer_size, *shape), init_value))

    def __call__(self, x: Any) -> jax.Array:
        """Take ``x`` in, and return the mean, float32.

        Raises:
            StructureError: the shape of ``x`` is another one.
        """
        x = _input(f"{self!r}(x)", x, self.buffer.shape[1:])
        self.buffer.value = jnp.concatenate([self.buffer.value[1:], x[None]])
        return self.buffer.value.mean(0)

    def __repr__(self) -> str:
        size, *shape = self.buffer.shape
        return f"MovingAverage(shape={tuple(shape)}, buffer_size={size}, init_value={self.init_value})"


class ExponentialMovingAverage(Module):
    """Exponential moving average of the inputs: ``avg ← momentum · avg + (1 − momentum) · x``.

    Args:
        shape: the shape of the inputs.
        momentum: how much of the average an input leaves, in [0, 1).
        init_value: the average before the first input; it is not corrected for.

    Variables: ``avg``, of the inputs' shape, a float32 StateVar.

    Raises:
        HyperparameterError: ``momentum`` is out of its range.

    Example:
        >>> average = ExponentialMovingAverage((), momentum=0.5)
        >>> [float(average(x)) for x in (2.0, 4.0, 6.0)]
        [1.0, 2.5, 4.25]
    """

    def __init__(self, shape: Sequence[int], momentum: float = 0.999, init_value: float = 0):
        check_hyperparameter("ExponentialMovingAverage", "momentum", momentum, "[0, 1)")
        self.momentum, self.init_value = momentum, init_value
        self.avg = StateVar(_filled("ExponentialMovingAverage", tuple(shape), init_value))

    def __call__(self, x: Any) -> jax.Array:
        """Take ``x`` in, and return the average, float32.

        Raises:
            StructureError: the shape of ``x`` is another one.
        """
        x = _input(f"{self!r}(x)", x, self.avg.shape)
        self.avg.value += (1 - self.momentum) * (x - self.avg.value)
        return self.avg.value

    def __repr__(self) -> str:
        return (
            f"ExponentialMovingAverage(shape={self.avg.shape}, momentum={self.momentum}, init_value={self.init_value})"
        )


def _filled(where: str, shape: tuple[int, ...], value: float) -> jax.Array:
    check_hyperparameter(where, "init_value", value, "(-inf, inf)")
    return jnp.full(shape, value, jnp.float32)


def _input(where: str, x: Any, shape: tuple[int, ...]) -> jax.Array:
    check_same_shape(where, "x", as_array(x), "the layer", shape)
    return cast(as_real(where, x)[0], jnp.float32)
