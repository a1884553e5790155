"""What every exported callback must pass: training is untouched, settings of the Trainer, bad states, failures."""

from __future__ import annotations

import copy
import math
import random
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

import lightning_interp
from lightning_interp import (
    AcquisitionByClass,
    ClozeFacts,
    ConfidenceCalibration,
    CoordinateProbe,
    LayerProbe,
    MinimalPairs,
    NoiseRobustness,
    PhaseEarlyStopping,
    RepresentationDrift,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    StructuralProbe,
    TaskSpace,
    TrainingPhases,
    TruthProbe,
    ValidationAnalysis,
    ValidationSchedule,
    analyze,
)
from lightning_interp.metrics import SpectralGeometry
from lightning_interp.probing import Entities, Statement
from lightning_interp.probing.treebank import Sentence
from lightning_interp.tasks import Fact, Task
from tests.toy import VOCABULARY, Tagger, loader, timeless, trainer

SITE = {"enc": "encoder"}
LETTERS = "abcdefghijk"


def phases(draw: bool) -> TrainingPhases:
    return TrainingPhases(improving={"val_acc": "max"}, strict=False, draw_figures=draw)


def tasks() -> list[Task]:
    """Words are letters; what differs is the last of them."""
    ends = {"a": ("bc", "one"), "d": ("ef", "one"), "g": ("hi", "two"), "h": ("ij", "two")}
    pairs = {start: [(f"{start}{x}{g}", f"{start}{x}{b}") for x in "abcdef"] for start, ((g, b), _) in ends.items()}
    return [Task(start, ends[start][1], tuple(found)) for start, found in pairs.items()]


def letters(sentence: str) -> list[int]:
    return [0, *(ord(letter) - 96 for letter in sentence)]


def treebank() -> list[Sentence]:
    """Words are letters; each hangs on the one before it, on the first, or on the last."""
    heads = [(-1, 0, 1, 2, 3, 4), (-1, 0, 0, 0, 0, 0), (5, 5, 5, 5, 5, -1)]
    return [Sentence(tuple("abcdefghijk"[n % 5 : n % 5 + 6]), ("X",) * 6, heads[n % 3]) for n in range(15)]


def entities() -> Entities:
    """Names are pairs of letters; where they lie has to do with both."""
    names = [(a, b) for a in range(5) for b in range(5, 11)]
    places = torch.tensor([[a + 0.3 * b, a * b % 7] for a, b in names])
    blocks = [str(a) for a, _ in names]
    return Entities(tuple(f"{LETTERS[a]} {LETTERS[b]}" for a, b in names), places, ("north", "east"), tuple(blocks))


def statements() -> list[Statement]:
    """Three letters each, of four topics; the last but one denies."""
    kinds = [(a, b, c) for a in range(4) for b in range(4, 8) for c in range(8, 11)]
    return [
        Statement(f"{LETTERS[b]} {LETTERS[a]} {LETTERS[c]}", (b + c) % 2 == 0, str(a), negated=b > 5)
        for a, b, c in kinds
    ]


FACTS = [Fact("next", f"{start}b___", "cd"[place % 2], ("c", "d", "e")) for place, start in enumerate("abfgh")]


def letter_words(text: str) -> list[int]:
    return [ord(word) - 96 for word in text.split()]


