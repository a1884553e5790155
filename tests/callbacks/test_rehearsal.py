"""The sanity check is not the run: what it cannot show is put off, and what it can is refused there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interp import AcquisitionByClass, NoiseRobustness, RepresentationGeometry, RepresentationMetrics
from tests.toy import Tagger, loader, timeless, trainer

SITE = {"enc": "encoder"}


def noise() -> NoiseRobustness:
    return NoiseRobustness({"emb": "embedding"}, scales=(0.5,), monitors={"val_loss": "loss"}, draw_figures=False)


class NotInTheSanityCheck(Tagger):
    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        loss, _ = self._loss(batch)
        # pytorch-forecasting logs under another name there, others nothing.
        name = "sanity_check_loss" if self.trainer.sanity_checking else "val_loss"
        self.log(name, loss, batch_size=len(batch["input_ids"]))

    def on_validation_epoch_end(self) -> None:
        """Nothing was collected."""


def test_a_monitor_that_is_not_logged_in_the_sanity_check_is_read(tmp_path: Path) -> None:
    found = []
    for number in (2, 0):
        callback = noise()
        pl.seed_everything(0, verbose=False)
        run = trainer(tmp_path, [callback], num_sanity_val_steps=number)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", "The .* does not have many workers|.*tensorboardX.*|.*litlogger.*")
            run.fit(NotInTheSanityCheck(), loader(), loader(seed=1))
        assert not run.sanity_checking
        found.append(timeless(callback))
    assert len(found[0]) == 2
    assert found[0] == found[1]


class FromTheSecondStepOn(Tagger):
    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        loss, _ = self._loss(batch)
        self.collected.append(loss.item())
        if self.global_step > 0:
            self.log("val_loss", loss, batch_size=len(batch["input_ids"]))


def test_a_monitor_that_is_logged_in_training_only_is_put_off_with_a_word(tmp_path: Path) -> None:
    callback = noise()
    with pytest.warns(UserWarning, match=r"names \['val_loss'\].* if the first validation does not log them either"):
        trainer(tmp_path, [callback]).fit(FromTheSecondStepOn(), loader(), loader(seed=1))
    assert (len(callback.history), callback.failed) == (2, 0)


def test_a_monitor_that_nobody_logs_ends_the_run_at_the_first_validation(tmp_path: Path) -> None:
    callback = NoiseRobustness({"emb": "embedding"}, scales=(0.5,), monitors={"val_lss": "loss"}, draw_figures=False)
    model = Tagger()
    with (
        pytest.warns(UserWarning, match="first validation does not log them either"),
        pytest.raises(ValueError, match=r"names \['val_lss'\].*what they do log"),
    ):
        trainer(tmp_path, [callback]).fit(model, loader(), loader(seed=1))
    assert model.current_epoch == 0


class Two(torchmetrics.MeanMetric):
    """A metric of another package with several results."""

    def update(self, representations: torch.Tensor, mask: torch.Tensor) -> None:
        super().update(representations.norm(dim=-1)[mask])

    def compute(self) -> dict[str, torch.Tensor]:  # type: ignore[override]
        mean = super().compute()
        return {"length": mean, "half/of": mean / 2}


def test_a_mapping_of_results_is_logged_under_its_own_names(tmp_path: Path) -> None:
    callback = RepresentationMetrics({"two": Two()}, SITE, draw_figures=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(tmp_path, [callback, EarlyStopping("length/enc", patience=9)])
        run.fit(Tagger(), loader(), loader(seed=1))
    assert callback.logged_keys(Tagger())[:2] == ["length/enc", "half/enc/of"]
    assert float(run.callback_metrics["length/enc"]) == pytest.approx(2 * float(run.callback_metrics["half/enc/of"]))
    assert not any("cannot be told" in str(one.message) for one in caught)


def test_two_metrics_with_one_result_are_refused(tmp_path: Path) -> None:
    callback = RepresentationMetrics({"two": Two(), "again": Two()}, SITE, draw_figures=False)
    with pytest.raises(ValueError, match=r"two of `metrics` .* give 'length'"):
        trainer(tmp_path, [callback]).fit(Tagger(), loader(), loader(seed=1))


def test_saving_by_training_steps_is_told_to_come_before_the_value(tmp_path: Path) -> None:
    callback = RepresentationGeometry(SITE, draw_figures=False)
    save = ModelCheckpoint(tmp_path / "saved", monitor="effective_rank/enc", every_n_train_steps=2)
    with pytest.warns(
        UserWarning, match=r"'effective_rank/enc' and saves by every_n_train_steps, before the validation"
    ):
        trainer(tmp_path, [callback, save], enable_checkpointing=True).fit(Tagger(), loader(), loader(seed=1))


@pytest.mark.parametrize("names", [["PRP", "PRP$", "VB"], ["''", "``", "NN"], ["Ä", "b c", "<unk>"]])
def test_names_of_classes_have_a_curve_each_whatever_they_hold(tmp_path: Path, names: list[str]) -> None:
    callback = AcquisitionByClass("head", target="tags", mask="attention_mask", names=names, draw_figures=False)
    logger = TensorBoardLogger(tmp_path)
    with pytest.warns(UserWarning, match="since loggers cannot hold all characters") as caught:
        trainer(tmp_path, [callback], logger=logger).fit(Tagger(), loader(), loader(seed=1))
    assert sum("loggers cannot hold" in str(one.message) for one in caught) == 1
    events = EventAccumulator(logger.log_dir).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("class_accuracy/head/")]
    keys = [key for key in callback.logged_keys(Tagger()) if key.startswith("class_accuracy/head/")]
    assert sorted(tags) == sorted(keys)
    assert len(set(tags)) >= 3
    assert all(re.fullmatch(r"[\w./-]+", tag) for tag in tags)
    for tag in tags:
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(callback.history.series(tag)[1])


def test_a_prefix_that_loggers_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`prefix` may have letters, digits.* got 'a b/'"):
        RepresentationGeometry(SITE, prefix="a b/")
