"""What makes a function a check: it takes any optimizer, and it fails by one kind of error, whatever goes wrong."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

from optimkit.errors import ConformanceError, message
from optimkit.hyper import hyperparameters
from optimkit.rules import lookup
from optimkit.rules.base import Rule
from optimkit.testing.subjects import Foreign, subject

Check = Callable[..., None]
LONGEST = 1200  # letters of the message of somebody else's exception; JAX's report of a leak has pages


class NotApplicable(Exception):  # noqa: N818  no error: it says that a check has nothing to say, and why
    """Raised by a check that has nothing to say about an optimizer; its text is the reason."""


def ours(rule: Rule) -> str:
    """Return why a check of our rules has nothing to say: the optimizer is of another make."""
    return "it is not a Rule" if isinstance(rule, Foreign) else ""


def tunable(rule: Rule) -> str:
    """Return why a check of hyperparameters has nothing to say: none is declared."""
    return "" if any(hyperparameters(part) for _, part in lookup.walk(rule)) else "it declares no hyperparameters"


@overload
def check(f: Check) -> Check: ...


@overload
def check(*, only: Callable[[Any], str]) -> Callable[[Check], Check]: ...


def check(f: Check | None = None, *, only: Callable[[Any], str] = lambda rule: "") -> Any:
    """Let a function of a rule be a check.

    It then takes whatever :func:`optimkit.testing.subject` takes, and fails by ConformanceError only: a check calls
    code that it does not know, and whatever that raises means that the check failed.

    Args:
        f: the function; its first argument is the rule.
        only: a function of the rule that returns why the check has nothing to say about it, or an empty string.
            The check then raises NotApplicable.
    """
    if f is None:
        return functools.partial(check, only=only)

    @functools.wraps(f)
    def checked(*args: Any, **options: Any) -> None:
        obj, rest = (args[0], args[1:]) if args else (options.pop("rule"), ())
        rule = subject(obj)
        if reason := only(rule):
            raise NotApplicable(reason)
        try:
            f(rule, *rest, **options)
        except (ConformanceError, NotApplicable):
            raise
        except Exception as error:
            raise ConformanceError(message(
                where(f, rule), f"an exception was raised in it{_place(error)}.", "none",
                f"{type(error).__name__}: {_shortened(str(error))}")) from error  # fmt: skip

    checked.only = only  # type: ignore[attr-defined]
    return checked


def where(f: Check, rule: Any) -> str:
    """Return the beginning of a check's messages: its name, and the rule."""
    return f"{f.__name__}({rule!r})"


# Frames of these say nothing about an optimizer: the kit itself, and the libraries that it runs on.
KIT = str(Path(__file__).parent)
LIBRARIES = ("jax", "jaxlib", "numpy", "hypothesis")


def _place(error: Exception) -> str:
    """Return where an exception was raised, in the last frame that belongs to the optimizer."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    return f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _is_machinery(filename: str) -> bool:
    path = Path(filename)
    installed = "site-packages" in path.parts and any(name in path.parts for name in LIBRARIES)
    standard = path.parent == Path(functools.__file__).parent or filename.startswith("<")
    return filename.startswith(KIT) or installed or standard


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."
