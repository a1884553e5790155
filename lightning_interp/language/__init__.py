"""Text through a language model: sentences as ids, padded batches, and what the model says of them."""

from lightning_interp.language.batching import length_batches, pad_right
from lightning_interp.language.encoding import encode_sentences
from lightning_interp.language.likelihood import sentence_log_probs
from lightning_interp.language.masked import pseudo_log_likelihoods
from lightning_interp.language.scores import perplexity
from lightning_interp.language.tokenizer import WordTokenizer
from lightning_interp.language.words import Units, encode_units

__all__ = [
    "length_batches",
    "pad_right",
    "encode_sentences",
    "sentence_log_probs",
    "pseudo_log_likelihoods",
    "perplexity",
    "WordTokenizer",
    "Units",
    "encode_units",
]
