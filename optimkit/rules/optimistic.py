"""Gradient descent with something added: the step before, noise, or Polyak's step size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics, tree
from optimkit.hyper import hyper
from optimkit.rules.adam import Adam
from optimkit.rules.base import LeafRule, Rule, Slot, Step, Tree
from optimkit.rules.compose import Chain, Composed
from optimkit.rules.gradients import AddNoise


class OptimisticGradient(LeafRule):
    """Gradient descent that expects the gradient to go on changing as it just did, and so does not circle.

    ::

        p ← p − lr · ((alpha + beta) g − beta g'),  g' the gradient before

    For games such as GANs, where plain descent circles around the solution or leaves it. It is a step of the
    extra-gradient method for the price of one gradient. After another rule in a ``Chain`` it makes that optimistic.
    Memory: one float32 per parameter.

    State: ``g``, the gradient before, shaped as the parameter, float32; ``t``, int32.

    Deviations: none. At the first step g' is g, which is the paper's z₋₁ = z₀.

    Reference: Mokhtari, Ozdaglar & Pattathil 2020, A Unified Analysis of Extra-gradient and Optimistic Gradient Methods
    for Saddle Point Problems: Proximal Point Approach, generalized OGDA. arXiv:1901.08511.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.OptimisticGradient(), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (1.0, 2.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"]  # 1, and 2 · 2 − 1
        Array([-0.4], dtype=float32)
    """

    reference = "Mokhtari, Ozdaglar & Pattathil 2020, generalized OGDA. arXiv:1901.08511"
    alpha: float = hyper(1.0, "[0, inf)", "weight of the gradient")
    beta: float = hyper(1.0, "[0, inf)", "weight of its change, the optimism")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``g``, zero until there is a gradient."""
        return {"g": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and ``g``."""
        change = jnp.where(t == 1, 0.0, g - slot["g"])
        return -lr * (self.alpha * g + self.beta * change), {"g": g}


class OptimisticAdam(Composed, Adam):
    """Adam that expects its direction to go on changing as it just did.

    It is ``Chain(Adam(...), OptimisticGradient(alpha, beta))``::

        p ← p − lr · ((alpha + beta) d − beta d'),  d Adam's direction, d' the one before

    For GANs. Memory: three float32 per parameter.

    State: those of :class:`Adam` and :class:`OptimisticGradient`.

    Deviations: the paper has ``alpha = beta = 1``. Its d' is 0 at the first step, which is then twice as long; here it
    is d. A learning rate that changes multiplies both terms. optax's ``optimistic_adam_v2`` has Nesterov's form of Adam
    unless ``nesterov=False``.

    Reference: Daskalakis, Ilyas, Syrgkanis & Zeng 2018, Training GANs with Optimism, Algorithm 1. arXiv:1711.00141.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.OptimisticAdam(), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}
        >>> apply({"w": jnp.array([5.0])}, init(params), params)[1]["w"]
        Array([-0.1], dtype=float32)
    """

    reference = "Daskalakis, Ilyas, Syrgkanis & Zeng 2018, Algorithm 1. arXiv:1711.00141"
    alpha: float = hyper(1.0, "[0, inf)", "weight of Adam's direction")
    beta: float = hyper(1.0, "[0, inf)", "weight of its change, the optimism")

    def compose(self) -> Rule:
        """Return ``Chain(Adam(...), OptimisticGradient(...))``."""
        return Chain(self.part(Adam), self.part(OptimisticGradient))


class NoisySGD(AddNoise):
    """Gradient descent with Gaussian noise on the gradient that fades with time: the stage :class:`AddNoise` by itself.

    ::

        p ← p − lr · (g + σ n),  n standard normal,  σ² = eta / tᵞ

    For very deep or badly initialised networks, and to leave flat regions. Memory: none.

    State: that of :class:`AddNoise`.

    Deviations: those of :class:`AddNoise`.

    Reference: Neelakantan et al. 2015, Adding Gradient Noise Improves Learning for Very Deep Networks, section 3.
    arXiv:1511.06807.

    Example:
        >>> from optimkit import pure, rules
        >>> params = {"w": jnp.zeros(2)}
        >>> init, apply = pure(rules.NoisySGD(eta=0.0), lr=0.1)
        >>> apply({"w": jnp.ones(2)}, init(params), params)[1]["w"]
        Array([-0.1, -0.1], dtype=float32)
    """


class PolyakSGD(Rule):
    """Gradient descent whose step size comes from the loss: as far as a line with this slope needs to the minimum.

    ::

        γ = min((f − f_min) / (‖g‖² + eps), max_step),  ‖g‖ over all parameters
        p ← p − lr · scaling · γ · g

    For models that fit their data exactly, where ``f_min = 0`` is the minimum of each batch; elsewhere it needs a good
    ``f_min``, or goes too far. Use it with ``lr = 1``, the paper's, and give the loss, by ``opt(lr, grads,
    value=loss)`` or by ``minimize``. A loss below ``f_min`` gives a step uphill with ``variant="sps"``, and none with
    ``"sps+"``; a zero gradient gives none. Memory: none.

    State: none.

    Deviations: ``lr`` and ``scaling`` are not in the paper, whose 1/c is ``scaling`` with ``max_step`` times c. Its
    ``eps`` is 0. In optax, ``scaling`` divides the step.

    Reference: Loizou, Vaswani, Laradji & Lacoste-Julien 2021, Stochastic Polyak Step-size for SGD, SPS_max,
    arXiv:2002.10542; Garrigos, Gower & Schaipp 2023, Function Value Learning, arXiv:2307.14528, for "sps+".

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.PolyakSGD(), lr=1.0)
        >>> params = {"w": jnp.array([3.0, 4.0])}  # the loss is ‖w‖², 25, and its gradient 2 w
        >>> apply({"w": 2 * params["w"]}, init(params), params, value=25.0)[1]["w"]
        Array([1.5, 2. ], dtype=float32)
    """

    reference = "Loizou et al. 2021, SPS_max. arXiv:2002.10542; Garrigos, Gower & Schaipp 2023. arXiv:2307.14528"
    needs = ("value",)
    max_step: float = hyper(1.0, "(0, inf]", "largest step size")
    scaling: float = hyper(1.0, "[0, inf)", "what the step size is multiplied by")
    f_min: float = hyper(0.0, "(-inf, inf)", "smallest value of the loss")
    eps: float = hyper(0.0, "[0, inf)", "added to the squared norm of the gradient")
    variant: str = hyper("sps", ("sps", "sps+"), "whether a loss below f_min counts as f_min")

    def init(self, params: Tree) -> Tree:
        """Return an empty state."""
        return {}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the gradients times the step size."""
        norm = tree.global_norm(step.grads)
        gap = jnp.asarray(step.value, norm.dtype) - self.f_min
        gap = jnp.maximum(gap, 0.0) if self.variant == "sps+" else gap
        # γ ‖g‖, which multiplies a unit vector: the square of a norm under- or overflows.
        length = numerics.safe_divide(gap, norm + numerics.safe_divide(self.eps, norm))
        longest = jnp.where(norm > 0, self.max_step * norm, 0.0)  # max_step may be inf
        length = self.scaling * jnp.minimum(length, longest)

        def moved(g: jax.Array) -> jax.Array:
            unit = numerics.safe_divide(numerics.cast(g, numerics.compute_dtype(g.dtype)), norm)
            return -step.lr * (length * unit)

        return jax.tree.map(moved, step.grads), state
