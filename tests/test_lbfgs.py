"""L-BFGS and its line searches: against the book, conjugate gradients, scipy and optax, and where losses misbehave."""

from __future__ import annotations

import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, TrainVar, VarCollection, optimizer, pure, rules
from optimkit.errors import CompositionError, HyperparameterError, MissingInputError
from optimkit.testing import CHECKS
from optimkit.testing.compare import distances, furthest

from .oracles.lbfgs import Ray, oracle_lbfgs, strong_wolfe
from .shell import Counted, Net, X, Y, bits, loss_of, unchanged

SEARCHES = {"zoom": rules.Zoom(), "backtracking": rules.Backtracking()}
each_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
either_way = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(n, condition, seed=0):
    """Return matrix and right side of the quadratic ½ x'Ax - b'x, and its minimizer."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    a = q @ np.diag(np.geomspace(1, condition, n)) @ q.T
    b = rng.normal(size=n)
    return a, b, np.linalg.solve(a, b)


def stepper(rule, loss, lr=1.0):
    """Return init, and a compiled step of the functional face."""
    init, apply = pure(rule, lr)
    value_and_grad = jax.value_and_grad(loss)

    @jax.jit
    def step(state, params):
        value, grads = value_and_grad(params)
        return apply(grads, state, params, value=value, value_and_grad_fn=value_and_grad)

    return init, step


def path(rule, loss, params, steps, lr=1.0):
    """Return parameters and states after each step."""
    init, step = stepper(rule, loss, lr)
    state, trajectory, states = init(params), [], []
    for _ in range(steps):
        state, params = step(state, params)
        trajectory.append(jax.tree.map(np.asarray, params))
        states.append(state)
    return trajectory, states


def until(params, loss, solution, search, limit=700):
    """Return how many steps bring the parameters within 1e-6 of the solution, and the state then."""
    init, step = stepper(rules.LBFGS(line_search=search), loss)
    state = init(params)
    for t in range(limit):
        if all(np.abs(np.asarray(params[name]) - x).max() < 1e-6 for name, x in solution.items()):
            return t, state
        state, params = step(state, params)
    return limit, state


def minimized(loss, x, search, steps, lr=1.0):
    """Return a parameter after steps of ``minimize``, the optimizer, and the loss before each step."""
    w = TrainVar(x)
    vc = VarCollection({"w": w})
    opt = optimizer.LBFGS(vc, line_search=search, lr=lr)
    step = Jit(lambda: opt.minimize(lambda: loss(w.value)), vc + opt.vars())
    losses = [float(step()) for _ in range(steps)]
    return np.asarray(w.value), opt, losses


def scalars(opt):
    """Return what the state holds besides the pairs."""
    names = ("alpha", "evaluations", "failed", "position", "t", "cosine")
    return {name: np.asarray(opt.vars()[f"(LBFGS).{name}"].value) for name in names}


# --- against the book -------------------------------------------------------------------------------------------------


def two_sided(params):
    """A loss of a matrix and a scalar, with curvature of both signs."""
    w, b = params["w"], params["b"]
    return jnp.sum((w[1:] - w[:-1] ** 2) ** 2) + jnp.sum(jnp.cos(2 * w)) + (b - jnp.sum(w)) ** 2 + 0.01 * jnp.sum(w**4)


STEPS = 22
LOSSES = {
    "rosenbrock": (lambda p: rosenbrock(p["w"]), {"w": np.array([-1.2, 1.0, -1.2, 1.0])}),
    "two-sided": (two_sided, {"w": np.linspace(-2, 2, 6).reshape(3, 2), "b": np.array(0.5)}),
}
CASES = {
    "zoom": ("rosenbrock", {}),
    "zoom on both curvatures": ("two-sided", {}),
    "few pairs, exact": ("two-sided", {"memory_size": 2, "c1": 0.1, "c2": 0.2, "growth": 3.0}),
    "backtracking": ("rosenbrock", {"line_search": "backtracking", "decrease": 0.3, "c1": 0.05, "memory_size": 4}),
    "to the letter": ("rosenbrock", {"noise": 0.0}),
    "bounded": ("rosenbrock", {"max_evaluations": 2, "c2": 0.1}),
    "long steps": ("two-sided", {"lr": 5.0}),
    "no search": ("two-sided", {"line_search": None, "lr": 0.1}),
}


def rule_of(memory_size=10, line_search="zoom", **hyper):
    """Return the rule with the hyperparameters of the oracle."""
    return rules.LBFGS(memory_size, SEARCHES[line_search].replace(**hyper) if line_search else None)


FAST = ("zoom on both curvatures", "backtracking", "no search")


@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in FAST else [pytest.mark.slow]) for c in CASES])
def test_it_follows_its_oracle(x64, case):
    """22 steps in float64, then most of the losses are at their minimum, and only rounding is left to decide.

    The losses have condition numbers up to 1e3 there, and lose as many digits in each difference of gradients: eps
    2e-16, times 1e3 for that, 22 steps and 16 roundings a step, is 1e-10.
    """
    loss, hyper = CASES[case]
    f, params = LOSSES[loss]
    hyper = dict(hyper)
    lr = hyper.pop("lr", 1.0)
    expected, evaluations, alphas = oracle_lbfgs(params, jax.jit(jax.value_and_grad(f)), STEPS, lr, **hyper)
    got, states = path(rule_of(**hyper), f, jax.tree.map(jnp.asarray, params), STEPS, lr)
    assert furthest(distances(got, expected, params)) < 1e-10
    assert [int(s["evaluations"]) for s in states] == np.cumsum(evaluations).tolist()
    # α is a quotient of changes that become as small as the square root of the tolerance.
    np.testing.assert_allclose([float(s["alpha"]) for s in states], alphas, rtol=1e-5)


def test_two_steps_by_hand():
    """f = x²/2 + 2 y² from (0.6, 0.1), without a search.

    g = (0.6, 0.4), shorter than 1, so p = -g: to (0, -0.3), where g = (0, -1.2).
    s = (-0.6, -0.4), y = (-0.6, -1.6), s'y = 1, y'y = 2.92.
    a = s'g = 0.48, q = g - a y = (0.288, -0.432), r = q / 2.92, b = y'r = 0.5184 / 2.92,
    r + s (a - b) = (-0.0828493, -0.2689315), and minus that leads to (0.0828493, -0.0310685).
    """
    loss = lambda p: p["w"][0] ** 2 / 2 + 2 * p["w"][1] ** 2  # noqa: E731
    params = {"w": np.array([0.6, 0.1])}
    oracle, _, _ = oracle_lbfgs(params, jax.value_and_grad(loss), 2, line_search=None)
    rule, _ = path(rules.LBFGS(line_search=None), loss, jax.tree.map(jnp.float32, params), 2)
    for got, tolerance in ((oracle, 2e-6), (rule, 4e-6)):
        np.testing.assert_allclose(got[0]["w"], [0.0, -0.3], atol=1e-7)
        np.testing.assert_allclose(got[1]["w"], [0.0828493, -0.0310685], rtol=tolerance)


def wave(coefficients, x):
    """Return value and slope of waves on a parabola, at x."""
    a, w, p = coefficients
    return (a * jnp.cos(w * x + p)).sum() + 0.05 * x**2, (-a * w * jnp.sin(w * x + p)).sum() + 0.1 * x


@pytest.mark.slow
@pytest.mark.parametrize("hyper", [{}, {"c1": 0.01, "c2": 0.2, "growth": 3.0, "max_evaluations": 6}])
def test_zoom_takes_the_steps_of_the_book_on_wavy_lines(x64, hyper):
    """100 lines with many minima, on which every branch of Algorithms 3.5 and 3.6 is taken."""
    rng = np.random.default_rng(0)
    a, w, p = rng.normal(size=(100, 3)), rng.uniform(0.5, 6, (100, 3)), rng.uniform(0, 2 * np.pi, (100, 3))
    a *= -np.sign((-a * w * np.sin(p)).sum(1, keepdims=True))  # downhill at 0
    search = rules.Zoom(**hyper)
    zero = jnp.float64(0.0)
    both = lambda *c: search.search(lambda x: wave(c, x), *wave(c, zero), 2e-16)  # noqa: E731
    found = jax.jit(jax.vmap(both))(a, w, p)
    chosen = {"c1": 1e-4, "c2": 0.9, "growth": 2.0, "noise": 1e-6} | hyper
    limit = chosen.pop("max_evaluations", 20)
    for i, line in enumerate(zip(a, w, p, strict=True)):
        value, slope = map(float, wave(line, 0.0))
        f = lambda x, line=line: [np.asarray(y).reshape(n) for y, n in zip(wave(line, x[0]), ((), 1), strict=True)]  # noqa: E731
        phi = Ray(f, np.zeros(1), np.ones(1), value, slope, limit)
        try:
            alpha, failed = strong_wolfe(phi, **chosen), False
        except StopIteration:
            alpha, failed = phi.best, True
        assert (int(found.evaluations[i]), bool(found.failed[i])) == (phi.evaluations, failed)
        np.testing.assert_allclose(found.alpha[i], alpha, rtol=1e-9)


class Exact(rules.LineSearch):
    """The minimizer on the ray of a quadratic, from the slopes at 0 and 1."""

    def search(self, phi, value, slope, eps):
        return rules.linesearch.Found(-slope / (phi(jnp.ones_like(value))[1] - slope), 1, jnp.zeros((), bool))


def conjugate_gradients(a, b, steps):
    """Return the iterates of Hestenes & Stiefel from 0."""
    x, r = np.zeros_like(b), b.copy()
    p, iterates = r, []
    for _ in range(steps):
        alpha = r @ r / (p @ a @ p)
        x, new = x + alpha * p, r - alpha * (a @ p)
        p, r = new + new @ new / (r @ r) * p, new
        iterates.append({"x": x})
    return iterates


@pytest.mark.parametrize("search", [Exact(), rules.Zoom(c1=1e-9, c2=1e-8)], ids=["own", "zoom"])
def test_with_full_memory_and_exact_search_it_is_conjugate_gradients(x64, search):
    """On a quadratic (Nocedal & Wright 2006, Theorem 6.4): the same iterates, whatever the scaling of H_0."""
    a, b, solution = quadratic(8, 30.0)
    got, _ = path(rules.LBFGS(8, search), lambda p: 0.5 * p["x"] @ a @ p["x"] - b @ p["x"], {"x": jnp.zeros(8)}, 8)
    expected = conjugate_gradients(a, b, 8)
    assert furthest(distances(got, expected, {"x": np.zeros(8)})) < 1e-9
    np.testing.assert_allclose(got[-1]["x"], solution, rtol=1e-7)


def test_without_pairs_it_is_steepest_descent():
    """min(1, 1 / ‖g‖) g at the first step."""
    for g in ([0.3, 0.4], [3.0, 4.0]):
        init, apply = pure(rules.LBFGS(line_search=None), 0.1)
        params = {"w": jnp.zeros(2)}
        _, params = apply({"w": jnp.array(g)}, init(params), params)
        np.testing.assert_allclose(params["w"], -0.1 * np.array(g) / max(1, np.hypot(*g)), rtol=1e-6)


# --- convergence ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("search", "n", "limit"), [("zoom", 2, 45), ("zoom", 10, 95), ("backtracking", 10, 105)])
def test_rosenbrock_is_solved(x64, search, n, limit):
    """To 1e-6, in about as many steps as scipy needs for n = 2 and 10: 37 and 75. Here it is 36, 74 and 81."""
    x = jnp.array([-1.2, 1.0] * (n // 2))
    steps, state = until({"w": x}, lambda p: rosenbrock(p["w"]), {"w": 1.0}, SEARCHES[search])
    assert steps <= limit
    assert state["failed"] == 0
    assert state["evaluations"] <= 1.3 * steps


@pytest.mark.slow
@each_search
def test_an_ill_conditioned_quadratic_is_solved(x64, search):
    """Condition 1e4, to 1e-6. Near the end the loss changes by less than it is rounded, and no search fails.

    scipy needs 424 steps. How XLA rounds, which its versions do differently, makes it 348 to 477 here.
    """
    a, b, solution = quadratic(20, 1e4)
    loss = lambda p: 0.5 * p["w"] @ a @ p["w"] - b @ p["w"]  # noqa: E731
    steps, state = until({"w": jnp.zeros(20)}, loss, {"w": solution}, search)
    assert steps <= 600
    assert state["failed"] == 0
    assert state["evaluations"] <= 1.3 * steps


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_it_converges_to_the_precision_of_the_parameters(dtype):
    """The loss in float32, of parameters in another precision, to 2 units of rounding of the largest."""
    a, b, solution = quadratic(5, 20.0)

    def loss(x):
        x = x.astype(jnp.float32)
        return 0.5 * x @ jnp.float32(a) @ x - jnp.float32(b) @ x

    x, opt, _ = minimized(loss, jnp.zeros(5, dtype), rules.Zoom(), 30)
    assert x.dtype == dtype
    assert opt.state["w"].s.dtype == jnp.float32
    assert np.abs(np.float64(x) - solution).max() <= 2 * float(jnp.finfo(dtype).eps) * np.abs(solution).max()


def test_products_of_gradients_may_be_out_of_range():
    """In float32, with gradients of 1e25, whose squares would overflow."""
    a, b, solution = quadratic(5, 20.0)
    loss = lambda x: 1e25 * (0.5 * x @ jnp.float32(a) @ x - jnp.float32(b) @ x)  # noqa: E731
    x, _, _ = minimized(loss, jnp.zeros(5), rules.Zoom(), 30)
    assert np.abs(x - solution).max() < 1e-5 * np.abs(solution).max()


@pytest.mark.slow
def test_it_needs_about_as_many_evaluations_as_scipy(x64):
    """scipy's L-BFGS-B, unconstrained: the same method, with another search (Moré & Thuente)."""
    optimize = pytest.importorskip("scipy.optimize")
    x0 = np.array([-1.2, 1.0] * 5)
    value_and_grad = jax.jit(jax.value_and_grad(rosenbrock))
    theirs = optimize.minimize(lambda x: [np.asarray(y) for y in value_and_grad(x)], x0, jac=True, method="L-BFGS-B",
                               options={"maxcor": 10, "gtol": 1e-6, "ftol": 0})  # fmt: skip
    _, opt, losses = minimized(rosenbrock, jnp.asarray(x0), rules.Zoom(), int(1.1 * theirs.nit))
    assert losses[-1] < 1e-10
    assert scalars(opt)["evaluations"] <= 1.1 * theirs.nfev


