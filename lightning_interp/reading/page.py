"""TensorBoard's page "Custom Scalars": an overview first, then a category for each callback, bookkeeping last."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from lightning_interp.metrics.derived import ABOVE_BASELINE, ABOVE_CHAIN, ABOVE_CHANCE, BINNED, Derived
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures import MEASURES
from lightning_interp.reporting.measure_words import ParsedKey, chart_title, parse_key, split_loader

__all__ = ["Source", "is_loss", "is_score", "page"]

Charts = dict[str, list[str]]

LINES = 4
"""Of a chart: TensorBoard draws them in one colour, with as many different markers."""
OVERVIEW, OWN, BOOKKEEPING = "Overview", "The model's own", "Bookkeeping"
_MOST = 4  # charts of the model's own in the overview

# Of a measure the overview shows what is above something that it is compared with, and the first of two estimators.
_SHOWN = [
    (*before, *above)
    for before in ((), (BINNED,))
    for above in ((ABOVE_BASELINE,), (ABOVE_CHANCE,), (ABOVE_CHAIN,), ())
]
_LOSS = re.compile(
    r"(?<![a-z])(loss|nll|ce|bce|xent|cross_?entropy|mse|mae|rmse|err|error|perplexity|ppl)(?![a-z])|loss$"
)
_VAL_LOSS = re.compile(r"^(?:val|valid|validation)[/_.-]?loss((?: \(.*)?)$")
_SCORE = re.compile(
    r"(?<![a-z])(acc|accuracy|f1|precision|recall|auc|auroc|map|iou|dice|score|em|exact_?match|bleu|rouge|r2|mcc|psnr|ssim)"
    r"(?![a-z])"
)


class Source(NamedTuple):
    """A callback that logs."""

    name: str
    prefix: str
    charts: Mapping[str, Sequence[str]]
    """What it shows, by the chart's title, under whole keys."""
    logged: Sequence[str]
    """Every whole key that it may log."""


def is_loss(key: str) -> bool:
    """Whether a metric is a loss, by its name.

    Example:
        >>> is_loss("val/loss"), is_loss("valid_nll"), is_loss("val_glossary"), is_loss("val_acc")
        (True, True, False, False)

    """
    return _LOSS.search(key.lower()) is not None


def is_score(key: str) -> bool:
    """Whether a metric is a score, by its name.

    Example:
        >>> is_score("val_acc/top5"), is_score("val/f1"), is_score("vacuum"), is_score("val_loss")
        (True, True, False, False)

    """
    return not is_loss(key) and _SCORE.search(key.lower()) is not None


def page(own: Sequence[str], sources: Sequence[Source], loaders: Sequence[str] | None = None) -> dict[str, Charts]:
    """The whole page.

    Args:
        own: Metrics of the model that a validation logs.
        sources: The callbacks, in any order.
        loaders: Names of the validation loaders.

    Returns:
        Category → chart → the keys in it. No chart holds two metrics of the model, and none more than four lines but
        where a callback's own ``charts`` say so.

    Example:
        >>> source = Source("RankReader", "", {"effective rank": ["effective_rank/enc"]}, ["effective_rank/enc"])
        >>> for category, charts in page(["val_acc", "val_loss", "lr"], [source]).items():
        ...     print(category, charts)
        Overview {'validation loss': ['val_loss'], 'val_acc': ['val_acc'], 'effective rank': ['effective_rank/enc']}
        The model's own {'lr': ['lr']}
        Rank reader {'effective rank': ['effective_rank/enc']}

    """
    mine = _own_charts(own, loaders)
    losses, scores = ([title for title, keys in mine.items() if test(keys[0])] for test in (is_loss, is_score))
    first = [*losses[:_MOST], *scores[:_MOST]]
    # The phase stands beside the loss, so that it is seen first.
    lines = _headlines(sources, loaders)
    overview = {_plain(title, losses): mine[title] for title in losses[:_MOST]} | lines.pop(_PHASE, {})
    overview |= {title: mine[title] for title in scores[:_MOST]}
    for line in sorted(lines):
        overview |= lines[line]
    layout = {OVERVIEW: overview, OWN: {title: keys for title, keys in mine.items() if title not in first}}
    known = {*own, *(key for source in sources for key in source.logged)}
    books: Charts = {}
    for source in sources:
        charts = layout.setdefault(words_of_class(source.name), {})
        for title, keys in source.charts.items():
            shown = [found for key in keys if (found := _find(key, known))]
            charts |= dict(_split(title, shown, source.prefix))
        rest = [key for key in source.logged if key not in {line for lines in charts.values() for line in lines}]
        for key in rest:
            books.setdefault(chart_title(key, source.prefix, loaders), []).append(key)
    layout[BOOKKEEPING] = {part: lines for title, keys in books.items() for part, lines in _split(title, keys)}
    return {category: charts for category, charts in layout.items() if charts}


