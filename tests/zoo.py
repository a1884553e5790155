"""Modules and batches of foreign shapes. Each has its rows laid out plainly at a place that needs no telling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

WIDTH = 6


@dataclass
class Animal:
    """A model, its batches, and what its site holds."""

    model: nn.Module
    """Its submodule ``site`` is read."""
    batches: list[Any]
    rows: Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
    """The right rows of a batch, computed directly: (B, T, D) and mask (B, T)."""
    told: dict[str, Any] = field(default_factory=dict)
    """Arguments that say what cannot be told."""
    forward: Callable[[nn.Module, Any], Any] | None = None
    noise: bool = True
    """Whether noise can be added there."""


def _everything(z: Tensor) -> tuple[Tensor, Tensor]:
    return z, torch.ones(z.shape[:2], dtype=torch.bool)


class Net(nn.Module):
    """Runs its site on the batch by a function of its own."""

    def __init__(self, site: nn.Module, run: Callable[[nn.Module, Any], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.site = site
        for name, module in modules.items():
            self.add_module(name, module)
        self.run = run

    def forward(self, batch: Any) -> Any:
        return self.run(self, batch)


class Turned(nn.LayerNorm):
    """A layer norm over channels that stand second, as in ConvNeXt and in timm."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class WindowBlock(nn.Module):
    """A block of a transformer with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class ConvBlock(nn.Module):
    """A block of ConvNeXt: both kinds of modules within, channels second outside."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.norm, self.mlp = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(self.depthwise(x).movedim(1, -1))).movedim(-1, 1)


@dataclass
class Plain:
    """A batch with attributes."""

    x: Tensor
    y: Tensor


class Graphs:
    """A batch of graphs as PyTorch Geometric has it."""

    def __init__(self, sizes: list[int], generator: torch.Generator) -> None:
        self.x = torch.randn(sum(sizes), 4, generator=generator)
        self.batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        self.num_graphs = len(sizes)


def _maps(*shape: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(3)]


def _second(axes: int) -> Callable[[nn.Module, Any], tuple[Tensor, Tensor]]:
    """Rows where channels stand second, from the site applied directly."""
    return lambda net, x: _everything(net.site(x).flatten(2).movedim(1, 2)) if axes else _everything(net.site(x))


