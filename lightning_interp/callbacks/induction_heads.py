"""When induction heads form, and what a model learns from its context."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.contents import Key
from lightning_interp.distributed import Collective
from lightning_interp.figures import head_map, site_heatmap, training_phases
from lightning_interp.functional.acquisition import reached
from lightning_interp.functional.induction import icl_score, pattern_chance, repeat_gain
from lightning_interp.isolation.random_weights import Reinit
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.derived import CHANCE, with_random
from lightning_interp.metrics.measure import SUMMARY, Measure
from lightning_interp.metrics.measures.attention import (
    DUPLICATE_TOKEN,
    FORMED_STEP,
    HEAD_EFFECT,
    HEAD_EFFECT_RANDOM,
    ICL_SCORE,
    INDUCTION_HEADS,
    PREFIX_MATCHING,
    REPEAT_GAIN,
    REPEAT_LOSS,
    REPEATED_PREVIOUS_TOKEN,
)
from lightning_interp.parts.baseline import Baseline, beside_random
from lightning_interp.parts.head_axes import TRACKED, checked_heads, head_axes, of_heads
from lightning_interp.parts.head_sites import HeadSites
from lightning_interp.parts.kept import Kept
from lightning_interp.parts.repeated_tokens import PATTERNS, Patterns, RepeatedTokens
from lightning_interp.parts.text_losses import TextLosses
from lightning_interp.parts.words import Words
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.arguments import BatchArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.titles import measure_title

__all__ = ["InductionHeads"]

_OF = dict(zip(PATTERNS, (PREFIX_MATCHING, DUPLICATE_TOKEN, REPEATED_PREVIOUS_TOKEN), strict=True))
_IS_INDUCTION = 0.3
_ABLATED = 4
_MOST_READINGS = 64
_BINS = 40
Heads = Mapping[str, Sequence[int]]


class InductionHeads(ValidationAnalysis):
    r"""Reads when induction heads form, on random tokens that repeat, and what is learned in context, on the text.

    An induction head looks back to what followed the present token where it stood before (Olsson et al. 2022, arXiv
    2209.11895). It is read on fixed sequences [start, s, s, s, s] of n random tokens s, of which nothing but the
    sequence itself tells how they go on: with J(t) the positions behind the earlier occurrences of token t,

    .. math:: \mathrm{prefix\_matching} = \operatorname{mean}_t \sum_{j \in J(t)} A_{tj}

    ==========================================  =======  =============================================================
    key                                         level    what it is
    ==========================================  =======  =============================================================
    ``prefix_matching/max``                     summary  of the head with most of it; 1 for a perfect induction head
    ``induction_heads``                         summary  number of heads above .3
    ``repeated_previous_token/max``             summary  attention to the position before, on these sequences: induction
                                                         needs a head that does that in a layer below
    ``repeat_gain``                             summary  loss in the first copy less loss in the later ones, nats
    ``icl_score``                               summary  loss late in a text less loss early in it, nats, of the
                                                         validation text (conditional: texts may be too short)
    ``formed_step/prefix_matching``             summary  step at which the best head came to half its maximum so far,
                                                         and stayed (conditional: once there is an induction head)
    ``head_effect/best``                        summary  rise of the loss in the later copies where the output of the
                                                         best heads is replaced by its mean, nats (conditional)
    ``head_effect_random/best``                 full     … of as many random heads of the same layers (conditional:
                                                         there may be too few)
    ``duplicate_token/max``                     full     attention to the same token in earlier copies
    ``repeat_loss/first``                       full     loss in the first copy; ``repeat_loss/later`` too
    ``<measure>_chance/max``                    full     what uniform attention has, of the three kinds of attention
    ``<measure>_baseline/max``                  full     the best head of the same model with random weights: of many
                                                         heads the best is above chance whatever they learned
    ``<measure>_above_baseline/max``                     what training adds, at the measure's own level
    ``repeat_gain_baseline``                    full     with random weights
    ``repeat_gain_above_baseline``              summary  what training adds
    ``<measure>/<site>/h<k>``                   full     of one head
    ==========================================  =======  =============================================================

    The score of the text moves before any head forms: copying which tokens a text has is enough for it. It is no
    evidence of induction; the heads are. That induction heads have formed does not say that a model learns tasks from
    examples.

    Args:
        model: Dotted name of the language model in the module that is called with the ids; ``""`` for the module.
        sites: Its attention modules; by default all of it whose class is named after attention.
        ids: Ids that sequences are drawn from. By default those between a fiftieth and half of the vocabulary, which in
            most tokenizers go from common to rare; all ids where these are fewer than 4 · ``length``.
        length: Tokens of s, n.
        repeats: How often s comes.
        sequences: How many sequences.
        start_token: Id in front; by default the ``bos_token_id`` of the model's ``config``, else the first of ``ids``.
        positions: Early and late place of ``icl_score``, counted in tokens; texts that do not reach the late one are
            left out. ``None`` to read no text.
        half_width: Places on either side of each.
        track: Heads to watch, ``{"layers.17": [4]}``: their values stand in the summary, and beside them
            ``head_effect/<site>/h<k>``, with ``head_effect_random/<site>/h<k>`` of another head of the layer.
        ablate: How many of the best heads ``head_effect/best`` takes; 0 for none.
        baseline: Random weights; see :class:`~lightning_interp.callbacks.LayerProbe`.
        forward: Calls the model on sequences: ``forward(model, input_ids, attention_mask)``, logits (B, T, V).
        batch_tokens: Tokens in a forward pass over sequences.
        tokens, mask, padding_idx: Where a validation batch has its text; see
            :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        seed: Of sequences, random heads and random weights.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, the model's context is shorter than a
            sequence, or ``track`` names what is not there.

    Cost: a forward pass over the sequences, two more for the best heads and two for each in ``track``; one with random
        weights at the first reading; losses of the validation text.

    Example:
        >>> callback = InductionHeads(model="lm", sites={"0": "lm.transformer.h.0.attn"})
        >>> callback.logged_keys()[:3]
        ['prefix_matching/max', 'repeated_previous_token/max', 'repeat_gain']

    """

    told_apart = ("language_model", "sites", "prefix")

    def __init__(
        self,
        model: str = "",
        sites: str | Sequence[str] | Mapping[str, str] | None = None,
        ids: Sequence[int] | None = None,
        length: int = 25,
        repeats: int = 4,
        sequences: int = 16,
        start_token: int | None = None,
        positions: tuple[int, int] | None = (50, 500),
        half_width: int = 5,
        track: Mapping[str, Sequence[int]] | None = None,
        ablate: int = _ABLATED,
        baseline: bool | Reinit | None = None,
        forward: Forward | None = None,
        batch_tokens: int = 4096,
        tokens: Key | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        seed: int = 0,
        **kwargs: Unpack[BatchArgs],
    ) -> None:
        super().__init__(**kwargs)
        if ablate < 0:
            raise ValueError(f"`ablate` must be at least 0, got {ablate}.")
        if positions is not None and not 0 <= half_width <= positions[0] < positions[1]:
            raise ValueError(
                f"`positions` must rise and leave `half_width` on either side, got {positions!r} and {half_width}."
            )
        self.language_model = model
        self.sites, self.places = sites, positions
        self.half_width, self.ablate, self.seed = int(half_width), ablate, seed
        self.track = checked_heads(track)
        self.heads = HeadSites(sites, within=model)
        self.repeated = RepeatedTokens(ids, length, repeats, sequences, start_token, seed, model, forward, batch_tokens)
        self.losses: TextLosses | None = None
        if positions is not None:
            self.losses = TextLosses(model, least=positions[1] + self.half_width + 2)
        self.words = Words(tokens, mask, padding_idx, batch_size=self.batch_size, asked=True)
        self.baseline = Baseline(baseline, seed, of=model)
        self.by_position = Kept(_MOST_READINGS)
        """Mean loss by place in the validation text, of evenly spread readings."""

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """The best heads with what they are compared with, losses, and every head."""
        best = [
            PREFIX_MATCHING.at(end="max", level=SUMMARY),
            REPEATED_PREVIOUS_TOKEN.at(end="max", level=SUMMARY),
            DUPLICATE_TOKEN.at(end="max"),
            REPEAT_GAIN,
        ]
        effects = [HEAD_EFFECT.at(end="best", level=SUMMARY), HEAD_EFFECT_RANDOM.at(end="best")]
        return [
            *(with_random(best) if self.baseline.wanted else best),
            *(CHANCE.of(one.at(end="max")) for one in _OF.values()),
            *(INDUCTION_HEADS, REPEAT_LOSS.at(end="first"), REPEAT_LOSS.at(end="later")),
            *((ICL_SCORE,) if self.places is not None else ()),
            FORMED_STEP.at(end="prefix_matching"),
            *(effects if self.ablate else ()),
            *of_heads(list(_OF.values())),
            *(HEAD_EFFECT.at(TRACKED, level=SUMMARY), HEAD_EFFECT_RANDOM.at(TRACKED)),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The heads of every site, and those to watch."""
        return head_axes(self.heads.heads_of(model), self.track)

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """Draw the sequences, and see that heads to watch are there."""
        super().resolve(model)
        self.heads.check(self.track)

    def before_batch(self, seen: Seen) -> None:
        """Read the losses of the text as the batch goes through the model."""
        super().before_batch(seen)
        if self.losses is not None:
            self.losses.read(seen, self.words.of(seen, ["text"])["text"])

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Run the sequences, with random weights too where that is due, and without the best heads."""
        run = partial(self.repeated.patterns, self.heads, reading.group)
        yield from self.baseline.read(self.repeated.model, type(self).__name__, run, self._best)
        found = yield from self.repeated.merged(run(), self.heads)
        values: dict[str, Tensor | float] = dict(self._values(found))
        own = {key: float(value) for key, value in values.items()}
        values |= self.baseline.beside(own, beside_random(self._compared(), {}))
        chance = pattern_chance(self.repeated.length, self.repeated.repeats)
        values |= {CHANCE.of(one.at(end="max")).key(): chance[name] for name, one in _OF.items()}
        values |= yield from self._effects(found, reading)
        if self.losses is not None and self.places is not None:
            sums, numbers = yield from self.losses.merge()
            values[ICL_SCORE.key()] = icl_score(sums, numbers, *self.places, self.half_width)
            self.by_position.now = {"losses": (sums / numbers).float()}
        values[FORMED_STEP.at(end="prefix_matching").key()] = self._formed(reading, own["prefix_matching/max"])
        return values

    def _best(self, own: Patterns) -> Collective[Mapping[str, float]]:
        """What stands beside random weights."""
        found = yield from self.repeated.merged(own, self.heads)
        values = self._values(found)
        return {one.key(): values[one.key()] for one in self._compared()}

    def _compared(self) -> list[Measure]:
        return [*(one.at(end="max", level=one.level) for one in _OF.values()), REPEAT_GAIN]

    def _values(self, found: Patterns) -> dict[str, float]:
        values: dict[str, float] = {}
        for place, measure in enumerate(_OF.values()):
            of_heads = {
                f"{site}/h{head}": value
                for site, scores in found.scores.items()
                for head, value in enumerate(scores[place].tolist())
            }
            values |= {f"{measure.name}/{head}": value for head, value in of_heads.items()}
            values[measure.at(end="max").key()] = max(of_heads.values())
            if measure is PREFIX_MATCHING:
                values[INDUCTION_HEADS.key()] = float(sum(value > _IS_INDUCTION for value in of_heads.values()))
        again = self.repeated.length
        values[REPEAT_LOSS.at(end="first").key()] = float(found.losses[:again].mean())
        values[REPEAT_LOSS.at(end="later").key()] = float(found.losses[again + 1 :].mean())
        values[REPEAT_GAIN.key()] = repeat_gain(found.losses[None], self.repeated.length)
        return values

    # ------------------------------------------------- without some heads

    def _effects(self, found: Patterns, reading: Reading) -> Collective[dict[str, float]]:
        """Rise of the loss without the best heads, without those to watch, and without random ones."""
        sets: dict[str, Heads] = {}
        if self.ablate:
            ranked = sorted(
                ((float(score), site, head) for site, s in found.scores.items() for head, score in enumerate(s[0])),
                key=lambda one: (-one[0], one[1], one[2]),
            )
            best: dict[str, list[int]] = {}
            for _, site, head in ranked[: self.ablate]:
                best.setdefault(site, []).append(head)
            sets["best"] = best
        sets |= {f"{site}/h{head}": {site: [head]} for site, some in self.track.items() for head in some}
        values: dict[str, float] = {}
        for name, heads in sets.items():
            others = self._others(name, heads)
            for measure, chosen in ((HEAD_EFFECT, heads), (HEAD_EFFECT_RANDOM, others)):
                value = math.nan
                if chosen is not None and set(chosen) <= set(found.put_out):
                    rewrite = partial(_replaced, chosen, found.put_out)
                    without = self.repeated.patterns(self.heads, reading.group, rewrite)
                    merged = yield from self.repeated.merged(without, self.heads)
                    value = float((merged.losses - found.losses)[self.repeated.length + 1 :].mean())
                values[f"{measure.name}/{name}"] = value
        return values

    def _others(self, name: str, heads: Heads) -> Heads | None:
        """As many other heads of each site, drawn once; ``None`` where a site has too few."""
        generator = torch.Generator().manual_seed(self.seed)
        found: dict[str, list[int]] = {}
        for site, some in heads.items():
            order = torch.randperm(self.heads.number[site] or 0, generator=generator).tolist()
            rest = [head for head in order if head not in some]
            if len(rest) < len(some):
                return None
            found[site] = rest[: len(some)]
        return found

    def _formed(self, reading: Reading, now: float) -> float:
        """The step at which the best head came to half of its maximum, and stayed."""
        steps, values = self.history.series(self.full_key(PREFIX_MATCHING.at(end="max").key()))
        if reading.step is not None:
            steps, values = [*steps, reading.step], [*values, now]
        most = max(values, default=math.nan)
        return reached(steps, values, most / 2).step if most > _IS_INDUCTION else math.nan

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """The best heads beside losses, with the change shaded; layers and heads; losses by position."""
        if not len(self.history):
            return {}
        pictures: dict[str, Draw] = {
            "induction/heads": self._curves,
            "heads/prefix_matching": partial(self._map, PREFIX_MATCHING),
            "heads/repeated_previous_token": partial(self._map, REPEATED_PREVIOUS_TOKEN),
        }
        if any(bool(one["losses"].isfinite().any()) for one in self.by_position.values):
            pictures["induction/loss_by_position"] = self._positions
        return pictures

    def _curves(self) -> Figure:
        def line(key: str) -> tuple[list[int], list[float]]:
            return self.history.series(self.full_key(key))

        def heads(measure: Measure) -> dict[str, tuple[list[int], list[float]]]:
            names = [f"{site}/{head}" for site, some in self.heads.heads_of().items() for head in some]
            lines = {name: line(f"{measure.name}/{name}") for name in names}
            best = sorted((name for name in names if lines[name][0]), key=lambda name: -lines[name][1][-1])
            return {name: lines[name] for name in best[:3]} | {"uniform attention": line(f"{measure.name}_chance/max")}

        panels = {
            "induction (prefix matching), best heads": heads(PREFIX_MATCHING),
            "previous token, best heads": heads(REPEATED_PREVIOUS_TOKEN),
            "loss on repeated tokens (nats)": {
                "first time": line("repeat_loss/first"),
                "again": line("repeat_loss/later"),
            },
        }
        if line(ICL_SCORE.key())[0]:
            panels["in-context learning score (nats)"] = {"": line(ICL_SCORE.key())}
        steps, values = line(PREFIX_MATCHING.at(end="max").key())
        most = max(values)
        start, end = (reached(steps, values, share * most).step for share in (0.1, 0.9))
        rose = most > _IS_INDUCTION and math.isfinite(start) and start < end
        return training_phases(panels, [(start, end, "induction heads form")] if rose else ())

    def _map(self, measure: Measure) -> Figure:
        last = self.history.readings[-1]
        values = {
            site: [last.values[self.full_key(f"{measure.name}/{site}/{head}")] for head in heads]
            for site, heads in self.heads.heads_of().items()
        }
        return head_map(values, f"{measure_title(measure.name)}, step {last.step}", measure.unit)

    def _positions(self) -> Figure:
        losses = [one["losses"] for one in self.by_position.values]
        edges = _edges(max(map(len, losses)))
        rows = [[float(one[a:b].nanmean()) for one in losses] for a, b in edges]
        names = [f"{a + 1}" if b == a + 1 else f"{a + 1}–{b}" for a, b in edges]
        return site_heatmap(self.by_position.steps, names, rows, "loss by tokens read before", "nats")


def _replaced(heads: Heads, means: Mapping[str, Tensor], site: str, put_out: Tensor) -> Tensor:
    """What heads put out, of some the mean over all positions and sequences."""
    if site not in heads:
        return put_out
    found = put_out.clone()
    for head in heads[site]:
        found[:, head] = means[site][head].to(found)
    return found


def _edges(length: int) -> list[tuple[int, int]]:
    """Places by equal factors, each range with at least one."""
    ends = sorted({round(length ** (place / _BINS)) for place in range(1, _BINS + 1)} | {length})
    return list(zip([0, *ends[:-1]], ends, strict=True))
