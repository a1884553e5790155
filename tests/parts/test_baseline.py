"""The part that holds what random weights give."""

from __future__ import annotations

import pytest

from lightning_interp.parts.baseline import Baseline


def test_a_baseline_that_was_asked_for_is_an_error_where_it_fails() -> None:
    for asked in (True, dict):
        with pytest.raises(KeyError, match="no"):
            Baseline(asked).give_up(KeyError("no"), "Probe")
    unasked = Baseline(None)
    with pytest.warns(UserWarning, match="Probe reads without a baseline of random weights, since it failed: KeyError"):
        unasked.give_up(KeyError("no"), "Probe")
    assert unasked.settings() == {"baseline": False}
    again = Baseline(None)
    again.load_state_dict(unasked.state_dict())
    assert not again.wanted
    with pytest.raises(ValueError, match=r"`baseline` must be True, False, None or a function.*got 'no'"):
        Baseline("no")  # type: ignore[arg-type]
