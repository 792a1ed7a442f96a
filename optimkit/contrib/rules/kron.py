"""PSGD with Kronecker-factored preconditioners."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.contrib.rules.matrices import placed_as, product, whole, zeros_along
from optimkit.contrib.rules.shampoo import along, outer
from optimkit.hyper import hyper
from optimkit.rules.adam_variants import debiased, ema
from optimkit.rules.base import Rule, Slot, Step, Tree
from optimkit.rules.compose import Chain, Composed
from optimkit.rules.gated import choose
from optimkit.rules.stages import WeightDecay
from optimkit.tree import names_and_leaves

BALANCE = 100  # updates from one balancing of the factors to the next
LONGEST = 1.1  # the root of the mean square of a direction, which is 1 for a preconditioner that fits
DAMPING = float(jnp.finfo(jnp.float32).eps) ** 0.5


class KroneckerDirection(Rule):
    """The direction of :class:`PSGDKron`, without weight decay.

    State: ``slots``: ``mu``, shaped as the parameter, from 0, and ``q0``, ``q1``, ..., a triangle or a diagonal for
    each axis; ``key``, uint32[2], from the seed; ``since`` and ``updates``, int32, the steps since the last update of
    the factors, and their number; ``t``, int32.
    """

    beta1: float = hyper(0.9, "[0, 1)", "decay of the mean of gradients")
    preconditioner_lr: float = hyper(0.1, "(0, 1)", "relative step of the factors")
    preconditioner_scale: float = hyper(1.0, "[1e-6, 1e6]", "preconditioner before the first step")
    max_dim: int = hyper(8192, "int [1, inf)", "longest axis that gets a triangle")
    min_ndim: int = hyper(2, "int [0, inf)", "fewest axes of a parameter that get triangles")
    diagonal: str = hyper("none", ("none", "longest", "all"), "which other axes get a diagonal")
    momentum_into_update: bool = hyper(True, bool, "whether factors are fit to the mean of gradients")
    min_probability: float = hyper(0.03, "(0, 1]", "part of the steps that update the factors, in the end")
    decay: float = hyper(0.001, "[0, inf)", "rate at which that part falls from 1")
    flat_start: int = hyper(500, "int [0, inf)", "steps before it begins to fall")
    seed: int = hyper(0, "int [0, 4294967295]", "seed of the random key")

    def _axes(self, shape: tuple[int, ...]) -> list[bool]:
        """Return for each axis whether its factor is a triangle, and not a diagonal."""
        longest = max(range(len(shape)), key=lambda i: (shape[i], i), default=0)
        return [
            1 < n <= self.max_dim
            and len(shape) >= self.min_ndim
            and self.diagonal != "all"
            and not (self.diagonal == "longest" and i == longest)
            for i, n in enumerate(shape)
        ]

    def init(self, params: Tree) -> Tree:
        """Return zeros, multiples of the identity, the random key and the counters."""
        zero = jnp.zeros((), jnp.int32)
        state = {"t": zero, "since": zero, "updates": zero, "key": jax.random.PRNGKey(self.seed)}
        return jax.tree.map(jnp.array, state) | {"slots": jax.tree.map(self._slot, params)}

    def _slot(self, p: jax.Array) -> Slot:
        dtype = numerics.compute_dtype(p.dtype)
        shape = (p.shape or (1,)) if p.size else ()
        scale = jnp.asarray(self.preconditioner_scale, dtype) ** (1 / max(len(shape), 1))
        triangles = self._axes(p.shape)[: len(shape)] or [False] * len(shape)
        slot = {"mu": jnp.zeros_like(p, dtype)}
        for i, (n, full) in enumerate(zip(shape, triangles, strict=True)):
            row = zeros_along(_flat(slot["mu"]), i)
            slot[f"q{i}"] = scale * (row + (jnp.eye(n, dtype=dtype) if full else 1))
        return slot

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return ``-lr`` times the preconditioned means, and the means and factors."""
        names, params, structure = names_and_leaves(step.params)
        slots = structure.flatten_up_to(state["slots"])
        t, since = numerics.count_up(state["t"]), numerics.count_up(state["since"])
        given = structure.flatten_up_to(step.grads)
        grads = [numerics.cast(g, s["mu"].dtype) for g, s in zip(given, slots, strict=True)]
        mu = [ema(self.beta1, s["mu"], g) for s, g in zip(slots, grads, strict=True)]
        means = [_flat(debiased(m, self.beta1, t.astype(m.dtype))) for m in mu]
        old = [_factors(s) for s in slots]

        def updated() -> tuple[Any, ...]:
            key, own = jax.random.split(state["key"])
            keys = [jax.random.fold_in(own, zlib.crc32(name.encode())) for name in names]
            updates = numerics.count_up(state["updates"])
            new = [
                self._fit(q, _flat(g), m, k, updates) for q, g, m, k in zip(old, grads, means, keys, strict=True)
            ]
            return new, key, updates, jnp.zeros_like(since)

        falling = jnp.exp(-self.decay * (t.astype(jnp.float32) - self.flat_start))
        due = since >= 1 / jnp.clip(falling, self.min_probability, 1.0)
        factors, key, updates, since = choose(
            due, updated, lambda: (old, state["key"], state["updates"], since)
        )
        delta = [
            -step.lr * placed_as(preconditioned(q, m).reshape(p.shape), p)
            for q, m, p in zip(factors, means, params, strict=True)
        ]
        new = [{"mu": m} | {f"q{i}": x for i, x in enumerate(q)} for m, q in zip(mu, factors, strict=True)]
        return structure.unflatten(delta), {
            "t": t, "since": since, "updates": updates, "key": key, "slots": structure.unflatten(new),
        }  # fmt: skip

    def _fit(self, factors: list[jax.Array], g: jax.Array, m: jax.Array, key: jax.Array, n: Any) -> list[jax.Array]:
        """Return factors that fit a gradient better; the old ones for a gradient of 0, which no factor fits."""
        if not factors:
            return []
        v = jax.random.normal(key, g.shape, g.dtype)
        target = m if self.momentum_into_update else g
        target = target + DAMPING * jnp.mean(jnp.abs(target)) * v
        a, b = target, v
        for i, q in enumerate(factors):
            a, b = along(a, q.T, i) if q.ndim > 1 else _scaled(a, q, i), divided(b, q, i)
        new = [self._moved(q, outer(a, i), outer(b, i)) for i, q in enumerate(factors)]
        balanced = choose(jnp.mod(n, BALANCE) == 0, lambda: balance(new), lambda: new)
        kept = jnp.any(g != 0)
        return [jnp.where(kept, x, q) for x, q in zip(balanced, factors, strict=True)]

    def _moved(self, q: jax.Array, fit: jax.Array, noise: jax.Array) -> jax.Array:
        tiny = jnp.finfo(q.dtype).tiny
        if q.ndim < 2:
            up, down = jnp.diagonal(fit), jnp.diagonal(noise)
            return q - self.preconditioner_lr * (up - down) * q / (jnp.max(jnp.abs(up + down)) + tiny)
        size = spectral_norm(fit + noise) + tiny
        return q - product(jnp.triu(self.preconditioner_lr * (fit - noise)) / size, q)


