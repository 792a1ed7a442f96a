"""Rules that remember less."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class AdamMini(Optimizer):
    """``AdamMini(vc, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, heads=None)``; ``opt(lr, grads)``."""

    rule_type = rules.AdamMini


class GaLore(Optimizer):
    """``GaLore(vc, inner=Adam(), rank=128, frequency=200, scale=0.25)``; ``opt(lr, grads)``."""

    rule_type = rules.GaLore
