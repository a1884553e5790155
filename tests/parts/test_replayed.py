"""Batches that are run again under an edit of the callback's own: here what a site puts out is set to zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import ValidationAnalysis, analyze
from lightning_interp.distributed import Collective
from lightning_interp.isolation import WeightsCopy
from lightning_interp.isolation.replay import Score, Setting, StepReplay
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.base import FULL, SUMMARY
from lightning_interp.parts.replayed import Replayed
from lightning_interp.reading.arguments import LoaderArgs
from lightning_interp.reading.reading import Reading
from tests.toy import Tagger, loader, trainer

MONITORS = ("val_loss", "val_acc", "val_loss_collected")
SITES = ("embedding", "encoder", "encoder.0", "head")


@contextmanager
def zeroed(module: nn.Module, seen: Seen | None = None) -> Iterator[None]:
    handle = module.register_forward_hook(lambda module, args, output: output * 0)
    try:
        yield
    finally:
        handle.remove()


class Ablation(ValidationAnalysis):
    """A monitor where what a site puts out is zero."""

    def __init__(
        self,
        monitors: tuple[str, ...] = MONITORS,
        score: Score | None = None,
        max_examples: int | None = None,
        **kwargs: Unpack[LoaderArgs],
    ) -> None:
        super().__init__(max_examples=None, **kwargs)
        self.monitors = monitors
        self.replayed = Replayed(monitors, score, max_examples, self.dataloader_idx)

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        plain = {f"as_it_is/{monitor}": FULL for monitor in self.monitors}
        return plain | {f"without/{site}/{monitor}": SUMMARY for site in SITES for monitor in self.monitors}

    def merge(self, reading: Reading) -> Collective[Mapping[str, Any]]:
        module = reading.model.get_submodule
        found = yield from self.replayed.values({site: partial(zeroed, module(site)) for site in SITES})
        values = {f"as_it_is/{monitor}": value for monitor, value in found.plain.items()}
        for site, under in found.under.items():
            values |= {f"without/{site}/{monitor}": value for monitor, value in under.items()}
        return values


def by_hand(folder: object, model: pl.LightningModule, site: str | None = None, **kwargs: Any) -> dict[str, float]:
    """What a plain validation run of the changed model logs."""
    with nullcontext() if site is None else zeroed(model.get_submodule(site)):
        found = trainer(folder, [], **kwargs).validate(model, loader(seed=1), verbose=False)[0]
    return dict(found)


def trained(folder: object, callbacks: list[pl.Callback], **kwargs: Any) -> Tagger:
    pl.seed_everything(0, verbose=False)
    model = Tagger(lr=0.05)
    trainer(folder, callbacks, **kwargs).fit(model, loader(), loader(seed=1))
    return model


def test_an_ablation_in_a_fit_is_a_validation_run_of_the_ablated_model(tmp_path: Path) -> None:
    callback, model = Ablation(draw_figures=False), trained(tmp_path, [])
    again = trained(tmp_path, [callback])
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters(), strict=True))
    assert len(callback.history) == 2
    for site in SITES:
        expected = by_hand(tmp_path, model, site)
        for monitor in MONITORS:
            assert callback.reading[f"without/{site}/{monitor}"] == pytest.approx(expected[monitor], rel=1e-6)
    plain = by_hand(tmp_path, model)
    assert {name: callback.reading[f"as_it_is/{name}"] for name in MONITORS} == pytest.approx(plain, rel=1e-6)
    # Each of them is something else.
    assert len({round(callback.reading[f"without/{site}/val_loss"], 6) for site in SITES} | {plain["val_loss"]}) >= 4
    assert not any(module._forward_hooks for module in again.modules())


def test_the_first_batches_alone_are_read(tmp_path: Path) -> None:
    callback = Ablation(max_examples=17, draw_figures=False)
    model = trained(tmp_path, [callback])
    expected = by_hand(tmp_path, model, "encoder", limit_val_batches=3)
    for monitor in MONITORS:
        assert callback.reading[f"without/encoder/{monitor}"] == pytest.approx(expected[monitor], rel=1e-6)
    assert not callback.replayed.batches


def losses(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The loss of each sentence: its sum and its number of words."""
    mask = batch["attention_mask"]
    each = nn.functional.cross_entropy(model(batch["input_ids"]).transpose(1, 2), batch["tags"], reduction="none")
    return {"loss": ((each * mask).sum(1), mask.sum(1))}


def test_a_finished_model_is_ablated_by_a_score(tmp_path: Path) -> None:
    model = trained(tmp_path, [])
    found = analyze(model, loader(seed=1), Ablation(("loss",), losses))
    model.eval()
    (batch,) = loader(batch_size=40, seed=1)
    for site in SITES:
        with zeroed(model.get_submodule(site)), torch.no_grad():
            total, words = losses(model, batch)["loss"]
        assert found[f"without/{site}/loss"] == pytest.approx(float(total.sum() / words.sum()), rel=1e-5)
    with pytest.raises(ValueError, match=r"no validation_step is run again for \['val_loss'\]: give it `score=`"):
        analyze(model, loader(seed=1), Ablation(("val_loss",)))


