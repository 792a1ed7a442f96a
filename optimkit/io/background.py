"""One job at a time in a thread of its own, whose error is never lost."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable


class Background:
    """Runs one job at a time beside the program. The error of a job comes out at the next call, or at exit."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], object]) -> None:
        """Start a job, when the one before has ended.

        Raises:
            BaseException: what the job before raised; then this one is not started.
        """
        self.wait()
        # No daemon: the interpreter waits for it before it goes down.
        self._thread = threading.Thread(target=self._run, args=(job,), name="optimkit-save")
        _unread.add(self)
        try:
            self._thread.start()
        except BaseException:
            self._thread = None
            _unread.discard(self)
            raise

    def wait(self) -> None:
        """Wait until the job has ended.

        Raises:
            BaseException: what it raised, once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        _unread.discard(self)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits
            self._error = error


_unread: set[Background] = set()  # whose last job nobody has waited for


@atexit.register
def _report() -> None:
    """Raise at exit what jobs raised that nobody has waited for: Python shows it."""
    errors: list[BaseException] = []
    for background in list(_unread):
        try:
            background.wait()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup("saves in the background failed", errors)
