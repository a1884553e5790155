"""Which modules of a model attend, how many heads they have, and what joins their heads."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_interp.sites.names import clean_name, modules_by_name

__all__ = ["attention_modules", "head_projection", "number_of_heads"]

_HEADS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "heads", "nhead")
_JOINING = ("o_proj", "out_proj", "c_proj", "dense", "o", "wo", "to_out", "proj", "out")


def attention_modules(model: nn.Module) -> dict[str, str]:
    """Dotted names of the modules that attend: those whose class is named so, and that hold no other such.

    Returns:
        Name → name, to be given as sites.

    Raises:
        ValueError: If there is none.

    Example:
        >>> from lightning_interp.models import small_gpt2
        >>> list(attention_modules(small_gpt2(range(27), 12, heads=3)))
        ['transformer.h.0.attn', 'transformer.h.1.attn']

    """
    modules = modules_by_name(model)
    attending = [name for name, module in modules.items() if _attends(module)]
    found = [name for name in attending if not any(other.startswith(f"{name}.") for other in attending if name)]
    found = [name for name in found if name or len(attending) == 1]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no module whose class is named after attention: give `sites`, the modules "
            "that call it."
        )
    return {name: name for name in found}


def _attends(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower()


def number_of_heads(module: nn.Module) -> int | None:
    """How many query heads a module says it has, itself or in its ``config``; ``None`` where it does not say."""
    for holder in (module, getattr(module, "config", None)):
        for name in _HEADS:
            number = getattr(holder, name, None)
            if isinstance(number, int) and number > 0:
                return number
    return None


def head_projection(model: nn.Module, name: str, width: int) -> Tensor | None:
    """The matrix that joins the heads of an attention module, (D, H·d), as it is now.

    Args:
        model: The model.
        name: Dotted name of the attention module.
        width: H·d, the width of all heads together.

    Returns:
        The weights of the linear module in it, or beside it (as in BERT), that is named so and fits; ``None`` where
        there is none.

    """
    modules = modules_by_name(model)
    name = clean_name(name)
    own, parent = modules[name], modules.get(name.rpartition(".")[0])
    for holder in (own, parent):
        for inside, module in holder.named_modules() if holder is not None else ():
            weight = getattr(module, "weight", None)
            if inside.rpartition(".")[2] not in _JOINING and not _in_sequence(inside):
                continue
            if not isinstance(weight, Tensor) or weight.dim() != 2 or hasattr(weight, "placements"):
                continue
            if type(module).__name__ == "Conv1D":  # GPT-2's, which has its weights the other way round
                weight = weight.T
            if weight.shape[1] == width:
                return weight.detach()
    return None


def _in_sequence(name: str) -> bool:
    """Whether it is the first module of a sequence that is named so (``to_out.0``)."""
    holder, _, last = name.rpartition(".")
    return last == "0" and holder.rpartition(".")[2] in _JOINING
