"""The steps at which the Trainer validates, in every kind of training that Lightning knows."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_interp.callbacks.validation_schedule import ValidationSchedule
from lightning_interp.compat import pl

BATCHES = 10


class Unsized(IterableDataset):
    def __iter__(self):
        return iter(torch.ones(BATCHES, 4))


class Tiny(pl.LightningModule):
    """Ten training batches and two validation batches, one optimizer step each."""

    def __init__(self, unsized: bool = False, dropout: bool = False):
        super().__init__()
        self.unsized = unsized
        self.layer = torch.nn.Linear(4, 1)
        self.dropout = torch.nn.Dropout(0.5 if dropout else 0.0)

    def training_step(self, batch, batch_idx):
        return self.layer(self.dropout(torch.as_tensor(batch[0]))).square().sum()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.layer(batch[0]).square().sum())
        self.log("taken", float(self.trainer.global_step))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.001)

    def train_dataloader(self):
        data = Unsized() if self.unsized else TensorDataset(torch.arange(BATCHES * 4.0).view(BATCHES, 4) / 40)
        return DataLoader(data, batch_size=1, shuffle=not self.unsized)

    def val_dataloader(self):
        # A generator of its own, so that a validation takes no number from the stream that training draws from.
        return DataLoader(TensorDataset(torch.ones(2, 4)), generator=torch.Generator())


class TwoOptimizers(Tiny):
    """Manual optimization with two optimizer steps in each batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch[0]).square().sum())
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.001) for _ in range(2)]


class OneStep(TwoOptimizers):
    """Takes no step after the first batch."""

    def training_step(self, batch, batch_idx):
        if batch_idx == 0:
            super().training_step(batch, batch_idx)


class Pulling(Tiny):
    """Takes the iterator itself; Lightning validates after each epoch's last batch there, whatever the interval."""

    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return self.layer(batch[0]).square().sum()


class Recorder(pl.Callback):
    """What happened: the step of each validation, its batches, the batches that were trained on."""

    def __init__(self):
        self.steps: list[int] = []
        self.val_batches = 0
        self.sanity_batches = 0
        self.trained: list[tuple[int, int]] = []
        self.at: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trained.append((trainer.current_epoch, batch_idx))

    def on_validation_batch_end(self, trainer, *args):
        if trainer.sanity_checking:
            self.sanity_batches += 1
        else:
            self.val_batches += 1

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.steps.append(trainer.global_step)
            self.at.extend(self.trained[-1:])


class StopAt(pl.Callback):
    """Asks for the end of training at the end of a batch, after the schedule has decided."""

    def __init__(self, batch: int):
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.fit_loop.total_batch_idx + 1 == self.batch


