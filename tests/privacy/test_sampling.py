"""Poisson-sampled batches: their distribution, shapes, state, and what happens when they do not fit."""

from __future__ import annotations

import copy
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from optimkit.errors import HyperparameterError, OptimkitError
from optimkit.privacy import BatchOverflowError, PoissonBatches, batch_size_for, overflow_probability, sampling


def drawn(batches, count):
    """Return the examples of some batches, one array each."""
    return [index[mask] for index, mask in itertools.islice(batches, count)]


def indicators(n, q, count, seed=0):
    """Return bool[count, n]: which examples are in which batch."""
    batches = PoissonBatches(n, q, n, seed=seed)
    return np.array([np.isin(np.arange(n), batches.batch(i)[0][batches.batch(i)[1]]) for i in range(count)])


@pytest.mark.parametrize("q", [0.02, 0.3, 0.9])
def test_each_example_is_in_each_batch_by_itself(q):
    """Frequencies, variances and correlations of 40 examples in 2000 batches, to 5 deviations of theirs."""
    inside = indicators(40, q, 2000).astype(float)
    deviation = math.sqrt(q * (1 - q))
    assert np.abs(inside.mean(axis=0) - q).max() < 5 * deviation / math.sqrt(2000)
    sizes = inside.sum(axis=1)
    assert abs(sizes.var() / (40 * q * (1 - q)) - 1) < 5 * math.sqrt(2 / 2000) * 1.5
    correlations = np.corrcoef(inside.T)[np.triu_indices(40, 1)]
    assert np.abs(correlations).max() < 5 / math.sqrt(2000)
    following = np.mean((inside[1:] - q) * (inside[:-1] - q)) / deviation**2
    assert abs(following) < 5 / math.sqrt(2000 * 40)


def test_batches_have_one_shape_and_distinct_examples_in_order():
    for index, mask in itertools.islice(PoissonBatches(1000, 0.05, 90, seed=3), 50):
        assert (index.shape, index.dtype, mask.shape, mask.dtype) == ((90,), np.int32, (90,), np.dtype(bool))
        count = mask.sum()
        assert mask[:count].all() and not index[count:].any()
        assert (np.diff(index[:count]) > 0).all() and (index[:count] < 1000).all() and (index >= 0).all()


def test_none_and_all_are_sampling_rates():
    assert [len(x) for x in drawn(PoissonBatches(7, 0.0, seed=0), 3)] == [0, 0, 0]
    assert [x.tolist() for x in drawn(PoissonBatches(3, 1.0, seed=0), 2)] == [[0, 1, 2]] * 2
    assert PoissonBatches(3, 1.0, seed=0).max_batch_size == 3
    assert PoissonBatches(7, 0.0, seed=0).max_batch_size == 1


def test_rare_examples_of_many_are_drawn_in_the_time_of_those_drawn():
    sizes = [len(x) for x in drawn(PoissonBatches(2**31 - 1, 1e-8, seed=1), 200)]
    assert abs(np.mean(sizes) - 21.5) < 5 * math.sqrt(21.5 / 200)


def test_a_seed_gives_the_same_batches_and_another_seed_others():
    one, same, other = (drawn(PoissonBatches(500, 0.1, seed=seed), 5) for seed in (2**100 + 1, 2**100 + 1, 2**100))
    assert all(map(np.array_equal, one, same))
    assert not any(map(np.array_equal, one, other))
    assert len({tuple(x) for x in one}) == 5


def test_batches_go_on_where_they_were_when_their_state_is_loaded():
    batches = PoissonBatches(100, 0.2, seed=5)
    straight = drawn(batches, 6)
    first = PoissonBatches(100, 0.2, seed=5)
    drawn(first, 2)
    second = PoissonBatches(100, 0.2, seed=5)
    second.vars().assign(first.vars().tensors())
    assert list(second.vars().keys()) == ["(PoissonBatches).step"]
    assert all(map(np.array_equal, drawn(second, 4), straight[2:]))
    assert all(map(np.array_equal, drawn(copy.deepcopy(first), 4), straight[2:]))
    first.step.value = 0
    assert np.array_equal(drawn(first, 1)[0], straight[0])


def test_batches_end_after_their_steps_also_when_resumed():
    batches = PoissonBatches(10, 0.5, seed=0, steps=4)
    assert len(drawn(batches, 3)) == 3
    assert len(list(batches)) == 1
    assert list(batches) == []


