"""Two claims about model size and compression, tested over sizes and seeds.

Encoder–decoders of several widths learn to turn sentences into logical forms, as in ``two_phases.py``, each from
several seeds. Two claims of Conklin & Smith 2024 (arXiv 2406.02449) are put to the test:

1. larger models compress more;
2. a measure read early predicts how well a run generalises in the end.

Information is read by both estimators, in the model's own dimensions and at matched dimension: in one random subspace
of 32 dimensions for each width, the same at all seeds and steps. Tables, ``results.json`` and ``model_size.png`` are
made of ``runs.csv``, which holds every reading of every run.

    python benchmarks/studies/model_size.py
    python benchmarks/studies/model_size.py --sizes 32 64 128 256 --seeds 8 --steps 12000 --jobs 16 --accelerator cuda
    python benchmarks/studies/model_size.py --analyse-only logs/model_size
    python benchmarks/studies/model_size.py --dataset cogs --data-dir path/to/cogs --sizes 64 --seeds 1 --steps 4000
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure

from lightning_interp import (
    NoiseRobustness,
    Readings,
    RepresentationGeometry,
    RepresentationMetrics,
    RepresentationStructure,
    ValidationAnalysis,
    ValidationSchedule,
)
from lightning_interp.datasets import CogsDataModule, GrammarDataModule, Seq2SeqDataModule
from lightning_interp.decisions import log_spaced_steps
from lightning_interp.figures import interval_curves
from lightning_interp.functional import bootstrap_interval, holm, mean_interval, rank_test, stratified_spearman
from lightning_interp.metrics import BinnedStructure, Projected, SoftStructure
from lightning_interp.models import Seq2SeqModule
from lightning_interp.offline.readings import mean_curve
from lightning_interp.reading.readings_table import read_rows, write_rows

Runs = dict[tuple[int | float, ...], Readings]
"""Size and seed → readings."""
RUN = ("size", "seed")

MATCHED = 32
LATE = (0.9, 0.925, 0.95, 0.975)
"""Shares of the steps at which readings are added: with the last they make the end of a run."""
GRACE = 20.0
"""Seconds a run gets to stop by itself when time is up."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line → settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("grammar", "cogs"), default="grammar", help="default: %(default)s")
    parser.add_argument("--data-dir", type=Path, help="folder with the files of COGS or SLOG")
    parser.add_argument("--sizes", type=int, nargs="+", help="widths; default: 32 48 64, or all there are to analyse")
    parser.add_argument(
        "--lr", type=float, nargs="+", default=[1e-3], help="learning rate, one for all widths or one for each"
    )
    parser.add_argument("--heads", type=int, default=4, help="attention heads at every width; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="the first, of data, weights and batches")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each size; default: %(default)s")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps; default: %(default)s")
    parser.add_argument(
        "--early", type=int, nargs="+", default=[200, 400, 700], help="steps to predict from; default: %(default)s"
    )
    parser.add_argument("--accelerator", choices=("cpu", "cuda", "auto"), default="cpu", help="default: %(default)s")
    parser.add_argument(
        "--cpu-sizes", type=int, nargs="*", default=[], help="widths that train on the CPU whatever --accelerator says"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side; default: %(default)s")
    parser.add_argument(
        "--start-order",
        choices=("seeds", "sizes", "largest"),
        default="seeds",
        help="all sizes of a seed first, all seeds of a size, or the largest models; default: %(default)s",
    )
    parser.add_argument("--minutes", type=float, help="stop what is not finished by then; default: no limit")
    parser.add_argument("--logdir", type=Path, default=Path("logs/model_size"), help="default: %(default)s")
    parser.add_argument(
        "--analyse-only", type=Path, nargs="+", help="train nothing: folders with runs.csv; results go to the first"
    )
    parser.add_argument("--until", type=int, help="analyse runs up to this step; default: the last of any run")
    parser.add_argument("--permutations", type=int, default=9999, help="of a test; default: %(default)s")
    args = parser.parse_args(argv)
    if args.analyse_only is None:
        args.sizes = args.sizes or [32, 48, 64]
        if len(args.lr) not in (1, len(args.sizes)):
            parser.error(f"--lr has {len(args.lr)} values for {len(args.sizes)} widths: give one, or one for each")
    if args.dataset == "cogs" and args.data_dir is None and args.analyse_only is None:
        parser.error("--dataset cogs needs --data-dir, the folder that holds train.tsv, dev.tsv and gen.tsv")
    if args.analyse_only is None and (small := [size for size in args.sizes if size < MATCHED]):
        parser.error(f"--sizes {small} are below {MATCHED}, the dimension at which all are compared")
    if args.analyse_only is None and (args.logdir / "runs.csv").exists():
        parser.error(f"{args.logdir / 'runs.csv'} exists: give another --logdir, or --analyse-only {args.logdir}")
    return args


def main(argv: Sequence[str] | None = None) -> Runs:
    """Train every size from every seed, then analyse."""
    args = parse(argv)
    if args.analyse_only is None:
        train_all(args)
        folders = [args.logdir]
    else:
        folders = args.analyse_only
    every = read_runs(folders)
    runs = {run: rows for run, rows in every.items() if not args.sizes or run[0] in args.sizes}
    found = analyse(runs, args.early, args.until, args.permutations)
    text = report(found)
    print(text)
    (folders[0] / "tables.txt").write_text(text + "\n")
    # JSON has no NaN: what is undefined is null.
    plain = json.loads(json.dumps(found), parse_constant=lambda _: None)
    (folders[0] / "results.json").write_text(json.dumps(plain, indent=1))
    if found["curves"]:
        draw(found).savefig(folders[0] / "model_size.png", dpi=110)
    return runs


# ------------------------------------------------- training


def load_data(args: argparse.Namespace, seed: int) -> Seq2SeqDataModule:
    """The data module of the chosen task."""
    if args.dataset == "cogs":
        # Validating on all 24,000 sentences at every reading would take far longer than the training.
        return CogsDataModule(args.data_dir, max_target_length=100, val_examples=500, ood_examples=1050, seed=seed)
    # Four batches of each validation set: their spread tells the noise of a metric.
    return GrammarDataModule(val_batch_size=100, seed=seed)


def make_readers() -> list[ValidationAnalysis]:
    """What is read at the output of the encoder, and what noise at the input does to the task."""
    sites, quiet = {"encoder": "model.encoder"}, {"draw_figures": False}
    matched = {
        "soft": Projected(SoftStructure(labels=["token"], shuffles=2), MATCHED),
        "binned": Projected(BinnedStructure(labels=["token"], shuffles=2), MATCHED),
    }
    return [
        RepresentationStructure(sites, labels=["token", "bigram"], estimator="both", shuffles=2, **quiet),
        RepresentationMetrics(matched, sites, **quiet),
        RepresentationGeometry(sites, center=True, **quiet),
        NoiseRobustness(
            {"input": "model.source_input"}, scales=(0.25, 0.5), monitors={"val_acc": "score"}, drift=sites, **quiet
        ),
    ]


def reading_steps(last: int, early: Sequence[int]) -> list[int]:
    """Steps at equal distances on a logarithmic axis, those to predict from, and several at the end."""
    late = [round(share * last) for share in LATE]
    steps = {*log_spaced_steps(per_decade=9, start=10, stop=max(10, late[0])), *early, *late, last}
    return sorted(step for step in steps if 1 <= step <= last)


def train(args: argparse.Namespace, deadline: float | None, size: int, seed: int) -> str:
    """One training with its readings, and the exact match by category at its end; what happened, in a line."""
    quieten()
    pl.seed_everything(seed, verbose=False)
    folder = run_folder(args.logdir, size, seed)
    data = load_data(args, seed)
    lr = args.lr[args.sizes.index(size)] if len(args.lr) > 1 else args.lr[0]
    model = Seq2SeqModule(
        len(data.source_vocabulary),
        len(data.target_vocabulary),
        d_model=size,
        heads=args.heads,
        feedforward=4 * size,
        lr=lr,
    )
    trainer = pl.Trainer(
        max_steps=args.steps,
        max_time=None if deadline is None else timedelta(seconds=max(1.0, deadline - time.time())),
        callbacks=[ValidationSchedule(steps=reading_steps(args.steps, args.early)), *make_readers()],
        logger=False,
        default_root_dir=folder,
        accelerator="cpu" if size in args.cpu_sizes else args.accelerator,
        devices=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=1000,
    )
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - started
    parameters = sum(one.numel() for one in model.parameters())
    facts = {"parameters": parameters, "lr": lr, "fit_seconds": seconds, **by_category(model, data)}
    (folder / "facts.json").write_text(json.dumps(facts))
    rate = f"{1000 * seconds / max(1, trainer.global_step):.1f} ms a step with readings"
    done = f"{trainer.global_step} of {args.steps} steps in {seconds:.0f} s, {rate}"
    return f"width {size}, seed {seed}: {parameters} parameters, {done}"


def quieten() -> None:
    """One thread, which is all that models this small can use, and no lines that every run would repeat."""
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for name in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*GPU available but.*",
        ".*treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", name)


