"""Modules: objects that own variables, by attribute.

The whole model of optimkit is two concepts, Variable and Module. A module is a Python object whose attributes may be
variables or modules; ``module.vars()`` finds them and names them by their path::

    class Net(Module):
        def __init__(self):
            self.conv = nn.Conv2D(1, 8, 3)      # (Net).conv(Conv2D).w, (Net).conv(Conv2D).b
            self.steps = StateVar(jnp.int32(0)) # (Net).steps

Only attributes are searched. A variable in a plain list, tuple or dict would be missed, so it raises; ``ModuleList``
and ``ModuleDict`` are the lists and dicts that are searched.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from optimkit.core.collection import VarCollection
from optimkit.core.variable import BaseVar
from optimkit.errors import StructureError, message


class Module:
    """An object that owns variables. Subclass it, set variables and modules as attributes, define ``__call__``."""

    def vars(self, scope: str = "") -> VarCollection:
        """Return the variables of this module and of the modules it holds, named by their path.

        Args:
            scope: what the names begin with.

        Raises:
            StructureError: variables or modules are hidden in a plain container, or the module holds itself.
        """
        scope += f"({type(self).__name__})."
        result = VarCollection()
        for attribute, x in self._attributes():
            self._collect(result, x, scope + attribute, f"{type(self).__name__}.{attribute}")
        return result

    def _attributes(self) -> Iterator[tuple[str, Any]]:
        slots = (s for c in type(self).__mro__ for s in _as_tuple(c.__dict__.get("__slots__", ())))
        yield from ((s, getattr(self, s)) for s in slots if s not in ("__dict__", "__weakref__") and hasattr(self, s))
        yield from getattr(self, "__dict__", {}).items()

    @staticmethod
    def _collect(result: VarCollection, x: Any, path: str, where: str) -> None:
        """Add a variable, or the variables of a module, under a path."""
        if isinstance(x, BaseVar):
            result[path] = x
        elif isinstance(x, Module):
            try:
                result.update(x.vars(path))
            except RecursionError:
                raise StructureError(message(
                    where, "the module holds itself, directly or through others.", None, None,
                    "Keep no reference from a part to its whole; pass the whole as an argument."
                )) from None  # fmt: skip
        elif (hidden := find_hidden(x)) is not None:
            raise StructureError(message(
                where, f"{hidden} in a plain {type(x).__name__} would not be found by vars().", None, None,
                "Use ModuleList([...]) or ModuleDict({...}) instead."))  # fmt: skip

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define __call__.")

    def __repr__(self) -> str:
        lines = [f"  {name}={_nested(x)}" for name, x in self._attributes() if not name.startswith("_")]
        return f"{type(self).__name__}(\n" + ",\n".join(lines) + "\n)" if lines else f"{type(self).__name__}()"


def find_hidden(x: Any, depth: int = 0) -> str | None:
    """Return the class name of a variable or module inside plain containers, or None where there is none."""
    if depth > 8 or isinstance(x, VarCollection | ModuleList | ModuleDict) or not isinstance(x, list | tuple | dict):
        return None
    for item in x.values() if isinstance(x, dict) else x:
        if isinstance(item, BaseVar | Module):
            return f"the {type(item).__name__}"
        if (found := find_hidden(item, depth + 1)) is not None:
            return found
    return None


def _nested(x: Any) -> str:
    return repr(x).replace("\n", "\n  ")


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return (x,) if isinstance(x, str) else tuple(x)


class ModuleList(Module, list[Any]):
    """A list of variables, modules and plain functions that ``vars()`` looks into.

    Example:
        >>> from optimkit import StateVar
        >>> layers = ModuleList([StateVar(0.0), StateVar(1.0)])
        >>> list((layers + layers[:1]).vars("net.").keys())
        ['net.(ModuleList)[0]', 'net.(ModuleList)[1]', 'net.(ModuleList)[2]']
    """

    def vars(self, scope: str = "") -> VarCollection:
        """Return the variables of the items, named by their index."""
        scope += f"({type(self).__name__})"
        result = VarCollection()
        for i, x in enumerate(self):
            self._collect(result, x, f"{scope}[{i}]", f"{type(self).__name__}[{i}]")
        return result

    def __getitem__(self, key: Any) -> Any:
        item = list.__getitem__(self, key)
        return type(self)(item) if isinstance(key, slice) else item

    def __add__(self, other: Any) -> Any:
        return type(self)(list.__add__(self, list(other)))

    def __mul__(self, n: Any) -> Any:
        return type(self)(list.__mul__(self, n))

    __rmul__ = __mul__

    def copy(self) -> Any:
        """Return a list of the same items."""
        return type(self)(self)

    def __repr__(self) -> str:
        lines = [f"  [{i}] {_nested(x)}" for i, x in enumerate(self)]
        return f"{type(self).__name__}(\n" + ",\n".join(lines) + "\n)" if lines else f"{type(self).__name__}()"


class ModuleDict(Module, dict[str, Any]):
    """A dict from strings to variables and modules that ``vars()`` looks into.

    Example:
        >>> from optimkit import StateVar
        >>> list(ModuleDict(scale=StateVar(1.0)).vars().keys())
        ['(ModuleDict)[scale]']
    """

    def vars(self, scope: str = "") -> VarCollection:
        """Return the variables of the items, named by their key."""
        scope += f"({type(self).__name__})"
        result = VarCollection()
        for key, x in self.items():
            self._collect(result, x, f"{scope}[{key}]", f"{type(self).__name__}[{key!r}]")
        return result

    def __repr__(self) -> str:
        lines = [f"  [{key}] {_nested(x)}" for key, x in self.items()]
        return f"{type(self).__name__}(\n" + ",\n".join(lines) + "\n)" if lines else f"{type(self).__name__}()"


class Function(Module):
    """A function together with the variables that it uses, so that transforms need not be told again.

    Args:
        f: the function.
        vc: the variables that it reads or writes.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimkit import TrainVar
        >>> w = TrainVar(jnp.ones(2))
        >>> @Function.with_vars(VarCollection({"w": w}))
        ... def total(x):
        ...     return jnp.sum(w * x)
        >>> list(total.vars().keys()), float(total(3.0))
        (['{total}w'], 6.0)
    """

    def __init__(self, f: Callable[..., Any], vc: VarCollection):
        name = getattr(f, "__name__", None)
        self.vc = VarCollection((f"{{{name}}}{key}" if name else key, v) for key, v in vc.items())
        functools.update_wrapper(self, f)

    def vars(self, scope: str = "") -> VarCollection:
        """Return the variables, as given, under ``{function name}`` and the scope."""
        return VarCollection((scope + name, v) for name, v in self.vc.items())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"Function({getattr(self, '__name__', self.__wrapped__)}, {len(self.vc)} variables)"  # type: ignore

    @staticmethod
    def with_vars(vc: VarCollection) -> Callable[[Callable[..., Any]], Function]:
        """Return a decorator that makes a Function with the given variables."""
        return lambda f: Function(f, vc)

    @staticmethod
    def auto_vars(f: Callable[..., Any]) -> Function:
        """Make a Function with the variables that ``f`` refers to; see :func:`find_used_variables`."""
        return Function(f, find_used_variables(f))


def find_used_variables(f: Callable[..., Any]) -> VarCollection:
    """Return the variables and modules that a function refers to by name, through helper functions too.

    Looked at are the names in its code and in the functions defined inside it, resolved in its closure and globals,
    and, for a method, its object. A module counts with all its variables, even if only a part of it is used.

    Raises:
        StructureError: ``f`` has no Python code to look at, or refers to a plain container with variables in it.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimkit import TrainVar
        >>> w = TrainVar(jnp.ones(2))
        >>> list(find_used_variables(lambda x: w * x).keys())
        ['w']
    """
    result = VarCollection()
    _find_used(f, result, set())
    return result


def _find_used(f: Any, result: VarCollection, visited: set[int]) -> None:
    f = inspect.unwrap(getattr(f, "__func__", f))
    code = getattr(f, "__code__", None)
    if code is None:
        raise StructureError(message(
            "auto_vars", f"{f!r} is not a Python function, so the variables it uses cannot be found.", None, None,
            "Name them: Function.with_vars(model.vars())(f)."))  # fmt: skip
    visited.add(id(code))
    cells = dict(zip(code.co_freevars, (c.cell_contents for c in f.__closure__ or ()), strict=True))
    for name in _names_in(code):
        x = cells.get(name, f.__globals__.get(name))
        if isinstance(x, BaseVar):
            result[name] = x
        elif isinstance(x, Module):
            result.update(x.vars(f"{name}."))
        elif (hidden := find_hidden(x)) is not None:
            raise StructureError(message(
                "auto_vars", f"{name!r} hides {hidden} in a plain {type(x).__name__}.", None, None,
                "Use ModuleList([...]) or ModuleDict({...}) instead."))  # fmt: skip
        elif inspect.isfunction(x) and id(x.__code__) not in visited and x.__module__ == f.__module__:
            _find_used(x, result, visited)


def _names_in(code: Any) -> list[str]:
    inner = [name for const in code.co_consts if inspect.iscode(const) for name in _names_in(const)]
    return list(dict.fromkeys([*code.co_freevars, *code.co_names, *inner]))


class ForceArgs(Module):
    """Fix arguments of a module and of every module inside it, whatever the callers pass.

    The modules inside are replaced in place by wrappers; :meth:`undo` takes the arguments back. Names of variables
    do not change.

    Args:
        module: the module.
        **forced: the arguments to fix, by name; each reaches the modules whose ``__call__`` has it.

    Example:
        >>> class Noise(Module):
        ...     def __call__(self, x, training):
        ...         return x + training
        >>> net = ForceArgs(Noise(), training=False)
        >>> net(1, training=True)
        1
    """

    class ANY:
        """Stands for any value in :meth:`undo`."""

    def __init__(self, module: Module, **forced: Any):
        if not isinstance(module, Module):
            raise StructureError(message("ForceArgs", "can only be used on modules.", "Module",
                                         type(module).__name__))  # fmt: skip
        self.__wrapped__, self.forced = module, dict(forced)
        for key, part in _parts(module):
            _set_part(module, key, ForceArgs(part, **forced))

    def vars(self, scope: str = "") -> VarCollection:
        """Return the module's variables, under the names that they have without this wrapper."""
        return self.__wrapped__.vars(scope)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with the fixed arguments in place of those given."""
        if not self.forced:
            return self.__wrapped__(*args, **kwargs)
        signature = inspect.signature(self.__wrapped__)
        names = signature.parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in names.values())
        forced = {k: v for k, v in self.forced.items() if k in names or takes_any}
        positional = [n for n, p in names.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        index = {n: i for i, n in enumerate(positional) if i < len(args) and n in forced}
        replaced = [next((forced[n] for n, i in index.items() if i == j), x) for j, x in enumerate(args)]
        return self.__wrapped__(*replaced, **{**kwargs, **{k: v for k, v in forced.items() if k not in index}})

    @staticmethod
    def undo(module: Module, **forced: Any) -> None:
        """Take fixed arguments back, in place, in a module and all modules inside it.

        Args:
            module: the module, wrapped by ForceArgs or holding modules that are.
            **forced: the arguments with the value that was fixed, or ``ForceArgs.ANY``.
        """
        if isinstance(module, ForceArgs):
            for k, v in forced.items():
                if k in module.forced and (v is ForceArgs.ANY or module.forced[k] == v):
                    del module.forced[k]
            module = module.__wrapped__
        for _, part in _parts(module):
            ForceArgs.undo(part, **forced)


def _parts(module: Module) -> list[tuple[Any, Module]]:
    """Return the modules that a module holds directly, with the attribute, index or key that holds them."""
    if isinstance(module, ForceArgs):
        return _parts(module.__wrapped__)
    if isinstance(module, list):
        items: Any = enumerate(module)
    else:
        items = module.items() if isinstance(module, Mapping) else module._attributes()
    return [(key, x) for key, x in items if isinstance(x, Module)]


def _set_part(module: Any, key: Any, part: Module) -> None:
    if isinstance(module, ForceArgs):
        _set_part(module.__wrapped__, key, part)
    elif isinstance(module, list | dict):
        module[key] = part
    else:
        setattr(module, key, part)
