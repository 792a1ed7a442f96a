"""What rules with a routing of their own share: matches, and partitions with routes that may be empty."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from optimkit.rules.base import Rule, Step, Tree
from optimkit.rules.compose import Match, Partition
from optimkit.tree import names_and_leaves

NEVER = re.compile(r"(?!)")
# Tables that a token or a class chooses a row of. "head" is a word here: neither "heads" nor "multi_head".
EMBEDDINGS = re.compile(r"(?i)(?<!un)embed|(?<![a-z])(wte|wpe)(?![a-z])")
HEADS = re.compile(r"(?i)unembed|(?<![a-z])(logits|classifier)(?![a-z])|(?<![a-z])(?<!multi[_-])head(?![a-z])")
EMBEDDINGS_AND_HEADS = re.compile(f"(?i){EMBEDDINGS.pattern[4:]}|{HEADS.pattern[4:]}")


class Routes(Partition):
    """A partition whose routes may be empty; those that are have no state."""

    def __init__(self, *routes: tuple[Match, Rule], labels: Sequence[str] | None = None):
        super().__init__(*routes, labels=labels)

    def _taken(self, params: Tree) -> Partition:
        names, leaves, _ = names_and_leaves(params)
        taken = {self._first(name, x) for name, x in zip(names, leaves, strict=True)}
        routes = [(self.matches[i], self.rules[i]) for i in sorted(taken)]
        return Partition(*routes, labels=[self.labels[i] for i in sorted(taken)])

    def init(self, params: Tree) -> Tree:
        """Return the state of each rule that gets parameters."""
        return self._taken(params).init(params)

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Let each rule update its parameters."""
        return self._taken(step.params).update(step, state)

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what each rule evaluates its parameters at."""
        return self._taken(params).eval_params(state, params)

    def replace(self, *, rules: tuple[Rule, ...], matches: tuple[Match, ...] | None = None) -> Routes:  # type: ignore[override]
        """Return a partition with other rules."""
        return Routes(*zip(matches or self.matches, rules, strict=True), labels=self.labels)


def matches(match: Match, name: str, x: Any) -> bool:
    """Tell whether a parameter matches.

    Example:
        >>> [name for name in ("lm_head", "heads", "wte", "multi_head.w") if matches(EMBEDDINGS_AND_HEADS, name, None)]
        ['lm_head', 'wte']
    """
    return bool(match(name, x) if callable(match) else re.search(match, name))
