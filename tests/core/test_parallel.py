"""Parallel: one step on eight devices is one step on the whole batch."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimkit
from optimkit import Module, Parallel, RandomState, StateVar, TrainVar, VarCollection, functional
from optimkit.errors import StructureError

N = jax.local_device_count()


def linear_model():
    w = TrainVar(jnp.array([1.0, -2.0, 0.5]))
    vc = VarCollection({"w": w})
    opt = optimkit.optimizer.Adam(vc)
    gradients = optimkit.GradValues(lambda x, y: jnp.mean((x @ w - y) ** 2), vc)
    return w, vc, opt, gradients


def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2 * N, 3)).astype(np.float32), rng.normal(size=2 * N).astype(np.float32)


def test_averaged_gradients_give_the_step_of_the_whole_batch():
    w, vc, opt, gradients = linear_model()

    def step(x, y):
        grads, values = gradients(x, y)
        opt(0.1, functional.parallel.pmean(grads))
        return functional.parallel.pmean(values[0])

    parallel = Parallel(step, vc + opt.vars(), reduce=lambda x: x[0])
    alone_w, _, alone_opt, alone_gradients = linear_model()
    for _ in range(3):
        loss = parallel(*batch())
        grads, values = alone_gradients(*batch())
        alone_opt(0.1, grads)
        np.testing.assert_allclose(loss, values[0], rtol=1e-5)
    np.testing.assert_allclose(w.value, alone_w.value, rtol=1e-5)
    mine, theirs = opt.state["w"].nu.value, alone_opt.state["w"].nu.value
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_outputs_are_concatenated_in_order():
    double = Parallel(lambda x: 2 * x, VarCollection())
    x = jnp.arange(3.0 * N).reshape(-1, 1)
    np.testing.assert_array_equal(double(x), 2 * x)


def test_statistics_are_averaged_over_devices_and_each_device_draws_its_own_numbers():
    mean, key = StateVar(jnp.zeros(())), RandomState(0)

    def f(x):
        mean.value = x.mean()
        return jax.random.normal(key.split(1)[0], (1,))

    before = np.asarray(key.value)
    draws = Parallel(f, VarCollection({"mean": mean, "key": key}))(jnp.arange(1.0 * N))
    assert len(np.unique(draws)) == N
    assert float(mean.value) == pytest.approx((N - 1) / 2)
    assert not np.array_equal(before, key.value)


def test_a_batch_that_cannot_be_divided_is_an_error_that_names_the_argument():
    with pytest.raises(StructureError, match=f"argument 0 cannot be divided equally among {N} devices"):
        Parallel(lambda x: x, VarCollection())(jnp.ones(N + 1))


def test_static_arguments_are_not_traced():
    scale = Parallel(lambda x, power: x**power if power > 1 else x, VarCollection(), static_argnums=1)
    np.testing.assert_array_equal(scale(jnp.full(N, 3.0), 2), np.full(N, 9.0))


def test_replicate_holds_the_variables_on_all_devices_and_brings_them_back():
    w = TrainVar(jnp.ones(3))
    with pytest.raises(KeyError), VarCollection({"w": w}).replicate():
        assert len(w.value.sharding.device_set) == N
        raise KeyError
    assert len(w.value.sharding.device_set) == 1


def test_an_exception_leaves_the_variables_as_they_were():
    w, key = TrainVar(jnp.ones(3)), RandomState(0)
    before = np.asarray(key.value)

    def f(x):
        w.assign(w * 2)
        key.split(1)
        raise KeyError("stop")

    with pytest.raises(KeyError):
        Parallel(f, VarCollection({"w": w, "key": key}))(jnp.ones(N))
    np.testing.assert_array_equal(w.value, np.ones(3))
    np.testing.assert_array_equal(key.value, before)


class Counter(Module):
    """Sums up what it gets."""

    def __init__(self):
        self.total = StateVar(jnp.zeros(()))

    def __call__(self, x):
        self.total.value += functional.parallel.psum(jnp.sum(x))
        return x


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deep", "pickle"])
def test_a_copy_has_variables_of_its_own(duplicate):
    parallel = Parallel(Counter())
    parallel(jnp.ones(N))
    other = duplicate(parallel)
    other(jnp.ones(N))
    assert [float(p.vars()["(Counter).total"].value) for p in (parallel, other)] == [N, 2 * N]