def test_any_batch_can_be_had_without_a_change_of_state():
    batches = PoissonBatches(100, 0.2, seed=5)
    later = batches.batch(3)
    assert int(batches.step) == 0
    assert np.array_equal(list(itertools.islice(batches, 4))[3][0], later[0])


# --- overflow ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "q"), [(90, Fraction(1, 10)), (90, Fraction(9, 10)), (60, Fraction(1, 999)),
                                      (1, Fraction(1, 2)), (2, Fraction(1, 3))])  # fmt: skip
def test_the_probability_of_overflow_is_the_binomial_tail_rounded_up(n, q):
    exact = Fraction(0)
    for size in range(n, math.ceil((n + 1) * q), -1):
        bound = overflow_probability(n, float(q), size)
        assert exact <= bound <= float(exact) * (1 + 1e-10)
        exact += math.comb(n, size) * q**size * (1 - q) ** (n - size)


def test_a_tail_of_more_terms_than_are_added_is_bounded_by_a_geometric_series(monkeypatch):
    whole = overflow_probability(10000, 0.5, 5100)
    monkeypatch.setattr(sampling, "MOST_TERMS", 30)
    assert whole < overflow_probability(10000, 0.5, 5100) < 1.2 * whole


def test_the_probability_of_overflow_is_1_below_the_expectation_and_0_where_there_is_room_for_all():
    assert overflow_probability(100, 0.5, 49) == 1
    assert overflow_probability(100, 0.5, 100) == 0 == overflow_probability(100, 0.0, 0)
    assert overflow_probability(100, 1.0, 99) == 1


@pytest.mark.parametrize(("n", "q", "probability"), [(1000, 0.05, 1e-9), (60000, 256 / 60000, 1e-12), (50, 0.5, 0.1)])
def test_the_suggested_size_is_the_least_that_will_do(n, q, probability):
    size = batch_size_for(n, q, probability)
    assert overflow_probability(n, q, size) <= probability < overflow_probability(n, q, size - 1)
    rounded = batch_size_for(n, q, probability, multiple_of=16)
    assert rounded % 16 == 0 and 0 <= rounded - size < 16


def test_repr_shows_the_probability_of_overflow():
    assert "max_batch_size=376, overflow='raise' with probability <= 8.3e-13" in repr(
        PoissonBatches(60000, 256 / 60000, seed=0)
    )


def test_a_batch_that_does_not_fit_is_an_error_that_says_what_does_and_changes_nothing():
    batches = PoissonBatches(100, 0.5, 50, seed=0)
    before = [int(batches.step)]
    with pytest.raises(BatchOverflowError, match=r"than there is room for(.|\n)*max_batch_size=8\d\.") as raised:
        for _ in range(100):
            next(batches)
            before.append(int(batches.step))
    assert int(batches.step) == before[-1]
    assert isinstance(raised.value, OptimkitError)


def test_truncation_keeps_a_random_choice_and_the_shape():
    whole, cut = PoissonBatches(100, 0.5, 100, seed=0), PoissonBatches(100, 0.5, 40, seed=0, overflow="truncate")
    kept = np.zeros(100)
    for full, part in zip(drawn(whole, 300), drawn(cut, 300), strict=True):
        assert set(part) <= set(full)
        assert len(part) == min(len(full), 40)
        kept[part] += 1
    assert np.abs(kept / 300 - 0.4).max() < 5 * math.sqrt(0.24 / 300)  # not the first 40 of each


@pytest.mark.parametrize(("arguments", "name"), [
    ({"n": 0}, "n"), ({"n": 2.5}, "n"), ({"sampling_rate": -0.1}, "sampling_rate"), ({"seed": -1}, "seed"),
    ({"sampling_rate": math.nan}, "sampling_rate"), ({"max_batch_size": 0}, "max_batch_size"), ({"steps": -1}, "steps"),
    ({"overflow": "drop"}, "overflow"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused_by_name(arguments, name):
    with pytest.raises(HyperparameterError, match=f"'{name}' is out of range"):
        PoissonBatches(**{"n": 10, "sampling_rate": 0.1, "seed": 0} | arguments)


def test_a_batch_size_for_a_sampling_rate_is_recognized():
    with pytest.raises(HyperparameterError, match="batch_size / n"):
        PoissonBatches(1000, 64, seed=0)
