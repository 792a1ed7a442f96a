"""Any sequence of saves, faults, deaths, restores, renames and damage: the newest checkpoint is complete and bit-exact.

Hypothesis plays a run with its folder; beside it a dictionary says what each checkpoint has to hold.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from optimkit import VarCollection
from optimkit.errors import CorruptCheckpointError
from optimkit.io import Checkpoint, files, load_var_collection
from tests.io.faulty import Dying, Killed, Log, Raising, installed
from tests.io.states import bits, known, quick_folder, small, unchanged

VARS, TARGET = small(0), small(1)  # they are made once, and hold other values in each example
RENAMED = VarCollection({f"new/{name}": v for name, v in TARGET.items()})
ERRORS = st.sampled_from((errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS))
CALLS = st.integers(0, 30)
DAMAGED = -1


class Run(RuleBasedStateMachine):
    """A run: variables, a folder of checkpoints, and what is known about them."""

    @initialize(keep=st.sampled_from((1, 2, 3, None)))
    def begin(self, keep):
        self.stack = contextlib.ExitStack()
        self.folder = self.stack.enter_context(quick_folder())
        self.stack.callback(setattr, files, "GATHERED", files.GATHERED)
        files.GATHERED = 256  # so that there are several writes
        self.keep, self.checkpoint = keep, Checkpoint(self.folder, keep, verbose=False)
        VARS.assign(known(0).tensors())
        # It holds the lock all the time: that of a process which dies in play would stay with this one.
        self.holder = Checkpoint(self.folder, keep, verbose=False)
        self.holder.save(VARS, 0)
        self.model = {0: 0}  # by number, which values it has
        self.values, self.strays = 0, False

    def teardown(self):
        if hasattr(self, "folder"):
            with self.stack, self.holder, self.checkpoint:
                for idx in self.model:
                    self.restores(idx)

    # --- what a run does ------------------------------------------------------------------------------------------

    @rule(values=st.integers(1, 7))
    def train(self, values):
        VARS.assign(known(values).tensors())
        self.values = values

    @rule(step=st.integers(1, 3), wait=st.booleans())
    def save(self, step, wait):
        self.saved(self.next(step), lambda idx: self.checkpoint.save(VARS, idx, wait=wait))

    @rule(values=st.integers(1, 7), step=st.integers(1, 3))
    def save_and_go_on(self, values, step):
        """What is saved in the background is what was there at the call."""

        def act(idx):
            self.checkpoint.save(VARS, idx, wait=False)
            VARS.assign(known(values).tensors())

        self.saved(self.next(step), act)
        self.values = values

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def save_again(self, data):
        self.saved(data.draw(st.sampled_from(sorted(self.model))), lambda idx: self.checkpoint.save(VARS, idx))

    @rule(at=CALLS, number=ERRORS, on=st.booleans(), wait=st.booleans())
    def save_with_a_fault(self, at, number, on, wait):
        act = Raising(at, OSError(number, os.strerror(number)), on=on)
        self.disturbed(act, OSError, wait)
        self.strays |= act.raised

    @rule(at=CALLS, done=st.booleans())
    def save_and_interrupt(self, at, done):
        self.disturbed(Raising(at, KeyboardInterrupt(), done=done), KeyboardInterrupt, True)

    @rule(at=CALLS, wait=st.booleans())
    def save_and_die(self, at, wait):
        act = Dying(at)
        self.disturbed(act, Killed, wait)
        act.bury()
        self.strays = True
        self.reopen()

    @rule()
    def reopen(self):
        self.checkpoint.close()
        self.checkpoint = Checkpoint(self.folder, self.keep, verbose=False)

    @precondition(lambda self: any(values != DAMAGED for values in self.model.values()))
    @rule(data=st.data())
    def damage(self, data):
        idx = data.draw(st.sampled_from([idx for idx, values in sorted(self.model.items()) if values != DAMAGED]))
        path = Path(self.checkpoint.path(idx))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content[: data.draw(st.sampled_from((len(content), at)))])
        self.model[idx] = DAMAGED

    @precondition(lambda self: DAMAGED in self.model.values())
    @rule()
    def clear_away_what_is_damaged(self):
        for idx in [idx for idx, values in self.model.items() if values == DAMAGED]:
            os.unlink(self.checkpoint.path(idx))
            del self.model[idx]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def restore_one(self, data):
        self.restores(data.draw(st.sampled_from(sorted(self.model))))

    @precondition(lambda self: any(values != DAMAGED for values in self.model.values()))
    @rule()
    def restore_under_other_names(self):
        idx = max(idx for idx, values in self.model.items() if values != DAMAGED)
        self.checkpoint.wait()
        load_var_collection(self.checkpoint.path(idx), RENAMED, rename=lambda name: f"new/{name}")
        assert bits(TARGET) == bits(known(self.model[idx]))

    # --- how it is followed ---------------------------------------------------------------------------------------

    def next(self, step=1):
        return max(self.model, default=-1) + step

    def saved(self, idx, act):
        """Save, and require that what is kept is the newest."""
        values = self.values
        act(idx)
        self.checkpoint.wait()
        self.model[idx] = values
        others = [i for i in sorted(self.model) if i != idx]
        for old in others[: max(0, len(others) + 1 - self.keep)] if self.keep else ():
            del self.model[old]
        self.strays = False

    def disturbed(self, act, expected, wait):
        """Save under a fault, and require the old checkpoints or the old and the new one."""
        idx, raised = self.next(), False
        try:
            with unchanged(VARS), installed(act):
                try:
                    self.checkpoint.save(VARS, idx, wait=wait)
                    self.checkpoint.wait()
                except expected:
                    raised = True
        finally:
            there = {saved.idx for saved in self.checkpoint.all()}
        assert there <= {*self.model, idx} and (raised or idx in there)
        if idx in there:
            self.model[idx] = self.values
        newest = sorted(self.model)[-self.keep :] if self.keep else sorted(self.model)
        assert set(newest) <= there, "a checkpoint is gone that was to be kept"
        self.model = {i: values for i, values in self.model.items() if i in there}

    def restores(self, idx):
        """Require that a checkpoint has what was saved, or is refused if it was damaged."""
        if self.model[idx] == DAMAGED:
            with unchanged(TARGET), pytest.raises(CorruptCheckpointError):
                self.checkpoint.restore(TARGET, idx)
        else:
            assert self.checkpoint.restore(TARGET, idx) == (idx, self.checkpoint.path(idx))
            assert bits(TARGET) == bits(known(self.model[idx]))

    @invariant()
    def the_newest_is_complete(self):
        if hasattr(self, "folder"):
            assert [saved.idx for saved in self.checkpoint.all()] == sorted(self.model)
            if self.model:
                self.restores(max(self.model))
            assert bits(VARS) == bits(known(self.values))

    @invariant()
    def strays_are_what_dead_writers_left(self):
        if hasattr(self, "folder") and not self.strays:
            assert not [p for p in self.folder.rglob("*") if p.name.startswith(files.PREFIX)]


def test_runs_of_all_kinds():
    Run.TestCase.settings = settings(stateful_step_count=12)
    Run.TestCase().runTest()


@pytest.mark.slow
def test_long_runs_of_all_kinds():
    Run.TestCase.settings = settings(stateful_step_count=40, max_examples=100)
    Run.TestCase().runTest()


def test_a_save_has_as_many_calls_as_the_machine_disturbs(tmp_path, monkeypatch):
    """Faults are drawn among 30 calls: those of a save are not many more, so that the last ones are hit, nor few."""
    monkeypatch.setattr(files, "GATHERED", 256)
    with Checkpoint(tmp_path, 1, verbose=False) as checkpoint, installed(Log()) as log:
        checkpoint.save(known(1), 0)
        log.names.clear()
        checkpoint.save(known(2), 1)
    assert 20 <= len(log.names) <= 40
