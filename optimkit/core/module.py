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

import dis
import functools
import inspect
import operator
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from optimkit.core.collection import VarCollection
from optimkit.core.variable import BaseVar
from optimkit.errors import StructureError, VariableError, message


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

    def __setattr__(self, name: str, x: Any) -> None:
        if isinstance(x, jax.Array | np.ndarray) and isinstance(getattr(self, "__dict__", {}).get(name), BaseVar):
            raise VariableError(message(
                f"{type(self).__name__}.{name}", "an array would take the place of the variable.", None, None,
                f"Write its value: {name}.value = x, or {name}.assign(x) for a TrainVar."))  # fmt: skip
        super().__setattr__(name, x)

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
    plain = isinstance(x, list | tuple | dict | set | frozenset | deque)
    if depth > 8 or not plain or isinstance(x, VarCollection | ModuleList | ModuleDict):
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
        """Return the variables of the items, named by their index, and of the attributes that a subclass sets."""
        result = super().vars(scope)
        for i, x in enumerate(self):
            self._collect(result, x, f"{scope}({type(self).__name__})[{i}]", f"{type(self).__name__}[{i}]")
        return result

    def __getitem__(self, key: Any) -> Any:
        item = list.__getitem__(self, key)
        return self._of(item) if isinstance(key, slice) else item

    def _of(self, items: Iterable[Any]) -> Any:
        """Make a list of other items; for a subclass whose constructor takes something else to override."""
        return type(self)(items)

    def __add__(self, other: Any) -> Any:
        return self._of([*self, *other])

    def __radd__(self, other: Any) -> Any:
        return self._of([*other, *self])

    def __mul__(self, n: Any) -> Any:
        return self._of(list.__mul__(self, n))

    __rmul__ = __mul__

    def copy(self) -> Any:
        """Return a list of the same items."""
        return self._of(self)

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
        """Return the variables of the items, named by their key, and of the attributes that a subclass sets."""
        result = super().vars(scope)
        for key, x in self.items():
            self._collect(result, x, f"{scope}({type(self).__name__})[{key}]", f"{type(self).__name__}[{key!r}]")
        return result

    def __or__(self, other: Any) -> Any:
        return type(self)(dict.__or__(self, dict(other)))

    def __ror__(self, other: Any) -> Any:
        return type(self)(dict.__or__(dict(other), self))

    def copy(self) -> Any:
        """Return a dict of the same items."""
        return type(self)(self)

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
        functools.update_wrapper(self, f, updated=())

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
    """Return the variables and modules that a function refers to by name.

    Looked at are the names (``w``, ``config.w``) in its code and in the functions defined inside it, resolved in its
    closure and its globals; for a method, its object too; and the same in helper functions of its Python module. A
    module counts with all its variables, even if only a part of it is used.

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
    _find_used(f, "", result, set())
    return result


def _find_used(f: Any, scope: str, result: VarCollection, visited: set[int]) -> None:
    owner, f = getattr(f, "__self__", None), inspect.unwrap(getattr(f, "__func__", f))
    code = getattr(f, "__code__", None)
    if code is None:
        raise StructureError(message(
            "auto_vars", f"{f!r} is not a Python function, so the variables it uses cannot be found.", None, None,
            "Name them: Function.with_vars(model.vars())(f)."))  # fmt: skip
    visited.add(id(f))
    known = {("GLOBAL", name): x for name, x in f.__globals__.items()}
    known |= {("DEREF", name): c.cell_contents for name, c in zip(code.co_freevars, f.__closure__ or (), strict=True)
              if c != _EMPTY}  # fmt: skip
    if owner is not None:
        known |= {(kind, code.co_varnames[0]): owner for kind in ("FAST", "DEREF")}
    for kind, *names in _references(code):
        x, path = known.get((kind, names[0])), names[:1]
        while len(path) < len(names) and not isinstance(x, BaseVar | Module):
            x = getattr(x, "__dict__", {}).get(names[len(path)])
            path.append(names[len(path)])
        name = scope + ".".join(path)
        if isinstance(x, BaseVar):
            result[name] = x
        elif isinstance(x, Module):
            result.update(x.vars(f"{name}."))
        elif (hidden := find_hidden(x)) is not None:
            raise StructureError(message(
                "auto_vars", f"{name!r} hides {hidden} in a plain {type(x).__name__}.", None, None,
                "Use ModuleList([...]) or ModuleDict({...}) instead."))  # fmt: skip
        elif inspect.isfunction(x) and id(x) not in visited and x.__module__ == f.__module__:
            _find_used(x, f"{name}.", result, visited)


_EMPTY = types.CellType()  # a name of the closure that has no value yet


def _references(code: Any) -> Iterator[tuple[str, ...]]:
    """Yield where a name comes from, the name, and the attributes read from it, for each in a function's code."""
    chain: tuple[str, ...] = ()
    for instruction in dis.get_instructions(code):
        if instruction.opname == "EXTENDED_ARG":
            continue
        if chain and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain += (instruction.argval,)
            continue
        if chain:
            yield chain
        # LOAD_GLOBAL, LOAD_DEREF, LOAD_FAST and their variants, some of which load two names.
        kind = next((k for k in ("GLOBAL", "DEREF", "FAST") if f"LOAD_{k}" in instruction.opname), "")
        names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
        yield from ((kind, name) for name in names[:-1])
        chain = (kind, names[-1]) if kind else ()
    for inner in filter(inspect.iscode, code.co_consts):
        yield from _references(inner)


