"""Fingerprints of arrays that lie in shards: each device takes in its own part, and the parts add up.

A digest such as SHA-256 needs all bits in a row, on one host. Here the word w at position i of an array (its bits, in
32-bit words, or narrower ones as they are) becomes a number that depends on both, and the fingerprint is two sums::

    hᵢ = mix(w + 2654435769 i)        s = Σᵢ hᵢ,  s' = Σᵢ mix(hᵢ + 1)        all modulo 2³²

where ``mix`` is a bijection of 32-bit integers that lets each bit of its argument reach all others. A sum does not
know the order in which it was made, so the sharding does not matter. Each change of one word changes ``s`` for
certain; other accidents go unseen once in 2⁶⁴. It is no protection against somebody who changes bits on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optimkit.io.dtypes import Form

# The dtypes that lie in a checkpoint as such, readable for any program; others lie there as the integers of their bits.
_AS_SUCH = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64 complex64 complex128"
    .split()
)  # fmt: skip


def kept(form: Form) -> np.dtype[Any]:
    """Return the dtype that an array has in a checkpoint of orbax."""
    return form.numpy if form.dtype in _AS_SUCH else form.stored


def to_bits(x: jax.Array, form: Form) -> jax.Array:
    """Return an array as it lies in a checkpoint of orbax, with the same sharding.

    Example:
        >>> from optimkit.io.dtypes import form_of
        >>> x = jnp.array([1.0, -2.0], jnp.float8_e4m3fn)
        >>> bits = to_bits(x, form_of(x))
        >>> bits, from_bits(bits, form_of(x))
        (Array([ 56, 192], dtype=uint8), Array([1, -2], dtype=float8_e4m3fn))
    """
    if form.key:
        return jax.random.key_data(x)
    return x if form.dtype in _AS_SUCH else _narrow_to_bits(x)


def from_bits(bits: jax.Array, form: Form) -> jax.Array:
    """Return the array that lies in a checkpoint of orbax as these bits."""
    if form.key:
        return jax.random.wrap_key_data(bits, impl=form.key)
    return bits if form.dtype in _AS_SUCH else _narrow_from_bits(bits, form.dtype)


def _width(dtype: Any) -> int:
    return int((jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo)(dtype).bits)


@jax.jit
def _narrow_to_bits(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(x, f"uint{_width(x.dtype)}").astype(jnp.uint8)


def _narrow_from_bits(bits: jax.Array, dtype: str) -> jax.Array:
    new = jnp.dtype(dtype)
    return jax.jit(lambda b: lax.bitcast_convert_type(b.astype(f"uint{_width(new)}"), new))(bits)


def fingerprints(arrays: Iterable[jax.Array | np.ndarray]) -> list[str]:
    """Return the fingerprint of each array, of JAX in any sharding, or of NumPy.

    Example:
        >>> x = jnp.arange(6.0)
        >>> fingerprints([x]) == fingerprints([np.asarray(x)]) != fingerprints([x[::-1]])
        True
    """
    with jax.enable_x64(True):  # for arrays of 64 bits, however they have come about
        sums = [_sums(x if isinstance(x, jax.Array) else _host_words(x)) for x in arrays]  # no waiting in between
    return ["".join(f"{word:08x}" for word in np.asarray(s).tolist()) for s in sums]


def _host_words(x: np.ndarray) -> np.ndarray:
    """Return the bits of an array as unsigned integers: JAX would narrow wide arrays of the host."""
    x = np.asarray(x, order="C")
    if x.dtype.itemsize < 8:
        return x.view(f"u{x.dtype.itemsize}")
    return x.reshape(*x.shape, 1).view(np.uint32)


def _device_words(x: jax.Array) -> jax.Array:
    """Return the bits of an array as unsigned integers, in the order of :func:`_host_words`."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], -1)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint8)
    return lax.bitcast_convert_type(x, f"uint{min(_width(x.dtype), 32)}")


@jax.jit
def _sums(x: jax.Array) -> jax.Array:
    w = _device_words(x)
    at = jnp.zeros((), jnp.uint32)
    for axis, n in enumerate(w.shape):
        along = tuple(n if a == axis else 1 for a in range(w.ndim))
        at = at * jnp.uint32(n % 2**32) + lax.broadcasted_iota(jnp.uint32, along, axis)
    h = _mixed(w.astype(jnp.uint32) + at * jnp.uint32(2654435769))
    return jnp.stack([h.sum(dtype=jnp.uint32), _mixed(h + jnp.uint32(1)).sum(dtype=jnp.uint32)])


def _mixed(h: jax.Array) -> jax.Array:
    """Mix the bits of integers: a bijection, with the constants of Ettinger's lowbias32."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
    return h ^ (h >> 16)
