"""What a reading of the space of tasks costs beside a validation epoch: seconds and peak memory.

A GPT-2 is validated on 2,000 sentences of the built-in grammar; ``TaskSpace`` reads 30 tasks of 32 minimal pairs. Each
model in a process of its own, so that its peak is its own.

    python benchmarks/task_space.py
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from measures import Peak
from torch import nn
from torch.utils.data import DataLoader

from lightning_interp import TaskSpace
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.tasks import WordTokenizer, generate_corpus, grammar_words

WORDS = WordTokenizer(grammar_words())
MODELS = {"width 64, 2 layers": (64, 2), "width 256, 4 layers": (256, 4)}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no groups, sample of 100,000": {"groups": False, "sample": 100_000},
}


class Epochs(pl.Callback):
    """Seconds of each validation run up to its last batch, and of what comes after it."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_validation_start(self, *args: object) -> None:
        """Start."""
        self.started = time.perf_counter()

    def on_validation_batch_end(self, *args: object) -> None:
        """So far."""
        self.last = time.perf_counter() - self.started

    def on_validation_end(self, *args: object) -> None:
        """Stop."""
        self.epochs.append(self.last)


def measure(name: str, setting: str | None, runs: int) -> None:
    """Print seconds of an epoch, seconds of a reading, and the peak of memory, in this process."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    sentences = [torch.tensor(WORDS.encode(one)) for one in generate_corpus(2000, seed=1)]
    data = DataLoader(nn.utils.rnn.pad_sequence(sentences, batch_first=True), batch_size=64)  # type: ignore[arg-type]
    model, clock, readers = CausalLM(small_gpt2(WORDS, *MODELS[name]), WORDS), Epochs(), []
    if setting is not None:
        readers = [TaskSpace("grammar", tokenizer="grammar", model="lm", draw_figures=False, **SETTINGS[setting])]
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    steps = {"max_steps": runs, "val_check_interval": 1, "num_sanity_val_steps": 0}
    watch = Peak()
    watch.start()
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [clock, *readers]
        pl.Trainer(**steps, **quiet, accelerator="cpu", default_root_dir=folder, callbacks=callbacks).fit(
            model, data, data
        )
    taken = [one.values["seconds/TaskSpace"] for reader in readers for one in reader.history.readings]
    number = sum(parameter.numel() for parameter in model.parameters())
    print(number, median(clock.epochs), median(taken) if taken else 0.0, watch.done())


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="readings of each model; default: %(default)s")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        measure(args.one[0], args.one[1] if len(args.one) > 1 else None, args.runs)
        return

    def alone(*which: str) -> list[float]:
        call = [sys.executable, __file__, "--runs", str(args.runs), "--one", *which]
        found = subprocess.run(call, check=True, capture_output=True, text=True)
        return [float(number) for number in found.stdout.strip().splitlines()[-1].split()]

    print("| model | parameters | validation epoch, s | reading, s | reading / epoch | peak memory added |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        *_, without = alone(name)
        for setting in SETTINGS:
            number, epoch, reading, peak = alone(name, setting)
            cells = f"{number:,.0f} | {epoch:.2f} | {reading:.2f} | {reading / epoch:.2f} | {peak - without:.0f} MB"
            print(f"| {name}, {setting} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
