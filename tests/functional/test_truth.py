"""Truth probes on planted truth: analytic accuracy, no leak from the topic held out, the trap of negation, chance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from lightning_interp.functional import likelihood_rule, score_by_topic, unseen_topic_scores
from lightning_interp.functional.truth import L2, PROBES

everything = torch.ones(1, dtype=torch.bool)


def planted(
    signal: torch.Tensor, dim: int = 12, strength: float = 1.0, seed: int = 0, topic: float = 0.0, topics: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit noise around ± strength along one direction, and a shift of its own for each topic across it."""
    generator = torch.Generator().manual_seed(seed)
    topics_of = torch.arange(len(signal)) % topics
    x = torch.randn(len(signal), dim, generator=generator, dtype=torch.float64)
    x[:, 0] += strength * (signal.double() * 2 - 1)
    shift = topic * torch.randn(topics, dim, generator=generator, dtype=torch.float64)
    shift[:, 0] = 0
    return x + shift[topics_of], topics_of


def labels_of(number: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, generator=torch.Generator().manual_seed(seed + 99)) < 0.5


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_planted_truth_is_told_at_its_analytic_rate(probe: str, strength: float) -> None:
    labels = labels_of(4000)
    x, topics = planted(labels, strength=strength)
    train = everything.expand(4000)
    found = score_by_topic(unseen_topic_scores(x, labels, topics, train, probe), labels, topics, train)
    normal = torch.distributions.Normal(0.0, 1.0)
    assert found.accuracy == pytest.approx(float(normal.cdf(torch.tensor(strength))), abs=0.015)
    assert found.auroc == pytest.approx(float(normal.cdf(torch.tensor(strength * math.sqrt(2)))), abs=0.015)


@pytest.mark.parametrize("probe", PROBES)
def test_plausibility_that_passes_over_not_is_caught_by_negations(probe: str) -> None:
    labels, negated = labels_of(1200), labels_of(1200, 5)
    sounds_true, topics = planted(labels ^ negated, strength=1.5)
    is_true, _ = planted(labels, strength=1.5)
    rate = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(1.5)))
    for x, expected in ((sounds_true, 1 - rate), (is_true, rate)):
        scores = unseen_topic_scores(x, labels, topics, ~negated, probe)
        assert score_by_topic(scores, labels, topics, ~negated).accuracy == pytest.approx(rate, abs=0.03)
        assert score_by_topic(scores, labels, topics, negated).accuracy == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("probe", PROBES)
def test_noise_is_at_chance(probe: str) -> None:
    labels = labels_of(2000)
    x, topics = planted(labels, strength=0.0, topic=2.0)
    train = everything.expand(2000)
    found = score_by_topic(unseen_topic_scores(x, labels, topics, train, probe), labels, topics, train)
    # Four standard errors of a share of 2000.
    assert found.accuracy == pytest.approx(0.5, abs=0.045)
    assert found.auroc == pytest.approx(0.5, abs=0.055)


@given(seed=st.integers(0, 10**6), topic=st.integers(0, 2), probe=st.sampled_from(PROBES))
def test_scores_of_a_topic_do_not_depend_on_its_labels(seed: int, topic: int, probe: str) -> None:
    labels = labels_of(60, seed)
    x, topics = planted(labels, dim=4, seed=seed, topics=3)
    train = everything.expand(60)
    before = unseen_topic_scores(x, labels, topics, train, probe)
    changed = torch.where(topics == topic, ~labels, labels)
    after = unseen_topic_scores(x, changed, topics, train, probe)
    torch.testing.assert_close(before[topics == topic], after[topics == topic], atol=0, rtol=0)
    assert not torch.equal(before[topics != topic], after[topics != topic])


def test_logistic_scores_equal_scikit_learns_with_the_penalty_chosen_on_the_other_topics() -> None:
    labels = labels_of(120)
    x, topics = planted(labels, dim=6, topic=1.0)
    train = torch.rand(120, generator=torch.Generator().manual_seed(1)) < 0.8
    found = unseen_topic_scores(x, labels, topics, train, "logistic")
    for topic in range(4):
        seen = train & (topics != topic)

        def regression(l2: float, rows: torch.Tensor) -> LogisticRegression:
            scale = float((x[rows] - x[rows].mean(0)).square().sum() / int(rows.sum()))
            model = LogisticRegression(C=1 / (l2 * scale), tol=1e-10, max_iter=20_000)
            return model.fit(x[rows].numpy(), labels[rows].numpy())

        def likelihood(l2: float, topic: int = topic, seen: torch.Tensor = seen) -> float:
            total = 0.0
            for other in {0, 1, 2, 3} - {topic}:
                there = seen & (topics == other)
                odds = torch.from_numpy(regression(l2, seen & ~there).decision_function(x[there].numpy()))
                total += float(torch.nn.functional.logsigmoid(torch.where(labels[there], odds, -odds)).sum())
            return total

        best = max(L2, key=likelihood)
        expected = regression(best, seen).decision_function(x[topics == topic].numpy())
        torch.testing.assert_close(found[topics == topic], torch.from_numpy(expected), atol=1e-3, rtol=1e-3)


def test_the_threshold_of_the_likelihood_comes_from_other_topics() -> None:
    labels, topics = torch.tensor([True, False] * 6), torch.arange(12) // 4
    log_probs = torch.tensor([-1.0, -3.0] * 6) - torch.tensor([0.0, 0.0, 4.0])[topics]
    train = everything.expand(12)
    scores = likelihood_rule(log_probs, labels, topics, train)
    found = score_by_topic(scores, labels, topics, train)
    assert found.auroc == 1.0
    # The third topic's statements are all less probable than the threshold of the other two.
    assert bool((scores[topics == 2] < 0).all())


@given(seed=st.integers(0, 10**6), topic=st.integers(0, 2))
def test_thresholds_of_the_likelihood_do_not_depend_on_the_labels_of_the_topic(seed: int, topic: int) -> None:
    labels, topics = labels_of(60, seed), torch.arange(60) % 3
    log_probs = torch.randn(60, generator=torch.Generator().manual_seed(seed)) + labels - 3.0 * (topics == topic)
    train = everything.expand(60)
    before = likelihood_rule(log_probs, labels, topics, train)
    after = likelihood_rule(log_probs, torch.where(topics == topic, ~labels, labels), topics, train)
    assert torch.equal(before[topics == topic], after[topics == topic])


def test_scores_of_nothing_are_undefined_and_ties_count_half() -> None:
    labels, topics = torch.tensor([True, False] * 3), torch.arange(6) // 2
    none = torch.zeros(6, dtype=torch.bool)
    assert all(map(math.isnan, score_by_topic(torch.zeros(6), labels, topics, none)))
    assert score_by_topic(torch.zeros(6), labels, topics, ~none) == (0.5, 0.5)


def test_refusals() -> None:
    labels, topics = torch.tensor([True, False] * 3), torch.arange(6) // 2
    train = everything.expand(6)
    with pytest.raises(ValueError, match="`probe` must be one of 'mass_mean'"):
        unseen_topic_scores(torch.ones(6, 1), labels, topics, train, "svm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 3, to fit, choose and test on; got 2"):
        unseen_topic_scores(torch.ones(4, 1), labels[:4], topics[:4], train[:4], "mass_mean")
    with pytest.raises(ValueError, match="topic 1 has 0 true statements"):
        unseen_topic_scores(torch.ones(6, 1), labels & (topics != 1), topics, train, "mass_mean")
