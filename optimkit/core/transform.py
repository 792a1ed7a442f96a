"""JAX transformations of functions that read and write variables.

Every transform does the same three things: it reads the variables into a flat list, runs a *pure* function of that
list, and stores what came back. The pure function exchanges the variables' values for its arguments
(``VarCollection.swapped``), calls the user's function, collects what it wrote, and puts the old values back, also
when it raises. So an exception leaves every variable as it was.

A compiled call costs what a hand-written ``jax.jit`` over flat lists costs: the variables are listed once, when the
transform is made; checks run while tracing; what comes back is stored unchecked.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

from optimkit.core.collection import VarCollection, explain_deleted, store
from optimkit.core.module import Module
from optimkit.core.variable import BaseVar, RandomState, compiling, unwrap
from optimkit.errors import StructureError, TraceMutationError, VariableError, describe, message


@jax.tree_util.register_pytree_node_class
class Written:
    """What a function wrote: values, and the indices of their variables in the flat list."""

    # Made anew by JAX in every compiled call: by hand, for `register_dataclass` takes some microseconds longer.
    __slots__ = ("indices", "values")

    def __init__(self, values: Sequence[Any], indices: tuple[int, ...]):
        self.values, self.indices = values, indices

    def tree_flatten(self) -> tuple[Sequence[Any], tuple[int, ...]]:
        """Return what JAX passes through a program, and what it does not touch."""
        return self.values, self.indices

    @classmethod
    def tree_unflatten(cls, indices: tuple[int, ...], values: Sequence[Any]) -> Written:
        """Put the two together again."""
        return cls(values, indices)


with jax.ensure_compile_time_eval():  # outside, even where somebody imports this module inside
    _OUTSIDE = get_opaque_trace_state()


def tracing() -> bool:
    """Return whether this runs under a JAX transformation: then what a function returns may be its tracers.

    To look at the type of each value would tell it too, in a time that grows with their number.
    """
    return get_opaque_trace_state() != _OUTSIDE


class Transform(Module):
    """Base of the transforms: a function, its variables, and the way between the stateful and the pure world.

    Args:
        f: a function, or a module.
        vc: the variables that ``f`` reads or writes; a module's own where None.

    Raises:
        StructureError: ``f`` is a plain function and ``vc`` is None.
    """

    _made: ClassVar[tuple[str, ...]] = ()  # attributes that _make_calls makes

    def __init__(self, f: Callable[..., Any], vc: VarCollection | None = None):
        if vc is None:
            if not isinstance(f, Module):
                raise StructureError(message(
                    type(self).__name__, f"the variables used by {getattr(f, '__name__', f)!r} are not given.", None,
                    None, "Give the VarCollection: "
                    f"{type(self).__name__}(f, model.vars()), or Function.auto_vars(f)."))  # fmt: skip
            vc = f.vars()
        self.vc = VarCollection(vc)
        self._buffers = self.vc.buffers()
        functools.update_wrapper(self, f, updated=())

    def vars(self, scope: str = "") -> VarCollection:
        """Return the variables that the transform reads or writes, as given."""
        return VarCollection((scope + name, v) for name, v in self.vc.items())

    def __repr__(self) -> str:
        f = self.__wrapped__  # type: ignore[attr-defined]
        return f"{type(self).__name__}({getattr(f, '__name__', type(f).__name__)}, {len(self._buffers)} variables)"

    def _make_calls(self) -> None:
        """Make what cannot be copied, in the constructor and in a copy."""

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in self._made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy compiles its own function; the original's would run on the original's variables.
        vars(self).update(state)
        self._make_calls()

    def _read(self) -> list[Any]:
        return [b.value for b in self._buffers]

    def _run(self, tensors: list[Any], args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Written]:
        """Call the function on other values of the variables; return its outputs and what it wrote."""
        with self.vc.swapped(tensors):
            outputs = self._guarded(self.__wrapped__, *args, **kwargs)  # type: ignore[attr-defined]
            # A variable that is returned is its value here and now; outside it would be the old one again.
            outputs = jax.tree.map(unwrap, outputs, is_leaf=lambda x: isinstance(x, BaseVar))
            new = self._read()
        changed = tuple(i for i, (old, x) in enumerate(zip(tensors, new, strict=True)) if x is not old)
        return outputs, Written([new[i] for i in changed], changed)

    def _guarded(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``f``; where a tracer has outlived its trace, say what it has to do with variables."""
        try:
            return f(*args, **kwargs)
        except jax.errors.UnexpectedTracerError as error:
            raise self._leaked() from error

    def _leaked(self) -> TraceMutationError:
        names = ", ".join(map(repr, self.vc.unique().keys()))
        return TraceMutationError(message(
            repr(self), "a value has outlived the JAX trace that made it: jax.jit or jax.checkpoint reused a function "
            "that reads variables, or an array was kept from inside a JAX transformation.", None, None,
            "Make the variables arguments of the inner function, for example jax.checkpoint(lambda w, x: ...)(w, x), "
            f"or use Jit there. The variables are {names}."))  # fmt: skip

    @contextlib.contextmanager
    def _compiling(self) -> Iterator[None]:
        """Mark the time while this transform is compiled, when a read of a variable may become a constant."""
        outer, compiling.by = compiling.by, self
        try:
            yield
        finally:
            compiling.by = outer

    def _complete(self, tensors: list[Any], written: Written) -> list[Any]:
        """Return the values of all variables: what was written, and the rest as it was."""
        new = dict(enumerate(tensors)) | dict(zip(written.indices, written.values, strict=True))
        return list(new.values())

    def _write(self, written: Written) -> None:
        """Store what a pure function returned."""
        buffers, values = self._buffers, written.values
        if len(values) != len(buffers):
            buffers = [buffers[i] for i in written.indices]
        # Under an outer transform some of the values are its tracers, and then it must know their variables.
        if tracing():
            variables = list(self.vc.unique().values())
            values = [variables[i].checked(x) for i, x in zip(written.indices, values, strict=True)]
        store(buffers, values)


