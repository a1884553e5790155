"""What a model predicts in a validation batch, and what was right: logits and targets, one row a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_interp.batches.reader import Key, describe_batch, look_up
from lightning_interp.compat import pl
from lightning_interp.distributed.positions import Selection
from lightning_interp.functional._numerics import as_float
from lightning_interp.sites import Call, SiteRecorder, resolve_sites, short_names
from lightning_interp.sites.feature_axis import FeatureAxis, feature_axis
from lightning_interp.sites.names import clean_name, modules_by_name

__all__ = ["PredictedRows", "PredictionRecorder", "Predictions", "Scores"]

Scores = Literal["logits", "probabilities"]

_CALLS: tuple[Call, ...] = ("only", "first", "last")
_SEVERAL = "name the module that gives the logits, or let validation_step return them and say where with `output=`"
_TARGET_KEYS = ("labels", "label", "targets", "target")
# Probabilities in bfloat16 sum to 1 up to 2⁻⁸.
_SUM = 4e-3


@dataclass(frozen=True)
class PredictedRows:
    """The predictions of the selected samples of a batch, sample by sample: R = samples × positions rows."""

    logits: Tensor
    """(R, C), as the model gave them; (R, 2), the first of them 0, where it gave one a target; logarithms of
    probabilities."""
    targets: Tensor
    """The right class, int64 (R,); 0 in rows that do not count."""
    counted: Tensor
    """Rows with a target, at a real position, and with finite logits (−inf for a class is allowed): bool (R,)."""
    log_norm: Tensor
    """log Σ exp of the logits, (R,), at least float32: log-probabilities are logits less this."""
    samples: Tensor
    """Place in the data set of each row's sample, int64 (R,)."""
    columns: Tensor
    """Which position of the targets a row predicts, int64 (R,); 0 where a sample has one target."""
    omitted: Tensor
    """Rows with a target that are left out since their logits are not finite, bool (R,)."""
    unknown: Tensor
    """Rows left out since no logit belongs to their target: int64 (). Not 0 is a mistake in the arguments."""
    scored: Tensor
    """What :meth:`Predictions.check_scores` takes, to be summed over batches and ranks: rows with a target, those of
    them whose scores are no probabilities, and those with one score; rows of several that all lie between 0 and 1 are
    taken off the last number: int64 (3,)."""
    shape: tuple[int, ...]
    """Shape of the targets as the batch had them, of the selected samples: (B,) or (B, T)."""

    @property
    def nonfinite(self) -> Tensor:
        """How many rows are left out since their logits are not finite: int64 ()."""
        return self.omitted.sum()

    def log_probs(self) -> Tensor:
        """Log-probability of each row's target in nats, (R,), at least float32; of no meaning where not counted."""
        return as_float(self.logits.gather(-1, self.targets[:, None]).squeeze(-1)) - self.log_norm

    def hits(self) -> Tensor:
        """Rows whose most probable class is the target, bool (R,); of equal logits the first class counts."""
        return (self.logits.argmax(-1) == self.targets) & self.counted

    def spread(self, values: Tensor, name: str = "labels") -> Tensor:
        """Values by sample (B,) or by position of the targets (B, T), of the selected samples, as rows (R,).

        Raises:
            ValueError: If the shape is another.

        """
        wanted = tuple(self.shape)
        if tuple(values.shape) not in (wanted, wanted[:1]):
            raise ValueError(f"`{name}` has shape {tuple(values.shape)}, which fits no targets of shape {wanted}.")
        values = values.to(self.columns.device)
        count = len(self.columns) // max(wanted[0], 1)
        if values.ndim == 1:
            return values[:, None].expand(-1, count).flatten()
        return values.gather(1, self.columns.view(wanted[0], count)).flatten()


