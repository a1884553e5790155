"""Sites of a validation run: what several callbacks read is read once, and a copy shares nothing of a reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_interp import (
    LayerProbe,
    RepresentationDrift,
    RepresentationGeometry,
    RepresentationStructure,
    ValidationAnalysis,
    analyze,
)
from lightning_interp.batches.read_once import forget_batch, read_once
from lightning_interp.batches.reader import BatchReader
from lightning_interp.distributed.positions import SamplePositions
from lightning_interp.isolation.seen import Seen
from lightning_interp.parts.validation_sites import ValidationSites
from lightning_interp.reading.reading import Reading
from lightning_interp.sites import taps
from tests.toy import Tagger, loader, trainer

SITE = {"enc": "encoder"}
BATCHES = 5


class Counted:
    """Labels, and how often they were asked for."""

    def __init__(self, key: str = "tags") -> None:
        self.key, self.times = key, 0

    def __call__(self, batch: Any) -> Tensor:
        self.times += 1
        labels: Tensor = batch[self.key]
        return labels


def four(source: Any) -> list[ValidationAnalysis]:
    """Callbacks that read the same labels at the same site."""
    quiet: dict[str, Any] = {"draw_figures": False, "write_csv": False}
    return [
        RepresentationStructure(SITE, labels={"kind": source}, min_count=2, **quiet),
        RepresentationStructure(SITE, labels={"kind": source}, min_count=1, prefix="more/", **quiet),
        RepresentationDrift(SITE, labels={"kind": source}, **quiet),
        LayerProbe(SITE, labels={"kind": source}, baseline=False, min_count=2, folds=3, types=None, **quiet),
    ]


# ------------------------------------------------- labels


def test_labels_of_a_batch_are_read_once_for_all_who_read_it_alike(tmp_path: Path) -> None:
    source, other = Counted(), Counted()
    callbacks = [*four(source), RepresentationStructure(SITE, labels={"kind": other}, prefix="other/")]
    trainer(tmp_path, callbacks, num_sanity_val_steps=0).fit(Tagger(), loader(), loader(seed=1))
    readings = len(callbacks[0].history)
    assert readings
    assert all(len(one.history) == readings for one in callbacks)
    assert source.times == other.times == readings * BATCHES
    for key, value in callbacks[0].reading.items():
        if not key.startswith("seconds/"):
            assert callbacks[4].reading[f"other/{key}"] == value, key


def test_analyze_reads_them_once_too() -> None:
    source = Counted()
    together = analyze(Tagger(), loader(seed=1), four(source), progress=False)
    assert source.times == BATCHES
    alone: dict[str, float] = {}
    for callback in four(Counted()):
        alone |= analyze(Tagger(), loader(seed=1), callback, progress=False)
    assert together == alone


BATCH = {"input_ids": torch.tensor([[1, 2, 0]]), "attention_mask": torch.tensor([[1, 1, 0]]), "tags": torch.zeros(1)}
TABLE, SOURCE = torch.tensor([3, 4, 5]), Counted()


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({}, {}, True),
        ({"labels": ["token"]}, {"labels": ["token"]}, True),
        ({"labels": ["token"]}, {"labels": ["bigram"]}, False),
        ({"labels": {"a": "tags"}}, {"labels": {"b": "tags"}}, False),
        ({"labels": {"a": "tags"}}, {"labels": {"a": "input_ids"}}, False),
        ({"tokens": "input_ids"}, {"tokens": "attention_mask"}, False),
        ({"padding_idx": 0}, {"padding_idx": 1}, False),
        ({"ignore_tokens": [1]}, {"ignore_tokens": (1,)}, True),
        ({"ignore_tokens": [1]}, {"ignore_tokens": [2]}, False),
        ({"skip_positions": 1}, {"skip_positions": 0}, False),
        ({"labels": {"a": TABLE}}, {"labels": {"a": TABLE}}, True),
        ({"labels": {"a": TABLE}}, {"labels": {"a": TABLE.clone()}}, False),
        ({"labels": {"a": SOURCE}}, {"labels": {"a": SOURCE}}, True),
        ({"labels": {"a": SOURCE}}, {"labels": {"a": Counted()}}, False),
    ],
)
def test_which_readers_share(one: dict[str, Any], other: dict[str, Any], alike: bool) -> None:
    readers = BatchReader(**one), BatchReader(**other)
    assert (readers[0].key == readers[1].key) == alike
    shared: dict[Any, Any] = {}
    found = [read_once(shared, reader, BATCH, torch.tensor([1])) for reader in readers]
    assert (found[0] is found[1]) == alike


def test_another_batch_and_other_places_are_read_anew() -> None:
    reader, shared = BatchReader({"a": TABLE}), {}
    first = read_once(shared, reader, BATCH, torch.tensor([1]))
    assert read_once(shared, reader, BATCH, torch.tensor([1])) is first
    assert read_once(shared, reader, BATCH, torch.tensor([2])).custom["a"].tolist() == [5]
    assert first.custom["a"].tolist() == [4]
    same = dict(BATCH)
    assert read_once(shared, reader, same, torch.tensor([1])) is not first
    forget_batch(shared)
    assert not shared


class Unhashable:
    """A callable that is like others where it says so, and cannot be a key."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __call__(self, batch: Any) -> Tensor:
        labels: Tensor = batch["tags"]
        return labels


