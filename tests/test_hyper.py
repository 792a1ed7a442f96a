"""Hyperparameters: what lies in a domain, and what is said where it does not."""

from __future__ import annotations

import dataclasses
import math
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimkit.errors import HyperparameterError
from optimkit.hyper import check_hyperparameter, check_lr, contains, hyper, hyperparameters, parse_interval

KINDS = [float, np.float32, np.float64, jnp.float32, lambda x: np.array([x, x], np.float32), lambda x: np.array(x)]


@given(st.sampled_from("[("), st.sampled_from("])"), st.integers(-4, 4), st.integers(0, 4), st.integers(-6, 6))
def test_an_interval_contains_what_lies_between_its_ends_and_those_that_are_square(left, right, low, width, twice):
    value, high = twice / 2, low + width
    wanted = (low <= value if left == "[" else low < value) and (value <= high if right == "]" else value < high)
    for kind in KINDS:
        assert contains(f"{left}{low}, {high}{right}", kind(value)) is wanted
    if value.is_integer():
        assert contains(f"int {left}{low}, {high}{right}", int(value)) is wanted


@pytest.mark.parametrize("value", [math.nan, np.float32("nan"), jnp.nan, np.array([0.5, np.nan]), True, np.array(True),
                                   "0.5", None, 0.5j, Decimal("0.5"), [0.5], jnp.complex64(0.5)], ids=repr)  # fmt: skip
def test_what_is_no_number_lies_in_no_interval(value):
    assert not contains("[0, 1]", value)
    assert not contains("(-inf, inf)", value)


@pytest.mark.parametrize("value", [2.5, 2.0, Fraction(5, 2), np.float32(2), np.array([1, 2.0]), jnp.float32(2), True],
                         ids=repr)  # fmt: skip
def test_only_integers_lie_in_an_interval_of_integers(value):
    assert not contains("int [0, inf)", value)


@pytest.mark.parametrize("value", [0, 7, np.int64(7), np.array([1, 2]), jnp.int32(7), 2**62], ids=repr)
def test_all_kinds_of_integers_do(value):
    assert contains("int [0, inf)", value)
    assert contains("[0, inf)", value)


def test_infinity_is_inside_only_where_the_end_is_square():
    assert not contains("[0, inf)", math.inf)
    assert contains("[0, inf]", math.inf)
    assert parse_interval("int (1, inf]") == (1.0, math.inf, int)
    assert parse_interval("[-1e-3, 2.5)") == (-0.001, 2.5, float)


@dataclasses.dataclass(frozen=True)
class Rule:
    plain: int = 3
    beta: float = hyper(0.9, "[0, 1)", "decay")
    steps: int | None = hyper(None, "int [1, inf)", "steps", kw_only=True)
    nesterov: bool = hyper(False, bool, "look ahead")
    mode: str = hyper("l2", ("l2", "l1", 1), "norm")


def test_a_declaration_is_a_field_with_its_default_domain_and_meaning():
    assert list(hyperparameters(Rule)) == list(hyperparameters(Rule())) == ["beta", "steps", "nesterov", "mode"]
    assert Rule(4, 0.5).beta == 0.5
    assert hyperparameters(Rule)["beta"].metadata == {"domain": "[0, 1)", "doc": "decay"}
    with pytest.raises(TypeError):
        Rule(4, 0.5, 3, True, "l1")  # steps is by keyword only


CASES = [
    ("[0, 1)", 1.0, r"\[0, 1\)", "1.0"), ("[0, 1)", math.nan, r"\[0, 1\)", "nan"), ("[0, 1)", "x", r"\[0, 1\)", "'x'"),
    ("[0, 1)", None, r"\[0, 1\)", "None"), ("int [1, inf)", 0, r"int \[1, inf\)", "0"),
    ("int [1, inf)", 1.5, r"int \[1, inf\)", "1.5"), (bool, 1, "True or False", "1"), (bool, "yes", "True or", "'yes'"),
    (("l2", "l1"), "l3", "one of 'l2', 'l1'", "'l3'"), (("l2", 1), True, "one of 'l2', 1", "True"),
    (("l2", "l1"), np.array(["l2", "l1"]), "one of", r"array\("), ((1, 2), jnp.array([1, 2]), "one of", r"Array\("),
]  # fmt: skip