class Predictions:
    """Says where a batch's logits and targets are, and which of them belong together.

    Logits come from a site of the model (a classifier's last layer, a whole language model), or from what
    ``validation_step`` returns. Of a mapping or a ``ModelOutput``, ``logits`` are taken.

    Args:
        site: Dotted name of the module whose output are the logits; ``""`` for the model itself.
        output: Instead of a site, where the logits are in what ``validation_step`` returns: a key, an index or a
            callable; ``""`` where it returns them.
        target: Where the targets are in the batch, integers (B,) or (B, T): a key, an index or a callable on the
            batch. By default ``labels``, ``label``, ``targets`` or ``target`` of a dict, and the second entry of a
            tuple. Where there is one logit for each, (B, 1), (B,) or (B, T, 1), they are 0 or 1, also as floats or
            booleans, and the logits of the two classes are 0 and that one.
        ignore_index: Targets that are none, as for ``cross_entropy``; one or several.
        shift: How many positions ahead a prediction looks: 1 for a causal language model whose targets are the
            input's own ids, 0 where logits and targets stand side by side. Logits at t are held against the target at
            t + shift.
        mask: Where the padding mask of the targets is, non-zero at real positions: a prediction counts where the
            position that it is made at and the one it is made for are real. By default ``attention_mask`` where
            ``target`` is ``"input_ids"``, and else nothing but ``ignore_index`` says what is padding.
        class_dim: The dimension of the logits that runs over classes: −1, or 1 as ``cross_entropy`` has it.
        scores: What is read: ``"logits"``, of which log-probabilities are a kind, or ``"probabilities"``, as of a model
            that ends in a softmax or, with one for each target, a sigmoid. By default logits, unless all of a reading
            look like probabilities: then :meth:`check_scores` says so.
        call: For a site that fires several times in a forward pass, ``"only"`` (an error), ``"first"`` (before a step
            goes on to generate) or ``"last"``.

    Raises:
        ValueError: If neither or both of ``site`` and ``output`` are given or an argument is out of range; when a batch
            comes, if it lacks the target or shapes do not fit.

    Example:
        >>> causal = Predictions("lm", target="input_ids", shift=1)
        >>> ids = torch.tensor([[1, 2, 0]])
        >>> batch = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 0]])}
        >>> logits = torch.nn.functional.one_hot(ids.roll(-1, 1), 3).float()
        >>> rows = causal.rows(logits, *causal.targets(batch))
        >>> rows.targets.tolist(), rows.counted.tolist(), rows.logits.argmax(-1).tolist()
        ([2, 0], [True, False], [2, 0])

    """

    def __init__(
        self,
        site: str | None = None,
        output: Key | None = None,
        target: Key | None = None,
        ignore_index: int | Sequence[int] = -100,
        shift: int = 0,
        mask: Key | None = None,
        class_dim: int = -1,
        scores: Scores | None = None,
        call: Call = "only",
    ) -> None:
        if (site is None) == (output is None):
            raise ValueError(f"exactly one of `site` and `output` says where logits are, got {site!r} and {output!r}.")
        if site is not None and any(character in site for character in "*?["):
            raise ValueError(f"`site` is {site!r}; name one module, not a pattern.")
        if shift < 0:
            raise ValueError(f"`shift` must be at least 0, got {shift}.")
        if class_dim not in (-1, 1):
            raise ValueError(f"`class_dim` must be -1 or 1, got {class_dim}.")
        if scores not in (None, "logits", "probabilities"):
            raise ValueError(f"`scores` must be 'logits' or 'probabilities', got {scores!r}.")
        if call not in _CALLS:
            raise ValueError(f"`call` must be one of {list(_CALLS)}, got {call!r}.")
        if site is None and call != "only":
            raise ValueError(f"`call={call!r}` says which call of a site is read, and `output` is read at none.")
        self.site = site
        self.output = output
        self.target = target
        self.ignore_index = tuple(int(one) for one in torch.as_tensor(ignore_index).flatten())
        self.shift = shift
        self.mask = mask
        self.class_dim = class_dim
        self.scores: Scores | None = scores
        self.call: Call = call
        self._told = False

    def __repr__(self) -> str:
        where = f"site={self.site!r}" if self.site is not None else f"output={self.output!r}"
        return f"Predictions({where}, target={self.target!r}, shift={self.shift})"

    def short_name(self, model: nn.Module | None = None) -> str:
        """What keys call these predictions: the last part of the site's name, else ``"output"``.

        Example:
            >>> Predictions("model.head").short_name(), Predictions(output="").short_name()
            ('head', 'output')

        """
        if self.site is None:
            return "output"
        return short_names(self.site, model)[0] if model is not None else self.site.rpartition(".")[2] or "model"

    def targets(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Targets of a batch and which of them count, before shifting: int64 and bool, (B,) or (B, T).

        Floating-point targets, which :meth:`rows` may take for 0 and 1, are given as they are.

        Raises:
            ValueError: If the batch lacks them, they are no numbers, or target and mask do not fit.

        """
        found = self._target(batch)
        if not isinstance(found, Tensor) or found.is_complex() or found.ndim == 0:
            what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ValueError(
                f"`target` must lead to integers (B,) or (B, T), not to {what}; the batch is {describe_batch(batch)}."
            )
        targets = found if found.is_floating_point() else found.long()
        targets = targets.flatten(1) if targets.ndim > 2 else targets
        counted = torch.ones_like(targets, dtype=torch.bool)
        for ignored in self.ignore_index:
            counted = counted & (targets != ignored)
        where = self.mask
        if where is None and self.target == "input_ids" and isinstance(batch, Mapping) and "attention_mask" in batch:
            where = "attention_mask"
        if where is not None:
            mask = look_up(batch, where, "mask")
            if not isinstance(mask, Tensor) or mask.flatten(1).shape != targets.view(len(targets), -1).shape:
                shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
                raise ValueError(f"`mask` has shape {shape}, the targets {tuple(found.shape)}: they must be the same.")
            real = mask.to(targets.device).bool().view(targets.shape)
            counted = counted & real
            if self.shift and targets.ndim == 2:
                # With padding on the left, the first word would be predicted from padding.
                counted[:, self.shift :] &= real[:, : -self.shift]
        return targets, counted

    def _target(self, batch: Any) -> Any:
        if self.target is not None:
            return look_up(batch, self.target, "target")
        if isinstance(batch, Mapping):
            for key in _TARGET_KEYS:
                if key in batch:
                    return batch[key]
        elif isinstance(batch, Sequence) and len(batch) > 1:
            return batch[1]
        raise ValueError(
            f"The batch shows no targets by itself: it is {describe_batch(batch)}. Point to them with `target=`: a key "
            "of a dict, an index of a tuple, or a callable on the batch."
        )

    def rows(
        self,
        output: Any,
        targets: Tensor,
        counted: Tensor,
        selection: Selection | None = None,
        graph: bool = False,
    ) -> PredictedRows:
        """Logits and targets side by side, one row a prediction; nothing is read back from the device.

        Args:
            output: What the site or ``validation_step`` returned.
            targets: From :meth:`targets`.
            counted: From :meth:`targets`.
            selection: The samples to take; all of the batch by default.
            graph: Keep the graph of the logits, for gradients.

        Raises:
            ValueError: If logits and targets do not fit.

        """
        logits = self._logits(output)
        if selection is None:
            everything = torch.arange(len(targets))
            selection = Selection(everything, None, everything)
        if self.class_dim == 1 and logits.ndim > 2:
            logits = logits.movedim(1, -1)
        single = targets.ndim == 1
        right, counts = (one[:, None] if single else one for one in (targets, counted))
        flat = _flat(logits[:, None] if single and logits.ndim == 1 else logits)
        if flat.shape[:2] != right.shape:
            raise ValueError(_misfit(logits, targets, right.shape))
        if len(right) != len(selection.batch):
            raise ValueError(
                f"targets {tuple(targets.shape)} have {len(right)} rows for a batch of {len(selection.batch)} samples: "
                "give one row a sample."
            )
        if right.is_floating_point():
            if flat.shape[-1] > 1:
                raise ValueError(
                    f"targets are {targets.dtype} {tuple(targets.shape)}, and logits {tuple(logits.shape)} of "
                    f"{flat.shape[-1]} classes need integers: `target` may be a callable that gives them. Floating-"
                    "point targets are read with one logit for each."
                )
            right = torch.where(right == 1, 1, torch.where(right == 0, 0, -1))
        if self.shift:
            if single or right.shape[1] <= self.shift:
                raise ValueError(f"`shift` is {self.shift}, but the targets have shape {tuple(targets.shape)}.")
            flat, right, counts = flat[:, : -self.shift], right[:, self.shift :], counts[:, self.shift :]
        flat, right, counts = selection.of(flat), selection.of(right), selection.of(counts)
        number, length, given = flat.shape
        scores = flat.reshape(-1, given) if graph else flat.reshape(-1, given).detach()
        rows = _two_classes(scores, self.scores) if given == 1 else scores
        if self.scores == "probabilities" and given > 1:
            rows = as_float(scores).clamp(min=0).log()
        classes = rows.shape[-1]
        wanted, counts = right.flatten().to(rows.device), counts.flatten().to(rows.device)
        known = (wanted >= 0) & (wanted < classes)
        log_norm = as_float(rows).logsumexp(-1)
        finite = log_norm.isfinite()
        place = torch.arange(self.shift, self.shift + length, device=rows.device)
        kept = counts & known & finite
        whole = as_float(scores.detach())
        likely = whole.amin(-1) >= 0
        likely &= whole[:, 0] <= 1 if given == 1 else (whole.sum(-1) - 1).abs() <= _SUM
        # Not only rows that are kept: the logarithm of a negative number is no number.
        told = counts & known & ~whole.isnan().any(-1)
        bounded = told & (whole.amin(-1) >= 0) & (whole.amax(-1) <= 1)
        return PredictedRows(
            logits=rows,
            targets=wanted.masked_fill(~kept, 0),
            counted=kept,
            log_norm=log_norm,
            samples=selection.positions.to(rows.device)[:, None].expand(number, length).flatten(),
            columns=place.expand(number, length).flatten(),
            omitted=counts & known & ~finite,
            unknown=(counts & ~known).sum(),
            scored=torch.stack([told.sum(), (told & ~likely).sum(), told.sum() if given == 1 else -bounded.sum()]),
            shape=(number,) if single else (number, targets.shape[1]),
        )

    def check_scores(self, name: str, scored: Sequence[int]) -> None:
        """Whether a reading's scores are what ``scores`` says; where that says nothing, no guess is silent.

        Scores may all lie between 0 and 1 and be logits all the same: a warning then asks, once. Rows of several that
        are all without a negative one and sum to 1 are no logits.

        Args:
            name: What messages call them.
            scored: The sums of :attr:`PredictedRows.scored`, over all ranks.

        Raises:
            ValueError: If probabilities were read and logits expected, or the other way round.

        """
        number, unlike, kind = scored
        if not number or self.scores == "logits":
            return
        single = kind > 0
        remedy = "say `scores='probabilities'`, or `scores='logits'` if they are logits all the same"
        if self.scores == "probabilities":
            if unlike:
                rule = "must lie between 0 and 1" if single else "must have no negative one and sum to 1"
                raise ValueError(
                    f"`scores='probabilities'`, and those of {name!r} {rule}, but {unlike} of {number} rows do not."
                )
        elif not unlike and not single:
            raise ValueError(
                f"all {number} rows of scores at {name!r} have no negative one and sum to 1: they are probabilities: "
                f"{remedy}."
            )
        elif not self._told and (-kind == number or not unlike):
            self._told = True
            if single:
                pl.utilities.rank_zero_warn(
                    f"all {number} scores at {name!r} lie between 0 and 1. They are read as logits, of which few "
                    f"models give only such: if the model ends in a sigmoid, {remedy}."
                )
            else:
                pl.utilities.rank_zero_warn(
                    f"all {number} rows of scores at {name!r} lie between 0 and 1, and do not all sum to 1. They are "
                    "read as logits, of which few models give only such: where they come from a sigmoid for each "
                    "class, read the module before it, and where some rows are probabilities and others none, leave "
                    "these out by `ignore_index` or `mask`; say `scores='logits'` if they are logits."
                )

    def _logits(self, output: Any) -> Tensor:
        found = output
        if self.output is not None and self.output != "":
            found = look_up(output, self.output, "output")
        if isinstance(found, Mapping) and "logits" in found:
            found = found["logits"]
        elif hasattr(found, "logits"):
            found = found.logits
        if not isinstance(found, Tensor) or not found.is_floating_point():
            where = f"site {self.site!r}" if self.site is not None else f"`output={self.output!r}`"
            raise ValueError(f"{where} gives no logits: it is {describe_batch(found)}.")
        return found


def _flat(logits: Tensor) -> Tensor:
    """Logits by sample, position and class, (B, T, C)."""
    return logits.flatten(1, -2) if logits.ndim > 2 else logits[:, None]


def _two_classes(scores: Tensor, kind: Scores | None) -> Tensor:
    """The logits of two classes, (R, 2), from one score, (R, 1)."""
    if kind != "probabilities":
        return torch.cat([torch.zeros_like(scores), scores], -1)
    chance = as_float(scores)
    return torch.cat([torch.log1p(-chance), chance.log()], -1)


def _misfit(logits: Tensor, targets: Tensor, wanted: Sequence[int]) -> str:
    """Why logits and targets do not fit, and what would."""
    text = f"logits {tuple(logits.shape)} do not fit targets {tuple(targets.shape)}: "
    if logits.ndim > 2 and tuple(_flat(logits.movedim(1, -1)).shape[:2]) == tuple(wanted):
        return f"{text}classes stand in dimension 1, as `cross_entropy` has them; say `class_dim=1`."
    if logits.numel() == targets.numel() and logits.ndim > 1:
        return (
            f"{text}they are as many. Several labels a sample at once (multi-label) are not read here: read one of "
            "them by `output=` and `target=`. One-hot targets become classes by `target=lambda batch: …argmax(-1)`; "
            "one logit for each position needs a last dimension of 1."
        )
    return f"{text}expected one vector of logits for each target, with classes last (or `class_dim=1`)."


def _check_classes(site: str, class_dim: int, logits: Tensor, axis: FeatureAxis | None) -> None:
    """Refuse a dimension of classes that is not where the module has them, though shapes may fit."""
    if axis is not None and axis.axis == "second" and class_dim != 1 and logits.ndim > 2:
        raise ValueError(
            f"`class_dim={class_dim}` contradicts site {site!r}: its {axis.source} has {axis.size or 'its'} features "
            f"on the second axis of the logits {tuple(logits.shape)}; say `class_dim=1`."
        )


class PredictionRecorder:
    """Takes logits and targets of several :class:`Predictions` from the batches that go through a model.

    Args:
        model: The module that sites are relative to.
        predictions: What to take, by name.

    Raises:
        ValueError: If a site matches no module.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> recorder = PredictionRecorder(model, {"model": Predictions("")})
        >>> recorder.attach()
        >>> batch = (torch.zeros(2, 4), torch.tensor([0, 2]))
        >>> recorder.start(batch)
        >>> output = model(batch[0])
        >>> recorder.take()["model"].targets.tolist()
        [0, 2]
        >>> recorder.detach()

    """

    def __init__(self, model: nn.Module, predictions: Mapping[str, Predictions]) -> None:
        if not predictions:
            raise ValueError("`predictions` is empty.")
        self.predictions = dict(predictions)
        self._recorders: list[SiteRecorder] = []
        self._axes: dict[str, FeatureAxis | None] = {}
        modules = modules_by_name(model)
        for call in _CALLS:
            sites = {one.site: one for one in predictions.values() if one.site is not None and one.call == call}
            if sites:
                # Named by their dotted names: several predictions may read one site.
                names = {site: next(iter(resolve_sites(model, site).values())) for site in sites}
                recorder = SiteRecorder(model, names, call, offer=("first", "last"), advice=_SEVERAL)
                self._recorders.append(recorder)
                self._axes |= {site: feature_axis(modules, clean_name(name)) for site, name in names.items()}
        self._targets: dict[str, tuple[Tensor, Tensor]] = {}

    def attach(self) -> None:
        """Put the hooks on the model."""
        for recorder in self._recorders:
            recorder.attach()

    def detach(self) -> None:
        """Take the hooks off."""
        for recorder in self._recorders:
            recorder.detach()
        self._targets = {}

    def start(self, batch: Any) -> None:
        """The batch is about to go through the model; its targets are read now, since a step may change it."""
        found = {name: one.targets(batch) for name, one in self.predictions.items()}
        # A copy: a step may also write into the batch's own tensors.
        self._targets = {name: (targets.clone(), counted) for name, (targets, counted) in found.items()}
        for recorder in self._recorders:
            recorder.start()

    def stop(self) -> None:
        """Give up the batch."""
        for recorder in self._recorders:
            recorder.stop()
        self._targets = {}

    def take(self, selection: Selection | None = None, step_output: Any = None) -> dict[str, PredictedRows]:
        """The batch went through the model: its predictions by name.

        Args:
            selection: The samples to take; all by default.
            step_output: What ``validation_step`` returned, for predictions that are read there.

        Raises:
            ValueError: If logits and targets do not fit.
            CaptureError: If a site never ran, or more than once.

        """
        targets, self._targets = self._targets, {}
        captured: dict[str, Tensor] = {}
        for recorder in self._recorders:
            recorder.stop()
            captured |= {site: outputs[-1] for site, outputs in recorder.take().items()}
        for one in self.predictions.values():
            if one.site is not None:
                _check_classes(one.site, one.class_dim, captured[one.site], self._axes[one.site])
        return {
            name: one.rows(step_output if one.site is None else captured[one.site], *targets[name], selection)
            for name, one in self.predictions.items()
        }
