"""The modules that take a layer's neurons back to the residual stream."""

from __future__ import annotations

from torch import nn

from lightning_interp.sites.blocks import blocks
from lightning_interp.sites.names import listed, modules_by_name

__all__ = ["down_projections", "enclosing"]


def down_projections(model: nn.Module) -> dict[str, str]:
    """Of each block of a model the linear map that its neurons go through, the last one to fewer dimensions.

    What lies in attention does not count. The input are the neurons of the MLP behind the nonlinearity, with gates
    multiplied in.

    Args:
        model: A language model; names are relative to it.

    Returns:
        Name of the block → dotted name, in order.

    Raises:
        ValueError: If there are no blocks, or one has no such map; it lists what there is.

    Example:
        >>> from lightning_interp.models import small_gpt2
        >>> down_projections(small_gpt2(range(27), 12, heads=3))
        {'0': 'transformer.h.0.mlp.c_proj', '1': 'transformer.h.1.mlp.c_proj'}

    """
    modules, found = modules_by_name(model), {}
    for short, block in blocks(model).items():
        inside = {name: module for name, module in modules.items() if name.startswith(f"{block}.")}
        attending = [name for name, module in inside.items() if "attention" in type(module).__name__.lower()]
        narrowing = [
            name
            for name, module in inside.items()
            if _narrows(module) and not any(name.startswith(f"{one}.") for one in attending)
        ]
        if not narrowing:
            raise ValueError(
                f"block {block!r} has no linear map to fewer dimensions outside of attention, whose input its neurons "
                f"would be; it has {listed(inside)}: name the modules with `sites`"
            )
        found[short] = narrowing[-1]
    return found


def enclosing(model: nn.Module, name: str) -> str | None:
    """The block of a model in which a module lies; ``None`` where it lies in none.

    Example:
        >>> from lightning_interp.models import small_gpt2
        >>> enclosing(small_gpt2(range(27), 12, heads=3), "transformer.h.1.mlp.c_proj")
        'transformer.h.1'

    """
    try:
        found = blocks(model).values()
    except ValueError:  # it has none
        return None
    return next((block for block in found if name == block or name.startswith(f"{block}.")), None)


def _narrows(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return module.in_features > module.out_features
    # What GPT-2 has in its place keeps its weight the other way round.
    if type(module).__name__ == "Conv1D" and getattr(module, "weight", None) is not None:
        given, returned = module.weight.shape  # type: ignore[misc]
        return bool(given > returned)
    return False
