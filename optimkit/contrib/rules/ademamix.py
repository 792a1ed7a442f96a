"""Adam with a second, slower mean of gradients, and what that can be simplified to."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.hyper import hyper
from optimkit.numerics import safe_divide
from optimkit.rules.adam_variants import debiased, ema
from optimkit.rules.base import LeafRule, Slot


class AdEMAMix(LeafRule):
    """Adam whose mean of gradients is a mixture of a fast and of a slow one: old gradients still tell where to go.

    ::

        μ ← β₁ μ + (1 − β₁) g,  m₂ ← β₃ m₂ + (1 − β₃) g
        ν ← β₂ ν + (1 − β₂) g²
        p ← p − lr · ((μ / (1 − β₁ᵗ) + α m₂) / (√(ν / (1 − β₂ᵗ)) + eps) + weight_decay · p)
        with warmup = T:  α from 0 to alpha, linearly, and 1 / log β₃ from that of β₁ to that of beta3, until t = T

    For long runs of transformers, of 1/(1 − beta3) steps and more, at Adam's learning rate. Set ``warmup`` to the
    number of steps, as the paper does: without it early training is unstable. Memory: three float32 per parameter.

    State: ``mu``, ``m2``, ``nu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: none. The authors' code has half-lives where the paper has logarithms, which comes to the same, and 2 as
    the default of ``alpha``; 5 is that of optax.

    Reference: Pagliardini, Ablin & Grangier 2024, The AdEMAMix Optimizer: Better, Faster, Older, Algorithm 1.
    arXiv:2409.03137.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(AdEMAMix(beta3=0.75, alpha=4.0), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}
        >>> f"{apply({'w': jnp.full(1, 8.0)}, init(params), params)[1]['w'][0]:.4f}"  # (8 + 4 · 2) / 8
        '-0.2000'
    """

    reference = "Pagliardini, Ablin & Grangier 2024, Algorithm 1. arXiv:2409.03137"
    beta1: float = hyper(0.9, "[0, 1)", "decay of the fast mean of gradients")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared gradients")
    beta3: float = hyper(0.9999, "[0, 1)", "decay of the slow mean of gradients")
    alpha: float = hyper(5.0, "[0, inf)", "weight of the slow mean")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root, outside it")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, times the learning rate")
    warmup: int | None = hyper(None, "int [1, inf)", "number of steps in which alpha and beta3 rise; None is 0")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu``, ``m2`` and ``nu``, zero."""
        return {name: jnp.zeros_like(p) for name in ("mu", "m2", "nu")}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        part = 1.0 if self.warmup is None else jnp.minimum(t / self.warmup, 1.0)
        slow, rest = (self.beta3, 1 - self.beta3) if self.warmup is None else risen(self.beta1, self.beta3, part)
        mu, m2 = ema(self.beta1, slot["mu"], g), slow * slot["m2"] + rest * g
        nu = ema(self.beta2, slot["nu"], g**2)
        mixture = debiased(mu, self.beta1, t) + part * self.alpha * m2
        direction = safe_divide(mixture, jnp.sqrt(debiased(nu, self.beta2, t)) + self.eps)
        return -lr * (direction + self.weight_decay * p), {"mu": mu, "m2": m2, "nu": nu}


class SimplifiedAdEMAMix(LeafRule):
    """Adam with one slow sum of gradients, to which the newest is added once more: :class:`AdEMAMix` with one mean.

    ::

        m ← β₁ m + g,  ν ← β₂ ν + (1 − β₂) g²
        p ← p − lr · ((m + alpha · g) / (√(ν / (1 − β₂ᵗ)) + eps) + weight_decay · p)
        with warmup = T:  1 / log β₁ from that of min_beta1 to that of beta1, linearly, until t = T

    As AdEMAMix, at less memory. m is a sum, not a mean: the authors multiply Adam's learning rate by
    √((1 − min_beta1) (1 − beta1)). ``alpha`` is for small batches, where it may be 100; it falls with the size of the
    batch, to 0. Memory: two float32 per parameter.

    State: ``m``, ``nu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: none. ``bias_correction1`` of the authors' code, off there, is left out.

    Reference: Morwani, Vyas, Zhang & Kakade 2025, Connections between Schedule-Free Optimizers, AdEMAMix, and
    Accelerated SGD Variants, Simplified-AdEMAMix. arXiv:2502.02431.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(SimplifiedAdEMAMix(alpha=2.0), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}
        >>> f"{apply({'w': jnp.full(1, 8.0)}, init(params), params)[1]['w'][0]:.4f}"  # (8 + 2 · 8) / 8
        '-0.3000'
    """

    reference = "Morwani, Vyas, Zhang & Kakade 2025, Simplified-AdEMAMix. arXiv:2502.02431"
    beta1: float = hyper(0.99, "[0, 1)", "decay of the sum of gradients")
    beta2: float = hyper(0.95, "[0, 1)", "decay of the mean of squared gradients")
    alpha: float = hyper(0.0, "[0, inf)", "further weight of the newest gradient")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root, outside it")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, times the learning rate")
    warmup: int | None = hyper(None, "int [1, inf)", "number of steps in which beta1 rises; None is 0")
    min_beta1: float = hyper(0.9, "[0, 1)", "what beta1 rises from")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``m`` and ``nu``, zero."""
        return {"m": jnp.zeros_like(p), "nu": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        beta1 = self.beta1
        if self.warmup is not None:
            beta1, _ = risen(self.min_beta1, self.beta1, jnp.minimum(t / self.warmup, 1.0))
        m, nu = beta1 * slot["m"] + g, ema(self.beta2, slot["nu"], g**2)
        direction = safe_divide(m + self.alpha * g, jnp.sqrt(debiased(nu, self.beta2, t)) + self.eps)
        return -lr * (direction + self.weight_decay * p), {"m": m, "nu": nu}


def risen(start: Any, end: Any, part: Any) -> tuple[Any, Any]:
    """Return a decay whose half-life is a part of the way from that of ``start`` to that of ``end``, and 1 less it.

    Example:
        >>> [f"{x:.4f}" for x in risen(0.5, 0.5**0.25, 1 / 3)]  # half-lives of 1 and 4; of 2
        ['0.7071', '0.2929']
    """
    life = (1 - part) * _life(start) + part * _life(end)
    rest = -jnp.expm1(-safe_divide(1.0, life, jnp.inf))
    return 1 - rest, rest


def _life(beta: Any) -> Any:
    """Return ``-1 / log beta``, the number of steps after which a decay has become 1/e; 0 at 0."""
    if isinstance(beta, jax.Array | np.ndarray):
        return jnp.where(beta > 0, -1 / jnp.log(jnp.where(beta > 0, beta, 0.5)), 0.0)
    return -1 / math.log(beta) if beta > 0 else 0.0
