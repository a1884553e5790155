"""The four measures from tables of counts, against rows and label lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import structure as plain

from lightning_interp.functional import StructureMeasures, js_divergence, structure_measures
from lightning_interp.functional.structure import label_mean

AVERAGES = ["frequency", "plain"]


def random_rows(
    seed: int, soft: bool, rows: int = 40, groups: int = 3, bins: int = 5, labels: int = 4, families: int = 0
):
    """Coded rows, and per row two labels and a parent."""
    rng = np.random.default_rng(seed)
    if soft:
        codes = rng.dirichlet(np.full(bins, 0.3), (rows, groups))
    else:
        codes = np.eye(bins)[np.minimum(rng.geometric(0.4, (rows, groups)) - 1, bins - 1)]
    names = [
        [int(label) if label < labels else None for label in row] for row in rng.integers(0, labels + 1, (rows, 2))
    ]
    parents = rng.integers(0, families, rows).tolist() if families else None
    return codes, names, parents


def table(codes: np.ndarray, there: plain.Occurrences, nested: bool):
    """Counts, sizes and parents as the library takes them."""
    kept = list(there.rows_of)
    counts = torch.tensor(np.stack([codes[there.rows_of[label]].sum(0) for label in kept]))
    sizes = torch.tensor([len(there.rows_of[label]) for label in kept])
    owners = sorted({there.parent_of[label] for label in kept}, key=repr)
    parents = torch.tensor([owners.index(there.parent_of[label]) for label in kept]) if nested else None
    return counts, sizes, parents


def assert_measures(found: StructureMeasures, expected: dict[str, float], tolerance: float) -> None:
    for name, value in found._asdict().items():
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(expected[name], abs=tolerance, nan_ok=True), name


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("correction", [None, "miller_madow"])
@given(
    seed=st.integers(0, 10**6),
    soft=st.booleans(),
    rows=st.integers(1, 50),
    groups=st.integers(1, 4),
    labels=st.integers(1, 8),
    min_count=st.integers(1, 4),
    normalize=st.booleans(),
)
def test_equal_the_reference(average, nested, correction, seed, soft, rows, groups, labels, min_count, normalize):
    codes, names, parents = random_rows(seed, soft, rows, groups, labels=labels, families=3 if nested else 0)
    there = plain.occurrences(names, parents, min_count)
    if not there.rows_of:
        return
    expected = plain.measures_of(codes, there, average, correction, normalize)
    counts, sizes, owners = table(codes, there, nested)
    options = {"average": average, "correction": correction, "normalize": normalize}
    assert_measures(structure_measures(counts, sizes, owners, **options), expected, 1e-9)
    assert_measures(structure_measures(counts.float(), sizes, owners, **options), expected, 1e-6)
    if not soft:
        assert_measures(structure_measures(counts.long(), sizes, owners, **options), expected, 1e-9)
    if groups == 1:
        assert_measures(structure_measures(counts[:, 0], sizes, owners, **options), expected, 1e-9)


@pytest.mark.parametrize("average", AVERAGES)
@given(seed=st.integers(0, 10**6), soft=st.booleans())
def test_identities(average, seed, soft):
    codes, names, parents = random_rows(seed, soft, families=3)
    flat = structure_measures(*table(codes, plain.occurrences(names), False), average=average)
    assert (flat.information - flat.variation).item() == pytest.approx(flat.regularity.item(), abs=1e-12)
    assert flat.parent_variation.item() == flat.information.item()
    nested = structure_measures(*table(codes, plain.occurrences(names, parents), True), average=average)
    assert (nested.parent_variation - nested.variation).item() == pytest.approx(nested.regularity.item(), abs=1e-12)


@pytest.mark.parametrize("average", AVERAGES)
@given(seed=st.integers(0, 10**6), order=st.randoms(use_true_random=False))
def test_order_and_names_of_labels_and_scale_of_counts_do_not_matter(average, seed, order):
    codes, names, parents = random_rows(seed, True, families=3)
    counts, sizes, owners = table(codes, plain.occurrences(names, parents), True)
    before = structure_measures(counts, sizes, owners, average=average)
    shuffled = list(range(len(sizes)))
    order.shuffle(shuffled)
    renamed = torch.tensor([2, 0, 1])[owners[shuffled]]
    after = structure_measures(counts[shuffled], sizes[shuffled], renamed, average=average)
    torch.testing.assert_close(torch.stack(after), torch.stack(before), atol=1e-12, rtol=0)
    twice = structure_measures(counts * 2, sizes * 2, owners, average=average)
    torch.testing.assert_close(torch.stack(twice), torch.stack(before), atol=1e-12, rtol=0)


def test_disentanglement_is_the_mean_divergence_from_the_pooled_rest():
    codes, names, _ = random_rows(1, True, groups=1)
    counts, sizes, _ = table(codes, plain.occurrences(names), False)
    p = counts[:, 0] / sizes[:, None]
    rest = (counts[:, 0].sum(0) - counts[:, 0]) / (sizes.sum() - sizes)[:, None]
    divergence = js_divergence(p, rest)
    found = structure_measures(counts, sizes).disentanglement.item()
    assert found == pytest.approx((divergence * sizes).sum().item() / sizes.sum().item(), abs=1e-12)
    found = structure_measures(counts, sizes, average="plain").disentanglement.item()
    assert found == pytest.approx(divergence.mean().item(), abs=1e-12)


@pytest.mark.parametrize("average", AVERAGES)
def test_a_label_without_a_complement_is_left_out(average):
    """Error 3 of the published code, which gives it ½ ln 2."""
    counts, sizes = torch.tensor([[4.0, 0.0], [0.0, 4.0], [3.0, 0.0]]), torch.tensor([4, 4, 3])
    alone = structure_measures(counts, sizes, torch.tensor([0, 0, 1]), average=average)
    assert alone.disentanglement.item() == pytest.approx(math.log(2), abs=1e-8)
    only = structure_measures(counts[2:], sizes[2:], average=average)
    assert math.isnan(only.disentanglement.item())
    assert only.variation.item() == pytest.approx(0, abs=1e-30)
    assert only.regularity.item() == pytest.approx(0, abs=1e-30)


def test_large_tables_are_worked_off_in_steps():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 4, (60_000, 1, 40), generator=generator).double()  # several steps of 2²¹ entries
    counts[:, :, 0] += 1
    sizes = counts.sum(-1).squeeze(-1).long()
    parents = torch.randint(0, 50, (60_000,), generator=generator)
    found = structure_measures(counts, sizes, parents)
    p = counts[:, 0] / sizes[:, None]
    families = torch.zeros(50, 40, dtype=torch.float64).index_add_(0, parents, counts[:, 0])
    weights = torch.zeros(50, dtype=torch.float64).index_add_(0, parents, sizes.double())
    q = families / weights[:, None]

    def entropy(x):
        return -torch.special.xlogy(x, x).sum(-1) / math.log(40)

    above = (entropy(q) * weights).sum() / weights.sum()
    below = (entropy(p) * sizes).sum() / sizes.sum()
    assert found.variation.item() == pytest.approx(below.item(), abs=1e-9)
    assert found.parent_variation.item() == pytest.approx(above.item(), abs=1e-9)
    assert found.regularity.item() == pytest.approx((above - below).item(), abs=1e-9)
    rest = (families[parents] - counts[:, 0]) / (weights[parents] - sizes)[:, None]
    js = js_divergence(p, rest)
    assert found.disentanglement.item() == pytest.approx(((js * sizes).sum() / sizes.sum()).item(), abs=1e-9)


def test_one_label_that_is_nearly_everything_keeps_its_digits():
    """The complement is a difference of two large numbers."""
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.full(20, 0.2), (50_003, 1))
    there = plain.Occurrences(
        {"most": list(range(50_000)), "few": [50_000, 50_001, 50_002]}, {"most": None, "few": None}, 50_003
    )
    counts, sizes, _ = table(rows, there, False)
    expected = plain.measures_of(rows, there)
    assert_measures(structure_measures(counts, sizes), expected, 1e-9)


@pytest.mark.parametrize("correction", [None, "miller_madow"])
@pytest.mark.parametrize("average", AVERAGES)
def test_no_label_gives_nan_and_one_label_gives_no_regularity(average, correction):
    empty = structure_measures(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), average=average, correction=correction
    )
    assert all(math.isnan(value) for value in empty)
    one = structure_measures(torch.tensor([[1.0, 3.0]]), torch.tensor([4]), average=average, correction=correction)
    assert one.information.item() == pytest.approx(one.variation.item(), abs=1e-7)
    assert one.regularity.item() == pytest.approx(0, abs=1e-7)


def test_parents_may_have_gaps():
    counts, sizes = torch.tensor([[4.0, 0.0], [1.0, 3.0], [3.0, 0.0]]), torch.tensor([4, 4, 3])
    for average in AVERAGES:
        tight = structure_measures(counts, sizes, torch.tensor([0, 0, 1]), average=average, correction="miller_madow")
        gaps = structure_measures(counts, sizes, torch.tensor([2, 2, 7]), average=average, correction="miller_madow")
        torch.testing.assert_close(torch.stack(gaps), torch.stack(tight))


@pytest.mark.parametrize("average", AVERAGES)
def test_label_mean_has_the_same_weights(average):
    values, sizes, parents = torch.tensor([1.0, 2.0, 10.0]), torch.tensor([1, 3, 4]), torch.tensor([0, 0, 1])
    nested = {"frequency": (1 + 6 + 40) / 8, "plain": (1.5 + 10) / 2}[average]
    flat = {"frequency": (1 + 6 + 40) / 8, "plain": 13 / 3}[average]
    assert label_mean(values, sizes, parents, average).item() == pytest.approx(nested)
    assert label_mean(values, sizes, None, average).item() == pytest.approx(flat)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counts": torch.ones(2, 3), "sizes": torch.ones(3)}, r"\(2, 3\) and \(3,\)"),
        ({"counts": torch.ones(2), "sizes": torch.ones(2)}, r"\(2,\) and \(2,\)"),
        ({"counts": torch.ones(2, 3), "sizes": torch.ones(2), "parents": torch.zeros(1)}, r"`parents` \(1,\)"),
        ({"counts": torch.ones(2, 3), "sizes": torch.ones(2), "average": "median"}, "'median'"),
        ({"counts": torch.ones(2, 3), "sizes": torch.ones(2), "correction": "none"}, "'none'"),
    ],
)
def test_errors_say_what_was_given(arguments, message):
    with pytest.raises(ValueError, match=message):
        structure_measures(**arguments)
