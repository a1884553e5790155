"""Sentences of the built-in grammar, none of them ungrammatical: what a language model is trained on."""

from __future__ import annotations

import random

from lightning_interp.tasks.grammar.clauses import Clauses
from lightning_interp.tasks.grammar.phrases import Phrases

__all__ = ["generate_corpus"]


def generate_corpus(sentences: int = 20_000, seed: int = 0) -> list[str]:
    """Draw grammatical sentences of English-like words, in lower case, each ended by a full stop.

    Subjects have prepositional phrases, relative clauses, are coordinated or emphasised (``the king himself``); verbs
    are in the present, the perfect or the passive; objects may be reflexive; ``ever`` and ``any`` stand under ``no``
    and ``never``; there are subordinate clauses with ``that`` and ``whether``, and questions with ``who`` and ``what``
    over one clause or two. Singular and plural verbs are equally frequent, so are masculine and feminine nouns, and
    the number of a noun in a modifier does not depend on its head's: the word next to a verb says nothing about the
    number of a subject further away. One in four combinations of subject and verb never occurs; see
    :func:`grammar_tasks`.

    Args:
        sentences: How many; they may repeat, as in any sample.
        seed: Same seed, same sentences; a longer corpus begins with the shorter one.

    Raises:
        ValueError: If ``sentences`` is below 1.

    Example:
        >>> for sentence in generate_corpus(3):
        ...     print(sentence)
        those sisters and every young prince remember what those old nuns paint .
        no sisters ever sing .
        the aunts behind these tables have sung .

    """
    if sentences < 1:
        raise ValueError(f"`sentences` is {sentences}; it must be at least 1.")
    clauses = Clauses(Phrases(random.Random(seed), held_out=False))
    return [" ".join((*clauses.sentence(), ".")) for _ in range(sentences)]
