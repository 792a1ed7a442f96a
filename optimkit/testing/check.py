"""What makes a function a check: whatever goes wrong in it, it fails by one kind of error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

from optimkit.errors import ConformanceError, message

P = ParamSpec("P")


def check(f: Callable[P, None]) -> Callable[P, None]:
    """Let a check fail by ConformanceError only.

    A check calls code that it does not know; whatever that raises means that the check failed.
    """

    @functools.wraps(f)
    def checked(*args: P.args, **options: P.kwargs) -> None:
        try:
            f(*args, **options)
        except ConformanceError:
            raise
        except Exception as error:
            rule = args[0] if args else options.get("rule")
            raise ConformanceError(message(
                where(f, rule), "an exception was raised in it.", "none",
                f"{type(error).__name__}: {error}")) from error  # fmt: skip

    return checked


def where(f: Callable[..., None], rule: Any) -> str:
    """Return the beginning of a check's messages: its name, and the rule."""
    return f"{f.__name__}({rule!r})"
