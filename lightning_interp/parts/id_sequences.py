"""A part: sequences of token ids of one's own, run through the language model in the module that is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_interp.batches.forward import checked_forward
from lightning_interp.distributed import Collective, Gather, rank_in, world_size
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.language.batching import dealt
from lightning_interp.language.id_range import check_ids
from lightning_interp.language.likelihood import FORWARD_TAKES, Forward, eval_mode, model_device, model_logits
from lightning_interp.reading.part import Part
from lightning_interp.tasks.loading import find_language_model

__all__ = ["IdSequences", "gathered_texts"]

T = TypeVar("T")


class IdSequences(Part):
    """Runs sequences of one length through a language model, whole batches of them dealt over ranks.

    The model runs in evaluation mode, without gradients and autocast, and is left as it was.

    Args:
        model: Dotted name of the language model in the module; ``""`` for the module itself.
        forward: Calls it in its stead: ``forward(model, input_ids, attention_mask)``, logits (B, T, V).
        batch_tokens: Tokens in a forward pass.

    Raises:
        ValueError: If an argument is out of range; when attached, if the name matches nothing or parameters are sharded
            over ranks.

    Example:
        >>> import torch
        >>> sequences = IdSequences()
        >>> sequences.attach(nn.Embedding(5, 5))
        >>> sequences.run(torch.tensor([[1, 2, 3]]), lambda ids, logits: tuple(logits.shape))
        [(1, 3, 5)]

    """

    attached: tuple[str, ...] = ("_model",)

    def __init__(self, model: str = "", forward: Forward | None = None, batch_tokens: int = 4096) -> None:
        if batch_tokens < 1:
            raise ValueError(f"`batch_tokens` must be at least 1, got {batch_tokens}.")
        self.name, self.batch_tokens = model, batch_tokens
        self.forward = checked_forward(forward, FORWARD_TAKES)
        self._model: nn.Module | None = None

    @property
    def model(self) -> nn.Module:
        """The language model."""
        if self._model is None:
            raise RuntimeError("the sequences belong to no model yet: `attach` comes first.")
        return self._model

    def attach(self, model: nn.Module) -> None:
        """Find the language model."""
        self._model = find_language_model(self.name, model)
        refuse_sharded(self._model, "sequences")

    def detach(self) -> None:
        """Let go of the model."""
        self._model = None

    def run(
        self,
        ids: Tensor,
        work: Callable[[Tensor, Tensor], T],
        group: Any = None,
        around: Callable[[Callable[[], None]], None] | None = None,
    ) -> list[T]:
        """What ``work`` makes of the ids and the logits of each batch of this rank.

        Args:
            ids: int64 (N, T).
            work: Called after each forward pass, with ids (B, T) and logits (B, T, V).
            group: The process group over which batches are dealt.
            around: Carries out the forward passes of this rank, where there are any, as it is given them.

        Raises:
            ValueError: If an id is none of the model's.
            TypeError: If the model's output has no logits.

        """
        model = self.model
        check_ids(model, list(ids))
        most = max(1, self.batch_tokens // ids.shape[1])
        batches = [ids[at : at + most] for at in range(0, len(ids), most)]
        own = dealt(batches, (rank_in(group), world_size(group)))
        found: list[T] = []

        def passes() -> None:
            for batch in own:
                here = batch.to(model_device(model))
                found.append(work(here, model_logits(model, here, here.new_ones(here.shape), self.forward)))

        if own:
            with eval_mode(model):
                passes() if around is None else around(passes)
        return found


def gathered_texts(own: Sequence[tuple[int, Tensor]], columns: int) -> Collective[list[Tensor]]:
    """The texts of all ranks, in their order in the data set.

    Args:
        own: Of each text of this rank its place in the data set and what its positions hold, int64 (T, columns).
        columns: How much that is, where a rank has no text.

    """
    sizes: list[Tensor] = yield Gather(
        torch.cat([torch.zeros(0, 2, dtype=torch.int64), *(torch.tensor([[at, len(text)]]) for at, text in own)])
    )
    rows: list[Tensor] = yield Gather(
        torch.cat([torch.zeros(0, columns, dtype=torch.int64), *(text for _, text in own)])
    )
    places, lengths = torch.cat(sizes).unbind(1)
    found = torch.split(torch.cat(rows), lengths.tolist())
    return [found[at] for at in places.argsort(stable=True).tolist()]
