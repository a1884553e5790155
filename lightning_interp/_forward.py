"""How a batch goes through a model that nobody says it of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lightning_interp.compat import is_overridden, pl
from lightning_interp.labels import describe_batch

__all__ = ["Forward", "default_forward", "module_forward"]

Forward = Callable[[nn.Module, Any, int], Any]


def default_forward(model: nn.Module) -> Forward:
    """A function of model, batch and its number: ``validation_step`` where there is one, else the forward."""
    if isinstance(model, pl.LightningModule) and is_overridden("validation_step", model):
        step: Callable[..., Any] = model.validation_step
        takes_index = len(inspect.signature(step).parameters) > 1
        return lambda _, batch, index: step(batch, index) if takes_index else step(batch)
    return module_forward(model)


def module_forward(model: nn.Module) -> Forward:
    """A function of model, batch and its number: the model's own forward on what it takes of the batch.

    The function raises ``ValueError`` where the model does not run so, and names ``forward=``.
    """
    # What `torch.compile` wraps around a module takes anything.
    parameters = inspect.signature(getattr(model, "_orig_mod", model).forward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def given(model: nn.Module, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            return model(**{key: value for key, value in batch.items() if takes_all or key in parameters})
        return model(batch[0] if isinstance(batch, list | tuple) else batch)

    def forward(model: nn.Module, batch: Any, index: int) -> Any:
        try:
            return given(model, batch)
        except (TypeError, NotImplementedError) as error:
            raise ValueError(
                f"{type(model).__name__}, whose forward takes {list(parameters)}, does not run on a batch, which is "
                f"{describe_batch(batch)}: {type(error).__name__}: {error}. Say how with `forward=`, a function of the "
                "module and the batch."
            ) from error

    return forward
