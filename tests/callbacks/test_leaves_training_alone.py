"""What every exported callback must pass: nothing of it ends, changes or outlives a training run."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from torch import nn

from lightning_interp import ValidationAnalysis, analyze
from lightning_interp.metrics.measures import MEASURES
from lightning_interp.reporting.measure_words import is_measure
from tests.callbacks.recipes import (
    ANALYSES,
    CALLBACKS,
    FACTS,
    analysis,
    entities,
    letters,
    offline,
    particular,
    statements,
    tasks,
    treebank,
)
from tests.toy import Norm, Tagger, loader, timeless, trainer

BY_NAME = pytest.mark.parametrize("name", CALLBACKS)
OF_ANALYSES = pytest.mark.parametrize("name", ANALYSES)
STEPS = 5
"""Batches of an epoch."""


def fit(
    folder: Path, callbacks: list[pl.Callback], model: pl.LightningModule | None = None, **kwargs: Any
) -> pl.Trainer:
    pl.seed_everything(2, verbose=False)
    run = trainer(folder, callbacks, **{"max_epochs": 3, **kwargs})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(model or Tagger(), loader(), loader(seed=1))
    return run


def dropping(callback: ValidationAnalysis, *which: int) -> ValidationAnalysis:
    """Let readings of the fit fail; number 0 is that of the sanity check."""
    works, count = callback.finish, iter(range(100))

    def finish(reading: Any) -> Mapping[str, Any]:
        if next(count) in which:
            raise torch.OutOfMemoryError("planted")
        return works(reading)

    callback.finish = finish  # type: ignore[method-assign]
    return callback


def always_there(callback: ValidationAnalysis) -> str:
    """A key that a plain gate may watch."""
    model = Tagger()
    conditional = callback.conditional_keys(model)
    return next(key for key in callback.logged_keys(model) if key not in conditional and not key.startswith("seconds"))


# ------------------------------------------------- a reading without a value


class Plateau(Tagger):
    """Its learning rate waits for a key of ours."""

    def __init__(self, monitor: str) -> None:
        super().__init__()
        self.monitor = monitor

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", 0.5, patience=50)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor}}


@pytest.mark.parametrize("dropped", [(1, 3), (1, 2, 3)])
@OF_ANALYSES
def test_no_drop_ends_a_fit_whatever_waits_for_it(tmp_path: Path, name: str, dropped: tuple[int, ...]) -> None:
    callback = dropping(analysis(name), *dropped)
    key = always_there(callback)
    seen: list[Any] = []

    class Gate(EarlyStopping):
        def _evaluate_stopping_criteria(self, current: torch.Tensor) -> tuple[bool, str | None]:
            seen.append(current.item())
            return super()._evaluate_stopping_criteria(current)

    gate, best = Gate(key, mode="max", patience=50), ModelCheckpoint(tmp_path / "best", monitor=key, mode="max")
    every = ModelCheckpoint(tmp_path / "every", monitor=key, save_top_k=-1, filename="{step}")
    run = fit(tmp_path, [callback, gate, best, every], Plateau(key), enable_checkpointing=True)
    assert run.global_step == 3 * STEPS
    assert callback.failed == len(dropped)
    # Gates act on the values of their own validation, once each, and on nothing else.
    assert seen == pytest.approx([reading.values[key] for reading in callback.history.readings], rel=1e-6)
    assert len(list((tmp_path / "every").iterdir())) == 3
    read = {f"epoch={n}-step={(n + 1) * STEPS}.ckpt" for n in range(3) if n + 1 not in dropped}
    if read:
        assert Path(best.best_model_path).name in read
    assert gate.strict
    assert "_monitor_candidates" not in vars(best)


@OF_ANALYSES
def test_what_a_reading_leaves_undefined_leaves_no_old_value(tmp_path: Path, name: str) -> None:
    callback = analysis(name)
    key = always_there(callback)
    works = callback.finish

    def finish(reading: Any) -> dict[str, Any]:
        found = dict(works(reading))
        if len(callback.history) == 1:
            found[key.removeprefix(callback.prefix)] = float("nan")
        return found

    callback.finish = finish  # type: ignore[method-assign]
    there: list[bool] = []

    class Look(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if not trainer.sanity_checking:
                there.append(key in trainer.callback_metrics)

    run = fit(tmp_path, [callback, Look(), EarlyStopping(key, mode="max", patience=50)])
    assert run.global_step == 3 * STEPS
    assert there == [True, False, True]


# ------------------------------------------------- work around a reading


BAD: dict[str, Any] = {"a vector": torch.zeros(8), "a mapping": {"a": 1.0}, "nothing": None, "words": "high"}


@OF_ANALYSES
def test_what_is_no_number_is_refused_in_the_sanity_check(tmp_path: Path, name: str) -> None:
    for bad in BAD.values():
        callback, model = analysis(name), Tagger()
        works = callback.finish
        callback.finish = lambda reading, works=works, bad=bad: {**works(reading), "planted": bad}  # type: ignore[method-assign]
        with pytest.raises(ValueError, match=r"'planted' is a .* one number under a key"):
            fit(tmp_path, [callback], model)
        assert model.global_step == 0


@OF_ANALYSES
def test_what_is_no_number_later_costs_its_reading(tmp_path: Path, name: str) -> None:
    callback = analysis(name)
    works, bad = callback.finish, iter([1.0, *BAD.values(), 1.0])
    callback.finish = lambda reading: {**works(reading), "planted": next(bad)}  # type: ignore[method-assign]
    run = fit(tmp_path, [callback], max_epochs=len(BAD) + 1)
    assert run.global_step == (len(BAD) + 1) * STEPS
    assert (len(callback.history), callback.failed) == (1, len(BAD))


AROUND = ("settings", "commit", "conditional_keys", "full_key", "begin", "logged_keys", "figures", "charts")


@OF_ANALYSES
def test_nothing_around_a_reading_ends_a_fit(tmp_path: Path, name: str) -> None:
    callback = analysis(name)
    failed: list[str] = []

    def failing(where: str, works: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # One place a reading, from the second on.
            if len(callback.history) + callback.failed == 1 + AROUND.index(where):
                failed.append(where)
                raise KeyError("planted")
            return works(*args, **kwargs)

        return call

    for where in AROUND:
        setattr(callback, where, failing(where, getattr(callback, where)))
    run = fit(tmp_path, [callback], max_epochs=len(AROUND) + 2)
    assert run.global_step == (len(AROUND) + 2) * STEPS
    assert {"settings", "full_key", "begin", "logged_keys"} <= set(failed)
    assert len(callback.history) + callback.failed == len(AROUND) + 2


@OF_ANALYSES
def test_fewer_loaders_later_cost_readings(tmp_path: Path, name: str) -> None:
    class Fewer(Tagger):
        def val_dataloader(self) -> list[Any]:
            return [loader(seed=1), loader(seed=2)][: 2 if self.trainer.current_epoch < 1 else 1]

        def train_dataloader(self) -> Any:
            return loader()

    callback = analysis(name)
    if not callback.reads_batches:
        pytest.skip("reads no validation batch")
    callback.dataloader_idx = 1
    pl.seed_everything(2, verbose=False)
    run = trainer(tmp_path, [callback], max_epochs=3, reload_dataloaders_every_n_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(Fewer())
    assert run.global_step == 3 * STEPS
    assert (len(callback.history), callback.failed) == (1, 2)


# ------------------------------------------------- copies


class Strict(pickle.Pickler):
    """Refuses what belongs to a run."""

    def __init__(self, file: io.BytesIO, model: nn.Module) -> None:
        super().__init__(file)
        self.own = {id(one) for one in (*model.modules(), *model.parameters(), *model.buffers())}

    def persistent_id(self, obj: Any) -> None:
        assert not isinstance(obj, pl.Trainer | weakref.ref), obj
        assert id(obj) not in self.own, obj


def copied(callback: pl.Callback, model: nn.Module) -> pl.Callback:
    file = io.BytesIO()
    Strict(file, model).dump(callback)
    found: pl.Callback = pickle.loads(file.getvalue())
    return found


@BY_NAME
def test_a_callback_is_pickled_before_during_and_after_a_fit(tmp_path: Path, name: str) -> None:
    copies: dict[str, pl.Callback] = {}
    *others, callback = CALLBACKS[name](False)

    class Pickle(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            copies["train"] = copied(callback, pl_module)

        def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
            copies["batch"] = copied(callback, pl_module)

        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            copies["end"] = copied(callback, pl_module)

    model = Tagger()
    copies["before"] = copied(callback, model)
    fit(tmp_path, [*others, callback, Pickle()], model, max_epochs=1)
    copies["after"] = copied(callback, model)
    assert isinstance(copies["after"], type(callback))
    if isinstance(callback, ValidationAnalysis):
        assert timeless(copies["after"]) == timeless(callback)  # type: ignore[arg-type]
    # Whenever it was taken, a copy does in another Trainer what the callback does.
    fresh = CALLBACKS[name](False)
    fit(tmp_path / "fresh", fresh, max_epochs=1)
    for when in ("batch", "after"):
        one = copies[when]
        fit(tmp_path / when, [*CALLBACKS[name](False)[:-1], one], max_epochs=1)
        if isinstance(one, ValidationAnalysis):
            assert timeless(one) == timeless(fresh[-1])  # type: ignore[arg-type]
        else:
            assert one.state_dict() == fresh[-1].state_dict()


@OF_ANALYSES
def test_analyze_after_a_fit_is_analyze_of_a_fresh_callback(tmp_path: Path, name: str) -> None:
    callback, model = offline(name), Tagger()
    fit(tmp_path, [callback], model)
    before = timeless(callback)
    found = analyze(model, loader(seed=3), callback)
    assert found == analyze(model, loader(seed=3), offline(name))
    assert found
    assert timeless(callback) == before


@OF_ANALYSES
def test_another_trainer_that_validates_takes_nothing(tmp_path: Path, name: str) -> None:
    callback, model = analysis(name), Tagger()
    run = fit(tmp_path, [callback], model, max_epochs=1)
    trainer(tmp_path / "other", [callback]).validate(model, loader(seed=1), verbose=False)
    run.fit_loop.max_epochs = 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(model, loader(), loader(seed=1))
    assert [(reading.step, reading.index) for reading in callback.history.readings] == [(5, 0), (10, 1)]


@BY_NAME
def test_its_name_in_a_checkpoint_costs_a_step_nothing(name: str) -> None:
    callback = CALLBACKS[name](False)[-1]
    if isinstance(callback, ValidationAnalysis):
        assert callback.state_key is callback.state_key


# ------------------------------------------------- the model of the moment, and all that it holds


def held(model: nn.Module) -> list[tuple[str, Any]]:
    """Every object that a model holds, by place: parameters, buffers, hooks, attributes."""
    found: list[tuple[str, Any]] = []
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_parameters", "_buffers", "_modules") or attribute.endswith("_hooks"):
                found += [(f"{name}.{attribute}.{key}", one) for key, one in value.items()]
            elif attribute not in ("_trainer", "_fabric", "training") and not isinstance(module, torchmetrics.Metric):
                found.append((f"{name}.{attribute}", value))
    return found


@BY_NAME
def test_what_a_model_holds_is_the_same_objects_after_a_reading(tmp_path: Path, name: str) -> None:
    before: list[tuple[str, Any]] = []
    differ: list[str] = []

    class First(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            before[:] = held(pl_module)

    class Last(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            after = held(pl_module)
            assert [place for place, _ in after] == [place for place, _ in before]
            differ.extend(place for (place, old), (_, new) in zip(before, after, strict=True) if old is not new)

    class Attributes(Tagger):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(3))
            self.notes = {"list": [1]}
            self.encoder.tag = ["own"]

    fit(tmp_path, [First(), *CALLBACKS[name](False), Last()], Attributes(), max_epochs=2)
    # Lightning's own, and what Tagger collects in the validation itself.
    assert set(differ) <= {"._current_fx_name", "._metric_attributes"}


class Averaging(WeightAveraging):
    """The average stands in for the weights in validation; it begins far from them."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx < 2


