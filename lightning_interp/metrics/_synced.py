"""The states of any torchmetrics metric over all ranks, by exchanges that ranks enter together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_interp.distributed import Collective, Gather

__all__ = ["synced"]

_DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_DIMENSIONS = 8
_LIST = -1


def synced(metric: Metric) -> Collective[None]:
    """Give a metric, and those within it, the states of all ranks, reduced as each state says.

    Its own way of doing so leaves ranks waiting for one that failed before its ``compute`` or holds fewer tensors. It
    is kept from that way from here on, so this is for a copy that is computed once.

    Raises:
        ValueError: If a state is of a type or a number of dimensions that cannot be sent.

    """
    metrics = [one for one in metric.modules() if isinstance(one, Metric)]
    places = [(one, name) for one in metrics for name in one._reductions]
    lists = [_listed(getattr(one, name)) for one, name in places]
    tensors = [tensor for held, _ in lists for tensor in held]
    numbers = torch.tensor([len(held) if is_list else _LIST for held, is_list in lists], dtype=torch.int64)
    all_numbers: list[Tensor] = yield Gather(numbers[None])
    all_headers: list[Tensor] = yield Gather(torch.stack([_header(one) for one in tensors]) if tensors else _NO_HEADER)
    contents: list[Tensor] = yield Gather(torch.cat([torch.zeros(0, dtype=torch.uint8), *map(_bytes, tensors)]))
    ranks = [
        _unpacked(headers, content, [1 if number == _LIST else number for number in row[0].tolist()])
        for row, headers, content in zip(all_numbers, all_headers, contents, strict=True)
    ]
    for place, (one, name) in enumerate(places):
        device = metric.device
        held = [[tensor.to(device) for tensor in rank[place]] for rank in ranks]
        setattr(one, name, _reduced(held, lists[place][1], one._reductions[name]))
    for one in metrics:
        one._to_sync = False
        one._computed = None
        one._update_count = max(1, one._update_count)  # else it warns on a rank that had nothing to take in


def _listed(state: Any) -> tuple[list[Tensor], bool]:
    """The tensors of a state, and whether it is a list."""
    return (list(state), True) if isinstance(state, list) else ([state], False)


def _reduced(held: Sequence[Sequence[Tensor]], is_list: bool, reduction: Any) -> Any:
    """What torchmetrics makes of the states of all ranks."""
    if not is_list:
        stacked = torch.stack([rank[0] for rank in held])
        return stacked if reduction is None else reduction(stacked)
    if reduction is dim_zero_cat:
        together = [tensor for rank in held for tensor in rank]
        return dim_zero_cat(together) if together else []
    # Its own way sends one tensor after the other: the first of all ranks, then the second.
    rounds = zip_longest(*held)
    mixed = [tensor for one in rounds for tensor in one if tensor is not None]
    return mixed if reduction is None or not mixed else reduction(mixed)


_NO_HEADER = torch.zeros(0, 2 + _DIMENSIONS, dtype=torch.int64)


def _header(tensor: Tensor) -> Tensor:
    """Type and shape of a tensor, int64 (2 + 8,)."""
    if tensor.dtype not in _DTYPES or tensor.ndim > _DIMENSIONS:
        raise ValueError(f"a state of a metric is {tensor.dtype} {tuple(tensor.shape)}, which cannot be sent.")
    shape = [*tensor.shape, *[0] * (_DIMENSIONS - tensor.ndim)]
    return torch.tensor([_DTYPES.index(tensor.dtype), tensor.ndim, *shape])


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _unpacked(headers: Tensor, content: Tensor, numbers: Sequence[int]) -> list[list[Tensor]]:
    """The tensors of one rank, by state."""
    tensors: list[Tensor] = []
    start = 0
    for dtype, ndim, *padded in headers.tolist():
        shape = padded[:ndim]
        stop = start + torch.Size(shape).numel() * _DTYPES[dtype].itemsize
        # A copy begins where its type may begin.
        tensors.append(content[start:stop].clone().view(_DTYPES[dtype]).view(shape))
        start = stop
    each = iter(tensors)
    return [[next(each) for _ in range(number)] for number in numbers]
