"""Sharpness-aware minimization: steps by the gradient at a point uphill, where an adversary has led."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics, tree
from optimkit.errors import CompositionError, message
from optimkit.hyper import hyper
from optimkit.rules.averaged import wide_copies
from optimkit.rules.base import Rule, Step, Tree, Wrapper, check_rule_type, displace
from optimkit.rules.compose import union_of_needs
from optimkit.rules.gated import choose
from optimkit.rules.sgd import SGD
from optimkit.rules.wrappers import widened


class Normalize(Rule):
    """Divides all gradients together by their common norm: steps of length ``lr``, whatever the gradients are.

    ::

        direction = g / ‖g‖,  ‖g‖ over all parameters

    It is the adversary of :class:`SAM`. By itself it is normalised gradient descent. Memory: none.

    Zeros stay zeros. Where there is an infinity the result is NaN there and zero elsewhere; NaN comes through, and
    spoils everything.

    State: none.

    Deviations: none.

    Reference: Foret, Kleiner, Mobahi & Neyshabur 2021, Sharpness-Aware Minimization for Efficiently Improving
    Generalization, equation 2 with p = 2. arXiv:2010.01412.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(Normalize(), lr=1.0)
        >>> params = {"w": jnp.zeros(2)}
        >>> apply({"w": jnp.array([3.0, 4.0])}, init(params), params)[1]["w"]
        Array([-0.6, -0.8], dtype=float32)
    """

    reference = "Foret, Kleiner, Mobahi & Neyshabur 2021, equation 2. arXiv:2010.01412"

    def init(self, params: Tree) -> Tree:
        """Return an empty state."""
        return {}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the normalised gradients, times ``-lr``."""
        grads = widened(step.grads, step.params)
        norm = tree.global_norm(grads)
        return jax.tree.map(lambda g: -step.lr * numerics.safe_divide(g, norm), grads), state


