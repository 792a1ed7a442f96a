"""The shape of the package: layers, cycles, forbidden constructs, sizes, docstrings and the public surface.

The sources are read, not run, except for the public surface. Each check is a function of a module's source that
returns what it objects to, so that the checks themselves are tested on sources that break the rules.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import optimkit
from optimkit import rules

ROOT = Path(optimkit.__file__).parent
GOLDEN = Path(__file__).parent / "golden" / "public_surface.txt"
REGENERATE = "OPTIMKIT_REGENERATE_SURFACE"

# --- what is allowed --------------------------------------------------------------------------------------------------

LAYERS = [
    {"errors", "hyper", "tree", "numerics", "schedule", "projections", "constants", "placement"},
    {"core", "rules"},
    {"variable", "module", "gradient", "random", "util", "pure", "config", "optimizer", "ema", "io", "nn", "functional",
     "privacy", "scaling"},
    {"contrib", "federated", "interop", "testing", "report"},
    {"optimkit", "__main__"},
]  # fmt: skip
LAYER = {unit: i for i, units in enumerate(LAYERS) for unit in units}

# Imports within a layer. Each is a decision: extend it on purpose or not at all. `core` and `rules` are not in it.
BESIDE = {
    "hyper": {"errors"}, "schedule": {"errors", "hyper"}, "tree": {"numerics"},
    "projections": {"errors", "hyper", "numerics"},
    "functional": {"util"}, "nn": {"functional", "util"}, "optimizer": {"config", "pure", "ema"},
}  # fmt: skip

# What type checkers import: it runs where it is used, and nowhere else.
FOR_TYPES = {"optimkit.testing.strategies": {"hypothesis"}}

MAX_LINES, MAX_FUNCTION = 450, 60

# --- reading sources --------------------------------------------------------------------------------------------------


def read_package() -> dict[str, ast.Module]:
    """Return the syntax trees of the package's modules, by name."""
    trees = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text("utf8"))
    return trees


MODULES = read_package()


def walk(node: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    """Yield all nodes below one, or those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if into_functions or not function:
            yield child
            yield from walk(child, into_functions)


def imports(tree: ast.AST, into_functions: bool = True, known: Any = MODULES) -> Iterator[tuple[str, int]]:
    """Yield what a module imports, with the line; ``from package import module`` is the module."""
    for node in walk(tree, into_functions):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield (full if full in known or source in ("jax", "jax.core") else source), node.lineno


def unit(module: str) -> str:
    """Return the part of the package that has a layer: what comes after ``optimkit.``."""
    return module.split(".")[1] if "." in module else module


# --- the checks -------------------------------------------------------------------------------------------------------


def layer_errors(name: str, tree: ast.AST, known: Any = MODULES) -> list[str]:
    """Return the imports that go up, or aside without leave."""
    mine, found = unit(name), []
    for target, line in imports(tree, known=known):
        theirs = unit(target)
        if target.startswith("."):
            found.append(f"{name}:{line} imports {target!r}: write the full name")
        elif target.split(".")[0] != "optimkit" or theirs == mine:
            continue
        elif theirs not in LAYER:
            found.append(f"{name}:{line} imports {target}, which has no layer in tests/test_architecture.py")
        elif LAYER[theirs] > LAYER[mine]:
            found.append(f"{name}:{line} imports {target}, which lies above it")
        elif LAYER[theirs] == LAYER[mine] and theirs not in BESIDE.get(mine, ()):
            found.append(f"{name}:{line} imports {target}, which lies beside it")
    return found


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return one path for each import that closes a cycle, by depth-first search."""
    found, done = [], set()

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            found.append([*path[path.index(node) :], node])
        elif node not in done:
            for target in sorted(graph.get(node, ())):
                visit(target, [*path, node])
            done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def third_party_errors(name: str, tree: ast.AST) -> list[str]:
    """Return imports of anything but the standard library, jax and numpy that run with the module's import."""
    allowed = {*sys.stdlib_module_names, "jax", "numpy", "optimkit", *FOR_TYPES.get(name, ())}
    return [f"{name}:{line} imports {m}" for m, line in imports(tree, False) if m.split(".")[0] not in allowed]


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for the expression that it is, or an empty string."""
    if isinstance(node, ast.Attribute):
        return f"{before}.{node.attr}" if (before := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def private_jax_errors(name: str, tree: ast.AST) -> list[str]:
    """Return uses of JAX that its authors do not promise to keep."""
    attributes = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    inner = {id(n.value) for n in attributes}
    uses = [*imports(tree), *((dotted(n), n.lineno) for n in attributes if id(n) not in inner)]
    found = []
    for use, line in uses:
        package, *parts = use.split(".")
        private = any(part.startswith("_") for part in parts)
        # Of jax.core only the tracer's class is used; ensure_compile_time_eval is in jax itself.
        internal = parts[:1] in (["core"], ["interpreters"]) and parts not in (["core"], ["core", "Tracer"])
        if package == "jax" and (private or internal):
            found.append(f"{name}:{line} uses {use}")
    return found


def construct_errors(name: str, tree: ast.AST) -> list[str]:
    """Return what no library code has: assert for users, bare except, print."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            found.append(f"{name}:{node.lineno} assert")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{name}:{node.lineno} bare except")
        elif isinstance(node, ast.Call) and dotted(node.func) in ("print", "breakpoint", "sys.stdout.write"):
            found.append(f"{name}:{node.lineno} {dotted(node.func)}")
    return found


