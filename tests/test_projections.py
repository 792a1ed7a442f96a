"""Projections are nearest points of their sets, in every dtype; constraints hold after each step of an optimizer."""

from __future__ import annotations

import copy
import pickle
import re

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimkit import Jit, TrainVar, VarCollection, optimizer, projections, rules
from optimkit.errors import DTypeError, HyperparameterError, OptimkitError, StructureError
from optimkit.optimizer import Group
from optimkit.projections import Box, HalfSpace, Hyperplane, L1Ball, L2Ball, LInfBall, NonNegative, Projection, Simplex

from .shell import Counted, close, unchanged

EPS = float(np.finfo(np.float32).eps)
NORMAL = np.array([1.0, -2.0, 0.5, 0.0, 3.0])


def bisected(x, total):
    """Return θ with Σ max(x − θ, 0) = total, in float64."""
    low, high = x.min() - total, x.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(x - middle, 0).sum() > total else (low, middle)
    return (low + high) / 2


def simplex(x, total=1.0):
    return np.maximum(x - bisected(x, total), 0)


def l1(x, radius):
    return x if np.abs(x).sum() <= radius else np.sign(x) * simplex(np.abs(x), radius)


def plane(x, offset, beyond_only):
    distance = NORMAL @ x - offset
    return x if beyond_only and distance <= 0 else x - distance / (NORMAL @ NORMAL) * NORMAL


# name: (the projection, the nearest point in float64, how far outside its set a point of float64 is)
SETS = {
    "NonNegative": (NonNegative(), lambda x: np.maximum(x, 0), lambda x: np.max(-x)),
    "Box": (Box(-0.1, 0.7), lambda x: np.clip(x, -0.1, 0.7), lambda x: max(np.max(-0.1 - x), np.max(x - 0.7))),
    "LInfBall": (LInfBall(0.3), lambda x: np.clip(x, -0.3, 0.3), lambda x: np.max(np.abs(x)) - 0.3),
    "L1Ball": (L1Ball(0.7), lambda x: l1(x, 0.7), lambda x: np.abs(x).sum() - 0.7),
    "L2Ball": (
        L2Ball(0.7), lambda x: x * min(1, 0.7 / max(np.linalg.norm(x), 1e-300)), lambda x: np.linalg.norm(x) - 0.7),
    "Simplex": (Simplex(), simplex, lambda x: max(np.max(-x), abs(x.sum() - 1))),
    "Simplex of 3": (Simplex(3.0), lambda x: simplex(x, 3.0), lambda x: max(np.max(-x), abs(x.sum() - 3) / 3)),
    "Hyperplane": (
        Hyperplane(NORMAL, 0.5), lambda x: plane(x, 0.5, False),
        lambda x: abs(NORMAL @ x - 0.5) / np.abs(NORMAL).sum()),
    "HalfSpace": (
        HalfSpace(NORMAL, 0.5), lambda x: plane(x, 0.5, True), lambda x: (NORMAL @ x - 0.5) / np.abs(NORMAL).sum()),
}  # fmt: skip
RUN = {name: jax.jit(project) for name, (project, _, _) in SETS.items()}
EQUALITIES = {"Simplex", "Simplex of 3", "Hyperplane", "HalfSpace"}
each = pytest.mark.parametrize("name", SETS)
ARRAYS = hnp.arrays(np.float32, 5, elements=st.floats(-1e4, 1e4, width=32))


# --- nearest points ---------------------------------------------------------------------------------------------------


@each
@given(x=ARRAYS, scale=st.sampled_from([1e-4, 1e-2, 1.0]))
def test_a_projection_is_the_nearest_point_of_its_set(name, x, scale):
    x = np.float32(scale) * x
    got, size = np.asarray(RUN[name](x), np.float64), 1.0 + np.abs(x).max()
    np.testing.assert_allclose(got, SETS[name][1](x.astype(np.float64)), rtol=0, atol=16 * EPS * size)