@OF_ANALYSES
def test_weights_that_were_validated_are_read_wherever_the_averaging_stands(tmp_path: Path, name: str) -> None:
    found = []
    for first in (True, False):
        callback, averaging = analysis(name), Averaging(use_buffers=True)
        others = [averaging, callback] if first else [callback, averaging]
        fit(tmp_path / str(first), others)
        found.append(timeless(callback))
    assert len(found[0]) == 3
    assert found[0] == found[1]
    if name == ANALYSES[0]:
        plain = analysis(name)
        fit(tmp_path / "plain", [plain])
        assert timeless(plain) != found[0]


class Louder(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        if hasattr(base, "attention"):
            self.attention = base.attention  # where it was, too
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * self.base(x)


def wrapped(model: Tagger) -> None:
    model.encoder = Louder(model.encoder)  # type: ignore[assignment]
    model.embedding = Louder(model.embedding)  # type: ignore[assignment]


def replaced(model: Tagger) -> None:
    model.encoder = nn.Sequential(nn.Linear(8, 8))
    model.embedding = copy.deepcopy(model.embedding)
    model.head = nn.Linear(8, 3)


@pytest.mark.parametrize("change", [wrapped, replaced])
@OF_ANALYSES
def test_a_site_that_is_wrapped_or_replaced_is_followed_by_name(
    tmp_path: Path, name: str, change: Callable[[Tagger], None]
) -> None:
    class Changes(Tagger):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                with torch.random.fork_rng():
                    change(self)

    live, model = analysis(name), Changes()
    pl.seed_everything(2, verbose=False)
    run = trainer(tmp_path, [live], max_epochs=2)
    with pytest.warns(UserWarning, match="has other modules at .* found by name, and from step 10 on") as caught:
        run.fit(model, loader(), loader(seed=1))
    assert sum("has other modules" in str(one.message) for one in caught) == 1
    assert (len(live.history), live.failed) == (2, 0)
    # What stands there now is what is read: a callback that never saw the first model finds the same.
    adds_up = particular(name).adds_up
    fresh = offline(name) if adds_up else analysis(name)
    trainer(tmp_path / "fresh", [fresh]).validate(model, loader(seed=1), verbose=False)
    last = live.history.readings[-1].values
    alike = [key for key in fresh.reading if key in last and "seconds" not in key]
    alike = [key for key in alike if key.split("/")[0] not in particular(name).since_first]
    assert alike
    for key in alike:
        if not adds_up and not any(kept in key for kept in ("baseline", "failed", "acquired", "projection_", "early")):
            assert fresh.reading[key] == pytest.approx(last[key], rel=1e-5, abs=1e-6), key


class Late(Tagger):
    """A part of the model exists from the first training step on; another is registered at its first forward."""

    def on_train_start(self) -> None:
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.zeros(input_ids.shape[1], 8), persistent=False)
        z = self.embedding(input_ids) + self.table[: input_ids.shape[1]]
        return self.head(self.encoder(z))


