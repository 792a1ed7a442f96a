"""Composition: rules made of rules."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.errors import CompositionError, StructureError, message
from optimkit.rules.base import LeafRule, Rule, Slot, Step, Tree, check_rule_type, functions_of_part
from optimkit.tree import names_and_leaves

Match = str | re.Pattern[str] | Callable[[str, Any], bool]


class Chain(Rule):
    """Feeds each rule's direction to the next as its gradient; the last one takes the step.

    ::

        Chain(WeightDecay(r), Adam())    Adam on the loss with an L2 penalty
        Chain(Adam(), WeightDecay(r))    AdamW
        Chain(ClipByGlobalNorm(), Momentum())

    Chains are a monoid: grouping does not matter, and ``SGD()`` changes nothing. A rule whose displacement is not
    linear in the learning rate, or whose memory depends on it, has no direction apart from its step and can only be
    last.

    State: a dict from the names of the rules' classes to their states.

    Raises:
        CompositionError: no rules, something that is not a rule, or a rule that can only be last and is not.

    Example:
        >>> from optimkit import rules
        >>> rules.Chain(rules.ClipByGlobalNorm(1.0), rules.Momentum(0.9))
        Chain(ClipByGlobalNorm(max_norm=1.0), Momentum(momentum=0.9, nesterov=False))
    """

    rules: tuple[Rule, ...]

    def __init__(self, *rules: Rule):
        object.__setattr__(self, "rules", rules)
        for rule in rules:
            check_rule_type("Chain", rule)
        if not rules:
            raise CompositionError(message("Chain", "there is no rule.", "at least one", "none", "Use SGD()."))
        for i, rule in enumerate(rules[:-1]):
            if not rule.chainable:
                name = type(rule).__name__
                raise CompositionError(message(
                    "Chain", f"{name} at place {i + 1} of {len(rules)} must know the step that is taken.", None, None,
                    f"Put it last: Chain(..., {name}(...))."))  # fmt: skip

    def replace(self, *, rules: tuple[Rule, ...]) -> Chain:  # type: ignore[override]
        """Return a chain of other rules."""
        return Chain(*rules)

    @property
    def per_example(self) -> bool:  # type: ignore[override]
        """Whether the first rule takes gradients of single examples."""
        return self.rules[0].per_example

    @property
    def chainable(self) -> bool:  # type: ignore[override]
        """Whether the last rule is."""
        return self.rules[-1].chainable

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What any of the rules needs."""
        return union_of_needs(self.rules)

    def _labels(self) -> list[str]:
        """Name the parts by their class, so that the names of state outlive a stage put in or taken out."""
        kinds = [getattr(rule, "stands_for", type(rule).__name__) for rule in self.rules]
        seen = [kinds[:i].count(kind) for i, kind in enumerate(kinds)]
        return [f"{kind}_{n + 1}" if n else kind for kind, n in zip(kinds, seen, strict=True)]

    def init(self, params: Tree) -> Tree:
        """Return the state of each rule, by the name of its class."""
        return {label: rule.init(params) for label, rule in zip(self._labels(), self.rules, strict=True)}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Pass the gradient through the rules."""
        new, labels = {}, self._labels()
        for label, rule in zip(labels[:-1], self.rules, strict=False):
            direction, new[label] = rule.direction(step, state[label])
            step = step.replace(grads=direction)
        delta, new[labels[-1]] = self.rules[-1].update(step, state[labels[-1]])
        return delta, new

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the rules evaluate at, one after the other: an average anywhere in the chain is in it."""
        for label, rule in zip(self._labels(), self.rules, strict=True):
            params = rule.eval_params(state[label], params)
        return params

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.rules))})"


def union_of_needs(rules: Any) -> tuple[str, ...]:
    """Return the inputs that any of the rules needs, each once."""
    return tuple(dict.fromkeys(need for rule in rules for need in rule.needs))


