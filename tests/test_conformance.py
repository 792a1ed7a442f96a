"""check_optimizer, parametrize_with_checks and the command: on rules, on optimizers of other makes, and on liars."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimkit
from optimkit import Module, ModuleList, StateVar, TrainRef, TrainVar, VarCollection, optimizer, pure, rules
from optimkit.errors import CompositionError, ConformanceError
from optimkit.hyper import hyper
from optimkit.rules import LeafRule
from optimkit.testing import (
    CHECKS,
    NotApplicable,
    Report,
    Result,
    check_optimizer,
    parametrize_with_checks,
    runner,
    streams,
    subject,
)
from optimkit.testing.__main__ import load, main

from . import oracles

# --- what an outsider brings ------------------------------------------------------------------------------------------


class HeavyBall(Module):
    """Momentum by hand: a stateful class of the user, which is no Optimizer and has no rule."""

    def __init__(self, vc: VarCollection, momentum: float = 0.9):
        self.momentum = momentum
        self.train_vars = ModuleList(TrainRef(v) for v in vc.subset(TrainVar))
        self.m = ModuleList(StateVar(jnp.zeros_like(v.value, jnp.promote_types(v.dtype, jnp.float32)))
                            for v in self.train_vars)  # fmt: skip

    def __call__(self, lr: Any, grads: Any) -> None:
        optimkit_errors = [type(g) for g, p in zip(grads, self.train_vars, strict=True) if jnp.shape(g) != p.shape]
        integers = [p for p in self.train_vars if not jnp.issubdtype(p.dtype, jnp.floating)]
        if optimkit_errors or integers:
            raise ValueError("gradients or parameters do not fit")
        for p, m, g in zip(self.train_vars, self.m, grads, strict=True):
            m.value = (self.momentum * m.value + g).astype(m.dtype)
            p.value = (p.value - lr * m.value).astype(p.dtype)


class OverridingCall(optimizer.Momentum):
    """An Optimizer that takes its steps itself."""

    def __call__(self, lr: Any, grads: Any, **inputs: Any) -> None:
        super().__call__(2 * lr, grads, **inputs)


class Transformation(NamedTuple):
    """What optax calls a gradient transformation."""

    init: Any
    update: Any


def momentum_transformation(lr: float = 0.05, momentum: float = 0.9) -> Transformation:
    """Return momentum in optax's form."""

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        state = jax.tree.map(lambda m, g: momentum * m + g, state, grads)
        return jax.tree.map(lambda m: -lr * m, state), state

    return Transformation(init, update)


MAKES: dict[str, Any] = {
    "a rule": rules.Momentum(0.9),
    "the class of a rule": rules.Momentum,
    "a stateful class": optimizer.Momentum,
    "a stateful object": optimizer.Momentum(VarCollection({"w": TrainVar(jnp.ones(2))}), 0.9),
    "a class without a rule": HeavyBall,
    "a function of variables": lambda vc: HeavyBall(vc, 0.9),
    "a class with arguments": functools.partial(HeavyBall, momentum=0.9),
    "a class that overrides __call__": OverridingCall,
    "a transformation": momentum_transformation(),
    "a function without arguments": momentum_transformation,
    "a pair": pure(rules.Momentum(0.9), lr=0.05),
    "a pair that takes no lr": (momentum_transformation().init, lambda g, s, p: (s, p)),
}


@pytest.mark.parametrize("make", MAKES)
def test_an_optimizer_of_any_make_takes_the_same_steps(make):
    lr = {"a class that overrides __call__": 0.025}.get(make, 0.05)
    params = streams.parameters()
    grads = streams.gradients(params, 3)
    got = runner.run(subject(MAKES[make]), params, grads, lr=lr)
    expected = runner.run(rules.Momentum(0.9), params, grads, lr=0.05)
    if make == "a pair that takes no lr":
        expected.params[:] = [expected.start] * 3
    for one, other in zip(got.params, expected.params, strict=True):
        for name, x in other.items():
            np.testing.assert_allclose(one[name], x, rtol=1e-6)


