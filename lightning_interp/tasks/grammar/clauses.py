"""Clauses of the built-in grammar, drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from lightning_interp.tasks.grammar.lexicon import (
    ADVERBS,
    CLAUSAL_VERBS,
    INTERROGATIVE_VERBS,
    INTRANSITIVE_VERBS,
    PERSONS,
    QUESTION_VERBS,
    SOCIAL_VERBS,
    THING_INTRANSITIVE_VERBS,
    THING_VERBS,
    THINGS,
    Noun,
    Verb,
)
from lightning_interp.tasks.grammar.phrases import NounPhrase, Phrases, agreeing, auxiliary, possessive, reflexive

__all__ = ["Clauses"]

_MAIN: Mapping[str, float] = MappingProxyType(
    {
        "intransitive": 0.14,
        "social": 0.26,
        "thing": 0.12,
        "thing_intransitive": 0.05,
        "passive": 0.14,
        "that": 0.09,
        "question": 0.14,
        "whether": 0.06,
    }
)
"""How often each kind of main clause is drawn."""
_SUBORDINATE: Mapping[str, float] = MappingProxyType({kind: _MAIN[kind] for kind in _MAIN if kind != "question"})


class Clauses:
    """Draws clauses with everything that the grammar has.

    Args:
        phrases: What draws their phrases.

    Example:
        >>> import random
        >>> " ".join(Clauses(Phrases(random.Random(8), held_out=False)).sentence())
        'no uncles have ever forgiven any tall aunts'

    """

    def __init__(self, phrases: Phrases) -> None:
        self.phrases = phrases

    def sentence(self) -> tuple[str, ...]:
        """One clause, or now and then two with ``and``."""
        words = self._clause(_MAIN)
        return (*words, "and", *self._clause(_SUBORDINATE)) if self.phrases.chance(0.04) else words

    def _clause(self, kinds: Mapping[str, float]) -> tuple[str, ...]:
        phrases = self.phrases
        # Subordinate clauses are kept short.
        modified = 0.4 if kinds is _MAIN else 0.2
        (kind,) = phrases.source.choices(list(kinds), list(kinds.values()))
        match kind:
            case "intransitive":
                return self._active(phrases.pick(INTRANSITIVE_VERBS), PERSONS, modified)
            case "thing_intransitive":
                return self._active(phrases.pick(THING_INTRANSITIVE_VERBS), THINGS, modified)
            case "social":
                return self._active(phrases.pick(SOCIAL_VERBS), PERSONS, modified, PERSONS)
            case "thing":
                return self._active(phrases.pick(THING_VERBS), PERSONS, modified, THINGS)
            case "passive":
                return self._passive(modified)
            case "that":
                verb = phrases.pick(CLAUSAL_VERBS + QUESTION_VERBS)
                return (*self._present(verb, modified), "that", *self._clause(_SUBORDINATE))
            case "whether":
                verb = phrases.pick(INTERROGATIVE_VERBS)
                return (*self._present(verb, modified), "whether", *self._clause(_SUBORDINATE))
            case _:
                return (*self._present(phrases.pick(QUESTION_VERBS), modified), *self._question())

    def _active(
        self, verb: Verb, kinds: Sequence[Noun], modified: float, objects: Sequence[Noun] = ()
    ) -> tuple[str, ...]:
        subject = self._subject(verb, kinds, modified)
        adverb = self._adverb(subject)
        if self.phrases.chance(0.25):
            words = (*subject.words, auxiliary("have", subject.plural), *adverb, verb.participle)
        else:
            words = (*subject.words, *adverb, agreeing(verb, subject.plural))
        return (*words, *self._object(subject, objects, subject.negative or adverb == ("never",))) if objects else words

    def _adverb(self, subject: NounPhrase) -> tuple[str, ...]:
        """Perhaps an adverb; ``ever`` is licensed by the subject's own determiner only."""
        if subject.negative:
            return ("ever",) if self.phrases.chance(0.5) else ()
        return (self.phrases.pick((*ADVERBS, "never")),) if self.phrases.chance(0.35) else ()

    def _object(self, subject: NounPhrase, kinds: Sequence[Noun], licensed: bool) -> tuple[str, ...]:
        phrases = self.phrases
        if kinds is PERSONS and phrases.chance(0.4):
            return (reflexive(subject.plural, subject.kind),)
        if phrases.chance(0.35):
            noun = phrases.pick(kinds)
            return (*possessive(subject.plural, subject.kind), phrases.pick((noun.singular, noun.plural)))
        words = phrases.simple(kinds, determiner="any" if licensed and phrases.chance(0.6) else None).words
        return (*words, "and", *phrases.simple(kinds).words) if phrases.chance(0.1) else words

    def _passive(self, modified: float) -> tuple[str, ...]:
        phrases = self.phrases
        kinds, verbs = (PERSONS, SOCIAL_VERBS) if phrases.chance(0.5) else (THINGS, THING_VERBS)
        verb = phrases.pick(verbs)
        patient = self._modified(phrases.simple(kinds), modified)
        words = (*patient.words, auxiliary("be", patient.plural), verb.participle)
        return (*words, "by", *phrases.subject(verb).words) if phrases.chance(0.7) else words

    def _present(self, verb: Verb, modified: float) -> tuple[str, ...]:
        subject = self._subject(verb, PERSONS, modified)
        return (*subject.words, agreeing(verb, subject.plural))

    def _question(self) -> tuple[str, ...]:
        """``what the boy repairs`` or ``what the girl thinks that the boy repairs``: the object is missing."""
        phrases = self.phrases
        pronoun, verbs = ("who", SOCIAL_VERBS) if phrases.chance(0.5) else ("what", THING_VERBS)
        between: tuple[str, ...] = ()
        if phrases.chance(0.35):
            between = (*self._present(phrases.pick(CLAUSAL_VERBS + QUESTION_VERBS), 0.2), "that")
        return (pronoun, *between, *self._present(phrases.pick(verbs), 0.3))

    def _subject(self, verb: Verb, kinds: Sequence[Noun], modified: float) -> NounPhrase:
        phrases = self.phrases
        coordinated = 0.2 * modified if kinds is PERSONS else 0.0
        if phrases.chance(coordinated):
            return phrases.coordination(verb)
        # Singular the oftener, so that with coordinations both forms of a verb are equally frequent.
        plural = not phrases.chance(0.5 / (1 - coordinated))
        head = phrases.subject(verb, kinds, plural, "no" if phrases.chance(0.25) else None)
        subject = self._modified(head, modified)
        if kinds is PERSONS and subject == head and not head.negative and phrases.chance(0.35):
            return head._replace(words=(*head.words, reflexive(head.plural, head.kind)))
        return subject

    def _modified(self, head: NounPhrase, rate: float) -> NounPhrase:
        """The head with a modifier at the given rate."""
        if not self.phrases.chance(rate):
            return head
        # A negative determiner inside the modifier licenses nothing outside it.
        inner = "no" if self.phrases.chance(0.2) else None
        match self.phrases.source.randrange(3):
            case 0:
                words = self.phrases.prepositional(determiner=inner)
            case 1:
                words = self.phrases.object_relative(head, determiner=inner)
            case _:
                words = self.phrases.subject_relative(head, determiner=inner)
        return head._replace(words=(*head.words, *words))
