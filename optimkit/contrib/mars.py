"""Variance reduction."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class MARS(Optimizer):
    """``MARS(vc, beta1=0.95, beta2=0.99, gamma=0.025, exact=False, weight_decay=0.01)``; ``opt(lr, grads)``."""

    rule_type = rules.MARS


class MARSLion(Optimizer):
    """``MARSLion(vc, beta1=0.95, gamma=0.025, exact=False, weight_decay=0.01)``; ``opt(lr, grads)``."""

    rule_type = rules.MARSLion


class MARSShampoo(Optimizer):
    """``MARSShampoo(vc, momentum=0.95, gamma=0.025, exact=False, weight_decay=0.01)``; ``opt(lr, grads)``."""

    rule_type = rules.MARSShampoo
