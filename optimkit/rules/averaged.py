"""Wrappers that keep a second set of weights beside the parameters, to evaluate at: averages, and slow weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.base import Step, Tree, Wrapper, displace
from optimkit.rules.wrappers import widened


def wide_copies(params: Tree) -> Tree:
    """Return copies of parameters in the dtypes of the arithmetic, which share no memory with them."""
    return jax.tree.map(lambda p: jnp.array(p, numerics.compute_dtype(p.dtype), copy=True), params)


class Average(Wrapper):
    """Base of the wrappers that average the parameters on the way: a subclass says what the n-th of them weighs."""

    @property
    def _start(self) -> int:
        return self.start  # type: ignore[attr-defined]  # a field, after those of the subclass

    def _weight(self, n: Any) -> Any:
        """Return the share of the n-th parameters in the average of n; 1 is all of it."""
        raise NotImplementedError(f"{type(self).__name__} does not define _weight.")

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state, room for the average, and the counter."""
        return {"inner": self.inner.init(params), "average": wide_copies(params), "t": jnp.zeros((), jnp.int32)}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update as the inner rule does; take the parameters of the step before into the average."""
        delta, inner = self.inner.update(step, state["inner"])
        return delta, {
            "inner": inner,
            "average": self._average(state, step.params),
            "t": numerics.count_up(state["t"]),
        }

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return the average, these parameters included; up to ``start``, what the inner rule evaluates at."""
        own = self.inner.eval_params(state["inner"], params)
        begun = state["t"] > self._start
        average = self._average(state, params)
        return jax.tree.map(lambda x, p: jnp.where(begun, numerics.cast(x, p.dtype), p), average, own)

    def _average(self, state: Tree, params: Tree) -> Tree:
        """Return the average with the parameters of the last step, if it has begun."""
        n = state["t"] - self._start

        def joined(average: jax.Array, p: jax.Array) -> jax.Array:
            p = numerics.cast(p, average.dtype)
            count = jnp.maximum(n, 1).astype(average.dtype)
            return jnp.where(n > 1, average + (p - average) * self._weight(count), jnp.where(n == 1, p, average))

        return jax.tree.map(joined, state["average"], params)


class Averaged(Average):
    """Steps as the inner rule does, and averages the parameters on the way, to evaluate there.

    ::

        p̄ ← p̄ + (p − p̄) w(n)  after the n-th step from start on
        w(n) = 1 / n                                 (decay=None)   the mean of all
        w(n) = (1 − decay) / (1 − decayⁿ)            (decay given)  an exponential average, bias corrected

    At the average, which is less noisy, a model with a large learning rate is about as good as one whose rate has
    decayed; training does not notice. ``eval_params``, and with it ``opt.evaluating()``, gives p̄, and up to ``start``
    the parameters themselves. Take the mean of all with a ``start`` when training has settled, an exponential average
    of 0.999 or so where there is no such moment, or :class:`PolynomialAveraged`. Memory: one float32 per parameter.

    State: ``inner``; ``average``, shaped as the parameter, float32 (float64): the average without the last step, whose
    parameters join when they are next seen; ``t``, int32, the number of steps.

    Deviations: the average is stored corrected, so that parameters that do not change are their own average to the
    last bit. It is one of the parameters as each step finds them: what else has happened to them (a constraint, a
    wrapper around this one) is in it.

    Reference: Polyak & Juditsky 1992, Acceleration of Stochastic Approximation by Averaging, equation (2); Kingma & Ba
    2015, arXiv:1412.6980, section 7.2, for the exponential average.

    Example:
        >>> from optimkit import pure, rules
        >>> rule = rules.Averaged(rules.SGD())
        >>> init, apply = pure(rule, lr=1.0)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (-1.0, -2.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"], rule.eval_params(state, params)["w"]  # after 1 and 3
        (Array([3.], dtype=float32), Array([2.], dtype=float32))
    """

    reference = "Polyak & Juditsky 1992, equation (2); Kingma & Ba 2015, section 7.2. arXiv:1412.6980"
    decay: float | None = hyper(None, "[0, 1)", "decay of the exponential average; None is the mean of all")
    start: int = hyper(0, "int [0, 2147483647]", "number of steps before the average begins")

    def _weight(self, n: Any) -> Any:
        return 1 / n if self.decay is None else (1 - self.decay) / numerics.one_minus_pow(self.decay, n)


