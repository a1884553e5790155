"""What the optimizers of a run make of a gradient, coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_interp.compat import pl
from lightning_interp.functional.optimizer_step import adam_scale
from lightning_interp.reading.train_loop import optimizer_of

__all__ = ["Scales", "step_scales"]

Scales: TypeAlias = Mapping[str, Tensor | float]
"""By name of a parameter what its gradient is multiplied by."""

_KNOWN = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


def step_scales(trainer: pl.Trainer, parameters: Mapping[str, Tensor], without: str) -> Scales | None:
    """What a step multiplies the gradient of each parameter by, at a learning rate of 1.

    1 for SGD, with momentum too: in the end it moves 1 / (1 − momentum) times as much. For Adam and AdamW
    :func:`~lightning_interp.functional.optimizer_step.adam_scale`. 0 where no optimizer has the parameter.

    Args:
        trainer: The Trainer.
        parameters: By name.
        without: The argument that does without, for messages.

    Returns:
        By name; ``None`` while an optimizer has made no step, so that its scale is not known, and where none has any of
        the parameters.

    Raises:
        ValueError: If an optimizer is another one, or maximizes.

    """
    for optimizer in trainer.optimizers:
        if type(optimizer) not in _KNOWN or any(group.get("maximize") for group in optimizer.param_groups):
            kind = type(optimizer).__name__
            how = kind if type(optimizer) not in _KNOWN else f"{kind} with `maximize`"
            raise ValueError(
                f"What a gradient does under {how} is not known here, but for "
                f"{', '.join(one.__name__ for one in _KNOWN)} that minimize: say `{without}`."
            )
    found = {name: _scale(trainer, parameter) for name, parameter in parameters.items()}
    if all(isinstance(scale, float) and not scale for scale in found.values()):
        return None
    known = {name: scale for name, scale in found.items() if scale is not None}
    return known if len(known) == len(found) else None


def _scale(trainer: pl.Trainer, parameter: Tensor) -> Tensor | float | None:
    held = optimizer_of(trainer, parameter)
    if held is None:
        return 0.0
    optimizer, group = held
    if type(optimizer) is torch.optim.SGD:
        return 1.0
    state: Mapping[str, Any] = optimizer.state.get(parameter, {})
    if "exp_avg_sq" not in state:
        return None
    second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    return adam_scale(second, float(state["step"]), float(group["betas"][1]), float(group["eps"]))