def test_directions_are_those_of_optax(x64):
    """Without line searches. The steps stay below where pairs without curvature come, which optax keeps."""
    optax = pytest.importorskip("optax")
    a, b, _ = quadratic(10, 100.0)
    loss = lambda p: 0.5 * p["x"] @ a @ p["x"] - b @ p["x"]  # noqa: E731
    tx = optax.lbfgs(0.3, memory_size=4, linesearch=None)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    theirs, params = [], {"x": jnp.zeros(10)}
    state = tx.init(params)
    for _ in range(40):
        params, state = step(params, state)
        theirs.append(jax.tree.map(np.asarray, params))
    ours, _ = path(rules.LBFGS(4, None), loss, {"x": jnp.zeros(10)}, 40, lr=0.3)
    assert furthest(distances(ours, theirs, {"x": np.zeros(10)})) < 1e-10


# --- where losses misbehave -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [*SEARCHES.values(), None], ids=[*SEARCHES, "none"])
def test_nothing_moves_where_the_gradient_is_zero(search):
    w = TrainVar(jnp.array([0.0, -0.0, 1.0]))
    opt = optimizer.LBFGS(VarCollection({"w": w}), line_search=search, lr=1.0)
    with unchanged(VarCollection({"w": w})):
        for _ in range(2):
            opt.minimize(lambda: jnp.sum(w.value**2 * jnp.array([1.0, 1.0, 0.0])))
    assert scalars(opt)["failed"] == 0
    assert scalars(opt)["evaluations"] == 0
    assert all(np.isfinite(v.value).all() for v in opt.vars())


