"""The memory of an optimizer as a dict of NumPy arrays, by parameter, and back.

``io`` saves whole collections of variables in files. This is for those who keep state in files or messages of their
own: a nested dict in which a person finds what they look for, without a class of optimkit or JAX in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.config import get_config
from optimkit.core import BaseVar, TrainRef
from optimkit.core.collection import store
from optimkit.errors import DTypeError, OptimkitError, StructureError, VariableError, describe, message
from optimkit.rules.base import Rule
from optimkit.rules.compose import Chain, Composed, Partition
from optimkit.rules.naming import StateName
from optimkit.rules.wrappers import Masked

Path = tuple[str, ...]
# A small matrix, by which rules are asked what they remember.
PROBE = {"x": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
ABOUT = ("rules", "config")  # what is in a state dict beside arrays


def state_dict(opt: Any) -> dict[str, Any]:
    """Return the memory of an optimizer; see ``Optimizer.state_dict``."""
    result: dict[str, Any] = {"state": {}, "shared": {}, "hyper": {}, "clock": None, "variables": {}}
    for path, var in places(opt).items():
        inside = result
        for key in path[:-1]:
            inside = inside.setdefault(key, {})
        inside[path[-1]] = on_host(path, var)
    return {**result, "rules": remembering_of(opt), "config": get_config(opt, opaque=True)}


def load_state_dict(opt: Any, given: Mapping[str, Any], other_rule: bool) -> None:
    """Take over the memory of an optimizer, all of it or nothing; see ``Optimizer.load_state_dict``."""
    where = f"optimizer.{type(opt).__name__}.load_state_dict"
    if not isinstance(given, Mapping):
        raise StructureError(message(where, "this is no state.", "what state_dict returned", describe(given)))
    own, found = places(opt), dict(_flat(where, given))
    missing = [f"missing     {shown(path)}, {describe(var.value)}" for path, var in own.items() if path not in found]
    unexpected = [f"unexpected  {shown(path)}" for path in found if path not in own]
    both = {path: (var, found[path]) for path, var in own.items() if path in found}
    shapes = [_difference(path, v.value, x) for path, (v, x) in both.items() if _shape(x) != v.shape]
    dtypes = [_difference(path, v.value, x) for path, (v, x) in both.items()
              if _shape(x) == v.shape and _dtype(x) != v.dtype]  # fmt: skip
    theirs, ours = given.get("rules"), remembering_of(opt)
    other = [] if other_rule or theirs is None or list(theirs) == ours else [
        f"written by  {', '.join(map(str, theirs))}\nfor         {', '.join(ours)}\n"
        "If one is meant to go on with the other's memory: load_state_dict(state, other_rule=True)."]  # fmt: skip
    lines = [*missing, *unexpected, *shapes, *dtypes, *other]
    if lines:
        kind = DTypeError if len(lines) == len(dtypes) else StructureError
        raise kind("\n".join([f"{where}: the state does not fit, and nothing of it is taken over.",
                              *(f"  {line}" for part in lines for line in part.split("\n"))]))  # fmt: skip
    values = [v.checked(_on_device(x, v.value)) for v, x in both.values()]
    store([v._buffer for v, _ in both.values()], values)


# --- names ------------------------------------------------------------------------------------------------------------


def places(opt: Any) -> dict[Path, BaseVar]:
    """Return the variables of an optimizer by their places in its state dict."""
    found: dict[Path, BaseVar] = dict(zip(_paths(opt._names), opt._state.values(), strict=True))
    prefix = len(f"({type(opt).__name__}).")
    found |= {("hyper", name[prefix:]): var for name, var in opt._dynamic.items()}
    if opt._schedules:
        found[("clock",)] = opt.clock
    # What is left has its whole name: variables of a subclass, and one of two arrays that dots in names give one place.
    known = {id(v._buffer) for v in found.values()}
    others = opt.vars().subset(is_not=TrainRef).unique()
    return found | {("variables", name[prefix:]): v for name, v in others.items() if id(v._buffer) not in known}


def _paths(names: Sequence[StateName]) -> list[Path]:
    """Return the places of a rule's arrays: by their last names, and by longer ones where those are not unique."""
    keys = list(map(_short, names))
    count = Counter((n.param, key) for n, key in zip(names, keys, strict=True))
    twice = {(param is None, key) for (param, key), n in count.items() if n > 1}
    keys = [_full(n) if (n.param is None, key) in twice else key for n, key in zip(names, keys, strict=True)]
    return [("shared", key) if n.param is None else ("state", n.param, key) for n, key in zip(names, keys, strict=True)]


def _short(name: StateName) -> str:
    return ".".join(name.after) or "".join(name.before[-1:]) or "value"


def _full(name: StateName) -> str:
    return ".".join(x for x in (*name.before, *name.after) if x) or "value"


