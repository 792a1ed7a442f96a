"""Relatives of Adam whose steps are divided by the second moment of before the gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import one_minus_pow, safe_divide
from optimkit.rules.adam_variants import ema
from optimkit.rules.base import LeafRule, Slot


class ACProp(LeafRule):
    """Divides gradients by how much earlier ones deviated from their mean: where they were steady, steps are long.

    ::

        ŝ = s / (1 − β₂ᵗ⁻¹)
        p ← p − lr · g / (√ŝ + eps)          none where s is 0
        μ ← β₁ μ + (1 − β₁) g
        s ← β₂ s + (1 − β₂) (g − μ)²

    A gradient does not take part in its own divisor, so that the method converges where Adam need not. For GANs and
    reinforcement learning, after its authors. A gradient that is large after steady ones makes a huge step: clip.
    Memory: two float32 per parameter.

    State: ``mu``, ``s``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: the paper does not say what divides the first gradient, for s is 0. Here a coordinate stands still while
    it is. The authors' code, and optax with it, moves by lr · g at the first step, which is of no scale, and that code
    by up to lr · g / 1e-8 where s is 0 later. s is corrected for its start at 0, as in both. The code adds ``eps`` to s
    at each step, too, and has RAdam's rectification as an option, which is left out. optax 0.2.8 has μ of before the
    gradient in the last line, which makes s larger by 1/β₁², and steps shorter by β₁.

    Reference: Zhuang, Ding, Tang, Dvornek, Tatikonda & Duncan 2021, Momentum Centering and Asynchronous Update for
    Adaptive Gradient Methods, ACProp. arXiv:2110.05454.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(ACProp(beta1=0.5, eps=0.0), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (2.0, 3.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> f"{params['w'][0]:.4f}"  # 2 deviates from its mean by 1
        '-0.3000'
    """

    reference = "Zhuang et al. 2021, ACProp. arXiv:2110.05454"
    beta1: float = hyper(0.9, "(0, 1)", "decay of the mean that gradients are compared with")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared deviations")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root, outside it")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu`` and ``s``, zero."""
        return {"mu": jnp.zeros_like(p), "s": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        s_hat = safe_divide(slot["s"], one_minus_pow(self.beta2, t - 1))
        direction = jnp.where(s_hat > 0, safe_divide(g, jnp.sqrt(s_hat) + self.eps), 0.0)
        mu = ema(self.beta1, slot["mu"], g)
        # g − μ, without the difference of numbers that nearly agree.
        deviation = self.beta1 * (g - slot["mu"])
        return -lr * direction, {"mu": mu, "s": ema(self.beta2, slot["s"], deviation**2)}


class ADOPT(LeafRule):
    """Adam that converges for any beta2: gradients are divided by the root of earlier squares, then averaged.

    ::

        ĝ = g / max(√ν, eps),  clipped to ±c,  c = (t − 1)^(1/4)
        μ ← β₁ μ + (1 − β₁) ĝ
        p ← p − lr · μ
        ν ← β₂ ν + (1 − β₂) g²               the first step is only ν = g²

    In place of Adam where it is unstable, or where ``beta2`` would need tuning. For weight decay,
    ``Chain(ADOPT(), WeightDecay(r))``. Memory: two float32 per parameter.

    State: ``mu``, ``nu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: none. ``clipping=False`` is the paper's Algorithm 1; a coordinate whose first gradients are 0 then leaps
    by 1/eps. In pytorch_optimizer the bound c is one step ahead.

    Reference: Taniguchi et al. 2024, ADOPT: Modified Adam Can Converge with Any β₂ with the Optimal Rate, Algorithm 2.
    arXiv:2411.02853.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(ADOPT(beta1=0.0), lr=0.1)
        >>> params = {"w": jnp.zeros(2)}; state = init(params)
        >>> for g in (4.0, 2.0): state, params = apply({"w": jnp.array([g, -10 * g])}, state, params)
        >>> params["w"]
        Array([-0.05,  0.05], dtype=float32)
    """

    reference = "Taniguchi et al. 2024, Algorithm 2. arXiv:2411.02853"
    beta1: float = hyper(0.9, "[0, 1)", "decay of the mean of normalised gradients")
    beta2: float = hyper(0.9999, "[0, 1)", "decay of the mean of squared gradients")
    eps: float = hyper(1e-6, "[0, inf)", "what a gradient is divided by at least")
    clipping: bool = hyper(True, bool, "whether normalised gradients are clipped")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu`` and ``nu``, zero."""
        return {"mu": jnp.zeros_like(p), "nu": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        first = t == 1
        normal = safe_divide(g, jnp.maximum(jnp.sqrt(slot["nu"]), self.eps))
        if self.clipping:
            bound = jnp.sqrt(jnp.sqrt(jnp.maximum(t - 1, 0.0)))
            normal = jnp.clip(normal, -bound, bound)
        mu = jnp.where(first, slot["mu"], ema(self.beta1, slot["mu"], normal))
        nu = jnp.where(first, g**2, ema(self.beta2, slot["nu"], g**2))
        return -lr * mu, {"mu": mu, "nu": nu}
