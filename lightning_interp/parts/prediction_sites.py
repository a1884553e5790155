"""Parts: what a model predicts at sites or in what its step returns, and what such a place put out as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interp.batches.predictions import PredictedRows, PredictionRecorder, Predictions
from lightning_interp.batches.reader import Key
from lightning_interp.distributed import Collective, Sum
from lightning_interp.isolation.seen import Seen
from lightning_interp.reading.part import Part
from lightning_interp.sites import Call, SiteRecorder, resolve_sites, short_names

__all__ = ["OutputSite", "PredictionSites"]

Sites = str | Sequence[str] | Mapping[str, str]


class _Places(Part):
    """Sites, or what the model's step returns.

    Args:
        sites: The sites; ``None`` for what the step returns.
        name: What that is called.

    """

    attached: tuple[str, ...] = ("_recorder",)

    def __init__(self, sites: Sites | None, name: str) -> None:
        self.sites, self.name = sites, name
        self._found: dict[str, str] = {}
        self._recorder: Any = None
        self.forget()

    def names(self, model: nn.Module | None = None) -> list[str]:
        """What keys call the places; ``<site>`` where that cannot be known without the model."""
        return [self.name] if self.sites is None else short_names(self.sites, model, self._found)

    def attach(self, model: nn.Module) -> None:
        """Attach hooks at the sites."""
        self._found = {} if self.sites is None else resolve_sites(model, self.sites)

    def detach(self) -> None:
        """Take the hooks off."""
        if self._recorder is not None:
            self._recorder.detach()

    def forget(self) -> None:
        """The reading is over, or given up."""
        if self._recorder is not None:
            self._recorder.stop()


class PredictionSites(_Places):
    """Logits and targets of the batches of a validation run.

    Args:
        sites: Where logits are; ``None`` for what the step returns.
        output: Where they are in that.
        name: What that is called.
        how: The other arguments of :class:`~lightning_interp.batches.Predictions`.

    Raises:
        ValueError: If an argument is out of range; when a model or a batch comes, if it lacks what is asked for.

    Example:
        >>> from lightning_interp.distributed import SamplePositions
        >>> model, batch = nn.Sequential(nn.Linear(4, 3)), (torch.zeros(2, 4), torch.tensor([0, 2]))
        >>> sites = PredictionSites({"head": "0"})
        >>> sites.attach(model)
        >>> seen = Seen(batch, 0, 0, SamplePositions([batch]).select(2))
        >>> sites.before_batch(seen)
        >>> output = model(batch[0])
        >>> sites.rows(seen)["head"].targets.tolist()
        [0, 2]
        >>> sites.detach()

    """

    def __init__(
        self, sites: Sites | None, output: Key | None = None, name: str = "output", how: Mapping[str, Any] | None = None
    ) -> None:
        self._output, self._how = output, dict(how or {})
        self._predictions("" if sites is not None else None)  # checks the arguments
        super().__init__(sites, name)

    def _predictions(self, site: str | None) -> Predictions:
        return Predictions(site=site, output=self._output if site is None else None, **self._how)

    def attach(self, model: nn.Module) -> None:
        """Attach hooks at the sites."""
        super().attach(model)
        sources = {short: self._predictions(site) for short, site in self._found.items()}
        self._recorder = PredictionRecorder(model, sources or {self.name: self._predictions(None)})
        self._recorder.attach()

    def forget(self) -> None:
        """The reading is over, or given up."""
        super().forget()
        self._unknown: dict[str, Tensor] = {}
        self._scored: dict[str, Tensor] = {}

    def before_batch(self, seen: Seen) -> None:
        """Read targets, and capture what the sites put out."""
        self._recorder.start(seen.batch)

    def rows(self, seen: Seen) -> dict[str, PredictedRows]:
        """Of a batch that went through the model, the predictions for the samples that are read, by name."""
        found: dict[str, PredictedRows] = self._recorder.take(seen.selection, seen.output)
        for name, rows in found.items():
            self._unknown[name] = self._unknown.get(name, 0) + rows.unknown
            self._scored[name] = self._scored.get(name, 0) + rows.scored
        return found

    def check(self) -> Collective[None]:
        """Targets that are no class, and scores that are no logits, would make every measure one of something else.

        Raises:
            ValueError: If there were any, on all ranks.

        """
        names, none = self.names(), torch.zeros(3, dtype=torch.long)
        mine = [[int(self._unknown.get(name, 0)), *self._scored.get(name, none).tolist()] for name in names]
        merged: Tensor = yield Sum(torch.tensor(mine))
        for name, (number, *scored) in zip(names, merged.tolist(), strict=True):
            if number:
                raise ValueError(
                    f"{number} targets of {name!r} are no class of its logits: check `target`, and `ignore_index` "
                    f"({self._how.get('ignore_index', -100)}) or `mask` for those that do not count. Where there is "
                    "one logit for each, targets are 0 or 1."
                )
            self._recorder.predictions[name].check_scores(name, scored)


class OutputSite(_Places):
    """What one site put out for a batch, or what the model's step returned, as it is.

    Args:
        sites: Names one site; ``None`` for what the step returns.
        name: What that is called.
        call: Of a site that fires several times, which of the calls.

    Raises:
        ValueError: When a model comes, if several of its modules are meant.

    Example:
        >>> OutputSite(None, "spoken").names()
        ['spoken']

    """

    def __init__(self, sites: Sites | None, name: str, call: Call = "only") -> None:
        self._call = call
        super().__init__(sites, name)

    def attach(self, model: nn.Module) -> None:
        """Attach a hook at the site."""
        super().attach(model)
        if len(self._found) > 1:
            raise ValueError(f"`confidence` reads one site, but `sites` are {list(self._found)}.")
        self._recorder = SiteRecorder(model, self._found, call=self._call) if self._found else None
        if self._recorder is not None:
            self._recorder.attach()

    def before_batch(self, seen: Seen) -> None:
        """Capture what the site puts out."""
        if self._recorder is not None:
            self._recorder.start()

    def output(self, seen: Seen) -> tuple[str, Any]:
        """Of a batch that went through the model the name of the place and its output."""
        if self._recorder is None:
            return self.name, seen.output
        self._recorder.stop()
        ((name, outputs),) = self._recorder.take().items()
        return name, outputs[-1]