@torch.no_grad()
def by_category(model: Seq2SeqModule, data: Seq2SeqDataModule) -> dict[str, float]:
    """Exact match of each kind of out-of-distribution sentence."""
    model.cpu().eval()
    solved: list[bool] = []
    for batch in data.val_dataloader()[1]:
        labels = batch["labels"]
        solved += ((model(batch).argmax(-1) == labels) | (labels == -100)).all(1).tolist()
    kinds: dict[str, list[bool]] = {}
    for kind, right in zip(data.ood_categories or (), solved, strict=True):
        kinds.setdefault(kind, []).append(right)
    return {f"exact_match/{kind}": sum(found) / len(found) for kind, found in sorted(kinds.items())}


def train_all(args: argparse.Namespace) -> None:
    """Every size from every seed, several side by side; a run that fails is told and the others go on.

    Ctrl-C ends them all, and keeps what they have read so far.
    """
    started = time.time()
    deadline = None if args.minutes is None else started + 60 * args.minutes
    os.environ["OMP_NUM_THREADS"] = "1"
    tasks = ordered(args.sizes, range(args.seed, args.seed + args.seeds), args.start_order)
    work = partial(train, args, deadline)
    outcomes = one_by_one(work, tasks, deadline) if args.jobs == 1 else side_by_side(work, tasks, args.jobs, deadline)
    try:
        with closing(outcomes):
            for task, outcome in outcomes:
                if task is not None:
                    print(f"{time.time() - started:5.0f} s  {outcome}", flush=True)
                gather(args.logdir)
    except (KeyboardInterrupt, SystemExit):  # the second where a Trainer in this process was interrupted
        gather(args.logdir, everything=True)
        path = args.logdir / "runs.csv"
        kept = f"what was read is in {path}, of which --analyse-only {args.logdir} makes tables"
        raise SystemExit(f"\nstopped; {kept if path.exists() else 'nothing was read yet'}") from None
    gather(args.logdir, everything=True)