class Jit(Transform):
    """Compile a function that reads and writes variables.

    Args:
        f: a function, or a module.
        vc: the variables that ``f`` reads or writes; a module's own where None.
        static_argnums: positions of arguments to compile for each value of; as in ``jax.jit``.
        static_argnames: their names.
        donate: update the variables' memory in place. Halves the peak memory of a step; but if the compiled program
            fails while it runs, the variables are gone. Arrays that were read out of variables before a call
            (``w.value``) are deleted by it.
        in_shardings: shardings of the arguments; as in ``jax.jit``.
        out_shardings: shardings of the outputs.

    A variable that ``f`` writes and ``vc`` lacks raises TraceMutationError. One that ``f`` only reads and ``vc``
    lacks is a constant of the compiled program: that is a ConstantVariableWarning.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimkit import TrainVar
        >>> w = TrainVar(jnp.ones(2))
        >>> double = Jit(lambda: w.assign(w * 2), VarCollection({"w": w}))
        >>> double(); double(); w.value
        Array([4., 4.], dtype=float32)
    """

    _made = ("_call", "_call_swapped")

    def __init__(
        self,
        f: Callable[..., Any],
        vc: VarCollection | None = None,
        static_argnums: int | Sequence[int] | None = None,
        *,
        static_argnames: str | Sequence[str] | None = None,
        donate: bool = False,
        in_shardings: Any = None,
        out_shardings: Any = None,
    ):
        super().__init__(f, vc)
        nums, names = _static_arguments(f, static_argnums, static_argnames)
        options: dict[str, Any] = {"static_argnums": tuple(i + 1 for i in nums), "static_argnames": names}
        if in_shardings is not None:
            shardings = in_shardings if isinstance(in_shardings, tuple | list) else (in_shardings,)
            options["in_shardings"] = (None, *shardings)
        if out_shardings is not None:
            options["out_shardings"] = (out_shardings, None)
        self.donate, self._options = donate, options
        self._make_calls()

    def _make_calls(self) -> None:
        self._call = self._call_swapped = jax.jit(self._pure, **self._options)
        if self.donate:
            # What another transform, or an average, holds in the variables for a while is not ours to donate; and
            # under a foreign one, where the step is going to be refused, the variables must survive it.
            self._call = jax.jit(self._pure_complete, donate_argnums=(0,), **self._options)

    def _pure(self, tensors: list[Any], *args: Any, **kwargs: Any) -> tuple[Any, Written]:
        with self._compiling():
            return self._run(tensors, args, kwargs)

    def _pure_complete(self, tensors: list[Any], *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        # Donated buffers are gone after the call: all variables must come back, those that were only read too.
        outputs, written = self._pure(tensors, *args, **kwargs)
        return outputs, self._complete(tensors, written)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the compiled function."""
        keep = self.donate and (compiling.swaps or tracing())
        return self._finish(self._call_swapped if keep else self._call, args, kwargs)

    def _finish(self, call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        try:
            outputs, written = call([b.value for b in self._buffers], *args, **kwargs)
        except jax.errors.UnexpectedTracerError as error:  # as _guarded does; here its own cost would show
            raise self._leaked() from error
        except (RuntimeError, ValueError) as error:
            self._explain_lost_arrays(error)
            raise
        if isinstance(written, list):
            store(self._buffers, written)
        else:
            self._write(written)
        return outputs

    def _explain_lost_arrays(self, error: Exception) -> None:
        first: dict[int, str] = {}
        for name, var in self.vc.unique().items():
            value = var._buffer.value
            other = first.setdefault(id(value), name)
            if self.donate and other != name:
                raise VariableError(message(
                    repr(self), f"{other!r} and {name!r} hold one array, which cannot be donated twice.", None, None,
                    "Assign a copy: v.assign(jnp.copy(w.value)).")) from error  # fmt: skip
        explain_deleted(repr(self), self.vc, error)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Lower for these arguments without running; ``lower(...).compile()`` compiles ahead of time."""
        return Lowered(self, self._call.lower(self._read(), *args, **kwargs))


class Lowered:
    """A function lowered for given arguments; has what ``jax.stages.Lowered`` has (``as_text``, ...)."""

    def __init__(self, jit: Jit, lowered: Any):
        self._jit, self._lowered = jit, lowered

    def compile(self) -> Compiled:
        """Compile, and return a callable that reads and writes the variables."""
        return Compiled(self._jit, self._lowered.compile())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lowered, name)


