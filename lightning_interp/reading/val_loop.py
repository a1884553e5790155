"""What the Trainer's validation loop tells of itself: its loaders, its last batch, and whether it will run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_interp.compat import is_overridden, pl

__all__ = ["is_last_batch", "tell_no_validation", "validation_due", "validation_loaders", "why_no_validation"]


def validation_loaders(trainer: pl.Trainer) -> list[Any]:
    """The validation loaders as ``dataloader_idx`` numbers them."""
    combined = getattr(_loop(trainer), "_combined_loader", None)
    # In any other mode a batch is made of one batch of each loader, and what that holds is not theirs to tell.
    if getattr(combined, "_mode", "sequential") != "sequential":
        return [combined]
    return _flattened(trainer.val_dataloaders)


def is_last_batch(trainer: pl.Trainer) -> bool:
    """Whether no batch of any loader comes after the present one; false where nobody knows, as in some streams."""
    return bool(_loop(trainer).batch_progress.is_last_batch)


def validation_due(trainer: pl.Trainer) -> bool:
    """Whether a validation run follows the present training batch; asked while that batch ends."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    return fetcher is not None and bool(loop.epoch_loop._should_check_val_fx(fetcher))


def why_no_validation(trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
    """Why a fit will not validate, as far as that is known when training starts; ``""`` where it will."""
    if not is_overridden("validation_step", pl_module):
        return f"{type(pl_module).__name__} has no validation_step"
    if trainer.limit_val_batches == 0:
        return "limit_val_batches=0"
    if not trainer.enable_validation or trainer.val_dataloaders is None:
        return "there are no validation data"
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if every is not None and epochs is not None and 0 <= epochs < every:
        return f"check_val_every_n_epoch={every} and max_epochs={epochs}"
    return ""


def tell_no_validation(trainer: pl.Trainer, pl_module: pl.LightningModule, names: Sequence[str]) -> None:
    """Warn where a fit will not validate, so that these callbacks will have nothing to do."""
    why = why_no_validation(trainer, pl_module)
    if why:
        told = ", ".join(names)
        pl.utilities.rank_zero_warn(f"{told}: nothing will be read, since the Trainer will not validate ({why}).")


def _loop(trainer: pl.Trainer) -> Any:
    return trainer.fit_loop.epoch_loop.val_loop if trainer.state.fn == "fit" else trainer.validate_loop


def _flattened(loaders: Any) -> list[Any]:
    if loaders is None:
        return []
    if isinstance(loaders, Mapping):
        return [one for value in loaders.values() for one in _flattened(value)]
    if isinstance(loaders, list | tuple):
        return [one for value in loaders for one in _flattened(value)]
    return [loaders]
