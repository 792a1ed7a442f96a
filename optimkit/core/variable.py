"""Variables: the only things in optimkit that change.

A variable is a box that holds one array. Its kind says who may write it:

``TrainVar``
    a parameter. Gradients are taken with respect to it, optimizers move it; ``assign`` writes it, ``.value =`` does
    not, so that no script overwrites a parameter by accident.
``StateVar``
    anything else that persists: a batch statistic, a moment, a counter.
``TrainRef``
    a second handle on a TrainVar, held by those who write parameters (optimizers, averages). It is not a copy.
``RandomState``
    the key of a random number generator.

In expressions a variable behaves as its array does: operators, ``jnp.sin(v)``, ``jax.jit(f)(v)``, ``jax.tree.map``.
For that each kind is a registered pytree node *and* has ``__jax_array__`` (JAX asks for both). ``jax.lax`` functions
take ``v.value``. ``==`` is elementwise as an array's; a variable hashes by identity. ``v += x`` raises: it would put
an array in the variable's place; write ``v.value += x``.

**Writes are checked.** Shape and dtype never change, which is what keeps a compiled step compiled. And a tracer is
stored only while an optimkit transform has *opened* the variable (see ``VarCollection.swapped``): under a foreign
``jax.jit`` or ``jax.grad`` it would outlive its trace, so the write raises instead, with the variable's name.

The array itself lies in a ``Buffer``, which a TrainVar shares with its TrainRefs. Collections and transforms count
buffers, so what has two handles is still read, differentiated, donated and written once.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state as trace_state

from optimkit.errors import (
    ConstantVariableWarning,
    DTypeError,
    StructureError,
    TraceMutationError,
    VariableError,
    describe,
    message,
)
from optimkit.numerics import cast

Reduce = Callable[[jax.Array], jax.Array]


def reduce_mean(x: jax.Array) -> jax.Array:
    """Reduce copies of a variable, stacked on axis 0, to their mean: the default after ``Vectorize``."""
    return x.mean(0)


def reduce_first(x: jax.Array) -> jax.Array:
    """Reduce copies of a variable, stacked on axis 0, to the first: for counters, of which all copies agree."""
    return x[0]


class Buffer:
    """Where the array lies: a slot object, so that a compiled call reads and stores thousands in microseconds."""

    __slots__ = ("kept", "name", "open", "origin", "value")

    def __init__(self, value: Any, name: str | None = None):
        self.value = value
        self.name = name  # its name in the first collection that held it, for messages
        self.kept: Any = None  # while it is open: what it will hold again, which is what a checkpoint saves
        self.origin: weakref.ref[Any] | None = None  # the module whose memory it is, for those who describe it
        # The trace under which a transform of ours has installed a value: there, tracers may be stored.
        self.open = trace_state() if isinstance(value, jax.core.Tracer) else None

    def __reduce__(self) -> Any:
        return Buffer, (self.value, self.name)  # a copy is not open


class _Compiling(threading.local):
    """What transforms of ours do in this thread."""

    by: Any = None  # which one is being compiled: a read that it should know of is a constant otherwise
    swaps: int = 0  # how many exchanges of values are under way: what is held then must not be donated


compiling = _Compiling()


def _warn_of_constant(name: str) -> None:
    warnings.warn(message(
        repr(compiling.by), f"the variable {name!r} is read but not listed, so its present value becomes a "
        "constant of the compiled program.", None, None,
        "List it: Jit(f, model.vars() + opt.vars() + ...). If it is meant to be a constant, pass its array."),
        ConstantVariableWarning, stacklevel=4)  # fmt: skip


class BaseVar:
    """A box that holds one array; see the module's text for the kinds.

    Args:
        tensor: the initial array (or anything that ``jnp.asarray`` takes).
        reduce: how copies made by ``Vectorize``, stacked on axis 0, become one value again.
    """

    _buffer: Buffer
    _reduce: Reduce | None
    _detached = False  # True for the copy that JAX makes when a variable is an argument of a function

    def __init__(self, tensor: Any, reduce: Reduce | None = reduce_mean):
        self._buffer = Buffer(_strong(tensor))
        self._reduce = reduce

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_node(cls, _flatten, lambda aux, leaves: _unflatten(cls, aux, leaves))

    @property
    def value(self) -> jax.Array:
        """The array."""
        return self._get()

    @value.setter
    def value(self, tensor: Any) -> None:
        self.assign(tensor)

    def _get(self) -> jax.Array:
        buffer = self._buffer
        if compiling.by is not None and buffer.open is None and not isinstance(buffer.value, jax.core.Tracer):
            _warn_of_constant(self.name)
        return buffer.value

    def assign(self, tensor: Any, check: bool = True) -> None:
        """Write the array.

        Args:
            tensor: the new value, of the variable's shape and dtype. Python numbers take the variable's dtype.
            check: False leaves out all checks; for those who have made them.

        Raises:
            StructureError: the shape differs.
            DTypeError: the dtype differs.
            TraceMutationError: the value is a tracer and no optimkit transform has opened the variable.
        """
        self._buffer.value = self.checked(tensor) if check else tensor

    def reduce(self, tensors: jax.Array) -> None:
        """Write the reduction of ``tensors`` over axis 0; nothing where the variable has no ``reduce``.

        Raises:
            DTypeError: the reduction has another dtype, as the mean of integers has.
        """
        if self._reduce is None:
            return
        new = self._reduce(tensors)
        if new.dtype != self.dtype:
            raise DTypeError(message(
                "reduce", f"the copies of {self.name!r} reduce to another dtype.", describe(self._buffer.value),
                describe(new), "Say how copies become one, for example StateVar(x, reduce=variable.reduce_first)."
            ))  # fmt: skip
        self.assign(new)

    @property
    def name(self) -> str:
        """The path by which a module knows the variable, or its class where none does."""
        return self._buffer.name or type(self).__name__

    def checked(self, tensor: Any) -> jax.Array:
        """Return what ``assign`` would write, or raise as it would."""
        old = self._buffer.value
        new = tensor if isinstance(tensor, jax.Array) else _array_like(tensor, old)
        if new.shape != old.shape:
            raise StructureError(message(
                "assign", f"the new value of {self.name!r} has another shape.", describe(old), describe(new),
                "A variable keeps its shape; make a new variable for another one."))  # fmt: skip
        if new.dtype != old.dtype or getattr(new, "weak_type", False):
            new = self._as_own_dtype(new)
        if not isinstance(new, jax.core.Tracer) or self._buffer.open == trace_state():
            return new
        if self._detached and self._buffer.open is None:
            raise TraceMutationError(message(
                "assign", f"{self.name!r} is a copy that JAX made of an argument; what is written to it is lost.",
                None, None, "Call the function through optimkit.Jit with the variable in its collection, "
                "or return the new value."))  # fmt: skip
        raise TraceMutationError(message(
            "assign", f"{self.name!r} is written under a JAX transformation that does not know it.", None, None,
            "Use the optimkit transform (Jit, Grad, GradValues, Vectorize, Scan), and list the variable in its "
            "collection, for example Jit(f, model.vars() + opt.vars())."))  # fmt: skip

    def _as_own_dtype(self, new: Any) -> Any:
        old = self._buffer.value
        dtype, weak = old.dtype, getattr(new, "weak_type", False)
        if new.dtype != dtype and not (weak and jnp.result_type(old, new) == dtype):
            raise DTypeError(message(
                "assign", f"the new value of {self.name!r} has another dtype.", describe(old), describe(new),
                f"Cast it if that is meant: value.astype({dtype.name!r})."))  # fmt: skip
        return cast(new, dtype)

    # --- behaving as the array ------------------------------------------------------------------------------------

    __array_priority__ = 100  # so that NumPy arrays on the left leave their operators to ours

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype=dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self._buffer.value.shape

    @property
    def dtype(self) -> np.dtype:
        """The array's dtype."""
        return self._buffer.value.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._buffer.value.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._buffer.value.size

    @property
    def T(self) -> jax.Array:  # noqa: N802 - the array's own name
        """The array, transposed."""
        return self.value.T

    def __getattr__(self, name: str) -> Any:
        # Methods of the array (mean, reshape, astype, at, ...). Private and dunder names are never the array's:
        # copy, pickle and IPython ask for those, and an array's answer would pass for ours.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.value, name)

    def __getitem__(self, index: Any) -> jax.Array:
        return self.value[unwrap(index)]

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[jax.Array]:
        return iter(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __index__(self) -> int:
        return self.value.__index__()

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        kind, value = type(self).__name__, self._buffer.value
        label = f"{self._buffer.name!r}, " if self._buffer.name else ""
        concrete = isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)
        if concrete and value.is_deleted():
            return f"{kind}({label}{describe(value)}, deleted)"
        if concrete and value.size <= 8:
            return f"{kind}({label}{describe(value)}, {np.array2string(np.asarray(value), separator=', ')})"
        shown = describe(value) if isinstance(value, jax.Array) else repr(value)
        return f"{kind}({label}{shown})"


