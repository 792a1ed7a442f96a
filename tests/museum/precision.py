"""Defects of low precision: numbers that are fine in float32 become 0, 1 or infinity in half of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import cast, one_minus_pow, safe_divide
from optimkit.rules import LeafRule, Rule, Step

from .exhibit import BareRule, exhibit, sum_of_squares, wide, zeros


@exhibit(
    origin="flax.optim 0.3.6, Adam, optim/adam.py:90-92; likewise AdaBelief and LAMB",
    notes=("flax_fedjax_declearn.md", "β2=.999 rounds to 1.0 in bf16 so 1−β2^t=0"),
    story="The step number is cast to the dtype of the parameter, and with it the bias correction: in bfloat16 0.999 "
    "is 1, the corrected second moment infinite, and Adam makes no step at all. With a gradient of 0 it is NaN.",
    rejected_by="check_finite_on_zero_gradients",
    says=r"displacements at step 1, bfloat16, gradients of size 0e\+00: 'bias'\[0\] is not finite",
)
class CountInLowPrecision(BareRule):
    def working_dtype(self, p: Any) -> Any:
        return jnp.promote_types(p.dtype, jnp.float32)  # all but the count is right

    def init_one(self, p: Any) -> Any:
        return {"mu": jnp.zeros_like(p), "nu": jnp.zeros_like(p)}

    def update(self, step: Step, state: Any) -> Any:
        dtypes = jax.tree.map(lambda p: p.dtype, step.params)
        moved, new = super().update(step, state)
        nu = jax.tree.map(lambda slot: slot["nu"], new["slots"], is_leaf=lambda x: isinstance(x, dict) and "nu" in x)

        def over_root(m: Any, v: Any, dtype: Any) -> Any:
            t = cast(new["t"], dtype if self.defect else jnp.float32)
            c1, c2 = (cast(1 - beta**t, m.dtype) for beta in (0.9, 0.999))
            return m / c1 / (jnp.sqrt(v / c2) + 1e-8)

        return jax.tree.map(over_root, moved, nu, dtypes), new

    def update_one(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        mu, nu = 0.9 * slot["mu"] + 0.1 * g, 0.999 * slot["nu"] + 0.001 * g**2
        return -lr * mu, {"mu": mu, "nu": nu}


@exhibit(
    origin="optax 0.2.8, scale_by_adam and 24 others; issues #1754, #1784, #1789",
    notes=("optax.md", "f16 + zero grad → NaN"),
    story="In float16 the smallest number is 6e-8, and eps = 1e-8 is 0: a gradient of zero is divided by zero, and "
    "one dead unit makes the run NaN.",
    rejected_by="check_finite_on_zero_gradients",
    says=r"displacements at step 1, float16, gradients of size 0e\+00: 'bias'\[0\] is not finite",
)
class EpsUnderflows(BareRule):
    eps: float = hyper(1e-8, "(0, inf)", "added to the root")

    def init_one(self, p: Any) -> Any:
        return {"nu": jnp.zeros_like(p)}

    def update_one(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        nu = 0.9 * slot["nu"] + 0.1 * g**2
        return -lr * g / (jnp.sqrt(nu) + self.eps), {"nu": nu}


@exhibit(
    origin="flax.optim 0.3.6, Adagrad, optim/adagrad.py:51-60; optax 0.2.8 has no nu_dtype anywhere",
    notes=("flax_fedjax_declearn.md", "fp16/bf16 state buffers are kept in param dtype"),
    story="The sum of squares is kept in float16, of which 65504 is the largest: one gradient of 256 and it is "
    "infinite, and the parameter never moves again.",
    rejected_by="check_finite_on_huge_gradients",
    says=r"state at step 1, float16, gradients of size 8e\+03: 'slots\.bias\.sum'\[0\] is not finite",
)
class SumOfSquaresInHalf(BareRule):
    def init_one(self, p: Any) -> Any:
        return {"sum": jnp.zeros_like(p)}

    def update_one(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        total = slot["sum"] + g**2
        return -lr * safe_divide(g, jnp.sqrt(total)), {"sum": total}


@exhibit(
    origin="optax 0.2.8, inject_hyperparams, schedules/_inject.py:168-173; issue #1414, PR #1445",
    notes=("optax.md", "hyperparams default to the *param* dtype, b2=0.999→**1.0**"),
    story="Hyperparameters that are to be scheduled become state in the dtype of the parameters: in bfloat16 b2 = "
    "0.999 is 1.0, the bias correction 0, and the first update NaN.",
    rejected_by="check_slots_are_wide",
    says=r"the state 'hyperparameters\.beta2' of float16 parameters is not float32",
)
class InjectedHyperparameters(BareRule):
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared gradients")

    def init_one(self, p: Any) -> Any:
        return {"nu": jnp.zeros(p.shape, jnp.float32)}

    def init(self, params: Any) -> Any:
        dtype = self.working_dtype(jax.tree.leaves(params)[0])
        return {**super().init(params), "hyperparameters": {"beta2": jnp.array(self.beta2, dtype)}}

    def update(self, step: Step, state: Any) -> Any:
        beta2 = cast(state["hyperparameters"]["beta2"], jnp.float32)
        delta, new = super().update(step, state)
        c = 1 - beta2 ** cast(new["t"], jnp.float32)
        return jax.tree.map(lambda d: d * c, delta), {**new, "hyperparameters": state["hyperparameters"]}

    def update_one(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        nu = self.beta2 * slot["nu"] + (1 - self.beta2) * cast(g, jnp.float32) ** 2
        return -lr * g, {"nu": nu}


@exhibit(
    origin="optax 0.2.8, contrib.schedule_free, _schedule_free.py:55",
    notes=("optax.md", "in bf16, schedule_free `weight_sum` stalls at .03125"),
    story="The sum of the weights is a scalar in the lowest dtype of the parameters. In bfloat16 it stops growing "
    "after some thirty steps, and the average over the run silently becomes one over its end.",
    rejected_by="check_slots_are_wide",
    says=r"the state 'weight_sum' of float16 parameters is not float32",
)
class StalledWeightSum(BareRule):
    chainable = False

    def init(self, params: Any) -> Any:
        dtype = self.working_dtype(jax.tree.leaves(params)[0])
        return {"average": wide(params), "weight_sum": jnp.zeros((), dtype)}

    def update(self, step: Step, state: Any) -> Any:
        weight = cast(step.lr**2, state["weight_sum"].dtype)
        total = state["weight_sum"] + weight
        share = cast(safe_divide(weight, total), jnp.float32)
        delta = jax.tree.map(lambda g: -step.lr * g, wide(step.grads))
        average = jax.tree.map(lambda x, p, d: x + cast(share, x.dtype) * (p + d - x),
                               state["average"], wide(step.params), delta)  # fmt: skip
        return delta, {"average": average, "weight_sum": total}

    def eval_params(self, state: Any, params: Any) -> Any:
        return jax.tree.map(lambda x, p: cast(x, p.dtype), state["average"], params)


@exhibit(
    origin="optax, MultiSteps before commits c02332eb and 7a58a58f; issues #1552, #1567",
    notes=("optax.md", "MultiSteps accumulator dtype (#1552,#1567)"),
    story="Gradients of many small batches were added up in the dtype of the parameters: in bfloat16 the later ones "
    "are rounded away, and the large batch that is meant is one of its first parts.",
    rejected_by="check_slots_are_wide",
    says=r"the state 'slots\.bias\.sum' of float16 parameters is not float32",
)
class AccumulatedInLowPrecision(BareRule):
    every: int = hyper(2, "int [1, 2147483647]", "batches for one step")

    def init_one(self, p: Any) -> Any:
        return {"sum": jnp.zeros_like(p)}

    def update_one(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        total = slot["sum"] + g
        full = t % self.every == 0
        return jnp.where(full, -lr * total / self.every, 0.0), {"sum": jnp.where(full, 0.0, total)}


@exhibit(
    origin="flax 0.12.8, nnx.EMA, nnx/training/ema.py:46-179",
    notes=("flax_fedjax_declearn.md", "bf16 params with decay .999 **never move**"),
    story="The average has the dtype of the variable: a thousandth of the difference is less than half of its last "
    "bit, and the averaged model stays what it was when training began.",
    rejected_by="check_slots_are_wide",
    says=r"the state 'slots\.bias\.average' of float16 parameters is not float32",
)
class AverageThatNeverMoves(BareRule):
    def init_one(self, p: Any) -> Any:
        return {"average": jnp.array(p, copy=True)}

    def update_one(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * g, {"average": 0.999 * slot["average"] + 0.001 * (p - lr * g)}


@exhibit(
    origin="optax 0.2.8, contrib.prodigy, _prodigy.py:47",
    notes=("optax.md", "**d never leaves 1e-6, zero progress in 2000 steps**"),
    story="The estimate of the distance, by which every step is multiplied, has the lowest dtype of the parameters. "
    "In bfloat16 it never grows from its first value of 1e-6, and nothing is learned.",
    rejected_by="check_slots_are_wide",
    says=r"the state 'distance' of float16 parameters is not float32",
)
class FrozenDistance(BareRule):
    chainable = False

    def init(self, params: Any) -> Any:
        return {"distance": jnp.full((), 1e-6, self.working_dtype(jax.tree.leaves(params)[0])), "sum": zeros(params)}

    def update(self, step: Step, state: Any) -> Any:
        total = jax.tree.map(lambda s, g: s + cast(g, s.dtype), state["sum"], step.grads)
        length = sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(total))
        grown = state["distance"] + cast(safe_divide(sum_of_squares(total), length) * 1e-6, state["distance"].dtype)
        delta = jax.tree.map(lambda g: -step.lr * grown * g, wide(step.grads))
        return delta, {"distance": grown, "sum": total}


@exhibit(
    origin="optax 0.2.8, clip_by_global_norm; PR #1752",
    notes=("optax.md", "f16 norm overflow → all-zero update"),
    story="The norm of float16 gradients is summed up in float16, and infinite from 256 on; what is divided by it is "
    "0. The step is finite and silently nothing.",
    rejected_by="check_low_precision_follows_float32",
    says=r"float16, step 1, gradients of size 300: the displacement of 'bias'\[0\]: .*\n.*\n  got      -0\.0",
)
class NormOverflows(Rule):
    max_norm: float = hyper(1.0, "(0, inf)", "largest norm of all gradients together")

    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        grads = step.grads if self.defect else wide(step.grads)
        length = jnp.sqrt(sum_of_squares(grads))
        factor = jnp.minimum(1.0, safe_divide(self.max_norm, length, 1.0))
        return jax.tree.map(lambda g: -step.lr * (factor * g), grads), state


@exhibit(
    origin="objax 1.8.0, Adam's `step` is uint32, objax/optimizer/adam.py:28",
    notes=("objax.md", "`step` StateVar uint32"),
    story="The counter wraps around to 0 at 2**32; the bias correction is then 0, and the step infinite.",
    rejected_by="check_counters_saturate",
    says=r"the counter 'slots\.bias\.count' starts again after step 2\*\*32\..*0 after 4294967295",
)
class UnsignedCount(LeafRule):
    def init_leaf(self, p: Any) -> Any:
        return {"count": jnp.zeros((), jnp.uint32), "mu": jnp.zeros_like(p)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        count = slot["count"] + 1
        if not self.defect:
            count = jnp.maximum(count, slot["count"])
        mu = 0.9 * slot["mu"] + 0.1 * g
        return -lr * (mu / one_minus_pow(0.9, count.astype(g.dtype))), {"count": count, "mu": mu}
