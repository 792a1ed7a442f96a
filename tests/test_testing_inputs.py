"""Checks of what a step is given, of hyperparameters that are wrong, and of a rule as an element of chains."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import rules
from optimkit.core import TrainVar, VarCollection
from optimkit.errors import CompositionError, HyperparameterError
from optimkit.hyper import check_hyperparameter, hyper
from optimkit.numerics import cast
from optimkit.optimizer import Optimizer
from optimkit.rules import LeafRule
from optimkit.rules.base import Wrapper
from optimkit.testing import domains, faces, inputs
from optimkit.testing.algebra import check_chainable_is_true, check_chains_are_a_monoid, check_rule_is_a_value
from optimkit.testing.check import NotApplicable
from optimkit.testing.hyperparameters import check_hyperparameters_are_validated, check_hyperparameters_matter

from .test_testing_precision import Trial, rejects

# --- keys and losses --------------------------------------------------------------------------------------------------


class Noisy(Trial):
    """Adds noise, drawn from a key of its own or from another one at each call."""

    needs = ("key",)
    own: ClassVar[bool] = True
    calls = itertools.count()

    def update(self, step: Any, state: Any) -> Any:
        delta, _ = super().update(step, state)
        key = (jax.random.key(0) if self.own else jax.random.key(next(self.calls))) if self.defect else step.key
        return jax.tree.map(lambda d: d + step.lr * jax.random.normal(key, d.shape), delta), state


def test_the_key_and_nothing_else_makes_the_noise():
    rejects(inputs.check_keys_matter, Noisy(), "3 steps with other keys are the same")
    counting = type("Counting", (Noisy,), {"own": False, "__module__": __name__})()
    rejects(inputs.check_keys_matter, counting, r"displacements at step 1 with the same keys: 'bias'\[0\] differs")
    inputs.check_keys_matter(Noisy.repaired())
    with pytest.raises(NotApplicable, match="does not need 'key'"):
        inputs.check_keys_matter(rules.SGD())


class Weighted(Trial):
    """Multiplies its step by the loss, which it keeps."""

    needs = ("value",)

    def init(self, params: Any) -> Any:
        return {"loss": jnp.zeros(())}

    def update(self, step: Any, state: Any) -> Any:
        delta, _ = super().update(step, state)
        value = jnp.asarray(step.value) if self.defect else cast(step.value, jnp.float32)
        return jax.tree.map(lambda d: d * value, delta), {"loss": value}


class Integral(Weighted):
    """Takes what is no float32 array for a number of another meaning."""

    def update(self, step: Any, state: Any) -> Any:
        other = self.defect and isinstance(step.value, np.float64)
        delta, new = super().update(step.replace(value=cast(step.value, jnp.float32)), state)
        return jax.tree.map(lambda d: 2 * d if other else d, delta), new


def test_a_loss_is_the_same_in_whatever_form():
    rejects(inputs.check_inputs_may_be_numbers, Integral(), "loss of np.float64.1.0., float64, in place of an array: ")
    inputs.check_inputs_may_be_numbers(Integral.repaired())
    inputs.check_inputs_may_be_numbers(Weighted.repaired())
    with pytest.raises(NotApplicable, match="does not need 'value'"):
        inputs.check_inputs_may_be_numbers(rules.SGD())


# --- learning rates and arrays of every kind --------------------------------------------------------------------------


def pair_of(move: Any) -> Any:
    """Return a pair (init, apply) of another make, whose parameters a function of p, g and lr moves."""

    def init(params: Any) -> Any:
        return ()

    def apply(grads: Any, state: Any, params: Any, lr: Any) -> Any:
        return state, jax.tree.map(lambda p, g: move(p, g, lr), params, grads)

    return init, apply


def test_no_kind_of_learning_rate_changes_a_dtype_or_a_bit():
    check = inputs.check_learning_rates_of_every_kind
    rejects_pair(check, pair_of(lambda p, g, lr: p - lr * g), "bfloat16 .*, a NumPy float32: .* another form")
    faster_for_integers = pair_of(lambda p, g, lr: p - (lr + 1.0 * isinstance(lr, int)) * g)
    rejects_pair(check, faster_for_integers, "lr = 2, a Python int: .*differs")
    check(pair_of(lambda p, g, lr: p - jnp.asarray(lr, p.dtype) * g))
    check(rules.Adam())


def rejects_pair(check: Any, pair: Any, says: str) -> None:
    with pytest.raises(AssertionError, match=rf"(?s){check.__name__}\(.*{says}"):
        check(pair)


class Writing(Trial):
    """Works in place, where it can."""

    def update(self, step: Any, state: Any) -> Any:
        for g in jax.tree.leaves(step.params):
            if self.defect:
                g *= np.float32(0.5)  # a new array of JAX, and the caller's own of NumPy
        return super().update(step, state)


class Keeping(Trial):
    """Remembers where it started, in the caller's memory."""

    def init(self, params: Any) -> Any:
        return {"start": params if self.defect else jax.tree.map(jnp.array, params)}


