"""The museum: a check of the kit rejects each defect that a library had, and accepts the rule without it."""

from __future__ import annotations

import pathlib

import pytest

from optimkit.errors import ConformanceError
from optimkit.testing import CHECKS

from .museum import EXHIBITS, Exhibit

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


@pytest.mark.slow
@named(EXHIBITS)
def test_the_check_accepts_the_rule_without_the_defect(exhibit):
    CHECKS[exhibit.rejected_by](exhibit.repaired(), **exhibit.options)


def test_there_are_exhibits_enough_and_each_is_listed_once():
    names = [e.name for e in EXHIBITS]
    assert len(set(names)) == len(names)
    assert len(EXHIBITS) >= 25


@named(EXHIBITS)
def test_an_exhibit_names_its_origin_and_tells_its_story(exhibit):
    assert exhibit.origin.startswith(LIBRARIES)
    assert len(exhibit.story.split()) >= 10
    assert exhibit.repaired.defect is False


@pytest.mark.skipif(not NOTES.is_dir(), reason="the notes on peers are not part of the repository")
@named(EXHIBITS)
def test_the_notes_on_peers_have_the_facts_of_an_exhibit(exhibit):
    file, words = exhibit.notes
    assert words in (NOTES / file).read_text(encoding="utf-8")
