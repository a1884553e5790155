"""What logits say of the next token, one position after another, from lists."""

from __future__ import annotations

import math
from collections.abc import Sequence


def row(logits: Sequence[float], target: int) -> tuple[float, float, int]:
    """Loss, entropy and top token."""
    largest = max(logits)
    norm = math.fsum(math.exp(z - largest) for z in logits)
    p = [math.exp(z - largest) / norm for z in logits]
    entropy = -math.fsum(one * math.log(one) for one in p if one > 0)
    return math.log(norm) + largest - logits[target], entropy, list(logits).index(largest)


def dealt(one: Sequence[int], other: Sequence[int]) -> float:
    """Agreement over all ways to put a token of the one beside one of the other."""
    return sum(a == b for a in one for b in other) / (len(one) * len(other))


def frequencies(targets: Sequence[int]) -> float:
    """Mean loss where each token is predicted as often as it is there."""
    return -math.fsum(math.log(targets.count(one) / len(targets)) for one in targets) / len(targets)
