"""What the Trainer tells of the training: its loader, and the optimizer that moves a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_interp.compat import is_overridden, pl
from lightning_interp.isolation import preserved_rng

__all__ = ["learning_rate", "optimizer_of", "training_loader"]

_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def training_loader(trainer: pl.Trainer) -> Any:
    """The training loader; in the sanity check, before there is one, what ``train_dataloader`` gives.

    Raises:
        ValueError: If there is none or several, or hooks of the module or data module make its batches.

    """
    found = trainer.train_dataloader
    if found is None:
        source = trainer.fit_loop._data_source
        if source.instance is None or not source.is_defined():
            raise ValueError("There are no training data here, outside of a fit: give the examples with `data=`.")
        with preserved_rng():
            found = source.dataloader()
    found = getattr(found, "iterables", found)
    loaders = list(found.values()) if isinstance(found, Mapping) else found
    if isinstance(loaders, list | tuple):
        if len(loaders) != 1:
            raise ValueError(f"There are {len(loaders)} training loaders: say which examples to read with `data=`.")
        (found,) = loaders
    for owner in (trainer.lightning_module, getattr(trainer, "datamodule", None)):
        hook = next((one for one in _TRANSFER if owner is not None and is_overridden(one, owner)), None)
        if hook is not None:
            raise ValueError(
                f"{type(owner).__name__} overrides `{hook}`, which is not called for a sample of the training data: "
                "give the examples with `data=`, in batches as the model takes them."
            )
    return found


def optimizer_of(trainer: pl.Trainer, parameter: Tensor) -> tuple[Any, dict[str, Any]] | None:
    """The optimizer that moves a parameter, and the group in which it does; ``None`` where none has it."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            if any(one is parameter for one in group["params"]):
                return optimizer, group
    return None


def learning_rate(trainer: pl.Trainer, module: nn.Module, name: str) -> float:
    """The learning rate with which the weights of a module are moved now.

    Args:
        trainer: The Trainer.
        module: The module, with a ``weight``.
        name: What an error calls it.

    Raises:
        ValueError: If its weights are frozen, or it is not known which of several rates is theirs.

    """
    weight: Any = module.weight
    if not weight.requires_grad:
        raise ValueError(f"{name} is frozen: it has no learning rate, and no example moves it.")
    found = optimizer_of(trainer, weight)
    if found is not None:
        return float(found[1]["lr"])
    # An optimizer of parts of parameters does not hold the parameter itself.
    rates = {float(group["lr"]) for one in trainer.optimizers for group in one.param_groups}
    if len(rates) != 1:
        raise ValueError(
            f"no optimizer has the weight of {name}, and there are the learning rates {sorted(rates)}: which of them "
            "moves it is not known."
        )
    return rates.pop()
