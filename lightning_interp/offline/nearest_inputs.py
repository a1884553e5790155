"""Likeness of training examples to queries by their inputs and labels alone: the level that influence has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_interp.batches.contents import Key, look_up
from lightning_interp.functional.input_similarity import input_products
from lightning_interp.offline.example_passes import Examples

__all__ = ["Inputs", "inputs_of", "nearest_inputs"]


class Inputs(NamedTuple):
    """Inputs of examples, a row each: numbers, or token ids with those that count."""

    values: Tensor
    mask: Tensor | None

    def part(self, rows: slice) -> Inputs:
        """Those of some examples."""
        return Inputs(self.values[rows], None if self.mask is None else self.mask[rows])

    def like(self, other: Inputs) -> bool:
        """Whether both can be compared: ids of any length, numbers of one shape."""
        numbers = self.values.is_floating_point()
        same = self.values.shape[1:] == other.values.shape[1:] or not numbers
        return numbers == other.values.is_floating_point() and same


def inputs_of(examples: Examples, where: Key | None = None) -> Inputs | None:
    """The inputs in a batch.

    Args:
        examples: The batch.
        where: Where they are; by default ``input_ids`` of a dict, the first entry of a tuple, or the batch itself.

    Returns:
        ``None`` where ``where`` says nothing and there is no tensor with a row an example.

    Raises:
        ValueError: If ``where`` leads to none.

    """
    batch = examples.batch
    found: Any = batch
    if where is not None:
        found = look_up(batch, where, "inputs")
    elif isinstance(batch, Mapping):
        found = batch.get("input_ids")
    elif isinstance(batch, tuple | list):
        found = batch[0]
    if not isinstance(found, Tensor) or not found.ndim or len(found) != examples.size:
        if where is None:
            return None
        what = f"{tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(f"`inputs` must lead to a tensor with a row for each of {examples.size} examples, not {what}.")
    found = found if found.ndim > 1 else found[:, None]
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    fits = isinstance(mask, Tensor) and mask.shape == found.shape
    return Inputs(found if found.is_floating_point() else found.long(), mask if fits else None)


def nearest_inputs(
    queries: Sequence[Inputs], labels: Tensor | None, examples: Examples, where: Key | None = None
) -> Tensor | None:
    """Inner products of inputs where labels are the same, else 0; see :func:`input_products`.

    Args:
        queries: Inputs of each query, in one row.
        labels: Of the queries, (Q,); without them, labels play no part.
        examples: A batch of training examples.
        where: As for :func:`inputs_of`.

    Returns:
        float32 on the CPU, (Q, B); ``None`` where ``where`` says nothing, and inputs are not found or of many shapes.

    Raises:
        ValueError: If ``where`` leads to no inputs, or to such as cannot be compared.

    """
    own = inputs_of(examples, where)
    if own is None or (where is None and not all(one.like(own) for one in queries)):
        return None
    found = torch.cat([input_products(one.values, own.values, one.mask, own.mask) for one in queries]).float().cpu()
    if labels is None or examples.labels is None:
        return found
    return found * (labels[:, None] == examples.labels.cpu())
