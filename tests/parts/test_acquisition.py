"""When things were acquired: a part that any analysis may hold, with curves that are known beforehand."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import StructuralProbe, ValidationAnalysis, analyze
from lightning_interp.isolation.seen import Seen
from lightning_interp.parts.acquisition import Acquisition
from lightning_interp.reading.history import History, ReadingRow
from lightning_interp.reading.reading import Reading
from tests.callbacks.recipes import SITE, letter_words, treebank
from tests.toy import Tagger, loader, timeless, trainer

SCRIPT = {"early": [0.2, 0.8, 0.9, 1.0, 1.0, 1.0], "late": [0.5, 0.5, 0.5, 0.6, 0.7, 1.0], "lost": [3, 9, 10, 9, 4, 5]}
SCRIPT["lost"] = [one / 10 for one in SCRIPT["lost"]]
"""Accuracies at steps 1 to 6."""


class Known(ValidationAnalysis):
    """Reads what stands in the script."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.acquisition = Acquisition(
            {name: f"known/{name}" for name in SCRIPT}, {"early": 0.5, "late": 0.5, "lost": 0.4}
        )

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        return {f"{what}/{name}": "summary" for what in ("known", "since") for name in SCRIPT}

    def conditional_keys(self, model: nn.Module | None = None) -> dict[str, str]:
        return {self.full_key(f"since/{name}"): self.full_key(f"known/{name}") for name in SCRIPT}

    def after_batch(self, seen: Seen) -> None:
        """Read the batches, so that samples are compared."""

    def kept_for_samples(self) -> str:
        return "accuracies are compared"

    def finish(self, reading: Reading) -> Mapping[str, float]:
        step = min(max(reading.step or 1, 1), 6)
        values = {f"known/{name}": curve[step - 1] for name, curve in SCRIPT.items()}
        if self.step is not None:
            since = self.acquisition.since(self, values, dict.fromkeys(SCRIPT, 0.75))
            values |= {f"since/{name}": at for name, at in since.items()}
        return values

    def figures(self) -> Mapping[str, Any]:
        return self.acquisition.figures(self)


