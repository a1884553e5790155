"""A part: facts run with noise at their subject, and with one hidden state at a time restored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lightning_interp.distributed import Collective, Sums, rank_in, world_size
from lightning_interp.distributed.sharding import refuse_sharded
from lightning_interp.functional._numerics import as_float
from lightning_interp.functional.causal_trace import TOKEN_CLASSES, noise_scale, state_window, token_classes
from lightning_interp.functional.counter_noise import counter_normal
from lightning_interp.functional.evenly_spread import evenly_spread
from lightning_interp.language.batching import dealt
from lightning_interp.language.id_range import check_ids
from lightning_interp.language.likelihood import eval_mode, model_device, model_logits
from lightning_interp.parts.language_model import LanguageModel
from lightning_interp.reading.part import Part
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.sites import SiteEdit, blocks, resolve_sites
from lightning_interp.sites.embeddings import input_embedding
from lightning_interp.sites.recorder import CaptureError
from lightning_interp.tasks.facts import Fact
from lightning_interp.tasks.trace_prompts import TracePrompt, encode_trace_prompts

__all__ = ["BLOCKS", "EARLY", "LATE", "CausalTraces", "Target", "Tokens", "Traces"]

Target = Literal["top", "answer"]
"""Whose probability is traced: the model's own most probable token where that is right, or the answer."""
Tokens = Literal["two", "all"]
"""Which states are restored: of the subject's last token and of the last token, or of all from the subject on."""

BLOCKS = ""
"""What stands for the blocks themselves among the kinds of states."""
EARLY, LATE = TOKEN_CLASSES.index("last subject token"), TOKEN_CLASSES.index("last token")
_EMBEDDING = "embedding"
_PROMPT_BITS, _COPY_BITS = 32, 20


@dataclass(frozen=True)
class Traces:
    """What facts gave; of facts that were not traced zeros."""

    traced: Tensor
    """Whether each was traced, bool (N,)."""
    clean: Tensor
    """Probability without noise, float64 (N,)."""
    corrupted: Tensor
    """Mean probability with noise at the subject, (N,)."""
    effects: Tensor
    """What restoring a state adds to that, (N, kinds, classes of tokens, layers); NaN where there is no such token."""
    control: Tensor
    """The same with the states of another prompt, (N, kinds, 2, layers): at the subject and at the last token."""

    @property
    def totals(self) -> Tensor:
        """What noise takes, (N,)."""
        return self.clean - self.corrupted


class _State(NamedTuple):
    """A state that is restored: at a token, at some sites, as it is without noise or as in another prompt."""

    token: int
    sites: Sequence[str]
    other: Mapping[str, Tensor] | None = None
    """By site, (D,)."""


class _Cell(NamedTuple):
    """Where what restoring a state adds belongs."""

    control: bool
    at: tuple[int, int, int]
    """Kind, class of the token or end of the prompt, layer."""
    alike: int = 1
    """How many states belong there, whose mean it is."""


