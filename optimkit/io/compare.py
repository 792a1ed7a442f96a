"""Two checkpoints side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from optimkit.io.difference import pairs, section
from optimkit.io.dtypes import Form
from optimkit.io.reading import Reader, opened
from optimkit.io.rules import changes
from optimkit.io.writing import File


@dataclasses.dataclass(frozen=True)
class Values:
    """How far two arrays of one shape and dtype are from each other.

    Attributes:
        differ: how many elements have other bits.
        size: how many there are.
        largest: the largest absolute difference; None where numbers do not say (keys, NaN on one side, infinities).
    """

    differ: int
    size: int
    largest: float | None

    def __str__(self) -> str:
        by = "" if self.largest is None else f", by up to {self.largest:.3g}"
        return f"{self.differ:,} of {self.size:,} elements differ{by}"


@dataclasses.dataclass(frozen=True)
class FileDifference:
    """How two checkpoints differ. It is true where they do.

    Attributes:
        only_first: variables that only the first one has.
        only_second: variables that only the second one has.
        forms: by variable, dtypes and shapes that differ, of the first and the second.
        values: by variable, how its values differ.
        about: by path, what differs in the configurations of those who wrote them.
        equal: how many variables are the same, bit for bit.
    """

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    forms: Mapping[str, tuple[str, str]]
    values: Mapping[str, Values]
    about: Mapping[str, tuple[Any, Any]]
    equal: int

    def __bool__(self) -> bool:
        return any((self.only_first, self.only_second, self.forms, self.values, self.about))

    def __str__(self) -> str:
        return "\n".join([
            f"{self.equal} variable{'s' * (self.equal != 1)} equal, bit for bit.",
            *section("only in the first", map(repr, self.only_first)),
            *section("only in the second", map(repr, self.only_second)),
            *section("another dtype or shape", pairs(self.forms, "in the first", "in the second")),
            *section("other values", (f"{name!r}: {values}" for name, values in self.values.items())),
            *section("another configuration", pairs(self.about, "in the first", "in the second")),
        ])  # fmt: skip


def diff(first: File, second: File) -> FileDifference:
    """Compare two checkpoints, by names: what only one has, dtypes, shapes, values, and who wrote them.

    Arrays are read only where their digests differ.

    Args:
        first: a path, or a binary file.
        second: another one.

    Raises:
        CorruptCheckpointError: one is no checkpoint, or what was read of it is not as it was written.
        IncompatibleCheckpointError: a later version of optimkit wrote one.
        OSError: one cannot be read.

    Example:
        >>> import io, optimkit
        >>> w, files = optimkit.TrainVar(jnp.zeros(3)), [io.BytesIO(), io.BytesIO()]
        >>> for file in files:
        ...     optimkit.io.save_var_collection(file, optimkit.VarCollection({"w": w}))
        ...     w.assign(jnp.array([0.0, 0.5, 0.0]))
        ...     _ = file.seek(0)
        >>> print(diff(*files))
        0 variables equal, bit for bit.
          other values:
            'w': 1 of 3 elements differ, by up to 0.5
    """
    with opened("diff", first) as one, opened("diff", second) as two:
        ours, theirs = _numbered(one), _numbered(two)
        forms: dict[str, tuple[str, str]] = {}
        values: dict[str, Values] = {}
        compared = set[tuple[int, int]]()
        for name in ours.keys() & theirs.keys():
            compared.add((ours[name], theirs[name]))
        for i, j in sorted(compared):
            a, b = one.manifest.entries[i], two.manifest.entries[j]
            if a.form != b.form:
                forms[a.name] = str(a.form), str(b.form)
            elif a.sha256 != b.sha256:
                values[a.name] = _values(a.form, one.bits(i), two.bits(j))
        return FileDifference(
            _without(one, theirs), _without(two, ours), forms, values,
            changes(list(one.manifest.about), list(two.manifest.about)),
            len(compared) - len(forms) - len(values))  # fmt: skip


def _numbered(reader: Reader) -> dict[str, int]:
    return {name: i for i, entry in enumerate(reader.manifest.entries) for name in entry.names}


def _without(reader: Reader, others: Mapping[str, int]) -> tuple[str, ...]:
    """Return the variables of which none of the names is among others."""
    return tuple(entry.name for entry in reader.manifest.entries if not others.keys() & set(entry.names))


def _values(form: Form, a: np.ndarray, b: np.ndarray) -> Values:
    differ, numbers = a != b, form.numpy
    if a.dtype.kind in "fc":  # as bits: NaN is equal to itself, and -0.0 is not 0.0
        words = [x.reshape(-1).view(np.uint8).reshape(-1, x.itemsize) for x in (a, b)]
        differ = (words[0] != words[1]).any(1)
    elif form.key:
        differ = differ.any(-1)
    count = int(np.count_nonzero(differ))
    if form.key or numbers.kind == "b":
        return Values(count, differ.size, None)
    wide = object if jnp.issubdtype(numbers, jnp.integer) and numbers.itemsize == 8 else None
    if wide is None:
        wide = np.complex128 if numbers.kind == "c" else np.float64
    # Only what differs is widened, which is little in most cases, and never more than one array at a time.
    x, y = (array.reshape(-1).view(numbers)[differ.reshape(-1)].astype(wide) for array in (a, b))
    with np.errstate(all="ignore"):
        largest = float(np.max(np.abs(x - y)))
    return Values(count, differ.size, largest if np.isfinite(largest) else None)
