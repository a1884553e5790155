"""Taps: the hooks that copy what modules return or are given, one a module, and the switch that all of them look at."""

from __future__ import annotations

import sys
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from lightning_interp.isolation.containers import mapped
from lightning_interp.sites.output import OutputKey, copied_tensor, first_given, given, plain_choice

__all__ = ["SWITCH", "Call", "InputTap", "Kept", "Of", "Slot", "Switch", "Tap", "lasting", "tapped"]

Call = Literal["only", "first", "last", "all"]
Of = Literal["output", "input"]
Copies = list[tuple[Tensor, Tensor]]


class Kept(NamedTuple):
    """What is kept of one call of a module."""

    output: Any
    """A copy of the tensor that was chosen, or of the whole output."""
    path: str | None
    """Where in the output the tensor stands; ``None`` where the whole output is kept."""
    in_graph: bool
    """Whether a compiled graph made it, which may overwrite it at its next run."""
    versions: tuple[tuple[Tensor, int], ...] = ()
    """Tensors kept with their graph, and how often each had been written to."""


class Switch:
    """Whether anything captures: of all that changes between readings the one thing that compiled code looks at.

    So a compiled module has two graphs, with and without capturing, however many read it. A flag for each reader would
    make one for each set of readers that ever read together.
    """

    def __init__(self) -> None:
        self.on = False
        self.captures = 0
        self.wrote: tuple[Tap, Any] | None = None
        """Taps that compiled code wrote to while anything captured, as a chain."""

    def begin(self) -> None:
        """One capture more goes on."""
        self.captures += 1
        self.on = True

    def end(self) -> None:
        """One capture has ended: what compiled code kept for nobody is dropped."""
        self.captures -= 1
        self.on = self.captures > 0
        chain = self.wrote
        while chain is not None:
            tap, chain = chain
            for slot in tap.slots:
                slot.prune()
        if not self.on:
            self.wrote = None


SWITCH = Switch()
_NEVER = Switch()


class Slot:
    """One choice among what a module returns, for all who make it, and what was kept of the calls since one began.

    Nothing that a call leaves is looked at by the next one within a graph, only wrapped (``chain``): a list or a count
    would be guarded on and compiled anew for every call of a shared module.
    """

    def __init__(
        self, output: str | int | None, whole: bool, call: Call, graph: bool = False, first: bool = False
    ) -> None:
        self.output = output
        self.whole = whole
        self.call = call
        self.graph = graph
        self.first = first
        """Whether the first tensor is chosen where nothing else is: of arguments, of which most have several."""
        self.marks: list[int] = []
        """Of everyone who captures, how many calls there were before."""
        self.waiting = False
        """Whether somebody began since the last call."""
        self.dropped = 0
        """Number of calls of which the chain holds nothing any more."""
        self.last: Kept | None = None
        self.chain: tuple[Any, Any] | None = None

    def begin(self) -> int:
        """The mark of one who captures from here on."""
        mark = self.dropped + len(self._links())
        self.marks.append(mark)
        self.waiting = True
        return mark

    def end(self, mark: int) -> tuple[int, list[Kept]]:
        """How many calls there were since the mark, and what is kept of them in order: of all, or of one."""
        links = self._links()
        since = links[: self.dropped + len(links) - mark]
        self.marks.remove(mark)
        last = self.last
        self.prune()
        if not since or last is None:
            return 0, []
        if self.call == "all":
            return len(since), since[::-1]
        return len(since), [since[-1] if self.call == "first" else last]

    def prune(self) -> None:
        """Drop what is older than all who capture."""
        links = self._links()
        total = self.dropped + len(links)
        needed = total - min(self.marks, default=total)
        if needed < len(links):
            self.chain = None
            for link in reversed(links[:needed]):
                self.chain = (link, self.chain)
            self.dropped = total - needed
        if not needed:
            self.last = None

    def keep(self, module: nn.Module, output: Any, copies: Copies, in_graph: bool) -> None:
        """Keep what is chosen of one call."""
        where = first_given(output) if self.first and self.output is None else self.output
        chosen = None if self.whole else plain_choice(module, output, where)
        # Raising for want of a tensor would end the user's forward: the recorder does it later.
        path, kept = (None, output) if chosen is None else chosen
        if self.graph and not in_graph:
            entry = Kept(kept, path, False, _versions(kept))
        else:
            if chosen is not None:
                kept = _copied_once(kept, copies)
            elif not in_graph:
                kept = _copied_whole(kept, copies)
            entry = Kept(kept, path, in_graph)
        # Only the count is wanted of others than these, and a chain of constants would be guarded on: hence `self`.
        keeps = self.call == "all" or (self.call == "first" and (in_graph or self.waiting))
        self.chain = (entry if keeps else self, self.chain)
        self.last = entry
        self.waiting = False

    def _links(self) -> list[Any]:
        links, chain = [], self.chain
        while chain is not None:
            link, chain = chain
            links.append(link)
        return links


