"""Defects of formulas: something stands in the wrong place, comes a step late, or has the wrong sign."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.hyper import hyper
from optimkit.numerics import norm, one_minus_pow, safe_divide
from optimkit.rules import LeafRule, Rule, Step
from tests import oracles
from tests.oracles import adam_moments, adam_variants, optimistic
from tests.oracles.adagrad import oracle_adadelta

from .exhibit import exhibit, sum_of_squares, wide


def moments(self: Any, p: Any) -> Any:
    """Return the slot of Adam and of its relatives."""
    return {"mu": jnp.zeros_like(p), "nu": jnp.zeros_like(p)}


def ema(decay: float, mean: Any, x: Any) -> Any:
    """Return a running mean after one more value."""
    return decay * mean + (1 - decay) * x


@exhibit(
    origin="objax 1.8.0, objax/optimizer/adam.py:63-67",
    notes=("objax.md", "eps is inside the sqrt of the *uncorrected* v"),
    story="The bias correction is folded into the learning rate, so eps is inside the root and 1/(1 - beta2**t) times "
    "as large as it says, 1000 times at the first step: small gradients hardly move their parameters, and results of "
    "other libraries do not come out.",
    rejected_by="check_oracle",
    says=r"gradients of size 1e-06: the parameters and the oracle's differ at step 1, first in 'bias'",
    oracle=oracles.oracle_adam,
    steps=10,
    scales=(1e-6,),
)
class ObjaxAdam(LeafRule):
    beta1: float = hyper(0.9, "[0, 1)", "decay of the mean of gradients")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared gradients")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root")
    eps_root: float = hyper(0.0, "[0, inf)", "added inside the root")
    init_leaf = moments

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        mu, nu = ema(self.beta1, slot["mu"], g), ema(self.beta2, slot["nu"], g**2)
        c1, c2 = one_minus_pow(self.beta1, t), one_minus_pow(self.beta2, t)
        if self.defect:
            return -lr * jnp.sqrt(c2) / c1 * mu * jax.lax.rsqrt(nu + self.eps), {"mu": mu, "nu": nu}
        return -lr * (mu / c1) / (jnp.sqrt(nu / c2 + self.eps_root) + self.eps), {"mu": mu, "nu": nu}


@exhibit(
    origin="optax, scale_by_belief before commit 723e6bf6",
    notes=("optax.md", "AdaBelief used m_{t-1} instead of m_t in the prediction error"),
    story="The belief was measured against the mean before this gradient: at the first step that is 0, and AdaBelief "
    "is Adam where it should take steps ten times as long.",
    rejected_by="check_oracle",
    says="differ at step 1",
    oracle=adam_moments.oracle_adabelief,
    steps=10,
    scales=(1.0,),
)
class BeliefInThePast(LeafRule):
    beta1: float = hyper(0.9, "[0, 1)", "decay of the mean of gradients")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared errors")
    eps: float = hyper(1e-16, "[0, inf)", "added to the root")
    eps_root: float = hyper(1e-16, "[0, inf)", "added to the mean of squares at each step")
    init_leaf = moments

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        mu = ema(self.beta1, slot["mu"], g)
        error = g - (slot["mu"] if self.defect else mu)
        nu = ema(self.beta2, slot["nu"], error**2) + self.eps_root
        root = jnp.sqrt(nu / one_minus_pow(self.beta2, t))
        return -lr * mu / one_minus_pow(self.beta1, t) / (root + self.eps), {"mu": mu, "nu": nu}


def oracle_rprop(params: Any, grads: Any, lr: Any, **_: Any) -> Any:
    """Rprop without backtracking, its first steps as long as the first learning rate. Riedmiller & Braun 1993."""
    sizes = {n: np.full(np.shape(p), lr[0], np.float64) for n, p in params.items()}
    x, before, trajectory = dict(params), {n: np.zeros(np.shape(p)) for n, p in params.items()}, []
    for g in grads:
        for n in x:
            agree = g[n] * before[n]
            factor = np.where(agree > 0, 1.2, np.where(agree < 0, 0.5, 1.0))
            sizes[n] = np.clip(sizes[n] * factor, 1e-6, 50.0)
            before[n] = np.where(agree < 0, 0.0, g[n])
            x[n] = x[n] - sizes[n] * np.sign(before[n])
        trajectory.append(dict(x))
    return trajectory


@exhibit(
    origin="optax 0.2.8, scale_by_rprop; PR #1725",
    notes=("optax.md", "rprop one step stale, first step 0"),
    story="What is returned is what the step before worked out: the first step moves nothing, and each one after it "
    "goes where the gradient was.",
    rejected_by="check_oracle",
    says="differ at step 1",
    oracle=oracle_rprop,
    steps=10,
    scales=(1.0,),
)
class StaleRprop(LeafRule):
    chainable = False

    def init_leaf(self, p: Any) -> Any:
        return {"size": jnp.zeros_like(p), "before": jnp.zeros_like(p), "delta": jnp.zeros_like(p)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        agree = g * slot["before"]
        size = jnp.where(t == 1, lr, slot["size"])
        size = jnp.clip(size * jnp.where(agree > 0, 1.2, jnp.where(agree < 0, 0.5, 1.0)), 1e-6, 50.0)
        g = jnp.where(agree < 0, 0.0, g)
        delta = -size * jnp.sign(g)
        return slot["delta"] if self.defect else delta, {"size": size, "before": g, "delta": delta}


@exhibit(
    origin="optax 0.2.8, polyak_sgd(scaling=...)",
    notes=("optax.md", "`polyak_sgd(scaling=s)` scales by 1/s"),
    story="Gradients were scaled before the step size was worked out from them. The step is inverse to the square of "
    "the gradient, so scaling=0.5, meant to be careful, made steps twice as long.",
    rejected_by="check_oracle",
    says="scaling=0.5.*differ at step 1",
    oracle=optimistic.oracle_polyak_sgd,
    steps=10,
    scales=(10.0,),
)
class InversePolyak(Rule):
    needs = ("value",)
    scaling: float = hyper(0.5, "(0, inf)", "factor of the step")
    max_step: float = hyper(1.0, "(0, inf)", "longest step")

    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        before, after = (self.scaling, 1.0) if self.defect else (1.0, self.scaling)
        grads = jax.tree.map(lambda g: before * g, wide(step.grads))
        size = jnp.minimum(safe_divide(step.value, sum_of_squares(grads)), self.max_step)
        return jax.tree.map(lambda g: -step.lr * after * size * g, grads), state


def oracle_clip_by_block_norm(params: Any, grads: Any, lr: Any, max_norm: float) -> Any:
    """SGD on gradients of which each array is shortened to a norm of at most ``max_norm``."""
    clipped = [{n: x * min(1.0, max_norm / max(oracles.common.norm(x), 1e-300)) for n, x in g.items()} for g in grads]
    return oracles.oracle_sgd(params, clipped, lr)


@exhibit(
    origin="declearn 2.0.0 to 2.2.0, L2Clipping",
    notes=("flax_fedjax_declearn.md", "scaled *down* small gradients and left large ones unclipped"),
    story="The quotient was upside down: gradients that were short enough were shortened further, and those that were "
    "too long passed. The library's tests looked at shapes and round trips, and nothing caught it in three releases.",
    rejected_by="check_oracle",
    says="max_norm=1.0.*differ at step 1",
    oracle=oracle_clip_by_block_norm,
    steps=10,
    scales=(1e-3, 10.0),
)
class InvertedClip(LeafRule):
    max_norm: float = hyper(1.0, "(0, inf)", "largest norm of an array")

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        ratio = norm(g) / self.max_norm if self.defect else safe_divide(self.max_norm, norm(g), 1.0)
        return -lr * g * jnp.minimum(ratio, 1.0), slot


@exhibit(
    origin="declearn 2.4.0, run_train_step(sclip=...), model/haiku/_model.py:457-479",
    notes=("flax_fedjax_declearn.md", "not the global-norm clipping of DP-SGD"),
    story="The bound on the norm of a gradient, on which the privacy of DP-SGD rests, was applied to each array: with "
    "n arrays a whole gradient is up to sqrt(n) times longer than the noise is made for.",
    rejected_by="check_oracle",
    says="max_norm=1.0.*differ at step 1",
    oracle=oracles.oracle_clip_by_global_norm,
    steps=10,
    scales=(10.0,),
)
class GlobalClipOfEachArray(Rule):
    max_norm: float = hyper(1.0, "(0, inf)", "largest norm of all gradients together")

    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        together = norm(*jax.tree.leaves(step.grads))

        def clip(g: Any) -> Any:
            length = norm(g) if self.defect else together
            return -step.lr * g * jnp.minimum(1.0, safe_divide(self.max_norm, length, 1.0))

        return jax.tree.map(clip, wide(step.grads)), state


@exhibit(
    origin="optax 0.2.8, flatten (transforms/_layouts.py:23) around a rule of layers, such as lamb",
    notes=("optax.md", "ravel all leaves into one vector"),
    story="Layers are laid end to end for speed, and the rule inside sees a single one: all get one trust ratio, that "
    "of their norms taken together.",
    rejected_by="check_oracle",
    says="differ at step 1",
    oracle=oracles.oracle_trust_ratio,
    steps=10,
    scales=(1.0,),
)
class TrustInTheConcatenation(Rule):
    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        params, grads = wide(step.params), wide(step.grads)
        together = [norm(*jax.tree.leaves(tree)) for tree in (params, grads)]

        def move(g: Any, p: Any) -> Any:
            of_p, of_g = together if self.defect else (norm(p), norm(g))
            return -step.lr * g * jnp.where((of_p > 0) & (of_g > 0), safe_divide(of_p, of_g), 1.0)

        return jax.tree.map(move, grads, params), state


@exhibit(
    origin="optax 0.2.8, adadelta() with its default learning_rate=None, transform.py:1003",
    notes=("optax.md", "`adadelta()` default does gradient **ascent**"),
    story="Where there is no learning rate nothing is multiplied, by the -1 neither: the default of the library's own "
    "alias climbs the loss.",
    rejected_by="check_oracle",
    says="differ at step 1",
    oracle=oracle_adadelta,
    steps=10,
    scales=(1.0,),
)
class AscendingAdadelta(LeafRule):
    decay: float = hyper(0.95, "[0, 1)", "decay of both means")
    eps: float = hyper(1e-6, "(0, inf)", "added inside both roots")

    def init_leaf(self, p: Any) -> Any:
        return {"of_g": jnp.zeros_like(p), "of_x": jnp.zeros_like(p)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        of_g = ema(self.decay, slot["of_g"], g**2)
        x = jnp.sqrt((slot["of_x"] + self.eps) / (of_g + self.eps)) * g
        new = {"of_g": of_g, "of_x": ema(self.decay, slot["of_x"], x**2)}
        return (lr if self.defect else -lr) * x, new


@exhibit(
    origin="optax, optimistic_gradient_descent before commit af5badd1; issue #1082",
    notes=("optax.md", "optimistic gradient first step (#1082)"),
    story="Before the first step the last gradient was taken for 0, and so the first step was twice as long.",
    rejected_by="check_oracle",
    says="differ at step 1",
    oracle=optimistic.oracle_optimistic_gradient,
    steps=10,
    scales=(1.0,),
)
class OptimisticFirstStep(LeafRule):
    alpha: float = hyper(1.0, "[0, inf)", "weight of the gradient")
    beta: float = hyper(1.0, "[0, inf)", "weight of its change")

    def init_leaf(self, p: Any) -> Any:
        return {"last": jnp.zeros_like(p)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        last = slot["last"] if self.defect else jnp.where(t == 1, g, slot["last"])
        return -lr * ((self.alpha + self.beta) * g - self.beta * last), {"last": g}


@exhibit(
    origin="optax 0.2.8, amsgrad (issue #1389); declearn 2.4.0, modules/_adaptive.py:263-266",
    notes=("optax.md", "torch/TF take max of raw ν then correct (#1389)"),
    story="The maximum is taken of the corrected mean, which a single large first gradient inflates for ever: runs "
    "moved from PyTorch or TensorFlow did not come out.",
    rejected_by="check_oracle",
    says="differ at step 2",
    oracle=adam_variants.oracle_amsgrad,
    steps=10,
    scales=(1.0,),
)
class MaximumOfTheCorrected(LeafRule):
    beta1: float = hyper(0.9, "[0, 1)", "decay of the mean of gradients")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared gradients")
    eps: float = hyper(1e-8, "(0, inf)", "added to the root")

    def init_leaf(self, p: Any) -> Any:
        return {**moments(self, p), "largest": jnp.zeros_like(p)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        mu, nu = ema(self.beta1, slot["mu"], g), ema(self.beta2, slot["nu"], g**2)
        c1, c2 = one_minus_pow(self.beta1, t), one_minus_pow(self.beta2, t)
        largest = jnp.maximum(slot["largest"], nu / c2 if self.defect else nu)
        root = jnp.sqrt(largest if self.defect else largest / c2)
        return -lr * mu / c1 / (root + self.eps), {"mu": mu, "nu": nu, "largest": largest}


@exhibit(
    origin="flax.optim 0.3.6, LAMB, optim/lamb.py:88-91",
    notes=("flax_fedjax_declearn.md", "LAMB with zero-initialised param never moves"),
    story="The trust ratio of a parameter that is zero was 0, so biases that start at zero stayed there for ever.",
    rejected_by="check_oracle",
    says="differ at step 1, first in 'bias'",
    oracle=oracles.oracle_trust_ratio,
    steps=10,
    scales=(1.0,),
)
class ZeroStaysZero(LeafRule):
    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        usable = norm(p) + norm(g) > 0 if self.defect else (norm(p) > 0) & (norm(g) > 0)
        return -lr * g * jnp.where(usable, safe_divide(norm(p), norm(g)), 1.0), slot


@exhibit(
    origin="optax 0.2.8, contrib.sam(sync_period=1); PR #1788",
    notes=("optax.md", "sam sync_period=1 (transparent) never converges"),
    story="Each step goes back to the point that was kept and on from there. With a period of 1 that point is the one "
    "of the step before: the run leaps back and forth between two sequences and never converges.",
    rejected_by="check_oracle",
    says="differ at step 2",
    oracle=oracles.oracle_sgd,
    steps=10,
    scales=(1.0,),
)
class LeapingSam(Rule):
    chainable = False

    def init(self, params: Any) -> Any:
        return {"kept": wide(params)}

    def update(self, step: Step, state: Any) -> Any:
        params = wide(step.params)
        kept = state["kept"] if self.defect else params
        delta = jax.tree.map(lambda k, p, g: (k - p) - step.lr * g, kept, params, wide(step.grads))
        return delta, {"kept": params}


def oracle_skips_non_finite(params: Any, grads: Any, lr: Any, patience: int) -> Any:
    """SGD that leaves out each step with a gradient that is not finite, however many come in a row."""
    finite = [all(np.isfinite(x).all() for x in g.values()) for g in grads]
    kept = [g if ok else {n: np.zeros(np.shape(x)) for n, x in g.items()} for g, ok in zip(grads, finite, strict=True)]
    return oracles.oracle_sgd(params, kept, lr)


@exhibit(
    origin="optax 0.2.8, apply_if_finite, _conditionality.py:204; PR #1746",
    notes=("optax.md", "skip non-finite; after N in a row it **lets every further NaN through**"),
    story="The guard that skips steps with NaN or infinity opens after so many of them in a row, and stays open until "
    "a good one comes: one bad batch too many writes NaN into every parameter.",
    rejected_by="check_oracle",
    says="gradients of size inf: the parameters and the oracle's differ at step 4",
    oracle=oracle_skips_non_finite,
    steps=6,
    scales=(math.inf,),
)
class GuardThatGivesUp(Rule):
    patience: int = hyper(3, "int [1, inf)", "steps in a row after which somebody should be told")

    def init(self, params: Any) -> Any:
        return {"in_a_row": jnp.zeros((), jnp.int32)}

    def update(self, step: Step, state: Any) -> Any:
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(step.grads)]))
        in_a_row = jnp.where(finite, 0, jnp.minimum(state["in_a_row"], 2**31 - 2) + 1)
        passes = finite | (in_a_row > self.patience) if self.defect else finite
        return jax.tree.map(lambda g: jnp.where(passes, -step.lr * g, 0.0), wide(step.grads)), {"in_a_row": in_a_row}