def make_trainer(*callbacks: pl.Callback, **arguments: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(callbacks=list(callbacks), **(quiet | arguments))


def fit(schedule: ValidationSchedule | None, model: Tiny | None = None, *others: pl.Callback, **arguments: Any):
    recorder = Recorder()
    callbacks = [recorder, *others] if schedule is None else [schedule, recorder, *others]
    trainer = make_trainer(*callbacks, **({"max_epochs": 4} | arguments))
    trainer.fit(model or Tiny())
    return recorder, trainer


LOG_40 = [1, 2, 3, 4, 6, 7, 10, 13, 18, 24, 32, 40]


@pytest.mark.parametrize(
    ("schedule", "model", "arguments", "wanted"),
    [
        ({}, {}, {}, LOG_40),
        ({"last": False}, {}, {}, LOG_40[:-1]),
        ({"steps": [1, 9, 10, 11, 40]}, {}, {}, [1, 9, 10, 11, 40]),
        ({"steps": [5], "every": 12}, {}, {}, [5, 12, 24, 36, 40]),
        ({"steps": 12}, {}, {}, [12, 24, 36, 40]),
        ({"steps": None, "every": 12, "start": 20, "last": False}, {}, {}, [24, 36]),
        ({"steps": [500], "last": False}, {}, {}, []),
        ({"steps": [500]}, {}, {}, [40]),
        ({}, {}, {"val_check_interval": 0.5}, LOG_40),
        ({}, {}, {"val_check_interval": 7}, LOG_40),
        ({}, {}, {"val_check_interval": 25}, LOG_40),
        ({}, {}, {"val_check_interval": 7, "check_val_every_n_epoch": None}, LOG_40),
        ({}, {}, {"check_val_every_n_epoch": 3}, LOG_40),
        ({}, {}, {"reload_dataloaders_every_n_epochs": 1}, LOG_40),
        ({"steps": [3, 10, 12]}, {}, {"max_steps": 17, "max_epochs": -1}, [3, 10, 12, 17]),
        ({"steps": [3, 17]}, {}, {"max_steps": 17}, [3, 17]),
        ({"steps": [3, 10, 12], "last": False}, {}, {"max_steps": 17, "max_epochs": -1}, [3, 10, 12]),
        ({"steps": [3, 10, 12]}, {}, {"min_steps": 1, "min_epochs": 2}, [3, 10, 12, 40]),
        ({"steps": [3, 8, 10]}, {}, {"limit_train_batches": 4, "max_epochs": 3}, [3, 8, 10, 12]),
        ({"steps": [3, 8, 9], "last": False}, {}, {"limit_train_batches": 0.4, "max_epochs": 3}, [3, 8, 9]),
        ({"steps": [3, 10, 15]}, {"unsized": True}, {"max_epochs": 2}, [3, 10, 15, 20]),
        ({"steps": [3, 15], "last": False}, {"unsized": True}, {"max_epochs": 2}, [3, 15]),
        ({"steps": [3], "last": False}, {"unsized": True}, {"limit_train_batches": 2, "max_epochs": 3}, [3]),
        ({"steps": [3, 5]}, {"unsized": True}, {"max_steps": 7, "max_epochs": -1}, [3, 5, 7]),
        ({"steps": [2]}, {}, {"overfit_batches": 2, "max_epochs": 3}, [2, 6]),
    ],
)
def test_validates_at_exactly_these_steps(schedule, model, arguments, wanted):
    recorder, _ = fit(ValidationSchedule(**schedule), Tiny(**model), **arguments)
    assert recorder.steps == wanted
    per_validation = arguments.get("overfit_batches", 2)
    assert recorder.val_batches == per_validation * len(wanted)


def test_counts_optimizer_steps_under_gradient_accumulation():
    recorder, trainer = fit(ValidationSchedule([1, 3, 4, 6]), accumulate_grad_batches=4, max_epochs=3)
    assert trainer.global_step == 9
    assert recorder.steps == [1, 3, 4, 6, 9]
    assert recorder.at == [(0, 3), (0, 9), (1, 3), (1, 9), (2, 9)]


def test_validates_once_for_the_step_that_a_batch_reaches_in_manual_optimization():
    recorder, _ = fit(ValidationSchedule([1, 4, 5, 7, 8, 9]), TwoOptimizers(), max_epochs=1)
    assert recorder.steps == [2, 4, 6, 8, 10, 20]
    recorder, _ = fit(ValidationSchedule([3, 13]), TwoOptimizers(), max_steps=14, max_epochs=-1)
    assert recorder.steps == [4, 14]
    recorder, _ = fit(ValidationSchedule([1]), OneStep(), max_epochs=1)
    assert recorder.at == [(0, 0)]


def test_a_step_that_takes_the_iterator_is_not_validated_at_each_epoch_end():
    assert fit(None, Pulling(), max_epochs=3)[0].steps == [10, 20, 30]
    assert fit(ValidationSchedule([3, 12]), Pulling(), max_epochs=3)[0].steps == [3, 12, 30]
    assert fit(ValidationSchedule([3, 12], last=False), Pulling(), max_epochs=3)[0].steps == [3, 12]


@pytest.mark.parametrize(
    ("batch", "last", "wanted"),
    [(13, True, [3, 13]), (13, False, [3]), (3, True, [3]), (10, True, [3, 10])],
    ids=["off schedule", "off schedule, without last", "on schedule", "at an epoch's end"],
)
def test_last_step_of_a_training_that_is_stopped(batch, last, wanted):
    recorder, trainer = fit(ValidationSchedule([3], last=last), None, StopAt(batch))
    assert trainer.global_step == batch
    assert recorder.steps == wanted


def test_a_stop_between_optimizer_steps_does_not_repeat_the_last_validation():
    recorder, trainer = fit(ValidationSchedule([2]), None, StopAt(9), accumulate_grad_batches=4)
    assert trainer.global_step == 2
    assert recorder.steps == [2]


def test_an_early_stop_is_not_validated_twice_and_reads_fresh_values():
    # The number of steps taken never falls, so the second reading is the first without a gain.
    stop = pl.callbacks.EarlyStopping("taken", patience=1, mode="min")
    recorder, trainer = fit(ValidationSchedule([2, 5, 9, 23]), None, stop)
    assert recorder.steps == [2, 5]
    assert trainer.global_step == 5


def test_early_stopping_before_the_schedule_is_warned_about():
    def run(*callbacks):
        make_trainer(*callbacks, max_epochs=1).fit(Tiny())

    def early_stopping(**arguments):
        return pl.callbacks.EarlyStopping("val_loss", patience=99, **arguments)

    with pytest.warns(UserWarning, match=r"monitor='val_loss'.*Put it after ValidationSchedule"):
        run(early_stopping(), ValidationSchedule([3]))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Put it after ValidationSchedule")
        run(ValidationSchedule([3]), early_stopping())
        run(early_stopping(check_on_train_epoch_end=False), ValidationSchedule([3]))
        run(ValidationSchedule([3]), early_stopping(check_on_train_epoch_end=True))


def test_checkpoints_are_written_after_scheduled_validations(tmp_path):
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", monitor="val_loss", save_top_k=-1)
    fit(ValidationSchedule([2, 15], last=False), None, checkpoint, enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=15.ckpt", "step=2.ckpt"]


def test_sanity_check_is_unaffected():
    recorder, _ = fit(ValidationSchedule([3], last=False), max_epochs=1, num_sanity_val_steps=2)
    assert recorder.sanity_batches == 2
    assert recorder.steps == [3]


def test_fast_dev_run_keeps_its_own_validation():
    recorder, _ = fit(ValidationSchedule([500], last=False), fast_dev_run=3)
    assert recorder.steps == [3]


def test_validate_alone_is_left_alone():
    class Settings(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            self.seen = trainer.check_val_every_n_epoch

    settings = Settings()
    make_trainer(ValidationSchedule([3]), settings).validate(Tiny(), verbose=False)
    assert settings.seen == 1


def test_a_trainer_without_validation_is_warned_about():
    with pytest.warns(UserWarning, match=r"ValidationSchedule: nothing will be read.*limit_val_batches=0"):
        recorder, _ = fit(ValidationSchedule([3]), limit_val_batches=0, max_epochs=1)
    assert recorder.steps == []


def test_settings_come_back_and_a_second_fit_goes_on():
    schedule, recorder = ValidationSchedule([3, 15, 25], last=False), Recorder()
    trainer = make_trainer(schedule, recorder, max_epochs=2, check_val_every_n_epoch=2, val_check_interval=0.5)
    model = Tiny()
    trainer.fit(model)
    assert (trainer.check_val_every_n_epoch, trainer.val_check_batch) == (2, 5)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model)
    assert recorder.steps == [3, 15, 25]
    assert (trainer.check_val_every_n_epoch, trainer.val_check_batch) == (2, 5)

    fresh = make_trainer(schedule, recorder, max_epochs=1)
    fresh.fit(Tiny())
    assert recorder.steps == [3, 15, 25, 3]


def test_settings_come_back_after_an_error():
    class Breaking(Tiny):
        def validation_step(self, batch, batch_idx):
            raise RuntimeError("broken")

    trainer = make_trainer(ValidationSchedule([3]), max_epochs=1, check_val_every_n_epoch=5)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(Breaking())
    assert (trainer.global_step, trainer.check_val_every_n_epoch, trainer.val_check_batch) == (3, 5, BATCHES)


def test_training_is_the_same_under_any_schedule():
    def weights(schedule):
        pl.seed_everything(3, verbose=False)
        model = Tiny(dropout=True)
        recorder, _ = fit(schedule, model)
        return model.layer.weight.detach(), torch.get_rng_state(), recorder.steps

    plain, often = weights(None), weights(ValidationSchedule(per_decade=20))
    assert len(often[2]) > len(plain[2])
    assert torch.equal(plain[0], often[0])
    assert torch.equal(plain[1], often[1])


class Saver(pl.Callback):
    """Writes a checkpoint at one step, from one hook."""

    def __init__(self, hook: str, step: int, path: str):
        self.hook, self.step, self.path = hook, step, path

    def save(self, trainer, hook):
        if (hook, trainer.global_step) == (self.hook, self.step) and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)

    def on_validation_end(self, trainer, pl_module):
        self.save(trainer, "validation")

    def on_train_batch_end(self, trainer, *args):
        self.save(trainer, "batch")

    def on_train_epoch_end(self, trainer, pl_module):
        self.save(trainer, "epoch")


@pytest.mark.parametrize("limit", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 40}], ids=["epochs", "steps"])
@pytest.mark.parametrize(
    ("steps", "hook", "at"),
    [
        ([3, 10, 15, 20, 35], "validation", 10),
        ([3, 10, 15, 20, 35], "validation", 15),
        ([3, 10, 15, 20, 35], "batch", 15),
        ([3, 10, 15, 20, 35], "epoch", 20),
        ([3, 15, 35], "batch", 10),
        ([3, 15, 35], "batch", 13),
        ([3, 15, 35], "epoch", 10),
    ],
)
def test_resume_goes_on_with_the_steps_ahead(tmp_path, limit, steps, hook, at):
    path = str(tmp_path / "some.ckpt")
    whole, _ = fit(ValidationSchedule(steps), None, Saver(hook, at, path), **limit)
    resumed = Recorder()
    make_trainer(ValidationSchedule(steps), resumed, **limit).fit(Tiny(), ckpt_path=path, weights_only=True)
    assert whole.steps == [*steps, 40]
    assert resumed.steps == [step for step in whole.steps if step > at]
    assert resumed.trained == whole.trained[at:]