class Compiled:
    """A compiled function that reads and writes variables; has what ``jax.stages.Compiled`` has."""

    def __init__(self, jit: Jit, compiled: Any):
        self._jit, self._compiled = jit, compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the compiled function, without its static arguments."""
        return self._jit._finish(self._compiled, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)


def _static_arguments(f: Any, nums: Any, names: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Complete positions and names of static arguments by each other, as ``jax.jit`` does from the signature."""
    nums = () if nums is None else (nums,) if isinstance(nums, int) else tuple(nums)
    names = () if names is None else (names,) if isinstance(names, str) else tuple(names)
    try:
        parameters = inspect.signature(f).parameters
    except ValueError:  # a builtin without a signature
        return nums, names
    positional = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    nums = tuple(i + len(positional) if i < 0 else i for i in nums)
    by_name = {i: n for i, n in enumerate(positional) if parameters[n].kind is not inspect.Parameter.POSITIONAL_ONLY}
    unknown = [n for n in names if n not in parameters]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise StructureError(message("Jit", f"{f!r} has no argument {unknown[0]!r}.", list(parameters), unknown[0]))
    return (
        tuple(dict.fromkeys([*nums, *(i for i, n in enumerate(positional) if n in names)])),
        tuple(dict.fromkeys([*names, *(by_name[i] for i in nums if i in by_name)])),
    )


