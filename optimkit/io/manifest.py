"""The manifest: what is in a checkpoint, under which names, and which rules wrote it."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from optimkit.errors import CheckpointError, CorruptCheckpointError, IncompatibleCheckpointError, message
from optimkit.io import dtypes
from optimkit.io.dtypes import Form
from optimkit.io.layout import LARGEST_MANIFEST

FORMAT = 1
# From the manifest of a version to that of the next one; a new version adds the one from its predecessor.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

DEEPEST = 64  # nested lists and objects
_LARGEST = 2**63 - 1  # what an array may have of bytes, and an axis of elements
_HEX = re.compile(r"[0-9a-f]{64}")
# Strings, also one without an end, so that each byte is looked at once.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_INNERMOST = re.compile(rb"\[\]|\{\}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One variable of a checkpoint.

    Attributes:
        names: its names; several where variables were shared.
        kind: the class of the variable: ``TrainVar``, ``StateVar``, ``RandomState``, ...
        form: dtype and shape.
        crc: CRC-32 of its member of the archive.
        sha256: of its bits.
        about: which one of ``Manifest.about`` it belongs to; None for parameters and other variables.
    """

    names: tuple[str, ...]
    kind: str
    form: Form
    crc: int
    sha256: str
    about: int | None = None

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is in a checkpoint.

    Attributes:
        entries: the variables, in the order in which they lie in the file.
        about: configurations of the modules whose memory the variables are: rules and hyperparameters.
        versions: of optimkit, jax and numpy that wrote it.
        format: the version of the format of the file.
    """

    entries: tuple[Entry, ...]
    about: tuple[dict[str, Any], ...]
    versions: dict[str, str]
    format: int = FORMAT

    @property
    def names(self) -> dict[str, Entry]:
        """The variables by each of their names."""
        return {name: entry for entry in self.entries for name in entry.names}

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays together."""
        return sum(entry.form.nbytes for entry in self.entries)

    def encode(self) -> bytes:
        """Return the manifest as it lies in the file.

        Raises:
            CheckpointError: it is larger than what readers take.
        """
        arrays = [
            {"names": e.names, "kind": e.kind, "dtype": e.form.dtype, "shape": e.form.shape, "crc32": e.crc,
             "sha256": e.sha256, "about": e.about} for e in self.entries
        ]  # fmt: skip
        parts = {"format": self.format, "versions": self.versions}, {"about": self.about}
        head = ",\n".join(json.dumps(part, allow_nan=False)[1:-1] for part in parts)
        lines = ",\n  ".join(json.dumps(array) for array in arrays)  # a line for each, for people who look into it
        text = f'{{{head},\n"arrays": [\n  {lines}\n]}}\n'.encode("ascii")
        if len(text) > LARGEST_MANIFEST or depth(text) > DEEPEST:
            raise CheckpointError(message(
                "save", "the names and configurations are more than a checkpoint takes.",
                f"{LARGEST_MANIFEST:,} bytes, {DEEPEST} levels of nesting at most",
                f"{len(text):,} bytes, {depth(text)} levels", "Save the parts in files of their own."))  # fmt: skip
        return text


