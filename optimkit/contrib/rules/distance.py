"""Rules whose step size is the distance travelled so far, relative to the gradients met on the way."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.base import Rule, Step, Tree
from optimkit.rules.sums import scalar_dtype, wide_leaves

Arrays = list[jax.Array]
Scalars = dict[str, jax.Array]


class _Distance(Rule):
    """Gradient descent whose step size is a function of the way so far and of the gradients on it."""

    chainable = False  # the way depends on the steps that are taken
    _sum: ClassVar[str]  # the name of the sum over gradients

    def init(self, params: Tree) -> Tree:
        """Return ``{"t", "slots": {"way"} for each parameter}`` and the scalars, zero."""
        slots = jax.tree.map(lambda p: {"way": jnp.zeros_like(p, numerics.compute_dtype(p.dtype))}, params)
        return {"t": jnp.zeros((), jnp.int32), "slots": slots, **self._scalars(params)}

    def _scalars(self, params: Tree) -> Scalars:
        return {name: jnp.zeros((), scalar_dtype(params)) for name in ("r", self._sum)}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the gradients times the step size, and the way with them."""
        structure: Any = jax.tree.structure(step.params)
        t = numerics.count_up(state["t"])
        ways = [slot["way"] for slot in structure.flatten_up_to(state["slots"])]
        grads, params = wide_leaves(step.grads, step.params), wide_leaves(step.params, step.params)
        old = {name: state[name] for name in ("r", self._sum)}
        size, scalars = self._size(grads, ways, params, old, t == 1)
        deltas = [-numerics.cast(step.lr, g.dtype) * (size.astype(g.dtype) * g) for g in grads]
        slots = [{"way": way + d} for way, d in zip(ways, deltas, strict=True)]
        scalars = {name: numerics.cast(x, old[name].dtype) for name, x in scalars.items()}
        return structure.unflatten(deltas), {"t": t, "slots": structure.unflatten(slots), **scalars}

    def _size(self, grads: Arrays, ways: Arrays, params: Arrays, old: Scalars, first: Any) -> tuple[Any, Scalars]:
        """Return the step size and the next scalars."""
        raise NotImplementedError


class DoG(_Distance):
    """Gradient descent whose step size is the distance travelled over the root of all gradients' squares.

    ::

        r̄ = max(r̄, ‖x − x₀‖),  at the first step r̄ = reps_rel · (1 + ‖x₀‖)
        G ← G + ‖g‖²
        x ← x − lr · r̄ / √(G + eps) · g              norms over all parameters together

    There is no learning rate to find: use it with ``lr = 1``. It starts with tiny steps and finds their size within
    some ten of them. Evaluate at an average of the way, as the paper does: ``PolynomialAveraged(DoG())``. With
    batch normalization take ``reps_rel=1e-4``. Where layers differ much in scale, take :class:`LDoG`. A weight decay
    stands before it: ``Chain(WeightDecay(r), DoG())``. Memory: one float32 per parameter.

    State: ``way``, x − x₀, shaped as the parameter, float32 (float64), from 0; ``r``, r̄, and ``g2``, G, float32
    scalars, from 0; ``t``, int32.

    Deviations: none in exact arithmetic. x − x₀ is the sum of the displacements, not a difference of parameters: the
    first steps are a millionth of x, which float32 keeps to 6 % and bfloat16 not at all. So x₀ is where training
    starts, whenever weights were loaded; what a constraint, or a wrapper around this rule, does to parameters is not
    in it. ``init_eta`` of the authors' code is left out.

    Reference: Ivgi, Hinder & Carmon 2023, DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule,
    DoG. arXiv:2302.12022.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(DoG(reps_rel=0.5, eps=0.0), lr=1.0)
        >>> params = {"w": jnp.array([3.0, 4.0])}  # r̄ is 0.5 · (1 + 5), the gradient is as long as 10
        >>> apply({"w": jnp.array([10.0, 0.0])}, init(params), params)[1]["w"]
        Array([0., 4.], dtype=float32)
    """

    reference = "Ivgi, Hinder & Carmon 2023, DoG. arXiv:2302.12022"
    _sum = "g2"
    reps_rel: float = hyper(1e-6, "(0, inf)", "first distance, relative to 1 + the norm of the parameters")
    eps: float = hyper(1e-8, "[0, inf)", "added to the sum of squares, inside the root")

    def _size(self, grads: Arrays, ways: Arrays, params: Arrays, old: Scalars, first: Any) -> tuple[Any, Scalars]:
        travelled = jnp.maximum(old["r"], numerics.norm(*ways))
        r = jnp.where(first, self.reps_rel * (1 + numerics.norm(*params)), travelled)
        g2 = old["g2"] + numerics.norm(*grads) ** 2
        return numerics.safe_divide(r, jnp.sqrt(g2 + self.eps)), {"r": r, "g2": g2}