class AdaptiveNormalize(Rule):
    """Like :class:`Normalize`, in a measure in which rescaling weights changes nothing: large weights go further.

    ::

        direction = T² g / ‖T g‖,  T = |p| + eta,  ‖T g‖ over all parameters

    It is the adversary of :class:`ASAM`. Memory: none.

    Zeros stay zeros; infinities and NaN do as in :class:`Normalize`.

    State: none.

    Deviations: the authors' code has T = 1 for parameters without "weight" in their names, such as biases and norms;
    here as in the paper's algorithm it is the same for all. ``eta`` is added to biases, which start at 0, too.

    Reference: Kwon, Kim, Park & Choi 2021, ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of
    Deep Neural Networks, Algorithm 1. arXiv:2102.11600.

    Example:
        >>> from optimkit import pure
        >>> init, apply = pure(AdaptiveNormalize(eta=0.0), lr=1.0)
        >>> params = {"w": jnp.array([1.0, 2.0])}
        >>> moved = apply({"w": jnp.array([3.0, 2.0])}, init(params), params)[1]["w"]
        >>> [round(float(x), 4) for x in moved]  # T g = (3, 4): 1 − 3/5, 2 − 2 · 4/5
        [0.4, 0.4]
    """

    reference = "Kwon, Kim, Park & Choi 2021, Algorithm 1. arXiv:2102.11600"
    eta: float = hyper(0.01, "[0, inf)", "added to the size of a parameter")

    def init(self, params: Tree) -> Tree:
        """Return an empty state."""
        return {}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the normalised gradients, times ``-lr``."""
        size = jax.tree.map(lambda p: jnp.abs(p) + self.eta, widened(step.params, step.params))
        scaled = jax.tree.map(jnp.multiply, size, widened(step.grads, step.params))
        norm = tree.global_norm(scaled)
        return jax.tree.map(lambda t, g: -step.lr * (t * numerics.safe_divide(g, norm)), size, scaled), state


class SAM(Wrapper):
    """Takes the inner rule's step by the gradient at the worst point nearby, and so finds minima that are flat.

    ::

        q = p + rho · g / ‖g‖                      an adversary climbs,
        p ← p + inner step by the gradient at q    the inner rule descends, from p

    Networks generalise better, most on images and with labels that are wrong now and then; a step costs two gradients.
    Put clipping and decay inside, ``SAM(AdamW())``: in a chain before it they would act on the adversary only.

    *Opaque* (the default), one call is one step, and ``opt.minimize(loss_fn, *batch)`` evaluates the gradient at q: on
    the same batch, with the same random keys, and batch statistics are written once. ``opt(lr, grads, grad_fn=...)``
    does the same; ``grad_fn(params, i)``, with two compulsory arguments, gets the number of the ascent, from 0.
    *Transparent* (``opaque_mode=False``), each call is one gradient, and ``sync_period`` of them are a step: the
    parameters are q between calls, at which ``eval_params`` and ``opt.evaluating()`` show p. It needs no second
    gradient in a call, but each gradient has a batch of its own, statistics see q, too, and schedules count calls.

    ``adversary`` is any rule; it climbs ``sync_period - 1`` times with ``rho`` as its learning rate, and begins anew
    at each step unless ``reset_state=False``. With ``sync_period=1`` there is no adversary, and this is the inner rule.
    ``batch_axis_name`` names axes (of ``jax.vmap``, ``jax.shard_map``) over which each gradient is averaged, the one
    that is given included. Parameters in half precision hide an ascent that is shorter than their rounding: keep them
    in float32. Memory: none; transparent, one float32 per parameter.

    State: ``inner``; ``adversary``, unless opaque and reset; transparent, ``start``, p, shaped as the parameter,
    float32 (float64), and ``k``, int32, the number of ascents since.

    Deviations: the paper's batch axis is that of devices whose gradients it does *not* average before the ascent
    (m-sharpness); for that, name no axis and average outside. An inner rule that needs the loss gets that at q, whose
    gradient it gets. A gradient of zero has no direction: q is p. optax's SAM in its transparent mode is the same for
    ``sync_period`` of 2 or more, but runs both rules at each call, NaN of the one that is not due included, and does
    not converge at 1.

    Reference: Foret, Kleiner, Mobahi & Neyshabur 2021, Sharpness-Aware Minimization for Efficiently Improving
    Generalization, Algorithm 1. arXiv:2010.01412.

    Raises:
        CompositionError: the inner rule, or the adversary, evaluates gradients itself.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(SAM(rules.SGD(), rho=0.5), lr=0.1)
        >>> params = {"w": jnp.array([3.0, 4.0])}  # the loss is ‖w‖²/2, its gradient w; uphill it is 1.1 w
        >>> moved = apply(params, init(params), params, grad_fn=lambda q: q)[1]["w"]
        >>> [round(float(x), 4) for x in moved]
        [2.67, 3.56]
    """

    reference = "Foret, Kleiner, Mobahi & Neyshabur 2021, Algorithm 1. arXiv:2010.01412"
    rho: float = hyper(0.05, "[0, inf)", "how far the adversary goes, its learning rate")
    adversary: Rule = Normalize()
    sync_period: int = hyper(2, "int [1, 16]", "gradients for a step: one more than there are ascents")
    reset_state: bool = hyper(True, bool, "whether the adversary begins anew at each step")
    opaque_mode: bool = hyper(True, bool, "whether a call is a step, and evaluates gradients itself")
    batch_axis_name: Any = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        name, where = self.batch_axis_name, type(self).__name__
        axes = () if name is None else (name,) if isinstance(name, str) else tuple(name)
        object.__setattr__(self, "batch_axis_name", axes)
        check_rule_type(where, self.adversary)
        for rule in (self.inner, self.adversary):
            if {"grad_fn", "value_and_grad_fn"} & set(rule.needs):
                kind = type(rule).__name__
                raise CompositionError(message(where, f"{kind} evaluates gradients itself.",
                                               "a rule that takes one gradient", kind))  # fmt: skip

    @property
    def chainable(self) -> bool:  # type: ignore[override]
        """Whether the inner rule is, if a call is a step; an ascent does not look at the learning rate."""
        return self.inner.chainable and self.opaque_mode

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What both rules need, and a function for gradients at q."""
        needs = union_of_needs((self.inner, self.adversary))
        return (*needs, "value_and_grad_fn" if "value" in needs else "grad_fn") if self.opaque_mode else needs

    def init(self, params: Tree) -> Tree:
        """Return the states of both rules and, transparent, the parameters and the counter."""
        state = {"inner": self.inner.init(params)}
        if not (self.opaque_mode and self.reset_state):
            state["adversary"] = self.adversary.init(params)
        if not self.opaque_mode:
            state |= {"start": wide_copies(params), "k": jnp.zeros((), jnp.int32)}
        return state

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Climb and descend; transparent, do one of them."""
        step = step.replace(grads=self._averaged(step.grads))
        if not self.opaque_mode:
            return self._climb_or_descend(step, state)
        at, adversary = step, state.get("adversary")
        adversary = self.adversary.init(step.params) if adversary is None else adversary
        for i in range(self.sync_period - 1):
            ascent, adversary = self._ascent(at, adversary)
            at = self._evaluated(at, displace(at.params, ascent), i)
        delta, inner = self.inner.update(at.replace(params=step.params), state["inner"])
        return delta, {"inner": inner} if self.reset_state else {"inner": inner, "adversary": adversary}

    def _ascent(self, at: Step, adversary: Tree) -> tuple[Tree, Tree]:
        """Return where the adversary goes, and its next state: uphill, against its own step."""
        delta, adversary = self.adversary.update(at.replace(lr=self.rho), adversary)
        return jax.tree.map(jnp.negative, widened(delta, at.params)), adversary

    def _evaluated(self, at: Step, q: Tree, i: int) -> Step:
        """Return the step with the gradient, and the loss where it is needed, elsewhere."""
        if "value_and_grad_fn" in self.needs:
            value, grads = at.value_and_grad_fn(q)  # type: ignore[misc]
            return at.replace(params=q, grads=self._averaged(grads), value=self._averaged(value))
        grads = at.grad_fn(q, i) if takes_two(at.grad_fn) else at.grad_fn(q)  # type: ignore[misc, call-arg]
        return at.replace(params=q, grads=self._averaged(grads))

    def _averaged(self, x: Any) -> Any:
        return jax.lax.pmean(x, self.batch_axis_name) if self.batch_axis_name else x

    def _climb_or_descend(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Let the adversary go on or, at the last call of a period, the inner rule step from where it began."""
        k = state["k"]
        begins = k == 0
        here = widened(step.params, step.params)
        start = jax.tree.map(lambda s, p: jnp.where(begins, p, s), state["start"], here)

        def climbed() -> tuple[Tree, Tree]:
            ascent, adversary = self._ascent(step, state["adversary"])
            return ascent, {**state, "adversary": adversary, "start": start, "k": numerics.count_up(k)}

        def descended() -> tuple[Tree, Tree]:
            params = jax.tree.map(lambda s, p: numerics.cast(s, p.dtype), start, step.params)
            delta, inner = self.inner.update(step.replace(params=params), state["inner"])
            # Where nothing has moved there is no way back: so -0.0 stays what it is.
            way = jax.tree.map(lambda s, p, d: jnp.where(s == p, d, s - p + d), start, here, widened(delta, params))
            adversary = self.adversary.init(params) if self.reset_state else state["adversary"]
            return way, {"inner": inner, "adversary": adversary, "start": start, "k": jnp.zeros_like(k)}

        return choose(k >= self.sync_period - 1, descended, climbed)

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the inner rule evaluates at: never a point uphill."""
        if not self.opaque_mode:
            at_start = state["k"] == 0
            params = jax.tree.map(
                lambda s, p: jnp.where(at_start, p, numerics.cast(s, p.dtype)), state["start"], params)  # fmt: skip
        return self.inner.eval_params(state["inner"], params)


def takes_two(f: Callable[..., Any] | None) -> bool:
    """Tell whether a function has two arguments or more that must be given by position."""
    try:
        parameters = inspect.signature(f).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # no function, or one that does not tell
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters) > 1


class ASAM(SAM):
    """:class:`SAM` with an adversary that large weights let go further, so that rescaling weights changes nothing.

    It is ``SAM(inner, rho, AdaptiveNormalize(eta))``::

        q = p + rho · T² g / ‖T g‖,  T = |p| + eta

    Sharpness as SAM measures it depends on how the weights of a network with ReLU are scaled, though the function does
    not. Use it as SAM, with a larger ``rho``. Memory and modes: as SAM.

    State: that of :class:`SAM`.

    Deviations: those of :class:`SAM` and :class:`AdaptiveNormalize`.

    Reference: Kwon, Kim, Park & Choi 2021, ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of
    Deep Neural Networks, Algorithm 1. arXiv:2102.11600.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(ASAM(rules.SGD(), 0.5, AdaptiveNormalize(0.0)), lr=0.1)
        >>> params = {"w": jnp.array([3.0, 2.0])}; grads = {"w": jnp.array([1.0, 2.0])}
        >>> moved = apply(grads, init(params), params, grad_fn=lambda q: q)[1]["w"]
        >>> [round(float(x), 4) for x in moved]  # T g = (3, 4): q = (3 + 0.5 · 3 · 3/5, 2 + 0.5 · 2 · 4/5)
        [2.61, 1.72]
    """

    reference = "Kwon, Kim, Park & Choi 2021, Algorithm 1. arXiv:2102.11600"
    rho: float = hyper(0.5, "[0, inf)", "how far the adversary goes, its learning rate")
    adversary: Rule = AdaptiveNormalize()


class LookSAM(Wrapper):
    """:class:`SAM` at every k-th step; between, what SAM changed in the direction is used again, at no cost.

    ::

        every k-th step:  gₛ = gradient at q, as in SAM;  v = gₛ − ⟨gₛ, ĝ⟩ ĝ,  ĝ = g / ‖g‖;  inner step by gₛ
        between:          inner step by g + alpha · ‖g‖ v / ‖v‖

    The part v of SAM's gradient that is normal to g changes slowly. A step costs 1 + 1/k gradients. For large
    batches; with k = 1 it is SAM. It is evaluated in one call, as SAM's opaque mode is: ``opt.minimize``, or
    ``grad_fn``. Memory: one float32 per parameter.

    State: ``inner``; ``v``, shaped as the parameter, float32 (float64), of norm 1 over all parameters, or 0; ``k``,
    int32, the number of steps since.

    Deviations: a v shorter than 64 units of rounding of gₛ is rounding, and counts as 0, as it is where g and gₛ are
    parallel; the paper divides by its norm. Norms are those of all parameters together, as in the paper; some codes
    take each parameter by itself. An inner rule that needs the loss gets that at p.

    Reference: Liu, Mai, Chen, Hsieh & You 2022, Towards Efficient and Scalable Sharpness-Aware Minimization,
    Algorithm 1. arXiv:2203.02714.

    Raises:
        CompositionError: the inner rule, or the adversary, evaluates gradients itself.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(LookSAM(rules.SGD(), period=2, rho=1.0, alpha=0.5), lr=0.1)
        >>> params = {"w": jnp.zeros(2)}; state = init(params); g = {"w": jnp.array([0.0, 2.0])}
        >>> for _ in range(2): state, params = apply(g, state, params, grad_fn=lambda q: {"w": jnp.array([1.0, 2.0])})
        >>> params["w"]  # by (1, 2), then by (0, 2) + 0.5 · 2 · (1, 0)
        Array([-0.2, -0.4], dtype=float32)
    """

    reference = "Liu, Mai, Chen, Hsieh & You 2022, Algorithm 1. arXiv:2203.02714"
    period: int = hyper(5, "int [1, 2147483647]", "steps for one of SAM's, k")
    rho: float = hyper(0.05, "[0, inf)", "how far the adversary goes, its learning rate")
    alpha: float = hyper(0.7, "[0, inf)", "size of what is used again, relative to the gradient")
    adversary: Rule = Normalize()
    batch_axis_name: Any = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        sam = SAM(self.inner, adversary=self.adversary, batch_axis_name=self.batch_axis_name)
        object.__setattr__(self, "batch_axis_name", sam.batch_axis_name)

    def _sam(self) -> SAM:
        return SAM(SGD(), self.rho, self.adversary, batch_axis_name=self.batch_axis_name)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the inner rule and SAM need."""
        return union_of_needs((self.inner, self._sam()))

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state, no direction to use again, and the counter."""
        zeros = jax.tree.map(jnp.zeros_like, widened(params, params))
        return {"inner": self.inner.init(params), "v": zeros, "k": jnp.zeros((), jnp.int32)}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update as the inner rule does by SAM's gradient, or by the gradient and what was kept of SAM's."""
        sam = self._sam()
        g = widened(sam._averaged(step.grads), step.params)

        def looked() -> tuple[Tree, Tree]:
            gs, _ = sam.direction(step, sam.init(step.params))
            return gs, _unit_normal(gs, g)

        def used_again() -> tuple[Tree, Tree]:
            size = self.alpha * tree.global_norm(g)
            return jax.tree.map(lambda x, v: x + size * v, g, state["v"]), state["v"]

        grads, v = choose(state["k"] == 0, looked, used_again)
        delta, inner = self.inner.update(step.replace(grads=grads), state["inner"])
        k = numerics.count_up(state["k"])
        return delta, {"inner": inner, "v": v, "k": jnp.where(k >= self.period, 0, k)}

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the inner rule evaluates at."""
        return self.inner.eval_params(state["inner"], params)


def _unit_normal(gs: Tree, g: Tree) -> Tree:
    """Return the part of ``gs`` that is normal to ``g``, divided by its norm; 0 where it is rounding."""
    norm, size = tree.global_norm(g), tree.global_norm(gs)
    unit = jax.tree.map(lambda x: numerics.safe_divide(x, norm), g)
    along = jax.tree.reduce(jnp.add, jax.tree.map(lambda x, u: jnp.sum(x * u), gs, unit))
    v = jax.tree.map(lambda x, u: x - along * u, gs, unit)
    length = tree.global_norm(v)
    clear = length > 64 * jnp.finfo(length.dtype).eps * size
    return jax.tree.map(lambda x: jnp.where(clear, numerics.safe_divide(x, length), 0.0), v)
