"""Whether all ranks were given the same callbacks with the same arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch

from lightning_interp.distributed import Collective, Gather, over_ranks, world_size
from lightning_interp.reporting.plain_values import Settings

__all__ = ["check_same_arguments"]


def check_same_arguments(given: Mapping[str, Settings]) -> None:
    """Compare the arguments of callbacks over ranks, which then read alike or not at all. A collective.

    Args:
        given: By callback its arguments, as far as they are plain.

    Raises:
        ValueError: On all ranks, if two of them have other callbacks or another argument.

    """
    if world_size() == 1:
        return
    told = over_ranks(_told(given))
    first = told[0]
    for rank, other in enumerate(told):
        if list(other) != list(first):
            raise ValueError(
                f"rank 0 has the callbacks {list(first)} and rank {rank} {list(other)}: give all ranks the same."
            )
        for name, arguments in first.items():
            for argument in dict.fromkeys([*arguments, *other[name]]):
                one, another = arguments.get(argument), other[name].get(argument)
                if one != another:
                    raise ValueError(
                        f"`{argument}` of {name} is {one!r} on rank 0 and {another!r} on rank {rank}: give all ranks "
                        "the same."
                    )


def _told(given: Mapping[str, Settings]) -> Collective[Sequence[dict[str, Settings]]]:
    content = json.dumps(given).encode()
    parts: list[torch.Tensor] = yield Gather(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return [json.loads(bytes(part.tolist())) for part in parts]
