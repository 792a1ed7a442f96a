"""MARS: variance reduction before AdamW, Lion, or what Muon does with matrices."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.contrib.rules.matrices import each
from optimkit.contrib.rules.muon import Muon, OrthogonalMomentum
from optimkit.hyper import hyper
from optimkit.rules.adam import Adam, AdamW
from optimkit.rules.base import Rule, Step, Tree
from optimkit.rules.compose import Chain, Composed
from optimkit.rules.sign import Lion
from optimkit.rules.stages import WeightDecay


class Correction(Rule):
    """What says how gradients are corrected, in :class:`MARS` and its relatives."""

    gamma: float = hyper(0.025, "[0, inf)", "strength of the correction")
    max_norm: float = hyper(1.0, "(0, inf]", "longest corrected gradient of a parameter; inf for any")
    exact: bool = hyper(False, bool, "whether the old gradient is that of this batch")


class Remembering(Rule):
    """The decay that :class:`VarianceReduced` corrects for. It is apart so that it comes first."""

    beta1: float = hyper(0.95, "[0, 1)", "decay of the mean that the correction is for")


class VarianceReduced(Correction, Remembering):
    """The corrected gradient of :class:`MARS`: a stage.

    State: ``previous``, the last gradient or, where it is exact, the last parameters, shaped as the parameter, float32;
    ``t``, int32.
    """

    of_stacks: ClassVar[bool] = False  # whether the first axis counts layers, each with a norm of its own

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Gradients elsewhere, where the correction is exact."""
        return ("grad_fn",) if self.exact else ()

    def init(self, params: Tree) -> Tree:
        """Return zeros, in place of what was before the first step."""
        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, numerics.compute_dtype(p.dtype)), params)
        return {"t": jnp.zeros((), jnp.int32), "previous": zeros}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return ``-lr`` times the corrected gradients."""
        old, kept, first = state["previous"], step.grads, state["t"] == 0
        if self.exact:
            kept = step.params
            before = jax.tree.map(lambda x, p: jnp.where(first, p, x.astype(p.dtype)), old, step.params)
            old = step.grad_fn(before)  # type: ignore[misc]
        deltas = jax.tree.map(lambda g, x, own: -step.lr * self._corrected(numerics.cast(g, own.dtype),
                              numerics.cast(x, own.dtype)), step.grads, old, state["previous"])  # fmt: skip
        previous = jax.tree.map(lambda x, own: jnp.array(x, own.dtype, copy=True), kept, state["previous"])
        return deltas, {"t": numerics.count_up(state["t"]), "previous": previous}

    def _corrected(self, g: jax.Array, old: jax.Array) -> jax.Array:
        c = g + self.gamma * self.beta1 / (1 - self.beta1) * (g - old)
        return each(self._cut, self.of_stacks)(c)

    def _cut(self, c: jax.Array) -> jax.Array:
        length = numerics.norm(c)
        return jnp.where(length > self.max_norm, self.max_norm * numerics.safe_divide(c, length), c)


class StackedVarianceReduced(VarianceReduced):
    """:class:`VarianceReduced` of each of the layers that are stacked along the first axis."""

    of_stacks = True


class MARS(Composed, VarianceReduced, Adam):
    """AdamW on gradients from which the change since the last step is amplified: the mean of these varies less.

    ::

        c = g + γ β₁ / (1 − β₁) · (g − g')        g' the last gradient;  exact: this batch's at the last parameters
        c ← c · min(1, max_norm / ‖c‖)            each parameter by itself
        p ← p − lr · (adam direction for c + weight_decay · p)

    For the pre-training of language models, at some five times AdamW's learning rate. It is
    ``Chain(VarianceReduced(...), Adam(...), WeightDecay(...))``. ``exact`` is the paper's algorithm, and costs a second
    gradient at each step: call ``minimize``. The authors leave vectors and scalars to AdamW:
    ``groups=[Group("vectors", lambda name, x: x.ndim < 2, rule=AdamW(0.9, 0.95))]``. Memory: three float32 per
    parameter.

    State: those of its parts: ``previous``, the last gradient, from 0, or the last parameters; ``mu``, ``nu``; shaped
    as the parameter, float32; ``t``, int32.

    Deviations: as in the authors' code, g' is 0 at the first step, which is amplified. The paper's, and ``exact``'s, is
    the first gradient. ``max_norm`` is 1 there, and ‖c‖ that of one parameter in the code. ``eps_root`` is not in the
    paper. ``amsgrad`` of the code is left out. For its other forms see :class:`MARSLion` and :class:`MARSShampoo`.

    Reference: Yuan et al. 2024, MARS: Unleashing the Power of Variance Reduction for Training Large Models, Algorithm
    2. arXiv:2411.10438.

    Example:
        >>> from optimkit import contrib, pure
        >>> rule = contrib.rules.MARS(beta1=0.5, beta2=0.0, gamma=1.0, eps=0.0, weight_decay=0.0)
        >>> init, apply = pure(rule, lr=0.1)
        >>> params = {"w": jnp.zeros(1)}
        >>> apply({"w": jnp.full(1, 0.25)}, init(params), params)[1]["w"]
        Array([-0.1], dtype=float32)
    """

    reference = "Yuan et al. 2024, Algorithm 2. arXiv:2411.10438"
    beta1: float = hyper(0.95, "[0, 1)", "decay of the mean of corrected gradients")
    beta2: float = hyper(0.99, "[0, 1)", "decay of the mean of their squares")
    weight_decay: float = hyper(0.01, "[0, inf)", "rate of decay, times the learning rate")

    def compose(self) -> Rule:
        """Return ``Chain(VarianceReduced(...), Adam(...), WeightDecay(...))``."""
        return Chain(self.part(VarianceReduced), self.part(Adam), WeightDecay(self.weight_decay))


class MARSLion(Composed, VarianceReduced):
    """Lion, with one memory, on the corrected gradients of :class:`MARS`: half of its memory.

    ::

        c as in MARS
        m ← β₁ m + (1 − β₁) c
        p ← p − lr · (sign(m) + weight_decay · p)

    Where Lion would do: its learning rates are three to ten times smaller than AdamW's, and decays as many times
    larger. It is ``Chain(VarianceReduced(beta1, ...), Lion(beta1, beta1, weight_decay))``. Memory: two float32 per
    parameter.

    State: those of its parts: ``previous``, as in :class:`MARS`, and ``m``, shaped as the parameter, float32, from 0;
    ``t``, int32.

    Deviations: those of :class:`MARS` in g' and ``max_norm``.

    Reference: Yuan et al. 2024, MARS: Unleashing the Power of Variance Reduction for Training Large Models, MARS-Lion.
    arXiv:2411.10438.

    Example:
        >>> from optimkit import contrib, pure
        >>> init, apply = pure(contrib.rules.MARSLion(weight_decay=0.0), lr=0.1)
        >>> params = {"w": jnp.zeros(2)}; state = init(params)
        >>> for g in (3.0, 2.0): state, params = apply({"w": jnp.array([g, -g])}, state, params)
        >>> params["w"]
        Array([-0.2,  0.2], dtype=float32)
    """

    reference = "Yuan et al. 2024, MARS-Lion. arXiv:2411.10438"
    weight_decay: float = hyper(0.01, "[0, inf)", "rate of decay, times the learning rate")

    def compose(self) -> Rule:
        """Return ``Chain(VarianceReduced(...), Lion(...))``."""
        return Chain(self.part(VarianceReduced), Lion(self.beta1, self.beta1, self.weight_decay))


class MARSShampoo(Correction, Muon):
    """:class:`~optimkit.contrib.rules.Muon` whose matrices see the corrected gradients of :class:`MARS`: MARS-M, too.

    ::

        c = g + γ μ / (1 − μ) · (g − g');  c ← c · min(1, max_norm / ‖c‖)          as in MARS, of matrices only
        M ← μ M + (1 − μ) c
        X, W as in Muon, without nesterov

    ``scale="moonshot"`` is MARS-M: AdamW's learning rate and decay, for all parameters. Routing, ``stacked`` layers and
    coefficients are those of :class:`~optimkit.contrib.rules.Muon`. ``exact`` costs a second gradient at each step:
    call ``minimize``. Memory: two float32 per element of a matrix, and that of ``other``.

    State: by route: ``muon``, ``stacked``: ``previous``, as in :class:`MARS`, and ``mu``, shaped as the parameter,
    float32, from 0; ``t``, int32; ``other``: that rule's.

    Deviations: those of :class:`MARS` in g' and ``max_norm``. The paper has singular values of exactly 1, by a
    decomposition; Newton-Schulz steps are those of the authors' code, there in bfloat16. In that code "jordan" goes
    with one learning rate for all, here ``other`` has 0.015 times that of matrices unless told, as in Muon; and kernels
    of more than two axes go to AdamW.

    Reference: Yuan et al. 2024, MARS: Unleashing the Power of Variance Reduction for Training Large Models,
    MARS-Shampoo, arXiv:2411.10438; Liu, Yuan & Gu 2025, MARS-M: When Variance Reduction Meets Matrices.
    arXiv:2510.21800.

    Raises:
        CompositionError: ``elsewhere`` or ``stacked`` is neither a regular expression nor a function.

    Example:
        >>> from optimkit import contrib, pure
        >>> rule = contrib.rules.MARSShampoo(coefficients="cubic", ns_steps=20, weight_decay=0.0)
        >>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
        >>> rule.routes(params)
        {'b': 'other', 'w': 'muon'}
        >>> init, apply = pure(rule, lr=1.0)
        >>> grads = {"w": jnp.array([[0.0, 2.0], [-6.0, 0.0]]), "b": jnp.zeros(2)}
        >>> apply(grads, init(params), params)[1]["w"].round(3) + 0.0
        Array([[ 0., -1.],
               [ 1.,  0.]], dtype=float32)
    """

    reference = "Yuan et al. 2024, MARS-Shampoo. arXiv:2411.10438; Liu, Yuan & Gu 2025, MARS-M. arXiv:2510.21800"
    nesterov: bool = hyper(False, bool, "whether the gradient is averaged in a second time")
    weight_decay: float = hyper(0.01, "[0, inf)", "rate of decay of the matrices, times the learning rate")
    other: Rule = AdamW(0.9, 0.95, weight_decay=0.1)

    def _of_matrices(self, direction: type[OrthogonalMomentum]) -> Rule:
        reduced = StackedVarianceReduced if direction.of_stacks else VarianceReduced
        correction = reduced(self.momentum, self.gamma, self.max_norm, self.exact)
        return Chain(correction, super()._of_matrices(direction))
