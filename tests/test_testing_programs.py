"""The checks of a step in other programs: each rejects a rule with a planted bug, says where, and accepts its twin."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import rules
from optimkit.errors import ConformanceError
from optimkit.hyper import hyper
from optimkit.rules import Rule, Step
from optimkit.testing import programs


class Planted(Rule):
    """Momentum, with hooks for a bug that is there where ``broken`` is set."""

    broken: bool = hyper(True, bool, "whether the bug is there")

    def start(self, p: Any) -> Any:
        return jnp.zeros_like(p)

    def moment(self, m: Any, g: Any) -> Any:
        return 0.9 * m + g

    def rate(self, lr: Any) -> Any:
        return lr

    def init(self, params: Any) -> Any:
        return {"m": jax.tree.map(self.start, params)}

    def update(self, step: Step, state: Any) -> Any:
        m = jax.tree.map(self.moment, state["m"], step.grads)
        return jax.tree.map(lambda x: -self.rate(step.lr) * x, m), {**state, "m": m}


class StartsFromPythonNumbers(Planted):
    def start(self, p: Any) -> Any:
        norm = jnp.linalg.norm(p)
        return jnp.zeros_like(p) + (float(norm) if self.broken else norm)


class CountsInPython(Planted):
    calls = itertools.count(1)

    def rate(self, lr: Any) -> Any:
        return lr * (1 + next(self.calls)) if self.broken else lr


class CountsInFloats(Planted):
    def init(self, params: Any) -> Any:
        return {**super().init(params), "t": jnp.int32(0)}

    def update(self, step: Step, state: Any) -> Any:
        delta, new = super().update(step, state)
        return delta, {**new, "t": state["t"] + (1.0 if self.broken else 1)}


class AsksTheHostForARate(Planted):
    def rate(self, lr: Any) -> Any:
        method = None if self.broken else "sequential"
        return jax.pure_callback(
            lambda x: np.asarray(x / 2), jax.ShapeDtypeStruct((), lr.dtype), lr, vmap_method=method
        )


class RateOfTheFirst(Planted):
    """Under vmap it takes the rate of the first replica for all."""

    def rate(self, lr: Any) -> Any:
        half = jax.custom_batching.custom_vmap(lambda x: x / 2)
        wrong = self.broken
        half.def_vmap(lambda n, batched, x: (jnp.full(n, x[0] / 2) if wrong else x / 2, True))
        return half(lr)


class CountsInDefaultIntegers(Planted):
    def init(self, params: Any) -> Any:
        return {**super().init(params), "t": jnp.zeros((), int if self.broken else jnp.int32)}


class EpsOfTheDefaultDtype(Planted):
    def moment(self, m: Any, g: Any) -> Any:
        eps = jnp.finfo(jnp.result_type(float) if self.broken else jnp.float32).eps
        return 0.9 * m + g + 1e3 * jnp.asarray(eps, g.dtype)


class NarrowState(Planted):
    def start(self, p: Any) -> Any:
        return jnp.zeros(p.shape, jnp.float32 if self.broken else p.dtype)

    def moment(self, m: Any, g: Any) -> Any:
        return (0.9 * m + g).astype(m.dtype)


class NarrowGradients(Planted):
    def moment(self, m: Any, g: Any) -> Any:
        return 0.9 * m + (g.astype(jnp.float32).astype(g.dtype) if self.broken else g)


class NarrowDenominator(Planted):
    """Only one of the two ways of a gradient into the step is narrow."""

    def moment(self, m: Any, g: Any) -> Any:
        return 0.9 * m + g / (1 + jnp.abs(g.astype(jnp.float32) if self.broken else g))


class NarrowRate(Planted):
    def rate(self, lr: Any) -> Any:
        return lr.astype(jnp.float32) if self.broken else lr


class EpsOfTheDtype(Planted):
    def moment(self, m: Any, g: Any) -> Any:
        eps = jnp.sqrt(jnp.finfo(g.dtype).eps) if self.broken else 1e-4
        return 0.9 * m + g / (jnp.abs(g) + eps)


class RateIsNoVariable(Planted):
    def rate(self, lr: Any) -> Any:
        return jax.lax.stop_gradient(lr) if self.broken else lr**3


class RootInTheBranchNotTaken(Planted):
    def rate(self, lr: Any) -> Any:
        excess = lr - 1.0 if self.broken else jnp.maximum(lr - 1.0, 1.0)
        return jnp.where(lr > 1, jnp.sqrt(excess), lr)


BROKEN: list[tuple[str, type[Planted], str]] = [
    ("check_compiles_ahead_of_time", StartsFromPythonNumbers, "Concretization"),
    ("check_compiles_ahead_of_time", CountsInFloats, "compiled"),
    ("check_control_flow_equals_loop", CountsInPython, "the parameters in control flow differ at step 1"),
    ("check_control_flow_equals_loop", CountsInFloats, r"TypeError: cond branches(.|\n)*\['t'\]"),
    ("check_population_of_learning_rates", AsksTheHostForARate, "vmap_method"),
    ("check_population_of_learning_rates", RateOfTheFirst, "the parameters at lr = 0.05 under vmap differ at step 1"),
    ("check_64_bit_mode_changes_nothing", CountsInDefaultIntegers,
     r"the state 't' at step 1 has another form in 64-bit mode(.|\n)*expected int32\[\](.|\n)*got      int64\[\]"),
    ("check_64_bit_mode_changes_nothing", EpsOfTheDefaultDtype, "the parameters in 64-bit mode differ at step 1"),
    ("check_float64_is_used", NarrowState, "the state 'm.bias' of float64 parameters is not float64"),
    ("check_float64_is_used", NarrowGradients, "'bias' does not follow the last digits of the gradients"),
    ("check_float64_is_used", NarrowDenominator, "'bias' does not follow the last digits of the gradients"),
    ("check_float64_is_used", NarrowRate, "'bias' does not follow the last digits of the learning rate"),
    ("check_float64_is_used", EpsOfTheDtype, "the parameters of float32 differ at step 1"),
    ("check_derivative_in_lr", RateIsNoVariable, "the derivative of 'bias' by lr is not that of central differences"),
    ("check_derivative_in_lr", RootInTheBranchNotTaken, "the sum of parameters by lr, backward: 'all' is not finite"),
]  # fmt: skip
CASES = pytest.mark.parametrize("name, rule, says", BROKEN, ids=[f"{name}-{rule.__name__}" for name, rule, _ in BROKEN])


@CASES
def test_a_planted_bug_is_rejected_with_a_message_that_says_where(name, rule, says):
    with pytest.raises(ConformanceError, match=says) as caught:
        getattr(programs, name)(rule())
    assert str(caught.value).startswith(f"{name}({rule()!r})")


@pytest.mark.slow
@CASES
def test_the_rule_without_the_bug_passes(name, rule, says):
    getattr(programs, name)(rule(broken=False))


def checks() -> list[Any]:
    return [f for name, f in vars(programs).items() if name.startswith("check_")]


def test_there_is_a_planted_bug_for_every_check():
    assert {name for name, _, _ in BROKEN} == {f.__name__ for f in checks()}


class DrawsInItsDtype(Planted):
    """Its noise in float64 is other noise than that in float32, as ``jax.random`` has it."""

    def init(self, params: Any) -> Any:
        return {**super().init(params), "key": jax.random.PRNGKey(0)}

    def moment(self, m: Any, g: Any) -> Any:
        return 0.9 * m + g + jax.random.normal(jax.random.key(0), g.shape, g.dtype)


def test_noise_that_depends_on_the_dtype_is_no_mistake():
    programs.check_float64_is_used(DrawsInItsDtype())


class FarFromTheStart(Planted):
    """Its rate is a largest distance so far: corners lie near, and far larger changes than steps are beyond them."""

    def init(self, params: Any) -> Any:
        return {
            "first": jax.tree.map(jnp.copy, params),
            "most": jax.tree.map(lambda p: jnp.full((), 1e-6, p.dtype), params),
        }

    def update(self, step: Step, state: Any) -> Any:
        def far(most: Any, p: Any, first: Any) -> Any:
            return jnp.maximum(most, jnp.max(jnp.abs(p - first)))

        most = jax.tree.map(far, state["most"], step.params, state["first"])
        return jax.tree.map(lambda d, g: -step.lr * d * g, most, step.grads), {**state, "most": most}


def test_corners_near_the_parameters_are_no_lost_digits():
    programs.check_float64_is_used(FarFromTheStart())


def test_the_configuration_of_jax_is_as_before():
    before = dict(jax.config.values)
    programs.check_float64_is_used(rules.SGD())
    with pytest.raises(ConformanceError):
        programs.check_64_bit_mode_changes_nothing(CountsInDefaultIntegers())
    assert dict(jax.config.values) == before


def test_parameters_of_the_user_are_what_a_rule_is_run_on():
    class OnlyVectors(Planted):
        def moment(self, m: Any, g: Any) -> Any:
            if g.shape != (5,):
                raise ValueError(f"no {g.shape}")
            return super().moment(m, g)

    for check in checks():
        check(OnlyVectors(), params={"five": np.ones(5, np.float32)})
        with pytest.raises(ConformanceError, match=r"ValueError: no \("):
            check(OnlyVectors())
