"""Sites: the submodules whose outputs or inputs are read, found by name and recorded by forward hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_interp.isolation.containers import mapped
from lightning_interp.sites.layout import check_sites
from lightning_interp.sites.names import clean_name, listed, match_sites, modules_by_name
from lightning_interp.sites.output import WHICH, OutputKey, copied_tensor, first_given, replicated, select
from lightning_interp.sites.taps import SWITCH, Call, Kept, Of, Slot, Tap, lasting, tapped

__all__ = ["SiteRecorder", "CaptureError", "Found", "by_site", "hooked_modules"]


class CaptureError(RuntimeError):
    """A site did not give what a reading needs: it never ran, ran more often than expected, or is sharded."""


class SiteRecorder:
    """Keeps what submodules return, or are given, while it is told to.

    Forward hooks are attached once, before the first compiled call, and do nothing but look at a flag until
    :meth:`start`. What they keep is detached and copied, so later in-place operations do not reach it; with ``graph``
    it is the very tensor of the forward pass, for gradients with respect to it.

    Recorders share what they can: those on one module have one hook there (unless another hook stands between them),
    and of what a call returns they are given the same copy, which must not be changed in place. All look at one flag,
    so a compiled module has two graphs, with and without capturing, whichever of them capture.

    Args:
        model: The module that the names are relative to.
        sites: Short name → dotted name, from :func:`resolve_sites`.
        call: What to keep of a site that runs several times between :meth:`start` and :meth:`take`: ``"only"`` makes
            that an error, ``"first"`` and ``"last"`` keep one output, ``"all"`` keeps all, in order.
        output: Which tensor of an output that holds several: a key, an index or an attribute of it, or a callable on
            it, for all sites or by site; see :func:`~lightning_interp.sites.output.select`.
        whole: Sites of which the whole output is kept, whatever it is.
        offer: Which of ``"first"``, ``"last"`` and ``"all"`` an error may advise.
        advice: What an error about several tensors advises.
        of: ``"output"``: what a site returns. ``"input"``: what it is given, the first floating-point tensor of two
            dimensions or more among its arguments unless ``output`` says another, by place or by name.
        graph: Keep the tensor with its graph, as ``torch.autograd.grad`` wants it.

    Raises:
        ValueError: If ``call`` or ``of`` is unknown, ``sites`` is empty or a dotted name matches no module.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        >>> recorder = SiteRecorder(model, {"hidden": "0"})
        >>> recorder.attach()
        >>> with recorder.capturing():
        ...     output = model(torch.zeros(3, 4))
        >>> [tensor.shape for tensor in recorder.take()["hidden"]]
        [torch.Size([3, 8])]
        >>> recorder.detach()

    """

    _marks: Mapping[str, int] = {}
    """Of each site where this capture began; empty while none goes on."""

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[str, str],
        call: Call = "only",
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        whole: Iterable[str] = (),
        offer: Sequence[Call] = ("first", "last", "all"),
        advice: str = WHICH,
        of: Of = "output",
        graph: bool = False,
    ) -> None:
        for name, value, known in (("call", call, get_args(Call)), ("of", of, get_args(Of))):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(map(repr, known))}")
        if not sites:
            raise ValueError("sites={} is empty: name at least one module to read")
        self.model = model
        self.sites = dict(sites)
        self.call: Call = call
        check_sites("output", output, self.sites)
        self.output = by_site(output, self.sites)
        self.whole = frozenset(whole)
        self.offer = tuple(offer)
        self.advice = advice
        self.of: Of = of
        self.graph = graph
        self.found: dict[str, Found] = {}
        """Of each site what was taken last."""
        self._taps: list[Tap] = []
        self._slots: dict[str, Slot] = {}
        self._captured: dict[str, tuple[int, list[Kept]]] = {}
        modules = modules_by_name(model)
        self.modules: dict[str, nn.Module] = {}
        """The module of each site."""
        for short, name in self.sites.items():
            self.modules[short] = modules[match_sites(name, modules, type(model).__name__)[0]]

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._taps)

    def attach(self) -> None:
        """Put the hooks on the model; without effect if they are there already."""
        if self.attached:
            return
        for module, short in hooked_modules(self.model, self.sites):
            tap = tapped(module, self.of)
            self._taps.append(tap)
            if short is not None:
                self._slots[short] = tap.slot(self.output[short], short in self.whole, self.call, self.graph)

    def detach(self) -> None:
        """Take the hooks off and drop what was captured; without effect if they are off."""
        self.stop()
        for tap in self._taps:
            tap.leave()
        self._taps.clear()
        self._slots.clear()
        self._captured = {}

    def start(self) -> None:
        """Capture from here on; what an earlier capture left is dropped.

        Raises:
            CaptureError: If the hooks are not attached.

        """
        if not self.attached:
            raise CaptureError("attach() comes before start(): no hook is on the model")
        self.stop()
        self._captured = {}
        self._marks = {short: slot.begin() for short, slot in self._slots.items()}
        SWITCH.begin()

    def stop(self) -> None:
        """Stop capturing; what was captured stays until :meth:`take`."""
        if not self._marks:
            return
        marks, self._marks = self._marks, {}
        self._captured = {short: self._slots[short].end(mark) for short, mark in marks.items()}
        SWITCH.end()

    def __del__(self) -> None:
        # One that is forgotten while it captures would leave the switch on for everybody.
        self.stop()

    @contextlib.contextmanager
    def capturing(self) -> Iterator[SiteRecorder]:
        """Capture within a ``with`` block."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def take(self) -> dict[str, list[Any]]:
        """What was captured, which is dropped here.

        Returns:
            Short name → outputs in the order in which they were made: one, or several for ``call="all"``. Each is a
            tensor or a packed sequence; of sites whose whole output is kept, that.

        Raises:
            CaptureError: If a site never ran, ran more than once under ``call="only"``, or returned a sharded tensor;
                with ``graph``, if its tensor has no graph, or was written to since.
            TypeError: If a site returned no floating-point tensor.
            ValueError: If it returned several, and ``output`` does not say which.

        """
        goes_on = bool(self._marks)
        self.stop()
        captured, self._captured = self._captured, {}
        if goes_on:
            self.start()
        silent = [short for short in self.sites if not captured.get(short, (0, []))[0]]
        if silent:
            raise CaptureError(
                f"sites that never ran while capturing: {listed(silent)}; sites that did: "
                f"{listed(short for short in self.sites if short not in silent)}. Usual reasons: this forward does "
                "not use the module, or calls another method of it than forward; its parent reads its weights or takes "
                "a fused path past it (out_proj in nn.MultiheadAttention, nn.TransformerEncoder's fast path); its hook "
                "was attached after torch.compile had compiled it (call torch.compiler.reset() then), or it shares a "
                "compiled graph with a module that has no hook (read the same place in all of them by a glob)"
            )
        for short, (number, _) in captured.items():
            if self.call == "only" and number > 1:
                *some, last = (f"call={one!r}" for one in self.offer)
                raise CaptureError(
                    f"site {short!r} ({self.sites[short]!r}) ran {number} times while capturing: say which to "
                    f"read with {', '.join(some)}{' or ' if some else ''}{last}"
                )
        taken: dict[str, list[Any]] = {}
        for short, (number, outputs) in captured.items():
            found = [self._checked(short, output) for output in outputs]
            self.found[short] = Found(found[-1][0], number)
            taken[short] = [one for _, one in found]
        return taken

    def described(self, short: str) -> str:
        """Dotted name and class of a site."""
        return f"{self.sites[short] or 'the model'}, {type(self.modules[short]).__name__}"

    def _checked(self, short: str, kept: Kept) -> tuple[str, Any]:
        site = f"site {short!r} ({self.sites[short]!r})"
        output, path, in_graph, versions = kept
        if in_graph and self.graph:
            raise CaptureError(
                f"{site} ran in a compiled graph, which hands out no gradient of what is inside: read it without "
                "compiling, as under torch.compiler.set_stance('force_eager')"
            )
        if in_graph and isinstance(output, Tensor) and output.is_cuda:
            # The next replay of a CUDA graph overwrites what this one returned.
            output = lasting(output)
        if not self.graph and (short in self.whole or callable(self.output[short])):
            # For the user's own function, which may change what it is given.
            output = mapped(output, copied_tensor)
        if short in self.whole:
            return "", output
        tensor: Any = output
        if path is None:
            where, verb = self.output[short], "returned" if self.of == "output" else "was given"
            if where is None and self.of == "input":
                where = first_given(output)
            path, tensor = select(self.modules[short], output, where, site, self.advice, verb)
        if self.graph:
            _check_graph(site, tensor.data if isinstance(tensor, PackedSequence) else tensor, versions)
        if not hasattr(tensor, "placements"):
            return path, tensor
        if not replicated(tensor):
            raise CaptureError(
                f"{site} returned a DTensor with placements {tuple(tensor.placements)}: only fully replicated ones are "
                "read; choose a site whose output is replicated, such as the block around it"
            )
        return path, tensor.to_local()

    def __getstate__(self) -> dict[str, Any]:
        # Hooks belong to the process and the model they were put on: a copy starts without.
        return {**self.__dict__, "_taps": [], "_slots": {}, "_marks": {}, "_captured": {}}


