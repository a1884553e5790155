"""Directions: planted ones, prompts that are moved, a model that is tuned towards one kind, drift, resuming, ranks."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from callbacks.test_coordinate_probe import learner
from probing.planted import SITES, Planted, loader
from torch.utils.data import DataLoader

from lightning_interp import DirectionTracker, ValidationSchedule, analyze
from lightning_interp.probing.contrasts import Halves
from tests.reference import directions as reference
from tests.toy import timeless, trainer, validated

A, B, PROMPTS = ([f"{kind}{n}" for n in range(60)] for kind in "abp")
WIDTH = 12


def planted(strength: float = 1.0, seed: int = 0) -> torch.Tensor:
    """The first dimension tells A from B; prompts are in between."""
    x = torch.randn(180, WIDTH, generator=torch.Generator().manual_seed(seed))
    x[:60, 0] += strength
    x[60:120, 0] -= strength
    return x


def model_of(vectors: torch.Tensor) -> Planted:
    return Planted([*A, *B, *PROMPTS], vectors)


def tracker(directions: Any = None, **kwargs: Any) -> DirectionTracker:
    given = {"trait": (A, B)} if directions is None else directions
    settings: dict[str, Any] = {"model": "lm", "batch_tokens": 100, "draw_figures": False}
    return DirectionTracker(given, SITES, PROMPTS, **{**settings, **kwargs})


def test_a_planted_direction_tells_its_prompts_apart_and_noise_does_not() -> None:
    found = analyze(model_of(planted()), loader(), tracker())
    # Two normal distributions that lie 2 apart.
    apart = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(math.sqrt(2.0))))
    assert found["direction_auroc/planted/trait"] == pytest.approx(apart, abs=0.08)
    spread = found["direction_auroc/noise/trait/sd"]
    assert spread == pytest.approx(math.sqrt(61 / (12 * 30 * 30)), abs=1e-6)
    for key in ("direction_auroc/noise/trait", "direction_auroc_baseline/planted/trait"):
        assert found[key] == pytest.approx(0.5, abs=3 * spread), key
    for site in SITES:
        assert found[f"direction_drift/{site}/trait"] == pytest.approx(1, abs=1e-6)
        assert abs(found[f"projection_over_spread/{site}/trait"]) < 3
        assert f"projection_shift/{site}/trait" not in found


def test_values_are_those_of_loops() -> None:
    vectors = planted()
    found = analyze(model_of(vectors), loader(), tracker(seed=4, baseline=False))
    halves, rows = Halves.dealt(60, 60, 60, seed=4), torch.cat([vectors[120:], vectors[:120]]).double()
    kinds = [rows[halves.fit[halves.fit_labels == kind]].tolist() for kind in (True, False)]
    v = reference.difference(*kinds)
    every = [reference.projection(h, v) for h in vectors[120:].double().tolist()]
    assert found["projection/planted/trait"] == pytest.approx(math.fsum(every) / 60, abs=1e-6)
    scores = [reference.projection(h, v) for h in rows[halves.held_out].tolist()]
    right = [score for score, label in zip(scores, halves.held_out_labels, strict=True) if label]
    wrong = [score for score, label in zip(scores, halves.held_out_labels, strict=True) if not label]
    assert found["direction_auroc/planted/trait"] == pytest.approx(reference.area(right, wrong), abs=1e-6)
    beyond = found["projection/planted/trait"] - found["projection_random/planted"]
    expected = beyond / found["projection_spread/planted"]
    assert found["projection_over_spread/planted/trait"] == pytest.approx(expected, abs=1e-5)


def test_no_prompt_is_fitted_to_and_tried_on() -> None:
    halves = Halves.dealt(7, 5, 4, seed=3)
    assert sorted([*halves.fit.tolist(), *halves.held_out.tolist()]) == list(range(7, 16))
    assert (int(halves.fit_labels.sum()), len(halves.fit), len(halves.held_out)) == (3, 5, 4)
    assert [place < 12 for place in halves.fit.tolist()] == halves.fit_labels.tolist()
    assert [place < 12 for place in halves.held_out.tolist()] == halves.held_out_labels.tolist()


class Moves(pl.Callback):
    """Changes what is planted before each validation run but the first."""

    def __init__(self, change: Any) -> None:
        self.change, self.runs = change, 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        if self.runs:
            with torch.no_grad():
                table = pl_module.lm.layers[1].weight
                table.copy_(self.change(table, pl_module.tokenizer))
        self.runs += 1


def moved(folder: Path, change: Any, **kwargs: Any) -> DirectionTracker:
    callback = tracker(**kwargs)
    pl.seed_everything(0, verbose=False)
    trainer(folder, [Moves(change), callback], max_epochs=3).fit(model_of(planted(3.0)), loader(), loader())
    return callback


def along(dimension: int, by: float) -> Any:
    def change(table: torch.Tensor, tokenizer: Any) -> torch.Tensor:
        places = [tokenizer.encode(word, add_special_tokens=False)[0] for word in PROMPTS]
        found = table.clone()
        found[places, dimension] += by
        return found

    return change


def test_prompts_that_are_moved_along_it_are_seen_and_others_are_not(tmp_path: Path) -> None:
    towards, aside = (moved(tmp_path, along(dimension, 1.0)) for dimension in (0, 5))
    _, values = towards.history.series("projection/planted/trait")
    assert values[0] < values[1] - 0.5 < values[2] - 0.8
    assert towards.reading["projection_shift/planted/trait"] > 3
    assert towards.reading["projection_over_spread/planted/trait"] > 2
    assert abs(aside.reading["projection_shift/planted/trait"]) < 2
    assert abs(aside.reading["projection_over_spread/planted/trait"]) < 2
    for callback in (towards, aside):
        assert callback.reading["direction_drift/planted/trait"] == pytest.approx(1, abs=1e-6), "A and B did not move"
        # Nothing moves at the other site.
        _, still = callback.history.series("projection/noise/trait")
        assert still[0] == still[1] == still[2]


def test_a_direction_that_turns_is_followed_by_none(tmp_path: Path) -> None:
    angle = math.pi / 6
    turn = torch.eye(WIDTH)
    turn[0, 0] = turn[1, 1] = math.cos(angle)
    turn[0, 1], turn[1, 0] = math.sin(angle), -math.sin(angle)
    callback = moved(tmp_path, lambda table, tokenizer: table @ turn)
    _, drift = callback.history.series("direction_drift/planted/trait")
    assert drift[0] == pytest.approx(1, abs=1e-6)
    # It lies nearly in the plane.
    assert drift[1:] == pytest.approx([math.cos(angle), math.cos(2 * angle)], abs=0.05)


def test_directions_that_are_given() -> None:
    first, second = torch.eye(WIDTH)[0] * 7, {site: torch.eye(WIDTH)[1] for site in SITES}
    vectors = planted()
    found = analyze(model_of(vectors), loader(), tracker({"first": first, "second": second}))
    for place, name in enumerate(("first", "second")):
        expected = [reference.projection(h, torch.eye(WIDTH)[place].tolist()) for h in vectors[120:].tolist()]
        assert found[f"projection/planted/{name}"] == pytest.approx(math.fsum(expected) / 60, abs=1e-6)
    assert not [key for key in found if key.startswith(("direction_auroc", "direction_drift"))]


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ({}, "`directions` must map names to prompts or vectors, got {}"),
        ({"a/b": (A, B)}, "`directions` has the name 'a/b', which becomes part of a key"),
        ({"t": (A, B[:1])}, r"'t' must be two lists of two prompts or more, A and B; got lists of \[60, 1\]"),
        ({"t": "polite"}, "'t' must be two lists of two prompts or more, A and B, or a vector, .* got 'polite'"),
        ({"t": ([1, 2], A)}, "'t' must be two lists of two prompts or more, A and B; got 'int'"),
        ({"t": torch.zeros(2, 2)}, r"'t' must be a vector \(D,\), got shape \(2, 2\)"),
        ({"t": {"planted": [1.0]}}, r"'t' must be a vector \(D,\), got list"),
        ({"t": torch.zeros(3)}, r"'t' must have a length, got 0.0"),
    ],
)
def test_arguments(directions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tracker(directions)


def test_what_does_not_fit_the_model_is_told() -> None:
    with pytest.raises(ValueError, match="`prompts` must be a list of prompts, got 'one'"):
        DirectionTracker({"t": (A, B)}, SITES, "one")
    with pytest.raises(ValueError, match=r"gives 't' for the sites \['planted'\], and none for 'noise'"):
        analyze(model_of(planted()), loader(), tracker({"t": {"planted": torch.ones(WIDTH)}}))
    with pytest.raises(ValueError, match=r"gives 't' as a vector of 3, and site 'noise' has 12 dimensions"):
        analyze(model_of(planted()), loader(), tracker({"t": torch.ones(3)}, baseline=False))


# ------------------------------------------------- a model that is tuned

KINDS = {kind: [f"{kind}{n}" for n in range(8)] for kind in "nabu"}


def sentences(ends: str, number: int, seed: int) -> list[str]:
    """Three words of no kind, and three of one."""
    generator = torch.Generator().manual_seed(seed)

    def words(kind: str) -> list[str]:
        return [KINDS[kind][place] for place in torch.randint(8, (3,), generator=generator).tolist()]

    return [" ".join(words("n") + words(ends[place % len(ends)])) for place in range(number)]


def test_tuning_towards_a_moves_prompts_and_tuning_on_other_text_does_not(tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    model, encoded = learner(sentences("abu", 1800, 0))
    model.lr = 3e-3
    trainer(tmp_path, [], max_epochs=2).fit(model, DataLoader(encoded, 32, shuffle=True))
    prompts = [" ".join(one.split()[:3]) for one in sentences("n", 24, 7)]

    def tuned(towards: str) -> DirectionTracker:
        copied = copy.deepcopy(model)
        copied.lr = 1e-3
        callback = DirectionTracker(
            {"a": (sentences("a", 24, 5), sentences("b", 24, 6))},
            {"layer": "lm.transformer.h.1"},
            prompts,
            model="lm",
            baseline=False,
        )
        text = torch.tensor([model.tokenizer.encode(one) for one in sentences(towards, 320, 9)])
        schedule = ValidationSchedule(steps=[1, 10, 50])
        trainer(tmp_path, [schedule, callback], max_epochs=5).fit(copied, DataLoader(text, 32), DataLoader(text[:8], 8))
        return callback

    a, other = tuned("a"), tuned("u")
    _, values = a.history.series("projection/layer/a")
    assert values == sorted(values)
    assert values[-1] - values[0] > 2
    assert a.reading["projection_over_spread/layer/a"] > 1
    assert max(a.history.series("projection_shift/layer/a")[1]) > 1.5
    assert max(map(abs, other.history.series("projection_shift/layer/a")[1])) < 1
    assert a.reading["direction_auroc/layer/a"] > 0.9
    assert set(a.figures()) == {"directions/curves"}
    assert a.figures()["directions/curves"]().axes


# ------------------------------------------------- in a Trainer


def fit(folder: object, callback: DirectionTracker, **kwargs: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    run = trainer(folder, [Moves(along(0, 1.0)), callback], **kwargs)
    run.fit(model_of(planted()), loader(), loader())
    return run


def test_resuming_keeps_the_direction(tmp_path: Path) -> None:
    whole, first, second = tracker(), tracker(), tracker()
    fit(tmp_path, whole, max_epochs=3)
    fit(tmp_path, first, max_epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    moves = Moves(along(0, 1.0))
    moves.runs = 1
    trainer(tmp_path, [moves, second], max_epochs=3).fit(
        model_of(planted()), loader(), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=True
    )
    assert timeless(second) == timeless(whole)
    assert "projection_shift/planted/trait" in second.reading
    assert set(second.figures()) == {"directions/curves", "directions/trait"}
    assert all(draw().axes for draw in second.figures().values())


def over_ranks() -> dict[str, float]:
    return validated(tracker(), model_of(planted()), loader())


def test_ranks_read_what_one_process_reads(ranks: Any) -> None:
    alone = over_ranks()
    first, *others = ranks.run(over_ranks)
    assert first == pytest.approx(alone, abs=1e-6)
    assert all(other == first for other in others)
