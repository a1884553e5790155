"""What the published code gets wrong (section 3 of the measures), each with the case that shows it."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import entropy as plain
from reference.readings import assert_values, binned_rows, expected_values, random_reading
from reference.structure import measures

from lightning_interp.functional import binned_entropy
from lightning_interp.metrics import BinnedStructure, SoftStructure


def test_error_1_every_dimension_has_its_own_range():
    """With fewer heads than dimensions, bins and values of different dimensions met."""
    generator = torch.Generator().manual_seed(0)
    scale = 10.0 ** torch.arange(-4, 4)
    z = torch.rand(200, 8, generator=generator) ** torch.arange(1, 9) * scale + 3 * scale
    alone = [np.histogram(column, 20)[0] / 200 for column in z.double().numpy().T]
    expected = np.mean([plain.entropy(p) for p in alone]) / math.log(20)
    assert binned_entropy(z).item() == pytest.approx(expected, abs=1e-6)
    metric = BinnedStructure()
    for part in z.split(30):
        metric.update(part)
    assert metric.compute()["binned_information"].item() == pytest.approx(expected, abs=1e-6)


def test_error_2_disentanglement_compares_labels_and_not_heads():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 5
    z = torch.randn(300, 6, generator=generator) * 0.3 + torch.randn(5, 6, generator=generator)[labels]
    metric = BinnedStructure(["word"], bins=10, shuffles=0)
    metric.update(z, labels=labels)
    codes = plain.binned_codes(z.double().numpy(), 10)
    by_pairs = []
    for label in range(5):
        here = (labels == label).numpy()
        by_pairs += [plain.js(codes[here, d].mean(0), codes[~here, d].mean(0)) for d in range(6)]
    found = metric.compute()["binned_disentanglement/word"].item()
    assert found == pytest.approx(np.mean(by_pairs), abs=1e-6)
    assert found > 0.2


@pytest.mark.parametrize("average", ["frequency", "plain"])
@pytest.mark.parametrize("kind", [SoftStructure, BinnedStructure])
def test_error_3_a_label_without_a_complement_is_left_out(kind, average):
    """Word 9 carries one label alone, so that within the word there is nothing to compare it with."""
    reading = random_reading(1, sequences=40, length=6, vocabulary=2, padding=False)
    options = {"average": average, "min_count": 1, "shuffles": 0}
    bounds = {"bounds": (-5.0, 5.0)} if kind is BinnedStructure else {}
    reading.extra = {"pair": torch.arange(240).view(40, 6) % 3}
    whole = reading.feed(kind(["pair"], parents={"pair": "token"}, **options, **bounds)).compute()
    lonely = random_reading(2, sequences=10, length=6, vocabulary=1, padding=False)
    lonely.words = [[9] * 6] * 10
    lonely.extra = {"pair": torch.zeros(10, 6, dtype=torch.long)}
    metric = kind(["pair"], parents={"pair": "token"}, **options, **bounds)
    metric.update(reading.z, labels=reading.labels)
    metric.update(lonely.z, labels=lonely.labels)
    values = metric.compute()
    key = f"{kind.prefix}disentanglement/pair"
    assert values["num_labels/pair"] == whole["num_labels/pair"] + 1
    assert values[key].item() == pytest.approx(whole[key].item(), abs=1e-6)
    alone = kind(["pair"], parents={"pair": "token"}, **options, **bounds)
    alone.update(lonely.z, labels=lonely.labels)
    assert math.isnan(alone.compute()[key])


@pytest.mark.parametrize("kind", [SoftStructure, BinnedStructure])
def test_error_4_the_minimum_count_applies_to_totals(kind):
    """Batches of one sample each: per batch no label would ever be frequent."""
    reading = random_reading(3, sequences=30, length=4, vocabulary=6)
    names = ["token", "bigram", "tag"]
    whole = {key: float(v) for key, v in reading.feed(kind(names, min_count=5)).compute().items()}
    assert whole["coverage/token"] > 0.9
    streamed = reading.feed(kind(names, min_count=5), [[b] for b in range(30)]).compute()
    assert_values(streamed, whole)
    lists = reading.label_lists("token")
    counts = {word: sum(mine == [word] for mine in lists) for word in range(6)}
    for least in (1, 5, 12, 1000):
        found = reading.feed(kind(names, min_count=least, shuffles=0)).compute()
        kept = [word for word, count in counts.items() if count >= least]
        assert found["num_labels/token"].item() == len(kept)
        share = sum(counts[word] for word in kept) / len(lists)
        assert found["coverage/token"].item() == pytest.approx(share)
    assert math.isnan(found[f"{kind.prefix}variation/token"])
    assert math.isnan(found[f"{kind.prefix}information/token"])
    assert math.isfinite(found[f"{kind.prefix}information"])


def test_error_5_bins_are_not_those_of_the_first_batch():
    z = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 300)[:, None]
    metric = BinnedStructure()
    for part in z.split(50):
        metric.update(part)
    expected = plain.binned_entropy(z.double().numpy(), 20)
    assert metric.compute()["binned_information"].item() == pytest.approx(expected, abs=1e-6)
    clipped = plain.binned_entropy(z.double().numpy(), 20, (z[:50].amin(0).tolist(), z[:50].amax(0).tolist()))
    assert abs(clipped - expected) > 0.1


def widened(kind: type, reading, share) -> dict[str, float]:
    import torch.distributed as dist

    metric = kind(["token"], bins=10, shuffles=0, min_count=8)
    reading.feed(metric, [share[dist.get_rank()]])
    return {key: float(value) for key, value in metric.compute().items()}


def test_error_6_ranges_and_counts_are_those_of_all_ranks(two_ranks):
    reading = random_reading(6, sequences=20, length=6, vocabulary=5)
    reading.z[10:] *= 5  # the second rank's values are wider, and each rank alone is short of every word
    shares = [list(range(10)), list(range(10, 20))]
    expected = expected_values(reading, ["token"], binned_rows(reading, 10), prefix="binned_", min_count=8)
    assert expected["num_labels/token"] >= 4
    for values in two_ranks.run(widened, BinnedStructure, reading, shares):
        assert_values(values, expected)
    for share in shares:
        part = reading.part(share)
        alone = expected_values(part, ["token"], binned_rows(part, 10), prefix="binned_", min_count=8)
        assert alone["num_labels/token"] < expected["num_labels/token"]


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not let a process reset its peak of memory")


def test_error_7_memory_and_time():
    """1.6 GB and 15 s for 20,000 vectors of 512 dimensions."""
    generator = torch.Generator().manual_seed(0)
    z, labels = torch.randn(20_000, 512, generator=generator), torch.randint(0, 50, (20_000,), generator=generator)
    binned_entropy(z[:100])
    for work in (lambda: binned_entropy(z), lambda: streamed(z, labels)):
        reset_peak()
        before, start = peak_megabytes(), time.monotonic()
        work()
        assert peak_megabytes() - before < 300  # the vectors themselves take 41 MB
        assert time.monotonic() - start < 15


def streamed(z: torch.Tensor, labels: torch.Tensor) -> None:
    metric = BinnedStructure(["word"], shuffles=0)
    for part in torch.arange(len(z)).split(1000):
        metric.update(z[part], labels=labels[part])
    metric.compute()


def test_soft_memory_is_that_of_the_buffer():
    generator = torch.Generator().manual_seed(0)
    z, labels = torch.randn(50_000, 64, generator=generator), torch.randint(0, 50, (50_000,), generator=generator)
    SoftStructure(["word"])
    metric = SoftStructure(["word"], shuffles=2, jackknife=2)
    reset_peak()
    before = peak_megabytes()
    for part in torch.arange(len(z)).split(2000):
        metric.update(z[part], labels=labels[part])
    metric.compute()
    assert peak_megabytes() - before < 200  # 20 MB of assignments


def test_published_identity_of_part_of_speech():
    reading = random_reading(8, sequences=25, effect=1.0)
    metric = BinnedStructure(["tag"], average="plain", shuffles=0)
    values = reading.feed(metric).compute()
    expected = measures(binned_rows(reading, 20), reading.label_lists("tag"), None, 5, "plain")
    assert values["binned_information/tag"].item() == pytest.approx(expected["information"], abs=1e-6)
    difference = values["binned_information/tag"] - values["binned_variation/tag"]
    assert values["binned_regularity/tag"].item() == pytest.approx(difference.item(), abs=1e-6)
