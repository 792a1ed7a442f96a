"""What stands between a rule and variables: which gradient belongs to which parameter, and where state begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from optimkit.core import StateVar
from optimkit.core.variable import reduce_first, reduce_mean, unwrap
from optimkit.errors import DTypeError, HyperparameterError, StructureError, describe, message
from optimkit.hyper import hyperparameters
from optimkit.placement import put
from optimkit.pure import check_grad
from optimkit.rules import lookup
from optimkit.rules.base import Rule


def bound_grads(where: str, grads: Any, params: dict[str, Any]) -> dict[str, jax.Array]:
    """Return gradients by name, or raise where they do not fit the parameters one by one."""
    names = list(params)
    if isinstance(grads, Mapping):
        given = list(grads.keys())
        missing, unknown = [n for n in names if n not in given], [n for n in given if n not in params]
        if missing or unknown:
            raise StructureError(message(
                where, "the names of the gradients are not those of the variables.", names, given,
                f"Missing: {missing}. Unknown: {unknown}."))  # fmt: skip
        named = {n: grads[n] for n in names}
    elif isinstance(grads, list | tuple):
        if len(grads) != len(names):
            raise StructureError(message(
                where, "the number of gradients is not the number of variables.",
                f"{len(names)} gradients, for {', '.join(map(repr, names))}", f"{len(grads)}",
                "Take gradients with respect to the collection that the optimizer was made from."))  # fmt: skip
        named = dict(zip(names, grads, strict=True))
    else:
        raise StructureError(message(where, "the gradients are neither a list nor a mapping.",
                                     f"a list of {len(names)} arrays", type(grads).__name__))  # fmt: skip
    named = {name: unwrap(g) for name, g in named.items()}
    for name, g in named.items():
        if g is not None and not _is_array(g):
            raise DTypeError(message(where, f"the gradient of {name!r} is not an array.", describe(params[name]),
                                     describe(g)))  # fmt: skip
        check_grad(where, name, g, params[name])
    return {name: jnp.asarray(g) for name, g in named.items()}


def _is_array(x: Any) -> bool:
    numbers_of_numpy = isinstance(x, np.ndarray | np.generic) and x.dtype.kind not in "OSUMm"
    return numbers_of_numpy or isinstance(x, jax.Array | bool | int | float | complex)


def state_var(x: jax.Array, place: Sharding | None) -> StateVar:
    """Make a state variable, beside the parameters; copies of it reduce to their mean, those of counters to one."""
    x = put(x, place)
    return StateVar(x, reduce_mean if jnp.issubdtype(x.dtype, jnp.floating) else reduce_first)


def rule_and_lr(rule: Any = None, lr: Any = None, **unknown: Any) -> tuple[Any, Any]:
    """Return the arguments of the constructor that takes a rule, or raise where there are others."""
    if unknown:
        raise HyperparameterError(message(
            "optimizer.Optimizer", f"there is no argument {next(iter(unknown))!r}.", "rule, lr, dynamic",
            ", ".join(map(repr, unknown)), "Give hyperparameters to the rule: Optimizer(vc, rules.Adam(beta1=0.8))."
        ))  # fmt: skip
    return rule, lr


def dynamic_value(where: str, rule: Rule, name: str) -> jax.Array:
    """Return the present value of a hyperparameter that is to be dynamic, or raise where it is no real number."""
    path, field = lookup.find(where, rule, name)
    holder = lookup.at(rule, path)
    domain, value = hyperparameters(holder)[field].metadata["domain"], getattr(holder, field)
    if value is None or not isinstance(domain, str) or domain.startswith("int "):
        raise HyperparameterError(message(
            where, f"hyperparameter {name!r} cannot be dynamic.", "one that is a real number", f"{value!r}",
            "Leave it out of dynamic=(...): it is a constant of compiled programs."))  # fmt: skip
    return jnp.float32(value)


def unshared(leaves: Sequence[Any], params: Iterable[jax.Array]) -> list[jax.Array]:
    """Copy what lies in a parameter or in an earlier leaf: donated memory cannot be given away twice."""
    taken, result = {id(p) for p in params}, []
    for x in map(jnp.asarray, leaves):
        result.append(jnp.copy(x) if id(x) in taken else x)
        taken.add(id(x))
    return result


def check_structure(where: str, rule: Rule, what: str, got: Any, expected: Any) -> None:
    """Raise unless what a rule returned has the structure that it must have."""
    if got != expected:
        raise StructureError(message(
            where, f"{type(rule).__name__} returned a {what} of another structure.", expected, got,
            "update(step, state) must return the displacement, a tree as step.params, and a state as init returned."
        ))  # fmt: skip