@pytest.mark.parametrize(
    ("search", "compiled"), [("zoom", True), ("zoom", False), ("backtracking", False), (None, False)]
)
def test_where_the_loss_is_not_finite_nothing_changes_but_the_count_of_failures(search, compiled):
    w = TrainVar(jnp.array([1.0, 2.0]))
    vc = VarCollection({"w": w})
    opt = optimizer.LBFGS(vc, line_search=SEARCHES.get(search), lr=0.1)
    step = lambda factor: opt.minimize(lambda: factor * jnp.sum(w.value**4))  # noqa: E731
    step = Jit(step, vc + opt.vars()) if compiled else step
    for factor in (1.0, 1.0):
        step(factor)
    before = bits(vc, opt.vars())
    for i, bad in enumerate((math.nan, math.inf), start=1):
        step(bad)
        after = bits(vc, opt.vars())
        assert {name for name in before if before[name] != after[name]} == {"(LBFGS).failed", "(LBFGS).alpha"}
        assert scalars(opt)["failed"] == i
        assert scalars(opt)["alpha"] == 0
    moved = np.asarray(w.value)
    step(1.0)
    assert np.isfinite(w.value).all()
    assert (np.asarray(w.value) != moved).all()
    assert scalars(opt)["failed"] == 2


@each_search
def test_a_point_where_the_loss_is_not_finite_is_too_far(search):
    """x - log x, from where the first trial step goes beyond 0. Infinity is not high there, and -infinity not low."""

    def loss(p):
        x = p["w"]
        return jnp.sum(jnp.where(x > 0, x - jnp.log(jnp.where(x > 0, x, 1.0)), p["wall"]))

    init, step = stepper(rules.Partition(("w$", rules.LBFGS(line_search=search)), (".", rules.Frozen())), loss, 10.0)
    for wall in (math.nan, math.inf, -math.inf):
        params = {"w": jnp.array([2.0, 0.5]), "wall": jnp.float32(wall)}
        state = init(params)
        for t in range(25):
            state, params = step(state, params)
            assert (params["w"] > 0).all()
            assert t > 0 or state["route0"]["evaluations"] > 1
        np.testing.assert_allclose(params["w"], 1.0, rtol=1e-3)