def as_language_model(model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The tagger with a word for every mixture of tags."""
    logits = model(input_ids)
    return logits @ torch.arange(3.0 * VOCABULARY).view(3, VOCABULARY).cos().to(logits)


CALLBACKS: dict[str, Callable[[bool], list[pl.Callback]]] = {
    "RepresentationStructure": lambda draw: [
        RepresentationStructure(
            SITE,
            ["token", "bigram"],
            min_count=2,
            estimator="both",
            information_plane=["token", "next_token"],
            jackknife=2,
            draw_figures=draw,
        )
    ],
    "RepresentationGeometry": lambda draw: [RepresentationGeometry(SITE, log="full", draw_figures=draw)],
    "RepresentationMetrics": lambda draw: [
        RepresentationMetrics({"own": SpectralGeometry(center=False)}, SITE, prefix="own/", draw_figures=draw)
    ],
    "NoiseRobustness": lambda draw: [
        NoiseRobustness(
            {"emb": "embedding"},
            scales=(0.25, 1.0),
            monitors={"val_loss": "loss", "val_acc": "score"},
            drift=SITE,
            tokens="input_ids",
            draw_figures=draw,
        )
    ],
    "TaskSpace": lambda draw: [
        TaskSpace(tasks, letters, forward=as_language_model, buckets=256, permutations=19, draw_figures=draw)
    ],
    "MinimalPairs": lambda draw: [
        MinimalPairs(tasks, letters, forward=as_language_model, standard_errors=True, draw_figures=draw)
    ],
    "ClozeFacts": lambda draw: [
        ClozeFacts(FACTS, letters, forward=as_language_model, standard_errors=True, draw_figures=draw)
    ],
    "AcquisitionByClass": lambda draw: [
        AcquisitionByClass(
            "head", target="tags", mask="attention_mask", names=["zero", "one", "two"], draw_figures=draw
        )
    ],
    "LayerProbe": lambda draw: [
        LayerProbe(SITE, ["tags"], {"letter": "input_ids"}, min_count=2, codelength=True, draw_figures=draw)
    ],
    "StructuralProbe": lambda draw: [
        StructuralProbe(SITE, treebank, tokenizer=letter_words, max_steps=20, draw_figures=draw)
    ],
    "RepresentationDrift": lambda draw: [
        RepresentationDrift(SITE, ["token", "tags"], max_rows=60, neighbors=3, keep_readings=3, draw_figures=draw)
    ],
    "ConfidenceCalibration": lambda draw: [
        ConfidenceCalibration("head", target="tags", mask="attention_mask", max_rows=50, draw_figures=draw)
    ],
    "CoordinateProbe": lambda draw: [
        CoordinateProbe(entities, SITE, tokenizer=letter_words, pooling="mean", draw_figures=draw)
    ],
    "TruthProbe": lambda draw: [
        TruthProbe(
            statements,
            SITE,
            tokenizer=letter_words,
            pooling="mean",
            forward=as_language_model,
            batch_tokens=40,
            draw_figures=draw,
        )
    ],
    "TrainingPhases": lambda draw: [phases(draw)],
    "PhaseEarlyStopping": lambda draw: [
        phases(draw),
        PhaseEarlyStopping("val_acc", patience=1000, phase=0, strict=False),
    ],
    "ValidationSchedule": lambda draw: [ValidationSchedule(steps=[1, 3, 4])],
}
ANALYSES = [name for name in CALLBACKS if issubclass(getattr(lightning_interp, name), ValidationAnalysis)]
BY_NAME = pytest.mark.parametrize("name", CALLBACKS)

NARROW = "own/alpha/enc"
"""The decay of a spectrum needs 40 dimensions, which this model does not have."""


def everything(draw: bool = False) -> list[pl.Callback]:
    """All that go together in one Trainer; the schedule would move validations."""
    names = [name for name in CALLBACKS if name not in ("TrainingPhases", "ValidationSchedule")]
    return [one for name in names for one in CALLBACKS[name](draw)]


def test_every_exported_callback_is_here() -> None:
    exported = [getattr(lightning_interp, name) for name in lightning_interp.__all__]
    callbacks = {one.__name__ for one in exported if isinstance(one, type) and issubclass(one, pl.Callback)} - {
        "ValidationAnalysis"
    }
    assert callbacks == set(CALLBACKS)


# ------------------------------------------------- untouched


class Busy(Tagger):
    """Everything that a second look at the model could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.f1 = torchmetrics.classification.MulticlassF1Score(3, average="macro")
        self.losses: list[float] = []
        self.seen = 0

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        z = self.encoder(self.embedding(input_ids))
        self.last = self.head(self.norm(z.flatten(0, 1)).view_as(z))
        return self.last

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss, hit = self._loss(batch)
        self.losses.append(loss.item())
        self.log("train_loss", loss)
        self.log("train_acc", hit.mean(), on_step=True, on_epoch=True)
        return loss * (1 + 0.01 * (random.random() + np.random.rand()))

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.seen += 1
        mask = batch["attention_mask"].bool()
        self.f1.update(self.last[mask], batch["tags"][mask])
        self.log("val_f1", self.f1)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", 0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def train(folder: Path, callbacks: list[pl.Callback], **kwargs: Any) -> dict[str, Any]:
    """Everything that a training leaves behind."""
    settings = {"max_epochs": 4, "accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "log_every_n_steps": 1}
    pl.seed_everything(5, verbose=False)
    model = Busy()
    run = trainer(folder, callbacks, logger=CSVLogger(folder, version="v"), **{**settings, **kwargs})
    run.fit(model, loader(shuffle=True), loader(seed=1))
    files = (folder / "lightning_logs" / "v" / "metrics.csv").read_text().splitlines()
    names, *rows = [line.split(",") for line in files]
    columns = {name: [row[place] for row in rows if row[place]] for place, name in enumerate(names)}
    return {
        "weights": {name: value.tolist() for name, value in model.state_dict().items()},
        "optimizer": [
            {name: value.tolist() for name, value in one.items()}
            for one in run.optimizers[0].state_dict()["state"].values()
        ],
        "rate": run.optimizers[0].param_groups[0]["lr"],
        "scheduler": {
            name: value
            for name, value in run.lr_scheduler_configs[0].scheduler.state_dict().items()
            if isinstance(value, int | float)
        },
        "random": [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()],
        "model": [model.losses, model.seen, model.collected, model.training],
        "logged": {name: columns[name] for name in columns if name.startswith(("train_", "val_"))},
        "metrics": {
            name: float(value) for name, value in run.callback_metrics.items() if name.startswith(("train_", "val_"))
        },
        "hooks": sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()),
    }


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(tmp_path_factory.mktemp("plain"), [])


@BY_NAME
def test_training_is_bit_identical(tmp_path: Path, untouched: dict[str, Any], name: str) -> None:
    if name == "ValidationSchedule":
        # It moves validations, so what these log and a plateau does is another thing: held against itself alone.
        steps = {"val_check_interval": 1, "check_val_every_n_epoch": None, "accumulate_grad_batches": 1}
        plain = train(tmp_path / "plain", [], **steps)
        found = train(tmp_path / "watched", [ValidationSchedule(steps=None, every=1)], accumulate_grad_batches=1)
        for part in ("weights", "optimizer", "random"):
            assert found[part] == plain[part], part
        return
    found = train(tmp_path, CALLBACKS[name](True))
    for part, expected in untouched.items():
        assert found[part] == expected, part


def test_training_is_bit_identical_with_all_of_them(tmp_path: Path, untouched: dict[str, Any]) -> None:
    found = train(tmp_path, everything(True))
    for part, expected in untouched.items():
        assert found[part] == expected, part


# ------------------------------------------------- settings of the Trainer


class Checkpointed(Tagger):
    """Runs its encoder again in the backward pass."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        z = self.embedding(input_ids)
        z = checkpoint(self.encoder, z, use_reentrant=False) if self.training else self.encoder(z)
        return self.head(z)


SETTINGS: dict[str, dict[str, Any]] = {
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "64-true": {"precision": "64-true"},
    "val_check_interval": {"val_check_interval": 2},
    "check_val_every_n_epoch": {"check_val_every_n_epoch": 2},
    "limit_val_batches": {"limit_val_batches": 2},
    "share of val batches": {"limit_val_batches": 0.5},
    "no sanity check": {"num_sanity_val_steps": 0},
    "whole sanity check": {"num_sanity_val_steps": -1},
    "overfit_batches": {"overfit_batches": 2},
    "accumulate": {"accumulate_grad_batches": 3},
    "no inference mode": {"inference_mode": False},
    "detect_anomaly": {"detect_anomaly": True},
    "reload": {"reload_dataloaders_every_n_epochs": 1},
    "deterministic": {"deterministic": True},
}


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def fit(folder: Path, callbacks: list[pl.Callback], model: pl.LightningModule, **kwargs: Any) -> pl.Trainer:
    pl.seed_everything(2, verbose=False)
    run = trainer(folder, callbacks, **{"max_epochs": 4, **kwargs})
    run.fit(model, loader(), loader(seed=1))
    return run


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(tmp_path: Path, setting: str) -> None:
    plain, watched, callbacks = Tagger(), Tagger(), everything()
    fit(tmp_path, [], plain, **SETTINGS[setting])
    run = fit(tmp_path, callbacks, watched, **SETTINGS[setting])
    assert all(torch.equal(*pair) for pair in zip(weights(plain), weights(watched), strict=True))
    validations = {"check_val_every_n_epoch": 2, "val_check_interval": 8}.get(setting, 4)
    for callback in callbacks:
        if isinstance(callback, ValidationAnalysis):
            assert len(callback.history) == validations
            assert callback.failed == 0
            conditional = {*callback.conditional_keys(watched), NARROW}
            for key in callback.logged_keys(watched):
                assert key in conditional or math.isfinite(callback.reading[key]), key
                assert key in conditional or key in run.callback_metrics


def test_the_sanity_check_does_not_count(tmp_path: Path) -> None:
    with_check, without = everything(), everything()
    fit(tmp_path, with_check, Tagger(), num_sanity_val_steps=-1)
    fit(tmp_path, without, Tagger(), num_sanity_val_steps=0)
    for one, other in zip(with_check, without, strict=True):
        if isinstance(one, ValidationAnalysis):
            assert timeless(one) == timeless(other)


class ProductDtype(torchmetrics.Metric):
    """Fails where a product of representations comes out in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("largest", torch.zeros(()), dist_reduce_fx="max")

    def update(self, representations: torch.Tensor, mask: torch.Tensor) -> None:
        vectors = representations[mask].float()
        product = vectors @ vectors.T
        assert product.dtype == torch.float32
        self.largest = torch.maximum(self.largest, product.max())

    def compute(self) -> torch.Tensor:
        return self.largest


def test_mixed_precision_ends_at_the_hook(tmp_path: Path) -> None:
    callback = RepresentationMetrics({"largest": ProductDtype()}, SITE, draw_figures=False)
    fit(tmp_path, [callback], Tagger(), precision="bf16-mixed")
    assert len(callback.history) == 4


def test_a_double_model_is_read_as_the_same_one_in_float32() -> None:
    """Planted: the same weights in both precisions; whatever is read agrees to the rounding of float32."""
    torch.manual_seed(0)
    single = Tagger().eval()
    double = copy.deepcopy(single).double()
    for name in CALLBACKS:
        if name in ("TrainingPhases", "PhaseEarlyStopping", "ValidationSchedule"):
            continue
        values = []
        for model in (single, double):
            (callback,) = CALLBACKS[name](False)
            if isinstance(callback, NoiseRobustness):
                callback = NoiseRobustness({"emb": "embedding"}, score=losses, monitors={"loss": "loss"}, drift=SITE)
            values.append(analyze(model, loader(seed=1), callback))
        assert values[0].keys() == values[1].keys()
        assert values[0], name
        for key, value in values[0].items():
            # Random weights are drawn in the precision of the model, so that they are others.
            if "baseline" not in key:
                assert values[1][key] == pytest.approx(value, rel=2e-3, abs=2e-4), key


def losses(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    logits = model(batch["input_ids"])
    found = nn.functional.cross_entropy(logits.movedim(-1, 1), batch["tags"], reduction="none")
    return {"loss": found.mean(1)}


def test_every_callback_names_its_keys_for_a_model() -> None:
    for name in CALLBACKS:
        for callback in CALLBACKS[name](False):
            keys = callback.logged_keys(Tagger())
            assert all(isinstance(key, str) for key in keys)
            assert (
                bool(keys) == (name not in ("PhaseEarlyStopping", "ValidationSchedule"))
                or len(CALLBACKS[name](False)) > 1
            )


@dataclass
class Attributes:
    """A batch whose parts are attributes, one of them of another length."""

    weights: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    tags: torch.Tensor
    sentence: torch.Tensor


def as_attributes(items: list[dict[str, torch.Tensor]]) -> Attributes:
    return Attributes(weights=torch.ones(3), **torch.utils.data.default_collate(items))


class OfAttributes(Tagger):
    def _loss(self, batch: Attributes) -> tuple[torch.Tensor, torch.Tensor]:
        return super()._loss(vars(batch))

    def validation_step(self, batch: Attributes, batch_idx: int, dataloader_idx: int = 0) -> None:
        loss, hit = self._loss(batch)
        self.accuracy.update(hit)
        self.collected.append(loss.item())
        self.log("val_loss", loss, sync_dist=True, batch_size=len(batch.input_ids))
        self.log("val_acc", self.accuracy)


@pytest.mark.parametrize("name", ANALYSES)
def test_a_batch_with_attributes_is_read_as_the_same_one_with_keys(tmp_path: Path, name: str) -> None:
    found = []
    for model, collate in ((Tagger(), None), (OfAttributes(), as_attributes)):
        pl.seed_everything(0, verbose=False)
        callbacks = CALLBACKS[name](False)
        data = [loader(collate_fn=collate), loader(seed=1, collate_fn=collate)]
        trainer(tmp_path, callbacks, max_epochs=1).fit(model, *data)
        found.append(timeless(callbacks[0]))
    assert len(found[0]) == 1
    assert found[0] == found[1]


def test_no_class_keeps_what_belongs_to_a_run() -> None:
    for name in CALLBACKS:
        for kind in getattr(lightning_interp, name).__mro__:
            if kind.__module__.startswith("lightning_interp"):
                kept = [key for key, value in vars(kind).items() if isinstance(value, list | dict | set)]
                assert [key for key in kept if not key.startswith("__")] == [], kind


def test_gradient_checkpointing(tmp_path: Path) -> None:
    plain, watched, callbacks = Checkpointed(), Checkpointed(), everything()
    fit(tmp_path, [], plain)
    fit(tmp_path, callbacks, watched)
    assert all(torch.equal(*pair) for pair in zip(weights(plain), weights(watched), strict=True))
    for callback in callbacks:
        if isinstance(callback, ValidationAnalysis):
            assert len(callback.history) == 4
            assert callback.failed == 0


def test_fast_dev_run_and_barebones(tmp_path: Path) -> None:
    callbacks = everything()
    fit(tmp_path, callbacks, Tagger(), fast_dev_run=True)
    pl.seed_everything(2, verbose=False)
    run = pl.Trainer(barebones=True, max_epochs=2, accelerator="cpu", callbacks=everything())
    with pytest.warns(UserWarning, match="TrainingPhases does nothing"):
        run.fit(Quiet(), loader(), loader(seed=1))
    assert run.global_step == 10


class Quiet(Tagger):
    """Logs nothing, as under ``barebones`` nothing can be."""

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self._loss(batch)[0]


def test_several_loggers_and_none(tmp_path: Path) -> None:
    callbacks = everything()
    loggers = [TensorBoardLogger(tmp_path, name="tb"), CSVLogger(tmp_path, name="csv")]
    fit(tmp_path, callbacks, Tagger(), logger=loggers)
    header = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    for callback in callbacks:
        if isinstance(callback, ValidationAnalysis):
            assert set(callback.logged_keys(Tagger())) - {*callback.conditional_keys(Tagger()), NARROW} <= set(header)


def test_two_loaders_and_validate_and_test(tmp_path: Path) -> None:
    class Tested(Tagger):
        def test_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
            self.log("test_loss", self._loss(batch)[0])

    callbacks = everything()
    pl.seed_everything(2, verbose=False)
    run, model = trainer(tmp_path, callbacks), Tested()
    run.fit(model, loader(), [loader(seed=1), loader(16, seed=2)])
    read = {id(one): (len(one.history), dict(one.reading)) for one in callbacks if isinstance(one, ValidationAnalysis)}
    assert all(number == 2 for number, _ in read.values())
    run.test(model, loader(seed=3), verbose=False)
    run.validate(model, [loader(seed=1), loader(16, seed=2)], verbose=False)
    for callback in callbacks:
        if isinstance(callback, ValidationAnalysis):
            number, last = read[id(callback)]
            assert len(callback.history) == number
            for key, value in callback.reading.items():
                # Nothing was trained since, so the reading is the last one.
                assert "seconds" in key or value == pytest.approx(last[key], rel=1e-6), key


def test_two_fits_with_one_callback_object(tmp_path: Path) -> None:
    callbacks = everything()
    fit(tmp_path / "first", callbacks, Tagger(seed=1))
    fit(tmp_path / "second", callbacks, Tagger())
    fresh = everything()
    fit(tmp_path / "fresh", fresh, Tagger())
    for again, new in zip(callbacks, fresh, strict=True):
        if isinstance(again, ValidationAnalysis):
            assert timeless(again) == timeless(new)
        if isinstance(again, TrainingPhases):
            assert again.series("val_loss") == new.series("val_loss")


# ------------------------------------------------- failures after the sanity check


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    """Weights after a fit without any callback."""
    plain = Tagger()
    fit(tmp_path_factory.mktemp("plain"), [], plain)
    return weights(plain)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("before_batch", RuntimeError("planted")),
        ("after_batch", torch.OutOfMemoryError("planted")),
        ("finish", FloatingPointError("planted")),
    ],
)
@pytest.mark.parametrize("name", ANALYSES)
def test_a_failing_reading_is_dropped(
    tmp_path: Path, unwatched: list[torch.Tensor], name: str, where: str, error: Exception
) -> None:
    (callback,) = CALLBACKS[name](False)
    if where.endswith("_batch") and not callback.reads_batches:
        where = "begin"
    works, calls = getattr(callback, where), []

    def fails(*args: Any) -> Any:
        if len(calls) == 0 and len(callback.history) == 1:
            calls.append(args)
            raise error
        return works(*args)

    setattr(callback, where, fails)
    model = Tagger()
    with pytest.warns(UserWarning, match=f"{name} dropped a reading.*planted") as caught:
        run = fit(tmp_path, [callback], model)
    assert sum("dropped a reading" in str(one.message) for one in caught) == 1
    assert all(torch.equal(*pair) for pair in zip(unwatched, weights(model), strict=True))
    assert float(run.callback_metrics[callback.full_key(f"failed/{name}")]) == 1
    # The reading that is missing leaves a gap in the numbers.
    assert [reading.index for reading in callback.history.readings] == [0, 2, 3]


