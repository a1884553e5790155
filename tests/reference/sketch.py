"""CountSketch and the hashed sample with Python's own whole numbers, one coordinate at a time."""

from __future__ import annotations

from reference.counter_noise import mixed


def sketch(values: list[float], buckets: int, offset: int, seed: int) -> list[float]:
    sums = [0.0] * buckets
    for position, value in enumerate(values, offset):
        hashed = mixed(position, seed)
        bucket = (hashed >> 33) * buckets // 2**31
        sums[bucket] += value if (hashed >> 32) % 2 else -value
    return sums


def sample(numel: int, rate: float, offset: int, seed: int) -> list[int]:
    return [j for j in range(numel) if mixed(offset + j, seed) % 2**32 < round(rate * 2**32)]
