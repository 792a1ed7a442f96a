"""The optimizers that keep second moments as means of rows and columns."""

from __future__ import annotations

from optimkit import rules
from optimkit.optimizer.base import Optimizer


class Adafactor(Optimizer):
    """``Adafactor(vc, min_dim_size_to_factor=128, momentum=None, weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.Adafactor


class CAME(Optimizer):
    """``CAME(vc, beta1=0.9, beta2=0.999, beta3=0.9999, weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.CAME