def ordered(sizes: Sequence[int], seeds: Sequence[int], order: str) -> list[tuple[int, int]]:
    """Sizes and seeds in the order in which they are started."""
    if order == "seeds":
        return [(size, seed) for seed in seeds for size in sizes]
    return [(size, seed) for size in (sorted(sizes, reverse=True) if order == "largest" else sizes) for seed in seeds]


Work = Callable[[int, int], str]
Outcomes = Generator[tuple[tuple[int, int] | None, str], None, None]


def one_by_one(work: Work, tasks: Sequence[tuple[int, int]], deadline: float | None) -> Outcomes:
    """Run all tasks in this process."""
    for task in tasks:
        if deadline is not None and time.time() > deadline:
            yield task, f"width {task[0]}, seed {task[1]}: no time left to start it"
            continue
        yield task, attempt(work, task)


def attempt(work: Work, task: tuple[int, int]) -> str:
    """What the work says, or how it failed."""
    try:
        return work(*task)
    except Exception:
        return f"width {task[0]}, seed {task[1]} FAILED\n{traceback.format_exc()}"


def side_by_side(
    work: Work, tasks: Sequence[tuple[int, int]], jobs: int, deadline: float | None, grace: float = GRACE
) -> Outcomes:
    """Run all tasks in so many processes, each of which takes a new one when it is done; ``None`` now and then.

    A process that dies loses its task and is replaced. Tasks end by themselves at the deadline; those that do not are
    ended after the grace.
    """
    waiting = deque(tasks)
    # A pool for each process: the death of one breaks its pool, and no other.
    idle: list[ProcessPoolExecutor] = []
    busy: dict[Future[str], tuple[ProcessPoolExecutor, tuple[int, int]]] = {}
    try:
        while waiting or busy:
            late = deadline is not None and time.time() > deadline
            while waiting and late:
                task = waiting.popleft()
                yield task, f"width {task[0]}, seed {task[1]}: no time left to start it"
            while waiting and len(busy) < jobs:
                pool = idle.pop() if idle else ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
                task = waiting.popleft()
                busy[submitted(pool, work, task)] = (pool, task)
            if deadline is not None and time.time() > deadline + grace:
                for _, task in busy.values():
                    yield task, f"width {task[0]}, seed {task[1]}: ended, it did not stop in time"
                return
            ready, _ = wait(busy, timeout=1.0, return_when=FIRST_COMPLETED)
            for done in ready:
                pool, task = busy.pop(done)
                try:
                    outcome = done.result()
                    idle.append(pool)
                except BrokenProcessPool as error:
                    outcome = f"width {task[0]}, seed {task[1]} FAILED: {error}"
                yield task, outcome
            if not ready:
                yield None, ""
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
        for pool in [*idle, *(pool for pool, _ in busy.values())]:
            pool.shutdown(cancel_futures=True)


