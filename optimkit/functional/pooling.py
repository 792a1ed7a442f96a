"""Pooling of images: ``[N, C, H, W]`` to ``[N, C, H', W']``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.constants import ConvPadding
from optimkit.errors import StructureError, message
from optimkit.functional.checks import as_array, check_images, check_window, float_dtype
from optimkit.numerics import compute_dtype
from optimkit.util import Padding, Pairs, to_padding, to_tuple

Size = int | Sequence[int]


def average_pool_2d(
    x: Any, size: Size = 2, strides: Size | None = None, padding: Padding = ConvPadding.VALID
) -> jax.Array:
    """Mean over windows of an image, computed in float32 or wider.

    Padding counts as zeros: the sum over a window is divided by its full size, also where it hangs over the edge.

    Args:
        x: images, ``[N, C, H, W]``.
        size: the height and width of the window; one integer for a square.
        strides: how far apart windows are, down and across; ``size`` where None.
        padding: as of :func:`optimkit.util.to_padding`: a ConvPadding, its name, an integer, or pairs.

    Returns:
        ``[N, C, H', W']``, of the input's dtype; float32 for integers.

    Raises:
        StructureError: the input is not a batch of images, or an argument does not fit.

    Example:
        >>> average_pool_2d(jnp.arange(16.0).reshape(1, 1, 4, 4))[0, 0]
        Array([[ 2.5,  4.5],
               [10.5, 12.5]], dtype=float32)
    """
    x, size, strides, pairs = _arguments("average_pool_2d", x, size, strides, padding)
    wide = x.astype(compute_dtype(float_dtype(x)))
    total = _reduce_window(wide, np.zeros((), wide.dtype), jax.lax.add, size, strides, pairs)
    return (total / math.prod(size)).astype(float_dtype(x))


def max_pool_2d(x: Any, size: Size = 2, strides: Size | None = None, padding: Padding = ConvPadding.VALID) -> jax.Array:
    """Maximum over windows of an image; padding never is the maximum.

    Args:
        x: images, ``[N, C, H, W]``.
        size: the height and width of the window; one integer for a square.
        strides: how far apart windows are, down and across; ``size`` where None.
        padding: as of :func:`optimkit.util.to_padding`: a ConvPadding, its name, an integer, or pairs.

    Returns:
        ``[N, C, H', W']``, of the input's dtype. The derivative goes to the first of equal maxima.

    Raises:
        StructureError: the input is not a batch of images, or an argument does not fit.

    Example:
        >>> max_pool_2d(jnp.arange(16.0).reshape(1, 1, 4, 4))[0, 0]
        Array([[ 5.,  7.],
               [13., 15.]], dtype=float32)
    """
    x, size, strides, pairs = _arguments("max_pool_2d", x, size, strides, padding)
    if not isinstance(pairs, str) and any(max(pair) >= n for pair, n in zip(pairs, size, strict=True)):
        raise StructureError(message(
            "max_pool_2d", "a window would lie in the padding alone, where there is no maximum.",
            f"a padding below the size, {list(size)}", f"{pairs}"))  # fmt: skip
    return _reduce_window(x, _lowest(x.dtype), jax.lax.max, size, strides, pairs)


def _lowest(dtype: Any) -> np.ndarray:
    if jnp.issubdtype(dtype, jnp.integer):
        return np.array(jnp.iinfo(dtype).min, dtype)
    return np.array(-np.inf if jnp.issubdtype(dtype, jnp.floating) else False, dtype)


def _arguments(
    where: str, x: Any, size: Size, strides: Size | None, padding: Padding
) -> tuple[jax.Array, tuple[int, ...], tuple[int, ...], str | Pairs]:
    x = as_array(x)
    check_images(where, x)
    size = to_tuple(size, 2, where=where, name="size")
    strides = size if strides is None else to_tuple(strides, 2, where=where, name="strides")
    pairs = to_padding(padding, 2, where=where)
    check_window(where, x, size, pairs)
    return x, size, strides, pairs


def _reduce_window(
    x: jax.Array,
    start: np.ndarray,
    f: Callable[..., Any],
    size: tuple[int, ...],
    strides: tuple[int, ...],
    pairs: str | Pairs,
) -> jax.Array:
    full = pairs if isinstance(pairs, str) else ((0, 0), (0, 0), *pairs)
    return jax.lax.reduce_window(x, start, f, (1, 1, *size), (1, 1, *strides), full)
