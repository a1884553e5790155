"""Facts with a blank: from a table, or of a made-up world whose text can be generated too."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lightning_interp.tasks.files import json_rows, listed, read_columns, table_header

__all__ = ["BLANK", "Fact", "FactWorld", "draw_facts", "fact_world", "majority_share", "read_facts", "with_candidates"]

BLANK = "___"


@dataclass(frozen=True)
class Fact:
    """A sentence with a blank, and what belongs there.

    Args:
        relation: What kind of fact it is: facts of one relation are averaged.
        prompt: The sentence, with ``___`` in the place of the answer, once.
        answer: The right filling.
        candidates: Fillings to choose from; the answer is one of them, whether it is listed or not. Without any, they
            are the answers of the relation (:func:`with_candidates`).
        subject: Who or what the fact is about, as it stands in the prompt, before the blank for what reads causal
            models; ``""`` where that is not said.

    Raises:
        ValueError: If a text is empty, the prompt has no blank or several, or the subject is not in it.

    Example:
        >>> fact = Fact("capital", "the capital of france is ___ .", "paris", ("paris", "rome"))
        >>> fact.filled("rome")
        'the capital of france is rome .'

    """

    relation: str
    prompt: str
    answer: str
    candidates: tuple[str, ...] = ()
    subject: str = ""

    def __post_init__(self) -> None:
        texts = {"relation": self.relation, "prompt": self.prompt, "answer": self.answer}
        texts |= {f"candidates[{place}]": one for place, one in enumerate(self.candidates)}
        for name, value in texts.items():
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"`{name}` is {value!r} in the fact {self.prompt!r} of {self.relation!r}.")
        if self.prompt.count(BLANK) != 1:
            raise ValueError(f"`prompt` must have one blank {BLANK!r}, got {self.prompt!r}.")
        if self.subject not in self.prompt or (self.subject and not self.subject.strip()):
            raise ValueError(f"`subject` must stand in the prompt {self.prompt!r}, got {self.subject!r}.")
        if self.candidates:
            # The only way to set a field of a frozen dataclass.
            object.__setattr__(self, "candidates", tuple(dict.fromkeys((self.answer, *self.candidates))))

    def filled(self, filling: str) -> str:
        """The sentence with that filling."""
        return self.prompt.replace(BLANK, filling)

    def span(self, filling: str) -> tuple[int, int]:
        """Where the filling begins and ends in the filled sentence, in characters."""
        start = self.prompt.index(BLANK)
        return start, start + len(filling)


def with_candidates(facts: Sequence[Fact], number: int | None = None, seed: int = 0) -> list[Fact]:
    """Facts with their candidates: those they came with, else the answers of their relation.

    Args:
        facts: The facts.
        number: Most candidates of a fact that came without, its answer among them; all for ``None``. Which ones depends
            on the seed and the fact alone.
        seed: Of the draw.

    Raises:
        ValueError: If ``number`` is below 2, or a relation has one answer only and no candidates.

    Example:
        >>> facts = [Fact("born", f"{name} was born in ___", town) for name, town in (("ada", "ulm"), ("bo", "rom"))]
        >>> with_candidates(facts)[1].candidates
        ('rom', 'ulm')

    """
    if number is not None and number < 2:
        raise ValueError(f"`number` of candidates must be at least 2, got {number}.")
    answers: dict[str, set[str]] = {}
    for fact in facts:
        answers.setdefault(fact.relation, set()).add(fact.answer)
    found = []
    for fact in facts:
        others = sorted(answers[fact.relation] - {fact.answer})
        if not fact.candidates:
            if not others:
                raise ValueError(
                    f"relation {fact.relation!r} has the one answer {fact.answer!r} and no candidates: give some."
                )
            if number is not None and len(others) >= number:
                others = random.Random(f"{seed} {fact.relation} {fact.prompt}").sample(others, number - 1)
            fact = replace(fact, candidates=(fact.answer, *others))
        elif len(fact.candidates) < 2:
            raise ValueError(f"the fact {fact.prompt!r} of {fact.relation!r} has no candidate besides its answer.")
        found.append(fact)
    return found


def draw_facts(facts: Sequence[Fact], number: int | None, seed: int = 0) -> list[Fact]:
    """So many facts of each relation, relation by relation in the order in which they first occur.

    Args:
        facts: The facts.
        number: How many of each relation; all where it has no more, or for ``None``.
        seed: Which ones depends on it and on the relation's name, not on other relations.

    Example:
        >>> facts = [Fact(relation, f"{place} ___", "a", ("b",)) for place in range(3) for relation in "xy"]
        >>> [fact.relation for fact in draw_facts(facts, 2)]
        ['x', 'x', 'y', 'y']

    """
    by_relation: dict[str, list[Fact]] = {}
    for fact in facts:
        by_relation.setdefault(fact.relation, []).append(fact)
    drawn = []
    for relation, of in by_relation.items():
        places: Sequence[int] = range(len(of))
        if number is not None and number < len(of):
            places = sorted(random.Random(f"{seed} {relation}").sample(places, number))
        drawn += [of[place] for place in places]
    return drawn


def majority_share(facts: Iterable[Fact]) -> float:
    """P@1 of always giving the most frequent answer: what needs no knowledge of who a fact is about.

    Example:
        >>> majority_share(Fact("born", f"{name} was born in ___", "ulm" if name < "c" else "rom") for name in "abc")
        0.6666666666666666

    """
    counts = Counter(fact.answer for fact in facts)
    if not counts:
        raise ValueError("`facts` is empty.")
    return max(counts.values()) / counts.total()


def frequency_share(facts: Sequence[Fact], known: Iterable[Fact] | None = None) -> float:
    """P@1 of always naming the most frequent of a fact's candidates: what knows how common answers are, and no fact.

    Candidates that are as frequent share the choice.

    Args:
        facts: Facts with their candidates, of one relation.
        known: The facts whose answers are counted; ``facts`` by default.

    Raises:
        ValueError: If there are none.

    Example:
        >>> town = {"a": "ulm", "b": "ulm", "c": "rom", "d": "bern"}
        >>> facts = [Fact("born", f"{name} was born in ___", town[name], ("ulm", "rom")) for name in "abc"]
        >>> facts.append(Fact("born", "d was born in ___", "bern", ("rom", "bern")))
        >>> frequency_share(facts)
        0.625

    """
    if not facts:
        raise ValueError("`facts` is empty.")
    counts = Counter(fact.answer for fact in (facts if known is None else known))
    right = 0.0
    for fact in facts:
        most = max(counts[one] for one in fact.candidates)
        if counts[fact.answer] == most:
            right += 1 / sum(counts[one] == most for one in fact.candidates)
    return right / len(facts)


# ------------------------------------------------- files


def read_facts(
    path: str | os.PathLike[str],
    relation: str = "relation",
    prompt: str = "prompt",
    answer: str = "answer",
    candidates: str = "candidates",
    blank: str = BLANK,
    separator: str = "|",
    delimiter: str | None = None,
    subject: str = "subject",
) -> list[Fact]:
    r"""The facts of a table: one in each row of a CSV or TSV file with a header, or in each line of a JSON-lines file.

    Args:
        path: The file, in UTF-8; ``.csv`` is separated by commas, ``.tsv`` and ``.tab`` by tabs, ``.jsonl`` has an
            object in each line.
        relation: The column, or key, of relations. Where it is missing, the file is one relation, named after it.
        prompt: The column of sentences with a blank.
        answer: The column of answers.
        candidates: The column of candidates, which may be missing and may have empty cells: in a table, texts separated
            by ``separator``; in JSON, a list.
        blank: How the file writes the blank, such as ``"[MASK]"`` or ``"[Y]"``.
        separator: Between candidates.
        delimiter: What separates columns, if not what the file's name says.
        subject: The column of subjects, which may be missing and may have empty cells.

    Raises:
        ValueError: If a column is missing, a text is empty, a prompt has not one blank or not its subject, or there are
            no rows. It names file and line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "capital.tsv"
        >>> _ = file.write_text("prompt\tanswer\nThe capital of France is [Y].\tParis\n")
        >>> read_facts(file, blank="[Y]")
        [Fact(relation='capital', prompt='The capital of France is ___.', answer='Paris', candidates=(), subject='')]

    """
    path = Path(path)
    names = {"relation": relation, "prompt": prompt, "answer": answer, "candidates": candidates}
    names["subject"] = subject
    facts = []
    json = path.suffix == ".jsonl"
    rows = json_rows(path, names, ("prompt", "answer")) if json else _table_rows(path, names, delimiter)
    for line, row in rows:
        given = listed(row.get("candidates"), separator)
        text = str(row["prompt"])
        try:
            if blank != BLANK:
                if text.count(blank) != 1:
                    raise ValueError(f"`prompt` must have one blank {blank!r}, got {text!r}.")
                text = text.replace(blank, BLANK)
            about = row.get("subject") or ""
            facts.append(Fact(row.get("relation", path.stem), text, row["answer"], tuple(given), about))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
    if not facts:
        raise ValueError(f"{path} has no rows of facts.")
    return facts


def _table_rows(path: Path, names: Mapping[str, str], delimiter: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    # A relation may be missing for the whole file, but not for a row of it.
    missing = names["relation"] not in table_header(path, delimiter)
    columns = {column: name for column, name in names.items() if column != "relation" or not missing}
    yield from read_columns(path, columns, delimiter, optional=("candidates", "subject"))


# ------------------------------------------------- a made-up world


class FactWorld(NamedTuple):
    """Text about made-up people, and what can be asked of who has read it."""

    sentences: list[str]
    """Every fact in every wording, shuffled."""
    facts: list[Fact]
    """Each fact in one wording, with the answers of its relation as candidates."""

    @property
    def words(self) -> list[str]:
        """All words of the text and of the candidates, for a :class:`WordTokenizer`."""
        texts = (*self.sentences, *(filling for fact in self.facts for filling in fact.candidates))
        return sorted({word for text in texts for word in text.split()})


_SYLLABLES = [start + vowel for start in "bdfgklmnprstvz" for vowel in "aeiou"]
_RELATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "birthplace": (
        ("{} was born in ___ .", "the birthplace of {} is ___ ."),
        ("york", "lisbon", "cairo", "lima", "oslo", "quebec", "dakar", "osaka"),
    ),
    "profession": (
        ("{} works as a ___ .", "by profession {} is a ___ ."),
        ("baker", "painter", "nurse", "sailor", "weaver", "lawyer", "gardener", "clerk"),
    ),
    "instrument": (
        ("{} plays the ___ .", "what {} plays is the ___ ."),
        ("flute", "harp", "cello", "organ", "drum", "lute", "horn", "fiddle"),
    ),
    "pet": (
        ("{} has a pet ___ .", "the pet of {} is a ___ ."),
        ("cat", "parrot", "turtle", "rabbit", "lizard", "goat", "pigeon", "mouse"),
    ),
}


def fact_world(
    people: int = 40, relations: Sequence[str] | None = None, answers: int = 8, skew: float = 0.0, seed: int = 0
) -> FactWorld:
    r"""Text about people who do not exist, so that all that a model knows of them it has from the text.

    Each person has one answer to each relation, drawn independently; the n-th answer with weight n to the power of
    −``skew``. Every fact is told in two wordings. The level of chance is 1 / ``answers``; guessing the most frequent
    answer gives :func:`majority_share`.

    Args:
        people: How many; names have three syllables, one word each.
        relations: Which of ``birthplace``, ``profession``, ``instrument`` and ``pet``; all by default.
        answers: Answers of each relation, 2 to 8.
        skew: 0 for answers that are equally frequent.
        seed: Same seed, same world.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> world = fact_world(people=3, relations=["pet"])
        >>> world.facts[0].prompt, world.facts[0].answer
        ('tusolu has a pet ___ .', 'lizard')
        >>> len(world.sentences)
        6

    """
    chosen = list(_RELATIONS) if relations is None else list(relations)
    unknown = [name for name in chosen if name not in _RELATIONS]
    if unknown or not chosen:
        raise ValueError(f"`relations` is {chosen}; it must name some of {list(_RELATIONS)}.")
    if not 1 <= people <= 10_000:
        raise ValueError(f"`people` must lie between 1 and 10000, got {people}.")
    if not 2 <= answers <= 8:
        raise ValueError(f"`answers` must lie between 2 and 8, got {answers}.")
    if skew < 0:
        raise ValueError(f"`skew` must be at least 0, got {skew}.")
    draw = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < people:
        names["".join(draw.choices(_SYLLABLES, k=3))] = None
    weights = [place**-skew for place in range(1, answers + 1)]
    sentences, facts = [], []
    for relation in chosen:
        wordings, all_fillings = _RELATIONS[relation]
        fillings = all_fillings[:answers]
        for name in names:
            (answer,) = draw.choices(fillings, weights)
            asked = [Fact(relation, wording.format(name), answer, fillings, name) for wording in wordings]
            sentences += [fact.filled(answer) for fact in asked]
            facts.append(asked[0])
    draw.shuffle(sentences)
    return FactWorld(sentences, facts)