def submitted(pool: ProcessPoolExecutor, work: Work, task: tuple[int, int]) -> Future[str]:
    """Hand a task to a pool, whose process is started where it has none."""
    # Ctrl-C reaches all processes of a terminal: those that inherit this leave it to the first, which ends them.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return pool.submit(attempt, work, task)
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------- files


def run_folder(logdir: Path, size: int, seed: int) -> Path:
    """Where a run writes while it is trained."""
    return logdir / "running" / f"width_{size}_seed_{seed}"


def gather(logdir: Path, everything: bool = False) -> None:
    """Move the readings of finished runs, or of all, into ``runs.csv``, a row a reading."""
    path, running = logdir / "runs.csv", logdir / "running"
    rows = read_rows(path) if path.exists() else []
    taken = []
    for folder in sorted(running.glob("width_*_seed_*")):
        # Lightning's `default_root_dir` gets a folder of this package's own.
        readings, facts = folder / "lightning_interp_logs" / "readings.csv", folder / "facts.json"
        if not readings.exists() or not (everything or facts.exists()):
            continue
        _, size, _, seed = folder.name.split("_")
        found = read_rows(readings)
        if facts.exists():
            found[-1].update(json.loads(facts.read_text(encoding="utf-8")))
        rows += [{"size": int(size), "seed": int(seed), **row} for row in found]
        taken.append(folder)
    if taken:
        write_rows(path, rows)
    for folder in taken:
        shutil.rmtree(folder)
    if everything and running.exists():
        shutil.rmtree(running)


def read_runs(folders: Sequence[Path]) -> Runs:
    """The readings of all runs in the folders."""
    return {run: one for folder in folders for run, one in Readings.runs(folder / "runs.csv", RUN).items()}


# ------------------------------------------------- statistics


class Series(NamedTuple):
    """What is followed: its key, and whether changes are told as shares of where they began."""

    key: str
    relative: bool = False


IN_DISTRIBUTION, OUT_OF_DISTRIBUTION = "val_acc/dataloader_idx_0", "val_acc/dataloader_idx_1"
OUTCOME = "out-of-d. exact match"

# Falling is compression.
COMPRESSION = {
    "information, soft": Series("information/encoder"),
    "information, binned": Series("binned_information/encoder"),
    "information, soft, matched": Series("projected_information/encoder"),
    "information, binned, matched": Series("projected_binned_information/encoder"),
    "effective rank": Series("effective_rank/encoder", relative=True),
    "RankMe, centred": Series("rankme/encoder", relative=True),
}

# What the published figures show, by both estimators, raw as published and above chance.
STRUCTURE = {
    f"{measure} {labels}, {estimator}{note}": Series(f"{prefix}{measure}{middle}/encoder/{labels}")
    for measure in ("variation", "regularity", "disentanglement")
    for labels in ("token", "bigram")
    for estimator, prefix in (("soft", ""), ("binned", "binned_"))
    for note, middle in (("", ""), (" above chance", "_above_chance"))
    if not (note and measure == "variation")
}

TASK = {
    "validation loss": Series("val_loss/dataloader_idx_0"),
    "in-d. exact match": Series(IN_DISTRIBUTION),
    OUTCOME: Series(OUT_OF_DISTRIBUTION),
    "exact match under noise": Series("under_noise/input/val_acc"),
    "drift .25": Series("drift/input/encoder/0.25"),
}

# What is tried as a predictor; p values are corrected for all of them at all early steps. The task's own numbers are
# among them: a measure is of use where it tells more than they do.
PREDICTORS = {
    **TASK,
    **{name: series for name, series in COMPRESSION.items() if name != "RankMe, centred"},
    "regularity token": Series("regularity_above_chance/encoder/token"),
    "regularity bigram": Series("regularity_above_chance/encoder/bigram"),
    "disentanglement token": Series("disentanglement_above_chance/encoder/token"),
    "disentanglement bigram": Series("disentanglement_above_chance/encoder/bigram"),
}

