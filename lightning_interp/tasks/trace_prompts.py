"""Facts as prompts that end before the blank, with the tokens of their subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lightning_interp.language.continuations import encode_continuations
from lightning_interp.language.encoding import Tokenizer
from lightning_interp.language.spans import token_span
from lightning_interp.tasks.facts import BLANK, Fact

__all__ = ["TracePrompt", "encode_trace_prompts"]


class TracePrompt(NamedTuple):
    """What stands before the blank of a fact, and what should come next."""

    ids: Tensor
    """Token ids, (T,)."""
    start: int
    """The first token of the subject."""
    end: int
    """The one behind its last token."""
    answer: int
    """The first token of the answer."""


def encode_trace_prompts(
    tokenizer: Tokenizer, facts: Sequence[Fact], add_bos: bool | None = None, bos_token_id: int | None = None
) -> list[TracePrompt]:
    """What stands before the blank of facts, as ids for a causal language model, and where their subjects are.

    Args:
        tokenizer: See :func:`~lightning_interp.tasks.encode_sentences`.
        facts: Facts that say their subject.
        add_bos: Whether the start token is put in front; ``None`` does so where there is one.
        bos_token_id: The start token; the tokenizer's own by default.

    Raises:
        ValueError: If a fact does not say its subject, or has it behind the blank, or subject or answer have no token
            of their own.

    Example:
        >>> letters = lambda text: [ord(letter) - 96 for letter in text]
        >>> encode_trace_prompts(letters, [Fact("r", "abc___", "d", subject="ab")], bos_token_id=0)
        [TracePrompt(ids=tensor([0, 1, 2, 3]), start=1, end=3, answer=4)]

    """
    found = []
    for fact in facts:
        before = fact.prompt.partition(BLANK)[0]
        if not fact.subject:
            raise ValueError(f"the fact {fact.prompt!r} does not say its subject: give Fact(…, subject=…).")
        if fact.subject not in before:
            raise ValueError(
                f"the subject {fact.subject!r} of {fact.prompt!r} stands behind the blank, where a causal model does "
                "not see it: word the fact otherwise."
            )
        text = before + fact.answer
        (ids,), first = encode_continuations(tokenizer, before, [text], add_bos, bos_token_id)
        at = before.index(fact.subject)
        start, end = token_span(tokenizer, text, (at, at + len(fact.subject)), add_bos, bos_token_id)
        found.append(TracePrompt(ids[:first], start, min(end, first), int(ids[first])))
    return found