@pytest.mark.parametrize("name", ANALYSES)
def test_a_failing_figure_costs_a_warning(
    tmp_path: Path, unwatched: list[torch.Tensor], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (callback,) = CALLBACKS[name](False)

    def draws() -> dict[str, Any]:
        return {"planted/picture": lambda: 1 / 0}

    monkeypatch.setattr(callback, "figures", draws)
    callback.draw_figures, callback.figure_interval = True, 0.0
    model = Tagger()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, [callback], model, logger=TensorBoardLogger(tmp_path))
    assert sum("planted/picture" in str(one.message) for one in caught) == 1
    assert len(callback.history) == 4
    assert all(torch.equal(*pair) for pair in zip(unwatched, weights(model), strict=True))


def test_a_failing_list_of_figures_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (callback,) = CALLBACKS["RepresentationGeometry"](False)

    def figures() -> dict[str, Any]:
        raise KeyError("planted")

    monkeypatch.setattr(callback, "figures", figures)
    callback.draw_figures, callback.figure_interval = True, 0.0
    with pytest.warns(UserWarning, match="RepresentationGeometry draws no figures.*planted") as caught:
        fit(tmp_path, [callback], Tagger())
    assert sum("planted" in str(one.message) for one in caught) == 1
    assert len(callback.history) == 4


