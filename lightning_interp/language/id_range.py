"""Ids that a model has no embedding for: a tokenizer that is not the model's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["check_ids", "check_predicted", "told_ids"]


def check_ids(model: nn.Module, encoded: Iterable[Tensor]) -> None:
    """Compare ids with the rows of the model's embedding, before anything is run.

    It is what ``get_input_embeddings`` gives, as models of transformers have it; of others the largest ``nn.Embedding``
    there is, so that a vocabulary smaller than that is not noticed before :func:`told_ids` sees it.

    Raises:
        ValueError: If an id is beyond it. It names the id and the rows.

    Example:
        >>> import torch
        >>> try:
        ...     check_ids(nn.Sequential(nn.Embedding(12, 4)), [torch.tensor([1, 53])])
        ... except ValueError as error:
        ...     print(error)
        the tokenizer gives ids up to 53, but the largest embedding of Sequential has 12 rows: they do not go together.

    """
    own = _input_embedding(model)
    rows = own if own is not None else max((len(one.weight) for one in _embeddings(model).values()), default=0)
    highest = max((int(ids.max()) for ids in encoded if len(ids)), default=-1)
    if rows and highest >= rows:
        which = "embedding" if own is not None else "largest embedding"
        raise ValueError(_told(highest, f"the {which} of {type(model).__name__} has {rows} rows"))


def check_predicted(ids: Tensor, logits: Tensor, name: str) -> None:
    """See that logits (…, V) are of every id of a text.

    Args:
        ids: The text.
        logits: What the model gave of it.
        name: Dotted name of the model in the module; ``""`` for the module.

    Raises:
        ValueError: If one is beyond them.

    """
    highest = int(ids.max())
    if highest >= logits.shape[-1]:
        raise ValueError(
            f"the text has the id {highest}, and the logits of {name or 'the module'!r} are of {logits.shape[-1]} "
            "tokens: they do not predict it; name the language model with `model`."
        )


@contextmanager
def told_ids(model: nn.Module, ids: Tensor) -> Iterator[None]:
    """Within, the model is run on ids; that one is out of range is told as what it is.

    Raises:
        ValueError: If the model raised ``IndexError`` and the ids are beyond one of its embeddings.

    """
    try:
        yield
    except IndexError as error:
        sizes = {name: len(one.weight) for name, one in _embeddings(model).items()}
        highest = int(ids.max())
        if sizes and highest >= min(sizes.values()):
            found = f"the embeddings of {type(model).__name__} have the rows {sizes}"
            raise ValueError(_told(highest, found)) from error
        raise


def _input_embedding(model: nn.Module) -> int | None:
    try:
        return len(model.get_input_embeddings().weight)  # type: ignore[operator]
    except Exception:  # there is none, or the class leaves it out
        return None


def _embeddings(model: nn.Module) -> dict[str, nn.Embedding]:
    return {name: one for name, one in model.named_modules() if isinstance(one, nn.Embedding)}


def _told(highest: int, rows: str) -> str:
    return f"the tokenizer gives ids up to {highest}, but {rows}: they do not go together."
