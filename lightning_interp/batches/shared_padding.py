"""The token id of padding, said once for all callbacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_interp.compat import pl

__all__ = ["shared_padding"]


def shared_padding(module: Any, data: Any = None) -> int | None:
    """What a ``LightningModule`` says of padding in its attribute ``padding_idx``, else what its data module says.

    Other modules are not asked: in models of transformers it may be an id that real positions have too.

    Args:
        module: The model.
        data: The data module.

    Returns:
        The token id, -1 where nothing is padded, or ``None`` where neither says: an attribute of this name that is no
        whole number may be anything of the user's own.

    Example:
        >>> module = pl.LightningModule()
        >>> module.padding_idx = 0
        >>> shared_padding(module)
        0

    """
    for one in (module, data):
        if not isinstance(one, pl.LightningModule | pl.LightningDataModule):
            continue
        found = getattr(one, "padding_idx", None)
        if isinstance(found, int | np.integer) and not isinstance(found, bool):
            return int(found)
    return None
