"""The main job: watch what a transformer's representations do while it learns a compositional task.

A small encoder–decoder learns to turn sentences into logical forms. It is validated on sentences like those it was
trained on and on new combinations of familiar words. At log-spaced steps the callbacks read how its encoder represents
words and how much of what it has learned survives noise at its input, and tell when the second phase of training
begins; everything is in TensorBoard, in ``readings.csv`` and in one picture. Other data, other recipes and several
seeds: ``benchmarks/studies/two_phases.py``.

    python examples/two_phases.py
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_interp import (
    NoiseRobustness,
    Readings,
    RepresentationGeometry,
    RepresentationStructure,
    TrainingPhases,
    ValidationAnalysis,
    ValidationSchedule,
)
from lightning_interp.datasets import GrammarDataModule, Seq2SeqDataModule
from lightning_interp.decisions import log_spaced_steps
from lightning_interp.figures import training_phases
from lightning_interp.models import Seq2SeqModule

LOSSES = {"familiar combinations": "val_loss/dataloader_idx_0", "new combinations": "val_loss/dataloader_idx_1"}
SCORES = {"familiar combinations": "val_acc/dataloader_idx_0", "new combinations": "val_acc/dataloader_idx_1"}
(VAL_LOSS, _), (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION) = LOSSES.values(), SCORES.values()
ROBUSTNESS, DRIFT = "robustness/input/val_acc", "drift/input/encoder/0.25"
STRUCTURE = {name: f"{name}_above_chance/encoder/token" for name in ("regularity", "disentanglement")}
COLUMNS = {  # column of the table → key of the reading
    "val loss": VAL_LOSS,
    "in-dist": IN_DISTRIBUTION,
    "out-of-d": OUT_OF_DISTRIBUTION,
    "robust": ROBUSTNESS,
    "drift": DRIFT,
    "H(Z)": "information/encoder",
    "H binned": "binned_information/encoder",
    "reg token": STRUCTURE["regularity"],
    "reg bigram": "regularity_above_chance/encoder/bigram",
    "dis token": STRUCTURE["disentanglement"],
    "eff rank": "effective_rank/encoder",
}
LEGEND = """\
in-dist, out-of-d: exact match on sentences like those of the training, and on new combinations of their words
robust: share of the exact match that survives noise at the input; drift: how far that noise moves the encoder's output
H(Z): entropy of the encoder's output, of at most 1; binned: by the published estimator; eff rank: its effective rank
reg, dis: regularity and disentanglement with respect to words and pairs of words, above chance; blank: not read"""


def main(argv: Sequence[str] | None = None) -> tuple[Readings, TrainingPhases]:
    """Train once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and batches; default: %(default)s")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs"), help="default: %(default)s")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    pl.seed_everything(args.seed)
    data = GrammarDataModule(
        val_batch_size=100, seed=args.seed
    )  # four batches: their spread tells the noise of a metric
    model = Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary))
    return train(model, data, args.steps, args.logdir, f"two_phases_grammar/seed_{args.seed}")


def make_readers() -> list[ValidationAnalysis]:
    """What is read: the output of the encoder, one vector a word, and what noise at the input does to it."""
    sites = {"encoder": "model.encoder"}
    # With positions and without: an embedding that outgrows them is more robust at the first site alone.
    inputs = {"input": "model.source_input", "embedding": "model.source_embedding"}
    noise = {"scales": (0.1, 0.25, 0.5, 1.0), "monitors": {"val_loss": "loss", "val_acc": "score"}}
    labels = {"labels": ["token", "bigram"], "information_plane": ["token", "next_token"]}
    return [
        RepresentationStructure(sites, **labels, estimator="both", shuffles=2),
        RepresentationGeometry(sites),
        NoiseRobustness(inputs, **noise, drift=sites, every_n_validations=2),
    ]


def train(
    model: Seq2SeqModule, data: Seq2SeqDataModule, steps: int, logdir: Path, name: str, **kwargs: Any
) -> tuple[Readings, TrainingPhases]:
    """One training with its readings, its picture and its table; ``kwargs`` are the Trainer's."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    readers = make_readers()
    phases = TrainingPhases(
        VAL_LOSS,
        improving={ROBUSTNESS: "max", OUT_OF_DISTRIBUTION: "max"},
        keys=[COLUMNS["H(Z)"], COLUMNS["reg token"], COLUMNS["reg bigram"]],
    )
    # At equal distances on a logarithmic axis, closer from 200 on: there accuracy goes from 0 to 1.
    early, late = log_spaced_steps(12, start=10, stop=190), log_spaced_steps(32, start=200, stop=steps)
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=[ValidationSchedule(steps=[*early, *late]), *readers, phases],
        logger=TensorBoardLogger(logdir, name=name, default_hp_metric=False),
        enable_checkpointing=False,
        log_every_n_steps=10,
        **{"accelerator": "cpu", "devices": 1, "enable_model_summary": False, **kwargs},
    )
    folder = Path(trainer.logger.log_dir)
    if trainer.is_global_zero:
        print(f"{steps} steps, one to two minutes on two cores. Readings, picture and events go to {folder}")
        print(f"Watch them: tensorboard --logdir {logdir}    then http://localhost:6006, tab Custom Scalars\n")
    try:
        trainer.fit(model, datamodule=data)
    finally:  # at Ctrl-C too: show what there is
        rows, picture = Readings.of(*readers), folder / "two_phases.png"
        if trainer.is_global_zero and len(rows):
            print(f"{rows.table(COLUMNS)}\n{LEGEND}\n\n{phases.conclusion}\n")
            curves(rows, phases, f"A small transformer while it learns ({name})").savefig(picture, dpi=110)
            print(f"{trainer.global_step} steps\npicture:  {picture}\nreadings: {folder / 'readings.csv'}")
    return rows, phases


def curves(rows: Readings, phases: TrainingPhases, title: str) -> Figure:
    """One picture: task, robustness and structure over log-scaled steps, phases shaded."""
    panels = {
        "validation loss": LOSSES,
        "exact match, share of sentences": SCORES,
        "share kept under noise at the input": {"": ROBUSTNESS},
        "words in the encoder, above chance": STRUCTURE,
    }
    begun = phases.standing.boundaries
    starts = [rows.steps()[0], *(at.step for at in begun)]
    return training_phases(
        rows.panels(panels),
        phases=list(zip(starts, [*starts[1:], None], phases.names, strict=False)),
        title=title,
        note=f"phase two begins on the plateau of the loss, at {begun[0]}" if begun else "no second phase was found",
        log_y=["validation loss"],
    )


if __name__ == "__main__":
    main()
