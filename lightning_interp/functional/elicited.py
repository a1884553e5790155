"""How sure a model says it is, where it is asked: agreement of its answers, probabilities of options, p(True)."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float, wide_dtype

__all__ = [
    "Agreed",
    "average_confidence",
    "consistency",
    "consistency_of_chance",
    "distinct_levels",
    "option_probabilities",
    "p_true",
]


class Agreed(NamedTuple):
    """What several answers to each question come to."""

    answer: Tensor
    """The answer with the largest share, int64; of equal ones the one given first, −1 where none could be read."""
    share: Tensor
    """Its share, 0 to 1: the confidence in it. NaN where no answer could be read."""


def consistency(answers: Tensor, expected: Tensor | None = None) -> Agreed:
    r"""Share of the commonest of M answers to one question (Xiong et al. 2024, arXiv 2306.13063).

    .. math:: C = \frac{\#\{ i : \hat Y_i = Y \}}{M}

    The M answers are samples, answers to paraphrases or answers under misleading hints. Answers at random agree, too:
    :func:`consistency_of_chance`.

    Args:
        answers: Which answer each is, int64 (…, M), below 0 where it could not be read: then it agrees with none, and
            counts in M.
        expected: The answer Y to look for in the place of the commonest, int64 (…), such as that without a hint.

    Returns:
        :class:`Agreed`, each (…); shares in float64 (float32 on MPS). Nothing is read back from the device.
        Memory: M² numbers a question.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> consistency(torch.tensor([[0, 2, 2, 1, 2], [3, 1, -1, 1, 3]]))
        Agreed(answer=tensor([2, 3]), share=tensor([0.6000, 0.4000], dtype=torch.float64))

    """
    _check_answers(answers)
    if expected is None:
        return _agreed(answers, torch.ones_like(answers), torch.full_like(answers[..., 0], answers.shape[-1]))
    if expected.shape != answers.shape[:-1]:
        raise ValueError(f"`expected` must be {tuple(answers.shape[:-1])}, got shape {tuple(expected.shape)}.")
    read = (answers >= 0).any(-1) & (expected >= 0)
    share = (answers == expected.unsqueeze(-1)).to(wide_dtype(answers.device)).mean(-1)
    return Agreed(expected, torch.where(read, share, torch.nan))


def average_confidence(answers: Tensor, confidences: Tensor) -> Agreed:
    r"""Answers weighted by the confidence that was stated with each (Avg-Conf; Xiong et al. 2024, arXiv 2306.13063).

    .. math:: C(y) = \frac{\sum_i 1[\hat Y_i = y]\, C_i}{\sum_i C_i}

    and the answer is the y with the largest. With equal confidences it is :func:`consistency`.

    Args:
        answers: Which answer each is, int64 (…, M), below 0 where it could not be read.
        confidences: 0 to 1, (…, M); NaN where it could not be read. What lacks either is left out of both sums.

    Returns:
        :class:`Agreed`, each (…); shares in float64 (float32 on MPS), NaN where all confidences are 0.

    Raises:
        ValueError: If the shapes differ or a confidence is out of range.

    Example:
        >>> average_confidence(torch.tensor([0, 1, 1]), torch.tensor([0.9, 0.3, 0.3]))
        Agreed(answer=tensor(0), share=tensor(0.6000, dtype=torch.float64))

    """
    _check_answers(answers)
    if confidences.shape != answers.shape:
        raise ValueError(
            f"`answers` and `confidences` must have one shape, got {tuple(answers.shape)} and "
            f"{tuple(confidences.shape)}."
        )
    if bool(((confidences < 0) | (confidences > 1)).any()):
        out = confidences[(confidences < 0) | (confidences > 1)]
        raise ValueError(f"`confidences` must lie between 0 and 1, got {out.tolist()[:5]}.")
    read = (answers >= 0) & ~confidences.isnan()
    weights = torch.where(read, confidences, 0.0).to(wide_dtype(answers.device))
    return _agreed(torch.where(read, answers, -1), weights, weights.sum(-1))


def consistency_of_chance(options: int, answers: int) -> float:
    r"""Expected :func:`consistency` of answers drawn at random: not 1/K.

    For M independent answers, uniform over K options, with :math:`N_k` how many are k,

    .. math::
        \frac1M E \max_k N_k = \frac1M \sum_{t=0}^{M-1} P(\max_k N_k > t), \quad
        P(\max_k N_k \le t) = \frac{M!}{K^M} [x^M] \Big( \sum_{j=0}^t \frac{x^j}{j!} \Big)^K

    counted in whole numbers, exactly.

    Args:
        options: Number of options K.
        answers: Number of answers M.

    Returns:
        1/K to 1, falling towards 1/K as M grows.

    Raises:
        ValueError: If either is below 1.

    Example:
        >>> [round(consistency_of_chance(k, m), 2) for k, m in [(2, 5), (4, 5), (4, 10), (4, 20), (10, 5)]]
        [0.69, 0.5, 0.42, 0.37, 0.36]

    """
    for name, number in (("options", options), ("answers", answers)):
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, got {number}.")
    return _expected_largest_share(int(options), int(answers))


def option_probabilities(log_probs: Tensor, lengths: Tensor | None = None, prior: Tensor | None = None) -> Tensor:
    r"""Probabilities of the options of a question from the log-probabilities of their texts.

    .. math:: p_k = \operatorname{softmax}_k s_k, \quad s_k = \ell_k, \quad \ell_k / n_k \quad \text{or} \quad
        \ell_k - \log p(\text{option}_k)

    with :math:`\ell_k = \sum \log p(\text{tokens of option } k \mid \text{question})`. The sum prefers short options;
    the mean over tokens and the contrast with the same text without the question do not (Holtzman et al. 2021, arXiv
    2104.08315, for the contrast). The three give different confidences: say which.

    Args:
        log_probs: Summed over the tokens of each option, in nats, (…, K). −inf where there is no such option: its
            probability is 0.
        lengths: Tokens of each option, (…, K), for the mean.
        prior: Log-probability of each option without the question, in nats, (…, K), for the contrast.

    Returns:
        (…, K), at least float32; NaN where no option is possible.

    Raises:
        ValueError: If the shapes differ, both are given, or a length below 1 or a prior that is not finite belongs to
            an option that is possible.

    Example:
        >>> found = option_probabilities(torch.tensor([-2.0, -4.0]), lengths=torch.tensor([1, 2]))
        >>> [round(one, 2) for one in found.tolist()]
        [0.5, 0.5]

    """
    if log_probs.ndim < 1:
        raise ValueError(f"`log_probs` must be (…, K), got shape {tuple(log_probs.shape)}.")
    if lengths is not None and prior is not None:
        raise ValueError("Give `lengths` or `prior`, not both: the mean over tokens or the contrast.")
    for name, other in (("lengths", lengths), ("prior", prior)):
        if other is not None and other.shape != log_probs.shape:
            raise ValueError(
                f"`{name}` must have the shape of `log_probs`, {tuple(log_probs.shape)}, got {tuple(other.shape)}."
            )
    scores = as_float(log_probs)
    possible = scores != -torch.inf
    if lengths is not None:
        if bool((possible & (lengths < 1)).any()):
            raise ValueError(f"`lengths` must be at least 1, got {lengths[possible & (lengths < 1)].tolist()[:5]}.")
        scores = torch.where(possible, scores / torch.where(possible, lengths, 1), -torch.inf)
    if prior is not None:
        strange = possible & ~prior.isfinite()
        if bool(strange.any()):
            raise ValueError(f"`prior` must be finite, got {prior[strange].tolist()[:5]}.")
        scores = torch.where(possible, scores - torch.where(possible, as_float(prior), 0.0), -torch.inf)
    return scores.softmax(-1)


def p_true(yes: Tensor, no: Tensor) -> Tensor:
    r"""Probability that a model calls an answer correct, of the two words it may say (Kadavath et al. 2022).

    .. math:: p(\text{True}) = \frac{p(\text{yes})}{p(\text{yes}) + p(\text{no})}

    (arXiv 2207.05221), after a question such as "Is this answer correct?".

    Args:
        yes: Log-probability or logit of "yes", in nats, any shape. With several spellings, such as one with a space
            before it, ``logsumexp`` over them first, of both words.
        no: The same of "no".

    Returns:
        0 to 1, of their shape, at least float32; NaN where neither can be said.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> round(float(p_true(torch.tensor(0.3).log(), torch.tensor(0.1).log())), 4)
        0.75

    """
    if yes.shape != no.shape:
        raise ValueError(f"`yes` and `no` must have one shape, got {tuple(yes.shape)} and {tuple(no.shape)}.")
    return (as_float(yes) - as_float(no)).sigmoid()


def distinct_levels(confidences: Tensor, mask: Tensor | None = None) -> Tensor:
    """How many different values there are: stated confidences and word scores are rounded to few.

    Few levels leave much of an order to chance, and bins of equally many predictions tie.

    Args:
        confidences: Any values, (…, N); NaN are left out.
        mask: Which of them count, bool (…, N); all by default.

    Returns:
        int64 (…).

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> int(distinct_levels(torch.tensor([0.9, 0.8, 0.9, torch.nan])))
        2

    """
    if confidences.ndim < 1:
        raise ValueError(f"`confidences` must be (…, N), got shape {tuple(confidences.shape)}.")
    if mask is not None and mask.shape != confidences.shape:
        raise ValueError(
            f"`mask` must have the shape of `confidences`, {tuple(confidences.shape)}, got {tuple(mask.shape)}."
        )
    counts = ~confidences.isnan() if mask is None else mask.bool() & ~confidences.isnan()
    wide = (
        confidences.detach().to(wide_dtype(confidences.device)) if not confidences.is_floating_point() else confidences
    )
    # Those left out become NaN, which comes last and is no level.
    rows = torch.where(counts, wide, torch.nan).sort(-1).values
    new = torch.ones_like(rows, dtype=torch.bool)
    new[..., 1:] = rows[..., 1:] != rows[..., :-1]
    return (new & ~rows.isnan()).sum(-1)


def _agreed(answers: Tensor, weights: Tensor, total: Tensor) -> Agreed:
    """The answer with the most weight; of equal ones the first, −1 and NaN where none can be read."""
    wide = wide_dtype(answers.device)
    same = answers.unsqueeze(-1) == answers.unsqueeze(-2)
    mass = (same.to(wide) * weights.to(wide).unsqueeze(-2)).sum(-1)
    most, place = torch.where(answers >= 0, mass, -1.0).max(-1)
    answer = answers.gather(-1, place.unsqueeze(-1)).squeeze(-1).clamp_min(-1)
    return Agreed(answer, torch.where(most >= 0, most / total, torch.nan))


@lru_cache(maxsize=256)
def _expected_largest_share(options: int, answers: int) -> float:
    total = options**answers
    # Sequences of answers in which no option comes more than t times, for each t.
    within = sum(_power([1] * (t + 1), options, answers) for t in range(answers))
    return float(Fraction(answers * total - within, answers * total))


def _power(series: list[int], exponent: int, degree: int) -> int:
    """The coefficient of x^degree / degree! in a power of Σ series[j] x^j / j!."""
    base = series + [0] * (degree + 1 - len(series))
    found = [1] + [0] * degree
    while exponent:
        if exponent & 1:
            found = _product(found, base)
        exponent >>= 1
        if exponent:
            base = _product(base, base)
    return found[degree]


def _product(a: list[int], b: list[int]) -> list[int]:
    """Of two such series: of words over two alphabets, those over both."""
    return [sum(comb(n, j) * a[j] * b[n - j] for j in range(n + 1)) for n in range(len(a))]


def _check_answers(answers: Tensor) -> None:
    if answers.ndim < 1 or answers.shape[-1] < 1:
        raise ValueError(f"`answers` must be (…, M), at least one, got shape {tuple(answers.shape)}.")
    if answers.is_floating_point():
        raise ValueError(f"`answers` must be whole numbers, one for each different answer, got {answers.dtype}.")
