"""A part: the contexts in which neurons fire most, told in words when a fit ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_interp.parts.neuron_texts import NeuronTokens
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.run_log import RunLog

__all__ = ["Context", "NeuronContexts", "contexts_of"]

Decode = Callable[[list[int]], str]

_BEFORE, _BEHIND, _ROWS = 8, 4, 10


@dataclass(frozen=True)
class Context:
    """Tokens around one on which a neuron fires."""

    before: list[int]
    token: int
    behind: list[int]
    activation: float


def contexts_of(tokens: NeuronTokens, places: Tensor, peaks: Tensor, most: int = _ROWS) -> list[Context]:
    """The tokens around some places.

    Args:
        tokens: The tokens.
        places: Places among them, int64 (k,); −1 for none.
        peaks: Activations there, (k,).
        most: How many, from the first on.

    Example:
        >>> import torch
        >>> tokens = NeuronTokens.of([torch.tensor([7, 8, 9]), torch.tensor([7, 5, 6])])
        >>> contexts_of(tokens, torch.tensor([2, -1]), torch.tensor([1.5, 0.0]))
        [Context(before=[7], token=5, behind=[6], activation=1.5)]

    """
    found = []
    for place, peak in zip(places.tolist()[:most], peaks.tolist(), strict=False):
        if place >= 0:
            number, at = tokens.where(place)
            ids = tokens.texts[number].tolist()
            found.append(Context(ids[max(0, at - _BEFORE) : at], ids[at], ids[at + 1 : at + 1 + _BEHIND], peak))
    return found


class NeuronContexts(Part):
    """The contexts of neurons that are watched, of the last reading; loggers that take texts get them at the end.

    Args:
        decode: Token ids → text; the ids by default.

    Raises:
        TypeError: If it cannot be called.

    """

    def __init__(self, decode: Decode | None = None) -> None:
        if decode is not None and not callable(decode):
            raise TypeError(f"`decode` must be a function of a list of token ids, got {decode!r}.")
        self.decode = decode
        self.clear()

    def clear(self) -> None:
        """A new fit."""
        self.shown: dict[str, tuple[float, list[Context]]] = {}
        """Of each neuron its correlation with the look-up and its contexts, of the last reading."""
        self.told: dict[str, str] = {}
        """Of each neuron what an explanation says, where that was asked for."""
        self.forget()

    def forget(self) -> None:
        """The reading is over, or given up."""
        self.now: dict[str, tuple[float, list[Context]]] | None = None

    def commit(self, reading: Reading) -> None:
        """These are shown, unless a later reading has others."""
        if self.now is not None:
            self.shown = self.now

    def fit_ends(self, trainer: Any, full_key: Callable[[str], str], step: int) -> None:
        """Show them."""
        reporter = RunLog.of(trainer).reporter
        if reporter is not None and self.shown:
            reporter.text(trainer, full_key("neurons/contexts"), self.markdown(), step)

    def markdown(self) -> str:
        """A table for each neuron, the token on which it fires in bold."""
        return "\n\n".join(self._table(name, *found) for name, found in self.shown.items())

    def _table(self, name: str, score: float, contexts: Sequence[Context]) -> str:
        said = f": {self._flat(self.told[name])}" if name in self.told else ""
        lines = [f"**{name}**, look-up r {score:.2f}{said}", "", "| activation | context |", "|---|---|"]
        for one in contexts:
            before, token, behind = map(self._text, (one.before, [one.token], one.behind))
            lines.append(f"| {one.activation:.3g} | {before} **{token}** {behind} |")
        return "\n".join(lines)

    def _text(self, ids: list[int]) -> str:
        return self._flat(" ".join(map(str, ids)) if self.decode is None else self.decode(ids))

    @staticmethod
    def _flat(said: str) -> str:
        # What would end a cell or a line of the table.
        return " ".join(said.replace("|", "\\|").split())
