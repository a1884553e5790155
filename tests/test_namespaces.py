"""The same callbacks under ``lightning.pytorch`` and ``pytorch_lightning``, each in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

needs_both = pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="lightning is not installed")

FIT = """
    import sys, warnings
    warnings.simplefilter("ignore")
    {first}
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from lightning_interp import NoiseRobustness, RepresentationStructure, TrainingPhases, ValidationSchedule
    {trainer}

    class Words(torch.utils.data.Dataset):
        def __len__(self):
            return 16
        def __getitem__(self, index):
            ids = torch.arange(6) * (index + 1) % 5
            return {{"input_ids": ids, "attention_mask": torch.ones(6, dtype=torch.long)}}

    class Model(trainer.LightningModule):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 8), nn.Linear(8, 5)
        def training_step(self, batch, batch_idx):
            logits = self.head(self.embedding(batch["input_ids"]))
            return nn.functional.cross_entropy(logits.flatten(0, 1), batch["input_ids"].flatten())
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.training_step(batch, batch_idx))
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    class Data(trainer.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(Words(), batch_size=4)
        val_dataloader = train_dataloader

    structure = RepresentationStructure({{"emb": "embedding"}}, ["token"])
    noise = NoiseRobustness({{"emb": "embedding"}}, monitors={{"val_loss": "loss"}}, draw_figures=False)
    phases = TrainingPhases(improving={{"val_loss": "min"}}, draw_figures=False)
    run = trainer.Trainer(
        callbacks=[ValidationSchedule(steps=[2, 4]), structure, noise, phases], max_steps=4, accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir={folder!r},
    )
    run.fit(Model(), Data())
    numbers = len(structure.history), len(noise.history)
    print(isinstance(structure, trainer.Callback), *numbers, phases.series("val_loss")[0])
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # Not through `-c`: the readers look at their own source lines in an error.
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=folder)


@pytest.mark.parametrize("namespace", [pytest.param("lightning.pytorch", marks=needs_both), "pytorch_lightning"])
def test_a_fit_under_each_name(tmp_path: Path, namespace: str) -> None:
    imported = f"import {namespace} as trainer"
    done = python(FIT.format(first=imported, trainer="", folder=str(tmp_path)), tmp_path)
    assert done.stdout.splitlines()[-1:] == ["True 2 2 [2, 4]"], done.stderr[-2000:]


@needs_both
def test_a_trainer_of_the_other_name_is_told_what_to_import(tmp_path: Path) -> None:
    code = FIT.format(
        first="import pytorch_lightning", trainer="import lightning.pytorch as trainer", folder=str(tmp_path)
    )
    done = python(code, tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "import lightning.pytorch before lightning_interp" in last
    assert "TypeError" in last


@needs_both
def test_the_name_can_be_chosen_where_both_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_INTERP_NAMESPACE", "lightning.pytorch")
    imports = "import pytorch_lightning\n    import lightning.pytorch as trainer"
    done = python(FIT.format(first=imports, trainer="", folder=str(tmp_path)), tmp_path)
    assert done.stdout.splitlines()[-1:] == ["True 2 2 [2, 4]"], done.stderr[-2000:]
    monkeypatch.setenv("LIGHTNING_INTERP_NAMESPACE", "lightning")
    done = python("import lightning_interp", tmp_path)
    assert "LIGHTNING_INTERP_NAMESPACE='lightning': it must be one of" in done.stderr


YAML = """
trainer:
  max_steps: 2
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  callbacks:
    - class_path: lightning_interp.ValidationSchedule
      init_args: {steps: [2]}
    - class_path: lightning_interp.RepresentationGeometry
      init_args: {sites: {emb: embedding}}
"""


@pytest.mark.parametrize("namespace", [pytest.param("lightning.pytorch", marks=needs_both), "pytorch_lightning"])
def test_each_command_line_interface(tmp_path: Path, namespace: str) -> None:
    pytest.importorskip("jsonargparse")
    (tmp_path / "settings.yaml").write_text(YAML)
    body = textwrap.dedent(FIT).split("structure = ")[0].format(first=f"import {namespace} as trainer", trainer="")
    code = f"""{body}
from {namespace}.cli import LightningCLI
sys.argv = ["prog", "fit", "--config", "settings.yaml"]
cli = LightningCLI(Model, Data)
print([type(one).__name__ for one in cli.trainer.callbacks][:2], len(cli.trainer.callbacks[1].history))
"""
    done = python(code, tmp_path)
    expected = "['ValidationSchedule', 'RepresentationGeometry'] 1"
    assert done.stdout.splitlines()[-1:] == [expected], done.stderr[-2000:]
