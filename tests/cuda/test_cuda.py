"""On a CUDA device: values of the CPU, training untouched, mixed precision, compile, NCCL, no wait for the device."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_interp import (
    NoiseRobustness,
    RepresentationGeometry,
    RepresentationStructure,
    TaskSpace,
    TrainingPhases,
    ValidationAnalysis,
    analyze,
)
from lightning_interp.isolation.random_weights import random_weights
from lightning_interp.metrics import BinnedStructure, SoftStructure, SpectralGeometry
from tests.reference.readings import random_reading
from tests.toy import Tagger, loader, trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SITE = {"enc": "encoder"}


def callbacks() -> list[pl.Callback]:
    return [
        RepresentationStructure(SITE, ["token", "bigram"], min_count=2, estimator="both", jackknife=2, log="full"),
        RepresentationGeometry(SITE, log="full"),
        NoiseRobustness(
            {"emb": "embedding"}, scales=(0.25, 1.0), monitors={"val_loss": "loss", "val_acc": "score"}, drift=SITE
        ),
        TrainingPhases(improving={"val_acc": "max"}, strict=False),
    ]


def fit(found: list[pl.Callback], model: Tagger | None = None, **kwargs: Any) -> Tagger:
    pl.seed_everything(0, verbose=False)
    model = Tagger() if model is None else model
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(Path(folder), found, **{"accelerator": "cuda", "devices": 1, **kwargs})
        run.fit(model, loader(32, shuffle=True), loader(16))
    return model


def state(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.cpu() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_training_is_untouched_and_every_key_is_logged(precision: str) -> None:
    read = callbacks()
    bare, watched = fit([], precision=precision), fit(read, precision=precision)
    assert all(map(torch.equal, state(bare), state(watched)))
    for one in read:
        if isinstance(one, ValidationAnalysis):
            assert len(one.history) > 1
            assert one.failed == 0


def test_values_are_those_of_the_cpu() -> None:
    model = fit([])
    read = [one for one in callbacks() if not isinstance(one, NoiseRobustness | TrainingPhases)]
    on_device = analyze(model.cuda(), loader(16), read)
    on_cpu = analyze(model.cpu(), loader(16), read)
    assert on_device.keys() == on_cpu.keys()
    for key, value in on_cpu.items():
        if not key.startswith("seconds"):
            # Binned values jump where a coordinate lies on an edge of a bin.
            assert on_device[key] == pytest.approx(value, rel=1e-3, abs=2e-3 if "binned" in key else 1e-5), key


@pytest.mark.parametrize(
    "metric",
    [
        SoftStructure(labels=("token", "bigram"), jackknife=2, information_plane=("token", "next_token")),
        BinnedStructure(labels=("token", "bigram")),
        SpectralGeometry(),
    ],
)
def test_update_does_not_wait_for_the_device(metric: Any) -> None:
    reading = random_reading(0, sequences=6, length=4, dim=8)
    metric = metric.cuda()
    given = {
        "mask": reading.mask.cuda(),
        "labels": {name: value.cuda() for name, value in reading.labels.items()},
        "positions": torch.arange(6, device="cuda"),
    }
    z = reading.z.cuda()
    metric.update(z, **given)  # what is made once, such as reference points, is copied to the device
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        metric.update(z, **given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_compiled_training_is_read() -> None:
    read = [RepresentationStructure(SITE, ["token"], min_count=2), RepresentationGeometry(SITE)]
    pl.seed_everything(0, verbose=False)
    fit(read, torch.compile(Tagger()))
    assert all(len(one.history) > 1 and one.failed == 0 for one in read)


def test_one_process_under_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    found = []
    for strategy in ("auto", "ddp"):
        readers = callbacks()[:2]
        with tempfile.TemporaryDirectory() as folder:
            run = trainer(Path(folder), readers, accelerator="cuda", devices=1, strategy=strategy)
            run.validate(Tagger(), loader(16), verbose=False)
        found.append({key: value for one in readers for key, value in one.reading.items() if "seconds" not in key})
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-5)


def test_the_task_space_of_a_model_on_the_device() -> None:
    from tests.callbacks.test_task_space import SMALL, TASKS, LanguageModel, sentences

    model = LanguageModel()
    callback = TaskSpace(TASKS, **SMALL)
    on_cpu = analyze(model, sentences(8), callback)
    on_device = analyze(model.cuda(), sentences(8), callback)
    for key in ("task_accuracy/mean", "task_margin/mean", "alignment/within", "alignment/between", "reliability/mean"):
        assert on_device[key] == pytest.approx(on_cpu[key], rel=1e-3, abs=1e-4), key


def test_probes_of_a_model_on_the_device() -> None:
    from tests.callbacks.test_sentence_probe import LanguageModel, data, probe

    model = LanguageModel()
    on_cpu = analyze(model, data(4), probe())
    on_device = analyze(model.cuda(), data(4), probe())
    assert {k: v for k, v in on_device.items() if "seconds" not in k} == pytest.approx(on_cpu, rel=1e-4)


def test_random_weights_on_the_device_come_and_go() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16).cuda()
    before, streams = state(model), torch.cuda.get_rng_state()
    with random_weights(model, seed=1):
        assert not all(map(torch.equal, before, state(model)))
    assert all(map(torch.equal, before, state(model)))
    assert torch.equal(streams, torch.cuda.get_rng_state())
