"""Plain gates on this library's keys: which are refused, which are told, and that the others act as they should."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from lightning_interp import PhaseEarlyStopping, RepresentationGeometry, RepresentationStructure
from tests.callbacks.scripted import Scripted, falling_loss, rising, run
from tests.callbacks.test_training_phases import Record, Robustness, phases
from tests.toy import Tagger, loader, trainer


class WithPlateau(Scripted):
    """Its learning rate falls by half when a key does not rise at a validation."""

    def __init__(self, monitor: str, **config: object) -> None:
        super().__init__({"val_loss": falling_loss, "coverage/tests": rising})
        self.monitor, self.config = monitor, config

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), 1.0)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", 0.5, patience=0, threshold=0.0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor, **self.config},
        }


def gate(kind: str, monitor: str, strict: bool = True) -> tuple[list[pl.Callback], Scripted]:
    if kind == "ReduceLROnPlateau":
        return [], WithPlateau(monitor, strict=strict)
    early = EarlyStopping(monitor, patience=1000, strict=strict)
    callback = early if kind == "EarlyStopping" else ModelCheckpoint(monitor=monitor)
    return [callback], WithPlateau("val_loss", strict=False)


@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau"])
@pytest.mark.parametrize(
    ("monitor", "text"),
    [
        ("robustness/enc/acc", "undefined at some readings.*Use 'under_noise/enc/acc' instead"),
        ("under_noise/encoder/acc", "nobody logs. Nearest: 'under_noise/enc/acc'"),
        ("regularity/enc/token", "nobody logs.*Available: 'robustness/enc/acc', 'under_noise/enc/acc'"),
        ("drift/enc/out/0.1", r'Robustness logs at another level only: give Robustness `log="full"`'),
        ("seconds/Robustness", r'Robustness logs at another level only: give Robustness `log="full"`'),
        ("drift/enc/0.1", "nobody logs"),
    ],
)
def test_what_cannot_be_watched_is_refused_before_training(tmp_path: Path, kind: str, monitor: str, text: str) -> None:
    callbacks, model = gate(kind, monitor)
    with pytest.raises(ValueError, match=f"{kind} monitors '{monitor}', which.*{text}"):
        run(tmp_path, [Robustness(), *callbacks], model, enable_checkpointing=True)
    assert model.global_step == 0


@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau"])
@pytest.mark.parametrize("monitor", ["val_loss", "coverage/tests", "under_noise/enc/acc"])
def test_other_keys_are_none_of_its_business(tmp_path: Path, kind: str, monitor: str) -> None:
    # A scheduler looks before the first reading.
    callbacks, model = gate(kind, monitor, strict=kind != "ReduceLROnPlateau")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path, [Robustness(), *callbacks], model, enable_checkpointing=True, max_steps=30)
    assert model.global_step == 30
    assert not [one for one in caught if "monitors" in str(one.message)]


@pytest.mark.parametrize("kind", ["EarlyStopping", "ReduceLROnPlateau"])
def test_a_gate_that_may_miss_values_goes_by_the_readings_that_have_one(tmp_path: Path, kind: str) -> None:
    callbacks, model = gate(kind, "robustness/enc/acc", strict=False)
    run(tmp_path, [Robustness(), *callbacks], model, max_steps=30)
    assert model.global_step == 30


def test_a_gate_without_that_choice_is_not_told_of_it(tmp_path: Path) -> None:
    callbacks, model = gate("ModelCheckpoint", "robustness/enc/acc")
    with pytest.raises(ValueError, match=r"monitors 'robustness/enc/acc'.*which is always defined\.$"):
        run(tmp_path, [Robustness(), *callbacks], model, enable_checkpointing=True)


def test_phases_say_too_what_they_log_at_another_level_only(tmp_path: Path) -> None:
    callbacks, model = gate("EarlyStopping", "phase/boundary_step")
    with pytest.raises(
        ValueError, match=r'TrainingPhases logs at another level only: give TrainingPhases `log="full"`'
    ):
        run(tmp_path, [Robustness(), phases(improving=None), *callbacks], model)
    callbacks, model = gate("ModelCheckpoint", "phase/current")
    run(tmp_path, [Robustness(), phases(improving=None), *callbacks], model, enable_checkpointing=True, max_steps=6)


def test_what_is_named_instead_of_a_conditional_key_says_its_level(tmp_path: Path) -> None:
    class Instead(RepresentationGeometry):
        def conditional_keys(self, model: object = None) -> dict[str, str]:
            return {"effective_rank/enc": "anisotropy/enc", "anisotropy/enc": "rankme/enc"}

    for key, text in (("effective_rank", "which is always defined."), ("anisotropy", 'and needs `log="full"`.')):
        chosen = [Instead({"enc": "encoder"}, draw_figures=False), EarlyStopping(f"{key}/enc")]
        with pytest.raises(ValueError, match=text):
            trainer(tmp_path, chosen, max_epochs=1).fit(Tagger(), loader(8), loader(8))


def test_a_key_that_is_not_read_every_time_is_told(tmp_path: Path) -> None:
    callbacks, model = gate("EarlyStopping", "under_noise/enc/acc")
    with pytest.warns(UserWarning, match=r"under_noise/enc/acc', which is read at every 3\. validation only"):
        run(tmp_path, [Robustness(every_n_validations=3), *callbacks], model, max_steps=6)
    callbacks, model = gate("EarlyStopping", "under_noise/enc/acc")
    with pytest.warns(UserWarning, match=r"under_noise/enc/acc', which is read only when `max_overhead=0\.5` allows"):
        run(tmp_path, [Robustness(max_overhead=0.5), *callbacks], model, max_steps=6)


def test_prefixes_and_the_gate_that_counts_fresh_readings(tmp_path: Path) -> None:
    callbacks, model = gate("EarlyStopping", "b/under_noise/encoder/acc")
    with pytest.raises(ValueError, match="Nearest: 'b/under_noise/enc/acc'"):
        run(tmp_path, [Robustness(prefix="b/"), *callbacks], model)
    fresh = PhaseEarlyStopping("robustness/enc/acc")
    run(tmp_path, [Robustness(), phases(improving=None), fresh], {"val_loss": falling_loss}, max_steps=6)
    callbacks, model = gate("EarlyStopping", "regularity/x")
    with pytest.raises(RuntimeError, match="is not available"):  # no analysis of ours, so Lightning's own error
        run(tmp_path, [*callbacks], model, max_steps=6)


# ------------------------------------------------- real fits: gates act on the values that readings gave


def geometry() -> list[pl.Callback]:
    return [
        RepresentationStructure({"enc": "encoder"}, ["token"], min_count=2, draw_figures=False),
        RepresentationGeometry({"enc": "encoder"}, draw_figures=False),
    ]


@pytest.mark.parametrize("key", ["information/enc", "effective_rank/enc"])
def test_early_stopping_stops_at_the_reading_that_the_values_imply(tmp_path: Path, key: str) -> None:
    # Whichever way the measure goes, one of the two modes stops early.
    stopped = []
    for mode in ("min", "max"):
        record, early = Record(), EarlyStopping(key, mode=mode, patience=2, check_on_train_epoch_end=False)
        chosen = [early, *geometry(), record]
        fit = trainer(tmp_path, chosen, max_epochs=6, val_check_interval=1, num_sanity_val_steps=0)
        pl.seed_everything(0)
        fit.fit(Tagger(), loader(24), loader(seed=1))
        best, waited, expected = None, 0, 18
        for step, seen in record.seen.items():
            if best is None or (seen[key] < best if mode == "min" else seen[key] > best):
                best, waited = seen[key], 0
            else:
                waited += 1
            if waited == 2:
                expected = step
                break
        assert fit.global_step == expected
        assert float(early.best_score) == pytest.approx(best)
        stopped.append(fit.global_step)
    assert min(stopped) < 18


@pytest.mark.parametrize("insert", [False, True])
def test_model_checkpoint_keeps_the_best_reading_and_names_it(tmp_path: Path, insert: bool) -> None:
    name = "{step}-{information/enc:.4f}" if insert else "at{step}-{information/enc:.4f}"
    save = ModelCheckpoint(
        tmp_path, filename=name, monitor="information/enc", mode="max", auto_insert_metric_name=insert
    )
    record = Record()
    fit = trainer(tmp_path, [save, *geometry(), record], max_epochs=3, enable_checkpointing=True)
    fit.fit(Tagger(), loader(), loader(seed=1))
    best = max(record.seen, key=lambda step: record.seen[step]["information/enc"])
    value = record.seen[best]["information/enc"]
    assert float(save.best_model_score) == pytest.approx(value)
    assert torch.load(save.best_model_path, weights_only=True)["global_step"] == best
    # With the metric's name in the file's name, its slash makes a folder.
    expected = f"step={best}-information/enc={value:.4f}.ckpt" if insert else f"at{best}-{value:.4f}.ckpt"
    assert save.best_model_path == str(tmp_path / expected)


def test_reduce_on_plateau_acts_on_the_values_of_readings(tmp_path: Path) -> None:
    """The key rises until a step and then falls, so the rate is halved at every later validation."""
    rates: dict[int, float] = {}

    class Rate(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *args: object) -> None:
            rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    model = WithPlateau("under_noise/enc/acc", interval="step")
    fit = trainer(
        tmp_path,
        [Rate(), Robustness(lambda step: -abs(step - 4.0))],
        max_steps=7,
        val_check_interval=1,
        num_sanity_val_steps=0,
    )
    fit.fit(model, loader_of_numbers(), loader_of_numbers())
    assert rates == {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 0.5, 6: 0.25}


def loader_of_numbers() -> object:
    from tests.callbacks.scripted import data

    return data(20)


def test_the_text_of_an_error_is_one_sentence_after_another(tmp_path: Path) -> None:
    callbacks, model = gate("EarlyStopping", "robustness/enc/acc")
    text = (
        "EarlyStopping monitors 'robustness/enc/acc', which is undefined at some readings and then not logged, so that "
        "the gate would wait in vain. Use 'under_noise/enc/acc' instead, which is always defined. With `strict=False` "
        "it goes by the readings that have a value."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        run(tmp_path, [Robustness(), *callbacks], model)
