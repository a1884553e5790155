"""Telling true statements from false ones on topics that the probe has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_interp.functional.auroc import auroc, best_threshold
from lightning_interp.functional.logistic import logistic
from lightning_interp.functional.mass_mean import mass_mean

__all__ = ["L2", "PROBES", "Probe", "TopicScores", "likelihood_rule", "score_by_topic", "unseen_topic_scores"]

Probe = Literal["mass_mean", "mass_mean_whitened", "logistic"]
PROBES: tuple[Probe, ...] = ("mass_mean", "mass_mean_whitened", "logistic")
L2 = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalties to choose from, as multiples of the mean squared length of the centred vectors."""


class TopicScores(NamedTuple):
    """Means over topics."""

    accuracy: float
    """Share of statements on the right side of 0; a score of 0 counts half."""
    auroc: float
    """Share of pairs of a true and a false statement of one topic that are in the right order."""


def unseen_topic_scores(x: Tensor, labels: Tensor, topics: Tensor, train: Tensor, probe: Probe) -> Tensor:
    """Score of every statement by a probe that was fitted to the other topics: above 0 for true.

    Azaria and Mitchell 2023 hold out topics in this way. The logistic probe's penalty is the one with the highest
    likelihood of the other topics, each by a fit without it.

    Args:
        x: A vector each statement, (N, D).
        labels: Whether it is true, bool (N,).
        topics: Its topic, 0 to at least 2, (N,).
        train: Whether probes may be fitted to it where its topic is not the one held out, bool (N,): affirmative
            statements, for the transfer to negated ones. Every topic needs true and false ones among them.
        probe: ``"mass_mean"``, ``"mass_mean_whitened"`` or ``"logistic"``.

    Returns:
        float64 (N,), on the CPU.

    Raises:
        ValueError: If shapes do not fit, there are fewer than three topics, or a topic lacks true or false statements
            among those to fit to.

    Example:
        >>> labels, topics = torch.tensor([True, False] * 3), torch.arange(6) // 2
        >>> x = torch.where(labels, 1.0, -1.0)[:, None]
        >>> unseen_topic_scores(x, labels, topics, torch.ones(6, dtype=torch.bool), "mass_mean")
        tensor([ 2., -2.,  2., -2.,  2., -2.], dtype=torch.float64)

    """
    if probe not in PROBES:
        raise ValueError(f"`probe` must be one of {', '.join(map(repr, PROBES))}; got {probe!r}.")
    number = _check_topics(labels, topics, train)
    scores = torch.empty(len(x), dtype=torch.float64)
    penalties = _penalties(x, labels, topics, train, number) if probe == "logistic" else []
    for topic in range(number):
        held_out = topics == topic
        seen = train & ~held_out
        if probe == "logistic":
            rule = logistic(x[seen], labels[seen], penalties[topic] * _scale(x[seen]))
        else:
            rule = mass_mean(x[seen], labels[seen], whiten=probe == "mass_mean_whitened")
        scores[held_out] = rule.score(x[held_out])
    return scores


def likelihood_rule(log_probs: Tensor, labels: Tensor, topics: Tensor, train: Tensor) -> Tensor:
    """The baseline that knows no representation: a statement is true where it is probable enough.

    Args:
        log_probs: Log-probability of each statement, (N,).
        labels: Whether it is true, bool (N,).
        topics: Its topic, 0 to at least 2, (N,).
        train: Whether it may have a part in the threshold of other topics, bool (N,).

    Returns:
        Log-probability less the threshold that tells most statements of the other topics apart, float64 (N,).

    Raises:
        ValueError: As :func:`unseen_topic_scores`.

    Example:
        >>> labels, topics = torch.tensor([True, False] * 3), torch.arange(6) // 2
        >>> likelihood_rule(torch.tensor([-1.0, -3.0] * 3), labels, topics, torch.ones(6, dtype=torch.bool))
        tensor([ 1., -1.,  1., -1.,  1., -1.], dtype=torch.float64)

    """
    number = _check_topics(labels, topics, train)
    scores = log_probs.detach().cpu().double().clone()
    for topic in range(number):
        seen = train & (topics != topic)
        scores[topics == topic] -= best_threshold(log_probs[seen], labels[seen])
    return scores


def score_by_topic(scores: Tensor, labels: Tensor, topics: Tensor, of: Tensor) -> TopicScores:
    """Accuracy and AUROC of scores, each as the mean over topics.

    The AUROC compares statements of one topic only: scores of different topics are those of different probes.

    Args:
        scores: (N,), above 0 for true.
        labels: Whether a statement is true, bool (N,).
        topics: Its topic, (N,).
        of: The statements to score, bool (N,).

    Returns:
        :class:`TopicScores`; NaN where no statement is scored, the AUROC where no topic has both kinds.

    Example:
        >>> labels, topics = torch.tensor([True, False] * 2), torch.arange(4) // 2
        >>> score_by_topic(torch.tensor([1.0, -1.0, -2.0, -3.0]), labels, topics, torch.ones(4, dtype=torch.bool))
        TopicScores(accuracy=0.75, auroc=1.0)

    """
    accuracies, areas = [], []
    for topic in torch.unique(topics[of]):
        chosen = of & (topics == topic)
        right = torch.where(labels[chosen], scores[chosen], -scores[chosen])
        accuracies.append(float((right > 0).double().mean() + (right == 0).double().mean() / 2))
        if 0 < int(labels[chosen].sum()) < int(chosen.sum()):
            areas.append(auroc(scores[chosen], labels[chosen]))
    return TopicScores(_mean(accuracies), _mean(areas))


def _penalties(x: Tensor, labels: Tensor, topics: Tensor, train: Tensor, number: int) -> list[float]:
    """The penalty without each topic, as a multiple of the scale of the vectors."""
    likelihoods = torch.zeros(number, len(L2), dtype=torch.float64)
    for first, second in combinations(range(number), 2):
        # One fit without two topics tells something of each to the other.
        rest = train & (topics != first) & (topics != second)
        scale = _scale(x[rest])
        for place, l2 in enumerate(L2):
            rule = logistic(x[rest], labels[rest], l2 * scale)
            for topic, other in ((first, second), (second, first)):
                there = train & (topics == other)
                scores = rule.score(x[there])
                likelihoods[topic, place] += logsigmoid(torch.where(labels[there], scores, -scores)).sum()
    return [L2[place] for place in likelihoods.argmax(1).tolist()]


def _scale(x: Tensor) -> float:
    """Mean squared length of the centred vectors."""
    return float((x - x.mean(0)).double().square().sum() / len(x)) or 1.0


def _check_topics(labels: Tensor, topics: Tensor, train: Tensor) -> int:
    number = int(topics.max()) + 1 if len(topics) else 0
    if number < 3:
        raise ValueError(f"`topics` must be at least 3, to fit, choose and test on; got {number}.")
    for topic in range(number):
        of_it = labels[train & (topics == topic)]
        if not 0 < int(of_it.sum()) < len(of_it):
            raise ValueError(
                f"topic {topic} has {int(of_it.sum())} true statements to fit to and {len(of_it) - int(of_it.sum())} "
                "false ones; both are needed."
            )
    return number


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
