"""The logit lens: rows against loops, chance against all pairs, what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_interp.functional.lens import agreement_by_chance, constant_loss, lens_rows
from tests.reference import lens as reference


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_those_of_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, 5, generator=generator, dtype=torch.float64) * 4
    targets = torch.randint(5, (7,), generator=generator)
    found = lens_rows(logits, targets)
    for place in range(7):
        loss, entropy, top = reference.row(logits[place].tolist(), int(targets[place]))
        assert float(found.losses[place]) == pytest.approx(loss, abs=1e-12)
        assert float(found.entropies[place]) == pytest.approx(entropy, abs=1e-12)
        assert int(found.tops[place]) == top


def test_tokens_that_cannot_come_and_few_digits() -> None:
    found = lens_rows(torch.tensor([[0.0, -math.inf, 0.0]]), torch.tensor([0]))
    assert float(found.losses) == float(found.entropies) == pytest.approx(math.log(2))
    assert lens_rows(torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([1])).losses.dtype == torch.float32


@pytest.mark.parametrize("seed", range(3))
def test_chance_is_that_of_all_pairs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.randint(4, (2, 30), generator=generator)
    counts = [torch.bincount(x, minlength=4) for x in (one, other)]
    assert float(agreement_by_chance(*counts)) == pytest.approx(reference.dealt(one.tolist(), other.tolist()))
    assert float(constant_loss(counts[0])) == pytest.approx(reference.frequencies(one.tolist()))


def test_nothing_is_no_number() -> None:
    assert agreement_by_chance(torch.zeros(3), torch.ones(3)).isnan()
    assert constant_loss(torch.zeros(3)).isnan()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`logits` must be \(N, V\) and `targets` \(N,\), got \(2, 3\) and \(3,\)"):
        lens_rows(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"must both be \(V,\), got \(3,\) and \(2,\)"):
        agreement_by_chance(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"`counts` must be \(V,\), got \(1, 2\)"):
        constant_loss(torch.zeros(1, 2))
