"""Orthogonalised momentum."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class Muon(Optimizer):
    """``Muon(vc, momentum=0.95, nesterov=True, ns_steps=5, scale='jordan', weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.Muon
