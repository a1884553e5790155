"""Minimal pairs: readers, a built-in grammar, scoring, tuning by gradient differentials."""

from lightning_interp.language.encoding import encode_sentences
from lightning_interp.language.likelihood import sentence_log_probs
from lightning_interp.language.masked import pseudo_log_likelihoods
from lightning_interp.language.scores import perplexity
from lightning_interp.language.tokenizer import WordTokenizer
from lightning_interp.tasks.baselines import METHODS
from lightning_interp.tasks.blimp import read_blimp
from lightning_interp.tasks.differential import gradient_differential
from lightning_interp.tasks.facts import Fact, FactWorld, fact_world, read_facts
from lightning_interp.tasks.files import read_pairs
from lightning_interp.tasks.ftgd import FtgdResult, ftgd
from lightning_interp.tasks.grammar import generate_corpus, grammar_tasks, grammar_words
from lightning_interp.tasks.hypotheses import lexical_overlap, phenomenon_hypothesis
from lightning_interp.tasks.pairs import MinimalPair, Task
from lightning_interp.tasks.probe import load_causal_lm, task_space
from lightning_interp.tasks.questions import Question, read_questions
from lightning_interp.tasks.scoring import Scorer, margin_accuracy
from lightning_interp.tasks.shared import remove_shared
from lightning_interp.tasks.space import TaskSpaceResult
from lightning_interp.tasks.split import draw_pairs, split_pairs

__all__ = [
    "Task",
    "MinimalPair",
    "read_blimp",
    "read_pairs",
    "Fact",
    "read_facts",
    "fact_world",
    "FactWorld",
    "Question",
    "read_questions",
    "split_pairs",
    "draw_pairs",
    "remove_shared",
    "lexical_overlap",
    "phenomenon_hypothesis",
    "generate_corpus",
    "grammar_tasks",
    "grammar_words",
    "WordTokenizer",
    "encode_sentences",
    "sentence_log_probs",
    "pseudo_log_likelihoods",
    "Scorer",
    "margin_accuracy",
    "perplexity",
    "gradient_differential",
    "ftgd",
    "FtgdResult",
    "METHODS",
    "TaskSpaceResult",
    "load_causal_lm",
    "task_space",
]
