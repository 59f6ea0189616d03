"""Schemas as libraries and tools write them: every one is taken, and loses none of its documents."""

import pytest

from harness.schema_corpus import Subject, subjects
from tests.unit.json_grammar import PreparedGrammar

pytestmark = [pytest.mark.row("A7"), pytest.mark.point(92)]

SUBJECTS = list(subjects())


def test_there_are_enough() -> None:
    assert len(SUBJECTS) >= 300
    assert sum(len(subject.valid) for subject in SUBJECTS) > len(SUBJECTS)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_every_schema_is_taken_with_its_documents(subject: Subject) -> None:
    grammar = PreparedGrammar(subject.schema)
    assert [text for text in subject.valid if not grammar.accepts(text)] == []