@pytest.mark.parametrize("limit", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 40}], ids=["epochs", "steps"])
@pytest.mark.parametrize(("hook", "at"), [("validation", 20), ("epoch", 20), ("batch", 20), ("validation", 15)])
def test_resume_of_a_run_that_had_no_schedule(tmp_path, limit, hook, at):
    path = str(tmp_path / "some.ckpt")
    whole, _ = fit(None, None, Saver(hook, at, path), val_check_interval=0.5, **limit)
    resumed = Recorder()
    trainer = make_trainer(ValidationSchedule([3, 15, 22, 35]), resumed, **limit)
    trainer.fit(Tiny(), ckpt_path=path, weights_only=True)
    assert resumed.steps == [22, 35, 40]
    assert resumed.trained == whole.trained[at:]


@pytest.mark.parametrize("interval", ["00:00:01:00", {"minutes": 1}])
def test_validation_by_the_clock_is_refused(interval):
    with pytest.raises(ValueError, match=r"val_check_interval=<a time>.*schedule of steps"):
        fit(ValidationSchedule(), val_check_interval=interval)


def test_two_schedules_are_refused():
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `ValidationSchedule`"):
        fit(ValidationSchedule([3]), None, ValidationSchedule([5]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": "linear"}, "steps='linear'"),
        ({"steps": [4, 4]}, "4 follows 4"),
        ({"per_decade": 0}, "per_decade=0"),
        ({"last": 1}, "last=1: expected True or False"),
    ],
)
def test_bad_arguments_are_errors_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        ValidationSchedule(**arguments)


def test_a_yaml_file_can_hold_it():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(ValidationSchedule, "schedule")
    for text, wanted in [
        ("{steps: log, per_decade: 2}", [1, 3, 10, 32]),
        ("{steps: [2, 30], last: false}", [2, 30]),
        ("{steps: null, every: 20}", [20, 40]),
        ("{steps: 20}", [20, 40]),
    ]:
        schedule = parser.instantiate(parser.parse_args([f"--schedule={text}"])).schedule
        assert schedule.steps_up_to(40) == wanted


class RankRecorder(Recorder):
    """Leaves a note of what this process did, since its objects do not outlive it."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        (self.folder / str(trainer.global_rank)).write_text(str(self.steps))


def test_all_ranks_decide_the_same(tmp_path):
    callbacks = ValidationSchedule([1, 3, 4]), RankRecorder(tmp_path)
    make_trainer(*callbacks, max_epochs=2, strategy="ddp_fork", devices=2).fit(Tiny())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "[1, 3, 4, 10]", "1": "[1, 3, 4, 10]"}
