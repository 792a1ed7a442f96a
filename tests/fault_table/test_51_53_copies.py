"""Rows 51 to 53 of the fault table: copies of optimizers, private gradients, averages in place of weights."""

from __future__ import annotations

import copy
import io
import math
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from jax import nn

from optimkit import StateVar, TrainVar, VarCollection, optimizer, privacy, rules
from optimkit.contrib.rules import DPAggregate
from optimkit.ema import ExponentialMovingAverage
from optimkit.errors import NestingError, OptimkitError
from optimkit.io import load_var_collection, save_var_collection
from optimkit.optimizer import Optimizer
from tests.shell import bits, close, two_grads, two_params, unchanged


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_row_51(copied):
    """A deep copy or a pickle of model and optimizer: independent of the original, and it goes on as that does."""
    vc = two_params()
    opt = optimizer.Adam(vc)
    opt(0.1, two_grads())
    vc2, opt2 = copied((vc, opt))
    with unchanged(vc, opt.vars()):
        opt2(0.1, two_grads())
    opt(0.1, two_grads())
    assert bits(vc, opt.vars()) == bits(vc2, opt2.vars())


def private(microbatch=1, noise=0.0, **options):
    w = TrainVar(jnp.array([1.0, -1.0]))
    vc = VarCollection({"w": w})
    loss = lambda x: jnp.mean(nn.relu(x @ w.value))  # noqa: E731
    return vc, privacy.PrivateGradValues(loss, vc, noise, 1.0, microbatch, **options)


def test_row_52():
    """Private training with a sampling rate above 1, no noise, a batch that microbatches do not divide, an example that
    is NaN: an error that names it, or an infinite epsilon, or an example that counts for nothing; epsilon is never NaN
    and never falls."""
    with pytest.raises(OptimkitError, match="sampling_rate") as caught:
        privacy.RDPAccountant().step(1.0, 1.5)
    assert isinstance(caught.value, ValueError)
    no_noise = privacy.RDPAccountant()
    no_noise.step(0.0, 0.1)
    assert no_noise.epsilon(1e-5) == math.inf
    vc, gradients = private(microbatch=2)
    with unchanged(vc), pytest.raises(OptimkitError, match="microbatch") as caught:
        gradients(jnp.ones((3, 2)))
    assert isinstance(caught.value, ValueError)
    batch = np.array([[1.0, 0.5], [np.nan, 1.0]], np.float32)
    _, gradients = private()
    (g,), _ = gradients(batch)
    (alone,), _ = gradients(batch[:1])
    np.testing.assert_allclose(g, alone / 2, rtol=1e-6)
    vc = two_params()
    opt = Optimizer(vc, rules.Chain(DPAggregate(1.0, 0.0, seed=0), rules.SGD()))
    opt(0.1, [jnp.array([[1.0, 1.0, 1.0], [jnp.inf, 0.0, 0.0]]), jnp.array([1.0, jnp.nan])])
    assert all(np.isfinite(v.value).all() for v in vc)
    accountant, last = privacy.RDPAccountant(), 0.0
    for _ in range(5):
        accountant.step(1.1, 0.01, steps=100)
        now = accountant.epsilon(1e-5)
        assert now >= last and not math.isnan(now)
        last = now


def test_row_53():
    """Averages in place of weights: a second time is ``NestingError``; an exception inside gives the weights back; a
    checkpoint saved meanwhile has the weights, and the averages beside them."""
    vc = two_params()
    ema = ExponentialMovingAverage(vc, momentum=0.5, debias=True)
    ema()
    vc["w"].assign(jnp.zeros(3))
    vc["n"] = StateVar(jnp.int32(0))
    weights = bits(vc)
    file = io.BytesIO()
    with pytest.raises(ZeroDivisionError), ema.swapped():
        with pytest.raises(NestingError), ema.swapped():
            pass
        close(vc["w"].value, [1.0, -2.0, 0.5], ulps=16)
        save_var_collection(file, vc + ema.vars())
        raise ZeroDivisionError
    assert bits(vc) == weights
    everything = bits(vc + ema.vars())
    for v in (vc + ema.vars()).unique():
        v.assign(jnp.zeros_like(v.value))
    file.seek(0)
    load_var_collection(file, vc + ema.vars())
    assert bits(vc + ema.vars()) == everything
