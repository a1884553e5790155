"""A part: examples of the training data, the same at every reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_interp.batches.drawn_items import DrawnItems
from lightning_interp.batches.forward import Forward, checked_forward
from lightning_interp.batches.own_data import OwnData
from lightning_interp.distributed.positions import Selection
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.train_loop import training_loader

__all__ = ["TrainingExamples"]


class TrainingExamples(Part):
    """A fixed sample of the training data, or data of one's own, batch by batch and dealt over ranks.

    Which items of the training data are drawn is told by a hash of their place, so that they are the same at every
    reading, on any number of ranks and after a resume. They are loaded at each reading in the main process, by the
    loader's own ``collate_fn``; what they draw at random is the same each time.

    Args:
        data: Instead, a ``DataLoader`` that does not shuffle, or any other iterable of batches.
        max_examples: How many are read, over all ranks; ``None`` for all.
        seed: Of the sample.
        forward: How a batch goes through the module, ``forward(model, batch)``; by default the module's own, which gets
            what it takes of a dict by name, or the first entry of a tuple.

    Raises:
        ValueError: If an argument is out of range; when read, if there are no training data, or no sample can be drawn
            from them.
        TypeError: If ``forward`` takes something else.

    Example:
        >>> import torch
        >>> examples = TrainingExamples([torch.zeros(2, 3), torch.zeros(1, 3)])
        >>> batches = examples.batches(Reading(nn.Linear(3, 2)), len)
        >>> [(seen.selection.positions.tolist(), seen.counted) for seen in batches]
        [([0, 1], True), ([2], True)]

    """

    def __init__(
        self,
        data: Iterable[Any] | None = None,
        max_examples: int | None = 512,
        seed: int = 0,
        forward: Forward | None = None,
    ) -> None:
        if max_examples is not None and max_examples < 1:
            raise ValueError(f"`max_examples` must be at least 1, or None for all, got {max_examples}.")
        self.max_examples = max_examples
        self.seed = seed
        self.own = None if data is None else OwnData(data, forward)
        self.forward = checked_forward(forward)

    def batches(self, reading: Reading, count: Callable[[Any], int]) -> Iterator[Seen]:
        """This rank's batches, on the model's device; positions are places in the data set.

        The last does not count where it is there only because another rank has one more. To be iterated where random
        streams are put back.

        Args:
            reading: The reading.
            count: The number of samples in a batch.

        """
        if self.own is not None:
            return self._dealt(reading, self.own, count, None, None)
        items = self._drawn(reading)
        return self._dealt(reading, OwnData(items), count, items.places, items.sizes)

    def grouped(
        self,
        reading: Reading,
        count: Callable[[Any], int],
        group: Callable[[Any], Tensor],
        look: Callable[[Any, Selection], None],
    ) -> Iterator[Seen]:
        """The same, all of them in memory; those of the training data are made anew, each of examples of one group.

        Args:
            reading: The reading.
            count: The number of samples in a batch.
            group: Gives the group of each sample of a batch, integers (B,).
            look: Shown every batch of all ranks before the first is given, with the samples that are read.

        """
        if self.own is not None:
            own, places, sizes = OwnData(list(self.own.value)), None, None
        else:
            batches, places, sizes = self._drawn(reading).by_group(group)
            own = OwnData(batches)
        positions, number = own.positions(self.max_examples if places is None else None), _counting(count, sizes)
        for batch in own.value:
            selection = positions.select(number(batch))
            if len(selection):
                look(batch, _placed(selection, places))
        return self._dealt(reading, own, count, places, sizes)

    def _dealt(
        self,
        reading: Reading,
        own: OwnData,
        count: Callable[[Any], int],
        places: Tensor | None,
        sizes: Sequence[int] | None,
    ) -> Iterator[Seen]:
        positions, number = own.positions(self.max_examples if places is None else None), _counting(count, sizes)
        found = own.batches(reading.model, positions, number, reading.group, reading.trainer)
        for index, (batch, selection, counts) in enumerate(found):
            yield Seen(batch, index, 0, _placed(selection, places), counted=counts)

    def run(self, model: nn.Module, batch: Any) -> None:
        """A batch through the model."""
        OwnData([], self.forward).run(model, batch)

    def _drawn(self, reading: Reading) -> DrawnItems:
        if reading.trainer is None:
            raise ValueError("There are no training data here, outside of a fit: give the examples with `data=`.")
        return DrawnItems(training_loader(reading.trainer), self.max_examples, self.seed)


def _counting(count: Callable[[Any], int], sizes: Sequence[int] | None) -> Callable[[Any], int]:
    """Counts samples, and sees that there are as many as items."""
    expected = None if sizes is None else iter(sizes)

    def counted(batch: Any) -> int:
        number = count(batch)
        if expected is not None and number != (items := next(expected)):
            raise ValueError(
                f"{items} items of the training data make a batch of {number} samples, so which is which is not "
                "known: give the examples with `data=`."
            )
        return number

    return counted


def _placed(selection: Selection, places: Tensor | None) -> Selection:
    if places is None:
        return selection
    return Selection(places[selection.positions], selection.rows, places[selection.batch])
