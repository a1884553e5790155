"""Noise robustness: closed forms, the module's own monitors, and no trace in training."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_interp import NoiseRobustness, analyze
from lightning_interp.isolation.observed_epoch import ObservedEpoch
from lightning_interp.isolation.replay import StepReplay
from lightning_interp.reading.reading import Reading
from lightning_interp.sites import BatchNoise, CaptureError, LayoutResolver, SiteNoise
from tests.toy import Sequences, Tagger, loader, run_again, trainer


@pytest.fixture(autouse=True)
def same_training() -> None:
    """Dropout draws from the global stream, which the tests before leave anywhere."""
    pl.seed_everything(0, verbose=False)


def noisy(**kwargs: Any) -> NoiseRobustness:
    settings = {"sites": {"emb": "embedding"}, "monitors": {"val_loss": "loss", "val_acc": "score"}}
    return NoiseRobustness(**{**settings, "draw_figures": False, "log": "full", **kwargs})


def fit(folder: object, callbacks: list, model: pl.LightningModule | None = None, **kwargs: Any) -> pl.Trainer:
    run = trainer(folder, callbacks, **kwargs)
    run.fit(model or Tagger(), loader(), loader(seed=1))
    return run


# ------------------------------------------------- closed forms


class Linear(pl.LightningModule):
    """A linear-Gaussian model: under noise its loss and its accuracy are known."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.site = nn.Identity()
        self.weights = nn.Parameter(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.site(x) @ self.weights

    def training_step(self, batch: list, batch_idx: int) -> torch.Tensor:
        return 0.0 * self(batch[0]).sum()

    def validation_step(self, batch: list, batch_idx: int) -> None:
        predicted = self(batch[0])
        self.log("val_loss", (predicted - batch[1]).square().mean())
        self.log("val_acc", (predicted.sign() == batch[1].sign()).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("relative", ["norm", "dimension"])
def test_linear_gaussian_model_has_its_closed_form(tmp_path: Path, relative: str) -> None:
    generator = torch.Generator().manual_seed(0)
    number, dim = 4000, 6
    x = torch.randn(number, dim, generator=generator) * torch.linspace(0.3, 2, dim)
    weights = torch.linspace(-1, 1, dim)
    y = x @ weights + 0.3 * torch.randn(number, generator=generator)
    scales = (0.2, 0.5, 1.5)
    callback = noisy(
        sites={"site": "site"},
        scales=scales,
        relative=relative,
        max_examples=None,
        start={"val_loss": float(y.square().mean()), "val_acc": 0.5},
    )
    # The standard deviation of a dimension is that of the batch, and of a single batch no robustness can be told.
    several = relative == "norm"
    data = DataLoader(TensorDataset(x, y), batch_size=number // 4 if several else number)
    run = trainer(tmp_path, [callback], max_epochs=1, limit_train_batches=1)
    run.fit(Linear(weights), DataLoader(TensorDataset(x, y), batch_size=8), data)

    predicted = x @ weights
    if relative == "norm":
        spread = x.square().mean(1).sqrt() * weights.norm()
    else:
        spread = (x.std(0, correction=0) * weights).norm().expand(number)
    error = (predicted - y).square()
    hits = (predicted.sign() == y.sign()).double()
    normal = torch.distributions.Normal(0.0, 1.0)
    losses, accuracies = [float(error.mean())], [float(hits.mean())]
    for scale in scales:
        losses.append(float((error + (scale * spread).square()).mean()))
        accuracies.append(float(normal.cdf((predicted * y.sign()).double() / (scale * spread)).mean()))
        # Variances over the noise, given the data.
        loss_error = (4 * error * (scale * spread).square() + 2 * (scale * spread) ** 4).sum().sqrt() / number
        assert abs(callback.reading[f"noisy/site/val_loss/{scale:g}"] - losses[-1]) < 4 * loss_error
        share = normal.cdf((predicted * y.sign()).double() / (scale * spread))
        hit_error = (share * (1 - share)).sum().sqrt() / number
        assert abs(callback.reading[f"noisy/site/val_acc/{scale:g}"] - accuracies[-1]) < 4 * hit_error
    at = [0.0, *scales]
    starts = {"val_loss": float(y.square().mean()), "val_acc": 0.5}
    for name, curve, tolerance in (("val_loss", losses, 0.02), ("val_acc", accuracies, 0.01)):
        area = np.trapezoid(curve, at) / scales[-1]
        assert callback.reading[f"under_noise/site/{name}"] == pytest.approx(area, rel=tolerance)
        share = (area - starts[name]) / (curve[0] - starts[name])
        assert (f"robustness/site/{name}" in callback.reading) is several
        if several:
            assert callback.reading[f"robustness/site/{name}"] == pytest.approx(share, abs=2 * tolerance)
    assert callback.reading["clean/val_loss"] == pytest.approx(losses[0], rel=1e-5)


def test_noise_of_scale_zero_changes_nothing_at_all(tmp_path: Path) -> None:
    callback = noisy(scales=(0.0, 1.0), drift={"enc": "encoder"})
    fit(tmp_path, [callback])
    for monitor in callback.monitors:
        assert callback.reading[f"noisy/emb/{monitor}/0"] == callback.reading[f"clean/{monitor}"]
        assert callback.reading[f"noisy/emb/{monitor}/1"] != callback.reading[f"clean/{monitor}"]
    assert callback.reading["drift/emb/enc/0"] == 0


class Learner(Tagger):
    """Tags that a position's own token tells, so that something is learned within seconds."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"lr": 0.05, **kwargs})

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        return {**batch, "tags": batch["input_ids"] % 3}


def test_what_is_learned_is_lost_under_growing_noise(tmp_path: Path) -> None:
    callback = noisy(drift={"enc": "encoder", "emb": "embedding"}, sites={"emb": "embedding", "enc": "encoder"})
    fit(tmp_path, [callback], Learner(), max_epochs=8)
    reading = callback.reading
    assert reading["clean/val_acc"] > 0.95
    for site in ("emb", "enc"):
        kept = [1.0, *(reading[f"retention/{site}/val_loss/{scale:g}"] for scale in callback.scales)]
        assert all(left > right for left, right in itertools.pairwise(kept))
        accuracy = [reading["clean/val_acc"], *(reading[f"noisy/{site}/val_acc/{s:g}"] for s in callback.scales)]
        assert all(left >= right for left, right in itertools.pairwise(accuracy))
        assert 0 < reading[f"robustness/{site}/val_acc"] < 1
    drift = [reading[f"drift/emb/enc/{scale:g}"] for scale in callback.scales]
    assert all(left < right for left, right in itertools.pairwise(drift))
    # The area under the straight lines between no noise and the scales, over the largest of them.
    at, of = [0.0, *callback.scales], [0.0, *drift]
    area = sum((at[n + 1] - at[n]) * (of[n + 1] + of[n]) / 2 for n in range(len(drift))) / at[-1]
    assert reading["drift/emb/enc/mean"] == pytest.approx(area, rel=1e-12)
    # Noise of σ times the root-mean-square turns a vector by about atan(σ).
    for scale in callback.scales:
        assert reading[f"drift/emb/emb/{scale:g}"] == pytest.approx(1 - 1 / math.sqrt(1 + scale**2), rel=0.2)
    # What comes before the noise does not change.
    assert reading["drift/enc/emb/1"] == 0


def test_the_value_before_training_is_that_of_the_initial_weights(tmp_path: Path) -> None:
    callback, model = noisy(max_examples=None), Learner()
    initial = Learner()
    fit(tmp_path, [callback], model, max_epochs=3)
    bare = trainer(tmp_path, [])
    expected = bare.validate(initial, loader(seed=1), verbose=False)[0]
    for monitor in callback.monitors:
        assert callback.start_values.values[monitor][0] == pytest.approx(expected[monitor], rel=1e-6)
    clean, start = callback.reading["clean/val_loss"], callback.start_values.values["val_loss"][0]
    for scale in callback.scales:
        value = callback.reading[f"noisy/emb/val_loss/{scale:g}"]
        assert callback.reading[f"retention/emb/val_loss/{scale:g}"] == pytest.approx((value - start) / (clean - start))


def test_a_model_that_has_not_learned_has_no_robustness(tmp_path: Path) -> None:
    callback = noisy()
    run = fit(tmp_path, [callback], Learner(lr=0.0), max_epochs=3)
    for reading in callback.history.readings:
        assert not any(key.split("/")[0] in ("robustness", "retention", "half_scale") for key in reading.values)
        assert "under_noise/emb/val_acc" in reading.values
    assert "robustness/emb/val_acc" not in run.callback_metrics
    assert not callback._warned_of_undefined
    # A score that is better than chance, but not beyond its own noise: groups of batches differ by more.
    near = noisy(start={"val_acc": callback.reading["clean/val_acc"] - 0.01})
    fit(tmp_path, [near], Learner(lr=0.0), max_epochs=1)
    assert near.start_values.gaps["val_acc"] == pytest.approx(0.01)
    assert near.start_values.widths["val_acc"] > 0.02
    assert not any(key.startswith("robustness/") for key in near.reading)
    # Better than its noise: at three readings in a row. Better than four times its noise: at once.
    for times, missing in ((2, 2), (5, 0)):
        far = noisy(start={"val_acc": callback.reading["clean/val_acc"] - times * near.start_values.widths["val_acc"]})
        fit(tmp_path, [far], Learner(lr=0.0), max_epochs=4)
        there = ["robustness/emb/val_acc" in reading.values for reading in far.history.readings]
        assert there == [False] * missing + [True] * (4 - missing)
    # Beyond its noise, but by less than a twentieth of what there is to learn.
    small = noisy(start={"val_acc": callback.reading["clean/val_acc"] - 1e-3})
    small.start_values.widths["val_acc"] = 1e-6
    clean, alone = callback.reading["clean/val_acc"], Reading(nn.Identity())
    assert small.start_values.of("val_acc", clean, [], alone) is None
    assert small.start_values.of("val_acc", clean + 0.06, [], alone) is not None
    # Where learning has made it worse, nothing survives either.
    worse = noisy(start={"val_loss": 0.0})
    fit(tmp_path, [worse], Learner(), max_epochs=1)
    assert "robustness/emb/val_loss" not in worse.reading


# ------------------------------------------------- the module's own monitors


class Meter:
    def __init__(self) -> None:
        self.sum, self.number = 0.0, 0

    def add(self, value: float) -> None:
        self.sum, self.number = self.sum + value, self.number + 1


class Hard(Tagger):
    """Logs in every way that there is, keeps what it can, and draws random numbers while it validates."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.norm = nn.BatchNorm1d(8)
        self.collection = torchmetrics.MetricCollection(
            [MulticlassAccuracy(3, average="micro"), MulticlassF1Score(3)], prefix="own/"
        )
        self.plain = {"loose": torchmetrics.MeanMetric()}
        self.two = nn.ModuleList(torchmetrics.MeanMetric() for _ in range(2))
        self.register_buffer("seen", torch.zeros(()))
        self.meter = Meter()
        self.by_loader: dict[int, list] = {0: [], 1: []}
        self.steps = 0
        self.epochs: list[int] = []

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        z = self.encoder(self.embedding(ids))
        return self.head(self.norm(z.flatten(0, 1)).view_as(z))

    def validation_step(self, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> dict:
        tags = batch.pop("tags")
        mask = batch["attention_mask"].bool()
        logits = self(batch["input_ids"])
        hit = (logits.argmax(-1) == tags)[mask].float()
        loss = nn.functional.cross_entropy(logits[mask], tags[mask])
        batch["input_ids"].zero_()
        noise = 0.01 * (torch.rand(()) + random.random() + np.random.rand())
        self.seen += 1
        self.steps += 1
        self.meter.add(loss.item())
        self.by_loader[dataloader_idx].append(hit)
        self.accuracy.update(hit)
        self.two[dataloader_idx].update(hit)
        self.log("val_loss", loss, batch_size=int(mask.sum()))
        self.log("val_noise", noise)
        self.log("val_max", loss, reduce_fx="max")
        self.log("val_sum", hit.sum(), reduce_fx=torch.sum)
        self.log("val_two", self.two[dataloader_idx])
        self.log("val_step_only", loss, on_step=True, on_epoch=False)
        if dataloader_idx == 0:
            self.plain["loose"].update(hit)
            self.collection.update(logits[mask], tags[mask])
            self.log_dict(self.collection)
            self.log("val_acc", self.accuracy, add_dataloader_idx=False)
        return {"loss": loss}

    def on_validation_batch_end(self, outputs: dict, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.epochs.append(float(outputs["loss"]))

    def on_validation_epoch_end(self) -> None:
        for index, hits in self.by_loader.items():
            if hits:
                self.log(f"val_hits_{index}", torch.cat(hits).mean())
            hits.clear()
        self.log("val_meter", self.meter.sum / self.meter.number)
        self.log("val_loose", self.plain["loose"].compute())
        self.plain["loose"].reset()
        self.logger.log_metrics({"from_the_hook": float(self.steps)}, self.global_step)


HARD = {
    "val_loss": "loss",
    "val_noise": "loss",
    "val_max": "loss",
    "val_sum": "score",
    "val_two": "score",
    "val_acc": "score",
    "own/MulticlassAccuracy": "score",
    "own/MulticlassF1Score": "score",
    "val_hits_0": "score",
    "val_loose": "score",
}


def train_hard(folder: Path, callbacks: list) -> tuple[list, Hard, pl.Trainer]:
    pl.seed_everything(3)
    model = Hard()
    run = trainer(folder, callbacks, max_epochs=3, logger=CSVLogger(folder, version="v"), log_every_n_steps=1)
    run.fit(model, loader(), [loader(seed=1), loader(24, seed=2)])
    state = [torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]
    return state, model, run


def test_a_module_that_does_everything_trains_as_without_the_callback(tmp_path: Path) -> None:
    random_state, plain, run = train_hard(tmp_path / "plain", [])
    callback = noisy(monitors=HARD, drift={"enc": "encoder"}, max_examples=None)
    same_state, watched, other = train_hard(tmp_path / "watched", [callback])

    assert same_state == random_state
    for (name, one), two in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    ours = set(callback.logged_keys(watched))
    logged = {key: float(value) for key, value in other.callback_metrics.items() if key not in ours}
    assert logged == {key: float(value) for key, value in run.callback_metrics.items()}
    files = [(tmp_path / name / "lightning_logs" / "v" / "metrics.csv").read_text() for name in ("plain", "watched")]
    columns = [_columns(text) for text in files]
    for name, column in columns[0].items():
        assert columns[1][name] == column, name
    for name in ("steps", "epochs", "by_loader"):
        assert getattr(plain, name) == getattr(watched, name), name
    assert vars(plain.meter) == vars(watched.meter)
    states = [
        {name: value for name, value in one.items() if "Noise" not in name}
        for one in (run.optimizers[0].state_dict(), other.optimizers[0].state_dict())
    ]
    for one, two in zip(*(state["state"].values() for state in states), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


def _columns(text: str) -> dict[str, list[str]]:
    lines = [line.split(",") for line in text.splitlines()]
    columns = {name: [line[place] for line in lines[1:]] for place, name in enumerate(lines[0])}
    return {name: [value for value in column if value] for name, column in columns.items()}


def test_every_kind_of_monitor_is_what_the_module_logs(tmp_path: Path) -> None:
    callback = noisy(monitors=HARD, max_examples=None)
    _, _, run = train_hard(tmp_path, [callback])
    for monitor in set(HARD) - {"val_noise"}:
        key = monitor if monitor in run.callback_metrics else f"{monitor}/dataloader_idx_0"
        expected = float(run.callback_metrics[key])
        assert callback.reading[f"clean/{monitor}"] == pytest.approx(expected, rel=1e-6), monitor
        assert f"under_noise/emb/{monitor}" in run.callback_metrics
    # What the step draws itself is the same in every life and at every reading, so that noise alone makes a difference.
    readings = callback.history.readings
    assert len({reading.values["clean/val_noise"] for reading in readings}) == 1
    assert readings[0].values["noisy/emb/val_noise/1"] == readings[0].values["clean/val_noise"]


def test_another_loader_has_its_own_keys(tmp_path: Path) -> None:
    first = noisy(monitors={"val_loss": "loss"}, max_examples=None)
    second = noisy(monitors={"val_loss": "loss", "val_two": "score"}, dataloader_idx=1, max_examples=None)
    _, _, run = train_hard(tmp_path, [first, second])
    for callback, index in ((first, 0), (second, 1)):
        suffix = f"/dataloader_idx_{index}" if index else ""
        assert callback.reading[f"clean/val_loss{suffix}"] == pytest.approx(
            float(run.callback_metrics[f"val_loss/dataloader_idx_{index}"]), rel=1e-6
        )
    assert "under_noise/emb/val_two/dataloader_idx_1" in run.callback_metrics


@pytest.mark.parametrize(
    ("monitors", "text"),
    [
        ({"val_f1": "score"}, r"names \['val_f1'\].*Tagger logs neither.*'val_acc', 'val_loss', 'val_loss_collected'"),
        ({"val_acc": "score", "lr": "loss"}, r"names \['lr'\]"),
    ],
)
def test_what_is_not_logged_is_told_in_the_sanity_check(tmp_path: Path, monitors: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fit(tmp_path, [noisy(monitors=monitors)])


def test_what_is_logged_for_the_step_alone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"for the step alone, with on_epoch=False: \['val_step_only'\]"):
        train_hard(tmp_path, [noisy(monitors={"val_step_only": "loss"})])


def test_a_step_that_takes_the_iterator_cannot_be_replayed(tmp_path: Path) -> None:
    class Pulls(Tagger):
        def validation_step(self, dataloader_iter: Any) -> None:  # type: ignore[override]
            batch, _, _ = next(dataloader_iter)
            self.log("val_loss", self._loss(batch)[0], batch_size=8)

        def on_validation_epoch_end(self) -> None:
            pass

    with pytest.raises(Exception, match="dataloader_iter"):
        fit(tmp_path, [noisy(monitors={"val_loss": "loss"})], Pulls())


# ------------------------------------------------- score, limits, analyze


def score(model: nn.Module, batch: dict) -> dict:
    logits, mask = model(batch["input_ids"]), batch["attention_mask"].bool()
    loss = nn.functional.cross_entropy(logits.transpose(1, 2), batch["tags"], reduction="none")
    right = ((logits.argmax(-1) == batch["tags"]) | ~mask).all(1)
    return {"loss": ((loss * mask).sum(1), mask.sum(1)), "exact": right.float(), "more": right}


def test_a_score_is_read_example_by_example(tmp_path: Path) -> None:
    model = Learner()
    callback = noisy(monitors={"loss": "loss", "exact": "score"}, score=score, max_examples=13)
    run = trainer(tmp_path, [callback], max_epochs=4)
    run.fit(model, loader(), DataLoader(Sequences(40, seed=1), batch_size=5))
    data = Sequences(40, seed=1)
    model.eval()
    batch = {"input_ids": data.ids[:13], "attention_mask": data.mask[:13], "tags": data.ids[:13] % 3}
    with torch.no_grad():
        sums, counts = score(model, batch)["loss"]
    assert callback.reading["clean/loss"] == pytest.approx(float(sums.sum() / counts.sum()), rel=1e-5)


def test_a_score_leaves_no_trace(tmp_path: Path) -> None:
    def busy(model: Tagger, batch: dict) -> dict:
        model.collected.append(1.0)
        model.accuracy.update(torch.tensor(1.0))
        model.log("val_extra", 1.0)
        return score(model, batch)

    found = []
    for callbacks in ([], [noisy(monitors={"loss": "loss"}, score=busy)]):
        pl.seed_everything(0)
        run = fit(tmp_path, callbacks, Learner(), max_epochs=2)
        found.append({k: float(v) for k, v in run.callback_metrics.items() if "/" not in k})
    assert found[0] == found[1]


def test_a_score_that_lacks_a_monitor_or_has_another_shape(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names \['f1'\], which `score` does not return: .*'exact', 'loss'"):
        fit(tmp_path, [noisy(monitors={"f1": "score"}, score=score)])
    with pytest.raises(ValueError, match=r"\(2,\) sums .* expected \(8,\)"):
        fit(tmp_path, [noisy(monitors={"x": "score"}, score=lambda model, batch: {"x": torch.zeros(2)})])


def test_analyze(tmp_path: Path) -> None:
    model = Learner()
    callback = noisy(monitors={"loss": "loss"}, score=score, drift={"enc": "encoder"}, start={"loss": math.log(3)})
    live = noisy(monitors={"loss": "loss"}, score=score, drift={"enc": "encoder"}, start={"loss": math.log(3)})
    fit(tmp_path, [live], model, max_epochs=3)
    data = [{**batch, "tags": batch["input_ids"] % 3} for batch in loader(seed=1)]
    found = analyze(model, data, callback)
    for key in ("clean/loss", "under_noise/emb/loss", "robustness/emb/loss", "drift/emb/enc/1"):
        assert found[key] == pytest.approx(live.reading[key], rel=1e-5), key
    assert not len(callback.history)
    with pytest.raises(ValueError, match="give it `score=`"):
        analyze(model, data, noisy())
    drift = analyze(model, data, noisy(monitors=None, drift={"enc": "encoder"}))
    assert drift["drift/emb/enc/1"] == pytest.approx(found["drift/emb/enc/1"])


def test_trainer_validate_reads_without_history(tmp_path: Path) -> None:
    callback = noisy(start={"val_acc": 0.0})
    found = trainer(tmp_path, [callback]).validate(Learner(), loader(seed=1), verbose=False)[0]
    assert "under_noise/emb/val_loss" in found
    assert not len(callback.history)
    assert "robustness/emb/val_acc" in found
    assert "robustness/emb/val_loss" not in callback.logged_keys()


def test_only_whole_batches_up_to_the_limit_are_read(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Counting(Tagger):
        def validation_step(self, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> None:
            if run_again(self):
                sizes.append(batch_idx)
            super().validation_step(batch, batch_idx)

    callback = noisy(max_examples=17, scales=(0.5,), start=None)
    fit(tmp_path, [callback], Counting(), max_epochs=1, num_sanity_val_steps=0)
    # Without noise they are known from the validation run itself.
    assert sizes == [0, 1, 2]


class Sampling(Tagger):
    """Draws at random in its step, from one stream or another."""

    stream = "torch"

    def validation_step(self, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        draw = {"torch": lambda: torch.rand(()), "numpy": np.random.rand, "python": random.random}[self.stream]
        self.log("drawn", float(draw()))


class Hooked(Tagger):
    """Logs in a hook around its step."""

    def on_validation_batch_end(self, *args: object) -> None:
        self.log("hooked", float(self.collected[-1]))


OVERHEARD = {
    "metric, plain, collected": (Tagger, ("val_acc", "val_loss", "val_loss_collected"), {}, True),
    "the first batches": (Tagger, ("val_acc", "val_loss", "val_loss_collected"), {"max_examples": 17}, True),
    "with drift": (Tagger, ("val_acc",), {"drift": {"enc": "encoder"}, "tokens": "input_ids"}, False),
    "hooks": (Hooked, ("hooked", "val_acc"), {}, False),
    **{f"draws from {stream}": (Sampling, ("drawn", "val_loss"), {}, False) for stream in ("torch", "numpy", "python")},
}


@pytest.mark.parametrize("case", OVERHEARD)
def test_what_is_overheard_is_what_a_run_without_noise_gives(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, monitors, kwargs, saved = OVERHEARD[case]
    passes: list[int] = []
    run = StepReplay.run
    monkeypatch.setattr(StepReplay, "run", lambda *args: (passes.append(1), run(*args))[1])
    monkeypatch.setattr(Sampling, "stream", case.split()[-1])

    def read(again: bool) -> tuple[dict[str, float], int]:
        passes.clear()
        pl.seed_everything(0, verbose=False)
        callback = noisy(monitors=dict.fromkeys(monitors, "loss"), scales=(0.5,), start=None, **kwargs)
        model = make()
        if again:
            monkeypatch.setattr(ObservedEpoch, "stop", stop_and_forget)
        fit(tmp_path, [callback], model, max_epochs=2, num_sanity_val_steps=0)
        return {key: value for key, value in callback.reading.items() if "seconds" not in key}, len(passes)

    stop = ObservedEpoch.stop

    def stop_and_forget(self: ObservedEpoch) -> None:
        stop(self)
        self.exact = False

    heard, short = read(again=False)
    ran, long = read(again=True)
    assert heard == ran
    assert (2 * short == long) if saved else (short == long)


# ------------------------------------------------- places and kinds of noise


@dataclass(frozen=True)
class Result:
    x: torch.Tensor
    ids: torch.Tensor


class Odd(nn.Module):
    """Outputs of several forms and layouts."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        named = pytest.importorskip("transformers").modeling_outputs.BaseModelOutput
        return {
            "dataclass": lambda: Result(x, torch.arange(3)),
            "nested": lambda: (torch.arange(3), {"deep": [x]}),
            "tensor": lambda: x,
            "tuple": lambda: (None, x, x + 1),
            "list": lambda: [x],
            "dict": lambda: {"mask": torch.ones(2, dtype=torch.long), "last_hidden_state": x},
            "model output": lambda: named(last_hidden_state=x, hidden_states=(x,)),
        }[self.form]()


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "dict", "model output", "dataclass", "nested"])
def test_outputs_of_every_form(form: str) -> None:
    site = Odd(form)
    noise = SiteNoise(site, {"model": ""}, output=1 if form == "tuple" else None)
    noise.attach()
    x = torch.ones(3, 5, 4)
    with noise.adding("model", 0.5, BatchNoise(torch.arange(3))):
        changed = site(x)
    plain = site(x)
    assert type(changed) is type(plain)
    found = {
        "tensor": lambda out: out,
        "tuple": lambda out: out[1],
        "list": lambda out: out[0],
        "dataclass": lambda out: out.x,
        "nested": lambda out: out[1]["deep"][0],
        "dict": lambda out: out["last_hidden_state"],
        "model output": lambda out: out.last_hidden_state,
    }[form]
    assert not torch.equal(found(changed), x)
    assert torch.equal(found(plain), x)
    assert torch.equal(x, torch.ones(3, 5, 4))


class Pyramid(pl.LightningModule):
    """An encoder that hands on its input beside its features, as those for segmentation do; a head that reads these."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Passing()
        self.head = nn.Linear(4, 2)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def loss(self, batch: Any) -> torch.Tensor:
        _, features = self.encoder(batch[0])
        logits = self.head(features)
        self.hits = (logits.argmax(-1) == batch[1]).float().mean()
        return nn.functional.cross_entropy(logits, batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return 0 * self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=len(batch[0]))
        self.log("val_acc", self.hits, batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


class Passing(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x + 0, 10 * x]


def pyramid_reading(tmp_path: Path, **kwargs: Any) -> tuple[NoiseRobustness, list[str]]:
    y = torch.arange(40) % 2
    x = nn.functional.one_hot(y, 4).float()
    data = DataLoader(TensorDataset(x, y), 8)
    start = {name: {"val_acc": 0.5, "val_loss": 0.7}[name] for name in kwargs["monitors"]}
    callback = NoiseRobustness(**{"sites": "encoder", "start": start, "draw_figures": False, "log": "full", **kwargs})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, [callback], max_epochs=1).fit(Pyramid(), data, data)
    return callback, [str(one.message) for one in caught if "NoiseRobustness" in str(one.message)]


def test_noise_on_what_has_no_part_in_the_monitors_is_told_and_not_scored(tmp_path: Path) -> None:
    both = {"val_loss": "loss", "val_acc": "score"}
    for monitors in (both, {"val_acc": "score"}):
        callback, told = pyramid_reading(tmp_path, monitors=monitors, output=0)
        assert any("however large, changes none of" in one and "`output=`" in one for one in told), told
        assert not any(key.startswith(("robustness", "retention", "half_scale")) for key in callback.reading)
        assert callback.reading["under_noise/encoder/val_acc"] == callback.reading["clean/val_acc"]
    callback, told = pyramid_reading(tmp_path, monitors=both, output=1)
    assert callback.reading["robustness/encoder/val_loss"] < 1
    assert not any("however large" in one for one in told)


def test_a_model_that_stands_every_scale_is_wholly_robust(tmp_path: Path) -> None:
    callback, told = pyramid_reading(tmp_path, monitors={"val_acc": "score"}, output=1, scales=(0.001, 0.01))
    assert callback.reading["robustness/encoder/val_acc"] == pytest.approx(1.0, abs=1e-12)
    assert not any("however large" in one for one in told), told


def test_noise_on_one_of_several_tensors_needs_to_be_told_which() -> None:
    site = Odd("tuple")
    x = torch.ones(3, 5, 4)
    noise = SiteNoise(site, {"model": ""})
    noise.attach()
    several = r"2 tensors that could be what is read, output\[1\]: .*, output\[2\]: .*say which with `output=`"
    with pytest.raises(ValueError, match=several), noise.adding("model", 0.5, BatchNoise(torch.arange(3))):
        site(x)
    noise.detach()
    noise = SiteNoise(site, {"model": ""}, output=lambda out: out[1] * 1)
    noise.attach()
    with pytest.raises(CaptureError, match="not in what site 'model' returned"):  # noqa: SIM117
        with noise.adding("model", 0.5, BatchNoise(torch.arange(3))):
            site(x)


@pytest.mark.parametrize("sorted_by_length", [True, False])
def test_noise_on_a_packed_sequence_is_that_of_its_rows(sorted_by_length: bool) -> None:
    lengths = torch.tensor([5, 3, 2] if sorted_by_length else [2, 5, 3])
    x = torch.randn(3, 5, 4)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=sorted_by_length)
    noise = BatchNoise(torch.arange(3), seed=1)
    found = noise.gaussian("s", 0, packed, 0.5, "norm")
    assert isinstance(found, PackedSequence)
    rows, _ = pad_packed_sequence(found, batch_first=True)
    real = torch.arange(5) < lengths[:, None]
    expected = BatchNoise(torch.arange(3), LayoutResolver("BTD"), seed=1).gaussian("s", 0, x, 0.5, "norm")
    assert torch.allclose(rows[real], expected[real])
    assert bool((rows[~real] == 0).all())


def added(x: torch.Tensor, size: int, relative: str = "norm", layout: Any = None, read: Any = None) -> torch.Tensor:
    noise = BatchNoise(torch.arange(size), LayoutResolver(layout), read)
    return noise.gaussian("s", 0, x, 0.5, relative) - x


def test_noise_is_the_same_in_every_layout() -> None:
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = added(x, 4)
    assert torch.allclose(added(x.transpose(0, 1), 4).transpose(0, 1), expected)
    image = x.transpose(1, 2).reshape(4, 8, 2, 3)
    assert torch.allclose(added(image, 4, layout="BCHW").flatten(2).transpose(1, 2), expected)
    assert torch.allclose(added(image.movedim(1, -1), 4, layout="BHWC").flatten(1, 2), expected)
    assert torch.allclose(added(x.transpose(1, 2), 4, layout="BCT").transpose(1, 2), expected)
    assert torch.allclose(added(x[:, 0], 4), expected[:, 0])
    ratio = expected.square().mean(-1) / x.square().mean(-1)
    assert float(ratio.mean()) == pytest.approx(0.25, rel=0.2)


def test_noise_does_not_depend_on_the_batch() -> None:
    x = torch.randn(6, 7, 16, generator=torch.Generator().manual_seed(0))
    whole = BatchNoise(torch.arange(6)).gaussian("s", 0, x, 0.5, "norm")
    part = BatchNoise(torch.tensor([4, 2])).gaussian("s", 0, x[[4, 2], :5], 0.5, "norm")
    assert torch.equal(part, whole[[4, 2], :5])
    again = BatchNoise(torch.arange(6))
    half, full = (again.gaussian("s", 0, x, scale, "norm") - x for scale in (0.5, 1.0))
    assert torch.allclose(2 * half, full, atol=1e-5)
    for other in (
        BatchNoise(torch.arange(6)).gaussian("other", 0, x, 0.5, "norm"),
        BatchNoise(torch.arange(6)).gaussian("s", 1, x, 0.5, "norm"),
        BatchNoise(torch.arange(6), seed=1).gaussian("s", 0, x, 0.5, "norm"),
    ):
        assert not torch.allclose(other, whole)


def test_noise_by_dimension_leaves_outlier_dimensions_their_own_size() -> None:
    x = torch.randn(50, 20, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 1.0, 100.0])
    by_dimension, by_norm = (added(x, 50, relative).flatten(0, 1).std(0) for relative in ("dimension", "norm"))
    assert by_dimension.tolist() == pytest.approx([0.5, 0.5, 0.5, 50.0], rel=0.1)
    assert by_norm[0] > 10
    read = torch.zeros(50, 20, dtype=torch.bool)
    read[:, 3:] = True
    some = added(x, 50, "dimension", read=read)
    assert (some[:, :3] == 0).all()
    assert (some[:, 3:] != 0).all()


def test_skipped_positions_and_ignored_tokens_get_no_noise(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    class Watching(Tagger):
        def __init__(self) -> None:
            super().__init__()
            self.embedding.register_forward_hook(lambda module, args, output: None)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            z = self.embedding(ids)
            if not self.training:
                seen.append((z - self.embedding.weight[ids]).abs().sum(-1) > 0)
            return self.head(self.encoder(z))

    callback = noisy(scales=(0.5,), skip_positions=1, ignore_tokens=[3], start=None, max_examples=8)
    fit(tmp_path, [callback], Watching(), max_epochs=1, num_sanity_val_steps=0)
    data = Sequences(40, seed=1)
    clean, *_, changed = seen
    word = data.mask[:8] & (data.ids[:8] != 3)
    assert not clean.any()
    assert torch.equal(changed, word & (word.cumsum(1) > 1))


def test_tokens_are_replaced_at_a_rate() -> None:
    embedding = nn.Embedding(50, 4, padding_idx=0)
    noise = SiteNoise(embedding, {"model": ""}, kind="tokens", ignore_tokens=[1, 2])
    noise.attach()
    seen: list[torch.Tensor] = []
    embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    ids = torch.randint(0, 50, (200, 30), generator=torch.Generator().manual_seed(0))
    for rate in (0.2, 0.6, 1.0):
        with noise.adding("model", rate, BatchNoise(torch.arange(200))):
            embedding(ids)
    low, middle, all_of_them = seen
    special = ids < 3
    for replaced, rate in ((low, 0.2), (middle, 0.6), (all_of_them, 1.0)):
        changed = replaced != ids
        assert not changed[special].any()
        assert (replaced[~special] >= 3).all()
        # One in 47 draws gives the same token again.
        assert float(changed[~special].float().mean()) == pytest.approx(rate * 46 / 47, abs=0.03)
    kept = low != ids
    assert torch.equal(middle[kept], low[kept])
    counts = torch.bincount(all_of_them[~special], minlength=50)[3:].double()
    assert float(((counts - counts.mean()) ** 2 / counts.mean()).sum()) < 80  # chi-square, 46 degrees of freedom


def test_token_noise_in_a_run(tmp_path: Path) -> None:
    callback = noisy(kind="tokens", scales=(0.1, 0.5, 1.0), padding_idx=0, drift={"enc": "encoder"})
    fit(tmp_path, [callback], Learner(), max_epochs=8)
    kept = [callback.reading[f"retention/emb/val_acc/{scale:g}"] for scale in callback.scales]
    assert kept[0] > kept[1] > kept[2]
    assert abs(kept[2]) < 0.3
    with pytest.raises(ValueError, match="'enc' is a Sequential, which does not tell its number of tokens"):
        fit(tmp_path, [noisy(kind="tokens", scales=(0.5,), sites={"enc": "encoder"})])


def test_a_site_that_does_not_run_is_told(tmp_path: Path) -> None:
    class Unused(Tagger):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(2, 2)

    with pytest.raises(RuntimeError, match=r"site 'unused' .* never ran"):
        fit(tmp_path, [noisy(sites="unused")], Unused())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_model(tmp_path: Path, backend: str) -> None:
    plain, compiled = noisy(), noisy()
    pl.seed_everything(0)
    fit(tmp_path, [plain], Learner(), max_epochs=3)
    twin = Learner()
    twin.embedding.compile(backend=backend)
    twin.encoder.compile(backend=backend)
    pl.seed_everything(0)
    fit(tmp_path, [compiled], twin, max_epochs=3)
    for key, value in plain.reading.items():
        if not key.startswith("seconds/"):
            assert compiled.reading[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


class Body(nn.Module):
    def __init__(self, embedding: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.embedding, self.encoder = embedding, encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.embedding(input_ids))


class Chain(Learner):
    """The learner with its layers in one module, which is compiled in one of the ways there are."""

    def __init__(self, way: str, **kwargs: Any) -> None:
        super().__init__()
        self.body: nn.Module = Body(self.embedding, self.encoder)
        if way == "wrapped":
            self.body = torch.compile(self.body, backend="eager", **kwargs)
        elif way == "in place":
            self.body.compile(backend="eager", **kwargs)
        elif way == "function":
            compiled = torch.compile(self.body.forward, backend="eager", **kwargs)
            object.__setattr__(self, "run", compiled)
        self.way = way

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.run(input_ids) if self.way == "function" else self.body(input_ids))


@pytest.mark.parametrize("way", ["wrapped", "in place", "function"])
def test_a_site_within_a_whole_graph_is_refused_in_words(tmp_path: Path, way: str) -> None:
    torch.compiler.reset()
    message = r"noise at site 'emb' \('embedding'\) breaks the graph of .*fullgraph=False, or put noise"
    model = Chain(way, fullgraph=True)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, [noisy(sites={"emb": "embedding"})], model)
    assert model.global_step == 0
    torch.compiler.reset()
    fit(tmp_path, [noisy(sites={"emb": "embedding"})], Chain(way))
    # Outside of it noise breaks nothing.
    torch.compiler.reset()
    outside = noisy(sites={"out": "head"})
    fit(tmp_path, [outside], Chain(way, fullgraph=True))
    assert len(outside.history)


def test_a_module_that_is_itself_a_whole_graph_is_refused_too() -> None:
    torch.compiler.reset()
    model = nn.Sequential(torch.compile(nn.Linear(3, 3), backend="eager", fullgraph=True))
    with pytest.raises(ValueError, match=r"noise at site 'hidden' .* breaks the graph of '0'"):
        SiteNoise(model, {"hidden": "0"})


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision(tmp_path: Path, precision: str) -> None:
    callback, reference = noisy(max_examples=None), noisy(max_examples=None)
    pl.seed_everything(0)
    fit(tmp_path, [callback], Learner(), max_epochs=6, precision=precision)
    pl.seed_everything(0)
    fit(tmp_path, [reference], Learner(), max_epochs=6)
    for key in ("under_noise/emb/val_acc", "clean/val_acc"):
        assert callback.reading[key] == pytest.approx(reference.reading[key], abs=0.06)


# ------------------------------------------------- arguments, state, life


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"scales": ()}, r"`scales` must be finite, increasing and at least 0, one of them above, got \[\]"),
        ({"scales": (0.5, 0.1)}, "`scales` must be finite"),
        ({"monitors": {"val_acc": "max"}}, r"`monitors\['val_acc'\]` must be one of \['loss', 'score'\], got 'max'"),
        ({"monitors": None}, "`monitors` and `drift` are both empty"),
        ({"max_examples": 0}, "`max_examples` must be at least 1, or None for all, got 0"),
        ({"kind": "salt"}, "`kind` must be one of .*'gaussian', 'tokens'.*, got 'salt'"),
        ({"kind": "tokens", "scales": (0.5, 2.0)}, "`scales` are rates"),
        ({"relative": "length"}, "`relative` must be one of .*, got 'length'"),
        ({"start": "first"}, "`start` must be 'initial', a value for each monitor, or None, got 'first'"),
        ({"start": {"val_f1": 0.5}}, r"`start` names \['val_f1'\], which are not among .*'val_loss', 'val_acc'"),
    ],
)
def test_arguments_are_refused_at_once(kwargs: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        noisy(**kwargs)


def test_keys_are_those_that_are_listed(tmp_path: Path) -> None:
    callback = noisy(drift={"enc": "encoder"}, sites={"emb": "embedding", "enc": "encoder"})
    model = Learner()
    run = fit(tmp_path, [callback], model, max_epochs=8)
    absent = set(callback.logged_keys(model)) - set(run.callback_metrics)
    assert absent <= set(callback.conditional_keys(model))
    assert all(key.startswith("half_scale/") for key in absent)
    conditional = callback.conditional_keys(model)
    for key in ("robustness/emb/val_acc", "retention/emb/val_acc/0.5", "half_scale/emb/val_acc"):
        assert conditional[key] == "under_noise/emb/val_acc"
    assert noisy().logged_keys()[0] == "under_noise/emb/val_loss"


def test_a_resumed_run_keeps_the_value_before_training(tmp_path: Path) -> None:
    whole, first, second = noisy(), noisy(), noisy()
    pl.seed_everything(0)
    fit(tmp_path, [whole], Learner(), max_epochs=4)
    pl.seed_everything(0)
    run = fit(tmp_path, [first], Learner(), max_epochs=2)
    run.save_checkpoint(tmp_path / "half.ckpt")
    torch.load(tmp_path / "half.ckpt", weights_only=True)
    later = trainer(tmp_path, [second], max_epochs=4)
    later.fit(Learner(), loader(), loader(seed=1), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert second.start_values.values == whole.start_values.values
    assert [reading.step for reading in second.history.readings] == [5, 10, 15, 20]
    assert "robustness/emb/val_acc" in second.reading


def test_a_start_that_a_checkpoint_lacks_is_told(tmp_path: Path) -> None:
    run = fit(tmp_path, [], Learner(), max_epochs=1)
    run.save_checkpoint(tmp_path / "without.ckpt")
    callback = noisy()
    later = trainer(tmp_path, [callback], max_epochs=2)
    with pytest.warns(UserWarning, match="starts at step 5 from a checkpoint that does not hold"):
        later.fit(Learner(), loader(), loader(seed=1), ckpt_path=tmp_path / "without.ckpt")
    assert "under_noise/emb/val_acc" in callback.reading
    assert "robustness/emb/val_acc" not in callback.reading


def test_one_batch_cannot_tell_its_noise(tmp_path: Path) -> None:
    callback = noisy()
    run = trainer(tmp_path, [callback], max_epochs=5)
    with pytest.warns(UserWarning, match="reads a single batch, so the noise"):
        run.fit(Learner(), loader(), loader(40, batch_size=40, seed=1))
    # Whether the model is better than before training cannot be told either, and a share of nothing is no robustness.
    assert not any(
        key in reading.values for reading in callback.history.readings for key in ("robustness/emb/val_acc",)
    )
    assert "under_noise/emb/val_acc" in callback.reading


def test_a_second_fit_starts_anew(tmp_path: Path) -> None:
    callback = noisy()
    fit(tmp_path, [callback], Learner(), max_epochs=2)
    first = callback.start_values.values
    fit(tmp_path, [callback], Learner(seed=5), max_epochs=2)
    assert callback.start_values.values != first
    assert len(callback.history) == 2


def test_nothing_stays_on_the_model(tmp_path: Path) -> None:
    model = Learner()
    callback = noisy(drift={"enc": "encoder"})
    fit(tmp_path, [callback], model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not callback.replayed.batches
    held = {f"{name}.{one}": vars(part)[one] for name, part in callback.all_parts() for one in part.attached}
    assert len(held) > 5
    assert [name for name, value in held.items() if value is not None] == []


class Failing(NoiseRobustness):
    def finish(self, reading: Any) -> Any:
        if len(self.history) == 1:
            self.replayed.score = lambda model, batch: 1 / 0
        return super().finish(reading)


def test_a_reading_that_fails_is_dropped_and_training_goes_on(tmp_path: Path) -> None:
    pl.seed_everything(0)
    plain, model = Learner(), Learner()
    fit(tmp_path, [], plain, max_epochs=4)
    pl.seed_everything(0)
    callback = Failing({"emb": "embedding"}, monitors={"val_loss": "loss"}, draw_figures=False)
    with pytest.warns(UserWarning, match="dropped a reading.*ZeroDivisionError"):
        run = fit(tmp_path, [callback], model, max_epochs=4)
    assert run.callback_metrics["failed/Failing"] == 3
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))


def test_figures_are_drawn(tmp_path: Path) -> None:
    callback = NoiseRobustness({"emb": "embedding"}, monitors={"val_acc": "score"}, drift={"enc": "encoder"})
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        fit(tmp_path, [callback], Learner(), max_epochs=3)
    figures = tmp_path / "lightning_interp_logs" / "figures"
    drawn = {path.name for path in figures.iterdir()}
    assert drawn == {"noise-retention.png", "noise-robustness.png", "noise-drift.png"}


def test_the_picture_says_whether_it_shows_shares_or_values(tmp_path: Path) -> None:
    shares, values = noisy(), noisy(start=None)
    fit(tmp_path, [shares], Learner(), max_epochs=4)
    fit(tmp_path, [values], Learner(), max_epochs=4)
    pictures = [callback.figures()["noise/retention"]() for callback in (shares, values)]
    assert [picture.get_suptitle() for picture in pictures] == [
        "share of what was learned that survives noise",
        "monitors under noise",
    ]
    assert [picture.axes[0].get_ylabel() for picture in pictures] == ["retention", "value"]
    legend = shares.figures()["noise/robustness"]().legends[0]
    assert "emb" in [text.get_text() for text in legend.get_texts()]


def test_where_noise_is_added_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        callback, _ = pyramid_reading(
            tmp_path, monitors={"val_loss": "loss"}, output={"encoder": 1}, drift={"out": "head"}
        )
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Site '")]
    assert lines == [
        "Site 'encoder' (encoder, Passing) gets noise: output[1], layout BD.",
        "Site 'out' (head, Linear) is read: output, layout BD, 1 row of 2 features a sample, all of which count, since "
        "no mask is known.",
    ]
    settings = callback.settings()
    assert settings["layout/noise/encoder"] == "BD"
    assert settings["output/noise/encoder"] == "output[1]"
    assert settings["mask/out"] == "none"
