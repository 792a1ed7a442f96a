"""All checks in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optimkit.errors import ConformanceError, message
from optimkit.rules.base import Rule, Tree, check_rule_type
from optimkit.testing import algebra, faces, finite, form, hyperparameters, transforms
from optimkit.testing.hyperparameters import TOLERANCE
from optimkit.testing.oracle import check_oracle

# In the order in which check_rule runs them: those first whose failure explains the failures of others.
CHECKS: dict[str, Callable[..., None]] = {
    check.__name__: check
    for check in (
        form.check_form_is_kept,
        form.check_slots_are_wide,
        form.check_slot_dtype_is_obeyed,
        form.check_odd_shapes,
        form.check_inputs_are_left_alone,
        form.check_counters_saturate,
        hyperparameters.check_hyperparameters_are_declared,
        hyperparameters.check_hyperparameters_are_validated,
        hyperparameters.check_hyperparameters_may_be_arrays,
        hyperparameters.check_hyperparameters_matter,
        finite.check_finite_on_zero_gradients,
        finite.check_finite_on_tiny_gradients,
        finite.check_finite_on_huge_gradients,
        finite.check_finite_at_the_ends_of_domains,
        transforms.check_deterministic,
        transforms.check_no_leaked_tracer,
        transforms.check_jit_equals_eager,
        transforms.check_vmap_equals_loop,
        transforms.check_scan_equals_loop,
        transforms.check_one_compile,
        transforms.check_donation_is_safe,
        faces.check_stateful_equals_functional,
        faces.check_names_and_order_do_not_matter,
        faces.check_failed_steps_change_nothing,
        faces.check_copies_continue,
        algebra.check_rule_is_a_value,
        algebra.check_chainable_is_true,
        algebra.check_chains_are_a_monoid,
        check_oracle,
    )
}


def check_rule(
    rule: Rule,
    *,
    params: Tree = None,
    oracle: Any = None,
    tolerance: float = TOLERANCE,
    expected_failures: Mapping[str, str] | None = None,
) -> None:
    """Run every check on a rule; the first that fails raises.

    Args:
        rule: the rule, with the hyperparameters to check it at.
        params: a tree of float32 arrays to run it on: names and shapes that the rule can take. A zero vector, a
            scalar and a matrix where None.
        oracle: the algorithm written in float64 NumPy, see :func:`check_oracle`; without one that check is left out.
        tolerance: how far the rule may be from its oracle.
        expected_failures: names of checks that the rule does not pass, each with the reason. Such a check must fail.

    Raises:
        ConformanceError: the rule fails a check, or passes one that it was expected to fail.

    Example:
        >>> from optimkit import rules
        >>> check_rule(rules.SGD())
    """
    check_rule_type("check_rule", rule)
    expected_failures = expected_failures or {}
    unknown = [name for name in expected_failures if name not in CHECKS]
    if unknown:
        raise ConformanceError(message("check_rule", f"there is no check {unknown[0]!r}.", list(CHECKS), unknown[0]))
    for name, check in CHECKS.items():
        if name == "check_oracle" and oracle is None:
            continue
        try:
            check(rule, **options_of(name, params, oracle, tolerance))
        except ConformanceError:
            if name not in expected_failures:
                raise
        else:
            if name in expected_failures:
                raise ConformanceError(message(f"{name}({rule!r})", "the check was expected to fail, and passes.",
                                               f"a failure: {expected_failures[name]}", "none",
                                               "Remove it from expected_failures."))  # fmt: skip


def options_of(name: str, params: Tree, oracle: Any, tolerance: float) -> dict[str, Any]:
    """Return the keyword arguments that a check takes of those that check_rule has."""
    options: dict[str, Any] = {"params": params}
    if name in ("check_oracle", "check_hyperparameters_matter"):
        options["tolerance"] = tolerance
    if name == "check_oracle":
        options["oracle"] = oracle
    return options