def _packed(net: Net, x: Tensor) -> Tensor:
    lengths = (x[..., 0] != 0).sum(1)
    return net.site(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[1][-1]


def _ragged(shortest: int = 1) -> list[Tensor]:
    batches = _maps(4, 5, 3)
    for number, x in enumerate(batches):
        for row in range(4):
            x[row, shortest + (row + number) % (6 - shortest) :] = 0
    return batches


def _unpacked(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    lengths = (x[..., 0] != 0).sum(1)
    packed = net.site(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[0]
    z, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
    return z, x[..., 0] != 0


def _by_graph(net: Net, batch: Graphs) -> tuple[Tensor, Tensor]:
    z = net.site(batch.x)
    counts = torch.bincount(batch.batch)
    rows = z.new_zeros(len(counts), int(counts.max()), z.shape[-1])
    mask = torch.zeros(rows.shape[:2], dtype=torch.bool)
    for graph in range(len(counts)):
        rows[graph, : counts[graph]] = z[batch.batch == graph]
        mask[graph, : counts[graph]] = True
    return rows, mask


def _unpadded(net: Net, batch: dict[str, Tensor]) -> Tensor:
    return net.site(batch["x"][batch["attention_mask"].bool()])


def zoo() -> dict[str, Animal]:
    """All of them, made anew with the same weights and data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _zoo()


def _zoo() -> dict[str, Animal]:
    generator = torch.Generator().manual_seed(1)
    site = lambda net, x: net.site(x)  # noqa: E731
    masked = [{"x": x, "attention_mask": (x[..., 0] != 0).long()} for x in _ragged()]
    norm_last = lambda net, x: net.site(net.stem(x).movedim(1, -1))  # noqa: E731
    return {
        "text": Animal(
            Net(nn.Embedding(20, WIDTH), lambda net, batch: net.site(batch["input_ids"])),
            [{"input_ids": ids, "attention_mask": (ids > 4).long()} for ids in torch.randint(0, 20, (3, 4, 7))],
            lambda net, batch: (net.site(batch["input_ids"]), batch["attention_mask"].bool()),
        ),
        "Conv1d": Animal(Net(nn.Conv1d(2, WIDTH, 3), site), _maps(4, 2, 20), _second(1)),
        "Conv1d, as long as the batch has channels": Animal(
            Net(nn.Conv1d(2, WIDTH, 3), site), _maps(WIDTH, 2, 20), _second(1)
        ),
        "activation after Conv1d": Animal(
            Net(
                nn.Sequential(nn.Conv1d(2, WIDTH, 3), nn.BatchNorm1d(WIDTH), nn.ReLU()), lambda net, x: net.site(x)
            ).eval(),
            _maps(4, 2, 20),
            _second(1),
        ),
        "Conv2d": Animal(Net(nn.Conv2d(3, WIDTH, 3), site), _maps(4, 3, 6, 7), _second(2)),
        "Conv3d": Animal(Net(nn.Conv3d(1, WIDTH, 2), site), _maps(4, 1, 3, 4, 5), _second(3)),
        "channels last, linear": Animal(
            Net(nn.Linear(3, WIDTH), site), _maps(4, 5, 7, 3), lambda net, x: _everything(net.site(x).flatten(1, 2))
        ),
        "channels last, layer norm": Animal(
            Net(nn.LayerNorm(WIDTH), norm_last, stem=nn.Conv2d(3, WIDTH, 2, 2)),
            _maps(4, 3, 8, 10),
            lambda net, x: _everything(norm_last(net, x).flatten(1, 2)),
        ),
        "channels last, block": Animal(
            Net(WindowBlock(), norm_last, stem=nn.Conv2d(3, WIDTH, 2, 2)),
            _maps(4, 3, 8, 10),
            lambda net, x: _everything(norm_last(net, x).flatten(1, 2)),
        ),
        "channels second, block": Animal(
            Net(ConvBlock(), lambda net, x: net.site(net.stem(x)), stem=nn.Conv2d(3, WIDTH, 2, 2)),
            _maps(4, 3, 8, 10),
            lambda net, x: _everything(net.site(net.stem(x)).flatten(2).movedim(1, 2)),
        ),
        "channels second, layer norm": Animal(
            Net(Turned(WIDTH), lambda net, x: net.site(net.stem(x)), stem=nn.Conv2d(3, WIDTH, 2, 2)),
            _maps(4, 3, 8, 10),
            lambda net, x: _everything(net.site(net.stem(x)).flatten(2).movedim(1, 2)),
        ),
        "positions first": Animal(
            Net(nn.GRU(3, WIDTH), lambda net, x: net.site(x)[0]),
            _maps(7, 4, 3),
            lambda net, x: _everything(net.site(x)[0].transpose(0, 1)),
            {"batch_size": lambda batch: batch.shape[1]},
        ),
        "positions first, as many as samples": Animal(
            Net(nn.GRU(3, WIDTH), lambda net, x: net.site(x)[0]),
            _maps(4, 4, 3),
            lambda net, x: _everything(net.site(x)[0].transpose(0, 1)),
        ),
        "recurrent, packed": Animal(Net(nn.GRU(3, WIDTH, batch_first=True), _packed), _ragged(), _unpacked),
        "recurrent, packed, all short": Animal(
            Net(nn.LSTM(3, WIDTH, batch_first=True), lambda net, x: _packed(net, x[:, :4])),
            [x.masked_fill(torch.arange(5)[:, None] > 2, 0) for x in _ragged()],
            lambda net, x: _unpacked(net, x[:, :3]),
        ),
        "two views in one pass": Animal(
            Net(nn.Linear(3, WIDTH), lambda net, x: net.site(torch.cat([x, x + 0.1]))),
            _maps(4, 3),
            lambda net, x: _everything(torch.stack([net.site(x), net.site(x + 0.1)], dim=1)),
            {"read": lambda output, batch: output.unflatten(0, (2, -1)).transpose(0, 1)},
            noise=False,
        ),
        "experts on flat positions": Animal(
            Net(nn.Linear(3, WIDTH), lambda net, x: net.site(x.flatten(0, 1))),
            _maps(4, 5, 3),
            lambda net, x: _everything(net.site(x)),
            {"read": lambda output, batch: output.view(*batch.shape[:2], -1)},
            noise=False,
        ),
        "without padding": Animal(
            Net(nn.Linear(3, WIDTH), _unpadded),
            masked,
            lambda net, batch: (net.site(batch["x"]), batch["attention_mask"].bool()),
            {
                "read": lambda output, batch: {
                    "representations": output,
                    "samples": batch["attention_mask"].nonzero()[:, 0],
                }
            },
            noise=False,
        ),
        "nodes of graphs": Animal(
            Net(nn.Linear(4, WIDTH), lambda net, batch: net.site(batch.x)),
            [Graphs([3, 1, 5, 2], generator), Graphs([2, 6, 1, 1], generator)],
            _by_graph,
            {"read": lambda output, batch: {"representations": output, "samples": batch.batch}},
            noise=False,
        ),
        "batch with attributes": Animal(
            Net(nn.Linear(3, WIDTH), lambda net, batch: net.site(batch.x)),
            [Plain(x, torch.arange(4)) for x in _maps(4, 3)],
            lambda net, batch: _everything(net.site(batch.x)[:, None]),
        ),
        "images of several sizes": Animal(
            Net(
                nn.Linear(12, WIDTH),
                lambda net, batch: net.site(torch.stack([image[:, :2, :2].flatten() for image in batch[0]])),
            ),
            [
                (
                    [torch.randn(3, 4 + i, 5, generator=generator) for i in range(6)],
                    [{"boxes": torch.rand(2, 4)} for _ in range(6)],
                )
            ],
            lambda net, batch: _everything(
                net.site(torch.stack([image[:, :2, :2].flatten() for image in batch[0]]))[:, None]
            ),
        ),
        "several outputs": Animal(
            Net(Stages(), lambda net, x: net.site(x)[-1]),
            _maps(4, 3, 8, 8),
            lambda net, x: _everything(net.site(x)[2].flatten(2).movedim(1, 2)),
            {"output": 2},
        ),
        "loss, then generation": Animal(
            Net(nn.Linear(3, WIDTH), _then_generates),
            _maps(4, 5, 3),
            lambda net, x: _everything(net.site(x)),
            {"call": "first"},
            noise=False,
        ),
    }


class Stages(nn.Module):
    """An encoder that returns its input and all its maps."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, WIDTH, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.one(x)
        return [x, first, self.two(first)]


def _then_generates(net: Net, x: Tensor) -> Tensor:
    found: Tensor = net.site(x)
    for _ in range(3):
        net.site(x[:, -1:])
    return found
