"""What the tests of wrappers share: a stream of gradients, and short ways to run a rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from optimkit import pure
from optimkit.rules import Rule
from optimkit.testing import streams
from optimkit.testing.compare import require_identical
from optimkit.testing.runner import compiled, eager, run

PARAMS = streams.parameters()
GRADS = streams.gradients(PARAMS, 6)
BOTH = pytest.mark.parametrize("update", [eager, compiled], ids=["eager", "compiled"])


def same_bits(rule, other, update=eager, grads=GRADS):
    """Raise unless two rules do the same, to the last bit."""
    got, expected = run(rule, PARAMS, grads, update=update), run(other, PARAMS, grads, update=update)
    for t in range(len(grads)):
        require_identical(repr(rule), got.params[t], expected.params[t], f"parameters at step {t + 1}")


def scalar(rule, grads, start=0.0, lr=1.0, dtype=jnp.float32, **inputs):
    """Return a scalar parameter after each step of the functional face, and the states."""
    init, apply = pure(rule, lr)
    params = {"w": jnp.asarray(start, dtype)}
    state, way, states = init(params), [], []
    for t, g in enumerate(grads):
        extra = {name: x[t] for name, x in inputs.items()}
        state, params = apply({"w": jnp.asarray(g, jnp.float32)}, state, params, **extra)
        way.append(float(params["w"]))
        states.append(state)
    return way, states


class SecondLook(Rule):
    """Takes its step by the gradient at twice the parameters."""

    needs = ("grad_fn",)

    def init(self, params):
        return {}

    def update(self, step, state):
        there = step.grad_fn(jax.tree.map(lambda p: 2 * p, step.params))
        return jax.tree.map(lambda g: -step.lr * g, there), state
