"""What a restore has to say: where a checkpoint and a collection differ, or what was done."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optimkit.errors import IncompatibleCheckpointError
from optimkit.io.manifest import Manifest

_SHOWN = 40  # names in a list of a message; the data has all


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where a checkpoint does not fit a collection. It is true where there is anything.

    Attributes:
        missing: variables that the file does not have.
        unexpected: arrays of the file that no variable takes.
        shapes: by variable, its form and that in the file, where the shapes differ.
        dtypes: the same where only the dtypes differ.
        rules: by the first variable of its memory, the rule here and the one that wrote it.
        clashes: variables that are one here and several in the file.
        castable: of ``dtypes``, those that ``cast=True`` converts.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    dtypes: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    rules: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    clashes: tuple[str, ...] = ()
    castable: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return any((self.missing, self.unexpected, self.shapes, self.dtypes, self.rules, self.clashes))

    def __str__(self) -> str:
        return "\n".join([
            *section("missing in the file", map(repr, self.missing)),
            *section("unexpected in the file", map(repr, self.unexpected)),
            *section("another shape", pairs(self.shapes)),
            *section("another dtype", pairs(self.dtypes)),
            *section("written by another rule", pairs(self.rules)),
            *section("shared otherwise", self.clashes),
        ])  # fmt: skip

    def error(self, where: str) -> IncompatibleCheckpointError:
        """Return the error that shows the difference."""
        text = f"{where}: the checkpoint does not fit the variables. Nothing was restored.\n{self}"
        error = IncompatibleCheckpointError("\n".join([text, *self._fixes()]))
        error.difference = self
        return error

    def _fixes(self) -> Iterator[str]:
        alike = [(old[0], name) for name in self.missing[:_SHOWN]
                 if (old := difflib.get_close_matches(name, self.unexpected[:1000], 1))]  # fmt: skip
        if alike:
            shown = ", ".join(f"{old!r}: {new!r}" for old, new in alike[:3])
            yield f"If variables have other names now: rename={{{shown}{', ...' * (len(alike) > 3)}}}."
        if self.missing or self.unexpected:
            yield "To restore what both have and leave the rest as it is: partial=True."
        if self.castable & set(self.dtypes):
            yield "To convert to the precision of the variables: cast=True (or jax_enable_x64 as it was at the save)."
        if self.rules:
            yield "To restore the parameters alone: load model.vars(), with partial=True."


@dataclasses.dataclass(frozen=True)
class Restored:
    """What :func:`load_var_collection` did.

    Attributes:
        names: the variables that were restored.
        left: the variables that the file does not have, which stay as they were.
        unexpected: the arrays of the file that no variable took.
        cast: by variable, its form and that in the file, where they differ.
        changed: by hyperparameter, its value here, which stays, and the one in the file.
        untied: variables that took the same array as another one: they were shared when it was saved.
        manifest: what is in the file.
    """

    names: tuple[str, ...]
    left: tuple[str, ...]
    unexpected: tuple[str, ...]
    cast: Mapping[str, tuple[str, str]]
    changed: Mapping[str, tuple[Any, Any]]
    untied: Mapping[str, str]
    manifest: Manifest = dataclasses.field(repr=False)

    def __str__(self) -> str:
        count = len(self.names)
        untied = (f"{name!r}, as {first!r}" for name, first in self.untied.items())
        return "\n".join([
            f"{count} variable{'s' * (count != 1)} restored.",
            *section("left as they were", map(repr, self.left)),
            *section("in the file, and not restored", map(repr, self.unexpected)),
            *section("cast", pairs(self.cast)),
            *section("other hyperparameters (the present ones stay)", pairs(self.changed)),
            *section("shared when saved, and not now", untied),
        ])  # fmt: skip

    __repr__ = __str__


def pairs(found: Mapping[str, tuple[Any, Any]], here: str = "here", there: str = "in the file") -> Iterator[str]:
    """Return a line for each pair."""
    return (f"{name!r}: {one} {here}, {two} {there}" for name, (one, two) in found.items())


def section(title: str, lines: Iterable[str]) -> list[str]:
    """Return a heading and its lines; nothing where there is no line."""
    lines = list(lines)
    if not lines:
        return []
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"  {title}:", *(f"    {line}" for line in lines[:_SHOWN] + more)]
