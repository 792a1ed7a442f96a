"""Model-based momentum: the learning rate is a bound, and the loss says how much of it to use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.numerics import one_minus_pow, safe_divide
from optimkit.rules.adam_variants import debiased, ema
from optimkit.rules.base import Rule, Slot, Step, Tree
from optimkit.rules.sums import dot, scalar_dtype, wide_leaves


class _Model(NamedTuple):
    """A model of the loss: its height above the lower bound at x, ⟨d, x⟩, the norm of d, and the weights' sum."""

    height: Any
    slope: Any
    norm: Any
    rho: Any


class _Modelled(Rule):
    """What both rules share: means of gradients, losses and products, and the step that their model allows."""

    needs = ("value",)
    chainable = False  # how much of the learning rate is used depends on it
    _names: ClassVar[tuple[str, ...]]  # of what is remembered of each parameter

    if TYPE_CHECKING:
        lower_bound: float
        weight_decay: float
        adapt_lower_bound: bool

    def init(self, params: Tree) -> Tree:
        """Return ``{"t", "slots", "f", "gap"}``, and ``"raised"`` where the lower bound is adapted, zero."""
        slots = jax.tree.map(
            lambda p: {name: jnp.zeros_like(p, numerics.compute_dtype(p.dtype)) for name in self._names}, params
        )
        scalars = {name: jnp.zeros((), scalar_dtype(params)) for name in self._scalars}
        return {"t": jnp.zeros((), jnp.int32), "slots": slots, **scalars}

    @property
    def _scalars(self) -> tuple[str, ...]:
        return ("f", "gap", "raised") if self.adapt_lower_bound else ("f", "gap")

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the displacement and the means."""
        structure: Any = jax.tree.structure(step.params)
        t, dtype = numerics.count_up(state["t"]), state["f"].dtype
        lr, value = numerics.cast(step.lr, dtype), numerics.cast(step.value, dtype)
        x, g = wide_leaves(step.params, step.params), wide_leaves(step.grads, step.params)
        old = structure.flatten_up_to(state["slots"])
        slots = [self._leaf(grad, slot, t.astype(grad.dtype)) for grad, slot in zip(g, old, strict=True)]
        d = [slot["d"] for slot in slots]
        metric = [self._metric(slot, t.astype(slot["d"].dtype)) for slot in slots]
        units = [safe_divide(mean, jnp.sqrt(m)) for mean, m in zip(d, metric, strict=True)]
        f = self._mean(state["f"], value - self.lower_bound, t)
        gap = self._mean(state["gap"], jnp.zeros_like(f), t)
        norm = numerics.cast(numerics.norm(*units), dtype)
        model = _Model(f + gap, dot(d, x, dtype), norm, self._rho(t.astype(dtype)))
        tau, raised = self._step_size(model, lr, state.get("raised", jnp.zeros_like(f)))
        decay = lr * self.weight_decay
        deltas = [
            -(tau.astype(p.dtype) * safe_divide(mean, m) + decay.astype(p.dtype) * p) / (1 + decay.astype(p.dtype))
            for mean, m, p in zip(d, metric, x, strict=True)
        ]
        scalars = {"f": f, "gap": gap + dot(d, deltas, dtype), "raised": raised}
        return structure.unflatten(deltas), {
            "t": t,
            "slots": structure.unflatten(slots),
            **{name: numerics.cast(scalars[name], dtype) for name in self._scalars},
        }

    def _step_size(self, model: _Model, lr: Any, raised: Any) -> tuple[Any, Any]:
        """Return τ, and by how much the lower bound is raised after this step."""
        height, slope, norm, rho = model
        one = 1 + lr * self.weight_decay
        room = one * height - lr * self.weight_decay * slope
        if self.adapt_lower_bound:
            halved = jnp.maximum((room / (one * rho) - self.lower_bound) / 2, 0.0)
            raised = jnp.where(room < one * rho * raised, halved, raised)
        room = jnp.maximum(room - one * rho * raised, 0.0)
        # One norm at a time: the square of the norm under- or overflows. Without a gradient there is no step.
        tau = jnp.minimum(lr / rho, safe_divide(safe_divide(room, norm), norm))
        if self.adapt_lower_bound:
            raised = jnp.maximum((height - 0.5 * (tau * norm) * norm) / rho, 0.0)
        return tau, raised

    def _leaf(self, g: jax.Array, slot: Slot, t: Any) -> Slot:
        """Return what is remembered of a parameter, d among it."""
        raise NotImplementedError

    def _metric(self, slot: Slot, t: Any) -> jax.Array:
        """Return D, by which the length of d is measured, elementwise."""
        raise NotImplementedError

    def _mean(self, old: jax.Array, new: jax.Array, t: Any) -> jax.Array:
        """Return the next mean of gradients, losses or products."""
        raise NotImplementedError

    def _rho(self, t: Any) -> Any:
        """Return the sum of the weights in a mean."""
        raise NotImplementedError


class MoMo(_Modelled):
    """Momentum whose steps are no longer than to where a model of the loss, made of past gradients, is at its minimum.

    ::

        f̄ ← β f̄ + (1 − β) f,  γ ← β γ + (1 − β) ⟨g, x⟩,  d ← β d + (1 − β) g
        h = (1 + lr · weight_decay) (f̄ − γ − ρ · lower_bound) + ⟨d, x⟩
        τ = min(lr / ρ, max(h, 0) / ‖d‖²)
        x ← (x − τ d) / (1 + lr · weight_decay)         ρ = 1; with bias_correction, 1 − βᵗ

    The learning rate is a bound: use it with ``lr = 1`` or, more boldly, a large one, and a schedule if you like. Give
    the loss, by ``opt(lr, grads, value=loss)`` or by ``minimize``. It needs a ``lower_bound`` of the loss, for which 0
    is good for most losses; where that is far off, ``adapt_lower_bound`` finds a better one. Memory: one float32 per
    parameter.

    State: ``d``, shaped as the parameter, float32 (float64), which begins as the first gradient, or with
    ``bias_correction`` from 0; ``f``, f̄ less the lower bound, ``gap``, ⟨d, x⟩ − γ at the next x, and with
    ``adapt_lower_bound`` ``raised``, by how much that was, float32 scalars, from 0; ``t``, int32.

    Deviations: none in exact arithmetic. ⟨d, x⟩ − γ is summed up from displacements, as β (gap + ⟨d, Δx⟩), for the
    difference of two large numbers would drown small losses in rounding; what a constraint, or a wrapper around this
    rule, does to parameters is not in it. A gradient of zero gives no step (but the decay), and a loss below
    ``lower_bound`` neither. The authors' code, as this, divides all of x − τ d by 1 + lr · weight_decay; optax 0.2.8
    divides x alone, so that its steps are by that factor longer, and takes none where ‖d‖² is below 2e-16.

    Reference: Schaipp, Ohana, Eickenberg, Defazio & Gower 2024, MoMo: Momentum Models for Adaptive Learning Rates,
    MoMo and MoMo*. arXiv:2305.07583.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(MoMo(beta=0.0), lr=10.0)
        >>> params = {"w": jnp.array([3.0, 4.0])}  # the loss is ‖w‖², 25, and its gradient 2 w
        >>> apply({"w": 2 * params["w"]}, init(params), params, value=25.0)[1]["w"]
        Array([1.5, 2. ], dtype=float32)
    """

    reference = "Schaipp et al. 2024, MoMo and MoMo*. arXiv:2305.07583"
    _names = ("d",)
    beta: float = hyper(0.9, "[0, 1)", "decay of the means of gradients and losses")
    lower_bound: float = hyper(0.0, "(-inf, inf)", "smallest value of the loss")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, times the learning rate")
    bias_correction: bool = hyper(False, bool, "whether means start at 0 and are corrected, not at the first gradient")
    adapt_lower_bound: bool = hyper(False, bool, "whether the lower bound is raised as training shows that it can be")

    def _leaf(self, g: jax.Array, slot: Slot, t: Any) -> Slot:
        return {"d": self._mean(slot["d"], g, t)}

    def _metric(self, slot: Slot, t: Any) -> jax.Array:
        return jnp.ones_like(slot["d"])

    def _mean(self, old: jax.Array, new: jax.Array, t: Any) -> jax.Array:
        mean = ema(self.beta, old, new)
        return mean if self.bias_correction else jnp.where(t == 1, new, mean)

    def _rho(self, t: Any) -> Any:
        return one_minus_pow(self.beta, t) if self.bias_correction else jnp.ones_like(t)


class MoMoAdam(_Modelled):
    """Adam whose steps are no longer than to where a model of the loss, made of past gradients, is at its minimum.

    ::

        f̄ ← β₁ f̄ + (1 − β₁) f,  γ ← β₁ γ + (1 − β₁) ⟨g, x⟩,  d ← β₁ d + (1 − β₁) g,  ρ = 1 − β₁ᵗ
        ν ← β₂ ν + (1 − β₂) g²,  D = √(ν / (1 − β₂ᵗ)) + eps
        h = (1 + lr · weight_decay) (f̄ − γ − ρ · lower_bound) + ⟨d, x⟩
        τ = min(lr / ρ, max(h, 0) / ⟨d, d / D⟩)
        x ← (x − τ d / D) / (1 + lr · weight_decay)

    The learning rate is a bound, and may be some times that of Adam: 0.01 is the authors' default. For the loss and its
    ``lower_bound`` see :class:`MoMo`. Memory: two float32 per parameter.

    State: ``d``, ``nu``, shaped as the parameter, float32 (float64), from 0; ``f``, ``gap`` and ``raised``, as in
    :class:`MoMo`; ``t``, int32.

    Deviations: those of :class:`MoMo`. ``divide=False`` of the authors' code, a decay as in AdamW, is left out.

    Reference: Schaipp, Ohana, Eickenberg, Defazio & Gower 2024, MoMo: Momentum Models for Adaptive Learning Rates,
    MoMo-Adam. arXiv:2305.07583.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(MoMoAdam(beta1=0.0, eps=0.0), lr=1.0)
        >>> params = {"w": jnp.array([3.0])}  # the loss is w², 9, and its gradient 6: half the way to the minimum
        >>> apply({"w": 2 * params["w"]}, init(params), params, value=9.0)[1]["w"]  # lr allows less
        Array([2.], dtype=float32)
    """

    reference = "Schaipp et al. 2024, MoMo-Adam. arXiv:2305.07583"
    _names = ("d", "nu")
    beta1: float = hyper(0.9, "[0, 1)", "decay of the means of gradients and losses")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared gradients")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root, outside it")
    lower_bound: float = hyper(0.0, "(-inf, inf)", "smallest value of the loss")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, times the learning rate")
    adapt_lower_bound: bool = hyper(False, bool, "whether the lower bound is raised as training shows that it can be")

    def _leaf(self, g: jax.Array, slot: Slot, t: Any) -> Slot:
        return {"d": self._mean(slot["d"], g, t), "nu": ema(self.beta2, slot["nu"], g**2)}

    def _metric(self, slot: Slot, t: Any) -> jax.Array:
        return jnp.sqrt(debiased(slot["nu"], self.beta2, t)) + self.eps

    def _mean(self, old: jax.Array, new: jax.Array, t: Any) -> jax.Array:
        return ema(self.beta1, old, new)

    def _rho(self, t: Any) -> Any:
        return one_minus_pow(self.beta1, t)