class PolynomialAveraged(Average):
    """Averages as :class:`Averaged` does, by weights that grow as a power of the step.

    ::

        p̄ ← p̄ + (p − p̄) (power + 1) / (power + n)    after the n-th step from start on

    It forgets the beginning whatever the length of the way is: with a power of 8 half of the weight lies in the last
    13th part of the way, where an exponential average has one length for all. What theory asks for and DoG's authors
    evaluate at. Power 0 is the mean of all. Memory: one float32 per parameter.

    State: as :class:`Averaged`.

    Deviations: as :class:`Averaged`.

    Reference: Shamir & Zhang 2013, Stochastic Gradient Descent for Non-smooth Optimization, section 4.
    arXiv:1212.1824. The default is that of Ivgi, Hinder & Carmon 2023, section 4.1, arXiv:2302.12022.

    Example:
        >>> from optimkit import pure, rules
        >>> rule = rules.PolynomialAveraged(rules.SGD(), power=1.0)
        >>> init, apply = pure(rule, lr=1.0)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (-1.0, -3.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"], rule.eval_params(state, params)["w"]  # after 1 and 4: (1 * 1 + 2 * 4) / 3
        (Array([4.], dtype=float32), Array([3.], dtype=float32))
    """

    reference = "Shamir & Zhang 2013, section 4. arXiv:1212.1824"
    power: float = hyper(8.0, "[0, inf)", "power of the step in the weights; 0 weighs all alike")
    start: int = hyper(0, "int [0, 2147483647]", "number of steps before the average begins")

    def _weight(self, n: Any) -> Any:
        return (self.power + 1) / (self.power + n)


class Lookahead(Wrapper):
    """Looks ``period`` steps of the inner rule ahead, then goes a part of that way: k steps forward, 1 step back.

    ::

        θ: k steps of the inner rule, from φ;  φ ← φ + slow_step · (θ − φ);  θ ← φ

    It dampens what oscillates, and lets a large learning rate in the inner rule stand. ``eval_params``, and with it
    ``opt.evaluating()``, gives the slow weights φ; the parameters are the fast ones, θ. Memory: one float32 per
    parameter.

    State: ``inner``, which is kept when the weights are synchronised (the default of the authors' code), or begins
    anew with ``reset=True``; ``slow``, shaped as the parameter, float32 (float64), from the parameters; ``k``, int32,
    the number of steps since.

    Deviations: none. Defaults are those of TensorFlow Addons; the authors' code has 5 and 0.8. Where a parameter is
    changed from outside right after construction or a synchronisation, φ begins there; between two synchronisations
    the change counts as a part of the inner rule's way.

    Reference: Zhang, Lucas, Hinton & Ba 2019, Lookahead Optimizer: k steps forward, 1 step back, Algorithm 1.
    arXiv:1907.08610.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Lookahead(rules.SGD(), period=2, slow_step=0.5), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (1.0, 3.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"]
        Array([-0.2], dtype=float32)
    """

    reference = "Zhang, Lucas, Hinton & Ba 2019, Algorithm 1. arXiv:1907.08610"
    chainable = False  # the slow weights depend on the steps that are taken
    period: int = hyper(6, "int [1, 2147483647]", "steps of the inner rule for one of the slow weights, k")
    slow_step: float = hyper(0.5, "(0, 1]", "part of the way that the slow weights go, alpha")
    reset: bool = hyper(False, bool, "whether the inner rule begins anew at each synchronisation")

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state, the slow weights and the counter."""
        return {"inner": self.inner.init(params), "slow": wide_copies(params), "k": jnp.zeros((), jnp.int32)}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update as the inner rule does; at the end of a period return to the slow weights."""
        delta, inner = self.inner.update(step, state["inner"])
        k = numerics.count_up(state["k"])
        synced = k >= self.period

        def outer(s: jax.Array, p: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
            p = numerics.cast(p, s.dtype)
            moved = s + self.slow_step * (p + d - s)
            return jnp.where(synced, moved - p, d), jnp.where(synced, moved, s)

        slow = self._slow(state, step.params)
        both = jax.tree.map(outer, slow, step.params, widened(delta, step.params))
        delta, slow = jax.tree.transpose(jax.tree.structure(slow), jax.tree.structure((0, 0)), both)
        if self.reset:
            fresh = self.inner.init(displace(step.params, delta))
            inner = jax.tree.map(lambda new, x: jnp.where(synced, new, x), fresh, inner)
        return delta, {"inner": inner, "slow": slow, "k": jnp.where(synced, 0, k)}

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return the slow weights."""
        return jax.tree.map(lambda s, p: numerics.cast(s, p.dtype), self._slow(state, params), params)

    def _slow(self, state: Tree, params: Tree) -> Tree:
        """Return the slow weights, which are the parameters themselves where they have just been synchronised."""
        at_start = state["k"] == 0
        return jax.tree.map(lambda s, p: jnp.where(at_start, numerics.cast(p, s.dtype), s), state["slow"], params)
