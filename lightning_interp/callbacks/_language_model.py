"""What callbacks share that score sentences of their own by the language model that is trained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from lightning_interp._forward import checked_forward
from lightning_interp.callbacks._acquisition import AcquisitionAnalysis
from lightning_interp.callbacks.analysis import refuse_batch_arguments
from lightning_interp.distributed import Steps, Sum, rank_in, world_size
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.batching import Share
from lightning_interp.tasks.differential import refuse_sharded
from lightning_interp.tasks.encoding import Tokenizer, padding_id
from lightning_interp.tasks.id_range import check_ids
from lightning_interp.tasks.likelihood import FORWARD_TAKES, Forward, evaluated
from lightning_interp.tasks.loading import find_language_model, find_tokenizer
from lightning_interp.tasks.masked import MaskedToken, check_takes_mask, masked_log_probs
from lightning_interp.tasks.scoring import encoded_log_probs

__all__ = ["Kind", "SentenceAnalysis"]

Kind = Literal["causal", "masked"]


class SentenceAnalysis(AcquisitionAnalysis):
    """Scores the same sentences at every reading, whole batches of them dealt over ranks.

    A subclass turns its material into sentences and their scores into measures. Of a causal model, a sentence is its
    ids; of a masked one, a row for each token that is predicted. Nothing is read of the validation batches.

    Args:
        tokenizer: See :func:`lightning_interp.tasks.loading.find_tokenizer`.
        model: Dotted name of the language model in the module; ``""`` for the module itself.
        kind: ``"causal"`` or ``"masked"``.
        forward: Calls the model in its stead: ``forward(model, input_ids, attention_mask)`` → logits (B, T, V).
        batch_tokens: Tokens in a forward pass, padding included.
        add_bos: Of causal models, whether a start token is put in front; by default where the tokenizer has one.
        bos_token_id: The start token; the tokenizer's own by default.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``,
            ``dataloader_idx`` and ``batch_size``.

    """

    attached = ("_lm",)

    def __init__(
        self,
        tokenizer: str | Path | Tokenizer,
        model: str,
        kind: Kind,
        forward: Forward | None,
        batch_tokens: int,
        add_bos: bool | None,
        bos_token_id: int | None,
        **kwargs: Any,
    ) -> None:
        refuse_batch_arguments(kwargs)
        super().__init__(max_examples=None, dataloader_idx=0, **kwargs)
        if kind not in ("causal", "masked"):
            raise ValueError(f"`kind` must be 'causal' or 'masked', got {kind!r}.")
        if kind == "masked" and (add_bos is not None or bos_token_id is not None):
            raise ValueError(
                "`add_bos` and `bos_token_id` belong to kind='causal'; a masked model's tokenizer adds its own."
            )
        if batch_tokens < 1:
            raise ValueError(f"`batch_tokens` must be at least 1, got {batch_tokens}.")
        self.tokenizer = tokenizer
        self.model = model
        self.kind: Kind = kind
        self.forward = checked_forward(forward, FORWARD_TAKES)
        self.batch_tokens = batch_tokens
        self.add_bos = add_bos
        self.bos_token_id = bos_token_id

    def clear(self) -> None:
        """Forget everything that belongs to one fit."""
        super().clear()
        self._lm: nn.Module | None = None
        self._encoded: list[Tensor] = []
        self._masked: list[MaskedToken] = []
        self._number = 0
        self._pad = 0

    # ------------------------------------------------- what a subclass fills in

    @abstractmethod
    def encode(self, tokenizer: Tokenizer) -> list[Tensor]:
        """The sentences as ids, for a causal model."""

    @abstractmethod
    def mask_tokens(self, tokenizer: Tokenizer) -> tuple[list[MaskedToken], int]:
        """The predicted tokens of the sentences, for a masked model, and how many sentences there are."""

    @abstractmethod
    def from_scores(self, scores: Tensor) -> dict[str, float]:
        """All measures from the scores of the sentences, float64 (N,), in nats."""

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """Find the language model and its tokenizer, and turn sentences into ids."""
        lm = find_language_model(self.model, model)
        refuse_sharded(lm, "sentences")
        tokenizer = find_tokenizer(self.tokenizer, model)
        self._pad = padding_id(tokenizer)
        if self.kind == "causal":
            self._encoded = self.encode(tokenizer)
            check_ids(lm, self._encoded)
        else:
            check_takes_mask(lm, self.forward)
            self._masked, self._number = self.mask_tokens(tokenizer)
            check_ids(lm, (one.ids for one in self._masked))
        self._lm = lm

    def release(self) -> None:
        """Let go of the model."""
        self._lm, self._encoded, self._masked = None, [], []

    def merge(self, reading: Reading) -> Steps[Mapping[str, Tensor | float]]:
        """Score all sentences, and compute."""
        world = world_size(self.group)
        share = rank_in(self.group), world
        # Each rank has the scores of its own batches and zeros elsewhere.
        scores: Tensor = yield Sum(self._scores(share))
        return self.from_scores(scores)

    def _scores(self, share: Share) -> Tensor:
        assert self._lm is not None
        with evaluated(self._lm):
            if self.kind == "causal":
                return encoded_log_probs(self._lm, self._encoded, self.batch_tokens, self.forward, self._pad, share)
            return masked_log_probs(
                self._lm, self._masked, self._number, self.batch_tokens, self.forward, self._pad, share
            )
