"""What the gradients of tasks are compared by: a sketch for each layer and half of the pairs, and some coordinates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional import hashed_sample
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.sketch import add_to_sketch
from lightning_interp.isolation.float32_copies import float32_copies, with_tensors
from lightning_interp.language.batching import length_batches, pad_right
from lightning_interp.language.encoding import EncodedPair
from lightning_interp.language.likelihood import Forward, eval_mode, model_device, sentence_log_probs

__all__ = ["GradientReader", "Groups", "TaskGradients", "group_names", "layer_group"]

Groups = bool | Callable[[str], str | None]
"""Whether layers are read apart, or a function from a parameter's name to the name of its group."""

ALL = "all"
_BLOCK = re.compile(r"(?:^|\.)(?:h|layers?|blocks?)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:wte|wpe|\w*emb\w*)\.")
_HEAD = re.compile(r"(?:^|\.)\w*head\.")


class TaskGradients(NamedTuple):
    """The gradient of S(good) − S(bad), summed over pairs, as far as it is kept; adds up over parts of a task."""

    sketches: Tensor
    """By group of layers and half of the pairs, float64 (groups, 2, buckets); group 0 is the whole model."""
    sample: Tensor
    """At a sample of coordinates, float64 (n,)."""
    swapped: Tensor
    """There, with the two sentences of every pair of the second half swapped: what is left without the task, (n,)."""
    margins: Tensor
    """log p(good) − log p(bad) of each pair in nats, (pairs,)."""
    counts: Tensor
    """Pairs in each half, int64 (2,)."""


