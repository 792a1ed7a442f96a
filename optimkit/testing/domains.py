"""Values to try a hyperparameter with, from its declared domain: inside, outside, at the ends, and nearby."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from optimkit.hyper import Domain, contains, parse_interval


def outside(domain: Domain, optional: bool = False) -> list[Any]:
    """Return values that must be rejected, the telling ones first: just outside each end, NaN, values of other types.

    The last one is a value that also an override for one call must reject.
    """
    other: list[Any] = ["0.5", 1j, [0.5], object, *([] if optional else [None])]
    if isinstance(domain, tuple):
        return ["no such choice", *other, -12345]
    if domain is bool:
        return [2, "yes", *other, 1, 0.0]
    low, high, kind = parse_interval(str(domain))
    # An open end is itself outside; next to a closed end the nearest number is.
    below = _below(low, kind) if "[" in str(domain) else kind(low) if math.isfinite(low) else low
    above = _above(high, kind) if "]" in str(domain) else kind(high) if math.isfinite(high) else high
    between = [0.5 + (low if math.isfinite(low) else 0.0)] if kind is int else []
    near = [*(x for x in (below, above) if x is not None), *between]
    return [*near, math.nan, np.float32(math.nan), *other, True]


def _below(low: float, kind: type) -> Any:
    return None if math.isinf(low) else int(low) - 1 if kind is int else math.nextafter(low, -math.inf)


def _above(high: float, kind: type) -> Any:
    return None if math.isinf(high) else int(high) + 1 if kind is int else math.nextafter(high, math.inf)


def ends(domain: Domain) -> list[Any]:
    """Return the outermost values that must be accepted: closed ends, and the numbers next to open ends."""
    if domain is bool:
        return [False, True]
    if isinstance(domain, tuple):
        return list(domain)
    low, high, kind = parse_interval(str(domain))
    first = low if "[" in str(domain) else _above(low, kind)
    last = high if "]" in str(domain) else _below(high, kind)
    return [kind(x) for x in (first, last) if x is not None and math.isfinite(x)]


def across(domain: Domain) -> list[Any]:
    """Return values from all over a domain: its closed ends, and some inside; of a choice or a bool all there are."""
    if not isinstance(domain, str):
        return ends(domain)
    low, high, kind = parse_interval(domain)
    closed = [x for x in ends(domain) if x in (low, high)]
    if kind is int:
        inside: list[Any] = [x for x in (int(max(low, 0)) + step for step in (1, 10)) if x < high]
    elif math.isfinite(high - low):
        inside = [low + part * (high - low) for part in (0.1, 0.9)]
    elif math.isfinite(low):
        inside = [low + 1e-3, low + 100.0]
    else:
        inside = [-1.0, 1.0]
    return list(dict.fromkeys([*closed, *inside]))


def lower_end(domain: Domain) -> Any:
    """Return the lower end of an interval that it contains, and None where there is none."""
    if isinstance(domain, str) and "[" in domain:
        low, _, kind = parse_interval(domain)
        return None if math.isinf(low) else kind(low)
    return None


def nudged(value: Any, field: dataclasses.Field[Any]) -> list[Any]:
    """Return other values nearby, the nearest first: 10 % more or else less, the other bool, the next choice.

    After the 10 % come twice and half the value, for thresholds that only tell whole numbers apart. A number that is 0
    becomes 1e-3, or what is halfway to the end of a narrower interval; None becomes an ordinary value. The list is
    empty where the domain has no other value.
    """
    domain = field.metadata["domain"]
    if domain is bool:
        return [not value]
    if isinstance(domain, tuple):
        i = next((i for i, x in enumerate(domain) if x is value or x == value), -1)
        return [*domain[i + 1 :], *domain[: max(i, 0)]]
    low, high, kind = parse_interval(domain)
    if value is None:
        first: list[Any] = [low + 1, high - 1, (low + high) / 2] if kind is float else [int(low) + 1]
        further = []
    elif kind is int:
        first, further = [value + 1, value - 1], [2 * value]
    elif np.all(np.asarray(value) == 0):
        first, further = [value + 1e-3, value + high / 2, value - 1e-3], []
    else:
        first, further = [value * 1.1, value * 0.9], [value * 2, value * 0.5]
    allowed = [[x for x in values if contains(domain, x) and x != value] for values in (first, further)]
    return list(dict.fromkeys([*allowed[0][:1], *allowed[1]]))
