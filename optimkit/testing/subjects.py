"""What the checks run on: a rule, or an optimizer of another make behind the two functions of a rule.

The checks know rules. An optimizer of another make is given the face of one, and nothing of it is mended on the way:
what it would do to a user, it does to the checks.

==============================================  ================================================================
``rules.Adam()``, ``optimizer.Adam``            our rules, and stateful classes that name one
a class or function of a ``VarCollection``      makes an object with ``opt(lr, grads)`` and ``opt.vars()``
an object with ``init`` and ``update``          optax's form: ``update(grads, state, params) -> (updates, state)``
a pair ``(init, apply)``                        ``apply(grads, state, params) -> (state, params)``
a function with ``hyperparameters=`` given      makes one of the above from hyperparameters
==============================================  ================================================================
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optimkit.core import Module, StateVar, TrainVar, VarCollection
from optimkit.errors import CompositionError, HyperparameterError, describe, message
from optimkit.hyper import hyper
from optimkit.numerics import cast, compute_dtype
from optimkit.optimizer import Optimizer
from optimkit.rules.base import Rule, Step, Tree
from optimkit.tree import names_and_leaves

NAMES_OF_INPUTS = ("value", "grad_fn", "value_and_grad_fn", "key")


class Foreign(Rule):
    """An optimizer of another make, as a rule. ``apply`` is its own face, with nothing between it and the caller."""

    chainable = False

    def apply(self, grads: Tree, state: Tree, params: Tree, lr: Any, **inputs: Any) -> tuple[Tree, Tree]:
        """Return the next state and the new parameters, as the optimizer itself makes them."""
        raise NotImplementedError

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return how far ``apply`` goes, in the dtype of the arithmetic, and the next state."""
        inputs = {name: x for name in NAMES_OF_INPUTS if (x := getattr(step, name)) is not None}
        state, params = self.apply(step.grads, state, step.params, step.lr, **inputs)
        return jax.tree.map(_way, step.params, params), state


def _way(old: Any, new: Any) -> Any:
    dtype = compute_dtype(old.dtype)
    return cast(new, dtype) - cast(old, dtype)


class Held(Foreign):
    """A foreign optimizer that is one object, equal to itself only."""

    obj: Any
    name: str = ""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.obj is other.obj

    def __hash__(self) -> int:
        return id(self.obj)

    def __repr__(self) -> str:
        return self.name or _name_of(self.obj)


class Transformation(Held):
    """An object with optax's ``init`` and ``update``; updates are added to the parameters as ``apply_updates`` does."""

    def init(self, params: Tree) -> Tree:
        return self.obj.init(params)

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        accepted = _names_of_inputs(self.obj.update)
        inputs = {name: x for name in accepted if (x := getattr(step, name)) is not None}
        return self.obj.update(step.grads, state, step.params, **inputs)

    def apply(self, grads: Tree, state: Tree, params: Tree, lr: Any, **inputs: Any) -> tuple[Tree, Tree]:
        updates, state = self.update(Step(grads, params, lr, **inputs), state)
        moved = jax.tree.map(_add_update, params, updates, is_leaf=lambda x: x is None)
        return state, moved

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of our inputs that ``update`` names among its arguments."""
        return _names_of_inputs(self.obj.update)


def _add_update(p: Any, u: Any) -> Any:
    return p if p is None or u is None else jnp.asarray(p + u).astype(jnp.asarray(p).dtype)


def _names_of_inputs(f: Callable[..., Any]) -> tuple[str, ...]:
    """Return the inputs that a function names, and the loss where it takes any: what is behind ``**`` may need it."""
    parameters = inspect.signature(f).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return tuple(name for name in NAMES_OF_INPUTS if name in parameters or (anything and name == "value"))


class Pair(Held):
    """Two functions ``init(params)`` and ``apply(grads, state, params)``; ``lr`` is passed where ``apply`` names it."""

    def init(self, params: Tree) -> Tree:
        return _two_functions(self.obj)[0](params)

    def apply(self, grads: Tree, state: Tree, params: Tree, lr: Any, **inputs: Any) -> tuple[Tree, Tree]:
        function = _two_functions(self.obj)[1]
        if "lr" in inspect.signature(function).parameters:
            inputs["lr"] = lr
        state, new = function(grads, state, params, **inputs)
        structure: Any = jax.tree.structure(params)
        if jax.tree.structure(new) != structure:
            raise CompositionError(message(repr(self), "apply does not return parameters as its second value.",
                                           "apply(grads, state, params) -> (state, params)",
                                           jax.tree.structure(new)))  # fmt: skip
        return state, new

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of our inputs that ``apply`` names among its arguments."""
        return _names_of_inputs(_two_functions(self.obj)[1])

    def __repr__(self) -> str:
        return self.name or f"({', '.join(map(_name_of, _two_functions(self.obj)))})"


