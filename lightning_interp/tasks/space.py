"""A space of tasks as it was measured: matrices over tasks, what belongs to each task, tests, pictures, a file."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lightning_interp.datasets.text_files import within_limit
from lightning_interp.figures.task_heatmap import task_heatmap
from lightning_interp.figures.task_map import task_map
from lightning_interp.functional.alignment import WithinBetween, cosine_matrix, same_group, within_between
from lightning_interp.functional.mantel import MantelTest, mantel, partial_mantel
from lightning_interp.functional.mds import cosine_map
from lightning_interp.functional.rank_correlation import matrix_correlation, spearman
from lightning_interp.tasks.stopping import StoppedBy

__all__ = ["Link", "TaskRecord", "TaskSpaceResult", "TuningRecord"]

_FORMAT = "lightning_interp.task_space/1"
_SETTINGS = "settings.json"
_UNITS = {
    "margin_transfer": "change of margin, nats",
    "predicted_transfer": "change of margin, nats",
    "accuracy_transfer": "change of accuracy",
    "lexical": "share of words",
    **dict.fromkeys(("overlap", "overlap_null", "overlap_above"), "share of coordinates"),
}
_COSINES = ("alignment", "alignment_centred", "alignment_disattenuated", "alignment_centred_disattenuated")


@dataclass(frozen=True)
class TuningRecord:
    """How a task was tuned on."""

    stopped_by: StoppedBy
    """The rule that ended the tuning; see :class:`StopRules`."""
    steps: int
    """Updates made."""
    learning_rate: float
    """η."""
    entries: int
    """How many weights could change."""
    changed: int
    """How many did."""
    accuracy: float
    """Of the task's own held-out pairs afterwards."""
    margin: float
    """Their mean margin afterwards, in nats."""
    perplexity_change: float
    """Of the general text, as a share of what it was; NaN where there was no text."""


@dataclass(frozen=True)
class TaskRecord:
    """One task of a space."""

    name: str
    phenomenon: str
    pairs: int
    """Pairs whose gradient was read, or that were tuned on."""
    tested: int
    """Pairs that accuracy and margin are of."""
    accuracy: float
    """Of the model as it was given; ties count half."""
    margin: float
    """Mean of log p(good) − log p(bad) of the model as it was given, in nats."""
    reliability: float | None = None
    """Of the gradient, 1 without noise; see :func:`reliability`."""
    tuning: TuningRecord | None = None


class Link(NamedTuple):
    """Spearman's correlations of predicted and measured transfers between different tasks, −1 to 1."""

    across: float
    """Over all pairs of tasks: which task moves which most."""
    within_rows: float
    """Mean over tuned tasks of the correlation over the others: which others a task moves most. How far a task was
    tuned has no part in it."""
    alignment: float
    """Of the cosines of the gradients with the transfers; NaN where they were not read."""


