"""The stateful face: a rule bound to variables.

An :class:`Optimizer` has no mathematics. It binds a rule to the parameters of a collection, keeps the rule's memory in
state variables named after those parameters, and on each call checks, reads, runs the rule, and writes. Nothing is
written before everything is known to be right.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from optimkit.config import get_config
from optimkit.core import GradValues, Module, TrainRef, TrainVar, VarCollection
from optimkit.core.collection import explain_deleted, store
from optimkit.core.variable import unwrap
from optimkit.errors import HyperparameterError, StructureError, message
from optimkit.hyper import check_lr, hyperparameters
from optimkit.optimizer.binding import bound_grads, check_structure, only, rule_and_lr, state_var, unshared
from optimkit.optimizer.configs import built
from optimkit.optimizer.constraints import Constraint, bound_constraints, constrained
from optimkit.optimizer.describe import named_doc, named_signature
from optimkit.optimizer.groups import Group, Plan
from optimkit.optimizer.guard import check_finite
from optimkit.optimizer.hyperparameters import Tunable, without_schedules
from optimkit.optimizer.state_dict import load_state_dict, state_dict
from optimkit.optimizer.summary import Summary, summarize
from optimkit.placement import place_beside
from optimkit.pure import as_scalar, check_needs, check_params, ticked
from optimkit.rules.base import Rule, Step, check_rule_type, displace
from optimkit.rules.naming import name_state


class Optimizer(Tunable):
    """A rule bound to the TrainVars of a collection.

    Args:
        vc: the variables; the TrainVars in it are optimized, each once.
        rule: the algorithm, such as ``rules.Adam()`` or ``rules.Chain(...)``. Named subclasses (``optimizer.Adam``)
            take their rule's hyperparameters here instead, by position or by name.
        lr: the learning rate for :meth:`step`: a number, which is kept in a state variable and can be assigned, or a
            function of the step (from 0), such as a schedule.
        dynamic: names of hyperparameters that are kept in float32 state variables: those can be assigned without a
            new compile.
        groups: :class:`Group` s of variables for which something is different.
        schedules: hyperparameters that follow a function of the step (from 0), by name. Named subclasses also take
            such a function in place of the number. All of them, and ``lr``, share one clock, a state variable.
        constraints: what parameters are made to satisfy after each step: a projection for all of them, such as
            ``projections.NonNegative()``, or a mapping from what matches names (as ``match`` of a Group) to one.

    Hyperparameters are attributes: ``opt.beta1`` reads one, ``opt.beta1 = 0.8`` sets it. One that is not dynamic is
    a constant of compiled programs, so setting it after a compile raises.

    Raises:
        StructureError: there is no TrainVar in the collection, a group or constraint has none, or two have one.
        DTypeError: a TrainVar is not of floating point.
        HyperparameterError: a hyperparameter is unknown or out of range.
        CompositionError: groups differ in what has to be the same for all parameters together.

    Example:
        >>> import optimkit
        >>> from optimkit import rules
        >>> w = optimkit.TrainVar(jnp.array([1.0, 2.0]))
        >>> opt = Optimizer(optimkit.VarCollection({"w": w}), rules.Chain(rules.ClipByGlobalNorm(), rules.SGD()))
        >>> opt(0.1, [jnp.array([3.0, 4.0])])
        >>> w.value
        Array([0.94, 1.92], dtype=float32)
    """

    rule_type: ClassVar[type[Rule] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        rule_type = cls.__dict__.get("rule_type")
        if rule_type is not None:
            cls.__doc__ = named_doc(cls.__doc__, rule_type)
            cls.__signature__ = named_signature(rule_type)  # type: ignore[attr-defined]

    def __init__(
        self,
        vc: VarCollection,
        *args: Any,
        lr: Any = None,
        dynamic: Sequence[str] = (),
        groups: Iterable[Group] = (),
        schedules: Mapping[str, Callable[[Any], Any]] | None = None,
        constraints: Constraint | Mapping[Any, Constraint] | None = None,
        **kwargs: Any,
    ):
        where, schedules = f"optimizer.{type(self).__name__}", dict(schedules or {})
        if self.rule_type is not None:
            args, kwargs, given = without_schedules(where, self.rule_type, args, kwargs)
            rule, schedules = self.rule_type(*args, **kwargs), {**schedules, **given}
        else:
            rule, lr = rule_and_lr(*args, **kwargs, **{} if lr is None else {"lr": lr})  # type: ignore[misc]
        check_rule_type(where, rule)
        if not isinstance(vc, VarCollection):
            raise StructureError(message(where, "this is not a collection of variables.", "a VarCollection",
                                         type(vc).__name__, f"{type(self).__name__}(model.vars(), ...)"))  # fmt: skip
        found = vc.subset(TrainVar).unique()
        check_params(where, list(found.keys()), found.tensors(), rule)
        self._vc, self._plan = VarCollection(vc), Plan(where, groups, found, rule)
        self._rule = rule
        self.train_vars = VarCollection((name, TrainRef(v)) for name, v in found.items())  # type: ignore[arg-type]
        frozen = self._plan.frozen
        self._trained = VarCollection((name, ref) for name, ref in self.train_vars.items() if name not in frozen)
        self._constraints = bound_constraints(where, constraints, {n: found[n] for n in self._trained.keys()})  # noqa: SIM118
        self._constraints_given = dict(constraints) if isinstance(constraints, Mapping) else constraints
        dynamic = (dynamic,) if isinstance(dynamic, str) else tuple(dynamic)
        self._add_state(where, lr, dynamic, schedules | self._plan.schedules)

    def _add_state(self, where: str, lr: Any, dynamic: tuple[str, ...], schedules: dict[str, Any]) -> None:
        params = self._params()
        values = self._tune(where, dynamic, schedules)
        if callable(lr):
            self._schedules["lr"] = lr
        elif lr is not None:
            check_lr(where, lr)
            values["lr"] = as_scalar(lr, params)
        self._dynamic = self._new_vars({f".{name}": x for name, x in values.items()})
        if self._schedules:
            self.clock = state_var(jnp.zeros((), jnp.int32), place_beside(params.values()))
        self._names, leaves, self._structure = name_state(list(params), self._rule_now(where).init(params))
        self._state = self._new_vars(dict(zip(map(str, self._names), unshared(leaves, params.values()), strict=True)))

    def _new_vars(self, values: dict[str, Any]) -> VarCollection:
        """Make state variables, named as in ``vars()``, so that messages name them so too."""
        prefix, place = f"({type(self).__name__})", place_beside(self._params().values())
        return VarCollection((prefix + name, state_var(x, place)) for name, x in values.items())

    # --- one step -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        lr: Any,
        grads: Sequence[Any] | Mapping[str, Any],
        *positional: Any,
        value: Any = None,
        grad_fn: Callable[[Any], Any] | None = None,
        value_and_grad_fn: Callable[[Any], tuple[Any, Any]] | None = None,
        key: Any = None,
        hyper_params: Any = None,
        missing: str = "error",
        **overrides: Any,
    ) -> None:
        """Take one step.

        Args:
            lr: the learning rate: a number, an array or a tracer. Another value never compiles anew.
            grads: a list in the collection's order, as ``GradValues`` returns, or a mapping from names.
            *positional: hyperparameters for this call, in the order of their rule; None keeps one.
            value: the loss, for rules that need it.
            grad_fn: a function from ``{name: parameter}`` to ``{name: gradient}``, for rules that need it.
            value_and_grad_fn: a function from ``{name: parameter}`` to the loss and ``{name: gradient}``, likewise.
            key: a random key, for rules that need it.
            hyper_params: all hyperparameters for this call: a rule as the optimizer's own, with other values, or a
                mapping from names to values. What groups have of their own stays.
            missing: ``"skip"`` leaves a variable whose gradient is None, or not in the mapping, as it is, and its own
                state too; what a rule sums over all variables finds a gradient of 0 there. ``"error"`` raises.
            **overrides: hyperparameters for this call, by name, before those; None keeps one.

        Raises:
            StructureError: wrong number, names or shapes of gradients.
            DTypeError: gradients that are not of floating point.
            HyperparameterError: a learning rate or override that is out of range or unknown.
            MissingInputError: the rule needs an input that is not given.

        Nothing is written if it raises.
        """
        names = [name for name, f in hyperparameters(self._rule).items() if not f.kw_only]
        repeated = [name for name in names[: len(positional)] if name in overrides]
        if repeated or len(positional) > len(names):
            raise HyperparameterError(message(
                f"optimizer.{type(self).__name__}(lr, grads)",
                f"{repeated[0]!r} is given twice." if repeated else "there are too many positional arguments.",
                f"at most {', '.join(['lr', 'grads', *names])}, each once", f"{len(positional) + 2} by position"
            ))  # fmt: skip
        overrides |= zip(names, positional, strict=False)
        inputs = {"value": value, "grad_fn": grad_fn, "value_and_grad_fn": value_and_grad_fn, "key": key}
        try:
            self._apply(unwrap(lr), grads, inputs, hyper_params, overrides, missing)
        except RuntimeError as error:
            explain_deleted(f"optimizer.{type(self).__name__}(lr, grads)", self._vc + self.vars(), error)
            raise

    def step(self, grads: Sequence[Any] | Mapping[str, Any], **inputs: Any) -> None:
        """Take one step with the learning rate given to the constructor; keywords as in :meth:`__call__`."""
        self(self._own_lr(), grads, **inputs)

    def minimize(
        self, loss_fn: Callable[..., Any], *batch: Any, lr: Any = None, key: Any = None, **overrides: Any
    ) -> Any:
        """Compute loss and gradients, and take one step; rules that evaluate the loss themselves can do so.

        Args:
            loss_fn: a function, or a module, that returns the loss, alone or first in a tuple or list.
            *batch: its arguments.
            lr: the learning rate; the one given to the constructor where None.
            key: a random key, for rules that need it.
            **overrides: hyperparameters for this call.

        What ``loss_fn`` writes to variables is written once. Where the rule evaluates the loss again, ``loss_fn``
        finds its variables as they were before the step, the random states too: it is the same function each time.

        Returns:
            What ``loss_fn`` returned. If anything raises, all variables are as before.
        """
        vc = self._vc + (loss_fn.vars("loss_fn:") if isinstance(loss_fn, Module) else {})
        trained, before = [v._buffer for v in vc.subset(TrainVar)], vc.tensors()

        @functools.wraps(loss_fn, updated=())
        def loss(*batch: Any) -> tuple[Any, Any]:
            outputs = loss_fn(*batch)
            return outputs[0] if isinstance(outputs, tuple | list) else outputs, outputs

        def gradients() -> tuple[dict[str, Any], Any]:
            grads, values = GradValues(loss, vc)(*batch)
            by_buffer = {id(b): g for b, g in zip(trained, grads, strict=True)}
            return {name: by_buffer[id(ref._buffer)] for name, ref in self.train_vars.items()}, values

        def value_and_grad_fn(params: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            with vc.swapped(before), self.train_vars.swapped(params):
                grads, (value, _) = gradients()
                return value, grads

        def grad_fn(params: dict[str, Any]) -> dict[str, Any]:
            return value_and_grad_fn(params)[1]

        with vc.restored_on_error(), self.vars().restored_on_error():
            grads, (value, outputs) = gradients()
            inputs = {"value": value, "grad_fn": grad_fn, "value_and_grad_fn": value_and_grad_fn, "key": key}
            needed = {name: inputs[name] for name in self.rule.needs if name in inputs}
            self(self._own_lr() if lr is None else lr, list(grads.values()), **needed, **overrides)
        return outputs

    def _apply(
        self, lr: Any, grads: Any, inputs: dict[str, Any], hyper_params: Any, overrides: dict[str, Any], missing: str
    ) -> None:
        where = f"optimizer.{type(self).__name__}(lr, grads)"
        check_lr(where, lr)
        every = {name: ref.value for name, ref in self.train_vars.items()}
        grads, absent = bound_grads(where, grads, every, self._plan.frozen, self._rule, missing)
        params = {name: every[name] for name in grads}
        rule = self._rule_now(where, hyper_params, overrides)
        check_needs(where, rule, inputs)
        if self._plan.frozen:
            inputs |= only(params, every, inputs)
        delta, state = rule.update(Step(grads, params, as_scalar(lr, params), **inputs), self._state_tree())
        check_structure(where, rule, "displacement", jax.tree.structure(delta), jax.tree.structure(params))
        moved = constrained(self._constraints, params, delta, displace(params, delta))
        new = [params[name] if name in absent else moved[name] for name in params]
        leaves, structure = jax.tree.flatten(state)
        check_structure(where, rule, "state", structure, self._structure)
        old = zip(self._names, self._state.values(), leaves, strict=True)
        new += [v.value if name.param in absent else x for name, v, x in old] if absent else leaves
        variables = [*self._trained.values(), *self._state.values()]
        if self._schedules:
            variables.append(self.clock)
            new.append(ticked(self.clock.value, rule.took_step(state)))
        new = [v.checked(x) for v, x in zip(variables, new, strict=True)]
        self._compiled |= any(isinstance(x, jax.core.Tracer) for x in new)
        store([v._buffer for v in variables], new)

    def _params(self) -> dict[str, jax.Array]:
        return {name: ref.value for name, ref in self._trained.items()}

    def _state_tree(self) -> Any:
        return self._structure.unflatten([v.value for v in self._state.values()])

    # --- state ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, SimpleNamespace]:
        """The memory by parameter: ``opt.state["conv.w"].mu`` is a StateVar."""
        slots: dict[str, dict[str, Any]] = {name: {} for name in self.train_vars.keys()}  # noqa: SIM118
        for name, var in zip(self._names, self._state.values(), strict=True):
            if name.param is not None:
                key, slot = "_".join(name.after or name.before[-1:]), slots[name.param]
                slot[key if key not in slot else f"{name.before[-1]}_{key}"] = var
        return {name: SimpleNamespace(**slot) for name, slot in slots.items()}

    def vars(self, scope: str = "") -> VarCollection:
        """Return the state, named after the parameters, and references to the parameters."""
        result = super().vars(scope)
        scope += f"({type(self).__name__})"
        result.update((f"{scope}.train_vars[{name}]", ref) for name, ref in self.train_vars.items())
        own = len(f"({type(self).__name__})")
        result.update((scope + name[own:], var) for name, var in (self._state + self._dynamic).items())
        me = weakref.ref(self)  # set here, not where they are made: a copy of an optimizer owns copies of them
        for v in (*self._state.values(), *self._dynamic.values(), *([self.clock] if self._schedules else [])):
            v._buffer.origin = me
        return result

    def get_config(self, *, opaque: bool = False) -> dict[str, Any]:
        """Return a dict that goes through JSON, from which :meth:`from_config` makes the optimizer as it is now.

        It has the rule, groups, schedules and constraints, the present values of hyperparameters and of ``lr``; see
        :mod:`optimkit.config`. What the optimizer remembers is in :meth:`state_dict`.

        Args:
            opaque: whether what cannot be written, such as a lambda, is described in words.

        Raises:
            ConfigError: something cannot be written; the message has the path to it.

        Example:
            >>> import optimkit
            >>> vc = optimkit.VarCollection({"w": optimkit.TrainVar(jnp.ones(2))})
            >>> opt = optimkit.optimizer.Momentum(vc, 0.8, lr=0.1)
            >>> opt.get_config()["rule"]["momentum"], opt.get_config()["lr"]
            (0.8, 0.1)
        """
        return get_config(self, opaque=opaque)

    @classmethod
    def from_config(cls, vc: VarCollection, config: dict[str, Any]) -> Self:
        """Return the optimizer that a config describes, bound to variables, with its memory as at the start.

        A subclass whose constructor takes other arguments than these overrides this, and :meth:`get_config`.

        Args:
            vc: the variables.
            config: what :meth:`get_config` returned, of an optimizer of this class; of any, for ``Optimizer`` itself.

        Raises:
            ConfigError: it is no such config.
            UnknownNameError: a name in it is not registered.

        Example:
            >>> import optimkit
            >>> vc = optimkit.VarCollection({"w": optimkit.TrainVar(jnp.ones(2))})
            >>> config = optimkit.optimizer.Adam(vc, beta2=0.99).get_config()
            >>> Optimizer.from_config(vc, config)
            Adam(beta1=0.9, beta2=0.99, eps=1e-08, eps_root=0.0; 1 variables, 2 parameters)
        """
        return built(cls, vc, config)

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as a nested dict of NumPy arrays, in their own dtypes, that shares nothing with it.

        ::

            {"state": {"conv.w": {"mu": ..., "nu": ...}},      by parameter and slot
             "shared": {"t": ...},                             what belongs to no parameter, such as counters
             "hyper": {"lr": ..., "beta2": ...},               the learning rate, and dynamic hyperparameters
             "clock": ...,                                     the step that schedules are at, None without schedules
             "variables": {...},                               other variables, of subclasses that have some
             "rules": ["Adam"], "config": {...}}               what wrote it; the latter for people to read

        Parameters are not in it: they belong to the model. Where rules of a composition have slots of one name, that of
        the rule is before it, ``"Adam.mu"``. Random keys of ``jax.random.key`` are dicts of ``impl`` and ``data``.

        Raises:
            VariableError: an array is traced, or was donated to a call that failed.

        Example:
            >>> import optimkit
            >>> vc = optimkit.VarCollection({"w": optimkit.TrainVar(jnp.ones(2))})
            >>> optimkit.optimizer.Momentum(vc).state_dict()["state"]
            {'w': {'m': array([0., 0.], dtype=float32)}}
        """
        return state_dict(self)

    def load_state_dict(self, state: Mapping[str, Any], *, other_rule: bool = False) -> None:
        """Take over what :meth:`state_dict` returned: all of it or, if anything does not fit, nothing.

        Names, shapes and dtypes must be those of this optimizer, whatever its hyperparameters are. Constants among
        them, and schedules, are those given to the constructor; they are not taken over.

        Args:
            state: the dict. It is not changed, and no array of it is kept.
            other_rule: whether the memory of another rule will do, if its names, shapes and dtypes are the same.

        Raises:
            StructureError: names or shapes do not fit, or another rule wrote it; with the whole difference.
            DTypeError: only dtypes do not fit.

        Example:
            >>> import optimkit
            >>> vc = optimkit.VarCollection({"w": optimkit.TrainVar(jnp.ones(2))})
            >>> first, second = optimkit.optimizer.Momentum(vc, lr=0.1), optimkit.optimizer.Momentum(vc, lr=0.3)
            >>> first.step([jnp.ones(2)]); second.load_state_dict(first.state_dict())
            >>> second.lr, second.state["w"].m.value
            (Array(0.1, dtype=float32), Array([1., 1.], dtype=float32))
        """
        load_state_dict(self, state, other_rule)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold, for the length of a block, the parameters that the rule evaluates at (its averages, if any)."""
        with self._trained.swapped(self._rule_now().eval_params(self._state_tree(), self._params())):
            yield

    def check_finite(self, max_consecutive: int | None = None) -> None:
        """Raise if parameters or memory are not finite, or ``SkipNonFinite`` has left out too many steps in a row.

        It waits for the last step and reads all of it: call it every hundred steps or so, outside of ``Jit``.

        Args:
            max_consecutive: how many steps in a row may be left out; the rule's own number where None.

        Raises:
            NonFiniteError: with the names of variables.

        Example:
            >>> import optimkit
            >>> vc = optimkit.VarCollection({"w": optimkit.TrainVar(jnp.ones(2))})
            >>> opt = optimkit.optimizer.SGD(vc)
            >>> opt(0.1, [jnp.array([1.0, jnp.nan])])
            >>> opt.check_finite()
            Traceback (most recent call last):
            ...
            optimkit.errors.NonFiniteError: SGD.check_finite(): 'w' is not finite.
              expected finite numbers
              got      1 that are not
            SkipNonFinite(rule) leaves such steps out.
        """
        check_finite(self, max_consecutive)

    def summary(self, width: int = 100) -> Summary:
        """Return the plan as a table: each variable's group, shape, dtype and bytes of state, and each group's rule.

        Args:
            width: the number of columns.
        """
        return summarize(self, width)

    def __repr__(self) -> str:
        size = sum(ref.size for ref in self.train_vars)
        rule = repr(self._rule)
        shown = rule[rule.index("(") + 1 : -1] if self.rule_type is not None else rule
        counts = f"{len(self.train_vars)} variables, {size:,} parameters"
        return f"{type(self).__name__}({shown}{'; ' * bool(shown)}{counts})"
