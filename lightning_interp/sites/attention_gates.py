"""Attention weights times the gradient of a loss with respect to them, of any model that the tap sees."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_interp.sites.attention_call import AttentionCall
from lightning_interp.sites.attention_tap import AttentionTap, Handler

__all__ = ["weights_times_gradient"]


def weights_times_gradient(
    tap: AttentionTap, loss: Callable[[], Tensor], handler: Handler | None = None
) -> dict[str, Tensor]:
    r"""Weights times their gradient, :math:`A \odot \partial L / \partial A`, at each site of a tap.

    Each weight goes on with a gate of 1 before it, and the gradient of the gate is that product. No ``.grad`` is
    touched, and parameters need not require gradients.

    Args:
        tap: The tap on the sites.
        loss: Runs the model once, with gradients on, and gives a loss, ().
        handler: Is told of each call.

    Returns:
        Site → (B, H, T, S), float32 or wider; 0 where the loss does not hang on a site.

    Raises:
        ValueError: If a site returns weights, which are seen there and cannot be changed.

    Cost: a forward and a backward pass; in memory some four times H·T·S numbers for each site at once.

    Example:
        >>> from lightning_interp.models import small_gpt2
        >>> model = small_gpt2(range(27), 12, heads=3).requires_grad_(False)
        >>> tap = AttentionTap(model, {"0": "transformer.h.0.attn"})
        >>> ids = torch.tensor([[1, 2, 3, 4]])
        >>> found = weights_times_gradient(tap, lambda: model(ids).logits[0, -1].logsumexp(-1))
        >>> found["0"].shape
        torch.Size([1, 3, 4, 4])

    """
    gates: dict[str, Tensor] = {}

    def gated(site: str, call: AttentionCall) -> Tensor:
        if call.own_weights is not None and call.own_scores is None:
            raise ValueError(
                f"site {site!r} returns weights, and a gate goes where they are used: name the module that attends"
            )
        weights = call.live_weights()
        wide = torch.promote_types(weights.dtype, torch.float32)
        gates[site] = weights.new_ones(weights.shape, dtype=wide, requires_grad=True)
        return weights * gates[site]

    with tap.reading(handler, replace=gated):
        value = loss()
    found: tuple[Tensor | None, ...] = (None,) * len(gates)
    if value.requires_grad:
        found = torch.autograd.grad(value, list(gates.values()), allow_unused=True)
    return {
        site: torch.zeros_like(gate) if product is None else product
        for (site, gate), product in zip(gates.items(), found, strict=True)
    }
