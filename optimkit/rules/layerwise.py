"""Rules that fit the step to the size of each layer, for training with large batches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.base import LeafRule, Slot
from optimkit.rules.stages import trust_scaled


class LARS(LeafRule):
    """Momentum whose learning rate is scaled, for each parameter, by the ratio of its norm to its gradient's.

    ::

        λ = tc · ‖p‖ / (‖g‖ + weight_decay · ‖p‖ + eps),  λ = 1 where ‖p‖ or the denominator is 0
        v ← momentum · v + lr · λ · (g + weight_decay · p)
        p ← p − v

    For convolutional networks at batch sizes in the thousands. The learning rate is inside the sum, so that its
    schedule acts with a delay, and the rule can only stand last in a chain. Leave biases and norms out by a
    ``Partition``. Memory: one float32 per parameter.

    State: ``v``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: ``eps`` is not in the paper (objax has it). λ = 1 for a parameter at zero, which by the paper could
    never move. objax has λ ≥ 1 at a zero gradient, too; here the formula holds. The paper's schedule is left to ``lr``.

    Reference: You, Gitman & Ginsburg 2017, Large Batch Training of Convolutional Networks, Algorithm 1.
    arXiv:1708.03888.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.LARS(momentum=0.0, weight_decay=0.0, tc=0.1, eps=0.0), lr=1.0)
        >>> params = {"w": jnp.array([2.0])}
        >>> apply({"w": jnp.array([5.0])}, init(params), params)[1]["w"]
        Array([1.8], dtype=float32)
    """

    reference = "You, Gitman & Ginsburg 2017, Algorithm 1. arXiv:1708.03888"
    chainable = False
    momentum: float = hyper(0.9, "[0, 1)", "decay of the sum of steps")
    weight_decay: float = hyper(1e-4, "[0, inf)", "rate of the L2 penalty")
    tc: float = hyper(1e-3, "(0, inf)", "trust coefficient, the length of a step relative to the parameter's")
    eps: float = hyper(1e-5, "[0, inf)", "added to the denominator of the trust ratio")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``v``, zero."""
        return {"v": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and ``v``."""
        p_norm = numerics.norm(p)
        length = numerics.norm(g) + self.weight_decay * p_norm + self.eps
        v = self.momentum * slot["v"] + lr * trust_scaled(g + self.weight_decay * p, p_norm, length, self.tc)
        return -v, {"v": v}
