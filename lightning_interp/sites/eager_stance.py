"""Running compiled modules without their graphs, for as long as anybody asks."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["EagerStance"]


class EagerStance:
    """Compiled modules run without their graphs from :meth:`begin` to :meth:`end`, whoever else asks for it meanwhile.

    Hooks that come and go are seen then, and no graph is compiled for them.

    Example:
        >>> one, other = EagerStance(), EagerStance()
        >>> one.begin()
        >>> other.begin()
        >>> one.end()
        >>> EagerStance.askers
        1
        >>> other.end()

    """

    askers = 0
    _stance: Any = None
    _asks = False

    def begin(self) -> None:
        """Ask for it; without effect where it was asked for."""
        if self._asks:
            return
        self._asks = True
        EagerStance.askers += 1
        if EagerStance.askers == 1:
            EagerStance._stance = torch.compiler.set_stance("force_eager")

    def end(self) -> None:
        """Ask no longer."""
        if not self._asks:
            return
        self._asks = False
        EagerStance.askers -= 1
        if not EagerStance.askers:
            EagerStance._stance.__exit__(None, None, None)
            EagerStance._stance = None
