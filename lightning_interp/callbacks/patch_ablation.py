"""What a prediction loses without each patch or channel of an image or a signal, and how much of that a cue has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Unpack

from torch import Tensor, nn

from lightning_interp.batches.contents import Key
from lightning_interp.distributed import Collective
from lightning_interp.functional.ablation import Score
from lightning_interp.isolation.random_weights import Reinit
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.ablation import CUE
from lightning_interp.parts.ablated_inputs import AblatedInputs, Instead, RunInputs, UnitCues
from lightning_interp.parts.ablation_measures import ablation_measured, ablation_measures
from lightning_interp.parts.baseline import Baseline
from lightning_interp.parts.input_units import Units
from lightning_interp.parts.patch_weights import PatchWeights
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.arguments import LoaderArgs
from lightning_interp.reading.reading import Reading

__all__ = ["PatchAblation"]

_MOST_READINGS = 32  # in figures


class PatchAblation(ValidationAnalysis):
    r"""Reads what the prediction of an image or a signal loses without each of its patches or channels (occlusion).

    What :class:`~lightning_interp.callbacks.InputAblation` reads of words, of inputs that are numbers. With c the class
    that the model predicts for the whole input x, and :math:`f = \log p(c)` (Zeiler & Fergus 2014):

    .. math::
        w_i = f(x) - f(x \setminus i), \quad a_i = \frac{|w_i|}{\sum_j |w_j|}, \quad
        \mathrm{concentration} = 1 - \frac{H(a)}{\log n}, \quad \mathrm{cue\_share} = \sum_{i \in S} a_i

    with n patches and S those of a cue, such as a scanner's tag in a corner: a share that rises to far above its chance
    while the loss falls is a shortcut. Where either of two patches is enough, neither has any weight.

    ============================  =======  =============================================================================
    key                           level    what it is
    ============================  =======  =============================================================================
    ``ablation_concentration``    summary  0 where all patches weigh alike, 1 where one has all; mean over inputs
    ``…_baseline``                full     with random weights, which are not at 0
    ``…_above_baseline``          summary  what training adds
    ``ablation_stability``        summary  Spearman of w with that of the reading before, mean over inputs (conditional:
                                           not at the first reading of a fit, nor outside one)
    ``cue_share/<cue>``           summary  share of the weight that the cue has, mean over inputs that have it
                                           (conditional: there may be none)
    ``cue_share_chance/<cue>``    full     share of patches that are the cue, \|S\| / n (conditional)
    ``…_above_chance/<cue>``      summary  the one less the other (conditional)
    ``cue_first/<cue>``           summary  share of those inputs whose patch of most weight is in the cue (conditional)
    ``cue_first_chance/<cue>``    full     \|S\| / n (conditional)
    ``ablation_total``            full     sum of \|w\|, mean over inputs, nats
    ``ablation_texts``            full     how many inputs were read
    ============================  =======  =============================================================================

    Keys are those of :class:`~lightning_interp.callbacks.InputAblation`, so that of both in one Trainer one needs a
    ``prefix``. What stands in the place of a patch is a choice. ``"mean"``: of each channel, over all that was read.
    ``"zero"``. ``"resample"``: the same patch of other inputs that were read, the mean of several draws, the same at
    every reading: nearest to what a model was trained on, but others may have the same cue there. What is grey or black
    is something to see, too: a model may never have met it.

    Args:
        units: The side of a patch in pixels or time steps, 8 for 8 × 8, or one for each dimension, (8, 4); or
            ``"channels"``. Where sides do not divide an input the last patches are smaller, and weigh less for that.
        without: What stands in the place of what is left out.
        cues: By name where a batch marks the positions of a cue, bool (B, H, W) or (B, T), of which a patch with any
            belongs to it, of channels (B, C); or the numbers of channels, or of patches, row by row, that it is.
        inputs: Where a batch has its inputs, floating (B, …), all of one shape; by default the batch, or the first
            thing in it where that is a tuple or list.
        channels: The dimension of channels, that of the batch counted: 1 of (B, C, H, W) and (B, C, T), −1 of (B, T, D)
            such as embeddings, of which ``units=1`` leaves out one position at a time; ``None`` where there is none.
        model: Dotted name of the model of these inputs in the module; ``""`` for the module.
        score: ``"log_prob"``, or ``"log_odds"``, log p(c) / (1 − p(c)), which is linear where logits of two classes are
            and does not fade as a model becomes certain.
        draws: Of ``"resample"``, how many for each patch.
        max_examples: Inputs of the validation run, spread evenly over it; all of them are kept while a reading lasts.
        baseline: Random weights; see :class:`~lightning_interp.callbacks.LayerProbe`.
        forward: Calls the model: ``forward(model, inputs)``, logits (B, C) of classes; by default ``model(inputs)``.
        batch_inputs: Inputs in a forward pass.
        seed: Of draws and random weights.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If an argument is out of range, or a name matches nothing; in the sanity check, if batches do not
            say their inputs or cues, inputs are not of one shape, or they make fewer than two patches.
        TypeError: If the model gives no logits of classes.

    Cost: n + 1 forward passes for an input of n patches, ``draws`` · n + 1 with ``"resample"``; as many with random
        weights, once.

    Example:
        >>> callback = PatchAblation(8, cues={"corner": [0]})
        >>> callback.logged_keys()[:3]
        ['ablation_concentration', 'ablation_concentration_above_baseline', 'ablation_stability']

    """

    told_apart = ("units", "without", "submodule", "prefix")

    def __init__(
        self,
        units: Units,
        without: Instead = "mean",
        cues: UnitCues | None = None,
        inputs: Key | None = None,
        channels: int | None = 1,
        model: str = "",
        score: Score = "log_prob",
        draws: int = 4,
        max_examples: int | None = 16,
        baseline: bool | Reinit | None = None,
        forward: RunInputs | None = None,
        batch_inputs: int = 32,
        seed: int = 0,
        **kwargs: Unpack[LoaderArgs],
    ) -> None:
        super().__init__(max_examples=max_examples, **kwargs)
        self.units, self.without, self.submodule, self.seed = units, without, model, seed
        how = (inputs, units, channels, without, score, draws, cues, seed)
        self.read_inputs = AblatedInputs(*how, model, forward, batch_inputs)
        self.baseline = Baseline(baseline, seed, of=model)
        self.weights = PatchWeights(_MOST_READINGS, self.read_inputs.made_of)
        """Weight of each patch of each input, of evenly spread readings and the last."""

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """How weight is spread, with random weights beside it, whether it stays, and what cues have of it."""
        return ablation_measures(self.baseline)

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The cues."""
        return {CUE: list(self.read_inputs.cues)}

    # ------------------------------------------------- reading

    def kept_for_samples(self) -> str:
        """Weights are compared with those of the reading before, and random weights were read on the inputs."""
        return "ablation_stability and the random weights are of those, so both begin anew"

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Run the inputs without each patch, with random weights too where that is due."""
        source = self.read_inputs
        read = yield from source.gathered()
        losses, own = partial(source.losses, read, reading.group), (self.weights, self.baseline, reading)
        return (yield from ablation_measured(type(self).__name__, source.model, read, losses, list(source.cues), *own))

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Weight of each patch of the first inputs over readings."""
        return self.weights.drawn()
