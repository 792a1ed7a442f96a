"""Differentially private optimizers. Their gradients are those of single examples."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class DPAggregate(Optimizer):
    """``DPAggregate(vc, max_norm, noise_multiplier, seed)``; ``opt(lr, grads)``."""

    rule_type = rules.DPAggregate


class DPSGD(Optimizer):
    """``DPSGD(vc, max_norm, noise_multiplier, seed, momentum=None)``; ``opt(lr, grads)``."""

    rule_type = rules.DPSGD
