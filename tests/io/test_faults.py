"""Every system call of a save and of a load fails once: the error says so, and nothing is lost or left behind.

Fault table: 44 (no space, no permission, a read-only file system, a failing fsync, a folder that goes away), and 24 for
a Ctrl-C at each call.
"""

from __future__ import annotations

import errno
import io as std_io
import itertools
import os
import re
import shutil

import pytest

from optimkit import io
from optimkit.io import files
from tests.io.faulty import Log, Raising, Refusing, ShortWrites, installed
from tests.io.states import bits, known, quick_folder, small, unchanged

ERRORS = (errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS, errno.EINTR)
# Of one call: a disk that is full for a moment, a file of another user; from there on: a disk that is lost.
FAST = {(errno.ENOSPC, False), (errno.EACCES, False), (errno.EIO, True)}
FAULTS = [pytest.param(e, on, id=f"{errno.errorcode[e]}{' from there on' * on}",
                       marks=[] if (e, on) in FAST else [pytest.mark.slow])
          for e in ERRORS for on in (False, True)]  # fmt: skip
CTRL_C = pytest.mark.parametrize("done", [False, True], ids=["before", "after"])


@pytest.fixture
def tmp_path():
    with quick_folder() as folder:
        yield folder


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Let a small save have many system calls."""
    monkeypatch.setattr(files, "CHUNK", 512)
    monkeypatch.setattr(files, "GATHERED", 256)


TARGET = small(3)


class Single:
    """Saves of one file over itself."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "state.npz"
        self.begin()

    def begin(self):
        """Make what is there before the save that fails."""
        self.old, self.new = known(1), known(2)
        io.save_var_collection(self.path, self.old)

    def save(self):
        io.save_var_collection(self.path, self.new)

    def load(self, vc):
        io.load_var_collection(self.path, vc)

    def close(self):
        """Let go of what no test is about: a collection of garbage would do it, amid the calls of another one."""

    def loaded(self):
        """Return the bits that a restore gives."""
        TARGET.assign(known(3).tensors())
        self.load(TARGET)
        return bits(TARGET)


class Rotating(Single):
    """A checkpoint folder from which a save removes the oldest."""

    def begin(self):
        self.oldest, self.old, self.new = known(0), known(1), known(2)
        self.checkpoint = io.Checkpoint(str(self.folder), keep_ckpts=2, verbose=False)
        self.checkpoint.save(self.oldest, 0)
        self.checkpoint.save(self.old, 1)

    def save(self):
        self.checkpoint.save(self.new, 2)

    def close(self):
        self.checkpoint.close()

    def load(self, vc):
        io.Checkpoint(str(self.folder), keep_ckpts=2, verbose=False).restore(vc)


BOTH = pytest.mark.parametrize("kind", [Single, Rotating])


def descriptors():
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()