def test_a_point_where_the_slope_is_not_finite_is_too_far_for_zoom():
    """(x - 1)², with no slope at its minimum, where the first trial step is: not even as the lowest point found."""
    phi = lambda x: ((x - 1) ** 2, jnp.where(x == 1, jnp.nan, 2 * (x - 1)))  # noqa: E731
    found = rules.Zoom().search(phi, *phi(jnp.float32(0.0)), 1e-7)
    assert (float(found.alpha), int(found.evaluations), bool(found.failed)) == (0.5, 2, False)
    found = rules.Zoom(max_evaluations=1).search(phi, *phi(jnp.float32(0.0)), 1e-7)
    assert (float(found.alpha), int(found.evaluations), bool(found.failed)) == (0.0, 1, True)


@jax.custom_jvp
def lying(x):
    return jnp.sum(x)


lying.defjvp(lambda primals, tangents: (lying(*primals), -jnp.sum(tangents[0])))


@pytest.mark.parametrize(("search", "compiled"), [("zoom", True), ("zoom", False), ("backtracking", False)])
def test_where_no_point_is_lower_the_parameters_stay_and_the_pairs_are_forgotten(search, compiled):
    """The last loss has the gradient of its negative, so that all that looks downhill is uphill."""
    search = SEARCHES[search].replace(noise=0.0, max_evaluations=8)
    w = TrainVar(jnp.array([1.0, 2.0]))
    vc = VarCollection({"w": w})
    opt = optimizer.LBFGS(vc, line_search=search, lr=0.1)
    for _ in range(3):
        opt.minimize(lambda: jnp.sum(w.value**4))
    assert scalars(opt)["cosine"].max() > 0
    start = scalars(opt)["evaluations"]
    step = lambda: opt.minimize(lambda: lying(w.value))  # noqa: E731
    step = Jit(step, vc + opt.vars()) if compiled else step
    with unchanged(vc):
        step()
    after = scalars(opt)
    assert (after["failed"], after["alpha"], after["cosine"].max()) == (1, 0, 0)
    assert after["evaluations"] - start == search.max_evaluations


