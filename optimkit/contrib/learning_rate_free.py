"""Optimizers that find their learning rate."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class DAdaptAdamW(Optimizer):
    """``DAdaptAdamW(vc, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)``; ``opt(1.0, grads)``."""

    rule_type = rules.DAdaptAdamW


class Prodigy(Optimizer):
    """``Prodigy(vc, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, d_coef=1.0)``; ``opt(1.0, grads)``."""

    rule_type = rules.Prodigy


class DoG(Optimizer):
    """``DoG(vc, reps_rel=1e-6, eps=1e-8)``; ``opt(1.0, grads)``."""

    rule_type = rules.DoG


class LDoG(Optimizer):
    """``LDoG(vc, reps_rel=1e-6, eps=1e-8)``; ``opt(1.0, grads)``."""

    rule_type = rules.LDoG


class DoWG(Optimizer):
    """``DoWG(vc, r_eps=1e-2, eps=1e-4)``; ``opt(1.0, grads)``."""

    rule_type = rules.DoWG


class COCOB(Optimizer):
    """``COCOB(vc, alpha=100.0, eps=1e-8)``; ``opt(1.0, grads)``."""

    rule_type = rules.COCOB


class MADGRAD(Optimizer):
    """``MADGRAD(vc, momentum=0.9, eps=1e-6)``; ``opt(lr, grads)``."""

    rule_type = rules.MADGRAD


class MoMo(Optimizer):
    """``MoMo(vc, beta=0.9, lower_bound=0.0, weight_decay=0.0)``; ``opt(1.0, grads, value=loss)``."""

    rule_type = rules.MoMo


class MoMoAdam(Optimizer):
    """``MoMoAdam(vc, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)``; ``opt(lr, grads, value=loss)``."""

    rule_type = rules.MoMoAdam


class Mechanic(Optimizer):
    """``Mechanic(vc, rules.AdamW(), s_init=1e-8, s_decay=0.01)``; ``opt(1.0, grads)``."""

    rule_type = rules.Mechanic
