"""Stages that clip: by element, by parameter, by unit, or all gradients together.

``ClipByGlobalNorm`` looks at all parameters; the others treat each parameter alone.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics, tree
from optimkit.hyper import hyper
from optimkit.rules.base import LeafRule, Rule, Slot, Step, Tree


class ClipByValue(LeafRule):
    """Cuts each element of what comes in at ``± max_value``.

    ::

        direction = min(max(g, −max_value), max_value)

    The one clipping that needs no norm, and so nothing from other devices. It changes where a gradient points:
    :class:`ClipByGlobalNorm` does not. Memory: none.

    A zero stays zero, an infinity becomes ``± max_value``, NaN comes through.

    State: none.

    Deviations: Mikolov cut the gradients of errors at each time step of a recurrent network, at 15; libraries, and this
    stage, cut those of parameters.

    Reference: Mikolov 2012, Statistical Language Models Based on Neural Networks, PhD thesis, section 3.2.2.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.ClipByValue(1.0), lr=1.0)
        >>> params = {"w": jnp.zeros(2)}
        >>> apply({"w": jnp.array([0.5, -4.0])}, init(params), params)[1]["w"]
        Array([-0.5,  1. ], dtype=float32)
    """

    reference = "Mikolov 2012, Statistical Language Models Based on Neural Networks, section 3.2.2."
    max_value: float = hyper(1.0, "(0, inf)", "largest magnitude of an element")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times what is left."""
        return -lr * jnp.clip(g, -self.max_value, self.max_value), slot


class ClipByBlockRMS(LeafRule):
    """Scales the gradient of each parameter so that its root mean square is at most ``threshold``.

    ::

        direction = g / max(1, RMS(g) / threshold),  RMS(g) = √mean(g²) over a parameter

    After a rule that normalises, such as Adam, whose usual step has an RMS of about 1, it keeps a parameter from a step
    that its second moments were not ready for; it is a part of :class:`Adafactor`. Memory: none.

    Zeros stay zeros. A parameter with an infinity in its gradient gets zeros, the limit of the formula; NaN comes
    through, and the rest of that parameter with it, unscaled.

    State: none.

    Deviations: none.

    Reference: Shazeer & Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, section 6.
    arXiv:1804.04235.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.ClipByBlockRMS(1.0), lr=1.0)
        >>> params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
        >>> moved = apply({"a": jnp.array([1.0, 7.0]), "b": jnp.array([0.5])}, init(params), params)[1]
        >>> moved["a"], moved["b"]  # the mean of 1 and 49 is 5²
        (Array([-0.2, -1.4], dtype=float32), Array([-0.5], dtype=float32))
    """

    reference = "Shazeer & Stern 2018, section 6. arXiv:1804.04235"
    threshold: float = hyper(1.0, "(0, inf)", "largest root mean square that passes unchanged")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the scaled gradient."""
        return -lr * clipped(g, self.threshold), slot


class ClipByGlobalNorm(Rule):
    """Scales all gradients together so that their common norm is at most ``max_norm``.

    ::

        direction = g · min(1, max_norm / ‖g‖),  ‖g‖ over all parameters

    First in a chain, it keeps a rare large gradient from spoiling the moments. Memory: none.

    Zeros stay zeros. Where there is an infinity, all gradients become zeros, the limit of the formula; NaN comes
    through, and everything else with it, unscaled.

    State: none.

    Deviations: none.

    Reference: Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks, Algorithm 1.
    arXiv:1211.5063.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.ClipByGlobalNorm(1.0), lr=1.0)
        >>> params = {"w": jnp.zeros(2)}
        >>> apply({"w": jnp.array([3.0, 4.0])}, init(params), params)[1]["w"]
        Array([-0.6, -0.8], dtype=float32)
    """

    reference = "Pascanu, Mikolov & Bengio 2013, Algorithm 1. arXiv:1211.5063"
    max_norm: float = hyper(1.0, "(0, inf)", "largest norm that passes unchanged")

    def init(self, params: Tree) -> Tree:
        """Return an empty state."""
        return {}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the clipped gradients, times ``-lr``."""
        norm = tree.global_norm(step.grads)

        def clip(g: jax.Array) -> jax.Array:
            return -step.lr * shrunk(numerics.cast(g, numerics.compute_dtype(g.dtype)), norm, self.max_norm)

        return jax.tree.map(clip, step.grads), state