class LDoG(DoG):
    """:class:`DoG` for each parameter by itself, which has a step size of its own.

    ::

        r̄, G, x as in DoG, with the norms of one parameter

    For networks whose layers differ in scale. Use it with ``lr = 1``, and evaluate at an average. Memory: one float32
    per parameter.

    State: ``way``, ``r`` and ``g2`` of each parameter, as in :class:`DoG`; ``t``, int32.

    Deviations: those of :class:`DoG`.

    Reference: Ivgi, Hinder & Carmon 2023, DoG is SGD's Best Friend, L-DoG. arXiv:2302.12022.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(LDoG(reps_rel=0.5, eps=0.0), lr=1.0)
        >>> params = {"a": jnp.array([1.0]), "b": jnp.array([0.0])}
        >>> apply({"a": jnp.array([7.0]), "b": jnp.array([7e-6])}, init(params), params)[1]
        {'a': Array([0.], dtype=float32), 'b': Array([-0.5], dtype=float32)}
    """

    reference = "Ivgi, Hinder & Carmon 2023, L-DoG. arXiv:2302.12022"

    def init(self, params: Tree) -> Tree:
        """Return ``{"t", "slots": {"way", "r", "g2"} for each parameter}``, zero."""
        slots = jax.tree.map(lambda p: {**DoG.init(self, p)["slots"], **self._scalars(p)}, params)
        return {"t": jnp.zeros((), jnp.int32), "slots": slots}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update each parameter as :class:`DoG` updates all of them."""
        structure: Any = jax.tree.structure(step.params)
        leaves = [structure.flatten_up_to(x) for x in (step.grads, step.params, state["slots"])]
        deltas, slots = [], []
        for g, p, slot in zip(*leaves, strict=True):
            one = {"t": state["t"], "slots": {"way": slot["way"]}, "r": slot["r"], "g2": slot["g2"]}
            delta, new = DoG.update(self, step.replace(grads=g, params=p), one)
            deltas.append(delta)
            slots.append({**new["slots"], "r": new["r"], "g2": new["g2"]})
        t = numerics.count_up(state["t"])
        return structure.unflatten(deltas), {"t": t, "slots": structure.unflatten(slots)}


class DoWG(_Distance):
    """:class:`DoG` whose sum of squares weighs each gradient by the distance at which it was met.

    ::

        r̄ = max(r̄, ‖x − x₀‖),  from r_eps
        v ← v + r̄² ‖g‖²
        x ← x − lr · r̄² / (√v + eps) · g             norms over all parameters together

    Early gradients, met near the start, do not shorten later steps for ever, so that it is faster than DoG where the
    start is far off, and less stable: without a warmup it can leave most units of a ReLU network dead. Use it with
    ``lr = 1``. Memory: one float32 per parameter.

    State: ``way``, as in :class:`DoG`; ``r``, r̄, and ``v``, float32 scalars, from 0; ``t``, int32.

    Deviations: those of :class:`DoG`. ``eps`` is not in the paper, whose r_eps is an argument; defaults are those of
    the authors' code, which has one number, 1e-4, for ``eps`` and the square of ``r_eps``.

    Reference: Khaled, Mishchenko & Jin 2023, DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent
    Method, Algorithm 1. arXiv:2305.16284.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(DoWG(r_eps=0.5, eps=0.0), lr=1.0)
        >>> params = {"w": jnp.array([3.0])}
        >>> apply({"w": jnp.array([7.0])}, init(params), params)[1]["w"]  # r̄ along the gradient
        Array([2.5], dtype=float32)
    """

    reference = "Khaled, Mishchenko & Jin 2023, Algorithm 1. arXiv:2305.16284"
    _sum = "v"
    r_eps: float = hyper(1e-2, "(0, inf)", "first distance")
    eps: float = hyper(1e-4, "[0, inf)", "added to the root, outside it")

    def _size(self, grads: Arrays, ways: Arrays, params: Arrays, old: Scalars, first: Any) -> tuple[Any, Scalars]:
        r = jnp.maximum(jnp.where(first, self.r_eps, old["r"]), numerics.norm(*ways))
        v = old["v"] + (r * numerics.norm(*grads)) ** 2
        return numerics.safe_divide(r**2, jnp.sqrt(v) + self.eps), {"r": r, "v": v}
