"""Schedules are immutable values; what they refuse, and what their errors and docstrings say."""

from __future__ import annotations

import dataclasses
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import schedule as schedules
from optimkit.errors import CompositionError, DTypeError, HyperparameterError
from optimkit.schedule import (
    SGDR,
    Constant,
    Cosine,
    Exponential,
    Interpolated,
    InverseSqrt,
    Join,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    Schedule,
    Warmup,
    WarmupCosine,
    WarmupStableDecay,
)

from .cases import FORMULAS


@pytest.mark.parametrize("name", FORMULAS)
def test_schedule_is_an_immutable_value(name):
    schedule, _ = FORMULAS[name]
    again = eval(repr(schedule), vars(schedules))
    assert again == schedule and hash(again) == hash(schedule)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    field = dataclasses.fields(schedule)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, field, 1)
    assert dataclasses.replace(schedule) == schedule


def test_every_public_schedule_is_among_the_cases():
    public = {getattr(schedules, name) for name in schedules.__all__} - {Schedule}
    assert public == {type(schedule) for schedule, _ in FORMULAS.values()}


def test_fields_become_python_numbers_and_tuples():
    schedule = Linear(np.float32(0.5), jnp.float32(0.25), np.int64(4))
    assert schedule == Linear(0.5, 0.25, 4)
    assert [type(x) for x in dataclasses.astuple(schedule)] == [float, float, int, int]
    assert Piecewise([1, 2], np.array([3])) == Piecewise((1.0, 2.0), (3,))
    assert Interpolated(np.array([1, 2]), [3]) == Interpolated((1.0, 2.0), (3,), "linear")
    assert Join([Constant(1)], []) == Join((Constant(1.0),), ())


