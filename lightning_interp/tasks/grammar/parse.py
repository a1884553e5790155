"""Parts of speech and dependency trees of the built-in grammar's own sentences."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from lightning_interp.tasks.grammar.lexicon import (
    ADJECTIVES,
    ADVERBS,
    CLAUSAL_VERBS,
    INTERROGATIVE_VERBS,
    INTRANSITIVE_VERBS,
    PERSONS,
    PLURAL_DETERMINERS,
    PREPOSITIONS,
    QUESTION_VERBS,
    SINGULAR_DETERMINERS,
    SOCIAL_VERBS,
    THING_INTRANSITIVE_VERBS,
    THING_VERBS,
    THINGS,
    Verb,
)

__all__ = ["AmbiguousSentenceError", "Parse", "parse_sentence"]


class Parse(NamedTuple):
    """What is known of each word of a sentence."""

    tags: tuple[str, ...]
    """Universal parts of speech."""
    heads: tuple[int, ...]
    """Place of each word's head, counted from 0; −1 for the root."""
    relations: tuple[str, ...]
    """Universal dependency relations."""


class AmbiguousSentenceError(ValueError):
    """The sentence has two trees."""


def parse_sentence(words: Sequence[str]) -> Parse:
    """The dependency tree of a sentence of :func:`generate_corpus`, in the manner of Universal Dependencies.

    Content words are heads: determiners, adjectives and prepositions hang on nouns, auxiliaries and conjunctions on
    verbs, a relative clause's verb on the noun, a subordinate clause's on the verb above it, and ``who`` or ``what`` on
    the verb whose object it is, however far away. A second conjunct hangs on the first, with ``and`` on itself.

    Args:
        words: The words, with the full stop.

    Raises:
        AmbiguousSentenceError: If ``and`` may join either nouns or clauses, as the first in ``the king helps the boy
            and the nuns and the maids sing``.
        ValueError: If it is no sentence of the grammar.

    Example:
        >>> parse = parse_sentence("the king who helps no boys never sleeps .".split())
        >>> parse.heads
        (1, 7, 3, 1, 5, 3, 7, -1, 7)
        >>> " ".join(parse.tags)
        'DET NOUN PRON VERB DET NOUN ADV VERB PUNCT'

    """
    parser = _Parser(tuple(words))
    parser.sentence()
    return Parse(tuple(parser.tags), tuple(parser.heads), tuple(parser.relations))


_DETERMINERS = frozenset({"the", "no", "any", *SINGULAR_DETERMINERS, *PLURAL_DETERMINERS})
_NOUNS = frozenset(form for noun in PERSONS + THINGS for form in (noun.singular, noun.plural))
_EVERY_ADVERB = frozenset({*ADVERBS, "never", "ever"})
_REFLEXIVES = frozenset({"himself", "herself", "themselves"})
_POSSESSIVES = frozenset({"his", "her", "their"})


def _present(*verbs: Verb) -> frozenset[str]:
    return frozenset(form for verb in verbs for form in (verb.singular, verb.plural))


_TRANSITIVE = SOCIAL_VERBS + THING_VERBS
_INTRANSITIVE = INTRANSITIVE_VERBS + THING_INTRANSITIVE_VERBS
_TAKES_OBJECT = _present(*_TRANSITIVE)
_TAKES_NOTHING = _present(*_INTRANSITIVE)
_TAKES_THAT = _present(*CLAUSAL_VERBS, *QUESTION_VERBS)
_TAKES_QUESTION = _present(*QUESTION_VERBS)
_TAKES_WHETHER = _present(*INTERROGATIVE_VERBS)
_PARTICIPLES = {verb.participle: bool(verb in _TRANSITIVE) for verb in _TRANSITIVE + _INTRANSITIVE}
"""Whether what is said in the perfect takes an object."""


