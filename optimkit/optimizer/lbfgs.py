"""L-BFGS, driven by ``minimize``."""

from __future__ import annotations

from optimkit import rules
from optimkit.optimizer.base import Optimizer


class LBFGS(Optimizer):
    """``LBFGS(vc, memory_size=10, line_search=rules.Zoom(), lr=1.0)``; ``opt.minimize(loss_fn, *args)``."""

    rule_type = rules.LBFGS
