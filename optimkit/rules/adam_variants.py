"""Variants of Adam: another momentum, another maximum, another beginning.

Those that change the quotient are in ``adam_quotients``, those with other moments in ``adam_moments``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import one_minus_pow, safe_divide
from optimkit.rules.adam import Adam
from optimkit.rules.base import LeafRule, Rule, Slot
from optimkit.rules.compose import Chain, Composed
from optimkit.rules.stages import WeightDecay


def ema(decay: Any, mean: jax.Array, x: jax.Array) -> jax.Array:
    """Return ``decay · mean + (1 − decay) · x``, the next value of an exponential moving average."""
    return decay * mean + (1 - decay) * x


def debiased(mean: jax.Array, decay: Any, t: Any) -> jax.Array:
    """Return ``mean / (1 − decayᵗ)``: an average that started at 0, corrected for it."""
    return mean / one_minus_pow(decay, t)


class NAdam(Adam):
    """Adam with Nesterov's momentum: the step looks ahead by one more application of the momentum.

    ::

        βₜ = β₁ (1 − warmup · 0.96^(t · momentum_decay)),  cₜ = 1 − β₁ ⋯ βₜ  (product of the first t)
        μ ← βₜ μ + (1 − βₜ) g
        ν ← β₂ ν + (1 − β₂) g²,  ν̂ = ν / (1 − β₂ᵗ)
        p ← p − lr · (βₜ₊₁ μ / cₜ₊₁ + (1 − βₜ) g / cₜ) / (√(ν̂ + eps_root) + eps)

    Use it where Adam works and its momentum lags; the gain is small and comes at no cost. With ``warmup=0`` the
    momentum is constant, as in optax; Dozat's own rises from half of ``beta1``. For weight decay take :class:`NAdamW`.
    Memory: two float32 per parameter.

    State: ``mu``, ``nu``, shaped as the parameter, float32, from 0; ``weight``, cₜ, a float32 scalar for each
    parameter, from 0; ``t``, int32.

    Deviations: ``eps_root`` is not in the paper. The workshop paper multiplies ν̂ by β₂ without a reason; the technical
    report does not, and no library does. PyTorch has β₁ for βₜ in the second line.

    Reference: Dozat 2016, Incorporating Nesterov Momentum into Adam, technical report, Algorithm 8.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.NAdam(beta1=0.5, beta2=0.75, eps=1.0, warmup=0.0), lr=0.9)
        >>> params = {"w": jnp.array(1.0)}
        >>> f"{apply({'w': jnp.array(2.0)}, init(params), params)[1]['w']:.4f}"  # 1 - 0.9 (2 + 2/3) / (2 + 1)
        '0.2000'
    """

    reference = "Dozat 2016, technical report, Algorithm 8."
    warmup: float = hyper(0.5, "[0, 1]", "how much lower the momentum starts, as a part of beta1")
    momentum_decay: float = hyper(0.004, "[0, inf)", "how fast the momentum rises to beta1")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu``, ``nu`` and ``weight``, zero."""
        return {**super().init_leaf(p), "weight": jnp.zeros((), p.dtype)}

    def momentum(self, t: Any) -> tuple[Any, Any]:
        """Return ``βₜ`` and ``1 − βₜ``, each without cancellation."""
        low = self.beta1 * self.warmup * 0.96 ** (t * self.momentum_decay)
        return self.beta1 - low, (1 - self.beta1) + low

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, the moments and the weight of the mean."""
        (now, rest), (ahead, rest_ahead) = self.momentum(t), self.momentum(t + 1)
        mu = now * slot["mu"] + rest * g
        nu = ema(self.beta2, slot["nu"], g**2)
        weight = now * slot["weight"] + rest
        mu_hat = ahead * mu / (ahead * weight + rest_ahead) + rest * g / weight
        direction = self.quotient(mu_hat, debiased(nu, self.beta2, t))
        return -lr * direction, {"mu": mu, "nu": nu, "weight": weight}


class NAdamW(Composed, NAdam):
    """NAdam with decoupled weight decay: weights shrink by ``lr · weight_decay``, whatever their gradients.

    It is ``Chain(NAdam(...), WeightDecay(weight_decay))``::

        p ← p − lr · (nadam direction + weight_decay · p)

    Use it as :class:`AdamW`. Memory: two float32 per parameter.

    State: that of :class:`NAdam`.

    Deviations: those of :class:`NAdam` and :class:`AdamW`.

    Reference: Dozat 2016, technical report, Algorithm 8; Loshchilov & Hutter 2019, Algorithm 2. arXiv:1711.05101.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.NAdamW(weight_decay=0.5), lr=0.1)
        >>> params = {"w": jnp.ones(1)}
        >>> apply({"w": jnp.zeros(1)}, init(params), params)[1]["w"]
        Array([0.95], dtype=float32)
    """

    reference = "Dozat 2016; Loshchilov & Hutter 2019, Algorithm 2. arXiv:1711.05101"
    weight_decay: float = hyper(0.01, "[0, inf)", "rate of decay, times the learning rate")

    def compose(self) -> Rule:
        """Return ``Chain(NAdam(...), WeightDecay(...))``."""
        return Chain(self.part(NAdam), WeightDecay(self.weight_decay))


class AMSGrad(Adam):
    """Adam whose second moment never falls: the largest so far divides, so that rare large gradients are not forgotten.

    ::

        μ, ν as in Adam;  μ̂ = μ / (1 − β₁ᵗ)
        ν_max ← max(ν_max, ν),  ν̂ = ν_max / (1 − β₂ᵗ)               debias="after"
        ν_max ← max(ν_max, ν / (1 − β₂ᵗ)),  ν̂ = ν_max              debias="before"
        ν_max ← max(ν_max, ν),  ν̂ = ν_max,  μ̂ = μ                   debias="never"
        p ← p − lr · μ̂ / (√(ν̂ + eps_root) + eps)

    Use it where Adam fails to converge or theory asks for a proof; in practice it seldom differs much. One huge
    gradient slows it for ever: clip. Memory: three float32 per parameter.

    State: ``mu``, ``nu``, ``nu_max``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: the paper leaves out debiasing "for simplicity", which is "never"; its maximum is that of raw moments,
    as in "after" (PyTorch) and unlike "before" (optax). ``eps`` and ``eps_root`` are not in the paper.

    Reference: Reddi, Kale & Kumar 2018, On the Convergence of Adam and Beyond, Algorithm 2. arXiv:1904.09237.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.AMSGrad(beta1=0.0, beta2=0.75, debias="before"), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}; state, params = apply({"w": jnp.full(1, 10.0)}, init(params), params)
        >>> apply({"w": jnp.ones(1)}, state, params)[1]["w"].round(4)  # a step of a tenth: 10 is not forgotten
        Array([-0.11], dtype=float32)
    """

    reference = "Reddi, Kale & Kumar 2018, Algorithm 2. arXiv:1904.09237"
    debias: str = hyper("after", ("after", "before", "never"), "correction of moments, where relative to the maximum")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu``, ``nu`` and ``nu_max``, zero."""
        return {**super().init_leaf(p), "nu_max": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, the moments and the maximum."""
        mu = ema(self.beta1, slot["mu"], g)
        nu = ema(self.beta2, slot["nu"], g**2)
        candidate = debiased(nu, self.beta2, t) if self.debias == "before" else nu
        nu_max = jnp.maximum(slot["nu_max"], candidate)
        mu_hat = mu if self.debias == "never" else debiased(mu, self.beta1, t)
        nu_hat = debiased(nu_max, self.beta2, t) if self.debias == "after" else nu_max
        return -lr * self.quotient(mu_hat, nu_hat), {"mu": mu, "nu": nu, "nu_max": nu_max}


class AdaMax(LeafRule):
    """Adam with a decaying maximum of gradients in place of the root of their mean square.

    ::

        μ ← β₁ μ + (1 − β₁) g
        ν ← max(β₂ ν, |g| + eps),  d = ν               eps_inside=True
        ν ← max(β₂ ν, |g|),        d = ν + eps         eps_inside=False
        p ← p − lr · μ / (1 − β₁ᵗ) / d

    Use it for sparse or heavy-tailed gradients: steps never exceed lr · (1 − β₁) / (1 − β₁ / β₂), and squares neither
    overflow nor underflow. For weight decay take :class:`AdaMaxW`. Memory: two float32 per parameter.

    State: ``mu``, ``nu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: ``eps`` is not in the paper, which is 0. PyTorch and optax add it inside the maximum, where it decays;
    Keras adds it to the denominator.

    Reference: Kingma & Ba 2015, Adam: A Method for Stochastic Optimization, Algorithm 2. arXiv:1412.6980.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.AdaMax(beta1=0.0, eps=0.0), lr=0.1)
        >>> params = {"w": jnp.zeros(2)}
        >>> apply({"w": jnp.array([1e-30, -1e30])}, init(params), params)[1]["w"]
        Array([-0.1,  0.1], dtype=float32)
    """

    reference = "Kingma & Ba 2015, Algorithm 2. arXiv:1412.6980"
    beta1: float = hyper(0.9, "[0, 1)", "decay of the mean of gradients")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the maximum of gradients")
    eps: float = hyper(1e-8, "[0, inf)", "added to the gradient's size or to the maximum")
    eps_inside: bool = hyper(True, bool, "whether eps is added inside the maximum")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu`` and ``nu``, zero."""
        return {"mu": jnp.zeros_like(p), "nu": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, the mean and the maximum."""
        inside, outside = (self.eps, 0.0) if self.eps_inside else (0.0, self.eps)
        mu = ema(self.beta1, slot["mu"], g)
        nu = jnp.maximum(self.beta2 * slot["nu"], jnp.abs(g) + inside)
        return -lr * debiased(safe_divide(mu, nu + outside), self.beta1, t), {"mu": mu, "nu": nu}


class AdaMaxW(Composed, AdaMax):
    """AdaMax with decoupled weight decay: weights shrink by ``lr · weight_decay``, whatever their gradients.

    It is ``Chain(AdaMax(...), WeightDecay(weight_decay))``::

        p ← p − lr · (adamax direction + weight_decay · p)

    Use it as :class:`AdamW`. Memory: two float32 per parameter.

    State: that of :class:`AdaMax`.

    Deviations: those of :class:`AdaMax` and :class:`AdamW`.

    Reference: Kingma & Ba 2015, Algorithm 2; Loshchilov & Hutter 2019, Algorithm 2. arXiv:1711.05101.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.AdaMaxW(weight_decay=0.5), lr=0.1)
        >>> params = {"w": jnp.ones(1)}
        >>> apply({"w": jnp.zeros(1)}, init(params), params)[1]["w"]
        Array([0.95], dtype=float32)
    """

    reference = "Kingma & Ba 2015, Algorithm 2; Loshchilov & Hutter 2019, Algorithm 2. arXiv:1711.05101"
    weight_decay: float = hyper(0.01, "[0, inf)", "rate of decay, times the learning rate")

    def compose(self) -> Rule:
        """Return ``Chain(AdaMax(...), WeightDecay(...))``."""
        return Chain(self.part(AdaMax), WeightDecay(self.weight_decay))


class RAdam(Adam):
    """Adam that warms itself up: its first steps are momentum's, until the second moment's variance is finite.

    ::

        μ̂, ν̂ as in Adam
        ρ∞ = 2 / (1 − β₂) − 1,  ρ = ρ∞ − 2 t β₂ᵗ / (1 − β₂ᵗ)
        r = √((ρ − 4)(ρ − 2) ρ∞ / ((ρ∞ − 4)(ρ∞ − 2) ρ))
        p ← p − lr · r · μ̂ / (√(ν̂ + eps_root) + eps)      where ρ > threshold
        p ← p − lr · μ̂                                    elsewhere

    Use it in place of Adam with a warmup of some 2 / (1 − β₂) steps. The first steps, four of them at the defaults, are
    as large as gradients are: clip where these can be huge. Memory: two float32 per parameter.

    State: ``mu``, ``nu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: the paper has ρ > 4, the default; its authors' code, PyTorch and optax have 5. ``eps`` and ``eps_root``
    are not in the paper; PyTorch adds ``eps`` to the root of the uncorrected ν.

    Reference: Liu et al. 2020, On the Variance of the Adaptive Learning Rate and Beyond, Algorithm 2. arXiv:1908.03265.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.RAdam(beta1=0.0), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}
        >>> apply({"w": jnp.full(1, 2.0)}, init(params), params)[1]["w"]  # the first steps are not normalised
        Array([-0.2], dtype=float32)
    """

    reference = "Liu et al. 2020, Algorithm 2. arXiv:1908.03265"
    threshold: float = hyper(4.0, "[4, inf)", "length of the average from which on steps are normalised")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        mu = ema(self.beta1, slot["mu"], g)
        nu = ema(self.beta2, slot["nu"], g**2)
        mu_hat = debiased(mu, self.beta1, t)
        normal, r = rectification(self.beta2, t, self.threshold)
        direction = jnp.where(normal, r * self.quotient(mu_hat, debiased(nu, self.beta2, t)), mu_hat)
        return -lr * direction, {"mu": mu, "nu": nu}


def rectification(beta2: Any, t: Any, threshold: Any) -> tuple[jax.Array, jax.Array]:
    """Return whether RAdam's average is longer than the threshold at step t, from 1, and its r, which is 1 where not.

    Example:
        >>> [f"{r:.4f}" for r in (rectification(0.999, t, 4.0)[1] for t in (4.0, 5.0, 1e3, 1e6))]
        ['1.0000', '0.0173', '0.6453', '1.0000']
    """
    length = sma_length(beta2, t)
    normal = length > threshold
    # Where steps are not normalised the root has no value: 6 stands for both lengths, and r is 1.
    rho, rho_inf = jnp.where(normal, length, 6.0), jnp.where(normal, 2 / (1 - beta2) - 1, 6.0)
    return normal, jnp.sqrt((rho - 4) / (rho_inf - 4) * ((rho - 2) / (rho_inf - 2)) * (rho_inf / rho))


def sma_length(beta: Any, t: Any) -> jax.Array:
    """Return RAdam's ``ρ = 2 / (1 − β) − 1 − 2 t βᵗ / (1 − βᵗ)`` without cancellation.

    At β = 0.999 the two terms are near 2000 and ρ grows from 1: float32 would be wrong by 1e-4. With x = −log β and
    λ(y) = coth y − 1/y it is ``λ(x/2) + t (1 − λ(t x/2))``, a sum of positive terms.

    Example:
        >>> f"{sma_length(0.75, 6.0):.5f}, {14821 / 3367:.5f}"
        '4.40184, 4.40184'
    """
    x = -jnp.log1p(-one_minus_pow(beta, 1.0))
    return (1 - _one_minus_langevin(x / 2)) + t * _one_minus_langevin(t * x / 2)


def _one_minus_langevin(y: Any) -> jax.Array:
    """Return ``1 − coth y + 1/y``, y > 0: by its series below 1/2, and above in a form that does not overflow."""
    small = jnp.minimum(y, 0.5)
    series = small / 3 - small**3 / 45 + 2 * small**5 / 945 - small**7 / 4725 + 2 * small**9 / 93555
    large = jnp.maximum(y, 0.5)
    return jnp.where(y < 0.5, 1 - series, 1 / large - 2 / jnp.expm1(2 * large))
