"""Samples whose place in the data set is known, and what is refused or said where it is not."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, SubsetRandomSampler

from lightning_interp import (
    AcquisitionByClass,
    LayerProbe,
    RepresentationGeometry,
    RepresentationStructure,
    ValidationAnalysis,
    analyze,
)
from lightning_interp.batches.collate_order import why_order_is_unknown
from tests.toy import Sequences, Tagger, loader, trainer

NUMBER = 40
ARRAY = torch.arange(NUMBER) % 4


class Backwards(Sampler):
    def __len__(self) -> int:
        return NUMBER

    def __iter__(self) -> Iterator[int]:
        return iter(range(NUMBER - 1, -1, -1))


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        data = Sequences(NUMBER, seed=1)
        return (data[index] for index in range(NUMBER))


class Loader(DataLoader):
    pass


def drop(items: list[Any]) -> Any:
    return torch.utils.data.default_collate(items[:-2])


def by_length(items: list[Any]) -> Any:
    return torch.utils.data.default_collate(sorted(items, key=lambda item: -int(item["attention_mask"].sum())))


def same(items: list[Any]) -> Any:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


UNKNOWN = {
    "sampler": lambda: loader(NUMBER, seed=1, sampler=Backwards()),
    "subset": lambda: loader(NUMBER, seed=1, sampler=SubsetRandomSampler(range(NUMBER))),
    "stream": lambda: DataLoader(Stream(), batch_size=8),
    "class": lambda: Loader(Sequences(NUMBER, seed=1), batch_size=8),
    "collate": lambda: loader(NUMBER, seed=1, collate_fn=drop),
}
ARRAYS = {
    "structure": (lambda: RepresentationStructure("encoder", {"own": ARRAY, "token": None}), "labels['own']"),
    "acquisition": (lambda: AcquisitionByClass("head", "tags", labels=ARRAY, names=4, mask="attention_mask"), "labels"),
    "probe": (lambda: LayerProbe("encoder", targets={"own": ARRAY.float()}, types=None), "targets['own']"),
}


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("make", UNKNOWN.values(), ids=list(UNKNOWN))
@pytest.mark.parametrize("callback", ARRAYS)
def test_labels_given_as_an_array_are_refused_before_training(
    tmp_path: Path, callback: str, make: Any, sanity: int
) -> None:
    made, argument = ARRAYS[callback]
    validation = make()
    run = trainer(tmp_path, [made()], num_sanity_val_steps=sanity)
    with pytest.raises(ValueError, match="array with an entry for each sample") as error:
        run.fit(Tagger(), loader(), validation)
    assert str(error.value).startswith(f"`{argument}`")
    assert run.global_step == 0


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=list(UNKNOWN))
def test_a_finished_model_is_read_by_the_same_rules(make: Any) -> None:
    callback = RepresentationStructure("encoder", {"own": ARRAY, "token": None})
    with pytest.raises(ValueError, match=r"labels\['own'\]"):
        analyze(Tagger(), make(), callback)
    with pytest.warns(UserWarning, match="does not tell which samples"):
        analyze(Tagger(), make(), RepresentationStructure("encoder"))


def test_a_collate_function_that_sorts_is_seen_where_labels_go_by_place(tmp_path: Path) -> None:
    def structure() -> RepresentationStructure:
        return RepresentationStructure("encoder", {"own": ARRAY, "token": None}, draw_figures=False)

    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="its collate_fn does not keep the order of samples"):
        analyze(Tagger(), loader(NUMBER, seed=1, collate_fn=by_length), structure())
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="its collate_fn does not keep the order of samples"):
        trainer(tmp_path, [structure()]).fit(Tagger(), loader(), loader(NUMBER, seed=1, collate_fn=by_length))
    with pytest.raises(ValueError, match="cannot be tried: KeyError"):
        analyze(Tagger(), loader(NUMBER, seed=1, collate_fn=lambda items: items[0]["none"]), structure())
    kept = analyze(Tagger(), loader(NUMBER, seed=1, collate_fn=same), structure())
    assert kept == analyze(Tagger(), loader(NUMBER, seed=1), structure())


@pytest.mark.parametrize("number", [3, 4, 9, 40])
def test_no_other_order_passes_for_that_of_the_items(number: int) -> None:
    orders = {
        "back": lambda items: items[::-1],
        "halves exchanged": lambda items: items[len(items) // 2 :] + items[: len(items) // 2],
        "moved on": lambda items: items[1:] + items[:1],
        "every second first": lambda items: items[::2] + items[1::2],
        "by content": sorted,
    }
    unordered = [7 * item % 41 for item in range(number)]
    for name, order in orders.items():
        collate = lambda items, order=order: torch.tensor(order(items))  # noqa: E731
        found = why_order_is_unknown(DataLoader(unordered, 2, collate_fn=collate))
        assert found == "its collate_fn does not keep the order of samples", name
    random = lambda items: torch.tensor(items) + torch.randint(0, 99, (len(items),))  # noqa: E731
    assert "draws at random" in str(why_order_is_unknown(DataLoader(unordered, 2, collate_fn=random)))
    for size in (1, 2, number):
        assert why_order_is_unknown(DataLoader(unordered[:size], 2, collate_fn=torch.tensor)) is None


def test_arrays_belong_to_the_probe_set_where_there_is_one(tmp_path: Path) -> None:
    def probe(data: Any) -> LayerProbe:
        return LayerProbe("encoder", {"own": ARRAY}, types=None, baseline=False, data=data, forward=forward)

    def forward(model: torch.nn.Module, batch: Any) -> Any:
        return model(batch["input_ids"])

    with pytest.raises(ValueError, match=r"`labels\['own'\]`.* and `data` does not tell"):
        probe(loader(NUMBER, sampler=Backwards()))
    run = trainer(tmp_path, [probe(loader(NUMBER))], max_epochs=1)
    run.fit(Tagger(), loader(), loader(seed=1, sampler=Backwards()))
    assert run.callbacks[0].history.readings


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sampler", ["its sampler is a Backwards"]),
        ("subset", ["its SubsetRandomSampler shuffles", "another order"]),
        ("stream", ["stream, Stream", "takes the first ones"]),
        ("class", ["it is a Loader", "takes the first ones"]),
        ("collate", ["batch 0 has 6 samples where its sampler named 8"]),
    ],
)
def test_what_is_not_known_is_said_once_and_in_words(tmp_path: Path, name: str, says: list[str]) -> None:
    callback = RepresentationGeometry("encoder", draw_figures=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, [callback], max_epochs=2).fit(Tagger(lr=0.0), loader(), UNKNOWN[name]())
    told = [str(one.message) for one in caught if "does not tell which samples" in str(one.message)]
    assert len(told) == 1
    assert all(one in told[0] for one in says)
    assert ("shuffles" in told[0]) == (name == "subset")


def test_loaders_that_make_one_batch_together_tell_nothing(tmp_path: Path) -> None:
    class Both(Tagger):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch["b"], batch_idx)

    def both() -> CombinedLoader:
        return CombinedLoader({"a": loader(24, seed=1), "b": loader(NUMBER, seed=2)}, "max_size_cycle")

    where = {"tokens": lambda batch: batch["b"]["input_ids"], "mask": lambda batch: batch["b"]["attention_mask"]}
    with pytest.raises(ValueError, match="CombinedLoader"):
        trainer(tmp_path, [RepresentationStructure("encoder", {"own": ARRAY}, **where)]).fit(Both(), loader(), both())
    callback = RepresentationGeometry("encoder", max_examples=None, log="full", draw_figures=False, **where)
    with pytest.warns(UserWarning, match=r"it is a CombinedLoader"):
        trainer(tmp_path, [callback], max_epochs=1).fit(Both(), loader(), both())
    assert callback.reading["rows/encoder"] == Sequences(NUMBER, seed=2).mask.sum()


def test_a_plain_loader_is_silent_and_takes_arrays(tmp_path: Path) -> None:
    callbacks: list[pl.Callback] = [ARRAYS[name][0]() for name in ARRAYS]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, callbacks, max_epochs=1).fit(Tagger(), loader(), loader(NUMBER, seed=1))
    assert not [one for one in caught if "does not tell" in str(one.message)]
    assert all(isinstance(one, ValidationAnalysis) and one.history.readings for one in callbacks)


class Overstates(Sampler):
    def __len__(self) -> int:
        return 4000

    def __iter__(self) -> Iterator[int]:
        return iter(range(NUMBER))


@pytest.mark.parametrize(("most", "error"), [(3, True), (200, False)])
def test_a_sampler_that_claims_more_than_it_gives_is_named(tmp_path: Path, most: int, error: bool) -> None:
    callback = RepresentationGeometry("encoder", max_examples=most, draw_figures=False)
    run = trainer(tmp_path, [callback], max_epochs=1, num_sanity_val_steps=0)
    if error:
        with pytest.raises(ValueError, match=r"its sampler is a Overstates\), but it gave 40, 0 read"):
            run.fit(Tagger(), loader(), loader(NUMBER, seed=1, sampler=Overstates()))
    else:
        with pytest.warns(UserWarning, match=r"it gave 40, 2 read"):
            run.fit(Tagger(), loader(), loader(NUMBER, seed=1, sampler=Overstates()))


# ------------------------------------------------- items that are batches, on ranks


class Packs(Dataset):
    """Seven items, each a batch of 3 to 9 sentences."""

    def __init__(self) -> None:
        self.data = Sequences(42, seed=1)

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Any:
        start = sum(range(3, 3 + index))
        items = [self.data[row] for row in range(start, start + 3 + index)]
        return torch.utils.data.default_collate(items)


def packed(most: int | None, one: bool) -> tuple[dict[str, float], list[str]]:
    callback = RepresentationGeometry({"enc": "encoder"}, max_examples=most, log="full", draw_figures=False)
    how: dict[str, Any] = {"batch_size": 1, "collate_fn": first} if one else {"batch_size": None}
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(folder, [callback], max_epochs=1, **({"strategy": "ddp", "devices": ranks} if ranks > 1 else {}))
        run.fit(Tagger(lr=0.0), loader(12), DataLoader(Packs(), **how))
    return callback.reading, [str(one.message) for one in caught if "does not tell" in str(one.message)]


def first(items: list[Any]) -> Any:
    return items[0]


@pytest.mark.parametrize("one", [False, True])
def test_items_that_are_batches_are_read_whole_on_any_number_of_ranks(two_ranks: Any, one: bool) -> None:
    alone, told = packed(None, one)
    assert len(told) == 1
    assert alone["rows/enc"] == Sequences(42, seed=1).mask.sum()
    (reading, said), (other, _) = two_ranks.run(packed, None, one)
    assert len(said) == 1
    assert reading["rows/enc"] == other["rows/enc"] == alone["rows/enc"]
    assert reading["rankme/enc"] == pytest.approx(alone["rankme/enc"], rel=1e-6)
