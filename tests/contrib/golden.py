"""Following a golden trace: the parameters that other people's code came to, from inputs given by a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from optimkit.rules import Rule
from optimkit.testing.compare import distances
from optimkit.testing.runner import compiled, run

TRACES = Path(__file__).parents[1] / "golden" / "traces"
TOLERANCE = 1e-5  # relative to the size of a parameter and the way that it went, over 100 steps in float32


def inputs(seed: int, shapes: dict[str, Any], steps: int = 100) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the parameters and gradients of a trace. Whoever makes one does the same: make_matrix_rules.py."""
    rng = np.random.default_rng(seed)
    params = {n: np.zeros(s) if n == "bias" else np.asarray(rng.normal(size=s)) for n, s in shapes.items()}
    drift = {n: np.asarray(rng.normal(size=s)) for n, s in shapes.items()}
    grads = [{n: drift[n] + rng.normal(size=s) for n, s in shapes.items()} for _ in range(100)]
    rounded = [{n: np.asarray(x, np.float32) for n, x in tree.items()} for tree in (params, *grads)]
    return rounded[0], rounded[1 : steps + 1]


def assert_follows(name: str, rule: Rule, tolerance: float = TOLERANCE, update: Any = compiled) -> None:
    """Raise unless a rule comes to the parameters of a trace, in float32, each tenth step.

    Args:
        name: the trace.
        rule: the rule.
        tolerance: the largest relative distance.
        update: how a step is taken, as for ``run``.
    """
    with np.load(TRACES / f"{name}.npz") as trace:
        meta = json.loads(str(trace["meta"]))
        wanted = {key: trace[key] for key in trace.files if key != "meta"}
    params, grads = inputs(meta["seed"], meta["shapes"], meta.get("steps", 100))
    done = run(rule, {n: jnp.asarray(p) for n, p in params.items()}, grads, lr=meta["lr"], update=update)
    times = sorted({int(key.split("/")[0]) for key in wanted})
    assert times, "the trace is empty"
    got = [done.params[t - 1] for t in times]
    expected = [{n: wanted[f"{t}/{n}"] for n in params} for t in times]
    for t, step in zip(times, distances(got, expected, done.start), strict=True):
        for n, x in step.items():
            assert x.max() <= tolerance, f"{name}: {n!r} at step {t} is {x.max():.1e} away"
