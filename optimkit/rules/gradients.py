"""Stages that filter what comes in: centred, noisy, free of NaN, averaged, or with its slow part amplified.

``AddNoise`` has one random key for all parameters; the others treat each parameter alone.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics, tree
from optimkit.hyper import hyper
from optimkit.rules.adam_variants import debiased, ema
from optimkit.rules.base import LeafRule, Rule, Slot, Step, Tree


class Centralize(LeafRule):
    """Subtracts from the gradient of each output's weights its mean, so that their sum never changes.

    ::

        direction = g − mean(g) over all axes but the last       two axes or more; others pass

    A regulariser for convolutional and dense layers, at no cost. First in a chain it centres gradients; after Adam and
    ``WeightDecay``, the step (the authors do both). Leave embeddings out by :class:`Masked`: their last axis is no
    output. Memory: none.

    Zeros stay zeros. An infinity or NaN in the weights of an output makes all of that output's infinite or NaN.

    State: none.

    Deviations: the paper and PyTorch have the outputs on the first axis; here, as in JAX, they are on the last. optax
    takes the first, and so centres across outputs unless kernels are transposed. The authors' ``gc_conv_only``, for
    kernels of four axes or more, is ``Masked(Centralize(), lambda name, x: x.ndim > 3)``.

    Reference: Yong, Huang, Hua & Zhang 2020, Gradient Centralization: A New Optimization Technique for Deep Neural
    Networks, equation 1. arXiv:2004.01461.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Centralize(), lr=1.0)
        >>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
        >>> moved = apply({"w": jnp.array([[1.0, 5.0], [3.0, 5.0]]), "b": jnp.ones(2)}, init(params), params)[1]
        >>> moved["w"].tolist(), moved["b"].tolist()
        ([[1.0, 0.0], [-1.0, 0.0]], [-1.0, -1.0])
    """

    reference = "Yong, Huang, Hua & Zhang 2020, equation 1. arXiv:2004.01461"

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the centred gradient."""
        if g.ndim > 1:
            mean = jnp.sum(g, range(g.ndim - 1), keepdims=True) / max(math.prod(g.shape[:-1]), 1)
            g = g - mean
        return -lr * g, slot


