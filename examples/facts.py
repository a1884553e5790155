"""New facts: a model is tuned on them, and they are followed: what is learned, what else changes, and where facts are.

A small language model is trained until it knows the pets of people with two names, each told in two wordings. Then it
is tuned on new pets of some of them, in one wording only. A fact is told rightly where the new pet is more probable
than the old one; the other wording says whether more than a sentence was learned, the pets of the other people whether
they stay. A gate stops the tuning where success rises no more, or fewer than nine in ten of the others stay: the
checkpoint of its maximum is the model to keep. What restores an answer that noise at a name takes is read before and
after.

    python examples/facts.py
    python examples/facts.py --min-locality 0   # not stopped by what else changes
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interp import CausalTrace, FactTracker, Readings, ValidationSchedule
from lightning_interp.decisions import log_spaced_steps
from lightning_interp.language import encode_sentences, pad_right, sentence_log_probs
from lightning_interp.models import small_gpt2
from lightning_interp.tasks import Fact, WordTokenizer

FIRST = ("ada", "bo", "cy", "dan", "eve", "fay", "gus", "ida")
LAST = ("ash", "birch", "cedar", "elm", "fir", "gum", "hazel", "ivy")
PETS = ("cat", "parrot", "turtle", "rabbit", "lizard", "goat", "pigeon", "mouse")
WORDINGS = ("{} has a pet ___ .", "the pet of {} is a ___ .")
WORDS = WordTokenizer([*FIRST, *LAST, *PETS, *" ".join(WORDINGS).replace("{}", "").replace("___", "").split()])
SUCCESS, LOCALITY, GATE = "fact_success/facts", "fact_locality", "fact_success_local"
COLUMNS = {
    "new pet": SUCCESS,
    "other words": "fact_paraphrase",
    "others stay": LOCALITY,
    "both": GATE,
    "divergence": "fact_kl_to_start/neighbours",
    "at the name": "trace_early/old",
    "at the end": "trace_late/old",
}


class Model(pl.LightningModule):
    """A language model of sentences."""

    def __init__(self, lm: torch.nn.Module, lr: float) -> None:
        super().__init__()
        self.lm, self.lr, self.tokenizer = lm, lr, WORDS

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean negative log-probability of the sentences."""
        return -sentence_log_probs(self.lm, *batch).mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss."""
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def worded(name: str, pet: str, wording: str, *candidates: str, relation: str = "old") -> Fact:
    """The pet of someone, in words."""
    return Fact(relation, wording.format(name), pet, candidates or PETS, name)


def told(facts: Sequence[Fact], batch_size: int, **kwargs: Any) -> DataLoader:
    """Batches of facts as sentences."""
    rows = encode_sentences(WORDS, [fact.filled(fact.answer) for fact in facts])
    return DataLoader(rows, batch_size, collate_fn=pad_right, **kwargs)


def trainer(steps: int, logger: Any = False, callbacks: Sequence[pl.Callback] = ()) -> pl.Trainer:
    """Without what this example does not need."""
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        callbacks=list(callbacks),
        logger=logger,
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=10,
    )


def main(argv: Sequence[str] | None = None) -> tuple[Readings, str]:
    """Train, tune, and say where the tuning was stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of facts and weights; default: %(default)s")
    parser.add_argument("--steps", type=int, default=800, help="steps before the tuning; default: %(default)s")
    parser.add_argument("--tuning", type=int, default=100, help="the most steps of it; default: %(default)s")
    parser.add_argument("--min-locality", type=float, default=0.9, help="that has to stay; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs/facts"), help="default: %(default)s")
    args = parser.parse_args(argv)
    for name in ("does not have many workers", "smaller than the logging interval", "have no `val_dataloader`"):
        warnings.filterwarnings("ignore", f".*{name}.*")
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    pl.seed_everything(args.seed, verbose=False)
    draw = random.Random(args.seed)
    names = draw.sample([f"{first} {last}" for first in FIRST for last in LAST], 48)
    pets = {name: draw.choice(PETS) for name in names}
    new = {name: draw.choice([pet for pet in PETS if pet != pets[name]]) for name in names[:8]}
    old = [worded(name, pet, wording) for name, pet in pets.items() for wording in WORDINGS]

    lm = small_gpt2(WORDS, 64, layers=4, length=12)
    trainer(args.steps).fit(Model(lm, 1e-3), told(old, 32, shuffle=True))

    first, other = ([worded(n, pet, w, pet, pets[n], relation="new") for n, pet in new.items()] for w in WORDINGS)
    stay = [fact for fact in old if fact.subject not in new and fact.prompt.startswith(fact.subject)]
    watching = [
        FactTracker(first, other, neighbours=stay, model="lm", min_locality=args.min_locality, log="full"),
        CausalTrace(stay, model="lm", max_facts=16, tokens="all", log="full"),
    ]
    gate = EarlyStopping(GATE, mode="max", patience=3, check_on_train_epoch_end=False)
    logger = TensorBoardLogger(args.logdir, name=f"seed_{args.seed}", default_hp_metric=False)
    schedule = ValidationSchedule(steps=list(log_spaced_steps(12, start=1, stop=args.tuning)))
    tuning = trainer(args.tuning, logger, [schedule, *watching, gate])
    tuning.fit(Model(lm, 2e-4), told(first, 8, shuffle=True), told(stay, 40))

    rows = Readings.of(*watching)
    steps, both = rows.series(GATE)
    best = steps[both.index(max(both))]
    why = "not stopped" if not gate.stopped_epoch and not tuning.should_stop else f"stopped at step {steps[-1]}"
    said = f"{why}: {GATE} was most at step {best}, {max(both):.2f}"
    print(f"{rows.table(COLUMNS, digits=2)}\n{said}")
    for callback in watching:
        for tag, picture in callback.figures().items():
            picture().savefig(args.logdir / f"{tag.replace('/', '_')}.png", dpi=110)
    print(f"pictures: {args.logdir}; curves: tensorboard --logdir {args.logdir}")
    return rows, said


if __name__ == "__main__":
    main()
