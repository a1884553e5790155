"""Whether a model's representations tell true statements from false ones, on topics the probe has not seen."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.callbacks.representation_metrics import site_key
from lightning_interp.callbacks.sentence_probe import Probed, ProbedSite, SentenceArgs, SentenceProbe
from lightning_interp.figures import site_heatmap
from lightning_interp.functional.truth import (
    PROBES,
    Probe,
    likelihood_rule,
    score_by_topic,
    unseen_topic_scores,
)
from lightning_interp.language.likelihood import sentence_log_probs
from lightning_interp.metrics.derived import CONTROL
from lightning_interp.metrics.measure import FULL, SUMMARY, Measure
from lightning_interp.metrics.measures.probes import (
    TRUTH_ACCURACY,
    TRUTH_AUROC,
    TRUTH_LIKELIHOOD,
    TRUTH_NEGATED,
    TRUTH_NEGATED_AUROC,
    TRUTH_OVERALL,
)
from lightning_interp.probing.statements import Statement, read_statements
from lightning_interp.reading.analysis import Draw
from lightning_interp.reading.grids import site_grid
from lightning_interp.reporting.titles import measure_title
from lightning_interp.tasks.loading import loaded

__all__ = ["TruthProbe"]


class TruthProbe(SentenceProbe):
    r"""Reads how well linear probes tell true from false statements of a topic that they were not fitted to.

    Azaria and Mitchell 2023 (arXiv 2304.13734) read the representation of a statement's last token and leave one topic
    out; Marks and Tegmark 2023 (arXiv 2310.06824) take the difference of the class means for a direction. Probes are
    fitted to affirmative statements of the other topics, and tried on affirmative and on negated ones of the topic left
    out. The second is the honest test: a representation that says how plausible the words are together, and passes over
    "not", has an accuracy below one half there. A number is a mean over topics.

    ========================================  =======  ===============================================================
    key                                       level    what it is
    ========================================  =======  ===============================================================
    ``truth_accuracy/<site>/<probe>``         summary  affirmative statements told rightly
    ``truth_negated/<site>/<probe>``          full     negated statements told rightly; where there are any
    ``truth_overall/<site>/<probe>``          summary  mean of the two; at chance, .5, without a sense of "not"
    ``truth_auroc/<site>/<probe>``            full     order of true and false affirmative statements, .5 at chance
    ``truth_negated_auroc/<site>/<probe>``    full     … of negated ones: 0 where "not" is passed over throughout
    ``truth_accuracy_control/<site>/<probe>`` full     accuracy for labels dealt to other statements of the topic
    ``…_baseline/<site>/<probe>``             full     the same with random weights; not of the control
    ``…_above_baseline/<site>/<probe>``                what training adds, at the measure's own level
    ``truth_likelihood/accuracy``             summary  no probe: statements are true above a log-probability, the
                                                       threshold being that of the other topics
    ``truth_likelihood/negated``              full     … of negated ones, with the threshold of affirmative ones
    ``truth_likelihood/overall``              summary  mean of the two
    ``truth_likelihood/auroc``                full     order of affirmative statements by log-probability
    ``truth_likelihood/negated_auroc``        full     … of negated ones
    ``nonfinite/<site>/statements``           full     statements whose representation is not finite
    ========================================  =======  ===============================================================

    Of several probes the summary has the first.

    Args:
        statements: The statements, of at least three topics, each with true and false affirmative ones; the path of a
            table (:func:`~lightning_interp.probing.read_statements`); or a function that returns them, or its dotted
            name.
        sites: Where to read.
        probes: Of ``"mass_mean"``, ``"mass_mean_whitened"`` and ``"logistic"``.
        likelihood: Whether the log-probability of statements is read as well. It takes a causal language model, whose
            output has logits; a statement whose words are probable is not for that reason true.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.SentenceProbe` but ``sentences``: ``tokenizer``,
            ``model``, ``pooling``, ``baseline`` …

    Raises:
        ValueError: If an argument is out of range, topics or kinds of statements are missing, or as for
            ``SentenceProbe``.
        TypeError: At the first reading, if the model's output has no logits and ``likelihood`` is true.

    Cost: a forward pass over the statements and, for each site, a mean for each topic and for ``"logistic"`` about
        5 · topics · (topics + 1) fits; see ``benchmarks/probes.py``.

    Example:
        >>> from lightning_interp.probing import fact_statements, planted_facts
        >>> probe = TruthProbe(fact_statements(planted_facts()), "lm.layers.*", baseline=False)
        >>> probe.logged_keys()[:3]
        ['truth_accuracy/<site>/mass_mean', 'truth_overall/<site>/mass_mean', 'truth_likelihood/accuracy']

    """

    units = "statements"
    _outward = (*SentenceProbe._outward, "statements")

    def __init__(
        self,
        statements: Sequence[Statement] | str | Path | Callable[[], Sequence[Statement]],
        sites: str | Sequence[str] | Mapping[str, str],
        probes: Sequence[Probe] = ("mass_mean", "logistic"),
        likelihood: bool = True,
        **kwargs: Unpack[SentenceArgs],
    ) -> None:
        given = loaded("statements", statements, read_statements, path="the path of a table that exists")
        unknown = [probe for probe in probes if probe not in PROBES]
        if isinstance(probes, str) or not probes or unknown:
            raise ValueError(f"`probes` must be some of {', '.join(map(repr, PROBES))}; got {probes!r}.")
        self.statements = [Statement(*one) for one in given]
        _check_statements(self.statements)
        self.probes = tuple(dict.fromkeys(probes))
        self.likelihood = likelihood
        self.extra_width = int(likelihood)
        super().__init__([one.text for one in self.statements], sites, **kwargs)
        self._labels = torch.tensor([one.label for one in self.statements])
        names = list(dict.fromkeys(one.topic for one in self.statements))
        self._topics = torch.tensor([names.index(one.topic) for one in self.statements])
        self._negated = torch.tensor([one.negated for one in self.statements])
        self._control = _dealt_anew(self._labels, self._topics, self._negated, self.seed)

    # ------------------------------------------------- keys

    def site_measures(self) -> list[Measure]:
        """How well each probe tells what is true, of affirmative and of negated statements."""
        found = [TRUTH_ACCURACY]
        if any(one.negated for one in self.statements):
            found += [TRUTH_NEGATED, TRUTH_OVERALL, TRUTH_NEGATED_AUROC]
        found += [TRUTH_AUROC, CONTROL.of(TRUTH_ACCURACY)]
        # The first probe is the one to watch.
        return [each for one in found for each in (one, one.at("site", "other probe", level=FULL))]

    def declares(self) -> list[Measure]:
        """Those of the sites, and what the probability of a statement tells."""
        return [*super().declares(), *self._likelihood_measures()]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, the probe to watch and the others."""
        return {**super().axes(model), "probe": self.probes[:1], "other probe": self.probes[1:]}

    def _likelihood_measures(self) -> list[Measure]:
        if not self.likelihood:
            return []
        levels = {"accuracy": SUMMARY, "auroc": FULL}
        if any(one.negated for one in self.statements):
            levels |= {"negated": FULL, "overall": SUMMARY, "negated_auroc": FULL}
        return [TRUTH_LIKELIHOOD.at(end=name, level=level) for name, level in levels.items()]

    # ------------------------------------------------- reading

    def extra(self, output: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Log-probability of each statement, from the logits of the same forward pass."""
        if not self.likelihood:
            return super().extra(output, input_ids, attention_mask)
        return sentence_log_probs(nn.Identity(), input_ids, attention_mask, lambda *_: output)[:, None]

    def evaluate(self, site: str, data: ProbedSite, kept: Tensor | None) -> Probed:
        """Fit without each topic, and see what is said of it."""
        values: dict[str, float] = {}
        train = ~self._negated
        for probe in self.probes:
            scores = unseen_topic_scores(data.vectors, self._labels, self._topics, train, probe)
            found = self._scored(scores)
            for name, measure in _MEASURES.items():
                if name in found:
                    values[f"{measure}/{probe}"] = found[name]
            chance = unseen_topic_scores(data.vectors, self._control, self._topics, train, probe)
            values[f"truth_accuracy_control/{probe}"] = score_by_topic(
                chance, self._control, self._topics, train
            ).accuracy
        return Probed(values, torch.zeros(0))

    def _scored(self, scores: Tensor) -> dict[str, float]:
        """What scores above 0 for true amount to."""
        found: dict[str, float] = {}
        for name, of in (("", ~self._negated), ("negated", self._negated)):
            if bool(of.any()):
                accuracy, auroc = score_by_topic(scores, self._labels, self._topics, of)
                found |= {name or "accuracy": accuracy, f"{name}_auroc" if name else "auroc": auroc}
        if "negated" in found:
            found["overall"] = (found["accuracy"] + found["negated"]) / 2
        return found

    def from_extra(self, extra: Tensor) -> Mapping[str, float]:
        """The measures of the likelihood, which belong to no site."""
        if not self.likelihood or not bool(extra.isfinite().all()):
            return {one.key(): math.nan for one in self._likelihood_measures()}
        found = self._scored(likelihood_rule(extra[:, 0], self._labels, self._topics, ~self._negated))
        return {one.key(): found[one.end] for one in self._likelihood_measures()}

    # ------------------------------------------------- figures

    def figures(self) -> Mapping[str, Draw]:
        """Accuracy by site and over time, on affirmative and on negated statements."""
        if not len(self.history):
            return {}
        names = {one.name for one in self.site_measures()}
        wanted = [f"{one}/{probe}" for one in _DRAWN if one in names for probe in self.probes]
        return {f"truth/{measure}": partial(self._heatmap, measure) for measure in wanted}

    def _heatmap(self, measure: str) -> Figure:
        grid = site_grid(self.history, {site: self.full_key(site_key(measure, site)) for site in self.sentences.names})
        return site_heatmap(*grid, title=measure_title(measure), label="accuracy, topic held out")


_DRAWN = ("truth_accuracy", "truth_negated", "truth_overall")
_MEASURES = {
    "accuracy": "truth_accuracy",
    "negated": "truth_negated",
    "overall": "truth_overall",
    "auroc": "truth_auroc",
    "negated_auroc": "truth_negated_auroc",
}


def _check_statements(statements: Sequence[Statement]) -> None:
    topics = dict.fromkeys(one.topic for one in statements)
    if len(topics) < 3:
        raise ValueError(f"`statements` must be of at least 3 topics, to fit, choose and test on; got {list(topics)}.")
    there = {(one.topic, bool(one.negated), bool(one.label)) for one in statements}
    for topic in topics:
        for label in (True, False):
            if (topic, False, label) not in there:
                raise ValueError(
                    f"`statements` has no affirmative {'true' if label else 'false'} statement of topic {topic!r}."
                )


def _dealt_anew(labels: Tensor, topics: Tensor, negated: Tensor, seed: int) -> Tensor:
    """The labels of each topic's affirmative statements in another order, and those of negated ones likewise."""
    generator = torch.Generator().manual_seed(operator.index(seed))
    found = labels.clone()
    for topic in range(int(topics.max()) + 1):
        for kind in (False, True):
            rows = ((topics == topic) & (negated == kind)).nonzero().squeeze(1)
            found[rows] = labels[rows[torch.randperm(len(rows), generator=generator)]]
    return found
