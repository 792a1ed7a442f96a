"""Rows 18 to 33 and 35 of the fault table: variables, groups, programs within programs, shapes and dtypes."""

from __future__ import annotations

import timeit

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, TrainRef, TrainVar, VarCollection, contrib, nn, optimizer, pure, rules
from optimkit.errors import DTypeError, StructureError, TraceMutationError, VariableError
from optimkit.numerics import INT32_MAX
from optimkit.optimizer import Group, Optimizer
from optimkit.testing import check_explicit_sharding_equals_unsharded, check_sharded_equals_unsharded
from tests.fault_table.test_01_17_steps import bound, refuses
from tests.shell import Counted, bits, close, two_grads, two_params, unchanged


def test_row_18():
    """Shared weights: one state, one update with the sum of the gradients, which come in the order of first use."""
    layer = nn.Linear(2, 2)
    model = nn.Sequential([layer, layer])
    opt = optimizer.Momentum(model.vars())
    assert len(opt.train_vars) == 2 and len(model.vars().subset(TrainVar).unique()) == 2
    v = TrainVar(jnp.ones(2))
    opt = optimizer.SGD(VarCollection({"a": v, "b": TrainRef(v)}))
    opt(0.5, [jnp.ones(2)])
    close(v.value, [0.5, 0.5])


def test_row_19():
    """A variable that two groups match: ``StructureError`` that names both groups."""
    groups = [Group("first", "w"), Group("second", "w|b")]
    vc = two_params()
    refuses(StructureError, ValueError, ["'w'", "first", "second"],
            lambda: optimizer.Adam(vc, groups=groups), vc)  # fmt: skip


def test_row_20():
    """A group or route that matches nothing: ``StructureError`` that shows the pattern."""
    vc = two_params()
    refuses(StructureError, ValueError, ["kernel"], lambda: optimizer.Adam(vc, groups=[Group("k", "kernel")]), vc)
    routed = rules.Partition(("kernel", rules.SGD()), (".", rules.Adam()))
    refuses(StructureError, ValueError, ["kernel"], lambda: Optimizer(vc, routed), vc)


def test_row_21():
    """A buffer that was given away, used again: ``VariableError`` that names the variable and speaks of donation."""
    vc, opt = bound()
    vc["w"].value.delete()
    with pytest.raises(VariableError, match=r"(?s)'w'.*donat") as caught:
        opt(0.1, two_grads())
    assert isinstance(caught.value, ValueError)
    vc["w"].assign(jnp.ones(3))
    opt(0.1, two_grads())


@pytest.mark.parametrize("rule", [rules.Adam(), rules.Lookahead(rules.SGD()), rules.Averaged(rules.SGD()),
                                  contrib.rules.Prodigy()], ids=lambda r: type(r).__name__)  # fmt: skip
def test_row_22(rule):
    """State that shares memory with a parameter: there is none; the kit gives all buffers of each rule away."""
    vc = two_params()
    opt = Optimizer(vc, rule)
    places = [v.value.unsafe_buffer_pointer() for v in [*vc, *opt.vars().unique()] if not isinstance(v, TrainRef)]
    assert len(set(places)) == len(places)
    Jit(lambda: opt(0.1, two_grads()), vc + opt.vars(), donate=True)()


def test_row_23():
    """An exception in a compiled step, while it is traced or run: all variables are as before, and it works again."""
    vc, opt = bound()
    everything = vc + opt.vars()

    def step(fail):
        opt(0.1, two_grads())
        if fail:
            raise RuntimeError("deliberate")

    with unchanged(everything), pytest.raises(RuntimeError, match="deliberate"):
        Jit(step, everything, static_argnums=(0,))(True)

    def explode(x):
        raise FloatingPointError("deliberate")

    def runs():
        scale = jax.pure_callback(explode, jax.ShapeDtypeStruct((), jnp.float32), 1.0)
        opt(0.1, two_grads(scale))

    with unchanged(everything), pytest.raises(Exception, match="deliberate"):
        Jit(runs, everything)()
        jax.block_until_ready(everything.tensors())
    opt(0.1, two_grads())


