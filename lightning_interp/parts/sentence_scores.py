"""A part: the same sentences, scored by a language model at every reading."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from lightning_interp.distributed import Collective, Sum, rank_in, world_size
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.language.batching import Share
from lightning_interp.language.digest import ids_digest
from lightning_interp.language.id_range import check_ids
from lightning_interp.language.likelihood import eval_mode
from lightning_interp.language.masked import MaskedToken, check_takes_mask, masked_log_probs
from lightning_interp.language.scores import encoded_log_probs
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading

__all__ = ["Kind", "SentenceScores"]

Kind = Literal["causal", "masked"]


@dataclass(frozen=True, eq=False)
class _Attached:
    """The language model of a module, and the sentences as it takes them."""

    model: nn.Module
    padding: int
    encoded: Sequence[Tensor]
    masked: Sequence[MaskedToken]
    digest: bytes


class SentenceScores(Part):
    """Scores sentences by the language model in the module that is trained, whole batches of them dealt over ranks.

    A causal model's score is the log-probability of the sentence (:func:`sentence_log_probs`), a masked model's the sum
    over those of its tokens that are predicted (:func:`pseudo_log_likelihoods`). The model runs in evaluation mode,
    without gradients and autocast, and is left as it was. What several callbacks of a Trainer score alike, the same ids
    by the same model in the same batches, goes through the model once a validation.

    Args:
        lm: The language model; of a masked one the tokenizer puts its own special tokens.
        encode: Gives the ids of all sentences for a causal model: ``encode(tokenizer, add_bos=…, bos_token_id=…)``, as
            :func:`encode_sentences`.
        mask: Gives the predicted tokens of all sentences for a masked model, one or more of each: ``mask(tokenizer)``.
        kind: ``"causal"`` or ``"masked"``.
        add_bos: Of causal models, whether a start token is put in front: ``True`` where that is an error without one;
            by default as ``lm.special_tokens`` says, where the tokenizer has one.

    Raises:
        ValueError: If an argument is out of range, or of the other kind of model; when attached to a model, if a name
            matches nothing, an id is none of the model's, or parameters are sharded over ranks.

    Cost: a forward pass over the sentences; of a masked model, over one for each predicted token.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from lightning_interp.tasks import encode_sentences
        >>> letters = lambda sentence: [ord(letter) - 96 for letter in sentence]
        >>> scores = SentenceScores(LanguageModel(letters), partial(encode_sentences, sentences=["abc"]))
        >>> model = nn.Embedding.from_pretrained(torch.zeros(4, 4))
        >>> scores.attach(model)
        >>> from lightning_interp.distributed import over_ranks
        >>> over_ranks(scores.read(Reading(model)))
        tensor([-2.7726], dtype=torch.float64)

    """

    attached = ("_found",)

    def __init__(
        self,
        lm: LanguageModel,
        encode: Callable[..., Sequence[Tensor]],
        mask: Callable[..., Sequence[MaskedToken]] | None = None,
        kind: Kind = "causal",
        add_bos: bool | None = None,
    ) -> None:
        if kind not in ("causal", "masked"):
            raise ValueError(f"`kind` must be 'causal' or 'masked', got {kind!r}.")
        if kind == "masked" and (add_bos is not None or lm.bos_token_id is not None):
            raise ValueError(
                "`add_bos` and `bos_token_id` belong to kind='causal'; a masked model's tokenizer adds its own."
            )
        if kind == "masked" and lm.special_tokens == "none":
            raise ValueError("`special_tokens='none'` is for kind='causal'; a masked model's tokenizer adds its own.")
        if kind == "masked" and mask is None:
            raise ValueError("`mask` is needed for kind='masked': a function that gives the predicted tokens.")
        self.lm = lm
        self.encode = encode
        self.mask = mask
        self.kind: Kind = kind
        self.add_bos = lm.starts_with_bos(add_bos) if kind == "causal" else None
        self._found: _Attached | None = None

    def attach(self, model: nn.Module) -> None:
        """Find the language model and its tokenizer, and turn sentences into ids."""
        lm, tokenizer, padding = self.lm.find(model)
        refuse_sharded(lm, "sentences")
        encoded: Sequence[Tensor] = ()
        masked: Sequence[MaskedToken] = ()
        if self.kind == "masked" and self.mask is not None:
            check_takes_mask(lm, self.lm.forward)
            masked = self.mask(tokenizer)
        else:
            encoded = self.encode(tokenizer, add_bos=self.add_bos, bos_token_id=self.lm.bos_token_id)
        ids = [*encoded, *(one.ids for one in masked)]
        check_ids(lm, ids)
        numbers = [number for one in masked for number in (one.sentence, one.position, one.target)]
        self._found = _Attached(lm, padding, encoded, masked, ids_digest(ids, numbers))

    def detach(self) -> None:
        """Let go of the model."""
        self._found = None

    def keeps(self) -> Sequence[object]:
        """What keeps arguments of the callback: itself, and the language model."""
        return self, self.lm

    def read(self, reading: Reading) -> Collective[Tensor]:
        """The score of every sentence in nats, float64 (sentences,) on the CPU, the same on all ranks."""
        share = rank_in(reading.group), world_size(reading.group)
        key = self._key(share)
        if key not in reading.shared:
            reading.shared[key] = self._scores(share)
        # Each rank has the scores of its own batches and zeros elsewhere.
        scores: Tensor = yield Sum(reading.shared[key])
        return scores

    def _key(self, share: Share) -> Hashable:
        """What says which scores they are."""
        found, lm = self._found, self.lm
        assert found is not None
        # Not all that can be called has a hash.
        how = lm.batch_tokens, id(lm.forward), found.padding, share
        return SentenceScores, found.model, self.kind, found.digest, how

    def _scores(self, share: Share) -> Tensor:
        found, lm = self._found, self.lm
        assert found is not None
        with eval_mode(found.model):
            if self.kind == "causal":
                return encoded_log_probs(found.model, found.encoded, lm.batch_tokens, lm.forward, found.padding, share)
            number = 1 + max(one.sentence for one in found.masked)
            return masked_log_probs(
                found.model, found.masked, number, lm.batch_tokens, lm.forward, found.padding, share
            )
