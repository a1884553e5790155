"""Scores of sentences and pairs: against loops in float64, over tokenizers, batchings and ways to give logits."""

from __future__ import annotations

import copy
import itertools
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import minimal_pairs as plain
from tasks.toy_lm import ToyLM, random_pairs
from torch import Tensor, nn

from lightning_interp.language import WordTokenizer, length_batches, pad_right, perplexity, pseudo_log_likelihoods
from lightning_interp.language.encoding import encode_sentences, padding_id
from lightning_interp.language.likelihood import sentence_log_probs, takes_mask
from lightning_interp.models import small_gpt2
from lightning_interp.tasks.pairs import MinimalPair, Task
from lightning_interp.tasks.scoring import Scorer, margin_accuracy

SEEDS = st.integers(0, 10**6)
WORDS = ["the", "king", "kings", "sleep", "sleeps", "."]


def word_tokenizer() -> WordTokenizer:
    return WordTokenizer(WORDS)


def letters(sentence: str) -> list[int]:
    return [ord(letter) - 96 for letter in sentence]


def fast_tokenizer(bos: bool = True, prefix_space: bool = False, side: str = "right"):
    """A byte-level BPE like that of GPT-2, with a template that would add a start and an end token."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    inner.train_from_iterator(["the king sleeps", "the kings sleep"] * 5, trainer)
    end = inner.token_to_id("<|end|>")
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|end|> $A <|end|>", special_tokens=[("<|end|>", end)]
    )
    names = {"eos_token": "<|end|>", "pad_token": "<|end|>"} | ({"bos_token": "<|end|>"} if bos else {})
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, padding_side=side, **names)


def bert(within: int = 24):
    """A masked model and a WordPiece tokenizer that splits "kings" and "sleeps" in two."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "king", "sleep", "##s", "."]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=within,
    )
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model, tokenizer


def gpt2(vocabulary: int):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    more = {"initializer_range": 0.5, "bos_token_id": 1, "eos_token_id": 2}
    return small_gpt2(range(vocabulary), 16, heads=2, length=32, dropout=0.1, **more)


# Encoding.


def test_words_get_a_start_and_no_end() -> None:
    assert [ids.tolist() for ids in encode_sentences(word_tokenizer(), ["the king ."])] == [[1, 9, 5, 4]]
    assert encode_sentences(word_tokenizer(), ["the king ."], add_bos=False)[0].tolist() == [9, 5, 4]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_fast_tokenizer_gets_one_start_and_no_end_whatever_its_template(side: str) -> None:
    tokenizer = fast_tokenizer(side=side)
    plain_ids = tokenizer("the king", add_special_tokens=False)["input_ids"]
    assert encode_sentences(tokenizer, ["the king", "the"])[0].tolist() == [0, *plain_ids]
    assert encode_sentences(tokenizer, ["the king"], add_bos=False)[0].tolist() == plain_ids
    assert tokenizer("the king")["input_ids"] == [0, *plain_ids, 0]


def test_without_a_start_token_the_first_is_context_unless_one_is_given() -> None:
    tokenizer = fast_tokenizer(bos=False)
    ids = encode_sentences(tokenizer, ["the king"])[0].tolist()
    assert ids == tokenizer("the king", add_special_tokens=False)["input_ids"]
    assert encode_sentences(tokenizer, ["the king"], bos_token_id=tokenizer.eos_token_id)[0].tolist() == [0, *ids]
    with pytest.raises(ValueError, match="`add_bos` is true but the tokenizer has no `bos_token_id`"):
        encode_sentences(tokenizer, ["the king"], add_bos=True)


def test_a_space_in_front_is_the_tokenizers_affair() -> None:
    with_space, without = (fast_tokenizer(prefix_space=one) for one in (True, False))
    assert with_space.convert_ids_to_tokens(encode_sentences(with_space, ["king"])[0].tolist()) == ["<|end|>", "Ġking"]
    assert "".join(without.convert_ids_to_tokens(encode_sentences(without, ["king"])[0].tolist()[1:])) == "king"


