"""A system whose calls fail, stop half-way or kill: it stands for ``os`` and ``fcntl`` in optimkit.io.files.

Which calls there are is found by counting those of a run in which nothing fails, so no test lists them by hand.
"""

from __future__ import annotations

import contextlib
import os
import signal
import types
from collections.abc import Callable, Iterator
from typing import Any

from optimkit.io import files

# Functions of ``os`` that ask the system for nothing.
PURE = {"fspath", "strerror", "getpid"}

Call = tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]
Act = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class System:
    """A module of system calls, each of which goes through ``act(name, call, args, kwargs)``."""

    def __init__(self, module: types.ModuleType, act: Act):
        self._module, self._act = module, act

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name in PURE or not isinstance(found, types.BuiltinFunctionType):
            return found
        return lambda *args, **kwargs: self._act(name, found, args, kwargs)


@contextlib.contextmanager
def installed(act: Act) -> Iterator[Any]:
    """Let all system calls of optimkit.io go through ``act`` for the length of a block."""
    saved = files.os, files.fcntl
    files.os, files.fcntl = System(os, act), System(saved[1], act)
    try:
        yield act
    finally:
        files.os, files.fcntl = saved


class Log:
    """Does every call, and remembers their names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.names.append(name)
        return self.do(len(self.names) - 1, name, call, args, kwargs)

    def do(self, k: int, name: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Do the call number ``k``, from 0."""
        return call(*args, **kwargs)


class Raising(Log):
    """Raises at one call.

    Args:
        at: which call.
        error: what is raised.
        done: whether the call takes effect before it raises, as when Ctrl-C arrives on its way back.
        on: whether all calls after it raise, too: a file system that has become read-only stays so.
    """

    def __init__(self, at: int, error: BaseException, *, done: bool = False, on: bool = False):
        super().__init__()
        self.at, self.error, self.done, self.on = at, error, done, on
        self.raised = False

    def do(self, k: int, name: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if k == self.at or (self.on and k > self.at and name != "close"):
            self.raised = True
            if self.done or name == "close":  # which closes, whatever it says
                with contextlib.suppress(OSError):  # what it has to say comes too late
                    result = call(*args, **kwargs)
                    if name == "open":
                        os.close(result)  # nobody else could
            raise self.error
        return call(*args, **kwargs)


class Refusing(Log):
    """Refuses every call of one name, and ends what asks without end."""

    def __init__(self, refused: str, error: BaseException, most: int):
        super().__init__()
        self.refused, self.error, self.most = refused, error, most

    def do(self, k: int, name: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if k > self.most:
            raise AssertionError(f"{k} calls, and no end: {self.names[-8:]}")
        if name == "close":
            call(*args, **kwargs)
        if name == self.refused:
            raise self.error
        return None if name == "close" else call(*args, **kwargs)


class ShortWrites(Log):
    """Writes as much at a time as it likes, from one byte on."""

    def __init__(self, sizes: Iterator[int]):
        super().__init__()
        self.sizes = sizes

    def do(self, k: int, name: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if name == "write":
            fd, data = args
            return call(fd, data[: next(self.sizes)])
        return call(*args, **kwargs)


class Killing(Log):
    """Kills this process at one call, before it takes effect; a write may be half done."""

    def __init__(self, at: int, half: bool = False):
        super().__init__()
        self.at, self.half = at, half

    def do(self, k: int, name: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if k == self.at:
            if self.half and name == "write":
                call(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)


class Killed(BaseException):
    """Ends a process in play: no system call of what unwinds has an effect."""


class Dying(Log):
    """A process that dies at one call, within this one. :meth:`bury` closes its files, as the system does.

    Nothing after that call has an effect, as after SIGKILL. A lock on the folder has to be there before, and stays.
    """

    def __init__(self, at: int):
        super().__init__()
        self.at, self.open = at, set[int]()

    def do(self, k: int, name: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if k >= self.at:
            raise Killed
        result = call(*args, **kwargs)
        if name == "open" and files.PREFIX in args[0]:
            self.open.add(result)
        elif name == "close":
            self.open.discard(args[0])
        return result

    def bury(self) -> None:
        for fd in self.open:
            os.close(fd)
        self.open.clear()
