"""What restoring states gives back, by a loop, and which tokens and layers are meant."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_interp.functional import noise_scale, normalised_effect, state_window, token_classes
from lightning_interp.functional.layers import centre_of_gravity
from lightning_interp.language.spans import token_span


def test_effects_are_shares_of_the_mean_total() -> None:
    generator = torch.Generator().manual_seed(0)
    effects = torch.rand(7, 2, 5, generator=generator)
    effects[torch.rand(7, 2, 5, generator=generator) < 0.3] = math.nan
    effects[:, 0, 0] = math.nan
    totals = torch.rand(7, generator=generator)
    found = normalised_effect(effects, totals)
    for kind in range(2):
        for layer in range(5):
            rows = [n for n in range(7) if not math.isnan(effects[n, kind, layer])]
            restored, total = (sum(float(one[n]) for n in rows) for one in (effects[:, kind, layer], totals))
            expected = restored / total if rows else math.nan
            assert float(found[kind, layer]) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert math.isnan(found[0, 0])
    # There is nothing to give back.
    assert normalised_effect(torch.ones(3, 1), torch.tensor([0.02, 0.0, -0.01])).isnan().all()
    assert normalised_effect(torch.ones(0, 4), torch.ones(0)).isnan().all()
    with pytest.raises(ValueError, match=r"`effects` must be \(N, ...\) and `totals` \(N,\)"):
        normalised_effect(torch.ones(3, 1), torch.ones(2))


def test_windows_are_cut_at_the_ends() -> None:
    assert [list(state_window(layer, 6, 3)) for layer in (0, 2, 5)] == [[0, 1], [1, 2, 3], [4, 5]]
    assert list(state_window(3, 6, 100)) == list(range(6))
    for layer, size, message in ((6, 1, "`layer` must be one of 6"), (0, 0, "`size` must be at least 1")):
        with pytest.raises(ValueError, match=message):
            state_window(layer, 6, size)


@pytest.mark.parametrize(
    ("length", "start", "end", "expected"),
    [
        (4, 1, 2, [-1, 2, 3, 5]),
        (3, 1, 2, [-1, 2, 5]),
        (3, 1, 3, [-1, 0, 2]),
        (1, 0, 1, [2]),
        (6, 0, 3, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_every_token_is_of_one_class(length: int, start: int, end: int, expected: list[int]) -> None:
    assert token_classes(length, start, end) == expected


def test_what_is_refused() -> None:
    for start, end in ((2, 2), (-1, 1), (0, 4)):
        with pytest.raises(ValueError, match="must be a part of 3 tokens"):
            token_classes(3, start, end)
    with pytest.raises(ValueError, match="must hold two numbers or more"):
        noise_scale(torch.ones(1, 1))
    with pytest.raises(ValueError, match="`numbers` must have one entry for each of 2 scores, got 1"):
        centre_of_gravity([1.0, 1.0], [0.0, 0.0], [3])
    assert centre_of_gravity([1.0, 3.0], [0.0, 0.0], [4, 8]) == 7


def pairs(text: str) -> list[int]:
    """Two letters are one token, with the space before them where there is one."""
    return [int.from_bytes(text[at : at + 2].encode()) for at in range(0, len(text), 2)]


@pytest.mark.parametrize(("span", "expected"), [((2, 4), (1, 2)), ((3, 5), (1, 3)), ((0, 1), (0, 1)), ((4, 6), (2, 3))])
def test_a_span_has_all_tokens_with_a_letter_of_it(span: tuple[int, int], expected: tuple[int, int]) -> None:
    assert token_span(pairs, "abcdef", span) == expected
    first, end = token_span(pairs, "abcdef", span, bos_token_id=-1)
    assert (first - 1, end - 1) == expected


def test_a_span_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="gives ' ' no token of its own"):
        token_span(lambda text: [ord(one) for one in text if one != " "], "ab cd", (2, 3))
