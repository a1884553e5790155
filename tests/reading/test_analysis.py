"""Life of a reading: bad input, failures, resume, several processes, configuration files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import (
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    TrainingPhases,
    ValidationAnalysis,
    analyze,
)
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics import SpectralGeometry
from lightning_interp.reading.reading import Reading
from tests.toy import Norm, Sequences, Tagger, loader, trainer


def structure(**kwargs: object) -> RepresentationStructure:
    return RepresentationStructure(
        **{"sites": {"enc": "encoder"}, "labels": ["token"], "min_count": 2, "draw_figures": False, **kwargs}
    )


def fit(folder: object, callbacks: list[pl.Callback], model: pl.LightningModule | None = None, **kwargs: object):
    run = trainer(folder, callbacks, **kwargs)
    run.fit(model or Tagger(), loader(), loader(seed=1))
    return run


# ------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"every_n_validations": 0}, "`every_n_validations` must be at least 1, got 0"),
        ({"max_examples": 0}, "`max_examples` must be at least 1, or None for all, got 0"),
        ({"dataloader_idx": -1}, "`dataloader_idx` must be at least 0, got -1"),
        ({"log": "everything"}, "`log` must be 'summary' or 'full', got 'everything'"),
        ({"on_error": "ignore"}, "`on_error` must be 'drop' or 'raise', got 'ignore'"),
        ({"estimator": "kde"}, "`estimator` must be one of .'soft', 'binned', 'both'., got 'kde'"),
        ({"labels": "token"}, "`labels` must be a list of names or a mapping, got the string 'token'"),
        ({"labels": ["a/b"]}, "`labels` holds 'a/b'"),
        ({"labels": ["token", "token"]}, "names a set twice"),
        ({"min_count": 0}, "`min_count` must be at least 1, got 0"),
        ({"average": "mean"}, "`average` must be 'frequency' or 'plain', got 'mean'"),
        ({"jackknife": 1}, "`jackknife` needs at least 2 groups"),
        ({"information_plane": ["bigram", "token"]}, "'bigram' is nested under 'token'"),
        ({"information_plane": ["token"]}, "must name two label sets"),
        ({"bins": 1, "estimator": "binned"}, "`bins` must be between 2 and 256, got 1"),
        ({"num_points": 1}, "`num_points` must be at least 2, got 1"),
        ({"skip_positions": -1}, "`skip_positions` must be at least 0, got -1"),
    ],
)
def test_arguments_are_refused_at_once(kwargs: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        structure(**kwargs)


def test_unknown_site_lists_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)encodr.*encoder"):
        fit(tmp_path, [structure(sites="encodr")])


class Alike(RepresentationGeometry):
    """Logs under a name of its own, and does not say by what a checkpoint tells it from another."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__("encoder", **kwargs)
        self.name = name

    def full_key(self, key: str) -> str:
        return super().full_key(f"{self.name}_{key}")


class Nameless(Alike):
    def identity(self) -> dict[str, Any]:
        return {}


def test_two_callbacks_that_a_checkpoint_would_not_tell_apart_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Two Alike are not told apart in a checkpoint \(sites='encoder'.*`prefix`"):
        fit(tmp_path, [Alike("a"), Alike("b")])
    with pytest.raises(ValueError, match=r"Two Nameless .* \(`identity\(\)` tells nothing\).*another `identity\(\)`"):
        fit(tmp_path, [Nameless("a"), Nameless("b")])
    one, other = Alike("a"), Alike("b", prefix="p/")
    fit(tmp_path, [one, other])
    assert one.state_key != other.state_key
    assert one.state_key == Alike("c").state_key  # which object it is has no part in it


def test_two_callbacks_with_one_key_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"would both log .*prefix"):
        fit(tmp_path, [structure(), structure(labels=["token", "tags"])])
    # Two that are alike in all, of which Lightning would say that their states are: it is told what they log.
    with pytest.raises(ValueError, match=r"would both log .*prefix"):
        fit(tmp_path, [structure(), structure()])
    with pytest.raises(ValueError, match=r"would both log .*prefix"):
        trainer(tmp_path, [structure(), structure()]).validate(Tagger(), loader(), verbose=False)
    run = fit(
        tmp_path, [structure(), structure(prefix="b/"), RepresentationGeometry(sites={"enc": "encoder"}, log="full")]
    )
    assert {"information/enc", "b/information/enc", "matrix_entropy/enc"} <= set(run.callback_metrics)


