"""Phrases of the built-in grammar, drawn at random: noun phrases with their number, verbs that agree with them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from lightning_interp.tasks.grammar.lexicon import (
    ADJECTIVES,
    PERSONS,
    PLURAL_DETERMINERS,
    PREPOSITIONS,
    SINGULAR_DETERMINERS,
    SOCIAL_VERBS,
    THING_INTRANSITIVE_VERBS,
    THING_VERBS,
    THINGS,
    Noun,
    Verb,
    is_held_out,
)

__all__ = ["NounPhrase", "Phrases", "agreeing", "auxiliary", "possessive", "reflexive"]

_T = TypeVar("_T")
_REFLEXIVES = {"masculine": "himself", "feminine": "herself"}
_POSSESSIVES = {"masculine": "his", "feminine": "her"}


class NounPhrase(NamedTuple):
    """Words, and what the rest of a sentence has to agree with.

    Args:
        words: The phrase as it is said.
        plural: Whether it is plural; a coordination is.
        kind: ``"masculine"``, ``"feminine"`` or ``"thing"``.
        negative: Whether its own determiner is ``no``, so that it licenses ``ever`` and ``any``.
        head: The noun; of a coordination the first one.

    """

    words: tuple[str, ...]
    plural: bool
    kind: str
    negative: bool
    head: Noun


def agreeing(verb: Verb, plural: bool) -> str:
    """The present form of a verb for a singular or plural subject."""
    return verb.plural if plural else verb.singular


def auxiliary(stem: str, plural: bool) -> str:
    """``have`` or ``be`` for a singular or plural subject."""
    return {"have": ("has", "have"), "be": ("is", "are")}[stem][plural]


def reflexive(plural: bool, kind: str) -> str:
    """The reflexive pronoun of a person."""
    return "themselves" if plural else _REFLEXIVES[kind]


def possessive(plural: bool, kind: str) -> tuple[str, str]:
    """The possessive of a person with ``own``, which like a reflexive can be of the clause's subject only."""
    return ("their" if plural else _POSSESSIVES[kind], "own")


class Phrases:
    """Draws phrases, all of whose subjects and verbs are held-out combinations, or none.

    Args:
        source: Where chance comes from.
        held_out: ``True`` for held-out combinations of subject and verb only, ``False`` for the others only, ``None``
            for any.

    Example:
        >>> import random
        >>> from lightning_interp.tasks.grammar.lexicon import SOCIAL_VERBS
        >>> phrases = Phrases(random.Random(0), held_out=False)
        >>> subject = phrases.subject(SOCIAL_VERBS[0], plural=True)
        >>> " ".join((*subject.words, agreeing(SOCIAL_VERBS[0], subject.plural)))
        'those red girls thank'

    """

    def __init__(self, source: random.Random, held_out: bool | None) -> None:
        self.source = source
        self.held_out = held_out

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.source.random() < probability

    def pick(self, items: Sequence[_T]) -> _T:
        """One of the items, all equally likely."""
        return items[self.source.randrange(len(items))]

    def allowed(self, noun: Noun, verb: Verb) -> bool:
        """Whether the noun may be the verb's subject here."""
        return self.held_out is None or is_held_out(noun, verb) == self.held_out

    def subject_noun(self, verb: Verb, kinds: Sequence[Noun] = PERSONS) -> Noun:
        """A noun that may be the verb's subject."""
        return self.pick([noun for noun in kinds if self.allowed(noun, verb)])

    def subject_verb(self, noun: Noun, verbs: Sequence[Verb]) -> Verb:
        """A verb that the noun may be the subject of."""
        return self.pick([verb for verb in verbs if self.allowed(noun, verb)])

    def adjective(self, probability: float = 0.25) -> tuple[str, ...]:
        """One adjective or none."""
        return (self.pick(ADJECTIVES),) if self.chance(probability) else ()

    def determiner(self, plural: bool) -> str:
        """``the`` half the time, else one that only singular nouns have, or only plural ones."""
        return "the" if self.chance(0.5) else self.pick(PLURAL_DETERMINERS if plural else SINGULAR_DETERMINERS)

    def noun_phrase(self, noun: Noun, plural: bool | None = None, determiner: str | None = None) -> NounPhrase:
        """A noun with determiner and perhaps an adjective."""
        plural = self.chance(0.5) if plural is None else plural
        determiner = self.determiner(plural) if determiner is None else determiner
        words = (determiner, *self.adjective(), noun.plural if plural else noun.singular)
        return NounPhrase(words, plural, noun.kind, determiner == "no", noun)

    def simple(self, kinds: Sequence[Noun], plural: bool | None = None, determiner: str | None = None) -> NounPhrase:
        """A noun phrase that is no subject, with any noun of these."""
        return self.noun_phrase(self.pick(kinds), plural, determiner)

    def subject(
        self,
        verb: Verb,
        kinds: Sequence[Noun] = PERSONS,
        plural: bool | None = None,
        determiner: str | None = None,
    ) -> NounPhrase:
        """A noun phrase without modifiers that may be the verb's subject."""
        return self.noun_phrase(self.subject_noun(verb, kinds), plural, determiner)

    def prepositional(self, plural: bool | None = None, determiner: str | None = None) -> tuple[str, ...]:
        """A prepositional phrase."""
        return (self.pick(PREPOSITIONS), *self.simple(PERSONS + THINGS, plural, determiner).words)

    def subject_relative(
        self,
        head: NounPhrase,
        plural: bool | None = None,
        kinds: Sequence[Noun] = PERSONS,
        determiner: str | None = None,
    ) -> tuple[str, ...]:
        """``who helps the boys``: the head is the subject; ``plural``, ``kinds``, ``determiner`` are the object's."""
        if head.kind == "thing":
            return ("which", agreeing(self.subject_verb(head.head, THING_INTRANSITIVE_VERBS), head.plural))
        verb = self.subject_verb(head.head, SOCIAL_VERBS)
        return ("who", agreeing(verb, head.plural), *self.simple(kinds, plural, determiner).words)

    def object_relative(
        self, head: NounPhrase, plural: bool | None = None, determiner: str | None = None
    ) -> tuple[str, ...]:
        """``who the boys help``: the head is the object; ``plural`` and ``determiner`` are the subject's."""
        verb = self.pick(THING_VERBS if head.kind == "thing" else SOCIAL_VERBS)
        subject = self.subject(verb, plural=plural, determiner=determiner)
        pronoun = "which" if head.kind == "thing" else "who"
        return (pronoun, *subject.words, agreeing(verb, subject.plural))

    def coordination(self, verb: Verb, plurals: tuple[bool | None, bool | None] = (None, None)) -> NounPhrase:
        """``the king and the queen``: two persons that may be the verb's subjects."""
        first, second = (self.subject(verb, plural=plural) for plural in plurals)
        return NounPhrase((*first.words, "and", *second.words), True, first.kind, False, first.head)