@pytest.mark.parametrize(
    ("make", "error", "texts"),
    [
        (lambda: Linear(1, 0, 1e5), HyperparameterError, ["Linear: 'steps'", "100000.0", "Give steps=100000."]),
        (lambda: Linear(1, 0, 0), HyperparameterError, ["'steps'", "int [1, ", "got      0", "number of steps from"]),
        (lambda: Linear(1, 0, 2.5), HyperparameterError, ["'steps'", "2.5"]),
        (lambda: Linear(1, 0, 2**31), HyperparameterError, ["'steps'", "2147483648"]),
        (lambda: Linear(1, 0, 5, begin=-1), HyperparameterError, ["'begin'", "-1"]),
        (lambda: Linear(math.nan, 0, 5), HyperparameterError, ["'start'", "nan"]),
        (lambda: Linear(0, math.inf, 5), HyperparameterError, ["'end'", "got      inf"]),
        (lambda: Linear(0, 1e31, 5), HyperparameterError, ["'end'", "1e+31"]),
        (lambda: Linear(True, 0, 5), HyperparameterError, ["'start'", "True"]),
        (lambda: Linear(None, 0, 5), HyperparameterError, ["'start'", "None"]),
        (lambda: Cosine("0.1", 5), HyperparameterError, ["Cosine: 'peak'", "'0.1'"]),
        (lambda: Constant(np.ones(3)), HyperparameterError, ["Constant: 'value'", "array([1., 1., 1.])"]),
        (lambda: Polynomial(1, 0, 5, power=0), HyperparameterError, ["'power'", "(0, 1e30]"]),
        (lambda: Exponential(1, 0, 5), HyperparameterError, ["'rate'", "[1e-30, 1e30]", "factor"]),
        (lambda: Exponential(1, 0.5, 5, staircase=1), HyperparameterError, ["'staircase'", "True or False", "1"]),
        (lambda: Exponential(1, 0.5, 5, floor=2), HyperparameterError, ["'floor'", "above 'start'", "2.0"]),
        (lambda: InverseSqrt(1, 0), HyperparameterError, ["'warmup_steps'", "0"]),
        (
            lambda: WarmupCosine(1, 9, 9),
            HyperparameterError,
            ["'warmup_steps'", "< 9", "includes", "steps=9 +"],
        ),
        (lambda: Warmup(Constant(1), -1), HyperparameterError, ["Warmup: 'steps'", "-1"]),
        (lambda: Warmup(0.1, 5), CompositionError, ["Warmup: 'schedule'", "Constant(0.1)"]),
        (lambda: Join([Constant(1), None], [3]), CompositionError, ["Join: 'schedules[1]'", "None"]),
        (
            lambda: Join([Constant(1)] * 3, [3]),
            HyperparameterError,
            ["2 for 3 schedules", "got      1"],
        ),
        (lambda: Join([Constant(1)] * 3, [5, 5]), HyperparameterError, ["do not increase", "(5, 5)"]),
        (lambda: Piecewise([1, 2], [0]), HyperparameterError, ["'boundaries[0]'", "got      0"]),
        (lambda: Piecewise([1, "2"], [3]), HyperparameterError, ["'values[1]'", "'2'"]),
        (lambda: Piecewise([1, 2], 3), HyperparameterError, ["'boundaries'", "each int [1, ", "got      3"]),
        (lambda: Piecewise([], []), HyperparameterError, ["'boundaries'", "values"]),
        (lambda: Interpolated([1, 2], [0]), HyperparameterError, ["Interpolated: 'boundaries[0]'", "got      0"]),
        (
            lambda: Interpolated([1, 2], [3], "cubic"),
            HyperparameterError,
            ["'shape'", "'linear' or 'cosine'", "'cubic'"],
        ),
        (lambda: Interpolated([1, 2], [3], None), HyperparameterError, ["'shape'", "got      None"]),
        (
            lambda: Interpolated([1], [3]),
            HyperparameterError,
            ["Interpolated: the number of 'boundaries'", "0 for 1 values"],
        ),
        (lambda: OneCycle(1, 10, rise=1.0), HyperparameterError, ["OneCycle: 'rise'", "(0, 1)", "1.0"]),
        (lambda: OneCycle(1, 10, rise=0.6, fall=0.4), HyperparameterError, ["no part", "rise + fall < 1", "0.6 + 0.4"]),
        (lambda: OneCycle(1, 1), HyperparameterError, ["'steps' is too small", "2 phases", "steps=1", "[0, 1]"]),
        (lambda: OneCycle(1, 10, fall=0.69), HyperparameterError, ["3 phases", "steps=10", "[3, 10, 10]"]),
        (lambda: OneCycle(1, 10, final_divisor=0.5), HyperparameterError, ["'final_divisor'", "[1, 1e30]", "0.5"]),
        (lambda: OneCycle(1, 10, shape="1-sqrt"), HyperparameterError, ["'shape'", "'linear' or 'cosine'"]),
        (lambda: SGDR(1, 0), HyperparameterError, ["SGDR: 'period'", "got      0"]),
        (lambda: SGDR(1, 5, 1.5), HyperparameterError, ["'period_factor'", "int [1, ", "1.5"]),
        (lambda: SGDR(1, 5, 2.0), HyperparameterError, ["'period_factor'", "Give period_factor=2."]),
        (lambda: SGDR(1, 5, peak_factor=1.1), HyperparameterError, ["'peak_factor'", "[1e-30, 1]", "1.1"]),
        (
            lambda: WarmupStableDecay(1, 6, 9, 4),
            HyperparameterError,
            ["'warmup_steps' and 'decay_steps'", "at most 9", "6 + 4", "steps=10 +"],
        ),
        (
            lambda: WarmupStableDecay(1, 2, 9, 4, "exponential"),
            HyperparameterError,
            ["'shape'", "'linear' or 'cosine' or '1-sqrt'", "the way from 'peak' to 'final'"],
        ),
        (
            lambda: jax.jit(lambda x: Constant(x)(0))(1.0),
            HyperparameterError,
            ["traced", "value * schedule"],
        ),
        (lambda: Constant(1)("3"), DTypeError, ["Constant: the step is not a real number", "str '3'"]),
        (lambda: Constant(1)(None), DTypeError, ["NoneType None"]),
        (lambda: Constant(1)(True), DTypeError, ["bool True"]),
        (lambda: Constant(1)(np.array([True])), DTypeError, ["bool[1]"]),
        (lambda: Constant(1)(jnp.complex64(1)), DTypeError, ["complex64[]"]),
        (lambda: Constant(1)(math.nan), HyperparameterError, ["the step is NaN"]),
        (lambda: Constant(1)(np.array([1.0, math.nan])), HyperparameterError, ["the step is NaN"]),
    ],
)
def test_error_names_the_field_the_value_and_the_fix(make, error, texts):
    with pytest.raises(error) as caught:
        make()
    for text in texts:
        assert text in str(caught.value)


def test_subclass_without_a_formula_says_what_is_missing():
    class Unfinished(Schedule):
        pass

    with pytest.raises(NotImplementedError, match=r"Unfinished .* value_at\(step, xp\)"):
        Unfinished()(0)


def test_docstring_lists_each_field_with_its_range():
    assert "steps: the number of steps from 'peak' to 'final'; int [1, 2147483647]" in Cosine.__doc__
    assert "final: " in Cosine.__doc__ and "[-1e30, 1e30], 0.0 by default" in Cosine.__doc__
    assert "the way from 'peak' to 'final'; 'linear' or 'cosine' or '1-sqrt', 'linear' by default" in (
        WarmupStableDecay.__doc__
    )
    assert "None: no such part; (0, 1), None by default" in OneCycle.__doc__
