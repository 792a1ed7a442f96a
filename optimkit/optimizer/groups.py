"""Groups of parameters: other hyperparameters, another learning rate, a rule of their own, or none, for some variables.

A :class:`Group` says which variables it takes and what is different for them. A :class:`Plan` is what an optimizer
makes of its groups: which variable is in which, and one rule for all of them together. It does not divide the rule by
groups, for what looks at all parameters, such as the norm in ``ClipByGlobalNorm``, is to go on seeing all of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from optimkit.core import BaseVar
from optimkit.errors import HyperparameterError, StructureError, message
from optimkit.hyper import check_hyperparameter
from optimkit.rules import lookup
from optimkit.rules.base import LeafRule, Rule, check_rule_type, same_value
from optimkit.rules.compose import Partition, shown_match
from optimkit.rules.variants import Members, distribute

REST = "default"  # the group of what no group takes
SCALE = "[0, inf)"
NAME = re.compile(r"[^\s.\[\](){}]+")

OneMatch = str | re.Pattern[str] | type[BaseVar] | Callable[[str, Any], bool]
Match = OneMatch | tuple[OneMatch, ...]


class Target(NamedTuple):
    """Where a hyperparameter is: its group, or "", the path to its rule, and its name there."""

    group: str
    path: lookup.Path
    field: str


LR_SCALE = "lr_scale"


class Group:
    """Some variables of an optimizer, and what is different for them.

    ``Optimizer(vc, rule, groups=[Group(...), ...])``. Variables that no group takes are in the group ``"default"``,
    to which the optimizer's own rule and hyperparameters apply as they stand.

    Args:
        name: the group's name, in errors, in ``summary()`` and in names of variables.
        match: which variables it takes: a regular expression, searched for in the variable's name; a class of
            variables; a function of name and array (for shapes and dtypes); or a tuple of these, any of which will
            do. Without it: all that the groups before it leave.
        rule: a rule of the group's own. It sees only the variables of the group, so a norm in it is theirs alone.
        lr_scale: a factor of the learning rate, >= 0, or a function of the step (from 0) that gives one.
        slot_dtype: the dtype that the group's slots are stored in.
        frozen: whether the group's variables stay as they are, to the last bit. They have no state and count in no
            norm; their gradients may be None.
        fallback: whether it takes what groups before it leave of its match. Otherwise a variable that two groups
            match is an error.
        optional: whether it may take none. Otherwise that is an error.
        **hyperparameters: hyperparameters of the optimizer's rule that are others for this group, by name; numbers,
            or functions of the step.

    Raises:
        HyperparameterError: the name is no name, or options contradict each other.
        StructureError: the match is none of the above.

    The optimizer's constructor raises, too: for a group that takes no variable, a variable that two groups match, two
    groups of one name, an unknown hyperparameter, or one that has to be the same for all parameters together.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimkit import TrainVar, VarCollection, optimizer
        >>> vc = VarCollection({"w": TrainVar(jnp.ones(1)), "bias": TrainVar(jnp.ones(1))})
        >>> opt = optimizer.AdamW(vc, weight_decay=0.5, groups=[Group("no_decay", "bias", weight_decay=0.0)])
        >>> opt(0.1, [jnp.zeros(1), jnp.zeros(1)])
        >>> vc["w"].value, vc["bias"].value
        (Array([0.95], dtype=float32), Array([1.], dtype=float32))
    """

    def __init__(
        self,
        name: str,
        match: Match | None = None,
        *,
        rule: Rule | None = None,
        lr_scale: Any = None,
        slot_dtype: str | None = None,
        frozen: bool = False,
        fallback: bool = False,
        optional: bool = False,
        **hyperparameters: Any,
    ):
        if not isinstance(name, str) or not NAME.fullmatch(name) or name == REST:
            raise HyperparameterError(message(
                "Group", f"this is no name for a group: {name!r}.",
                f"letters, digits, '-' and '_', and not {REST!r}, the group of all others", repr(name)))  # fmt: skip
        where = f"Group({name!r})"
        self.name, self.match = name, checked_match(where, match)
        self.rule, self.lr_scale, self.slot_dtype = rule, lr_scale, slot_dtype
        self.frozen, self.fallback, self.optional = frozen, fallback or match is None, optional
        self.hyperparameters = {n: x for n, x in hyperparameters.items() if x is not None}
        self._check(where)

    def _check(self, where: str) -> None:
        given = [n for n in ("rule", LR_SCALE, "slot_dtype") if getattr(self, n) is not None] + [*self.hyperparameters]
        if self.frozen and given:
            raise HyperparameterError(message(
                where, f"a frozen group does not step, so {given[0]!r} means nothing.", "frozen=True alone",
                ", ".join(given)))  # fmt: skip
        if "lr" in given:
            raise HyperparameterError(message(
                where, "a group has no learning rate of its own.", "lr_scale, a factor", "lr",
                "Write lr_scale=0.1 for a tenth of the learning rate."))  # fmt: skip
        beside = [n for n in given if n not in ("rule", LR_SCALE)]
        if self.rule is not None:
            check_rule_type(where, self.rule)
            if beside:
                raise HyperparameterError(message(
                    where, f"{beside[0]!r} is a hyperparameter of the group's own rule.", None, None,
                    f"Give it to the rule: rule=rules.{type(self.rule).__name__}({beside[0]}=...)."))  # fmt: skip
        if self.lr_scale is not None and not callable(self.lr_scale):
            check_hyperparameter(where, LR_SCALE, self.lr_scale, SCALE)

    def takes(self, name: str, var: BaseVar) -> bool:
        """Tell whether a variable matches."""
        return self.match is None or matches(self.match, name, var)

    def own_values(self) -> dict[str, Any]:
        """Return the hyperparameters that are different for the group, by name."""
        return self.hyperparameters | ({} if self.lr_scale is None else {LR_SCALE: self.lr_scale})

    def _options(self) -> tuple[Any, ...]:
        own = self.hyperparameters
        return (self.name, self.match, self.rule, self.lr_scale, self.slot_dtype, self.frozen, self.fallback,
                self.optional, *own, *own.values())  # fmt: skip

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Group):
            return NotImplemented
        mine, theirs = self._options(), other._options()
        return len(mine) == len(theirs) and all(map(same_value, mine, theirs))

    def __hash__(self) -> int:
        return hash((self.name, self.match))

    def __repr__(self) -> str:
        match = () if self.match is None else (" | ".join(map(shown_match, self.match)),)
        options = {"rule": self.rule, "slot_dtype": self.slot_dtype, **self.own_values(), "frozen": self.frozen or None}
        shown = (f"{n}={x!r}" for n, x in options.items() if x is not None)
        return f"Group({', '.join([repr(self.name), *match, *shown])})"


def checked_match(where: str, match: Any) -> tuple[OneMatch, ...] | None:
    """Return what matches as a tuple of alternatives, or raise where one of them is no match."""
    if match is None:
        return None
    several = tuple(match) if isinstance(match, tuple | list) else (match,)
    for one in several:
        kind = issubclass(one, BaseVar) if isinstance(one, type) else isinstance(one, str | re.Pattern) or callable(one)
        if not kind:
            raise StructureError(message(where, "this matches no variable.",
                                         "a regular expression, a class of variables, or a function of name and array",
                                         repr(one)))  # fmt: skip
    return several


def matches(match: tuple[OneMatch, ...], name: str, var: BaseVar) -> bool:
    """Tell whether a variable matches one of the alternatives."""
    for one in match:
        if isinstance(one, type):
            found: Any = isinstance(var, one)
        elif isinstance(one, Together):
            found = one(name, var)
        else:
            found = re.search(one, name) if isinstance(one, str | re.Pattern) else one(name, var.value)
        if found:
            return True
    return False


@dataclasses.dataclass(frozen=True)
class Together:
    """The match of variables that are in all of some groups and in none of others."""

    all_of: tuple[Group, ...]
    none_of: tuple[Group, ...] = ()

    def __call__(self, name: str, var: Any) -> bool:
        """Tell whether a variable is."""
        return all(g.takes(name, var) for g in self.all_of) and not any(g.takes(name, var) for g in self.none_of)

    def __repr__(self) -> str:
        return " & ".join([*(repr(g.name) for g in self.all_of), *(f"not {g.name!r}" for g in self.none_of)])


@dataclasses.dataclass(frozen=True)
class Within:
    """The match of a route: the parameters of these names."""

    names: frozenset[str]

    def __call__(self, name: str, x: Any) -> bool:
        """Tell whether the name is among them."""
        return name in self.names

    def __repr__(self) -> str:
        return f"{len(self.names)} of them"


class Plan:
    """What an optimizer makes of its groups: each variable's group, and one rule for all of them.

    Args:
        where: the optimizer, for messages.
        groups: the groups.
        variables: the variables that are optimized.
        rule: the optimizer's rule.

    Attributes:
        groups: the groups, by name.
        group_of: the name of each variable's group.
        frozen: the names of the variables that do not step.
        constants: the hyperparameters of groups that are constants and differ from those of their rule.
        schedules: those that follow a schedule, by name.
    """

    def __init__(self, where: str, groups: Iterable[Group], variables: Mapping[str, BaseVar], rule: Rule):
        self.groups = _by_name(where, groups, rule)
        self.group_of = _assigned(where, self.groups, variables)
        self.frozen = frozenset(n for n, g in self.group_of.items() if g != REST and self.groups[g].frozen)
        if len(self.frozen) == len(self.group_of):
            raise StructureError(message(where, "all variables are frozen.", "at least one that is not", "none"))
        options = {f"{g.name}.{n}": x for g in self.groups.values() for n, x in g.own_values().items()}
        self.schedules = {name: x for name, x in options.items() if callable(x)}
        self.constants: dict[Target, Any] = {}
        for name, x in options.items():
            if name not in self.schedules:
                target = self.target(where, rule, name)
                self.checked(where, rule, target, x)
                self.constants[target] = x
        shared = [REST, *(g.name for g in self.groups.values() if not g.frozen and g.rule is None)]
        by_group = {g: frozenset(n for n, own in self.group_of.items() if own == g) for g in (REST, *self.groups)}
        shared = [g for g in shared if g == REST or by_group[g]]
        self._shared = shared[1:]
        self._members = Members(tuple((n, i) for i, g in enumerate(shared) for n in sorted(by_group[g])))
        self._own = {g.name: Within(by_group[g.name]) for g in self.groups.values() if g.rule and by_group[g.name]}
        self._rest = Within(frozenset(n for n, _ in self._members.pairs))

    # --- hyperparameters by name ----------------------------------------------------------------------------------

    def target(self, where: str, rule: Rule, name: str) -> Target:
        """Return where a hyperparameter is: ``"beta1"``, ``"Adam.beta1"`` or ``"head.beta1"``.

        Raises:
            HyperparameterError: there is no such hyperparameter, or more than one.
        """
        group, _, field = name.partition(".")
        if group not in self.groups or not field:
            return Target("", *lookup.find(where, rule, name))
        if self.groups[group].frozen:
            raise HyperparameterError(message(where, f"the group {group!r} is frozen, it has no {field!r}.", None, None,
                                              "Name the hyperparameter of another group."))  # fmt: skip
        if field == LR_SCALE:
            return Target(group, (), LR_SCALE)
        return Target(group, *lookup.find(f"{where}: group {group!r}", self.rule_of(group, rule), field))

    def rule_of(self, group: str, rule: Rule) -> Rule:
        """Return a group's own rule or, where it has none, the optimizer's."""
        own = self.groups[group].rule if group else None
        return rule if own is None else own

    def constant(self, rule: Rule, target: Target) -> Any:
        """Return the value of a hyperparameter that is a constant."""
        if target in self.constants:
            return self.constants[target]
        if target.group and target.field == LR_SCALE:
            return 1.0
        if target.field == "slot_dtype" and target.group and self.groups[target.group].slot_dtype is not None:
            return self.groups[target.group].slot_dtype
        return getattr(lookup.at(self.rule_of(target.group, rule), target.path), target.field)

    def checked(self, where: str, rule: Rule, target: Target, value: Any) -> Rule:
        """Return the rule of a hyperparameter's group with its value replaced, or raise where it is out of range."""
        rule = self.rule_of(target.group, rule)
        if target.group and target.field == LR_SCALE:
            check_hyperparameter(where, f"{target.group}.{LR_SCALE}", value, SCALE)
            return rule
        return lookup.with_value(rule, target.path, target.field, value)

    # --- one rule for all -----------------------------------------------------------------------------------------

    def rule(self, where: str, rule: Rule, values: Mapping[Target, Any]) -> Rule:
        """Return one rule for all variables that step, with these values of hyperparameters in place of constants."""
        rule, _ = self.of_group("", rule, values)
        if not self.groups:
            return rule
        shared = [(rule, 1.0), *(self.of_group(name, rule, values) for name in self._shared)]
        routes: dict[str, tuple[Within, Rule]] = {}
        if self._rest.names:
            variants, scales = zip(*shared, strict=True)
            routes[""] = self._rest, distribute(where, variants, scales, self._members)
        for name, match in self._own.items():
            own, scale = self.of_group(name, rule, values)
            alone = Members(tuple((n, 0) for n in sorted(match.names)))
            routes[name] = match, distribute(where, [own], [scale], alone)
        return routes[""][1] if list(routes) == [""] else Partition(*routes.values(), labels=tuple(routes))

    def of_group(self, name: str, rule: Rule, values: Mapping[Target, Any]) -> tuple[Rule, Any]:
        """Return the rule of a group, or of the default one, and the factor of its learning rate."""
        rule, scale = self.rule_of(name, rule), 1.0
        for target, x in ({**self.constants, **values} if name else values).items():
            if target.group == name and target.field == LR_SCALE:
                scale = x
            elif target.group == name:
                rule = lookup.with_value(rule, target.path, target.field, x)
        dtype = self.groups[name].slot_dtype if name else None
        return rule if dtype is None else _with_slots(f"Group({name!r})", rule, dtype), scale


