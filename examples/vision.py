"""Images instead of text: what a small convolutional network's layers do while it learns to tell shapes apart.

Bars, crosses, rings and corners of any size and place are drawn with noise. Nothing needs tokens: a class is a label of
an image, feature maps (B, C, H, W) are read as one vector a pixel and pooled features (B, D) as one vector an image. At
log-spaced steps the callbacks read information, regularity by class above chance and RankMe at each stage; all of it is
printed, in `readings.csv` and in one picture.

    python examples/vision.py
    python examples/vision.py --steps 100
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import Readings, RepresentationGeometry, RepresentationStructure, ValidationSchedule
from lightning_interp.figures import measure_curves

SHAPES = ("horizontal bar", "vertical bar", "cross", "ring", "corner")
SITES = {"early": "stages.0", "late": "stages.1", "pooled": "pool"}
MEASURES = {
    "information": "information/{}",
    "regularity by class, above chance": "regularity_above_chance/{}/class",
    "RankMe": "rankme/{}",
}


class ShapeClassifier(pl.LightningModule):
    """Images (B, 1, 16, 16) → the shape on them."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, wider, 3, stride=2, padding=1), nn.BatchNorm2d(wider), nn.ReLU())
            for channels, wider in ((1, 16), (16, 32))
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(32, len(SHAPES))

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the shapes."""
        for stage in self.stages:
            images = stage(images)
        return self.head(self.pool(images))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Cross-entropy and accuracy."""
        scores = self(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(scores, batch[1]))
        self.log("val_acc", (scores.argmax(-1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def shapes(number: int, seed: int, side: int = 16) -> TensorDataset:
    """Images with noise, and the number of the shape on each."""
    draw = torch.Generator().manual_seed(seed)
    classes = torch.arange(number) % len(SHAPES)
    radius = torch.randint(3, 6, (number, 1, 1), generator=draw)
    x, y = (torch.randint(5, side - 5, (number, 1, 1), generator=draw) for _ in "xy")
    places = torch.arange(side)
    dx, dy = places[None, None, :] - x, places[None, :, None] - y
    inside = (dx.abs() <= radius) & (dy.abs() <= radius)
    horizontal, vertical = (dy == 0) & inside, (dx == 0) & inside
    ring = ((dx**2 + dy**2).float().sqrt() - radius).abs() < 0.7
    corner = (horizontal & (dx >= 0)) | (vertical & (dy >= 0))
    drawn = torch.stack([horizontal, vertical, horizontal | vertical, ring, corner])[classes, torch.arange(number)]
    images = drawn.float() + 0.3 * torch.randn(number, side, side, generator=draw)
    return TensorDataset(images[:, None], classes)


def main(argv: Sequence[str] | None = None) -> Readings:
    """Train, print the readings and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps; default: %(default)s")
    parser.add_argument("--logdir", type=Path, default=Path("logs"), help="default: %(default)s")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    pl.seed_everything(0)

    train = DataLoader(shapes(4000, seed=0), batch_size=64, shuffle=True)
    val = DataLoader(shapes(500, seed=1), batch_size=100)
    readers = [
        RepresentationStructure(SITES, labels={"class": 1}),  # the second entry of a batch
        RepresentationGeometry(SITES),
    ]
    trainer = pl.Trainer(
        callbacks=[ValidationSchedule(steps="log", per_decade=6), *readers],
        max_steps=args.steps,
        logger=TensorBoardLogger(args.logdir, name="vision"),
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(ShapeClassifier(), train, val)

    readings = Readings.of(*readers)
    lines = {panel: {site: pattern.format(site) for site in SITES} for panel, pattern in MEASURES.items()}
    columns = {f"{panel.split()[0]} {site}": key for panel, of in lines.items() for site, key in of.items()}
    print(readings.table({"accuracy": "val_acc", **columns}))
    panels = readings.panels({**lines, "validation accuracy": {"model": "val_acc"}})
    folder = Path(trainer.logger.log_dir)
    measure_curves(panels, "Shapes").savefig(folder / "vision.png", dpi=110)
    print(f"\npicture:  {folder / 'vision.png'}\nreadings: {folder / 'readings.csv'}")
    print(f"curves:   tensorboard --logdir {args.logdir / 'vision'}")
    return readings


if __name__ == "__main__":
    main()
