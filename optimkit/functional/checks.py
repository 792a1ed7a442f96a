"""What the functions and layers ask of the arrays that they are given, and the errors when they do not fit.

NumPy's broadcasting turns many mistakes into plausible numbers: labels of shape [N, 1] against predictions of shape
[N] give an N x N loss that goes down. So shapes are compared here, when the function is called or traced.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.core.variable import unwrap
from optimkit.errors import DTypeError, StructureError, describe, message
from optimkit.numerics import compute_dtype
from optimkit.util import Pairs


def as_array(x: Any) -> jax.Array:
    """Return an array, a variable's array, or anything that ``jnp.asarray`` takes, as an array."""
    return jnp.asarray(unwrap(x))


def as_real(where: str, *arrays: Any) -> list[jax.Array]:
    """Return arrays in the dtype to compute with: float32, or float64 where one of them is float64.

    Raises:
        DTypeError: one of them is complex.
    """
    xs = [as_array(x) for x in arrays]
    for x in xs:
        if jnp.iscomplexobj(x):
            raise DTypeError(message(where, "complex numbers are not supported.", "a real array", describe(x)))
    dtype = compute_dtype(jnp.result_type(*xs))
    return [x.astype(dtype) for x in xs]


def float_dtype(x: jax.Array) -> Any:
    """Return the dtype of a result: that of ``x`` where it is a floating-point one, else float32."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.dtype(jnp.float32)


def check_same_shape(where: str, name: str, x: jax.Array, other: str, shape: Sequence[int]) -> None:
    """Raise unless an array has exactly this shape.

    Raises:
        StructureError: it has another one, even if that would broadcast.
    """
    if tuple(x.shape) != tuple(shape):
        raise StructureError(message(
            where, f"the shape of {name!r} does not fit {other}.", f"{list(shape)}", f"{list(x.shape)}",
            "Nothing is broadcast here; reshape or jnp.broadcast_to what is meant."))  # fmt: skip


def as_indices(where: str, name: str, indices: Any, size: int) -> tuple[jax.Array, jax.Array]:
    """Return indices into an axis, as int32 within it, and where they lay within it from the start.

    JAX clamps or wraps indices that lie outside, and so gives the wrong row without a word. Whoever calls this sets
    those places to NaN instead.

    Raises:
        DTypeError: the indices are not integers.
        StructureError: an index that is a Python number lies outside of ``[0, size)``.
    """
    x = as_array(indices)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise DTypeError(message(where, f"{name!r} must be integers.", f"integers in [0, {size})", describe(x)))
    if isinstance(indices, numbers.Integral) and not 0 <= int(indices) < size:
        raise StructureError(message(where, f"{name!r} is out of range.", f"an int in [0, {size})", f"{indices}"))
    if x.dtype.itemsize < 4:  # so that the size can be represented
        x = x.astype(jnp.int32)
    return jnp.clip(x, 0, size - 1).astype(jnp.int32), (x >= 0) & (x < size)


def check_images(where: str, x: jax.Array, channels: int | None = None) -> None:
    """Raise unless ``x`` is a batch of images ``[N, C, H, W]``, with this number of channels if one is given.

    Raises:
        StructureError: it is not.
    """
    if x.ndim != 4 or (channels is not None and x.shape[1] != channels):
        c = "C" if channels is None else channels
        raise StructureError(message(
            where, "the input is not a batch of images that fits.", f"[N, {c}, H, W]", f"{list(x.shape)}",
            "Images with channels last: x.transpose(0, 3, 1, 2). One image: x[None]."))  # fmt: skip


def check_window(where: str, x: jax.Array, window: Sequence[int], padding: str | Pairs) -> None:
    """Raise where a window of this height and width has no place in the padded images, so that nothing comes out.

    Raises:
        StructureError: it is higher or wider than the images with their padding.
    """
    if padding == "SAME":
        return
    pairs = ((0, 0), (0, 0)) if isinstance(padding, str) else padding
    padded = tuple(n + sum(pair) for n, pair in zip(x.shape[2:], pairs, strict=True))
    if any(size > n for size, n in zip(window, padded, strict=True)):
        raise StructureError(message(
            where, "the window is larger than the images.", f"at most {list(padded)} (with the padding)",
            f"{list(window)}", "Use padding='SAME', or a smaller window."))  # fmt: skip


def check_count(where: str, shape: Sequence[int], axes: Iterable[int]) -> None:
    """Raise unless there are at least two numbers along the axes to take mean and variance of.

    Raises:
        StructureError: there are fewer; normalized, a number alone is 0 whatever it was.
    """
    count = math.prod(shape[i] for i in axes)
    if count < 2:
        raise StructureError(message(
            where, "too few numbers share a mean and a variance.", "at least 2", f"{count}, for shape {list(shape)}",
            "Give a larger batch, or larger groups; a number alone is normalized to 0."))  # fmt: skip


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
