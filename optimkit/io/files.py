"""Files that come into being as a whole or not at all.

Every system call of a save is made here, each in one place, so that tests can let it fail there. What fails raises the
OSError that the system raised, with what was being done and to which file in its message.

A file is written under a temporary name beside its own, flushed to the disk, and renamed; then its folder is flushed.
The writer holds a lock on the temporary file, which the system lets go of when the process dies: what nobody holds is
a stray of a writer that was killed, and the next one who writes there removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from typing import Any

from optimkit.errors import CheckpointError, OptimkitError, message

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK = 8 << 20  # what is written, read or checked at a time
GATHERED = 1 << 20  # small pieces are gathered up to this size before they are written
_TRIES = 100  # of a file that nobody else takes for a stray; the second one is as good as certain
PREFIX, SUFFIX = ".optimkit-", ".tmp"

_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)
# What a file system answers that has no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@contextlib.contextmanager
def doing(what: str, path: str) -> Iterator[None]:
    """Say in an OSError what was being done, and to which file; its number and its class stay."""
    try:
        yield
    except OptimkitError:  # some are OSErrors, and say all there is to say
        raise
    except OSError as error:
        text = message("optimkit.io", f"{what} failed: {error.strerror or error}")
        raise OSError(error.errno or errno.EIO, text, path) from error


# --- one call each ----------------------------------------------------------------------------------------------------


def open_new(path: str) -> int:
    """Create a file that does not exist, for writing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)


def open_shared(path: str) -> int:
    """Open a file for reading and writing, or create it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)


def open_old(path: str) -> int:
    """Open a file for reading, without waiting where it is a pipe."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)


def write_all(fd: int, data: Any) -> None:
    """Write all bytes; the system may take fewer at a time."""
    view = memoryview(data)
    while view:
        count = os.write(fd, view[:CHUNK])
        if not count:
            raise OSError(errno.EIO, "the system wrote nothing")
        view = view[count:]


def read_some(fd: int, count: int) -> bytes:
    """Read up to ``count`` bytes from the beginning."""
    os.lseek(fd, 0, os.SEEK_SET)
    return os.read(fd, count)


def seek(fd: int, offset: int) -> None:
    """Go to an offset from the beginning; to the end if it is -1."""
    os.lseek(fd, max(offset, 0), os.SEEK_END if offset < 0 else os.SEEK_SET)


def flush(fd: int) -> None:
    """Have the system bring a file to the disk."""
    os.fsync(fd)


def close(fd: int) -> None:
    """Close a file."""
    os.close(fd)


def replace(source: str, target: str) -> None:
    """Give a file another name, in the place of the file that has it, in one step."""
    os.replace(source, target)


def remove(path: str) -> None:
    """Remove a file."""
    os.unlink(path)


def truncate(fd: int) -> None:
    """Make a file empty."""
    os.ftruncate(fd, 0)


def names(folder: str) -> list[str]:
    """Return the names in a folder."""
    return os.listdir(folder)


