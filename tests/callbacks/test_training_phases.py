"""Phases found while training: planted ones, absent ones, stale and late keys, resume, ranks, refusals."""

from __future__ import annotations

import csv
import math
import re
import tempfile
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from lightning_interp import TrainingPhases, ValidationAnalysis
from lightning_interp.reading.history import read_rows
from tests.callbacks.scripted import PLATEAU, Scripted, data, falling_loss, noise, rising, run, saturating
from tests.toy import trainer

PLANTED = {"val_loss": falling_loss, "ood": rising}


def phases(**kwargs: object) -> TrainingPhases:
    return TrainingPhases(**{"improving": {"ood": "max"}, "draw_figures": False, **kwargs})


class Record(pl.Callback):
    """What gates see after every validation."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, float]] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.seen[trainer.global_step] = {k: float(v) for k, v in trainer.callback_metrics.items()}

    def phases(self) -> list[tuple[int, dict[str, float]]]:
        return [(step, {k: v for k, v in seen.items() if "phase/" in k}) for step, seen in self.seen.items()]


class Robustness(ValidationAnalysis):
    """Stands in for NoiseRobustness: a key that is always there and one that is undefined at first."""

    def __init__(self, curve: object = rising, undefined_until: int = 0, **kwargs: object) -> None:
        super().__init__(**{"draw_figures": False, "write_csv": False, **kwargs})
        self.curve, self.undefined_until = curve, undefined_until

    def measures(self, model: object = None) -> dict[str, str]:
        return {"robustness/enc/acc": "summary", "under_noise/enc/acc": "summary", "drift/enc/out/0.1": "full"}

    def conditional_keys(self, model: object = None) -> dict[str, str]:
        return {self.full_key("robustness/enc/acc"): self.full_key("under_noise/enc/acc")}

    def resolve(self, model: torch.nn.Module) -> None:
        self.model = model

    def after_batch(self, seen: object) -> None:
        pass

    def finish(self, reading: object) -> dict[str, float]:
        step = max(self.model.global_step, 1)
        value = self.curve(step)
        found = {"under_noise/enc/acc": value, "drift/enc/out/0.1": value}
        return found if step < self.undefined_until else {**found, "robustness/enc/acc": value}


# ------------------------------------------------- what it finds


def test_a_second_phase_is_found_where_it_was_planted(tmp_path: Path) -> None:
    callback, record = phases(log="full"), Record()
    logger = pl.loggers.CSVLogger(tmp_path, name=None, version="")
    run(tmp_path, [callback, record], PLANTED, logger=logger)
    (boundary,) = callback.standing.boundaries
    assert boundary.step == pytest.approx(PLATEAU, rel=0.3)
    assert boundary.low <= boundary.step <= boundary.high
    assert callback.conclusion.startswith(f"phase two began at step {boundary.step:.0f} (95 %: ")
    assert "val_loss has its plateau there; ood still improves by" in callback.conclusion
    by_step = record.phases()
    assert [seen["phase/current"] for _, seen in by_step] == sorted(seen["phase/current"] for _, seen in by_step)
    first = next(step for step, seen in by_step if seen["phase/current"] == 2)
    pointed = next(step for step, seen in by_step if seen["phase/provisional"] == 2)
    assert PLATEAU < pointed < first < 5 * PLATEAU
    assert (callback.standing.pointed_at, callback.standing.confirmed_at) == ((pointed,), (first,))
    assert all(("phase/boundary_step" in seen) == (step >= first) for step, seen in by_step)
    last = by_step[-1][1]
    assert last["phase/boundary_step"] == pytest.approx(boundary.step)
    assert last["phase/fits"] == 1
    assert last["phase/lag/ood"] == pytest.approx(
        min((k - math.log10(boundary.step) for k in callback.fit("ood").knees), key=abs)
    )
    assert abs(last["phase/lag/ood"]) < 0.25
    assert set(last) == set(callback.known_keys())
    # Loggers got them under the step of the other values of the same validation.
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert {key for key in rows[0] if "phase/" in key} == set(callback.known_keys())
    assert phases().logged_keys() == ["phase/current", "phase/provisional"]
    assert [row["step"] for row in rows if row["phase/current"]] == [row["step"] for row in rows if row["val_loss"]]


def test_without_a_second_phase_it_says_so(tmp_path: Path) -> None:
    callback, record = phases(), Record()
    run(tmp_path, [callback, record], {"val_loss": falling_loss, "ood": saturating})
    assert callback.current == 0
    assert callback.conclusion.startswith("no second phase: val_loss has its plateau from step ")
    assert "nothing improves noticeably after it: ood changes by" in callback.conclusion
    last = record.phases()[-1][1]
    assert last == {"phase/current": 0, "phase/provisional": 0, "phase/fits": 0}


def test_a_loss_that_goes_on_falling_stays_in_the_first_phase(tmp_path: Path) -> None:
    callback = phases()
    run(tmp_path, [callback], {"val_loss": lambda step: 3 - math.log10(step) + noise(step, 0.02), "ood": rising})
    assert (callback.current, callback.standing.fits) == (1, True)
    assert callback.conclusion == "phase one goes on: val_loss has no plateau yet"


def test_a_confirmed_phase_stays_and_tells_that_its_evidence_is_gone(tmp_path: Path) -> None:
    def loss(step: int) -> float:
        return falling_loss(step) - (2 * math.log10(step / 250) if step > 250 else 0.0)

    callback, record = phases(log="full"), Record()
    run(tmp_path, [callback, record], {"val_loss": loss, "ood": rising}, max_steps=900)
    last = record.phases()[-1][1]
    assert (last["phase/current"], last["phase/fits"]) == (2, 0)
    assert last["phase/boundary_step"] == pytest.approx(PLATEAU, rel=0.3)
    assert "is gone: val_loss has no plateau yet" in callback.conclusion


def test_three_phases_and_no_template(tmp_path: Path) -> None:
    def rank(step: int) -> float:
        x = math.log10(step)
        return 5 - 2 * min(x, 1.2) + 2 * max(min(x, 2.0) - 1.2, 0) - 2 * max(x - 2.0, 0) + noise(step, 0.02)

    three = phases(template="three_phase", follow="rank", improving=None, names=["a", "b", "c"], log="full")
    knees = phases(template="none", improving=None, prefix="knees/", loss="rank")
    run(tmp_path, [three, knees], {**PLANTED, "rank": rank}, max_steps=600)
    for callback in (three, knees):
        assert callback.current == 3
        assert [math.log10(at.step) for at in callback.standing.boundaries] == pytest.approx([1.2, 2.0], abs=0.12)
    assert three.conclusion.startswith("c began at step ")
    assert knees.conclusion.startswith("segment 3 began at step ")
    assert "phase/lag/rank" not in three.known_keys()
    assert knees.logged_keys() == ["knees/phase/current", "knees/phase/provisional"]
    assert knees.known_keys() == [*knees.logged_keys(), "knees/phase/fits", "knees/phase/boundary_step"]
    assert phases(log="full").logged_keys() == phases().known_keys()


def test_a_plateau_of_the_logarithm_is_told_where_it_is_asked_for(tmp_path: Path) -> None:
    def factors(step: int) -> float:
        return 10 ** (-2 * min(math.log10(step), 2)) * (1 + noise(step, 0.02))

    linear, log = phases(), phases(scale="log", prefix="log/")
    run(tmp_path, [linear, log], {"val_loss": factors, "ood": lambda step: math.log10(step) + noise(step, 0.02)})
    (early,), (late,) = linear.standing.boundaries, log.standing.boundaries
    assert early.step < 40
    assert late.step == pytest.approx(100, rel=0.15)


def test_each_verdict_is_said_once_on_the_console_and_in_the_logger(tmp_path: Path, caplog: object) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = pl.loggers.TensorBoardLogger(tmp_path, name="", version="")
    with caplog.at_level("INFO"):
        run(tmp_path, [phases()], PLANTED, logger=logger)
    said = [one.message for one in caplog.records if one.message.startswith("TrainingPhases, step")]
    assert len(said) == 2
    assert "phase two seems to have begun at step" in said[0]
    assert "phase two began at step" in said[1]
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path)).Reload()
    shown = [one.tensor_proto.string_val[0].decode() for one in events.Tensors("phases/verdict/text_summary")]
    assert [f"TrainingPhases, {one}" for one in shown] == said


def test_phases_and_reasons_stand_in_the_file_of_readings(tmp_path: Path) -> None:
    for order in (1, -1):
        callback = phases()
        folder = tmp_path / str(order)
        logger = pl.loggers.CSVLogger(folder, name=None, version="")
        chosen = [callback, Robustness(write_csv=True, every_n_validations=2)]
        run(folder, chosen[::order], PLANTED, logger=logger)
        lines = list(csv.DictReader((folder / "readings.csv").open()))
        assert [int(line["step"]) for line in lines] == callback.series("val_loss")[0]
        for line, value in zip(lines, callback.series("ood")[1], strict=True):
            assert float(line["phase/current"]) in (1, 2)
            assert line["phase/reason"]
            assert float(line["ood"]) == pytest.approx(value, rel=1e-6)
        assert lines[-1]["phase/reason"] == callback.conclusion
        assert sum(line["robustness/enc/acc"] != "" for line in lines) == (len(lines) + 1) // 2
        rows = read_rows(folder / "readings.csv")
        assert rows[-1]["phase/current"] == 2
        assert "phase/reason" not in rows[-1]
    alone = tmp_path / "alone"
    run(alone, [phases()], PLANTED, logger=pl.loggers.CSVLogger(alone, name=None, version=""))
    assert read_rows(alone / "readings.csv")[-1]["phase/current"] == 2
    without = tmp_path / "without"
    run(without, [phases(write_csv=False)], PLANTED, logger=pl.loggers.CSVLogger(without, name=None, version=""))
    assert not (without / "readings.csv").exists()


# ------------------------------------------------- which values count


def test_a_value_that_was_not_logged_anew_does_not_count(tmp_path: Path) -> None:
    seen: list[int] = []

    def rare(step: int) -> float | None:
        seen.append(step)
        return rising(step) if len(seen) % 3 == 1 else None

    callback = phases()
    run(tmp_path, [callback], {"val_loss": falling_loss, "ood": rare}, max_steps=60)
    assert callback.series("val_loss")[0] == seen
    assert callback.series("ood") == (seen[::3], pytest.approx([rising(step) for step in seen[::3]], abs=1e-6))


def test_a_value_that_happens_to_be_the_same_does_count(tmp_path: Path) -> None:
    callback = phases()
    run(tmp_path, [callback], {"val_loss": falling_loss, "ood": lambda step: 0.5}, max_steps=30)
    assert callback.series("ood")[0] == callback.series("val_loss")[0]


def test_a_conditional_key_that_appears_late(tmp_path: Path) -> None:
    analysis, callback = Robustness(undefined_until=30), TrainingPhases(draw_figures=False)
    run(tmp_path, [callback, analysis], {"val_loss": falling_loss})
    assert callback.followed() == ["val_loss", "robustness/enc/acc"]
    assert callback.series("robustness/enc/acc")[0][0] >= 30
    assert callback.series("val_loss")[0][0] == 3
    assert callback.current == 2
    assert "robustness/enc/acc still improves" in callback.conclusion


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    def broken(step: int) -> float:
        return math.nan if step < 10 else math.inf if step == 400 else rising(step)

    callback = phases()
    run(tmp_path, [callback], {"val_loss": falling_loss, "ood": broken})
    steps, values = callback.series("ood")
    assert (min(steps), max(steps) < 400) == (11, True)
    assert all(map(math.isfinite, values))
    assert callback.current == 2


def test_of_two_validations_at_one_step_the_last_counts(tmp_path: Path) -> None:
    seen: list[int] = []

    def counting(step: int) -> float:
        seen.append(step)
        return float(len(seen))

    callback = phases()
    settings = {"max_epochs": 1, "num_sanity_val_steps": 0, "val_check_interval": 1, "accumulate_grad_batches": 2}
    trainer(tmp_path, [callback], **settings).fit(Scripted({"val_loss": counting, "ood": rising}), data(8), data(2))
    assert seen == [1, 1, 1, 2]
    assert callback.series("val_loss") == ([0, 1, 2], [1.0, 3.0, 4.0])


def test_sanity_check_validate_and_test_change_nothing(tmp_path: Path) -> None:
    callback, plain = phases(), phases()
    fit = run(tmp_path, [callback], PLANTED, num_sanity_val_steps=2)
    run(tmp_path, [plain], PLANTED)
    assert callback.state_dict() == plain.state_dict()
    before = callback.state_dict()
    fit.validate(Scripted(PLANTED), data(2), verbose=False)
    assert callback.state_dict() == before


def test_training_is_untouched(tmp_path: Path) -> None:
    weights, metrics = [], []
    for chosen in ([], [phases(draw_figures=True, figure_interval=0.0)]):
        pl.seed_everything(0)
        model = Scripted(PLANTED)
        fit = run(tmp_path, chosen, model)
        weights.append((model.number.detach().clone(), torch.get_rng_state()))
        metrics.append({key: float(value) for key, value in fit.callback_metrics.items() if "phase/" not in key})
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    assert metrics[0] == metrics[1]


# ------------------------------------------------- state


def test_a_resumed_run_decides_as_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, second = (Record() for _ in range(3))
    run(tmp_path, [phases(), whole], PLANTED)
    for cut in (50, 170):
        save = pl.callbacks.ModelCheckpoint(tmp_path / str(cut), save_last=True, every_n_train_steps=cut)
        run(tmp_path, [phases(), first, save], PLANTED, max_steps=cut, enable_checkpointing=True)
        path = tmp_path / str(cut) / "last.ckpt"
        assert any("TrainingPhases" in key for key in torch.load(path, weights_only=True)["callbacks"])
        second.seen.clear()
        resumed = phases()
        run(tmp_path, [resumed, second], PLANTED, ckpt_path=path)
        expected = [one for one in whole.phases() if one[0] > cut]
        assert [one for one in second.phases() if one[0] > cut] == expected
        assert len(expected) >= 4


def test_a_new_trainer_starts_anew_and_keys_come_from_the_state(tmp_path: Path) -> None:
    callback = phases()
    run(tmp_path, [callback], PLANTED)
    run(tmp_path, [callback], PLANTED, max_steps=10)
    assert callback.current == 1
    assert max(callback.series("val_loss")[0]) == 10


# ------------------------------------------------- ranks


def on_two_ranks(per_rank: float) -> list[tuple[int, dict[str, float]]]:
    record = Record()
    world = dist.get_world_size() if dist.is_initialized() else 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"strategy": "ddp", "devices": world} if world > 1 else {}
        run(folder, [record, phases()], Scripted(PLANTED, per_rank), **settings)
    return [(step, seen) for step, seen in record.phases() if seen]


@pytest.mark.parametrize("per_rank", [0.0, 5.0])
def test_every_rank_holds_the_phase_of_rank_0(two_ranks: object, per_rank: float) -> None:
    # The record comes before the phases, so that it sees each phase one validation later.
    one, other = two_ranks.run(on_two_ranks, per_rank)
    assert one == other
    assert one[-1][1]["phase/current"] == 2
    assert one == on_two_ranks(0.0)


# ------------------------------------------------- figures and loggers


def test_figure_and_layout(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = TrainingPhases(figure_interval=0.0, keys=["acc/dev", "acc/test"])
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="", version="")
    curves = {"val_loss/dataloader_idx_0": falling_loss, "acc/dev": rising, "acc/test": saturating}
    run(tmp_path, [callback, Robustness()], curves, logger=logger, max_steps=100)
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["phases/overview"]
    shown = [image.step for image in events.Images("phases/overview")]
    assert shown[-1] == 100
    page = events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0].decode(errors="replace")
    for text in ("Training phases", "val_loss/dataloader_idx_0", "robustness/enc/acc", "acc/test"):
        assert text in page
    run(tmp_path / "png", [phases(draw_figures=True)], PLANTED, max_steps=60)
    assert list((tmp_path / "png").rglob("phases-overview.png"))


def test_a_logger_that_fails_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    class Broken(pl.loggers.CSVLogger):
        def log_metrics(self, metrics: dict, step: int | None = None) -> None:
            if "phase/current" in metrics:
                raise OSError("disk full")

    callback = phases()
    with pytest.warns(RuntimeWarning, match="disk full") as caught:
        run(tmp_path, [callback], PLANTED, logger=Broken(tmp_path))
    assert sum("disk full" in str(one.message) for one in caught) == 1
    assert callback.current == 2


# ------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"template": "four"}, "`template` must be one of .'two_phase', 'three_phase', 'change', 'none'., got 'four'"),
        ({"mode": "up"}, "`mode` must be 'min' or 'max', got 'up'"),
        ({"scale": "square"}, "`scale` must be 'linear' or 'log', got 'square'"),
        ({"log": "all"}, "`log` must be 'summary' or 'full', got 'all'"),
        ({"improving": {"a": "up"}}, r"`improving` must give 'min' or 'max' for each key, got .'a': 'up'."),
        ({"improving": {}}, "`improving` is empty"),
        ({"keys": "a"}, "`keys` must be a list of keys, got the string 'a'"),
        ({"template": "three_phase"}, "`follow` is the key"),
        ({"follow": "rank"}, "`follow` is the key"),
        ({"confirm": 0}, "`confirm` must be at least 1, got 0"),
        ({"max_knees": 0}, "`max_knees` must be between 1 and 3"),
        ({"template": "three_phase", "follow": "r", "max_knees": 1}, "`max_knees` must be between 2 and 3"),
        ({"level": 1.0}, "`level` must lie between 0 and 1, got 1.0"),
        ({"min_readings": 5}, "`min_readings` must be at least 6, got 5"),
        ({"names": ["one"]}, "`names` must be a list of 2 names"),
    ],
)
def test_arguments_are_refused_at_once(kwargs: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        phases(**kwargs)


def test_keys_that_nobody_logs_are_an_error_after_the_first_validation(tmp_path: Path) -> None:
    class TrainLoss(Scripted):
        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("train_loss", loss)
            return loss

    for kwargs, text in [
        ({"loss": "val_los"}, r"'val_los', which nobody logs. Nearest: 'val_loss'. Available: 'ood', 'val_loss'"),
        ({"keys": ["acc"]}, "'acc', which nobody logs"),
        ({"keys": ["train_loss"]}, "'train_loss', which nobody logs.*in training only"),
        ({"improving": None}, r"Add NoiseRobustness .* available: \['ood', 'val_loss'\]"),
    ]:
        callback = phases(**kwargs)
        with pytest.raises(ValueError, match=text):
            run(tmp_path, [callback], TrainLoss(PLANTED), max_steps=10)
        assert not callback.series("val_loss")[0]
    with pytest.raises(ValueError, match=re.escape('give Robustness `log="full"`')):
        run(tmp_path, [phases(keys=["drift/enc/out/0.1"]), Robustness()], PLANTED, max_steps=10)
    run(tmp_path, [phases(keys=["drift/enc/out/0.1"]), Robustness(log="full")], PLANTED, max_steps=10)
    with pytest.warns(UserWarning, match="'acc', which nobody logs"):
        run(tmp_path, [phases(keys=["acc"], strict=False)], PLANTED, max_steps=10)
    told = pytest.warns(UserWarning, match=r"the sanity check did not log \['val_los'\]")
    with told, pytest.raises(ValueError, match="'val_los', which nobody logs"):
        run(tmp_path, [phases(loss="val_los")], PLANTED, max_steps=10, num_sanity_val_steps=1)


def test_of_several_loaders_the_sanity_check_tells_nothing(tmp_path: Path) -> None:
    class Two(Scripted):
        def validation_step(self, batch: list[torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", batch[0].mean() / (self.global_step + 1))

    callback = phases(loss="val_loss", improving={"val_loss/dataloader_idx_1": "min"})
    fit = trainer(tmp_path, [callback, Robustness()], max_epochs=1, num_sanity_val_steps=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit.fit(Two({}), data(8), [data(4), data(4)])
    assert not [one for one in caught if "sanity check" in str(one.message)]
    assert callback.series("val_loss")[0] == callback.series("val_loss/dataloader_idx_1")[0] == [4]


def test_keys_of_a_model_that_logs_robustness_itself(tmp_path: Path) -> None:
    callback = TrainingPhases(draw_figures=False)
    run(tmp_path, [callback], {"val_loss": falling_loss, "robustness/own": rising})
    assert callback.followed() == ["val_loss", "robustness/own"]
    assert callback.current == 2


def test_two_with_one_prefix_are_refused_and_barebones_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one of them another `prefix`"):
        run(tmp_path, [phases(), phases(keys=["acc"], loss="other")], PLANTED)
    unset = ("logger", "enable_checkpointing", "num_sanity_val_steps", "enable_progress_bar", "enable_model_summary")
    settings = {"barebones": True, **dict.fromkeys(unset)}
    with pytest.warns(UserWarning, match="barebones"):
        trainer(tmp_path, [phases()], max_epochs=1, **settings).fit(Scripted(PLANTED), data(), data(2))


def test_of_hundreds_of_readings_those_at_equal_distances_are_fitted() -> None:
    """As in a long run that is validated at equal distances in steps."""
    steps = list(range(1, 5001, 2))
    dense = phases()
    series = {key: [steps, [curve(step) for step in steps]] for key, curve in PLANTED.items()}
    dense.load_state_dict({**phases().state_dict(), "series": series})
    fit = dense.fit("ood", intervals=True)
    assert 80 < len(fit.fitted) <= 120
    (knee,) = fit.knees
    assert 10**knee == pytest.approx(PLATEAU, rel=0.25)
    # What was taken in stays whole.
    assert dense.series("ood")[0] == steps
