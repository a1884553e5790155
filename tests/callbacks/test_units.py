"""What labels belong to, through the callbacks: told from batches, in the settings, the same on any number of ranks."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import LayerProbe, RepresentationDrift, RepresentationMetrics, RepresentationStructure, analyze
from lightning_interp.metrics import SoftStructure
from tests.toy import Sequences, Tagger, loader, trainer

SITES = {"enc": "encoder", "emb": "embedding"}


class Labelled(Sequences):
    """A class of each sample, one of each word, and one of each position, none of which mean anything."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = super().__getitem__(index)
        position = (self.ids[index] * 7 + index * 3 + torch.arange(7)) % 11 % 3
        return {**item, "of_word": self.ids[index] % 5 % 3, "of_position": position}


def callbacks(**options: Any) -> list[Any]:
    labels, shared = ["sentence", "of_word", "of_position"], {"draw_figures": False, "min_count": 2, **options}
    return [
        RepresentationStructure(SITES, [*labels, "token"], jackknife=3, **shared),
        RepresentationDrift(SITES, labels, neighbors=3, max_rows=120, **shared),
        LayerProbe(SITES, labels, max_rows=120, baseline=False, **shared),
    ]


def readings(strategy: str, batch_size: int) -> list[dict[str, float]]:
    world = dist.get_world_size() if dist.is_initialized() else 1
    chosen = callbacks(max_examples=35)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The learning rate is zero: how the data are split must not change what the model computes.
        run = trainer(folder, chosen, strategy=strategy, devices=world, max_epochs=1)
        run.fit(Tagger(lr=0.0), loader(12), DataLoader(Labelled(37, seed=1), batch_size=batch_size))
    told = [{key for key in callback.settings().items() if key[0].startswith("units/")} for callback in chosen]
    assert told[1] == told[2] < told[0], told
    return [{k: v for k, v in callback.reading.items() if "seconds" not in k} for callback in chosen]


def test_every_key_is_that_of_one_process(ranks: Any) -> None:
    expected = readings("auto", 5)
    assert any(key.startswith("silhouette_chance") and key.endswith("/sd") for key in expected[1])
    everywhere = ranks.run(readings, "ddp", 4)
    for found in everywhere:
        for mine, alone in zip(found, expected, strict=True):
            assert mine == pytest.approx(alone, abs=1e-6, rel=1e-6, nan_ok=True)
        assert str(found) == str(everywhere[0])


def test_units_are_told_from_batches_and_stand_in_the_settings(tmp_path: Path) -> None:
    chosen = callbacks(units={"of_position": "position"})
    trainer(tmp_path, chosen, max_epochs=1).fit(Tagger(), loader(), DataLoader(Labelled(40, seed=1), batch_size=8))
    told = {"units/sentence": "sample", "units/of_word": "word", "units/of_position": "position"}
    for callback in chosen:
        settings = callback.settings()
        assert settings["units"] == '{"of_position": "position"}'
        expected = told | ({"units/token": "position"} if callback is chosen[0] else {})
        assert {key: value for key, value in settings.items() if key.startswith("units/")} == expected
    with open(next(tmp_path.rglob("readings.csv"))) as file:
        assert "setting/RepresentationStructure/units/sentence" in file.readline()


class Id(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.enc(x)


@pytest.mark.parametrize("length", [1, 4, 16, 49])
def test_random_classes_of_images_are_at_chance_in_every_callback(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(100, 1, 32, generator=generator) + 0.3 * torch.randn(100, length, 32, generator=generator)
    y = torch.randint(0, 10, (100,), generator=generator)
    batches = [(z[start : start + 20], y[start : start + 20]) for start in range(0, 100, 20)]
    options: dict[str, Any] = {"labels": {"class": 1}, "layout": "BTD", "log": "full", "shuffles": 20}
    probe = LayerProbe("enc", types=None, baseline=False, **options)
    found = analyze(
        Id(), batches, [RepresentationStructure("enc", **options), RepresentationDrift("enc", **options), probe]
    )
    for measure in ("regularity", "disentanglement", "silhouette", "knn_purity", "probe"):
        above, spread = found[f"{measure}_above_chance/enc/class"], found[f"{measure}_chance/enc/class/sd"]
        assert abs(above) < 4 * spread, measure


def test_tokens_are_given_to_a_metric_that_can_do_without_them(tmp_path: Path) -> None:
    callback = RepresentationMetrics({"soft": SoftStructure(["of_word"], min_count=2)}, SITES)
    trainer(tmp_path, [callback], max_epochs=1).fit(Tagger(), loader(), DataLoader(Labelled(40, seed=1), batch_size=8))
    assert callback.settings()["units/of_word"] == "word"


def test_sites_with_one_vector_a_sample_need_no_tokens() -> None:
    class Mean(Tagger):
        def __init__(self) -> None:
            super().__init__()
            self.pooled = nn.Identity()

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            z = self.embedding(input_ids)
            return self.head(self.encoder(z + self.pooled(z.mean(1)).unsqueeze(1)))

    callback = RepresentationStructure(
        {"enc": "encoder", "one": "pooled"}, ["sentence"], min_count=2, shuffles=1, draw_figures=False
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer(folder, [callback], max_epochs=1).fit(Mean(), loader(), DataLoader(Labelled(40, seed=1), batch_size=8))
    assert callback.settings()["units/sentence"] == "sample"
    assert "regularity_above_chance/one/sentence" in callback.reading


def test_labels_that_equal_types_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"`labels` holds 'token', which is `types` too.*`types=None`"):
        LayerProbe("encoder", labels=["token"])
    with pytest.raises(ValueError, match=r"`units\['x'\]` must be one of"):
        RepresentationDrift("encoder", ["x"], units={"x": "image"})


def test_labels_that_turn_out_to_equal_types_are_refused(tmp_path: Path) -> None:
    callback = LayerProbe(SITES, {"lemma": lambda batch: batch["input_ids"] + 1}, min_count=2, baseline=False)
    with pytest.raises(ValueError, match="has one type of 'token': labels equal types"):
        trainer(tmp_path, [callback], max_epochs=1).fit(Tagger(), loader(), loader(seed=1))