class Vectorize(Transform):
    """Run a function on each element of a batch, as if in a loop over copies of its variables.

    Every RandomState is split, so that each element draws its own numbers. A variable that the function writes is
    reduced over the batch afterwards by its ``reduce`` (the mean by default), or kept as it was where that is None.

    Args:
        f: a function, or a module.
        vc: the variables that ``f`` reads or writes; a module's own where None.
        batch_axis: for each positional argument the axis of the batch, or None to pass it whole. Keyword arguments
            are passed whole.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimkit import TrainVar
        >>> w = TrainVar(jnp.arange(2.0))
        >>> Vectorize(lambda x: jnp.dot(w, x), VarCollection({"w": w}))(jnp.eye(2))
        Array([0., 1.], dtype=float32)
    """

    def __init__(
        self, f: Callable[..., Any], vc: VarCollection | None = None, batch_axis: Sequence[int | None] = (0,)
    ):
        super().__init__(f, vc)
        self.batch_axis = tuple(batch_axis)
        if all(axis is None for axis in self.batch_axis):
            raise StructureError(message("Vectorize", "no argument has a batch axis.", "an axis for at least one",
                                         f"batch_axis={self.batch_axis}"))  # fmt: skip
        self._random = {i: v for i, v in enumerate(self.vc.unique().values()) if isinstance(v, RandomState)}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs for each element, stacked on axis 0."""
        if len(args) != len(self.batch_axis):
            raise StructureError(message(
                repr(self), "the number of positional arguments does not fit batch_axis.",
                f"{len(self.batch_axis)}, for batch_axis={self.batch_axis}", f"{len(args)}",
                "Give an axis (or None) for each argument."))  # fmt: skip
        size = self._batch_size(args)
        with self.vc.restored_on_error():
            keys = {i: v.split(size) for i, v in self._random.items()}
            tensors = [keys.get(i, x) for i, x in enumerate(self._read())]
            axes = [0 if i in keys else None for i in range(len(tensors))]
            run = lambda tensors, args: self._run(tensors, args, kwargs)  # noqa: E731
            mapped = jax.vmap(run, in_axes=(axes, self.batch_axis))
            outputs, written = self._guarded(mapped, tensors, args)
            variables = list(self.vc.unique().values())
            for i, copies in zip(written.indices, written.values, strict=True):
                variables[i].reduce(copies)
        return outputs


    def _batch_size(self, args: Sequence[Any]) -> int:
        for i, (arg, axis) in enumerate(zip(args, self.batch_axis, strict=True)):
            if axis is None:
                continue
            for x in jax.tree.leaves(arg):
                if not -jnp.ndim(x) <= axis < jnp.ndim(x):
                    raise StructureError(message(
                        repr(self), f"argument {i} has no axis {axis} to go over.", f"an array with axis {axis}",
                        describe(x), "Pass an array, or give None as its axis."))  # fmt: skip
                return int(jnp.shape(x)[axis])
        raise StructureError(message(repr(self), "no argument has an array to go over."))


class Scan(Transform):
    """Run a function on one slice of its arguments after the other, in one compiled program.

    K training steps become one call: no Python in between, and XLA may keep the variables in place.

    Args:
        f: a function, or a module. Positional arguments are stacked on axis 0 and passed slice by slice; keyword
            arguments are passed whole to each step.
        vc: the variables that ``f`` reads or writes; a module's own where None.
        length: the number of steps, where there is no positional argument.
        unroll: how many steps to write out in the loop's body; as in ``jax.lax.scan``.
        donate: as in ``Jit``.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimkit import StateVar
        >>> total = StateVar(jnp.float32(0))
        >>> def add(x):
        ...     total.value += x
        ...     return total.value
        >>> Scan(add, VarCollection({"total": total}))(jnp.arange(4.0))
        Array([0., 1., 3., 6.], dtype=float32)
    """

    def __init__(
        self,
        f: Callable[..., Any],
        vc: VarCollection | None = None,
        *,
        length: int | None = None,
        unroll: int = 1,
        donate: bool = False,
    ):
        super().__init__(f, vc)
        self.length, self.unroll = length, unroll
        self._jit = Jit(self._loop, self.vc, donate=donate)

    def _loop(self, *args: Any, **kwargs: Any) -> Any:
        changed: set[int] = set()

        def body(tensors: list[Any], slices: Any) -> tuple[list[Any], Any]:
            outputs, written = self._run(tensors, slices, kwargs)
            changed.update(written.indices)
            return self._complete(tensors, written), outputs

        tensors, outputs = jax.lax.scan(body, self._read(), args, self.length, unroll=self.unroll)
        store([self._buffers[i] for i in changed], [tensors[i] for i in changed])
        return outputs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the steps; return their outputs, stacked on axis 0.

        Raises:
            StructureError: the arguments are not stacked alike.
        """
        lengths = {x.shape[0] if x.shape else None for x in map(jnp.asarray, jax.tree.leaves(args))}
        if len(lengths) > 1 or None in lengths:
            raise StructureError(message(
                repr(self), "the positional arguments are not stacked alike.", "one length of axis 0 for all",
                f"{sorted(map(str, lengths))}", "Pass what is the same in each step by keyword."))  # fmt: skip
        return self._jit(*args, **kwargs)
