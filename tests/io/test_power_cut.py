"""The power fails after any call of a save: what is on the disk is complete, and no save that had returned is lost.

A process that is killed loses nothing that it has told the system. A power cut does: of a file, what was not flushed;
of a folder, the last changes of names. So the system calls of some saves are played on a disk that remembers both, and
after each of them every disk that a power cut may leave is made, and restored from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optimkit.io import Checkpoint, files
from tests.io.faulty import installed
from tests.io.states import bits, known, quick_folder, small

SAVES = 4


class File:
    """What is in a file, and how much of that is on the disk."""

    def __init__(self) -> None:
        self.now, self.flushed = bytearray(), b""

    def after_a_cut(self, how: str) -> bytes:
        if how == "zeros":  # the length is there, and the bytes are not
            return self.flushed + bytes(max(0, len(self.now) - len(self.flushed)))
        return {"lost": self.flushed, "luck": bytes(self.now)}[how]


class Disk:
    """A folder, played from system calls. ``promised`` are saves that have returned."""

    def __init__(self) -> None:
        self.names: dict[str, File] = {}
        self.flushed: dict[str, File] = {}
        self.pending: list[dict[str, File]] = []  # the folder after each change that has not been flushed
        self.open: dict[int, list[Any]] = {}  # file, position
        self.states: list[tuple[int, dict[str, bytes]]] = []
        self.promised = 0

    def __call__(self, name: str, call: Any, args: Any, kwargs: Any) -> Any:
        existed = name == "open" and os.path.exists(args[0])
        result = call(*args, **kwargs)
        if self.play(name, args, result, existed):
            self.cut()
        return result

    def play(self, name: str, args: Any, result: Any, existed: bool) -> bool:
        """Do what a system call does; return whether it changes what a power cut leaves."""
        if name == "open":
            path = args[0]
            if os.path.isdir(path):
                self.open[result] = [None, 0]
                return False
            self.open[result] = [self.names.setdefault(path, File()), 0]
            return not existed and self.changed()
        if name == "close":
            self.open.pop(args[0])
        elif name == "write":
            self.write(args[0], bytes(args[1][:result]))
        elif name == "lseek":
            self.open[args[0]][1] = result
        elif name == "ftruncate":
            del self.open[args[0]][0].now[args[1] :]
        elif name == "fsync":
            self.flush(self.open[args[0]][0])
        elif name == "replace":
            self.names[args[1]] = self.names.pop(args[0])
            return self.changed()
        elif name == "unlink":
            del self.names[args[0]]
            return self.changed()
        return name in ("write", "fsync", "ftruncate")

    def write(self, fd: int, data: bytes) -> None:
        file, at = self.open[fd]
        file.now[at : at + len(data)] = data
        self.open[fd][1] = at + len(data)

    def flush(self, file: File | None) -> None:
        if file is None:
            self.flushed, self.pending = dict(self.names), []
        else:
            file.flushed = bytes(file.now)

    def changed(self) -> bool:
        self.pending.append(dict(self.names))
        return True

    def cut(self) -> None:
        """Remember each disk that a power cut at this moment may leave."""
        for names in (self.flushed, *self.pending):
            for how in ("lost", "zeros", "luck"):
                self.states.append((self.promised, {path: f.after_a_cut(how) for path, f in names.items()}))


def played(folder: Path) -> Disk:
    """Return the disks that are possible during some saves."""
    disk = Disk()
    checkpoint = Checkpoint(folder, 2, verbose=False)
    with installed(disk):
        for i in range(SAVES):
            checkpoint.save(known(i), i)
            disk.promised = i + 1
            disk.cut()
        checkpoint.close()
    return disk


def violations(disk: Disk, folder: Path) -> Iterator[str]:
    """Yield what is wrong with disks that power cuts leave."""
    there = Path(next(path for path in disk.names)).parent
    target, seen = small(9), set()
    for promised, contents in disk.states:
        key = promised, tuple(sorted(contents.items()))
        if key in seen:
            continue
        seen.add(key)
        for path in there.iterdir():
            path.unlink()
        for path, data in contents.items():
            Path(path).write_bytes(data)
        checkpoint = Checkpoint(folder, 2, verbose=False)
        try:
            idx, path = checkpoint.restore(target)
        except Exception as error:  # noqa: BLE001 - whatever it is
            yield f"after {promised} saves the newest cannot be restored: {error}"
            continue
        if promised and (not path or idx < promised - 1):
            yield f"{promised} saves were promised, and {idx} is the newest ({path!r})"
        elif path and bits(target) != bits(known(idx)):
            yield f"{path} holds something else"


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.setattr(files, "GATHERED", 256)
    with quick_folder() as made:
        yield made


def test_a_power_cut_after_any_system_call_leaves_every_checkpoint_that_was_promised(folder):
    disk = played(folder)
    assert len({promised for promised, _ in disk.states}) == SAVES + 1
    assert list(violations(disk, folder)) == []


@pytest.mark.parametrize("left_out", ["flush", "flush_folder"])
def test_a_power_cut_would_tell_that_a_flush_is_left_out(left_out, folder, monkeypatch):
    monkeypatch.setattr(files, left_out, lambda _: None)
    assert list(violations(played(folder), folder)) != []
