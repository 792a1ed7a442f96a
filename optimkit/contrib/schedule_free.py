"""Schedule-Free optimizers. Evaluate, and save the model, in ``with opt.evaluating():``."""

from __future__ import annotations

from optimkit.contrib import rules
from optimkit.optimizer.base import Optimizer


class ScheduleFree(Optimizer):
    """``ScheduleFree(vc, rules.SGD(), beta=0.9)``; ``opt(lr, grads)``."""

    rule_type = rules.ScheduleFree


class ScheduleFreeSGD(Optimizer):
    """``ScheduleFreeSGD(vc, beta=0.9, weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.ScheduleFreeSGD


class ScheduleFreeAdamW(Optimizer):
    """``ScheduleFreeAdamW(vc, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.ScheduleFreeAdamW


class ScheduleFreeRAdam(Optimizer):
    """``ScheduleFreeRAdam(vc, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)``; ``opt(lr, grads)``."""

    rule_type = rules.ScheduleFreeRAdam
