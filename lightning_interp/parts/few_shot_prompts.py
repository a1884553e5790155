"""A part: few-shot prompts through the language model, what flows into their labels, and what blocking it changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_interp.distributed import Collective, Sum, Sums, rank_in, world_size
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional._numerics import as_float
from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.functional.label_anchors import (
    LabelFlow,
    attention_saliency,
    head_importance,
    label_flow,
    label_match,
)
from lightning_interp.language.batching import dealt
from lightning_interp.language.context_length import context_length
from lightning_interp.language.few_shot import (
    FewShotPrompt,
    Labelled,
    draw_demonstrations,
    encode_few_shot,
    label_words,
    template_parts,
)
from lightning_interp.language.id_range import check_ids
from lightning_interp.language.likelihood import eval_mode, model_device, model_logits
from lightning_interp.parts.head_sites import HeadSites
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.reading.part import Part
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.sites.attention_call import AttentionCall
from lightning_interp.sites.attention_gates import weights_times_gradient
from lightning_interp.sites.attention_tap import Replace
from lightning_interp.tasks.loading import imported_function

__all__ = ["FewShotPrompts", "Flows", "LabelledTexts"]

# Text first: jsonargparse takes the first kind that fits.
LabelledTexts = str | Sequence[Labelled] | Callable[[], Sequence[Labelled]]
"""Pairs of a text and its label, or a function that returns them, or its dotted name."""

_MATCH, _MATCHED = len(LabelFlow._fields), len(LabelFlow._fields) + 1


@dataclass
class Flows:
    """What prompts gave: of one rank sums over prompts, of all ranks means."""

    right: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    """Number of prompts, and how many are answered rightly with and without demonstrations."""
    flow: dict[str, Tensor] = field(default_factory=dict)
    """Site → the six of :class:`LabelFlow`, the match and in how many prompts there is one."""
    importance: dict[str, Tensor] = field(default_factory=dict)
    """Site → (H,)."""

    def of(self, site: str) -> LabelFlow:
        """The flow at a site."""
        return LabelFlow(*self.flow[site][:_MATCH])

    def match(self, site: str) -> float:
        """Share of the attention to labels that goes to the right ones; NaN where labels get none."""
        found = self.flow[site]
        return float(found[_MATCH] / found[_MATCHED]) if found[_MATCHED] else math.nan


class FewShotPrompts(Part):
    """Runs fixed few-shot prompts through a language model, one at a time, dealt over ranks.

    The model runs in evaluation mode, and it, its ``.grad`` fields and random streams are left as they were.

    Args:
        examples: What demonstrations are drawn from.
        queries: What is asked.
        template: A demonstration, with ``{text}`` and ``{label}``.
        shots: Demonstrations of each label.
        lm: The language model; its ``batch_tokens`` do not matter.
        seed: Of the demonstrations and of random positions.

    Raises:
        ValueError: If an argument is out of range; when attached, if a name matches nothing, labels cannot be found in
            the tokens (:func:`~lightning_interp.language.few_shot.encode_few_shot`), a prompt is longer than the
            model's context, or parameters are sharded.

    Example:
        >>> letters = lambda text: [ord(letter) - 96 for letter in text]
        >>> prompts = FewShotPrompts([("a", "x"), ("b", "y")], [("b", "y")], "{text}{label}", 1, LanguageModel(letters))
        >>> prompts.attach(nn.Embedding(27, 27))
        >>> prompts.words, prompts.prompts[0].labels
        (['x', 'y'], tensor([1, 3]))

    """

    attached = ("_model", "prompts", "_tokens")

    def __init__(
        self,
        examples: LabelledTexts,
        queries: LabelledTexts,
        template: str = "{text}\nlabel: {label}\n",
        shots: int = 1,
        lm: LanguageModel = LanguageModel(),  # noqa: B008 - it is frozen
        seed: int = 0,
    ) -> None:
        template_parts(template)
        lm.starts_with_bos()
        self.lm, self.template, self.shots, self.seed = lm, template, shots, seed
        shown, self._queries = _labelled("examples", examples), _labelled("queries", queries)
        self.words = label_words(shown)
        """The labels."""
        if len(self.words) < 2:
            raise ValueError(f"`examples` must have at least 2 labels, got {self.words}.")
        unknown = [label for _, label in self._queries if label not in self.words]
        if unknown:
            raise ValueError(f"`queries` has the label {unknown[0]!r}; those of `examples` are {self.words}.")
        self._demonstrations = draw_demonstrations(shown, len(self._queries), shots, seed)
        self._model: nn.Module | None = None
        self._tokens: Tensor | None = None
        self.prompts: list[FewShotPrompt] | None = None

    @property
    def model(self) -> nn.Module:
        """The language model."""
        if self._model is None:
            raise RuntimeError("the prompts belong to no model yet: `attach` comes first.")
        return self._model

    def attach(self, model: nn.Module) -> None:
        """Find the language model and its tokenizer, and turn prompts into tokens."""
        lm, tokenizer, _ = self.lm.find(model)
        refuse_sharded(lm, "gradients")
        start = None
        if self.lm.starts_with_bos() is not False:
            own = getattr(tokenizer, "bos_token_id", None)
            start = own if self.lm.bos_token_id is None else self.lm.bos_token_id
        with torch.inference_mode(False):  # else they could be no part of a graph
            self.prompts, self._tokens = encode_few_shot(
                tokenizer, self._demonstrations, self._queries, self.template, self.words, start
            )
        check_ids(lm, [self._tokens, *(one.ids for one in self.prompts)])
        most, longest = max(len(one.ids) for one in self.prompts), context_length(lm)
        if longest is not None and most > longest:
            raise ValueError(
                f"`shots` is {self.shots}, and a prompt has {most} tokens: the model's context is {longest}."
            )
        self._model = lm

    def detach(self) -> None:
        """Let go of the model."""
        self._model = self._tokens = self.prompts = None

    def keeps(self) -> Sequence[object]:
        """What keeps arguments of the callback: itself, and the language model."""
        return self, self.lm

    def settings(self) -> Settings:
        """What the prompts are made of."""
        return {"queries": len(self._queries), "labels": ", ".join(self.words)}

    # ------------------------------------------------- what flows

    def flows(self, heads: HeadSites, group: Any = None) -> Flows:
        """What this rank's prompts give, as the model is now.

        Args:
            heads: Where attention is read.
            group: The process group over which prompts are dealt.

        """
        found = Flows()
        self._run(lambda _, prompt: self._add(found, heads, prompt), group, gradients=True)
        return found

    def _add(self, found: Flows, heads: HeadSites, prompt: FewShotPrompt) -> None:
        paid: dict[str, Tensor] = {}
        answers: list[Tensor] = []

        def look(site: str, call: AttentionCall) -> None:
            heads.saw(site, call.shape[1])
            paid[site] = call.part(queries=slice(-1, None)).weights[0, :, 0].sum(0).cpu()

        def loss() -> Tensor:
            logits = self._last_logits(prompt.ids)
            answers.append(logits.detach())
            return functional.cross_entropy(logits, self._answers[prompt.answer].to(logits.device))

        products = weights_times_gradient(heads.tap, loss, look)
        with torch.no_grad():
            answers.append(self._last_logits(prompt.alone))
        right = [_right(one[self._answers.to(one.device)], prompt.answer) for one in answers]
        found.right += torch.tensor([1.0, *right], dtype=torch.float64)
        for site, (product,) in products.items():
            flow = label_flow(attention_saliency(product), prompt.labels)
            match = label_match(paid[site], prompt.labels, prompt.classes == prompt.answer)
            told = torch.stack([match.nan_to_num(0.0), match.isfinite().to(match)]).double()
            _add_to(found.flow, site, torch.cat([torch.stack(flow).cpu().double(), told]))
            _add_to(found.importance, site, head_importance(product).cpu().double())

    def merged(self, own: Flows, heads: HeadSites) -> Collective[Flows]:
        """The same over all ranks, as means."""
        numbers = yield from heads.numbers()
        flow = [own.flow.get(site, torch.zeros(_MATCHED + 1, dtype=torch.float64)) for site in numbers]
        importance = [own.importance.get(site, torch.zeros(n, dtype=torch.float64)) for site, n in numbers.items()]
        right, *others = yield Sums([own.right, *flow, *importance])
        means = [one / right[0] for one in others]
        return Flows(
            right / right[0],
            dict(zip(numbers, means[: len(flow)], strict=True)),
            dict(zip(numbers, means[len(flow) :], strict=True)),
        )

    # ------------------------------------------------- what blocking changes

    def loyalties(
        self, heads: HeadSites, blocks: Mapping[str, Collection[str]], group: Any = None
    ) -> Collective[dict[str, tuple[float, float]]]:
        """How often the answer stays when what labels gather is blocked, and when that of random positions is.

        Blocked positions see themselves alone.

        Args:
            heads: The sites.
            blocks: Name → the sites where attention is blocked.
            group: The process group over which prompts are dealt.

        Returns:
            Of each block the two shares of prompts; the second is NaN where no prompt has as many other positions.

        """
        kept = torch.zeros(len(blocks), 2, 2, dtype=torch.float64)

        def compare(number: int, prompt: FewShotPrompt) -> None:
            unblocked = self._answer(prompt)
            for positions, sums in zip((prompt.labels, self._others(number, prompt)), kept.unbind(1), strict=True):
                if len(positions) < len(prompt.labels):
                    continue
                for block, total in zip(blocks.values(), sums, strict=True):
                    with heads.tap.reading(replace=_blocked(positions, block)):
                        answer = self._answer(prompt)
                    total += torch.tensor([float(answer == unblocked), 1.0], dtype=torch.float64)

        self._run(compare, group)
        total = yield Sum(kept)
        shares = (total[..., 0] / total[..., 1]).tolist()
        return {name: (own, other) for name, (own, other) in zip(blocks, shares, strict=True)}

    def _others(self, number: int, prompt: FewShotPrompt) -> Tensor:
        """As many positions that are neither labels nor the first or the last one, as far as there are."""
        places = torch.arange(1, len(prompt.ids) - 1)
        places = places[~torch.isin(places, prompt.labels)]
        order = counter_hash((number << 32) + places, self.seed).argsort()
        return places[order[: len(prompt.labels)]].sort().values

    # ------------------------------------------------- through the model

    def _run(self, work: Callable[[int, FewShotPrompt], None], group: Any, gradients: bool = False) -> None:
        """Do something with each prompt of this rank, while the model is in evaluation mode."""
        assert self.prompts is not None
        own = dealt(list(enumerate(self.prompts)), (rank_in(group), world_size(group)))
        if own:
            with eval_mode(self.model, gradients):
                for number, prompt in own:
                    work(number, prompt)

    def _last_logits(self, ids: Tensor) -> Tensor:
        here = ids[None].to(model_device(self.model))
        return as_float(model_logits(self.model, here, torch.ones_like(here), self.lm.forward)[0, -1])

    @property
    def _answers(self) -> Tensor:
        assert self._tokens is not None
        return self._tokens

    def _answer(self, prompt: FewShotPrompt) -> int:
        logits = self._last_logits(prompt.ids)
        return int(logits[self._answers.to(logits.device)].argmax())


def _right(logits: Tensor, answer: int) -> float:
    """Whether the answer has the largest logit; of several that have it a random one is taken."""
    top = (logits == logits.max()).tolist()
    return top[answer] / sum(top) if any(top) else math.nan


def _blocked(positions: Tensor, sites: Collection[str]) -> Replace:
    """Weights with which some positions see themselves alone."""

    def replace(site: str, call: AttentionCall) -> Tensor | None:
        if site not in sites:
            return None
        weights, at = call.weights.clone(), positions.to(call.device)
        weights[:, :, at] = 0.0
        weights[:, :, at, at] = 1.0
        return weights

    return replace


def _add_to(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _labelled(argument: str, given: LabelledTexts) -> list[Labelled]:
    wanted = "a list of pairs (text, label)"
    if isinstance(given, str):
        given = imported_function(given, argument, wanted)
    pairs: list[Any] = list(given() if callable(given) else given)
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(one, str) for one in pair) or not pair[1]:
            raise ValueError(f"`{argument}` must be {wanted}, both of them text, got {pair!r} among them.")
    if not pairs:
        raise ValueError(f"`{argument}` must be {wanted}, at least one, got none.")
    return [(str(text), str(label)) for text, label in pairs]