def function_sizes(name: str, tree: ast.AST) -> dict[str, int]:
    """Return the number of lines of each function, without its docstring."""
    sizes = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            doc = first.end_lineno - first.lineno + 1 if text else 0
            sizes[f"{name}:{node.lineno} {node.name}"] = node.end_lineno - node.lineno + 1 - doc
    return sizes


# --- the package ------------------------------------------------------------------------------------------------------


def test_every_module_has_a_layer():
    assert sorted({unit(name) for name in MODULES} - LAYER.keys()) == []


def test_modules_import_only_from_below_or_from_their_own_package():
    assert [error for name, tree in MODULES.items() for error in layer_errors(name, tree)] == []


def test_no_imports_form_a_cycle():
    graph = {name: {m for m, _ in imports(tree, False) if m in MODULES} for name, tree in MODULES.items()}
    assert cycles(graph) == []


def test_only_jax_and_numpy_are_needed_at_run_time():
    assert [error for name, tree in MODULES.items() for error in third_party_errors(name, tree)] == []


def test_only_the_public_part_of_jax_is_used():
    assert [error for name, tree in MODULES.items() for error in private_jax_errors(name, tree)] == []


def test_the_library_neither_asserts_nor_prints_nor_swallows():
    assert [error for name, tree in MODULES.items() for error in construct_errors(name, tree)] == []


def test_files_and_functions_are_of_readable_size():
    lines = {str(path): len(path.read_text("utf8").splitlines()) for path in ROOT.rglob("*.py")}
    assert {path: n for path, n in lines.items() if n > MAX_LINES} == {}
    sizes = {where: n for name, tree in MODULES.items() for where, n in function_sizes(name, tree).items()}
    assert {where: n for where, n in sizes.items() if n > MAX_FUNCTION} == {}


# --- the checks check -------------------------------------------------------------------------------------------------

BAD_IMPORTS = [
    ("optimkit.numerics", "import optimkit.core", "above"),
    ("optimkit.core.variable", "from optimkit.rules import Adam", "beside"),
    ("optimkit.rules.adam", "from optimkit.core.variable import TrainVar", "beside"),
    ("optimkit.rules.adam", "def f():\n    from optimkit import core", "beside"),
    ("optimkit.core.module", "from optimkit import pure", "above"),
    ("optimkit.core.module", "from optimkit import Module", "above"),
    ("optimkit.functional.loss", "from optimkit.nn import Linear", "beside"),
    ("optimkit.nn.linear", "from optimkit.testing import check", "above"),
    ("optimkit.nn.linear", "import optimkit.newcomer", "no layer"),
    ("optimkit.nn.linear", "from . import init", "full name"),
    ("optimkit.nn.linear", "from .init import zeros", "full name"),
]
GOOD_IMPORTS = [
    ("optimkit.rules.adam", "from optimkit.rules.base import Rule\nimport jax\nfrom optimkit import numerics"),
    ("optimkit.optimizer.base", "from optimkit.pure import pure\nfrom optimkit.core import Module"),
    ("optimkit", "from optimkit.testing import check\nfrom optimkit import core"),
    ("optimkit.testing.runner", "def f():\n    from optimkit import optimizer"),
]


