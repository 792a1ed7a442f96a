"""Docstrings as Markdown: their parts, marks, references and examples."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import inspect
import re
import textwrap
from collections.abc import Iterable
from typing import Any

# --- docstrings -------------------------------------------------------------------------------------------------------

HEAD = re.compile(r"(State|Deviations|Reference|Example|Hyperparameters|Args|Raises(?: \([^)]*\))?):(?: |$)")


ADDED = ("Hyperparameters:", "Args:")


@dataclasses.dataclass
class Doc:
    """A docstring in parts: its first line, what follows, and its sections."""

    summary: str
    body: str
    sections: dict[str, str]

    @classmethod
    def of(cls, x: Any) -> Doc:
        """Read the docstring of a class or a function."""
        summary, _, rest = (inspect.getdoc(x) or "").partition("\n")
        parts: dict[str, list[str]] = {"": []}
        current = ""
        for line in rest.splitlines():
            # What is added to a docstring when its class is made is indented more from Python 3.13 on.
            if head := HEAD.match(line.strip() if line.strip() in ADDED else line):
                current, line = head[1], line.strip()[head.end() :]
                parts[current] = []
            parts[current].append(line)
        texts = {name: textwrap.dedent("\n".join(lines)).strip() for name, lines in parts.items()}
        return cls(summary, texts.pop(""), texts)


def memory_of(body: str) -> tuple[str, str]:
    """Split a body into what it says of memory and the rest."""
    found = re.search(r"\s*\bMemory: (.+?)(?=\n\n|\Z)", body, re.DOTALL)
    if not found:
        return "", body
    words = " ".join(found[1].split())
    return first(words), body[: found.start()] + body[found.end() :]


def markdown(text: str, pages: dict[str, str]) -> str:
    """Return the prose of a docstring as Markdown: marks, references and blocks after ``::``."""
    blocks: list[str] = []
    fence = False
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if fence and block.startswith("    "):
            code = textwrap.dedent(block)
            if blocks and blocks[-1].endswith("\n```"):  # a block with an empty line in it
                blocks[-1] = blocks[-1].removesuffix("\n```") + f"\n\n{code}\n```"
            else:
                blocks.append(f"```text\n{code}\n```")
            continue
        if re.match(r"s\(\w+\) = ", block):  # the formula of a schedule
            blocks.append("```text\n" + block.replace("``", "") + "\n```")
            continue
        fence = block.endswith("::")
        if fence:
            block = block.removesuffix("::").rstrip() and block.removesuffix(":")
        if block:
            blocks.append(inline(block, pages))
    return "\n\n".join(blocks)


def inline(text: str, pages: dict[str, str]) -> str:
    """Return a paragraph with Markdown's marks; ``pages`` are the links of names."""

    def reference(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`{name}`]({pages[name]})" if name in pages else f"`{name}`"

    text = re.sub(r":\w+:`~?([\w.]+)`", reference, text)
    text = re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("*", "\\*") for part in parts)


def first(text: str) -> str:
    """Return a text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], figures: int = 0) -> str:
    """Return a table whose last columns are figures, aligned to the right."""
    words = len(head) - figures
    lines = [head, tuple("---" if i < words else "---:" for i in range(len(head))), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- examples ---------------------------------------------------------------------------------------------------------

IMPORTS = {"jax": "import jax", "jnp": "import jax.numpy as jnp", "np": "import numpy as np"}


def example(text: str, public: dict[str, str]) -> str:
    """Return the example of a docstring, with the imports in front that its module had made for it.

    Args:
        text: the example.
        public: the module that each public name is imported from.
    """
    nodes = [n for e in doctest.DocTestParser().get_examples(text) for n in ast.walk(ast.parse(e.source))]
    bound = {a.asname or a.name for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    bound |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    free = {n.id for n in nodes if isinstance(n, ast.Name)} - bound
    lines = [line for name, line in IMPORTS.items() if name in free]
    lines += [f"import {name}" for name in ("dataclasses",) if name in free]
    for module in sorted({public[name] for name in free if name in public}):
        lines.append(f"from {module} import {', '.join(sorted(n for n in free if public.get(n) == module))}")
    return "```python no-run\n" + "".join(f">>> {line}\n" for line in lines) + text + "\n```"
