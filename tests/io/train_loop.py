"""A training loop that saves after each step, in processes that are killed while they do so.

    python -m tests.io.train_loop FOLDER_OF_COMPILED_PROGRAMS

Starting Python and importing JAX takes a second, so this process does it once and forks a child for each request, a
line of JSON. It starts no threads itself: JAX makes its own in the child, where it is first used.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from typing import Any, NoReturn

import jax
import numpy as np

import optimkit
import tests.conftest  # noqa: F401 - the configuration of JAX that the tests run under
from optimkit import Jit, Module, StateVar, VarCollection, optimizer, schedule
from optimkit.ema import ExponentialMovingAverage
from optimkit.io import Checkpoint
from tests.io.faulty import Killing, Log, installed
from tests.shell import Net, X, Y, loss_of

KEPT = 2
HEAVY = (2, 1 << 18)  # arrays and their elements, of four bytes: what makes a save last longer than a step
PLAIN = (3, 1 << 17)


class Loop(Module):
    """A model, Adam with a schedule, an average and a random state; and arrays that only say which step it is."""

    def __init__(self):
        self.net = Net()
        self.opt = optimizer.Adam(self.net.vars(), lr=schedule.WarmupCosine(0.05, 5, 5000))
        self.ema = ExponentialMovingAverage(self.net.vars(), 0.9, every=2)
        self.heavy = optimkit.ModuleList(StateVar(np.zeros(HEAVY[1], np.int32)) for _ in range(HEAVY[0]))
        loss = loss_of(self.net)

        def step() -> None:
            self.opt.minimize(loss, X, Y)
            self.ema()

        self.jit = Jit(step, self.net.vars() + self.opt.vars() + self.ema.vars())

    def step(self, t: int) -> None:
        """Take step ``t``, from 1."""
        self.jit()
        for v in self.heavy:
            v.value = np.full(v.shape, t, np.int32)


def plain() -> VarCollection:
    """Return arrays that only say which step it is, in variables that need no compiler."""
    return VarCollection((f"x{i}", StateVar(np.zeros(PLAIN[1], np.int32))) for i in range(PLAIN[0]))


def child(request: dict[str, Any], pipe: int) -> None:
    """Continue from the newest checkpoint, and say when each save returns; with ``kill_at``, die at that system call.

    It is ready when it has taken its first step: until then it traces and loads programs, and has nothing to lose.
    """
    act = Log() if request["kill_at"] is None else Killing(*request["kill_at"])
    loop = Loop() if request["train"] else None
    vc = loop.vars() if loop else plain()
    with installed(act):
        checkpoint = Checkpoint(request["folder"], KEPT, verbose=False)
        newest, _ = checkpoint.restore(vc)
        for t in range(newest + 1, newest + 1 + request["saves"]):
            if loop:
                loop.step(t)
            else:
                vc.assign([np.full(v.shape, t, np.int32) for v in vc])
            if t == newest + 1:
                os.write(pipe, b"ready\n")
            checkpoint.save(vc, t, wait=request["wait"])
            os.write(pipe, b"saved %d %f\n" % (t, time.monotonic()))
        checkpoint.wait()
    os.write(pipe, b"calls %s\n" % " ".join(act.names).encode())


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a child, and kill it ``kill_after`` seconds after it is ready; return what it said and how it ended."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _be_child(request, theirs)
    os.close(theirs)
    with open(ours, "rb", buffering=0) as pipe:
        said = pipe.read(6)  # "ready", or nothing if it has died
        if request["kill_after"] is not None:
            time.sleep(request["kill_after"])
            os.kill(pid, signal.SIGKILL)
        said += pipe.readall()
    _, status = os.waitpid(pid, 0)
    return {"said": said.decode(), "status": status}


def _be_child(request: dict[str, Any], pipe: int) -> NoReturn:
    status = 0
    try:
        child(request, pipe)
    except BaseException:  # noqa: BLE001 - a fork must not return into the loop of its parent
        os.write(pipe, traceback.format_exc().encode())
        status = 1
    os._exit(status)


def main(folder: str) -> None:
    """Serve requests until there are no more."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
