"""From configs to objects. A config may come from anyone: nothing in it is run, imported, or taken to be right."""

from __future__ import annotations

import inspect
from typing import Any

from optimkit.config import registry
from optimkit.config.registry import Entry, suggestion
from optimkit.config.values import READERS, problem
from optimkit.config.writing import DEEPEST, below
from optimkit.errors import OptimkitError

WHERE = "from_config"


def from_config(config: dict[str, Any]) -> Any:
    """Return the object that a config describes, equal to the one that it was taken from.

    Args:
        config: what :func:`get_config` returned, or JSON that was made from it, or the like written by hand: keys that
            are missing take the defaults of their arguments.

    Raises:
        UnknownNameError: a name is not registered; it lists those that are.
        ConfigError: it is no config, a key is unknown or missing, or it is the config of an optimizer, which needs
            variables: ``Optimizer.from_config(vc, config)``.
        HyperparameterError: a value is out of range, as for the constructor.

    Example:
        >>> from_config({"name": "Chain", "rules": [{"name": "ClipByGlobalNorm"}, {"name": "Lion", "beta2": 0.95}]})
        Chain(ClipByGlobalNorm(max_norm=1.0), Lion(beta1=0.9, beta2=0.95, weight_decay=0.0))
    """
    checked(config)
    return read(config, "", 0)


def checked(config: Any) -> None:
    """Raise unless a value is a dict with a name."""
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        raise problem(WHERE, "", "is no config.", "a dict with the key 'name'", repr(config)[:200])


def read_arguments(config: Any) -> tuple[Entry, dict[str, Any]]:
    """Return the entry of a config's name and its arguments, read, without making an object of them."""
    checked(config)
    entry = registry.find(WHERE, config["name"])
    return entry, _arguments(entry, config, "", 0)


def read(x: Any, path: str, depth: int) -> Any:
    """Return the value that JSON stands for."""
    if x is None or type(x) in (bool, int, float, str):
        return x
    if depth > DEEPEST:
        raise problem(WHERE, path, "is nested too deeply.", f"at most {DEEPEST} levels", "more")
    if isinstance(x, list | tuple):
        return tuple(read(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(x))
    if not isinstance(x, dict) or not all(type(key) is str for key in x):
        raise problem(WHERE, path, "is no value of JSON.", "a dict with strings as keys, a list, a string, a number",
                      repr(x)[:200])  # fmt: skip
    if "name" not in x:
        return {key: read(value, below(path, key), depth + 1) for key, value in x.items()}
    return _named(x, path, depth)


def _named(x: dict[str, Any], path: str, depth: int) -> Any:
    name = x["name"]
    if not isinstance(name, str):
        raise problem(WHERE, path, "has a name that is no string.", "a string", repr(name)[:200])
    where = f"{WHERE}: {path}" if path else WHERE
    given = {key: value for key, value in x.items() if key != "name"}
    if name in READERS:
        _check_keys(name, given, path, *_of_reader(name))
        return READERS[name](WHERE, path, **given)
    if name in CONTAINERS:
        _check_keys(name, given, path, [CONTAINERS[name]], [CONTAINERS[name]])
        return _contained(name, given[CONTAINERS[name]], path, depth)
    entry = registry.find(where, name)
    if entry.make is None:
        if isinstance(entry.target, type):
            raise problem(WHERE, path, f"is {name!r}, of which only the class can be read.",
                          {"name": "type", "type": name}, x)  # fmt: skip
        _check_keys(name, given, path, [], [])
        return entry.target
    return _made(entry, _arguments(entry, x, path, depth), path)


def _of_reader(name: str) -> tuple[list[str], list[str]]:
    parameters = list(inspect.signature(READERS[name]).parameters.values())[2:]
    return [p.name for p in parameters], [p.name for p in parameters if p.default is p.empty]


CONTAINERS = {"list": "items", "dict": "items", "type": "type", "repr": "repr"}


def _contained(name: str, x: Any, path: str, depth: int) -> Any:
    if name == "repr":
        raise problem(WHERE, path, "is only described in this config.", None, None,
                      f"It was {x!r}. It could not be written: see get_config(..., opaque=False).")  # fmt: skip
    if name == "type":
        entry = registry.find(f"{WHERE}: {path}" if path else WHERE, x) if isinstance(x, str) else None
        if entry is None or not isinstance(entry.target, type):
            raise problem(WHERE, path, "is no class.", "the name of a class", repr(x)[:200])
        return entry.target
    items = read(x, path, depth + 1)
    pairs = isinstance(items, tuple) and (name == "list" or all(isinstance(i, tuple) and len(i) == 2 for i in items))
    if not pairs:
        raise problem(WHERE, path, f"is no {name}.", "a list" + " of pairs" * (name == "dict"), repr(x)[:200])
    if name == "list":
        return list(items)
    try:
        return dict(items)
    except TypeError as error:
        raise problem(WHERE, path, f"is no dict: {error}.") from error


def _arguments(entry: Entry, config: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
    given = {key: value for key, value in config.items() if key != "name"}
    _check_keys(entry.name, given, path, *entry.keys())
    return {key: read(value, below(path, key), depth + 1) for key, value in given.items()}


def _check_keys(name: str, given: dict[str, Any], path: str, known: list[str], compulsory: list[str]) -> None:
    """Raise unless the keys of a config are among those known, and those that it cannot do without are there."""
    expected = "one of " + ", ".join(map(repr, known)) if known else "no keys but 'name'"
    for key in given:
        if key not in known:
            raise problem(WHERE, f"{path}: {name}" if path else name, f"has no argument {key!r}.", expected, repr(key),
                          suggestion(key, known))  # fmt: skip
    missing = [key for key in compulsory if key not in given]
    if missing:
        raise problem(WHERE, f"{path}: {name}" if path else name, f"lacks the key {missing[0]!r}.",
                      ", ".join(map(repr, compulsory)), ", ".join(map(repr, given)) or "none")  # fmt: skip


def _made(entry: Entry, arguments: dict[str, Any], path: str) -> Any:
    make: Any = entry.make
    try:
        return make(**arguments)
    except OptimkitError as error:
        if path:
            error.add_note(f"This is {path} of a config.")
        raise
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise problem(WHERE, path, f"cannot be made: {entry.name} does not take these arguments.", None, None,
                      f"{type(error).__name__}: {error}") from error  # fmt: skip
