"""Sharpness-aware minimization, around momentum. The adversaries are such that everything about them matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optimkit import rules
from optimkit.contrib.rules import ASAM, SAM, AdaptiveNormalize, LookSAM, Normalize
from tests.oracles import contrib_sam
from tests.rule_rows.adam_variants import MEAN, row

# How far uphill a point is, is a difference of parameters, and rounded at their size: so it must not be too near.
RHO = {"rho": ("log", 2e-2, 1.0)}
ETA = {"eta": ("log", 1e-4, 1.0)}
OUTER = {"momentum": MEAN}


def averaging(sync_period: int = 3, **options: Any) -> SAM:
    """Return SAM whose adversary averages its directions: it has a memory."""
    adversary = rules.Chain(Normalize(), rules.EmaOfGradients(0.5, debias=False))
    return SAM(rules.Momentum(), 0.1, adversary, sync_period, **options)


def oracle_normalize(params: Any, grads: Any, lr: Any) -> Any:
    """Normalised gradient descent: SAM's direction as the step."""
    return _descent(params, grads, lr, contrib_sam.normalized)


def oracle_adaptive_normalize(params: Any, grads: Any, lr: Any, *, eta: float) -> Any:
    """The same in ASAM's measure."""
    return _descent(params, grads, lr, contrib_sam.adaptively_normalized(eta))


def _descent(params: Any, grads: Any, lr: Any, direction: Callable[[Any, Any], Any]) -> Any:
    w, way = contrib_sam.copies(params), []
    for g, eta in zip(grads, lr, strict=True):
        w = contrib_sam.moved(w, {name: -eta * d for name, d in direction(w, g).items()})
        way.append(w)
    return way


ROWS: dict[str, dict[str, Any]] = {
    "Normalize": row(Normalize(), oracle_normalize, {}),
    "AdaptiveNormalize": row(AdaptiveNormalize(), oracle_adaptive_normalize, ETA),
    "SAM": row(averaging(2), contrib_sam.oracle_sam, {**RHO, **OUTER, "decay": MEAN}),
    "SAM that keeps its adversary": row(
        averaging(reset_state=False), contrib_sam.oracle_sam, {**RHO, **OUTER, "decay": MEAN}
    ),
    "transparent SAM": row(averaging(opaque_mode=False), contrib_sam.oracle_sam, {**RHO, **OUTER, "decay": MEAN}),
    "ASAM": {
        "rule": ASAM(rules.Momentum()),
        "oracle": contrib_sam.oracle_asam,
        "draw": {**RHO, **ETA, **OUTER},
        "expected_failures": {"check_hyperparameters_matter": "reset_state is about adversaries with a memory"},
    },
    # Its direction is a small difference of gradients, in which their rounding is large: test_sam.py has the oracle.
    "LookSAM": {
        "rule": LookSAM(rules.Momentum(), rho=1.0, adversary=AdaptiveNormalize(0.5)),
        "expected_failures": {
            "check_jit_equals_eager_on_any_gradients": "of gradients of 1e4 the difference is mostly their rounding"
        },
    },
}
