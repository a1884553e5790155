"""A batch → token ids, which positions are real, and the labels that representations are conditioned on."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from lightning_interp.batches.contents import BatchSize, Key, batch_size, describe_batch, has, look_up, parts_of
from lightning_interp.functional.label_sets import BUILT_IN_LABELS, check_names
from lightning_interp.functional.ngrams import NO_LABEL, built_in_labels

__all__ = ["BatchReader", "Key", "LabelSource", "ReadBatch", "batch_size", "describe_batch", "hashable", "look_up"]

LabelSource = Key | Sequence[int] | np.ndarray[Any, Any] | Tensor | None
_TOKEN_KEY = "input_ids"
_MASK_KEY = "attention_mask"


@dataclass(frozen=True)
class ReadBatch:
    """What a batch says about its positions."""

    size: int
    """Number of samples."""
    tokens: Tensor | None
    """Token ids, (B, T), -1 where there is none."""
    context: Tensor | None
    """Positions that hold a word, bool (B, T): not padding and not an ignored token."""
    mask: Tensor | None
    """Positions whose representation is read, bool (B, T): the context without the skipped ones."""
    custom: Mapping[str, Tensor]
    """Label sets that the batch or the user gave."""
    maybe_padded: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """Parts of the batch, however deep, that may be token ids or a mask, where neither is known: of each its number of
    positions and what it holds, ``"integers"`` or ``"booleans"``."""
    samples: int | None = None
    """Number of samples, where each has several rows; a label set has an entry for each of one or the other."""

    def has(self, name: str) -> bool:
        """Whether there are labels of this name."""
        return name in self.custom or (name in BUILT_IN_LABELS and self.tokens is not None)

    def text(self) -> tuple[Tensor, Tensor]:
        """Token ids and which of them are read, both (B, T).

        Raises:
            ValueError: If the batch does not say its token ids, or which of them are padding.

        """
        if self.tokens is None or self.mask is None:
            raise ValueError(
                "the text of a batch is not known: say with `tokens` where its ids are, and with `mask` or "
                "`padding_idx` which of them are padding."
            )
        return self.tokens, self.mask

    def labels(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Labels by name; n-grams and next tokens are formed over the context."""
        found: dict[str, Tensor] = {}
        for name in names:
            if name in self.custom:
                found[name] = self.custom[name]
                continue
            if name not in BUILT_IN_LABELS:
                raise ValueError(f"Label set {name!r} is neither in the batch nor among what `read` gives.")
            if self.tokens is None or self.context is None:
                raise ValueError(f"Label set {name!r} needs token ids, and this site has none.")
            found[name] = self.tokens if name == "token" else built_in_labels(name, self.tokens, self.context)
        return found


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
        padding_idx: The token id of padding; needed where there is no mask. ``-1`` says that nothing is padded. Beside
            ``mask``, a position counts where both say so. Without one :attr:`shared_padding` holds where there is no
            mask.
        ignore_tokens: Token ids that are not words (BOS, EOS, CLS): neither read nor part of an n-gram.
        skip_positions: Leave out the first so many words of each sequence; they still count as context of n-grams.
        batch_size: How many samples a batch has; see :func:`~lightning_interp.batches.contents.batch_size`.

    Raises:
        ValueError: If an argument is out of range, at once; if a batch lacks what is needed, when it comes.

    Example:
        >>> reader = BatchReader(labels=["token", "bigram"])
        >>> batch = {"input_ids": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
        >>> found = reader.read(batch)
        >>> found.mask.tolist(), found.labels(["token"])["token"].tolist()
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
        batch_size: BatchSize | None = None,
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
        self.arrays = [name for name, one in self.sources.items() if not (isinstance(one, str | int) or callable(one))]
        """Label sets that are an entry for each sample of the data set."""
        for name in self.arrays:
            self.sources[name] = _table(name, self.sources[name])
        self.tokens = tokens
        self.mask = mask
        self.padding_idx = padding_idx
        self.shared_padding: int | None = None
        """The token id of padding that the model's module says for all callbacks; what a batch or an argument says
        goes before it."""
        self.used_padding: int | None = None
        """That, once it was needed."""
        self.ignore_tokens = tuple(ignore_tokens)
        self.skip_positions = skip_positions
        self.batch_size = batch_size
        self._marked: set[Key] = set()

    def fresh(self) -> BatchReader:
        """One with the same arguments that has read nothing yet."""
        found = copy.copy(self)
        found.shared_padding = found.used_padding = None
        found._marked = set()
        return found

    @property
    def key(self) -> Hashable:
        """What tells readers apart that may read a batch in different ways; arrays of labels by where they lie."""
        padding = (self.padding_idx, self.shared_padding, self.ignore_tokens, self.skip_positions)
        sources = tuple((name, hashable(one)) for name, one in self.sources.items())
        return self.names, sources, *map(hashable, (self.tokens, self.mask, self.batch_size)), padding

    def count(self, batch: Any) -> int:
        """The number of samples in a batch."""
        try:
            return batch_size(batch, self.batch_size)
        except ValueError:
            if self.batch_size is not None or self.tokens is None:
                raise
        ids = self._tokens(batch, None)
        assert ids is not None
        return ids.shape[0]

    def read(
        self,
        batch: Any,
        positions: Tensor | None = None,
        tokens: Key | None = None,
        num_samples: int | None = None,
        samples: int | None = None,
        given: bool = False,
    ) -> ReadBatch:
        """Read one batch.

        Args:
            batch: What the loader gave.
            positions: Place of each sample of the batch in the data set, (B,), on the CPU; arrays of labels need it.
            tokens: Another place of the token ids than the reader's own; its mask is what is not padding there.
            num_samples: Length of the data set, to check arrays of labels against.
            samples: Number of samples of the batch, where token ids may have several rows for each.
            given: Whether a site's own reader may give labels, so that they need not be in the batch.

        """
        ids = self._tokens(batch, tokens)
        size = ids.shape[0] if ids is not None else batch_size(batch, self.batch_size)
        context = read = None
        maybe_padded: dict[str, tuple[int, str]] = {}
        if ids is not None:
            context = self._context(batch, ids, tokens)
            ids = ids.long().masked_fill(~context, NO_LABEL)
            read = context
            if self.skip_positions:
                read = context & (context.cumsum(1) > self.skip_positions)
        elif self.mask is not None or has(batch, _MASK_KEY):
            context = read = self._mask(batch).bool()
            if self.skip_positions:
                read = context & (context.cumsum(1) > self.skip_positions)
        elif self.padding_idx is None and self.shared_padding != -1:
            maybe_padded = dict(self._maybe_padded(batch))
        custom = {
            name: self._custom(name, source, batch, size, positions, num_samples, samples)
            for name, source in self.sources.items()
            if not given or source != name or has(batch, name)
        }
        several = samples is not None and size != samples
        return ReadBatch(size, ids, context, read, custom, maybe_padded, samples if several else None)

    def _maybe_padded(self, batch: Any, path: str = "") -> Iterator[tuple[str, tuple[int, str]]]:
        """Parts that may be token ids or a mask, however deep; those that are labels are not."""
        labels = {step for source in self.sources.values() for step in (f"[{source!r}]", f".{source}")}
        for step, part in parts_of(batch):
            if not path and step in labels:
                continue
            if not isinstance(part, Tensor):
                yield from self._maybe_padded(part, path + step)
            elif part.ndim == 2 and not part.is_floating_point() and not part.is_complex():
                yield path + step, (part.shape[1], "booleans" if part.dtype == torch.bool else "integers")

    def _tokens(self, batch: Any, tokens: Key | None) -> Tensor | None:
        where = tokens if tokens is not None else self.tokens
        found = look_up(batch, where, "tokens") if where is not None else _first_of(batch)
        if _like_tokens(found):
            return found
        needing = self._needs_of_tokens()
        if where is None and not needing:
            return None
        problem = "shows no token ids by itself" if where is None else f"has none at tokens={where!r}"
        asking = "" if where is not None else f", and {needing[0]} needs them"
        raise ValueError(
            f"The batch {problem}{asking}: it is {describe_batch(batch)}. Token ids are integers of shape (B, T); "
            "point to them with `tokens=`: a key of a dict, an index of a tuple, or a callable on the batch."
        )

    def _needs_of_tokens(self) -> list[str]:
        """What has been asked for that is without effect where there are no token ids."""
        # −1 says that nothing is padded, which holds without them.
        asked = {
            "padding_idx": self.padding_idx is not None and self.padding_idx >= 0,
            "ignore_tokens": bool(self.ignore_tokens),
            "skip_positions": bool(self.skip_positions) and self.mask is None,
        }
        built_in = [f"label set {name!r}" for name in self.names if name not in self.sources]
        return built_in + [f"`{name}={getattr(self, name)!r}`" for name, given in asked.items() if given]

    def _context(self, batch: Any, ids: Tensor, own: Key | None) -> Tensor:
        """Which ids are words: of both a mask and an id of padding that are given, each has its say."""
        real = ids >= 0
        if own is not None and ids is _first_of(batch):
            own = None  # the reader's own place of them, said again
        masked = own is None and (self.mask is not None or has(batch, _MASK_KEY))
        padding = self.padding_idx
        if padding is None and not masked:
            padding = self.used_padding = self.shared_padding
        if padding is not None:
            real = real & (ids != padding)
        elif own is not None:
            self._check_marked(own, ids)
        if own is None and (self.mask is not None or padding is None):
            if not masked:
                raise ValueError(
                    f"The batch, {describe_batch(batch)}, has no padding mask. Pass `padding_idx=` (the token id of "
                    "padding, or -1 if nothing is padded), for all callbacks at once as a number in an attribute "
                    "`padding_idx` of the LightningModule or the data module; or `mask=` (where the mask is)."
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

    def _check_marked(self, where: Key, ids: Tensor) -> None:
        """Ids of a site's own need a sign of padding: the batch's mask is that of others."""
        if where in self._marked:
            return
        if not bool((ids < 0).any()):
            raise ValueError(
                f"Nothing says which token ids at tokens={where!r} are padding: none is below 0, and a mask is that of "
                "the batch's first token ids. Pass `padding_idx=`: the token id of padding, or -1 if all below 0 or "
                "nothing is."
            )
        self._marked.add(where)

    def _mask(self, batch: Any) -> Tensor:
        mask = look_up(batch, self.mask if self.mask is not None else _MASK_KEY, "mask")
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            raise ValueError(
                f"`mask` must lead to a tensor (B, T), not to {describe_batch(mask)}; the batch is "
                f"{describe_batch(batch)}."
            )
        return mask

    def _custom(
        self,
        name: str,
        source: LabelSource,
        batch: Any,
        size: int,
        positions: Tensor | None,
        num_samples: int | None,
        samples: int | None = None,
    ) -> Tensor:
        if isinstance(source, str | int) or callable(source):
            found = look_up(batch, source, f"labels[{name!r}]")
            value = torch.as_tensor(found) if not isinstance(found, Tensor) else found
            if value.ndim == 0 or value.shape[0] not in (size, samples):
                raise ValueError(
                    f"Label set {name!r} gave shape {tuple(value.shape)} for a batch of {size} samples; its first "
                    "dimension must be the batch."
                )
            return value.clone()  # a step may write into the batch's own tensors
        if positions is None:
            raise ValueError(
                f"`labels[{name!r}]` is an array with an entry for each sample of the data set, and which samples a "
                "batch has is not known. Put the label into the batch, and name its key."
            )
        table = source
        assert isinstance(table, Tensor)
        if num_samples is not None and len(table) != num_samples:
            raise ValueError(
                f"`labels[{name!r}]` is an array of length {len(table)}, but the validation data set has {num_samples} "
                "samples: give one entry per sample."
            )
        if len(positions) and int(positions.max()) >= len(table):
            raise ValueError(
                f"`labels[{name!r}]` is an array of length {len(table)}, but sample {int(positions.max())} was read."
            )
        return table[positions]


def hashable(given: Any) -> Hashable:
    """What two arguments have in common that are the same; a callable that cannot say so is like itself alone."""
    if isinstance(given, Tensor):
        return given.data_ptr(), given.dtype, tuple(given.shape), given.stride()
    try:
        hash(given)
    except TypeError:
        return "itself", id(given)
    return given  # type: ignore[no-any-return]


def _table(name: str, given: Any) -> Tensor:
    """Labels of the samples of a data set."""
    try:
        table = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`labels[{name!r}]` must be a key, an index, a callable or an array of numbers, got "
            f"{describe_batch(given)}: {error}"
        ) from error
    if table.ndim == 0:
        raise ValueError(f"`labels[{name!r}]` must have an entry for each sample of the data set, got {given!r}.")
    return table


def _first_of(batch: Any) -> Any:
    """Where token ids are looked for by default."""
    if isinstance(batch, tuple | list):
        return batch[0] if len(batch) else None
    if isinstance(batch, Tensor):
        return batch
    return look_up(batch, _TOKEN_KEY, "tokens") if has(batch, _TOKEN_KEY) else None


def _like_tokens(part: Any) -> TypeGuard[Tensor]:
    """Whether something has the shape and the kind of token ids."""
    whole = isinstance(part, Tensor) and not part.is_floating_point() and not part.is_complex()
    return whole and part.ndim == 2 and part.dtype != torch.bool
