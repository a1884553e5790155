"""Integer labels of positions from their tokens: n-gram windows and the next token."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MAX_TOKEN_ID", "NO_LABEL", "built_in_labels", "ngram_labels", "next_token_labels"]

NO_LABEL = -1
_BITS = 21
MAX_TOKEN_ID = (1 << _BITS) - 1


def ngram_labels(tokens: Tensor, mask: Tensor, n: int, nested: bool = True) -> Tensor:
    """The n-gram windows that each position belongs to.

    Nested as in Conklin & Smith 2024: a position carries every window of n neighbouring tokens that overlaps it, up to
    n of them, to be compared with other windows of the same token. Flat: the one window that ends at the position.
    A window lies within its sequence and holds real tokens only. A window that overlaps two positions by the same token
    (``the the``) is one label for both.

    Args:
        tokens: Token ids, 0 to 2,097,151, shape (B, T).
        mask: Which positions hold a real token, bool (B, T).
        n: Length of the window, 1 to 3.
        nested: All windows of a position, or the one that ends there.

    Returns:
        int64 (B, T, n) nested or (B, T, 1) flat: the window's tokens packed in one number, or -1 where there is no
        window. Nothing is read back from the device.

    Raises:
        ValueError: If shapes differ or n is out of range.

    Example:
        >>> tokens = torch.tensor([[3, 4, 5]])
        >>> windows = ngram_labels(tokens, torch.ones(1, 3, dtype=torch.bool), n=2)
        >>> windows[0, 0].tolist() == [-1, (3 << 21) + 4], bool(windows[0, 0, 1] == windows[0, 1, 0])
        (True, True)

    """
    if not 1 <= n <= 3:
        raise ValueError(f"`n` must be 1, 2 or 3, got {n}.")
    _check(tokens, mask)
    ids = tokens.long()
    length = ids.shape[1]
    # windows[:, s] is the window that starts at s − (n − 1); those that reach over an edge are invalid.
    padded = torch.nn.functional.pad(ids, (n - 1, n - 1))
    real = torch.nn.functional.pad(mask.bool() & (ids >= 0), (n - 1, n - 1))
    window = torch.zeros_like(padded[:, : length + n - 1])
    valid = torch.ones_like(window, dtype=torch.bool)
    for offset in range(n):
        part = slice(offset, offset + length + n - 1)
        window = (window << _BITS) + padded[:, part]
        valid &= real[:, part]
    window = window.masked_fill(~valid, NO_LABEL)
    starts = range(n) if nested else range(1)
    return torch.stack([window[:, start : start + length] for start in starts], dim=-1)


def next_token_labels(tokens: Tensor, mask: Tensor) -> Tensor:
    """The token that follows each position, -1 where none does.

    Args:
        tokens: Token ids, shape (B, T).
        mask: Which positions hold a real token, bool (B, T).

    Returns:
        int64 (B, T, 1).

    Example:
        >>> next_token_labels(torch.tensor([[3, 4, 5]]), torch.ones(1, 3, dtype=torch.bool)).flatten()
        tensor([ 4,  5, -1])

    """
    _check(tokens, mask)
    real = mask.bool()
    following = torch.nn.functional.pad(tokens.long()[:, 1:], (0, 1), value=NO_LABEL)
    follows = torch.nn.functional.pad(real[:, 1:], (0, 1)) & real
    return following.masked_fill(~follows, NO_LABEL).unsqueeze(-1)


def built_in_labels(name: str, tokens: Tensor, mask: Tensor) -> Tensor:
    """The label set of this name, formed from tokens.

    Args:
        name: ``"bigram"``, ``"trigram"``, ``"flat_bigram"``, ``"flat_trigram"`` or ``"next_token"``.
        tokens: Token ids, shape (B, T).
        mask: Which positions hold a real token, bool (B, T).

    Returns:
        int64 (B, T, M), as :func:`ngram_labels` and :func:`next_token_labels` give it.

    Example:
        >>> built_in_labels("next_token", torch.tensor([[3, 4]]), torch.ones(1, 2, dtype=torch.bool)).flatten()
        tensor([ 4, -1])

    """
    if name == "next_token":
        return next_token_labels(tokens, mask)
    return ngram_labels(tokens, mask, n=2 if name.endswith("bigram") else 3, nested=not name.startswith("flat_"))


def _check(tokens: Tensor, mask: Tensor) -> None:
    if tokens.ndim != 2 or tokens.shape != mask.shape:
        raise ValueError(f"`tokens` {tuple(tokens.shape)} and `mask` {tuple(mask.shape)} must both be (B, T).")