def test_row_24():
    """Control-C while results are stored: the old state or the new one, never a mixture. (At every variable, eagerly
    and compiled: tests/test_faults.py.)"""
    from tests.test_faults import interrupt_at

    def after(interrupted, steps):
        vc, opt = bound()
        if interrupted:
            interrupt_at(opt.vars()["(Optimizer)[b].mu"])
            with pytest.raises(KeyboardInterrupt):
                opt(0.1, two_grads())
        else:
            for _ in range(steps):
                opt(0.1, two_grads())
        return bits(vc, opt.vars())

    assert after(True, 1) in (after(False, 0), after(False, 1))


def test_row_25():
    """A step under a ``jax.jit`` of one's own: ``TraceMutationError`` with the way out, and no tracer is stored."""
    vc, opt = bound()
    refuses(TraceMutationError, RuntimeError, ["'w'", "Use the optimkit transform"],
            lambda: jax.jit(lambda g: opt(0.1, [g, jnp.ones(())]))(jnp.ones(3)), vc + opt.vars())  # fmt: skip


def test_row_26():
    """A step within programs within programs: the numbers of a step alone."""
    results = []
    for nest in (lambda f: f(), lambda f: jax.jit(f)(), lambda f: jax.lax.cond(True, f, f),
                 lambda f: jax.lax.fori_loop(0, 1, lambda i, _: f(), f())):  # fmt: skip
        init, apply = pure(rules.Adam(), 0.1)
        params = {"w": jnp.array([1.0, -2.0, 0.5])}
        state = init(params)
        results.append(nest(lambda f=apply, state=state, params=params: f({"w": jnp.ones(3)}, state, params)[1]))
    vc, opt = bound()
    Jit(lambda: Jit(lambda: opt(0.1, two_grads()), vc + opt.vars())(), vc + opt.vars())()
    other, alone = bound()
    alone(0.1, two_grads())
    for name, v in vc.items():
        close(v.value, other[name].value)
    for r in results[1:]:
        close(r["w"], results[0]["w"])


def test_row_27():
    """``vmap`` of a step over hyperparameters, parameters or both: what each member does alone."""
    params, grads = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([0.5, 1.0])}

    def run(beta1, scale):
        init, apply = pure(rules.Adam(beta1=beta1), 0.1)
        state, p = init(params), jax.tree.map(lambda x: x * scale, params)
        for _ in range(3):
            state, p = apply(jax.tree.map(lambda g, x: g + x, grads, p), state, p)
        return p["w"]

    betas, scales = jnp.array([0.5, 0.9]), jnp.array([1.0, 2.0])
    both = jax.vmap(run)(betas, scales)
    for i in range(2):
        close(both[i], run(betas[i], scales[i]))
    close(jax.vmap(run, (0, None))(betas, 1.0)[1], run(betas[1], 1.0))


def test_row_28():
    """The gradient through a step: it is that of finite differences, by the functional face."""

    def after(lr, beta1):
        init, apply = pure(rules.Momentum(beta1), lr)
        p = {"w": jnp.array(1.0)}
        state = init(p)
        for _ in range(3):
            state, p = apply(p, state, p)
        return p["w"]

    got = jax.grad(after, (0, 1))(jnp.float32(0.1), jnp.float32(0.5))
    h = 1e-2
    by_lr, by_beta1 = after(0.1 + h, 0.5) - after(0.1 - h, 0.5), after(0.1, 0.5 + h) - after(0.1, 0.5 - h)
    np.testing.assert_allclose(got, [by_lr / (2 * h), by_beta1 / (2 * h)], rtol=1e-2)


