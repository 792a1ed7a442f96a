"""From objects to configs."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import Any

from optimkit.config import registry
from optimkit.config.values import problem, written
from optimkit.errors import ConfigError

DEEPEST = 64  # what is nested deeper holds itself, or is meant to exhaust the stack


def get_config(x: Any, *, opaque: bool = False) -> dict[str, Any]:
    """Return the config of a rule, schedule, projection, group or optimizer: a dict that goes through JSON.

    Args:
        x: the object. An optimizer is written as it is now: with the present values of its hyperparameters, and of the
            learning rate given to its constructor. Its memory is in ``opt.state_dict()``.
        opaque: whether what cannot be written, such as a lambda, is described in words in its place. Such a config is
            for people to read; :func:`from_config` refuses it.

    Returns:
        A new dict of dicts, lists, strings, numbers, bools and None; all floats in it are finite.

    Raises:
        ConfigError: something in it cannot be written: a function or a class that is not registered, a traced or a
            very large array. The message has the path to it, and what to do.

    Example:
        >>> from optimkit import rules
        >>> get_config(rules.Scaled(rules.Momentum(0.8), 0.5))["inner"]
        {'name': 'Momentum', 'momentum': 0.8, 'nesterov': False, 'slot_dtype': None}
    """
    where = f"get_config({type(x).__name__})"
    config = _Writer(where, opaque).write(x, "", 0)
    if not isinstance(config, dict) or "name" not in config:
        raise problem(where, "", "is a value that has no config of its own.", "a rule, schedule, projection, ...",
                      repr(x))  # fmt: skip
    return config


class _Writer:
    """Writes one object."""

    def __init__(self, where: str, opaque: bool):
        self.where, self.opaque = where, opaque

    def write(self, x: Any, path: str, depth: int) -> Any:
        """Return a value as JSON has it, or in words where that is allowed."""
        try:
            return self._write(x, path, depth)
        except ConfigError:
            if not self.opaque:
                raise
            return {"name": "repr", "repr": in_words(x)}

    def _write(self, x: Any, path: str, depth: int) -> Any:
        if depth > DEEPEST:
            raise problem(self.where, path, "is nested too deeply.", f"at most {DEEPEST} levels", "more")
        plain = written(self.where, path, x)
        if plain is not NotImplemented:
            return plain
        if type(x) in (tuple, list):
            items = [self.write(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(x)]
            return items if type(x) is tuple else {"name": "list", "items": items}
        if type(x) is dict:
            return self._dict(x, path, depth)
        if isinstance(x, type):
            return {"name": "type", "type": self._entry(x, path).name}
        if isinstance(x, types.FunctionType | types.BuiltinFunctionType) or registry.entry_of(x) is not None:
            return {"name": self._entry(x, path).name}
        return self._object(x, path, depth)

    def _dict(self, x: dict[Any, Any], path: str, depth: int) -> dict[str, Any]:
        if all(type(key) is str for key in x) and "name" not in x:
            return {key: self.write(value, below(path, key), depth + 1) for key, value in x.items()}
        pairs = [self.write(pair, f"{path}[{i}]", depth + 1) for i, pair in enumerate(x.items())]
        return {"name": "dict", "items": pairs}

    def _object(self, x: Any, path: str, depth: int) -> dict[str, Any]:
        kind = type(x)
        entry, arguments = registry.entry_of(kind), None
        if entry is not None:
            arguments = entry.arguments
        elif self.opaque:
            arguments = unregistered_arguments(kind)
        if arguments is None:
            self._entry(kind, path)
            raise problem(self.where, path, f"is an object of {kind.__name__}, of which only the class can be written.",
                          "a value", repr(x))  # fmt: skip
        name = registry.name_of(kind) if entry is None else entry.name
        try:
            values = arguments(x)
        except AttributeError as error:
            raise problem(self.where, path, f"does not keep its arguments: {error}.", None, None,
                          f"Keep each argument of {kind.__name__} in an attribute of its name.") from error  # fmt: skip
        config = {key: self.write(value, below(path, key), depth + 1) for key, value in values.items()}
        return {"name": name, **config}

    def _entry(self, x: Any, path: str) -> registry.Entry:
        """Return the entry of a class or function, or raise where it has none."""
        entry = registry.entry_of(x)
        if entry is not None:
            return entry
        name = getattr(x, "__qualname__", type(x).__name__)
        if isinstance(x, type):
            what, fix = "is of the class {}, which is not registered.", f"optimkit.config.register({x.__name__})"
        elif "<lambda>" in name:
            what = "is a lambda, which has no name."
            fix = "Use a regular expression or a schedule, or give a function by name: optimkit.config.register(f)."
        else:
            what, fix = "is the function {}, which is not registered.", f"optimkit.config.register({name})"
        raise problem(self.where, path, what.format(name), "what optimkit.config.registered() has", in_words(x), fix)


def below(path: str, key: str) -> str:
    """Return the path of a key.

    Example:
        >>> below("rules[0]", "inner"), below("", "inner")
        ('rules[0].inner', 'inner')
    """
    return f"{path}.{key}" if path else key


def unregistered_arguments(kind: type) -> Callable[[Any], Any] | None:
    """Return how objects of a class that is not registered are described, if its kind is known."""
    family, names = registry.family_of(kind), registry.fields_of(kind)
    if family is not None and family.arguments is not None:
        return family.arguments
    if names is None or "name" in names:
        return None
    return lambda x: {name: getattr(x, name) for name in names}


def in_words(x: Any) -> str:
    """Return a value as text that is the same in each process.

    Example:
        >>> in_words(lambda x: x)
        '<function <lambda>>'
    """
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(x))
    return text if len(text) <= 500 else text[:497] + "..."
