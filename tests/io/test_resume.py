"""A training that is saved and continued in another process is the one that was never stopped, to the last bit.

For every rule and wrapper of the table, and for what an optimizer remembers beside its rule's state: parameters of two
dtypes, slots, counters, the clock of schedules, dynamic hyperparameters, accumulators, averages, random keys.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import io
from tests.io.trainings import SHELLS, Training
from tests.rule_table import RULES

ROOT = Path(__file__).parent.parent.parent
# Neither a multiple of the periods in the table nor of the EMA's: a save falls between what happens every other step.
HALF = 7

FAST = {"many wrappers"}  # an accumulator, an average, slow weights and a guard, around Adam with a schedule
NAMES = [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in (*SHELLS, *RULES)]


class FreshProcess:
    """A process that shares nothing with this one but files."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.io.resume_worker"], cwd=ROOT, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip

    def ask(self, *request):
        self.process.stdin.write(json.dumps(request) + "\n")
        answer = json.loads(self.process.stdout.readline() or '{"error": "the process has ended"}')
        if "error" in answer:
            pytest.fail(answer["error"])
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def fresh():
    process = FreshProcess()
    yield process
    process.close()


def differences(got, expected):
    """Return the names of variables that differ, with what they are."""
    return {name: (got.get(name), x) for name, x in expected.items() if got.get(name) != x} | {
        name: (x, None) for name, x in got.items() if name not in expected}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_training_continued_in_another_process_is_the_uninterrupted_one(name, fresh, tmp_path):
    training, file = Training(name, seed=1), tmp_path / "half.npz"
    start = training.bits()
    training.run(0, HALF)
    half = training.bits()
    io.save_var_collection(file, training.vc)
    assert differences(training.bits(), half) == {}, "saving changes variables"
    training.run(HALF, 2 * HALF)
    answer = fresh.ask(name, str(file), HALF, 2 * HALF)
    assert differences(answer["restored"], half) == {}
    assert differences(answer["bits"], training.bits()) == {}
    # The comparison sees something: steps move what they should, and nothing has become NaN on both sides.
    assert any("noise" in changed for changed in differences(half, start)), "no random number was drawn"
    assert all(np.isfinite(np.asarray(v.value, np.float32)).all() for v in training.vc
               if jnp.issubdtype(v.dtype, jnp.floating))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["net(Net).random", "opt(Optimizer).clock", "ema(ExponentialMovingAverage).calls"])
def test_a_training_that_loses_one_variable_is_not_the_uninterrupted_one(lost):
    """The comparison would notice: each kind of memory has its part in what comes."""
    whole, lossy = Training("Adam", seed=1), Training("Adam", seed=1)
    for training in (whole, lossy):
        training.run(0, 3)
    fresh = Training("Adam", seed=1)
    lossy.vc[lost].assign(fresh.vc[lost].value)
    for training in (whole, lossy):
        training.run(3, 6)
    assert len(differences(lossy.bits(), whole.bits())) > 1
