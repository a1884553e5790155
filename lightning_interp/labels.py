"""A batch → token ids, which positions are real, and the labels that representations are conditioned on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_interp.functional.ngrams import NO_LABEL, built_in_labels
from lightning_interp.metrics._names import BUILT_IN_LABELS, check_names

__all__ = ["BatchReader", "Key", "LabelSource", "ReadBatch", "batch_size", "describe_batch", "look_up"]

Key = str | int | Callable[[Any], Any]
LabelSource = Key | Sequence[int] | np.ndarray[Any, Any] | Tensor | None
_TOKEN_KEYS = ("input_ids",)
_MASK_KEYS = ("attention_mask",)


@dataclass(frozen=True)
class ReadBatch:
    """What a batch says about its positions."""

    size: int
    """Number of samples."""
    tokens: Tensor | None
    """Token ids, (B, T), -1 where there is none."""
    context: Tensor | None
    """Positions that hold a word, bool (B, T): not padding and not an ignored token."""
    read: Tensor | None
    """Positions whose representation is read, bool (B, T): the context without the skipped ones."""
    custom: Mapping[str, Tensor]
    """Label sets that the batch or the user gave."""

    def take(self, rows: Tensor | None) -> ReadBatch:
        """The same of some samples only; ``None`` for all."""
        if rows is None:
            return self

        def some(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows.to(tensor.device)]

        custom = {name: value[rows.to(value.device)] for name, value in self.custom.items()}
        return ReadBatch(len(rows), some(self.tokens), some(self.context), some(self.read), custom)

    def labels(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Labels by name; n-grams and next tokens are formed over the context."""
        found: dict[str, Tensor] = {}
        for name in names:
            if name in self.custom:
                found[name] = self.custom[name]
                continue
            if self.tokens is None or self.context is None:
                raise ValueError(f"Label set {name!r} needs token ids, and this site has none.")
            found[name] = self.tokens if name == "token" else built_in_labels(name, self.tokens, self.context)
        return found

    def labels_if_there(self, names: Sequence[str], length: int, calls: int = 1) -> dict[str, Tensor]:
        """Those of some label sets that are formed from tokens, where there is a token for each vector of a call."""
        if self.tokens is None or self.tokens.shape[1] * calls != length:
            return {}
        return {name: torch.cat([value] * calls, dim=1) for name, value in self.labels(names).items()}


