"""Leaving a model as it was: modes, random streams, metric states, logged values."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric

__all__ = ["untouched"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Run what would change a model's mode, metrics, logs or the random streams, and put everything back.

    Inside, ``log`` and ``log_dict`` of a LightningModule do nothing. Weights, buffers and plain attributes are the
    caller's to respect: run under ``torch.no_grad`` and in evaluation mode.

    Args:
        model: The model.

    Example:
        >>> model = nn.Dropout()
        >>> with untouched(model):
        ...     _ = model.eval()
        >>> model.training
        True

    """
    modes = {module: module.training for module in model.modules()}
    metrics = {module: copy.deepcopy(module.__dict__) for module in model.modules() if isinstance(module, Metric)}
    cpu = torch.random.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    muted = [name for name in ("log", "log_dict") if hasattr(model, name)]
    for name in muted:
        object.__setattr__(model, name, _nothing)
    try:
        yield
    finally:
        for name in muted:
            object.__delattr__(model, name)
        for module, mode in modes.items():
            module.training = mode
        for metric, state in metrics.items():
            metric.__dict__.clear()
            metric.__dict__.update(state)
        torch.random.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands in for ``log``."""
