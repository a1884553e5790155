"""The space of linguistic tasks of a finished language model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from lightning_interp.language.encoding import EncodedPair, Tokenizer, encode_pairs, padding_id
from lightning_interp.language.likelihood import Forward
from lightning_interp.tasks.gradient_matrices import alignment_matrices, overlap_matrices
from lightning_interp.tasks.gradients import GradientReader, Groups, TaskGradients
from lightning_interp.tasks.hypotheses import lexical_overlap
from lightning_interp.tasks.pairs import MinimalPair, Task
from lightning_interp.tasks.scoring import margin_accuracy
from lightning_interp.tasks.shared import remove_shared
from lightning_interp.tasks.space import TaskRecord, TaskSpaceResult, TuningRecord
from lightning_interp.tasks.split import draw_pairs, halves_of_pairs, split_pairs
from lightning_interp.tasks.transfer import TUNING, transfer_probe

__all__ = ["load_causal_lm", "task_space"]


def task_space(
    model: nn.Module | str | os.PathLike[str],
    tasks: Sequence[Task],
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    method: Literal["gradient", "transfer", "both"] = "gradient",
    *,
    max_pairs: int | None = None,
    fraction: float = 0.01,
    held_out: float = 0.5,
    tuning: Mapping[str, Any] | None = None,
    text: Sequence[str] | None = None,
    buckets: int = 65_536,
    sample: int = 1_000_000,
    groups: Groups = True,
    seed: int = 0,
    batch_tokens: int = 4096,
    forward: Forward | None = None,
    add_bos: bool | None = None,
    bos_token_id: int | None = None,
    gguf_file: str | None = None,
    progress: bool = True,
) -> TaskSpaceResult:
    r"""Measure which linguistic tasks a language model solves by the same means (Weber et al. 2024, arXiv 2406.06441).

    Two probes. **Gradients**, cheap: each task has the differential :math:`D_i` of its minimal pairs
    (:func:`gradient_differential`), and two tasks are as near as

    .. math:: C_{ij} = \cos(D_i, D_j), \qquad O_{ij} = |S_i \cap S_j| / |S|

    raw, centred and without the noise of few pairs, in the model and in each group of its layers; S is the set of the
    largest coordinates, and overlap is also given above its null, the task's own pairs with half of them swapped.
    **Transfer**, the paper's similarity probing: the model is tuned on one task after another and all are scored each
    time (:func:`transfer_probe`), with the change of margins M and of accuracies. With ``"both"`` the two stand side
    by side; :meth:`TaskSpaceResult.link` says how well gradients foretell transfers.

    That the paper compares overlap and alignment of gradients, and transfers with a hypothesised space, is known; the
    formulas, the corrections, the null and the numbers are this library's choices. Pairs that several tasks have are
    removed from all of them first. In the transfer probe the rest is split by pair, no sentence on both sides: one part
    is tuned on, accuracy and margins are of the other. Gradients are of all pairs, or of those tuned on where both
    probes are made, so that nothing held out takes part in the prediction.

    Weights, modes, ``.grad`` fields and random streams are left as they were, bit for bit.

    Args:
        model: A causal language model in float32 (see :func:`sentence_log_probs`), or the name or folder of a
            transformers model, which is loaded.
        tasks: At least two tasks; see :func:`read_blimp`, :func:`grammar_tasks`, :func:`read_pairs`.
        tokenizer: See :func:`encode_sentences`; or a name or folder; by default that of the model's name.
        method: ``"gradient"``, ``"transfer"`` or ``"both"``.
        max_pairs: Most pairs of a task, drawn by the seed; None for all.
        fraction: Share of the coordinates in a set, and of the weights that a tuning may change.
        held_out: Of the transfer probe, the share of pairs to test on.
        tuning: Of the transfer probe, arguments of :func:`ftgd` over its defaults here: 20 steps for every task, no
            rule on accuracy, a check every 5 steps.
        text: Of the transfer probe, general sentences: a tuning ends where their perplexity rises by 2 %.
        buckets: Length of the sketch that keeps a gradient; see :func:`count_sketch`.
        sample: Coordinates that the overlap is counted on, about.
        groups: Whether groups of layers have matrices of their own, or which; see :class:`GradientReader`.
        seed: Of the choice of pairs, the splits, the tunings and the sketches; same seed, same result.
        batch_tokens: Tokens in a forward or backward pass, padding included.
        forward: Calls the model in its stead: ``forward(model, input_ids, attention_mask)`` → logits.
        add_bos: Whether a start token is put in front.
        bos_token_id: The start token; the tokenizer's own by default.
        gguf_file: With the name of a model, the quantised file to load.
        progress: Whether to show how far it has come.

    Returns:
        :class:`TaskSpaceResult`.

    Raises:
        ValueError: If an argument is not as above, a task has too few pairs or too many of one sentence, or
            :func:`ftgd` refuses its arguments.
        ImportError: If a model is given by name and transformers is not installed.

    Cost: of gradients, one forward and backward pass over all pairs, a sketch of every parameter for each task (about
    8 ns each and half of the pairs), and 8 · tasks · groups · buckets bytes. Of transfers, for every task up to
    20 steps of 32 pairs, four more backward passes over its pairs, and a forward pass over all held-out pairs.

    Example:
        >>> from lightning_interp.language import WordTokenizer
        >>> from lightning_interp.tasks import grammar_tasks, grammar_words
        >>> words = WordTokenizer(grammar_words())
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> model = nn.Sequential(nn.Embedding(len(words), 8), nn.Linear(8, len(words)))
        >>> tasks = grammar_tasks(pairs=8, paradigms=["agreement_simple", "agreement_auxiliary", "npi_ever"])
        >>> space = task_space(model, tasks, words, progress=False)
        >>> space.names
        ['agreement_simple', 'agreement_auxiliary', 'npi_ever']
        >>> tuple(space.matrices["alignment"].shape)
        (3, 3)

    """
    if method not in ("gradient", "transfer", "both"):
        raise ValueError(f"`method` must be 'gradient', 'transfer' or 'both', got {method!r}.")
    if len(tasks) < 2:
        raise ValueError(f"`tasks` must be at least two, got {[task.name for task in tasks]}.")
    if max_pairs is not None and max_pairs < 2:
        raise ValueError(f"`max_pairs` must be at least 2, got {max_pairs}.")
    if method == "gradient" and (tuning is not None or text is not None):
        given = "tuning" if tuning is not None else "text"
        raise ValueError(f"`{given}` belongs to method='transfer' or 'both', and `method` is 'gradient'.")
    reserved = {"fraction", "text", "seed", "forward", "batch_tokens", "add_bos", "bos_token_id"} & set(tuning or ())
    if reserved:
        raise ValueError(f"`tuning` has {min(reserved)!r}; give it as an argument of its own.")
    lm, words = _resolved(model, tokenizer, gguf_file)
    scoring: dict[str, Any] = {
        "batch_tokens": batch_tokens,
        "forward": forward,
        "add_bos": add_bos,
        "bos_token_id": bos_token_id,
    }
    unique, removed = remove_shared(tasks)
    chosen = [draw_pairs(task, max_pairs, seed) for task in unique]
    encoded = {pair: ids for task in chosen for pair, ids in _encoded(words, task, add_bos, bos_token_id)}
    read, tested = chosen, chosen
    if method != "gradient":
        parts = [split_pairs(task, held_out, seed) for task in chosen]
        read, tested = [part[0] for part in parts], [part[1] for part in parts]
    _check_pairs(read, 2 if method != "transfer" else 1)
    halves = [halves_of_pairs(task) for task in read] if method != "transfer" else []
    matrices: dict[str, Tensor] = {}
    before: Sequence[tuple[float, float]] = []
    reliable: Sequence[float | None] = [None] * len(read)
    tunings: Sequence[TuningRecord | None] = [None] * len(read)
    if method != "transfer":
        reader = GradientReader(
            lm,
            buckets=buckets,
            sample=sample,
            seed=seed,
            groups=groups,
            batch_tokens=batch_tokens,
            forward=forward,
            pad_token_id=padding_id(words),
        )
        gradients = [
            _read(reader, [encoded[pair] for pair in task.pairs], its)
            for task, its in zip(_bar(read, "gradients", progress), halves, strict=True)
        ]
        matrices, reliability = alignment_matrices([one.sketches for one in gradients], reader.names)
        samples, swapped = ([one.sample for one in gradients], [one.swapped for one in gradients])
        matrices |= overlap_matrices(torch.stack(samples), torch.stack(swapped), fraction)
        reliable = reliability.tolist()
        before = [(margin_accuracy(one.margins), float(one.margins.double().mean())) for one in gradients]
    if method != "gradient":
        transfers = transfer_probe(
            lm,
            read,
            tested,
            words,
            tuning={"fraction": fraction, "text": text, **(tuning or {})},
            buckets=buckets,
            seed=seed,
            watch=lambda given: _bar(given, "tuning", progress),
            **scoring,
        )
        matrices |= {
            "margin_transfer": transfers.margins,
            "accuracy_transfer": transfers.accuracies,
        }
        if transfers.predicted is not None:
            matrices["predicted_transfer"] = transfers.predicted
        before = list(zip(transfers.accuracies_before.tolist(), transfers.margins_before.tolist(), strict=True))
        tunings = transfers.tunings
    # Of all pairs: a few show little of what words two tasks have in common.
    matrices["lexical"] = lexical_overlap(unique)
    records = [
        TaskRecord(one.name, one.phenomenon, len(one), len(other), accuracy, margin, trust, record)
        for one, other, (accuracy, margin), trust, record in zip(read, tested, before, reliable, tunings, strict=True)
    ]
    settings = {
        "model": type(lm).__name__ if isinstance(model, nn.Module) else str(model),
        "parameters": sum(one.numel() for one in lm.parameters()),
        "method": method,
        "max_pairs": max_pairs,
        "shared_pairs_removed": removed,
        "fraction": fraction,
        "seed": seed,
    }
    if method != "transfer":
        settings |= {"buckets": buckets, "sample": sample}
    if method != "gradient":
        settings |= {"held_out": held_out, "text": len(text or ()), "tuning": {**TUNING, **(tuning or {})}}
    return TaskSpaceResult(records, matrices, settings)


def load_causal_lm(
    model: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | None = None,
    gguf_file: str | None = None,
) -> tuple[nn.Module, Tokenizer]:
    """A causal language model in float32 and its tokenizer, by transformers.

    Args:
        model: Name or folder.
        tokenizer: Its own name or folder, where that is another.
        gguf_file: The quantised file in the folder; needs the package gguf.

    Raises:
        ImportError: If transformers is not installed.

    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ImportError(
            f"`model` is the name {str(model)!r}, and transformers is what loads it: "
            "pip install 'lightning-interp[transformers]'."
        ) from error
    file = {} if gguf_file is None else {"gguf_file": gguf_file}
    words = AutoTokenizer.from_pretrained(tokenizer or model, **({} if tokenizer else file))
    lm = AutoModelForCausalLM.from_pretrained(model, **file)
    # The shared words of a pair cancel in float32 only.
    return nn.Module.float(lm), words


