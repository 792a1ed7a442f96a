"""Running a function on all local devices at once, each with its part of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec

from optimkit.core.collection import VarCollection
from optimkit.core.transform import Transform, Written
from optimkit.core.variable import RandomState
from optimkit.errors import StructureError, describe, message


class Parallel(Transform):
    """Run a function on all local devices, each with its part of the arguments; compiled.

    Each device sees the whole of the variables and its share of axis 0 of each array among the arguments. Inside the
    function, ``functional.parallel.pmean(x)`` takes the mean over devices: apply it to gradients. A variable that the
    function writes is reduced over devices afterwards by its ``reduce`` (the mean by default), or kept as it was where
    that is None; every RandomState is split, so that each device draws its own numbers.

    Args:
        f: a function, or a module.
        vc: the variables that ``f`` reads or writes; a module's own where None.
        reduce: what makes one array of the outputs of all devices, stacked on axis 0. For arrays of a batch the
            default, ``jnp.concatenate``; for losses ``lambda x: x.mean(0)``.
        axis_name: the name of the axis of devices, for ``pmean`` and its like.
        static_argnums: positions of arguments to compile for each value of.

    New code that only wants data parallelism needs none of this: shard the batch with ``jax.device_put`` and call
    ``Jit``; XLA does the rest.

    Example:
        >>> from optimkit import TrainVar
        >>> w = TrainVar(jnp.ones(2))
        >>> scale = Parallel(lambda x: w * x, VarCollection({"w": w}))
        >>> scale(jnp.ones((8, 2))).shape
        (8, 2)
    """

    _made = ("_call", "_mesh")

    def __init__(
        self,
        f: Callable[..., Any],
        vc: VarCollection | None = None,
        reduce: Callable[[jax.Array], Any] = jnp.concatenate,
        axis_name: str = "device",
        static_argnums: int | Sequence[int] | None = None,
    ):
        super().__init__(f, vc)
        self.reduce, self.axis_name = reduce, axis_name
        self._static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums or ())
        variables = self.vc.unique().values()
        self._random = {i: v for i, v in enumerate(variables) if isinstance(v, RandomState)}
        self._make_calls()

    def _make_calls(self) -> None:
        self._mesh = Mesh(np.array(jax.local_devices()), (self.axis_name,))
        self._call = jax.jit(self._pure, static_argnums=tuple(i + 2 for i in self._static))

    def _pure(self, tensors: list[Any], keys: dict[int, Any], *args: Any, **kwargs: Any) -> tuple[Any, Written]:
        arrays = {i: x for i, x in enumerate(args) if i not in self._static}
        static = {i: x for i, x in enumerate(args) if i in self._static}
        variables = list(self.vc.unique().values())

        def on_device(tensors: list[Any], keys: Any, arrays: dict[int, Any], kwargs: Any) -> Any:
            mine = [keys[i][0] if i in keys else x for i, x in enumerate(tensors)]
            whole = arrays | static
            with self._compiling():
                outputs, written = self._run(mine, [whole[i] for i in range(len(whole))], kwargs)
            kept = [i for i in written.indices if variables[i]._reduce is not None]
            values = dict(zip(written.indices, written.values, strict=True))
            gathered = [jax.lax.all_gather(values[i], self.axis_name) for i in kept]
            reduced = [variables[i]._reduce(x) for i, x in zip(kept, gathered, strict=True)]  # type: ignore[misc]
            return jax.tree.map(lambda x: jnp.asarray(x)[None], outputs), Written(reduced, tuple(kept))

        split = Spec(self.axis_name)
        specs = (Spec(), split, jax.tree.map(lambda x: split if jnp.ndim(x) else Spec(), arrays), Spec())
        outputs, written = jax.shard_map(
            on_device, mesh=self._mesh, in_specs=specs, out_specs=(split, Spec()), check_vma=False
        )(tensors, keys, arrays, kwargs)
        return jax.tree.map(self.reduce, outputs), written

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs of all devices, reduced.

        Raises:
            StructureError: axis 0 of an array cannot be divided equally among the devices.
        """
        n = self._mesh.size
        for i, arg in enumerate(args):
            for x in [] if i in self._static else jax.tree.leaves(arg):
                if jnp.ndim(x) and jnp.shape(x)[0] % n:
                    raise StructureError(message(
                        repr(self), f"argument {i} cannot be divided equally among {n} devices.",
                        f"axis 0 to be a multiple of {n}", describe(jnp.asarray(x)),
                        "Pad or drop the last, smaller batch."))  # fmt: skip
        with self.vc.restored_on_error():
            keys = {i: v.split(n) for i, v in self._random.items()}
            outputs, written = self._guarded(self._call, self._read(), keys, *args, **kwargs)
            self._write(written)
        return outputs
