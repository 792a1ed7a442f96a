"""Adam and its relatives: steps normalised by running moments of the gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import one_minus_pow, safe_divide
from optimkit.rules.base import LeafRule, Rule, Slot
from optimkit.rules.compose import Chain, Composed
from optimkit.rules.stages import WeightDecay


class Adam(LeafRule):
    """Steps of about the learning rate in every coordinate, whatever the gradient's scale.

    ::

        μ ← β₁ μ + (1 − β₁) g            mean of gradients
        ν ← β₂ ν + (1 − β₂) g²           mean of squared gradients
        μ̂ = μ / (1 − β₁ᵗ),  ν̂ = ν / (1 − β₂ᵗ)
        p ← p − lr · μ̂ / (√(ν̂ + eps_root) + eps)

    The usual first choice. For weight decay take :class:`AdamW`: an L2 penalty in the loss is normalised away.
    Memory: two float32 per parameter.

    State: ``mu``, ``nu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: ``eps_root`` (0 by default) is not in the paper; it makes the step differentiable where ν̂ = 0. objax
    puts ``eps`` inside the root of the uncorrected ν: its steps differ from these, most where gradients are small.

    Reference: Kingma & Ba 2015, Adam: A Method for Stochastic Optimization, Algorithm 1. arXiv:1412.6980.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Adam(), lr=0.1)
        >>> params = {"w": jnp.zeros(2)}
        >>> state, params = apply({"w": jnp.array([1.0, -100.0])}, init(params), params)
        >>> [round(float(x), 4) for x in params["w"]]
        [-0.1, 0.1]
    """

    reference = "Kingma & Ba 2015, Algorithm 1. arXiv:1412.6980"
    beta1: float = hyper(0.9, "[0, 1)", "decay of the mean of gradients")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared gradients")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root, outside it")
    eps_root: float = hyper(0.0, "[0, inf)", "added inside the root")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu`` and ``nu``, zero."""
        return {"mu": jnp.zeros_like(p), "nu": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        mu = self.beta1 * slot["mu"] + (1 - self.beta1) * g
        nu = self.beta2 * slot["nu"] + (1 - self.beta2) * g**2
        mu_hat = mu / one_minus_pow(self.beta1, t)
        nu_hat = nu / one_minus_pow(self.beta2, t)
        return -lr * self.quotient(mu_hat, nu_hat), {"mu": mu, "nu": nu}

    def quotient(self, mu_hat: jax.Array, nu_hat: jax.Array) -> jax.Array:
        """Return ``mu_hat / (√(nu_hat + eps_root) + eps)``; relatives of Adam put other moments in."""
        # With eps = 0 a gradient that was always 0, or whose square underflows, would give 0/0 or x/0.
        return safe_divide(mu_hat, jnp.sqrt(nu_hat + self.eps_root) + self.eps)


class AdamW(Composed, Adam):
    """Adam with decoupled weight decay: weights shrink by ``lr · weight_decay``, whatever their gradients.

    It is ``Chain(Adam(...), WeightDecay(weight_decay))``::

        p ← p − lr · (adam direction + weight_decay · p)

    The usual choice for transformers, and wherever regularisation matters. Leave biases and norms out of the decay by
    ``optimizer.AdamW(vc, groups=optimizer.no_decay())``. Memory: two float32 per parameter.

    State: that of :class:`Adam`.

    Deviations: the decay is multiplied by the learning rate (as in PyTorch and optax), where the paper has a schedule
    multiplier η in front of both lr and decay.

    Reference: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, Algorithm 2. arXiv:1711.05101.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.AdamW(weight_decay=0.5), lr=0.1)
        >>> params = {"w": jnp.ones(1)}
        >>> state, params = apply({"w": jnp.zeros(1)}, init(params), params)
        >>> params["w"]
        Array([0.95], dtype=float32)
    """

    reference = "Loshchilov & Hutter 2019, Algorithm 2. arXiv:1711.05101"
    weight_decay: float = hyper(0.01, "[0, inf)", "rate of decay, times the learning rate")

    def compose(self) -> Rule:
        """Return ``Chain(Adam(...), WeightDecay(...))``."""
        return Chain(self.part(Adam), WeightDecay(self.weight_decay))
