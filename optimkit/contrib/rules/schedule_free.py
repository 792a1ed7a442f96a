"""Schedule-Free learning: the average of the iterates in place of a learning rate that falls."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.adagrad import RMSProp
from optimkit.rules.adam_variants import rectification
from optimkit.rules.averaged import wide_copies
from optimkit.rules.base import Rule, Step, Tree, Wrapper
from optimkit.rules.compose import Chain, Composed
from optimkit.rules.stages import WeightDecay
from optimkit.rules.sums import scalar_dtype
from optimkit.rules.wrappers import Scaled, widened


class ScheduleFree(Wrapper):
    """Takes gradients between the iterates and their average, and so needs no schedule, and no end of training.

    ::

        z ← z + inner step by the gradient at y
        x ← (1 − c) x + c z,   c = w / Σw,   w = tʳ · (largest lr so far)^weight_lr_power
        y = (1 − beta) z + beta x

    The parameters are y; x, at which ``eval_params`` and ``opt.evaluating()`` are, is the model: evaluate and save
    there. At each time it is about as good as a schedule that ended then. Let the learning rate be constant, after a
    warmup; a larger one than usual often serves. ``beta`` stands for the inner rule's momentum, which goes:
    ``ScheduleFree(RMSProp(bias_correction=True))``, or by name :class:`ScheduleFreeAdamW`. Statistics of
    batch-normalisation belong to y: run some batches at x in training mode before an evaluation. Memory: two float32
    per parameter.

    State: ``inner``; ``z``, ``x``, shaped as the parameter, float32 (float64), from the parameters of the first step;
    ``lr_max``, the largest learning rate, and ``total``, Σw in units of the last w, float32 (float64); ``t``, int32.

    Deviations: the paper weighs by the square of the learning rate itself; as in the authors' code it is the largest so
    far, and w has a further power of the step. Their code, and optax, keep one of z and x and find the other from y,
    which in half precision has lost it: here both are kept, so that ``beta`` may be 0, which is averaging by itself,
    and parameters may be bfloat16. What is done to y from outside between two steps (a constraint) does not reach z.

    Reference: Defazio, Yang, Mehta, Mishchenko, Khaled & Cutkosky 2024, The Road Less Scheduled, equations 3-5 and
    section 3. arXiv:2405.15682.

    Example:
        >>> from optimkit import pure, rules
        >>> rule = ScheduleFree(rules.SGD(), beta=0.5)
        >>> init, apply = pure(rule, lr=1.0)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (-1.0, -2.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"], rule.eval_params(state, params)["w"]  # z is 1, 3; x is 1, 2
        (Array([2.5], dtype=float32), Array([2.], dtype=float32))
    """

    reference = "Defazio et al. 2024, The Road Less Scheduled, equations 3-5. arXiv:2405.15682"
    chainable = False
    beta: float = hyper(0.9, "[0, 1]", "how far from z to x gradients are taken")
    weight_lr_power: float = hyper(2.0, "[0, inf)", "power of the largest learning rate in the weights")
    r: float = hyper(0.0, "[0, inf)", "power of the step in the weights")

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state, the two sequences and what weighs them."""
        none = {name: jnp.zeros((), scalar_dtype(params)) for name in ("lr_max", "total")}
        sequences = {"z": wide_copies(params), "x": wide_copies(params)}
        return {"inner": self.inner.init(params), **sequences, **none, "t": jnp.zeros((), jnp.int32)}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Move z as the inner rule does, and x and y after it."""
        delta, inner = self.inner.update(step, state["inner"])
        weights, c = self._weighed(state, step.lr)
        y = widened(step.params, step.params)
        z, x = (_begun(state, name, y) for name in ("z", "x"))
        z = jax.tree.map(jnp.add, z, widened(delta, step.params))
        x = jax.tree.map(lambda x, z: x + c.astype(x.dtype) * (z - x), x, z)
        way = jax.tree.map(lambda z, x, y: z + self.beta * (x - z) - y, z, x, y)
        return way, {"inner": inner, "z": z, "x": x, **weights}

    def _weighed(self, state: Tree, lr: Any) -> tuple[Tree, jax.Array]:
        """Return the next weights, and c. They are kept as quotients, for powers soon leave the range of float32."""
        t = numerics.count_up(state["t"])
        steps = t.astype(state["total"].dtype)
        lr_max = jnp.maximum(state["lr_max"], numerics.cast(lr, steps.dtype))
        rise = numerics.safe_divide(state["lr_max"], lr_max, 1.0) ** self.weight_lr_power
        longer = (jnp.maximum(steps - 1, 1) / steps) ** self.r
        weight = jnp.sign(lr_max) ** self.weight_lr_power  # 0 as long as all learning rates were, 1 from then on
        total = state["total"] * rise * longer + weight
        return {"lr_max": lr_max, "total": total, "t": t}, numerics.safe_divide(weight, total)

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return the average, x."""
        return jax.tree.map(lambda x, p: numerics.cast(x, p.dtype), _begun(state, "x", params), params)


def _begun(state: Tree, name: str, params: Tree) -> Tree:
    """Return a sequence, which before the first step is the parameters, whatever was loaded into them."""
    before = state["t"] == 0
    return jax.tree.map(lambda s, p: jnp.where(before, numerics.cast(p, s.dtype), s), state[name], params)


class ScheduleFreeSGD(Composed):
    """Gradient descent with decay, without a schedule, and with averaging in place of momentum.

    It is ``ScheduleFree(WeightDecay(weight_decay), beta)``::

        z ← z − lr · (g + weight_decay · y),  x and y as in ScheduleFree

    Use it where SGD with momentum and a schedule serves, with a constant learning rate of 5 to 50 times that of
    momentum, after a warmup. Memory: two float32 per parameter.

    State: that of :class:`ScheduleFree`.

    Deviations: those of :class:`ScheduleFree`. The authors' ``warmup_steps`` is a schedule of ``lr``.

    Reference: Defazio et al. 2024, The Road Less Scheduled, equations 3-5. arXiv:2405.15682.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(ScheduleFreeSGD(beta=0.5), lr=1.0)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (-1.0, -2.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"]
        Array([2.5], dtype=float32)
    """

    reference = "Defazio et al. 2024, The Road Less Scheduled, equations 3-5. arXiv:2405.15682"
    beta: float = hyper(0.9, "[0, 1]", "how far from z to x gradients are taken")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, times the learning rate, of y")
    weight_lr_power: float = hyper(2.0, "[0, inf)", "power of the largest learning rate in the weights")
    r: float = hyper(0.0, "[0, inf)", "power of the step in the weights")

    def compose(self) -> Rule:
        """Return ``ScheduleFree(WeightDecay(...), ...)``."""
        return ScheduleFree(WeightDecay(self.weight_decay), self.beta, self.weight_lr_power, self.r)


class ScheduleFreeAdamW(Composed):
    """AdamW without a schedule, and with averaging in place of its first moment.

    It is ``ScheduleFree(Chain(RMSProp(beta2, eps, bias_correction=True), WeightDecay(weight_decay)), beta1)``::

        ν ← beta2 · ν + (1 − beta2) g²,  ν̂ = ν / (1 − beta2ᵗ)
        z ← z − lr · (g / (√ν̂ + eps) + weight_decay · y),  x and y as in ScheduleFree

    Use it where AdamW serves, with a learning rate of 1 to 10 times AdamW's, a warmup, and ``beta1`` of 0.9 to 0.98.
    Memory: three float32 per parameter.

    State: those of :class:`ScheduleFree` and ``RMSProp``.

    Deviations: those of :class:`ScheduleFree`. The authors' ``warmup_steps`` is a schedule of ``lr``.

    Reference: Defazio et al. 2024, The Road Less Scheduled, Algorithm 1. arXiv:2405.15682.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(ScheduleFreeAdamW(), lr=0.1)
        >>> params = {"w": jnp.zeros(2)}
        >>> moved = apply({"w": jnp.array([1.0, -100.0])}, init(params), params)[1]["w"]
        >>> [round(float(x), 4) for x in moved]
        [-0.1, 0.1]
    """

    reference = "Defazio et al. 2024, The Road Less Scheduled, Algorithm 1. arXiv:2405.15682"
    beta1: float = hyper(0.9, "[0, 1]", "how far from z to x gradients are taken, in place of a first moment")
    beta2: float = hyper(0.999, "[0, 1)", "decay of the mean of squared gradients")
    eps: float = hyper(1e-8, "[0, inf)", "added to the root")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay, times the learning rate, of y")
    weight_lr_power: float = hyper(2.0, "[0, inf)", "power of the largest learning rate in the weights")
    r: float = hyper(0.0, "[0, inf)", "power of the step in the weights")

    def compose(self) -> Rule:
        """Return ``ScheduleFree(Chain(RMSProp(...), WeightDecay(...)), ...)``."""
        adam = Chain(RMSProp(self.beta2, self.eps, bias_correction=True), WeightDecay(self.weight_decay))
        return ScheduleFree(adam, self.beta1, self.weight_lr_power, self.r)


class ScheduleFreeRAdam(ScheduleFreeAdamW):
    """:class:`ScheduleFreeAdamW` that warms itself up, as RAdam does: nothing is left to be scheduled.

    It is ``Scaled(ScheduleFreeAdamW(...), r)``, with RAdam's r of the step::

        ρ∞ = 2 / (1 − beta2) − 1,  ρ = ρ∞ − 2 t beta2ᵗ / (1 − beta2ᵗ)
        r = √((ρ − 4)(ρ − 2) ρ∞ / ((ρ∞ − 4)(ρ∞ − 2) ρ))   where ρ > 4,   0 elsewhere

    The first steps, four of them at the defaults, move nothing, and only learn ν. Give it a constant learning rate.
    With ``beta2`` of 0.6 or less it never moves. Memory: three float32 per parameter.

    State: ``inner``, that of :class:`ScheduleFreeAdamW`; ``t``, int32.

    Deviations: those of :class:`ScheduleFree`. The authors' ``silent_sgd_phase=False``, which takes plain gradient
    steps as long as ρ ≤ 4, is left out: a gradient's size has nothing to do with a learning rate for Adam.

    Reference: Defazio et al. 2024, The Road Less Scheduled, arXiv:2405.15682, and the authors' code, schedulefree 1.4,
    RAdamScheduleFree; Liu et al. 2020, On the Variance of the Adaptive Learning Rate and Beyond, Algorithm 2.
    arXiv:1908.03265.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(ScheduleFreeRAdam(), lr=0.1)
        >>> params = {"w": jnp.float32(1.0)}; state = init(params); way = []
        >>> for _ in range(5): state, params = apply({"w": jnp.float32(1.0)}, state, params); way.append(params["w"])
        >>> [round(float(w), 4) for w in way]
        [1.0, 1.0, 1.0, 1.0, 0.9983]
    """

    reference = "Defazio et al. 2024, arXiv:2405.15682; Liu et al. 2020, Algorithm 2. arXiv:1908.03265"

    def compose(self) -> Rule:
        """Return ``Scaled(ScheduleFree(...), r)``."""
        return Scaled(super().compose(), self._rectified)

    def _rectified(self, t: jax.Array) -> jax.Array:
        """Return RAdam's r after t steps, and 0 where the average is not longer than 4."""
        return jnp.where(*rectification(self.beta2, t.astype(jnp.result_type(float)) + 1, 4.0), 0.0)
