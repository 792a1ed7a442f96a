"""Stages: rules that change a gradient or a direction on its way, and are meant to stand in a ``Chain``.

Those here look at the parameters; see ``clipping`` and ``gradients`` for those that look at what comes in. Each treats
a parameter alone.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.base import LeafRule, Slot


class WeightDecay(LeafRule):
    """Adds ``rate · p`` to what comes in: an L2 penalty before an adaptive rule, decoupled decay after it.

    ::

        direction = g + rate · p

    ``Chain(WeightDecay(r), Adam())`` is Adam on the penalised loss; ``Chain(Adam(), WeightDecay(r))`` is AdamW.
    Memory: none.

    At a zero gradient it is the decay alone; infinities and NaN come through.

    State: none.

    Deviations: the learning rate multiplies the decay, as in PyTorch and optax; :class:`IndependentWeightDecay` has the
    paper's decay.

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


class IndependentWeightDecay(LeafRule):
    """Shrinks parameters by ``rate`` at each step, whatever the learning rate is.

    ::

        p ← p − lr · g − rate · p

    Last in a chain: ``Chain(Adam(), IndependentWeightDecay(r))`` is AdamW whose decay stays as it is when the learning
    rate is tuned; at a constant learning rate it is that with ``WeightDecay(r / lr)``. So ``rate`` is far smaller than
    there, 1e-5 to 1e-3. A schedule of the learning rate leaves it alone: give ``rate`` the same shape where the decay
    is to fade, too. :class:`Adafactor` has it as ``independent_decay``. Memory: none.

    At a zero gradient it only shrinks; infinities and NaN come through.

    State: none.

    Deviations: the paper multiplies both terms by a schedule η; here ``lr`` is the paper's η α, and ``rate`` η λ.

    Reference: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, Algorithms 1 and 2. arXiv:1711.05101.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.IndependentWeightDecay(0.5), lr=0.25)
        >>> apply({"w": jnp.ones(1)}, init({"w": jnp.ones(1)}), {"w": jnp.ones(1)})[1]["w"]  # 1 - 0.25 - 0.5
        Array([0.25], dtype=float32)
    """

    reference = "Loshchilov & Hutter 2019, Algorithms 1 and 2. arXiv:1711.05101"
    chainable = False
    rate: float = hyper(1e-4, "[0, 1]", "rate of decay, not multiplied by lr")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr * g - rate * p``."""
        return -lr * g - self.rate * p, slot


class TrustRatio(LeafRule):
    """Scales each parameter's direction to a length proportional to the parameter's own.

    ::

        direction = φ g,  φ = coefficient · ‖p‖ / (‖g‖ + eps)
        φ = 1 where ‖p‖ = 0 or the denominator is 0

    Last in ``Chain(Adam(), WeightDecay(r), TrustRatio())`` it makes LAMB. Norms are over a whole parameter. For large
    batches. Memory: none.

    Zeros stay zeros. NaN spreads to the whole parameter; an infinity becomes NaN, and the rest of the parameter 0.

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