class Plain(Tagger):
    """Batches in another form than a dict with input_ids and attention_mask."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> object:
        if not self.trainer.validating and not self.trainer.sanity_checking:
            return batch
        return {
            "no tokens": {"words": batch["input_ids"], "attention_mask": batch["attention_mask"]},
            "no mask": {"input_ids": batch["input_ids"]},
            "wrong mask": {**batch, "attention_mask": batch["attention_mask"][:, :-1]},
            "tuple": (batch["input_ids"], batch["tags"]),
        }[self.form]

    def validation_step(self, batch: object, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch[0] if isinstance(batch, tuple) else batch.get("words", batch.get("input_ids")))

    def on_validation_epoch_end(self) -> None:
        pass


@pytest.mark.parametrize(
    ("form", "kwargs", "text"),
    [
        ("no tokens", {}, r"(?s)no token ids.*'words': int64 \(8, 7\).*`tokens=`"),
        ("no tokens", {"tokens": "ids"}, r"`tokens` points to 'ids', which is not in the batch.*'words'"),
        ("no mask", {}, r"no padding mask.*`padding_idx=`"),
        ("tuple", {}, r"no padding mask.*`padding_idx=`"),
        ("wrong mask", {}, r"mask \(8, 6\) .* token ids \(8, 7\)"),
        ("tuple", {"labels": {"array": list(range(30))}, "padding_idx": 0}, r"array of length 30.* 40 samples"),
        ("tuple", {"labels": ["colour"], "padding_idx": 0}, r"`labels\['colour'\]` points to 'colour'"),
        (
            "tuple",
            {"labels": {"x": lambda batch: batch[1][:3]}, "padding_idx": 0},
            r"'x' gave shape \(3, 7\) for a batch of 8",
        ),
        ("tuple", {"labels": ["token"], "padding_idx": 0, "layout": "TBD"}, r"\(8, 7, 8\)"),
        ("tuple", {"tokens": {"dec": 0}}, r"`tokens` names sites \['dec'\]"),
    ],
)
def test_what_a_batch_lacks_is_said_in_the_sanity_check(tmp_path: Path, form: str, kwargs: dict, text: str) -> None:
    with pytest.raises(Exception, match=text):
        fit(tmp_path, [structure(**kwargs)], Plain(form))


@pytest.mark.parametrize(
    ("form", "kwargs"),
    [("no tokens", {"tokens": "words"}), ("no mask", {"padding_idx": 0}), ("tuple", {"padding_idx": 0})],
)
def test_other_batches_give_the_same_reading(tmp_path: Path, form: str, kwargs: dict) -> None:
    usual, other = structure(), structure(**kwargs)
    for callback, model in ((usual, Tagger()), (other, Plain(form))):
        pl.seed_everything(0)
        fit(tmp_path, [callback], model)
    for key in ("information/enc", "regularity/enc/token", "rows/enc"):
        assert other.reading[key] == usual.reading[key]


def test_mask_that_does_not_fit_the_site_gives_both_shapes(tmp_path: Path) -> None:
    class Longer(Tagger):
        def __init__(self) -> None:
            super().__init__()
            self.pad = nn.ZeroPad2d((0, 0, 0, 2))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            z = self.embedding(ids)
            self.pad(z)
            return self.head(self.encoder(z))

    with pytest.raises(ValueError, match=r"mask \(8, 7\) does not fit .*\(8, 9, 8\) of site 'pad'"):
        fit(tmp_path, [structure(sites="pad")], Longer())


def test_ignored_and_skipped_positions(tmp_path: Path) -> None:
    data = Sequences(40, seed=1)
    plain, ignoring, skipping = structure(), structure(ignore_tokens=[3]), structure(skip_positions=1)
    for callback in (plain, ignoring, skipping):
        fit(tmp_path, [callback], max_epochs=1)
    assert plain.reading["rows/enc"] == data.mask.sum()
    assert ignoring.reading["rows/enc"] == (data.mask & (data.ids != 3)).sum()
    assert ignoring.reading["num_labels/enc/token"] == plain.reading["num_labels/enc/token"] - 1
    assert skipping.reading["rows/enc"] == data.mask.sum() - len(data)


# ------------------------------------------------- failures


class Failing(RepresentationGeometry):
    """Fails at chosen validations; the sanity check is number 0."""

    def __init__(self, where: str, at: tuple[int, ...], **kwargs: object) -> None:
        super().__init__(sites={"enc": "encoder"}, **kwargs)
        self.where, self.at, self.seen = where, at, -1

    def begin(self, reading: Reading) -> None:
        self.seen += 1
        super().begin(reading)

    def _fail(self, where: str) -> None:
        if self.where == where and self.seen in self.at:
            raise torch.cuda.OutOfMemoryError(f"planted in {where}")

    def before_batch(self, seen: Seen) -> None:
        self._fail("before")
        super().before_batch(seen)

    def after_batch(self, seen: Seen) -> None:
        self._fail("after")
        super().after_batch(seen)

    def finish(self, reading: Reading) -> object:
        self._fail("finish")
        return super().finish(reading)


@pytest.mark.parametrize("where", ["before", "after", "finish"])
def test_a_reading_that_fails_is_dropped_and_training_goes_on(tmp_path: Path, where: str) -> None:
    callback = Failing(where, at=(2, 3))
    model, plain = Tagger(), Tagger()
    pl.seed_everything(0)
    with pytest.warns(UserWarning, match=f"dropped a reading.*planted in {where}") as caught:
        run = fit(tmp_path, [callback], model, max_epochs=4)
    assert sum("dropped" in str(one.message) for one in caught) == 1
    # What is missing leaves a gap.
    assert [r.index for r in callback.history.readings] == [0, 3]
    assert [r.step for r in callback.history.readings] == [5, 20]
    assert run.callback_metrics["failed/Failing"] == 2
    pl.seed_everything(0)
    fit(tmp_path, [], plain, max_epochs=4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_the_sanity_check_and_on_error_raise(tmp_path: Path) -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError, match="planted"):
        fit(tmp_path, [Failing("finish", at=(0,))])
    with pytest.raises(torch.cuda.OutOfMemoryError, match="planted"):
        fit(tmp_path, [Failing("after", at=(0,))], num_sanity_val_steps=0)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="planted"):
        fit(tmp_path, [Failing("finish", at=(2,), on_error="raise")])


def test_sanity_check_logs_nothing(tmp_path: Path) -> None:
    callback = structure()

    class Peek(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.seen = set(trainer.callback_metrics), len(callback.history)

    peek = Peek()
    fit(tmp_path, [callback, peek])
    assert not any(key.startswith("information") for key in peek.seen[0])
    assert peek.seen[1] == 0


def test_hooks_are_gone_after_the_fit_and_after_an_exception(tmp_path: Path) -> None:
    model = Tagger()
    fit(tmp_path, [structure()], model)
    assert not model.encoder._forward_hooks

    class Stop(pl.Callback):
        def on_train_batch_end(self, *args: object) -> None:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, [structure(), Stop()], model)
    assert not model.encoder._forward_hooks


def test_vectors_that_are_not_finite_are_left_out_counted_and_told(tmp_path: Path) -> None:
    class Broken(Tagger):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            z = self.embedding(ids)
            if not self.training:
                z = z.clone()
                z[0, 0] = float("nan")
            return self.head(self.encoder(z)).nan_to_num()

    callback = structure()
    with pytest.warns(UserWarning, match="not finite"):
        run = fit(tmp_path, [callback], Broken(), max_epochs=1)
    assert callback.reading["nonfinite/enc"] == 5 == run.callback_metrics["nonfinite/enc"]
    assert callback.reading["rows/enc"] == Sequences(40, seed=1).mask.sum() - 5


def test_a_clean_run_has_no_warning_of_our_making(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, [structure(), RepresentationGeometry(sites={"enc": "encoder"})])
    ours = [one for one in caught if "lightning_interp" in str(one.filename) or "Representation" in str(one.message)]
    assert not ours, [str(one.message) for one in ours]


def test_shuffled_validation_is_told_once(tmp_path: Path) -> None:
    run = trainer(tmp_path, [structure()], max_epochs=3)
    with pytest.warns(UserWarning, match="shuffles") as caught:
        run.fit(Tagger(), loader(), loader(seed=1, shuffle=True))
    assert sum("does not tell which samples" in str(one.message) for one in caught) == 1


# ------------------------------------------------- state


def test_resume_goes_on_with_the_history(tmp_path: Path) -> None:
    def callbacks() -> list[pl.Callback]:
        return [structure(every_n_validations=2), structure(prefix="b/", labels=["tags"])]

    pl.seed_everything(0)
    whole = callbacks()
    fit(tmp_path / "whole", whole, max_epochs=6)
    pl.seed_everything(0)
    first, second = callbacks(), callbacks()
    save = pl.callbacks.ModelCheckpoint(tmp_path / "part", save_last=True)
    model = Tagger()
    fit(tmp_path / "part", [*first, save], model, max_epochs=3, enable_checkpointing=True)
    path = tmp_path / "part" / "last.ckpt"
    stored = torch.load(path, weights_only=True)["callbacks"]
    assert sum("RepresentationStructure" in key for key in stored) == 2
    run = trainer(tmp_path / "part", second, max_epochs=6)
    run.fit(Tagger(), loader(), loader(seed=1), ckpt_path=path, weights_only=True)
    for one, other in zip(whole, second, strict=True):
        assert [r.step for r in one.history.readings] == [r.step for r in other.history.readings]
        assert [r.index for r in other.history.readings] == list(range(len(other.history)))
        before = [r for r in other.history.readings if r.step <= 15]
        for expected, found in zip(one.history.readings, before, strict=False):
            assert {k: v for k, v in expected.values.items() if "seconds" not in k} == {
                k: v for k, v in found.values.items() if "seconds" not in k
            }


def test_a_second_trainer_starts_a_new_history(tmp_path: Path) -> None:
    callback = structure()
    fit(tmp_path, [callback])
    fit(tmp_path, [callback])
    assert [r.step for r in callback.history.readings] == [5, 10]


# ------------------------------------------------- other kinds of model


def test_images_with_classes_as_labels(tmp_path: Path) -> None:
    class Vision(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(4, 3)

        def training_step(self, batch: list, batch_idx: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.head(self.pool(self.conv(batch[0]))), batch[1])

        def validation_step(self, batch: list, batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(30, 1, 6, 6), torch.arange(30) % 3), batch_size=10)
    callback = RepresentationStructure(sites=["conv", "pool"], labels={"class": 1}, shuffles=0)
    trainer(tmp_path, [callback]).fit(Vision(), data, data)
    assert callback.reading["rows/conv"] == 30 * 16
    assert callback.reading["rows/pool"] == 30
    assert callback.reading["num_labels/pool/class"] == 3


def test_any_torchmetrics_metric(tmp_path: Path) -> None:

    callback = RepresentationMetrics({"norm": Norm(), "geometry": SpectralGeometry()}, sites={"enc": "encoder"})
    model = Tagger()
    run = fit(tmp_path, [callback], model)
    data = Sequences(40, seed=1)
    model.eval()
    with torch.no_grad():
        norms = model.encoder(model.embedding(data.ids)).norm(dim=-1)[data.mask]
    assert float(run.callback_metrics["norm/enc"]) == pytest.approx(float(norms.mean()), rel=1e-5)
    assert "effective_rank/enc" in run.callback_metrics
    assert "rankme/enc" in callback.reading


def test_a_site_that_fires_twice(tmp_path: Path) -> None:
    class Twice(Tagger):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(self.encoder(self.embedding(ids))))

    with pytest.raises(RuntimeError, match="2"):
        fit(tmp_path, [structure()], Twice())
    every, last = structure(call="all"), structure(call="last")
    fit(tmp_path, [every], Twice(), max_epochs=1)
    fit(tmp_path, [last], Twice(), max_epochs=1)
    assert every.reading["rows/enc"] == 2 * last.reading["rows/enc"] == 2 * Sequences(40, seed=1).mask.sum()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_model(tmp_path: Path, backend: str) -> None:
    plain, compiled = structure(), structure()
    model = Tagger()
    fit(tmp_path, [plain], model)
    twin = Tagger()
    twin.encoder.compile(backend=backend)
    pl.seed_everything(0)
    fit(tmp_path, [compiled], twin)
    assert compiled.reading["rows/enc"] == plain.reading["rows/enc"]
    assert [r.step for r in compiled.history.readings] == [5, 10]


def test_what_was_not_logged_at_a_validation_does_not_stand_in_its_row(tmp_path: Path) -> None:
    class Rare(Tagger):
        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            if self.current_epoch % 2:
                self.log("rare", float(self.current_epoch))

    callback = RepresentationGeometry({"enc": "encoder"}, draw_figures=False)
    phases = TrainingPhases(improving={"val_acc": "max"}, draw_figures=False)
    fit(tmp_path, [phases, callback], Rare(), max_epochs=4)
    assert [reading.context.get("rare") for reading in callback.history.readings] == [None, 1.0, None, 3.0]
    assert all("val_loss" in reading.context for reading in callback.history.readings)
    # The phase is told when the reading is over.
    assert not any("phase/current" in reading.context for reading in callback.history.readings)


class Hours(pl.Callback):
    """A clock that only training steps and readings move: an hour each batch."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def on_train_batch_end(self, *args: object) -> None:
        self.now += 1


