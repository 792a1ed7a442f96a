"""Adam's relatives. Hyperparameters are such that each of them matters; where a rule has options, a row for each."""

from __future__ import annotations

from typing import Any

from optimkit import rules
from tests.oracles import adam_moments, adam_variants

MEAN = ("even", 0.0, 0.99)
EPS = ("log", 1e-12, 1e-2)
ROOT = ("one of", 0.0, 1e-12, 1e-3)
RATE = ("one of", 0.0, 1e-4, 0.1, 1.0)
MOMENTS: dict[str, Any] = {"beta1": MEAN, "beta2": ("even", 0.0, 0.9999)}
ADAM: dict[str, Any] = {**MOMENTS, "eps": EPS, "eps_root": ROOT}
NADAM = {**ADAM, "warmup": ("one of", 0.0, 0.5, 1.0), "momentum_decay": ("log", 1e-3, 1.0)}
ADAMAX = {**MOMENTS, "eps": EPS}
# Where squares of differences are hardly averaged, numbers that nearly agree leave only their rounding to divide by.
BELIEF = {**ADAM, "beta2": ("even", 0.75, 0.9999), "eps_root": EPS}
ADAN = {**ADAM, "beta2": MEAN, "beta3": ("even", 0.75, 0.9999), "weight_decay": RATE}
YOGI = {
    **ADAM,
    "beta2": ("even", 0.75, 0.9999),
    "initial_mu": ("one of", 0.0, 1e-6, 1.0),
    "initial_nu": ("log", 1e-8, 1.0),
}
# Near 3/5 the longest average is of length 4, and the rectification a quotient of differences that vanish.
RADAM = {**ADAM, "beta2": ("even", 0.75, 0.9999)}
STABLE = {**ADAM, "threshold": ("log", 0.1, 10.0), "weight_decay": RATE}
NOVOGRAD = {**ADAM, "weight_decay": RATE}


def row(rule: rules.Rule, oracle: Any, draw: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a Case."""
    return {"rule": rule, "oracle": oracle, "draw": draw}


ROWS: dict[str, dict[str, Any]] = {
    "NAdam": row(rules.NAdam(momentum_decay=0.5), adam_variants.oracle_nadam, NADAM),
    "NAdamW": row(rules.NAdamW(momentum_decay=0.5), adam_variants.oracle_nadam, {**NADAM, "weight_decay": RATE}),
    "AMSGrad": row(rules.AMSGrad(), adam_variants.oracle_amsgrad, ADAM),
    "AMSGrad of corrected moments": row(rules.AMSGrad(debias="before"), adam_variants.oracle_amsgrad, ADAM),
    "AMSGrad without correction": row(rules.AMSGrad(debias="never"), adam_variants.oracle_amsgrad, ADAM),
    "AdaMax": row(rules.AdaMax(), adam_variants.oracle_adamax, ADAMAX),
    "AdaMax with eps outside": row(rules.AdaMax(eps_inside=False), adam_variants.oracle_adamax, ADAMAX),
    "AdaMaxW": row(rules.AdaMaxW(), adam_variants.oracle_adamax, {**ADAMAX, "weight_decay": RATE}),
    "RAdam": row(rules.RAdam(beta2=0.99, eps=1e-2, threshold=4.6), adam_variants.oracle_radam, RADAM),
    "LaProp": row(rules.LaProp(eps=1e-8), adam_variants.oracle_laprop, ADAM),
    "AdamAtan2": row(
        rules.AdamAtan2(),
        adam_variants.oracle_adam_atan2,
        {**MOMENTS, "a": ("log", 0.1, 10.0), "b": ("log", 0.1, 10.0)},
    ),
    "StableAdamW": row(rules.StableAdamW(), adam_variants.oracle_stable_adamw, STABLE),
    "AdaBelief": row(rules.AdaBelief(eps=1e-8), adam_moments.oracle_adabelief, BELIEF),
    "AdaBelief with eps read": row(rules.AdaBelief(eps=1e-8, eps_in_mean=False), adam_moments.oracle_adabelief, BELIEF),
    "Yogi": row(rules.Yogi(), adam_moments.oracle_yogi, YOGI),
    "Yogi with debiasing": row(rules.Yogi(initial_mu=1e-6, debias=True), adam_moments.oracle_yogi, YOGI),
    "Adan": row(rules.Adan(weight_decay=0.2), adam_moments.oracle_adan, ADAN),
    "Adan with decoupled decay": row(rules.Adan(weight_decay=0.2, decoupled=True), adam_moments.oracle_adan, ADAN),
    "Adan from the first gradient": row(rules.Adan(weight_decay=0.2, debias=False), adam_moments.oracle_adan, ADAN),
    "NovoGrad": row(rules.NovoGrad(weight_decay=0.01), adam_moments.oracle_novograd, NOVOGRAD),
    "NovoGrad averaged": row(
        rules.NovoGrad(weight_decay=0.01, averaging=True), adam_moments.oracle_novograd, NOVOGRAD
    ),
}
