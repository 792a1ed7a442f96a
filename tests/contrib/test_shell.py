"""In the stateful face and in ``pure``: complex parameters, and gradients of single examples."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, TrainVar, VarCollection, contrib, optimizer, pure, rules
from optimkit.errors import DTypeError, StructureError


def test_complex_parameters_are_steps_of_their_two_parts():
    """The gradient of ``|z - a|²``, as JAX has it, is the conjugate of the direction of ascent: SGD ends at a."""
    model = VarCollection({"z": TrainVar(jnp.array([3 + 4j])), "w": TrainVar(jnp.array([1.0]))})
    z, w = model["z"], model["w"]
    opt = contrib.SplitComplex(model, rules.SGD(), lr=0.25)
    loss = Jit(lambda: opt.minimize(lambda: jnp.sum(jnp.abs(z.value - (1 - 1j)) ** 2) + jnp.sum(w.value**2)),
               model + opt.vars(), donate=True)  # fmt: skip
    values = [float(loss()[0] if isinstance(loss(), tuple) else loss()) for _ in range(10)]
    assert values[-1] < 1e-6
    np.testing.assert_allclose(z.value, [1 - 1j], atol=1e-3)
    assert z.dtype == jnp.complex64


def test_other_rules_refuse_complex_parameters_and_name_the_wrapper():
    model = VarCollection({"z": TrainVar(jnp.array([3 + 4j]))})
    with pytest.raises(DTypeError, match=r"'z'(?s:.*)contrib\.SplitComplex"):
        optimizer.Adam(model)


def test_a_complex_parameter_needs_a_complex_gradient_and_a_real_one_a_real():
    init, apply = pure(contrib.rules.SplitComplex(rules.SGD()), lr=0.1)
    params = {"z": jnp.array([1 + 1j]), "w": jnp.array([1.0])}
    good = {"z": jnp.array([1j]), "w": jnp.array([1.0])}
    apply(good, init(params), params)
    for name, wrong in {"z": jnp.array([1.0]), "w": jnp.array([1j])}.items():
        with pytest.raises(DTypeError, match=repr(name)):
            apply(good | {name: wrong}, init(params), params)


def clipped_mean(grads):
    return np.mean([g / max(1.0, np.linalg.norm(g)) for g in grads], axis=0)


@pytest.mark.parametrize("chained", [False, True], ids=["DPSGD", "first in a chain"])
def test_gradients_of_examples_are_clipped_and_averaged(chained):
    w = TrainVar(jnp.zeros(3))
    model, grads = VarCollection({"w": w}), np.arange(12.0, dtype=np.float32).reshape(4, 3) / 8
    aggregate = contrib.rules.DPAggregate(1.0, 0.0, seed=0)
    opt = (optimizer.Optimizer(model, rules.Chain(aggregate, rules.SGD())) if chained else
           contrib.DPSGD(model, 1.0, 0.0, 0))  # fmt: skip
    opt(0.5, [jnp.asarray(grads)])
    np.testing.assert_allclose(w.value, -0.5 * clipped_mean(grads), rtol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (4, 2), ()], ids=str)
def test_gradients_without_an_axis_of_examples_are_refused_and_change_nothing(shape):
    w = TrainVar(jnp.ones(3))
    opt = contrib.DPSGD(VarCollection({"w": w}), 1.0, 0.0, 0)
    with pytest.raises(StructureError, match=r"'w' are not one for each example(?s:.*)float32\[examples, 3\]"):
        opt(0.1, [jnp.ones(shape)])
    assert w.value.tolist() == [1.0, 1.0, 1.0]
