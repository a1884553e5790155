"""Data with gold structure to probe for, and the baselines that make a probe mean something."""

from lightning_interp.isolation.random_weights import random_weights
from lightning_interp.probing.entities import (
    Entities,
    city_entities,
    cooccurrence_sentences,
    planted_places,
    planted_years,
    read_entities,
)
from lightning_interp.probing.statements import (
    FactTable,
    Statement,
    fact_statements,
    planted_facts,
    read_statements,
    true_sentences,
    world_statements,
)
from lightning_interp.probing.treebank import Sentence, grammar_treebank, read_conllu

__all__ = [
    "Sentence",
    "grammar_treebank",
    "read_conllu",
    "Entities",
    "read_entities",
    "planted_places",
    "planted_years",
    "cooccurrence_sentences",
    "city_entities",
    "Statement",
    "FactTable",
    "read_statements",
    "fact_statements",
    "planted_facts",
    "true_sentences",
    "world_statements",
    "random_weights",
]
