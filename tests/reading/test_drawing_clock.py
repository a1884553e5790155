"""When pictures are drawn: within their share, each in its turn, never twice at a step, and always at the end."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interp import RepresentationGeometry, TrainingPhases
from lightning_interp.reading import drawing_clock
from lightning_interp.reading.drawing_clock import AT_INTERRUPT, SHARE, DrawingClock, Picture
from lightning_interp.reading.run_log import RunLog
from tests.callbacks.scripted import Scripted, falling_loss, noise, rising, run
from tests.toy import Tagger, loader, trainer


class Time:
    """A clock that only drawing and waiting move on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Painter:
    """Draws some pictures, each for so many seconds."""

    def __init__(
        self, time: Time, costs: dict[str, float], first: bool = False, interval: float = 0.0, listing: float = 0.0
    ) -> None:
        self.time, self.costs, self.draws_first, self.figure_interval = time, costs, first, interval
        self.listing, self.step = listing, 0
        self.drawn: list[tuple[str, int, float, bool]] = []

    def drawable(self, final: bool) -> list[Picture]:
        self.time.now += self.listing
        return [Picture(tag, self.step, self.draws(tag, final)) for tag in self.costs]

    def draws(self, tag: str, final: bool) -> Callable[[], None]:
        step = self.step

        def show() -> None:
            self.time.now += self.costs[tag]
            self.drawn.append((tag, step, self.time.now, final))

        return show

    def steps(self, tag: str) -> list[int]:
        return [step for name, step, _, _ in self.drawn if name == tag]


def a_run(clock: DrawingClock, time: Time, painters: list[Painter], readings: Iterator[float], seconds: float) -> None:
    """Training batches of 50 ms, with a reading of all painters at certain times."""
    began, due, step = time.now, next(readings), 0
    while time.now < began + seconds:
        step += 1
        clock.tick()
        time.now += 0.05
        if time.now - began >= due:
            for painter in painters:
                painter.step = step
                clock.reading(painter)
            due = next(readings)


def every(seconds: float) -> Iterator[float]:
    at = 0.0
    while True:
        at += seconds
        yield at


def a_clock(*painters: Painter, time: Time) -> DrawingClock:
    clock = DrawingClock(time)
    for painter in painters:
        clock.add(painter)
    return clock


@pytest.mark.parametrize("seed", range(8))
def test_all_pictures_together_keep_to_their_share(seed: int) -> None:
    drawing = random.Random(seed)
    time = Time()
    painters = [
        Painter(
            time,
            {f"{index}": drawing.uniform(0.05, drawing_clock.UNKNOWN) for index in range(drawing.randint(1, 5))},
            first=number == 0 and seed % 2 == 0,
            listing=0.001,
        )
        for number in range(drawing.randint(1, 5))
    ]
    clock = a_clock(*painters, time=time)
    a_run(clock, time, painters, every(drawing.choice([1.0, 7.0, 30.0])), 900.0)
    log = sorted((at, painter.costs[tag]) for painter in painters for tag, _, at, _ in painter.drawn)
    spent = 0.0
    for at, cost in log:
        spent += cost
        assert spent <= SHARE * (at - 1000.0) + 1e-9
    assert clock.spent <= SHARE * 900.0 + 0.1
    for painter in painters:
        for tag in painter.costs:
            steps = painter.steps(tag)
            assert steps == sorted(set(steps))
            assert steps


def test_no_picture_starves_and_the_first_is_the_freshest() -> None:
    time = Time()
    first = Painter(time, {"overview": 0.2}, first=True)
    cheap, dear = Painter(time, {"a": 0.1, "b": 0.1}), Painter(time, {"map": 2.0})
    clock = a_clock(cheap, dear, first, time=time)
    a_run(clock, time, [cheap, dear, first], every(2.0), 1200.0)
    # Three quarters of 1.5 % of 1,200 s, 13.5 s, are the overview's; the others have 4.5 s for rounds of 2.2 s.
    assert 60 <= len(first.drawn) <= 68
    assert 2 <= len(dear.drawn) <= 3
    assert all(abs(len(cheap.steps(tag)) - len(dear.drawn)) <= 1 for tag in "ab")
    # The overview waits for none of the others, not even where nobody knew yet what the dear one costs.
    late = [at for _, _, at, _ in first.drawn]
    assert max(after - before for before, after in pairwise(late)) < 25


def test_the_first_drawing_loads_fonts_and_is_not_taken_for_the_rule() -> None:
    time = Time()
    painter = Painter(time, {"a": 1.5})
    clock = a_clock(painter, time=time)
    a_run(clock, time, [painter], every(1.0), 60.0)
    assert len(painter.drawn) == 1
    painter.costs["a"] = 0.1
    a_run(clock, time, [painter], every(1.0), 250.0)
    # The second comes when it has saved for another like the first; the third needs .1 s alone.
    first, second, third = (at - 1000.0 for _, _, at, _ in painter.drawn[:3])
    assert first < 1 + drawing_clock.UNKNOWN / SHARE + 2
    assert 3.0 / SHARE <= second < 3.0 / SHARE + 3
    assert third < second + 2


