"""Merging over ranks: reductions that every rank enters together, or none does.

A computation that needs other ranks is written as a generator that yields what it wants to exchange and receives the
merged result. Between two exchanges it works alone; if that fails on one rank, all ranks learn of it before the next
exchange and leave together, so that none waits for a partner that never comes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "Gather",
    "Maximum",
    "Minimum",
    "PeerError",
    "Collective",
    "Sum",
    "Sums",
    "all_ranks",
    "alone",
    "rank_in",
    "over_ranks",
    "settled",
    "world_size",
]

Group = Any
T = TypeVar("T")


@dataclass(frozen=True)
class Sum:
    """Ask for the sum over ranks of a tensor that has the same shape on all of them."""

    tensor: Tensor


@dataclass(frozen=True)
class Sums:
    """Ask for the sums over ranks of several tensors of one dtype, in one exchange."""

    tensors: Sequence[Tensor]

    @property
    def tensor(self) -> Tensor:
        """All of them, one after another."""
        return torch.cat([tensor.flatten() for tensor in self.tensors])


@dataclass(frozen=True)
class Minimum:
    """Ask for the elementwise minimum over ranks."""

    tensor: Tensor


@dataclass(frozen=True)
class Maximum:
    """Ask for the elementwise maximum over ranks."""

    tensor: Tensor


@dataclass(frozen=True)
class Gather:
    """Ask for the tensors of all ranks, in the order of ranks; their first dimension may differ."""

    tensor: Tensor


Exchange = Sum | Sums | Minimum | Maximum | Gather
Collective = Generator[Exchange, Any, T]


_TOLD = "_told_to_group"
"""What an error has that the ranks of a group know of: that group, in a tuple."""


class PeerError(RuntimeError):
    """Another rank failed, so this one gave up the same work."""


def world_size(group: Group = None) -> int:
    """Number of ranks, 1 where no process group exists.

    Example:
        >>> world_size()
        1

    """
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank_in(group: Group = None) -> int:
    """This rank in its group, 0 where there is none.

    Example:
        >>> rank_in()
        0

    """
    return dist.get_rank(group) if world_size(group) > 1 else 0


def all_ranks(ok: bool, group: Group = None) -> bool:
    """Whether every rank says yes. A collective: all ranks must call it.

    Example:
        >>> all_ranks(True), all_ranks(False)
        (True, False)

    """
    if world_size(group) == 1:
        return ok
    flag = torch.tensor([1.0 if ok else 0.0], device=_device(group))
    dist.all_reduce(flag, op=dist.ReduceOp.MIN, group=group)
    return bool(flag.item() > 0)


def settled(error: BaseException | None, group: Group = None) -> bool:
    """End a piece of work on all ranks: whether it succeeded on each. A collective: all ranks must call it.

    A rank that fails outside :func:`over_ranks` comes here while its partners wait for it in an exchange within; what
    it says here is what they hear there, and they come here with an error of which the group knows. So no rank waits
    for an answer that was given already, and none enters an exchange alone.

    Args:
        error: What this rank failed with, within :func:`over_ranks` or outside; ``None`` where it did not.
        group: The group over which the work exchanges; other groups hear of it too.

    Example:
        >>> settled(None), settled(ValueError("planted"))
        (True, False)

    """
    told = getattr(error, _TOLD, None)
    ok = error is None
    if told is None or told[0] is not group:
        ok = all_ranks(ok, group)
    return ok if group is None else all_ranks(ok)


def over_ranks(steps: Collective[T], group: Group = None) -> T:
    """Carry out a computation over all ranks.

    Args:
        steps: A generator that yields :class:`Sum`, :class:`Sums`, :class:`Minimum`, :class:`Maximum` or
            :class:`Gather`, receives the merged result of each, and returns the value.
        group: The process group; all ranks by default.

    Returns:
        What the generator returned.

    Raises:
        PeerError: If another rank failed; the failing rank raises its own error.

    Example:
        >>> def mean(z):
        ...     total = yield Sum(z.sum())
        ...     count = yield Sum(torch.tensor(len(z)))
        ...     return total / count
        >>> over_ranks(mean(torch.tensor([1.0, 2.0])))
        tensor(1.5000)

    """
    result: Any = None
    while True:
        request: Exchange | None = None
        error: BaseException | None = None
        value: Any = None
        try:
            request = steps.send(result)
        except StopIteration as stop:
            value = stop.value
        except Exception as exception:
            error = exception
        if not all_ranks(error is None, group):
            steps.close()
            error = error or PeerError("Another rank failed in this reading; its own log says why.")
            object.__setattr__(error, _TOLD, (group,))  # also where its class forbids it
            raise error
        if request is None:
            return value  # type: ignore[no-any-return]
        result = _exchange(request, group)


def alone(steps: Collective[T]) -> T:
    """Carry out a computation over ranks for what this rank has: where every rank has all of it.

    Args:
        steps: As for :func:`over_ranks`.

    Example:
        >>> def total(z):
        ...     return (yield Sum(z.sum()))
        >>> alone(total(torch.tensor([1.0, 2.0])))
        tensor(3.)

    """
    result: Any = None
    while True:
        try:
            request = steps.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        result = _of_one(request)


def _of_one(request: Exchange) -> Any:
    if isinstance(request, Sums):
        return list(request.tensors)
    return [request.tensor] if isinstance(request, Gather) else request.tensor


def _exchange(request: Exchange, group: Group) -> Any:
    if world_size(group) == 1:
        return _of_one(request)
    if isinstance(request, Sums):
        whole = _exchange(Sum(request.tensor), group)
        parts = whole.split([tensor.numel() for tensor in request.tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, request.tensors, strict=True)]
    home = request.tensor.device
    if isinstance(request, Gather):
        return [part.to(home) for part in _gather(request.tensor.to(_device(group)), group)]
    op = {Sum: dist.ReduceOp.SUM, Minimum: dist.ReduceOp.MIN, Maximum: dist.ReduceOp.MAX}[type(request)]
    merged = request.tensor.detach().to(_device(group), copy=True).contiguous()
    dist.all_reduce(merged, op=op, group=group)
    return merged.to(home)


def _gather(tensor: Tensor, group: Group) -> list[Tensor]:
    """All-gather of unequal lengths, padded to the longest."""
    length = torch.tensor([tensor.shape[0]], device=tensor.device)
    lengths = [torch.zeros_like(length) for _ in range(world_size(group))]
    dist.all_gather(lengths, length, group=group)
    sizes = [int(size) for size in torch.cat(lengths).tolist()]
    padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
    padded[: tensor.shape[0]] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    if padded.numel():
        dist.all_gather(parts, padded, group=group)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def _device(group: Group) -> torch.device:
    """Where the backend of the group expects its tensors."""
    if dist.get_backend(group) == dist.Backend.NCCL:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
