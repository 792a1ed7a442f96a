"""Rules that step by the sign of something, every coordinate as far: SignSGD, Signum, Lion, RProp."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.rules.base import LeafRule, Slot


class SignSGD(LeafRule):
    """Descent by the sign of the gradient, which is one bit to send for each parameter.

    ::

        p ← p − lr · sign(g)

    For distributed training where communication is dear, and as the simplest of its kind; gradients must be averaged
    over large batches. Where a coordinate's gradient is 0 it stays. Memory: none.

    State: none.

    Deviations: none.

    Reference: Bernstein, Wang, Azizzadenesheli & Anandkumar 2018, signSGD: Compressed Optimisation for Non-Convex
    Problems, Algorithm 1. arXiv:1802.04434.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.SignSGD(), lr=0.1)
        >>> params = {"w": jnp.zeros(3)}
        >>> apply({"w": jnp.array([1e-9, -5.0, 0.0])}, init(params), params)[1]["w"]
        Array([-0.1,  0.1,  0. ], dtype=float32)
    """

    reference = "Bernstein et al. 2018, Algorithm 1. arXiv:1802.04434"

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr * sign(g)``."""
        return -lr * jnp.sign(g), slot


class Signum(LeafRule):
    """Descent by the sign of the mean of gradients, which noise turns less often than that of one gradient.

    ::

        m ← momentum · m + (1 − momentum) g
        p ← p − lr · sign(m)

    It can take Adam's place at half its memory; :class:`Lion`, which looks at two means, usually does better. Memory:
    one float32 per parameter.

    State: ``m``, shaped as the parameter, float32, from 0.

    Deviations: none.

    Reference: Bernstein, Wang, Azizzadenesheli & Anandkumar 2018, signSGD: Compressed Optimisation for Non-Convex
    Problems, Algorithm 2. arXiv:1802.04434.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Signum(), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (2.0, -1.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"]
        Array([-0.2], dtype=float32)
    """

    reference = "Bernstein et al. 2018, Algorithm 2. arXiv:1802.04434"
    momentum: float = hyper(0.9, "[0, 1)", "decay of the mean of gradients")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``m``, zero."""
        return {"m": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and ``m``."""
        m = self.momentum * slot["m"] + (1 - self.momentum) * g
        return -lr * jnp.sign(m), {"m": m}


class Lion(LeafRule):
    """Descent by the sign of a short mean of gradients, while a longer one is remembered.

    ::

        p ← p − lr · (sign(beta1 m + (1 − beta1) g) + weight_decay · p)
        m ← beta2 m + (1 − beta2) g

    For large models and batches, at half of Adam's memory. Against AdamW take a learning rate three to ten times
    smaller, and a weight decay as many times larger. Memory: one float32 per parameter.

    State: ``m``, shaped as the parameter, float32, from 0.

    Deviations: none. The paper's λ is ``weight_decay``, 0 here unless given; optax has 1e-3.

    Reference: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, Algorithm 2. arXiv:2302.06675.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Lion(weight_decay=1.0), lr=0.1)
        >>> params = {"w": jnp.array([1.0, -2.0])}
        >>> apply({"w": jnp.array([1e-9, -5.0])}, init(params), params)[1]["w"]
        Array([ 0.8, -1.7], dtype=float32)
    """

    reference = "Chen et al. 2023, Algorithm 2. arXiv:2302.06675"
    beta1: float = hyper(0.9, "[0, 1)", "weight of the memory in the step")
    beta2: float = hyper(0.99, "[0, 1)", "decay of the memory")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decoupled decay, times the learning rate")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``m``, zero."""
        return {"m": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and ``m``."""
        direction = jnp.sign(self.beta1 * slot["m"] + (1 - self.beta1) * g)
        m = self.beta2 * slot["m"] + (1 - self.beta2) * g
        return -lr * (direction + self.weight_decay * p), {"m": m}


class RProp(LeafRule):
    """A step size for each coordinate, which grows while the gradient keeps its sign and shrinks when it turns.

    ::

        g' g > 0:   Δ ← min(eta_plus Δ, max_step);    d = sign(g) Δ;    g' ← g
        g' g < 0:   Δ ← max(eta_minus Δ, min_step)
                    "rprop+"    d takes the last step back;    g' ← 0
                    "rprop-"    d = sign(g) Δ;    g' ← g
                    "irprop-"   d = 0;            g' ← 0
        else:       d = sign(g) Δ;    g' ← g
        p ← p − lr · d

    For full batches: with noise, signs turn for no reason. Use it with ``lr = 1``, the paper's. Memory: two float32 per
    parameter.

    State: ``step``, Δ, from ``initial_step``, and ``sign``, that of g', from 0; shaped as the parameter, float32.

    Deviations: ``lr`` is not in the paper. Where PyTorch and optax have a learning rate, here is ``initial_step``;
    they do as ``variant="irprop-"``, but that optax's steps come one call late, and that of a turn is lost.

    Reference: Riedmiller & Braun 1993, A direct adaptive method for faster backpropagation learning: the RPROP
    algorithm, equations (4)-(7); Igel & Hüsken 2000, Improving the Rprop learning algorithm, for the variants.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.RProp(), lr=1.0)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (7.0, 0.3): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"]  # 0.1, and 1.2 times 0.1
        Array([-0.22], dtype=float32)
    """

    reference = "Riedmiller & Braun 1993, equations (4)-(7); Igel & Hüsken 2000"
    initial_step: float = hyper(0.1, "(0, inf)", "step size of each coordinate at first")
    eta_minus: float = hyper(0.5, "(0, 1)", "what the step size is multiplied by when the gradient turns")
    eta_plus: float = hyper(1.2, "(1, inf)", "what it is multiplied by while the gradient keeps its sign")
    min_step: float = hyper(1e-6, "[0, inf)", "smallest step size")
    max_step: float = hyper(50.0, "(0, inf)", "largest step size")
    variant: str = hyper("rprop+", ("rprop+", "rprop-", "irprop-"), "what is done when the gradient turns")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``step``, filled with its initial value, and ``sign``, zero."""
        return {"step": jnp.full_like(p, self.initial_step), "sign": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, ``step`` and ``sign``."""
        sign, before, last = jnp.sign(g), slot["sign"], slot["step"]
        kept, turned = before * sign > 0, before * sign < 0
        shorter = jnp.where(turned, jnp.maximum(last * self.eta_minus, self.min_step), last)
        step = jnp.where(kept, jnp.minimum(last * self.eta_plus, self.max_step), shorter)
        direction = sign * step
        if self.variant != "rprop-":
            back = -before * last if self.variant == "rprop+" else 0.0
            direction, sign = jnp.where(turned, back, direction), jnp.where(turned, 0.0, sign)
        return -lr * direction, {"step": step, "sign": sign}
