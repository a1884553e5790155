"""The callbacks from a YAML file: LightningCLI, with everything that is read named in ``config.yaml``.

A small encoder–decoder learns to turn sentences into logical forms, as in ``two_phases.py``. The file says where its
representations are read, how noise is added, when it is validated and which curves tell phases of training apart; any
of it can be changed on the command line. Needs ``pip install 'lightning-interp[cli]'``.

    python examples/cli/main.py fit --config examples/cli/config.yaml
    python examples/cli/main.py fit --config examples/cli/config.yaml --trainer.max_steps 500
    python examples/cli/main.py fit --config examples/cli/config.yaml --print_config
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from lightning_interp import Readings, TrainingPhases
from lightning_interp.datasets import GrammarDataModule
from lightning_interp.models import Seq2SeqModule


class CLI(LightningCLI):
    """The usual command line; the model takes the sizes of its vocabularies from the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what only the data knows."""
        for side in ("source", "target"):
            size = f"model.{side}_vocab_size"
            parser.link_arguments(f"data.{side}_vocabulary", size, compute_fn=len, apply_on="instantiate")


def main(argv: Sequence[str] | None = None) -> Readings:
    """Run the command line, and print what was read."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    torch.set_num_threads(1)  # a model this small gains nothing from a second thread
    cli = CLI(Seq2SeqModule, GrammarDataModule, args=list(argv) if argv is not None else None)

    readers = [callback for callback in cli.trainer.callbacks if hasattr(callback, "history")]
    readings = Readings.of(*readers)
    # What the callbacks log is much more than fits on a line.
    logged = [key for reader in readers for key in reader.logged_keys(cli.model)]
    read = [
        key for key in logged if key.startswith(("information/", "regularity_above", "under_noise/", "robustness/"))
    ]
    keys = [key for key in ["val_loss/dataloader_idx_0", *read] if readings.steps(key)]
    print(readings.table({key: key for key in keys}))
    for callback in cli.trainer.callbacks:
        if isinstance(callback, TrainingPhases):
            print(f"\n{callback.conclusion}")
    if cli.trainer.log_dir:
        print(f"\ncurves: tensorboard --logdir {cli.trainer.log_dir}")
    return readings


if __name__ == "__main__":
    main()
