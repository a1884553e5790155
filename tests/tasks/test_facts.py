"""Facts: what they may be, tables, the made-up world, and how candidates become sentences that a model scores."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from tasks.test_scoring import bert, gpt2
from tasks.toy_lm import ToyLM

from lightning_interp.language import encode_sentences
from lightning_interp.language.likelihood import eval_mode
from lightning_interp.language.masked import masked_log_probs, masked_rows
from lightning_interp.language.scores import encoded_log_probs
from lightning_interp.tasks import Fact, Scorer, WordTokenizer, fact_world, read_facts
from lightning_interp.tasks.cloze import encode_cloze, mask_cloze
from lightning_interp.tasks.facts import draw_facts, majority_share, with_candidates

CAPITALS = [Fact("capital", f"the capital of {land} is ___ .", town) for land, town in (("a", "x"), ("b", "y"))]


# ------------------------------------------------- facts


def test_the_answer_is_a_candidate_whether_listed_or_not() -> None:
    assert Fact("r", "p ___", "a", ("b", "c", "b")).candidates == ("a", "b", "c")
    assert Fact("r", "p ___", "a", ("b", "a")).candidates == ("a", "b")
    fact = Fact("r", "x ___ y", "long answer")
    start, end = fact.span("filling")
    assert fact.filled("filling")[start:end] == "filling"


def test_candidates_are_the_answers_of_the_relation() -> None:
    first, second = with_candidates(CAPITALS)
    assert (first.candidates, second.candidates) == (("x", "y"), ("y", "x"))
    many = [Fact("r", f"{place} ___", f"answer{place}") for place in range(30)]
    drawn, again = with_candidates(many, 5), with_candidates(many[::-1], 5)[::-1]
    assert drawn == again != with_candidates(many, 5, seed=1)
    for fact in drawn:
        assert len(fact.candidates) == len(set(fact.candidates)) == 5
        assert fact.candidates[0] == fact.answer
    own = Fact("r", "own ___", "a", ("b",))
    assert with_candidates([*many, own], 5)[-1] is own


def test_drawn_facts_do_not_depend_on_other_relations() -> None:
    world = fact_world(people=12)
    drawn = draw_facts(world.facts, 5, seed=3)
    assert list(Counter(fact.relation for fact in drawn).values()) == [5, 5, 5, 5]
    pets = [fact for fact in world.facts if fact.relation == "pet"]
    assert draw_facts(pets, 5, seed=3) == [fact for fact in drawn if fact.relation == "pet"]
    assert draw_facts(pets, None) == draw_facts(pets, 50) == pets


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Fact("r", "no blank", "a"), "`prompt` must have one blank '___', got 'no blank'"),
        (lambda: Fact("r", "___ and ___", "a"), "must have one blank"),
        (lambda: Fact("r", "___", " "), "`answer` is ' ' in the fact '___' of 'r'"),
        (lambda: Fact("", "___", "a"), "`relation` is ''"),
        (lambda: Fact("r", "___", "a", ("b", "")), r"`candidates\[1\]` is ''"),
        (lambda: with_candidates([Fact("r", "___", "a")]), "relation 'r' has the one answer 'a' and no candidates"),
        (lambda: with_candidates([Fact("r", "___", "a", ("a",))]), "has no candidate besides its answer"),
        (lambda: with_candidates(CAPITALS, 1), "must be at least 2, got 1"),
        (lambda: majority_share([]), "`facts` is empty"),
        (lambda: fact_world(relations=["taste"]), r"`relations` is \['taste'\]; it must name some of \['birthplace'"),
        (lambda: fact_world(people=0), "`people` must lie between 1 and 10000, got 0"),
        (lambda: fact_world(answers=9), "`answers` must lie between 2 and 8, got 9"),
        (lambda: fact_world(skew=-1), "`skew` must be at least 0, got -1"),
    ],
)
def test_bad_facts_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------- files


def test_tables_and_json_lines_give_the_same_facts(tmp_path: Path) -> None:
    rows = [("capital", "The capital of [Y] is big, no?", "Peru", "Peru|Chad"), ("river", "[Y] flows", "the Nile", "")]
    (tmp_path / "a.csv").write_text(
        "relation,prompt,answer,candidates\n" + "".join(f'{r},"{p}",{a},{c}\n' for r, p, a, c in rows)
    )
    (tmp_path / "a.tsv").write_text(
        "candidates\tprompt\tanswer\trelation\n" + "".join(f"{c}\t{p}\t{a}\t{r}\n" for r, p, a, c in rows)
    )
    lines = [{"relation": r, "prompt": p, "answer": a, "candidates": c.split("|") if c else []} for r, p, a, c in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    expected = [
        Fact("capital", "The capital of ___ is big, no?", "Peru", ("Peru", "Chad")),
        Fact("river", "___ flows", "the Nile"),
    ]
    for kind in ("csv", "tsv", "jsonl"):
        assert read_facts(tmp_path / f"a.{kind}", blank="[Y]") == expected, kind


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "prompt\tanswer\nno blank\tx\n", r"a.tsv, line 2: `prompt` must have one blank"),
        ("a.tsv", "prompt\tanswer\n___\t\n", "a.tsv, line 2: `answer` is ''"),
        ("a.tsv", "sentence\tanswer\n___\tx\n", r"`prompt` is 'prompt'; the header has \['sentence', 'answer'\]"),
        ("a.tsv", "prompt\tanswer\n", "has no rows of facts"),
        ("a.tsv", "relation\tprompt\tanswer\n\t___\tx\n", "line 2: `relation` is ''"),
        ("a.jsonl", "{", "a.jsonl, line 1: not JSON"),
        ("a.jsonl", "[]", "expected a JSON object"),
        ("a.jsonl", '{"prompt": "___"}', r"`answer` is 'answer'; the line has \['prompt'\]"),
        ("a.jsonl", '{"prompt": "___", "answer": 3}', "line 1: `answer` is 3"),
        ("a.txt", "prompt", "give `delimiter`"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_facts(tmp_path / name)


# ------------------------------------------------- a made-up world


def test_the_text_tells_every_fact_in_two_wordings_and_nothing_else() -> None:
    world = fact_world(people=20, skew=1.0, seed=4)
    assert world == fact_world(people=20, skew=1.0, seed=4) != fact_world(people=20, skew=1.0, seed=5)
    assert len(world.facts) == 20 * 4
    assert len(world.sentences) == len(set(world.sentences)) == 2 * len(world.facts)
    told = set(world.sentences)
    for fact in world.facts:
        assert fact.filled(fact.answer) in told
        assert not told & {fact.filled(other) for other in fact.candidates if other != fact.answer}
    assert WordTokenizer(world.words).unk_token_id not in WordTokenizer(world.words).encode(" ".join(world.words))


def test_a_skewed_world_has_a_frequent_answer() -> None:
    even, skewed = [majority_share(fact_world(people=2000, relations=["pet"], skew=skew).facts) for skew in (0.0, 2.0)]
    assert even == pytest.approx(1 / 8, abs=0.03)
    assert skewed == pytest.approx(1 / sum(place**-2.0 for place in range(1, 9)), abs=0.03)


# ------------------------------------------------- scores


def test_the_sentence_ranks_candidates_by_their_own_tokens_and_what_follows() -> None:
    words = WordTokenizer(["red", "blue", "very", "is", "it", "sky", "now"])
    fact = Fact("r", "it is ___ now", "very blue", ("red",))
    model = ToyLM(len(words))
    with eval_mode(model):
        scores = encoded_log_probs(model, encode_cloze(words, [fact]), 4096, None, 0)
        completions = []
        for filling in fact.candidates:
            ids = encode_sentences(words, [fact.filled(filling)])[0]
            log_p = model(ids[None]).log_softmax(-1)[0]
            completions.append(sum(float(log_p[place - 1, ids[place]]) for place in range(3, len(ids))))
    assert float(scores[0] - scores[1]) == pytest.approx(completions[0] - completions[1], abs=1e-5)


def test_a_blank_is_masked_from_the_left() -> None:
    model, tokenizer = bert()
    # "kings" is "king", "##s".
    facts = [Fact("r", "the ___ sleeps .", "king", ("kings",)), Fact("r", "the king ___ .", "sleeps", ("sleep the",))]
    rows = mask_cloze(tokenizer, facts)
    model.eval()
    with eval_mode(model):
        scores = masked_log_probs(model, rows, 4, 4096, None, 0)
        expected = []
        for fact in facts:
            for filling in fact.candidates:
                ids = torch.tensor(tokenizer(fact.filled(filling))["input_ids"])
                own = len(tokenizer(filling, add_special_tokens=False)["input_ids"])
                start = 1 + len(tokenizer(fact.prompt.split("___")[0], add_special_tokens=False)["input_ids"])
                score = 0.0
                for place in range(start, start + own):
                    masked = ids.clone()
                    masked[place : start + own] = tokenizer.mask_token_id
                    score += float(model(masked[None]).logits[0, place].log_softmax(-1)[ids[place]])
                expected.append(score)
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert [row.sentence for row in rows] == [0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("budget", [1, 12, 40])
def test_shares_of_the_batches_sum_to_the_whole(world: int, budget: int) -> None:
    model, tokenizer = bert()
    rows = masked_rows(tokenizer, ["the king .", "the king sleeps the kings .", "kings sleep ."], False)
    with eval_mode(model):
        parts = [masked_log_probs(model, rows, 3, budget, None, 0, (rank, world)) for rank in range(world)]
        whole = masked_log_probs(model, rows, 3, budget, None, 0)
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-12)
    lm, words = gpt2(12), WordTokenizer(["a", "b", "c", "d"])
    sentences = ["a b", "a b c d", "c", "d d d", "b a"]
    encoded = encode_sentences(words, sentences)
    with eval_mode(lm):
        parts = [encoded_log_probs(lm, encoded, budget, None, 0, (rank, world)) for rank in range(world)]
        whole = encoded_log_probs(lm, encoded, budget, None, 0)
    # The very numbers: every sentence is in one batch, and the rest are zeros.
    assert torch.equal(sum(parts), whole)
    assert torch.equal(whole.float(), Scorer(lm, words, batch_tokens=budget).score_sentences(sentences))


def test_what_cannot_be_told_apart_is_said() -> None:
    words = WordTokenizer(["the", "king"])
    with pytest.raises(ValueError, match="same ids to the candidates 'dog' and 'cat' of 'the ___'"):
        encode_cloze(words, [Fact("r", "the ___", "dog", ("cat",))])
    letters = lambda sentence: [ord(letter) - 96 for letter in sentence]  # noqa: E731
    with pytest.raises(ValueError, match="differ in the first token"):
        encode_cloze(letters, [Fact("r", "___bc", "a", ("d",))])
    _, tokenizer = bert()
    with pytest.raises(ValueError, match="same ids to the candidates"):
        mask_cloze(tokenizer, [Fact("r", "the ___", "emu", ("yak",))])
    with pytest.raises(ValueError, match="WordTokenizer has no `mask_token_id`"):
        mask_cloze(words, [Fact("r", "the ___", "dog", ("cat",))])


def test_subjects_come_with_a_table_and_stay(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("prompt\tanswer\twho\nada ash lives in ___\tulm\tada ash\nrome is ___\tbig\t\n")
    (tmp_path / "a.jsonl").write_text('{"prompt": "ada lives in ___", "answer": "ulm", "who": "ada"}\n')
    found = read_facts(tmp_path / "a.tsv", subject="who")
    assert [one.subject for one in found] == ["ada ash", ""]
    assert [one.subject for one in with_candidates(found)] == ["ada ash", ""]
    assert read_facts(tmp_path / "a.jsonl", subject="who")[0].subject == "ada"
    assert all(one.prompt.startswith(one.subject) for one in fact_world(people=3, relations=["pet"]).facts)
    with pytest.raises(ValueError, match="`subject` must stand in the prompt 'a ___', got 'b'"):
        Fact("r", "a ___", "c", subject="b")
    (tmp_path / "b.tsv").write_text("prompt\tanswer\tsubject\nada lives in ___\tulm\tbo\n")
    with pytest.raises(ValueError, match=r"b\.tsv, line 2: `subject` must stand in the prompt"):
        read_facts(tmp_path / "b.tsv")
