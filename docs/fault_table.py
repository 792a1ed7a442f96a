"""The page of the fault table, from the docstrings of tests/fault_table: the case, a colon, what happens."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PAGE = "docs/reference/faults.md"
TESTS = Path(__file__).parent.parent / "tests" / "fault_table"
HEAD = """What goes wrong in training, and what optimkit does then. Each row is a test of the same number in
[tests/fault_table](../../tests/fault_table), which `make test` runs; `make test-all` runs all of them under `python -O`
too. After each of these every variable is as it was before, to the last bit, unless the row says otherwise. All errors
derive from `OptimkitError`, and from the builtin in parentheses; their messages name the variable."""


def rows() -> dict[int, tuple[str, str, str]]:
    """Return case, outcome and file of each row, by its number."""
    found = {}
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.parse(path.read_text("utf8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith(("test_row_", "test_rows_")):
                case, _, outcome = " ".join((ast.get_docstring(node) or "").split()).partition(": ")
                found |= {int(n): (case, outcome, path.name) for n in re.findall(r"\d+", node.name)}
    return dict(sorted(found.items()))


def page(made: str) -> str:
    """Return the page."""
    head = ["# The fault table", "", made.format("tests/fault_table").rstrip(), "", HEAD, ""]
    lines = [*head, "| row | case | what happens |", "|--:|---|---|"]
    for n, (case, outcome, name) in rows().items():
        link = f"[{n}](../../tests/fault_table/{name})"
        lines.append(f"| {link} | {_code(case)} | {_code(outcome[:1].upper() + outcome[1:])} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")