def flush_folder(folder: str) -> None:
    """Have the system bring the names in a folder to the disk."""
    if os.name == "nt":  # where folders cannot be opened
        return
    fd = os.open(folder, os.O_RDONLY | _BINARY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def take_mode(fd: int, path: str) -> None:
    """Give an open file the permissions of the one that it will replace: what is private stays so."""
    if hasattr(os, "fchmod"):
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(fd, stat.S_IMODE(os.stat(path).st_mode))


def make_folder(folder: str) -> None:
    """Make a folder and those above it, where they do not exist."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    make_folder(above)
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.mkdir(folder)
    flush_folder(above)


def hold(fd: int) -> bool | None:
    """Lock an open file until it is closed. False where another one has; None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
            return False
        raise
    return True


def is_at(fd: int, path: str) -> bool:
    """Tell whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


# --- a file as a whole ------------------------------------------------------------------------------------------------


def reap(folder: str, alone: bool = False) -> list[str]:
    """Remove what writers that were killed left in a folder; return the names.

    Where the file system has no locks nobody can tell a stray from what is being written; then nothing is removed,
    unless the caller knows that it is ``alone``.
    """
    reaped = []
    for name in names(folder):
        if name.startswith(PREFIX) and name.endswith(SUFFIX):
            # A stray of another user, or one that is no longer there, is no reason to fail.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                fd = open_old(os.path.join(folder, name))
                try:
                    if hold(fd) or (alone and hold(fd) is None):
                        remove(os.path.join(folder, name))
                        reaped.append(name)
                finally:
                    close(fd)
    return reaped


def check_regular(where: str, path: str) -> None:
    """Raise where a path leads to a pipe or a device: the first would be waited for, the second replaced."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    if kind not in (stat.S_IFREG, stat.S_IFDIR):  # folders are refused by the system
        raise CheckpointError(message(where, f"{path!r} is no file on a disk.", None, None,
                                      f"Open it: with open({path!r}, ...) as file: {where}(file, ...)"))  # fmt: skip


class NewFile:
    """A file for writing that takes its name when the block ends, with its bytes on the disk; never if it raises.

    Args:
        path: the file. Where it is a link, the file that it leads to is replaced, and the link stays.
        alone: whether the caller knows that nobody else writes to the folder.

    Raises:
        OSError: what the system refused; then there is no new file, and an old one of that name is as it was.
    """

    def __init__(self, path: str, alone: bool = False):
        self.path, self._alone = os.path.realpath(path), alone
        self.folder = os.path.dirname(self.path)
        self.position = 0
        self._pieces, self._size, self._fd = bytearray(), 0, -1
        self._temporary = ""

    def __enter__(self) -> NewFile:
        with doing(f"saving {self.path!r}", self.path):
            check_regular("save_var_collection", self.path)
        with doing(f"saving into {self.folder!r}", self.folder):
            reap(self.folder, self._alone)
        for _ in range(_TRIES):
            self._temporary = os.path.join(self.folder, f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}")
            try:
                with doing(f"creating a file for {self.path!r}", self.folder):
                    self._fd = open_new(self._temporary)
                    # Another writer that reaps may have taken it for a stray before the lock was there.
                    if hold(self._fd) is not False and is_at(self._fd, self._temporary):
                        take_mode(self._fd, self.path)
                        return self
            except BaseException:
                self._abandon()
                raise
            self._abandon()
        text = message("optimkit.io", f"none of {_TRIES} files made for {self.path!r} could be locked")
        raise OSError(errno.EAGAIN, text, self.folder)

    def write(self, data: Any) -> None:
        """Write bytes, after those before."""
        view = memoryview(data).cast("B")
        self.position += len(view)
        if len(view) > GATHERED:
            self._write_gathered()
            with doing(f"writing {self.path!r}", self.path):
                write_all(self._fd, view)
        else:
            self._pieces += view
            if len(self._pieces) > GATHERED:
                self._write_gathered()

    def _write_gathered(self) -> None:
        pieces, self._pieces = self._pieces, bytearray()
        with doing(f"writing {self.path!r}", self.path):
            write_all(self._fd, pieces)

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self._write_gathered()
                with doing(f"bringing {self.path!r} to the disk", self.path):
                    flush(self._fd)
                with doing(f"putting the new {self.path!r} in its place", self.path):
                    self._replace()
                with doing(f"{self.path!r} is in its place; bringing its name to the disk", self.path):
                    flush_folder(self.folder)
        finally:
            self._abandon()

    def _replace(self) -> None:
        if os.name == "nt":  # where an open file cannot be renamed
            self._close()
        replace(self._temporary, self.path)
        self._temporary = ""
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            close(fd)

    def _abandon(self) -> None:
        """Leave nothing behind that has not been put in its place."""
        with contextlib.suppress(OSError):  # what is under way is the error to hear of
            self._close()
        if self._temporary:
            temporary, self._temporary = self._temporary, ""
            with contextlib.suppress(OSError):
                remove(temporary)
