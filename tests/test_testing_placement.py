"""The checks of sharding: each rejects a rule with a planted bug, says where, and accepts its twin without it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import rules
from optimkit.errors import ConformanceError
from optimkit.rules import Step
from optimkit.testing.check import NotApplicable
from optimkit.testing.placement import check_explicit_sharding_equals_unsharded, check_sharded_equals_unsharded

from .test_testing_programs import Planted

AUTO, EXPLICIT = check_sharded_equals_unsharded, check_explicit_sharding_equals_unsharded


class MadeOfShapes(Planted):
    def start(self, p: Any) -> Any:
        return jnp.zeros(p.shape) if self.broken else jnp.zeros_like(p)


class NormOfOneShard(Planted):
    """Its rate is the norm that a parameter starts with, on the first device only."""

    def init(self, params: Any) -> Any:
        def norm(p: Any) -> Any:
            return jnp.float32(np.linalg.norm(np.asarray(p.addressable_data(0) if self.broken else p)))

        return {**super().init(params), "norm": jax.tree.map(norm, params)}

    def update(self, step: Step, state: Any) -> Any:
        delta, new = super().update(step, state)
        return jax.tree.map(lambda d, n: d * n, delta, state["norm"]), new


class ChoosesADevice(Planted):
    def start(self, p: Any) -> Any:
        return jax.device_put(jnp.zeros_like(p), jax.devices()[0]) if self.broken else jnp.zeros_like(p)


class EvaluatesOnTheHost(Planted):
    def eval_params(self, state: Any, params: Any) -> Any:
        return jax.tree.map(lambda p: jnp.asarray(np.asarray(p)) if self.broken else p + 0, params)


class SelectsZeros(Planted):
    def moment(self, m: Any, g: Any) -> Any:
        return 0.9 * m + jnp.where(jnp.max(g) > 0, g, jnp.zeros(g.shape) if self.broken else jnp.zeros_like(g))


class Flattens(Planted):
    """Multiplies along an axis that is split, and leaves open where the product is to be."""

    def moment(self, m: Any, g: Any) -> Any:
        norm = jnp.vdot(g, g) if self.broken else jnp.sum(g * g)
        return 0.9 * m + g / jnp.sqrt(norm)


BROKEN: list[tuple[Any, type[Planted], str]] = [
    (AUTO, MadeOfShapes, r"step 1 changes the sharding of the state 'm\.bias'(.|\n)*spec=P\(\)(.|\n)*spec=P\('data'"),
    (AUTO, NormOfOneShard, "the parameters on several devices differ at step 1, first in 'bias'"),
    (AUTO, ChoosesADevice, r"after init, the state 'm\.bias' is on other devices than the parameters"),
    (AUTO, EvaluatesOnTheHost, "eval_params changes the sharding of the parameter 'bias'"),
    (EXPLICIT, MadeOfShapes, r"step 1 changes the sharding of the state 'm\.bias'"),
    (EXPLICIT, SelectsZeros, "ShardingTypeError: select"),
    (EXPLICIT, Flattens, "ShardingTypeError: "),
]
CASES = pytest.mark.parametrize(
    "check, rule, says", BROKEN, ids=[f"{check.__name__}-{rule.__name__}" for check, rule, _ in BROKEN])  # fmt: skip


@CASES
def test_a_planted_bug_is_rejected_with_a_message_that_says_where(check, rule, says):
    with pytest.raises(ConformanceError, match=says) as caught:
        check(rule())
    assert str(caught.value).startswith(f"{check.__name__}({rule()!r})")


@pytest.mark.slow
@CASES
def test_the_rule_without_the_bug_passes(check, rule, says):
    check(rule(broken=False))


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_devices_will_do(count, monkeypatch):
    devices = jax.local_devices()[:count]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    EXPLICIT(rules.SGD())
    with pytest.raises(ConformanceError, match=f"'data': {count}"):
        AUTO(MadeOfShapes())


@pytest.mark.parametrize("check", [AUTO, EXPLICIT])
def test_one_device_is_not_enough(check, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    with pytest.raises(NotApplicable, match="one device only"):
        check(rules.SGD())


@pytest.mark.parametrize("check", [AUTO, EXPLICIT])
def test_names_and_ranks_are_those_of_the_parameters_given(check):
    seen = set()

    class Seeing(Planted):
        def init(self, params: Any) -> Any:
            seen.update((name, p.ndim, p.size > 1) for name, p in params.items())
            return super().init(params)

    check(Seeing(broken=False), params={"a": np.zeros((1, 2, 1)), "b": np.zeros(3), "c": np.float32(0)})
    assert seen == {("a", 3, True), ("b", 1, True), ("c", 0, False)}


@pytest.mark.parametrize("check", [AUTO, EXPLICIT])
def test_the_mesh_and_the_configuration_of_jax_are_as_before(check):
    before, mesh = dict(jax.config.values), jax.sharding.get_abstract_mesh()
    with pytest.raises(ConformanceError):
        check(MadeOfShapes())
    assert dict(jax.config.values) == before
    assert jax.sharding.get_abstract_mesh() == mesh
    assert len(jnp.zeros(8).devices()) == 1
