"""The stateful optimizers: objax's signatures, learning rates of all kinds, gradients in all forms, and transforms."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import optimkit
from optimkit import GradValues, Jit, Scan, StateVar, TrainRef, TrainVar, VarCollection, Vectorize, optimizer, rules
from optimkit.optimizer import Optimizer

from .oracles import oracle_adam, oracle_adamw, oracle_lars, oracle_momentum, oracle_sgd
from .shell import Counted, Net, X, Y, bits, close, loss_of, two_grads, two_params, unchanged

# class, objax's order of hyperparameters, values that are not the defaults
NAMED = {
    "SGD": {},
    "Momentum": {"momentum": 0.8, "nesterov": True},
    "Adam": {"beta1": 0.8, "beta2": 0.95, "eps": 1e-3},
    "LARS": {"momentum": 0.8, "weight_decay": 0.01, "tc": 0.5, "eps": 0.25},
    "AdamW": {"beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "eps_root": 0.0, "weight_decay": 0.1},
}
ORACLES = {
    "SGD": oracle_sgd,
    "Momentum": oracle_momentum,
    "Adam": oracle_adam,
    "LARS": oracle_lars,
    "AdamW": oracle_adamw,
}
named = pytest.mark.parametrize("name", NAMED)


def grads_of(n, seed=0):
    """Return n lists of gradients for two_params()."""
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=3).astype(np.float32), rng.normal(size=()).astype(np.float32)] for _ in range(n)]


def by_name(grads):
    return dict(zip(("w", "b"), grads, strict=True))


def state_of(opt, vc):
    """Return the bits of everything that a step writes."""
    return bits(vc, opt.vars())


# --- signatures and numbers -------------------------------------------------------------------------------------------


@named
def test_steps_are_those_of_the_float64_oracle(name):
    vc, hyper = two_params(), NAMED[name]
    opt = getattr(optimizer, name)(vc, **hyper)
    params = {key: np.asarray(v) for key, v in vc.items()}
    wanted = ORACLES[name](params, [by_name(g) for g in grads_of(6)], 0.1, **hyper)
    for grads, expected in zip(grads_of(6), wanted, strict=True):
        opt(0.1, grads)
        for key, v in vc.items():
            np.testing.assert_allclose(v, expected[key], rtol=0, atol=5e-6)


@named
def test_hyperparameters_are_taken_by_position_in_objaxs_order(name):
    hyper = NAMED[name]
    results = []
    for args, kwargs in ((tuple(hyper.values()), {}), ((), hyper)):
        vc = two_params()
        opt = getattr(optimizer, name)(vc, *args, **kwargs)
        assert {key: getattr(opt, key) for key in hyper} == hyper
        for grads in grads_of(2):
            opt(0.1, grads)
        results.append(state_of(opt, vc))
    assert results[0] == results[1]


def test_signatures_begin_as_in_objax():
    first = {name: list(inspect.signature(getattr(optimizer, name)).parameters) for name in NAMED}
    assert first["SGD"][:1] == ["vc"]
    assert first["Momentum"][:3] == ["vc", "momentum", "nesterov"]
    assert first["Adam"][:4] == ["vc", "beta1", "beta2", "eps"]
    assert first["LARS"][:5] == ["vc", "momentum", "weight_decay", "tc", "eps"]
    defaults = {n: p.default for n, p in inspect.signature(optimizer.LARS).parameters.items()}
    assert [defaults[n] for n in ("momentum", "weight_decay", "tc", "eps")] == [0.9, 1e-4, 1e-3, 1e-5]


@named
def test_the_stateful_face_equals_the_functional_one_to_the_last_bit(name):
    vc, rule = two_params(), getattr(rules, name)(**NAMED[name])
    opt = Optimizer(vc, rule)
    init, apply = optimkit.pure(rule, 0.1)
    params = {key: v.value for key, v in vc.items()}
    state = init(params)
    for grads in grads_of(4):
        opt(0.1, grads)
        state, params = apply(by_name([jnp.asarray(g) for g in grads]), state, params)
    assert {key: np.asarray(v).tobytes() for key, v in vc.items()} == {
        key: np.asarray(p).tobytes() for key, p in params.items()
    }


@pytest.mark.parametrize(
    ("rule", "positional", "by_names"),
    [
        (rules.Momentum(0.9), (0.5,), {"momentum": 0.5}),
        (rules.Adam(), (0.5, 0.75), {"beta1": 0.5, "beta2": 0.75}),
        (rules.Adam(), (None, 0.75), {"beta2": 0.75}),
        (rules.LARS(), (0.5,), {"momentum": 0.5}),
        (rules.AdamW(), (0.5,), {"beta1": 0.5}),
    ],
)
def test_overrides_by_position_and_by_name_hold_for_that_call_only(rule, positional, by_names):
    grads = grads_of(3)
    results = []
    for args, kwargs in ((positional, {}), ((), by_names)):
        vc = two_params()
        opt = Optimizer(vc, rule)
        opt(0.1, grads[0])
        opt(0.1, grads[1], *args, **kwargs)
        opt(0.1, grads[2])
        assert opt.rule == rule
        results.append(vc)
    vc = two_params()
    init, _ = optimkit.pure(rule, 0.1)
    params = {key: v.value for key, v in vc.items()}
    state = init(params)
    for r, g in zip((rule, rule.replace(**by_names), rule), grads, strict=True):
        state, params = optimkit.pure(r, 0.1).apply(by_name([jnp.asarray(x) for x in g]), state, params)
    for result in results:
        assert {key: np.asarray(v).tobytes() for key, v in result.items()} == {
            key: np.asarray(p).tobytes() for key, p in params.items()
        }


def test_overrides_reach_the_parts_of_a_chain_and_may_be_variables():
    vc, twin = two_params(), two_params()
    rule = rules.Chain(rules.ClipByGlobalNorm(1.0), rules.Momentum(0.9))
    Optimizer(vc, rule)(0.1, two_grads(), max_norm=StateVar(0.5), momentum=StateVar(0.0))
    optimizer.SGD(twin)(0.1 * 0.5 / float(np.sqrt(0.25 + 1 + 4 + 0.5625)), two_grads())
    close(vc["w"].value, twin["w"].value)


# --- the learning rate ------------------------------------------------------------------------------------------------

KINDS = [
    float,
    int,
    np.float64,
    np.float32,
    np.float16,
    np.int32,
    np.array,
    jnp.float32,
    jnp.bfloat16,
    jnp.int32,
    lambda x: jnp.asarray(float(x)),  # weakly typed
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_learning_rate_of_any_kind_gives_the_same_numbers_and_compiles_once(kind):
    def run(kind, compiled):
        vc = two_params()
        opt = optimizer.Adam(vc)
        step = Counted(lambda lr, grads: opt(lr, grads))
        call = Jit(step, vc + opt.vars()) if compiled else step
        for lr, grads in zip((1, 2, 0, 3), grads_of(4), strict=True):
            call(kind(lr), [jnp.asarray(g) for g in grads])
        assert not compiled or step.traces == 1
        return state_of(opt, vc)

    for compiled in (False, True):
        assert run(kind, compiled) == run(float, compiled)


def test_a_variable_is_a_learning_rate_also_under_jit():
    vc, lr = two_params(), StateVar(0.5)
    opt = optimizer.SGD(vc)
    step = Jit(lambda grads: opt(lr, grads), vc + opt.vars() + VarCollection({"lr": lr}))
    step(two_grads())
    lr.value = 0.25
    step(two_grads())
    opt(lr, two_grads())
    close(vc["b"].value, 0.25 - 0.75)


def test_a_learning_rate_of_zero_leaves_the_parameters_and_counts_the_step():
    vc = two_params()
    opt = optimizer.Adam(vc)
    with unchanged(vc):
        opt(0, two_grads())
    assert opt.vars()["(Adam).t"] == 1


def test_a_huge_learning_rate_stays_finite_where_the_result_is():
    vc = two_params()
    optimizer.SGD(vc)(1e30, two_grads())
    close(vc["w"].value, -1e30 * np.array([0.5, -1.0, 2.0]))


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients_are_a_list_a_tuple_or_a_mapping_in_any_order():
    w, b = two_grads()
    results = []
    for grads in ([w, b], (w, b), {"b": b, "w": w}, VarCollection({"b": StateVar(b), "w": StateVar(w)})):
        vc = two_params()
        opt = optimizer.Momentum(vc)
        opt(0.1, grads)
        results.append(state_of(opt, vc))
    assert all(result == results[0] for result in results)


def test_gradients_of_numpy_are_read_whatever_their_layout_and_never_written():
    column = np.arange(6, dtype=np.float32).reshape(3, 2)[:, 0]
    frozen = np.array(2.0, np.float32)
    frozen.flags.writeable = False
    for grads in ([column, frozen], [column.astype(np.float64), 2.0], [column[::-1][::-1], np.float32(2.0)]):
        vc = two_params()
        optimizer.SGD(vc)(0.5, grads)
        close(vc["w"].value, [1.0, -3.0, -1.5])
        close(vc["b"].value, -0.75)
    assert column.tolist() == [0.0, 2.0, 4.0]


def test_gradients_in_variables_are_read():
    accumulated = optimkit.ModuleList([StateVar(g) for g in two_grads()])
    vc, twin = two_params(), two_params()
    optimizer.SGD(vc)(0.1, accumulated)
    optimizer.SGD(twin)(0.1, two_grads())
    assert bits(vc) == bits(twin)


def test_half_precision_gradients_are_computed_with_in_float32():
    vc = two_params()
    opt = optimizer.Adam(vc)
    grads = [g.astype(jnp.bfloat16) for g in two_grads()]
    opt(0.1, grads)
    assert vc["w"].dtype == jnp.float32
    close(opt.state["w"].nu.value, 0.001 * np.array([0.25, 1.0, 4.0]))


def test_a_gradient_that_is_not_finite_spoils_its_own_variable_only():
    vc = two_params()
    optimizer.Adam(vc)(0.1, [jnp.array([jnp.nan, 1.0, jnp.inf]), jnp.float32(1.0)])
    assert np.isfinite(vc["w"]).tolist() == [False, True, False]
    assert np.isfinite(vc["b"])


# --- shared weights, shapes, dtypes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["two names", "with a reference", "reference first"])
def test_shared_weights_have_one_slot_and_one_update(form):
    w = TrainVar(jnp.array([1.0, 2.0]))
    vc = {
        "two names": lambda: VarCollection({"encoder": w, "decoder": w}),
        "with a reference": lambda: VarCollection({"encoder": w, "decoder": TrainRef(w)}),
        "reference first": lambda: VarCollection({"decoder": TrainRef(w), "encoder": w}),
    }[form]()
    opt = optimizer.Momentum(vc, 0.5)
    assert list(opt.state) == ["encoder"]
    both = vc + opt.vars()
    grad_values = GradValues(lambda x: jnp.sum(w * w * x), both)

    def step(x):
        grads, _ = grad_values(x)
        assert len(grads) == 1
        opt(0.25, grads)

    Jit(step, both, donate=True)(jnp.array([1.0, 0.5]))
    close(w.value, [1.0 - 0.25 * 2.0, 2.0 - 0.25 * 2.0])
    assert len(list(both)) == 1 + 2


@named
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (1, 1), (1, 2, 1, 1, 2, 1, 1, 3)])
def test_parameters_of_every_shape_are_moved(name, shape):
    p = TrainVar(jnp.full(shape, 2.0))
    opt = getattr(optimizer, name)(VarCollection({"p": p}))
    for _ in range(2):
        opt(0.5, [jnp.ones(shape)])
    assert p.shape == shape
    assert np.isfinite(p).all()
    assert (np.asarray(p) < 2.0).all()
    assert all(np.isfinite(x).all() for x in opt.vars().tensors())


@named
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_low_precision_parameters_train_keep_their_dtype_and_have_float32_slots(name, dtype):
    start, steps = np.array([1.0, -0.5, 0.25], np.float32), 8
    narrow, wide = (VarCollection({"p": TrainVar(jnp.asarray(start, d))}) for d in (dtype, "float32"))
    opt, twin = (getattr(optimizer, name)(vc, **NAMED[name]) for vc in (narrow, wide))
    for i in range(steps):
        g = jnp.asarray([1.0, -1.0, 0.5]) * (-1) ** (i // 3)
        opt(0.25, [g.astype(dtype)])
        twin(0.25, [g])
    assert narrow["p"].dtype == dtype
    assert {v.dtype for v in opt.vars().subset(is_not=TrainRef) if v.shape} <= {jnp.dtype("float32")}
    # each step rounds the parameter once; LARS and AdamW look at it, which carries a rounding on
    rounding = float(jnp.finfo(dtype).eps) / 2
    largest = float(np.abs(np.asarray(wide["p"], np.float32)).max()) + 1.0
    end = np.asarray(narrow["p"], np.float32)
    np.testing.assert_allclose(end, wide["p"], rtol=0, atol=2 * steps * rounding * largest)
    assert np.abs(end - start).max() > 0.1


@named
def test_float64_parameters_have_float64_arithmetic_and_slots(name):
    with jax.enable_x64(True):
        start = {"w": np.array([1.0, -2.0, 0.5]), "b": np.array(0.25)}
        vc = VarCollection((key, TrainVar(jnp.asarray(x))) for key, x in start.items())
        opt = getattr(optimizer, name)(vc, **NAMED[name])
        grads = [by_name([g.astype(np.float64) for g in gs]) for gs in grads_of(5)]
        for g in grads:
            opt(0.1, g)
        assert {v.dtype for v in opt.vars() if v.shape} == {jnp.dtype("float64")}
        wanted = ORACLES[name](start, grads, 0.1, **NAMED[name])[-1]
        for key, v in vc.items():
            np.testing.assert_allclose(v, wanted[key], rtol=0, atol=1e-13)


def test_parameters_of_several_dtypes_are_in_one_optimizer():
    with jax.enable_x64(True):
        dtypes = {"half": "bfloat16", "single": "float32", "double": "float64"}
        vc = VarCollection((key, TrainVar(jnp.ones(2, d))) for key, d in dtypes.items())
        opt = optimizer.Adam(vc)
        step = Jit(lambda lr, grads: opt(lr, grads), vc + opt.vars())
        for _ in range(2):
            step(0.25, {key: jnp.ones(2, d) for key, d in dtypes.items()})
        assert {key: str(v.dtype) for key, v in vc.items()} == dtypes
        assert [str(opt.state[key].mu.dtype) for key in dtypes] == ["float32", "float32", "float64"]
        np.testing.assert_allclose(vc["double"], 0.5, atol=1e-7)
        np.testing.assert_allclose(vc["half"].value.astype(jnp.float32), 0.5)


# --- transforms -------------------------------------------------------------------------------------------------------


def trained(donate, state_first=False, steps=4, **options):
    """Train a net by Adam under Jit; return the losses, and the bits of all variables."""
    net = Net()
    opt = optimizer.Adam(net.vars(), **options)
    grad_values = GradValues(loss_of(net), net.vars())

    def step(x, y, lr):
        grads, values = grad_values(x, y)
        opt(lr, grads)
        return values[0]

    vc = opt.vars() + net.vars() if state_first else net.vars() + opt.vars()
    step = Jit(step, vc, donate=donate)
    first = net.w.value
    losses = [float(step(X, Y, 0.1)) for _ in range(steps)]
    assert first.is_deleted() == donate
    return losses, bits(net.vars(), opt.vars())


@pytest.mark.parametrize("state_first", [False, True])
def test_donation_changes_nothing_in_either_order_of_the_collections(state_first):
    losses, result = trained(donate=True, state_first=state_first)
    assert (losses, result) == trained(donate=False)
    assert losses[-1] < losses[0]


def test_jit_equals_eager():
    def run(compiled):
        vc = two_params()
        opt = optimizer.Adam(vc)
        step = lambda lr, grads: opt(lr, grads)  # noqa: E731
        step = Jit(step, vc + opt.vars()) if compiled else step
        for grads in grads_of(5):
            step(0.1, [jnp.asarray(g) for g in grads])
        return vc["w"].value, opt.state["w"].nu.value

    for compiled, eager in zip(run(True), run(False), strict=True):
        close(compiled, eager, ulps=8)


@pytest.mark.parametrize("donate", [False, True])
def test_scan_equals_a_loop(donate):
    def run(scanned):
        vc = two_params()
        opt = optimizer.Adam(vc, lr=optimkit.schedule.Linear(0.1, 0.0, 8))
        step = lambda w, b: opt.step([w, b])  # noqa: E731
        ws, bs = (jnp.stack(x) for x in zip(*grads_of(5), strict=True))
        if scanned:
            Scan(step, vc + opt.vars(), donate=donate)(ws, bs)
        else:
            for w, b in zip(ws, bs, strict=True):
                step(w, b)
        assert (int(opt.clock), int(opt.vars()["(Adam).t"])) == (5, 5)
        return vc["w"].value, opt.state["w"].nu.value

    for scanned, looped in zip(run(True), run(False), strict=True):
        close(scanned, looped, ulps=8)


def test_nested_jit_equals_flat_jit():
    def run(nested):
        vc = two_params()
        opt = optimizer.Momentum(vc)
        everything = vc + opt.vars()
        step = lambda grads: opt(0.1, grads)  # noqa: E731
        inner = Jit(step, everything) if nested else step

        def twice(grads):
            inner(grads)
            inner(grads)

        Jit(twice, everything, donate=True)(two_grads())
        return bits(everything)

    assert run(True) == run(False)


def test_vectorize_takes_the_mean_of_the_steps_of_a_population():
    """Each element takes its own step from the same start; state and parameters are averaged, counters are not."""
    batch = grads_of(3)
    vc = two_params()
    opt = optimizer.Adam(vc)
    opt(0.1, two_grads())
    start = {name: v.value for name, v in (vc + opt.vars().subset(is_not=TrainRef)).items()}
    ends = []
    for grads in batch:
        (vc + opt.vars()).assign(start)
        opt(0.1, grads)
        ends.append({name: np.asarray(v) for name, v in (vc + opt.vars()).items()})
    (vc + opt.vars()).assign(start)
    ws, bs = (jnp.stack(x) for x in zip(*batch, strict=True))
    Vectorize(lambda w, b: opt(0.1, [w, b]), vc + opt.vars(), batch_axis=(0, 0))(ws, bs)
    for name, v in (vc + opt.vars()).items():
        close(v.value, np.mean([end[name] for end in ends], axis=0, dtype=np.float64), ulps=8)
    t = opt.vars()["(Adam).t"]
    assert (int(t), t.dtype) == (2, jnp.int32)


def test_steps_on_all_devices_at_once_equal_one_step_on_the_whole_batch():
    def run(parallel):
        vc = two_params()
        opt = optimizer.Adam(vc)
        grad_values = GradValues(lambda x, y: jnp.mean((x @ vc["w"].value + vc["b"] - y) ** 2), vc)

        def step(x, y):
            grads, values = grad_values(x, y)
            if parallel:
                grads = [optimkit.functional.parallel.pmean(g) for g in grads]
            opt(0.1, grads)
            return values[0]

        everything = vc + opt.vars()
        step = optimkit.Parallel(step, everything, reduce=jnp.mean) if parallel else Jit(step, everything)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
        losses = [float(step(x, jnp.arange(16.0))) for _ in range(2)]
        return losses, vc, opt

    (losses, vc, opt), (wanted, twin, other) = run(True), run(False)
    close(losses, wanted, ulps=16)
    close(vc["w"].value, twin["w"].value, ulps=32)
    close(opt.state["w"].mu.value, other.state["w"].mu.value, ulps=32)
    assert opt.vars()["(Adam).t"].value == 2


@pytest.mark.parametrize("place", ["spread", "copied", "one other device"])
def test_parameters_that_are_put_on_devices_compile_one_step(place):
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    where = {
        "spread": NamedSharding(mesh, PartitionSpec("d")),
        "copied": NamedSharding(mesh, PartitionSpec()),
        "one other device": jax.devices()[3],
    }[place]
    vc = VarCollection({"w": TrainVar(jax.device_put(jnp.ones(8), where))})
    opt = optimizer.Adam(vc, lr=0.1, dynamic=("beta1",))
    averaged = optimizer.ExponentialMovingAverage(vc, 0.9)

    def step(grads):
        opt.step(grads)
        averaged()

    step = Jit(step, vc + opt.vars() + averaged.vars(), donate=True)
    for _ in range(3):
        step([jnp.ones(8)])
    assert step._call._cache_size() == 1
    close(vc["w"].value, np.full(8, 0.7), ulps=8)
    assert vc["w"].value.sharding.device_set == set(jax.devices()[:4] if place != "one other device" else [where])


# --- three ways to write an optimizer ---------------------------------------------------------------------------------


class SignDescent(rules.LeafRule):
    """Moves every coordinate by the learning rate, times a factor."""

    factor: float = rules.hyper(1.0, "(0, inf)", "factor of the step")

    def update_leaf(self, g, slot, p, *, lr, t):
        return -lr * self.factor * jnp.sign(g), slot


class Signs(Optimizer):
    """Sign descent by name."""

    rule_type = SignDescent


class Counting(optimizer.Momentum):
    """Momentum that scales gradients and counts its calls, as scripts for objax extend an optimizer."""

    def __init__(self, vc, momentum=0.9, **options):
        super().__init__(vc, momentum, **options)
        self.calls = StateVar(jnp.int32(0))
        self.sums = optimkit.ModuleList([StateVar(jnp.zeros_like(v.value)) for v in self.train_vars])

    def __call__(self, lr, grads):
        self.calls.value += 1
        for g, s in zip(grads, self.sums, strict=True):
            s.value += g
        super().__call__(lr, [2 * g for g in grads])


def test_a_rule_of_ones_own_is_bound():
    vc = two_params()
    opt = Optimizer(vc, SignDescent(factor=0.5))
    opt(0.1, two_grads())
    close(vc["w"].value, [1.0 - 0.05, -2.0 + 0.05, 0.5 - 0.05])
    opt.factor = 2.0
    assert repr(opt) == "Optimizer(SignDescent(factor=2.0); 2 variables, 4 parameters)"


def test_a_rule_of_ones_own_is_named_in_three_lines():
    vc = two_params()
    opt = Signs(vc, 0.5, lr=0.1)
    opt.step(two_grads())
    close(vc["b"].value, 0.25 - 0.05)
    assert repr(opt) == "Signs(factor=0.5; 2 variables, 4 parameters)"
    assert list(opt.vars().keys())[-1] == "(Signs).lr"
    names = ["vc", "factor", "slot_dtype", "lr", "dynamic", "groups", "schedules", "constraints"]
    assert list(inspect.signature(Signs).parameters) == names
    assert "factor: factor of the step; in (0, inf), default 1.0." in Signs.__doc__


@pytest.mark.parametrize("face", ["call", "step", "minimize"])
def test_an_overridden_call_is_what_every_way_to_step_runs(face):
    vc = two_params()
    opt = Counting(vc, lr=0.1)
    grads = two_grads()

    def step():
        if face == "call":
            opt(0.1, grads)
        elif face == "step":
            opt.step(grads)
        else:
            opt.minimize(lambda: jnp.dot(grads[0], vc["w"].value) + grads[1] * vc["b"])

    Jit(step, vc + opt.vars())()
    close(vc["w"].value, np.array([1.0, -2.0, 0.5]) - 0.2 * np.asarray(grads[0]))
    assert opt.calls.value == 1
    close(opt.sums[1].value, 0.75)
    names = ["(Counting).calls", "(Counting).sums(ModuleList)[0]", "(Counting).sums(ModuleList)[1]"]
    assert list(opt.vars().keys())[:3] == names


def test_train_vars_are_written_as_scripts_for_objax_do():
    class Plain(optimkit.Module):
        def __init__(self, vc):
            self.train_vars = optimkit.ModuleList(TrainRef(x) for x in vc.subset(TrainVar))

        def __call__(self, lr, grads):
            assert len(grads) == len(self.train_vars)
            for g, p in zip(grads, self.train_vars, strict=True):
                p.value -= lr * g

    vc, twin, third = two_params(), two_params(), two_params()
    opt = Plain(vc)
    Jit(lambda lr, grads: opt(lr, grads), vc + opt.vars(), donate=True)(0.1, two_grads())
    optimizer.SGD(twin)(0.1, two_grads())
    ours = optimizer.SGD(third)
    for g, p in zip(two_grads(), ours.train_vars, strict=True):
        p.value -= 0.1 * g
    for name in vc.keys():  # noqa: SIM118 - iteration gives variables
        close(vc[name].value, twin[name].value, ulps=2)
        close(third[name].value, twin[name].value, ulps=2)
