"""What a picture says over the curves or the map of a measure."""

from __future__ import annotations

from lightning_interp.reporting.measure_words import parse_key

__all__ = ["measure_title"]


def measure_title(measure: str) -> str:
    """A measure at any site, in words; one of somebody else's stays as it is.

    Args:
        measure: The key without its site.

    Example:
        >>> measure_title("regularity_above_chance/token"), measure_title("rankme"), measure_title("my_norm")
        ('regularity, above chance, of token', 'RankMe', 'my_norm')

    """
    name, *parts = measure.split("/")
    found = parse_key(f"{name}/<site>")
    title = name if found is None else found.title
    if not parts:
        return title
    return f"{title}, of {'/'.join(parts)}" if "," in title else f"{title} of {'/'.join(parts)}"
