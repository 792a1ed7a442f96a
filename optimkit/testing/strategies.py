"""Hypothesis strategies for hyperparameters, parameter trees, gradients and schedules.

Hypothesis is imported when a strategy is made: ``optimkit.testing`` works without it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from optimkit import schedule
from optimkit.errors import HyperparameterError
from optimkit.hyper import contains, hyperparameters, parse_interval
from optimkit.rules import Momentum, lookup
from optimkit.rules.base import Rule, Tree, Wrapper
from optimkit.testing import domains, streams

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

SMALLEST = float(np.finfo(np.float32).tiny)
LARGEST = 1e3  # drawn from a domain that has no upper end: decay rates above it overflow float32 by themselves


def hyperparameter_values(field: dataclasses.Field[Any]) -> SearchStrategy[Any]:
    """Return a strategy of the values that a hyperparameter may have: its ends, its default, and what lies between.

    Numbers are drawn evenly, and below 1 also evenly in their logarithm.
    """
    from hypothesis import strategies as st

    domain = field.metadata["domain"]
    fixed: list[Any] = [] if field.default is dataclasses.MISSING else [field.default]
    if not isinstance(domain, str):
        return st.sampled_from([*fixed, *domains.ends(domain)])
    low, high, kind = parse_interval(domain)
    # A number next to an open end at 0 is none of float32's: the first that is normal stands for it.
    near = [x for x in domains.ends(domain) if abs(x) <= LARGEST]
    fixed += [math.copysign(SMALLEST, x) if 0 < abs(x) < SMALLEST else x for x in near]
    low, high = max(low, -LARGEST), min(high, LARGEST)
    if kind is int:
        return st.sampled_from(fixed) | st.integers(math.ceil(low), math.floor(high)).filter(lambda n: _fits(field, n))
    even = st.floats(low, high).filter(lambda x: _fits(field, x))
    small = st.floats(-12, 0).map(lambda x: 10.0**x).filter(lambda x: _fits(field, x))
    return st.sampled_from(fixed) | even | small if low <= 0 < high else st.sampled_from(fixed) | even


def _fits(field: dataclasses.Field[Any], value: Any) -> bool:
    return contains(field.metadata["domain"], value)


def rules_of(rule_type: type[Rule]) -> SearchStrategy[Rule]:
    """Return a strategy of rules of a type, each hyperparameter drawn from its declared domain.

    A wrapper holds momentum.
    """
    from hypothesis import strategies as st

    fields = {name: f for name, f in hyperparameters(rule_type).items() if not name.endswith("dtype")}
    drawn = {name: hyperparameter_values(f) for name, f in fields.items()}
    inner = {"inner": rules_of(Momentum)} if issubclass(rule_type, Wrapper) else {}
    return st.builds(rule_type, **inner, **drawn)


def rules_like(rule: Rule) -> SearchStrategy[Rule]:
    """Return a strategy of rules that differ from one in their hyperparameters, and in those of the rules inside it.

    What a constructor refuses, because two hyperparameters do not go together, is not drawn.
    """
    from hypothesis import reject
    from hypothesis import strategies as st

    places = [(path, name, field) for path, part in lookup.walk(rule) for name, field in hyperparameters(part).items()
              if not name.endswith("dtype")]  # fmt: skip

    def made(values: tuple[Any, ...]) -> Rule:
        other = rule
        try:
            for (path, name, _), value in zip(places, values, strict=True):
                other = lookup.with_value(other, path, name, value)
        except HyperparameterError:
            reject()
        return other

    return st.tuples(*(hyperparameter_values(field) for _, _, field in places)).map(made)


def parameters_and_gradients(params: Tree) -> SearchStrategy[tuple[Tree, list[Tree]]]:
    """Return a strategy of parameters of given names, of any shape and size, with gradients for them."""
    from hypothesis import strategies as st

    structure: Any = jax.tree.structure(params)
    leaves = (_arrays([np.shape(p), *streams.SHAPES]) for p in jax.tree.leaves(params))
    drawn = st.tuples(*leaves).map(structure.unflatten)
    return drawn.flatmap(lambda tree: st.tuples(st.just(tree), gradient_streams(tree)))


def parameter_trees(
    shapes: Sequence[tuple[int, ...]] = ((), (2,), (2, 3), *streams.SHAPES), max_leaves: int = 4
) -> SearchStrategy[Tree]:
    """Return a strategy of trees of float32 arrays, by short names; some of the arrays are zero."""
    from hypothesis import strategies as st

    return st.dictionaries(st.sampled_from("abcdefgh"), _arrays(shapes), min_size=1, max_size=max_leaves)


def _arrays(shapes: Sequence[tuple[int, ...]]) -> SearchStrategy[np.ndarray]:
    from hypothesis import strategies as st

    def array(shape: tuple[int, ...], scale: float, seed: int) -> np.ndarray:
        return np.asarray(scale * np.random.default_rng(seed).normal(size=shape), np.float32)

    scales = st.sampled_from([1.0, 1.0, 0.0, 1e-3, 1e3])
    return st.builds(array, st.sampled_from(list(shapes)), scales, st.integers(0, 99))


# Streams by what is special about them: a factor for each step.
SPECIAL = {
    "zero": [0.0, 0.0, 0.0, 1.0],
    "tiny": [1e-30, 1e-38, 1e-45, 1.0],
    "huge": [1e4, 1e10, 1e10, 1.0],
    "alternating": [1.0, -1.0, 1.0, -1.0],
    "rising and falling": [1e-8, 1e-3, 10.0, 1e-3],
}
NOT_FINITE = {"NaN": [1.0, math.nan, 1.0, 1.0], "infinite": [1.0, math.inf, 1.0, 1.0], "NaN at first": [math.nan, 1.0]}


def gradient_streams(params: Tree, *, finite: bool = True) -> SearchStrategy[list[Tree]]:
    """Return a strategy of steps of gradients: zero, tiny, huge, alternating, rising and falling, or sparse.

    Args:
        params: parameters that the gradients are for.
        finite: whether to leave out those with a step of NaN or infinities.
    """
    from hypothesis import strategies as st

    factors = SPECIAL if finite else SPECIAL | NOT_FINITE

    def stream(kind: str, seed: int) -> list[Tree]:
        if kind == "sparse":
            return [streams.sparse(g, t) for t, g in enumerate(streams.gradients(params, 4, seed=seed))]
        first = streams.gradients(params, 1, seed=seed)[0] if kind == "alternating" else None
        return [
            streams.scaled(first or streams.gradients(params, 1, seed=seed + t)[0], factor)
            for t, factor in enumerate(factors[kind])
        ]

    return st.builds(stream, st.sampled_from([*factors, "sparse"]), st.integers(0, 99))


def schedules(largest: float = 0.1, steps: int = 50) -> SearchStrategy[Callable[[Any], Any]]:
    """Return a strategy of learning rates that follow the step: constant, falling, in stages, or with a warmup.

    Args:
        largest: no learning rate is above it.
        steps: after how many steps schedules that end do so.
    """
    from hypothesis import strategies as st

    rates, warmups = st.floats(1e-6, largest), st.integers(1, steps // 3)
    shapes = st.sampled_from(["linear", "cosine"])
    falling = (
        st.builds(schedule.Linear, rates, rates, st.just(steps))
        | st.builds(schedule.Cosine, rates, st.just(steps))
        | st.builds(schedule.Exponential, rates, st.floats(0.1, 0.99), st.integers(1, steps), st.booleans())
    )
    stages = st.builds(schedule.Piecewise, st.tuples(rates, rates, rates), st.just((steps // 3, 2 * steps // 3)))
    warm = (
        st.builds(schedule.Warmup, falling, warmups)
        | st.builds(schedule.WarmupCosine, rates, warmups, st.just(steps))
        | st.builds(schedule.WarmupStableDecay, rates, warmups, st.just(steps), warmups, shapes)
        | st.builds(schedule.OneCycle, rates, st.just(steps), st.floats(0.1, 0.5))
        | st.builds(schedule.InverseSqrt, rates, warmups)
    )
    return st.builds(schedule.Constant, rates) | falling | stages | warm
