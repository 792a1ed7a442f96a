"""The kit itself: each check rejects a rule with a planted bug of its kind, and says where; right rules pass."""

from __future__ import annotations

import functools
import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Module, ModuleList, StateVar, TrainRef, TrainVar, VarCollection, rules
from optimkit.errors import ConformanceError, OptimkitError
from optimkit.hyper import hyper
from optimkit.rules import LeafRule, Rule, Step
from optimkit.testing import CHECKS, check_rule, check_slot_dtype_is_obeyed, compare, streams, subject

from . import oracles

# --- rules with a planted bug -----------------------------------------------------------------------------------------


def leaf_rule(update: Any, init: Any = None, **fields: Any) -> LeafRule:
    """Return a rule with the given ``update_leaf(self, g, slot, p, *, lr, t)`` and hyperparameters."""
    space: dict[str, Any] = {"update_leaf": update, "__annotations__": {}, "__module__": __name__}
    if init is not None:
        space["init_leaf"] = init
    for name, field in fields.items():
        space[name] = field
        if name not in ("chainable", "needs"):
            space["__annotations__"][name] = "float"
    return type("Broken", (LeafRule,), space)()


def sgd(self, g, slot, p, *, lr, t):
    return -lr * g, slot


def momentum_init(self, p):
    return {"m": jnp.zeros_like(p)}


def momentum(self, g, slot, p, *, lr, t):
    m = 0.9 * slot["m"] + g
    return -lr * m, {"m": m}


class TreeRule(Rule):
    """SGD with momentum on whole trees; subclasses break one thing."""

    def init(self, params: Any) -> Any:
        return {"m": jax.tree.map(jnp.zeros_like, params), "t": jnp.int32(0)}

    def update(self, step: Step, state: Any) -> Any:
        m = jax.tree.map(lambda m, g: 0.9 * m + g, state["m"], step.grads)
        return jax.tree.map(lambda x: -step.lr * x, m), {"m": m, "t": state["t"] + 1}


class InLowPrecision(TreeRule):
    """Its state has the dtype of the parameters, and keeps it."""

    def update(self, step: Step, state: Any) -> Any:
        delta, new = super().update(step, state)
        return delta, {**new, "m": jax.tree.map(lambda x, p: x.astype(p.dtype), new["m"], step.params)}


class InPlace(TreeRule):
    """Writes into the dict that it was given."""

    def update(self, step: Step, state: Any) -> Any:
        delta, new = super().update(step, state)
        state.update(new)
        return delta, state


class Aliasing(TreeRule):
    """Its state starts as the parameters themselves."""

    def init(self, params: Any) -> Any:
        return {**super().init(params), "m": params}


class FirstIsSpecial(TreeRule):
    """Moves the parameter that is listed first twice as far."""

    def update(self, step: Step, state: Any) -> Any:
        delta, new = super().update(step, state)
        first = next(iter(step.params))
        return {**delta, first: 2 * delta[first]}, new


class FirstOfSortedIsSpecial(TreeRule):
    """Moves the parameter whose name comes first twice as far."""

    def update(self, step: Step, state: Any) -> Any:
        delta, new = super().update(step, state)
        return {**delta, min(step.params): 2 * delta[min(step.params)]}, new


def plain_pair(step: Any) -> Any:
    """Return a pair of functions without state; ``step(p, g)`` is the new parameter."""
    def apply(grads: Any, state: Any, params: Any) -> Any:
        return state, {name: step(p, grads.get(name)) for name, p in params.items()}

    return (lambda params: {}), apply


class Remembering(Module):
    """A stateful optimizer of the user, without a rule: momentum that starts after the first step."""

    def __init__(self, vc: VarCollection):
        self.train_vars = ModuleList(TrainRef(v) for v in vc.subset(TrainVar))
        self.m = ModuleList(StateVar(jnp.zeros_like(v.value)) for v in self.train_vars)
        self.steps = StateVar(jnp.zeros((), jnp.int32))

    def __call__(self, lr: Any, grads: Any) -> None:
        fits = len(grads) == len(self.m) and all(jnp.shape(g) == m.shape for g, m in zip(grads, self.m, strict=True))
        if not fits:
            raise ValueError("gradients do not fit")
        decay = self.decay()
        for p, m, g in zip(self.train_vars, self.m, grads, strict=True):
            m.value = decay * m.value + g
            p.value = p.value - lr * m.value

    def decay(self) -> Any:
        self.steps.value = jnp.minimum(self.steps.value, 2**31 - 2) + 1
        return jnp.where(self.steps.value > 1, 0.9, 0.0)


