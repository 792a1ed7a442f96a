"""What accumulators, factored moments, signs and optimism claim beyond their oracles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import rules
from optimkit.errors import CompositionError, DTypeError
from optimkit.rules.base import Step
from optimkit.testing import streams
from optimkit.testing.compare import require_close, require_identical, rounding
from optimkit.testing.runner import compiled, eager, run

from .oracles import optimistic

PARAMS = streams.parameters()
GRADS = streams.gradients(PARAMS, 6)


def same_bits(rule, other, update):
    """Raise unless two rules do the same over GRADS, to the last bit."""
    got, expected = run(rule, PARAMS, GRADS, update=update), run(other, PARAMS, GRADS, update=update)
    for t in range(len(GRADS)):
        require_identical(repr(rule), got.params[t], expected.params[t], f"parameters at step {t + 1}")


def slots_of(rule, shape):
    """Return the shapes of a rule's memory of one parameter."""
    return {name: x.shape for name, x in rule.init({"w": jnp.ones(shape)})["slots"]["w"].items()}


@pytest.mark.parametrize(
    ("named", "chain"),
    [
        (
            rules.LAMB(0.8, weight_decay=0.3),
            rules.Chain(rules.Adam(0.8, eps=1e-6), rules.WeightDecay(0.3), rules.TrustRatio()),
        ),
        (rules.OptimisticAdam(0.8, beta=0.5), rules.Chain(rules.Adam(0.8), rules.OptimisticGradient(beta=0.5))),
        (rules.RMSProp(0.8, momentum=0.7), rules.Chain(rules.RMSProp(0.8), rules.Momentum(0.7))),
        (
            rules.RMSProp(0.8, centered=True, momentum=0.7, nesterov=True),
            rules.Chain(rules.RMSProp(0.8, centered=True), rules.Momentum(0.7, nesterov=True)),
        ),
    ],
    ids=["LAMB", "OptimisticAdam", "RMSProp", "Graves' RMSProp"],
)
@pytest.mark.parametrize("update", [eager, compiled], ids=["eager", "compiled"])
def test_rule_is_its_chain_to_the_last_bit(named, chain, update):
    same_bits(named, chain, update)


@pytest.mark.parametrize("rule_type", [rules.Lion, rules.CAME, rules.Adafactor])
def test_weight_decay_of_its_own_is_that_of_a_chain(rule_type):
    """To the last bit eagerly; compiled, the two are fused at other places."""
    same_bits(rule_type(weight_decay=0.3), rules.Chain(rule_type(), rules.WeightDecay(0.3)), eager)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "shape", "expected"),
    [
        (rules.SM3(), (), {"mu_0": ()}),
        (rules.SM3(), (5,), {"mu_0": (5,)}),
        (rules.SM3(0.9), (2, 3, 4), {"mu_0": (2,), "mu_1": (3,), "mu_2": (4,), "m": (2, 3, 4)}),
        (rules.Adafactor(), (128, 127), {"v": (128, 127)}),
        (rules.Adafactor(), (3, 256, 128), {"v_row": (3, 128), "v_col": (3, 256)}),
        (rules.Adafactor(factored=False, momentum=0.9), (256, 128), {"v": (256, 128), "m": (256, 128)}),
        (rules.CAME(), (2, 3), {"m": (2, 3), "v_row": (2,), "v_col": (3,), "s_row": (2,), "s_col": (3,)}),
        (rules.CAME(), (3,), {"m": (3,), "v": (3,)}),
        (rules.RMSProp(), (2,), {"nu": (2,)}),
        (rules.RMSProp(centered=True, momentum=0.9), (2,), {"nu": (2,), "mu": (2,), "m": (2,)}),
    ],
)
def test_memory_is_what_the_docstring_says(rule, shape, expected):
    assert slots_of(rule, shape) == expected


def test_adafactor_keeps_momentum_in_a_dtype_of_its_own():
    rule = rules.Adafactor(momentum=0.9, momentum_dtype="bfloat16")
    result = run(rule, PARAMS, GRADS)
    kinds = {name.rpartition(".")[2]: x.dtype for name, x in result.states[-1].items()}
    assert (kinds["m"], kinds["v"]) == (jnp.bfloat16, np.float32)
    wide = run(rules.Adafactor(momentum=0.9), PARAMS, GRADS)
    # Each m is rounded to 8 bits once a step, and forgotten by a tenth a step: it is off by 2^-8 at most.
    require_close("bfloat16", result.params, wide.params, wide.start, 2.0**-8)


def test_a_momentum_in_float64_needs_64_bit_mode():
    with pytest.raises(DTypeError, match="momentum_dtype='float64' needs 64-bit mode"):
        rules.Adafactor(momentum=0.9, momentum_dtype="float64").init({"w": jnp.ones(2)})