class KeepingByJax(Trial):
    """The same by way of JAX, which takes memory of NumPy's for its own where it is aligned."""

    def init(self, params: Any) -> Any:
        return {"start": jax.tree.map(jax.device_put if self.defect else jnp.array, params)}


class OfArraysOnly(Trial):
    """Asks parameters for what NumPy arrays have not."""

    def update(self, step: Any, state: Any) -> Any:
        if self.defect:
            jax.tree.map(lambda p: p.at[...].set(0.0), step.params)
        return super().update(step, state)


class WideStates(Trial):
    """Makes its state by NumPy's rules of promotion where parameters are NumPy's."""

    def init(self, params: Any) -> Any:
        wide = any(isinstance(p, np.ndarray) for p in jax.tree.leaves(params)) and self.defect
        return {"n": jnp.zeros((), jnp.float16 if wide else jnp.float32)}


@pytest.mark.parametrize("broken, says", [
    (Writing, r"a step writes into the parameters, ordinary NumPy arrays, at 'scale'"),
    (Keeping, r"the state 'start\.bias' changes when the caller's NumPy arrays do, ordinary ones"),
    (KeepingByJax, r"the state 'start\.bias' changes when the caller's NumPy arrays do, ordinary ones"),
    (OfArraysOnly, "AttributeError: .*no attribute 'at'"),
    (WideStates, "ordinary NumPy arrays give a state of another form"),
])  # fmt: skip
def test_numpy_arrays_are_taken_and_left_alone(broken, says):
    rejects(inputs.check_numpy_inputs, broken(), says)
    inputs.check_numpy_inputs(broken.repaired())


def test_the_layouts_are_what_their_names_say():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    laid = {name: layout(x) for name, layout in inputs.LAYOUTS.items()}
    assert all((y == x).all() and y.dtype == x.dtype for y in laid.values())
    assert laid["ordinary"].ctypes.data % 64 == 0
    assert not laid["read-only"].flags.writeable
    assert laid["Fortran-ordered"].flags.f_contiguous and not laid["Fortran-ordered"].flags.c_contiguous
    assert not laid["non-contiguous"].flags.c_contiguous and not laid["non-contiguous"].flags.f_contiguous


# --- further inputs, handed on ----------------------------------------------------------------------------------------


class DropsTheKey(Wrapper):
    """Makes a new record of the step, and forgets the key."""

    defect: ClassVar[bool] = True

    def update(self, step: Any, state: Any) -> Any:
        return self.inner.update(step.replace(key=None) if self.defect else step, state)


class NeedsNothing(DropsTheKey):
    """Hands everything on, and does not say that it needs it."""

    needs: Any = ()  # type: ignore[assignment]

    def update(self, step: Any, state: Any) -> Any:
        return self.inner.update(step, state)


class NeverCalls(DropsTheKey):
    """Does the work itself."""

    def update(self, step: Any, state: Any) -> Any:
        return jax.tree.map(lambda g: -step.lr * g, step.grads), state


class OnlyTheFirst(rules.Chain):
    """A chain that hands inputs to its first rule only."""

    def __init__(self, *rules: Any):
        super().__init__(*rules)

    def update(self, step: Any, state: Any) -> Any:
        new, labels = {}, self._labels()
        for label, rule in zip(labels, self.rules, strict=True):
            delta, new[label] = rule.update(step, state[label])
            step = step.replace(grads=delta, value=None, lr=-1.0)
        return delta, new

    def replace(self, *, rules: Any) -> Any:  # type: ignore[override]
        return type(self)(*rules)


