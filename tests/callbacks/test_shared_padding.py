"""One attribute of the module or the data module that says for all callbacks which token id is padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interp import NoiseRobustness, RepresentationGeometry, RepresentationStructure, analyze

# Of each line, so many ids are real; those behind them are 7.
LENGTHS = torch.tensor([5, 3, 8, 1, 6, 2, 8, 4])
IDS = torch.arange(72).view(8, 9) % 7
IDS = IDS.where(torch.arange(9) < LENGTHS[:, None], torch.tensor(7))
REAL = int(LENGTHS.sum())


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb = nn.Embedding(8, 6)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.emb(ids_of(batch)).pow(2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def ids_of(batch: Any) -> Tensor:
    return batch["input_ids"] if isinstance(batch, dict) else batch[0] if isinstance(batch, list | tuple) else batch


class Told(Model):
    padding_idx = 7


class Data(pl.LightningDataModule):
    def __init__(self, padding_idx: Any = None) -> None:
        super().__init__()
        self.padding_idx = padding_idx

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(IDS, 4)

    val_dataloader = train_dataloader


def fitted(tmp_path: Path, model: Model, data: Any = None, **kwargs: Any) -> list[Any]:
    callbacks = [
        RepresentationGeometry("emb", **kwargs),
        RepresentationStructure("emb", ["token"], **kwargs),
        NoiseRobustness("emb", (0.5,), drift="emb", prefix="noise/", **kwargs),
    ]
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=callbacks,
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data or Data())
    return callbacks


def without_seconds(callbacks: list[Any]) -> list[dict[str, float]]:
    return [{key: value for key, value in one.reading.items() if "seconds" not in key} for one in callbacks]


@pytest.mark.parametrize("by", ["module", "data module", "module before data module"])
def test_it_counts_as_if_it_were_given_to_each_callback(tmp_path: Path, by: str) -> None:
    expected = without_seconds(fitted(tmp_path, Model(), padding_idx=7))
    model, data = {
        "module": (Told(), Data()),
        "data module": (Model(), Data(torch.tensor([7]).numpy()[0])),
        "module before data module": (Told(), Data(3)),
    }[by]
    found = fitted(tmp_path, model, data)
    assert without_seconds(found) == expected
    assert found[0].reading["rows/emb"] == REAL < IDS.numel()
    assert found[0].settings()["padding_idx"] == found[1].settings()["padding_idx"] == 7


def test_an_argument_goes_before_it(tmp_path: Path) -> None:
    geometry, *_ = fitted(tmp_path, Told(), padding_idx=-1)
    assert geometry.reading["rows/emb"] == IDS.numel()


def test_a_mask_goes_before_it() -> None:
    """Padding that is also the end of a sentence: the mask knows better."""
    mask = torch.arange(9) < LENGTHS[:, None] + 1
    batches = [{"input_ids": IDS, "attention_mask": mask.long(), "own": mask}]
    for kwargs in ({}, {"mask": "own"}):
        assert analyze(Told(), batches, RepresentationGeometry("emb", **kwargs))["rows/emb"] == int(mask.sum())
    assert analyze(Told(), [{"input_ids": IDS}], RepresentationGeometry("emb"))["rows/emb"] == REAL


def test_without_token_ids_it_asks_for_none_and_only_minus_one_says_that_all_counts() -> None:
    batches = [{"chars": IDS}]

    def rows(padding: Any) -> float:
        model = Model()
        model.padding_idx = padding
        return analyze(model, batches, RepresentationGeometry("emb"), lambda m, batch: m.emb(batch["chars"]))[
            "rows/emb"
        ]

    for padding in (7, None):
        with pytest.raises(ValueError, match="has no mask, but integers of that length"):
            rows(padding)
    assert rows(-1) == IDS.numel()
    model = Told()
    model.emb = nn.Linear(8, 6)
    found = analyze(model, [torch.randn(8, 8)], RepresentationGeometry("emb"), lambda m, batch: m.emb(batch))
    assert found["rows/emb"] == 8


@pytest.mark.parametrize("value", [None, "7", True, torch.tensor(7), {"source": 7}])
def test_an_attribute_that_is_no_number_says_nothing(value: Any) -> None:
    model = Model()
    model.padding_idx = value
    with pytest.raises(ValueError, match=r"as a number in an attribute `padding_idx` of the LightningModule"):
        analyze(model, [IDS], RepresentationGeometry("emb"))


def test_a_module_that_is_no_lightning_module_is_not_asked() -> None:
    class Plain(nn.Module):
        padding_idx = 7

        def __init__(self) -> None:
            super().__init__()
            self.emb = nn.Embedding(8, 6)

        def forward(self, ids: Tensor) -> Tensor:
            return self.emb(ids)

    with pytest.raises(ValueError, match="has no padding mask"):
        analyze(Plain(), [IDS], RepresentationGeometry("emb"))
    assert analyze(Plain(), [IDS], RepresentationGeometry("emb", padding_idx=7))["rows/emb"] == REAL


def test_what_one_fit_said_does_not_stay_for_the_next(tmp_path: Path) -> None:
    geometry = RepresentationGeometry("emb")
    assert analyze(Told(), [IDS], geometry)["rows/emb"] == REAL
    with pytest.raises(ValueError, match="has no padding mask"):
        analyze(Model(), [IDS], geometry)
