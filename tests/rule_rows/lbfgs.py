"""L-BFGS with a line search. Its oracle, on losses that are one function at each step, is in test_lbfgs.py."""

from __future__ import annotations

from typing import Any

from optimkit import rules

# Few pairs, so that the ring turns over within the few steps that most checks take; few evaluations, for they are slow.
ROWS: dict[str, dict[str, Any]] = {
    "LBFGS": {
        "rule": rules.LBFGS(2, rules.Zoom(max_evaluations=5)),
        "expected_failures": {"check_derivative_in_lr": "a search ends when it has found, and JAX has no reverse "
                                                        "derivative of such a loop"},
    }
}  # fmt: skip
