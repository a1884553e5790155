"""What a reading of each probing callback costs, beside the validation epoch it comes with.

Every row is a fit of three validations, without the callback and with it, in one process; medians of ``--runs``.
Seconds are the processor's, of one thread, so that what else the machine does counts little. The first reading is
apart, since it may read baselines that later ones do not.

    python benchmarks/probes.py                     # all of them
    python benchmarks/probes.py --only LayerProbe
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from overhead import LanguageModel, loader, trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interp import (
    AcquisitionByClass,
    ClozeFacts,
    ConfidenceCalibration,
    LayerProbe,
    MinimalPairs,
    RepresentationDrift,
    StructuralProbe,
)
from lightning_interp.batches import Predictions
from lightning_interp.tasks import WordTokenizer, fact_world


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str
    callbacks: Callable[[], list[pl.Callback]]
    model: Callable[[], LanguageModel]
    data: Callable[[], DataLoader[Any]]


# ------------------------------------------------- LayerProbe


def small() -> LanguageModel:
    """4 layers × 256."""
    return LanguageModel(4, 256, 2000)


def large() -> LanguageModel:
    """12 layers × 768."""
    return LanguageModel(12, 768, 2000, 12)


def layer_probe() -> list[Case]:
    """Tags of 17 kinds at every layer."""

    def tags(batch: Sequence[Tensor]) -> Tensor:
        return batch[0] % 17

    def of(**kwargs: Any) -> Callable[[], list[pl.Callback]]:
        settings: dict[str, Any] = {"labels": {"tag": tags}, "padding_idx": 0, "max_examples": None}
        return lambda: [LayerProbe("body.layers.*", **{**settings, "draw_figures": False, **kwargs})]

    def sentences(number: int) -> Callable[[], DataLoader[Any]]:
        return lambda: loader(number, 33, 2000, 50)

    return [
        Case("4 layers × 256, 49,500 words: 4 sites", of(), small, sentences(1500)),
        Case("… without control", of(control=False), small, sentences(1500)),
        Case("… with codelength", of(codelength=True), small, sentences(1500)),
        Case("… of 5,000 rows", of(max_rows=5000), small, sentences(1500)),
        Case("12 layers × 768, 9,900 words: 12 sites", of(), large, sentences(300)),
        Case("… without control", of(control=False), large, sentences(300)),
    ]


# ------------------------------------------------- MinimalPairs, ClozeFacts, AcquisitionByClass


def minimal_pairs() -> list[Case]:
    """The built-in grammar: 30 tasks."""

    def of(pairs: int) -> Callable[[], list[pl.Callback]]:
        return lambda: [MinimalPairs("grammar", "grammar", max_pairs=pairs, draw_figures=False)]

    return [
        Case("4 layers × 256, 49,500 words: 30 tasks of 100 pairs", of(100), small, lambda: loader(1500, 33, 2000, 50)),
        Case("… of 30 pairs", of(30), small, lambda: loader(1500, 33, 2000, 50)),
    ]


def cloze_facts() -> list[Case]:
    """Made-up people, four relations of eight candidates."""
    world = fact_world(people=100)
    words = WordTokenizer(world.words)

    def of(facts: int) -> Callable[[], list[pl.Callback]]:
        return lambda: [ClozeFacts(world.facts, words, max_facts=facts, draw_figures=False)]

    return [
        Case("4 layers × 256, 49,500 words: 400 facts × 8", of(100), small, lambda: loader(1500, 33, 2000, 50)),
        Case("… 100 facts × 8", of(25), small, lambda: loader(1500, 33, 2000, 50)),
    ]


def acquisition_by_class() -> list[Case]:
    """Next words by frequency band, the logits being those of the validation run."""

    def of(**kwargs: Any) -> Callable[[], list[pl.Callback]]:
        next_word = {"next": Predictions("head", target=0, shift=1, ignore_index=0)}
        return lambda: [AcquisitionByClass(next_word, bands=4, draw_figures=False, **kwargs)]

    return [
        Case("4 layers × 256, 49,500 words, 2,000 logits each", of(), small, lambda: loader(1500, 33, 2000, 50)),
        Case("… of 300 sentences", of(max_examples=300), small, lambda: loader(1500, 33, 2000, 50)),
        Case("12 layers × 768, 9,900 words", of(), large, lambda: loader(300, 33, 2000, 50)),
    ]


# ------------------------------------------------- RepresentationDrift, ConfidenceCalibration


def representation_drift() -> list[Case]:
    """2,000 positions of every layer."""

    def tags(batch: Sequence[Tensor]) -> Tensor:
        return batch[0] % 17

    def of(**kwargs: Any) -> Callable[[], list[pl.Callback]]:
        return lambda: [RepresentationDrift("body.layers.*", padding_idx=0, draw_figures=False, **kwargs)]

    return [
        Case("4 layers × 256, 49,500 words: 4 sites", of(), small, lambda: loader(1500, 33, 2000, 50)),
        Case("… with a label set", of(labels={"tag": tags}), small, lambda: loader(1500, 33, 2000, 50)),
        Case("… of 500 positions", of(max_rows=500), small, lambda: loader(1500, 33, 2000, 50)),
        Case("12 layers × 768, 9,900 words: 12 sites", of(), large, lambda: loader(300, 33, 2000, 50)),
    ]


def confidence_calibration() -> list[Case]:
    """Next words, the logits being those of the validation run."""

    def of(**kwargs: Any) -> Callable[[], list[pl.Callback]]:
        return lambda: [ConfidenceCalibration("head", target=0, shift=1, ignore_index=0, draw_figures=False, **kwargs)]

    return [
        Case("4 layers × 256, 49,500 words, 2,000 logits each", of(), small, lambda: loader(1500, 33, 2000, 50)),
        Case("… of 300 sentences", of(max_examples=300), small, lambda: loader(1500, 33, 2000, 50)),
    ]


# ------------------------------------------------- StructuralProbe


def structural_probe() -> list[Case]:
    """500 sentences of the built-in grammar."""

    def of(**kwargs: Any) -> Callable[[], list[pl.Callback]]:
        return lambda: [StructuralProbe("body.layers.*", tokenizer="grammar", draw_figures=False, **kwargs)]

    return [
        Case("4 layers × 256, 49,500 words: 4 sites", of(), small, lambda: loader(1500, 33, 2000, 50)),
        Case("… of rank 16", of(rank=16), small, lambda: loader(1500, 33, 2000, 50)),
    ]


# ------------------------------------------------- all of them: callback → its cases

CASES: dict[str, Callable[[], list[Case]]] = {
    "LayerProbe": layer_probe,
    "MinimalPairs": minimal_pairs,
    "ClozeFacts": cloze_facts,
    "AcquisitionByClass": acquisition_by_class,
    "RepresentationDrift": representation_drift,
    "ConfidenceCalibration": confidence_calibration,
    "StructuralProbe": structural_probe,
}


class Clock(pl.Callback):
    """Processor seconds of every validation run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_validation_start(self, *args: object) -> None:
        """Start."""
        self.started = time.process_time()

    def on_validation_end(self, *args: object) -> None:
        """Stop."""
        self.seconds.append(time.process_time() - self.started)


