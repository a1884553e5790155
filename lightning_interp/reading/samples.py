"""Which samples an analysis reads, whether their places are known, and whether they are those of the reading before."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_interp.batches.collate_order import why_order_is_unknown
from lightning_interp.batches.same_data import Samples
from lightning_interp.compat import pl
from lightning_interp.distributed import over_ranks
from lightning_interp.distributed.positions import SamplePositions
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.val_loop import validation_loaders

__all__ = ["ReadSamples", "loader_positions"]


def loader_positions(
    trainer: pl.Trainer, name: str, dataloader_idx: int, max_examples: int | None
) -> tuple[Any, SamplePositions]:
    """A validation loader of a Trainer, and counts through its batches.

    Raises:
        ValueError: If there is no such loader.

    """
    loaders = validation_loaders(trainer)
    if dataloader_idx >= len(loaders):
        raise ValueError(
            f"`dataloader_idx={dataloader_idx}` of {name}, but there are {len(loaders)} validation loaders (0 to "
            f"{len(loaders) - 1})."
        )
    batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
    split = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {"rank": 0, "num_replicas": 1}
    loader = loaders[dataloader_idx]
    return loader, SamplePositions(
        loader,
        rank=split["rank"],
        world=split["num_replicas"],
        max_examples=max_examples,
        num_batches=batches[dataloader_idx] if dataloader_idx < len(batches) else None,
    )


class ReadSamples:
    """What is known of the samples of one analysis, and what was said of them.

    Args:
        max_examples: Samples to read over all ranks, for messages.

    """

    def __init__(self, max_examples: int | None) -> None:
        self.max_examples = max_examples
        self.release()
        self.clear()
        self._warned_of_claim = False

    def clear(self) -> None:
        """A new fit."""
        self.before: Samples | None = None
        """What identifies the samples of the reading before."""
        self._warned = self._warned_of_change = False

    def copy(self) -> ReadSamples:
        """One that knows the samples of the reading before, and no loader."""
        found = copy.copy(self)
        found.release()
        return found

    def release(self) -> None:
        """Let go of the loader."""
        self._collate: tuple[int, str | None] | None = None

    def try_collate(self, loader: Any, positions: SamplePositions, arrays: Sequence[str]) -> None:
        """Where labels go by place, see once whether a collate function of one's own keeps the order of samples."""
        if not positions.exact or not arrays:
            return
        collate = getattr(loader, "collate_fn", None)
        which = id(getattr(collate, "__func__", collate))
        if self._collate is None or self._collate[0] != which:
            self._collate = which, why_order_is_unknown(loader)
        positions.why = self._collate[1]

    def check_positions(self, positions: SamplePositions, name: str, source: str, arrays: Sequence[str]) -> None:
        """Say once, where the place of samples in the data set is not known, what follows from it.

        Args:
            positions: Counts through the batches.
            name: Of the analysis.
            source: What batches come from.
            arrays: Arguments that hold an entry for each sample of the data set.

        Raises:
            ValueError: If there are such arguments.

        """
        if positions.exact:
            return
        loader = f"{source} does not tell which samples of the data set it gives ({positions.why})"
        if arrays:
            raise ValueError(
                f"`{arrays[0]}` is an array with an entry for each sample of the data set, and {loader}. Put the label "
                "into the batch, and name its key; or give a plain DataLoader, without a sampler of your own, whose "
                "items are the samples."
            )
        if self._warned:
            return
        self._warned = True
        follows = ["They are numbered as they come."]
        if positions.shuffled:
            follows.append("It shuffles, so each reading is of other samples, or of the same ones in another order.")
        if positions.world > 1:
            follows.append("A reading is not exactly the one that a single process would give.")
        if self.max_examples is not None and not positions.spread:
            follows.append(f"`max_examples={self.max_examples}` takes the first ones.")
        pl.utilities.rank_zero_warn(f"{name}: {loader}. {' '.join(follows)}")

    def check_number(self, positions: SamplePositions, name: str, source: str) -> None:
        """Say once where a sampler claimed more samples than it gave, so that too few of them were read.

        Raises:
            ValueError: If none was.

        """
        if not positions.short:
            return
        claim = (
            f"{name}: `max_examples={self.max_examples}` are spread over the samples that {source} claims "
            f"({positions.why}), but it gave {positions.seen}, {positions.kept} read. Let `__len__` of the sampler "
            "tell how many it gives, or use `max_examples=None`."
        )
        if not positions.kept:
            raise ValueError(claim)
        if not self._warned_of_claim:
            self._warned_of_claim = True
            pl.utilities.rank_zero_warn(claim)

    def compare(self, reading: Reading, name: str, source: str, kept: str, by_place: bool) -> None:
        """Compare the samples of a reading with those of the one before, and say once where they are others.

        Args:
            reading: The reading.
            name: Of the analysis.
            source: What batches come from.
            kept: What is kept for the samples, and what becomes of it, in words; without it nothing is compared.
            by_place: Whether the same samples in another order are others.

        """
        # The sanity check sees a part of the data.
        if not kept or reading.rehearsal:
            return
        found, before = over_ranks(reading.checksum.merge(), reading.group), self.before
        reading.samples = found
        if before is None or found == before:
            return
        same = (found.number, found.contents) == (before.number, before.contents)
        if same and not by_place:
            return
        reading.changed = "order" if same else "others"
        if not self._warned_of_change:
            self._warned_of_change = True
            what = "the same samples in another order than" if same else "other samples than"
            pl.utilities.rank_zero_warn(
                f"{name}: {source} gave {what} at the reading before ({found.number} now, {before.number} then), and "
                f"{kept}. Let validation data be the same each time: no shuffling, no random crops or masks, no stream "
                "that goes on. This is said once."
            )

    def state_dict(self) -> dict[str, int] | None:
        """What identifies the samples of the last reading."""
        return None if self.before is None else self.before._asdict()

    def load_state_dict(self, state: Mapping[str, int] | None) -> None:
        """Go on where a checkpoint left off."""
        self.before = None if state is None else Samples(**state)
