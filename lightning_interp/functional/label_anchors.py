"""What label words gather and what is read from them, from saliency of attention (Wang et al. 2023)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import wide_dtype

__all__ = ["LabelFlow", "attention_saliency", "head_importance", "label_flow", "label_match"]


class LabelFlow(NamedTuple):
    """Means of the saliency of one prompt, float64 scalars (float32 on MPS)."""

    wp: Tensor
    """From words to labels: rows of labels."""
    pq: Tensor
    """From labels to the last position: its row, columns of labels."""
    ww: Tensor
    """All the rest."""
    read_rest: Tensor
    """The row of the last position, columns that are neither labels nor the first token; 0 where there are none."""
    write: Tensor
    """Rows of labels, the columns that are compared; 0 where there are none."""
    write_rest: Tensor
    """The same columns of the rows just before; 0 where there are none."""


def attention_saliency(products: Tensor) -> Tensor:
    r"""How much the loss depends on each edge of attention, all heads together.

    .. math:: I = \Big| \sum_h A_h \odot \frac{\partial L}{\partial A_h} \Big|

    the absolute value after the sum over heads, as in the text and the code of Wang et al. 2023 (arXiv 2305.14160).

    Args:
        products: Weights times their gradient, (..., H, T, T).

    Returns:
        (..., T, T) with a diagonal of 0.

    Raises:
        ValueError: If the shape does not fit.

    Example:
        >>> attention_saliency(torch.tensor([[[1.0, 0.0], [2.0, 1.0]], [[0.0, 0.0], [-3.0, 1.0]]]))
        tensor([[0., 0.],
                [1., 0.]])

    """
    _check_square("products", products, 3)
    diagonal = torch.eye(products.shape[-1], dtype=torch.bool, device=products.device)
    return products.detach().sum(-3).abs().masked_fill(diagonal, 0.0)


def head_importance(products: Tensor) -> Tensor:
    r"""How much the loss depends on a head as a whole: :math:`|\sum_{ij} A \odot \partial L / \partial A|`.

    It is the size of the derivative by a gate on the head (Michel et al. 2019, arXiv 1905.10650).

    Args:
        products: Weights times their gradient, (..., H, T, T).

    Returns:
        float64 (..., H) (float32 on MPS).

    Raises:
        ValueError: If the shape does not fit.

    Example:
        >>> head_importance(torch.tensor([[[1.0, 0.0], [2.0, 1.0]], [[0.0, 0.0], [-3.0, 1.0]]]))
        tensor([4., 2.], dtype=torch.float64)

    """
    _check_square("products", products, 3)
    return products.detach().sum((-2, -1), dtype=wide_dtype(products.device)).abs()


def label_flow(saliency: Tensor, labels: Tensor) -> LabelFlow:
    r"""How much flows into label words and from them to the last position.

    With the labels at :math:`p_1, \dots, p_C` and the last position q, the means of Wang et al. 2023 (arXiv 2305.14160)

    .. math::
        S_{wp} = \operatorname*{mean}_{k,\, j < p_k} I_{p_k j}, \quad
        S_{pq} = \operatorname*{mean}_{k} I_{q p_k}, \quad
        S_{ww} = \operatorname*{mean}_{\text{all other } j < i} I_{ij}

    over :math:`\sum_k p_k`, C and :math:`q (q + 1) / 2 - \sum_k p_k - C` pairs. :math:`S_{pq} / S_{ww}` is large in any
    model: of the last layer only row q feeds the loss, and all other rows are 0. Hence the parts of two ratios that are
    about 1 without an effect: :math:`S_{pq}` beside the same row,

    .. math:: \operatorname{mean}\{I_{qj} : 0 < j < q,\ j \text{ no label}\}

    and the rows of labels beside those of depth alike: :math:`R_k` are those of :math:`p_k - 1` and :math:`p_k - 2`
    that are neither labels nor the first token, :math:`m_k = \min R_k`, and of the labels with :math:`m_k \ge 2`

    .. math::
        \mathrm{write} = \operatorname*{mean}_k \operatorname*{mean}_{0 < j < m_k} I_{p_k j}, \quad
        \mathrm{write\_rest} =
        \operatorname*{mean}_k \operatorname*{mean}_{r \in R_k} \operatorname*{mean}_{0 < j < m_k} I_{r j}

    The first token is left out of both, since attention that has nothing to look at rests there.

    Args:
        saliency: I, (T, T); what is not below the diagonal does not count.
        labels: Positions of the label words, int64 (C,), different ones and before q = T − 1.

    Returns:
        The six means.

    Raises:
        ValueError: If the shapes do not fit, or a position is out of range.

    Example:
        >>> flow = label_flow(torch.ones(6, 6), torch.tensor([3]))
        >>> [float(one) for one in flow]
        [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]

    """
    _check_square("saliency", saliency, 2, exactly=True)
    last = len(saliency) - 1
    if labels.ndim != 1 or not len(labels) or len({*labels.tolist()}) != len(labels):
        raise ValueError(f"`labels` must be different positions, (C,) with C at least 1, got {labels.tolist()}.")
    if not 0 <= int(labels.min()) <= int(labels.max()) < last:
        raise ValueError(f"`labels` must lie before the last position, {last}, got {labels.tolist()}.")
    labels = labels.to(saliency.device)
    table = saliency.detach().to(wide_dtype(saliency.device)).tril(-1)
    is_label = torch.zeros(last + 1, dtype=torch.bool, device=table.device)
    is_label[labels] = True
    rest = table.masked_fill(is_label[:, None], 0.0)
    rest[last, labels] = 0.0
    into, number = int(labels.sum()), len(labels)
    words = ~is_label
    words[0] = words[last] = False
    write, write_rest = _written(table, labels, is_label)
    return LabelFlow(
        table[labels].sum() / max(into, 1),
        table[last, labels].mean(),
        rest.sum() / max(last * (last + 1) // 2 - into - number, 1),
        table[last, words].sum() / words.sum().clamp_min(1),
        write,
        write_rest,
    )


def label_match(attention: Tensor, labels: Tensor, right: Tensor) -> Tensor:
    r"""Share of the attention to label words that goes to those of the right answer.

    .. math:: \sum_{k :\, \text{right}} a_{p_k} \Big/ \sum_k a_{p_k}

    By chance it is the share of labels that are right: 1/C where each of C has as many.

    Args:
        attention: What the last position pays to each position, (..., T).
        labels: Positions of the label words, int64 (C,).
        right: Which of them are the right answer, bool (C,).

    Returns:
        0 to 1, float64 (...) (float32 on MPS); NaN where no label gets any.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> label_match(torch.tensor([0.25, 0.75, 0.0]), torch.tensor([0, 1]), torch.tensor([False, True])).item()
        0.75

    """
    if labels.ndim != 1 or right.shape != labels.shape:
        raise ValueError(
            f"`labels` and `right` must both be (C,), got shapes {tuple(labels.shape)} and {tuple(right.shape)}."
        )
    paid = attention.detach()[..., labels.to(attention.device)].to(wide_dtype(attention.device))
    return torch.where(right.bool().to(paid.device), paid, 0.0).sum(-1) / paid.sum(-1)


def _written(table: Tensor, labels: Tensor, is_label: Tensor) -> tuple[Tensor, Tensor]:
    """What labels gather in the columns that are compared, and what the rows just before do."""
    rows = labels[:, None] - torch.tensor([1, 2], device=table.device)
    like = (rows >= 1) & ~is_label[rows.clamp_min(0)]
    least = torch.where(like, rows, len(table)).amin(1)
    counted = like.any(1) & (least >= 2)
    labels, rows, like, least = (one[counted] for one in (labels, rows, like, least))
    number = counted.sum().clamp_min(1)
    # Entry m − 2 of a row is the sum over the columns 1 … m − 1.
    sums = table[:, 1:].cumsum(1)
    own = sums[labels, least - 2] / (least - 1)
    others = sums[rows.clamp_min(0), (least - 2)[:, None]] / (least - 1)[:, None]
    beside = torch.where(like, others, 0.0).sum(1) / like.sum(1)
    return own.sum() / number, beside.sum() / number


def _check_square(name: str, value: Tensor, least: int, exactly: bool = False) -> None:
    fits = value.ndim == least if exactly else value.ndim >= least
    if not fits or value.shape[-1] != value.shape[-2] or value.shape[-1] < 2:
        shape = "(T, T)" if exactly else "(..., H, T, T)"
        raise ValueError(f"`{name}` must be {shape} with T at least 2, got shape {tuple(value.shape)}.")
