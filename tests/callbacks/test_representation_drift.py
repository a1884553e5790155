"""Drift: planted rotations, readings by hand, what is kept, resuming, ranks, maps that do not flip, pictures."""

from __future__ import annotations

import math
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.metrics import silhouette_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import RepresentationDrift, analyze
from lightning_interp.functional import debiased_cka, linear_cka
from tests.toy import Sequences, Tagger, loader, timeless, trainer

SITES = {"emb": "embedding", "enc": "encoder"}


def fit(folder: Path, callbacks: list[pl.Callback], model: pl.LightningModule | None = None, **kwargs: Any) -> Any:
    pl.seed_everything(1, verbose=False)
    run = trainer(folder, callbacks, **{"max_epochs": 3, **kwargs})
    run.fit(model or Tagger(), loader(), loader(seed=1))
    return run


class Watch(pl.Callback):
    """The encoder's output at every position of the validation data, after each validation."""

    def __init__(self) -> None:
        self.clouds: list[torch.Tensor] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Tagger) -> None:
        if not trainer.sanity_checking:
            data = Sequences(40, seed=1)
            self.clouds.append(pl_module.encoder(pl_module.embedding(data.ids))[data.mask].clone())


def test_every_key_is_logged_where_it_is_defined_and_is_that_of_the_clouds(tmp_path: Path) -> None:
    callback, watch, model = RepresentationDrift(SITES, ["token", "tags"], log="full", neighbors=3), Watch(), Tagger()
    run = fit(tmp_path, [callback, watch], model, logger=TensorBoardLogger(tmp_path))
    keys = callback.logged_keys(model)
    assert set(keys) <= set(run.callback_metrics)
    first, *later = callback.history.readings
    assert set(keys) - set(first.values) == set(callback.conditional_keys(model))
    assert all(set(keys) == set(one.values) for one in later)
    for place, reading in enumerate(later, 1):
        for which, earlier in (("first", 0), ("previous", place - 1)):
            expected = float(debiased_cka(watch.clouds[place], watch.clouds[earlier]))
            assert reading.values[f"cka/enc/{which}"] == pytest.approx(expected, abs=1e-6)
    data = Sequences(40, seed=1)
    expected = silhouette_score(watch.clouds[-1].numpy(), data.tags[data.mask].numpy())
    assert callback.reading["silhouette/enc/tags"] == pytest.approx(expected, abs=1e-5)
    assert callback.reading["rows/enc"] == callback.reading["sampled_rows/enc"] == int(data.mask.sum())

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(tmp_path.rglob("events*")).parent), size_guidance={"images": 0})
    events.Reload()
    assert set(keys) <= set(events.Tags()["scalars"])
    assert len(events.Scalars("cka/enc/first")) == 2
    pictures = {"drift/curves", "drift/map/emb", "drift/map/enc", "sites/cka_first", "separation/tags"}
    assert pictures <= set(events.Tags()["images"])


