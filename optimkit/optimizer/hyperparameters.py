"""The hyperparameters of an optimizer: what they are now, and how they change between steps.

Each is one of three: a *constant* of compiled programs; *dynamic*, a float32 state variable that can be assigned
without a new compile; or *scheduled*, a function of the step. All schedules of an optimizer share one clock, a state
variable that counts its steps from 0. The learning rate of ``step`` is dynamic or scheduled.

A name is that of the rule's field, ``"beta1"``; with the rule's class before it where two rules have one,
``"Adam.beta1"``; and with a group before that, ``"head.beta1"``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from optimkit.core import BaseVar, Module, StateVar, VarCollection
from optimkit.core.variable import unwrap
from optimkit.errors import CompositionError, HyperparameterError, MissingInputError, message
from optimkit.hyper import check_lr, hyperparameters
from optimkit.numerics import cast
from optimkit.optimizer.groups import LR_SCALE, REST, Plan, Target
from optimkit.pure import as_scalar
from optimkit.rules import lookup
from optimkit.rules.base import Rule
from optimkit.rules.following import Function, check_real, check_values, scalar


class Tunable(Module):
    """Base of the optimizers: hyperparameters as attributes, dynamic ones, schedules, and values for one call."""

    _rule: Rule  # with constants in it; those of groups are in the plan
    _plan: Plan
    _dynamic: VarCollection  # under their names in vars()
    _schedules: dict[str, Function]  # that of the learning rate is called "lr"
    _changing: dict[Target, str]  # what is not a constant, and its name
    _compiled: bool
    clock: StateVar  # where there are schedules

    def _params(self) -> dict[str, jax.Array]:
        raise NotImplementedError

    def _tune(self, where: str, dynamic: tuple[str, ...], schedules: dict[str, Function]) -> dict[str, jax.Array]:
        """Find out which hyperparameters change, and return the dynamic ones' values by name."""
        self._compiled, self._schedules, self._changing = False, schedules, {}
        for name in [*dynamic, *schedules]:
            target = self._plan.target(where, self._rule, name)
            if target in self._changing:
                raise HyperparameterError(message(
                    where, f"hyperparameter {name!r} changes in two ways.", "dynamic or a schedule, once",
                    f"{self._changing[target]!r} and {name!r}"))  # fmt: skip
            how = "cannot follow a schedule" if name in schedules else "cannot be dynamic"
            self._check_number(where, name, target, how)
            self._changing[target] = name
            if name in schedules:
                self._check_schedule(where, target, schedules[name])
        values = {target: self._plan.constant(self._rule, target) for target in self._changing}
        return {name: jnp.float32(values[t]) for t, name in self._changing.items() if name not in schedules}

    def _check_number(self, where: str, name: str, target: Target, how: str) -> None:
        """Raise unless a hyperparameter is a real number, so that it can be data of a compiled program."""
        if target.group and target.field == LR_SCALE:
            return
        holder = lookup.at(self._plan.rule_of(target.group, self._rule), target.path)
        domain, value = hyperparameters(holder)[target.field].metadata["domain"], getattr(holder, target.field)
        check_real(where, name, domain, self._plan.constants.get(target, value), how)

    def _check_schedule(self, where: str, target: Target, schedule: Function) -> None:
        """Raise where a schedule leaves the range of its hyperparameter, as far as looking at some steps can tell."""
        check_values(where, target.field, schedule, lambda x: self._plan.checked(where, self._rule, target, x))

    # --- values ---------------------------------------------------------------------------------------------------

    def _present(self, groups_only: bool = False) -> dict[Target, Any]:
        """Return the values of the hyperparameters that are not constants."""
        return {target: self._value(target) for target in self._changing if target.group or not groups_only}

    def _value(self, target: Target) -> Any:
        name = self._changing.get(target)
        if name is None:
            return self._plan.constant(self._rule, target)
        if name in self._schedules:
            value = scalar(f"optimizer.{type(self).__name__}", name, self._schedules[name](self.clock.value))
            return as_scalar(value, self._params())
        return self._dynamic_var(name).value  # type: ignore[union-attr]

    def _rule_now(self, where: str = "", hyper_params: Any = None, overrides: Mapping[str, Any] | None = None) -> Rule:
        """Return one rule for all variables that step, with the values of this step."""
        given, rule = dict(overrides or {}), self._rule
        if isinstance(hyper_params, Rule):
            check_same_make(where, rule, hyper_params)
            rule = hyper_params
        elif hyper_params is not None:
            if not isinstance(hyper_params, Mapping):
                raise HyperparameterError(message(where, "hyper_params are neither a rule nor a mapping.",
                                                  f"{type(rule).__name__}(...), or values by name",
                                                  repr(hyper_params)))  # fmt: skip
            given = {**hyper_params, **{name: x for name, x in given.items() if x is not None}}
        values = self._present(groups_only=rule is not self._rule)
        for name, x in given.items():
            if x is not None:
                values[self._plan.target(where, self._rule, name)] = unwrap(x)
        return self._plan.rule(where or type(self).__name__, rule, values)

    @property
    def rule(self) -> Rule:
        """The rule, with the present values of its hyperparameters; one for all groups together."""
        return self._rule_now()

    @property
    def group_of(self) -> dict[str, str]:
        """The name of each variable's group, ``"default"`` where no group takes it."""
        return dict(self._plan.group_of)

    def group(self, name: str) -> GroupValues:
        """Return the hyperparameters of a group, as attributes: ``opt.group("head").lr_scale``.

        Raises:
            HyperparameterError: there is no such group.
        """
        if name not in (REST, *self._plan.groups):
            raise HyperparameterError(message(f"optimizer.{type(self).__name__}", f"there is no group {name!r}.",
                                              "one of " + ", ".join(map(repr, (REST, *self._plan.groups))),
                                              repr(name)))  # fmt: skip
        return GroupValues(self, name)

    # --- as attributes --------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        rule: Any = self.__dict__.get("_rule")
        if rule is None or name.startswith("_") or name not in lookup.names_of(rule):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._value(self._plan.target("", rule, name))

    def __setattr__(self, name: str, value: Any) -> None:
        rule: Any = self.__dict__.get("_rule")
        known = rule is not None and not name.startswith("_") and name not in self.__dict__
        if not known or hasattr(type(self), name) or name not in lookup.names_of(rule):
            super().__setattr__(name, value)
        else:
            self._set(name, value)

    def _set(self, name: str, value: Any) -> None:
        where, value = f"optimizer.{type(self).__name__}", unwrap(value)
        target = self._plan.target(where, self._rule, name)
        rule = self._plan.checked(where, self._rule, target, value)  # raises if it is out of range
        changing = self._changing.get(target)
        if changing in self._schedules:
            raise HyperparameterError(message(
                where, f"{name!r} follows a schedule, so it cannot be set.", None, None,
                f"Give {name}=... to the call, for that call, or construct the optimizer with dynamic=({name!r},)."
            ))  # fmt: skip
        if changing is not None:
            self._dynamic_var(changing).assign(cast(value, jnp.float32))  # type: ignore[union-attr]
        elif self._compiled:
            raise HyperparameterError(message(
                where, f"{name!r} is a constant of programs that are compiled already.", None, None,
                f"Construct the optimizer with dynamic=({name!r},) to change it between steps."))  # fmt: skip
        elif target.group:
            self._plan.constants[target] = value
        else:
            self._rule = rule

    def _dynamic_var(self, name: str) -> BaseVar | None:
        return self._dynamic.get(f"({type(self).__name__}).{name}")

    # --- the learning rate of step --------------------------------------------------------------------------------

    @property
    def lr(self) -> Any:
        """The learning rate of the next :meth:`step`; None where the constructor was given none."""
        if "lr" in self._schedules:
            return self._schedules["lr"](self.clock.value)
        var = self._dynamic_var("lr")
        return None if var is None else var.value

    @lr.setter
    def lr(self, lr: Any) -> None:
        where, lr = f"optimizer.{type(self).__name__}.lr", unwrap(lr)
        check_lr(where, lr)
        var = self._dynamic_var("lr")
        if var is None:
            how = "follows a schedule" if "lr" in self._schedules else "was not given to the constructor"
            raise HyperparameterError(message(where, f"the learning rate {how}, so it cannot be set.", None, None,
                                              "Construct the optimizer with lr=<number>."))  # fmt: skip
        var.assign(as_scalar(lr, self._params()))

    def _own_lr(self) -> Any:
        lr = self.lr
        if lr is None and "lr" not in self._schedules:
            raise MissingInputError(message(
                f"optimizer.{type(self).__name__}", "there is no learning rate.", None, None,
                f"Give it to the constructor, {type(self).__name__}(vc, ..., lr=0.1), or to the call, opt(lr, grads)."
            ))  # fmt: skip
        return lr