@pytest.mark.parametrize("sanity", [0, 2])
@OF_ANALYSES
def test_modules_and_buffers_that_come_late_cost_no_reading(tmp_path: Path, name: str, sanity: int) -> None:
    callback = analysis(name)
    run = fit(tmp_path, [callback], Late(), num_sanity_val_steps=sanity)
    assert run.global_step == 3 * STEPS
    assert (len(callback.history), callback.failed) == (3, 0)


# ------------------------------------------------- nothing read, nothing said


class Without(Tagger):
    validation_step = pl.LightningModule.validation_step


SILENT: dict[str, tuple[type[Tagger], dict[str, Any], str]] = {
    "no step": (Without, {}, "Without has no validation_step"),
    "no batches": (Tagger, {"limit_val_batches": 0}, "limit_val_batches=0"),
    "never": (Tagger, {"check_val_every_n_epoch": 9}, "check_val_every_n_epoch=9 and max_epochs=2"),
}


@pytest.mark.parametrize("case", SILENT)
@BY_NAME
def test_a_fit_that_will_not_validate_is_told_at_the_start(tmp_path: Path, name: str, case: str) -> None:
    if case == "never" and particular(name).every_step is not None:
        pytest.skip("it decides itself when to validate")
    kind, settings, why = SILENT[case]
    pl.seed_everything(2, verbose=False)
    run = trainer(tmp_path, CALLBACKS[name](False), **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(kind(), loader(), loader(seed=1))
    told = [str(one.message) for one in caught if "will not validate" in str(one.message)]
    assert any(name in one for one in told), told
    assert all(why in one for one in told)


@OF_ANALYSES
def test_a_fit_that_ends_without_a_reading_says_so(tmp_path: Path, name: str) -> None:
    callback = dropping(analysis(name), 1, 2)
    pl.seed_everything(2, verbose=False)
    run = trainer(tmp_path, [callback], max_epochs=2)
    with pytest.warns(UserWarning, match=f"ended without a reading \\({name}: 2 validation runs, 2 dropped"):
        run.fit(Tagger(), loader(), loader(seed=1))


# ------------------------------------------------- words that are wrong


@OF_ANALYSES
def test_an_argument_that_it_does_not_have_is_told_in_its_own_name(name: str) -> None:
    kind = type(analysis(name))
    with pytest.raises(TypeError, match=f"{name} has no argument `every_n_validation`. Nearest: `every_n_validations`"):
        _made_with(kind, every_n_validation=2)


def _made_with(kind: type, **kwargs: Any) -> Any:
    """As a user would, with whatever else it cannot do without."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    needed = [one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if "targets" in (one.name for one in parameters):
        needed.append("labels")
    given = {"tasks": tasks, "facts": FACTS, "treebank": treebank, "entities": entities, "statements": statements}
    given |= {"directions": {"letter": (["a", "b"], ["c", "d"])}, "prompts": ["e"]}
    given |= {"metrics": Norm(), "sites": "encoder", "tokenizer": letters, "labels": ["tags"], "target": "tags"}
    return kind(**{one: given.get(one, "encoder") for one in needed}, **kwargs)


@OF_ANALYSES
def test_a_gate_on_a_measure_that_nobody_logs_is_refused_at_the_start(tmp_path: Path, name: str) -> None:
    callback, model = analysis(name), Tagger()
    firsts = {key.split("/")[0] for key in callback.measures(model)}
    assert all(is_measure(first) or MEASURES[first].common for first in firsts)
    # A plain name may be one of the model's own metrics.
    key = next(key for key in callback.measures(model) if "/" in key and is_measure(key.split("/")[0]))
    other = ValidationOnly()
    with pytest.raises(ValueError, match="which nobody logs"):
        fit(tmp_path, [other, EarlyStopping(key)], model)
    assert model.global_step == 0


class ValidationOnly(ValidationAnalysis):
    """Reads next to nothing."""

    def measures(self, model: Any = None) -> dict[str, str]:
        return {"batches": "summary"}

    def resolve(self, model: Any) -> None:
        self.seen = 0

    def begin(self, reading: Any) -> None:
        self.seen = 0

    def after_batch(self, seen: Any) -> None:
        self.seen += 1

    def finish(self, reading: Any) -> dict[str, float]:
        return {"batches": float(self.seen)}


@OF_ANALYSES
def test_a_reading_that_leaves_another_parameter_is_dropped_and_it_is_put_back(tmp_path: Path, name: str) -> None:
    callback, model = analysis(name), Tagger()
    works, weight, steps = callback.finish, model.encoder[0].weight, []

    def finish(reading: Any) -> Mapping[str, Any]:
        found = works(reading)
        if len(callback.history) == 1 and not callback.failed:
            model.encoder[0].weight = nn.Parameter(torch.zeros(8, 8))
        return found

    class Steps(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            steps.append(weight.detach().clone())

    callback.finish = finish  # type: ignore[method-assign]
    fit(tmp_path, [callback, Steps()], model)
    assert [reading.index for reading in callback.history.readings] == [0, 2]
    assert model.encoder[0].weight is weight
    # It goes on being trained.
    assert not torch.equal(steps[1], steps[2])
