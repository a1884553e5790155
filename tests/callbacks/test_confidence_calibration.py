"""Calibration in a training: planted temperatures, every way to read predictions, resuming, ranks, pictures."""

from __future__ import annotations

import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.metrics import roc_auc_score
from tasks.small_lm import general, tokenizer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import AcquisitionByClass, ConfidenceCalibration, analyze
from lightning_interp.batches import Predictions
from lightning_interp.language import encode_sentences, pad_right
from lightning_interp.models import CausalLM, small_gpt2
from tests.toy import Sequences, Tagger, loader, timeless, trainer

TAGS: dict[str, Any] = {"target": "tags", "mask": "attention_mask"}


def fit(folder: Path, callbacks: list[pl.Callback], model: pl.LightningModule | None = None, **kwargs: Any) -> Any:
    pl.seed_everything(1, verbose=False)
    run = trainer(folder, callbacks, **{"max_epochs": 3, **kwargs})
    run.fit(model or Tagger(), loader(), loader(seed=1))
    return run


def test_every_key_is_logged_and_is_that_of_the_predictions(tmp_path: Path) -> None:
    callback, model = ConfidenceCalibration("head", log="full", bins=10, **TAGS), Tagger()
    run = fit(tmp_path, [callback], model, logger=TensorBoardLogger(tmp_path))
    keys = callback.logged_keys(model)
    assert set(keys) <= set(run.callback_metrics)
    data = Sequences(40, seed=1)
    model.eval()
    with torch.no_grad():
        p = model(data.ids)[data.mask].double().softmax(-1)
    tags = data.tags[data.mask]
    confidence, right = p.max(-1).values, p.argmax(-1) == tags
    found = callback.reading
    assert found["accuracy/head"] == pytest.approx(float(right.double().mean()), abs=1e-6)
    assert found["accuracy/head"] == pytest.approx(float(run.callback_metrics["val_acc"]), abs=1e-6)
    assert found["overconfidence/head"] == pytest.approx(float(confidence.mean() - right.double().mean()), abs=1e-6)
    brier = (p - nn.functional.one_hot(tags, 3)).square().sum(-1).mean()
    assert found["brier/head"] == pytest.approx(float(brier), abs=1e-6)
    assert found["auroc_confidence/head"] == pytest.approx(roc_auc_score(right, confidence), abs=1e-3)
    assert found["predictions/head"] == int(data.mask.sum())

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(tmp_path.rglob("events*")).parent), size_guidance={"images": 0})
    events.Reload()
    assert set(keys) <= set(events.Tags()["scalars"])
    assert {"ece/head", "selective_accuracy/head/0.8"} <= set(events.Tags()["scalars"])
    pictures = {"calibration/curves", "calibration/reliability/head", "calibration/selective_accuracy/head"}
    assert pictures <= set(events.Tags()["images"])


class Planted(pl.LightningModule):
    """Gives the true log-odds of two classes, times a sharpness that grows with every validation."""

    def __init__(self, sharpness: list[float]) -> None:
        super().__init__()
        self.head, self.sharpness, self.weight = nn.Identity(), sharpness, nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> dict[str, Any]:
        logits = self.head(self.sharpness[self.current_epoch] * batch[0])
        return {"loss": logits.sum(), "scores": {"logits": logits}}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def planted(number: int = 20_000) -> TensorDataset:
    """Two classes, right with a probability uniform over [1/2, 1], in whole strata; the first few predictions lie."""
    generator = torch.Generator().manual_seed(0)
    q = 0.5 + (torch.arange(number, dtype=torch.float64) + 0.5) / number / 2
    q = q[torch.randperm(number, generator=generator)]
    predicted = torch.randint(2, (number,), generator=generator)
    right = torch.rand(number, generator=generator, dtype=torch.float64) < q
    logits = torch.zeros(number, 2, dtype=torch.float64)
    logits[torch.arange(number), predicted] = q.logit()
    return TensorDataset(logits.float(), torch.where(right, predicted, 1 - predicted))


