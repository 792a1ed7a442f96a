"""Layers that give each example mean 0 and variance 1, over its features or over groups of its channels.

Mean and variance are computed in float32 (float64 for float64 inputs), the variance from differences to the mean: the
form E[x²] − E[x]² cancels where the mean is large. The output has the input's dtype, and variables are float32. The
variance is the biased one, Σ (x − mean)² / n. All this holds for ``batchnorm`` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.core.module import Module
from optimkit.core.variable import TrainVar
from optimkit.errors import HyperparameterError, StructureError, message
from optimkit.functional.checks import as_array, as_real, check_count, float_dtype
from optimkit.hyper import check_hyperparameter
from optimkit.util import to_tuple

EPS = "(0, inf)"
POSITIVE = "int [1, inf)"


def moments(x: jax.Array, mean: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance, given how a mean is taken."""
    m = mean(x)
    return m, mean((x - m) ** 2)


class LayerNorm(Module):
    """Layer normalization, over the last axes: of each example alone.

    ::

        y = gamma · (x − m) / √(v + eps) + beta      m, v = mean and variance over the last axes

    Args:
        dims: the lengths of the axes to normalize over; one integer for the last axis.
        eps: added to the variance, > 0.

    Variables: ``gamma`` (ones) and ``beta`` (zeros), TrainVars, float32 of shape ``dims``.

    Raises:
        HyperparameterError: a number is out of its range.
        StructureError: only one number would be normalized.

    Reference: Ba et al. 2016, Layer Normalization. arXiv:1607.06450

    Example:
        >>> LayerNorm(3)(jnp.array([[1.0, 2.0, 3.0]])).round(3)
        Array([[-1.225,  0.   ,  1.225]], dtype=float32)
    """

    def __init__(self, dims: int | Iterable[int], eps: float = 1e-5):
        check_hyperparameter("LayerNorm", "eps", eps, EPS)
        dims = tuple(dims) if isinstance(dims, Iterable) else (dims,)
        dims = to_tuple(dims, max(len(dims), 1), where="LayerNorm", name="dims")
        check_count("LayerNorm", dims, range(len(dims)))
        self.eps = eps
        self.gamma = TrainVar(jnp.ones(dims, jnp.float32))
        self.beta = TrainVar(jnp.zeros(dims, jnp.float32))

    def __call__(self, x: Any, training: bool = True) -> jax.Array:
        """Normalize ``[..., *dims]``; the dtype stays, integers become float32.

        Args:
            x: the input.
            training: has no meaning here, so that the layer can take the place of a BatchNorm.

        Raises:
            StructureError: the last axes do not fit.
        """
        dims, where = self.gamma.shape, f"{self!r}(x)"
        if as_array(x).shape[-len(dims) :] != dims:
            raise StructureError(message(
                where, "the last axes of the input do not fit.", f"[..., {', '.join(map(str, dims))}]",
                f"{list(as_array(x).shape)}"))  # fmt: skip
        (wide,) = as_real(where, x)
        m, v = moments(wide, lambda x: x.mean(tuple(range(-len(dims), 0)), keepdims=True))
        y = (wide - m) * jax.lax.rsqrt(v + self.eps) * self.gamma.value + self.beta.value
        return y.astype(float_dtype(as_array(x)))

    def __repr__(self) -> str:
        return f"LayerNorm(dims={self.gamma.shape}, eps={self.eps})"