class GradientReader:
    r"""Reads gradient differentials of minimal pairs (Weber et al. 2024) without keeping them.

    .. math:: D = \sum_b \nabla_\theta \left[ S(x^+_b) - S(x^-_b) \right], \qquad S(x) = -\sum_t \log p(x_t \mid x_{<t})

    as :func:`lightning_interp.tasks.differential.gradient_differential`, but a sum over pairs. Of it are kept, by this
    library's choice, a CountSketch for each group of layers and each half of the pairs, for cosines, and a hashed
    sample of coordinates, for overlap. Both are linear and hashed from a coordinate's place among all parameters of
    the model, so that they add up over micro-batches, ranks and calls, and agree between checkpoints. Which
    half a pair belongs to is told with it; see :func:`halves_of_pairs`.

    The model runs in evaluation mode, without autocast and TF32, also where the caller has gradients off (inference
    mode included). It, its ``.grad`` fields and the random streams are left as they were. The shared words of a pair
    cancel in float32 only: parameters in less (``bf16-true``) are read as a float32 copy of the very same values, so
    the gradient is that of the model as it is, without the rounding of its arithmetic.

    Args:
        model: A causal language model; see :func:`sentence_log_probs`. Not kept in memory by what is read.
        buckets: Length of a sketch. Cosines are off by about 1/√buckets.
        sample: Coordinates to sample, about; all where the model has no more. Drawn from trainable parameters.
        seed: Of both hashes. Only what has one seed can be compared.
        groups: ``True`` for a group a transformer block (``layers.3`` of ``*.h.3.*``, ``*.layers.3.*``,
            ``*.blocks.3.*``), one of embeddings, of the head, and of the rest (``other``); ``False`` for the whole
            alone; or a function from a parameter's name to its group, ``None`` for none.
        batch_tokens: Tokens in a forward and backward pass, padding included.
        forward: Calls the model in its stead: ``forward(model, input_ids, attention_mask)`` → logits.
        pad_token_id: The id in the padding.

    Raises:
        ValueError: If a number is out of range, a parameter is sharded over ranks, or none is trainable.

    Cost: a forward and backward pass over the pairs, at least one a half, and 7 ns a parameter for each; memory of one
        gradient, 8 · (groups + 1) · 2 · buckets bytes, and 24 bytes a sampled coordinate.

    Example:
        >>> reader = GradientReader(nn.Embedding.from_pretrained(torch.zeros(3, 3), freeze=False), buckets=64)
        >>> found = reader.read([(torch.tensor([0, 1]), torch.tensor([0, 2]))], halves=[0])
        >>> found.sample.tolist()
        [0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        >>> reader.names, tuple(found.sketches.shape), found.margins.tolist()
        (('all', 'other'), (2, 2, 64), [0.0])

    """

    def __init__(
        self,
        model: nn.Module,
        *,
        buckets: int = 65_536,
        sample: int = 1_000_000,
        seed: int = 0,
        groups: Groups = True,
        batch_tokens: int = 4096,
        forward: Forward | None = None,
        pad_token_id: int = 0,
    ) -> None:
        for name, value in (("buckets", buckets), ("sample", sample), ("batch_tokens", batch_tokens)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.model = model
        self.buckets = buckets
        self.sample = sample
        self.seed = seed
        self.batch_tokens = batch_tokens
        self.forward = forward
        self.pad_token_id = pad_token_id
        self.names = group_names(model, groups)
        """Of the groups, the whole model ("all") first."""
        self._grouping = groups
        self._drawn: dict[str, tuple[int, Tensor]] = {}
        """By trainable parameter its global position, and which of its coordinates are sampled."""
        self._drawn_from: list[tuple[str, int, str]] = []
        self._trainable()

    @property
    def sample_size(self) -> int:
        """How many coordinates are sampled while those parameters are trainable that are now."""
        self._draw()
        return sum(len(positions) for _, positions in self._drawn.values())

    def read(self, pairs: Sequence[EncodedPair], halves: Sequence[int]) -> TaskGradients:
        """The gradient over some pairs of a task.

        Args:
            pairs: Ids of the acceptable and the unacceptable sentence of each; see :func:`encode_sentences`. There may
                be none.
            halves: The half of the task, 0 or 1, to which each belongs; see :func:`halves_of_pairs`.

        Raises:
            ValueError: If there is not one half a pair, it is not 0 or 1, or no gradient reaches any parameter.

        """
        if len(pairs) != len(halves):
            raise ValueError(f"`halves` has {len(halves)} entries for {len(pairs)} pairs.")
        if other := set(halves) - {0, 1}:
            raise ValueError(f"`halves` must be 0 or 1, got {min(other)}.")
        with _ordinary_tensors():
            return self._read(pairs, halves)

    def read_text(self, sentences: Sequence[Tensor]) -> Tensor:
        """The gradient of S summed over encoded sentences at the sampled coordinates, float64 (n,): no task in it."""
        rows = [[ids] for ids in sentences]
        with _ordinary_tensors():
            sketches, sample = self._zeros()
            self._evaluate(lambda leaves: self._add(rows, (-1.0,), leaves, sketches[:, 0], sample[0]))
            return sample[0]

    # ------------------------------------------------- inside

    def _read(self, pairs: Sequence[EncodedPair], halves: Sequence[int]) -> TaskGradients:
        sketches, sample = self._zeros()
        margins = torch.zeros(len(pairs), dtype=torch.float64)

        def work(leaves: Mapping[str, Tensor]) -> None:
            for half in (0, 1):
                chosen = [row for row, its in enumerate(halves) if its == half]
                rows = [list(pairs[row]) for row in chosen]
                scores = self._add(rows, (-1.0, 1.0), leaves, sketches[:, half], sample[half])
                for row, (good, bad) in zip(chosen, scores, strict=True):
                    margins[row] = good - bad

        if pairs:
            self._evaluate(work)
        sketches[0] = sketches[1:].sum(0)
        counts = torch.tensor([sum(its == half for its in halves) for half in (0, 1)])
        # Past the last group is what belongs to none.
        kept = sketches[: len(self.names)]
        return TaskGradients(kept, sample[0] + sample[1], sample[0] - sample[1], margins, counts)

    def _zeros(self) -> tuple[Tensor, Tensor]:
        """Sums for sketches (groups + 1, 2, buckets) and sample (2, n)."""
        device = model_device(self.model)
        shapes = (len(self.names) + 1, 2, self.buckets), (2, self.sample_size)
        sketches, sample = (torch.zeros(shape, dtype=wide_dtype(device), device=device) for shape in shapes)
        return sketches, sample

    def _evaluate(self, work: Callable[[Mapping[str, Tensor]], Any]) -> None:
        """Run with what gradients are taken of by name, and leave no trace."""
        with eval_mode(self.model, gradients=True):
            copies = float32_copies(self.model)
            leaves = {name: copies.get(name, parameter) for name, parameter in self._trainable().items()}
            with_tensors(self.model, copies, lambda: work(leaves))

    def _add(
        self,
        rows: Sequence[Sequence[Tensor]],
        weights: Sequence[float],
        leaves: Mapping[str, Tensor],
        sketches: Tensor,
        sample: Tensor,
    ) -> list[list[float]]:
        """Add the gradient of Σ w·log p over rows of sentences; returns their log-probabilities."""
        scores: list[list[float]] = [[] for _ in rows]
        for batch in length_batches([len(row) * max(map(len, row)) for row in rows], self.batch_tokens):
            found, gradient = self._gradient([rows[row] for row in batch], weights, leaves)
            for row, values in zip(batch, found.tolist(), strict=True):
                scores[row] = values
            self._keep(gradient, sketches, sample)
        return scores

    def _gradient(
        self, rows: Sequence[Sequence[Tensor]], weights: Sequence[float], leaves: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        device = model_device(self.model)
        ids, mask = pad_right([ids for row in rows for ids in row], self.pad_token_id, device)
        scores = sentence_log_probs(self.model, ids, mask, self.forward).view(len(rows), -1)
        loss = (torch.tensor(weights, dtype=scores.dtype, device=device) * scores).sum()
        # A parameter that took no part has no gradient. `.grad` is not written.
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        gradient = {name: value for name, value in zip(leaves, found, strict=True) if value is not None}
        if not gradient:
            raise ValueError(f"no gradient reaches any of the {len(leaves)} trainable parameters.")
        return scores.detach(), gradient

    def _keep(self, gradient: Mapping[str, Tensor], sketches: Tensor, sample: Tensor) -> None:
        """Add a gradient to the sketches (groups + 1, buckets) and the sample (n,)."""
        rows = {name: index for index, name in enumerate(self.names)}
        start = 0
        for name, (offset, positions) in self._drawn.items():
            stop = start + len(positions)
            if name in gradient:
                values = gradient[name].detach()
                values = (values.to_dense() if values.is_sparse else values).flatten()
                row = rows.get(_group(name, self._grouping) or "", len(rows))
                add_to_sketch(sketches[row], values, offset, self.seed)
                sample[start:stop] += values[positions]
            start = stop

    def _trainable(self) -> dict[str, nn.Parameter]:
        refuse_sharded(self.model, "gradients of tasks")
        found = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if not found:
            raise ValueError(f"{type(self.model).__name__} has no parameter with `requires_grad`.")
        return found

    def _draw(self) -> None:
        """Sample the coordinates of the parameters that are trainable now."""
        parameters = self._trainable()
        shapes = [(name, parameter.numel(), str(parameter.device)) for name, parameter in parameters.items()]
        if shapes != self._drawn_from:
            rate = min(1.0, self.sample / max(1, sum(numel for _, numel, _ in shapes)))
            offsets = {name: offset for name, offset in _offsets(self.model) if name in parameters}
            with _ordinary_tensors():
                self._drawn = {
                    name: (offsets[name], hashed_sample(numel, rate, offsets[name], self.seed, device))
                    for name, numel, device in shapes
                }
            self._drawn_from = shapes


@contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """Within, tensors can be used where gradients are, also where the caller is in inference mode.

    To be entered before a model's buffers are copied.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


def group_names(model: nn.Module, groups: Groups = True) -> tuple[str, ...]:
    """The whole ("all"), then the groups of a model's parameters in the order of their first parameter.

    Raises:
        ValueError: If a function gives something else than a name or None, or the name "all".

    Example:
        >>> model = nn.ModuleDict({"wte": nn.Embedding(3, 2), "h": nn.ModuleList([nn.Linear(2, 2)])})
        >>> group_names(model)
        ('all', 'embedding', 'layers.0')

    """
    found: dict[str, None] = {}
    for name, _ in model.named_parameters():
        group = _group(name, groups)
        if group is None:
            continue
        if not isinstance(group, str) or group in ("", ALL):
            raise ValueError(f"`groups` gives {group!r} for {name!r}; it must be None or a name other than {ALL!r}.")
        found.setdefault(group)
    return (ALL, *found)


def layer_group(name: str) -> str:
    """The group of a parameter by its name: ``layers.<n>``, ``embedding``, ``head`` or ``other``.

    Example:
        >>> layer_group("transformer.h.3.attn.c_attn.weight"), layer_group("model.embed_tokens.weight")
        ('layers.3', 'embedding')

    """
    block = _BLOCK.search(name)
    if block:
        return f"layers.{block[1]}"
    if _EMBEDDING.search(name):
        return "embedding"
    return "head" if _HEAD.search(name) else "other"


def _group(name: str, groups: Groups) -> str | None:
    if isinstance(groups, bool):
        return layer_group(name) if groups else None
    return groups(name)


def _offsets(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Name and global position of every parameter, trainable or not, so that freezing one moves no other."""
    offset = 0
    for name, parameter in model.named_parameters():
        yield name, offset
        offset += parameter.numel()
