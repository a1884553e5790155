"""A GPT-2 of any size, with random weights."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from torch import nn

__all__ = ["small_gpt2"]


def small_gpt2(
    tokenizer: Sized,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    length: int = 64,
    dropout: float = 0.0,
    **config: Any,
) -> nn.Module:
    """A ``GPT2LMHeadModel`` of transformers with as many words as a tokenizer has, and random weights.

    Args:
        tokenizer: Its length is the number of ids; start and end token are taken from it where it has them.
        width: Of the residual stream, a multiple of ``heads``.
        layers: Blocks, which are called ``transformer.h.0`` and so on.
        heads: Of each block.
        length: Most tokens of a sentence.
        dropout: Of embeddings, attention and residual stream.
        config: More of ``GPT2Config``.

    Raises:
        ImportError: If transformers is not installed.

    Example:
        >>> from lightning_interp.tasks import WordTokenizer
        >>> model = small_gpt2(WordTokenizer(["the", "king"]), width=8, layers=1, heads=2)
        >>> sum(one.numel() for one in model.parameters())
        1448

    """
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        raise ImportError(
            "small_gpt2() needs transformers: pip install transformers, or this package as "
            "lightning-interp[transformers]."
        ) from error
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    marks = {name: getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id")}
    sizes = {"n_positions": length, "n_embd": width, "n_layer": layers, "n_head": heads}
    model: nn.Module = GPT2LMHeadModel(
        GPT2Config(**{"vocab_size": len(tokenizer), **sizes, **rates, **marks, **config})
    )
    return model
