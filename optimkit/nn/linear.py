"""Layers that multiply by a matrix: linear, convolution, embedding.

Weights and biases are float32 unless the initializer returns another dtype, which the bias then has too. An input of
another dtype is promoted with them as ``jax.numpy`` does: bfloat16 with float32 gives float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.constants import ConvPadding
from optimkit.core import random
from optimkit.core.module import Module
from optimkit.core.variable import TrainVar, unwrap
from optimkit.errors import HyperparameterError, StructureError, describe, message
from optimkit.functional.checks import as_array, as_indices, check_images, check_window
from optimkit.hyper import check_hyperparameter
from optimkit.nn.init import kaiming_normal, xavier_normal
from optimkit.nn.normalization import POSITIVE
from optimkit.util import Padding, to_padding, to_tuple

Initializer = Callable[[tuple[int, ...]], Any]
Size = int | Sequence[int]


def initialized(where: str, w_init: Initializer, shape: tuple[int, ...]) -> TrainVar:
    """Return a parameter with what an initializer gives.

    Raises:
        StructureError: that has another shape, or is not of floating point.
    """
    w = jnp.array(unwrap(w_init(shape)))  # a copy: two layers of one constant must not share, and donate, its buffer
    if w.shape != shape or not jnp.issubdtype(w.dtype, jnp.floating):
        raise StructureError(message(where, "the array that 'w_init' returned does not fit.",
                                     f"floats of shape {list(shape)}", describe(w)))  # fmt: skip
    return TrainVar(w)


class Linear(Module):
    """Linear layer: ``y = x w + b`` over the last axis.

    Args:
        nin: the number of inputs.
        nout: the number of outputs.
        use_bias: whether there is a ``b``.
        w_init: from a shape ``(nin, nout)`` to an array.

    Variables: ``b``, ``[nout]``, zeros; ``w``, ``[nin, nout]``.

    Raises:
        HyperparameterError: a size is not a positive integer.
        StructureError: the initializer returns something else.

    Example:
        >>> Linear(3, 4)(jnp.ones((2, 3))).shape
        (2, 4)
    """

    def __init__(self, nin: int, nout: int, use_bias: bool = True, w_init: Initializer = xavier_normal):
        check_hyperparameter("Linear", "nin", nin, POSITIVE)
        check_hyperparameter("Linear", "nout", nout, POSITIVE)
        w = initialized("Linear", w_init, (nin, nout))
        self.b = TrainVar(jnp.zeros(nout, w.dtype)) if use_bias else None
        self.w = w

    def __call__(self, x: Any) -> jax.Array:
        """Map ``[..., nin]`` to ``[..., nout]``.

        Raises:
            StructureError: the last axis has another length.
        """
        x, nin = as_array(x), self.w.shape[0]
        if not x.ndim or x.shape[-1] != nin:
            raise StructureError(message(
                f"{self!r}(x)", "the last axis of the input does not fit.", f"[..., {nin}]", f"{list(x.shape)}",
                "Images or sequences: functional.flatten(x) first."))  # fmt: skip
        y = jnp.dot(x, self.w.value)
        return y if self.b is None else y + self.b.value

    def __repr__(self) -> str:
        nin, nout = self.w.shape
        return f"Linear(nin={nin}, nout={nout}, use_bias={self.b is not None})"


class Conv2D(Module):
    """Two-dimensional convolution (without turning the kernel, as is usual) of images ``[N, C, H, W]``.

    ::

        y[n, o, i, j] = b[o] + Σ over r, s, c of w[r, s, c, o] · x[n, c, i · stride + r · dilation, j · ... + s · ...]

    Args:
        nin: the number of input channels.
        nout: the number of output channels.
        k: the height and width of the kernel; one integer for a square.
        strides: how far apart the places are that the kernel is put at, down and across.
        dilations: how far apart the rows and columns are that the kernel's elements meet.
        groups: into how many groups the channels are divided; each group of outputs sees its group of inputs only.
            With ``groups=nin`` the convolution is depthwise.
        padding: as of :func:`optimkit.util.to_padding`: a ConvPadding, its name, an integer, or pairs.
        use_bias: whether there is a ``b``.
        w_init: from a shape ``(height, width, nin // groups, nout)`` to an array.

    Variables: ``b``, ``[nout, 1, 1]``, zeros; ``w``, ``[height, width, nin // groups, nout]`` (HWIO).

    Raises:
        HyperparameterError: a number of channels or groups is not a positive integer, or groups do not divide channels.
        StructureError: ``k``, ``strides``, ``dilations`` or ``padding`` does not fit, or the initializer returns
            something else.

    Example:
        >>> Conv2D(3, 8, 3, strides=2)(jnp.ones((2, 3, 32, 32))).shape
        (2, 8, 16, 16)
    """

    def __init__(
        self,
        nin: int,
        nout: int,
        k: Size,
        strides: Size = 1,
        dilations: Size = 1,
        groups: int = 1,
        padding: Padding = ConvPadding.SAME,
        use_bias: bool = True,
        w_init: Initializer = kaiming_normal,
    ):
        for name, value in (("nin", nin), ("nout", nout), ("groups", groups)):
            check_hyperparameter("Conv2D", name, value, POSITIVE)
        if nin % groups or nout % groups:
            raise HyperparameterError(message(
                "Conv2D", "'groups' must divide the numbers of channels.", f"a divisor of nin={nin} and of nout={nout}",
                f"groups={groups}"))  # fmt: skip
        self.strides = to_tuple(strides, 2, where="Conv2D", name="strides")
        self.dilations = to_tuple(dilations, 2, where="Conv2D", name="dilations")
        self.padding = to_padding(padding, 2, where="Conv2D")
        self.groups = groups
        kernel = to_tuple(k, 2, where="Conv2D", name="k")
        w = initialized("Conv2D", w_init, (*kernel, nin // groups, nout))
        self.b = TrainVar(jnp.zeros((nout, 1, 1), w.dtype)) if use_bias else None
        self.w = w

    def __call__(self, x: Any) -> jax.Array:
        """Map ``[N, nin, H, W]`` to ``[N, nout, H', W']``.

        Raises:
            StructureError: the input is not of this form, or smaller than the kernel.
        """
        x, w, where = as_array(x), self.w.value, f"{self!r}(x)"
        check_images(where, x, w.shape[2] * self.groups)
        reach = [(n - 1) * d + 1 for n, d in zip(w.shape[:2], self.dilations, strict=True)]
        check_window(where, x, reach, self.padding)
        dtype = jnp.promote_types(x.dtype, w.dtype)
        y = jax.lax.conv_general_dilated(
            x.astype(dtype), w.astype(dtype), self.strides, self.padding, rhs_dilation=self.dilations,
            feature_group_count=self.groups, dimension_numbers=("NCHW", "HWIO", "NCHW"),
        )  # fmt: skip
        return y if self.b is None else y + self.b.value

    def __repr__(self) -> str:
        h, w, nin, nout = self.w.shape
        return (
            f"Conv2D(nin={nin * self.groups}, nout={nout}, k={(h, w)}, strides={self.strides}, "
            f"dilations={self.dilations}, groups={self.groups}, padding={self.padding!r}, "
            f"use_bias={self.b is not None})"
        )


def unit_normal(shape: tuple[int, ...]) -> jax.Array:
    """Normal with standard deviation ``1 / √(length of the last axis)``: vectors of length 1 in the mean square."""
    return random.normal(shape, stddev=1 / math.sqrt(shape[-1]))


class Embedding(Module):
    """Table of vectors, looked up by integers.

    Args:
        nin: the number of vectors.
        nout: their length.
        w_init: from a shape ``(nin, nout)`` to an array; by default vectors of length about 1.

    Variables: ``w``, ``[nin, nout]``.

    Raises:
        HyperparameterError: a size is not a positive integer.
        StructureError: the initializer returns something else.

    Example:
        >>> Embedding(10, 4)(jnp.array([[1, 2, 3]])).shape
        (1, 3, 4)
    """

    def __init__(self, nin: int, nout: int, w_init: Initializer = unit_normal):
        check_hyperparameter("Embedding", "nin", nin, POSITIVE)
        check_hyperparameter("Embedding", "nout", nout, POSITIVE)
        self.w = initialized("Embedding", w_init, (nin, nout))

    def __call__(self, indices: Any) -> jax.Array:
        """Map integers ``[...]`` in [0, nin) to vectors ``[..., nout]``; an index out of range gives NaN.

        Raises:
            DTypeError: the indices are not integers.
            StructureError: an index that is a Python number is out of range.
        """
        rows, known = as_indices(f"{self!r}(indices)", "indices", indices, self.w.shape[0])
        return jnp.where(known[..., None], self.w.value[rows], jnp.nan)

    def __repr__(self) -> str:
        nin, nout = self.w.shape
        return f"Embedding(nin={nin}, nout={nout})"
