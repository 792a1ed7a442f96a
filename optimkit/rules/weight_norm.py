"""Weight normalization as a wrapper: the inner rule steps directions and lengths of weights apart."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.rules.base import Step, Tree, Wrapper
from optimkit.rules.clipping import unit_norms

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
        structure: Any = jax.tree.structure(params)
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

        def joined(tree: Tree) -> tuple[list[Any], Tree]:
            moved = structure.flatten_up_to(tree)
            return moved, structure.unflatten([_joined(x, p) for x, p in zip(moved, params, strict=True)])

        def grad_fn(tree: Tree) -> Tree:
            moved, weights = joined(tree)
            return in_parts(moved, structure.flatten_up_to(step.grad_fn(weights)))  # type: ignore[misc]

        def value_and_grad_fn(tree: Tree) -> tuple[Any, Tree]:
            moved, weights = joined(tree)
            value, grads = step.value_and_grad_fn(weights)  # type: ignore[misc]
            return value, in_parts(moved, structure.flatten_up_to(grads))

        inner_step = step.replace(
            grads=in_parts(parts, grads),
            params=structure.unflatten(parts),
            grad_fn=step.grad_fn and grad_fn,
            value_and_grad_fn=step.value_and_grad_fn and value_and_grad_fn,
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
    return unit_norms(x, x.ndim - 1).reshape(-1)


def _first_norm(p: jax.Array) -> jax.Array | None:
    """Return the lengths that directions begin with, or None for a parameter that is not split."""
    split = p.ndim > 0 and p.size > p.shape[-1]
    if not split:
        return None
    # A sum over the other axes has the sharding that norms will have; an array made of a shape has none.
    return jnp.ones_like(jnp.sum(numerics.cast(p, numerics.compute_dtype(p.dtype)), axis=tuple(range(p.ndim - 1))))


def _split(p: jax.Array, norm: jax.Array | None, grad: jax.Array | None = None) -> Any:
    """Return direction and scale of a weight, or the parameter itself where it is not split."""
    return p if norm is None else _taken_apart(p, norm, grad)


def _joined(parts: Any, p: jax.Array) -> jax.Array:
    """Return the weight of a direction and a scale, in the dtype of the parameter."""
    if not isinstance(parts, dict):
        return parts
    v = parts["direction"]
    return numerics.cast(parts["scale"] * numerics.safe_divide(v, _lengths(v)), p.dtype)


def _pulled_back(parts: Any, grad: jax.Array) -> Any:
    """Return the gradients for direction and scale, given that for the weight."""
    return _gradients(parts, grad) if isinstance(parts, dict) else grad


def _moved(p: jax.Array, norm: jax.Array | None, parts: Any, delta: Any) -> tuple[jax.Array, jax.Array | None]:
    """Return the displacement of a weight, given those of its direction and scale, and the next norm."""
    return (delta, None) if norm is None else _put_together(p, norm, parts, delta)


# Compiled for what it saves in tracing: parameters of one shape are traced once, as in ``LeafRule``.


@functools.partial(jax.jit, inline=True)
def _taken_apart(p: jax.Array, norm: jax.Array, grad: jax.Array | None) -> Parts:
    w = numerics.cast(p, norm.dtype)
    length = _lengths(w)
    unit = numerics.safe_divide(w, length)
    if grad is not None:  # a column of zeros has no direction of its own
        g = numerics.cast(grad, norm.dtype)
        unit = jnp.where(length == 0, -numerics.safe_divide(g, _lengths(g)), unit)
    return {"direction": norm * unit, "scale": jnp.where(norm < 0, -length, length)}


@functools.partial(jax.jit, inline=True)
def _gradients(parts: Parts, grad: jax.Array) -> Parts:
    v, g = parts["direction"], parts["scale"]
    grad, length = numerics.cast(grad, v.dtype), _lengths(v)
    unit = numerics.safe_divide(v, length)
    slope = jnp.sum(grad * unit, axis=tuple(range(v.ndim - 1)))
    return {"direction": numerics.safe_divide(g, length) * (grad - slope * unit), "scale": slope}


@functools.partial(jax.jit, inline=True)
def _put_together(p: jax.Array, norm: jax.Array, parts: Parts, delta: Parts) -> tuple[jax.Array, jax.Array]:
    """Return ``g' v' / ‖v'‖ - g v / ‖v‖``, with primes after the step, and ``± ‖v'‖``.

    Not as a difference: its rounding, relative to the weight, would repeat at each small step, and add up. It is
    ``g' / ‖v'‖ · Δv + (Δg / ‖v'‖ - g Δ‖v‖ / (‖v'‖ ‖v‖)) v`` with ``Δ‖v‖ = (v + v') · Δv / (‖v‖ + ‖v'‖)``.
    """
    dv, dg = (numerics.cast(delta[k], norm.dtype) for k in ("direction", "scale"))
    v, g = parts["direction"], parts["scale"]
    before, after = jnp.abs(norm), _lengths(v + dv)
    axes = tuple(range(v.ndim - 1))
    growth = jnp.sum((v + (v + dv)) * (dv / (before + after)), axis=axes)
    along = (dg - g * (growth / before)) * v + (g + dg) * dv
    moved = jnp.where(after > 0, along / jnp.where(after > 0, after, 1.0), -numerics.cast(p, norm.dtype))
    length = jnp.where(after > 0, before + growth, 1.0)
    # Adding 0.0 would turn a weight of -0.0 around.
    still = jnp.all(dv == 0, axis=axes) & (dg == 0)
    return jnp.where(still, -0.0, moved), jnp.where(still, norm, jnp.where(g + dg < 0, -length, length))
