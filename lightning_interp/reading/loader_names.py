"""What a module calls its validation loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["loader_names"]


def loader_names(*owners: Any) -> list[str] | None:
    """The names of the validation loaders, where somebody says them.

    They are the attribute ``val_loader_names``, a sequence of names in the order of the loaders, of the LightningModule
    or of the data module::

        class Data(LightningDataModule):
            val_loader_names = ("in distribution", "out of distribution")

    Pictures and pages then say ``val_loss, out of distribution`` in place of ``val_loss, loader 1``; keys stay as they
    are. A property will do.

    Args:
        owners: Who may say them, the first that does counts: the module, then the data module. ``None`` says nothing.

    Returns:
        The names, or ``None`` where nobody says any.

    Raises:
        TypeError: If ``val_loader_names`` is something else than names.

    Example:
        >>> from types import SimpleNamespace
        >>> loader_names(None, SimpleNamespace(val_loader_names=("seen", "new")))
        ['seen', 'new']

    """
    for owner in owners:
        names = getattr(owner, "val_loader_names", None)
        if names is None:
            continue
        if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
            raise TypeError(
                f"`{type(owner).__name__}.val_loader_names` must be a list of names, one for each validation loader in "
                f"their order, got {names!r}."
            )
        return list(names)
    return None
