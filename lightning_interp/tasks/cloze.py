"""Facts with a blank as sentences that a language model scores, one for each candidate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interp.language.encoding import Tokenizer, encode_sentences
from lightning_interp.language.masked import MaskedToken
from lightning_interp.tasks.facts import Fact

__all__ = ["encode_cloze", "mask_cloze"]


def encode_cloze(
    tokenizer: Tokenizer, facts: Sequence[Fact], add_bos: bool | None = None, bos_token_id: int | None = None
) -> list[Tensor]:
    """Every fact with every candidate, as ids for a causal language model, fact by fact.

    The log-probability of such a sentence ranks the candidates: what stands before the blank is the same for all and
    cancels, what remains is log p of the candidate's tokens and of what follows it.

    Args:
        tokenizer: See :func:`encode_sentences`.
        facts: With their candidates.
        add_bos: Whether the start token is put in front; ``None`` does so where there is one.
        bos_token_id: The start token; the tokenizer's own by default.

    Raises:
        ValueError: If two candidates of a fact have the same ids, or they differ in the first token and no start token
            stands before it, so that it has no probability.

    Example:
        >>> letters = lambda sentence: [ord(letter) - 96 for letter in sentence]
        >>> encode_cloze(letters, [Fact("r", "ab___", "c", ("d",))], bos_token_id=0)
        [tensor([0, 1, 2, 3]), tensor([0, 1, 2, 4])]

    """
    encoded = encode_sentences(tokenizer, _filled(facts), add_bos, bos_token_id)
    place = 0
    for fact in facts:
        own = encoded[place : place + len(fact.candidates)]
        place += len(own)
        _refuse_alike(fact, [tuple(ids.tolist()) for ids in own])
        if len({int(ids[0]) for ids in own}) > 1:
            raise ValueError(
                f"the candidates of {fact.prompt!r} differ in the first token, which has no probability without a "
                "start token before it: give `bos_token_id`."
            )
    return encoded


def mask_cloze(tokenizer: Tokenizer, facts: Sequence[Fact]) -> list[MaskedToken]:
    r"""Every fact with every candidate for a masked language model, fact by fact, once for each of its tokens.

    .. math:: s(a) = \sum_{t} \log p(a_t \mid a_{<t}, \text{the rest of the sentence})

    where a token of the candidate a is predicted while it and the candidate's later tokens are masked (the order of
    Kauf & Ivanova 2023 within a word, here within the answer); of one token it is the log-probability at the mask. The
    number of masks tells a candidate's length, so candidates of one length compare best.

    Args:
        tokenizer: A fast transformers tokenizer with a mask token: it knows which characters a token stands for.
        facts: With their candidates.

    Raises:
        ValueError: If the tokenizer is no such one, a candidate has no token of its own, or two candidates of a fact
            have the same ids.

    """
    mask_id = getattr(tokenizer, "mask_token_id", None)
    if mask_id is None:
        raise ValueError(f"{type(tokenizer).__name__} has no `mask_token_id`, which a masked language model needs.")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"a blank needs a fast tokenizer, which knows where its tokens are; got {type(tokenizer).__name__}."
        )
    encoding = tokenizer(_filled(facts), return_offsets_mapping=True, return_special_tokens_mask=True)
    rows: list[MaskedToken] = []
    number = 0
    for fact in facts:
        alike = []
        for filling in fact.candidates:
            start, end = fact.span(filling)
            ids = encoding["input_ids"][number]
            where = zip(encoding["offset_mapping"][number], encoding["special_tokens_mask"][number], strict=True)
            own = [place for place, ((a, b), special) in enumerate(where) if not special and a < end and b > start]
            if not own:
                raise ValueError(f"the candidate {filling!r} of {fact.prompt!r} has no token.")
            for place in own:
                masked = torch.tensor(ids, dtype=torch.long)
                masked[place : own[-1] + 1] = mask_id
                rows.append(MaskedToken(number, masked, place, int(ids[place])))
            alike.append(tuple(ids))
            number += 1
        _refuse_alike(fact, alike)
    return rows


def _filled(facts: Sequence[Fact]) -> list[str]:
    return [fact.filled(filling) for fact in facts for filling in fact.candidates]


def _refuse_alike(fact: Fact, ids: Sequence[tuple[int, ...]]) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for filling, own in zip(fact.candidates, ids, strict=True):
        if own in seen:
            raise ValueError(
                f"the tokenizer gives the same ids to the candidates {seen[own]!r} and {filling!r} of {fact.prompt!r}: "
                "it does not know the words that differ."
            )
        seen[own] = filling
