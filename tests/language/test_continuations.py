"""Where what follows a text begins: spaces that go to words, joined seams, start tokens, what has no probability."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_interp.language.continuations import encode_continuations
from lightning_interp.language.likelihood import sentence_log_probs
from lightning_interp.language.scores import encoded_log_probs
from lightning_interp.language.templates import check_places, filled_template
from lightning_interp.tasks import WordTokenizer

PIECES = ["a", "b", "c", " ", " a", " b", "bc", " bc"]


def pieces(text: str) -> list[int]:
    """The longest piece first, as tokenizers do that put a space to the word behind it."""
    found = []
    while text:
        best = max((one for one in PIECES if text.startswith(one)), key=len)
        found.append(1 + PIECES.index(best))
        text = text[len(best) :]
    return found


@pytest.mark.parametrize(
    ("before", "texts", "first"),
    [
        ("a ", ["a b", "a a"], 1),  # the space is the word's
        ("a", ["ab", "aa"], 1),
        ("ab", ["abc", "aba"], 1),  # the tokenizer joins b and c
        ("a b", ["a ba", "a bb"], 2),
    ],
)
def test_what_is_joined_belongs_to_what_follows(before: str, texts: list[str], first: int) -> None:
    found = encode_continuations(pieces, before, texts)
    assert found.first == first
    assert found.lengths == [len(pieces(one)) - first for one in texts]


def test_a_start_token_gives_what_comes_first_a_probability() -> None:
    words = WordTokenizer(["a", "b"])
    found = encode_continuations(words, "", ["a", "b a"])
    assert (found.first, found.lengths) == (1, [1, 2])
    with pytest.raises(ValueError, match=r"begins with the token that is to be predicted.*`bos_token_id`"):
        encode_continuations(words, "", ["a b", "b a"], add_bos=False)
    assert encode_continuations(pieces, "", ["ab", "b"], bos_token_id=0).first == 1


def test_what_cannot_be_told_apart_is_refused() -> None:
    words = WordTokenizer(["a", "b"])
    with pytest.raises(ValueError, match="the same ids to 'a x' and 'a y'"):
        encode_continuations(words, "a", ["a x", "a y"])
    with pytest.raises(ValueError, match="gives 'a' no token that 'a' has not"):
        encode_continuations(words, "a", ["a", "a b"])


def test_the_probability_of_an_end_is_what_the_whole_has_less_its_beginning() -> None:
    torch.manual_seed(0)
    model = nn.Embedding(9, 9).requires_grad_(False)
    whole = [torch.randint(1, 9, (length,)) for length in (3, 5, 8)]
    first = torch.tensor([1, 3, 4])
    ends = encoded_log_probs(model, whole, 16, None, 0, first=first)
    for ids, since, found in zip(whole, first.tolist(), ends, strict=True):
        all_of_it, begins = (
            float(sentence_log_probs(model, one[None], torch.ones_like(one)[None])) if len(one) > 1 else 0.0
            for one in (ids, ids[:since])
        )
        assert float(found) == pytest.approx(all_of_it - begins, abs=1e-5)


def test_templates_take_braces_as_they_are() -> None:
    assert filled_template("{a} {c} {b}", a="{b}", b="x") == "{b} {c} x"
    for wrong in ("{b}", "{b} {a}", "{a} {b} {b}", 3):
        with pytest.raises(ValueError, match=r"`t` must have '\{a\}' and behind it, once, '\{b\}'"):
            check_places("t", wrong, ["a"], "b")  # type: ignore[arg-type]
