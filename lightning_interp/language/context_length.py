"""The longest sequence that a language model takes."""

from __future__ import annotations

from torch import nn

__all__ = ["context_length"]


def context_length(model: nn.Module) -> int | None:
    """The longest sequence that a model says it takes, in its ``config`` or an attribute; ``None`` where it does not.

    Example:
        >>> from lightning_interp.models import small_gpt2
        >>> context_length(small_gpt2(range(27), 12, heads=3, length=32)), context_length(nn.Linear(2, 2))
        (32, None)

    """
    for holder in (getattr(model, "config", None), model):
        for name in ("max_position_embeddings", "n_positions", "max_length"):
            longest = getattr(holder, name, None)
            if isinstance(longest, int) and longest > 0:
                return longest
    return None
