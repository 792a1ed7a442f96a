"""Rules of dual averaging: each step is taken anew from where training began."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.base import LeafRule, Slot


class Anchored(LeafRule):
    """A rule of leaves that remembers where training began: at the parameters of the first step, not at ``init``.

    Weights are often loaded after an optimizer is made, so ``x0`` is 0 until then. It keeps the dtype of the arithmetic
    whatever ``slot_dtype`` is: parameters are a sum with it, and would be moved by its rounding.
    """

    def _init_slot(self, p: jax.Array) -> Slot:
        return {**super()._init_slot(p), "x0": jnp.zeros_like(p, numerics.compute_dtype(p.dtype))}

    @staticmethod
    def anchor(slot: Slot, p: jax.Array, t: Any) -> jax.Array:
        """Return where training began."""
        return jnp.where(t == 1, p, slot["x0"])


class COCOB(Anchored):
    """Bets on coins: each coordinate stakes a part of what it has won so far, and needs no learning rate.

    ::

        L ← max(L, |g|),  from eps                        scale of gradients
        G ← G + |g|,  θ ← θ − g
        R ← max(R − g (x − x₀), 0)                        reward
        w = θ / (L max(G + L, alpha L)) · (L + R)
        x ← x + lr · (x₀ + w − x)

    There is no learning rate to find: use it with ``lr = 1``, where x = x₀ + w. The first steps are 1/alpha long. For
    convex problems and small networks, and wherever nothing is known about the scale of a problem. It forgets nothing,
    so that it is slow where the best direction changes. A weight decay stands before it: ``Chain(WeightDecay(r),
    COCOB())``; behind it, the next step would undo it. Memory: five float32 per parameter.

    State: ``theta``, ``scale`` (L), ``g_sum`` (G), ``reward``, shaped as the parameter, float32, from 0, L from
    ``eps``; ``x0``, the parameter at the first step, float32 (float64); ``t``, int32.

    Deviations: the paper has no ``lr``; here it is the part of the way to x₀ + w that is gone, where optax multiplies
    gradients by it, to which the algorithm is indifferent. ``eps`` is not in the paper; with 0, a coordinate that has
    had no gradient does not move.

    Reference: Orabona & Tommasi 2017, Training Deep Networks without Learning Rates Through Coin Betting, Algorithm 2
    (COCOB-Backprop). arXiv:1705.07795.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(COCOB(alpha=4.0), lr=1.0)
        >>> params = {"w": jnp.array([1.0, 1.0])}
        >>> apply({"w": jnp.array([1e-3, -1e3])}, init(params), params)[1]["w"]  # 1/4 each, whatever the scale
        Array([0.75, 1.25], dtype=float32)
    """

    reference = "Orabona & Tommasi 2017, Algorithm 2. arXiv:1705.07795"
    alpha: float = hyper(100.0, "(0, inf)", "length of the warmup: first steps are 1/alpha")
    eps: float = hyper(1e-8, "[0, inf)", "first scale of gradients")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``theta``, ``g_sum`` and ``reward``, zero, and ``scale``, eps."""
        zeros = {name: jnp.zeros_like(p) for name in ("theta", "g_sum", "reward")}
        return {**zeros, "scale": jnp.zeros_like(p) + self.eps}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the wealth."""
        x0, size = self.anchor(slot, p, t), jnp.abs(g)
        scale = jnp.maximum(slot["scale"], size)
        g_sum, theta = slot["g_sum"] + size, slot["theta"] - g
        reward = jnp.maximum(slot["reward"] - g * (p - x0), 0.0)
        # Two quotients: the square of the scale would under- or overflow.
        part = numerics.safe_divide(theta, jnp.maximum(g_sum + scale, self.alpha * scale))
        bet = part * numerics.safe_divide(scale + reward, scale)
        new = {"theta": theta, "g_sum": g_sum, "reward": reward, "scale": scale, "x0": x0}
        return lr * (x0 + bet - p), new


class MADGRAD(Anchored):
    """Dual averaging with momentum, whose steps shrink with the cube root of the sum of squared gradients.

    ::

        λ = lr √t
        s ← s + λ g,  ν ← ν + λ g²
        z = x₀ − s / (∛ν + eps)
        x ← momentum · x + (1 − momentum) · z

    For problems with sparse gradients and for models that Adam generalises badly on. Its learning rate is neither
    Adam's nor SGD's: look for it anew. It needs less weight decay than they do, often none; that stands before it, as
    an L2 penalty: ``Chain(WeightDecay(r), MADGRAD())``. Memory: three float32 per parameter.

    State: ``s``, ``nu``, shaped as the parameter, float32, from 0; ``x0``, the parameter at the first step, float32
    (float64); ``t``, int32.

    Deviations: none. The authors' code adds ``eps`` to ``lr``, too.

    Reference: Defazio & Jelassi 2021, Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged Gradient
    Method for Stochastic Optimization, Algorithm 1. arXiv:2101.11075.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(MADGRAD(momentum=0.0, eps=0.0), lr=1.0)
        >>> params = {"w": jnp.array([1.0])}
        >>> apply({"w": jnp.array([8.0])}, init(params), params)[1]["w"]  # 1 - 8 / 4
        Array([-1.], dtype=float32)
    """

    reference = "Defazio & Jelassi 2021, Algorithm 1. arXiv:2101.11075"
    chainable = False
    momentum: float = hyper(0.9, "[0, 1)", "part of a parameter that a step keeps")
    eps: float = hyper(1e-6, "[0, inf)", "added to the cube root, outside it")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``s`` and ``nu``, zero."""
        return {"s": jnp.zeros_like(p), "nu": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the sums."""
        x0, weight = self.anchor(slot, p, t), lr * jnp.sqrt(t)
        s, nu = slot["s"] + weight * g, slot["nu"] + weight * g**2
        z = x0 - numerics.safe_divide(s, jnp.cbrt(nu) + self.eps)
        return (1 - self.momentum) * (z - p), {"s": s, "nu": nu, "x0": x0}
