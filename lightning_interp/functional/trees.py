"""Dependency trees as tensors, and how well distances and depths between words reconstruct them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "TreeScores",
    "chain_scores",
    "minimum_spanning_tree",
    "tree_depths",
    "tree_distances",
    "tree_scores",
]

_LENGTHS = (5, 50)


class TreeScores(NamedTuple):
    """How well predicted distances and depths order the words of gold trees; every entry a number."""

    uuas: float
    """Undirected unlabelled attachment score: share of the trees' edges in the minimum spanning trees, 0 to 1."""
    dspr: float
    """Spearman's correlation of distances, −1 to 1: per word, averaged per length of sentence, then over lengths."""
    root_accuracy: float
    """Share of sentences whose shallowest word is the root, 0 to 1."""
    nspr: float
    """Spearman's correlation of depths, −1 to 1: per sentence, averaged per length, then over lengths."""


def tree_depths(heads: Tensor) -> Tensor:
    """Number of edges from each word to the root.

    Args:
        heads: Place of each word's head, counted from 0, −1 for the root; integers (n,).

    Returns:
        int64 (n,).

    Raises:
        ValueError: If there is not one root, a head is no place in the sentence, or heads run in a circle.

    Example:
        >>> tree_depths(torch.tensor([1, -1, 3, 1]))
        tensor([1, 0, 2, 1])

    """
    return _ancestors(heads).sum(1) - 1


def tree_distances(heads: Tensor) -> Tensor:
    """Number of edges between each two words.

    With A_ia = 1 where word a is i or above it, the words above both i and j are (AAᵀ)_ij, so that the distance is
    (AAᵀ)_ii + (AAᵀ)_jj − 2(AAᵀ)_ij.

    Args:
        heads: Place of each word's head, counted from 0, −1 for the root; integers (n,).

    Returns:
        int64 (n, n), symmetric.

    Raises:
        ValueError: As :func:`tree_depths`.

    Example:
        >>> tree_distances(torch.tensor([1, -1, 3, 1]))
        tensor([[0, 1, 3, 2],
                [1, 0, 2, 1],
                [3, 2, 0, 1],
                [2, 1, 1, 0]])

    """
    above = _ancestors(heads).double()
    shared = above @ above.T
    own = shared.diagonal()
    return (own[:, None] + own - 2 * shared).long()


def _ancestors(heads: Tensor) -> Tensor:
    """Which words are above which, each also above itself: int64 (n, n)."""
    n = len(heads)
    if heads.ndim != 1 or n == 0 or heads.is_floating_point():
        raise ValueError(f"`heads` must be integers of shape (words,), got {heads.dtype} {tuple(heads.shape)}.")
    roots = (heads == -1).nonzero().flatten().tolist()
    if len(roots) != 1:
        raise ValueError(f"`heads` must have one root, marked by -1, got {len(roots)} in {heads.tolist()}.")
    if int(heads.min()) < -1 or int(heads.max()) >= n:
        raise ValueError(f"`heads` must be places from 0 to {n - 1}, or -1 for the root, got {heads.tolist()}.")
    above = torch.zeros(n, n, dtype=torch.long, device=heads.device)
    words = torch.arange(n, device=heads.device)
    place = words
    up = torch.where(heads < 0, words, heads.long())
    for _ in range(n):
        above[words, place] = 1
        place = up[place]
    if bool((place != roots[0]).any()):
        raise ValueError(f"`heads` must form a tree; they run in a circle: {heads.tolist()}.")
    return above


