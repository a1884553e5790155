"""The picture of a whole run: what is followed, panel by panel, with phases and knees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from matplotlib.figure import Figure

from lightning_interp.decisions import PhaseState, boundaries
from lightning_interp.figures import training_phases
from lightning_interp.functional.knees import KneeFit
from lightning_interp.reporting.measure_words import ParsedKey, display_name, parse_key, split_loader

__all__ = ["overview", "overview_panels"]

Series: TypeAlias = Mapping[str, tuple[Sequence[int], Sequence[float]]]

_MOST = 6  # panels


class _Panel(NamedTuple):
    title: str
    labels: dict[str, str]
    """Key → what its line is called; ``""`` where the title says it all."""


def overview(
    series: Series,
    fits: Mapping[str, KneeFit | None],
    standing: PhaseState,
    names: Sequence[str],
    loss: str,
    note: str,
    loaders: Sequence[str] | None = None,
) -> Figure:
    """Draw what a run is followed by, the loss first.

    Args:
        series: Key → (steps, values).
        fits: Key → its segments, for the marks of knees.
        standing: The phases so far, and where a next one seems to begin that is not confirmed yet.
        names: Of the phases, from the first.
        loss: The key at the top; its panel is there without a reading, too.
        note: The conclusion, in which keys are put into words.
        loaders: Names of the validation loaders.

    Returns:
        A figure of at most six panels; the note names what has no place in it.

    Example:
        >>> steps = [1, 10, 100]
        >>> curves = {"val/loss": (steps, [3.0, 2.0, 1.0]), "effective_rank/encoder": (steps, [2.0, 5.0, 4.0])}
        >>> figure = overview(curves, {}, PhaseState(), ["phase one"], "val/loss", "phase one goes on")
        >>> [axes.get_title("left") for axes in figure.axes]
        ['val/loss', 'effective rank at encoder']

    """
    given = {loss: series.get(loss, ([], [])), **series}
    panels = overview_panels(given, loss, loaders)
    shown, left_out = panels[:_MOST], panels[_MOST:]
    for key in sorted(given, key=len, reverse=True):
        note = note.replace(key, display_name(key, loaders))
    if left_out:
        note = f"{note}. Not drawn: {'; '.join(panel.title for panel in left_out)}"
    steps = [step for at, _ in given.values() for step in at[:1]]
    starts = [float(min(steps, default=0)), *(at.step for at in standing.boundaries)]
    provisional = standing.provisional
    next_name = names[len(starts)] if len(starts) < len(names) else "next phase"
    return training_phases(
        {panel.title: {label: given[key] for key, label in panel.labels.items()} for panel in shown},
        phases=list(zip(starts, [*starts[1:], None], names, strict=False)),
        knees={panel.title: {label: _knees(fits.get(key)) for key, label in panel.labels.items()} for panel in shown},
        note=note,
        provisional=None if provisional is None else (provisional.step, None, f"{next_name}?"),
    )


def overview_panels(series: Series, loss: str, loaders: Sequence[str] | None = None) -> list[_Panel]:
    """Which keys share a panel: losses, scores between 0 and 1, and the sites and label sets of each measure.

    Any other key of the model's own has a panel for itself and for its other loaders.

    Args:
        series: Key → (steps, values), in the order of the panels.
        loss: The key of the first panel.
        loaders: Names of the validation loaders.

    Example:
        >>> at = [1, 10]
        >>> curves = {"val/loss": (at, [3.0, 2.0]), "acc": (at, [0.1, 0.2]), "f1": (at, [0.1, 0.1]), "lr": (at, [9, 8])}
        >>> curves |= {f"regularity_above_chance/enc/{labels}": (at, [0.1, 0.2]) for labels in ("token", "bigram")}
        >>> for panel in overview_panels(curves, "val/loss"):
        ...     print(panel.title, list(panel.labels.values()))
        val/loss ['']
        scores ['acc', 'f1']
        lr ['']
        regularity, above chance, at enc ['token', 'bigram']

    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for key in [loss, *(key for key in series if key != loss)]:
        found = parse_key(key)
        own = split_loader(key)[0]
        if found is not None:
            group: tuple[str, ...] = ("measure", found.prefix, found.title)
        elif key == loss or "loss" in own.lower():
            group = ("loss",)
        elif all(0 <= value <= 1 for value in series[key][1] if math.isfinite(value)):
            group = ("scores",)
        else:
            group = ("own", own)
        groups.setdefault(group, []).append(key)
    # A loss that is a measure of ours still comes first, as it was the first key.
    return [_panel(keys, kind[0], loaders) for kind, keys in groups.items()]


def _panel(keys: Sequence[str], kind: str, loaders: Sequence[str] | None) -> _Panel:
    if len(keys) == 1:
        return _Panel(display_name(keys[0], loaders), {keys[0]: ""})
    parsed = [found for key in keys if (found := parse_key(key)) is not None]
    if kind == "measure":
        return _measure_panel(keys, parsed, loaders)
    names = {key: display_name(key, loaders) for key in keys}
    bases = {split_loader(key)[0] for key in keys}
    if len(bases) == 1:  # one metric on several loaders
        (base,) = bases
        return _Panel(base, {key: name.removeprefix(f"{base}, ") for key, name in names.items()})
    return _Panel({"loss": "losses", "scores": "scores"}[kind], names)


def _measure_panel(keys: Sequence[str], parsed: Sequence[ParsedKey], loaders: Sequence[str] | None) -> _Panel:
    """One measure at several sites or for several label sets: what they share goes into the title."""
    first = parsed[0]
    same_length = len({len(found.parts) for found in parsed}) == 1
    shared = [same_length and len({found.parts[at] for found in parsed}) == 1 for at in range(len(first.parts))]
    labels = {}
    for key, found in zip(keys, parsed, strict=True):
        apart = [part for at, part in enumerate(found.parts) if not same_length or not shared[at]]
        if len({one.loader for one in parsed}) > 1:
            apart.append(display_name(f"x/dataloader_idx_{found.loader or 0}", loaders).removeprefix("x, "))
        labels[key] = ", ".join(apart)
    common = [part for part, same in zip(first.parts, shared, strict=True) if same]
    title = first.title
    if common:
        title += f", at {common[0]}" if shared[0] else f", {common[0]}"
        title += "".join(f", {part}" for part in common[1:])
    if first.prefix:
        title += f", {first.prefix.strip('/_.-')}"
    return _Panel(title, labels)


def _knees(fit: KneeFit | None) -> list[tuple[float, float, float]]:
    known = fit is not None and len(fit.intervals) == len(fit.knees)
    return [(at.step, at.low, at.high) if known else (at.step, math.nan, math.nan) for at in boundaries(fit)]
