"""The chance level: what labels that carry nothing show, and what labels that carry something show beyond it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from reference.readings import random_reading

from lightning_interp.metrics import BinnedStructure, SoftStructure
from lightning_interp.metrics._plan import make_plan

SHUFFLES = 12
DRAWS = 30
CONDITIONAL = ("variation", "regularity", "disentanglement")
# Vocabulary and rows such that a label has five to eight rows.
CASES: dict[str, tuple[list[str], dict[str, int], Any]] = {
    "token": (["token"], {"sequences": 50, "length": 6, "vocabulary": 50}, None),
    "bigram": (["bigram"], {"sequences": 60, "length": 6, "vocabulary": 7}, None),
    "trigram": (["trigram"], {"sequences": 60, "length": 7, "vocabulary": 4}, None),
    "flat": (["flat_bigram", "next_token"], {"sequences": 60, "length": 6, "vocabulary": 7}, None),
    "plane": ([], {"sequences": 30, "length": 6, "vocabulary": 25}, ("token", "next_token")),
}


def z_scores(
    kind: Any, names: list[str], shape: dict[str, int], plane: Any, average: str, effect_of_token: float
) -> dict[str, list[float]]:
    """(value − chance)/sd of every measure over independent readings whose vectors do not depend on the labels."""
    small = {"bins": 5} if kind is BinnedStructure else {"num_points": 20}
    found: dict[str, list[float]] = {}
    for draw in range(DRAWS):
        reading = random_reading(1000 + draw, dim=3, padding=False, **shape)
        if effect_of_token:
            # The token matters: a nested set must look beyond it.
            shift = torch.randn(100, 3, generator=torch.Generator().manual_seed(draw)) * effect_of_token
            reading.z = reading.z + shift[reading.tokens]
        metric = kind(names, shuffles=SHUFFLES, average=average, information_plane=plane, seed=draw, **small)
        values = {
            key.removeprefix(metric.prefix): float(value) for key, value in reading.feed(metric).compute().items()
        }
        if plane:
            keys = [("complexity", ""), ("expressivity", "")]
        else:
            keys = [(measure, f"/{name}") for name in names for measure in CONDITIONAL]
        for measure, suffix in keys:
            above, sd = values[f"{measure}_above_chance{suffix}"], values[f"{measure}_chance{suffix}/sd"]
            assert above == pytest.approx(values[measure + suffix] - values[f"{measure}_chance{suffix}"], abs=1e-12)
            found.setdefault(measure + suffix, []).append(above / sd)
    return found


@pytest.mark.parametrize(
    ("case", "kind", "average"),
    [
        *((case, SoftStructure, "frequency") for case in CASES),
        ("token", SoftStructure, "plain"),
        ("bigram", SoftStructure, "plain"),
        ("bigram", BinnedStructure, "frequency"),
        ("plane", BinnedStructure, "frequency"),
    ],
)
def test_labels_that_carry_nothing_are_at_chance(case, kind, average):
    names, shape, plane = CASES[case]
    nested = case in ("bigram", "trigram")
    # The sd is that of the difference, but for being estimated from `SHUFFLES` levels.
    unbiased = math.sqrt(2 / (SHUFFLES - 1)) * math.gamma(SHUFFLES / 2) / math.gamma((SHUFFLES - 1) / 2)
    expected = unbiased * math.sqrt((SHUFFLES - 1) / (SHUFFLES - 3))
    for key, scores in z_scores(kind, names, shape, plane, average, 1.0 if nested else 0.0).items():
        assert abs(np.mean(scores)) < 4 * expected / math.sqrt(DRAWS), f"{key}: {np.mean(scores)}"
        assert 0.6 * expected < np.std(scores, ddof=1) < 1.6 * expected, f"{key}: {np.std(scores)}"


def test_the_raw_values_of_labels_that_carry_nothing_look_structured():
    """The reason for the chance level: regularity and disentanglement far from 0 at five rows a label."""
    reading = random_reading(0, dim=3, padding=False, sequences=50, length=6, vocabulary=50)
    values = reading.feed(BinnedStructure(["token"], shuffles=10)).compute()
    assert values["binned_regularity/token"] > 0.2
    assert values["binned_disentanglement/token"] > 0.1
    assert abs(values["binned_regularity_above_chance/token"]) < 0.03
    assert abs(values["binned_disentanglement_above_chance/token"]) < 0.03


@pytest.mark.parametrize("kind", [SoftStructure, BinnedStructure])
@pytest.mark.parametrize("average", ["frequency", "plain"])
def test_a_planted_effect_is_above_chance(kind, average):
    reading = random_reading(1, dim=4, padding=False, sequences=150, length=8, vocabulary=4, effect=1.5)
    names = ["token", "bigram", "flat_bigram"]
    metric = kind(names, shuffles=10, average=average, information_plane=("flat_bigram", "token"))
    values = {key.removeprefix(kind.prefix): float(value) for key, value in reading.feed(metric).compute().items()}
    keys = [(measure, f"/{name}") for name in names for measure in CONDITIONAL] + [
        ("complexity", ""),
        ("expressivity", ""),
    ]
    for measure, suffix in keys:
        score = values[f"{measure}_above_chance{suffix}"] / values[f"{measure}_chance{suffix}/sd"]
        assert score < -20 if measure == "variation" else score > 20, measure + suffix
    ratio = values["expressivity_above_chance"] / values["complexity_above_chance"]
    assert values["optimality_above_chance"] == pytest.approx(ratio, abs=1e-9)
    assert values["optimality"] == pytest.approx(values["expressivity"] / values["complexity"], abs=1e-9)
    assert 0 < values["optimality"] < 1


def test_nested_chance_is_within_the_parent():
    """A strong token effect: labels shuffled everywhere would make every bigram look regular."""
    reading = random_reading(2, dim=4, padding=False, sequences=80, length=6, vocabulary=6)
    reading.z = reading.z * 0.2 + torch.randn(6, 4, generator=torch.Generator().manual_seed(0))[reading.tokens]
    values = reading.feed(SoftStructure(["bigram"], shuffles=20)).compute()
    for measure in CONDITIONAL:
        assert abs(values[f"{measure}_above_chance/bigram"]) < 4 * values[f"{measure}_chance/bigram/sd"]
    assert abs(values["variation_above_chance/bigram"]) < 0.02


def test_chance_and_its_spread_are_those_of_the_shuffles():
    reading = random_reading(3, sequences=40, length=5)
    options = {"labels": ["token", "bigram"], "jackknife": 0}
    one = reading.feed(SoftStructure(shuffles=1, **options)).compute()
    assert math.isnan(one["variation_chance/token/sd"])
    three = reading.feed(SoftStructure(shuffles=3, **options)).compute()
    other = reading.feed(SoftStructure(shuffles=3, seed=5, **options)).compute()
    assert three["regularity_chance/token"] != one["regularity_chance/token"]
    assert three["regularity_chance/token/sd"] > 0
    none = reading.feed(SoftStructure(shuffles=0, **options)).compute()
    assert not [key for key in none if "chance" in key]
    for key, value in none.items():
        assert value.item() == pytest.approx(three[key].item(), abs=1e-12, nan_ok=True)
    assert other["regularity_chance/token"] != three["regularity_chance/token"]


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_a_shuffle_exchanges_rows_of_the_pool_and_nothing_else(nested):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 9, (400, 2), generator=generator)
    parents = torch.randint(-1, 4, (400,), generator=generator) if nested else None
    plan = make_plan(labels, parents, min_count=80 if not nested else 18)
    assert 0 < plan.pool.sum() < 400
    seen = []
    for seed in range(3):
        ids = plan.shuffled(seed)
        seen.append(ids.tolist())
        assert torch.equal(ids[~plan.pool], plan.ids[~plan.pool])
        groups = plan.groups.tolist() if nested else [0] * 400
        before, after = (
            Counter((group, *row) for group, row in zip(groups, x.tolist(), strict=True)) for x in (plan.ids, ids)
        )
        assert before == after, "within a parent the same rows of labels"
        assert (ids != plan.ids).any(1).double().mean() > 0.3
    assert seen[0] != seen[1] != seen[2]
    assert plan.shuffled(0).tolist() == seen[0]
    # Every row of the pool is as likely to come from any other of its group.
    landed = torch.zeros(400)
    marked = int(plan.pool.nonzero()[0])
    target = plan.ids[marked]
    for seed in range(300):
        landed += (plan.shuffled(seed) == target).all(1)
    same = plan.pool & (plan.groups == plan.groups[marked]) if nested else plan.pool
    assert landed[~same].sum() == (plan.ids[~same] == target).all(1).sum() * 300 if nested else True
    rate = landed[same] / 300
    expected = (plan.ids[same] == target).all(1).double().mean().item()
    assert rate.mean().item() == pytest.approx(expected)
    assert rate.std().item() < 3 * math.sqrt(expected * (1 - expected) / 300)
