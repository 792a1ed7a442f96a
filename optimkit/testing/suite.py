"""All checks, and running them one by one: what each found, how long it took, and the smallest example that fails."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from optimkit.errors import ConformanceError, message
from optimkit.rules.base import Rule, Tree, check_rule_type
from optimkit.testing import (
    algebra,
    faces,
    finite,
    form,
    hyperparameters,
    imperative,
    inputs,
    placement,
    precision,
    programs,
    properties,
    refusals,
    streams,
    transforms,
)
from optimkit.testing.check import NotApplicable
from optimkit.testing.hyperparameters import TOLERANCE
from optimkit.testing.oracle import check_oracle, check_oracle_elsewhere
from optimkit.testing.report import EXPECTED, FAILED, NOT_APPLICABLE, PASSED, UNEXPECTED, Report, Result
from optimkit.testing.runner import flat
from optimkit.testing.subjects import subject

# In the order in which they run: those first whose failure explains the failures of others.
CHECKS: dict[str, Callable[..., None]] = {
    check.__name__: check
    for check in (
        form.check_form_is_kept,
        form.check_slots_are_wide,
        precision.check_low_precision_follows_float32,
        form.check_slot_dtype_is_obeyed,
        form.check_odd_shapes,
        form.check_inputs_are_left_alone,
        form.check_counters_saturate,
        form.check_state_is_alive,
        refusals.check_misshaped_gradients_are_refused,
        refusals.check_missing_gradients_are_refused,
        refusals.check_integer_parameters_are_refused,
        hyperparameters.check_hyperparameters_are_declared,
        hyperparameters.check_hyperparameters_are_validated,
        hyperparameters.check_hyperparameters_may_be_arrays,
        hyperparameters.check_hyperparameters_matter,
        finite.check_finite_on_zero_gradients,
        finite.check_finite_on_tiny_gradients,
        finite.check_finite_on_huge_gradients,
        finite.check_finite_at_the_ends_of_domains,
        finite.check_finite_at_other_hyperparameters,
        transforms.check_deterministic,
        inputs.check_keys_matter,
        inputs.check_inputs_may_be_numbers,
        inputs.check_learning_rates_of_every_kind,
        inputs.check_numpy_inputs,
        inputs.check_eval_params,
        transforms.check_no_leaked_tracer,
        transforms.check_jit_equals_eager,
        transforms.check_vmap_equals_loop,
        programs.check_population_of_learning_rates,
        transforms.check_scan_equals_loop,
        programs.check_control_flow_equals_loop,
        transforms.check_one_compile,
        programs.check_compiles_ahead_of_time,
        programs.check_64_bit_mode_changes_nothing,
        programs.check_float64_is_used,
        programs.check_derivative_in_lr,
        transforms.check_state_has_memory_of_its_own,
        transforms.check_donation_is_safe,
        placement.check_sharded_equals_unsharded,
        placement.check_explicit_sharding_equals_unsharded,
        faces.check_stateful_equals_functional,
        faces.check_names_and_order_do_not_matter,
        inputs.check_extra_inputs_are_forwarded,
        inputs.check_shared_weights,
        faces.check_failed_steps_change_nothing,
        faces.check_copies_continue,
        faces.check_saved_states_continue,
        imperative.check_memory_is_in_variables,
        imperative.check_it_compiles_once,
        imperative.check_refused_steps_change_nothing,
        algebra.check_rule_is_a_value,
        algebra.check_chainable_is_true,
        algebra.check_chains_are_a_monoid,
        properties.check_any_parameters_and_gradients,
        properties.check_any_hyperparameters,
        properties.check_jit_equals_eager_on_any_gradients,
        check_oracle,
        check_oracle_elsewhere,
    )
}


def check_optimizer(
    obj: Any,
    *,
    params: Tree = None,
    oracle: Any = None,
    tolerance: float = TOLERANCE,
    hyperparameters: Mapping[str, tuple[Any, Any]] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    max_examples: int = properties.EXAMPLES,
    checks: Iterable[str] | None = None,
    report: Callable[[Result], None] | None = None,
) -> Report:
    """Run every check on an optimizer, and raise if one fails.

    Args:
        obj: a rule; a stateful class, or a function of a VarCollection that makes an optimizer; an object with optax's
            ``init`` and ``update``; a pair ``(init, apply)``; or a function that makes one of these, together with
            ``hyperparameters``. See :mod:`optimkit.testing.subjects`.
        params: a tree of float32 arrays to run it on: names and shapes that it can take. A zero vector, a scalar and a
            matrix where None.
        oracle: the algorithm written in float64 NumPy, see :func:`check_oracle`; without one that check is left out.
        tolerance: how far the optimizer may be from its oracle.
        hyperparameters: arguments of ``obj``, a function, by name: each a value and a domain,
            ``{"b1": (0.9, "[0, 1)")}``. The checks of hyperparameters then run on it.
        expected_failures: names of checks that it does not pass, each with the reason. Such a check must fail.
        max_examples: how many examples each check of a property draws.
        checks: the names of those to run; all where None.
        report: a function that gets each :class:`Result` as soon as it is there, to show progress. With it nothing is
            raised: call ``raise_for_failures()`` of what is returned.

    Returns:
        The results, a :class:`Report`, which prints as a table.

    Raises:
        ConformanceError: a check fails, or one passes that was expected to fail. The message has the first of them
            with the smallest parameters for which it fails, and names the others.

    Example:
        >>> from optimkit import rules
        >>> report = check_optimizer(rules.SGD(), checks=["check_odd_shapes", "check_chainable_is_true"])
        >>> report.counts()["passed"]
        2
    """
    names = selected(checks, expected_failures)
    rule = subject(obj, hyperparameters)
    options = {"params": params, "oracle": oracle, "tolerance": tolerance, "max_examples": max_examples}
    results = Report(repr(rule))
    for result in run_checks(rule, names, expected_failures, **options):
        results.append(result)
        if report is not None:
            report(result)
    if report is None:
        results.raise_for_failures()
    return results


def check_rule(
    rule: Rule,
    *,
    params: Tree = None,
    oracle: Any = None,
    tolerance: float = TOLERANCE,
    expected_failures: Mapping[str, str] | None = None,
) -> None:
    """Run every check on a rule; the first that fails raises. See :func:`check_optimizer`.

    Raises:
        ConformanceError: the rule fails a check, or passes one that it was expected to fail.

    Example:
        >>> from optimkit import rules
        >>> check_rule(rules.SGD())
    """
    check_rule_type("check_rule", rule)
    checks = selected(None, expected_failures)
    for result in run_checks(rule, checks, expected_failures, params=params, oracle=oracle, tolerance=tolerance):
        Report(repr(rule), [result]).raise_for_failures()


def selected(names: Iterable[str] | None, expected_failures: Mapping[str, str] | None) -> list[str]:
    """Return the names of the checks to run, or raise where a name is unknown."""
    names = list(CHECKS) if names is None else list(names)
    for name in [*names, *(expected_failures or {})]:
        if name not in CHECKS:
            raise ConformanceError(message("check_optimizer", f"there is no check {name!r}.", list(CHECKS), name))
    return names


def run_checks(
    rule: Rule, checks: Iterable[str], expected_failures: Mapping[str, str] | None = None, **options: Any
) -> Iterator[Result]:
    """Yield the result of each check, as it is there."""
    for name in checks:
        yield run_check(rule, name, (expected_failures or {}).get(name), **options)


def run_check(rule: Rule, name: str, expected: str | None = None, **options: Any) -> Result:
    """Return what a check finds. A failure comes with the smallest parameters for which it is found."""
    if name.startswith("check_oracle") and options.get("oracle") is None:
        return Result(name, NOT_APPLICABLE, 0.0, "no oracle is given")
    start, check, example = time.perf_counter(), CHECKS[name], ""
    options = options_of(check, **options)
    try:
        check(rule, **options)
    except NotApplicable as reason:
        verdict, text = NOT_APPLICABLE, str(reason)
    except ConformanceError as error:
        verdict, text = (FAILED, str(error)) if expected is None else (EXPECTED, expected)
        # What a property fails on is small already: hypothesis has seen to that.
        if expected is None and "max_examples" not in options:
            text, example = smallest(rule, name, options, text)
    else:
        verdict, text = PASSED, ""
        if expected is not None:
            verdict, text = UNEXPECTED, message(f"{name}({rule!r})", "the check was expected to fail, and passes.",
                                                f"a failure: {expected}", "none",
                                                "Remove it from expected_failures.")  # fmt: skip
    return Result(name, verdict, time.perf_counter() - start, text, example)


def options_of(check: Callable[..., None], **options: Any) -> dict[str, Any]:
    """Return those keyword arguments that a check takes."""
    accepted = inspect.signature(check).parameters
    return {name: x for name, x in options.items() if name in accepted}


# --- the smallest example ---------------------------------------------------------------------------------------------

PATIENCE = 10.0  # seconds after which no smaller example is looked for


def smallest(rule: Rule, name: str, options: dict[str, Any], text: str) -> tuple[str, str]:
    """Return the message for the smallest parameters for which a check still fails, and a call that shows it."""
    start, best = time.perf_counter(), None
    for params in _smaller(options.get("params")):
        if time.perf_counter() - start > PATIENCE:
            break
        try:
            CHECKS[name](rule, **{**options, "params": params})
        except ConformanceError as error:
            text, best = str(error), params
            break
        except NotApplicable:
            continue
    return text, f"{name}({rule!r}{'' if best is None else f', params={_as_code(best)}'})"


def _smaller(params: Tree) -> Iterator[dict[str, np.ndarray]]:
    """Yield parameters with one name, the smallest first: a scalar, one element, two, then the leaves as they are."""
    own = {name: np.asarray(p, np.float32) for name, p in flat(streams.parameters(params)).items()}
    for shape in ((), (1,), (2,)):
        yield {name: np.ones(shape, np.float32) for name in list(own)[-1:]}
    for name, p in sorted(own.items(), key=lambda item: item[1].size):
        yield {name: p}


def _as_code(params: dict[str, np.ndarray]) -> str:
    shown = (f"{name!r}: np.array({p.tolist()!r}, np.float32)" for name, p in params.items())
    return f"{{{', '.join(shown)}}}"
