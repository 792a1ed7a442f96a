"""Estimates of the Hessian."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class Sophia(Optimizer):
    """``Sophia(vc, beta1=0.96, beta2=0.99, gamma=0.01, frequency=10, weight_decay=0.1)``; ``opt.minimize(loss_fn)``."""

    rule_type = rules.Sophia
