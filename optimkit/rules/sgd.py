"""Gradient descent and momentum."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.rules.base import LeafRule, Slot


class SGD(LeafRule):
    """Stochastic gradient descent: a step against the gradient, and the unit of composition.

    ::

        p ← p − lr · g

    Use it where memory is short or where theory asks for it; it wants a learning rate tuned to the problem. It passes
    a direction through unchanged, so ``Chain(SGD(), rule)`` is ``rule``. Memory: none.

    State: none.

    Deviations: none.

    Reference: Robbins & Monro 1951, A Stochastic Approximation Method, equation (4).

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.SGD(), lr=0.1)
        >>> state, params = apply({"w": jnp.ones(2)}, init({"w": jnp.zeros(2)}), {"w": jnp.zeros(2)})
        >>> params["w"]
        Array([-0.1, -0.1], dtype=float32)
    """

    reference = "Robbins & Monro 1951, A Stochastic Approximation Method."

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr * g``."""
        return -lr * g, slot


class Momentum(LeafRule):
    """Gradient descent with a memory of its direction (the heavy ball), or Nesterov's accelerated gradient.

    ::

        m ← momentum · m + g
        p ← p − lr · m                       (nesterov=False)
        p ← p − lr · (g + momentum · m)      (nesterov=True)

    Use it for convolutional networks and wherever a tuned schedule is affordable. The sum is not normalised: at
    momentum 0.9 a constant gradient moves ten times as far as with SGD. Memory: one float32 per parameter.

    State: ``m``, the sum of decayed gradients, shaped as the parameter, float32, from 0.

    Deviations: the learning rate multiplies the sum (as in PyTorch, optax, objax), not each gradient as in the paper;
    the two differ only while the learning rate changes. Nesterov's form is the one of Bengio et al. 2013, in which
    gradients are taken at the parameters themselves.

    Reference: Sutskever, Martens, Dahl & Hinton 2013, On the importance of initialization and momentum in deep
    learning, equations (1)-(4); Bengio, Boulanger-Lewandowski & Pascanu 2013, arXiv:1212.0901, equations (6)-(7).

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Momentum(0.9), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for _ in range(2): state, params = apply({"w": jnp.ones(1)}, state, params)
        >>> params["w"]
        Array([-0.29], dtype=float32)
    """

    reference = "Sutskever et al. 2013, equations (1)-(4); Bengio et al. 2013, arXiv:1212.0901."
    momentum: float = hyper(0.9, "[0, 1)", "decay of the sum of gradients")
    nesterov: bool = hyper(False, bool, "whether to look ahead, as Nesterov's method does")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``m``, zero."""
        return {"m": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and ``m``."""
        m = self.momentum * slot["m"] + g
        direction = g + self.momentum * m if self.nesterov else m
        return -lr * direction, {"m": m}
