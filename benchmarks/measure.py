"""Timing on a machine that is not quiet: alternate what is compared, and compare what ran next to each other.

Other processes, clocks and caches make a time drift by far more than the differences that are looked for. So each
repeat times every contestant once, in turn; the order is reversed in every other repeat; a ratio is taken within each
repeat, and the median of the ratios is reported, with their quartiles.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

Loop = Callable[[int], Any]


def seconds(loop: Loop, count: int) -> float:
    """Return how long a loop takes. Garbage of what ran before is collected first; the collector stays on."""
    gc.collect()
    start = time.perf_counter()
    loop(count)
    return time.perf_counter() - start


def enough(loop: Loop, least: float) -> int:
    """Return a number of iterations that takes at least `least` seconds, of a loop that is compiled."""
    n = 1
    while (took := seconds(loop, n)) < least:
        n = max(n + 1, min(10 * n, int(1.3 * n * least / took)))
    return n


def alternate(loops: dict[str, Loop], counts: dict[str, int], repeats: int) -> dict[str, list[float]]:
    """Return seconds per iteration, one number for each repeat, of loops of given lengths."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    for i in range(repeats):
        for name in list(loops)[:: 1 if i % 2 == 0 else -1]:
            times[name].append(seconds(loops[name], counts[name]) / counts[name])
    return times


def summary(times: list[float]) -> dict[str, Any]:
    """Return the median and the quartiles, in microseconds, and all numbers."""
    us = [1e6 * t for t in times]
    return {"median": statistics.median(us), "quartiles": quartiles(us), "repeats": us}


def ratio(times: list[float], base: list[float]) -> dict[str, Any]:
    """Return the median of the ratios within repeats, and their quartiles."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    return {"median": statistics.median(ratios), "quartiles": quartiles(ratios)}


def quartiles(numbers: list[float]) -> list[float]:
    """Return the lower and the upper quartile."""
    lower, _, upper = statistics.quantiles(numbers, n=4, method="inclusive")
    return [lower, upper]


@contextmanager
def compiles() -> Iterator[list[str]]:
    """Yield a list that grows by one entry for each program that XLA compiles in the block."""
    found: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
