"""Claims about single rules of the family in tests/rule_rows/accumulators.py that no table holds."""

import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import pure, rules
from tests.oracles import adagrad, optimistic

SHAPES = {"w": (3, 2), "b": (4,)}


def draws(steps, seed=0):
    rng = np.random.default_rng(seed)
    return [{name: rng.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(steps)]


def follow(rule, params, grads, lr, **inputs):
    init, apply = pure(rule, lr)
    now = {name: jnp.asarray(p, jnp.float32) for name, p in params.items()}
    state = init(now)
    for i, g in enumerate(grads):
        given = {name: x[i] for name, x in inputs.items()}
        state, now = apply({name: jnp.asarray(x, jnp.float32) for name, x in g.items()}, state, now, **given)
    return now


def assert_follows(got, expected):
    for name, x in expected.items():
        np.testing.assert_allclose(got[name], x, rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize(
    "hyper", [{}, {"variant": "sps+", "f_min": 0.3}, {"scaling": 0.5, "eps": 0.1, "max_step": 0.2}]
)
def test_polyak_follows_its_oracle(hyper):
    params, *grads = draws(21)
    values = list(np.random.default_rng(1).uniform(0.1, 2.0, 20))
    expected = optimistic.oracle_polyak_sgd(params, grads, 0.7, value=values, **hyper)[-1]
    assert_follows(follow(rules.PolyakSGD(**hyper), params, grads, 0.7, value=np.float32(values)), expected)


@pytest.mark.parametrize(
    "hyper",
    [{"momentum": 0.5}, {"momentum": 0.9, "nesterov": True}, {"centered": True, "eps_root": 1e-3},
     {"initial_scale": 1.0, "bias_correction": True}],
)  # fmt: skip
def test_rmsprop_follows_its_oracle_with_every_option(hyper):
    params, *grads = draws(21)
    expected = adagrad.oracle_rmsprop(params, grads, 0.01, **hyper)[-1]
    assert_follows(follow(rules.RMSProp(**hyper), params, grads, 0.01), expected)


def test_the_noise_of_noisy_sgd_has_the_variance_of_the_paper():
    params = {"w": jnp.zeros(20_000)}
    init, apply = pure(rules.NoisySGD(eta=0.5, gamma=0.55), lr=1.0)
    _, moved = apply({"w": jnp.zeros(20_000)}, init(params), params)
    # At the first step the variance is eta. Its estimate from n draws has a standard error of eta * sqrt(2 / n).
    assert abs(float(jnp.var(moved["w"])) - 0.5) < 5 * 0.5 * np.sqrt(2 / 20_000)
    assert abs(float(jnp.mean(moved["w"]))) < 5 * np.sqrt(0.5 / 20_000)