@each
@given(x=ARRAYS)
def test_a_projection_lies_in_its_set_and_stays_where_it_is(name, x):
    project, outside = RUN[name], SETS[name][2]
    once = project(x)
    size = float(np.abs(once).max()) + 1.0
    assert outside(np.asarray(once, np.float64)) <= (4 * EPS * size if name in EQUALITIES else 0.0)
    np.testing.assert_allclose(project(once), once, rtol=0, atol=4 * EPS * size if name in EQUALITIES else 0.0)


@each
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_what_is_stored_in_low_precision_lies_in_the_set_as_far_as_it_can(name, dtype):
    project, (_, wanted, outside) = RUN[name], SETS[name]
    eps = float(jnp.finfo(dtype).eps)
    for seed in range(40):
        x = jnp.asarray(np.random.default_rng(seed).normal(size=5) * 2.0 ** (seed % 5 - 2), dtype)
        y = project(x)
        got = np.asarray(y, np.float64)
        assert y.dtype == dtype
        slack = {"HalfSpace": 4 * EPS}.get(name, eps * (1 + np.abs(got).max()) if name in EQUALITIES else 0.0)
        assert outside(got) <= slack
        tiny = float(jnp.finfo(dtype).smallest_subnormal)
        nearest = wanted(np.asarray(x, np.float64))
        np.testing.assert_allclose(got, nearest, rtol=eps * 1.01, atol=tiny + 16 * EPS)  # no more than one rounding
        if name not in EQUALITIES:
            assert (np.asarray(project(y)) == np.asarray(y)).all()


@given(
    x=hnp.arrays(np.float32, st.sampled_from([1, 7, 100]), elements=st.floats(-10, 10, width=32)),
    seed=st.integers(0, 99),
)
def test_no_point_of_the_simplex_is_nearer(x, seed):
    """The variational inequality, ⟨x − P(x), y − P(x)⟩ ≤ 0 for all y of the set."""
    p = np.asarray(RUN["Simplex"](x), np.float64)
    others = np.random.default_rng(seed).dirichlet(np.full(len(x), 0.3), 20)
    corners = np.eye(len(x))[np.argsort(x)[-3:]]
    assert ((np.concatenate([others, corners]) - p) @ (x - p)).max() <= 64 * EPS * (1 + np.abs(x).max())
    assert abs(p.sum() - 1) <= 8 * EPS


@pytest.mark.parametrize("n", [1, 10_000])
def test_simplex_and_l1_ball_are_exact_for_long_vectors_far_away(n):
    ball = jax.jit(L1Ball(2.0))
    for offset in (0.0, -1e6, 1e6):
        x = (np.random.default_rng(n).normal(size=n) + offset).astype(np.float32)
        p = np.asarray(RUN["Simplex"](x), np.float64)
        np.testing.assert_allclose(p, simplex(x.astype(np.float64)), rtol=0, atol=16 * EPS)
        assert abs(p.sum() - 1) <= 8 * EPS
        assert np.abs(np.asarray(ball(x), np.float64)).sum() <= 2.0


def test_sums_and_products_are_exact_where_rounding_adds_up():
    one_large = np.float32([0.9, *np.random.default_rng(0).uniform(0, 2e-4, 2000)])
    assert abs(np.asarray(RUN["Simplex"](one_large), np.float64).sum() - 1) <= 8 * EPS
    far = np.asarray(RUN["Hyperplane"](np.float32(1e6 * NORMAL)), np.float64)
    assert abs(NORMAL @ far - 0.5) <= 8 * EPS * np.abs(NORMAL).sum()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_lengths_neither_underflow_nor_overflow(scale):
    close(L2Ball(scale)(jnp.float32([3 * scale, 4 * scale])), [0.6 * scale, 0.8 * scale], ulps=16)
    inside = jnp.float32([3 * scale, 4 * scale])
    assert (L2Ball(10 * scale)(inside) == inside).all()
    close(Hyperplane([scale, scale], 0.0)(jnp.float32([3.0, 1.0])), [1.0, -1.0])


