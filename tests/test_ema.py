"""The moving average of weights: its numbers, what it averages, and how weights are exchanged for averages."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimkit
from optimkit import (
    GradValues,
    Jit,
    RandomState,
    Scan,
    StateVar,
    TrainRef,
    TrainVar,
    VarCollection,
    Vectorize,
    optimizer,
)
from optimkit.errors import HyperparameterError, NestingError, StructureError, TraceMutationError
from optimkit.optimizer import ExponentialMovingAverage

from .oracles import oracle_ema
from .shell import Counted, Net, X, Y, bits, close, loss_of, two_grads, two_params, unchanged

EPS = 2.0**-24  # the largest relative error of one float32 rounding


def weights(n, seed=0):
    """Return n values for the variables of two_params()."""
    rng = np.random.default_rng(seed)
    return [{"w": rng.normal(size=3).astype(np.float32), "b": rng.normal(size=()).astype(np.float32)} for _ in range(n)]


def averages(ema):
    refs, values = ema.refs_and_values()
    return dict(zip(refs.keys(), values, strict=True))


# --- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize(("debias", "eps"), [(False, 1e-6), (True, 1e-6), (True, 0.01)])
def test_averages_are_those_of_the_float64_oracle(debias, eps, warmup, every):
    vc, momentum = two_params(), 0.9
    ema = ExponentialMovingAverage(vc, momentum, debias, eps, warmup=warmup, every=every)
    seen = weights(12 * every)
    expected = oracle_ema(seen[every - 1 :: every], momentum=momentum, debias=debias, eps=eps, warmup=warmup)
    for i, w in enumerate(seen, start=1):
        vc.assign(w)
        ema()
        if i < every:
            continue
        for name, average in averages(ema).items():
            # three roundings for each update, and the average remembers 1 / (1 - momentum) of them; |w| < 4
            np.testing.assert_allclose(average, expected[i // every - 1][name], rtol=0, atol=4 * 3 * EPS * 10)


def test_averages_do_not_drift_at_high_momentum():
    """Factors mu and 1 - mu that are rounded one by one sum to 1 + 3e-8, which adds up to 1.4e-4 here."""
    momentum, n = 0.9999, 30_000
    seen = (1 + 0.1 * np.random.default_rng(0).normal(size=(n, 4))).astype(np.float32)
    w = TrainVar(jnp.ones(4))
    vc = VarCollection({"w": w})
    ema = ExponentialMovingAverage(vc, momentum)

    def update(x):
        w.assign(x)
        ema()
        return ema.refs_and_values()[1][0]

    trajectory = np.asarray(Scan(update, vc + ema.vars())(jnp.asarray(seen)), np.float64)
    m, worst = np.zeros(4), 0.0
    for got, x in zip(trajectory, seen.astype(np.float64), strict=True):
        m = momentum * m + (1 - momentum) * x
        worst = max(worst, float(np.max(np.abs(got / m - 1))))
    # Roundings are random, so that their sum grows as the root of the number that is remembered; ten deviations.
    assert worst < 10 * EPS * (0.5 / (1 - momentum)) ** 0.5


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_debiased_average_of_constant_weights_is_the_weights_from_the_first_update_on(eps):
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.999, debias=True, eps=eps)
    for t in range(1, 6):
        ema()
        for name, average in averages(ema).items():
            # objax's formula divides by 1 - (1 - eps) mu^t, which is above the weight gathered, 1 - mu^t
            gathered = 1 - 0.999**t
            close(average, np.asarray(vc[name]) * gathered / (gathered + eps * 0.999**t), ulps=8)


def test_averages_start_at_zero_unless_debiased_as_in_objax():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.75)
    ema()
    close(averages(ema)["w"], 0.25 * np.asarray(vc["w"]))


def test_warmup_follows_the_first_weights_closely():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.999, warmup=True)
    ema()
    close(averages(ema)["w"], (1 - 2 / 11) * np.asarray(vc["w"]))


def test_momentum_zero_gives_the_last_weights():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.0)
    for w in weights(3):
        vc.assign(w)
        ema()
        for name, average in averages(ema).items():
            close(average, w[name], ulps=8)


@pytest.mark.parametrize("every", [1, 3])
def test_before_the_first_update_averages_are_the_variables_own_values(every):
    vc = two_params()
    for debias in (False, True):
        ema = ExponentialMovingAverage(vc, 0.9, debias, every=every)
        for _ in range(every - 1):
            ema()
        with ema.swapped():
            assert [v.value.tolist() for v in vc] == [[1.0, -2.0, 0.5], 0.25]


# --- what is averaged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_averages_of_half_precision_weights_are_float32_and_move(dtype):
    """In bfloat16 itself a step of 0.001 of 1/128 would be lost, and the average would never leave its first value."""
    w = TrainVar(jnp.ones(2, dtype))
    vc = VarCollection({"w": w})
    ema = ExponentialMovingAverage(vc, 0.99, debias=True, eps=0.0)
    up = float(jnp.nextafter(w.value, jnp.full(2, 2, dtype))[0])
    update = Jit(ema, ema.vars())
    ema()
    w.assign(jnp.full(2, up, dtype))
    for _ in range(99):
        update()
    expected = up + (1.0 - up) * 0.01 * 0.99**99 / (1 - 0.99**100)
    average = ema.vars()["(ExponentialMovingAverage)[w]"] / ema.weight
    assert average.dtype == jnp.float32
    np.testing.assert_allclose(average, expected, rtol=3 * 100 * EPS)
    assert averages(ema)["w"].dtype == dtype
    assert averages(ema)["w"][0] == up  # nearer to it than to 1


def test_averages_of_float64_weights_are_float64():
    with jax.enable_x64(True):
        w = TrainVar(jnp.array([1.0], jnp.float64))
        ema = ExponentialMovingAverage(VarCollection({"w": w}), 0.9, debias=True, eps=0.0)
        ema()
        w.assign(jnp.array([1 + 1e-9], jnp.float64))
        ema()
        average = averages(ema)["w"]
        assert average.dtype == jnp.float64
        np.testing.assert_allclose(average, (0.9 + 1 + 1e-9) / 1.9, rtol=2.0**-50)


def test_float_variables_are_averaged_and_others_are_seen_as_they_are():
    net = Net()
    ema = ExponentialMovingAverage(net.vars(), 0.5)
    assert list(ema.refs.keys()) == ["(Net).w", "(Net).b", "(Net).mean"]
    ema()
    net.count.value = 5
    net.random.seed(3)
    net.mean.value = jnp.full(3, 4.0)
    key = net.random.value
    ema()
    with ema.swapped():
        assert net.count.value == 5
        assert net.random.value is key
        close(net.mean.value, np.full(3, 2.0))


def test_typed_random_keys_are_not_averaged():
    key = StateVar(jax.random.key(0))
    ema = ExponentialMovingAverage(two_params() + VarCollection({"key": key}))
    ema()
    assert list(ema.refs.keys()) == ["w", "b"]


def test_each_variable_is_averaged_once_however_often_it_is_named():
    vc = two_params()
    opt = optimizer.Momentum(vc)
    everything = VarCollection({"ref": TrainRef(vc["w"])}) + vc + VarCollection({"again": vc["w"]}) + opt.vars()
    ema = ExponentialMovingAverage(everything, 0.5)
    ema()
    opt(0.1, two_grads())
    ema()
    assert list(ema.refs.keys()) == ["w", "b", "(Momentum)[b].m", "(Momentum)[w].m"]
    close(averages(ema)["(Momentum)[w].m"], 0.5 * np.asarray(two_grads()[0]))
    with unchanged(vc, opt.vars()), ema.swapped():
        close(vc["w"].value, np.array([1.0, -2.0, 0.5]) * 0.75 - 0.5 * 0.1 * np.array([0.5, -1.0, 2.0]))


def test_a_collection_of_references_is_averaged_and_swapped():
    vc = two_params()
    ema = ExponentialMovingAverage(VarCollection((name, TrainRef(v)) for name, v in vc.items()), 0.5)
    ema()
    with ema.swapped():
        close(vc["w"].value, [0.5, -1.0, 0.25])


def test_names_of_averages_follow_the_variables():
    ema = ExponentialMovingAverage(Net().vars())
    prefix = "model.(ExponentialMovingAverage)"
    assert list(ema.vars("model.").subset(is_not=TrainRef).keys()) == [
        f"{prefix}.weight",
        f"{prefix}.calls",
        f"{prefix}[(Net).w]",
        f"{prefix}[(Net).b]",
        f"{prefix}[(Net).mean]",
        f"{prefix}.refs[(Net).mean]",
    ]


def test_reordering_the_collection_keeps_names():
    vc = two_params()
    turned = VarCollection(reversed(list(vc.items())))
    names = [set(ExponentialMovingAverage(c).vars().keys()) for c in (vc, turned)]
    assert names[0] == names[1]


# --- exchanging weights for averages ----------------------------------------------------------------------------------


def test_refs_and_values_correspond():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.5)
    ema()
    refs, values = ema.refs_and_values()
    assert all(isinstance(ref, TrainRef) for ref in refs)
    refs.assign(values)
    close(vc["w"].value, [0.5, -1.0, 0.25])
    close(vc["b"].value, 0.125)


def test_swapped_gives_the_weights_back_also_when_the_block_raises():
    net = Net()
    ema = ExponentialMovingAverage(net.vars(), 0.5)
    ema()
    arrays = net.vars().tensors()
    with ema.swapped() as refs:
        assert list(refs.keys()) == ["(Net).w", "(Net).b", "(Net).mean"]
        close(net.w.value, [0.5, -1.0, 0.25])
    with pytest.raises(KeyboardInterrupt), ema.swapped():
        net.w.assign(jnp.zeros(3))
        raise KeyboardInterrupt
    assert all(a is b for a, b in zip(net.vars().tensors(), arrays, strict=True))
    ema()  # usable again


def test_what_the_block_writes_to_averaged_variables_is_lost_and_the_rest_is_kept():
    net = Net()
    ema = ExponentialMovingAverage(net.vars(), 0.5)
    with unchanged(VarCollection({"w": net.w, "b": net.b, "mean": net.mean})), ema.swapped():
        net(X, training=True)
    assert net.count.value == 1


def test_nesting_is_refused_and_leaves_everything_as_it_was():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.5)
    ema()
    with unchanged(vc, ema.vars()):
        with ema.swapped(), pytest.raises(NestingError, match="hold their averages"):
            ema()
        with ema.swapped(), pytest.raises(NestingError, match="Leave the block"), ema.swapped():
            pass
        with ema.swapped(), pytest.raises(NestingError):
            ema.replace_vars(lambda: None)()
    with ema.swapped():
        pass


def test_averages_of_two_momenta_nest_and_come_back_in_order():
    """The inner block ends first, so that each restores what the other had put in: nesting two averages is sound."""
    vc = two_params()
    fast, slow = ExponentialMovingAverage(vc, 0.5), ExponentialMovingAverage(vc, 0.75)
    fast()
    slow()
    with unchanged(vc), fast.swapped():
        with pytest.raises(ZeroDivisionError), slow.swapped():
            close(vc["b"].value, 0.0625)
            raise ZeroDivisionError
        close(vc["b"].value, 0.125)
        with slow.swapped():
            close(vc["b"].value, 0.0625)
        close(vc["b"].value, 0.125)


def test_replace_vars_passes_arguments_and_keeps_the_name():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.5)
    ema()

    def score(x, *, scale):
        """Return the score."""
        return scale * jnp.dot(vc["w"].value, x)

    at_averages = ema.replace_vars(score)
    assert (at_averages.__name__, at_averages.__doc__) == ("score", "Return the score.")
    close(at_averages(jnp.ones(3), scale=2.0), -0.5)
    close(score(jnp.ones(3), scale=2.0), -1.0)


def test_no_gradient_flows_into_the_weights_through_their_averages():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.5)
    ema()
    total = lambda: vc["w"].value.sum() + vc["b"]  # noqa: E731
    teacher = ema.replace_vars(total)
    grads, values = GradValues(lambda: 3.0 * total() - 2.0 * teacher(), vc)()
    close(values[0], 3.0 * -0.25 - 2.0 * -0.125)
    assert [g.tolist() for g in grads] == [[3.0, 3.0, 3.0], 3.0]


# --- under transforms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"debias": True}, {"warmup": True}, {"every": 3}])
def test_jit_equals_eager_and_compiles_once(options):
    vc, twin = two_params(), two_params()
    ema, other = ExponentialMovingAverage(vc, 0.9, **options), ExponentialMovingAverage(twin, 0.9, **options)
    counted = Counted(lambda: ema())
    update = Jit(counted, vc + ema.vars())
    for w in weights(7):
        vc.assign(w)
        twin.assign(w)
        update()
        other()
    assert counted.traces == 1
    for name, average in averages(ema).items():
        close(average, averages(other)[name], ulps=8)


@pytest.mark.parametrize("average_first", [False, True])
def test_training_with_an_average_works_with_donated_memory(average_first):
    def train(donate):
        net = Net()
        ema = ExponentialMovingAverage(net.vars(), 0.0, debias=True)
        opt = optimizer.Momentum(net.vars())
        grad_values = GradValues(loss_of(net), net.vars())
        parts = [net.vars(), opt.vars(), ema.vars()]
        vc = VarCollection()
        for part in reversed(parts) if average_first else parts:
            vc += part

        def step(x, y):
            grads, values = grad_values(x, y)
            opt(0.1, grads)
            ema()
            return values[0]

        step = Jit(step, vc, donate=donate)
        before = net.w.value
        losses = [float(step(X, Y)) for _ in range(4)]
        assert before.is_deleted() == donate
        return losses, bits(net.vars(), opt.vars(), ema.vars())

    assert train(donate=True) == train(donate=False)


def test_donating_functions_leave_weights_and_averages_alone_while_they_are_exchanged():
    net = Net()
    ema = ExponentialMovingAverage(net.vars(), 0.5)
    ema()
    train = Jit(lambda x: net(x, training=True).sum(), net.vars() + ema.vars(), donate=True)
    with ema.swapped():
        first, second = train(X), train(X)
        close(net.w.value, [0.5, -1.0, 0.25])
    assert first != second  # the random numbers went on
    close(net.w.value, [1.0, -2.0, 0.5])
    close(averages(ema)["(Net).w"], [0.5, -1.0, 0.25])
    train(X)
    assert net.count.value == 3


def test_evaluation_under_jit_follows_the_averages_without_a_new_compile():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.5)
    total = Counted(lambda: vc["w"].value.sum())
    evaluate = Jit(ema.replace_vars(lambda: total()), vc + ema.vars())
    seen = []
    for _ in range(3):
        seen.append(float(evaluate()))
        ema()
    close(seen, [-0.5, -0.25, -0.375])
    assert total.traces == 1


def test_scan_equals_a_loop():
    def run(scanned):
        vc = two_params()
        ema = ExponentialMovingAverage(vc, 0.9, warmup=True, every=2)

        def update(w, b):
            vc.assign([w, b])
            ema()

        stacked = [jnp.stack([jnp.asarray(x[name]) for x in weights(6)]) for name in ("w", "b")]
        if scanned:
            Scan(update, vc + ema.vars())(*stacked)
        else:
            for w, b in zip(*stacked, strict=True):
                update(w, b)
        return averages(ema), int(ema.calls)

    (scanned, calls), (looped, n) = run(True), run(False)
    assert calls == n == 6
    for name in looped:
        close(scanned[name], looped[name], ulps=8)


def test_vectorize_averages_the_averages():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.5)

    def update(b):
        vc["b"].assign(b)
        ema()

    Vectorize(update, vc + ema.vars())(jnp.array([1.0, 2.0, 6.0]))
    close(averages(ema)["b"], 1.5)
    assert (int(ema.calls), ema.calls.dtype) == (1, jnp.int32)


def test_an_update_under_a_foreign_jit_raises_and_stores_nothing():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.5)
    named = pytest.raises(TraceMutationError, match=r"'\(ExponentialMovingAverage\)\[w\]'")
    with unchanged(vc, ema.vars()), named:
        jax.jit(lambda: ema())()


def test_an_update_that_raises_changes_nothing():
    class Broken(StateVar):
        def checked(self, tensor):
            raise RuntimeError("no")

    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.5)
    ema()
    ema.calls.__class__ = Broken
    with unchanged(vc, ema.vars()), pytest.raises(RuntimeError):
        ema()


# --- construction, copies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("momentum", float("nan")),
        ("momentum", "0.9"),
        ("momentum", None),
        ("momentum", True),
        ("momentum", np.array([0.9, 0.99])),
        ("momentum", jnp.array([0.9])),
        ("eps", -1e-6),
        ("eps", 1.0),
        ("every", 0),
        ("every", 1.5),
        ("every", True),
        ("debias", 1e-6),
        ("warmup", 100),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(HyperparameterError, match=f"ExponentialMovingAverage: hyperparameter '{name}'"):
        ExponentialMovingAverage(two_params(), **{name: value})


@pytest.mark.parametrize("momentum", [np.float64(0.75), np.float32(0.75), np.array(0.75), jnp.float32(0.75)])
def test_numpy_and_jax_scalars_are_options_too(momentum):
    ema = ExponentialMovingAverage(two_params(), momentum)
    assert (type(ema.momentum), ema.momentum) == (float, 0.75)


def test_nothing_to_average_is_refused():
    with pytest.raises(StructureError, match="nothing to average"):
        ExponentialMovingAverage(VarCollection({"n": StateVar(jnp.int32(0)), "key": RandomState(0)}))


def test_a_module_in_place_of_its_variables_is_refused_with_the_fix():
    with pytest.raises(StructureError, match=r"model\.vars\(\)"):
        ExponentialMovingAverage(Net())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_independent_and_keep_sharing_among_themselves(duplicate):
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.5)
    ema()
    vc2, ema2 = duplicate((vc, ema))
    with unchanged(vc, ema.vars()):
        vc2["w"].assign(jnp.ones(3))
        ema2()
    close(averages(ema2)["w"], 0.25 * np.array([1.0, -2.0, 0.5]) + 0.5)


def test_a_copy_made_at_the_averages_can_be_used():
    vc = two_params()
    ema = ExponentialMovingAverage(vc, 0.5)
    ema()
    with ema.swapped():
        vc2, ema2 = copy.deepcopy((vc, ema))
    close(vc2["b"].value, 0.125)
    ema2()
    close(averages(ema2)["b"], 0.125)


def test_repr_tells_the_options_and_the_number_of_variables():
    text = repr(ExponentialMovingAverage(two_params(), 0.9, True, every=2))
    assert text == "ExponentialMovingAverage(momentum=0.9, debias=True, warmup=False, every=2; 2 variables)"


def test_the_name_in_objax_is_kept():
    assert optimkit.optimizer.ExponentialMovingAverage is ExponentialMovingAverage