@pytest.mark.parametrize("wrong", [3, "Adam", object(), (1, 2), (len,), dict], ids=lambda x: type(x).__name__)
def test_what_is_no_optimizer_is_refused_with_what_is_one(wrong):
    with pytest.raises(CompositionError, match="an object with init and update"):
        subject(wrong)


def test_a_pair_in_the_wrong_order_is_told_the_right_one():
    rule = subject((lambda params: {}, lambda grads, state, params: (params, state)))
    with pytest.raises(ConformanceError, match=r"apply\(grads, state, params\) -> \(state, params\)"):
        CHECKS["check_deterministic"](rule)


@pytest.mark.slow
@pytest.mark.parametrize("make", ["a rule", "a class without a rule", "a transformation"])
def test_each_check_has_its_say_or_tells_why_not(make):
    results = check_optimizer(MAKES[make], max_examples=3, report=lambda result: None)
    assert [r.check for r in results] == list(CHECKS)
    left_out = {r.check: r.message for r in results if r.verdict == "not applicable"}
    assert left_out.pop("check_oracle") == left_out.pop("check_oracle_elsewhere") == "no oracle is given"
    assert ("check_rule_is_a_value" in left_out) == (make != "a rule")
    assert ("check_memory_is_in_variables" in left_out) == (make != "a class without a rule")
    assert all(left_out.values())


def test_a_check_that_has_nothing_to_say_says_so_when_called_alone():
    with pytest.raises(NotApplicable, match="it is not a Rule"):
        CHECKS["check_rule_is_a_value"](momentum_transformation())


def test_what_a_transformation_of_optax_form_gets_wrong_is_found():
    found = check_optimizer(momentum_transformation(), max_examples=3, report=lambda result: None)
    assert {r.check for r in found.failures} >= {
        "check_form_is_kept",  # bfloat16 parameters, float32 gradients
        "check_misshaped_gradients_are_refused",
        "check_integer_parameters_are_refused",
        "check_slots_are_wide",
    }
    arithmetic = {"check_jit_equals_eager", "check_vmap_equals_loop", "check_scan_equals_loop", "check_deterministic"}
    assert {r.check for r in found if r.verdict == "passed"} >= arithmetic


# --- functions that make one, with hyperparameters --------------------------------------------------------------------

DECLARED = {"lr": (0.05, "[0, inf)"), "momentum": (0.9, "[0, 1)")}


def deaf(lr: float = 0.05, momentum: float = 0.9) -> Transformation:
    """Do not look at the momentum."""
    return momentum_transformation(lr, 0.5)


def test_hyperparameters_of_a_function_are_checked_as_those_of_a_rule():
    accepts_anything = subject(momentum_transformation, DECLARED)
    assert repr(accepts_anything) == "momentum_transformation(lr=0.05, momentum=0.9)"
    CHECKS["check_hyperparameters_matter"](accepts_anything)
    with pytest.raises(ConformanceError, match=r"momentum_transformation\(lr=-5e-324\) is accepted"):
        CHECKS["check_hyperparameters_are_validated"](accepts_anything)
    with pytest.raises(ConformanceError, match=r"deaf\.momentum: it makes no difference"):
        CHECKS["check_hyperparameters_matter"](subject(deaf, DECLARED))


# --- the report -------------------------------------------------------------------------------------------------------


def test_all_failures_are_in_one_error_with_an_example_that_can_be_run():
    with pytest.raises(ConformanceError) as caught:
        check_optimizer(momentum_transformation(), max_examples=3)
    text = str(caught.value)
    assert text.startswith("check_form_is_kept(Transformation)")
    assert "minimal example: check_form_is_kept(Transformation, params={'weight': np.array(1.0, np.float32)})" in text
    assert "check_misshaped_gradients_are_refused" in text.splitlines()[-1]


