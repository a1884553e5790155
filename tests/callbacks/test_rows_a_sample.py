"""Questions with several choices, which a model is given as rows: a sample is a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_interp import RepresentationMetrics, RepresentationStructure
from lightning_interp.batches import Predictions
from lightning_interp.distributed import Selection
from lightning_interp.functional.ngrams import built_in_labels
from tests.toy import trainer

QUESTIONS, CHOICES, LENGTH = 16, 3, 4


class Questions(Dataset):
    """Every token says which question, choice and position it is of: 100 · question + 10 · choice + position + 1."""

    def __len__(self) -> int:
        return QUESTIONS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = 100 * index + 10 * torch.arange(CHOICES)[:, None] + torch.arange(LENGTH) + 1
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "answer": torch.tensor(index % CHOICES)}


class Chooser(pl.LightningModule):
    """Its representation of a token is the token's own number."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = nn.Identity()
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return (self.weight**2).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.shown(flat(batch["input_ids"]).float()[..., None])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(0, 1)


FLAT = {"tokens": lambda batch: flat(batch["input_ids"]), "mask": lambda batch: flat(batch["attention_mask"])}
SEEN: list[dict[str, torch.Tensor]] = []


class Keeps(torchmetrics.Metric):
    """What a metric is handed."""

    def update(
        self,
        representations: torch.Tensor,
        mask: torch.Tensor,
        labels: dict[str, torch.Tensor],
        positions: torch.Tensor,
    ) -> None:
        SEEN.append({"z": representations, "mask": mask, "positions": positions, **labels})

    def compute(self) -> torch.Tensor:
        return torch.tensor(float(sum(int(one["mask"].sum()) for one in SEEN)))


def read(folder: Path, callback: Any, batch_size: int = 4) -> Any:
    data = DataLoader(Questions(), batch_size=batch_size)
    SEEN.clear()
    trainer(folder, [callback], max_epochs=1, num_sanity_val_steps=0).fit(Chooser(), data, data)
    return callback


@pytest.mark.parametrize("batch_size", [1, 4, 5])
def test_a_sample_has_all_its_rows(tmp_path: Path, batch_size: int) -> None:
    array = torch.arange(QUESTIONS) * 7
    where: dict[str, Any] = {"token": None, "flat_bigram": None, "answer": "answer", "array": array}
    callback = RepresentationMetrics({"n": Keeps()}, "shown", labels=where, max_examples=8, layout="BTD", **FLAT)
    read(tmp_path, callback, batch_size)
    assert callback.reading["n/shown"] == 8 * CHOICES * LENGTH
    found = {key: torch.cat([one[key] for one in SEEN]) for key in SEEN[0]}
    questions = found["positions"]
    assert questions.tolist() == list(range(1, QUESTIONS, 2))
    truth = torch.stack([Questions()[int(index)]["input_ids"].flatten() for index in questions])
    assert torch.equal(found["z"][..., 0], truth.float())
    assert torch.equal(found["token"], truth)
    # No n-gram goes from one choice to the next.
    rows = truth.view(-1, LENGTH)
    alone = built_in_labels("flat_bigram", rows, torch.ones_like(rows, dtype=torch.bool))
    assert torch.equal(found["flat_bigram"].flatten(1), alone.view(8, -1))
    assert int((alone < 0).sum()) == len(rows)
    # A label of a question stays one of the question.
    assert torch.equal(found["answer"], questions % CHOICES)
    assert torch.equal(found["array"], questions * 7)


def test_structure_is_that_of_the_same_positions_in_one_row(tmp_path: Path) -> None:
    class Long(Questions):
        """All choices in one row."""

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {name: value.flatten() for name, value in super().__getitem__(index).items()}

    class Reader(Chooser):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.shown(turned(batch["input_ids"]))

    class Rows(Chooser):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.shown(turned(flat(batch["input_ids"])))

    def structure(**kwargs: Any) -> RepresentationStructure:
        words = {"word": kwargs.pop("word")}
        return RepresentationStructure("shown", words, max_examples=8, layout="BTD", draw_figures=False, **kwargs)

    found = []
    for model, data, callback in (
        (Rows(), Questions(), structure(word=lambda batch: flat(batch["input_ids"]) % 10, **FLAT)),
        (Reader(), Long(), structure(word=lambda batch: batch["input_ids"] % 10)),
    ):
        loaded = DataLoader(data, batch_size=4)
        if isinstance(model, Reader):
            loaded = DataLoader(data, batch_size=4, collate_fn=answers_apart)
        trainer(tmp_path, [callback], max_epochs=1).fit(model, loaded, loaded)
        found.append({key: value for key, value in callback.reading.items() if "seconds" not in key})
    assert found[0] == found[1]
    assert found[0]["num_labels/shown/word"] == LENGTH


def turned(ids: torch.Tensor) -> torch.Tensor:
    return torch.stack([ids.cos(), ids.sin(), (2.0 * ids).cos()], -1)


def answers_apart(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return torch.utils.data.default_collate([{k: v for k, v in item.items() if k != "answer"} for item in items])


def test_rows_whose_samples_cannot_be_told_are_refused(tmp_path: Path) -> None:
    def blocks(batch: Any) -> torch.Tensor:
        """Two views, one after the other: no tensor of the batch has both."""
        return torch.cat([batch["a"], batch["b"]])

    class Views(Dataset):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"a": torch.full((5,), index + 1), "b": torch.full((5,), index + 1)}

    class Two(Chooser):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.shown(blocks(batch).float()[..., None])

    data = DataLoader(Views(), batch_size=4)
    callback = RepresentationStructure("shown", ["token"], tokens=blocks, padding_idx=-1)
    with pytest.raises(ValueError, match=r"`tokens` has 8 rows for a batch of 4 samples.*cannot be told"):
        trainer(tmp_path, [callback], max_epochs=1).fit(Two(), data, data)


def test_predictions_of_rows_are_refused_in_words() -> None:
    targets = torch.zeros(12, LENGTH, dtype=torch.long)
    places = torch.arange(4)
    with pytest.raises(ValueError, match=r"targets \(12, 4\) have 12 rows for a batch of 4 samples"):
        Predictions("head").rows(torch.zeros(12, LENGTH, 5), targets, targets == 0, Selection(places, None, places))