def test_a_start_that_is_there_is_not_doubled() -> None:
    class Old:
        bos_token_id = 1

        def __call__(self, sentences: list[str]) -> dict[str, Tensor]:
            return {"input_ids": torch.tensor([[1, 7, 8]] * len(sentences))}

    assert encode_sentences(Old(), ["x", "y"])[1].tolist() == [1, 7, 8]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: encode_sentences(letters, ["abc", "a"]), ValueError, "the sentence 'a' is 1 token"),
        (lambda: encode_sentences(word_tokenizer(), ["the king", ""]), ValueError, "the sentence '' is 1 token"),
        (lambda: encode_sentences(letters, "abc"), TypeError, "the single string 'abc'"),
        (lambda: encode_sentences(lambda text: text.split(), ["a b"]), TypeError, "a list of ids for a sentence"),
        (lambda: length_batches([1], 0), ValueError, "`batch_tokens` must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_encoded_is_said(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_padding_id_is_the_tokenizers_where_it_has_one() -> None:
    assert (
        padding_id(letters),
        padding_id(types.SimpleNamespace(pad_token_id=None)),
        padding_id(word_tokenizer()),
    ) == (
        0,
        0,
        0,
    )
    assert padding_id(types.SimpleNamespace(pad_token_id=7)) == 7


# Sentences.


@given(seed=SEEDS, budget=st.integers(1, 60))
def test_scores_are_the_reference_in_any_batch(seed: int, budget: int) -> None:
    model = ToyLM(seed=seed % 7)
    sentences = list(itertools.chain.from_iterable(random_pairs(4, seed)))
    names = {str(ids.tolist()): ids for ids in sentences}
    scores = Scorer(model, lambda name: names[name].tolist(), batch_tokens=budget).score_sentences(list(names))
    exact = copy.deepcopy(model).double().eval()
    expected = torch.stack([plain.log_prob(exact, ids) for ids in names.values()]).detach()
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-5)
    encoded = list(names.values())
    tokens = sum(len(ids) - 1 for ids in encoded)
    assert perplexity(model, encoded, batch_tokens=budget) == pytest.approx(
        float((-expected.sum() / tokens).exp()), rel=1e-5
    )


def test_a_compiled_model_is_called_as_the_model_in_it() -> None:
    model = ToyLM().eval()  # takes ids alone
    ids = [torch.tensor([1, 2, 3]), torch.tensor([4, 5])]
    compiled = torch.compile(model, backend="eager")
    assert takes_mask(compiled) is takes_mask(model) is False
    torch.testing.assert_close(
        sentence_log_probs(compiled, *pad_right(ids)), sentence_log_probs(model, *pad_right(ids))
    )


@given(lengths=st.lists(st.integers(1, 20), max_size=30), budget=st.integers(1, 64))
def test_batches_hold_everything_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = length_batches(lengths, budget)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(len(one) == 1 or len(one) * max(lengths[item] for item in one) <= budget for one in batches)


def test_a_transformers_model_whatever_the_batch_and_the_padding() -> None:
    tokenizer = fast_tokenizer()
    model = gpt2(len(tokenizer))
    sentences = ["the king sleeps", "the", "kings sleep the the king the kings", "the king sleeps"]
    alone = [float(Scorer(model, tokenizer).score_sentences([one])) for one in sentences]
    for budget in (1, 20, 10_000):
        together = Scorer(model, tokenizer, batch_tokens=budget).score_sentences(sentences)
        torch.testing.assert_close(together, torch.tensor(alone), rtol=0, atol=1e-5)
    encoded = encode_sentences(tokenizer, sentences)
    logits = model.eval()(encoded[2][None]).logits[0, :-1].log_softmax(-1)
    by_hand = logits.gather(-1, encoded[2][1:, None]).sum().detach()
    assert float(by_hand) == pytest.approx(alone[2], abs=1e-5)


class Shaped(nn.Module):
    """Gives the logits of a table in a shape of choice."""

    def __init__(self, shape) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.arange(16.0).view(4, 4).sin())
        self.shape = shape

    def forward(self, input_ids: Tensor, attention_mask: Tensor):
        assert attention_mask.shape == input_ids.shape
        return self.shape(self.table(input_ids))


