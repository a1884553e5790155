"""`update` must not wait for a device: nothing may be read back from it.

Tensors on the `meta` device have shapes and no values, so whatever reads one back (a number, a boolean index, `unique`)
raises there; that they are not on the CPU sends `update` down the path of an accelerator.
"""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from typing import Any

import pytest
import torch
from reference.readings import assert_values, random_reading

import lightning_interp.metrics.structure as module
from lightning_interp.metrics import BinnedStructure, SoftStructure, SpectralGeometry

LABELS = ("token", "bigram", "trigram", "flat_bigram", "flat_trigram", "next_token", "tag", "language", "marks")
KINDS: list[Any] = [
    (SoftStructure, {"labels": LABELS, "jackknife": 2, "information_plane": ("token", "next_token")}),
    (SoftStructure, {"labels": LABELS, "center": True, "parents": {"marks": "language"}}),
    (BinnedStructure, {"labels": LABELS}),
    (SpectralGeometry, {}),
]


@pytest.fixture
def _no_autocast_on_meta(monkeypatch):
    """`torch.autocast` knows no device of that name."""
    for name in ("lightning_interp.functional.soft", "lightning_interp.metrics.geometry"):
        monkeypatch.setattr(f"{name}.full_precision", lambda device: contextlib.nullcontext())


@pytest.mark.usefixtures("_no_autocast_on_meta")
@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("dim", [8, 70])
@pytest.mark.parametrize("elsewhere", ["everything", "vectors"])
def test_update_reads_nothing_back(kind, options, dim, elsewhere):
    reading = random_reading(0, sequences=6, length=4, dim=dim)
    metric = kind(**options)
    place = "meta" if elsewhere == "everything" else "cpu"
    for _ in range(3):
        metric.update(
            reading.z.to("meta"),
            mask=reading.mask.to(place),
            labels={name: value.to(place) for name, value in reading.labels.items()},
            positions=torch.arange(6),
        )
    kept = metric.scatter if kind is SpectralGeometry else metric.payload[0]
    assert kept.device.type == "meta"
    assert metric.nonfinite.device.type == "meta"


@pytest.mark.parametrize(
    "read",
    [lambda z: z.sum().item(), lambda z: z[z > 0], lambda z: z.unique(), lambda z: bool(z.any()), lambda z: z.cpu()],
)
def test_reading_back_would_be_noticed(read):
    with pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.zeros(3, device="meta"))


@pytest.mark.parametrize(("kind", "options"), KINDS[:3])
def test_the_path_of_other_devices_gives_the_same_values(kind, options, monkeypatch):
    """Rows that do not count are kept until the end there; the branch is forced, since there may be no such device."""
    reading = random_reading(1, sequences=14, length=5, dim=6, holes=True)
    reading.z[3, 0] = float("nan")
    batches = [[0, 1, 2], [3, 4, 5, 6], list(range(7, 14))]
    expected = reading.feed(kind(**options), batches).compute()
    source = textwrap.dedent(inspect.getsource(module.StructureMetric.update))
    branch = 'rows.z.device.type == "cpu"'
    assert source.count(branch) == 1
    place: dict[str, Any] = {}
    exec(source.replace(branch, "False"), vars(module), place)
    monkeypatch.setattr(module.StructureMetric, "update", place["update"])
    metric = reading.feed(kind(**options), batches)
    assert len(metric.valid) == 3
    assert_values(metric.compute(), {key: float(value) for key, value in expected.items()})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_update_on_a_gpu_neither_waits_nor_differs(kind, options):
    reading = random_reading(2, sequences=40, length=6, dim=70, holes=True)
    expected = {key: float(value) for key, value in reading.feed(kind(**options)).compute().items()}
    metric = kind(**options)
    moved = [value.cuda() for value in (reading.z, reading.mask)]
    labels = {name: value.cuda() for name, value in reading.labels.items()}
    metric.update(*moved, labels=labels, positions=torch.arange(40).cuda())  # the first call moves the points there
    torch.cuda.set_sync_debug_mode("error")
    try:
        metric.reset()
        metric.update(*moved, labels=labels, positions=torch.arange(40).cuda())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_values(metric.compute(), expected, 2e-6)
