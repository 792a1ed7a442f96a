"""The optimizers by name, in order of complexity: each is its rule, bound to variables."""

from __future__ import annotations

from optimkit import rules
from optimkit.optimizer.base import Optimizer


class SGD(Optimizer):
    """``SGD(vc)``; ``opt(lr, grads)``."""

    rule_type = rules.SGD


class Momentum(Optimizer):
    """``Momentum(vc, momentum=0.9, nesterov=False)``; ``opt(lr, grads, momentum=None)``."""

    rule_type = rules.Momentum


class Adam(Optimizer):
    """``Adam(vc, beta1=0.9, beta2=0.999, eps=1e-8)``; ``opt(lr, grads, beta1=None, beta2=None)``."""

    rule_type = rules.Adam


class AdamW(Optimizer):
    """``AdamW(vc, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)``; ``opt(lr, grads)``."""

    rule_type = rules.AdamW


class LARS(Optimizer):
    """``LARS(vc, momentum=0.9, weight_decay=1e-4, tc=1e-3, eps=1e-5)``; ``opt(lr, grads)``."""

    rule_type = rules.LARS
