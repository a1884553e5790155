"""What is kept of readings is of readings that count."""

from __future__ import annotations

from torch import nn

from lightning_interp.parts import Kept
from lightning_interp.reading import Reading


def test_a_reading_that_was_given_up_leaves_nothing() -> None:
    kept = Kept(3)
    kept.now = {"value": 1.0}
    kept.forget()
    kept.commit(Reading(nn.Identity(), 10))
    assert len(kept) == 0
    kept.now = {"value": 2.0}
    kept.commit(Reading(nn.Identity(), 20))
    assert kept.readings == [(20, {"value": 2.0})]


def test_a_reading_outside_a_fit_is_not_kept() -> None:
    kept = Kept(3)
    kept.now = {"value": 1.0}
    kept.commit(Reading(nn.Identity()))
    assert len(kept) == 0


def test_on_other_samples_and_in_a_new_fit_it_starts_anew() -> None:
    for forget in (Kept.start_anew, Kept.clear):
        kept = Kept(3)
        kept.now = {"value": 1.0}
        kept.commit(Reading(nn.Identity(), 10))
        forget(kept)
        assert kept.steps == []


def test_a_fresh_one_shares_nothing_with_the_first() -> None:
    kept = Kept(3)
    kept.now = {"value": 1.0}
    fresh = kept.fresh()
    kept.commit(Reading(nn.Identity(), 10))
    assert (len(kept), len(fresh), fresh.now) == (1, 0, None)
