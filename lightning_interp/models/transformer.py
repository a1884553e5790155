"""A small encoder-decoder whose every part is a module that a hook can read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_interp.datasets.vocabulary import BOS_ID, EOS_ID, PAD_ID
from lightning_interp.models.attention import MultiheadAttention

__all__ = ["Seq2SeqTransformer", "sinusoidal_positions"]


def sinusoidal_positions(length: int, width: int) -> Tensor:
    r"""Position vectors, (length, width).

    .. math:: P_{t,2i} = \sin(t / 10000^{2i/D}), \quad P_{t,2i+1} = \cos(t / 10000^{2i/D})

    Raises:
        ValueError: If ``width`` is odd.

    Example:
        >>> sinusoidal_positions(2, 4)
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0100, 0.9999]])

    """
    if width % 2:
        raise ValueError(f"`width` is {width}; sines and cosines need an even one.")
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length).unsqueeze(1) * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class PositionalInput(nn.Module):
    """Adds positions to embedded tokens: (B, T, D) → (B, T, D)."""

    positions: Tensor

    def __init__(self, d_model: int, dropout: float, max_length: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("positions", sinusoidal_positions(max_length, d_model), persistent=False)

    def forward(self, embedded: Tensor) -> Tensor:
        """Embedded tokens plus their positions, after dropout."""
        length, longest = embedded.shape[1], len(self.positions)
        if length > longest:
            raise ValueError(f"a sequence has {length} tokens; `max_length` is {longest}.")
        placed: Tensor = self.dropout(embedded + self.positions[:length])
        return placed


# torch's own layers switch to a fused kernel in evaluation, which goes past the forward hooks of whatever is inside it.
class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added and then normalised (post-LN): (B, S, D) → (B, S, D)."""

    def __init__(self, d_model: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, heads, dropout)
        self.linear1 = nn.Linear(d_model, feedforward)
        self.linear2 = nn.Linear(feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The next layer's input; ``mask`` is true at what may be attended to, (B, 1, 1, S)."""
        x = self.norm1(x + self.dropout(self.self_attn(x, x, mask)))
        following: Tensor = self.norm2(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))
        return following


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder and feed-forward, post-LN: (B, T, D) → (B, T, D)."""

    def __init__(self, d_model: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, heads, dropout)
        self.multihead_attn = MultiheadAttention(d_model, heads, dropout)
        self.linear1 = nn.Linear(d_model, feedforward)
        self.linear2 = nn.Linear(feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, causal_mask: Tensor, memory_mask: Tensor) -> Tensor:
        """The next layer's input; the masks are true at what may be attended to, (T, T) and (B, 1, 1, S)."""
        x = self.norm1(x + self.dropout(self.self_attn(x, x, causal_mask)))
        x = self.norm2(x + self.dropout(self.multihead_attn(x, memory, memory_mask)))
        following: Tensor = self.norm3(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))
        return following


