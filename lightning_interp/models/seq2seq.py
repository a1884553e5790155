"""The LightningModule that the examples train."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from lightning_interp.compat import pl
from lightning_interp.datasets.encoding import Batch
from lightning_interp.models.accuracy import ExactMatch, TokenAccuracy
from lightning_interp.models.loss import TokenLoss
from lightning_interp.models.transformer import Seq2SeqTransformer

__all__ = ["Seq2SeqModule"]


class Seq2SeqModule(pl.LightningModule):
    """A small encoder-decoder that learns to translate one sequence into another.

    ``model`` is a :class:`~lightning_interp.models.transformer.Seq2SeqTransformer`, so sites are ``model.encoder``,
    ``model.source_embedding`` and so on. Batches are those of
    :class:`~lightning_interp.datasets.seq2seq.Seq2SeqDataModule`.

    =================  ==================================================================================
    logged             what it is
    =================  ==================================================================================
    ``train_loss``     cross-entropy per target token in nats, at every training step
    ``val_loss``       the same over a validation loader, weighted by tokens
    ``val_acc``        share of sequences whose every token is predicted under teacher forcing, which is
                       the exact match of greedy decoding
    ``val_token_acc``  share of tokens predicted under teacher forcing
    =================  ==================================================================================

    With several validation loaders Lightning appends ``/dataloader_idx_0`` and so on.

    Args:
        source_vocab_size: Number of source ids.
        target_vocab_size: Number of target ids.
        d_model: Width of the representations.
        heads: Attention heads.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        feedforward: Width of the feed-forward part.
        dropout: Dropout probability.
        lr: Learning rate, constant.
        weight_decay: Decoupled weight decay (AdamW); 0 means plain Adam.
        max_length: Longest source or target sequence.
        validation_loaders: Most validation loaders, each of which has metrics of its own.

    Raises:
        ValueError: If ``lr`` is not positive, ``weight_decay`` negative or ``validation_loaders`` below 1; and what
            :class:`~lightning_interp.models.transformer.Seq2SeqTransformer` raises.

    Example:
        >>> from lightning_interp.datasets import Seq2SeqDataModule
        >>> pair = (["amelia", "slept"], ["slept", "agent", "amelia"])
        >>> data = Seq2SeqDataModule(train=[pair], val=[pair], ood=[pair])
        >>> module = Seq2SeqModule(len(data.source_vocabulary), len(data.target_vocabulary))
        >>> module(next(iter(data.train_dataloader()))).shape
        torch.Size([1, 4, 7])

    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        d_model: int = 64,
        heads: int = 4,
        encoder_layers: int = 2,
        decoder_layers: int = 1,
        feedforward: int = 256,
        dropout: float = 0.1,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        max_length: int = 1024,
        validation_loaders: int = 2,
    ) -> None:
        super().__init__()
        if lr <= 0:
            raise ValueError(f"`lr` is {lr}; it must be positive.")
        if weight_decay < 0:
            raise ValueError(f"`weight_decay` is {weight_decay}; it must not be negative.")
        if validation_loaders < 1:
            raise ValueError(f"`validation_loaders` is {validation_loaders}; it must be at least 1.")
        self.save_hyperparameters()
        self.lr = lr
        self.weight_decay = weight_decay
        self.model = Seq2SeqTransformer(
            source_vocab_size=source_vocab_size,
            target_vocab_size=target_vocab_size,
            d_model=d_model,
            heads=heads,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            feedforward=feedforward,
            dropout=dropout,
            max_length=max_length,
        )
        self.val_loss = nn.ModuleList(TokenLoss() for _ in range(validation_loaders))
        self.val_acc = nn.ModuleList(ExactMatch() for _ in range(validation_loaders))
        self.val_token_acc = nn.ModuleList(TokenAccuracy() for _ in range(validation_loaders))

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, T, V) under teacher forcing."""
        logits: Tensor = self.model(batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"])
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean cross-entropy of the batch's target tokens."""
        loss = _cross_entropy(self(batch), batch["labels"])
        self.log("train_loss", loss.detach(), sync_dist=True, batch_size=len(batch["labels"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log loss and accuracies of the loader."""
        if dataloader_idx >= len(self.val_acc):
            raise ValueError(f"`validation_loaders` is {len(self.val_acc)}, but loader {dataloader_idx} has data.")
        labels = batch["labels"]
        logits = self(batch)
        predictions = logits.argmax(-1)
        # A metric, since Lightning truncates the weights of a plain value when gloo averages them over ranks.
        loss = cast(Metric, self.val_loss[dataloader_idx])
        loss.update(logits, labels)
        shown = dataloader_idx == 0  # the bar of a terminal has no room for more
        self.log("val_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels), prog_bar=shown)
        for name, metrics in (("val_acc", self.val_acc), ("val_token_acc", self.val_token_acc)):
            metric = cast(Metric, metrics[dataloader_idx])
            metric.update(predictions, labels)
            bar = shown and name == "val_acc"
            self.log(name, metric, on_step=False, on_epoch=True, batch_size=len(labels), prog_bar=bar)

    def greedy_decode(self, batch: Batch, max_length: int = 100) -> Tensor:
        """The most probable next word, again and again, until every sequence has ended.

        Args:
            batch: What holds ``input_ids`` and ``attention_mask``, (B, S).
            max_length: Most ids to generate, the end of sequence included.

        Returns:
            Ids (B, at most ``max_length``) with the end of sequence, padded after it. Dropout is as the module's mode
            has it: call ``eval()`` first.

        """
        return self.model.greedy_decode(batch["input_ids"], batch["attention_mask"], max_length)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW where there is weight decay, else Adam."""
        if self.weight_decay > 0:
            return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
