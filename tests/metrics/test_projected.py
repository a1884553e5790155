"""A metric on a projection is that metric on what was projected by hand."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from reference.readings import Reading, differences, random_reading
from toy import Tagger, loader, trainer

from lightning_interp import RepresentationMetrics
from lightning_interp.functional import random_projection
from lightning_interp.metrics import BinnedStructure, Projected, RepresentationMetric, SoftStructure, SpectralGeometry

METRICS = {
    "soft": lambda: SoftStructure(["token", "bigram"], shuffles=2, jackknife=3),
    "binned": lambda: BinnedStructure(["token"], shuffles=1, information_plane=["token", "next_token"]),
    "geometry": SpectralGeometry,
}


def reading() -> Reading:
    found = random_reading(11, sequences=20, length=6, dim=6, vocabulary=3, effect=0.7, holes=True)
    found.z[2, 0] = float("nan")
    found.z[9, 0, 1] = float("inf")
    return found


def values(metric: RepresentationMetric) -> dict[str, float]:
    return {key: float(value) for key, value in metric.compute().items()}


@pytest.mark.parametrize("name", METRICS)
def test_equals_the_metric_of_projected_representations(name: str) -> None:
    whole, metric = reading(), Projected(METRICS[name](), dim=3, seed=4)
    by_hand = reading()
    by_hand.z = whole.z @ random_projection(6, 3, seed=4)
    expected = values(by_hand.feed(METRICS[name]()))
    found = values(whole.feed(metric))
    assert found.keys() == metric.measures.keys()
    assert list(metric.measures.values()) == list(METRICS[name]().measures.values())
    assert not list(differences({key.removeprefix("projected_"): value for key, value in found.items()}, expected))
    assert all(key.startswith("projected_") for key in found)


def test_a_rotation_keeps_the_spectrum() -> None:
    z = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 9.0)
    plain, rotated = SpectralGeometry(), Projected(SpectralGeometry(), dim=8, prefix="turned_")
    plain.update(z)
    rotated.update(z)
    expected = values(plain)
    for key, value in values(rotated).items():
        assert value == pytest.approx(expected[key.removeprefix("turned_")], rel=1e-4, nan_ok=True), key


def test_what_was_given_is_left_alone_and_a_reset_forgets() -> None:
    inner = SpectralGeometry()
    metric = Projected(inner, dim=2)
    metric.update(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)))
    assert inner.mean.numel() == 0
    first = values(metric)
    metric.reset()
    # Another width, since nothing is left of the first.
    metric.update(torch.randn(50, 7, generator=torch.Generator().manual_seed(1)))
    assert values(metric)["projected_rows"] == 50
    assert values(metric) != first
    copy = metric.clone()
    copy.reset()
    assert values(metric)["projected_rows"] == 50


def test_half_precision_is_projected_in_full() -> None:
    z = torch.randn(100, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    metrics = [Projected(SpectralGeometry(), dim=4) for _ in range(2)]
    metrics[0].update(z)
    metrics[1].update(z.float())
    assert str(values(metrics[0])) == str(values(metrics[1]))


def test_a_callback_reads_it_beside_the_plain_one(tmp_path: Path) -> None:
    plain = SoftStructure(["token"], shuffles=1)
    callback = RepresentationMetrics({"plain": plain, "matched": Projected(plain, dim=3)}, {"hidden": "encoder"})
    trainer(tmp_path, [callback]).fit(Tagger(), loader(), loader(seed=1))
    last = callback.history.readings[-1].values
    assert last["projected_rows/hidden"] == last["rows/hidden"] > 0
    assert last["projected_information/hidden"] != last["information/hidden"]
    assert callback.measures(Tagger())["projected_regularity_above_chance/hidden/token"] == "summary"


def test_update_reads_nothing_back_from_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``test_device_sync.py``: on the `meta` device there is nothing to read."""
    for name in ("functional.soft", "metrics.geometry", "metrics.projected"):
        monkeypatch.setattr(f"lightning_interp.{name}.full_precision", lambda device: contextlib.nullcontext())
    for make in METRICS.values():
        metric = Projected(make(), dim=3)
        for _ in range(2):
            metric.update(reading().z.to("meta"), reading().mask, reading().labels, torch.arange(20))
        assert metric.metric.nonfinite.device.type == "meta"


def of_rank(name: str, whole: Reading) -> dict[str, float]:
    rank, size = dist.get_rank(), dist.get_world_size()
    metric = Projected(METRICS[name](), dim=3)
    # One rank has nothing.
    if rank:
        mine = list(range(rank - 1, len(whole.words), size - 1))
        whole.feed(metric, [mine[:4], mine[4:]])
    return values(metric)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("name", METRICS)
def test_ranks_give_what_one_process_gives(name: str, three_ranks: Any) -> None:
    expected = values(reading().feed(Projected(METRICS[name](), dim=3)))
    for found in three_ranks.run(of_rank, name, reading()):
        assert not list(differences(found, expected))


def of_other_width() -> None:
    metric = Projected(SpectralGeometry(), dim=2)
    metric.update(torch.ones(3, 4 + dist.get_rank()))
    metric.compute()


def test_ranks_of_different_width_are_an_error(two_ranks: Any) -> None:
    with pytest.raises(RuntimeError, match="dimensions here and 5 on another rank"):
        two_ranks.run(of_other_width)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Projected(SpectralGeometry(), dim=0), ValueError, "`dim` must be at least 1, got 0"),
        (
            lambda: Projected(torch.nn.Linear(1, 1), dim=2),
            TypeError,
            "must be a metric of lightning_interp, got Linear",
        ),
        (
            lambda: Projected(SpectralGeometry(), dim=5).update(torch.ones(3, 4)),
            ValueError,
            "`dim` must be 1 to the width of the representations, 4; got 5",
        ),
        (
            lambda: Projected(SpectralGeometry(), dim=2).update(torch.ones(3, 4, dtype=torch.long)),
            ValueError,
            "`representations` must be floating point, got torch.int64",
        ),
    ],
)
def test_bad_input_is_said(call: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_another_width_within_a_reading_is_an_error() -> None:
    metric = Projected(SpectralGeometry(), dim=2)
    metric.update(torch.ones(3, 4))
    with pytest.raises(ValueError, match="have 5 dimensions, earlier batches 4"):
        metric.update(torch.ones(3, 5))
