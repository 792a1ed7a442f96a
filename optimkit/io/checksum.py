"""Checksums of arrays while they are written or read, on a second core where there is one."""

from __future__ import annotations

import hashlib
import threading
import zlib
from typing import Any

_WORTH_A_THREAD = 1 << 20  # bytes; a thread costs a tenth of a millisecond, a digest of these one and a half
PIECE = 64 << 20  # what is read at a time: where all cores are busy, each change of threads costs milliseconds


class Checksums:
    """CRC-32 of a member of an archive, and SHA-256 of an array's bits in it.

    The archive needs the first, which misses one change in 4e9. The second misses none that happens by itself.

    Example:
        >>> sums = Checksums(b"header")
        >>> sums.update(b"bits")
        >>> sums.crc == zlib.crc32(b"headerbits"), sums.sha256 == hashlib.sha256(b"bits").hexdigest()
        (True, True)
    """

    def __init__(self, header: bytes = b""):
        self.crc = zlib.crc32(header)
        self._digest = hashlib.sha256()
        self._thread: threading.Thread | None = None

    def update(self, bits: Any) -> None:
        """Take the next bits in. They must not change before the next call, for the digest may still be computed."""
        self._wait()
        if len(bits) < _WORTH_A_THREAD or not self._started(bits):
            self._digest.update(bits)
        self.crc = zlib.crc32(bits, self.crc)

    def _started(self, bits: Any) -> bool:
        thread = threading.Thread(target=self._digest.update, args=(bits,), name="optimkit-digest")
        try:
            thread.start()
        except RuntimeError:  # the interpreter is going down, or there are no more threads
            return False
        self._thread = thread
        return True

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def sha256(self) -> str:
        """The digest of all bits so far, in hexadecimal."""
        self._wait()
        return self._digest.hexdigest()
