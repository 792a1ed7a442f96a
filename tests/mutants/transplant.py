"""A rule made of changed source, beside the right one: copies of the modules between the change and the rule.

The copy of a module gets a name of its own and is imported as any other, so that dataclasses, pickle and tracebacks
work; what it imports from a module that is copied too comes from that copy. ``Rule`` and ``Step`` are never copied:
the kit, and the rules around a mutant, know it by them.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import pathlib
import sys
import types
from collections.abc import Iterator, Mapping

import optimkit
from optimkit.rules import Rule

ROOT = pathlib.Path(optimkit.__file__).parent
KEPT = {"optimkit.rules.base": ("Rule", "Step")}
# Compositions are the same around a mutant as around the rule; they are copied only where the change is in them.
ONLY_IF_CHANGED = ("optimkit.rules.compose", "optimkit.rules")

_serial = itertools.count()


@functools.cache
def source_tree(module: str) -> ast.Module:
    """Return the syntax tree of a module of optimkit; not to be changed."""
    return ast.parse((ROOT.parent / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Return the modules of rules and arithmetic that a module imports itself."""
    found = set()
    for node in source_tree(module).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(m for m in found if _is_copyable(m))


def _is_copyable(module: str) -> bool:
    own = module.startswith("optimkit.rules.") or module in ("optimkit.numerics", "optimkit.tree")
    return own and (ROOT.parent / (module.replace(".", "/") + ".py")).is_file()


def between(changed: str, rule_modules: frozenset[str]) -> list[str]:
    """Return the changed module and those from which rules of some modules reach it, each after what it imports."""
    order: list[str] = []
    reaches: dict[str, bool] = {}

    def visit(module: str) -> bool:
        if module not in reaches:
            reaches[module] = module == changed
            below = [visit(m) for m in sorted(imports(module))]
            reaches[module] |= any(below) and module not in ONLY_IF_CHANGED
            if reaches[module]:
                order.append(module)
        return reaches[module]

    for module in sorted(rule_modules):
        visit(module)
    return order


def modules_of(rule: Rule) -> frozenset[str]:
    """Return the modules of the classes of a rule and of its parts."""
    parts = [x for value in rule._fields().values() for x in (value if isinstance(value, tuple) else (value,))]
    below = (modules_of(x) for x in parts if isinstance(x, Rule))
    return frozenset({type(rule).__module__}.union(*below))


def _redirected(tree: ast.Module, copies: Mapping[str, str]) -> ast.Module:
    """Return a module that imports from copies where there are some."""
    body: list[ast.stmt] = []
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or not node.module:
            body.append(node)
            continue
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            if whole in copies:
                body += ast.parse(f"import sys\n{alias.asname or alias.name} = sys.modules[{copies[whole]!r}]").body
            else:
                body.append(ast.ImportFrom(copies.get(node.module, node.module), [alias], 0))
    return ast.fix_missing_locations(ast.Module(body, []))


def _without(tree: ast.Module, module: str) -> ast.Module:
    """Return a module that takes its kept classes from the original."""
    kept = KEPT.get(module, ())
    body = [x for x in tree.body if not (isinstance(x, ast.ClassDef) and x.name in kept)]
    if kept:
        after = max(i for i, x in enumerate(body) if isinstance(x, ast.Import | ast.ImportFrom)) + 1
        body.insert(after, ast.ImportFrom(module, [ast.alias(name) for name in kept], 0))
    return ast.Module(body, [])


@contextlib.contextmanager
def transplanted(changed: str, tree: ast.Module, rules: Mapping[str, Rule]) -> Iterator[dict[str, Rule]]:
    """Yield rules as they are with another source of one module, by the names that they were given.

    The copies are importable only within the context.

    Args:
        changed: name of the module, such as ``optimkit.rules.adam``.
        tree: its new syntax tree.
        rules: rules whose classes are defined in it or reach it.
    """
    order = between(changed, frozenset().union(*map(modules_of, rules.values())))
    mark = next(_serial)
    copies = {module: f"mutant{mark}_{module.replace('.', '_')}" for module in order}
    try:
        for module in order:
            copy = sys.modules[copies[module]] = types.ModuleType(copies[module])
            new = _redirected(tree if module == changed else source_tree(module), copies)
            # Classes that are kept come from the original itself, so this import is not redirected.
            code = compile(ast.fix_missing_locations(_without(new, module)), f"<{copies[module]}>", "exec")
            exec(code, vars(copy))
        yield {name: _remade(rule, copies) for name, rule in rules.items()}
    finally:
        for copy_name in copies.values():
            sys.modules.pop(copy_name, None)


def _remade(rule: Rule, copies: Mapping[str, str]) -> Rule:
    """Return a rule of the same values whose class, and those of its parts, are the copies."""
    cls = type(rule)
    if cls.__module__ in copies:
        cls = getattr(sys.modules[copies[cls.__module__]], cls.__name__)
    fields = {name: _remade_part(x, copies) for name, x in rule._fields().items()}
    if "matches" in fields:
        return cls(*zip(fields["matches"], fields["rules"], strict=True), labels=fields["labels"])
    return cls(*fields["rules"]) if "rules" in fields else cls(**fields)


def _remade_part(x: object, copies: Mapping[str, str]) -> object:
    if isinstance(x, tuple):
        return tuple(_remade_part(y, copies) for y in x)
    return _remade(x, copies) if isinstance(x, Rule) else x
