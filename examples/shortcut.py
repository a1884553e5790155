"""A shortcut: a classifier that comes to decide by one word, seen while its loss falls, and stopped.

Each word of a text leans to one of two classes; eleven of them tell the class of nine texts in ten. But the twelfth
word of each training text gives its class away. A second validation loader has texts in which that cue names the other
class. Loss and accuracy of the first look as if all was well: what predictions lose without each word says that ever
more of them hangs on the cue, and on the second the model is wrong more and more often. Accuracy under noise at the
words does not tell: it rises, too. A gate stops the training once the cue weighs more than all other words together.

A reading whose texts have no cue has no ``cue_share/cue``; with ``strict=False`` the gate goes by the readings that do.

    python examples/shortcut.py
    python examples/shortcut.py --limit 1   # never stopped
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_interp import InputAblation, NoiseRobustness, Readings, ValidationSchedule
from lightning_interp.decisions import log_spaced_steps
from lightning_interp.figures import training_phases

CUES, WORDS, LENGTH, LEANING = (1, 2), 200, 12, 0.7
SHARE, CHANCE = "cue_share/cue", "cue_share_chance/cue"
HOLDS, FAILS, LOSS = "val_acc/dataloader_idx_0", "val_acc/dataloader_idx_1", "val_loss/dataloader_idx_0"
COLUMNS = {"loss": LOSS, "accuracy": HOLDS, "cue fails": FAILS, "cue share": SHARE, "its chance": CHANCE}
ROBUST = "under_noise/words/val_acc"


class Classifier(pl.LightningModule):
    """The class of a text by attention from a learned query."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS + 3, width)
        self.look, self.carry, self.head = nn.Linear(width, 1), nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, 2)."""
        words = self.embedding(input_ids)
        weights = self.look(words).masked_fill(attention_mask[..., None] == 0, -torch.inf).softmax(1)
        return self.head((weights * self.carry(words).relu()).sum(1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(self(batch["input_ids"], batch["attention_mask"]), batch["label"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log loss and accuracy."""
        logits = self(batch["input_ids"], batch["attention_mask"])
        self.log("val_loss", functional.cross_entropy(logits, batch["label"]))
        self.log("val_acc", (logits.argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def texts(number: int, seed: int, holds: bool = True) -> list[dict[str, Tensor]]:
    """Texts of words that lean to a class, with the cue of that class somewhere, or of the other one."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (number,), generator=generator)
    leans = torch.rand(number, LENGTH, generator=generator) < LEANING
    # Words of class 1 are odd.
    ids = 2 * torch.randint(2, WORDS // 2, (number, LENGTH), generator=generator)
    ids += torch.where(leans, label[:, None], 1 - label[:, None])
    place = torch.randint(0, LENGTH, (number,), generator=generator)
    ids[torch.arange(number), place] = torch.tensor(CUES)[label if holds else 1 - label]
    mask = torch.ones(LENGTH, dtype=torch.long)
    return [{"input_ids": row, "attention_mask": mask, "label": one} for row, one in zip(ids, label, strict=True)]


def main(argv: Sequence[str] | None = None) -> tuple[Readings, str]:
    """Train once, with everything that watches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data and weights; default: %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="the most optimizer steps; default: %(default)s")
    parser.add_argument("--limit", type=float, default=0.5, help="share of the cue that stops; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs/shortcut"), help="default: %(default)s")
    args = parser.parse_args(argv)
    for name in (".*does not have many workers.*", ".*smaller than the logging interval.*"):
        warnings.filterwarnings("ignore", name)
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    pl.seed_everything(args.seed, verbose=False)
    gate = EarlyStopping(SHARE, mode="max", stopping_threshold=args.limit, patience=args.steps, strict=False)
    watching = [
        InputAblation("hide", cues={"cue": CUES}, score="log_odds", max_examples=64),
        NoiseRobustness({"words": "embedding"}, monitors={"val_acc": "score"}),
    ]
    trainer = pl.Trainer(
        max_steps=args.steps,
        callbacks=[ValidationSchedule(steps=list(log_spaced_steps(12, start=2, stop=args.steps))), *watching, gate],
        logger=TensorBoardLogger(args.logdir, name=f"seed_{args.seed}", default_hp_metric=False),
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=10,
    )
    loaders = [DataLoader(texts(512, 3 * args.seed + which, holds), 128) for which, holds in ((1, True), (2, False))]
    trainer.fit(Classifier(), DataLoader(texts(8000, 3 * args.seed), 32, shuffle=True), loaders)
    rows = Readings.of(*watching)
    share = rows.last(SHARE)
    said = f"stopped at step {rows.steps()[-1]}: {SHARE} is {share:.2f}" if share > args.limit else "not stopped"
    print(f"{rows.table({**COLUMNS, 'in noise': ROBUST}, digits=2)}\n{said}, limit {args.limit:g}")
    panels = {
        "validation loss": {"": LOSS},
        "accuracy": {"the cue holds": HOLDS, "it names the other class": FAILS},
        "share of the cue in predictions": {"cue": SHARE, "chance": CHANCE},
        "accuracy under noise": {"": ROBUST},
    }
    figure = training_phases(rows.panels(panels), title="A classifier that learns a shortcut", note=said)
    figure.savefig(args.logdir / "shortcut.png", dpi=110)
    print(f"picture: {args.logdir / 'shortcut.png'}; curves: tensorboard --logdir {args.logdir}")
    return rows, said


if __name__ == "__main__":
    main()