def test_a_search_that_ends_at_its_bound_takes_the_lowest_point():
    """(1 - α)², found to 1e-6 of the slope only, in at most 3 evaluations of a wrong cubic."""
    phi = lambda alpha: (jnp.abs(3.3 - alpha) ** 1.5, jnp.sign(alpha - 3.3) * 1.5 * jnp.abs(3.3 - alpha) ** 0.5)  # noqa: E731
    value, slope = phi(jnp.float32(0.0))
    found = rules.Zoom(c2=1e-3, max_evaluations=2).search(phi, value, slope, 1e-7)
    assert (float(found.alpha), int(found.evaluations), bool(found.failed)) == (2.0, 2, True)
    enough = rules.Zoom(c2=1e-3).search(phi, value, slope, 1e-7)
    assert not enough.failed
    assert abs(float(enough.alpha) - 3.3) < 1e-3


def test_pairs_without_positive_curvature_are_left_out():
    """Downhill on -x⁴ gradients grow: no pair, and steepest descent goes on; back in a valley there are pairs."""
    w = TrainVar(jnp.array([1.0]))
    opt = optimizer.LBFGS(VarCollection({"w": w}), line_search=None, lr=0.1)
    for t in range(1, 4):
        opt.minimize(lambda: -jnp.sum(w.value**4))
        np.testing.assert_allclose(w.value, 1 + 0.1 * t, rtol=1e-5)
    assert scalars(opt)["position"] == 0
    for _ in range(3):
        opt.minimize(lambda: jnp.sum(w.value**4))
    assert scalars(opt)["position"] == 3