class RememberingInPython(Remembering):
    """Counts its steps in an attribute."""

    def __init__(self, vc: VarCollection):
        super().__init__(vc)
        self.count = 0

    def decay(self) -> Any:
        self.count += 1
        return 0.9 if self.count > 1 else 0.0


class ReadsTheRate(Remembering):
    """Does without momentum at rates that look small, in Python."""

    def __call__(self, lr: Any, grads: Any) -> None:
        super().__call__(lr if lr > 1e-3 else 0.0, grads)


class WritesFirst(Remembering):
    """Looks at each gradient when its turn comes."""

    def __call__(self, lr: Any, grads: Any) -> None:
        for p, g in zip(self.train_vars, grads, strict=True):
            if jnp.shape(g) != p.shape:
                raise ValueError("a gradient does not fit")
            p.value = p.value - lr * g


class CountingCalls(TreeRule):
    """Remembers in Python how often it was called, or traced."""

    calls = itertools.count(1)

    def update(self, step: Step, state: Any) -> Any:
        delta, new = super().update(step, state)
        calls = next(self.calls)
        return jax.tree.map(lambda d: d * calls, delta), new


class DeafToSlotDtype(LeafRule):
    """Has the hyperparameter ``slot_dtype`` and does not look at it."""

    init_leaf, update_leaf = momentum_init, momentum

    def _stored_dtype(self, x: Any, dtype: Any) -> Any:
        return dtype


class Unvalidated(LeafRule):
    """Accepts whatever it is given."""

    decay: float = hyper(0.5, "[0, 1)", "decay")

    def __post_init__(self) -> None:
        pass

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * (g + self.decay * p), slot


class Forgetful(LeafRule):
    """Is pickled as its class only."""

    rate: float = hyper(0.5, "[0, inf)", "rate of decay")

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * (g + self.rate * p), slot

    def __reduce__(self) -> Any:
        return type(self), ()


class RoundedRepr(LeafRule):
    """Shows one digit of its rate."""

    rate: float = hyper(0.25, "[0, inf)", "rate of decay")
    update_leaf = Forgetful.update_leaf

    def __repr__(self) -> str:
        return f"RoundedRepr(rate={self.rate:.1f})"


LEAKED: list[Any] = []


def leaking(self, g, slot, p, *, lr, t):
    LEAKED.append(g)
    return -lr * g, slot


def faster_when_traced(self, g, slot, p, *, lr, t):
    return -lr * g * (1.001 if isinstance(g, jax.core.Tracer) else 1.0), slot


def normalised(self, g, slot, p, *, lr, t):
    return -lr * g / jnp.abs(g), slot


def normalised_by_squares(self, g, slot, p, *, lr, t):
    return -lr * jnp.where(g == 0, 0.0, g / jnp.sqrt(g**2)), slot


def adam_without_guard(self, g, slot, p, *, lr, t):
    return -lr * g / (jnp.abs(g) + self.eps), slot


def remembers_the_mean(self, g, slot, p, *, lr, t):
    return -lr * g, {"mean": jnp.mean(jnp.abs(g))}


def lr_inside(self, g, slot, p, *, lr, t):
    m = 0.9 * slot["m"] + lr * g
    return -m, {"m": m}


def no_bias_correction_at_the_second_step(self, g, slot, p, *, lr, t):
    mu = 0.9 * slot["mu"] + 0.1 * g
    return -lr * mu / (1 - 0.9 ** jnp.where(t == 2, 1, t)), {"mu": mu}


def an_eps():
    return hyper(1e-8, "[0, inf)", "added to the root")


def mu_init(self, p):
    return {"mu": jnp.zeros_like(p)}


