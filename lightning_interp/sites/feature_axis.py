"""Where a module keeps its features: on the second axis, as a convolution, or on the last, as a linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.nn.modules import activation, batchnorm, conv, pooling

__all__ = ["Axis", "FeatureAxis", "FeatureSizes", "feature_axis", "feature_sizes"]

Axis = Literal["second", "last"]

# Modules that work channel by channel and do not tell how many there are.
_BY_CHANNEL: tuple[type[nn.Module], ...] = (
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
    pooling._LPPoolNd,
    pooling.FractionalMaxPool2d,
    pooling.FractionalMaxPool3d,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.LocalResponseNorm,
    nn.Softmax2d,
)
# Modules that return what they are given, in the same shape.
_ENTRY_BY_ENTRY: tuple[type[nn.Module], ...] = (
    nn.Identity,
    nn.Dropout,
    nn.AlphaDropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    *(
        kind
        for kind in vars(activation).values()
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__ == activation.__name__
        if kind not in (nn.MultiheadAttention, nn.GLU, nn.Softmax2d)
    ),
)


@dataclass(frozen=True)
class FeatureAxis:
    """What the class of a module says about its output."""

    axis: Axis
    size: int | None
    """How many features; ``None`` where the module does not tell."""
    batch_first: bool | None = None
    """Whether the batch comes before the positions; ``None`` where the module does not tell."""
    axes: int | None = None
    """How many axes of positions the module is made for; ``None`` for any number."""
    source: str = ""
    """The module that says so, for messages."""


@dataclass(frozen=True)
class FeatureSizes:
    """The numbers of features that the modules within one have, by the axis on which they keep them."""

    second: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()
    positions_first: bool = False
    """Whether one of them takes positions before samples."""


def feature_axis(modules: Mapping[str, nn.Module], name: str) -> FeatureAxis | None:
    """Where a module's output has its features, as far as classes tell.

    A container of modules that run in turn is as the last of them; one that works entry by entry (an activation,
    dropout) is as the module before it in such a container.

    Args:
        modules: The modules of a model by dotted name.
        name: That of the module.

    Returns:
        ``None`` where the class is not known: it may do anything with its axes.

    Example:
        >>> model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU())
        >>> feature_axis(dict(model.named_modules()), "1")
        FeatureAxis(axis='second', size=8, batch_first=None, axes=1, source='Conv1d')

    """
    module = modules[name]
    if not _keeps_shape(module):
        return _axis_of(module)
    above, _, own = name.rpartition(".")
    parent = modules.get(above) if name else None
    if parent is None or not _runs_as(parent, nn.Sequential):
        return None
    before = list(dict(parent.named_children()).items())
    place = next((place for place, (child, _) in enumerate(before) if child == own), 0)
    for _, sibling in reversed(before[:place]):
        if not _keeps_shape(sibling):
            return _axis_of(sibling)
    return feature_axis(modules, above) if _keeps_shape(parent) else None


def _keeps_shape(module: nn.Module) -> bool:
    """Whether a module works entry by entry."""
    if _runs_as(module, nn.Sequential):
        return all(map(_keeps_shape, module.children()))
    return _runs_as(module, *_ENTRY_BY_ENTRY)


def _axis_of(module: nn.Module) -> FeatureAxis | None:
    """What a module says by itself."""
    if _runs_as(module, nn.Sequential):
        changing = [child for child in module.children() if not _keeps_shape(child)]
        return _axis_of(changing[-1]) if changing else None
    known: Any = module
    kind = type(module).__name__
    if _runs_as(module, conv._ConvNd):
        return FeatureAxis("second", int(known.out_channels), axes=_axes(kind), source=kind)
    if _runs_as(module, batchnorm._NormBase):
        return FeatureAxis("second", int(known.num_features), source=kind)
    if _runs_as(module, nn.GroupNorm):
        return FeatureAxis("second", int(known.num_channels), source=kind)
    if _runs_as(module, nn.GLU) and known.dim in (1, -1):
        # It halves the axis on which the module before it has features.
        return FeatureAxis("second" if known.dim == 1 else "last", None, source=kind)
    if _runs_as(module, *_BY_CHANNEL):
        return FeatureAxis("second", None, axes=_axes(kind), source=kind)
    size = _last_size(module)
    return None if size is None else FeatureAxis("last", size, _batch_first(module), source=kind)


def _axes(kind: str) -> int | None:
    """The number in a name like Conv2d."""
    return int(kind[-2]) if kind[-2:] in ("1d", "2d", "3d") else None


def _last_size(module: nn.Module) -> int | None:
    """How many features a module has that keeps them on the last axis."""
    known: Any = module
    if _runs_as(module, nn.Linear, nn.Bilinear):
        return int(known.out_features)
    if _runs_as(module, nn.Embedding):
        return int(known.embedding_dim)
    if _runs_as(module, nn.LayerNorm, nn.RMSNorm):
        return int(known.normalized_shape[-1]) if len(known.normalized_shape) == 1 else None
    if _runs_as(module, nn.RNNBase):
        return int(known.proj_size or known.hidden_size) * (2 if known.bidirectional else 1)
    if _runs_as(module, nn.MultiheadAttention):
        return int(known.embed_dim)
    if _runs_as(module, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
        return int(known.self_attn.embed_dim)
    if _runs_as(module, nn.TransformerEncoder, nn.TransformerDecoder):
        return _last_size(known.layers[-1]) if len(known.layers) else None
    if _runs_as(module, nn.Transformer):
        return int(known.d_model)
    if type(module).__name__ == "Conv1D" and isinstance(getattr(module, "nf", None), int):
        return int(known.nf)  # the linear layer of GPT-2 in transformers
    return None


def _batch_first(module: nn.Module) -> bool | None:
    """What a module that takes sequences says of the order of batch and positions."""
    known: Any = module
    if _runs_as(module, nn.TransformerEncoder, nn.TransformerDecoder):
        return _batch_first(known.layers[0]) if len(known.layers) else None
    for holder in (module, getattr(module, "self_attn", None)):
        told = getattr(holder, "batch_first", None)
        if isinstance(told, bool):
            return told
    return None


def _runs_as(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is one of these and runs as they do: a subclass with a ``forward`` of its own may turn axes."""
    for kind in kinds:
        if isinstance(module, kind):
            owner = next(one for one in type(module).__mro__ if "forward" in vars(one))
            return owner.__module__.startswith("torch.nn.modules")
    return False


