"""Optimizers and groups as configs: the arguments that their constructors would take to make them as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from optimkit.config import register
from optimkit.config.reading import checked, read_arguments
from optimkit.config.registry import FAMILIES, Family, find
from optimkit.core import VarCollection
from optimkit.errors import ConfigError, message
from optimkit.optimizer.groups import LR_SCALE, Group, Target, Together
from optimkit.optimizer.hyperparameters import Tunable
from optimkit.optimizer.recipes import is_vector
from optimkit.rules import lookup
from optimkit.rules.base import Rule, check_rule_type


def arguments_of(opt: Tunable) -> dict[str, Any]:
    """Return the arguments of an optimizer's constructor, apart from the variables, that make it as it is now."""
    rule, changed = opt._rule, _changed(opt)
    for target, x in changed.items():
        if not target.group:
            rule = lookup.with_value(rule, target.path, target.field, x)
    plan, schedules = opt._plan, opt._schedules
    lr = opt._dynamic_var("lr")
    return {
        "rule": rule,
        "lr": schedules.get("lr") if lr is None else _number("lr", lr.value),
        "dynamic": tuple(name for name in opt._changing.values() if name not in schedules),
        "groups": tuple(_present(opt, group, changed) for group in plan.groups.values()),
        "schedules": {name: f for name, f in schedules.items() if name != "lr" and name not in plan.schedules},
        "constraints": opt._constraints_given,
    }


def _changed(opt: Tunable) -> dict[Target, float]:
    """Return the values of dynamic hyperparameters that have been changed since construction."""
    found = {}
    for target, name in opt._changing.items():
        if name not in opt._schedules:
            constant, value = opt._plan.constant(opt._rule, target), _number(name, opt._value(target))
            if np.float32(constant) != np.float32(value):
                found[target] = value
    return found


def _number(name: str, x: jax.Array) -> float:
    """Return the shortest number that is this one in its precision: 0.1 for the float32 that is next to it."""
    if isinstance(x, jax.core.Tracer):
        raise ConfigError(message("get_config", f"{name!r} is traced, so that it has no value yet.", "a number", f"{x}",
                                  "Take the config outside of the function that is compiled."))  # fmt: skip
    return float(str(np.asarray(x)[()]))


def _present(opt: Tunable, group: Group, changed: Mapping[Target, Any]) -> Group:
    """Return a group with the present values of its hyperparameters."""
    plan, given = opt._plan, group.own_values()
    names = {plan.target("", opt._rule, f"{group.name}.{name}"): name for name in given}
    options, rule = dict(given), group.rule
    for target, x in {**plan.constants, **changed}.items():
        if target.group != group.name:
            continue
        if target in names:
            options[names[target]] = x
        elif target.field == LR_SCALE:
            options[LR_SCALE] = x
        elif rule is not None:
            rule = lookup.with_value(rule, target.path, target.field, x)
        else:
            options[_name(opt._rule, target)] = x
    kept = {"slot_dtype": group.slot_dtype, "frozen": group.frozen, "fallback": group.fallback}
    return Group(group.name, group.match, rule=rule, optional=group.optional, **{**kept, **options})


def _name(rule: Rule, target: Target) -> str:
    """Return the name of a hyperparameter in a rule."""
    return next(n for n in lookup.names_of(rule) if lookup.find("", rule, n) == (target.path, target.field))


def built(kind: type[Any], vc: VarCollection, config: dict[str, Any]) -> Any:
    """Return the optimizer that a config describes, bound to variables.

    Raises:
        ConfigError: it is no config of an optimizer of this class.
        UnknownNameError: a name is not registered.
    """
    checked(config)
    where, entry = f"optimizer.{kind.__name__}.from_config(vc, config)", find("from_config", config["name"])
    found = entry.target
    if not isinstance(found, type) or not issubclass(found, kind):
        is_rule = isinstance(found, type) and issubclass(found, Rule)
        raise ConfigError(message(where, "this is the config of something else.", f"of {kind.__name__}", entry.name,
                                  "Optimizer(vc, optimkit.config.from_config(config))" if is_rule else ""))  # fmt: skip
    made: Any = found
    if made.from_config.__func__ is not kind.from_config.__func__:  # for a constructor with other arguments
        return made.from_config(vc, config)
    arguments = read_arguments(config)[1]
    rule = arguments.pop("rule")
    check_rule_type(where, rule)
    if made.rule_type is None:
        return made(vc, rule, **arguments)
    if type(rule) is not made.rule_type:
        raise ConfigError(message(where, f"{entry.name} has another rule.", made.rule_type.__name__, f"{rule!r}"))
    return made(vc, **rule._fields(), **arguments)


def optimizer(
    rule: Rule,
    lr: Any = None,
    dynamic: tuple[str, ...] = (),
    groups: tuple[Group, ...] = (),
    schedules: Mapping[str, Any] | None = None,
    constraints: Any = None,
) -> Any:
    """Raise: these arguments are all but one of those that an optimizer takes."""
    raise ConfigError(message("from_config", "an optimizer needs variables.", None, None,
                              "optimkit.optimizer.Optimizer.from_config(model.vars(), config)"))  # fmt: skip


def group(
    group: str,
    match: Any = None,
    rule: Rule | None = None,
    lr_scale: Any = None,
    slot_dtype: Any = None,
    frozen: bool = False,
    fallback: bool = False,
    optional: bool = False,
    hyperparameters: Mapping[str, Any] | None = None,
) -> Group:
    """Return a group; its own name is called ``group``, for in a config ``name`` is the class."""
    return Group(group, match, rule=rule, lr_scale=lr_scale, slot_dtype=slot_dtype, frozen=frozen, fallback=fallback,
                 optional=optional, **(hyperparameters or {}))  # fmt: skip


def _group_arguments(x: Group) -> dict[str, Any]:
    return {"group": x.name, "match": x.match, "rule": x.rule, "lr_scale": x.lr_scale, "slot_dtype": x.slot_dtype,
            "frozen": x.frozen, "fallback": x.fallback, "optional": x.optional,
            "hyperparameters": x.hyperparameters}  # fmt: skip


FAMILIES.append(Family(Tunable, "optimizer.", arguments_of, optimizer))
register(Group, name="optimizer.Group", arguments=_group_arguments, make=group)
register(Together, name="optimizer.Together")
register(is_vector)