# By check: a rule that it must reject, and what its message must say.
BROKEN: dict[str, list[tuple[Rule, str]]] = {
    "check_form_is_kept": [
        (TreeRule(), r"a step changes the form of 'm\.bias' in the state \(float16 parameters, bfloat16 gradients\)"),
        (leaf_rule(lambda self, g, slot, p, *, lr, t: (-lr * jnp.sum(g), slot)), "does not fit its parameter"),
    ],
    "check_slots_are_wide": [(InLowPrecision(), r"the state 'm\.bias' of float16 parameters is not float32")],
    "check_slot_dtype_is_obeyed": [(DeafToSlotDtype(), "slot_dtype='bfloat16'")],
    "check_odd_shapes": [(leaf_rule(remembers_the_mean, lambda self, p: {"mean": jnp.zeros(())}), r"slots.*\.mean")],
    "check_inputs_are_left_alone": [(InPlace(), "update changes state in place")],
    "check_counters_saturate": [(TreeRule(), r"the counter 't' is negative after step 2\*\*31")],
    "check_hyperparameters_are_declared": [
        (leaf_rule(sgd, rate=0.5), r"Broken\.rate is not declared"),
    ],
    "check_hyperparameters_are_validated": [(Unvalidated(), r"Unvalidated\(decay=-5e-324\) is accepted")],
    "check_hyperparameters_matter": [
        (leaf_rule(sgd, eps=an_eps()), r"Broken\.eps: it makes no difference whether it is 1e-08 or"),
        (leaf_rule(lambda self, g, slot, p, *, lr, t: (-lr * g * (1 + self.eps), slot), eps=an_eps()), r"Broken\.eps"),
    ],
    "check_hyperparameters_may_be_arrays": [
        (leaf_rule(lambda self, g, slot, p, *, lr, t: (-lr * g if self.eps > 0.1 else g, slot), eps=an_eps()), "Tracer")
    ],
    "check_finite_on_zero_gradients": [(leaf_rule(normalised), "displacements at step 1, float16.*'bias'")],
    "check_finite_on_tiny_gradients": [(leaf_rule(normalised_by_squares), "is not finite")],
    "check_finite_on_huge_gradients": [
        (leaf_rule(lambda self, g, slot, p, *, lr, t: (-lr * g**5 / (1 + g**4), slot)), "at step 1, bfloat16|at step 2")
    ],
    "check_finite_at_the_ends_of_domains": [(leaf_rule(adam_without_guard, eps=an_eps()), r"at Broken\(eps=0\.0\)")],
    "check_deterministic": [(CountingCalls(), "parameters at step 1 of a second run")],
    "check_misshaped_gradients_are_refused": [
        (plain_pair(lambda p, g: p - 0.1 * g),
         r"(?s)a gradient of shape \[3, 2\] for 'bias' float32\[2\] is accepted.*'bias' is float32\[3, 2\] afterwards"),
    ],
    "check_missing_gradients_are_refused": [
        (plain_pair(lambda p, g: p if g is None else p - 0.1 * g), "a gradient of None for 'weight' is accepted"),
    ],
    "check_integer_parameters_are_refused": [
        (plain_pair(lambda p, g: (p - 0.1 * g).astype(p.dtype)), "the parameter 'weight' of int32 is accepted"),
    ],
    "check_no_leaked_tracer": [(leaf_rule(leaking), "[Ll]eak")],
    "check_jit_equals_eager": [(leaf_rule(faster_when_traced), "parameters under jit differ at step 1")],
    "check_vmap_equals_loop": [(CountingCalls(), "replica 0 under vmap differ at step 1")],
    "check_scan_equals_loop": [(CountingCalls(), "parameters under scan differ at step 1")],
    "check_one_compile": [(leaf_rule(lambda self, g, slot, p, *, lr, t: (-float(lr) * g, slot)), "Concretization")],
    "check_state_has_memory_of_its_own": [
        (Aliasing(), r"\['state'\]\['m'\]\['bias'\] shares its memory with \['params'\]\['bias'\]")
    ],
    "check_donation_is_safe": [(Aliasing(), "[Dd]onate")],
    "check_stateful_equals_functional": [(FirstIsSpecial(), "parameters at step 1: 'bias'")],
    "check_names_and_order_do_not_matter": [(FirstOfSortedIsSpecial(), "under other names differ at step 1")],
    "check_failed_steps_change_nothing": [(Unvalidated(), "a step with slot_dtype = .* is accepted")],
    "check_copies_continue": [(Forgetful(rate=0.125), "another one after deepcopy")],
    "check_saved_states_continue": [(CountingCalls(), "parameters 4 steps after saving")],
    "check_memory_is_in_variables": [(RememberingInPython, "kept and of objects with its variables differ at step 2")],
    "check_it_compiles_once": [(ReadsTheRate, "TracerBoolConversionError")],
    "check_refused_steps_change_nothing": [(WritesFirst, "after a step with a gradient that is None: 'bias'")],
    "check_any_parameters_and_gradients": [
        (leaf_rule(lambda self, g, slot, p, *, lr, t: (-lr * g / jnp.mean(jnp.abs(p)), slot)),
         r"(?s)'\w+'.* is not finite.*smallest example found:.*params = \{'"),
    ],
    "check_any_hyperparameters": [
        (leaf_rule(lambda self, g, slot, p, *, lr, t: (-lr * g * jnp.sqrt(0.5 - self.rate), slot),
                   rate=hyper(0.25, "[0, 1]", "rate")), r"(?s)smallest example found:.*rule = Broken\(rate=1\.0\)"),
    ],
    "check_jit_equals_eager_on_any_gradients": [(leaf_rule(faster_when_traced), "(?s)under jit differ.*grads = ")],
    "check_rule_is_a_value": [(RoundedRepr(), "another one after evaluating its repr")],
    "check_chainable_is_true": [
        (leaf_rule(lr_inside, momentum_init), r"it is chainable, but at step 1 the next state 'slots\.bias\.m'"),
        (leaf_rule(lambda self, g, slot, p, *, lr, t: (-(lr**2) * g, slot)), "displacement of 'bias' at lr = "),
        (leaf_rule(sgd, chainable=False), "says that it is not chainable, but"),
    ],
    "check_chains_are_a_monoid": [(leaf_rule(lambda self, g, slot, p, *, lr, t: (-abs(lr) * g, slot)), "SGD")],
    "check_state_is_alive": [
        (leaf_rule(lambda self, g, slot, p, *, lr, t: (-lr * g, slot), lambda self, p: {"n": jnp.zeros(())}),
         r"the state 'slots\.bias\.n' is the same after each step"),
    ],
    "check_oracle_elsewhere": [
        (leaf_rule(lambda self, g, slot, p, *, lr, t: (-lr * 1.25 * g, slot), rate=hyper(0.25, "[0, 1]", "rate")),
         r"rate=0\.27.*gradients of size 1e-03: .* differ at step 1"),
    ],
    "check_oracle": [(leaf_rule(no_bias_correction_at_the_second_step, mu_init), "differ at step 2, first in 'bias'")],
}


