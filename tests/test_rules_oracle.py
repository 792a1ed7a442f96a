"""Every rule follows its float64 oracle within 5e-6 over 100 steps.

How the relative error is measured: ``|p - p*| / (max |p*| + sum |p*_t - p*_{t-1}|)``, for each element and at each
step. Float32 rounds the position once a step, in units of |p|, and the displacement some ten times, in units of its
own size; the denominator is what those roundings are relative to (optimkit/testing/compare.py). Some parameters start
at 0: their error is relative to the way they went, so that no step is too small to be tested.

Why 5e-6 can hold: rounding the position 100 times, by 3e-8 each and with random signs, comes to 3e-7, and to 6e-6 if
all signs agreed; the displacements' roundings add up in the same way.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimkit.errors import ConformanceError
from optimkit.rules.base import Step, displace
from optimkit.testing import check_oracle, check_oracle_elsewhere, streams
from optimkit.testing.compare import require_close
from optimkit.testing.hyperparameters import TOLERANCE
from optimkit.testing.oracle import rounded, values_by_name
from optimkit.testing.runner import inputs

from .rule_table import RULES

WITH_ORACLE = [name for name, case in RULES.items() if case.oracle is not None]
# One of each kind is drawn for in `make test`, and all in `make test-all`.
OF_EACH_KIND = {"Momentum", "Adam", "AdamW", "LARS", "RMSProp", "SM3", "Lion", "ClipByGlobalNorm", "Lookahead"}
DRAWN = [pytest.param(name, marks=[] if name in OF_EACH_KIND else [pytest.mark.slow]) for name in WITH_ORACLE]
STEPS = 100
LR = np.float32(np.geomspace(0.1, 0.01, STEPS))

# 0-d, empty and rank 5 among them; two start at zero
PARAMS = {
    **streams.parameters(),
    "empty": np.zeros((0, 3), np.float32),
    "rank5": np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 2, 1, 2, 1),
}


def drawn(case):
    """Return a strategy of hyperparameters: numbers that float32 has, for rule and oracle alike."""

    def values(kind, *args):
        if kind == "one of":
            return st.sampled_from(args)
        if kind == "log":
            return st.floats(np.log(args[0]), np.log(args[1])).map(np.exp)
        return st.floats(*args)

    strategy = {name: values(*draw) for name, draw in case.draw.items()}
    return st.fixed_dictionaries(strategy).map(lambda h: {k: float(np.float32(x)) for k, x in h.items()})


@jax.jit
def hundred_steps(rule, params, state, grads):
    """Return the parameters after each of 100 steps, in one program."""

    def body(carry, xs):
        (params, state), (grads, lr) = carry, xs
        delta, state = rule.update(Step(grads, params, lr, **inputs(rule, grads, params)), state)
        params = displace(params, delta)
        return (params, state), params

    return jax.lax.scan(body, (params, state), (grads, jnp.asarray(LR)))[1]


def compare(case, hyper, rule, scale, seed):
    """Raise unless a rule, with numbers or with arrays for hyperparameters, follows the oracle."""
    grads = [rounded(g) for g in streams.gradients(PARAMS, STEPS, scale, seed)]
    stacked = {name: jnp.asarray(np.stack([g[name] for g in grads]), jnp.float32) for name in PARAMS}
    params = streams.arrays(PARAMS)
    history = hundred_steps(rule, params, rule.init(params), stacked)
    got = [{name: np.asarray(x)[t] for name, x in history.items()} for t in range(STEPS)]
    wide = {name: np.asarray(p, np.float64) for name, p in PARAMS.items()}
    expected = case.oracle(wide, grads, LR.tolist(), **values_by_name(case.make(**hyper)))
    require_close(f"{case.make(**hyper)!r} at gradients of {scale:.0e}", got, expected, PARAMS, TOLERANCE)


@pytest.mark.parametrize("name", WITH_ORACLE)
def test_rule_follows_its_oracle(name):
    """At the hyperparameters of the table, gradients from 1e-6 to 10, one jitted step at a time."""
    check_oracle(RULES[name].rule, RULES[name].oracle)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_ORACLE)
def test_rule_follows_its_oracle_elsewhere(name):
    """On other shapes, with other numbers."""
    if "check_oracle_elsewhere" in RULES[name].expected_failures:
        with pytest.raises(ConformanceError):
            check_oracle_elsewhere(RULES[name].rule, oracle=RULES[name].oracle)
    else:
        check_oracle_elsewhere(RULES[name].rule, oracle=RULES[name].oracle)


@pytest.mark.parametrize("name", DRAWN)
@given(data=st.data(), scale=st.floats(-8, 4).map(lambda x: 10.0**x), seed=st.integers(0, 999))
@settings(max_examples=settings().max_examples // 2)
def test_rule_follows_its_oracle_for_drawn_hyperparameters(name, data, scale, seed):
    """Gradients from 1e-8 to 1e4. Hyperparameters are data here, so that all examples are one compilation."""
    case = RULES[name]
    hyper = data.draw(drawn(case))
    compare(case, hyper, case.make(**{k: jnp.float32(x) for k, x in hyper.items()}), scale, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WITH_ORACLE if RULES[name].draw])
@given(data=st.data(), scale=st.floats(-6, 1).map(lambda x: 10.0**x), seed=st.integers(0, 999))
@settings(max_examples=max(2, settings().max_examples // 20))
def test_rule_follows_its_oracle_for_drawn_constants(name, data, scale, seed):
    """The same with Python numbers, which are folded in float64: a compilation for each example."""
    case = RULES[name]
    hyper = data.draw(drawn(case))
    compare(case, hyper, case.make(**hyper), scale, seed)