class Counts(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.number.square()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def samples(first: float = 0.0) -> DataLoader:
    return DataLoader(TensorDataset(torch.full((4, 1), first)), batch_size=4)


def fitted(folder: Path, callback: Known, *validations: DataLoader, steps: int = 6, **kwargs: Any) -> pl.Trainer:
    """So many steps, with one validation loader after another."""
    run = trainer(folder, [callback], max_epochs=0, num_sanity_val_steps=1)
    train = DataLoader(TensorDataset(torch.zeros(steps // len(validations), 1)))
    for validation in validations:
        run.fit_loop.max_epochs += len(train)
        run.limit_train_batches = 1
        run.fit(Counts(), DataLoader(TensorDataset(torch.zeros(1, 1))), validation, **kwargs)
    return run


def test_planted_accuracies_give_the_planted_steps(tmp_path: Path) -> None:
    callback = Known(prefix="own/")
    fitted(tmp_path, callback, samples())
    assert callback.history.series("own/known/early") == ([1, 2, 3, 4, 5, 6], SCRIPT["early"])
    assert callback.history.series("own/since/early") == ([2, 3, 4, 5, 6], [2.0] * 5)
    assert callback.history.series("own/since/late") == ([6], [6.0])
    # Acquired at step 2, and lost at step 5.
    assert callback.history.series("own/since/lost") == ([2, 3, 4], [2.0] * 3)
    order = callback.acquisition.order(callback)
    assert [(one.name, one.acquired.low, one.acquired.high) for one in order[:2]] == [("early", 3, 4), ("late", 5, 6)]
    # It fell to chance at step 5, and is above it at the end.
    assert (order[2].name, order[2].acquired.high, order[2].best, order[2].final) == ("lost", 6, 1.0, 0.5)
    lines = callback.acquisition.summary(callback, notes={"lost": "forgotten"}).splitlines()
    assert len(lines) == 4
    assert [line.endswith("forgotten") for line in lines[1:]] == ["lost" in line for line in lines[1:]]
    drawings = callback.figures()
    assert list(drawings) == ["acquisition/accuracy", "acquisition/order"]
    for draw in drawings.values():
        draw().draw_without_rendering()


@pytest.mark.parametrize("resumed", [False, True])
def test_accuracies_on_other_samples_are_not_compared(tmp_path: Path, resumed: bool) -> None:
    callback = Known()
    with pytest.warns(UserWarning, match="gave other samples than at the reading before"):
        fitted(tmp_path, callback, samples(), samples(1.0))
    # The second half begins at step 4, where "lost" is high for the last time.
    assert callback.history.series("since/early") == ([2, 3, 4, 5, 6], [2.0, 2.0, 4.0, 4.0, 4.0])
    assert callback.history.series("since/lost") == ([2, 3, 4], [2.0, 2.0, 4.0])
    if resumed:
        state, callback = pickle.loads(pickle.dumps(callback.state_dict())), Known()
        callback.load_state_dict(state)
    early = next(one for one in callback.acquisition.order(callback) if one.name == "early")
    assert (early.first, early.acquired.low, early.acquired.high) == (1.0, 4.0, 4.0)
    # The curve itself is whole.
    assert callback.acquisition.curve(callback, "known/early") == ([1, 2, 3, 4, 5, 6], SCRIPT["early"])


def test_a_new_fit_begins_anew(tmp_path: Path) -> None:
    callback = Known()
    with pytest.warns(UserWarning, match="gave other samples"):
        fitted(tmp_path, callback, samples(), samples(1.0))
    fitted(tmp_path, callback, samples())
    assert callback.history.series("since/early") == ([2, 3, 4, 5, 6], [2.0] * 5)


def test_outside_a_fit_nothing_is_acquired(tmp_path: Path) -> None:
    callback = Known()
    run = fitted(tmp_path, callback, samples())
    before = callback.acquisition.order(callback)
    run.validate(Counts(), samples(2.0), verbose=False)
    assert callback.reading["known/early"] == 0.2
    assert "since/early" not in callback.reading
    assert callback.acquisition.order(callback) == before
    found = analyze(Counts(), samples(), callback, forward=lambda model, batch: None, progress=False)
    assert sorted(found) == [f"known/{name}" for name in sorted(SCRIPT)]


def test_a_copy_has_its_own_moment(tmp_path: Path) -> None:
    callback = Known()
    fitted(tmp_path, callback, samples())
    callback.begin(Reading(Counts(), step=7))
    key, here = "known/early", callback.acquisition
    assert here.curve(callback, key, 0.5)[0] == [1, 2, 3, 4, 5, 6, 7]
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert other.acquisition.curve(other, key, 0.5)[0] == [1, 2, 3, 4, 5, 6]
        assert other.acquisition.order(other) == callback.acquisition.order(callback)
    assert callback.fresh().acquisition.curve(callback.fresh(), key) == ([], [])


def test_of_several_readings_at_one_step_the_last_counts() -> None:
    analysis = Known()
    analysis.history.append(ReadingRow(1, 0, 0, {"known/early": 0.9}))
    acquisition = analysis.acquisition
    acquisition.begin(Reading(Counts(), step=1))
    assert acquisition.curve(analysis, "known/early", 0.3) == ([1], [0.3])
    acquisition.begin(Reading(Counts(), step=1, rehearsal=True))
    assert acquisition.curve(analysis, "known/early", 0.3) == ([1], [0.9])


def test_chance_is_one_level_or_one_for_each() -> None:
    keys = {"a": "x/a", "b": "x/b"}
    assert Acquisition(keys, 0.5).chance_levels() == {"a": 0.5, "b": 0.5}
    assert Acquisition(keys, {"a": 0.1, "b": 0.2}).chance_levels() == {"a": 0.1, "b": 0.2}

    class Never:
        history = History()

        def full_key(self, key: str) -> str:
            return key

    found = Acquisition(keys).order(Never())
    assert [(one.name, math.isnan(one.acquired.step)) for one in found] == [("a", True), ("b", True)]


# ------------------------------------------------- in a probe


class Followed(StructuralProbe):
    """A probe that tells since when its trees are there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.acquisition = Acquisition({"trees": "uuas/enc"}, tag="trees", label="UUAS")

    def figures(self) -> Mapping[str, Any]:
        return {**super().figures(), **self.acquisition.figures(self)}


def test_a_probe_holds_one_and_reads_what_it_reads_without(tmp_path: Path) -> None:
    found = []
    for kind in (StructuralProbe, Followed):
        pl.seed_everything(3, verbose=False)
        probe = kind(SITE, treebank, tokenizer=letter_words, max_steps=20, draw_figures=False)
        trainer(tmp_path, [probe], max_epochs=2).fit(Tagger(), loader(), loader(seed=1))
        found.append(timeless(probe))
    assert found[0] == found[1]
    (trees,) = probe.acquisition.order(probe)
    assert (trees.first, trees.final) == tuple(probe.history.series("uuas/enc")[1])
    assert {"trees/accuracy", "trees/order"} <= set(probe.figures())
    for name, draw in probe.figures().items():
        if name.startswith("trees/"):
            draw().draw_without_rendering()
