"""Several rows a sample: the choices of a question, or the views of an image, that a model is given as rows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_interp.batches.contents import describe_batch, tensors_of

__all__ = ["rows_a_sample", "together"]


def rows_a_sample(batch: Any, rows: int, samples: int) -> int:
    """How many rows each sample has, where those of a sample follow one another, as ``flatten(0, 1)`` puts them.

    Args:
        batch: What the loader gave.
        rows: Rows that the model is given for it.
        samples: Samples that it has.

    Raises:
        ValueError: If rows are not a multiple of samples, or nothing in the batch is (samples, rows a sample, …): rows
            may stand in another order then.

    Example:
        >>> import torch
        >>> rows_a_sample({"input_ids": torch.zeros(4, 3, 7)}, rows=12, samples=4)
        3

    """
    if rows == samples:
        return 1
    times = rows // samples if samples and rows % samples == 0 else 0
    if times and any(one.ndim > 2 and one.shape[:2] == (samples, times) for one in tensors_of(batch)):
        return times
    raise ValueError(
        f"`tokens` has {rows} rows for a batch of {samples} samples, {describe_batch(batch)}, and which sample a row "
        "belongs to cannot be told. Rows of samples are those of a tensor (samples, rows a sample, …) of the batch "
        "that is flattened by `flatten(0, 1)`."
    )


def together(times: int, tensor: Tensor) -> Tensor:
    """The rows of a sample one after the other along the positions: (N · times, T, …) → (N, times · T, …).

    Example:
        >>> import torch
        >>> together(3, torch.zeros(12, 7, 5)).shape
        torch.Size([4, 21, 5])

    """
    return tensor.reshape(-1, times * tensor.shape[1], *tensor.shape[2:])
