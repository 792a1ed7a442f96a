"""Adam whose learning rate is an estimate of how far the solution is from the start: D-Adaptation, and Prodigy."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.numerics import one_minus_pow, safe_divide
from optimkit.rules.adam_variants import ema
from optimkit.rules.base import Rule, Slot, Step, Tree
from optimkit.rules.sums import scalar_dtype, total, wide_leaves


class _DAdaptation(Rule):
    """What both rules share: d, which multiplies the learning rate, and a lower bound of it that grows."""

    chainable = False  # d depends on the learning rate
    _names: ClassVar[tuple[str, ...]]  # of what is remembered of each parameter
    # With bias correction the first rates are 1 / (1 − beta1) times as large, and d with them.
    beta1: float = hyper(0.9, "[0, 0.9999]", "decay of the mean of gradients")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared gradients")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root, outside it")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, times d and the learning rate")
    d0: float = hyper(1e-6, "[1e-20, inf)", "first estimate of the distance, too small")
    growth_rate: float = hyper(math.inf, "(1, inf]", "largest factor by which d grows in a step")
    bias_correction: bool = hyper(False, bool, "whether the learning rate has Adam's correction of the moments")

    def init(self, params: Tree) -> Tree:
        """Return ``{"t", "slots", "d", "r"}``: d from d0, the rest from 0."""
        dtype = scalar_dtype(params)
        slots = jax.tree.map(
            lambda p: {name: jnp.zeros_like(p, numerics.compute_dtype(p.dtype)) for name in self._names}, params
        )
        d = numerics.cast(self.d0, dtype)
        return {"t": jnp.zeros((), jnp.int32), "slots": slots, "d": d, "r": jnp.zeros((), dtype)}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Move by the old d, and let it grow."""
        structure: Any = jax.tree.structure(step.params)
        d, dtype = state["d"], state["d"].dtype
        t = numerics.count_up(state["t"])
        rate = d * numerics.cast(step.lr, dtype) * self._correction(t.astype(dtype))
        grads, params = wide_leaves(step.grads, step.params), wide_leaves(step.params, step.params)
        deltas, slots, gains = [], [], []
        for g, p, slot in zip(grads, params, structure.flatten_up_to(state["slots"]), strict=True):
            delta, new, gain = self._leaf(g, slot, p, d.astype(p.dtype), rate.astype(p.dtype))
            deltas.append(delta)
            slots.append({name: numerics.cast(x, p.dtype) for name, x in new.items()})
            gains.append(gain)
        r = numerics.cast(self._decay * state["r"] + total(gains, dtype), dtype)
        # Where there has been no gradient s is 0, and says nothing about the distance.
        estimate = safe_divide(r, total([jnp.abs(slot["s"]) for slot in slots], dtype))
        return structure.unflatten(deltas), {
            **self._grown(state, estimate),
            "t": t,
            "slots": structure.unflatten(slots),
            "r": r,
        }

    def _correction(self, t: Any) -> Any:
        return jnp.sqrt(one_minus_pow(self.beta2, t)) / one_minus_pow(self.beta1, t) if self.bias_correction else 1.0

    @property
    def _decay(self) -> Any:
        """The decay of the sums of which d is a quotient."""
        return self.beta2**0.5

    def _leaf(self, g: jax.Array, slot: Slot, p: jax.Array, d: Any, rate: Any) -> tuple[jax.Array, Slot, jax.Array]:
        """Return the displacement of a parameter, its next slot, and what its elements add to the numerator."""
        raise NotImplementedError

    def _grown(self, state: Tree, estimate: jax.Array) -> dict[str, jax.Array]:
        """Return the next d, by name."""
        d = state["d"]
        return {"d": numerics.cast(jnp.maximum(d, jnp.minimum(estimate, d * self.growth_rate)), d.dtype)}


