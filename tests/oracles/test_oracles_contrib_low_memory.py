"""The oracles of GaLore, Adam-mini, MARS, Sophia and PSGD-Kron against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from .contrib_adam_mini import oracle_adam_mini
from .contrib_galore import oracle_galore
from .contrib_kron import DAMPING, lower_bound, oracle_psgd_kron
from .contrib_mars import oracle_mars, oracle_mars_lion, oracle_mars_shampoo
from .contrib_sophia import oracle_sophia
from .form import takes_every_shape_and_keeps_its_inputs
from .test_oracles import assert_steps, steps

SIGN = {"beta1": 0.0, "beta2": 0.0}  # Adam's direction is g / (|g| + eps)


def test_galore_by_hand():
    # rank 1 keeps the larger singular value: 3 / (3 + 1), times 0.5; the basis stays, so that 0 and 2 become 0
    grads = steps(np.diag([3.0, 1.0]), np.diag([0.0, 2.0]), np.diag([0.0, 2.0]))
    got = oracle_galore(steps(np.zeros((2, 2)))[0], grads, 1.0, rank=1, frequency=2, scale=0.5, eps=1.0, **SIGN)
    first, last = np.diag([-0.375, 0.0]), np.diag([-0.375, -0.5 * 2 / 3])
    assert_steps(got, first, first, last)
    # no side is longer than the rank: Adam
    got = oracle_galore(steps(np.zeros((2, 2)))[0], grads[:1], 1.0, rank=2, eps=1.0, **SIGN)
    assert_steps(got, np.diag([-0.75, -0.5]))
    # more rows than columns: as if turned around
    got = oracle_galore(steps(np.zeros((3, 2)))[0], steps([[0.0, 3.0], [1.0, 0.0], [0.0, 0.0]]), 1.0, rank=1, scale=1.0,
                        eps=1.0, **SIGN)  # fmt: skip
    assert_steps(got, [[0.0, -0.75], [0.0, 0.0], [0.0, 0.0]])


def test_adam_mini_by_hand():
    g = [[3.0, 1.0], [4.0, 1.0]]
    start, hyper = np.zeros((2, 2)), {**SIGN, "eps": 0.0}
    column, row = math.sqrt(12.5), math.sqrt(5.0)
    got = oracle_adam_mini(steps(start)[0], steps(g), 1.0, **hyper)
    assert_steps(got, [[-3 / column, -1.0], [-4 / column, -1.0]])
    got = oracle_adam_mini(steps(start)[0], steps(g), 1.0, layout="out_in", **hyper)
    assert_steps(got, [[-3 / row, -1 / row], [-4 / math.sqrt(8.5), -1 / math.sqrt(8.5)]])
    for kind, wanted in (("each", -np.ones((2, 2))), ("whole", -np.array(g) / math.sqrt(27 / 4))):
        assert_steps(oracle_adam_mini(steps(start)[0], steps(g), 1.0, kinds={"w": kind}, **hyper), wanted)
    # two heads of two neurons each
    hyper |= {"heads": 2}
    got = oracle_adam_mini(steps([[0.0] * 4])[0], steps([[1.0, 7.0, 3.0, 3.0]]), 1.0, kinds={"w": "heads"}, **hyper)
    assert_steps(got, [[-0.2, -1.4, -1.0, -1.0]])
    # a vector is one block; decay is 0.1 · 0.5
    got = oracle_adam_mini(steps([1.0, 1.0])[0], steps([1.0, 7.0]), 0.1, weight_decay=0.5, **hyper)
    assert_steps(got, [1 - 0.02 - 0.05, 1 - 0.14 - 0.05])


def test_mars_by_hand():
    # γ β1 / (1 - β1) = 1: c = 0.25 + 0.25, then 0.5 + 0.25; means 0.5 and (0.125 + 0.375) / 0.75
    hyper = {"beta1": 0.5, "beta2": 0.0, "eps": 0.0, "gamma": 1.0, "weight_decay": 0.0}
    got = oracle_mars(steps(0.0)[0], steps(0.25, 0.5), 0.1, **hyper)
    assert_steps(got, -0.1, -0.1 - 0.1 * (2 / 3) / 0.75)
    # c = (6, 8) is cut to (0.6, 0.8), of which Adam makes signs but for eps
    got = oracle_mars(steps([0.0, 0.0])[0], steps([3.0, 4.0]), 1.0, **{**hyper, "eps": 1.0})
    assert_steps(got, [-0.6 / 1.6, -0.8 / 1.8])
    # exact, curvature 1: at first c = 0.5; then the old gradient is 0.25 + (0 - -0.1) = 0.35, c = 0.25 - 0.1
    got = oracle_mars(steps(0.0)[0], steps(0.5, 0.25), 0.1, exact=True, **hyper)
    mean = (0.5 * 0.25 + 0.5 * 0.15) / 0.75
    assert_steps(got, -0.1, -0.1 - 0.1 * mean / 0.15)


def test_mars_with_lion_by_hand():
    # γ β1 / (1 - β1) = 1: c = 0.5, -0.05, -0.5; m = 0.25, 0.1, -0.2; the decay is 0.1 · 0.5
    got = oracle_mars_lion(steps(0.0)[0], steps(0.25, 0.1, -0.2), 0.1, beta1=0.5, gamma=1.0, weight_decay=0.5)
    assert_steps(got, -0.1, -0.195, -0.195 + 0.1 + 0.05 * 0.195)


def test_mars_with_newton_schulz_steps_by_hand():
    # c = 2 g has norm 1, m half of it norm 0.5: the cubic of 0.6 and 0.8
    hyper = {"momentum": 0.5, "gamma": 1.0, "coefficients": "cubic", "ns_steps": 1, "ns_eps": 0.0, "weight_decay": 0.0}
    got = oracle_mars_shampoo(steps(np.zeros((2, 2)))[0], steps(np.diag([0.3, 0.4])), 1.0, **hyper)
    assert_steps(got, -np.diag([1.5 * 0.6 - 0.5 * 0.6**3, 1.5 * 0.8 - 0.5 * 0.8**3]))
    # a vector is not corrected: Adam
    got = oracle_mars_shampoo(steps([0.0, 0.0])[0], steps([3.0, 1.0]), 1.0, other_lr_scale=0.5, eps=1.0, **hyper)
    assert_steps(got, [-0.5 * 3 / 4, -0.5 / 2])


def test_sophia_by_hand():
    # h = 1: m = 0.5, 0.75, 4.375 over γ h = 2, the last one cut; then the decay
    hyper = {"beta1": 0.5, "beta2": 0.0, "gamma": 2.0, "frequency": 1, "noise": "rademacher"}
    got = oracle_sophia(steps(0.0)[0], steps(1.0, 1.0, 8.0), 1.0, weight_decay=0.0, **hyper)
    assert_steps(got, -0.25, -0.625, -1.625)
    assert_steps(oracle_sophia(steps(1.0)[0], steps(1.0), 0.1, weight_decay=0.5, **hyper), 1 - 0.025 - 0.05)
    # a Hessian of 3 at β2 = 0.5: h = 1.5, and at the second estimate, two steps later, 2.25
    hyper |= {"beta1": 0.0, "beta2": 0.5, "gamma": 1.0, "frequency": 2, "weight_decay": 0.0}
    got = oracle_sophia(steps(0.0)[0], steps(0.9, 0.9, 0.9), 1.0, hessian_times=lambda u: {"w": 3 * u["w"]}, **hyper)
    assert_steps(got, -0.6, -1.2, -1.6)
    # a negative one: the sign
    got = oracle_sophia(steps(0.0)[0], steps(0.25), 1.0, hessian_times=lambda u: {"w": -u["w"]}, **hyper)
    assert_steps(got, -1.0)


def test_psgd_kron_by_hand():
    # v = 0: A² = 4, B = 0, Q = 1 - 0.5 = 0.5, D = 2 / 4.  v = 1: A = Q (2 + 2 √ε), B = 1 / Q = 2
    got = oracle_psgd_kron(steps(0.0)[0], steps(2.0, 2.0), 1.0, beta1=0.0, preconditioner_lr=0.5,
                           noise=lambda n, name, shape: np.full(shape, float(n - 1)))  # fmt: skip
    fit = (0.5 * (2 + 2 * DAMPING)) ** 2
    q = 0.5 * (1 - 0.5 * (fit - 4) / (fit + 4))
    assert_steps(got, -0.5, -0.5 - min(2 * q**2, 1.1))


def test_psgd_kron_of_a_matrix_by_hand():
    # v = 0: A = G = diag(2, 1), A Aᵀ = diag(4, 1), of norm 4: Q = I - 0.4 diag(1, 1/4) = diag(0.6, 0.9) on both axes
    hyper = {"beta1": 0.0, "preconditioner_lr": 0.4, "noise": lambda n, name, shape: np.zeros(shape)}
    got = oracle_psgd_kron(steps(np.zeros((2, 2)))[0], steps(np.diag([2.0, 1.0])), 1.0, **hyper)
    assert_steps(got, -np.diag([2 * 0.6**4, 0.9**4]))
    assert lower_bound(np.diag([1.0, 5.0])) == pytest.approx(5.0)
    # decay, and a direction of RMS 2 cut to 1.1: of a gradient at which no factor is updated
    rare = {"beta1": 0.0, "min_probability": 0.1, "flat_start": 0, "decay": 9.0}
    got = oracle_psgd_kron(steps(1.0)[0], steps(2.0), 0.1, weight_decay=0.5, **rare)
    assert_steps(got, 1 - 0.11 - 0.05)


@pytest.mark.parametrize("oracle", [oracle_galore, oracle_adam_mini, oracle_mars, oracle_mars_lion, oracle_mars_shampoo,
                                    oracle_sophia, oracle_psgd_kron])  # fmt: skip
def test_oracle_takes_every_shape_and_keeps_its_inputs(oracle):
    takes_every_shape_and_keeps_its_inputs(oracle)