def test_a_picture_waits_for_a_new_reading() -> None:
    time = Time()
    painter = Painter(time, {"a": 0.1})
    clock = a_clock(painter, time=time)
    painter.step = 7
    clock.reading(painter)
    time.now += 500.0
    for _ in range(5):
        clock.tick()
        time.now += 100.0
    clock.reading(painter)  # a validation that brought nothing
    clock.tick()
    assert painter.steps("a") == [7]


def test_a_reading_is_drawn_as_soon_as_its_time_has_come_without_another_reading() -> None:
    time = Time()
    painter = Painter(time, {"a": 0.1})
    clock = a_clock(painter, time=time)
    painter.step = 3
    clock.reading(painter)
    while not painter.drawn:
        clock.tick()
        time.now += 0.5
    assert painter.drawn[0][2] == pytest.approx(1000.0 + drawing_clock.UNKNOWN / SHARE, abs=0.7)


def test_at_once_means_at_the_next_batch_whatever_the_time() -> None:
    time = Time()
    found, other = Painter(time, {"overview": 5.0}, first=True), Painter(time, {"a": 0.1})
    clock = a_clock(found, other, time=time)
    time.now += 1.0
    found.step = other.step = 4
    clock.reading(other)
    clock.at_once(found)
    clock.tick()
    assert found.steps("overview") == [4]
    assert other.drawn == []
    clock.tick()
    assert found.steps("overview") == [4]


def test_the_end_draws_everything_once_and_says_that_it_is_the_end() -> None:
    time = Time()
    painter, other = Painter(time, {"a": 1.0, "b": 9.0}), Painter(time, {"c": 1.0})
    clock = a_clock(painter, other, time=time)
    painter.step = 2
    clock.reading(painter)
    time.now += 0.5 / SHARE
    clock.tick()
    assert [one[:2] for one in painter.drawn] == [("a", 2)]
    clock.end(painter)
    clock.end(painter)
    assert [(tag, step, final) for tag, step, _, final in painter.drawn] == [("a", 2, False), ("b", 2, True)]
    assert other.drawn == []


def test_an_interval_is_the_least_between_two_drawings() -> None:
    time = Time()
    painter = Painter(time, {"a": 0.01}, interval=100.0)
    clock = a_clock(painter, time=time)
    a_run(clock, time, [painter], every(1.0), 450.0)
    at = [0.0, *(one[2] - 1000.0 for one in painter.drawn)]
    assert len(painter.drawn) == 4
    assert all(after - before >= 100.0 for before, after in pairwise(at))
    never = Painter(time, {"a": 0.01}, interval=math.inf)
    clock = a_clock(never, time=time)
    a_run(clock, time, [never], every(1.0), 50.0)
    assert never.drawn == []
    clock.end(never)
    assert len(never.drawn) == 1


def test_an_interrupt_draws_the_first_and_then_what_a_few_seconds_hold() -> None:
    time = Time()
    many = Painter(time, {"dear": 2.9, "cheap": 0.4, "dearer": 4.0})
    first = Painter(time, {"overview": 0.3}, first=True)
    clock = a_clock(many, first, time=time)
    for painter in (many, first):
        painter.step = 1
        clock.at_once(painter)
    clock.tick()
    for painter in (many, first):
        painter.step = 2
        painter.drawn.clear()
        clock.reading(painter)
    started = time.now
    clock.interrupted()
    clock.interrupted()
    assert first.steps("overview") == [2]
    assert [tag for tag, *_ in many.drawn] == ["cheap"]
    assert first.drawn[0][2] < many.drawn[0][2]
    assert time.now - started <= AT_INTERRUPT


def test_a_clock_that_has_nothing_to_draw_does_not_even_look_at_the_time() -> None:
    clock = DrawingClock()
    clock._now = lambda: 1 / 0  # type: ignore[assignment,return-value]
    clock.tick()


# ------------------------------------------------- in a Trainer


def images(folder: Path) -> dict[str, list[int]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}


def logger(folder: Path) -> pl.loggers.TensorBoardLogger:
    return pl.loggers.TensorBoardLogger(folder, name="", version="")


CURVES = {"val_loss": falling_loss, "ood": rising}


def phases(**kwargs: object) -> TrainingPhases:
    return TrainingPhases(**{"improving": {"ood": "max"}, **kwargs})