def biased_momentum(params: Any, grads: Any, lr: Any) -> Any:
    """The oracle of the rule above, without its bug: Adam's mean with bias correction."""
    p, mu = ({n: np.array(x, np.float64) for n, x in params.items()} for _ in range(2))
    mu, trajectory = {n: 0 * x for n, x in mu.items()}, []
    for t, (g, eta) in enumerate(zip(grads, lr, strict=True), start=1):
        mu = {n: 0.9 * m + 0.1 * g[n] for n, m in mu.items()}
        p = {n: x - eta * mu[n] / (1 - 0.9**t) for n, x in p.items()}
        trajectory.append(p)
    return trajectory


def sgd_by_rate(params: Any, grads: Any, lr: Any, *, rate: float) -> Any:
    """The oracle of a rule above, which has the rate twice: declared, and as a number in its formula."""
    return oracles.oracle_sgd(params, grads, [eta * (1 + rate) for eta in lr])


ORACLES = {"check_oracle": biased_momentum, "check_oracle_elsewhere": sgd_by_rate}


# --- the checks reject them -------------------------------------------------------------------------------------------


def test_there_is_a_broken_rule_for_every_check():
    """Here, or beside in the tests of one module of the kit each."""
    beside = "".join(path.read_text("utf8") for path in Path(__file__).parent.glob("test_testing_*.py"))
    assert set(BROKEN) <= set(CHECKS)
    assert {name for name in set(CHECKS) - set(BROKEN) if name not in beside} == set()


@pytest.mark.parametrize("name, i", [(name, i) for name, broken in BROKEN.items() for i in range(len(broken))])
def test_check_rejects_a_rule_with_a_planted_bug_and_says_where(name, i):
    rule, says = BROKEN[name][i]
    options = {"oracle": ORACLES[name]} if name in ORACLES else {}
    with pytest.raises(ConformanceError, match=says) as caught:
        CHECKS[name](rule, **options)
    shown = type(rule).__name__ if name == "check_oracle_elsewhere" else repr(subject(rule))
    assert str(caught.value).startswith(f"{name}({shown}")


@pytest.mark.parametrize("rule", [broken[0][0] for name, broken in BROKEN.items() if name not in ORACLES][:12],
                         ids=list(BROKEN)[:12])  # fmt: skip
