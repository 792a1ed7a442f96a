"""Defects at 0/0: a gradient of zero, which every dead unit and every frozen branch has, makes the run NaN."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import norm, safe_divide
from optimkit.rules import LeafRule, Rule, Step

from .exhibit import exhibit, sum_of_squares, wide, zeros

ZERO = "check_finite_on_zero_gradients"


def ratio(defect: bool, numerator: Any, denominator: Any) -> Any:
    """Return a quotient, which at 0/0 is NaN with the defect and 0 without."""
    return numerator / denominator if defect else safe_divide(numerator, denominator)


def l1(tree: Any) -> Any:
    """Return the sum of absolute values of a tree."""
    return sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(tree))


def dot(a: Any, b: Any) -> Any:
    """Return the inner product of two trees."""
    return sum(jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@exhibit(
    origin="optax 0.2.8, contrib.prodigy, _prodigy.py:47",
    notes=("optax.md", "**NaN on the very first all-zero gradient**"),
    story="The distance is a quotient by the length of the sum of gradients, and the guard of the authors' own code "
    "was not taken over: one batch without gradients at the start, and all is NaN.",
    rejected_by=ZERO,
    says=r"displacements at step 1, float16, gradients of size 0e\+00: 'bias'\[0\] is not finite",
)
class UnguardedProdigy(Rule):
    chainable = False

    def init(self, params: Any) -> Any:
        return {"start": wide(params), "sum": zeros(params), "numerator": jnp.float32(0), "d": jnp.float32(1e-6)}

    def update(self, step: Step, state: Any) -> Any:
        grads, params, d = wide(step.grads), wide(step.params), state["d"]
        way = jax.tree.map(lambda a, b: a - b, state["start"], params)
        numerator = (state["numerator"] + d * step.lr * dot(grads, way)).astype(jnp.float32)
        total = jax.tree.map(lambda s, g: (s + d * g).astype(s.dtype), state["sum"], grads)
        d = jnp.maximum(d, ratio(self.defect, numerator, l1(total))).astype(jnp.float32)
        new = {"start": state["start"], "sum": total, "numerator": numerator, "d": d}
        return jax.tree.map(lambda g: -step.lr * d * g, grads), new


@exhibit(
    origin="optax 0.2.8, contrib.dadapt_adamw, _dadapt_adamw.py:42",
    notes=("optax.md", "`estim_lr` NaN after one all-zero-gradient step, params NaN after two"),
    story="The same quotient, used one step later: the first step without gradients spoils the state unseen, and the "
    "next one every parameter, whatever its gradients are.",
    rejected_by=ZERO,
    says=r"state at step 1, float16, gradients of size 0e\+00: 'd' is not finite",
)
class UnguardedDAdaptation(Rule):
    chainable = False

    def init(self, params: Any) -> Any:
        return {"sum": zeros(params), "d": jnp.float32(1e-6)}

    def update(self, step: Step, state: Any) -> Any:
        grads, d = wide(step.grads), state["d"]
        delta = jax.tree.map(lambda g: -step.lr * d * g, grads)
        total = jax.tree.map(lambda s, g: (s + d * step.lr * g).astype(s.dtype), state["sum"], grads)
        grown = ratio(self.defect, sum_of_squares(total), l1(total)).astype(jnp.float32)
        return delta, {"sum": total, "d": jnp.maximum(d, grown)}


@exhibit(
    origin="flax.optim 0.3.6, LAMB, optim/lamb.py:88-91",
    notes=("flax_fedjax_declearn.md", "LAMB with zero gradient and non-zero param → NaN (inf·0)"),
    story="The norm of the parameter over that of a zero update is infinite, and infinity times that update is NaN: a "
    "layer without gradients was destroyed by its first step.",
    rejected_by=ZERO,
    says=r"displacements at step 1, float16, gradients of size 0e\+00: 'scale' is not finite",
)
class InfiniteTrust(LeafRule):
    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        of_p, of_g = norm(p), norm(g)
        usable = of_p + of_g > 0 if self.defect else (of_p > 0) & (of_g > 0)
        return -lr * g * jnp.where(usable, of_p / jnp.where(usable, of_g, 1.0), 1.0), slot


@exhibit(
    origin="optax 0.2.8, contrib.normalize, _sam.py:64",
    notes=("optax.md", "**no eps** → NaN on zero grads"),
    story="SAM's adversary divides the gradient by its norm. The authors add 1e-12; here nothing was added.",
    rejected_by=ZERO,
    says=r"displacements at step 1, float16, gradients of size 0e\+00: 'bias'\[0\] is not finite",
)
class NormalizedGradient(Rule):
    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        grads = wide(step.grads)
        length = norm(*jax.tree.leaves(grads))
        return jax.tree.map(lambda g: -step.lr * ratio(self.defect, g, length), grads), state


@exhibit(
    origin="optax 0.2.8, contrib.sam, _sam.py:192; likewise lookahead",
    notes=("optax.md", "chosen by `pick_one = cond*a+(1-cond)*b`"),
    story="Both optimizers run on every call, and one is chosen by multiplying the other by 0. But 0 times NaN is "
    "NaN: the adversary, which was not even meant to run, ruins the real step.",
    rejected_by=ZERO,
    says=r"displacements at step 1, float16, gradients of size 0e\+00: 'bias'\[0\] is not finite",
)
class ChosenByMultiplication(Rule):
    period: int = hyper(2, "int [1, 2147483647]", "each so-manieth step ascends")

    def init(self, params: Any) -> Any:
        return {"t": jnp.zeros((), jnp.int32)}

    def update(self, step: Step, state: Any) -> Any:
        grads = wide(step.grads)
        t = (state["t"] + 1) % self.period
        ascends, length = t == 0, norm(*jax.tree.leaves(grads))

        def move(g: Any) -> Any:
            up, down = step.lr * g / length, -step.lr * g
            if self.defect:
                return ascends * up + (1 - ascends) * down
            return jnp.where(ascends & (length > 0), step.lr * safe_divide(g, length), down)

        return jax.tree.map(move, grads), {"t": t}


@exhibit(
    origin="optax, scale_by_distance_over_gradients before commit 292dcbf7",
    notes=("optax.md", "distance-over-gradients args swapped (√ of negative)"),
    story="Two arguments were swapped, and the root was taken of what may be negative, instead of the sum of squares: "
    "NaN with ordinary gradients.",
    rejected_by=ZERO,
    says=r"displacements at step 3, float16, gradients of size 1e\+00: 'bias'\[1\] is not finite",
)
class RootOfTheGradient(LeafRule):
    def init_leaf(self, p: Any) -> Any:
        return {"start": p, "distance": jnp.float32(1e-6), "sum": jnp.float32(0)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        distance = jnp.maximum(slot["distance"], norm(p - slot["start"]))
        total = slot["sum"] + sum_of_squares(g)

        def step(gradient: Any, distance: Any, total: Any) -> Any:
            return gradient * distance / jnp.sqrt(total + 1e-8)

        delta = step(total, distance, g) if self.defect else step(g, distance, total)
        return -lr * delta, {"start": slot["start"], "distance": distance, "sum": total}


@exhibit(
    origin="optax 0.2.8, clip_by_global_norm(0.0); PR #1752",
    notes=("optax.md", "`clip_by_global_norm(0)` on zero grads NaN"),
    story="A bound of 0, which a schedule may reach and which the function accepts, divides 0 by 0 as soon as there "
    "is no gradient.",
    rejected_by="check_finite_at_the_ends_of_domains",
    says=r"at ClipToNothing\(max_norm=0\.0\): displacements at step 1, .*: 'bias'\[0\] is not finite",
)
class ClipToNothing(Rule):
    max_norm: float = hyper(1.0, "[0, inf)", "largest norm of all gradients together")

    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        grads = wide(step.grads)
        length = norm(*jax.tree.leaves(grads))
        short = length < self.max_norm
        factor = ratio(self.defect, self.max_norm, length)
        return jax.tree.map(lambda g: -step.lr * jnp.where(short, g, g * factor), grads), state
