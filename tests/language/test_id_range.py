"""Tokenizers of every kind, and those that are not the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tasks.test_scoring import gpt2
from tasks.toy_lm import ToyLM
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from lightning_interp import ClozeFacts, MinimalPairs, TaskSpace, analyze
from lightning_interp.language import encode_sentences
from lightning_interp.language.id_range import check_ids
from lightning_interp.tasks import MinimalPair, Scorer, Task
from lightning_interp.tasks.facts import Fact
from lightning_interp.tasks.loading import find_tokenizer

WORDS = {"[BOS]": 0, "the": 1, "cat": 2, "cats": 3, "sleep": 4, "sleeps": 5, "[EOS]": 6}
SENTENCES = ["the cat sleeps", "the cats sleep"]
IDS = [[1, 2, 5], [1, 3, 4]]


def fast() -> Tokenizer:
    """Of the package tokenizers: its ``encode`` gives an Encoding, with special tokens unless told otherwise."""
    inner = Tokenizer(models.WordLevel(WORDS, unk_token="[EOS]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 0), ("[EOS]", 6)]
    )
    return inner


class EncodeOnly:
    """As ``tiktoken.Encoding`` is: it has ``encode``, and cannot be called."""

    def __init__(self, more: int = 0) -> None:
        self.more = more

    def encode(self, text: str, *, allowed_special: Any = frozenset()) -> list[int]:
        return [WORDS[word] + self.more for word in text.split()]


@pytest.mark.parametrize(
    "tokenizer",
    [
        EncodeOnly(),
        EncodeOnly().encode,
        fast(),
        lambda text: fast().encode(text, add_special_tokens=False),
        lambda text: np.array(EncodeOnly().encode(text)),
        lambda text: list(np.array(EncodeOnly().encode(text))),
        lambda text: torch.tensor(EncodeOnly().encode(text)),
        lambda text: {"input_ids": EncodeOnly().encode(text)},
        PreTrainedTokenizerFast(tokenizer_object=fast()),
    ],
    ids=[
        "encode only",
        "function",
        "tokenizers",
        "encoding",
        "array",
        "numpy ids",
        "tensor",
        "mapping",
        "transformers",
    ],
)
def test_every_kind_of_tokenizer_gives_the_same_ids(tokenizer: Any) -> None:
    assert [ids.tolist() for ids in encode_sentences(tokenizer, SENTENCES)] == IDS


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (object(), "can neither be called nor has it `encode`: it is a object"),
        (lambda text: "abc", "must give a list of ids for a sentence, got 'abc'"),
        (lambda text: [0.5], r"must give a list of ids for a sentence, got \[0.5\]"),
        (lambda text: {"ids": [1]}, "must give a list of ids"),
    ],
)
def test_what_is_no_tokenizer_is_told(tokenizer: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        encode_sentences(tokenizer, SENTENCES)


class Module(pl.LightningModule):
    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm, self.words = lm, EncodeOnly()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def test_an_attribute_that_only_encodes_is_a_tokenizer() -> None:
    assert isinstance(find_tokenizer("words", Module(ToyLM())), EncodeOnly)
    with pytest.raises(ValueError, match="that attribute is a int"):
        find_tokenizer("lm.positions.num_embeddings", Module(ToyLM()))


def test_a_folder_that_is_no_tokenizer_says_that_an_object_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"A tokenizer that you have loaded can be given itself\.$"):
        find_tokenizer(tmp_path, Module(ToyLM()))
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"'model-q4.gguf' there is read by .*gguf_file='model-q4.gguf'\)"):
        find_tokenizer(tmp_path, Module(ToyLM()))


def callbacks(tokenizer: Any) -> dict[str, Any]:
    tasks = [
        Task(name, "p", tuple(MinimalPair(good, bad) for good, bad in pairs))
        for name, pairs in {
            "a": [("the cat sleeps", "the cats sleeps"), ("the cats sleep", "the cat sleep")],
            "b": [("cat the sleeps", "cats the sleeps"), ("cats the sleep", "cat the sleep")],
        }.items()
    ]
    facts = [Fact("r", "the ___ sleeps", "cat", ("cat", "cats"))]
    return {
        "minimal pairs": MinimalPairs(tasks, tokenizer=tokenizer, model="lm"),
        "cloze": ClozeFacts(facts, tokenizer=tokenizer, model="lm"),
        "task space": TaskSpace(tasks, tokenizer=tokenizer, model="lm"),
    }


@pytest.mark.parametrize("name", ["minimal pairs", "cloze", "task space"])
@pytest.mark.parametrize(
    ("lm", "more", "message"),
    [
        (ToyLM, 40, "ids up to 4[45], but the largest embedding of ToyLM has 12 rows: they do not go together"),
        # Its embedding of places is larger than that of words, so that only running it tells.
        (ToyLM, 6, r"ids up to 11, but the embeddings of ToyLM have the rows \{'embedding': 11, 'positions': 12\}"),
        (lambda: gpt2(11), 6, "ids up to 11, but the embedding of GPT2LMHeadModel has 11 rows"),
    ],
    ids=["far", "near", "transformers"],
)
def test_ids_beyond_the_embedding_name_both_sizes(name: str, lm: Any, more: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analyze(Module(lm()), [torch.zeros(1, 2)], callbacks(EncodeOnly(more))[name])


def test_the_same_without_a_callback() -> None:
    with pytest.raises(ValueError, match=r"ids up to 45, but the embeddings of ToyLM have the rows"):
        Scorer(ToyLM(), EncodeOnly(40)).accuracy([("the cat sleeps", "the cats sleeps")])
    check_ids(nn.Linear(2, 2), [torch.tensor([99])])  # nothing tells how many there are


def test_an_index_error_of_the_models_own_stays_what_it_is() -> None:
    class Wrong(ToyLM):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            raise IndexError("list index out of range")

    with pytest.raises(IndexError, match="list index out of range"):
        Scorer(Wrong(), EncodeOnly()).accuracy([("the cat sleeps", "the cats sleeps")])
