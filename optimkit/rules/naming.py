"""Names for what a rule remembers: after the parameter that it belongs to, never after a position."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, NamedTuple

import jax

from optimkit.errors import StructureError, message


class StateName(NamedTuple):
    """The name of one array of a state: where it is, the parameter that it belongs to (if any), and what it is there.

    Example:
        >>> str(StateName(("Adam",), "conv.w", ("mu",))), str(StateName(("Adam", "t")))
        ('.Adam[conv.w].mu', '.Adam.t')
    """

    before: tuple[str, ...]
    param: str | None = None
    after: tuple[str, ...] = ()

    def __str__(self) -> str:
        owner = "" if self.param is None else f"[{self.param}]"
        return "".join(f".{x}" for x in self.before if x) + owner + "".join(f".{x}" for x in self.after)


def name_state(params: list[str], state: Any) -> tuple[list[StateName], list[Any], Any]:
    """Flatten a rule's state into names, leaves and structure.

    Raises:
        StructureError: two arrays would have one name.

    Example:
        >>> from optimkit import rules
        >>> import jax.numpy as jnp
        >>> [str(name) for name in name_state(["conv.w"], rules.Momentum().init({"conv.w": jnp.ones(2)}))[0]]
        ['[conv.w].m', '.t']
    """
    paths, structure = jax.tree.flatten_with_path(state)
    tokens = [tuple(map(_token, path)) for path, _ in paths]
    below: dict[tuple[str, ...], set[str]] = defaultdict(set)  # the keys under each place
    for path in tokens:
        for i, token in enumerate(path):
            below[path[:i]].add(token)
    known = frozenset(params)
    by_parameter = {place for place, keys in below.items() if _is_by_parameter(place, keys, known)}
    names = [_split(path, by_parameter, known) for path in tokens]
    shown, repeated = Counter(map(str, names)).most_common(1)[0] if names else ("", 1)
    if repeated > 1:
        raise StructureError(message(
            "state", f"{repeated} arrays of the state of a rule are called {shown!r}.", "a name for each",
            ", ".join(str(path) for path, name in zip(tokens, names, strict=True) if str(name) == shown),
            "Use keys without dots in the state, and names of parameters that are not keys of it."))  # fmt: skip
    return names, [x for _, x in paths], structure


def _is_by_parameter(place: tuple[str, ...], keys: set[str], known: frozenset[str]) -> bool:
    # A LeafRule's own keys come first: parameters may be called "t" and "slots", too.
    return place[-1:] == ("slots",) or (keys <= known and keys != {"t", "slots"})


def _split(path: tuple[str, ...], by_parameter: set[tuple[str, ...]], known: frozenset[str]) -> StateName:
    for i, token in enumerate(path):
        if path[:i] in by_parameter:
            before = path[: i - 1] if path[i - 1 : i] == ("slots",) else path[:i]
            param, *part = _owner(token, known)
            return StateName(before, param, (*part, *path[i + 1 :]))
    return StateName(path)


def _owner(token: str, known: frozenset[str]) -> tuple[str, ...]:
    """Return the parameter, and the part of it where a Partition has named one (``w.direction``, by WeightNorm)."""
    owner = max((p for p in known if token.startswith(f"{p}.")), key=len, default=token)
    return (token,) if token in known or owner == token else (owner, token[len(owner) + 1 :])


def _token(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))
