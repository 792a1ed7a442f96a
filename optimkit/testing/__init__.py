"""Checks that prove an optimizer, ours or yours.

:func:`check_rule` runs all of them; each can be called alone, ``check_<claim>(rule)``, and raises a ConformanceError
that names the rule, the check, and the step, parameter or hyperparameter that is wrong::

    from optimkit.testing import check_rule

    def test_my_rule_conforms():
        check_rule(MyRule(0.9), oracle=my_rule_in_numpy)

:mod:`~optimkit.testing.strategies` has hypothesis strategies; hypothesis is imported only when one is used.
"""

from optimkit.errors import ConformanceError as ConformanceError
from optimkit.testing.algebra import check_chainable_is_true as check_chainable_is_true
from optimkit.testing.algebra import check_chains_are_a_monoid as check_chains_are_a_monoid
from optimkit.testing.algebra import check_rule_is_a_value as check_rule_is_a_value
from optimkit.testing.faces import check_copies_continue as check_copies_continue
from optimkit.testing.faces import check_failed_steps_change_nothing as check_failed_steps_change_nothing
from optimkit.testing.faces import check_names_and_order_do_not_matter as check_names_and_order_do_not_matter
from optimkit.testing.faces import check_stateful_equals_functional as check_stateful_equals_functional
from optimkit.testing.finite import check_finite_at_the_ends_of_domains as check_finite_at_the_ends_of_domains
from optimkit.testing.finite import check_finite_on_huge_gradients as check_finite_on_huge_gradients
from optimkit.testing.finite import check_finite_on_tiny_gradients as check_finite_on_tiny_gradients
from optimkit.testing.finite import check_finite_on_zero_gradients as check_finite_on_zero_gradients
from optimkit.testing.form import check_counters_saturate as check_counters_saturate
from optimkit.testing.form import check_form_is_kept as check_form_is_kept
from optimkit.testing.form import check_inputs_are_left_alone as check_inputs_are_left_alone
from optimkit.testing.form import check_odd_shapes as check_odd_shapes
from optimkit.testing.form import check_slot_dtype_is_obeyed as check_slot_dtype_is_obeyed
from optimkit.testing.form import check_slots_are_wide as check_slots_are_wide
from optimkit.testing.hyperparameters import check_hyperparameters_are_declared as check_hyperparameters_are_declared
from optimkit.testing.hyperparameters import check_hyperparameters_are_validated as check_hyperparameters_are_validated
from optimkit.testing.hyperparameters import check_hyperparameters_matter as check_hyperparameters_matter
from optimkit.testing.hyperparameters import check_hyperparameters_may_be_arrays as check_hyperparameters_may_be_arrays
from optimkit.testing.oracle import check_oracle as check_oracle
from optimkit.testing.suite import CHECKS as CHECKS
from optimkit.testing.suite import check_rule as check_rule
from optimkit.testing.transforms import check_deterministic as check_deterministic
from optimkit.testing.transforms import check_donation_is_safe as check_donation_is_safe
from optimkit.testing.transforms import check_jit_equals_eager as check_jit_equals_eager
from optimkit.testing.transforms import check_no_leaked_tracer as check_no_leaked_tracer
from optimkit.testing.transforms import check_one_compile as check_one_compile
from optimkit.testing.transforms import check_scan_equals_loop as check_scan_equals_loop
from optimkit.testing.transforms import check_vmap_equals_loop as check_vmap_equals_loop