@pytest.mark.parametrize(("name", "source", "why"), BAD_IMPORTS)
def test_an_import_against_the_layers_is_found(name, source, why):
    (error,) = layer_errors(name, ast.parse(source))
    assert why in error
    assert error.startswith(f"{name}:")


@pytest.mark.parametrize(("name", "source"), GOOD_IMPORTS)
def test_an_import_along_the_layers_is_not(name, source):
    assert layer_errors(name, ast.parse(source)) == []


def test_cycles_are_found_with_their_path():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}}) == [["b", "c", "b"]]
    assert cycles({"a": {"a"}}) == [["a", "a"]]
    assert cycles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}}) == []


@pytest.mark.parametrize("source", ["import optax", "from scipy import stats", "try:\n    import tqdm\nexcept E: pass",
                                    "class A:\n    import tqdm"])  # fmt: skip
def test_an_import_of_an_extra_is_found_where_it_runs_at_import(source):
    assert len(third_party_errors("optimkit.nn.linear", ast.parse(source))) == 1
    inside = ast.parse("def f():\n" + "\n".join("    " + line for line in source.splitlines()))
    assert third_party_errors("optimkit.nn.linear", inside) == []


@pytest.mark.parametrize("source", [
    "import jax._src.core", "from jax._src import core", "x = jax._src.core.Tracer", "jax.core.Jaxpr",
    "from jax.core import Jaxpr", "jax.core.trace_state_clean()", "from jax.interpreters import ad",
    "jax.numpy._reduce_sum(x)", "from jax import _src",
])  # fmt: skip
def test_a_use_of_private_jax_is_found(source):
    assert len(set(private_jax_errors("m", ast.parse(source)))) == 1


@pytest.mark.parametrize("source", ["isinstance(x, jax.core.Tracer)", "jax.ensure_compile_time_eval()", "v._buffer.x",
                                    "from jax.core import Tracer", "from jax import numpy as jnp"])  # fmt: skip
def test_a_use_of_public_jax_is_not(source):
    assert private_jax_errors("m", ast.parse(source)) == []


@pytest.mark.parametrize("source", ["assert x", "try: f()\nexcept: pass", "print(1)", "def f():\n    print()"])
def test_a_forbidden_construct_is_found(source):
    assert len(construct_errors("m", ast.parse(source))) == 1


def test_a_functions_size_counts_its_lines_without_the_docstring():
    source = 'def f(\n    x,\n):\n    """One.\n\n    Two.\n    """\n    return x\n'
    assert function_sizes("m", ast.parse(source)) == {"m:1 f": 4}


# --- the public surface -----------------------------------------------------------------------------------------------

PUBLIC = ["optimkit", "optimkit.rules", "optimkit.optimizer", "optimkit.optimizer.scheduler", "optimkit.nn",
          "optimkit.nn.init", "optimkit.functional", "optimkit.functional.divergence", "optimkit.functional.loss",
          "optimkit.functional.parallel", "optimkit.random", "optimkit.schedule", "optimkit.projections",
          "optimkit.config", "optimkit.errors", "optimkit.variable", "optimkit.module", "optimkit.gradient",
          "optimkit.util", "optimkit.constants", "optimkit.interop", "optimkit.io", "optimkit.privacy",
          "optimkit.privacy.dpsgd", "optimkit.testing", "optimkit.contrib", "optimkit.contrib.rules",
          "optimkit.contrib.compat", "optimkit.federated"]  # fmt: skip


