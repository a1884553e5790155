"""Sentences as ids, from whatever tokenizer a language model comes with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "EncodedPair",
    "Tokenizer",
    "encode_pairs",
    "encode_sentences",
    "padding_id",
    "raw_ids",
    "real_ids",
    "start_id",
    "started",
]

EncodedPair = tuple[Tensor, Tensor]
"""Ids of an acceptable and an unacceptable sentence."""

Tokenizer = Callable[..., Any]
"""A tokenizer that takes a list of strings and has ``bos_token_id`` (transformers, ``WordTokenizer``), a function
from one string to a list of ids, or an object whose ``encode`` is one (``tiktoken``, ``tokenizers``)."""


def encode_sentences(
    tokenizer: Tokenizer, sentences: Sequence[str], add_bos: bool | None = None, bos_token_id: int | None = None
) -> list[Tensor]:
    """Ids of sentences for a causal language model: a start token where there is one, the sentence, no end token.

    The first token of a sentence has a probability only where something stands before it. With a start token (BOS) all
    tokens of the sentence are scored, without one all but the first. GPT-2, GPT-NeoX and others name their end-of-text
    token as ``bos_token_id`` too, and it stood between their training documents: it is put in front like any other
    start token. A tokenizer without one (Qwen) needs ``bos_token_id=tokenizer.eos_token_id`` to do the same; that of a
    chat model may name the start of a turn, and ``bos_token_id`` another token.

    A tokenizer with a parameter ``add_special_tokens`` is told to add none, so neither ``[SEP]`` nor an end token
    is scored; of others the ids are taken as they come, and a start token that is there already is not doubled. Padding
    that the tokenizer adds by itself is left out where its attention mask tells. No space is put before a sentence:
    whether "The" is read as " The" is the tokenizer's own ``add_prefix_space``. Its padding side does not matter, since
    nothing is padded here.

    Args:
        tokenizer: A transformers tokenizer, a ``WordTokenizer``, any function from a string to a list of ids, or an
            object with ``encode`` that cannot be called (``tiktoken.Encoding``, ``tokenizers.Tokenizer``). What has an
            attribute ``bos_token_id`` is called with all sentences, anything else with one at a time.
        sentences: N sentences.
        add_bos: Whether the start token is put in front; ``None`` does so where there is one.
        bos_token_id: The start token; the tokenizer's own by default.

    Returns:
        N vectors of ids, int64 on the CPU, each with at least two tokens.

    Raises:
        TypeError: If ``sentences`` is one string, or the tokenizer returns no ids.
        ValueError: If a sentence has fewer than two tokens, so that none could be scored, or ``add_bos`` is true and
            there is no start token.

    Example:
        >>> letters = lambda sentence: [ord(letter) - 96 for letter in sentence]
        >>> encode_sentences(letters, ["ab", "cde"], bos_token_id=0)
        [tensor([0, 1, 2]), tensor([0, 3, 4, 5])]

    """
    if isinstance(sentences, str):
        raise TypeError(f"`sentences` must be a sequence of strings, got the single string {sentences!r}.")
    start = start_id(tokenizer, add_bos, bos_token_id)
    encoded = []
    for sentence, given in zip(sentences, raw_ids(tokenizer, list(sentences)), strict=True):
        ids = started(given, start)
        if len(ids) < 2:
            raise ValueError(
                f"the sentence {sentence!r} is {len(ids)} token(s) long with its start token, if any; "
                "at least 2 are needed, since the first has no context. Give `bos_token_id` for a start token."
            )
        encoded.append(torch.tensor(ids, dtype=torch.long))
    return encoded


def encode_pairs(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    add_bos: bool | None = None,
    bos_token_id: int | None = None,
) -> list[EncodedPair]:
    """:func:`encode_sentences` of both sentences of every pair."""
    ids = encode_sentences(tokenizer, [sentence for pair in pairs for sentence in pair], add_bos, bos_token_id)
    return list(zip(ids[0::2], ids[1::2], strict=True))


def start_id(tokenizer: Tokenizer, add_bos: bool | None = None, bos_token_id: int | None = None) -> int | None:
    """The start token that is put in front of sentences, ``None`` for none.

    Raises:
        ValueError: If ``add_bos`` is true and there is none.

    """
    own = getattr(tokenizer, "bos_token_id", None)
    start = own if bos_token_id is None else bos_token_id
    if add_bos and start is None:
        raise ValueError("`add_bos` is true but the tokenizer has no `bos_token_id`; give `bos_token_id`.")
    return None if add_bos is False else start


def started(ids: list[int], start: int | None) -> list[int]:
    """Ids behind the start token, which is not doubled.

    Example:
        >>> started([5, 6], 0), started([0, 5], 0), started([5, 6], None)
        ([0, 5, 6], [0, 5], [5, 6])

    """
    return ids if start is None or ids[:1] == [start] else [start, *ids]


def padding_id(tokenizer: Tokenizer) -> int:
    """The tokenizer's padding token, 0 where it has none: padding is masked, so any id that exists will do."""
    own = getattr(tokenizer, "pad_token_id", None)
    return 0 if own is None else int(own)


