"""`treadle find-lr FILE[:function] [key=value ...]`: at which learning rate an experiment's loss falls fastest."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.cli.experiment import add_config_arguments, configured, load_experiment
from treadle.cli.program import at_least
from treadle.log.tables import print_json, print_table

if TYPE_CHECKING:
    from treadle.finder import LearningRates

SHOWN = 12
"""Rows of the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.usage = "treadle find-lr FILE[:function] [key=value ...] [options]"
    parser.add_argument("target", metavar="FILE[:function]", help="a Python file; its function is `experiment` unless told")
    add_config_arguments(parser)
    parser.add_argument("--low", type=float, default=1e-7, help="the first learning rate; default %(default)s")
    parser.add_argument("--high", type=float, default=10.0, help="the last; default %(default)s")
    parser.add_argument("--steps", type=at_least(10), default=100, help="how many steps; default %(default)s")
    parser.add_argument("--optimizer", metavar="NAME", help="of several, the one whose learning rate rises; all unless told")
    parser.add_argument("--plot", metavar="FILE", help="draw the curve: a name that ends in .png, .svg, .html or .pdf")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(quiet=True)


def run(options: argparse.Namespace) -> int:
    """Build the experiment's trainer, look for its learning rate, and say where the loss falls fastest; no run folder is made."""
    from treadle.finder import find_lr

    experiment = load_experiment(options.target)
    trainer = experiment.trainer(configured(experiment, options))
    found = find_lr(trainer, low=options.low, high=options.high, steps=options.steps, optimizer=options.optimizer)
    if options.plot:
        found.plot(Path(options.plot))
    if options.json:
        print_json(asdict(found))
    else:
        _show(found, options.plot)
    return 0


def _show(found: LearningRates, drawn: str | None) -> None:
    last = len(found.lrs) - 1
    places = sorted({round(number * last / (SHOWN - 1)) for number in range(SHOWN)})
    rows = [[f"{found.lrs[place]:.2g}", f"{found.losses[place]:.5g}", f"{found.smoothed[place]:.5g}"] for place in places]
    print_table("the loss on the way up", ["lr", "loss", "smoothed"], rows)
    end = "it exploded at" if found.diverged else "the last was"
    print("the loss never falls" if found.suggestion is None else f"the loss falls fastest at lr={found.suggestion:.2g}; {end} {found.lrs[-1]:.2g}")
    if drawn:
        print(f"drawn in {drawn}")
