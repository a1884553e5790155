"""What a prediction loses without each word of its text, and how much of that a cue has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Unpack

from torch import Tensor, nn

from lightning_interp.batches.contents import Key
from lightning_interp.distributed import Collective
from lightning_interp.functional.ablation import Score
from lightning_interp.isolation.random_weights import Reinit
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.likelihood import Forward
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.ablation import CUE
from lightning_interp.parts.ablated_texts import AblatedTexts, Cues, Predicts, Without
from lightning_interp.parts.ablation_measures import ablation_measured, ablation_measures
from lightning_interp.parts.baseline import Baseline
from lightning_interp.parts.word_weights import WordWeights
from lightning_interp.parts.words import Words
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.arguments import LoaderArgs
from lightning_interp.reading.reading import Reading

__all__ = ["InputAblation"]

_MOST_READINGS, _DRAWN = 32, 3  # readings, and texts of them, in figures


class InputAblation(ValidationAnalysis):
    r"""Reads what the prediction of a text loses without each of its words, one at a time (occlusion).

    With c the class that the model predicts for the whole text x, or the token that it predicts to come next or at a
    mask, and :math:`f = \log p(c)` (Zeiler & Fergus 2014, for patches of an image):

    .. math::
        w_i = f(x) - f(x \setminus i), \quad a_i = \frac{|w_i|}{\sum_j |w_j|}, \quad
        \mathrm{concentration} = 1 - \frac{H(a)}{\log n}, \quad \mathrm{cue\_share} = \sum_{i \in S} a_i

    with n words and S those of a cue, such as one that a model must not decide by: a share that rises to far above its
    chance while the loss falls is a shortcut. Weights of one removal at a time are the ranking that the measures of
    DeYoung et al. (2020) compare others with; where either of two words is enough, neither has any. Of images, signals
    and embeddings :class:`~lightning_interp.callbacks.PatchAblation` reads the same.

    ============================  =======  =============================================================================
    key                           level    what it is
    ============================  =======  =============================================================================
    ``ablation_concentration``    summary  0 where all words weigh alike, 1 where one has all; mean over texts
    ``…_baseline``                full     with random weights, which are not at 0
    ``…_above_baseline``          summary  what training adds
    ``ablation_stability``        summary  Spearman of w with that of the reading before, mean over texts (conditional:
                                           not at the first reading of a fit, nor outside one)
    ``cue_share/<cue>``           summary  share of the weight that the cue has, mean over texts that have it
                                           (conditional: there may be none)
    ``cue_share_chance/<cue>``    full     share of words that are the cue, \|S\| / n (conditional)
    ``…_above_chance/<cue>``      summary  the one less the other (conditional)
    ``cue_first/<cue>``           summary  share of those texts whose word of most weight is in the cue (conditional)
    ``cue_first_chance/<cue>``    full     \|S\| / n (conditional)
    ``ablation_total``            full     sum of \|w\|, mean over texts, nats
    ``ablation_texts``            full     how many texts were read: those of two words or more
    ============================  =======  =============================================================================

    "Without" is a choice. ``"resample"``: tokens drawn from all that were read, the mean of several draws, the same at
    every reading: nearest to what a model was trained on, but a common cue is drawn in the place of other words, too.
    ``"replace"``: the mask token. ``"hide"``: attention mask 0; positions stay. ``"embedding"``: the mean embedding of
    what was read, for a model that is linear in it the mean of all draws. ``"delete"``: positions behind it move.

    Args:
        without: How words are left out.
        cues: By name where a batch marks the positions of a cue, bool (B, T), the token ids that it is, or a regular
            expression (``re.compile``) that is looked for in the text of each word, as ``decode`` gives it.
        model: Dotted name of the model of token ids in the module; ``""`` for the module.
        score: ``"log_prob"``, or ``"log_odds"``, log p(c) / (1 − p(c)), which is linear where logits of two classes are
            and does not fade as a model becomes certain.
        predicts: Where a model of tokens predicts: ``"last"``, at the last position, or ``"masked"``, for a masked
            language model, at the mask. Of several masked words of a text one is drawn; in a text without a mask a word
            is drawn, the same at every reading, and masked whole. What is masked is no word that is left out.
        mask_token_id: The id that ``"replace"`` puts in, and at which ``"masked"`` predicts.
        draws: Of ``"resample"``, how many for each word.
        embedding: Dotted name, within the model, of the module that embeds, for ``"embedding"``; by default what
            ``get_input_embeddings`` gives, else the largest ``nn.Embedding``.
        words: Where a batch has the word of each position, int (B, T), −1 for none: pieces of a word are left out
            together. By default each token is a word.
        ignore_tokens: Ids that are never left out: BOS, EOS, CLS, SEP.
        max_examples: Texts of the validation run, spread evenly over it.
        baseline: Random weights; see :class:`~lightning_interp.callbacks.LayerProbe`.
        forward: Calls the model on texts without padding: ``forward(model, input_ids, attention_mask)``, logits (B, C)
            of classes, or (B, T, V) of tokens.
        batch_tokens: Tokens in a forward pass.
        decode: Token ids → text, such as a tokenizer's ``decode``, for the rows of figures and cues that are patterns.
        tokens, mask, padding_idx: Where a validation batch has its text; see
            :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        seed: Of draws and random weights.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range or belongs to another way, a name matches nothing, or the model takes
            no mask to hide words with; in the sanity check, if batches do not say their text, words or cues.

    Cost: n + 1 forward passes for a text of n words, ``draws`` · n + 1 with ``"resample"``; as many with random
        weights, once.

    Example:
        >>> callback = InputAblation("hide", cues={"name": [17, 42]})
        >>> callback.logged_keys()[:3]
        ['ablation_concentration', 'ablation_concentration_above_baseline', 'ablation_stability']

    """

    told_apart = ("without", "language_model", "prefix")

    def __init__(
        self,
        without: Without = "resample",
        cues: Cues | None = None,
        model: str = "",
        score: Score = "log_prob",
        predicts: Predicts = "last",
        mask_token_id: int | None = None,
        draws: int = 4,
        embedding: str | None = None,
        words: Key | None = None,
        ignore_tokens: Sequence[int] = (),
        max_examples: int | None = 16,
        baseline: bool | Reinit | None = None,
        forward: Forward | None = None,
        batch_tokens: int = 4096,
        decode: Callable[[list[int]], str] | None = None,
        tokens: Key | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        seed: int = 0,
        **kwargs: Unpack[LoaderArgs],
    ) -> None:
        super().__init__(max_examples=max_examples, **kwargs)
        self.language_model, self.without, self.seed = model, without, seed
        how = (without, score, mask_token_id, draws, embedding, words, ignore_tokens, cues, seed)
        self.texts = AblatedTexts(*how, model, forward, batch_tokens, decode=decode, predicts=predicts)
        self.read_words = Words(tokens, mask, padding_idx, batch_size=self.batch_size, asked=True)
        self.baseline = Baseline(baseline, seed, of=model)
        self.weights = WordWeights(_MOST_READINGS, decode)
        """Weight of each word of each text, of evenly spread readings and the last."""

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """How weight is spread, with random weights beside it, whether it stays, and what cues have of it."""
        return ablation_measures(self.baseline)

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The cues."""
        return {CUE: list(self.texts.cues)}

    # ------------------------------------------------- reading

    def before_batch(self, seen: Seen) -> None:
        """Keep the text of the batch."""
        super().before_batch(seen)
        self.texts.read(seen, self.read_words.of(seen, ["text"])["text"])

    def kept_for_samples(self) -> str:
        """Weights are compared with those of the reading before, and random weights were read on the texts."""
        return "ablation_stability and the random weights are of those, so both begin anew"

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Run the texts without each word, with random weights too where that is due."""
        read = yield from self.texts.texts()
        losses = partial(self.texts.losses, read, reading.group)
        names, own = list(self.texts.cues), (self.weights, self.baseline, reading)
        return (yield from ablation_measured(type(self).__name__, self.texts.model, read, losses, names, *own))

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Weight of each word of the first texts over readings."""
        number = min(_DRAWN, self.weights.number)
        return {f"ablation/text_{place}": partial(self.weights.heatmap, place) for place in range(number)}