def test_a_report_counts_and_prints_and_is_data():
    report = Report("Mine()", [
        Result("check_a", "passed", 1.0),
        Result("check_b", "failed", 0.5, "check_b(Mine()): no."),
        Result("check_c", "not applicable", 0.0, "it is not a Rule"),
    ])  # fmt: skip
    assert report.failures == [report[1]]
    assert str(report).splitlines() == [
        "Mine(): 1 passed, 1 failed, 1 not applicable, 1.5 s",
        "ok           1.00 s  check_a",
        "FAILED       0.50 s  check_b                                      no.",
        "left out, for it is not a Rule: check_c",
    ]
    assert json.loads(json.dumps(report.as_dict()))["counts"]["failed"] == 1


def test_progress_is_reported_as_it_is_made():
    seen: list[Result] = []
    results = check_optimizer(rules.SGD(), max_examples=1, report=seen.append)
    assert seen == results


@pytest.mark.slow
def test_an_expected_failure_is_told_from_an_unexpected_pass():
    expected = {"check_slots_are_wide": "as optax does", "check_deterministic": "for no reason"}
    results = check_optimizer(
        momentum_transformation(), expected_failures=expected, max_examples=1, report=lambda result: None
    )
    verdicts = {r.check: r.verdict for r in results}
    assert verdicts["check_slots_are_wide"] == "failed as expected"
    assert verdicts["check_deterministic"] == "passed unexpectedly"


@pytest.mark.slow
def test_the_oracle_is_run_where_there_is_one():
    results = check_optimizer(rules.SGD(), oracle=oracles.oracle_sgd, max_examples=1)
    assert {r.check: r.verdict for r in results}["check_oracle"] == "passed"


# --- parametrize_with_checks ------------------------------------------------------------------------------------------


@parametrize_with_checks([HeavyBall], max_examples=2)
def test_a_test_for_each_check(optimizer, check):
    check(optimizer)


def test_parametrizing_marks_expected_failures_and_names_tests():
    mark = parametrize_with_checks([momentum_transformation()], expected_failures={"check_slots_are_wide": "as optax"})
    cases = {case.id: case.marks for case in mark.args[1]}
    assert cases["Transformation-check_slots_are_wide"][0].kwargs["reason"] == "as optax"
    assert not cases["Transformation-check_deterministic"]
    assert "Transformation-check_rule_is_a_value" not in cases


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_loads_what_is_named():
    assert load("optimkit.rules:Adam") is rules.Adam
    assert load("optimkit:rules.Adam(0.8, eps=1e-6)") == rules.Adam(0.8, eps=1e-6)
    for wrong in ("optimkit.rules", ":Adam", "optimkit.rules:Adam(open('x'))", "optimkit.rules:[0]"):
        with pytest.raises(ValueError):  # of any text: argparse shows it
            load(wrong)


