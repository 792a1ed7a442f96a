"""What checks found: a result each, and the report of them, as a table, as an error, or as data."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

from optimkit.errors import ConformanceError

PASSED, FAILED, EXPECTED = "passed", "failed", "failed as expected"
UNEXPECTED, NOT_APPLICABLE = "passed unexpectedly", "not applicable"
VERDICTS = (PASSED, FAILED, EXPECTED, UNEXPECTED, NOT_APPLICABLE)
MARKS = {PASSED: "ok", FAILED: "FAILED", EXPECTED: "expected", UNEXPECTED: "UNEXPECTED", NOT_APPLICABLE: "-"}


@dataclasses.dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        check: its name.
        verdict: "passed", "failed", "failed as expected", "passed unexpectedly" or "not applicable".
        seconds: how long it took, the search for a smaller example included.
        message: what is wrong; for the last verdict and the third, the reason.
        example: a call that shows the failure on the smallest parameters for which it occurs.
    """

    check: str
    verdict: str
    seconds: float
    message: str = ""
    example: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return self.verdict not in (FAILED, UNEXPECTED)

    def line(self) -> str:
        """Return a line of the table: verdict, seconds, name, and what is to be said in a few words."""
        first = self.message.splitlines()[0] if self.message else ""
        said = first.split("): ", 1)[-1] if self.verdict in (FAILED, UNEXPECTED) else first
        return f"{MARKS[self.verdict]:10} {self.seconds:6.2f} s  {self.check:44} {said}".rstrip()


class Report(list[Result]):
    """The results of all checks of one optimizer. It prints as a table."""

    def __init__(self, subject: str, results: Iterable[Result] = ()):
        super().__init__(results)
        self.subject = subject

    @property
    def failures(self) -> list[Result]:
        """The results that are not as they should be."""
        return [result for result in self if not result.ok]

    def counts(self) -> dict[str, int]:
        """Return how many checks came to each verdict."""
        found = Counter(result.verdict for result in self)
        return {verdict: found[verdict] for verdict in VERDICTS}

    def raise_for_failures(self) -> None:
        """Raise ConformanceError if a check failed: the first failure in full, and the names of the others."""
        if failures := self.failures:
            first, *others = failures
            lines = [first.message]
            if first.example:
                lines.append(f"minimal example: {first.example}")
            if others:
                lines.append(f"{len(others)} more: {', '.join(result.check for result in others)}")
            raise ConformanceError("\n".join(lines))

    def as_dict(self) -> dict[str, Any]:
        """Return the report as data for JSON."""
        return {"subject": self.subject, "counts": self.counts(), "checks": [dataclasses.asdict(r) for r in self]}

    def __str__(self) -> str:
        lines = [result.line() for result in self if result.verdict != NOT_APPLICABLE]
        return "\n".join([f"{self.subject}: {self.summary()}", *lines, self.left_out()]).rstrip()

    def left_out(self) -> str:
        """Return the checks that have nothing to say, by reason, a line each."""
        by_reason: dict[str, list[str]] = {}
        for result in self:
            if result.verdict == NOT_APPLICABLE:
                by_reason.setdefault(result.message, []).append(result.check)
        return "".join(f"left out, for {reason}: {', '.join(names)}\n" for reason, names in by_reason.items())

    def summary(self) -> str:
        """Return how many checks came to each verdict, and the seconds of all, in a line."""
        shown = ", ".join(f"{n} {verdict}" for verdict, n in self.counts().items() if n)
        return f"{shown}, {sum(r.seconds for r in self):.1f} s"
