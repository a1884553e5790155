"""Which training examples a model has to learn by themselves, told from its last layer while it trains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack, get_args

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.contents import BatchSize, Key, look_up
from lightning_interp.batches.forward import Forward
from lightning_interp.batches.own_data import apart
from lightning_interp.compat import pl
from lightning_interp.distributed import Collective, Sum
from lightning_interp.distributed.positions import Selection
from lightning_interp.figures import measure_curves
from lightning_interp.functional.auroc import auroc, permuted_auroc
from lightning_interp.functional.top_mass import top_mass, top_mass_chance
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.derived import CHANCE, CONTROL
from lightning_interp.metrics.measure import Measure
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.metrics.measures.influence import (
    FLAG_AUROC,
    SCORE,
    SELF_INFLUENCE_EXAMPLES,
    SELF_INFLUENCE_STABILITY,
    SELF_INFLUENCE_TOP,
)
from lightning_interp.parts.example_sums import ExampleSums, Show, SummedExamples
from lightning_interp.parts.last_layer import LastLayer
from lightning_interp.parts.training_examples import TrainingExamples
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.arguments import AnalysisArgs
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.train_loop import learning_rate
from lightning_interp.reporting.attempt import attempt
from lightning_interp.sites import Call

__all__ = ["SelfInfluence"]

On = Literal["sample", "batches"]

_SCORES = ("self_influence", "loss", "error_norm")
_UNKNOWN = math.nan, math.nan
_LEFT_OUT = NONFINITE.at(end="training_examples")


class SelfInfluence(ValidationAnalysis):
    r"""Reads how far each training example moves its own loss, summed over training: which ones are hard, or wrong.

    TracIn (Pruthi et al. 2020, arXiv 2002.08484) for an example and itself, at the last linear layer alone, where the
    gradient is known in closed form. With logits W h + b, error δ = softmax − onehot and learning rate η at reading t

    .. math:: \sum_t \eta_t \, \|\delta_t\|^2 \, (\|h_t\|^2 + 1)

    and for a sequence, whose loss is the sum over its positions, the length of the sum of their gradients
    (:func:`~lightning_interp.functional.last_layer_norm`). Beside it loss and error norm ‖δ‖ (EL2N, Paul et al. 2021,
    arXiv 2107.07075), summed with the same weights over the same readings, so that the three can be compared.

    ======================================  =======  ===================================================================
    key                                     level    what it is
    ======================================  =======  ===================================================================
    ``self_influence/top1_mass``            summary  share of the sum that the hundredth of examples with most of it
                                                     has
    ``self_influence/top1_mass_chance``     full     where all examples have the same
    ``self_influence/rank_stability``       summary  Spearman of self-influence at this reading alone with that at the
                                                     reading before; by chance 0 (conditional: not at the first)
    ``flag_auroc/<score>``                  summary  area under the ROC curve of finding flagged examples by the sum of
                                                     ``self_influence``, ``loss`` or ``error_norm``; by chance .5
                                                     (conditional: flags must be given, and not all be alike)
    ``flag_auroc_control/<score>``          full     with the flags dealt to other examples, mean of 20 deals
                                                     (conditional)
    ``self_influence/examples``             full     how many examples were read so far
    ``nonfinite/training_examples``         full     how many were left out at this reading since something is not
                                                     finite
    ======================================  =======  ===================================================================

    **Loss does as well.** In digits with a tenth of the labels flipped, the area is .997 for self-influence, .998 for
    the sum of losses and .999 for that of error norms after 11 epochs of SGD, and under AdamW loss is ahead at the
    start: look at ``flag_auroc/loss`` before you believe in influence. What counts is the sum over training: values of
    a single late reading fall once flipped labels are memorised.

    **What it is not.** Gradients of other layers are left out. Where the output layer shares its weight with the
    embedding, this is the part of the output only. With Adam an update is no multiple of the gradient: the sum is that
    of SGD with Adam's learning rates, a way to weigh readings. Class weights and label smoothing are not read.

    Readings weigh alike, however many steps lie between them: on a logarithmic schedule most of them are early.

    :meth:`most` has the examples with most, which loggers with texts (TensorBoard, Weights & Biases, MLflow) show at
    the end of a fit as ``self_influence/top``. Outside of a fit the sums of the fit before stand; without one the model
    is read as it is, with a learning rate of 1.

    Args:
        head: Dotted name of the last ``nn.Linear``, whose output are the logits.
        data: Batches of training examples to read instead of a sample of the Trainer's, in a fixed order: a
            ``DataLoader`` that does not shuffle, or a list. Needed outside of a fit, and where the training data are a
            stream. Examples are numbered as they come.
        flags: Where a batch says which examples are known to be bad, bool (B,): a key, an index or a callable.
        on: ``"sample"``: a fixed sample of the training data, run through the model in evaluation mode at each reading;
            numbers are places in the data set. ``"batches"``: training batches as they come, with dropout and whatever
            else there is, without another forward pass; sums are then over how often an example came.
        ids: For ``"batches"``, where a batch has the number of each example, integers (B,).
        every_n_batches: For ``"batches"``, read every n-th.
        max_examples: Examples to read over all ranks, chosen by a hash of their numbers; ``None`` for all.
        target: Where a batch has its targets, integers (B,) or (B, T); this, ``ignore_index``, ``shift``, ``mask`` and
            ``call`` are as for :class:`~lightning_interp.callbacks.ConfidenceCalibration`.
        forward: How a batch goes through the module, ``forward(model, batch)``; by default the module's own forward
            gets what it takes of a dict by name, or the first entry of a tuple.
        show: Number of an example → text that stands in the table: its words, the path of its picture.
        seed: Of the sample, of what data set items draw at random, and of the deals of flags.
        batch_size: See :class:`~lightning_interp.callbacks.ValidationAnalysis`.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`, except ``dataloader_idx``.

    Raises:
        ValueError: If an argument is out of range, ``head`` is no ``nn.Linear`` or is frozen, a batch lacks what is
            asked for, or no sample can be drawn from the training data.

    Cost: on a sample, its loading and a forward pass over it at each reading; on batches, a copy of the layer's input
        and output in every n-th training step. In memory 80 bytes an example, over ranks as much to exchange. A
        checkpoint holds all sums; with several ranks those on batches only up to the last reading.

    Example:
        >>> callback = SelfInfluence("head", flags="is_flipped")
        >>> callback.logged_keys()[:3]
        ['self_influence/top1_mass', 'self_influence/rank_stability', 'flag_auroc/self_influence']

    """

    told_apart = ("head", "on", "prefix")

    def __init__(
        self,
        head: str,
        data: Iterable[Any] | None = None,
        flags: Key | None = None,
        on: On = "sample",
        ids: Key | None = None,
        every_n_batches: int = 1,
        max_examples: int | None = 512,
        target: Key | None = None,
        ignore_index: int | Sequence[int] = -100,
        shift: int = 0,
        mask: Key | None = None,
        call: Call = "only",
        forward: Forward | None = None,
        show: Show | None = None,
        seed: int = 0,
        batch_size: BatchSize | None = None,
        **kwargs: Unpack[AnalysisArgs],
    ) -> None:
        refuse_unknown_arguments(type(self), kwargs, AnalysisArgs)
        super().__init__(max_examples=max_examples, dataloader_idx=0, batch_size=batch_size, **kwargs)
        if on not in get_args(On):
            raise ValueError(f"`on` must be one of {list(get_args(On))}, got {on!r}.")
        if every_n_batches < 1:
            raise ValueError(f"`every_n_batches` must be at least 1, got {every_n_batches}.")
        if on == "batches" and ids is None:
            raise ValueError("`on='batches'` needs `ids`: training batches do not say which examples they have.")
        of_other = {"ids": ids} if on == "sample" else {"data": data, "forward": forward}
        for name, value in of_other.items():
            if value is not None:
                raise ValueError(f"`{name}` has no use with `on={on!r}`.")
        self.head, self.flags, self.on, self.ids, self.seed = head, flags, on, ids, seed
        self.every_n_batches = every_n_batches
        how = {"target": target, "ignore_index": ignore_index, "shift": int(shift), "mask": mask, "call": call}
        self.layer = LastLayer(head, how)
        self.examples = TrainingExamples(data, max_examples, seed, forward)
        self.sums = ExampleSums(max_examples, seed, show)
        """What is known of each example."""
        self._read_one = False

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """How self-influence is spread and whether its order stays, and how well flags are found by three scores."""
        return [
            *(SELF_INFLUENCE_TOP, CHANCE.of(SELF_INFLUENCE_TOP), SELF_INFLUENCE_STABILITY),
            *(FLAG_AUROC, CONTROL.of(FLAG_AUROC), SELF_INFLUENCE_EXAMPLES, _LEFT_OUT),
        ]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """What examples are ordered by, where there are flags to find."""
        return {SCORE: [] if self.flags is None else _SCORES}

    # ------------------------------------------------- training batches

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Get ready to read a training batch."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._rate: float | None = None
        if self.on == "batches" and batch_idx % self.every_n_batches == 0:
            self._of_batch(lambda: self._start(trainer, batch))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in what the training step put out, with the learning rate of the step."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        rate = self._rate
        if rate is not None:
            self._of_batch(lambda: self._take(self._whole(batch), rate))
            self._read_one = True

    def _start(self, trainer: pl.Trainer, batch: Any) -> None:
        assert self.layer.module is not None
        rate = learning_rate(trainer, self.layer.module, f"`head={self.head!r}`")
        self.layer.before_batch(self._whole(batch))
        self._rate = rate

    def _of_batch(self, work: Any) -> None:
        """An error in the first training batch is one of the arguments; later ones do not end the training."""
        with torch.no_grad():
            if self._read_one and self.on_error != "raise":
                attempt(self._name, self._said, "read a training batch", work)
            else:
                work()

    def _whole(self, batch: Any) -> Seen:
        numbers = self._told(batch, self.ids, "ids", self.count(batch))
        assert numbers is not None
        if numbers.is_floating_point() or numbers.dtype == torch.bool:
            raise ValueError(f"`ids` must be integers, got {numbers.dtype}.")
        numbers = numbers.long()
        return Seen(batch, 0, 0, Selection(numbers, None, numbers))

    # ------------------------------------------------- reading

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        super().begin(reading)
        if self.on == "sample":
            self.sums.drop()  # of a reading that was given up

    def collect(self, reading: Reading) -> None:
        """Run the sample through the model."""
        if self.on == "batches" or (reading.step is None and len(self.sums.known.ids)):
            return
        model, rate = reading.model, self._rate_at(reading)
        with apart(model, reading.trainer):
            model.eval()
            for seen in self.examples.batches(reading, self.count):
                if seen.counted:
                    self.layer.before_batch(seen)
                self.examples.run(model, seen.batch)
                if seen.counted:
                    self._take(seen, rate)

    def _rate_at(self, reading: Reading) -> float:
        if reading.step is None:
            return 1.0
        assert self.layer.module is not None
        return learning_rate(reading.trainer, self.layer.module, f"`head={self.head!r}`")

    def _take(self, seen: Seen, rate: float) -> None:
        scores = self.layer.scores(seen)
        flags = self._told(seen.batch, self.flags, "flags", len(seen.selection.batch))
        if flags is not None and not bool(((flags == 0) | (flags == 1)).all()):
            raise ValueError("`flags` must be 0 or 1, or booleans.")
        self.sums.add(
            seen.selection.positions, scores, rate, None if flags is None else seen.selection.of(flags).bool()
        )

    @staticmethod
    def _told(batch: Any, key: Key | None, name: str, size: int) -> Tensor | None:
        """What a batch says of each example, on the CPU."""
        if key is None:
            return None
        found = torch.as_tensor(look_up(batch, key, name)).detach().cpu()
        if found.shape != (size,):
            raise ValueError(f"`{name}` has shape {tuple(found.shape)} for a batch of {size} examples.")
        return found

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Bring together what ranks read, and compare."""
        yield from self.layer.check()
        known = yield from self.sums.merged()
        left_out: Tensor = yield Sum(torch.tensor(float(self.sums.nonfinite)))
        means = known.means
        values: dict[str, Tensor | float] = {
            SELF_INFLUENCE_TOP.key(): top_mass(means[:, 0]),
            CHANCE.of(SELF_INFLUENCE_TOP).key(): top_mass_chance(len(means)),
            SELF_INFLUENCE_STABILITY.key(): known.stability(),
            SELF_INFLUENCE_EXAMPLES.key(): float(len(means)),
            _LEFT_OUT.key(): left_out,
        }
        return values | self._of_flags(known)

    def _of_flags(self, known: SummedExamples) -> dict[str, float]:
        """How well each score finds the flagged examples; undefined where there are none, or no others."""
        told = known.flags.isfinite()
        flags, found = known.flags[told] > 0, {}
        both = bool(flags.any()) and not bool(flags.all())
        for place, score in enumerate(_SCORES if self.flags is not None else ()):
            means = known.means[told, place]
            found[FLAG_AUROC.key(score)] = auroc(means, flags) if both else math.nan
            found[CONTROL.of(FLAG_AUROC).key(score)] = (
                permuted_auroc(means, flags, seed=self.seed) if both else math.nan
            )
        return found

    def most(self) -> list[dict[str, Any]]:
        """The 20 examples with most self-influence, the first first: number, sums over how often it came, flag."""
        return self.sums.table()

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """How self-influence is spread, and how well flags are found, over steps."""
        return {"self_influence/curves": self._curves}

    def _curves(self) -> Figure:
        def line(key: str) -> tuple[list[int], list[float]]:
            return self.history.series(self.full_key(key))

        top = SELF_INFLUENCE_TOP
        panels = {"share of the top hundredth": {"": line(top.key()), "chance": line(CHANCE.of(top).key())}}
        panels["stability of the order"] = {"": line(SELF_INFLUENCE_STABILITY.key())}
        if self.flags is not None:
            panels["ROC area of flags"] = {one.replace("_", " "): line(FLAG_AUROC.key(one)) for one in _SCORES}
            panels["ROC area of flags"] |= {"dealt": line(CONTROL.of(FLAG_AUROC).key(_SCORES[0]))}
        return measure_curves(panels, "Self-influence of training examples")