class DAdaptAdamW(_DAdaptation):
    """AdamW that finds its learning rate: a bound of the distance to the solution, from how gradients agree.

    ::

        γ = d · lr
        μ ← β₁ μ + (1 − β₁) γ g,  ν ← β₂ ν + (1 − β₂) g²
        r ← √β₂ r + γ ⟨g, s / (√ν₋ + eps)⟩               over all parameters; ν₋ is ν before the gradient
        s ← √β₂ s + (1 − √β₂) γ g
        p ← p − μ / (√ν + eps) − γ · weight_decay · p
        d ← max(d, min(r / ‖s‖₁, growth_rate · d)),  from d0

    Use it with ``lr = 1``, times a schedule: a warmup helps, and a decay is needed as with Adam. d only grows, from a
    start that is far too small, within some hundred steps; :class:`Prodigy` is mostly faster. Memory: three float32
    per parameter.

    State: ``mu``, ``nu``, ``s``, shaped as the parameter, float32 (float64), from 0; ``d``, from ``d0``, and ``r``,
    from 0, float32 scalars whatever the dtypes of parameters are (float64 with a float64 parameter); ``t``, int32.

    Deviations: r is without the paper's factor 1 − √β₂, which cancels. Gradients are measured by ν₋, as in the authors'
    code of version 3 and in optax; ``measure="new"`` has ν, the paper's A of the step that is taken, see issue 38 of
    facebookresearch/dadaptation. Early preprints, and versions 1 and 2 of the code, estimate d in another way.
    ``growth_rate``, ``bias_correction`` and the decay are those of the code. d stays as it is while s is 0, where
    optax's becomes NaN; the code then does nothing at all, while here weights decay and steps count.

    Reference: Defazio & Mishchenko 2023, Learning-Rate-Free Learning by D-Adaptation, D-Adapted Adam.
    arXiv:2301.07733.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(DAdaptAdamW(), lr=1.0)
        >>> params = {"w": jnp.array([3.0])}; state = init(params)
        >>> for _ in range(200): state, params = apply(params, state, params)  # the loss is w²/2
        >>> bool(abs(params["w"][0]) < 0.1), bool(0.01 < state["d"] < 10)
        (True, True)
    """

    reference = "Defazio & Mishchenko 2023, D-Adapted Adam. arXiv:2301.07733"
    _names = ("mu", "nu", "s")
    measure: str = hyper("old", ("old", "new"), "the ν that gradients are measured by, before or after this one")

    def _leaf(self, g: jax.Array, slot: Slot, p: jax.Array, d: Any, rate: Any) -> tuple[jax.Array, Slot, jax.Array]:
        mu, nu = ema(self.beta1, slot["mu"], rate * g), ema(self.beta2, slot["nu"], g**2)
        root = jnp.sqrt(slot["nu"] if self.measure == "old" else nu) + self.eps
        gain = rate * g * safe_divide(slot["s"], root)
        new = {"mu": mu, "nu": nu, "s": ema(self._decay, slot["s"], rate * g)}
        return -(safe_divide(mu, jnp.sqrt(nu) + self.eps) + rate * self.weight_decay * p), new, gain


