"""Muon: orthogonalised momentum for the matrices inside a network, and another rule for what is not one of them."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optimkit.contrib.rules.matrices import each, placed_as, whole
from optimkit.contrib.rules.newton_schulz import COEFFICIENTS, coefficients_of, newton_schulz
from optimkit.contrib.rules.routing import (
    EMBEDDINGS_AND_HEADS,
    NEVER,
    Routes,
    matches,
)
from optimkit.hyper import hyper
from optimkit.rules.adam import Adam
from optimkit.rules.adam_variants import ema
from optimkit.rules.base import LeafRule, Rule, Slot, Tree, check_rule_type
from optimkit.rules.compose import Chain, Composed, Match, compiled, shown_match
from optimkit.rules.stages import WeightDecay
from optimkit.rules.wrappers import Scaled
from optimkit.tree import names_and_leaves


class OrthogonalMomentum(LeafRule):
    """Momentum whose singular values are all made about 1: what :class:`Muon` does with a matrix.

    State: ``mu``, shaped as the parameter, float32, from 0; ``t``, int32.
    """

    of_stacks: ClassVar[bool] = False  # whether the first axis counts layers
    momentum: float = hyper(0.95, "[0, 1)", "decay of the mean of gradients, μ")
    nesterov: bool = hyper(True, bool, "whether the gradient is averaged in a second time")
    ns_steps: int = hyper(5, "int [1, inf)", "Newton-Schulz steps")
    coefficients: str = hyper("jordan", tuple(COEFFICIENTS), "a, b and c of the Newton-Schulz steps")
    ns_eps: float = hyper(1e-7, "[0, inf)", "added to the norm that a matrix is divided by")
    ns_dtype: str = hyper("float32", ("float32", "bfloat16"), "dtype of the Newton-Schulz steps")
    scale: str = hyper("jordan", ("jordan", "moonshot", "none"), "how the shape scales the step")
    layout: str = hyper("in_out", ("in_out", "out_in"), "whether inputs or outputs come first in a kernel's axes")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu``, zero."""
        return {"mu": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the orthogonalised momentum, and the mean."""
        mu = ema(self.momentum, slot["mu"], g)
        moved = ema(self.momentum, mu, g) if self.nesterov else mu
        return -lr * placed_as(each(self.orthogonal, self.of_stacks)(whole(moved)), p), {"mu": mu}

    def orthogonal(self, x: jax.Array) -> jax.Array:
        """Return a kernel with singular values of about 1, as a matrix, times the factor of its shape."""
        rows, columns = matrix_shape(x.shape, self.layout)
        steps = coefficients_of(self.coefficients, self.ns_steps)
        wide = newton_schulz(x.reshape(rows, columns), steps, self.ns_eps, self.ns_dtype)
        fan_in, fan_out = (rows, columns) if self.layout == "in_out" else (columns, rows)
        factors = {"jordan": max(1.0, fan_out / fan_in) ** 0.5, "moonshot": 0.2 * max(fan_in, fan_out) ** 0.5}
        return factors.get(self.scale, 1.0) * wide.reshape(x.shape)


class StackedOrthogonalMomentum(OrthogonalMomentum):
    """:class:`OrthogonalMomentum` of each of the layers that are stacked along the first axis."""

    of_stacks = True


class Muon(Composed, OrthogonalMomentum):
    """Momentum that moves a matrix in all of its directions alike: its step has singular values of about 1.

    ::

        B ← μ B + (1 − μ) G
        M = μ B + (1 − μ) G               nesterov;  M = B without
        X = M / (‖M‖_F + ns_eps);  ns_steps times:  X ← a X + b X Xᵀ X + c (X Xᵀ)² X
        W ← W − lr · (s X + weight_decay · W)
        s = √max(1, outputs / inputs)     scale="jordan";  0.2 √max(inputs, outputs)  scale="moonshot"
        (a, b, c) = (3.4445, −4.775, 2.0315)  "jordan";  (2, −1.5, 0.5)  "quintic";  (1.5, −0.5, 0)  "cubic"

    "jordan" has the steepest slope at 0: singular values come near 1 in five steps, and stay between 0.7 and 1.2.
    "quintic" and "cubic" converge to 1, slowly. "deepseek" is "jordan" with "quintic" for the last two, of ten in their
    model. "polar_express" and "dion" have other numbers at each step: those of the former are the best there are for
    that number of steps.

    For the matrices inside a network, above all those of transformers: it takes less steps than AdamW there. What goes
    where::

        matrices                    Muon
        kernels of convolutions     Muon, flattened to a matrix: all axes but that of the outputs
        stacks of layers            Muon, a matrix for each layer, where ``stacked`` matches
        embeddings and heads        ``other``, where ``elsewhere`` matches
        vectors and scalars         ``other``; so are kernels with one input or one output

    ``elsewhere`` and ``stacked`` are regular expressions, searched for in names, or functions of name and array; look
    at what they do by ``Muon().routes(params)``. A last layer that is not called a head goes with the matrices: name
    it in ``elsewhere``. ``layout`` says where a kernel's outputs are: in the last axis as in JAX, or in the first as in
    PyTorch. With "jordan" learning rates are about 0.02 for Muon and 0.015 times that for ``other``; with "moonshot"
    both have Adam's learning rate and decay. ``other`` has its own weight decay, or none.
    Memory: one float32 per element of a matrix, and that of ``other``.

    State: by route: ``muon``, ``stacked``: ``mu``, shaped as the parameter, float32, from 0; ``other``: that rule's.

    Deviations: the mean is the authors' code's; in the article B ← μ B + G, of which X is the same but for ns_eps. The
    steps of Newton and Schulz are in float32; in the code they are in ``ns_dtype="bfloat16"``. For a kernel of more
    than two axes the code's s looks at the last two of them, here at the flattened matrix. 0/0 is 0. optax 0.2.8
    divides B by 1 − μᵗ, which neither the article nor its code does; that changes M with ``nesterov``, where the
    gradient is so much the less of it.

    Reference: Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks,
    https://kellerjordan.github.io/posts/muon; Liu et al. 2025, Muon is Scalable for LLM Training, equation (4), for
    "moonshot" and the decay. arXiv:2502.16982. Amsel, Persson, Musco & Gower 2025, The Polar Express, Algorithm 1, for
    "polar_express". arXiv:2505.16932. optax's muon for "dion"; the report on DeepSeek-V4 for "deepseek".

    Raises:
        CompositionError: ``elsewhere`` or ``stacked`` is neither a regular expression nor a function.

    Example:
        >>> from optimkit import contrib, pure
        >>> rule = contrib.rules.Muon(coefficients="cubic", ns_steps=20)  # converges to singular values of 1
        >>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2), "embed": jnp.zeros((9, 2))}
        >>> rule.routes(params)
        {'b': 'other', 'embed': 'other', 'w': 'muon'}
        >>> init, apply = pure(rule, lr=1.0)
        >>> grads = {**params, "w": jnp.array([[0.0, 2.0], [-6.0, 0.0]])}
        >>> apply(grads, init(params), params)[1]["w"].round(3) + 0.0
        Array([[ 0., -1.],
               [ 1.,  0.]], dtype=float32)
    """

    reference = "Jordan et al. 2024; Liu et al. 2025, equation (4). arXiv:2502.16982"
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decay of the matrices, times the learning rate")
    other: Rule = Adam(0.9, 0.95, eps=1e-10)
    other_lr_scale: float | None = hyper(
        None, "(0, inf)", "factor of the other rule's learning rate; None is 0.015 with scale='jordan', else 1"
    )  # fmt: skip
    elsewhere: Match = EMBEDDINGS_AND_HEADS
    stacked: Match = NEVER

    def __post_init__(self) -> None:
        super().__post_init__()
        own = type(self).__name__
        check_rule_type(own, self.other)
        for name in ("elsewhere", "stacked"):
            object.__setattr__(self, name, compiled(f"{own}({name}=...)", getattr(self, name)))

    def compose(self) -> Rule:
        """Return the partition of matrices, stacks of them, and all others."""
        scale = self.other_lr_scale
        if scale is None:
            scale = 0.015 if self.scale == "jordan" else 1.0
        rules = {"muon": self._of_matrices(OrthogonalMomentum), "other": Scaled(self.other, scale)}
        if self.stacked != NEVER:
            rules["stacked"] = self._of_matrices(StackedOrthogonalMomentum)
        routes = ((Goes(label, self.layout, self.elsewhere, self.stacked), rule) for label, rule in rules.items())
        return Routes(*routes, labels=tuple(rules))

    def _of_matrices(self, direction: type[OrthogonalMomentum]) -> Rule:
        return Chain(self.part(direction), WeightDecay(self.weight_decay))

    def routes(self, params: Tree) -> dict[str, str]:
        """Return for each parameter, by name, whether it goes to ``"muon"``, ``"stacked"`` or ``"other"``."""
        names, leaves, _ = names_and_leaves(params)
        goes = Goes("", self.layout, self.elsewhere, self.stacked)
        return {name: goes.route(name, x) for name, x in zip(names, leaves, strict=True)}

    def __repr__(self) -> str:
        plain = {n: x for n, x in self._fields().items() if n not in ("elsewhere", "stacked")}
        shown = [f"{n}={x!r}" for n, x in plain.items() if n != "slot_dtype" or x is not None]
        for name, default in (("elsewhere", EMBEDDINGS_AND_HEADS), ("stacked", NEVER)):
            if getattr(self, name) != default:
                shown.append(f"{name}={shown_match(getattr(self, name))}")
        return f"{type(self).__name__}({', '.join(shown)})"


# --- what goes where --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Goes:
    """The match of one of Muon's routes: a value, so that equal rules have equal partitions."""

    label: str
    layout: str
    elsewhere: Match
    stacked: Match

    def __call__(self, name: str, x: Any) -> bool:
        """Tell whether a parameter goes there."""
        return self.route(name, x) == self.label

    def route(self, name: str, x: Any) -> str:
        """Return where a parameter goes."""
        stacked = x.ndim > 0 and matches(self.stacked, name, x)
        shape = x.shape[1:] if stacked else x.shape
        if min(matrix_shape(shape, self.layout)) < 2 or matches(self.elsewhere, name, x) or x.size == 0:
            return "other"
        return "stacked" if stacked else "muon"


def matrix_shape(shape: tuple[int, ...], layout: str) -> tuple[int, int]:
    """Return the rows and columns of the matrix that a kernel is flattened to.

    Example:
        >>> matrix_shape((3, 3, 16, 32), "in_out"), matrix_shape((32, 16, 3, 3), "out_in"), matrix_shape((5,), "in_out")
        ((144, 32), (32, 144), (1, 5))
    """
    if len(shape) < 2:
        return 1, shape[0] if shape else 1
    size = 1
    for n in shape[:-1] if layout == "in_out" else shape[1:]:
        size *= n
    return (size, shape[-1]) if layout == "in_out" else (shape[0], size)
