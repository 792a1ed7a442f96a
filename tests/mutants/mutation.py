"""What a mutation operator is, and how it looks at a syntax tree.

An operator looks at one node of a class or function and yields sources of what might stand there instead. It knows
nothing of what the code means, so some of its mutants do not run (``catalogue`` leaves those out), and a few are the
same program in other words (``known`` lists them, each with a proof).
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

ORACLE = ("check_oracle",)
MATTER = ("check_oracle", "check_hyperparameters_matter")
FORM = ("check_form_is_kept", "check_slots_are_wide")


@dataclasses.dataclass(frozen=True)
class Context:
    """What an operator may know of where a node stands.

    Attributes:
        cls: name of the class, or "".
        function: name of the function, or "" in the body of a class.
        arguments: names of the function's arguments.
        fields: the declared hyperparameters of the class and of its bases, with the source of their defaults.
        slots: names of the slots that the function reads.
        index: whether the node is an index, an axis or a shape rather than a number to calculate with.
        stored: whether the node is a part of the state that the function returns.
    """

    cls: str = ""
    function: str = ""
    arguments: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    slots: tuple[str, ...] = ()
    index: bool = False
    stored: bool = False

    @property
    def state(self) -> str:
        """The name of the argument that has the old state."""
        return next((name for name in ("slot", "state") if name in self.arguments), "")


Variants = Callable[[ast.AST, Context], Iterator[str]]


@dataclasses.dataclass(frozen=True)
class Operator:
    """A kind of mistake.

    Attributes:
        name: its name.
        reason: what an author has done who makes it.
        variants: yields sources that replace a node.
        likely: the checks that probably see it; they are tried first.
        form: whether it is seen without an oracle.
    """

    name: str
    reason: str
    variants: Variants
    likely: tuple[str, ...] = ORACLE
    form: bool = False


OPERATORS: dict[str, Operator] = {}


def operator(reason: str, likely: tuple[str, ...] = ORACLE, *, form: bool = False) -> Callable[[Variants], Variants]:
    """Enter a function into the list of operators, by its name."""

    def enter(variants: Variants) -> Variants:
        name = getattr(variants, "__name__", "")
        OPERATORS[name] = Operator(name, reason, variants, likely, form)
        return variants

    return enter


def src(node: ast.AST) -> str:
    """Return the source of an expression, in parentheses, so that it can stand anywhere."""
    return f"({ast.unparse(node)})"


def called(node: ast.AST, *names: str) -> list[ast.expr] | None:
    """Return the arguments of a call of one of these functions, however they are imported; None for other nodes."""
    if isinstance(node, ast.Call):
        f = node.func
        if (f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "")) in names:
            return node.args
    return None


def of_self(node: ast.AST) -> str:
    """Return x for ``self.x``, and "" for other nodes."""
    match node:
        case ast.Attribute(ast.Name("self"), name, ast.Load()):
            return name
    return ""


def is_lr(node: ast.AST) -> bool:
    """Tell whether a node is the learning rate."""
    return isinstance(getattr(node, "ctx", None), ast.Load) and ast.unparse(node) in ("lr", "step.lr")


def number(node: ast.AST) -> Any:
    """Return the value of a numeric literal, None for other nodes."""
    value = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
    return value if type(value) in (int, float) else None
