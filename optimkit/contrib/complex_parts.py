"""The optimizer of complex parameters."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class SplitComplex(Optimizer):
    """``SplitComplex(vc, rules.Adam(), conjugate=True)``; ``opt(lr, grads)``."""

    rule_type = rules.SplitComplex
