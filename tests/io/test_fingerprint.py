"""Fingerprints of arrays: the same in all shardings, another one for each changed bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from optimkit.interop.fingerprint import fingerprints


@given(st.sampled_from(["float32", "bfloat16", "uint8", "int16", "complex64", "bool", "int32"]),
       st.lists(st.integers(1, 4), max_size=3), st.integers(0, 2**32 - 1), st.data())  # fmt: skip
def test_each_changed_bit_changes_the_fingerprint(dtype, shape, seed, data):
    size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, size, np.uint8)
    before = fingerprints([raw.view(jnp.dtype(dtype)).reshape(shape)])
    raw[data.draw(st.integers(0, size - 1))] ^= 1 if dtype == "bool" else 1 << data.draw(st.integers(0, 7))
    assert fingerprints([raw.view(jnp.dtype(dtype)).reshape(shape)]) != before


def test_the_fingerprint_knows_places():
    x = np.random.default_rng(0).integers(0, 2**32, (4, 6), np.uint32)
    others = [x[::-1], x[:, ::-1], x.reshape(6, 4).T.reshape(4, 6), np.roll(x, 1), x]
    assert len(set(fingerprints(others))) == len(others)


@pytest.mark.parametrize("x", [
    np.linspace(-1, 1, 16).reshape(8, 2), np.ones((8, 2)) * (1 + 2j), np.arange(16).reshape(8, 2) % 3 == 0,
    np.arange(8).astype(jnp.bfloat16),
], ids=lambda x: x.dtype.name)  # fmt: skip
def test_the_fingerprint_of_shards_is_that_of_the_whole(x):
    mesh = jax.make_mesh((8,), ("d",))
    with jax.enable_x64(True):
        shards = [jax.device_put(x, NamedSharding(mesh, spec)) for spec in (PartitionSpec(), PartitionSpec("d"))]
        whole = jax.device_put(x)
    assert len(set(fingerprints([*shards, whole, x]))) == 1
