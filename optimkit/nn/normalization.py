"""Layers that give their input mean 0 and variance 1, over a batch, a group of channels, or the features.

Mean and variance are computed in float32 (float64 for float64 inputs), the variance from differences to the mean: the
form E[x²] − E[x]² cancels where the mean is large. The output has the input's dtype, and variables are float32. The
variance is the biased one, Σ (x − mean)² / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.core.module import Module
from optimkit.core.variable import StateVar, TrainVar
from optimkit.errors import DTypeError, HyperparameterError, StructureError, message
from optimkit.functional.checks import as_array, as_real, check_count, float_dtype
from optimkit.functional.parallel import pmean, psum
from optimkit.hyper import check_hyperparameter
from optimkit.nn.linear import POSITIVE
from optimkit.numerics import cast
from optimkit.util import to_tuple

EPS = "(0, inf)"


def moments(x: jax.Array, mean: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance, given how a mean is taken."""
    m = mean(x)
    return m, mean((x - m) ** 2)


def as_training(where: str, training: Any) -> bool:
    """Return the flag ``training``, which Python must know: it decides what is computed.

    Raises:
        DTypeError: it is traced.
    """
    if isinstance(training, jax.core.Tracer):
        raise DTypeError(message(
            where, "'training' is traced, so whether this is a training step is not known.", "True or False",
            "a tracer", "Jit(f, vc, static_argnames=('training',)), or ForceArgs(model, training=...)."
        ))  # fmt: skip
    return bool(training)


class BatchNorm(Module):
    """Batch normalization over any axes.

    ::

        training:    m, v = mean and variance of the batch over the axes ``redux``
                     running_mean ← momentum · running_mean + (1 − momentum) · m,   likewise running_var with v
        evaluation:  m, v = running_mean, running_var
        y = gamma · (x − m) / √(v + eps) + beta

    :class:`BatchNorm0D`, :class:`BatchNorm1D` and :class:`BatchNorm2D` know their axes. After ``Vectorize`` and
    ``Parallel`` the running statistics are the means of those of the copies.

    Args:
        dims: the shape of the statistics: 1 along ``redux``, the input's length along all other axes.
        redux: the axes to normalize over.
        momentum: how much of the running statistics a batch leaves, in [0, 1).
        eps: added to the variance, > 0.

    Variables: ``running_mean`` (zeros) and ``running_var`` (ones), StateVars; ``beta`` (zeros) and ``gamma`` (ones),
    TrainVars; all float32 of shape ``dims``.

    Raises:
        HyperparameterError: a number is out of its range.
        StructureError: ``dims`` and ``redux`` do not fit.

    Reference: Ioffe & Szegedy 2015, Batch Normalization, Algorithm 1. arXiv:1502.03167. The running variance is the
    mean of the biased variances, as in objax and flax.

    Example:
        >>> norm = BatchNorm((1, 3), redux=(0,), momentum=0.0)
        >>> y = norm(jnp.array([[0.0, 1.0, 2.0], [2.0, 5.0, 2.0]]), training=True)
        >>> y.round(3), norm.running_mean[0]
        (Array([[-1., -1.,  0.],
               [ 1.,  1.,  0.]], dtype=float32), Array([1., 3., 2.], dtype=float32))
    """

    def __init__(self, dims: Iterable[int], redux: Iterable[int], momentum: float = 0.999, eps: float = 1e-6):
        where, dims, redux = type(self).__name__, tuple(dims), tuple(redux)
        check_hyperparameter(where, "momentum", momentum, "[0, 1)")
        check_hyperparameter(where, "eps", eps, EPS)
        for n in dims:
            check_hyperparameter(where, "dims", n, POSITIVE)
        if not redux or not all(-len(dims) <= i < len(dims) and dims[i] == 1 for i in redux):
            raise StructureError(message(where, "'redux' does not fit 'dims'.", "axes along which dims is 1",
                                         f"redux={redux}, dims={dims}"))  # fmt: skip
        self.redux, self.momentum, self.eps = redux, momentum, eps
        self.running_mean = StateVar(jnp.zeros(dims, jnp.float32))
        self.running_var = StateVar(jnp.ones(dims, jnp.float32))
        self.beta = TrainVar(jnp.zeros(dims, jnp.float32))
        self.gamma = TrainVar(jnp.ones(dims, jnp.float32))

    def __call__(self, x: Any, training: bool, batch_norm_update: bool = True) -> jax.Array:
        """Normalize ``x``.

        Args:
            x: of the shape that ``dims`` describes.
            training: whether to use the statistics of the batch, or the running ones.
            batch_norm_update: False leaves the running statistics as they are in training.

        Returns:
            The shape and dtype of ``x``; float32 for integers.

        Raises:
            StructureError: the shape does not fit, or in training there is only one number for a mean.
            DTypeError: ``training`` is traced.
        """
        where = f"{self!r}(x, training)"
        training = as_training(where, training)
        self._check_shape(where, as_array(x).shape)
        (wide,) = as_real(where, x)
        if training:
            self._check_count(where, wide)
            m, v = moments(wide, self._mean)
            if batch_norm_update:
                self._update(self.running_mean, m)
                self._update(self.running_var, v)
        else:
            m, v = self.running_mean.value, self.running_var.value
        y = (wide - m) * (self.gamma.value * jax.lax.rsqrt(v + self.eps)) + self.beta.value
        return y.astype(float_dtype(as_array(x)))

    def _mean(self, x: jax.Array) -> jax.Array:
        return x.mean(self.redux, keepdims=True)

    def _check_count(self, where: str, x: jax.Array) -> None:
        check_count(where, x.shape, self.redux)

    def _update(self, running: StateVar, batch: jax.Array) -> None:
        running.value += (1 - self.momentum) * (cast(batch, running.dtype) - running.value)

    def _check_shape(self, where: str, shape: tuple[int, ...]) -> None:
        dims = self.beta.shape
        axes = {i % len(dims) for i in self.redux}
        if len(shape) != len(dims) or any(n != shape[i] for i, n in enumerate(dims) if i not in axes):
            expected = ", ".join("*" if i in axes else str(n) for i, n in enumerate(dims))
            raise StructureError(message(where, "the shape of the input does not fit.", f"[{expected}]",
                                         f"{list(shape)}"))  # fmt: skip

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(dims={self.beta.shape}, redux={self.redux}, momentum={self.momentum}, eps={self.eps})"


