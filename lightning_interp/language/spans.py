"""Where a part of a text stands among its tokens, whatever tokenizer it is."""

from __future__ import annotations

from lightning_interp.language.continuations import shared_start
from lightning_interp.language.encoding import Tokenizer, raw_ids, start_id, started

__all__ = ["token_span"]


def token_span(
    tokenizer: Tokenizer,
    text: str,
    span: tuple[int, int],
    add_bos: bool | None = None,
    bos_token_id: int | None = None,
) -> tuple[int, int]:
    """The tokens of a text that have characters of a part of it.

    Found by what the text up to the part, and up to its end, shares with the whole, so that the tokenizer need not say
    where its tokens are; one that joins the end of the part with what follows still has the part in it.

    Args:
        tokenizer: See :func:`~lightning_interp.tasks.encode_sentences`.
        text: The whole text.
        span: Where the part begins and ends in it, in characters.
        add_bos: Whether the start token is put in front; ``None`` does so where there is one.
        bos_token_id: The start token; the tokenizer's own by default.

    Returns:
        The first of the tokens, and the one behind the last.

    Raises:
        ValueError: If the part has no token of its own.

    Example:
        >>> letters = lambda text: [ord(letter) - 96 for letter in text]
        >>> token_span(letters, "abcde", (1, 3), bos_token_id=0)
        (2, 4)

    """
    start = start_id(tokenizer, add_bos, bos_token_id)
    texts = [text, text[: span[0]].rstrip(" "), text[: span[1]]]
    # Some tokenizers take no empty text.
    whole, before, until = (started(raw_ids(tokenizer, [one])[0] if one else [], start) for one in texts)
    first, end = shared_start(before, whole), shared_start(until, whole)
    if end < len(until):
        end += 1  # what follows is joined with its last token
    if first >= min(end, len(whole)):
        raise ValueError(f"the tokenizer gives {text[slice(*span)]!r} no token of its own in {text!r}.")
    return first, min(end, len(whole))
