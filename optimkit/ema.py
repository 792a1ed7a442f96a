"""Moving averages of weights, to evaluate with.

The average of the last weights is often a better model than the last weights. :class:`ExponentialMovingAverage` keeps
one of each variable; :class:`ExponentialMovingAverageModule` wraps a module so that calling the wrapper runs the module
at the averages.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit.core import BaseVar, Module, RandomState, StateVar, TrainRef, TrainVar, VarCollection
from optimkit.core.collection import store
from optimkit.core.variable import reduce_first
from optimkit.errors import NestingError, StructureError, message
from optimkit.hyper import check_hyperparameter
from optimkit.numerics import cast, compute_dtype, count_up
from optimkit.placement import place_beside, put


class ExponentialMovingAverage(Module):
    """Keeps an exponential moving average of each variable of a collection.

    ::

        m₀ = 0,  c₀ = 0
        m ← μ m + (1 − μ) w                    computed as m + (1 − μ) (w − m)
        c ← μ c + (1 − μ)                      the weight that m has gathered, 1 − μᵗ
        average = m                            (debias=False)
        average = m / (c + eps (1 − c))        (debias=True), = m / (1 − (1 − eps) μᵗ)

    With ``warmup``, ``μ`` at update t (from 1) is ``min(momentum, (1 + t) / (10 + t))``, so that the first weights are
    forgotten soon. Before the first update the average is the variables' own values.

    Parameters and floating-point states (batch statistics) are averaged, in float32 or wider, so that averages of
    bfloat16 weights move at all; evaluation casts them to the variable's dtype. Integer variables and RandomStates are
    not averaged: evaluation sees their present values. In float32 an average of constant weights stops within
    ``6e-8 / (1 − μ)`` of them, relative, where its increments get lost; the computed form above has no other drift.

    Args:
        vc: the variables. A TrainRef stands for its TrainVar; each is averaged once.
        momentum: μ, the decay of the average, in [0, 1).
        debias: whether to divide by the gathered weight.
        eps: keeps that division from 0/0.
        warmup: whether μ grows to ``momentum`` over the first updates.
        every: how many calls make one update.

    Raises:
        StructureError: ``vc`` is not a VarCollection, or nothing in it can be averaged.
        HyperparameterError: an option is out of range.

    Deviations: objax gives zeros before the first update, and averages integers too.

    Reference: Polyak & Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; the warmup is that of
    TensorFlow's ``ExponentialMovingAverage(num_updates=...)``.

    Example:
        >>> import optimkit
        >>> w = optimkit.TrainVar(jnp.array([1.0]))
        >>> ema = ExponentialMovingAverage(optimkit.VarCollection({"w": w}), momentum=0.5, debias=True, eps=0.0)
        >>> ema(); w.assign([4.0]); ema()
        >>> with ema.swapped():
        ...     w.value
        Array([3.], dtype=float32)
    """

    def __init__(
        self,
        vc: VarCollection,
        momentum: float = 0.999,
        debias: bool = False,
        eps: float = 1e-6,
        *,
        warmup: bool = False,
        every: int = 1,
    ):
        where = type(self).__name__
        self.momentum = _option(where, "momentum", momentum, "[0, 1)")
        self.debias = _option(where, "debias", debias, bool)
        self.eps = _option(where, "eps", eps, "[0, 1)")
        self.warmup = _option(where, "warmup", warmup, bool)
        self.every = _option(where, "every", every, "int [1, inf)")
        if not isinstance(vc, VarCollection):
            raise StructureError(message(where, "this is not a collection of variables.", "a VarCollection",
                                         type(vc).__name__, f"{where}(model.vars(), ...)"))  # fmt: skip
        self.refs = VarCollection((name, _handle(v)) for name, v in vc.unique().items() if _is_averaged(v))
        if not self.refs:
            raise StructureError(message(where, "there is nothing to average.", "a variable of floating point",
                                         f"{len(vc)} variables of other kinds"))  # fmt: skip
        # Named as in vars(), so that messages about an average do not name the variable itself.
        self._m = VarCollection((f"({where})[{name}]", StateVar(_zeros(v))) for name, v in self.refs.items())
        weight, calls = jnp.zeros((), jnp.result_type(*(m.dtype for m in self._m))), jnp.zeros((), jnp.int32)
        place = place_beside(self._m.tensors())
        self.weight = StateVar(put(weight, place))
        self.calls = StateVar(put(calls, place), reduce=reduce_first)
        self._swapped = False

    def __call__(self) -> None:
        """Take the present values into the averages (on every ``every``-th call).

        Raises:
            NestingError: the variables hold their averages.
        """
        self._reject_nesting("update")
        calls = count_up(self.calls.value)
        t = (calls // self.every).astype(self.weight.dtype)
        mu = jnp.minimum(self.momentum, (1 + t) / (10 + t)) if self.warmup else self.momentum
        due = calls % self.every == 0

        def mix(m: jax.Array, x: Any) -> jax.Array:
            # Not mu m + (1 - mu) x: in float32 those factors do not sum to 1, by up to 3e-8 / (1 - mu) in the result.
            new = (m + (1 - mu) * (cast(x, m.dtype) - m)).astype(m.dtype)
            return new if self.every == 1 else jnp.where(due, new, m)

        averages = [mix(m.value, v.value) for m, v in zip(self._m.values(), self.refs.values(), strict=True)]
        variables: list[BaseVar] = [*self._m.values(), self.weight, self.calls]
        new = [*averages, mix(self.weight.value, 1.0), calls]
        store([v._buffer for v in variables], [v.checked(x) for v, x in zip(variables, new, strict=True)])

    def refs_and_values(self) -> tuple[VarCollection, list[jax.Array]]:
        """Return the averaged variables (parameters as TrainRefs) and their averages, in the same order."""
        gathered = self.weight.value
        started = gathered > 0
        weight = jnp.where(started, gathered + self.eps * (1 - gathered), 1.0) if self.debias else jnp.float32(1)
        return self.refs, [
            cast(jnp.where(started, m.value / weight.astype(m.dtype), cast(v.value, m.dtype)), v.dtype)
            for m, v in zip(self._m.values(), self.refs.values(), strict=True)
        ]

    @contextlib.contextmanager
    def swapped(self) -> Iterator[VarCollection]:
        """Hold the averages in the variables for the length of a block; the weights come back on any exit.

        What the block writes to averaged variables is lost with the averages.

        Raises:
            NestingError: the variables hold their averages already.
        """
        self._reject_nesting("swapped")
        refs, averages = self.refs_and_values()
        self._swapped = True
        try:
            with refs.swapped(averages):
                yield refs
        finally:
            self._swapped = False

    def replace_vars(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that calls ``f`` while the variables hold their averages."""

        @functools.wraps(f)
        def with_averages(*args: Any, **kwargs: Any) -> Any:
            with self.swapped():
                return f(*args, **kwargs)

        return with_averages

    def _reject_nesting(self, what: str) -> None:
        if self._swapped:
            raise NestingError(message(
                f"ExponentialMovingAverage.{what}", "the variables hold their averages at this moment.", None, None,
                "Leave the block of swapped() (or the call of the EMA module) first."))  # fmt: skip

    def vars(self, scope: str = "") -> VarCollection:
        """Return the averages, named after the variables, the counters, and references to the variables."""
        result = super().vars(scope)
        result.update((scope + name, m) for name, m in self._m.items())
        result.update((f"{scope}({type(self).__name__}).refs[{name}]", v) for name, v in self.refs.items())
        return result

    def __getstate__(self) -> dict[str, Any]:
        # A copy that is made inside a block of swapped() is of the variables as they are then; no block will end.
        return {**self.__dict__, "_swapped": False}

    def __repr__(self) -> str:
        options = f"momentum={self.momentum}, debias={self.debias}, warmup={self.warmup}, every={self.every}"
        return f"{type(self).__name__}({options}; {len(self.refs)} variables)"


