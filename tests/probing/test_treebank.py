"""Gold trees: those of the built-in grammar, and those of CoNLL-U files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference.sentences import NOUNS, subject_verb_combinations

from lightning_interp.functional import chain_scores
from lightning_interp.probing.treebank import Sentence, grammar_treebank, read_conllu
from lightning_interp.tasks import generate_corpus, grammar_tasks
from lightning_interp.tasks.grammar.lexicon import PERSONS, THINGS, VERBS, is_held_out
from lightning_interp.tasks.grammar.parse import AmbiguousSentenceError, parse_sentence

NOUN = {form: noun for noun in PERSONS + THINGS for form in (noun.singular, noun.plural)}
VERB = {form: verb for verb in VERBS for form in (verb.singular, verb.plural, verb.participle) if form}


@pytest.fixture(scope="module")
def treebank() -> list[Sentence]:
    return grammar_treebank(3000, max_words=60)


def children(sentence: Sentence, head: int, relation: str) -> list[int]:
    return [
        i for i, (h, r) in enumerate(zip(sentence.heads, sentence.relations, strict=True)) if (h, r) == (head, relation)
    ]


def subjects(sentence: Sentence) -> list[tuple[int, int]]:
    """Who acts and the verb, behind a relative pronoun too."""
    found = []
    for word, (head, relation) in enumerate(zip(sentence.heads, sentence.relations, strict=True)):
        if relation in ("nsubj", "obl:agent"):
            found.append((sentence.heads[head] if sentence.tags[word] == "PRON" else word, head))
    return found


def test_no_subject_in_a_tree_is_one_that_the_corpus_holds_out(treebank: list[Sentence]) -> None:
    # A quarter of all combinations is held out, so a subject hung on the wrong verb shows.
    number = 0
    for sentence in treebank:
        for noun, verb in subjects(sentence):
            number += 1
            assert not is_held_out(NOUN[sentence.words[noun]], VERB[sentence.words[verb]]), sentence
    assert number > 5000


def test_verbs_agree_with_their_subjects(treebank: list[Sentence]) -> None:
    checked = 0
    for sentence in treebank:
        for noun, verb in subjects(sentence):
            form, word = VERB[sentence.words[verb]], sentence.words[verb]
            plural = sentence.words[noun] == NOUN[sentence.words[noun]].plural or bool(children(sentence, noun, "conj"))
            auxiliaries = children(sentence, verb, "aux")
            if auxiliaries:
                assert (sentence.words[auxiliaries[0]] == "have") == plural, sentence
            elif word != form.participle:
                assert (word == form.plural) == plural, sentence
            checked += 1
    assert checked > 5000


def test_trees_have_the_combinations_that_the_order_of_words_tells(treebank: list[Sentence]) -> None:
    for sentence in treebank[:1000]:
        found = {(NOUN[sentence.words[n]].singular, VERB[sentence.words[v]].plural) for n, v in subjects(sentence)}
        assert subject_verb_combinations(str(sentence)) <= found, sentence


def test_nouns_have_their_determiner_and_nothing_hangs_on_a_full_stop(treebank: list[Sentence]) -> None:
    for sentence in treebank:
        stop = len(sentence) - 1
        assert sentence.words[stop] == "."
        assert sentence.heads[stop] == sentence.heads.index(-1)
        assert stop not in sentence.heads
        for word, tag in enumerate(sentence.tags):
            if tag == "NOUN":
                assert sentence.words[word] in NOUNS
                assert len(children(sentence, word, "det")) + len(children(sentence, word, "nmod:poss")) == 1
            if tag == "ADP":
                assert sentence.heads[word] > word


TREES = {
    "the king near the queens sleeps .": [1, 5, 4, 4, 1, -1, 5],
    "the boys have never greeted her own aunts .": [1, 4, 4, 4, -1, 7, 7, 4, 4],
    "no lamp is repaired by the tall nun .": [1, 3, 3, -1, 7, 7, 7, 3, 3],
    "the king and the queen themselves": None,
    "the boy knows what the girl who yawns thinks that the maid cleans .": [
        *(1, 2, -1, 12, 5, 8, 7, 5, 2, 12, 11, 12, 8, 2),
    ],
    "the boy asks whether the lamp which the maid sells gleams and the king sings .": [
        *(1, 2, -1, 10, 5, 10, 9, 8, 9, 5, 2, 14, 13, 14, 2, 2),
    ],
    "the aunts help the boy and the girl .": [1, 2, -1, 4, 2, 7, 7, 4, 2],
    "the aunts help the boy and the girl waits .": [1, 2, -1, 4, 2, 8, 7, 8, 2, 2],
}


@pytest.mark.parametrize("sentence", TREES)
def test_trees_by_hand(sentence: str) -> None:
    expected = TREES[sentence]
    if expected is None:
        with pytest.raises(ValueError, match="is no sentence of the built-in grammar: expected"):
            parse_sentence(sentence.split())
    else:
        assert list(parse_sentence(sentence.split()).heads) == expected


def test_two_trees_are_refused_and_rare() -> None:
    sentence = "the king helps the boy and the nuns and the maids sing ."
    with pytest.raises(AmbiguousSentenceError, match="'and' may join nouns or clauses"):
        parse_sentence(sentence.split())
    ambiguous = 0
    for line in generate_corpus(5000):
        try:
            parse_sentence(line.split())
        except AmbiguousSentenceError:
            ambiguous += 1
    assert 0 < ambiguous < 15


def test_sentences_of_minimal_pairs_have_trees() -> None:
    for task in grammar_tasks(pairs=20):
        for pair in task.pairs:
            try:
                assert parse_sentence(pair.good.split()).heads.count(-1) == 1
            except AmbiguousSentenceError:
                assert pair.good.count(" and ") > 1


def test_a_treebank_is_its_corpus_without_repetition() -> None:
    short, long = grammar_treebank(50, seed=4), grammar_treebank(400, seed=4)
    assert long[:50] == short
    assert len({one.words for one in long}) == 400
    assert all(5 <= len(one) <= 24 for one in long)
    assert {str(one) for one in short} <= set(generate_corpus(500, seed=4))


def test_trees_are_no_chains(treebank: list[Sentence]) -> None:
    heads, keep = [torch.tensor(one.heads) for one in treebank], [torch.tensor(one.is_word) for one in treebank]
    chain = chain_scores(heads, keep)
    assert 0.45 < chain.uuas < 0.51
    assert chain.dspr < 0.65
    assert chain.root_accuracy < 0.01


def test_a_treebank_that_the_grammar_cannot_give() -> None:
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        grammar_treebank(0)
    with pytest.raises(ValueError, match="in this order, got 9, 5"):
        grammar_treebank(5, min_words=9, max_words=5)
    with pytest.raises(ValueError, match="the grammar gave 0 different sentences of 2 to 3 words"):
        grammar_treebank(1, min_words=2, max_words=3)


# ------------------------------------------------- CoNLL-U

FILE = """\
# sent_id = 1
# text = Vámonos al mar.
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\tV\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_
3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\tE\t_\t5\tcase\t_\t_
4\tel\tel\tDET\tD\t_\t5\tdet\t_\t_
5\tmar\tmar\tNOUN\tN\t_\t1\tobl\t_\tSpaceAfter=No
5.1\tfue\tir\tVERB\t_\t_\t_\t_\t_\t_
6\t.\t.\tPUNCT\tF\t_\t1\tpunct\t_\t_

