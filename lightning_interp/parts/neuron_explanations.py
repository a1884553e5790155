"""A part: explanations of neurons in words, scored by what they let a reader say of other text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Sums, rank_in
from lightning_interp.functional.neurons import pearson, top_contexts
from lightning_interp.parts.neuron_texts import NeuronTokens
from lightning_interp.reading.part import Part

__all__ = ["Excerpt", "Explain", "NeuronExplanations", "Simulate"]

_EXCERPTS, _BEFORE, _BEHIND = 10, 8, 4


@dataclass(frozen=True)
class Excerpt:
    """Tokens around one on which a neuron fires, and what it does on each."""

    tokens: list[str]
    activations: list[float]


Explain = Callable[[list[Excerpt]], str]
"""Excerpts in which a neuron fires most → what it fires on, in words."""
Simulate = Callable[[str, list[str]], Sequence[float]]
"""An explanation and the tokens of a text → how far a neuron of which it is true fires on each, on any scale."""


class NeuronExplanations(Part):
    """Has neurons explained and simulated by functions of the user's, on the first rank alone.

    An explanation is told from every other text, and scored on the rest by Pearson's r of real and simulated
    activations over all tokens of all texts at once (Bills et al. 2023, *Language models can explain neurons in
    language models*); beside it the same with the explanation of the next neuron.

    Args:
        explain: See :data:`Explain`; ``None`` for none.
        simulate: See :data:`Simulate`.
        decode: Token ids → text; the ids by default.

    Raises:
        ValueError: If one of the two is given without the other; at a reading, if ``explain`` returns no text or
            ``simulate`` not a number for each token.

    """

    def __init__(
        self,
        explain: Explain | None = None,
        simulate: Simulate | None = None,
        decode: Callable[[list[int]], str] | None = None,
    ) -> None:
        given = [one for one in (explain, simulate) if one is not None]
        if len(given) == 1 or not all(map(callable, given)):
            raise ValueError(
                f"`explain` and `simulate` are two functions, given together or not at all, got {explain!r} and "
                f"{simulate!r}."
            )
        self.explain, self.simulate, self.decode = explain, simulate, decode

    @property
    def asked(self) -> bool:
        """Whether neurons are explained."""
        return self.explain is not None

    def read(
        self, tokens: NeuronTokens, activations: Mapping[str, Tensor], group: Any = None
    ) -> Collective[tuple[dict[str, float], dict[str, float], dict[str, str]]]:
        """Explain neurons, and score what is said.

        Args:
            tokens: The tokens.
            activations: Of each neuron those on all tokens, (N,).
            group: The process group; its first rank does it.

        Returns:
            Of each neuron its score, and that of the next one's explanation, NaN where there is no other; and, on the
            first rank, the explanations.

        """
        names, said = list(activations), dict[str, str]()
        table = torch.zeros(len(names), 2, dtype=torch.float64)
        if rank_in(group) == 0:
            said = {name: self._explained(tokens, a) for name, a in activations.items()}
            for row, name in enumerate(names):
                other = names[(row + 1) % len(names)]
                for column, explained in enumerate((name, other)):
                    table[row, column] = torch.nan
                    if column == 0 or other != name:
                        table[row, column] = self._score(tokens, activations[name], said[explained])
        (table,) = yield Sums([table])
        own, control = (dict(zip(names, column, strict=True)) for column in table.T.tolist())
        return own, control, said

    def _explained(self, tokens: NeuronTokens, a: Tensor) -> str:
        assert self.explain is not None
        here = (~tokens.held_out).nonzero()[:, 0]
        excerpts: list[Excerpt] = []
        if len(here):
            places, _ = top_contexts(a[here, None], here, _EXCERPTS)
            excerpts = [self._excerpt(tokens, a, place) for place in places[0].tolist() if place >= 0]
        said = self.explain(excerpts)
        if not isinstance(said, str):
            raise ValueError(f"`explain` must return a text, got {type(said).__name__}.")
        return said

    def _excerpt(self, tokens: NeuronTokens, a: Tensor, place: int) -> Excerpt:
        number, at = tokens.where(place)
        # The first token of a text is not read.
        some = slice(max(1, at - _BEFORE), at + 1 + _BEHIND)
        ids = tokens.texts[number][some].tolist()
        begin = place - at + some.start
        return Excerpt(self._words(ids), a[begin : begin + len(ids)].tolist())

    def _score(self, tokens: NeuronTokens, a: Tensor, explanation: str) -> float:
        assert self.simulate is not None
        simulated: list[float] = []
        for number, text in enumerate(tokens.texts):
            if number % 2:
                words = self._words(text[1:].tolist())
                scores = [float(one) for one in self.simulate(explanation, words)]
                if len(scores) != len(words):
                    raise ValueError(
                        f"`simulate` must return a number for each of {len(words)} tokens, got {len(scores)}."
                    )
                simulated += scores
        return pearson(a[tokens.held_out], torch.tensor(simulated, dtype=torch.float64))

    def _words(self, ids: list[int]) -> list[str]:
        return [str(one) if self.decode is None else self.decode([one]) for one in ids]
