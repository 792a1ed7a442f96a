"""State on meshes, for the tests of orbax; and the program that saves it, or restores it, on a number of devices.

``python -m tests.io.sharded_state save FOLDER DEVICES LAYOUTS`` saves it once in each layout (names with commas between
them). ``... restore FOLDER DEVICES LAYOUTS`` restores each of those into each layout, and exits with an error unless
each bit and each sharding is as it should be. With ``PORT RANK COUNT`` after that, it is one of several processes that
have the devices together.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optimkit import Module, ModuleList, RandomState, StateVar, TrainVar, VarCollection, optimizer
from optimkit.interop import restore_orbax, save_orbax

ROOT = Path(__file__).parent.parent.parent
LAYOUTS = ("replicated", "rows", "columns", "explicit", "mixed")
FLOATS = ("float32", "bfloat16", "float16", "float8_e4m3fn", "complex64")


class Model(Module):
    """Weights whose axes 8 devices divide, one of them shared, and what is no weight: keys, counters, small floats."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.w = TrainVar(jnp.asarray(rng.normal(size=(16, 8)), jnp.float32))
        self.tied = self.w
        self.b = TrainVar(jnp.asarray(rng.normal(size=(8, 8)), jnp.bfloat16))
        self.random = RandomState(seed)
        self.keys = StateVar(jax.random.split(jax.random.key(seed), 8))
        self.rbg = StateVar(jax.random.split(jax.random.key(seed, impl="rbg"), 8))
        self.count = StateVar(jnp.int32(seed))
        self.empty = StateVar(jnp.zeros((8, 0)))
        self.zeros = StateVar(jnp.full((8, 8), -0.0 if seed else 0.0))
        self.nan = StateVar(jnp.asarray(rng.integers(0, 2**32, (8, 8), np.uint32).view(np.float32)))
        self.flags = StateVar(jnp.asarray(rng.integers(0, 2, (8, 8)), jnp.bool_))
        self.floats = ModuleList(
            StateVar(jnp.asarray(rng.normal(size=(8, 8)), d)) for d in (*FLOATS, "float8_e4m3", "int4", "uint4")
        )


def spec(x: Any, layout: str, i: int) -> PartitionSpec:
    """Return how an array is sharded in a layout; small axes stay whole."""
    layout = LAYOUTS[i % 3] if layout == "mixed" else layout
    axis = {"replicated": None, "rows": 0, "explicit": 0, "columns": 1}[layout]
    if axis is None or x.ndim <= axis or x.shape[axis] % 8 or not x.shape[axis]:
        return PartitionSpec()
    return PartitionSpec(*(None,) * axis, "d")


def put(x: jax.Array, place: NamedSharding) -> jax.Array:
    """Put an array that each process has on the devices of all of them."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(x), place), impl=str(jax.random.key_impl(x)))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, place, lambda index: host[index])


def state(seed: int, devices: int, layout: str, steps: int = 0) -> VarCollection:
    """Return a model and its optimizer on a mesh, after some steps."""
    model = Model(seed)
    opt = optimizer.Adam(model.vars().subset(TrainVar), lr=0.1)
    for _ in range(steps):
        opt.step([jnp.cos(v.value) for v in opt.train_vars])
    vc = model.vars() + opt.vars()
    kind = AxisType.Explicit if layout == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((devices,), ("d",), axis_types=(kind,), devices=jax.devices()[:devices])
    for i, v in enumerate(vc):
        v.assign(put(v.value, NamedSharding(mesh, spec(v, layout, i))))
    return vc


def raw(x: jax.Array) -> bytes:
    """Return the bits of the parts of an array that this process has."""
    words = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return b"".join(np.asarray(shard.data).tobytes() for shard in words.addressable_shards)


def differences(vc: VarCollection, wanted: VarCollection) -> list[str]:
    """Return the names of variables with other bits, another dtype or another sharding."""
    return [
        name for name, v in vc.items()
        if raw(v.value) != raw(wanted[name].value) or v.value.dtype != wanted[name].dtype
        or v.value.sharding != wanted[name].value.sharding
    ]  # fmt: skip


def small(value: float = 1.0) -> VarCollection:
    """Return a parameter and a counter, with one value in both."""
    return VarCollection({"w": TrainVar(jnp.full(3, float(value))), "n": StateVar(jnp.int32(value))})


def program(*args: Any, devices: int = 8, wait: bool = True) -> Any:
    """Run Python with a number of devices, and return what it writes; or, with ``wait=False``, the process."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen([sys.executable, *map(str, args)], cwd=ROOT, env=env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    if not wait:
        return started
    out, err = started.communicate(timeout=300)
    assert started.returncode == 0, err[-3000:]
    return out


def main(what: str, folder: str, count: str, names: str, port: str = "", rank: str = "0", total: str = "1") -> None:
    """Save or restore."""
    if port:
        jax.distributed.initialize(f"localhost:{port}", int(total), int(rank))
    devices, layouts = int(count), names.split(",")
    if len(jax.devices()) != devices:
        raise SystemExit(f"{len(jax.devices())} devices")
    wanted = {layout: state(1, devices, layout, steps=2) for layout in layouts}
    if what == "save":
        for layout in layouts:
            save_orbax(f"{folder}/{layout}", wanted[layout])
        return
    for layout in layouts:
        vc = state(0, devices, layout)
        before = vc.tensors()
        if len(differences(vc, wanted[layout])) < 20:
            raise SystemExit("the state to restore into is the state to restore")
        for saved in layouts:
            report = restore_orbax(f"{folder}/{saved}", vc)
            wrong = differences(vc, wanted[layout])
            if wrong or len(report.names) != len(vc.unique()):
                raise SystemExit(f"{saved} into {layout}: not as saved: {wrong}. {report}")
            vc.assign(before)
    sys.stdout.write(f"restored {len(layouts) ** 2}\n")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main(*sys.argv[1:])
