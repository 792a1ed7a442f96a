"""What configs may name: an allow-list of classes and functions, each under one name."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from optimkit.core import BaseVar
from optimkit.errors import ConfigError, UnknownNameError, message
from optimkit.projections import Projection
from optimkit.rules import LineSearch, Rule
from optimkit.schedule import Schedule

Arguments = Callable[[Any], Mapping[str, Any]]
T = TypeVar("T")

# How configs call what JSON does not have; see `values`. They are not to be had as names.
TAGS = frozenset({"array", "complex", "dict", "dtype", "float", "list", "numpy.array", "numpy.scalar", "pattern",
                  "repr", "type"})  # fmt: skip
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
# Packages of ours that register their own when they are imported: so a name of theirs is known without an import by
# the user. It is this list that is imported from, never a name that stands in a config.
PROVIDERS = ("optimkit.contrib", "optimkit.federated")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A name of the allow-list.

    Attributes:
        name: what configs call it.
        target: the class, or the function.
        arguments: a function from an object of the class to the arguments of ``make``; None for what is a value by
            itself: functions and classes of variables.
        make: what makes an object from arguments, by keyword.
    """

    name: str
    target: Any
    arguments: Arguments | None = None
    make: Callable[..., Any] | None = None

    def keys(self) -> tuple[list[str], list[str]]:
        """Return the arguments that ``make`` takes by keyword, and those that it cannot do without."""
        parameters = inspect.signature(self.make).parameters.values() if self.make is not None else ()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return [p.name for p in named], [p.name for p in named if p.default is p.empty]


@dataclasses.dataclass(frozen=True)
class Family:
    """Classes of one base: what stands before their names, and how their objects are written and made."""

    base: type
    prefix: str
    arguments: Arguments | None = None
    make: Callable[..., Any] | None = None
    as_objects: bool = True  # False: only the classes themselves stand in configs


FAMILIES = [
    Family(Rule, ""),
    Family(LineSearch, ""),
    Family(Schedule, "schedule."),
    Family(Projection, "projections."),
    Family(BaseVar, "variable.", as_objects=False),
]
_by_name: dict[str, Entry] = {}
_by_target: dict[int, Entry] = {}  # by identity: functions may be unhashable, and equal without being the same


@overload
def register(x: T, /, *, name: str | None = None, arguments: Arguments | None = None,
             make: Callable[..., Any] | None = None) -> T: ...  # fmt: skip
@overload
def register(*, name: str | None = None, arguments: Arguments | None = None,
             make: Callable[..., Any] | None = None) -> Callable[[T], T]: ...  # fmt: skip
def register(
    x: Any = None,
    /,
    *,
    name: str | None = None,
    arguments: Arguments | None = None,
    make: Callable[..., Any] | None = None,
) -> Any:
    """Let configs name a class or a function; a decorator, or a call.

    Classes of rules, schedules, projections, line searches and optimizers, and others that are dataclasses or keep each
    argument of their constructor in an attribute of its name, need nothing more. Of a class of variables only the class
    itself is written, where a :class:`~optimkit.optimizer.Group` matches by it. A function is written as its name:
    register those that serve as schedules, matches or constraints.

    Args:
        x: the class or function.
        name: its name in configs. Without it: the name that it has in Python, after ``schedule.``, ``projections.``,
            ``optimizer.``, ``variable.`` or ``function.``, and after nothing for rules. With one of your own, such as
            ``"acme.Adam"``, no later version of optimkit can have a class of the same name.
        arguments: for a class of another kind, a function from an object to the arguments of ``make``.
        make: what makes an object from those arguments, given by keyword; the class where None.

    Returns:
        The class or function.

    Raises:
        ConfigError: the name is taken, or is none; or the class does not say how its objects are written.

    A class that is defined anew under the same name in the same module, as in a notebook, takes the place of the old.

    Example:
        >>> from optimkit import rules
        >>> @register
        ... class Halved(rules.SGD):
        ...     factor: float = rules.hyper(0.5, "(0, 1]", "what the learning rate is multiplied by")
        >>> from optimkit.config import from_config, get_config
        >>> get_config(Halved(0.25))
        {'name': 'Halved', 'factor': 0.25, 'slot_dtype': None}
        >>> from_config({"name": "Halved"})
        Halved(factor=0.5)
    """
    if x is None:
        return lambda x: register(x, name=name, arguments=arguments, make=make)
    if not callable(x):
        raise ConfigError(message("register", "only classes and functions have names.", "a class or a function",
                                  f"{type(x).__name__} {x!r}"))  # fmt: skip
    name = name_of(x) if name is None else name
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in TAGS:
        raise ConfigError(message(
            "register", f"this is no name: {name!r}.",
            "letters, digits, '_' and '.', and none of " + ", ".join(map(repr, sorted(TAGS))), repr(name),
            'Give one: register(..., name="acme.first").'))  # fmt: skip
    add(Entry(name, x, *_ways(x, arguments, make)))
    return x


def _ways(x: Any, arguments: Arguments | None, make: Any) -> tuple[Arguments | None, Any]:
    """Return how objects of a class are written and made, as far as it is not given."""
    if not isinstance(x, type):
        return None, None
    family = family_of(x)
    if arguments is None and family is not None:
        if not family.as_objects:
            return None, None
        arguments, make = family.arguments, make or family.make
    make = x if make is None else make
    return arguments or _attributes(x, make), make


