"""What the neurons of a language model fire on, and how that changes while it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from lightning_interp.batches.contents import Key
from lightning_interp.distributed import Collective, Gather, Maximum
from lightning_interp.functional.neurons import context_churn
from lightning_interp.isolation.random_weights import Reinit
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.digest import ids_digest
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.derived import CONTROL, with_random
from lightning_interp.metrics.measure import FULL, SUMMARY, Measure
from lightning_interp.metrics.measures.neurons import (
    ACTIVATION_KURTOSIS,
    ACTIVATION_SHARE,
    DEAD_NEURONS,
    EXPLANATION_SCORE,
    LOOKUP_SCORE,
    LOOKUP_SHARE,
    MASSIVE_ACTIVATION,
    NEURON_CHURN,
    NEURON_TOKENS,
)
from lightning_interp.parts.baseline import Baseline, beside_random
from lightning_interp.parts.kept import Kept
from lightning_interp.parts.neuron_contexts import NeuronContexts, contexts_of
from lightning_interp.parts.neuron_explanations import Explain, NeuronExplanations, Simulate
from lightning_interp.parts.neuron_means import NeuronMeans, merged_neurons, merged_residuals
from lightning_interp.parts.neuron_texts import NeuronTexts, NeuronTokens, Recorded
from lightning_interp.parts.word_weights import mean_defined
from lightning_interp.parts.words import Words
from lightning_interp.reading.analysis import ValidationAnalysis
from lightning_interp.reading.arguments import LoaderArgs
from lightning_interp.reading.reading import Reading

__all__ = ["NeuronTable"]

_TRACKED = "tracked neuron"
"""Its values are a site and a neuron, with a slash between."""
_DETECTOR = 0.8
_COMPARED = (LOOKUP_SCORE, LOOKUP_SHARE, ACTIVATION_KURTOSIS)


class NeuronTable(ValidationAnalysis):
    r"""Reads what a model's neurons fire on: how far the present token alone explains them, and where they fire most.

    Neurons are the input of an MLP's down projection, behind the nonlinearity and with gates multiplied in. The first
    token of each text is left out, where attention sinks. With a look-up that says of token k the mean activation on k
    in every other text, and of a token that is not there the mean of all:

    .. math::
        r = \mathrm{corr}\big(a_t, \hat a_{k(t)}\big) \text{ over all tokens t of the other texts}, \quad
        \mathrm{churn} = 1 - \frac{|A \cap B|}{|A \cup B|}

    with A and B the 20 tokens of the text on which a neuron fires most, at the reading before and at this one.

    ================================  =======  =======================================================================
    key                               level    what it is
    ================================  =======  =======================================================================
    ``lookup_score/<site>``           summary  r, mean over neurons that vary (conditional: there may be none)
    ``lookup_share/<site>``           full     share of them with an r of .8 or more: token detectors (conditional)
    ``lookup_score_control/<site>``   full     r with tokens dealt to other places: chance (conditional)
    ``dead_neurons/<site>``           summary  share of neurons that never fire on the text: none of their sizes is
                                               above a millionth of the layer's
    ``activation_kurtosis/<site>``    full     fourth moment over the squared variance, median over neurons, 3 for a
                                               normal distribution (conditional)
    ``activation_share/<site>``       full     share of tokens on which a neuron is above 0, mean over neurons; without
                                               meaning where gates have both signs
    ``neuron_churn/<site>``           summary  mean over neurons (conditional: not at the first reading of a fit, nor
                                               outside of one)
    ``massive_activation/<site>``     summary  largest entry of the residual behind the layer over the median of their
                                               sizes, all tokens (conditional: of sites in blocks)
    ``<measure>_baseline/<site>``     full     with random weights, of ``lookup_score``, ``lookup_share`` and
                                               ``activation_kurtosis`` (conditional)
    ``<measure>_above_baseline/…``             what training adds, at the measure's own level (conditional)
    ``lookup_score/<site>/n<k>``      summary  r of a neuron to watch (conditional: it may not vary)
    ``explanation_score/mean``        summary  of neurons to watch, r with what ``simulate`` says by their explanation,
                                               over all tokens of every other text (conditional); with ``explain``
    ``explanation_score_control/…``   full     … by the explanation of another of them (conditional)
    ``explanation_score/<site>/n<k>`` full     of a neuron (conditional)
    ``neuron_tokens``                 full     tokens that are read
    ================================  =======  =======================================================================

    Neurons of early layers are token detectors whatever they learned: look at ``lookup_score_above_baseline``. The
    score falls with depth and rises with the length of the text, so a rise is not more to interpret by itself.

    Args:
        sites: Modules whose input are the neurons; by default what takes those of each block back to the residual
            stream.
        texts: Fixed texts, two or more, every other one to explain and to score on; by default those of the validation
            run.
        model: Dotted name of the language model in the module that is called with the ids; ``""`` for the module.
        tokenizer: Encodes ``texts``; see :class:`~lightning_interp.callbacks.SentenceProbe`.
        neurons: Neurons of a site that are read, drawn once; all where it has fewer.
        track: Neurons to watch, ``{"5": [17]}``, which are read too: their contexts are told as a text when the fit
            ends, and stand in :attr:`table`.
        explain: Says in words what a neuron to watch fires on, told from excerpts of every other text, each with tokens
            and activations (:class:`~lightning_interp.parts.neuron_explanations.Excerpt`): ``explain(excerpts)``, a
            text. It is called for each at every reading, on the first rank alone.
        simulate: Says how far a neuron of which that is true fires on each token of a text: ``simulate(text, tokens)``,
            numbers on any scale.
        max_length: Tokens of a text that are read, from its first on.
        max_examples: Texts of the validation run, spread evenly over it.
        baseline: Random weights; see :class:`~lightning_interp.callbacks.LayerProbe`.
        forward: Calls the model on texts without padding: ``forward(model, input_ids, attention_mask)``.
        batch_tokens: Tokens in a forward pass.
        decode: Token ids → text, such as a tokenizer's ``decode``, for the contexts.
        tokens, mask, padding_idx: Where a validation batch has its text; see
            :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        seed: Of the choice of neurons, of permuted tokens and random weights.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, there is no down projection, or ``track``
            names what is not there; in the sanity check, if batches do not say their text.
        TypeError: If ``decode`` cannot be called.

    Cost: a forward pass over the texts, one more with random weights; 4 · tokens · ``neurons`` bytes a site until the
        reading ends, and 32 · ids · ``neurons`` bytes that ranks exchange for each.

    Example:
        >>> callback = NeuronTable({"0": "lm.transformer.h.0.mlp.c_proj"}, model="lm", track={"0": [3]})
        >>> callback.logged_keys()[:3]
        ['lookup_score/0', 'dead_neurons/0', 'lookup_score_above_baseline/0']

    """

    told_apart = ("language_model", "sites", "prefix")
    _outward = (*ValidationAnalysis._outward, "texts", "decode")

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str] | None = None,
        texts: Sequence[str] | None = None,
        model: str = "",
        tokenizer: Any = "tokenizer",
        neurons: int = 512,
        track: Mapping[str, Sequence[int]] | None = None,
        explain: Explain | None = None,
        simulate: Simulate | None = None,
        max_length: int = 256,
        max_examples: int | None = 32,
        baseline: bool | Reinit | None = None,
        forward: Forward | None = None,
        batch_tokens: int = 4096,
        decode: Callable[[list[int]], str] | None = None,
        tokens: Key | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        seed: int = 0,
        **kwargs: Unpack[LoaderArgs],
    ) -> None:
        super().__init__(max_examples=max_examples, **kwargs)
        self.language_model, self.sites, self.seed = model, sites, seed
        self.track = _checked_track(track)
        how = (neurons, self.track, max_length, seed, model, forward, batch_tokens)
        self.neurons = NeuronTexts(sites, texts, tokenizer, *how)
        self.words = Words(tokens, mask, padding_idx, batch_size=self.batch_size, asked=texts is None)
        self.baseline = Baseline(baseline, seed, of=model)
        self.contexts = NeuronContexts(decode)
        self.explanations = NeuronExplanations(explain, simulate, decode)
        if explain is not None and not any(self.track.values()):
            raise ValueError("`explain` is asked of the neurons of `track`, which names none.")
        self.fired = Kept(2)
        """Where neurons fired most at the last reading."""

    @property
    def table(self) -> str:
        """Contexts of the neurons to watch at the last reading of the fit, in Markdown."""
        return self.contexts.markdown()

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """What explains neurons, with random weights and chance beside it, their shape, and whether they change."""
        own = [LOOKUP_SCORE, LOOKUP_SHARE, CONTROL.of(LOOKUP_SCORE), DEAD_NEURONS, ACTIVATION_KURTOSIS]
        return [
            *(with_random(own) if self.baseline.wanted else own),
            *(ACTIVATION_SHARE, NEURON_CHURN, MASSIVE_ACTIVATION),
            LOOKUP_SCORE.at(_TRACKED, level=SUMMARY, beside_random=False),
            *(self._of_explanations() if self.explanations.asked else ()),
            NEURON_TOKENS,
        ]

    @staticmethod
    def _of_explanations() -> list[Measure]:
        mean = EXPLANATION_SCORE.at(end="mean")
        return [mean, CONTROL.of(mean), EXPLANATION_SCORE.at(_TRACKED, level=FULL)]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, and the neurons to watch."""
        tracked = [f"{site}/n{neuron}" for site, some in self.track.items() for neuron in some]
        return {"site": self.neurons.short_names(model), _TRACKED: tracked}

    # ------------------------------------------------- reading

    def before_batch(self, seen: Seen) -> None:
        """Keep the texts of the batch."""
        super().before_batch(seen)
        if self.neurons.given is None:
            self.neurons.read(seen, self.words.of(seen, ["text"])["text"])

    def kept_for_samples(self) -> str:
        """Contexts are compared with those of the reading before, and random weights were read on the texts."""
        if self.neurons.given is not None:
            return ""
        return "neuron_churn and the random weights are of those, so both begin anew"

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Run the texts, with random weights too where that is due."""
        tokens = yield from self.neurons.texts()
        run = partial(self.neurons.record, tokens, reading.group)
        passing = self.neurons.given is None and not reading.counts
        if passing or reading.changed is not None:
            self.baseline.values = {}  # of other texts
        yield from self.baseline.read(self.neurons.model, type(self).__name__, run, partial(self._random, tokens))
        recorded = run()
        yield from self._choose()
        ratios = yield from merged_residuals(recorded.residuals, list(self.neurons.names))
        values: dict[str, Tensor | float] = {NEURON_TOKENS.key(): float(len(tokens))}
        digest = ids_digest([*tokens.texts, *self.neurons.chosen.values()])
        now: dict[str, Tensor] = {"texts": torch.tensor(list(digest), dtype=torch.uint8)}
        self.contexts.now = {}
        for site in self.neurons.names:
            means = yield from merged_neurons(tokens, recorded, site)
            own = _explained(site, means)
            values |= own
            values |= self.baseline.beside(own, [one for one in self._beside() if one[0] in own])
            values |= {
                CONTROL.of(LOOKUP_SCORE).key(site): _mean(means.permuted),
                DEAD_NEURONS.key(site): _mean(means.dead),
                ACTIVATION_SHARE.key(site): _mean(means.fires),
                NEURON_CHURN.key(site): self._churn(site, now["texts"], means.contexts) if reading.counts else math.nan,
                MASSIVE_ACTIVATION.key(site): ratios[site],
            }
            values |= self._tracked(site, means, tokens)
            now[f"site/{site}"] = means.contexts.int()
        self.fired.now = now
        if self.explanations.asked:
            values |= yield from self._explain(tokens, recorded, reading)
        if passing:
            self.baseline.values = {}
        return values

    def _choose(self) -> Collective[None]:
        """Which neurons are read, on ranks without a text too."""
        sites = list(self.neurons.names)
        widths: Tensor = yield Maximum(torch.tensor([self.neurons.widths.get(site, 0) for site in sites]))
        for site, width in zip(sites, widths.tolist(), strict=True):
            if width:
                self.neurons.choose(site, width)

    def _random(self, tokens: NeuronTokens, recorded: Recorded) -> Collective[dict[str, float]]:
        """What explains neurons with random weights."""
        found: dict[str, float] = {}
        for site in self.neurons.names:
            means = yield from merged_neurons(tokens, recorded, site)
            found |= _explained(site, means)
        return found

    def _explain(self, tokens: NeuronTokens, recorded: Recorded, reading: Reading) -> Collective[dict[str, float]]:
        """Have neurons to watch explained, and score what is said."""
        activations: dict[str, Tensor] = {}
        for site, some in self.track.items():
            chosen = self.neurons.chosen.get(site, torch.zeros(0)).tolist()
            rows = [chosen.index(one) for one in some if one in chosen]
            own = recorded.activations.get(site, torch.zeros(0, len(chosen)))[:, rows]
            places: list[Tensor] = yield Gather(recorded.places)
            parts: list[Tensor] = yield Gather(own)
            columns = torch.cat(parts)[torch.cat(places).argsort()].T
            activations |= {f"{site}/n{chosen[row]}": column for row, column in zip(rows, columns, strict=True)}
        scores, controls, said = yield from self.explanations.read(tokens, activations, reading.group)
        self.contexts.told = said
        mean, *_ = self._of_explanations()
        found = {f"{EXPLANATION_SCORE.name}/{name}": score for name, score in scores.items()}
        found[mean.key()] = mean_defined(list(scores.values()))
        found[CONTROL.of(mean).key()] = mean_defined(list(controls.values()))
        return found

    def _beside(self) -> list[tuple[str, str, str]]:
        return beside_random(_COMPARED, {"site": list(self.neurons.names)})

    def _churn(self, site: str, texts: Tensor, contexts: Tensor) -> float:
        """How far contexts are others than at the reading before; NaN where there was none of the same texts."""
        before = self.fired.values[-1] if len(self.fired) else {}
        if f"site/{site}" not in before or not torch.equal(before["texts"], texts):
            return math.nan
        return _mean(context_churn(before[f"site/{site}"].long(), contexts))

    def _tracked(self, site: str, means: NeuronMeans, tokens: NeuronTokens) -> dict[str, float]:
        """Of neurons to watch their scores; their contexts are kept."""
        found: dict[str, float] = {}
        places = {neuron: row for row, neuron in enumerate(self.neurons.chosen.get(site, torch.zeros(0)).tolist())}
        for neuron in self.track.get(site, ()):
            row, name = places.get(neuron), f"{site}/n{neuron}"
            score = math.nan if row is None else float(means.scores[row])
            found[f"{LOOKUP_SCORE.name}/{name}"] = score
            if row is not None:
                assert self.contexts.now is not None
                self.contexts.now[name] = score, contexts_of(tokens, means.contexts[row], means.peaks[row])
        return found


def _explained(site: str, means: NeuronMeans) -> dict[str, float]:
    """What is compared with random weights."""
    scores, kurtosis = (one[~one.isnan()] for one in (means.scores, means.kurtosis))
    return {
        LOOKUP_SCORE.key(site): _mean(scores),
        LOOKUP_SHARE.key(site): _mean((scores >= _DETECTOR).double()),
        ACTIVATION_KURTOSIS.key(site): float(kurtosis.median()) if len(kurtosis) else math.nan,
    }


def _mean(values: Tensor) -> float:
    """Of those that are numbers; NaN where there is none."""
    return float(values.nanmean())


def _checked_track(track: Mapping[str, Sequence[int]] | None) -> dict[str, list[int]]:
    """Neurons to watch, by site.

    Raises:
        ValueError: If it is no mapping from sites to lists of numbers from 0 on.

    """
    if track is None:
        return {}
    if not isinstance(track, Mapping):
        raise ValueError(f"`track` must map sites to numbers of neurons, {{'5': [17]}}; got {track!r}.")
    for site, some in track.items():
        if isinstance(some, str | int) or not all(isinstance(one, int) and one >= 0 for one in some):
            raise ValueError(f"`track` must list numbers of neurons from 0 on for site {site!r}, got {some!r}.")
    return {str(site): list(dict.fromkeys(some)) for site, some in track.items()}