# text = New York
1\tNew York\tNew York\tPROPN\tS\t_\t0\troot\t_\t_
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "some.conllu"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_multiword_tokens_and_empty_nodes_are_skipped(tmp_path: Path, line_end: str) -> None:
    path = tmp_path / "some.conllu"
    path.write_bytes(FILE.replace("\n", line_end).encode("utf-8"))
    one, other = read_conllu(path)
    assert one.words == ("Vamos", "nos", "a", "el", "mar", ".")
    assert one.tags == ("VERB", "PRON", "ADP", "DET", "NOUN", "PUNCT")
    assert one.heads == (-1, 0, 4, 4, 0, 0)
    assert one.relations[2] == "case"
    assert other.words == ("New York",)


def test_which_sentences_and_tags(tmp_path: Path) -> None:
    path = written(tmp_path, FILE)
    assert [len(one) for one in read_conllu(path, max_sentences=1)] == [6]
    assert [len(one) for one in read_conllu(path, max_words=5)] == [1]
    assert [len(one) for one in read_conllu(path, min_words=2)] == [6]
    assert read_conllu(path, tags="xpos")[0].tags == ("V", "P", "E", "D", "N", "F")


BAD = [
    (("2\tnos\tnosotros", "2\tnos"), r"line 5: expected 10 columns separated by tabs, got 9"),
    (("\t1\tobj", "\t_\tobj"), r"line 5: the head is '_'; expected a number"),
    (("\t1\tobj", "\t9\tobj"), r"the sentence at line 3: `heads` must be places from 0 to 5"),
    (("\t1\tobj", "\t0\troot"), r"the sentence at line 3: `heads` must have one root, marked by -1, got 2"),
    (("\n2\tnos", "\n7\tnos"), r"line 5: the id is '7'; expected 2"),
    (("\n2\tnos", "\nx\tnos"), r"line 5: the id is 'x'; expected 3, 3-4 or 3.1"),
    (("\t5\tdet", "\t4\tdet"), r"run in a circle"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_an_error_names_file_and_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert FILE.count(change[0]) == 1
    with pytest.raises(ValueError, match=f"some.conllu, (the sentence at )?.*{message}"):
        read_conllu(written(tmp_path, FILE.replace(*change)))


def test_arguments_of_the_reader(tmp_path: Path) -> None:
    path = written(tmp_path, FILE)
    with pytest.raises(ValueError, match="has no sentence of 7 or more words"):
        read_conllu(path, min_words=7)
    with pytest.raises(ValueError, match="`tags` must be 'upos' or 'xpos', got 'pos'"):
        read_conllu(path, tags="pos")
    with pytest.raises(ValueError, match="`max_sentences` must be at least 1"):
        read_conllu(path, max_sentences=0)
    with pytest.raises(FileNotFoundError):
        read_conllu(tmp_path / "none.conllu")


def test_a_sentence_checks_itself() -> None:
    with pytest.raises(ValueError, match="`tags` has 1 entries for 2 words"):
        Sentence(("a", "b"), ("X",), (-1, 0))
    with pytest.raises(ValueError, match="`words` is empty"):
        Sentence((), (), ())