class GroupValues:
    """The hyperparameters of a group, as attributes that can be read and assigned as those of the optimizer."""

    def __init__(self, optimizer: Tunable, name: str):
        self.__dict__.update(_optimizer=optimizer, _name=name)

    def __dir__(self) -> list[str]:
        return list(self._names())

    def _names(self) -> list[str]:
        plan = self._optimizer._plan
        group = plan.groups.get(self._name)
        if group is not None and group.frozen:
            return []
        names = lookup.names_of(plan.rule_of("" if group is None else self._name, self._optimizer._rule))
        return names if group is None else [LR_SCALE, *names]

    def _full(self, name: str) -> str:
        if name not in self._names():
            raise AttributeError(f"the group {self._name!r} has no hyperparameter {name!r}")
        return name if self._name == REST else f"{self._name}.{name}"

    def __getattr__(self, name: str) -> Any:
        optimizer = self._optimizer
        return optimizer._value(optimizer._plan.target("", optimizer._rule, self._full(name)))

    def __setattr__(self, name: str, value: Any) -> None:
        self._optimizer._set(self._full(name), value)

    def __repr__(self) -> str:
        return f"{self._name}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._names())})"


def check_same_make(where: str, rule: Rule, other: Rule) -> None:
    """Raise unless two rules are of the same classes in the same places, so that the state of one fits the other."""
    ours, theirs = ([(path, type(part)) for path, part in lookup.walk(x)] for x in (rule, other))
    if ours != theirs:
        raise CompositionError(message(where, "hyper_params is a rule of another make.", repr(rule), repr(other)))


def without_schedules(
    where: str, rule_type: type[Rule], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Function]]:
    """Return a rule's arguments with the value at step 0 for each schedule, and the schedules by name."""
    declared = hyperparameters(rule_type)
    positional = [f.name for f in dataclasses.fields(rule_type) if not f.kw_only]  # type: ignore[arg-type]
    given = [*zip(positional, args, strict=False), *kwargs.items()]
    found = {name: x for name, x in given if name in declared and callable(x)}
    if not found:
        return args, kwargs, {}
    start = {}
    for name, schedule in found.items():
        check_real(where, name, declared[name].metadata["domain"], schedule, "cannot follow a schedule")
        start[name] = scalar(where, name, schedule(0))
    args = tuple(start.get(positional[i], x) if i < len(positional) else x for i, x in enumerate(args))
    return args, {name: start.get(name, x) for name, x in kwargs.items()}, found
