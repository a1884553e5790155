"""A forward pass that counts how often it is made."""

from __future__ import annotations

from torch import Tensor, nn


class Counted:
    """Calls the model, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = model(input_ids)
        return found

    def __eq__(self, other: object) -> bool:  # and so no hash
        return self is other