def _flat(where: str, given: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Yield the arrays of a state dict with their places."""
    for section, x in given.items():
        depth = {"state": 2, "clock": 0}.get(section, 1)
        if section not in ABOUT and not (section == "clock" and x is None):
            yield from _leaves(where, (section,), x, depth)


def _leaves(where: str, path: Path, x: Any, depth: int) -> Iterator[tuple[Path, Any]]:
    if not depth:
        yield path, x
        return
    if not isinstance(x, Mapping):
        raise StructureError(message(where, f"{shown(path)} is no mapping.", "arrays by name", describe(x)))
    for key, inner in x.items():
        yield from _leaves(where, (*path, key), inner, depth - 1)


def shown(path: Path) -> str:
    """Return a place as a person would index it.

    Example:
        >>> shown(("state", "conv.w", "mu"))
        "state['conv.w']['mu']"
    """
    return path[0] + "".join(f"[{key!r}]" for key in path[1:])


# --- arrays -----------------------------------------------------------------------------------------------------------


def on_host(path: Path, var: BaseVar) -> Any:
    """Return the array of a variable as NumPy's, a copy; of a random key its data, with the name of its kind."""
    x = var.value
    if isinstance(x, jax.core.Tracer):
        raise VariableError(message("state_dict", f"{shown(path)} is traced, so that it has no value yet.", None, None,
                                    "Call it outside of the function that is compiled."))  # fmt: skip
    if x.is_deleted() or not (x.is_fully_addressable or x.is_fully_replicated):
        problem = "was given away to a call with donate=True" if x.is_deleted() else "lies on several hosts"
        raise VariableError(message("state_dict", f"{shown(path)} {problem}.", "an array that can be read",
                                    describe(x)))  # fmt: skip
    if _is_key(x):
        return {"impl": str(jax.random.key_impl(x)), "data": np.array(jax.random.key_data(x))}
    return np.array(x)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _array(x: Any) -> Any:
    """Return what is given for a variable as an array, or None where it is none."""
    if isinstance(x, Mapping) and x.keys() == {"impl", "data"}:
        try:
            return jax.random.wrap_key_data(jnp.array(np.asarray(x["data"])), impl=x["impl"])
        except (TypeError, ValueError):
            return None
    return x if isinstance(x, np.ndarray | np.generic | jax.Array) else None


def _shape(x: Any) -> Any:
    x = _array(x)
    return None if x is None else x.shape


def _dtype(x: Any) -> Any:
    return _array(x).dtype


def _difference(path: Path, old: Any, x: Any) -> str:
    array = _array(x)
    return f"differs     {shown(path)}: expected {describe(old)}, got {describe(x if array is None else array)}"


def _on_device(x: Any, old: jax.Array) -> jax.Array:
    """Return an array of JAX beside the old one, that shares no memory with the one given."""
    if isinstance(old, jax.core.Tracer):
        raise VariableError(message("load_state_dict", "the optimizer is part of a function that is compiled.", None,
                                    None, "Call it outside of that function."))  # fmt: skip
    x = _array(x)
    new = jnp.array(x if _is_key(x) else np.asarray(x), copy=True)
    return jax.device_put(new, old.sharding) if old.committed else new


# --- what remembers ---------------------------------------------------------------------------------------------------


def remembering_of(opt: Any) -> list[str]:
    """Return the classes of an optimizer's rules that remember something; those of groups after the group's name."""
    plan = opt._plan
    shared = remembering(opt._rule) if not plan.groups or plan._rest.names else []
    return [*shared, *(f"{g}.{name}" for g in plan._own for name in remembering(plan.groups[g].rule))]


def remembering(rule: Rule) -> list[str]:
    """Return the classes of the rules inside one that remember something, by which a state knows whose it is.

    Example:
        >>> from optimkit import rules
        >>> remembering(rules.Chain(rules.ClipByGlobalNorm(), rules.AdamW())), remembering(rules.Adam())
        (['Adam'], ['Adam'])
    """
    if isinstance(rule, Composed):
        return remembering(rule.compose())
    inside = rule.rules if isinstance(rule, Chain | Partition) else [x for x in rule._fields().values()
                                                                     if isinstance(x, Rule)]  # fmt: skip
    own = [] if isinstance(rule, Chain | Partition | Masked) or _size(rule) <= sum(map(_size, inside)) else [
        type(rule).__name__]  # fmt: skip
    return own + [name for part in inside for name in remembering(part)]


def _size(rule: Rule) -> float:
    """Return the number of arrays that a rule remembers of a matrix, infinity where it does not take one."""
    try:
        return len(jax.tree.leaves(jax.eval_shape(rule.init, PROBE)))
    except (OptimkitError, TypeError, ValueError):
        return float("inf")