def exported(tree: ast.Module) -> list[str]:
    """Return the public names that a module defines or, by ``import x as x``, passes on."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names if alias.asname == alias.name]
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return sorted({name for name in names if not name.startswith("_")})


def parameters(x: Any) -> str:
    """Return the names of a function's parameters, those with a default marked; nothing for what is not ours."""
    ours = getattr(x, "__module__", "").startswith("optimkit")
    if not ours or (inspect.isclass(x) and issubclass(x, BaseException | enum.Enum)):
        return ""
    try:
        signature = inspect.signature(x)
    except ValueError:  # a class with the constructor of dict
        return ""
    shown, keyword_only = [], False
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not keyword_only:
            shown.append("*")
        keyword_only = p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        shown.append(f"{stars}{p.name}" + ("=" if p.default is not p.empty else ""))
    return f"({', '.join(shown)})"


def members(cls: type) -> Iterator[str]:
    """Yield the public methods and properties that a class adds to its bases', and how it is called."""
    for name, x in sorted(vars(cls).items()):
        if name != "__call__" and (name.startswith("_") or any(name in vars(base) for base in cls.__mro__[1:])):
            continue
        if isinstance(x, property):
            yield f"  .{name}"
        elif isinstance(x, staticmethod | classmethod) or inspect.isfunction(x):
            yield f"  .{name}{parameters(inspect.unwrap(getattr(x, '__func__', x)))}"


def describe_surface() -> Iterator[str]:
    """Yield the public names, one a line, with their kinds, parameters and methods; a class in full once."""
    seen = set()
    for module in PUBLIC:
        for name in exported(MODULES[module]):
            x = getattr(importlib.import_module(module), name)
            kind = "module" if inspect.ismodule(x) else "class" if inspect.isclass(x) else "value"
            kind = "function" if callable(x) and kind == "value" else kind
            first = id(x) not in seen
            seen.add(id(x))
            yield f"{module}.{name}: {kind}" + (parameters(x) if first and kind in ("class", "function") else "")
            if first and kind == "class" and x.__module__.startswith("optimkit"):
                yield from members(x)


def test_the_public_surface_is_the_one_agreed_on():
    surface = "\n".join(describe_surface()) + "\n"
    if os.environ.get(REGENERATE):
        GOLDEN.write_text(surface, "utf8")
    agreed = GOLDEN.read_text("utf8") if GOLDEN.exists() else ""
    ours, theirs = surface.splitlines(), agreed.splitlines()
    changes = [f"+ {line}" for line in ours if line not in theirs]
    changes += [f"- {line}" for line in theirs if line not in ours]
    if surface != agreed:
        pytest.fail(
            f"The public surface differs from {GOLDEN.relative_to(Path(__file__).parent.parent)}:\n"
            + "\n".join(changes or ["(another order)"])
            + f"\nWhat is removed or renamed breaks scripts. If it is meant: {REGENERATE}=1 pytest "
            "tests/test_architecture.py, and a line in CHANGELOG.md."
        )


def public_objects() -> dict[str, Any]:
    """Return the public classes and functions that are ours, by name."""
    found = {f"{m}.{name}": getattr(importlib.import_module(m), name) for m in PUBLIC for name in exported(MODULES[m])}
    return {
        name: x
        for name, x in found.items()
        if (inspect.isclass(x) or inspect.isfunction(x)) and x.__module__.startswith("optimkit")
    }


def test_every_public_class_and_function_has_a_docstring_of_its_own():
    without = [name for name, x in public_objects().items() if not (x.__doc__ or "").strip()]
    inherited = [name for name, x in public_objects().items() if inspect.isclass(x) and "__doc__" not in vars(x)]
    assert without + inherited == []


# What composes rules is not published anywhere.
MACHINERY = {"Rule", "LeafRule", "Wrapper", "Composed", "Chain", "Partition", "Frozen"}
ALGORITHMS = {
    name: x for name, x in vars(rules).items()
    if inspect.isclass(x) and issubclass(x, rules.Rule) and name not in MACHINERY
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_rule_names_its_source_and_says_what_it_keeps_and_where_it_departs(name):
    rule = ALGORITHMS[name]
    doc = inspect.cleandoc(rule.__doc__).split("\n")
    sections = ("State:", "Deviations:", "Reference:", "Example:")
    assert [section for section in sections if not any(line.startswith(section) for line in doc)] == []
    assert any(character.isdigit() for character in rule.reference), "a reference has a year"
    assert "    >>> " in rule.__doc__
