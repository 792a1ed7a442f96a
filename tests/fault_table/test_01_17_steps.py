"""Rows 1 to 17 of the fault table: gradients that do not fit, numbers that are not finite, learning rates.

The docstring of a row is what docs/reference/faults.md says of it: the case, a colon, and what happens.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, StateVar, TrainVar, VarCollection, optimizer, rules, schedule
from optimkit.errors import (
    DTypeError,
    HyperparameterError,
    NonFiniteError,
    StructureError,
)
from optimkit.optimizer import Optimizer
from tests.shell import Counted, bits, two_grads, two_params, unchanged


def refuses(error, builtin, says, call, *collections):
    """Require that a call raises one of our errors, which is a builtin's too, names the place, and changes nothing."""
    with unchanged(*collections), pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, builtin)
    for text in says:
        assert text in str(caught.value), str(caught.value)


def bound(rule=None, **options):
    vc = two_params()
    opt = Optimizer(vc, rule or rules.Adam(), **options)
    opt(0.1, two_grads())
    return vc, opt


def refused_grads(grads, error, builtin, *says):
    vc, opt = bound()
    everything = vc + opt.vars()
    refuses(error, builtin, says, lambda: opt(0.1, grads), everything)
    refuses(error, builtin, says, lambda: Jit(lambda: opt(0.1, grads), everything)(), everything)


def test_row_01():
    """Fewer or more gradients than variables: ``StructureError`` (a ``ValueError``) with counts and names."""
    w, b = two_grads()
    refused_grads([w], StructureError, ValueError, "2 gradients, for 'w', 'b'", "got      1")
    refused_grads([w, b, b], StructureError, ValueError, "got      3")
    refused_grads({"w": w}, StructureError, ValueError, "Missing: ['b']")
    refused_grads({"w": w, "b": b, "c": b}, StructureError, ValueError, "Unknown: ['c']")


def test_row_02():
    """A gradient of another shape that could be broadcast: ``StructureError``; nothing broadcasts."""
    w, b = two_grads()
    for g in (jnp.ones((4, 3)), jnp.ones(1), jnp.float32(1.0)):
        refused_grads([g, b], StructureError, ValueError, "'w'", "float32[3]")
    refused_grads([w, jnp.ones(1)], StructureError, ValueError, "'b'", "float32[]")


def test_row_03():
    """A gradient of another shape that cannot be broadcast: ``StructureError`` that names the variable."""
    refused_grads([jnp.ones(5), two_grads()[1]], StructureError, ValueError, "'w'", "float32[5]")


