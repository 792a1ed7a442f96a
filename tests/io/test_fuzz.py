"""A checkpoint that is damaged is refused, or loads bit-equal: never a wrong value.

Fault table: 37 (truncated, empty, extended), 38 (a flipped bit). What is crafted is in test_attacks.py.
"""

from __future__ import annotations

import io as std_io
import random

import jax.numpy as jnp
import pytest

from optimkit import StateVar, TrainVar, VarCollection, io
from optimkit.errors import CorruptCheckpointError
from tests.io.states import bits, numbers, state


def saved(vc):
    """Return the bytes of a checkpoint."""
    file = std_io.BytesIO()
    io.save_var_collection(file, vc)
    return file.getvalue()


def tiny(seed):
    return VarCollection({"w": TrainVar(numbers((3,), "float32", seed)), "n": StateVar(jnp.int8(seed))})


class Victim:
    """Takes files that may be anything into variables that must not become anything."""

    def __init__(self, make):
        self.make, self.target = make, make(99)
        self.untouched, self.arrays, self.refused = bits(self.target), self.target.tensors(), 0

    def take(self, data, *allowed):
        """Load bytes; require one of the contents that are allowed, or a refusal that changes nothing."""
        try:
            io.load_var_collection(std_io.BytesIO(data), self.target)
        except CorruptCheckpointError:
            self.refused += 1
            assert all(a is b for a, b in zip(self.target.tensors(), self.arrays, strict=True))
        else:
            assert bits(self.target) in allowed, "a wrong value"
            self.target.assign(self.arrays)


# --- random edits -----------------------------------------------------------------------------------------------------


def block(rng, data, most=200):
    """Return the ends of a random piece."""
    start = rng.randrange(len(data))
    return start, min(len(data), start + 1 + int(rng.expovariate(1) * most / 4))


def flip(rng, data, _):
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def overwrite(rng, data, _):
    start, end = block(rng, data, rng.choice((1, 8, 200)))
    size = end - start
    return data[:start] + rng.choice((rng.randbytes(size), bytes(size), b"\xff" * size)) + data[end:]


def truncate(rng, data, _):
    return data[: rng.randrange(len(data))]


def behead(rng, data, _):
    return data[rng.randrange(1, len(data) + 1) :]


def extend(rng, data, _):
    more = rng.choice((b"\0", rng.randbytes(1 + rng.randrange(100)), data))
    return rng.choice((data + more, more + data))


def delete(rng, data, _):
    start, end = block(rng, data)
    return data[:start] + data[end:]


def insert(rng, data, _):
    start, end = block(rng, data)
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((data[start:end], rng.randbytes(end - start))) + data[at:]


def swap(rng, data, _):
    (a, b), (c, d) = sorted((block(rng, data), block(rng, data)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def duplicate(rng, data, _):
    (a, b), at = block(rng, data), rng.randrange(len(data))
    return data[:at] + data[a:b] + data[at + b - a :]


def splice(rng, data, other):
    """Return a piece of another checkpoint of the same variables in its place: a mixture of two good files."""
    start, end = block(rng, data, 2000)
    return data[:start] + other[start:end] + data[end:]


EDITS = (flip, overwrite, truncate, behead, extend, delete, insert, swap, duplicate, splice)


def edited(make, count, seed):
    """Load a checkpoint after each of ``count`` random edits, one to three at a time; return how many were refused."""
    rng, victim = random.Random(seed), Victim(make)
    one, two = make(1), make(2)
    data, other, allowed = saved(one), saved(two), (bits(one), bits(two))
    for _ in range(count):
        new = data
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            new = rng.choice(EDITS)(rng, new, other) or b"?"
        victim.take(new, *(allowed if new in (data, other) else ()))
    victim.take(data, allowed[0])
    return victim.refused


def test_1000_random_edits_of_a_checkpoint_never_give_a_wrong_value():
    assert edited(state, 1000, seed=0) > 900


@pytest.mark.slow
def test_10000_random_edits_of_a_checkpoint_never_give_a_wrong_value():
    assert edited(state, 5000, seed=1) + edited(tiny, 5000, seed=2) > 9000


def test_a_checkpoint_truncated_at_any_byte_is_refused():
    data, victim = saved(tiny(1)), Victim(tiny)
    for size in range(len(data)):
        victim.take(data[:size])
    assert victim.refused == len(data)


def flips(bits_of_byte, step=1):
    data, victim = bytearray(saved(tiny(1))), Victim(tiny)
    for at in range(0, len(data), step):
        for bit in bits_of_byte:
            data[at] ^= 1 << bit
            victim.take(bytes(data))
            data[at] ^= 1 << bit
    victim.take(bytes(data), bits(tiny(1)))
    return victim.refused, len(range(0, len(data), step)) * len(bits_of_byte)


def test_a_bit_flipped_in_any_byte_of_a_checkpoint_is_refused():
    refused, tried = flips((0,))
    assert refused == tried


@pytest.mark.slow
def test_any_single_bit_flip_of_a_checkpoint_is_refused():
    refused, tried = flips(range(8))
    assert refused == tried