class BatchReader:
    """Finds token ids, mask and labels in a batch.

    Args:
        labels: Names of label sets. ``token``, ``bigram``, ``trigram``, ``flat_bigram``, ``flat_trigram`` and
            ``next_token`` come from the token ids; any other name is a key of the batch. Or a mapping from name to
            where the labels are: a batch key, an index into a tuple batch, a callable on the batch, or an array with
            one entry (or one row of entries, one a position) for each sample of the data set; ``None`` for built-in
            ones.
        tokens: Where the token ids (B, T) are: a batch key, an index, or a callable on the batch. By default
            ``input_ids`` of a dict, the first entry of a tuple, or the batch itself.
        mask: Where the padding mask (B, T) is, 1 for real positions; by default ``attention_mask`` of a dict.
        padding_idx: The token id of padding; needed where there is no mask. ``-1`` says that nothing is padded.
        ignore_tokens: Token ids that are not words (BOS, EOS, CLS): neither read nor part of an n-gram.
        skip_positions: Leave out the first so many words of each sequence; they still count as context of n-grams.

    Raises:
        ValueError: If an argument is out of range, at once; if a batch lacks what is needed, when it comes.

    Example:
        >>> reader = BatchReader(labels=["token", "bigram"])
        >>> batch = {"input_ids": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
        >>> found = reader.read(batch)
        >>> found.read.tolist(), found.labels(["token"])["token"].tolist()
        ([[True, True, False]], [[5, 6, -1]])

    """

    def __init__(
        self,
        labels: Sequence[str] | Mapping[str, LabelSource] = (),
        tokens: Key | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        ignore_tokens: Sequence[int] = (),
        skip_positions: int = 0,
    ) -> None:
        names = check_names(list(labels) if isinstance(labels, Mapping) else labels)
        sources = dict(labels) if isinstance(labels, Mapping) else dict.fromkeys(names)
        if skip_positions < 0:
            raise ValueError(f"`skip_positions` must be at least 0, got {skip_positions}.")
        self.names = names
        self.sources: dict[str, LabelSource] = {}
        for name, source in sources.items():
            if source is not None and source != name if isinstance(source, str) else source is not None:
                self.sources[name] = source
            elif name not in BUILT_IN_LABELS:
                self.sources[name] = name
        self.needs_tokens = any(name not in self.sources for name in names)
        self.tokens = tokens
        self.mask = mask
        self.padding_idx = padding_idx
        self.ignore_tokens = tuple(ignore_tokens)
        self.skip_positions = skip_positions

    def read(
        self, batch: Any, positions: Tensor | None = None, tokens: Key | None = None, num_samples: int | None = None
    ) -> ReadBatch:
        """Read one batch.

        Args:
            batch: What the loader gave.
            positions: Place of each sample of the batch in the data set, (B,), on the CPU; arrays of labels need it.
            tokens: Another place of the token ids than the reader's own; its mask is what is not padding there.
            num_samples: Length of the data set, to check arrays of labels against.

        """
        ids = self._tokens(batch, tokens)
        size = ids.shape[0] if ids is not None else batch_size(batch)
        context = read = None
        if ids is not None:
            context = self._context(batch, ids, own=tokens is not None)
            ids = ids.long().masked_fill(~context, NO_LABEL)
            read = context
            if self.skip_positions:
                read = context & (context.cumsum(1) > self.skip_positions)
        elif self.mask is not None or _has_key(batch, _MASK_KEYS[0]):
            context = read = self._mask(batch).bool()
        custom = {
            name: self._custom(name, source, batch, size, positions, num_samples)
            for name, source in self.sources.items()
        }
        return ReadBatch(size, ids, context, read, custom)

    def _tokens(self, batch: Any, tokens: Key | None) -> Tensor | None:
        where = tokens if tokens is not None else self.tokens
        if where is not None:
            found = look_up(batch, where, "tokens")
        elif isinstance(batch, Mapping):
            found = next((batch[key] for key in _TOKEN_KEYS if key in batch), None)
        elif isinstance(batch, Sequence) and not isinstance(batch, str):
            found = batch[0] if len(batch) else None
        else:
            found = batch
        if isinstance(found, Tensor) and found.ndim == 2 and not found.is_floating_point():
            return found
        if where is None and not self.needs_tokens:
            return None
        problem = "shows no token ids by itself" if where is None else f"has none at tokens={where!r}"
        raise ValueError(
            f"The batch {problem}: it is {describe_batch(batch)}. Token ids are integers of shape (B, T); point to "
            "them with `tokens=`: a key of a dict, an index of a tuple, or a callable on the batch."
        )

    def _context(self, batch: Any, ids: Tensor, own: bool) -> Tensor:
        real = ids >= 0
        if self.padding_idx is not None:
            real = real & (ids != self.padding_idx)
        elif not own:
            if self.mask is None and not _has_key(batch, _MASK_KEYS[0]):
                raise ValueError(
                    f"The batch, {describe_batch(batch)}, has no padding mask. Pass `padding_idx=` (the token id of "
                    "padding, or -1 if nothing is padded) or `mask=` (where the mask is)."
                )
            mask = self._mask(batch)
            if mask.shape != ids.shape:
                raise ValueError(
                    f"The mask {tuple(mask.shape)} does not have the shape of the token ids {tuple(ids.shape)}."
                )
            real = real & mask.bool()
        for token in self.ignore_tokens:
            real = real & (ids != token)
        return real

    def _mask(self, batch: Any) -> Tensor:
        mask = look_up(batch, self.mask if self.mask is not None else _MASK_KEYS[0], "mask")
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            raise ValueError(
                f"`mask` must lead to a tensor (B, T), not to {_describe(mask)} of {describe_batch(batch)}."
            )
        return mask

    def _custom(
        self, name: str, source: LabelSource, batch: Any, size: int, positions: Tensor | None, num_samples: int | None
    ) -> Tensor:
        if isinstance(source, str | int) or callable(source):
            found = look_up(batch, source, f"labels[{name!r}]")
            value = torch.as_tensor(found) if not isinstance(found, Tensor) else found
            if value.ndim == 0 or value.shape[0] != size:
                raise ValueError(
                    f"Label set {name!r} gave shape {tuple(value.shape)} for a batch of {size} samples; its first "
                    "dimension must be the batch."
                )
            return value.clone()  # a step may write into the batch's own tensors
        table = torch.as_tensor(source)
        if num_samples is not None and len(table) != num_samples:
            raise ValueError(
                f"`labels[{name!r}]` is an array of length {len(table)}, but the validation data set has {num_samples} "
                "samples: give one entry per sample."
            )
        if positions is None:
            raise ValueError(f"`labels[{name!r}]` is an array, and the place of samples in the data set is not known.")
        if int(positions.max()) >= len(table):
            raise ValueError(
                f"`labels[{name!r}]` is an array of length {len(table)}, but sample {int(positions.max())} was read."
            )
        return table[positions]


def batch_size(batch: Any) -> int:
    """Number of samples: the first dimension of the first tensor.

    Example:
        >>> batch_size({"x": torch.zeros(3, 2)})
        3

    """
    for tensor in _tensors(batch):
        if tensor.ndim:
            return tensor.shape[0]
    raise ValueError(f"The batch, {describe_batch(batch)}, holds no tensor whose first dimension could be the batch.")


def describe_batch(batch: Any) -> str:
    """What a batch holds, for error messages.

    Example:
        >>> describe_batch({"x": torch.zeros(3, 2)})
        "a dict with 'x': float32 (3, 2)"

    """
    if isinstance(batch, Mapping):
        return "a dict with " + ", ".join(f"{key!r}: {_describe(value)}" for key, value in batch.items())
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        kind = type(batch).__name__
        return f"a {kind} with " + ", ".join(f"{index}: {_describe(value)}" for index, value in enumerate(batch))
    return _describe(batch)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        return [tensor for value in batch.values() for tensor in _tensors(value)]
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return [tensor for value in batch for tensor in _tensors(value)]
    return []


def _has_key(batch: Any, key: str) -> bool:
    return isinstance(batch, Mapping) and key in batch


def look_up(batch: Any, where: Key, argument: str) -> Any:
    """What a batch holds at a key, an index, or what a callable on it returns; errors name the argument."""
    if callable(where):
        return where(batch)
    is_mapping = isinstance(batch, Mapping)
    try:
        if is_mapping or (isinstance(where, int) and isinstance(batch, Sequence)):
            return batch[where]
    except (KeyError, IndexError):
        pass
    raise ValueError(f"`{argument}` points to {where!r}, which is not in the batch: it is {describe_batch(batch)}.")
