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
