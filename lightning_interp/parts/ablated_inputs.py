"""A part: images and signals of a validation run, run again without each of their patches or channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lightning_interp.batches.contents import Key, describe_batch, look_up
from lightning_interp.batches.forward import checked_forward
from lightning_interp.distributed import Collective, Gather, rank_in, world_size
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional.ablation import Score, prediction_scores
from lightning_interp.functional.counter_noise import counter_uniform
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.batching import dealt
from lightning_interp.language.likelihood import eval_mode, model_device
from lightning_interp.parts.ablated_texts import outputs
from lightning_interp.parts.cues import checked_cues
from lightning_interp.parts.input_units import InputUnits, Units
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.loading import find_language_model

__all__ = ["AblatedInput", "AblatedInputs", "Instead", "RunInputs", "UnitCues"]

Instead = Literal["mean", "zero", "resample"]
"""What stands in the place of a unit that is left out."""
UnitCues = dict[str, Key | Sequence[int]]
"""Name → where a batch marks the cue, or the units that it is."""
RunInputs = Callable[[nn.Module, Tensor], Any]
"""(model, inputs (B, …)) → logits (B, C), or an output that has them."""

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_AXES = 8


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
        units, channels: What is left out at a time; see :class:`~lightning_interp.parts.input_units.InputUnits`.
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
        self.made_of = InputUnits(units, channels)
        self.inputs, self.without, self.score, self.draws = inputs, without, score, draws
        self.cues, self.seed, self.batch_inputs = checked_cues(cues, "the numbers of units", False), seed, batch_inputs
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

    def keeps(self) -> Sequence[object]:
        """What keeps the arguments."""
        return self, self.made_of

    # ------------------------------------------------- inputs

    def before_batch(self, seen: Seen) -> None:
        """Keep the selected inputs of a batch.

        Raises:
            ValueError: If the batch has none, they make no two units, or a cue is not there.

        """
        values, number = self._of(seen.batch), len(seen.selection.batch)
        if len(values) != number:
            raise ValueError(f"`inputs` must lead to an input for each of {number} samples, got {tuple(values.shape)}.")
        n = self.made_of.number(values.shape[1:])
        marks = [self._marked(name, seen.batch, values, n) for name in self.cues]
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

    def _marked(self, name: str, batch: Any, values: Tensor, n: int) -> Tensor:
        """Which units of each input belong to a cue, bool (B, n)."""
        cue = self.cues[name]
        if isinstance(cue, list):
            if max(cue) >= n:
                raise ValueError(f"`cues` of {name!r} is unit {max(cue)}, and inputs have {n} units, from 0 on.")
            found = torch.zeros(len(values), n, dtype=torch.bool)
            found[:, cue] = True
            return found
        marks, shape = look_up(batch, cue, "cues"), (len(values), *self.made_of.marks(values.shape[1:]))
        if not isinstance(marks, Tensor) or tuple(marks.shape) != shape or marks.is_floating_point():
            told = f"{marks.dtype} {tuple(marks.shape)}" if isinstance(marks, Tensor) else type(marks).__name__
            raise ValueError(f"`cues[{name!r}]` must lead to a mask, whole numbers {shape}, got {told}.")
        return self.made_of.marked(values.shape[1:], marks.cpu())

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
        n = self.made_of.number(shape)
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
            index, instead = self.made_of.index(pool.shape[1:]), self._instead(pool)
            with eval_mode(self.model):
                for place in own:
                    found[place] = self._losses(pool, place, index, instead)
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
        channel = [axis + 1 for axis in self.made_of.channel_axis(pool.shape[1:])]
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
