"""The data module that the sequence-to-sequence data sets share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from lightning_interp.compat import pl
from lightning_interp.datasets.encoding import Batch, EncodedPairs, Pair, as_batch
from lightning_interp.datasets.vocabulary import Vocabulary

__all__ = ["Seq2SeqDataModule"]


class Seq2SeqDataModule(pl.LightningDataModule):
    """Training, in-distribution and out-of-distribution sentence pairs.

    ``val_dataloader`` gives two loaders, in the order of :attr:`val_loader_names`: what a model logs as ``val_acc`` in
    ``validation_step`` becomes ``val_acc/dataloader_idx_0`` (in distribution) and ``val_acc/dataloader_idx_1`` (out of
    distribution). The batches are those of :class:`~lightning_interp.datasets.encoding.EncodedPairs`.

    The training order depends on ``seed`` alone: loaders draw from generators of their own, never from the global
    random stream. Where Lightning puts its ``DistributedSampler`` in (several processes), the order depends on
    ``seed_everything`` instead.

    Args:
        train: Training pairs (source words, target words).
        val: Validation pairs of the same distribution.
        ood: Validation pairs of another distribution.
        source_vocabulary: Ids of source words; by default those of all three splits.
        target_vocabulary: Ids of target words; by default those of all three splits.
        ood_categories: The category of each out-of-distribution pair, in their order.
        batch_size: Pairs in a training batch.
        val_batch_size: Pairs in a validation batch.
        seed: Seed of the training order.
        num_workers: Worker processes of each loader.

    Raises:
        ValueError: If a split is empty, a batch size is below 1, or there are not as many categories as
            out-of-distribution pairs.

    Example:
        >>> pair = (["amelia", "slept"], ["slept", "agent", "amelia"])
        >>> data = Seq2SeqDataModule(train=[pair] * 3, val=[pair], ood=[pair], batch_size=2)
        >>> [tuple(batch["input_ids"].shape) for batch in data.train_dataloader()]
        [(2, 2), (1, 2)]
        >>> dict(zip(data.val_loader_names, [len(loader.dataset) for loader in data.val_dataloader()]))
        {'in distribution': 1, 'out of distribution': 1}

    """

    val_loader_names = ("in distribution", "out of distribution")

    def __init__(
        self,
        train: Sequence[Pair],
        val: Sequence[Pair],
        ood: Sequence[Pair],
        source_vocabulary: Vocabulary | None = None,
        target_vocabulary: Vocabulary | None = None,
        ood_categories: Sequence[str] | None = None,
        batch_size: int = 64,
        val_batch_size: int = 200,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, split in (("train", train), ("val", val), ("ood", ood)):
            if not split:
                raise ValueError(f"`{name}` is empty; it needs at least one (source words, target words) pair.")
        for name, size in (("batch_size", batch_size), ("val_batch_size", val_batch_size)):
            if size < 1:
                raise ValueError(f"`{name}` is {size}; it must be at least 1.")
        if ood_categories is not None and len(ood_categories) != len(ood):
            raise ValueError(f"`ood_categories` has {len(ood_categories)} entries for {len(ood)} pairs in `ood`.")
        self.train, self.val, self.ood = list(train), list(val), list(ood)
        pairs = [*self.train, *self.val, *self.ood]
        self.source_vocabulary = source_vocabulary or Vocabulary.from_sentences(source for source, _ in pairs)
        self.target_vocabulary = target_vocabulary or Vocabulary.from_sentences(target for _, target in pairs)
        self.ood_categories = None if ood_categories is None else tuple(ood_categories)
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.seed = seed
        self.num_workers = num_workers
        self._train_set, self._val_set, self._ood_set = (
            EncodedPairs(split, self.source_vocabulary, self.target_vocabulary)
            for split in (self.train, self.val, self.ood)
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches; the order of every epoch follows from ``seed``."""
        return self._loader(self._train_set, self.batch_size, shuffle=True)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """The in-distribution and the out-of-distribution loader, in the order of the pairs."""
        return [self._loader(pairs, self.val_batch_size, shuffle=False) for pairs in (self._val_set, self._ood_set)]

    def _loader(self, pairs: EncodedPairs, batch_size: int, shuffle: bool) -> DataLoader[Batch]:
        return DataLoader(
            pairs,
            batch_size=batch_size,
            shuffle=shuffle,
            collate_fn=as_batch,
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(self.seed),
        )
