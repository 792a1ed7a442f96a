"""The bytes around the arrays of a checkpoint: those of a zip archive of ``.npy`` files, as ``numpy.savez`` writes.

The archive has one form only. Nothing is compressed, members follow each other without gaps, every record has its
64-bit fields, dates are constant, and the comment at its end has the digest of the manifest. Names of members are
``0.npy``, ``1.npy``, ... and last ``manifest.json``; names of variables are data, in the manifest.

So all bytes of a file except those of the arrays and of the manifest follow from the manifest. The writer writes what
this module says, and the reader compares with it; it interprets no field of an archive that somebody else may have
written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Sequence

from optimkit.io.dtypes import Form

MANIFEST = b"manifest.json"
LARGEST_MANIFEST = 64 << 20

_DATE = 0x21  # 1980-01-01, the first that there is: a file is a function of what is saved
_VERSION = 45  # of the zip format, the first with 64-bit fields
_UNIX, _MODE = 3 << 8, 0o100644 << 16
_IN_EXTRA = 0xFFFFFFFF

_LOCAL = struct.Struct("<4s5H3I2H" + "2H2Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_CENTRAL_EXTRA = struct.Struct("<2H3Q")
_END = struct.Struct("<4sQ2H2I4Q" + "4sIQI" + "4s4H2IH")
_COMMENT = b"optimkit checkpoint, sha256 of its manifest: "

TRAILER = _END.size + len(_COMMENT) + 64
LAST_ENTRY = _CENTRAL.size + len(MANIFEST) + _CENTRAL_EXTRA.size


@dataclasses.dataclass(frozen=True)
class Member:
    """One member: ``size`` bytes, a header of ``.npy`` and an array's bits, or the manifest; ``crc`` is over both."""

    name: bytes
    size: int
    crc: int
    offset: int

    @property
    def local_header(self) -> bytes:
        """What stands before the member."""
        return local_header(self.name, self.size, self.crc)

    @property
    def end(self) -> int:
        """The offset of what comes after the member."""
        return self.offset + len(self.local_header) + self.size


def local_header(name: bytes, size: int, crc: int) -> bytes:
    """Return what stands before a member."""
    head = _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, crc, _IN_EXTRA, _IN_EXTRA, len(name), 20, 1, 16, size, size)
    return head[:-20] + name + head[-20:]  # the name stands before the 64-bit fields


def npy_header(form: Form) -> bytes:
    r"""Return what stands before the bits of an array in a ``.npy`` file, padded to a multiple of 64 bytes.

    Example:
        >>> import io, numpy as np
        >>> np.load(io.BytesIO(npy_header(Form("float32", (1,))) + b"\0\0\x80?"))
        array([1.], dtype=float32)
    """
    shape = form.stored_shape
    shown = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
    text = f"{{'descr': '{form.stored.newbyteorder('<').str}', 'fortran_order': False, 'shape': {shown}, }}"
    padding = -(10 + len(text) + 1) % 64
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text) + padding + 1) + text.encode() + b" " * padding + b"\n"


def members(forms: Sequence[Form], crcs: Sequence[int], manifest: bytes, manifest_crc: int) -> list[Member]:
    """Return where everything lies, in order."""
    found, offset = [], 0
    for i, (form, crc) in enumerate(zip(forms, crcs, strict=True)):
        found.append(Member(array_name(i), len(npy_header(form)) + form.nbytes, crc, offset))
        offset = found[-1].end
    return [*found, Member(MANIFEST, len(manifest), manifest_crc, offset)]


def array_name(i: int) -> bytes:
    """Return the name of the member that holds the array of a number."""
    return b"%d.npy" % i


def directory(found: Sequence[Member], manifest: bytes) -> bytes:
    """Return all that comes after the last member."""
    entries = b"".join(map(_entry, found))
    start, size, count = found[-1].end, len(entries), len(found)
    comment = _COMMENT + hashlib.sha256(manifest).hexdigest().encode()
    end = _END.pack(
        b"PK\6\6", 44, _UNIX | _VERSION, _VERSION, 0, 0, count, count, size, start,
        b"PK\6\7", 0, start + size, 1,
        b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _IN_EXTRA, _IN_EXTRA, len(comment))  # fmt: skip
    return entries + end + comment


def _entry(member: Member) -> bytes:
    head = _CENTRAL.pack(
        b"PK\1\2", _UNIX | _VERSION, _VERSION, 0, 0, 0, _DATE, member.crc, _IN_EXTRA, _IN_EXTRA, len(member.name),
        _CENTRAL_EXTRA.size, 0, 0, 0, _MODE, _IN_EXTRA)  # fmt: skip
    return head + member.name + _CENTRAL_EXTRA.pack(1, 24, member.size, member.size, member.offset)


def place_of_manifest(last_entry: bytes) -> tuple[int, int]:
    """Return the offset and the size of the manifest's bytes, from the last entry of the directory."""
    size, _, offset = _CENTRAL_EXTRA.unpack(last_entry[-_CENTRAL_EXTRA.size :])[2:]
    return offset + len(local_header(MANIFEST, 0, 0)), size


def digest_of_manifest(trailer: bytes) -> str | None:
    """Return the digest from the end of a file; None where the file does not end as a checkpoint does."""
    comment = trailer[_END.size :]
    if not comment.startswith(_COMMENT):
        return None
    return comment[len(_COMMENT) :].decode("ascii", errors="replace")
