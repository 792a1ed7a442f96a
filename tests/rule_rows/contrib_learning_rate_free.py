"""Rules that find their learning rate, dual averaging, and newer relatives of Adam."""

from __future__ import annotations

from typing import Any

from optimkit import rules as core
from optimkit.contrib import rules
from tests.oracles import contrib_adam_variants as adam
from tests.oracles import contrib_learning_rate_free as free
from tests.oracles import contrib_momo as momo
from tests.rule_rows.adam_variants import EPS, MEAN, MOMENTS, RATE, row

# Hyperparameters at which d grows on the gradients of the kit, which are noise, at its learning rates, which are not 1.
D_ADAPTATION = {
    **MOMENTS,
    "eps": EPS,
    "weight_decay": RATE,
    "d0": ("log", 1e-8, 1e-3),
    "growth_rate": ("even", 1.01, 1.5),
}
D_ADAPT = D_ADAPTATION | {"beta1": ("even", 0.9, 0.999), "beta2": ("even", 0.1, 0.999)}
PRODIGY = D_ADAPTATION | {"beta2": ("even", 0.1, 0.999), "d_coef": ("log", 0.5, 30.0)}
# Numbers that float32 has: the loss, 1, comes near.
BOUNDED = {"lower_bound": ("one of", -1.0, 0.0, 0.5, 0.9375), "weight_decay": RATE}
MIXTURE = {**MOMENTS, "eps": EPS, "weight_decay": RATE, "alpha": ("even", 0.0, 10.0)}
SLOW = {**MIXTURE, "beta3": ("even", 0.5, 0.9999)}
TUNED = {"s_init": ("log", 1e-8, 1.0), "s_decay": ("even", 0.0, 1.0), "eps": EPS, "m_init": ("one of", 0.0, 1e-6)}


def d_adapt(**hyper: Any) -> dict[str, Any]:
    """Return DAdaptAdamW in one of its forms."""
    rule = rules.DAdaptAdamW(beta1=0.999, beta2=0.3, growth_rate=1.05, bias_correction=True, **hyper)
    return row(rule, free.oracle_dadapt_adamw, D_ADAPT)


def prodigy(**hyper: Any) -> dict[str, Any]:
    """Return Prodigy in one of its forms."""
    return row(rules.Prodigy(growth_rate=1.2, d_coef=1e3, **hyper), free.oracle_prodigy, PRODIGY)


ROWS: dict[str, dict[str, Any]] = {
    "DAdaptAdamW": d_adapt(),
    "DAdaptAdamW measured by what is new": d_adapt(measure="new"),
    "Prodigy": prodigy(beta3=0.2),
    "Prodigy with bias correction": prodigy(beta2=0.1, bias_correction=True),
    "DoG": row(rules.DoG(), free.oracle_dog, {"reps_rel": ("log", 1e-8, 1e-1), "eps": EPS}),
    "LDoG": row(rules.LDoG(), free.oracle_ldog, {"reps_rel": ("log", 1e-8, 1e-1), "eps": EPS}),
    "DoWG": row(rules.DoWG(), free.oracle_dowg, {"r_eps": ("log", 1e-6, 1.0), "eps": EPS}),
    "COCOB": row(rules.COCOB(), free.oracle_cocob, {"alpha": ("log", 1.0, 1e3), "eps": EPS}),
    "MADGRAD": row(rules.MADGRAD(), free.oracle_madgrad, {"momentum": MEAN, "eps": EPS}),
    "MoMo": row(rules.MoMo(), momo.oracle_momo, {"beta": MEAN, **BOUNDED}),
    "MoMo with bias correction": row(
        rules.MoMo(lower_bound=0.875, bias_correction=True, weight_decay=0.1),
        momo.oracle_momo,
        {"beta": MEAN, **BOUNDED},
    ),
    "MoMoAdam": row(
        rules.MoMoAdam(lower_bound=0.9375, weight_decay=0.1), momo.oracle_momo_adam, {**MOMENTS, "eps": EPS, **BOUNDED}
    ),
    "Mechanic": row(
        rules.Mechanic(core.Momentum(), s_init=0.1, s_decay=1.0), momo.oracle_mechanic, {**TUNED, "momentum": MEAN}
    ),
    # Without memory the divisor is one deviation: where a gradient hardly deviates, it is mostly that one's rounding.
    "ACProp": row(
        rules.ACProp(),
        adam.oracle_acprop,
        {"beta1": ("even", 0.1, 0.99), "beta2": ("even", 0.5, 0.99), "eps": EPS},
    ),
    "ADOPT": row(rules.ADOPT(), adam.oracle_adopt, {**MOMENTS, "eps": EPS}),
    "ADOPT without clipping": row(rules.ADOPT(clipping=False), adam.oracle_adopt, {**MOMENTS, "eps": EPS}),
    "AdEMAMix": row(rules.AdEMAMix(), adam.oracle_ademamix, SLOW),
    "AdEMAMix with a warmup": row(rules.AdEMAMix(beta3=0.99, warmup=6), adam.oracle_ademamix, SLOW),
    "SimplifiedAdEMAMix": row(
        rules.SimplifiedAdEMAMix(warmup=6, alpha=2.0),
        adam.oracle_simplified_ademamix,
        {**MIXTURE, "min_beta1": MEAN},
    ),
}
