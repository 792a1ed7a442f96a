"""Stages: rules that change a gradient or a direction on its way, and are meant to stand in a ``Chain``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics, tree
from optimkit.hyper import hyper
from optimkit.rules.base import LeafRule, Rule, Slot, Step, Tree


class WeightDecay(LeafRule):
    """Adds ``rate · p`` to what comes in: an L2 penalty before an adaptive rule, decoupled decay after it.

    ::

        direction = g + rate · p

    ``Chain(WeightDecay(r), Adam())`` is Adam on the penalised loss; ``Chain(Adam(), WeightDecay(r))`` is AdamW.
    Memory: none.

    State: none.

    Deviations: none.

    Reference: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization. arXiv:1711.05101.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.WeightDecay(0.5), lr=0.1)
        >>> apply({"w": jnp.zeros(1)}, init({"w": jnp.ones(1)}), {"w": jnp.ones(1)})[1]["w"]
        Array([0.95], dtype=float32)
    """

    reference = "Loshchilov & Hutter 2019. arXiv:1711.05101"
    rate: float = hyper(0.01, "[0, inf)", "rate of decay")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr * (g + rate * p)``."""
        return -lr * (g + self.rate * p), slot


class TrustRatio(LeafRule):
    """Scales each parameter's direction to a length proportional to the parameter's own.

    ::

        direction = φ g,  φ = coefficient · ‖p‖ / (‖g‖ + eps)
        φ = 1 where ‖p‖ = 0 or the denominator is 0

    Last in ``Chain(Adam(), WeightDecay(r), TrustRatio())`` it makes LAMB. Norms are over a whole parameter. For large
    batches. Memory: none.

    State: none.

    Deviations: the paper's clipping of ‖p‖ to an interval is left out, as in the authors' code.

    Reference: You et al. 2020, Large Batch Optimization for Deep Learning, Algorithm 2. arXiv:1904.00962.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.TrustRatio(), lr=0.1)
        >>> apply({"w": jnp.array([5.0])}, init({"w": jnp.array([2.0])}), {"w": jnp.array([2.0])})[1]["w"]
        Array([1.8], dtype=float32)
    """

    reference = "You et al. 2020, Algorithm 2. arXiv:1904.00962"
    coefficient: float = hyper(1.0, "(0, inf)", "length of the direction relative to the parameter's")
    eps: float = hyper(0.0, "[0, inf)", "added to the norm of the gradient")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the scaled direction."""
        return -lr * trust_scaled(g, numerics.norm(p), numerics.norm(g) + self.eps, self.coefficient), slot


def trust_scaled(direction: jax.Array, p_norm: jax.Array, length: jax.Array, coefficient: Any) -> jax.Array:
    """Return ``coefficient ‖p‖ / length`` times the direction, or the direction itself where ‖p‖ or the length is 0.

    The direction is divided first: the ratio of the norms alone overflows where gradients are tiny.
    """
    degenerate = (p_norm == 0) | (length == 0)
    unit = direction / jnp.where(degenerate, 1.0, length)
    return jnp.where(degenerate, direction, coefficient * p_norm * unit)


class ClipByGlobalNorm(Rule):
    """Scales all gradients together so that their common norm is at most ``max_norm``.

    ::

        direction = g · min(1, max_norm / ‖g‖),  ‖g‖ over all parameters

    First in a chain, it keeps a rare large gradient from spoiling the moments. Gradients with an infinity among them
    become zeros, the limit of the formula; NaN comes through. Memory: none.

    State: none.

    Deviations: none.

    Reference: Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks, Algorithm 1.
    arXiv:1211.5063.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.ClipByGlobalNorm(1.0), lr=1.0)
        >>> params = {"w": jnp.zeros(2)}
        >>> apply({"w": jnp.array([3.0, 4.0])}, init(params), params)[1]["w"]
        Array([-0.6, -0.8], dtype=float32)
    """

    reference = "Pascanu, Mikolov & Bengio 2013, Algorithm 1. arXiv:1211.5063"
    max_norm: float = hyper(1.0, "(0, inf)", "largest norm that passes unchanged")

    def init(self, params: Tree) -> Tree:
        """Return an empty state."""
        return {}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the clipped gradients, times ``-lr``."""
        norm = tree.global_norm(step.grads)
        scale = jnp.where(norm > self.max_norm, self.max_norm / jnp.maximum(norm, self.max_norm), 1.0)

        def clip(g: jax.Array) -> jax.Array:
            g = numerics.cast(g, numerics.compute_dtype(g.dtype))
            return -step.lr * jnp.where(scale > 0, scale * g, 0.0)  # 0 * inf would be NaN

        return jax.tree.map(clip, step.grads), state
