"""The optimizers that fit the step to the size of each layer."""

from __future__ import annotations

from optimkit import rules
from optimkit.optimizer.base import Optimizer


class LAMB(Optimizer):
    """``LAMB(vc, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.LAMB


class Fromage(Optimizer):
    """``Fromage(vc)``; ``opt(0.01, grads)``."""

    rule_type = rules.Fromage
