from __future__ import annotations

from collections import Counter

import pytest

from lightning_interp.datasets import Clause, GrammarDataModule, GrammarSplits, NounPhrase, generate_splits
from lightning_interp.datasets.grammar import (
    COMMON_NOUNS,
    CONSTRUCTIONS,
    DATIVE_VERBS,
    HELD_OUT,
    INTRANSITIVE_VERBS,
    NAMES,
    TRANSITIVE_VERBS,
)

VERBS = {*INTRANSITIVE_VERBS, *TRANSITIVE_VERBS, *DATIVE_VERBS}


@pytest.fixture(scope="module")
def splits() -> GrammarSplits:
    return generate_splits()


def interpret(sentence: tuple[str, ...]) -> tuple[str, list[tuple[str, str, bool]]]:
    """The verb and (role, noun, definite) in the order of the sentence, from the words alone."""
    place = next(index for index, word in enumerate(sentence) if word in VERBS)
    verb = sentence[place]

    def phrases(words: tuple[str, ...]) -> list[tuple[str, bool]]:
        nouns = [index for index, word in enumerate(words) if word in COMMON_NOUNS or word in NAMES]
        return [(words[index], index > 0 and words[index - 1] == "the") for index in nouns]

    before = phrases(sentence[:place])
    after = phrases(sentence[place + 1 :])
    if "was" in sentence:
        roles = ["theme", "agent"]
    elif verb in DATIVE_VERBS:
        roles = ["agent", "theme", "recipient"] if "to" in sentence else ["agent", "recipient", "theme"]
    else:
        roles = ["agent", "theme"]
    found = before + after
    return verb, [(role, *phrase) for role, phrase in zip(roles, found, strict=False)]


def held_out_pairings(sentence: tuple[str, ...]) -> set[str]:
    verb, roles = interpret(sentence)
    found = set()
    for role, noun, _ in roles:
        found |= {"theme_to_agent"} if role == "agent" and noun in HELD_OUT["theme_to_agent"] else set()
        found |= {"agent_to_theme"} if role != "agent" and noun in HELD_OUT["agent_to_theme"] else set()
    if verb in TRANSITIVE_VERBS:
        category = "active_to_passive" if "was" in sentence else "passive_to_active"
        found |= {category} if verb in HELD_OUT[category] else set()
    if verb in DATIVE_VERBS:
        category = "double_object_to_prepositional" if "to" in sentence else "prepositional_to_double_object"
        found |= {category} if verb in HELD_OUT[category] else set()
    return found


def test_lexicon() -> None:
    assert len(set(COMMON_NOUNS) | set(NAMES)) == 30
    assert (len(set(TRANSITIVE_VERBS)), len(set(DATIVE_VERBS))) == (12, 6)
    assert len(VERBS) == 12 + 6 + 20
    nouns = HELD_OUT["theme_to_agent"] + HELD_OUT["agent_to_theme"]
    verbs = HELD_OUT["active_to_passive"] + HELD_OUT["passive_to_active"]
    datives = HELD_OUT["prepositional_to_double_object"] + HELD_OUT["double_object_to_prepositional"]
    assert (len(set(nouns)), len(set(verbs)), len(set(datives))) == (13, 5, 2)
    assert set(nouns) <= {*COMMON_NOUNS, *NAMES}
    assert set(verbs) <= set(TRANSITIVE_VERBS)
    assert set(datives) <= set(DATIVE_VERBS)


def test_sizes_and_no_sentence_in_two_splits(splits: GrammarSplits) -> None:
    assert (len(splits.train), len(splits.val), len(splits.ood)) == (2000, 400, 400)
    train, val, ood = ({clause.sentence for clause in split} for split in (splits.train, splits.val, splits.ood))
    assert train.isdisjoint(val)
    assert not (train | val) & ood
    assert len(ood) == 400


def test_training_sentences_repeat_as_in_any_sample(splits: GrammarSplits) -> None:
    repeated = 1 - len({clause.sentence for clause in splits.train}) / len(splits.train)
    assert repeated == pytest.approx(1 / 11, abs=0.02)
    counts = Counter(clause.construction for clause in splits.train)
    # Four standard deviations of a sixth of 2,000.
    assert all(abs(count - 2000 / 6) < 4 * (2000 * 5 / 36) ** 0.5 for count in counts.values())


def test_deterministic(splits: GrammarSplits) -> None:
    assert generate_splits() == splits
    assert generate_splits(seed=1) != splits


def test_held_out_pairings_are_out_of_distribution_only(splits: GrammarSplits) -> None:
    for clause in (*splits.train, *splits.val):
        assert clause.held_out == ()
        assert held_out_pairings(clause.sentence) == set()
    for clause, category in zip(splits.ood, splits.ood_categories, strict=True):
        assert category in clause.held_out
        assert held_out_pairings(clause.sentence) == set(clause.held_out)


