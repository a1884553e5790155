"""Where a model turns token ids into vectors."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["input_embedding"]


def input_embedding(model: nn.Module) -> str:
    """The dotted name of what embeds tokens: what ``get_input_embeddings`` gives, else the largest ``nn.Embedding``.

    Raises:
        ValueError: If there is none.

    Example:
        >>> input_embedding(nn.ModuleDict({"places": nn.Embedding(8, 2), "words": nn.Embedding(50, 2)}))
        'words'

    """
    own: Any
    try:
        own = model.get_input_embeddings()  # type: ignore[operator]
    except Exception:  # there is none, or the class leaves it out
        own = None
    sizes = {name: one.num_embeddings for name, one in model.named_modules() if isinstance(one, nn.Embedding)}
    named: list[str] = [name for name, one in model.named_modules() if one is own]
    named += sorted(sizes, key=lambda one: -sizes[one])
    if not named:
        raise ValueError(f"`embedding`: {type(model).__name__} has no nn.Embedding; name the module that embeds.")
    return named[0]
