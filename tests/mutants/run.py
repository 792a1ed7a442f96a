"""Try all mutants, print what became of each, and write ``survivors.md``: ``python -m tests.mutants.run [TARGET ...]``.

With names of targets (``adam.Adam``) only theirs are tried, and nothing is written. ``--seed`` and ``--per-target``
draw another sample, of which nothing is known, to look for more that the kit does not see.
"""

from __future__ import annotations

# Before JAX is imported: this module says what tests run under.
import tests.conftest as _configuration  # noqa: F401  isort: skip
import argparse
import pathlib
import sys
import time
from collections.abc import Callable, Iterable

from tests.mutants import catalogue
from tests.mutants.known import EQUIVALENT, SURVIVORS
from tests.mutants.operators import OPERATORS
from tests.mutants.trial import Verdict, try_mutant

FILE = pathlib.Path(__file__).with_name("survivors.md")
AIM = 0.97


def progress(mutants: list[catalogue.Mutant]) -> Iterable[catalogue.Mutant]:
    """Return the mutants, with a bar on stderr while they are tried: tqdm's where it is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _plain_progress(mutants)
    return tqdm(mutants, unit="mutant", file=sys.stderr)


def _plain_progress(mutants: list[catalogue.Mutant]) -> Iterable[catalogue.Mutant]:
    start = time.perf_counter()
    for i, mutant in enumerate(mutants):
        yield mutant
        done = 40 * (i + 1) // len(mutants)
        seconds = time.perf_counter() - start
        sys.stderr.write(f"\r[{'#' * done:40}] {i + 1}/{len(mutants)} {seconds:.0f} s")
        sys.stderr.flush()
    sys.stderr.write("\n")


def verdict_of(v: Verdict) -> str:
    """Return the name of the check that killed a mutant, or why none did."""
    if v.killed:
        return v.check
    return "equivalent" if v.mutant.name in EQUIVALENT else "SURVIVED"


def table(verdicts: list[Verdict]) -> str:
    """Return a line for each mutant: what it is, where, which check killed it, and in how many seconds."""
    rows = [("line", "mutant", "killed by", "on", "seconds")]
    rows += [(str(v.mutant.line), v.mutant.name, verdict_of(v), v.row, f"{v.seconds:.1f}") for v in verdicts]
    rows = [(a, b if len(b) <= 120 else b[:117] + "...", c, d, e) for a, b, c, d, e in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def summary(verdicts: list[Verdict]) -> tuple[int, int, int]:
    """Return how many mutants count, how many of them were killed, and how many are equivalent."""
    equivalent = sum(verdict_of(v) == "equivalent" for v in verdicts)
    return len(verdicts) - equivalent, sum(v.killed for v in verdicts), equivalent


def document(verdicts: list[Verdict]) -> str:
    """Return the page of survivors: the count, who survived and why, which are no mistakes, and who kills how many."""
    counted, killed, equivalent = summary(verdicts)
    alive = [v for v in verdicts if verdict_of(v) == "SURVIVED"]
    lines = [
        "# Mutants of the rules that the conformance kit does not reject",
        "",
        "Written by `python -m tests.mutants.run`; not to be edited. Reasons are in `known.py`.",
        "",
        f"{len(verdicts)} mutants were tried, by {len({v.mutant.operator for v in verdicts})} operators. "
        f"{equivalent} are the same program in other words. Of the other {counted} the kit kills {killed}, "
        f"{killed / max(counted, 1):.1%}.",
        *_listed("Survivors", alive, lambda v: SURVIVORS.get(v.mutant.name, "NOT EXPLAINED YET")),
        *_listed("The same program in other words", [v for v in verdicts if verdict_of(v) == "equivalent"],
                 lambda v: EQUIVALENT[v.mutant.name]),
        *_counted("Checks by what they kill", [v.check for v in verdicts if v.killed], lambda name: ""),
        *_counted("Operators", [v.mutant.operator for v in verdicts], lambda name: OPERATORS[name].reason),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _listed(title: str, verdicts: list[Verdict], reason: Callable[[Verdict], str]) -> list[str]:
    shown = [f"- `{v.mutant.name}`: {reason(v)}" for v in verdicts]
    return ["", f"## {title}", "", *(shown or ["None."])]


def _counted(title: str, names: list[str], meaning: Callable[[str], str]) -> list[str]:
    order = sorted(set(names), key=lambda name: (-names.count(name), name))
    rows = [f"- {name}: {names.count(name)}" + (f" ({meaning(name)})" if meaning(name) else "") for name in order]
    return ["", f"## {title}", "", *rows]


def main(arguments: list[str] | None = None) -> int:
    """Try the mutants; return 1 where too few are killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", help="names of targets, such as adam.Adam; all of them where none")
    parser.add_argument("--seed", type=int, default=catalogue.SEED, help="draw another sample")
    parser.add_argument("--per-target", type=int, default=catalogue.PER_TARGET, help="draw a larger sample")
    options = parser.parse_args(arguments)
    usual = (options.targets, options.seed, options.per_target) == ([], catalogue.SEED, catalogue.PER_TARGET)
    catalogue.SEED, catalogue.PER_TARGET = options.seed, options.per_target
    mutants = [m for m in catalogue.catalogue() if not options.targets or m.target.place in options.targets]
    verdicts = [try_mutant(m) for m in progress(mutants)]
    counted, killed, equivalent = summary(verdicts)
    rate = f"{killed} of {counted} killed, {killed / max(counted, 1):.1%}; {equivalent} equivalent"
    sys.stdout.write(f"{table(verdicts)}\n{rate}\n")
    if usual:
        FILE.write_text(document(verdicts), encoding="utf-8")
    return int(killed < AIM * counted)


if __name__ == "__main__":
    sys.exit(main())