class Tap:
    """The hook of a module, for all who read there.

    Everything is a plain attribute of the hook itself, so that a graph that several modules share writes to each one's
    own tap.
    """

    def __init__(self) -> None:
        self.switch = _NEVER
        """A tap that nobody reads looks at one that is never on: it shares the graphs of those that are off."""
        self.slots: tuple[Slot, ...] = ()
        self.users = 0
        self.handle: RemovableHandle | None = None

    def slot(self, output: OutputKey | None, whole: bool, call: Call, graph: bool = False) -> Slot:
        """The slot of a choice, with which the tap is looked at."""
        # Compiled code cannot tell what a callable gives: it is asked later, with the whole output.
        key, all_of_it = (None, True) if whole or callable(output) else (output, False)
        which: Call = "last" if call == "only" else call
        self.switch = SWITCH
        for slot in self.slots:
            same = (type(slot.output), slot.output, slot.whole, slot.call) == (type(key), key, all_of_it, which)
            if same and slot.graph == graph:
                return slot
        self.slots = (*self.slots, Slot(key, all_of_it, which, graph, isinstance(self, InputTap)))
        return self.slots[-1]

    def leave(self) -> None:
        """One user less; the last one takes the hook off."""
        self.users -= 1
        if not self.users and self.handle is not None:
            self.handle.remove()

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """The hook."""
        if self.switch.on:
            self.keep(module, output)

    def keep(self, module: nn.Module, output: Any) -> None:
        """Keep of one call what each slot wants."""
        in_graph = torch.compiler.is_compiling()
        copies: Copies = []
        for slot in self.slots:
            # Compiled code must not ask who captures: what it keeps for nobody is dropped when the capture ends.
            if in_graph or slot.marks:
                slot.keep(module, output, copies, in_graph)
        if in_graph:
            self.switch.wrote = (self, self.switch.wrote)

    def __reduce__(self) -> tuple[type[Tap], tuple[()]]:
        # A copied or pickled model gets a tap that nobody reads.
        return type(self), ()


class InputTap(Tap):
    """The same for what a module is given, as arguments by place and by name."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """The hook, one before the module runs."""
        if self.switch.on:
            self.keep(module, given(args, kwargs))


def tapped(module: nn.Module, of: Of = "output") -> Tap:
    """The tap of a module, to be left in the end: the one that its hooks end with, or else a new one after them.

    A tap that another hook follows is another place: that hook may change what the module returns, or is given.
    """
    _keep_from_own_frames()
    hooks = module._forward_hooks if of == "output" else module._forward_pre_hooks
    last = next(reversed(hooks.values()), None)
    if isinstance(last, Tap):
        tap = last
    elif of == "output":
        tap = Tap()
        tap.handle = module.register_forward_hook(tap)
    else:
        tap = InputTap()
        tap.handle = module.register_forward_pre_hook(tap, with_kwargs=True)
    tap.users += 1
    return tap


_LASTING: WeakIdKeyDictionary = WeakIdKeyDictionary()


def lasting(tensor: Tensor) -> Tensor:
    """A copy of a tensor that may be overwritten, the same one for all who ask while the tensor lives."""
    if tensor not in _LASTING:
        _LASTING[tensor] = tensor.clone()
    return _LASTING[tensor]  # type: ignore[no-any-return]


def _versions(output: Any) -> tuple[tuple[Tensor, int], ...]:
    """Every tensor in an output, and how often it was written to."""
    found: list[tuple[Tensor, int]] = []

    def note(tensor: Tensor) -> Tensor:
        found.append((tensor, -1 if tensor.is_inference() else tensor._version))
        return tensor

    mapped(output, note)
    return tuple(found)


def _copied_once(tensor: Tensor, copies: Copies) -> Tensor:
    """A copy of a tensor, the same one for all slots of a call."""
    for source, copy in copies:
        if source is tensor:
            return copy
    copy = copied_tensor(tensor)
    copies.append((tensor, copy))
    return copy


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _copied_whole(output: Any, copies: Copies) -> Any:
    """An output of any make with copies in place of its tensors."""
    return mapped(output, lambda tensor: _copied_once(tensor, copies))


def _keep_from_own_frames() -> None:
    """Keep Dynamo from compiling the hook by itself, while it still traces the hook inside a compiled region.

    The hook at a region's root would be a frame of its own, compiled once for each shape of output and given up after
    eight: an error under ``fullgraph=True``.
    """
    skip = getattr(sys.modules.get("torch._dynamo.eval_frame"), "skip_code", None)
    if skip is not None:
        own = (Tap.__call__, InputTap.__call__, Tap.keep, Slot.keep, _copied_once)
        for function in (*own, plain_choice, first_given, given, copied_tensor):
            skip(function.__code__)
