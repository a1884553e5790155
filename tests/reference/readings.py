"""Random readings, as sequences of words with their vectors, and every value that a structure metric owes for them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference.entropy import Array, binned_codes, entropy, soft_codes, spread
from reference.ngrams import label_lists
from reference.structure import Labels, measures, plane
from reference.units import unit_of_rows

NESTED = {"bigram": "token", "trigram": "token"}
WORDS = ("token", "bigram", "trigram", "flat_bigram", "flat_trigram", "next_token")


@dataclass
class Reading:
    """B sequences of T positions; ``None`` for words that do not count."""

    words: list[list[int | None]]
    z: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Further integer labels by name, (B,), (B, T) or (B, T, M), negative where there is none."""

    @property
    def mask(self) -> Tensor:
        """Which positions count, (B, T)."""
        return torch.tensor([word is not None for words in self.words for word in words], dtype=torch.bool).view(
            self.shape
        )

    @property
    def tokens(self) -> Tensor:
        """Words as ids, with a real id under padding too, so that only the mask tells."""
        ids = [1 if word is None else word for words in self.words for word in words]
        return torch.tensor(ids, dtype=torch.long).view(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T)."""
        return self.z.shape[0], self.z.shape[1]

    @property
    def labels(self) -> dict[str, Tensor]:
        """What ``update`` is given."""
        return {"token": self.tokens, **self.extra}

    def rows(self) -> Array:
        """Vectors of the positions that count, in the order of reading, float64."""
        return self.z[self.mask].double().numpy()

    def sequence_of(self) -> list[int]:
        """Sequence of every row."""
        return [b for b, words in enumerate(self.words) for word in words if word is not None]

    def label_lists(self, name: str) -> Labels:
        """Labels of every row as lists."""
        if name in self.extra:
            value = self.extra[name]
            found: list[list[Hashable | None]] = []
            for b, words in enumerate(self.words):
                for t, word in enumerate(words):
                    if word is None:
                        continue
                    here = value[b] if value.ndim == 1 else value[b, t]
                    found.append([int(label) if label >= 0 else None for label in here.reshape(-1)])
            return found
        return label_lists(self.words, name)

    def units(self, name: str, parents: Sequence[Hashable | None] | None = None) -> list[Hashable] | None:
        """What the labels of every row belong to; ``None`` for its own."""
        if name not in self.extra:
            return None
        words = [word for words in self.words for word in words if word is not None]
        return unit_of_rows(self.label_lists(name), self.sequence_of(), words, parents)[1]

    def part(self, samples: Sequence[int]) -> Reading:
        """Some of the sequences."""
        chosen = list(samples)
        return Reading(
            [self.words[b] for b in chosen], self.z[chosen], {name: value[chosen] for name, value in self.extra.items()}
        )

    def feed(self, metric: Any, batches: Sequence[Sequence[int]] | None = None, positions: bool = True) -> Any:
        """Update a metric with batches of samples, all in one by default."""
        for batch in [range(len(self.words))] if batches is None else batches:
            mine = self.part(batch)
            where = torch.tensor(list(batch), dtype=torch.long) if positions else None
            metric.update(mine.z, mask=mine.mask, labels=mine.labels, positions=where)
        return metric


def random_reading(
    seed: int,
    sequences: int = 12,
    length: int = 6,
    dim: int = 4,
    vocabulary: int = 4,
    dtype: torch.dtype = torch.float32,
    effect: float = 0.0,
    padding: bool = True,
    holes: bool = False,
) -> Reading:
    """Words at random; vectors at random, moved by ``effect`` towards the direction of a word and of its neighbours."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, vocabulary, (sequences, length))
    counts = np.ones((sequences, length), dtype=bool)
    if padding:
        for b in range(sequences):
            counts[b, rng.integers(1, length + 1) :] = False
    if holes:
        counts &= rng.random((sequences, length)) > 0.15
    z = rng.standard_normal((sequences, length, dim))
    of_word, of_pair = rng.standard_normal((2, vocabulary, dim))
    z += effect * (of_word[ids] + np.roll(of_pair[ids], 1, axis=1))
    words = [[int(ids[b, t]) if counts[b, t] else None for t in range(length)] for b in range(sequences)]
    extra = {
        "tag": torch.from_numpy(rng.integers(-1, 3, (sequences, length))),
        "language": torch.from_numpy(rng.integers(0, 2, sequences)),
        "marks": torch.from_numpy(rng.integers(-2, 3, (sequences, length, 3))),
    }
    return Reading(words, torch.from_numpy(z).to(dtype), extra)


