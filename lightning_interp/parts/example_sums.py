"""A part: what training examples add up to over a fit, by the number of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Gather, world_size
from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.functional.rank_correlation import spearman
from lightning_interp.parts.last_layer import LayerScores
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.run_log import RunLog

__all__ = ["ExampleSums", "SummedExamples"]

Show = Callable[[int], str]

_SLACK = 4  # times as many examples as are kept, before those that are not are let go
_SUMS, _COLUMNS = 3, 6  # self-influence, loss, error norm; then flag, length of the gradient, and how often


class SummedExamples(NamedTuple):
    """What is known of N examples, their numbers rising; the same on all ranks."""

    ids: Tensor
    """The number of each, int64 (N,)."""
    rows: Tensor
    """Sums over the fit of learning rate times self-influence, loss and error norm; then its flag (0, 1, or NaN),
    squared lengths of the gradient summed since the reading before, and how often it came since; float64 (N, 6)."""
    times: Tensor
    """How often it came in all, float64 (N,)."""
    before: Tensor
    """Mean squared length of its gradient at the reading before; NaN where it did not come then, (N,)."""

    @property
    def means(self) -> Tensor:
        """The sums, over how often each came: (N, 3). Of examples that all came as often as another its order."""
        return self.rows[:, :_SUMS] / self.times[:, None]

    @property
    def flags(self) -> Tensor:
        """(N,)."""
        return self.rows[:, 3]

    @property
    def now(self) -> Tensor:
        """Mean squared length of the gradient since the reading before; NaN where it did not come, (N,)."""
        return self.rows[:, 4] / self.rows[:, 5].where(self.rows[:, 5] > 0, math.nan)

    def stability(self) -> float:
        """Spearman's correlation of what came since the reading before with what came before that."""
        there = self.now.isfinite() & self.before.isfinite()
        return spearman(self.now[there], self.before[there]) if int(there.sum()) > 1 else math.nan


