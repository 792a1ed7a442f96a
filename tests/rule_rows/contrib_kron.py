"""PSGD with Kronecker factors."""

from __future__ import annotations

from typing import Any

from optimkit.contrib import rules
from tests.oracles.contrib_kron import oracle_psgd_kron
from tests.rule_rows.accumulators import but
from tests.rule_rows.adam_variants import MEAN, RATE, row

KRON = {"beta1": MEAN, "preconditioner_lr": ("log", 0.01, 0.3), "weight_decay": RATE}

ROWS: dict[str, dict[str, Any]] = {
    "PSGDKron": but(
        {"check_names_and_order_do_not_matter": "the noise of a parameter is drawn by its name"},
        row(
            rules.PSGDKron(max_dim=2, flat_start=3, decay=0.1, min_probability=0.3), oracle_psgd_kron, KRON
        ),
    ),
}
