"""Rules that look at whole matrices step parameters whose sharding is explicit as they do others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optimkit.contrib import rules
from optimkit.rules.base import Step, displace
from optimkit.testing.runner import inputs

pytestmark = pytest.mark.slow  # the programs of matrices take seconds to compile, for each kind of mesh

RULES = {
    "Muon": rules.Muon(),
    "Muon of stacks": rules.Muon(stacked="conv"),
    "Shampoo": rules.Shampoo(frequency=2, eps=1e-2),
    "SOAP": rules.SOAP(frequency=2),
    "GaLore": rules.GaLore(rank=2, frequency=2),
    "AdamMini": rules.AdamMini(),
    "MARS": rules.MARS(),
    "Sophia": rules.Sophia(frequency=2),
    "PSGDKron": rules.PSGDKron(),
}
# Unfolded along any axis they are of full rank, so that eigenvectors are what they are to rounding.
SHAPES = {"w": (4, 4), "conv": (2, 2, 2, 4), "b": (4,), "scale": ()}
SPECS = {"w": ("x", "y"), "conv": (None, "x", None, "y"), "b": ("y",), "scale": ()}


@pytest.mark.parametrize("axis_type", [AxisType.Explicit, AxisType.Auto])
@pytest.mark.parametrize("name", RULES)
def test_sharded_parameters_are_stepped_as_whole_ones(name, axis_type):
    rule, rng = RULES[name], np.random.default_rng(0)
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    params = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in SHAPES.items()}
    grads = [{n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in SHAPES.items()} for _ in range(3)]
    places = {n: NamedSharding(mesh, PartitionSpec(*SPECS[n])) for n in SHAPES}

    def step(rule, grads, state, params, t):
        delta, state = rule.update(Step(grads, params, 0.1, **inputs(rule, grads, params, t)), state)
        return displace(params, delta), state

    def run(put):
        now, state = put(params), None
        state = jax.jit(rule.init)(now)
        for t, g in enumerate(grads, 1):
            now, new = jax.jit(step)(rule, put(g), state, now, t)
            if axis_type == AxisType.Explicit:
                assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state), "state keeps its sharding"
            state = new
        return now

    wanted = run(dict)
    with jax.set_mesh(mesh):
        got = run(lambda tree: {n: jax.device_put(x, places[n]) for n, x in tree.items()})
    for n in SHAPES:
        np.testing.assert_allclose(got[n], wanted[n], atol=2e-4)
        assert got[n].sharding.is_equivalent_to(places[n], got[n].ndim) or axis_type == AxisType.Auto
