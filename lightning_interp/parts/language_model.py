"""Which language model in the user's module is read, and how text becomes its ids."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lightning_interp.batches.forward import checked_forward
from lightning_interp.language.encoding import Tokenizer, padding_id
from lightning_interp.language.likelihood import FORWARD_TAKES, Forward
from lightning_interp.tasks.loading import find_language_model, find_tokenizer

__all__ = ["LanguageModel", "one_language_model"]


@dataclass(frozen=True)
class LanguageModel:
    """A language model inside the module that is trained, said once for all callbacks that read sentences of their own.

    Args:
        tokenizer: What :func:`~lightning_interp.tasks.encode_sentences` takes; the dotted name of an attribute of the
            module; ``"grammar"`` for the words of the built-in grammar; or a name or folder for ``transformers``.
        model: Dotted name of the model in the module that is called with the ids; ``""`` for the module itself.
        forward: Calls it in its stead: ``forward(model, input_ids, attention_mask)``, logits (B, T, V) where these are
            needed.
        batch_tokens: Tokens in a forward pass, padding included.
        special_tokens: ``"bos"`` puts a start token in front where the tokenizer has one, as a causal model was trained
            with; ``"own"`` puts what the tokenizer puts itself, such as ``[CLS]`` and ``[SEP]``; ``"none"`` nothing.
        bos_token_id: The start token; the tokenizer's own by default. That of a chat model is no start of a sentence.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If ``forward`` takes something else.

    Example:
        >>> LanguageModel(tokenizer="grammar", model="lm").batch_tokens
        4096

    """

    tokenizer: str | Path | Tokenizer = "tokenizer"
    model: str = ""
    forward: Forward | None = None
    batch_tokens: int = 4096
    special_tokens: Literal["bos", "own", "none"] = "bos"
    bos_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ValueError(f"`batch_tokens` must be at least 1, got {self.batch_tokens}.")
        if self.special_tokens not in ("bos", "own", "none"):
            raise ValueError(f"`special_tokens` must be 'bos', 'own' or 'none', got {self.special_tokens!r}.")
        checked_forward(self.forward, FORWARD_TAKES)

    def starts_with_bos(self, add_bos: bool | None = None) -> bool | None:
        """What :func:`~lightning_interp.tasks.encode_sentences` is told of the start token of a causal model.

        Args:
            add_bos: What an argument of a callback says beside: ``True`` for an error where there is none.

        Raises:
            ValueError: If the two contradict each other, or the tokenizer would put what a causal model never saw.

        Example:
            >>> LanguageModel().starts_with_bos(), LanguageModel(special_tokens="none").starts_with_bos()
            (None, False)

        """
        if self.special_tokens == "own":
            raise ValueError("`special_tokens='own'` is not for causal models, which score with 'bos' or 'none'.")
        if self.special_tokens == "none" and add_bos:
            raise ValueError("`add_bos=True` contradicts `special_tokens='none'`.")
        return False if self.special_tokens == "none" else add_bos

    def find(self, module: nn.Module) -> tuple[nn.Module, Tokenizer, int]:
        """The model in a module, its tokenizer, and the id of padding.

        Raises:
            ValueError: If a name matches nothing.

        """
        tokenizer = find_tokenizer(self.tokenizer, module)
        return find_language_model(self.model, module), tokenizer, padding_id(tokenizer)


def one_language_model(given: LanguageModel | None, **flat: Any) -> LanguageModel:
    """The language model of a callback whose arguments can say it as a whole or one by one.

    Args:
        given: As a whole.
        flat: One by one, by the names of its fields.

    Raises:
        ValueError: If it is said both ways.

    Example:
        >>> one_language_model(None, model="lm").model
        'lm'
        >>> one_language_model(LanguageModel(), model="lm")
        Traceback (most recent call last):
        ValueError: `model='lm'` is said beside `lm`: put it into LanguageModel(…, model=…).

    """
    if given is None:
        return LanguageModel(**flat)
    for field in fields(LanguageModel):
        name = field.name
        if name in flat and flat[name] != field.default:
            raise ValueError(f"`{name}={flat[name]!r}` is said beside `lm`: put it into LanguageModel(…, {name}=…).")
    return given
