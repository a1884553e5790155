"""The words of the built-in grammar, and which subjects the corpus never gives a verb."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ADJECTIVES",
    "ADVERBS",
    "CLAUSAL_VERBS",
    "FEMININE",
    "INTERROGATIVE_VERBS",
    "INTRANSITIVE_VERBS",
    "MASCULINE",
    "PERSONS",
    "PLURAL_DETERMINERS",
    "PREPOSITIONS",
    "QUESTION_VERBS",
    "SINGULAR_DETERMINERS",
    "SOCIAL_VERBS",
    "THINGS",
    "THING_INTRANSITIVE_VERBS",
    "THING_VERBS",
    "VERBS",
    "Noun",
    "Verb",
    "grammar_words",
    "is_held_out",
]


class Noun(NamedTuple):
    """Both forms of a noun, what it is (``"masculine"``, ``"feminine"``, ``"thing"``) and its place among its like."""

    singular: str
    plural: str
    kind: str
    place: int


class Verb(NamedTuple):
    """The forms of a verb and its place among its like; a verb that takes a clause has no participle, but ``""``."""

    singular: str
    plural: str
    participle: str
    place: int


def _nouns(kind: str, *singulars: str) -> tuple[Noun, ...]:
    return tuple(Noun(word, f"{word}s", kind, index) for index, word in enumerate(singulars))


def _verbs(*forms: str) -> tuple[Verb, ...]:
    split = (form.partition(" ") for form in forms)
    return tuple(Verb(plural + "s", plural, participle, index) for index, (plural, _, participle) in enumerate(split))


# fmt: off
MASCULINE = _nouns("masculine", "king", "boy", "father", "brother", "uncle", "monk", "waiter", "prince")
FEMININE = _nouns("feminine", "queen", "girl", "mother", "sister", "aunt", "nun", "maid", "bride")
PERSONS = MASCULINE + FEMININE
THINGS = _nouns("thing", "lamp", "chair", "table", "cup", "guitar", "door", "book", "painting")

INTRANSITIVE_VERBS = _verbs(
    "sleep slept", "laugh laughed", "smile smiled", "dance danced", "cough coughed", "wait waited", "sing sung",
    "yawn yawned",
)
SOCIAL_VERBS = _verbs(
    "thank thanked", "help helped", "greet greeted", "invite invited", "tease teased", "admire admired",
    "forgive forgiven", "trust trusted",
)
"""Transitive, of a person and a person; their object may be reflexive."""
THING_VERBS = _verbs(
    "repair repaired", "clean cleaned", "sell sold", "open opened", "paint painted", "steal stolen", "drop dropped",
    "move moved",
)
"""Transitive, of a person and a thing."""
THING_INTRANSITIVE_VERBS = _verbs("creak creaked", "rust rusted", "gleam gleamed", "rattle rattled")
"""Intransitive, of a thing."""
CLAUSAL_VERBS = _verbs("think", "say", "believe", "claim")
"""Take a clause with ``that``."""
QUESTION_VERBS = _verbs("know", "learn", "reveal", "remember")
"""Take a clause with ``that`` or a question with ``who`` or ``what``."""
INTERROGATIVE_VERBS = _verbs("wonder", "ask", "inquire", "forget")
"""Take a clause with ``whether``."""

ADJECTIVES = ("tall", "old", "young", "new", "small", "famous", "strange", "red")
ADVERBS = ("always", "often")
"""Those that license nothing; ``never`` licenses ``any``, and ``ever`` needs a subject with ``no``."""
PREPOSITIONS = ("near", "behind", "beside", "above")
SINGULAR_DETERMINERS = ("this", "that", "every")
PLURAL_DETERMINERS = ("these", "those", "all")
# fmt: on

VERBS = (
    *INTRANSITIVE_VERBS,
    *SOCIAL_VERBS,
    *THING_VERBS,
    *THING_INTRANSITIVE_VERBS,
    *CLAUSAL_VERBS,
    *QUESTION_VERBS,
    *INTERROGATIVE_VERBS,
)


_OTHER_WORDS = (
    *("the", "no", "any", "ever", "never", "has", "have", "is", "are", "by", "and", "who", "which", "what", "whether"),
    *("himself", "herself", "themselves", "his", "her", "their", "own", "."),
)


def grammar_words() -> tuple[str, ...]:
    """Every word that the built-in grammar can say, in alphabetical order, for a tokenizer.

    Example:
        >>> len(grammar_words())
        199

    """
    words = {*ADJECTIVES, *ADVERBS, *PREPOSITIONS, *SINGULAR_DETERMINERS, *PLURAL_DETERMINERS, *_OTHER_WORDS}
    words |= {form for noun in PERSONS + THINGS for form in (noun.singular, noun.plural)}
    # The participles of verbs that take a clause are in no construction.
    words |= {verb.participle for verb in VERBS if verb.participle}
    return tuple(sorted(words | {form for verb in VERBS for form in (verb.singular, verb.plural)}))


def is_held_out(noun: Noun, verb: Verb) -> bool:
    """Whether the corpus never has the noun as a subject, or an agent after ``by``, of the verb.

    One combination in four is held out, in a Latin square: every noun misses a quarter of each kind of verb, and every
    verb a quarter of each kind of noun.

    Example:
        >>> is_held_out(MASCULINE[0], SOCIAL_VERBS[0]), is_held_out(MASCULINE[0], SOCIAL_VERBS[1])
        (True, False)

    """
    return (noun.place + verb.place) % 4 == 0
