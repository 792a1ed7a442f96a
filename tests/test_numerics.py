"""Arithmetic at its edges: against float64 and exact formulas, with derivatives, and compiled."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from optimkit import numerics
from optimkit.tree import global_norm, names_and_leaves

EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)
MAX = float(np.finfo(np.float32).max)


# --- dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "wanted"), [
    ("float16", "float32"), (jnp.bfloat16, "float32"), ("float32", "float32"), (np.float64, "float64"),
    (jnp.float8_e4m3fn, "float32"), (np.dtype("int32"), "float32"), (bool, "float32"),
])  # fmt: skip
def test_arithmetic_is_done_in_float32_unless_it_is_float64(dtype, wanted):
    assert numerics.compute_dtype(dtype) == wanted


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("x", [1.5, 2, np.float32(1.5), np.ones(2), jnp.asarray(1.5), jnp.ones(2, jnp.bfloat16)],
                         ids=repr)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_cast_gives_exactly_the_dtype_and_never_a_weak_type(x, dtype, compiled):
    f = lambda: numerics.cast(x, np.dtype(dtype))  # noqa: E731
    y = (jax.jit(f) if compiled else f)()
    assert (y.dtype, y.weak_type, y.shape) == (dtype, False, np.shape(x))
    np.testing.assert_array_equal(y, np.asarray(x).astype(dtype))


def test_cast_is_free_where_there_is_nothing_to_do():
    x = jnp.ones(3)
    assert numerics.cast(x, jnp.float32) is x
    assert numerics.cast(x, "float32") is x
    weak = jnp.asarray(1.0)
    assert numerics.cast(weak, jnp.float32) is not weak


@pytest.mark.parametrize("t", [0, 1, 2**31 - 3, 2**31 - 2, 2**31 - 1])
def test_a_counter_stops_at_its_largest_value(t):
    up = jax.jit(numerics.count_up)(jnp.int32(t))
    assert (int(up), up.dtype, up.weak_type) == (min(t + 1, 2**31 - 1), jnp.int32, False)


# --- 1 - beta**t ------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 10**7))
@example(0.0, 1)
@example(0.999, 1)
@example(1 - 2**-24, 1)
@example(5e-324, 10**7)
def test_one_minus_a_power_is_right_to_rounding(beta, t):
    t = np.float32(t)
    # Of Python numbers the logarithm is taken in float64. In float32 its rounding (and that of the product with t)
    # moves expm1's argument a by 2 eps, relative, and 1 - exp(-a) by at most as much: a / (exp(a) - 1) <= 1.
    wanted = -math.expm1(float(t) * math.log(beta)) if beta else 1.0
    got = numerics.one_minus_pow(beta, jnp.float32(t))
    np.testing.assert_allclose(float(got), wanted, rtol=6 * EPS, atol=TINY)
    assert got.dtype == jnp.float32


@given(st.floats(0, 1, exclude_max=True, width=32), st.integers(1, 10**6))
def test_one_minus_a_power_of_an_array_is_right_to_rounding_too(beta, t):
    beta = 0.0 if beta < TINY else beta
    wanted = -math.expm1(t * math.log(beta)) if beta else 1.0
    np.testing.assert_allclose(float(numerics.one_minus_pow(jnp.float32(beta), jnp.float32(t))), wanted, rtol=8 * EPS)


def test_the_obvious_form_would_not_do():
    obvious = 1 - jnp.float32(0.999) ** 1
    assert abs(float(obvious) / 0.001 - 1) > 1e-5
    assert abs(float(numerics.one_minus_pow(0.999, jnp.float32(1))) / 0.001 - 1) < 3 * EPS


def test_one_minus_a_power_has_the_derivative_of_its_formula():
    slope = jax.grad(lambda beta: numerics.one_minus_pow(beta, 3.0))(jnp.float32(0.9))
    np.testing.assert_allclose(float(slope), -3 * 0.9**2, rtol=1e-5)


# --- quotients --------------------------------------------------------------------------------------------------------

NUMBERS = st.floats(-(2.0**40), 2.0**40, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-40)


@given(NUMBERS, NUMBERS, NUMBERS)
@example(0.0, 0.0, 0.0)
@example(1.0, 0.0, 2.0)
@example(0.0, -0.0, 1.0)
def test_safe_divide_is_the_quotient_or_the_other_value_and_has_finite_derivatives(x, y, otherwise):
    got = float(numerics.safe_divide(jnp.float32(x), jnp.float32(y), otherwise))
    np.testing.assert_allclose(got, np.float32(otherwise) if y == 0 else x / y, rtol=2 * EPS)
    dx, dy = jax.grad(numerics.safe_divide, (0, 1))(jnp.float32(x), jnp.float32(y), otherwise)
    wanted = (0, 0) if y == 0 else (1 / y, -x / y**2)
    np.testing.assert_allclose([dx, dy], wanted, rtol=8 * EPS, atol=TINY)


def test_safe_divide_chooses_element_by_element():
    got = numerics.safe_divide(jnp.array([1.0, 0.0, 3.0]), jnp.array([2.0, 0.0, 0.0]), 7.0)
    assert got.tolist() == [0.5, 7.0, 7.0]


@given(st.floats(0, MAX, width=32))
def test_safe_sqrt_is_the_root_with_derivative_zero_at_zero(x):
    x = 0.0 if x < TINY else x
    value, slope = jax.value_and_grad(numerics.safe_sqrt)(jnp.float32(x))
    np.testing.assert_allclose(float(value), math.sqrt(x), rtol=2 * EPS)
    np.testing.assert_allclose(float(slope), 0.5 / math.sqrt(x) if x else 0.0, rtol=4 * EPS)


# --- norms ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8), st.integers(-100, 120))
def test_the_norm_is_right_at_every_scale(values, exponent):
    x = np.array(values, np.float32) * np.float32(2.0**exponent)
    x[np.abs(x) < TINY] = 0.0
    wanted = math.sqrt(math.fsum(float(a) ** 2 for a in x))
    np.testing.assert_allclose(float(numerics.norm(jnp.asarray(x))), wanted, rtol=(len(x) + 4) * EPS)


def test_the_norm_is_over_all_arrays_of_any_shape_and_dtype():
    arrays = [jnp.array([[3.0]]), jnp.bfloat16(4.0), jnp.zeros((0, 3)), jnp.full((2, 2), 6.0, jnp.float16)]
    assert float(numerics.norm(*arrays)) == 13.0
    assert numerics.norm(*arrays).dtype == jnp.float32
    with jax.enable_x64(True):
        assert numerics.norm(jnp.float64(3), jnp.float32(4)).dtype == jnp.float64


@pytest.mark.parametrize(("array", "wanted"), [
    (jnp.full(4, 60000.0, jnp.float16), 120000.0), (jnp.full(4, 6e-8, jnp.float16), 2 * float(np.float16(6e-8))),
    (jnp.full(4, 1e38), 2e38), (jnp.full(4, 2e-38), 4e-38), (jnp.array([math.inf, 1.0]), math.inf),
    (jnp.array([-math.inf, math.inf]), math.inf), (jnp.array([math.nan, 1.0]), math.nan),
    (jnp.array([math.nan, math.inf]), math.nan), (jnp.zeros(3), 0.0), (jnp.zeros((0, 3)), 0.0), (jnp.zeros(()), 0.0),
    (jnp.full(4, 1e38) * 3, math.inf),
], ids=str)  # fmt: skip
def test_the_norm_at_its_edges(array, wanted):
    got = jax.jit(numerics.norm)(array)
    np.testing.assert_allclose(float(got), wanted, rtol=8 * EPS)
    assert got.shape == ()


def test_the_norm_of_nothing_is_zero():
    assert float(numerics.norm()) == 0.0


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_the_norm_has_the_unit_vector_as_its_derivative_and_zero_at_zero(scale):
    gradient = jax.grad(lambda x: numerics.norm(x))
    np.testing.assert_allclose(gradient(jnp.array([3.0, -4.0, 0.0]) * scale), [0.6, -0.8, 0.0], rtol=8 * EPS)
    assert gradient(jnp.zeros(3)).tolist() == [0.0, 0.0, 0.0]


# --- trees ------------------------------------------------------------------------------------------------------------


def test_leaves_have_their_path_as_name():
    tree = {"conv": {"w": 1.0, "b": 2.0}, "list": [3.0, (4.0,)], "(Net).w[0]": 5.0}
    names, leaves, structure = names_and_leaves(tree)
    assert dict(zip(names, leaves, strict=True)) == {
        "conv.w": 1.0, "conv.b": 2.0, "list.0": 3.0, "list.1.0": 4.0, "(Net).w[0]": 5.0,
    }  # fmt: skip
    assert jax.tree.unflatten(structure, leaves) == tree
    assert names_and_leaves(1.0)[0] == [""]


def test_the_norm_of_a_tree_is_that_of_its_leaves():
    assert float(global_norm({"a": jnp.array([3.0]), "b": [jnp.array([[4.0]])]})) == 5.0
    assert float(global_norm({})) == 0.0
