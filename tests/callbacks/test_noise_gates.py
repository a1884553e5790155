"""Gates on readings under noise act at the steps that those readings imply, on one process and on two."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from lightning_interp import NoiseRobustness, PhaseEarlyStopping, TrainingPhases
from tests.toy import Tagger, loader, trainer

LAST = 60
NOISY, ROBUST = "under_noise/emb/val_loss", "robustness/emb/val_acc"


class Learns(Tagger):
    """Tags that the word alone tells, learned fast and then too well: it is ever surer, also of what noise changes."""

    def __init__(self) -> None:
        super().__init__(lr=0.05)

    def _loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return super()._loss({**batch, "tags": batch["input_ids"] % 3})


class OnPlateau(Learns):
    """Halves its learning rate at every reading under noise that is not the lowest so far."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: dict[int, float] = {}

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, "min", 0.5, patience=0, threshold=0.0, eps=0.0
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": NOISY, "interval": "step"}}

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        self.rates[self.global_step] = self.optimizers().param_groups[0]["lr"]


def fit(kind: str) -> dict[str, object]:
    """What a gate did, and the readings that it had."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    noise = NoiseRobustness(
        {"emb": "embedding"}, monitors={"val_loss": "loss", "val_acc": "score"}, scales=(0.5, 2.0), draw_figures=False
    )
    model = OnPlateau() if kind == "plateau" else Learns()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gates: dict[str, list[pl.Callback]] = {
            "stop": [EarlyStopping(NOISY, patience=2, check_on_train_epoch_end=False)],
            "checkpoint": [
                ModelCheckpoint(
                    folder, filename="{step}-{" + NOISY + ":.4f}", monitor=NOISY, auto_insert_metric_name=False
                )
            ],
            "plateau": [],
            "phase": [
                TrainingPhases(improving={ROBUST: "max"}, draw_figures=False),
                PhaseEarlyStopping(ROBUST, patience=3, phase=1),
            ],
        }
        chosen = gates[kind]
        pl.seed_everything(0, verbose=False)
        run = trainer(
            folder,
            [*chosen, noise],
            strategy="ddp" if world > 1 else "auto",
            devices=world,
            max_steps=LAST,
            max_epochs=-1,
            # To ModelCheckpoint a `val_check_interval` of 1 is that of 1.0, an epoch.
            val_check_interval=1 if kind == "plateau" else 2,
            num_sanity_val_steps=0,
            enable_checkpointing=kind == "checkpoint",
        )
        run.fit(model, loader(16 * world, batch_size=4), loader(24, batch_size=4, seed=1))
        found: dict[str, object] = {
            "last": run.global_step,
            "readings": [(one.step, one.get(NOISY), one.get(ROBUST)) for one in noise.history.readings],
        }
        if kind == "checkpoint" and run.is_global_zero:  # the folder goes away when this rank is done
            best = Path(run.checkpoint_callback.best_model_path)
            found["name"] = best.name
            found["weights"] = torch.load(best, weights_only=True)["global_step"]
        if kind == "plateau":
            found["rates"] = model.rates
        if kind == "phase":
            found["reason"], found["best"] = chosen[1].stopping_reason, chosen[1].best_step
    return found


def stops_after(values: list[tuple[int, float]], patience: int) -> int:
    """The step at which patience ends, the lower the better."""
    best, waited = float("inf"), 0
    for step, value in values:
        best, waited = (value, 0) if value < best else (best, waited + 1)
        if waited == patience:
            return step
    return LAST


def check(kind: str, found: dict[str, object]) -> None:
    readings = found["readings"]
    noisy = [(step, value) for step, value, _ in readings]
    if kind == "stop":
        assert found["last"] == stops_after(noisy, 2) < LAST
    if kind == "checkpoint":
        step, value = min(noisy, key=lambda pair: pair[1])
        assert found["weights"] == step
        assert found["name"] == f"{step}-{value:.4f}.ckpt"
    if kind == "plateau":
        rate, best, expected = 0.05, float("inf"), {0: 0.05}
        for step, value in noisy[:-1]:
            best, rate = (value, rate) if value < best else (best, rate / 2)
            expected[step] = rate
        assert found["rates"] == pytest.approx(expected)
        assert rate < 0.05
    if kind == "phase":
        robust = [(step, -value) for step, _, value in readings if value is not None]
        assert found["last"] == stops_after(robust, 3) < LAST
        assert found["best"] == max((pair for pair in robust), key=lambda pair: -pair[1])[0]
        assert found["reason"].startswith(f"{ROBUST} is {-robust[-1][1]:.4g} and did not improve in 3 readings")


@pytest.mark.parametrize("kind", ["stop", "checkpoint", "plateau", "phase"])
def test_one_process(kind: str) -> None:
    check(kind, fit(kind))


@pytest.mark.parametrize("kind", ["stop", "checkpoint", "plateau", "phase"])
def test_two_processes(two_ranks: object, kind: str) -> None:
    first, second = two_ranks.run(fit, kind)
    check(kind, first)
    assert {key: first[key] for key in ("last", "readings")} == {key: second[key] for key in ("last", "readings")}
    if kind == "plateau":
        assert first["rates"] == second["rates"]
