"""What is told of the phases of training."""

from lightning_interp.metrics.measure import FULL, Headline, Measure

__all__ = ["PHASES", "PHASE_BOUNDARY_STEP", "PHASE_CURRENT", "PHASE_FITS", "PHASE_LAG", "PHASE_PROVISIONAL"]


PHASE_CURRENT = Measure(
    "phase/current",
    "phase",
    "The phase of training, confirmed: 1 while the loss falls, 2 once it is on its plateau and others improve.",
    (),
    common=True,
    unit="number of the phase",
    none="0 where the loss is on its plateau and nothing improves.",
    rank=200,
    headline=Headline(0, beside="phase/provisional"),
)
PHASE_PROVISIONAL = Measure(
    "phase/provisional",
    "phase, provisional",
    "The phase that the readings point to, before it is confirmed.",
    (),
    common=True,
    unit="number of the phase",
    none="As the confirmed phase where they point to no other.",
)
PHASE_FITS = Measure(
    "phase/fits",
    "phases as expected",
    "1 while the readings agree with the template of phases, else 0.",
    (),
    common=True,
    level=FULL,
)
PHASE_BOUNDARY_STEP = Measure(
    "phase/boundary_step",
    "beginning of the phase",
    "The step at which the current phase began.",
    (),
    common=True,
    level=FULL,
    unit="steps",
    none="Not logged in the first phase.",
    bookkeeping=True,
)
PHASE_LAG = Measure(
    "phase/lag",
    "lag behind the phase",
    "How much later a curve bends than the phase begins, in decades of steps.",
    ("key",),
    common=True,
    level=FULL,
    unit="decades of steps",
    none="0 for at the same time, below 0 for earlier.",
    bookkeeping=True,
)

PHASES = (PHASE_CURRENT, PHASE_PROVISIONAL, PHASE_FITS, PHASE_BOUNDARY_STEP, PHASE_LAG)