@pytest.mark.parametrize(
    "shape",
    [
        lambda logits: logits,
        lambda logits: {"loss": 0, "logits": logits},
        lambda logits: (torch.zeros(3), logits),
        lambda logits: types.SimpleNamespace(logits=logits),
    ],
)
def test_logits_are_found_in_every_usual_output(shape) -> None:
    ids, mask = torch.tensor([[1, 2, 3], [3, 1, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    model = Shaped(shape)
    scores = sentence_log_probs(model, ids, mask)
    table = model.table.weight.log_softmax(-1)
    torch.testing.assert_close(scores, torch.stack([table[1, 2] + table[2, 3], table[3, 1]]))
    given_forward = sentence_log_probs(model, ids, mask, forward=lambda one, ids, mask: one.table(ids))
    torch.testing.assert_close(given_forward, scores)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (lambda logits: {"hidden": logits}, r"a mapping with the keys \['hidden'\]"),
        (lambda logits: logits[0], r"a tensor \(3, 4\)"),
        (lambda logits: (logits[0],), r"a tuple of a tensor \(3, 4\)"),
        (lambda logits: None, "a NoneType"),
    ],
)
def test_no_logits_is_said(shape, message: str) -> None:
    ids = torch.tensor([[1, 2, 3], [3, 1, 0]])
    with pytest.raises(TypeError, match=message):
        sentence_log_probs(Shaped(shape), ids, torch.ones_like(ids))
    with pytest.raises(ValueError, match=r"\(B, T\) with T at least 2; they are \(2, 1\) and \(2, 1\)"):
        sentence_log_probs(Shaped(shape), ids[:, :1], ids[:, :1])


def test_padding_on_the_left_is_refused() -> None:
    ids, mask = torch.tensor([[0, 2, 3]]), torch.tensor([[0, 1, 1]])
    with pytest.raises(ValueError, match="padding"):
        sentence_log_probs(Shaped(lambda logits: logits), ids, mask)


def test_low_precision_logits_are_summed_in_float32() -> None:
    ids = torch.tensor([[1, 2, 3] * 4])
    scores = sentence_log_probs(Shaped(lambda logits: logits.bfloat16()), ids, torch.ones_like(ids))
    assert scores.dtype == torch.float32
    reference = Shaped(lambda logits: logits.bfloat16().double())
    torch.testing.assert_close(scores.double(), sentence_log_probs(reference, ids, torch.ones_like(ids)))


# Pairs.


def test_margins_and_accuracy_of_a_task() -> None:
    table = torch.zeros(10, 10)
    table[5, 8] = 2.0  # after "king", "sleeps"
    pairs = [("the king sleeps", "the king sleep"), ("the kings sleep", "the kings sleeps"), ("king .", "king sleeps")]
    task = Task("number", "agreement", tuple(MinimalPair(*pair) for pair in pairs))
    scorer = Scorer(nn.Embedding.from_pretrained(table), word_tokenizer())
    torch.testing.assert_close(scorer.score_task(task), torch.tensor([2.0, 0.0, -2.0]))
    torch.testing.assert_close(scorer.score_task(pairs), torch.tensor([2.0, 0.0, -2.0]))
    assert scorer.accuracy(task) == pytest.approx(0.5)  # one right, one wrong, a tie that counts half


def test_bad_arguments_are_said() -> None:
    model = ToyLM()
    for options, message in (
        ({"kind": "other"}, "`kind` must be 'causal' or 'masked', got 'other'"),
        ({"within_word": True}, "`within_word` belongs to kind='masked'"),
        ({"kind": "masked", "bos_token_id": 1}, "belong to kind='causal'"),
    ):
        with pytest.raises(ValueError, match=message):
            Scorer(model, letters, **options)
    with pytest.raises(ValueError, match="got none"):
        Scorer(model, letters).score_task([])
    with pytest.raises(ValueError, match=r"got \('a',\)"):
        Scorer(model, letters).score_task([("a",)])
    with pytest.raises(ValueError, match="got 'ab'"):
        Scorer(model, letters).score_task(["ab"])
    with pytest.raises(ValueError, match="1 NaN"):
        margin_accuracy(torch.tensor([1.0, torch.nan]))
    with pytest.raises(ValueError, match="`encoded` is empty"):
        perplexity(model, [])


def test_the_model_is_left_as_it_was() -> None:
    model = ToyLM().train()
    model.dropout.eval()
    random_state = torch.random.get_rng_state()
    scores = [Scorer(model, letters).score_sentences(["abc", "ab"]) for _ in range(2)]
    assert torch.equal(*scores)
    assert not scores[0].requires_grad
    assert (model.training, model.dropout.training, model.norm.training) == (True, False, True)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Scorer(model, letters).score_sentences(["abc", "ab"]), scores[0])


