"""The table itself: it has all rows, and they hold where assertions are switched off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_all_54_rows_are_tests_with_a_case_and_an_outcome(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import fault_table

    rows = fault_table.rows()
    assert list(rows) == list(range(1, 55))
    assert all(case and outcome.endswith((".", ")")) for case, outcome, _ in rows.values())


@pytest.mark.slow
def test_all_rows_hold_under_python_O():
    """pytest rewrites the assertions of tests into code that stays; those of the package would be gone."""
    done = subprocess.run(
        [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow",
         "-W", "ignore:assertions not in test modules", str(Path(__file__).parent)],
        cwd=ROOT, env={**os.environ, "PYTEST_ADDOPTS": ""}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