def unwrap(x: Any) -> Any:
    """Return a variable's array, and anything else as it is."""
    return x.value if isinstance(x, BaseVar) else x


def _strong(tensor: Any) -> jax.Array:
    """Make an array that no later arithmetic can turn into another dtype."""
    if isinstance(tensor, BaseVar):
        raise VariableError(message(
            type(tensor).__name__, "a variable was made from a variable.", None, None,
            "Use TrainRef(v) for a second handle, or v.value for a copy of the array."))  # fmt: skip
    array = jnp.asarray(tensor)
    return cast(array, array.dtype) if not jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array


def _array_like(x: Any, old: Any) -> jax.Array:
    """Return ``x`` as an array; plain Python numbers take the dtype of ``old`` where that keeps their kind."""
    x = unwrap(x)
    if not hasattr(x, "dtype"):
        kind = {"b": bool, "i": int, "u": int, "f": float, "c": complex}.get(np.asarray(x).dtype.kind)
        if kind is not None and jnp.result_type(old, kind) == old.dtype:
            return jnp.asarray(x, old.dtype)
    return jnp.asarray(x)


def _operator(name: str) -> Callable[..., Any]:
    def binary(self: BaseVar, *others: Any) -> Any:
        return getattr(self.value, name)(*map(unwrap, others))

    binary.__name__ = name
    return binary


