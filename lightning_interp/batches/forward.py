"""How a batch goes through a model: as the user says, or by what the model itself takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from lightning_interp.batches.reader import describe_batch
from lightning_interp.compat import is_overridden, pl

__all__ = ["Forward", "RunBatch", "checked_forward", "default_forward", "module_forward", "takes_batches"]

Forward = Callable[[nn.Module, Any], Any]
"""``forward(model, batch)``, as a user gives it, whatever reads the batch."""
RunBatch = Callable[[nn.Module, Any, int], Any]
"""The same for what goes through a loader and knows the number of the batch."""

_F = TypeVar("_F", bound=Callable[..., Any] | None)


def checked_forward(forward: _F, takes: Sequence[str] = ("model", "batch")) -> _F:
    """A user's ``forward=``, if it can be called as it will be.

    Args:
        forward: What was given; ``None`` is left as it is.
        takes: What it is called with.

    Raises:
        TypeError: If it is not a function of these; the error says what to write.

    Example:
        >>> checked_forward(lambda net, batch, index: net(batch))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        TypeError: `forward` is called with (model, batch), and takes (net, batch, index). Write ...

    """
    if forward is None:
        return forward
    advice = f"Write `forward=lambda {', '.join(takes)}: ...`."
    if not callable(forward):
        raise TypeError(f"`forward` must be a function of ({', '.join(takes)}), got {forward!r}. {advice}")
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):  # some of those that are written in C do not tell
        return forward
    try:
        signature.bind(*takes)
    except TypeError:
        names = ", ".join(map(str, signature.parameters.values()))
        raise TypeError(f"`forward` is called with ({', '.join(takes)}), and takes ({names}). {advice}") from None
    return forward


def takes_batches(forward: Forward) -> RunBatch:
    """A user's ``forward=`` for what also knows the number of the batch."""
    checked_forward(forward)
    return lambda model, batch, _: forward(model, batch)


def default_forward(model: nn.Module) -> RunBatch:
    """A function of model, batch and its number: ``validation_step`` where there is one, else the forward."""
    if isinstance(model, pl.LightningModule) and is_overridden("validation_step", model):
        step: Callable[..., Any] = model.validation_step
        takes_index = len(inspect.signature(step).parameters) > 1
        return lambda _, batch, index: step(batch, index) if takes_index else step(batch)
    run = module_forward(model)
    return lambda model, batch, _: run(model, batch)


def module_forward(model: nn.Module) -> Forward:
    """A function of model and batch: the model's own forward on what it takes of the batch.

    The function raises ``ValueError`` where the model does not run so, and names ``forward=``.
    """
    # What `torch.compile` wraps around a module takes anything.
    parameters = inspect.signature(getattr(model, "_orig_mod", model).forward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def given(model: nn.Module, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            return model(**{key: value for key, value in batch.items() if takes_all or key in parameters})
        return model(batch[0] if isinstance(batch, list | tuple) else batch)

    def forward(model: nn.Module, batch: Any) -> Any:
        try:
            return given(model, batch)
        except (TypeError, NotImplementedError) as error:
            raise ValueError(
                f"{type(model).__name__}, whose forward takes {list(parameters)}, does not run on a batch, which is "
                f"{describe_batch(batch)}: {type(error).__name__}: {error}. Say how with "
                "`forward=lambda model, batch: ...`."
            ) from error

    return forward
