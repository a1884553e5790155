"""A fixed random subspace, in which representations of different widths can be compared."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

__all__ = ["random_projection"]


def random_projection(width: int, dim: int, seed: int = 0) -> Tensor:
    r"""A matrix with orthonormal columns, uniform over all of them (Haar), the same on every device and rank.

    Entries are independent normals; their QR decomposition, with a positive diagonal of R, gives Q (Stewart 1980).
    ``z @ matrix`` is the orthogonal projection of z on a random subspace, in that subspace's own coordinates: lengths
    shrink to :math:`\sqrt{dim / width}` on average, and with ``dim = width`` it is a rotation or reflection.

    Args:
        width: Dimension D of the representations.
        dim: Dimension k of the subspace, 1 to D.
        seed: Of the matrix; no random stream is read or moved.

    Returns:
        float32, shape (width, dim), on the CPU.

    Raises:
        ValueError: If ``dim`` is below 1 or above ``width``.

    Example:
        >>> matrix = random_projection(64, 3)
        >>> torch.allclose(matrix.T @ matrix, torch.eye(3), atol=1e-6)
        True

    """
    if not 1 <= dim <= width:
        raise ValueError(f"`dim` must be 1 to the width of the representations, {width}; got {dim}.")
    # Not the seed itself: after `torch.manual_seed(seed)` the first weights of a model would be these very numbers.
    generator = torch.Generator().manual_seed(zlib.crc32(f"random projection {seed}".encode()))
    normals = torch.randn(width, dim, generator=generator, dtype=torch.float64, device="cpu")
    q, r = torch.linalg.qr(normals)
    # Which sign a column gets is otherwise left to the library, and Q would not be uniform.
    signed: Tensor = q * r.diagonal().sign()
    return signed.float()
