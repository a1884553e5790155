"""Numerical ground that every estimator stands on: which dtype to compute in, and full precision in a product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = [
    "as_float",
    "check_matrix",
    "finite_rows",
    "full_precision",
    "in_range",
    "norms",
    "plogp",
    "power_of_two",
    "wide_dtype",
]

# Squares of such numbers, and sums of many of them, are far from the ends of float32.
_SMALL, _LARGE = 1e-12, 1e12


def wide_dtype(device: torch.device) -> torch.dtype:
    """The dtype for sums: float64, or float32 on devices that have no float64 (MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def as_float(z: Tensor) -> Tensor:
    """The same values in float32, or untouched where they are float64 already."""
    return z if z.dtype in (torch.float32, torch.float64) else z.to(torch.float32)


def check_matrix(name: str, value: Tensor) -> None:
    """Refuse anything but a non-empty (rows, columns) tensor."""
    if value.ndim != 2 or value.shape[0] == 0 or value.shape[1] == 0:
        raise ValueError(f"`{name}` must be a non-empty matrix (rows, columns), got shape {tuple(value.shape)}.")


def finite_rows(z: Tensor) -> Tensor:
    """Which rows of (..., D) hold only finite values that can also be squared and summed: bool (...)."""
    return norms(z).isfinite()


def norms(z: Tensor) -> Tensor:
    """Lengths of the rows of (..., D), in float32 or wider: (...)."""
    norm: Tensor = torch.linalg.vector_norm(z, dim=-1, dtype=torch.promote_types(z.dtype, torch.float32))
    return norm


def power_of_two(largest: Tensor) -> Tensor:
    """A power of two that brings such sizes to between 1/2 and 1, or near it; 1 for 0. Of the shape of ``largest``.

    To multiply by it costs no digit, and what is divided by a length afterwards is the same to the last bit.
    """
    exponent = largest.clamp_min(torch.finfo(torch.float32).tiny).log2().ceil().clamp(-126, 126)
    return torch.where(largest > 0, torch.pow(2.0, -exponent), 1.0)


def in_range(z: Tensor) -> Tensor:
    """Rows of (..., D) of the same directions, scaled so that squares neither overflow nor vanish.

    On the CPU the rows themselves where all of them are of usual size; elsewhere nothing is read back.
    """
    if not z.numel():
        return z
    largest = torch.linalg.vector_norm(z, ord=torch.inf, dim=-1, keepdim=True)
    if z.device.type == "cpu" and bool((((largest > _SMALL) & (largest < _LARGE)) | (largest == 0)).all()):
        return z
    return z * power_of_two(largest)


def plogp(p: Tensor) -> Tensor:
    """p·log p per entry with 0·log 0 = 0."""
    return p * p.clamp_min(torch.finfo(p.dtype).tiny).log()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products in the precision of their operands: neither autocast nor TensorFloat-32.

    Scores are divided by a temperature of about .01, so the three digits that TF32 keeps would be lost entirely.
    """
    precision = torch.get_float32_matmul_precision()
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda" or precision == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