# ------------------------------------------------- what else the part is asked for


class Asks(ValidationAnalysis):
    """Asks a part for something, in every reading."""

    def __init__(self, asked: Callable[[Replayed], Collective[Any]], **kwargs: Any) -> None:
        super().__init__(max_examples=None, draw_figures=False)
        self.replayed, self.asked, self.found = Replayed(list(MONITORS), **kwargs), asked, []

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        return {"asked": SUMMARY}

    def merge(self, reading: Reading) -> Collective[dict[str, float]]:
        self.found.append((yield from self.asked(self.replayed)))
        return {"asked": 1.0}


def validated(
    folder: object, model: pl.LightningModule, asked: Callable[[Replayed], Collective[Any]], **kwargs: Any
) -> Any:
    callback = Asks(asked, **kwargs)
    trainer(folder, [callback]).validate(model, loader(seed=1), verbose=False)
    (found,) = callback.found
    return found


def test_groups_deal_the_batches(tmp_path: Path) -> None:
    model, batches = trained(tmp_path, []), list(loader(seed=1))
    for asked, number in ((2, 2), (8, 5), (0, 0), (1, 0)):
        found = validated(tmp_path, model, lambda part, asked=asked: part.values(groups=asked))
        assert len(found.groups) == number
        assert found.under == {}
        for place, group in enumerate(found.groups):
            own = trainer(tmp_path, []).validate(
                model, DataLoader(batches[place::number], batch_size=None), verbose=False
            )[0]
            assert group == pytest.approx(own, rel=1e-6)


def test_other_weights_stand_in(tmp_path: Path) -> None:
    model = trained(tmp_path, [])
    before, weights = copy.deepcopy(model), WeightsCopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-2)
    now = copy.deepcopy(model.state_dict())
    found = validated(tmp_path, model, lambda part: part.with_weights(weights, groups=2))
    assert found.plain == pytest.approx(by_hand(tmp_path, before), rel=1e-6)
    assert found.plain["val_loss"] != pytest.approx(by_hand(tmp_path, model)["val_loss"], rel=1e-2)
    assert len(found.groups) == 2
    assert all(torch.equal(value, now[name]) for name, value in model.state_dict().items())


def as_it_is(seen: Seen) -> Any:
    return nullcontext()


@pytest.mark.parametrize(
    ("plain", "kwargs", "passes"),
    [(None, {}, 0), (None, {"overhear": False}, 5), (as_it_is, {}, 5), (None, {"max_examples": 20}, 0)],
)
def test_what_is_overheard_is_what_a_run_again_gives(
    tmp_path: Path, plain: Setting | None, kwargs: dict[str, Any], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    run = StepReplay.run
    monkeypatch.setattr(StepReplay, "run", lambda *args: (runs.append(1), run(*args))[1])
    model = trained(tmp_path, [])
    found = validated(tmp_path, model, lambda part: part.values(plain=plain), **kwargs)
    assert len(runs) == passes
    limit = {"limit_val_batches": 3} if "max_examples" in kwargs else {}
    assert found.plain == pytest.approx(by_hand(tmp_path, model, **limit), rel=1e-6)


def test_settings_are_entered_for_each_batch_and_see_it(tmp_path: Path) -> None:
    model, entered = trained(tmp_path, []), []

    @contextmanager
    def setting(name: str, seen: Seen) -> Iterator[None]:
        entered.append((name, seen.index))
        assert seen.counted
        yield

    settings: dict[str, Setting] = {name: partial(setting, name) for name in "ab"}
    found = validated(tmp_path, model, lambda part: part.under(settings), max_examples=16)
    assert entered == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert found["a"] == found["b"] == pytest.approx(by_hand(tmp_path, model, limit_val_batches=2), rel=1e-6)


class Scaled(Tagger):
    factor = 1.0

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.factor * super().forward(input_ids)


@contextmanager
def scaled(model: Scaled, factor: float, seen: Seen | None = None) -> Iterator[None]:
    before, model.factor = model.factor, factor
    try:
        yield
    finally:
        model.factor = before


def test_an_attribute_that_a_setting_changes_is_changed_in_the_step(tmp_path: Path) -> None:
    model = Scaled()
    found = validated(tmp_path, model, lambda part: part.under({n: partial(scaled, model, n) for n in (0.0, 3.0)}))
    assert model.factor == 1.0
    for factor, values in found.items():
        with scaled(model, factor):
            assert values == pytest.approx(by_hand(tmp_path, model), rel=1e-6)


def test_a_setting_that_fails_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = trained(tmp_path, [])

    @contextmanager
    def failing(seen: Seen) -> Iterator[None]:
        model.factor = 3
        yield
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        validated(tmp_path, model, lambda part: part.under({"x": failing}))
    assert not hasattr(model, "factor")
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="`max_examples` must be at least 1, or None for all, got 0"):
        Replayed(["val_loss"], max_examples=0)