def _resolved(
    model: nn.Module | str | os.PathLike[str],
    tokenizer: Tokenizer | str | os.PathLike[str] | None,
    gguf_file: str | None,
) -> tuple[nn.Module, Tokenizer]:
    named = tokenizer if isinstance(tokenizer, str | os.PathLike) else None
    if not isinstance(model, nn.Module):
        lm, words = load_causal_lm(model, named, gguf_file)
        return lm, words if tokenizer is None or named is not None else tokenizer  # type: ignore[return-value]
    if gguf_file is not None:
        raise ValueError(f"`gguf_file` is {gguf_file!r}, but `model` is a {type(model).__name__}, which is loaded.")
    if tokenizer is None or named is not None:
        raise ValueError(
            f"`tokenizer` is {tokenizer!r}, but `model` is a {type(model).__name__}: give the tokenizer itself."
        )
    return model, tokenizer  # type: ignore[return-value]


def _check_pairs(tasks: Sequence[Task], least: int) -> None:
    few = [task for task in tasks if len(task) < least]
    if few:
        raise ValueError(
            f"task {few[0].name!r} has {len(few[0])} pair(s) to read; two halves need at least {least} that no other "
            "task has."
        )


def _encoded(
    tokenizer: Tokenizer, task: Task, add_bos: bool | None, bos_token_id: int | None
) -> list[tuple[MinimalPair, EncodedPair]]:
    """Pairs and their ids, which must differ: a tokenizer of another language knows none of the words."""
    found = list(zip(task.pairs, encode_pairs(tokenizer, task.pairs, add_bos, bos_token_id), strict=True))
    for (good, bad), (first, second) in found:
        if torch.equal(first, second):
            raise ValueError(
                f"`tokenizer` gives both sentences of a pair of task {task.name!r} the same ids, {good!r} and {bad!r}: "
                "it does not know the words that differ."
            )
    return found


def _read(reader: GradientReader, pairs: Sequence[EncodedPair], halves: Sequence[int]) -> TaskGradients:
    read = reader.read(pairs, halves)
    # Sums are complete, and sketches of many groups are what takes memory.
    sketches, sample, swapped = (one.to("cpu", torch.float32) for one in (read.sketches, read.sample, read.swapped))
    return TaskGradients(sketches, sample, swapped, read.margins.cpu(), read.counts.cpu())


def _bar(tasks: Sequence[Task], what: str, progress: bool) -> Iterator[Task]:
    return iter(tqdm(tasks, desc=what, unit="task", disable=not progress))
