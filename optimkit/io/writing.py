"""Writing a checkpoint: array by array, so that the host never has more than one of them in memory for it."""

from __future__ import annotations

import errno
import importlib.metadata
import io
import os
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from optimkit.core import VarCollection
from optimkit.errors import CheckpointError, message
from optimkit.io import layout
from optimkit.io.checksum import Checksums
from optimkit.io.files import CHUNK, NewFile, doing
from optimkit.io.layout import Member
from optimkit.io.manifest import Entry, Manifest, own_version
from optimkit.io.snapshot import Item, items_of

File = str | os.PathLike[str] | BinaryIO


class Output(Protocol):
    """What a checkpoint is written to."""

    position: int

    def write(self, data: Any) -> None:
        """Write bytes, after those before."""


class Stream:
    """A binary file that somebody else has opened, or a pipe; the checkpoint begins where it stands."""

    def __init__(self, where: str, file: Any):
        try:
            file.write(b"")
        except (AttributeError, TypeError):  # no file, or one of text
            raise CheckpointError(message(
                where, "a checkpoint cannot be written to this.", "a path, or a binary file",
                type(file).__name__)) from None  # fmt: skip
        self._file, self._name, self.position = file, str(getattr(file, "name", "the file")), 0

    def write(self, data: Any) -> None:
        """Write bytes, after those before."""
        view = memoryview(data).cast("B")
        self.position += len(view)
        with doing(f"writing {self._name!r}", self._name):
            while view:
                view = view[self._taken(view[:CHUNK]) :]

    def _taken(self, chunk: memoryview) -> int:
        """Return how many bytes the file has taken; a raw one may take fewer, and none if it does not block."""
        count = self._file.write(chunk)
        if count is None and not isinstance(self._file, io.RawIOBase):
            return len(chunk)  # a class of somebody's own, which does not tell
        if not count:
            raise OSError(errno.EAGAIN if count is None else errno.EIO, "the file took nothing")
        return int(count)


def save_var_collection(file: File, vc: VarCollection) -> None:
    """Save all variables of a collection.

    The file is a ``.npz`` that ``numpy.load`` reads, with the arrays under numbers and ``manifest.json``, which has
    their names, dtypes, shapes and digests, and the configuration of the optimizers that wrote the state. Each
    variable is saved once, whatever number of names it has. A variable that holds its average at this moment (see
    ``ExponentialMovingAverage.swapped``) is saved as itself.

    Where ``file`` is a path, the new file takes its place in one step when all its bytes are on the disk: a process
    that is killed, or a disk that is full, leaves the old file as it was. Memory beside that of the variables: none
    for those on the CPU, the largest array for those on other devices or sharded.

    Args:
        file: a path, or a binary file, which is written from where it stands.
        vc: the variables.

    Raises:
        CheckpointError: a variable cannot be saved: a tracer, a donated array, an array of which this process has a
            part only, or a dtype that is not known.
        OSError: what the system refused, with the path; no new file is left.

    Example:
        >>> import io, optimkit
        >>> file, w = io.BytesIO(), optimkit.TrainVar(np.ones(2, np.float32))
        >>> save_var_collection(file, optimkit.VarCollection({"w": w}))
        >>> _ = file.seek(0)
        >>> np.load(file)["0"]
        array([1., 1.], dtype=float32)
    """
    items, about = items_of("save_var_collection", vc)
    if isinstance(file, str | os.PathLike):
        with NewFile(os.fspath(file)) as out:
            write(out, items, about)
    else:
        write(Stream("save_var_collection", file), items, about)


def write(out: Output, items: Iterable[Item], about: Sequence[dict[str, Any]]) -> None:
    """Write a checkpoint."""
    entries: list[Entry] = []
    members: list[Member] = []
    for item in items:
        entry, member = _write_array(out, layout.array_name(len(entries)), item)
        entries.append(entry)
        members.append(member)
    versions = {"optimkit": own_version(), "jax": importlib.metadata.version("jax"), "numpy": np.__version__}
    text = Manifest(tuple(entries), tuple(about), versions).encode()
    members.append(Member(layout.MANIFEST, len(text), zlib.crc32(text), out.position))
    out.write(members[-1].local_header)
    out.write(text)
    out.write(layout.directory(members, text))


def _write_array(out: Output, name: bytes, item: Item) -> tuple[Entry, Member]:
    header, bits = layout.npy_header(item.form), _flat(item.bits())
    sums = Checksums(header)
    sums.update(bits)  # CRC-32 stands before the bits; the digest goes on while they are written
    member = Member(name, len(header) + len(bits), sums.crc, out.position)
    out.write(member.local_header)
    out.write(header)
    out.write(bits)
    return Entry(item.names, item.kind, item.form, sums.crc, sums.sha256, item.about), member


def _flat(bits: np.ndarray) -> memoryview:
    """Return the bytes of an array, as one row."""
    return bits.reshape(-1).view(np.uint8).data
