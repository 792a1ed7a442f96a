"""Defects of composition: rules that do not do in chains and wrappers what they do alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.numerics import safe_divide
from optimkit.rules import LeafRule, Rule, Step
from optimkit.rules.base import Wrapper

from .exhibit import exhibit, sum_of_squares, wide


@exhibit(
    origin="optax 0.2.8, lars: momentum after the learning rate; flax.optim 0.3.6, LARS",
    notes=("optax.md", "**momentum after lr**"),
    story="With the learning rate inside the momentum a step is not the learning rate times a direction, and a "
    "schedule takes effect late. That may be meant; but nothing says so, and other transformations are chained after "
    "it.",
    rejected_by="check_chainable_is_true",
    says=r"says that it is chainable, but at step 1 the next state 'slots\.bias\.m' at lr = ",
)
class MomentumAfterTheLearningRate(LeafRule):
    def init_leaf(self, p: Any) -> Any:
        return {"m": jnp.zeros_like(p)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        if self.defect:
            m = 0.9 * slot["m"] + lr * g
            return -m, {"m": m}
        m = 0.9 * slot["m"] + g
        return -lr * m, {"m": m}


@exhibit(
    origin="declearn 2.4.0, Optimizer(w_decay=...), optimizer/_base.py:269-309; likewise adafactor of optax 0.2.8",
    notes=("flax_fedjax_declearn.md", "**Weight decay is not multiplied by lrate**"),
    story="The documentation says that the decay is added right before the learning rate is applied; it was added "
    "after it. Who lowers the learning rate keeps the decay, which soon outweighs the gradients.",
    rejected_by="check_chainable_is_true",
    says="says that it is chainable, but at step 1 the displacement of '.*' at lr = ",
)
class DecayWithoutLearningRate(LeafRule):
    w_decay: float = hyper(0.5, "[0, inf)", "rate of decay")

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * g - (1.0 if self.defect else lr) * self.w_decay * p, slot


class PolyakStep(Rule):
    """Gradient descent with Polyak's step size, which needs the loss."""

    needs = ("value",)

    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        grads = wide(step.grads)
        size = jnp.minimum(safe_divide(step.value * jnp.float32(1), sum_of_squares(grads)), 1.0)
        return jax.tree.map(lambda g: -step.lr * size * g, grads), state


@exhibit(
    origin="optax 0.2.8, contrib.split_real_and_imaginary and contrib.sam",
    notes=("optax.md", "**does not forward extra args**"),
    story="A wrapper hands on gradients and parameters and nothing else: optimizers that need the loss, such as "
    "Polyak's step or MoMo, fail inside it, or are silently given none.",
    rejected_by="check_form_is_kept",
    says="TypeError.*NoneType",
)
class DropsTheLoss(Wrapper):
    inner: Rule = PolyakStep()

    def update(self, step: Step, state: Any) -> Any:
        handed_on = Step(step.grads, step.params, step.lr) if self.defect else step
        return self.inner.update(handed_on, state)


@exhibit(
    origin="optax, contrib.momo before commit 3482972d; issue #1500",
    notes=("optax.md", "3482972d momo crashed on Python-float loss (#1500)"),
    story="The loss was taken for an array. Given as a Python number, as one reads it from a log or a line search, it "
    "raised an AttributeError.",
    rejected_by="check_inputs_may_be_numbers",
    says=r"a loss of 1\.0, float, is not accepted\..*AttributeError",
)
class LossMustBeAnArray(Rule):
    needs = ("value",)

    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        value = step.value.astype(jnp.float32) if self.defect else jnp.asarray(step.value, jnp.float32)
        return jax.tree.map(lambda g: -step.lr * (value * g), wide(step.grads)), state


def is_half(x: Any) -> bool:
    """Tell whether an array has less than 32 bits: those shall have no momentum."""
    return jnp.finfo(x.dtype).bits < 32


@exhibit(
    origin="optax 0.2.8, masked with a callable mask, transforms/_masking.py:128,133",
    notes=("optax.md", "Callable masks are called with **params at init but updates at update**"),
    story="A mask that looks at dtypes says one thing of the parameters, when the state is made, and another of their "
    "gradients, when it is used: what is looked for is not there.",
    rejected_by="check_form_is_kept",
    says="KeyError: 'm'",
)
class MaskOfTheGradients(Rule):
    def init(self, params: Any) -> Any:
        return jax.tree.map(lambda p: {} if is_half(p) else {"m": jnp.zeros_like(p)}, params)

    def update(self, step: Step, state: Any) -> Any:
        structure = jax.tree.structure(step.params)
        slots, deltas = [], []
        for g, slot, p in zip(structure.flatten_up_to(step.grads), structure.flatten_up_to(state),
                              jax.tree.leaves(step.params), strict=True):  # fmt: skip
            masked = is_half(g if self.defect else p)
            m = g.astype(p.dtype) if masked else 0.9 * slot["m"] + g.astype(p.dtype)
            slots.append({} if masked else {"m": m})
            deltas.append(-step.lr * m)
        return structure.unflatten(deltas), structure.unflatten(slots)
