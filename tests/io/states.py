"""Collections for tests of files: small, of many dtypes, and each number in them says which state it is of."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import RandomState, StateVar, TrainRef, TrainVar, VarCollection

DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "complex64", "int32", "uint8", "bool", "int8")


@contextmanager
def quick_folder() -> Iterator[Path]:
    """Make a folder in memory, where there is such a file system: what SIGKILL and faults do is the same there."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def numbers(shape: tuple[int, ...], dtype: str, seed: int) -> jax.Array:
    """Return random bits of a dtype; infinities and NaNs are among them."""
    size, dtype = int(np.prod(shape)), jnp.dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, size * dtype.itemsize, np.uint8)
    if dtype == np.bool_:
        raw %= 2
    return jnp.asarray(raw.view(dtype).reshape(shape))


def state(seed: int, size: int = 5) -> VarCollection:
    """Return parameters, state of each dtype, keys, shared weights, an empty array and a scalar."""
    w = TrainVar(numbers((size, 3), "float32", seed))
    found: dict[str, Any] = {
        "w": w, "again": w, "ref": TrainRef(w), "b": TrainVar(numbers((2,), "bfloat16", seed + 1)),
        "random": RandomState(seed), "key": StateVar(jax.random.key(seed)), "empty": StateVar(jnp.zeros((0, 3))),
        "scalar": StateVar(jnp.float32(seed)),
    }  # fmt: skip
    found |= {dtype: StateVar(numbers((2, 3), dtype, seed + i)) for i, dtype in enumerate(DTYPES)}
    return VarCollection(found)


def bits(vc: VarCollection) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return dtype, shape and bytes of each variable: equal only if nothing has changed at all."""
    def raw(x: Any) -> np.ndarray:
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    return {name: (str(v.value.dtype), v.value.shape, raw(v.value).tobytes()) for name, v in vc.items()}


@functools.cache
def known(seed: int) -> VarCollection:
    """Return a small state that nobody may write to; each is made once, for that takes longer than to save it."""
    return small(seed)


def small(seed: int) -> VarCollection:
    """Return an array of some size, one whose dtype NumPy does not know, and a key."""
    return VarCollection({"w": TrainVar(numbers((20, 10), "float32", seed)), "random": RandomState(seed),
                          "b": TrainVar(numbers((2,), "bfloat16", seed))})  # fmt: skip


@contextmanager
def unchanged(vc: VarCollection) -> Iterator[None]:
    """Require that a block leaves every variable as it was: the same arrays, not only equal ones."""
    before, values = vc.tensors(), bits(vc)
    yield
    assert all(now is x for now, x in zip(vc.tensors(), before, strict=True))
    assert bits(vc) == values
