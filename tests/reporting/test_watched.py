"""Which keys a person watches, and where each is drawn."""

from __future__ import annotations

import pytest
from callbacks.recipes import CALLBACKS

from lightning_interp import ValidationAnalysis
from lightning_interp.figures._style import in_two_lines
from lightning_interp.metrics.base import SUMMARY
from lightning_interp.reporting.watched import places_of, titles_of, watched

BOOKS = ("rows", "coverage", "nonfinite", "num_labels", "floor", "seconds", "failed", "probe_rows", "probe_classes")
READERS = {name: one for name, make in CALLBACKS.items() for one in make(False) if isinstance(one, ValidationAnalysis)}
every_reader = pytest.mark.parametrize("name", READERS)


@every_reader
def test_of_what_a_callback_reads_that_is_watched_which_is_logged_by_default(name: str) -> None:
    levels = READERS[name].measures()
    found = watched([*levels, f"seconds/{name}", f"failed/{name}"])
    assert found
    assert {levels[key] for key in found} == {SUMMARY}
    assert not [key for key in found if key.split("/")[0] in BOOKS or key.endswith(("/se", "/sd"))]
    assert not [key for key in found if key.split("/")[0].endswith(("_chance", "_baseline")) and "above" not in key]


@every_reader
def test_what_it_is_of_has_no_part_in_it(name: str) -> None:
    """A prefix, the loader, and what else there is."""
    measures = list(READERS[name].measures())
    expected = watched(measures)
    assert watched(f"own/{key}" for key in measures) == [f"own/{key}" for key in expected]
    assert watched(f"{key}/dataloader_idx_1" for key in measures) == [f"{key}/dataloader_idx_1" for key in expected]
    assert watched(["val_loss", *measures]) == ["val_loss", *expected]


@every_reader
def test_each_key_has_a_place_of_its_own(name: str) -> None:
    keys = [*READERS[name].measures(), "val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1", "val_loss"]
    places = places_of(keys)
    assert len({*places.values()}) == len(keys)
    titles = titles_of(keys)
    assert len({*titles.values()}) == len(keys)
    assert not [one for key in keys for one in (*places[key], titles[key]) if not one.strip() or "{" in one]


def test_what_the_model_logs_comes_first_and_all_of_it() -> None:
    own = ["val/loss", "lr", "epoch_time", "val_loss/dataloader_idx_1", "accuracy"]
    assert watched(["rankme/encoder", *own, "step", "epoch"]) == [*own, "rankme/encoder"]
    assert watched(["train_loss", "robustness/input/val_loss", "val_loss"])[-1] == "train_loss"


def test_a_value_alone_is_watched_where_none_says_it_better() -> None:
    assert watched(["regularity/enc/token", "rankme/enc"]) == ["regularity/enc/token", "rankme/enc"]
    assert watched(["binned_regularity/enc/token"]) == ["binned_regularity/enc/token"]
    # Of another label set, site, loader or prefix it says nothing.
    own = "regularity_above_chance/enc/token"
    for other in (
        "regularity_above_chance/enc/bigram",
        "regularity_above_chance/dec/token",
        f"{own}/dataloader_idx_1",
        f"b/{own}",
    ):
        assert "regularity/enc/token" in watched(["regularity/enc/token", other])
    assert watched(["drift/a/b/0.5"]) == ["drift/a/b/0.5"]
    assert watched(["drift/a/b/0.5", "drift/a/b/mean", "drift/a/c/0.5"]) == ["drift/a/b/mean", "drift/a/c/0.5"]


def test_one_name_of_two_keys_is_left_to_the_keys() -> None:
    assert titles_of(["b/rankme/enc", "b_/rankme/enc"]) == {key: key for key in ("b/rankme/enc", "b_/rankme/enc")}


@pytest.mark.parametrize(
    ("title", "lines"),
    [
        ("", ""),
        ("information", "information"),
        ("regularity of token at enc, above chance", "regularity of token at enc,\nabove chance"),
        ("a_very_long_word_without_any_break", "a_very_long_w…out_any_break"),
        ("words that go on and on and on and on and on and on", "words that go on and on and\non and on and on and on"),
    ],
)
def test_titles_are_broken_between_words(title: str, lines: str) -> None:
    found = in_two_lines(title, 27)
    assert len(found.splitlines()) <= 2
    assert all(len(line) <= 27 for line in found.splitlines())
    assert found == lines
