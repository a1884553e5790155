"""Where in a language model facts are found: which hidden states bring back an answer that noise has taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.distributed import Collective
from lightning_interp.figures.trace_maps import trace_maps
from lightning_interp.functional.causal_trace import TOKEN_CLASSES, normalised_effect
from lightning_interp.functional.layers import centre_of_gravity
from lightning_interp.language.encoding import Tokenizer
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.derived import CONTROL
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.facts import (
    GROUP,
    TRACE_CLEAN,
    TRACE_DEPTH,
    TRACE_EARLY,
    TRACE_FACTS,
    TRACE_LATE,
    TRACE_SKIPPED,
    TRACE_TOTAL,
)
from lightning_interp.parts.causal_traces import BLOCKS, EARLY, LATE, CausalTraces, Target, Tokens, Traces
from lightning_interp.parts.kept import Kept
from lightning_interp.parts.language_model import LanguageModel, one_language_model
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.tasks.facts import draw_facts
from lightning_interp.tasks.load_facts import Facts, load_facts

__all__ = ["CausalTrace"]

_ENDS = ((EARLY, TRACE_EARLY, "early"), (LATE, TRACE_LATE, "late"))
_DRAWN = 2  # readings, the first and the last


class CausalTrace(ValidationAnalysis):
    r"""Reads at which layers of a language model a fact is found: causal tracing.

    Meng et al. 2022 (ROME, arXiv 2202.05262). A prompt is run once as it is and in several copies with Gaussian noise
    added to the token embeddings of the fact's subject, which take the answer away. Then one hidden state of the
    copies, what a block returns at one token, is set to what it is without noise. With p the probability of the
    model's most probable token, p⁻ its mean over noisy copies and p* that with the state restored,

    .. math::
        \mathrm{total} = \operatorname{mean}_n (p_n - p^-_n), \quad
        \mathrm{effect}(\mathrm{token}, \ell) = \frac{\operatorname{mean}_n (p^*_n - p^-_n)}{\mathrm{total}}

    over the facts n of a group that the model knows: where its most probable token does not begin the answer, a fact is
    left out. Nothing is read of the validation batches; facts and noise are the same at each reading.

    ====================================  =======  ===================================================================
    key                                   level    what it is
    ====================================  =======  ===================================================================
    ``trace_early/<group>``               summary  largest effect over layers, at the last token of the subject
                                                   (conditional)
    ``trace_late/<group>``                summary  … at the last token of the prompt, over all blocks but the last
                                                   (conditional)
    ``trace_depth/<group>/early``         summary  mean layer at the last token of the subject, weighted by effects
                                                   above 0 (conditional); ``trace_depth/<group>/late`` too
    ``trace_total/<group>``               summary  the total, in probability (conditional, but not with
                                                   ``target="answer"``)
    ``trace_early_control/<group>``       full     ``trace_early`` where the state is that of a prompt with another
                                                   answer (conditional); ``trace_late_control/<group>`` too
    ``trace_clean/<group>``               full     mean of p (conditional, but not with ``target="answer"``)
    ``trace_facts/<group>``               full     facts traced
    ``trace_skipped/<group>``             full     facts left out
    ``trace_early/<group>/<kind>``        summary  of states of ``windows`` (conditional); ``trace_late/<group>/<kind>``
                                                   too
    ``trace_early_control/<group>/…``     full     of these with another prompt's states (conditional);
                                                   ``trace_late_control/<group>/<kind>`` too
    ====================================  =======  ===================================================================

    Effects are undefined where no fact of the group is known, and where the total is below .01: there is nothing to
    bring back. Look at the total first: an effect of 1 of a total of .05 says little. A subject of one token is
    restored all but wholly by its state in the first layer, by construction: take subjects of two tokens or more, or
    read ``windows``. What the last block returns at the last token is all that the prediction is read from, so that its
    effect is 1 whatever the model knows: ``trace_late`` leaves it out, pictures show it. That a state restores an
    answer does not say that the fact can be changed there.

    Args:
        facts: Facts that say their subject, before the blank; the path of a table (:func:`read_facts`); or a function
            that returns facts, or its dotted name. A ``<group>`` is a relation.
        tokenizer: As for :class:`~lightning_interp.MinimalPairs`.
        model: Dotted name of the language model in the module; ``""`` for the module itself.
        layers: How many blocks are read, spread evenly over the depth; all for ``None``.
        windows: Kinds of states beside what blocks return: name in keys → name of a module within each block, such as
            ``{"mlp": "mlp", "attention": "attn"}``.
        window: How many layers of these are restored together, around each that is read.
        tokens: ``"two"``: the last token of the subject and the last one; ``"all"`` from the subject on, for pictures.
        target: ``"top"``, or ``"answer"``: the probability of the answer's first token is traced, known or not.
        noise: Size of the noise, in standard deviations of the embeddings of all subjects.
        copies: Noisy copies of each prompt.
        max_facts: Facts of each relation, drawn once from the seed; all where there are no more, or for ``None``.
        sites: The blocks, in their order; by default those that :func:`~lightning_interp.sites.blocks` finds.
        embedding: Dotted name, within the language model, of the module that embeds tokens; by default what
            ``get_input_embeddings`` gives, else the largest ``nn.Embedding``.
        seed: Of facts and noise.
        forward: Calls the model in its stead: ``forward(model, input_ids, attention_mask)`` → logits (B, T, V).
        batch_tokens: Tokens in a forward pass.
        bos_token_id: The start token; the tokenizer's own by default.
        lm: Instead of ``tokenizer``, ``model``, ``forward``, ``batch_tokens`` and ``bos_token_id``, all of them.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``max_examples``,
            ``dataloader_idx`` and ``batch_size``.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, a fact does not say its subject or has it
            behind the blank, a relation has a slash in its name, or parameters are sharded over ranks.

    Cost: of each fact that is known, 4 · layers states in ``copies`` rows each, half of them for the control, and as
        many for each of ``windows``; with ``tokens="all"`` one for each token and layer. Facts are dealt over ranks.

    Example:
        >>> from lightning_interp.tasks import WordTokenizer, fact_world
        >>> world = fact_world(people=10, relations=["pet"])
        >>> callback = CausalTrace(world.facts, WordTokenizer(world.words), model="lm")
        >>> callback.logged_keys()[:3]
        ['trace_early/pet', 'trace_late/pet', 'trace_depth/pet/early']

    """

    told_apart = ("relations", "language_model", "prefix")

    def __init__(
        self,
        facts: Facts,
        tokenizer: str | Path | Tokenizer = "tokenizer",
        model: str = "",
        layers: int | None = 8,
        windows: Mapping[str, str] | None = None,
        window: int = 10,
        tokens: Tokens = "two",
        target: Target = "top",
        noise: float = 3.0,
        copies: int = 10,
        max_facts: int | None = 8,
        sites: str | Sequence[str] | Mapping[str, str] | None = None,
        embedding: str | None = None,
        seed: int = 0,
        forward: Forward | None = None,
        batch_tokens: int = 4096,
        bos_token_id: int | None = None,
        lm: LanguageModel | None = None,
        **kwargs: Unpack[AnalysisArgs],
    ) -> None:
        refuse_unknown_arguments(type(self), kwargs, AnalysisArgs)
        super().__init__(max_examples=None, dataloader_idx=0, batch_size=None, **kwargs)
        if max_facts is not None and max_facts < 1:
            raise ValueError(f"`max_facts` must be at least 1, or None for all, got {max_facts}.")
        self.seed = seed
        drawn = draw_facts(load_facts(facts), max_facts, seed)
        self.relations = list(dict.fromkeys(fact.relation for fact in drawn))
        """The groups."""
        whole = one_language_model(
            lm, tokenizer=tokenizer, model=model, forward=forward, batch_tokens=batch_tokens, bos_token_id=bos_token_id
        )
        self.language_model = whole.model
        how = (layers, sites, windows, window, tokens, target, noise, copies, embedding, seed)
        self.traces = CausalTraces(drawn, whole, *how)
        """The facts that are read, and what restoring states gives."""
        self.kept = Kept(_DRAWN)
        """Effects over all facts, (kinds, classes of tokens, layers), of the first reading and the last."""

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """Effects at both tokens with what they are compared with, and what the noise takes."""
        conditional = {} if self.traces.target == "answer" else {"instead": ""}
        depths = [TRACE_DEPTH.at(GROUP, end=name) for _, _, name in _ENDS]
        own = [one.at(GROUP, end=kind) for kind in self.traces.kinds for _, one, _ in _ENDS]
        return [
            *(*own[: len(_ENDS)], *depths, TRACE_TOTAL.at(GROUP, **conditional), *own[len(_ENDS) :]),
            *(CONTROL.of(one) for one in own),
            *(TRACE_CLEAN.at(GROUP, **conditional), TRACE_FACTS, TRACE_SKIPPED),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The relations."""
        return {GROUP: self.relations}

    # ------------------------------------------------- reading

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Trace the facts, and compute."""
        found = yield from self.traces.read(reading.group)
        values: dict[str, Tensor | float] = {}
        for relation in self.relations:
            of = torch.tensor([fact.relation == relation for fact in self.traces.facts])
            values |= self._values(relation, found, of)
        traced = found.traced
        whole = normalised_effect(found.effects[traced], found.totals[traced]).float()
        self.kept.now = {"effects": whole, "depths": torch.tensor(self.traces.depths)}
        return values

    def _values(self, relation: str, found: Traces, of: Tensor) -> dict[str, float]:
        """Of the facts of a relation."""
        rows = found.traced & of
        totals = found.totals[rows]
        effects, control = (normalised_effect(one[rows], totals) for one in (found.effects, found.control))
        values = {
            TRACE_TOTAL.key(relation): float(totals.mean()),
            TRACE_CLEAN.key(relation): float(found.clean[rows].mean()),
            TRACE_FACTS.key(relation): float(rows.sum()),
            TRACE_SKIPPED.key(relation): float((of & ~rows).sum()),
        }
        for end, (token, measure, name) in enumerate(_ENDS):
            along = effects[0, token].tolist()
            depth = centre_of_gravity(along, [0.0] * len(along), self.traces.depths)
            values[TRACE_DEPTH.at(GROUP, end=name).key(relation)] = depth
            for place, kind in enumerate(self.traces.kinds):
                key = measure.at(GROUP, end=kind)
                read = self._telling(kind, token)
                values[key.key(relation)] = _largest(effects[place, token][read])
                values[CONTROL.of(key).key(relation)] = _largest(control[place, end][read])
        return values

    def _telling(self, kind: str, token: int) -> Tensor:
        """Which of the layers could fail to restore the answer, bool: the prediction is read from the last state."""
        depths = torch.tensor(self.traces.depths)
        last = depths == self.traces.number - 1
        return ~last if kind == BLOCKS and token == LATE else torch.ones_like(last)

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Tokens and layers, of each kind of states, at the first reading and the last."""
        if not len(self.kept):
            return {}
        return {f"trace/{kind or 'blocks'}": partial(self._map, place) for place, kind in enumerate(self.traces.kinds)}

    def _map(self, place: int) -> Figure:
        kind = self.traces.kinds[place]
        read = [(step, one["effects"][place]) for step, one in self.kept.readings]
        shown = [
            row for row in range(len(TOKEN_CLASSES)) if row in (EARLY, LATE) or _any_known(one[row] for _, one in read)
        ]
        maps = [(step, {TOKEN_CLASSES[row]: one[row].tolist() for row in shown}) for step, one in read]
        title = f"restored by the states of {kind or 'blocks'}"
        return trace_maps(maps, self.kept.values[0]["depths"].tolist(), title, "share of what noise takes")


def _any_known(rows: Iterable[Tensor]) -> bool:
    return any(bool(row.isfinite().any()) for row in rows)


def _largest(values: Tensor) -> float:
    return float(values.max()) if len(values) else math.nan
