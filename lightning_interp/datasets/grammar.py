"""A small grammar of English with held-out combinations: data for a run of two minutes, without a download."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from types import MappingProxyType
from typing import NamedTuple

from lightning_interp.datasets.encoding import Pair
from lightning_interp.datasets.seq2seq import Seq2SeqDataModule
from lightning_interp.datasets.vocabulary import Vocabulary

__all__ = [
    "COMMON_NOUNS",
    "CONSTRUCTIONS",
    "DATIVE_VERBS",
    "HELD_OUT",
    "INTRANSITIVE_VERBS",
    "NAMES",
    "TRANSITIVE_VERBS",
    "Clause",
    "GrammarDataModule",
    "GrammarSplits",
    "NounPhrase",
    "generate_splits",
]

# fmt: off
COMMON_NOUNS = (
    "king", "queen", "boy", "girl", "bird", "cat", "dog", "horse", "teacher", "doctor", "sailor",
    "farmer", "baker", "poet", "nurse", "judge", "guard", "knight", "child", "student", "singer", "hunter",
    "pilot", "painter", "driver", "miller",
)
NAMES = ("amelia", "oliver", "emma", "liam")
# Past tense and participle are one form, so that a verb new to the passive is not a new word.
TRANSITIVE_VERBS = (
    "helped", "followed", "praised", "visited", "watched", "called",
    "pushed", "admired", "found", "kissed", "thanked", "missed",
)
DATIVE_VERBS = ("sold", "sent", "lent", "offered", "handed", "passed")
INTRANSITIVE_VERBS = (
    "slept", "laughed", "smiled", "danced", "sneezed", "cried", "talked", "walked", "jumped", "nodded",
    "waited", "coughed", "yawned", "shouted", "whistled", "prayed", "worked", "travelled", "arrived", "left",
)
CONSTRUCTIONS = ("intransitive", "active", "passive", "passive_by", "prepositional", "double_object")
HELD_OUT: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "theme_to_agent": ("girl", "cat", "sailor", "nurse", "child", "pilot", "miller"),
    "agent_to_theme": ("dog", "farmer", "judge", "hunter", "liam", "painter"),
    "active_to_passive": ("praised", "called", "found"),
    "passive_to_active": ("visited", "kissed"),
    "prepositional_to_double_object": ("lent",),
    "double_object_to_prepositional": ("handed",),
})
"""Held-out pairings: by category, the words that training shows in the first use only. Recipients count as themes."""
# fmt: on

_NOUNS = (*COMMON_NOUNS, *NAMES)
_DEFINITE = 0.63


class NounPhrase(NamedTuple):
    """A noun with its determiner: ``"the"``, ``"a"``, or ``""`` for a name."""

    determiner: str
    noun: str

    @property
    def words(self) -> tuple[str, ...]:
        """The phrase as it is said."""
        return (self.determiner, self.noun) if self.determiner else (self.noun,)

    @property
    def logical_form(self) -> tuple[str, ...]:
        """The noun, after ``*`` where it is definite."""
        return ("*", self.noun) if self.determiner == "the" else (self.noun,)


@dataclass(frozen=True)
class Clause:
    """One sentence of the grammar and its meaning.

    Args:
        construction: One of :data:`CONSTRUCTIONS`.
        verb: The verb.
        agent: Who acts; none in a passive without by-phrase.
        theme: Who is acted on; none in an intransitive.
        recipient: Who receives; in datives only.

    Example:
        >>> king, bird = NounPhrase("the", "king"), NounPhrase("the", "bird")
        >>> clause = Clause("double_object", "sold", agent=king, theme=bird, recipient=NounPhrase("", "amelia"))
        >>> " ".join(clause.sentence)
        'the king sold amelia the bird'
        >>> " ".join(clause.logical_form)
        'sold agent * king recipient amelia theme * bird'
        >>> Clause("passive_by", "kissed", agent=king, theme=NounPhrase("a", "dog")).held_out
        ('agent_to_theme',)

    """

    construction: str
    verb: str
    agent: NounPhrase | None = None
    theme: NounPhrase | None = None
    recipient: NounPhrase | None = None

    @property
    def sentence(self) -> tuple[str, ...]:
        """The words as they are said."""
        agent, theme, recipient = (_words(phrase) for phrase in (self.agent, self.theme, self.recipient))
        match self.construction:
            case "intransitive":
                return (*agent, self.verb)
            case "active":
                return (*agent, self.verb, *theme)
            case "passive":
                return (*theme, "was", self.verb)
            case "passive_by":
                return (*theme, "was", self.verb, "by", *agent)
            case "prepositional":
                return (*agent, self.verb, *theme, "to", *recipient)
            case "double_object":
                return (*agent, self.verb, *recipient, *theme)
        raise ValueError(f"`construction` is {self.construction!r}; it must be one of {CONSTRUCTIONS}.")

    @property
    def logical_form(self) -> tuple[str, ...]:
        """The verb, then each role with who fills it, in the order of the sentence."""
        roles = {"agent": self.agent, "theme": self.theme, "recipient": self.recipient}
        order = {"passive_by": ("theme", "agent"), "double_object": ("agent", "recipient", "theme")}
        form = [self.verb]
        for role in order.get(self.construction, roles):
            if (phrase := roles[role]) is not None:
                form += [role, *phrase.logical_form]
        return tuple(form)

    @property
    def pair(self) -> Pair:
        """Sentence and logical form."""
        return self.sentence, self.logical_form

    @property
    def held_out(self) -> tuple[str, ...]:
        """The categories of :data:`HELD_OUT` that the sentence has a pairing of, in their order."""
        uses = self._uses()
        return tuple(category for category, words in HELD_OUT.items() if not uses[category].isdisjoint(words))

    def _uses(self) -> dict[str, set[str]]:
        active = {self.verb} if self.construction == "active" else set()
        passive = {self.verb} if self.construction in ("passive", "passive_by") else set()
        return {
            "theme_to_agent": {phrase.noun for phrase in (self.agent,) if phrase},
            "agent_to_theme": {phrase.noun for phrase in (self.theme, self.recipient) if phrase},
            "active_to_passive": passive,
            "passive_to_active": active,
            "prepositional_to_double_object": {self.verb} if self.construction == "double_object" else set(),
            "double_object_to_prepositional": {self.verb} if self.construction == "prepositional" else set(),
        }


@dataclass(frozen=True)
class GrammarSplits:
    """Sentences of three splits, none of them in two.

    Args:
        train: No held-out pairing. Sentences may repeat, as in any sample: about one in eleven of 2,000 does.
        val: No held-out pairing, no sentence of ``train``; they may repeat too.
        ood: At least one held-out pairing each, no word that ``train`` lacks, and no sentence twice.
        ood_categories: For each out-of-distribution sentence the category it stands for.

    """

    train: tuple[Clause, ...]
    val: tuple[Clause, ...]
    ood: tuple[Clause, ...]
    ood_categories: tuple[str, ...]


def generate_splits(
    train_examples: int = 2000, val_examples: int = 400, ood_examples: int = 400, seed: int = 0
) -> GrammarSplits:
    """Draw sentences from the grammar.

    A construction is drawn first, all equally often, then its words: in training and validation from those that
    :data:`HELD_OUT` allows there, out of distribution from all. Every category of held-out pairing has an equal share
    of the out-of-distribution sentences, so that one verb weighs as much as seven nouns; a sentence may happen to have
    held-out pairings of other categories too.

    Args:
        train_examples: Number of training sentences.
        val_examples: Number of validation sentences.
        ood_examples: Number of out-of-distribution sentences.
        seed: Same seed, same sentences.

    Raises:
        ValueError: If a number is below 1, or so small for training that out-of-distribution sentences would have words
            that it lacks, or so large that the grammar runs out of sentences.

    Example:
        >>> splits = generate_splits()
        >>> [len(split) for split in (splits.train, splits.val, splits.ood)]
        [2000, 400, 400]
        >>> {clause.held_out for clause in splits.train}
        {()}

    """
    sizes = {"train_examples": train_examples, "val_examples": val_examples, "ood_examples": ood_examples}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{name}` is {size}; it must be at least 1.")
    source = random.Random(seed)
    seen: set[tuple[str, ...]] = set()

    def fresh(count: int, everything: bool) -> Iterable[Clause]:
        for _ in range(1000 + 50 * count):
            clause = _draw(source, everything)
            if clause.sentence not in seen:
                yield clause
        raise ValueError(f"the grammar has too few sentences for {sizes}, or the training sentences lack words.")

    train = [_draw(source, everything=False) for _ in range(train_examples)]
    seen.update(clause.sentence for clause in train)
    val = list(islice(fresh(val_examples, everything=False), val_examples))
    seen.update(clause.sentence for clause in val)
    known = {word for clause in train for word in (*clause.sentence, *clause.logical_form)}

    ood: list[tuple[Clause, str]] = []
    missing = Counter(islice(cycle(HELD_OUT), ood_examples))
    for clause in fresh(ood_examples, everything=True):
        wanted = [category for category in clause.held_out if missing[category]]
        if wanted and known.issuperset((*clause.sentence, *clause.logical_form)):
            category = max(wanted, key=missing.__getitem__)
            missing[category] -= 1
            seen.add(clause.sentence)
            ood.append((clause, category))
            if len(ood) == ood_examples:
                break
    # The last ones drawn are of the rarest category.
    source.shuffle(ood)
    clauses, categories = zip(*ood, strict=True)
    return GrammarSplits(tuple(train), tuple(val), clauses, categories)


class GrammarDataModule(Seq2SeqDataModule):
    """Sentences of a small grammar and their logical forms.

    ``the king sold amelia the bird`` → ``sold agent * king recipient amelia theme * bird``, in the spirit of COGS (Kim
    & Linzen 2020): intransitive, active, passive with and without by-phrase, prepositional and double-object dative,
    with 26 common nouns and 4 names, 12 transitive, 6 dative and 20 intransitive verbs. Out of distribution, words are
    used as training never shows them (:data:`HELD_OUT`): 7 nouns seen only as theme or recipient act, 6 seen only
    acting are acted on, 3 verbs seen only active are passive, 2 the reverse, and 2 dative verbs seen in one
    construction are in the other. No word and no structure is new.

    Args:
        train_examples: Number of training sentences.
        val_examples: Number of in-distribution validation sentences.
        ood_examples: Number of out-of-distribution sentences, in equal shares of the categories.
        data_seed: Which sentences are drawn; by default ``seed``.
        batch_size: Pairs in a training batch.
        val_batch_size: Pairs in a validation batch.
        seed: Seed of the training order.
        num_workers: Worker processes of each loader.

    Raises:
        ValueError: What :func:`generate_splits` and the base class raise.

    Example:
        >>> data = GrammarDataModule()
        >>> len(data.source_vocabulary), len(data.target_vocabulary)
        (77, 76)
        >>> " ".join(data.ood[0][0]), data.ood_categories[0]
        ('the hunter handed the girl to a student', 'double_object_to_prepositional')

    """

    def __init__(
        self,
        train_examples: int = 2000,
        val_examples: int = 400,
        ood_examples: int = 400,
        data_seed: int | None = None,
        batch_size: int = 64,
        val_batch_size: int = 200,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        drawn = seed if data_seed is None else data_seed
        self.splits = generate_splits(train_examples, val_examples, ood_examples, drawn)
        content = (*_NOUNS, *INTRANSITIVE_VERBS, *TRANSITIVE_VERBS, *DATIVE_VERBS)
        super().__init__(
            train=[clause.pair for clause in self.splits.train],
            val=[clause.pair for clause in self.splits.val],
            ood=[clause.pair for clause in self.splits.ood],
            source_vocabulary=Vocabulary([*content, "the", "a", "was", "by", "to"]),
            target_vocabulary=Vocabulary([*content, "agent", "theme", "recipient", "*"]),
            ood_categories=self.splits.ood_categories,
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            seed=seed,
            num_workers=num_workers,
        )
        self.save_hyperparameters()


def _words(phrase: NounPhrase | None) -> tuple[str, ...]:
    return () if phrase is None else phrase.words


def _draw(source: random.Random, everything: bool) -> Clause:
    def choose(words: tuple[str, ...], held_out: str) -> str:
        return source.choice([word for word in words if everything or word not in HELD_OUT[held_out]])

    def phrase(held_out: str) -> NounPhrase:
        noun = choose(_NOUNS, held_out)
        definite = source.random() < _DEFINITE
        return NounPhrase("" if noun in NAMES else "the" if definite else "a", noun)

    construction = source.choice(CONSTRUCTIONS)
    agent = None if construction == "passive" else phrase("theme_to_agent")
    theme = None if construction == "intransitive" else phrase("agent_to_theme")
    match construction:
        case "intransitive":
            return Clause(construction, source.choice(INTRANSITIVE_VERBS), agent)
        case "active":
            return Clause(construction, choose(TRANSITIVE_VERBS, "passive_to_active"), agent, theme)
        case "passive" | "passive_by":
            return Clause(construction, choose(TRANSITIVE_VERBS, "active_to_passive"), agent, theme)
        case "prepositional":
            verb = choose(DATIVE_VERBS, "double_object_to_prepositional")
        case _:
            verb = choose(DATIVE_VERBS, "prepositional_to_double_object")
    return Clause(construction, verb, agent, theme, phrase("agent_to_theme"))