@pytest.mark.parametrize(("domain", "value", "expected", "got"), CASES, ids=repr)
def test_a_value_outside_its_domain_is_refused_with_name_domain_and_value(domain, value, expected, got):
    match = rf"(?s)^Adam: hyperparameter 'beta1' is out of range\.\n  expected {expected}.*\n  got      {got}"
    with pytest.raises(HyperparameterError, match=match):
        check_hyperparameter("Adam", "beta1", value, domain)


@pytest.mark.parametrize(("domain", "value"), [
    ("[0, 1)", 0), ("[0, 1)", jnp.zeros(3)), ("int [1, inf)", np.int32(1)), (bool, False), (("l2", 1), 1),
    (("l2",), "l2"),
])  # fmt: skip
def test_a_value_inside_its_domain_passes(domain, value):
    assert check_hyperparameter("Adam", "beta1", value, domain) is None


def test_none_passes_only_where_it_is_the_default():
    assert check_hyperparameter("Adam", "steps", None, "int [1, inf)", optional=True) is None
    with pytest.raises(HyperparameterError, match=r"int \[1, inf\) or None"):
        check_hyperparameter("Adam", "steps", 0, "int [1, inf)", optional=True)


def test_what_is_not_known_yet_passes():
    def f(beta):
        check_hyperparameter("Adam", "beta", beta, "[0, 1)")
        check_lr("SGD", beta)
        return beta

    assert float(jax.jit(f)(7.0)) == 7.0
    assert jax.vmap(f)(jnp.array([-1.0])).tolist() == [-1.0]


LRS = [0, 0.1, 3, np.float32(0.1), np.array(0.1), jnp.float32(0.1), jnp.asarray(0.1), jnp.bfloat16(0.5), np.int32(1),
       Fraction(1, 3)]  # fmt: skip


@pytest.mark.parametrize("lr", LRS, ids=repr)
def test_a_learning_rate_may_be_any_real_scalar(lr):
    assert check_lr("SGD", lr) is None


WRONG = [
    (-0.1, "out of range", "-0.1"), (math.nan, "out of range", "nan"), (math.inf, "out of range", "inf"),
    (np.float32(-1), "out of range", "-1.0"), (jnp.float32(jnp.nan), "out of range", "nan"),
    (True, "not a number", "bool True"), ("0.1", "not a number", "str '0.1'"), (None, "not a number", "NoneType None"),
    ([0.1], "not a number", r"list \[0.1\]"), (0.1j, "not a number", "complex 0.1j"),
    (np.array([0.1]), "not a scalar", r"shape \[1\]"), (jnp.ones((2, 3)), "not a scalar", r"shape \[2, 3\]"),
    (np.bool_(True), "not a real number", "bool"), (jnp.complex64(1), "not a real number", "complex64"),
    (jax.random.key(0), "not a real number", "key<fry>"),
]  # fmt: skip


@pytest.mark.parametrize(("lr", "problem", "got"), WRONG, ids=repr)
def test_a_learning_rate_that_is_none_is_refused_with_what_it_is(lr, problem, got):
    match = rf"(?s)^SGD: the learning rate is {problem}\.\n  expected a finite scalar >= 0\n  got      .*{got}"
    with pytest.raises(HyperparameterError, match=match):
        check_lr("SGD", lr)


def test_a_traced_learning_rate_must_still_be_a_real_scalar():
    for x, problem in ((jnp.ones(1), "not a scalar"), (jnp.bool_(True), "not a real number")):
        with pytest.raises(HyperparameterError, match=problem):
            jax.jit(lambda lr: check_lr("SGD", lr))(x)
    with pytest.raises(HyperparameterError, match="groups"):
        check_lr("SGD", jnp.ones(2))
