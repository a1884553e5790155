"""The paradigms of the built-in grammar: for each one, how a minimal pair of it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from lightning_interp.tasks.grammar.lexicon import (
    ADVERBS,
    CLAUSAL_VERBS,
    FEMININE,
    INTERROGATIVE_VERBS,
    INTRANSITIVE_VERBS,
    MASCULINE,
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

__all__ = ["PARADIGMS", "PHENOMENA", "Paradigm"]

Words = tuple[str, ...]
Paradigm = Callable[[Phrases], tuple[Words, Words]]
"""Draws the words of a good sentence and of a bad one, without the full stop."""

_ACTION_VERBS = INTRANSITIVE_VERBS + SOCIAL_VERBS + THING_VERBS


def _objects(verb: Verb) -> tuple[Noun, ...]:
    """What an active verb is about: persons, things, or nothing."""
    return PERSONS if verb in SOCIAL_VERBS else THINGS if verb in THING_VERBS else ()


def _complement(phrases: Phrases, verb: Verb) -> Words:
    return phrases.simple(kinds).words if (kinds := _objects(verb)) else ()


def _present(phrases: Phrases, verb: Verb, plural: bool | None = None) -> Words:
    """A subject and the verb that agrees with it."""
    subject = phrases.subject(verb, plural=plural)
    return (*subject.words, agreeing(verb, subject.plural))


def _swapped_verb(phrases: Phrases, subject: Words, verb: Verb, plural: bool) -> tuple[Words, Words]:
    rest = _complement(phrases, verb)
    return (*subject, agreeing(verb, plural), *rest), (*subject, agreeing(verb, not plural), *rest)


# Subject–verb agreement


def agreement_simple(phrases: Phrases) -> tuple[Words, Words]:
    """The king sleeps / *sleep."""
    verb = phrases.pick(_ACTION_VERBS)
    subject = phrases.subject(verb)
    return _swapped_verb(phrases, subject.words, verb, subject.plural)


def agreement_auxiliary(phrases: Phrases) -> tuple[Words, Words]:
    """The king has / *have slept."""
    verb = phrases.pick(_ACTION_VERBS)
    subject = phrases.subject(verb)
    rest = (verb.participle, *_complement(phrases, verb))
    good, bad = (auxiliary("have", plural) for plural in (subject.plural, not subject.plural))
    return (*subject.words, good, *rest), (*subject.words, bad, *rest)


def agreement_prepositional(phrases: Phrases) -> tuple[Words, Words]:
    """The king near the lamps sleeps / *sleep: the noun next to the verb has the other number."""
    verb = phrases.pick(_ACTION_VERBS)
    subject = phrases.subject(verb)
    words = (*subject.words, *phrases.prepositional(plural=not subject.plural))
    return _swapped_verb(phrases, words, verb, subject.plural)


def agreement_subject_relative(phrases: Phrases) -> tuple[Words, Words]:
    """The king who helps the boys sleeps / *sleep: the object in the relative clause has the other number."""
    verb = phrases.pick(_ACTION_VERBS)
    subject = phrases.subject(verb)
    words = (*subject.words, *phrases.subject_relative(subject, plural=not subject.plural))
    return _swapped_verb(phrases, words, verb, subject.plural)


def agreement_object_relative(phrases: Phrases) -> tuple[Words, Words]:
    """The king who the boys help sleeps / *sleep: the relative clause's subject and verb have the other number."""
    verb = phrases.pick(_ACTION_VERBS)
    subject = phrases.subject(verb)
    words = (*subject.words, *phrases.object_relative(subject, plural=not subject.plural))
    return _swapped_verb(phrases, words, verb, subject.plural)


def agreement_coordination(phrases: Phrases) -> tuple[Words, Words]:
    """The king and the queen sleep / *sleeps: both nouns are singular."""
    verb = phrases.pick(_ACTION_VERBS)
    return _swapped_verb(phrases, phrases.coordination(verb, (False, False)).words, verb, plural=True)


# Anaphor agreement and binding


def anaphor_number(phrases: Phrases) -> tuple[Words, Words]:
    """The boys admire themselves / *himself."""
    verb = phrases.pick(SOCIAL_VERBS)
    subject = phrases.subject(verb)
    words = (*subject.words, agreeing(verb, subject.plural))
    return (
        (*words, reflexive(subject.plural, subject.kind)),
        (*words, reflexive(not subject.plural, subject.kind)),
    )


