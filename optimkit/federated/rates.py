"""A learning rate or weight decay of an optimizer: a number that can be set, or a scheduler with its counts."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.core import StateVar
from optimkit.core.variable import reduce_first
from optimkit.errors import ConfigError, HyperparameterError, StructureError, message
from optimkit.federated.schedulers import Counts, Scheduler, scheduler_of
from optimkit.federated.states import Change, check_keys
from optimkit.hyper import check_lr
from optimkit.schedule import LAST_STEP, Schedule
from optimkit.tree import names_and_leaves


class Rate:
    """A number or a scheduler; what it remembers is in ``variables``.

    A number is kept twice: in float32, for compiled programs, and as it was given, for float64 vectors.
    """

    def __init__(self, where: str, name: str, spec: Any):
        self.where, self.name = where, name
        self.scheduler: Scheduler | None = None
        self.exact = 0.0
        if isinstance(spec, Schedule | Scheduler | str | tuple | list):
            self.scheduler = scheduler_of(spec)
            names, counts, self._structure = names_and_leaves(self.scheduler.start())
            self.variables = {n: StateVar(jnp.int32(x), reduce_first) for n, x in zip(names, counts, strict=True)}
        else:
            self.exact = self.checked(spec)
            self.variables = {"value": StateVar(jnp.float32(self.exact), reduce_first)}

    def checked(self, x: Any) -> float:
        """Return a number as a float, or raise where it is none that a rate may be."""
        if isinstance(x, type) or not (isinstance(x, numbers.Real) or hasattr(x, "dtype")):
            raise ConfigError(message(self.where, f"{self.name!r} is no rate.", "a number >= 0, a schedule, the name "
                                      "of a scheduler, or (name, config)", repr(x)))  # fmt: skip
        if isinstance(x, jax.core.Tracer):
            raise HyperparameterError(message(self.where, f"{self.name!r} is traced.", "a number", f"{x}"))
        check_lr(f"{self.where}: {self.name}", x)
        return float(np.asarray(x)[()])

    def set(self, x: Any) -> None:
        """Set the number."""
        if self.scheduler is not None:
            raise ConfigError(message(self.where, f"{self.name!r} follows a scheduler, and cannot be set.", None, None,
                                      f"It is {self.scheduler!r}."))  # fmt: skip
        exact = self.checked(x)
        self.variables["value"].value = jnp.float32(exact)
        self.exact = exact

    def now(self) -> Any:
        """Return the rate of the next step: a float, or a tracer inside of a compiled function."""
        if self.scheduler is None:
            value = self.variables["value"].value
            if isinstance(value, jax.core.Tracer):
                return value
            return self.exact if np.float32(self.exact) == np.asarray(value) else float(value)
        value = self.scheduler.value(self.counts())
        return value if isinstance(value, jax.Array) else float(value)

    def counts(self) -> Counts:
        """Return the counts of the scheduler."""
        values = [v.value for v in self.variables.values()]
        counts: Counts = self._structure.unflatten([x if isinstance(x, jax.core.Tracer) else int(x) for x in values])
        return counts

    def told(self, what: str) -> list[Change]:
        """Return what is to be written after ``"stepped"`` or ``"round_started"``."""
        if self.scheduler is None:
            return []
        new = jax.tree.leaves(getattr(self.scheduler, what)(self.counts()))
        return [(v, jnp.asarray(x, jnp.int32)) for v, x in zip(self.variables.values(), new, strict=True)]

    # --- JSON -----------------------------------------------------------------------------------------------------

    def spec(self) -> Any:
        """Return what the constructor would take to make it as it is now, as JSON has it."""
        return self.now() if self.scheduler is None else self.scheduler.spec()

    def as_json(self) -> dict[str, Any]:
        """Return what it remembers, as JSON has it."""
        if self.scheduler is None:
            return {"value": self.now()}
        return {name: int(v.value) for name, v in self.variables.items()}

    def read(self, where: str, given: Any) -> tuple[list[Change], float]:
        """Return what is to be written so that it is what ``as_json`` returned, and the number as it was given."""
        check_keys(where, given, self.variables)
        if self.scheduler is None:
            exact = self.checked(_number(where, given["value"]))
            return [(self.variables["value"], jnp.float32(exact))], exact
        return [(v, jnp.int32(_count(where, name, given))) for name, v in self.variables.items()], 0.0


def _number(where: str, x: Any) -> float:
    if isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x):
        raise StructureError(message(f"{where}['value']", "this is no number.", "a number", repr(x)))
    return x


def _count(where: str, name: str, given: Mapping[str, Any]) -> int:
    n = given[name]
    if type(n) is not int or not 0 <= n <= LAST_STEP:
        raise StructureError(message(f"{where}[{name!r}]", "this is no count.", f"int [0, {LAST_STEP}]", repr(n)))
    return n
