"""The module that runs another one at the moving averages of its variables."""

from __future__ import annotations

import copy
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

import optimkit
from optimkit import ForceArgs, GradValues, Jit, ModuleList, TrainRef, optimizer
from optimkit.errors import NestingError, StructureError
from optimkit.optimizer import ExponentialMovingAverageModule

from .shell import Counted, Net, X, Y, bits, close, loss_of, unchanged


def moved(**options):
    """Return a net and its average, after weights (1, -2, .5) and (3, 2, -.5) were taken in."""
    net = Net()
    averaged = ExponentialMovingAverageModule(net, 0.5, **options)
    averaged.update_ema()
    net.w.assign([3.0, 2.0, -0.5])
    averaged.update_ema()
    return net, averaged


def test_a_call_runs_the_module_at_the_averages_and_gives_the_weights_back():
    net, averaged = moved()
    raw = net(X)
    with unchanged(net.vars(), averaged.vars()):
        got = averaged(X)
    close(got, X @ np.array([1.75, 0.5, -0.125]) + 0.75 * 0.25)
    close(raw, X @ np.array([3.0, 2.0, -0.5]) + 0.25)


def test_options_reach_the_average():
    _, averaged = moved(debias=True, eps=0.25)
    close(averaged(np.zeros(3, np.float32)), 0.25 * 0.75 / (1 - 0.75 * 0.25))
    ema = ExponentialMovingAverageModule(Net(), 0.9, True, 0.5, warmup=True, every=3).ema
    assert (ema.momentum, ema.debias, ema.eps, ema.warmup, ema.every) == (0.9, True, 0.5, True, 3)


def test_a_call_passes_all_arguments_by_position_and_by_name():
    class Echo(Net):
        def __call__(self, *args, **kwargs):
            return args, kwargs

    assert ExponentialMovingAverageModule(Echo())(1, "two", three=3) == ((1, "two"), {"three": 3})


def test_the_weights_come_back_when_the_module_raises():
    net, averaged = moved()
    with unchanged(net.vars(), averaged.vars()), pytest.raises(TypeError):
        averaged(X.astype("complex64").tolist())
    averaged(X)


def test_an_update_during_a_call_is_refused():
    class Meddling(Net):
        def __call__(self):
            averaged.update_ema()

    averaged = ExponentialMovingAverageModule(Meddling())
    with unchanged(averaged.vars()), pytest.raises(NestingError):
        averaged()


def test_a_call_in_training_keeps_what_is_not_averaged():
    net, averaged = moved()
    with unchanged(optimkit.VarCollection({"mean": net.mean, "w": net.w})):
        averaged(X, training=True)
    assert net.count.value == 1
    assert net.random.value.tolist() != Net().random.value.tolist()


def test_vars_are_the_modules_own_and_those_of_the_average():
    net = Net()
    averaged = ExponentialMovingAverageModule(net)
    names = averaged.vars("x.").keys()
    own = "x.(ExponentialMovingAverageModule).ema(ExponentialMovingAverage)"
    assert list(names)[:5] == list(net.vars("x.").keys())
    assert set(list(names)[5:]) == {
        f"{own}.weight",
        f"{own}.calls",
        f"{own}[(Net).w]",
        f"{own}[(Net).b]",
        f"{own}[(Net).mean]",
        f"{own}.refs[(Net).w]",
        f"{own}.refs[(Net).b]",
        f"{own}.refs[(Net).mean]",
    }
    # together with the model and its optimizer nothing clashes, and nothing is there twice
    opt = optimizer.Momentum(net.vars())
    together = net.vars() + opt.vars() + ExponentialMovingAverageModule(net).vars()
    assert len(list(together)) == 5 + 3 + 5


def test_it_can_be_a_part_of_a_module():
    net = Net()
    parts = ModuleList([net, ExponentialMovingAverageModule(net)])
    names = list(parts.vars().keys())
    assert names[0] == "(ModuleList)[0](Net).w"
    assert names[5] == "(ModuleList)[1](Net).w"
    assert len(list(parts.vars())) == 10


def test_training_and_evaluation_under_jit_equal_eager_and_compile_once():
    def run(compiled):
        net = Net()
        averaged = ExponentialMovingAverageModule(net, 0.5, debias=True)
        opt = optimizer.Momentum(net.vars())
        grad_values = GradValues(loss_of(net), net.vars())

        def train(x, y, lr):
            grads, values = grad_values(x, y)
            opt(lr, grads)
            averaged.update_ema()
            return values[0]

        counted = Counted(train)
        train = Jit(counted, net.vars() + averaged.vars() + opt.vars(), donate=True) if compiled else train
        evaluate = Jit(averaged) if compiled else averaged
        outputs = [evaluate(X)]
        for lr in (0.1, 0.05, 0.02):
            train(X, Y, lr)
            outputs.append(evaluate(X))
        assert not compiled or counted.traces == 1
        return outputs, net

    (compiled, net), (eager, twin) = run(True), run(False)
    for got, wanted in zip(compiled, eager, strict=True):
        close(got, wanted, ulps=32)
    close(net.w.value, twin.w.value, ulps=32)
    assert np.abs(np.asarray(eager[-1]) - np.asarray(net(X))).max() > 0.01  # it was the average that was evaluated


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_independent_and_shares_its_variables_with_its_own_average(duplicate):
    net, averaged = moved()
    twin = duplicate(averaged)
    close(twin(X), averaged(X), ulps=0)
    with unchanged(net.vars(), averaged.vars()):
        for v in twin.vars().subset(TrainRef):
            v.assign(jnp.zeros_like(v.value))
        twin.update_ema()
    refs = twin.ema.refs
    assert refs["(Net).w"].value.tolist() == twin.__wrapped__.w.value.tolist() == [0.0, 0.0, 0.0]
    close(twin(np.ones(3, np.float32)), 0.5 * (0.75 * 0.25 + 1.75 + 0.5 - 0.125))


def test_arguments_can_be_forced_on_the_module_inside():
    net, averaged = moved()
    evaluated = ForceArgs(averaged, training=False)
    with unchanged(net.vars()):
        close(evaluated(X, training=True), averaged(X))
    averaged.update_ema()


def test_what_is_no_module_is_refused_with_the_fix():
    with pytest.raises(StructureError, match="For variables without a module use ExponentialMovingAverage"):
        ExponentialMovingAverageModule(lambda x: x)


def test_repr_shows_the_module_and_the_average():
    text = repr(ExponentialMovingAverageModule(Net()))
    assert text.startswith("ExponentialMovingAverageModule(\n  Net(")
    assert "ExponentialMovingAverage(momentum=0.999" in text


def test_a_step_of_training_does_not_touch_the_averages():
    net, averaged = moved()
    opt = optimizer.SGD(net.vars())
    before = bits(averaged.ema.vars().subset(is_not=TrainRef))
    opt(0.1, [jnp.ones(3), jnp.float32(1)])
    assert bits(averaged.ema.vars().subset(is_not=TrainRef)) == before
