"""Whether the words that a ranking puts first are those that a prediction needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.contents import Key
from lightning_interp.distributed import Collective
from lightning_interp.figures import measure_curves
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.derived import ABOVE_RANDOM, RANDOM_ORDER
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.ablation import (
    EXPLANATION_ACCURACY,
    EXPLANATION_COST,
    EXPLANATION_UNPARSED,
    FAITHFULNESS,
    FAITHFULNESS_TEXTS,
    RANK_AGREEMENT,
    RANKING,
    RANKING_LEVELS,
)
from lightning_interp.parts.ablated_texts import Decode, Predicts, Without
from lightning_interp.parts.ranked_texts import FOUND, Explain, Rank, Ranked, RankedTexts
from lightning_interp.parts.word_weights import mean_defined
from lightning_interp.parts.words import Words
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.arguments import LoaderArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.safe_keys import safe_keys

__all__ = ["Faithfulness"]


class Faithfulness(ValidationAnalysis):
    r"""Reads whether a ranking of each text's words says what its prediction needs, beside words in random order.

    With c the class that the model predicts for the whole text x, or the token that it predicts to come next or at a
    mask, p its probability, and shares q of .05, .1, .2 and .5 of the words, at least one (DeYoung et al. 2020, arXiv
    1911.03429; Huang et al. 2023, arXiv 2310.11207):

    .. math::
        \mathrm{comprehensiveness} = \operatorname*{mean}_q\; p(x) - p(x \setminus \mathrm{top}_q), \quad
        \mathrm{sufficiency} = \operatorname*{mean}_q\; p(x) - p(\mathrm{top}_q)

    each a mean over texts of two words or more. Equal scores are drawn, and measures averaged over the orders.

    =========================================  =======  ================================================================
    key                                        level    what it is
    =========================================  =======  ================================================================
    ``comprehensiveness/<ranking>``            summary  probability lost without the first words; high is faithful
    ``sufficiency/<ranking>``                  summary  probability lost with the first words only; low is faithful
    ``decision_flip/<ranking>``                summary  share of texts whose class changes without the first word; high
    ``flip_fraction/<ranking>``                summary  smallest share of words, left out in order, that changes
                                                        the class, 1 where none does; low
    ``rank_agreement/<ranking>``               summary  Spearman of the ranking with what p loses without each word
                                                        alone; not with ``rank="ablation"``, of which it is 1
                                                        (conditional: scores may all be equal)
    ``rank_agreement_random/<ranking>``        full     the same of words in random order (conditional)
    ``rank_agreement_above_random/<ranking>``  summary  the one less the other (conditional)
    ``…_random/<ranking>``                     full     each of words in random order, the same at every reading
    ``…_above_random/<ranking>``               summary  the one less the other
    ``ranking_levels/<ranking>``               full     how many different scores a text's words have, mean
    ``faithfulness_texts/<ranking>``           full     how many texts were read
    ``explanation_unparsed/<ranking>``         summary  share of texts without an explanation that could be read, which
                                                        are in no other measure; of ``rank="explanation"``
    ``explanation_accuracy/<ranking>``         full     accuracy of the classes that the model says with explanations,
                                                        where there is a ``target`` (conditional: it may say none)
    ``explanation_cost/<ranking>``             summary  accuracy of its own predictions of those texts less that
                                                        (conditional)
    =========================================  =======  ================================================================

    A ranking is called ``ablation``, ``gradient``, ``rollout``, ``explanation``, or as the function is. Where a model
    must guess without its cue, some guesses agree: ``decision_flip`` is at most 1 − 1/C of C classes. Compare only
    texts of as many words.

    Args:
        rank: ``"ablation"``: by what p loses without each word alone. ``"gradient"``: gradient × input of log p(c) at
            the embedding. ``"rollout"``: attention rollout
            (:func:`~lightning_interp.functional.attention.rollout`), as it reaches one position. ``"explanation"``: by
            what the model says when it is asked, by ``explain``. A function
            ``rank(model, input_ids, attention_mask)``, called with one text (1, T) and gradients on, that returns
            scores (1, T), the highest of what matters most. A word of several pieces has the sum of theirs.
        without: How words are left out; see :class:`~lightning_interp.callbacks.InputAblation`, also for
            ``predicts``, ``mask_token_id``, ``draws``, ``words``, ``ignore_tokens``, ``forward`` and ``batch_tokens``.
        explain: ``explain(model, words)`` asks for the scores of a text's words, given as text, and returns them, or
            ``None`` where they could not be read, and the number of the class that the model says with them, or
            ``None``. It is called for one text at a time, without gradients, and what it draws is the same at every
            reading. What a model says is rounded to few levels, so that ``decision_flip`` and ``rank_agreement``, which
            hang on single words, say less than the others.
        target: Where a batch has the class of each text, int (B,): what explaining costs in accuracy.
        orders: How many random orders of a text, and orders of equal scores.
        rollout_from: The position of the last layer whose rollout is taken, such as 0 for one that classifies by its
            first token; by default the one whose token is predicted, and of a classifier the mean over all.
        model: Dotted name of the model of token ids in the module; ``""`` for the module.
        predicts: Where a model of tokens predicts: ``"last"``, or ``"masked"``.
        mask_token_id: The id that ``"replace"`` puts in, and at which ``"masked"`` predicts.
        draws: Of ``"resample"``, how many for each set of words.
        embedding: Dotted name, within the model, of the module that embeds, for ``"gradient"`` and
            ``without="embedding"``; by default what ``get_input_embeddings`` gives, else the largest ``nn.Embedding``.
        words: Where a batch has the word of each position.
        ignore_tokens: Ids that are never left out.
        max_examples: Texts of the validation run, spread evenly over it.
        forward: Calls the model on texts without padding.
        batch_tokens: Tokens in a forward pass.
        decode: Token ids → text, such as a tokenizer's ``decode``, of ``"explanation"``.
        tokens, mask, padding_idx: Where a validation batch has its text; see
            :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        seed: Of orders and draws.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range or belongs to another way, a name matches nothing, the model takes no
            mask to hide words with or has no attention to roll out, or a function returns no scores (1, T).

    Cost: for a text of n words n forward passes for each word alone, and about n + 4 for the ranking and each random
        order, times ``draws`` with ``"resample"``; with ``"gradient"`` one backward pass, with ``"rollout"`` one more
        forward pass.

    Example:
        >>> callback = Faithfulness("gradient", without="hide")
        >>> callback.logged_keys()[:2]
        ['comprehensiveness/gradient', 'comprehensiveness_above_random/gradient']

    """

    told_apart = ("ranking", "without", "language_model", "prefix")

    def __init__(
        self,
        rank: Rank = "ablation",
        without: Without = "resample",
        orders: int = 4,
        rollout_from: int | None = None,
        explain: Explain | None = None,
        target: Key | None = None,
        model: str = "",
        predicts: Predicts = "last",
        mask_token_id: int | None = None,
        draws: int = 4,
        embedding: str | None = None,
        words: Key | None = None,
        ignore_tokens: Sequence[int] = (),
        max_examples: int | None = 16,
        forward: Forward | None = None,
        batch_tokens: int = 4096,
        decode: Decode | None = None,
        tokens: Key | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        seed: int = 0,
        **kwargs: Unpack[LoaderArgs],
    ) -> None:
        super().__init__(max_examples=max_examples, **kwargs)
        self.language_model, self.without, self.seed = model, without, seed
        name = rank if isinstance(rank, str) else getattr(rank, "__name__", type(rank).__name__)
        self.ranking = safe_keys([name])[name]
        self.texts = RankedTexts(
            rank,
            orders,
            without,
            rollout_from,
            explain,
            predicts=predicts,
            mask_token_id=mask_token_id,
            draws=draws,
            embedding=embedding,
            words=words,
            ignore_tokens=ignore_tokens,
            seed=seed,
            model=model,
            forward=forward,
            batch_tokens=batch_tokens,
            decode=decode,
            target=target,
        )
        self.read_words = Words(tokens, mask, padding_idx, batch_size=self.batch_size, asked=True)

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """Each measure, with random orders beside it."""
        kinds = [made for one in self._read() for made in (one, RANDOM_ORDER.of(one), ABOVE_RANDOM.of(one))]
        asked = [EXPLANATION_UNPARSED] if self.texts.rank == "explanation" else []
        told = [EXPLANATION_ACCURACY, EXPLANATION_COST] if asked and self.texts.target is not None else []
        return [*kinds, RANKING_LEVELS, FAITHFULNESS_TEXTS, *asked, *told]

    def _read(self) -> list[Measure]:
        return [one for one in FAITHFULNESS if one is not RANK_AGREEMENT or self.texts.rank != "ablation"]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The ranking."""
        return {RANKING: [self.ranking]}

    # ------------------------------------------------- reading

    def before_batch(self, seen: Seen) -> None:
        """Keep the text of the batch."""
        super().before_batch(seen)
        self.texts.read(seen, self.read_words.of(seen, ["text"])["text"])

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Run the texts without the first words of their ranking, and of random orders."""
        texts = yield from self.texts.texts()
        found = yield from self.texts.measured(texts, reading.group)
        nothing = torch.zeros(0, 2, len(FOUND))
        rows = torch.stack([one.faithful for one in found]) if found else nothing
        values = {FAITHFULNESS_TEXTS.key(self.ranking): float(len(texts))}
        values[RANKING_LEVELS.key(self.ranking)] = mean_defined([one.levels for one in found])
        if self.texts.rank == "explanation":
            values[EXPLANATION_UNPARSED.key(self.ranking)] = mean_defined([float(one.unread) for one in found])
        if self.texts.rank == "explanation" and self.texts.target is not None:
            values |= self._costs([(one.label, own) for one, own in zip(texts, found, strict=True)])
        for one in self._read():
            pairs = rows[:, :, FOUND.index(one.name)].tolist()
            # Of the same texts.
            defined = [pair for pair in pairs if not any(map(math.isnan, pair))]
            ranked, random = (mean_defined([pair[which] for pair in defined]) for which in (0, 1))
            values[one.key(self.ranking)] = ranked
            values[RANDOM_ORDER.of(one).key(self.ranking)] = random
            values[ABOVE_RANDOM.of(one).key(self.ranking)] = ranked - random
        return values

    def _costs(self, texts: Sequence[tuple[int, Ranked]]) -> dict[str, float]:
        """Accuracy of what the model says, and what that costs, of the texts whose class it says."""
        told = [(label, one) for label, one in texts if one.said >= 0]
        said = mean_defined([float(one.said == label) for label, one in told])
        own = mean_defined([float(one.own == label) for label, one in told])
        return {EXPLANATION_ACCURACY.key(self.ranking): said, EXPLANATION_COST.key(self.ranking): own - said}

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Each measure over readings, and what it is of words in random order."""
        return {"ablation/faithfulness": self._curves} if self._lines(FAITHFULNESS[0])["ranking"][0] else {}

    def _lines(self, measure: Measure) -> dict[str, tuple[list[int], list[float]]]:
        lines = {"ranking": measure, "random order": RANDOM_ORDER.of(measure)}
        return {name: self.history.series(self.full_key(one.key(self.ranking))) for name, one in lines.items()}

    def _curves(self) -> Figure:
        return measure_curves({one.title: self._lines(one) for one in self._read()})