def decode(where: str, text: bytes) -> Manifest:
    """Return the manifest that lies in a file as these bytes.

    Raises:
        CorruptCheckpointError: it is not one.
        IncompatibleCheckpointError: a later version of optimkit wrote it.
    """
    if depth(text) > DEEPEST:
        raise corrupt(where, f"its manifest is nested deeper than {DEEPEST} levels, or not to its end")
    try:
        whole = json.loads(text.decode("ascii"), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise corrupt(where, f"its manifest is no JSON: {error}") from None
    check = _Checks(where)
    whole = check.of(whole, dict, "the manifest")
    version = check.integer(whole, "format", 1)
    if version > FORMAT:
        raise IncompatibleCheckpointError(message(
            where, "a later version of optimkit wrote this checkpoint.",
            f"format {FORMAT} or older (this is optimkit {own_version()})",
            f"format {version}, from {_shown(whole.get('versions'))}", "Update optimkit."))  # fmt: skip
    for step in range(version, FORMAT):
        whole = MIGRATIONS[step](whole)
    check.keys(whole, {"format", "versions", "about", "arrays"}, "the manifest")
    versions = {k: check.of(v, str, "a version") for k, v in check.of(whole["versions"], dict, "'versions'").items()}
    about = tuple(check.about(config) for config in check.of(whole["about"], list, "'about'"))
    arrays = check.of(whole["arrays"], list, "'arrays'")
    entries = tuple(check.entry(array, len(about)) for array in arrays)
    if len({name for e in entries for name in e.names}) != sum(len(e.names) for e in entries):
        raise corrupt(where, "a name is there twice in its manifest")
    return Manifest(entries, about, versions, version)


def own_version() -> str:
    """Return the version of this optimkit."""
    return sys.modules["optimkit"].__version__  # the package lies above this one, which must not import it


def corrupt(where: str, what: str) -> CorruptCheckpointError:
    """Return the error that a file is not as it was written."""
    return CorruptCheckpointError(message(
        where, f"{what}.", None, None,
        "The file is damaged or is no checkpoint of optimkit. Restore an earlier one, Checkpoint.all() lists them."
    ))  # fmt: skip


class _Checks:
    """Each returns what it has checked, or raises CorruptCheckpointError."""

    def __init__(self, where: str):
        self.where = where

    def of(self, x: Any, kind: type[Any], what: str) -> Any:
        if type(x) is not kind:  # bool is no int here
            raise corrupt(self.where, f"{what} of its manifest is {type(x).__name__}, not {kind.__name__}")
        return x

    def keys(self, x: Mapping[str, Any], wanted: set[str], what: str) -> None:
        if x.keys() != wanted:
            raise corrupt(self.where, f"{what} has the keys {sorted(x)}, not {sorted(wanted)}")

    def integer(self, x: Mapping[str, Any], key: str, least: int, most: int = _LARGEST) -> int:
        value = self.of(x.get(key), int, f"{key!r}")
        if not least <= value <= most:
            raise corrupt(self.where, f"{key!r} of its manifest is {value}")
        return value

    def about(self, config: Any) -> dict[str, Any]:
        self.of(self.of(config, dict, "what 'about' lists").get("name"), str, "the name of a configuration")
        return config

    def entry(self, x: Any, configs: int) -> Entry:
        self.of(x, dict, "an array")
        self.keys(x, {"names", "kind", "dtype", "shape", "crc32", "sha256", "about"}, "an array of its manifest")
        names = tuple(self.of(name, str, "a name") for name in self.of(x["names"], list, "'names'"))
        sha256, kind = self.of(x["sha256"], str, "'sha256'"), self.of(x["kind"], str, "'kind'")
        if not names or not _HEX.fullmatch(sha256):
            raise corrupt(self.where, "an array of its manifest has no name, or no digest")
        about = None if x["about"] is None else self.integer(x, "about", 0, configs - 1)
        return Entry(names, kind, self.form(x), self.integer(x, "crc32", 0, 2**32 - 1), sha256, about)

    def form(self, x: Mapping[str, Any]) -> Form:
        dtype, dims = self.of(x["dtype"], str, "'dtype'"), self.of(x["shape"], list, "'shape'")
        if not dtypes.known(dtype):
            raise IncompatibleCheckpointError(message(
                self.where, f"an array has the dtype {dtype!r}, which this version of JAX does not have.", None, None,
                "Update jax."))  # fmt: skip
        shape = tuple(self.integer({"an axis": n}, "an axis", 0) for n in dims)
        form = Form(dtype, shape)
        # NumPy multiplies axes that are not empty, and refuses what does not fit into 63 bits.
        whole = Form(dtype, tuple(n or 1 for n in shape))
        if len(form.stored_shape) > 64 or whole.nbytes > _LARGEST:
            raise corrupt(self.where, f"an array has the shape {list(shape)}")
        return form


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def depth(text: bytes) -> int:
    """Return how deep lists and objects are nested, without recursion; where it is too deep, or they do not end, more.

    Example:
        >>> depth(b'{"a": [1, "]]"]}'), depth(b"[" * 1000) > DEEPEST
        (2, True)
    """
    outside, end = bytearray(), 0
    for string in _STRINGS.finditer(text):
        outside += text[end : string.start()]
        end = string.end()
    brackets = bytes(outside + text[end:]).translate(None, _NO_BRACKETS)
    for levels in range(DEEPEST + 1):
        if not brackets:
            return levels
        brackets = _INNERMOST.sub(b"", brackets)
    return DEEPEST + 1


def _shown(versions: Any) -> str:
    return f"optimkit {versions.get('optimkit')}" if isinstance(versions, dict) else "an unknown version"