def test_a_planted_temperature_is_recovered(tmp_path: Path) -> None:
    data = planted()
    callback = ConfidenceCalibration("head", target=1, max_examples=None, max_rows=20_000, draw_figures=False)
    model = Planted([1.0, 2.0])
    trainer(tmp_path, [callback], max_epochs=2).fit(
        model, DataLoader(data, batch_size=20_000), DataLoader(data, batch_size=512)
    )
    calibrated, sharp = (reading.values for reading in callback.history.readings)
    error = math.sqrt(0.25 / 20_000)
    # With log-odds doubled, q becomes q²/(q² + (1 − q)²); the mean over [1/2, 1] by the midpoint rule.
    q = 0.5 + (torch.arange(200_000, dtype=torch.float64) + 0.5) / 400_000
    gap = float((q**2 / (q**2 + (1 - q) ** 2) - q).mean())
    assert sharp["overconfidence/head"] == pytest.approx(gap, abs=4 * error)
    assert sharp["ece/head"] == pytest.approx(gap, abs=4 * error)
    assert sharp["adaptive_ece/head"] == pytest.approx(gap, abs=4 * error)
    assert abs(calibrated["overconfidence/head"]) < 4 * error
    assert calibrated["ece/head"] < math.sqrt(15) * error
    # A sharper softmax changes neither what is predicted nor the order of confidences.
    for key in ("accuracy/head", "auroc_confidence/head", "selective_accuracy/head/0.5"):
        assert sharp[key] == pytest.approx(calibrated[key], abs=1e-3)
    assert sharp["selective_accuracy/head/0.5"] == pytest.approx(7 / 8, abs=5 * error)


def right_ones(batch: list[torch.Tensor], output: Any) -> tuple[torch.Tensor, torch.Tensor]:
    logits = output if isinstance(output, torch.Tensor) else output["scores"]["logits"]
    p = logits.softmax(-1)
    return p.max(-1).values, p.argmax(-1) == batch[1]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"sites": "head", "target": 1}, "head"),
        ({"output": "scores", "target": 1}, "output"),
        ({"output": lambda found: found["scores"]["logits"], "name": "mine"}, "mine"),
        ({"confidence": right_ones}, "spoken"),
        ({"confidence": right_ones, "name": "asked"}, "asked"),
        ({"confidence": right_ones, "sites": {"top": "head"}}, "top"),
    ],
)
def test_every_way_to_read_predictions_gives_the_same(tmp_path: Path, options: dict[str, Any], name: str) -> None:
    data = planted(300)
    reference = ConfidenceCalibration("head", target=1, prefix="reference/", draw_figures=False)
    callback = ConfidenceCalibration(**options, draw_figures=False)
    model = Planted([2.0])
    trainer(tmp_path, [reference, callback], max_epochs=1).fit(
        model, DataLoader(data, batch_size=300), DataLoader(data, batch_size=64)
    )
    expected = {key.removeprefix("reference/").replace("/head", f"/{name}"): v for key, v in reference.reading.items()}
    assert callback.reading.keys() - {"seconds/ConfidenceCalibration_2"} == expected.keys() - {
        "seconds/ConfidenceCalibration"
    }
    for key, value in callback.reading.items():
        if "seconds" not in key:
            # Of two classes the score over both is twice that of one probability.
            half = 2 if key.startswith("brier") and "confidence" in options else 1
            assert half * value == pytest.approx(expected[key], abs=1e-6), key
    found = analyze(model, DataLoader(data, batch_size=50), ConfidenceCalibration(**options), forward=step)
    assert found[f"accuracy/{name}"] == callback.reading[f"accuracy/{name}"]


def step(model: Planted, batch: list[torch.Tensor]) -> dict[str, Any]:
    logits = model.head(2 * batch[0])
    return {"scores": {"logits": logits}}


def test_spoken_confidence_may_have_nothing_to_be_right_about(tmp_path: Path) -> None:
    def asked(batch: dict[str, torch.Tensor], output: Any) -> tuple[Any, Any]:
        # By position: sure of tag 0, half sure of the others; positions of padding are none.
        sure = torch.where(batch["tags"] == 0, 1.0, 0.5)
        return sure, torch.where(batch["attention_mask"] > 0, (batch["tags"] == 0).long(), -1)

    callback = ConfidenceCalibration(confidence=asked, draw_figures=False)
    fit(tmp_path, [callback])
    data = Sequences(40, seed=1)
    share = float((data.tags[data.mask] == 0).float().mean())
    assert callback.reading["predictions/spoken"] == int(data.mask.sum())
    assert callback.reading["accuracy/spoken"] == pytest.approx(share)
    assert callback.reading["ece/spoken"] == pytest.approx(0.5 * (1 - share))
    assert callback.reading["auroc_confidence/spoken"] == 1
    assert callback.reading["brier/spoken"] == pytest.approx(0.25 * (1 - share))


class Language(CausalLM):
    """Its validation step returns what transformers gives."""

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> Any:
        return self.lm(**batch)


def collated(encoded: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    ids, mask = pad_right(encoded)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(mask == 0, -100)}


def text(number: int, seed: int) -> DataLoader:
    return DataLoader(encode_sentences(tokenizer(), general(number, seed)), batch_size=16, collate_fn=collated)


