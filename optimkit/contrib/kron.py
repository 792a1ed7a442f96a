"""Preconditioners on a Lie group."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class PSGDKron(Optimizer):
    """``PSGDKron(vc, beta1=0.9, preconditioner_lr=0.1, max_dim=8192, weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.PSGDKron
