"""Weight normalization: what the inner rule sees, and what becomes of weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import TrainVar, VarCollection, pure, rules
from optimkit.optimizer import Optimizer
from optimkit.testing import streams
from optimkit.testing.compare import require_close, require_identical, rounding
from optimkit.testing.hyperparameters import TOLERANCE
from optimkit.testing.oracle import rounded
from optimkit.testing.runner import eager, run

from .oracles import wrappers
from .wrapping import BOTH, PARAMS, SecondLook


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weight_normalization_follows_its_oracle(momentum, scale):
    """Within 5e-6 over 100 steps, relative to the size of a column and the way that it went.

    Long steps turn a column around, and leave single elements small beside the others, whose roundings they share.
    """
    rates = np.float32(np.geomspace(0.1, 0.01, 100)).tolist()
    start = {"weight": PARAMS["weight"], "rank5": np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 2, 1, 3, 2)}
    grads = [rounded(g) for g in streams.gradients(start, 100, scale, seed=5)]
    got = run(rules.WeightNorm(rules.Momentum(momentum)), start, grads, lr=rates)
    wide = {name: np.float64(p) for name, p in start.items()}
    expected = wrappers.oracle_weight_norm(wide, grads, rates, momentum=momentum)

    def columns(x):
        return np.linalg.norm(np.reshape(x, (-1, np.shape(x)[-1])), axis=0)

    for name, position in wide.items():
        size, way = columns(position), 0.0
        for t in range(100):
            way = way + columns(expected[t][name] - position)
            position = expected[t][name]
            size = np.maximum(size, columns(position))
            error = columns(np.float64(got.params[t][name]) - position) / (size + way)
            assert error.max() <= TOLERANCE, f"{name} at step {t + 1}"


def test_directions_and_scales_have_the_gradients_of_autodiff():
    """The inner rule sees v and g, at which the weight is w, and the gradients of the loss in v and g."""
    seen = {}

    class Look(rules.SGD):
        def update(self, step, state):
            seen.update(params=step.params, grads=step.grads)
            return super().update(step, state)

    rng = np.random.default_rng(1)
    w, target = (jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32) for _ in range(2))

    def loss(w):
        return jnp.sum((w - target) ** 3)

    def joined(parts):
        v = parts["direction"]
        return parts["scale"] * v / jnp.sqrt(jnp.sum(v**2, (0, 1)))

    init, apply = pure(rules.WeightNorm(Look()), 0.01)
    state, params = init({"w": w}), {"w": w}
    for _ in range(3):  # at the third step v is longer than 1
        parts_of = jax.grad(lambda parts: loss(joined(parts)))
        state, new = apply(jax.grad(lambda p: loss(p["w"]))(params), state, params)
        np.testing.assert_allclose(joined(seen["params"]["w"]), params["w"], rtol=2e-6, atol=1e-6)
        for name, g in parts_of(seen["params"]["w"]).items():
            np.testing.assert_allclose(seen["grads"]["w"][name], g, rtol=1e-4, atol=1e-4)
        params = new
    assert (state["norm"]["w"] > 1).all(), "steps are orthogonal to v, so that it grows"


def test_weights_are_split_where_a_column_has_more_than_one_number():
    shapes = {"matrix": (2, 3), "column": (3, 1), "row": (1, 3), "vector": (3,), "scalar": (), "empty": (0, 3)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    rule = rules.WeightNorm(rules.Momentum())
    norms = {name: None if n is None else n.shape for name, n in rule.init(params)["norm"].items()}
    assert norms == {"matrix": (3,), "column": (1,), "row": None, "vector": None, "scalar": None, "empty": None}
    rest = {name: np.asarray(params[name]) for name, n in norms.items() if n is None}
    grads = streams.gradients(rest, 3)
    got, expected = (run(r, rest, grads, update=eager).params[-1] for r in (rule, rules.Momentum()))
    require_identical("WeightNorm", got, expected, "parameters that are not split")


def test_weights_that_are_changed_from_outside_are_where_the_next_step_begins():
    """flax.optim kept a copy of its own and wrote it over them. Here it is another weight with the same ‖v‖."""
    vc = VarCollection({"w": TrainVar(jnp.array([[3.0], [4.0]]))})
    opt = Optimizer(vc, rules.WeightNorm(rules.SGD()))
    opt(0.1, [jnp.array([[1.0], [-2.0]])])
    norm = opt.state["w"].norm.value
    vc["w"].assign(jnp.array([[0.0], [2.0]]))
    opt(0.1, [jnp.array([[1.0], [3.0]])])
    # g = 2 - 0.1 · 3;  v = ‖v‖ (0, 1) - 0.1 (2 / ‖v‖) (1, 0)
    v = np.array([-0.2 / norm[0], norm[0]])
    np.testing.assert_allclose(vc["w"].value.ravel(), 1.7 * v / np.linalg.norm(v), rtol=1e-6)


def test_a_column_of_zeros_learns():
    params, grads = {"w": jnp.zeros((2, 3))}, {"w": jnp.array([[3.0, 0.0, 1.0], [4.0, 0.0, 0.0]])}
    init, apply = pure(rules.WeightNorm(rules.SGD()), 0.5)
    state, params = apply(grads, init(params), params)
    np.testing.assert_allclose(params["w"], -0.5 * grads["w"], rtol=1e-6)
    state, params = apply(grads, state, params)
    np.testing.assert_allclose(params["w"], -1.0 * grads["w"], rtol=1e-6)


def test_a_scale_may_pass_zero_and_its_direction_stays():
    rule = rules.WeightNorm(rules.Momentum(0.5))
    start = {"w": np.float32([[0.3], [0.4]])}
    grads = [{"w": np.array([[1.8], [2.4]]) + np.array([[0.12], [-0.09]]) * (-1) ** t} for t in range(40)]
    rates = [0.1] * 40
    got = run(rule, start, grads, lr=rates)
    expected = wrappers.oracle_weight_norm({"w": np.float64(start["w"])}, grads, rates, momentum=0.5)
    assert got.params[-1]["w"].max() < 0
    assert (got.states[-1]["norm.w"] < 0).all()
    require_close("WeightNorm", got.params, expected, got.start, rounding(40))


@BOTH
def test_what_the_inner_rule_does_not_move_stays(update):
    """To the last bit, though a weight taken apart and put together is another one."""
    rng = np.random.default_rng(0)
    start = {"w": np.float32(rng.normal(size=(7, 5))), "b": np.float32(rng.normal(size=5))}
    start["w"][0, 0] = -0.0
    rule = rules.WeightNorm(rules.Accumulated(rules.SGD(), 3))
    result = run(rule, start, streams.gradients(start, 2), update=update)
    require_identical("WeightNorm", result.params[-1], result.start, "parameters before the third call")
    rebuilt = np.linalg.norm(start["w"], axis=0) * (start["w"] / np.linalg.norm(start["w"], axis=0))
    assert (rebuilt != start["w"]).any(), "this start would not show it"


def test_directions_alone_can_decay():
    rule = rules.WeightNorm(rules.Chain(rules.Masked(rules.WeightDecay(0.5), r"direction$"), rules.SGD()))
    init, apply = pure(rule, 0.1)
    params = {"w": jnp.array([[3.0], [4.0]])}
    state, new = apply(jax.tree.map(jnp.zeros_like, params), init(params), params)
    np.testing.assert_allclose(new["w"], params["w"], rtol=1e-6)
    np.testing.assert_allclose(state["norm"]["w"], [0.95], rtol=1e-6)


def test_a_direction_that_has_decayed_away_leaves_zeros_which_learn_again():
    rule = rules.WeightNorm(rules.Chain(rules.Masked(rules.WeightDecay(1.0), r"direction$"), rules.SGD()))
    init, apply = pure(rule, 1.0)
    params = {"w": jnp.array([[3.0], [4.0]])}
    state, params = apply(jax.tree.map(jnp.zeros_like, params), init(params), params)
    assert params["w"].tolist() == [[0.0], [0.0]]
    assert state["norm"]["w"] == 1.0
    _, params = apply({"w": jnp.array([[0.3], [0.4]])}, state, params, lr=0.1)
    np.testing.assert_allclose(params["w"], [[-0.03], [-0.04]], rtol=1e-6)


@pytest.mark.parametrize("need", ["grad_fn", "value_and_grad_fn"])
def test_gradients_elsewhere_are_those_in_directions_and_scales(need):
    """The gradient of |w|² / 2 + c w, with c across w.

    At (2 v, 2 g) it is 2 w + c, which is 10 in g = 5, and (10 / 2) c in v = w / 5.
    """

    class There(SecondLook):
        needs = (need,)

        def update(self, step, state):
            f = step.grad_fn or (lambda p: step.value_and_grad_fn(p)[1])
            return super().update(step.replace(grad_fn=f), state)

    def grad_fn(p):
        return {"w": p["w"] + jnp.array([[-0.08], [0.06]]), "b": 1.0 * p["b"]}

    params = {"w": jnp.array([[3.0], [4.0]]), "b": jnp.array([1.0, 2.0])}
    inputs = {"grad_fn": grad_fn, "value_and_grad_fn": lambda p: (jnp.float32(0.0), grad_fn(p))}
    init, apply = pure(rules.WeightNorm(There()), 0.1)
    _, new = apply(params, init(params), params, **{need: inputs[need]})
    v = np.array([0.6 + 0.04, 0.8 - 0.03])
    np.testing.assert_allclose(new["w"].ravel(), 4.0 * v / np.linalg.norm(v), rtol=1e-6)
    np.testing.assert_allclose(new["b"], 0.8 * params["b"], rtol=1e-6)


def test_evaluation_inside_weight_normalization_is_of_directions_and_scales():
    rule = rules.WeightNorm(rules.Averaged(rules.SGD()))
    init, apply = pure(rule, 1.0)
    params = {"w": jnp.array([[3.0], [4.0]])}
    state = init(params)
    assert rule.eval_params(state, params)["w"].tolist() == params["w"].tolist()
    for _ in range(2):  # g = 5, 4, 3
        state, params = apply({"w": jnp.array([[0.6], [0.8]])}, state, params)
    np.testing.assert_allclose(rule.eval_params(state, params)["w"].ravel(), [0.6 * 3.5, 0.8 * 3.5], rtol=1e-6)
    plain = rules.WeightNorm(rules.SGD())
    assert plain.eval_params(plain.init(params), params)["w"] is params["w"]
