"""Training over sizes at a tiny size, and the statistics on runs whose answer is known."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
import torch
from example_files import STUDIES, load_study

from lightning_interp import Readings


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_study("model_size")


def tiny(folder: Path, *more: str) -> list[str]:
    return ["--sizes", "32", "36", "--steps", "14", "--early", "5", "--jobs", "1", "--logdir", str(folder), *more]


def test_runs_tables_and_figure(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = example.main(
        tiny(tmp_path / "x", "--lr", "1e-3", "2e-3", "--seed", "1", "--seeds", "1", "--permutations", "99")
    )
    assert list(runs) == [(32, 1), (36, 1)]
    for (size, seed), rows in runs.items():
        assert rows.steps() == [5, 10, 13, 14]
        assert {(row["size"], row["seed"]) for row in rows} == {(size, seed)}
        for key in (*example.PANELS.values(), *(series.key for series in example.STRUCTURE.values())):
            assert rows.steps(key)[-1] == 14, key
        assert rows.last("exact_match/agent_to_theme") == 0
    assert [rows.last("lr") for rows in runs.values()] == [1e-3, 2e-3]
    assert runs[36, 1].last("parameters") > runs[32, 1].last("parameters")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        "model_size.png",
        "results.json",
        "runs.csv",
        "tables.txt",
    ]
    printed = capsys.readouterr().out
    assert "width 32, seed 1: 49932 parameters, 14 of 14 steps" in printed
    assert "the last 2 readings" in printed
    assert "it takes three seeds" in printed

    # From the file alone the same comes out.
    again = example.main(["--analyse-only", str(tmp_path / "x"), "--early", "5", "--permutations", "99"])
    assert str({run: rows.rows for run, rows in again.items()}) == str({run: rows.rows for run, rows in runs.items()})
    assert capsys.readouterr().out.strip() in printed
    only = example.main(["--analyse-only", str(tmp_path / "x"), "--sizes", "36", "--permutations", "99"])
    assert list(only) == [(36, 1)]
    assert json.loads((tmp_path / "x" / "results.json").read_text())["sizes"] == [36]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        example.main(tiny(tmp_path / "x"))
    assert "runs.csv exists" in capsys.readouterr().err


def test_time_that_is_up_and_a_run_that_fails(example: ModuleType) -> None:
    done = []

    def work(size: int, seed: int) -> str:
        done.append(size)
        if size == 36:
            raise ValueError("36 is not a size")
        if size == 40:
            time.sleep(0.3)
        return f"{size} is done"

    outcomes = list(example.one_by_one(work, [(32, 0), (36, 0), (40, 0), (44, 0)], time.time() + 0.2))
    assert done == [32, 36, 40]
    assert outcomes[0] == ((32, 0), "32 is done")
    assert "width 36, seed 0 FAILED" in outcomes[1][1]
    assert "ValueError: 36 is not a size" in outcomes[1][1]
    assert outcomes[3] == ((44, 0), "width 44, seed 0: no time left to start it")


def job(size: int, seed: int) -> str:
    if size == 1:
        raise ValueError("no such size")
    if size == 2:
        os._exit(3)
    if size == 3:
        time.sleep(60)
    return f"{size}, {seed} done"


def test_side_by_side(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # Forked, since a process that is spawned imports everything first; what it is sent is found by name.
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(example.multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setitem(sys.modules, example.__name__, example)

    tasks = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2)]
    began = time.time()
    outcomes = dict(outcome for outcome in example.side_by_side(job, tasks, 2, began + 2, grace=0) if outcome[0])
    assert time.time() - began < 30
    assert set(outcomes) == set(tasks)
    assert [outcomes[0, seed] for seed in range(3)] == ["0, 0 done", "0, 1 done", "0, 2 done"]
    assert "width 1, seed 0 FAILED" in outcomes[1, 0]
    assert "no such size" in outcomes[1, 0]
    assert outcomes[2, 0].startswith("width 2, seed 0 FAILED: A process in the process pool was terminated abruptly")
    assert outcomes[3, 0] == "width 3, seed 0: ended, it did not stop in time"


@pytest.mark.slow
def test_as_a_script_with_two_processes(tmp_path: Path) -> None:
    command = [sys.executable, str(STUDIES / "model_size.py"), *tiny(tmp_path / "x", "--seeds", "3", "--jobs", "2")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=280).stdout
    assert printed.count("14 of 14 steps") == 6
    assert "6 runs, seeds [0, 1, 2]" in printed
    assert len(list((tmp_path / "x").iterdir())) == 4


def test_what_did_not_finish_is_gathered_too(example: ModuleType, tmp_path: Path) -> None:
    for seed, finished in ((0, True), (1, False)):
        folder = example.run_folder(tmp_path, 32, seed)
        (folder / "lightning_interp_logs").mkdir(parents=True)
        (folder / "lightning_interp_logs" / "readings.csv").write_text("step,a,b\n10,0.5,\n20,0.25,1\n")
        if finished:
            (folder / "facts.json").write_text(json.dumps({"parameters": 7}))
    example.gather(tmp_path)
    assert list(example.read_runs([tmp_path])) == [(32, 0)]
    assert example.run_folder(tmp_path, 32, 1).exists()
    example.gather(tmp_path, everything=True)
    runs = example.read_runs([tmp_path])
    assert runs[32, 0].rows == [
        {"size": 32, "seed": 0, "step": 10, "a": 0.5},
        {"size": 32, "seed": 0, "step": 20, "a": 0.25, "b": 1, "parameters": 7},
    ]
    assert runs[32, 1].steps() == [10, 20]
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]
    with (tmp_path / "runs.csv").open() as file:
        assert len(list(csv.reader(file))) == 5


def test_order_and_steps(example: ModuleType) -> None:
    assert example.ordered([32, 64], [0, 1], "seeds") == [(32, 0), (64, 0), (32, 1), (64, 1)]
    assert example.ordered([32, 64], [0, 1], "sizes") == [(32, 0), (32, 1), (64, 0), (64, 1)]
    assert example.ordered([32, 64], [0, 1], "largest") == [(64, 0), (64, 1), (32, 0), (32, 1)]
    steps = example.reading_steps(12_000, [200, 400, 700])
    assert 30 <= len(steps) <= 36
    assert {200, 400, 700, 10_800, 11_100, 11_400, 11_700, 12_000} <= set(steps)
    assert steps == sorted(set(steps))


def made(example: ModuleType, compression: float, seeds: int = 6) -> dict:
    """Runs whose information falls from .9 by so much for every doubling, and whose early information tells the end."""
    noise = random.Random(0)
    runs = {}
    for size in (32, 64, 128):
        for seed in range(seeds):
            luck, doublings = noise.uniform(0, 0.1), math.log2(size / 32)
            rows = []
            for step in (10, 100, 400, 900, 950, 1000):
                late = step >= 900
                information = 0.9 - (0.01 + compression * doublings if late else 0) + noise.uniform(-0.001, 0.001)
                if step == 100:
                    information = 0.8 + luck
                rows.append(
                    {
                        "size": size,
                        "seed": seed,
                        "step": step,
                        "information/encoder": information,
                        "effective_rank/encoder": size * (1 + noise.uniform(-0.01, 0.01)) * (0.5 if late else 1),
                        "binned_information/encoder": noise.random(),
                        example.IN_DISTRIBUTION: float(step >= 400),
                        # Size alone raises it, beside luck.
                        example.OUT_OF_DISTRIBUTION: 0.3 + 0.2 * doublings + luck if late else 0.0,
                    }
                )
            runs[size, seed] = Readings(rows)
    return runs


def test_planted_compression_is_found(example: ModuleType) -> None:
    found = example.analyse(made(example, compression=0.01), [100], None, 999)
    soft = found["measures"]["information, soft"]
    for size, expected in (("32", -0.01), ("64", -0.02), ("128", -0.03)):
        cell = soft["since_solved"]["by_size"][size]
        assert abs(cell["mean"] - expected) < cell["half"] < 0.002
    assert soft["since_solved"]["with_size"]["rho"] < -0.9
    assert soft["since_solved"]["with_size"]["verdict"] == "falls"
    assert soft["end"]["with_size"]["verdict"] == "falls"
    assert soft["since_solved"]["with_size"]["difference"]["mean"] == pytest.approx(-0.02, abs=0.002)
    rank = found["measures"]["effective rank"]
    assert rank["since_solved"]["by_size"]["64"]["mean"] == pytest.approx(-0.5, abs=0.02)
    assert rank["end"]["with_size"]["verdict"] == "rises"
    assert found["measures"]["information, binned"]["since_solved"]["with_size"]["verdict"] == "not shown"
    lines = "\n".join(example.claim_lines(found["measures"]))
    assert "soft             compression since solved at widths 32, 64, 128; more in larger models; larger end" in lines
    assert "binned           compression since solved at widths none" in lines
    assert found["end_readings"] == 3


def test_the_reverse_is_told(example: ModuleType) -> None:
    measures = example.analyse(made(example, compression=-0.01), [100], None, 99)["measures"]
    assert "less in larger models; larger end higher" in example.claim_lines(measures)[0]


def test_planted_prediction_is_found_within_sizes_and_chance_is_not(example: ModuleType) -> None:
    found = example.analyse(made(example, compression=0.0, seeds=8), [100, 400], None, 1999)
    assert found["prediction"]["runs"] == 24
    planted = found["prediction"]["tests"]["information, soft"]["100"]
    # Over all runs size hides most of it.
    assert planted["within"] == pytest.approx(1.0)
    assert planted["raw"] < 0.7
    assert planted["within_holm"] < 0.05
    assert planted["within_low"] > 0.9
    rank = found["prediction"]["tests"]["effective rank"]["100"]
    # It tells the size, and nothing more.
    assert rank["raw"] > 0.8
    assert rank["raw_holm"] < 0.05
    assert abs(rank["within"]) < 0.5
    assert rank["within_holm"] > 0.05
    # Constant measures are no tests: of exact match at step 100 and 400 nothing can be said.
    every = [test for by_step in found["prediction"]["tests"].values() for test in by_step.values()]
    tested = [test for test in every if math.isfinite(test["within_p"])]
    assert len(tested) == 6 < len(every)
    assert planted["within_holm"] == pytest.approx(min(1, 6 * planted["within_p"]))
    last = "predict within widths, p of at most .05 after correction: information, soft at 100"
    assert example.report(found).endswith(last)


def test_unfinished_runs_are_left_out_and_told(example: ModuleType) -> None:
    runs = made(example, compression=0.01, seeds=4)
    runs[128, 3] = runs[128, 3].until(950)
    found = example.analyse(runs, [100], None, 99)
    assert found["unfinished"] == ["width 128, seed 3"]
    assert found["seeds"]["128"] == [0, 1, 2]
    assert found["measures"]["information, soft"]["end"]["by_size"]["32"]["n"] == 4
    # Whole seeds are exchanged in the test, so only those count.
    assert found["prediction"]["runs"] == 9
    assert "left out, since they end before that step: width 128, seed 3" in example.report(found)
    assert example.analyse(runs, [100], 950, 99)["unfinished"] == []
    with pytest.raises(ValueError, match=r"No run got to step 2000; they end at \[950, 1000\]"):
        example.analyse(runs, [100], 2000, 99)
    with pytest.raises(ValueError, match="There are no readings"):
        example.analyse({}, [100], None, 99)


def test_width_below_the_matched_dimension_is_said(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        example.main(["--sizes", "16", "--logdir", str(tmp_path)])
    assert "--sizes [16] are below 32" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        example.main(["--dataset", "cogs", "--logdir", str(tmp_path)])
    assert "needs --data-dir" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        example.main(["--sizes", "32", "64", "96", "--lr", "1e-3", "1e-4", "--logdir", str(tmp_path)])
    assert "--lr has 2 values for 3 widths" in capsys.readouterr().err


def test_categories_are_counted_by_their_own_sentences(example: ModuleType) -> None:
    data = example.GrammarDataModule(train_examples=300, val_examples=5, ood_examples=12, val_batch_size=5)
    model = example.Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary), d_model=32)
    kind = data.ood_categories[3]
    answers = {tuple(batch["input_ids"].flatten().tolist()): batch["labels"] for batch in data.val_dataloader()[1]}
    place = [0]

    class Knows(torch.nn.Module):
        """Right about the sentences of one kind."""

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, decoder_ids: torch.Tensor) -> torch.Tensor:
            labels = answers[tuple(ids.flatten().tolist())].clamp_min(0)
            logits = torch.nn.functional.one_hot(labels, len(data.target_vocabulary)).float()
            for row in range(len(ids)):
                if data.ood_categories[place[0]] != kind:
                    logits[row, 0] = -logits[row, 0]
                place[0] += 1
            return logits

    model.model = Knows()
    found = example.by_category(model, data)
    assert found[f"exact_match/{kind}"] == 1
    assert sum(found.values()) == 1
    assert len(found) == len(set(data.ood_categories))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_is_one_line_and_keeps_what_was_read(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(*_: object) -> Iterator[object]:
        yield None, ""
        folder = example.run_folder(tmp_path, 32, 0) / "lightning_interp_logs"
        folder.mkdir(parents=True)
        (folder / "readings.csv").write_text("step,val_loss\n5,0.5\n")
        raise error

    monkeypatch.setattr(example, "one_by_one", interrupted)
    with pytest.raises(
        SystemExit, match=r"^\nstopped; what was read is in .*runs.csv, of which --analyse-only"
    ) as stop:
        example.main(tiny(tmp_path))
    assert stop.value.__suppress_context__
    assert (tmp_path / "runs.csv").read_text().splitlines() == ["size,seed,step,val_loss", "32,0,5,0.5"]
    (tmp_path / "runs.csv").unlink()
    monkeypatch.setattr(example, "one_by_one", lambda *_: iter_raising(error))
    with pytest.raises(SystemExit, match="stopped; nothing was read yet"):
        example.main(tiny(tmp_path))


def iter_raising(error: type[BaseException]) -> Iterator[object]:
    yield None, ""
    raise error


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_all_processes_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(STUDIES / "model_size.py"), "--sizes", "32", "--seeds", "2", "--jobs", "2"]
    process = subprocess.Popen(
        [*command, "--steps", "100000", "--early", "5", "--logdir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # its processes are one group, as those of a terminal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
    )
    try:
        deadline = time.time() + 120
        while len(list(tmp_path.rglob("readings.csv"))) < 2 and time.time() < deadline:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 1
    assert "Traceback" not in printed
    assert printed.strip().splitlines()[-1].startswith("stopped; what was read is in")
    assert (tmp_path / "runs.csv").exists()
    deadline = time.time() + 10
    while alive(process.pid) and time.time() < deadline:
        time.sleep(0.1)
    assert alive(process.pid) == []


def alive(group: int) -> list[str]:
    """What runs in a group of processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, rest = path.read_text().split("(", 1)[1].rsplit(") ", 1)
            state, _, belongs, *_ = rest.split()
            if int(belongs) == group and state != "Z":
                found.append(name)
    return found
