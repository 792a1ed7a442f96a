"""Schedule-Free learning. The kit's learning rate is constant where it looks whether hyperparameters matter."""

from __future__ import annotations

from typing import Any

from optimkit import rules
from optimkit.contrib.rules import ScheduleFree, ScheduleFreeAdamW, ScheduleFreeRAdam, ScheduleFreeSGD
from tests.oracles import contrib_schedule_free as oracles
from tests.rule_rows.accumulators import but
from tests.rule_rows.adam_variants import EPS, MEAN, RATE, row

CONSTANT = {
    "check_hyperparameters_matter": "weight_lr_power is about learning rates that rise; here they do not",
    "check_derivative_in_lr": "weights are of the largest rate so far, whose derivative jumps where rates are the same",
}
WEIGHTS = {"weight_lr_power": ("one of", 0.0, 1.0, 2.0), "r": ("one of", 0.0, 0.5, 2.0)}
BETA = ("even", 0.0, 1.0)
ADAM = {"beta1": BETA, "beta2": ("even", 0.0, 0.9999), "eps": EPS, "weight_decay": RATE, **WEIGHTS}

ROWS: dict[str, dict[str, Any]] = {
    "ScheduleFree": but(
        CONSTANT,
        row(
            ScheduleFree(rules.EmaOfGradients(0.0)),  # a mean would have the kit's smallest steps end below 1e-38
            oracles.oracle_schedule_free,
            {"beta": BETA, "decay": MEAN, **WEIGHTS},
        ),
    ),
    "ScheduleFreeSGD": but(
        CONSTANT,
        row(
            ScheduleFreeSGD(weight_decay=0.1),
            oracles.oracle_schedule_free_sgd,
            {"beta": BETA, "weight_decay": RATE, **WEIGHTS},
        ),
    ),
    "ScheduleFreeAdamW": but(
        CONSTANT, row(ScheduleFreeAdamW(weight_decay=0.1), oracles.oracle_schedule_free_adamw, ADAM)
    ),
    # Right after the fourth step r is the root of a small difference, which beta2 moves: so that is not drawn.
    "ScheduleFreeRAdam": but(
        {"check_chainable_is_true": "it looks at three steps, and the first four move nothing"},
        row(
            ScheduleFreeRAdam(beta2=0.95, weight_decay=0.1, r=0.5),
            oracles.oracle_schedule_free_radam,
            {name: x for name, x in ADAM.items() if name != "beta2"},
        ),
    ),
}