def _check_graph(site: str, tensor: Tensor, versions: Iterable[tuple[Tensor, int]]) -> None:
    if not tensor.requires_grad:
        raise CaptureError(
            f"{site} gave a tensor without a graph: run the forward pass with gradients on "
            "(torch.inference_mode(False), torch.enable_grad()), and let something before the site require them"
        )
    if any(one is tensor and tensor._version != version for one, version in versions):
        raise CaptureError(
            f"{site} gave a tensor that was written to after it was kept, as by an in-place operation on it: its "
            "gradient would be that of another value; read another site"
        )


class Found(NamedTuple):
    """What a site gave."""

    path: str
    """Where in its output the tensor stands, ``""`` where it is the output."""
    calls: int
    """How many times it ran."""


def by_site(given: Any, sites: Iterable[str]) -> dict[str, Any]:
    """An argument that is given for all sites or by site, for each of them; ``None`` where it is not given.

    Example:
        >>> by_site({"enc": 0}, ["enc", "dec"]), by_site(1, ["enc"])
        ({'enc': 0, 'dec': None}, {'enc': 1})

    """
    return {site: given.get(site) if isinstance(given, Mapping) else given for site in sites}


def hooked_modules(model: nn.Module, sites: Mapping[str, str]) -> list[tuple[nn.Module, str | None]]:
    """Which modules get hooks: that of each site, with its name, and places that correspond to one, with ``None``.

    Args:
        model: The module that the names are relative to.
        sites: Short name → dotted name.

    """
    modules = modules_by_name(model)
    names = {short: clean_name(name) for short, name in sites.items()}
    found: list[tuple[nn.Module, str | None]] = [(modules[name], short) for short, name in names.items()]
    return found + [(modules[name], None) for name in _twins(model, modules, names.values())]


def _twins(model: nn.Module, modules: Mapping[str, nn.Module], sites: Iterable[str]) -> list[str]:
    """The places that correspond to sites in other separately compiled modules of the same class.

    Such modules share compiled graphs, and no guard looks at whether a module has hooks: a graph made for a layer
    without a hook would be run for the layer that has one. A hook that stays idle at the same
    place tells them apart.
    """
    roots = {
        clean_name(name): module
        for name, module in model.named_modules(remove_duplicate=False)
        if name.rpartition(".")[2] == "_orig_mod" or getattr(module, "_compiled_call_impl", None) is not None
    }
    hooked = {id(modules[site]) for site in sites}
    twins: dict[int, str] = {}
    for site in sites:
        for root in roots:
            inside = site.removeprefix(root)
            if site != root and (inside == site or not inside.startswith(".")):
                continue
            for other, module in roots.items():
                twin = modules.get(other + inside)
                if type(module) is type(roots[root]) and twin is not None and id(twin) not in hooked:
                    twins.setdefault(id(twin), other + inside)
    return list(twins.values())