def _swapped_gender(words: Words, subject: NounPhrase) -> tuple[Words, Words]:
    other = "feminine" if subject.kind == "masculine" else "masculine"
    return (*words, reflexive(False, subject.kind)), (*words, reflexive(False, other))


def anaphor_gender(phrases: Phrases) -> tuple[Words, Words]:
    """The girl admires herself / *himself."""
    verb = phrases.pick(SOCIAL_VERBS)
    subject = phrases.subject(verb, plural=False)
    return _swapped_gender((*subject.words, verb.singular), subject)


def emphatic_gender(phrases: Phrases) -> tuple[Words, Words]:
    """The girl herself / *himself sleeps."""
    verb = phrases.pick(_ACTION_VERBS)
    subject = phrases.subject(verb, plural=False)
    rest = (verb.singular, *_complement(phrases, verb))
    good, bad = _swapped_gender(subject.words, subject)
    return (*good, *rest), (*bad, *rest)


def possessive_number(phrases: Phrases) -> tuple[Words, Words]:
    """The boys clean their / *his own lamp."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    subject, noun = phrases.subject(verb), phrases.pick(_objects(verb))
    start, end = (*subject.words, agreeing(verb, subject.plural)), phrases.pick((noun.singular, noun.plural))
    good, bad = (possessive(plural, subject.kind) for plural in (subject.plural, not subject.plural))
    return (*start, *good, end), (*start, *bad, end)


def possessive_gender(phrases: Phrases) -> tuple[Words, Words]:
    """The girl cleans her / *his own lamp."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    subject, noun = phrases.subject(verb, plural=False), phrases.pick(_objects(verb))
    start, end = (*subject.words, verb.singular), phrases.pick((noun.singular, noun.plural))
    good, bad = (possessive(False, kind) for kind in (subject.kind, _other_gender(subject)[0].kind))
    return (*start, *good, end), (*start, *bad, end)


def _other_gender(subject: NounPhrase) -> tuple[Noun, ...]:
    return FEMININE if subject.kind == "masculine" else MASCULINE


def binding_c_command(phrases: Phrases) -> tuple[Words, Words]:
    """The girl who helps the king admires herself / *himself."""
    verb = phrases.pick(SOCIAL_VERBS)
    subject = phrases.subject(verb, plural=False)
    relative = phrases.subject_relative(subject, plural=False, kinds=_other_gender(subject))
    return _swapped_gender((*subject.words, *relative, verb.singular), subject)


def binding_domain(phrases: Phrases) -> tuple[Words, Words]:
    """The king says that the girl admires herself / *himself."""
    verb, main = phrases.pick(SOCIAL_VERBS), phrases.pick(CLAUSAL_VERBS + QUESTION_VERBS)
    subject = phrases.subject(verb, plural=False)
    other = phrases.subject(main, _other_gender(subject), plural=False)
    return _swapped_gender((*other.words, main.singular, "that", *subject.words, verb.singular), subject)


# Determiner–noun agreement

_DEMONSTRATIVES = (("this", "that"), ("these", "those"))


def _demonstrative(phrases: Phrases, adjective: bool, swap_noun: bool) -> tuple[Words, Words]:
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    start = _present(phrases, verb)
    noun, plural, place = phrases.pick(_objects(verb)), phrases.chance(0.5), phrases.source.randrange(2)
    between = phrases.adjective(float(adjective))

    def phrase(determiner_plural: bool, noun_plural: bool) -> Words:
        determiner = _DEMONSTRATIVES[determiner_plural][place]
        return (*start, determiner, *between, noun.plural if noun_plural else noun.singular)

    return phrase(plural, plural), phrase(plural, not plural) if swap_noun else phrase(not plural, plural)


def determiner_noun_1(phrases: Phrases) -> tuple[Words, Words]:
    """The king helps these boys / *boy."""
    return _demonstrative(phrases, adjective=False, swap_noun=True)


def determiner_noun_2(phrases: Phrases) -> tuple[Words, Words]:
    """The king helps these / *this boys."""
    return _demonstrative(phrases, adjective=False, swap_noun=False)


