"""A part: images and signals of a validation run, run again without each of their patches or channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lightning_interp.batches.contents import Key, describe_batch, look_up
from lightning_interp.batches.forward import checked_forward
from lightning_interp.distributed import Collective, Gather, rank_in, world_size
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional.ablation import Score, prediction_scores
from lightning_interp.functional.counter_noise import counter_uniform
from lightning_interp.functional.patches import marked_patches, patch_edges, patch_index
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.batching import dealt
from lightning_interp.language.likelihood import eval_mode, model_device
from lightning_interp.parts.ablated_texts import checked_cues, outputs
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.loading import find_language_model

__all__ = ["AblatedInput", "AblatedInputs", "Instead", "RunInputs", "UnitCues", "Units"]

Units = int | Sequence[int] | Literal["channels"]
"""The sides of a patch, one for all axes or one for each, or channels."""
Instead = Literal["mean", "zero", "resample"]
"""What stands in the place of a unit that is left out."""
UnitCues = dict[str, Key | Sequence[int]]
"""Name → where a batch marks the cue, or the units that it is."""
RunInputs = Callable[[nn.Module, Tensor], Any]
"""(model, inputs (B, …)) → logits (B, C), or an output that has them."""

_FEWEST = 2  # units of an input: of one alone nothing can be compared
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_AXES = 8
_CUES = "a batch key or a list of the numbers of units"


class AblatedInput(NamedTuple):
    """An image or a signal, and which of its units belong to each cue."""

    values: Tensor
    """As the model gets it, without the dimension of the batch."""
    cues: Tensor
    """bool (cues, n)."""

    @property
    def first_ids(self) -> Tensor:
        """The number of each unit."""
        return torch.arange(self.cues.shape[1])


class AblatedInputs(Part):
    """Runs inputs of the validation run through a model as they are and without each of their units.

    Inputs are gathered from all ranks and dealt whole, so that each is computed as by one process.

    Args:
        inputs: Where a batch has them, a floating tensor (B, …).
        units: What is left out at a time.
        channels: The dimension of channels, that of the batch counted; ``None`` where there is none.
        without: What stands in its place.
        score: What a prediction is measured by.
        draws: How many other inputs ``"resample"`` takes a unit from.
        cues: What is watched.
        seed: Of the draws.
        model: Dotted name of the model in the module.
        forward: Calls it in its stead.
        batch_inputs: Inputs in a forward pass.

    Raises:
        ValueError: If an argument is out of range; when attached, if the name matches nothing or parameters are sharded
            over ranks.

    """

    reads_batches = True
    attached = ("_model",)

    def __init__(
        self,
        inputs: Key | None,
        units: Units,
        channels: int | None,
        without: Instead,
        score: Score,
        draws: int,
        cues: UnitCues | None,
        seed: int,
        model: str,
        forward: RunInputs | None,
        batch_inputs: int,
    ) -> None:
        for name, given, kinds in (("without", without, get_args(Instead)), ("score", score, get_args(Score))):
            if given not in kinds:
                raise ValueError(f"`{name}` must be one of {list(kinds)}, got {given!r}.")
        for name, number in (("draws", draws), ("batch_inputs", batch_inputs)):
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}.")
        sides = [units] if isinstance(units, int) else units
        patches = isinstance(sides, tuple | list) and len(sides) > 0 and all(type(s) is int and s > 0 for s in sides)
        if units != "channels" and not patches:
            raise ValueError(f"`units` must be the side of a patch, the sides, or 'channels', got {units!r}.")
        if channels is not None and (type(channels) is not int or channels == 0):
            raise ValueError(
                f"`channels` must be a dimension other than 0, that of the batch, or None, got {channels!r}."
            )
        if units == "channels" and channels is None:
            raise ValueError("units='channels' needs `channels`, the dimension that they are, and that is None.")
        self.inputs, self.channels, self.without, self.score, self.draws = inputs, channels, without, score, draws
        self.units: int | str | list[int] = units if isinstance(units, int | str) else list(units)
        self.cues, self.seed, self.batch_inputs = checked_cues(cues, _CUES), seed, batch_inputs
        self.name, self.forward = model, checked_forward(forward, ("model", "inputs"))
        self._model: nn.Module | None = None
        self.forget()

    @property
    def model(self) -> nn.Module:
        """The model."""
        if self._model is None:
            raise RuntimeError("the inputs belong to no model yet: `attach` comes first.")
        return self._model

    def attach(self, model: nn.Module) -> None:
        """Find the model."""
        self._model = find_language_model(self.name, model)
        refuse_sharded(self._model, "inputs")

    def detach(self) -> None:
        """Let go of the model."""
        self._model = None

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self.forget()

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._own: list[tuple[int, Tensor, Tensor]] = []

    # ------------------------------------------------- inputs

    def before_batch(self, seen: Seen) -> None:
        """Keep the selected inputs of a batch.

        Raises:
            ValueError: If the batch has none, they make no two units, or a cue is not there.

        """
        values, number = self._of(seen.batch), len(seen.selection.batch)
        if len(values) != number:
            raise ValueError(f"`inputs` must lead to an input for each of {number} samples, got {tuple(values.shape)}.")
        index = self.index(values.shape[1:])
        n = int(index.max()) + 1
        if n < _FEWEST:
            raise ValueError(
                f"`units` of {self.units!r} makes {n} of an input {tuple(values.shape[1:])}: of fewer than two nothing "
                "can be compared."
            )
        marks = [
            self._marked(name, seen.batch, values, index.squeeze(tuple(self._channel(values.shape[1:]))), n)
            for name in self.cues
        ]
        cues = torch.stack([torch.zeros(number, n, dtype=torch.bool), *marks], 1)[:, 1:]
        chosen = seen.selection.of(values).detach().cpu().clone(), seen.selection.of(cues).clone()
        self._own += zip(seen.selection.positions.tolist(), *chosen, strict=True)

    def _of(self, batch: Any) -> Tensor:
        if self.inputs is not None:
            found = look_up(batch, self.inputs, "inputs")
        elif isinstance(batch, tuple | list) and len(batch):
            found = batch[0]
        else:
            found = batch
        if not isinstance(found, Tensor) or found.dtype not in _DTYPES or not 2 <= found.ndim <= _MOST_AXES:
            raise ValueError(
                f"`inputs` must lead to a floating tensor (B, …), and leads to {describe_batch(found)}; the batch is "
                f"{describe_batch(batch)}."
            )
        return found

    def _channel(self, shape: Sequence[int]) -> list[int]:
        """The dimension of channels in the shape of a single input, in a list; empty where there is none."""
        if self.channels is None:
            return []
        axes = len(shape) + 1
        if not -axes < self.channels < axes:
            raise ValueError(f"`channels` is {self.channels}, and inputs are (B, {', '.join(map(str, shape))}).")
        return [self.channels % axes - 1]

    def index(self, shape: Sequence[int]) -> Tensor:
        """The unit that each number of an input belongs to, int64 that broadcasts to its shape."""
        channel = self._channel(shape)
        if self.units == "channels":
            return torch.arange(shape[channel[0]]).view([-1 if axis in channel else 1 for axis in range(len(shape))])
        found = patch_index(*self._patches(shape))
        return found.unsqueeze(channel[0]) if channel else found

    def _patches(self, shape: Sequence[int]) -> tuple[list[int], list[int]]:
        """The sizes of an input beside its channels, and the sides of a patch."""
        sizes = [size for axis, size in enumerate(shape) if axis not in self._channel(shape)]
        sides = [self.units] * len(sizes) if isinstance(self.units, int) else [int(side) for side in self.units]
        if not sizes or len(sides) != len(sizes):
            raise ValueError(
                f"`units` is {self.units!r}, and an input {tuple(shape)} has {len(sizes)} dimensions beside `channels`."
            )
        return sizes, sides

    def edges(self, shape: Sequence[int]) -> list[list[int]]:
        """Of each dimension beside channels, where patches begin and the last one ends."""
        return [patch_edges(*pair) for pair in zip(*self._patches(shape), strict=True)]

    def names(self, shape: Sequence[int]) -> list[str]:
        """What the units of an input are called: the channel, or the positions of a patch."""
        if self.units == "channels":
            return [f"channel {number}" for number in range(shape[self._channel(shape)[0]])]
        axes = [
            [str(start) if end == start + 1 else f"{start}–{end - 1}" for start, end in pairwise(edges)]
            for edges in self.edges(shape)
        ]
        return [", ".join(one) for one in product(*axes)]

    def of_images(self, shape: Sequence[int]) -> bool:
        """Whether units are patches of two dimensions."""
        return self.units != "channels" and len(shape) - len(self._channel(shape)) == 2

    def channels_first(self, values: Tensor) -> Tensor:
        """A single input with its channels first, one where it has no dimension of channels."""
        channel = self._channel(values.shape)
        return values.movedim(channel[0], 0) if channel else values[None]

    def _marked(self, name: str, batch: Any, values: Tensor, index: Tensor, n: int) -> Tensor:
        """Which units of each input belong to a cue, bool (B, n)."""
        cue = self.cues[name]
        if isinstance(cue, list):
            if max(cue) >= n:
                raise ValueError(f"`cues` of {name!r} is unit {max(cue)}, and inputs have {n} units, from 0 on.")
            found = torch.zeros(len(values), n, dtype=torch.bool)
            found[:, cue] = True
            return found
        marks = look_up(batch, cue, "cues")
        shape = (len(values), n) if self.units == "channels" else (len(values), *index.shape)
        if not isinstance(marks, Tensor) or tuple(marks.shape) != shape or marks.is_floating_point():
            told = f"{marks.dtype} {tuple(marks.shape)}" if isinstance(marks, Tensor) else type(marks).__name__
            raise ValueError(f"`cues[{name!r}]` must lead to a mask, whole numbers {shape}, got {told}.")
        return marks.cpu() != 0 if self.units == "channels" else marked_patches(index, marks.cpu())

    def gathered(self) -> Collective[list[AblatedInput]]:
        """Those of all ranks, in their order in the data set.

        Raises:
            ValueError: If they are not all of one shape.

        """
        none = torch.zeros(0, 2 + _MOST_AXES, dtype=torch.int64)
        told = [[at, _DTYPES.index(x.dtype), *x.shape, *[0] * (_MOST_AXES - x.ndim)] for at, x, _ in self._own]
        heads: list[Tensor] = yield Gather(torch.cat([none, *(torch.tensor([one]) for one in told)]))
        head = torch.cat(heads)
        if not len(head):
            return []
        kinds = torch.unique(head[:, 1:], dim=0)
        if len(kinds) > 1:
            shapes = [tuple(one for one in kind[1:].tolist() if one) for kind in kinds]
            raise ValueError(f"inputs must have one shape and dtype, and have the shapes {shapes}: give `inputs`.")
        kind, *sizes = kinds[0].tolist()
        shape, number = [one for one in sizes if one], len(self.cues)
        n = int(self.index(shape).max()) + 1
        empty = torch.zeros(0, *shape, dtype=_DTYPES[kind])
        values: list[Tensor] = yield Gather(torch.cat([empty, *(x[None] for _, x, _ in self._own)]))
        marks: list[Tensor] = yield Gather(
            torch.cat([torch.zeros(0, number, n, dtype=torch.uint8), *(one[None].byte() for *_, one in self._own)])
        )
        pairs = list(zip(torch.cat(values), torch.cat(marks).bool(), strict=True))
        found = [AblatedInput(*pairs[at]) for at in head[:, 0].argsort(stable=True).tolist()]
        # One alone has no other to draw from.
        return [] if self.without == "resample" and len(found) < 2 else found

    # ------------------------------------------------- running them

    def losses(self, read: Sequence[AblatedInput], group: Any = None) -> list[Tensor]:
        """What the prediction of each input loses without each unit, float64 (n,); 0 for inputs of another rank."""
        found = [torch.zeros(one.cues.shape[1], dtype=torch.float64) for one in read]
        own = dealt(range(len(read)), (rank_in(group), world_size(group)))
        if own:
            pool = torch.stack([one.values for one in read])
            index = self.index(pool.shape[1:])
            with eval_mode(self.model):
                for place in own:
                    found[place] = self._losses(pool, place, index, self._instead(pool))
        return found

    def _losses(self, pool: Tensor, place: int, index: Tensor, instead: Tensor | None) -> Tensor:
        target, full = -1, torch.zeros(())
        found = torch.zeros(int(index.max()) + 1, dtype=torch.float64)
        for which, inputs in self._rows(pool, place, index, instead):
            logits = self._logits(inputs)
            if target < 0:
                target = int(logits[0].argmax()) if logits.shape[1] > 1 else int(logits[0] > 0)
            scores = prediction_scores(logits, target, self.score).double().cpu()
            if which[0] < 0:
                full, which, scores = scores[0], which[1:], scores[1:]
            found.index_add_(0, which, full - scores)
        return found / self.runs

    @property
    def runs(self) -> int:
        """How often an input is run without the same unit."""
        return self.draws if self.without == "resample" else 1

    def _instead(self, pool: Tensor) -> Tensor | None:
        """What stands in the place of any unit; ``None`` where that depends on which."""
        if self.without == "resample":
            return None
        if self.without == "zero":
            return torch.zeros((), dtype=pool.dtype)
        channel = [axis + 1 for axis in self._channel(pool.shape[1:])]
        mean: Tensor = pool.double().mean([axis for axis in range(pool.ndim) if axis not in channel], keepdim=True)[0]
        return mean.to(pool)

    def _rows(self, pool: Tensor, place: int, index: Tensor, instead: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """In batches, the unit that is left out, int64 (B,), and inputs; the first of all is the input as it is, −1."""
        here, n = model_device(self.model), int(index.max()) + 1
        one, index = pool[place].to(here), index.to(here)
        for rows in torch.split(torch.arange(-1, n * self.runs), self.batch_inputs):
            which = rows.div(self.runs, rounding_mode="floor")
            other = pool[self._others(rows, place, len(pool))] if instead is None else instead
            gone = index == which.to(here).view(-1, *[1] * one.ndim)
            yield which, torch.where(gone, other.to(here), one)

    def _others(self, rows: Tensor, place: int, number: int) -> Tensor:
        """Which other input the unit of each run comes from, the same at every reading."""
        chance = counter_uniform((torch.tensor(place) << 32) + rows, self.seed).double()
        other = (chance * (number - 1)).long()
        return other + (other >= place)

    def _logits(self, inputs: Tensor) -> Tensor:
        """Logits of classes, (B, C)."""
        found = self.model(inputs) if self.forward is None else self.forward(self.model, inputs)
        for one in outputs(found):
            if isinstance(one, Tensor) and one.is_floating_point() and one.dim() == 2 and len(one) == len(inputs):
                return one
        raise TypeError(
            f"no logits of classes ({len(inputs)}, C) in what {type(self.model).__name__} returned for inputs "
            f"{tuple(inputs.shape)}, which is {describe_batch(found)}; give `forward`, a function of (model, inputs) "
            "that returns them."
        )
