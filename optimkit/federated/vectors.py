"""What a plug-in optimizer may be given for a model: variables, or a dict of arrays of NumPy or JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.core import BaseVar, Module, TrainRef, TrainVar, VarCollection
from optimkit.errors import ConfigError, message
from optimkit.federated.states import Change, Specs
from optimkit.numerics import compute_dtype
from optimkit.pure import check_params


class Target:
    """A model as parameters by name, and a way to write them.

    Args:
        where: for messages.
        model: a module, a collection of variables, or a dict from names to arrays.

    Raises:
        ConfigError: it is nothing of this; a TypeError, too.
        StructureError: it has no parameters.
        DTypeError: one of them is not of floating point.
    """

    def __init__(self, where: str, model: Any):
        self.where, self.model = where, model
        self.variables: VarCollection | None = None
        if isinstance(model, Module | VarCollection):
            vc = model.vars() if isinstance(model, Module) else model
            self.variables = vc.subset((TrainVar, TrainRef)).unique()
            self.given: dict[str, Any] = {name: v.value for name, v in self.variables.items()}
        elif isinstance(model, Mapping) and not any(isinstance(x, BaseVar | Mapping | list) for x in model.values()):
            self.given = dict(model)
        else:
            raise ConfigError(message(where, "this is no model.", "a module, a VarCollection, or a dict of arrays",
                                      f"{type(model).__name__} {model!r}"[:200]))  # fmt: skip
        check_params(where, list(self.given), list(self.given.values()))
        self.of_numpy = all(isinstance(x, np.ndarray | np.generic) for x in self.given.values())

    @property
    def wide(self) -> bool:
        """Whether there is a float64 in it."""
        return is_wide(x.dtype for x in self.given.values())

    def arrays(self) -> dict[str, jax.Array]:
        """Return the parameters as JAX's."""
        return {name: jnp.asarray(x) for name, x in self.given.items()}

    def specs(self) -> Specs:
        """Return names, shapes, and the dtypes of the arithmetic, in the order of the names."""
        return specs_of(self.given)

    def changes(self, params: Mapping[str, Any]) -> list[Change]:
        """Return what is to be written to variables, if these are some."""
        if self.variables is None:
            return []
        return [(v, params[name]) for name, v in self.variables.items()]  # type: ignore[misc]

    def check_writable(self) -> None:
        """Raise unless parameters can be written."""
        if self.variables is None and not isinstance(self.model, MutableMapping):
            raise ConfigError(message(self.where, "the parameters cannot be written.", "a dict",
                                      type(self.model).__name__, "Use compute_updates_from_gradients."))  # fmt: skip

    def write(self, params: Mapping[str, Any]) -> None:
        """Put new parameters in a dict in place of the old ones."""
        if self.variables is None:
            self.model.update(self.in_kind(params))

    def in_kind(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays in the order and of the dtypes of the parameters, and of NumPy if those are."""
        cast = {name: arrays[name].astype(x.dtype) for name, x in self.given.items()}
        return {name: np.array(x) for name, x in cast.items()} if self.of_numpy else cast


def specs_of(arrays: Mapping[str, Any]) -> Specs:
    """Return names, shapes, and the dtypes of the arithmetic, in the order of the names."""
    items = sorted(arrays.items())
    return Specs(tuple(name for name, _ in items), tuple(tuple(x.shape) for _, x in items),
                 tuple(str(compute_dtype(x.dtype)) for _, x in items))  # fmt: skip


def is_wide(dtypes: Iterable[Any]) -> bool:
    """Tell whether one of some dtypes is float64."""
    return any(np.dtype(dtype) == np.float64 for dtype in dtypes)


def precision(wide: bool) -> contextlib.AbstractContextManager[Any]:
    """Return what lets JAX compute in float64 where that is needed, for the length of a block and in this thread."""
    return jax.enable_x64(True) if wide and jnp.asarray(0.0).dtype != jnp.float64 else contextlib.nullcontext()