@pytest.mark.parametrize("kind", [Simplex, L1Ball, L2Ball])
def test_along_an_axis_each_vector_is_projected_by_itself(kind):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    one, middle, outer = kind(0.5), kind(0.5, axis=1), kind(0.5, axis=(0, -1))
    pairs = jax.jit(
        lambda x: (
            (middle(x), jax.vmap(jax.vmap(one, 1, 1))(x)),
            (outer(x), jax.vmap(one, 1, 1)(x)),
        )
    )(x)
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, rtol=0, atol=EPS)
    for axis, says in ((3, "no axes 3"), ((0, -3), r"no axes \(0, -3\)")):
        with pytest.raises(StructureError, match=says):
            kind(0.5, axis=axis)(x)


@each
def test_shapes_without_numbers_and_scalars_pass(name):
    project = SETS[name][0]
    if isinstance(project, Hyperplane | HalfSpace):
        project = type(project)(2.0, 1.0)
    project = jax.jit(project)
    assert project(jnp.zeros((0, 3))).shape == (0, 3)
    assert project(jnp.float32(7.0)).shape == ()
    assert np.isfinite(project(jnp.zeros((2, 2)))).all()
    assert np.isnan(project(jnp.full(3, jnp.nan))).any()


@each
def test_projections_are_values_that_work_under_transforms(name):
    project = SETS[name][0]
    for other in (copy.deepcopy(project), pickle.loads(pickle.dumps(project))):
        assert other == project
        assert hash(other) == hash(project)
    x = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(jax.vmap(project))(x), [RUN[name](row) for row in x], rtol=0, atol=1e-6)
    with jax.enable_x64(True):
        got = jax.jit(project)(x[0].astype(np.float64))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, SETS[name][1](x[0].astype(np.float64)), rtol=0, atol=1e-14)


def test_a_box_without_a_number_of_the_dtype_is_the_nearest_number():
    assert Box(0.1001, 0.1002)(jnp.bfloat16(3.0)) == jnp.bfloat16(0.1)
    assert Box(0.1, 0.1)(jnp.float32(3.0)) == jnp.float32(0.1)


