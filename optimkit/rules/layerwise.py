"""Rules that fit the step to the size of each layer, for training with large batches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.adam import Adam
from optimkit.rules.base import LeafRule, Rule, Slot
from optimkit.rules.compose import Chain, Composed
from optimkit.rules.stages import TrustRatio, WeightDecay, trust_scaled


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


class LAMB(Composed, Adam):
    """Adam whose step in each parameter is as long as the parameter, times the learning rate.

    It is ``Chain(Adam(...), WeightDecay(weight_decay), TrustRatio())``::

        u = adam direction + weight_decay · p
        p ← p − lr · ‖p‖ / ‖u‖ · u                  the ratio is 1 where a norm is 0

    For transformers at batch sizes in the tens of thousands. Leave biases and norms out by a ``Partition``. Memory: two
    float32 per parameter.

    State: that of :class:`Adam`.

    Deviations: the paper's clipping of ‖p‖ to an interval is left out, as in the authors' code. ``eps_root`` is not in
    the paper. A parameter at zero moves by u, where the paper's ratio of 0 would leave it there for ever (flax does).

    Reference: You et al. 2020, Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, Algorithm 2.
    arXiv:1904.00962.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.LAMB(), lr=0.1)
        >>> params = {"w": jnp.array([3.0, 4.0])}
        >>> apply({"w": jnp.array([7.0, 0.0])}, init(params), params)[1]["w"]  # 5 long, times 0.1
        Array([2.5, 4. ], dtype=float32)
    """

    reference = "You et al. 2020, Algorithm 2. arXiv:1904.00962"
    eps: float = hyper(1e-6, "[0, inf)", "added to the root, outside it")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, inside the trust ratio")

    def compose(self) -> Rule:
        """Return ``Chain(Adam(...), WeightDecay(...), TrustRatio())``."""
        return Chain(self.part(Adam), WeightDecay(self.weight_decay), TrustRatio())


class Fromage(LeafRule):
    """Steps at a fixed angle: as long as the parameter times ``lr``, and shrunk so that the length does not grow.

    ::

        p ← (p − lr · ‖p‖ / ‖g‖ · g) / √(1 + lr²)       the ratio is 1 where a norm is 0

    ``lr`` is the relative change of each layer, 0.01 for most networks, and hardly needs tuning. The shrinking does not
    depend on ``lr`` linearly, so the rule can only stand last in a chain. Memory: none.

    State: none.

    Deviations: none. ``p_bound`` of the authors' code, a ball around the origin, is left to constraints. optax raises
    both norms to ``min_norm`` where they are smaller; here, and in the authors' code, the ratio is 1 at 0.

    Reference: Bernstein, Vahdat, Yue & Liu 2020, On the distance between two neural networks and the stability of
    learning, Algorithm 1. arXiv:2002.03432.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Fromage(), lr=0.75)
        >>> params = {"w": jnp.array([0.0, 4.0])}
        >>> apply({"w": jnp.array([9.0, 0.0])}, init(params), params)[1]["w"]  # (-3, 4) / 1.25
        Array([-2.4,  3.2], dtype=float32)
    """

    reference = "Bernstein, Vahdat, Yue & Liu 2020, Algorithm 1. arXiv:2002.03432"
    chainable = False

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement."""
        root = jnp.sqrt(1 + lr**2)
        step = lr * trust_scaled(g, numerics.norm(p), numerics.norm(g), 1.0)
        return -(step + lr**2 / (1 + root) * p) / root, slot  # 1/root − 1 = −lr² / (root (1 + root)), uncancelled
