"""Optimizers that step by gradients uphill. They need ``opt.minimize(loss_fn, *batch)``, or ``grad_fn``."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class SAM(Optimizer):
    """``SAM(vc, rules.AdamW(), rho=0.05, lr=0.1)``; ``opt.minimize(loss_fn, *batch)``."""

    rule_type = rules.SAM


class ASAM(Optimizer):
    """``ASAM(vc, rules.AdamW(), rho=0.5, lr=0.1)``; ``opt.minimize(loss_fn, *batch)``."""

    rule_type = rules.ASAM


class LookSAM(Optimizer):
    """``LookSAM(vc, rules.AdamW(), period=5, rho=0.05, alpha=0.7, lr=0.1)``; ``opt.minimize(loss_fn, *batch)``."""

    rule_type = rules.LookSAM


class Normalize(Optimizer):
    """``Normalize(vc)``; ``opt(lr, grads)``."""

    rule_type = rules.Normalize