def random_split(seed: int, samples: int, most: int) -> list[list[int]]:
    """All samples in a random order, cut at random; some batches are empty."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(samples).tolist()
    cuts = sorted(rng.integers(0, samples + 1, rng.integers(0, most + 1)).tolist())
    return [order[a:b] for a, b in zip([0, *cuts], [*cuts, samples], strict=True)]


def expected_values(
    reading: Reading,
    labels: Sequence[str] = (),
    codes: Array | None = None,
    prefix: str = "",
    parents: Mapping[str, str] | None = None,
    min_count: int = 1,
    average: str = "frequency",
    correction: str | None = None,
    floor_corrected: bool = False,
    information_plane: Sequence[str] | None = None,
) -> dict[str, float]:
    """Every key of a structure metric that does not depend on chance, from coded rows."""
    assert codes is not None
    unit = math.log(codes.shape[2])
    owner = {**NESTED, **(parents or {})}
    floor = math.fsum(entropy(row[0]) for row in codes) / len(codes) / unit
    values = {f"{prefix}information": spread(codes, correction) / unit, "rows": float(len(codes)), "nonfinite": 0.0}
    if prefix == "":
        values["floor"] = floor
    if floor_corrected:
        values["information"] -= floor
    for name in labels:
        above = None
        if name in owner:
            above = [mine[0] for mine in reading.label_lists(owner[name])]
        found = measures(
            codes, reading.label_lists(name), above, min_count, average, correction, units=reading.units(name, above)
        )
        if floor_corrected:
            for measure in ("information", "variation", "parent_variation"):
                found[measure] -= found["floor"]
        del found["floor"]
        if above is None:
            del found["parent_variation"]
        for measure, value in found.items():
            key = f"{measure}/{name}" if measure in ("coverage", "num_labels") else f"{prefix}{measure}/{name}"
            values[key] = value
    if information_plane:
        first, second = (reading.label_lists(name) for name in information_plane)
        units = [reading.units(name) for name in information_plane]
        values |= {f"{prefix}{name}": value for name, value in plane(codes, first, second, min_count, units).items()}
    return values


def soft_rows(reading: Reading, points: Tensor, temperature: float, center: bool = False) -> Array:
    """Coded rows of the soft estimator."""
    z = reading.rows()
    return soft_codes(z - z.mean(0) if center else z, points.double().numpy(), temperature)


def binned_rows(reading: Reading, bins: int, bounds: tuple[float, float] | None = None) -> Array:
    """Coded rows of the binned estimator."""
    z = reading.rows()
    dim = z.shape[1]
    return binned_codes(z, bins, None if bounds is None else ([bounds[0]] * dim, [bounds[1]] * dim))


def differences(found: Mapping[str, Any], expected: Mapping[str, float], tolerance: float = 1e-6) -> Iterator[str]:
    """What differs by more than the tolerance, in words; of a ratio, by more than its terms within it allow."""
    for key, value in expected.items():
        if key not in found:
            yield f"{key} is missing"
            continue
        here = float(found[key])
        below = expected.get(key.replace("optimality", "complexity"), math.nan) if "optimality" in key else math.nan
        if abs(below) <= tolerance:
            continue  # next to 0 a ratio has any value, or none
        allowed = tolerance if math.isnan(below) else max(tolerance, tolerance * (1 + abs(value)) / abs(below))
        if math.isnan(here) != math.isnan(value) or abs(here - value) > allowed:
            yield f"{key}: {here!r} instead of {value!r}"


def assert_values(found: Mapping[str, Any], expected: Mapping[str, float], tolerance: float = 1e-6) -> None:
    """Every expected key is there with its value."""
    wrong = list(differences(found, expected, tolerance))
    assert not wrong, "\n".join(wrong)
