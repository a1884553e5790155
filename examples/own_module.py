"""Your own LightningModule, watched: an ordinary text classifier, and the lines that are added to its training.

A recurrent network learns whether a short review is favourable, where "not" turns the next word round. Nothing in the
module knows of the callbacks: every line that is there for them stands under ``# added:`` or ends in it. The readings
are in TensorBoard, beside the loss, and in ``readings.csv``.

    python examples/own_module.py
    tensorboard --logdir logs/own_module
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

# added:
from lightning_interp import NoiseRobustness, RepresentationGeometry, RepresentationStructure

Example = tuple[list[int], int]
Batch = dict[str, Tensor]

GOOD = ["good", "fine", "lovely", "bright", "warm", "clever"]
BAD = ["bad", "poor", "awful", "dull", "cold", "silly"]
OTHER = ["the", "film", "was", "and", "its", "story", "very", "quite", "a", "bit"]
WORDS = ["<pad>", "not", *GOOD, *BAD, *OTHER]


class ReviewClassifier(pl.LightningModule):
    """Words → favourable or not."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), width, padding_idx=0)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores of the classes, from the mean of the states at words."""
        states, _ = self.encoder(self.embedding(input_ids))
        mask = attention_mask[..., None]
        return self.head((states * mask).sum(1) / mask.sum(1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        loss = nn.functional.cross_entropy(self(batch["input_ids"], batch["attention_mask"]), batch["label"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Cross-entropy and accuracy."""
        scores = self(batch["input_ids"], batch["attention_mask"])
        hits = (scores.argmax(-1) == batch["label"]).float()
        self.log("val_loss", nn.functional.cross_entropy(scores, batch["label"]))
        self.log("val_acc", hits.mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def reviews(number: int, seed: int) -> list[Example]:
    """Reviews as word ids, with their class."""
    draw = random.Random(seed)
    found = []
    while len(found) < number:
        words, balance = [], 0
        for _ in range(draw.randint(3, 6)):
            words.append(draw.choice(OTHER))
            sign, kind = draw.choice([(1, GOOD), (-1, BAD)])
            if draw.random() < 0.4:
                words.append("not")
                sign = -sign
            words.append(draw.choice(kind))
            balance += sign
        if balance:
            found.append(([WORDS.index(word) for word in words], int(balance > 0)))
    return found


def collate(examples: list[Example]) -> Batch:
    """Examples → a padded batch."""
    ids = pad_sequence([torch.tensor(words) for words, _ in examples], batch_first=True)
    labels = torch.tensor([label for _, label in examples])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "label": labels}


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, and print where the curves are and the last readings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--examples", type=int, default=2000, help="reviews to train on; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs"), help="default: %(default)s")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    pl.seed_everything(0)

    train = DataLoader(reviews(args.examples, seed=0), batch_size=50, shuffle=True, collate_fn=collate)
    val = DataLoader(reviews(500, seed=1), batch_size=50, collate_fn=collate)
    # added:
    site = {"encoder": "encoder"}  # the name in your readings: the attribute of your module
    readers = [
        RepresentationStructure(site, labels={"token": None, "class": "label"}),  # "label" is a key of the batch
        RepresentationGeometry(site),
        NoiseRobustness(site, monitors={"val_loss": "loss", "val_acc": "score"}),  # what the module logs itself
    ]
    trainer = pl.Trainer(
        callbacks=readers,  # added:
        max_epochs=args.epochs,
        logger=TensorBoardLogger(args.logdir, name="own_module"),
        accelerator="cpu",
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(ReviewClassifier(), train, val)

    # All readings are ordinary logged values.
    last = {key: float(value) for key, value in trainer.callback_metrics.items()}
    for key, value in last.items():
        print(f"{key:50} {value:10.4f}")
    print(f"\ncurves:   tensorboard --logdir {args.logdir / 'own_module'}")
    print(f"readings: {Path(trainer.logger.log_dir) / 'readings.csv'}")
    return last


if __name__ == "__main__":
    main()