class Prodigy(_DAdaptation):
    """AdamW that finds its learning rate, faster than D-Adaptation: late gradients, of larger steps, count more.

    ::

        γ = d · lr,  β₃ = √β₂
        μ ← β₁ μ + (1 − β₁) d g,  ν ← β₂ ν + (1 − β₂) d² g²
        r ← β₃ r + (d / d0) γ ⟨g, x₀ − x⟩                over all parameters
        s ← β₃ s + (d / d0) γ g                          d for γ with safeguard_warmup
        p ← p − γ · (μ / (√ν + d · eps) + weight_decay · p)
        d ← max(d, d_coef · r / ‖s‖₁),  from d0           by a factor of growth_rate at most

    Use it with ``lr = 1``, times a schedule: a decay is needed as with Adam. Tune ``d_coef``, if anything, to 0.5 or
    2. With a long warmup take ``safeguard_warmup``, and ``bias_correction`` where there is none; a ``growth_rate`` of
    1.02 is a warmup of its own. Memory: four float32 per parameter.

    State: ``mu``, ``nu``, ``s``, and ``way``, x − x₀, shaped as the parameter, float32 (float64), from 0; ``d`` and
    ``d_max``, the largest estimate, from ``d0``, and ``r``, from 0, float32 scalars whatever the dtypes of parameters
    are (float64 with a float64 parameter); ``t``, int32.

    Deviations: x − x₀ is the sum of the displacements, not a difference of parameters: the first steps are a millionth,
    which float32 keeps to 6 % beside a parameter of 1 and bfloat16 not at all, so that d would never grow. So x₀ is
    where training starts, whenever weights were loaded; what a constraint, or a wrapper around this rule, does to
    parameters is not in it. r and s are without the paper's factor 1 − β₃, which cancels, and relative to d0, as in the
    authors' code; so is all that the paper lacks, with its defaults: ``beta3``, ``d_coef``, ``growth_rate`` (the first
    growth of d is free), ``safeguard_warmup``, ``bias_correction``, ``weight_decay``. That code multiplies ``eps`` by
    the d of after the step, and does nothing at all until there is a gradient; here it decays weights and counts. d
    stays as it is while s is 0, where optax's becomes NaN. ``slice_p`` is left out.

    Reference: Mishchenko & Defazio 2024, Prodigy: An Expeditiously Adaptive Parameter-Free Learner, Adam version.
    arXiv:2306.06101.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(Prodigy(), lr=1.0)
        >>> params = {"w": jnp.array([3.0])}; state = init(params)
        >>> for _ in range(100): state, params = apply(params, state, params)  # the loss is w²/2
        >>> bool(abs(params["w"][0]) < 0.1), bool(0.01 < state["d"] < 10)
        (True, True)
    """

    reference = "Mishchenko & Defazio 2024, Adam version. arXiv:2306.06101"
    _names = ("mu", "nu", "s", "way")
    beta3: float | None = hyper(None, "[0, 1)", "decay of the sums of which d is a quotient; None is √beta2")
    d_coef: float = hyper(1.0, "(0, inf)", "what the estimate of d is multiplied by")
    safeguard_warmup: bool = hyper(False, bool, "whether the denominator of the estimate leaves the learning rate out")

    def init(self, params: Tree) -> Tree:
        """Return ``{"t", "slots", "d", "d_max", "r"}``: d and d_max from d0, the rest from 0."""
        state = super().init(params)
        return {**state, "d_max": jnp.copy(state["d"])}

    @property
    def _decay(self) -> Any:
        return self.beta2**0.5 if self.beta3 is None else self.beta3

    def _leaf(self, g: jax.Array, slot: Slot, p: jax.Array, d: Any, rate: Any) -> tuple[jax.Array, Slot, jax.Array]:
        mu, nu = ema(self.beta1, slot["mu"], d * g), ema(self.beta2, slot["nu"], (d * g) ** 2)
        weight = d / self.d0
        gain = -weight * rate * (g * slot["way"])
        s = self._decay * slot["s"] + weight * (d if self.safeguard_warmup else rate) * g
        delta = -rate * (safe_divide(mu, jnp.sqrt(nu) + d * self.eps) + self.weight_decay * p)
        return delta, {"mu": mu, "nu": nu, "s": s, "way": slot["way"] + delta}, gain

    def _grown(self, state: Tree, estimate: jax.Array) -> dict[str, jax.Array]:
        d, largest = state["d"], jnp.maximum(state["d_max"], self.d_coef * estimate)
        limit = jnp.where(d > numerics.cast(self.d0, d.dtype), d * self.growth_rate, jnp.inf)
        grown = {"d": jnp.minimum(largest, limit), "d_max": largest}
        return {name: numerics.cast(x, d.dtype) for name, x in grown.items()}
