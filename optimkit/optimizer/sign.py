"""The optimizers that step by a sign."""

from __future__ import annotations

from optimkit import rules
from optimkit.optimizer.base import Optimizer


class SignSGD(Optimizer):
    """``SignSGD(vc)``; ``opt(lr, grads)``."""

    rule_type = rules.SignSGD


class Signum(Optimizer):
    """``Signum(vc, momentum=0.9)``; ``opt(lr, grads)``."""

    rule_type = rules.Signum


class Lion(Optimizer):
    """``Lion(vc, beta1=0.9, beta2=0.99, weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.Lion


class RProp(Optimizer):
    """``RProp(vc, initial_step=0.1, eta_minus=0.5, eta_plus=1.2)``; ``opt(1.0, grads)``."""

    rule_type = rules.RProp
