"""Class separation of a stream: planted classes, chance, batches and ranks, devices."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from reference.readings import random_reading, random_split
from sklearn.metrics import silhouette_score

from lightning_interp.metrics import ClassSeparation

LABELS = ("token", "tag", "language")


def values(metric: ClassSeparation) -> dict[str, float]:
    return {key: float(value) for key, value in metric.compute().items()}


def test_values_are_those_of_the_whole_cloud() -> None:
    reading = random_reading(0, sequences=20, effect=2.0, padding=True)
    metric = reading.feed(ClassSeparation(LABELS, neighbors=3))
    found = values(metric)
    labels = torch.tensor([word for words in reading.words for word in words if word is not None])
    assert found["silhouette/token"] == pytest.approx(silhouette_score(reading.rows(), labels), abs=1e-6)
    assert found["silhouette/token"] > found["silhouette_chance/token"] + 0.1
    assert found["knn_purity/token"] > found["knn_purity_chance/token"] + 0.3
    assert found["rows"] == found["sampled_rows"] == len(labels)
    assert set(found) == set(metric.measures)


def test_labels_at_random_are_at_chance() -> None:
    reading = random_reading(1, sequences=200, effect=0.0)
    found = values(reading.feed(ClassSeparation(["tag"], shuffles=5)))
    assert abs(found["silhouette/tag"] - found["silhouette_chance/tag"]) < 0.01
    assert abs(found["knn_purity/tag"] - found["knn_purity_chance/tag"]) < 0.03


@given(st.integers(0, 200), st.integers(0, 200), st.integers(4, 90))
def test_batches_mean_nothing(seed: int, split: int, max_rows: int) -> None:
    reading = random_reading(seed, sequences=14, effect=1.0, holes=True)
    options: dict[str, Any] = {"labels": LABELS, "max_rows": max_rows, "neighbors": 2}
    whole = values(reading.feed(ClassSeparation(**options)))
    parts = values(reading.feed(ClassSeparation(**options), random_split(split, 14, 5)))
    for key, value in whole.items():
        assert parts[key] == pytest.approx(value, abs=1e-9, nan_ok=True), key
    assert whole["sampled_rows"] == min(max_rows, len(reading.rows()))


def test_vectors_that_are_not_finite_leave_the_others_in_their_places() -> None:
    reading = random_reading(3, sequences=40)
    whole = reading.feed(ClassSeparation(max_rows=50))
    whole.compute()
    chosen = whole.sample.key[:10]
    broken = random_reading(3, sequences=40)
    broken.z[chosen >> 20, chosen & ((1 << 20) - 1)] = float("nan")
    metric = broken.feed(ClassSeparation(max_rows=50))
    found = values(metric)
    assert found["nonfinite"] == 10
    assert torch.equal(metric.sample.key, whole.sample.key[10:])
    assert torch.equal(metric.sample.z, whole.sample.z[10:])


def test_classes_that_are_too_small_are_left_out() -> None:
    z = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 14 + [1] * 14 + [2, 3])
    kept = ClassSeparation(["class"], neighbors=2, min_count=5)
    kept.update(z, labels=labels)
    without = ClassSeparation(["class"], neighbors=2)
    without.update(z[:28], labels=labels[:28])
    for key, value in values(without).items():
        if "rows" not in key:
            assert values(kept)[key] == pytest.approx(value, abs=1e-9), key


def test_what_is_undefined_is_nan() -> None:
    metric = ClassSeparation(["class"], neighbors=5)
    metric.update(torch.randn(5, 2), labels=torch.zeros(5, dtype=torch.long))
    found = values(metric)
    assert math.isnan(found["silhouette/class"])
    assert math.isnan(found["knn_purity/class"])
    assert found["rows"] == 5
    assert all(math.isnan(value) for key, value in values(ClassSeparation(["class"])).items() if "class" in key)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="`max_rows` must be at least 4, got 3"):
        ClassSeparation(max_rows=3)
    with pytest.raises(ValueError, match=r"needs `labels\['tag'\]`, got no labels"):
        ClassSeparation(["tag"]).update(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="2 classes a position; expected one"):
        ClassSeparation(["tag"]).update(torch.zeros(3, 4, 2), labels=torch.zeros(3, 4, 2, dtype=torch.long))


def share(shares: list[list[list[int]] | None]) -> dict[str, float]:
    reading = random_reading(5, sequences=20, effect=1.0, holes=True)
    reading.z[4, 0] = float("inf")
    mine = shares[dist.get_rank()]
    metric = ClassSeparation(LABELS, max_rows=60, neighbors=4)
    return values(metric if mine is None else reading.feed(metric, mine))


def test_ranks_give_what_one_process_gives(two_ranks: object, three_ranks: object) -> None:
    reading = random_reading(5, sequences=20, effect=1.0, holes=True)
    reading.z[4, 0] = float("inf")
    expected = values(reading.feed(ClassSeparation(LABELS, max_rows=60, neighbors=4)))
    everything = list(range(20))
    for group, shares in (
        (two_ranks, [[everything[::2]], [everything[1:8:2], everything[9::2]]]),
        (two_ranks, [None, [everything]]),
        (three_ranks, [[[0]], [everything[1:7]], [[], everything[7:]]]),
    ):
        for found in group.run(share, shares):
            assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_update_reads_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_interp.functional.separation.full_precision", lambda _: contextlib.nullcontext())
    reading = random_reading(0, sequences=6, length=4)
    metric = ClassSeparation(LABELS, max_rows=10)
    labels = {name: value.to("meta") for name, value in reading.labels.items()}
    for _ in range(3):
        metric.update(reading.z.to("meta"), reading.mask.to("meta"), labels, torch.arange(6))
    assert metric.seen.device.type == "meta"