class PSGDKron(Composed, KroneckerDirection):
    """Momentum times a preconditioner that is fit as it goes, a triangular matrix for each axis: no roots, no inverses.

    ::

        μ ← β₁ μ + (1 − β₁) g,  μ̂ = μ / (1 − β₁ᵗ)
        A = μ̂, damped, times Qᵢ along each axis i;  B = v times Qᵢ⁻ᵀ,  v standard normal
        Qᵢ ← Qᵢ − preconditioner_lr · triu(A₍ᵢ₎ A₍ᵢ₎ᵀ − B₍ᵢ₎ B₍ᵢ₎ᵀ) / ‖A₍ᵢ₎ A₍ᵢ₎ᵀ + B₍ᵢ₎ B₍ᵢ₎ᵀ‖ · Qᵢ
        D = μ̂ times Qᵢᵀ Qᵢ along each axis i
        p ← p − lr · (D / max(1, RMS(D) / 1.1) + weight_decay · p)

    Where it fits, D is white: of one size in all directions. At a third of Adam's learning rate or less, for matrices
    of some thousand rows, where it takes less steps than Adam. Axes longer than ``max_dim``, those of vectors, and with
    ``diagonal`` the longest of each parameter or all of them, have a diagonal Qᵢ. The factors are updated at each step
    up to ``flat_start``, then ever less often, down to a part ``min_probability`` of the steps. Memory: one float32 per
    parameter, and a square for each axis.

    State: ``mu``, shaped as the parameter, from 0; ``q0``, ``q1``, ..., for each axis, from the identity times
    ``preconditioner_scale^(1/axes)``; float32; ``key``, uint32[2], split at each update; ``since``, ``updates``, ``t``,
    int32. The v of a parameter is drawn by its name.

    Deviations: those of the code named below from the papers: the norm is its lower bound, momentum goes into the fit,
    RMS is limited, updates become rare. Factors are balanced after each 100 updates, there with a chance of 1 in 100.
    A gradient that is 0 throughout changes no factor: they would grow without end.

    Reference: Li 2018, Preconditioned Stochastic Gradient Descent, arXiv:1512.04202; Pooladzandi & Li 2024,
    Curvature-Informed SGD via General Purpose Lie-Group Preconditioners, arXiv:2402.04553; evanatyourservice/kron_torch
    and psgd_jax, whose form of it this is.

    Example:
        >>> from optimkit import contrib, pure
        >>> init, apply = pure(contrib.rules.PSGDKron(), lr=0.1)
        >>> params = {"w": jnp.zeros((3, 2))}; state = init(params)
        >>> {name: x.shape for name, x in state["KroneckerDirection"]["slots"]["w"].items()}
        {'mu': (3, 2), 'q0': (3, 3), 'q1': (2, 2)}
    """

    reference = "Li 2018. arXiv:1512.04202; Pooladzandi & Li 2024. arXiv:2402.04553"
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, times the learning rate")

    def compose(self) -> Rule:
        """Return ``Chain(direction, WeightDecay(...))``."""
        return Chain(self.part(KroneckerDirection), WeightDecay(self.weight_decay))