PANELS = {
    "validation loss": "val_loss/dataloader_idx_0",
    "out-of-distribution exact match": OUT_OF_DISTRIBUTION,
    "exact match under noise at the input": "under_noise/input/val_acc",
    "information, soft": "information/encoder",
    f"information, soft, in {MATCHED} dimensions": "projected_information/encoder",
    "effective rank": "effective_rank/encoder",
    "information, binned": "binned_information/encoder",
    f"information, binned, in {MATCHED} dimensions": "projected_binned_information/encoder",
    "regularity, bigram, above chance": "regularity_above_chance/encoder/bigram",
}


class Ends(NamedTuple):
    """One measure over one run."""

    solved: float
    """Its value where in-distribution exact match first reached .99; NaN where it never did."""
    peak: float
    """Its highest value. That of a wandering curve lies above its level, so the change from it is below 0 by chance."""
    end: float
    """Its mean over the readings from .9 of the steps on, since late readings wander."""


def ends(rows: Readings, key: str, last: int) -> Ends:
    """Where a measure began to count, was highest and ended."""
    read = list(zip(*rows.series(key), strict=True))
    solved_at = next((row["step"] for row in rows if row.get(IN_DISTRIBUTION, 0.0) >= 0.99), math.inf)
    late = [value for step, value in read if step >= LATE[0] * last]
    return Ends(
        solved=next((value for step, value in read if step >= solved_at), math.nan),
        peak=max((value for _, value in read), default=math.nan),
        end=fmean(late) if late else math.nan,
    )


def change(first: float, last: float, relative: bool) -> float:
    """From first to last, as a share of the first if relative."""
    return last / first - 1 if relative else last - first


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds with half its 95 % interval; what is undefined is left out."""
    defined = [value for value in values if math.isfinite(value)]
    if len(defined) < 2:
        return {"mean": defined[0] if defined else math.nan, "half": math.nan, "n": len(defined)}
    mean, half = mean_interval(defined)
    return {"mean": mean, "half": half, "n": len(defined)}


def size_claim(sizes: Sequence[int], seeds: Sequence[int], values: Sequence[float]) -> dict[str, Any]:
    """Does a value over runs rise with their size?

    Spearman's correlation over all runs with its bootstrap interval over seeds, and the largest size less the smallest
    from the same seed with its t-interval: it rises where both lie above 0, falls where both lie below.
    """
    kept = [at for at, value in enumerate(values) if math.isfinite(value)]
    sizes, seeds, values = ([column[at] for at in kept] for column in (sizes, seeds, values))
    found: dict[str, Any] = {"rho": math.nan, "low": math.nan, "high": math.nan, "verdict": "not tested"}
    found["difference"] = interval([])
    if len(set(sizes)) < 2 or len(set(seeds)) < 2:
        return found
    x, y = torch.tensor(sizes, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
    found["rho"] = float(stratified_spearman(x, y))
    found["low"], found["high"] = bootstrap_interval(partial(stratified_spearman, x, y, None), seeds)
    at = {(size, seed): value for size, seed, value in zip(sizes, seeds, values, strict=True)}
    pairs = [(at.get((max(sizes), seed)), at.get((min(sizes), seed))) for seed in dict.fromkeys(seeds)]
    found["difference"] = interval([large - small for large, small in pairs if None not in (large, small)])
    mean, half = found["difference"]["mean"], found["difference"]["half"]
    found["verdict"] = "not shown"
    if found["low"] > 0 and mean - half > 0:
        found["verdict"] = "rises"
    if found["high"] < 0 and mean + half < 0:
        found["verdict"] = "falls"
    return found


def prediction(
    values: Sequence[float],
    outcome: Sequence[float],
    sizes: Sequence[int],
    seeds: Sequence[int],
    permutations: int,
) -> dict[str, float]:
    """Rank correlation with the outcome over all runs and within sizes, with intervals and p values.

    Runs from one seed share their data, so intervals draw seeds, and the test within sizes permutes seeds, the same way
    in all sizes. The test over all runs permutes runs, as if they were independent.
    """
    x, y = torch.tensor(values, dtype=torch.float64), torch.tensor(outcome, dtype=torch.float64)
    raw = rank_test(x, y, permutations=permutations)
    within = rank_test(x, y, sizes, seeds, permutations)
    low, high = bootstrap_interval(partial(stratified_spearman, x, y, None), seeds)
    within_low, within_high = bootstrap_interval(partial(stratified_spearman, x, y, sizes), seeds)
    return {
        "raw": raw.statistic,
        "raw_low": low,
        "raw_high": high,
        "raw_p": raw.p,
        "within": within.statistic,
        "within_low": within_low,
        "within_high": within_high,
        "within_p": within.p,
    }


def corrected(tests: dict[str, dict[str, dict[str, float]]]) -> None:
    """Add to each test its p values after Holm's correction for all that were tried; one without a p is not counted."""
    every = [test for by_step in tests.values() for test in by_step.values()]
    for kind in ("raw", "within"):
        tried = [test for test in every if math.isfinite(test[f"{kind}_p"])]
        for test in every:
            test[f"{kind}_holm"] = math.nan
        for test, p in zip(tried, holm([test[f"{kind}_p"] for test in tried]), strict=True):
            test[f"{kind}_holm"] = p


