"""What callbacks add to a run: to a validation, to a training, to a step while nothing is read, and for pictures.

Every row is a ratio of two things timed in turn in one process; medians of ``--runs``, with the smallest and the
largest. Pictures are timed in one run of so many seconds, in real time.

    python benchmarks/overhead.py                     # all of it, some ten minutes on two cores
    python benchmarks/overhead.py --only validation
    python benchmarks/overhead.py --only validation idle --accelerator cuda --scale 20
    python benchmarks/overhead.py --only pictures --seconds 600
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interp import (
    NoiseRobustness,
    RepresentationGeometry,
    RepresentationStructure,
    TrainingPhases,
    ValidationSchedule,
)
from lightning_interp.datasets import GrammarDataModule
from lightning_interp.decisions import log_spaced_steps
from lightning_interp.models import Seq2SeqModule
from lightning_interp.reading.drawing_clock import DrawingClock
from lightning_interp.reading.run_log import RunLog

Callbacks = Callable[[], list[pl.Callback]]
PLACE = {"accelerator": "cpu"}
"""Where everything runs."""


class LanguageModel(pl.LightningModule):
    """A causal transformer, trained to predict the next word."""

    def __init__(self, layers: int, width: int, vocabulary: int, heads: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the next word at every position."""
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], device=ids.device)
        return self.head(self.body(self.embedding(ids), mask=mask, is_causal=True))  # type: ignore[no-any-return]

    def _loss(self, batch: Sequence[Tensor]) -> Tensor:
        ids = batch[0]
        logits = self(ids)[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return self._loss(batch)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Logs the loss."""
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain descent: what it costs does not matter here."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def loader(samples: int, length: int, vocabulary: int, batch: int) -> DataLoader[tuple[Tensor, ...]]:
    """Sentences of Zipf-distributed words."""
    chances = 1.0 / torch.arange(1, vocabulary, dtype=torch.float64)
    drawn = torch.multinomial(chances, samples * length, True, generator=torch.Generator().manual_seed(0)) + 1
    return DataLoader(TensorDataset(drawn.view(samples, length)), batch_size=batch)


def structure(sites: dict[str, str], **kwargs: Any) -> Callbacks:
    """The callback whose cost is promised, with its defaults."""
    return lambda: [RepresentationStructure(sites, ["token", "bigram"], padding_idx=0, **kwargs)]


class Clock(pl.Callback):
    """Seconds of every validation run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_validation_start(self, *args: object) -> None:
        """Start."""
        self.started = time.perf_counter()

    def on_validation_end(self, *args: object) -> None:
        """Stop."""
        self.seconds.append(time.perf_counter() - self.started)


def trainer(folder: str, callbacks: Sequence[pl.Callback], **kwargs: Any) -> pl.Trainer:
    """A Trainer with TensorBoard, as people use it."""
    settings: dict[str, Any] = {**PLACE, "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"enable_checkpointing": False, "default_root_dir": folder, "num_sanity_val_steps": 0}
    return pl.Trainer(callbacks=list(callbacks), **{**settings, **kwargs})


def validations(model: LanguageModel, data: DataLoader[Any], callbacks: Callbacks, number: int) -> list[float]:
    """Seconds of the validations of a fit that hardly trains."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        # Last of all callbacks, so that it sees what the others do at the end.
        run = trainer(folder, [*callbacks(), clock], max_steps=number, val_check_interval=1, limit_val_batches=1.0)
        one = DataLoader(data.dataset, batch_size=2)
        run.fit(model, one, data)
    return clock.seconds


def row(name: str, base: Sequence[float], with_it: Sequence[float], times: float = 1.0) -> None:
    """A row of a table."""
    ratios = sorted(b / a / times for a, b in zip(base, with_it, strict=True))
    cells = f"{median(base):.3f} | {median(with_it):.3f} | {median(ratios):.3f} | {ratios[0]:.3f} to {ratios[-1]:.3f}"
    print(f"| {name} | {cells} |", flush=True)


def in_turn(model: LanguageModel, data: DataLoader[Any], callbacks: Callbacks, runs: int) -> tuple[list[float], ...]:
    """Validations without and with callbacks, two at a time; the first of each fit is a warm-up."""
    base, with_it = [], []
    for _ in range(runs):
        base.append(validations(model, data, list, 2)[1])
        with_it.append(validations(model, data, callbacks, 2)[1])
    return base, with_it


def validation(runs: int, scale: int) -> None:
    """Structure beside validations of about a second and more, and noise beside the batches it reads."""
    print("\n| validation | without, s | with, s | ratio | smallest to largest |\n|---|---|---|---|---|")
    small = LanguageModel(4, 256, 2000)
    batch = 1 if scale == 1 else 8
    data = loader(1500 * scale, 33, 2000, 50 * batch)
    name = f"4 layers × 256, {1500 * scale:,} sentences: structure, one site"
    row(name, *in_turn(small, data, structure({"body": "body"}), runs))
    large = LanguageModel(30, 576, 2000, 9)
    few = loader(100 * scale, 33, 2000, 20 * batch)
    name = f"30 layers × 576, {100 * scale:,} sentences: structure, one site"
    row(name, *in_turn(large, few, structure({"body": "body"}), runs))

    def geometry() -> list[pl.Callback]:
        return [RepresentationGeometry({"body": "body"}, padding_idx=0)]

    row("4 layers × 256: geometry, one site", *in_turn(small, data, geometry, runs))
    print("\n| noise | validation, s | with, s | added / (scales × validation) | smallest to largest |")
    print("|---|---|---|---|---|")
    scales = (0.1, 0.25, 0.5, 1.0)

    def noise() -> list[pl.Callback]:
        kwargs: dict[str, Any] = {"scales": scales, "max_examples": None, "start": {"val_loss": 7.6}}
        return [NoiseRobustness({"input": "embedding"}, monitors={"val_loss": "loss"}, **kwargs)]

    for name, model, sentences in (("4 layers × 256", small, data), ("30 layers × 576", large, few)):
        base, with_it = in_turn(model, sentences, noise, runs)
        added = [b - a for a, b in zip(base, with_it, strict=True)]
        row(f"{name}, {len(scales)} scales at the input", base, added, times=len(scales))


def idle(runs: int, scale: int) -> None:
    """Training steps with hooks attached that are not reading."""
    print("\n| training step, hooks attached and idle | without, ms | with, ms | ratio | smallest to largest |")
    print("|---|---|---|---|---|")
    for name, compiled in (("eager", False), ("compiled", True)):
        device = torch.device(PLACE["accelerator"])
        model = LanguageModel(4, 256, 2000).to(device)
        ids = next(iter(loader(16 * scale, 33, 2000, 16 * scale)))[0].to(device)
        model.body.compile(disable=not compiled, backend="inductor")
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def steps(
            model: LanguageModel = model, ids: Tensor = ids, optimizer: Any = optimizer, number: int = 20
        ) -> float:
            started = time.perf_counter()
            for _ in range(number):
                optimizer.zero_grad()
                model._loss([ids]).backward()
                optimizer.step()
            if ids.is_cuda:
                torch.cuda.synchronize()
            return 1e3 * (time.perf_counter() - started) / number

        callback = RepresentationStructure({"body": "body", "last": "body.layers.3"}, ["token"], padding_idx=0)
        # Hooks come before the first compiled call, as a Trainer puts them; taken off, the graph is the same.
        callback.resolve(model)
        steps()
        hooks = {module: dict(module._forward_hooks) for module in model.modules() if module._forward_hooks}
        base, with_it = [], []
        for _ in range(4 * runs):
            for module in hooks:
                module._forward_hooks.clear()
            steps(number=2)
            base.append(steps())
            for module, kept in hooks.items():
                module._forward_hooks.update(kept)
            steps(number=2)
            with_it.append(steps())
        row(name, base, with_it)
        callback.release()


def training(runs: int, scale: int) -> None:
    """The main job (2,000 steps with log-spaced readings), beside the time that it says the callback took."""
    print("\n| main job | whole run, s | structure, s | share of the rest | smallest to largest |")
    print("|---|---|---|---|---|")
    torch.set_num_threads(1)
    whole, taken = [], []
    steps = [
        *log_spaced_steps(per_decade=12, start=10, stop=190),
        *log_spaced_steps(per_decade=32, start=200, stop=2000),
    ]
    for seed in range(runs):
        pl.seed_everything(seed, verbose=False)
        data = GrammarDataModule(val_batch_size=100, seed=seed)
        data.setup("fit")
        model = Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary))
        callback = RepresentationStructure({"encoder": "model.encoder"}, ["token", "bigram"], draw_figures=False)
        with tempfile.TemporaryDirectory() as folder:
            run = trainer(folder, [ValidationSchedule(steps=steps), callback], max_steps=2000)
            started = time.perf_counter()
            run.fit(model, datamodule=data)
            whole.append(time.perf_counter() - started)
        taken.append(sum(reading.values["seconds/RepresentationStructure"] for reading in callback.history.readings))
    row("encoder, token and bigram", [a - b for a, b in zip(whole, taken, strict=True)], taken)


class Pictures(pl.Callback):
    """When each picture was drawn, what it took, and what all of them had taken when training was over."""

    def __init__(self) -> None:
        self.drawn: dict[str, list[float]] = {}
        self.spent = self.seconds = 0.0
        self.clock: DrawingClock | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the clock by which the callbacks draw."""
        self.started = time.perf_counter()
        self.clock = RunLog.of(trainer).clock
        writer = trainer.logger.experiment  # type: ignore[union-attr]
        add_image = writer.add_image

        def watched(tag: str, *args: Any, **kwargs: Any) -> None:
            self.drawn.setdefault(tag, []).append(time.perf_counter() - self.started)
            add_image(tag, *args, **kwargs)

        writer.add_image = watched

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training is over; what is drawn from here on is the last state of every picture."""
        assert self.clock is not None
        self.spent, self.seconds = self.clock.spent, time.perf_counter() - self.started


def pictures(seconds: int) -> None:
    """The main job with all its callbacks for so long, and the part of that time that pictures took."""
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    data = GrammarDataModule(val_batch_size=100)
    data.setup("fit")
    model = Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary))
    sites, loss, score = {"encoder": "model.encoder"}, "val_loss/dataloader_idx_0", "val_acc/dataloader_idx_1"
    inputs, monitors = {"input": "model.source_input"}, {"val_loss": "loss", "val_acc": "score"}
    watch = Pictures()
    callbacks = [
        ValidationSchedule(per_decade=32, start=10),
        RepresentationStructure(sites, ["token", "bigram"]),
        RepresentationGeometry(sites),
        NoiseRobustness(inputs, monitors=monitors, drift=sites, every_n_validations=2),
        TrainingPhases(loss=loss, improving={"robustness/input/val_acc": "max", score: "max"}),
        watch,
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(folder, callbacks, max_steps=-1, max_epochs=-1, max_time={"seconds": seconds})
        run.fit(model, datamodule=data)
    assert watch.clock is not None
    last = watch.clock.spent - watch.spent
    print("\n| pictures | training, s | pictures in it, s | share | at the end, s | share of all |")
    print("|---|---|---|---|---|---|")
    cells = f"{watch.seconds:.0f} | {watch.spent:.1f} | {watch.spent / watch.seconds:.4f} | {last:.1f}"
    print(f"| main job, all callbacks | {cells} | {watch.clock.spent / (watch.seconds + last):.4f} |")
    print("\n| picture | drawn after so many seconds |\n|---|---|")
    for tag, times in watch.drawn.items():
        print(f"| {tag} | {', '.join(f'{one:.0f}' for one in times)} |", flush=True)


PARTS: dict[str, Callable[[int, int], None]] = {"validation": validation, "idle": idle, "training": training}


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each side; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "pictures"], default=[*PARTS, "pictures"])
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--scale", type=int, default=1, help="so many times the sentences; default: %(default)s")
    parser.add_argument("--seconds", type=int, default=120, help="of the run with pictures; default: %(default)s")
    args = parser.parse_args(argv)
    PLACE["accelerator"] = args.accelerator
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    for part in args.only:
        if part == "pictures":
            pictures(args.seconds)
        else:
            PARTS[part](args.runs, args.scale)


if __name__ == "__main__":
    main()
