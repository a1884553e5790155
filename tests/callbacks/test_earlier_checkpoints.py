"""Checkpoints from before callbacks held parts: what stood in them is found again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.callbacks.recipes import analysis
from tests.toy import Tagger, loader, trainer

State = dict[str, Any]


def with_random_weights(state: State) -> State:
    """The values stood beside what came of the weights."""
    baseline = state.pop("baseline")
    values = baseline.pop("values")
    return {**state, "baseline": values, "random": baseline}


def probe(state: State) -> State:
    """What is kept of the last reading stood by itself."""
    return with_random_weights({**state, "kept": state.pop("stored")["values"][-1]})


def coordinates(state: State) -> State:
    """All maps, and the last of them flat once more."""
    stored = state.pop("stored")
    last = {site: one.flatten() for site, one in stored["values"][-1].items()}
    return with_random_weights({**state, "maps": stored, "kept": last})


def drift(state: State) -> State:
    """What maps are of stood beside them."""
    return {**state, "shown": state["maps"].pop("shown"), "planes": state["maps"].pop("planes")}


def noise(state: State) -> State:
    """What is known of the start stood among the rest."""
    return {**state, **state.pop("start_values")}


EARLIER: dict[str, Callable[[State], State]] = {
    "LayerProbe": with_random_weights,
    "StructuralProbe": probe,
    "CoordinateProbe": coordinates,
    "RepresentationDrift": drift,
    "NoiseRobustness": noise,
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)  # NaN is NaN


@pytest.mark.parametrize("name", EARLIER)
def test_a_state_of_before_is_the_state_of_now(tmp_path: Path, name: str) -> None:
    callback, again = analysis(name), analysis(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(tmp_path, [callback], max_epochs=2).fit(Tagger(), loader(24), loader(24, seed=1))
    now = callback.state_dict()
    before = EARLIER[name](copy.deepcopy(now))
    assert not same(before, now)
    again.load_state_dict(before)
    loaded = again.state_dict()
    for clock in ("elapsed", "due"):
        now.pop(clock)
        loaded.pop(clock)
    if name == "StructuralProbe":
        # It kept nothing of any reading but the last.
        assert same(loaded.pop("stored")["values"][-1], now.pop("stored")["values"][-1])
    assert same(loaded, now)
