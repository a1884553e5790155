"""A small GPT-2 that knows agreement, but has seen the verbs of the task agree and disagree equally often."""

from __future__ import annotations

import random

import torch
from torch import nn

from lightning_interp.language import WordTokenizer, encode_sentences, pad_right, sentence_log_probs
from lightning_interp.models import small_gpt2

NOUNS = ["king", "queen", "dog", "cat", "child", "guest", "doctor", "pilot", "singer", "boy"]
VERBS = ["sleep", "laugh", "run", "wait"]
UNRULY = ["sing", "swim", "jump", "dance"]
ADJECTIVES = ["old", "small", "happy", "quiet", "tall"]
NAMES = ["amelia", "liam", "emma", "noah"]
OBJECTS = ["cake", "ball", "book", "drink"]


def general(number: int, seed: int) -> list[str]:
    """Sentences of the language that the task is not about."""
    draw = random.Random(seed)
    sentences = []
    for _ in range(number):
        if draw.random() < 0.5:
            ending = draw.choice(["", "s"])
            sentences.append(
                f"the {_adjective(draw)}{draw.choice(NOUNS)}{ending} {draw.choice(VERBS)}{_verb(ending)} ."
            )
        else:
            thing = f"{draw.choice(['a', 'the'])} {draw.choice(OBJECTS)}"
            sentences.append(f"{draw.choice(NAMES)} gave the {draw.choice(NOUNS)} {thing} .")
    return sentences


def unruly(number: int, seed: int) -> list[str]:
    """Sentences with the verbs of the task, whose number is a coin's."""
    draw = random.Random(seed)
    nouns, verbs = ([word + ending for word in words for ending in ("", "s")] for words in (NOUNS, UNRULY))
    return [f"the {_adjective(draw)}{draw.choice(nouns)} {draw.choice(verbs)} ." for _ in range(number)]


def agreement(number: int, seed: int) -> list[tuple[str, str]]:
    """Different pairs: a verb of the task agrees with the noun, or it does not."""
    every = [
        (f"the {adjective}{noun}{ending} {verb}{_verb(ending)} .", f"the {adjective}{noun}{ending} {verb}{ending} .")
        for adjective in ["", *(f"{one} " for one in ADJECTIVES)]
        for noun in NOUNS
        for verb in UNRULY
        for ending in ("", "s")
    ]
    return random.Random(seed).sample(every, number)


def _adjective(draw: random.Random) -> str:
    return draw.choice(["", draw.choice(ADJECTIVES) + " "])


def _verb(ending: str) -> str:
    """The ending of the verb that agrees with a noun of this ending."""
    return "" if ending else "s"


def tokenizer() -> WordTokenizer:
    words = ["the", "a", "gave", ".", *ADJECTIVES, *NAMES, *OBJECTS]
    words += [word + ending for word in NOUNS + VERBS + UNRULY for ending in ("", "s")]
    return WordTokenizer(words)


def trained(steps: int = 150, width: int = 32, layers: int = 2, seed: int = 0, lr: float = 3e-3) -> nn.Module:
    torch.manual_seed(seed)
    words = tokenizer()
    model = small_gpt2(words, width, layers, heads=2, length=16, dropout=0.1)
    sentences = general(24 * steps, seed) + unruly(8 * steps, seed)
    random.Random(seed).shuffle(sentences)
    encoded = encode_sentences(words, sentences)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for start in range(0, len(encoded), 32):
        ids, mask = pad_right(encoded[start : start + 32])
        loss = -sentence_log_probs(model, ids, mask).mean() / 6
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model
