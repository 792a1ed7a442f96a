"""Every rule, once: with its oracle, and the hyperparameters that tests draw. A new rule is one more entry here.

``check_rule`` and the comparison with oracles run over this table; see test_rules.py and test_rules_oracle.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optimkit import rules
from optimkit.rules import lookup

from . import oracles
from .rule_rows import (
    accumulators,
    adam_variants,
    contrib_kron,
    contrib_learning_rate_free,
    contrib_low_memory,
    contrib_muon,
    contrib_private,
    contrib_sam,
    contrib_schedule_free,
    contrib_shampoo,
    contrib_wrappers,
    lbfgs,
    stages,
    wrappers,
)

Draw = tuple[Any, ...]  # ("even", low, high), ("log", low, high) or ("one of", choice, ...)


@dataclasses.dataclass(frozen=True)
class Case:
    """A rule and what is known about it.

    Attributes:
        rule: the rule, at the hyperparameters that ``check_rule`` runs it at.
        oracle: ``oracle(params, grads, lr, **hyper)`` with the names of the rule's hyperparameters, or None.
        draw: what the comparison with the oracle draws; ranges in which float32 can follow float64.
        expected_failures: checks that the rule does not pass, with the reason.
    """

    rule: rules.Rule
    oracle: Callable[..., Any] | None = None
    draw: Mapping[str, Draw] = dataclasses.field(default_factory=dict)
    expected_failures: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def make(self, **hyper: Any) -> rules.Rule:
        """Return the rule with other hyperparameters."""
        return lookup.override("rule_table", self.rule, hyper)


def renamed(oracle: Callable[..., Any], fixed: Mapping[str, Any] | None = None, **names: str) -> Callable[..., Any]:
    """Return an oracle that takes hyperparameters by other names; ``fixed`` ones must have its own values."""
    fixed = fixed or {}

    def by_other_names(params: Any, grads: Any, lr: Any, **hyper: Any) -> Any:
        wrong = {name: hyper[name] for name, value in fixed.items() if hyper[name] != value}
        if wrong:
            raise ValueError(f"the oracle knows only {dict(fixed)}, not {wrong}")
        mine = {names.get(name.replace(".", "_"), name): x for name, x in hyper.items() if name not in fixed}
        return oracle(params, grads, lr, **mine)

    return by_other_names


def oracle_clipped_momentum(params: Any, grads: Any, lr: Any, *, max_norm: float, **hyper: Any) -> Any:
    """Momentum on gradients that are clipped first."""
    return oracles.oracle_momentum(params, [oracles.clipped(g, max_norm) for g in grads], lr, **hyper)


def oracle_frozen(params: Any, grads: Any, lr: Any) -> Any:
    """Nothing moves."""
    return [params for _ in grads]


def oracle_partition(params: Any, grads: Any, lr: Any, **hyper: Any) -> Any:
    """SGD for biases, nothing for scales, AdamW for the rest, each on its own parameters."""

    def part(names: list[str], oracle: Callable[..., Any], **hyper: Any) -> Any:
        return oracle({n: params[n] for n in names}, [{n: g[n] for n in names} for g in grads], lr, **hyper)

    routes = [
        part(["bias"], oracles.oracle_sgd),
        part(["scale"], oracle_frozen),
        part([n for n in params if n not in ("bias", "scale")], oracles.oracle_adamw, **hyper),
    ]
    return [{name: x for step in steps for name, x in step.items()} for steps in zip(*routes, strict=True)]


def oracle_trust_ratio(params: Any, grads: Any, lr: Any, *, coefficient: float, eps: float) -> Any:
    """The oracle of the paper, which has coefficient 1 and eps 0, with both.

    φ = coefficient ‖x‖ / (‖g‖ + eps), and 1 where ‖x‖ or the denominator is 0.
    """
    x = {name: np.array(p, np.float64) for name, p in params.items()}
    trajectory = []
    for g, eta in zip(grads, lr, strict=True):
        for name in x:
            size, length = np.sqrt(np.sum(x[name] ** 2)), np.sqrt(np.sum(g[name] ** 2)) + eps
            ratio = coefficient * size / length if size > 0 and length > 0 else 1.0
            x[name] = x[name] - eta * ratio * g[name]
        trajectory.append({name: p.copy() for name, p in x.items()})
    return trajectory


# 1 - beta is rounded at beta's size: at 0.999 an eps of beta is 1e-4 of it, which no float32 data can tell apart. Draws
# are therefore rounded to float32 before rule and oracle get them.
MEAN = ("even", 0.0, 0.99)
ADAM: dict[str, Draw] = {
    "beta1": MEAN,
    "beta2": ("even", 0.0, 0.9999),
    "eps": ("log", 1e-12, 1e-2),
    "eps_root": ("one of", 0.0, 1e-12, 1e-3),
}
RATE: Draw = ("one of", 0.0, 1e-4, 0.1, 1.0)

RULES: dict[str, Case] = {
    "SGD": Case(rules.SGD(), oracles.oracle_sgd),
    "Momentum": Case(rules.Momentum(), oracles.oracle_momentum, {"momentum": MEAN}),
    "Nesterov": Case(rules.Momentum(0.8, nesterov=True), oracles.oracle_momentum, {"momentum": MEAN}),
    "Adam": Case(rules.Adam(), oracles.oracle_adam, ADAM),
    "AdamW": Case(rules.AdamW(), oracles.oracle_adamw, {**ADAM, "weight_decay": RATE}),
    "LARS": Case(
        rules.LARS(),
        oracles.oracle_lars,
        {"momentum": MEAN, "weight_decay": ("log", 1e-6, 1e-1), "tc": ("log", 1e-4, 1.0), "eps": ("log", 1e-9, 1e-2)},
    ),
    "WeightDecay": Case(rules.WeightDecay(), oracles.oracle_weight_decay, {"rate": RATE}),
    "ClipByGlobalNorm": Case(
        rules.ClipByGlobalNorm(), oracles.oracle_clip_by_global_norm, {"max_norm": ("log", 1e-7, 100.0)}
    ),
    "TrustRatio": Case(
        rules.TrustRatio(), oracle_trust_ratio, {"coefficient": ("log", 1e-3, 1.0), "eps": ("one of", 0.0, 1e-6, 1.0)}
    ),
    "Frozen": Case(rules.Frozen(), oracle_frozen),
    "L2 before Adam": Case(
        rules.Chain(rules.WeightDecay(), rules.Adam()),
        renamed(oracles.oracle_l2_adam, rate="weight_decay"),
        # The decay makes the gradient depend on the parameter, rounding and all. Where the two cancel, a nu without
        # memory would divide by next to nothing, and no float32 could follow: so beta2 remembers ten steps or more.
        {**ADAM, "beta2": ("even", 0.9, 0.9999), "rate": RATE},
    ),
    "clipping before momentum": Case(
        rules.Chain(rules.ClipByGlobalNorm(), rules.Momentum()),
        oracle_clipped_momentum,
        {"max_norm": ("log", 1e-7, 100.0), "momentum": MEAN},
    ),
    "LAMB": Case(
        rules.Chain(rules.Adam(eps=1e-6), rules.WeightDecay(), rules.TrustRatio()),
        renamed(oracles.oracle_lamb, {"coefficient": 1.0, "TrustRatio.eps": 0.0}, rate="weight_decay", Adam_eps="eps"),
        {"beta1": MEAN, "beta2": ADAM["beta2"], "Adam.eps": ADAM["eps"], "rate": RATE},
        {"check_oracle_elsewhere": "the paper's LAMB has one coefficient, and its oracle takes no other"},
    ),
    "Partition": Case(
        rules.Partition(("bias$", rules.SGD()), ("scale$", rules.Frozen()), (".", rules.AdamW())),
        oracle_partition,
        {**ADAM, "weight_decay": RATE},
    ),
}

for rows in (adam_variants.ROWS, accumulators.ROWS, stages.ROWS, wrappers.ROWS, lbfgs.ROWS):
    RULES.update({name: Case(**row) for name, row in rows.items()})

CONTRIB: dict[str, Case] = {
    name: Case(**row)
    for module in (
        contrib_kron,
        contrib_learning_rate_free,
        contrib_low_memory,
        contrib_muon,
        contrib_private,
        contrib_sam,
        contrib_schedule_free,
        contrib_shampoo,
        contrib_wrappers,
    )
    for name, row in module.ROWS.items()
}
RULES.update(CONTRIB)
