"""Which dtypes a checkpoint holds, and as what bits.

Arrays that NumPy knows by itself lie in a checkpoint as such. The others, of bfloat16, 8 bits or fewer, lie there as
unsigned integers of the same bits, and random keys as the ``uint32`` words that they are; the manifest has their true
dtype. Bytes are in little-endian order.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_PLAIN = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
).split()  # fmt: skip
# Those that this JAX has; a later one may have more, and a file with one of them is refused by its name.
_OTHERS = (
    "bfloat16 float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz "
    "float8_e8m0fnu float4_e2m1fn int4 uint4 int2 uint2"
).split()
_KEYS = {"threefry2x32": 2, "rbg": 4, "unsafe_rbg": 4}  # the words in a key


@dataclasses.dataclass(frozen=True)
class Form:
    """The dtype and the shape of an array, and those of its bits.

    Attributes:
        dtype: its name; that of random keys is ``key<implementation>``.
        shape: the shape of the array.
    """

    dtype: str
    shape: tuple[int, ...]

    @functools.cached_property
    def stored(self) -> np.dtype[Any]:
        """The dtype that the bits have in the file.

        Raises:
            KeyError: this version knows no such dtype.
        """
        return np.dtype(np.uint32 if self.dtype in _KEY_NAMES else _STORED[self.dtype])

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape that the bits have in the file."""
        return self.shape + ((_KEY_NAMES[self.dtype],) if self.dtype in _KEY_NAMES else ())

    @property
    def nbytes(self) -> int:
        """The number of bytes; computed with integers that do not overflow."""
        return math.prod(self.stored_shape) * self.stored.itemsize

    @property
    def key(self) -> str | None:
        """The implementation of random keys; None for other arrays."""
        return self.dtype[4:-1] if self.dtype in _KEY_NAMES else None

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype of NumPy that the bits stand for; that of the words, for keys."""
        return np.dtype(np.uint32) if self.key else _NUMPY[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


_KEY_NAMES = {f"key<{name}>": words for name, words in _KEYS.items()}
_NUMPY = {name: np.dtype(name) for name in _PLAIN} | {
    name: np.dtype(getattr(jnp, name)) for name in _OTHERS if hasattr(jnp, name)
}
_STORED = {name: d if name in _PLAIN else np.dtype(f"u{d.itemsize}") for name, d in _NUMPY.items()}


def known(dtype: str) -> bool:
    """Tell whether this version can hold arrays of a dtype."""
    return dtype in _NUMPY or dtype in _KEY_NAMES


def form_of(x: Any) -> Form:
    """Return the form of an array of JAX.

    Raises:
        KeyError: this version knows no such dtype.

    Example:
        >>> print(form_of(jnp.zeros((2, 3), jnp.bfloat16)), form_of(jax.random.key(0)))
        bfloat16[2, 3] key<threefry2x32>[]
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        name = f"key<{jax.random.key_impl(x)}>"
    else:
        name = x.dtype.name
    if not known(name):
        raise KeyError(name)
    return Form(name, tuple(x.shape))
