"""A tuner of the learning rate, around any rule."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.numerics import safe_divide
from optimkit.rules.base import Step, Tree, Wrapper
from optimkit.rules.sums import dot, scalar_dtype, wide_leaves


class Mechanic(Wrapper):
    """Finds the learning rate of the inner rule: the steps that it takes, all together, are scaled as pays best.

    ::

        u = displacement of the inner rule at x
        h = ⟨Δ, g + s_decay · Σs · ‖g‖ x / ‖x‖⟩,  Δ ← Δ + u            over all parameters
        for i = 1 ... n,  βᵢ = 1 − 10⁻ⁱ:
            mᵢ ← max(βᵢ mᵢ, |h|),  vᵢ ← βᵢ² vᵢ + h²
            rᵢ ← max(βᵢ rᵢ − sᵢ h, 0)
            sᵢ ← (s_init / n · mᵢ + rᵢ) / (√vᵢ + eps)
        x ← x₀ + Σs · Δ

    ``lr`` is the inner rule's: use it with 1, times a schedule; Mechanic finds the factor, which is ``sum(s)`` in the
    state. For SGD, Momentum, Adam and Lion, with their decay as it is; not for rules whose steps are as long as
    parameters are, such as LARS. The first steps are tiny, and grow fast. Memory: two float32 per parameter.

    State: ``inner``; ``x0``, the parameters at the first step, and ``offset``, Δ, from 0, shaped as the parameter,
    float32 (float64); ``s``, ``m``, ``root_v``, √v, and ``r``, float32 vectors of n elements, from 0 (m from
    ``m_init``); ``t``, int32.

    Deviations: x₀ is where training starts, not where the rule was made, so that weights may be loaded between. The
    authors' code has 1e-6 for ``m_init``, the paper 0, and takes x + u for x in the second line. optax 0.2.8 recovers Δ
    from x, which is memory saved and digits lost; begins with s at ``s_init``, which it moves by at the first step;
    adds eps to |h| in m; clips h to ±m; and stores r below 0.

    Reference: Cutkosky, Defazio & Mehta 2023, Mechanic: A Learning Rate Tuner, Algorithm 1. arXiv:2306.00144.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(Mechanic(rules.SGD()), lr=1.0)
        >>> params = {"w": jnp.array([3.0])}; state = init(params)
        >>> for _ in range(100): state, params = apply({"w": 1e4 * params["w"]}, state, params)  # the loss is 5e3 w²
        >>> bool(abs(params["w"][0]) < 0.3), bool(1e-6 < state["s"].sum() < 1e-3)
        (True, True)
    """

    reference = "Cutkosky, Defazio & Mehta 2023, Algorithm 1. arXiv:2306.00144"
    chainable = False  # the scale depends on the steps that are taken
    s_init: float = hyper(1e-8, "(0, inf)", "first scale")
    s_decay: float = hyper(0.01, "[0, inf)", "λ, a decay of the scale where it makes parameters large")
    num_betas: int = hyper(6, "int [1, 9]", "n, number of tuners, each of a memory ten times as long")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root of v and to the norm of the parameters")
    m_init: float = hyper(0.0, "[0, inf)", "largest |h| before the first step")

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state, where training begins, the sum of displacements, and the tuners."""
        zeros = {name: jnp.zeros(self.num_betas, scalar_dtype(params)) for name in ("s", "root_v", "r")}
        still = jax.tree.map(lambda p: jnp.zeros_like(p, numerics.compute_dtype(p.dtype)), params)
        return {
            "inner": self.inner.init(params),
            "x0": still,  # until the first step, which knows it: weights may be loaded between
            "offset": jax.tree.map(jnp.copy, still),
            "t": jnp.zeros((), jnp.int32),
            **zeros,
            "m": jnp.full_like(zeros["s"], self.m_init),
        }

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Take the inner rule's displacement into the sum, and scale the sum anew."""
        u, inner = self.inner.update(step, state["inner"])
        structure: Any = jax.tree.structure(step.params)
        g, x, u = (wide_leaves(tree, step.params) for tree in (step.grads, step.params, u))
        offset = structure.flatten_up_to(state["offset"])
        first = state["t"] == 0
        x0 = [jnp.where(first, p, a) for p, a in zip(x, structure.flatten_up_to(state["x0"]), strict=True)]
        dtype = state["s"].dtype
        g_norm, x_norm = (numerics.cast(numerics.norm(*tree), dtype) for tree in (g, x))
        decay = self.s_decay * jnp.sum(state["s"]) * safe_divide(g_norm, x_norm + self.eps)
        tuners = self._tuned(state, dot(offset, g, dtype) + decay * dot(offset, x, dtype))
        offset = [d + u for d, u in zip(offset, u, strict=True)]
        scale = jnp.sum(tuners["s"])
        deltas = [a + scale.astype(p.dtype) * d - p for a, d, p in zip(x0, offset, x, strict=True)]
        return structure.unflatten(deltas), {
            "inner": inner,
            "x0": structure.unflatten(x0),
            "offset": structure.unflatten(offset),
            "t": numerics.count_up(state["t"]),
            **tuners,
        }

    def _tuned(self, state: Tree, h: jax.Array) -> dict[str, jax.Array]:
        """Return the next state of the tuners, after a product h."""
        s, m, root_v, r = (state[name] for name in ("s", "m", "root_v", "r"))
        rest = jnp.asarray([0.1**i for i in range(1, self.num_betas + 1)], s.dtype)  # 1 − β, which keeps its digits
        m = jnp.maximum(m - rest * m, jnp.abs(h))
        root_v = _hypotenuse(root_v - rest * root_v, jnp.abs(h))  # v itself is a fourth power of gradients
        r = jnp.maximum(r - rest * r - s * h, 0.0)
        s = safe_divide(self.s_init / self.num_betas * m + r, root_v + self.eps)
        return {"s": s, "m": m, "root_v": root_v, "r": r}

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the inner rule evaluates at."""
        return self.inner.eval_params(state["inner"], params)


def _hypotenuse(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return √(a² + b²) of numbers that are not negative, without squares that overflow."""
    large = jnp.maximum(a, b)
    return large * jnp.sqrt(1 + safe_divide(jnp.minimum(a, b), large) ** 2)
