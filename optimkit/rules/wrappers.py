"""Wrappers: rules that hold another one and change what it acts on, or what becomes of its steps.

Those that decide whether there is a step at all are in ``gated``.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.errors import StructureError, message
from optimkit.hyper import hyper
from optimkit.rules.base import Step, Tree, Wrapper, check_rule_type
from optimkit.rules.compose import Match, Partition, compiled, shown_match
from optimkit.rules.sgd import SGD
from optimkit.tree import names_and_leaves


def still(params: Tree) -> Tree:
    """Return the displacement that moves nothing: -0.0, whose addition changes no number, not even -0.0."""
    return jax.tree.map(lambda p: jnp.full_like(p, -0.0, numerics.compute_dtype(p.dtype)), params)


def widened(delta: Tree, params: Tree) -> Tree:
    """Return a displacement in the dtypes of the arithmetic, in which it is added anyway."""
    return jax.tree.map(lambda d, p: numerics.cast(d, numerics.compute_dtype(p.dtype)), delta, params)


class Following(Wrapper):
    """A wrapper whose own hyperparameter is a number or follows a function of a counter."""

    _own: ClassVar[str]

    def __post_init__(self) -> None:
        if self._follows:
            check_rule_type(type(self).__name__, self.inner)
        else:
            super().__post_init__()

    @property
    def _follows(self) -> bool:
        x = getattr(self, self._own)
        return callable(x) and not isinstance(x, type)


class Scaled(Following):
    """Multiplies the learning rate that the inner rule sees.

    ::

        inner step with lr · factor

    For groups of parameters that learn slower or faster than others, and for a schedule of their own: ``factor`` is a
    number, or a function of the step (from 0) such as a schedule. Memory: none.

    State: that of the inner rule; where ``factor`` is a function, ``inner``, that state, and ``t``, the int32 number of
    steps so far.

    Deviations: none. What a function returns is not checked.

    Reference: Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification, section 3.2
    (discriminative fine-tuning). arXiv:1801.06146.

    Example:
        >>> from optimkit import pure, rules
        >>> rule = rules.Partition(("head", rules.SGD()), (".", rules.Scaled(rules.SGD(), 0.5)))
        >>> params = {"head": jnp.zeros(1), "body": jnp.zeros(1)}
        >>> init, apply = pure(rule, lr=0.1)
        >>> apply({"head": jnp.ones(1), "body": jnp.ones(1)}, init(params), params)[1]
        {'body': Array([-0.05], dtype=float32), 'head': Array([-0.1], dtype=float32)}
    """

    reference = "Howard & Ruder 2018, section 3.2. arXiv:1801.06146"
    _own = "factor"
    factor: Any = hyper(dataclasses.MISSING, "[0, inf)", "what the learning rate is multiplied by")

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state, with a counter where the factor is a function."""
        inner = self.inner.init(params)
        return {"t": jnp.zeros((), jnp.int32), "inner": inner} if self._follows else inner

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update as the inner rule does at another learning rate."""
        if not self._follows:
            return self.inner.update(step.replace(lr=step.lr * self.factor), state)
        lr = step.lr * self.factor(state["t"])
        delta, inner = self.inner.update(step.replace(lr=lr), state["inner"])
        return delta, {"t": numerics.count_up(state["t"]), "inner": inner}

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the inner rule evaluates at."""
        return self.inner.eval_params(state["inner"] if self._follows else state, params)


