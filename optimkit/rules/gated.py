"""Wrappers that decide whether there is a step: the inner rule runs, or nothing moves and its state stays as it is.

They are nested in the order of decisions, and belong around the complete algorithm with its weight decay::

    Accumulated(SkipNonFinite(AdamW(), 5), every=4)    leave out steps whose mean gradient is not finite
    SkipNonFinite(Accumulated(AdamW(), every=4), 5)    leave out single micro-batches
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.errors import CompositionError, message
from optimkit.hyper import hyper
from optimkit.rules.base import Step, Tree, Wrapper
from optimkit.rules.wrappers import Following, still, widened


def choose(condition: jax.Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """Return what one of two functions returns; the other one does not run.

    Outside of any program it is Python's ``if``: ``lax.cond`` would compile both functions anew at each call.
    """
    if isinstance(condition, jax.core.Tracer):
        return jax.lax.cond(condition, yes, no)
    return yes() if condition else no()


class Accumulated(Following):
    """Adds up the gradients of several calls, and takes one step with their mean: large batches in little memory.

    ::

        s ← s + g at each call;  at every k-th:  inner step with g = s / k,  s ← 0

    The inner rule runs at every k-th call only, with that call's learning rate, and its steps are counted as steps:
    ``k`` micro-batches are one step with one batch ``k`` times as large, to rounding (exactly where sums are exact and
    k is a power of 2), and ``every=1`` is no wrapper at all. The other calls move nothing. ``every`` is a number, or a
    function of the number of inner steps so far; less than 1 counts as 1, and a mean is always that of the calls that
    it was added up over. Wrap the whole algorithm: a stage after this one in a chain would act at each call. Infinities
    and NaN reach the inner rule, and end with its step. Memory: one float32 per parameter.

    State: ``inner``; ``total``, the sum, shaped as the parameter, float32 (float64), from 0; ``k``, int32, the number
    of gradients in it; where ``every`` is a function, ``t``, int32, the number of inner steps; where the inner rule
    needs the loss, ``value``, the sum of losses, whose mean it gets.

    Deviations: none.

    Reference: Ott, Edunov, Grangier & Auli 2018, Scaling Neural Machine Translation, section 3 (cumul).
    arXiv:1806.00187.

    Raises:
        CompositionError: the inner rule needs gradients elsewhere, which there are for one micro-batch only.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Accumulated(rules.SGD(), every=2), lr=0.1)
        >>> params = {"w": jnp.zeros(1)}; state = init(params)
        >>> for g in (1.0, 3.0): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"]
        Array([-0.2], dtype=float32)
    """

    reference = "Ott, Edunov, Grangier & Auli 2018, section 3. arXiv:1806.00187"
    _own = "every"
    every: Any = hyper(dataclasses.MISSING, "int [1, 2147483647]", "number of calls for one step")

    def __post_init__(self) -> None:
        super().__post_init__()
        if {"grad_fn", "value_and_grad_fn"} & set(self.inner.needs):
            name = type(self.inner).__name__
            raise CompositionError(message(
                "Accumulated", f"{name} needs gradients elsewhere, which are not accumulated.",
                "a rule that needs gradients only", name, "Give it whole batches."))  # fmt: skip

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state, an empty sum and the counters."""
        state = {"inner": self.inner.init(params), "total": still(params), "k": jnp.zeros((), jnp.int32)}
        if self._follows:
            state["t"] = jnp.zeros((), jnp.int32)
        if "value" in self.needs:
            dtypes = [numerics.compute_dtype(p.dtype) for p in jax.tree.leaves(params)]
            state["value"] = jnp.full((), -0.0, jnp.result_type(jnp.float32, *dtypes))
        return state

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Add the gradient up, and update as the inner rule does if it is the k-th."""
        every = self.every(state["t"]) if self._follows else self.every
        # The empty sum is -0.0: -0.0 + x is x, where 0.0 + x would turn a gradient of -0.0 around.
        sums = {"total": jax.tree.map(_added, state["total"], step.grads)}
        if "value" in state:
            sums["value"] = _added(state["value"], step.value)
        k = numerics.count_up(state["k"])

        def taken() -> tuple[Tree, Tree]:
            means = jax.tree.map(lambda x: x / k.astype(x.dtype), sums)
            inputs = {"grads": means["total"], "value": means.get("value", step.value)}
            delta, inner = self.inner.update(step.replace(**inputs), state["inner"])
            empty = jax.tree.map(lambda x: jnp.full_like(x, -0.0), sums)
            new = {**state, **empty, "inner": inner, "k": jnp.zeros_like(k)}
            return widened(delta, step.params), new | ({"t": numerics.count_up(state["t"])} if self._follows else {})

        def waited() -> tuple[Tree, Tree]:
            return still(step.params), {**state, **sums, "k": k}

        return choose(k >= every, taken, waited)

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the inner rule evaluates at."""
        return self.inner.eval_params(state["inner"], params)


