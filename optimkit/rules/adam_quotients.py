"""Variants of Adam that change its quotient of moments: taken before the mean, by an angle, or clipped."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import norm, safe_divide
from optimkit.rules.adam import Adam
from optimkit.rules.adam_variants import debiased, ema
from optimkit.rules.base import LeafRule, Slot


class LaProp(Adam):
    """Adam in the other order: gradients are normalised first, and momentum is the mean of what results.

    ::

        ν ← β₂ ν + (1 − β₂) g²,  ν̂ = ν / (1 − β₂ᵗ)
        μ ← β₁ μ + (1 − β₁) g / (√(ν̂ + eps_root) + eps)
        p ← p − lr · μ / (1 − β₁ᵗ)

    Use it where Adam is unstable because ``beta2`` is not much larger than ``beta1``: here both can be chosen freely,
    and ``beta2=0`` is momentum on signs of gradients. A rare large gradient is normalised by itself and does not
    linger. Memory: two float32 per parameter.

    State: ``mu``, mean of normalised gradients, ``nu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: ``eps_root`` is not in the paper. The authors' code has the learning rate inside μ, which differs only
    while it changes.

    Reference: Ziyin, Wang & Ueda 2020, LaProp: Separating Momentum and Adaptivity in Adam, Algorithm 1.
    arXiv:2002.04839.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.LaProp(beta1=0.5, beta2=0.0), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}; state, params = apply({"w": jnp.full(1, 100.0)}, init(params), params)
        >>> apply({"w": jnp.full(1, -1.0)}, state, params)[1]["w"].round(4)  # - 0.1, then + 0.1 (1 - 0.5) / (1 + 0.5)
        Array([-0.0667], dtype=float32)
    """

    reference = "Ziyin, Wang & Ueda 2020, Algorithm 1. arXiv:2002.04839"
    eps: float = hyper(1e-15, "[0, inf)", "added to the root, outside it")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        nu = ema(self.beta2, slot["nu"], g**2)
        mu = ema(self.beta1, slot["mu"], self.quotient(g, debiased(nu, self.beta2, t)))
        return -lr * debiased(mu, self.beta1, t), {"mu": mu, "nu": nu}


class AdamAtan2(LeafRule):
    """Adam without ``eps``: the angle of its two moments replaces their quotient, and is bounded and scale-free.

    ::

        μ̂, ν̂ as in Adam
        p ← p − lr · a · atan2(μ̂, b √ν̂)

    Use it where ``eps`` has to be tuned, or where gradients get so small that it takes over: scaling all gradients
    changes nothing. With a = 4/π, b = 1 a constant gradient moves a parameter by lr, as in Adam, and nothing moves it
    by more than 2 lr. For weight decay chain :class:`WeightDecay` behind it. Memory: two float32 per parameter.

    State: ``mu``, ``nu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: none but one of float32: squares of gradients below 1e-19 underflow, and the step is of its full size.

    Reference: Everett et al. 2024, Scaling Exponents Across Parameterizations and Optimizers. arXiv:2407.05872. The
    constants are those of its implementation lucidrains/adam-atan2-pytorch, which rounds a to 1.27.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.AdamAtan2(), lr=0.1)
        >>> params = {"w": jnp.zeros(2)}
        >>> state, params = apply({"w": jnp.array([1e-15, -1e15])}, init(params), params)
        >>> [f"{x:.4f}" for x in params["w"]]
        ['-0.1000', '0.1000']
    """

    reference = "Everett et al. 2024. arXiv:2407.05872"
    beta1: float = hyper(0.9, "[0, 1)", "decay of the mean of gradients")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared gradients")
    a: float = hyper(4 / math.pi, "(0, inf)", "scale of the step")
    b: float = hyper(1.0, "(0, inf)", "scale of the root: large values make the angle a quotient")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu`` and ``nu``, zero."""
        return {"mu": jnp.zeros_like(p), "nu": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        mu = ema(self.beta1, slot["mu"], g)
        nu = ema(self.beta2, slot["nu"], g**2)
        root = jnp.sqrt(debiased(nu, self.beta2, t))
        return -lr * (self.a * jnp.arctan2(debiased(mu, self.beta1, t), self.b * root)), {"mu": mu, "nu": nu}


class StableAdamW(Adam):
    """AdamW that takes a smaller step in a tensor whose gradient has outgrown its second moment.

    ::

        μ̂, ν̂ as in Adam
        RMS = √mean(g² / max(ν̂, eps²))               over the elements of a parameter
        d = (μ̂ / (√(ν̂ + eps_root) + eps) + weight_decay · p) / max(1, RMS / threshold)
        p ← p − lr · d

    Use it in place of AdamW and gradient clipping for transformers, above all in low precision, where spikes of the
    loss come from second moments that lag behind. Memory: two float32 per parameter.

    State: ``mu``, ``nu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: the paper keeps the debiased moments themselves, by decays β̂ = β (1 − βᵗ⁻¹) / (1 − βᵗ); these are
    Adam's μ̂ and ν̂, for μ and ν are remembered. ``threshold`` is 1 in the paper and a parameter in the authors' code.
    Their code does not clip the decay: that is ``Chain(StableAdamW(weight_decay=0.0), WeightDecay(...))``. ``eps_root``
    is not in the paper, whose models are trained with a decay of 0.2.

    Reference: Wortsman et al. 2023, Stable and low-precision training for large-scale vision-language models,
    Algorithm 2. arXiv:2304.13013.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.StableAdamW(beta1=0.5, beta2=0.75, eps=1.0, weight_decay=0.0), lr=0.3)
        >>> params = {"w": jnp.ones(1)}; state, params = apply({"w": jnp.full(1, 2.0)}, init(params), params)
        >>> apply({"w": jnp.full(1, 5.0)}, state, params)[1]["w"].round(4)  # 1 - 0.3 * 2/3, then - 0.3 / 1.25 * 4/5
        Array([0.608], dtype=float32)
    """

    reference = "Wortsman et al. 2023, Algorithm 2. arXiv:2304.13013"
    beta2: float = hyper(0.99, "[0, 1)", "decay of the mean of squared gradients")
    eps: float = hyper(1e-6, "[0, inf)", "added to the root, outside it, and its least value in RMS")
    threshold: float = hyper(1.0, "(0, inf)", "largest RMS of normalised gradients that is not clipped")
    weight_decay: float = hyper(0.01, "[0, inf)", "rate of decay, times the learning rate")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        mu = ema(self.beta1, slot["mu"], g)
        nu = ema(self.beta2, slot["nu"], g**2)
        nu_hat = debiased(nu, self.beta2, t)
        rms = norm(safe_divide(g, jnp.maximum(jnp.sqrt(nu_hat), self.eps))) / math.sqrt(max(1, g.size))
        direction = self.quotient(debiased(mu, self.beta1, t), nu_hat) + self.weight_decay * p
        clip = safe_divide(self.threshold, jnp.maximum(rms, self.threshold), 1.0)  # 1 up to the threshold
        return -lr * (clip * direction), {"mu": mu, "nu": nu}