def test_the_command_exits_by_what_it_found_and_writes_json(tmp_path, capsys):
    file = tmp_path / "report.json"
    assert main(["optimkit.rules:SGD", "--check", "check_deterministic", "--json", str(file)]) == 0
    assert "ok " in capsys.readouterr().out
    assert json.loads(file.read_text())["checks"][0]["check"] == "check_deterministic"
    target = f"{__name__}:momentum_transformation"
    assert main([target, "--check", "check_slots_are_wide"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "minimal example: check_slots_are_wide(" in out
    assert main([target, "--check", "check_slots_are_wide", "--expect", "check_slots_are_wide=known"]) == 0


@pytest.mark.parametrize("wrong", [["no_such_module:X"], ["optimkit.rules:Nothing"], ["optimkit:ema"],
                                   ["optimkit.rules:SGD", "--check", "check_luck"]], ids=str)  # fmt: skip
def test_a_wrong_call_of_the_command_exits_with_2(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(wrong)
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_the_command_runs_as_a_module():
    command = [sys.executable, "-m", "optimkit.testing", "optimkit.rules:SGD", "--check", "check_rule_is_a_value"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "1 passed" in done.stdout


# --- three outsiders --------------------------------------------------------------------------------------------------


class Outsider(LeafRule):
    """What the three stories share: RMSProp in ten lines, the bug to be planted."""

    decay: float = hyper(0.9, "[0, 1)", "decay of the mean of squared gradients")
    eps: float = hyper(1e-8, "(0, inf)", "added to the root")

    def init_leaf(self, p):
        return {"nu": jnp.zeros_like(p)}

    def update_leaf(self, g, slot, p, *, lr, t):
        nu = self.decay * slot["nu"] + (1 - self.decay) * g**2
        return -lr * g / (jnp.sqrt(nu) + self.eps), {"nu": nu}


class ForgotEps(Outsider):
    """Eps is declared, documented, and not used: nu is never 0 in the author's tests."""

    def update_leaf(self, g, slot, p, *, lr, t):
        nu = self.decay * slot["nu"] + (1 - self.decay) * g**2
        return -lr * g * jnp.where(nu > 0, jax.lax.rsqrt(jnp.where(nu > 0, nu, 1.0)), 0.0), {"nu": nu}


class OneStepLate(Outsider):
    """The new mean is stored, and the old one divides: at the first step by nothing but eps."""

    def update_leaf(self, g, slot, p, *, lr, t):
        nu = self.decay * slot["nu"] + (1 - self.decay) * g**2
        return -lr * g / (jnp.sqrt(jnp.where(t > 1, slot["nu"], nu)) + self.eps), {"nu": nu}


class NormOfNothing(Outsider):
    """Gradients are divided by their norm, which at a zero gradient is 0."""

    def update_leaf(self, g, slot, p, *, lr, t):
        delta, slot = super().update_leaf(g / jnp.linalg.norm(g.ravel()), slot, p, lr=lr, t=t)
        return delta, slot


def oracle_outsider(params: Any, grads: Any, lr: Any, *, decay: float, eps: float) -> Any:
    """RMSProp in NumPy, as its author meant it."""
    p, nu = params, dict.fromkeys(params, 0.0)
    trajectory = []
    for g, eta in zip(grads, lr, strict=True):
        nu = {name: decay * nu[name] + (1 - decay) * g[name] ** 2 for name in p}
        p = {name: p[name] - eta * g[name] / (np.sqrt(nu[name]) + eps) for name in p}
        trajectory.append(p)
    return trajectory


STORIES = {
    # what is planted -> what the message names, and the example that it shows
    "a hyperparameter that is not used": (
        ForgotEps(), {},
        ("ForgotEps.eps: it makes no difference whether it is 1e-08",
         "minimal example: check_hyperparameters_matter(ForgotEps(decay=0.9, eps=1e-08), params={")),
    "a state that is one step late": (
        OneStepLate(), {"oracle": oracle_outsider},
        ("the parameters and the oracle's differ at step 2",
         "minimal example: check_oracle(OneStepLate(decay=0.9, eps=1e-08)")),
    "a norm of zero": (
        NormOfNothing(), {},
        ("at step 1, float16, gradients of size 0e+00: 'weight' is not finite",
         "minimal example: check_finite_on_zero_gradients(")),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES)
def test_an_outsider_with_a_planted_bug_is_told_what_is_wrong_and_where(story):
    rule, options, says = STORIES[story]
    results = check_optimizer(rule, report=lambda result: None, max_examples=5, **options)
    text = "\n".join(f"{r.message}\nminimal example: {r.example}" for r in results.failures)
    assert all(words in text for words in says), text


@pytest.mark.slow
def test_the_outsider_without_a_bug_passes():
    check_optimizer(Outsider(), oracle=oracle_outsider, max_examples=5)


def test_optimkit_testing_is_no_part_of_import_optimkit():
    code = "import sys, optimkit; sys.exit('optimkit.testing' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert optimkit.__version__
