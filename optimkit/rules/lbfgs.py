"""L-BFGS: the inverse of the second derivatives from the last steps, and a line search for how far to go."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.errors import CompositionError, message
from optimkit.hyper import hyper
from optimkit.rules.base import Rule, Step, Tree, displace
from optimkit.rules.linesearch import Found, LineSearch, Zoom
from optimkit.rules.sums import dot, scalar_dtype

Leaves = list[jax.Array]


class LBFGS(Rule):
    """Newton's direction without second derivatives: they are estimated from the last steps and gradient changes.

    ::

        s = p − p',  y = g − g'             p', g' of the step before; kept if s·y > eps ‖s‖ ‖y‖
        q ← g;  for the pairs from the newest to the oldest:   aᵢ = s·q / s·y;   q ← q − aᵢ y
        r ← γ q,  γ = s·y / y·y of the newest pair
        for the pairs from the oldest to the newest:           b = y·r / s·y;    r ← r + s (aᵢ − b)
        p ← p − lr · α · r,  α from the line search

    For losses that are the same function at each step: the whole data set, fits, inverse problems, physics. There it
    converges much faster than first-order rules, and needs no learning rate to be tuned. Not for mini-batches: the
    change of the gradient then is mostly that of the batch. Drive it with ``opt.minimize(loss_fn, *args)``, which lets
    the search evaluate the loss; in a functional loop give ``value=`` and ``value_and_grad_fn=``.

    ``lr`` is the first step that the search tries, in units of r: 1 is the method's own. ``Backtracking`` only shortens
    it, ``Zoom`` lengthens it, too. With ``line_search=None`` the step is lr · r and gradients are all that is needed.
    Without a pair, at the first step above all, r is min(1, 1/‖g‖) g: steepest descent.

    The line search is ``Zoom()``, ``Backtracking()``, another :class:`LineSearch`, or None. Cost: one loss and gradient
    a step, and those of the search, one where its first step is good. Memory: 2 · memory_size + 2 numbers per
    parameter.

    Where the search finds no better point, the parameters stay and the pairs are forgotten, so that the next step tries
    steepest descent; ``failed`` counts that, and searches that ended at their bound of evaluations. Where the loss or a
    gradient is not finite, nothing changes but ``failed``.

    In a ``Chain``, rules before it change gradients and not the loss that is searched: put a penalty into the loss
    instead. In a data-parallel program average the loss inside of ``loss_fn``, or copies go different ways. A search
    ends when it has found, so JAX differentiates a step with one forwards (``jax.jvp``), not backwards.

    State: by parameter, ``s`` and ``y``, float32[memory_size, ...], a ring in which each pair is divided by the norms
    of its two sides, over all parameters; ``params`` and ``grads``, p' and g'. For the pairs, float32[memory_size],
    ``cosine``, s·y / ‖s‖ ‖y‖, 0 for none, and ``curvature``, ‖y‖ / ‖s‖. ``position``, int32, where the next pair goes;
    ``alpha``, float32, the last α, 0 where nothing moved; ``evaluations`` and ``failed``, int32, of all searches so
    far; ``t``, int32, the number of finite steps. float64 where a parameter is.

    Deviations: none from the recursion; the pairs are stored as unit vectors, which it does not notice. Pairs without
    positive curvature are left out. A direction that is not finite or not downhill is replaced by steepest descent, and
    the pairs are forgotten. s is the difference of parameters as they are, rounded or constrained since.

    Raises:
        CompositionError: ``line_search`` is not a line search.

    Reference: Liu & Nocedal 1989, On the Limited Memory BFGS Method for Large Scale Optimization, Mathematical
    Programming 45, pp. 503-528; Nocedal & Wright 2006, Numerical Optimization, Algorithms 7.4 and 7.5, eq. 7.20.

    Example:
        >>> import optimkit
        >>> w = optimkit.TrainVar(jnp.array([3.0, -1.0]))
        >>> opt = optimkit.optimizer.LBFGS(optimkit.VarCollection({"w": w}), lr=1.0)
        >>> loss_fn = lambda target: jnp.sum(jnp.array([1.0, 100.0]) * (w - target) ** 2)
        >>> losses = [opt.minimize(loss_fn, 2.0) for _ in range(10)]
        >>> [f"{x:.4f}" for x in w.value]
        ['2.0000', '2.0000']
    """

    reference = "Liu & Nocedal 1989. Mathematical Programming 45; Nocedal & Wright 2006, Algorithms 7.4 and 7.5"
    memory_size: int = hyper(10, "int [1, inf)", "how many pairs are remembered")
    line_search: LineSearch | None = dataclasses.field(default=Zoom())

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.line_search, LineSearch | None):
            is_class = isinstance(self.line_search, type)
            raise CompositionError(message(
                "LBFGS", "line_search is not a line search.", "Zoom(), Backtracking(), another LineSearch, or None",
                f"{self.line_search!r}", f"Call it: {self.line_search.__name__}()." if is_class else ""))  # fmt: skip

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The loss, here and elsewhere; nothing without a line search."""
        return () if self.line_search is None else ("value", "value_and_grad_fn")

    @property
    def chainable(self) -> bool:  # type: ignore[override]
        """Only without a line search."""
        return self.line_search is None

    def init(self, params: Tree) -> Tree:
        """Return an empty memory."""
        m, dtype = self.memory_size, scalar_dtype(params)

        def slot(p: Any) -> dict[str, jax.Array]:
            # Made from the parameter, they are sharded as it is.
            wide = numerics.compute_dtype(p.dtype)
            pair = {name: jnp.stack([jnp.zeros_like(p, wide)] * m) for name in ("s", "y")}
            return pair | {name: jnp.zeros_like(p, wide) for name in ("params", "grads")}

        return {
            "slots": jax.tree.map(slot, params),
            **{name: jnp.zeros(m, dtype) for name in ("cosine", "curvature")},
            **{name: jnp.zeros((), jnp.int32) for name in ("t", "position", "evaluations", "failed")},
            "alpha": jnp.zeros((), dtype),
        }

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the step that the line search finds along the direction of the two-loop recursion."""
        structure: Any = jax.tree.structure(step.params)
        params = [numerics.cast(p, numerics.compute_dtype(p.dtype)) for p in jax.tree.leaves(step.params)]
        grads = [numerics.cast(g, p.dtype) for g, p in zip(structure.flatten_up_to(step.grads), params, strict=True)]
        value = None if self.line_search is None else numerics.cast(step.value, state["alpha"].dtype)
        norm = numerics.norm(*grads)
        finite = jnp.isfinite(norm) & (True if value is None else jnp.isfinite(value))
        memory = {**state, "slots": structure.flatten_up_to(state["slots"])}
        lr = numerics.cast(step.lr, state["alpha"].dtype)
        ray, slope, new = _direct(params, grads, memory, lr, finite)
        found = self._search(step, structure, ray, slope, value)
        alpha = jnp.where(finite & (norm > 0), numerics.cast(found.alpha, slope.dtype), 0.0)
        # Where no better point was found the direction was bad: the next step starts anew.
        new["cosine"] = jnp.where(finite & found.failed & (alpha == 0), 0.0, new["cosine"])
        new["evaluations"] = _add(state["evaluations"], found.evaluations)
        new["failed"] = _add(state["failed"], (found.failed | ~finite).astype(jnp.int32))
        # -0.0 is the number that changes no number, not even -0.0, when it is added.
        delta = [jnp.where(alpha > 0, alpha.astype(d.dtype) * d, -0.0) for d in ray]
        return structure.unflatten(delta), {**new, "alpha": alpha, "slots": structure.unflatten(new["slots"])}

    def _search(self, step: Step, structure: Any, ray: Leaves, slope: Any, value: Any) -> Found:
        if self.line_search is None:
            return Found(jnp.ones_like(slope), jnp.zeros((), jnp.int32), jnp.zeros((), bool))

        def phi(alpha: Any) -> tuple[Any, Any]:
            moved = displace(step.params, structure.unflatten([alpha.astype(d.dtype) * d for d in ray]))
            value, grads = step.value_and_grad_fn(moved)  # type: ignore[misc]
            wide = [numerics.cast(g, d.dtype) for g, d in zip(structure.flatten_up_to(grads), ray, strict=True)]
            return numerics.cast(value, slope.dtype), dot(wide, ray, slope.dtype)

        return self.line_search.search(phi, value, slope, float(jnp.finfo(jnp.result_type(step.value)).eps))


@functools.partial(jax.jit, inline=True)
def _direct(params: Leaves, grads: Leaves, memory: dict[str, Any], lr: Any, finite: Any) -> Any:
    """Return lr times the direction, the slope along that, and the memory with the last pair in it."""
    memory = _remember(params, grads, memory, finite)
    dtype, norm = memory["cosine"].dtype, numerics.norm(*grads)
    first = jnp.where(norm > 1, numerics.safe_divide(1.0, norm), 1.0)
    newton = _two_loops(grads, memory)
    slope = dot(grads, newton, dtype)
    usable = (memory["cosine"].max() > 0) & jnp.isfinite(slope) & (slope < 0)
    ray = [lr.astype(g.dtype) * jnp.where(usable, d, -first.astype(g.dtype) * g)
           for d, g in zip(newton, grads, strict=True)]  # fmt: skip
    forget = ~usable & finite & (norm > 0)  # a gradient of 0 has no direction, which is not the fault of the pairs
    return ray, dot(grads, ray, dtype), memory | {"cosine": jnp.where(forget, 0.0, memory["cosine"])}


def _remember(params: Leaves, grads: Leaves, memory: dict[str, Any], finite: Any) -> dict[str, Any]:
    """Put the last step and the change of the gradient into the ring, if they show positive curvature."""
    slots, dtype = memory["slots"], memory["cosine"].dtype
    m = len(memory["cosine"])
    s = [p - slot["params"] for p, slot in zip(params, slots, strict=True)]
    y = [g - slot["grads"] for g, slot in zip(grads, slots, strict=True)]
    s_norm, y_norm = (numerics.norm(*x).astype(dtype) for x in (s, y))
    s, y = _unit(s, s_norm), _unit(y, y_norm)
    cosine, curvature = dot(s, y, dtype), numerics.safe_divide(y_norm, s_norm)
    info = jnp.finfo(dtype)
    good = finite & (memory["t"] > 0) & (cosine > info.eps)
    good &= (curvature > info.tiny) & (curvature < 1 / info.tiny)
    at = memory["position"] % m

    def put(ring: jax.Array, x: jax.Array) -> jax.Array:
        return ring.at[at].set(jnp.where(good, x, ring[at]))

    def put_pair(slot: dict[str, jax.Array], s: Any, y: Any, p: Any, g: Any) -> dict[str, jax.Array]:
        last = {"params": jnp.where(finite, p, slot["params"]), "grads": jnp.where(finite, g, slot["grads"])}
        return {"s": put(slot["s"], s), "y": put(slot["y"], y), **last}

    return memory | {
        "slots": list(map(put_pair, slots, s, y, params, grads)),
        "cosine": put(memory["cosine"], cosine),
        "curvature": put(memory["curvature"], curvature),
        "position": jnp.where(good, (at + 1) % m, at),
        "t": jnp.where(finite, numerics.count_up(memory["t"]), memory["t"]),
    }


def _two_loops(grads: Leaves, memory: dict[str, Any]) -> Leaves:
    """Return minus the inverse of the second derivatives times the gradient (Algorithm 7.4).

    With unit vectors for s and y, c their cosine and k = ‖y‖ / ‖s‖:  a = s·q / c,  q ← q − a y,  γ = c / k,
    b = y·r / c,  r ← r + s (a / k − b). The numbers are those of the algorithm, and no product over- or underflows.
    """
    cosine, slots = memory["cosine"], memory["slots"]
    m, dtype = len(cosine), cosine.dtype
    used = cosine > 0
    count = jnp.sum(used, dtype=jnp.int32)
    c, k = jnp.where(used, cosine, 1.0), jnp.where(used, memory["curvature"], 1.0)
    oldest, newest = (memory["position"] - count) % m, (memory["position"] - 1) % m

    def backward(i: Any, carry: Any) -> Any:
        q, a = carry
        j = (newest - i) % m
        a_j = jnp.where(used[j], dot([slot["s"][j] for slot in slots], q, dtype) / c[j], 0.0)
        q = [x - a_j.astype(x.dtype) * slot["y"][j] for x, slot in zip(q, slots, strict=True)]
        return q, a.at[j].set(a_j)

    def forward(i: Any, r: Leaves) -> Leaves:
        j = (oldest + i) % m
        b = dot([slot["y"][j] for slot in slots], r, dtype) / c[j]
        change = jnp.where(used[j], a[j] / k[j] - b, 0.0)
        return [x + change.astype(x.dtype) * slot["s"][j] for x, slot in zip(r, slots, strict=True)]

    q, a = jax.lax.fori_loop(0, count, backward, (grads, jnp.zeros_like(cosine)))
    gamma = c[newest] / k[newest]
    r = jax.lax.fori_loop(0, count, forward, [gamma.astype(x.dtype) * x for x in q])
    return [-x for x in r]


def _unit(xs: Leaves, norm: Any) -> Leaves:
    return [numerics.safe_divide(x, norm.astype(x.dtype)) for x in xs]


def _add(total: jax.Array, n: jax.Array) -> jax.Array:
    """Return the sum of int32 counts, which stops at 2**31 - 1."""
    return jnp.where(total > numerics.INT32_MAX - n, numerics.INT32_MAX, total + n)