def _two_functions(obj: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return (obj[0], obj[1]) if isinstance(obj, tuple) else (obj.init, obj.apply)


class Imperative(Held):
    """A class, or a function, that makes a stateful optimizer from a collection of variables.

    Its state is the values of its variables beyond the parameters. Each step makes a new object: what it remembers
    elsewhere than in variables is lost, as it would be in a compiled program or a checkpoint.
    """

    def made(self, params: Tree) -> tuple[VarCollection, Any, VarCollection]:
        """Return new variables for parameters, an optimizer of them, and the variables of its own."""
        names, leaves, _ = names_and_leaves(params)
        model = VarCollection((name, TrainVar(jnp.asarray(p))) for name, p in zip(names, leaves, strict=True))
        opt = self.obj(model)
        everything = (model + opt.vars()).unique()
        own = VarCollection((name, v) for name, v in everything.items() if name not in set(model.keys()))
        return model, opt, own

    def init(self, params: Tree) -> Tree:
        return {name: v.value for name, v in self.made(params)[2].items()}

    def apply(self, grads: Tree, state: Tree, params: Tree, lr: Any, **inputs: Any) -> tuple[Tree, Tree]:
        model, opt, own = self.made(params)
        for name, var in own.items():
            if isinstance(var, StateVar):
                var.value = state[name]
        opt(lr, jax.tree.leaves(grads, is_leaf=lambda x: x is None), **inputs)
        structure: Any = jax.tree.structure(params)
        moved = structure.unflatten([v.value for v in model.values()])
        return {name: v.value for name, v in own.items()}, moved


class Made(Foreign):
    """What a function makes from hyperparameters; each call of :func:`made_of` has a subclass of its own."""

    make: ClassVar[Callable[..., Any]]

    def __post_init__(self) -> None:
        # Whether a value is out of range is for the function to say; it must name it, as our constructors do.
        try:
            self.made()
        except Exception as error:
            raise HyperparameterError(f"{type(self).__name__}: {type(error).__name__}: {error}") from error

    def made(self) -> Rule:
        """Return the subject for the object that the function returns."""
        return subject(type(self).make(**self._fields()))

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the object needs."""
        return self.made().needs

    def init(self, params: Tree) -> Tree:
        return self.made().init(params)

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        return self.made().update(step, state)

    def apply(self, grads: Tree, state: Tree, params: Tree, lr: Any, **inputs: Any) -> tuple[Tree, Tree]:
        return self.made().apply(grads, state, params, lr, **inputs)  # type: ignore[attr-defined]


def made_of(make: Callable[..., Any], hyperparameters: Mapping[str, tuple[Any, Any]]) -> Rule:
    """Return what a function makes from hyperparameters, as a rule that has these.

    Args:
        make: the function, such as ``optax.adam``.
        hyperparameters: by name, the value and the domain: ``{"b1": (0.9, "[0, 1)")}``, see ``optimkit.hyper``.

    Example:
        >>> from optimkit import rules
        >>> made_of(lambda b: (lambda p: {}, lambda g, s, p: (s, p)), {"b": (0.9, "[0, 1)")})
        <lambda>(b=0.9)
    """
    space: dict[str, Any] = {name: hyper(value, domain, "") for name, (value, domain) in hyperparameters.items()}
    annotations = dict.fromkeys(hyperparameters, Any)
    space |= {"__annotations__": annotations, "__module__": __name__, "make": staticmethod(make)}
    return type(_name_of(make), (Made,), space)()


def _name_of(f: Any) -> str:
    return _name_of(f.func) if isinstance(f, functools.partial) else getattr(f, "__name__", type(f).__name__)


def subject(obj: Any, hyperparameters: Mapping[str, tuple[Any, Any]] | None = None, *, name: str = "") -> Rule:
    """Return an optimizer as what the checks run on: a rule, or one of another make with the face of a rule.

    Args:
        obj: the optimizer; this module's docstring lists the kinds.
        hyperparameters: for a function that makes one, its arguments: ``{"b1": (0.9, "[0, 1)")}``.
        name: what messages call one of another make.

    Raises:
        CompositionError: it is none of these.
    """
    if hyperparameters is not None:
        return made_of(obj, hyperparameters)
    if isinstance(obj, Rule):
        return obj
    if isinstance(obj, Optimizer) and type(obj).__call__ is Optimizer.__call__:
        return obj.rule
    if isinstance(obj, type):
        if issubclass(obj, Optimizer) and obj.rule_type is not None and obj.__call__ is Optimizer.__call__:
            return obj.rule_type()
        if issubclass(obj, Rule):
            return obj()
        if issubclass(obj, Module):
            return Imperative(obj, name)
    elif _has(obj, "init", "update"):
        return Transformation(obj, name)
    elif _has(obj, "init", "apply") or (isinstance(obj, tuple) and len(obj) == 2 and all(map(callable, obj))):
        return Pair(obj, name)
    elif inspect.isfunction(obj) or isinstance(obj, functools.partial):
        return Imperative(obj, name) if _takes_variables(obj) else subject(obj(), name=name)
    raise CompositionError(message(
        "subject", "this is no optimizer that the checks know.",
        "a rule; a class or function of a VarCollection; an object with init and update; a pair (init, apply)",
        describe(obj), "Give a function that makes one by hyperparameters={name: (value, domain)}."))  # fmt: skip


def _has(obj: Any, *names: str) -> bool:
    return all(callable(getattr(obj, name, None)) for name in names)


def _takes_variables(make: Callable[..., Any]) -> bool:
    """Tell whether a function has an argument without default: for the variables. Others make what needs none."""
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
               for p in inspect.signature(make).parameters.values())  # fmt: skip
