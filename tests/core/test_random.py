"""Random numbers: reproducible, fresh on each call, compiled too, and no tracer in a generator."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, Module, RandomState, StateVar, VarCollection, Vectorize, random
from optimkit.errors import TraceMutationError
from tests.shell import Counted

Generator, DEFAULT_GENERATOR = random.Generator, random.DEFAULT_GENERATOR
N = 100_000
ERROR = 5 / np.sqrt(N)  # five standard errors of a mean of N draws, in units of their standard deviation


@pytest.fixture(autouse=True)
def _same_default_generator():
    """Leave the default generator as it was found."""
    key, seed = DEFAULT_GENERATOR._key, DEFAULT_GENERATOR.initial_seed
    DEFAULT_GENERATOR._key = None
    yield
    DEFAULT_GENERATOR._key, DEFAULT_GENERATOR.initial_seed = key, seed


DRAWS = {
    "normal": random.normal, "truncated_normal": random.truncated_normal, "uniform": random.uniform,
    "randint": lambda shape, **k: random.randint(shape, 0, 1 << 30, **k), "bernoulli": random.bernoulli,
}  # fmt: skip


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
@pytest.mark.parametrize("shape", [(), (3,), [2, 3], (0, 2)], ids=str)
def test_draws_have_the_shape_asked_for_and_repeat_from_the_seed(draw, shape):
    first = draw(shape, generator=Generator(5))
    assert first.shape == tuple(shape)
    assert (first == draw(shape, generator=Generator(5))).all()


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_draws_differ_between_calls_and_between_seeds(draw):
    g = Generator(5)
    a, b, c = draw((64,), generator=g), draw((64,), generator=g), draw((64,), generator=Generator(6))
    assert not (a == b).all()
    assert not (a == c).all()


def test_moments_and_ranges_are_the_distributions():
    g = Generator(0)
    x = np.asarray(random.normal((N,), mean=3.0, stddev=2.0, generator=g), np.float64)
    assert abs(x.mean() - 3) < 2 * ERROR
    assert abs(x.std() - 2) < 2 * ERROR
    x = np.asarray(random.truncated_normal((N,), stddev=2.0, lower=-1.0, upper=1.0, generator=g), np.float64)
    assert np.abs(x).max() <= 2.0
    density, mass = np.exp(-0.5) / np.sqrt(2 * np.pi), 0.682689492137
    assert abs(x.std() - 2 * np.sqrt(1 - 2 * density / mass)) < 2 * ERROR
    x = np.asarray(random.uniform((N,), low=-1.0, high=3.0, generator=g), np.float64)
    assert (x.min() >= -1.0, x.max() < 3.0) == (True, True)
    assert abs(x.mean() - 1) < 4 / np.sqrt(12) * ERROR
    x = np.asarray(random.randint((N,), -2, 3, generator=g))
    assert np.unique(x).tolist() == [-2, -1, 0, 1, 2]
    assert abs(x.mean()) < np.sqrt(2) * ERROR
    x = np.asarray(random.bernoulli((N,), 0.3, generator=g))
    assert x.dtype == bool
    assert abs(x.mean() - 0.3) < np.sqrt(0.21) * ERROR


def test_a_generator_is_seeded_again_before_and_after_its_first_use():
    g = Generator(1)
    g.seed(7)
    first = random.normal((3,), generator=g)
    random.normal((3,), generator=g)
    g.seed(7)
    assert (random.normal((3,), generator=g) == first).all()
    assert (random.normal((3,), generator=Generator(7)) == first).all()


def test_a_call_of_a_generator_is_a_fresh_key():
    g = Generator(3)
    assert len({tuple(g().tolist()) for _ in range(5)}) == 5


def test_its_variable_exists_as_soon_as_it_is_asked_for():
    g = Generator(3)
    vc = g.vars("s.")
    assert list(vc.keys()) == ["s.(Generator)._key"]
    assert isinstance(vc["s.(Generator)._key"], RandomState)
    assert g.vars("s.") == vc


class Dropout(Module):
    def __init__(self, generator):
        self.keygen = generator

    def __call__(self, x):
        return x * random.bernoulli(x.shape, 0.5, generator=self.keygen)


def test_a_compiled_function_draws_new_numbers_on_each_call_without_compiling_again():
    layer, looped = Dropout(Generator(0)), Dropout(Generator(0))
    counted = Counted(layer)
    f, x = Jit(counted, layer.vars()), jnp.ones(32)
    draws = [f(x) for _ in range(3)]
    assert [d.tolist() for d in draws] == [looped(x).tolist() for _ in range(3)]
    assert len({tuple(d.tolist()) for d in draws}) == 3
    assert counted.traces == 1


@pytest.mark.filterwarnings("ignore::optimkit.errors.ConstantVariableWarning")
@pytest.mark.parametrize("transform", [lambda f: Jit(f, VarCollection()), jax.jit], ids=["ours", "foreign"])
@pytest.mark.parametrize("g", [Generator(0), DEFAULT_GENERATOR], ids=["own", "default"])
def test_a_generator_that_is_not_listed_raises_with_its_name_and_is_left_usable(g, transform):
    with pytest.raises(TraceMutationError, match=r"'\(Generator\)._key' is written"):
        transform(lambda: random.normal((2,), generator=g))()
    assert not isinstance(g.key.value, jax.core.Tracer)
    g.seed(0)
    assert (random.normal((2,), generator=g) == random.normal((2,), generator=Generator(0))).all()


def test_a_generator_first_listed_inside_a_trace_holds_no_tracer():
    g = Generator(4)
    Jit(lambda: g.vars() and None, VarCollection())()
    h = Generator(5)
    jax.jit(lambda: h.key is None)()
    np.testing.assert_array_equal(g.key.value, jax.random.PRNGKey(4))
    np.testing.assert_array_equal(h.key.value, jax.random.PRNGKey(5))


def test_each_element_of_a_batch_draws_its_own_numbers():
    layer = Dropout(Generator(0))
    assert len(np.unique(Vectorize(layer)(jnp.ones((4, 32))), axis=0)) == 4


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deep", "pickle"])
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_goes_on_by_itself(duplicate, used):
    g = Generator(2)
    if used:
        g()
    twin = duplicate(g)
    assert [g().tolist() for _ in range(2)] == [twin().tolist() for _ in range(2)]


def test_seeding_under_a_foreign_trace_stores_no_tracer():
    s = RandomState(0)
    kept = StateVar(0.0)
    with pytest.raises(TraceMutationError):
        jax.jit(lambda x: (s.split(1), kept.assign(x)))(1.0)
    np.testing.assert_array_equal(s.value, jax.random.PRNGKey(0))
    jax.jit(lambda: s.seed(5))()
    np.testing.assert_array_equal(s.value, jax.random.PRNGKey(5))
