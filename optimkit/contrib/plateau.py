"""The optimizer whose learning rate falls when the loss no longer does."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class ReduceOnPlateau(Optimizer):
    """``ReduceOnPlateau(vc, rules.Adam(), factor=0.1, patience=10, lr=0.1)``; ``opt.minimize(loss_fn, *batch)``."""

    rule_type = rules.ReduceOnPlateau
