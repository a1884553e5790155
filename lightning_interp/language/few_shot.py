"""Few-shot prompts: demonstrations in a template, and where their labels stand among the tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.language.encoding import Tokenizer, raw_ids, started

__all__ = ["FewShotPrompt", "Labelled", "draw_demonstrations", "encode_few_shot", "label_words", "template_parts"]

Labelled = tuple[str, str]
"""A text and its label."""


@dataclass(frozen=True, eq=False)
class FewShotPrompt:
    """One query behind its demonstrations, as tokens. What comes next is its label."""

    ids: Tensor
    """int64 (T,)."""
    alone: Tensor
    """The query without demonstrations."""
    labels: Tensor
    """Where the labels of the demonstrations stand, int64 (D,)."""
    classes: Tensor
    """Which label each of them is, int64 (D,)."""
    answer: int
    """Which label the query has."""


def template_parts(template: str) -> tuple[str, str, str]:
    """What stands before the text, between text and label, and behind the label.

    Raises:
        ValueError: If the template has not one ``{text}`` and behind it one ``{label}``.

    Example:
        >>> template_parts("Review: {text} Sentiment: {label}. ")
        ('Review: ', ' Sentiment: ', '. ')

    """
    before, _, rest = str(template).partition("{text}")
    between, _, behind = rest.partition("{label}")
    if f"{before}{{text}}{between}{{label}}{behind}" != template or template.count("{") != 2:
        raise ValueError(f"`template` must have one '{{text}}' and behind it one '{{label}}', got {template!r}.")
    return before, between, behind


def label_words(examples: Sequence[Labelled]) -> list[str]:
    """The labels of examples, in the order in which they first come.

    Example:
        >>> label_words([("fine", "good"), ("poor", "bad"), ("nice", "good")])
        ['good', 'bad']

    """
    return list(dict.fromkeys(label for _, label in examples))


def draw_demonstrations(examples: Sequence[Labelled], queries: int, shots: int, seed: int = 0) -> list[list[Labelled]]:
    """For each query as many examples of each label, in a random order.

    The same seed draws the same for ever, whatever other queries there are; no random stream is read or moved.

    Args:
        examples: What is drawn from.
        queries: How many queries.
        shots: Examples of each label.
        seed: Of the draw.

    Raises:
        ValueError: If a label has fewer examples.

    Example:
        >>> [[label for _, label in some] for some in draw_demonstrations([("a", "x"), ("b", "y"), ("c", "x")], 2, 1)]
        [['y', 'x'], ['x', 'y']]

    """
    if shots < 1:
        raise ValueError(f"`shots` must be at least 1, got {shots}.")
    numbers = {word: sum(label == word for _, label in examples) for word in label_words(examples)}
    few = [word for word, number in numbers.items() if number < shots]
    if few:
        raise ValueError(f"`shots` is {shots}, and `examples` has {numbers[few[0]]} of the label {few[0]!r}.")
    places = torch.arange(len(examples))
    found: list[list[Labelled]] = []
    for query in range(queries):
        left, some = dict.fromkeys(numbers, shots), []
        for place in counter_hash((query << 32) + places, seed).argsort().tolist():
            text, label = examples[place]
            if left[label]:
                left[label] -= 1
                some.append((text, label))
        found.append(some)
    return found


def encode_few_shot(
    tokenizer: Tokenizer,
    demonstrations: Sequence[Sequence[Labelled]],
    queries: Sequence[Labelled],
    template: str,
    words: Sequence[str],
    start: int | None = None,
) -> tuple[list[FewShotPrompt], Tensor]:
    """Prompts as tokens, and the token of each label.

    A label is found by what stands before it in the template, not by its token, which texts may hold too. A space at
    the end of what stands before it goes to its token where the tokenizer puts it there.

    Args:
        tokenizer: What :func:`~lightning_interp.tasks.encode_sentences` takes.
        demonstrations: Those of each query.
        queries: Each with its label.
        template: As for :func:`template_parts`.
        words: The labels.
        start: A token in front, which is not doubled.

    Raises:
        ValueError: If a label is several tokens, two are the same token, the tokenizer joins a label with what stands
            beside it, or a prompt ends with a label.

    Example:
        >>> letters = lambda text: [ord(letter) for letter in text]
        >>> shown, asked = [("ab", "x"), ("c", "y")], ("d", "x")
        >>> prompts, tokens = encode_few_shot(letters, [shown], [asked], "{text}={label};", "xy")
        >>> prompts[0].ids.tolist() == letters("ab=x;c=y;d="), prompts[0].labels.tolist(), tokens.tolist()
        (True, [3, 7], [120, 121])

    """
    before, between, behind = template_parts(template)

    def ids_of(texts: list[str]) -> list[list[int]]:
        return [started(ids, start) for ids in raw_ids(tokenizer, texts)]

    stem, lead, tokens = _label_tokens(ids_of, f"{before}{queries[0][0]}", between, words)
    prompts = []
    for some, (asked, answer) in zip(demonstrations, queries, strict=True):
        text, ends = "", []
        for shown, label in some:
            up_to = f"{text}{before}{shown}{stem}"
            ends += [up_to, f"{up_to}{lead}{label}"]
            text = f"{ends[-1]}{behind}"
        query = f"{before}{asked}{stem}"
        whole, alone, *cut = ids_of([f"{text}{query}", query, *ends])
        classes = [words.index(label) for _, label in some]
        for (shown, label), kind, up, through in zip(some, classes, cut[::2], cut[1::2], strict=True):
            if through != [*up, tokens[kind]] or whole[: len(through)] != through:
                raise ValueError(
                    f"the tokenizer joins the label {label!r} with what stands beside it, behind the text {shown!r}: "
                    f"`template` is {template!r}; let a space stand before the label and a line break behind it."
                )
        labels = [len(up) for up in cut[::2]]
        if labels[-1] == len(whole) - 1 or not alone:
            raise ValueError(f"a prompt ends with its last label: {query!r} has no token in `template` {template!r}.")
        ids, only, at, of = (torch.tensor(one, dtype=torch.long) for one in (whole, alone, labels, classes))
        prompts.append(FewShotPrompt(ids, only, at, of, words.index(answer)))
    return prompts, torch.tensor(tokens)


def _label_tokens(
    ids_of: Callable[[list[str]], list[list[int]]], asked: str, between: str, words: Sequence[str]
) -> tuple[str, str, list[int]]:
    """What stands before a label, the spaces that its token begins with, and that token of each label."""
    through = ids_of([f"{asked}{between}{word}" for word in words])
    fewest: dict[str, int] = {}
    for stem in (between, between.rstrip(" ")):
        (up_to,) = ids_of([f"{asked}{stem}"])
        if all(ids[:-1] == up_to for ids in through):
            tokens = [ids[-1] for ids in through]
            for place, token in enumerate(tokens):
                if token in tokens[:place]:
                    raise ValueError(
                        f"the labels {words[tokens.index(token)]!r} and {words[place]!r} are the same token, {token}: "
                        "take labels that the tokenizer tells apart."
                    )
            return stem, between[len(stem) :], tokens
        for word, ids in zip(words, through, strict=True):
            shared = next((n for n, pair in enumerate(zip(ids, up_to, strict=False)) if len({*pair}) > 1), len(up_to))
            fewest[word] = min(len(ids) - shared, fewest.get(word, len(ids)))
    word, number = max(fewest.items(), key=lambda one: one[1])
    raise ValueError(
        f"the label {word!r} is {number} tokens behind {asked + between!r}: take labels of one token each, and a "
        "`template` that the tokenizer does not join with them."
    )