def test_check_rule_rejects_what_a_check_rejects(rule):
    with pytest.raises(ConformanceError):
        check_rule(rule)


# --- and right rules pass ---------------------------------------------------------------------------------------------


class SignedRMS(LeafRule):
    """The rule of docs/how-to/write-a-rule.md."""

    decay: float = hyper(0.9, "[0, 1)", "decay of the mean of squared gradients")
    eps: float = hyper(1e-8, "(0, inf)", "added to the root")

    def init_leaf(self, p: Any) -> Any:
        return {"nu": jnp.zeros_like(p)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        nu = self.decay * slot["nu"] + (1 - self.decay) * g**2
        return -lr * jnp.sign(g) * jnp.minimum(1.0, jnp.abs(g) / (jnp.sqrt(nu) + self.eps)), {"nu": nu}


class LookingAhead(LeafRule):
    """Uses all the inputs that a rule may ask for: loss, gradients elsewhere (as extragradient does), noise."""

    needs = ("value", "grad_fn", "key")
    chainable = False
    noise: float = hyper(0.1, "[0, inf)", "size of the noise")

    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        ahead = jax.tree.map(lambda p, g: p - step.lr * g.astype(p.dtype), step.params, step.grads)
        grads = step.grad_fn(ahead)
        noise = self.noise * jax.random.normal(step.key, dtype=jnp.float32) * step.value
        wide = jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), grads)
        return jax.tree.map(lambda g: (-step.lr * (g + noise)).astype(g.dtype), wide), state


@pytest.mark.slow
@pytest.mark.parametrize("rule", [SignedRMS(), LookingAhead()], ids=["a rule of the user", "a rule with needs"])
def test_rules_from_outside_pass(rule):
    check_rule(rule)


# --- check_rule -------------------------------------------------------------------------------------------------------


class Recorded:
    """Stands for the checks: passes all but one, and keeps what it was called with."""

    def __init__(self, failing: str = ""):
        self.failing, self.calls = failing, {}

    def __call__(self, name: str) -> Any:
        @functools.wraps(CHECKS[name])
        def check(rule: Any, **options: Any) -> None:
            self.calls[name] = options
            if name == self.failing:
                raise ConformanceError(f"{name} failed")

        return check


@pytest.fixture
def recorded(monkeypatch):
    """Return a function that replaces all checks by recorded ones."""

    def replace(failing: str = "") -> Recorded:
        record = Recorded(failing)
        for name in CHECKS:
            monkeypatch.setitem(CHECKS, name, record(name))
        return record

    return replace


def test_check_rule_runs_every_check_with_what_it_takes(recorded):
    record, params, oracle = recorded(), {"w": np.ones(2, np.float32)}, oracles.oracle_sgd
    check_rule(rules.SGD(), params=params, oracle=oracle, tolerance=1e-3)
    assert list(record.calls) == list(CHECKS)
    assert record.calls["check_oracle"] == {"params": params, "oracle": oracle, "tolerance": 1e-3}
    assert record.calls["check_hyperparameters_matter"] == {"params": params, "tolerance": 1e-3}
    assert record.calls["check_form_is_kept"] == {"params": params}


def test_check_rule_leaves_out_the_oracle_where_there_is_none(recorded):
    record = recorded()
    check_rule(rules.SGD())
    assert set(CHECKS) - set(record.calls) == {"check_oracle", "check_oracle_elsewhere"}


def test_an_expected_failure_must_fail_and_have_a_name(recorded):
    recorded("check_one_compile")
    check_rule(rules.SGD(), expected_failures={"check_one_compile": "known"})
    with pytest.raises(ConformanceError, match=r"check_jit_equals_eager\(SGD\(\)\): .*expected to fail, and passes"):
        check_rule(rules.SGD(), expected_failures={"check_one_compile": "known", "check_jit_equals_eager": "fixed"})
    with pytest.raises(ConformanceError, match="there is no check 'check_luck'"):
        check_rule(rules.SGD(), expected_failures={"check_luck": "none"})


def test_a_class_is_not_checked():
    with pytest.raises(OptimkitError, match=r"Call it: SGD\(\)"):
        check_rule(rules.SGD)


def test_parameters_of_the_user_are_what_a_rule_is_run_on():
    """A rule that fails for a name that only the user's parameters have."""

    def update(self, g, slot, p, *, lr, t):
        return -lr * (g / g if p.shape == (7,) else g), slot

    CHECKS["check_finite_on_zero_gradients"](leaf_rule(update))
    with pytest.raises(ConformanceError, match="'seven'"):
        CHECKS["check_finite_on_zero_gradients"](leaf_rule(update), params={"seven": np.ones(7, np.float32)})