def minimum_spanning_tree(distances: Tensor, mask: Tensor | None = None) -> Tensor:
    """The edges of the minimum spanning trees of complete graphs, by Prim's algorithm from the first node.

    Among equal distances the node that comes first is taken.

    Args:
        distances: Symmetric, shape (n, n), or (B, n, n) for several graphs at once.
        mask: Which nodes a graph has, bool (n,) or (B, n); all by default.

    Returns:
        For each node the one it was attached to when it was taken in, −1 for the first and for nodes that the graph
        lacks: int64 (n,) or (B, n). Edges are the pairs of a node and what is given for it. Cost: n² a graph.

    Raises:
        ValueError: If a matrix is not square, or the mask has another shape.

    Example:
        >>> x = torch.tensor([0.0, 3.0, 1.0])
        >>> minimum_spanning_tree((x[:, None] - x).abs())
        tensor([-1,  2,  0])

    """
    if distances.ndim not in (2, 3) or distances.shape[-1] != distances.shape[-2] or not distances.shape[-1]:
        raise ValueError(f"`distances` must be (n, n) or (B, n, n), got shape {tuple(distances.shape)}.")
    if mask is not None and mask.shape != distances.shape[:-1]:
        raise ValueError(f"`mask` must be {tuple(distances.shape[:-1])}, got shape {tuple(mask.shape)}.")
    several = distances if distances.ndim == 3 else distances[None]
    size, n = several.shape[:2]
    here = torch.ones(size, n, dtype=torch.bool, device=several.device)
    here = here if mask is None else mask.view(size, n).clone()
    rows = torch.arange(size, device=several.device)
    attached = torch.full((size, n), -1, device=several.device)
    nearest = torch.full((size, n), -1, device=several.device)
    gap = several.new_full((size, n), math.inf) if several.is_floating_point() else torch.full((size, n), math.inf)
    # The first node is taken in at no cost; -1 is nearest to it.
    first = here.int().argmax(1)
    gap[rows, first] = -math.inf
    for _ in range(n):
        node = torch.where(here, gap, math.inf).argmin(1)
        ok = here[rows, node]  # a graph may have run out of nodes
        attached[rows, node] = torch.where(ok, nearest[rows, node], attached[rows, node])
        here[rows, node] = False
        closer = here & ok[:, None] & (several[rows, node] < gap)
        gap = torch.where(closer, several[rows, node].to(gap), gap)
        nearest = torch.where(closer, node[:, None], nearest)
    return attached if distances.ndim == 3 else attached[0]


def tree_scores(
    distances: Sequence[Tensor],
    depths: Sequence[Tensor],
    heads: Sequence[Tensor],
    keep: Sequence[Tensor] | None = None,
    lengths: tuple[int, int] = _LENGTHS,
) -> TreeScores:
    """UUAS, DSpr, root accuracy and NSpr of predicted distances and depths (Hewitt & Manning 2019, N19-1419).

    All of them as in the paper's code. UUAS is over the edges of all sentences between words that are kept: those of
    the tree, and where words hang on one that is not kept, those of the minimum spanning tree of gold distances between
    kept words (Kruskal's, of equal distances the first pair of words first). Root accuracy is over all sentences with a
    kept word: the shallowest kept word has to be the root, which it cannot where the root is not kept. The correlations
    are over all words, those that are not kept too, each word's with its distance to itself. A prediction that is the
    same for all words has no order, and counts as correlation 0.

    Args:
        distances: Of each sentence, shape (n, n), smaller for closer words; in any units.
        depths: Of each sentence, shape (n,), smaller for words nearer the root.
        heads: Of each sentence, as in :func:`tree_depths`.
        keep: Of each sentence, bool (n,): false for punctuation. All by default.
        lengths: The shortest and the longest sentence for the correlations, in words.

    Returns:
        :class:`TreeScores`; NaN where there is nothing to score: no edge, or no sentence of such a length.

    Raises:
        ValueError: If the numbers of sentences or words differ, or predictions are NaN.

    Example:
        >>> heads = torch.tensor([1, 2, -1, 4, 2])
        >>> gold = tree_distances(heads), tree_depths(heads)
        >>> tree_scores([gold[0]], [gold[1]], [heads])
        TreeScores(uuas=1.0, dspr=1.0, root_accuracy=1.0, nspr=1.0)

    """
    keep = [torch.ones(len(one), dtype=torch.bool) for one in heads] if keep is None else keep
    if not len(distances) == len(depths) == len(heads) == len(keep):
        sizes = (len(distances), len(depths), len(heads), len(keep))
        raise ValueError(f"`distances`, `depths`, `heads` and `keep` must be of as many sentences, got {sizes}.")
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, one in enumerate(heads):
        shapes = (tuple(distances[place].shape), tuple(depths[place].shape), tuple(keep[place].shape))
        n = len(one)
        if shapes != ((n, n), (n,), (n,)):
            raise ValueError(
                f"sentence {place} has {n} heads, but `distances`, `depths` and `keep` have the shapes {shapes}."
            )
        by_length[n].append(place)

    edges = right = rooted = roots = 0
    distance_means, depth_means = [], []
    for n, places in sorted(by_length.items()):
        d, h = (torch.stack([one[place].double().cpu() for place in places]) for one in (distances, depths))
        if bool(d.isnan().any() | h.isnan().any()):
            raise ValueError(f"predictions for sentences of {n} words have NaN.")
        gold_heads, kept = (torch.stack([one[place].cpu() for place in places]) for one in (heads, keep))
        gold = torch.stack([tree_distances(one) for one in gold_heads])
        words = torch.arange(n)
        ends = torch.where(gold_heads < 0, words, gold_heads)
        edge = (gold_heads >= 0) & kept & kept.gather(1, ends)
        edges += int((kept.sum(1) - 1).clamp_min(0).sum())
        found = minimum_spanning_tree(d, kept)
        linked = torch.zeros(len(places), n, n, dtype=torch.bool)
        linked.scatter_(2, found.clamp(min=0)[:, :, None], (found >= 0)[:, :, None])
        linked = linked | linked.mT
        # Where words hang on one that is not kept, edges of the tree between kept words are too few.
        whole = edge.sum(1) >= kept.sum(1) - 1
        right += int((linked.gather(2, ends[:, :, None]).squeeze(2) & edge)[whole].sum())
        for place in (~whole).nonzero().flatten().tolist():
            right += sum(bool(linked[place, i, j]) for i, j in _shortest_edges(gold[place], kept[place]))

        root = gold_heads == -1
        candidates = kept.any(1)
        shallowest = torch.where(kept, h, math.inf).argmin(1)
        rooted += int((root.gather(1, shallowest[:, None]).squeeze(1) & candidates).sum())
        roots += int(candidates.sum())
        if lengths[0] <= n <= lengths[1]:
            gold_depths = torch.stack([tree_depths(one) for one in gold_heads])
            distance_means.append(float(_row_spearman(d, gold.double()).mean()))
            depth_means.append(float(_row_spearman(h, gold_depths.double()).mean()))
    return TreeScores(
        uuas=right / edges if edges else math.nan,
        dspr=_mean(distance_means),
        root_accuracy=rooted / roots if roots else math.nan,
        nspr=_mean(depth_means),
    )