class Refusing(DropsTheKey):
    """Says, when it is made, that it cannot hand a key on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "key" in self.inner.needs:
            raise CompositionError("no keys here")


def test_what_rules_inside_need_is_needed_and_handed_on():
    check, sgd = inputs.check_extra_inputs_are_forwarded, rules.SGD()
    rejects(check, DropsTheKey(sgd), "the rule at inner is not given 'key'.*got      key=None")
    rejects(check, NeedsNothing(sgd), "it does not need 'value', which the rule at inner needs")
    rejects(check, NeverCalls(sgd), "the rule at inner is not given 'value'.*got      no call of it")
    rejects(check, OnlyTheFirst(sgd, rules.Momentum()), r"the rule at rules\[1\] is not given 'value'")
    rejects(check, rules.Chain(sgd, DropsTheKey(sgd)), r"the rule at rules\[1\]\.inner is not given 'key'")
    check(Refusing(sgd))
    check(rules.Accumulated(sgd, 3))
    check(rules.Partition(("bias", sgd), (".", rules.Chain(rules.Momentum(), rules.Scaled(sgd, 0.5)))))
    with pytest.raises(NotApplicable, match="holds no other rule"):
        check(rules.Adam())


# --- shared weights ---------------------------------------------------------------------------------------------------


def test_a_shared_variable_that_is_remembered_twice_is_found(monkeypatch):
    def apart(vc: Any, rule: Any) -> Any:
        return Optimizer(VarCollection((name, TrainVar(v.value)) for name, v in vc.items()), rule)

    inputs.check_shared_weights(rules.Momentum())
    monkeypatch.setattr(inputs, "Optimizer", apart)
    rejects(inputs.check_shared_weights, rules.Momentum(), "with 'weight' under two names there are other variables")


def test_a_shared_variable_that_is_updated_twice_is_found(monkeypatch):
    def stepping(opt: Any, rule: Any, lr: Any, grads: Any) -> None:
        for _ in range(1 + ("again.weight" in opt._vc)):
            faces_step(opt, rule, lr, grads)

    faces_step = faces.step
    monkeypatch.setattr(faces, "step", stepping)
    says = "variables at step 1 with 'weight' under two names: 'weight'.* differs"
    rejects(inputs.check_shared_weights, rules.Momentum(), says)


# --- parameters to evaluate at ----------------------------------------------------------------------------------------


class Averaging(Trial):
    """Evaluates at the mean of the parameters so far; each subclass breaks one thing."""

    def init(self, params: Any) -> Any:
        return {"sum": jax.tree.map(jnp.zeros_like, params), "n": jnp.zeros((), jnp.int32)}

    def update(self, step: Any, state: Any) -> Any:
        delta, _ = super().update(step, state)
        total = jax.tree.map(lambda s, p, d: s + p + d, state["sum"], step.params, delta)
        return delta, {"sum": total, "n": state["n"] + 1}

    def eval_params(self, state: Any, params: Any) -> Any:
        n = jnp.maximum(state["n"], 1)
        return jax.tree.map(lambda s, p: jnp.where(state["n"] > 0, s / n, p), state["sum"], params)


class NaNBeforeTheFirstStep(Averaging):
    def eval_params(self, state: Any, params: Any) -> Any:
        return super().eval_params(state, params) if not self.defect else jax.tree.map(
            lambda s: s / state["n"], state["sum"])  # fmt: skip


class OtherDtype(Averaging):
    def eval_params(self, state: Any, params: Any) -> Any:
        right = super().eval_params(state, params)
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), right) if self.defect else right


class InPlace(Averaging):
    def eval_params(self, state: Any, params: Any) -> Any:
        right = super().eval_params(state, params)
        if self.defect:
            params.update(right)
        return right


class OtherUnderJit(Averaging):
    def eval_params(self, state: Any, params: Any) -> Any:
        wrong = self.defect and isinstance(state["n"], jax.core.Tracer)
        return jax.tree.map(lambda x: 1.01 * x if wrong else x, super().eval_params(state, params))


@pytest.mark.parametrize("broken, says", [
    (NaNBeforeTheFirstStep, r"parameters to evaluate at after 0 steps: 'bias'\[0\] is not finite"),
    (OtherDtype, "parameters to evaluate at after 0 steps have another form"),
    (InPlace, "eval_params changes params in place"),
    (OtherUnderJit, "parameters to evaluate at after 0 steps under jit differ"),
])  # fmt: skip
def test_parameters_to_evaluate_at_are_as_good_as_the_others(broken, says):
    rejects(inputs.check_eval_params, broken(), says)
    inputs.check_eval_params(broken.repaired())


# --- hyperparameters --------------------------------------------------------------------------------------------------


class RootOfTheRest(LeafRule):
    """Takes the root of what is left of 0.95, which beside its default is negative."""

    defect: ClassVar[bool] = True
    beta: float = hyper(0.9, "[0, 1)", "how much of 0.95 is used")

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * g * jnp.sqrt((0.95 if self.defect else 1.0) - self.beta), slot


def test_a_hyperparameter_does_not_matter_by_making_nan():
    says = r": RootOfTheRest\.beta = 0\.99.*: displacements at step 1: 'bias'\[0\] is not finite"
    rejects(check_hyperparameters_matter, RootOfTheRest(), says)
    says = r"check_hyperparameters_matter\(RootOfTheRest\(beta=0\.96\)\): displacements at step 1: 'bias'\[0\] is not"
    rejects(check_hyperparameters_matter, RootOfTheRest(beta=0.96), says)
    check_hyperparameters_matter(type("Right", (RootOfTheRest,), {"defect": False, "__module__": __name__})())


class Unchecked(RootOfTheRest):
    """Accepts whatever it is given."""

    def __post_init__(self) -> None:
        pass


def test_what_is_just_outside_comes_first_and_of_the_hyperparameters_the_rules_own():
    rejects(check_hyperparameters_are_validated, Unchecked(), r"Unchecked\(beta=-5e-324\) is accepted")


@pytest.mark.parametrize("domain, first", [
    ("[0, 1)", [-5e-324, 1.0]), ("(0, inf)", [0.0, math.inf]), ("int [1, inf)", [0, math.inf, 1.5]),
    ("[0, 1]", [-5e-324, 1.0000000000000002]),
])  # fmt: skip
def test_values_outside_an_interval_begin_with_those_next_to_it(domain, first):
    values = domains.outside(domain)
    assert values[: len(first)] == first
    assert math.isnan(values[len(first)])
    for value in values:
        with pytest.raises(HyperparameterError):
            check_hyperparameter("here", "name", value, domain)


@pytest.mark.parametrize("domain", [bool, ("a", "b"), (1, 2)])
def test_values_outside_a_choice_are_no_choices(domain):
    for value in domains.outside(domain):
        with pytest.raises(HyperparameterError):
            check_hyperparameter("here", "name", value, domain)


@pytest.mark.parametrize("domain, values", [
    ("[0, 1)", [0.0, 0.1, 0.9]), ("[0, 1]", [0.0, 1.0, 0.1, 0.9]), ("(0, inf)", [1e-3, 100.0]),
    ("(-inf, inf)", [-1.0, 1.0]), ("int [0, inf)", [0, 1, 10]), ("int [1, 5]", [1, 5, 2]),
    (bool, [False, True]), (("a", "b"), ["a", "b"]),
])  # fmt: skip
def test_values_from_all_over_a_domain_are_in_it(domain, values):
    assert domains.across(domain) == values
    for value in values:
        check_hyperparameter("here", "name", value, domain)


# --- the algebra of chains --------------------------------------------------------------------------------------------


class ProductInAnotherOrder(LeafRule):
    """Multiplies by lr first: ``-lr * a * b`` rounds otherwise than ``-lr * (a * b)``."""

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * g * (0.1 + jnp.abs(p)) * 0.3, slot


class Rectified(ProductInAnotherOrder):
    """Takes the size of lr, so that its direction is its displacement."""

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -abs(lr) * g, slot


def test_the_order_of_a_product_is_free_and_its_sign_is_not():
    check_chains_are_a_monoid(ProductInAnotherOrder())
    rejects(check_chains_are_a_monoid, Rectified(), r"the parameters of Chain\(Rectified\(\), SGD\(\)\) and of Rectif")


class MomentumOfSteps(Trial):
    """Has the learning rate in its memory, which is a tuple."""

    def init(self, params: Any) -> Any:
        return (jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(self, step: Any, state: Any) -> Any:
        m = jax.tree.map(lambda m, g: 0.9 * m + step.lr * g, state[1], step.grads)
        return jax.tree.map(lambda x: -x, m), (state[0], m)


class OneNumber(MomentumOfSteps):
    """Has the learning rate for its memory, one number."""

    def init(self, params: Any) -> Any:
        return jnp.zeros(())

    def update(self, step: Any, state: Any) -> Any:
        return jax.tree.map(lambda g: -step.lr * g, step.grads), step.lr * 1.0


def test_what_depends_on_the_learning_rate_is_named_and_shown():
    says = (r"part 1 of the next state, 'bias', at lr = 0\.5 is not that at lr = -1\.\n"
            r"  expected -0\.12.*, the element at \[0\]\n  got      0\.06")  # fmt: skip
    rejects(check_chainable_is_true, MomentumOfSteps(), says)
    rejects(check_chainable_is_true, OneNumber(), r"at step 1 the next state at lr = 0\.5 is not that at lr = -1")


class Same(LeafRule):
    """Is equal to nothing but itself."""

    rate: float = hyper(0.5, "[0, inf)", "a rate")
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * (g + self.rate * p), slot


def test_equality_by_identity_is_called_by_its_name():
    says = r"another one after replace\(\), though it looks the same\..*Do not compare by identity"
    rejects(check_rule_is_a_value, Same(), says)


def test_a_rule_that_is_right_passes_all_of_these_checks():
    for check in (inputs.check_learning_rates_of_every_kind, inputs.check_numpy_inputs, inputs.check_eval_params):
        check(rules.Averaged(rules.Adam(), 0.9))
