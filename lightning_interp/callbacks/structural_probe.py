"""Whether a model's representations hold the syntax trees of sentences, and in which layer."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_interp.callbacks.representation_metrics import site_key
from lightning_interp.callbacks.sentence_probe import Probed, ProbedSite, SentenceArgs, SentenceProbe
from lightning_interp.figures import dependency_tree, site_heatmap
from lightning_interp.functional.structural_probe import (
    StructuralProbeFit,
    fit_depth_probe,
    fit_distance_probe,
    probe_depths,
    probe_distances,
)
from lightning_interp.functional.trees import (
    chain_scores,
    minimum_spanning_tree,
    tree_depths,
    tree_distances,
    tree_scores,
)
from lightning_interp.metrics.derived import ABOVE_CHAIN
from lightning_interp.metrics.measure import FULL, SUMMARY, Measure
from lightning_interp.metrics.measures.probes import DEPTH_LOSS, DISTANCE_LOSS, DSPR, NSPR, ROOT_ACCURACY, UUAS
from lightning_interp.probing.treebank import Sentence, grammar_treebank, read_conllu
from lightning_interp.reading.analysis import Draw
from lightning_interp.reading.grids import site_grid
from lightning_interp.reporting.titles import measure_title
from lightning_interp.tasks.loading import all_of_kind, loaded

__all__ = ["StructuralProbe"]

Treebank = str | Path | Sequence[Sentence] | Callable[[], Sequence[Sentence]]


class StructuralProbe(SentenceProbe):
    r"""Reads how much of the dependency trees of sentences a linear map finds in the representations of their words.

    Hewitt & Manning 2019 (N19-1419): a matrix B under which squared distances between words,
    :math:`\|B(h_i - h_j)\|^2`, are the distances in the tree, and another one under which squared lengths
    :math:`\|Bh_i\|^2` are depths; both by an L1 loss on training sentences, stopped by dev sentences. All that is
    logged is of test sentences. Which sentence is in which part is drawn once from the seed, so that what changes is
    the model; repeated sentences are in one part.

    ================================  =======  =====================================================================
    key                               level    what it is
    ================================  =======  =====================================================================
    ``uuas/<site>``                   summary  share of the trees' edges in the minimum spanning trees of predicted
                                               distances, without punctuation
    ``uuas_above_chain/<site>``       summary  … less that of the linear chain, where each word is linked to the next
    ``dspr/<site>``                   summary  Spearman correlation of distances, per word, averaged per length, then
                                               over lengths of 5 to 50 words
    ``root_accuracy/<site>``          full     share of sentences whose shallowest word is the root
    ``nspr/<site>``                   full     Spearman correlation of depths, per sentence, averaged likewise
    ``dspr_above_chain/<site>``       full     … less that of distances by place in the sentence, |i − j|
    ``nspr_above_chain/<site>``       full     … less that of depths by place in the sentence, i
    ``root_accuracy_above_chain/…``   full     … less that of the first word
    ``distance_loss/<site>``          full     loss of the distance probe on dev sentences
    ``depth_loss/<site>``             full     loss of the depth probe on dev sentences
    ``…_baseline/<site>``             full     UUAS, DSpr, root accuracy and NSpr with random weights
    ``…_above_baseline/<site>``                what training adds, at the score's own level
    ``nonfinite/<site>/words``        full     words whose representation is not finite
    ================================  =======  =====================================================================

    Random weights hold the words and their places, from which much of a tree can be told: look at ``above_baseline``
    too. Probes are fitted anew at every reading, so that it depends on the weights alone: starting from the probe of
    the reading before takes as many steps and ends at a higher dev loss (``benchmarks/structural_probe.py``).

    Figures: UUAS, DSpr and root accuracy by site over time, and the gold and predicted tree of one test sentence at
    the site with the highest UUAS.

    Args:
        sites: Where to read.
        treebank: Sentences with their trees; ``"grammar"`` for 500 of the built-in grammar
            (:func:`~lightning_interp.probing.treebank.grammar_treebank`); the path of a CoNLL-U file; or a function
            that returns sentences, or its dotted name.
        max_sentences: Most sentences to use, from the beginning. A probe has rank · D numbers to fit: of a model as
            wide as 576, 300 sentences show nothing of the trees that 1,200 show.
        rank: Rows of B; no more than a site has dimensions are used.
        split: Shares of the sentences that are fitted to, that stop the fit, and that are scored.
        max_steps: Most gradient steps of a fit.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.SentenceProbe` but ``sentences``: ``tokenizer``,
            ``model``, ``pooling``, ``baseline`` …

    Raises:
        ValueError: If an argument is out of range, there are too few sentences for three parts, or as for
            ``SentenceProbe``.

    Cost: a forward pass over the sentences and, for each site, two fits, most of it; see ``benchmarks/probes.py``.

    Example:
        >>> probe = StructuralProbe("lm.layers.*", tokenizer="grammar", model="lm", baseline=False)
        >>> probe.logged_keys()
        ['uuas/<site>', 'dspr/<site>', 'uuas_above_chain/<site>']
        >>> [len(part) for part in probe.parts]
        [300, 75, 125]

    """

    units = "words"

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str],
        treebank: Treebank = "grammar",
        max_sentences: int = 500,
        rank: int = 64,
        split: Sequence[float] = (0.6, 0.15, 0.25),
        max_steps: int = 500,
        **kwargs: Unpack[SentenceArgs],
    ) -> None:
        for name, value, least in (
            ("max_sentences", max_sentences, 3),
            ("rank", rank, 1),
            ("max_steps", max_steps, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if len(split) != 3 or min(split) <= 0 or not math.isclose(sum(split), 1):
            raise ValueError(f"`split` must be three shares above 0 with sum 1, got {tuple(split)}.")
        read = partial(read_conllu, max_sentences=max_sentences)
        named = {"grammar": partial(grammar_treebank, max_sentences)}
        given = loaded("treebank", treebank, read, named, "a file that exists")
        self.treebank = all_of_kind("treebank", list(given)[:max_sentences], Sentence)
        self.rank = rank
        self.max_steps = max_steps
        super().__init__([list(one.words) for one in self.treebank], sites, **kwargs)
        self.parts = _parts(self.treebank, split, self.seed)
        """Places of the sentences that are fitted to, that stop the fit, and that are scored."""
        self._heads = [torch.tensor(one.heads) for one in self.treebank]
        self._keep = [torch.tensor(one.is_word) for one in self.treebank]
        self._distances = [tree_distances(one) for one in self._heads]
        self._depths = [tree_depths(one) for one in self._heads]
        test = self.parts[2]
        self.chain = chain_scores(_at(self._heads, test), _at(self._keep, test))
        """Scores of the linear chain on the test sentences."""
        # The picture is of a sentence that is neither trivial nor too long to see.
        self._shown = min(test, key=lambda one: abs(len(self.treebank[one]) - 12))

    def site_measures(self) -> list[Measure]:
        """The four scores, what of them is above the linear chain, and the losses of both probes."""
        scores = (UUAS, DSPR, ROOT_ACCURACY, NSPR)
        above = [ABOVE_CHAIN.of(one, SUMMARY if one is UUAS else FULL) for one in scores]
        return [*scores, *above, DISTANCE_LOSS, DEPTH_LOSS]

    def evaluate(self, site: str, data: ProbedSite, kept: Tensor | None) -> Probed:
        """Fit both probes and score them."""
        words = data.by_sentence()
        train, dev, test = self.parts

        def fitted(fit: Callable[..., StructuralProbeFit], gold: Sequence[Tensor]) -> StructuralProbeFit:
            parts = [_at(values, part) for part in (train, dev) for values in (words, gold)]
            return fit(*parts, rank=self.rank, max_steps=self.max_steps, seed=self.seed)

        distance = fitted(fit_distance_probe, self._distances)
        depth = fitted(fit_depth_probe, self._depths)
        scores = tree_scores(
            [probe_distances(distance.matrix, words[one]) for one in test],
            [probe_depths(depth.matrix, words[one]) for one in test],
            _at(self._heads, test),
            _at(self._keep, test),
        )
        values = scores._asdict()
        values |= {f"{name}_above_chain": values[name] - level for name, level in self.chain._asdict().items()}
        values |= {"distance_loss": distance.loss, "depth_loss": depth.loss}
        shown = minimum_spanning_tree(probe_distances(distance.matrix, words[self._shown]), self._keep[self._shown])
        return Probed(values, shown.float())

    # ------------------------------------------------- figures

    def figures(self) -> Mapping[str, Draw]:
        """Scores by site over time, and one sentence's trees."""
        labels = {
            "uuas": "share of edges found",
            "dspr": "Spearman correlation",
            "root_accuracy": "share of roots found",
        }
        drawings: dict[str, Draw] = {
            f"structural_probe/{name}": partial(self._heatmap, name, label)
            for name, label in labels.items()
            if self._grid(name)[0]
        }
        if any(len(one) for one in self.kept.values()):
            drawings["structural_probe/tree"] = self._tree
        return drawings

    def _heatmap(self, name: str, label: str) -> Figure:
        chain = getattr(self.chain, name)
        title = f"{measure_title(name)}; the linear chain has {chain:.2f}"
        return site_heatmap(*self._grid(name), title=title, label=label)

    def _grid(self, name: str) -> tuple[list[int], list[str], list[list[float]]]:
        return site_grid(self.history, {site: self.full_key(site_key(name, site)) for site in self.sentences.names})

    def _tree(self) -> Figure:
        reading, sentence = self.history.readings[-1], self.treebank[self._shown]
        scores = {site: reading.values.get(self.full_key(site_key("uuas", site)), math.nan) for site in self.kept}
        known = {site: score for site, score in scores.items() if len(self.kept[site]) and not math.isnan(score)}
        if not known:
            raise ValueError("no site has a tree at the last reading: none of them has a UUAS.")
        site = max(known, key=known.__getitem__)
        links = [int(link) for link in self.kept[site].tolist()]
        title = f"{site} at step {reading.step}: UUAS {known[site]:.2f} over test sentences"
        return dependency_tree(sentence.words, sentence.heads, links, title)


def _parts(treebank: Sequence[Sentence], split: Sequence[float], seed: int) -> tuple[list[int], list[int], list[int]]:
    """Places of the sentences of each part; sentences of the same words are in one part."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for place, one in enumerate(treebank):
        alike.setdefault(one.words, []).append(place)
    groups = list(alike.values())
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(operator.index(seed))).tolist()
    ends = [round(len(groups) * split[0]), round(len(groups) * (split[0] + split[1]))]
    cuts = [order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]]
    if not all(cuts):
        raise ValueError(
            f"`treebank` has {len(groups)} different sentences, too few for three parts of shares {tuple(split)}."
        )
    train, dev, test = (sorted(place for group in cut for place in groups[group]) for cut in cuts)
    return train, dev, test


def _at(values: Sequence[Tensor], places: Sequence[int]) -> list[Tensor]:
    return [values[place] for place in places]