def validations(model: LanguageModel, data: DataLoader[Any], callbacks: Sequence[pl.Callback]) -> list[float]:
    """Seconds of three validations of a fit that hardly trains."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        # Last of all callbacks, so that it sees what the others do at the end.
        run = trainer(folder, [*callbacks, clock], max_steps=3, val_check_interval=1, limit_val_batches=1.0)
        run.fit(model, DataLoader(data.dataset, batch_size=2), data)
    return clock.seconds


def measure(name: str, runs: int) -> None:
    """The rows of one callback."""
    print(f"\n| {name} | validation, s | later readings add, s | ratio | first reading adds, s |")
    print("|---|---|---|---|---|", flush=True)
    for case in CASES[name]():
        data, plain, first, later = case.data(), [], [], []
        for _ in range(runs):
            # The first validation of a fit warms up.
            base = median(validations(case.model(), data, [])[1:])
            found = validations(case.model(), data, case.callbacks())
            plain.append(base)
            first.append(found[0] - base)
            later.append(median(found[1:]) - base)
        a, b, c = median(plain), median(later), median(first)
        print(f"| {case.name} | {a:.2f} | {b:.2f} | {b / a:.2f} | {c:.2f} |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES), help="measure this callback alone")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for name in [args.only] if args.only else CASES:
        measure(name, args.runs)


if __name__ == "__main__":
    main()