# --- minimize ---------------------------------------------------------------------------------------------------------


def test_a_step_of_minimize_is_one_program_and_does_with_donated_memory_what_it_does_eagerly():
    def run(way):
        net = Net()
        opt = optimizer.LBFGS(net.vars(), 3, lr=1.0)
        step = Counted(lambda x, y: opt.minimize(loss_of(net), x, y))
        jit = step if way == "eager" else Jit(step, net.vars() + opt.vars(), donate=True)
        losses = [float(jit(X, Y)) for _ in range(4)]
        return losses, {name: np.asarray(v.value) for name, v in (net.vars() + opt.vars()).items()}, step.traces

    eager, donated = run("eager"), run("donated")
    assert donated[2] == 1
    np.testing.assert_allclose(donated[0], eager[0], rtol=1e-4)
    for name, x in eager[1].items():
        np.testing.assert_allclose(donated[1][name], x, rtol=1e-4, atol=1e-5)


@either_way
def test_the_search_sees_one_loss_and_leaves_no_trace(compiled):
    """Dropout masks are those of the step at each evaluation, and statistics and random states move once a step.

    Were another mask drawn, the loss at a step of next to nothing would not be that at the start.
    """
    net, seen = Net(), []

    class Looking(rules.Zoom):
        def search(self, phi, value, slope, eps):
            again, slope_again = phi(jnp.zeros_like(value))
            if compiled:
                jax.debug.callback(lambda *x: seen.append(x), value, again, slope, slope_again)
            else:
                seen.append((value, again, slope, slope_again))
            return super().search(phi, value, slope, eps)

    opt = optimizer.LBFGS(net.vars(), line_search=Looking(), lr=1.0)
    step = lambda x, y: opt.minimize(loss_of(net), x, y)  # noqa: E731
    step = Jit(step, net.vars() + opt.vars()) if compiled else step
    twin = Net()
    for t in range(1, 4):
        step(X, Y)
        twin(jnp.asarray(X), training=True)
        assert net.count.value == t
        for name in ("mean", "random"):
            np.testing.assert_array_equal(getattr(net, name).value, getattr(twin, name).value)
    jax.effects_barrier()
    assert len(seen) == 3
    for value, again, slope, slope_again in seen:
        np.testing.assert_allclose(value, again, rtol=1e-6)
        np.testing.assert_allclose(slope, slope_again, rtol=1e-5)


