"""A mutant before the conformance kit: which check rejects it, if one does."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterator

from optimkit.errors import ConformanceError
from optimkit.rules import Rule
from optimkit.testing import CHECKS
from optimkit.testing.check import NotApplicable
from optimkit.testing.hyperparameters import TOLERANCE
from optimkit.testing.suite import options_of
from tests.mutants.catalogue import ROWS, Mutant
from tests.mutants.operators import OPERATORS
from tests.mutants.transplant import transplanted


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a mutant: the check that rejected it and on which row of the table of rules, or neither."""

    mutant: Mutant
    check: str
    row: str
    says: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether a check rejected it."""
        return bool(self.check)


# These run on all rows of a target, for an option may decide whether the change is seen; all others on the first row.
ON_ALL_ROWS = ("check_oracle", "check_hyperparameters_matter", "check_chainable_is_true")


def trials(mutant: Mutant) -> Iterator[tuple[str, str]]:
    """Yield checks and rows of the table: the checks that are likely to see it first, then the oracle, then the kit."""
    likely = OPERATORS[mutant.operator].likely
    for check in dict.fromkeys([*(name for name in likely if name in CHECKS), *ON_ALL_ROWS, *CHECKS]):
        rows = mutant.target.rows if check in (*likely, *ON_ALL_ROWS) else mutant.target.rows[:1]
        yield from ((check, row) for row in rows)


def rejection(rule: Rule, check: str, row: str) -> str:
    """Return what a check says against a rule that stands in for a row of the table; "" where it has nothing to say.

    A check that the right rule does not pass says nothing about a mutant.
    """
    case = ROWS[row]
    if check in case.expected_failures or (check == "check_oracle" and case.oracle is None):
        return ""
    try:
        CHECKS[check](rule, **options_of(CHECKS[check], oracle=case.oracle, tolerance=TOLERANCE))
    except ConformanceError as error:
        return str(error)
    except NotApplicable:
        pass
    return ""


def try_mutant(mutant: Mutant) -> Verdict:
    """Hold a mutant to the kit, one check after the other, each on all rows of its target; the first failure kills."""
    start = time.perf_counter()
    with warnings.catch_warnings():  # what kills is a check, not that this session makes errors of warnings
        warnings.simplefilter("ignore")
        with transplanted(mutant.target.module, mutant.tree, mutant.target.rules) as rules:
            for check, row in trials(mutant):
                if says := rejection(rules[row], check, row):
                    seconds = time.perf_counter() - start
                    return Verdict(mutant, check, row, says, seconds)
    return Verdict(mutant, "", "", "", time.perf_counter() - start)
