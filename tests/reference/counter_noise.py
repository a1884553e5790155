"""Noise by counter with Python's own whole numbers, one number at a time."""

from __future__ import annotations

import math

_WORD = 1 << 64
_STEP = 0x9E3779B97F4A7C15


def splitmix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % _WORD
    return x ^ (x >> 31)


def mixed(counter: int, seed: int) -> int:
    salt = splitmix((seed + 1) * _STEP % _WORD)
    return splitmix((counter * _STEP + salt) % _WORD)


def uniform(hashed: int, bits: int) -> float:
    return ((hashed >> bits) % (1 << 24) + 0.5) / (1 << 24)


def splitmix_uniform(counter: int, seed: int) -> float:
    return uniform(mixed(counter, seed), 40)


def splitmix_normal(counter: int, dim: int, seed: int) -> list[float]:
    cosines, sines = [], []
    for pair in range(1, (dim + 1) // 2 + 1):
        hashed = splitmix((mixed(counter, seed) + pair * _STEP) % _WORD)
        radius = math.sqrt(-2 * math.log(uniform(hashed, 40)))
        angle = 2 * math.pi * uniform(hashed, 16)
        cosines.append(radius * math.cos(angle))
        sines.append(radius * math.sin(angle))
    return (cosines + sines)[:dim]
