"""Accumulators, factored moments, signs and optimism. Hyperparameters are such that each of them matters."""

from __future__ import annotations

from typing import Any

from optimkit import rules
from tests.oracles import adagrad, factored, layerwise, optimistic, sign
from tests.rule_rows.adam_variants import ADAM, EPS, MEAN, RATE, ROOT, row

# Without the mean of gradients between them, numbers that nearly agree leave only their rounding to divide by.
CENTERED = {"decay": ("even", 0.5, 0.99), "momentum": ("even", 0.1, 0.99), "eps": EPS, "eps_root": ("log", 1e-12, 1e-2)}
MOVED = {"momentum": ("even", 0.1, 0.99)}
FACTORED = {
    "clipping_threshold": ("log", 0.1, 10.0),
    "weight_decay": RATE,
    "eps1": ("log", 1e-30, 1e-4),
    "eps2": ("log", 1e-3, 1.0),
}
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


def rprop(variant: str) -> dict[str, Any]:
    """Return RProp in one of its forms, with limits that it reaches soon."""
    return row(rules.RProp(min_step=0.05, max_step=0.15, variant=variant), sign.oracle_rprop, STEPS)


NONE_IS_ZERO = {"check_hyperparameters_matter": "without momentum and with a momentum of 0 it is the same rule"}

ROWS: dict[str, dict[str, Any]] = {
    "AdaGrad": row(rules.AdaGrad(eps=1e-6), adagrad.oracle_adagrad, {"eps": EPS, "eps_root": ROOT}),
    "AdaDelta": row(rules.AdaDelta(), adagrad.oracle_adadelta, {"decay": MEAN, "eps": ("log", 1e-8, 1e-2)}),
    "RMSProp": row(rules.RMSProp(), adagrad.oracle_rmsprop, {"decay": MEAN, "eps": EPS, "eps_root": ROOT})
    | {"expected_failures": NONE_IS_ZERO},
    "SM3": row(rules.SM3(), adagrad.oracle_sm3, {"eps_root": ROOT}),
    "SignSGD": row(rules.SignSGD(), sign.oracle_sign_sgd, {}),
    "Signum": row(rules.Signum(), sign.oracle_signum, {}),
    "Lion": row(rules.Lion(), sign.oracle_lion, {"weight_decay": RATE}),
    "RProp": row(rules.RProp(min_step=0.06, max_step=0.15), sign.oracle_rprop, {}),
    "OptimisticGradient": row(
        rules.OptimisticGradient(),
        optimistic.oracle_optimistic_gradient,
        {"alpha": ("even", 0.5, 2.0), "beta": ("even", 0.0, 2.0)},
    ),
    "OptimisticAdam": row(rules.OptimisticAdam(), optimistic.oracle_optimistic_adam, ADAM),
    "LAMB rule": row(rules.LAMB(), layerwise.oracle_lamb, {**ADAM, "weight_decay": RATE}),
    "Fromage": row(rules.Fromage(), layerwise.oracle_fromage, {}),
    "Adafactor": row(rules.Adafactor(min_dim_size_to_factor=2), factored.oracle_adafactor, {})
    | {"expected_failures": NONE_IS_ZERO | {"check_chains_are_a_monoid": "lr is rounded into it at another place"}},
    "CAME": row(rules.CAME(), factored.oracle_came, {})
    | {"expected_failures": {"check_hyperparameters_matter": "min_dim_size_to_factor acts on larger shapes only"}},
    "NoisySGD": row(rules.NoisySGD(), None, {})
    | {"expected_failures": {"check_names_and_order_do_not_matter": "noise is drawn in the order of the names"}},
    "PolyakSGD": row(rules.PolyakSGD(), None, {})  # its oracle needs the loss: test_polyak_follows_its_oracle
    | {
        "expected_failures": {
            "check_hyperparameters_matter": "the variants differ only where the loss is below f_min",
            "check_chains_are_a_monoid": "lr is rounded into it at another place",
        }
    },
}