class Composed(Rule):
    """A rule with a name and hyperparameters of its own that *is* a composition: a subclass defines ``compose``.

    To have the hyperparameters of one of its parts, subclass that too, after this class: ``AdamW(Composed, Adam)``.
    """

    def part(self, rule_type: type[Rule]) -> Rule:
        """Return the rule of a part's type that has this rule's values of its hyperparameters."""
        return rule_type(**{f.name: getattr(self, f.name) for f in dataclasses.fields(rule_type)})  # type: ignore[arg-type]

    def compose(self) -> Rule:
        """Return the rule that this one is."""
        raise NotImplementedError(f"{type(self).__name__} does not define compose.")

    @property
    def chainable(self) -> bool:  # type: ignore[override]
        """Whether the composition is."""
        return self.compose().chainable

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the composition needs."""
        return self.compose().needs

    def init(self, params: Tree) -> Tree:
        """Return the state of the composition."""
        return self.compose().init(params)

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update as the composition does."""
        return self.compose().update(step, state)

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the composition evaluates at."""
        return self.compose().eval_params(state, params)


class Frozen(LeafRule):
    """Leaves parameters as they are, to the last bit, and remembers nothing.

    Example:
        >>> from optimkit import pure, rules
        >>> init, apply = pure(rules.Frozen(), lr=1.0)
        >>> apply({"w": jnp.ones(1)}, init({"w": jnp.zeros(1)}), {"w": jnp.zeros(1)})[1]["w"]
        Array([0.], dtype=float32)
    """

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return -0.0, the one number that changes no number, not even -0.0, when it is added."""
        return jnp.full_like(p, -0.0), slot