@dataclass(frozen=True, eq=False)
class TaskSpaceResult:
    """Matrices over T tasks and what they are of; :func:`task_space` makes it.

    =========================================  ===================================================================
    matrix, (T, T)                             entry [i, j]
    =========================================  ===================================================================
    ``alignment``                              cosine of the gradient differentials of i and j
    ``alignment_centred``                      the same after removing the mean over tasks
    ``alignment_disattenuated``                the first, as it would be without noise of the gradients; NaN where a
                                               task has too little signal
    ``alignment_centred_disattenuated``        the second, likewise
    ``alignment/<group>`` and so on            each of them for one group of layers
    ``overlap``, ``overlap_null``              share of their largest coordinates in common, and without a common task
    ``overlap_above``                          their difference
    ``margin_transfer``                        change of j's margin after tuning on i, in nats
    ``accuracy_transfer``                      change of j's accuracy
    ``predicted_transfer``                     of j's margin, to first order, from the gradients of the untuned model
    ``lexical``                                share of words in common over all pairs given, the confound
    =========================================  ===================================================================

    Args:
        records: The tasks in the order of the matrices.
        matrices: By name, float64 (T, T) on the CPU.
        settings: What the result depends on; whatever JSON can hold.

    Raises:
        ValueError: If there are no tasks, two of one name, or a matrix is not (T, T).

    Example:
        >>> records = [TaskRecord(name, name[0], 8, 8, 0.5, 0.0) for name in ("a1", "a2", "b1", "b2")]
        >>> near = torch.tensor([[1, 0.9, 0.1, 0.2], [0.9, 1, 0.3, 0], [0.1, 0.3, 1, 0.8], [0.2, 0, 0.8, 1]])
        >>> space = TaskSpaceResult(records, {"alignment": near}, {})
        >>> within, between = space.within_between()
        >>> round(within, 3), round(between, 3)
        (0.85, 0.15)
        >>> round(space.test(permutations=99).statistic, 3)
        0.828

    """

    records: Sequence[TaskRecord]
    matrices: dict[str, Tensor]
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        names = self.names
        if not names or len(set(names)) < len(names):
            raise ValueError(f"`records` must be of at least one task, each with a name of its own, got {names}.")
        for name, matrix in self.matrices.items():
            if matrix.shape != (len(names), len(names)):
                raise ValueError(
                    f"`matrices` has {name!r} of shape {tuple(matrix.shape)}; for {len(names)} tasks it must be "
                    f"({len(names)}, {len(names)})."
                )
        object.__setattr__(self, "records", tuple(self.records))
        wide = {name: matrix.detach().to("cpu", torch.float64) for name, matrix in self.matrices.items()}
        object.__setattr__(self, "matrices", wide)

    @property
    def names(self) -> list[str]:
        """The tasks, in the order of the matrices."""
        return [record.name for record in self.records]

    @property
    def phenomena(self) -> list[str]:
        """The phenomenon of each task."""
        return [record.phenomenon for record in self.records]

    @property
    def accuracies(self) -> Tensor:
        """Of the model as it was given, (T,)."""
        return torch.tensor([record.accuracy for record in self.records], dtype=torch.float64)

    @property
    def margins(self) -> Tensor:
        """Of the model as it was given, in nats, (T,)."""
        return torch.tensor([record.margin for record in self.records], dtype=torch.float64)

    @property
    def default_matrix(self) -> str:
        """What is meant where no matrix is named: ``margin_transfer`` where it was measured, else ``alignment``."""
        return "margin_transfer" if "margin_transfer" in self.matrices else "alignment"

    @property
    def groups(self) -> list[str]:
        """The groups of layers that have an alignment of their own."""
        return [name.split("/", 1)[1] for name in self.matrices if name.startswith("alignment/")]

    def matrix(self, name: str | Tensor | None = None) -> Tensor:
        """A matrix by name; ``"phenomenon"`` is the hypothesis, a tensor is itself, None is the default one.

        Raises:
            ValueError: If there is none of this name, with those that there are.

        """
        if isinstance(name, Tensor):
            return name
        name = name or self.default_matrix
        if name == "phenomenon":
            return same_group(self.phenomena)
        if name not in self.matrices:
            raise ValueError(f"there is no matrix {name!r}; available: {[*self.matrices, 'phenomenon']}.")
        return self.matrices[name]

    def select(self, names: Sequence[str]) -> TaskSpaceResult:
        """The space of some tasks, in the order given. What was centred remains centred on all.

        Raises:
            ValueError: If a name is not that of a task.

        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"`names` has {unknown[0]!r}, which is no task; available: {self.names}.")
        places = [self.names.index(name) for name in names]
        return TaskSpaceResult(
            [self.records[place] for place in places],
            {name: matrix[places][:, places] for name, matrix in self.matrices.items()},
            self.settings,
        )

    def known(self, matrix: str | Tensor | None = None) -> list[str]:
        """The tasks that have all their values in a matrix, for :meth:`select`.

        As long as values are NaN off the diagonal, the task with most of them is left out.
        """
        missing = self.matrix(matrix).isnan()
        missing = (missing | missing.T).fill_diagonal_(False)
        lost = set()
        while bool(missing.any()):
            worst = int(missing.sum(0).argmax())
            missing[worst] = missing[:, worst] = False
            lost.add(worst)
        return [name for place, name in enumerate(self.names) if place not in lost]

    def within_between(self, matrix: str | Tensor | None = None) -> WithinBetween:
        """Mean of a matrix over pairs of different tasks, of one phenomenon and of two; see :func:`within_between`."""
        return within_between(self.matrix(matrix), self.phenomena)

    def test(
        self,
        hypothesis: str | Tensor = "phenomenon",
        matrix: str | Tensor | None = None,
        control: str | Tensor | None = None,
        permutations: int = 9999,
        seed: int = 0,
    ) -> MantelTest:
        """Whether the space is as hypothesised: Mantel's test, the partial one given a control.

        Args:
            hypothesis: ``"phenomenon"``, the name of a matrix, or a matrix (T, T).
            matrix: The space; by default the transfer of margins where there is one, else the alignment.
            control: What is taken out first: ``"lexical"``, for which see :func:`lexical_overlap`, or a matrix.
            permutations: How many; the smallest p is 1 / (1 + permutations).
            seed: Fixes the permutations.

        Returns:
            See :func:`mantel` and :func:`partial_mantel`.

        Raises:
            ValueError: If there is no such matrix, or a task has a value that is NaN, with what to select.

        """
        space, other = self.matrix(matrix), self.matrix(hypothesis)
        if bool(space.isnan().any()):
            known = self.known(matrix)
            lost = [name for name in self.names if name not in known]
            raise ValueError(
                f"the matrix {matrix or self.default_matrix!r} has NaN in the rows of {lost}; test the other tasks by "
                "`space.select(space.known(matrix)).test(...)`."
            )
        if control is None:
            return mantel(space, other, permutations, seed)
        return partial_mantel(space, other, self.matrix(control), permutations, seed)

    def link(self) -> Link:
        r"""How well the gradients of the untuned model foretell what tuning does.

        To first order :math:`M_{ij} \approx \eta_i n_i \langle m_i \odot D_i, D_j \rangle` after n steps; see
        :func:`task_space`. The correlation is over pairs of different tasks, which is the licence for reading the space
        from gradients alone. The comparison is this library's choice.

        Raises:
            ValueError: If transfers were not measured.

        """
        predicted, measured = self.matrix("predicted_transfer"), self.matrix("margin_transfer")
        rows = []
        for row in range(len(measured)):
            others = torch.arange(len(measured)) != row
            rows.append(spearman(predicted[row, others], measured[row, others]))
        alignment = float("nan")
        if "alignment" in self.matrices:
            alignment = matrix_correlation(self.matrix("alignment"), measured)
        return Link(matrix_correlation(predicted, measured), float(torch.tensor(rows).nanmean()), alignment)

    def similarity(self, matrix: str | None = None) -> Tensor:
        """What the map is drawn from, −1 to 1: a matrix of cosines itself, of any other the cosines of its rows.

        Two rows of transfers are alike where tuning on either does the same to all tasks.
        """
        chosen = matrix or self.default_matrix
        found = self.matrix(chosen)
        return found if chosen.split("/")[0] in _COSINES else cosine_matrix(found)

    def plot(self, matrix: str | None = None) -> dict[str, Figure]:
        """Two figures: ``"heatmap"``, the matrix with its tasks ordered by phenomenon, and ``"map"``, classical MDS.

        Tasks without a place (NaN) are not in the map.

        Args:
            matrix: By default the transfer of margins where there is one, else the alignment.

        """
        chosen = matrix or self.default_matrix
        title = chosen.replace("_", " ")
        unit = _UNITS.get(chosen, "cosine")
        roles = ("task tuned on", "task scored") if chosen.endswith("_transfer") else ("", "")
        heatmap = task_heatmap(self.matrix(chosen).numpy(), self.names, self.phenomena, title, unit, roles)
        placed = task_map([(0, cosine_map(self.similarity(chosen)).numpy())], self.names, self.phenomena)
        # There is one map and no step.
        placed.axes[0].set_title(f"tasks by their {title}", fontsize=11)
        return {"heatmap": heatmap, "map": placed}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it to one file: a zip of a JSON text and one ``.npy`` a matrix, which ``numpy.load`` opens too.

        Returns:
            The path.

        """
        path = Path(path)
        described = {
            "format": _FORMAT,
            "records": [dataclasses.asdict(record) for record in self.records],
            "matrices": list(self.matrices),
            "settings": self.settings,
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_SETTINGS, json.dumps(described, indent=1))
            for name, matrix in self.matrices.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, matrix.numpy(), allow_pickle=False)
                archive.writestr(f"{name}.npy", content.getvalue())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TaskSpaceResult:
        """Read what :meth:`save` wrote; nothing in the file is executed.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is another file, cut off, or of more than 1 GiB unpacked.

        """
        try:
            with zipfile.ZipFile(path) as archive:
                within_limit(path, archive)
                described = json.loads(archive.read(_SETTINGS))
                if described.get("format") != _FORMAT:
                    raise ValueError(
                        f"`path` is {str(path)!r}, of format {described.get('format')!r}, not {_FORMAT!r}."
                    )
                matrices = {
                    name: torch.from_numpy(_array(archive.read(f"{name}.npy"))) for name in described["matrices"]
                }
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"`path` is {str(path)!r}, which `TaskSpaceResult.save` did not write, or which is cut off."
            ) from error
        records = []
        for record in described["records"]:
            tuning = record.pop("tuning")
            records.append(TaskRecord(**record, tuning=None if tuning is None else TuningRecord(**tuning)))
        return cls(records, matrices, described["settings"])

    def summary(self) -> str:
        """A table of the tasks as text, with the tests of the default matrix below it."""
        return "\n".join([*self._task_lines(), "", *self._space_lines()])

    def __repr__(self) -> str:
        return (
            f"TaskSpaceResult({len(self.records)} tasks of {len(set(self.phenomena))} phenomena, "
            f"matrices: {', '.join(name for name in self.matrices if '/' not in name)}, "
            f"{len(self.groups)} groups of layers)"
        )

    def _task_lines(self) -> list[str]:
        width = max(len("task"), *(len(name) for name in self.names))
        other = max(len("phenomenon"), *(len(name) for name in self.phenomena))
        tuned = any(record.tuning for record in self.records)
        head = f"{'task':{width}}  {'phenomenon':{other}}  {'pairs':>5}  accuracy  margin  reliable"
        lines = [head + ("  stopped by  steps  acc. after  margin after  perplexity" if tuned else "")]
        for record in self.records:
            reliable = f"{record.reliability:8.2f}" if record.reliability is not None else f"{'':8}"
            line = (
                f"{record.name:{width}}  {record.phenomenon:{other}}  {record.pairs:5d}  {record.accuracy:8.3f}  "
                f"{record.margin:6.2f}  {reliable}"
            )
            if record.tuning is not None:
                one = record.tuning
                line += f"  {one.stopped_by:10}  {one.steps:5d}  {one.accuracy:10.3f}  {one.margin:12.2f}"
                line += f"  {100 * one.perplexity_change:+8.2f} %"
            lines.append(line.rstrip())
        return lines

    def _space_lines(self) -> list[str]:
        lines = [f"{'matrix':32}  within  between"]
        for name in self.matrices:
            if "/" not in name:
                within, between = self.within_between(name)
                lines.append(f"{name:32}  {within:6.3f}  {between:7.3f}")
        return lines


def _array(content: bytes) -> NDArray[Any]:
    """The array of an ``.npy`` file, which holds as many numbers as it says."""
    stream = io.BytesIO(content)
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    # Asked before numpy makes room for them.
    if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise EOFError(f"an array of shape {shape} has {len(content) - stream.tell()} bytes")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
