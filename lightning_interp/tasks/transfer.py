"""Similarity probing: tune a model on one task, and see what happened to all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.functional.sketch import add_to_sketch
from lightning_interp.language.encoding import Tokenizer, encode_pairs, padding_id
from lightning_interp.tasks.baselines import find_method
from lightning_interp.tasks.differential import gradient_differential
from lightning_interp.tasks.ftgd import FtgdResult, ftgd
from lightning_interp.tasks.pairs import Task
from lightning_interp.tasks.scoring import Scorer, margin_accuracy
from lightning_interp.tasks.space import TuningRecord

__all__ = ["TUNING", "Transfers", "transfer_probe"]

TUNING: Mapping[str, Any] = {"target_accuracy": None, "patience": None, "max_steps": 20, "check_every": 5}
"""Arguments of :func:`ftgd` that differ here: every task gets the same dose, whatever the model knows of it already."""


@dataclass(frozen=True)
class Transfers:
    """What tuning on each of T tasks did to all of them."""

    margins: Tensor
    """M[i, j]: change of the mean margin of j's held-out pairs after tuning on i, in nats, (T, T)."""
    accuracies: Tensor
    """T[i, j]: change of their accuracy, (T, T)."""
    predicted: Tensor | None
    """M to first order, from the gradients of the untuned model, (T, T); None of methods that do not follow D."""
    accuracies_before: Tensor
    """(T,)"""
    margins_before: Tensor
    """(T,)"""
    tunings: list[TuningRecord]
    """How each task was tuned on."""


def transfer_probe(
    model: nn.Module,
    tuned_on: Sequence[Task],
    held_out: Sequence[Task],
    tokenizer: Tokenizer,
    *,
    tuning: Mapping[str, Any] | None = None,
    buckets: int = 65_536,
    seed: int = 0,
    watch: Callable[[Sequence[Task]], Iterator[Task]] = iter,
    **scoring: Any,
) -> Transfers:
    r"""Tune a model on one task after another, each from the same weights, and score all tasks each time.

    .. math:: M_{ij} = \bar m_j(\theta_i) - \bar m_j(\theta_0), \qquad
        \hat M_{ij} = \eta_i n_i \langle m_i \odot D_i, D_j \rangle

    with :math:`\bar m_j` the mean margin of task j's held-out pairs, n the number of steps, and the first-order
    prediction from differentials D of the tuning pairs alone; its inner product is that of two sketches. Tuning, then
    re-evaluating all, is the method of Weber et al. 2024 (arXiv 2406.06441). Margins, the prediction and the rules by
    which a tuning ends are this library's choices: unlike an accuracy a margin has no ceiling, so that every task is
    tuned for the same number of steps, unless perplexity on ``text`` rises first.

    Args:
        model: A causal language model in float32. Its weights are the same bits afterwards.
        tuned_on: T tasks with the pairs to tune on.
        held_out: The same tasks with the pairs to test on; no pair may be in both.
        tokenizer: See :func:`encode_sentences`.
        tuning: Arguments of :func:`ftgd`, over the defaults of ``TUNING``.
        buckets: Of the sketches.
        seed: Of the tunings and the sketches.
        watch: Goes over the tasks, such as with a progress bar.
        scoring: ``batch_tokens``, ``forward``, ``add_bos`` and ``bos_token_id`` of :class:`Scorer`.

    Returns:
        :class:`Transfers`.

    Raises:
        ValueError: If the tasks are not the same, or :func:`ftgd` refuses an argument.

    Cost: T tunings, T forward passes over all held-out pairs, and T + T backward passes over a task's tuning pairs.

    """
    if [task.name for task in tuned_on] != [task.name for task in held_out]:
        raise ValueError(
            f"`tuned_on` and `held_out` must be the same tasks, got {[task.name for task in tuned_on]} and "
            f"{[task.name for task in held_out]}."
        )
    options = {**TUNING, "seed": seed, **(tuning or {}), **scoring}
    scorer = Scorer(model, tokenizer, **scoring)
    before = _margins(scorer, held_out)
    how = find_method(options.get("method", "ftgd"))
    follows = how.weights == (1.0, -1.0) and not how.shuffled
    whole, masked = [], []
    margins, accuracies, tunings, doses = [], [], [], []
    for place, task in enumerate(watch(tuned_on)):
        differential = _differential(model, task, tokenizer, scoring) if follows else {}
        with ftgd(model, task, held_out[place], tokenizer, **options) as result:
            after = _margins(scorer, held_out)
        if follows:
            whole.append(_sketch(differential, None, buckets, seed))
            masked.append(_sketch(differential, result.mask, buckets, seed))
        doses.append(result.learning_rate * result.steps)
        margins.append(torch.stack([one.double().mean() for one in after]))
        accuracies.append(torch.tensor([margin_accuracy(one) for one in after], dtype=torch.float64))
        tunings.append(_record(result, accuracies[-1][place], margins[-1][place]))
    margins_before = torch.stack([one.double().mean() for one in before])
    accuracies_before = torch.tensor([margin_accuracy(one) for one in before], dtype=torch.float64)
    predicted: Tensor | None = None
    if follows:
        predicted = torch.tensor(doses, dtype=torch.float64)[:, None] * (torch.stack(masked) @ torch.stack(whole).T)
    return Transfers(
        torch.stack(margins) - margins_before,
        torch.stack(accuracies) - accuracies_before,
        predicted,
        accuracies_before,
        margins_before,
        tunings,
    )


def _margins(scorer: Scorer, tasks: Sequence[Task]) -> list[Tensor]:
    """Of all tasks at once, so that batches are full."""
    scores = scorer.score_task([pair for task in tasks for pair in task.pairs])
    return list(torch.split(scores, [len(task) for task in tasks]))


def _differential(model: nn.Module, task: Task, tokenizer: Tokenizer, scoring: Mapping[str, Any]) -> dict[str, Tensor]:
    pairs = encode_pairs(tokenizer, task.pairs, scoring.get("add_bos"), scoring.get("bos_token_id"))
    rest = {name: scoring[name] for name in ("batch_tokens", "forward") if name in scoring}
    return gradient_differential(model, pairs, pad_token_id=padding_id(tokenizer), **rest)


def _sketch(values: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None, buckets: int, seed: int) -> Tensor:
    """Of the entries in the mask, on the CPU, float64."""
    sketch: Tensor | None = None
    offset = 0
    for name, value in values.items():
        flat = value.reshape(-1)
        if mask is not None:
            flat = torch.zeros_like(flat).index_copy_(0, mask[name], flat[mask[name]])
        if sketch is None:
            sketch = torch.zeros(buckets, device=flat.device)
        add_to_sketch(sketch, flat, offset, seed)
        offset += len(flat)
    assert sketch is not None
    return sketch.to("cpu", torch.float64)


def _record(result: FtgdResult, accuracy: Tensor, margin: Tensor) -> TuningRecord:
    first, last = result.history[0], result.history[-1]
    return TuningRecord(
        result.stopped_by,
        result.steps,
        result.learning_rate,
        result.entries,
        result.changed,
        float(accuracy),
        float(margin),
        last.perplexity / first.perplexity - 1,
    )
