"""The picture of a whole run: which keys share a panel, what they are called, and what is said of phases and knees."""

from __future__ import annotations

import numpy as np

from lightning_interp.callbacks._overview import overview, overview_panels
from lightning_interp.decisions import Boundary, PhaseState, log_spaced_steps
from lightning_interp.functional.knees import fit_knees

STEPS = list(log_spaced_steps(per_decade=12, start=10, stop=2000))
LOADERS = ["in distribution", "out of distribution"]
LOSS = "val_loss/dataloader_idx_0"


def curve(low: float = 0.0, high: float = 1.0) -> tuple[list[int], list[float]]:
    return STEPS, list(np.linspace(low, high, len(STEPS)))


# What examples/two_phases.py follows.
MAIN_JOB = {
    LOSS: curve(4, 0),
    "robustness/input/val_acc": curve(),
    "val_acc/dataloader_idx_1": curve(),
    "information/encoder": curve(),
    "regularity_above_chance/encoder/token": curve(),
    "regularity_above_chance/encoder/bigram": curve(),
}


def drawn(series: dict, loss: str = LOSS, **kwargs: object) -> dict[str, list[str]]:
    """Panel → what its legend says."""
    found = {}
    figure = overview(series, {}, PhaseState(), ["phase one", "phase two"], loss, "a note", LOADERS, **kwargs)
    for axes in figure.axes:
        legend = axes.get_legend()
        said = [] if legend is None else [text.get_text() for text in legend.get_texts()]
        found[axes.get_title("left").replace("\n", " ")] = said
    return found


def test_the_panels_of_the_main_job() -> None:
    assert drawn(MAIN_JOB) == {
        "val_loss, in distribution": [],
        "robustness of val_acc to noise at input": [],
        "val_acc, out of distribution": [],
        "information at encoder": [],
        "regularity, above chance, at encoder": ["token", "bigram"],
    }


def test_the_loss_comes_first_wherever_it_is_followed_and_without_a_reading() -> None:
    last = {**{key: value for key, value in MAIN_JOB.items() if key != LOSS}, LOSS: MAIN_JOB[LOSS]}
    assert next(iter(drawn(last))) == "val_loss, in distribution"
    without = {key: value for key, value in MAIN_JOB.items() if key != LOSS}
    assert next(iter(drawn(without))) == "val_loss, in distribution"
    assert next(iter(drawn({"a": curve(), "val/loss": curve(2, 1)}, loss="val/loss"))) == "val/loss"


def test_one_thing_a_panel() -> None:
    series = {
        "val/loss": curve(4, 0),
        "val/aux_loss": curve(9, 0),
        "val/acc": curve(),
        "val/f1": curve(),
        "val/perplexity/dataloader_idx_0": curve(90, 3),
        "val/perplexity/dataloader_idx_1": curve(90, 9),
        "robustness/input/val_acc": curve(),
        "robustness/emb/val_acc": curve(),
        "effective_rank/encoder": curve(1, 30),
    }
    assert drawn(series, loss="val/loss") == {
        "losses": ["val/loss", "val/aux_loss"],
        "scores": ["val/acc", "val/f1"],
        "val/perplexity": LOADERS,
        "robustness to noise, val_acc": ["input", "emb"],
        "effective rank at encoder": [],
    }


def test_callbacks_of_two_prefixes_do_not_share_a_panel() -> None:
    keys = [f"{prefix}anisotropy/{site}" for prefix in ("", "own/") for site in ("a", "b")]
    panels = overview_panels({"loss": curve(), **{key: curve() for key in keys}}, "loss")
    assert [panel.title for panel in panels] == ["loss", "anisotropy", "anisotropy, own"]
    assert [list(panel.labels) for panel in panels[1:]] == [keys[:2], keys[2:]]


def test_no_value_is_lost_between_keys_and_panels() -> None:
    every = {**MAIN_JOB, "lr": curve(3, 9), "own/anisotropy/encoder": curve(), "x_loss": curve()}
    panels = overview_panels(every, LOSS)
    assert sorted(key for panel in panels for key in panel.labels) == sorted(every)
    assert all(len(set(panel.labels.values())) == len(panel.labels) for panel in panels)
    assert len({panel.title for panel in panels}) == len(panels)


def test_at_most_six_panels_and_the_note_names_the_rest() -> None:
    measures = ("rankme", "effective_rank", "anisotropy", "curvature", "alpha", "matrix_entropy", "information")
    series = {LOSS: curve(4, 0), **{f"{measure}/encoder": curve(1, 9) for measure in measures}}
    figure = overview(series, {}, PhaseState(), ["phase one"], LOSS, "phase one goes on", LOADERS)
    assert len(figure.axes) == 6
    (note,) = figure.texts
    assert "Not drawn: matrix entropy at encoder; information at encoder" in " ".join(note.get_text().split())


def test_the_note_speaks_in_names() -> None:
    figure = overview(MAIN_JOB, {}, PhaseState(), ["phase one"], LOSS, f"{LOSS} has no plateau yet", LOADERS)
    assert figure.texts[0].get_text() == "val_loss, in distribution has no plateau yet"


def test_phases_are_shaded_and_one_that_is_not_sure_has_a_question_mark() -> None:
    names = ["phase one", "phase two"]
    one = overview(MAIN_JOB, {}, PhaseState(), names, LOSS, "")
    assert [text.get_text() for text in one.axes[0].texts] == ["phase one"]
    begun = Boundary(300.0, 250.0, 350.0)
    unsure = overview(MAIN_JOB, {}, PhaseState(provisional=begun), names, LOSS, "")
    assert [text.get_text() for text in unsure.axes[0].texts] == ["phase one", "phase two?"]
    assert [bool(patch.get_hatch()) for patch in unsure.axes[0].patches] == [False, True]
    sure = overview(MAIN_JOB, {}, PhaseState(1, (begun,)), names, LOSS, "")
    assert [text.get_text() for text in sure.axes[0].texts] == names
    assert [bool(patch.get_hatch()) for patch in sure.axes[0].patches] == [False, False]
    assert [patch.get_x() for patch in sure.axes[0].patches][1] == 300.0


def test_knees_have_intervals_where_those_were_computed() -> None:
    x = np.log10(STEPS)
    bent = np.minimum(x - 1, 1.2) + 0.02 * np.sin(37 * x)
    series = {LOSS: (STEPS, list(4 - bent))}
    for intervals in (False, True):
        fits = {LOSS: fit_knees(x, 4 - bent, max_knees=2, intervals=intervals)}
        (axes,) = overview(series, fits, PhaseState(), ["phase one"], LOSS, "").axes
        assert [line for line in axes.get_lines() if line.get_marker() == "|"]
        bars = [line for line in axes.get_lines() if line.get_alpha() == 0.4]
        assert bool(bars) == intervals
        said = [text.get_text() for text in axes.get_legend().get_texts()]
        assert said == (["knee, 95 % interval"] if intervals else ["knee (the curve bends)"])
