"""Dropout."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.core.module import Module
from optimkit.core.random import DEFAULT_GENERATOR, Generator
from optimkit.functional.checks import as_array, as_real, as_training, float_dtype
from optimkit.hyper import check_hyperparameter
from optimkit.numerics import safe_divide

KEEP = "[0, 1]"


class Dropout(Module):
    """In training, sets each element to 0 with probability 1 − keep, and divides the others by keep.

    So the mean of the output is the input. In evaluation the output is the input.

    The masks come from a generator, which is part of the layer: ``model.vars()`` lists its state, as
    ``(Dropout).keygen(Generator)._key``, and a function compiled with these variables draws a new mask on each call.
    One that is compiled without them raises TraceMutationError. A copy of the layer (deepcopy, pickle) has a generator
    of its own, which starts where that of the original is.

    Args:
        keep: the probability to keep an element, in [0, 1].
        generator: what to draw from.

    Raises:
        HyperparameterError: ``keep`` is out of its range.

    Reference: Srivastava et al. 2014, Dropout: A Simple Way to Prevent Neural Networks from Overfitting

    Deviations: objax takes ``dropout_keep=0`` for None, and a ``keep`` above 1 for 1.

    Example:
        >>> from optimkit.core import Generator
        >>> layer = Dropout(0.5, Generator(0))
        >>> sorted(set(layer(jnp.ones(100), training=True).tolist())), layer(jnp.ones(2), training=False)
        ([0.0, 2.0], Array([1., 1.], dtype=float32))
    """

    def __init__(self, keep: float, generator: Generator = DEFAULT_GENERATOR):
        check_hyperparameter("Dropout", "keep", keep, KEEP)
        self.keygen = generator
        self.keep = keep

    def __call__(self, x: Any, training: bool, dropout_keep: Any = None) -> jax.Array:
        """Drop elements of ``x``.

        Args:
            x: an array of any shape.
            training: whether to drop anything.
            dropout_keep: takes the place of ``keep`` in this call; may be traced.

        Returns:
            The shape and dtype of ``x``; float32 for integers. All zeros where keep is 0.

        Raises:
            HyperparameterError: ``dropout_keep`` is known and out of range.
            DTypeError: ``training`` is traced.
            TraceMutationError: the call is compiled by a transform that does not list the generator.
        """
        where = f"{self!r}(x, training)"
        x, keep = as_array(x), self.keep if dropout_keep is None else dropout_keep
        dtype = float_dtype(x)
        check_hyperparameter(where, "dropout_keep", keep, KEEP)
        if not as_training(where, training) or (isinstance(keep, int | float) and keep == 1):
            return x.astype(dtype)
        if isinstance(keep, int | float) and keep == 0:
            return jnp.zeros(x.shape, dtype)
        kept = jax.random.bernoulli(self.keygen(), keep, x.shape)
        (wide,) = as_real(where, x)
        return jnp.where(kept, safe_divide(wide, keep), 0).astype(dtype)

    def __repr__(self) -> str:
        return f"Dropout(keep={self.keep})"
