"""Validation data that change between readings: noticed, said once, and nothing of other samples is compared."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_interp import (
    AcquisitionByClass,
    LayerProbe,
    NoiseRobustness,
    RepresentationDrift,
    RepresentationStructure,
    ValidationAnalysis,
)
from tests.toy import Sequences, Tagger, loader, trainer

SAID = "at the reading before"


class GoesOn(IterableDataset):
    """A stream that gives other samples each time it is asked."""

    def __init__(self) -> None:
        self.seed = 0

    def __iter__(self) -> Any:
        self.seed += 1
        data = Sequences(24, seed=self.seed)
        return (data[index] for index in range(24))


def drift(**kwargs: Any) -> RepresentationDrift:
    return RepresentationDrift("encoder", ["token"], **{"draw_figures": True, "figure_interval": 1e9, **kwargs})


def noise(**kwargs: Any) -> NoiseRobustness:
    settings = {"scales": (0.5,), "monitors": {"val_loss": "loss"}, "draw_figures": False, **kwargs}
    return NoiseRobustness({"emb": "embedding"}, **settings)


def classes(**kwargs: Any) -> AcquisitionByClass:
    return AcquisitionByClass("head", "tags", names=3, mask="attention_mask", draw_figures=False, **kwargs)


def probe(**kwargs: Any) -> LayerProbe:
    settings = {"types": None, "control": False, "draw_figures": False, **kwargs}
    return LayerProbe(["embedding", "encoder"], ["tags"], **settings)


WATCHING = {"drift": drift, "noise": noise, "classes": classes, "probe": probe}


def fitted(
    folder: Path,
    callbacks: list[Any],
    *validations: Any,
    run: pl.Trainer | None = None,
    train: Any = None,
    **kwargs: Any,
) -> list[str]:
    """One Trainer that is fitted with one validation loader after another; what was said."""
    run = run or trainer(folder, callbacks, max_epochs=0, **{"num_sanity_val_steps": 1, **kwargs})
    model = Tagger(lr=0.05)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for validation in validations:
            run.fit_loop.max_epochs += 2
            run.fit(model, train or loader(), validation)
    return [str(one.message) for one in caught if SAID in str(one.message)]


def keys(callback: ValidationAnalysis, name: str) -> list[bool]:
    """At which readings a value was there."""
    return [any(key.startswith(name) for key in one.values) for one in callback.history.readings]


# ------------------------------------------------- what is said


@pytest.mark.parametrize("name", WATCHING)
def test_data_that_stay_are_passed_over_in_silence(tmp_path: Path, name: str) -> None:
    callback = WATCHING[name]()
    # The same samples in other batches are the same.
    assert not fitted(tmp_path, [callback], loader(24, seed=1), loader(24, batch_size=5, seed=1))
    assert len(callback.history.readings) == 4


@pytest.mark.parametrize("name", WATCHING)
def test_other_data_are_noticed_and_said_once(tmp_path: Path, name: str) -> None:
    callback = WATCHING[name]()
    other = [loader(24, seed=seed) for seed in (1, 2, 3)]
    told = fitted(tmp_path, [callback], *other)
    assert len(told) == 1
    assert "validation loader 0 gave other samples than at the reading before (24 now, 24 then)" in told[0]
    assert len(callback.history.readings) == 6


@pytest.mark.parametrize("name", WATCHING)
def test_a_stream_that_goes_on_is_noticed(tmp_path: Path, name: str) -> None:
    told = fitted(tmp_path, [WATCHING[name]()], DataLoader(GoesOn(), batch_size=8))
    assert len(told) == 1


@pytest.mark.parametrize("name", WATCHING)
def test_an_order_that_changes_matters_to_what_goes_by_place(tmp_path: Path, name: str) -> None:
    # Noise reads the samples of the first batches only, so it must have them all.
    callback = WATCHING[name]()
    torch.manual_seed(0)
    told = fitted(tmp_path, [callback], loader(24, seed=1, shuffle=True), num_sanity_val_steps=0)
    assert len(told) == (name == "drift")
    assert all("the same samples in another order" in one for one in told)


@pytest.mark.parametrize("name", WATCHING)
def test_a_part_of_shuffled_data_is_other_data(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    callback = WATCHING[name](max_examples=8)
    assert len(fitted(tmp_path, [callback], loader(24, seed=1, shuffle=True), num_sanity_val_steps=0)) == 1


def test_what_keeps_nothing_does_not_watch(tmp_path: Path) -> None:
    callbacks = [
        RepresentationStructure("encoder", draw_figures=False),
        noise(start={"val_loss": 1.1}),
        probe(baseline=False),
        probe(data=loader(16, seed=7), forward=lambda model, batch: model(batch["input_ids"]), prefix="set/"),
    ]
    assert not fitted(tmp_path, callbacks, loader(24, seed=1), loader(24, seed=2))


# ------------------------------------------------- what becomes of the values


def test_drift_starts_anew(tmp_path: Path) -> None:
    callback, alone = drift(), drift()
    fitted(tmp_path, [callback], loader(24, seed=1), loader(32, seed=2))
    assert keys(callback, "cka/encoder/first") == [False, True, False, True]
    assert keys(callback, "cka/encoder/previous") == [False, True, False, True]
    assert callback.kept.steps == [one.step for one in callback.history.readings[2:]]
    assert callback.maps.steps == callback.kept.steps
    assert len(callback.maps.shown["encoder"].key) == Sequences(32, seed=2).mask.sum()
    # From then on as if it had seen nothing else.
    fitted(tmp_path, [alone], loader(24, seed=1), loader(24, seed=1))
    assert keys(alone, "cka/encoder/first") == [False, True, True, True]


def test_a_validation_run_on_other_data_compares_nothing_and_forgets_nothing(tmp_path: Path) -> None:
    callback = drift()
    run = trainer(tmp_path, [callback], max_epochs=2)
    model = Tagger()
    run.fit(model, loader(), loader(24, seed=1))
    kept = callback.kept.steps
    assert "cka/encoder/first" not in run.validate(model, loader(24, seed=2), verbose=False)[0]
    assert callback.kept.steps == kept
    found = run.validate(model, loader(24, seed=1), verbose=False)[0]
    last = callback.history.readings[-1].values["cka/encoder/first"]
    assert found["cka/encoder/first"] == pytest.approx(last, abs=1e-6)


def test_noise_has_no_value_before_training_on_other_data(tmp_path: Path) -> None:
    callback = noise()

    def easy(number: int, seed: int) -> DataLoader:
        data = Sequences(number, seed=seed)
        data.tags = data.ids % 3
        return DataLoader(data, batch_size=8)

    told = fitted(tmp_path, [callback], easy(64, 1), easy(64, 2), train=easy(400, 0))
    assert "start={monitor: level of chance}" in told[0]
    assert keys(callback, "robustness/") == [True, True, False, False]
    assert keys(callback, "under_noise/") == [True] * 4
    # Nor after a resume.
    again = noise()
    again.load_state_dict(callback.state_dict())
    assert again.start_values.lost
    assert not again.start_values.values


def test_noise_looks_at_what_it_reads_alone(tmp_path: Path) -> None:
    class Grows(Sequences):
        """Other samples from the ninth on."""

        def __init__(self, seed: int) -> None:
            super().__init__(24, seed=1)
            other = Sequences(24, seed=seed)
            self.ids[8:], self.tags[8:], self.mask[8:] = other.ids[8:], other.tags[8:], other.mask[8:]

    callback = noise(max_examples=8)
    both = [DataLoader(Grows(seed), batch_size=8) for seed in (1, 2)]
    assert not fitted(tmp_path, [callback], *both)
    assert fitted(tmp_path, [noise(max_examples=9)], *both)


def test_classes_are_compared_on_the_same_samples(tmp_path: Path) -> None:
    callback = classes()
    fitted(tmp_path, [callback], loader(24, seed=1), loader(24, seed=2))
    steps = [one.step for one in callback.history.readings]
    key = next(iter(callback.acquisition.keys.values()))
    assert callback.acquisition.comparable(callback, key)[0] == steps[2:]
    third = callback.history.readings[2].values
    assert all(third[key] == steps[2] for key in third if key.startswith("class_acquired/"))
    assert third["classes_forgotten/head"] == 0
    again = classes()
    again.load_state_dict(callback.state_dict())
    assert again.acquisition.comparable(again, key)[0] == steps[2:]


def test_the_probes_baseline_is_that_of_the_samples_read(tmp_path: Path) -> None:
    key = "probe_baseline/encoder/tags"

    def baseline(seed: int) -> float:
        alone = probe()
        fitted(tmp_path, [alone], loader(24, seed=seed))
        return alone.history.readings[0].values[key]

    callback = probe()
    fitted(tmp_path, [callback], loader(24, seed=1), loader(24, seed=2), loader(24, seed=2))
    found = [one.values.get(key) for one in callback.history.readings]
    # At the reading that shows that they are others, batches were not kept for it.
    assert found == [baseline(1)] * 2 + [None] + [baseline(2)] * 3
    assert baseline(1) != baseline(2)
    centre = [one.values.get("centre_of_gravity/tags") for one in callback.history.readings]
    assert centre[2] is None


def test_the_baseline_of_a_stream_that_goes_on_is_read_with_it(tmp_path: Path) -> None:
    callback = probe()
    fitted(tmp_path, [callback], DataLoader(GoesOn(), batch_size=8), DataLoader(GoesOn(), batch_size=8))
    assert keys(callback, "probe_baseline/") == [True, False, True, True]


# ------------------------------------------------- checkpoints


@pytest.mark.parametrize("name", WATCHING)
def test_a_resumed_run_knows_the_samples_of_before(tmp_path: Path, name: str) -> None:
    first, same, other = (WATCHING[name]() for _ in range(3))
    run = trainer(tmp_path, [first], max_epochs=2)
    model = Tagger()
    run.fit(model, loader(), loader(24, seed=1))
    run.save_checkpoint(tmp_path / "two.ckpt")
    for callback, seed in ((same, 1), (other, 2)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer(tmp_path, [callback], max_epochs=3).fit(
                Tagger(), loader(), loader(24, seed=seed), ckpt_path=tmp_path / "two.ckpt", weights_only=False
            )
        assert sum(SAID in str(one.message) for one in caught) == (seed == 2)
        assert len(callback.history.readings) == 3


def test_a_checkpoint_of_before_has_no_samples_to_compare(tmp_path: Path) -> None:
    callback, again = drift(), drift()
    fitted(tmp_path, [callback], loader(24, seed=1))
    state = callback.state_dict()
    del state["samples"]
    again.load_state_dict(state)
    assert again.state_dict()["samples"] is None


# ------------------------------------------------- ranks


def on_ranks(changed: bool, shuffle: bool) -> tuple[list[str], list[bool]]:
    import tempfile

    callback = drift(draw_figures=False)
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(folder, [callback], max_epochs=0, strategy="ddp", devices=torch.distributed.get_world_size())
        told = fitted(
            Path(folder), [], *(loader(23, seed=seed, shuffle=shuffle) for seed in (1, 2 if changed else 1)), run=run
        )
    return told, keys(callback, "cka/encoder/first")


@pytest.mark.parametrize(("changed", "shuffle"), [(False, False), (True, False), (False, True)])
def test_ranks_agree_on_whether_data_changed(two_ranks: Any, changed: bool, shuffle: bool) -> None:
    (told, first), (_, second) = two_ranks.run(on_ranks, changed, shuffle)
    assert len(told) == changed
    assert first == second == [False, True, not changed, True]
