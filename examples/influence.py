"""Which training data help, and which are wrong: three sources and flipped labels, read while a small network learns.

Handwritten digits from three sources: one that is clean but for a tenth of its labels, which are flipped; one whose
labels are dealt out at random; one whose pictures are shifted by two pixels. While the loss on clean validation digits
falls, ``SourceInfluence`` says at each reading if a step on a source's data alone would lower it. ``SelfInfluence``
sums how far each example moves its own loss at the last layer, which finds the wrong labels, as the sum of the losses
does too. At the end ``influence`` says which training digits helped and hurt one that is misread.

    python examples/influence.py
    python examples/influence.py --optimizer AdamW --rate 0.002
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_interp import Readings, SelfInfluence, SourceInfluence, ValidationSchedule, influence
from lightning_interp.decisions import log_spaced_steps
from lightning_interp.figures import training_phases

SOURCES = ("clean", "random", "shifted")
SIZES, FLIPPED, SHIFT = (800, 300, 300), 0.1, 2
QUIET = ("enable_checkpointing", "enable_model_summary", "enable_progress_bar")
COLUMNS = {
    "loss": "val_loss",
    **{one: f"source_influence/{one}/validation" for one in SOURCES},
    "clean, dealt": "source_influence_control/clean/validation",
    "wrong found": "flag_auroc/self_influence",
    "by loss": "flag_auroc/loss",
    "dealt": "flag_auroc_control/self_influence",
}
PANELS = {
    "validation loss": {"": "val_loss"},
    "influence on it": {**{one: COLUMNS[one] for one in SOURCES}, "labels dealt": COLUMNS["clean, dealt"]},
    "wrong labels found (ROC area)": {one: f"flag_auroc/{one}" for one in ("self_influence", "loss", "error_norm")},
}


class Net(pl.LightningModule):
    """One hidden layer."""

    def __init__(self, optimizer: str, rate: float) -> None:
        super().__init__()
        self.optimizer_name, self.rate = optimizer, rate
        self.body, self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU()), nn.Linear(64, 10)

    def forward(self, picture: Tensor) -> Tensor:
        """Logits (B, 10)."""
        return self.head(self.body(picture))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(self(batch["picture"]), batch["label"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy."""
        logits = self(batch["picture"])
        self.log("val_loss", functional.cross_entropy(logits, batch["label"]))
        self.log("val_acc", (logits.argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The one that was asked for."""
        return getattr(torch.optim, self.optimizer_name)(self.parameters(), lr=self.rate)


def digits(seed: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Training examples with their source and whether the label is wrong, and clean validation examples."""
    generator = torch.Generator().manual_seed(seed)
    given, right = load_digits(return_X_y=True)
    order = torch.randperm(len(right), generator=generator)
    pictures, right = torch.tensor(given, dtype=torch.float32)[order].view(-1, 8, 8) / 16, torch.tensor(right)[order]
    number = sum(SIZES)
    source = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    labels = right.clone()
    flipped = (source == 0) & (torch.rand(number, generator=generator) < FLIPPED)
    other = (right[:number] + torch.randint(1, 10, (number,), generator=generator)) % 10
    labels[:number] = torch.where(flipped, other, right[:number])
    (dealt,) = (source == 1).nonzero(as_tuple=True)
    labels[dealt] = right[dealt[torch.randperm(len(dealt), generator=generator)]]
    (shifted,) = (source == 2).nonzero(as_tuple=True)
    pictures[shifted] = functional.pad(pictures[shifted], (SHIFT, 0))[..., :8]
    rows = [{"picture": x.flatten(), "label": y} for x, y in zip(pictures, labels, strict=True)]
    wrong = labels != right
    training = [{**row, "source": source[at], "wrong": wrong[at]} for at, row in enumerate(rows[:number])]
    return training, rows[number:]


def misread(model: Net, training: list[dict[str, Tensor]], validation: list[dict[str, Tensor]], folder: Path) -> str:
    """Draw what helped and hurt the first validation digit that is misread, and say where it is from."""
    read = model.eval()(torch.stack([one["picture"] for one in validation])).argmax(1)
    at = next((at for at, one in enumerate(validation) if read[at] != one["label"]), 0)
    found = influence(model, DataLoader(training, 64), DataLoader([validation[at]]), target="label", progress=False)
    shown = [[one["picture"].view(8, 8) for one in several] for several in (training, [validation[at]])]
    found.plot(0, *shown).savefig(folder / "misread.png", dpi=110)
    said = f"validation digit {at}, label {validation[at]['label']}, is read as {read[at]}"
    for kind, several in found.top(0)._asdict().items():
        rows = [training[one.example] for one in several]
        words = [f"{row['label']} {SOURCES[row['source']]}{' (wrong)' * bool(row['wrong'])}" for row in rows]
        said += f"\n{kind}: {', '.join(words)}"
    return said


def main(argv: Sequence[str] | None = None) -> tuple[Readings, str]:
    """Train once, with both that watch, and look at one digit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data and weights; default: %(default)s")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps; default: %(default)s")
    parser.add_argument("--optimizer", choices=("SGD", "Adam", "AdamW"), default="SGD", help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=0.15, help="learning rate; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs/influence"), help="default: %(default)s")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", ".*(does not have many workers|smaller than the logging interval).*")
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    pl.seed_everything(args.seed, verbose=False)
    training, validation = digits(args.seed)
    names = [SOURCES[one["source"]] for one in training]
    examples = SelfInfluence("head", flags="wrong", max_examples=None, show=names.__getitem__)
    watching = [SourceInfluence("source", SOURCES, max_examples=None, max_queries=None), examples]
    trainer = pl.Trainer(
        max_steps=args.steps,
        callbacks=[ValidationSchedule(steps=list(log_spaced_steps(10, start=2, stop=args.steps))), *watching],
        logger=TensorBoardLogger(args.logdir, name=f"seed_{args.seed}", default_hp_metric=False),
        log_every_n_steps=10,
        **{"accelerator": "cpu", "devices": 1, **dict.fromkeys(QUIET, False)},
    )
    model = Net(args.optimizer, args.rate)
    trainer.fit(model, DataLoader(training, 64, shuffle=True), DataLoader(validation, 400))
    rows, top = Readings.of(*watching), examples.most()
    found, chance = sum(bool(one["flag"]) for one in top), len(top) * sum(one["wrong"] for one in training) / sum(SIZES)
    said = f"of the {len(top)} examples with most self-influence {found} have a wrong label, by chance {chance:.1f}"
    print(f"{rows.table(COLUMNS, digits=2)}\n{said}\n{misread(model, training, validation, args.logdir)}")
    figure = training_phases(rows.panels(PANELS), title="Sources of training data, and wrong labels", note=said)
    figure.savefig(args.logdir / "influence.png", dpi=110)
    print(f"pictures: {args.logdir}/influence.png and misread.png; curves: tensorboard --logdir {args.logdir}")
    return rows, said


if __name__ == "__main__":
    main()