def words_of_class(name: str) -> str:
    """A class's name in words.

    Example:
        >>> words_of_class("RepresentationStructure_2")
        'Representation structure 2'

    """
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return " ".join([*parts[:1], *(part if part.isupper() else part.lower() for part in parts[1:])])


def _own_charts(own: Sequence[str], loaders: Sequence[str] | None) -> Charts:
    """The model's metrics: a chart each, with all loaders."""
    found: dict[str, list[tuple[int, str]]] = {}
    for key in own:
        base, loader = split_loader(key)
        found.setdefault(base, []).append((-1 if loader is None else loader, key))
    charts: Charts = {}
    for base, keys in sorted(found.items()):
        numbered = sorted(keys)
        # A legend has keys, and only a title can say what their numbers mean.
        named = [f"{n} {loaders[n]}" for n, _ in numbered if loaders is not None and 0 <= n < len(loaders)]
        charts[f"{base} ({', '.join(named)})" if named else base] = [key for _, key in numbered]
    return charts


def _plain(title: str, losses: Sequence[str]) -> str:
    """The title of a chart, in plain words where it is the one validation loss."""
    plain = {one: f"validation loss{loaders[0]}" for one in losses if (loaders := _VAL_LOSS.findall(one))}
    return plain[title] if title in plain and len(plain) == 1 else title


def _headlines(sources: Sequence[Source], loaders: Sequence[str] | None) -> dict[int, Charts]:
    """The charts of the overview, by line."""
    logged = [
        (key, found, source)
        for source in sources
        for key in source.logged
        if (found := parse_key(key, source.prefix)) is not None
    ]
    lines: dict[int, Charts] = {}
    for line, choices in _CHOICES.items():
        for measure, derived in choices:
            there = [(key, one, of) for key, one, of in logged if _is(one, measure, derived)]
            charts: Charts = {}
            for key, _, source in there:
                assert measure.headline is not None
                beside = [k for k, one, of in logged if of is source and one.measure == measure.headline.beside]
                title = chart_title(key, source.prefix, loaders)
                chart = charts.setdefault(f"{title}, confirmed and provisional" if beside else title, [])
                chart.extend(line for line in (key, *beside) if line not in chart)
            if there:
                lines[line] = {title: keys for given, found in charts.items() for title, keys in _few(given, found)}
                break
    return lines


def _choices() -> dict[int, list[tuple[Measure, tuple[Derived, ...]]]]:
    """By line of the overview what may stand there, of which the first that is logged does."""
    shown: dict[int, list[Measure]] = {}
    for measure in MEASURES.values():
        if measure.headline is not None:
            shown.setdefault(measure.headline.line, []).append(measure)
    return {line: [(one, derived) for derived in _SHOWN for one in shown[line]] for line in sorted(shown)}


def _is(key: ParsedKey, measure: Measure, derived: tuple[Derived, ...]) -> bool:
    if key.words != measure or key.derived != derived or measure.headline is None:
        return False
    part = measure.headline.part
    return part is None or (part in key.parts if part else len(key.parts) == 1)


_CHOICES = _choices()
_PHASE = min(_CHOICES)  # beside the loss


def _few(title: str, keys: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Of many lines some that are spread evenly over the sites; label sets have a chart each."""
    for named, lines in _by_labels(title, keys):
        if len(lines) > LINES:
            at = [round(index * (len(lines) - 1) / (LINES - 1)) for index in range(LINES)]
            yield f"{named} ({LINES} of {len(lines)})", [lines[index] for index in at]
        else:
            yield named, lines


def _split(title: str, keys: Sequence[str], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Charts of at most so many lines."""
    for named, lines in _by_labels(title, keys, prefix):
        number = -(-len(lines) // LINES)
        for index in range(number):
            part = lines[index * LINES : (index + 1) * LINES]
            yield (named if number == 1 else f"{named} ({index + 1} of {number})"), part


def _by_labels(title: str, keys: Sequence[str], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """One chart of all label sets, or one for each where there are too many lines."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        found = parse_key(key, prefix)
        labels = "" if found is None or found.words.form else "/".join(found.parts[1:])
        groups.setdefault(labels, []).append(key)
    if len(keys) <= LINES or len(groups) == 1:
        yield title, list(keys)
        return
    for labels, lines in groups.items():
        yield f"{title}: {labels}" if labels else title, lines


def _find(key: str, known: Collection[str]) -> str | None:
    """The key, or that of the first of several loaders."""
    return next((one for one in (key, f"{key}/dataloader_idx_0") if one in known), None)
