"""Muon."""

from __future__ import annotations

from typing import Any

from optimkit.contrib import rules
from tests.oracles.contrib_muon import oracle_muon
from tests.rule_rows.accumulators import but
from tests.rule_rows.adam_variants import ADAM, MEAN, RATE, row

MUON = {
    **ADAM,
    "momentum": MEAN,
    "ns_eps": ("log", 1e-9, 1e-2),
    "weight_decay": RATE,
    "other_lr_scale": ("log", 0.01, 1.0),
}

ROWS: dict[str, dict[str, Any]] = {
    "Muon": row(rules.Muon(other_lr_scale=0.5), oracle_muon, MUON),
    "Muon of Moonshot": but(
        {"check_hyperparameters_matter": "the larger of inputs and outputs is the same in both layouts"},
        row(
            rules.Muon(scale="moonshot", nesterov=False, coefficients="quintic", weight_decay=0.1, other_lr_scale=0.5),
            oracle_muon,
            MUON,
        ),
    ),
    "Muon by the Polar Express": but(
        {"check_hyperparameters_matter": "nine steps converge: one more, and ns_eps, make no difference"},
        row(rules.Muon(coefficients="polar_express", ns_steps=9, other_lr_scale=0.5), oracle_muon, MUON),
    ),
}
