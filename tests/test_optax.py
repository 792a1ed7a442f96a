"""Trajectories of the rules that optax has too agree with optax's; where optax departs from the paper, ours do not.

The table is tests/optax_table.py, the page that shows it docs/reference/optax.md.
"""

from __future__ import annotations

import re

import pytest

from optimkit import rules
from optimkit.testing.hyperparameters import TOLERANCE

from . import optax_table
from .against_optax import distance, optax_trajectory, oracle_trajectory, trajectory
from .optax_table import ASKED, DIFFERS, NOT_IN_OPTAX, SAME, SAME_AS_OPTAX, SCHEDULE, SCHEDULES

ROWS = {row.ours: row for rows in SAME_AS_OPTAX.values() for row in rows}
BASES = {"Rule", "LeafRule", "Wrapper", "Composed"}


@pytest.fixture
def optax():
    """optax, where it is installed."""
    return pytest.importorskip("optax", reason="optax is only in the bench extra; the oracles stand alone")


# One of each kind; all of them in `make test-all`.
OF_EACH_KIND = ("SGD", "Momentum", "Adam", "AdamW", "RMSProp", "AdaGrad", "LAMB", "Lion", "ClipByGlobalNorm", "RAdam")
COMPARED = [pytest.param(n, marks=[pytest.mark.slow] if r.slow or type(r.rule).__name__ not in OF_EACH_KIND else [])
            for n, r in ROWS.items()]  # fmt: skip


@pytest.mark.parametrize("name", COMPARED)
def test_rule_goes_where_optax_goes(optax, name):
    """In float64, over 100 steps."""
    row = ROWS[name]
    ours = trajectory(row.rule, row.problem, "float64")
    theirs = optax_trajectory(row.make(optax), row.problem, "float64")
    assert distance(ours, theirs, row.problem) <= row.allowed


@pytest.mark.parametrize("row", DIFFERS, ids=lambda row: row.ours)
def test_rule_goes_where_the_paper_goes_and_optax_does_not(optax, row):
    """Should the second fail, optax is mended: make the row one of those that are the same."""
    paper = oracle_trajectory(row.oracle, row.rule, row.problem)
    assert distance(trajectory(row.rule, row.problem, "float64"), paper, row.problem) <= SAME
    assert distance(optax_trajectory(row.make(optax), row.problem, "float64"), paper, row.problem) > 100 * ASKED


@pytest.mark.parametrize("peers", SCHEDULES, ids=lambda peers: peers.ours)
def test_schedule_has_optaxs_values(optax, peers):
    assert peers.figure(optax) <= SCHEDULE


def test_radam_of_optax_is_off_in_float32_and_ours_is_not(optax):
    """Its length of the average is a difference of two numbers near 2000."""
    row = ROWS["RAdam(threshold=5.0)"]
    wide = optax_trajectory(row.make(optax), row.problem, "float64")
    assert distance(optax_trajectory(row.make(optax), row.problem, "float32"), wide, row.problem) > 1e-3
    assert distance(trajectory(row.rule, row.problem, "float32"), wide, row.problem) < TOLERANCE


def test_no_row_is_allowed_more_than_was_asked():
    assert max(row.allowed for row in ROWS.values()) <= ASKED


def test_every_public_rule_is_compared_or_said_to_be_missing_in_optax():
    compared = {name for row in (*ROWS.values(), *DIFFERS) for name in re.findall(r"\b([A-Z]\w+)\(", row.ours)}
    missing = {name for names in NOT_IN_OPTAX for name in names.split(", ")}
    public = {name for name, x in vars(rules).items() if isinstance(x, type) and issubclass(x, rules.Rule)}
    assert public - BASES - compared - missing == set()
    assert compared & missing == set()
    assert (compared | missing) - public == set()


def test_notes_are_about_rules_of_the_table():
    known = {name for row in (*ROWS.values(), *DIFFERS) for name in re.findall(r"\b([A-Z]\w+)\(", row.ours)}
    assert {name for names in optax_table.NOTES for name in names.split(", ")} - known == set()