def determiner_noun_adjective(phrases: Phrases) -> tuple[Words, Words]:
    """The king helps these tall boys / *boy."""
    return _demonstrative(phrases, adjective=True, swap_noun=True)


# Licensing of negative polarity items


def npi_ever(phrases: Phrases) -> tuple[Words, Words]:
    """No / *the king ever sleeps."""
    verb = phrases.pick(_ACTION_VERBS)
    subject = phrases.subject(verb, determiner="no")
    rest = (*subject.words[1:], "ever", agreeing(verb, subject.plural), *_complement(phrases, verb))
    return ("no", *rest), (phrases.determiner(subject.plural), *rest)


def npi_any(phrases: Phrases) -> tuple[Words, Words]:
    """The king never / *often helps any boys."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    subject = phrases.subject(verb)
    rest = (agreeing(verb, subject.plural), *phrases.simple(_objects(verb), determiner="any").words)
    return (*subject.words, "never", *rest), (*subject.words, phrases.pick(ADVERBS), *rest)


def npi_scope(phrases: Phrases) -> tuple[Words, Words]:
    """No king near the lamp ever sleeps / *the king near no lamp ever sleeps: the same words."""
    verb = phrases.pick(_ACTION_VERBS)
    subject = phrases.subject(verb, determiner="the")
    preposition, _, *modifier = phrases.prepositional(determiner="the")
    rest = (*modifier, "ever", agreeing(verb, subject.plural), *_complement(phrases, verb))
    noun = subject.words[1:]
    return ("no", *noun, preposition, "the", *rest), ("the", *noun, preposition, "no", *rest)


# Filler–gap dependencies and islands


def _pronoun(verb: Verb) -> str:
    return "who" if verb in SOCIAL_VERBS else "what"


def gap_needs_filler(phrases: Phrases) -> tuple[Words, Words]:
    """The king knows what / *that the boy repairs."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    main, clause = _present(phrases, phrases.pick(QUESTION_VERBS)), _present(phrases, verb)
    return (*main, _pronoun(verb), *clause), (*main, "that", *clause)


def gap_needs_filler_long(phrases: Phrases) -> tuple[Words, Words]:
    """The king knows what / *that the girl thinks that the boy repairs."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    main, clause = _present(phrases, phrases.pick(QUESTION_VERBS)), _present(phrases, verb)
    clause = (*_present(phrases, phrases.pick(CLAUSAL_VERBS + QUESTION_VERBS)), "that", *clause)
    return (*main, _pronoun(verb), *clause), (*main, "that", *clause)


def filler_needs_gap(phrases: Phrases) -> tuple[Words, Words]:
    """The king knows that / *what the boy repairs the lamp."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    main, clause = _present(phrases, phrases.pick(QUESTION_VERBS)), _present(phrases, verb)
    clause = (*clause, *_complement(phrases, verb))
    return (*main, "that", *clause), (*main, _pronoun(verb), *clause)


def whether_island(phrases: Phrases) -> tuple[Words, Words]:
    """The king knows what the girl thinks that / *wonders whether the boy repairs."""
    verb, good = phrases.pick(SOCIAL_VERBS + THING_VERBS), phrases.pick(CLAUSAL_VERBS + QUESTION_VERBS)
    main, between = _present(phrases, phrases.pick(QUESTION_VERBS)), phrases.subject(good)
    bad = phrases.subject_verb(between.head, INTERROGATIVE_VERBS)
    start, end = (*main, _pronoun(verb), *between.words), _present(phrases, verb)
    return (
        (*start, agreeing(good, between.plural), "that", *end),
        (*start, agreeing(bad, between.plural), "whether", *end),
    )


