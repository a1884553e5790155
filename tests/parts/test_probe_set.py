"""When random weights are read, of which batches, and what becomes of their values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_interp.distributed.positions import SamplePositions
from lightning_interp.isolation.seen import Seen
from lightning_interp.parts.probe_set import ProbeSet
from lightning_interp.reading.reading import Reading

MODEL = nn.Linear(2, 2)


def taken(probe_set: ProbeSet, reading: Reading, value: float) -> tuple[int, float | None]:
    """How many batches a reading keeps, and the value that belongs to it; with random weights it would be that."""
    probe_set.begin(reading)
    for index in range(2):
        batch = torch.ones(3, 2)
        probe_set.before_batch(Seen(batch, index, 0, SamplePositions([batch]).select(3)))
    kept = len(probe_set._batches)
    found = probe_set.of_reading(reading, lambda: {"enc/pos": value}, "Probe")
    if reading.counts and reading.changed is not None:
        probe_set.start_anew()
    probe_set.forget()
    return kept, found.get("enc/pos")


def test_it_is_read_at_the_first_reading_of_a_fit_and_outside_each_time() -> None:
    probe_set = ProbeSet(None)
    probe_set.attach(MODEL)
    # The rehearsal is of a part of the data.
    assert taken(probe_set, Reading(MODEL, step=0, rehearsal=True), 0.1) == (2, 0.1)
    assert taken(probe_set, Reading(MODEL, step=1), 0.2) == (2, 0.2)
    assert taken(probe_set, Reading(MODEL, step=2), 0.3) == (0, 0.2)
    assert taken(probe_set, Reading(MODEL), 0.4) == (2, 0.4)
    assert taken(probe_set, Reading(MODEL, step=3), 0.5) == (0, 0.2)
    probe_set.clear()
    assert taken(probe_set, Reading(MODEL, step=4), 0.6) == (2, 0.6)


def test_on_other_samples_it_is_read_anew_as_soon_as_batches_are_kept() -> None:
    probe_set = ProbeSet(None)
    assert taken(probe_set, Reading(MODEL, step=1), 0.1) == (2, 0.1)
    # They turned out to be others when they had gone through the model.
    assert taken(probe_set, Reading(MODEL, step=2, changed="others"), 0.2) == (0, None)
    assert taken(probe_set, Reading(MODEL, step=3, changed="others"), 0.3) == (2, 0.3)
    assert taken(probe_set, Reading(MODEL, step=4, changed="others"), 0.4) == (2, 0.4)
    assert taken(probe_set, Reading(MODEL, step=5), 0.5) == (2, 0.4)
    assert taken(probe_set, Reading(MODEL, step=6), 0.6) == (0, 0.4)


def test_another_model_has_values_of_its_own() -> None:
    probe_set = ProbeSet(None)
    probe_set.attach(MODEL)
    assert taken(probe_set, Reading(MODEL, step=1), 0.1) == (2, 0.1)
    probe_set.attach(MODEL)
    assert taken(probe_set, Reading(MODEL, step=2), 0.2) == (0, 0.1)
    other = nn.Linear(2, 2)
    probe_set.attach(other)
    assert taken(probe_set, Reading(other, step=1), 0.3) == (2, 0.3)


def test_what_goes_on_from_a_checkpoint_has_its_values() -> None:
    probe_set = ProbeSet(None)
    probe_set.attach(MODEL)
    taken(probe_set, Reading(MODEL, step=1), 0.1)
    resumed = ProbeSet(None)
    resumed.load_state_dict(probe_set.state_dict())
    resumed.attach(nn.Linear(2, 2))
    assert taken(resumed, Reading(MODEL, step=2), 0.2) == (0, 0.1)
    copy = resumed.fresh()
    assert taken(copy, Reading(MODEL, step=2), 0.3) == (2, 0.3)
    assert taken(resumed, Reading(MODEL, step=3), 0.4) == (0, 0.1)


def test_where_it_fails_it_is_given_up_unless_it_was_asked_for() -> None:
    def fails() -> dict[str, float]:
        raise ValueError("planted")

    reading, probe_set = Reading(MODEL, step=1), ProbeSet(None)
    with pytest.warns(UserWarning, match=r"Probe reads without a baseline of random weights.*planted"):
        assert not probe_set.of_reading(reading, fails, "Probe")
    assert not probe_set.wanted
    with pytest.raises(ValueError, match="planted"):
        ProbeSet(True).of_reading(reading, fails, "Probe")


def test_data_of_ones_own_are_not_kept() -> None:
    assert taken(ProbeSet(None, keeps=False), Reading(MODEL, step=1), 0.1) == (0, 0.1)
