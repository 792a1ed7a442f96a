"""Sophia: momentum divided by an estimate of the Hessian's diagonal, and clipped."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.adam_variants import ema
from optimkit.rules.base import Rule, Step, Tree
from optimkit.rules.compose import Chain, Composed
from optimkit.rules.gated import choose
from optimkit.rules.stages import WeightDecay
from optimkit.tree import names_and_leaves


class ClippedNewton(Rule):
    """The direction of :class:`Sophia`, without weight decay.

    State: ``mu`` and ``h``, shaped as the parameter, float32, from 0; ``key``, uint32[2], from the seed; ``t``, int32.
    """

    needs = ("grad_fn",)
    beta1: float = hyper(0.96, "[0, 1)", "decay of the mean of gradients")
    beta2: float = hyper(0.99, "[0, 1)", "decay of the mean of estimates of the Hessian's diagonal")
    gamma: float = hyper(0.01, "(0, inf)", "factor of that mean; the smaller it is, the more is clipped")
    eps: float = hyper(1e-12, "[0, inf)", "smallest denominator")
    frequency: int = hyper(10, "int [1, 2147483647]", "steps from one estimate to the next")
    noise: str = hyper("gaussian", ("gaussian", "rademacher"), "what random direction the estimate is made in")
    seed: int = hyper(0, "int [0, 4294967295]", "seed of the random key")

    def init(self, params: Tree) -> Tree:
        """Return zeros, the random key and the counter."""

        def zeros() -> Tree:
            return jax.tree.map(lambda p: jnp.zeros_like(p, numerics.compute_dtype(p.dtype)), params)

        return {"t": jnp.zeros((), jnp.int32), "key": jax.random.PRNGKey(self.seed), "mu": zeros(), "h": zeros()}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the clipped quotients, times ``-lr``, and the means."""
        mu = jax.tree.map(lambda m, g: ema(self.beta1, m, numerics.cast(g, m.dtype)), state["mu"], step.grads)

        def estimated() -> Tree:
            key, own = jax.random.split(state["key"])
            estimate = self._hutchinson(own, step)
            return {
                "key": key,
                "h": jax.tree.map(lambda h, x: ema(self.beta2, h, numerics.cast(x, h.dtype)), state["h"], estimate),
            }

        due = jnp.mod(state["t"], self.frequency) == 0
        new = choose(due, estimated, lambda: {"key": state["key"], "h": state["h"]})
        delta = jax.tree.map(lambda m, h: -step.lr * self._clipped(m, h), mu, new["h"])
        return delta, {"t": numerics.count_up(state["t"]), "mu": mu, **new}

    def _clipped(self, m: jax.Array, h: jax.Array) -> jax.Array:
        size = jnp.maximum(self.gamma * h, self.eps)
        return jnp.where(jnp.abs(m) >= size, jnp.sign(m), numerics.safe_divide(m, size))

    def _hutchinson(self, key: jax.Array, step: Step) -> Tree:
        """Return ``u ⊙ (∇²L u)``, whose mean over u is the diagonal of the Hessian."""
        names, leaves, structure = names_and_leaves(step.params)
        draw = jax.random.normal if self.noise == "gaussian" else jax.random.rademacher
        # Of a parameter's name, so that another parameter's coming or going changes nothing for it.
        keys = (jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names)
        u = [
            numerics.cast(draw(k, p.shape, numerics.compute_dtype(p.dtype)), p.dtype)
            for k, p in zip(keys, leaves, strict=True)
        ]
        product = jax.jvp(step.grad_fn, (step.params,), (structure.unflatten(u),))[1]  # type: ignore[arg-type]
        wide = [numerics.cast(x, numerics.compute_dtype(x.dtype)) for x in structure.flatten_up_to(product)]
        return structure.unflatten([a * b for a, b in zip(u, wide, strict=True)])


class Sophia(Composed, ClippedNewton):  # type: ignore[misc]
    """Divides momentum by a running estimate of the Hessian's diagonal, and clips each element of the quotient.

    ::

        μ ← β₁ μ + (1 − β₁) g
        ĥ = u ⊙ (∇²L u),  u standard normal                          every ``frequency`` steps
        h ← β₂ h + (1 − β₂) ĥ
        p ← p − lr · (clip(μ / max(γ h, eps), ±1) + weight_decay · p)

    For the pre-training of language models. Where the Hessian is small, negative or unknown the step is the sign's, of
    the size of the learning rate: 3 to 5 times Lion's, or that of AdamW. ``gamma`` is to be such that between 10 % and
    50 % of the elements are not clipped. The Hessian comes from a derivative of the gradient function along u, about
    the cost of two gradients: call ``minimize``, or give ``grad_fn``. Memory: two float32 per parameter.

    State: ``mu`` and ``h``, shaped as the parameter, float32, from 0; ``key``, uint32[2], from ``seed``, split at each
    estimate; ``t``, int32. The random direction of a parameter is drawn by its name.

    Deviations: "rademacher", signs in place of normal numbers, has less variance and is not in the paper. The paper's
    learning rate multiplies the decay, as here. Its authors' code for this estimator corrects the mean for its start at
    0; its algorithm does not. optax clips by the estimate before the one that it makes.

    Reference: Liu, Li, Hall, Liang & Ma 2023, Sophia: A Scalable Stochastic Second-order Optimizer for Language Model
    Pre-training, Algorithms 1 and 3. arXiv:2305.14342.

    Example:
        >>> from optimkit import contrib, pure
        >>> rule = contrib.rules.Sophia(beta1=0.0, beta2=0.0, gamma=1.0, noise="rademacher", weight_decay=0.0)
        >>> init, apply = pure(rule, lr=1.0)
        >>> curvature = jnp.array([2.0, 8.0, 0.1])  # Newton's step, and one that is clipped
        >>> params = {"w": jnp.array([0.5, -0.25, 30.0])}
        >>> grad_fn = lambda params: {"w": curvature * params["w"]}
        >>> apply(grad_fn(params), init(params), params, grad_fn=grad_fn)[1]["w"]
        Array([ 0.,  0., 29.], dtype=float32)
    """

    reference = "Liu, Li, Hall, Liang & Ma 2023, Algorithms 1 and 3. arXiv:2305.14342"
    weight_decay: float = hyper(0.1, "[0, inf)", "rate of decay, times the learning rate")

    def compose(self) -> Rule:
        """Return ``Chain(direction, WeightDecay(...))``."""
        return Chain(self.part(ClippedNewton), WeightDecay(self.weight_decay))