class AddNoise(Rule):
    """Adds Gaussian noise that fades with time.

    ::

        direction = g + σ n,  n standard normal,  σ² = eta / tᵞ

    For very deep or badly initialised networks, and to leave flat regions; :class:`NoisySGD` is this by itself. Put it
    before what normalises: after Adam its size is relative to the learning rate. Memory: none.

    Zeros become noise; infinities and NaN come through.

    State: ``key``, uint32[2], from ``jax.random.PRNGKey(seed)``; ``t``, int32. The key is split at each step. The noise
    of a parameter depends on the key and on the parameter's name, so that two parameters share none, and what other
    parameters there are does not matter. It is drawn in float32, whatever the dtype.

    Deviations: none; the paper counts steps from 0 and writes 1 + t. ``eta`` is a variance, 0.01, 0.3 or 1.0 there.

    Reference: Neelakantan et al. 2015, Adding Gradient Noise Improves Learning for Very Deep Networks, section 3.
    arXiv:1511.06807.

    Example:
        >>> from optimkit import pure, rules
        >>> params = {"w": jnp.zeros(2)}
        >>> init, apply = pure(rules.Chain(rules.AddNoise(eta=0.0), rules.Momentum()), lr=0.1)
        >>> apply({"w": jnp.ones(2)}, init(params), params)[1]["w"]
        Array([-0.1, -0.1], dtype=float32)
    """

    reference = "Neelakantan et al. 2015, section 3. arXiv:1511.06807"
    eta: float = hyper(0.01, "[0, inf)", "variance of the noise at the first step")
    gamma: float = hyper(0.55, "[0, inf)", "exponent of its decay")
    seed: int = hyper(0, "int [0, 4294967295]", "seed of the random key")

    def init(self, params: Tree) -> Tree:
        """Return the random key and the counter."""
        return {"t": jnp.zeros((), jnp.int32), "key": jax.random.PRNGKey(self.seed)}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the noisy gradients, times ``-lr``, and the next key."""
        t = numerics.count_up(state["t"])
        key, own = jax.random.split(state["key"])
        sigma = jnp.sqrt(self.eta * t.astype(jnp.float32) ** -self.gamma)
        names, params, structure = tree.names_and_leaves(step.params)

        def moved(name: str, p: jax.Array, g: jax.Array) -> jax.Array:
            noise = jax.random.normal(jax.random.fold_in(own, zlib.crc32(name.encode())), p.shape, jnp.float32)
            return -step.lr * (numerics.cast(g, numerics.compute_dtype(p.dtype)) + sigma * noise)

        deltas = map(moved, names, params, structure.flatten_up_to(step.grads))
        return structure.unflatten(deltas), {"t": t, "key": key}


class ZeroNaNs(LeafRule):
    """Replaces NaN by 0, element by element, and counts the steps that had any.

    ::

        direction = 0 where g is NaN, g elsewhere

    First in a chain it keeps a NaN out of the moments, where it would stay for good. It hides a fault: look at the
    counts. Where the other elements are likely wrong, too, leave out the whole step by :class:`SkipNonFinite`. Memory:
    one int32 for each parameter, whatever its size.

    Zeros and infinities come through: ``Chain(ZeroNaNs(), ClipByValue(c), ...)`` deals with both.

    State: ``nans``, an int32 scalar for each parameter, the number of steps at which its gradient had a NaN; ``t``,
    int32.

    Deviations: optax's ``zero_nans`` remembers for each parameter whether the last step had one, not how many had.

    Reference: none; as in optax, DeepMind 2020, ``zero_nans``.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.ZeroNaNs(), lr=1.0)
        >>> params = {"w": jnp.zeros(2)}
        >>> state, params = apply({"w": jnp.array([jnp.nan, 1.0])}, init(params), params)
        >>> params["w"].tolist(), int(state["slots"]["w"]["nans"])
        ([0.0, -1.0], 1)
    """

    reference = "none; as in optax, DeepMind 2020, zero_nans."

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return the count, zero."""
        return {"nans": jnp.zeros((), jnp.int32)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times what is left, and the count."""
        nan = jnp.isnan(g)
        count = jnp.where(jnp.any(nan), numerics.count_up(slot["nans"]), slot["nans"])
        return -lr * jnp.where(nan, 0.0, g), {"nans": count}


class EmaOfGradients(LeafRule):
    """Replaces what comes in by its exponential moving average.

    ::

        μ ← decay · μ + (1 − decay) · g
        direction = μ / (1 − decayᵗ)        μ itself with debias=False

    It is the numerator of :class:`Adam`, and :class:`Momentum` of a length that does not depend on ``decay``. For the
    average of *parameters* see ``ExponentialMovingAverage``. Memory: one float32 per parameter.

    Zeros decay it. An infinity or NaN stays in μ for good: put ``ZeroNaNs`` and a clip before.

    State: ``mu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: none. The paper debiases.

    Reference: Kingma & Ba 2015, Adam: A Method for Stochastic Optimization, the mean of Algorithm 1. arXiv:1412.6980.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.EmaOfGradients(0.5), lr=1.0)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (1.0, 4.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"]  # 1, and (0.5 · 0.5 · 1 + 0.5 · 4) / 0.75 = 3
        Array([-4.], dtype=float32)
    """

    reference = "Kingma & Ba 2015, the mean of Algorithm 1. arXiv:1412.6980"
    decay: float = hyper(0.9, "[0, 1)", "decay of the mean")
    debias: bool = hyper(True, bool, "whether the mean is corrected for its start at 0")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu``, zero."""
        return {"mu": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the mean, and the mean."""
        mu = ema(self.decay, slot["mu"], g)
        return -lr * (debiased(mu, self.decay, t) if self.debias else mu), {"mu": mu}


class GrokFast(LeafRule):
    """Amplifies the slow part of the gradient, to hasten the late generalisation that is called grokking.

    ::

        μ ← decay · μ + (1 − decay) · g,  at the first step g
        direction = g + lamb · μ

    First in a chain, before :class:`Adam` or :class:`AdamW`, on small data sets that a model fits long before it
    generalises; with weight decay. The direction is up to 1 + lamb times as long as the gradient: with SGD, lower the
    learning rate. The authors' (decay, lamb) are (0.98, 2) for modular arithmetic. Memory: one float32 per parameter.

    Zeros decay μ. An infinity or NaN stays in μ for good: put ``ZeroNaNs`` and a clip before.

    State: ``mu``, shaped as the parameter, float32, from 0; ``t``, int32.

    Deviations: the paper's algorithm starts μ as the parameters, a slip: as in the authors' code it is the first
    gradient. ``decay`` is the paper's α. Its other filter, the mean over a window, would keep a hundred gradients.

    Reference: Lee, Kang, Kim & Lee 2024, Grokfast: Accelerated Grokking by Amplifying Slow Gradients, Algorithm 2.
    arXiv:2405.20233.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.GrokFast(0.5, lamb=2.0), lr=1.0)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (1.0, 4.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"]  # 1 + 2 · 1, and 4 + 2 · 2.5
        Array([-12.], dtype=float32)
    """

    reference = "Lee, Kang, Kim & Lee 2024, Algorithm 2. arXiv:2405.20233"
    decay: float = hyper(0.98, "[0, 1)", "decay of the mean")
    lamb: float = hyper(2.0, "[0, inf)", "weight of the mean, λ in the paper")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return ``mu``, zero until there is a gradient."""
        return {"mu": jnp.zeros_like(p)}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the amplified gradient, and the mean."""
        mu = jnp.where(t == 1, g, ema(self.decay, slot["mu"], g))
        return -lr * (g + self.lamb * mu), {"mu": mu}
