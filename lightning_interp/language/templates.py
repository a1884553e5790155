"""Templates with named places, filled by texts that may hold braces themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["check_places", "filled_template"]


def filled_template(template: str, **parts: str) -> str:
    """The template with each ``{name}`` replaced.

    Example:
        >>> filled_template("Q: {question} A: {option}", question="{x}?", option="y")
        'Q: {x}? A: y'

    """
    return re.sub("|".join(f"{{{name}}}" for name in parts), lambda found: parts[found[0][1:-1]], template)


def check_places(argument: str, template: str, needed: Sequence[str], last: str = "") -> None:
    """See that a template has its places.

    Args:
        argument: What errors call it.
        template: The template.
        needed: Places that it must have.
        last: A place that it must have once, behind the others.

    Raises:
        ValueError: If it lacks one.

    Example:
        >>> check_places("template", "{question} {option}", ["question"], "option")
        >>> check_places("template", "{option}", ["question"], "option")
        Traceback (most recent call last):
        ValueError: `template` must have '{question}' and behind it, once, '{option}', got '{option}'.

    """
    text = str(template)
    before, found, rest = text.partition(f"{{{last}}}") if last else (text, "x", "")
    whole = isinstance(template, str) and all(f"{{{name}}}" in before for name in needed)
    if not (whole and found) or (last and f"{{{last}}}" in rest):
        first = " and ".join(repr(f"{{{name}}}") for name in needed)
        behind = f" and behind it, once, {f'{{{last}}}'!r}" if last else ""
        raise ValueError(f"`{argument}` must have {first}{behind}, got {template!r}.")
