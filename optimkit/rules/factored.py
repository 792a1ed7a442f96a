"""Rules whose second moments of a matrix are kept as the means of its rows and columns: Adafactor, CAME."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import cast, safe_divide
from optimkit.rules.base import LeafRule, Slot
from optimkit.rules.clipping import clipped, rms

Axes = tuple[int, int] | None  # of a matrix in a tensor: the second largest and the largest; None for no matrix


class Adafactor(LeafRule):
    """Steps relative to the size of the parameter, normalised by second moments in the memory of rows and columns.

    ::

        β₂ = 1 − t'^−decay_rate,  t' = max(t − step_offset, 1)
        R ← β₂ R + (1 − β₂) · mean of g² + eps1 over columns
        C ← β₂ C + (1 − β₂) · mean of g² + eps1 over rows
        u = g / √(R C / mean of R)
        u ← u / max(1, RMS(u) / clipping_threshold)
        α = lr · max(eps2, RMS(p))
        p ← p − α u − lr · weight_decay · p

    The matrices of a tensor lie along its two largest axes. A parameter with less than two axes, or whose second
    largest is below ``min_dim_size_to_factor``, keeps ν, the mean of g² + eps1, whole.

    For transformers too large for Adam's moments. ``lr`` is the paper's relative step size ρ, about 1e-2;
    ``relative_step`` with ``lr = 1`` takes the paper's schedule of it. Memory: the sum of the two largest sizes instead
    of their product; one number more per parameter with ``momentum``.

    State: ``v_row`` and ``v_col``, without the largest and the second largest axis, or ``v``, shaped as the parameter;
    float32, from 0; ``m`` with ``momentum``, shaped as the parameter, float32 or ``momentum_dtype``, from 0; ``t``.

    Deviations: ``lr`` multiplies the paper's ρ, min(1e-2, 1/√t), with ``relative_step``, and stands for it otherwise
    (as in optax and flax; PyTorch has min(lr, 1/√t)). The paper factors each matrix and names no threshold. Momentum is
    the authors' code's: the mean of steps, lr and all, so that with it the rule can only stand last in a chain. The
    paper has no weight decay; as in PyTorch it is multiplied by ``lr``, and not with ``independent_decay``, as in flax
    and optax. ``step_offset`` leaves ``relative_step`` alone. 0/0 is 0.

    Reference: Shazeer & Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, Algorithms 4-6.
    arXiv:1804.04235.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Adafactor(), lr=1e-2)
        >>> params = {"w": jnp.ones((256, 128)), "b": jnp.ones(2)}
        >>> {name: x.shape for name, x in init(params)["slots"]["w"].items()}
        {'v_row': (128,), 'v_col': (256,)}
        >>> apply({"w": params["w"], "b": jnp.array([5.0, -5.0])}, init(params), params)[1]["b"]
        Array([0.99, 1.01], dtype=float32)
    """

    reference = "Shazeer & Stern 2018, Algorithms 4-6. arXiv:1804.04235"
    decay_rate: float = hyper(0.8, "(0, 1]", "exponent of the growth of the second moments' memory")
    step_offset: int = hyper(0, "int [0, inf)", "step that the second moments' memory is counted from")
    clipping_threshold: float = hyper(1.0, "(0, inf]", "largest RMS of the normalised step; inf for any")
    multiply_by_parameter_scale: bool = hyper(True, bool, "whether steps are relative to the parameter's RMS")
    relative_step: bool = hyper(False, bool, "whether lr is multiplied by min(1e-2, 1/√t)")
    momentum: float | None = hyper(None, "(0, 1)", "decay of the mean of steps; None for none")
    momentum_dtype: str | None = hyper(
        None, ("float16", "bfloat16", "float32", "float64"), "dtype that the mean of steps is stored in"
    )  # fmt: skip
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decoupled decay")
    independent_decay: bool = hyper(False, bool, "whether the decay is not multiplied by lr")
    factored: bool = hyper(True, bool, "whether to keep second moments as means of rows and columns")
    min_dim_size_to_factor: int = hyper(128, "int [1, inf)", "smallest second largest axis to do so at")
    eps1: float = hyper(1e-30, "[0, inf)", "added to squared gradients")
    eps2: float = hyper(1e-3, "[0, inf)", "least RMS of a parameter that its steps are relative to")

    @property
    def chainable(self) -> bool:  # type: ignore[override]
        """Whether neither the state nor the decay depends on lr in its own way."""
        return self.momentum is None and not self.independent_decay

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return the second moments, and ``m`` where it is used, zero."""
        slot = zero_means("v", p, self._axes(p))
        return slot if self.momentum is None else slot | {"m": jnp.zeros_like(p)}

    def _init_slot(self, p: jax.Array) -> Slot:
        slot = super()._init_slot(p)
        narrow = "m" in slot and self.momentum_dtype is not None
        return slot | {"m": cast(slot["m"], self._dtype("momentum_dtype"))} if narrow else slot

    def _axes(self, p: jax.Array) -> Axes:
        return matrix_axes(p.shape, self.min_dim_size_to_factor) if self.factored else None

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, the second moments, and ``m`` where it is used."""
        axes, weight = self._axes(p), jnp.maximum(t - self.step_offset, 1.0) ** -self.decay_rate
        new = means("v", g**2 + self.eps1, slot, weight, axes)
        direction, decay = clipped(normalised(g, "v", new, axes), self.clipping_threshold), self.weight_decay * p
        if self.relative_step:
            direction = direction * jnp.minimum(1e-2, 1 / jnp.sqrt(t))
        if self.multiply_by_parameter_scale:
            direction = direction * jnp.maximum(rms(p), self.eps2)
        if self.chainable:
            return -lr * (direction + decay), new
        step = lr * direction
        if self.momentum is not None:
            step = new["m"] = self.momentum * slot["m"] + (1 - self.momentum) * step
        return -step - (decay if self.independent_decay else lr * decay), new


class CAME(LeafRule):
    """Adafactor with momentum whose steps shrink where they stray from their mean: Adam's pace, Adafactor's memory.

    ::

        u = g / √ν,  ν the mean (beta2) of g² + eps1, as means of rows and columns
        u ← u / max(1, RMS(u) / clipping_threshold)
        m ← beta1 m + (1 − beta1) u
        S   the mean (beta3) of (u − m)² + eps2, as means of rows and columns
        p ← p − lr · m / √S − lr · weight_decay · p

    The matrices of a tensor lie along its two largest axes. A parameter with less than two axes has no S and is moved
    by m.

    For language models too large for Adam's moments, with a third to the whole of Adam's learning rate. Memory: one
    float32 per parameter for m, and twice the sum of the two largest sizes.

    State: ``m``, shaped as the parameter; ``v_row``, ``v_col``, ``s_row`` and ``s_col``, without the largest and the
    second largest axis, or ``v``, shaped as the parameter; float32, from 0; ``t``.

    Deviations: no moment is corrected for its start at 0, as in the paper. Weight decay is that of the authors' code,
    which takes the last two axes for the two largest. Parameters below ``min_dim_size_to_factor``, 1 in both, are
    treated as vectors. 0/0 is 0.

    Reference: Luo et al. 2023, CAME: Confidence-guided Adaptive Memory Efficient Optimization, Algorithm 2.
    arXiv:2307.02047.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.CAME(beta1=0.5), lr=0.1)
        >>> params = {"b": jnp.ones(2)}
        >>> apply({"b": jnp.array([5.0, -5.0])}, init(params), params)[1]["b"]
        Array([0.95, 1.05], dtype=float32)
    """

    reference = "Luo et al. 2023, Algorithm 2. arXiv:2307.02047"
    beta1: float = hyper(0.9, "[0, 1)", "decay of the mean of normalised gradients")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared gradients")
    beta3: float = hyper(0.9999, "[0, 1)", "decay of the mean of squared distances from the mean")
    clipping_threshold: float = hyper(1.0, "(0, inf]", "largest RMS of the normalised gradient; inf for any")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decoupled decay, times the learning rate")
    min_dim_size_to_factor: int = hyper(1, "int [1, inf)", "smallest second largest axis of a matrix")
    eps1: float = hyper(1e-30, "[0, inf)", "added to squared gradients")
    eps2: float = hyper(1e-16, "[0, inf)", "added to squared distances")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``m`` and the second moments, zero."""
        axes = matrix_axes(p.shape, self.min_dim_size_to_factor)
        slot = {"m": jnp.zeros_like(p)} | zero_means("v", p, axes)
        return slot if axes is None else slot | zero_means("s", p, axes)

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, ``m`` and the second moments."""
        axes = matrix_axes(p.shape, self.min_dim_size_to_factor)
        new = means("v", g**2 + self.eps1, slot, 1 - self.beta2, axes)
        u = clipped(normalised(g, "v", new, axes), self.clipping_threshold)
        direction = new["m"] = self.beta1 * slot["m"] + (1 - self.beta1) * u
        if axes is not None:
            new |= means("s", (u - new["m"]) ** 2 + self.eps2, slot, 1 - self.beta3, axes)
            direction = normalised(new["m"], "s", new, axes)
        return -lr * (direction + self.weight_decay * p), new


# --- second moments as means of rows and columns ----------------------------------------------------------------------


def matrix_axes(shape: tuple[int, ...], smallest: int) -> Axes:
    """Return the second largest and the largest axis, or None where the second largest is below ``smallest``.

    Example:
        >>> matrix_axes((3, 3, 64, 128), 64), matrix_axes((3, 3, 64, 128), 128), matrix_axes((128,), 1)
        ((2, 3), None, None)
    """
    by_size = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis))
    return (by_size[-2], by_size[-1]) if len(shape) > 1 and shape[by_size[-2]] >= smallest else None


def zero_means(name: str, p: jax.Array, axes: Axes) -> Slot:
    """Return the slots of a second moment before the first step."""
    return {key: jnp.zeros_like(x) for key, x in _means_of(name, jnp.zeros_like(p), axes).items()}


def means(name: str, x: jax.Array, slot: Slot, weight: Any, axes: Axes) -> Slot:
    """Return the slots of a second moment with ``x`` averaged in at a weight."""
    return {key: (1 - weight) * slot[key] + weight * mean for key, mean in _means_of(name, x, axes).items()}


def _means_of(name: str, x: jax.Array, axes: Axes) -> Slot:
    if axes is None:
        return {name: x}
    second, largest = axes
    return {f"{name}_row": jnp.mean(x, largest), f"{name}_col": jnp.mean(x, second)}


def normalised(x: jax.Array, name: str, slot: Slot, axes: Axes) -> jax.Array:
    """Return ``x / √ν``, with ν = row · column / mean of rows where it is kept so; 0 where ν is 0.

    Each root is taken by itself, for ν itself may underflow.
    """
    if axes is None:
        return safe_divide(x, jnp.sqrt(slot[name]))
    second, largest = axes
    row, col = jnp.expand_dims(slot[f"{name}_row"], largest), jnp.expand_dims(slot[f"{name}_col"], second)
    mean = jnp.mean(row, second, keepdims=True)
    return safe_divide(x, jnp.sqrt(row)) * safe_divide(jnp.sqrt(mean), jnp.sqrt(col))
