"""Sentences and minimal pairs scored by a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from lightning_interp.language.encoding import Tokenizer, encode_sentences, padding_id
from lightning_interp.language.likelihood import Forward, eval_mode
from lightning_interp.language.masked import pseudo_log_likelihoods
from lightning_interp.language.scores import encoded_log_probs
from lightning_interp.tasks.pairs import Task, is_pair

__all__ = ["Scorer", "margin_accuracy", "pair_list"]


class Scorer:
    """Scores sentences, and the pairs of a task, by their probability under a language model.

    A causal model's score is the log-probability of the sentence (:func:`sentence_log_probs`), a masked model's its
    pseudo-log-likelihood (:func:`pseudo_log_likelihoods`); both are sums over tokens in nats. The model is run in
    evaluation mode without gradients, and it and the random streams are left as they were.

    Args:
        model: The language model.
        tokenizer: Its tokenizer; see :func:`encode_sentences`.
        kind: ``"causal"`` or ``"masked"``.
        batch_tokens: Tokens in a forward pass, padding included. Logits take 4 × vocabulary bytes for each, and as much
            again for their normalisation: 1.6 GB for 4,096 tokens of GPT-2.
        forward: Calls the model in its stead: ``forward(model, input_ids, attention_mask)`` → logits.
        add_bos: Of causal models, whether a start token is put in front; see :func:`encode_sentences`.
        bos_token_id: The start token; the tokenizer's own by default.
        within_word: Of masked models, whether the rest of a word is masked with each of its tokens.

    Raises:
        ValueError: If ``kind`` is another, or an argument of one kind is given with the other.

    Example:
        >>> import torch
        >>> letters = lambda sentence: [ord(letter) - 96 for letter in sentence]
        >>> table = torch.zeros(4, 4)
        >>> table[1, 2] = 1.0  # after an a, b is e times as probable as anything else
        >>> scorer = Scorer(nn.Embedding.from_pretrained(table), letters)
        >>> scorer.score_task([("ab", "aa"), ("cab", "cac")]).round(decimals=3)
        tensor([1., 1.])
        >>> scorer.accuracy([("ab", "aa"), ("ca", "cb")])
        0.75

    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        *,
        kind: Literal["causal", "masked"] = "causal",
        batch_tokens: int = 4096,
        forward: Forward | None = None,
        add_bos: bool | None = None,
        bos_token_id: int | None = None,
        within_word: bool = False,
    ) -> None:
        if kind not in ("causal", "masked"):
            raise ValueError(f"`kind` must be 'causal' or 'masked', got {kind!r}.")
        if kind == "causal" and within_word:
            raise ValueError("`within_word` belongs to kind='masked'; a causal model reads words from the left anyway.")
        if kind == "masked" and (add_bos is not None or bos_token_id is not None):
            raise ValueError(
                "`add_bos` and `bos_token_id` belong to kind='causal'; a masked model's tokenizer adds its own."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.kind = kind
        self.batch_tokens = batch_tokens
        self.forward = forward
        self.add_bos = add_bos
        self.bos_token_id = bos_token_id
        self.within_word = within_word

    def score_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Log-probabilities, or pseudo-log-likelihoods, in nats: (N,), float32, on the CPU, in the order given."""
        if self.kind == "masked":
            return pseudo_log_likelihoods(
                self.model, self.tokenizer, sentences, self.within_word, self.batch_tokens, self.forward
            )
        encoded = encode_sentences(self.tokenizer, sentences, self.add_bos, self.bos_token_id)
        with eval_mode(self.model):
            return encoded_log_probs(
                self.model, encoded, self.batch_tokens, self.forward, padding_id(self.tokenizer)
            ).float()

    def score_task(self, task: Task | Sequence[tuple[str, str]]) -> Tensor:
        """The margin of every pair, log p(good) − log p(bad) in nats: (P,), float32, on the CPU."""
        pairs = pair_list(task)
        scores = self.score_sentences([sentence for pair in pairs for sentence in pair])
        return scores[0::2] - scores[1::2]

    def accuracy(self, task: Task | Sequence[tuple[str, str]]) -> float:
        """:func:`margin_accuracy` of the task's margins."""
        return margin_accuracy(self.score_task(task))


def margin_accuracy(margins: Tensor) -> float:
    """The share of pairs whose acceptable sentence has the higher score; ties count half.

    Raises:
        ValueError: If there is no margin or one is NaN.

    Example:
        >>> import torch
        >>> margin_accuracy(torch.tensor([2.0, 0.0, -1.0, 0.5]))
        0.625

    """
    if not len(margins) or bool(margins.isnan().any()):
        raise ValueError(
            f"`margins` must be numbers, at least one, got {len(margins)} with {int(margins.isnan().sum())} NaN."
        )
    return float(((margins > 0).double() + (margins == 0).double() / 2).mean())


def pair_list(task: Task | Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The (acceptable, unacceptable) sentences of a task.

    Raises:
        ValueError: If there is none, or something is not a pair of strings.
    """
    pairs = list(task.pairs if isinstance(task, Task) else task)
    wrong = [pair for pair in pairs if not is_pair(pair)]
    if not pairs or wrong:
        found = repr(wrong[0]) if wrong else "none"
        raise ValueError(f"a task needs pairs of an acceptable and an unacceptable sentence, got {found}.")
    return [(good, bad) for good, bad in pairs]
