"""VarCollection: variables by name, and the one place where their values are exchanged."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import get_opaque_trace_state as trace_state

from optimkit.core.variable import BaseVar, Buffer, TrainRef, TrainVar, compiling
from optimkit.errors import StructureError, VariableError, describe, message

Kinds = type[BaseVar] | tuple[type[BaseVar], ...]


class VarCollection(dict[str, BaseVar]):
    """An ordered mapping from names to variables.

    ``len``, ``keys``, ``items`` and ``values`` count names. Iteration, ``tensors()`` and ``assign()`` visit each
    *buffer* once: a variable that has two names once, and a TrainVar with a TrainRef to it once, as the TrainVar.

    Example:
        >>> import optimkit, jax.numpy as jnp
        >>> w = optimkit.TrainVar(jnp.ones(3))
        >>> print(VarCollection({"w": w, "again": w, "ref": optimkit.TrainRef(w)}) )
        name   kind      dtype    shape    size
        w      TrainVar  float32  [3]         3
        again  TrainVar  float32  [3]         3  same as w
        ref    TrainRef  float32  [3]         3  same as w
        total  1 variable                     3
    """

    def __init__(self, items: Mapping[str, BaseVar] | Iterable[tuple[str, BaseVar]] = ()):
        super().__init__()
        self.update(items)

    def __setitem__(self, name: str, var: BaseVar) -> None:
        if not isinstance(var, BaseVar):
            raise StructureError(message("VarCollection", f"{name!r} is not a variable.", "a variable",
                                         type(var).__name__))  # fmt: skip
        if self.setdefault(name, var) is not var:
            raise StructureError(message(
                "VarCollection", f"two different variables are called {name!r}.", None, None,
                "Give them names of their own: module.vars(scope='a.'), or rename(...)."))  # fmt: skip
        if var._buffer.name is None and not isinstance(var, TrainRef):
            var._buffer.name = name

    def update(self, other: Any = (), /, **named: BaseVar) -> None:
        """Add variables from a mapping or from pairs: all of them or, if that raises, none.

        Raises:
            StructureError: a name is taken by another variable (identity decides, not equality).
        """
        before = len(self)
        try:
            for name, var in [*(other.items() if isinstance(other, Mapping) else other), *named.items()]:
                self[name] = var
        except StructureError:
            for name in list(self.keys())[before:]:
                del self[name]
            raise

    def __add__(self, other: Mapping[str, BaseVar]) -> VarCollection:
        result = VarCollection(self)
        result.update(other)
        return result

    def __or__(self, other: Mapping[str, BaseVar]) -> VarCollection:  # type: ignore[override]
        return self + other

    def __ior__(self, other: Mapping[str, BaseVar]) -> VarCollection:  # type: ignore[override]
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        """Tell whether both have the same names for the same variables; values are not compared."""
        if not isinstance(other, dict):
            return NotImplemented
        same = dict.keys(self) == dict.keys(other)
        return same and all(var is dict.__getitem__(other, name) for name, var in self.items())

    def __ne__(self, other: object) -> bool:
        return NotImplemented if (same := self.__eq__(other)) is NotImplemented else not same

    def __iter__(self) -> Iterator[BaseVar]:  # type: ignore[override]
        return iter(self.unique().values())

    def copy(self) -> VarCollection:
        """Return a collection of the same variables."""
        return VarCollection(self)

    def __copy__(self) -> VarCollection:
        return self.copy()

    def unique(self) -> VarCollection:
        """Return the collection with each buffer once, under its first name; a TrainVar before its TrainRefs."""
        trained = {id(v._buffer) for v in self.values() if isinstance(v, TrainVar)}
        result, seen = VarCollection(), set[int]()
        for name, var in self.items():
            buffer = id(var._buffer)
            shadowed = isinstance(var, TrainRef) and buffer in trained
            if buffer not in seen and not shadowed:
                seen.add(buffer)
                result[name] = var
        return result

    def subset(self, is_a: Kinds | None = None, is_not: Kinds | None = None) -> VarCollection:
        """Return the variables that are of kind ``is_a`` and not of kind ``is_not``."""
        return VarCollection(
            (name, v)
            for name, v in self.items()
            if (is_a is None or isinstance(v, is_a)) and not (is_not is not None and isinstance(v, is_not))
        )

    def tensors(self, is_a: Kinds | None = None) -> list[jax.Array]:
        """Return the values, each buffer once, of the variables of kind ``is_a``."""
        return [v.value for v in self if is_a is None or isinstance(v, is_a)]

    def assign(self, tensors: Sequence[Any] | Mapping[str, Any], check: bool = True) -> None:
        """Write values: a list in the order of ``tensors()``, or a mapping from some of the names.

        All of them are checked before the first is written, so that a failure changes nothing.

        Raises:
            StructureError: wrong number, an unknown name, two values for one variable, or a wrong shape.
            DTypeError: a wrong dtype.
        """
        pairs = self._pairs(tensors)
        values = [v.checked(x) if check else x for v, x in pairs]
        store([v._buffer for v, _ in pairs], values)

    @contextlib.contextmanager
    def swapped(self, tensors: Sequence[Any] | Mapping[str, Any]) -> Iterator[VarCollection]:
        """Hold other values for the length of a block; whatever happens in it, the values come back.

        This is the one place where variables are exchanged for tracers, or weights for their averages. Inside the
        block the variables are *open*: they may hold tracers of the trace that it is entered under, and no others.
        """
        pairs = [(v._buffer, x) for v, x in self._pairs(tensors)]
        saved = [(b, b.value, b.open, b.kept) for b, _ in pairs]
        here = trace_state()
        compiling.swaps += 1
        try:
            for (b, x), (_, value, opened, kept) in zip(pairs, saved, strict=True):
                b.kept, b.value, b.open = value if opened is None else kept, x, here
            yield self
        finally:
            compiling.swaps -= 1
            for b, value, opened, kept in saved:
                b.value, b.open, b.kept = value, opened, kept

    @contextlib.contextmanager
    def restored_on_error(self) -> Iterator[VarCollection]:
        """Put every value back as it was if the block raises; keep what the block wrote if it does not."""
        buffers = self.buffers()
        values = [b.value for b in buffers]
        try:
            yield self
        except BaseException:
            store(buffers, values)
            raise

    @contextlib.contextmanager
    def replicate(self) -> Iterator[VarCollection]:
        """Hold a copy of every value on each local device for the length of a block; afterwards on the first alone.

        For ``Parallel``, which otherwise copies on its first call and leaves the copies in place.
        """
        devices = jax.local_devices()
        mesh = jax.sharding.Mesh(np.array(devices), ("device",))
        buffers = self.buffers()
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        try:
            store(buffers, [jax.device_put(b.value, everywhere) for b in buffers])
            yield self
        finally:
            store(buffers, [jax.device_put(b.value, devices[0]) for b in buffers])

    def buffers(self) -> list[Buffer]:
        """Return where the arrays lie, each once, in the order of ``tensors()``."""
        return [v._buffer for v in self]

    def rename(self, renamer: Callable[[str], str]) -> VarCollection:
        """Return the collection under other names, for example through a ``Renamer``.

        Raises:
            StructureError: two different variables would have one name.
        """
        return VarCollection((renamer(name), var) for name, var in self.items())

    def _pairs(self, tensors: Sequence[Any] | Mapping[str, Any]) -> list[tuple[BaseVar, Any]]:
        if isinstance(tensors, Mapping):
            unknown = [name for name in tensors.keys() if name not in self]  # noqa: SIM118 - a VarCollection's
            if unknown:
                raise StructureError(message(
                    "VarCollection", f"there is no variable called {unknown[0]!r}.",
                    "one of " + ", ".join(map(repr, self.keys())), repr(unknown[0])))  # fmt: skip
            return self._once({name: (self[name], x) for name, x in tensors.items()})
        variables = list(self.unique().values())
        if len(variables) != len(tensors):
            raise StructureError(message(
                "VarCollection", "the number of values does not fit the number of variables.",
                f"{len(variables)} values, for {', '.join(self.unique().keys())}", f"{len(tensors)}"))  # fmt: skip
        return list(zip(variables, tensors, strict=True))

    @staticmethod
    def _once(pairs: dict[str, tuple[BaseVar, Any]]) -> list[tuple[BaseVar, Any]]:
        """Return the pairs with each buffer once; two names of one buffer must come with one value."""
        first: dict[int, str] = {}
        for name, (var, x) in pairs.items():
            known = first.setdefault(id(var._buffer), name)
            if pairs[known][1] is not x:
                raise StructureError(message(
                    "VarCollection", f"{known!r} and {name!r} are one variable and were given two values.", None, None,
                    "Give one of them."))  # fmt: skip
        return [pairs[name] for name in first.values()]

    def __str__(self) -> str:
        first: dict[int, str] = {id(v._buffer): name for name, v in reversed(self.unique().items())}
        rows = [("name", "kind", "dtype", "shape", "size", "")]
        for name, v in self.items():
            alias = first[id(v._buffer)]
            rows.append((name, type(v).__name__, str(v.dtype), str(list(v.shape)), f"{v.size:,}",
                         "" if alias == name else f"same as {alias}"))  # fmt: skip
        count, size = len(self.unique()), sum(v.size for v in self)
        rows.append(("total", f"{count} variable{'s' * (count != 1)}", "", "", f"{size:,}", ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        form = "  ".join(f"{{:{'>' if i == 4 else '<'}{max(width, 1)}}}" for i, width in enumerate(widths))
        return "\n".join(form.format(*row).rstrip() for row in rows)

    def __repr__(self) -> str:
        items = (f"{name!r}: {type(v).__name__}({describe(v._buffer.value)})" for name, v in self.items())
        return f"VarCollection({{{', '.join(items)}}})"


def store(buffers: Sequence[Buffer], values: Sequence[Any]) -> None:
    """Store values that have been checked: all of them, even if a KeyboardInterrupt falls in between."""
    # Every compiled call ends here. Whoever calls has counted; asking zip to count again (strict=True) would cost a
    # call with 60 variables one percent.
    try:
        for buffer, x in zip(buffers, values):  # noqa: B905
            buffer.value = x
    except BaseException:
        for buffer, x in zip(buffers, values):  # noqa: B905
            buffer.value = x
        raise


class Renamer:
    r"""A function from old names to new ones.

    Args:
        rules: a mapping from substrings to replacements (the longest match at each place wins), a sequence of
            ``(regular expression, replacement)`` applied in order, or a function.
        chain: a renamer that is applied after this one.

    Example:
        >>> Renamer({"(Net).": "", "conv": "c"})("(Net).conv.w"), Renamer([(r"\[(\d+)\]", r".\1")])("layers[3].w")
        ('c.w', 'layers.3.w')
    """

    def __init__(
        self,
        rules: Mapping[str, str] | Sequence[tuple[str | re.Pattern[str], str]] | Callable[[str], str],
        chain: Callable[[str], str] | None = None,
    ):
        self.rules, self.chain = rules, chain

    def __call__(self, name: str) -> str:
        """Return the new name."""
        rules: Any = self.rules
        if callable(rules):
            name = rules(name)
        elif isinstance(rules, Mapping):
            found = "|".join(re.escape(key) for key in sorted(rules, key=len, reverse=True))
            name = re.sub(found, lambda m: rules[m.group()], name) if found else name
        else:
            for pattern, replacement in rules:
                name = re.sub(pattern, replacement, name)
        return self.chain(name) if self.chain is not None else name


def explain_deleted(where: str, vc: VarCollection, error: Exception) -> None:
    """Raise an error that names the first variable whose array is deleted, in place of JAX's own, which cannot.

    Raises:
        VariableError: there is one.
    """
    for name, v in vc.items():
        value = v._buffer.value
        if not isinstance(value, jax.core.Tracer) and value.is_deleted():
            raise VariableError(message(
                where, f"the array of {name!r} has been deleted.", None, None,
                "It was donated, to a program that failed or by other code. Assign a new value to the variable; "
                "to keep arrays that you read out, copy them first or use donate=False.")) from error  # fmt: skip