# --- branches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1, 5, 2**31 - 1])
def test_adafactor_before_its_step_offset_has_no_memory(offset):
    """flax and optax take a power of a negative number there, NaN. Without memory all steps are of size lr."""
    rule = rules.Adafactor(step_offset=offset, multiply_by_parameter_scale=False, clipping_threshold=float("inf"))
    result = run(rule, {"w": np.zeros(3, np.float32)}, [{"w": np.array([1.0, -10.0, 0.1])}] * 3 + [{"w": np.ones(3)}])
    sizes = np.abs([delta["w"] for delta in result.deltas])
    np.testing.assert_allclose(sizes[: offset + 1], 0.05, rtol=1e-6)
    if offset < 3:  # then it remembers
        assert (sizes[3] > 0.06).any() and (sizes[3] < 0.04).any()


def test_adafactor_is_chainable_unless_lr_is_in_its_memory_or_not_in_its_decay():
    assert rules.Adafactor(weight_decay=0.1).chainable
    for rule in (rules.Adafactor(momentum=0.9), rules.Adafactor(weight_decay=0.1, independent_decay=True)):
        assert not rule.chainable
        with pytest.raises(CompositionError, match="Adafactor at place 1 of 2"):
            rules.Chain(rule, rules.WeightDecay())


def test_factored_moments_do_not_underflow():
    """The product of a row and a column is below float32's range where neither of them is."""
    scale = {"w": np.float64([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])}
    for rule in (rules.Adafactor(min_dim_size_to_factor=2, eps1=0.0), rules.CAME(eps1=0.0, eps2=0.0)):
        usual = run(rule, {"w": np.ones((2, 3), np.float32)}, [scale])
        small = run(rule, {"w": np.ones((2, 3), np.float32)}, [{"w": 1e-16 * scale["w"]}])
        require_close(repr(rule), small.params, usual.params, usual.start, rounding(1))


def test_centered_rmsprop_follows_a_steady_gradient():
    """With ν − μ² as it is written, float32 has nothing left of the variance after some steps, or less than nothing."""
    decay, steps, grads = 0.5, 12, {"w": np.full(1, 3.0)}
    result = run(rules.RMSProp(decay, eps=0.0, centered=True), {"w": np.zeros(1, np.float32)}, [grads] * steps)
    # The mean is off by 3 decay^t, and ν − μ² = 9 decay^t (1 − decay^t)
    expected = [-0.05 / np.sqrt(decay**t * (1 - decay**t)) for t in range(1, steps + 1)]
    np.testing.assert_allclose([d["w"][0] for d in result.deltas], expected, rtol=1e-5)


def test_sm3_never_takes_a_longer_step_than_adagrad():
    start = {"w": np.zeros((4, 5), np.float32)}
    grads = streams.gradients(start, 20)
    ours, adagrad = run(rules.SM3(), start, grads), run(rules.AdaGrad(eps=0.0), start, grads)
    for mine, longest in zip(ours.deltas, adagrad.deltas, strict=True):
        assert (np.abs(mine["w"]) <= np.abs(longest["w"]) * (1 + 1e-6)).all()


def test_rprop_steps_at_once():
    """optax's first step is 0, and each further one is that of the call before."""
    result = run(rules.RProp(initial_step=0.25), PARAMS, GRADS, lr=1.0)
    for name, delta in result.deltas[0].items():
        np.testing.assert_array_equal(delta, -0.25 * np.sign(GRADS[0][name]))


def test_rprop_takes_back_exactly_the_step_that_was_too_far():
    grads = [{"w": np.array([g])} for g in (1.0, 2.0, -1.0)]
    rule, start = rules.RProp(initial_step=0.25, eta_plus=2.0), {"w": np.zeros(1, np.float32)}
    assert [x["w"][0] for x in run(rule, start, grads, lr=1.0).params] == [-0.25, -0.75, -0.25]


def test_fromage_keeps_the_length_of_a_parameter_whose_gradient_is_across():
    start = {"w": np.array([3.0, 0.0], np.float32)}
    for lr in (1e-3, 0.1, 1.0, 10.0):
        end = run(rules.Fromage(), start, [{"w": np.array([0.0, 1.0])}], lr=lr).params[-1]["w"]
        np.testing.assert_allclose(np.linalg.norm(end), 3.0, rtol=1e-6)
        np.testing.assert_allclose(end[1] / end[0], -lr, rtol=1e-6)


def test_fromage_shrinks_by_small_rates_to_float32_accuracy():
    """1 / √(1 + lr²) − 1, as it is written, is off by a tenth at lr = 1e-3."""
    rule, p = rules.Fromage(), {"w": jnp.ones(1)}
    delta, _ = rule.update(Step({"w": jnp.zeros(1)}, p, jnp.float32(1e-3)), rule.init(p))
    np.testing.assert_allclose(delta["w"], 1 / np.sqrt(1 + np.float64(np.float32(1e-3)) ** 2) - 1, rtol=1e-6)


