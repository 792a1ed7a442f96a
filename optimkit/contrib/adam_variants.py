"""Newer relatives of Adam."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class ACProp(Optimizer):
    """``ACProp(vc, beta1=0.9, beta2=0.999, eps=1e-8)``; ``opt(lr, grads)``."""

    rule_type = rules.ACProp


class ADOPT(Optimizer):
    """``ADOPT(vc, beta1=0.9, beta2=0.9999, eps=1e-6, clipping=True)``; ``opt(lr, grads)``."""

    rule_type = rules.ADOPT


class AdEMAMix(Optimizer):
    """``AdEMAMix(vc, beta1=0.9, beta2=0.999, beta3=0.9999, alpha=5.0, warmup=None)``; ``opt(lr, grads)``."""

    rule_type = rules.AdEMAMix


class SimplifiedAdEMAMix(Optimizer):
    """``SimplifiedAdEMAMix(vc, beta1=0.99, beta2=0.95, alpha=0.0, warmup=None)``; ``opt(lr, grads)``."""

    rule_type = rules.SimplifiedAdEMAMix
