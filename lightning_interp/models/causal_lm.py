"""A language model that learns to predict the next token."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_interp.compat import pl

__all__ = ["CausalLM"]

IGNORED = -100
"""The label of what is not predicted, as in transformers."""


class CausalLM(pl.LightningModule):
    r"""A causal language model and how it is trained: cross-entropy of the next token, without padding, by AdamW.

    ``lm`` is the model, so sites are named ``lm.transformer.h.0`` and so on, and callbacks that run sentences of their
    own find it by ``model="lm"`` and the tokenizer by themselves.

    =================  ==================================================================================
    logged             what it is
    =================  ==================================================================================
    ``train_loss``     nats per predicted token, at every training step
    ``val_loss``       the same, the mean over validation batches weighted by their sentences
    =================  ==================================================================================

    Batches are ids (B, T) with a mask that is 1 at tokens: a dictionary with ``input_ids`` and ``attention_mask``, and
    ``labels`` where other than all tokens are to be predicted (-100 elsewhere); a pair of ids and mask; or ids alone,
    of which those of the tokenizer's padding do not count. Padding stands on the right.

    The learning rate is constant, or with ``warmup`` and ``steps``, at step s counted from 0,

    .. math:: \eta \cdot \min(1, (s + 1) / \text{warmup}) \cdot \max(0.1, 1 - 0.9 \, s / \text{steps})

    Args:
        lm: Gives logits (B, T, V), as a tensor or as an output's ``logits``, from ``input_ids`` and, where its forward
            has a place for it, ``attention_mask``. It is put into training mode, since models come from a file in
            evaluation mode and Lightning leaves them there.
        tokenizer: Its tokenizer, where callbacks look for one.
        lr: η, the highest learning rate; 0 keeps the weights as they are.
        weight_decay: Of AdamW.
        warmup: Over so many steps the rate rises.
        steps: Over so many steps it falls to a tenth; ``None`` leaves it where it is.

    Raises:
        TypeError: If ``lm`` is no module, or its output has no logits.
        ValueError: If ``lr``, ``weight_decay`` or ``warmup`` is negative, or ``steps`` below 1.

    Example:
        >>> from lightning_interp.models import small_gpt2
        >>> from lightning_interp.tasks import WordTokenizer
        >>> words = WordTokenizer(["the", "king", "sleeps"])
        >>> model = CausalLM(small_gpt2(words, width=8, layers=1, heads=2), words)
        >>> ids = torch.tensor([words.encode("the king sleeps")])
        >>> model(ids).shape
        torch.Size([1, 5, 7])
        >>> bool(model.loss(ids) > 0)
        True

    """

    def __init__(
        self,
        lm: nn.Module,
        tokenizer: Any = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup: int = 0,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(lm, nn.Module):
            raise TypeError(f"`lm` is a {type(lm).__name__}; it must be a module that gives logits.")
        if lr < 0:
            raise ValueError(f"`lr` is {lr}; it must not be negative.")
        if weight_decay < 0:
            raise ValueError(f"`weight_decay` is {weight_decay}; it must not be negative.")
        if warmup < 0:
            raise ValueError(f"`warmup` is {warmup}; it must not be negative.")
        if steps is not None and steps < 1:
            raise ValueError(f"`steps` is {steps}; it must be at least 1, or None for a rate that does not fall.")
        self.lm = lm.train()
        self.tokenizer = tokenizer
        self.lr, self.weight_decay, self.warmup, self.steps = lr, weight_decay, warmup, steps

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Ids and their mask, both (B, T) → logits of the next token (B, T, V)."""
        if attention_mask is not None and _takes_mask(self.lm):
            output = self.lm(input_ids=input_ids, attention_mask=attention_mask)
        else:
            output = self.lm(input_ids)
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"{type(self.lm).__name__} gave a {type(output).__name__}; expected logits, or an output with `logits`."
            )
        return logits

    def loss(self, batch: Mapping[str, Tensor] | Sequence[Tensor] | Tensor) -> Tensor:
        """Nats per predicted token of a batch."""
        ids, mask, labels = self._read(batch)
        if mask is not None:
            labels = labels.masked_fill(mask == 0, IGNORED)
        logits = self(ids, mask)[:, :-1]
        return functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)

    def _read(self, batch: Mapping[str, Tensor] | Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Ids, mask and what is to be predicted."""
        if isinstance(batch, Mapping):
            ids = batch["input_ids"]
            return ids, batch.get("attention_mask"), batch.get("labels", ids)
        if isinstance(batch, Tensor):
            padding = getattr(self.tokenizer, "pad_token_id", None)
            return batch, None if padding is None else (batch != padding).long(), batch
        ids, mask = batch
        return ids, mask, ids

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same on held-out sentences."""
        sentences = len(self._read(batch)[0])
        self.log("val_loss", self.loss(batch), sync_dist=True, batch_size=sentences)

    def configure_optimizers(self) -> Any:
        """AdamW, with the rate of each step where it changes."""
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=self.weight_decay)
        if not self.warmup and self.steps is None:
            return optimizer
        warmup, steps = self.warmup, self.steps

        def rate(step: int) -> float:
            rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
            return rising * (max(0.1, 1 - 0.9 * step / steps) if steps else 1.0)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _takes_mask(model: nn.Module) -> bool:
    parameters = inspect.signature(model.forward).parameters
    wrapped = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return "attention_mask" in parameters or ("input_ids" not in parameters and wrapped)
