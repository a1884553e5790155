"""A small grammar of English: a corpus to train on and minimal pairs of what it teaches, without a download."""

from lightning_interp.tasks.grammar.corpus import generate_corpus
from lightning_interp.tasks.grammar.lexicon import grammar_words
from lightning_interp.tasks.grammar.minimal_pairs import grammar_tasks

__all__ = ["generate_corpus", "grammar_tasks", "grammar_words"]
