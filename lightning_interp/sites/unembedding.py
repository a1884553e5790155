"""How a language model makes logits of its last residual: a final norm and a head."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_interp.sites.names import clean_name, listed, modules_by_name

__all__ = ["Unembed", "Unembedding"]

Unembed = Callable[[nn.Module, Tensor], Tensor]
"""(language model, residuals (1, N, D)) → logits (1, N, V)."""


@dataclass(frozen=True)
class Unembedding:
    """The final norm and the head of a language model, to be called on residuals without any hook of theirs.

    Args:
        model: The language model.
        norm: Dotted name of the norm in it; ``""`` for none.
        head: Dotted name of the head in it, or a function in place of both.

    Example:
        >>> import torch
        >>> from lightning_interp.models import AttentionOnly
        >>> found = Unembedding.find(AttentionOnly(64), ["layers.0", "layers.1"])
        >>> found.norm, found.head, found(torch.zeros(5, 64)).shape
        ('norm', 'output', torch.Size([5, 64]))

    """

    model: nn.Module = field(repr=False)
    norm: str
    head: str | Unembed
    _steps: tuple[nn.Module, ...] = field(default=(), repr=False)
    """The modules that a residual goes through, in order."""

    @classmethod
    def find(
        cls,
        model: nn.Module,
        inside: Iterable[str],
        norm: str | None = None,
        head: str | Unembed | None = None,
    ) -> Unembedding:
        """Those that are named, and of those that are not the ones that the model seems to have.

        The head is what ``get_output_embeddings`` gives, as models of transformers have it, else the last
        ``nn.Linear``; the norm is the last module before the head whose class is named after a norm. Neither lies in a
        layer.

        Args:
            model: The language model.
            inside: Dotted names of its layers.
            norm: Dotted name of the norm, ``""`` for none.
            head: Dotted name of the head, or a function in place of both.

        Raises:
            ValueError: If a name matches nothing, or there is no head; it lists what there is.

        """
        if callable(head):
            if norm:
                raise ValueError(f"`norm` is {norm!r} beside a function as `head`, which is given the residual.")
            return cls(model, "", head)
        modules = modules_by_name(model)
        layers = [clean_name(one) for one in inside]
        outer = {
            name: module
            for name, module in modules.items()
            if name and not any(name == one or name.startswith(f"{one}.") for one in layers)
        }
        if head is None:
            head = _head(model, outer)
        for argument, name in (("head", head), ("norm", norm)):
            if name and clean_name(name) not in modules:
                raise ValueError(
                    f"`{argument}` is {name!r}, and {type(model).__name__} has no such module; outside of its layers "
                    f"it has {listed(outer)}."
                )
        if norm is None:
            places = list(outer)
            before = places[: places.index(head)] if head in outer else places
            norm = next((name for name in reversed(before) if _is_norm(outer[name])), "")
        steps = tuple(modules[clean_name(name)] for name in (norm, head) if name)
        return cls(model, clean_name(norm), clean_name(head), steps)

    @property
    def described(self) -> str:
        """What it is, for messages."""
        if callable(self.head):
            return "the function `head`"
        return f"the norm {self.norm!r} and the head {self.head!r}" if self.norm else f"the head {self.head!r}, no norm"

    def __call__(self, residuals: Tensor) -> Tensor:
        """Logits (N, V) of residuals (N, D)."""
        z = residuals[None]
        if callable(self.head):
            return self.head(self.model, z)[0]
        for module in self._steps:
            # Not by a call, which would run the hooks of all who read or write there.
            z = module.forward(z)
        return z[0]


def _head(model: nn.Module, outer: dict[str, nn.Module]) -> str:
    try:
        own = model.get_output_embeddings()  # type: ignore[operator]
    except Exception:  # there is none, or the class leaves it out
        own = None
    found = [name for name, module in outer.items() if module is own or (own is None and isinstance(module, nn.Linear))]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no head outside of its layers, an nn.Linear or what get_output_embeddings "
            f"gives: name it with `head`; there it has {listed(outer)}."
        )
    return found[-1]


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()
