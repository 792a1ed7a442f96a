"""One rule with other hyperparameters, or another learning rate, for some of the parameters.

``distribute`` takes a rule as it is for each group of parameters and returns one rule for all of them. What looks at
each parameter alone is varied; what looks at all of them together, such as ``ClipByGlobalNorm``, goes on seeing all.
State has the form and the names that it has without groups, so that a group put in or taken out renames nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from optimkit.errors import CompositionError, StructureError, message
from optimkit.rules.base import LeafRule, Rule, Step, Tree, Wrapper
from optimkit.rules.compose import Chain, Composed, Partition, union_of_needs
from optimkit.rules.wrappers import Masked
from optimkit.tree import names_and_leaves

Scale = Any  # a factor of the learning rate: a number, an array or a tracer


@dataclasses.dataclass(frozen=True)
class Members:
    """Which group each parameter is in, by its index: a value.

    Example:
        >>> Members((("conv.w", 0), ("head.w", 1))).group_of("head.w.scale")  # what a wrapper made of "head.w"
        1
    """

    pairs: tuple[tuple[str, int], ...]

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return dict(self.pairs)

    def group_of(self, name: str) -> int:
        """Return the group of a parameter, or of a part that a wrapper has made of one: ``name.part``."""
        part = name
        while part not in self._index:
            part, dot, _ = part.rpartition(".")
            if not dot:
                raise StructureError(message(
                    "Variants", f"the parameter {name!r} is in no group.",
                    "one of " + ", ".join(map(repr, self._index)), repr(name),
                    "A wrapper must hand parameters on under their names."))  # fmt: skip
        return self._index[part]


class Variants(Rule):
    """A leaf rule that is another for some parameters: ``rules[i]`` at ``scales[i]`` times the learning rate.

    State: that of the leaf rule, for all parameters, with one counter.
    """

    rules: tuple[LeafRule, ...]
    scales: tuple[Scale, ...]
    members: Members

    @property
    def stands_for(self) -> str:
        """The class of the rule, after which a ``Chain`` names its state."""
        return type(self.rules[0]).__name__

    @property
    def chainable(self) -> bool:  # type: ignore[override]
        """Whether all the rules are."""
        return all(rule.chainable for rule in self.rules)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What any of the rules needs."""
        return union_of_needs(self.rules)

    def _places(self, params: Tree) -> tuple[list[Any], list[list[int]], Any]:
        """Return the leaves, the places of each group's among them, and the structure."""
        names, leaves, structure = names_and_leaves(params)
        places: list[list[int]] = [[] for _ in self.rules]
        for i, name in enumerate(names):
            places[self.members.group_of(name)].append(i)
        return leaves, places, structure

    def init(self, params: Tree) -> Tree:
        """Return the state of the leaf rule, each slot made by the parameter's own variant."""
        leaves, places, structure = self._places(params)
        slots, state = [None] * len(leaves), self.rules[0].init([])
        for rule, own in zip(self.rules, places, strict=True):
            _put(slots, own, rule.init([leaves[i] for i in own]).get("slots", ()))
        return {**state, "slots": structure.unflatten(slots)} if state else {}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Let each variant update its parameters."""
        leaves, places, structure = self._places(step.params)
        grads = structure.flatten_up_to(step.grads)
        slots = structure.flatten_up_to(state["slots"]) if state else []
        deltas, new = [None] * len(leaves), {**state}
        for rule, scale, own in zip(self.rules, self.scales, places, strict=True):
            if own:
                part = step.replace(
                    grads=[grads[i] for i in own], params=[leaves[i] for i in own], lr=scaled(step.lr, scale)
                )
                mine = {**state, "slots": [slots[i] for i in own]} if state else {}
                delta, mine = rule.update(part, mine)
                _put(deltas, own, delta)
                _put(slots, own, mine.get("slots", ()))
                new = {**mine}
        return structure.unflatten(deltas), {**new, "slots": structure.unflatten(slots)} if state else {}

    def __repr__(self) -> str:
        shown = (repr(r) if is_one(s) else f"{s!r} * {r!r}" for r, s in zip(self.rules, self.scales, strict=True))
        return f"Variants({', '.join(shown)})"


class ScaledSteps(Wrapper):
    """Multiplies the steps of a rule that looks at all parameters together, by the factor of each one's group.

    For rules whose displacement is linear in the learning rate: there it is the same as another learning rate.

    State: that of the inner rule.
    """

    scales: tuple[Scale, ...]
    members: Members

    @property
    def stands_for(self) -> str:
        """The class of the rule, after which a ``Chain`` names its state."""
        return type(self.inner).__name__

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the inner rule's displacements times the factors."""
        delta, state = self.inner.update(step, state)
        names, leaves, structure = names_and_leaves(delta)
        factors = (self.scales[self.members.group_of(name)] for name in names)
        return structure.unflatten([scaled(d, s) for d, s in zip(leaves, factors, strict=True)]), state

    def __repr__(self) -> str:
        return f"ScaledSteps({self.inner!r}, {self.scales!r})"