# --- noise ------------------------------------------------------------------------------------------------------------


def noise(names, rule, steps=1, dtype=None):
    """Return the displacements at rate -1 of zero gradients, which are the noise: one dict for each step."""
    params = {name: np.zeros(20_000, np.float32) for name in names}
    result = run(rule, params, [params] * steps, lr=1.0, dtype=dtype)
    return [{name: -d for name, d in delta.items()} for delta in result.deltas]


def test_noise_is_normal_with_the_variance_of_the_paper():
    draws = noise("a", rules.NoisySGD(eta=0.5, gamma=1.0), steps=4)
    for t, draw in enumerate(draws, start=1):
        z = np.float64(draw["a"]) / np.sqrt(0.5 / t)
        # Standard errors of the first four moments of n normal draws: 1, sqrt(2), sqrt(15), sqrt(96), over sqrt(n)
        for power, expected, error in ((1, 0, 1.0), (2, 1, 2.0), (3, 0, 15.0), (4, 3, 96.0)):
            assert abs(np.mean(z**power) - expected) < 5 * np.sqrt(error / z.size)


def test_noise_is_independent_between_steps_names_and_seeds():
    draws = [x[name] for seed in (0, 1) for x in noise("ab", rules.NoisySGD(seed=seed), 2) for name in "ab"]
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / np.sqrt(20_000)


def test_noise_does_not_depend_on_other_parameters_or_dtype():
    rule = rules.NoisySGD()
    alone, together, half = noise("b", rule), noise("abc", rule), noise("b", rule, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(alone[0]["b"], together[0]["b"])
    np.testing.assert_array_equal(alone[0]["b"], half[0]["b"])


# --- Polyak's step ----------------------------------------------------------------------------------------------------

LOSSES = np.float32([3.0, 0.5, -1.0, 2.0, 0.0, 1.5])  # below and above f_min


def polyak(lr=0.7, **hyper):
    """Return the parameters after each step with losses that vary."""
    rule, params, way = rules.PolyakSGD(**hyper), streams.arrays(PARAMS), []
    for g, value in zip(GRADS, LOSSES, strict=True):
        delta, _ = rule.update(Step(streams.arrays(g, jnp.float32), params, jnp.float32(lr), value=value), {})
        params = {name: p + delta[name] for name, p in params.items()}
        way.append({name: np.asarray(p) for name, p in params.items()})
    return way


POLYAK = {"max_step": 0.05, "scaling": 0.5, "f_min": 0.25, "eps": 0.5, "variant": "sps"}


@pytest.mark.parametrize("variant", ["sps", "sps+"])
def test_polyak_follows_its_oracle_where_the_loss_varies(variant):
    hyper = POLYAK | {"variant": variant}
    grads = [{name: np.float64(np.float32(x)) for name, x in g.items()} for g in GRADS]
    expected = optimistic.oracle_polyak_sgd(PARAMS, grads, 0.7, value=LOSSES.tolist(), **hyper)
    require_close("PolyakSGD", polyak(**hyper), expected, PARAMS, rounding(len(GRADS)))


@pytest.mark.parametrize(
    ("name", "value"), [("max_step", 0.055), ("scaling", 0.55), ("f_min", 0.275), ("eps", 0.55), ("variant", "sps+")]
)
def test_polyak_hyperparameters_matter_where_the_loss_varies(name, value):
    usual, other = polyak(**POLYAK)[-1], polyak(**POLYAK | {name: value})[-1]
    assert max(np.abs(usual[name] - other[name]).max() for name in usual) > 1e-3


@pytest.mark.parametrize("hyper", [{}, {"max_step": float("inf")}, {"variant": "sps+"}, {"eps": 1.0}])
def test_polyak_does_not_move_at_a_zero_gradient(hyper):
    rule, params = rules.PolyakSGD(**hyper), streams.arrays(PARAMS)
    delta, _ = rule.update(Step(jax.tree.map(jnp.zeros_like, params), params, jnp.float32(1.0), value=5.0), {})
    assert all(not np.asarray(d).any() for d in delta.values())


def test_polyak_takes_the_whole_step_where_squares_leave_float32():
    """A loss linear in w, of slope 1e-25 or 1e25, is brought to its minimum by one step."""
    for slope in (1e-25, 1e25):
        rule, value = rules.PolyakSGD(max_step=float("inf")), jnp.float32(1.0)
        delta, _ = rule.update(Step({"w": jnp.full(4, slope)}, {"w": jnp.zeros(4)}, jnp.float32(1.0), value=value), {})
        np.testing.assert_allclose(np.sum(np.float64(delta["w"]) * slope), -1.0, rtol=1e-6)
