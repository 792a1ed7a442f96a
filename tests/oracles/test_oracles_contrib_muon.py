"""The oracle of Muon against values computed by hand."""

from __future__ import annotations

import numpy as np

from .contrib_muon import coefficients_of, oracle_muon
from .form import takes_every_shape_and_keeps_its_inputs
from .test_oracles import assert_steps, steps

PLAIN = {"momentum": 0.0, "nesterov": False, "ns_eps": 0.0, "scale": "none"}


def test_newton_schulz_by_hand():
    # diag(3, 4) / 5 = diag(0.6, 0.8);  1.5 x - 0.5 x³: 0.792, 0.944
    grads = steps([[3.0, 0.0], [0.0, 4.0]])
    got = oracle_muon(steps([[1.0, 1.0], [1.0, 1.0]])[0], grads, 0.5, coefficients="cubic", ns_steps=1, **PLAIN)
    assert_steps(got, [[1 - 0.396, 1.0], [1.0, 1 - 0.472]])
    # with c: 2 x - 1.5 x³ + 0.5 x⁵ at 0.6 and 0.8
    got = oracle_muon(steps(np.zeros((2, 2)))[0], grads, 1.0, coefficients="quintic", ns_steps=1, **PLAIN)
    assert_steps(got, [[-(1.2 - 0.324 + 0.03888), 0.0], [0.0, -(1.6 - 0.768 + 0.16384)]])


def test_coefficients_of_each_step_by_hand():
    jordan, quintic = (3.4445, -4.775, 2.0315), (2.0, -1.5, 0.5)
    assert coefficients_of("deepseek", 10) == [jordan] * 8 + [quintic] * 2
    assert coefficients_of("deepseek", 1) == [quintic]
    assert [a for a, _, _ in coefficients_of("dion", 6)] == [4.0848, 3.9505, 3.7418, 2.8769, 2.8366, 2.8366]
    # the first matrix is divided by 1.01 ‖G‖, and the first polynomial is p(x / 1.01)
    got = oracle_muon(steps(np.zeros((2, 2)))[0], steps([[3.0, 0.0], [0.0, 4.0]]), 1.0, coefficients="polar_express",
                      ns_steps=1, **PLAIN)  # fmt: skip
    a, b, c = 8.28721201814563, -23.595886519098837, 17.300387312530933
    x, y = (s / 1.01**2 for s in (0.6, 0.8))
    assert_steps(got, -np.diag([a * x + b * x**3 + c * x**5, a * y + b * y**3 + c * y**5]))


def test_momentum_and_decay_by_hand():
    # B = 1.5, then 0.75; nesterov: M = 0.5 B + 0.5 G = 2.25, then 0.375. X = M / (M + 1), and 1.5 X - 0.5 X³
    hyper = {"momentum": 0.5, "coefficients": "cubic", "ns_steps": 1, "ns_eps": 1.0}
    hyper |= {"scale": "none", "weight_decay": 0.5}
    start, grads = np.array([[2.0, 0.0], [0.0, 0.0]]), [np.array([[3.0, 0.0], [0.0, 0.0]]), np.zeros((2, 2))]
    got = oracle_muon({"w": start}, [{"w": g} for g in grads], 0.1, nesterov=True, **hyper)
    x, y = 2.25 / 3.25, 0.375 / 1.375
    first = 2.0 - 0.1 * (1.5 * x - 0.5 * x**3 + 1.0)
    second = first - 0.1 * (1.5 * y - 0.5 * y**3 + first / 2)
    assert_steps(got, [[first, 0.0], [0.0, 0.0]], [[second, 0.0], [0.0, 0.0]])


def test_scales_by_hand():
    g = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]  # 3 inputs, 2 outputs
    start, grads = steps(np.zeros((3, 2)))[0], steps(g)
    hyper = {**PLAIN, "coefficients": "cubic", "ns_steps": 60}  # singular values of 1
    for scale, layout, factor in (("jordan", "in_out", 1.0), ("jordan", "out_in", np.sqrt(1.5)),
                                  ("moonshot", "in_out", 0.2 * np.sqrt(3.0))):  # fmt: skip
        got = oracle_muon(start, grads, 1.0, **{**hyper, "scale": scale}, layout=layout)
        assert_steps(got, (-factor * np.array(g)).tolist())


def test_vectors_go_to_adam_by_hand():
    got = oracle_muon(steps([0.0, 0.0])[0], steps([5.0, -5.0]), 1.0, eps=0.0)
    assert_steps(got, [-0.015, 0.015])


def test_oracle_takes_every_shape_and_keeps_its_inputs():
    takes_every_shape_and_keeps_its_inputs(oracle_muon)