class CausalTraces(Part):
    """Runs facts without and with noise at their subject, and restores states one at a time; dealt over ranks by fact.

    Each fact is run alone, without padding, its noisy copies and several states side by side. Noise is drawn by fact,
    copy and token, so that it is the same at every reading and on any number of ranks. The model runs in evaluation
    mode, without gradients and autocast, and is left as it was.

    Args:
        facts: Facts that say their subject.
        lm: The language model; ``batch_tokens`` bounds the tokens of a forward pass.
        layers: How many layers, spread evenly over the depth; all for ``None``.
        sites: The blocks, relative to the module that is trained, in their order; by default those that
            :func:`~lightning_interp.sites.blocks` finds in the language model.
        windows: Name of a kind of states → name of the module within each block that returns them.
        window: How many layers of these are restored together.
        tokens: See :data:`Tokens`.
        target: See :data:`Target`.
        noise: Size of the noise in standard deviations of the subjects' embeddings.
        copies: Noisy copies of each fact.
        embedding: Dotted name, within the language model, of what embeds tokens.
        seed: Of the noise.

    Raises:
        ValueError: If an argument is out of range; when attached, if a name matches nothing, a subject or an answer has
            no token, or parameters are sharded over ranks.

    """

    attached = ("_model", "_edit", "_noise", "_prompts")

    def __init__(
        self,
        facts: Sequence[Fact],
        lm: LanguageModel = LanguageModel(),  # noqa: B008 - it is frozen
        layers: int | None = 8,
        sites: str | Sequence[str] | Mapping[str, str] | None = None,
        windows: Mapping[str, str] | None = None,
        window: int = 10,
        tokens: Tokens = "two",
        target: Target = "top",
        noise: float = 3.0,
        copies: int = 10,
        embedding: str | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, least in (("layers", layers, 1), ("window", window, 1), ("copies", copies, 1)):
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if not noise > 0:
            raise ValueError(f"`noise` must be above 0, got {noise}.")
        for name, given, known in (("tokens", tokens, get_args(Tokens)), ("target", target, get_args(Target))):
            if given not in known:
                raise ValueError(f"`{name}` must be one of {known}, got {given!r}.")
        self.windows = dict(windows or {})
        for name in self.windows:
            if not name or "/" in name:
                raise ValueError(f"`windows` has the name {name!r}, which becomes part of a key: not empty, no '/'.")
        lm.starts_with_bos()
        self.facts, self.lm = list(facts), lm
        self.layers, self.sites, self.window = layers, sites, window
        self.tokens: Tokens = tokens
        self.target: Target = target
        self.noise, self.copies, self.embedding, self.seed = noise, copies, embedding, seed
        self.depths: list[int] = []
        """The numbers of the layers that are read, once the model is known."""
        self.number = 0
        """How many layers there are."""
        self._model: nn.Module | None = None
        self._edit: SiteEdit | None = None
        self._noise: SiteEdit | None = None
        self._prompts: list[TracePrompt] | None = None

    @property
    def kinds(self) -> list[str]:
        """The kinds of states: blocks, and those of ``windows``."""
        return [BLOCKS, *self.windows]

    def attach(self, model: nn.Module) -> None:
        """Find the language model, its tokenizer, embedding and blocks."""
        lm, tokenizer, _ = self.lm.find(model)
        refuse_sharded(lm, "causal traces")
        self._prompts = encode_trace_prompts(tokenizer, self.facts, self.lm.starts_with_bos(), self.lm.bos_token_id)
        check_ids(lm, [one.ids for one in self._prompts])
        named = self._blocks(model, lm)
        self.number = len(named)
        self.depths = evenly_spread(self.number, self.layers or self.number)
        sites = {
            _site(kind, layer): f"{block}.{self.windows[kind]}" if kind else block
            for kind in self.kinds
            for layer, block in enumerate(named)
        }
        self._edit = SiteEdit(model, sites, what="a restored state")
        name = input_embedding(lm) if self.embedding is None else self.embedding
        self._noise = SiteEdit(lm, {_EMBEDDING: name}, what="noise at the subject")
        self._edit.attach()
        self._noise.attach()
        self._model = lm

    def _blocks(self, model: nn.Module, lm: nn.Module) -> list[str]:
        if self.sites is not None:
            return list(resolve_sites(model, self.sites).values())
        before = f"{self.lm.model}." if self.lm.model else ""
        return [f"{before}{name}" for name in blocks(lm).values()]

    def detach(self) -> None:
        """Let go of the model."""
        for edit in (self._edit, self._noise):
            if edit is not None:
                edit.detach()
        self._model = self._edit = self._noise = self._prompts = None

    def keeps(self) -> Sequence[object]:
        """What keeps arguments of the callback: itself, and the language model."""
        return self, self.lm

    def settings(self) -> Settings:
        """How many facts there are, and which layers are read."""
        return {"facts": len(self.facts), **({"depths": ", ".join(map(str, self.depths))} if self.depths else {})}

    # ------------------------------------------------- reading

    def read(self, group: Any = None) -> Collective[Traces]:
        """Trace the facts of this rank, and merge.

        Args:
            group: The process group over which facts are dealt.

        """
        model, prompts = self._model, self._prompts
        assert model is not None
        assert prompts is not None
        number, kinds, depth = len(prompts), len(self.kinds), len(self.depths)
        told = torch.zeros(number, 3, dtype=torch.float64)
        effects = torch.zeros(number, kinds, len(TOKEN_CLASSES), depth, dtype=torch.float64)
        control = torch.zeros(number, kinds, 2, depth, dtype=torch.float64)
        own = dealt(range(number), (rank_in(group), world_size(group)))
        if own:
            with eval_mode(model):
                subjects = self._subjects(prompts)
                scale, width = self.noise * noise_scale(subjects), subjects.shape[-1]
                for place in own:
                    noise = scale * self._drawn(place, prompts[place], width)
                    self._trace(place, noise, told[place], effects[place], control[place])
        told, effects, control = yield Sums([told, effects, control])
        return Traces(told[:, 0] > 0, told[:, 1], told[:, 2], effects, control)

    def _subjects(self, prompts: Sequence[TracePrompt]) -> Tensor:
        """The embeddings of the tokens of all subjects, (tokens, D)."""
        assert self._noise is not None
        ids = torch.cat([one.ids[one.start : one.end] for one in prompts])[None]
        embedded: Tensor = self._noise.modules[_EMBEDDING](ids.to(model_device(self._lm)))
        _check(_EMBEDDING, embedded, ids)
        return embedded[0]

    @property
    def _lm(self) -> nn.Module:
        assert self._model is not None
        return self._model

    def _trace(self, place: int, noise: Tensor, told: Tensor, effects: Tensor, control: Tensor) -> None:
        """Fill in what one fact gives."""
        assert self._prompts is not None
        prompt = self._prompts[place]
        first = self._probabilities(prompt, noise, [_State(0, ())])
        target = int(first[0].argmax()) if self.target == "top" else prompt.answer
        if target != prompt.answer:
            return
        corrupted = float(first[1:, target].mean())
        told.copy_(torch.tensor([1.0, float(first[0, target]), corrupted], dtype=torch.float64))
        effects.fill_(torch.nan)
        control.fill_(torch.nan)
        work = self._states(place, prompt)
        most = max(1, (self.lm.batch_tokens // len(prompt.ids) - 1) // self.copies)
        for start in range(0, len(work), most):
            some = work[start : start + most]
            found = self._probabilities(prompt, noise, [state for _, state in some])[1:, target]
            for (cell, _), restored in zip(some, found.view(len(some), -1).mean(1).tolist(), strict=True):
                table = control if cell.control else effects
                table[cell.at] = torch.nan_to_num(table[cell.at]) + (restored - corrupted) / cell.alike

    def _states(self, place: int, prompt: TracePrompt) -> list[tuple[_Cell, _State]]:
        """States to restore, and where what that adds belongs."""
        length = len(prompt.ids)
        classes = token_classes(length, prompt.start, prompt.end)
        read = range(prompt.start, length) if self.tokens == "all" else (prompt.end - 1, length - 1)
        # Where the subject ends the prompt, its last token is both.
        pairs = sorted({(LATE, length - 1), *((classes[token], token) for token in read)})
        other, others = self._other(place)
        found: list[tuple[_Cell, _State]] = []
        for kind, name in enumerate(self.kinds):
            for row, depth in enumerate(self.depths):
                layers = state_window(depth, self.number, self.window) if name else [depth]
                sites = [_site(name, layer) for layer in layers]
                for which, token in pairs:
                    alike = sum(one == which for one, _ in pairs)
                    found.append((_Cell(False, (kind, which, row), alike), _State(token, sites)))
                for end, token, foreign in self._ends(prompt, other) if other is not None else ():
                    states = {site: others[site][foreign] for site in sites}
                    found.append((_Cell(True, (kind, end, row)), _State(token, sites, states)))
        return found

    @staticmethod
    def _ends(prompt: TracePrompt, other: TracePrompt) -> list[tuple[int, int, int]]:
        """Of the subject's last token and the last one the number, and the place here and in the other prompt."""
        return [(0, prompt.end - 1, other.end - 1), (1, len(prompt.ids) - 1, len(other.ids) - 1)]

    def _other(self, place: int) -> tuple[TracePrompt | None, dict[str, Tensor]]:
        """The next prompt with another answer, of the same relation if there is one, and its states (T, D) by site."""
        assert self._prompts is not None
        assert self._edit is not None
        number = len(self._prompts)
        behind = [(place + step) % number for step in range(1, number)]
        behind.sort(key=lambda one: self.facts[one].relation != self.facts[place].relation)
        answer = self._prompts[place].answer
        found = next((self._prompts[one] for one in behind if self._prompts[one].answer != answer), None)
        states: dict[str, Tensor] = {}
        if found is not None:

            def keep(site: str, state: Tensor) -> Tensor:
                _check(site, state, found.ids[None])
                states[site] = state[0]
                return state

            with self._changing({site: partial(keep, site) for site in self._edit.sites}):
                self._logits(found.ids[None])
        return found, states

    # ------------------------------------------------- through the model

    def _drawn(self, place: int, prompt: TracePrompt, width: int) -> Tensor:
        """Standard normal noise of a fact, (copies, tokens of the subject, D)."""
        copies = (place << _PROMPT_BITS) + (torch.arange(self.copies) << _COPY_BITS)
        return counter_normal(copies[:, None] + torch.arange(prompt.start, prompt.end), width, self.seed)

    def _probabilities(self, prompt: TracePrompt, noise: Tensor, states: Sequence[_State]) -> Tensor:
        """Of the next token, float64 (1 + states · copies, V): without noise, then with noise and each state."""
        rows = prompt.ids.expand(1 + len(states) * self.copies, -1)

        def noisy(embedded: Tensor) -> Tensor:
            _check(_EMBEDDING, embedded, rows)
            here = embedded[1:, prompt.start : prompt.end]
            here += noise.to(embedded).repeat(len(states), 1, 1)
            return embedded

        def restored(site: str, output: Tensor) -> Tensor:
            _check(site, output, rows)
            for number, state in enumerate(states):
                if site in state.sites:
                    copies = slice(1 + number * self.copies, 1 + (number + 1) * self.copies)
                    output[copies, state.token] = output[0, state.token] if state.other is None else state.other[site]
            return output

        sites = dict.fromkeys(site for state in states for site in state.sites)
        assert self._noise is not None
        with self._noise.changing(_EMBEDDING, noisy), self._changing({one: partial(restored, one) for one in sites}):
            return self._logits(rows).softmax(-1)

    @contextmanager
    def _changing(self, functions: Mapping[str, Any]) -> Iterator[None]:
        """Within, sites return what functions make of it."""
        assert self._edit is not None
        with ExitStack() as stack:
            for site, function in functions.items():
                stack.enter_context(self._edit.changing(site, function))
            yield

    def _logits(self, ids: Tensor) -> Tensor:
        """Of the next token, float64 (B, V)."""
        here = ids.to(model_device(self._lm))
        logits = model_logits(self._lm, here, torch.ones_like(here), self.lm.forward)[:, -1]
        return as_float(logits).cpu().double()


def _site(kind: str, layer: int) -> str:
    return f"{kind}.{layer}" if kind else str(layer)


def _check(site: str, output: Tensor, ids: Tensor) -> None:
    if output.ndim != 3 or output.shape[:2] != ids.shape:
        raise CaptureError(
            f"site {site!r} must return (B, T, D) of the ids {tuple(ids.shape)} for a state to be restored, and "
            f"returned {tuple(output.shape)}."
        )