class Masked(Wrapper):
    """Lets the inner rule act on the parameters that match; gradients of the others pass as they are.

    It is ``Partition((match, inner), (".", SGD()))``. ``match`` is a regular expression, searched for in the
    parameter's name, or a function of name and array. In a chain the others take no part in the stage::

        Chain(Masked(WeightDecay(0.01), r"kernel$"), Adam())    an L2 penalty on kernels only
        Chain(Adam(), Masked(WeightDecay(0.01), lambda name, x: x.ndim > 1))    AdamW that leaves biases and norms

    Alone, or last, it takes a plain gradient step with the others: to leave those where they are, use a ``Partition``
    with ``Frozen()``. A stage that looks at many parameters together sees those that match. Memory: that of the inner
    rule, for the parameters that match.

    State: that of the inner rule, for the parameters that match.

    Deviations: none.

    Reference: He et al. 2019, Bag of Tricks for Image Classification with Convolutional Neural Networks, section 3.1
    (no bias decay). arXiv:1812.01187.

    Raises:
        CompositionError: ``match`` is neither a regular expression nor a function.
        StructureError: no parameter matches (by ``init``).

    Example:
        >>> from optimkit import pure, rules
        >>> params = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
        >>> init, apply = pure(rules.Chain(rules.Masked(rules.WeightDecay(0.5), r"kernel$"), rules.SGD()), lr=0.1)
        >>> apply({"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}, init(params), params)[1]
        {'bias': Array([1.], dtype=float32), 'kernel': Array([0.95], dtype=float32)}
    """

    reference = "He et al. 2019, section 3.1. arXiv:1812.01187"
    match: Match

    def __post_init__(self) -> None:
        super().__post_init__()
        match = compiled("Masked", self.match, 'Masked(WeightDecay(0.01), r"kernel$")')
        object.__setattr__(self, "match", match)

    def _partition(self, params: Tree) -> Partition:
        """Return the partition that this is; without a second route where all parameters match."""
        names, leaves, _ = names_and_leaves(params)
        taken = [bool(self._takes(name, x)) for name, x in zip(names, leaves, strict=True)]
        if not any(taken):
            raise StructureError(message("Masked", f"no parameter matches {shown_match(self.match)}.",
                                         "one of " + ", ".join(map(repr, names)), "none"))  # fmt: skip
        return Partition((self.match, self.inner), *([] if all(taken) else [("", SGD())]))

    def _takes(self, name: str, x: Any) -> Any:
        return self.match.search(name) if isinstance(self.match, re.Pattern) else self.match(name, x)  # type: ignore[operator]

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state, for the parameters that match."""
        return self._partition(params).init(params)["route0"]

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Let the inner rule update the parameters that match, and pass the gradients of the others, times ``-lr``."""
        delta, new = self._partition(step.params).update(step, {"route0": state, "route1": {}})
        return delta, new["route0"]

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the inner rule evaluates at, and the other parameters."""
        return self._partition(params).eval_params({"route0": state, "route1": {}}, params)

    def __repr__(self) -> str:
        return f"Masked({self.inner!r}, {shown_match(self.match)})"


class Cautious(Wrapper):
    """Takes only those components of a step that go downhill, and lengthens them for those that it leaves out.

    ::

        φ = 1 where the inner rule's direction u and the gradient g have one sign, 0 elsewhere
        direction = u · φ · n / (Σφ + ξ)                    (variant="paper"),  n = number of elements
        direction = u · φ · n / max(Σφ, n / 1000)           (variant="code")

    Momentum goes on for a while where the gradient has turned; this does not. Each parameter is scaled by itself.
    Around Adam and Lion for transformers. Weight decay stays outside of it, as in the paper:
    ``Chain(Cautious(Adam()), WeightDecay(0.1))``. With ξ = 1 steps of parameters of few elements are short: those of
    scalars are halved. Memory: none.

    State: that of the inner rule.

    Deviations: none. "paper" is its first version, and the code of that time; the code of later versions is "code".

    Reference: Liang, Chen, Liu & Liu 2024, Cautious Optimizers: Improving Training with One Line of Code, Algorithm 2.
    arXiv:2411.16085.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Cautious(rules.Momentum(0.9), xi=0.0), lr=0.1)
        >>> params = {"w": jnp.zeros(2)}; state = init(params)
        >>> for g in ([1.0, 1.0], [1.0, -0.5]): state, params = apply({"w": jnp.array(g)}, state, params)
        >>> params["w"]  # the second element, whose momentum is still 0.4, waits
        Array([-0.48, -0.1 ], dtype=float32)
    """

    reference = "Liang, Chen, Liu & Liu 2024, Algorithm 2. arXiv:2411.16085"
    xi: float = hyper(1.0, "[0, inf)", "ξ, added to the number of components taken, in the paper's variant")
    variant: str = hyper("paper", ("paper", "code"), "how the components taken are lengthened")

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the components of the inner displacement that go downhill, lengthened."""
        # Of a chainable rule the direction, so that this one is chainable to the last bit.
        lr = -1.0 if self.inner.chainable else step.lr
        delta, state = self.inner.update(step.replace(lr=lr), state)
        rate = -step.lr if self.inner.chainable else 1.0
        delta = widened(delta, step.params)
        return jax.tree.map(lambda d, g: self._downhill(d, g, lr, rate), delta, step.grads), state

    def _downhill(self, d: jax.Array, g: jax.Array, lr: Any, rate: Any) -> jax.Array:
        # Signs, not the product d · g, which underflows. At lr = -1 a displacement is a direction, and goes with g.
        signs = (jnp.sign(numerics.cast(x, d.dtype)) for x in (d, g, lr))
        agrees = functools.reduce(jnp.multiply, signs) < 0
        count = jnp.sum(agrees, dtype=d.dtype)
        total = count + self.xi if self.variant == "paper" else jnp.maximum(count, 1e-3 * d.size)
        return jnp.where(agrees, rate * (d * numerics.safe_divide(d.size, total)), -0.0)
