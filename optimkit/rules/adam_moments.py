"""Relatives of Adam with moments of their own: of surprise, additive, of differences, of a whole tensor."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import norm, safe_divide
from optimkit.rules.adam import Adam
from optimkit.rules.adam_variants import debiased, ema
from optimkit.rules.base import LeafRule, Slot


class AdaBelief(Adam):
    """Adam whose second moment measures surprise: the gradient's distance from its mean, not from 0.

    ::

        μ ← β₁ μ + (1 − β₁) g,  μ̂ = μ / (1 − β₁ᵗ)
        ν ← β₂ ν + (1 − β₂) (g − μ)² + eps_root,  ν̂ = ν / (1 − β₂ᵗ),  p ← p − lr · μ̂ / (√ν̂ + eps)

    or, with ``eps_in_mean=False``::

        ν ← β₂ ν + (1 − β₂) (g − μ)²,  ν̂ = ν / (1 − β₂ᵗ),  p ← p − lr · μ̂ / (√(ν̂ + eps_root) + eps)

    Use it where Adam is; steps are long where gradients agree. It is sensitive to ``eps_root``: the authors take 1e-16
    where Adam does well (transformers, GANs) and 1e-8 where SGD does (convolutional networks). Memory: two float32 per
    parameter.

    State: ``mu``, ``nu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: the paper's one ε is ``eps`` and ``eps_root`` here. In its Algorithm 2, in the authors' code and in
    optax ε enters the mean at each step, so that up to ε / (1 − β₂) gathers there, and is not added again; the paper's
    first version has none there, and its appendix adds it when read (``eps_in_mean=False``).

    Reference: Zhuang et al. 2020, AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients,
    Algorithm 2. arXiv:2010.07468v5.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.AdaBelief(beta1=0.5, beta2=0.75, eps=1.0, eps_root=0.75), lr=0.3)
        >>> params = {"w": jnp.array(1.0)}
        >>> f"{apply({'w': jnp.array(2.0)}, init(params), params)[1]['w']:.4f}"  # 1 - 0.3 * 2 / (2 + 1)
        '0.8000'
    """

    reference = "Zhuang et al. 2020, Algorithm 2. arXiv:2010.07468"
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared surprise")
    eps: float = hyper(1e-16, "[0, inf)", "added to the root, outside it")
    eps_root: float = hyper(1e-16, "[0, inf)", "added to the mean of squared surprise")
    eps_in_mean: bool = hyper(True, bool, "whether eps_root is added at each step, or only when the mean is read")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        stored, read = (self.eps_root, 0.0) if self.eps_in_mean else (0.0, self.eps_root)
        surprise = self.beta1 * (g - slot["mu"])  # g - mu, with the new mu, without its rounding
        mu = ema(self.beta1, slot["mu"], g)
        nu = ema(self.beta2, slot["nu"], surprise**2) + stored
        root = jnp.sqrt(debiased(nu, self.beta2, t) + read)
        return -lr * safe_divide(debiased(mu, self.beta1, t), root + self.eps), {"mu": mu, "nu": nu}


class Yogi(Adam):
    """Adam whose second moment changes additively, so that it forgets large gradients slowly.

    ::

        μ ← β₁ μ + (1 − β₁) g
        ν ← ν − (1 − β₂) sign(ν − g²) g²
        p ← p − lr · μ / (√(ν + eps_root) + eps)           debias=False
        p ← p − lr · μ̂ / (√(ν̂ + eps_root) + eps)          debias=True,  μ̂ = μ / (1 − β₁ᵗ),  ν̂ = ν / (1 − β₂ᵗ)

    Use it where gradients are sparse or their size changes, as in federated averaging: where Adam's second moment
    decays by a factor, and its steps grow as fast, this one's falls by no more than (1 − β₂) g². Memory: two float32
    per parameter.

    State: ``mu``, from ``initial_mu``, ``nu``, from ``initial_nu``, shaped as the parameter, float32; ``t``, int32.

    Deviations: the paper's algorithm starts from ν = 0. ``initial_nu`` is that of TensorFlow Addons, which like optax
    also has ``debias=True, initial_mu=1e-6``. ``eps_root`` is not in the paper.

    Reference: Zaheer, Reddi, Sachan, Kale & Kumar 2018, Adaptive Methods for Nonconvex Optimization, Algorithm 2.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Yogi(beta1=0.5, beta2=0.75, eps=1.0, initial_nu=5.0), lr=0.3)
        >>> params = {"w": jnp.ones(1)}
        >>> apply({"w": jnp.full(1, 2.0)}, init(params), params)[1]["w"]  # 1 - 0.3 / (√(5 - 1) + 1)
        Array([0.9], dtype=float32)
    """

    reference = "Zaheer et al. 2018, Adaptive Methods for Nonconvex Optimization, Algorithm 2."
    beta2: float = hyper(0.999, "[0, 1)", "one minus the rate at which the second moment changes")
    eps: float = hyper(1e-3, "[0, inf)", "added to the root, outside it")
    initial_mu: float = hyper(0.0, "(-inf, inf)", "mean of gradients before the first step")
    initial_nu: float = hyper(1e-6, "[0, inf)", "second moment before the first step")
    debias: bool = hyper(False, bool, "whether moments are corrected as if they had started at 0")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu`` and ``nu``, at their initial values."""
        return {"mu": jnp.full_like(p, self.initial_mu), "nu": jnp.full_like(p, self.initial_nu)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        mu = ema(self.beta1, slot["mu"], g)
        nu = slot["nu"] - (1 - self.beta2) * jnp.sign(slot["nu"] - g**2) * g**2
        mu_hat = debiased(mu, self.beta1, t) if self.debias else mu
        nu_hat = debiased(nu, self.beta2, t) if self.debias else nu
        return -lr * self.quotient(mu_hat, nu_hat), {"mu": mu, "nu": nu}


class Adan(LeafRule):
    """Nesterov's momentum for adaptive steps: a mean of the gradient's changes predicts the next gradient.

    ::

        Δ = g − g_before,  0 at the first step
        μ ← β₁ μ + (1 − β₁) g
        δ ← β₂ δ + (1 − β₂) Δ
        ν ← β₃ ν + (1 − β₃) (g + β₂ Δ)²
        μ̂ = μ / (1 − β₁ᵗ),  δ̂ = δ / (1 − β₂ᵗ),  ν̂ = ν / (1 − β₃ᵗ)
        d = (μ̂ + β₂ δ̂) / (√(ν̂ + eps_root) + eps)
        p ← (p − lr · d) / (1 + lr · weight_decay)          decoupled=False
        p ← p − lr · (d + weight_decay · p)                 decoupled=True

    Use it for vision transformers and other models on which AdamW is slow; it takes learning rates 5 to 10 times as
    large. With the proximal decay, which stays bounded at any rate, it can only stand last in a chain. Memory: four
    float32 per parameter.

    State: ``mu``, ``diff``, ``nu``, ``grad`` (the gradient before), shaped as the parameter, float32, from 0; ``t``,
    int32.

    Deviations: each β is 1 − β of the paper, as in the authors' code and optax. Means start at 0 and are corrected as
    in the authors' code; with ``debias=False`` they start as after a restart in the paper, from μ = g, δ = 0, ν = g².
    The restart itself is left out. ``decoupled`` is the authors' ``no_prox``. ``eps_root`` is not in the paper, and
    1e-8 in optax, whose factor of Δ and δ̂ is 1 − β₂ where the paper has what is β₂ here (optax#1715).

    Reference: Xie, Zhou, Li, Lin & Yan 2022, Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep
    Models, Algorithm 1. arXiv:2208.06677.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Adan(weight_decay=1.0), lr=0.25)
        >>> params = {"w": jnp.ones(1)}
        >>> apply({"w": jnp.full(1, 7.0)}, init(params), params)[1]["w"]  # (1 - 0.25) / (1 + 0.25)
        Array([0.6], dtype=float32)
    """

    reference = "Xie et al. 2022, Algorithm 1. arXiv:2208.06677"
    beta1: float = hyper(0.98, "[0, 1)", "decay of the mean of gradients")
    beta2: float = hyper(0.92, "[0, 1)", "decay of the mean of differences of gradients, and their weight")
    beta3: float = hyper(0.99, "[0, 1)", "decay of the mean of squares")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root, outside it")
    eps_root: float = hyper(0.0, "[0, inf)", "added inside the root")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, times the learning rate")
    decoupled: bool = hyper(False, bool, "whether the decay is decoupled, or proximal")
    debias: bool = hyper(True, bool, "whether means start at 0 and are corrected, or start at the first gradient")

    @property
    def chainable(self) -> bool:  # type: ignore[override]
        """Whether the step is linear in the learning rate: not with a proximal decay."""
        return self.decoupled or (isinstance(self.weight_decay, int | float) and self.weight_decay == 0)

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return the three means and the gradient before, zero."""
        return {name: jnp.zeros_like(p) for name in ("mu", "diff", "nu", "grad")}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, the means and the gradient."""
        change = jnp.where(t == 1, 0.0, g - slot["grad"])
        square = (g + self.beta2 * change) ** 2
        mu, diff, nu = (ema(self.beta1, slot["mu"], g), ema(self.beta2, slot["diff"], change),
                        ema(self.beta3, slot["nu"], square))  # fmt: skip
        if self.debias:
            hats = debiased(mu, self.beta1, t), debiased(diff, self.beta2, t), debiased(nu, self.beta3, t)
        else:
            mu, nu = jnp.where(t == 1, g, mu), jnp.where(t == 1, square, nu)
            hats = mu, diff, nu
        ahead, root = hats[0] + self.beta2 * hats[1], jnp.sqrt(hats[2] + self.eps_root)
        direction = safe_divide(ahead, root + self.eps) + self.weight_decay * p
        rate = lr if self.decoupled else lr / (1 + lr * self.weight_decay)
        return -rate * direction, {"mu": mu, "diff": diff, "nu": nu, "grad": g}


class NovoGrad(LeafRule):
    """Momentum on gradients that are normalised tensor by tensor: each has one second moment, a scalar.

    ::

        ν ← β₂ ν + (1 − β₂) ‖g‖²,  ν = ‖g‖² at the first step
        d = g / (√(ν + eps_root) + eps) + weight_decay · p
        μ ← β₁ μ + d                          averaging=False
        μ ← β₁ μ + (1 − β₁) d                 averaging=True
        p ← p − lr · μ

    For speech and large batches, at half of Adam's memory. Each tensor moves by about lr · 1 / (1 − β₁) in norm,
    whatever its size, so learning rates are not Adam's. Memory: one float32 per parameter, and one per tensor.

    State: ``mu``, shaped as the parameter, from 0; ``nu``, a scalar for each parameter; float32; ``t``, int32.

    Deviations: ``eps`` is added at the first step, too. ``averaging`` is the authors' ``grad_averaging``. ``eps_root``
    is not in the paper. optax has ``beta1=0.9, beta2=0.25, eps=1e-6``.

    Reference: Ginsburg et al. 2019, Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep
    Networks, Algorithm 1. arXiv:1905.11286.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.NovoGrad(), lr=0.1)
        >>> params = {"w": jnp.zeros(2)}
        >>> apply({"w": jnp.array([3.0, 4.0])}, init(params), params)[1]["w"].round(4)
        Array([-0.06, -0.08], dtype=float32)
    """

    reference = "Ginsburg et al. 2019, Algorithm 1. arXiv:1905.11286"
    beta1: float = hyper(0.95, "[0, 1)", "decay of the sum of normalised gradients")
    beta2: float = hyper(0.98, "[0, 1)", "decay of the mean of squared norms")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root, outside it")
    eps_root: float = hyper(0.0, "[0, inf)", "added inside the root")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, inside the sum")
    averaging: bool = hyper(False, bool, "whether the sum is a mean")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu``, zero, and ``nu``, a scalar."""
        return {"mu": jnp.zeros_like(p), "nu": jnp.zeros((), p.dtype)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, the sum and the second moment."""
        square = norm(g) ** 2
        nu = jnp.where(t == 1, square, ema(self.beta2, slot["nu"], square))
        term = safe_divide(g, jnp.sqrt(nu + self.eps_root) + self.eps) + self.weight_decay * p
        mu = ema(self.beta1, slot["mu"], term) if self.averaging else self.beta1 * slot["mu"] + term
        return -lr * mu, {"mu": mu, "nu": nu}
