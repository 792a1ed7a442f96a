"""Errors: each is what a user would catch, and all messages have one shape."""

from __future__ import annotations

import inspect
import pickle

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from optimkit import errors
from optimkit.errors import describe, message

CAUGHT_AS = {
    "StructureError": ValueError, "DTypeError": TypeError, "HyperparameterError": ValueError,
    "MissingInputError": TypeError, "CompositionError": TypeError, "VariableError": ValueError,
    "TraceMutationError": RuntimeError, "NestingError": RuntimeError, "ConformanceError": AssertionError,
}  # fmt: skip
ALL = {
    name: x for name, x in vars(errors).items()
    if inspect.isclass(x) and issubclass(x, BaseException) and x is not errors.OptimkitError
    and not issubclass(x, Warning)
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_an_error_is_an_optimkit_error_and_the_builtin_that_a_user_would_catch(name):
    error = ALL[name]
    assert issubclass(error, errors.OptimkitError)
    builtins = [base for base in error.__mro__ if base.__module__ == "builtins" and base is not object]
    assert builtins[0] not in (Exception, BaseException)
    assert issubclass(error, CAUGHT_AS.get(name, builtins[0]))
    assert str(pickle.loads(pickle.dumps(error("f: x.")))) == "f: x."


def test_no_error_was_forgotten():
    assert CAUGHT_AS.keys() <= ALL.keys()


def test_a_warning_is_a_user_warning():
    assert issubclass(errors.ConstantVariableWarning, UserWarning)


def test_a_message_says_where_and_what_then_expected_and_got_then_the_fix():
    assert message("Adam", "'w' does not fit.", "float32[3]", "float32[4]", "Reduce it.") == (
        "Adam: 'w' does not fit.\n  expected float32[3]\n  got      float32[4]\nReduce it."
    )
    assert message("Adam", "it is late.") == "Adam: it is late."
    assert message("Adam", "it is late.", fix="Sleep.") == "Adam: it is late.\nSleep."
    assert message("Adam", "count.", 0, 1) == "Adam: count.\n  expected 0\n  got      1"


@pytest.mark.parametrize(("x", "shown"), [
    (jnp.ones((4, 3)), "float32[4, 3]"), (np.zeros((), np.int8), "int8[]"), (np.float64(2), "float64[]"),
    (jnp.ones(2, jnp.bfloat16), "bfloat16[2]"), (jax.ShapeDtypeStruct((1,), jnp.float32), "float32[1]"),
    (ml_dtypes.bfloat16(1), "bfloat16[]"), ("w", "str 'w'"), (None, "NoneType None"), (0.5, "float 0.5"),
    (jax.random.key(0), "key<fry>[]"), (list(range(1000)), "list [0, 1, 2,"),
], ids=str)  # fmt: skip
def test_a_value_is_described_in_a_word_or_a_short_line(x, shown):
    assert describe(x).startswith(shown)
    assert len(describe(x)) <= 90


def test_a_tracer_is_described_like_its_array():
    seen = []
    jax.jit(lambda x: seen.append(describe(x)))(jnp.ones((2, 1)))
    assert seen == ["float32[2, 1]"]