def analyse(runs: Runs, early: Sequence[int], until: int | None, permutations: int) -> dict[str, Any]:
    """All numbers."""
    if not runs:
        raise ValueError("There are no readings: no run got as far as its first.")
    reached = {run: rows.steps()[-1] for run, rows in runs.items()}
    last = until or max(reached.values())
    cut = {run: rows.until(last) for run, rows in runs.items()}
    whole = {run: rows for run, rows in cut.items() if len(rows) and rows.steps()[-1] == last}
    if not whole:
        raise ValueError(f"No run got to step {last}; they end at {sorted(set(reached.values()))}.")
    sizes = sorted({size for size, _ in whole})
    found: dict[str, Any] = {
        "steps": last,
        "sizes": sizes,
        "seeds": {str(size): sorted(seed for one, seed in whole if one == size) for size in sizes},
        "unfinished": [f"width {size}, seed {seed}" for size, seed in runs if (size, seed) not in whole],
        "end_readings": max(sum(step >= LATE[0] * last for step in rows.steps()) for rows in whole.values()),
    }
    found["parameters"] = {
        str(size): next((row["parameters"] for row in rows if "parameters" in row), math.nan)
        for size in sizes
        for (one, _), rows in whole.items()
        if one == size
    }
    found["measures"] = {
        name: measure(whole, series, last, sizes) for name, series in {**TASK, **COMPRESSION, **STRUCTURE}.items()
    }
    found["prediction"] = predict(whole, early, last, sizes, permutations)
    found["curves"] = {panel: curve(whole, key, sizes) for panel, key in PANELS.items()}
    found["categories"] = categories(whole, sizes)
    return found


def measure(runs: Runs, series: Series, last: int, sizes: Sequence[int]) -> dict[str, Any]:
    """One measure by size, and how its end and its changes go with size."""
    each = {run: ends(rows, series.key, last) for run, rows in runs.items()}
    values = {
        "end": {run: one.end for run, one in each.items()},
        "since_solved": {run: change(one.solved, one.end, series.relative) for run, one in each.items()},
        "since_peak": {run: change(one.peak, one.end, series.relative) for run, one in each.items()},
    }
    columns = [size for size, _ in runs], [seed for _, seed in runs]
    mean_curves = {size: curve(runs, series.key, [size]).get(str(size)) for size in sizes}
    return {
        "key": series.key,
        "relative": series.relative,
        **{
            name: {
                "by_size": {str(size): interval([v for run, v in by_run.items() if run[0] == size]) for size in sizes},
                "with_size": size_claim(*columns, list(by_run.values())),
            }
            for name, by_run in values.items()
        },
        "mean_peak_step": {
            str(size): mean["steps"][max(range(len(mean["mean"])), key=mean["mean"].__getitem__)]
            for size, mean in mean_curves.items()
            if mean
        },
        "mean_at": {str(size): sampled(mean) for size, mean in mean_curves.items() if mean},
    }


def sampled(mean: dict[str, list[float]]) -> dict[str, float]:
    """A mean curve at the readings next to 10, 30, 100, 300 and so on."""
    wanted = [10 * 10 ** (half / 2) for half in range(9) if 10 * 10 ** (half / 2) <= 1.1 * mean["steps"][-1]]
    near = sorted({min(mean["steps"], key=lambda step: abs(math.log(step / at))) for at in wanted})
    return {f"{step:g}": mean["mean"][mean["steps"].index(step)] for step in near}


