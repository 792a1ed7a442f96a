"""Differential privacy: gradients of single examples, clipped, added up, and drowned in noise."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.errors import StructureError, describe, message
from optimkit.hyper import hyper
from optimkit.rules.base import Rule, Step, Tree
from optimkit.rules.clipping import clipped_sum
from optimkit.rules.compose import Chain, Composed
from optimkit.rules.gradients import AddNoise
from optimkit.rules.sgd import SGD, Momentum
from optimkit.tree import names_and_leaves


class DPAggregate(Rule):
    """Makes of the gradients of single examples one that tells next to nothing about any of them.

    ::

        ḡᵢ = gᵢ · min(1, max_norm / ‖gᵢ‖),  ‖gᵢ‖ over all parameters, of example i
        direction = (Σᵢ ḡᵢ + noise_multiplier · max_norm · n) / B,  n standard normal

    Gradients have one axis more than parameters, the first, for the examples; ``jax.vmap(jax.grad(loss), (None, 0))``
    makes them. It is the first of a chain: what follows sees one private gradient, so that
    ``Chain(DPAggregate(...), Adam())`` is as private as :class:`DPSGD`. How private that is after so many steps, an
    accountant says. B is ``batch_size``, or, where that is None, the number of examples given. Accountants suppose that
    each example is drawn by itself (Poisson sampling); the number of examples then varies, and ``batch_size`` is their
    expectation. Memory: none; the gradients of a batch are as many times as large as the parameters.

    An example whose gradient has an infinity or a NaN counts as zero: it moves nothing, and tells nothing.

    State: ``key``, uint32[2], from ``jax.random.PRNGKey(seed)``; ``t``, int32; those of ``AddNoise``, whose noise it
    is. ``seed`` has no default: who knows it can take the noise away.

    Deviations: none. optax lets one example that is not finite make all parameters NaN.

    Reference: Abadi et al. 2016, Deep Learning with Differential Privacy, Algorithm 1. arXiv:1607.00133.

    Raises:
        StructureError: gradients do not have the axis of the examples, or not all as many (by ``update``).

    Example:
        >>> from optimkit.rules import Step
        >>> rule, params = DPAggregate(1.0, noise_multiplier=0.0, seed=0), {"w": jnp.zeros(2)}
        >>> grads = {"w": jnp.array([[3.0, 4.0], [0.5, 0.0], [jnp.nan, 1.0], [0.0, 0.0]])}
        >>> delta, state = rule.update(Step(grads, params, 1.0), rule.init(params))
        >>> [round(float(x), 4) for x in delta["w"]]  # (0.6, 0.8) + (0.5, 0), of four examples
        [-0.275, -0.2]
    """

    reference = "Abadi et al. 2016, Algorithm 1. arXiv:1607.00133"
    per_example: ClassVar[bool] = True  # gradients have an axis of examples before those of the parameters
    max_norm: float = hyper(dataclasses.MISSING, "(0, inf)", "largest norm of the gradient of an example, C")
    noise_multiplier: float = hyper(dataclasses.MISSING, "[0, inf)", "deviation of the noise, relative to C")
    seed: int = hyper(dataclasses.MISSING, "int [0, 4294967295]", "seed of the random key, a secret")
    batch_size: int | None = hyper(None, "int [1, 2147483647]", "B, where the number of examples varies")

    def init(self, params: Tree) -> Tree:
        """Return the random key and the counter."""
        return AddNoise(seed=self.seed).init(params)

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the private gradient, times ``-lr``, and the next key."""
        examples = number_of_examples(step.grads, step.params)
        size = max(examples, 1) if self.batch_size is None else self.batch_size
        wide = lambda g, p: numerics.cast(g, numerics.compute_dtype(p.dtype))  # noqa: E731
        total = clipped_sum(jax.tree.map(wide, step.grads, step.params), self.max_norm)
        mean = jax.tree.map(lambda x: x / size, total)
        noise = AddNoise((self.noise_multiplier * self.max_norm / size) ** 2, 0.0, self.seed)
        return noise.update(step.replace(grads=mean), state)


def number_of_examples(grads: Tree, params: Tree) -> int:
    """Return the length of the axis that gradients have before those of their parameters.

    Raises:
        StructureError: a gradient has another shape than that, or another number of examples than the first.
    """
    names, leaves, structure = names_and_leaves(params)
    found: int | None = None
    for name, p, g in zip(names, leaves, structure.flatten_up_to(grads), strict=True):
        shape = jnp.shape(g)
        if shape[1:] != jnp.shape(p) or not shape or (found is not None and shape[0] != found):
            wanted = f"[{', '.join(map(str, ('examples' if found is None else found, *jnp.shape(p))))}]"
            raise StructureError(message("DPAggregate", f"the gradients of {name!r} are not one for each example.",
                                         wanted, describe(g), "jax.vmap(jax.grad(loss), in_axes=(None, 0))"
                                         ))  # fmt: skip
        found = shape[0]
    return found or 0


class DPSGD(Composed, DPAggregate):
    """Gradient descent, with momentum or without, that is differentially private.

    It is ``Chain(DPAggregate(...), Momentum(momentum, nesterov))``, or, without momentum, ``Chain(DPAggregate(...),
    SGD())``::

        p ← p − lr · (Σᵢ ḡᵢ + noise_multiplier · max_norm · n) / B

    Gradients are those of single examples, as for :class:`DPAggregate`. Memory: one float32 per parameter for momentum.

    State: those of :class:`DPAggregate` and ``Momentum``.

    Deviations: none; the paper has no momentum.

    Reference: Abadi et al. 2016, Deep Learning with Differential Privacy, Algorithm 1. arXiv:1607.00133.

    Example:
        >>> from optimkit.rules import Step
        >>> rule, params = DPSGD(1.0, noise_multiplier=0.0, seed=0), {"w": jnp.zeros(2)}
        >>> delta, state = rule.update(Step({"w": jnp.array([[3.0, 4.0]])}, params, 0.1), rule.init(params))
        >>> [round(float(x), 4) for x in delta["w"]]
        [-0.06, -0.08]
    """

    reference = "Abadi et al. 2016, Algorithm 1. arXiv:1607.00133"
    momentum: float | None = hyper(None, "[0, 1)", "decay of the sum of gradients; None is none")
    nesterov: bool = hyper(False, bool, "whether to look ahead, as Nesterov's method does")

    def compose(self) -> Rule:
        """Return the chain."""
        descent = SGD() if self.momentum is None else Momentum(self.momentum, self.nesterov)
        return Chain(self.part(DPAggregate), descent)
