"""A part: the gradients of minimal pairs, task by task, of the language model that is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective, Gather, rank_in, world_size
from lightning_interp.language.encoding import EncodedPair, encode_sentences
from lightning_interp.language.id_range import check_ids
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.gradients import GradientReader, Groups, group_names
from lightning_interp.tasks.loading import encode_task, find_language_model
from lightning_interp.tasks.pairs import Task
from lightning_interp.tasks.split import halves_of_pairs

__all__ = ["Gradients", "TaskRows"]

_DRAWS = 8  # gradients of general text


@dataclass(frozen=True, eq=False)
class TaskRows:
    """What is kept of the gradients of T tasks, float32 on the CPU, the same on all ranks."""

    halves: Tensor
    """Sketches of the whole model, of either half of a task's pairs: (T, 2, buckets)."""
    groups: Tensor
    """Sketches of each group of layers, of all pairs: (T, groups, buckets)."""
    names: Sequence[str]
    """What the groups are called."""
    sample: Tensor
    """At a sample of coordinates, (T, n)."""
    swapped: Tensor
    """There, with the two sentences of half of the pairs swapped: what is left without the task, (T, n)."""
    text: Tensor | None
    """There, of general text, (draws, n)."""
    margins: Sequence[Tensor]
    """log p(good) − log p(bad) of each pair of a task in nats, (pairs,)."""

    def known(self) -> Tensor:
        """The places of the tasks whose gradient is finite and not zero, int64."""
        finite, some = self.halves.flatten(1).isfinite().all(1), self.halves.sum(1).any(1)
        return (finite & some).nonzero().squeeze(1)

    def of(self, tasks: Tensor) -> TaskRows:
        """The rows of some tasks, by their places; without a copy where that is all of them."""
        if len(tasks) == len(self.margins):
            return self
        rows = {name: getattr(self, name)[tasks] for name in ("halves", "groups", "sample", "swapped")}
        return replace(self, **rows, margins=[self.margins[task] for task in tasks.tolist()])


