"""What optimkit itself puts on the list: rules, line searches, schedules, projections, classes of variables.

Optimizers, groups and the rules of ``contrib`` are put there by their own packages.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimkit import core, projections, rules, schedule
from optimkit.config.registry import register, register_public
from optimkit.rules import Chain, Partition, Rule
from optimkit.rules.compose import Match


def chain(rules: Sequence[Rule]) -> Chain:
    """Return the chain of some rules."""
    return Chain(*rules)


def partition(routes: Sequence[tuple[Match, Rule]], labels: Sequence[str] | None = None) -> Partition:
    """Return the partition by some routes."""
    return Partition(*routes, labels=labels)


register(Chain, arguments=lambda x: {"rules": x.rules}, make=chain)
register(
    Partition,
    arguments=lambda x: {"routes": tuple(zip(x.matches, x.rules, strict=True)), "labels": x.labels},
    make=partition,
)

BASES = (Rule, rules.LeafRule, rules.Wrapper, rules.Composed, rules.LineSearch, schedule.Schedule,
         projections.Projection)  # fmt: skip
for module in (rules, schedule, projections, core):
    register_public(vars(module), but=BASES)