def _option(where: str, name: str, value: Any, domain: Any) -> Any:
    """Return an option as a Python value, or raise unless it lies in its domain."""
    value = value.tolist() if isinstance(value, jax.Array | np.ndarray | np.generic) else value
    check_hyperparameter(where, name, value, domain)
    return value


def _is_averaged(v: BaseVar) -> bool:
    return not isinstance(v, RandomState) and jnp.issubdtype(v.dtype, jnp.floating)


def _handle(v: BaseVar) -> BaseVar:
    return TrainRef(v) if isinstance(v, TrainVar) else v


def _zeros(v: BaseVar) -> jax.Array:
    return jnp.zeros_like(v.value, dtype=compute_dtype(v.dtype))  # on the variable's devices, too


class ExponentialMovingAverageModule(Module):
    """A module that runs another one at the moving averages of its variables.

    Args:
        module: the module.
        momentum: as in :class:`ExponentialMovingAverage`, and so are the others.
        debias: whether to divide by the gathered weight.
        eps: keeps that division from 0/0.
        warmup: whether the momentum grows over the first updates.
        every: how many calls of :meth:`update_ema` make one update.

    Example:
        >>> import optimkit
        >>> class Scale(optimkit.Module):
        ...     def __init__(self):
        ...         self.w = optimkit.TrainVar(jnp.float32(2.0))
        ...     def __call__(self, x):
        ...         return self.w * x
        >>> model = Scale()
        >>> averaged = ExponentialMovingAverageModule(model, momentum=0.5, debias=True, eps=0.0)
        >>> averaged.update_ema(); model.w.assign(5.0); averaged.update_ema()
        >>> float(model(1.0)), float(averaged(1.0))
        (5.0, 4.0)
    """

    def __init__(
        self,
        module: Module,
        momentum: float = 0.999,
        debias: bool = False,
        eps: float = 1e-6,
        *,
        warmup: bool = False,
        every: int = 1,
    ):
        if not isinstance(module, Module):
            where = type(self).__name__
            raise StructureError(message(where, "this is not a module.", "a Module", type(module).__name__,
                                         "For variables without a module use ExponentialMovingAverage."))  # fmt: skip
        self.__wrapped__ = module
        self.ema = ExponentialMovingAverage(module.vars(), momentum, debias, eps, warmup=warmup, every=every)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module at the averages."""
        with self.ema.swapped():
            return self.__wrapped__(*args, **kwargs)

    def update_ema(self) -> None:
        """Take the module's present values into the averages."""
        self.ema()

    def vars(self, scope: str = "") -> VarCollection:
        """Return the module's variables, under their own names, and those of the average."""
        return self.__wrapped__.vars(scope) + self.ema.vars(f"{scope}({type(self).__name__}).ema")

    def __repr__(self) -> str:
        inner = "\n".join(f"  {line}" for line in f"{self.__wrapped__!r},\n{self.ema!r}".split("\n"))
        return f"{type(self).__name__}(\n{inner}\n)"
