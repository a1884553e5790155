"""Stopping within a phase: at the reading that the readings imply, whatever the order, the ranks and the resume."""

from __future__ import annotations

import csv
import math
import tempfile
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from lightning_interp import PhaseEarlyStopping, TrainingPhases
from tests.callbacks.scripted import STEPS, Curve, Scripted, falling_loss, noise, rising, rising_until, run, saturating
from tests.callbacks.test_training_phases import Record, Robustness, phases

LONG = 700
PLANTED: dict[str, Curve] = {"val_loss": falling_loss, "ood": rising_until(200)}


def stopper(**kwargs: object) -> PhaseEarlyStopping:
    return PhaseEarlyStopping(**{"monitor": "ood", "patience": 4, **kwargs})


def implied(record: Record, key: str, patience: int, mode: str = "max") -> tuple[int, float, int]:
    """Step of the stop, best value and its step, by hand from what every validation showed."""
    best, best_step, waited = None, None, 0
    for step, seen in record.seen.items():
        if seen.get("phase/current", 0) < 2:
            continue
        value = seen[key] if mode == "max" else -seen[key]
        if best is None or value > best:
            best, best_step, waited = value, step, 0
        else:
            waited += 1
        if waited == patience:
            return step, abs(best), best_step
    raise AssertionError("the readings imply no stop")


def test_it_stops_at_the_reading_that_the_readings_imply(tmp_path: Path) -> None:
    record, watching = Record(), phases()
    run(tmp_path, [watching, record], PLANTED, max_steps=LONG, per_decade=16)
    step, best, best_step = implied(record, "ood", 4)
    stop = stopper()
    fit = run(tmp_path, [phases(), stop], PLANTED, max_steps=LONG, per_decade=16)
    assert 200 < step < LONG
    assert fit.global_step == stop.stopped_step == step
    assert (stop.best_value, stop.best_step) == (pytest.approx(best), best_step)
    now = record.seen[step]["ood"]
    text = f"ood is {now:.4g} and did not improve in 4 readings; best: {best:.4g} at step {best_step} (in phase two)"
    assert stop.stopping_reason == text


def test_nothing_counts_before_the_phase(tmp_path: Path) -> None:
    """The best value of all comes before the phase; from then on the value rises steadily."""

    def curve(step: int) -> float:
        return 10.0 - step / 100 if step < 60 else rising(step) + math.log10(step)

    stop = stopper(monitor="other", patience=1)
    fit = run(tmp_path, [phases(improving={"ood": "max"}), stop], {**PLANTED, "other": curve})
    assert fit.global_step == STEPS
    assert stop.stopping_reason is None
    assert 1.5 < stop.best_value < 5
    without = stopper(patience=1)
    fit = run(tmp_path, [phases(), without], {"val_loss": rising, "ood": lambda step: -float(step)})
    assert fit.global_step == STEPS
    assert without.best_value is None
    at_once = stopper(patience=1, phase=1)
    fit = run(tmp_path, [phases(), at_once], {"val_loss": rising, "ood": lambda step: -float(step)})
    assert fit.global_step == at_once.stopped_step == 4


def test_the_order_of_callbacks_does_not_matter(tmp_path: Path) -> None:
    found = []
    for order in ("PSR", "SPR", "RSP"):
        stop, watching, analysis = (
            stopper(monitor="robustness/enc/acc"),
            phases(improving=None),
            Robustness(PLANTED["ood"]),
        )
        chosen = {"P": watching, "S": stop, "R": analysis}
        fit = run(tmp_path, [chosen[name] for name in order], {"val_loss": falling_loss}, max_steps=LONG, per_decade=16)
        found.append((fit.global_step, stop.best_value, stop.stopping_reason, watching.state_dict()))
    assert found[0] == found[1] == found[2]
    assert found[0][0] < LONG