def curve(runs: Runs, key: str, sizes: Sequence[int]) -> dict[str, Any]:
    """Mean over seeds with half its interval, by size, at steps where every seed has a value."""
    found: dict[str, Any] = {}
    for size in sizes:
        mean = mean_curve([rows for run, rows in runs.items() if run[0] == size], key)
        if mean.steps:
            halves = mean.halves if mean.seeds > 1 else [0.0] * len(mean.steps)
            columns = {"steps": mean.steps, "mean": mean.means, "half": halves}
            found[str(size)] = {name: list(values) for name, values in columns.items()} | {"n": mean.seeds}
    return found


def predict(runs: Runs, early: Sequence[int], last: int, sizes: Sequence[int], permutations: int) -> dict[str, Any]:
    """Every predictor at every early step against the final out-of-distribution exact match.

    Over the seeds of which every size is there, since the test within sizes exchanges whole seeds.
    """
    seeds = [seed for seed in sorted({seed for _, seed in runs}) if all((size, seed) in runs for size in sizes)]
    kept = [(size, seed) for size in sizes for seed in seeds]
    found: dict[str, Any] = {"runs": len(kept), "seeds": seeds, "tests": {}}
    if len(seeds) < 3:
        return found
    outcome = [ends(runs[run], OUT_OF_DISTRIBUTION, last).end for run in kept]
    found["outcome"] = {f"{size}/{seed}": value for (size, seed), value in zip(kept, outcome, strict=True)}
    for name, series in PREDICTORS.items():
        for step in early:
            read = [dict(zip(*runs[run].series(series.key), strict=True)).get(step) for run in kept]
            if None in read or step > last:
                continue
            test = prediction(read, outcome, [size for size, _ in kept], [seed for _, seed in kept], permutations)
            found["tests"].setdefault(name, {})[str(step)] = test
    corrected(found["tests"])
    return found


def categories(runs: Runs, sizes: Sequence[int]) -> dict[str, Any]:
    """Exact match of each kind of out-of-distribution sentence at the end, by size."""
    keys = sorted({key for rows in runs.values() for key in rows.keys if key.startswith("exact_match/")})
    return {
        key.removeprefix("exact_match/"): {
            str(size): interval([rows.rows[-1].get(key, math.nan) for run, rows in runs.items() if run[0] == size])
            for size in sizes
        }
        for key in keys
    }


# ------------------------------------------------- what is shown


def report(found: dict[str, Any]) -> str:
    """All tables."""
    sizes = [str(size) for size in found["sizes"]]
    lines = [
        "",
        f"{found['steps']} steps; mean ± half of the 95 % interval over seeds; the end is the mean of the last "
        f"{found['end_readings']} readings",
        *(f"width {size}: {found['parameters'][size]:.0f} parameters, seeds {found['seeds'][size]}" for size in sizes),
    ]
    if found["unfinished"]:
        lines.append(f"left out, since they end before that step: {'; '.join(found['unfinished'])}")
    every = found["measures"]
    groups = {"the task": TASK, "compression": COMPRESSION, "structure": STRUCTURE}
    for title, names in groups.items():
        lines += ["", f"{title}: the end by width, and whether it goes with width"]
        lines += rows_by_size({name: every[name]["end"] for name in names}, sizes)
    for name, title in (
        ("since_solved", "from in-distribution exact match of .99 to the end"),
        ("since_peak", "from the highest reading to the end (below 0 by chance alone)"),
    ):
        lines += ["", f"change {title}, by width, and whether it goes with width; ranks: as shares"]
        lines += rows_by_size({key: every[key][name] for key in {**COMPRESSION, **STRUCTURE}}, sizes)
    lines += ["", "step at which the mean over seeds is highest"]
    for name in {**COMPRESSION, **STRUCTURE}:
        steps = every[name]["mean_peak_step"]
        lines.append(f"  {name:44}" + "  ".join(f"{steps.get(size, ''):>8}" for size in sizes))
    lines += ["", "claim 1, larger models compress more", *claim_lines(every)]
    lines += [
        "",
        "claim 2, an early measure predicts the final out-of-distribution exact match",
        *prediction_lines(found),
    ]
    if found["categories"]:
        lines += ["", "exact match by kind of out-of-distribution sentence, at the last step"]
        for kind, by_size in found["categories"].items():
            lines.append(f"  {kind:56}" + "  ".join(f"{cell(by_size[size], 3):>16}" for size in sizes))
    return "\n".join(lines)


