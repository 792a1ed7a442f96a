"""Rules that divide each gradient by the root of gathered squares: AdaGrad, AdaDelta, RMSProp, SM3."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import one_minus_pow, safe_divide
from optimkit.rules.base import LeafRule, Slot
from optimkit.rules.sgd import Momentum


class AdaGrad(LeafRule):
    """Steps that shrink where gradients were large or frequent, and stay long where they are rare.

    ::

        s ← s + g²                       s starts at initial_accumulator
        p ← p − lr · g / (√(s + eps_root) + eps)

    For sparse features and convex problems, where its regret bound holds. The sum never forgets, so steps fall as
    1/√t: for long training of networks take :class:`RMSProp` or :class:`Adam`. Memory: one float32 per parameter.

    State: ``accumulator``, shaped as the parameter, float32, from ``initial_accumulator``.

    Deviations: in the paper ``initial_accumulator`` and ``eps_root`` are 0. PyTorch is as here (its ``lr_decay`` is
    left to ``lr``), flax with ``eps = 1e-8``; optax starts at 0.1 and adds its ``eps`` inside the root:
    ``AdaGrad(0.1, eps=0.0, eps_root=1e-7)``. 0/0 is 0.

    Reference: Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization, Figure 1. JMLR 12:2121-2159.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.AdaGrad(), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (3.0, 4.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"]  # 3/3 and 4/5
        Array([-0.18], dtype=float32)
    """

    reference = "Duchi, Hazan & Singer 2011, Figure 1. JMLR 12:2121-2159"
    initial_accumulator: float = hyper(0.0, "[0, inf)", "where the sum of squared gradients starts")
    eps: float = hyper(1e-10, "[0, inf)", "added to the root, outside it")
    eps_root: float = hyper(0.0, "[0, inf)", "added inside the root")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``accumulator``, filled with its initial value."""
        return {"accumulator": jnp.full_like(p, self.initial_accumulator)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and ``accumulator``."""
        total = slot["accumulator"] + g**2
        return -lr * safe_divide(g, jnp.sqrt(total + self.eps_root) + self.eps), {"accumulator": total}


class AdaDelta(LeafRule):
    """Steps in the units of the parameter: as long, on average, as the steps before, so that ``lr`` is 1.

    ::

        ν ← decay · ν + (1 − decay) g²
        Δ = √(s + eps) / √(ν + eps) · g
        s ← decay · s + (1 − decay) Δ²
        p ← p − lr · Δ

    Use it with ``lr = 1``, the paper's, where no learning rate is known. It starts slowly: the first steps are of size
    √eps, which is its real learning rate. :class:`Adam` is usually faster. Memory: two float32 per parameter.

    State: ``nu``, the mean of squared gradients, and ``s``, that of squared steps, shaped as the parameter, float32,
    from 0.

    Deviations: ``lr`` is not in the paper; it does not enter ``s``. optax and PyTorch have ``decay = 0.9``.

    Reference: Zeiler 2012, ADADELTA: An Adaptive Learning Rate Method, Algorithm 1. arXiv:1212.5701.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.AdaDelta(decay=0.75, eps=1.0), lr=1.0)
        >>> params = {"w": jnp.zeros(1)}
        >>> apply({"w": jnp.full(1, 12.0**0.5)}, init(params), params)[1]["w"]  # √12 / √(12 / 4 + 1)
        Array([-1.7320508], dtype=float32)
    """

    reference = "Zeiler 2012, Algorithm 1. arXiv:1212.5701"
    decay: float = hyper(0.95, "[0, 1)", "decay of both means of squares")
    eps: float = hyper(1e-6, "(0, inf)", "added inside both roots")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``nu`` and ``s``, zero."""
        return {"nu": jnp.zeros_like(p), "s": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, ``nu`` and ``s``."""
        nu = self.decay * slot["nu"] + (1 - self.decay) * g**2
        # An eps that is 0 in the dtype of the arithmetic leaves 0/0 where the gradient was always 0.
        step = safe_divide(jnp.sqrt(slot["s"] + self.eps), jnp.sqrt(nu + self.eps)) * g
        return -lr * step, {"nu": nu, "s": self.decay * slot["s"] + (1 - self.decay) * step**2}


class RMSProp(LeafRule):
    """Gradients divided by the root of a running mean of their squares: Adam without its first moment.

    ::

        ν ← decay · ν + (1 − decay) g²              ν starts at initial_scale
        d = g / (√(ν + eps_root) + eps)
        p ← p − lr · d                               momentum=None
        p ← p − lr · (as Momentum does with d)       otherwise

    With ``centered``, ν − μ² stands for ν, where μ is the mean of gradients: steps grow long where gradients agree.
    With ``bias_correction``, it is divided by 1 − decayᵗ; without, the first step is 1 / √(1 − decay) times ``lr``.

    For recurrent networks and reinforcement learning. Memory: one float32 per parameter, one more for ``centered``, one
    more for ``momentum``.

    State: ``nu``, shaped as the parameter, float32, from ``initial_scale``; ``mu`` with ``centered`` (``nu`` is then
    the variance itself, which so has no cancellation) and ``m`` with ``momentum``, from 0; ``t``, int32.

    Deviations: Hinton has no eps. Graves has it inside the root: ``RMSProp(0.95, eps=0.0, eps_root=1e-4, centered=True,
    momentum=0.9)``, with ``lr`` inside the momentum, which differs only while ``lr`` changes. PyTorch is as here, with
    ``decay = 0.99``; optax has ``eps=0.0, eps_root=1e-8``, and TensorFlow 1 ``initial_scale = 1``. With both
    ``centered`` and ``bias_correction`` optax corrects each moment before the difference, which is then 0 at the first
    step; here the difference is corrected. 0/0 is 0.

    Reference: Hinton 2012, Neural Networks for Machine Learning, lecture 6e; Graves 2013, Generating Sequences With
    Recurrent Neural Networks, equations (38)-(41). arXiv:1308.0850.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.RMSProp(decay=0.75), lr=0.1)
        >>> params = {"w": jnp.zeros(2)}
        >>> apply({"w": jnp.array([1.0, -100.0])}, init(params), params)[1]["w"]  # 1 / √(1/4), whatever the scale
        Array([-0.2,  0.2], dtype=float32)
    """

    reference = "Hinton 2012, lecture 6e; Graves 2013, equations (38)-(41). arXiv:1308.0850"
    decay: float = hyper(0.9, "[0, 1)", "decay of the means of gradients and of their squares")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root, outside it")
    eps_root: float = hyper(0.0, "[0, inf)", "added inside the root")
    centered: bool = hyper(False, bool, "whether to divide by the deviation from the mean instead")
    momentum: float | None = hyper(None, "(0, 1)", "decay of the sum of steps; None for none")
    nesterov: bool = hyper(False, bool, "whether the momentum looks ahead, as Nesterov's method does")
    initial_scale: float = hyper(0.0, "[0, inf)", "where the mean of squares starts")
    bias_correction: bool = hyper(False, bool, "whether to correct the mean of squares for its start at 0")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``nu``, and ``mu`` and ``m`` where they are used."""
        slot = {"nu": jnp.full_like(p, self.initial_scale)}
        if self.centered:
            slot["mu"] = jnp.zeros_like(p)
        return slot if self.momentum is None else slot | Momentum().init_leaf(p)

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement and the moments."""
        if self.centered:
            # The variance by its own recursion: ν − μ², as it is written, is all rounding where gradients are steady.
            away = g - slot["mu"]
            new = {"mu": slot["mu"] + (1 - self.decay) * away}
            nu = self.decay * slot["nu"] + self.decay * (1 - self.decay) * away**2
        else:
            new, nu = {}, self.decay * slot["nu"] + (1 - self.decay) * g**2
        nu_hat = nu / one_minus_pow(self.decay, t) if self.bias_correction else nu
        direction = safe_divide(g, jnp.sqrt(nu_hat + self.eps_root) + self.eps)
        new["nu"] = nu
        if self.momentum is None:
            return -lr * direction, new
        delta, moved = Momentum(self.momentum, self.nesterov).update_leaf(direction, slot, p, lr=lr, t=t)
        return delta, new | moved


class SM3(LeafRule):
    """AdaGrad in the memory of its rows and columns: one accumulator for each slice along each axis.

    ::

        ν = min over axes r of μ_r  +  g²         each μ_r spread over the slices that it stands for
        μ_r ← max of ν over all axes but r
        d = g / √(ν + eps_root)
        p ← p − lr · d                             momentum=None
        m ← momentum · m + (1 − momentum) d,  p ← p − lr · m

    For embeddings and models whose optimizer state does not fit; ν is never less than AdaGrad's sum, so its steps are
    never longer. Vectors are AdaGrad's to the letter. Memory: the sum of a parameter's sizes instead of their product;
    one float32 more per parameter with ``momentum``.

    State: ``mu_0``, ``mu_1``, ..., one for each axis, of its length, float32, from 0 (a scalar has ``mu_0``, a scalar);
    ``m`` with ``momentum``, shaped as the parameter.

    Deviations: ``eps_root`` is 0 in the paper, and 1e-8 in optax. ``momentum`` is that of the authors' code, which the
    paper leaves out of its algorithm; optax has 0.9.

    Reference: Anil, Gupta, Koren & Singer 2019, Memory-Efficient Adaptive Optimization, Algorithm SM3-II.
    arXiv:1901.11150.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.SM3(), lr=0.1)
        >>> params = {"w": jnp.zeros((2, 3))}
        >>> {name: x.shape for name, x in init(params)["slots"]["w"].items()}
        {'mu_0': (2,), 'mu_1': (3,)}
    """

    reference = "Anil, Gupta, Koren & Singer 2019, Algorithm SM3-II. arXiv:1901.11150"
    momentum: float | None = hyper(None, "(0, 1)", "decay of the mean of steps; None for none")
    eps_root: float = hyper(0.0, "[0, inf)", "added inside the root")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return an accumulator for each axis, and ``m`` where it is used, zero."""
        slot = {name: jnp.max(jnp.zeros_like(p), rest, initial=0.0) for name, rest in _axes_without(p).items()}
        return slot if self.momentum is None else slot | {"m": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, the accumulators, and ``m`` where it is used."""
        covers = _axes_without(p)
        bounds = (jnp.expand_dims(slot[name], rest) for name, rest in covers.items())
        nu = functools.reduce(jnp.minimum, bounds) + g**2
        direction = safe_divide(g, jnp.sqrt(nu + self.eps_root))
        new = {name: jnp.max(nu, rest, initial=0.0) for name, rest in covers.items()}  # 0, where there is no element
        if self.momentum is None:
            return -lr * direction, new
        m = self.momentum * slot["m"] + (1 - self.momentum) * direction
        return -lr * m, new | {"m": m}


def _axes_without(p: jax.Array) -> dict[str, tuple[int, ...]]:
    """Return, for the accumulator of each axis, all the other axes; a scalar has one accumulator."""
    return {f"mu_{r}": tuple(axis for axis in range(p.ndim) if axis != r) for r in range(max(p.ndim, 1))}
