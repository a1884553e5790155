"""Data of one's own in place of the validation run, for every callback that reads representations."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import (
    LayerProbe,
    MinimalPairs,
    RepresentationDrift,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    ValidationAnalysis,
    analyze,
)
from lightning_interp.isolation import preserved_rng, seed_all
from lightning_interp.tasks import Task
from tests.toy import Norm, Sequences, Tagger, loader, trainer

SITE = {"enc": "encoder"}
CALLBACKS = {
    "metrics": lambda **kwargs: RepresentationMetrics({"norm": Norm()}, SITE, draw_figures=False, **kwargs),
    "geometry": lambda **kwargs: RepresentationGeometry(SITE, draw_figures=False, **kwargs),
    "structure": lambda **kwargs: RepresentationStructure(SITE, ["token", "tags"], draw_figures=False, **kwargs),
    "drift": lambda **kwargs: RepresentationDrift(SITE, ["tags"], draw_figures=False, **kwargs),
}
BY_NAME = pytest.mark.parametrize("name", CALLBACKS)


def without_time(reading: dict[str, float]) -> dict[str, float]:
    return {key.removeprefix("own/"): value for key, value in reading.items() if "seconds" not in key}


def fit(tmp_path: Path, callbacks: list[ValidationAnalysis], **kwargs: Any) -> None:
    trainer(tmp_path, callbacks, **kwargs).fit(Tagger(), loader(), loader(seed=1))


@BY_NAME
@pytest.mark.parametrize("batch_size", [8, 9])
def test_own_data_are_read_as_the_same_validation_data_are(name: str, batch_size: int, tmp_path: Path) -> None:
    live = CALLBACKS[name]()
    own = CALLBACKS[name](prefix="own/", data=loader(seed=1, batch_size=batch_size))
    fit(tmp_path, [live, own])
    assert len(own.history) == len(live.history) == 2
    for mine, other in zip(own.history.readings, live.history.readings, strict=True):
        assert without_time(mine.values) == pytest.approx(without_time(other.values), rel=1e-5, abs=1e-6)


@BY_NAME
def test_other_data_than_those_of_the_run(name: str, tmp_path: Path) -> None:
    seen: list[int] = []

    def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append(len(batch["input_ids"]))
        return model(batch["input_ids"])

    callback = CALLBACKS[name](data=loader(12, seed=5), forward=forward)
    model = Tagger()
    trainer(tmp_path, [callback], max_epochs=1, num_sanity_val_steps=0).fit(model, loader(), loader(seed=1))
    assert seen == [8, 4]
    right = analyze(model, loader(12, seed=5), CALLBACKS[name]())
    found = {key: value for key, value in without_time(callback.reading).items() if not key.startswith("cka")}
    assert found == pytest.approx({key: right[key] for key in found}, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 5])
def test_what_a_forward_pass_draws_is_drawn_from_the_seed(seed: int) -> None:
    drawn: list[torch.Tensor] = []

    def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        drawn.append(torch.rand(2))
        return model(batch["input_ids"])

    settings = {"baseline": False, "seed": seed, "data": list(loader(8, seed=5)), "forward": forward, "min_count": 1}
    analyze(Tagger(), loader(8), LayerProbe(SITE, ["tags"], **settings))
    with preserved_rng():
        seed_all(seed)
        assert torch.equal(drawn[0], torch.rand(2))


def test_own_data_do_not_touch_the_model(tmp_path: Path) -> None:
    trained = []
    for callbacks in ([], [CALLBACKS["geometry"](data=loader(12, seed=5))]):
        torch.manual_seed(0)
        model = Tagger()
        trainer(tmp_path, callbacks).fit(model, loader(shuffle=True), loader(seed=1))
        trained.append(model.state_dict())
    assert all(torch.equal(one, trained[1][key]) for key, one in trained[0].items())


@BY_NAME
def test_arguments_that_would_be_without_effect_are_refused(name: str) -> None:
    make = CALLBACKS[name]
    with pytest.raises(ValueError, match="`forward` says how a batch of `data` goes through the module"):
        make(forward=lambda model, batch: None)
    with pytest.raises(ValueError, match="`dataloader_idx=1` has no meaning with `data`"):
        make(data=loader(), dataloader_idx=1)
    with pytest.raises(ValueError, match="`data` shuffles"):
        make(data=loader(shuffle=True))
    with pytest.raises(ValueError, match="that can be iterated again, got generator"):
        make(data=(batch for batch in loader()))


def test_changed_own_data_are_noticed_by_what_is_compared_with_earlier_readings(tmp_path: Path) -> None:
    class Growing(list):  # type: ignore[type-arg]
        """Other batches at each reading."""

        def __iter__(self) -> Any:
            Growing.times += 1
            return iter(list(loader(12, seed=Growing.times)))

        times = 0

    callback = CALLBACKS["drift"](data=Growing([0]))
    with pytest.warns(UserWarning, match="`data` gave other samples than at the reading before"):
        fit(tmp_path, [callback], num_sanity_val_steps=0)
    assert not any(key.startswith("cka") for key in callback.reading)


class Odd(Tagger):
    """Its validation batches hold nothing that could be samples."""

    def validation_step(self, batch: object, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", 1.0, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        pass


def test_validation_batches_that_are_not_read_may_be_anything(tmp_path: Path) -> None:
    pairs = [Task("end", "end", tuple((f"a{x}c", f"a{x}d") for x in "abcdef"))]

    def letters(sentence: str) -> list[int]:
        return [ord(letter) - 96 for letter in sentence]

    def scores(model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return model(input_ids) @ torch.arange(36.0).view(3, 12).cos()

    own = CALLBACKS["geometry"](data=loader(12, seed=5))
    sentences = MinimalPairs(pairs, letters, forward=scores, draw_figures=False)
    odd = DataLoader([object(), object()], batch_size=None, collate_fn=lambda item: item)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not tell which samples.*")
        trainer(tmp_path, [own, sentences], max_epochs=1).fit(Odd(), loader(), odd)
    assert own.reading["rows/enc"] == int(Sequences(12, seed=5).mask.sum())
    assert "pairs_accuracy/end" in sentences.reading
    with pytest.raises(TypeError, match=r"MinimalPairs has no argument `batch_size`\. Nearest: `batch_tokens`"):
        MinimalPairs(pairs, letters, batch_size=3)
