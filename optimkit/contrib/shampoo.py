"""Rules with a matrix for each axis."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class Shampoo(Optimizer):
    """``Shampoo(vc, beta2=0.999, graft='rmsprop', frequency=10, momentum=0.9, nesterov=True)``; ``opt(lr, grads)``."""

    rule_type = rules.Shampoo


class SOAP(Optimizer):
    """``SOAP(vc, beta1=0.95, beta2=0.95, eps=1e-8, frequency=10, weight_decay=0.01)``; ``opt(lr, grads)``."""

    rule_type = rules.SOAP
