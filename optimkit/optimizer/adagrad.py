"""The optimizers that divide by gathered squares."""

from __future__ import annotations

from optimkit import rules
from optimkit.optimizer.base import Optimizer


class AdaGrad(Optimizer):
    """``AdaGrad(vc, initial_accumulator=0.0, eps=1e-10)``; ``opt(lr, grads)``."""

    rule_type = rules.AdaGrad


class AdaDelta(Optimizer):
    """``AdaDelta(vc, decay=0.95, eps=1e-6)``; ``opt(1.0, grads)``."""

    rule_type = rules.AdaDelta


class RMSProp(Optimizer):
    """``RMSProp(vc, decay=0.9, eps=1e-8, momentum=None, centered=False)``; ``opt(lr, grads)``."""

    rule_type = rules.RMSProp


class SM3(Optimizer):
    """``SM3(vc, momentum=None)``; ``opt(lr, grads)``."""

    rule_type = rules.SM3