class Opened(Wrapper):
    """What a rule by name is composed of, where groups differ in its parts; a ``Chain`` still knows it by its name.

    State: that of the composition.
    """

    stands_for: str

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update as the composition does."""
        return self.inner.update(step, state)

    def __repr__(self) -> str:
        return repr(self.inner)


def _put(into: list[Any], places: list[int], values: Sequence[Any]) -> None:
    for i, x in zip(places, values, strict=False):
        into[i] = x


def is_one(scale: Scale) -> bool:
    """Tell whether a factor is the constant 1."""
    return isinstance(scale, int | float) and scale == 1


def scaled(x: Any, scale: Scale) -> Any:
    """Return ``x * scale``; ``x`` itself for the constant 1."""
    return x if is_one(scale) else (x * scale).astype(x.dtype) if hasattr(x, "dtype") else x * scale


def distribute(where: str, variants: Sequence[Rule], scales: Sequence[Scale], members: Members) -> Rule:
    """Return one rule that is ``variants[i]`` for the parameters of group i, at ``scales[i]`` times the learning rate.

    A scale acts on the rule that takes the step, the last of a chain. A rule in which the groups do not differ stays
    as it is.

    Raises:
        CompositionError: groups differ in what a rule has to know for all parameters together.

    Example:
        >>> from optimkit import rules
        >>> pair = [rules.Chain(rules.ClipByGlobalNorm(), rules.WeightDecay(rate), rules.Adam()) for rate in (0.1, 0.0)]
        >>> distribute("example", pair, [1.0, 1.0], Members((("w", 0), ("b", 1)))).rules[1]
        Variants(WeightDecay(rate=0.1), WeightDecay(rate=0.0))
    """
    first = variants[0]
    same, unscaled = all(alike(x, first) for x in variants), all(map(is_one, scales))
    if same and unscaled:
        return first
    if any(type(x) is not type(first) for x in variants):
        raise _inseparable(where, first, "is another rule for one group than for another")

    def parts(rules: Sequence[Rule], scales: Sequence[Scale]) -> Rule:
        return distribute(where, rules, scales, members)

    if isinstance(first, Composed):
        composition = parts([x.compose() for x in variants], scales)  # type: ignore[attr-defined]
        return Opened(composition, type(first).__name__)
    if isinstance(first, Chain | Partition):
        if any(len(x.rules) != len(first.rules) for x in variants):  # type: ignore[attr-defined]
            raise _inseparable(where, first, "has other parts for one group than for another")
        columns = list(zip(*(x.rules for x in variants), strict=True))  # type: ignore[attr-defined]
        steps = [i == len(columns) - 1 or isinstance(first, Partition) for i in range(len(columns))]
        return first.replace(rules=tuple(
            parts(column, scales if last else [1.0] * len(scales)) for column, last in zip(columns, steps, strict=True)
        ))  # fmt: skip
    if is_leafwise(first):
        return Variants(tuple(variants), tuple(scales), members)
    whole = first
    if isinstance(first, Wrapper) and all(alike(x.replace(inner=first.inner), first) for x in variants):
        # Where a step is linear in the learning rate, the step is scaled: a wrapper may add to the inner one.
        inner_scales = [1.0] * len(scales) if first.chainable or isinstance(first, Masked) else scales
        whole = first.replace(inner=parts([x.inner for x in variants], inner_scales))  # type: ignore[attr-defined]
        unscaled |= inner_scales is scales
    elif not same:
        raise _inseparable(where, first, "looks at all parameters together and has one set of hyperparameters")
    if not unscaled and not whole.chainable:
        raise _inseparable(where, first, "looks at all parameters together and has one learning rate")
    return whole if unscaled else ScaledSteps(whole, tuple(scales), members)


def is_leafwise(rule: Rule) -> bool:
    """Tell whether a rule treats each parameter alone, by ``init_leaf`` and ``update_leaf`` and nothing else."""
    kind, own = type(rule), ("init", "update", "eval_params")
    return isinstance(rule, LeafRule) and all(getattr(kind, x) is getattr(LeafRule, x) for x in own)


def alike(a: Any, b: Any) -> bool:
    """Tell whether two rules are the same, as far as that is known: arrays where they are one object."""
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, jax.Array | np.ndarray):
        return False
    if isinstance(a, Rule):
        theirs = b._fields()
        return all(alike(x, theirs[name]) for name, x in a._fields().items())
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return bool(a == b)


def _inseparable(where: str, rule: Rule, why: str) -> CompositionError:
    kind = type(rule).__name__
    return CompositionError(message(
        where, f"{kind} {why}, so groups cannot differ in it.", None, None,
        f"Give the group a rule of its own: Group(..., rule=rules.{kind}(...))."))  # fmt: skip
