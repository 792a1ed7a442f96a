"""Small helpers for scripts: a dict with attributes, and the forms in which layers take sizes and paddings."""

from __future__ import annotations

import inspect
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from optimkit.constants import ConvPadding
from optimkit.core.collection import Renamer as Renamer
from optimkit.errors import StructureError, message

Padding = ConvPadding | str | int | Iterable[Any]
Pairs = tuple[tuple[int, int], ...]


class EasyDict(dict[str, Any]):
    """A dict whose string keys are attributes too. JAX functions take it and return it as they do a dict.

    Example:
        >>> params = EasyDict(lr=0.1)
        >>> params.batch = 32
        >>> params.lr, params["batch"], jax.tree.map(lambda x: 2 * x, params)
        (0.1, 32, {'batch': 64, 'lr': 0.2})
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    __setattr__ = dict.__setitem__

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None


def _flatten_with_keys(x: EasyDict) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
    keys = tuple(sorted(x))
    return [(jax.tree_util.DictKey(k), x[k]) for k in keys], keys


jax.tree_util.register_pytree_with_keys(
    EasyDict, _flatten_with_keys, lambda keys, leaves: EasyDict(zip(keys, leaves, strict=True))
)


def ilog2(x: float) -> int:
    """Return the smallest integer n with ``2**n >= x``.

    Raises:
        StructureError: ``x`` is not a finite positive number.

    Example:
        >>> ilog2(32), ilog2(33)
        (5, 6)
    """
    if not 0 < x < math.inf:
        raise StructureError(message("ilog2", "there is no logarithm.", "a finite number > 0", repr(x)))
    if isinstance(x, numbers.Integral):
        return (int(x) - 1).bit_length()
    mantissa, exponent = math.frexp(x)
    return exponent - 1 if mantissa == 0.5 else exponent


def local_kwargs(kwargs: Mapping[str, Any], f: Callable[..., Any]) -> dict[str, Any]:
    """Return those of the keyword arguments that ``f`` takes: all, if it has ``**kwargs``.

    Example:
        >>> local_kwargs({"training": True}, lambda x, training: x), local_kwargs({"training": True}, abs)
        ({'training': True}, {})
    """
    try:
        parameters = inspect.signature(f).parameters.values()
    except ValueError:  # a builtin or a NumPy ufunc, which does not tell
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(kwargs)
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {k: v for k, v in kwargs.items() if k in names}


def to_tuple(v: Any, n: int, *, where: str = "to_tuple", name: str = "v") -> tuple[int, ...]:
    """Return ``n`` positive integers: one for all of them, or a sequence of ``n``.

    Raises:
        StructureError: it is something else, of another length, or not positive.

    Example:
        >>> to_tuple(3, 2), to_tuple([3, 5], 2)
        ((3, 3), (3, 5))
    """
    items = (int(v),) * n if isinstance(v, numbers.Integral) else _integers(v)
    if items is None or len(items) != n or min(items) < 1:
        raise StructureError(message(where, f"{name!r} does not fit.", f"an int >= 1, or {n} of them", repr(v)))
    return items


def to_padding(padding: Padding, ndim: int, *, where: str = "to_padding") -> str | Pairs:
    """Return a padding as JAX takes it: ``"SAME"``, ``"VALID"``, or a pair of integers for each axis.

    Args:
        padding: a ConvPadding or its name; an integer, for both ends of all axes; a pair (before, after), for all
            axes; or a pair for each axis.
        ndim: the number of axes.
        where: what the error message begins with.

    Raises:
        StructureError: it is none of these, or negative.

    Example:
        >>> to_padding("same", 2), to_padding(1, 2), to_padding((0, 1), 2), to_padding([(0, 1), (2, 3)], 2)
        ('SAME', ((1, 1), (1, 1)), ((0, 1), (0, 1)), ((0, 1), (2, 3)))
    """
    if isinstance(padding, ConvPadding):
        return padding.value
    if isinstance(padding, str) and padding.upper() in ConvPadding.__members__:
        return padding.upper()
    pairs = _pairs(padding, ndim)
    if len(pairs) != ndim or not all(p and len(p) == 2 and min(p) >= 0 for p in pairs):
        raise StructureError(message(
            where, "the padding does not fit.",
            f"'SAME', 'VALID', an int >= 0, a pair (before, after), or {ndim} pairs", repr(padding)))  # fmt: skip
    return tuple((p[0], p[1]) for p in pairs if p)


def _pairs(padding: Any, ndim: int) -> list[tuple[int, ...] | None]:
    if isinstance(padding, numbers.Integral):
        return [(int(padding), int(padding))] * ndim
    if isinstance(padding, str) or not isinstance(padding, Iterable):
        return []
    padding = tuple(padding)
    pair = _integers(padding)
    return [pair] * ndim if pair else [_integers(p) for p in padding]


def _integers(v: Any) -> tuple[int, ...] | None:
    """Return an integer, or several, as a tuple; None for anything else."""
    try:
        return tuple(map(operator.index, v if isinstance(v, Iterable) else (v,)))
    except TypeError:
        return None