def feature_sizes(module: nn.Module) -> FeatureSizes:
    """The numbers of features, going in and out, of all modules within a module.

    Example:
        >>> found = feature_sizes(nn.Sequential(nn.Conv1d(2, 8, 3), nn.Flatten(), nn.Linear(80, 4)))
        >>> sorted(found.second), sorted(found.last)
        ([2, 8], [4, 80])

    """
    second: set[int] = set()
    last: set[int] = set()
    positions_first = False
    for one in module.modules():
        known: Any = one
        positions_first |= _batch_first(one) is False
        if isinstance(one, conv._ConvNd):
            second |= {known.in_channels, known.out_channels}
        elif isinstance(one, batchnorm._NormBase):
            second.add(known.num_features)
        elif isinstance(one, nn.GroupNorm):
            second.add(known.num_channels)
        elif isinstance(one, nn.LayerNorm | nn.RMSNorm) and not _runs_as(one, nn.LayerNorm, nn.RMSNorm):
            # Those of convolutional nets, which turn axes on the way.
            second |= set(known.normalized_shape)
        else:
            told = (_last_size(one), *(getattr(one, name, None) for name in ("in_features", "input_size")))
            last |= {size for size in told if isinstance(size, int)}
    return FeatureSizes(frozenset(second), frozenset(last), positions_first)