def rows_by_size(measures: dict[str, dict[str, Any]], sizes: Sequence[str]) -> list[str]:
    """A line a measure."""
    head = f"  {'':44}" + "  ".join(f"{size:>16}" for size in sizes)
    lines = [f"{head}  Spearman with width        largest less smallest"]
    for name, one in measures.items():
        cells = "  ".join(f"{cell(one['by_size'][size], 4):>16}" for size in sizes)
        size = one["with_size"]
        rho = f"{size['rho']:+.2f} ({size['low']:+.2f} to {size['high']:+.2f})"
        lines.append(f"  {name:44}{cells}  {rho:25}  {cell(size['difference'], 4):18}  {size['verdict']}")
    return lines


def cell(value: dict[str, float], digits: int) -> str:
    """Mean ± half."""
    if not math.isfinite(value["mean"]):
        return ""
    half = f" ± {value['half']:.{digits}f}" if math.isfinite(value["half"]) else ""
    return f"{value['mean']:.{digits}f}{half}"


def claim_lines(measures: dict[str, Any]) -> list[str]:
    """A verdict for each view of compression: does it happen, does it grow with size, is the end lower?"""
    lines = []
    for name in COMPRESSION:
        since = measures[name]["since_solved"]
        compressed = [size for size, one in since["by_size"].items() if one["mean"] + one["half"] < 0]
        more = {"falls": "more in larger models", "rises": "less in larger models"}
        lower = {"falls": "larger end lower", "rises": "larger end higher"}
        change_verdict, end_verdict = since["with_size"]["verdict"], measures[name]["end"]["with_size"]["verdict"]
        lines.append(
            f"  {name:30}compression since solved at widths {', '.join(compressed) or 'none'}; "
            f"{more.get(change_verdict, f'with width: {change_verdict}')}; "
            f"{lower.get(end_verdict, f'end with width: {end_verdict}')}"
        )
    return lines


def prediction_lines(found: dict[str, Any]) -> list[str]:
    """A line for each measure and early step."""
    tests = found["prediction"]["tests"]
    if not tests:
        return ["  not tested: it takes three seeds of which every width is finished"]
    number = sum(math.isfinite(test["within_p"]) for by_step in tests.values() for test in by_step.values())
    seeds = found["prediction"]["seeds"]
    smallest = 1 / math.factorial(len(seeds))
    lines = [
        f"  {found['prediction']['runs']} runs, seeds {seeds}; p after Holm's correction for {number} tests; intervals "
        "draw seeds",
        f"  p within widths cannot be below {smallest:.2g}, since {len(seeds)} seeds have no more orders: at best "
        f"{min(1.0, number * smallest):.2g} after correction",
        f"  {'':32}{'step':>5}  {'over all runs':25}{'p':>7}{'Holm':>7}   {'within widths':25}{'p':>7}{'Holm':>7}",
    ]
    for name, by_step in tests.items():
        for step, test in by_step.items():
            line = f"  {name:32}{step:>5}  "
            for kind in ("raw", "within"):
                rho = f"{test[kind]:+.2f} ({test[f'{kind}_low']:+.2f} to {test[f'{kind}_high']:+.2f})"
                line += f"{rho:25}{test[f'{kind}_p']:7.4f}{test[f'{kind}_holm']:7.3f}   "
            lines.append(line.rstrip())
    for kind, where in (("raw", "over all runs"), ("within", "within widths")):
        held = [
            f"{name} at {step}"
            for name, by_step in tests.items()
            for step, test in by_step.items()
            if test[f"{kind}_holm"] <= 0.05
        ]
        lines.append(f"  predict {where}, p of at most .05 after correction: {'; '.join(held) or 'none'}")
    return lines


def draw(found: dict[str, Any]) -> Figure:
    """Curves with their intervals, a line for each width."""
    panels = {
        panel: {
            f"width {size} (n = {one['n']})": (one["steps"], one["mean"], one["half"]) for size, one in lines.items()
        }
        for panel, lines in found["curves"].items()
        if lines
    }
    figure = interval_curves(panels, title=f"Model size over {found['steps']} steps")
    for axes in figure.axes:
        if axes.get_title() == "validation loss":
            axes.set_yscale("log")
    return figure


if __name__ == "__main__":
    main()