def contents(folder):
    """Return the files of a folder and their bytes, the lock file aside."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and "lock" not in p.name}


def calls_of(kind, folder):
    """Return the system calls of one save, in order."""
    folder.mkdir()
    writer = kind(folder)
    with installed(Log()) as log:
        writer.save()
    writer.close()
    return log.names


def check(writer, act, before, allowed=()):
    """Require that the newest file is the old one or the new one, as a whole, and that nothing else is there."""
    replaced = writer_replaced(act)
    assert writer.loaded() == bits(writer.new if replaced else writer.old)
    now = contents(writer.folder)
    lost = [p for p in before if p not in now]
    if not replaced:
        assert now.items() >= before.items(), "a save that failed changed what was there"
    assert len(lost) <= replaced, f"{lost} is gone"
    strays = {p for p in now if p.name.startswith(files.PREFIX)}
    assert not strays or allowed


def writer_replaced(act):
    """Tell whether the call that puts the new file in its place was made, and took effect."""
    return any(name == "replace" and (k != act.at or act.done) and not (act.on and k >= act.at)
               for k, name in enumerate(act.names))  # fmt: skip


def each_call(kind, tmp_path):
    """Yield a writer with an old file, in a folder of its own, for each system call of its save."""
    names = calls_of(kind, tmp_path / "dry")
    assert {"open", "write", "fsync", "replace", "close"} <= set(names)
    for k in range(len(names)):
        folder = tmp_path / str(k)
        folder.mkdir()
        writer = kind(folder)
        yield k, writer
        writer.close()


@BOTH
@pytest.mark.parametrize("number, on", FAULTS)
def test_a_save_whose_system_call_fails_says_so_and_leaves_the_old_file(kind, number, on, tmp_path):
    for k, writer in each_call(kind, tmp_path):
        before, opened, raised = contents(writer.folder), descriptors(), None
        fault = OSError(number, os.strerror(number))
        with unchanged(writer.new), installed(Raising(k, fault, on=on)) as act:
            try:
                writer.save()
            except OSError as error:
                raised = error
        assert act.raised
        where = f"call {k}, {act.names[k]}"
        assert descriptors() <= opened, where
        if raised is None:  # of those calls alone whose failure costs nothing
            assert act.names[k] in ("close", "unlink", "flock", "listdir", "open", "ftruncate", "lseek"), where
            assert writer_replaced(act), where
        else:
            assert raised.errno == number and type(raised) is type(fault), where
            assert str(writer.folder) in str(raised) and os.strerror(number) in str(raised), where
        check(writer, act, before, allowed=on or act.names[k] in ("unlink", "replace"))
        writer.save()  # what is left does not stand in the way, and goes away
        assert not [p for p in contents(writer.folder) if p.name.startswith(files.PREFIX)], where
        assert writer.loaded() == bits(writer.new), where


@BOTH
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_system_that_always_refuses_one_kind_of_call_costs_a_save_at_most(kind, number, tmp_path):
    """No call is made again and again: a file system without locks, or with read-only folders, ends a save."""
    names = calls_of(kind, tmp_path / "dry")
    for name in sorted(set(names)):
        (folder := tmp_path / name).mkdir()
        writer, complete = kind(folder), False
        with unchanged(writer.new), installed(Refusing(name, OSError(number, os.strerror(number)), 10 * len(names))):
            try:
                writer.save()
                complete = True
            except OSError as error:
                assert error.errno == number and str(folder) in str(error), name
        assert writer.loaded() in ([bits(writer.new)] if complete else [bits(writer.old), bits(writer.new)]), name
        writer.save()
        assert writer.loaded() == bits(writer.new), name
        writer.close()


@BOTH
@pytest.mark.parametrize("number", (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP), ids=errno.errorcode.get)
def test_a_file_system_without_locks_takes_saves(kind, number, tmp_path):
    """Who has the folder to himself also removes what dead writers left; others cannot tell it from what is written."""
    writer = kind(tmp_path)
    (stray := next(tmp_path.rglob("*.npz")).parent / f"{files.PREFIX}0{files.SUFFIX}").write_bytes(b"half")
    with installed(Refusing("flock", OSError(number, os.strerror(number)), 1000)) as act:
        writer.save()
    assert "flock" in act.names
    assert writer.loaded() == bits(writer.new)
    assert stray.exists() == (kind is Single)
    writer.close()


@BOTH
@CTRL_C
def test_a_save_that_is_interrupted_at_any_call_leaves_one_whole_file(kind, done, tmp_path):
    for k, writer in each_call(kind, tmp_path):
        before, opened = contents(writer.folder), descriptors()
        fault = Raising(k, KeyboardInterrupt(), done=done)
        with unchanged(writer.new), installed(fault) as act, pytest.raises(KeyboardInterrupt):
            writer.save()
        assert descriptors() <= opened, act.names[k]
        check(writer, act, before)
        writer.save()


@BOTH
def test_a_folder_that_goes_away_during_a_save_is_an_error_that_names_it(kind, tmp_path):
    class Removing(Log):
        def __init__(self, at, folder):
            super().__init__()
            self.at, self.folder = at, folder

        def do(self, k, name, call, args, kwargs):
            if k == self.at:
                shutil.rmtree(self.folder)
            return call(*args, **kwargs)

    for k, writer in each_call(kind, tmp_path):
        opened = descriptors()
        with unchanged(writer.new), installed(Removing(k, writer.folder)) as act:
            try:
                writer.save()
            except OSError as error:
                assert error.errno == errno.ENOENT and str(writer.folder) in str(error)
            else:  # it was there when the new file took its place
                assert "replace" in act.names[:k]
        assert descriptors() <= opened


@pytest.mark.parametrize("sizes", [[1], [7], [1, 3, 511, 2]])
def test_a_system_that_writes_less_than_it_is_given_gets_the_rest_later(sizes, tmp_path):
    vc = known(1)
    io.save_var_collection(tmp_path / "whole.npz", vc)
    with installed(ShortWrites(itertools.cycle(sizes))) as log:
        io.save_var_collection(tmp_path / "pieces.npz", vc)
    assert log.names.count("write") > 10
    assert (tmp_path / "pieces.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_system_that_writes_nothing_is_an_error_and_no_endless_loop(tmp_path):
    with installed(ShortWrites(itertools.repeat(0))), pytest.raises(OSError, match=r"state\.npz"):
        io.save_var_collection(tmp_path / "state.npz", known(1))
    assert contents(tmp_path) == {}


class FailingFile(std_io.FileIO):
    """A file of which one read fails."""

    def __init__(self, path, at=None, fault=None):
        super().__init__(path)
        self.at, self.fault, self.reads = at, fault, 0

    def readinto(self, view):
        self.reads += 1
        if self.reads - 1 == self.at:
            raise self.fault
        return super().readinto(view)


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "no luck"), KeyboardInterrupt()], ids=["EIO", "Ctrl-C"])
def test_a_load_of_which_any_read_fails_assigns_nothing(fault, tmp_path):
    path, target = tmp_path / "state.npz", known(3)
    io.save_var_collection(path, known(1))
    with FailingFile(path) as whole:
        io.load_var_collection(whole, TARGET)
    assert whole.reads >= 2 * len(known(1).unique())
    for k in range(whole.reads):
        with FailingFile(path, k, fault) as file, unchanged(target), pytest.raises(type(fault)) as caught:
            io.load_var_collection(file, target)
        assert not isinstance(fault, OSError) or (caught.value.errno == errno.EIO and str(path) in str(caught.value))


def test_a_file_that_cannot_be_opened_is_an_error_with_its_path(tmp_path):
    target = known(3)
    for path, kind in ((tmp_path / "absent.npz", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with unchanged(target), pytest.raises(kind, match=re.escape(str(path))):
            io.load_var_collection(path, target)