def coordination_island(phrases: Phrases) -> tuple[Words, Words]:
    """The king knows who the boys and the girl help / *the boys help and the girl: the same words."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    start = (*_present(phrases, phrases.pick(QUESTION_VERBS)), _pronoun(verb))
    # The first is plural, so that one form of the verb agrees with it and with both.
    first, second = phrases.subject(verb, plural=True), phrases.subject(verb)
    return (
        (*start, *first.words, "and", *second.words, verb.plural),
        (*start, *first.words, verb.plural, "and", *second.words),
    )


# Argument structure


def intransitive(phrases: Phrases) -> tuple[Words, Words]:
    """The king sleeps / *helps."""
    verb = phrases.pick(INTRANSITIVE_VERBS)
    subject = phrases.subject(verb)
    other = phrases.subject_verb(subject.head, SOCIAL_VERBS + THING_VERBS)
    return (*subject.words, agreeing(verb, subject.plural)), (*subject.words, agreeing(other, subject.plural))


def transitive(phrases: Phrases) -> tuple[Words, Words]:
    """The king helps / *sleeps the queen."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    subject, rest = phrases.subject(verb), _complement(phrases, verb)
    other = phrases.subject_verb(subject.head, INTRANSITIVE_VERBS)
    return (
        (*subject.words, agreeing(verb, subject.plural), *rest),
        (*subject.words, agreeing(other, subject.plural), *rest),
    )


def passive(phrases: Phrases) -> tuple[Words, Words]:
    """The queen is helped / *slept by the king."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    patient, agent = phrases.simple(_objects(verb)), phrases.subject(verb)
    other = phrases.subject_verb(agent.head, INTRANSITIVE_VERBS)
    start, end = (*patient.words, auxiliary("be", patient.plural)), ("by", *agent.words)
    return (*start, verb.participle, *end), (*start, other.participle, *end)


# Selection of persons and things


def _with_noun(phrase: NounPhrase, noun: Noun) -> Words:
    """The phrase with another noun."""
    return (*phrase.words[:-1], noun.plural if phrase.plural else noun.singular)


def selected_subject(phrases: Phrases) -> tuple[Words, Words]:
    """The king / *lamp sleeps, and the lamp / *king creaks."""
    kinds, others, verbs = (PERSONS, THINGS, _ACTION_VERBS)
    if phrases.chance(0.5):
        kinds, others, verbs = THINGS, PERSONS, THING_INTRANSITIVE_VERBS
    verb = phrases.pick(verbs)
    subject = phrases.subject(verb, kinds)
    rest = (agreeing(verb, subject.plural), *_complement(phrases, verb))
    return (*subject.words, *rest), (*_with_noun(subject, phrases.pick(others)), *rest)


def selected_agent(phrases: Phrases) -> tuple[Words, Words]:
    """The cup is repaired by the king / *lamp."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    patient, agent = phrases.simple(_objects(verb)), phrases.subject(verb)
    start = (*patient.words, auxiliary("be", patient.plural), verb.participle, "by")
    return (*start, *agent.words), (*start, *_with_noun(agent, phrases.pick(THINGS)))


def selected_object(phrases: Phrases) -> tuple[Words, Words]:
    """The king helps the queen / *lamp, and the king repairs the lamp / *queen."""
    verb = phrases.pick(SOCIAL_VERBS + THING_VERBS)
    start, kinds = _present(phrases, verb), _objects(verb)
    phrase = phrases.simple(kinds)
    return (*start, *phrase.words), (*start, *_with_noun(phrase, phrases.pick(THINGS if kinds is PERSONS else PERSONS)))


PHENOMENA: Mapping[str, tuple[Paradigm, ...]] = MappingProxyType(
    {
        "subject_verb_agreement": (
            agreement_simple,
            agreement_auxiliary,
            agreement_prepositional,
            agreement_subject_relative,
            agreement_object_relative,
            agreement_coordination,
        ),
        "anaphor_agreement": (anaphor_number, anaphor_gender, emphatic_gender, possessive_number, possessive_gender),
        "binding": (binding_c_command, binding_domain),
        "determiner_noun_agreement": (determiner_noun_1, determiner_noun_2, determiner_noun_adjective),
        "npi_licensing": (npi_ever, npi_any, npi_scope),
        "filler_gap_dependency": (gap_needs_filler, gap_needs_filler_long, filler_needs_gap),
        "island_effects": (whether_island, coordination_island),
        "argument_structure": (intransitive, transitive, passive),
        "s_selection": (selected_subject, selected_agent, selected_object),
    }
)
"""The paradigms by phenomenon."""

PARADIGMS: Mapping[str, tuple[str, Paradigm]] = MappingProxyType(
    {paradigm.__name__: (phenomenon, paradigm) for phenomenon, group in PHENOMENA.items() for paradigm in group}
)
"""Phenomenon and draw of each paradigm, by name."""