def test_a_callable_that_cannot_be_a_key_is_like_itself_alone() -> None:
    source = Unhashable()
    readers = [BatchReader({"a": one}) for one in (source, source, Unhashable())]
    assert readers[0].key == readers[1].key != readers[2].key


def test_padding_that_is_said_for_all_is_told_by_each_that_needed_it() -> None:
    batch = {"input_ids": torch.tensor([[1, 2, 0]])}
    readers = [BatchReader(["token"]) for _ in range(2)]
    shared: dict[Any, Any] = {}
    for reader in readers:
        reader.shared_padding = 0
        read_once(shared, reader, batch)
    assert [reader.used_padding for reader in readers] == [0, 0]
    fresh = readers[0].fresh()
    assert (fresh.used_padding, fresh.shared_padding, fresh.names) == (None, None, ("token",))


# ------------------------------------------------- outputs


def test_four_callbacks_on_one_site_copy_its_output_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    own = taps.copied_tensor

    def copied(tensor: Tensor) -> Tensor:
        made.append(tensor)
        return own(tensor)

    monkeypatch.setattr(taps, "copied_tensor", copied)
    callbacks = [*four(Counted()), RepresentationGeometry(SITE)]
    trainer(tmp_path, callbacks, num_sanity_val_steps=0, max_epochs=1).fit(Tagger(), loader(), loader(seed=1))
    assert len(made) == BATCHES * len(callbacks[0].history)


# ------------------------------------------------- life


def read(sites: ValidationSites, model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """The vectors of a batch, by site."""
    seen = Seen(batch, 0, 0, SamplePositions([batch]).select(len(batch["input_ids"])))
    sites.before_batch(seen)
    model(batch["input_ids"])
    return {site: rows.representations for site, rows in sites.rows(seen)}


def test_a_fresh_part_shares_no_reading_and_no_model() -> None:
    model, others = Tagger().eval(), Tagger(seed=1).eval()
    batch = next(iter(loader()))
    sites = ValidationSites(SITE, ["token"], skip_positions=1)
    sites.attach(model)
    sites.begin(Reading(model))
    copy = sites.fresh()
    assert copy.model is None
    assert copy.now is None
    assert copy.reader is not sites.reader
    copy.attach(others)
    copy.begin(Reading(others))
    copy.take_padding(3)
    with torch.no_grad():
        mine, theirs = read(sites, model, batch)["enc"], read(copy, others, batch)["enc"]
    assert not torch.equal(mine, theirs)
    copy.detach()
    assert sites.reader.shared_padding is None
    with torch.no_grad():
        assert torch.equal(read(sites, model, batch)["enc"], mine)
    sites.detach()
    assert not any(module._forward_hooks for module in (*model.modules(), *others.modules()))


def test_a_batch_that_is_given_up_leaves_nothing_behind() -> None:
    model, batch = Tagger(), next(iter(loader()))
    sites, reading = ValidationSites(SITE, ["token"]), Reading(model)
    sites.attach(model)
    sites.begin(reading)
    seen = Seen(batch, 0, 0, SamplePositions([batch]).select(8))
    sites.before_batch(seen)
    sites.forget()
    assert sites.now is None
    assert not taps.SWITCH.on
    sites.begin(Reading(model))
    with torch.no_grad():
        assert read(sites, model, batch)["enc"].shape == (8, 7, 8)
    sites.detach()


def test_words_on_what_tokens_are_for_stand_behind_the_error() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    sites = ValidationSites({"out": "0"}, ["token"], advice="They say which word it is.")
    sites.attach(model)
    sites.begin(Reading(model))
    batch = {"x": torch.zeros(4, 2)}
    with pytest.raises(ValueError, match=r"label set 'token' needs them.* They say which word it is\.$"):
        sites.before_batch(Seen(batch, 0, 0, SamplePositions([batch]).select(4)))
    sites.detach()
