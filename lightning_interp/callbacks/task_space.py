"""How a language model's linguistic tasks relate, read from their gradients while it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp._forward import checked_forward
from lightning_interp._kept_readings import KeptReadings, evenly_spread
from lightning_interp.callbacks._argument_names import refuse_unknown_arguments
from lightning_interp.callbacks.analysis import Draw, ValidationAnalysis
from lightning_interp.compat import pl
from lightning_interp.distributed import Gather, Steps, rank_in, world_size
from lightning_interp.figures import measure_curves
from lightning_interp.figures.task_heatmap import task_heatmap
from lightning_interp.figures.task_map import task_map
from lightning_interp.functional.alignment import cosine_matrix, disattenuate, reliability, within_between
from lightning_interp.functional.mantel import beyond_control, mantel, partial_mantel
from lightning_interp.functional.mds import cosine_maps
from lightning_interp.functional.overlap import overlap_above_null
from lightning_interp.functional.rank_correlation import matrix_correlation, off_diagonal
from lightning_interp.metrics.base import FULL, SUMMARY
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.encoding import EncodedPair, Tokenizer, encode_sentences, padding_id
from lightning_interp.tasks.gradients import GradientReader, Groups, group_names
from lightning_interp.tasks.hypotheses import lexical_overlap, phenomenon_hypothesis
from lightning_interp.tasks.id_range import check_ids
from lightning_interp.tasks.likelihood import FORWARD_TAKES, Forward
from lightning_interp.tasks.loading import Tasks, encode_task, find_language_model, find_tokenizer, load_tasks
from lightning_interp.tasks.pairs import Task
from lightning_interp.tasks.scoring import margin_accuracy
from lightning_interp.tasks.shared import remove_shared
from lightning_interp.tasks.split import draw_pairs, halves_of_pairs

__all__ = ["TaskSpace"]

_KEPT = 64  # readings whose alignment is kept
_DRAWS = 8  # gradients of general text
_PANELS = 6  # maps side by side


class TaskSpace(ValidationAnalysis):
    r"""Reads how alike a language model's linguistic tasks are to it, from the gradients of minimal pairs.

    Weber et al. 2024, *Interpretability of Language Models via Task Spaces* (arXiv 2406.06441): the difference of the
    gradients of an acceptable and an unacceptable sentence isolates what the model would learn about the rule that
    they differ in. With S(x) = −Σ log p(x_t | x_<t) and the pairs of task i

    .. math::
        D_i = \sum_b \nabla_\theta \left[ S(x^+_b) - S(x^-_b) \right], \quad
        C_{ij} = \cos(D_i, D_j), \quad O_{ij} = |T_i \cap T_j| / |T|

    where T_i are the coordinates with the largest \|D_i\|. Sums over tokens, CountSketches for the cosines, the null of
    the overlap, the correction for noise and the tests are this library's choice. Nothing is read of the validation
    batches; each reading takes the same pairs, so that readings can be compared.

    ========================================  =======  ===============================================================
    key                                       level    what it is
    ========================================  =======  ===============================================================
    ``task_accuracy/mean``                    summary  pairs whose good sentence is more probable, mean over tasks
    ``task_margin/mean``                      full     log p(good) − log p(bad) in nats, mean over tasks
    ``phenomenon_accuracy/<phenomenon>``      summary  the same over the tasks of one phenomenon
    ``phenomenon_margin/<phenomenon>``        full
    ``task_accuracy/<task>``                  full     of one task; ties count half
    ``task_margin/<task>``                    full
    ``alignment/within``                      summary  mean C over pairs of tasks of one phenomenon
    ``alignment/between``                     summary  … of different phenomena
    ``alignment/within/<group>``              full     from the gradients of one group of layers; ``between`` too;
                                                       conditional
    ``alignment_disattenuated/within``        summary  C without gradient noise; ``between`` too; conditional
    ``alignment_centred/within``              full     C without what all tasks share; ``between`` too
    ``reliability/mean``                      full     share of the gradients that is signal, mean over tasks;
                                                       0 where there is none; no sentence is in both of its halves
    ``overlap_above_null/within``             full     O less its null; ``between`` too
    ``overlap/within``, ``overlap_null/…``    full     O and its null; ``between`` too
    ``agreement/phenomena``                   summary  Spearman correlation of C with same phenomenon = 1
    ``agreement_p/phenomena``                 full     its p in a Mantel test
    ``agreement/phenomena_given_words``       summary  the same beyond any smooth function of the overlap of
                                                       vocabularies (:func:`partial_mantel`)
    ``agreement_p/phenomena_given_words``     full
    ``agreement/words``                       full     Spearman correlation of C with the overlap of vocabularies
    ``stability/previous``                    summary  … of C with C at the reading before; conditional
    ``stability/first``                       full     … with C at the first reading; conditional
    ``nonfinite/tasks``                       full     tasks left out since their gradient is zero or not finite
    ========================================  =======  ===============================================================

    Conditional keys are not logged where they are undefined: stability at the first reading and outside a fit;
    ``alignment_disattenuated`` while noise leaves no task enough signal (reliability above .1); a group of layers
    without a gradient. Keys that the tasks leave undefined at every reading are never logged: ``within`` without two
    tasks of one phenomenon, ``agreement`` with fewer than three tasks.

    The overlap of vocabularies counts all words alike. Where a model's gradients follow some words more than others, a
    part of the vocabulary is left in ``agreement/phenomena_given_words``.

    :attr:`matrices` has the last reading's matrices over tasks in the order of :attr:`tasks`: ``alignment``,
    ``alignment_centred``, ``alignment_disattenuated``, ``overlap``, ``overlap_null``, ``overlap_above``, ``lexical``,
    ``phenomena`` and, as vectors, ``reliability``, ``accuracy``, ``margin``. :attr:`alignments` has C of up to 64
    readings of the fit, evenly spread and with the first and the last among them; checkpoints hold it.

    Args:
        tasks: Tasks with their minimal pairs; ``"grammar"`` for the built-in ones; the path of BLiMP or data in its
            format (:func:`read_blimp`) or of a table (:func:`read_pairs`); or a function that returns tasks, or its
            dotted name. Pairs that several tasks share are removed, with a warning.
        tokenizer: Of the language model: what :func:`encode_sentences` takes; the dotted name of an attribute of the
            module; ``"grammar"`` for the words of the built-in grammar; or a name or folder for ``transformers``.
        model: Dotted name of the causal language model in the module; ``""`` for the module itself.
        forward: Calls that model in its stead: ``forward(model, input_ids, attention_mask)`` → logits (B, T, V).
        pairs_per_task: Pairs to read of each task, drawn once from the seed; all where a task has no more.
        buckets: Length of a sketch. A cosine is off by about 1/√buckets, a mean over pairs of tasks by much less.
        sample: Coordinates for the overlap, about.
        fraction: Share of the coordinates in T_i.
        groups: Layers to read apart; see :class:`~lightning_interp.tasks.gradients.GradientReader`.
        null: What the overlap's null comes from: ``"swapped"``, the tasks' own pairs, half of them with their two
            sentences swapped, which costs nothing; or sentences of general text, at least 8.
        permutations: Of the Mantel tests.
        seed: Of the pairs drawn, the sketches, the sample and the permutations.
        batch_tokens: Tokens in a forward and backward pass, padding included.
        add_bos: Whether a start token is put in front; by default where the tokenizer has one.
        bos_token_id: The start token; the tokenizer's own by default. That of a chat model is no start of a sentence.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``,
            ``dataloader_idx`` and ``batch_size``.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, fewer than two tasks or two pairs of a task
            are left, the tokenizer cannot tell the sentences of a pair apart, or parameters are sharded over ranks.

    Cost: two forward and backward passes or more over each task's pairs, and 14 ns a parameter and task; in memory
        4 · tasks · ((groups + 2) · buckets + 2 · sample) bytes while a reading lasts: 0.8 GB for 67 tasks and 12
        layers at the defaults, 90 MB with ``groups=False`` and ``sample=100_000``. Beside a
        validation run: ``benchmarks/task_space.py``, with its results in ``docs/task_space.md``.
        Over ranks whole tasks are dealt out, so that the values are those of one process.

    Example:
        >>> callback = TaskSpace("grammar", tokenizer="grammar", model="lm", pairs_per_task=16)
        >>> len(callback.tasks), callback.logged_keys()[:2]
        (30, ['task_accuracy/mean', 'phenomenon_accuracy/subject_verb_agreement'])

    """

    attached = ("_reader",)

    def __init__(
        self,
        tasks: Tasks,
        tokenizer: str | Path | Tokenizer = "tokenizer",
        model: str = "",
        forward: Forward | None = None,
        pairs_per_task: int = 32,
        buckets: int = 65_536,
        sample: int = 1_000_000,
        fraction: float = 0.01,
        groups: Groups = True,
        null: Literal["swapped"] | Sequence[str] = "swapped",
        permutations: int = 999,
        seed: int = 0,
        batch_tokens: int = 4096,
        add_bos: bool | None = None,
        bos_token_id: int | None = None,
        **kwargs: Unpack[AnalysisArgs],
    ) -> None:
        refuse_unknown_arguments(type(self), kwargs, AnalysisArgs)
        super().__init__(max_examples=None, dataloader_idx=0, batch_size=None, **kwargs)
        for name, value, least in (
            ("pairs_per_task", pairs_per_task, 2),
            ("buckets", buckets, 1),
            ("sample", sample, 1),
            ("permutations", permutations, 1),
            ("batch_tokens", batch_tokens, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if not 0 < fraction <= 1:
            raise ValueError(f"`fraction` must lie above 0 and not above 1, got {fraction}.")
        if isinstance(null, str) and null != "swapped":
            raise ValueError(f"`null` must be 'swapped' or sentences of general text, got {null!r}.")
        if not isinstance(null, str) and len(null) < _DRAWS:
            raise ValueError(f"`null` must have at least {_DRAWS} sentences, got {len(null)}.")
        self.tokenizer = tokenizer
        self.model = model
        self.forward = checked_forward(forward, FORWARD_TAKES)
        self.buckets = buckets
        self.sample = sample
        self.fraction = fraction
        self.groups = groups
        self.null = null
        self.permutations = permutations
        self.seed = seed
        self.batch_tokens = batch_tokens
        self.add_bos = add_bos
        self.bos_token_id = bos_token_id
        self.tasks = _chosen_tasks(tasks, pairs_per_task, seed)
        self._halves = [halves_of_pairs(task) for task in self.tasks]
        """The tasks with the pairs that are read."""
        self._phenomena = [task.phenomenon for task in self.tasks]
        self._hypothesis = phenomenon_hypothesis(self.tasks)
        self._lexical = lexical_overlap(self.tasks)
        self.clear()

    def clear(self) -> None:
        """Forget everything that belongs to one fit."""
        super().clear()
        self.matrices: dict[str, Tensor] = {}
        """Matrices and vectors over the tasks, from the last reading."""
        self._maps = KeptReadings(_KEPT)
        self._found: dict[str, Tensor] = {}
        self._reader: GradientReader | None = None
        self._pairs: list[list[EncodedPair]] = []
        self._text: list[Tensor] = []

    def identity(self) -> dict[str, Any]:
        """Tells instances apart by what they read."""
        return {
            "tasks": [task.name for task in self.tasks],
            "model": self.model,
            "seed": self.seed,
            "prefix": self.prefix,
        }

    @property
    def alignments(self) -> list[tuple[int, Tensor]]:
        """Step and alignment, float32 (tasks, tasks), of the readings that are kept, first and last included."""
        return [(step, kept["alignment"]) for step, kept in zip(self._maps.steps, self._maps.values, strict=True)]

    # ------------------------------------------------- keys

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        """Every key with its level."""
        keys = {"task_accuracy/mean": SUMMARY, "task_margin/mean": FULL}
        for phenomenon in dict.fromkeys(self._phenomena):
            keys |= {f"phenomenon_accuracy/{phenomenon}": SUMMARY, f"phenomenon_margin/{phenomenon}": FULL}
        for task in self.tasks:
            keys |= {f"task_{what}/{task.name}": FULL for what in ("accuracy", "margin")}
        levels = {
            "alignment": SUMMARY,
            "alignment_disattenuated": SUMMARY,
            "alignment_centred": FULL,
            "overlap_above_null": FULL,
            "overlap": FULL,
            "overlap_null": FULL,
        }
        keys |= {f"{name}/{side}": level for name, level in levels.items() for side in self._sides()}
        keys |= {f"alignment/{side}/{group}": FULL for side in self._sides() for group in self._group_names(model)}
        keys["reliability/mean"] = FULL
        for name in self._comparisons():
            keys |= {f"agreement/{name}": FULL if name == "words" else SUMMARY}
            keys |= {f"agreement_p/{name}": FULL} if name != "words" else {}
        if len(self.tasks) > 2:
            keys |= {"stability/previous": SUMMARY, "stability/first": FULL}
        return keys | {"nonfinite/tasks": FULL}

    def conditional_keys(self, model: nn.Module | None = None) -> dict[str, str]:
        """Keys that may be undefined at a reading, and what to monitor instead."""
        keys: dict[str, str] = {}
        for key in self.measures(model):
            name, side, *group = key.split("/")
            if name == "alignment_disattenuated" or (name == "alignment" and group):
                keys[self.full_key(key)] = self.full_key(f"alignment/{side}")
            elif name == "stability":
                keys[self.full_key(key)] = ""
        return keys

    def _sides(self) -> list[str]:
        """What the tasks allow to average over."""
        same = off_diagonal(self._hypothesis)
        return [side for side, there in (("within", same.any()), ("between", (same == 0).any())) if there]

    def _comparisons(self) -> list[str]:
        """What the alignment can be compared with, given the tasks."""
        found = ["phenomena"] if len(self.tasks) > 2 and _ordered(self._hypothesis) else []
        if len(self.tasks) > 2 and _ordered(self._lexical):
            given = bool(found) and beyond_control(self._hypothesis, self._lexical)
            found += ["phenomena_given_words"] * given + ["words"]
        return found

    def _group_names(self, model: nn.Module | None) -> Sequence[str]:
        if self.groups is False:
            return ()
        return ("<group>",) if model is None else group_names(find_language_model(self.model, model), self.groups)[1:]

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """Find the language model and its tokenizer, and turn the pairs into ids."""
        language_model = find_language_model(self.model, model)
        tokenizer = find_tokenizer(self.tokenizer, model)
        start = self.add_bos, self.bos_token_id
        self._pairs = [encode_task(tokenizer, task, *start) for task in self.tasks]
        self._text = [] if isinstance(self.null, str) else encode_sentences(tokenizer, self.null, *start)
        check_ids(language_model, [*(ids for task in self._pairs for pair in task for ids in pair), *self._text])
        self._reader = GradientReader(
            language_model,
            buckets=self.buckets,
            sample=self.sample,
            seed=self.seed,
            groups=self.groups,
            batch_tokens=self.batch_tokens,
            forward=self.forward,
            pad_token_id=padding_id(tokenizer),
        )

    def release(self) -> None:
        """Let go of the model."""
        self._reader, self._pairs, self._text = None, [], []
        self.abort()

    def abort(self) -> None:
        """Forget the reading."""
        self._found = {}

    def merge(self, reading: Reading) -> Steps[Mapping[str, Tensor | float]]:
        """Read the gradients of all tasks, and compare."""
        reader = self._reader
        assert reader is not None
        halves, groups, sample = 2 * self.buckets, (len(reader.names) - 1) * self.buckets, reader.sample_size
        widths = [halves, groups, sample, sample, max(map(len, self._pairs))]
        rows: Tensor = yield from self._dealt(len(self.tasks), sum(widths), self._read_task)
        parts: tuple[Tensor, ...] = rows.split(widths, dim=1)  # type: ignore[no-untyped-call]
        text: Tensor | None = None
        if self._text:
            text = yield from self._dealt(
                _DRAWS, sample, lambda draw: reader.read_text(self._text[draw::_DRAWS]).float().cpu()
            )
        margins = [row[: len(pairs)] for row, pairs in zip(parts[4], self._pairs, strict=True)]
        values = self._scores(margins)
        sketches = parts[0].view(-1, 2, self.buckets), parts[1].view(len(rows), -1, self.buckets)
        known = (parts[0].isfinite().all(1) & sketches[0].sum(1).any(1)).nonzero().squeeze(1)
        values["nonfinite/tasks"] = float(len(self.tasks) - len(known))
        if len(known) < 2:
            raise ValueError(f"{len(known)} of {len(self.tasks)} tasks have a gradient that is finite and not zero.")
        self._align(sketches[0], sketches[1], reader.names[1:], known, values)
        self._overlap(parts[2], parts[3], text, known, values)
        self._compare(known, values)
        self.matrices, self._found = self._found, {}
        return dict(values)

    def _dealt(self, number: int, width: int, read: Callable[[int], Tensor]) -> Steps[Tensor]:
        """Rows (number, width) of which each rank reads every so-manieth: the very numbers of a single process."""
        world = world_size(self.group)
        rank = rank_in(self.group)
        rows = torch.empty(number, width)
        for start in range(0, number, world):
            mine = start + rank
            parts: list[Tensor] = yield Gather(read(mine)[None] if mine < number else torch.empty(0, width))
            for place, part in enumerate(parts[: number - start], start):
                rows[place] = part[0]
        return rows

    def _read_task(self, index: int) -> Tensor:
        """What is kept of a task in one row: halves, groups, sample, swapped sample, margins."""
        assert self._reader is not None
        pairs = self._pairs[index]
        found = self._reader.read(pairs, self._halves[index])
        padding = torch.zeros(max(map(len, self._pairs)) - len(pairs))
        kept = (found.sketches[0], found.sketches[1:].sum(1), found.sample, found.swapped, found.margins)
        return torch.cat([*(one.to("cpu", torch.float32).flatten() for one in kept), padding])

    # ------------------------------------------------- from gradients to measures

    def _scores(self, margins: Sequence[Tensor]) -> dict[str, float]:
        broken = [bool(one.isnan().any()) for one in margins]
        found = {
            "accuracy": [math.nan if bad else margin_accuracy(one) for one, bad in zip(margins, broken, strict=True)],
            "margin": [float(one.double().mean()) for one in margins],
        }
        values: dict[str, float] = {}
        for what, numbers in found.items():
            self._found[what] = torch.tensor(numbers, dtype=torch.float64)
            values[f"task_{what}/mean"] = float(self._found[what].nanmean())
            values |= {f"task_{what}/{task.name}": value for task, value in zip(self.tasks, numbers, strict=True)}
            for phenomenon in dict.fromkeys(self._phenomena):
                of_it = torch.tensor([one == phenomenon for one in self._phenomena])
                values[f"phenomenon_{what}/{phenomenon}"] = float(self._found[what][of_it].nanmean())
        return values

    def _align(
        self, halves: Tensor, groups: Tensor, names: Sequence[str], known: Tensor, values: dict[str, float]
    ) -> None:
        first, second = _rows(halves, known).unbind(1)
        cosines, trust = cosine_matrix(first + second), reliability(first, second)
        self._add_matrix("alignment", cosines, known, values)
        self._add_matrix("alignment_centred", cosine_matrix(first + second, centred=True), known, values)
        self._add_matrix("alignment_disattenuated", disattenuate(cosines, trust), known, values)
        self._found["reliability"] = torch.full((len(self.tasks),), math.nan, dtype=trust.dtype)
        self._found["reliability"][known] = trust
        # Where noise is all there is the estimate is far below zero, and would outweigh every other task.
        values["reliability/mean"] = float(trust.clamp_min(0).nanmean())
        for place, name in enumerate(names):
            self._average(f"alignment/{{}}/{name}", cosine_matrix(_rows(groups[:, place], known)), known, values)

    def _overlap(
        self, sample: Tensor, swapped: Tensor, text: Tensor | None, known: Tensor, values: dict[str, float]
    ) -> None:
        null = _rows(swapped, known) if text is None else text
        found = overlap_above_null(_rows(sample, known), null, self.fraction, matched=text is None)
        self._add_matrix("overlap", found.overlap, known, values)
        self._add_matrix("overlap_null", found.null, known, values)
        self._add_matrix("overlap_above", found.above, known, values, "overlap_above_null")

    def _add_matrix(
        self, name: str, matrix: Tensor, known: Tensor, values: dict[str, float], key: str | None = None
    ) -> None:
        """Keep a matrix over the tasks that are known, and average it."""
        whole = torch.full((len(self.tasks), len(self.tasks)), math.nan, dtype=matrix.dtype)
        whole[known[:, None], known] = matrix
        self._found[name] = whole
        self._average(f"{key or name}/{{}}", matrix, known, values)

    def _average(self, key: str, matrix: Tensor, known: Tensor, values: dict[str, float]) -> None:
        means = within_between(matrix, [self._phenomena[task] for task in known.tolist()])
        values |= {key.format(side): getattr(means, side) for side in self._sides()}

    def _compare(self, known: Tensor, values: dict[str, float]) -> None:
        """Against the hypothesis, the vocabularies, and earlier readings."""
        hypothesis, words = (_submatrix(one, known) for one in (self._hypothesis, self._lexical))
        alignment = _submatrix(self._found["alignment"], known)
        self._found |= {"phenomena": self._hypothesis, "lexical": self._lexical}
        testable = len(known) > 2 and _ordered(alignment)
        for name in self._comparisons() if testable else ():
            if name == "words":
                values["agreement/words"] = matrix_correlation(alignment, words)
                continue
            needed = [hypothesis] if name == "phenomena" else [hypothesis, words]
            if not all(map(_ordered, needed)):
                continue
            if name == "phenomena":
                result = mantel(alignment, hypothesis, self.permutations, self.seed)
            elif all(beyond_control(one, words) for one in (alignment, hypothesis)):
                result = partial_mantel(alignment, hypothesis, words, self.permutations, self.seed)
            else:
                continue
            values[f"agreement/{name}"], values[f"agreement_p/{name}"] = result
        if self.now is not None and self.now.step is not None:
            for name, place in (("previous", -1), ("first", 0)):
                earlier = self._maps.values[place]["alignment"] if len(self._maps) else None
                values[f"stability/{name}"] = _stability(self._found["alignment"].float(), earlier)

    # ------------------------------------------------- life in a Trainer

    def commit(self, reading: Reading) -> None:
        """Keep the matrices."""
        assert reading.step is not None
        self._maps.add(reading.step, {"alignment": self.matrices["alignment"].float()})

    def state_dict(self) -> dict[str, Any]:
        """Readings, and the alignments that are kept."""
        return {**super().state_dict(), "maps": self._maps.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        super().load_state_dict(state_dict)
        self._maps.load_state_dict(state_dict["maps"])

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """The alignment as a heat map, maps of the tasks over time, and the curves of what is logged."""
        if not len(self._maps):
            return {}
        return {
            "tasks/alignment": self._heatmap_figure,
            "tasks/map": self._map_figure,
            "tasks/curves": self._curves_figure,
        }

    def _heatmap_figure(self) -> Figure:
        step, matrix = self.alignments[-1]
        names = [task.name for task in self.tasks]
        return task_heatmap(matrix.numpy(), names, self._phenomena, title=f"alignment of gradients at step {step}")

    def _map_figure(self) -> Figure:
        readings = self.alignments
        chosen = [readings[place] for place in evenly_spread(len(readings), _PANELS)]
        maps = [points.numpy() for points in cosine_maps([matrix for _, matrix in chosen])]
        steps, names = [step for step, _ in chosen], [task.name for task in self.tasks]
        return task_map(list(zip(steps, maps, strict=True)), names, self._phenomena, title="tasks by their gradients")

    def _curves_figure(self) -> Figure:
        wanted: dict[str, dict[str, str]] = {}
        for name in ("alignment", "alignment_disattenuated", "overlap_above_null"):
            wanted[name.replace("_", " ")] = {side: f"{name}/{side}" for side in self._sides()}
        comparisons = [name for name in self._comparisons() if name != "words"]
        wanted["agreement"] = {name.replace("_", " "): f"agreement/{name}" for name in comparisons}
        wanted["stability"] = {f"with the {name}": f"stability/{name}" for name in ("previous", "first")}
        wanted["accuracy"] = {name: f"phenomenon_accuracy/{name}" for name in dict.fromkeys(self._phenomena)}
        panels = {
            panel: {label: self.history.series(self.full_key(key)) for label, key in lines.items()}
            for panel, lines in wanted.items()
        }
        return measure_curves({panel: lines for panel, lines in panels.items() if any(at for at, _ in lines.values())})


def _chosen_tasks(tasks: Tasks, pairs_per_task: int, seed: int) -> list[Task]:
    """The tasks with the pairs to read of each."""
    found = load_tasks(tasks)
    if len(found) < 2:
        raise ValueError(f"`tasks` must have at least 2 tasks to compare, got {[task.name for task in found]}.")
    if any(task.name == "mean" for task in found):
        raise ValueError("`tasks` has a task named 'mean', under which the mean over tasks is logged: rename it.")
    unshared, removed = remove_shared(found)
    if removed:
        pl.utilities.rank_zero_warn(f"TaskSpace left out {removed} pairs that several tasks have.")
    few = [task for task in unshared if len(task) < 2]
    if few:
        raise ValueError(f"task {few[0].name!r} has one pair that no other task has; at least 2 are needed.")
    return [draw_pairs(task, pairs_per_task, seed) for task in unshared]


def _rows(values: Tensor, tasks: Tensor) -> Tensor:
    """Those of the tasks; without a copy where that is all of them."""
    return values if len(tasks) == len(values) else values[tasks]


def _submatrix(matrix: Tensor, tasks: Tensor) -> Tensor:
    return matrix[tasks[:, None], tasks]


def _ordered(matrix: Tensor) -> bool:
    """Whether the pairs of tasks differ at all."""
    entries = off_diagonal(matrix)
    return bool((entries != entries[0]).any())


def _stability(now: Tensor, earlier: Tensor | None) -> float:
    if earlier is None:
        return math.nan
    both = (now.diagonal().isfinite() & earlier.diagonal().isfinite()).nonzero().squeeze(1)
    return matrix_correlation(_submatrix(now, both), _submatrix(earlier, both)) if len(both) > 2 else math.nan
