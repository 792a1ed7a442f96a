"""Gradient descent with something added."""

from __future__ import annotations

from optimkit import rules
from optimkit.optimizer.base import Optimizer


class OptimisticGradient(Optimizer):
    """``OptimisticGradient(vc, alpha=1.0, beta=1.0)``; ``opt(lr, grads)``."""

    rule_type = rules.OptimisticGradient


class OptimisticAdam(Optimizer):
    """``OptimisticAdam(vc, beta1=0.9, beta2=0.999, eps=1e-8)``; ``opt(lr, grads)``."""

    rule_type = rules.OptimisticAdam


class NoisySGD(Optimizer):
    """``NoisySGD(vc, eta=0.01, gamma=0.55, seed=0)``; ``opt(lr, grads)``."""

    rule_type = rules.NoisySGD


class PolyakSGD(Optimizer):
    """``PolyakSGD(vc, max_step=1.0, f_min=0.0)``; ``opt(1.0, grads, value=loss)``."""

    rule_type = rules.PolyakSGD
