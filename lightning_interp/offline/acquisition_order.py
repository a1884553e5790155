"""What a model learned when, over all that its callbacks read; and how far the orders of several seeds agree."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from matplotlib.figure import Figure

from lightning_interp.figures.acquisition_chart import acquisition_chart
from lightning_interp.functional.acquisition import Acquisition, LearnedCurve, acquisition_order
from lightning_interp.functional.rank_correlation import Concordance, average_ranks, kendall_w
from lightning_interp.functional.student import mean_interval
from lightning_interp.offline.readings import Readings, Source

__all__ = [
    "KINDS",
    "AcquisitionOrder",
    "AcquisitionAgreement",
    "Kind",
    "Learned",
    "acquisition",
    "acquisition_agreement",
]


@dataclass(frozen=True)
class Kind:
    """A kind of things that may be learned: the form of its keys, and what they are held against.

    Args:
        group: What is ranked together.
        says: What its readings are, in words.
        key: The form of the key, of which more is better. ``{site}`` stands for one of several places that a thing is
            read at, any other word in braces for what tells things apart.
        name: What a thing is called.
        chance: The level of chance, where it is always the same.
        levels: Forms of keys that hold levels of chance, of which the highest counts; in place of ``chance``.
        above: The form of the key that holds the reading less the level of chance; in place of ``chance``.
        baseline: The form of the key that holds the same of random weights. Without one the first reading takes its
            place, whose weights are nearly random.

    """

    group: str
    says: str
    key: str
    name: str = "{thing}"
    chance: float = 0.0
    levels: tuple[str, ...] = ()
    above: str = ""
    baseline: str = ""


# What each of our keys is compared with.
KINDS: tuple[Kind, ...] = (
    Kind("words", "next word right", "class_accuracy/{source}/{thing}"),
    Kind("phenomena", "minimal pairs right", "pairs_accuracy/{thing}", chance=0.5),
    Kind(
        "relations",
        "facts right",
        "cloze_accuracy/{thing}",
        levels=("cloze_majority/{thing}", "cloze_frequency/{thing}", "cloze_chance/{thing}"),
    ),
    Kind(
        "probes",
        "labels by linear probes",
        "probe_accuracy/{site}/{thing}",
        levels=("probe_chance/{site}/{thing}",),
        baseline="probe_baseline/{site}/{thing}",
    ),
    Kind(
        "probes",
        "edges of trees (UUAS)",
        "uuas/{site}",
        "tree distance",
        above="uuas_above_chain/{site}",
        baseline="uuas_baseline/{site}",
    ),
    Kind("probes", "coordinates (R²)", "coordinate_r2/{site}", "coordinates", baseline="coordinate_r2_baseline/{site}"),
    Kind(
        "probes",
        "truth, unseen topic, with negations",
        "truth_overall/{site}/{thing}",
        "truth, {thing}",
        chance=0.5,
        baseline="truth_overall_baseline/{site}/{thing}",
    ),
    Kind("probes", "confidence tells right from wrong", "auroc_confidence/{site}", "confidence", chance=0.5),
)
"""The kinds that this package's callbacks read."""


@dataclass(frozen=True)
class Learned:
    """When and how far a thing was learned.

    Args:
        group: What it is ranked with.
        key: What it is read from.
        site: Where it is read, of several sites: where most of it is read in the end. Empty for what has one place.
        chance: The level of chance; NaN where no reading holds it.
        baseline: That of random weights, or the first reading where nobody reads those. Of several sites that where
            random weights do best, since the thing had its choice of sites too.
        curve: When it came to the share of its final rise above both, all NaN if never; its first, best and final
            value.
        learned: Whether it ends above both.
        forgotten: Whether it ends far below what it had come to, as means of three readings.

    """

    group: str
    key: str
    site: str
    chance: float
    baseline: float
    curve: LearnedCurve
    learned: bool
    forgotten: bool

    @property
    def rank_by(self) -> float:
        """The step at which it was learned; infinite if it was not."""
        step = self.curve.acquired.step
        return math.inf if math.isnan(step) else step