def _by_name(where: str, groups: Iterable[Group], rule: Rule) -> dict[str, Group]:
    """Return the groups by name, or raise where two have one, or one has that of a rule."""
    found: dict[str, Group] = {}
    kinds = {type(part).__name__ for _, part in lookup.walk(rule)}
    for group in [groups] if isinstance(groups, Group) else groups:
        if not isinstance(group, Group):
            raise StructureError(message(where, "this is not a group.", 'Group("head", match="head", lr_scale=0.1)',
                                         repr(group)))  # fmt: skip
        if group.name in found or group.name in kinds:
            other = "two groups" if group.name in found else "a group and a rule"
            raise HyperparameterError(message(where, f"{other} are called {group.name!r}.", "a name for each",
                                              repr(group), "Call the group otherwise."))  # fmt: skip
        found[group.name] = group
    return found


def _assigned(where: str, groups: Mapping[str, Group], variables: Mapping[str, BaseVar]) -> dict[str, str]:
    """Return the name of each variable's group, or raise where that is not clear or a group gets none."""
    found: dict[str, str] = {}
    for name, var in variables.items():
        takers = [g for g in groups.values() if g.takes(name, var)]
        doubtful = [g for g in takers[1:] if not g.fallback]
        if doubtful:
            raise StructureError(message(
                where, f"the groups {takers[0].name!r} and {doubtful[0].name!r} both match {name!r}.",
                "one group for each variable", f"{takers[0]!r}, {doubtful[0]!r}",
                f"If {takers[0].name!r} is to have it, write Group({doubtful[0].name!r}, ..., fallback=True)."
            ))  # fmt: skip
        found[name] = takers[0].name if takers else REST
    taken = set(found.values())
    for group in groups.values():
        if group.name not in taken and not group.optional:
            raise StructureError(message(
                where, f"the group {group.name!r} gets no variable.",
                "one of " + ", ".join(map(repr, variables.keys())),
                f"{group!r}" + ", after the groups before it" * group.fallback))  # fmt: skip
    return found


def _with_slots(where: str, rule: Rule, dtype: str) -> Rule:
    """Return a rule with slots of a dtype, in all its parts that have slots."""
    found = False
    for path, part in lookup.walk(rule):
        if isinstance(part, LeafRule) and part._has_slots():
            rule, found = lookup.with_value(rule, path, "slot_dtype", dtype), True
    if not found:
        raise HyperparameterError(message(where, f"{type(rule).__name__} has no slots to store.", None, None,
                                          "Leave out slot_dtype."))  # fmt: skip
    return rule
