"""The sentences of minimal pairs as ids that a language model scores, good and bad in turn."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_interp.language.encoding import Tokenizer
from lightning_interp.language.masked import MaskedToken, masked_rows
from lightning_interp.tasks.loading import encode_task
from lightning_interp.tasks.pairs import Task

__all__ = ["encode_tasks", "mask_tasks"]


def encode_tasks(
    tokenizer: Tokenizer, tasks: Sequence[Task], add_bos: bool | None = None, bos_token_id: int | None = None
) -> list[Tensor]:
    """Good and bad sentence of every pair of every task, as ids for a causal language model.

    Args:
        tokenizer: See :func:`encode_sentences`.
        tasks: The tasks.
        add_bos: Whether the start token is put in front; ``None`` does so where there is one.
        bos_token_id: The start token; the tokenizer's own by default.

    Raises:
        ValueError: If both sentences of a pair have the same ids.

    Example:
        >>> letters = lambda sentence: [ord(letter) - 96 for letter in sentence]
        >>> encode_tasks(letters, [Task("t", "p", (("ab", "ac"),))])
        [tensor([1, 2]), tensor([1, 3])]

    """
    return [ids for task in tasks for pair in encode_task(tokenizer, task, add_bos, bos_token_id) for ids in pair]


def mask_tasks(tokenizer: Tokenizer, tasks: Sequence[Task], within_word: bool = False) -> list[MaskedToken]:
    """Good and bad sentence of every pair of every task for a masked language model, once for each of their tokens.

    Args:
        tokenizer: A transformers tokenizer with a mask token; a fast one for ``within_word``.
        tasks: The tasks.
        within_word: Whether the rest of a word is masked with each of its tokens.

    Raises:
        ValueError: If the tokenizer has no mask token, or both sentences of a pair have the same ids.

    """
    sentences = [sentence for task in tasks for pair in task.pairs for sentence in pair]
    rows = masked_rows(tokenizer, sentences, within_word)
    ids: list[list[tuple[int, int]]] = [[] for _ in sentences]
    for row in rows:
        ids[row.sentence].append((row.position, row.target))
    for good in range(0, len(sentences), 2):
        if ids[good] == ids[good + 1]:
            raise ValueError(
                f"the tokenizer gives the same ids to both sentences of a pair, {sentences[good]!r} and "
                f"{sentences[good + 1]!r}: it does not know the words that differ."
            )
    return rows
