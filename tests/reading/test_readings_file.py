"""The file of a run's readings: nothing is lost, and nothing of others destroyed, whatever happens to disk and file."""

from __future__ import annotations

import resource
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.loggers import CSVLogger

from lightning_interp import RepresentationGeometry
from lightning_interp.reading.history import CsvLog, History, Reading, merge_rows
from lightning_interp.reading.readings_table import read_rows, write_rows
from tests.toy import Tagger, loader, trainer


class Run:
    """The rows of a run so far, and which of them were asked for."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = list(rows)
        self.asked: list[int | None] = []

    def add(self, step: int, **values: float) -> None:
        self.rows.append({"step": step, "epoch": 0, **values})

    def __call__(self, after: int | None) -> Sequence[Mapping[str, Any]]:
        self.asked.append(after)
        return [row for row in self.rows if after is None or row["step"] > after]


def started(path: Path, *steps: int) -> tuple[CsvLog, Run]:
    run = Run()
    for step in steps:
        run.add(step, x=step / 7)
    log = CsvLog(path)
    log.write(run)
    return log, run


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond a size: the write that would is cut off there, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "readings.csv"


# ------------------------------------------------- as it grows


def test_rows_of_several_callbacks_stand_side_by_side(path: Path) -> None:
    first, second = History(), History()
    for index, step in enumerate((5, 10)):
        first.append(Reading(step, 0, index, {"a/x": step / 100}))
    for index, step in enumerate((10, 20)):
        second.append(Reading(step, 0, index, {"b/x": 10.0**-step}))
    CsvLog(path).write(lambda after: merge_rows([first, second], after))
    assert path.read_bytes() == b"step,epoch,a/x,b/x\r\n5,0,0.05,\r\n10,0,0.1,1e-10\r\n20,0,,1e-20\r\n"


def test_a_file_that_grows_line_by_line_is_the_one_written_at_once(path: Path) -> None:
    every = [
        {"step": 5, "epoch": 0, "x": 0.1, "setting/a": "text"},
        {"step": 10, "epoch": 0, "x": 0.25, "y": 7.0},
        {"step": 20, "epoch": 1, "y": 1e-17, "setting/b": 3},
        {"step": 30, "epoch": 1, "x": 0.5, "z": float("inf")},
        {"step": 40, "epoch": 1, "x": 0.75},
    ]
    path.write_text("step,epoch,left by another run\n1,2,3\n")
    log, run = CsvLog(path), Run()
    log.write(run)  # without a row there is nothing to replace it by
    assert "left by" in path.read_text()
    for row in every:
        run.rows.append(row)
        log.write(run)
        log.write(run)
    whole = path.with_name("whole.csv")
    write_rows(whole, every)
    assert path.read_bytes() == whole.read_bytes()
    assert names(path.parent) == ["readings.csv", "whole.csv"]


def test_a_line_is_appended_without_a_look_at_those_before(path: Path) -> None:
    log, run = started(path, 1)
    for step in range(2, 3000):
        run.asked.clear()
        run.add(step, x=step / 7)
        # As a history finds the rows behind a step.
        began = time.perf_counter()
        log.write(lambda after: run(after) if after is None else (run.asked.append(after), run.rows[-2:])[1])
        seconds = time.perf_counter() - began
        assert run.asked == [step - 2]
    assert seconds < 0.05
    assert [row["step"] for row in read_rows(path)] == list(range(1, 3000))


def test_a_further_reading_of_a_step_takes_the_place_of_the_one_before(path: Path) -> None:
    log, run = started(path, 1, 2)
    run.rows[-1] = {**run.rows[-1], "x": 99.0}
    log.write(run)
    run.add(3, x=4.0)
    log.write(run)
    assert [row["x"] for row in read_rows(path)] == [1 / 7, 99.0, 4.0]
    assert names(path.parent) == ["readings.csv"]


# ------------------------------------------------- trouble with the disk


def test_a_full_disk_leaves_whole_rows_and_loses_none(path: Path) -> None:
    reference = path.with_name("reference.csv")
    log, run = started(path, 1, 2)
    before = path.read_bytes()
    started(reference, 1, 2, 3, 4)
    row = len(reference.read_bytes()) - len(before)
    for room in range(row):
        run.rows = run.rows[:2]
        path.write_bytes(before)
        log = CsvLog(path)
        log.write(run)
        run.add(3, x=3 / 7)
        run.add(4, x=4 / 7)
        with full_disk(len(before) + room), pytest.warns(UserWarning, match=r"readings.csv cannot be written: .*large"):
            log.write(run)
        assert path.read_bytes() == before
        with full_disk(len(before) + room), warnings.catch_warnings():
            warnings.simplefilter("error")
            log.write(run)  # said once
        assert path.read_bytes() == before
        log.write(run)
        assert path.read_bytes() == reference.read_bytes()
    assert names(path.parent) == ["readings.csv", "reference.csv"]


def test_a_part_of_a_row_that_could_not_be_taken_back_is_at_the_next_reading(path: Path) -> None:
    log, run = started(path, 1, 2)
    before = path.read_bytes()
    run.add(3, x=3 / 7)
    for part in (b"3", b"3,0,0.4", b"3,0,0.42857142857142855\r\n"):
        with full_disk(len(before)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            log.write(run)
        with path.open("ab") as file:
            file.write(part)
        with full_disk(len(before)):
            log.write(run)
        assert path.read_bytes() == before
    log.write(run)
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3]
    assert names(path.parent) == ["readings.csv"]


def test_a_new_column_on_a_full_disk_leaves_the_old_file_and_no_draft(path: Path) -> None:
    log, run = started(path, 1, 2)
    before = path.read_bytes()
    run.add(3, y=1.0)
    with full_disk(len(before) - 5), pytest.warns(UserWarning, match="cannot be written"):
        log.write(run)
    assert path.read_bytes() == before
    assert names(path.parent) == ["readings.csv"]
    run.add(4, x=0.5)
    log.write(run)
    assert read_rows(path) == run.rows


def test_a_first_write_on_a_full_disk_leaves_nothing(path: Path) -> None:
    log, run = CsvLog(path), Run({"step": 1, "epoch": 0, "x": 1.0})
    with full_disk(5), pytest.warns(UserWarning, match="cannot be written"):
        log.write(run)
    assert names(path.parent) == []
    log.write(run)
    assert read_rows(path) == run.rows


def test_a_folder_that_vanished_is_made_again_with_every_row(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "run"
    log, run = started(folder / "readings.csv", 1, 2)
    shutil.rmtree(folder.parent)
    folder.parent.write_text("in the way")
    for step in (3, 4):
        run.add(step, x=step / 7)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            log.write(run)
        assert len(told) == (1 if step == 3 else 0)
    folder.parent.unlink()
    run.add(5, x=5 / 7)
    log.write(run)
    assert read_rows(folder / "readings.csv") == run.rows
    (folder / "readings.csv").unlink()
    log.write(run)
    assert read_rows(folder / "readings.csv") == run.rows


def test_each_kind_of_trouble_is_told_once(path: Path) -> None:
    log, run = started(path, 1)
    kinds = (FileExistsError(17, "one"), OSError(28, "two"), FileExistsError(17, "one again"), OSError("three"))
    told = []

    def refuse(error: OSError) -> Sequence[Mapping[str, Any]]:
        raise error

    for error in kinds:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            log.write(lambda after, error=error: refuse(error))
        told += [str(one.message) for one in found]
    assert len(told) == 3
    assert all("readings at the next" not in one and "Its rows are kept" in one for one in told)
    run.add(2, x=1.0)
    log.write(run)
    assert read_rows(path) == run.rows


def test_what_is_no_trouble_of_a_disk_is_for_the_caller_and_the_log_goes_on(path: Path) -> None:
    log, run = started(path, 1)
    run.rows.append({"step": 2, "epoch": 0, "y": object()})
    for _ in range(2):
        with pytest.raises(TypeError):
            log.write(run)
    run.rows[-1]["y"] = 2.0
    log.write(run)
    assert read_rows(path) == run.rows


# ------------------------------------------------- one writer a file


FOREIGN = (
    b"a,b\n1,2\n",
    b"step,epochs\n1,2\n",
    b"step,value\n1,2\n",
    b"\x00\xff",
    b"step,epoch",
    b"\xef\xbb\xbfstep,epoch\n",
)


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_is_not_ours_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"readings.csv is not.*\n?.*are in .*readings_2.csv, and go on there"):
        log, run = started(path, 1, 2)
    run.add(3, x=3 / 7)
    log.write(run)
    assert path.read_bytes() == content
    assert log.path == path.with_name("readings_2.csv")
    assert read_rows(log.path) == run.rows
    assert names(path.parent) == ["readings.csv", "readings_2.csv"]


@pytest.mark.parametrize("content", [b"", b"step,epoch\n", b"step,epoch,x\r\n1,0,5\r\n", b"step,epoch\r\n1,0\r\n"])
def test_a_file_of_an_earlier_run_is_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _, run = started(path, 1, 2)
    assert read_rows(path) == run.rows
    assert names(path.parent) == ["readings.csv"]


def test_a_folder_of_its_name_is_left_alone(path: Path) -> None:
    path.mkdir()
    with pytest.warns(UserWarning, match=r"readings_2.csv"):
        _, run = started(path, 1)
    assert path.is_dir()
    assert read_rows(path.with_name("readings_2.csv")) == run.rows


@pytest.mark.parametrize("when", ["at the first write", "later"])
def test_a_file_that_may_not_be_opened_is_left_alone(path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log, run = started(path, 1)
    before = path.read_bytes()
    real = Path.open

    def opened(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        if when == "at the first write":
            log = CsvLog(path)
        run.add(2, x=0.5)
        with pytest.warns(UserWarning, match=r"may not be changed.*readings_2.csv"):
            log.write(run)
    assert path.read_bytes() == before
    assert read_rows(path.with_name("readings_2.csv")) == run.rows


CHANGES = {
    "a foreign table": lambda content: b"a,b\n1,2\n",
    "a line more": lambda content: content + b"9,9,9\r\n",
    "a line less": lambda content: content[: content[:-1].rindex(b"\n") + 1],
    "cut off": lambda content: content[:-1],
    "emptied": lambda content: b"",
    "other line ends": lambda content: content.replace(b"\r\n", b"\n"),
    "another number in the last row": lambda content: content[:-3] + b"0\r\n",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("column", ["x", "new"])
def test_a_file_that_was_changed_is_left_alone_and_the_run_goes_on_beside_it(
    path: Path, change: str, column: str
) -> None:
    log, run = started(path, 1, 2)
    changed = CHANGES[change](path.read_bytes())
    path.write_bytes(changed)
    path.with_name("readings_2.csv").write_text("of somebody else")
    run.add(3, **{column: 0.5})
    with pytest.warns(UserWarning, match=r"readings.csv is not.*are in .*readings_3.csv"):
        log.write(run)
    run.add(4, x=0.25)
    log.write(run)
    assert path.read_bytes() == changed
    assert path.with_name("readings_2.csv").read_text() == "of somebody else"
    assert read_rows(path.with_name("readings_3.csv")) == run.rows
    assert names(path.parent) == ["readings.csv", "readings_2.csv", "readings_3.csv"]


def test_two_processes_in_a_folder_each_have_all_their_rows(path: Path) -> None:
    logs, runs = [CsvLog(path), CsvLog(path), CsvLog(path)], [Run(), Run(), Run()]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for step in range(1, 6):
            for number, (log, run) in enumerate(zip(logs, runs, strict=True)):
                run.add(step, x=100.0 * number + step)
                log.write(run)
    assert len(told) == 2
    assert len({log.path for log in logs}) == 3
    for log, run in zip(logs, runs, strict=True):
        assert read_rows(log.path) == run.rows


def test_a_full_disk_beside_a_foreign_file_takes_no_name(path: Path) -> None:
    path.write_text("of somebody else")
    log, run = CsvLog(path), Run({"step": 1, "epoch": 0, "x": 1.0})
    with full_disk(5), pytest.warns(UserWarning, match="cannot be written"):
        log.write(run)
    assert names(path.parent) == ["readings.csv"]
    with pytest.warns(UserWarning, match=r"readings_2.csv"):
        log.write(run)
    assert read_rows(path.with_name("readings_2.csv")) == run.rows


EVENTS = st.lists(
    st.sampled_from(["row", "column", "again", "full", "gone", "foreign", "other", "shortened"]),
    min_size=1,
    max_size=14,
)


@settings(max_examples=80, deadline=None)
@given(events=EVENTS, data=st.data())
def test_nothing_is_lost_and_nothing_destroyed_whatever_happens(
    events: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("run") / "logs" / "readings.csv"
    log, run = CsvLog(path), Run()
    other, others = CsvLog(path), Run()
    columns = ["x"]
    strange: dict[Path, bytes] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step, event in enumerate(events, 1):
            if event == "column":
                columns.append(f"x{step}")
            if event == "again" and run.rows:
                run.rows[-1] = {**run.rows[-1], "x": float(step)}
            elif event == "gone":
                shutil.rmtree(path.parent, ignore_errors=True)
                strange.clear()
            elif event in ("foreign", "shortened") and log.path.exists():
                content = b"a,b\n1,2\n" if event == "foreign" else log.path.read_bytes()[:-2]
                log.path.write_bytes(content)
                if run.rows:
                    strange[log.path] = content
            elif event == "other":
                others.add(step, x=-float(step))
                other.write(others)
                strange = {one: content for one, content in strange.items() if one.read_bytes() == content}
            run.add(step, **dict.fromkeys(columns, step / 7))
            size = data.draw(st.integers(0, 400)) if event == "full" else 10**9
            with full_disk(size):
                log.write(run)
            for one, content in strange.items():
                assert one.read_bytes() == content
        log.write(run)
        other.write(others)
        log.write(run)
    assert read_rows(log.path) == run.rows
    if others.rows:
        assert read_rows(other.path) == others.rows
    assert not [one for one in names(path.parent) if one.startswith(".")]


# ------------------------------------------------- in a fit


def fit(folder: Path, callback: pl.Callback, *more: pl.Callback, **kwargs: Any) -> pl.Trainer:
    run = trainer(folder, [callback, *more], logger=CSVLogger(folder, name="run", version=0), **kwargs)
    run.fit(Tagger(), loader(), loader(seed=1))
    return run


def geometry() -> RepresentationGeometry:
    return RepresentationGeometry("encoder", draw_figures=False)


def test_a_foreign_table_in_its_place_does_not_end_the_fit(tmp_path: Path) -> None:
    path = tmp_path / "run" / "version_0" / "readings.csv"

    class Somebody(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                path.write_text("a,b\n1,2\n")
            pl_module.late = trainer.current_epoch

    callback = geometry()
    with pytest.warns(UserWarning, match=r"readings_2.csv"):
        fit(tmp_path, callback, Somebody(), max_epochs=3)
    assert path.read_text() == "a,b\n1,2\n"
    assert [row["step"] for row in read_rows(path.with_name("readings_2.csv"))] == [5, 10, 15]
    assert len(callback.history) == 3


def test_a_run_that_is_resumed_in_its_folder_has_all_its_readings_there(tmp_path: Path) -> None:
    path = tmp_path / "run" / "version_0" / "readings.csv"
    fit(tmp_path, geometry(), max_epochs=2).save_checkpoint(tmp_path / "end.ckpt")
    before = read_rows(path)
    run = trainer(tmp_path, [geometry()], logger=CSVLogger(tmp_path, name="run", version=0), max_epochs=4)
    run.fit(Tagger(), loader(), loader(seed=1), ckpt_path=tmp_path / "end.ckpt", weights_only=True)
    found = read_rows(path)
    assert [row["step"] for row in found] == [5, 10, 15, 20]
    assert found[:2] == before
    assert not list(path.parent.glob("readings_*"))
