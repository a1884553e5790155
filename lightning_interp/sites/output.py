"""Which tensor of what a module returns is its representations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_interp.isolation.containers import items, rebuilt

__all__ = [
    "OutputKey",
    "SiteTensor",
    "copied_tensor",
    "described",
    "first_given",
    "given",
    "plain_choice",
    "replaced",
    "replicated",
    "select",
]

OutputKey = str | int | Callable[[Any], Any]
SiteTensor = Tensor | PackedSequence

_NAMES = ("last_hidden_state", "logits")
# Of these the first entry is documented to be the output, and the others are states and weights.
_FIRST_IS_OUTPUT = (nn.RNNBase, nn.MultiheadAttention)
_LISTED = 8


def plain_choice(module: nn.Module, output: Any, where: OutputKey | None) -> tuple[str, Tensor] | None:
    """The tensor to read and its path, where that is quickly told; else ``None``, which :func:`select` explains.

    It runs in the hook, which ``torch.compile`` may trace, and never raises.
    """
    if isinstance(where, (int, str)):
        found: Any = None
        if isinstance(output, Mapping):
            found = output.get(where)
        elif isinstance(where, int) and isinstance(output, (tuple, list)) and -len(output) <= where < len(output):
            found = output[where]
        return (f"[{where!r}]", found) if isinstance(found, Tensor) and found.is_floating_point() else None
    if where is not None:
        return None
    if isinstance(output, Tensor):
        return ("", output) if output.is_floating_point() else None
    if isinstance(output, Mapping):
        for name in _NAMES:
            found = output.get(name)
            if isinstance(found, Tensor) and found.is_floating_point():
                return f"[{name!r}]", found
        return None
    if isinstance(output, tuple | list) and not isinstance(output, PackedSequence):
        chosen = None
        for place, item in enumerate(output):
            if isinstance(item, Tensor):
                if not item.is_floating_point() or item.dim() < 2:
                    continue
                if isinstance(module, _FIRST_IS_OUTPUT):
                    return (f"[{place}]", item) if place == 0 else None
                if chosen is not None:
                    return None
                chosen = (f"[{place}]", item)
            elif isinstance(item, tuple | list | Mapping):
                return None
        return chosen
    return None


WHICH = "say which with `output=`, an index, a key or a callable on what it returned"


def given(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[int | str, Any]:
    """The arguments of a call, by place and by name."""
    by_place: dict[int | str, Any] = dict(enumerate(args))
    by_place.update(kwargs)
    return by_place


def first_given(arguments: Mapping[int | str, Any]) -> int | str | None:
    """Which argument is read where nothing else is said: the first floating-point tensor of two dimensions or more."""
    for name, value in arguments.items():
        if isinstance(value, PackedSequence):
            return name
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2:
            return name
    return None


def select(
    module: nn.Module,
    output: Any,
    where: OutputKey | None,
    site: str,
    advice: str = WHICH,
    verb: str = "returned",
) -> tuple[str, SiteTensor]:
    """The tensor to read, with its path in the output.

    That is the output itself, or what ``where`` says; ``last_hidden_state`` or ``logits`` where it has one; the first
    entry of what ``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and ``nn.MultiheadAttention`` return; else the only
    floating-point tensor of two dimensions or more in it, however deep.

    Args:
        module: The module.
        output: What it returned.
        where: A key, an index or an attribute of the output, or a callable on it.
        site: The site, for messages.
        advice: What to do where there are several.
        verb: ``"returned"``, or ``"was given"`` for what is an argument.

    Raises:
        TypeError: If there is none.
        ValueError: If there are several, which are listed.

    Example:
        >>> import torch
        >>> gru = nn.GRU(4, 8)
        >>> path, states = select(gru, gru(torch.zeros(5, 2, 4)), None, "'gru'")
        >>> path, states.shape
        ('[0]', torch.Size([5, 2, 8]))

    """
    if where is not None:
        path, found = _at(output, where)
        if not _is_read(found):
            raise TypeError(
                f"{site} has no floating-point tensor at output={_name_of(where)}, but {described(found)}; it {verb} "
                f"{described(output)}{_hidden_weights(module, found)}"
            )
        return path, found
    if _is_read(output):
        return "", output
    if isinstance(module, _FIRST_IS_OUTPUT) and isinstance(output, tuple) and output and _is_read(output[0]):
        return "[0]", output[0]
    for name in _NAMES:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if _is_read(found):
            return f"[{name!r}]" if isinstance(output, Mapping) else f".{name}", found
    several = list(_candidates(output, ""))
    if not several:
        raise TypeError(f"{site} {verb} {described(output)}: no floating-point tensor to read")
    if len(several) > 1:
        listed = ", ".join(f"output{path}: {described(one)}" for path, one in several[:_LISTED])
        more = f" and {len(several) - _LISTED} more" if len(several) > _LISTED else ""
        raise ValueError(f"{site} {verb} {len(several)} tensors that could be what is read, {listed}{more}: {advice}")
    return several[0]


def _hidden_weights(module: nn.Module, found: Any) -> str:
    """What to do where attention keeps its weights to itself."""
    kernel = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if found is not None or kernel in (None, "eager"):
        return ""
    return f". Its attention is {kernel!r}, which gives no weights: build the model with attn_implementation='eager'"


def _at(output: Any, where: OutputKey) -> tuple[str, Any]:
    if callable(where):
        return "(…)", where(output)
    try:
        if isinstance(output, Mapping):
            return f"[{where!r}]", output[where]
        if isinstance(where, int) and isinstance(output, Sequence):
            return f"[{where!r}]", output[where]
    except (KeyError, IndexError):
        return "", None
    return f".{where}", getattr(output, where, None) if isinstance(where, str) else None


def _is_read(value: Any) -> TypeGuard[SiteTensor]:
    return isinstance(value, PackedSequence) or (isinstance(value, Tensor) and value.is_floating_point())


def _candidates(output: Any, path: str) -> Iterator[tuple[str, SiteTensor]]:
    """What could be representations, with its path."""
    if isinstance(output, PackedSequence):
        yield path, output
    elif isinstance(output, Tensor):
        # One number a sample, or one for all, is no vector.
        if output.is_floating_point() and (output.is_nested or output.dim() >= 2):
            yield path, output
    else:
        for step, item in items(output):
            yield from _candidates(item, path + step)


def replaced(holder: Any, old: Any, new: Any) -> Any:
    """The same output with one tensor in another's place, however deep; containers on the way to it are copied."""
    if holder is old:
        return new
    parts = [part for _, part in items(holder)]
    changed = [replaced(part, old, new) for part in parts]
    same = all(one is part for one, part in zip(changed, parts, strict=True))
    return holder if same else rebuilt(holder, changed)


def copied_tensor(tensor: Tensor) -> Tensor:
    """A copy that later operations in place do not reach."""
    if type(tensor) is not Tensor and not replicated(tensor):
        # Copying a partial sum is a collective, which under any condition on ranks would hang: `take` refuses it.
        return tensor
    return tensor.detach().clone()


def replicated(tensor: Tensor) -> bool:
    """Whether all of a tensor is on this rank."""
    return all(placement.is_replicate() for placement in getattr(tensor, "placements", ()))


def _name_of(where: OutputKey) -> str:
    return getattr(where, "__name__", type(where).__name__) if callable(where) else repr(where)


def described(output: Any) -> str:
    """What a module returned, for messages."""
    if isinstance(output, PackedSequence):
        return f"a packed sequence of {tuple(output.data.shape)}"
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {'nested' if output.is_nested else tuple(output.shape)}"
    parts = ", ".join(f"{step.strip('.')} {described(part)}" for step, part in items(output))
    return f"{type(output).__name__}({parts})" if parts else type(output).__name__