def test_row_04():
    """A gradient of another floating dtype: it is computed with in the dtype of the arithmetic, float32 or wider, and
    the parameter keeps its own; a gradient of whole numbers is a ``DTypeError``."""
    for held, given in (("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "bfloat16")):
        v = TrainVar(jnp.ones(3, held))
        opt = optimizer.Adam(VarCollection({"w": v}))
        opt(0.1, [jnp.full(3, 0.5, given)])
        assert v.dtype == held and opt.state["w"].mu.dtype == jnp.float32
        np.testing.assert_allclose(np.float32(v.value), 0.9, rtol=2.0**-8)
    refused_grads([jnp.ones(3, jnp.int32), two_grads()[1]], DTypeError, TypeError, "'w'")


def test_row_05():
    """A gradient that is None: ``StructureError``; with ``missing="skip"`` the variable and its state stay as they are
    to the last bit, and the others step."""
    w, b = two_grads()
    refused_grads([None, b], StructureError, ValueError, "the gradient of 'w' is None")
    for compiled in (False, True):
        vc, opt = bound()
        everything = vc + opt.vars()
        call = lambda opt=opt: opt(0.1, [None, b], missing="skip")  # noqa: E731
        before = bits(everything)
        Jit(call, everything)() if compiled else call()
        after = bits(everything)
        changed = {name for name in after if after[name] != before[name]}
        assert not any(re.search(r"\bw\b", name) for name in changed)
        assert {"b", "(Optimizer)[b].mu", "(Optimizer)[b].nu", "(Optimizer).t"} <= changed
        with unchanged(VarCollection({"w": vc["w"]})):
            opt(0.1, {"b": b}, missing="skip")
        refuses(HyperparameterError, ValueError, ["'error' or 'skip'"],
                lambda opt=opt: opt(0.1, [w, b], missing="ignore"), everything)  # fmt: skip


def test_row_06():
    """No gradient at all, or nothing to train: ``StructureError``, at the step or at construction."""
    refused_grads([None, None], StructureError, ValueError, "None")
    vc, opt = bound()
    refuses(StructureError, ValueError, ["no variable has a gradient"],
            lambda: opt(0.1, [None, None], missing="skip"), vc + opt.vars())  # fmt: skip
    for empty in (VarCollection(), VarCollection({"count": StateVar(jnp.int32(0))})):
        refuses(StructureError, ValueError, ["nothing to optimize"], lambda empty=empty: optimizer.SGD(empty), empty)


def test_row_07():
    """Gradients that are not finite, without a guard: they reach the parameters, as IEEE arithmetic has it, and
    ``opt.check_finite()`` raises ``NonFiniteError`` with the name."""
    vc, opt = bound(rules.SGD())
    opt.check_finite()
    opt(0.1, [jnp.array([1.0, jnp.nan, 1.0]), jnp.float32(1.0)])
    assert np.isnan(vc["w"].value).tolist() == [False, True, False] and np.isfinite(vc["b"].value)
    refuses(NonFiniteError, FloatingPointError, ["'w' is not finite", "1 that are not"], opt.check_finite, vc)


def test_row_08():
    """Gradients that are not finite, under ``SkipNonFinite``: the step is left out, to the last bit; the clock of
    schedules stands still, the counters tell it, and the state names the variable."""
    vc, opt = bound(rules.SkipNonFinite(rules.Adam()), lr=schedule.Linear(0.1, 0.0, 10))
    everything = vc + opt.vars()
    step = Jit(lambda g: opt.step([g, two_grads()[1]]), everything)
    assert int(opt.clock.value) == 1
    before = bits(everything)
    for bad in (jnp.nan, jnp.inf):
        step(jnp.array([1.0, bad, 1.0]))
    after = bits(everything)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"(Optimizer).skipped", "(Optimizer).consecutive", "(Optimizer).non_finite[w]"}
    assert int(opt.clock.value) == 1 and int(opt.state["w"].non_finite.value) == 2
    assert int(opt.state["b"].non_finite.value) == 0
    step(two_grads()[0])
    assert int(opt.clock.value) == 2


def test_row_09():
    """Too many such steps in a row: ``opt.check_finite()``, which waits for the device, raises ``NonFiniteError`` and
    names the variables; with ``max_consecutive`` the guard lets the next one through."""
    vc, opt = bound(rules.SkipNonFinite(rules.SGD()))
    bad = [two_grads()[0], jnp.float32(jnp.inf)]
    for _ in range(3):
        opt(0.1, bad)
    opt.check_finite(max_consecutive=3)
    opt.check_finite()
    opt(0.1, bad)
    refuses(NonFiniteError, FloatingPointError, ["4 steps in a row", "at most 3", "'b' 4 times"],
            lambda: opt.check_finite(max_consecutive=3), vc + opt.vars())  # fmt: skip
    opt(0.1, two_grads())
    opt.check_finite(max_consecutive=3)
    vc, opt = bound(rules.SkipNonFinite(rules.SGD(), max_consecutive=1))
    opt(0.1, bad)
    opt.check_finite()
    opt(0.1, bad)
    refuses(NonFiniteError, FloatingPointError, ["2 steps in a row"], opt.check_finite, vc + opt.vars())


def test_row_10():
    """Clipping gradients whose norm overflows: they are clipped to the norm; one that is infinite: all become 0, and
    never NaN."""
    for clip in (rules.ClipByGlobalNorm(1.0), rules.ClipByBlockRMS(1.0), rules.AdaptiveClip(1.0)):
        vc, opt = bound(clip)
        before = bits(vc)
        opt(0.1, [jnp.array([3e38, -3e38, 3e38]), jnp.float32(3e38)])
        assert all(np.isfinite(v.value).all() for v in vc)
        assert bits(vc) != before
        with unchanged(VarCollection({"w": vc["w"]})):
            opt(0.1, [jnp.array([jnp.inf, 1.0, -jnp.inf]), jnp.float32(0.0)])


def test_row_11():
    """A TrainVar of whole numbers or truth values: ``DTypeError`` (a ``TypeError``) at construction."""
    for value in (jnp.ones(3, jnp.int32), jnp.ones(3, bool)):
        vc = two_params()
        vc["n"] = TrainVar(value)
        refuses(DTypeError, TypeError, ["'n'", str(value.dtype)], lambda vc=vc: optimizer.SGD(vc), vc)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_row_12(bad):
    """A hyperparameter or learning rate that is negative, NaN or infinite, a decay outside [0, 1):
    ``HyperparameterError`` (a ``ValueError``) with its name and domain, at construction, on assignment, in a call."""
    vc, opt = bound(lr=0.1, dynamic=("beta1", "eps"))
    everything = vc + opt.vars()
    for name in ("beta1", "beta2", "eps"):
        says = [f"'{name}' is out of range", "expected ["]
        refuses(HyperparameterError, ValueError, says, lambda name=name: rules.Adam(**{name: bad}))
        refuses(HyperparameterError, ValueError, says, lambda name=name: setattr(opt, name, bad), everything)
        refuses(HyperparameterError, ValueError, says,
                lambda name=name: opt(0.1, two_grads(), **{name: bad}), everything)  # fmt: skip
    for call in (lambda: opt(bad, two_grads()), lambda: setattr(opt, "lr", bad), lambda: optimizer.SGD(vc, lr=bad)):
        refuses(HyperparameterError, ValueError, ["learning rate"], call, everything)
    refuses(HyperparameterError, ValueError, ["'beta1'", "1.0"], lambda: rules.Adam(beta1=1.0))


def test_row_13():
    """A huge learning rate, 1e30: what is finite in exact arithmetic stays finite; beyond, the guard finds it."""
    for rule in (rules.SGD(), rules.Momentum(), rules.Adam(), rules.LARS(), rules.Chain(rules.ClipByGlobalNorm())):
        vc, opt = bound(rule)
        opt(1e30, two_grads())
        assert all(np.isfinite(v.value).all() for v in [*vc, *opt.vars()])
    vc, opt = bound(rules.SGD())
    opt(3e38, two_grads(100.0))
    refuses(NonFiniteError, FloatingPointError, ["'w'"], opt.check_finite, vc)


def test_row_14():
    """A learning rate as a Python number, of NumPy, an array, a variable or a tracer: one result, one compile."""
    results = []
    for lr in (0.1, np.float32(0.1), np.float64(0.1), jnp.float32(0.1), np.array(0.1), TrainVar(jnp.float32(0.1))):
        vc, opt = bound()
        opt(lr, two_grads())
        results.append(bits(vc))
    assert all(r == results[0] for r in results)
    vc, opt = bound()
    step = Counted(lambda lr: opt(lr, two_grads()))
    compiled = Jit(step, vc + opt.vars())
    for lr in (0.1, 0.2, np.float32(0.3), jnp.float32(0.4)):
        compiled(jnp.asarray(lr, jnp.float32))
    assert step.traces == 1
    constant = Counted(lambda: opt.step(two_grads()))
    opt = optimizer.SGD(vc, lr=0.1)
    compiled = Jit(constant, vc + opt.vars())
    for lr in (0.1, 0.2, 1):
        opt.lr = lr
        compiled()
    assert constant.traces == 1


def test_row_15():
    """A learning rate that is no real scalar: ``HyperparameterError``."""
    vc, opt = bound()
    for lr in (jnp.ones(1), jnp.ones(3), np.ones((1, 1)), "0.1", None, 1j, jnp.array(True)):
        refuses(HyperparameterError, ValueError, ["learning rate"], lambda lr=lr: opt(lr, two_grads()), vc + opt.vars())


def test_row_16():
    """A schedule that gives a tracer: it works, in one compile; one that gives whole numbers: they are cast; one that
    gives an array, NaN or a negative number: ``HyperparameterError``."""
    vc = two_params()
    opt = optimizer.SGD(vc, lr=lambda t: jnp.where(t < 1, 1, 0))
    Jit(lambda: opt.step(two_grads()), vc + opt.vars())()
    moved = bits(vc)
    Jit(lambda: opt.step(two_grads()), vc + opt.vars())()
    assert bits(vc) == moved
    for bad in (lambda t: jnp.ones(2), lambda t: float("nan"), lambda t: -1.0, lambda t: "0.1"):
        vc = two_params()
        with unchanged(vc), pytest.raises(HyperparameterError):
            optimizer.SGD(vc, lr=bad).step(two_grads())


def test_row_17():
    """Another learning rate at each step: no new compile, and ``opt.lr`` tells the one in use."""
    vc = two_params()
    opt = optimizer.Adam(vc, lr=0.1)
    step = Counted(lambda: opt.step(two_grads()))
    compiled = Jit(step, vc + opt.vars())
    for i in range(5):
        opt.lr = 0.1 / (i + 1)
        compiled()
        assert opt.lr == jnp.float32(0.1 / (i + 1))
    assert step.traces == 1
    assert isinstance(opt.lr, jax.Array)
