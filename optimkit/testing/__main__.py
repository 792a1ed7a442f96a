"""``python -m optimkit.testing module:Name``: run every check on an optimizer, and print what each found."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from optimkit.errors import OptimkitError
from optimkit.testing.properties import EXAMPLES
from optimkit.testing.report import NOT_APPLICABLE, Report, Result
from optimkit.testing.subjects import subject
from optimkit.testing.suite import run_checks, selected

EPILOG = """\
examples:
  python -m optimkit.testing optimkit.rules:Adam
  python -m optimkit.testing "my_package.rules:MyRule(0.9)" --max-examples 200 --json report.json
  python -m optimkit.testing "optax:adam(1e-3)" --check check_odd_shapes
  python -m optimkit.testing optax:adamw --hyper "learning_rate=1e-3 in [0, inf)" --hyper "b1=0.9 in [0, 1)"

exit status: 0 if every check passes or fails as expected, 1 if not, 2 for a wrong call
"""


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command and return its exit status."""
    out, parser = out or sys.stdout, _parser()
    given = parser.parse_args(arguments)
    sys.path.insert(0, os.getcwd())  # as `python -m` does for the module that it runs
    try:
        expected = dict(_pair(text, "=") for text in given.expect)
        checks = selected(given.check or None, expected)
        hyper = dict(_hyperparameter(text) for text in given.hyper) or None
        rule = subject(load(given.target), hyper, name=given.target)
    except (OptimkitError, ImportError, AttributeError, ValueError, SyntaxError) as error:
        parser.error(f"{given.target}: {error}")
    report = Report(repr(rule))
    out.write(f"{rule!r}: {len(checks)} checks\n")
    for result in run_checks(rule, checks, expected, max_examples=given.max_examples):
        report.append(result)
        if result.verdict != NOT_APPLICABLE:
            out.write(_lines(result))
            out.flush()
    out.write(f"\n{report.left_out()}{report.summary()}\n")
    if given.json:
        Path(given.json).write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    return 1 if report.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m optimkit.testing", description=(__doc__ or "").split("``: ")[-1],
                                     epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("target", help="module:Name, or module:Name(arguments) with literals as arguments")
    add("--max-examples", type=int, default=EXAMPLES, metavar="N", help="examples that each property draws")
    add("--json", metavar="FILE", help="write the report there, too")
    add("--check", action="append", default=[], metavar="NAME", help="run this check only; can be repeated")
    add("--expect", action="append", default=[], metavar="NAME=REASON", help="a check that must fail; can be repeated")
    add("--hyper", action="append", default=[], metavar='"NAME=VALUE in DOMAIN"',
        help="an argument of the function Name, and what it may be; can be repeated")  # fmt: skip
    return parser


def load(target: str) -> Any:
    """Return the object that ``module:Name`` or ``module:Name(arguments)`` is; arguments are literals.

    Raises:
        ValueError: it is not of that form, or an argument is no literal.
    """
    module, _, expression = target.partition(":")
    tree = ast.parse(expression or " ", mode="eval").body if expression else None
    call = tree if isinstance(tree, ast.Call) else None
    path = ast.unparse(call.func if call else tree) if tree is not None else ""
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError("expected module:Name or module:Name(arguments)")
    obj: Any = importlib.import_module(module)
    for part in path.split("."):
        obj = getattr(obj, part)
    if call is None:
        return obj
    named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    return obj(*(ast.literal_eval(a) for a in call.args), **named)


def _pair(text: str, separator: str) -> tuple[str, str]:
    left, found, right = text.partition(separator)
    if not found:
        raise ValueError(f"expected NAME{separator}..., got {text!r}")
    return left.strip(), right.strip()


def _hyperparameter(text: str) -> tuple[str, tuple[Any, Any]]:
    name, rest = _pair(text, "=")
    value, domain = _pair(rest, " in ")
    return name, (ast.literal_eval(value), {"bool": bool}.get(domain, domain))


def _lines(result: Result) -> str:
    """Return what is written of a result: its line, and below a failure all of its message and the example."""
    lines = [result.line()]
    if not result.ok:
        lines += [f"           {line}" for line in result.message.splitlines()[1:]]
        lines += [f"           minimal example: {result.example}"] if result.example else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
