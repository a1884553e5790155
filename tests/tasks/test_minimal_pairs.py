"""The built-in grammar: its corpus and its minimal pairs, against an independent recogniser."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict

import pytest
from reference.sentences import NOUNS, is_grammatical, subject_verb_combinations

from lightning_interp.tasks import Task, generate_corpus, grammar_tasks, grammar_words
from lightning_interp.tasks.grammar.lexicon import PERSONS, THINGS, VERBS, is_held_out
from lightning_interp.tasks.grammar.paradigms import PARADIGMS, PHENOMENA

REORDERED = ("npi_scope", "coordination_island")
# What counts of neighbouring words cannot decide.
LONG_DISTANCE = (
    "agreement_prepositional",
    "agreement_subject_relative",
    "agreement_object_relative",
    "agreement_coordination",
    "anaphor_gender",
    "possessive_gender",
    "binding_c_command",
    "binding_domain",
    "determiner_noun_adjective",
)


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return generate_corpus(10_000)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return grammar_tasks(pairs=150)


@pytest.mark.parametrize(
    "sentence",
    [
        "the king sleeps .",
        "these old lamps creak .",
        "no boy has ever thanked any queen .",
        "the girl who the kings help admires herself .",
        "the guitar which that monk sells is painted by the nuns and all aunts never clean their own doors .",
        "the king and the queen think that every maid yawns .",
        "these brothers themselves have never greeted any king .",
        "the boys know what the girl near no lamp says that that nun repairs .",
        "this waiter wonders whether the cups beside the door have rusted .",
        "the prince learns who the boys and the girl greet .",
        "the uncle trusts the bride and her .",
    ],
)
def test_recogniser(sentence: str) -> None:
    # The last one plants an error, so that a recogniser that accepts everything would be noticed.
    assert is_grammatical(sentence) == (not sentence.endswith("her ."))


@pytest.mark.parametrize(
    "sentence",
    [
        "the king sleeps",
        "king sleeps .",
        "the king sleep .",
        "the king sleeps . .",
        "the king the queen sleeps .",
        "this kings sleep .",
        "these king sleeps .",
        "every tall boys yawn .",
        "any king sleeps .",
        "the lamp sleeps .",
        "the king creaks .",
        "the king near the lamps sleep .",
        "the king and the boy sleeps .",
        "the lamp and the boy wait .",
        "the king who help the boys sleeps .",
        "the king who the boys helps sleeps .",
        "the king which sleeps waits .",
        "the girl thanks himself .",
        "the boys thank himself .",
        "the girl cleans his own lamp .",
        "the girl cleans herself .",
        "the girl himself sleeps .",
        "the king themselves sleeps .",
        "no king himself sleeps .",
        "the lamps themselves creak .",
        "the king ever sleeps .",
        "no king never sleeps .",
        "the king near no lamp ever sleeps .",
        "the king ever near no lamp .",
        "the king often helps any boys .",
        "the king helps any boy .",
        "the king helps no boy .",
        "the king knows that the boy repairs .",
        "the king knows what the boy repairs the lamp .",
        "the king knows what the boy helps .",
        "the king thinks what the boy repairs .",
        "the king wonders that the boy sleeps .",
        "the king knows what the boy sleeps .",
        "the king knows what the girl wonders whether the boy repairs .",
        "the king knows who the boys help and the girl .",
        "the king helps .",
        "the king sleeps the lamp .",
        "the king is slept by the boy .",
        "the lamp is repaired by the cup .",
        "the king thanks the lamp .",
        "the king repairs the boy .",
        "the lamp are repaired .",
        "the boy have slept .",
        "the boy has sleep .",
    ],
)
def test_recogniser_rejects(sentence: str) -> None:
    assert not is_grammatical(sentence)


def test_every_sentence_of_the_corpus_is_grammatical(corpus: list[str]) -> None:
    assert [sentence for sentence in corpus[:4000] if not is_grammatical(sentence)] == []
    lengths = [len(sentence.split()) for sentence in corpus]
    assert min(lengths) == 4
    assert sum(lengths) / len(lengths) == pytest.approx(10.5, abs=0.5)


@pytest.mark.parametrize("held_out", [True, False, None])
def test_good_is_grammatical_and_bad_is_not(held_out: bool | None) -> None:
    for task in grammar_tasks(pairs=100, seed=3, held_out=held_out):
        assert [pair for pair in task.pairs if not is_grammatical(pair.good)] == [], task.name
        assert [pair for pair in task.pairs if is_grammatical(pair.bad)] == [], task.name


def test_good_and_bad_differ_in_the_critical_words_only(tasks: list[Task]) -> None:
    for task in tasks:
        for pair in task.pairs:
            good, bad = pair.good.split(), pair.bad.split()
            assert len(good) == len(bad)
            different = sum(a != b for a, b in zip(good, bad, strict=True))
            if task.name in REORDERED:
                assert sorted(good) == sorted(bad)
            else:
                assert different == (2 if task.name == "whether_island" else 1), pair


def test_paradigms_and_phenomena(tasks: list[Task]) -> None:
    assert [task.name for task in tasks] == list(PARADIGMS)
    assert (len(tasks), len({task.phenomenon for task in tasks})) == (30, 9)
    assert {task.phenomenon for task in tasks} == set(PHENOMENA)
    for task in tasks:
        assert len(set(task.pairs)) == len(task) == 150
        # The docstring's table has every paradigm under its phenomenon.
        before, _, _ = (grammar_tasks.__doc__ or "").partition(f"\n    ``{task.name}``")
        assert f"{before}\n".rpartition("**\n")[0].rpartition("**")[2] == task.phenomenon


def test_both_numbers_are_critical_equally_often(tasks: list[Task]) -> None:
    by_name = {task.name: task for task in tasks}
    for name in ("agreement_simple", "agreement_auxiliary", "agreement_prepositional", "agreement_object_relative"):
        critical = Counter()  # type: Counter[bool]
        for pair in by_name[name].pairs:
            (good, bad) = next((a, b) for a, b in zip(pair.good.split(), pair.bad.split(), strict=True) if a != b)
            critical[len(good) > len(bad)] += 1
        assert 50 < critical[True] < 100, name


def test_held_out_combinations(corpus: list[str], tasks: list[Task]) -> None:
    held_out = {(noun.singular, verb.plural) for noun in PERSONS + THINGS for verb in VERBS if is_held_out(noun, verb)}
    everything = {(noun.singular, verb.plural) for noun in PERSONS + THINGS for verb in VERBS}
    assert len(held_out) == len(everything) / 4
    trained = set().union(*map(subject_verb_combinations, corpus))
    assert not trained & held_out
    for task in tasks:
        tested = set().union(*(subject_verb_combinations(pair.good) for pair in task.pairs))
        assert tested <= held_out, task.name
    seen = set().union(
        *(subject_verb_combinations(p.good) for t in grammar_tasks(100, held_out=False) for p in t.pairs)
    )
    assert not seen & held_out
    assert not {pair.good for task in tasks for pair in task.pairs} & set(corpus)
    # Every noun and every verb form is in the corpus nevertheless.
    assert {word for sentence in corpus for word in sentence.split()} == set(grammar_words())


def test_corpus_is_balanced(corpus: list[str]) -> None:
    words = Counter(word for sentence in corpus for word in sentence.split())
    for name, first, second in (
        ("noun number", [n.singular for n in PERSONS + THINGS], [n.plural for n in PERSONS + THINGS]),
        ("gender", [n.singular for n in PERSONS[:8]], [n.singular for n in PERSONS[8:]]),
        ("reflexive gender", ["himself", "his"], ["herself", "her"]),
        ("verb number", [v.singular for v in VERBS], [v.plural for v in VERBS]),
    ):
        share = sum(words[word] for word in first) / sum(words[word] for word in (*first, *second))
        assert share == pytest.approx(0.5, abs=0.02), name


def test_a_modifier_says_nothing_about_its_head(corpus: list[str]) -> None:
    table = Counter()  # type: Counter[tuple[str, str]]
    for sentence in corpus:
        words = sentence.split()
        place = next((i for i, word in enumerate(words) if word in ("near", "behind", "beside", "above")), 0)
        if place and words[place - 1] in NOUNS:
            attractor = next(word for word in words[place + 1 :] if word in NOUNS)
            table[NOUNS[words[place - 1]][1], NOUNS[attractor][1]] += 1
    total = table.total()
    assert total > 500
    assert all(abs(count - total / 4) < 4 * math.sqrt(total * 3 / 16) for count in table.values())
    assert len(table) == 4


def test_neighbouring_words_do_not_decide_what_is_far(corpus: list[str], tasks: list[Task]) -> None:
    bigrams, unigrams = Counter(), Counter()  # type: Counter[tuple[str, str]], Counter[str]
    for sentence in corpus:
        words = ("", *sentence.split())
        unigrams.update(words[1:])
        bigrams.update(itertools.pairwise(words))
    before = defaultdict(int)  # type: defaultdict[str, int]
    for (first, _), count in bigrams.items():
        before[first] += count

    def score(sentence: str) -> float:
        # Backs off to the word's own frequency, as much as one observation.
        words = ("", *sentence.split())
        total = unigrams.total()
        return sum(
            math.log((bigrams[a, b] + unigrams[b] / total) / (before[a] + 1)) for a, b in itertools.pairwise(words)
        )

    accuracy = {task.name: sum(score(p.good) > score(p.bad) for p in task.pairs) / len(task) for task in tasks}
    assert all(accuracy[name] < 0.6 for name in LONG_DISTANCE), accuracy
    # It does decide what is near, so it is a fair model of neighbours.
    assert all(
        accuracy[name] > 0.9 for name in ("determiner_noun_1", "passive", "agreement_auxiliary", "emphatic_gender")
    )


def test_deterministic() -> None:
    assert generate_corpus(50, seed=1) == generate_corpus(80, seed=1)[:50]
    assert generate_corpus(50, seed=1) != generate_corpus(50, seed=2)
    names = ["npi_scope", "agreement_simple"]
    some = grammar_tasks(pairs=20, seed=1, paradigms=names)
    assert [task.name for task in some] == ["agreement_simple", "npi_scope"]
    assert some == [task for task in grammar_tasks(pairs=20, seed=1) if task.name in names]
    assert some[0].pairs == grammar_tasks(pairs=40, seed=1, paradigms=names)[0].pairs[:20]
    assert some != grammar_tasks(pairs=20, seed=2, paradigms=names)


def test_a_thousand_pairs_of_each() -> None:
    assert {len(task) for task in grammar_tasks(pairs=1000)} == {1000}


def test_errors() -> None:
    with pytest.raises(ValueError, match="`sentences` is 0"):
        generate_corpus(0)
    with pytest.raises(ValueError, match="`pairs` is 0"):
        grammar_tasks(pairs=0)
    with pytest.raises(ValueError, match=r"`paradigms` has 'agreement'; available: \['agreement_simple'"):
        grammar_tasks(paradigms=["agreement"])
    with pytest.raises(ValueError, match="`paradigms` is 'npi_any'; it must be a list"):
        grammar_tasks(paradigms="npi_any")
    with pytest.raises(ValueError, match="the grammar has too few of 'anaphor_gender'"):
        grammar_tasks(pairs=1500, paradigms=["anaphor_gender"])
