"""The contract of a rule: gradient in, displacement out.

A *rule* is an optimization algorithm as an immutable value. It has two methods::

    state = rule.init(params)                  # what it remembers, for these parameters
    delta, state = rule.update(step, state)    # params + delta are the new parameters

``step`` is a record of everything a rule may know: gradients, parameters, learning rate, and on request the loss, a
function that returns gradients elsewhere, and a random key. A rule never changes a parameter itself and never sees a
variable; whoever calls it adds the displacement (``displace``). So one definition serves the stateful optimizers, the
functional face, and compositions.

A rule's displacement at ``lr = -1`` is a *direction*: it has the sign and the type of a gradient, and another rule can
take it for one. That is all there is to ``Chain``.

Most rules treat each parameter alike and alone. They subclass :class:`LeafRule` and write two functions of one array,
``init_leaf`` and ``update_leaf``; dtypes, counting and trees are the base class's work. Those that need the whole tree
(a global norm, a routing) subclass :class:`Rule`; those that hold another rule subclass :class:`Wrapper`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import numerics
from optimkit.errors import CompositionError, DTypeError, HyperparameterError, StructureError, describe, message
from optimkit.hyper import check_hyperparameters, hyper, hyperparameters, with_section

Tree = Any
Slot = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Step:
    """Everything that a rule may know about one step. Fields may be added; signatures never widen.

    Args:
        grads: gradients, a tree as ``params``.
        params: parameters.
        lr: the learning rate, a scalar; -1 asks for a direction.
        value: the loss at ``params``, for rules with ``needs = ("value",)``.
        grad_fn: a function from parameters to gradients, for rules with ``needs = ("grad_fn",)``.
        value_and_grad_fn: a function from parameters to the loss and the gradients, a pair, for rules with ``needs =
            ("value_and_grad_fn",)``. What is not used of the pair is not computed in a compiled program.
        key: a random key.
    """

    grads: Tree
    params: Tree
    lr: Any
    value: Any = None
    grad_fn: Callable[[Tree], Tree] | None = None
    value_and_grad_fn: Callable[[Tree], tuple[Any, Tree]] | None = None
    key: Any = None

    def replace(self, **changes: Any) -> Step:
        """Return the record with some fields changed."""
        return dataclasses.replace(self, **changes)


class Rule:
    """A pure optimization algorithm: a frozen value that turns gradients into displacements.

    A subclass declares its hyperparameters as fields, with ``hyper``; it becomes a frozen dataclass and a pytree in
    which arrays are data and Python numbers are constants, so that ``1 - beta`` is computed in float64. ``repr``,
    ``==``, ``replace``, pickle and ``vmap`` over a hyperparameter come with that.
    """

    reference: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()  # inputs beyond gradients and parameters, by their names in Step
    complex_params: ClassVar[bool] = False  # takes complex parameters, too
    per_example: ClassVar[bool] = False  # gradients have an axis of examples before those of their parameters
    chainable: ClassVar[bool] = True  # displacement linear in lr, next state independent of lr

    if TYPE_CHECKING:  # type checkers do not see the constructor that dataclass makes

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
        cls._reject_unknown_names()
        jax.tree_util.register_pytree_with_keys(
            cls, cls._tree_flatten_with_keys, functools.partial(_tree_unflatten, cls), cls._tree_flatten)  # fmt: skip
        fields = hyperparameters(cls)
        if fields and cls.__doc__ and "Hyperparameters:" not in cls.__doc__:
            lines = (f"{n}: {f.metadata['doc']}; {_shown_domain(f)}." for n, f in fields.items())
            cls.__doc__ = with_section(cls.__doc__, "Hyperparameters", lines)

    @classmethod
    def _reject_unknown_names(cls) -> None:
        """Let the constructor say which names it knows, instead of Python's TypeError about ``__init__``."""
        init: Any = cls.__init__

        @functools.wraps(init)
        def checked(self: Rule, *args: Any, **kwargs: Any) -> None:
            known = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]
            unknown = [name for name in kwargs if name not in known]
            if unknown:
                raise HyperparameterError(message(
                    type(self).__name__, f"there is no hyperparameter {unknown[0]!r}.",
                    "one of " + ", ".join(map(repr, known)), repr(unknown[0])))  # fmt: skip
            init(self, *args, **kwargs)

        cls.__init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def __repr__(self) -> str:
        shown = (f for f in dataclasses.fields(self) if not (f.kw_only and getattr(self, f.name) == f.default))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    def replace(self, **changes: Any) -> Self:
        """Return the rule with some hyperparameters changed, checked as in the constructor."""
        return type(self)(**{**self._fields(), **changes})

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    # --- the contract ---------------------------------------------------------------------------------------------

    def init(self, params: Tree) -> Tree:
        """Return the state before the first step, for these parameters: a tree of arrays, aliasing none of them."""
        raise NotImplementedError(f"{type(self).__name__} does not define init.")

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the displacement, a tree as ``step.params``, and the next state."""
        raise NotImplementedError(f"{type(self).__name__} does not define update.")

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return the parameters to evaluate at: those given, unless the rule averages."""
        return params

    def took_step(self, state: Tree) -> Any:
        """Tell whether the step that led to a state counts: schedules wait where a guard has left it out."""
        return True

    def direction(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Return the displacement at ``lr = -1``, which has the sign and the type of a gradient, and the state."""
        return self.update(step.replace(lr=-1.0), state)

    # --- a value: equality, hash, pytree --------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = self._fields(), other._fields()
        return all(same_value(x, theirs[name]) for name, x in mine.items())

    def __hash__(self) -> int:
        return hash((type(self), *self._fields().values()))

    def _tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        fields = self._fields()
        names = tuple(name for name, x in fields.items() if _is_data(x))
        constants = tuple((name, x) for name, x in fields.items() if name not in names)
        return [(jax.tree_util.GetAttrKey(name), fields[name]) for name in names], (names, constants)

    def _tree_flatten(self) -> tuple[list[Any], Any]:
        children, aux = self._tree_flatten_with_keys()
        return [x for _, x in children], aux


def _tree_unflatten(cls: type[Rule], aux: Any, children: Any) -> Rule:
    names, constants = aux
    rule = object.__new__(cls)
    for name, x in [*constants, *zip(names, children, strict=True)]:
        object.__setattr__(rule, name, x)
    return rule


def _is_data(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | Rule) or (isinstance(x, tuple) and any(map(_is_data, x)))


def same_value(a: Any, b: Any) -> bool:
    """Tell whether two fields of a rule are equal; arrays are where all their elements are."""
    if isinstance(a, jax.Array | np.ndarray) or isinstance(b, jax.Array | np.ndarray):
        return a is b or (np.shape(a) == np.shape(b) and bool(np.all(np.asarray(a) == np.asarray(b))))
    return a == b


def _shown_domain(f: dataclasses.Field[Any]) -> str:
    domain = f.metadata["domain"]
    text = "True or False" if domain is bool else "one of " + ", ".join(map(repr, domain)) if isinstance(
        domain, tuple) else f"in {domain}"  # fmt: skip
    return f"{text}, default {f.default!r}" if f.default is not dataclasses.MISSING else f"{text}, no default"


class LeafRule(Rule):
    """A rule that treats each parameter alike and alone.

    A subclass defines ``update_leaf`` and, if it remembers anything, ``init_leaf``. Both get float32 arrays (float64
    for float64 parameters) whatever the dtypes of parameters and gradients are. Slots keep their shape and dtype from
    step to step: float32 (float64), or ``slot_dtype``. A rule without slots has no state at all, and ``t`` is None.
    """

    slot_dtype: str | None = hyper(
        None, ("float16", "bfloat16", "float32", "float64"), "dtype that slots are stored in", kw_only=True
    )  # fmt: skip

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return the slot of one parameter before the first step: a dict of arrays."""
        return {}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement of one parameter and its next slot.

        Args:
            g: gradient, in the dtype of the arithmetic.
            slot: what was remembered.
            p: parameter, in the dtype of the arithmetic.
            lr: the learning rate, a scalar.
            t: the number of this step, from 1, as a float.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define update_leaf.")

    @classmethod
    def _has_slots(cls) -> bool:
        return cls.init_leaf is not LeafRule.init_leaf

    def init(self, params: Tree) -> Tree:
        """Return ``{"t": int32 counter, "slots": a slot for each parameter}``, or ``{}`` for a rule without slots."""
        if not self._has_slots():
            return {}
        return {"t": jnp.zeros((), jnp.int32), "slots": jax.tree.map(self._init_slot, params)}

    def _init_slot(self, p: jax.Array) -> Slot:
        dtype = numerics.compute_dtype(p.dtype)
        slot = self.init_leaf(numerics.cast(p, dtype))
        # A slot that starts as the parameter would share its buffer, and donation would give it away twice.
        return {k: _own(numerics.cast(x, self._stored_dtype(x, dtype)), p) for k, x in slot.items()}

    def _stored_dtype(self, x: jax.Array, dtype: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x.dtype
        return dtype if self.slot_dtype is None else self._dtype("slot_dtype")

    def _dtype(self, name: str) -> Any:
        """Return the dtype that a hyperparameter names, or raise where JAX would silently take another one."""
        value = getattr(self, name)
        if jax.dtypes.canonicalize_dtype(value) != value:
            raise DTypeError(message(type(self).__name__, f"{name}={value!r} needs 64-bit mode.", None, None,
                                     'jax.config.update("jax_enable_x64", True)'))  # fmt: skip
        return jnp.dtype(value)

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Apply ``update_leaf`` to each parameter."""
        structure: Any = jax.tree.structure(step.params)
        params = jax.tree.leaves(step.params)
        grads = structure.flatten_up_to(step.grads)
        if not self._has_slots():
            deltas = [_update_one(self, g, {}, p, step.lr, None)[0] for g, p in zip(grads, params, strict=True)]
            return structure.unflatten(deltas), state
        t = numerics.count_up(state["t"])
        slots = structure.flatten_up_to(state["slots"])
        pairs = [_update_one(self, g, s, p, step.lr, t) for g, s, p in zip(grads, slots, params, strict=True)]
        return structure.unflatten([d for d, _ in pairs]), {
            "t": t,
            "slots": structure.unflatten([s for _, s in pairs]),
        }


@functools.partial(jax.jit, inline=True)
def _update_one(rule: LeafRule, g: Any, slot: Slot, p: Any, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
    """Apply ``update_leaf`` to one parameter, in the dtype of the arithmetic.

    It is compiled for what it saves in tracing: parameters of one shape and dtype are traced once, and only copied
    into the program after that (``inline``). Eagerly it makes one call of a parameter's twenty.
    """
    dtype = numerics.compute_dtype(p.dtype)
    wide = {k: numerics.cast(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x for k, x in slot.items()}
    t = None if t is None else t.astype(dtype)
    delta, new = rule.update_leaf(
        numerics.cast(g, dtype), wide, numerics.cast(p, dtype), lr=numerics.cast(lr, dtype), t=t
    )
    check_same(type(rule).__name__, "slot", slot, new)
    return delta, {k: numerics.cast(new[k], x.dtype) for k, x in slot.items()}


class Wrapper(Rule):
    """A rule that holds another one, its first field ``inner``, and changes what goes in or what comes out."""

    inner: Rule

    def __post_init__(self) -> None:
        check_rule_type(type(self).__name__, self.inner)
        super().__post_init__()

    @property
    def chainable(self) -> bool:  # type: ignore[override]
        """Whether the inner rule is; for wrappers that do not look at the learning rate."""
        return self.inner.chainable

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the inner rule needs."""
        return self.inner.needs

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state."""
        return self.inner.init(params)

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return the inner rule's parameters to evaluate at; for wrappers whose state is the inner rule's."""
        return self.inner.eval_params(state, params)


def check_rule_type(where: str, rule: Any) -> None:
    """Raise unless ``rule`` is a rule (and not, as happens, its class)."""
    if not isinstance(rule, Rule):
        got = f"the class {rule.__name__}" if isinstance(rule, type) else f"{type(rule).__name__} {rule!r}"
        fix = f"Call it: {rule.__name__}()." if isinstance(rule, type) else ""
        raise CompositionError(message(where, "this is not a rule.", "a rule, such as rules.Adam()", got, fix))


def check_same(where: str, what: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise unless a new slot has the keys and shapes of the old one: state never changes its form."""
    if old.keys() != new.keys():
        raise StructureError(message(where, f"the new {what} has other keys.", sorted(old), sorted(new)))
    for key, x in old.items():
        if jnp.shape(new[key]) != x.shape:
            raise StructureError(message(where, f"{what} {key!r} changes its shape.", describe(x),
                                         f"{list(jnp.shape(new[key]))}"))  # fmt: skip


def displace(params: Tree, delta: Tree) -> Tree:
    """Return ``params + delta``, added in the dtype of the arithmetic and cast once to the parameters'.

    Raises:
        StructureError: a displacement has another shape than its parameter; nothing broadcasts.
    """

    def add(p: Any, d: Any) -> jax.Array:
        if jnp.shape(d) != p.shape:
            raise StructureError(message("displace", "a displacement does not fit its parameter.", describe(p),
                                         f"{list(jnp.shape(d))}"))  # fmt: skip
        dtype = p.dtype if jnp.iscomplexobj(p) else numerics.compute_dtype(p.dtype)
        return numerics.cast(numerics.cast(p, dtype) + numerics.cast(d, dtype), p.dtype)

    return jax.tree.map(add, params, delta)


def _own(x: jax.Array, p: jax.Array) -> jax.Array:
    return jnp.copy(x) if x is p else x


def functions_of_part(
    grad_fn: Any, value_and_grad_fn: Any, whole: Callable[[Any], Tree], cut: Callable[[Tree], Any]
) -> dict[str, Any]:
    """Return a step's functions of all parameters as functions of some of them; None stays None.

    What else they take, such as the number of the ascent in ``grad_fn(params, i)``, is passed on, and their signatures
    say so.

    Args:
        grad_fn: of all parameters.
        value_and_grad_fn: of all parameters.
        whole: makes all parameters of some.
        cut: takes what belongs to some from the gradients of all.
    """

    def of_part(f: Any, result: Callable[[Any], Any]) -> Any:
        if f is None:
            return None

        @functools.wraps(f)
        def g(part: Any, *more: Any) -> Any:
            return result(f(whole(part), *more))

        return g

    return {"grad_fn": of_part(grad_fn, cut),
            "value_and_grad_fn": of_part(value_and_grad_fn, lambda both: (both[0], cut(both[1])))}  # fmt: skip