class _ChannelNorm(BatchNorm):
    """Batch normalization of each channel of ``[N, C, ...]``; subclasses set the number of axes."""

    ndim: int

    def __init__(self, nin: int, momentum: float = 0.999, eps: float = 1e-6):
        check_hyperparameter(type(self).__name__, "nin", nin, POSITIVE)
        dims = (1, nin, *[1] * (self.ndim - 2))
        super().__init__(dims, tuple(i for i in range(self.ndim) if i != 1), momentum, eps)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(nin={self.beta.shape[1]}, momentum={self.momentum}, eps={self.eps})"


class BatchNorm0D(_ChannelNorm):
    """Batch normalization of features ``[N, C]``; see :class:`BatchNorm`.

    Args:
        nin: the number of channels.
        momentum: how much of the running statistics a batch leaves, in [0, 1).
        eps: added to the variance, > 0.

    Variables: as of BatchNorm, ``[1, C]``.

    Example:
        >>> BatchNorm0D(3)(jnp.ones((2, 3)), training=True).shape
        (2, 3)
    """

    ndim = 2


class BatchNorm1D(_ChannelNorm):
    """Batch normalization of sequences ``[N, C, L]``; arguments as of :class:`BatchNorm0D`.

    Variables: as of BatchNorm, ``[1, C, 1]``.

    Example:
        >>> BatchNorm1D(3)(jnp.ones((2, 3, 5)), training=True).shape
        (2, 3, 5)
    """

    ndim = 3


class BatchNorm2D(_ChannelNorm):
    """Batch normalization of images ``[N, C, H, W]``; arguments as of :class:`BatchNorm0D`.

    Variables: as of BatchNorm, ``[1, C, 1, 1]``.

    Example:
        >>> BatchNorm2D(3)(jnp.ones((2, 3, 5, 5)), training=True).shape
        (2, 3, 5, 5)
    """

    ndim = 4


class SyncedBatchNorm(BatchNorm):
    """Batch normalization with the statistics of the batches of all devices together.

    Training must run inside ``Parallel``, or be mapped over an axis called ``device``; evaluation need not.

    Example:
        >>> norm = SyncedBatchNorm((1, 1), redux=(0,))
        >>> y = jax.vmap(lambda x: norm(x, True, batch_norm_update=False), axis_name="device")(jnp.array([[[0.]], [[2.]]]))
        >>> y.ravel().round(3)
        Array([-1.,  1.], dtype=float32)
    """

    def _mean(self, x: jax.Array) -> jax.Array:
        return pmean(super()._mean(x))

    def _check_count(self, where: str, x: jax.Array) -> None:
        check_count(where, (psum(1), *x.shape), [0, *(i % x.ndim + 1 for i in self.redux)])


class SyncedBatchNorm0D(SyncedBatchNorm, BatchNorm0D):
    """:class:`SyncedBatchNorm` of features ``[N, C]``; arguments as of :class:`BatchNorm0D`."""


class SyncedBatchNorm1D(SyncedBatchNorm, BatchNorm1D):
    """:class:`SyncedBatchNorm` of sequences ``[N, C, L]``; arguments as of :class:`BatchNorm0D`."""


class SyncedBatchNorm2D(SyncedBatchNorm, BatchNorm2D):
    """:class:`SyncedBatchNorm` of images ``[N, C, H, W]``; arguments as of :class:`BatchNorm0D`."""


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
        m, v = moments(wide, lambda x: x.mean(range(-len(dims), 0), keepdims=True))
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