@pytest.mark.parametrize(("search", "gradients"), [("zoom", True), ("backtracking", False)])
def test_the_loss_stands_once_in_the_program_and_backtracking_computes_no_gradients(search, gradients):
    """The gradient of a sum of sines is a cosine. In the compiled program Zoom has that, and Backtracking has not."""
    loss = lambda p: jnp.sum(jnp.sin(p["w"]))  # noqa: E731
    init, apply = pure(rules.LBFGS(2, SEARCHES[search]), 1.0)

    def step(grads, state, params, value):
        return apply(grads, state, params, value=value, value_and_grad_fn=jax.value_and_grad(loss))

    params = {"w": jnp.ones(3)}
    program = jax.jit(step).lower(params, init(params), params, jnp.float32(2.5))
    assert program.as_text().count("stablehlo.sine") == 1
    assert (" cosine(" in program.compile().as_text()) == gradients


def test_eager_searches_are_loops_in_python(monkeypatch):
    """``lax.while_loop`` would compile at each step: each call of ``minimize`` has another loss."""
    monkeypatch.setattr(jax.lax, "while_loop", None)
    w = TrainVar(jnp.array([1.0, 2.0]))
    optimizer.LBFGS(VarCollection({"w": w}), lr=1.0).minimize(lambda: jnp.sum(w.value**2))
    assert (np.abs(w.value) < [1.0, 2.0]).all()


def test_state_is_named_after_parameters():
    opt = optimizer.LBFGS(Net().vars(), 3, lr=1.0)
    assert opt.state["(Net).w"].s.shape == (3, 3)
    assert opt.state["(Net).b"].y.shape == (3,)
    assert "(LBFGS)[(Net).w].params" in opt.vars()


def test_calls_without_the_loss_elsewhere_say_so():
    vc = VarCollection({"w": TrainVar(jnp.ones(2))})
    opt = optimizer.LBFGS(vc, lr=1.0)
    with unchanged(vc, opt.vars()), pytest.raises(MissingInputError, match="value_and_grad_fn"):
        opt.step([jnp.ones(2)], value=1.0)
    optimizer.LBFGS(vc, line_search=None, lr=1.0).step([jnp.ones(2)])


def test_mixed_precisions_are_each_computed_in_their_own(x64):
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(3, jnp.float64), "c": jnp.ones((), jnp.bfloat16)}
    loss = lambda p: sum(jnp.sum((x.astype(jnp.float64) - i) ** 2) for i, x in enumerate(p.values()))  # noqa: E731
    got, states = path(rules.LBFGS(), loss, params, 5)
    assert {k: str(v["s"].dtype) for k, v in states[-1]["slots"].items()} == {
        "a": "float32", "b": "float64", "c": "float32"}  # fmt: skip
    assert states[-1]["cosine"].dtype == np.float64
    for i, name in enumerate(params):
        assert got[-1][name].dtype == params[name].dtype
        np.testing.assert_allclose(np.float64(got[-1][name]), i, atol=1e-6)


