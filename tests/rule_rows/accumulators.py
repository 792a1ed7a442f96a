"""Accumulators, factored moments, signs and optimism. Hyperparameters are such that each of them matters."""

from __future__ import annotations

from typing import Any

from optimkit import rules
from tests.oracles import adagrad, factored, layerwise, optimistic, sign
from tests.rule_rows.adam_variants import ADAM, EPS, MEAN, RATE, ROOT, row

MOVED = {"momentum": ("even", 0.1, 0.99)}
FACTORED = {
    "clipping_threshold": ("log", 0.1, 10.0),
    "weight_decay": RATE,
    "eps1": ("log", 1e-30, 1e-4),
    "eps2": ("log", 1e-3, 1.0),
}
ADAFACTOR = {"decay_rate": ("even", 0.3, 1.0)} | FACTORED
STEPS = {
    "initial_step": ("log", 1e-3, 0.3),
    "eta_minus": ("even", 0.2, 0.9),
    "eta_plus": ("even", 1.05, 1.5),
    "min_step": ("log", 1e-6, 1e-2),
    "max_step": ("log", 0.02, 1.0),
}


def but(what: dict[str, str], row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with checks that the rule does not pass, each with the reason."""
    return row | {"expected_failures": what}


def polyak(**options: Any) -> dict[str, Any]:
    """Return PolyakSGD, whose loss in the kit is 1 or more."""
    draw = {"max_step": ("log", 1e-2, 1e2), "scaling": ("even", 0.1, 2.0), "f_min": ("even", -1.0, 0.5), "eps": EPS}
    return but({"check_hyperparameters_matter": "a loss below f_min, which variant is about, does not occur"},
               row(rules.PolyakSGD(**options), optimistic.oracle_polyak_sgd, draw))  # fmt: skip


def rprop(variant: str) -> dict[str, Any]:
    """Return RProp in one of its forms, with limits that it reaches soon."""
    return row(rules.RProp(min_step=0.05, max_step=0.15, variant=variant), sign.oracle_rprop, STEPS)


ROWS: dict[str, dict[str, Any]] = {
    "AdaGrad": row(
        rules.AdaGrad(eps=1e-8),
        adagrad.oracle_adagrad,
        {"initial_accumulator": ("one of", 0.0, 1e-6, 0.1), "eps": EPS, "eps_root": ROOT},
    ),
    "AdaDelta": row(rules.AdaDelta(), adagrad.oracle_adadelta, {"decay": MEAN, "eps": ("log", 1e-8, 1e-2)}),
    "RMSProp": but(
        {"check_hyperparameters_matter": "nesterov is about momentum, of which there is none here"},
        row(rules.RMSProp(), adagrad.oracle_rmsprop, {"decay": MEAN, "eps": EPS, "eps_root": ROOT}),
    ),
    "RMSProp with momentum": row(
        rules.RMSProp(momentum=0.8, nesterov=True, bias_correction=True),
        adagrad.oracle_rmsprop,
        {"decay": MEAN, "eps": EPS, "eps_root": ROOT, "initial_scale": ("one of", 0.0, 1e-6, 1.0)} | MOVED,
    ),
    "Graves' RMSProp": row(
        rules.RMSProp(0.95, eps=1e-8, eps_root=1e-16, centered=True, momentum=0.9),
        adagrad.oracle_rmsprop,
        {"decay": ("even", 0.5, 0.99), "eps": EPS, "eps_root": ROOT} | MOVED,
    ),
    "SM3": row(rules.SM3(), adagrad.oracle_sm3, {"eps_root": ROOT}),
    "SM3 with momentum": row(rules.SM3(momentum=0.9), adagrad.oracle_sm3, {"eps_root": ROOT} | MOVED),
    "Adafactor": but(
        {"check_hyperparameters_matter": "momentum_dtype is about momentum, of which there is none here"},
        row(rules.Adafactor(min_dim_size_to_factor=2), factored.oracle_adafactor, ADAFACTOR),
    ),
    "Adafactor with momentum": row(
        rules.Adafactor(relative_step=True, momentum=0.9, weight_decay=0.1, min_dim_size_to_factor=2, eps1=1e-6),
        factored.oracle_adafactor,
        ADAFACTOR | MOVED,
    ),
    "CAME": row(
        rules.CAME(min_dim_size_to_factor=2, eps1=1e-6, eps2=1e-2),
        factored.oracle_came,
        {"beta1": MEAN, "beta2": ("even", 0.3, 0.9999), "beta3": ("even", 0.3, 0.9999)} | FACTORED,
    ),
    "SignSGD": row(rules.SignSGD(), sign.oracle_sign_sgd, {}),
    "Signum": row(rules.Signum(), sign.oracle_signum, {}),
    "Lion": row(rules.Lion(), sign.oracle_lion, {"weight_decay": RATE}),
    "Rprop+": rprop("rprop+"),
    "Rprop-": rprop("rprop-"),
    "iRprop-": rprop("irprop-"),
    "OptimisticGradient": row(
        rules.OptimisticGradient(),
        optimistic.oracle_optimistic_gradient,
        {"alpha": ("even", 0.5, 2.0), "beta": ("even", 0.0, 2.0)},
    ),
    "OptimisticAdam": row(rules.OptimisticAdam(), optimistic.oracle_optimistic_adam, ADAM),
    "NoisySGD": but(
        {"check_names_and_order_do_not_matter": "the noise of a parameter is drawn by its name"},
        row(rules.NoisySGD(), optimistic.oracle_noisy_sgd, {"eta": ("log", 1e-4, 1.0), "gamma": ("even", 0.0, 2.0)}),
    ),
    # The kit's loss is 1 at all times: test_accumulators.py has one that varies.
    "PolyakSGD": polyak(),
    "PolyakSGD above f_min": polyak(f_min=0.5, variant="sps+"),
    "LAMB rule": row(rules.LAMB(), layerwise.oracle_lamb, {**ADAM, "weight_decay": RATE}),
    "Fromage": row(rules.Fromage(), layerwise.oracle_fromage, {}),
}
