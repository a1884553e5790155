"""What stands together on TensorBoard's page "Custom Scalars"."""

from __future__ import annotations

import pytest
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_interp import NoiseRobustness, RepresentationGeometry, RepresentationStructure, TrainingPhases
from tests.toy import Tagger, loader, trainer


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    folder = tmp_path_factory.mktemp("charts")
    chosen = [
        RepresentationStructure({"enc": "encoder", "emb": "embedding"}, ["token"], min_count=2, draw_figures=False),
        RepresentationGeometry("encoder", prefix="geo/", draw_figures=False),
        RepresentationGeometry("embedding", draw_figures=False),
        NoiseRobustness({"emb": "embedding"}, monitors={"val_loss": "loss"}, scales=(0.1, 0.5), draw_figures=False),
        TrainingPhases("val_loss", draw_figures=False),
    ]
    logger = TensorBoardLogger(folder, name="run", version=0)
    trainer(folder, chosen, logger=logger, max_epochs=3).fit(Tagger(), loader(40), loader(40, seed=1))
    logger.experiment.close()
    return EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload()


@pytest.fixture(scope="module")
def page(events: EventAccumulator) -> dict[str, dict[str, list[str]]]:
    newest = events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(newest)
    return {
        category.title: {chart.title: [tag.strip("^$") for tag in chart.multiline.tag] for chart in category.chart}
        for category in layout.category
    }


def test_each_callback_has_a_chart_for_each_measure_with_all_its_sites(page: dict[str, dict[str, list[str]]]) -> None:
    assert list(page) == [
        "RepresentationStructure",
        "RepresentationGeometry",
        "RepresentationGeometry_2",
        "NoiseRobustness",
        "Training phases",
    ]
    structure = page["RepresentationStructure"]
    assert structure["information"] == ["information/enc", "information/emb"]
    assert structure["regularity_above_chance"] == [f"regularity_above_chance/{site}/token" for site in ("enc", "emb")]
    assert page["RepresentationGeometry"]["rankme"] == ["geo/rankme/encoder"]
    assert page["RepresentationGeometry_2"]["rankme"] == ["rankme/embedding"]


def test_scales_of_the_noise_and_the_loss_have_charts_of_their_own(page: dict[str, dict[str, list[str]]]) -> None:
    assert page["NoiseRobustness"]["retention/emb/val_loss"] == [
        r"retention/emb/val_loss/0\.1",
        r"retention/emb/val_loss/0\.5",
    ]
    assert page["Training phases"]["loss"] == ["val_loss"]
    assert "val_loss" not in page["Training phases"]["what else is followed"]


def test_every_line_of_the_page_is_logged(page: dict[str, dict[str, list[str]]], events: EventAccumulator) -> None:
    logged = set(events.Tags()["scalars"])
    wanted = {tag.replace("\\", "") for charts in page.values() for lines in charts.values() for tag in lines}
    # Robustness is undefined while the model is no better than before training, α in layers as narrow as these.
    undefined = ("retention/", "robustness/", "alpha/", "geo/alpha/")
    conditional = {tag for tag in wanted if tag.startswith(undefined)}
    assert wanted - conditional <= logged
