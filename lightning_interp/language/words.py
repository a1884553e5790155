"""Sentences as ids, with the unit, a word or the whole sentence, that each id belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_interp.language.encoding import Tokenizer, raw_ids, real_ids

__all__ = ["Pooling", "SpecialTokens", "Text", "Units", "encode_units", "pooled"]

Text = str | Sequence[str]
"""A sentence: a text, which is one unit, or its words, each of them a unit."""

Pooling = Literal["last", "first", "mean"]
SpecialTokens = Literal["bos", "own", "none"]


class Units(NamedTuple):
    """An encoded sentence."""

    ids: Tensor
    """Ids, (T,)."""
    unit: Tensor
    """The unit of each token, (T,); -1 for start and end tokens."""
    number: int
    """How many units there are."""


def encode_units(
    tokenizer: Tokenizer,
    sentences: Sequence[Text],
    special_tokens: SpecialTokens = "bos",
    bos_token_id: int | None = None,
) -> list[Units]:
    """Encode sentences and say which word each token belongs to.

    The words of a sentence are joined by single spaces; a word may have spaces in it, as in treebanks ("20 000"). A
    fast tokenizer of transformers, or one of the package tokenizers, tells where each token stands in the text, and so
    its word; any other must give one id for each word, or for each part of it that spaces separate.

    Args:
        tokenizer: What :func:`~lightning_interp.tasks.encode_sentences` takes.
        sentences: Texts, or lists of words.
        special_tokens: ``"bos"`` puts a start token in front where there is one, as a causal model was trained with;
            ``"own"`` puts what the tokenizer puts itself, such as ``[CLS]`` and ``[SEP]``; ``"none"`` nothing.
        bos_token_id: The start token of ``"bos"``; the tokenizer's own by default.

    Returns:
        The sentences in order.

    Raises:
        ValueError: If a sentence is empty, a word begins or ends with a space or has no token of its own, or the number
            of ids is not that of the words where the tokenizer does not tell which is whose.

    Example:
        >>> letters = lambda text: [ord(word[0]) - 96 for word in text.split()]
        >>> encode_units(letters, [["a", "bee"], "a bee"], bos_token_id=0)[1].unit
        tensor([-1,  0,  0])

    """
    if special_tokens not in ("bos", "own", "none"):
        raise ValueError(f"`special_tokens` must be 'bos', 'own' or 'none', got {special_tokens!r}.")
    if isinstance(sentences, str):
        raise TypeError(f"`sentences` must be a list of sentences, got the string {sentences!r}.")
    for sentence in sentences:
        words = [sentence] if isinstance(sentence, str) else list(sentence)
        if not words or not all(word.strip() for word in words):
            raise ValueError(f"`sentences` has an empty sentence or word: {sentence!r}.")
        if not isinstance(sentence, str) and any(word.strip() != word for word in words):
            raise ValueError(f"`sentences` has a word that begins or ends with a space: {sentence!r}.")
    start = getattr(tokenizer, "bos_token_id", None) if bos_token_id is None else bos_token_id
    front = [start] if special_tokens == "bos" and start is not None else []
    texts = [sentence if isinstance(sentence, str) else " ".join(sentence) for sentence in sentences]
    found = []
    for sentence, (ids, place) in zip(sentences, _placed(tokenizer, texts, special_tokens == "own"), strict=True):
        unit = _units(sentence, ids, place)
        if front and ids[:1] != front:
            ids, unit = front + ids, [-1, *unit]
        elif front:
            unit = [-1, *unit[1:]]
        number = 1 if isinstance(sentence, str) else len(sentence)
        without = sorted(set(range(number)) - set(unit))
        if without:
            word = sentence if isinstance(sentence, str) else sentence[without[0]]
            raise ValueError(f"the tokenizer gives no token to {word!r} of the sentence {sentence!r}.")
        found.append(Units(torch.tensor(ids), torch.tensor(unit), number))
    return found


def pooled(vectors: Tensor, units: Units, pooling: Pooling) -> Tensor:
    """One vector for each unit, (units, D), from those of the tokens, (T, D).

    Example:
        >>> units = Units(torch.tensor([5, 6, 7]), torch.tensor([-1, 0, 0]), 1)
        >>> pooled(torch.tensor([[9.0], [1.0], [3.0]]), units, "mean")
        tensor([[2.]])

    """
    unit = units.unit.to(vectors.device)
    own = torch.arange(units.number, device=vectors.device)[:, None] == unit
    if pooling == "mean":
        share = own.to(vectors.dtype)
        counted: Tensor = unit >= 0
        # What belongs to no unit may be anything, also not finite.
        return share @ vectors.masked_fill(~counted[:, None], 0) / share.sum(1, keepdim=True)
    place = torch.arange(len(unit), device=vectors.device).expand_as(own)
    chosen = place.masked_fill(~own, -1).amax(1) if pooling == "last" else place.masked_fill(~own, len(unit)).amin(1)
    return vectors[chosen]


def _units(sentence: Text, ids: Sequence[int], place: Sequence[tuple[int, int]] | None) -> list[int]:
    if isinstance(sentence, str):
        return [0] * len(ids) if place is None else [0 if end > begin else -1 for begin, end in place]
    if place is None:
        # Some tokenizers take any blank for the end of a word, others only the plain space, and others none in a word.
        for parts in ([1] * len(sentence), [len(w.split()) for w in sentence], [len(w.split(" ")) for w in sentence]):
            if sum(parts) == len(ids):
                return [unit for unit, number in enumerate(parts) for _ in range(number)]
        raise ValueError(
            f"the tokenizer gives {len(ids)} ids for the {len(sentence)} words {list(sentence)}, and does not tell "
            "which belongs to which: give a fast tokenizer of transformers, or one id for each word."
        )
    ends: list[int] = []
    for word in sentence:
        ends.append((ends[-1] + 1 if ends else 0) + len(word))
    # A token may begin with the space before its word, so its last character tells whose it is.
    return [next(word for word, at in enumerate(ends) if end <= at) if end > begin else -1 for begin, end in place]


def _placed(
    tokenizer: Any, texts: list[str], special: bool
) -> list[tuple[list[int], Sequence[tuple[int, int]] | None]]:
    """Ids of each text, and where in it each token begins and ends, where the tokenizer tells."""
    if not texts:
        return []
    if getattr(tokenizer, "is_fast", False):
        output = tokenizer(texts, add_special_tokens=special, return_offsets_mapping=True)
        return list(zip(map(list, output["input_ids"]), output["offset_mapping"], strict=True))
    if hasattr(tokenizer, "encode_batch") and hasattr(tokenizer, "token_to_id"):
        encodings = tokenizer.encode_batch(texts, add_special_tokens=special)
        # A tokenizer.json may ask for padding.
        masks = [one.attention_mask for one in encodings]
        return [
            (real_ids(one.ids, mask), real_ids(one.offsets, mask)) for one, mask in zip(encodings, masks, strict=True)
        ]
    if special:
        raise ValueError(
            "`special_tokens='own'` needs a fast tokenizer of transformers, which tells special tokens from words; "
            f"this is a {type(tokenizer).__name__}."
        )
    return [(ids, None) for ids in raw_ids(tokenizer, texts)]