class AdaptiveClip(LeafRule):
    """Scales the gradient of each unit so that it is at most ``clipping`` times as long as the unit's weights.

    ::

        direction = g · min(1, clipping · max(‖p‖, eps) / ‖g‖),  norms over each unit

    A unit is what one output is computed from: a column of a matrix (inputs, outputs), and of a kernel (height, width,
    inputs, outputs) what all axes but the last span. A parameter with at most one axis longer than 1 is one unit. Three
    axes are (inputs, heads, outputs), with a unit for each head and output; ``heads=False`` takes them for a kernel of
    one dimension.

    For deep networks without normalisation layers; the larger the batch, the smaller ``clipping`` has to be. Leave the
    last linear layer out by :class:`Masked`, as the authors do. Memory: none.

    Zeros stay zeros. A unit with an infinity in its gradient gets zeros, the limit of the formula; NaN comes through,
    and the rest of its unit with it, unscaled.

    State: none.

    Deviations: the authors' code ends at four axes; five and more are treated as four are. It never divides by less
    than 1e-6, which matters only where ``clipping · eps`` is smaller.

    Reference: Brock, De, Smith & Simonyan 2021, High-Performance Large-Scale Image Recognition Without Normalization,
    equation 3. arXiv:2102.06171.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.AdaptiveClip(0.1), lr=1.0)
        >>> params = {"w": jnp.array([[3.0, 1.0], [4.0, 0.0]])}  # two outputs, of norms 5 and 1
        >>> apply({"w": jnp.array([[0.0, 0.0], [8.0, 0.1]])}, init(params), params)[1]["w"]
        Array([[ 3. ,  1. ],
               [ 3.5, -0.1]], dtype=float32)
    """

    reference = "Brock, De, Smith & Simonyan 2021, equation 3. arXiv:2102.06171"
    clipping: float = hyper(0.01, "(0, inf)", "largest length of a gradient relative to its weights'")
    eps: float = hyper(1e-3, "[0, inf)", "least length that weights count as, so that those at zero can move")
    heads: bool = hyper(True, bool, "whether three axes are inputs, heads, outputs, not a kernel of one dimension")

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the scaled gradient."""
        fan_in = self.fan_in_axes(p.shape)
        longest = self.clipping * jnp.maximum(unit_norms(p, fan_in), self.eps)
        return -lr * shrunk(g, unit_norms(g, fan_in), longest), slot

    def fan_in_axes(self, shape: tuple[int, ...]) -> int:
        """Return how many of the first axes one unit spans.

        Example:
            >>> [AdaptiveClip().fan_in_axes(shape) for shape in ((), (1, 8), (4, 8), (4, 2, 8), (3, 3, 4, 8))]
            [0, 2, 1, 1, 3]
        """
        if sum(n != 1 for n in shape) <= 1:
            return len(shape)
        return 1 if len(shape) == 3 and self.heads else len(shape) - 1


# --- what clips share -------------------------------------------------------------------------------------------------


def shrunk(g: jax.Array, size: jax.Array, largest: Any) -> jax.Array:
    """Return ``g · min(1, largest / size)``: zeros where the size is infinite, ``g`` itself where it is NaN.

    The gradient is divided first: the ratio of two numbers far apart would underflow.

    Example:
        >>> shrunk(jnp.array([0.0, 4e30]), jnp.float32(4e30), 1e-30)
        Array([0.e+00, 1.e-30], dtype=float32)
    """
    above = size > largest
    scaled = g / jnp.where(above, size, 1.0) * jnp.where(above, largest, 1.0)  # largest may be inf
    return jnp.where(above & jnp.isinf(size), 0.0, scaled)


def clipped(u: jax.Array, threshold: Any) -> jax.Array:
    """Return ``u / max(1, RMS(u) / threshold)``."""
    return shrunk(u, rms(u), threshold)


def rms(x: jax.Array) -> jax.Array:
    """Return the root of the mean square of all elements, 0 for none."""
    return numerics.norm(x) / math.sqrt(max(x.size, 1))


def unit_norms(x: jax.Array, axes: int) -> jax.Array:
    """Return the norms over the first axes, a number of them, which are kept with length 1.

    Example:
        >>> unit_norms(jnp.array([[3.0, 1.0], [4.0, 0.0]]), 1)
        Array([[5., 1.]], dtype=float32)
    """
    units = x.shape[axes:]
    columns = x.reshape(math.prod(x.shape[:axes]), math.prod(units))
    return jax.vmap(numerics.norm, in_axes=1)(columns).reshape((1,) * axes + units)


def example_norm(*grads: jax.Array) -> jax.Array:
    """Return the Euclidean norm of the gradient of one example, over all parameters together.

    It is the norm of the norms of each, and not of all elements at once, so that a compiler can forget the gradient of
    a layer when its norm is known.

    Example:
        >>> f"{example_norm(jnp.array([3e30, 0.0]), jnp.array(4e30)):.3e}"
        '5.000e+30'
    """
    return numerics.norm(*map(numerics.norm, grads))


def clipped_sum(grads: Tree, max_norm: Any, mask: jax.Array | None = None) -> Tree:
    """Return the sum over examples, the first axis, of gradients that are clipped to a global norm each.

    An example whose norm is infinite or NaN counts as zero, and so does one where ``mask``, bool[examples], is False.

    Example:
        >>> clipped_sum({"w": jnp.array([[3.0, 4.0], [0.5, 0.0], [jnp.nan, 1.0]])}, 1.0)
        {'w': Array([1.1, 0.8], dtype=float32)}
    """
    norms = jax.vmap(example_norm)(*jax.tree.leaves(grads))
    counts = jnp.isfinite(norms) if mask is None else jnp.isfinite(norms) & mask

    def total(g: jax.Array) -> jax.Array:
        each = (-1, *[1] * (g.ndim - 1))
        clipped = shrunk(g, numerics.cast(norms, g.dtype).reshape(each), max_norm)
        return jnp.sum(jnp.where(counts.reshape(each), clipped, 0.0), axis=0)

    return jax.tree.map(total, grads)
