"""What stands where on TensorBoard's page "Custom Scalars", and what is said of each curve."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_interp import NoiseRobustness, RepresentationGeometry, RepresentationStructure, TrainingPhases
from lightning_interp.reading.page import BOOKKEEPING, LINES, OVERVIEW, OWN, Source, is_loss, is_score, page
from lightning_interp.reporting.measure_words import describe_key
from tests.callbacks import recipes
from tests.toy import Tagger, loader, trainer

Layout = dict[str, dict[str, list[str]]]


class Two(Tagger):
    """A tagger that is validated on two loaders and logs something that is neither loss nor score."""

    val_loader_names = ("seen", "new")

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val_length", float(batch["attention_mask"].sum()))


def run(
    folder: Path, chosen: Sequence[pl.Callback], model: pl.LightningModule, loaders: Any = None
) -> EventAccumulator:
    logger = TensorBoardLogger(folder, name="run", version=0, default_hp_metric=False)
    trainer(folder, list(chosen), logger=logger, max_epochs=3).fit(model, loader(40), loaders or loader(40, seed=1))
    logger.experiment.close()
    return EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload()


def layout_in(events: EventAccumulator) -> Layout:
    newest = events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(newest)
    return {
        category.title: {
            chart.title: [tag.strip("^$").replace("\\", "") for tag in chart.multiline.tag] for chart in category.chart
        }
        for category in layout.category
    }


def callbacks(log: str = "summary") -> list[pl.Callback]:
    return [
        RepresentationStructure(
            {"enc": "encoder", "emb": "embedding"}, ["token", "tags"], min_count=2, log=log, draw_figures=False
        ),
        RepresentationGeometry("encoder", prefix="geo/", log=log, draw_figures=False),
        RepresentationGeometry("embedding", log=log, draw_figures=False),
        NoiseRobustness(
            {"emb": "embedding"},
            monitors={"val_loss": "loss", "val_acc": "score"},
            scales=(0.1, 0.5),
            drift={"enc": "encoder"},
            log=log,
            draw_figures=False,
        ),
        TrainingPhases("val_loss", log=log, draw_figures=False),
    ]


@pytest.fixture(scope="module", params=["summary", "full"])
def events(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    return run(tmp_path_factory.mktemp("charts"), callbacks(request.param), Tagger())


@pytest.fixture(scope="module")
def shown(events: EventAccumulator) -> Layout:
    return layout_in(events)


def test_the_overview_comes_first_bookkeeping_last_and_a_category_a_callback_between(shown: Layout) -> None:
    assert list(shown) == [
        *("Overview", "Representation structure", "Representation geometry", "Representation geometry 2"),
        *("Noise robustness", "Training phases", "Bookkeeping"),
    ]
    assert list(shown[OVERVIEW].items())[:7] == [
        ("validation loss", ["val_loss"]),
        ("val_loss_collected", ["val_loss_collected"]),
        ("phase, confirmed and provisional", ["phase/current", "phase/provisional"]),
        ("val_acc", ["val_acc"]),
        ("robustness of val_loss to noise", ["robustness/emb/val_loss"]),
        ("robustness of val_acc to noise", ["robustness/emb/val_acc"]),
        ("information", ["information/enc", "information/emb"]),
    ]
    assert list(shown[OVERVIEW])[7:] == [
        *("regularity, above chance", "disentanglement, above chance"),
        *("effective rank, geo", "effective rank"),
    ]
    above = [f"regularity_above_chance/{site}/{labels}" for site in ("enc", "emb") for labels in ("token", "tags")]
    assert shown[OVERVIEW]["regularity, above chance"] == above
    assert shown["Representation geometry"]["effective rank"] == ["geo/effective_rank/encoder"]
    assert "drift/emb/enc/mean" in shown["Noise robustness"]["drift of enc under noise"]


def test_every_line_is_logged_and_everything_that_is_logged_has_a_line(shown: Layout, events: EventAccumulator) -> None:
    logged = set(events.Tags()["scalars"])
    wanted = {tag for charts in shown.values() for lines in charts.values() for tag in lines}
    # Robustness is undefined while the model is no better than before training, α in layers as narrow as these.
    undefined = (
        "retention/",
        "robustness/",
        "half_scale/",
        "alpha",
        "geo/alpha",
        "failed/",
        "geo/failed/",
        "phase/lag",
    )
    rare = {tag for tag in wanted if tag.startswith((*undefined, "phase/boundary_step"))}
    assert wanted - rare <= logged
    assert logged - wanted <= {"epoch", "train_loss"}


def test_no_chart_mixes_metrics_of_the_model_or_has_many_lines(shown: Layout) -> None:
    for charts in shown.values():
        for title, lines in charts.items():
            assert len(lines) <= LINES, title
            # A lag is in decades of steps, whatever lags.
            kinds = {("loss" in line, "acc" in line) for line in lines if not line.startswith("phase/lag/")}
            assert len(kinds) <= 1, title


def test_every_curve_of_ours_is_described(events: EventAccumulator) -> None:
    said = {}
    for tag in events.Tags()["scalars"]:
        found = events.summary_metadata.get(tag)
        said[tag] = "" if found is None else found.summary_description
    for tag, text in said.items():
        prefix = "geo/" if tag.startswith("geo/") else ""
        assert text == describe_key(tag, prefix), tag
        assert bool(text) == (
            tag.split("/")[0] not in ("epoch", "train_loss", "val_acc", "val_loss", "val_loss_collected")
        )


ORDERS: list[Callable[[list[pl.Callback]], list[pl.Callback]]] = [
    lambda found: found[::-1],
    lambda found: found[2:] + found[:2],
    lambda found: [found[3], found[4], *found[:3]],
]


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_callbacks_changes_nothing_of_the_overview(tmp_path: Path, order: Callable[[Any], Any]) -> None:
    first = layout_in(run(tmp_path / "a", callbacks(), Tagger()))
    other = layout_in(run(tmp_path / "b", order(callbacks()), Tagger()))
    assert {title: set(lines) for title, lines in other[OVERVIEW].items()} == {
        title: set(lines) for title, lines in first[OVERVIEW].items()
    }
    assert next(iter(other)) == OVERVIEW
    assert list(other)[-1] == BOOKKEEPING


def test_without_phases_and_phases_alone(tmp_path: Path) -> None:
    geometry = RepresentationGeometry("encoder", draw_figures=False)
    assert list(layout_in(run(tmp_path / "a", [geometry], Tagger()))[OVERVIEW]) == [
        *("validation loss", "val_loss_collected", "val_acc", "effective rank")
    ]
    phases = TrainingPhases("val_loss", improving={"val_acc": "max"}, prefix="mine/", draw_figures=False)
    alone = layout_in(run(tmp_path / "b", [phases], Tagger()))
    assert list(alone[OVERVIEW].items()) == [
        ("validation loss", ["val_loss"]),
        ("val_loss_collected", ["val_loss_collected"]),
        ("phase, mine, confirmed and provisional", ["mine/phase/current", "mine/phase/provisional"]),
        ("val_acc", ["val_acc"]),
    ]


def test_several_loaders_share_a_chart_that_says_their_names(tmp_path: Path) -> None:
    geometry = RepresentationGeometry("encoder", dataloader_idx=1, draw_figures=False)
    phases = TrainingPhases("val_loss", improving={"val_acc": "max"}, draw_figures=False)
    found = layout_in(run(tmp_path, [geometry, phases], Two(), [loader(40, seed=1), loader(24, seed=2)]))
    two = [f"/dataloader_idx_{number}" for number in range(2)]
    assert list(found[OVERVIEW].items()) == [
        ("validation loss (0 seen, 1 new)", [f"val_loss{end}" for end in two]),
        ("val_loss_collected", ["val_loss_collected"]),
        ("phase, confirmed and provisional", ["phase/current", "phase/provisional"]),
        ("val_acc (0 seen, 1 new)", [f"val_acc{end}" for end in two]),
        ("effective rank, new", ["effective_rank/encoder/dataloader_idx_1"]),
    ]
    assert found[OWN] == {"val_length (0 seen, 1 new)": [f"val_length{end}" for end in two]}
    assert found["Training phases"]["val_loss"] == ["val_loss/dataloader_idx_0"]


# ------------------------------------------------- without a training


def test_losses_and_scores_are_told_by_name() -> None:
    losses = [
        "val_loss",
        "val/loss",
        "valid/nll",
        "val_ce",
        "loss/val",
        "val.kl_loss",
        "VAL_LOSS",
        "val_mse",
        "valloss",
    ]
    scores = ["val_acc", "val/accuracy", "val_f1", "valid/AUROC", "exact_match", "dev.em", "val_acc/top_5", "acc"]
    neither = ["val_length", "glossary", "temperature", "val_place", "vacancy", "grad_norm", "lr"]
    for names, expected in ((losses, (True, False)), (scores, (False, True)), (neither, (False, False))):
        for name in names:
            assert (is_loss(name), is_score(name)) == expected, name


def test_many_sites_and_label_sets_are_spread_over_charts() -> None:
    sites = [f"layer_{number}" for number in range(12)]
    keys = [f"regularity_above_chance/{site}/{labels}" for site in sites for labels in ("token", "tags")]
    found = page([], [Source("RepresentationStructure", "", {"regularity, above chance": keys}, keys)])
    assert found[OVERVIEW] == {
        f"regularity, above chance: {labels} (4 of 12)": [
            f"regularity_above_chance/layer_{number}/{labels}" for number in (0, 4, 7, 11)
        ]
        for labels in ("token", "tags")
    }
    category = found["Representation structure"]
    assert list(category)[:3] == [f"regularity, above chance: token ({number} of 3)" for number in (1, 2, 3)]
    assert sorted(itertools.chain(*category.values())) == sorted(keys)


def test_a_model_with_many_metrics_has_them_in_a_category_of_its_own() -> None:
    found = page([f"val/loss_{letter}" for letter in "abcdef"] + ["val/acc", "val/other"], [])
    assert list(found[OVERVIEW]) == [*(f"val/loss_{letter}" for letter in "abcd"), "val/acc"]
    assert list(found[OWN]) == ["val/loss_e", "val/loss_f", "val/other"]
    assert all(len(lines) == 1 for charts in found.values() for lines in charts.values())


@pytest.mark.parametrize("level", ["summary", "full"])
def test_whatever_callbacks_there_are_everything_that_they_log_is_on_the_page(level: str) -> None:
    model = Tagger()
    sources = []
    for name in recipes.ANALYSES:
        one = recipes.analysis(name)
        one.log_level, one._name = level, name
        one.prefix = one.prefix or f"{name}/"
        sources.append(one.page_source(model))
    found = page(["val_loss", "val_acc"], sources)
    lines = {line for charts in found.values() for keys in charts.values() for line in keys}
    assert lines == {"val_loss", "val_acc", *(key for source in sources for key in source.logged)}
    assert all(len(keys) <= LINES for charts in found.values() for keys in charts.values())
    assert list(found) == [OVERVIEW, *(title for title in found if title not in (OVERVIEW, BOOKKEEPING)), BOOKKEEPING]


def test_a_second_training_has_a_page_too_and_a_metric_that_comes_later_its_chart(tmp_path: Path) -> None:
    class Later(Tagger):
        def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)
            if self.current_epoch > 1:
                self.log("val_f1", 0.5)

    chosen = callbacks()
    run(tmp_path / "a", chosen, Tagger())
    again = layout_in(run(tmp_path / "b", chosen, Later()))
    assert list(again[OVERVIEW])[3:5] == ["val_acc", "val_f1"]


def test_a_page_that_fails_ends_no_training(tmp_path: Path) -> None:
    class Wrong(RepresentationGeometry):
        def charts(self, model: Any = None) -> dict[str, list[str]]:
            raise ZeroDivisionError("no charts")

    wrong = Wrong("encoder", draw_figures=False)
    with pytest.warns(UserWarning, match="lightning_interp could not lay out its charts: ZeroDivisionError: no charts"):
        run(tmp_path, [wrong], Tagger())
    assert len(wrong.history) == 3
