"""How a language model's linguistic tasks relate, read from their gradients while it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.distributed import Collective
from lightning_interp.figures import measure_curves
from lightning_interp.figures.task_heatmap import task_heatmap
from lightning_interp.figures.task_map import task_map
from lightning_interp.functional.alignment import cosine_matrix, within_between
from lightning_interp.functional.evenly_spread import evenly_spread
from lightning_interp.functional.mds import cosine_maps
from lightning_interp.language.encoding import Tokenizer
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.measure import FULL, SUMMARY, Measure
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.metrics.measures.tasks import (
    AGREEMENT,
    AGREEMENT_P,
    ALIGNMENT,
    ALIGNMENT_CENTRED,
    ALIGNMENT_DISATTENUATED,
    OVERLAP,
    OVERLAP_ABOVE_NULL,
    OVERLAP_NULL,
    PHENOMENON_ACCURACY,
    PHENOMENON_MARGIN,
    RELIABILITY,
    STABILITY,
    TASK_ACCURACY,
    TASK_MARGIN,
)
from lightning_interp.parts.gradients import Gradients, TaskRows
from lightning_interp.parts.kept import Kept
from lightning_interp.parts.language_model import LanguageModel, one_language_model
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.agreement import TaskHypotheses, stability
from lightning_interp.tasks.comparable import comparable_tasks
from lightning_interp.tasks.gradient_matrices import alignment_matrices, known_matrix, overlap_matrices
from lightning_interp.tasks.gradients import Groups
from lightning_interp.tasks.loading import Tasks
from lightning_interp.tasks.scoring import margin_accuracy

__all__ = ["TaskSpace"]

_KEPT = 64  # readings whose alignment is kept
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
    ``alignment/<side>``                      summary  mean C over pairs of tasks
    ``alignment/<side>/<group>``              full     from the gradients of one group of layers; conditional
    ``alignment_disattenuated/<side>``        summary  C without gradient noise; conditional
    ``alignment_centred/<side>``              full     C without what all tasks share
    ``reliability/mean``                      full     share of the gradients that is signal, mean over tasks;
                                                       0 where there is none; no sentence is in both of its halves
    ``overlap_above_null/<side>``             full     O less its null
    ``overlap/<side>``                        full     O
    ``overlap_null/<side>``                   full     the null of O
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

    A side is ``within``, pairs of tasks of one phenomenon, or ``between``, pairs of two phenomena.

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
        max_pairs: Pairs to read of each task, drawn once from the seed; all where a task has no more.
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
        lm: Instead of ``tokenizer``, ``model``, ``forward``, ``batch_tokens`` and ``bos_token_id``, all of them.
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
        >>> callback = TaskSpace("grammar", tokenizer="grammar", model="lm", max_pairs=16)
        >>> len(callback.tasks), callback.logged_keys()[:2]
        (30, ['task_accuracy/mean', 'phenomenon_accuracy/subject_verb_agreement'])

    """

    def __init__(
        self,
        tasks: Tasks,
        tokenizer: str | Path | Tokenizer = "tokenizer",
        model: str = "",
        forward: Forward | None = None,
        max_pairs: int = 32,
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
        lm: LanguageModel | None = None,
        **kwargs: Unpack[AnalysisArgs],
    ) -> None:
        refuse_unknown_arguments(type(self), kwargs, AnalysisArgs)
        super().__init__(max_examples=None, dataloader_idx=0, batch_size=None, **kwargs)
        for name, value, least in (("max_pairs", max_pairs, 2), ("permutations", permutations, 1)):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if not 0 < fraction <= 1:
            raise ValueError(f"`fraction` must lie above 0 and not above 1, got {fraction}.")
        self.fraction = fraction
        self.permutations = permutations
        self.seed = seed
        self.tasks = comparable_tasks(tasks, max_pairs, seed)
        """The tasks with the pairs that are read."""
        self.hypotheses = TaskHypotheses(self.tasks)
        """What their space is compared with."""
        self.gradients = Gradients(
            one_language_model(
                lm,
                tokenizer=tokenizer,
                model=model,
                forward=forward,
                batch_tokens=batch_tokens,
                bos_token_id=bos_token_id,
            ),
            self.tasks,
            buckets,
            sample,
            groups,
            null,
            seed,
            add_bos,
        )
        """Their gradients."""
        self.maps = Kept(_KEPT)
        """The alignments of some readings of the fit."""
        self._phenomena = [task.phenomenon for task in self.tasks]
        self.matrices: dict[str, Tensor] = {}
        """Matrices and vectors over the tasks, from the last reading."""

    def clear(self) -> None:
        """Forget everything that belongs to one fit."""
        super().clear()
        self.matrices = {}

    def identity(self) -> dict[str, Any]:
        """Tells instances apart by what they read."""
        return {
            "tasks": [task.name for task in self.tasks],
            "model": self.gradients.lm.model,
            "seed": self.seed,
            "prefix": self.prefix,
        }

    @property
    def alignments(self) -> list[tuple[int, Tensor]]:
        """Step and alignment, float32 (tasks, tasks), of the readings that are kept, first and last included."""
        return [(step, kept["alignment"]) for step, kept in self.maps.readings]

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """Accuracy of tasks and phenomena, alignment and overlap of their gradients, and what agrees with it."""
        return [
            *(TASK_ACCURACY.at(end="mean", level=SUMMARY), TASK_MARGIN.at(end="mean")),
            *(PHENOMENON_ACCURACY, PHENOMENON_MARGIN, TASK_ACCURACY, TASK_MARGIN),
            *(ALIGNMENT, ALIGNMENT_DISATTENUATED, ALIGNMENT_CENTRED, OVERLAP_ABOVE_NULL, OVERLAP, OVERLAP_NULL),
            *(ALIGNMENT.at("side", "group", level=FULL, instead="alignment"), RELIABILITY),
            *(AGREEMENT, AGREEMENT_P, AGREEMENT.at("words", level=FULL)),
            *(STABILITY, STABILITY.at("first reading", level=FULL), NONFINITE.at(end="tasks")),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """Tasks and phenomena, within and between them, groups of layers, and what alignment is compared with."""
        comparisons = self.hypotheses.comparisons
        several = len(self.tasks) > 2
        return {
            "task": [task.name for task in self.tasks],
            "phenomenon": list(dict.fromkeys(self._phenomena)),
            "side": self.hypotheses.sides,
            "group": self.gradients.group_names(model),
            "comparison": [name for name in comparisons if name != "words"],
            "words": [name for name in comparisons if name == "words"],
            "reading": ["previous"] if several else [],
            "first reading": ["first"] if several else [],
        }

    # ------------------------------------------------- reading

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Read the gradients of all tasks, and compare."""
        rows = yield from self.gradients.read(reading)
        known = rows.known()
        if len(known) < 2:
            raise ValueError(f"{len(known)} of {len(self.tasks)} tasks have a gradient that is finite and not zero.")
        found: dict[str, Tensor] = {}
        values = self._scores(rows.margins, found)
        rows = rows.of(known)
        values |= self._align(rows, known, found)
        values |= self._overlap(rows, known, found)
        values |= self._compare(reading, known, found["alignment"])
        found |= {"phenomena": self.hypotheses.phenomena, "lexical": self.hypotheses.lexical}
        self.matrices, self.maps.now = found, {"alignment": found["alignment"].float()}
        return {**values, "nonfinite/tasks": float(len(self.tasks) - len(known))}

    def _scores(self, margins: Sequence[Tensor], found: dict[str, Tensor]) -> dict[str, float]:
        """Accuracy and margin of tasks and phenomena."""
        broken = [bool(one.isnan().any()) for one in margins]
        numbers = {
            "accuracy": [math.nan if bad else margin_accuracy(one) for one, bad in zip(margins, broken, strict=True)],
            "margin": [float(one.double().mean()) for one in margins],
        }
        values: dict[str, float] = {}
        for what, of_tasks in numbers.items():
            found[what] = torch.tensor(of_tasks, dtype=torch.float64)
            values[f"task_{what}/mean"] = float(found[what].nanmean())
            values |= {f"task_{what}/{task.name}": value for task, value in zip(self.tasks, of_tasks, strict=True)}
            for phenomenon in dict.fromkeys(self._phenomena):
                of_it = torch.tensor([one == phenomenon for one in self._phenomena])
                values[f"phenomenon_{what}/{phenomenon}"] = float(found[what][of_it].nanmean())
        return values

    def _align(self, rows: TaskRows, known: Tensor, found: dict[str, Tensor]) -> dict[str, float]:
        """Cosines of gradients, also without noise and by groups of layers."""
        matrices, trust = alignment_matrices(rows.halves[:, None].unbind(), ["all"])
        values: dict[str, float] = {}
        for name in ("alignment", "alignment_centred", "alignment_disattenuated"):
            values |= self._averages(f"{name}/{{}}", matrices[name], known)
            found[name] = known_matrix(matrices[name], known, len(self.tasks))
        found["reliability"] = known_matrix(trust, known, len(self.tasks))
        # Where noise is all there is the estimate is far below zero, and would outweigh every other task.
        values["reliability/mean"] = float(trust.clamp_min(0).nanmean())
        for place, name in enumerate(rows.names):
            values |= self._averages(f"alignment/{{}}/{name}", cosine_matrix(rows.groups[:, place]), known)
        return values

    def _overlap(self, rows: TaskRows, known: Tensor, found: dict[str, Tensor]) -> dict[str, float]:
        """How many of their largest coordinates gradients share, above the null."""
        null = rows.swapped if rows.text is None else rows.text
        values: dict[str, float] = {}
        for name, matrix in overlap_matrices(rows.sample, null, self.fraction, rows.text is None).items():
            key = "overlap_above_null" if name == "overlap_above" else name
            values |= self._averages(f"{key}/{{}}", matrix, known)
            found[name] = known_matrix(matrix, known, len(self.tasks))
        return values

    def _averages(self, key: str, matrix: Tensor, known: Tensor) -> dict[str, float]:
        """Means of a matrix over the tasks that are known."""
        means = within_between(matrix, [self._phenomena[task] for task in known.tolist()])
        return {key.format(side): getattr(means, side) for side in self.hypotheses.sides}

    def _compare(self, reading: Reading, known: Tensor, alignment: Tensor) -> dict[str, float]:
        """Against the hypothesis, the vocabularies, and earlier readings."""
        values: dict[str, float] = {}
        for name, test in self.hypotheses.agreement(alignment, known, self.permutations, self.seed).items():
            values[f"agreement/{name}"] = test.statistic
            values |= {} if name == "words" else {f"agreement_p/{name}": test.p}
        if reading.step is not None:
            for name, place in (("previous", -1), ("first", 0)):
                earlier = self.maps.values[place]["alignment"] if len(self.maps) else None
                values[f"stability/{name}"] = stability(alignment.float(), earlier)
        return values

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """The alignment as a heat map, maps of the tasks over time, and the curves of what is logged."""
        if not len(self.maps):
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
            wanted[name.replace("_", " ")] = {side: f"{name}/{side}" for side in self.hypotheses.sides}
        comparisons = [name for name in self.hypotheses.comparisons if name != "words"]
        wanted["agreement"] = {name.replace("_", " "): f"agreement/{name}" for name in comparisons}
        wanted["stability"] = {f"with the {name}": f"stability/{name}" for name in ("previous", "first")}
        wanted["accuracy"] = {name: f"phenomenon_accuracy/{name}" for name in dict.fromkeys(self._phenomena)}
        panels = {
            panel: {label: self.history.series(self.full_key(key)) for label, key in lines.items()}
            for panel, lines in wanted.items()
        }
        return measure_curves({panel: lines for panel, lines in panels.items() if any(at for at, _ in lines.values())})
