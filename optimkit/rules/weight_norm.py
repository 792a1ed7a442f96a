"""Weight normalization as a wrapper: the inner rule steps directions and lengths of weights apart."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.rules.base import Step, Tree, Wrapper

Parts = dict[str, jax.Array]


class WeightNorm(Wrapper):
    """Lets the inner rule step the direction and the length of each column of a weight apart.

    ::

        w = g v / ‖v‖,  norms over all axes but the last
        ∇g = ∇w · v / ‖v‖
        ∇v = (g / ‖v‖) (∇w − ∇g v / ‖v‖)

    The inner rule gets v and g and their gradients, as ``direction`` and ``scale``; weights are put together after its
    step. Directions step the less the longer v is, and v grows with each step: a step size that settles by itself. For
    networks without batch normalization. Parameters with one number a column or less (biases, scalars) pass as they
    are. ``WeightNorm(Chain(Masked(WeightDecay(r), r"direction$"), SGD()))`` decays directions only. Memory: one float32
    per column, and what the inner rule keeps.

    State: ``inner``, with slots for ``direction`` (shaped as the parameter) and ``scale`` (one number per column) of
    each; ``norm``, ‖v‖ with the sign of g, one number per column, float32 (float64), from 1.

    Deviations: v and g are not stored: they are ``norm`` · w / ‖w‖ and ±‖w‖. So a parameter that is changed from
    outside is where the next step begins (flax.optim wrote its own copy over it). A column of zeros, whose direction
    is undefined, takes that of steepest descent (and would not be moved at all in the paper). v starts with length 1,
    as in flax.optim; in PyTorch it starts as w.

    Reference: Salimans & Kingma 2016, Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep
    Neural Networks, equations (2) and (3). arXiv:1602.07868.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.WeightNorm(rules.SGD()), lr=1.0)
        >>> params = {"w": jnp.array([[3.0], [4.0]])}  # one column, of length 5
        >>> apply({"w": jnp.array([[0.6], [0.8]])}, init(params), params)[1]["w"].ravel()  # 5 - 1
        Array([2.4, 3.2], dtype=float32)
    """

    reference = "Salimans & Kingma 2016, equations (2) and (3). arXiv:1602.07868"
    chainable = False  # weights are not linear in v, nor is ‖v‖ independent of the step

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state for directions and scales, and the norms."""
        norm = jax.tree.map(_first_norm, params)
        structure = jax.tree.structure(params)
        pairs = zip(jax.tree.leaves(params), structure.flatten_up_to(norm), strict=True)
        return {"inner": self.inner.init(structure.unflatten([_split(p, n) for p, n in pairs])), "norm": norm}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update directions and scales as the inner rule does, and put the weights together."""
        structure: Any = jax.tree.structure(step.params)
        params, grads = jax.tree.leaves(step.params), structure.flatten_up_to(step.grads)
        norms = structure.flatten_up_to(state["norm"])
        parts = [_split(p, n, g) for p, n, g in zip(params, norms, grads, strict=True)]

        def in_parts(parts: list[Any], grads: list[Any]) -> Tree:
            return structure.unflatten([_pulled_back(x, g) for x, g in zip(parts, grads, strict=True)])

        def grad_fn(tree: Tree) -> Tree:
            """Return the gradients elsewhere, for rules that ask for them."""
            moved = structure.flatten_up_to(tree)
            joined = [_joined(x, p) for x, p in zip(moved, params, strict=True)]
            return in_parts(moved, structure.flatten_up_to(step.grad_fn(structure.unflatten(joined))))  # type: ignore[misc]

        inner_step = step.replace(
            grads=in_parts(parts, grads), params=structure.unflatten(parts), grad_fn=step.grad_fn and grad_fn
        )
        delta, inner = self.inner.update(inner_step, state["inner"])
        deltas = structure.flatten_up_to(delta)
        moved = [_moved(p, n, x, d) for p, n, x, d in zip(params, norms, parts, deltas, strict=True)]
        return structure.unflatten([d for d, _ in moved]), {
            "inner": inner,
            "norm": structure.unflatten([n for _, n in moved]),
        }

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return the weights of the directions and scales that the inner rule evaluates at."""
        structure: Any = jax.tree.structure(params)
        leaves = jax.tree.leaves(params)
        parts = [_split(p, n) for p, n in zip(leaves, structure.flatten_up_to(state["norm"]), strict=True)]
        own = structure.flatten_up_to(self.inner.eval_params(state["inner"], structure.unflatten(parts)))
        return structure.unflatten([
            p if all(a is b for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)) else _joined(y, p)
            for p, x, y in zip(leaves, parts, own, strict=True)
        ])  # fmt: skip


def _lengths(x: jax.Array) -> jax.Array:
    """Return the norms of the columns: over all axes but the last."""
    return jax.vmap(numerics.norm, in_axes=-1)(x)


def _first_norm(p: jax.Array) -> jax.Array | None:
    """Return the lengths that directions begin with, or None for a parameter that is not split."""
    split = p.ndim > 0 and p.size > p.shape[-1]
    return jnp.ones(p.shape[-1:], numerics.compute_dtype(p.dtype)) if split else None


def _split(p: jax.Array, norm: jax.Array | None, grad: jax.Array | None = None) -> Any:
    """Return direction and scale of a weight, or the parameter itself where it is not split."""
    if norm is None:
        return p
    w = numerics.cast(p, norm.dtype)
    unit = numerics.safe_divide(w, _lengths(w))
    if grad is not None:  # a column of zeros has no direction of its own
        g = numerics.cast(grad, norm.dtype)
        unit = jnp.where(_lengths(w) == 0, -numerics.safe_divide(g, _lengths(g)), unit)
    return {"direction": norm * unit, "scale": jnp.where(norm < 0, -_lengths(w), _lengths(w))}


def _joined(parts: Parts | jax.Array, p: jax.Array) -> jax.Array:
    """Return the weight of a direction and a scale, in the dtype of the parameter."""
    if not isinstance(parts, dict):
        return parts
    v = parts["direction"]
    return numerics.cast(parts["scale"] * numerics.safe_divide(v, _lengths(v)), p.dtype)


def _pulled_back(parts: Parts | jax.Array, grad: jax.Array) -> Any:
    """Return the gradients for direction and scale, given that for the weight."""
    if not isinstance(parts, dict):
        return grad
    v, g = parts["direction"], parts["scale"]
    grad, length = numerics.cast(grad, v.dtype), _lengths(v)
    unit = numerics.safe_divide(v, length)
    slope = jnp.sum(grad * unit, axis=tuple(range(v.ndim - 1)))
    return {"direction": numerics.safe_divide(g, length) * (grad - slope * unit), "scale": slope}


def _moved(p: jax.Array, norm: jax.Array | None, parts: Any, delta: Any) -> tuple[jax.Array, jax.Array | None]:
    """Return the displacement of a weight, given those of its direction and scale, and the next norm."""
    if norm is None:
        return delta, None
    v, g = (parts[k] + numerics.cast(delta[k], norm.dtype) for k in ("direction", "scale"))
    length = _lengths(v)
    # Put together again, a weight is the same to rounding only: where nothing has moved, nothing may.
    still = jnp.all(delta["direction"] == 0, axis=tuple(range(v.ndim - 1))) & (delta["scale"] == 0)
    moved = _joined({"direction": v, "scale": g}, norm) - numerics.cast(p, norm.dtype)
    signed = jnp.where(g < 0, -1.0, 1.0) * jnp.where(length > 0, length, 1.0)
    return jnp.where(still, -0.0, moved), jnp.where(still, norm, signed)
