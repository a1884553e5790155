"""Whether the built-in grammar of minimal pairs has a sentence: a recogniser, written from its description.

Every rule is a function from a place in the sentence to all places where such a phrase may end, each with the features
that the rest has to agree with. Only the word lists are the library's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from lightning_interp.tasks.grammar import lexicon

PERSON, THING = "person", "thing"
NOUNS = {
    form: (noun, number)
    for noun in lexicon.PERSONS + lexicon.THINGS
    for form, number in ((noun.singular, "singular"), (noun.plural, "plural"))
}
FINITE = {
    form: (verb, number)
    for verb in lexicon.VERBS
    for form, number in ((verb.singular, "singular"), (verb.plural, "plural"))
}
PARTICIPLES = {verb.participle: verb for verb in lexicon.VERBS if verb.participle}
REFLEXIVES = {"masculine": "himself", "feminine": "herself"}
DETERMINERS = {
    **dict.fromkeys(("the", "no"), ("singular", "plural")),
    **dict.fromkeys(("this", "that", "every"), ("singular",)),
    **dict.fromkeys(("these", "those", "all"), ("plural",)),
}


class Phrase(NamedTuple):
    end: int
    number: str
    kind: str
    gender: str
    negative: bool


class Recognizer:
    def __init__(self, sentence: str) -> None:
        self.words = sentence.split()

    def at(self, place: int) -> str:
        return self.words[place] if place < len(self.words) else ""

    def accepts(self) -> bool:
        if self.at(len(self.words) - 1) != ".":
            return False
        end = len(self.words) - 1
        for first in self.clauses(0, questions=True):
            if first == end:
                return True
            if self.at(first) == "and" and end in set(self.clauses(first + 1)):
                return True
        return False

    def nominal(self, place: int, licensed: bool = False) -> Iterator[Phrase]:
        """Determiner, perhaps an adjective, noun."""
        determiner = self.at(place)
        numbers = DETERMINERS.get(determiner, ("singular", "plural") if licensed and determiner == "any" else ())
        for end in (place + 1, place + 2):
            if end == place + 2 and self.at(place + 1) not in lexicon.ADJECTIVES:
                continue
            if self.at(end) in NOUNS and NOUNS[self.at(end)][1] in numbers:
                noun, number = NOUNS[self.at(end)]
                kind = THING if noun.kind == "thing" else PERSON
                yield Phrase(end + 1, number, kind, noun.kind, determiner == "no")

    def subjects(self, place: int) -> Iterator[Phrase]:
        for head in self.nominal(place):
            yield head
            for end in self.modifiers(head):
                yield head._replace(end=end)
            own = "themselves" if head.number == "plural" else REFLEXIVES.get(head.gender)
            if self.at(head.end) == own and head.kind == PERSON and not head.negative:
                yield head._replace(end=head.end + 1)
            if self.at(head.end) == "and" and not head.negative and head.kind == PERSON:
                for other in self.nominal(head.end + 1):
                    if other.kind == PERSON and not other.negative:
                        yield Phrase(other.end, "plural", PERSON, "", False)

    def modifiers(self, head: Phrase) -> Iterator[int]:
        if self.at(head.end) in lexicon.PREPOSITIONS:
            yield from (phrase.end for phrase in self.nominal(head.end + 1))
        if self.at(head.end) != ("who" if head.kind == PERSON else "which"):
            return
        place = head.end + 1
        for verb, end in self.finite(place, head.number):
            if head.kind == THING and verb in lexicon.THING_INTRANSITIVE_VERBS:
                yield end
            if head.kind == PERSON and verb in lexicon.SOCIAL_VERBS:
                yield from (phrase.end for phrase in self.nominal(end) if phrase.kind == PERSON)
        for subject in self.nominal(place):
            if subject.kind == PERSON:
                wanted = lexicon.SOCIAL_VERBS if head.kind == PERSON else lexicon.THING_VERBS
                yield from (end for verb, end in self.finite(subject.end, subject.number) if verb in wanted)

    def finite(self, place: int, number: str) -> Iterator[tuple[lexicon.Verb, int]]:
        verb, own = FINITE.get(self.at(place), (None, ""))
        if verb is not None and own == number:
            yield verb, place + 1

    def clauses(self, place: int, questions: bool = False) -> Iterator[int]:
        for subject in self.subjects(place):
            yield from self.active(subject)
            yield from self.passive(subject)
            yield from self.embedding(subject, questions)

    def active(self, subject: Phrase) -> Iterator[int]:
        place = subject.end
        perfect = self.at(place) == ("has" if subject.number == "singular" else "have")
        place += perfect
        adverb = self.at(place) if self.at(place) in ("always", "often", "never", "ever") else ""
        if adverb and subject.negative != (adverb == "ever"):
            return
        place += bool(adverb)
        if perfect:
            verb = PARTICIPLES.get(self.at(place))
        else:
            verb = next((verb for verb, _ in self.finite(place, subject.number)), None)
        place += 1
        if verb in (lexicon.INTRANSITIVE_VERBS if subject.kind == PERSON else lexicon.THING_INTRANSITIVE_VERBS):
            yield place
        wanted = PERSON if verb in lexicon.SOCIAL_VERBS else THING if verb in lexicon.THING_VERBS else ""
        if not wanted or subject.kind != PERSON:
            return
        pronoun = "themselves" if subject.number == "plural" else REFLEXIVES[subject.gender]
        if wanted == PERSON and self.at(place) == pronoun:
            yield place + 1
        own = "their" if subject.number == "plural" else {"masculine": "his", "feminine": "her"}[subject.gender]
        if (self.at(place), self.at(place + 1)) == (own, "own") and self.at(place + 2) in NOUNS:
            noun, _ = NOUNS[self.at(place + 2)]
            if (noun.kind == "thing") == (wanted == THING):
                yield place + 3
        for phrase in self.nominal(place, licensed=subject.negative or adverb == "never"):
            if phrase.kind == wanted and not phrase.negative:
                yield phrase.end
                if self.at(phrase.end) == "and":
                    yield from (other.end for other in self.nominal(phrase.end + 1) if other.kind == wanted)

    def passive(self, subject: Phrase) -> Iterator[int]:
        verbs = lexicon.SOCIAL_VERBS if subject.kind == PERSON else lexicon.THING_VERBS
        is_passive = self.at(subject.end) == ("is" if subject.number == "singular" else "are")
        if is_passive and PARTICIPLES.get(self.at(subject.end + 1)) in verbs:
            yield subject.end + 2
            if self.at(subject.end + 2) == "by":
                yield from (agent.end for agent in self.nominal(subject.end + 3) if agent.kind == PERSON)

    def embedding(self, subject: Phrase, questions: bool) -> Iterator[int]:
        for verb, end in self.finite(subject.end, subject.number):
            if subject.kind != PERSON:
                continue
            word = self.at(end)
            if word == "that" and verb in lexicon.CLAUSAL_VERBS + lexicon.QUESTION_VERBS:
                yield from self.clauses(end + 1)
            if word == "whether" and verb in lexicon.INTERROGATIVE_VERBS:
                yield from self.clauses(end + 1)
            if questions and word in ("who", "what") and verb in lexicon.QUESTION_VERBS:
                wanted = lexicon.SOCIAL_VERBS if word == "who" else lexicon.THING_VERBS
                yield from self.gaps(end + 1, wanted, deep=True)

    def gaps(self, place: int, wanted: tuple[lexicon.Verb, ...], deep: bool) -> Iterator[int]:
        """A clause without its object, perhaps inside another with ``that``."""
        for subject in self.subjects(place):
            for verb, end in self.finite(subject.end, subject.number):
                if subject.kind == PERSON and verb in wanted:
                    yield end
                opens = verb in lexicon.CLAUSAL_VERBS + lexicon.QUESTION_VERBS and self.at(end) == "that"
                if deep and subject.kind == PERSON and opens:
                    yield from self.gaps(end + 1, wanted, deep=False)


def is_grammatical(sentence: str) -> bool:
    """Whether the grammar has the sentence."""
    return Recognizer(sentence).accepts()


def subject_verb_combinations(sentence: str) -> set[tuple[str, str]]:
    """Noun (singular) and verb (plural) of some subjects and verbs, told by the order of the words alone.

    A noun right before a verb is its subject where nothing in the sentence modifies or coordinates one; the first noun
    after a participle and ``by`` is its agent.
    """
    words = sentence.split()
    plain = not {"who", "which", "what", "and", *lexicon.PREPOSITIONS} & set(words)
    found = set()
    for index, (word, following) in enumerate(itertools.pairwise(words)):
        if plain and word in NOUNS and following in FINITE:
            found.add((NOUNS[word][0].singular, FINITE[following][0].plural))
        if word in PARTICIPLES and following == "by":
            agent = next(other for other in words[index + 2 :] if other in NOUNS)
            found.add((NOUNS[agent][0].singular, PARTICIPLES[word].plural))
    return found
