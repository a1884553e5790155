"""Which training examples helped or hurt what a finished model says of a query: influence functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_interp.batches.contents import Key
from lightning_interp.batches.forward import Forward
from lightning_interp.batches.own_data import OwnData
from lightning_interp.batches.predictions import Predictions, Scores
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional.example_gradients import (
    example_gradients,
    example_squared_norms,
    gradient_products,
)
from lightning_interp.isolation.float32_copies import float32_copies, with_tensors
from lightning_interp.language.likelihood import eval_mode
from lightning_interp.offline.curvature import Curvature, Ekfac, GaussNewton, Method
from lightning_interp.offline.example_passes import ExamplePasses
from lightning_interp.offline.influence_scores import Influence
from lightning_interp.offline.nearest_inputs import Inputs, inputs_of, nearest_inputs
from lightning_interp.sites.layer_gradients import LayerGradients
from lightning_interp.sites.linear_layers import LinearLayer, linear_layers

__all__ = ["influence"]

_LARGEST = 8192  # side of a factor: its eigenvectors are 0.5 GB in float64
_UNITS: Mapping[str, str] = {
    "ekfac": "nats",
    "exact": "nats",
    "gradient_dot": "nats per unit of learning rate",
    "cosine": "cosine",
}
_Gradients: TypeAlias = dict[str, Tensor]
_Block: TypeAlias = tuple[_Gradients, list[Inputs] | None, Tensor | None]


def influence(
    model: nn.Module,
    train: Iterable[Any],
    queries: Iterable[Any],
    *,
    method: Method = "ekfac",
    damping: float | None = None,
    layers: str | Sequence[str] | None = None,
    target: Key | None = None,
    ignore_index: int | Sequence[int] = -100,
    shift: int = 0,
    mask: Key | None = None,
    class_dim: int = -1,
    output: Key = "",
    scores: Scores | None = None,
    forward: Forward | None = None,
    query_loss: Callable[[Any, Any], Tensor] | None = None,
    inputs: Key | None = None,
    query_batch: int = 32,
    max_parameters: int = 5_000,
    draws: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> Influence:
    r"""Estimate how each training example changed the loss on each query: influence functions (Koh & Liang 2017).

    .. math:: s(q, z) = \frac1N \nabla L_q(\theta)^\top (G + \lambda)^{-1} \nabla L_z(\theta)

    To first order this is by how much the loss of query q would rise, in nats, if training example z were removed and
    the model trained on to its new optimum: positive where z helped (a *proponent*), negative where it hurt. L is
    Σ −log p over the targets of an example: one for a classifier, one a token for a language model. N is the number of
    training examples, G the Gauss–Newton matrix of their mean loss.

    ==================  ===========================================================  ==============================
    method              what stands for (G + λ)⁻¹                                    unit of the scores
    ==================  ===========================================================  ==============================
    ``"ekfac"``         EK-FAC, layer by layer (Grosse et al. 2023, arXiv            nats
                        2308.03296); see
                        :func:`~lightning_interp.functional.ekfac_inverse_product`
    ``"exact"``         the whole matrix, for small models                           nats
    ``"gradient_dot"``  1: what a step of gradient descent on z, of learning rate    nats per unit of learning rate
                        1/N, takes off the loss of q (TracIn at one checkpoint)
    ``"cosine"``        none: the cosine of both gradients                           −1 to 1
    ==================  ===========================================================  ==============================

    For a model that is trained to its optimum in a convex problem, with λ as its weight decay, this is close to
    retraining without z; see docs/influence.md. For a deep network it is about a local object (Bae et al. 2022), and
    says nothing of training anew from the start. Examples that are duplicates share their influence: each has the same
    score, and removing one of them changes less than if it stood alone. Whether a ranking is more than likeness of
    inputs: compare with :attr:`Influence.nearest`.

    The model runs in evaluation mode, without dropout, autocast and TF32. It, its ``.grad`` fields, hooks and the
    random streams are left as they were. Parameters in half precision are read as a float32 copy.

    Args:
        model: A classifier or language model, in its trained state: any ``nn.Module``.
        train: Batches of the training examples: a loader that does not shuffle or augment, since it is read three times
            or more (``"ekfac"``; at least once for the others, and once more for each ``query_batch`` queries), or a
            list. A dict goes into the model by the names that its ``forward`` takes, a tuple by its first entry.
        queries: Batches of the queries.
        method: See above.
        damping: λ, in the unit of G. By default .1 of the mean diagonal of G in each layer (of Λ for EK-FAC, which is
            the same). Where the training had weight decay (as a penalty λ/2 ‖θ‖² beside the mean loss) give that: it is
            part of the curvature, and the better value.
        layers: Dotted names or globs of the layers to read: ``nn.Linear``, ``nn.Conv2d`` or transformers' ``Conv1D``,
            such as ``"transformer.h.*.mlp.*"``. By default all whose weight is trained, of its own and not tied.
            :attr:`Influence.left_out` says what is not read, and why.
        target: Where targets are in the batch, for both; see :class:`~lightning_interp.batches.Predictions`, as for
            ``ignore_index``, ``mask``, ``class_dim`` and ``scores``.
        ignore_index: Targets that are none.
        shift: 1 for a causal language model, whose logits at t are about the target at t + 1: with
            ``target="input_ids"``.
        mask: Where the padding mask of the targets is.
        class_dim: The dimension of logits that runs over classes.
        output: Where logits are in what the model returns: a key, an index or a callable; ``logits`` of a mapping or a
            ``ModelOutput`` are found.
        scores: ``"logits"`` or ``"probabilities"``.
        forward: How to run a batch where the ways above do not fit: ``forward(model, batch)``.
        query_loss: Instead of the loss of the queries' targets, any number for each: ``query_loss(output, batch)`` →
            (B,), with its graph. Scores are in its unit then.
        inputs: Where inputs are in the batch, for :attr:`Influence.nearest`; by default ``input_ids`` of a dict, the
            first entry of a tuple, or the batch itself.
        query_batch: Queries whose gradients are in memory at a time.
        max_parameters: The most that ``"exact"`` takes.
        draws: For ``"ekfac"``, how many labels are drawn from the model for each prediction of a training example. The
            original has one, which says little of few examples or of a model that is sure of them (docs/influence.md):
            see whether scores stay with another ``seed``.
        seed: Of these.
        progress: Show a progress bar, on the first rank.

    Returns:
        :class:`~lightning_interp.offline.influence_scores.Influence`: ``scores`` (queries, train), ``top``, ``table``,
        ``by_source``, ``plot``.

    Raises:
        ValueError: If an argument is out of range, a layer cannot be read, the model is sharded over ranks or too large
            for ``method``, ``train`` shuffles or gives other examples at each pass, or batches do not fit.
        TypeError: If ``forward`` takes something else.

    Cost: ⌈Q / query_batch⌉ forward and backward passes over ``train``; before them for ``"ekfac"`` two with ``draws``
        backward passes each, for ``"exact"`` one with a backward pass for each class and position. Memory:
        ``query_batch`` gradients (twice), the activations of a batch (twice), for ``"ekfac"`` three matrices a layer:
        I × I and O × O for its inputs and outputs, O × I; for ``"exact"`` 16 bytes times the square of the number of
        parameters.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.1]]), torch.tensor([0, 1, 1])
        >>> found = influence(model, [(x, y)], [(x[:1], y[:1])], method="exact", progress=False)
        >>> found.scores.shape, found.top(0).proponents[0].example, found.top(0).opponents[0].example
        (torch.Size([1, 3]), 0, 2)

    """
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {list(get_args(Method))}, got {method!r}.")
    if damping is not None and (method not in ("ekfac", "exact") or not damping >= 0):
        raise ValueError(f"`damping` must be at least 0, for 'ekfac' or 'exact'; got {damping} for {method!r}.")
    for name, value in (("query_batch", query_batch), ("max_parameters", max_parameters), ("draws", draws)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    refuse_sharded(model, "gradients of single examples")
    found, left_out = linear_layers(model, layers, _LARGEST if method == "ekfac" else None)
    read = sum(layer.parameters for layer in found)
    if method == "exact" and read > max_parameters:
        raise ValueError(
            f"method='exact' takes up to `max_parameters`={max_parameters:,} parameters, and {len(found)} layers have "
            f"{read:,}: name fewer by `layers`, or take 'ekfac'."
        )
    predictions = Predictions(None, output, target, ignore_index, int(shift), mask, class_dim, scores)
    recorder = LayerGradients(found)
    sets = [OwnData(data, forward, name) for name, data in (("train", train), ("queries", queries))]
    training = ExamplePasses(model, sets[0], recorder, predictions, None, progress)
    asked = ExamplePasses(model, sets[1], recorder, predictions, query_loss, progress)
    curvature = Curvature(found)
    if method == "ekfac":
        curvature = Ekfac(found, damping, draws, seed)
    elif method == "exact":
        curvature = GaussNewton(found, damping)
    work = _Work(training, asked, curvature, method == "cosine", query_batch, inputs)
    # Before the model's buffers are copied: a graph cannot hold what is copied in inference mode.
    with torch.inference_mode(False), eval_mode(model, gradients=True):
        with_tensors(model, float32_copies(model), work.run)
    reached = training.reached - set(curvature.unreached)
    unread = [layer.name for layer in found if layer.name not in reached]
    if unread and (layers is not None or not reached):
        raise ValueError(
            f"no gradient of the loss reaches layer {unread[0]!r}: the model does not use it, or runs it without a "
            "graph (`torch.no_grad`, a reentrant checkpoint). Leave it out by `layers`."
        )
    kept = [layer for layer in found if layer.name in reached]
    for layer in found:
        if layer.name not in reached:
            left_out |= dict.fromkeys(layer.parameter_names, "no gradient of the loss reaches it")
    assert training.losses is not None
    assert asked.losses is not None
    return Influence(
        scores=work.scores,
        unit=_UNITS[method] if query_loss is None or method == "cosine" else "unit of `query_loss`",
        method=method,
        damping=dict(curvature.damping),
        layers=tuple(layer.name for layer in kept),
        left_out=left_out,
        parameters=(_count(kept), sum(one.numel() for one in model.parameters() if one.requires_grad)),
        losses=training.losses.float(),
        query_losses=asked.losses.float(),
        nearest=work.nearest,
        labels=work.labels,
        query_labels=work.query_labels,
        seed=seed,
    )


def _count(layers: Sequence[LinearLayer]) -> int:
    return sum(layer.parameters for layer in layers)


class _Work:
    """Everything that runs the model."""

    def __init__(
        self,
        train: ExamplePasses,
        queries: ExamplePasses,
        curvature: Curvature,
        cosine: bool,
        query_batch: int,
        inputs: Key | None,
    ) -> None:
        self.train, self.queries, self.curvature, self.cosine = train, queries, curvature, cosine
        self.query_batch, self.inputs = query_batch, inputs
        self.scores = torch.empty(0)
        self.nearest: Tensor | None = None
        self.labels: Tensor | None = None
        self.query_labels: Tensor | None = None

    def run(self) -> None:
        """Fit the curvature, then score block after block of queries against all training examples."""
        self.curvature.fit(self.train)
        blocks, nearest = [], []
        for gradients, inputs, labels in self._blocks():
            scores, near, own = self._scored(gradients, inputs, labels)
            blocks.append(scores)
            nearest.append(near)
            self.labels = own
            if labels is not None:
                self.query_labels = torch.cat([labels] if self.query_labels is None else [self.query_labels, labels])
        self.scores = torch.cat(blocks)
        known = [one for one in nearest if one is not None]
        self.nearest = torch.cat(known) if len(known) == len(nearest) else None

    def _blocks(self) -> Iterator[_Block]:
        """Gradients of up to ``query_batch`` queries, with their inputs and labels."""
        gradients: list[_Gradients] = []
        inputs: list[Inputs] = []
        labels: list[Tensor] = []
        for examples in self.queries.own():
            own = inputs_of(examples, self.inputs)
            for place in range(examples.size):
                part = slice(place, place + 1)
                gradients.append(
                    {name: example_gradients(a[part], d[part]) for name, (a, d) in examples.factors.items()}
                )
                inputs += [] if own is None else [own.part(part)]
                labels += [] if examples.labels is None else [examples.labels[part].cpu()]
                if len(gradients) == self.query_batch:
                    block = _block(gradients, inputs, labels)
                    # Before they are scored: memory is for one copy of them.
                    gradients, inputs, labels = [], [], []
                    yield block
        if gradients:
            block = _block(gradients, inputs, labels)
            gradients.clear()
            yield block

    def _scored(
        self, gradients: _Gradients, inputs: list[Inputs] | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        number = len(next(iter(gradients.values())))
        weighed = self.curvature.inverse_product(gradients)
        own = sum(one.square().sum((1, 2)) for one in gradients.values())
        found, near, targets = [], [], []
        for examples in self.train.own():
            products = torch.zeros(number, examples.size)
            squares = torch.zeros(examples.size)
            for name, (a, d) in examples.factors.items():
                if name in weighed:
                    products = products + gradient_products(weighed[name], a, d).cpu()
                if self.cosine:
                    squares = squares + example_squared_norms(a, d).cpu()
            if self.cosine:
                assert isinstance(own, Tensor)
                products = products / (own.cpu()[:, None] * squares).sqrt().clamp_min(torch.finfo(squares.dtype).tiny)
            found.append(products)
            targets += [] if examples.labels is None else [examples.labels.cpu()]
            if inputs is not None:
                near.append(nearest_inputs(inputs, labels, examples, self.inputs))
        whole = torch.cat(found, 1)
        scores = whole if self.cosine else whole / len(self.train)
        known = [one for one in near if one is not None]
        nearest = torch.cat(known, 1) if known and len(known) == len(found) else None
        return scores.float(), nearest, torch.cat(targets) if len(targets) == len(found) else None


def _block(gradients: Sequence[_Gradients], inputs: list[Inputs], labels: Sequence[Tensor]) -> _Block:
    """Several queries, one after another; zeros where nothing reached a layer."""
    shapes = {name: one for each in gradients for name, one in each.items()}
    joined = {
        name: torch.cat([each.get(name, torch.zeros_like(like)) for each in gradients]) for name, like in shapes.items()
    }
    number = len(gradients)
    return joined, inputs if len(inputs) == number else None, torch.cat(list(labels)) if len(labels) == number else None
