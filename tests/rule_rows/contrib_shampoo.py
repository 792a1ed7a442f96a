"""Shampoo and SOAP. The longest axis of the kit's matrix has no matrix, so that it matters which axes have one."""

from __future__ import annotations

from typing import Any

from optimkit.contrib import rules
from tests.oracles.contrib_shampoo import oracle_shampoo, oracle_soap
from tests.rule_rows.accumulators import but
from tests.rule_rows.adam_variants import ADAM, EPS, MEAN, RATE, row

SHAMPOO = {"graft_eps": EPS, "momentum": MEAN, "weight_decay": RATE}
MEANS = {**SHAMPOO, "beta2": ("even", 0.9, 0.9999)}
MERGED = {"check_hyperparameters_matter": "no axes of the kit's matrix can be merged; test_shampoo.py has others"}
SOAP = {**ADAM, "beta2": ("even", 0.5, 0.999), "weight_decay": RATE}

ROWS: dict[str, dict[str, Any]] = {
    "Shampoo": row(rules.Shampoo(frequency=3, max_dim=2, eps=1e-2, start=2, graft_eps=1e-4), oracle_shampoo, MEANS),
    "Shampoo of the paper": but(
        {"check_hyperparameters_matter": "without grafting it does not matter how it is done, and no axis is long"},
        row(
            rules.Shampoo(1.0, "none", frequency=1, momentum=0.0, nesterov=False, eps=1e-2),
            oracle_shampoo,
            {"eps": ("log", 1e-3, 1.0)},
        ),
    ),
    "SOAP": but(
        MERGED,
        row(rules.SOAP(frequency=3, max_dim=2, precondition_1d=True), oracle_soap, SOAP),
    ),
    # Of what the oracle starts from axes of 1 are merged, and those whose product is 2.
    "SOAP of merged axes": but(
        MERGED,
        row(
            rules.SOAP(frequency=3, max_dim=2, merge_dims=True, normalize_grads=True),
            oracle_soap,
            {**SOAP, "beta1": ("even", 0.0, 0.95)},
        ),
    ),
}
