"""The Python code that README.md and the docs show runs as it stands there."""

import re
import subprocess
import sys
import traceback
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(text: str) -> list[tuple[str, int, str]]:
    """Return the info string, the line of the first statement and the text of each fenced block."""
    found = []
    for match in FENCE.finditer(text):
        indent = len(match["indent"])
        body = "".join(line[indent:] or "\n" for line in match["body"].splitlines(keepends=True))
        found.append((match["info"].strip(), text.count("\n", 0, match.start("body")) + 1, body))
    return found


def run_page(name: str, text: str) -> dict:
    """Run the ``python`` blocks of a page in order, in one namespace, and return that namespace."""
    # A real module, for what looks its module up by name: dataclasses, pickle, typing.get_type_hints.
    module = types.ModuleType(f"page_{re.sub(r'[^A-Za-z0-9]', '_', name)}")
    sys.modules[module.__name__] = module
    try:
        for info, line, body in blocks(text):
            if info == "python":
                # Empty lines in front make a traceback name the line of the page.
                exec(compile("\n" * (line - 1) + body, name, "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module.__dict__


@each_page
def test_the_python_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a page saves goes there
    run_page(str(page), page.read_text(encoding="utf-8"))


@each_page
def test_no_python_code_of_a_page_is_passed_over(page):
    text = page.read_text(encoding="utf-8")
    found = blocks(text)
    assert len(re.findall(r"^ *(```|~~~)", text, re.MULTILINE)) == 2 * len(found), "a fence that is not closed, or ~~~"
    spellings = {info for info, _, _ in found if "py" in info.lower()}
    assert spellings <= {"python", "python no-run"}


def test_readme_shows_python_code_that_runs():
    assert any(info == "python" for info, _, _ in blocks((ROOT / "README.md").read_text(encoding="utf-8")))


@each_page
def test_every_make_command_of_a_page_is_a_target(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"`make ([a-z-]+)", text)
    for info, _, body in blocks(text):
        if info in {"", "sh", "bash", "shell", "console"}:
            targets += re.findall(r"^(?:\$ )?make ([a-z-]+)", body, re.MULTILINE)
    for target in sorted(set(targets)):
        made = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr


PAGE = """\
# Title

```python
x = 1
```

- an item
  ```python
  y = x + 1

  if y:
      z = 3
  ```

```python no-run
x = 0
```
"""


def test_blocks_share_one_namespace_and_no_run_is_left_out():
    namespace = run_page("page.md", PAGE)
    assert (namespace["x"], namespace["y"], namespace["z"]) == (1, 2, 3)


def test_a_failing_block_is_reported_with_its_line_in_the_page():
    with pytest.raises(ZeroDivisionError) as failure:
        run_page("page.md", PAGE.replace("z = 3", "z = 3 / 0"))
    last = traceback.extract_tb(failure.tb)[-1]
    assert (last.filename, last.lineno) == ("page.md", 12)
