"""Batches of the user's own, read in place of a validation run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DistributedSampler

from lightning_interp.batches.forward import Forward, checked_forward, module_forward
from lightning_interp.compat import pl
from lightning_interp.distributed import rank_in, world_size
from lightning_interp.distributed.positions import SamplePositions, Selection
from lightning_interp.isolation import muted_loggers, no_side_effects
from lightning_interp.isolation.containers import mapped

__all__ = ["OwnData", "apart", "on_device"]


class OwnData:
    """A data set that callbacks read at the end of a validation run, and its way through the model.

    Whole batches are dealt out to ranks, none of them twice, though all ranks load all of them. Copies share the data.

    Args:
        data: A ``DataLoader`` that does not shuffle, or any other iterable of batches that can be iterated again.
        forward: How a batch goes through the module, ``forward(model, batch)``; by default the module's own, which gets
            what it takes of a dict by name, or the first entry of a tuple.
        argument: What messages call the data.

    Raises:
        ValueError: If the data cannot be iterated again, shuffle, or are dealt out to ranks already.
        TypeError: If ``forward`` takes something else.

    Example:
        >>> own = OwnData([torch.ones(2, 3), torch.ones(1, 3)])
        >>> positions = own.positions()
        >>> model = nn.Linear(3, 2)
        >>> [(len(chosen), counted) for _, chosen, counted in own.batches(model, positions, lambda batch: len(batch))]
        [(2, True), (1, True)]

    """

    def __init__(self, data: Iterable[Any], forward: Forward | None = None, argument: str = "data") -> None:
        # Asked of the type: making an iterator of a DataLoader draws from the global stream and starts its workers.
        if not isinstance(data, Iterable) or isinstance(data, Iterator):
            raise ValueError(
                f"`{argument}` must be a DataLoader or another iterable of batches that can be iterated again, got "
                f"{type(data).__name__}."
            )
        if SamplePositions(data).shuffled:
            raise ValueError(
                f"`{argument}` shuffles; it must be the same at every reading: give its loader shuffle=False."
            )
        samplers = (data, getattr(data, "batch_sampler", None))
        if any(isinstance(getattr(one, "sampler", None), DistributedSampler) for one in samplers):
            raise ValueError(
                f"`{argument}` has a DistributedSampler; its batches are dealt out to ranks here: leave it off."
            )
        self.value = data
        self.argument = argument
        self.forward = checked_forward(forward)

    def __deepcopy__(self, memo: Any) -> OwnData:
        return self

    def positions(self, max_examples: int | None = None) -> SamplePositions:
        """Counts through the batches from the first one on."""
        return SamplePositions(self.value, max_examples=max_examples)

    def batches(
        self,
        model: nn.Module,
        positions: SamplePositions,
        count: Callable[[Any], int],
        group: Any = None,
        trainer: Any = None,
    ) -> Iterator[tuple[Any, Selection, bool]]:
        """This rank's batches, with the samples selected and whether they count.

        The last is one of another rank, and does not count, where there are too few.

        Args:
            model: The model, on whose device they are put.
            positions: Counts through all batches.
            count: The number of samples in a batch.
            group: The ranks that share the batches.
            trainer: The Trainer, if there is one.

        Raises:
            ValueError: If there is no batch.

        """
        world, rank = world_size(group), rank_in(group)
        first = next(model.parameters(), None)
        device = first.device if first is not None else torch.device("cpu")

        def moved(batch: Any) -> Any:
            given = batch if trainer is None else trainer.strategy.precision_plugin.convert_input(batch)
            return on_device(given, device)

        number, spare = 0, None
        for batch in self.value:
            selection = positions.select(count(batch))
            if not len(selection):
                continue
            # All ranks run as many batches: where a forward pass communicates, they would wait for each other.
            spare = batch if number % world == 0 else spare
            if number % world == rank:
                yield moved(batch), selection, True
            number += 1
        if not number:
            raise ValueError(f"`{self.argument}` gave no batch.")
        if number % world and rank >= number % world:
            yield moved(spare), selection, False

    def run(self, model: nn.Module, batch: Any) -> None:
        """A batch through the model."""
        (self.forward or module_forward(model))(model, batch)


def on_device(batch: Any, device: torch.device) -> Any:
    """A batch on a device, frozen dataclasses as well, which Lightning does not move.

    Example:
        >>> on_device({"x": torch.ones(1)}, torch.device("cpu"))
        {'x': tensor([1.])}

    """
    try:
        return pl.utilities.move_data_to_device(batch, device)
    except ValueError as error:
        if "frozen" not in str(error):
            raise
    return mapped(batch, lambda tensor: tensor.to(device))


@contextmanager
def apart(model: nn.Module, trainer: Any = None) -> Iterator[None]:
    """Within, what is run leaves no trace on the model, and has the precision of a validation step."""
    with ExitStack() as stack:
        stack.enter_context(no_side_effects(model))
        if trainer is not None:
            stack.enter_context(trainer.strategy.precision_plugin.val_step_context())
            stack.enter_context(muted_loggers(trainer))
        yield
