"""Rules that federated pipelines need beside those of :mod:`optimkit.rules`.

Those that remember something of a *round*, what a client does between two messages of the server, have a method
``start_round(state) -> state``; :func:`start_round` tells all of them inside a composition.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.adam_moments import Yogi
from optimkit.rules.adam_variants import debiased
from optimkit.rules.base import LeafRule, Rule, Slot, Tree
from optimkit.rules.clipping import shrunk
from optimkit.rules.compose import Chain


def start_round(rule: Rule, state: Tree) -> Tree:
    """Return the state of a rule, or of a chain, at the start of a round.

    Example:
        >>> from optimkit import rules
        >>> rule, params = Chain(Proximal(0.1), rules.Momentum()), {"w": jnp.ones(2)}
        >>> state = rule.init(params)
        >>> state = start_round(rule, state)
    """
    if isinstance(rule, Chain):
        parts = zip(rule._labels(), rule.rules, strict=True)
        return {label: start_round(part, state[label]) for label, part in parts}
    known = getattr(rule, "start_round", None)
    return state if known is None else known(state)


class Proximal(LeafRule):
    """Pulls parameters back to where a round began: the proximal term of FedProx.

    ::

        direction = g + rate · (p − p₀),  p₀ the parameters at the first step of the round

    It is the gradient of the loss plus rate/2 ‖p − p₀‖², which keeps clients with data of their own kinds from drifting
    apart. ``pure(Proximal(rate), lr)`` is the client of FedProx; ``Chain(Proximal(rate), Adam())`` one that uses Adam.
    The first step of a round is one without it. Memory: one float32 per parameter.

    State: ``anchor``, p₀, shaped as the parameter, float32 (float64) whatever ``slot_dtype`` is, 0 before the first
    step; ``t``, int32, the number of steps in this round. ``start_round(state)`` begins a round, and so does ``init``.

    Deviations: none; the paper's μ is ``rate``.

    Reference: Li, Sahu, Zaheer, Sanjabi, Talwalkar & Smith 2020, Federated Optimization in Heterogeneous Networks,
    Algorithm 2. arXiv:1812.06127.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(Proximal(0.5), lr=0.5)
        >>> params = {"w": jnp.array([1.0])}; state = init(params)
        >>> for _ in range(2): state, params = apply({"w": jnp.ones(1)}, state, params)
        >>> params["w"]  # 1 - 0.5, and 0.5 - 0.5 (1 + 0.5 (0.5 - 1))
        Array([0.125], dtype=float32)
    """

    reference = "Li et al. 2020, Algorithm 2. arXiv:1812.06127"
    rate: float = hyper(0.01, "[0, inf)", "strength of the pull")

    def _init_slot(self, p: jax.Array) -> Slot:
        return {"anchor": jnp.zeros_like(p, numerics.compute_dtype(p.dtype))}

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``anchor``, zero until there is a step."""
        return {"anchor": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr * (g + rate * (p - anchor))``, and the anchor."""
        anchor = jnp.where(t == 1, p, slot["anchor"])
        return -lr * (g + self.rate * (p - anchor)), {"anchor": anchor}

    def start_round(self, state: Tree) -> Tree:
        """Return the state at the start of a round: the next step's parameters will be the anchor."""
        return {**state, "t": jnp.zeros_like(state["t"])}


class L1Penalty(LeafRule):
    """Adds the gradient of an L1 penalty, which pulls each parameter toward 0 at a constant rate.

    ::

        direction = g + rate · sign(p)

    First in a chain, for parameters of which many are to be small. By gradients none becomes exactly 0: that takes a
    soft threshold. Memory: none.

    At p = 0 the penalty adds nothing; infinities and NaN come through.

    State: none.

    Deviations: the lasso is a problem, solved exactly there; this is a subgradient step on it.

    Reference: Tibshirani 1996, Regression Shrinkage and Selection via the Lasso.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(L1Penalty(0.5), lr=1.0)
        >>> params = {"w": jnp.array([2.0, 0.0, -2.0])}
        >>> apply({"w": jnp.zeros(3)}, init(params), params)[1]["w"]
        Array([ 1.5,  0. , -1.5], dtype=float32)
    """

    reference = "Tibshirani 1996, Regression Shrinkage and Selection via the Lasso."
    rate: float = hyper(0.01, "[0, inf)", "strength of the penalty")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr * (g + rate * sign(p))``."""
        return -lr * (g + self.rate * jnp.sign(p)), slot


class ClipByNorm(LeafRule):
    """Scales the gradient of each parameter so that its own norm is at most ``max_norm``.

    ::

        direction = g · min(1, max_norm / ‖g‖),  ‖g‖ over a parameter

    Where layers have gradients of different size it changes their ratio, unlike ``ClipByGlobalNorm``, which takes the
    norm over all of them and keeps the direction. Memory: none.

    Zeros stay zeros. A parameter with an infinity in its gradient gets zeros, the limit of the formula; NaN comes
    through, and the rest of that parameter with it, unscaled.

    State: none.

    Deviations: none.

    Reference: Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks, Algorithm 1,
    for each parameter. arXiv:1211.5063.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(ClipByNorm(1.0), lr=1.0)
        >>> params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
        >>> moved = apply({"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5])}, init(params), params)[1]
        >>> [round(float(x), 4) for x in (*moved["a"], *moved["b"])]
        [-0.6, -0.8, -0.5]
    """

    reference = "Pascanu, Mikolov & Bengio 2013, Algorithm 1. arXiv:1211.5063"
    max_norm: float = hyper(1.0, "(0, inf)", "largest norm that passes unchanged")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the scaled gradient."""
        return -lr * shrunk(g, numerics.norm(g), self.max_norm), slot


class YogiMean(LeafRule):
    """Follows what comes in by steps of a size that depends on it alone, as Yogi follows squared gradients.

    ::

        s ← s − (1 − beta) sign(s − g) g
        direction = s

    It is the second moment of :class:`Yogi` for any input, here the gradient itself. Meant for inputs >= 0: where g is
    negative, s moves away from it. Memory: one float32 per parameter.

    State: ``s``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: the paper uses it on squares alone.

    Reference: Zaheer, Reddi, Sachan, Kale & Kumar 2018, Adaptive Methods for Nonconvex Optimization, Algorithm 2.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(YogiMean(0.75), lr=1.0)
        >>> params = {"w": jnp.zeros(1)}
        >>> apply({"w": jnp.full(1, 4.0)}, init(params), params)[1]["w"]
        Array([-1.], dtype=float32)
    """

    reference = "Zaheer et al. 2018, Algorithm 2."
    beta: float = hyper(0.9, "[0, 1)", "one minus the rate at which it changes")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``s``, zero."""
        return {"s": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the mean, and the mean."""
        s = slot["s"] - (1 - self.beta) * jnp.sign(slot["s"] - g) * g
        return -lr * s, {"s": s}


class AMSYogi(Yogi):
    """Yogi whose divisor never falls: the largest second moment so far divides, as in AMSGrad.

    ::

        μ, ν and, with debias, μ̂ and ν̂ as in Yogi
        ν_max ← max(ν_max, ν̂),  p ← p − lr · μ̂ / (√(ν_max + eps_root) + eps)

    Use it where :class:`Yogi` grows its steps too fast after gradients have become small. Memory: three float32 per
    parameter.

    State: ``mu``, ``nu``, ``nu_max``, shaped as the parameter, float32; ``t``, int32.

    Deviations: neither paper has the two together. The maximum is of corrected moments, where they are corrected.

    Reference: Zaheer et al. 2018, Adaptive Methods for Nonconvex Optimization, Algorithm 2; Reddi, Kale & Kumar 2018,
    On the Convergence of Adam and Beyond, Algorithm 2. arXiv:1904.09237.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(AMSYogi(beta1=0.0, beta2=0.75, eps=0.0, initial_nu=0.0, debias=True), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}; state, params = apply({"w": jnp.full(1, 10.0)}, init(params), params)
        >>> apply({"w": jnp.ones(1)}, state, params)[1]["w"].round(4)  # a step of a tenth: 10 is not forgotten
        Array([-0.11], dtype=float32)
    """

    reference = "Zaheer et al. 2018, Algorithm 2; Reddi, Kale & Kumar 2018, Algorithm 2. arXiv:1904.09237"

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu``, ``nu`` and ``nu_max``, at their initial values."""
        return {**super().init_leaf(p), "nu_max": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, the moments and the maximum."""
        moments = {name: slot[name] for name in ("mu", "nu")}
        new = super().update_leaf(g, moments, p, lr=lr, t=t)[1]
        mu, nu = [debiased(new[name], beta, t) if self.debias else new[name]
                  for name, beta in (("mu", self.beta1), ("nu", self.beta2))]  # fmt: skip
        nu_max = jnp.maximum(slot["nu_max"], nu)
        return -lr * self.quotient(mu, nu_max), {**new, "nu_max": nu_max}
