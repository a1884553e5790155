"""The models that the examples and tests train."""

from lightning_interp.models.accuracy import ExactMatch, TokenAccuracy
from lightning_interp.models.attention_only import AttentionOnly
from lightning_interp.models.causal_lm import CausalLM
from lightning_interp.models.loss import TokenLoss
from lightning_interp.models.seq2seq import Seq2SeqModule
from lightning_interp.models.small_gpt2 import small_gpt2
from lightning_interp.models.transformer import Seq2SeqTransformer

__all__ = [
    "Seq2SeqModule",
    "Seq2SeqTransformer",
    "CausalLM",
    "small_gpt2",
    "AttentionOnly",
    "ExactMatch",
    "TokenAccuracy",
    "TokenLoss",
]