def test_a_log_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    callbacks = everything()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path / "file" / "below", callbacks, Tagger())
    assert sum("readings.csv" in str(one.message) for one in caught) == 1
    assert all(len(one.history) == 4 for one in callbacks if isinstance(one, ValidationAnalysis))


# ------------------------------------------------- bad states of model and data


class Fixed(Dataset):
    """Sequences that a test made by hand."""

    def __init__(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        self.ids, self.mask = ids, mask

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.ids[index]
        return {"input_ids": ids, "attention_mask": self.mask[index].long(), "tags": ids % 3}


class Steady(Tagger):
    """Its loss is defined whatever the batch holds."""

    def _loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        logits, mask = self(batch["input_ids"]), batch["attention_mask"].float()
        losses = nn.functional.cross_entropy(logits.float().transpose(1, 2), batch["tags"], reduction="none")
        hits = (logits.argmax(-1) == batch["tags"]).float()
        return (losses * mask).sum() / mask.sum().clamp(min=1), (hits * mask).sum()[None] / mask.sum().clamp(min=1)


class Constant(Steady):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(0 * self.embedding(input_ids)))


class Broken(Steady):
    """Some or all representations are not finite from the second epoch on."""

    share = 0.5

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        z = self.embedding(input_ids)
        if not self.training and self.current_epoch > 0:
            z = torch.where(torch.arange(len(z))[:, None, None] < self.share * len(z), torch.nan, z)
        return self.head(self.encoder(z)).nan_to_num()