class Encoder(nn.Module):
    """Layers and a final LayerNorm: (B, S, D) → (B, S, D)."""

    def __init__(self, layers: int, d_model: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(d_model, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """The representations of the source; ``attention_mask`` is non-zero at its tokens, (B, S)."""
        mask = attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        representations: Tensor = self.norm(x)
        return representations


class Decoder(nn.Module):
    """Layers that see earlier positions only, and a final LayerNorm: (B, T, D) → (B, T, D)."""

    def __init__(self, layers: int, d_model: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(d_model, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, memory: Tensor, attention_mask: Tensor) -> Tensor:
        """The representations of the target; ``attention_mask`` is that of the source, (B, S)."""
        length = x.shape[1]
        causal_mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        memory_mask = attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = layer(x, memory, causal_mask, memory_mask)
        representations: Tensor = self.norm(x)
        return representations


class Seq2SeqTransformer(nn.Module):
    """A post-LN encoder-decoder with sinusoidal positions (Vaswani et al. 2017).

    Every matrix, embeddings included, starts Xavier-uniform, and embeddings are not multiplied by √D. Padding is on the
    right and influences no other position. The places where representations are read:

    ====================  ==========================================================
    ``source_embedding``  (B, S, D), tokens before positions are added
    ``source_input``      (B, S, D), tokens plus positions, after dropout
    ``encoder.layers.0``  (B, S, D), and so on for every layer
    ``encoder``           (B, S, D), after the final LayerNorm
    ``target_embedding``  (B, T, D)
    ``target_input``      (B, T, D)
    ``decoder.layers.0``  (B, T, D), and so on for every layer
    ``decoder``           (B, T, D), after the final LayerNorm
    ``output``            (B, T, V), logits
    ====================  ==========================================================

    Args:
        source_vocab_size: Number of source ids.
        target_vocab_size: Number V of target ids.
        d_model: Width D of the representations, even and a multiple of ``heads``.
        heads: Attention heads.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        feedforward: Width of the feed-forward part.
        dropout: Dropout after the input, in attention and after every part of a layer.
        max_length: Longest source or target sequence.

    Raises:
        ValueError: If a size is below 1, ``d_model`` is odd or no multiple of ``heads``, or ``dropout`` not in [0, 1).

    Example:
        >>> model = Seq2SeqTransformer(source_vocab_size=10, target_vocab_size=12)
        >>> ids = torch.tensor([[4, 5, 6], [7, 8, 0]])
        >>> model(ids, attention_mask=ids != 0, decoder_input_ids=torch.tensor([[1, 4], [1, 5]])).shape
        torch.Size([2, 2, 12])

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
        max_length: int = 1024,
    ) -> None:
        super().__init__()
        sizes = {
            "source_vocab_size": source_vocab_size,
            "target_vocab_size": target_vocab_size,
            "d_model": d_model,
            "heads": heads,
            "encoder_layers": encoder_layers,
            "decoder_layers": decoder_layers,
            "feedforward": feedforward,
            "max_length": max_length,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"`{name}` is {size}; it must be at least 1.")
        if d_model % heads or d_model % 2:
            raise ValueError(f"`d_model` is {d_model}; it must be even and a multiple of `heads`, which is {heads}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` is {dropout}; it must be at least 0 and below 1.")
        self.source_embedding = nn.Embedding(source_vocab_size, d_model)
        self.source_input = PositionalInput(d_model, dropout, max_length)
        self.encoder = Encoder(encoder_layers, d_model, heads, feedforward, dropout)
        self.target_embedding = nn.Embedding(target_vocab_size, d_model)
        self.target_input = PositionalInput(d_model, dropout, max_length)
        self.decoder = Decoder(decoder_layers, d_model, heads, feedforward, dropout)
        self.output = nn.Linear(d_model, target_vocab_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every matrix anew, embeddings too: Xavier-uniform."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Logits (B, T, V) under teacher forcing, from ids (B, S), their mask (B, S) and ids (B, T)."""
        return self.decode(decoder_input_ids, self.encode(input_ids, attention_mask), attention_mask)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The encoder's representations (B, S, D) of ids (B, S)."""
        encoded: Tensor = self.encoder(self.source_input(self.source_embedding(input_ids)), attention_mask)
        return encoded

    def decode(self, decoder_input_ids: Tensor, memory: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, T, V) of ids (B, T), given what :meth:`encode` returned for a source with this mask."""
        embedded = self.target_input(self.target_embedding(decoder_input_ids))
        logits: Tensor = self.output(self.decoder(embedded, memory, attention_mask))
        return logits

    @torch.no_grad()
    def greedy_decode(self, input_ids: Tensor, attention_mask: Tensor, max_length: int) -> Tensor:
        """The most probable next word, again and again, until every sequence has ended.

        Args:
            input_ids: Source ids, (B, S).
            attention_mask: Non-zero at source words, (B, S).
            max_length: Most ids to generate, the end of sequence included.

        Returns:
            Ids (B, at most ``max_length``) with the end of sequence, padded with ``PAD_ID`` after it. Dropout is as the
            module's mode has it: call ``eval()`` first.

        """
        memory = self.encode(input_ids, attention_mask)
        ids = input_ids.new_full((len(input_ids), 1), BOS_ID)
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for _ in range(max_length):
            following = self.decode(ids, memory, attention_mask)[:, -1].argmax(-1).masked_fill(ended, PAD_ID)
            ids = torch.cat([ids, following.unsqueeze(1)], dim=1)
            ended |= following == EOS_ID
            if bool(ended.all()):
                break
        return ids[:, 1:]