def test_the_configuration_of_jax_is_as_before():
    before = dict(jax.config.values)
    CHECKS["check_form_is_kept"](rules.Adam())
    with pytest.raises(ConformanceError):
        CHECKS["check_finite_on_zero_gradients"](leaf_rule(normalised))
    CHECKS["check_no_leaked_tracer"](rules.SGD())
    assert dict(jax.config.values) == before
    assert jnp.zeros(1).dtype == jnp.float32


def test_the_kit_works_without_hypothesis():
    code = "import sys; sys.modules['hypothesis'] = None; from optimkit import rules; from optimkit.testing import *; "
    code += "from optimkit.testing import strategies, check_form_is_kept; check_form_is_kept(rules.SGD())"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- comparison -------------------------------------------------------------------------------------------------------


def distance(got, expected, start):
    got, expected = ([{"w": np.float64([x])} for x in values] for values in (got, expected))
    return [step["w"].tolist() for step in compare.distances(got, expected, {"w": np.float64([start])})]


def test_what_one_program_flushes_to_zero_and_another_does_not_is_one_rounding():
    tiny = float(np.finfo(np.float32).tiny)
    got, right = [{"w": np.float32([0.0])}], [{"w": np.float32([tiny])}]
    compare.require_close("here", got, right, {"w": np.float32([0.0])}, compare.rounding(1))
    with pytest.raises(ConformanceError):
        compare.require_close("here", got, [{"w": np.float32([32 * tiny])}], got[0], compare.rounding(1))


@pytest.mark.parametrize("rule", [rules.Averaged(rules.SGD()), rules.Averaged(rules.Momentum())], ids=repr)
def test_slots_that_are_not_there_need_no_dtype(rule):
    check_slot_dtype_is_obeyed(rule)


def test_the_distance_is_relative_to_the_largest_position_and_the_way():
    # from 0 by 1 to 1, then back by 1: position 1, way 2
    assert distance([1.5, 0.5], [1.0, 0.0], 0.0) == [[0.5 / 2], [0.5 / 3]]
    assert distance([100.0], [100.0 + 1e-3], 100.0) == [[pytest.approx(1e-5, rel=1e-3)]]
    assert distance([0.0], [0.0], 0.0) == [[0.0]]
    assert distance([1e-30], [0.0], 0.0) == [[pytest.approx(1e-30 * 2.0**-23 / 2.0**-126)]]
    assert distance([math.nan], [1.0], 1.0) == [[math.inf]]
    assert distance([1.0], [math.nan], 1.0) == [[math.inf]]


def test_what_is_too_far_is_named_with_its_first_step():
    got = [{"w": np.float32([1, 2])}, {"w": np.float32([1, 2])}]
    right = [{"w": np.float32([1, 2])}, {"w": np.float32([1, 3])}]
    with pytest.raises(ConformanceError, match=r"here: the parameters differ at step 2, first in 'w'\[1\]") as caught:
        compare.require_close("here", got, right, got[0], 1e-3)
    assert "relative tolerance 1.0e-03" in str(caught.value)
    compare.require_close("here", got, right, got[0], 1.0)


@pytest.mark.parametrize("got, says", [
    ({"w": np.float32([0.0])}, r"'w'\[0\] differs"),
    ({"w": np.float32([[-0.0]])}, "another form"),
    ({"w": np.float16([-0.0])}, "another form"),
    ({"v": np.float32([-0.0])}, "other names"),
])  # fmt: skip
def test_identical_is_meant_to_the_last_bit(got, says):
    compare.require_identical("here", {"w": np.float32([-0.0])}, {"w": np.float32([-0.0])}, "values")
    compare.require_identical("here", {"w": np.float32([np.nan])}, {"w": np.float32([np.nan])}, "values")
    with pytest.raises(ConformanceError, match=f"here: values: {says}|here: values:.*{says}"):
        compare.require_identical("here", got, {"w": np.float32([-0.0])}, "values")


def test_the_rich_stream_has_what_it_says():
    sizes = [float(np.abs(g["weight"]).max()) for g in streams.rich(streams.parameters())]
    assert min(sizes) == 0.0
    assert min(x for x in sizes if x) < 1e-7
    assert max(sizes) > 10.0
