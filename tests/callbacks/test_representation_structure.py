"""The structure callback on a real Trainer: what is logged is what the metric gives on what the model computed."""

from __future__ import annotations

import csv
import math
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lightning_interp import RepresentationGeometry, RepresentationStructure, ValidationSchedule
from lightning_interp.metrics import SoftStructure, SpectralGeometry
from tests.toy import Sequences, Tagger, loader, trainer


def structure(**kwargs: object) -> RepresentationStructure:
    return RepresentationStructure(
        **{"sites": {"enc": "encoder"}, "labels": ["token", "bigram"], "min_count": 2, **kwargs}
    )


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> tuple[EventAccumulator, list[pl.Callback], Tagger]:
    folder = tmp_path_factory.mktemp("events")
    callbacks = [
        structure(sites={"enc": "encoder", "emb": "embedding"}, information_plane=["token", "tags"]),
        RepresentationGeometry(sites={"enc": "encoder"}),
        ValidationSchedule(steps=[1, 3, 10]),
    ]
    model = Tagger()
    fit = trainer(folder, callbacks, logger=TensorBoardLogger(folder), max_epochs=2)
    fit.fit(model, loader(), loader(seed=1))
    found = EventAccumulator(fit.logger.log_dir, size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found, callbacks, model


def test_every_unconditional_key_is_in_the_event_file_at_every_reading(events: tuple) -> None:
    found, callbacks, model = events
    steps = callbacks[0].history.series("val_loss")[0]
    assert steps == [1, 3, 10]
    for callback in callbacks[:2]:
        assert [r.step for r in callback.history.readings] == steps
        conditional = callback.conditional_keys(model)
        # Eight dimensions are too few for the slope of a spectrum; others are undefined in a collapsed model only.
        assert {key.split("/")[0] for key in conditional} <= {
            *("alpha", "alpha_r2", "curvature", "optimality", "optimality_above_chance")
        }
        for key in callback.logged_keys(model):
            if key.startswith("alpha"):
                continue
            logged = [event.value for event in found.Scalars(key)]
            expected = [r.values[key] for r in callback.history.readings]
            assert logged == pytest.approx(expected, rel=1e-6), key
    for key in ("val_loss", "val_acc", "val_loss_collected"):
        assert len(found.Scalars(key)) == len(steps)


def test_figures_are_in_the_event_file(events: tuple) -> None:
    found, _, _ = events
    tags = found.Tags()["images"]
    for tag in ("structure/token", "structure/bigram", "sites/information", "information_plane", "geometry"):
        assert tag in tags


def test_logged_keys_without_a_model_hold_the_same_names(events: tuple) -> None:
    _, callbacks, model = events
    fresh = structure(sites={"enc": "encoder", "emb": "embedding"}, information_plane=["token", "tags"])
    assert fresh.logged_keys() == fresh.logged_keys(model) == callbacks[0].logged_keys(model)
    assert structure(sites="enc*").logged_keys()[0] == "information/<site>"


def test_reading_is_the_metric_of_what_the_encoder_puts_out(tmp_path: object) -> None:
    callback, geometry = structure(max_examples=None), RepresentationGeometry(sites={"enc": "encoder"})
    model = Tagger()
    trainer(tmp_path, [callback, geometry]).fit(model, loader(), loader(seed=1))
    data = Sequences(40, seed=1)
    model.eval()
    with torch.no_grad():
        z = model.encoder(model.embedding(data.ids))
    tokens = data.ids.masked_fill(~data.mask, -1)
    metric = SoftStructure(labels=["token", "bigram"], min_count=2)
    metric.update(z, data.mask, {"token": tokens}, torch.arange(40))
    expected = {key: float(value) for key, value in metric.compute().items()}
    for key, value in expected.items():
        measure, *rest = key.split("/")
        assert callback.reading["/".join([measure, "enc", *rest])] == pytest.approx(value, abs=1e-6), key
    spectrum = SpectralGeometry()
    spectrum.update(z, data.mask)
    for key, value in spectrum.compute().items():
        if key.startswith("alpha"):
            assert math.isnan(value)
            assert f"{key}/enc" not in geometry.reading
        elif key not in ("rows", "nonfinite"):
            assert geometry.reading[f"{key}/enc"] == pytest.approx(float(value), rel=1e-5), key


def test_training_is_untouched(tmp_path: object) -> None:
    def run(callbacks: list[pl.Callback]) -> tuple:
        pl.seed_everything(3)
        model = Tagger()
        fit = trainer(tmp_path, callbacks, logger=CSVLogger(tmp_path), accumulate_grad_batches=2, gradient_clip_val=0.5)
        fit.fit(model, loader(shuffle=True), loader(seed=1))
        task = {k: v for k, v in fit.callback_metrics.items() if k.startswith(("val", "train"))}
        return model.state_dict(), fit.optimizers[0].state_dict(), torch.get_rng_state(), task

    plain = run([])
    read = run([structure(estimator="both", jackknife=3, log="full"), RepresentationGeometry(sites="encoder")])
    assert all(torch.equal(plain[0][name], read[0][name]) for name in plain[0])
    for index, state in plain[1]["state"].items():
        assert all(torch.equal(state[name], read[1]["state"][index][name]) for name in state)
    assert torch.equal(plain[2], read[2])
    assert plain[3].keys() == read[3].keys()
    assert all(torch.equal(plain[3][name], read[3][name]) for name in plain[3])


def test_capture_is_not_changed_by_a_later_operation_in_place(tmp_path: object) -> None:
    # The linear layer's output is overwritten by ReLU(inplace=True).
    callback = RepresentationGeometry(sites={"linear": "encoder.0"}, max_examples=None)
    model = Tagger()
    trainer(tmp_path, [callback], max_epochs=1).fit(model, loader(), loader(seed=1))
    data = Sequences(40, seed=1)
    with torch.no_grad():
        z = model.encoder[0](model.embedding(data.ids))
    metric = SpectralGeometry()
    metric.update(z, data.mask)
    assert callback.reading["anisotropy/linear"] == pytest.approx(float(metric.compute()["anisotropy"]), rel=1e-5)


def test_summary_full_history_and_csv(tmp_path: object) -> None:
    callback = structure()
    fit = trainer(tmp_path, [callback], logger=CSVLogger(tmp_path))
    fit.fit(Tagger(), loader(), loader(seed=1))
    assert "regularity_above_chance/enc/token" in fit.callback_metrics
    assert "regularity/enc/token" not in fit.callback_metrics
    assert "coverage/enc/token" not in fit.callback_metrics
    assert "coverage/enc/token" in callback.history.readings[0].values
    with open(f"{fit.logger.log_dir}/readings.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [5, 10]
    for row, reading in zip(rows, callback.history.readings, strict=True):
        for key, value in {**reading.values, **reading.context}.items():
            assert float(row[key]) == pytest.approx(value, rel=1e-12), key
    assert "val_loss" in rows[0]
    full = structure(log="full")
    fit = trainer(tmp_path, [full])
    fit.fit(Tagger(), loader(), loader(seed=1))
    assert set(full.logged_keys()) <= set(fit.callback_metrics)
    assert "coverage/enc/token" in fit.callback_metrics


def test_pictures_go_to_the_log_folder_without_a_logger_for_them(tmp_path: object) -> None:
    fit = trainer(tmp_path, [structure()])
    fit.fit(Tagger(), loader(), loader(seed=1))
    assert {path.name for path in tmp_path.rglob("*.png")} == {"structure-token.png", "structure-bigram.png"}


def test_plain_gates_act_on_a_reading(tmp_path: object) -> None:
    stop = pl.callbacks.EarlyStopping("information/enc", mode="max", patience=1, min_delta=10.0)
    save = pl.callbacks.ModelCheckpoint(
        tmp_path, monitor="information/enc", filename="{step}-{information/enc:.3f}", auto_insert_metric_name=False
    )
    fit = trainer(tmp_path, [stop, structure(), save], max_epochs=6, enable_checkpointing=True)
    fit.fit(Tagger(), loader(), loader(seed=1))
    assert fit.current_epoch == 2
    assert float(save.best_model_score) == pytest.approx(float(fit.callback_metrics["information/enc"]), abs=0.2)
    assert len(list(tmp_path.glob("*.ckpt"))) == 1


def test_every_n_validations_and_prefix(tmp_path: object) -> None:
    callback = structure(every_n_validations=2, prefix="probe/")
    fit = trainer(tmp_path, [callback], max_epochs=4)
    fit.fit(Tagger(), loader(), loader(seed=1))
    assert [r.step for r in callback.history.readings] == [5, 15]
    assert "probe/information/enc" in fit.callback_metrics
    assert all(key.startswith("probe/") for key in callback.logged_keys())


def test_max_examples_selects_the_same_samples_whatever_the_batches(tmp_path: object) -> None:
    readings = []
    for size in (8, 13):
        callback = structure(max_examples=20, shuffles=0)
        trainer(tmp_path, [callback], max_epochs=1).validate(Tagger(), loader(batch_size=size, seed=1), verbose=False)
        readings.append(callback.reading)
    assert readings[0]["rows/enc"] == readings[1]["rows/enc"] < 165
    for key in readings[0]:
        if not key.startswith("seconds"):
            assert readings[0][key] == pytest.approx(readings[1][key], abs=1e-6), key


def test_another_loader_has_its_own_keys(tmp_path: object) -> None:
    first, second = structure(), structure(dataloader_idx=1)
    fit = trainer(tmp_path, [first, second])
    fit.fit(Tagger(), loader(), [loader(seed=1), loader(24, seed=2)])
    assert "information/enc/dataloader_idx_1" in fit.callback_metrics
    rows = first.reading["rows/enc"], second.reading["rows/enc/dataloader_idx_1"]
    assert rows == (Sequences(40, seed=1).mask.sum(), Sequences(24, seed=2).mask.sum())
    with pytest.raises(ValueError, match="there are 1 validation loaders"):
        trainer(tmp_path, [structure(dataloader_idx=1)]).fit(Tagger(), loader(), loader(seed=1))


def test_validate_returns_readings_and_leaves_history_alone(tmp_path: object) -> None:
    callback = structure()
    model = Tagger()
    fit = trainer(tmp_path, [callback])
    fit.fit(model, loader(), loader(seed=1))
    before = len(callback.history)
    (found,) = fit.validate(model, loader(seed=1), verbose=False)
    assert found["information/enc"] == pytest.approx(callback.history.readings[-1].values["information/enc"], abs=1e-6)
    assert len(callback.history) == before


def test_custom_label_sets_from_key_callable_and_array(tmp_path: object) -> None:
    data = Sequences(40, seed=1)
    sentence = torch.arange(40) % 4
    callback = structure(
        labels={"key": "sentence", "call": lambda batch: batch["sentence"], "array": sentence.numpy(), "tags": None},
    )
    trainer(tmp_path, [callback]).fit(Tagger(), loader(), loader(batch_size=9, seed=1))
    for name in ("call", "array"):
        for measure in ("regularity", "disentanglement", "coverage"):
            assert callback.reading[f"{measure}/enc/{name}"] == callback.reading[f"{measure}/enc/key"]
    assert callback.reading["num_labels/enc/tags"] == len(data.tags[data.mask].unique())


def test_a_label_set_without_a_frequent_label_has_no_picture_and_no_complaint(tmp_path: Path) -> None:
    callback = RepresentationStructure(
        {"enc": "encoder", "emb": "embedding"}, {"token": None, "rare": "rare"}, min_count=2
    )

    class Rare(Sequences):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            item = super().__getitem__(index)
            # A label of its own for every position.
            return {**item, "rare": torch.arange(7) + 7 * index}

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        trainer(tmp_path, [callback]).fit(Tagger(), DataLoader(Rare(16), 8), DataLoader(Rare(16), 8))
    assert {path.stem for path in tmp_path.rglob("*.png")} == {"structure-token", "sites-information", "sites-token"}