class Turning(pl.LightningModule):
    """Its site moves from one planted cloud to another by a given angle at each validation."""

    def __init__(self, angles: list[float]) -> None:
        super().__init__()
        self.site, self.angles, self.weight = nn.Identity(), angles, nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            angle = math.radians(self.angles[self.current_epoch])
            self.site(math.cos(angle) * batch[0] + math.sin(angle) * batch[1])
        else:
            self.site(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def turned(folder: Path, rows: int, dim: int, angles: list[float], **kwargs: Any) -> RepresentationDrift:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(*torch.randn(2, rows, dim, generator=generator), torch.arange(rows) % 2)
    callback = RepresentationDrift("site", max_rows=rows, max_examples=None, draw_figures=False, **kwargs)
    run = trainer(folder, [callback], max_epochs=len(angles))
    source = DataLoader(data, batch_size=100)
    run.fit(Turning(angles), DataLoader(data, batch_size=rows), source)
    return callback


def test_a_planted_turn_is_read_as_its_squared_cosine(tmp_path: Path) -> None:
    # Between a cloud and cos a of it plus sin a of an unrelated one, cross-covariances shrink by cos a: CKA is cos² a.
    angles = [0.0, 20.0, 60.0, 90.0, 90.0]
    callback = turned(tmp_path, 2000, 10, angles)
    first, previous = (callback.history.series(f"cka/site/{which}")[1] for which in ("first", "previous"))
    assert first == pytest.approx([math.cos(math.radians(a)) ** 2 for a in angles[1:]], abs=0.02)
    steps = [b - a for a, b in pairwise(angles)]
    assert previous == pytest.approx([math.cos(math.radians(a)) ** 2 for a in steps], abs=0.02)


def test_an_unrelated_cloud_of_few_rows_is_near_zero(tmp_path: Path) -> None:
    callback = turned(tmp_path, 60, 1500, [0.0, 90.0])
    assert abs(callback.reading["cka/site/first"]) < 0.1
    generator = torch.Generator().manual_seed(0)
    assert float(linear_cka(*torch.randn(2, 60, 1500, generator=generator))) > 0.9


def test_to_last_holds_what_is_kept_against_the_last_reading(tmp_path: Path) -> None:
    angles = [0.0, 30.0, 60.0, 90.0]
    callback = turned(tmp_path, 2000, 10, angles, keep_readings=4)
    steps, values = callback.to_last()["site"]
    assert steps == [1, 2, 3, 4]
    assert values == pytest.approx([math.cos(math.radians(90 - a)) ** 2 for a in angles], abs=0.02)
    few = turned(tmp_path, 2000, 10, angles)
    assert few.to_last()["site"] == ([1, 4], [values[0], values[-1]])
    assert few.history.series("cka/site/previous") == callback.history.series("cka/site/previous")


def test_half_precision_keeps_all_that_matters(tmp_path: Path) -> None:
    angles = [0.0, 30.0, 60.0]
    whole = turned(tmp_path, 500, 10, angles)
    half = turned(tmp_path, 500, 10, angles, keep_dtype="float16")
    assert half.kept.values[0]["site"]["z"].dtype == torch.float16
    for key in ("cka/site/first", "cka/site/previous"):
        assert half.history.series(key)[1] == pytest.approx(whole.history.series(key)[1], abs=2e-4)


def test_the_sample_is_the_same_at_every_reading_and_bounded(tmp_path: Path) -> None:
    callback = RepresentationDrift(SITES, ["token"], max_rows=30, neighbors=3, keep_readings=3)
    fit(tmp_path, [callback], max_epochs=6)
    keys = [one["enc"]["key"] for one in callback.kept.values]
    assert len(keys) == 3
    assert all(torch.equal(keys[0], one) for one in keys)
    assert [one["enc"]["z"].shape for one in callback.kept.values] == [(30, 8)] * 3
    assert callback.reading["sampled_rows/enc"] == 30
    assert callback.reading["rows/enc"] == int(Sequences(40, seed=1).mask.sum())


class Losing(Turning):
    """Some rows are not finite at the second reading."""

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        z = batch[0].clone()
        if self.current_epoch == 1:
            z[::2] = torch.nan
        self.site(z)


def test_positions_that_are_lost_are_left_out_of_the_comparison(tmp_path: Path) -> None:
    data = TensorDataset(torch.randn(40, 5, generator=torch.Generator().manual_seed(0)))
    callback = RepresentationDrift("site", draw_figures=False)
    with pytest.warns(UserWarning, match="not finite"):
        trainer(tmp_path, [callback], max_epochs=3).fit(
            Losing([0.0] * 3), DataLoader(data, batch_size=40), DataLoader(data, batch_size=10)
        )
    assert callback.history.series("sampled_rows/site")[1] == [40, 20, 40]
    assert callback.history.series("cka/site/previous")[1] == pytest.approx([1, 1], abs=1e-6)


class Plain(Tagger):
    """Without dropout, so that a resumed training goes on exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder[2].p = 0.0


@pytest.mark.parametrize("align", ["procrustes", "first"])
def test_resuming_goes_on_exactly(tmp_path: Path, align: str) -> None:
    def callback() -> RepresentationDrift:
        return RepresentationDrift(SITES, ["tags"], neighbors=3, keep_readings=3, align=align)

    whole = callback()
    fit(tmp_path / "whole", [whole], Plain(), max_epochs=5)
    run = fit(tmp_path / "part", [callback()], Plain(), max_epochs=2)
    run.save_checkpoint(tmp_path / "part.ckpt")
    resumed = callback()
    later = trainer(tmp_path / "later", [resumed], max_epochs=5)
    later.fit(Plain(), loader(), loader(seed=1), ckpt_path=tmp_path / "part.ckpt", weights_only=True)
    assert timeless(resumed) == timeless(whole)
    assert resumed.to_last() == whole.to_last()
    assert resumed.maps.steps == whole.maps.steps
    for one, other in zip(resumed.maps.values, whole.maps.values, strict=True):
        torch.testing.assert_close(one["enc"], other["enc"])


def test_a_trainer_that_validates_compares_with_the_first_reading_and_analyze_with_none(tmp_path: Path) -> None:
    callback, model = RepresentationDrift(SITES, ["tags"], neighbors=3), Tagger()
    fit(tmp_path, [callback], model)
    last, kept = dict(callback.reading), callback.kept.steps
    trainer(tmp_path, [callback]).validate(model, loader(seed=1), verbose=False)
    assert callback.reading["cka/enc/first"] == pytest.approx(last["cka/enc/first"], abs=1e-6)
    assert "cka/enc/previous" not in callback.reading
    assert callback.kept.steps == kept
    found = analyze(model, loader(seed=1), callback)
    assert not any(key.startswith("cka/") for key in found)
    assert found["silhouette/enc/tags"] == pytest.approx(last["silhouette/enc/tags"], abs=1e-6)


# ------------------------------------------------- maps


def test_maps_neither_flip_nor_turn(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 6, generator=generator) * torch.tensor([5.0, 4.9, 1, 1, 1, 1])

    class Spinning(Turning):
        def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
            # The same cloud in ever other axes.
            draw = torch.Generator().manual_seed(self.current_epoch)
            self.site(batch[0] @ torch.linalg.qr(torch.randn(6, 6, generator=draw))[0])

    data = TensorDataset(z)
    callback = RepresentationDrift("site")
    trainer(tmp_path, [callback], max_epochs=4).fit(
        Spinning([0.0] * 4), DataLoader(data, batch_size=60), DataLoader(data, batch_size=60)
    )
    maps = [one["site"] for one in callback.maps.values]
    assert len(maps) == 4
    assert maps[0].shape == (60, 2)
    for one in maps[1:]:
        torch.testing.assert_close(one, maps[0], atol=1e-4, rtol=1e-4)


def test_the_plane_of_the_first_reading_is_kept(tmp_path: Path) -> None:
    callback = RepresentationDrift(SITES, align="first")
    fit(tmp_path, [callback])
    mean, axes = callback.maps.planes["enc"]
    last = callback.kept.values[-1]["enc"]
    shown = torch.isin(last["key"], callback.maps.shown["enc"].key)
    expected = (last["z"][shown].double() - mean) @ axes
    torch.testing.assert_close(callback.maps.values[-1]["enc"], expected.float(), atol=1e-5, rtol=1e-5)


def test_classes_of_the_map_have_names(tmp_path: Path) -> None:
    callback = RepresentationDrift({"enc": "encoder"}, ["tags"], label_names=["red", "green", "blue"], neighbors=3)
    fit(tmp_path, [callback], max_epochs=5)
    figure = callback.figures()["drift/map/enc"]()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["blue", "green", "red"]
    assert len(figure.axes) == 5
    assert figure.get_suptitle() == "enc, by tags"


def test_vectors_are_shown_in_the_projector(tmp_path: Path) -> None:
    callback = RepresentationDrift({"enc": "encoder"}, ["tags"], neighbors=3, projector=15, draw_figures=False)
    fit(tmp_path, [callback], logger=TensorBoardLogger(tmp_path))
    header, *lines = next(tmp_path.rglob("metadata.tsv")).read_text().splitlines()
    assert header == "tags\ttoken"
    assert len(lines) == 15


# ------------------------------------------------- ranks


def readings(strategy: str, batch_size: int) -> tuple[Any, Any]:
    world = dist.get_world_size() if dist.is_initialized() else 1
    callback = RepresentationDrift(
        SITES, ["token", "tags", "sentence"], max_rows=60, neighbors=4, max_examples=25, keep_readings=3
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer(folder, [callback, Shift()], strategy=strategy, devices=world, max_epochs=4)
        # The learning rate is zero: how the data are split must not change what the model computes.
        run.fit(Tagger(lr=0.0), loader(12), DataLoader(Sequences(31, seed=1), batch_size=batch_size))
    return [values for _, _, _, values in timeless(callback)], callback.to_last()


class Shift(pl.Callback):
    """Changes the model between validations, alike on all ranks."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Tagger) -> None:
        draw = torch.Generator().manual_seed(trainer.current_epoch)
        with torch.no_grad():
            pl_module.embedding.weight += torch.randn(pl_module.embedding.weight.shape, generator=draw)


@pytest.fixture(scope="module")
def alone() -> Any:
    return readings("auto", 8)


@pytest.mark.parametrize("batch_size", [4, 5])
def test_ranks_give_what_one_process_gives(ranks: Any, alone: Any, batch_size: int) -> None:
    expected, expected_last = alone
    assert len(expected) == 4
    assert 0.1 < expected[-1]["cka/enc/first"] < 0.95
    for found, last in ranks.run(readings, "ddp", batch_size):
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=1e-6)
        assert last["enc"][1] == pytest.approx(expected_last["enc"][1], abs=1e-6)


# ------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "tags"}, "`labels` must be a list of names"),
        ({"align": "pca"}, "`align` must be one of"),
        ({"keep_dtype": "int8"}, "`keep_dtype` must be one of"),
        ({"keep_readings": 1}, "`keep_readings` must be at least 2"),
        ({"max_rows": 2}, "`max_rows` must be at least 4"),
        ({"neighbors": 0}, "`neighbors` must be at least 1"),
        ({"projector": 0}, "`projector` must be at least 1"),
    ],
)
def test_bad_arguments_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RepresentationDrift(SITES, **options)