@pytest.mark.parametrize("shape", [(0, 3), (), (1, 1, 1), (1,) * 8])
def test_rows_29_and_30(shape):
    """Parameters without elements, without axes, with axes of one, with eight axes: they step as others do, and norms
    have no 0/0."""
    clipped = rules.Chain(rules.ClipByGlobalNorm(), rules.LAMB())
    for rule in (rules.Adam(), rules.LARS(), clipped, contrib.rules.Muon()):
        vc = VarCollection({"x": TrainVar(jnp.ones(shape)), "matrix": TrainVar(jnp.eye(2))})
        opt = Optimizer(vc, rule)
        opt(0.1, [jnp.ones(shape), jnp.eye(2)])
        assert all(np.isfinite(v.value).all() for v in [*vc, *opt.vars()]) and vc["x"].shape == shape
        assert (np.asarray(vc["x"].value) < 1).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_row_31(dtype):
    """Parameters of half precision and less: arithmetic and state are float32, and the parameter keeps its dtype."""
    v = TrainVar(jnp.ones(4, dtype))
    opt = optimizer.Momentum(VarCollection({"w": v}), 0.9)
    opt(1e-4, [jnp.ones(4, dtype)])
    assert v.dtype == jnp.dtype(dtype) and opt.state["w"].m.dtype == jnp.float32
    for _ in range(40):
        opt(0.02, [jnp.ones(4, dtype)])
    assert float(v.value[0]) < 0.5


def test_row_32():
    """Complex parameters: ``DTypeError``, for most algorithms are not defined there; under ``SplitComplex`` they step
    as a pair of real parameters, downhill for gradients as ``jax.grad`` gives them."""
    z = TrainVar(jnp.array([1.0 + 2.0j]))
    vc = VarCollection({"z": z})
    refuses(DTypeError, TypeError, ["'z'", "complex64"], lambda: optimizer.Adam(vc), vc)
    Optimizer(vc, contrib.rules.SplitComplex(rules.Adam()))(0.1, [jnp.array([1.0 - 1.0j])])
    close(z.value.real, [0.9])
    close(z.value.imag, [1.9])


def test_row_33():
    """Arrays of NumPy that are read-only or not contiguous: they are taken, and never written to."""
    _, opt = bound()
    g = np.arange(6, dtype=np.float32)[::2]
    g.setflags(write=False)
    before = g.copy()
    opt(0.1, [g, np.float32(0.5)])
    np.testing.assert_array_equal(g, before)
    start = np.ones(3, np.float32)
    v = TrainVar(start)
    optimizer.SGD(VarCollection({"w": v}))(0.1, [np.ones(3, np.float32)])
    np.testing.assert_array_equal(start, 1)


def test_row_35():
    """A step counter at 2³¹ - 1: it stays there, and bias corrections are 1."""
    vc, opt = bound()
    opt.vars()["(Optimizer).t"].assign(jnp.int32(INT32_MAX))
    before = bits(VarCollection({"t": opt.vars()["(Optimizer).t"]}))
    opt(0.1, two_grads())
    assert bits(VarCollection({"t": opt.vars()["(Optimizer).t"]})) == before
    assert all(np.isfinite(v.value).all() for v in [*vc, *opt.vars()])


@pytest.mark.skipif(jax.device_count() < 2, reason="one device only; tests/conftest.py asks for eight")
def test_row_49():
    """A mesh with explicit axes, or with automatic ones: the numbers of one device. (Each rule: the kit.)"""
    check_sharded_equals_unsharded(rules.Adam())
    check_explicit_sharding_equals_unsharded(rules.Adam())


def test_row_54():
    """Ten thousand small variables: the cost of a step on the host is linear in their number; sizes beyond 2³¹ elements
    are counted in whole numbers of Python."""
    seconds = {}
    for count in (1_000, 10_000):
        vc = VarCollection({f"v{i}": TrainVar(jnp.zeros(())) for i in range(count)})
        opt = optimizer.SGD(vc)
        assert f"{count} variables, {count:,} parameters" in repr(opt)
        step = Counted(lambda: None)
        compiled = Jit(step, vc + opt.vars())
        compiled()
        seconds[count] = min(timeit.repeat(compiled, number=1, repeat=9))
        assert step.traces == 1
    assert seconds[10_000] < 40 * seconds[1_000]  # ten times as much, or a hundred times if it were quadratic
    large = jax.eval_shape(rules.Adam().init, {"w": jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)})
    assert sum(int(np.prod(x.shape, dtype=object)) for x in jax.tree.leaves(large)) == 2 * 2**32 + 1
