"""Stages, each by itself: gradient descent on what it makes of the gradient."""

from __future__ import annotations

from typing import Any

from optimkit import rules
from tests.oracles import clipping, gradients, optimistic, stages
from tests.rule_rows.accumulators import but
from tests.rule_rows.adam_variants import MEAN, RATE, row

LIMIT = ("log", 1e-7, 100.0)

ROWS: dict[str, dict[str, Any]] = {
    "IndependentWeightDecay": row(
        rules.IndependentWeightDecay(0.01), stages.oracle_independent_weight_decay, {"rate": RATE}
    ),
    "ClipByValue": row(rules.ClipByValue(), clipping.oracle_clip_by_value, {"max_value": LIMIT}),
    "ClipByBlockRMS": row(rules.ClipByBlockRMS(), clipping.oracle_clip_by_block_rms, {"threshold": LIMIT}),
    # test_stages.py has parameters of three axes.
    "AdaptiveClip": but(
        {"check_hyperparameters_matter": "heads is about parameters of three axes, of which there are none here"},
        row(
            rules.AdaptiveClip(0.1),
            clipping.oracle_adaptive_clip,
            {"clipping": ("log", 1e-4, 10.0), "eps": ("log", 1e-6, 1.0)},
        ),
    ),
    "Centralize": row(rules.Centralize(), gradients.oracle_centralize, {}),
    "AddNoise": but(
        {"check_names_and_order_do_not_matter": "the noise of a parameter is drawn by its name"},
        row(rules.AddNoise(), optimistic.oracle_noisy_sgd, {"eta": ("log", 1e-4, 1.0), "gamma": ("even", 0.0, 2.0)}),
    ),
    "ZeroNaNs": row(rules.ZeroNaNs(), gradients.oracle_zero_nans, {}),
    "EmaOfGradients": row(rules.EmaOfGradients(), gradients.oracle_ema_of_gradients, {"decay": MEAN}),
    "GrokFast": row(rules.GrokFast(), gradients.oracle_grokfast, {"decay": MEAN, "lamb": ("even", 0.0, 5.0)}),
}
