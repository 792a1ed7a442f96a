"""A learning rate that falls when the loss no longer does."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.base import Step, Tree, Wrapper
from optimkit.rules.compose import union_of_needs
from optimkit.rules.sums import scalar_dtype

NONE_YET = float(np.finfo(np.float32).max)  # the best value before there is one; not inf, for state is finite


class ReduceOnPlateau(Wrapper):
    """Multiplies the learning rate by ``factor`` when a value, the loss as a rule, has stopped falling.

    ::

        v = mean of accumulation_size values;  at each such mean:
            v < best − rtol · |best| − atol:   best ← v,  bad ← 0
            otherwise:                         bad ← bad + 1
            bad = patience:                    scale ← max(factor · scale, min_scale),  bad ← 0,  rest for a cooldown
        inner step with lr · scale

    A schedule for those who do not know how long training will last. ``opt.minimize`` hands it the loss of each batch,
    which is noisy: let ``accumulation_size`` be about the number of batches in an epoch. ``opt(lr, grads, value=...)``
    takes any other value that should fall, such as a validation loss. Memory: none.

    State: ``inner``; ``scale``, ``best`` and ``mean``, float32 (float64), from 1, the largest float32 number and 0;
    ``bad``, ``rested`` and ``k``, int32 counters: means without progress, means since a reduction, values in the mean.

    Deviations: optax and PyTorch compare with ``best · (1 − rtol)``, which for negative losses, such as log-likelihoods
    with their sign changed, takes what is slightly worse for progress; |best| is the same for positive ones. A NaN is
    no progress. PyTorch reduces one value later: its patience is the number of bad values that are forgiven.

    Reference: none; as in optax, DeepMind 2024, ``contrib.reduce_on_plateau``.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(ReduceOnPlateau(rules.SGD(), factor=0.5, patience=2), lr=1.0)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for loss in (3.0, 2.0, 2.0, 2.0): state, params = apply({"w": jnp.ones(1)}, state, params, value=loss)
        >>> params["w"]  # the fourth value is the second without progress
        Array([-3.5], dtype=float32)
    """

    reference = "none; as in optax, DeepMind 2024, contrib.reduce_on_plateau."
    factor: float = hyper(0.1, "(0, 1)", "what the learning rate is multiplied by")
    patience: int = hyper(10, "int [1, 2147483647]", "means without progress after which it is")
    rtol: float = hyper(1e-4, "[0, 1]", "progress that counts, relative to the best value")
    atol: float = hyper(0.0, "[0, inf)", "progress that counts, beside that")
    cooldown: int = hyper(0, "int [0, 2147483647]", "means to wait after a reduction before counting again")
    accumulation_size: int = hyper(1, "int [1, 2147483647]", "values in a mean")
    min_scale: float = hyper(0.0, "[0, 1]", "where the reductions end, relative to the learning rate")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The value, and what the inner rule needs."""
        return ("value", *(need for need in union_of_needs([self.inner]) if need != "value"))

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state, the scale, and what is known of the values."""
        numbers = {"scale": 1.0, "best": NONE_YET, "mean": 0.0}
        return {
            "inner": self.inner.init(params),
            **{name: jnp.full((), x, scalar_dtype(params)) for name, x in numbers.items()},
            **{name: jnp.zeros((), jnp.int32) for name in ("bad", "k")},
            "rested": jnp.full((), numerics.INT32_MAX, jnp.int32),  # there has been no reduction
        }

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Look at the value, and update as the inner rule does at the learning rate that follows."""
        watched = self._watched(step.value, {name: x for name, x in state.items() if name != "inner"})
        delta, inner = self.inner.update(step.replace(lr=step.lr * watched["scale"]), state["inner"])
        return delta, {"inner": inner, **watched}

    def _watched(self, value: Tree, now: Tree) -> Tree:
        """Return the state of the watch with one more value."""
        k = numerics.count_up(now["k"])
        mean = now["mean"] + (numerics.cast(value, now["mean"].dtype) - now["mean"]) / k.astype(now["mean"].dtype)
        enough = now["best"] - self.rtol * jnp.abs(now["best"]) - self.atol
        progress = mean < jnp.where(now["best"] < NONE_YET, enough, NONE_YET)
        bad = jnp.where(progress, 0, numerics.count_up(now["bad"]))
        resting = now["rested"] < self.cooldown
        reduced = ~resting & (bad >= self.patience)
        judged = {
            "scale": jnp.where(reduced, jnp.maximum(now["scale"] * self.factor, self.min_scale), now["scale"]),
            "best": jnp.where(progress, mean, now["best"]),
            "mean": jnp.zeros_like(mean),
            "bad": jnp.where(resting | reduced, 0, bad),
            "rested": jnp.where(reduced, 0, numerics.count_up(now["rested"])),
            "k": jnp.zeros_like(k),
        }
        waiting = {**now, "mean": mean, "k": k}
        done = k >= self.accumulation_size
        return {name: jnp.where(done, x, waiting[name]).astype(now[name].dtype) for name, x in judged.items()}

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the inner rule evaluates at."""
        return self.inner.eval_params(state["inner"], params)