class ForceArgs(Module):
    """Fix arguments of a module's ``__call__``, whatever its callers pass.

    The module itself is not changed. To fix an argument of a part, replace the part:
    ``model.bn = ForceArgs(model.bn, training=False)``. Names of variables do not change.

    Args:
        module: the module.
        **forced: the arguments to fix, by name.

    Raises:
        StructureError: it is not a module, or takes no such argument.

    Example:
        >>> class Noise(Module):
        ...     def __call__(self, x, training):
        ...         return x + training
        >>> quiet = ForceArgs(Noise(), training=False)
        >>> quiet(1, training=True)
        1
    """

    class ANY:
        """Stands for any value in :meth:`undo`."""

    def __init__(self, module: Module, **forced: Any):
        if not isinstance(module, Module):
            raise StructureError(message("ForceArgs", "can only be used on modules.", "Module",
                                         type(module).__name__))  # fmt: skip
        names = inspect.signature(module).parameters
        unknown = [name for name in forced if name not in names]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in names.values()):
            raise StructureError(message(
                "ForceArgs", f"{type(module).__name__} has no argument {unknown[0]!r}.",
                "one of " + ", ".join(map(repr, names)), repr(unknown[0])))  # fmt: skip
        self.__wrapped__, self.forced = module, dict(forced)

    def vars(self, scope: str = "") -> VarCollection:
        """Return the module's variables, under the names that they have without this wrapper."""
        return self.__wrapped__.vars(scope)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with the fixed arguments in place of those given."""
        call = inspect.signature(self.__wrapped__).bind_partial(*args, **kwargs)
        for name, x in self.forced.items():
            if name in call.signature.parameters:
                call.arguments[name] = x
            else:
                extra = next(p.name for p in call.signature.parameters.values() if p.kind is p.VAR_KEYWORD)
                call.arguments[extra] = {**call.arguments.get(extra, {}), name: x}
        return self.__wrapped__(*call.args, **call.kwargs)

    def __repr__(self) -> str:
        forced = "".join(f", {name}={x!r}" for name, x in self.forced.items())
        return f"ForceArgs({self.__wrapped__!r}{forced})"

    @staticmethod
    def undo(module: Module, **forced: Any) -> None:
        """Take fixed arguments back, in place, in a module and all modules inside it.

        A part whose last fixed argument is taken back is again the module that it was.

        Args:
            module: the module, wrapped by ForceArgs or holding modules that are.
            **forced: the arguments to take back, each with the value that was fixed (another one stays fixed) or
                ``ForceArgs.ANY``. All arguments where none is given.
        """
        if isinstance(module, ForceArgs):
            back = forced or dict.fromkeys(module.forced, ForceArgs.ANY)
            kept = (k for k, v in module.forced.items() if k not in back or not _matches(back[k], v))
            module.forced = {k: module.forced[k] for k in kept}
        for put, part in _parts(module):
            ForceArgs.undo(part, **forced)
            if isinstance(part, ForceArgs) and not part.forced:
                put(part.__wrapped__)


def _matches(asked: Any, value: Any) -> bool:
    return asked is ForceArgs.ANY or asked is value or bool(asked == value)


def _parts(module: Module) -> list[tuple[Callable[[Module], None], Module]]:
    """Return the modules that a module holds directly, each with what puts another one in its place."""
    items: Any = enumerate(module) if isinstance(module, list) else module.items() if isinstance(module, dict) else ()
    inside = [(functools.partial(operator.setitem, module, key), x) for key, x in items]
    inside += [(functools.partial(setattr, module, name), x) for name, x in module._attributes()]
    return [(put, x) for put, x in inside if isinstance(x, Module)]