FAULTS = {
    "bounds crossed": (lambda: Box(1.0, 0.0), HyperparameterError, "'low' is above 'high'"),
    "a bound that is NaN": (lambda: Box(float("nan")), HyperparameterError, "'low' is out of range"),
    "negative radius": (lambda: L2Ball(-1.0), HyperparameterError, "'radius' is out of range"),
    "infinite radius": (lambda: L1Ball(float("inf")), HyperparameterError, "'radius' is out of range"),
    "no total": (lambda: Simplex(0.0), HyperparameterError, "'total' is out of range"),
    "no normal": (lambda: Hyperplane(np.zeros(3)), HyperparameterError, "the normal has no direction"),
    "a normal that is not finite": (lambda: HalfSpace([1.0, np.inf]), HyperparameterError, "normal has no direction"),
    "another shape": (lambda: Hyperplane(np.ones(3))(jnp.ones((3, 3))), StructureError, r"float64\[3\]"),
    "integers": (lambda: NonNegative()(jnp.arange(3)), DTypeError, r"int32\[3\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_set_or_no_point_is_refused(fault):
    act, error, says = FAULTS[fault]
    with pytest.raises(error, match=says) as caught:
        act()
    assert isinstance(caught.value, OptimkitError)


def test_a_radius_of_zero_is_the_origin():
    for ball in (L1Ball(0.0), L2Ball(0.0), LInfBall(0.0)):
        assert (np.asarray(ball(jnp.array([1.0, -2.0, 0.0]))) == 0).all()


# --- constraints of an optimizer --------------------------------------------------------------------------------------


def two(dtype=jnp.float32):
    start = {"mix": [0.25, 0.75], "w": [1.0, -1.0]}
    return VarCollection((name, TrainVar(jnp.array(x, dtype))) for name, x in start.items())


def test_a_constraint_holds_after_each_step_for_what_it_matches():
    vc, twin = two(), two()
    opt = optimizer.Adam(vc, constraints={"mix": Simplex()})
    other = optimizer.Adam(twin)
    step = Jit(counted := Counted(lambda g: opt(0.1, g)), vc + opt.vars(), donate=True)
    for i in range(5):
        grads = [jnp.array([1.0, -0.5 * i]), jnp.array([0.5, 1.0])]
        step(grads)
        other(0.1, grads)
        close(vc["mix"].value, Simplex()(twin["mix"].value), ulps=8)
        twin["mix"].assign(jnp.copy(vc["mix"].value))
    assert counted.traces == 1
    close(vc["w"].value, twin["w"].value, ulps=8)
    close(opt.state["mix"].mu.value, other.state["mix"].mu.value)


@pytest.mark.parametrize("match", [None, ".", ("mix", "w"), TrainVar, lambda name, x: True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_constraint_for_all_holds_for_all_in_their_dtype(match, dtype):
    vc = two(dtype)
    opt = optimizer.SGD(vc, constraints=Box(-0.1, 0.1) if match is None else {match: Box(-0.1, 0.1)})
    opt(0.0, [jnp.zeros(2), jnp.zeros(2)])
    for v in vc:
        assert v.dtype == dtype
        assert np.abs(np.asarray(v, np.float64)).max() <= 0.1
    close(np.asarray(vc["w"], np.float64), [0.1, -0.1], ulps=2**16)


def test_the_displaced_parameter_is_projected_before_it_is_rounded():
    vc = VarCollection({"w": TrainVar(jnp.array([1.0, 1.0], jnp.bfloat16))})
    seen = []

    def keep(x):
        seen.append((x.dtype, np.asarray(x)))
        return jnp.maximum(x, 1.5)

    optimizer.SGD(vc, constraints=keep)(2.0**-12, [jnp.array([1.0, -2048.0], jnp.float32)])
    assert seen[0][0] == jnp.float32
    np.testing.assert_array_equal(seen[0][1], np.float32([1 - 2.0**-12, 1.5]))
    assert vc["w"].dtype == jnp.bfloat16
    close(np.asarray(vc["w"], np.float64), [1.5, 1.5])


def test_a_constraint_of_ones_own_is_a_subclass():
    class Even(Projection):
        def project(self, x):
            return (x + jnp.flip(x)) / 2

    vc = two()
    optimizer.SGD(vc, constraints={"mix": Even()})(0.0, [jnp.zeros(2), jnp.zeros(2)])
    close(vc["mix"].value, [0.5, 0.5])
    close(vc["w"].value, [1.0, -1.0])


def test_constraints_leave_frozen_variables_alone():
    vc = two()
    opt = optimizer.SGD(vc, groups=[Group("frozen", "w", frozen=True)], constraints=NonNegative())
    with unchanged(VarCollection({"w": vc["w"]})):
        opt(1.0, [jnp.array([1.0, 0.0]), None])
    assert vc["mix"].value.tolist() == [0.0, 0.75]
    with pytest.raises(StructureError, match="gets no variable"):
        optimizer.SGD(two(), groups=[Group("frozen", "w", frozen=True)], constraints={"w": NonNegative()})


def test_a_wrapper_keeps_its_memory_and_the_parameters_satisfy_the_constraint():
    vc = two()
    opt = optimizer.Optimizer(vc, rules.Lookahead(rules.SGD(), 2), constraints={"w": L2Ball(0.5)})
    for _ in range(4):
        opt(0.1, [jnp.ones(2), jnp.ones(2)])
        assert np.linalg.norm(np.asarray(vc["w"], np.float64)) <= 0.5


@pytest.mark.parametrize(
    ("constraints", "says"),
    [
        ({"decoder": NonNegative()}, r"NonNegative\(\) gets no variable.*\n.*'mix', 'w'.*\n.*'decoder'"),
        ({"mix": NonNegative(), ".": Box(0.0)}, "two constraints match 'mix'"),
        ({"mix": NonNegative}, "this is no constraint"),
        ({"mix": 3.0}, "this is no constraint"),
        ({3: NonNegative()}, "matches no variable"),
    ],
)
def test_constraints_that_cannot_be_meant_are_errors_at_construction(constraints, says):
    with pytest.raises(StructureError) as caught:
        optimizer.SGD(two(), constraints=constraints)
    assert re.search(says, str(caught.value)), str(caught.value)


def test_every_public_projection_is_among_the_sets():
    public = {n for n, x in vars(projections).items() if isinstance(x, type) and issubclass(x, Projection)}
    assert public - {"Projection"} == {type(project).__name__ for project, _, _ in SETS.values()}