# Masked models.


def test_pseudo_log_likelihood_masks_each_token_in_turn() -> None:
    model, tokenizer = bert()
    sentences = ["the king .", "the king sleeps the kings ."]
    expected, expected_words = [], []
    model.eval()
    for sentence in sentences:
        ids = torch.tensor(tokenizer(sentence)["input_ids"])
        for words, total in ((False, expected), (True, expected_words)):
            score = 0.0
            for place in range(1, len(ids) - 1):
                masked = ids.clone()
                masked[place] = tokenizer.mask_token_id
                if words and ids[place + 1] == 8:  # "##s" belongs to the same word
                    masked[place + 1] = tokenizer.mask_token_id
                with torch.no_grad():
                    score += float(model(masked[None]).logits[0, place].log_softmax(-1)[ids[place]])
            total.append(score)
    model.train()
    for budget in (1, 17, 4096):
        for words, total in ((False, expected), (True, expected_words)):
            scorer = Scorer(model, tokenizer, kind="masked", within_word=words, batch_tokens=budget)
            torch.testing.assert_close(scorer.score_sentences(sentences), torch.tensor(total), rtol=0, atol=1e-5)
    assert model.training
    assert expected[1] != pytest.approx(expected_words[1], abs=1e-3)


def test_what_a_masked_model_needs_is_said() -> None:
    model, tokenizer = bert()
    with pytest.raises(ValueError, match="WordTokenizer has no `mask_token_id`"):
        pseudo_log_likelihoods(model, word_tokenizer(), ["the king"])
    with pytest.raises(ValueError, match="ToyLM takes no `attention_mask`"):
        pseudo_log_likelihoods(ToyLM(), tokenizer, ["the king"])
    with pytest.raises(ValueError, match="'' has no token besides the special ones"):
        pseudo_log_likelihoods(model, tokenizer, ["the king", ""])
    slow = types.SimpleNamespace(mask_token_id=4)
    with pytest.raises(ValueError, match="`within_word` needs a fast tokenizer"):
        pseudo_log_likelihoods(model, slow, ["the king"], within_word=True)


class Padding:
    """A tokenizer that makes one tensor of all sentences, padded with 0."""

    bos_token_id = 9

    def __init__(self, left: bool, mask: bool) -> None:
        self.left, self.mask = left, mask

    def __call__(self, sentences: list[str]) -> dict[str, torch.Tensor]:
        rows = [[len(word) for word in sentence.split()] for sentence in sentences]
        width = max(map(len, rows))
        pads = [[0] * (width - len(row)) for row in rows]
        ids = [pad + row if self.left else row + pad for row, pad in zip(rows, pads, strict=True)]
        found = {"input_ids": torch.tensor(ids)}
        return found | {"attention_mask": (found["input_ids"] > 0).long()} if self.mask else found


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_padding_of_a_tokenizer_that_gives_tensors_is_not_scored(left: bool, mask: bool) -> None:
    found = encode_sentences(Padding(left, mask), ["the cat sat", "a dog"])
    assert [ids.tolist() for ids in found] == [[9, 3, 3, 3], [9, 1, 3]]

    class Single:
        def encode(self, sentence: str) -> torch.Tensor:
            return torch.tensor([[len(word) for word in sentence.split()]])

    assert [ids.tolist() for ids in encode_sentences(Single(), ["the cat sat", "a dog"])] == [[3, 3, 3], [1, 3]]
