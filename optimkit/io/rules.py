"""Configurations of optimizers side by side: is it another rule, or are other numbers in it?"""

from __future__ import annotations

from typing import Any

_ABSENT = "(absent)"
_NO_RULES = {"schedule", "projections", "optimizer", "variable", "function"}


def another_rule(here: Any, there: Any) -> tuple[str, str] | None:
    """Return how two rules are called, if they are not the same composition of the same rules; None if they are.

    Example:
        >>> adam = {"name": "Optimizer", "rule": {"name": "Adam", "beta1": 0.9}}
        >>> another_rule(adam, {"name": "Optimizer", "rule": {"name": "Adam", "beta1": 0.8}})
        >>> another_rule(adam, {"name": "Optimizer", "rule": {"name": "Nadam", "beta1": 0.9}})
        ('Optimizer(Adam)', 'Optimizer(Nadam)')
        >>> another_rule({"name": "acme.A"}, {"name": "acme.B"})
        ('acme.A', 'acme.B')
    """
    names = _names(here), _names(there)
    return names if names[0] != names[1] else None


def _names(config: Any) -> str:
    """Return the names of a rule and of the rules in it.

    Those of rules are the names of classes, after a dot where somebody registered them so (``acme.Adam``); what is of
    another family (``schedule.Cosine``) or begins with a small letter (``dtype``) is none.
    """
    if isinstance(config, list):
        return ", ".join(filter(None, map(_names, config)))
    if not isinstance(config, dict):
        return ""
    inside = ", ".join(filter(None, map(_names, config.values())))
    name = config.get("name")
    if name == "repr":  # of a class that is not registered
        name = str(config.get("repr")).partition("(")[0]
    family, _, own = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    if not own.isidentifier() or not own[:1].isupper() or family in _NO_RULES:
        return inside
    return f"{name}({inside})" if inside else str(name)


def changes(here: Any, there: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the values that differ, by their path: the present one, and the one in the file.

    Example:
        >>> changes({"name": "Adam", "beta1": 0.9}, {"name": "Adam", "beta1": 0.8})
        {'Adam.beta1': (0.9, 0.8)}
    """
    if isinstance(here, dict) and isinstance(there, dict):
        path = path or str(here.get("name", ""))
        keys = dict.fromkeys([*here, *there])
        pairs = [(f"{path}.{key}", here.get(key, _ABSENT), there.get(key, _ABSENT)) for key in keys]
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        pairs = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(here, there, strict=True))]
    else:
        same = type(here) is type(there) and here == there
        return {} if same else {path: (here, there)}
    found: dict[str, tuple[Any, Any]] = {}
    for inner, mine, theirs in pairs:
        found |= changes(mine, theirs, inner)
    return found