def test_with_time_for_it_every_reading_is_drawn_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing_clock, "SHARE", 1e9)
    callback = phases()
    run(tmp_path, [callback], CURVES, logger=logger(tmp_path), max_steps=60)
    read, _ = callback.series("val_loss")
    assert images(tmp_path) == {"phases/overview": read}


def test_a_fit_that_ends_with_a_reading_draws_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing_clock, "SHARE", 1e9)
    callback = RepresentationGeometry({"enc": "encoder"})
    stop = pl.callbacks.EarlyStopping("effective_rank/enc", patience=1, min_delta=1e9)
    fit = trainer(
        tmp_path, [phases(loss="val_loss", improving={"val_acc": "max"}), callback, stop], max_epochs=9,
        logger=logger(tmp_path),
    )  # fmt: skip
    fit.fit(Tagger(), loader(16), loader(16, seed=1))
    steps = [reading.step for reading in callback.history.readings]
    assert fit.global_step == steps[-1] < 9 * 2
    assert images(tmp_path) == {"phases/overview": steps, "geometry": steps}


def test_a_phase_that_is_found_is_drawn_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing_clock, "SHARE", 1e-9)
    told: dict[tuple[float, float], int] = {}

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen = trainer.callback_metrics
            if {"phase/current", "phase/provisional"} <= seen.keys():
                told.setdefault((float(seen["phase/current"]), float(seen["phase/provisional"])), trainer.global_step)

    callback = phases()
    run(tmp_path, [callback, Watch()], CURVES, logger=logger(tmp_path))
    assert list(told) == [(1, 1), (1, 2), (2, 2)]
    assert images(tmp_path) == {"phases/overview": [told[1, 2], told[2, 2], 400]}


class Interrupt(pl.Callback):
    """The user presses Ctrl-C, or something else goes wrong."""

    def __init__(self, error: BaseException, step: int) -> None:
        self.error, self.step = error, step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            raise self.error


def test_an_interrupt_draws_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, [Interrupt(KeyboardInterrupt(), 50), phases()], CURVES, logger=logger(tmp_path))
    (steps,) = images(tmp_path).values()
    assert len(steps) == 1
    assert 40 <= steps[0] < 50


def test_an_error_is_not_hidden_by_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError, match="the user's own"):
        run(tmp_path, [Interrupt(ZeroDivisionError("the user's own"), 50), phases()], CURVES, logger=logger(tmp_path))
    assert images(tmp_path) == {}
    monkeypatch.setattr(DrawingClock, "interrupted", lambda clock: 1 / 0)
    warnings.simplefilter("always")
    with warnings.catch_warnings(record=True) as caught, pytest.raises(SystemExit):
        run(tmp_path / "2", [Interrupt(KeyboardInterrupt(), 50), phases()], CURVES, logger=logger(tmp_path / "2"))
    assert sum("could not draw" in str(one.message) for one in caught) == 1


def test_callbacks_of_one_trainer_share_a_clock_and_each_fit_has_its_own(tmp_path: Path) -> None:
    first, second = RepresentationGeometry({"enc": "encoder"}), phases(improving={"val_acc": "max"})
    fit = trainer(tmp_path, [first, second], max_epochs=1)
    fit.fit(Tagger(), loader(16), loader(16, seed=1))
    before = RunLog.of(fit).clock
    assert before is not None
    assert first in before
    assert second in before
    fit.fit_loop.max_epochs = 2
    fit.fit(Tagger(), loader(16), loader(16, seed=1))
    assert RunLog.of(fit).clock is not before
    other = RepresentationGeometry({"enc": "encoder"})
    again = trainer(tmp_path, [other], max_epochs=1)
    again.fit(Tagger(), loader(16), loader(16, seed=1))
    assert RunLog.of(again).clock is not RunLog.of(fit).clock


def test_a_resumed_fit_draws_new_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing_clock, "SHARE", 1e9)
    save = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=30)
    run(tmp_path, [phases(), save], CURVES, max_steps=30, enable_checkpointing=True)
    again = phases()
    folder = tmp_path / "again"
    run(folder, [again], Scripted(CURVES), ckpt_path=tmp_path / "last.ckpt", max_steps=57, logger=logger(folder))
    read, _ = again.series("val_loss")
    assert read[0] < 30
    assert images(folder) == {"phases/overview": [*(step for step in read if step > 30)]}


def test_drawing_changes_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing_clock, "SHARE", 1e9)
    after = []
    for draw in (False, True):
        pl.seed_everything(0)
        model = Scripted({"val_loss": falling_loss, "ood": lambda step: rising(step) + noise(step, 0.01, 5)})
        run(tmp_path, [phases(draw_figures=draw)], model, max_steps=40, logger=logger(tmp_path / str(draw)))
        after.append((model.number.detach().clone(), torch.get_rng_state()))
    assert all(torch.equal(one, other) for one, other in zip(*after, strict=True))