@dataclass(frozen=True)
class AcquisitionOrder:
    """What :func:`acquisition` found.

    Args:
        things: Name → when and how far it was learned.
        steps: Those of the readings.
        share: Of the final rise above chance and random weights.

    """

    things: Mapping[str, Learned]
    steps: Sequence[int]
    share: float

    @property
    def groups(self) -> dict[str, list[str]]:
        """The things that are ranked together, the earliest first and those never learned last."""
        found: dict[str, list[str]] = {}
        for name, one in sorted(self.things.items(), key=lambda item: item[1].rank_by):
            found.setdefault(one.group, []).append(name)
        return {group: found[group] for group in dict.fromkeys(one.group for one in self.things.values())}

    def table(self) -> str:
        """A line a thing: chance, random weights, final value, and the step with the readings it lies between."""
        lines = [f"{'':28}  {'chance':>6}  {'random':>6}  {'final':>6}  step (between readings)"]
        for group, names in self.groups.items():
            lines.append(group)
            for name in names:
                one = self.things[name]
                acquired = one.curve.acquired
                when = (
                    f"{acquired.step:.0f} ({acquired.low:.0f} to {acquired.high:.0f})" if one.learned else "not there"
                )
                where = f"  at {one.site}" if one.site else ""
                levels = "  ".join(f"{value:6.2f}" for value in (one.chance, one.baseline, one.curve.final))
                lines.append(f"  {name:26}  {levels}  {when}{where}{'  forgotten' if one.forgotten else ''}")
        return "\n".join(lines)

    def plot(self, title: str | None = None) -> Figure:
        """A row a thing, the earliest at the top."""
        return acquisition_agreement([self]).plot(title)


def acquisition(
    *sources: Source,
    share: float = 0.9,
    kinds: Sequence[Kind] = KINDS,
    least_rise: float = 0.05,
    lost: float = 0.2,
) -> AcquisitionOrder:
    r"""When each thing that callbacks read was learned: words, phenomena, relations, what probes find.

    A thing is learned at the first reading from which on it stays at

    .. math:: v(s) \ge c + q \, (v_\mathrm{final} - c)

    with q the share and c the larger of chance and random weights (Chiang et al. 2020, arXiv 2010.02480;
    :func:`~lightning_interp.functional.acquisition_step`). What is read at several sites counts where it is read best
    in the end, over three readings, since one may be high by luck.

    Args:
        sources: One run: its callbacks, their histories, a ``readings.csv``, or :class:`~lightning_interp.Readings`.
        share: q, above 0 and at most 1.
        kinds: What is looked for, by the form of its keys. A callback's ``prefix`` stands in its keys: give kinds that
            have it too.
        least_rise: What ends less than this above c was not learned.
        lost: What ends so far below its highest level, as a share of its rise above c, is called forgotten; both as
            means of three readings.

    Raises:
        ValueError: If none of the kinds was read, or ``share`` is out of range.

    Cost: milliseconds a hundred keys.

    Example:
        >>> read = {1: 0.5, 10: 0.6, 100: 1.0}
        >>> rows = [{"step": step, "pairs_accuracy/binding": value} for step, value in read.items()]
        >>> print(acquisition(Readings(rows)).table())
                                      chance  random   final  step (between readings)
        phenomena
          binding                       0.50    0.50    1.00  76 (10 to 100)

    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must lie above 0 and not above 1, got {share}.")
    readings = Readings.of(*sources)
    things: dict[str, Learned] = {}
    for kind in kinds:
        things |= _judged(kind, readings, share, least_rise, lost)
    if not things:
        raise ValueError(
            f"No reading is of {[kind.key for kind in kinds]}; there are {readings.keys[:12]}. A callback's `prefix` "
            "stands in its keys."
        )
    return AcquisitionOrder(things, readings.steps(), share)


def keys_of(kind: Kind, readings: Readings) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Name of each thing of a kind → its keys, with what their braces stand for."""
    pattern = _pattern(kind.key)
    found: dict[tuple[str, ...], list[tuple[str, dict[str, str]]]] = {}
    for key in readings.keys:
        match = pattern.fullmatch(key)
        if match and match.groupdict().get("thing") != "mean":
            words = match.groupdict()
            found.setdefault(tuple(value for name, value in words.items() if name != "site"), []).append((key, words))
    names = [kind.name.format(**keys[0][1]) for keys in found.values()]
    # Two predictions of one model have classes of one name.
    several = {name for name in names if names.count(name) > 1}
    return {
        "/".join(apart) if name in several else name: keys
        for name, (apart, keys) in zip(names, found.items(), strict=True)
    }


