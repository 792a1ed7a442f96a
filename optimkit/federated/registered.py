"""Values that are known by name: plug-ins, schedulers and auxiliary variables.

A class of them declares its arguments as fields, with ``hyper``, as rules do. It becomes a frozen dataclass whose
arguments are checked, shown, compared and written to configs; under its ``name`` it is known to the others of its kind.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Self

from optimkit.config import from_config, get_config
from optimkit.config.registry import suggestion
from optimkit.errors import ConfigError, UnknownNameError, message
from optimkit.hyper import check_hyperparameters, hyperparameters, with_section

Config = dict[str, Any]


class Registered:
    """Base of the kinds. A kind is a direct subclass, with a ``kind`` and a ``_known`` of its own."""

    name: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    _known: ClassVar[dict[str, type[Any]]] = {}
    _by_value: ClassVar[bool] = True

    if TYPE_CHECKING:  # type checkers do not see the constructor that dataclass makes

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init_subclass__(cls, register: bool = True, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, eq=cls._by_value)(cls)
        fields = hyperparameters(cls)
        if fields and cls.__doc__ and "Args:" not in cls.__doc__:
            lines = (f"{name}: {f.metadata['doc']}; {_shown(f)}." for name, f in fields.items())
            cls.__doc__ = with_section(cls.__doc__, "Args", lines)
        if register:
            cls._register()

    @classmethod
    def _register(cls) -> None:
        where, name = f"federated.{cls.__name__}", cls.__dict__.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError(message(where, f"this {cls.kind} has no name.", 'name = "..." in the class', repr(name),
                                      f"A base is no {cls.kind} of its own: class {cls.__name__}(..., register=False)."
                                      ))  # fmt: skip
        old = cls._known.get(name)
        # The same class defined anew, as in a notebook, takes the place of the old one.
        if old is not None and (old.__module__, old.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(message(where, f"the name {name!r} is taken.", f"one {cls.kind} for each name",
                                      f"{old.__module__}.{old.__qualname__}", "Give it another name."))  # fmt: skip
        cls._known[name] = cls

    def __post_init__(self) -> None:
        check_hyperparameters(self, arrays=True)

    def get_config(self) -> Config:
        """Return the arguments, all of them, as JSON has them."""
        return {f.name: _written(getattr(self, f.name)) for f in dataclasses.fields(self) if f.init}  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Return the value that :meth:`get_config` described.

        Raises:
            ConfigError: a key is unknown or missing.
            HyperparameterError: a value is out of range.
        """
        where = f"{cls.__name__}.from_config"
        if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
            raise ConfigError(message(where, "this is no config.", "a dict of arguments by name", repr(config)))
        fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
        for key in config:
            if key not in fields:
                known = ", ".join(map(repr, fields)) or "no keys"
                raise ConfigError(message(where, f"{cls.name!r} has no argument {key!r}.", known, repr(key),
                                          suggestion(key, fields)))  # fmt: skip
        for key, f in fields.items():
            if key not in config and f.default is f.default_factory is dataclasses.MISSING:
                raise ConfigError(message(where, f"{cls.name!r} needs the argument {key!r}.", ", ".join(fields),
                                          ", ".join(config) or "none"))  # fmt: skip
        return cls(**{key: _read(x) for key, x in config.items()})

    @classmethod
    def find(cls, name: str) -> type[Self]:
        """Return the class of a name.

        Raises:
            UnknownNameError: there is none; it lists those that there are.
        """
        if name not in cls._known:
            known = ", ".join(map(repr, sorted(cls._known)))
            raise UnknownNameError(message(f"federated: {cls.kind}", f"nothing is called {name!r}.", f"one of {known}",
                                           repr(name), suggestion(name, cls._known)))  # fmt: skip
        return cls._known[name]

    @classmethod
    def from_specs(cls, name: str, config: Config | None = None) -> Self:
        """Return the value of a name and a config, without which its arguments are at their defaults."""
        return cls.find(name).from_config({} if config is None else config)

    @classmethod
    def made_of(cls, spec: Any) -> Self:
        """Return the value that a specification means: itself, a name, or a pair of a name and a config.

        Raises:
            ConfigError: it is nothing of this; a TypeError, too.
        """
        if isinstance(spec, cls):
            return spec
        if isinstance(spec, str):
            return cls.from_specs(spec)
        if isinstance(spec, tuple | list) and len(spec) == 2 and isinstance(spec[0], str) and isinstance(spec[1], dict):
            return cls.from_specs(*spec)
        got = f"the class {spec.__name__}" if isinstance(spec, type) else repr(spec)
        raise ConfigError(message(f"federated: {cls.kind}", f"this means no {cls.kind}.",
                                  f"a {cls.__name__}, its name, or (name, config)", got))  # fmt: skip

    def spec(self) -> list[Any]:
        """Return the pair of name and config."""
        return [self.name, self.get_config()]


def _shown(f: dataclasses.Field[Any]) -> str:
    domain = f.metadata["domain"]
    text = "True or False" if domain is bool else f"in {domain}" if isinstance(domain, str) else f"one of {domain}"
    return text if f.default is dataclasses.MISSING else f"{text}, {f.default!r} by default"


def _written(x: Any) -> Any:
    if x is None or type(x) in (bool, int, float, str):
        return x
    return x.spec() if isinstance(x, Registered) else get_config(x)


def _read(x: Any) -> Any:
    return from_config(x) if isinstance(x, dict) and "name" in x else x


def check_instance(where: str, name: str, x: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise unless an argument that is no number is of its kind.

    Raises:
        ConfigError: it is not; a TypeError, too.
    """
    if not isinstance(x, kind):
        got = f"the class {x.__name__}" if inspect.isclass(x) else repr(x)
        raise ConfigError(message(where, f"{name!r} is of another kind.", expected, got))