def _added(total: jax.Array, x: Any) -> jax.Array:
    return total + numerics.cast(x, total.dtype)


class SkipNonFinite(Wrapper):
    """Leaves steps with an infinity or a NaN among the gradients out, as if they had not been called.

    ::

        inner step, where all gradients are finite;  nothing at all, where one is not

    Parameters and the inner state stay as they are, to the last bit. A loss counts as a gradient where the inner rule
    needs one. For half precision, where gradients overflow now and then. After ``max_consecutive`` steps left out in a
    row it lets the next one through, if that is not finite either: a model that has broken then shows it, instead of
    running to the end of its schedule without moving. None never lets one through. Wrap the whole algorithm: a stage
    after this one in a chain would act at each call. Memory: four bytes a parameter array.

    The clock of schedules stands still at a step that is left out, where this is the outermost rule.
    ``opt.check_finite()`` raises after a run of such steps that is too long, and names the variables.

    State: ``inner``; ``skipped``, int32, the number of steps left out; ``consecutive``, int32, the number of steps in
    a row that were not finite, up to the last one; ``non_finite``, int32 for each parameter, the number of its
    gradients that were not.

    Deviations: none; the scaling of the loss that goes with it in the paper is not part of it.

    Reference: Micikevicius et al. 2018, Mixed Precision Training, section 3.2. arXiv:1710.03740.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.SkipNonFinite(rules.SGD(), max_consecutive=5), lr=0.1)
        >>> params = {"w": jnp.ones(1)}; state = init(params)
        >>> for g in (1.0, jnp.inf): state, params = apply({"w": jnp.array([g])}, state, params)
        >>> params["w"], int(state["skipped"])
        (Array([0.9], dtype=float32), 1)
    """

    reference = "Micikevicius et al. 2018, section 3.2. arXiv:1710.03740"
    max_consecutive: int | None = hyper(None, "int [1, 2147483647]", "how many steps in a row to leave out at most")

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state and the counters."""
        return {
            "inner": self.inner.init(params),
            "skipped": jnp.zeros((), jnp.int32),
            "consecutive": jnp.zeros((), jnp.int32),
            "non_finite": jax.tree.map(lambda p: jnp.zeros((), jnp.int32), params),
        }

    def took_step(self, state: Tree) -> Any:
        """Tell whether the last step was let through."""
        return self._lets_through(state["consecutive"] == 0, state["consecutive"])

    def _lets_through(self, finite: Any, consecutive: Any) -> Any:
        return finite if self.max_consecutive is None else finite | (consecutive > self.max_consecutive)

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update as the inner rule does, or not at all."""
        fine = jax.tree.map(lambda g: jnp.all(jnp.isfinite(g)), step.grads)
        value = [jnp.all(jnp.isfinite(step.value))] if "value" in self.needs else []
        finite = jnp.all(jnp.stack([*jax.tree.leaves(fine), *value]))
        consecutive = jnp.where(finite, 0, numerics.count_up(state["consecutive"]))
        through = self._lets_through(finite, consecutive)
        counted = jax.tree.map(lambda ok, n: jnp.where(ok, n, numerics.count_up(n)), fine, state["non_finite"])

        def taken() -> tuple[Tree, Tree]:
            delta, inner = self.inner.update(step, state["inner"])
            return widened(delta, step.params), inner

        delta, inner = choose(through, taken, lambda: (still(step.params), state["inner"]))
        skipped = jnp.where(through, state["skipped"], numerics.count_up(state["skipped"]))
        return delta, {"inner": inner, "skipped": skipped, "consecutive": consecutive, "non_finite": counted}

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the inner rule evaluates at."""
        return self.inner.eval_params(state["inner"], params)
