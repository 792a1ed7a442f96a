"""Batch normalization: the batch has mean 0 and variance 1 in each channel. Numerics as in ``normalization``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.core.module import Module
from optimkit.core.variable import StateVar, TrainVar
from optimkit.errors import StructureError, message
from optimkit.functional.checks import as_array, as_real, as_training, check_count, float_dtype
from optimkit.functional.parallel import pmean, psum
from optimkit.hyper import check_hyperparameter
from optimkit.nn.normalization import EPS, POSITIVE, moments
from optimkit.numerics import cast


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
        >>> normalize = jax.vmap(lambda x: norm(x, True, batch_norm_update=False), axis_name="device")
        >>> y = normalize(jnp.array([[[0.0]], [[2.0]]]))  # two devices with one example each
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
