"""What each rule of contrib is held to besides the kit: zero gradients for a while, and weights that are loaded late.

And what docs/reference/contrib.md says of it: that page is made by docs/contrib_page.py.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from optimkit.testing import CHECKS, streams
from optimkit.testing.runner import eager, run
from tests.contrib import departures
from tests.contrib.golden import TRACES
from tests.rule_table import CONTRIB

ROOT = Path(__file__).parents[2]
# The others are compiled operation by operation for longer than `make test` has time for.
QUICK = {"MARS", "MARSLion", "ScheduleFree", "ReduceOnPlateau", "Normalize", "COCOB", "Prodigy"}
each_row = pytest.mark.parametrize(
    "row", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CONTRIB]
)


def page_module():
    """Import docs/contrib_page.py, which is a script's part."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        spec = importlib.util.spec_from_file_location("contrib_page", ROOT / "docs" / "contrib_page.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "docs"))


contrib_page = page_module()


# --- zero gradients, loaded weights -----------------------------------------------------------------------------------


@each_row
def test_gradients_that_are_zero_for_a_while_leave_no_nan(row):
    """At first, in the middle and at the end."""
    params = streams.parameters()
    zeros, some = [jax.tree.map(np.zeros_like, params)] * 2, streams.gradients(params, 4)
    got = run(CONTRIB[row].rule, params, [*zeros, *some[:2], *zeros, *some[2:], *zeros], update=eager)
    for values in (*got.params, *got.states):
        assert all(np.isfinite(np.asarray(x, np.float64)).all() for x in values.values())
    assert not np.array_equal(got.params[-1]["weight"], params["weight"])


@each_row
def test_weights_loaded_after_construction_are_where_training_starts(row):
    """A state that was made of other weights of these shapes does as one that was made of them, to the last bit."""
    rule, params = CONTRIB[row].rule, streams.parameters()
    made_of = jax.tree.map(lambda p: np.asarray(10 * p + 7, np.float32), params)
    grads = streams.gradients(params, 4)
    late, early = (
        run(rule, params, grads, state=rule.init(streams.arrays(start)), update=eager) for start in (made_of, params)
    )
    for a, b in zip(late.params, early.params, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


# --- the page ---------------------------------------------------------------------------------------------------------


def test_every_rule_has_an_oracle_and_a_trace_or_a_reason_why_not():
    found = contrib_page.traces()
    for name in contrib_page.contrib_rules():
        assert contrib_page.oracles_of(name), name
        assert (name in found) != (name in contrib_page.WITHOUT_TRACE), name


def test_no_row_fails_more_than_two_checks_and_each_failure_has_a_reason():
    for row, case in CONTRIB.items():
        assert len(case.expected_failures) <= 2, row
        for check, reason in case.expected_failures.items():
            assert check in CHECKS and len(reason) > 20, row


def test_every_row_is_about_a_public_rule():
    assert {row for name in contrib_page.contrib_rules() for row in contrib_page.rows_of(name)} == set(CONTRIB)


def test_every_trace_says_what_made_it_and_is_followed_by_a_test():
    tests = "".join(path.read_text("utf8") for path in Path(__file__).parent.glob("test_*.py"))
    for path in TRACES.glob("*.npz"):
        with np.load(path) as trace:
            meta = json.loads(str(trace["meta"]))
        assert meta["made_by"] and meta["versions"], path.name
        assert f'"{path.stem.removesuffix("_x")}"' in tests, path.name  # x is the average of Schedule-Free learning


def test_what_the_page_says_is_tested_is_a_test():
    for files in contrib_page.REQUIREMENTS.values():
        for path, names in files.items():
            tree = ast.parse((ROOT / path).read_text("utf8"))
            functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)} | set(CHECKS)
            assert set(names) <= functions, path


@pytest.mark.slow
def test_optax_departs_from_papers_as_far_as_the_page_says_and_this_does_not():
    optax = pytest.importorskip("optax", reason="optax is only in the bench extra; the oracles stand alone")
    known = json.loads((ROOT / contrib_page.DATA).read_text("utf8"))
    if optax.__version__ != known["versions"]["optax"]:
        pytest.skip("the figures are of another version of optax")
    for name, now in departures.measured(optax)["rows"].items():
        assert now["optimkit"] < 1e-13, name
        assert 0.5 < now["optax"] / known["rows"][name]["optax"] < 2, name
