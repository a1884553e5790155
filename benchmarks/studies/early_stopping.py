"""When to stop, over seeds: what stopping on the loss or on robustness saves and loses.

Each rule of ``examples/early_stopping.py`` from several seeds, and a table of means with their 95 % intervals.

    python benchmarks/studies/early_stopping.py --seeds 5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_interp.functional import mean_interval

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from early_stopping import RULES, Stop, each_rule


def main(argv: Sequence[str] | None = None) -> list[Stop]:
    """Train with each rule from each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and batches; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each rule, from --seed on; default: %(default)s")
    parser.add_argument("--steps", type=int, default=4000, help="the most optimizer steps; default: %(default)s")
    args = parser.parse_args(argv)
    stops = [stop for seed in range(args.seed, args.seed + args.seeds) for stop in each_rule(seed, args.steps)]
    print(summary(stops))
    return stops


def summary(stops: Sequence[Stop]) -> str:
    """A table in Markdown: mean ± half of the 95 % interval over seeds, and the differences from never stopping."""
    lines = [
        "",
        "| stopped on | steps | in-distribution | out-of-distribution | out-of-distribution, less than never stopped |",
        "|---|---|---|---|---|",
    ]
    never = {stop.seed: stop for stop in stops if stop.rule == "never"}
    for rule in RULES:
        mine = [stop for stop in stops if stop.rule == rule]
        lost = [never[stop.seed].out_of_distribution - stop.out_of_distribution for stop in mine]
        cells = [
            interval([stop.steps for stop in mine], "{:.0f}"),
            interval([stop.in_distribution for stop in mine]),
            interval([stop.out_of_distribution for stop in mine]),
            "" if rule == "never" else interval(lost),
        ]
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(values: Sequence[float], style: str = "{:.3f}") -> str:
    """Mean ± half of its 95 % interval."""
    if len(values) < 2:
        return style.format(values[0])
    return " ± ".join(style.format(part) for part in mean_interval(values))


if __name__ == "__main__":
    main()
