"""Wrappers, around momentum, or around Adam where it matters how often the inner rule has counted."""

from __future__ import annotations

from typing import Any

from optimkit import rules
from tests.oracles import wrappers
from tests.rule_rows.accumulators import but
from tests.rule_rows.adam_variants import ADAM, MEAN, row

EVALUATED = "decay and start are about what is evaluated, at which test_wrappers.py looks"
FINITE = "max_consecutive is about gradients that are not finite, of which there are none here"

ROWS: dict[str, dict[str, Any]] = {
    "Scaled": row(
        rules.Scaled(rules.Momentum(), 0.5),
        wrappers.oracle_scaled,
        {"factor": ("log", 1e-3, 10.0), "momentum": MEAN},
    ),
    "Masked": row(rules.Masked(rules.Momentum(), r"weight$"), wrappers.oracle_masked, {"momentum": MEAN}),
    "Accumulated": row(rules.Accumulated(rules.Adam(), 3), wrappers.oracle_accumulated, ADAM),
    "SkipNonFinite": but(
        {"check_hyperparameters_matter": FINITE},
        row(rules.SkipNonFinite(rules.Momentum(), 5), wrappers.oracle_skip_non_finite, {"momentum": MEAN}),
    ),
    "Averaged": but(
        {"check_hyperparameters_matter": EVALUATED},
        row(
            rules.Averaged(rules.Momentum(), 0.9, 2),
            wrappers.oracle_averaged,
            {"decay": ("even", 0.0, 0.999), "momentum": MEAN},
        ),
    ),
    "PolynomialAveraged": but(
        {"check_hyperparameters_matter": EVALUATED},
        row(
            rules.PolynomialAveraged(rules.Momentum(), 8.0, 2),
            wrappers.oracle_averaged,
            {"power": ("even", 0.0, 16.0), "momentum": MEAN},
        ),
    ),
    "Lookahead": row(
        rules.Lookahead(rules.Momentum(), period=3),
        wrappers.oracle_lookahead,
        {"slow_step": ("even", 0.1, 1.0), "momentum": MEAN},
    ),
    # Its steps mix the elements of a column, to whose size errors are relative: test_wrappers.py has the oracle.
    "WeightNorm": {"rule": rules.WeightNorm(rules.Momentum())},
    "Cautious": row(
        rules.Cautious(rules.Momentum()),
        wrappers.oracle_cautious,
        {"xi": ("log", 1e-3, 10.0), "momentum": MEAN},
    ),
}