class Slow(RepresentationGeometry):
    """Takes an hour for each batch that it reads."""

    clock: Hours

    def after_batch(self, seen: Seen) -> None:
        super().after_batch(seen)
        self.clock.now += 1


@pytest.mark.parametrize(
    ("share", "steps"), [(None, [5, 10, 15, 20]), (0.9, [5, 10, 15, 20]), (0.4, [5, 20]), (0.01, [5])]
)
def test_readings_are_thinned_to_their_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float | None, steps: list[int]
) -> None:
    clock = Hours()
    monkeypatch.setattr("lightning_interp.reading.analysis.time", clock)
    callback = Slow({"enc": "encoder"}, max_overhead=share, draw_figures=False)
    callback.clock = clock
    # Five training batches and five that are read: with the sanity check, half of the time goes into readings.
    fit(tmp_path, [clock, callback], Tagger(), max_epochs=4, num_sanity_val_steps=1)
    assert [reading.step for reading in callback.history.readings] == steps
    assert callback.state_dict()["spent"] == 5 * len(steps)


def test_the_share_of_time_goes_on_in_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Hours()
    monkeypatch.setattr("lightning_interp.reading.analysis.time", clock)
    first = Slow({"enc": "encoder"}, max_overhead=0.4, draw_figures=False)
    first.clock = clock
    run = fit(tmp_path, [clock, first], Tagger(), max_epochs=2)
    run.save_checkpoint(tmp_path / "half.ckpt")
    clock.now = 10_000.0  # a night in between does not count
    again = Slow({"enc": "encoder"}, max_overhead=0.4, draw_figures=False)
    again.clock = clock
    rest = trainer(tmp_path, [clock, again], max_epochs=4)
    rest.fit(Tagger(), loader(), loader(seed=1), ckpt_path=tmp_path / "half.ckpt")
    assert [reading.step for reading in again.history.readings] == [5, 20]


