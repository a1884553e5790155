"""A part: texts of a validation run, run again without each of their words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from lightning_interp.batches.contents import Key, look_up
from lightning_interp.batches.reader import ReadBatch
from lightning_interp.distributed import Collective, rank_in, world_size
from lightning_interp.functional.ablation import Score, masked_word, prediction_scores, word_positions
from lightning_interp.functional.counter_noise import counter_uniform
from lightning_interp.isolation.seen import Seen
from lightning_interp.language.batching import dealt
from lightning_interp.language.id_range import check_ids
from lightning_interp.language.likelihood import Forward, eval_mode, model_device, model_output, takes_mask
from lightning_interp.parts.cues import are_ids, checked_cues
from lightning_interp.parts.id_sequences import IdSequences, gathered_texts
from lightning_interp.reading.reading import Reading
from lightning_interp.sites.edit import SiteEdit
from lightning_interp.sites.embeddings import input_embedding

__all__ = [
    "SITE",
    "AblatedText",
    "AblatedTexts",
    "Around",
    "Cues",
    "Decode",
    "Predicts",
    "Without",
    "logits_of",
    "outputs",
]

T = TypeVar("T")

Without = Literal["replace", "hide", "resample", "embedding", "delete"]
"""Ways of leaving a word out."""
Predicts = Literal["last", "masked"]
"""Where a prediction of tokens is read: at the last position, or at a masked one."""
Cues = Mapping[str, Key | Sequence[int] | re.Pattern[str]]
"""Name → where a batch marks the cue, bool (B, T), the token ids that it is, or what is looked for in each word."""
Decode = Callable[[list[int]], str]
"""Token ids → their text."""

_FEWEST = 2  # words of a text: of one alone nothing can be compared
SITE = "embedding"
"""What the site is called whose output is replaced."""


class AblatedText(NamedTuple):
    """A text and its words."""

    ids: Tensor
    """Token ids, (T,)."""
    words: Tensor
    """The positions of each word that is left out, bool (n, T)."""
    cues: Tensor
    """Whether each word belongs to each cue, bool (cues, n)."""
    at: int = -1
    """The position whose token is predicted."""
    label: int = -1
    """Which class is right, where a batch says that."""

    @property
    def first_ids(self) -> Tensor:
        """The first token id of each word."""
        return self.ids[self.words.int().argmax(1)]


class Around(NamedTuple):
    """What the ways of leaving out need of all texts, and which of them one is."""

    place: int
    """Its place among them."""
    read: Tensor
    """All tokens that were read, sorted; of a masked model not the mask."""
    mean: Tensor | None
    """Their mean embedding, where words are left out by it."""


class AblatedTexts(IdSequences):
    """Runs texts of the validation run through a model as they are and without each of their words.

    Texts are gathered from all ranks and dealt whole, without padding, so that each is computed as by one process.

    Args:
        without: How words are left out.
        score: What a prediction is measured by.
        mask_token_id: What ``"replace"`` puts in the place of a word, and what a masked model predicts at.
        draws: How many tokens ``"resample"`` draws for each position.
        embedding: Dotted name of the module that embeds, for ``"embedding"``.
        words: Where a batch has the word of each position, int (B, T).
        ignore_tokens: Ids that are never left out.
        cues: What is watched.
        decode: Token ids → text, for cues that are patterns.
        predicts: Where the token is that a model of tokens predicts; see
            :func:`~lightning_interp.functional.ablation.masked_word` for ``"masked"``.
        target: Where a batch has the class of each text, int (B,).
        seed: Of the draws.
        model, forward, batch_tokens: See :class:`~lightning_interp.parts.id_sequences.IdSequences`.
        embeds: Whether the module that embeds is needed, however words are left out.

    Raises:
        ValueError: If an argument is out of range; when attached, if a name matches nothing, parameters are sharded
            over ranks, or words are to be hidden of a model that takes no mask.

    """

    reads_batches = True
    attached: tuple[str, ...] = ("_model", "_edit")

    def __init__(
        self,
        without: Without,
        score: Score = "log_prob",
        mask_token_id: int | None = None,
        draws: int = 4,
        embedding: str | None = None,
        words: Key | None = None,
        ignore_tokens: Sequence[int] = (),
        cues: Cues | None = None,
        seed: int = 0,
        model: str = "",
        forward: Forward | None = None,
        batch_tokens: int = 4096,
        embeds: bool = False,
        decode: Decode | None = None,
        predicts: Predicts = "last",
        target: Key | None = None,
    ) -> None:
        super().__init__(model, forward, batch_tokens)
        for name, given, kinds in (
            ("without", without, Without),
            ("score", score, Score),
            ("predicts", predicts, Predicts),
        ):
            if given not in get_args(kinds):
                raise ValueError(f"`{name}` must be one of {list(get_args(kinds))}, got {given!r}.")
        if embedding is not None and without != "embedding" and not embeds:
            raise ValueError(
                f"`embedding` is of without='embedding': it is {embedding!r}, and `without` is {without!r}."
            )
        if mask_token_id is not None and without != "replace" and predicts != "masked":
            raise ValueError(
                f"`mask_token_id` is of without='replace' or predicts='masked': it is {mask_token_id!r}, `without` is "
                f"{without!r} and `predicts` is {predicts!r}."
            )
        if (without == "replace" or predicts == "masked") and (type(mask_token_id) is not int or mask_token_id < 0):
            what = "that without='replace' puts in" if without == "replace" else "at which predicts='masked' predicts"
            raise ValueError(f"`mask_token_id` must be the id {what}, got {mask_token_id!r}.")
        if draws < 1:
            raise ValueError(f"`draws` must be at least 1, got {draws}.")
        if not are_ids(ignore_tokens):
            raise ValueError(f"`ignore_tokens` must be a list of token ids, got {ignore_tokens!r}.")
        self.without, self.score, self.mask_token_id, self.draws = without, score, mask_token_id, draws
        self.embedding, self.words, self.seed, self.predicts = embedding, words, seed, predicts
        self.target = target
        self.embeds = embeds or without == "embedding"
        self.ignore_tokens = list(ignore_tokens)
        self.cues, self.decode = checked_cues(cues), decode
        patterns = [name for name, cue in self.cues.items() if isinstance(cue, re.Pattern)]
        if patterns and decode is None:
            raise ValueError(f"`cues` of {patterns[0]!r} is a pattern, looked for in text: give `decode`.")
        self._edit: SiteEdit | None = None
        self.forget()

    def attach(self, model: nn.Module) -> None:
        """Find the model, and what embeds in it."""
        super().attach(model)
        if self.without == "hide" and self.forward is None and not takes_mask(self.model):
            raise ValueError(
                f"without='hide' hides words by the attention mask, and {type(self.model).__name__} takes none: give "
                "`forward`, a function of (model, input_ids, attention_mask), or leave words out in another way."
            )
        if self.embeds:
            name = self.embedding if self.embedding is not None else input_embedding(self.model)
            self._edit = SiteEdit(self.model, {SITE: name}, what="a mean embedding")
            self._edit.attach()

    def detach(self) -> None:
        """Let go of the model."""
        if self._edit is not None:
            self._edit.detach()
        self._edit = None
        super().detach()

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self.forget()

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._own: list[tuple[int, Tensor]] = []

    # ------------------------------------------------- texts

    def read(self, seen: Seen, read: ReadBatch) -> None:
        """Keep the selected texts of a batch.

        Raises:
            ValueError: If the batch does not say its token ids, which of them are padding, their words, classes, or a
                cue.

        """
        ids, real = read.text()
        words = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if self.words is not None:
            words = _like(ids, look_up(seen.batch, self.words, "words"), "words", "the word of each position")
        columns = [ids, words.masked_fill(_among(ids, self.ignore_tokens), -1)]
        for name, cue in self.cues.items():
            if isinstance(cue, re.Pattern):
                columns.append(torch.zeros_like(ids))  # looked for in whole words
            elif isinstance(cue, list):
                columns.append(_among(ids, cue))
            else:
                columns.append(_like(ids, look_up(seen.batch, cue, "cues"), f"cues[{name!r}]", "a mask").bool())
        if self.target is not None:
            columns.append(self._classes(seen.batch, self.target, ids))
        texts = torch.stack([seen.selection.of(one).cpu().long() for one in columns], -1)
        for position, text, here in zip(
            seen.selection.positions.tolist(), texts, seen.selection.of(real).cpu(), strict=True
        ):
            self._own.append((position, text[here]))

    def _classes(self, batch: Any, target: Key, ids: Tensor) -> Tensor:
        """The class of each text at all of its positions."""
        given = look_up(batch, target, "target")
        if not isinstance(given, Tensor) or given.shape != ids.shape[:1] or given.is_floating_point():
            told = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(
                f"`target` must lead to the class of each text, whole numbers (B,) = ({len(ids)},), got {told}."
            )
        return given[:, None].to(ids.device).expand_as(ids)

    def texts(self) -> Collective[list[AblatedText]]:
        """Those of all ranks that have two words or more, in their order in the data set."""
        gathered = yield from gathered_texts(self._own, 2 + len(self.cues) + (self.target is not None))
        found = []
        for number, text in enumerate(gathered):
            ids, belongs = text[:, 0], text[:, 1]
            at = -1
            if self.predicts == "masked":
                assert self.mask_token_id is not None
                # No counter of a draw in the place of a word is below 0.
                draw = float(counter_uniform(torch.tensor(-1 - number), self.seed))
                ids, belongs, at = masked_word(ids, belongs, self.mask_token_id, draw)
            words, marks = word_positions(belongs), text[:, 2 : 2 + len(self.cues)].T.bool()
            label = -1 if self.target is None or not len(text) else int(text[0, -1])
            cues = (marks[:, None] & words).any(-1)
            for place, cue in enumerate(self.cues.values()):
                if isinstance(cue, re.Pattern):
                    cues[place] = torch.tensor([self._has(cue, text[word, 0]) for word in words], dtype=torch.bool)
            found.append(AblatedText(ids, words, cues, at, label))
        return [one for one in found if len(one.words) >= _FEWEST]

    def _has(self, pattern: re.Pattern[str], ids: Tensor) -> bool:
        """Whether it is found in a word."""
        assert self.decode is not None
        return pattern.search(self.decode(ids.tolist()).strip()) is not None

    # ------------------------------------------------- running them

    def losses(self, texts: Sequence[AblatedText], group: Any = None) -> list[Tensor]:
        """What the prediction of each text loses without each word, float64 (n,); 0 for texts of another rank."""
        found = [torch.zeros(len(one.words), dtype=torch.float64) for one in texts]
        for place, losses in self.dealt(texts, self._losses, group).items():
            found[place] = losses
        return found

    def dealt(
        self, texts: Sequence[AblatedText], work: Callable[[AblatedText, Around], T], group: Any = None
    ) -> dict[int, T]:
        """What ``work`` makes of each text of this rank, by the text's place; the model is in evaluation mode."""
        model, found = self.model, {}
        fill = () if self.mask_token_id is None else (torch.tensor([self.mask_token_id]),)
        check_ids(model, [*(one.ids for one in texts), *fill])
        own = dealt(range(len(texts)), (rank_in(group), world_size(group)))
        if own:
            read = torch.cat([one.ids for one in texts])
            if self.predicts == "masked":
                read = read[read != self.mask_token_id]
            with eval_mode(model):
                mean = self._mean_embedding(read) if self.without == "embedding" else None
                for place in own:
                    found[place] = work(texts[place], Around(place, read.sort().values, mean))
        return found

    def _losses(self, text: AblatedText, around: Around) -> Tensor:
        target, full = -1, torch.zeros(())
        found = torch.zeros(len(text.words), dtype=torch.float64)
        for which, logits in self.outcomes(text, text.words, around):
            if target < 0:
                target = int(logits[0].argmax()) if logits.shape[1] > 1 else int(logits[0] > 0)
            scores = prediction_scores(logits, target, self.score).double().cpu()
            if which[0] < 0:
                full, which, scores = scores[0], which[1:], scores[1:]
            found.index_add_(0, which, full - scores)
        return found / self.runs

    @property
    def runs(self) -> int:
        """How often a text is run without the same positions."""
        return self.draws if self.without == "resample" else 1

    def outcomes(self, text: AblatedText, gone: Tensor, around: Around) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits of a text as it is and without each of some sets of its positions.

        Args:
            text: The text.
            gone: The sets, bool (R, T).
            around: What :meth:`dealt` tells of the text.

        Returns:
            In batches the row of ``gone``, int64 (B,), and logits (B, C). The first of all rows is −1, which is the
            text as it is; each other comes :attr:`runs` times.

        """
        for which, ids, hidden, at in self._rows(text, gone, around):
            most = max(1, self.batch_tokens // ids.shape[1])
            for rows in torch.split(torch.arange(len(ids)), most):
                yield which[rows], self._predicts(ids[rows], hidden[rows], at[rows], around.mean)

    def _rows(self, text: AblatedText, gone: Tensor, around: Around) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """The text as it is and without each set: which set, ids, what is left out, and where the prediction is."""
        ids, place, read = text.ids[None], around.place, around.read
        which, none, at = torch.arange(len(gone)), torch.zeros_like(gone[:1]), torch.tensor([text.at])
        if self.without == "delete":
            yield torch.tensor([-1]), ids, none, at
            for size in torch.unique(gone.sum(1)).tolist():
                those = which[gone.sum(1) == size]
                left = ids.expand(len(those), -1)[~gone[those]].view(len(those), -1)
                # From the end nothing moves.
                moved = gone[those, : max(text.at, 0)].sum(1)
                yield those, left, torch.zeros_like(left, dtype=torch.bool), at - moved
            return
        changed = ids.expand(gone.shape)
        if self.without == "replace":
            changed = changed.masked_fill(gone, self.mask_token_id or 0)
        elif self.without == "resample":
            draws = torch.arange(place * self.draws, (place + 1) * self.draws)[:, None]
            chance = counter_uniform((draws << 32) + torch.arange(ids.shape[1]), self.seed).double()
            drawn = read[(chance * len(read)).long()]
            changed = torch.where(gone[:, None], drawn, ids).flatten(0, 1)
            which, gone = which.repeat_interleave(self.draws), gone.repeat_interleave(self.draws, 0)
        rows, gone = torch.cat([ids, changed]), torch.cat([none, gone])
        yield torch.cat([torch.tensor([-1]), which]), rows, gone, at.expand(len(rows))

    def _predicts(self, ids: Tensor, gone: Tensor, at: Tensor, mean: Tensor | None) -> Tensor:
        """Logits of the class, or of the token at its position, (B, C)."""
        here = model_device(self.model)
        ids, gone = ids.to(here), gone.to(here)
        mask = torch.ones_like(ids)
        if self.without == "hide":
            mask = mask.masked_fill(gone, 0)

        def without(embedded: Tensor) -> Tensor:
            assert mean is not None
            self._check_embedded(embedded, ids)
            return torch.where(gone[..., None], mean.to(embedded), embedded)

        edited = nullcontext() if mean is None or self._edit is None else self._edit.changing(SITE, without)
        with edited:
            return self.prediction(ids, mask, at)

    def prediction(self, ids: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """The model's logits (B, C): those of classes, or of the token at a position of each row, (B,)."""
        found = self.logits(ids, mask)
        return found if found.dim() == 2 else found[torch.arange(len(ids), device=ids.device), at.to(ids.device)]

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The model's logits: of classes, (B, C), or at each position, (B, T, V).

        Raises:
            ValueError: If they are of classes where masked tokens are to be predicted.

        """
        found = logits_of(model_output(self.model, ids, mask, self.forward), ids)
        if found.dim() == 2 and self.predicts == "masked":
            raise ValueError(
                f"predicts='masked' is of a model that predicts tokens, logits ({len(ids)}, {ids.shape[1]}, V), and "
                f"{type(self.model).__name__} gives logits of classes, {tuple(found.shape)}: leave `predicts` out."
            )
        return found

    @staticmethod
    def _check_embedded(embedded: Tensor, ids: Tensor) -> None:
        if embedded.shape[:2] != ids.shape or embedded.ndim != 3:
            raise ValueError(
                f"`embedding` must return an embedding (B, T, D) of the ids {tuple(ids.shape)}, and returned "
                f"{tuple(embedded.shape)}."
            )

    def _mean_embedding(self, read: Tensor) -> Tensor:
        """Of the tokens that were read."""
        assert self._edit is not None
        ids, number = torch.unique(read, return_counts=True)
        vectors: Tensor = self._edit.modules[SITE](ids[None].to(model_device(self.model)))[0].double()
        mean: Tensor = (vectors * number.to(vectors)[:, None]).sum(0) / len(read)
        return mean


def _among(ids: Tensor, some: Sequence[int]) -> Tensor:
    return torch.isin(ids, torch.tensor([*some], dtype=ids.dtype, device=ids.device))


def _like(ids: Tensor, given: Any, name: str, what: str) -> Tensor:
    if not isinstance(given, Tensor) or given.shape != ids.shape or given.is_floating_point():
        told = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"`{name}` must lead to {what}, whole numbers (B, T) = {tuple(ids.shape)}, got {told}.")
    return given


def outputs(output: Any) -> Sequence[Any]:
    """What of a model's output may be logits: those that it calls so, else all that it holds."""
    if isinstance(output, Mapping) and "logits" in output:
        return [output["logits"]]
    if hasattr(output, "logits"):
        return [output.logits]
    return output if isinstance(output, tuple | list) else [output]


def logits_of(output: Any, ids: Tensor) -> Tensor:
    """Logits in what a model returned: of classes, (B, C), or at each position, (B, T, V)."""
    for one in outputs(output):
        if not (isinstance(one, Tensor) and one.is_floating_point() and len(one) == len(ids)):
            continue
        if one.dim() == 2 or (one.dim() == 3 and one.shape[1] == ids.shape[1]):
            return one
    raise TypeError(
        f"no logits of classes ({len(ids)}, C) or of tokens ({len(ids)}, {ids.shape[1]}, V) in the model's output, "
        f"which is {type(output).__name__}; give `forward`, a function of (model, input_ids, attention_mask) that "
        "returns them."
    )
