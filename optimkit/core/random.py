"""Random numbers whose generator is a variable, so that compiled steps draw new ones on each call."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from optimkit.core.collection import VarCollection
from optimkit.core.module import Module
from optimkit.core.variable import RandomState

Shape = Sequence[int]


class Generator(Module):
    """A random number generator: a module with one RandomState, made from ``seed`` when first used.

    A function that draws from it and is compiled must list it: ``Jit(f, model.vars() + generator.vars())``.

    Example:
        >>> g = Generator(0)
        >>> bool((normal((2,), generator=g) == normal((2,), generator=g)).any())
        False
    """

    def __init__(self, seed: int = 0):
        self.initial_seed = seed
        self._key: RandomState | None = None

    @property
    def key(self) -> RandomState:
        """The generator's state."""
        if self._key is None:
            self._key = RandomState(self.initial_seed)
            self._key._buffer.name = "(Generator)._key"
        return self._key

    def seed(self, seed: int = 0) -> None:
        """Start again from a seed."""
        self.initial_seed = seed
        if self._key is not None:
            self._key.seed(seed)

    def __call__(self) -> jax.Array:
        """Return a fresh key and advance."""
        return self.key.split(1)[0]

    def vars(self, scope: str = "") -> VarCollection:
        """Return the generator's state."""
        self._key = self.key
        return super().vars(scope)


DEFAULT_GENERATOR = Generator(0)


def normal(
    shape: Shape, *, mean: float = 0.0, stddev: float = 1.0, generator: Generator = DEFAULT_GENERATOR
) -> jax.Array:
    """Draw from the normal distribution, ``float32[shape]``."""
    return jax.random.normal(generator(), tuple(shape)) * stddev + mean


def truncated_normal(
    shape: Shape,
    *,
    stddev: float = 1.0,
    lower: float = -2.0,
    upper: float = 2.0,
    generator: Generator = DEFAULT_GENERATOR,
) -> jax.Array:
    """Draw from the normal distribution cut off at ``lower`` and ``upper`` (in units of ``stddev``)."""
    return jax.random.truncated_normal(generator(), lower, upper, tuple(shape)) * stddev


def uniform(
    shape: Shape, *, low: float = 0.0, high: float = 1.0, generator: Generator = DEFAULT_GENERATOR
) -> jax.Array:
    """Draw uniformly from ``[low, high)``, ``float32[shape]``."""
    return jax.random.uniform(generator(), tuple(shape), minval=low, maxval=high)


def randint(shape: Shape, low: int, high: int, generator: Generator = DEFAULT_GENERATOR) -> jax.Array:
    """Draw integers uniformly from ``[low, high)``, ``int32[shape]``."""
    return jax.random.randint(generator(), tuple(shape), low, high)


def bernoulli(shape: Shape, p: float = 0.5, *, generator: Generator = DEFAULT_GENERATOR) -> jax.Array:
    """Draw True with probability ``p``, ``bool[shape]``."""
    return jnp.asarray(jax.random.bernoulli(generator(), p, tuple(shape)))