def test_categories_have_equal_shares(splits: GrammarSplits) -> None:
    counts = Counter(splits.ood_categories)
    assert counts.keys() == HELD_OUT.keys()
    assert set(counts.values()) == {66, 67}


def test_no_new_word_and_no_new_structure(splits: GrammarSplits) -> None:
    def words(split: tuple[Clause, ...]) -> set[str]:
        return {word for clause in split for word in (*clause.sentence, *clause.logical_form)}

    assert words(splits.ood) <= words(splits.train)
    assert words(splits.val) <= words(splits.train)
    constructions = {clause.construction for clause in splits.train}
    assert constructions == set(CONSTRUCTIONS)
    assert {clause.construction for clause in splits.ood} <= constructions


def test_every_word_is_seen_in_its_permitted_use(splits: GrammarSplits) -> None:
    roles: set[tuple[str, str]] = set()
    for clause in splits.train:
        verb, phrases = interpret(clause.sentence)
        roles |= {("agent" if role == "agent" else "theme", noun) for role, noun, _ in phrases}
        roles.add((clause.construction.removesuffix("_by"), verb))
    assert all(("theme", noun) in roles for noun in HELD_OUT["theme_to_agent"])
    assert all(("agent", noun) in roles for noun in HELD_OUT["agent_to_theme"])
    assert all(("active", verb) in roles for verb in HELD_OUT["active_to_passive"])
    assert all(("passive", verb) in roles for verb in HELD_OUT["passive_to_active"])
    assert all(("prepositional", verb) in roles for verb in HELD_OUT["prepositional_to_double_object"])
    assert all(("double_object", verb) in roles for verb in HELD_OUT["double_object_to_prepositional"])


def test_logical_form_follows_from_the_words(splits: GrammarSplits) -> None:
    for clause in (*splits.train, *splits.ood):
        verb, roles = interpret(clause.sentence)
        form = [verb]
        for role, noun, definite in roles:
            form += [role, "*", noun] if definite else [role, noun]
        assert clause.logical_form == tuple(form)


def test_lengths(splits: GrammarSplits) -> None:
    assert sum(len(clause.sentence) for clause in splits.train) / 2000 == pytest.approx(5.4, abs=0.1)
    assert sum(len(clause.logical_form) for clause in splits.train) / 2000 == pytest.approx(6.1, abs=0.1)


@pytest.mark.parametrize(
    ("construction", "sentence", "form"),
    [
        ("intransitive", "the king sent", "sent agent * king"),
        ("active", "the king sent a bird", "sent agent * king theme bird"),
        ("passive", "a bird was sent", "sent theme bird"),
        ("passive_by", "a bird was sent by the king", "sent theme bird agent * king"),
        ("prepositional", "the king sent a bird to emma", "sent agent * king theme bird recipient emma"),
        ("double_object", "the king sent emma a bird", "sent agent * king recipient emma theme bird"),
    ],
)
def test_constructions(construction: str, sentence: str, form: str) -> None:
    recipient = NounPhrase("", "emma") if "emma" in sentence else None
    clause = Clause(
        construction,
        "sent",
        agent=NounPhrase("the", "king") if "king" in sentence else None,
        theme=NounPhrase("a", "bird") if "bird" in sentence else None,
        recipient=recipient,
    )
    assert " ".join(clause.sentence) == sentence
    assert " ".join(clause.logical_form) == form
    assert clause.pair == (clause.sentence, clause.logical_form)


def test_data_module() -> None:
    data = GrammarDataModule(batch_size=32, seed=3)
    splits = data.splits
    assert data.train == [clause.pair for clause in splits.train]
    assert data.ood_categories == splits.ood_categories
    assert data.hparams["batch_size"] == 32
    batch = next(iter(data.val_dataloader()[1]))
    assert tuple(data.source_vocabulary.decode(batch["input_ids"][0].tolist())) == splits.ood[0].sentence
    assert tuple(data.target_vocabulary.decode(batch["labels"][0].tolist())) == splits.ood[0].logical_form
    assert data.splits == generate_splits(seed=3)
    other = GrammarDataModule(seed=3, data_seed=1)
    assert other.splits == generate_splits(seed=1)
    assert other.source_vocabulary == data.source_vocabulary


def test_errors() -> None:
    with pytest.raises(ValueError, match="`val_examples` is 0"):
        generate_splits(val_examples=0)
    with pytest.raises(ValueError, match="lack words"):
        generate_splits(train_examples=2, ood_examples=6)
    with pytest.raises(ValueError, match=r"`construction` is 'cleft'; it must be one of \('intransitive'"):
        _ = Clause("cleft", "sent").sentence
