"""What every exported callback must pass: training is untouched, settings of the Trainer, bad states, failures."""

from __future__ import annotations

import copy
import math
import random
import tempfile
import warnings
from collections.abc import Callable, Iterable
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
from lightning_interp import ValidationAnalysis, analyze
from tests.callbacks.recipes import ANALYSES, CALLBACKS, analysis, everything, offline, particular
from tests.toy import Tagger, loader, timeless, trainer

RARER = {
    *("share of val batches", "whole sanity check", "no inference mode", "detect_anomaly", "deterministic", "reload"),
    *("a batch of padding", "planted outlier", "one token", "width 2"),
}
"""What is like another case nearly always; run with the slow tests."""


def rarer_slow(cases: Iterable[str]) -> list[Any]:
    return [pytest.param(case, marks=pytest.mark.slow) if case in RARER else case for case in cases]


BY_NAME = pytest.mark.parametrize("name", CALLBACKS)
OF_ANALYSES = pytest.mark.parametrize("name", ANALYSES)


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
    every_step = particular(name).every_step
    if every_step is not None:
        # It moves validations, so what these log and a plateau does is another thing: held against itself alone.
        steps = {"val_check_interval": 1, "check_val_every_n_epoch": None, "accumulate_grad_batches": 1}
        plain = train(tmp_path / "plain", [], **steps)
        found = train(tmp_path / "watched", [every_step()], accumulate_grad_batches=1)
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


@pytest.mark.parametrize("setting", rarer_slow(SETTINGS))
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
            conditional = callback.conditional_keys(watched)
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


def test_a_double_model_is_read_as_the_same_one_in_float32() -> None:
    """Planted: the same weights in both precisions; whatever is read agrees to the rounding of float32."""
    torch.manual_seed(0)
    single = Tagger().eval()
    double = copy.deepcopy(single).double()
    for name in ANALYSES:
        values = [analyze(model, loader(seed=1), offline(name)) for model in (single, double)]
        assert values[0].keys() == values[1].keys()
        assert values[0], name
        for key, value in values[0].items():
            # Random weights are drawn in the precision of the model, so that they are others.
            if "baseline" not in key:
                assert values[1][key] == pytest.approx(value, rel=2e-3, abs=2e-4), key


@BY_NAME
def test_every_callback_names_its_keys_for_a_model(name: str) -> None:
    for callback in CALLBACKS[name](False):
        keys = callback.logged_keys(Tagger())
        assert all(isinstance(key, str) for key in keys)
        assert keys or not isinstance(callback, ValidationAnalysis)


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
    with pytest.warns(UserWarning, match="does nothing: Trainer.barebones=True"):
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
            assert set(callback.logged_keys(Tagger())) - set(callback.conditional_keys(Tagger())) <= set(header)


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
        else:
            assert again.state_dict() == new.state_dict()


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
    callback = analysis(ANALYSES[0])

    def figures() -> dict[str, Any]:
        raise KeyError("planted")

    monkeypatch.setattr(callback, "figures", figures)
    callback.draw_figures, callback.figure_interval = True, 0.0
    with pytest.warns(UserWarning, match=f"{ANALYSES[0]} draws no figures.*planted") as caught:
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


@pytest.mark.parametrize("state", rarer_slow(STATES))
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
        assert state in particular(name).refused, refused
        assert model.global_step == 0
        assert particular(name).refused[state] in refused
        return
    assert all(torch.equal(*pair) for pair in zip(in_state(state), weights(model), strict=True))
    assert len(callback.history) + callback.failed == 2
    for reading in callback.history.readings:
        assert all(math.isfinite(value) for value in reading.values.values())
    # What comes out of the broken models is finite again.
    omitted = particular(name).counts_omitted
    if state in ("half not finite", "none finite") and omitted is not None:
        assert callback.failed or callback.reading[omitted]


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
