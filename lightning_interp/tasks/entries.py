"""Entries of parameters: kept, changed, and put back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["SavedEntries", "descend"]

Mask = Mapping[str, Tensor]
"""By parameter, positions in the flattened tensor."""


class SavedEntries:
    """The present values of some entries of parameters.

    Memory: 4 bytes for each entry in float32, and 8 for its position if the mask is not kept elsewhere.

    Args:
        parameters: Parameters by name; they are kept alive.
        mask: Positions in each flattened parameter; None for all entries.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1)
        >>> before = layer.weight.detach().clone()
        >>> saved = SavedEntries({"weight": layer.weight}, {"weight": torch.tensor([1])})
        >>> with torch.no_grad():
        ...     layer.weight[0, 1] = 7.0
        >>> saved.changed()
        1
        >>> saved.restore()
        >>> torch.equal(layer.weight, before)
        True

    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], mask: Mask | None) -> None:
        self.parameters = dict(parameters)
        self.mask = mask
        self._values = {name: _read(one, _at(mask, name)) for name, one in parameters.items()}

    def __len__(self) -> int:
        return sum(value.numel() for value in self._values.values())

    def changed(self) -> int:
        """How many of the entries are no longer what they were."""
        pairs = ((_read(one, _at(self.mask, name)), self._values[name]) for name, one in self.parameters.items())
        return sum(int((now != then.to(now.device)).sum()) for now, then in pairs)

    def restore(self) -> None:
        """Put the values back."""
        for name, parameter in self.parameters.items():
            _write(parameter, _at(self.mask, name), self._values[name])


def descend(
    parameters: Mapping[str, nn.Parameter], gradient: Mapping[str, Tensor], mask: Mask | None, learning_rate: float
) -> None:
    r"""One step of gradient descent on the entries of a mask, :math:`\theta \leftarrow \theta - \eta\, m \odot g`."""
    for name, parameter in parameters.items():
        where = _at(mask, name)
        slope = gradient[name].reshape(-1)
        step = slope if where is None else slope[where]
        _write(parameter, where, _read(parameter, where).sub_(step, alpha=learning_rate))


def _at(mask: Mask | None, name: str) -> Tensor | None:
    return None if mask is None else mask[name]


def _read(parameter: Tensor, where: Tensor | None) -> Tensor:
    """A copy of the entries, one-dimensional."""
    flat = parameter.detach().reshape(-1)
    return flat.clone() if where is None else flat[where.to(flat.device)]


def _write(parameter: Tensor, where: Tensor | None, values: Tensor) -> None:
    tensor = parameter.detach()
    values = values.to(tensor.device)
    # Of a parameter that is not contiguous this is a copy.
    flat = tensor.reshape(-1)
    if where is None:
        flat = values
    else:
        flat.index_copy_(0, where.to(flat.device), values)
    if flat.data_ptr() != tensor.data_ptr():
        tensor.copy_(flat.view(tensor.shape))
