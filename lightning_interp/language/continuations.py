"""What follows a text, as ids: where it begins, whatever the tokenizer joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lightning_interp.language.encoding import Tokenizer, encode_sentences, raw_ids, start_id, started

__all__ = ["Continuations", "encode_continuations", "shared_start"]


class Continuations(NamedTuple):
    """Texts that begin alike."""

    ids: list[Tensor]
    """Each with what it follows, int64 (T,)."""
    first: int
    """Where they begin: the first position whose probability is theirs."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each."""
        return [len(one) - self.first for one in self.ids]


def encode_continuations(
    tokenizer: Tokenizer,
    before: str,
    texts: Sequence[str],
    add_bos: bool | None = None,
    bos_token_id: int | None = None,
) -> Continuations:
    """Texts that begin with the same words, as ids for a causal language model.

    Some tokenizers put the space before a word to the word, and join what stands at the seam. So the texts begin at the
    first token in which one of them differs from what stands before it, without its last spaces, alike for all.

    Args:
        tokenizer: See :func:`~lightning_interp.tasks.encode_sentences`.
        before: How they begin.
        texts: The whole texts.
        add_bos: Whether the start token is put in front; ``None`` does so where there is one.
        bos_token_id: The start token; the tokenizer's own by default.

    Raises:
        ValueError: If the tokenizer gives two texts the same ids, one is no longer than what stands before it, or they
            begin with their first token, which has no probability without a start token.

    Example:
        >>> letters = lambda text: [ord(letter) - 96 for letter in text]
        >>> encode_continuations(letters, "ab", ["abc", "abde"])
        Continuations(ids=[tensor([1, 2, 3]), tensor([1, 2, 4, 5])], first=2)

    """
    encoded = encode_sentences(tokenizer, texts, add_bos, bos_token_id)
    begins = before.rstrip(" ")
    (own,) = raw_ids(tokenizer, [begins])
    stem = started(own, start_id(tokenizer, add_bos, bos_token_id))
    rows = [one.tolist() for one in encoded]
    for place, row in enumerate(rows):
        if row in rows[:place]:
            other = texts[rows.index(row)]
            raise ValueError(
                f"the tokenizer gives the same ids to {other!r} and {texts[place]!r}: it does not know the words that "
                "differ."
            )
    first = min(shared_start(row, stem) for row in rows)
    if first < 1:
        raise ValueError(
            f"{texts[0]!r} begins with the token that is to be predicted, which has no probability without a start "
            "token before it: give `bos_token_id`, or let a text stand in front."
        )
    if min(map(len, rows)) <= first:
        short = texts[min(range(len(rows)), key=lambda place: len(rows[place]))]
        raise ValueError(f"the tokenizer gives {short!r} no token that {before!r} has not.")
    return Continuations(encoded, first)


def shared_start(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with.

    Example:
        >>> shared_start([1, 2, 3], [1, 2])
        2

    """
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, pair in pairs if pair[0] != pair[1]), min(len(one), len(other)))