# ------------------------------------------------- hooks and state of one's own


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("after_batch", lambda self, batch, selection: None),
        ("before_batch", lambda self, batch, selection: None),
        ("begin", lambda self: None),
        ("finish", lambda self: {}),
    ],
)
def test_a_hook_that_could_not_be_called_is_refused_with_the_class(name: str, hook: Any) -> None:
    with pytest.raises(TypeError, match=rf"`Own.{name}` is called with \((seen|reading)\), and takes"):
        type("Own", (ValidationAnalysis,), {name: hook})


class Counted(ValidationAnalysis):
    """Counts batches over a whole fit."""

    def measures(self, model: Any = None) -> dict[str, str]:
        return {"batches": "summary"}

    def clear(self) -> None:
        super().clear()
        self.batches = 0

    def after_batch(self, seen: Seen) -> None:
        self.batches += 1

    def finish(self, reading: Reading) -> dict[str, float]:
        return {"batches": float(self.batches)}


def test_what_a_fit_left_does_not_enter_a_reading_of_a_finished_model(tmp_path: Path) -> None:
    callback = Counted(draw_figures=False)
    trainer(tmp_path, [callback], max_epochs=2, num_sanity_val_steps=0).fit(Tagger(), loader(24), loader(24, seed=1))
    left, history = callback.batches, list(callback.history)
    data = loader(24, seed=1)
    assert analyze(Tagger(), data, callback, progress=False) == {"batches": len(data)}
    assert (callback.batches, list(callback.history)) == (left, history)
    assert left > len(data)