def _attributes(cls: type, make: Callable[..., Any]) -> Arguments:
    """Return the function from an object to its arguments, where those are attributes."""
    parameters = inspect.signature(make).parameters
    names = fields_of(cls)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) for p in parameters.values()) or (
        names is not None and not set(names) <= parameters.keys()
    ):
        raise ConfigError(message(
            "register", f"{cls.__name__} does not say how its objects are written.",
            "a dataclass, or a constructor whose arguments are attributes", f"{cls.__name__}{inspect.signature(make)}",
            f"register({cls.__name__}, arguments=lambda x: {{...}}, make=...)"))  # fmt: skip
    if "name" in parameters:
        raise ConfigError(message(
            "register", f"{cls.__name__} has an argument 'name', which in a config is the name of the class.",
            "another name", "name", f"register({cls.__name__}, arguments=lambda x: {{'label': x.name, ...}}, "
            f"make=lambda label, ...: {cls.__name__}(label, ...))"))  # fmt: skip
    found = tuple(parameters) if names is None else names
    return lambda x: {name: getattr(x, name) for name in found}


def fields_of(cls: type) -> tuple[str, ...] | None:
    """Return the arguments of a dataclass, those by keyword only last; None for other classes."""
    if not dataclasses.is_dataclass(cls):
        return None
    return tuple(f.name for f in sorted(dataclasses.fields(cls), key=lambda f: bool(f.kw_only)) if f.init)


def family_of(cls: type) -> Family | None:
    """Return the family of a class, if it has one."""
    return next((family for family in FAMILIES if issubclass(cls, family.base)), None)


def name_of(x: Any) -> str:
    """Return what a class or a function is called where it is registered without a name."""
    own = str(getattr(x, "__name__", type(x).__name__))
    if not isinstance(x, type):
        return f"function.{own}"
    family = family_of(x)
    return own if family is None else family.prefix + own


def add(entry: Entry) -> None:
    """Add an entry to the list.

    Raises:
        ConfigError: another class or function has the name, or this one has another.
    """
    old, known = _by_name.get(entry.name), _by_target.get(id(entry.target))
    if old is not None and old.target is not entry.target and not _again(old.target, entry.target):
        raise ConfigError(message(
            "register", f"the name {entry.name!r} is taken.", "one class or function for each name",
            f"{_place(old.target)} and {_place(entry.target)}", 'Give it another: register(..., name="acme.first").'
        ))  # fmt: skip
    if known is not None and known.name != entry.name:
        raise ConfigError(message("register", f"{_place(entry.target)} has a name already.", known.name, entry.name))
    if old is not None:
        _by_target.pop(id(old.target), None)
    _by_name[entry.name] = _by_target[id(entry.target)] = entry


def _again(old: Any, new: Any) -> bool:
    """Tell whether a class or function is one that has been defined anew."""
    return "<lambda>" not in _place(old) and type(old) is type(new) and _place(old) == _place(new)


def _place(x: Any) -> str:
    return f"{getattr(x, '__module__', '')}.{getattr(x, '__qualname__', repr(x))}"


def register_public(namespace: Mapping[str, Any], *, but: Iterable[type] = ()) -> None:
    """Register the public classes of optimkit in a namespace that have a family, all but those that are only bases."""
    left_out = set(but)
    for name, x in list(namespace.items()):
        ours = isinstance(x, type) and x.__module__.startswith("optimkit.") and not name.startswith("_")
        if ours and x not in left_out and family_of(x) is not None and id(x) not in _by_target:
            register(x)


def registered() -> dict[str, Any]:
    """Return the classes and functions that configs may name, by name.

    Example:
        >>> registered()["schedule.Cosine"].__name__
        'Cosine'
    """
    _import_providers()
    return {name: _by_name[name].target for name in sorted(_by_name)}


def entry_of(x: Any) -> Entry | None:
    """Return the entry of a class or a function, if it has one."""
    return _by_target.get(id(x))


def _import_providers() -> None:
    for package in PROVIDERS:
        importlib.import_module(package)


def find(where: str, name: str) -> Entry:
    """Return the entry of a name.

    Raises:
        UnknownNameError: nothing is registered under it.
    """
    if name not in _by_name:
        _import_providers()
    if name in _by_name:
        return _by_name[name]
    family = name.rpartition(".")[0]
    alike = [known for known in sorted(_by_name) if known.rpartition(".")[0] == family] or sorted(_by_name)
    raise UnknownNameError(message(
        where, f"nothing is called {name!r}.", "one of " + ", ".join(alike), repr(name),
        suggestion(name, _by_name) or "Import what registers it, or register it: optimkit.config.register(...)."
    ))  # fmt: skip


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the question whether a name like this one was meant, or nothing.

    Example:
        >>> suggestion("beta_1", ["beta1", "beta2"])
        "Did you mean 'beta1'?"
    """
    names = list(known)
    whole = {n.lower(): n for n in names}
    last = {n.lower().rpartition(".")[2]: n for n in reversed(names)}  # the first of a name is that of a rule
    wanted = name.lower()
    same = whole.get(wanted) or last.get(wanted.rpartition(".")[2])
    near = [whole[n] for n in difflib.get_close_matches(wanted, whole, 1)]
    near += [last[n] for n in difflib.get_close_matches(wanted.rpartition(".")[2], last, 1)]
    return f"Did you mean {same or near[0]!r}?" if same or near else ""