class _Parser:
    """Recursive descent; each method takes words from :attr:`place` on and returns where its head stands."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.place = 0
        self.tags = ["" for _ in words]
        self.heads = [-1 for _ in words]
        self.relations = ["root" for _ in words]

    def sentence(self) -> None:
        root = self.clause()
        if self.next_is("and"):
            conjunction = self.take({"and"}, "CCONJ")
            second = self.clause()
            self.hang(conjunction, second, "cc")
            self.hang(second, root, "conj")
        self.hang(self.take({"."}, "PUNCT"), root, "punct")
        if self.place < len(self.words):
            self.refuse("the end")

    def clause(self) -> int:
        subject = self.subject()
        if self.next_is("is", "are"):
            return self.passive(subject)
        auxiliary = self.take({"has", "have"}, "AUX") if self.next_is("has", "have") else None
        adverb = self.take(_EVERY_ADVERB, "ADV") if self.next_is(*_EVERY_ADVERB) else None
        if auxiliary is not None:
            verb = self.take(_PARTICIPLES, "VERB")
            self.hang(auxiliary, verb, "aux")
            transitive = _PARTICIPLES[self.words[verb]]
        else:
            verb = self.take(_TAKES_OBJECT | _TAKES_NOTHING | _TAKES_THAT | _TAKES_WHETHER, "VERB")
            transitive = self.words[verb] in _TAKES_OBJECT
        self.hang(subject, verb, "nsubj")
        if adverb is not None:
            self.hang(adverb, verb, "advmod")
        if transitive:
            self.hang(self.direct_object(), verb, "obj")
        elif self.words[verb] in _TAKES_QUESTION and self.next_is("who", "what"):
            self.hang(self.question(), verb, "ccomp")
        elif self.words[verb] in _TAKES_THAT | _TAKES_WHETHER:
            said = self.words[verb] in _TAKES_THAT
            self.hang(self.subordinate("that" if said else "whether"), verb, "ccomp")
        return verb

    def passive(self, subject: int) -> int:
        auxiliary = self.take({"is", "are"}, "AUX")
        verb = self.take({word for word, transitive in _PARTICIPLES.items() if transitive}, "VERB")
        self.hang(auxiliary, verb, "aux:pass")
        self.hang(subject, verb, "nsubj:pass")
        if self.next_is("by"):
            case = self.take({"by"}, "ADP")
            agent = self.noun_phrase()
            self.hang(case, agent, "case")
            self.hang(agent, verb, "obl:agent")
        return verb

    def subordinate(self, word: str) -> int:
        mark = self.take({word}, "SCONJ")
        verb = self.clause()
        self.hang(mark, verb, "mark")
        return verb

    def question(self) -> int:
        """``what the boy repairs`` or ``what the girl thinks that the boy repairs``."""
        pronoun = self.take({"who", "what"}, "PRON")
        first = verb = self.subject_and(_TAKES_OBJECT | _TAKES_THAT)
        if self.words[verb] in _TAKES_THAT:
            mark = self.take({"that"}, "SCONJ")
            verb = self.subject_and(_TAKES_OBJECT)
            self.hang(mark, verb, "mark")
            self.hang(verb, first, "ccomp")
        self.hang(pronoun, verb, "obj")
        return first

    def subject_and(self, verbs: frozenset[str]) -> int:
        subject = self.subject()
        verb = self.take(verbs, "VERB")
        self.hang(subject, verb, "nsubj")
        return verb

    def subject(self) -> int:
        head = self.noun_phrase()
        if self.next_is("and"):
            self.conjunct(head)
        elif self.next_is(*_REFLEXIVES):
            self.hang(self.take(_REFLEXIVES, "PRON"), head, "appos")
        elif self.next_is(*PREPOSITIONS):
            case = self.take(PREPOSITIONS, "ADP")
            noun = self.noun_phrase()
            self.hang(case, noun, "case")
            self.hang(noun, head, "nmod")
        elif self.next_is("who", "which"):
            self.relative(head)
        return head

    def relative(self, head: int) -> None:
        pronoun = self.take({"who", "which"}, "PRON")
        if self.next_is(*_DETERMINERS):
            subject = self.noun_phrase()
            verb = self.take(_TAKES_OBJECT, "VERB")
            self.hang(subject, verb, "nsubj")
            self.hang(pronoun, verb, "obj")
        else:
            verb = self.take(_TAKES_OBJECT | _TAKES_NOTHING, "VERB")
            self.hang(pronoun, verb, "nsubj")
            if self.words[verb] in _TAKES_OBJECT:
                self.hang(self.noun_phrase(), verb, "obj")
        self.hang(verb, head, "acl:relcl")

    def direct_object(self) -> int:
        if self.next_is(*_REFLEXIVES):
            return self.take(_REFLEXIVES, "PRON")
        if self.next_is(*_POSSESSIVES):
            possessive, own = self.take(_POSSESSIVES, "PRON"), self.take({"own"}, "ADJ")
            noun = self.take(_NOUNS, "NOUN")
            self.hang(possessive, noun, "nmod:poss")
            self.hang(own, noun, "amod")
            return noun
        head = self.noun_phrase()
        if self.next_is("and"):
            # A noun phrase after it is an object too only where nothing follows that would make it a subject.
            ahead = _Parser(self.words)
            ahead.place = self.place + 1
            ahead.noun_phrase()
            if ahead.next_is("and"):
                raise AmbiguousSentenceError(
                    f"{' '.join(self.words)!r} has two trees: 'and' may join nouns or clauses."
                )
            if ahead.next_is("."):
                self.conjunct(head)
        return head

    def conjunct(self, first: int) -> None:
        conjunction = self.take({"and"}, "CCONJ")
        second = self.noun_phrase()
        self.hang(conjunction, second, "cc")
        self.hang(second, first, "conj")

    def noun_phrase(self) -> int:
        determiner = self.take(_DETERMINERS, "DET")
        adjective = self.take(ADJECTIVES, "ADJ") if self.next_is(*ADJECTIVES) else None
        noun = self.take(_NOUNS, "NOUN")
        self.hang(determiner, noun, "det")
        if adjective is not None:
            self.hang(adjective, noun, "amod")
        return noun

    def next_is(self, *words: str) -> bool:
        return self.place < len(self.words) and self.words[self.place] in words

    def take(self, words: Container[str], tag: str) -> int:
        """The place of the next word, which must be one of these."""
        if self.place == len(self.words) or self.words[self.place] not in words:
            self.refuse(tag)
        self.tags[self.place] = tag
        self.place += 1
        return self.place - 1

    def hang(self, word: int, head: int, relation: str) -> None:
        self.heads[word], self.relations[word] = head, relation

    def refuse(self, expected: str) -> None:
        found = repr(self.words[self.place]) if self.place < len(self.words) else "its end"
        raise ValueError(
            f"{' '.join(self.words)!r} is no sentence of the built-in grammar: expected {expected} at word "
            f"{self.place + 1}, found {found}."
        )
