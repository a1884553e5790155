"""What a reading of the coordinate and the truth probe costs beside a validation run, in a small GPT-2.

python benchmarks/coordinate_truth_probes.py      # some two minutes on one core
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_interp import CoordinateProbe, TruthProbe
from lightning_interp.functional import block_folds, held_out_ridge, random_folds, unseen_topic_scores
from lightning_interp.language import encode_sentences, pad_right
from lightning_interp.models import CausalLM, small_gpt2
from lightning_interp.probing import (
    cooccurrence_sentences,
    fact_statements,
    planted_facts,
    planted_places,
    true_sentences,
)
from lightning_interp.sites import blocks
from lightning_interp.tasks import WordTokenizer


class Clock(pl.Callback):
    """Seconds of each validation run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_validation_start(self, *args: Any) -> None:
        """Start."""
        self.started = time.perf_counter()

    def on_validation_epoch_end(self, *args: Any) -> None:
        """Stop, before any probe has read: it comes first among the callbacks."""
        self.seconds.append(time.perf_counter() - self.started)


def live(steps: int, readings: int, validation: int) -> None:
    places, facts = planted_places(500, regions=5), planted_facts(topics=4, subjects=24)
    lines = cooccurrence_sentences(places, 32 * steps) + true_sentences(facts, 16 * steps + validation)
    tokenizer = WordTokenizer.from_sentences([*lines, *(one.text for one in fact_statements(facts))])
    encoded = encode_sentences(tokenizer, lines)
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(0)).tolist()
    encoded = [encoded[place] for place in order]
    clock = Clock()
    torch.manual_seed(0)
    model = CausalLM(small_gpt2(tokenizer, layers=4, length=16, dropout=0.1), tokenizer, lr=3e-3)
    sites = blocks(model)
    probes = [
        CoordinateProbe(places, sites, model="lm", draw_figures=False),
        TruthProbe(fact_statements(facts), sites, model="lm", draw_figures=False),
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[clock, *probes],
            val_check_interval=steps // readings,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        parts = encoded[:-validation], encoded[-validation:]
        loaders = [DataLoader(part, batch_size=48, collate_fn=pad_right) for part in parts]
        trainer.fit(model, *loaders)
    plain = median(clock.seconds[1:])
    print(f"validation of {validation} sentences: {plain:.2f} s")
    for probe in probes:
        name = type(probe).__name__
        seconds = [reading.values[f"seconds/{name}"] for reading in probe.history.readings]
        later = median(seconds[1:])
        print(
            f"{name}: {len(probe.sentences)} sentences, {len(sites)} sites, {later:.2f} s = "
            f"{later / plain:.2f} validations"
        )
        for key in sorted(probe.reading):
            if "3" in key.split("/") or "likelihood" in key:  # the last layer
                print(f"  {key} {probe.reading[key]:.2f}")


def alone() -> None:
    """The evaluation of one site, by the width of its vectors."""
    places, statements = planted_places(500, regions=5), fact_statements(planted_facts(topics=4, subjects=24))
    labels = torch.tensor([one.label for one in statements])
    topics = torch.arange(len(statements)) // (len(statements) // 4)
    train = torch.tensor([not one.negated for one in statements])
    for width in (64, 384, 576, 2048):
        x, z = torch.randn(len(places), width), torch.randn(len(statements), width)
        times = []
        for folds in (random_folds(500), block_folds(places.blocks)):
            started = time.perf_counter()
            held_out_ridge(x, places.targets, folds)
            times.append(time.perf_counter() - started)
        line = f"D = {width}: ridge of 500 entities, both kinds of folds, {sum(times):.2f} s;"
        for probe in ("mass_mean", "mass_mean_whitened", "logistic"):
            started = time.perf_counter()
            unseen_topic_scores(z, labels, topics, train, probe)
            line += f" {probe} of {len(z)} statements {time.perf_counter() - started:.2f} s;"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--readings", type=int, default=4)
    parser.add_argument("--validation", type=int, default=2000, help="sentences")
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    live(args.steps, args.readings, args.validation)
    alone()


if __name__ == "__main__":
    main()
