"""The museum: a check of the kit rejects each defect that a library had, and accepts the rule without it."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from optimkit.errors import ConformanceError
from optimkit.rules import Step
from optimkit.testing import CHECKS

from .museum import EXHIBITS, NOT_REJECTED, Exhibit

NOTES = pathlib.Path(__file__).parents[2] / "shared" / "reference"
LIBRARIES = ("declearn", "fedjax", "flax", "objax", "optax")


# To tell where a tracer went, JAX looks at all objects there are, which late in a run takes half a minute.
SLOW = ("ConstantsOfTheFirstTrace", "ReferenceOnTheObject")


def named(exhibits: list[Exhibit]) -> pytest.MarkDecorator:
    marked = [pytest.param(e, id=e.name, marks=[pytest.mark.slow] if e.name in SLOW else []) for e in exhibits]
    return pytest.mark.parametrize("exhibit", marked)


@named(EXHIBITS)
def test_the_check_rejects_the_defect_and_says_what_matters(exhibit):
    rule = exhibit.rule()
    with pytest.raises(ConformanceError, match=rf"(?s){exhibit.says}") as caught:
        CHECKS[exhibit.rejected_by](rule, **exhibit.options)
    assert str(caught.value).startswith(f"{exhibit.rejected_by}({rule!r})")


@named(EXHIBITS)
def test_the_check_accepts_the_rule_without_the_defect(exhibit):
    CHECKS[exhibit.rejected_by](exhibit.repaired(), **exhibit.options)


def test_there_are_exhibits_enough_and_each_is_listed_once():
    names = [e.name for e in [*EXHIBITS, *NOT_REJECTED]]
    assert len(set(names)) == len(names)
    assert len(EXHIBITS) >= 25


@named([*EXHIBITS, *NOT_REJECTED])
def test_an_exhibit_names_its_origin_and_tells_its_story(exhibit):
    assert exhibit.origin.startswith(LIBRARIES)
    assert len(exhibit.story.split()) >= 10
    assert exhibit.repaired.defect is False


@pytest.mark.skipif(not NOTES.is_dir(), reason="the notes on peers are not part of the repository")
@named([*EXHIBITS, *NOT_REJECTED])
def test_the_notes_on_peers_have_the_facts_of_an_exhibit(exhibit):
    file, words = exhibit.notes
    assert words in (NOTES / file).read_text(encoding="utf-8")


# --- what no check rejects yet: the harm is shown here, and a check that is added is noticed --------------------------


def moved(rule: Any, g: Any, state: Any = None, **inputs: Any) -> Any:
    """Return the displacement of a parameter of two elements by one step."""
    params = {"w": jnp.ones(2, g.dtype)}
    state = rule.init(params) if state is None else state
    return rule.update(Step({"w": g}, params, jnp.float32(0.1), **inputs), state)[0]["w"]


def norm_overflows(rule):
    return not moved(rule(), jnp.full(2, 300, jnp.float16)).any()


def count_returns_to_zero(rule):
    state = rule().init({"w": jnp.ones(2)})
    state["slots"]["w"]["count"] = jnp.array(2**32 - 1, jnp.uint32)
    return jnp.isinf(moved(rule(), jnp.ones(2), state)).any()


def offset_makes_nan(rule):
    return jnp.isnan(moved(rule(step_offset=3), jnp.ones(2))).any()


def other_keys_draw_the_same(rule):
    first, second = (moved(rule(), jnp.ones(2), key=jax.random.key(i)) for i in (0, 1))
    return (first == second).all()


def python_number_raises(rule):
    try:
        moved(rule(), jnp.ones(2), value=1.0)
    except AttributeError:
        return True
    return False


HARM = {
    "KeyIsZero": other_keys_draw_the_same,
    "LossMustBeAnArray": python_number_raises,
    "NormOverflows": norm_overflows,
    "OffsetBeyondTheFirstStep": offset_makes_nan,
    "UnsignedCount": count_returns_to_zero,
}


@named(NOT_REJECTED)
def test_the_defect_does_harm_that_its_repair_does_not_do(exhibit):
    assert HARM[exhibit.name](exhibit.rule)
    assert not HARM[exhibit.name](exhibit.repaired)


@pytest.mark.slow
@named(NOT_REJECTED)
def test_no_check_rejects_it_yet(exhibit):
    """Fails when the kit has learned to: then the exhibit belongs to EXHIBITS, with the name of that check."""
    for name, check in CHECKS.items():
        if name != "check_oracle":
            check(exhibit.rule())