def raw_ids(tokenizer: Tokenizer, sentences: list[str]) -> list[list[int]]:
    """The ids as the tokenizer gives them, without special tokens where it can be told so."""
    if not sentences:
        return []
    if not callable(tokenizer) or not hasattr(tokenizer, "bos_token_id"):
        encode, plain = _encoder(tokenizer)
        return [_as_ids(encode(sentence, **plain), sentence) for sentence in sentences]
    output = tokenizer(sentences, **_without_special_tokens(tokenizer))
    if not isinstance(output, Mapping) or "input_ids" not in output:
        found = sorted(output) if isinstance(output, Mapping) else type(output).__name__
        raise TypeError(f"the tokenizer must return a mapping with `input_ids` for a list of strings, got {found}.")
    rows, masks = output["input_ids"], output.get("attention_mask")
    if masks is None and isinstance(rows, Tensor | np.ndarray) and len(sentences) > 1:
        # One tensor of sentences of any length is padded, and nothing says where.
        return [ids for sentence in sentences for ids in raw_ids(tokenizer, [sentence])]
    masks = [None] * len(sentences) if masks is None else masks
    return [real_ids(_as_ids(ids, sentence), mask) for ids, mask, sentence in zip(rows, masks, sentences, strict=True)]


def real_ids(ids: list[Any], mask: Any) -> list[Any]:
    """What stands at the places that a tokenizer's own attention mask names, not at its padding.

    Example:
        >>> real_ids([0, 5, 6], [0, 1, 1]), real_ids([5, 6], None)
        ([5, 6], [5, 6])

    """
    return ids if mask is None else [one for one, real in zip(ids, mask, strict=True) if int(real)]


def _encoder(tokenizer: Any) -> tuple[Callable[..., Any], dict[str, bool]]:
    """What makes ids of one sentence, and how it is told to add no special tokens."""
    if callable(tokenizer):
        return tokenizer, {}
    encode = getattr(tokenizer, "encode", None)
    if not callable(encode):
        raise TypeError(f"the tokenizer can neither be called nor has it `encode`: it is a {type(tokenizer).__name__}.")
    return encode, _without_special_tokens(encode)


def _without_special_tokens(encode: Callable[..., Any]) -> dict[str, bool]:
    try:
        parameters = inspect.signature(encode).parameters
    except (TypeError, ValueError):  # a method that is not written in Python may not tell
        return {}
    return {"add_special_tokens": False} if "add_special_tokens" in parameters else {}


def _as_ids(ids: Any, sentence: str) -> list[int]:
    found, mask = getattr(ids, "ids", ids), getattr(ids, "attention_mask", None)  # an Encoding of tokenizers
    if isinstance(found, Mapping) and "input_ids" in found:
        found, mask = found["input_ids"], found.get("attention_mask")
    if isinstance(found, Tensor | np.ndarray):
        found = found.tolist()
    mask = mask.tolist() if isinstance(mask, Tensor | np.ndarray) else mask
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
        # A batch of one, as `return_tensors` makes it.
        found, mask = found[0], mask[0] if mask is not None else None
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(one, Integral) for one in found):
        raise TypeError(f"the tokenizer must give a list of ids for a sentence, got {ids!r} for {sentence!r}.")
    return real_ids([int(one) for one in found], mask)
