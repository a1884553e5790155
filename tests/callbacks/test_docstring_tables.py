"""The table of keys in the docstring of each callback says what the callback declares."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest

import lightning_interp
from lightning_interp import (
    AcquisitionByClass,
    AttentionStructure,
    CausalTrace,
    Faithfulness,
    InductionHeads,
    LayerProbe,
    MinimalPairs,
    NeuronTable,
    RepresentationStructure,
    TaskSpace,
    TrainingPhases,
    TruthProbe,
    ValidationAnalysis,
)
from lightning_interp.metrics.measure import SUMMARY
from tests.callbacks import recipes
from tests.callbacks.recipes import ANALYSES, SITE

FULLEST: dict[str, Callable[[], ValidationAnalysis]] = {
    "RepresentationStructure": lambda: RepresentationStructure(
        SITE, ["token", "bigram"], information_plane=["token", "next_token"], jackknife=2
    ),
    "LayerProbe": lambda: LayerProbe({"a": "encoder", "b": "head"}, ["tags"], ["depth"], codelength=True),
    "TaskSpace": lambda: TaskSpace("grammar", "grammar", max_pairs=4),
    "MinimalPairs": lambda: MinimalPairs("grammar", "grammar", max_pairs=4, standard_errors=True),
    # The rows say what the first of several probes has.
    "TruthProbe": lambda: TruthProbe(recipes.statements, SITE, ["mass_mean"], tokenizer=recipes.letter_words),
    # Without heads to watch, whose values are of another level.
    "AttentionStructure": lambda: AttentionStructure(SITE),
    "InductionHeads": lambda: InductionHeads(sites=SITE),
    # Of facts that the model knows, which there may be none of.
    "CausalTrace": lambda: CausalTrace(recipes.ABOUT, recipes.letters, windows={"mlp": "mlp"}),
    "Faithfulness": lambda: Faithfulness(
        "explanation", explain=lambda model, words: (None, None), decode=str, target="label"
    ),
    "NeuronTable": lambda: NeuronTable(SITE, track={"enc": [0]}, explain=str, simulate=lambda text, tokens: ()),
    "AcquisitionByClass": lambda: AcquisitionByClass("head", target="tags", names=["zero", "one"]),
}
"""With every option that adds keys, where the recipe has not."""


class Row(NamedTuple):
    patterns: list[str]
    level: str
    says: str


def rows(docstring: str) -> list[Row]:
    """The rows of the table of keys: cells are cut where the lines of `=` are."""
    lines = inspect.cleandoc(docstring).splitlines()
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r"=+ +=+ +=+", line)]
    header = next(number for number in rules if lines[number + 1].split()[:2] == ["key", "level"])
    end = [number for number in rules if number > header][1]
    starts = [one.start() for one in re.finditer(r"=+", lines[header])]
    found: list[list[str]] = []
    for line in lines[header + 3 : end]:
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0].startswith("``") and not (found and found[-1][0].endswith(",")):  # a list of keys goes on
            found.append(cells)
        else:
            found[-1] = [f"{before} {more}".strip() for before, more in zip(found[-1], cells, strict=True)]
    return [Row(_patterns(key, says), level, says) for key, level, says in found]


def _patterns(key: str, says: str) -> list[str]:
    """What the first cell names, and what the last one says is there ``too``."""
    named = re.findall(r"``([^`]+)``", key)
    return named + re.findall(r"``([^`]+)`` too", says)


def fits(pattern: str, key: str) -> bool:
    """Whether a key is of a pattern: ``<…>`` is a name, ``…`` and ``<measure>``, ``<key>`` are anything."""
    parts = re.split(r"(<[^>]+>|…)", pattern)
    wild = {"<measure>": ".+", "<key>": ".+", "…": ".*"}
    whole = "".join(wild.get(one, "[^/]+") if one[:1] in ("<", "…") else re.escape(one) for one in parts)
    return re.fullmatch(whole, key) is not None


def said_of(key: str, table: list[Row]) -> Row | None:
    """The row that says most precisely what a key is."""
    fitting = [(len(re.sub(r"<[^>]+>|…", "", one)), row) for row in table for one in row.patterns if fits(one, key)]
    return max(fitting, key=lambda one: one[0])[1] if fitting else None


@pytest.mark.parametrize("name", ANALYSES)
def test_the_table_says_what_is_declared(name: str) -> None:
    if name == "RepresentationMetrics":
        pytest.skip("its keys are those of the metrics that it is given")
    table = rows(getattr(lightning_interp, name).__doc__)
    analysis = FULLEST.get(name, lambda: recipes.analysis(name))()
    levels, conditional = analysis.measures(), analysis.conditional_keys()
    for key, level in levels.items():
        row = said_of(key, table)
        assert row is not None, f"{key} is in no row"
        own = row.level or levels[key.replace("_above_baseline", "")]
        assert level == own, (key, row)
        assert ("conditional" in row.says) == (analysis.full_key(key) in conditional), (key, row)
    for row in table:
        for pattern in row.patterns:
            assert any(fits(pattern, key) for key in levels), f"{pattern} is of no key"


def test_the_table_of_phases_says_what_is_declared() -> None:
    table = rows(TrainingPhases.__doc__ or "")
    levels = TrainingPhases(improving={"a/b": "max"}).measures()
    for key, level in levels.items():
        row = said_of(key, table)
        assert row is not None, key
        assert row.level == level, (key, row)
    assert all(any(fits(pattern, key) for key in levels) for row in table for pattern in row.patterns)


def test_how_a_table_is_read() -> None:
    text = """What it is.

    ====================  =======  =================
    key                   level    what it is
    ====================  =======  =================
    ``a/<site>``,         summary  one; ``b/…`` too;
    ``c/<site>``                   conditional
    ``…_chance/<site>``   full     another
    ====================  =======  =================
    """
    table = rows(text)
    assert table == [
        Row(["a/<site>", "c/<site>", "b/…"], SUMMARY, "one; ``b/…`` too; conditional"),
        Row(["…_chance/<site>"], "full", "another"),
    ]
    assert said_of("a/enc", table) == said_of("b/enc/x", table) == table[0]
    assert said_of("a_chance/enc", table) == table[1]
    assert said_of("a/enc/x", table) is None