@pytest.mark.parametrize("first", ["phases", "stopping"])
def test_a_validation_is_taken_in_once(tmp_path: Path, first: str) -> None:
    chosen = [phases(), stopper()]
    logger = pl.loggers.CSVLogger(tmp_path, name=None, version="")
    run(tmp_path, chosen if first == "phases" else chosen[::-1], PLANTED, max_steps=60, logger=logger)
    rows = [row.split(",") for row in (tmp_path / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("phase/current")
    assert sum(row[column] != "" for row in rows[1:]) == len(chosen[0].series("ood")[0])


def test_readings_that_are_missing_count_for_nothing(tmp_path: Path) -> None:
    """The key is logged at every third validation, so the patience lasts three times as long."""
    calls: list[int] = []

    def rare(step: int) -> float | None:
        calls.append(step)
        return 0.5 if len(calls) % 3 == 1 else None

    record = Record()
    stop = stopper(monitor="rare", patience=2)
    fit = run(tmp_path, [phases(), record, stop], {**PLANTED, "rare": rare}, per_decade=20)
    begun = [step for step, seen in record.seen.items() if seen.get("phase/current") == 2]
    fresh = [step for step in calls[::3] if step in begun]
    assert fit.global_step == fresh[2]


def test_a_key_that_is_undefined_at_first(tmp_path: Path) -> None:
    stop = stopper(monitor="robustness/enc/acc", patience=3)
    fit = run(
        tmp_path,
        [phases(), stop, Robustness(lambda step: 1.0, undefined_until=250)],
        {"val_loss": falling_loss, "ood": rising},
        per_decade=24,
    )
    assert stop.best_step >= 250
    assert stop.best_step < fit.global_step < STEPS


def test_patience_in_steps_and_standard_errors(tmp_path: Path) -> None:
    curves = {**PLANTED, "slow": lambda step: step / 1e4, "slow/se": lambda step: 0.1}
    by_steps = stopper(patience_steps=150)
    fit = run(tmp_path, [phases(), by_steps], PLANTED, max_steps=LONG, per_decade=16)
    assert fit.global_step - by_steps.best_step >= 150
    logged = stopper(monitor="slow", delta="se", min_delta=1.0)
    fit = run(tmp_path, [phases(), logged], curves, max_steps=LONG, per_decade=16)
    assert fit.global_step == logged.stopped_step < LONG
    assert "by more than 0.1 " in logged.stopping_reason
    fitted = stopper(monitor="jitter", delta="se", min_delta=4.0)
    watching = phases(keys=["jitter"])
    jitter = {**PLANTED, "jitter": lambda step: noise(step, 0.1, 5)}
    fit = run(tmp_path, [watching, fitted], jitter, max_steps=LONG, per_decade=16)
    assert fit.global_step == fitted.stopped_step < LONG
    assert watching.fit("jitter").noise == pytest.approx(0.1, rel=0.5)


@pytest.mark.parametrize(("check_finite", "stops"), [(True, True), (False, False)])
def test_a_value_that_is_not_finite(tmp_path: Path, check_finite: bool, stops: bool) -> None:
    def breaks(step: int) -> float:
        return math.nan if step < 10 or step == STEPS else 1.0 + step

    stop = stopper(monitor="other", check_finite=check_finite)
    run(tmp_path, [phases(), stop], {"val_loss": falling_loss, "ood": rising, "other": breaks})
    assert (stop.stopping_reason == "other is nan, not finite") is stops
    assert math.isfinite(stop.best_value)


def test_the_trainer_has_the_last_word(tmp_path: Path) -> None:
    stop = stopper(patience=1)
    fit = run(tmp_path, [phases(), stop], PLANTED, min_steps=LONG - 20, max_steps=LONG)
    assert fit.global_step >= LONG - 20
    stop = stopper(patience=1, phase=1)
    run(tmp_path, [phases(), stop], {**PLANTED, "ood": lambda step: -float(step)}, fast_dev_run=8)
    assert stop.best_value is None


def test_a_resumed_run_stops_where_the_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = stopper()
    run(tmp_path, [phases(), whole], PLANTED, max_steps=LONG, per_decade=16)
    for cut in (100, 290):
        save = pl.callbacks.ModelCheckpoint(tmp_path / str(cut), save_last=True, every_n_train_steps=cut)
        cut_off = [phases(), stopper(), save]
        run(tmp_path, cut_off, PLANTED, max_steps=cut, per_decade=16, enable_checkpointing=True)
        path = tmp_path / str(cut) / "last.ckpt"
        assert sum("PhaseEarlyStopping" in key for key in torch.load(path, weights_only=True)["callbacks"]) == 1
        rest = stopper()
        fit = run(tmp_path, [phases(), rest], PLANTED, max_steps=LONG, per_decade=16, ckpt_path=path)
        assert fit.global_step == whole.stopped_step
        assert (rest.best_value, rest.best_step) == (whole.best_value, whole.best_step)
        assert rest.stopping_reason == whole.stopping_reason


def test_training_is_untouched_until_it_stops(tmp_path: Path) -> None:
    stop, model = stopper(), Scripted(PLANTED)
    pl.seed_everything(0)
    run(tmp_path, [phases(), stop], model, max_steps=LONG, per_decade=16)
    plain = Scripted(PLANTED)
    pl.seed_everything(0)
    run(tmp_path, [], plain, max_steps=stop.stopped_step, per_decade=16)
    assert torch.equal(model.number, plain.number)


# ------------------------------------------------- ranks


def stops(per_rank: float) -> tuple[int, float | None, int | None]:
    world = dist.get_world_size() if dist.is_initialized() else 1
    stop = stopper()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"strategy": "ddp", "devices": world} if world > 1 else {}
        model = Scripted(PLANTED, per_rank)
        fit = run(folder, [stop, phases()], model, max_steps=LONG, per_decade=16, **settings)
    return fit.global_step, stop.best_value, stop.best_step


def test_ranks_stop_together_and_where_one_process_does(two_ranks: object) -> None:
    # Rank 1 logs other values, without sync_dist; it takes those of rank 0.
    one, other = two_ranks.run(stops, -3.0)
    assert one == other == stops(0.0)


# ------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"mode": "up"}, "`mode` must be 'min' or 'max', got 'up'"),
        ({"patience": 0}, "`patience` must be at least 1, got 0"),
        ({"patience_steps": 0}, "`patience_steps` must be at least 1"),
        ({"min_delta": -1.0}, "`min_delta` must be 0 or more, got -1.0"),
        ({"delta": "sd"}, "`delta` must be one of"),
        ({"delta": "se"}, "0 of them ask for nothing"),
        ({"phase": 0}, "`phase` must be at least 1, for phase one, got 0"),
        ({"if_none": "wait"}, r"`if_none` must be one of \['go on', 'plateau', 'stop'\], got 'wait'"),
    ],
)
def test_arguments_are_refused_at_once(kwargs: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        stopper(**kwargs)


def test_what_it_needs_is_said(tmp_path: Path) -> None:
    for callbacks, text in [
        ([stopper()], r"Trainer\(callbacks=\[TrainingPhases\(loss='val_loss'\), PhaseEarlyStopping\(monitor='ood'\)"),
        ([stopper(phases="x/"), phases()], r"no TrainingPhases has that `prefix`; they have \[''\]"),
        ([stopper(phase=3), phases()], r"has the phases 1 to 2: \['phase one', 'phase two'\]"),
        ([stopper(monitor="odd"), phases()], r"monitors 'odd', which nobody logs\. Nearest: 'ood'\. Available: 'ood'"),
        ([stopper(monitor="z", delta="se", min_delta=1.0), phases()], r"nobody logs 'z/se'.*TrainingPhases\(keys="),
    ]:
        with pytest.raises(ValueError, match=text):
            run(tmp_path, callbacks, {**PLANTED, "z": rising}, max_steps=20)
    with pytest.warns(UserWarning, match="monitors 'odd', which nobody logs"):
        run(tmp_path, [stopper(monitor="odd", strict=False), phases()], PLANTED, max_steps=20)


def test_it_asks_the_phases_with_its_prefix(tmp_path: Path) -> None:
    other = phases(prefix="b/", loss="steady", keys=["ood"])
    stop, never = stopper(), stopper(phases="b/", monitor="val_loss")
    curves = {**PLANTED, "steady": lambda step: -math.log10(step)}
    fit = run(tmp_path, [never, stop, other, phases()], curves, max_steps=LONG, per_decade=16)
    assert fit.global_step == stop.stopped_step
    assert (other.current, never.best_value) == (1, None)
    assert isinstance(other, TrainingPhases)


# ------------------------------------------------- where there is no such phase

WITHOUT: dict[str, Curve] = {"val_loss": falling_loss, "ood": saturating, "other": lambda step: -float(step)}


@pytest.mark.parametrize("if_none", ["go on", "plateau", "stop"])
def test_where_there_is_no_second_phase_it_says_so_once_and_does_what_it_was_told(
    tmp_path: Path, caplog: object, if_none: str
) -> None:
    record = Record()
    with caplog.at_level("INFO"):
        stop = stopper(monitor="other", patience=2, if_none=if_none)
        fit = run(tmp_path, [phases(), record, stop], WITHOUT)
    said = [one.message for one in caplog.records if "waits for phase two, and there is none so far" in one.message]
    assert len(said) == 1
    assert f"With if_none='{if_none}'" in said[0]
    over = [step for step, seen in record.seen.items() if seen["phase/current"] == 0]
    if if_none == "go on":
        assert (fit.global_step, stop.stopping_reason) == (STEPS, None)
    elif if_none == "stop":
        assert fit.global_step == stop.stopped_step == over[0]
        assert stop.stopping_reason.startswith("there is no phase two in which other could count: val_loss has its")
    else:
        assert fit.global_step == stop.stopped_step == over[2]
        assert stop.stopping_reason.startswith(f"other is -{over[2]} and did not improve in 2 readings")


def test_a_phase_that_comes_late_is_still_waited_for(tmp_path: Path) -> None:
    def late(step: int) -> float:
        return saturating(step) + max(math.log10(step / 150), 0.0)

    stop = stopper(patience=100)
    run(tmp_path, [phases(), stop], {"val_loss": falling_loss, "ood": late}, max_steps=LONG, per_decade=16)
    assert stop.best_value > 1


def test_the_reason_stands_in_the_file_of_readings(tmp_path: Path) -> None:
    for order in (1, -1):
        folder = tmp_path / str(order)
        stop = stopper(monitor="other", patience=2, if_none="plateau")
        chosen = [phases(), Robustness(write_csv=True), stop]
        run(folder, chosen[::order], WITHOUT, logger=pl.loggers.CSVLogger(folder, name=None, version=""))
        lines = list(csv.DictReader((folder / "readings.csv").open()))
        assert [line["stop/reason"] for line in lines] == ["" for _ in lines[1:]] + [stop.stopping_reason]
        assert int(lines[-1]["step"]) == stop.stopped_step