def test_a_language_model_is_read_one_word_ahead(tmp_path: Path) -> None:
    sources = {
        "lm": {"sites": "lm", "target": "labels", "shift": True},
        "lm_head": {"sites": "lm.lm_head", "target": "input_ids", "shift": 1},
        "output": {"output": "logits", "target": "labels", "shift": 1},
    }
    callbacks = [ConfidenceCalibration(**one, draw_figures=False) for one in sources.values()]
    torch.manual_seed(0)
    model = Language(small_gpt2(tokenizer(), 16, layers=1, heads=2, length=16, dropout=0.1), lr=3e-3)
    trainer(tmp_path, callbacks, max_epochs=4).fit(model, text(320, 0), text(60, 1))
    for name, callback in zip(sources, callbacks, strict=True):
        found = [{key.replace(f"/{name}", ""): value for key, value in one[3].items()} for one in timeless(callback)]
        if name == "lm":
            expected = found
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=1e-6)
    model.eval()
    p, hits = [], []
    with torch.no_grad():
        for batch in text(60, 1):
            logits = model.lm(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
            counted = batch["labels"][:, 1:] != -100
            best = logits.softmax(-1).max(-1)
            p.append(best.values[counted])
            hits.append((best.indices == batch["labels"][:, 1:])[counted])
    confidence, right = torch.cat(p), torch.cat(hits)
    last = expected[-1]
    assert last["predictions"] == len(right)
    assert last["accuracy"] == pytest.approx(float(right.float().mean()), abs=1e-6)
    assert last["overconfidence"] == pytest.approx(float(confidence.mean() - right.float().mean()), abs=1e-5)
    assert last["auroc_confidence"] == pytest.approx(roc_auc_score(right, confidence), abs=2e-3)
    # It learns, and what it is sure of is what it gets right.
    assert last["accuracy"] > expected[0]["accuracy"]
    assert last["auroc_confidence"] > 0.7
    assert last["selective_accuracy/0.5"] > last["accuracy"] + 0.1


class Plain(Tagger):
    """Without dropout, so that a resumed training goes on exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder[2].p = 0.0


def test_resuming_goes_on_exactly(tmp_path: Path) -> None:
    whole = ConfidenceCalibration("head", **TAGS)
    fit(tmp_path / "whole", [whole], Plain(), max_epochs=5)
    run = fit(tmp_path / "part", [ConfidenceCalibration("head", **TAGS)], Plain(), max_epochs=2)
    run.save_checkpoint(tmp_path / "part.ckpt")
    resumed = ConfidenceCalibration("head", **TAGS)
    later = trainer(tmp_path / "later", [resumed], max_epochs=5)
    later.fit(Plain(), loader(), loader(seed=1), ckpt_path=tmp_path / "part.ckpt", weights_only=True)
    assert timeless(resumed) == timeless(whole)
    assert resumed.kept.steps == whole.kept.steps == [5, 10, 15, 20, 25]
    for one, other in zip(resumed.kept.values, whole.kept.values, strict=True):
        assert torch.equal(one["head"]["bins"], other["head"]["bins"])


def test_pictures_are_of_the_readings(tmp_path: Path) -> None:
    callback = ConfidenceCalibration({"top": "head"}, **TAGS)
    fit(tmp_path, [callback], max_epochs=4)
    pictures = callback.figures()
    diagram = pictures["calibration/reliability/top"]()
    # The diagonal, and a line a reading.
    assert len(diagram.axes[0].lines) == 5
    curve = pictures["calibration/selective_accuracy/top"]().axes[0].lines
    assert len(curve) == 4
    assert curve[-1].get_ydata()[-1] == pytest.approx(callback.reading["accuracy/top"])
    titles = [axes.get_title() for axes in pictures["calibration/curves"]().axes]
    assert titles[0] == "calibration error"
    assert "accuracy at coverage" in titles


# ------------------------------------------------- ranks


def readings(strategy: str, batch_size: int) -> list[dict[str, float]]:
    world = dist.get_world_size() if dist.is_initialized() else 1
    callbacks = [
        ConfidenceCalibration("head", max_rows=50, max_examples=25, draw_figures=False, **TAGS),
        ConfidenceCalibration(confidence=by_sample, prefix="own/", draw_figures=False),
    ]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer(folder, callbacks, strategy=strategy, devices=world, max_epochs=2)
        # The learning rate is zero: how the data are split must not change what the model computes.
        run.fit(Tagger(lr=0.0), loader(12), DataLoader(Sequences(31, seed=1), batch_size=batch_size))
    return [timeless(callback)[-1][3] for callback in callbacks]


def by_sample(batch: dict[str, torch.Tensor], output: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return batch["input_ids"].float().mean(1) / 12, batch["tags"][:, 0] > 0


@pytest.fixture(scope="module")
def alone() -> list[dict[str, float]]:
    return readings("auto", 8)


@pytest.mark.parametrize("batch_size", [4, 5])
def test_ranks_give_what_one_process_gives(ranks: Any, alone: list[dict[str, float]], batch_size: int) -> None:
    assert alone[0]["sampled_predictions/head"] == 50
    for everyone in ranks.run(readings, "ddp", batch_size):
        for found, expected in zip(everyone, alone, strict=True):
            assert found == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of `sites` and `output`"),
        ({"sites": "head", "output": "logits"}, "exactly one of `sites` and `output`"),
        ({"confidence": 0.5}, "`confidence` must be callable"),
        ({"confidence": right_ones, "target": "labels"}, "`target` says how to read logits"),
        ({"confidence": right_ones, "output": "logits"}, "`output` says how to read logits"),
        ({"sites": "head", "name": "mine"}, "`name` is 'mine'"),
        ({"output": "", "name": "a/b"}, "`name` is 'a/b'"),
        ({"sites": "head", "bins": 0}, "`bins` must be at least 1"),
        ({"sites": "head", "coverages": (0.0,)}, "`coverages` must lie between 0 and 1"),
        ({"sites": "head", "shift": -1}, "`shift` must be at least 0"),
        ({"sites": "head", "class_dim": 2}, "`class_dim` must be -1 or 1"),
    ],
)
def test_bad_arguments_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfidenceCalibration(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": "head"}, "shows no targets by itself"),
        ({"sites": "head", "target": "input_ids"}, "targets of 'head' are no class of its logits"),
        ({"sites": "head", "target": "sentence"}, "do not fit targets"),
        ({"output": "logits", "target": "tags"}, "`output` points to 'logits'"),
        ({"confidence": lambda batch, output: 3}, r"must return \(confidence, correct\)"),
        ({"confidence": lambda batch, output: (torch.zeros(3), torch.zeros(3))}, "for a batch of 8, got shapes"),
        ({"confidence": right_ones, "sites": ["head", "encoder"]}, "`confidence` reads one site"),
    ],
)
def test_what_does_not_fit_stops_the_run_before_it_starts(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    model = Tagger()
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, [ConfidenceCalibration(**options)], model)
    assert model.global_step == 0


# ------------------------------------------------- what models give in place of two logits


class Shown(nn.Module):
    """Puts out what it is given, in another form."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.form(x)


@pytest.mark.parametrize(
    ("form", "targets", "arguments"),
    [
        (lambda x: x[:, None], lambda y: y, {}),
        (lambda x: x, lambda y: y.float(), {}),
        (lambda x: x[:, None], lambda y: y.bool()[:, None], {}),
        (lambda x: torch.stack([0 * x, x], 1).softmax(-1), lambda y: y, {"scores": "probabilities"}),
        (lambda x: torch.stack([0 * x, x], 1).log_softmax(-1), lambda y: y, {}),
        (lambda x: x.sigmoid(), lambda y: y.double(), {"scores": "probabilities"}),
    ],
    ids=["(B, 1)", "(B,) floats", "(B, 1) booleans", "softmax", "log-softmax", "sigmoid"],
)
def test_every_form_of_two_classes_reads_alike(form: Any, targets: Any, arguments: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(64, generator=generator)
    y = (torch.rand(64, generator=generator) < x.sigmoid()).long()
    found = []
    for shown, right, more in (
        (lambda x: torch.stack([0 * x, x], 1), y, {}),
        (form, targets(y), arguments),
    ):
        callbacks = [
            ConfidenceCalibration({"head": ""}, target=1, **more),
            AcquisitionByClass(Predictions("", target=1, **more), names=["no", "yes"]),
        ]
        batches = [(x[k : k + 16], right[k : k + 16]) for k in range(0, 64, 16)]
        found.append(analyze(Shown(shown), batches, callbacks))
    assert found[0].keys() == found[1].keys()
    assert {"ece/head", "brier/head", "class_loss/model/yes"} <= found[0].keys()
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, abs=1e-5), key


def test_a_softmax_that_is_not_told_is_an_error() -> None:
    x, y = torch.randn(32, 4), torch.arange(32) % 4
    batches = [(x, y)]
    for callback in (
        ConfidenceCalibration({"head": ""}, target=1),
        AcquisitionByClass("", target=1, names=4),
    ):
        with pytest.raises(ValueError, match="they are probabilities: say `scores='probabilities'`"):
            analyze(Shown(lambda x: x.softmax(-1)), batches, callback)
    with pytest.raises(ValueError, match="`scores` says how to read logits, but `confidence` reads all by itself"):
        ConfidenceCalibration("head", scores="logits", confidence=lambda batch, output: output)
    with pytest.raises(ValueError, match="`scores` must be 'logits' or 'probabilities', got 'odds'"):
        ConfidenceCalibration("head", scores="odds")
    with pytest.raises(ValueError, match=r"`scores` belongs to `site` where that is Predictions"):
        AcquisitionByClass(Predictions("head"), scores="logits", names=2)
