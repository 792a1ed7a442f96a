"""``python -m optimkit``: look into checkpoints, check them, and compare two.

``inspect`` reads the manifest only; ``verify`` reads every byte; ``diff`` reads the arrays whose digests differ. A
folder stands for the last checkpoint in it: that of a ``Checkpoint`` (``logdir``), or any folder of ``.npz`` files.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from optimkit import io
from optimkit.errors import OptimkitError, message
from optimkit.io import Checkpoint, FileDifference, Manifest

EPILOG = """\
examples:
  python -m optimkit inspect runs/1
  python -m optimkit verify runs/1/ckpt/0000000012.npz
  python -m optimkit diff runs/1 runs/2 --json

exit status: 0 if all is well (diff: if the two are equal), 1 if not, 2 for a wrong call
"""


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command and return its exit status."""
    out = out or sys.stdout
    given = _parser().parse_args(arguments)
    try:
        status, text, data = given.run(*map(newest, given.files))
    except (OptimkitError, OSError) as error:
        status, text, data = 1, str(error), {"error": type(error).__name__, "message": str(error)}
    out.write((json.dumps(data, indent=2) if given.json else text) + "\n")
    return int(status)


def newest(path: str) -> str:
    """Return a file, or the newest checkpoint of a folder.

    Raises:
        FileNotFoundError: the folder has none.
    """
    if not os.path.isdir(path):
        return path
    saved = Checkpoint(path, None, makedir=False, verbose=False).latest()
    files = [saved.path] if saved else sorted(e.path for e in os.scandir(path) if e.name.endswith(".npz"))
    if not files:
        raise FileNotFoundError(message("optimkit", f"there is no checkpoint in {path!r}.", "files *.npz", "none"))
    return files[-1]


def inspect(path: str) -> tuple[int, str, dict[str, Any]]:
    """Return what is in a checkpoint: the status, a table, and the same as data."""
    manifest = io.read_manifest(path)
    return 0, f"{path}\n{shown(manifest)}", {"file": path, **as_dict(manifest)}


def verify(path: str) -> tuple[int, str, dict[str, Any]]:
    """Check every byte of a checkpoint."""
    manifest = io.verify(path)
    count = len(manifest.entries)
    text = f"{path}: whole. {count} variable{'s' * (count != 1)}, {size(manifest.nbytes)}, all checksums right."
    return 0, text, {"file": path, "whole": True, "variables": count, "bytes": manifest.nbytes}


def diff(first: str, second: str) -> tuple[int, str, dict[str, Any]]:
    """Compare two checkpoints."""
    found: FileDifference = io.diff(first, second)
    data = {"first": first, "second": second, "equal": not found, "difference": dataclasses.asdict(found)}
    return bool(found), f"first   {first}\nsecond  {second}\n{found}", data


def shown(manifest: Manifest) -> str:
    """Return a manifest as a table."""
    entries = manifest.entries
    rows = [(e.name, e.kind, str(e.form), size(e.form.nbytes), _owner(e.about)) for e in entries]
    lines = list(table(("variable", "kind", "value", "size", "by"), rows))
    # An optimizer's references to parameters are expected, and would be a line for each.
    others = {e.name: [n for n in e.names[1:] if not n.endswith(f".train_vars[{e.name}]")] for e in entries}
    aliases = [f"  {name} is {', '.join(more)} too" for name, more in others.items() if more]
    about = [f"[{i}] {json.dumps(config)}" for i, config in enumerate(manifest.about)]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    total = f"{len(entries)} variables, {size(manifest.nbytes)}; format {manifest.format}, by {versions}"
    return "\n".join([*lines, *aliases, "", *about, *([""] if about else []), total])


def as_dict(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as data that JSON can hold."""
    variables = [{"names": list(e.names), "kind": e.kind, "dtype": e.form.dtype, "shape": list(e.form.shape),
                  "bytes": e.form.nbytes, "sha256": e.sha256, "about": e.about} for e in manifest.entries]  # fmt: skip
    return {"format": manifest.format, "versions": manifest.versions, "about": list(manifest.about),
            "variables": variables, "bytes": manifest.nbytes}  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """Yield the lines of a table, numbers of bytes to the right.

    Example:
        >>> list(table(("name", "size"), [("w", "8 B"), ("bias", "16 B")]))
        ['name  size', '----  ----', 'w      8 B', 'bias  16 B']
    """
    all_rows = [tuple(head), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*all_rows, strict=True)]
    right = [i for i, name in enumerate(head) if name == "size"]
    for i, row in enumerate(all_rows):
        cells = (x.rjust(w) if j in right else x.ljust(w) for j, (x, w) in enumerate(zip(row, widths, strict=True)))
        yield "  ".join(cells).rstrip()
        if i == 0:
            yield "  ".join("-" * w for w in widths)


def size(count: int) -> str:
    """Return a number of bytes for people.

    Example:
        >>> size(999), size(1_500), size(2_000_000_000)
        ('999 B', '1.5 kB', '2.0 GB')
    """
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} B"


def _owner(about: int | None) -> str:
    return "" if about is None else f"[{about}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m optimkit", description="Look into checkpoints of optimkit.",
                                     epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="command")
    kinds: list[tuple[Callable[..., Any], str, int]] = [
        (inspect, "show what is in a checkpoint", 1),
        (verify, "check every byte of a checkpoint", 1),
        (diff, "compare two checkpoints", 2),
    ]
    for run, what, count in kinds:
        command = commands.add_parser(run.__name__, help=what, description=what)
        command.add_argument("files", nargs=count, metavar="FILE", help="a checkpoint, or a folder of them")
        command.add_argument("--json", action="store_true", help="write JSON")
        command.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
