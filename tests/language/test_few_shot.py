"""Few-shot prompts: labels are found by what stands before them, whatever tokenizer there is, or it is said why not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from lightning_interp.language.few_shot import draw_demonstrations, encode_few_shot, label_words
from lightning_interp.tasks import WordTokenizer

TEMPLATE = "{text}\nlabel: {label}\n"
TEXTS = [("good and bad", "good"), ("so bad it is good", "bad"), ("label: good", "good"), ("plain", "bad")]


def characters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


class Pieces:
    """Words with the space before them, and line breaks, each a token: as byte-level tokenizers split."""

    bos_token_id = 0

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, texts: list[str]) -> dict[str, Any]:
        import re

        found = [re.findall(r" ?[a-z]+| ?[^\sa-z]+|\s+", text) for text in texts]
        return {"input_ids": [[self.known.setdefault(one, len(self.known) + 1) for one in some] for some in found]}


@pytest.mark.parametrize(
    "tokenizer", [characters, Pieces(), WordTokenizer(["good", "bad", "label:", "so", "it", "is", "plain", "and"])]
)
def test_labels_are_where_the_template_has_them(tokenizer: Any) -> None:
    words = ["good", "bad"] if tokenizer is not characters else ["g", "b"]
    texts = [(text, words[label == "bad"]) for text, label in TEXTS]
    shown = draw_demonstrations(texts, 3, 2)
    prompts, tokens = encode_few_shot(tokenizer, shown, texts[:3], TEMPLATE, words, start=1)
    assert len({*tokens.tolist()}) == 2
    for some, prompt, (_text, label) in zip(shown, prompts, texts[:3], strict=True):
        assert prompt.ids[prompt.labels].tolist() == [tokens[words.index(one)] for _, one in some]
        assert prompt.classes.tolist() == [words.index(one) for _, one in some]
        assert prompt.answer == words.index(label)
        assert prompt.ids[0] == prompt.alone[0] == 1
        assert torch.equal(prompt.ids[-len(prompt.alone) + 1 :], prompt.alone[1:])
        # Texts hold the tokens of labels too; those are not meant.
        assert len(prompt.labels) == 4
    if tokenizer is not characters:
        assert max(Counter(prompts[1].ids.tolist()).values()) > 2


def test_the_space_before_a_label_is_the_labels_where_the_tokenizer_puts_it_there() -> None:
    pieces = Pieces()
    prompts, tokens = encode_few_shot(pieces, [TEXTS[:2]], TEXTS[:1], TEMPLATE, ["good", "bad"])
    names = {number: piece for piece, number in pieces.known.items()}
    assert [names[one] for one in tokens.tolist()] == [" good", " bad"]
    assert names[int(prompts[0].ids[-1])] == ":"


def test_draws_are_balanced_and_the_same_for_ever() -> None:
    examples = [(f"text {number}", "xyz"[number % 3]) for number in range(30)]
    found = draw_demonstrations(examples, 20, 2, seed=3)
    assert all(Counter(label for _, label in some) == {"x": 2, "y": 2, "z": 2} for some in found)
    assert draw_demonstrations(examples, 5, 2, seed=3) == found[:5]
    assert draw_demonstrations(examples, 5, 2, seed=4) != found[:5]
    assert len({tuple(some) for some in found}) == 20
    assert len({tuple(label for _, label in some) for some in found}) > 5
    assert label_words(examples) == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("words", "template", "tokenizer", "message"),
    [
        (["good", "bad"], TEMPLATE, characters, "the label 'good' is 4 tokens behind 'good and bad.nlabel: '"),
        (["good", "bad"], TEMPLATE, WordTokenizer(["x"]), "the labels 'good' and 'bad' are the same token, 3"),
        (["good", "bad"], "{text} {label}", Pieces(), "the tokenizer joins the label 'good' with what stands beside"),
        (["good", "bad"], "{label}: {text}", Pieces(), "`template` must have one '{text}' and behind it one '{label}'"),
        (["good", "bad"], "{text}: {label} {label}", Pieces(), "`template` must have one"),
    ],
)
def test_what_cannot_be_found_is_told(words: list[str], template: str, tokenizer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_few_shot(tokenizer, [TEXTS[:2]], TEXTS[:1], template, words)


def test_a_prompt_that_ends_with_a_label_is_told() -> None:
    with pytest.raises(ValueError, match="a prompt ends with its last label: '' has no token in `template`"):
        encode_few_shot(characters, [[("a", "x"), ("b", "y")]], [("", "x")], "{text}{label}", ["x", "y"])


def test_too_few_examples_are_told() -> None:
    with pytest.raises(ValueError, match="`shots` is 3, and `examples` has 2 of the label 'good'"):
        draw_demonstrations(TEXTS, 1, 3)
    with pytest.raises(ValueError, match="`shots` must be at least 1, got 0"):
        draw_demonstrations(TEXTS, 1, 0)
