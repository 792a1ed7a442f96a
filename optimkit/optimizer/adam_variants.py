"""Adam's relatives."""

from __future__ import annotations

from optimkit import rules
from optimkit.optimizer.base import Optimizer


class NAdam(Optimizer):
    """``NAdam(vc, beta1=0.9, beta2=0.999, eps=1e-8, warmup=0.5)``; ``opt(lr, grads)``."""

    rule_type = rules.NAdam


class NAdamW(Optimizer):
    """``NAdamW(vc, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)``; ``opt(lr, grads)``."""

    rule_type = rules.NAdamW


class AMSGrad(Optimizer):
    """``AMSGrad(vc, beta1=0.9, beta2=0.999, eps=1e-8, debias='after')``; ``opt(lr, grads)``."""

    rule_type = rules.AMSGrad


class AdaMax(Optimizer):
    """``AdaMax(vc, beta1=0.9, beta2=0.999, eps=1e-8)``; ``opt(lr, grads)``."""

    rule_type = rules.AdaMax


class AdaMaxW(Optimizer):
    """``AdaMaxW(vc, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01)``; ``opt(lr, grads)``."""

    rule_type = rules.AdaMaxW


class RAdam(Optimizer):
    """``RAdam(vc, beta1=0.9, beta2=0.999, eps=1e-8, threshold=4.0)``; ``opt(lr, grads)``."""

    rule_type = rules.RAdam


class LaProp(Optimizer):
    """``LaProp(vc, beta1=0.9, beta2=0.999, eps=1e-15)``; ``opt(lr, grads)``."""

    rule_type = rules.LaProp


class AdamAtan2(Optimizer):
    """``AdamAtan2(vc, beta1=0.9, beta2=0.999, a=4 / pi, b=1.0)``; ``opt(lr, grads)``."""

    rule_type = rules.AdamAtan2


class StableAdamW(Optimizer):
    """``StableAdamW(vc, beta1=0.9, beta2=0.99, eps=1e-6, weight_decay=0.01)``; ``opt(lr, grads)``."""

    rule_type = rules.StableAdamW


class AdaBelief(Optimizer):
    """``AdaBelief(vc, beta1=0.9, beta2=0.999, eps=1e-16, eps_root=1e-16)``; ``opt(lr, grads)``."""

    rule_type = rules.AdaBelief


class Yogi(Optimizer):
    """``Yogi(vc, beta1=0.9, beta2=0.999, eps=1e-3, initial_nu=1e-6)``; ``opt(lr, grads)``."""

    rule_type = rules.Yogi


class Adan(Optimizer):
    """``Adan(vc, beta1=0.98, beta2=0.92, beta3=0.99, eps=1e-8, weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.Adan


class NovoGrad(Optimizer):
    """``NovoGrad(vc, beta1=0.95, beta2=0.98, eps=1e-8, weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.NovoGrad
