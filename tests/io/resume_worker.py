"""A process that continues trainings from checkpoints: one JSON request a line, one answer a line.

    python -m tests.io.resume_worker

A request is ``[name, file, start, stop]``; the answer has the bits of all variables after the restore and after the
steps, or the error. It serves one training after another, for a process of its own each would take minutes.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

import tests.conftest  # noqa: F401 - the configuration of JAX that the tests run under
from optimkit import io
from tests.io.trainings import Training

SEED = 41  # of no training that is saved: nothing may be right by chance


def continued(name: str, file: str, start: int, stop: int) -> dict:
    """Restore a training that was built from another seed, and take the steps that it has left."""
    training = Training(name, SEED)
    io.load_var_collection(file, training.vc)
    restored = training.bits()
    training.run(start, stop)
    return {"restored": restored, "bits": training.bits()}


def main() -> None:
    """Serve requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        try:
            answer = continued(*json.loads(line))
        except Exception:  # noqa: BLE001 - whatever it is, the test shows it
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