class Gradients(Part):
    """Reads the gradient differentials of tasks, whole tasks dealt over ranks; see :class:`GradientReader`.

    The model runs in evaluation mode, and it, its ``.grad`` fields and the random streams are left as they were.

    Args:
        lm: The causal language model.
        tasks: Tasks with the pairs to read of each.
        buckets: Length of a sketch.
        sample: Coordinates to sample, about.
        groups: Layers to read apart.
        null: ``"swapped"``, or sentences of general text, whose gradients are read too.
        seed: Of the sketches and the sample.
        add_bos: Whether a start token is put in front: ``True`` where that is an error without one; by default as
            ``lm.special_tokens`` says, where the tokenizer has one.

    Raises:
        ValueError: If an argument is out of range, or most pairs of a task share sentences; when attached to a model,
            if a name matches nothing, the tokenizer cannot tell the sentences of a pair apart, or parameters are
            sharded over ranks.

    Cost: two forward and backward passes or more over each task's pairs, and 14 ns a parameter and task; in memory
        4 · tasks · ((groups + 2) · buckets + 2 · sample) bytes while a reading lasts.

    Example:
        >>> from lightning_interp.tasks import WordTokenizer
        >>> pairs = (("he sleeps", "he sleep"), ("she runs", "she run"))
        >>> words = WordTokenizer("he she sleeps sleep runs run".split())
        >>> gradients = Gradients(LanguageModel(words), [Task("agreement", "agreement", pairs)], buckets=64)
        >>> model = nn.Embedding(len(words), len(words))
        >>> gradients.attach(model)
        >>> from lightning_interp.distributed import over_ranks
        >>> over_ranks(gradients.read(Reading(model))).halves.shape
        torch.Size([1, 2, 64])

    """

    attached = ("_reader",)

    def __init__(
        self,
        lm: LanguageModel,
        tasks: Sequence[Task],
        buckets: int = 65_536,
        sample: int = 1_000_000,
        groups: Groups = True,
        null: Literal["swapped"] | Sequence[str] = "swapped",
        seed: int = 0,
        add_bos: bool | None = None,
    ) -> None:
        for name, value in (("buckets", buckets), ("sample", sample)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if isinstance(null, str) and null != "swapped":
            raise ValueError(f"`null` must be 'swapped' or sentences of general text, got {null!r}.")
        if not isinstance(null, str) and len(null) < _DRAWS:
            raise ValueError(f"`null` must have at least {_DRAWS} sentences, got {len(null)}.")
        self.lm = lm
        self.tasks = list(tasks)
        self.buckets = buckets
        self.sample = sample
        self.groups = groups
        self.null = null
        self.seed = seed
        self.add_bos = lm.starts_with_bos(add_bos)
        self._halves = [halves_of_pairs(task) for task in self.tasks]
        self._reader: GradientReader | None = None
        self.pairs: Sequence[Sequence[EncodedPair]] = ()
        """The ids of both sentences of every pair of every task, while attached to a model."""
        self._text: Sequence[Tensor] = ()

    def group_names(self, model: nn.Module | None) -> Sequence[str]:
        """What the groups of layers are called; ``<group>`` where that cannot be known without the model."""
        if self.groups is False:
            return ()
        return (
            ("<group>",) if model is None else group_names(find_language_model(self.lm.model, model), self.groups)[1:]
        )

    def keeps(self) -> Sequence[object]:
        """What keeps arguments of the callback: itself, and the language model."""
        return self, self.lm

    # ------------------------------------------------- its life

    def attach(self, model: nn.Module) -> None:
        """Find the language model and its tokenizer, and turn the pairs into ids."""
        lm, tokenizer, padding = self.lm.find(model)
        start = self.add_bos, self.lm.bos_token_id
        self.pairs = [encode_task(tokenizer, task, *start) for task in self.tasks]
        self._text = [] if isinstance(self.null, str) else encode_sentences(tokenizer, self.null, *start)
        check_ids(lm, [*(ids for task in self.pairs for pair in task for ids in pair), *self._text])
        self._reader = GradientReader(
            lm,
            buckets=self.buckets,
            sample=self.sample,
            seed=self.seed,
            groups=self.groups,
            batch_tokens=self.lm.batch_tokens,
            forward=self.lm.forward,
            pad_token_id=padding,
        )

    def detach(self) -> None:
        """Let go of the model."""
        self._reader, self.pairs, self._text = None, (), ()

    # ------------------------------------------------- reading

    def read(self, reading: Reading) -> Collective[TaskRows]:
        """The gradients of all tasks, and of general text where that is the null."""
        reader = self._reader
        assert reader is not None
        number, names, sample = len(self.tasks), reader.names[1:], reader.sample_size
        longest = max(map(len, self.pairs))
        widths = [2 * self.buckets, len(names) * self.buckets, sample, sample, longest]
        rows: Tensor = yield from _dealt(reading, number, sum(widths), lambda task: self._row(reader, task, longest))
        parts: tuple[Tensor, ...] = rows.split(widths, dim=1)  # type: ignore[no-untyped-call]
        text: Tensor | None = None
        if self._text:
            text = yield from _dealt(
                reading, _DRAWS, sample, lambda draw: reader.read_text(self._text[draw::_DRAWS]).float().cpu()
            )
        margins = [row[: len(pairs)] for row, pairs in zip(parts[4], self.pairs, strict=True)]
        halves, groups = parts[0].view(-1, 2, self.buckets), parts[1].view(number, -1, self.buckets)
        return TaskRows(halves, groups, names, parts[2], parts[3], text, margins)

    def _row(self, reader: GradientReader, task: int, longest: int) -> Tensor:
        """What is kept of a task in one row: halves, groups, sample, swapped sample, margins."""
        pairs = self.pairs[task]
        found = reader.read(pairs, self._halves[task])
        kept = (found.sketches[0], found.sketches[1:].sum(1), found.sample, found.swapped, found.margins)
        padding = torch.zeros(longest - len(pairs))
        return torch.cat([*(one.to("cpu", torch.float32).flatten() for one in kept), padding])


def _dealt(reading: Reading, number: int, width: int, read: Callable[[int], Tensor]) -> Collective[Tensor]:
    """Rows (number, width) of which each rank reads every so-manieth: the very numbers of a single process."""
    world, rank = world_size(reading.group), rank_in(reading.group)
    rows = torch.empty(number, width)
    for start in range(0, number, world):
        mine = start + rank
        parts: list[Tensor] = yield Gather(read(mine)[None] if mine < number else torch.empty(0, width))
        for place, part in enumerate(parts[: number - start], start):
            rows[place] = part[0]
    return rows