def _pattern(form: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", form)
    return re.compile(
        "".join(f"(?P<{part}>[^/]+)" if place % 2 else re.escape(part) for place, part in enumerate(parts))
    )


def _judged(kind: Kind, readings: Readings, share: float, least_rise: float, lost: float) -> dict[str, Learned]:
    found = {}
    for name, keys in keys_of(kind, readings).items():
        known = {key: curve for key, _ in keys if (curve := _known(readings, key))[0]}
        if not known:
            continue
        key, words = max((one for one in keys if one[0] in known), key=lambda one: fmean(known[one[0]][1][-3:]))
        steps, values = known[key]
        chance = _chance(kind, key, words, readings)
        untrained = [value for _, of in keys if (value := _value(readings, kind.baseline, of)) is not None]
        baseline = max(untrained, default=values[0])
        floor = baseline if math.isnan(chance) else max(chance, baseline)
        (learned_curve,) = acquisition_order({name: (steps, values)}, share, floor)
        learned = learned_curve.final - floor >= least_rise
        if not learned:
            learned_curve = learned_curve._replace(acquired=Acquisition(*[math.nan] * 3))
        smooth = [fmean(values[max(0, end - 3) : end]) for end in range(1, len(values) + 1)]
        rise = max(smooth) - floor
        forgotten = rise >= least_rise and max(smooth) - smooth[-1] > lost * rise
        found[name] = Learned(
            kind.group, key, words.get("site", ""), chance, baseline, learned_curve, learned, forgotten
        )
    return found


def _known(readings: Readings, key: str) -> tuple[list[int], list[float]]:
    steps, values = readings.series(key)
    kept = [place for place, value in enumerate(values) if not math.isnan(value)]
    return [steps[place] for place in kept], [values[place] for place in kept]


def _value(readings: Readings, form: str, words: Mapping[str, str]) -> float | None:
    """The last value under a key of this form, where there is one."""
    _, values = _known(readings, form.format(**words)) if form else ([], [])
    return values[-1] if values else None


def _chance(kind: Kind, key: str, words: Mapping[str, str], readings: Readings) -> float:
    if kind.above:
        above = _value(readings, kind.above, words)
        return math.nan if above is None else _known(readings, key)[1][-1] - above
    if kind.levels:
        return max((v for form in kind.levels if (v := _value(readings, form, words)) is not None), default=math.nan)
    return kind.chance


# ------------------------------------------------- over seeds


@dataclass(frozen=True)
class AcquisitionAgreement:
    """What :func:`acquisition_agreement` found.

    Args:
        orders: That of each seed.
        groups: What is ranked together, by mean rank: those things that all seeds have.
        ranks: Group → float64 (seeds, things), 1 for the earliest, ties sharing their mean, things in their order.
        concordance: Group → Kendall's W over the seeds, with its p; not for a group of one thing, nor for one seed.

    """

    orders: Sequence[AcquisitionOrder]
    groups: Mapping[str, Sequence[str]]
    ranks: Mapping[str, torch.Tensor]
    concordance: Mapping[str, Concordance]

    def table(self) -> str:
        """A line a thing of each group of two or more: mean rank, step and final value with 95 % intervals."""
        lines: list[str] = []
        for group, agreed in self.concordance.items():
            names = self.groups[group]
            lines.append(f"\n{group}: Kendall's W {agreed.w:.2f} (p = {agreed.p:.3f}, {len(names)} things)")
            heads = f"{'rank':>11}  {'step':>20}  {'chance':>6}  {'random':>6}  {'final':>11}  learned, lost"
            lines.append(f"{'':28}  {heads}")
            for place, name in enumerate(names):
                found = [order.things[name] for order in self.orders]
                logs = [math.log(one.curve.acquired.step) for one in found if one.learned]
                step = ""
                if len(logs) > 1:
                    middle, half = mean_interval(logs)
                    step = f"{math.exp(middle):.0f} ({math.exp(middle - half):.0f} to {math.exp(middle + half):.0f})"
                finals = "{:.2f} ± {:.2f}".format(*mean_interval([one.curve.final for one in found]))
                rank = "{:.1f} ± {:.1f}".format(*mean_interval(self.ranks[group][:, place].tolist()))
                levels = [fmean(one.chance for one in found), fmean(one.baseline for one in found)]
                counts = f"{sum(one.learned for one in found)}, {sum(one.forgotten for one in found)}"
                lines.append(
                    f"  {name:26}  {rank:>11}  {step:>20}  {levels[0]:6.2f}  {levels[1]:6.2f}  {finals:>11}  {counts}"
                )
        return "\n".join(lines)

    def plot(self, title: str | None = None) -> Figure:
        """A row a thing, a dot a seed, the earliest at the top."""
        names = [name for of in self.groups.values() for name in of]
        acquired = {name: [order.things[name].curve.acquired for order in self.orders] for name in names}
        return acquisition_chart(acquired, title, self.orders[0].steps)


def acquisition_agreement(orders: Sequence[AcquisitionOrder]) -> AcquisitionAgreement:
    """How far the orders of several seeds agree: Kendall's W of each group.

    Args:
        orders: One a seed. Things that a seed lacks are left out; those never learned share the last ranks.

    Raises:
        ValueError: If there is no order, or no thing that all of them have.

    Example:
        >>> seeds = []
        >>> for seed in range(3):
        ...     at = {"pairs_accuracy/binding": 10, "pairs_accuracy/islands": 100}
        ...     rows = [{"step": s, **{key: 0.5 + 0.5 * (s >= of) for key, of in at.items()}} for s in (1, 10, 100)]
        ...     seeds.append(acquisition(Readings(rows)))
        >>> acquisition_agreement(seeds).groups, acquisition_agreement(seeds).concordance["phenomena"].w
        ({'phenomena': ['binding', 'islands']}, 1.0)

    """
    if not orders:
        raise ValueError("`orders` is empty: expected what acquisition() found, one a seed.")
    names = [name for name in orders[0].things if all(name in order.things for order in orders)]
    if not names:
        raise ValueError(
            f"No thing is common to all `orders`; they have {[list(order.things)[:8] for order in orders]}."
        )
    of: dict[str, list[str]] = {}
    for name in names:
        of.setdefault(orders[0].things[name].group, []).append(name)
    groups, ranks, concordance = {}, {}, {}
    for group, own in of.items():
        steps = torch.tensor([[order.things[name].rank_by for name in own] for order in orders], dtype=torch.float64)
        ranked = torch.stack([average_ranks(row) for row in steps])
        earliest = ranked.mean(0).argsort(stable=True)
        groups[group], ranks[group] = [own[place] for place in earliest.tolist()], ranked[:, earliest]
        if len(own) > 1 and len(orders) > 1:
            concordance[group] = kendall_w(steps)
    return AcquisitionAgreement(orders, groups, ranks, concordance)