class GroupNorm(Module):
    """Group normalization: of each example alone, over groups of neighbouring channels and all places.

    ::

        y = gamma · (x − m) / √(v + eps) + beta      m, v = mean and variance over a group

    With ``groups=1`` this is a layer normalization with a gamma for each channel, with ``groups=nin`` an instance
    normalization.

    Args:
        nin: the number of channels.
        rank: the number of axes of the input ``[N, C, ...]``.
        groups: the number of groups, ``nin`` if that is smaller; must divide it.
        eps: added to the variance, > 0.

    Variables: ``gamma`` (ones) and ``beta`` (zeros), TrainVars, float32 of shape ``[1, C, 1, ...]``.

    Raises:
        HyperparameterError: a number is out of its range, or the groups do not divide the channels.

    Reference: Wu & He 2018, Group Normalization. arXiv:1803.08494

    Example:
        >>> GroupNorm(4, rank=2, groups=2)(jnp.array([[1.0, 3.0, 5.0, 9.0]])).round(3)
        Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    def __init__(self, nin: int, rank: int, groups: int = 32, eps: float = 1e-5):
        where = type(self).__name__
        check_hyperparameter(where, "nin", nin, POSITIVE)
        check_hyperparameter(where, "rank", rank, "int [2, inf)")
        check_hyperparameter(where, "groups", groups, POSITIVE)
        check_hyperparameter(where, "eps", eps, EPS)
        groups = min(groups, nin)
        if nin % groups:
            raise HyperparameterError(message(where, "'groups' must divide the number of channels.",
                                              f"a divisor of nin={nin}", f"groups={groups}"))  # fmt: skip
        self.groups, self.eps = groups, eps
        self.gamma = TrainVar(jnp.ones((1, nin, *[1] * (rank - 2)), jnp.float32))
        self.beta = TrainVar(jnp.zeros((1, nin, *[1] * (rank - 2)), jnp.float32))

    def __call__(self, x: Any, training: bool = True) -> jax.Array:
        """Normalize ``[N, C, ...]``; the dtype stays, integers become float32.

        Args:
            x: the input.
            training: has no meaning here, so that the layer can take the place of a BatchNorm.

        Raises:
            StructureError: the shape does not fit, or a group has only one number.
        """
        where, shape, dims = f"{self!r}(x)", as_array(x).shape, self.gamma.shape
        if len(shape) != len(dims) or shape[1] != dims[1]:
            expected = ", ".join(["*", str(dims[1]), *["*"] * (len(dims) - 2)])
            raise StructureError(message(where, "the shape of the input does not fit.", f"[{expected}]",
                                         f"{list(shape)}"))  # fmt: skip
        (wide,) = as_real(where, x)
        grouped = wide.reshape(shape[0], self.groups, math.prod(shape[1:]) // self.groups)
        check_count(where, grouped.shape, [2])
        m, v = moments(grouped, lambda x: x.mean(2, keepdims=True))
        y = ((grouped - m) * jax.lax.rsqrt(v + self.eps)).reshape(shape)
        return (y * self.gamma.value + self.beta.value).astype(float_dtype(as_array(x)))

    def __repr__(self) -> str:
        name, dims = type(self).__name__, self.gamma.shape
        rank = f"rank={len(dims)}, " if type(self) is GroupNorm else ""
        return f"{name}(nin={dims[1]}, {rank}groups={self.groups}, eps={self.eps})"


class GroupNorm0D(GroupNorm):
    """Group normalization of features ``[N, C]``; see :class:`GroupNorm`.

    Args:
        nin: the number of channels.
        groups: the number of groups, ``nin`` if that is smaller; must divide it.
        eps: added to the variance, > 0.

    Example:
        >>> GroupNorm0D(4, groups=2)(jnp.ones((1, 4))).shape
        (1, 4)
    """

    def __init__(self, nin: int, groups: int = 32, eps: float = 1e-5):
        super().__init__(nin, 2, groups, eps)


class GroupNorm1D(GroupNorm):
    """Group normalization of sequences ``[N, C, L]``; arguments as of :class:`GroupNorm0D`.

    Example:
        >>> GroupNorm1D(4, groups=2)(jnp.ones((1, 4, 5))).shape
        (1, 4, 5)
    """

    def __init__(self, nin: int, groups: int = 32, eps: float = 1e-5):
        super().__init__(nin, 3, groups, eps)


class GroupNorm2D(GroupNorm):
    """Group normalization of images ``[N, C, H, W]``; arguments as of :class:`GroupNorm0D`.

    Example:
        >>> GroupNorm2D(4, groups=2)(jnp.ones((1, 4, 5, 5))).shape
        (1, 4, 5, 5)
    """

    def __init__(self, nin: int, groups: int = 32, eps: float = 1e-5):
        super().__init__(nin, 4, groups, eps)
