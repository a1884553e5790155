"""Lines of information that are said once for a model, however many callbacks would say them."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from lightning_interp.compat import pl

__all__ = ["say_once"]

_SAID: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def say_once(model: nn.Module, line: str) -> None:
    """Log a line on rank 0, unless it was said of this model before.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> for _ in range(2):
        ...     say_once(model, "Site 'linear' is read.")
        >>> sorted(_SAID[model])
        ["Site 'linear' is read."]

    """
    said = _SAID.setdefault(model, set())
    if line not in said:
        said.add(line)
        pl.utilities.rank_zero_info(line)
