"""How far a rule is from an optax transformation, from itself in float32, and from its oracle, over 100 steps.

The gradients are the same for all: normal, 25 each of sizes 1e-6, 1, 1e-3 and 10, rounded to float32, so that every
precision gets the same numbers. The distance is that of ``optimkit.testing.compare``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.rules.base import Rule, Step, displace
from optimkit.testing import streams
from optimkit.testing.compare import Flat, distances, furthest
from optimkit.testing.oracle import rounded, values_by_name
from optimkit.testing.runner import inputs

STEPS = 100
FALLING = tuple(np.float32(np.geomspace(0.1, 0.01, STEPS)).tolist())
SCALES = (1e-6, 1.0, 1e-3, 10.0)  # of the gradients, a quarter of the steps each

Rates = float | Sequence[float]
Make = Callable[[Callable[[Any], Any]], Any]  # from a schedule of the learning rate to a transformation
Loss = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Where a trajectory starts, and what it is given at each step.

    Attributes:
        params: parameters at first.
        rates: the learning rate, one number or one for each step.
        loss: a function of the parameters whose gradients are taken instead of the given ones; its value, its gradient
            and itself are inputs then.
    """

    params: Mapping[str, np.ndarray]
    rates: Rates = FALLING
    loss: Loss | None = None
    steps: int = STEPS

    @functools.cached_property
    def grads(self) -> list[Flat]:
        """Gradients, for each step."""
        each = self.steps // len(SCALES)
        grads = (streams.gradients(dict(self.params), each, scale)[i] for scale in SCALES for i in range(each))
        return [rounded(g) for g in grads]

    def rates_as(self, dtype: Any) -> jax.Array:
        """Return the learning rate of each step."""
        return jnp.asarray(np.broadcast_to(np.float32(self.rates), self.steps), dtype)

    def given(self, params: Any, stream: Any) -> tuple[Any, dict[str, Any]]:
        """Return the gradients of a step and the further inputs."""
        if self.loss is None:
            return stream, {}
        value, grads = jax.value_and_grad(self.loss)(params)
        return grads, {"value": value, "grad": grads, "value_fn": self.loss}

    def run(self, dtype: str, start: Callable[[Any], Any], step: Callable[..., Any]) -> list[Flat]:
        """Return the parameters after each step; ``step(grads, inputs, state, params, t, lr)`` gives the next ones."""

        def body(carry: Any, xs: Any) -> Any:
            params, state = carry
            t, stream, lr = xs
            grads, further = self.given(params, stream)
            params, state = step(grads, further, state, params, t, lr)
            return (params, state), params

        with jax.enable_x64(dtype == "float64"):
            params = streams.arrays(dict(self.params), dtype)
            stacked = {name: jnp.asarray(np.stack([g[name] for g in self.grads]), dtype) for name in params}
            xs = jnp.arange(self.steps), stacked, self.rates_as(dtype)
            history = jax.jit(lambda c, xs: jax.lax.scan(body, c, xs)[1])((params, start(params)), xs)
            return [{n: np.asarray(x)[t] for n, x in history.items()} for t in range(self.steps)]


def trajectory(rule: Rule, problem: Problem, dtype: str) -> list[Flat]:
    """Return where a rule of ours goes."""

    def step(grads: Any, further: Any, state: Any, params: Any, t: Any, lr: Any) -> Any:
        if problem.loss is not None:
            further = further | {"value_and_grad_fn": jax.value_and_grad(problem.loss)}
        known = {**inputs(rule, grads, params), **further}
        chosen = {need: known[need] for need in rule.needs}
        delta, state = rule.update(Step(grads, params, lr, **chosen), state)
        return displace(params, delta), state

    return problem.run(dtype, rule.init, step)


def optax_trajectory(make: Make, problem: Problem, dtype: str) -> list[Flat]:
    """Return where a transformation of optax goes. Those that want the loss get what ``testing`` gives to rules: 1."""
    with jax.enable_x64(dtype == "float64"):
        rates = problem.rates_as(dtype)
        tx = make(lambda count: rates[count])

    def step(grads: Any, further: Any, state: Any, params: Any, t: Any, lr: Any) -> Any:
        extra = further or {"value": jnp.ones((), dtype)}
        takes = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(tx.update).parameters.values())
        updates, state = tx.update(grads, state, params, **(extra if takes else {}))
        return jax.tree.map(lambda p, u: p + u, params, updates), state

    return problem.run(dtype, tx.init, step)


def oracle_trajectory(oracle: Callable[..., Any], rule: Rule, problem: Problem) -> list[Flat]:
    """Return where the oracle of a paper goes, at a rule's hyperparameters."""
    wide = {name: np.asarray(p, np.float64) for name, p in problem.params.items()}
    rates = np.float64(problem.rates_as(np.float32)).tolist()
    return list(oracle(wide, problem.grads, rates, **values_by_name(rule)))


def distance(got: Sequence[Flat], expected: Sequence[Flat], problem: Problem) -> float:
    """Return the largest relative distance of two trajectories."""
    return furthest(distances(got, expected, dict(problem.params)))


def distance_to_optax(rule: Rule, make: Make, params: Mapping[str, np.ndarray], rates: Rates = FALLING) -> float:
    """Return the largest relative distance from optax in float64."""
    problem = Problem(params, rates)
    return distance(trajectory(rule, problem, "float64"), optax_trajectory(make, problem, "float64"), problem)
