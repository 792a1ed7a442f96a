"""ReduceOnPlateau and SplitComplex, around momentum."""

from __future__ import annotations

from typing import Any

from optimkit import rules
from optimkit.contrib.rules import ReduceOnPlateau, SplitComplex
from tests.oracles import contrib_wrappers as oracles
from tests.rule_rows.accumulators import but
from tests.rule_rows.adam_variants import MEAN, row

PLATEAU = {"check_hyperparameters_matter": "rtol and atol are about a loss that varies; the kit's is 1 at all times"}
REAL = {"check_hyperparameters_matter": "conjugate is about complex gradients, of which there are none here"}

ROWS: dict[str, dict[str, Any]] = {
    "ReduceOnPlateau": but(
        PLATEAU,
        row(
            ReduceOnPlateau(rules.Momentum(), 0.5, patience=2, cooldown=1, accumulation_size=2, min_scale=0.1),
            oracles.oracle_reduce_on_plateau,
            {"factor": ("even", 0.1, 0.9), "min_scale": ("even", 0.0, 1.0), "momentum": MEAN},
        ),
    ),
    "SplitComplex": but(REAL, row(SplitComplex(rules.Momentum()), oracles.oracle_split_complex, {"momentum": MEAN})),
}
