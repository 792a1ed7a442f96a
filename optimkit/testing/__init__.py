"""Checks that prove an optimizer, ours or yours.

:func:`check_optimizer` runs all of them on a rule, on a stateful class, on an object of optax's form, or on a pair of
functions, and reports; each can be called alone, ``check_<claim>(optimizer)``, and raises a ConformanceError that names
the optimizer, the check, and the step, parameter or hyperparameter that is wrong::

    from optimkit.testing import check_optimizer, parametrize_with_checks

    def test_my_rule_conforms():
        check_optimizer(MyRule(0.9), oracle=my_rule_in_numpy)

    @parametrize_with_checks([MyRule(0.9), optax.adam(1e-3)])  # or a test for each check
    def test_conforms(optimizer, check):
        check(optimizer)

``python -m optimkit.testing module:Name`` does it from a shell. :mod:`~optimkit.testing.strategies` has strategies of
hypothesis for parameters, gradients, hyperparameters and schedules; hypothesis (the extra ``check``) is imported only
when one is used, and without it the checks of properties are left out.
"""

from optimkit.errors import ConformanceError as ConformanceError
from optimkit.testing.algebra import check_chainable_is_true as check_chainable_is_true
from optimkit.testing.algebra import check_chains_are_a_monoid as check_chains_are_a_monoid
from optimkit.testing.algebra import check_rule_is_a_value as check_rule_is_a_value
from optimkit.testing.check import NotApplicable as NotApplicable
from optimkit.testing.faces import check_copies_continue as check_copies_continue
from optimkit.testing.faces import check_failed_steps_change_nothing as check_failed_steps_change_nothing
from optimkit.testing.faces import check_names_and_order_do_not_matter as check_names_and_order_do_not_matter
from optimkit.testing.faces import check_saved_states_continue as check_saved_states_continue
from optimkit.testing.faces import check_stateful_equals_functional as check_stateful_equals_functional
from optimkit.testing.finite import check_finite_at_other_hyperparameters as check_finite_at_other_hyperparameters
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
from optimkit.testing.form import check_state_is_alive as check_state_is_alive
from optimkit.testing.hyperparameters import check_hyperparameters_are_declared as check_hyperparameters_are_declared
from optimkit.testing.hyperparameters import check_hyperparameters_are_validated as check_hyperparameters_are_validated
from optimkit.testing.hyperparameters import check_hyperparameters_matter as check_hyperparameters_matter
from optimkit.testing.hyperparameters import check_hyperparameters_may_be_arrays as check_hyperparameters_may_be_arrays
from optimkit.testing.imperative import check_it_compiles_once as check_it_compiles_once
from optimkit.testing.imperative import check_memory_is_in_variables as check_memory_is_in_variables
from optimkit.testing.imperative import check_refused_steps_change_nothing as check_refused_steps_change_nothing
from optimkit.testing.inputs import check_eval_params as check_eval_params
from optimkit.testing.inputs import check_extra_inputs_are_forwarded as check_extra_inputs_are_forwarded
from optimkit.testing.inputs import check_inputs_may_be_numbers as check_inputs_may_be_numbers
from optimkit.testing.inputs import check_keys_matter as check_keys_matter
from optimkit.testing.inputs import check_learning_rates_of_every_kind as check_learning_rates_of_every_kind
from optimkit.testing.inputs import check_numpy_inputs as check_numpy_inputs
from optimkit.testing.inputs import check_shared_weights as check_shared_weights
from optimkit.testing.oracle import check_oracle as check_oracle
from optimkit.testing.oracle import check_oracle_elsewhere as check_oracle_elsewhere
from optimkit.testing.parametrize import parametrize_with_checks as parametrize_with_checks
from optimkit.testing.placement import (
    check_explicit_sharding_equals_unsharded as check_explicit_sharding_equals_unsharded,
)
from optimkit.testing.placement import check_sharded_equals_unsharded as check_sharded_equals_unsharded
from optimkit.testing.precision import check_low_precision_follows_float32 as check_low_precision_follows_float32
from optimkit.testing.programs import check_64_bit_mode_changes_nothing as check_64_bit_mode_changes_nothing
from optimkit.testing.programs import check_compiles_ahead_of_time as check_compiles_ahead_of_time
from optimkit.testing.programs import check_control_flow_equals_loop as check_control_flow_equals_loop
from optimkit.testing.programs import check_derivative_in_lr as check_derivative_in_lr
from optimkit.testing.programs import check_float64_is_used as check_float64_is_used
from optimkit.testing.programs import check_population_of_learning_rates as check_population_of_learning_rates
from optimkit.testing.properties import check_any_hyperparameters as check_any_hyperparameters
from optimkit.testing.properties import check_any_parameters_and_gradients as check_any_parameters_and_gradients
from optimkit.testing.properties import (
    check_jit_equals_eager_on_any_gradients as check_jit_equals_eager_on_any_gradients,
)
from optimkit.testing.refusals import check_integer_parameters_are_refused as check_integer_parameters_are_refused
from optimkit.testing.refusals import check_misshaped_gradients_are_refused as check_misshaped_gradients_are_refused
from optimkit.testing.refusals import check_missing_gradients_are_refused as check_missing_gradients_are_refused
from optimkit.testing.report import Report as Report
from optimkit.testing.report import Result as Result
from optimkit.testing.subjects import subject as subject
from optimkit.testing.suite import CHECKS as CHECKS
from optimkit.testing.suite import check_optimizer as check_optimizer
from optimkit.testing.suite import check_rule as check_rule
from optimkit.testing.transforms import check_deterministic as check_deterministic
from optimkit.testing.transforms import check_donation_is_safe as check_donation_is_safe
from optimkit.testing.transforms import check_jit_equals_eager as check_jit_equals_eager
from optimkit.testing.transforms import check_no_leaked_tracer as check_no_leaked_tracer
from optimkit.testing.transforms import check_one_compile as check_one_compile
from optimkit.testing.transforms import check_scan_equals_loop as check_scan_equals_loop
from optimkit.testing.transforms import check_state_has_memory_of_its_own as check_state_has_memory_of_its_own
from optimkit.testing.transforms import check_vmap_equals_loop as check_vmap_equals_loop
