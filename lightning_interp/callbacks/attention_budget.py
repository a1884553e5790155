"""How many keys attention needs, and which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Unpack

from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.contents import Key
from lightning_interp.distributed import Collective
from lightning_interp.figures import measure_curves
from lightning_interp.isolation.random_weights import Reinit
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.derived import BASELINE, CHANCE, with_random
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.attention import BUDGET, BUDGET_LOSS, BUDGET_LOSS_FULL, BUDGET_TEXTS, KEPT_MASS
from lightning_interp.parts.baseline import Baseline, beside_random
from lightning_interp.parts.budgeted_texts import BudgetedTexts, Found, checked_budgets
from lightning_interp.parts.head_sites import HeadSites
from lightning_interp.parts.words import Words
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.arguments import LoaderArgs
from lightning_interp.reading.reading import Reading

__all__ = ["AttentionBudget"]

_DEFAULT = (("top", (8,)), ("recent_first", (32,)))


class AttentionBudget(ValidationAnalysis):
    r"""Reads how much the loss rises where each query keeps only k keys of those that it sees, in all heads at once.

    Weights are divided among the keys that are kept, as if the others had been masked before the softmax. The loss is
    that of the tokens late in a text, behind its first half, where there is much to leave out:

    .. math::
        \mathrm{budget\_loss} = \operatorname{mean}_{t \ge T/2} \left[
            \ell_t\big(\tilde A\big) - \ell_t(A) \right], \quad
        \tilde A_{ij} = \frac{A_{ij}\, m_{ij}}{\sum_l A_{il}\, m_{il}}, \quad
        \mathrm{kept\_mass} = \operatorname{mean} \sum_j A_{ij}\, m_{ij}

    with m the keys that a policy keeps (:func:`~lightning_interp.functional.kept_keys`): ``top``, the k with the most
    weight; ``recent``, the last k; ``recent_first``, the last k and the first of the text; ``anchors``, the last k and
    those that the batch marks; ``random``, k at random, the same at every reading. How much less ``recent_first`` costs
    than ``recent`` is what the sink at the first token is worth (Xiao et al. 2023, arXiv 2309.17453).

    ============================================  =======  =============================================================
    key                                           level    what it is
    ============================================  =======  =============================================================
    ``budget_loss/<policy>/<k>``                  summary  rise of the loss, nats a token; 0 where what is left out is
                                                           not needed
    ``budget_loss_baseline/<policy>/<k>``         full     with random weights, which read nothing: about 0
    ``budget_loss_above_baseline/<policy>/<k>``   summary  what training adds
    ``budget_loss_full``                          full     the loss with all keys, nats a token
    ``kept_mass/<policy>/<k>``                    full     share of attention on the keys of the policy, mean over
                                                           queries late in a text, heads and sites of the model as it is
    ``kept_mass_chance/<policy>/<k>``             full     of as many keys whatever their weights
    ``budget_texts``                              full     how many texts were long enough; without any all else is
                                                           undefined
    ============================================  =======  =============================================================

    The mass that is kept does not tell the loss: a sink has much of it and adds little, and little of it may be what a
    token hangs on. What chance is of the loss says the policy ``random`` with as many keys.

    Args:
        model: Dotted name of the language model in the module that is called with the ids; ``""`` for the module.
        sites: Its attention modules, whose queries attend to the text itself; by default all of it whose class is named
            after attention.
        policies: Of each policy the numbers k of keys; by default ``{"top": [8], "recent_first": [32]}``.
        first: How many of the first keys ``recent_first`` keeps.
        anchors: Where a batch marks the positions that ``anchors`` keeps, bool (B, T).
        min_length: Shorter texts are left out, tokens; more than all k, or nothing is left out.
        max_examples: Texts of the validation run, spread evenly over it, of which those that are long enough are read.
        baseline: Random weights; see :class:`~lightning_interp.callbacks.LayerProbe`.
        forward: Calls the model on texts: ``forward(model, input_ids, attention_mask)``, logits (B, T, V).
        batch_tokens: Tokens in a forward pass; texts of one length go together. Each takes some 5 · heads · T times
            them in float32.
        tokens, mask, padding_idx: Where a validation batch has its text; see
            :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        seed: Of random keys and random weights.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range, a policy is none of these, or a name matches nothing; in the sanity
            check, if batches do not say their text, or queries of a site attend to something else.

    Cost: a forward pass over the texts for the full loss and one for each policy and k, with attention weights computed
        once more; as many with random weights, once.

    Example:
        >>> callback = AttentionBudget(model="lm", policies={"recent": [32], "random": [32]})
        >>> callback.logged_keys()[:2]
        ['budget_loss/recent/32', 'budget_loss_above_baseline/recent/32']

    """

    told_apart = ("language_model", "sites", "policies", "prefix")

    def __init__(
        self,
        model: str = "",
        sites: str | Sequence[str] | Mapping[str, str] | None = None,
        policies: Mapping[str, Sequence[int]] | None = None,
        first: int = 1,
        anchors: Key | None = None,
        min_length: int = 64,
        max_examples: int | None = 32,
        baseline: bool | Reinit | None = None,
        forward: Forward | None = None,
        batch_tokens: int = 4096,
        tokens: Key | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        seed: int = 0,
        **kwargs: Unpack[LoaderArgs],
    ) -> None:
        super().__init__(max_examples=max_examples, **kwargs)
        budgets = checked_budgets(dict(_DEFAULT) if policies is None else policies)
        self.language_model, self.sites, self.seed = model, sites, seed
        self.policies: dict[str, list[int]] = {}
        for one in budgets:
            self.policies.setdefault(one.policy, []).append(one.k)
        self.heads = HeadSites(sites, within=model)
        self.texts = BudgetedTexts(budgets, first, anchors, min_length, seed, model, forward, batch_tokens)
        self.words = Words(tokens, mask, padding_idx, batch_size=self.batch_size, asked=True)
        self.baseline = Baseline(baseline, seed, of=model)

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """The rise of each budget with random weights beside it, the loss that it is over, and the attention kept."""
        rises = with_random([BUDGET_LOSS]) if self.baseline.wanted else [BUDGET_LOSS]
        return [*rises, BUDGET_LOSS_FULL, KEPT_MASS, CHANCE.of(KEPT_MASS), BUDGET_TEXTS]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The budgets."""
        return {BUDGET: [one.name for one in self.texts.budgets]}

    # ------------------------------------------------- reading

    def before_batch(self, seen: Seen) -> None:
        """Keep the text of the batch."""
        super().before_batch(seen)
        self.texts.read(seen, self.words.of(seen, ["text"])["text"])

    def kept_for_samples(self) -> str:
        """Random weights were read on the texts."""
        return "budget_loss_baseline is of those, so it is read anew" if self.baseline.wanted else ""

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Run the texts with all keys and on each budget, with random weights too where that is due."""
        texts = yield from self.texts.texts()
        run = partial(self.texts.sums, texts, self.heads, reading.group)
        if reading.changed is not None or not reading.counts:
            self.baseline.values = {}  # of other texts
        yield from self.baseline.read(self.texts.model, type(self).__name__, run, self._rises)
        found = yield from self.texts.means(run())
        values = self._of_budgets(BUDGET_LOSS, found.losses[1:] - found.losses[0])
        values |= self.baseline.beside(values, beside_random([BUDGET_LOSS], self.axes()))
        values[BUDGET_LOSS_FULL.key()] = float(found.losses[0])
        values |= self._of_budgets(KEPT_MASS, found.mass) | self._of_budgets(CHANCE.of(KEPT_MASS), found.keys)
        values[BUDGET_TEXTS.key()] = float(len(texts))
        if not reading.counts:
            self.baseline.values = {}
        return values

    def _rises(self, own: Found) -> Collective[Mapping[str, float]]:
        """What stands beside random weights."""
        found = yield from self.texts.means(own)
        return self._of_budgets(BUDGET_LOSS, found.losses[1:] - found.losses[0])

    def _of_budgets(self, measure: Measure, values: Tensor) -> dict[str, float]:
        return {measure.key(one.name): value for one, value in zip(self.texts.budgets, values.tolist(), strict=True)}

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Rise of the loss and attention kept, by budget."""
        read = any(self._lines(BUDGET_LOSS)[one.name][0] for one in self.texts.budgets)
        return {"attention/budget": self._curves} if read else {}

    def _lines(self, measure: Measure) -> dict[str, tuple[list[int], list[float]]]:
        return {one.name: self.history.series(self.full_key(measure.key(one.name))) for one in self.texts.budgets}

    def _curves(self) -> Figure:
        panels = {"rise in loss (nats)": self._lines(BUDGET_LOSS), "share of attention kept": self._lines(KEPT_MASS)}
        if self.baseline.wanted:
            panels["rise in loss, random weights (nats)"] = self._lines(BASELINE.of(BUDGET_LOSS))
        return measure_curves(panels)