class ExampleSums(Part):
    """Sums over a fit of what the last layer says of training examples, by the number of each.

    Where more examples come than are kept, those with the smallest hashes of their numbers are: whatever the order in
    which they come, of each of them everything is known.

    Args:
        most: How many are kept over all ranks; ``None`` for all.
        seed: Of the hash.
        show: Number of an example → what to show of it, for the table.
        top: How many stand in the table.

    Raises:
        TypeError: If ``show`` cannot be called.

    Example:
        >>> from lightning_interp.distributed import over_ranks
        >>> sums = ExampleSums(10)
        >>> scores = LayerScores(*torch.tensor([[2.0, 1.0], [0.1, 0.2], [0.3, 0.4]]).double(), torch.zeros(2).bool())
        >>> for _ in range(2):
        ...     sums.add(torch.tensor([7, 3]), scores, rate=0.5)
        >>> found = over_ranks(sums.merged())
        >>> found.ids.tolist(), found.rows[:, 0].tolist(), found.means[:, 0].tolist()
        ([3, 7], [1.0, 2.0], [0.5, 1.0])

    """

    def __init__(self, most: int | None, seed: int = 0, show: Show | None = None, top: int = 20) -> None:
        if show is not None and not callable(show):
            raise TypeError(f"`show` must be a function of the number of an example, got {show!r}.")
        self.most = most
        self.show = show
        self._seed = seed
        self._top = top
        self.clear()

    def clear(self) -> None:
        """A new fit."""
        self.known = _none()
        """As of the last reading that counts."""
        self._found: SummedExamples | None = None
        self.drop()

    def drop(self) -> None:
        """Forget what came since the last reading."""
        self._came: list[tuple[Tensor, Tensor]] = []
        self.nonfinite = 0
        """How many examples were left out since then, on this rank."""

    def add(self, ids: Tensor, scores: LayerScores, rate: float, flags: Tensor | None = None) -> None:
        """Take in examples of a batch.

        Args:
            ids: The number of each, int64 (B,) on the CPU.
            scores: What they do at the last layer.
            rate: The learning rate, by which everything is weighed.
            flags: Whether each is flagged, bool (B,) on the CPU.

        """
        self.nonfinite += int(scores.nonfinite.sum())
        flag = torch.full_like(scores.norms, math.nan) if flags is None else flags.double()
        sums = rate * torch.stack([scores.norms, scores.losses, scores.errors])
        rows = torch.stack([*sums, flag, scores.norms, torch.ones_like(flag)], 1)
        there = scores.norms.isfinite()
        self._came.append((ids[there], rows[there]))
        if self.most is not None and sum(len(one) for one, _ in self._came) > _SLACK * self.most:
            self._came = [self._kept(*self._all())]

    def merged(self) -> Collective[SummedExamples]:
        """What is known of all examples that are kept, over all ranks; it counts from :meth:`commit` on."""
        ids, rows = self._kept(*self._all())
        all_ids: list[Tensor] = yield Gather(ids)
        all_rows: list[Tensor] = yield Gather(rows)
        before = self.known
        old = before.rows.clone()
        old[:, 4:] = 0  # of the reading before
        new_ids, new_rows = _added(torch.cat([before.ids, *all_ids]), torch.cat([old, *all_rows]))
        kept = self._smallest(new_ids)
        new_ids, new_rows = new_ids[kept], new_rows[kept]
        place = _places(new_ids, before.ids)
        times, now = new_rows[:, 5].clone(), torch.full((len(new_ids),), math.nan, dtype=torch.float64)
        times[place[place >= 0]] += before.times[place >= 0]
        now[place[place >= 0]] = before.now[place >= 0]
        self._found = SummedExamples(new_ids, new_rows, times, now)
        return self._found

    def _all(self) -> tuple[Tensor, Tensor]:
        nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, _COLUMNS, dtype=torch.float64)
        ids, rows = zip(nothing, *self._came, strict=True)
        return _added(torch.cat(ids), torch.cat(rows))

    def _kept(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        kept = self._smallest(ids)
        return ids[kept], rows[kept]

    def _smallest(self, ids: Tensor) -> Tensor:
        """Places of the ids that are kept, rising."""
        if self.most is None or len(ids) <= self.most:
            return torch.arange(len(ids))
        return counter_hash(ids, self._seed).topk(self.most, largest=False, sorted=False).indices.sort().values

    def commit(self, reading: Reading) -> None:
        """The reading counts."""
        if self._found is not None:
            self.known, self._found = self._found, None
            self.drop()

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._found = None

    # ------------------------------------------------- the table

    def table(self) -> list[dict[str, Any]]:
        """The examples with most self-influence, the first first: what the fit has summed of each, and how often."""
        known = self.known
        order = known.means[:, 0].argsort(descending=True, stable=True)[: self._top].tolist()
        found = []
        for at in order:
            values = [*known.means[at].tolist(), known.flags[at].item()]
            names = ("self_influence", "loss", "error_norm", "flag")
            one: dict[str, Any] = {"example": int(known.ids[at])}
            one |= {name: value for name, value in zip(names, values, strict=True) if not math.isnan(value)}
            if self.show is not None:
                one["shown"] = self.show(one["example"])
            found.append(one)
        return found

    def fit_ends(self, trainer: Any, full_key: Callable[[str], str], step: int) -> None:
        """Say which examples have most, where loggers can."""
        reporter = RunLog.of(trainer).reporter
        if reporter is not None and len(self.known.ids) and trainer.is_global_zero:
            reporter.text(trainer, full_key("self_influence/top"), _markdown(self.table()), step)

    # ------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """What is known, and what came since on a single process."""
        found: dict[str, Any] = {"known": list(self.known)}
        if self._came and world_size() == 1:
            found |= {"came": list(self._kept(*self._all())), "nonfinite": self.nonfinite}
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        self.known = SummedExamples(*state["known"])
        self._came = [tuple(state["came"])] if "came" in state else []
        self.nonfinite = int(state.get("nonfinite", 0))


def _none() -> SummedExamples:
    empty = torch.zeros(0, dtype=torch.float64)
    return SummedExamples(empty.long(), torch.zeros(0, _COLUMNS, dtype=torch.float64), empty, empty)


def _added(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of one id added up, ids rising; a flag is the last that is known."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    found = torch.zeros(len(unique), _COLUMNS, dtype=torch.float64).index_add(0, inverse, rows)
    found[:, 3] = math.nan
    told = ~rows[:, 3].isnan()
    found[inverse[told], 3] = rows[told, 3]
    return unique, found


def _places(among: Tensor, ids: Tensor) -> Tensor:
    """Where each id stands among rising ones; −1 where it does not."""
    if not len(among):
        return torch.full_like(ids, -1)
    place = torch.searchsorted(among, ids).clamp_max(len(among) - 1)
    return place.where(among[place] == ids, -1)


def _markdown(table: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in table for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in table)])


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
