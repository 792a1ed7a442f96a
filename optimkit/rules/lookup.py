"""Finding and replacing hyperparameters by name, also inside compositions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optimkit.errors import HyperparameterError, message
from optimkit.hyper import hyperparameters
from optimkit.rules.base import Rule

Path = tuple[tuple[str, int | None], ...]  # the field of a rule, and the place in it where it is a tuple


def walk(rule: Rule, path: Path = ()) -> Iterator[tuple[Path, Rule]]:
    """Yield a rule and all rules inside it, each with the path to it."""
    yield path, rule
    for name, x in rule._fields().items():
        if isinstance(x, Rule):
            yield from walk(x, (*path, (name, None)))
        elif isinstance(x, tuple):
            for i, part in enumerate(x):
                if isinstance(part, Rule):
                    yield from walk(part, (*path, (name, i)))


def _holders(rule: Rule) -> list[tuple[Path, str, str]]:
    """Return path, label and name of each hyperparameter; the label is the class, ``Adam_2`` where it is the second."""
    found, seen = [], dict[str, int]()
    for path, part in walk(rule):
        kind = type(part).__name__
        seen[kind] = seen.get(kind, 0) + 1
        label = kind if seen[kind] == 1 else f"{kind}_{seen[kind]}"
        found += [(path, label, name) for name in hyperparameters(part)]
    return found


def names_of(rule: Rule) -> list[str]:
    """Return the names that :func:`get` knows: of all hyperparameters, ``Class.name`` where a name stands twice."""
    holders = _holders(rule)
    plain = [name for _, _, name in holders]
    return [name if plain.count(name) == 1 else f"{label}.{name}" for _, label, name in holders]


def find(where: str, rule: Rule, name: str) -> tuple[Path, str]:
    """Return the path to the rule that has a hyperparameter, and its name there.

    Raises:
        HyperparameterError: no rule has it, or more than one.
    """
    wanted, _, field = name.rpartition(".")
    found = [(path, label) for path, label, x in _holders(rule) if x == field and wanted in ("", label)]
    if len(found) == 1:
        return found[0][0], field
    if not found:
        raise HyperparameterError(message(
            where, f"there is no hyperparameter {name!r}.", "one of " + ", ".join(map(repr, names_of(rule))),
            repr(name)))  # fmt: skip
    holders = ", ".join(f"{label}.{field}" for _, label in found)
    raise HyperparameterError(message(where, f"hyperparameter {name!r} is not unique.", f"one of {holders}", name))


def get(where: str, rule: Rule, name: str) -> Any:
    """Return the value of a hyperparameter, ``"beta1"`` or ``"Adam.beta1"``."""
    path, field = find(where, rule, name)
    return getattr(at(rule, path), field)


def at(rule: Rule, path: Path) -> Rule:
    """Return the rule at a path."""
    for name, i in path:
        x = getattr(rule, name)
        rule = x if i is None else x[i]
    return rule


def override(where: str, rule: Rule, values: dict[str, Any]) -> Rule:
    """Return the rule with hyperparameters replaced, wherever inside it they are; None keeps a value.

    Example:
        >>> from optimkit import rules
        >>> override("example", rules.Chain(rules.WeightDecay(), rules.Adam()), {"beta1": 0.5, "rate": 0.0})
        Chain(WeightDecay(rate=0.0), Adam(beta1=0.5, beta2=0.999, eps=1e-08, eps_root=0.0))
    """
    for name, value in values.items():
        if value is not None:
            path, field = find(where, rule, name)
            rule = with_value(rule, path, field, value)
    return rule


def with_value(rule: Rule, path: Path, field: str, value: Any) -> Rule:
    """Return the rule with a hyperparameter of the rule at a path replaced."""
    if not path:
        return rule.replace(**{field: value})
    (name, i), *rest = path
    x = getattr(rule, name)
    if i is None:
        return rule.replace(**{name: with_value(x, tuple(rest), field, value)})
    return rule.replace(**{name: (*x[:i], with_value(x[i], tuple(rest), field, value), *x[i + 1 :])})
