"""What influence functions found: scores of training examples for queries, as tables, by source and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_interp.figures.influence_examples import ShownExample, influence_examples
from lightning_interp.functional.counter_noise import counter_normal
from lightning_interp.functional.group_means import group_means

__all__ = ["Influence", "RankedExample", "TopExamples"]

Shown = Sequence[Any] | Callable[[int], Any]
"""What stands for an example in a table or picture: by its place, a text or an image."""


class RankedExample(NamedTuple):
    """A training example for a query."""

    example: int
    """Its place in the order in which ``train`` gives examples."""
    score: float
    """Its influence, in :attr:`Influence.unit`."""


class TopExamples(NamedTuple):
    """The training examples of the largest influence on a query."""

    proponents: list[RankedExample]
    """Those that helped most, the first the most: only such as are above 0."""
    opponents: list[RankedExample]
    """Those that hurt most, the first the most: only such as are below 0."""


@dataclass(frozen=True, eq=False)
class Influence:
    """What :func:`influence` found for Q queries and N training examples."""

    scores: Tensor
    """Influence of each training example on each query, float32 on the CPU (Q, N): positive where it helped."""
    unit: str
    """Of the scores."""
    method: str
    """How they were found."""
    damping: Mapping[str, float]
    """What was added to the curvature, by layer; empty without curvature."""
    layers: tuple[str, ...]
    """Whose gradients were read."""
    left_out: Mapping[str, str]
    """Trainable parameters that were not read, and why."""
    parameters: tuple[int, int]
    """How many were read, and how many the model trains."""
    losses: Tensor
    """Of the training examples, in nats, (N,)."""
    query_losses: Tensor
    """Of the queries, (Q,)."""
    nearest: Tensor | None
    """The level to beat: inner products of inputs where labels are the same, else 0, (Q, N), without any model; of
    token ids, of how often each occurs. ``None`` where inputs are not found in the batches."""
    labels: Tensor | None = None
    """Targets of the training examples, where each has one, (N,)."""
    query_labels: Tensor | None = None
    """Targets of the queries, (Q,)."""
    seed: int = 0
    """Of what is drawn."""

    def __repr__(self) -> str:
        queries, number = self.scores.shape
        read, every = self.parameters
        return (
            f"Influence({queries} queries, {number} training examples, method={self.method!r}, {len(self.layers)} "
            f"layers, {read:,} of {every:,} parameters)"
        )

    @property
    def random(self) -> Tensor:
        """Scores by chance, standard normal, (Q, N): what rankings are held against."""
        queries, number = self.scores.shape
        return counter_normal(torch.arange(queries), number, self.seed + 1)

    def top(self, query: int, k: int = 5) -> TopExamples:
        """The training examples that helped a query most and those that hurt it most; of equal ones the first.

        Raises:
            ValueError: If there is no such query, or ``k`` is below 1.

        """
        row = self._row(query)
        if k < 1:
            raise ValueError(f"`k` must be at least 1, got {k}.")
        order = row.sort(descending=True, stable=True).indices.tolist()
        worst = row.sort(stable=True).indices.tolist()
        helped = [RankedExample(one, float(row[one])) for one in order[:k] if row[one] > 0]
        hurt = [RankedExample(one, float(row[one])) for one in worst[:k] if row[one] < 0]
        return TopExamples(helped, hurt)

    def by_source(self, sources: Sequence[Hashable], query: int | None = None) -> list[dict[str, Any]]:
        """Influence of each source of training data, beside what it is with sources permuted.

        Args:
            sources: The source of each training example, of length N.
            query: Of one query; of the mean over queries by default.

        Returns:
            A row for each source, of the largest mean first: ``source``, ``examples``, ``sum``, ``mean``, and of the
            mean under permuted sources ``chance`` and ``chance_sd``, exactly; ``deviations``, how many of these it is
            away from chance, NaN where a permutation changes nothing. Heavy tails make 2 or 3 of them less rare than
            for a normal distribution, and duplicates are not independent.

        Raises:
            ValueError: If there is not one source for each training example, or no such query.

        """
        if len(sources) != self.scores.shape[1]:
            raise ValueError(
                f"`sources` must name one for each of {self.scores.shape[1]} training examples, got {len(sources)}."
            )
        found = group_means(self.scores.mean(0) if query is None else self._row(query), sources)
        rows = []
        for place in found.means.argsort(descending=True, stable=True).tolist():
            numbers = (found.counts, found.means, found.chance, found.chance_sd)
            count, mean, chance, sd = (one[place].item() for one in numbers)
            rows.append(
                {
                    "source": found.names[place],
                    "examples": int(count),
                    "sum": mean * count,
                    "mean": mean,
                    "chance": chance,
                    "chance_sd": sd,
                    "deviations": (mean - chance) / sd if sd > 0 else float("nan"),
                }
            )
        return rows

    def table(self, query: int, k: int = 5, examples: Shown | None = None, queries: Shown | None = None) -> str:
        """Proponents and opponents of a query as a table in Markdown.

        Args:
            query: Which.
            k: How many of each.
            examples: What stands for a training example: texts, or a function of its place, such as
                ``lambda i: tokenizer.decode(train[i]["input_ids"])``. Without it there is its place alone.
            queries: The same for the query.

        Returns:
            A line on the query, and a row for each example. ``× typical`` is its score over the root mean square of
            all scores of the query.

        Raises:
            ValueError: If there is no such query, or ``k`` is below 1.

        """
        top, row = self.top(query, k), self._row(query)
        typical = float(row.square().mean().sqrt())
        shown = "" if queries is None else f" {_line(_of(queries, query))}"
        label = "" if self.query_labels is None else f", label {int(self.query_labels[query])}"
        head = ["", "example", *([] if self.labels is None else ["label"]), "loss (nats)", f"score ({self.unit})"]
        head += ["× typical", *([] if examples is None else ["shown"])]
        lines = [f"Query {query}{shown} (loss {float(self.query_losses[query]):.3g}{label}), {self.method}", ""]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for kind, found in (("proponent", top.proponents), ("opponent", top.opponents)):
            for place, one in enumerate(found, 1):
                cells = [f"{kind} {place}", str(one.example)]
                cells += [] if self.labels is None else [str(int(self.labels[one.example]))]
                cells += [f"{float(self.losses[one.example]):.3g}", f"{one.score:+.3g}", f"{one.score / typical:+.1f}"]
                cells += [] if examples is None else [_line(_of(examples, one.example))]
                lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def plot(
        self, query: int, examples: Shown, queries: Shown | None = None, k: int = 5, title: str | None = None
    ) -> Figure:
        """Proponents and opponents of a query as a picture: of images, or of texts.

        Args:
            query: Which.
            examples: What is shown of a training example: images (H, W), (H, W, 3) or (C, H, W), or texts, or a
                function of its place that gives one.
            queries: The same for the query.
            k: How many of each.
            title: The heading; it says the method by default.

        Returns:
            A figure that pyplot does not know of.

        Raises:
            ValueError: If there is no such query, or ``k`` is below 1.

        """

        def rows(found: Sequence[RankedExample]) -> list[ShownExample]:
            return [ShownExample(self._caption(one), _of(examples, one.example)) for one in found]

        top = self.top(query, k)
        label = "" if self.query_labels is None else f"\nlabel {int(self.query_labels[query])}"
        asked = ShownExample(f"query {query}{label}", "" if queries is None else _of(queries, query))
        heading = f"influence by {self.method}, {self.unit}" if title is None else title
        return influence_examples(asked, rows(top.proponents), rows(top.opponents), heading)

    def _caption(self, one: RankedExample) -> str:
        label = "" if self.labels is None else f", label {int(self.labels[one.example])}"
        return f"{one.example}{label}\n{one.score:+.2g}"

    def _row(self, query: int) -> Tensor:
        if not 0 <= query < len(self.scores):
            raise ValueError(f"`query` must be one of {len(self.scores)} queries, got {query}.")
        return self.scores[query]


def _of(shown: Shown, place: int) -> Any:
    return shown(place) if callable(shown) else shown[place]


def _line(value: Any) -> str:
    """A text as one cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")