# --- factors ----------------------------------------------------------------------------------------------------------


def _flat(x: jax.Array) -> jax.Array:
    return jnp.atleast_1d(whole(x))


def _factors(slot: Slot) -> list[jax.Array]:
    return [slot[f"q{i}"] for i in range(len(slot) - 1)]


def _scaled(x: jax.Array, q: jax.Array, axis: int) -> jax.Array:
    return x * jnp.expand_dims(q, [i for i in range(x.ndim) if i != axis])


def divided(x: jax.Array, q: jax.Array, axis: int) -> jax.Array:
    """Return ``x`` multiplied along an axis by the inverse of a factor's transpose.

    Example:
        >>> divided(jnp.array([[4.0], [9.0]]), jnp.array([[2.0, 1.0], [0.0, 1.0]]), 0).tolist()
        [[2.0], [7.0]]
    """
    if q.ndim < 2:
        return _scaled(x, 1 / q, axis)
    rows = jnp.moveaxis(x, axis, 0)
    solved = jax.scipy.linalg.solve_triangular(q, rows.reshape(len(q), -1), trans="T", lower=False)
    return jnp.moveaxis(solved.reshape(rows.shape), 0, axis)


def preconditioned(factors: list[jax.Array], x: jax.Array) -> jax.Array:
    """Return ``x`` multiplied by QᵀQ along each axis, and cut to an RMS of 1.1."""
    for i, q in enumerate(factors):
        x = along(along(x, q.T, i), q, i) if q.ndim > 1 else _scaled(_scaled(x, q, i), q, i)
    length = numerics.norm(x) / max(x.size, 1) ** 0.5
    return x / jnp.maximum(1.0, length / LONGEST)


def spectral_norm(a: jax.Array) -> jax.Array:
    """Return a lower bound of the largest eigenvalue of a symmetric matrix without negative ones, most often close.

    Example:
        >>> float(spectral_norm(jnp.diag(jnp.array([1.0, 5.0]))))
        5.0
    """
    size = jnp.max(jnp.abs(a))
    unit = numerics.safe_divide(a, size)
    column = jnp.take(unit, jnp.argmax(jnp.sum(unit**2, axis=0)), axis=1)
    x = product(unit, column[:, None])
    return size * numerics.norm(product(unit, numerics.safe_divide(x, numerics.norm(x))))


def balance(factors: list[jax.Array]) -> list[jax.Array]:
    """Return factors with equal largest elements and the same product."""
    logs = [jnp.log(jnp.max(jnp.abs(q))) for q in factors]
    return [q * jnp.exp(sum(logs) / len(logs) - log) for q, log in zip(factors, logs, strict=True)]