def _shortest_edges(distances: Tensor, kept: Tensor) -> list[tuple[int, int]]:
    """The minimum spanning tree of some words by Kruskal's algorithm, of equal distances the first pair first."""
    words = kept.nonzero().flatten().tolist()
    pairs = sorted(itertools.combinations(words, 2), key=lambda pair: float(distances[pair]))
    group = {word: word for word in words}
    edges = []
    for i, j in pairs:
        if group[i] != group[j]:
            edges.append((i, j))
            old, new = group[j], group[i]
            group = {word: new if one == old else one for word, one in group.items()}
    return edges


def chain_scores(
    heads: Sequence[Tensor], keep: Sequence[Tensor] | None = None, lengths: tuple[int, int] = _LENGTHS
) -> TreeScores:
    """Scores of what knows the order of words and nothing else: distance |i − j|, depth i.

    Every word is linked to its neighbour, and the first one is the root. The level that a probe has to surpass.

    Args:
        heads: Of each sentence, as in :func:`tree_depths`.
        keep: Of each sentence, bool (n,): false for punctuation. All by default.
        lengths: The shortest and the longest sentence for the correlations, in words.

    Raises:
        ValueError: As :func:`tree_scores`.

    Example:
        >>> chain_scores([torch.tensor([1, -1, 3, 1])]).uuas
        0.6666666666666666

    """
    places = [torch.arange(len(one)) for one in heads]
    return tree_scores([(one[:, None] - one).abs() for one in places], places, heads, keep, lengths)


def _row_spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's correlation of each row of (..., n) with that of the other; 0 where a row is constant."""
    a, b = _centred_ranks(x), _centred_ranks(y)
    size = a.norm(dim=-1) * b.norm(dim=-1)
    return torch.where(size > 0, (a * b).sum(-1) / size.clamp(min=1e-300), 0.0)


def _centred_ranks(x: Tensor) -> Tensor:
    ordered = x.sort(dim=-1).values
    below = torch.searchsorted(ordered, x.contiguous())
    up_to = torch.searchsorted(ordered, x.contiguous(), right=True)
    # Equal values share the mean of their ranks, below + 1 to up_to.
    return (below + up_to + 1).double() / 2 - (x.shape[-1] + 1) / 2


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
