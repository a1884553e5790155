"""Minimal pairs of the built-in grammar, one task a paradigm."""

from __future__ import annotations

import random
from collections.abc import Collection

from lightning_interp.tasks.grammar.paradigms import PARADIGMS
from lightning_interp.tasks.grammar.phrases import Phrases
from lightning_interp.tasks.pairs import MinimalPair, Task

__all__ = ["grammar_tasks"]


def grammar_tasks(
    pairs: int = 200, seed: int = 0, paradigms: Collection[str] | None = None, held_out: bool | None = True
) -> list[Task]:
    r"""Draw minimal pairs of the grammar that :func:`generate_corpus` draws its sentences from.

    30 paradigms in 9 phenomena, in the manner of BLiMP (Warstadt et al. 2020): good and bad have as many words and
    differ in one of them; in ``whether_island`` in two, in ``npi_scope`` and ``coordination_island`` in the order.

    ============================== ===========================================================
    paradigm                       pair
    ============================== ===========================================================
    **subject_verb_agreement**
    ``agreement_simple``           the king sleeps / sleep
    ``agreement_auxiliary``        the king has / have slept
    ``agreement_prepositional``    the king near the lamps sleeps / sleep
    ``agreement_subject_relative`` the king who helps the boys sleeps / sleep
    ``agreement_object_relative``  the king who the boys help sleeps / sleep
    ``agreement_coordination``     the king and the queen sleep / sleeps
    **anaphor_agreement**
    ``anaphor_number``             the boys admire themselves / himself
    ``anaphor_gender``             the girl admires herself / himself
    ``emphatic_gender``            the girl herself / himself sleeps
    ``possessive_number``          the boys clean their / his own lamp
    ``possessive_gender``          the girl cleans her / his own lamp
    **binding**
    ``binding_c_command``          the girl who helps the king admires herself / himself
    ``binding_domain``             the king says that the girl admires herself / himself
    **determiner_noun_agreement**
    ``determiner_noun_1``          the king helps these boys / boy
    ``determiner_noun_2``          the king helps these / this boys
    ``determiner_noun_adjective``  the king helps these tall boys / boy
    **npi_licensing**
    ``npi_ever``                   no / the king ever sleeps
    ``npi_any``                    the king never / often helps any boys
    ``npi_scope``                  no king near the lamp / the king near no lamp ever sleeps
    **filler_gap_dependency**
    ``gap_needs_filler``           the king knows what / that the boy repairs
    ``gap_needs_filler_long``      the king knows what / that the girl thinks that the boy repairs
    ``filler_needs_gap``           the king knows that / what the boy repairs the lamp
    **island_effects**
    ``whether_island``             the king knows what the girl thinks that / wonders whether the boy repairs
    ``coordination_island``        the king knows who the boys and the girl help / the boys help and the girl
    **argument_structure**
    ``intransitive``               the king sleeps / helps
    ``transitive``                 the king helps / sleeps the queen
    ``passive``                    the queen is helped / slept by the king
    **s_selection**
    ``selected_subject``           the king / lamp sleeps, the lamp / king creaks
    ``selected_agent``             the cup is repaired by the king / lamp
    ``selected_object``            the king helps the queen / lamp, the king repairs the lamp / queen
    ============================== ===========================================================

    Args:
        pairs: Pairs in each task, no two the same.
        seed: Same seed, same pairs; a task's pairs do not depend on which others are asked for.
        paradigms: The names of those wanted; ``None`` for all.
        held_out: ``True`` for sentences whose every subject and verb are a combination that the corpus never has, so
            that no good sentence is in any corpus and accuracy is generalisation; ``False`` for combinations that it
            has; ``None`` for both.

    Returns:
        The tasks, in the order of the table.

    Raises:
        ValueError: If ``pairs`` is below 1 or more than a paradigm has, or a paradigm is unknown.

    Example:
        >>> for task in grammar_tasks(pairs=1, paradigms=["agreement_object_relative", "npi_scope"]):
        ...     print(*task.pairs[0], sep="\n")
        the monks who this famous sister admires invite every king .
        the monks who this famous sister admires invites every king .
        no sister behind the queens ever helps this nun .
        the sister behind no queens ever helps this nun .

    """
    if pairs < 1:
        raise ValueError(f"`pairs` is {pairs}; it must be at least 1.")
    if isinstance(paradigms, str):
        raise ValueError(f"`paradigms` is {paradigms!r}; it must be a list of names, as in [{paradigms!r}].")
    unknown = [name for name in paradigms or () if name not in PARADIGMS]
    if unknown:
        raise ValueError(f"`paradigms` has {unknown[0]!r}; available: {list(PARADIGMS)}.")
    names = [name for name in PARADIGMS if paradigms is None or name in paradigms]
    return [_task(name, pairs, seed, held_out) for name in names]


def _task(name: str, pairs: int, seed: int, held_out: bool | None) -> Task:
    phenomenon, draw = PARADIGMS[name]
    phrases = Phrases(random.Random(f"{seed} {name}"), held_out)
    found: dict[MinimalPair, None] = {}
    for _ in range(1000 + 50 * pairs):
        found.setdefault(MinimalPair(*(" ".join((*words, ".")) for words in draw(phrases))))
        if len(found) == pairs:
            return Task(name, phenomenon, tuple(found))
    raise ValueError(f"`pairs` is {pairs}; the grammar has too few of {name!r}: {len(found)} were found.")