# --- values -----------------------------------------------------------------------------------------------------------


def test_without_a_line_search_it_is_linear_in_lr_and_may_stand_anywhere_in_a_chain():
    """The next state is that of another lr, too. With a search neither holds."""
    loss = lambda p: jnp.sum(p["w"] ** 4)  # noqa: E731
    rule = rules.LBFGS(2, None)
    _, states = path(rule, loss, {"w": jnp.array([1.0, 2.0])}, 2, lr=0.1)
    params = {"w": jnp.array([0.5, -1.0])}
    small, large = (rule.update(rules.Step(jax.grad(loss)(params), params, lr), states[-1]) for lr in (0.25, -1.0))
    np.testing.assert_array_equal(-4 * small[0]["w"], large[0]["w"])
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), small[1], large[1]))
    rules.Chain(rule, rules.WeightDecay())
    CHECKS["check_hyperparameters_are_declared"](rule)


def test_only_a_line_search_is_a_line_search():
    for wrong in (rules.Zoom, "zoom", 3, rules.SGD()):
        with pytest.raises(CompositionError, match="line_search is not a line search"):
            rules.LBFGS(line_search=wrong)
    with pytest.raises(CompositionError, match=r"Zoom\(\)"):
        rules.LBFGS(line_search=rules.Zoom)


def test_it_must_be_last_in_a_chain():
    with pytest.raises(CompositionError, match="Put it last"):
        rules.Chain(rules.LBFGS(), rules.SGD())
    rules.Chain(rules.SGD(), rules.LBFGS())


@pytest.mark.parametrize("kind", [rules.Zoom, rules.Backtracking])
def test_searches_are_values_with_checked_hyperparameters(kind):
    search = kind(c1=0.2)
    assert search == kind(c1=np.float32(0.2)).replace(c1=0.2)
    assert hash(search) == hash(kind(c1=0.2))
    assert eval(repr(search), vars(rules)) == search
    for field in dataclasses.fields(kind):
        for wrong in (math.nan, -1.0, "0.5", None):
            with pytest.raises(HyperparameterError, match=repr(field.name)):
                kind(**{field.name: wrong})
        assert f"{field.name}: {field.metadata['doc']}" in kind.__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        search.c1 = 0.3


def test_zoom_needs_room_between_its_conditions():
    with pytest.raises(HyperparameterError, match="'c1' is not below 'c2'"):
        rules.Zoom(c1=0.3, c2=0.2)


CHANGES = {
    rules.Zoom(c1=0.3): {"c1": 0.4, "c2": 0.4, "growth": 3.0, "max_evaluations": 1, "noise": 0.1},
    rules.Backtracking(c1=0.3): {"c1": 0.4, "decrease": 0.3, "max_evaluations": 1, "noise": 0.5},
}


@pytest.mark.parametrize(("search", "name"), [(s, name) for s, changes in CHANGES.items() for name in changes])
def test_every_hyperparameter_of_a_search_matters(search, name):
    """On (α - c)², one of them with values that are wrong by 0.6 away from 0, where each has a say."""
    other = search.replace(**{name: CHANGES[search][name]})

    def steps(search):
        for c, high, wrong in ((0.77, 0, 0), (20.0, 0, 0), (3.0, 0, 0), (0.05, 0, 0), (0.77, 10.0, 0.6)):
            phi = lambda x, c=c, a=high, b=wrong: (a + b * (x > 0) + (x - c) ** 2, 2 * (x - c))  # noqa: E731
            yield float(search.search(phi, *phi(jnp.float32(0.0)), 1e-7).alpha)

    assert np.abs(np.array(list(steps(search))) - np.array(list(steps(other)))).max() > 1e-2


def test_the_signature_has_all_arguments():
    shown = inspect.signature(optimizer.LBFGS).parameters
    assert list(shown)[:3] == ["vc", "memory_size", "line_search"]
    assert shown["line_search"].default == rules.Zoom()
