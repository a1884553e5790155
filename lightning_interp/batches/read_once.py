"""What a batch says of its positions, read once for all who read it alike."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor

from lightning_interp.batches.reader import BatchReader, Key, ReadBatch, hashable

__all__ = ["forget_batch", "read_once"]

_HELD = "what a batch says"


def read_once(
    shared: MutableMapping[Any, Any],
    reader: BatchReader,
    batch: Any,
    positions: Tensor | None = None,
    tokens: Key | None = None,
    num_samples: int | None = None,
    samples: int | None = None,
    given: bool = False,
) -> ReadBatch:
    """The same as ``reader.read``, of which only the first of several readers with equal arguments is asked.

    Only the last batch is held in ``shared``, and told from others by its identity; what is returned must not be
    changed in place. The other arguments are those of :meth:`~lightning_interp.batches.BatchReader.read`.

    Example:
        >>> import torch
        >>> shared, batch = {}, {"input_ids": torch.tensor([[5, 0]])}
        >>> one, other = (BatchReader(["token"], padding_idx=0) for _ in range(2))
        >>> read_once(shared, one, batch) is read_once(shared, other, batch)
        True
        >>> read_once(shared, one, batch) is read_once(shared, BatchReader(["token"], padding_idx=5), batch)
        False

    """
    if shared.get(_HELD, (None,))[0] is not batch:
        shared[_HELD] = batch, {}
    found = shared[_HELD][1]
    # Only arrays of labels go by the places of samples.
    places = positions is not None and (tuple(positions.tolist()) if reader.arrays else ())
    key = reader.key, places, hashable(tokens), num_samples, samples, given
    if key not in found:
        found[key] = reader.read(batch, positions, tokens, num_samples, samples, given), reader.used_padding
    read, padding = found[key]
    reader.used_padding = reader.used_padding if padding is None else padding
    return read  # type: ignore[no-any-return]


def forget_batch(shared: MutableMapping[Any, Any]) -> None:
    """The batch went through the model: all who read it did so before."""
    shared.pop(_HELD, None)
