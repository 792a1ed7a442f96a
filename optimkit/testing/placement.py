"""Checks that sharding changes nothing: arrays spread over all local devices, with Auto and with Explicit mesh axes.

Matrices are split along both axes of a mesh of two, vectors along the first, scalars are copied to each device: what
fully sharded data parallelism with tensor parallelism does. Memory is what it is for, so state must be split as well,
and stay split as it is: a state whose sharding drifts costs a second compile, and traffic between devices.
"""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from optimkit.errors import ConformanceError, message
from optimkit.placement import put
from optimkit.rules.base import Rule, Tree
from optimkit.testing import runner, streams
from optimkit.testing.check import NotApplicable, check, where
from optimkit.testing.compare import Flat, require_close, rounding
from optimkit.testing.runner import LR, flat, run
from optimkit.tree import names_and_leaves

STEPS = 3
AXES = ("data", "model")


@check
def check_sharded_equals_unsharded(rule: Rule, *, params: Tree = None) -> None:
    """A step compiled once for sharded arrays (Auto axes) does what it does on one device, and keeps all shardings.

    Parameters have the names and ranks of those given, and sizes that the devices divide. NotApplicable is raised where
    there is only one device; ``XLA_FLAGS=--xla_force_host_platform_device_count=8`` makes eight of a processor.
    """
    _require_same_sharded(where(check_sharded_equals_unsharded, rule), rule, params, AxisType.Auto)


@check
def check_explicit_sharding_equals_unsharded(rule: Rule, *, params: Tree = None) -> None:
    """Under a mesh with Explicit axes, where a sharding is part of an array's type, the same holds.

    There JAX takes no decision: arrays of different shardings in one ``where``, or in the branches of one ``cond``, are
    an error, as arrays of different shapes are.
    """
    _require_same_sharded(where(check_explicit_sharding_equals_unsharded, rule), rule, params, AxisType.Explicit)


def _require_same_sharded(here: str, rule: Rule, params: Tree, kind: AxisType) -> None:
    mesh = _mesh(kind)
    params = _divisible(streams.parameters(params), mesh)
    grads = streams.gradients(params, STEPS)
    whole = run(rule, params, grads)
    got: list[Flat] = []
    with jax.set_mesh(mesh) if kind == AxisType.Explicit else contextlib.nullcontext():
        now = _split(params, mesh)
        state, step = _started(here, rule, now, mesh), None
        for t, g in enumerate(grads, start=1):
            inputs = (rule, _split(g, mesh), state, now, np.float32(LR), np.int32(t))
            before = _named(state=state, parameter=now)
            step = step or runner.applied.lower(*inputs).compile()
            state, now = step(*inputs)
            _require_same_places(here, before, _named(state=state, parameter=now), f"step {t}")
            got.append(flat(now))
        evaluated = rule.eval_params(state, now)
        _require_same_places(here, _named(parameter=now), _named(parameter=evaluated), "eval_params")
    require_close(here, got, whole.params, whole.start, rounding(STEPS), "parameters on several devices")
    require_close(here, [flat(evaluated)], [flat(rule.eval_params(whole.state, whole.last))], whole.start,
                  rounding(STEPS), "evaluated parameters on several devices")  # fmt: skip


def _mesh(kind: AxisType) -> Mesh:
    """Return a mesh of two axes, the second of size 2 where the devices are enough for both."""
    devices = jax.local_devices()
    n = len(devices)
    if n == 1:
        raise NotApplicable("there is one device only; XLA_FLAGS=--xla_force_host_platform_device_count=8 makes more")
    shape = (n // 2, 2) if n % 2 == 0 and n > 2 else (n, 1)
    return jax.make_mesh(shape, AXES, axis_types=(kind, kind), devices=devices)


def _divisible(params: Tree, mesh: Mesh) -> Tree:
    """Return parameters of the same names and ranks, of sizes that the mesh divides."""
    rng = np.random.default_rng(4)
    data, model = mesh.devices.shape

    def make(p: Any) -> np.ndarray:
        return np.asarray(rng.normal(size=(2 * data, 3 * model, 2, 3, 2, 3)[: np.ndim(p)]), np.float32)

    return jax.tree.map(make, params)


def _split(tree: Tree, mesh: Mesh) -> Tree:
    """Return float32 arrays, spread over the mesh."""
    return jax.tree.map(
        lambda x: jax.device_put(np.asarray(x, np.float32), NamedSharding(mesh, PartitionSpec(*AXES[: np.ndim(x)]))),
        tree)  # fmt: skip


def _started(here: str, rule: Rule, params: Tree, mesh: Mesh) -> Tree:
    """Return the state before the first step; what nobody placed, as a counter, is copied to all devices."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    state = jax.tree.map(lambda x: put(jnp.asarray(x), everywhere), runner.initial(rule, params))
    for name, x in _named(state=state).items():
        if x.sharding.device_set != everywhere.device_set:
            raise ConformanceError(message(here, f"after init, the {name} is on other devices than the parameters.",
                                           everywhere, x.sharding, "Leave the choice of devices to the caller."
                                           ))  # fmt: skip
    return state


def _named(**trees: Tree) -> dict[str, jax.Array]:
    """Return the arrays of trees, by what they are called in messages."""
    named: dict[str, jax.Array] = {}
    for kind, tree in trees.items():
        names, leaves, _ = names_and_leaves(tree)
        named |= {f"{kind} {name!r}": x for name, x in zip(names, leaves, strict=True)}
    return named


def _require_same_places(here: str, before: dict[str, jax.Array], after: dict[str, jax.Array], what: str) -> None:
    for name, x in before.items():
        y = after.get(name, x)  # another tree is what the next step stumbles over
        if not (y.shape == x.shape and y.sharding.is_equivalent_to(x.sharding, x.ndim)):
            raise ConformanceError(message(
                here, f"{what} changes the sharding of the {name}.", f"{x.sharding}, as before", y.sharding,
                "Make it from its parameter, as jnp.zeros_like(p) does: jnp.zeros(p.shape) is whole on each device."
            ))  # fmt: skip