_BINARY = "add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift".split()
for _name in ["lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert", "round",
              *_BINARY, *("r" + name for name in _BINARY)]:  # fmt: skip
    setattr(BaseVar, f"__{_name}__", _operator(f"__{_name}__"))


def _in_place(sign: str) -> Callable[[BaseVar, Any], Any]:
    def refuse(self: BaseVar, other: Any) -> Any:
        raise VariableError(message(
            type(self).__name__, f"v {sign}= x would put an array in the place of the variable {self.name!r}.", None,
            None, f"To write the variable: v.value {sign}= x, or v.assign(v {sign} x) for a TrainVar; for a new array: "
            f"y = v {sign} x."))  # fmt: skip

    return refuse


for _name, _sign in zip(_BINARY, "+ - * / // % _ ** @ & | ^ << >>".split(), strict=True):
    if _name != "divmod":
        setattr(BaseVar, f"__i{_name}__", _in_place(_sign))


class _Label(str):
    """A name that travels with a variable but does not make two trees different."""

    __hash__ = lambda self: 0  # noqa: E731
    __eq__ = lambda self, other: isinstance(other, _Label)  # noqa: E731


def _flatten(var: BaseVar) -> tuple[tuple[Any], tuple[Any, ...]]:
    extra = ((k, v) for k, v in vars(var).items() if k not in ("_buffer", "_detached"))
    return (var._buffer.value,), (_Label(var.name), *sorted(extra))


def _unflatten(cls: type[BaseVar], aux: tuple[Any, ...], leaves: tuple[Any]) -> BaseVar:
    """Rebuild a variable around any leaf; JAX may pass placeholders, so nothing is checked or converted."""
    label, *extra = aux
    var, buffer = object.__new__(cls), Buffer(leaves[0], str(label))
    buffer.open = None
    var.__dict__.update(extra, _buffer=buffer, _detached=True)
    return var


class TrainVar(BaseVar):
    """A parameter: gradients are taken with respect to it, and optimizers move it.

    Example:
        >>> w = TrainVar(jnp.ones(2))
        >>> w * 3
        Array([3., 3.], dtype=float32)
        >>> w.assign(jnp.zeros(2)); w
        TrainVar(float32[2], [0., 0.])
    """

    @property
    def value(self) -> jax.Array:
        """The array. Writing it here raises VariableError: use ``assign`` or a ``TrainRef``."""
        return self._get()

    @value.setter
    def value(self, tensor: Any) -> None:
        raise VariableError(message(
            "TrainVar.value", f"direct assignment to the parameter {self.name!r}.", None, None,
            "Use v.assign(x), or write through TrainRef(v).value."))  # fmt: skip


class BaseState(BaseVar):
    """Base class of the variables that are not trained."""


class StateVar(BaseState):
    """A variable that persists and is not trained: a statistic, a moment, a counter.

    Example:
        >>> steps = StateVar(jnp.int32(0))
        >>> steps.value += 1
        >>> steps
        StateVar(int32[], 1)
    """


class TrainRef(BaseState):
    """A handle through which a parameter is written; reading it reads the parameter.

    Args:
        ref: the TrainVar.
    """

    def __init__(self, ref: TrainVar):
        if not isinstance(ref, TrainVar):
            raise VariableError(message("TrainRef", "only a TrainVar can be referred to.", "TrainVar",
                                        type(ref).__name__))  # fmt: skip
        self._buffer = ref._buffer
        self._reduce = None


class RandomState(StateVar):
    """The key of a random number generator, ``uint32[2]``.

    Args:
        seed: the seed of the key.

    Example:
        >>> state = RandomState(0)
        >>> first, second = state.split(2)
        >>> bool((first == second).all())
        False
    """

    def __init__(self, seed: int):
        super().__init__(_key(seed), reduce=None)

    def seed(self, seed: int) -> None:
        """Start again from a seed."""
        self.assign(_key(seed))

    def split(self, n: int) -> jax.Array:
        """Return ``n`` fresh keys, ``uint32[n, 2]``, and advance."""
        keys = jax.random.split(self._buffer.value, n + 1)  # read to be written: the write checks
        self.assign(keys[0])
        return keys[1:]


def _key(seed: int) -> jax.Array:
    # A generator that is first used inside a trace must not keep a tracer: make the key outside of it.
    with jax.ensure_compile_time_eval():
        return jax.random.PRNGKey(seed)
