"""Properties: claims about whatever hypothesis draws, from parameter trees, gradients and hyperparameters.

A failure is shrunk to the smallest example that still fails, and that example stands in the message. Examples are the
same in each run, so that a failure says something about the optimizer and not about luck.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax

from optimkit.errors import ConformanceError, describe
from optimkit.rules.base import Rule, Tree
from optimkit.testing import runner, strategies, streams
from optimkit.testing.check import NotApplicable, check, tunable, where
from optimkit.testing.compare import require_close, require_finite, rounding
from optimkit.testing.runner import run

EXAMPLES = 20
SMALL_LR = 1e-6  # so that no drawn gradient moves a parameter out of range


def _for_all(examples: int, strategy: Callable[[], Any], body: Callable[[Any], None]) -> None:
    """Call ``body`` with drawn values; what it raises is raised for the smallest of them."""
    if importlib.util.find_spec("hypothesis") is None:
        raise NotApplicable("hypothesis is not installed: pip install optimkit[check]")
    import hypothesis

    @hypothesis.settings(max_examples=examples, deadline=None, database=None, derandomize=True,
                         phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(strategy())
    def run_all(drawn: Any) -> None:
        body(drawn)

    run_all()


def _with_example(error: ConformanceError, **example: Any) -> ConformanceError:
    lines = [f"  with {name} = {_shown(x)}" for name, x in example.items()]
    return ConformanceError("\n".join([str(error), "smallest example found:", *lines]))


def _shown(x: Any) -> str:
    if isinstance(x, Rule):
        return repr(x)
    leaves = [a for tree in (x if isinstance(x, list) else [x]) for a in jax.tree.leaves(tree)]
    small = sum(a.size for a in leaves) <= 48
    return repr(jax.tree.map(lambda a: a.tolist() if small else describe(a), x))


@check
def check_any_parameters_and_gradients(rule: Rule, *, params: Tree = None, max_examples: int = EXAMPLES) -> None:
    """On parameters of any shape and size, and gradients of any kind, parameters and state stay finite.

    Gradients are zero, tiny, huge, alternating, sparse, or rise and fall.
    """
    here, params = where(check_any_parameters_and_gradients, rule), streams.parameters(params)

    def body(drawn: tuple[Tree, list[Tree]]) -> None:
        _require_finite(here, rule, *drawn)

    _for_all(max_examples, lambda: strategies.parameters_and_gradients(params), body)


def _require_finite(here: str, rule: Rule, params: Tree, grads: list[Tree]) -> None:
    try:
        result = run(rule, params, grads, lr=SMALL_LR, update=runner.eager)
        for t, (moved, state) in enumerate(zip(result.params, result.states, strict=True), start=1):
            require_finite(here, moved, f"parameters at step {t}")
            require_finite(here, state, f"state at step {t}")
    except ConformanceError as error:
        raise _with_example(error, rule=rule, params=params, grads=grads) from error


@check(only=tunable)
def check_any_hyperparameters(rule: Rule, *, params: Tree = None, max_examples: int = EXAMPLES) -> None:
    """Wherever in their declared domains hyperparameters lie, parameters and state stay finite on any gradients."""
    here, params = where(check_any_hyperparameters, rule), streams.parameters(params)

    def body(drawn: tuple[Rule, list[Tree]]) -> None:
        _require_finite(here, drawn[0], params, drawn[1])

    def drawn() -> Any:
        from hypothesis import strategies as st

        return st.tuples(strategies.rules_like(rule), strategies.gradient_streams(params))

    _for_all(max_examples, drawn, body)


@check
def check_jit_equals_eager_on_any_gradients(rule: Rule, *, params: Tree = None, max_examples: int = EXAMPLES) -> None:
    """Compiled steps do what eager ones do, but for rounding, on gradients of any kind."""
    here, params = where(check_jit_equals_eager_on_any_gradients, rule), streams.parameters(params)

    def body(grads: list[Tree]) -> None:
        eager = run(rule, params, grads, lr=SMALL_LR, update=runner.eager)
        compiled, allowed = run(rule, params, grads, lr=SMALL_LR), rounding(len(grads))
        try:
            require_close(here, compiled.params, eager.params, eager.start, allowed, "parameters under jit")
        except ConformanceError as error:
            raise _with_example(error, grads=grads) from error

    _for_all(max_examples, lambda: strategies.gradient_streams(params), body)