class Partition(Rule):
    """Gives each parameter to the first route that matches it: a rule for each group of parameters.

    A route is a pair ``(match, rule)``. ``match`` is a regular expression, searched for in the parameter's name, or a
    function of name and array (for shapes and dtypes). ``Frozen()`` as the rule leaves a group as it is, without
    state. A rule that looks at many parameters together, such as ``ClipByGlobalNorm``, sees those of its group; to
    have it see all, put it before: ``Chain(ClipByGlobalNorm(), Partition(...))``.

    Args:
        *routes: the pairs.
        labels: names for the routes, after which their state is named; ``"route0"``, ``"route1"``, ... where there
            are none. A route named ``""`` adds nothing to the names of its state.

    State: a dict from the routes' labels to the rules' states.

    Raises:
        CompositionError: something is not a route, or labels are not strings, one for each route.
        StructureError: a route gets no parameter, or a parameter has no route (by ``init``).

    Example:
        >>> from optimkit import pure, rules
        >>> rule = rules.Partition((r"bias$", rules.SGD()), (".", rules.AdamW()))
        >>> init, apply = pure(rule, lr=0.1)
        >>> sorted(init({"w": jnp.ones(2), "bias": jnp.ones(1)})["route1"]["Adam"]["slots"])
        ['w']
    """

    rules: tuple[Rule, ...]
    matches: tuple[Match, ...]
    labels: tuple[str, ...]

    def __init__(self, *routes: tuple[Match, Rule], labels: Sequence[str] | None = None):
        for route in routes:
            pair = isinstance(route, tuple) and len(route) == 2
            if not pair or not (isinstance(route[0], str | re.Pattern) or callable(route[0])):
                raise CompositionError(message("Partition", "this is not a route.",
                                               "(regular expression or function, rule)", repr(route)))  # fmt: skip
            check_rule_type("Partition", route[1])
        object.__setattr__(self, "matches", tuple(match for match, _ in routes))
        object.__setattr__(self, "rules", tuple(rule for _, rule in routes))
        names = tuple(f"route{i}" for i in range(len(routes))) if labels is None else tuple(labels)
        if len(set(names)) != len(routes) or not all(isinstance(name, str) for name in names):
            raise CompositionError(message("Partition", "the labels do not fit the routes.",
                                           f"{len(routes)} different strings", repr(labels)))  # fmt: skip
        object.__setattr__(self, "labels", names)

    def replace(self, *, rules: tuple[Rule, ...], matches: tuple[Match, ...] | None = None) -> Partition:  # type: ignore[override]
        """Return a partition with other rules."""
        return Partition(*zip(matches or self.matches, rules, strict=True), labels=self.labels)

    @property
    def chainable(self) -> bool:  # type: ignore[override]
        """Whether all the rules are."""
        return all(rule.chainable for rule in self.rules)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What any of the rules needs."""
        return union_of_needs(self.rules)

    def routes_of(self, params: Tree) -> dict[str, int]:
        """Return the index of the route that takes each parameter, by name."""
        names, leaves, _ = names_and_leaves(params)
        twice = [name for name, n in Counter(names).items() if n > 1]
        if twice:
            raise StructureError(message("Partition", f"two parameters are called {twice[0]!r}.", "one name for each",
                                         "keys that contain dots"))  # fmt: skip
        found = {n: self._first(n, x) for n, x in zip(names, leaves, strict=True)}
        for i, match in enumerate(self.matches):
            if i not in found.values():
                raise StructureError(message(
                    "Partition",
                    f"route {i} ({shown_match(match)} -> {type(self.rules[i]).__name__}) gets no parameter.",
                    "one of " + ", ".join(map(repr, names)), "none that an earlier route has not taken",
                    "The first match wins: put narrow routes before wide ones."))  # fmt: skip
        return found

    def _first(self, name: str, x: Any) -> int:
        for i, match in enumerate(self.matches):
            if match(name, x) if callable(match) else re.search(match, name):
                return i
        raise StructureError(message(
            "Partition", f"no route matches the parameter {name!r}.",
            " or ".join(map(shown_match, self.matches)), repr(name), 'Add a last route that matches all: (".", rule).'
        ))  # fmt: skip

    def _split(self, tree: Tree, routes: dict[str, int]) -> list[dict[str, Any]]:
        """Divide a tree into one flat dict for each route."""
        parts: list[dict[str, Any]] = [{} for _ in self.rules]
        names, leaves, _ = names_and_leaves(tree)
        for name, x in zip(names, leaves, strict=True):
            parts[routes[name]][name] = x
        return parts

    def init(self, params: Tree) -> Tree:
        """Return the state of each rule, for the parameters that it gets."""
        parts = self._split(params, self.routes_of(params))
        return {label: rule.init(part) for label, rule, part in zip(self.labels, self.rules, parts, strict=True)}

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Let each rule update its parameters."""
        names, _, structure = names_and_leaves(step.params)
        routes = self.routes_of(step.params)
        grads, params = self._split(step.grads, routes), self._split(step.params, routes)
        deltas: dict[str, Any] = {}
        new: dict[str, Any] = {}

        def moved(part: dict[str, Any]) -> Tree:
            """Return all parameters, those of a group moved and the others where they are."""
            flat = {name: x for group in (*params, part) for name, x in group.items()}
            return structure.unflatten([flat[name] for name in names])

        for i, (label, rule) in enumerate(zip(self.labels, self.rules, strict=True)):
            functions = functions_of_part(step.grad_fn, step.value_and_grad_fn, moved,
                                          lambda grads, i=i: self._split(grads, routes)[i])  # type: ignore[misc]  # fmt: skip
            part = step.replace(grads=grads[i], params=params[i], **functions)
            delta, new[label] = rule.update(part, state[label])
            deltas |= delta
        return structure.unflatten([deltas[name] for name in names]), new

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what each rule evaluates its parameters at."""
        names, _, structure = names_and_leaves(params)
        parts = self._split(params, self.routes_of(params))
        evaluated: dict[str, Any] = {}
        for label, rule, part in zip(self.labels, self.rules, parts, strict=True):
            evaluated |= rule.eval_params(state[label], part)
        return structure.unflatten([evaluated[name] for name in names])

    def __repr__(self) -> str:
        shown = [f"({shown_match(m)}, {r!r})" for m, r in zip(self.matches, self.rules, strict=True)]
        if self.labels != tuple(f"route{i}" for i in range(len(shown))):
            shown.append(f"labels={self.labels!r}")
        return f"Partition({', '.join(shown)})"


def shown_match(match: Any) -> str:
    """Return a match as messages show it."""
    pattern = match.pattern if isinstance(match, re.Pattern) else match
    return repr(pattern) if isinstance(pattern, str) else getattr(pattern, "__name__", repr(pattern))


def compiled(where: str, match: Any, fix: str = 'Give a pattern of names, such as "embed|head".') -> Match:
    """Return a match, a string as a regular expression, or raise where it is none.

    Raises:
        CompositionError: it is neither a regular expression nor a function.
    """
    try:
        match = re.compile(match) if isinstance(match, str) else match
    except re.error as error:
        raise CompositionError(message(where, f"{match!r} is not a regular expression.",
                                       "one that re.compile takes", error)) from error  # fmt: skip
    if not isinstance(match, re.Pattern) and (not callable(match) or isinstance(match, type)):
        raise CompositionError(message(where, "this does not say what matches.",
                                       "a regular expression, or a function of name and array", repr(match),
                                       fix))  # fmt: skip
    return match
