"""GaLore: a rule on gradients of low rank."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.contrib.rules.matrices import placed_as, product, whole, zeros_along
from optimkit.contrib.rules.routing import EMBEDDINGS_AND_HEADS, matches
from optimkit.errors import CompositionError, message
from optimkit.hyper import hyper
from optimkit.rules.adam import Adam
from optimkit.rules.base import Rule, Slot, Step, Tree, Wrapper
from optimkit.rules.compose import Match, compiled, shown_match
from optimkit.rules.gated import choose
from optimkit.tree import names_and_leaves


class GaLore(Wrapper):
    """Lets the inner rule see matrices through a projection to ``rank`` dimensions, so that it remembers less.

    ::

        P = the first ``rank`` left singular vectors of G,  every ``frequency`` steps      for m x n with m <= n
        R = Pᵀ G
        p ← p + scale · P · (the inner rule's displacement for R)                          for m > n: R = G P, … Pᵀ

    For the training of large models where Adam's moments do not fit, at Adam's learning rate. It acts on parameters of
    two axes, both longer than ``rank``, whose name or array ``elsewhere`` does not match; the inner rule sees all
    others as they are. ``routes(params)`` tells which. Inside the projection it sees Pᵀ p for a parameter, so weight
    decay belongs outside: ``Chain(GaLore(Adam()), WeightDecay(0.01))``; so does what evaluates elsewhere or averages.
    Memory: rank · (m + n) float32 for a matrix with SGD's momentum, rank · (m + 2 n) with Adam; nothing for m · n.

    State: ``inner``, that of the inner rule for the projected parameters; ``bases``: for each matrix ``p``, float32,
    m x rank, from the first columns of the identity, and ``wait``, int32, the steps until the next decomposition.

    Deviations: the inner rule is any, the paper's and its code's is Adam. As in both, the shorter side is projected;
    optax 0.2.8 projects the longer one, and matrices of any size. Columns of P have the signs that are nearest to the
    old ones, so that moments which are kept when it changes, as in the paper, still mean something. A gradient that is
    0 throughout gives no P: the next one does. Decompositions are in float32. ``elsewhere`` stands for the lists of
    modules in the code.

    Reference: Zhao et al. 2024, GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection, Algorithm 2.
    arXiv:2403.03507.

    Raises:
        CompositionError: the inner rule needs gradients elsewhere, or ``elsewhere`` is no match.

    Example:
        >>> from optimkit import contrib, pure, rules
        >>> init, apply = pure(contrib.rules.GaLore(rules.SGD(), rank=1, scale=1.0), lr=1.0)
        >>> params = {"w": jnp.zeros((2, 2))}
        >>> g = {"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
        >>> apply(g, init(params), params)[1]["w"] + 0.0  # the larger singular value
        Array([[-3.,  0.],
               [ 0.,  0.]], dtype=float32)
    """

    reference = "Zhao et al. 2024, Algorithm 2. arXiv:2403.03507"
    inner: Rule = Adam()
    rank: int = hyper(128, "int [1, inf)", "dimensions of the projection")
    frequency: int = hyper(200, "int [1, 2147483647]", "steps from one projection to the next")
    scale: float = hyper(0.25, "(0, inf)", "factor of the inner rule's displacement, α in the paper")
    elsewhere: Match = EMBEDDINGS_AND_HEADS

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "elsewhere", compiled("GaLore(elsewhere=...)", self.elsewhere))
        if {"grad_fn", "value_and_grad_fn"} & set(self.inner.needs):
            name = type(self.inner).__name__
            raise CompositionError(message(
                "GaLore", f"{name} needs gradients elsewhere, which are not projected.", "a rule that does not", name,
                f"Put it outside, if it is a wrapper: {name}(GaLore(...))."))  # fmt: skip

    def _projects(self, name: str, x: Any) -> bool:
        return x.ndim == 2 and min(x.shape) > self.rank and not matches(self.elsewhere, name, x)

    def routes(self, params: Tree) -> dict[str, str]:
        """Return for each parameter, by name, whether it is ``"projected"``, or ``"whole"``."""
        names, leaves, _ = names_and_leaves(params)
        return {n: "projected" if self._projects(n, x) else "whole" for n, x in zip(names, leaves, strict=True)}

    def init(self, params: Tree) -> Tree:
        """Return the bases, columns of the identity, and the inner rule's state for projected parameters."""
        names, leaves, _ = names_and_leaves(params)
        flat = dict(zip(names, leaves, strict=True))
        bases = {n: self._new(x) for n, x in flat.items() if self._projects(n, x)}
        small = {n: down(wide(x, bases[n]["p"].dtype), bases[n]["p"]) if n in bases else x for n, x in flat.items()}
        return {"inner": self.inner.init(small), "bases": bases}

    def _new(self, x: jax.Array) -> Slot:
        dtype = numerics.compute_dtype(x.dtype)
        shorter = zeros_along(wide(x, dtype), int(x.shape[0] > x.shape[1]))
        return {
            "p": jnp.eye(len(shorter), self.rank, dtype=dtype) + shorter[:, None],
            "wait": jnp.zeros((), jnp.int32),
        }

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Project the gradients, update as the inner rule does, and project its displacement back."""
        names, leaves, structure = names_and_leaves(step.params)
        params = dict(zip(names, leaves, strict=True))
        grads = dict(zip(names, structure.flatten_up_to(step.grads), strict=True))
        bases = {n: self._turned(wide(grads[n], basis["p"].dtype), basis) for n, basis in state["bases"].items()}

        def small(tree: dict[str, Any]) -> dict[str, Any]:
            return {n: down(wide(x, bases[n]["p"].dtype), bases[n]["p"]) if n in bases else x for n, x in tree.items()}

        inner = step.replace(grads=small(grads), params=small(params))
        deltas, new = self.inner.update(inner, state["inner"])
        for n, basis in bases.items():
            back = up(numerics.cast(deltas[n], basis["p"].dtype), basis["p"], params[n].shape)
            deltas[n] = placed_as(self.scale * back, params[n])
        return structure.unflatten([deltas[n] for n in names]), {"inner": new, "bases": bases}

    def _turned(self, g: jax.Array, basis: Slot) -> Slot:
        """Return the basis for this gradient: a new one when it is time, and the gradient is not 0."""
        due = (basis["wait"] <= 0) & jnp.any(g != 0)
        p = choose(due, lambda: singular_vectors(g, basis["p"]), lambda: basis["p"])
        left = jnp.maximum(basis["wait"] - 1, 0)
        return {"p": p, "wait": jnp.where(due, self.frequency - 1, left).astype(jnp.int32)}

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return the parameters themselves."""
        return params

    def __repr__(self) -> str:
        shown = "" if self.elsewhere == EMBEDDINGS_AND_HEADS else f", elsewhere={shown_match(self.elsewhere)}"
        plain = {n: x for n, x in self._fields().items() if n != "elsewhere"}
        return f"GaLore({', '.join(f'{n}={x!r}' for n, x in plain.items())}{shown})"


def wide(x: jax.Array, dtype: Any) -> jax.Array:
    """Return a whole matrix in the dtype of the arithmetic."""
    return whole(numerics.cast(x, dtype))


def down(g: jax.Array, p: jax.Array) -> jax.Array:
    """Return ``Pᵀ G``, or ``G P`` for more rows than columns."""
    return product(g, p) if g.shape[0] > g.shape[1] else product(p.T, g)


def up(r: jax.Array, p: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return ``P R``, or ``R Pᵀ`` for more rows than columns."""
    return product(r, p.T) if shape[0] > shape[1] else product(p, r)


def singular_vectors(g: jax.Array, old: jax.Array) -> jax.Array:
    """Return the first singular vectors of the shorter side of ``g``, with the signs that are nearest to ``old``."""
    unit = numerics.safe_divide(g, jnp.max(jnp.abs(g)))
    left = jnp.linalg.svd(unit.T if g.shape[0] > g.shape[1] else unit, full_matrices=False)[0]
    p = left[:, : old.shape[1]]
    return p * jnp.where(jnp.sum(p * old, axis=0) < 0, -1.0, 1.0).astype(p.dtype)
