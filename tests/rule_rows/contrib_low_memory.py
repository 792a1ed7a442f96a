"""GaLore, Adam-mini, MARS and Sophia."""

from __future__ import annotations

from typing import Any

from optimkit import rules as core
from optimkit.contrib import rules
from tests.oracles.contrib_adam_mini import oracle_adam_mini
from tests.oracles.contrib_galore import oracle_galore
from tests.oracles.contrib_mars import oracle_mars, oracle_mars_lion, oracle_mars_shampoo
from tests.oracles.contrib_sophia import oracle_sophia
from tests.rule_rows.accumulators import but
from tests.rule_rows.adam_variants import ADAM, MEAN, RATE, row
from tests.rule_rows.contrib_muon import MUON

WHEN_TO_CLIP = {"gamma": ("log", 1e-3, 1e3), "eps": ("log", 1e-12, 1e-2)}
CORRECTED = {"gamma": ("even", 0.0, 0.1), "max_norm": ("log", 0.1, 10.0), "weight_decay": RATE}
BY_NAME = "the random direction of a parameter is drawn by its name"


ROWS: dict[str, dict[str, Any]] = {
    # A projected gradient is a sum, whose rounding is large where it cancels: divided by itself alone it would show.
    "GaLore": row(
        rules.GaLore(rank=1, frequency=3),
        oracle_galore,
        {**ADAM, "beta2": ("even", 0.9, 0.9999), "scale": ("log", 0.1, 1.0)},
    ),
    "AdamMini": but(
        {"check_hyperparameters_matter": "no name among the kit's parameters is that of a query or key"},
        row(rules.AdamMini(), oracle_adam_mini, {**ADAM, "weight_decay": RATE}),
    ),
    "MARS": row(
        rules.MARS(),
        oracle_mars,
        {**ADAM, **CORRECTED},
    ),
    "MARS of this batch": row(rules.MARS(exact=True), oracle_mars, {}),
    # The sign of a mean that comes to 0 is rounding's, so what is drawn leaves the memory as it is.
    "MARSLion": row(rules.MARSLion(), oracle_mars_lion, {"weight_decay": RATE}),
    "MARSShampoo": row(
        rules.MARSShampoo(other=core.Adam(0.9, 0.95), other_lr_scale=0.5),
        oracle_mars_shampoo,
        {**MUON, **CORRECTED},
    ),
    "Sophia": but(
        {"check_hyperparameters_matter": "the Hessian is the identity, in which no random sign matters"},
        row(
            rules.Sophia(gamma=30.0, noise="rademacher", frequency=3),
            oracle_sophia,
            {"beta1": MEAN, "beta2": MEAN, "weight_decay": RATE, **WHEN_TO_CLIP},
        ),
    ),
    "Sophia with normal noise": but(
        {"check_names_and_order_do_not_matter": BY_NAME},
        row(rules.Sophia(gamma=30.0, eps=0.1, frequency=3), oracle_sophia, {}),
    ),
}