class AllBroken(Broken):
    share = 1.0


class Outlier(Steady):
    """One dimension is a thousand times larger than the others."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.encoder[0].weight[3].mul_(1000)
            self.encoder[0].bias[3].fill_(1000.0)


def ids(number: int = 24, length: int = 5, high: int = 12) -> torch.Tensor:
    return torch.randint(1, high, (number, length), generator=torch.Generator().manual_seed(0))


def data(tokens: torch.Tensor, mask: torch.Tensor | None = None) -> DataLoader:
    return DataLoader(Fixed(tokens, torch.ones_like(tokens) if mask is None else mask), batch_size=8)


def padded_batch() -> DataLoader:
    mask = torch.ones(24, 5)
    mask[8:16] = 0
    return data(ids(), mask)


STATES: dict[str, tuple[Callable[[], pl.LightningModule], Callable[[], DataLoader]]] = {
    "half not finite": (Broken, lambda: data(ids())),
    "none finite": (AllBroken, lambda: data(ids())),
    "constant": (Constant, lambda: data(ids())),
    "planted outlier": (Outlier, lambda: data(ids())),
    "a batch of padding": (Steady, padded_batch),
    "nothing but padding": (Steady, lambda: data(ids(), torch.zeros(24, 5))),
    "length 1": (Steady, lambda: data(ids(length=1))),
    "one token": (Steady, lambda: data(ids(high=2))),
    "one sentence": (Steady, lambda: data(ids(number=1))),
    "width 1": (lambda: Steady(width=1), lambda: data(ids())),
    "width 2": (lambda: Steady(width=2), lambda: data(ids())),
}


REFUSED = {("RepresentationStructure", "width 1"): "`dim` must be at least 2: a sphere of fewer dimensions has no area"}
"""What is said where a state leaves nothing to read."""


@lru_cache
def in_state(state: str) -> list[torch.Tensor]:
    """Weights after a fit in that state without any callback."""
    make, source = STATES[state]
    plain = make()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        pl.seed_everything(2, verbose=False)
        trainer(folder, [], max_epochs=2).fit(plain, data(ids()), source())
    return weights(plain)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ANALYSES)
def test_bad_states_end_in_an_omission_or_a_clear_error(tmp_path: Path, name: str, state: str) -> None:
    make, source = STATES[state]
    model, (callback,) = make(), CALLBACKS[name](False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.seed_everything(2, verbose=False)
        refused = None
        try:
            trainer(tmp_path, [callback], max_epochs=2).fit(model, data(ids()), source())
        except ValueError as error:
            refused = str(error)
    if refused is not None:
        # Only in the sanity check, before a step was made, and in words.
        assert (name, state) in REFUSED, refused
        assert model.global_step == 0
        assert REFUSED[name, state] in refused
        return
    assert all(torch.equal(*pair) for pair in zip(in_state(state), weights(model), strict=True))
    assert len(callback.history) + callback.failed == 2
    for reading in callback.history.readings:
        assert all(math.isfinite(value) for value in reading.values.values())
    # What comes out of the broken models is finite again.
    reads_output = name in ("NoiseRobustness", "MinimalPairs", "ClozeFacts")
    if state in ("half not finite", "none finite") and not reads_output:
        left_out = {
            "RepresentationMetrics": "own/nonfinite/enc",
            "TaskSpace": "nonfinite/tasks",
            "ConfidenceCalibration": "nonfinite/head",
            "StructuralProbe": "nonfinite/enc/words",
            "CoordinateProbe": "nonfinite/enc/entities",
            "TruthProbe": "nonfinite/enc/statements",
            "AcquisitionByClass": "nonfinite/head",
        }
        assert callback.failed or callback.reading[left_out.get(name, "nonfinite/enc")]


def test_a_loader_that_raises_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    class Raises(Fixed):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            if index == 20:
                raise KeyError("planted in the data")
            return super().__getitem__(index)

    model, source = Steady(), DataLoader(Raises(ids(), torch.ones(24, 5)), batch_size=8)
    run = trainer(tmp_path, everything(), num_sanity_val_steps=0)
    with pytest.raises(KeyError, match="planted in the data"):
        run.fit(model, data(ids()), source)
    assert not any(module._forward_hooks for module in model.modules())
