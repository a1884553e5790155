"""Standard errors from leaving out one group at a time."""

from __future__ import annotations

from torch import Tensor

__all__ = ["jackknife_se"]


def jackknife_se(leave_one_out: Tensor) -> Tensor:
    r"""Delete-a-group jackknife standard error.

    .. math::
        se = \sqrt{\tfrac{G - 1}{G} \sum_g (\theta_{(g)} - \bar\theta)^2}

    (Efron & Stein 1981; Kott 2001 for groups), with :math:`\theta_{(g)}` the statistic without group g. Groups of whole
    sequences respect that positions of one sequence are not independent.

    Args:
        leave_one_out: The statistic without each group, shape (G, ...), G at least 2.

    Returns:
        Shape (...).

    Raises:
        ValueError: If there are fewer than two groups.

    Example:
        >>> import torch
        >>> values = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> means = (values.sum() - values) / 3
        >>> bool(torch.isclose(jackknife_se(means), values.std() / 2))  # the textbook error of a mean
        True

    """
    groups = leave_one_out.shape[0]
    if groups < 2:
        raise ValueError(f"`leave_one_out` needs at least 2 groups, got {groups}.")
    return ((groups - 1) / groups * (leave_one_out - leave_one_out.mean(0)).square().sum(0)).sqrt()
